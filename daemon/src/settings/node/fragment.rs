//! The first stage: one file as it is. Every option may be missing; one that does not exist is an error.

use serde::Deserialize;

/// All options, under the names that `defaults.toml` explains. Merged options have the same shape.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Fragment {
    pub(super) pool: Option<String>,
    pub(super) role: Option<String>,
    pub(super) name: Option<String>,
    pub(super) controller: Option<String>,
    pub(super) join_key: Option<String>,
    pub(super) join_key_file: Option<String>,
    pub(super) takeover_after: Option<String>,
    pub(super) log_level: Option<String>,
    pub(super) state_dir: Option<String>,
    pub(super) run_dir: Option<String>,
    pub(super) network: Network,
    pub(super) engines: Engines,
    pub(super) tasks: Tasks,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Network {
    pub(super) port: Option<u16>,
    pub(super) ports: Option<String>,
    pub(super) location: Option<String>,
    pub(super) interfaces: Option<Vec<String>>,
    pub(super) leave_out: Option<Vec<String>>,
    pub(super) multicast: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Engines {
    pub(super) count: Option<u32>,
    pub(super) on_controller: Option<bool>,
    pub(super) python: Option<String>,
    pub(super) imports: Option<Vec<String>>,
    pub(super) memory_limit: Option<String>,
    pub(super) nice: Option<i32>,
    pub(super) user: Option<String>,
    pub(super) dir: Option<String>,
    pub(super) drain_timeout: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Tasks {
    pub(super) database: Option<String>,
    pub(super) scheme: Option<String>,
    pub(super) hwm: Option<u32>,
}

/// Options whose value is shown to nobody.
pub(super) const SECRETS: [&str; 1] = ["join_key"];

/// Every option, with its section.
pub(super) const OPTIONS: [&str; 28] = [
    "pool",
    "role",
    "name",
    "controller",
    "join_key",
    "join_key_file",
    "takeover_after",
    "log_level",
    "state_dir",
    "run_dir",
    "network.port",
    "network.ports",
    "network.location",
    "network.interfaces",
    "network.leave_out",
    "network.multicast",
    "engines.count",
    "engines.on_controller",
    "engines.python",
    "engines.imports",
    "engines.memory_limit",
    "engines.nice",
    "engines.user",
    "engines.dir",
    "engines.drain_timeout",
    "tasks.database",
    "tasks.scheme",
    "tasks.hwm",
];
