//! Who gets in: the controller's side of joining, over all connections.
//!
//! | a node is | means                                        | becomes                                      |
//! |-----------|----------------------------------------------|----------------------------------------------|
//! | pending   | it proved a key that nobody vouches for yet  | admitted (`approve`, a window); forgotten    |
//! | admitted  | it belongs to the pool; joined or away       | revoked                                      |
//! | revoked   | its key opens nothing any more               | admitted, if an operator approves it again   |
//!
//! | a connection is | it leaves this state by                                             |
//! |-----------------|---------------------------------------------------------------------|
//! | opening         | its first bytes: a way in that is open                              |
//! | handshake       | proven keys                                                         |
//! | proven          | introducing itself: then it is decided                              |
//! | pending         | an operator                                                         |
//! | joined          | the end of the connection                                           |
//!
//! The shell hands in what happens, with the time, and carries out the commands. What an operator decides is to
//! be on the disk before the operator is told; a node that joined while the power failed joins again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::keys::{NodeKey, SharedKey};
use super::knocks::Knocks;
use super::message::{Hello, Kind, Report, ToController, ToNode};
use super::opening::{Mode, Opening};
use super::session::SessionError;
use crate::clock::Now;
use crate::controller::complaints::Complaints;
use crate::ids::NodeId;
use crate::limits::JOIN_HALF_OPEN_MAX;
use crate::wire::zmtp::{PublicKey, SecretKey};

/// What follows from an introduction.
mod decide;
/// What people tell it to do.
mod operator;
#[cfg(test)]
mod tests;
/// What people are told.
mod view;

pub use operator::OperatorError;
pub use view::{NodeState, NodeView, PairingView};

/// One connection, unique as long as the controller lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(pub u64);

/// Whether a node belongs to the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Admitted,
    Pending,
    Revoked,
}

/// What is kept of a node.
#[derive(Clone, PartialEq, Eq)]
pub struct NodeRow {
    pub key: NodeKey,
    pub kind: Kind,
    pub name: String,
    pub model: Option<String>,
    pub standing: Standing,
    /// It gets no more work.
    pub drained: bool,
    /// The one key that its engines may have. Only of admitted nodes.
    pub engine_key: Option<SecretKey>,
}

/// What an admission runs with.
pub struct Config {
    pub pool: String,
    /// Of this pool's nodes; a client key of the same value would open both doors.
    pub join_key: SharedKey,
    pub client_key: SharedKey,
    /// Chance for the keys that are made here.
    pub seed: [u8; 32],
}

/// What the caller must do.
#[derive(Clone, PartialEq, Eq)]
pub enum Command {
    /// A laptop belongs to the pool: it gets the client's connection file.
    AdmittedClient {
        link: LinkId,
        node: NodeId,
    },
    /// A node belongs to the pool: its engines get a connection file with this key.
    AdmittedNode {
        link: LinkId,
        node: NodeId,
        engine_key: SecretKey,
    },
    Close {
        link: LinkId,
        reason: String,
    },
    /// The keys that engines may have, all of them: who has another is cut off.
    EngineKeys(BTreeSet<PublicKey>),
    Forget(NodeId),
    /// A node said that it stops: its engines are gone, or will be at once.
    Left {
        node: NodeId,
    },
    /// A node will stop: its engines are to get no more work, while this connection lasts.
    Stopping {
        node: NodeId,
    },
    Save(NodeRow),
    Send {
        link: LinkId,
        message: ToNode,
    },
}

/// The machine. See the module.
pub struct Admission {
    config: Config,
    own: Option<NodeId>,
    nodes: BTreeMap<NodeId, Node>,
    links: BTreeMap<LinkId, Link>,
    knocks: Knocks,
    window: Option<Window>,
    complaints: Complaints,
    keys_made: u64,
    refused: u64,
    epoch: u64,
    commands: VecDeque<Command>,
}

struct Node {
    row: NodeRow,
    link: Option<LinkId>,
    /// Its connection will end, because it said so.
    stopping: bool,
    report: Report,
    /// Since when it is in the state in which people see it.
    since: Duration,
}

struct Link {
    source: IpAddr,
    stage: Stage,
    opened: Duration,
    heard: Duration,
}

#[derive(Clone, Copy)]
enum Stage {
    Opening,
    Handshake(Mode),
    Proven(Mode, NodeKey),
    /// Pending or joined, as its row tells.
    Known(NodeId),
}

struct Window {
    until: Duration,
    left: u32,
}

/// From the first byte to the introduction.
const HANDSHAKE_TIME: Duration = Duration::from_secs(5);
/// Both sides say every second that they live.
const SILENCE: Duration = Duration::from_secs(3);

/// What somebody reads who is not let in.
const WRONG_POOL: &str = "this is the controller of another pool";
const TOO_OFTEN: &str = "too many attempts: wait half a minute";
const BUSY: &str = "too many are joining at this moment";
const WRONG_JOIN_KEY: &str = "the join key is not that of this pool: compare join_key in piparallel.toml with the controller's";
const WRONG_CLIENT_KEY: &str =
    "the client key is not that of this pool: ask for the one that `piparallel client-key` shows";

impl Admission {
    /// With what was saved.
    #[must_use]
    pub fn new(config: Config, epoch: u64, rows: Vec<NodeRow>) -> Self {
        let nodes = rows
            .into_iter()
            .map(|row| (row.key.id(), Node::new(row, Duration::ZERO)));
        let mut this = Self {
            config,
            own: None,
            nodes: nodes.collect(),
            links: BTreeMap::new(),
            knocks: Knocks::default(),
            window: None,
            complaints: Complaints::default(),
            keys_made: 0,
            refused: 0,
            epoch,
            commands: VecDeque::new(),
        };
        this.tell_engine_keys();
        this
    }

    /// The controller's own node. Returns the key of its engines.
    pub fn add_self(&mut self, now: Now, key: NodeKey, name: &str) -> SecretKey {
        let id = key.id();
        let known = self.nodes.remove(&id).and_then(|node| node.row.engine_key);
        let engine_key = known.unwrap_or_else(|| self.make_key());
        let row = NodeRow {
            key,
            kind: Kind::Node,
            name: shown_name(name),
            model: None,
            standing: Standing::Admitted,
            drained: false,
            engine_key: Some(engine_key.clone()),
        };
        self.own = Some(id);
        self.commands.push_back(Command::Save(row.clone()));
        self.nodes.insert(id, Node::new(row, now.monotonic));
        self.tell_engine_keys();
        engine_key
    }

    /// The controller's own node is about to stop: its engines get no more work.
    pub fn stop_self(&mut self) {
        if let Some(id) = self.own {
            self.node_stops(id);
        }
    }

    /// What the caller must now do, in this order.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// Somebody connected.
    ///
    /// # Errors
    /// The connection is to be closed, with these words. Nothing more is to be told of it.
    pub fn handle_connection(
        &mut self,
        now: Now,
        link: LinkId,
        source: IpAddr,
    ) -> Result<(), &'static str> {
        let half_open = self
            .links
            .values()
            .filter(|link| !matches!(link.stage, Stage::Known(_)));
        let refusal = if half_open.count() >= JOIN_HALF_OPEN_MAX {
            Some(BUSY)
        } else if !self.knocks.knock(now.monotonic, source) {
            Some(TOO_OFTEN)
        } else {
            None
        };
        if let Some(why) = refusal {
            self.note_refusal(now, source, why);
            return Err(why);
        }
        let (opened, heard) = (now.monotonic, now.monotonic);
        self.links.insert(
            link,
            Link {
                source,
                stage: Stage::Opening,
                opened,
                heard,
            },
        );
        Ok(())
    }

    /// The first bytes of a connection. Returns the shared key that the peer must have, if any.
    ///
    /// # Errors
    /// It wants what is not to be had here; it is to be told so.
    pub fn handle_opening(
        &mut self,
        now: Now,
        link: LinkId,
        opening: &Opening,
    ) -> Result<Option<&SharedKey>, &'static str> {
        let entry = self.links.get_mut(&link);
        let Some(entry) = entry.filter(|entry| matches!(entry.stage, Stage::Opening)) else {
            return Err(BUSY);
        };
        if opening.pool != self.config.pool {
            let source = entry.source;
            self.note_refusal(now, source, WRONG_POOL);
            return Err(WRONG_POOL);
        }
        entry.stage = Stage::Handshake(opening.mode);
        Ok(match opening.mode {
            Mode::ClientKey => Some(&self.config.client_key),
            Mode::JoinKey => Some(&self.config.join_key),
            Mode::Known | Mode::Pair => None,
        })
    }

    /// Both sides have proven their keys.
    pub fn handle_established(&mut self, link: LinkId, key: NodeKey) {
        if let Some(entry) = self.links.get_mut(&link)
            && let Stage::Handshake(mode) = entry.stage
        {
            entry.stage = Stage::Proven(mode, key);
            let source = entry.source;
            self.knocks.succeeded(source);
        }
    }

    /// A connection went wrong. Returns what its peer may be told.
    pub fn handle_failure(&mut self, now: Now, link: LinkId, error: &SessionError) -> &'static str {
        let Some(entry) = self.links.get(&link) else {
            return BUSY;
        };
        let (source, stage) = (entry.source, entry.stage);
        let words = match (error, stage) {
            (SessionError::WrongKey, Stage::Handshake(Mode::ClientKey)) => WRONG_CLIENT_KEY,
            (SessionError::WrongKey, _) => WRONG_JOIN_KEY,
            _ => "this is not how a node joins",
        };
        if matches!(stage, Stage::Known(_)) {
            self.complaints.warn(now.monotonic, "join channel", || {
                format!("the connection of the node at {source} ends: {error}")
            });
        } else {
            self.knocks.failed(source);
            let why = if *error == SessionError::WrongKey {
                words.to_owned()
            } else {
                error.to_string()
            };
            self.note_refusal(now, source, &why);
        }
        words
    }

    pub fn handle_message(&mut self, now: Now, link: LinkId, message: ToController) {
        let Some(entry) = self.links.get_mut(&link) else {
            return;
        };
        entry.heard = now.monotonic;
        match (message, entry.stage) {
            (ToController::Hello(hello), Stage::Proven(mode, key)) => {
                self.decide(now, link, mode, key, hello);
            }
            (ToController::Report(report), Stage::Known(id)) => {
                if let Some(node) = self.nodes.get_mut(&id) {
                    node.report = report;
                }
            }
            (ToController::Leaving, Stage::Known(node)) => {
                self.commands.push_back(Command::Left { node });
                self.close(now, link, "it leaves");
            }
            (ToController::Stopping, Stage::Known(id)) => self.node_stops(id),
            // Whoever says something else has nothing to say yet.
            (
                ToController::Alive
                | ToController::Hello(_)
                | ToController::Leaving
                | ToController::Report(_)
                | ToController::Stopping,
                _,
            ) => {}
        }
    }

    fn node_stops(&mut self, id: NodeId) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.stopping = true;
            self.commands.push_back(Command::Stopping { node: id });
        }
    }

    /// A connection has ended.
    pub fn handle_closed(&mut self, now: Now, link: LinkId) {
        let Some(Link {
            stage: Stage::Known(id),
            ..
        }) = self.links.remove(&link)
        else {
            return;
        };
        if let Some(node) = self.nodes.get_mut(&id)
            && node.link == Some(link)
        {
            node.link = None;
            node.stopping = false;
            node.since = now.monotonic;
        }
    }

    /// When [`Self::handle_timeout`] wants to be called.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Duration> {
        let window = self.window.as_ref().map(|window| window.until);
        self.links.values().map(Link::deadline).chain(window).min()
    }

    pub fn handle_timeout(&mut self, now: Now) {
        if self
            .window
            .as_ref()
            .is_some_and(|window| window.until <= now.monotonic)
        {
            self.window = None;
            log::info!("the pairing window is closed");
        }
        let late = self
            .links
            .iter()
            .filter(|(_, link)| link.deadline() <= now.monotonic);
        let late: Vec<LinkId> = late.map(|(id, _)| *id).collect();
        for link in late {
            self.close(now, link, "nothing was heard of it");
        }
    }

    fn close(&mut self, now: Now, link: LinkId, reason: &str) {
        self.commands.push_back(Command::Close {
            link,
            reason: reason.to_owned(),
        });
        self.handle_closed(now, link);
    }

    fn tell_engine_keys(&mut self) {
        let keys = self
            .nodes
            .values()
            .filter_map(|node| node.row.engine_key.as_ref());
        let keys = keys.map(SecretKey::public).collect();
        self.commands.push_back(Command::EngineKeys(keys));
    }

    fn make_key(&mut self) -> SecretKey {
        self.keys_made += 1;
        let mut hash = Sha256::new();
        hash.update(self.config.seed);
        hash.update(self.keys_made.to_le_bytes());
        SecretKey::new(hash.finalize().into())
    }

    fn note_refusal(&mut self, now: Now, source: IpAddr, why: &str) {
        self.refused += 1;
        let refused = self.refused;
        self.complaints.warn(now.monotonic, "join refused", || {
            format!("{source} may not join: {why} ({refused} refused so far)")
        });
    }

    /// Panics if connections and nodes do not agree, or a bound does not hold. For tests.
    pub fn check_invariants(&self) {
        self.knocks.check_invariants();
        for (id, node) in &self.nodes {
            assert_eq!(node.row.key.id(), *id);
            let is_engine_host =
                node.row.standing == Standing::Admitted && node.row.kind == Kind::Node;
            assert_eq!(node.row.engine_key.is_some(), is_engine_host, "{id}");
            if let Some(link) = node.link {
                assert!(matches!(self.links[&link].stage, Stage::Known(known) if known == *id));
                assert_ne!(node.row.standing, Standing::Revoked, "{id}");
            }
        }
        for (id, link) in &self.links {
            if let Stage::Known(node) = link.stage {
                assert_eq!(self.nodes[&node].link, Some(*id));
            }
        }
    }
}

impl Node {
    fn new(row: NodeRow, since: Duration) -> Self {
        Self {
            row,
            link: None,
            stopping: false,
            report: Report::default(),
            since,
        }
    }
}

impl Link {
    fn deadline(&self) -> Duration {
        match self.stage {
            Stage::Opening | Stage::Handshake(_) | Stage::Proven(..) => {
                self.opened + HANDSHAKE_TIME
            }
            Stage::Known(_) => self.heard + SILENCE,
        }
    }
}

/// A name as people see it: short, and fit for a terminal.
fn shown_name(name: &str) -> String {
    let name: String = name.chars().filter(|c| !c.is_control()).collect();
    let end = name.floor_char_boundary(crate::limits::NODE_NAME_MAX);
    let name = name[..end].trim();
    if name.is_empty() {
        "unnamed".to_owned()
    } else {
        name.to_owned()
    }
}

/// How somebody introduced itself, cut to what is kept.
fn shown(hello: &Hello) -> (String, Option<String>) {
    (
        shown_name(&hello.name),
        hello.model.as_deref().map(shown_name),
    )
}
