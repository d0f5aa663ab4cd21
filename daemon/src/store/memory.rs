//! The task database in memory, on a thread of its own.
//!
//! Most of what a record costs is putting it into the database and taking an old one out, which the router need not wait for.
//! Changes are handed over in bundles, questions at once and behind what was recorded before them. Nothing is dropped: when the
//! thread falls behind by more than a bound, the router waits for it.

use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use piparallel_core::limits::{MEMORY_QUEUE_BYTES, MEMORY_QUEUE_ITEMS};
use piparallel_core::task_db::memory::{MemoryDb, MemoryLimits};
use piparallel_core::task_db::{DbOp, DbReply, DbRequest, DbStatus, Ticket};

use super::{DbThread, Item};

/// Changes in a bundle, and their bytes: waking the thread costs about as much as ten changes.
const BUNDLE: usize = 256;
const BUNDLE_BYTES: usize = 1 << 20;

/// A handle on the database; dropping it ends the thread.
#[derive(Debug)]
pub struct MemoryStore {
    inbox: Arc<Inbox>,
    bundle: Bundle,
    _thread: DbThread,
}

#[derive(Debug, Default)]
struct Bundle {
    items: Vec<Item>,
    bytes: usize,
}

/// Between the router and the thread.
#[derive(Debug, Default)]
struct Inbox {
    state: Mutex<State>,
    filled: Condvar,
    emptied: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: Bundle,
    thread_sleeps: bool,
    router_waits: bool,
    closed: bool,
    /// After the last bundle.
    status: DbStatus,
}

impl MemoryStore {
    /// Starts the thread. `reply` is called on it with each answer; it must not block.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(
        limits: MemoryLimits,
        reply: impl Fn(Ticket, DbReply) + Send + 'static,
    ) -> std::io::Result<Self> {
        let inbox = Arc::new(Inbox::default());
        let theirs = Arc::clone(&inbox);
        Ok(Self {
            inbox,
            bundle: Bundle::default(),
            _thread: DbThread::spawn(move || run(&theirs, MemoryDb::new(limits), reply))?,
        })
    }

    /// Notes what happened.
    pub fn record(&mut self, op: DbOp) {
        self.bundle.bytes += op.size();
        self.bundle.items.push(Item::Op(op));
        if self.bundle.items.len() >= BUNDLE || self.bundle.bytes >= BUNDLE_BYTES {
            self.hand_over();
        }
    }

    /// Asks a question, which sees everything that was recorded before; the answer comes through the callback under `ticket`.
    pub fn ask(&mut self, ticket: Ticket, request: DbRequest) {
        self.bundle.items.push(Item::Ask(ticket, request));
        self.hand_over();
    }

    /// As it was a moment ago.
    #[must_use]
    pub fn status(&mut self) -> DbStatus {
        self.hand_over();
        self.inbox.lock().status.clone()
    }

    fn hand_over(&mut self) {
        if self.bundle.items.is_empty() {
            return;
        }
        let mut state = self.inbox.lock();
        while state.waiting.is_full() {
            state.router_waits = true;
            state = wait(&self.inbox.emptied, state);
        }
        state.waiting.bytes += mem::take(&mut self.bundle.bytes);
        state.waiting.items.append(&mut self.bundle.items);
        if mem::take(&mut state.thread_sleeps) {
            self.inbox.filled.notify_one();
        }
    }
}

/// The thread: until the inbox is closed.
fn run(inbox: &Inbox, mut db: MemoryDb, reply: impl Fn(Ticket, DbReply)) {
    // Its memory goes to and fro.
    let mut items = Vec::new();
    while inbox.take(&mut items, &db) {
        for item in items.drain(..) {
            match item {
                Item::Op(op) => db.apply(op),
                Item::Ask(ticket, request) => reply(ticket, db.answer(request)),
            }
        }
    }
}

impl Bundle {
    fn is_full(&self) -> bool {
        self.items.len() >= MEMORY_QUEUE_ITEMS || self.bytes >= MEMORY_QUEUE_BYTES
    }
}

impl Inbox {
    /// Waits for something to do, and takes it. False: there will be nothing more.
    fn take(&self, items: &mut Vec<Item>, db: &MemoryDb) -> bool {
        let mut state = self.lock();
        state.status = db.status();
        while state.waiting.items.is_empty() && !state.closed {
            state.thread_sleeps = true;
            state = wait(&self.filled, state);
        }
        state.waiting.bytes = 0;
        mem::swap(items, &mut state.waiting.items);
        if mem::take(&mut state.router_waits) {
            self.emptied.notify_one();
        }
        !state.closed
    }

    /// A poisoned lock still holds a sound state: nothing here stops halfway.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wait<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condvar.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

impl Drop for MemoryStore {
    fn drop(&mut self) {
        self.inbox.lock().closed = true;
        self.inbox.filled.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use piparallel_core::ids::{EngineUuid, MsgId};

    use super::*;

    const LIMITS: MemoryLimits = MemoryLimits {
        records: 100_000,
        bytes: 1 << 30,
    };
    /// Longer than anything here takes.
    const PATIENCE: Duration = Duration::from_secs(30);

    fn change(number: usize) -> DbOp {
        DbOp::Assign {
            msg_id: MsgId::new(&format!("task-{number}")),
            engine: EngineUuid::new("engine"),
        }
    }

    #[test]
    fn a_question_sees_what_was_recorded_before_it() {
        let (sender, replies) = mpsc::channel();
        let mut store = MemoryStore::start(LIMITS, move |ticket, reply| {
            sender.send((ticket, reply)).unwrap();
        })
        .unwrap();
        for round in 1..=3_u64 {
            (0..BUNDLE / 2).for_each(|number| store.record(change(number)));
            store.ask(Ticket(round), DbRequest::History);
            let (ticket, reply) = replies.recv_timeout(PATIENCE).unwrap();
            assert_eq!(ticket, Ticket(round));
            assert!(matches!(reply, DbReply::Content { .. }), "{reply:?}");
        }
    }

    #[test]
    fn who_fills_it_faster_than_it_works_waits_and_loses_nothing() {
        let (sender, replies) = mpsc::channel();
        let mut store = MemoryStore::start(LIMITS, move |ticket, _| {
            sender.send(ticket).unwrap();
        })
        .unwrap();
        let questions = 3 * MEMORY_QUEUE_ITEMS as u64;
        for number in 0..questions {
            store.ask(Ticket(number), DbRequest::History);
            store.record(change(0));
        }
        for number in 0..questions {
            assert_eq!(replies.recv_timeout(PATIENCE), Ok(Ticket(number)));
        }
    }

    #[test]
    fn it_ends_with_its_handle_also_with_work_left() {
        let mut store = MemoryStore::start(LIMITS, |_, _| {}).unwrap();
        (0..4 * BUNDLE).for_each(|number| store.record(change(number)));
        drop(store);
    }
}
