//! How the engines of a machine are, for people and for the pool.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::message::{ProcessId, Slot};
use crate::ids::EngineId;

/// What a slot does. See the table of the module above.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SlotState {
    Idle,
    Starting,
    Running,
    Stopping,
    Waiting,
    Ended,
}

/// One place for an engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SlotStatus {
    pub slot: Slot,
    pub state: SlotState,
    pub pid: Option<ProcessId>,
    /// Its number in the pool, while it runs.
    pub engine: Option<EngineId>,
    pub uuid: Option<String>,
    /// Resident.
    pub bytes: u64,
    pub restarts: u32,
    /// In a row.
    pub failures: u32,
    /// Why the last process ended, until another one runs.
    pub reason: Option<String>,
    /// When it came into this state, on the clock that the supervisor is told.
    pub since: Duration,
}

/// All of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Status {
    pub slots: Vec<SlotStatus>,
    /// Why the warm parent failed, until one is warm.
    pub trouble: Option<String>,
    /// Of warm parents, in a row.
    pub failures: u32,
    /// Of Python and packages, once they are known.
    pub versions: BTreeMap<String, String>,
}

impl Status {
    /// Engines that are in the pool.
    #[must_use]
    pub fn running(&self) -> usize {
        let is_running = |slot: &&SlotStatus| slot.state == SlotState::Running;
        self.slots.iter().filter(is_running).count()
    }

    /// Engines whose processes have not ended, whatever they do.
    #[must_use]
    pub fn left(&self) -> usize {
        use SlotState::{Running, Starting, Stopping};
        let is_left = |slot: &&SlotStatus| matches!(slot.state, Starting | Running | Stopping);
        self.slots.iter().filter(is_left).count()
    }

    /// Why there is no engine although there were at least so many attempts at each, if that is so.
    #[must_use]
    pub fn hopeless(&self, failures: u32) -> Option<&str> {
        if self.failures >= failures {
            return self.trouble.as_deref();
        }
        let has_failed =
            |slot: &SlotStatus| slot.failures >= failures && slot.state != SlotState::Running;
        if !self.slots.iter().all(has_failed) {
            return None;
        }
        self.slots.first()?.reason.as_deref()
    }
}
