//! The task database on disk: SQLite on a thread of its own, behind a bounded queue.
//!
//! `SqliteStore::record` and `SqliteStore::ask` never block and never fail because of the disk. Changes are
//! written in one transaction per fifth of a second, earlier when a question waits or the queue is half
//! full; a question sees everything that was recorded before it.
//!
//! What can be lost: with the process, the changes of the last fifth of a second; with the power, those
//! since SQLite's last checkpoint. Either way the file stays whole.
//!
//! When the disk fails (full, read-only, damaged file) recording is off: one line in the log says why,
//! changes are counted instead of written, questions are answered with the reason, and the file is tried
//! again after 5 seconds, then at growing intervals up to 5 minutes.

mod database;
mod queue;
mod rows;
mod schema;
mod select;
mod thread;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use piparallel_core::limits::{DISK_BYTES, DISK_QUEUE_BYTES, DISK_QUEUE_OPS, DISK_RECORDS};
use piparallel_core::task_db::{DbError, DbOp, DbReply, DbRequest, DbStatus, Ticket};

use super::DbThread;
use queue::Queue;
use thread::Writer;

/// Where records are kept, and how many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqliteConfig {
    pub path: PathBuf,
    /// One file may hold several tables: those of other controllers, or of stock ipyparallel.
    pub table: String,
    /// The oldest finished records beyond these are deleted.
    pub records_max: u64,
    pub bytes_max: u64,
    /// What may wait for the disk; see `queue`.
    pub queue_ops_max: usize,
    pub queue_bytes_max: usize,
}

/// A handle on the database; dropping it writes what waits and closes the file.
pub struct SqliteStore {
    queue: Arc<Queue>,
    _thread: DbThread,
}

/// `SQLiteDB.filename` unless told otherwise, in the profile directory.
pub const DEFAULT_FILENAME: &str = "tasks.db";

/// `SQLiteDB.table` unless told otherwise: not that of stock ipyparallel, which has other columns.
pub const DEFAULT_TABLE: &str = "piparallel-tasks";

impl SqliteConfig {
    /// The database in one file, with default bounds.
    #[must_use]
    pub fn new(path: &Path, table: &str) -> Self {
        Self {
            path: path.to_owned(),
            table: table.to_owned(),
            records_max: DISK_RECORDS,
            bytes_max: DISK_BYTES,
            queue_ops_max: DISK_QUEUE_OPS,
            queue_bytes_max: DISK_QUEUE_BYTES,
        }
    }
}

impl SqliteStore {
    /// Opens or creates the database and starts its thread. `reply` is called on that thread with each
    /// answer; it must not block.
    ///
    /// A disk that fails is no error here: recording starts off, see [`Self::status`].
    ///
    /// # Errors
    /// The file or table is not ours to write: made by a newer version, or by another program; or the
    /// thread cannot be started.
    pub fn start(
        config: SqliteConfig,
        reply: impl Fn(Ticket, DbReply) + Send + 'static,
    ) -> anyhow::Result<Self> {
        schema::check_table_name(&config.table)?;
        let queue = Arc::new(Queue::new(config.queue_ops_max, config.queue_bytes_max));
        let writer = Writer::open(config, Arc::clone(&queue), reply)?;
        Ok(Self {
            queue,
            _thread: DbThread::spawn(move || writer.run())?,
        })
    }

    /// Notes what happened. What is dropped when the disk cannot keep up is counted in the status.
    pub fn record(&self, op: DbOp) {
        self.queue.push_op(op);
    }

    /// Asks a question; the answer comes through the callback under `ticket`.
    ///
    /// # Errors
    /// Too many questions wait. There will be no other answer.
    pub fn ask(&self, ticket: Ticket, request: DbRequest) -> Result<(), DbError> {
        self.queue.push_request(ticket, request)
    }

    #[must_use]
    pub fn status(&self) -> DbStatus {
        self.queue.status()
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.queue.close();
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore")
            .field("status", &self.status())
            .finish()
    }
}

#[cfg(test)]
mod tests;
