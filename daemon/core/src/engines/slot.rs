//! One place for an engine: its process, and what happens when that ends.

use std::time::Duration;

use super::message::{Asked, Connection, Order, ProcessId, Slot};
use super::status::{SlotState, SlotStatus};
use super::{SIGKILL, SIGTERM, STABLE_AFTER, pause};
use crate::ids::EngineId;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    Idle,
    /// `pid`: none until the warm parent has told it.
    Starting {
        pid: Option<ProcessId>,
        deadline: Duration,
    },
    Running {
        pid: ProcessId,
        id: EngineId,
        uuid: String,
    },
    Stopping {
        pid: Option<ProcessId>,
        kill_at: Duration,
    },
    Waiting {
        until: Duration,
    },
    Ended,
}

#[derive(Debug)]
pub(super) struct Place {
    slot: Slot,
    pub(super) state: State,
    since: Duration,
    /// Times that a process took the place of one that ended.
    restarts: u32,
    has_run: bool,
    /// In a row.
    failures: u32,
    /// Why the last process ended.
    reason: Option<String>,
    /// Why it was killed by us.
    verdict: Option<String>,
    bytes: u64,
}

/// An engine that the hub does not answer gives up after five seconds. On a Pi with a slow card, a start
/// takes some more.
const STARTING_MAX: Duration = Duration::from_secs(60);
/// A killed process is gone within moments; its end is asked for again if its parent did not hear it.
const KILL_AGAIN: Duration = Duration::from_secs(2);

impl Place {
    pub(super) fn new(now: Duration, slot: Slot) -> Self {
        Self {
            slot,
            state: State::Idle,
            since: now,
            restarts: 0,
            has_run: false,
            failures: 0,
            reason: None,
            verdict: None,
            bytes: 0,
        }
    }

    pub(super) fn pid(&self) -> Option<ProcessId> {
        match self.state {
            State::Starting { pid, .. } | State::Stopping { pid, .. } => pid,
            State::Running { pid, .. } => Some(pid),
            State::Idle | State::Waiting { .. } | State::Ended => None,
        }
    }

    pub(super) fn has_process(&self) -> bool {
        match self.state {
            State::Starting { .. } | State::Running { .. } | State::Stopping { .. } => true,
            State::Idle | State::Waiting { .. } | State::Ended => false,
        }
    }

    pub(super) fn start(&mut self, now: Duration, connection: &Connection) -> Order {
        self.restarts += u32::from(self.has_run);
        self.has_run = true;
        self.verdict = None;
        self.bytes = 0;
        self.enter(
            now,
            State::Starting {
                pid: None,
                deadline: now + STARTING_MAX,
            },
        );
        Order::Start {
            slot: self.slot,
            connection: connection.clone(),
        }
    }

    /// The process is to end, and is killed after `grace`.
    pub(super) fn end(&mut self, now: Duration, grace: Duration) -> Option<Order> {
        let pid = self.pid();
        let kill_at = now + grace;
        match self.state {
            State::Starting { .. } | State::Running { .. } => {
                self.enter(now, State::Stopping { pid, kill_at });
                pid.map(|pid| signal(pid, SIGTERM))
            }
            State::Stopping { kill_at: was, .. } => {
                let kill_at = was.min(kill_at);
                self.state = State::Stopping { pid, kill_at };
                None
            }
            State::Idle | State::Waiting { .. } | State::Ended => {
                self.failures = 0;
                self.enter(now, State::Idle);
                None
            }
        }
    }

    /// There is no reason to wait any longer.
    pub(super) fn hasten(&mut self, now: Duration) {
        if let State::Waiting { .. } = self.state {
            self.enter(now, State::Idle);
        }
    }

    pub(super) fn handle_started(&mut self, pid: ProcessId) -> Option<Order> {
        match &mut self.state {
            State::Starting { pid: known, .. } => {
                *known = Some(pid);
                None
            }
            State::Stopping { pid: known, .. } => {
                *known = Some(pid);
                Some(signal(pid, SIGTERM))
            }
            _ => None,
        }
    }

    pub(super) fn handle_not_started(&mut self, now: Duration, cause: String) {
        match self.state {
            State::Starting { pid: None, .. } => self.fail(now, cause),
            State::Stopping { pid: None, .. } => self.enter(now, State::Idle),
            _ => {}
        }
    }

    pub(super) fn handle_registered(
        &mut self,
        now: Duration,
        pid: ProcessId,
        id: EngineId,
        uuid: String,
    ) {
        if let State::Starting { pid: Some(own), .. } = self.state
            && own == pid
        {
            log::info!("engine {id} runs in slot {} (process {pid})", self.slot);
            self.reason = None;
            self.enter(now, State::Running { pid, id, uuid });
        }
    }

    pub(super) fn handle_ended(
        &mut self,
        now: Duration,
        pid: ProcessId,
        ending: String,
        asked: Option<Asked>,
    ) {
        if self.pid() != Some(pid) {
            return;
        }
        match self.state {
            State::Stopping { .. } => {
                self.failures = 0;
                self.enter(now, State::Idle);
            }
            State::Running { .. } if asked == Some(Asked::End) => {
                log::info!("the engine in slot {} was asked to end", self.slot);
                self.enter(now, State::Ended);
            }
            _ => {
                if now.saturating_sub(self.since) > STABLE_AFTER {
                    self.failures = 0;
                }
                let asked = asked.map(|_| "was asked to restart".to_owned());
                let reason = self.verdict.take().or(asked);
                self.fail(now, reason.unwrap_or(ending));
            }
        }
    }

    pub(super) fn handle_parent_ended(&mut self, now: Duration) {
        if self.has_process() {
            self.enter(now, State::Idle);
        }
    }

    pub(super) fn handle_memory(&mut self, bytes: u64, limit: Option<u64>) -> Option<Order> {
        self.bytes = bytes;
        let limit = limit.filter(|limit| bytes > *limit && self.verdict.is_none())?;
        let (used, limit) = (bytes >> 20, limit >> 20);
        self.verdict = Some(format!("used {used} MB of memory, its limit is {limit} MB"));
        Some(signal(self.pid()?, SIGKILL))
    }

    pub(super) fn next_timeout(&self) -> Option<Duration> {
        match self.state {
            State::Starting { deadline, .. } => Some(deadline),
            State::Stopping { kill_at, .. } => Some(kill_at),
            State::Waiting { until } => Some(until),
            State::Idle | State::Running { .. } | State::Ended => None,
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Duration) -> Option<Order> {
        match &mut self.state {
            State::Starting { pid, deadline } if *deadline <= now => {
                *deadline = now + KILL_AGAIN;
                self.verdict = Some(format!("did not register within {STARTING_MAX:?}"));
                pid.map(|pid| signal(pid, SIGKILL))
            }
            State::Stopping { pid, kill_at } if *kill_at <= now => {
                *kill_at = now + KILL_AGAIN;
                pid.map(|pid| signal(pid, SIGKILL))
            }
            State::Waiting { until } if *until <= now => {
                self.enter(now, State::Idle);
                None
            }
            _ => None,
        }
    }

    pub(super) fn status(&self) -> SlotStatus {
        let (state, engine, uuid) = match &self.state {
            State::Idle => (SlotState::Idle, None, None),
            State::Starting { .. } => (SlotState::Starting, None, None),
            State::Running { id, uuid, .. } => (SlotState::Running, Some(*id), Some(uuid.clone())),
            State::Stopping { .. } => (SlotState::Stopping, None, None),
            State::Waiting { .. } => (SlotState::Waiting, None, None),
            State::Ended => (SlotState::Ended, None, None),
        };
        SlotStatus {
            slot: self.slot,
            state,
            pid: self.pid(),
            engine,
            uuid,
            bytes: self.bytes,
            restarts: self.restarts,
            failures: self.failures,
            reason: self.reason.clone(),
            since: self.since,
        }
    }

    fn fail(&mut self, now: Duration, reason: String) {
        self.failures += 1;
        let pause = pause(self.failures);
        log::warn!(
            "the engine in slot {} {reason}; another one starts in {pause:?}",
            self.slot
        );
        self.reason = Some(reason);
        let until = now + pause;
        self.enter(now, State::Waiting { until });
    }

    fn enter(&mut self, now: Duration, state: State) {
        self.state = state;
        self.since = now;
    }
}

fn signal(pid: ProcessId, signal: i32) -> Order {
    Order::Signal { pid, signal }
}
