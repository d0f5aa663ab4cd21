//! One request for many engines.
//!
//! The client sends its request once; each engine gets a copy under a message id of its own,
//! `<original>_<uuid>`, signed anew since the header differs. Buffers are shared, never copied.
//!
//! Replies of a plain broadcast go to the client one by one. A *coalescing* one has a single reply:
//! the buffers of all engines in the order of the request's targets, or an error if any engine failed.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use foldhash::HashMap;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::compose::{self, ErrorContent};
use super::tracker::{Pending, Queue};
use super::{Command, Controller, RequestHeader};
use crate::channel::Channel;
use crate::clock::Now;
use crate::ids::{EngineId, EngineUuid, MsgId, PeerId};
use crate::limits::BROADCAST_TARGETS_MAX;
use crate::wire::message::{Message, SignedPart};

#[derive(Deserialize)]
struct BroadcastMetadata {
    targets: Vec<(String, u32)>,
    #[serde(default)]
    is_coalescing: bool,
}

/// A client's request, read.
struct BroadcastRequest {
    from: PeerId,
    client: Bytes,
    header: RequestHeader,
    /// All of the header, for the copies.
    fields: Map<String, Value>,
    metadata: BroadcastMetadata,
}

/// What one engine answered.
#[derive(Debug)]
enum Answer {
    Ok {
        buffers: Vec<Bytes>,
        started: Option<String>,
    },
    Failed {
        content: Bytes,
    },
    /// It left the pool. Clients fail their own request when they hear of that.
    Left,
}

#[derive(Debug)]
struct Target {
    uuid: EngineUuid,
    id: u32,
    answer: Option<Answer>,
}

/// A coalescing broadcast that waits for its engines.
#[derive(Debug)]
struct Gathering {
    client: Bytes,
    /// The client's header, the parent of the one reply.
    header: Bytes,
    reply_type: &'static str,
    targets: Vec<Target>,
    /// Place of each engine among the targets.
    places: HashMap<EngineUuid, usize>,
    missing: usize,
}

/// Coalescing broadcasts under way, by the client's message id.
#[derive(Debug, Default)]
pub(super) struct Broadcasts {
    gatherings: BTreeMap<MsgId, Gathering>,
}

impl Controller {
    /// A client's request: no routing frame, targets in the metadata.
    pub(super) fn handle_broadcast(&mut self, now: Now, from: PeerId, message: &Message) {
        let Some(header) = self.request_header(now, from, message) else {
            return;
        };
        let metadata = match BroadcastMetadata::parse(message.metadata()) {
            Ok(metadata) => metadata,
            Err(error) => return self.reply_error(now, from, message, &header, None, &error),
        };
        if let Err(error) = self.admit_broadcast(&header.msg_id, &metadata) {
            return self.reply_error(now, from, message, &header, None, &error);
        }
        let Ok(fields) = serde_json::from_slice(message.header()) else {
            return self.complain_unreadable(now, from, "header");
        };
        let Some(client) = self.peers.get(from).map(|peer| peer.identity.clone()) else {
            return;
        };
        let request = BroadcastRequest {
            from,
            client,
            header,
            fields,
            metadata,
        };
        if request.metadata.is_coalescing {
            self.start_gathering(now, &request, message);
        }
        self.send_copies(now, &request, message);
    }

    /// Neither the request nor any of its copies is under way already.
    fn admit_broadcast(
        &self,
        msg_id: &MsgId,
        metadata: &BroadcastMetadata,
    ) -> Result<(), ErrorContent> {
        self.admit_direct(msg_id, metadata.targets.len())?;
        for (uuid, _) in &metadata.targets {
            self.admit(&copy_of(msg_id, uuid))?;
        }
        Ok(())
    }

    fn start_gathering(&mut self, now: Now, request: &BroadcastRequest, message: &Message) {
        let msg_id = &request.header.msg_id;
        let targets: Vec<Target> = request
            .metadata
            .targets
            .iter()
            .map(|(uuid, id)| Target {
                uuid: EngineUuid::new(uuid),
                id: *id,
                answer: None,
            })
            .collect();
        let places = targets
            .iter()
            .enumerate()
            .map(|(place, target)| (target.uuid.clone(), place))
            .collect();
        let gathering = Gathering {
            client: request.client.clone(),
            header: message.bytes(SignedPart::Header),
            reply_type: request.header.reply_type(),
            missing: targets.len(),
            targets,
            places,
        };
        self.tracker.submit(
            msg_id,
            Pending {
                engine: None,
                queue: Queue::Broadcast,
            },
        );
        self.record_submit(
            now,
            msg_id,
            &request.header,
            Queue::Broadcast,
            None,
            message,
        );
        self.broadcasts.gatherings.insert(msg_id.clone(), gathering);
    }

    fn send_copies(&mut self, now: Now, request: &BroadcastRequest, message: &Message) {
        let mut header = request.fields.clone();
        for (uuid, id) in &request.metadata.targets {
            let copy_id = copy_of(&request.header.msg_id, uuid);
            header.insert("msg_id".into(), copy_id.as_str().into());
            let metadata = json!({
                "targets": [[uuid, id]],
                "is_broadcast": true,
                "is_coalescing": request.metadata.is_coalescing,
                "original_msg_id": request.header.msg_id,
            });
            let parts = [
                compose::json(&header),
                message.bytes(SignedPart::ParentHeader),
                compose::json(&metadata),
                message.bytes(SignedPart::Content),
            ];
            let mut frames = vec![request.client.clone()];
            frames.extend(self.composer.sealed(parts));
            frames.extend(message.buffers());
            if let Ok(copy) = Message::parse(frames) {
                self.send_copy(now, request, uuid, copy_id, copy);
            }
        }
    }

    fn send_copy(
        &mut self,
        now: Now,
        request: &BroadcastRequest,
        uuid: &str,
        copy_id: MsgId,
        copy: Message,
    ) {
        let (engine, peer) = match self.destination(Channel::BroadcastEngine, uuid.as_bytes()) {
            Ok(destination) => (destination.engine, destination.peer),
            Err(error) if request.metadata.is_coalescing => {
                let answer = Answer::Failed {
                    content: compose::json(&error),
                };
                return self.gather(now, &request.header.msg_id, uuid, answer);
            }
            Err(error) => {
                return self.reply_error(now, request.from, &copy, &request.header, None, &error);
            }
        };
        let pending = Pending {
            engine: Some(engine),
            queue: Queue::Broadcast,
        };
        let sequence = self.tracker.submit(&copy_id, pending);
        if let Some(engine) = self.engines.get_mut(engine) {
            engine.queue.insert(sequence, copy_id.clone());
        }
        if !request.metadata.is_coalescing {
            self.record_submit(
                now,
                &copy_id,
                &request.header,
                Queue::Broadcast,
                Some(EngineUuid::new(uuid)),
                &copy,
            );
        }
        self.commands.push_back(Command::Send {
            peer,
            frames: copy.into_frames(),
        });
    }

    /// An engine's reply: `[client, ...]`, parent id `<original>_<uuid>`.
    pub(super) fn handle_broadcast_reply(&mut self, now: Now, from: PeerId, message: Message) {
        let Some((uuid, client)) = self.reply_route(now, from, &message) else {
            return;
        };
        let Some(reply) = self.reply_header(now, &message) else {
            return;
        };
        let Some(uuid) = std::str::from_utf8(&uuid).ok() else {
            return;
        };
        let Some(engine) = self.engines.by_uuid_mut(uuid) else {
            return;
        };
        let whose = Pending {
            engine: Some(engine.id),
            queue: Queue::Broadcast,
        };
        let Some((sequence, copy_id)) = self.tracker.complete(&reply.parent_id, whose) else {
            log::debug!(
                "engine {} answered {} late, or twice",
                engine.id,
                reply.parent_id
            );
            return;
        };
        engine.queue.remove(&sequence);
        engine.count(reply.ok);
        let original = original_of(&copy_id, uuid);
        if let Some(original) = original.filter(|id| self.broadcasts.gatherings.contains_key(id)) {
            let answer = if reply.ok {
                Answer::Ok {
                    buffers: message.buffers().collect(),
                    started: reply.started.map(Cow::into_owned),
                }
            } else {
                Answer::Failed {
                    content: message.bytes(SignedPart::Content),
                }
            };
            self.gather(now, &original, uuid, answer);
        } else {
            self.tracker.count(reply.ok);
            self.record_complete(now, &copy_id, Some(EngineUuid::new(uuid)), &message);
            self.forward_reply(now, Channel::BroadcastClient, &client, None, message);
        }
    }

    /// An engine left with this copy unanswered. Returns whether it belonged to a coalescing broadcast.
    pub(super) fn strand_copy(&mut self, now: Now, copy_id: &MsgId, uuid: &str) -> bool {
        let original = original_of(copy_id, uuid);
        let Some(original) = original.filter(|id| self.broadcasts.gatherings.contains_key(id))
        else {
            return false;
        };
        self.gather(now, &original, uuid, Answer::Left);
        true
    }

    fn gather(&mut self, now: Now, original: &MsgId, uuid: &str, answer: Answer) {
        let Some(gathering) = self.broadcasts.gatherings.get_mut(original) else {
            return;
        };
        let Some(place) = gathering.places.get(uuid) else {
            return;
        };
        let target = &mut gathering.targets[*place];
        if target.answer.is_none() {
            target.answer = Some(answer);
            gathering.missing -= 1;
        }
        if gathering.missing == 0
            && let Some(gathering) = self.broadcasts.gatherings.remove(original)
        {
            self.finish_gathering(now, original, &gathering);
        }
    }

    fn finish_gathering(&mut self, now: Now, original: &MsgId, gathering: &Gathering) {
        let content = gathering
            .failure()
            .unwrap_or_else(|| Bytes::from_static(br#"{"status":"ok"}"#));
        let ok = gathering.failure().is_none();
        let targets: Vec<(&EngineUuid, u32)> =
            gathering.targets.iter().map(|t| (&t.uuid, t.id)).collect();
        let metadata = compose::json(&json!({
            "status": if ok { "ok" } else { "error" },
            "is_broadcast": true,
            "is_coalescing": true,
            "original_msg_id": original,
            "broadcast_targets": targets,
            "started": gathering.started(),
        }));
        let mut frames = self.composer.message(
            now,
            gathering.reply_type,
            Some(&gathering.header),
            metadata,
            content,
        );
        if ok {
            frames.extend(gathering.targets.iter().flat_map(Target::buffers).cloned());
        }
        self.tracker.forget(original.as_str());
        self.tracker.count(ok);
        let Ok(reply) = Message::parse(frames) else {
            return;
        };
        self.record_complete(now, original, None, &reply);
        let anyone_left = gathering
            .targets
            .iter()
            .any(|t| matches!(t.answer, Some(Answer::Left)));
        if !anyone_left {
            self.forward_reply(
                now,
                Channel::BroadcastClient,
                &gathering.client,
                None,
                reply,
            );
        }
    }
}

impl Broadcasts {
    pub(super) fn len(&self) -> usize {
        self.gatherings.len()
    }

    /// Copies of coalescing broadcasts that must be under way, with their engines. Panics if a
    /// gathering does not agree with itself. For tests.
    pub(super) fn check_invariants(&self) -> BTreeMap<MsgId, EngineUuid> {
        let mut copies = BTreeMap::new();
        for (original, gathering) in &self.gatherings {
            let missing = gathering.targets.iter().filter(|t| t.answer.is_none());
            let missing: Vec<&EngineUuid> = missing.map(|target| &target.uuid).collect();
            assert_eq!(missing.len(), gathering.missing, "{original}");
            assert!(!missing.is_empty(), "{original} is complete");
            assert_eq!(gathering.places.len(), gathering.targets.len());
            for uuid in missing {
                copies.insert(copy_of(original, uuid.as_str()), uuid.clone());
            }
        }
        copies
    }

    pub(super) fn is_gathering(&self, original: &MsgId) -> bool {
        self.gatherings.contains_key(original)
    }
}

impl Target {
    fn buffers(&self) -> &[Bytes] {
        match &self.answer {
            Some(Answer::Ok { buffers, .. }) => buffers,
            _ => &[],
        }
    }

    /// The error content of an engine that failed, or left.
    fn failure(&self) -> Option<Bytes> {
        match &self.answer {
            Some(Answer::Failed { content }) => Some(content.clone()),
            Some(Answer::Left) => {
                let text = format!("engine {} left the pool before it answered", self.id);
                Some(compose::json(&ErrorContent::new("EngineError", text)))
            }
            Some(Answer::Ok { .. }) | None => None,
        }
    }
}

impl Gathering {
    /// The error of the first engine that failed, with the names of the others.
    fn failure(&self) -> Option<Bytes> {
        let mut failures = self
            .targets
            .iter()
            .filter_map(|target| Some((target.id, target.failure()?)));
        let (_, first) = failures.next()?;
        let others: Vec<String> = failures.map(|(id, _)| EngineId(id).to_string()).collect();
        if others.is_empty() {
            return Some(first);
        }
        let Ok(Value::Object(mut content)) = serde_json::from_slice(&first) else {
            return Some(first);
        };
        if let Some(Value::Array(traceback)) = content.get_mut("traceback") {
            traceback.push(format!("(engines {} failed as well)", others.join(", ")).into());
        }
        Some(compose::json(&content))
    }

    /// The earliest start; dates in ISO 8601 sort as text.
    fn started(&self) -> Option<&str> {
        self.targets
            .iter()
            .filter_map(|target| match &target.answer {
                Some(Answer::Ok { started, .. }) => started.as_deref(),
                _ => None,
            })
            .min()
    }
}

impl BroadcastMetadata {
    fn parse(json: &[u8]) -> Result<Self, ErrorContent> {
        let metadata: Self = serde_json::from_slice(json).map_err(|cause| {
            ErrorContent::new(
                "ValueError",
                format!("unreadable broadcast metadata: {cause}"),
            )
        })?;
        let distinct: BTreeSet<&str> = metadata
            .targets
            .iter()
            .map(|(uuid, _)| uuid.as_str())
            .collect();
        if distinct.is_empty()
            || distinct.len() != metadata.targets.len()
            || distinct.len() > BROADCAST_TARGETS_MAX
        {
            return Err(ErrorContent::new(
                "ValueError",
                format!(
                    "a broadcast names 1 to {BROADCAST_TARGETS_MAX} engines, each of them once"
                ),
            ));
        }
        Ok(metadata)
    }
}

/// What an engine's copy of a request is called.
fn copy_of(original: &MsgId, uuid: &str) -> MsgId {
    MsgId::new(&format!("{original}_{uuid}"))
}

/// `<original>_<uuid>` → original.
fn original_of(copy_id: &MsgId, uuid: &str) -> Option<MsgId> {
    copy_id
        .as_str()
        .strip_suffix(uuid)?
        .strip_suffix('_')
        .map(MsgId::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_names_its_original() {
        assert_eq!(
            original_of(&MsgId::new("a_1_u-2"), "u-2"),
            Some(MsgId::new("a_1"))
        );
        assert_eq!(original_of(&MsgId::new("a_1_u-2"), "u-3"), None);
    }
}
