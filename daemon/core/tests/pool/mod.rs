//! A pool in a test: a controller whose peers the test plays itself.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "shared by several test programs, where a panic is a failed test"
)]
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use piparallel_core::channel::{Channel, Side, SocketType};
use piparallel_core::clock::Now;
use piparallel_core::controller::{Command, Config, Controller, DatabaseKind, Event};
use piparallel_core::ids::PeerId;
use piparallel_core::scheduler;
use piparallel_core::task_db::memory::{MemoryDb, MemoryLimits};
use piparallel_core::wire::date;
use piparallel_core::wire::message::{DELIMITER, Message};
use piparallel_core::wire::sign::Signer;
use piparallel_core::wire::zmtp::PublicKey;
use serde_json::{Value, json};

pub const KEY: &[u8] = b"the pool's key";

/// A message as a test reads it.
#[derive(Clone, Debug)]
pub struct Received {
    pub routing: Vec<Bytes>,
    pub header: Value,
    pub parent: Value,
    pub metadata: Value,
    pub content: Value,
    pub buffers: Vec<Bytes>,
    pub frames: Vec<Bytes>,
}

impl Received {
    pub fn msg_type(&self) -> &str {
        self.header["msg_type"].as_str().unwrap()
    }

    pub fn msg_id(&self) -> &str {
        self.header["msg_id"].as_str().unwrap()
    }

    pub fn ename(&self) -> &str {
        self.content["ename"].as_str().unwrap_or("")
    }
}

pub struct Pool {
    pub controller: Controller,
    pub signer: Signer,
    pub now: Duration,
    next_peer: u64,
    sent: u64,
    channels: BTreeMap<PeerId, Channel>,
    inboxes: BTreeMap<PeerId, VecDeque<Vec<Bytes>>>,
    pub closed: Vec<PeerId>,
    pub probed: Vec<PeerId>,
    /// Of the connections that are made from now on.
    pub curve_key: Option<PublicKey>,
    pub drained: Vec<PublicKey>,
    pub shut_down: bool,
    pub saved_engines: Option<String>,
    records: MemoryDb,
}

/// The connections of one engine.
#[derive(Clone, Debug)]
pub struct TestEngine {
    pub uuid: String,
    pub id: u64,
    pub registration: PeerId,
    pub mux: PeerId,
    pub task: PeerId,
    pub broadcast: PeerId,
    pub control: PeerId,
    pub iopub: PeerId,
    pub hb_ping: PeerId,
    pub hb_pong: PeerId,
}

/// The connections of one client.
#[derive(Clone, Copy, Debug)]
pub struct TestClient {
    pub hub: PeerId,
    pub mux: PeerId,
    pub task: PeerId,
    pub broadcast: PeerId,
    pub control: PeerId,
    pub notification: PeerId,
    pub iopub: PeerId,
}

pub fn config() -> Config {
    Config {
        signer: Signer::new(KEY),
        session: "controller".into(),
        heartbeat_period: Duration::from_millis(500),
        heartbeat_misses_max: 4,
        heartbeat_told: Duration::from_secs(10),
        registration_timeout: Duration::from_secs(30),
        scheduler: scheduler::Config::default(),
        database: DatabaseKind::Memory,
        engine_connection_info: json!({}),
        engine_keys_are_known: false,
        restored_engines: None,
    }
}

impl Pool {
    pub fn new() -> Self {
        Self::with(config())
    }

    pub fn with(config: Config) -> Self {
        Self {
            signer: config.signer.clone(),
            controller: Controller::new(config).unwrap(),
            now: Duration::ZERO,
            next_peer: 0,
            sent: 0,
            channels: BTreeMap::new(),
            inboxes: BTreeMap::new(),
            closed: Vec::new(),
            probed: Vec::new(),
            curve_key: None,
            drained: Vec::new(),
            shut_down: false,
            saved_engines: None,
            records: MemoryDb::new(MemoryLimits::default()),
        }
    }

    pub fn now(&self) -> Now {
        Now::new(
            self.now,
            1_700_000_000_000_000 + i64::try_from(self.now.as_micros()).unwrap(),
        )
    }

    pub fn event(&mut self, event: Event) {
        self.controller.handle_event(self.now(), event);
        self.carry_out();
    }

    /// Lets time pass; every timeout in between is handled at its moment.
    pub fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.controller.next_timeout() <= end {
            self.now = self.now.max(self.controller.next_timeout());
            self.controller.handle_timeout(self.now());
            self.carry_out();
        }
        self.now = end;
    }

    fn carry_out(&mut self) {
        while let Some(command) = self.controller.poll_command() {
            match command {
                Command::Send { peer, frames } => self
                    .inboxes
                    .entry(peer)
                    .or_default()
                    .push_back(frames.into()),
                Command::Publish { channel, frames } => {
                    let subscribers = self.channels.iter().filter(|(_, c)| **c == channel);
                    for (peer, _) in subscribers {
                        self.inboxes
                            .entry(*peer)
                            .or_default()
                            .push_back(frames.clone().into());
                    }
                }
                Command::Close { peer, .. } => {
                    self.closed.push(peer);
                    self.channels.remove(&peer);
                }
                Command::Probe { peer } => self.probed.push(peer),
                Command::SaveEngines(text) => self.saved_engines = Some(text),
                Command::Drained { curve_key } => self.drained.push(curve_key),
                Command::Shutdown => self.shut_down = true,
                Command::Record(op) => self.records.apply(op),
                Command::Query { ticket, request } => {
                    let reply = self.records.answer(request);
                    let now = self.now();
                    self.controller
                        .handle_event(now, Event::DbReply { ticket, reply });
                }
                Command::StartDask { .. } | Command::StopDask => {}
            }
        }
    }

    pub fn connect(&mut self, channel: Channel, identity: &str) -> PeerId {
        self.connect_with(channel, identity, self.curve_key, Side::Both)
    }

    /// Connects with a CURVE key of its own, and the key of ours that a side knows.
    pub fn connect_with(
        &mut self,
        channel: Channel,
        identity: &str,
        curve_key: Option<PublicKey>,
        side: Side,
    ) -> PeerId {
        self.next_peer += 1;
        let peer = PeerId(self.next_peer);
        self.channels.insert(peer, channel);
        let identity = Bytes::copy_from_slice(identity.as_bytes());
        let address = format!("10.0.0.1:{}", self.next_peer);
        self.event(Event::Connected {
            peer,
            channel,
            identity,
            curve_key,
            side,
            address,
        });
        if channel.socket_type() == SocketType::Pub {
            self.event(Event::Subscribed { peer });
        }
        peer
    }

    pub fn disconnect(&mut self, peer: PeerId) {
        self.channels.remove(&peer);
        self.event(Event::Disconnected { peer });
    }

    pub fn header(&mut self, msg_type: &str) -> Value {
        self.sent += 1;
        let date = date::format(self.now().unix_micros);
        json!({"msg_id": format!("client_{}", self.sent), "msg_type": msg_type, "session": "client", "date": date})
    }

    pub fn frames(&self, routing: &[&str], parts: [&Value; 4], buffers: &[&str]) -> Vec<Bytes> {
        let parts = parts.map(|part| Bytes::from(part.to_string()));
        let mut frames: Vec<Bytes> = routing
            .iter()
            .map(|r| Bytes::copy_from_slice(r.as_bytes()))
            .collect();
        frames.push(Bytes::from_static(DELIMITER));
        frames.push(self.signer.sign(&parts));
        frames.extend(parts);
        frames.extend(buffers.iter().map(|b| Bytes::copy_from_slice(b.as_bytes())));
        frames
    }

    /// Sends a request; returns its message id.
    pub fn request(
        &mut self,
        peer: PeerId,
        routing: &[&str],
        msg_type: &str,
        metadata: Value,
        content: Value,
    ) -> String {
        let header = self.header(msg_type);
        let frames = self.frames(
            routing,
            [&header, &json!({}), &metadata, &content],
            &["argument"],
        );
        self.event(Event::Message {
            peer,
            frames: frames.into(),
        });
        header["msg_id"].as_str().unwrap().to_owned()
    }

    /// Asks the hub and returns its answer.
    pub fn ask(&mut self, peer: PeerId, msg_type: &str, content: Value) -> Received {
        let msg_id = self.request(peer, &[], msg_type, json!({}), content);
        let reply = self.receive(peer);
        assert_eq!(reply.parent["msg_id"], msg_id.as_str());
        reply
    }

    /// Asks for the registration of an engine; the reply has no parent.
    pub fn ask_to_register(&mut self, peer: PeerId, uuid: &str) -> Received {
        let content = json!({ "uuid": uuid });
        self.request(peer, &[], "registration_request", json!({}), content);
        self.receive(peer)
    }

    /// An engine's reply to a request it received.
    pub fn reply(&mut self, peer: PeerId, request: &Received, metadata: Value, content: Value) {
        let header = self.header("apply_reply");
        let routing: Vec<String> = request
            .routing
            .iter()
            .map(|r| String::from_utf8_lossy(r).into_owned())
            .collect();
        let mut frames = self.frames(
            &[],
            [&header, &request.header, &metadata, &content],
            &["result"],
        );
        // Routing ids are bytes, not text.
        frames.splice(0..0, request.routing.iter().cloned());
        assert_eq!(routing.len(), request.routing.len());
        self.event(Event::Message {
            peer,
            frames: frames.into(),
        });
    }

    pub fn reply_ok(&mut self, peer: PeerId, request: &Received, uuid: &str) {
        let metadata =
            json!({"status": "ok", "engine": uuid, "started": "2026-01-01T00:00:00.000001Z"});
        self.reply(peer, request, metadata, json!({"status": "ok"}));
    }

    pub fn reply_error(&mut self, peer: PeerId, request: &Received, uuid: &str) {
        let metadata = json!({"status": "error", "engine": uuid});
        let content = json!({"status": "error", "ename": "ZeroDivisionError", "evalue": "", "traceback": [],
            "engine_info": {"engine_uuid": uuid}});
        self.reply(peer, request, metadata, content);
    }

    pub fn poll_frames(&mut self, peer: PeerId) -> Option<Vec<Bytes>> {
        self.inboxes.get_mut(&peer)?.pop_front()
    }

    /// What a peer got next, with its signature checked.
    pub fn poll(&mut self, peer: PeerId) -> Option<Received> {
        let frames = self.poll_frames(peer)?;
        let message = Message::parse(frames.clone()).unwrap();
        self.signer
            .verify(message.signature(), message.signed_parts())
            .unwrap();
        let read = |part: &[u8]| serde_json::from_slice(part).unwrap();
        Some(Received {
            routing: message.routing(),
            header: read(message.header()),
            parent: read(message.parent_header()),
            metadata: read(message.metadata()),
            content: read(message.content()),
            buffers: message.buffers().collect(),
            frames,
        })
    }

    pub fn receive(&mut self, peer: PeerId) -> Received {
        self.poll(peer).expect("a message")
    }

    #[track_caller]
    pub fn nothing_for(&mut self, peer: PeerId) {
        assert!(self.poll(peer).is_none(), "nothing was expected");
    }

    /// A client on all channels.
    pub fn client(&mut self) -> TestClient {
        TestClient {
            hub: self.connect(Channel::Registration, ""),
            mux: self.connect(Channel::MuxClient, ""),
            task: self.connect(Channel::TaskClient, ""),
            broadcast: self.connect(Channel::BroadcastClient, ""),
            control: self.connect(Channel::ControlClient, ""),
            notification: self.connect(Channel::Notification, ""),
            iopub: self.connect(Channel::IopubClient, ""),
        }
    }

    /// An engine that asked to register and is connected, but whose heart has not beaten.
    pub fn pending_engine(&mut self, uuid: &str) -> TestEngine {
        let registration = self.connect(Channel::Registration, uuid);
        self.request(
            registration,
            &[],
            "registration_request",
            json!({}),
            json!({"uuid": uuid}),
        );
        let reply = self.receive(registration);
        assert_eq!(reply.content["status"], "ok", "{reply:?}");
        TestEngine {
            uuid: uuid.into(),
            id: reply.content["id"].as_u64().unwrap(),
            registration,
            mux: self.connect(Channel::MuxEngine, uuid),
            task: self.connect(Channel::TaskEngine, uuid),
            broadcast: self.connect(Channel::BroadcastEngine, uuid),
            control: self.connect(Channel::ControlEngine, uuid),
            iopub: self.connect(Channel::IopubEngine, uuid),
            hb_ping: self.connect(Channel::HbPing, ""),
            hb_pong: self.connect(Channel::HbPong, uuid),
        }
    }

    /// A registered engine.
    pub fn engine(&mut self, uuid: &str) -> TestEngine {
        let engine = self.pending_engine(uuid);
        self.beat(&engine);
        engine
    }

    /// Answers all pings that came for an engine.
    pub fn beat(&mut self, engine: &TestEngine) {
        while let Some(frames) = self.poll_frames(engine.hb_ping) {
            self.event(Event::Message {
                peer: engine.hb_pong,
                frames: frames.into(),
            });
        }
    }

    /// Lets time pass while these engines answer their pings.
    pub fn live(&mut self, time: Duration, engines: &[&TestEngine]) {
        let end = self.now + time;
        while self.now < end {
            self.pass(Duration::from_millis(100).min(end - self.now));
            for engine in engines {
                self.beat(engine);
            }
        }
    }

    /// All connections of an engine end, as when its process is killed.
    pub fn kill(&mut self, engine: &TestEngine) {
        for peer in [
            engine.registration,
            engine.mux,
            engine.task,
            engine.broadcast,
            engine.control,
            engine.iopub,
            engine.hb_ping,
            engine.hb_pong,
        ] {
            self.disconnect(peer);
        }
    }
}
