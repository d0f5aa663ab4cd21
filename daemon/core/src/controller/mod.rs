//! The controller: hub, schedulers and heart monitor of a pool as one machine.
//!
//! `Event`s go in with the time, `Command`s come out. The hub records and answers questions; it is
//! never in the path of a task. Relays forward what they get untouched from the delimiter on.
//!
//! | file             | decides                                                      |
//! |------------------|--------------------------------------------------------------|
//! | `peers`          | who is connected, and who may use a routing id               |
//! | `incoming`       | what of a message is accepted, and whose it is               |
//! | `registration`   | engines come, go and come back                               |
//! | `relay`          | mux, control, iopub                                          |
//! | `tasks`          | load-balanced tasks, through `crate::scheduler`            |
//! | `broadcast`      | one request for many engines                                 |
//! | `draining`       | engines of a drained node finish and leave                   |
//! | `news`           | what clients are told of engines that come and go            |
//! | `queries`        | what clients ask the hub                                     |
//! | `records`        | what the task database is told, and asked                    |
//! | `invariants`     | what must hold after every event                             |
//!
//! It does not know sockets, files, SQLite or the time of day; tests are in `tests/` and the
//! simulation in `tests/sim`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::channel::Channel;
use crate::clock::Now;
use crate::ids::PeerId;
use crate::limits::REPLAY_MEMORY;
use crate::scheduler::{self, TaskScheduler};
use crate::task_db::Ticket;
use crate::wire::message::{Message, SignedPart};
use crate::wire::sign::{ReplayGuard, Signer};

mod broadcast;
pub(crate) mod complaints;
mod compose;
mod draining;
mod engines;
mod event;
mod heartbeat;
mod incoming;
mod invariants;
mod news;
mod peers;
mod queries;
mod records;
mod registration;
mod relay;
mod request;
mod status;
mod tasks;
mod tracker;

pub use compose::ErrorContent;
pub use event::{Command, DaskAddress, Event};
pub use records::DatabaseKind;
pub use status::{DatabaseStatus, EngineStatus, ShellStatus, StatusSnapshot, TaskTotals};

use complaints::Complaints;
use compose::Composer;
use draining::Draining;
use engines::Engines;
use heartbeat::HeartMonitor;
use news::News;
use peers::{Admission, Peer, Peers};
use request::RequestHeader;
use tracker::Tracker;

/// What a controller runs with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Signs and checks all messages, if it has a key.
    pub signer: Signer,
    /// The controller's own session id: unique for each start.
    pub session: String,
    /// Time between two pings.
    pub heartbeat_period: Duration,
    /// Pings in a row that an engine may leave unanswered.
    pub heartbeat_misses_max: u32,
    /// The period that engines are told. They give the controller up after 50 times this and a half second
    /// more, so it may be longer than the real one.
    pub heartbeat_told: Duration,
    /// Until the first heartbeat of a new engine.
    pub registration_timeout: Duration,
    pub scheduler: scheduler::Config,
    pub database: DatabaseKind,
    /// `connection_info` of the registration reply: JSON object with the engine file's ports.
    pub engine_connection_info: serde_json::Value,
    /// Only engines with keys that we gave them get in, and they use them on every socket. Stock engines that
    /// make keys of their own do not: see `has_anothers_key`.
    pub engine_keys_are_known: bool,
    /// Text of an `engines.json`: engines that are taken up again as soon as they answer.
    pub restored_engines: Option<String>,
}

/// Why a controller cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("engines.json is unreadable ({0}); start without --restore, or delete it")]
    RestoredEngines(serde_json::Error),
}

/// The machine. See the module.
pub struct Controller {
    config: Config,
    peers: Peers,
    engines: Engines,
    hearts: HeartMonitor,
    scheduler: TaskScheduler<tasks::TaskJob>,
    broadcasts: broadcast::Broadcasts,
    tracker: Tracker,
    questions: records::Questions,
    composer: Composer,
    replays: ReplayGuard,
    complaints: Complaints,
    draining: Draining,
    news: News,
    commands: VecDeque<Command>,
    save_engines_at: Option<Duration>,
    shutdown_at: Option<Duration>,
    /// Of the load-balanced tasks that wait or run.
    waiting_bytes: usize,
    dask: BTreeMap<Ticket, queries::Asker>,
    messages: u64,
    /// The session of the latest request.
    latest_session: Arc<str>,
    shell_status: ShellStatus,
}

impl Controller {
    /// A controller with no connections.
    ///
    /// # Errors
    /// The engines to restore are unreadable.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        let mut controller = Self {
            peers: Peers::new(config.scheduler.seed as u32),
            engines: Engines::default(),
            hearts: HeartMonitor::new(config.heartbeat_period, config.heartbeat_misses_max),
            scheduler: TaskScheduler::new(config.scheduler.clone()),
            broadcasts: broadcast::Broadcasts::default(),
            tracker: Tracker::default(),
            questions: records::Questions::default(),
            composer: Composer::new(config.signer.clone(), config.session.clone()),
            replays: ReplayGuard::new(REPLAY_MEMORY),
            complaints: Complaints::default(),
            draining: Draining::default(),
            news: News::default(),
            commands: VecDeque::new(),
            save_engines_at: None,
            shutdown_at: None,
            waiting_bytes: 0,
            dask: BTreeMap::new(),
            messages: 0,
            latest_session: Arc::from(""),
            shell_status: ShellStatus::default(),
            config,
        };
        if let Some(text) = controller.config.restored_engines.take() {
            controller
                .restore_engines(&text)
                .map_err(ConfigError::RestoredEngines)?;
        }
        Ok(controller)
    }

    /// What the caller must do now, one at a time, in this order.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// When `handle_timeout` wants to be called, on the clock of `Now::monotonic`.
    #[must_use]
    pub fn next_timeout(&self) -> Duration {
        [
            self.peers.next_timeout(),
            self.scheduler.next_timeout(),
            self.shutdown_at,
        ]
        .into_iter()
        .flatten()
        .fold(self.next_engine_timeout(), Duration::min)
    }

    pub fn handle_timeout(&mut self, now: Now) {
        self.handle_engine_timeouts(now);
        for holder in self.peers.overdue(now.monotonic) {
            self.commands.push_back(Command::Close {
                peer: holder,
                reason: "it did not answer while another claims its routing id",
            });
            self.handle_disconnected(now, holder);
        }
        self.scheduler.handle_timeout(now);
        self.drain_scheduler(now);
        if self.shutdown_at.is_some_and(|at| at <= now.monotonic) {
            self.shutdown_at = None;
            self.commands.push_back(Command::Shutdown);
        }
        self.dismiss_drained(now);
    }

    pub fn handle_event(&mut self, now: Now, event: Event) {
        self.handle(now, event);
        self.dismiss_drained(now);
    }

    fn handle(&mut self, now: Now, event: Event) {
        match event {
            Event::Message { peer, frames } => self.handle_message(now, peer, frames),
            Event::Connected {
                peer,
                channel,
                identity,
                curve_key,
                side,
                address,
            } => {
                let peer_info = Peer {
                    channel,
                    identity,
                    curve_key,
                    side,
                    address,
                    admitted: false,
                    congested: false,
                    last_pong: None,
                    has_subscribed: false,
                };
                self.handle_connected(now, peer, peer_info);
            }
            Event::Disconnected { peer } => self.handle_disconnected(now, peer),
            Event::Subscribed { peer } => match self.peers.get(peer).map(|peer| peer.channel) {
                Some(Channel::HbPing) => self.ping_one(now, peer),
                Some(Channel::Notification) => self.repeat_news(now, peer),
                _ => {}
            },
            Event::Congested { peer } => self.handle_congestion(now, peer, true),
            Event::Drained { peer } => self.handle_congestion(now, peer, false),
            Event::Alive { peer } => {
                if let Some(claimant) = self.peers.alive(peer) {
                    self.refuse_claimant(now, claimant);
                }
            }
            Event::Drain {
                curve_key,
                is_drained,
            } => self.handle_drain(now, curve_key, is_drained),
            Event::DbReply { ticket, reply } => self.handle_db_reply(now, ticket, reply),
            Event::Dask { ticket, result } => self.handle_dask(now, ticket, result),
        }
    }

    fn handle_connected(&mut self, now: Now, id: PeerId, peer: Peer) {
        if self.has_anothers_key(&peer) {
            let address = peer.address;
            self.complaints
                .warn(now.monotonic, "engine with another key", || {
                    format!(
                        "{address} claims the uuid of an engine but has another CURVE key; closed"
                    )
                });
            self.commands.push_back(Command::Close {
                peer: id,
                reason: "its CURVE key is not that of the engine",
            });
            return;
        }
        match self.peers.connect(now.monotonic, id, peer) {
            Admission::Admitted => self.engine_connected(now, id),
            Admission::Probing { holder } => {
                self.commands.push_back(Command::Probe { peer: holder })
            }
            Admission::Refused => self.refuse_claimant(now, id),
        }
    }

    /// All sockets of an engine have one key. Whoever knows only the uuid has another. Control is the
    /// exception where engines make their keys: it belongs to the nanny, which makes a pair of its own
    /// (ipyparallel's engine/nanny.py).
    fn has_anothers_key(&self, peer: &Peer) -> bool {
        (peer.channel != Channel::ControlEngine || self.config.engine_keys_are_known)
            && std::str::from_utf8(&peer.identity)
                .ok()
                .and_then(|uuid| self.engines.by_uuid(uuid))
                .is_some_and(|engine| {
                    engine.curve_key.is_some() && engine.curve_key != peer.curve_key
                })
    }

    /// A connection of an engine may be the last that was missing.
    fn engine_connected(&mut self, now: Now, id: PeerId) {
        let Some(peer) = self.peers.get(id) else {
            return;
        };
        if let Some(engine) = std::str::from_utf8(&peer.identity)
            .ok()
            .and_then(|uuid| self.engines.id_of(uuid))
        {
            self.complete_if_connected(now, engine);
            self.offer(now, engine);
        }
    }

    fn refuse_claimant(&mut self, now: Now, claimant: PeerId) {
        self.complaints
            .warn(now.monotonic, "claimed routing id", || {
                "a connection claimed a routing id that another, living one holds; closed. \
             Two engines with one uuid?"
                    .into()
            });
        self.commands.push_back(Command::Close {
            peer: claimant,
            reason: "another connection holds its routing id",
        });
        self.handle_disconnected(now, claimant);
    }

    fn handle_disconnected(&mut self, now: Now, id: PeerId) {
        let Some((peer, heir)) = self.peers.disconnect(id) else {
            return;
        };
        if peer.admitted {
            self.engine_disconnected(now, &peer);
        }
        if let Some(heir) = heir {
            self.engine_connected(now, heir);
        }
    }

    fn handle_congestion(&mut self, now: Now, id: PeerId, congested: bool) {
        let Some(peer) = self.peers.set_congested(id, congested) else {
            return;
        };
        if peer.channel == Channel::TaskEngine
            && let Some(engine) = std::str::from_utf8(&peer.identity)
                .ok()
                .and_then(|uuid| self.engines.id_of(uuid))
        {
            self.offer(now, engine);
        }
    }

    /// Answers a hub query: a message of `msg_type` to one peer of `registration`.
    fn send_reply(
        &mut self,
        now: Now,
        to: PeerId,
        msg_type: &str,
        parent: Option<&Bytes>,
        content: Bytes,
    ) {
        let frames = self.composer.message(now, msg_type, parent, "{}", content);
        self.commands.push_back(Command::Send {
            peer: to,
            frames: frames.into(),
        });
    }

    /// Answers a request on one of the client channels with an error of the controller's own.
    fn reply_error(
        &mut self,
        now: Now,
        to: PeerId,
        message: &Message,
        request: &RequestHeader,
        route: Option<Bytes>,
        error: &ErrorContent,
    ) {
        self.complaints.warn(now.monotonic, error.ename, || {
            format!(
                "request {} ({}) was refused: {}",
                request.msg_id, request.msg_type, error.evalue
            )
        });
        if !request.expects_reply() {
            return;
        }
        let content = compose::json(error);
        let mut frames = self.composer.message(
            now,
            request.reply_type(),
            Some(&message.bytes(SignedPart::Header)),
            "{}",
            content,
        );
        if let Some(route) = route {
            frames.insert(0, route);
        }
        self.commands.push_back(Command::Send {
            peer: to,
            frames: frames.into(),
        });
    }
}
