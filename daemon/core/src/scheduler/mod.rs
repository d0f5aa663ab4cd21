//! The task scheduler: gives each load-balanced task to an engine, at the right time and place.
//!
//! A machine without sockets or clock. It is told of tasks, replies and engines, and says which
//! task goes to which engine (`Command::Assign`) and which one ends without having run to its end
//! (`Command::Fail`). The payload `T` is what the caller needs to forward and to answer a task;
//! it is kept until the task ends, because a task may be tried again.
//!
//! The states of a task are described in `job`, the schemes in `scheme`, the queues in
//! `waiting`. The rules, beyond the schemes:
//!
//! * A task runs where it may and there is room. Where there is none it waits; when an engine gets
//!   room, the oldest waiting task that may run there gets it. Nobody else is held up by a task
//!   that can't run yet.
//! * A failed task with retries left runs again, on engines that have not failed it; only if there
//!   is no other it begins a new round (without a timeout or with targets; otherwise it waits for
//!   a new engine, or its timeout).
//! * An engine that refuses a task is not asked again.
//! * A task ends exactly once: by a final reply, or by one `Fail`.
//!
//! The cost of an event does not depend on the number of waiting tasks, and on the number of
//! engines as a search tree does. The exceptions: an engine that leaves (all queues are looked at,
//! not all tasks) and tasks with long lists of engines. `model` holds the same rules as a plain
//! list, and a test that compares the two.

/// Counts that tell when a dependency is met.
mod dependency;
/// The pool, and what each engine runs.
mod engines;
/// Why a task ends without a reply.
mod failure;
/// Outcomes of tasks that ended.
mod finished;
/// The hash of the tables.
mod hash;
/// What must always hold, checked by tests and simulations.
mod invariants;
/// Tasks that have not ended.
mod job;
/// One queue of waiting tasks.
mod line;
/// The same rules as a plain list.
#[cfg(test)]
mod model;
/// Where a task may run.
mod placement;
/// The routing part of a request.
mod request;
/// The choice among engines.
mod scheme;
/// What every event is made of.
mod steps;
#[cfg(test)]
mod tests;
/// Tasks that wait for room.
mod waiting;

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, VecDeque};
use std::time::Duration;

use self::engines::Engines;
pub use self::failure::{Failure, Impossible, Invalid};
use self::finished::{Ended, Finished};
use self::job::{Dependent, JobKey, Jobs, Seq, State};
pub use self::request::{Dependency, RequestError, Requirements, Text};
pub use self::scheme::Scheme;
use self::waiting::Waiting;
use crate::clock::Now;
use crate::ids::{EngineUuid, MsgId};
use crate::limits;

/// How a scheduler works; fixed at its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The choice among engines that have room.
    pub scheme: Scheme,
    /// Tasks that one engine may hold at a time; 0: no limit. Without effect with `Scheme::Pure`.
    pub hwm: u32,
    /// For the random schemes and for hashing: from the system in a daemon, fixed in a simulation.
    pub seed: u64,
    /// Ended tasks whose outcome later tasks may depend on.
    pub finished_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            scheme: Scheme::default(),
            hwm: 1,
            seed: 0,
            finished_max: limits::FINISHED_TASKS_MAX,
        }
    }
}

/// A task as a client submits it.
#[derive(Clone, Debug)]
pub struct TaskRequest<'a, T> {
    /// `header.msg_id` of the request.
    pub msg_id: MsgId,
    /// What its metadata ask for.
    pub requirements: Requirements<'a>,
    /// What the caller needs to forward and to answer it.
    pub payload: T,
}

/// What an engine's reply says about a task: `dependencies_met` and `status` of its metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The engine dropped it unrun; counts as a failure.
    Aborted,
    /// The engine lacks what the task needs (`dependencies_met` is false).
    DependenciesUnmet,
    /// It raised an exception.
    Error,
    /// It succeeded.
    Ok,
}

/// What to do with an engine's reply.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Reply<T> {
    /// It is final: relay it to the client that the payload names.
    Deliver(T),
    /// It is not shown to the client: the task is tried again, or a `Fail` follows.
    Retried,
    /// That engine does not run that task (any more): drop it.
    Unknown,
}

/// What the caller must do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command<T> {
    /// Send the task to the engine.
    Assign {
        /// The task.
        msg_id: MsgId,
        /// Where to.
        engine: EngineUuid,
        /// As submitted.
        payload: T,
    },
    /// Answer the task with an error.
    Fail {
        /// The task.
        msg_id: MsgId,
        /// As submitted.
        payload: T,
        /// What to tell the client.
        reason: Failure,
    },
}

/// A message id came a second time while the first task had not ended; the copy is dropped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("task {0} has not ended yet; a second request with its msg_id was dropped")]
pub struct DuplicateTask(pub MsgId);

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Tasks taken in; those that have not ended are `submitted - done - failed`.
    pub submitted: u64,
    /// Tasks that succeeded.
    pub done: u64,
    /// Tasks that failed in the end.
    pub failed: u64,
    /// Times a task was tried again.
    pub retried: u64,
}

/// The machine; see the module.
pub struct TaskScheduler<T> {
    config: Config,
    jobs: Jobs<T>,
    engines: Engines,
    waiting: Waiting,
    running: usize,
    finished: Finished,
    deadlines: BTreeSet<(Duration, Seq, JobKey)>,
    /// Pairs of a task and one that it waits for.
    edges: usize,
    totals: Totals,
    commands: VecDeque<Command<T>>,
    /// Tasks that ended in this event and whose dependents do not know yet.
    ended: VecDeque<EndedTask>,
    /// Tasks that became ready in this event, the oldest on top; some twice, some gone since.
    ready: BinaryHeap<Reverse<(Seq, JobKey)>>,
}

struct EndedTask {
    msg_id: MsgId,
    ended: Ended,
    dependents: BTreeSet<Dependent>,
}

impl<T: Clone> TaskScheduler<T> {
    /// A scheduler without engines.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let hwm = match config.scheme {
            Scheme::Pure => 0,
            _ => config.hwm,
        };
        Self {
            jobs: Jobs::new(config.seed),
            engines: Engines::new(config.scheme, hwm, config.seed),
            waiting: Waiting::new(config.seed),
            running: 0,
            finished: Finished::new(config.finished_max.max(1), config.seed),
            deadlines: BTreeSet::new(),
            edges: 0,
            totals: Totals::default(),
            commands: VecDeque::new(),
            ended: VecDeque::new(),
            ready: BinaryHeap::new(),
            config,
        }
    }

    /// Takes in a task: it is assigned, queued or failed.
    ///
    /// # Errors
    /// A task of this id has not ended yet. The request changes nothing.
    pub fn handle_task(&mut self, now: Now, task: TaskRequest<'_, T>) -> Result<(), DuplicateTask> {
        let TaskRequest {
            msg_id,
            requirements,
            payload,
        } = task;
        if self.jobs.key(msg_id.as_str()).is_some() {
            return Err(DuplicateTask(msg_id));
        }
        let (retries, demands) = match self.config.scheme {
            Scheme::Pure => (0, Ok(None)),
            _ => (requirements.retries, self.demands(&msg_id, &requirements)),
        };
        match demands {
            Ok(_) if self.jobs.len() >= limits::TASKS_MAX => {
                self.reject(msg_id, payload, Failure::QueueFull);
            }
            Ok(demands) => {
                self.totals.submitted += 1;
                let key = self.jobs.insert(msg_id, payload, retries, demands);
                self.link(key);
                self.judge(now, key, None);
                self.settle(now, None);
            }
            Err(reason) => self.reject(msg_id, payload, reason),
        }
        Ok(())
    }

    /// Fails a task whose metadata could not be read, so that tasks after it learn of it too.
    ///
    /// # Errors
    /// A task of this id has not ended yet. The request changes nothing.
    pub fn handle_unreadable_task(
        &mut self,
        msg_id: MsgId,
        payload: T,
        error: RequestError,
    ) -> Result<(), DuplicateTask> {
        if self.jobs.key(msg_id.as_str()).is_some() {
            return Err(DuplicateTask(msg_id));
        }
        self.reject(msg_id, payload, Failure::InvalidRequest(error));
        Ok(())
    }

    /// An engine entered the pool. One that is in it already stays as it is.
    pub fn handle_engine_added(&mut self, now: Now, uuid: EngineUuid) {
        if let Some(key) = self.engines.add(uuid) {
            self.settle(now, Some(key));
        }
    }

    /// An engine entered the pool, but takes no task yet: see [`Self::handle_engine_congested`].
    pub fn handle_congested_engine_added(&mut self, uuid: EngineUuid) {
        if let Some(key) = self.engines.add(uuid) {
            self.engines.set_congested(key, true);
        }
    }

    /// An engine left the pool: its tasks are tried again or fail. Hand in all its replies before.
    pub fn handle_engine_removed(&mut self, now: Now, uuid: &EngineUuid) {
        let Some((engine, mut lost)) = self.engines.remove(uuid) else {
            return;
        };
        self.running -= lost.len();
        lost.sort_unstable_by_key(|key| self.jobs.get(*key).map(|job| job.seq));
        for key in lost {
            let Some(job) = self.jobs.get_mut(key) else {
                continue;
            };
            job.state = State::Blocked;
            if job.retries > 0 {
                job.retries -= 1;
                self.totals.retried += 1;
                self.judge(now, key, None);
            } else {
                self.fail(key, Failure::EngineDied(uuid.clone()));
            }
        }
        for (_, key) in self.waiting.engine_left(engine, self.engines.len()) {
            self.judge(now, key, None);
        }
        self.settle(now, None);
    }

    /// An engine is not taking what is sent to it, or is again: while congested it gets no task.
    pub fn handle_engine_congested(&mut self, now: Now, uuid: &EngineUuid, congested: bool) {
        if let Some(key) = self.engines.key(uuid.as_str()) {
            self.engines.set_congested(key, congested);
            self.settle(now, Some(key));
        }
    }

    /// An engine replied to a task; `msg_id` is that of the reply's parent.
    pub fn handle_reply(
        &mut self,
        now: Now,
        uuid: &EngineUuid,
        msg_id: &str,
        outcome: Outcome,
    ) -> Reply<T> {
        let Some((key, engine, position)) = self.run(uuid, msg_id) else {
            return Reply::Unknown;
        };
        self.running -= 1;
        if let Some(moved) = self.engines.finish(engine, position)
            && let Some(job) = self.jobs.get_mut(moved)
        {
            job.state = State::Running { engine, position };
        }
        let reply = if self.is_tried_again(key, engine, outcome) {
            self.totals.retried += 1;
            self.judge(now, key, None);
            Reply::Retried
        } else {
            let success = outcome == Outcome::Ok;
            if success {
                self.totals.done += 1;
            } else {
                self.totals.failed += 1;
            }
            let engine = Some(engine);
            match self.end(key, Ended { success, engine }) {
                Some((_, payload)) => Reply::Deliver(payload),
                None => Reply::Unknown,
            }
        };
        self.settle(now, Some(engine));
        reply
    }

    /// Times out tasks that have waited too long.
    pub fn handle_timeout(&mut self, now: Now) {
        while let Some((deadline, _, key)) = self.deadlines.first().copied()
            && deadline <= now.monotonic
        {
            let demands = self.jobs.get(key).and_then(|job| job.demands.as_ref());
            let timeout = demands.and_then(|demands| demands.timeout);
            self.fail(key, Failure::TaskTimeout(timeout.unwrap_or_default()));
        }
        self.settle(now, None);
    }

    /// When `handle_timeout` wants to be called, on the monotonic clock.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Duration> {
        self.deadlines.first().map(|entry| entry.0)
    }

    /// What to do next, in order; drain it after every event.
    pub fn poll_command(&mut self) -> Option<Command<T>> {
        self.commands.pop_front()
    }

    /// Tasks that have not ended and are not running.
    #[must_use]
    pub fn waiting_count(&self) -> usize {
        self.jobs.len() - self.running
    }

    /// Tasks that engines have.
    #[must_use]
    pub fn running_count(&self) -> usize {
        self.running
    }

    /// The tasks that an engine has, in no particular order; none if it is not in the pool.
    pub fn running_on(&self, uuid: &EngineUuid) -> impl Iterator<Item = &MsgId> {
        let engine = self.engines.key(uuid.as_str());
        let engine = engine.and_then(|key| self.engines.get(key));
        let keys = engine.into_iter().flat_map(|engine| &engine.running);
        keys.filter_map(|key| Some(&self.jobs.get(*key)?.msg_id))
    }

    /// How many tasks an engine has; `None` if it is not in the pool.
    #[must_use]
    pub fn load(&self, uuid: &EngineUuid) -> Option<usize> {
        let key = self.engines.key(uuid.as_str())?;
        Some(self.engines.get(key)?.running.len())
    }

    /// Counts since the start.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.totals
    }
}
