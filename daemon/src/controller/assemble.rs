//! What a controller is put together from, as its settings say.

use std::time::Duration;

use anyhow::Context as _;
use piparallel_core::channel::{Channel, Side};
use piparallel_core::controller::{Config, DatabaseKind};
use piparallel_core::scheduler;
use piparallel_core::task_db::{DbReply, Ticket};
use piparallel_core::wire::sign::Signer;
use piparallel_core::wire::zmtp::PublicKey;
use tokio::sync::mpsc;

use super::bind::Bound;
use super::{connection_file, engines_file};
use crate::random;
use crate::settings::{ControllerSettings, CurveSettings, DatabaseSettings};
use crate::store::{MemoryStore, SqliteConfig, SqliteStore, Store};
use crate::transport::{Security, Transport, TransportLimits};

/// Engines give a controller up when 50 periods of what they are told (and a half second more each)
/// pass without a ping. With this they wait nine minutes for one that restarts.
const HEARTBEAT_TOLD_MIN: Duration = Duration::from_secs(10);

pub(super) fn machine_config(
    settings: &ControllerSettings,
    bound: &Bound,
) -> anyhow::Result<Config> {
    let restored = if settings.restore {
        engines_file::read(&engines_file::path(settings))?
    } else {
        None
    };
    let restored_engines = restored
        .map(|bytes| {
            String::from_utf8(bytes)
                .context("the saved engines are no text; start without --restore")
        })
        .transpose()?;
    let random: [u8; 24] = random::bytes()?;
    let (session, seed) = random.split_at(16);
    Ok(Config {
        signer: Signer::new(settings.session_key.expose().as_bytes()),
        session: session.iter().map(|byte| format!("{byte:02x}")).collect(),
        heartbeat_period: settings.heartbeat.period,
        heartbeat_misses_max: settings.heartbeat.misses_max,
        heartbeat_told: settings.heartbeat.period.max(HEARTBEAT_TOLD_MIN),
        registration_timeout: settings.registration_timeout,
        scheduler: scheduler::Config {
            scheme: settings.scheme,
            hwm: settings.hwm.unwrap_or(0),
            seed: seed
                .iter()
                .fold(0, |seed, byte| seed << 8 | u64::from(*byte)),
            ..scheduler::Config::default()
        },
        database: match &settings.database {
            DatabaseSettings::Memory(_) => DatabaseKind::Memory,
            DatabaseSettings::Sqlite { .. } => DatabaseKind::Sqlite,
            DatabaseSettings::None => DatabaseKind::None,
        },
        engine_connection_info: connection_file::engine_info(settings, bound).into(),
        engine_keys_are_known: false,
        restored_engines,
    })
}

pub(super) fn start_store(
    settings: &ControllerSettings,
    replies: mpsc::UnboundedSender<(Ticket, DbReply)>,
) -> anyhow::Result<Option<Store>> {
    let reply = move |ticket, reply| {
        // Nobody waits for an answer any more when the loop has ended.
        let _ = replies.send((ticket, reply));
    };
    Ok(match &settings.database {
        DatabaseSettings::Memory(limits) => {
            Some(Store::Memory(MemoryStore::start(*limits, reply)?))
        }
        DatabaseSettings::Sqlite { path, table } => {
            let config = SqliteConfig::new(path, table);
            Some(Store::Sqlite(SqliteStore::start(config, reply)?))
        }
        DatabaseSettings::None => None,
    })
}

pub(super) fn start_transport(
    settings: &ControllerSettings,
    bound: Bound,
) -> anyhow::Result<Transport> {
    let transport = Transport::new(TransportLimits::default());
    for (channel, listener) in bound.listeners {
        transport
            .listen(channel, listener, security(settings, channel))
            .with_context(|| format!("cannot serve {}", channel.name()))?;
    }
    if let Some(curve) = &settings.curve
        && let Some(keys) = &curve.engine_keys
    {
        let keys = keys.iter().copied().collect();
        transport.set_allowed_keys(curve.engine.public, Some(keys));
    }
    Ok(transport)
}

/// Both sides may have their own key pair; `registration` serves both.
fn security(settings: &ControllerSettings, channel: Channel) -> Security {
    let Some(curve) = &settings.curve else {
        return Security::Null;
    };
    let (client, engine) = (&curve.client.secret, &curve.engine.secret);
    let secrets = match channel.side() {
        Side::Client => vec![client.clone()],
        Side::Engine => vec![engine.clone()],
        Side::Both if client == engine => vec![client.clone()],
        Side::Both => vec![client.clone(), engine.clone()],
    };
    Security::Curve { secrets }
}

/// Our key for engines, unless it does for clients too.
pub(super) fn engines_own_key(curve: &CurveSettings) -> Option<PublicKey> {
    let engine = curve.engine.public;
    (curve.client.public != engine).then_some(engine)
}
