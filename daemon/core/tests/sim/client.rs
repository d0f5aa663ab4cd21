//! A stock client: views that submit, hub queries, and notifications that fail what an engine that left
//! still had.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use piparallel_core::channel::Channel;
use serde_json::{Value, json};

use crate::message::{Read, Session};
use crate::net::{HostId, LinkId, Owner};
use crate::world::{Outside, Step};

pub struct Client {
    pub key: u32,
    pub host: HostId,
    pub is_gone: bool,
    links: BTreeMap<Channel, LinkId>,
    session: Session,
    engines: BTreeMap<String, u64>,
    /// Requests without an answer, and the engines that they are for.
    pub outstanding: BTreeMap<String, BTreeSet<String>>,
}

const CHANNELS: [Channel; 7] = [
    Channel::Notification,
    Channel::Registration,
    Channel::MuxClient,
    Channel::TaskClient,
    Channel::BroadcastClient,
    Channel::ControlClient,
    Channel::IopubClient,
];

impl Client {
    pub fn start(outside: &mut Outside, key: u32, host: HostId) -> Self {
        let open = |channel: &Channel| {
            let link = outside.net.open(Owner::Client(key), host, *channel, "");
            (*channel, link)
        };
        let links = CHANNELS.iter().map(open).collect();
        let mut client = Self {
            key,
            host,
            is_gone: false,
            links,
            session: Session::new(format!("client-{key}"), outside.signer.clone()),
            engines: BTreeMap::new(),
            outstanding: BTreeMap::new(),
        };
        client.ask(outside, "connection_request", json!({}));
        let first = outside.chance.millis(10, 500);
        outside.clock.after(first, Step::Client(key));
        client
    }

    pub fn leave(&mut self, outside: &mut Outside) {
        self.is_gone = true;
        self.outstanding.clear();
        for link in self.links.values() {
            outside.net.close(&mut outside.chance, *link);
        }
    }

    /// Answers may have been lost on the way; a client cannot know which.
    pub fn disturbed(&mut self) {
        self.outstanding.clear();
    }

    pub fn act(&mut self, outside: &mut Outside) {
        if self.is_gone || outside.is_draining {
            return;
        }
        let next = outside.chance.millis(5, 700);
        outside.clock.after(next, Step::Client(self.key));
        if outside.net.hosts[&self.host].frozen {
            return;
        }
        match outside.chance.below(100) {
            0..22 => self.call(outside, Channel::MuxClient),
            22..60 => self.submit(outside),
            60..73 => self.broadcast(outside),
            73..77 => self.call(outside, Channel::ControlClient),
            _ => self.query(outside),
        }
    }

    pub fn handle_message(&mut self, outside: &mut Outside, channel: Channel, frames: &[Bytes]) {
        if channel == Channel::IopubClient {
            return;
        }
        let message = Read::new(frames);
        match (channel, &*message.msg_type) {
            (Channel::Notification, "registration_notification") => {
                let uuid = message.content["uuid"].as_str().unwrap_or_default();
                let id = message.content["id"].as_u64().unwrap_or_default();
                self.engines.insert(uuid.to_owned(), id);
            }
            (Channel::Notification, _) => {
                let uuid = message.content["uuid"].as_str().unwrap_or_default();
                self.engines.remove(uuid);
                self.outstanding
                    .retain(|_, engines| !engines.contains(uuid));
            }
            (Channel::Registration, "connection_reply") => {
                for (id, uuid) in message.content["engines"].as_object().into_iter().flatten() {
                    let uuid = uuid.as_str().unwrap_or_default();
                    self.engines
                        .insert(uuid.to_owned(), id.parse().unwrap_or_default());
                }
                self.outstanding.remove(&message.parent);
            }
            _ => {
                let original = message.metadata["original_msg_id"].as_str();
                let coalesced = message.metadata["is_coalescing"] == true;
                let id = original.filter(|_| coalesced).unwrap_or(&message.parent);
                outside.note(|| format!("client-{} has the answer to {id}", self.key));
                self.outstanding.remove(id);
            }
        }
    }

    fn call(&mut self, outside: &mut Outside, channel: Channel) {
        let Some(uuid) = self.any_engine(outside) else {
            return;
        };
        let id = self.send(outside, channel, &[&uuid], json!({}), json!({}));
        if channel == Channel::MuxClient {
            self.outstanding.insert(id, BTreeSet::from([uuid]));
        }
    }

    fn submit(&mut self, outside: &mut Outside) {
        let mut metadata = json!({});
        if outside.chance.percent(30) {
            metadata["retries"] = json!(outside.chance.below(3));
        }
        if outside.chance.percent(20) {
            metadata["timeout"] = json!(0.2 + outside.chance.below(40) as f64 / 10.0);
        }
        if outside.chance.percent(20) {
            let count = 1 + outside.chance.below(3);
            let targets: Vec<_> = (0..count)
                .filter_map(|_| self.any_engine(outside))
                .collect();
            metadata["targets"] = json!(targets);
        }
        for role in ["after", "follow"] {
            if outside.chance.percent(15) {
                metadata[role] = self.dependency(outside);
            }
        }
        let id = self.send(outside, Channel::TaskClient, &[], metadata, json!({}));
        self.outstanding.insert(id, BTreeSet::new());
    }

    fn dependency(&mut self, outside: &mut Outside) -> Value {
        let known: Vec<String> = outside.reference.latest_tasks();
        let count = 1 + outside.chance.below(2);
        let mut ids: Vec<String> = (0..count)
            .filter_map(|_| outside.chance.pick(&known).cloned())
            .collect();
        if outside.chance.percent(3) {
            ids.push("nobody".into());
        }
        match outside.chance.below(4) {
            0 | 1 => json!(ids),
            n => json!({ "dependencies": ids, "all": n == 2, "success": outside.chance.percent(80),
                "failure": true }),
        }
    }

    fn broadcast(&mut self, outside: &mut Outside) {
        let chosen: Vec<(String, u64)> = self
            .engines
            .iter()
            .filter(|_| outside.chance.percent(70))
            .map(|(uuid, id)| (uuid.clone(), *id))
            .collect();
        if chosen.is_empty() {
            return;
        }
        let coalescing = outside.chance.percent(50);
        let metadata =
            json!({ "targets": chosen, "is_broadcast": true, "is_coalescing": coalescing });
        let id = self.send(outside, Channel::BroadcastClient, &[], metadata, json!({}));
        let uuids: BTreeSet<String> = chosen.into_iter().map(|(uuid, _)| uuid).collect();
        if coalescing {
            self.outstanding.insert(id, uuids);
        } else {
            for uuid in &uuids {
                self.outstanding
                    .insert(format!("{id}_{uuid}"), uuids.clone());
            }
        }
    }

    fn query(&mut self, outside: &mut Outside) {
        let some_ids = |outside: &mut Outside| -> Vec<String> {
            let known = outside.reference.latest_requests();
            (0..3)
                .filter_map(|_| outside.chance.pick(&known).cloned())
                .collect()
        };
        let verbose = outside.chance.percent(50);
        let (msg_type, content) = match outside.chance.below(20) {
            0 => ("connection_request", json!({})),
            1..6 => (
                "queue_request",
                json!({ "targets": null, "verbose": verbose }),
            ),
            6..12 => (
                "result_request",
                json!({ "msg_ids": some_ids(outside), "status_only": verbose }),
            ),
            12..15 => ("history_request", json!({})),
            15 => {
                let query = json!({ "completed": { "$ne": null } });
                ("db_request", json!({ "query": query, "keys": ["msg_id"] }))
            }
            16 => ("load_request", json!({ "targets": null })),
            17 if outside.chance.percent(20) => ("purge_request", json!({ "msg_ids": "all" })),
            17 => ("purge_request", json!({ "msg_ids": some_ids(outside) })),
            18 if outside.on_disk => ("resubmit_request", json!({ "msg_ids": some_ids(outside) })),
            _ => ("status_request", json!({})),
        };
        self.ask(outside, msg_type, content);
    }

    pub fn ask(&mut self, outside: &mut Outside, msg_type: &str, content: Value) {
        let now = outside.clock.unix_micros();
        let (id, frames) = self
            .session
            .message(now, msg_type, None, &json!({}), &content);
        outside.net.send(
            &mut outside.chance,
            self.links[&Channel::Registration],
            frames,
        );
        self.outstanding.insert(id, BTreeSet::new());
    }

    /// Mostly one that is there, sometimes one that never was.
    fn any_engine(&self, outside: &mut Outside) -> Option<String> {
        if outside.chance.percent(2) {
            return Some("nobody".into());
        }
        let known: Vec<&String> = self.engines.keys().collect();
        outside.chance.pick(&known).map(|uuid| (*uuid).clone())
    }

    fn send(
        &mut self,
        outside: &mut Outside,
        channel: Channel,
        routing: &[&str],
        metadata: Value,
        content: Value,
    ) -> String {
        let now = outside.clock.unix_micros();
        let (id, message) = self
            .session
            .message(now, "apply_request", None, &metadata, &content);
        let mut frames: Vec<Bytes> = routing
            .iter()
            .map(|frame| Bytes::copy_from_slice(frame.as_bytes()))
            .collect();
        frames.extend(message);
        frames.push(Bytes::from_static(b"argument"));
        outside
            .net
            .send(&mut outside.chance, self.links[&channel], frames);
        id
    }
}
