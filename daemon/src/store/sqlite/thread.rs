//! The thread: takes from the queue, writes, answers, and goes on when the disk does not.

use std::sync::Arc;
use std::time::{Duration, Instant};

use piparallel_core::task_db::{DbError, DbReply, DbRequest, Ticket};
use rusqlite::ErrorCode;

use super::SqliteConfig;
use super::database::{AnswerError, Database};
use super::queue::{Batch, Queue};
use super::rows::{Changes, Rows};
use super::schema::OpenError;
use crate::store::Item;

/// Owns the connection, or the reason why there is none.
pub(super) struct Writer<R> {
    config: SqliteConfig,
    queue: Arc<Queue>,
    reply: R,
    rows: Rows,
    state: State,
    /// When recording is off: how long to wait before the file is tried again.
    retry_after: Duration,
}

enum State {
    Off { reason: String, since: Instant },
    On(Database),
}

/// A change is written no later than this after it was recorded.
const COMMIT_INTERVAL: Duration = Duration::from_millis(200);

const RETRY_MIN: Duration = Duration::from_secs(5);
const RETRY_MAX: Duration = Duration::from_secs(300);

impl<R: Fn(Ticket, DbReply)> Writer<R> {
    /// Opens the file. A disk that fails leaves recording off.
    pub(super) fn open(
        config: SqliteConfig,
        queue: Arc<Queue>,
        reply: R,
    ) -> Result<Self, OpenError> {
        let rows = Rows::new(&config.table);
        let state = State::Off {
            reason: String::new(),
            since: Instant::now(),
        };
        let mut writer = Self {
            config,
            queue,
            reply,
            rows,
            state,
            retry_after: RETRY_MIN,
        };
        match Database::open(&writer.config) {
            Ok(database) => writer.switch_on(database),
            Err(OpenError::Unusable(error)) => writer.switch_off(&error.into()),
            Err(refusal) => return Err(refusal),
        }
        Ok(writer)
    }

    /// Runs until the queue is closed and empty.
    pub(super) fn run(mut self) {
        loop {
            let patience = match &self.state {
                State::Off { since, .. } => Some(self.retry_after.saturating_sub(since.elapsed())),
                State::On(_) => None,
            };
            let mut batch = self.queue.take(COMMIT_INTERVAL, patience);
            self.try_again();
            self.process(&mut batch);
            self.queue.done(&batch);
            if batch.closed {
                return;
            }
        }
    }

    fn process(&mut self, batch: &mut Batch) {
        let mut changes = Changes::default();
        for item in std::mem::take(&mut batch.items) {
            match item {
                Item::Op(op) => changes.apply(op),
                Item::Ask(ticket, request) => {
                    self.write(&mut changes);
                    let answer = self.answer(&request);
                    (self.reply)(ticket, answer);
                }
            }
        }
        self.write(&mut changes);
    }

    fn write(&mut self, changes: &mut Changes) {
        let changes = std::mem::take(changes);
        if changes.is_empty() {
            return;
        }
        let count = changes.len() as u64;
        let State::On(database) = &mut self.state else {
            self.queue
                .update_status(|status| status.ops_dropped += count);
            return;
        };
        match database.write(&self.rows, &changes, &self.config) {
            Ok(outcome) => {
                self.retry_after = RETRY_MIN;
                let (records, bytes) = (database.records, database.bytes);
                self.queue.update_status(|status| {
                    status.records = records.unsigned_abs();
                    status.bytes = bytes.unsigned_abs();
                    status.culled += outcome.culled;
                    status.buffers_dropped += outcome.buffers_dropped;
                    status.ops_dropped += outcome.refused;
                });
            }
            Err(error) => {
                self.queue
                    .update_status(|status| status.ops_dropped += count);
                self.switch_off(&error.into());
            }
        }
    }

    fn answer(&mut self, request: &DbRequest) -> DbReply {
        let State::On(database) = &mut self.state else {
            return DbReply::Failed(self.unavailable());
        };
        match database.answer(&self.rows, request, &self.config.table) {
            Ok(reply) => {
                let (records, bytes) = (database.records, database.bytes);
                self.queue.update_status(|status| {
                    status.records = records.unsigned_abs();
                    status.bytes = bytes.unsigned_abs();
                });
                reply
            }
            Err(AnswerError::Refused(error)) => DbReply::Failed(error),
            Err(AnswerError::Disk(error)) => {
                self.switch_off(&error.into());
                DbReply::Failed(self.unavailable())
            }
        }
    }

    fn unavailable(&self) -> DbError {
        DbError::Unavailable(match &self.state {
            State::Off { reason, .. } => reason.clone(),
            State::On(_) => String::new(),
        })
    }

    fn try_again(&mut self) {
        let State::Off { since, .. } = &self.state else {
            return;
        };
        if since.elapsed() < self.retry_after {
            return;
        }
        self.retry_after = (self.retry_after * 2).min(RETRY_MAX);
        match Database::open(&self.config) {
            Ok(database) => {
                log::info!("recording tasks in {} again", self.config.path.display());
                self.switch_on(database);
            }
            Err(error) => self.switch_off(&error),
        }
    }

    fn switch_on(&mut self, database: Database) {
        self.queue.update_status(|status| {
            status.off = None;
            status.records = database.records.unsigned_abs();
            status.bytes = database.bytes.unsigned_abs();
        });
        self.state = State::On(database);
    }

    /// Says why once, not at every attempt.
    fn switch_off(&mut self, error: &OpenError) {
        let reason = describe(error, &self.config);
        let known = matches!(&self.state, State::Off { reason: known, .. } if *known == reason);
        if !known {
            log::error!("tasks are not recorded: {reason}");
        }
        self.queue
            .update_status(|status| status.off = Some(reason.clone()));
        self.state = State::Off {
            reason,
            since: Instant::now(),
        };
    }
}

/// Names the cause and the remedy.
fn describe(error: &OpenError, config: &SqliteConfig) -> String {
    let path = config.path.display();
    let OpenError::Unusable(error) = error else {
        return error.to_string();
    };
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => format!("no space left for {path}: make room"),
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => {
            format!("{path} cannot be written: check that its directory exists and is writable")
        }
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            format!("{path} is damaged, or no SQLite file: move it away")
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            format!("{path} is locked by another program: stop that one, or choose another file")
        }
        _ => format!("{path}: {error}"),
    }
}
