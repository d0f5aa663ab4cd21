//! One run: a controller, its peers, the network between them, and what goes wrong.

use std::collections::BTreeMap;
use std::time::Duration;

use piparallel_core::channel::{Channel, Side};
use piparallel_core::controller::{Command, Config, Controller, DatabaseKind, Event};
use piparallel_core::ids::PeerId;
use piparallel_core::scheduler::{self, Scheme};
use piparallel_core::task_db::memory::{MemoryDb, MemoryLimits};
use piparallel_core::task_db::{DbOp, DbReply, Ticket};
use piparallel_core::wire::sign::Signer;
use serde_json::{Value, json};

use crate::chance::Chance;
use crate::client::Client;
use crate::clock::Clock;
use crate::engine::{Engine, EngineState, EngineStep};
use crate::message::Read;
use crate::net::{HostId, Net, NetStep, Owner, Packet, Way};
use crate::reference::{End, Reference};

/// Something planned.
#[derive(Debug)]
pub enum Step {
    Client(u32),
    ControllerStart,
    DbReply(u64, Ticket, DbReply),
    Drain,
    Engine(u32, EngineStep),
    EngineStart,
    Fault,
    Heal(HostId),
    Net(NetStep),
    ProbeAnswer(PeerId),
}

/// All that peers may touch.
pub struct Outside {
    pub clock: Clock<Step>,
    pub chance: Chance,
    pub net: Net,
    pub reference: Reference,
    pub signer: Signer,
    pub on_disk: bool,
    /// No more faults and requests: what is under way comes to its end.
    pub is_draining: bool,
    log: Option<Vec<String>>,
}

impl Outside {
    /// Notes what happens, if this run is being told.
    pub fn note(&mut self, text: impl FnOnce() -> String) {
        if let Some(log) = &mut self.log {
            let (at, text) = (self.clock.now().as_secs_f64(), text());
            log.push(format!("{at:10.6} {text}"));
        }
    }
}

pub struct World {
    pub outside: Outside,
    config: Config,
    controller: Option<Controller>,
    incarnation: u64,
    clients: BTreeMap<u32, Client>,
    engines: BTreeMap<u32, Engine>,
    peers_started: u32,
    saved: Option<String>,
    records: MemoryDb,
    crashes: usize,
    pub events: usize,
}

/// Virtual time with requests and faults, and after it, until everything must have ended.
const ACTIVE: Duration = Duration::from_secs(12);
const DRAIN_MAX: Duration = Duration::from_secs(200);
/// Long enough after the last fault for all hearts to be known again.
const SETTLED: Duration = Duration::from_secs(25);

impl World {
    pub fn new(seed: u64, told: bool) -> Self {
        let mut chance = Chance::new(seed);
        let signer = Signer::new(if chance.percent(10) { b"key" } else { b"" });
        let on_disk = chance.percent(75);
        let outside = Outside {
            clock: Clock::new(),
            net: Net::default(),
            reference: Reference::default(),
            signer: signer.clone(),
            on_disk,
            is_draining: false,
            log: told.then(Vec::new),
            chance,
        };
        let mut world = Self {
            config: config(seed, signer, on_disk),
            outside,
            controller: None,
            incarnation: 0,
            clients: BTreeMap::new(),
            engines: BTreeMap::new(),
            peers_started: 0,
            saved: None,
            records: MemoryDb::new(MemoryLimits::default()),
            crashes: 0,
            events: 0,
        };
        world.start_controller();
        let chance = &mut world.outside.chance;
        let (engines, clients) = (1 + chance.below(5), 1 + chance.below(3));
        for _ in 0..engines {
            let late = world.outside.chance.millis(1, 3000);
            world.outside.clock.after(late, Step::EngineStart);
        }
        for _ in 0..clients {
            world.start_client();
        }
        world
            .outside
            .clock
            .after(Duration::from_secs(1), Step::Fault);
        world.outside.clock.after(ACTIVE, Step::Drain);
        world
    }

    pub fn take_log(&mut self) -> Vec<String> {
        self.outside.log.take().unwrap_or_default()
    }

    /// Runs to the end.
    pub fn run(&mut self) {
        while !self.is_over() {
            self.turn();
        }
        self.check_end();
    }

    fn is_over(&self) -> bool {
        let now = self.outside.clock.now();
        let ended = self.outside.reference.open().next().is_none();
        self.outside.is_draining
            && now > ACTIVE + SETTLED
            && (ended && self.clients.values().all(|c| c.outstanding.is_empty())
                || now > ACTIVE + DRAIN_MAX)
    }

    /// Handles what comes next.
    fn turn(&mut self) {
        self.events += 1;
        let timeout = self
            .controller
            .as_ref()
            .map(|controller| controller.next_timeout() + self.outside.clock.controller_start);
        let next = self.outside.clock.next();
        match (timeout, next) {
            (Some(at), next) if next.is_none_or(|next| at <= next) => {
                self.outside.clock.advance(at);
                self.outside.reference.now = self.outside.clock.now();
                self.timeout();
            }
            _ => {
                let step = self.outside.clock.pop().expect("something is planned");
                self.outside.reference.now = self.outside.clock.now();
                self.step(step);
            }
        }
        for (delay, step) in self.outside.net.take_steps() {
            self.outside.clock.after(delay, Step::Net(step));
        }
    }

    fn timeout(&mut self) {
        let now = self.outside.clock.controller_now();
        if let Some(controller) = &mut self.controller {
            controller.handle_timeout(now);
            assert!(
                controller.next_timeout() > now.monotonic,
                "the controller stands still"
            );
        }
        self.carry_out();
    }

    fn tell(&mut self, event: Event) {
        let now = self.outside.clock.controller_now();
        if let Some(controller) = &mut self.controller {
            controller.handle_event(now, event);
        }
        self.carry_out();
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Client(key) => {
                if let Some(client) = self.clients.get_mut(&key) {
                    client.act(&mut self.outside);
                }
            }
            Step::ControllerStart => self.start_controller(),
            Step::DbReply(incarnation, ticket, reply) => {
                if incarnation == self.incarnation {
                    self.tell(Event::DbReply { ticket, reply });
                }
            }
            Step::Drain => self.drain(),
            Step::Engine(key, step) => {
                if let Some(engine) = self.engines.get_mut(&key) {
                    engine.handle_step(&mut self.outside, step);
                }
            }
            Step::EngineStart => self.start_engine(),
            Step::Fault => self.fault(),
            Step::Heal(host) => {
                self.outside.note(|| format!("{host:?} heals"));
                self.outside.net.heal(&mut self.outside.chance, host);
            }
            Step::Net(NetStep::Connect(link)) => {
                self.outside.net.connect(&mut self.outside.chance, link)
            }
            Step::Net(NetStep::Gone(peer)) => {
                if self.outside.net.forget(peer) {
                    self.outside.note(|| format!("{peer} disconnected"));
                    self.tell(Event::Disconnected { peer });
                }
            }
            Step::Net(NetStep::Arrive(peer, way)) => self.arrive(peer, way),
            Step::ProbeAnswer(peer) => {
                if self.outside.net.probe(peer) == Some(true) {
                    self.tell(Event::Alive { peer });
                }
            }
        }
    }

    fn arrive(&mut self, peer: PeerId, way: Way) {
        let Some((packet, drained)) = self.outside.net.arrive(peer, way) else {
            return;
        };
        match way {
            Way::ToController => self.arrive_at_controller(peer, packet),
            Way::ToPeer => self.arrive_at_peer(peer, packet),
        }
        if drained {
            self.mark_told(peer, false);
            self.tell(Event::Drained { peer });
        }
    }

    fn arrive_at_controller(&mut self, peer: PeerId, packet: Packet) {
        let connection = &self.outside.net.connections[&peer];
        let (channel, identity) = (connection.channel, connection.identity.clone());
        match packet {
            Packet::Hello => {
                self.outside.net.introduce(peer);
                self.may_have_missed_news(peer);
                self.outside
                    .note(|| format!("{peer} connected to {channel:?} as {identity:?}"));
                let address = peer.to_string();
                self.tell(Event::Connected {
                    peer,
                    channel,
                    identity,
                    curve_key: None,
                    side: Side::Both,
                    address,
                });
            }
            Packet::Subscribe => {
                if let Some(connection) = self.outside.net.connections.get_mut(&peer) {
                    connection.subscribed = true;
                }
                self.tell(Event::Subscribed { peer });
            }
            Packet::Message(frames) => {
                if connection.admitted && channel != Channel::HbPong {
                    let read = Read::new(&frames);
                    let uuid = String::from_utf8_lossy(&identity);
                    self.outside.reference.received(peer, channel, &uuid, &read);
                    self.outside.note(|| {
                        let parent = &read.parent;
                        format!(
                            "{channel:?} {peer}: {} {} <{parent}>",
                            read.msg_type, read.msg_id
                        )
                    });
                }
                self.tell(Event::Message {
                    peer,
                    frames: frames.into(),
                });
            }
            Packet::Bye => {
                self.outside.net.forget(peer);
                self.outside.note(|| format!("{peer} said good-bye"));
                self.tell(Event::Disconnected { peer });
            }
        }
    }

    /// Notifications are not repeated for ever: what was said while a client was not subscribed, it may never learn.
    fn may_have_missed_news(&mut self, peer: PeerId) {
        if let Some(link) = self.outside.net.receiver(peer)
            && link.channel == Channel::Notification
            && let Owner::Client(key) = link.owner
            && let Some(client) = self.clients.get_mut(&key)
        {
            client.disturbed();
        }
    }

    fn arrive_at_peer(&mut self, peer: PeerId, packet: Packet) {
        let Some(link) = self.outside.net.receiver(peer) else {
            return;
        };
        let (owner, channel) = (link.owner, link.channel);
        let Packet::Message(frames) = packet else {
            return;
        };
        match owner {
            Owner::Client(key) => {
                if let Some(client) = self.clients.get_mut(&key) {
                    client.handle_message(&mut self.outside, channel, &frames);
                }
            }
            Owner::Engine(key) => {
                if let Some(engine) = self.engines.get_mut(&key) {
                    engine.handle_message(&mut self.outside, channel, frames);
                }
            }
            Owner::Nanny => {}
        }
    }

    /// Does what the controller wants, then looks whether all is right.
    fn carry_out(&mut self) {
        let mut congested = Vec::new();
        while let Some(command) = self.controller.as_mut().and_then(Controller::poll_command) {
            match command {
                Command::Send { peer, frames } => {
                    let frames = Vec::from(frames);
                    self.check_sent(peer, &frames);
                    if self
                        .outside
                        .net
                        .send_to_peer(&mut self.outside.chance, peer, frames)
                    {
                        congested.push(peer);
                    }
                }
                Command::Publish { channel, frames } => {
                    let frames = Vec::from(frames);
                    if channel == Channel::Notification {
                        let read = Read::new(&frames);
                        self.outside
                            .note(|| format!("{} {}", read.msg_type, read.content));
                        self.outside.reference.notified(&read);
                    }
                    let to = self.outside.net.connections.iter();
                    let to = to.filter(|(_, c)| c.channel == channel && c.subscribed);
                    let to: Vec<PeerId> = to.map(|(peer, _)| *peer).collect();
                    for peer in to {
                        let frames = frames.clone();
                        if self
                            .outside
                            .net
                            .send_to_peer(&mut self.outside.chance, peer, frames)
                        {
                            congested.push(peer);
                        }
                    }
                }
                Command::Close { peer, reason } => {
                    self.outside.note(|| format!("{peer} is closed: {reason}"));
                    self.outside.net.forget(peer);
                }
                Command::Probe { peer } => {
                    self.outside.note(|| format!("{peer} is probed"));
                    let time = self.outside.chance.millis(1, 20);
                    self.outside.clock.after(time, Step::ProbeAnswer(peer));
                }
                Command::Record(op) => self.record(op),
                Command::Query { ticket, request } => {
                    let reply = self.records.answer(request);
                    let time = self.outside.chance.millis(0, 50);
                    self.outside
                        .clock
                        .after(time, Step::DbReply(self.incarnation, ticket, reply));
                }
                Command::SaveEngines(text) => {
                    self.outside.note(|| format!("saved: {text}"));
                    self.saved = Some(text);
                }
                Command::Drained { .. }
                | Command::StartDask { .. }
                | Command::StopDask
                | Command::Shutdown => {
                    unreachable!("nobody asked for it")
                }
            }
        }
        let connections = &self.outside.net.connections;
        let is_connected = |peer| connections.contains_key(&peer);
        self.outside.reference.event_over(is_connected);
        if let Some(controller) = &self.controller {
            controller.check_invariants();
        }
        self.records.check_invariants();
        for peer in congested {
            self.outside.note(|| format!("{peer} is congested"));
            self.mark_told(peer, true);
            self.tell(Event::Congested { peer });
        }
    }

    fn mark_told(&mut self, peer: PeerId, congested: bool) {
        if let Some(connection) = self.outside.net.connections.get_mut(&peer) {
            connection.is_told = congested;
        }
    }

    fn record(&mut self, op: DbOp) {
        match &op {
            DbOp::Submit(record) => {
                let parts = record
                    .request
                    .as_ref()
                    .map(|parts| parts.metadata().to_vec());
                let metadata: Value = parts
                    .and_then(|json| serde_json::from_slice(&json).ok())
                    .unwrap_or_default();
                self.outside
                    .reference
                    .submitted(record.msg_id.as_str(), &metadata);
            }
            DbOp::Complete { msg_id, .. } => {
                self.outside
                    .note(|| format!("{msg_id} is recorded as finished"));
                self.outside.reference.completed(msg_id.as_str());
            }
            DbOp::Assign { .. } | DbOp::Output { .. } | DbOp::Resubmitted { .. } => {}
        }
        self.records.apply(op);
    }

    fn check_sent(&mut self, peer: PeerId, frames: &[bytes::Bytes]) {
        let Some(connection) = self.outside.net.connections.get(&peer) else {
            return;
        };
        let (channel, congested) = (connection.channel, connection.is_told);
        if channel == Channel::HbPing {
            return;
        }
        let engine = String::from_utf8_lossy(&connection.identity).into_owned();
        assert!(connection.admitted, "{peer} does not hold its routing id");
        let read = Read::new(frames);
        self.outside.note(|| {
            let (kind, id, parent) = (&read.msg_type, &read.msg_id, &read.parent);
            format!(
                "to {channel:?} {peer} {engine:?}: {kind} {id} <{parent}> {}",
                read.ename()
            )
        });
        let reference = &mut self.outside.reference;
        match (channel, channel.side()) {
            (Channel::Registration, _) => reference.hub_answered(&read),
            (Channel::ControlClient | Channel::ControlEngine, _) => {}
            (Channel::Notification, _) => reference.news_repeated(&read),
            (_, Side::Client) => reference.answered(peer, &read),
            (_, Side::Engine) => reference.sent_to_engine(channel, &engine, congested, &read),
            (_, Side::Both) => unreachable!("registration is the only one"),
        }
    }

    fn start_controller(&mut self) {
        self.incarnation += 1;
        let restored = self.saved.clone();
        self.outside
            .note(|| format!("controller {} starts", self.incarnation));
        self.outside.clock.controller_start = self.outside.clock.now();
        self.outside.net.controller_up = true;
        let session = format!("controller-{}", self.incarnation);
        let seed = self.outside.chance.next();
        let scheduler = scheduler::Config {
            seed,
            ..self.config.scheduler.clone()
        };
        let config = Config {
            engine_keys_are_known: false,
            restored_engines: restored,
            session,
            scheduler,
            ..self.config.clone()
        };
        self.controller = Some(Controller::new(config).expect("its own file is readable"));
    }

    fn crash_controller(&mut self) {
        self.outside.note(|| "the controller crashes".into());
        self.crashes += 1;
        self.controller = None;
        self.outside.net.controller_crashed();
        let on_disk = self.outside.on_disk;
        if !on_disk {
            self.records = MemoryDb::new(MemoryLimits::default());
        }
        self.outside.reference.crash(self.saved.as_deref(), on_disk);
        for client in self.clients.values_mut() {
            client.disturbed();
        }
        let pause = self.outside.chance.millis(50, 3000);
        self.outside.clock.after(pause, Step::ControllerStart);
    }

    fn start_engine(&mut self) {
        let key = self.peers_started;
        self.peers_started += 1;
        // Now and then two engines share a host.
        let shared = self.engines.values().next_back().map(|engine| engine.host);
        let shared = shared.filter(|host| !self.outside.net.hosts[host].off);
        let host = match shared {
            Some(host) if self.outside.chance.percent(30) => host,
            _ => self.outside.net.host(),
        };
        self.engines
            .insert(key, Engine::start(&mut self.outside, key, host));
    }

    fn start_client(&mut self) {
        let key = self.peers_started;
        self.peers_started += 1;
        let host = self.outside.net.host();
        self.clients
            .insert(key, Client::start(&mut self.outside, key, host));
    }

    fn fault(&mut self) {
        if self.outside.is_draining {
            return;
        }
        let next = self.outside.chance.millis(50, 2500);
        self.outside.clock.after(next, Step::Fault);
        match self.outside.chance.below(20) {
            0..9 => self.fault_of_a_host(),
            9..12 => self.outside.net.break_one(&mut self.outside.chance),
            12 | 13 => {
                let alive: Vec<u32> = self.engines.keys().copied().collect();
                if let Some(key) = self.outside.chance.pick(&alive)
                    && let Some(engine) = self.engines.get_mut(key)
                {
                    self.outside.note(|| format!("engine-{key} is killed"));
                    engine.crash(&mut self.outside);
                }
            }
            14..16 => self.start_engine(),
            16 => self.start_client(),
            17 if self.outside.on_disk => {
                let keys: Vec<u32> = self.clients.keys().copied().collect();
                if let Some(key) = self.outside.chance.pick(&keys)
                    && let Some(client) = self.clients.get_mut(key)
                {
                    client.leave(&mut self.outside);
                }
            }
            18 if self.controller.is_some() && self.outside.chance.percent(50) => {
                self.crash_controller()
            }
            _ => {}
        }
    }

    fn fault_of_a_host(&mut self) {
        let hosts: Vec<HostId> = self.outside.net.hosts.keys().copied().collect();
        let Some(host) = self.outside.chance.pick(&hosts).copied() else {
            return;
        };
        let client = self.clients.values_mut().find(|client| client.host == host);
        let net = &mut self.outside.net;
        let chance = &mut self.outside.chance;
        let kind = chance.below(6);
        let mut told = "slow";
        match (kind, client) {
            (0, _) => {
                told = "silent";
                net.hosts.entry(host).or_default().silent = true;
            }
            (1, _) => {
                told = "frozen";
                net.hosts.entry(host).or_default().frozen = true;
            }
            // Without a database on disk nobody would see how the requests of a client that left end.
            (2 | 3, Some(_)) if !self.outside.on_disk => return,
            (2 | 3, client) => {
                told = "broken";
                if let Some(client) = client {
                    client.disturbed();
                }
                net.break_host(chance, host, kind == 2);
            }
            (4, None) => {
                told = "off";
                net.hosts.entry(host).or_default().off = true;
                for engine in self
                    .engines
                    .values_mut()
                    .filter(|engine| engine.host == host)
                {
                    engine.crash(&mut self.outside);
                }
            }
            (_, _) => net.hosts.entry(host).or_default().slow = true,
        }
        self.outside.note(|| format!("{host:?} is {told}"));
        let time = match self.outside.chance.below(10) {
            0 => self.outside.chance.millis(3000, 9000),
            _ => self.outside.chance.millis(50, 2500),
        };
        self.outside.clock.after(time, Step::Heal(host));
    }

    /// From now on nothing goes wrong any more, and two fresh engines help.
    fn drain(&mut self) {
        self.outside.note(|| "drain".into());
        self.outside.is_draining = true;
        let hosts: Vec<HostId> = self.outside.net.hosts.keys().copied().collect();
        for host in hosts {
            self.outside.net.heal(&mut self.outside.chance, host);
        }
        for wait in [100, 4000] {
            self.outside
                .clock
                .after(Duration::from_millis(wait), Step::EngineStart);
        }
        // Engines that a short run killed one by one must not be missed by what waits.
        for wait in [10_000, 14_000] {
            self.outside
                .clock
                .after(Duration::from_millis(wait), Step::EngineStart);
        }
    }

    fn check_end(&mut self) {
        let reference = &self.outside.reference;
        let lost = reference.open().next();
        assert!(lost.is_none(), "a request was lost: {lost:?}");
        for client in self.clients.values() {
            let missing = &client.outstanding;
            assert!(
                missing.is_empty(),
                "client-{} waits for {missing:?}",
                client.key
            );
        }
        for engine in self
            .engines
            .values()
            .filter(|e| e.is_connected(&self.outside))
        {
            let id = engine.id.unwrap_or_default();
            if reference.expected.contains_key(&engine.uuid) {
                let announced = reference.announced.get(&engine.uuid);
                assert_eq!(announced, Some(&id), "{} did not come back", engine.uuid);
            }
        }
        for uuid in reference.announced.keys() {
            let alive = self
                .engines
                .values()
                .any(|e| e.uuid == *uuid && e.state == EngineState::Running);
            assert!(alive, "{uuid} is listed, but it is dead");
        }
        let lost = reference
            .requests
            .values()
            .filter(|r| r.end == Some(End::Lost))
            .count();
        assert!(self.crashes > 0 || lost == 0);
        self.ask_at_the_end();
    }

    /// A client that comes when all is over finds what happened.
    fn ask_at_the_end(&mut self) {
        let before = self.outside.reference.checked_queries;
        let key = self.peers_started;
        self.start_client();
        let finished: Vec<String> = self
            .outside
            .reference
            .recorded
            .iter()
            .filter(|(_, finished)| **finished)
            .map(|(id, _)| id.clone())
            .collect();
        let questions = [
            ("queue_request", json!({ "targets": null, "verbose": true })),
            ("queue_request", json!({ "targets": null })),
            ("history_request", json!({})),
            ("result_request", json!({ "msg_ids": finished })),
            (
                "db_request",
                json!({ "query": { "completed": { "$ne": null } }, "keys": ["msg_id"] }),
            ),
            ("status_request", json!({})),
        ];
        let asked = questions.len() + 1;
        for (msg_type, content) in questions {
            if let Some(client) = self.clients.get_mut(&key) {
                client.ask(&mut self.outside, msg_type, content);
            }
        }
        let end = self.outside.clock.now() + Duration::from_secs(10);
        while self.outside.clock.now() < end {
            self.turn();
        }
        assert_eq!(
            self.outside.reference.checked_queries,
            before + asked,
            "the hub is silent"
        );
    }
}

fn config(seed: u64, signer: Signer, on_disk: bool) -> Config {
    let schemes = [
        Scheme::LeastLoad,
        Scheme::Lru,
        Scheme::TwoBin,
        Scheme::PlainRandom,
        Scheme::Weighted,
    ];
    let scheduler = scheduler::Config {
        scheme: schemes[seed as usize % schemes.len()],
        hwm: [1, 1, 2, 0][(seed / 5) as usize % 4],
        ..scheduler::Config::default()
    };
    Config {
        signer,
        session: String::new(),
        heartbeat_period: Duration::from_millis(500),
        heartbeat_misses_max: 3,
        heartbeat_told: Duration::from_secs(1),
        registration_timeout: Duration::from_secs(10),
        scheduler,
        database: match on_disk {
            true => DatabaseKind::Sqlite,
            false => DatabaseKind::Memory,
        },
        engine_connection_info: json!({}),
        engine_keys_are_known: false,
        restored_engines: None,
    }
}
