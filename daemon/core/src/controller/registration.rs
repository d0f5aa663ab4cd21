//! Engines come and go: registration, heartbeats, departure, return.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;

use super::compose::{self, ErrorContent};
use super::engines::{Departure, State};
use super::heartbeat::{is_pong, ping_text};
use super::peers::Peer;
use super::{Command, Controller};
use crate::channel::Channel;
use crate::clock::Now;
use crate::ids::{EngineId, EngineUuid, MsgId, PeerId};
use crate::limits::{CONNECT_PATIENCE, ID_LENGTH_MAX, LEAVING_GRACE, SAVE_ENGINES_PAUSE};
use crate::wire::frames::Frames;
use crate::wire::message::Message;

/// The sockets that an engine needs before it can be given work.
const SHELL_CHANNELS: [Channel; 3] = [
    Channel::MuxEngine,
    Channel::TaskEngine,
    Channel::BroadcastEngine,
];

#[derive(Deserialize)]
struct RegistrationRequest {
    uuid: String,
    #[serde(default)]
    id: Option<u32>,
}

#[derive(Deserialize)]
struct UnregistrationRequest {
    id: Option<u32>,
}

/// The text of an `engines.json`, as stock writes it too, but for `absent`: engines that are taken up
/// when they answer, though clients do not know them at present.
#[derive(Deserialize)]
struct SavedEngines {
    engines: BTreeMap<EngineId, EngineUuid>,
    #[serde(default)]
    absent: BTreeMap<EngineUuid, EngineId>,
    #[serde(default)]
    next_id: u32,
}

impl Controller {
    pub(super) fn handle_registration(&mut self, now: Now, from: PeerId, message: &Message) {
        match self.register(now, from, message) {
            Ok(content) => {
                // The engine takes whatever comes first; stock answers without a parent.
                self.send_reply(now, from, "registration_reply", None, content);
            }
            Err(error) => {
                self.complaints.warn(now.monotonic, "registration", || {
                    format!("an engine's registration was refused: {}", error.evalue)
                });
                self.send_reply(now, from, "registration_reply", None, compose::json(&error));
            }
        }
    }

    fn register(
        &mut self,
        now: Now,
        from: PeerId,
        message: &Message,
    ) -> Result<Bytes, ErrorContent> {
        let request: RegistrationRequest =
            serde_json::from_slice(message.content()).map_err(|cause| {
                ErrorContent::new(
                    "ValueError",
                    format!("unreadable registration request: {cause}"),
                )
            })?;
        if request.uuid.is_empty() || request.uuid.len() > ID_LENGTH_MAX {
            return Err(ErrorContent::new(
                "ValueError",
                format!("an engine's uuid has 1 to {ID_LENGTH_MAX} characters"),
            ));
        }
        let Some(peer) = self.peers.get(from) else {
            return Err(ErrorContent::new(
                "RuntimeError",
                "the connection has ended",
            ));
        };
        if peer.identity != request.uuid.as_bytes() {
            return Err(ErrorContent::new(
                "RuntimeError",
                format!(
                    "uuid {} was sent from a socket with another routing id: an engine registers itself only",
                    request.uuid
                ),
            ));
        }
        let (address, curve_key) = (peer.address.clone(), peer.curve_key);
        let uuid = EngineUuid::new(&request.uuid);
        let deadline = now.monotonic + self.config.registration_timeout;
        let id = self
            .engines
            .register(uuid, request.id, address, curve_key, deadline)
            .map_err(|cause| ErrorContent::new("KeyError", cause.to_string()))?;
        log::debug!("engine {id} ({}) asked to register", request.uuid);
        self.save_engines_soon(now);
        self.note_early_pong(now, id);
        Ok(compose::json(&json!({
            "status": "ok",
            "id": id,
            "hb_period": u64::try_from(self.config.heartbeat_told.as_millis()).unwrap_or(u64::MAX),
            "connection_info": self.config.engine_connection_info,
        })))
    }

    /// Has no reply, and may come from a stranger: an engine's nanny has no routing id. An engine that
    /// got no reply to its registration does not know its number.
    pub(super) fn handle_unregistration(&mut self, now: Now, from: PeerId, message: &Message) {
        let Ok(UnregistrationRequest { id }) = serde_json::from_slice(message.content()) else {
            return self.complain_unreadable(now, from, "content");
        };
        let sender = self
            .peers
            .get(from)
            .and_then(|peer| str::from_utf8(&peer.identity).ok());
        let sender = sender.filter(|name| !name.starts_with('\0'));
        let own = sender.and_then(|uuid| self.engines.id_of(uuid));
        let Some(id) = id.map(EngineId).or(own) else {
            return;
        };
        let key = self.peers.get(from).and_then(|peer| peer.curve_key);
        let has_anothers_key = self.config.engine_keys_are_known
            && self.engines.get(id).is_some_and(|e| e.curve_key != key);
        if own.is_some_and(|own| own != id) || has_anothers_key {
            let address = self.address_of(from);
            return self.complaints.warn(now.monotonic, "unregistration", || {
                format!("an engine at {address} wanted to unregister engine {id}; ignored")
            });
        }
        if self.engines.get(id).is_some() {
            self.engine_leaves(now, id, Departure::Unregistered);
        } else {
            self.engines.forget_departed_id(id);
            self.save_engines_soon(now);
        }
    }

    pub(super) fn engine_was_shut_down(&mut self, now: Now, session: &str) {
        if let Some(id) = self.engines.id_of(session) {
            self.engine_leaves(now, id, Departure::Shutdown);
        }
    }

    /// A heartbeat came back.
    pub(super) fn handle_pong(&mut self, now: Now, from: PeerId, frames: &Frames) {
        let Some(peer) = self.peers.get(from) else {
            return;
        };
        let Ok(uuid) = std::str::from_utf8(&peer.identity).map(str::to_owned) else {
            return;
        };
        if !frames
            .iter()
            .last()
            .is_some_and(|text| is_pong(now.monotonic, text))
        {
            let address = peer.address.clone();
            return self.complaints.warn(now.monotonic, "pong", || {
                format!("{address} sent something else than a heartbeat to hb_pong; ignored")
            });
        }
        if self.hearts.handle_pong(now.monotonic, &uuid) {
            return;
        }
        self.readmit_if_known(now, &uuid);
        match self.engines.id_of(&uuid) {
            Some(id) => self.first_pong(now, id),
            None => self.peers.note_pong(from, now.monotonic),
        }
    }

    /// A pending engine's heart beats. What is missing of its connections has a moment to come.
    fn first_pong(&mut self, now: Now, id: EngineId) {
        if let Some(State::Pending {
            deadline,
            ponged: false,
        }) = self.engines.get(id).map(|engine| engine.state)
        {
            let deadline = deadline.min(now.monotonic + CONNECT_PATIENCE);
            self.engines.set_state(
                id,
                State::Pending {
                    deadline,
                    ponged: true,
                },
            );
        }
        self.complete_if_connected(now, id);
    }

    /// An engine whose heart was connected before it registered has answered a ping already.
    fn note_early_pong(&mut self, now: Now, id: EngineId) {
        let Some(engine) = self.engines.get(id) else {
            return;
        };
        let heart = self.peers.route(Channel::HbPong, engine.uuid.as_bytes());
        let last_pong = heart
            .and_then(|peer| self.peers.get(peer))
            .and_then(|peer| peer.last_pong);
        if last_pong.is_some_and(|at| now.monotonic <= at + self.config.heartbeat_period * 2) {
            self.first_pong(now, id);
        }
    }

    /// An engine that was given up, or that an earlier controller knew, is still there: it keeps its
    /// uuid and all its sockets, so it needs nothing but to be announced again.
    fn readmit_if_known(&mut self, now: Now, uuid: &str) {
        if !self.engines.has_departed(uuid) {
            return;
        }
        let Some(Peer {
            address, curve_key, ..
        }) = self
            .peers
            .route(Channel::HbPong, uuid.as_bytes())
            .and_then(|peer| self.peers.get(peer))
        else {
            return;
        };
        if self.draining.contains_key(*curve_key) {
            return;
        }
        let deadline = now.monotonic + CONNECT_PATIENCE;
        if let Some(id) = self
            .engines
            .readmit(uuid, address.clone(), *curve_key, deadline)
        {
            log::debug!("engine {id} ({uuid}) answers again");
        }
    }

    /// Announces a pending engine whose heart beats, as soon as every channel can reach it.
    pub(super) fn complete_if_connected(&mut self, now: Now, id: EngineId) {
        let Some(engine) = self.engines.get(id) else {
            return;
        };
        if !matches!(engine.state, State::Pending { ponged: true, .. })
            || !self.is_connected(&engine.uuid)
            || self.draining.contains(engine)
        {
            return;
        }
        self.complete_registration(now, id);
    }

    fn has_any_connection(&self, id: EngineId) -> bool {
        self.engines.get(id).is_some_and(|engine| {
            SHELL_CHANNELS
                .iter()
                .any(|channel| self.peers.route(*channel, engine.uuid.as_bytes()).is_some())
        })
    }

    fn is_connected(&self, uuid: &EngineUuid) -> bool {
        SHELL_CHANNELS
            .iter()
            .all(|channel| self.peers.route(*channel, uuid.as_bytes()).is_some())
    }

    fn complete_registration(&mut self, now: Now, id: EngineId) {
        self.engines.set_state(id, State::Registered);
        let Some(engine) = self.engines.get(id) else {
            return;
        };
        let uuid = engine.uuid.clone();
        log::info!("engine {id} registered: {uuid} from {}", engine.address);
        self.hearts.add(now.monotonic, uuid.clone());
        self.engine_came(now, id, uuid.clone());
        if self.takes_tasks(&uuid) {
            self.scheduler.handle_engine_added(now, uuid);
        } else {
            self.scheduler.handle_congested_engine_added(uuid);
        }
        self.drain_scheduler(now);
        self.save_engines_soon(now);
    }

    /// Whether a task would reach this engine now.
    fn takes_tasks(&self, uuid: &EngineUuid) -> bool {
        self.peers
            .route(Channel::TaskEngine, uuid.as_bytes())
            .and_then(|peer| self.peers.get(peer))
            .is_some_and(|peer| !peer.congested)
    }

    /// Tells the scheduler whether an engine can be given tasks.
    pub(super) fn offer(&mut self, now: Now, id: EngineId) {
        let Some(engine) = self.engines.get(id) else {
            return;
        };
        let uuid = engine.uuid.clone();
        let takes =
            engine.is_registered() && self.takes_tasks(&uuid) && !self.draining.contains(engine);
        self.scheduler.handle_engine_congested(now, &uuid, !takes);
        self.drain_scheduler(now);
    }

    /// Begins a departure: no new work from now on; what is in flight from the engine is still routed
    /// for a moment.
    pub(super) fn engine_leaves(&mut self, now: Now, id: EngineId, departure: Departure) {
        let Some(engine) = self.engines.get(id) else {
            return;
        };
        match engine.state {
            State::Pending { .. } => {
                log::info!(
                    "registration of engine {id} cancelled: {}",
                    departure.describe()
                );
                self.engines.remove(id, departure);
                self.save_engines_soon(now);
            }
            State::Registered => {
                let deadline = now.monotonic + LEAVING_GRACE;
                self.engines.set_state(
                    id,
                    State::Leaving {
                        deadline,
                        departure,
                    },
                );
                self.offer(now, id);
            }
            // What the engine or its nanny says outweighs what the network looks like.
            State::Leaving { deadline, .. } if departure == Departure::Unregistered => {
                self.engines.set_state(
                    id,
                    State::Leaving {
                        deadline,
                        departure,
                    },
                );
            }
            State::Leaving { .. } => {}
        }
    }

    /// Ends a departure: clients are told, and what the engine still had is failed or retried.
    fn engine_left(&mut self, now: Now, id: EngineId, departure: Departure) {
        let Some(engine) = self.engines.remove(id, departure) else {
            return;
        };
        log::info!("engine {id} left: {}", departure.describe());
        self.hearts.remove(&engine.uuid);
        self.engine_went(now, id, engine.uuid.clone());
        for msg_id in engine.queue.values() {
            self.fail_stranded(now, &engine, msg_id);
        }
        let lost: Vec<MsgId> = self.scheduler.running_on(&engine.uuid).cloned().collect();
        for msg_id in &lost {
            self.tracker.assign(msg_id.as_str(), None);
        }
        self.scheduler.handle_engine_removed(now, &engine.uuid);
        self.drain_scheduler(now);
        self.save_engines_soon(now);
    }

    /// An engine's connection ended. Any of its shell's is enough: what was under way on it is lost, so
    /// the engine leaves, and comes back when it is connected again and its heart beats.
    pub(super) fn engine_disconnected(&mut self, now: Now, peer: &Peer) {
        if !SHELL_CHANNELS.contains(&peer.channel) {
            return;
        }
        let Some(id) = std::str::from_utf8(&peer.identity)
            .ok()
            .and_then(|uuid| self.engines.id_of(uuid))
        else {
            return;
        };
        if self
            .engines
            .get(id)
            .is_some_and(|engine| engine.is_registered())
        {
            self.engine_leaves(now, id, Departure::Disconnected);
        }
    }

    fn ping(&mut self, now: Now) {
        let frames = [Bytes::from(ping_text(now.monotonic))].into();
        self.commands.push_back(Command::Publish {
            channel: Channel::HbPing,
            frames,
        });
    }

    /// Pings one new subscriber outside of the beat, so that an engine need not wait for the next.
    pub(super) fn ping_one(&mut self, now: Now, peer: PeerId) {
        let frames = [Bytes::from(ping_text(now.monotonic))].into();
        self.commands.push_back(Command::Send { peer, frames });
    }

    pub(super) fn handle_engine_timeouts(&mut self, now: Now) {
        if let Some(failed) = self.hearts.handle_timeout(now.monotonic) {
            for uuid in failed {
                let Some(engine) = self.engines.by_uuid(uuid.as_str()) else {
                    continue;
                };
                let departure = match engine.state {
                    State::Leaving { departure, .. } => departure,
                    State::Pending { .. } | State::Registered => Departure::Silent,
                };
                self.engine_left(now, engine.id, departure);
            }
            self.ping(now);
        }
        while let Some(engine) = self.engines.due(now.monotonic) {
            let id = engine.id;
            match engine.state {
                State::Leaving { departure, .. } => self.engine_left(now, id, departure),
                State::Pending { ponged: true, .. }
                    if self.has_any_connection(id) && !self.draining.contains(engine) =>
                {
                    self.complete_registration(now, id)
                }
                State::Pending { .. } => {
                    self.complaints.warn(now.monotonic, "registration dropped", || {
                        format!("registration of engine {id} dropped: no heartbeat or no connection came in time")
                    });
                    self.engines.remove(id, Departure::Silent);
                }
                State::Registered => break,
            }
        }
        if self.save_engines_at.is_some_and(|at| at <= now.monotonic) {
            self.save_engines_at = None;
            let text = self.engines_json();
            self.commands.push_back(Command::SaveEngines(text));
        }
    }

    pub(super) fn next_engine_timeout(&self) -> Duration {
        let deadlines = [self.engines.next_timeout(), self.save_engines_at];
        deadlines
            .into_iter()
            .flatten()
            .fold(self.hearts.next_timeout(), Duration::min)
    }

    fn save_engines_soon(&mut self, now: Now) {
        self.save_engines_at
            .get_or_insert(now.monotonic + SAVE_ENGINES_PAUSE);
    }

    /// Takes up the engines of an earlier controller: each is announced when it answers.
    pub(super) fn restore_engines(&mut self, text: &str) -> Result<(), serde_json::Error> {
        let saved: SavedEngines = serde_json::from_str(text)?;
        for (id, uuid) in saved.engines {
            self.engines.restore(id, uuid);
        }
        for (uuid, id) in saved.absent {
            self.engines.restore(id, uuid);
        }
        self.engines.reserve(saved.next_id);
        Ok(())
    }

    /// What is not saved yet of the engine table, for a controller that ends.
    pub fn unsaved_engines(&self) -> Option<String> {
        self.save_engines_at.map(|_| self.engines_json())
    }

    fn engines_json(&self) -> String {
        let engines: serde_json::Map<String, serde_json::Value> = self
            .engines
            .registered()
            .map(|engine| (engine.id.to_string(), engine.uuid.as_str().into()))
            .collect();
        let absent: BTreeMap<&EngineUuid, EngineId> = self.engines.absent().collect();
        json!({ "engines": engines, "absent": absent, "next_id": self.engines.next_id() })
            .to_string()
    }
}
