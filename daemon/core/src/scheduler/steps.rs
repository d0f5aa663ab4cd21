//! What every event is made of: tasks are judged, placed, queued and ended, and the end of one
//! reaches those that wait for it.

use std::cmp::Reverse;

use super::dependency::{Followed, Progress, Role};
use super::engines::EngineKey;
use super::failure::{Failure, Impossible, Invalid};
use super::finished::Ended;
use super::job::{Demands, Dependent, JobKey, State};
use super::placement::Verdict;
use super::request::{Dependency, Requirements};
use super::waiting::Place;
use super::{Command, EndedTask, Outcome, Scheme, TaskScheduler};
use crate::clock::Now;
use crate::ids::{EngineUuid, MsgId};
use crate::limits;

impl<T: Clone> TaskScheduler<T> {
    /// What a new task asks for, in terms of what has happened so far.
    pub(super) fn demands(
        &self,
        task: &MsgId,
        requirements: &Requirements<'_>,
    ) -> Result<Option<Box<Demands>>, Failure> {
        if requirements.is_plain() {
            return Ok(None);
        }
        let mut demands = Demands {
            timeout: requirements.timeout,
            ..Demands::default()
        };
        let (after, follow) = (&requirements.after, &requirements.follow);
        let waits_for = &mut demands.waits_for;
        let resolved = self.resolve(task, after, Role::After, waits_for)?;
        demands.after = Progress::new(after, resolved.total);
        for (id, ended) in resolved.ended {
            demands.after.count(ended.success);
            if demands.after.is_unreachable() {
                return Err(ended_otherwise(id));
            }
        }
        let resolved = self.resolve(task, follow, Role::Follow, waits_for)?;
        demands.follow = Followed::new(Progress::new(follow, resolved.total));
        for (id, ended) in resolved.ended {
            demands.follow.count(ended);
            if demands.follow.progress.is_unreachable() {
                return Err(ended_otherwise(id));
            }
        }
        if self.edges + demands.waits_for.len() > limits::TASK_DEPENDENCIES_MAX {
            return Err(Failure::QueueFull);
        }
        if !requirements.targets.is_empty() {
            let targets = requirements.targets.iter();
            let mut keys: Vec<EngineKey> = targets
                .filter_map(|uuid| self.engines.key(&uuid.0))
                .collect();
            keys.sort_unstable();
            keys.dedup();
            demands.targets = Some(keys.into());
        }
        Ok(Some(Box::new(demands)))
    }

    /// Looks up the tasks of a dependency; those that have not ended are appended to `waits_for`.
    fn resolve<'a>(
        &self,
        task: &MsgId,
        dependency: &'a Dependency<'_>,
        role: Role,
        waits_for: &mut Vec<(JobKey, Role)>,
    ) -> Result<Resolved<'a>, Failure> {
        let mut ids: Vec<&str> = dependency.ids.iter().map(|id| &*id.0).collect();
        ids.sort_unstable();
        ids.dedup();
        let mut ended = Vec::new();
        for id in &ids {
            if *id == task.as_str() {
                return Err(Failure::InvalidDependency(Invalid::Itself));
            } else if let Some(key) = self.jobs.key(id) {
                waits_for.push((key, role));
            } else if let Some(end) = self.finished.get(id) {
                ended.push((*id, end));
            } else {
                return Err(Failure::InvalidDependency(Invalid::Unknown {
                    id: MsgId::new(id),
                    forgotten: self.finished.is_full(),
                }));
            }
        }
        let total = ids.len();
        Ok(Resolved { total, ended })
    }

    /// Tells the tasks that a new task waits for about it.
    pub(super) fn link(&mut self, key: JobKey) {
        let Some(job) = self.jobs.get_mut(key) else {
            return;
        };
        let seq = job.seq;
        let Some(demands) = &mut job.demands else {
            return;
        };
        let waits_for = std::mem::take(&mut demands.waits_for);
        self.edges += waits_for.len();
        for (other, role) in &waits_for {
            if let Some(other) = self.jobs.get_mut(*other) {
                other.dependents.insert((seq, key, *role));
            }
        }
        let demands = self.jobs.get_mut(key).and_then(|job| job.demands.as_mut());
        if let Some(demands) = demands {
            demands.waits_for = waits_for;
        }
    }

    /// Ends a task before it was taken in.
    pub(super) fn reject(&mut self, msg_id: MsgId, payload: T, reason: Failure) {
        self.totals.submitted += 1;
        self.totals.failed += 1;
        let (success, engine) = (false, None);
        self.finished
            .insert(msg_id.as_str(), Ended { success, engine });
        self.commands.push_back(Command::Fail {
            msg_id,
            payload,
            reason,
        });
    }

    /// Decides anew about a task that is not running; `settle` carries it out.
    pub(super) fn judge(&mut self, now: Now, key: JobKey, cause: Option<&MsgId>) {
        self.take_from_queue(key);
        let Some(job) = self.jobs.get_mut(key) else {
            return;
        };
        let verdict = match &mut job.demands {
            None => Verdict::Ready(Place::Anywhere),
            Some(demands) => demands.judge(&self.engines, cause),
        };
        match verdict {
            Verdict::Blocked => {
                job.state = State::Blocked;
                self.start_timeout(now, key);
            }
            Verdict::Ready(place) => {
                job.state = State::Ready;
                if let Some(demands) = &mut job.demands {
                    demands.place = place;
                }
                self.ready.push(Reverse((job.seq, key)));
            }
            Verdict::Impossible(why) => self.fail(key, Failure::ImpossibleDependency(why)),
        }
    }

    /// Brings an event to its end: the news of ended tasks reaches their dependents, and whoever
    /// may now run does. `freed` is the engine that may have got room.
    ///
    /// Before the event no waiting task could run on an engine with room; so afterwards only those
    /// that became ready, and those that the freed engine may run, can have a chance.
    pub(super) fn settle(&mut self, now: Now, freed: Option<EngineKey>) {
        while let Some(task) = self.ended.pop_front() {
            for dependent in &task.dependents {
                self.tell(now, *dependent, &task);
            }
        }
        loop {
            let ready = self.ready.peek().map(|Reverse(head)| *head);
            let waiting = freed
                .filter(|engine| self.engines.is_available(*engine))
                .and_then(|engine| Some((engine, self.waiting.oldest_for(engine)?)));
            match (ready, waiting) {
                (None, None) => break,
                (Some(head), Some((_, waiting))) if head < waiting => self.place_oldest(now),
                (Some(_), None) => self.place_oldest(now),
                (_, Some((engine, (_, key)))) => {
                    self.take_from_queue(key);
                    self.start(key, engine);
                }
            }
        }
    }

    /// Tells a task that one of those it depends on has ended.
    fn tell(&mut self, now: Now, (seq, key, role): Dependent, task: &EndedTask) {
        // The task itself may have ended meanwhile, and its key be in use again.
        let Some(job) = self.jobs.get_mut(key).filter(|job| job.seq == seq) else {
            return;
        };
        let Some(demands) = &mut job.demands else {
            return;
        };
        let moved = match role {
            Role::After => {
                demands.after.count(task.ended.success);
                false
            }
            Role::Follow => demands.follow.count(task.ended),
        };
        match job.state {
            State::Blocked => self.judge(now, key, Some(&task.msg_id)),
            State::Ready | State::Waiting(_) if moved => self.judge(now, key, Some(&task.msg_id)),
            State::Ready | State::Waiting(_) | State::Running { .. } => {}
        }
    }

    /// Starts or queues the oldest of the tasks that became ready.
    fn place_oldest(&mut self, now: Now) {
        let Some(Reverse((seq, key))) = self.ready.pop() else {
            return;
        };
        let Some(job) = self.jobs.get(key) else {
            return;
        };
        if job.seq != seq || job.state != State::Ready {
            return;
        }
        let place = job.demands.as_ref().map(|demands| demands.place.clone());
        let place = place.unwrap_or_default();
        // Where others wait there is no room: see the invariant at `settle`.
        let engine = match self.waiting.is_contended(&place) {
            true => None,
            false => self.engines.choose(&place),
        };
        if let Some(engine) = engine {
            return self.start(key, engine);
        }
        if let Some(job) = self.jobs.get_mut(key) {
            let queue = self.waiting.push(seq, key, place, &self.engines);
            job.state = State::Waiting(queue);
            self.start_timeout(now, key);
        }
    }

    fn start(&mut self, key: JobKey, engine: EngineKey) {
        self.stop_timeout(key);
        let position = self.engines.start(engine, key);
        let uuid = self.engines.get(engine).map(|engine| engine.uuid.clone());
        if let (Some(job), Some(uuid)) = (self.jobs.get_mut(key), uuid) {
            self.running += 1;
            job.state = State::Running { engine, position };
            self.commands.push_back(Command::Assign {
                msg_id: job.msg_id.clone(),
                engine: uuid,
                payload: job.payload.clone(),
            });
        }
    }

    fn take_from_queue(&mut self, key: JobKey) {
        let Some(job) = self.jobs.get_mut(key) else {
            return;
        };
        if let State::Waiting(queue) = job.state {
            self.waiting.remove(job.seq, key, queue);
            job.state = State::Blocked;
        }
    }

    fn start_timeout(&mut self, now: Now, key: JobKey) {
        if let Some(job) = self.jobs.get_mut(key)
            && let Some(demands) = &mut job.demands
            && demands.deadline.is_none()
            && let Some(timeout) = demands.timeout
        {
            let deadline = now.monotonic.saturating_add(timeout);
            demands.deadline = Some(deadline);
            self.deadlines.insert((deadline, job.seq, key));
        }
    }

    fn stop_timeout(&mut self, key: JobKey) {
        if let Some(job) = self.jobs.get_mut(key)
            && let Some(demands) = &mut job.demands
            && let Some(deadline) = demands.deadline.take()
        {
            self.deadlines.remove(&(deadline, job.seq, key));
        }
    }

    /// Where this engine runs this task, if it does.
    pub(super) fn run(&self, uuid: &EngineUuid, msg_id: &str) -> Option<(JobKey, EngineKey, u32)> {
        let key = self.jobs.key(msg_id)?;
        match self.jobs.get(key)?.state {
            State::Running { engine, position } => self
                .engines
                .get(engine)
                .filter(|engine| engine.uuid == *uuid)
                .map(|_| (key, engine, position)),
            State::Blocked | State::Ready | State::Waiting(_) => None,
        }
    }

    /// Notes what the engine did to the task, and whether that leads to another try.
    pub(super) fn is_tried_again(
        &mut self,
        key: JobKey,
        engine: EngineKey,
        outcome: Outcome,
    ) -> bool {
        let Some(job) = self.jobs.get_mut(key) else {
            return false;
        };
        match outcome {
            Outcome::Ok => return false,
            Outcome::DependenciesUnmet if self.config.scheme != Scheme::Pure => {
                let demands = job.demands.get_or_insert_default();
                demands.refused.push(engine);
            }
            Outcome::Aborted | Outcome::DependenciesUnmet | Outcome::Error => {
                if job.retries == 0 {
                    return false;
                }
                job.retries -= 1;
                let demands = job.demands.get_or_insert_default();
                demands.failed.retain(|failed| *failed != engine);
                demands.failed.push(engine);
            }
        }
        job.state = State::Blocked;
        true
    }

    pub(super) fn fail(&mut self, key: JobKey, reason: Failure) {
        let (success, engine) = (false, None);
        if let Some((msg_id, payload)) = self.end(key, Ended { success, engine }) {
            self.totals.failed += 1;
            self.commands.push_back(Command::Fail {
                msg_id,
                payload,
                reason,
            });
        }
    }

    /// Forgets all of a task but its outcome, of which `settle` tells its dependents.
    pub(super) fn end(&mut self, key: JobKey, ended: Ended) -> Option<(MsgId, T)> {
        self.take_from_queue(key);
        self.stop_timeout(key);
        let job = self.jobs.remove(key)?;
        if let Some(demands) = job.demands {
            self.edges -= demands.waits_for.len();
            for (other, role) in demands.waits_for {
                if let Some(other) = self.jobs.get_mut(other) {
                    other.dependents.remove(&(job.seq, key, role));
                }
            }
        }
        self.finished.insert(job.msg_id.as_str(), ended);
        if !job.dependents.is_empty() {
            self.ended.push_back(EndedTask {
                msg_id: job.msg_id.clone(),
                ended,
                dependents: job.dependents,
            });
        }
        Some((job.msg_id, job.payload))
    }
}

/// The tasks of a dependency: how many there are, and those that have ended.
struct Resolved<'a> {
    total: usize,
    ended: Vec<(&'a str, Ended)>,
}

fn ended_otherwise(id: &str) -> Failure {
    Failure::ImpossibleDependency(Impossible::EndedOtherwise(Some(MsgId::new(id))))
}
