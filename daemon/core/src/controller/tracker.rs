//! Which requests are under way, and for whom.

use foldhash::HashMap;

use crate::ids::{EngineId, MsgId};
pub(crate) use crate::task_db::record::Queue;

/// A request without its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pending {
    /// Where it is; `None` while a load-balanced task waits for an engine.
    pub(crate) engine: Option<EngineId>,
    pub(crate) queue: Queue,
}

#[derive(Debug, Default)]
pub(crate) struct Tracker {
    pending: HashMap<MsgId, (u64, Pending)>,
    sequence: u64,
    /// Replies so far, by outcome.
    pub(crate) done: u64,
    pub(crate) failed: u64,
}

impl Tracker {
    /// Notes a new request; returns its place in the order of all requests.
    pub(crate) fn submit(&mut self, msg_id: &MsgId, pending: Pending) -> u64 {
        self.sequence += 1;
        self.pending
            .insert(msg_id.clone(), (self.sequence, pending));
        self.sequence
    }

    pub(crate) fn assign(&mut self, msg_id: &str, engine: Option<EngineId>) {
        if let Some((_, pending)) = self.pending.get_mut(msg_id) {
            pending.engine = engine;
        }
    }

    /// Notes a reply, if it is that engine's to give, through that queue. Returns the request's place
    /// in the order, and its id.
    pub(crate) fn complete(&mut self, msg_id: &str, whose: Pending) -> Option<(u64, MsgId)> {
        if self.pending.get(msg_id)?.1 != whose {
            return None;
        }
        let (msg_id, (sequence, _)) = self.pending.remove_entry(msg_id)?;
        Some((sequence, msg_id))
    }

    /// Notes that a request has ended, whoever had it. Returns its id if it was under way.
    pub(crate) fn forget(&mut self, msg_id: &str) -> Option<MsgId> {
        self.pending.remove_entry(msg_id).map(|(msg_id, _)| msg_id)
    }

    pub(crate) fn is_pending(&self, msg_id: &str) -> bool {
        self.pending.contains_key(msg_id)
    }

    /// Load-balanced tasks that no engine has, oldest first.
    pub(crate) fn unassigned(&self) -> Vec<&MsgId> {
        let mut waiting: Vec<(u64, &MsgId)> = self
            .entries()
            .filter(|(_, _, pending)| pending.queue == Queue::Task && pending.engine.is_none())
            .map(|(msg_id, sequence, _)| (sequence, msg_id))
            .collect();
        waiting.sort_unstable();
        waiting.into_iter().map(|(_, msg_id)| msg_id).collect()
    }

    /// Every request with its place in the order, itself in no order.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&MsgId, u64, &Pending)> {
        #[expect(clippy::disallowed_methods, reason = "callers sort, or only count")]
        let entries = self.pending.iter();
        entries.map(|(msg_id, (sequence, pending))| (msg_id, *sequence, pending))
    }

    pub(crate) fn len(&self) -> usize {
        self.pending.len()
    }

    pub(crate) fn count(&mut self, ok: bool) {
        if ok { self.done += 1 } else { self.failed += 1 }
    }
}
