//! An open database: transactions, the bound on its size, and answers.

use piparallel_core::ids::MsgId;
use piparallel_core::limits::REPLY_BUFFERS_MAX;
use piparallel_core::task_db::field::Field;
use piparallel_core::task_db::query::Find;
use piparallel_core::task_db::record::TaskRecord;
use piparallel_core::task_db::render::{self, FindReply, ResultsReply};
use piparallel_core::task_db::{DbError, DbReply, DbRequest, Hint, Purge, Results, StoredRequest};
use rusqlite::{Connection, OptionalExtension, Statement, TransactionBehavior};
use rusqlite::{params, params_from_iter};

use super::SqliteConfig;
use super::rows::{COLUMNS, Changes, Rows, Sides};
use super::schema::{self, OpenError};
use super::select::where_clause;

/// An open file, with sums that would take long to ask for.
pub(super) struct Database {
    connection: Connection,
    last_id: i64,
    pub(super) records: i64,
    pub(super) bytes: i64,
}

/// Deleting a few more than needed spares doing it in every transaction: one in this many.
const SLACK: i64 = 64;

/// What a transaction did, for the counters.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) culled: u64,
    pub(super) buffers_dropped: u64,
    pub(super) refused: u64,
}

/// Why there is no answer: the question is at fault, or the disk.
pub(super) enum AnswerError {
    Disk(rusqlite::Error),
    Refused(DbError),
}

impl From<rusqlite::Error> for AnswerError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Disk(error)
    }
}

impl From<DbError> for AnswerError {
    fn from(error: DbError) -> Self {
        Self::Refused(error)
    }
}

impl Database {
    pub(super) fn open(config: &SqliteConfig) -> Result<Self, OpenError> {
        let connection = schema::open(&config.path, &config.table)?;
        let mut database = Self {
            connection,
            last_id: 0,
            records: 0,
            bytes: 0,
        };
        database.count(&config.table)?;
        Ok(database)
    }

    fn count(&mut self, table: &str) -> rusqlite::Result<()> {
        let sql = format!(r#"SELECT count(*), ifnull(sum(size), 0) FROM "{table}""#);
        let sums = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
        (self.records, self.bytes) = self.connection.query_row(&sql, [], sums)?;
        let sql = "SELECT seq FROM sqlite_sequence WHERE name = ?1";
        let last_id = self.connection.query_row(sql, [table], |row| row.get(0));
        self.last_id = last_id.optional()?.unwrap_or(0);
        Ok(())
    }

    pub(super) fn write(
        &mut self,
        rows: &Rows,
        changes: &Changes,
        config: &SqliteConfig,
    ) -> rusqlite::Result<Outcome> {
        let change = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        let written = rows.write(&change, changes, &mut self.last_id)?;
        let mut outcome = Outcome {
            culled: 0,
            buffers_dropped: written.buffers_dropped,
            refused: written.refused,
        };
        let (mut records, mut bytes) =
            (self.records + written.new_rows, self.bytes + written.bytes);
        let bound = |max: u64| i64::try_from(max).unwrap_or(i64::MAX);
        let (records_max, bytes_max) = (bound(config.records_max), bound(config.bytes_max));
        for (sql, records_max, bytes_max) in [
            (CULL_FINISHED, records_max, bytes_max),
            // Nothing will finish what was pending when an earlier controller stopped.
            (
                CULL_ANY,
                records_max.saturating_mul(2),
                bytes_max.saturating_mul(2),
            ),
        ] {
            if records <= records_max && bytes <= bytes_max {
                continue;
            }
            let records_goal = records_max - records_max / SLACK;
            let bytes_goal = bytes_max - bytes_max / SLACK;
            let mut cull = change.prepare_cached(&sql.replace("{t}", &config.table))?;
            while records > records_goal || bytes > bytes_goal {
                let size: Option<i64> = cull.query_row([], |row| row.get(0)).optional()?;
                let Some(size) = size else {
                    break;
                };
                records -= 1;
                bytes -= size;
                outcome.culled += 1;
            }
        }
        change.commit()?;
        (self.records, self.bytes) = (records, bytes);
        Ok(outcome)
    }

    pub(super) fn answer(
        &mut self,
        rows: &Rows,
        request: &DbRequest,
        table: &str,
    ) -> Result<DbReply, AnswerError> {
        match request {
            DbRequest::Find(find) => self.find(rows, find, table),
            DbRequest::History => self.history(table),
            DbRequest::Purge(purge) => Ok(self.purge(purge, table)?),
            DbRequest::Requests(msg_ids) => self.requests(rows, msg_ids, table),
            DbRequest::Results(results) => self.results(rows, results, table),
        }
    }

    /// The ids are sorted first, so that no row is held in memory longer than it takes to render it.
    fn find(&self, rows: &Rows, find: &Find, table: &str) -> Result<DbReply, AnswerError> {
        let clause = where_clause(&find.query);
        let sql = format!(
            r#"SELECT id FROM "{table}" WHERE {} ORDER BY submitted IS NULL, submitted, id"#,
            clause.sql
        );
        let mut named = self.connection.prepare(&sql)?;
        let ids = named.query_map(params_from_iter(clause.params), |row| row.get(0))?;
        let ids: Vec<i64> = ids.collect::<Result<_, _>>()?;
        let sql = format!(r#"SELECT {COLUMNS} FROM "{table}" WHERE id = ?1"#);
        let mut select = self.connection.prepare_cached(&sql)?;
        let asks_for_buffers = |field| {
            let mut conditions = find.query.conditions.iter();
            find.wants(field) || conditions.any(|condition| condition.field == field)
        };
        let sides = Sides {
            request: asks_for_buffers(Field::Buffers),
            reply: asks_for_buffers(Field::ResultBuffers),
        };
        let mut reply = FindReply::new(find);
        let mut budget = Budget::default();
        for id in ids {
            let read = |row: &rusqlite::Row<'_>| rows.record_of(&self.connection, row, sides);
            let record = select.query_row([id], read)?;
            if find.query.matches(&record) {
                budget.spend(&record)?;
                reply.push(&record)?;
            }
        }
        Ok(reply.finish())
    }

    fn history(&self, table: &str) -> Result<DbReply, AnswerError> {
        let sql = format!(
            r#"SELECT msg_id FROM "{table}" WHERE submitted IS NOT NULL ORDER BY submitted, id"#
        );
        let mut select = self.connection.prepare_cached(&sql)?;
        let msg_ids = select.query_map([], |row| Ok(MsgId::new(row.get_ref(0)?.as_str()?)))?;
        let msg_ids: Vec<MsgId> = msg_ids.collect::<Result<_, _>>()?;
        Ok(render::history(&msg_ids)?)
    }

    fn purge(&mut self, purge: &Purge, table: &str) -> rusqlite::Result<DbReply> {
        let mut missing = Vec::new();
        let change = self.connection.transaction()?;
        if !purge.msg_ids.is_empty() {
            let sql = format!(r#"DELETE FROM "{table}" WHERE msg_id = ?1"#);
            let mut delete = change.prepare_cached(&sql)?;
            for msg_id in &purge.msg_ids {
                if delete.execute([msg_id.as_str()])? == 0 {
                    missing.push(msg_id.clone());
                }
            }
        }
        for engine in &purge.engines {
            let sql = format!(
                r#"DELETE FROM "{table}" WHERE engine_uuid = ?1 AND result_header IS NOT NULL"#
            );
            change.prepare_cached(&sql)?.execute([engine.as_str()])?;
        }
        if purge.all_finished {
            let sql = format!(r#"DELETE FROM "{table}" WHERE result_header IS NOT NULL"#);
            change.execute(&sql, [])?;
        }
        change.commit()?;
        self.connection.execute_batch("PRAGMA incremental_vacuum")?;
        self.count(table)?;
        Ok(DbReply::Purged { missing })
    }

    fn requests(
        &self,
        rows: &Rows,
        msg_ids: &[MsgId],
        table: &str,
    ) -> Result<DbReply, AnswerError> {
        let sides = Sides {
            request: true,
            reply: false,
        };
        let mut select = self.select_by_msg_id(table)?;
        let mut missing = Vec::new();
        let mut requests = Vec::new();
        let mut budget = Budget::default();
        for msg_id in msg_ids {
            match self.record(&mut select, rows, msg_id, sides)? {
                None => missing.push(msg_id.clone()),
                Some(record) => {
                    budget.spend(&record)?;
                    requests.push(StoredRequest::of(&record));
                }
            }
        }
        if !missing.is_empty() {
            return Err(DbError::NoSuchMessages(missing).into());
        }
        let requests: Result<_, _> = requests.into_iter().collect();
        Ok(DbReply::Requests(requests?))
    }

    fn results(&self, rows: &Rows, results: &Results, table: &str) -> Result<DbReply, AnswerError> {
        let sides = Sides {
            request: false,
            reply: !results.status_only,
        };
        let mut select = self.select_by_msg_id(table)?;
        let mut reply = ResultsReply::new(results.pending.clone());
        let mut budget = Budget::default();
        for msg_id in results.sorted_ids() {
            let Some(record) = self.record(&mut select, rows, &msg_id, sides)? else {
                let hint = Hint::None;
                return Err(DbError::NoSuchMessage { msg_id, hint }.into());
            };
            budget.spend(&record)?;
            reply.push(&record, results.status_only)?;
        }
        Ok(reply.finish())
    }

    fn select_by_msg_id(&self, table: &str) -> rusqlite::Result<Statement<'_>> {
        let sql = format!(r#"SELECT {COLUMNS} FROM "{table}" WHERE msg_id = ?1"#);
        self.connection.prepare(&sql)
    }

    fn record(
        &self,
        select: &mut Statement<'_>,
        rows: &Rows,
        msg_id: &MsgId,
        sides: Sides,
    ) -> rusqlite::Result<Option<TaskRecord>> {
        let read = |row: &rusqlite::Row<'_>| rows.record_of(&self.connection, row, sides);
        select.query_row(params![msg_id.as_str()], read).optional()
    }
}

/// Bytes of buffers loaded for one answer.
#[derive(Debug, Default)]
struct Budget {
    bytes: usize,
}

impl Budget {
    /// One record always fits: its buffers were sent as one message before.
    fn spend(&mut self, record: &TaskRecord) -> Result<(), DbError> {
        let sides = [&record.request, &record.reply].into_iter().flatten();
        let bytes: usize = sides.map(|parts| parts.buffer_bytes()).sum();
        if self.bytes > 0 && self.bytes + bytes > REPLY_BUFFERS_MAX {
            return Err(DbError::TooLarge(REPLY_BUFFERS_MAX >> 20));
        }
        self.bytes += bytes;
        Ok(())
    }
}

const CULL_FINISHED: &str = r#"
    DELETE FROM "{t}" WHERE id = (SELECT id FROM "{t}" WHERE completed IS NOT NULL
    ORDER BY completed LIMIT 1) RETURNING size"#;

const CULL_ANY: &str = r#"
    DELETE FROM "{t}" WHERE id = (SELECT min(id) FROM "{t}") RETURNING size"#;
