//! Tasks that have not ended: `Job` is the scheduler's record of one.
//!
//! | state | means | left when |
//! | --- | --- | --- |
//! | blocked | tasks it depends on have not ended | the last needed one ends, it times out |
//! | ready | may run; only within the handling of one event | placed or queued |
//! | waiting | may run, but no engine it may run on has room | an engine has room, it times out |
//! | running | an engine has it | it replies, it leaves the pool |
//!
//! A job that is to be tried again goes from running to blocked or ready.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::dependency::{Followed, Progress, Role};
use super::engines::EngineKey;
use super::hash::Seeded;
use super::waiting::{Place, QueueKey};
use crate::ids::MsgId;

/// Index of a job among those that have not ended; used again afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct JobKey(u32);

/// Order of submission: unique, never used again, kept over retries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Seq(pub(super) u64);

impl Seq {
    pub(super) const FIRST: Self = Self(0);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Blocked,
    Ready,
    Waiting(QueueKey),
    Running { engine: EngineKey, position: u32 },
}

/// A task that waits for another one, and what for.
pub(super) type Dependent = (Seq, JobKey, Role);

pub(super) struct Job<T> {
    pub(super) msg_id: MsgId,
    pub(super) seq: Seq,
    pub(super) payload: T,
    pub(super) state: State,
    pub(super) retries: u32,
    pub(super) dependents: BTreeSet<Dependent>,
    /// Most tasks ask for nothing in particular, and are kept small.
    pub(super) demands: Option<Box<Demands>>,
}

/// What a task asks for beyond an engine, and what has become of it.
#[derive(Debug, Default)]
pub(super) struct Demands {
    pub(super) after: Progress,
    pub(super) follow: Followed,
    /// Tasks it was waiting for when it was submitted.
    pub(super) waits_for: Vec<(JobKey, Role)>,
    /// The only engines it may run on, in ascending order.
    pub(super) targets: Option<Arc<[EngineKey]>>,
    pub(super) timeout: Option<Duration>,
    /// When it times out, while it is queued.
    pub(super) deadline: Option<Duration>,
    /// Engines that refused it (`UnmetDependency`): never asked again.
    pub(super) refused: Vec<EngineKey>,
    /// Where it may run, from when it is ready.
    pub(super) place: Place,
    /// Engines on which it failed, in this order: avoided as long as there is another.
    pub(super) failed: Vec<EngineKey>,
}

pub(super) struct Jobs<T> {
    slots: Vec<Option<Job<T>>>,
    free: Vec<JobKey>,
    by_id: HashMap<MsgId, JobKey, Seeded>,
    next_seq: u64,
}

impl<T> Jobs<T> {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            by_id: HashMap::with_hasher(Seeded::new(seed, 0)),
            next_seq: 1,
        }
    }

    pub(super) fn insert(
        &mut self,
        msg_id: MsgId,
        payload: T,
        retries: u32,
        demands: Option<Box<Demands>>,
    ) -> JobKey {
        let key = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            JobKey(self.slots.len() as u32 - 1)
        });
        self.by_id.insert(msg_id.clone(), key);
        self.slots[key.0 as usize] = Some(Job {
            msg_id,
            seq: Seq(self.next_seq),
            payload,
            state: State::Blocked,
            retries,
            dependents: BTreeSet::new(),
            demands,
        });
        self.next_seq += 1;
        key
    }

    pub(super) fn remove(&mut self, key: JobKey) -> Option<Job<T>> {
        let job = self.slots.get_mut(key.0 as usize)?.take()?;
        self.by_id.remove(&job.msg_id);
        self.free.push(key);
        if self.by_id.is_empty() && self.slots.len() > KEPT_SLOTS {
            // What a large batch needed is given back once it is done.
            self.slots = Vec::new();
            self.free = Vec::new();
            self.by_id.shrink_to_fit();
        }
        Some(job)
    }

    pub(super) fn key(&self, msg_id: &str) -> Option<JobKey> {
        self.by_id.get(msg_id).copied()
    }

    pub(super) fn get(&self, key: JobKey) -> Option<&Job<T>> {
        self.slots.get(key.0 as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, key: JobKey) -> Option<&mut Job<T>> {
        self.slots.get_mut(key.0 as usize)?.as_mut()
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (JobKey, &Job<T>)> {
        self.slots
            .iter()
            .enumerate()
            .filter_map(|(index, job)| Some((JobKey(index as u32), job.as_ref()?)))
    }
}

/// Room for so many jobs is kept when there are none.
const KEPT_SLOTS: usize = 4096;
