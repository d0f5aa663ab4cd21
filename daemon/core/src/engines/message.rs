//! What the supervisor and the warm parent say to each other: one JSON object a line, both ways.
//!
//! The warm parent runs as the user that runs what clients send, so what it says is believed only as far as
//! engines go: no process is signalled by the number that it names.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::ids::EngineId;

/// One of the places for an engine on a machine, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Slot(pub u32);

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The number of a process in its system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProcessId(pub u32);

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Where engines register, and with which keys: the content of an engine's connection file.
pub type Connection = Arc<Map<String, Value>>;

/// To the warm parent.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub enum Order {
    /// Import what engines need. Comes first and once.
    Warm(Warming),
    /// Fork an engine. The descriptor that its output goes to comes with this order.
    Start { slot: Slot, connection: Connection },
    /// Send a signal to an engine and what it has started.
    Signal { pid: ProcessId, signal: i32 },
}

/// How engines are run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Warming {
    /// Modules to import beyond those of ipyparallel.
    pub imports: Vec<String>,
    /// The profile directory of the engines.
    pub profile: String,
    /// Added to the niceness of the supervisor.
    pub nice: i32,
    /// When memory runs out, engines end before what looks after them.
    pub oom_score_adj: i32,
}

/// From the warm parent.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Report {
    /// Everything is imported.
    Warm {
        /// Of Python and of packages.
        versions: BTreeMap<String, String>,
        /// Modules that cannot be imported, and why.
        failed_imports: BTreeMap<String, String>,
    },
    Started {
        slot: Slot,
        pid: ProcessId,
    },
    NotStarted {
        slot: Slot,
        cause: String,
    },
    /// The hub has accepted the engine.
    Registered {
        slot: Slot,
        pid: ProcessId,
        id: EngineId,
        uuid: String,
    },
    /// The process is gone, by itself (`code`) or by a signal.
    Ended {
        slot: Slot,
        pid: ProcessId,
        code: Option<i32>,
        signal: Option<i32>,
        /// What a client had asked for.
        asked: Option<Asked>,
    },
}

/// What a client's request to shut down an engine was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Asked {
    End,
    Restart,
}
