//! Who runs the engines of this node: it does, or the service beside it.

use serde_json::{Map, Value};

use crate::host::apart::Apart;
use crate::host::{Host, HostStatus, Setup};
use crate::settings::node::NodeSettings;

/// The way to the engines.
pub enum EngineHost {
    Apart(Apart),
    Own(Host),
}

impl EngineHost {
    /// There are no engines before a connection file comes. Must be called on a `LocalRuntime`.
    ///
    /// # Errors
    /// The socket for the service cannot be made.
    pub fn start(settings: &NodeSettings, count: u32) -> anyhow::Result<Self> {
        let engines = settings.engines.clone();
        // Users of their own have a home; without one, engines live beside the node's state.
        let own_dir = settings.state_dir.join("engines");
        let setup = Setup {
            count,
            python: engines.python,
            imports: engines.imports,
            memory_limit: engines.memory_limit,
            nice: engines.nice,
            revive: engines.revive,
            dir: match (engines.dir, &engines.user) {
                (None, None) => Some(own_dir),
                (None, Some(_)) if !nix::unistd::geteuid().is_root() => Some(own_dir),
                (dir, _) => dir,
            },
            user: engines.user,
        };
        Ok(match engines.apart {
            true => Self::Apart(Apart::listen(setup, &settings.run_dir)?),
            false => Self::Own(Host::start(setup)),
        })
    }

    /// See [`Host::give`].
    pub fn give(&self, file: Map<String, Value>) {
        match self {
            Self::Apart(host) => host.give(file),
            Self::Own(host) => host.give(file),
        }
    }

    /// See [`Host::take_away`].
    pub fn take_away(&self) {
        match self {
            Self::Apart(host) => host.take_away(),
            Self::Own(host) => host.take_away(),
        }
    }

    /// See [`Host::restart`].
    pub fn restart(&self) {
        match self {
            Self::Apart(host) => host.restart(),
            Self::Own(host) => host.restart(),
        }
    }

    #[must_use]
    pub fn status(&self) -> HostStatus {
        match self {
            Self::Apart(host) => host.status(),
            Self::Own(host) => host.status(),
        }
    }

    /// See [`Host::changed`].
    pub async fn changed(&mut self) {
        match self {
            Self::Apart(host) => host.changed().await,
            Self::Own(host) => host.changed().await,
        }
    }

    /// See [`Host::stop`].
    pub async fn stop(self) {
        match self {
            Self::Apart(host) => host.stop().await,
            Self::Own(host) => host.stop().await,
        }
    }
}
