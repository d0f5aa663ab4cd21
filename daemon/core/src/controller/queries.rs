//! What clients ask the hub.
//!
//! A question about tasks goes to the task database, whose answer may come later: it waits under a
//! `Ticket` with the connection that asked.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::compose::{self, ErrorContent};
use super::{Command, Controller, DaskAddress};
use crate::channel::Side;
use crate::clock::Now;
use crate::ids::{EngineId, EngineUuid, MsgId, PeerId};
use crate::limits::{SHUTDOWN_PAUSE, WAITING_QUERIES_MAX};
use crate::task_db::query::Find;
use crate::task_db::{DbReply, DbRequest, Purge, Results, StoredRequest, Ticket};
use crate::wire::date;
use crate::wire::message::Message;

/// Who asked, and the header of the question.
#[derive(Clone, Debug)]
pub(super) struct Asker {
    peer: PeerId,
    parent: Bytes,
}

/// A question that waits for the database, and what to do with the answer.
#[derive(Debug)]
pub(super) enum Waiting {
    /// Pass the answer's content on under this type.
    Pass {
        asker: Asker,
        reply_type: &'static str,
    },
    Purge {
        asker: Asker,
    },
    /// Which tasks these engines finished: for a verbose `queue_request`.
    Queues {
        asker: Asker,
        engines: Vec<EngineId>,
    },
    Resubmit {
        asker: Asker,
    },
}

#[derive(Deserialize)]
struct QueueRequest {
    #[serde(default)]
    targets: Targets,
    #[serde(default)]
    verbose: bool,
}

/// Engines by number or uuid. Stock clients send null for all, one, or a list.
#[derive(Default, Deserialize)]
#[serde(from = "Value")]
enum Targets {
    #[default]
    All,
    Some(Vec<Value>),
}

impl From<Value> for Targets {
    fn from(value: Value) -> Self {
        match value {
            Value::Null => Self::All,
            Value::Array(targets) => Self::Some(targets),
            one => Self::Some(vec![one]),
        }
    }
}

#[derive(Deserialize)]
struct ResultRequest {
    msg_ids: Vec<MsgId>,
    #[serde(default)]
    status_only: bool,
}

#[derive(Deserialize)]
struct PurgeRequest {
    #[serde(default)]
    msg_ids: Option<Value>,
    #[serde(default)]
    engine_ids: Option<Targets>,
}

#[derive(Deserialize)]
struct ResubmitRequest {
    msg_ids: Vec<MsgId>,
}

#[derive(Deserialize)]
struct DaskRequest {
    #[serde(default)]
    scheduler_args: Option<Box<RawValue>>,
}

impl Controller {
    /// A message on `registration`: from a client or an engine.
    pub(super) fn handle_query(&mut self, now: Now, from: PeerId, message: &Message) {
        let Some(header) = self.request_header(now, from, message) else {
            return;
        };
        let asker = Asker {
            peer: from,
            parent: message.header().clone(),
        };
        let side = self.peers.get(from).map_or(Side::Both, |peer| peer.side);
        if !may_ask(side, &header.msg_type) {
            return self.refuse_side(now, &asker, &header.msg_type);
        }
        let content = message.content();
        let answer = match &*header.msg_type {
            "registration_request" => return self.handle_registration(now, from, message),
            "unregistration_request" => return self.handle_unregistration(now, from, message),
            "connection_request" => self.connection_reply(now, &asker),
            "queue_request" => self.queue_request(now, &asker, content),
            "load_request" => self.load_request(now, &asker, content),
            "result_request" => self.result_request(now, &asker, content),
            "history_request" => self.ask(
                now,
                DbRequest::History,
                Waiting::pass(&asker, "history_reply"),
            ),
            "db_request" => self.db_request(now, &asker, content),
            "purge_request" => self.purge_request(now, &asker, content),
            "resubmit_request" => self.resubmit_request(now, &asker, content),
            "shutdown_request" => self.shutdown_request(now, &asker),
            "become_dask_request" => self.dask_request(&asker, content),
            "stop_distributed_request" => {
                self.commands.push_back(Command::StopDask);
                self.answer(
                    now,
                    &asker,
                    "stop_distributed_reply",
                    &json!({ "status": "ok" }),
                );
                Ok(())
            }
            "status_request" => {
                let status = self.status(now);
                self.answer(now, &asker, "status_reply", &status);
                Ok(())
            }
            other => Err(ErrorContent::new(
                "KeyError",
                format!("the hub knows no request {other:?}"),
            )),
        };
        if let Err(error) = answer {
            self.answer(now, &asker, "hub_error", &error);
        }
    }

    fn refuse_side(&mut self, now: Now, asker: &Asker, msg_type: &str) {
        let address = self.address_of(asker.peer);
        self.complaints.warn(now.monotonic, "side", || {
            format!(
                "{address} sent {msg_type:?} with the connection file of the other side; refused"
            )
        });
        let error = ErrorContent::new(
            "PermissionError",
            format!("{msg_type:?} is not for holders of this connection file"),
        );
        self.answer(now, asker, "hub_error", &error);
    }

    fn answer(
        &mut self,
        now: Now,
        asker: &Asker,
        reply_type: &str,
        content: &impl serde::Serialize,
    ) {
        self.send_reply(
            now,
            asker.peer,
            reply_type,
            Some(&asker.parent),
            compose::json(content),
        );
    }

    fn connection_reply(&mut self, now: Now, asker: &Asker) -> Result<(), ErrorContent> {
        let engines: BTreeMap<String, &EngineUuid> = self
            .engines
            .registered()
            .map(|engine| (engine.id.to_string(), &engine.uuid))
            .collect();
        let content = json!({ "status": "ok", "engines": engines });
        self.answer(now, asker, "connection_reply", &content);
        Ok(())
    }

    /// The registered engines that a question names.
    fn validated(&self, targets: Targets) -> Result<Vec<EngineId>, ErrorContent> {
        let Targets::Some(targets) = targets else {
            return Ok(self.engines.registered().map(|engine| engine.id).collect());
        };
        if targets.is_empty() {
            return Err(ErrorContent::new("IndexError", "No Engines Registered"));
        }
        let find = |target: &Value| match target {
            Value::Number(id) => id
                .as_u64()
                .and_then(|id| u32::try_from(id).ok())
                .map(EngineId),
            Value::String(uuid) => self.engines.id_of(uuid),
            _ => None,
        };
        targets
            .iter()
            .map(|target| {
                find(target)
                    .filter(|id| {
                        self.engines
                            .get(*id)
                            .is_some_and(|engine| !engine.is_pending())
                    })
                    .ok_or_else(|| {
                        ErrorContent::new("IndexError", format!("No Such Engine: [{target}]"))
                    })
            })
            .collect()
    }

    fn queue_request(
        &mut self,
        now: Now,
        asker: &Asker,
        content: &[u8],
    ) -> Result<(), ErrorContent> {
        let request: QueueRequest = read(content)?;
        let engines = self.validated(request.targets)?;
        if request.verbose {
            let uuids: Vec<&EngineUuid> = engines
                .iter()
                .filter_map(|id| self.engines.get(*id))
                .map(|engine| &engine.uuid)
                .collect();
            let finished = json!({
                "query": { "engine_uuid": { "$in": uuids }, "completed": { "$ne": null } },
                "keys": ["engine_uuid"],
            });
            let find = find(&compose::json(&finished))?;
            return self.ask(
                now,
                DbRequest::Find(find),
                Waiting::Queues {
                    asker: asker.clone(),
                    engines,
                },
            );
        }
        let mut reply = serde_json::Map::new();
        reply.insert("status".into(), "ok".into());
        for id in engines {
            let Some(engine) = self.engines.get(id) else {
                continue;
            };
            let numbers = json!({
                "queue": engine.queue.len(),
                "completed": engine.completed + engine.failed,
                "tasks": self.scheduler.load(&engine.uuid),
            });
            reply.insert(id.to_string(), numbers);
        }
        reply.insert("unassigned".into(), self.scheduler.waiting_count().into());
        self.answer(now, asker, "queue_reply", &reply);
        Ok(())
    }

    /// Lists of message ids in place of numbers. Without a database what is finished is not known.
    fn queues_reply(&mut self, now: Now, asker: &Asker, engines: &[EngineId], finished: &DbReply) {
        let finished = finished_by_engine(finished);
        let mut reply = serde_json::Map::new();
        reply.insert("status".into(), "ok".into());
        for engine in engines.iter().filter_map(|id| self.engines.get(*id)) {
            let lists = json!({
                "queue": engine.queue.values().collect::<Vec<_>>(),
                "completed": finished.get(&engine.uuid).map_or(&[][..], Vec::as_slice),
                "tasks": self.scheduler.running_on(&engine.uuid).collect::<Vec<_>>(),
            });
            reply.insert(engine.id.to_string(), lists);
        }
        reply.insert("unassigned".into(), json!(self.tracker.unassigned()));
        self.answer(now, asker, "queue_reply", &reply);
    }

    /// How many requests each engine has. Stock answers this with keys that no client can read.
    fn load_request(
        &mut self,
        now: Now,
        asker: &Asker,
        content: &[u8],
    ) -> Result<(), ErrorContent> {
        let request: QueueRequest = read(content)?;
        let mut reply = serde_json::Map::new();
        reply.insert("status".into(), "ok".into());
        for engine in self
            .validated(request.targets)?
            .into_iter()
            .filter_map(|id| self.engines.get(id))
        {
            let load = engine.queue.len() + self.scheduler.load(&engine.uuid).unwrap_or(0);
            reply.insert(engine.id.to_string(), load.into());
        }
        self.answer(now, asker, "load_reply", &reply);
        Ok(())
    }

    fn result_request(
        &mut self,
        now: Now,
        asker: &Asker,
        content: &[u8],
    ) -> Result<(), ErrorContent> {
        let request: ResultRequest = read(content)?;
        let (pending, msg_ids) = request
            .msg_ids
            .into_iter()
            .partition(|id| self.tracker.is_pending(id.as_str()));
        let results = Results {
            pending,
            msg_ids,
            status_only: request.status_only,
        };
        self.ask(
            now,
            DbRequest::Results(results),
            Waiting::pass(asker, "result_reply"),
        )
    }

    fn db_request(&mut self, now: Now, asker: &Asker, content: &[u8]) -> Result<(), ErrorContent> {
        let waiting = Waiting::pass(asker, "db_reply");
        match find(content) {
            Ok(find) => self.ask(now, DbRequest::Find(find), waiting),
            Err(error) => {
                self.answer(now, asker, "db_reply", &error);
                Ok(())
            }
        }
    }

    fn purge_request(
        &mut self,
        now: Now,
        asker: &Asker,
        content: &[u8],
    ) -> Result<(), ErrorContent> {
        let purge = read(content).and_then(|request| self.checked_purge(request));
        match purge {
            Ok(purge) => self.ask(
                now,
                DbRequest::Purge(purge),
                Waiting::Purge {
                    asker: asker.clone(),
                },
            ),
            Err(error) => {
                self.answer(now, asker, "purge_reply", &error);
                Ok(())
            }
        }
    }

    fn checked_purge(&self, request: PurgeRequest) -> Result<Purge, ErrorContent> {
        let mut purge = Purge::default();
        match request.msg_ids {
            None | Some(Value::Null) => {}
            Some(Value::String(all)) if all == "all" => purge.all_finished = true,
            Some(ids) => {
                purge.msg_ids = serde_json::from_value(ids).map_err(|_| {
                    ErrorContent::new("ValueError", "msg_ids is \"all\" or a list of message ids")
                })?;
            }
        }
        if let Some(pending) = purge
            .msg_ids
            .iter()
            .find(|id| self.tracker.is_pending(id.as_str()))
        {
            return Err(ErrorContent::new(
                "IndexError",
                format!("msg pending: {pending}"),
            ));
        }
        if let Some(Targets::Some(ids)) = request.engine_ids
            && !ids.is_empty()
        {
            let engines = self.validated(Targets::Some(ids))?;
            purge.engines = engines
                .iter()
                .filter_map(|id| self.engines.get(*id))
                .map(|engine| engine.uuid.clone())
                .collect();
        }
        Ok(purge)
    }

    fn resubmit_request(
        &mut self,
        now: Now,
        asker: &Asker,
        content: &[u8],
    ) -> Result<(), ErrorContent> {
        let request: ResubmitRequest = read(content)?;
        self.ask(
            now,
            DbRequest::Requests(request.msg_ids),
            Waiting::Resubmit {
                asker: asker.clone(),
            },
        )
    }

    /// Sends recorded tasks again: a new message id and date, all else as it was.
    fn resubmit(&mut self, now: Now, requests: Vec<StoredRequest>) -> Result<Value, ErrorContent> {
        let mut resubmitted = serde_json::Map::new();
        for request in requests {
            let (new, message) = self.renewed(now, &request)?;
            self.resubmit_task(now, message)?;
            resubmitted.insert(request.msg_id.to_string(), new.as_str().into());
            self.record_resubmitted(request.msg_id, new);
        }
        Ok(json!({ "status": "ok", "resubmitted": resubmitted }))
    }

    fn renewed(
        &mut self,
        now: Now,
        request: &StoredRequest,
    ) -> Result<(MsgId, Message), ErrorContent> {
        let unreadable =
            |cause: String| ErrorContent::new("ValueError", format!("{}: {cause}", request.msg_id));
        let mut header: serde_json::Map<String, Value> = serde_json::from_slice(&request.header)
            .map_err(|cause| unreadable(cause.to_string()))?;
        let new = self.composer.next_id();
        header.insert("msg_id".into(), new.as_str().into());
        header.insert("date".into(), date::format(now.unix_micros).into());
        let header = compose::json(&header);
        let parts = [
            header.clone(),
            header,
            request.metadata.clone(),
            request.content.clone(),
        ];
        let mut frames = self.composer.sealed(parts);
        frames.extend_from_slice(&request.buffers);
        let message = Message::parse(frames).map_err(|cause| unreadable(cause.to_string()))?;
        Ok((MsgId::new(&new), message))
    }

    fn shutdown_request(&mut self, now: Now, asker: &Asker) -> Result<(), ErrorContent> {
        log::info!("a client asked the controller to shut down");
        let content = json!({ "status": "ok" });
        self.answer(now, asker, "shutdown_reply", &content);
        let parent = Some(&asker.parent);
        let frames = self.composer.message(
            now,
            "shutdown_notification",
            parent,
            "{}",
            compose::json(&content),
        );
        self.commands.push_back(Command::Publish {
            channel: crate::channel::Channel::Notification,
            frames,
        });
        self.shutdown_at
            .get_or_insert(now.monotonic + SHUTDOWN_PAUSE);
        Ok(())
    }

    fn dask_request(&mut self, asker: &Asker, content: &[u8]) -> Result<(), ErrorContent> {
        let request: DaskRequest = read(content)?;
        if self.dask.len() >= WAITING_QUERIES_MAX {
            return Err(ErrorContent::new(
                "RuntimeError",
                "too many requests wait for the Dask scheduler",
            ));
        }
        let ticket = self.new_ticket();
        let arguments = match request.scheduler_args {
            Some(arguments) => arguments,
            None => RawValue::from_string("{}".into())
                .map_err(|cause| ErrorContent::new("RuntimeError", cause.to_string()))?,
        };
        self.dask.insert(ticket, asker.clone());
        self.commands
            .push_back(Command::StartDask { ticket, arguments });
        Ok(())
    }

    pub(super) fn handle_dask(
        &mut self,
        now: Now,
        ticket: Ticket,
        result: Result<DaskAddress, String>,
    ) {
        let Some(asker) = self.dask.remove(&ticket) else {
            return;
        };
        match result {
            Ok(at) => {
                let content =
                    json!({ "status": "ok", "ip": at.ip, "address": at.address, "port": at.port });
                self.answer(now, &asker, "become_dask_reply", &content);
            }
            Err(cause) => {
                self.answer(
                    now,
                    &asker,
                    "become_dask_reply",
                    &ErrorContent::new("RuntimeError", cause),
                );
            }
        }
    }

    /// Asks the database; its answer is handled when it comes.
    fn ask(&mut self, now: Now, request: DbRequest, waiting: Waiting) -> Result<(), ErrorContent> {
        if self.records_nothing() {
            self.finish(now, waiting, request.without_database());
            return Ok(());
        }
        if self.questions.waiting.len() >= WAITING_QUERIES_MAX {
            return Err(ErrorContent::new(
                "RuntimeError",
                "too many questions wait for the task database",
            ));
        }
        let ticket = self.new_ticket();
        self.questions.waiting.insert(ticket, waiting);
        self.commands.push_back(Command::Query { ticket, request });
        Ok(())
    }

    pub(super) fn handle_db_reply(&mut self, now: Now, ticket: Ticket, reply: DbReply) {
        if let Some(waiting) = self.questions.waiting.remove(&ticket) {
            self.finish(now, waiting, reply);
        }
    }

    fn finish(&mut self, now: Now, waiting: Waiting, reply: DbReply) {
        match (waiting, reply) {
            (Waiting::Queues { asker, engines }, reply) => {
                self.queues_reply(now, &asker, &engines, &reply)
            }
            (Waiting::Pass { asker, reply_type }, DbReply::Content { content, buffers }) => {
                let mut frames =
                    self.composer
                        .message(now, reply_type, Some(&asker.parent), "{}", content);
                frames.extend(buffers);
                self.commands.push_back(Command::Send {
                    peer: asker.peer,
                    frames,
                });
            }
            // What is not there need not be purged: after a culling, clients name ids that are gone.
            (Waiting::Purge { asker }, DbReply::Purged { .. }) => {
                self.answer(now, &asker, "purge_reply", &json!({ "status": "ok" }));
            }
            (Waiting::Resubmit { asker }, DbReply::Requests(requests)) => {
                match self.resubmit(now, requests) {
                    Ok(content) => self.answer(now, &asker, "resubmit_reply", &content),
                    Err(error) => self.answer(now, &asker, "resubmit_reply", &error),
                }
            }
            (waiting, DbReply::Failed(cause)) => {
                let (asker, reply_type) = waiting.reply_to();
                self.answer(
                    now,
                    &asker,
                    reply_type,
                    &ErrorContent::new(cause.ename(), cause.to_string()),
                );
            }
            (waiting, reply) => {
                log::error!("the task database answered {waiting:?} with {reply:?}");
                let (asker, reply_type) = waiting.reply_to();
                let error = ErrorContent::new(
                    "RuntimeError",
                    "the task database gave an unexpected answer",
                );
                self.answer(now, &asker, reply_type, &error);
            }
        }
    }

    fn new_ticket(&mut self) -> Ticket {
        self.questions.tickets += 1;
        Ticket(self.questions.tickets)
    }
}

impl Waiting {
    fn pass(asker: &Asker, reply_type: &'static str) -> Self {
        Self::Pass {
            asker: asker.clone(),
            reply_type,
        }
    }

    fn reply_to(self) -> (Asker, &'static str) {
        match self {
            Self::Pass { asker, reply_type } => (asker, reply_type),
            Self::Purge { asker } => (asker, "purge_reply"),
            Self::Queues { asker, .. } => (asker, "queue_reply"),
            Self::Resubmit { asker } => (asker, "resubmit_reply"),
        }
    }
}

fn read<T: DeserializeOwned>(content: &[u8]) -> Result<T, ErrorContent> {
    serde_json::from_slice(content).map_err(|cause| {
        ErrorContent::new("ValueError", format!("unreadable request content: {cause}"))
    })
}

fn find(content: &[u8]) -> Result<Find, ErrorContent> {
    Find::parse(content).map_err(|cause| ErrorContent::new(cause.ename(), cause.to_string()))
}

/// Message ids of a `db_reply`'s records, by engine.
fn finished_by_engine(reply: &DbReply) -> BTreeMap<EngineUuid, Vec<MsgId>> {
    #[derive(Deserialize)]
    struct Records {
        records: Vec<Record>,
    }
    #[derive(Deserialize)]
    struct Record {
        msg_id: MsgId,
        engine_uuid: EngineUuid,
    }
    let mut finished: BTreeMap<EngineUuid, Vec<MsgId>> = BTreeMap::new();
    if let DbReply::Content { content, .. } = reply
        && let Ok(Records { records }) = serde_json::from_slice(content)
    {
        for record in records {
            finished
                .entry(record.engine_uuid)
                .or_default()
                .push(record.msg_id);
        }
    }
    finished
}

/// What each side says on the socket that both share.
fn may_ask(side: Side, msg_type: &str) -> bool {
    match side {
        Side::Both => true,
        Side::Engine => matches!(msg_type, "registration_request" | "unregistration_request"),
        Side::Client => !matches!(msg_type, "registration_request" | "unregistration_request"),
    }
}
