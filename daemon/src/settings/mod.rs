//! Everything that a controller needs to know before it starts, validated.
//!
//! Values come in three stages. *Assignments* (`Class.trait = value`, as stock ipyparallel names them)
//! are read from files, the environment and the command line (`config`, `py_file`,
//! `command_line`); they are merged in order of rank, with the place each came from; and
//! `resolve` turns the result into `ControllerSettings`, or into an error that names the place.
//! Nothing behind this module reads a file or an environment variable to learn an option.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use piparallel_core::wire::zmtp::PublicKey;

/// The command line of stock `ipcontroller`.
pub mod command_line;
/// Assignments of options, merged.
pub mod config;
/// Key pairs of CURVE and their text form.
pub mod curve;
/// Addresses to listen on.
pub mod interface;
/// All sources together.
pub mod load;
/// The options of a node.
pub mod node;
/// Python files, as far as they are plain assignments.
pub mod py_file;
/// Settings from assignments.
pub mod resolve;
/// A value that is not printed.
pub mod secret;
/// Environment and files.
pub mod sources;
/// The file that `--init` writes.
pub mod starter_file;
/// The table of options.
pub mod traits;
/// Values and their types.
pub mod value;

pub use curve::CurveKeyPair;
pub use piparallel_core::scheduler::Scheme;
pub use piparallel_core::task_db::memory::MemoryLimits;
pub use secret::Secret;

/// What a controller runs with.
#[derive(Clone)]
pub struct ControllerSettings {
    pub profile: ProfileDir,
    /// Part of the file names, so that several controllers share a profile; empty for none.
    pub cluster_id: String,
    /// Where clients connect.
    pub client: Interface,
    /// Where engines connect.
    pub engine: Interface,
    /// The address under which other machines reach this one; `None`: find it out after binding.
    pub location: Option<String>,
    pub ports: PortPlan,
    /// HMAC key, as it is in the connection files. Empty: messages are not signed.
    pub session_key: Secret<String>,
    pub curve: Option<CurveSettings>,
    pub heartbeat: HeartbeatSettings,
    /// How long a registration may stay without a first heartbeat.
    pub registration_timeout: Duration,
    pub scheme: Scheme,
    /// Tasks that an engine may have at once; `None`: no limit.
    pub hwm: Option<u32>,
    pub database: DatabaseSettings,
    /// Take ports and key from the connection files that are there, and leave the files at exit.
    pub reuse: bool,
    /// Take back the engines that the previous controller had.
    pub restore: bool,
    /// The Python of the pool, for `become_dask`; `None`: it is looked for when needed.
    pub python: Option<PathBuf>,
    pub log: LogSettings,
}

/// A profile of IPython: a directory with `security`, `log` and others below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProfileDir {
    pub path: PathBuf,
}

impl ProfileDir {
    #[must_use]
    pub fn security(&self) -> PathBuf {
        self.path.join("security")
    }

    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.path.join("log")
    }
}

/// One side of the controller: the addresses it binds, and what its connection file says of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// At least one. `0.0.0.0` stands for all.
    pub addresses: Vec<Ipv4Addr>,
    /// `user@server:port` through which this side tunnels; empty for none.
    pub ssh: String,
    /// Path of the connection file.
    pub file: PathBuf,
}

/// Which ports to bind. Pools are used up in the order of `Channel::ALL`: a side's own pool first,
/// then the common one. With no pool at all, any free port is taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortPlan {
    pub common: Vec<PortRange>,
    pub client: Vec<PortRange>,
    pub engine: Vec<PortRange>,
    /// Channels with a port of their own, whatever the pools say.
    pub fixed: Vec<(piparallel_core::channel::Channel, u16)>,
}

/// Ports `first..=last`. In a range of several, ports that are in use are passed over; a single port
/// that is in use is an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    pub first: u16,
    pub last: u16,
}

/// Encryption. Without it this is `None` in the settings.
#[derive(Clone)]
pub struct CurveSettings {
    /// Of the sockets that clients connect to, `registration` among them.
    pub client: CurveKeyPair,
    /// Of the sockets that engines connect to; may be the same pair.
    pub engine: CurveKeyPair,
    /// The engines' public keys that are let in; `None`: whoever knows the server's key.
    pub engine_keys: Option<Vec<PublicKey>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeartbeatSettings {
    pub period: Duration,
    /// Consecutive misses that an engine survives.
    pub misses_max: u32,
}

/// Where task records are kept.
#[derive(Clone, Debug, PartialEq)]
pub enum DatabaseSettings {
    Memory(MemoryLimits),
    None,
    Sqlite { path: PathBuf, table: String },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    pub level: log::LevelFilter,
    /// `None`: standard error.
    pub file: Option<PathBuf>,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Settings of a controller on loopback with any free ports and no files.
    pub(crate) fn settings_for_test() -> ControllerSettings {
        let side = |file| Interface {
            addresses: vec![Ipv4Addr::LOCALHOST],
            ssh: String::new(),
            file: PathBuf::from(file),
        };
        ControllerSettings {
            profile: ProfileDir {
                path: PathBuf::from("profile_test"),
            },
            cluster_id: String::new(),
            client: side("client.json"),
            engine: side("engine.json"),
            location: None,
            ports: PortPlan::default(),
            session_key: Secret::new("key".to_owned()),
            curve: None,
            heartbeat: HeartbeatSettings {
                period: Duration::from_secs(3),
                misses_max: 10,
            },
            registration_timeout: Duration::from_secs(30),
            scheme: Scheme::LeastLoad,
            hwm: Some(1),
            database: DatabaseSettings::None,
            reuse: false,
            restore: false,
            python: None,
            log: LogSettings {
                level: log::LevelFilter::Info,
                file: None,
            },
        }
    }
}
