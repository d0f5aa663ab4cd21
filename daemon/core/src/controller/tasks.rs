//! Load-balanced tasks: between the sockets and the [`TaskScheduler`](crate::scheduler::TaskScheduler).

use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;
use std::borrow::Cow;
use std::ops::ControlFlow;

use super::compose::{self, ErrorContent};
use super::tracker::{Pending, Queue};
use super::{Command, Controller, RequestHeader};
use crate::channel::Channel;
use crate::clock::Now;
use crate::ids::{EngineUuid, MsgId, PeerId};
use crate::limits::{FRAME_OVERHEAD, WAITING_BYTES_MAX};
use crate::scheduler::{self, Failure, Outcome, Reply, Requirements, TaskRequest};
use crate::wire::date;
use crate::wire::flat::{Flat, Value, members};
use crate::wire::header::Header;
use crate::wire::message::{Message, SignedPart};

/// A task as the scheduler keeps it: whose it is, and what to send.
#[derive(Clone, Debug)]
pub(super) struct TaskJob {
    /// Routing id of the client; empty for a task that the hub submitted again.
    client: Bytes,
    message: Message,
}

/// The parts of a reply that decide what becomes of it.
#[derive(Debug)]
pub(super) struct ReplyHeader<'a> {
    /// The request that it answers.
    pub(super) parent_id: Cow<'a, str>,
    pub(super) ok: bool,
    /// When the engine began, as it says.
    pub(super) started: Option<Cow<'a, str>>,
    outcome: Outcome,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ReplyMetadata<'a> {
    #[serde(borrow)]
    status: Option<Cow<'a, str>>,
    #[serde(borrow)]
    started: Option<Cow<'a, str>>,
    dependencies_met: Option<bool>,
}

impl<'a> ReplyMetadata<'a> {
    fn parse(json: &'a [u8]) -> Result<Self, serde_json::Error> {
        match Self::scan(json) {
            Some(metadata) => Ok(metadata),
            None => serde_json::from_slice(json),
        }
    }

    /// Reads what stock engines write. `None`: it is something else.
    fn scan(json: &'a [u8]) -> Option<Self> {
        let mut metadata = Self::default();
        let mut plain = true;
        let end = members(json, |key, value| {
            match (key, value) {
                ("status", Value::Text(text)) => metadata.status = Some(Cow::Borrowed(text)),
                ("started", Value::Text(text)) => metadata.started = Some(Cow::Borrowed(text)),
                ("dependencies_met", Value::Literal(literal)) => {
                    metadata.dependencies_met = Some(literal == "true");
                    plain &= matches!(literal, "true" | "false");
                }
                ("status" | "started" | "dependencies_met", _) => plain = false,
                _ => {}
            }
            ControlFlow::Continue(())
        });
        (plain && end == Flat::Whole).then_some(metadata)
    }
}

impl ReplyMetadata<'_> {
    fn outcome(&self) -> Outcome {
        match self.status.as_deref() {
            _ if self.dependencies_met == Some(false) => Outcome::DependenciesUnmet,
            // A reply that does not say is taken for what it looks like: a reply.
            Some("ok") | None => Outcome::Ok,
            Some("aborted") => Outcome::Aborted,
            Some(_) => Outcome::Error,
        }
    }
}

impl Controller {
    /// Reads what a reply answers, and how it ended. What cannot be read is logged.
    pub(super) fn reply_header<'m>(
        &mut self,
        now: Now,
        message: &'m Message,
    ) -> Option<ReplyHeader<'m>> {
        let parent = Header::msg_id_of(message.parent_header());
        let metadata = ReplyMetadata::parse(message.metadata());
        match (parent, metadata) {
            (Ok(parent_id), Ok(metadata)) => Some(ReplyHeader {
                parent_id,
                ok: metadata.outcome() == Outcome::Ok,
                outcome: metadata.outcome(),
                started: metadata.started,
            }),
            _ => {
                self.complaints.warn(now.monotonic, "unreadable reply", || {
                    "an engine's reply has an unreadable header or metadata; dropped".into()
                });
                None
            }
        }
    }

    /// A client's task: no routing frame.
    pub(super) fn handle_task(&mut self, now: Now, from: PeerId, message: Message) {
        let Some(request) = self.request_header(now, from, &message) else {
            return;
        };
        let Some(client) = self.peers.get(from).map(|peer| peer.identity.clone()) else {
            return;
        };
        if let Err(error) = self.submit_task(now, client, &request, message.clone()) {
            self.reply_error(now, from, &message, &request, None, &error);
        }
    }

    /// Hands a task to the scheduler, and records it.
    fn submit_task(
        &mut self,
        now: Now,
        client: Bytes,
        request: &RequestHeader,
        mut message: Message,
    ) -> Result<(), ErrorContent> {
        let msg_id = &request.msg_id;
        self.admit(msg_id)?;
        let cost = cost(&message);
        if self.waiting_bytes + cost > WAITING_BYTES_MAX {
            return Err(ErrorContent::new(
                "MemoryError",
                format!(
                    "{} MB of tasks wait in the controller already; wait for results before submitting more",
                    WAITING_BYTES_MAX >> 20
                ),
            ));
        }
        self.tracker.submit(
            msg_id,
            Pending {
                engine: None,
                queue: Queue::Task,
            },
        );
        self.record_submit(now, msg_id, request, Queue::Task, None, &message);
        self.waiting_bytes += cost;
        let metadata = message.bytes(SignedPart::Metadata);
        message.detach();
        let payload = TaskJob { client, message };
        let taken = match Requirements::parse(&metadata) {
            Ok(requirements) => self.scheduler.handle_task(
                now,
                TaskRequest {
                    msg_id: msg_id.clone(),
                    requirements,
                    payload,
                },
            ),
            Err(error) => self
                .scheduler
                .handle_unreadable_task(msg_id.clone(), payload, error),
        };
        if let Err(duplicate) = taken {
            log::error!("the tracker did not know that {duplicate}");
        }
        self.drain_scheduler(now);
        Ok(())
    }

    /// Submits a recorded task anew, for no client: its result is asked of the hub.
    pub(super) fn resubmit_task(&mut self, now: Now, message: Message) -> Result<(), ErrorContent> {
        let request =
            RequestHeader::parse(message.header(), &self.latest_session).map_err(|cause| {
                ErrorContent::new("ValueError", format!("unreadable header: {cause}"))
            })?;
        self.submit_task(now, Bytes::new(), &request, message)
    }

    /// An engine's reply: `[client, ...]`.
    pub(super) fn handle_task_reply(&mut self, now: Now, from: PeerId, message: Message) {
        let Some((uuid, _)) = self.reply_route(now, from, &message) else {
            return;
        };
        let Some(reply) = self.reply_header(now, &message) else {
            return;
        };
        let Some(engine) = std::str::from_utf8(&uuid)
            .ok()
            .and_then(|uuid| self.engines.by_uuid_mut(uuid))
        else {
            return;
        };
        let (engine_id, engine_uuid) = (engine.id, engine.uuid.clone());
        match self
            .scheduler
            .handle_reply(now, &engine_uuid, &reply.parent_id, reply.outcome)
        {
            Reply::Deliver(job) => {
                engine.count(reply.ok);
                self.tracker.count(reply.ok);
                self.waiting_bytes = self.waiting_bytes.saturating_sub(cost(&job.message));
                if let Some(msg_id) = self.tracker.forget(&reply.parent_id) {
                    self.record_complete(now, &msg_id, Some(engine_uuid), &message);
                }
                if !job.client.is_empty() {
                    self.forward_reply(now, Channel::TaskClient, &job.client, Some(uuid), message);
                }
            }
            Reply::Retried => {
                self.tracker.assign(&reply.parent_id, None);
            }
            Reply::Unknown => {
                log::debug!(
                    "engine {engine_id} answered {} late, or twice",
                    reply.parent_id
                );
            }
        }
        self.drain_scheduler(now);
    }

    /// Carries out what the scheduler decided.
    pub(super) fn drain_scheduler(&mut self, now: Now) {
        while let Some(command) = self.scheduler.poll_command() {
            match command {
                scheduler::Command::Assign {
                    msg_id,
                    engine,
                    payload,
                } => self.assign(&msg_id, engine, payload),
                scheduler::Command::Fail {
                    msg_id,
                    payload,
                    reason,
                } => self.fail_task(now, &msg_id, &payload, &reason),
            }
        }
    }

    fn assign(&mut self, msg_id: &MsgId, uuid: EngineUuid, job: TaskJob) {
        let engine = self.engines.id_of(uuid.as_str());
        self.tracker.assign(msg_id.as_str(), engine);
        // Without a connection the engine is about to leave, and the task comes back.
        if let Some(peer) = self.peers.route(Channel::TaskEngine, uuid.as_bytes()) {
            let frames = job.message.into_frames_via([job.client]);
            self.commands.push_back(Command::Send { peer, frames });
        }
        self.record_assign(msg_id, uuid);
    }

    fn fail_task(&mut self, now: Now, msg_id: &MsgId, job: &TaskJob, failure: &Failure) {
        let content = ErrorContent::explained(
            failure.ename(),
            failure.evalue(msg_id),
            failure.traceback(msg_id),
        );
        let engine = failure.engine();
        let metadata = match engine {
            Some(engine) => {
                let date = date::format(now.unix_micros);
                compose::json(&json!({ "status": "error", "engine": engine, "date": date }))
            }
            None => compose::empty_object(),
        };
        let header = job.message.bytes(SignedPart::Header);
        let mut frames = self.composer.message(
            now,
            "apply_reply",
            Some(&header),
            metadata,
            compose::json(&content),
        );
        if let Some(engine) = engine {
            frames.insert(0, Bytes::copy_from_slice(engine.as_bytes()));
        }
        self.tracker.forget(msg_id.as_str());
        self.tracker.count(false);
        self.waiting_bytes = self.waiting_bytes.saturating_sub(cost(&job.message));
        let Ok(reply) = Message::parse(frames) else {
            return;
        };
        self.record_complete(now, msg_id, engine.cloned(), &reply);
        if let Some(peer) = self.peers.route(Channel::TaskClient, &job.client) {
            self.commands.push_back(Command::Send {
                peer,
                frames: reply.into_frames(),
            });
        }
    }
}

/// Bytes that a waiting message takes, so that many empty frames count too.
fn cost(message: &Message) -> usize {
    message.size() + message.frame_count() * FRAME_OVERHEAD
}
