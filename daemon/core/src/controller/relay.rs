//! Mux and control: the client names the engine, the controller finds it. Iopub: from each engine to
//! all clients.
//!
//! What is forwarded is untouched from the delimiter on; only routing frames change.

use bytes::Bytes;

use super::compose::ErrorContent;
use super::tracker::{Pending, Queue};
use super::{Command, Controller, RequestHeader};
use crate::channel::Channel;
use crate::clock::Now;
use crate::ids::{EngineId, MsgId, PeerId};
use crate::limits::{DIRECT_REQUESTS_MAX, ENGINE_QUEUE_MAX};
use crate::wire::header::Header;
use crate::wire::message::Message;

/// Where a request for an engine goes: its number and its connection.
pub(super) struct Destination {
    pub(super) engine: EngineId,
    pub(super) peer: PeerId,
}

impl Controller {
    /// A client's request on `mux` or `control`: `[uuid, ...]`.
    pub(super) fn handle_direct_request(
        &mut self,
        now: Now,
        from: PeerId,
        channel: Channel,
        message: Message,
    ) {
        let Some(request) = self.request_header(now, from, &message) else {
            return;
        };
        let Some(target) = message.route() else {
            let error = ErrorContent::new(
                "ValueError",
                "the message names no engine in its first frame",
            );
            return self.reply_error(now, from, &message, &request, None, &error);
        };
        let engine_side = if channel == Channel::MuxClient {
            Channel::MuxEngine
        } else {
            Channel::ControlEngine
        };
        match self.destination(engine_side, &target) {
            Err(error) => self.reply_error(now, from, &message, &request, Some(target), &error),
            Ok(destination) => {
                if channel == Channel::MuxClient && request.expects_reply() {
                    if let Err(error) = self.admit_direct(&request.msg_id, 1) {
                        return self.reply_error(
                            now,
                            from,
                            &message,
                            &request,
                            Some(target),
                            &error,
                        );
                    }
                    self.track_mux(now, &destination, &request, &message);
                }
                let Some(client) = self.peers.get(from).map(|peer| peer.identity.clone()) else {
                    return;
                };
                let frames = message.into_frames_via([client]);
                self.commands.push_back(Command::Send {
                    peer: destination.peer,
                    frames,
                });
            }
        }
    }

    /// Finds an engine by its uuid, if it can be sent something.
    pub(super) fn destination(
        &self,
        channel: Channel,
        target: &[u8],
    ) -> Result<Destination, ErrorContent> {
        let Some(engine) = str::from_utf8(target)
            .ok()
            .and_then(|uuid| self.engines.by_uuid(uuid))
            .filter(|engine| !engine.is_pending())
        else {
            let name = String::from_utf8_lossy(target);
            return Err(ErrorContent::new(
                "EngineError",
                format!("no engine with uuid {name} is registered; client.ids says which are"),
            ));
        };
        if self.draining.contains(engine) && channel != Channel::ControlEngine {
            return Err(ErrorContent::new(
                "EngineError",
                format!(
                    "engine {} takes no more work: its node is drained (see `piparallel resume`)",
                    engine.id
                ),
            ));
        }
        if engine.queue.len() >= ENGINE_QUEUE_MAX && channel != Channel::ControlEngine {
            return Err(ErrorContent::new(
                "EngineError",
                format!(
                    "engine {} has {ENGINE_QUEUE_MAX} requests to answer; wait for results before sending more",
                    engine.id
                ),
            ));
        }
        let Some(peer) = self.peers.route(channel, target) else {
            return Err(ErrorContent::new(
                "EngineError",
                format!(
                    "engine {} has no connection to {}; try again in a second",
                    engine.id,
                    channel.name()
                ),
            ));
        };
        if self.peers.get(peer).is_some_and(|peer| peer.congested) {
            return Err(ErrorContent::new(
                "EngineError",
                format!(
                    "engine {} does not take in what already waits for it; wait for its results before sending more",
                    engine.id
                ),
            ));
        }
        Ok(Destination {
            engine: engine.id,
            peer,
        })
    }

    /// Whether so many more requests for engines may be under way, the first under this id.
    pub(super) fn admit_direct(&self, msg_id: &MsgId, count: usize) -> Result<(), ErrorContent> {
        self.admit(msg_id)?;
        let tasks = self.scheduler.waiting_count() + self.scheduler.running_count();
        if self.tracker.len() - tasks + count > DIRECT_REQUESTS_MAX {
            return Err(ErrorContent::new(
                "TaskRejectError",
                format!(
                    "{DIRECT_REQUESTS_MAX} requests wait for replies of engines already; wait for results before sending more"
                ),
            ));
        }
        Ok(())
    }

    /// Whether a request of any kind may be under way under this id.
    pub(super) fn admit(&self, msg_id: &MsgId) -> Result<(), ErrorContent> {
        if self.tracker.is_pending(msg_id.as_str()) {
            return Err(ErrorContent::new(
                "ValueError",
                format!("a request {msg_id} is already under way"),
            ));
        }
        Ok(())
    }

    fn track_mux(
        &mut self,
        now: Now,
        to: &Destination,
        request: &RequestHeader,
        message: &Message,
    ) {
        let msg_id = &request.msg_id;
        let Some(engine) = self.engines.get_mut(to.engine) else {
            return;
        };
        let sequence = self.tracker.submit(
            msg_id,
            Pending {
                engine: Some(to.engine),
                queue: Queue::Mux,
            },
        );
        engine.queue.insert(sequence, msg_id.clone());
        let uuid = engine.uuid.clone();
        self.record_submit(now, msg_id, request, Queue::Mux, Some(uuid), message);
    }

    /// An engine's reply on `mux` or `control`: `[client, ...]`.
    pub(super) fn handle_direct_reply(
        &mut self,
        now: Now,
        from: PeerId,
        channel: Channel,
        message: Message,
    ) {
        let Some((uuid, client)) = self.reply_route(now, from, &message) else {
            return;
        };
        if channel == Channel::MuxEngine && !self.complete_direct(now, &uuid, &message) {
            return;
        }
        let client_side = if channel == Channel::MuxEngine {
            Channel::MuxClient
        } else {
            Channel::ControlClient
        };
        self.forward_reply(now, client_side, &client, Some(uuid), message);
    }

    /// The engine's routing id and the client that its reply goes to.
    pub(super) fn reply_route(
        &mut self,
        now: Now,
        from: PeerId,
        message: &Message,
    ) -> Option<(Bytes, Bytes)> {
        let peer = self.peers.get(from)?;
        let Some(client) = message.route() else {
            let address = &peer.address;
            self.complaints
                .warn(now.monotonic, "reply without a route", || {
                    format!("a reply from the engine at {address} names no client; dropped")
                });
            return None;
        };
        Some((peer.identity.clone(), client))
    }

    /// Notes a reply on `mux`. Returns whether its request was under way: the client of one that was
    /// failed meanwhile has its answer, and its routing id may be another's by now.
    fn complete_direct(&mut self, now: Now, uuid: &Bytes, message: &Message) -> bool {
        let Some(reply) = self.reply_header(now, message) else {
            return false;
        };
        // The engine in the request's path, not the one the reply claims.
        let Some(engine) = std::str::from_utf8(uuid)
            .ok()
            .and_then(|uuid| self.engines.by_uuid_mut(uuid))
        else {
            return false;
        };
        let whose = Pending {
            engine: Some(engine.id),
            queue: Queue::Mux,
        };
        let Some((sequence, msg_id)) = self.tracker.complete(&reply.parent_id, whose) else {
            log::debug!(
                "engine {} answered {} late, or twice",
                engine.id,
                reply.parent_id
            );
            return false;
        };
        engine.queue.remove(&sequence);
        engine.count(reply.ok);
        let uuid = engine.uuid.clone();
        self.tracker.count(reply.ok);
        self.record_complete(now, &msg_id, Some(uuid), message);
        true
    }

    /// Sends an engine's reply on to the client, with `[uuid]` or no routing frame before it.
    pub(super) fn forward_reply(
        &mut self,
        now: Now,
        channel: Channel,
        client: &Bytes,
        route: Option<Bytes>,
        message: Message,
    ) {
        if let Some(peer) = self.peers.route(channel, client) {
            let frames = message.into_frames_via(route);
            self.commands.push_back(Command::Send { peer, frames });
        } else {
            self.complaints.warn(now.monotonic, "reply to a client that left", || {
                "a reply came for a client that has disconnected; its result is only in the task database".into()
            });
        }
    }

    /// An engine's output: `[topic, ...]`, for all clients and for the record.
    pub(super) fn handle_output(&mut self, now: Now, from: PeerId, message: Message) {
        let Ok(header) = Header::parse(message.header()) else {
            return self.complain_unreadable(now, from, "header");
        };
        if header.msg_type == "shutdown_reply" {
            self.engine_was_shut_down(now, &header.session);
        } else {
            self.record_output(&header.msg_type, &message);
        }
        let frames = message.into_frames();
        self.commands.push_back(Command::Publish {
            channel: Channel::IopubClient,
            frames,
        });
    }
}
