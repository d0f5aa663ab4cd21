//! What the service tells of nodes.

use std::collections::BTreeMap;

use piparallel_core::join::message::{Kind, Power};
use serde::{Deserialize, Serialize};

/// The answer to [`super::Command::Nodes`].
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
pub struct Nodes {
    pub pool: String,
    /// Until when whoever comes is let in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pairing: Option<Pairing>,
    pub nodes: Vec<NodeInfo>,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Pairing {
    pub seconds_left: u64,
    pub admissions_left: u32,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// Waits for `piparallel approve`.
    Pending,
    /// Connected now.
    Joined,
    /// Known, and not connected.
    Away,
    /// Not let in any more.
    Revoked,
}

/// One node as the controller knows it. What a node has not told yet is missing.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
pub struct NodeInfo {
    pub name: String,
    pub id: String,
    pub fingerprint: String,
    pub kind: Kind,
    pub state: NodeState,
    /// It gets no more work.
    pub drained: bool,
    /// It is the controller.
    pub controller: bool,
    /// How long it is in this state.
    pub seconds: Option<u64>,
    pub address: Option<String>,
    pub model: Option<String>,
    /// Engines that run, and that shall.
    pub engines: Option<EngineCount>,
    /// Why engines that shall run do not.
    pub problem: Option<String>,
    pub load: Option<f32>,
    /// °C.
    pub temperature: Option<f32>,
    pub power: Option<Power>,
    /// Of Python and packages, by name.
    pub versions: BTreeMap<String, String>,
    /// What differs from the pool's, as `numpy 1.26.4, pool 2.1.0`.
    pub differences: Vec<String>,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct EngineCount {
    pub running: u32,
    pub wanted: u32,
}
