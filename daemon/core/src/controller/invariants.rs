//! What must hold after every event: the parts of the controller agree on who is there, and on what is
//! under way. For tests, simulations and fuzzing.

use std::collections::BTreeMap;

use super::Controller;
use super::engines::State;
use super::tracker::Queue;
use crate::ids::{EngineId, MsgId};
use crate::limits::{WAITING_BYTES_MAX, WAITING_QUERIES_MAX};

impl Controller {
    /// Checks the whole state, at a cost that grows with all that is in it.
    ///
    /// # Panics
    /// The controller has a bug.
    pub fn check_invariants(&self) {
        self.peers.check_invariants();
        self.engines.check_invariants();
        self.scheduler.check_invariants();
        self.check_engines();
        self.check_tasks();
        self.check_direct_requests();
        assert!(self.waiting_bytes <= WAITING_BYTES_MAX);
        assert!(self.questions.waiting.len() <= WAITING_QUERIES_MAX);
        assert!(self.dask.len() <= WAITING_QUERIES_MAX);
    }

    /// Those that clients know have a heart, and no one else has; tasks go to none but those.
    fn check_engines(&self) {
        let mut hearts = 0;
        for engine in self.engines.iter() {
            let is_known = !matches!(engine.state, State::Pending { .. });
            hearts += usize::from(is_known);
            let id = engine.id;
            assert_eq!(
                self.hearts.state(&engine.uuid).is_some(),
                is_known,
                "heart of {id}"
            );
            let is_offered = self.scheduler.load(&engine.uuid).is_some();
            assert_eq!(is_known, is_offered, "the scheduler and engine {id}");
        }
        assert_eq!(self.hearts.len(), hearts);
    }

    /// The tracker and the scheduler know the same tasks, at the same engines.
    fn check_tasks(&self) {
        let running: BTreeMap<&MsgId, EngineId> = self
            .engines
            .iter()
            .flat_map(|e| {
                self.scheduler
                    .running_on(&e.uuid)
                    .map(|msg_id| (msg_id, e.id))
            })
            .collect();
        assert_eq!(running.len(), self.scheduler.running_count());
        let tasks = self
            .tracker
            .entries()
            .filter(|(_, _, p)| p.queue == Queue::Task);
        let (tracked, waiting): (Vec<_>, Vec<_>) = tasks.partition(|(_, _, p)| p.engine.is_some());
        assert_eq!(waiting.len(), self.scheduler.waiting_count());
        assert_eq!(tracked.len(), running.len());
        for (msg_id, _, pending) in tracked {
            assert_eq!(running.get(msg_id), pending.engine.as_ref(), "{msg_id}");
        }
        if running.is_empty() && waiting.is_empty() {
            assert_eq!(self.waiting_bytes, 0);
        }
    }

    /// What is sent to an engine directly is in its queue, and in no other place; what a coalescing
    /// broadcast waits for is under way.
    fn check_direct_requests(&self) {
        let mut copies = self.broadcasts.check_invariants();
        let mut queued = 0;
        let mut gatherings = 0;
        for (msg_id, sequence, pending) in self.tracker.entries() {
            match (pending.queue, pending.engine) {
                (Queue::Task, _) => {}
                (Queue::Broadcast, None) => {
                    gatherings += 1;
                    assert!(self.broadcasts.is_gathering(msg_id), "{msg_id}");
                }
                (Queue::Mux, None) => panic!("{msg_id} has no engine"),
                (Queue::Broadcast | Queue::Mux, Some(id)) => {
                    queued += 1;
                    let engine = self
                        .engines
                        .get(id)
                        .unwrap_or_else(|| panic!("no engine {id}"));
                    assert_eq!(engine.queue.get(&sequence), Some(msg_id), "queue of {id}");
                    if let Some(uuid) = copies.remove(msg_id) {
                        assert_eq!(uuid, engine.uuid);
                    }
                }
            }
        }
        assert!(copies.is_empty(), "nobody will answer {copies:?}");
        assert_eq!(gatherings, self.broadcasts.len());
        let queues: usize = self.engines.iter().map(|engine| engine.queue.len()).sum();
        assert_eq!(
            queued, queues,
            "requests that engines have, and that are tracked"
        );
    }
}
