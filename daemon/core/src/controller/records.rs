//! What the task database is told.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::compose::{self, ErrorContent};
use super::engines::Engine;
use super::queries::Waiting;
use super::{Command, Controller, RequestHeader};
use crate::clock::Now;
use crate::ids::{EngineUuid, MsgId};
use crate::task_db::output::Output;
use crate::task_db::record::{Queue, Reply, TaskRecord};
use crate::task_db::{DbOp, Ticket};
use crate::wire::date;
use crate::wire::header::Header;
use crate::wire::message::Message;

/// Where the shell keeps task records: see [`Command::Record`] and [`Command::Query`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatabaseKind {
    Memory,
    Sqlite,
    /// Nowhere.
    None,
}

/// Questions that wait for the database's answer.
#[derive(Debug, Default)]
pub(super) struct Questions {
    pub(super) waiting: BTreeMap<Ticket, Waiting>,
    pub(super) tickets: u64,
}

impl DatabaseKind {
    /// As people know it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Sqlite => "sqlite",
            Self::None => "none",
        }
    }
}

impl Controller {
    fn record(&mut self, mut op: DbOp) {
        if !self.records_nothing() {
            op.detach();
            self.commands.push_back(Command::Record(op));
        }
    }

    pub(super) fn records_nothing(&self) -> bool {
        self.config.database == DatabaseKind::None
    }

    pub(super) fn record_submit(
        &mut self,
        now: Now,
        msg_id: &MsgId,
        request: &RequestHeader,
        queue: Queue,
        engine: Option<EngineUuid>,
        message: &Message,
    ) {
        if self.records_nothing() {
            return;
        }
        let mut record = TaskRecord::submitted(
            msg_id.clone(),
            message,
            request.date.unwrap_or(now.unix_micros),
            Arc::clone(&request.session),
            queue,
        );
        record.engine_uuid = engine;
        self.record(DbOp::Submit(Box::new(record)));
    }

    pub(super) fn record_assign(&mut self, msg_id: &MsgId, engine: EngineUuid) {
        if !self.records_nothing() {
            self.record(DbOp::Assign {
                msg_id: msg_id.clone(),
                engine,
            });
        }
    }

    pub(super) fn record_complete(
        &mut self,
        now: Now,
        msg_id: &MsgId,
        engine: Option<EngineUuid>,
        message: &Message,
    ) {
        if self.records_nothing() {
            return;
        }
        let Ok(header) = Header::parse(message.header()) else {
            return;
        };
        let completed = date::parse(&header.date).unwrap_or(now.unix_micros);
        let reply = Reply::new(message, engine, completed, now.unix_micros);
        self.record(DbOp::Complete {
            msg_id: msg_id.clone(),
            reply,
        });
    }

    /// A request that its engine will never answer.
    pub(super) fn fail_stranded(&mut self, now: Now, engine: &Engine, msg_id: &MsgId) {
        self.tracker.forget(msg_id.as_str());
        if self.strand_copy(now, msg_id, engine.uuid.as_str()) {
            return;
        }
        self.tracker.count(false);
        let text = format!("Engine {} died while running task '{msg_id}'", engine.id);
        let content = compose::json(&ErrorContent::new("EngineError", text));
        let reply = Reply::failure(&content, Some(engine.uuid.clone()), now.unix_micros);
        self.record(DbOp::Complete {
            msg_id: msg_id.clone(),
            reply,
        });
    }

    pub(super) fn record_output(&mut self, msg_type: &str, message: &Message) {
        if self.records_nothing() {
            return;
        }
        let Ok(parent) = Header::parse(message.parent_header()) else {
            return;
        };
        if parent.msg_id.is_empty() {
            return;
        }
        if let Some(output) = Output::parse(msg_type, message.content()) {
            self.record(DbOp::Output {
                msg_id: MsgId::new(&parent.msg_id),
                output,
            });
        }
    }

    pub(super) fn record_resubmitted(&mut self, old: MsgId, new: MsgId) {
        self.record(DbOp::Resubmitted { old, new });
    }
}
