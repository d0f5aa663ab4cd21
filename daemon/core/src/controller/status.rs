//! A picture of the pool for people and scripts: what `piparallel status` shows.

use serde::{Deserialize, Serialize};

use super::Controller;
use crate::channel::Channel;
use crate::clock::Now;
use crate::ids::{EngineId, EngineUuid};
use crate::task_db::DbStatus;

/// One moment of a controller. What only the shell knows, it fills in.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct StatusSnapshot {
    /// Always "ok": the snapshot travels as the content of a hub reply.
    pub status: String,
    /// Of the controller program.
    pub version: String,
    pub pid: u32,
    /// Seconds since its start.
    pub uptime_s: f64,
    /// Resident memory.
    pub memory_bytes: u64,
    pub scheme: String,
    pub engines: Vec<EngineStatus>,
    /// Engines that wait for their first heartbeat.
    pub engines_pending: usize,
    pub tasks: TaskTotals,
    /// Connections of clients, counted by their notification sockets.
    pub clients: usize,
    pub database: DatabaseStatus,
    /// Messages received so far.
    pub messages: u64,
    /// Messages refused so far: unreadable, wrongly signed, for unknown engines.
    pub refused: u64,
    /// Connections refused so far.
    pub refused_connections: u64,
    /// Messages that slow subscribers of output lost so far.
    pub lost_output: u64,
}

/// The part of a snapshot that only the shell knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShellStatus {
    pub pid: u32,
    /// Resident memory of the process.
    pub memory_bytes: u64,
    /// Messages that slow subscribers lost.
    pub lost_output: u64,
    /// Connections that were refused.
    pub refused_connections: u64,
    pub database: DbStatus,
}

/// One engine.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct EngineStatus {
    pub id: EngineId,
    pub uuid: EngineUuid,
    /// IP address and port of its registration.
    pub address: String,
    /// `ok`, `probation` (pings unanswered), `congested` (does not read), `leaving`.
    pub state: String,
    /// Requests through mux and broadcast without reply.
    pub queue: usize,
    /// Load-balanced tasks that it runs.
    pub tasks: usize,
    pub completed: u64,
    pub failed: u64,
    /// Seconds since its last heartbeat.
    pub last_heartbeat_s: f64,
}

/// Requests of all kinds, by what became of them.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct TaskTotals {
    /// Without reply: waiting, running, or queued at an engine.
    pub pending: usize,
    /// Load-balanced tasks that wait for an engine.
    pub waiting: usize,
    pub done: u64,
    pub failed: u64,
    pub retried: u64,
}

/// The task database.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct DatabaseStatus {
    /// `memory`, `sqlite` or `none`.
    pub kind: String,
    pub records: u64,
    pub bytes: u64,
    /// Records forgotten to stay within the bounds.
    pub culled: u64,
    /// Changes that could not be recorded.
    pub lost: u64,
    /// Why nothing is recorded at the moment, and what to do.
    pub off: Option<String>,
}

impl Controller {
    /// What only the shell knows; it tells so now and then.
    pub fn set_shell_status(&mut self, status: ShellStatus) {
        self.shell_status = status;
    }

    pub(super) fn status(&self, now: Now) -> StatusSnapshot {
        StatusSnapshot {
            status: "ok".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            pid: self.shell_status.pid,
            uptime_s: now.monotonic.as_secs_f64(),
            memory_bytes: self.shell_status.memory_bytes,
            scheme: self.config.scheduler.scheme.name().into(),
            engines: self
                .engines
                .registered()
                .map(|engine| self.engine_status(now, engine))
                .collect(),
            engines_pending: self.engines.pending_count(),
            tasks: TaskTotals {
                pending: self.tracker.len(),
                waiting: self.scheduler.waiting_count(),
                done: self.tracker.done,
                failed: self.tracker.failed,
                retried: self.scheduler.totals().retried,
            },
            clients: self.peers.count(Channel::Notification),
            database: self.database_status(),
            messages: self.messages,
            refused: self.complaints.total(),
            refused_connections: self.shell_status.refused_connections,
            lost_output: self.shell_status.lost_output,
        }
    }

    fn engine_status(&self, now: Now, engine: &super::engines::Engine) -> EngineStatus {
        let (last_pong, misses) = self.hearts.state(&engine.uuid).unwrap_or_default();
        let congested = [
            Channel::MuxEngine,
            Channel::TaskEngine,
            Channel::BroadcastEngine,
        ]
        .into_iter()
        .filter_map(|channel| {
            self.peers
                .get(self.peers.route(channel, engine.uuid.as_bytes())?)
        })
        .any(|peer| peer.congested);
        let state = if !engine.is_registered() {
            "leaving"
        } else if congested {
            "congested"
        } else if misses > 0 {
            "probation"
        } else {
            "ok"
        };
        EngineStatus {
            id: engine.id,
            uuid: engine.uuid.clone(),
            address: engine.address.clone(),
            state: state.into(),
            queue: engine.queue.len(),
            tasks: self.scheduler.load(&engine.uuid).unwrap_or(0),
            completed: engine.completed,
            failed: engine.failed,
            last_heartbeat_s: now.monotonic.saturating_sub(last_pong).as_secs_f64(),
        }
    }

    fn database_status(&self) -> DatabaseStatus {
        let status = self.shell_status.database.clone();
        DatabaseStatus {
            kind: self.config.database.name().into(),
            records: status.records,
            bytes: status.bytes,
            culled: status.culled,
            lost: status.ops_dropped + status.outputs_dropped,
            off: status.off,
        }
    }
}
