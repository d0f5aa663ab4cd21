//! Records and results as the JSON that stock clients expect, by splicing what peers sent.
//!
//! A part that is no JSON text, whatever a peer meant by it, appears as null: one client must not make
//! an answer unreadable for another.

use bytes::Bytes;
use serde::de::IgnoredAny;

use super::field::{Field, FieldValue, Kind};
use super::parts::{Part, Parts};
use super::query::Find;
use super::record::TaskRecord;
use super::{DbError, DbReply};
use crate::ids::MsgId;
use crate::limits::REPLY_JSON_MAX;
use crate::wire::date;

/// The answer to a `db_request`, built record by record.
#[derive(Debug)]
pub struct FindReply<'a> {
    find: &'a Find,
    json: Vec<u8>,
    records: usize,
    buffers: Vec<Bytes>,
    buffer_lens: Vec<usize>,
    result_buffer_lens: Vec<usize>,
}

/// The answer to a `result_request`, built id by id in sorted order.
#[derive(Debug)]
pub struct ResultsReply {
    pending: Vec<MsgId>,
    completed: Vec<MsgId>,
    json: Vec<u8>,
    buffers: Vec<Bytes>,
}

impl<'a> FindReply<'a> {
    #[must_use]
    pub fn new(find: &'a Find) -> Self {
        Self {
            find,
            json: br#"{"status":"ok","records":["#.to_vec(),
            records: 0,
            buffers: Vec::new(),
            buffer_lens: Vec::new(),
            result_buffer_lens: Vec::new(),
        }
    }

    /// Adds one record.
    ///
    /// # Errors
    /// The answer is too large.
    pub fn push(&mut self, record: &TaskRecord) -> Result<(), DbError> {
        if self.records > 0 {
            self.json.push(b',');
        }
        self.records += 1;
        write_record(record, &self.find.fields, &mut self.json);
        if self.find.wants(Field::Buffers) {
            let lens = &mut self.buffer_lens;
            push_buffers(record.request.as_ref(), lens, &mut self.buffers);
        }
        if self.find.wants(Field::ResultBuffers) {
            let lens = &mut self.result_buffer_lens;
            push_buffers(record.reply.as_ref(), lens, &mut self.buffers);
        }
        bounded(&self.json)
    }

    #[must_use]
    pub fn finish(mut self) -> DbReply {
        self.json.extend_from_slice(b"],\"buffer_lens\":");
        let wanted = self.find.wants(Field::Buffers);
        write_json(&wanted.then_some(&self.buffer_lens), &mut self.json);
        self.json.extend_from_slice(b",\"result_buffer_lens\":");
        let wanted = self.find.wants(Field::ResultBuffers);
        write_json(&wanted.then_some(&self.result_buffer_lens), &mut self.json);
        self.json.push(b'}');
        DbReply::Content {
            content: self.json.into(),
            buffers: self.buffers,
        }
    }
}

impl ResultsReply {
    #[must_use]
    pub fn new(pending: Vec<MsgId>) -> Self {
        Self {
            pending,
            completed: Vec::new(),
            json: Vec::new(),
            buffers: Vec::new(),
        }
    }

    /// Adds a result, or only that it is there. Ids must come in sorted order: clients take the
    /// buffers in that order.
    ///
    /// # Errors
    /// The answer is too large, or the record has no result.
    pub fn push(&mut self, record: &TaskRecord, status_only: bool) -> Result<(), DbError> {
        let msg_id = &record.msg_id;
        let Some(reply) = &record.reply else {
            return Err(DbError::Unfinished(msg_id.clone()));
        };
        self.completed.push(msg_id.clone());
        if status_only {
            return Ok(());
        }
        self.json.push(b',');
        write_json(&msg_id, &mut self.json);
        self.json.push(b':');
        write_result(record, reply, &mut self.json);
        if reply.buffer_bytes_lost() == 0 {
            self.buffers.extend(reply.buffers().map(Part::to_bytes));
        }
        bounded(&self.json)
    }

    #[must_use]
    pub fn finish(mut self) -> DbReply {
        self.pending.sort();
        self.pending.dedup();
        let mut json = br#"{"status":"ok","pending":"#.to_vec();
        write_json(&self.pending, &mut json);
        json.extend_from_slice(br#","completed":"#);
        write_json(&self.completed, &mut json);
        json.append(&mut self.json);
        json.push(b'}');
        DbReply::Content {
            content: json.into(),
            buffers: self.buffers,
        }
    }
}

/// The answer to a `history_request`.
///
/// # Errors
/// The answer is too large.
pub fn history(msg_ids: &[MsgId]) -> Result<DbReply, DbError> {
    let mut json = br#"{"status":"ok","history":"#.to_vec();
    write_json(&msg_ids, &mut json);
    json.push(b'}');
    bounded(&json)?;
    Ok(DbReply::Content {
        content: json.into(),
        buffers: Vec::new(),
    })
}

/// Raw bytes as a JSON text, if they are one.
#[must_use]
pub fn checked_json(raw: &[u8]) -> Option<&str> {
    let text = str::from_utf8(raw).ok()?;
    serde_json::from_str::<IgnoredAny>(text).ok()?;
    Some(text)
}

/// A record as a JSON object; buffer fields are left to the caller.
fn write_record(record: &TaskRecord, fields: &[Field], json: &mut Vec<u8>) {
    json.push(b'{');
    let fields = fields.iter().filter(|field| field.kind() != Kind::Buffers);
    for (i, field) in fields.enumerate() {
        if i > 0 {
            json.push(b',');
        }
        write_name(field.name(), json);
        if field.kind() == Kind::Json {
            write_raw(field.raw_json(record), "null", json);
        } else {
            write_value(&field.value(record), json);
        }
    }
    json.push(b'}');
}

/// What a client needs to rebuild one result. A result whose buffers were dropped is an error result
/// that says so: the client raises it, and gets the other results of the same request.
fn write_result(record: &TaskRecord, reply: &Parts, json: &mut Vec<u8>) {
    let request = record.request.as_ref();
    let own_header = serde_json::json!({ "msg_id": record.msg_id }).to_string();
    json.push(b'{');
    write_name("header", json);
    write_raw(request.map(Parts::header), &own_header, json);
    for (name, raw) in [
        ("metadata", request.map(Parts::metadata)),
        ("result_header", Some(reply.header())),
        ("result_metadata", Some(reply.metadata())),
    ] {
        json.push(b',');
        write_name(name, json);
        write_raw(raw, "{}", json);
    }
    json.extend_from_slice(b",\"result_content\":");
    if reply.buffer_bytes_lost() > 0 {
        write_json(&lost_content(record, reply), json);
    } else {
        write_raw(Some(reply.content()), UNREADABLE_CONTENT, json);
    }
    json.extend_from_slice(b",\"received\":");
    write_value(&Field::Received.value(record), json);
    json.extend_from_slice(b",\"io\":");
    write_record(record, &IO_FIELDS, json);
    json.push(b'}');
}

fn lost_content(record: &TaskRecord, reply: &Parts) -> serde_json::Value {
    let evalue = format!(
        "the result of '{}' ({} bytes) was larger than the task database keeps: only the client that \
         submitted it has it; start the controller with --sqlitedb to keep such results",
        record.msg_id,
        reply.buffer_bytes_lost()
    );
    serde_json::json!({
        "status": "error", "ename": "KeyError", "evalue": evalue, "traceback": [], "engine_info": {}
    })
}

fn push_buffers(parts: Option<&Parts>, lens: &mut Vec<usize>, buffers: &mut Vec<Bytes>) {
    lens.push(parts.map_or(0, Parts::buffer_count));
    buffers.extend(
        parts
            .into_iter()
            .flat_map(Parts::buffers)
            .map(Part::to_bytes),
    );
}

fn write_name(name: &str, json: &mut Vec<u8>) {
    json.push(b'"');
    json.extend_from_slice(name.as_bytes());
    json.extend_from_slice(b"\":");
}

fn write_raw(raw: Option<&[u8]>, instead: &str, json: &mut Vec<u8>) {
    let text = raw.and_then(checked_json).unwrap_or(instead);
    json.extend_from_slice(text.as_bytes());
}

fn write_value(value: &FieldValue<'_>, json: &mut Vec<u8>) {
    match value {
        FieldValue::Date(micros) => write_json(&date::format(*micros), json),
        FieldValue::Json(value) => write_json(value, json),
        FieldValue::Buffers | FieldValue::Null => json.extend_from_slice(b"null"),
        FieldValue::Text(text) => write_json(text, json),
    }
}

/// Our own values always serialise; a `Vec` always takes them.
fn write_json(value: &impl serde::Serialize, json: &mut Vec<u8>) {
    let before = json.len();
    if serde_json::to_writer(&mut *json, value).is_err() {
        json.truncate(before);
        json.extend_from_slice(b"null");
    }
}

fn bounded(json: &[u8]) -> Result<(), DbError> {
    if json.len() > REPLY_JSON_MAX {
        Err(DbError::TooLarge(REPLY_JSON_MAX >> 20))
    } else {
        Ok(())
    }
}

const IO_FIELDS: [Field; 5] = [
    Field::ExecuteInput,
    Field::ExecuteResult,
    Field::Error,
    Field::Stdout,
    Field::Stderr,
];

const UNREADABLE_CONTENT: &str = r#"{"status":"error","ename":"ValueError","evalue":"the engine's reply was no JSON text","traceback":[],"engine_info":{}}"#;
