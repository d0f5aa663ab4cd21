//! A stock engine with its nanny: registers once, answers pings even while it is busy, runs one message
//! at a time, never registers again, and gives the controller up after a long time without pings.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use piparallel_core::channel::Channel;
use piparallel_core::wire::date;
use piparallel_core::wire::message::SignedPart;
use serde_json::{Value, json};

use crate::message::{Read, Session};
use crate::net::{HostId, LinkId, Owner};
use crate::world::{Outside, Step};

/// What an engine waits for.
#[derive(Clone, Copy, Debug)]
pub enum EngineStep {
    /// No registration reply came.
    GiveUp,
    Exit,
    Watch,
    Work,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineState {
    Registering,
    Running,
    Gone,
}

pub struct Engine {
    pub key: u32,
    pub uuid: String,
    pub host: HostId,
    /// As the controller told it.
    pub id: Option<u64>,
    pub state: EngineState,
    links: BTreeMap<Channel, LinkId>,
    session: Session,
    queue: VecDeque<(Channel, Vec<Bytes>)>,
    busy: bool,
    last_ping: Duration,
    has_nanny: bool,
}

const REGISTRATION_TIMEOUT: Duration = Duration::from_secs(5);
/// In stock 50 times the told period and a half second more.
const PINGS_GIVEN_UP: Duration = Duration::from_secs(75);
const WATCH: Duration = Duration::from_millis(1500);

impl Engine {
    pub fn start(outside: &mut Outside, key: u32, host: HostId) -> Self {
        let uuid = format!("engine-{key}");
        let mut session = Session::new(uuid.clone(), outside.signer.clone());
        let registration = outside
            .net
            .open(Owner::Engine(key), host, Channel::Registration, &uuid);
        let content = json!({ "uuid": uuid });
        let now = outside.clock.unix_micros();
        let (_, frames) = session.message(now, "registration_request", None, &json!({}), &content);
        outside.net.send(&mut outside.chance, registration, frames);
        outside
            .clock
            .after(REGISTRATION_TIMEOUT, Step::Engine(key, EngineStep::GiveUp));
        Self {
            key,
            uuid,
            host,
            id: None,
            state: EngineState::Registering,
            links: BTreeMap::from([(Channel::Registration, registration)]),
            session,
            queue: VecDeque::new(),
            busy: false,
            last_ping: outside.clock.now(),
            has_nanny: outside.chance.percent(80),
        }
    }

    /// All its sockets are connected.
    pub fn is_connected(&self, outside: &Outside) -> bool {
        self.state == EngineState::Running
            && self.links.values().all(|link| outside.net.is_up(*link))
    }

    pub fn handle_message(&mut self, outside: &mut Outside, channel: Channel, frames: Vec<Bytes>) {
        match channel {
            Channel::Registration => self.registered(outside, &Read::new(&frames)),
            Channel::HbPing => {
                self.last_ping = outside.clock.now();
                self.send(outside, Channel::HbPong, frames);
            }
            Channel::ControlEngine => {
                let request = Read::new(&frames);
                self.reply(outside, channel, &request, "ok");
            }
            _ => {
                self.queue.push_back((channel, frames));
                self.work(outside);
            }
        }
    }

    pub fn handle_step(&mut self, outside: &mut Outside, step: EngineStep) {
        if outside.net.hosts[&self.host].frozen {
            let again = Duration::from_millis(200);
            return outside.clock.after(again, Step::Engine(self.key, step));
        }
        match (step, self.state) {
            (_, EngineState::Gone) => {}
            (EngineStep::GiveUp, EngineState::Registering) => {
                self.say(outside, "unregistration_request", json!({ "id": null }));
                let pause = Duration::from_secs(1);
                outside
                    .clock
                    .after(pause, Step::Engine(self.key, EngineStep::Exit));
            }
            (EngineStep::GiveUp, EngineState::Running) => {}
            (EngineStep::Exit, _) => self.crash(outside),
            (EngineStep::Watch, _) => {
                if outside.clock.now() > self.last_ping + PINGS_GIVEN_UP {
                    self.say(outside, "unregistration_request", json!({ "id": self.id }));
                    self.crash(outside);
                } else {
                    outside.clock.after(WATCH, Step::Engine(self.key, step));
                }
            }
            (EngineStep::Work, _) => self.finish(outside),
        }
    }

    /// The process ends. Its nanny, if the host lives, says so.
    pub fn crash(&mut self, outside: &mut Outside) {
        if self.state == EngineState::Gone {
            return;
        }
        self.state = EngineState::Gone;
        for link in self.links.values() {
            outside.net.close(&mut outside.chance, *link);
        }
        if let Some(id) = self.id
            && self.has_nanny
            && !outside.net.hosts[&self.host].off
        {
            let link = outside
                .net
                .open(Owner::Nanny, self.host, Channel::Registration, "");
            let content = json!({ "id": id });
            let now = outside.clock.unix_micros();
            let (_, frames) =
                self.session
                    .message(now, "unregistration_request", None, &json!({}), &content);
            outside.net.send(&mut outside.chance, link, frames);
        }
    }

    fn registered(&mut self, outside: &mut Outside, reply: &Read) {
        if self.state != EngineState::Registering || reply.msg_type != "registration_reply" {
            return;
        }
        if !reply.is_ok() {
            return self.crash(outside);
        }
        self.id = reply.content["id"].as_u64();
        self.state = EngineState::Running;
        self.last_ping = outside.clock.now();
        for channel in [
            Channel::MuxEngine,
            Channel::TaskEngine,
            Channel::BroadcastEngine,
            Channel::ControlEngine,
            Channel::IopubEngine,
            Channel::HbPing,
            Channel::HbPong,
        ] {
            let identity = if channel == Channel::HbPing {
                ""
            } else {
                &self.uuid
            };
            let link = outside
                .net
                .open(Owner::Engine(self.key), self.host, channel, identity);
            self.links.insert(channel, link);
        }
        outside
            .clock
            .after(WATCH, Step::Engine(self.key, EngineStep::Watch));
    }

    fn work(&mut self, outside: &mut Outside) {
        let Some((channel, frames)) = self.queue.front() else {
            return;
        };
        if self.busy || self.state != EngineState::Running {
            return;
        }
        self.busy = true;
        let request = Read::new(frames);
        outside.reference.executed(*channel, &request, &self.uuid);
        outside.note(|| format!("{} starts {}", self.uuid, request.msg_id));
        let output = json!({ "name": "stdout", "text": "x" });
        let header = request.message.bytes(SignedPart::Header);
        let now = outside.clock.unix_micros();
        let (_, mut frames) =
            self.session
                .message(now, "stream", Some(&header), &json!({}), &output);
        frames.insert(0, Bytes::from_static(b"topic"));
        self.send(outside, Channel::IopubEngine, frames);
        let time = match outside.chance.below(10) {
            0 => outside.chance.millis(500, 3000),
            _ => outside.chance.millis(1, 200),
        };
        outside
            .clock
            .after(time, Step::Engine(self.key, EngineStep::Work));
    }

    fn finish(&mut self, outside: &mut Outside) {
        self.busy = false;
        let Some((channel, frames)) = self.queue.pop_front() else {
            return;
        };
        let request = Read::new(&frames);
        let outcome = match outside.chance.below(100) {
            0..2 if !outside.is_draining => return self.crash(outside),
            ..14 => "error",
            14..18 => "aborted",
            // A task that all refuse waits for another engine: the last to come must be willing.
            18..22 if channel == Channel::TaskEngine && !outside.is_draining => "unmet",
            _ => "ok",
        };
        outside.note(|| format!("{} ends {}: {outcome}", self.uuid, request.msg_id));
        self.reply(outside, channel, &request, outcome);
        self.work(outside);
    }

    fn reply(&mut self, outside: &mut Outside, channel: Channel, request: &Read, outcome: &str) {
        let ok = outcome == "ok";
        let now = outside.clock.unix_micros();
        let mut metadata = json!({
            "status": if outcome == "unmet" { "error" } else { outcome },
            "engine": self.uuid,
            "started": date::format(now),
            "dependencies_met": outcome != "unmet",
        });
        for key in ["is_broadcast", "is_coalescing", "original_msg_id"] {
            if let Some(value) = request.metadata.get(key) {
                metadata[key] = value.clone();
            }
        }
        let content = if ok {
            json!({ "status": "ok" })
        } else {
            json!({ "status": outcome, "ename": "ZeroDivisionError", "evalue": "", "traceback": [],
                "engine_info": { "engine_uuid": self.uuid } })
        };
        let parent = request.message.bytes(SignedPart::Header);
        let (_, reply) =
            self.session
                .message(now, "apply_reply", Some(&parent), &metadata, &content);
        let mut frames = request.message.routing();
        frames.extend(reply);
        frames.push(Bytes::from(self.uuid.clone()));
        self.send(outside, channel, frames);
    }

    fn say(&mut self, outside: &mut Outside, msg_type: &str, content: Value) {
        let now = outside.clock.unix_micros();
        let (_, frames) = self
            .session
            .message(now, msg_type, None, &json!({}), &content);
        self.send(outside, Channel::Registration, frames);
    }

    fn send(&mut self, outside: &mut Outside, channel: Channel, frames: Vec<Bytes>) {
        if let Some(link) = self.links.get(&channel) {
            outside.net.send(&mut outside.chance, *link, frames);
        }
    }
}
