//! The fields of a record, by the names that stock clients use, and their values.

use std::borrow::Cow;

use serde_json::Value;

use super::parts::Parts;
use super::record::{Queue, TaskRecord};

/// One field of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Field {
    Buffers,
    ClientUuid,
    Completed,
    Content,
    EngineUuid,
    Error,
    ExecuteInput,
    ExecuteResult,
    Header,
    Label,
    Metadata,
    MsgId,
    Queue,
    Received,
    Resubmitted,
    ResultBuffers,
    ResultContent,
    ResultHeader,
    ResultMetadata,
    Started,
    Stderr,
    Stdout,
    Submitted,
}

/// What the values of a field are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Buffers,
    Date,
    Json,
    Text,
}

/// The value that a record has in a field.
#[derive(Clone, Debug, PartialEq)]
pub enum FieldValue<'a> {
    /// Only its presence can be asked.
    Buffers,
    /// Microseconds since 1970 (UTC).
    Date(i64),
    Json(Value),
    Null,
    Text(Cow<'a, str>),
}

impl Field {
    /// In the order of stock records.
    pub const ALL: [Self; 23] = [
        Self::MsgId,
        Self::Header,
        Self::Metadata,
        Self::Content,
        Self::Buffers,
        Self::Submitted,
        Self::ClientUuid,
        Self::EngineUuid,
        Self::Started,
        Self::Completed,
        Self::Resubmitted,
        Self::Received,
        Self::ResultHeader,
        Self::ResultMetadata,
        Self::ResultContent,
        Self::ResultBuffers,
        Self::Queue,
        Self::ExecuteInput,
        Self::ExecuteResult,
        Self::Error,
        Self::Stdout,
        Self::Stderr,
        Self::Label,
    ];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Buffers => "buffers",
            Self::ClientUuid => "client_uuid",
            Self::Completed => "completed",
            Self::Content => "content",
            Self::EngineUuid => "engine_uuid",
            Self::Error => "error",
            Self::ExecuteInput => "execute_input",
            Self::ExecuteResult => "execute_result",
            Self::Header => "header",
            Self::Label => "label",
            Self::Metadata => "metadata",
            Self::MsgId => "msg_id",
            Self::Queue => "queue",
            Self::Received => "received",
            Self::Resubmitted => "resubmitted",
            Self::ResultBuffers => "result_buffers",
            Self::ResultContent => "result_content",
            Self::ResultHeader => "result_header",
            Self::ResultMetadata => "result_metadata",
            Self::Started => "started",
            Self::Stderr => "stderr",
            Self::Stdout => "stdout",
            Self::Submitted => "submitted",
        }
    }

    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|field| field.name() == name)
    }

    #[must_use]
    pub fn kind(self) -> Kind {
        match self {
            Self::Buffers | Self::ResultBuffers => Kind::Buffers,
            Self::Completed | Self::Received | Self::Started | Self::Submitted => Kind::Date,
            Self::Content
            | Self::Error
            | Self::ExecuteResult
            | Self::Header
            | Self::Label
            | Self::Metadata
            | Self::ResultContent
            | Self::ResultHeader
            | Self::ResultMetadata => Kind::Json,
            Self::ClientUuid
            | Self::EngineUuid
            | Self::ExecuteInput
            | Self::MsgId
            | Self::Queue
            | Self::Resubmitted
            | Self::Stderr
            | Self::Stdout => Kind::Text,
        }
    }

    /// The value of this field in `record`. JSON is parsed here; text that is no JSON counts as null.
    #[must_use]
    pub fn value(self, record: &TaskRecord) -> FieldValue<'_> {
        match self {
            Self::Buffers => buffers(record.request.as_ref()),
            Self::ClientUuid => text(record.client_uuid.as_deref()),
            Self::Completed => date(record.completed),
            Self::Content
            | Self::Error
            | Self::ExecuteResult
            | Self::Header
            | Self::Label
            | Self::Metadata
            | Self::ResultContent
            | Self::ResultHeader
            | Self::ResultMetadata => json(self.raw_json(record)),
            Self::EngineUuid => text(record.engine_uuid.as_ref().map(|id| id.as_str())),
            Self::ExecuteInput => {
                text((record.outputs.as_ref()).and_then(|outputs| outputs.execute_input.as_deref()))
            }
            Self::MsgId => text(Some(record.msg_id.as_str())),
            Self::Queue => text(record.queue.map(Queue::name)),
            Self::Received => date(record.received),
            Self::Resubmitted => text(record.resubmitted.as_ref().map(|id| id.as_str())),
            Self::ResultBuffers => buffers(record.reply.as_ref()),
            Self::Started => date(record.started()),
            Self::Stderr => text(Some(
                record
                    .outputs
                    .as_ref()
                    .map_or("", |outputs| &outputs.stderr),
            )),
            Self::Stdout => text(Some(
                record
                    .outputs
                    .as_ref()
                    .map_or("", |outputs| &outputs.stdout),
            )),
            Self::Submitted => date(record.submitted),
        }
    }

    /// The unchecked JSON text of a field of kind [`Kind::Json`]; `None` where there is none.
    #[must_use]
    pub fn raw_json(self, record: &TaskRecord) -> Option<&[u8]> {
        let (request, reply) = (record.request.as_ref(), record.reply.as_ref());
        match self {
            Self::Content => request.map(Parts::content),
            Self::Error => record.outputs.as_ref()?.error.as_deref(),
            Self::ExecuteResult => record.outputs.as_ref()?.execute_result.as_deref(),
            Self::Header => request.map(Parts::header),
            Self::Label => record.label().map(|label| label.get().as_bytes()),
            Self::Metadata => request.map(Parts::metadata),
            Self::ResultContent => reply.map(Parts::content),
            Self::ResultHeader => reply.map(Parts::header),
            Self::ResultMetadata => reply.map(Parts::metadata),
            Self::Buffers
            | Self::ClientUuid
            | Self::Completed
            | Self::EngineUuid
            | Self::ExecuteInput
            | Self::MsgId
            | Self::Queue
            | Self::Received
            | Self::Resubmitted
            | Self::ResultBuffers
            | Self::Started
            | Self::Stderr
            | Self::Stdout
            | Self::Submitted => None,
        }
    }
}

fn buffers(parts: Option<&Parts>) -> FieldValue<'static> {
    parts.map_or(FieldValue::Null, |_| FieldValue::Buffers)
}

fn date(micros: Option<i64>) -> FieldValue<'static> {
    micros.map_or(FieldValue::Null, FieldValue::Date)
}

fn json(raw: Option<&[u8]>) -> FieldValue<'static> {
    match raw.and_then(|raw| serde_json::from_slice(raw).ok()) {
        None | Some(Value::Null) => FieldValue::Null,
        Some(value) => FieldValue::Json(value),
    }
}

fn text(text: Option<&str>) -> FieldValue<'_> {
    text.map_or(FieldValue::Null, |text| {
        FieldValue::Text(Cow::Borrowed(text))
    })
}
