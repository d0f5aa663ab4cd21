//! The controller of a node: what `crate::controller` needs, from the options of the node and the keys that
//! it keeps.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::pool_keys::PoolKeys;
use crate::controller::connection_file::create_profile;
use crate::controller::lifecycle::{self, Prepared};
use crate::settings::node::{Database, NodeSettings};
use crate::settings::{
    ControllerSettings, CurveSettings, DatabaseSettings, HeartbeatSettings, Interface, LogSettings,
    MemoryLimits, PortPlan, ProfileDir,
};
use crate::store;

/// DECISIONS 3: an unplugged engine is noticed below three seconds.
const HEARTBEAT: HeartbeatSettings = HeartbeatSettings {
    period: Duration::from_millis(450),
    misses_max: 4,
};

/// An engine on a slow Pi has registered long before its heart beats.
const REGISTRATION_TIMEOUT: Duration = Duration::from_secs(30);

/// Binds everything that clients and engines need, on the ports of the last time if they are to be had, so
/// that both find a controller that was restarted.
///
/// # Errors
/// No ports are to be had, or the state directory cannot be written.
pub fn prepare(settings: &NodeSettings, keys: &PoolKeys) -> anyhow::Result<Prepared> {
    let settings = controller_settings(settings, keys);
    create_profile(&settings)?;
    match lifecycle::prepare(settings.clone()) {
        Ok(prepared) => Ok(prepared),
        Err(cause) if settings.client.file.exists() => {
            log::warn!(
                "{cause:#}; this controller goes on with other ports, and its clients need `piparallel connect`"
            );
            std::fs::remove_file(&settings.client.file)?;
            lifecycle::prepare(settings)
        }
        Err(cause) => Err(cause),
    }
}

/// The client's connection file, where this node is the controller.
#[must_use]
pub fn client_file(state_dir: &Path) -> PathBuf {
    profile(state_dir)
        .security()
        .join("ipcontroller-client.json")
}

fn profile(state_dir: &Path) -> ProfileDir {
    ProfileDir {
        path: state_dir.join("controller"),
    }
}

fn controller_settings(settings: &NodeSettings, keys: &PoolKeys) -> ControllerSettings {
    let profile = profile(&settings.state_dir);
    let address = match settings.network.interfaces.is_loopback_only() {
        true => Ipv4Addr::LOCALHOST,
        false => Ipv4Addr::UNSPECIFIED,
    };
    let side = |name: &str| Interface {
        addresses: vec![address],
        ssh: String::new(),
        file: profile.security().join(format!("ipcontroller-{name}.json")),
    };
    ControllerSettings {
        cluster_id: String::new(),
        client: side("client"),
        engine: side("engine"),
        location: settings.network.location.map(|address| address.to_string()),
        ports: PortPlan {
            common: settings.network.ports.clone(),
            ..PortPlan::default()
        },
        session_key: keys.session.clone(),
        curve: Some(CurveSettings {
            client: keys.client.clone(),
            engine: keys.engine.clone(),
            engine_keys: None,
        }),
        heartbeat: HEARTBEAT,
        registration_timeout: REGISTRATION_TIMEOUT,
        scheme: settings.tasks.scheme,
        hwm: settings.tasks.hwm,
        database: database(settings.tasks.database, &profile.path),
        reuse: true,
        restore: true,
        python: settings.engines.python.clone(),
        log: LogSettings {
            level: settings.log_level,
            file: None,
        },
        profile,
    }
}

fn database(database: Database, dir: &Path) -> DatabaseSettings {
    match database {
        Database::Memory => DatabaseSettings::Memory(MemoryLimits::default()),
        Database::None => DatabaseSettings::None,
        Database::Sqlite => DatabaseSettings::Sqlite {
            path: dir.join(store::DEFAULT_FILENAME),
            table: store::DEFAULT_TABLE.to_owned(),
        },
    }
}
