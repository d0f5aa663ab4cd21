//! The task database: one record per task, and the queries that clients ask of it.
//!
//! The hub describes what happens as a stream of `DbOp`s and asks `DbRequest`s, each under a
//! `Ticket` that comes back with the answer. Both go to the shell, in order, where one of two back ends
//! takes them on a thread of its own, and both behave alike: `memory::MemoryDb`, and SQLite. Without a
//! database, questions are answered with the error `NoData`.
//!
//! What is pending is the hub's own knowledge: the database is told, and never guesses.
//! Raw JSON that peers sent is checked when it is put into an answer, not before.

/// Names and values of a record's fields.
pub mod field;
/// `$glob` patterns.
pub mod glob;
/// The evaluator: does a record match a query?
mod matching;
/// Records in memory, with a bound.
pub mod memory;
/// What a task printed and showed.
pub mod output;
/// The packed parts of a message.
pub mod parts;
/// The query language of `db_request`.
pub mod query;
/// One task.
pub mod record;
/// Records and results as the JSON that clients expect.
pub mod render;

use std::collections::BTreeSet;

use bytes::Bytes;
use thiserror::Error;

use crate::ids::{EngineUuid, MsgId};
use output::Output;
use parts::{Part, Parts};
use query::{Find, QueryError};
use record::{Reply, TaskRecord};

/// Something that happened to a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DbOp {
    /// An engine was chosen; the latest counts.
    Assign { msg_id: MsgId, engine: EngineUuid },
    /// A reply came in, or a failure was reported. Creates the record if the request is not known.
    Complete { msg_id: MsgId, reply: Reply },
    /// The task printed or showed something. Creates the record if the request is not known.
    Output { msg_id: MsgId, output: Output },
    /// `old` was sent again as `new`. The new task has its own `Submit`.
    Resubmitted { old: MsgId, new: MsgId },
    /// A request came in.
    Submit(Box<TaskRecord>),
}

/// A question, or an order that has an answer. All ids are those the client named.
#[derive(Clone, Debug, PartialEq)]
pub enum DbRequest {
    /// `db_request`. Answer: [`DbReply::Content`].
    Find(Find),
    /// `history_request`. Answer: [`DbReply::Content`].
    History,
    /// `purge_request`. Answer: [`DbReply::Purged`].
    Purge(Purge),
    /// The stored requests of `resubmit_request`, in the order asked. Answer: [`DbReply::Requests`].
    Requests(Vec<MsgId>),
    /// `result_request`. Answer: [`DbReply::Content`].
    Results(Results),
}

/// Which records to forget. The hub refuses ids of pending tasks beforehand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Purge {
    /// Every finished record (`msg_ids: "all"`).
    pub all_finished: bool,
    /// These, in any state.
    pub msg_ids: Vec<MsgId>,
    /// Every finished record of these engines.
    pub engines: Vec<EngineUuid>,
}

/// Which results to fetch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Results {
    /// Those of the ids asked for that the hub knows to be unfinished; the answer lists them.
    pub pending: Vec<MsgId>,
    /// The others. Each must have a finished record, else the answer is an error: nothing will ever
    /// finish it, and the client would ask for ever.
    pub msg_ids: Vec<MsgId>,
    /// Only which ids are pending and completed.
    pub status_only: bool,
}

/// The answer to a [`DbRequest`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DbReply {
    /// The content of the reply message (`status` is "ok") and its buffers.
    Content {
        content: Bytes,
        buffers: Vec<Bytes>,
    },
    Failed(DbError),
    /// What was there is forgotten; `missing` are the ids for which there was no record.
    Purged {
        missing: Vec<MsgId>,
    },
    Requests(Vec<StoredRequest>),
}

/// A request to be sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRequest {
    pub msg_id: MsgId,
    /// JSON, as received; likewise metadata and content.
    pub header: Bytes,
    pub metadata: Bytes,
    pub content: Bytes,
    pub buffers: Vec<Bytes>,
}

/// Names a question to a back end that answers later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// Figures for the status page. Counters count since the controller started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DbStatus {
    pub records: u64,
    pub bytes: u64,
    /// Finished records forgotten to stay within the bounds.
    pub culled: u64,
    /// Records whose buffers were not kept.
    pub buffers_dropped: u64,
    /// Pieces of output that were not recorded.
    pub outputs_dropped: u64,
    /// Requests, replies and other changes that were not recorded.
    pub ops_dropped: u64,
    /// Why nothing is recorded at the moment, and what to do about it.
    pub off: Option<String>,
}

/// Why a question has no answer. The text is the `evalue` that the client shows.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum DbError {
    /// More questions wait than are queued.
    #[error("the task database is busy: ask again later")]
    Busy,
    /// There is no database.
    #[error(
        "this controller keeps no task records (--nodb): start it with --dictdb or --sqlitedb for \
         task history, resubmission and results for other clients"
    )]
    NoData,
    /// Results were asked of ids without a finished record.
    #[error("No such message: '{msg_id}'{hint}")]
    NoSuchMessage { msg_id: MsgId, hint: Hint },
    /// Requests were asked of ids without a record.
    #[error("No such msg(s): [{}]", quoted(.0))]
    NoSuchMessages(Vec<MsgId>),
    /// The request is there without its content or buffers.
    #[error(
        "task '{0}' cannot be sent again: its data was larger than the task database keeps; \
         submit it anew, or start the controller with --sqlitedb"
    )]
    NotKept(MsgId),
    #[error(transparent)]
    Query(#[from] QueryError),
    /// The answer would not fit into memory.
    #[error("the answer is larger than {0} MiB: ask for fewer records, or fewer keys")]
    TooLarge(usize),
    /// The record is there, the task was never finished, and nobody works on it.
    #[error(
        "No result of '{0}': the controller was restarted before it was finished, or its result \
         could not be recorded; resubmit it"
    )]
    Unfinished(MsgId),
    /// The database cannot be used at present.
    #[error("the task database is not available: {0}")]
    Unavailable(String),
}

/// What may have become of a record that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    /// So many old records were culled, and this may have been one of them.
    Culled(u64),
    None,
}

impl std::fmt::Display for Hint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Culled(count) => write!(
                f,
                " (not known, or among the {count} oldest records, which were culled: fetch results \
                 earlier, or start the controller with --sqlitedb to keep more)"
            ),
            Self::None => Ok(()),
        }
    }
}

fn quoted(msg_ids: &[MsgId]) -> String {
    let quoted: Vec<String> = msg_ids.iter().map(|id| format!("'{id}'")).collect();
    quoted.join(", ")
}

impl DbError {
    /// The name of the Python exception that stock clients are shown.
    #[must_use]
    pub fn ename(&self) -> &'static str {
        match self {
            Self::NoData => "NoData",
            Self::NoSuchMessage { .. } | Self::NoSuchMessages(_) | Self::Unfinished(_) => {
                "KeyError"
            }
            Self::Query(error) => error.ename(),
            Self::Busy | Self::NotKept(_) | Self::TooLarge(_) | Self::Unavailable(_) => {
                "RuntimeError"
            }
        }
    }
}

impl DbRequest {
    /// The answer where there is no database.
    #[must_use]
    pub fn without_database(&self) -> DbReply {
        match self {
            Self::Purge(_) => DbReply::Purged {
                missing: Vec::new(),
            },
            Self::Find(_) | Self::History | Self::Requests(_) | Self::Results(_) => {
                DbReply::Failed(DbError::NoData)
            }
        }
    }
}

impl Results {
    /// The ids to look up, in the order of the answer.
    #[must_use]
    pub fn sorted_ids(&self) -> Vec<MsgId> {
        let pending: BTreeSet<&MsgId> = self.pending.iter().collect();
        let wanted: BTreeSet<&MsgId> = self.msg_ids.iter().collect();
        wanted.difference(&pending).copied().cloned().collect()
    }
}

impl DbOp {
    /// Gives it memory of its own: for whoever lets it wait.
    pub fn detach(&mut self) {
        if let Self::Complete { reply, .. } = self {
            reply.request_header = Bytes::copy_from_slice(&reply.request_header);
        }
    }

    /// Bytes on the heap, for bounds on what waits.
    #[must_use]
    pub fn size(&self) -> usize {
        size_of::<Self>()
            + match self {
                Self::Assign { .. } | Self::Resubmitted { .. } => 0,
                Self::Complete { reply, .. } => reply.size(),
                Self::Output { output, .. } => output.size(),
                Self::Submit(record) => record.size(),
            }
    }
}

impl StoredRequest {
    /// The request of a record, if all of it was kept.
    ///
    /// # Errors
    /// There is no request, or a part of it was dropped.
    pub fn of(record: &TaskRecord) -> Result<Self, DbError> {
        match &record.request {
            Some(parts) if !parts.is_header_only() && parts.buffer_bytes_lost() == 0 => {
                Ok(Self::from_parts(record.msg_id.clone(), parts))
            }
            Some(_) | None => Err(DbError::NotKept(record.msg_id.clone())),
        }
    }

    fn from_parts(msg_id: MsgId, parts: &Parts) -> Self {
        Self {
            msg_id,
            header: Bytes::copy_from_slice(parts.header()),
            metadata: Bytes::copy_from_slice(parts.metadata()),
            content: Bytes::copy_from_slice(parts.content()),
            buffers: parts.buffers().map(Part::to_bytes).collect(),
        }
    }
}
