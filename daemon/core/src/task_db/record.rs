//! What is known of one task.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::output::{Output, Outputs};
use super::parts::Parts;
use crate::ids::{EngineUuid, MsgId};
use crate::wire::date;
use crate::wire::header::Header;
use crate::wire::message::{Message, SignedPart};

/// How a request reached its engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    Broadcast,
    Mux,
    Task,
}

/// What is known of one task; all times are microseconds since 1970 (UTC).
///
/// | state       | request | reply | made by                                             |
/// |-------------|---------|-------|-----------------------------------------------------|
/// | pending     | yes     | no    | `DbOp::Submit`                                      |
/// | finished    | yes     | yes   | `DbOp::Complete`; of a request that was not         |
/// |             |         |       | recorded, only the header that the reply quotes     |
/// | output only | no      | no    | `DbOp::Output` for an id that was never submitted,  |
/// |             |         |       | or that was culled or purged                        |
///
/// `label` and `started` are not kept apart: they are read from the metadata when someone asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskRecord {
    pub msg_id: MsgId,
    pub request: Option<Parts>,
    pub reply: Option<Parts>,
    pub submitted: Option<i64>,
    pub completed: Option<i64>,
    /// When the reply came in.
    pub received: Option<i64>,
    /// The session of the client; shared between its records.
    pub client_uuid: Option<Arc<str>>,
    pub engine_uuid: Option<EngineUuid>,
    pub queue: Option<Queue>,
    /// The id under which the task was sent again.
    pub resubmitted: Option<MsgId>,
    pub outputs: Option<Box<Outputs>>,
}

/// The reply to a request, as recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub parts: Parts,
    /// The date of the reply.
    pub completed: i64,
    pub received: i64,
    /// The engine that ran the task, where the reply tells.
    pub engine: Option<EngineUuid>,
    /// The request's header as the reply quotes it: stands in for a request that was not recorded. Shares
    /// memory with other traffic until [`DbOp::detach`](super::DbOp::detach).
    pub request_header: Bytes,
}

#[derive(Deserialize)]
struct RequestMetadata<'a> {
    #[serde(borrow)]
    label: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct ReplyMetadata<'a> {
    #[serde(borrow)]
    started: Option<Cow<'a, str>>,
}

impl Queue {
    /// As in the records of stock clients.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Broadcast => "broadcast",
            Self::Mux => "mux",
            Self::Task => "task",
        }
    }

    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Broadcast, Self::Mux, Self::Task]
            .into_iter()
            .find(|queue| queue.name() == name)
    }
}

impl TaskRecord {
    /// A record of which only the id is known.
    #[must_use]
    pub fn empty(msg_id: MsgId) -> Self {
        Self {
            msg_id,
            request: None,
            reply: None,
            submitted: None,
            completed: None,
            received: None,
            client_uuid: None,
            engine_uuid: None,
            queue: None,
            resubmitted: None,
            outputs: None,
        }
    }

    /// The record of a request, submitted at that time by the client with that session.
    #[must_use]
    pub fn submitted(
        msg_id: MsgId,
        message: &Message,
        submitted: i64,
        client: Arc<str>,
        queue: Queue,
    ) -> Self {
        Self {
            request: Some(Parts::from_message(message)),
            submitted: Some(submitted),
            client_uuid: Some(client),
            queue: Some(queue),
            ..Self::empty(msg_id)
        }
    }

    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.reply.is_some()
    }

    /// When the engine began, as the reply's metadata says.
    #[must_use]
    pub fn started(&self) -> Option<i64> {
        let metadata = self.reply.as_ref()?.metadata();
        let metadata: ReplyMetadata<'_> = serde_json::from_slice(metadata).ok()?;
        date::parse(&metadata.started?)
    }

    /// The label that the client gave in the metadata: any JSON value but null.
    #[must_use]
    pub fn label(&self) -> Option<&RawValue> {
        let metadata = self.request.as_ref()?.metadata();
        let metadata: RequestMetadata<'_> = serde_json::from_slice(metadata).ok()?;
        metadata.label
    }

    /// Takes over what is new in a request for the same id. The first request wins: an id names one
    /// task, and a second client cannot rewrite the record of the first.
    pub fn add_request(&mut self, request: Self) {
        if self
            .request
            .as_ref()
            .is_some_and(|parts| !parts.is_header_only())
        {
            return;
        }
        self.request = request.request;
        self.submitted = request.submitted.or(self.submitted);
        self.client_uuid = request.client_uuid.or(self.client_uuid.take());
        self.engine_uuid = self.engine_uuid.take().or(request.engine_uuid);
        self.queue = request.queue.or(self.queue);
    }

    /// The latest reply wins: an engine may deliver after it was given up.
    pub fn add_reply(&mut self, reply: Reply) {
        if self.request.is_none() {
            self.add_quoted_header(&reply.request_header);
        }
        self.reply = Some(reply.parts);
        self.completed = Some(reply.completed);
        self.received = Some(reply.received);
        self.engine_uuid = reply.engine.or(self.engine_uuid.take());
    }

    pub fn add_output(&mut self, output: Output) {
        self.outputs.get_or_insert_default().add(output);
    }

    /// Bytes in memory, with the allocations it owns alone.
    #[must_use]
    pub fn size(&self) -> usize {
        size_of::<Self>()
            + self.msg_id.as_str().len()
            + self.request.as_ref().map_or(0, Parts::size)
            + self.reply.as_ref().map_or(0, Parts::size)
            + self
                .outputs
                .as_ref()
                .map_or(0, |outputs| size_of::<Outputs>() + outputs.size())
    }

    /// Fills what the header of an unrecorded request tells. Its content and buffers stay unknown.
    fn add_quoted_header(&mut self, header: &[u8]) {
        let Ok(parsed) = Header::parse(header) else {
            return;
        };
        self.request = Some(Parts::header_only(header));
        self.submitted = date::parse(&parsed.date);
        self.client_uuid = (!parsed.session.is_empty()).then(|| Arc::from(&*parsed.session));
    }
}

impl Reply {
    /// The record of a reply that `engine` sent, with its date and when it was received.
    #[must_use]
    pub fn new(
        message: &Message,
        engine: Option<EngineUuid>,
        completed: i64,
        received: i64,
    ) -> Self {
        Self {
            parts: Parts::from_message(message),
            completed,
            received,
            engine,
            request_header: message.bytes(SignedPart::ParentHeader),
        }
    }

    /// The record of a failure that the controller itself reports: `content` is the error content
    /// that the client got.
    #[must_use]
    pub fn failure(content: &Bytes, engine: Option<EngineUuid>, now_unix_micros: i64) -> Self {
        let header = format!(
            r#"{{"msg_type":"apply_reply","date":"{}"}}"#,
            date::format(now_unix_micros)
        );
        let metadata = match &engine {
            None => json!({"status": "error"}),
            Some(engine) => json!({"status": "error", "engine": engine}),
        };
        Self {
            parts: Parts::new(&header.into(), &metadata.to_string().into(), content, &[]),
            completed: now_unix_micros,
            received: now_unix_micros,
            engine,
            request_header: Bytes::new(),
        }
    }

    /// Bytes on the heap.
    #[must_use]
    pub fn size(&self) -> usize {
        self.parts.size() + self.request_header.len()
    }
}
