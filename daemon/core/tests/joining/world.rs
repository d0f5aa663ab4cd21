//! A controller's door and nodes that knock, on one clock: real handshakes over connections that are slow, break, and
//! end with a crash of either side. Everything follows from a seed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use piparallel_core::clock::Now;
use piparallel_core::ids::NodeId;
use piparallel_core::join::admission::{Admission, Command, Config, LinkId, NodeRow, Standing};
use piparallel_core::join::keys::{NodeSecret, SharedKey};
use piparallel_core::join::message::{Hello, Kind, ToController, ToNode};
use piparallel_core::join::opening::{Mode, Opening};
use piparallel_core::join::session::{Event, Session};
use piparallel_core::wire::zmtp::PublicKey;

use crate::seeds::Chance;

/// What a node knocks with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Card {
    Blank,
    RightKey,
    WrongKey,
}

pub(crate) struct Node {
    pub(crate) card: Card,
    secret: NodeSecret,
    id: NodeId,
    /// The join key that it knows: what the pool told it last.
    key: Option<SharedKey>,
    is_up: bool,
    was_in: bool,
    link: Option<u64>,
    retry: Duration,
    /// What the controller said last.
    pub(crate) is_joined: bool,
    pub(crate) is_pending: bool,
}

/// One connection: both ends, and what is on its way to each.
struct Wire {
    node: usize,
    at_node: Session,
    at_door: Option<Session>,
    to_door: Vec<u8>,
    to_node: Vec<u8>,
    /// The end was not noticed yet.
    is_cut: bool,
    heard: Duration,
}

pub(crate) struct World {
    pub(crate) now: Duration,
    pub(crate) chance: Chance,
    pub(crate) nodes: Vec<Node>,
    pub(crate) door: Option<Admission>,
    wires: BTreeMap<u64, Wire>,
    /// What is on the controller's disk.
    rows: BTreeMap<NodeId, NodeRow>,
    pub(crate) key: SharedKey,
    made: u64,
    /// In percent of steps, a connection breaks.
    breaks: u64,
    engine_keys: BTreeSet<PublicKey>,
    /// Something was decided since the last check.
    is_changed: bool,
    /// Whose engines got a connection file, with which key.
    files: BTreeMap<NodeId, PublicKey>,
    pub(crate) revoked: BTreeSet<NodeId>,
    pub(crate) approved: BTreeSet<NodeId>,
    /// How many a pairing window may have let in.
    pub(crate) window_left: u32,
}

pub(crate) const STEP: Duration = Duration::from_millis(50);
const ALIVE_EVERY: Duration = Duration::from_secs(1);
const SILENCE: Duration = Duration::from_secs(3);

fn bytes(chance: &mut Chance) -> [u8; 32] {
    let mut bytes = [0; 32];
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&chance.next().to_le_bytes());
    }
    bytes
}

impl World {
    pub(crate) fn new(seed: u64, cards: &[Card], breaks: u64) -> Self {
        let mut chance = Chance::new(seed);
        let key = SharedKey::new(bytes(&mut chance));
        let nodes = cards.iter().map(|card| {
            let secret = NodeSecret::new(bytes(&mut chance));
            Node {
                card: *card,
                id: secret.public().id(),
                secret,
                key: match card {
                    Card::Blank => None,
                    Card::RightKey => Some(key.clone()),
                    Card::WrongKey => Some(SharedKey::new(bytes(&mut chance))),
                },
                is_up: true,
                was_in: false,
                link: None,
                retry: Duration::ZERO,
                is_joined: false,
                is_pending: false,
            }
        });
        let nodes = nodes.collect();
        let mut world = Self {
            now: Duration::from_secs(1),
            chance,
            nodes,
            door: None,
            wires: BTreeMap::new(),
            rows: BTreeMap::new(),
            key,
            made: 0,
            breaks,
            engine_keys: BTreeSet::new(),
            is_changed: false,
            files: BTreeMap::new(),
            revoked: BTreeSet::new(),
            approved: BTreeSet::new(),
            window_left: 0,
        };
        world.start_door();
        world
    }

    pub(crate) fn id(&self, node: usize) -> NodeId {
        self.nodes[node].id
    }

    pub(crate) fn clock(&self) -> Now {
        Now::new(self.now, 0)
    }

    /// The controller starts, with what is on its disk.
    pub(crate) fn start_door(&mut self) {
        let config = Config {
            pool: "lab".into(),
            join_key: self.key.clone(),
            client_key: SharedKey::new([2; 32]),
            seed: bytes(&mut self.chance),
        };
        let rows = self.rows.values().cloned().collect();
        self.door = Some(Admission::new(config, 1, rows));
        self.window_left = 0;
        self.obey();
    }

    pub(crate) fn crash_door(&mut self) {
        self.door = None;
        for wire in self.wires.values_mut() {
            wire.at_door = None;
            wire.is_cut = true;
        }
    }

    pub(crate) fn set_up(&mut self, node: usize, is_up: bool) {
        self.nodes[node].is_up = is_up;
        if !is_up {
            self.hang_up(node);
        }
    }

    /// What an operator decides holds if the controller says so.
    pub(crate) fn approve(&mut self, node: usize) {
        let (id, now) = (self.id(node), self.clock());
        if self
            .door
            .as_mut()
            .is_some_and(|door| door.approve(now, id).is_ok())
        {
            self.approved.insert(id);
            self.revoked.remove(&id);
        }
        self.obey();
    }

    pub(crate) fn revoke(&mut self, node: usize) {
        let (id, now) = (self.id(node), self.clock());
        if self
            .door
            .as_mut()
            .is_some_and(|door| door.revoke(now, id).is_ok())
        {
            self.revoked.insert(id);
        }
        self.obey();
    }

    pub(crate) fn open_window(&mut self, time: Duration, count: u32) {
        let now = self.clock();
        if let Some(door) = &mut self.door {
            door.open_window(now, time, count);
            self.window_left = count;
        }
        self.obey();
    }

    pub(crate) fn rotate(&mut self, key: SharedKey) {
        self.key = key.clone();
        if let Some(door) = &mut self.door {
            door.rotate_join_key(key);
        }
        self.obey();
    }

    /// Nothing breaks any more, everybody is up, and there is time.
    pub(crate) fn calm(&mut self) {
        self.breaks = 0;
        if self.door.is_none() {
            self.start_door();
        }
        for node in 0..self.nodes.len() {
            self.set_up(node, true);
        }
        self.run(Duration::from_secs(20));
    }

    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.step();
        }
    }

    fn step(&mut self) {
        self.now += STEP;
        for node in 0..self.nodes.len() {
            self.act(node);
        }
        let links: Vec<u64> = self.wires.keys().copied().collect();
        for link in links {
            if self.chance.below(10_000) < self.breaks {
                self.break_wire(link);
            }
            self.carry(link);
        }
        if self.is_time_to_live() {
            for session in self.wires.values_mut().filter_map(|w| w.at_door.as_mut()) {
                // Too early is too early.
                let _ = session.send(&to_text(&ToNode::Alive));
            }
        }
        let now = self.clock();
        if let Some(door) = &mut self.door
            && door.next_timeout().is_some_and(|at| at <= self.now)
        {
            door.handle_timeout(now);
        }
        self.obey();
        self.check();
    }

    /// A node that is not connected knocks; one that is says that it lives.
    fn act(&mut self, node: usize) {
        let Some(link) = self.nodes[node].link else {
            if self.nodes[node].is_up && self.nodes[node].retry <= self.now {
                self.knock(node);
            }
            return;
        };
        let is_late = self.wires[&link].heard + SILENCE < self.now;
        if is_late {
            return self.hang_up(node);
        }
        if self.is_time_to_live()
            && let Some(wire) = self.wires.get_mut(&link)
        {
            say(wire, &ToController::Alive);
        }
    }

    fn is_time_to_live(&self) -> bool {
        self.now.as_millis().is_multiple_of(ALIVE_EVERY.as_millis())
    }

    fn knock(&mut self, node: usize) {
        self.made += 1;
        let link = self.made;
        let entropy = [bytes(&mut self.chance), bytes(&mut self.chance)];
        let its = &mut self.nodes[node];
        its.retry = self.now + self.chance.ms(500, 2000);
        let mode = match (its.was_in && its.link.is_none(), &its.key) {
            // As a dialer does: the surest way first, then the others.
            (true, _) if self.chance.happens(70) => Mode::Known,
            (_, Some(_)) => Mode::JoinKey,
            (_, None) => Mode::Pair,
        };
        let opening = Opening {
            mode,
            pool: "lab".into(),
        };
        let key = its.key.as_ref().filter(|_| mode.needs_key());
        let [at_node, at_door] = entropy;
        let session = Session::connect(&its.secret, &opening, key, at_node);
        its.link = Some(link);
        let source = IpAddr::V4(Ipv4Addr::new(10, 0, 0, node as u8));
        let now = self.clock();
        let is_let = self
            .door
            .as_mut()
            .is_some_and(|door| door.handle_connection(now, LinkId(link), source).is_ok());
        let door_secret = NodeSecret::new([1; 32]);
        let wire = Wire {
            node,
            at_node: session,
            at_door: is_let.then(|| Session::accept(door_secret, at_door)),
            to_door: Vec::new(),
            to_node: Vec::new(),
            is_cut: !is_let,
            heard: self.now,
        };
        self.wires.insert(link, wire);
    }

    fn hang_up(&mut self, node: usize) {
        let its = &mut self.nodes[node];
        (its.is_joined, its.is_pending) = (false, false);
        let Some(link) = its.link.take() else {
            return;
        };
        // The door notices at once, or when nothing is heard any more.
        self.wires.remove(&link);
        if self.chance.happens(70) {
            self.close_at_door(link);
        }
    }

    fn close_at_door(&mut self, link: u64) {
        let now = self.clock();
        if let Some(door) = &mut self.door {
            door.handle_closed(now, LinkId(link));
        }
    }

    fn break_wire(&mut self, link: u64) {
        let Some(wire) = self.wires.get_mut(&link) else {
            return;
        };
        wire.is_cut = true;
        if self.chance.happens(50) {
            wire.at_door = None;
            self.close_at_door(link);
        }
    }

    /// Moves some of the bytes that are on their way.
    fn carry(&mut self, link: u64) {
        let Some(wire) = self.wires.get_mut(&link) else {
            return;
        };
        wire.to_door.extend(wire.at_node.take_output());
        if let Some(session) = &mut wire.at_door {
            wire.to_node.extend(session.take_output());
        }
        if wire.is_cut {
            if wire.at_door.is_none() && self.chance.happens(50) {
                let node = wire.node;
                self.hang_up(node);
            }
            return;
        }
        let much = |chance: &mut Chance, len: usize| match chance.happens(80) {
            true => len,
            false => chance.below(len as u64 + 1) as usize,
        };
        let count = much(&mut self.chance, wire.to_door.len());
        let bytes: Vec<u8> = wire.to_door.drain(..count).collect();
        let count = much(&mut self.chance, wire.to_node.len());
        let answer: Vec<u8> = wire.to_node.drain(..count).collect();
        self.at_door(link, &bytes);
        self.obey();
        self.at_node(link, &answer);
    }

    fn at_door(&mut self, link: u64, bytes: &[u8]) {
        let now = self.clock();
        let (Some(wire), Some(door)) = (self.wires.get_mut(&link), &mut self.door) else {
            return;
        };
        let Some(session) = &mut wire.at_door else {
            return;
        };
        session.handle_bytes(bytes);
        loop {
            match session.poll_event() {
                Ok(None) => return,
                Ok(Some(Event::Asked(opening))) => {
                    match door.handle_opening(now, LinkId(link), &opening) {
                        Ok(key) => session.admit(key),
                        Err(why) => session.refuse(why),
                    }
                }
                Ok(Some(Event::Established(key))) => door.handle_established(LinkId(link), key),
                Ok(Some(Event::Message(text))) => {
                    let message =
                        serde_json::from_slice(&text).expect("honest nodes say what can be read");
                    door.handle_message(now, LinkId(link), message);
                }
                Err(error) => {
                    let words = door.handle_failure(now, LinkId(link), &error);
                    session.refuse(words);
                    door.handle_closed(now, LinkId(link));
                    return;
                }
            }
        }
    }

    fn at_node(&mut self, link: u64, bytes: &[u8]) {
        let Some(wire) = self.wires.get_mut(&link) else {
            return;
        };
        let node = wire.node;
        wire.at_node.handle_bytes(bytes);
        loop {
            let Some(wire) = self.wires.get_mut(&link) else {
                return;
            };
            match wire.at_node.poll_event() {
                Ok(None) => return,
                Ok(Some(Event::Established(_))) => {
                    let name = format!("pi-{node}");
                    let kind = Kind::Node;
                    say(
                        wire,
                        &ToController::Hello(Hello {
                            kind,
                            name,
                            ..Hello::default()
                        }),
                    );
                }
                Ok(Some(Event::Message(text))) => {
                    wire.heard = self.now;
                    let message =
                        serde_json::from_slice(&text).expect("a controller says what can be read");
                    self.told(node, message);
                }
                Ok(Some(Event::Asked(_))) => panic!("nobody asks a node"),
                Err(_) => return self.hang_up(node),
            }
        }
    }

    fn told(&mut self, node: usize, message: ToNode) {
        let its = &mut self.nodes[node];
        match message {
            ToNode::Welcome { .. } => {
                (its.is_joined, its.is_pending, its.was_in) = (true, false, true);
            }
            ToNode::Pending { .. } => its.is_pending = true,
            ToNode::JoinKey { key } => its.key = key.0.parse().ok(),
            ToNode::Refused { .. } => self.hang_up(node),
            _ => {}
        }
    }

    /// Carries out what the door decided, as the shell does.
    fn obey(&mut self) {
        while let Some(command) = self.door.as_mut().and_then(Admission::poll_command) {
            self.is_changed = true;
            match command {
                Command::AdmittedNode {
                    node, engine_key, ..
                } => {
                    self.files.insert(node, engine_key.public());
                }
                Command::AdmittedClient { .. } => panic!("there are no laptops"),
                Command::Close { link, .. } => {
                    if let Some(wire) = self.wires.get_mut(&link.0) {
                        // What was said before still arrives.
                        let rest = wire.at_door.take().map(|mut s| s.take_output());
                        wire.to_node.extend(rest.unwrap_or_default());
                        let all = std::mem::take(&mut wire.to_node);
                        wire.is_cut = true;
                        self.at_node(link.0, &all);
                    }
                }
                Command::EngineKeys(keys) => self.engine_keys = keys,
                Command::Forget(id) => drop(self.rows.remove(&id)),
                Command::Save(row) => drop(self.rows.insert(row.key.id(), row)),
                Command::Send { link, message } => {
                    if let Some(session) =
                        self.wires.get_mut(&link.0).and_then(|w| w.at_door.as_mut())
                    {
                        assert!(session.send(&to_text(&message)));
                    }
                }
                Command::Left { .. } | Command::Stopping { .. } => {}
            }
        }
    }

    /// What holds at every moment.
    fn check(&mut self) {
        let Some(door) = &self.door else {
            return;
        };
        if !std::mem::take(&mut self.is_changed) {
            return;
        }
        door.check_invariants();
        let mut keys = BTreeSet::new();
        for view in door.nodes() {
            let node = self.nodes.iter().position(|n| n.id == view.id);
            let node = &self.nodes[node.expect("only nodes of this world")];
            if view.row.standing == Standing::Admitted {
                if node.card != Card::RightKey && self.approved.insert(view.id) {
                    assert!(
                        self.window_left > 0,
                        "{:?} is in, and nothing let it in",
                        node.card
                    );
                    self.window_left -= 1;
                }
                keys.extend(view.row.engine_key.as_ref().map(|key| key.public()));
            }
            if self.revoked.contains(&view.id) {
                assert_eq!(view.row.standing, Standing::Revoked);
            }
            let saved = self.rows.get(&view.id).map(|row| row.standing);
            assert_eq!(saved, Some(view.row.standing), "the disk knows what holds");
        }
        assert_eq!(
            self.engine_keys, keys,
            "engines may have the keys of admitted nodes"
        );
    }

    /// Whether a node belongs to the pool and has the file with its own key.
    pub(crate) fn is_in(&self, node: usize) -> bool {
        let id = self.id(node);
        let row = self.rows.get(&id);
        let key = row
            .and_then(|row| row.engine_key.as_ref())
            .map(|key| key.public());
        self.nodes[node].is_joined && key.is_some() && self.files.get(&id).copied() == key
    }
}

fn say(wire: &mut Wire, message: &ToController) {
    // Too early is too early.
    let _ = wire.at_node.send(&to_text(message));
}

fn to_text(message: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(message).expect("messages are JSON")
}
