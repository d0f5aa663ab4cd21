//! Records as rows: what changed is merged into a row, a row becomes a record again.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use piparallel_core::ids::{EngineUuid, MsgId};
use piparallel_core::task_db::DbOp;
use piparallel_core::task_db::output::Outputs;
use piparallel_core::task_db::parts::Parts;
use piparallel_core::task_db::record::{Queue, TaskRecord};
use rusqlite::{Connection, OptionalExtension, Row, named_params, params};

/// The statements on one task table.
#[derive(Debug)]
pub(super) struct Rows {
    upsert: String,
    assign: String,
    outputs: String,
    clear_result_buffers: String,
    add_buffer: String,
    buffers: String,
}

/// Which buffers of a record to load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sides {
    pub(super) request: bool,
    pub(super) reply: bool,
}

/// What changed since the last transaction, one record for each task. A field without a value did not
/// change.
#[derive(Debug, Default)]
pub(super) struct Changes {
    records: Vec<TaskRecord>,
    by_id: HashMap<MsgId, usize>,
}

/// What a transaction did to the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) new_rows: i64,
    pub(super) bytes: i64,
    /// Records that SQLite takes in no form.
    pub(super) refused: u64,
    /// Records whose buffers SQLite does not take.
    pub(super) buffers_dropped: u64,
}

/// What `record_of` reads, in its order.
pub(super) const COLUMNS: &str = "id, msg_id, header, metadata, content, buffers_lost, submitted, \
    completed, received, client_uuid, engine_uuid, resubmitted, queue, result_header, \
    result_metadata, result_content, result_buffers_lost, execute_input, execute_result, error, \
    stdout, stderr";

const REQUEST: i64 = 0;
const REPLY: i64 = 1;

/// Bytes of one value; SQLite's own limit is 1,000,000,000.
const BLOB_MAX: usize = 999_000_000;

/// What a row costs besides its texts, roughly.
const ROW_OVERHEAD: usize = 200;

impl Changes {
    pub(super) fn apply(&mut self, op: DbOp) {
        match op {
            DbOp::Assign { msg_id, engine } => self.record(msg_id).engine_uuid = Some(engine),
            DbOp::Complete { msg_id, reply } => self.record(msg_id).add_reply(reply),
            DbOp::Output { msg_id, output } => self.record(msg_id).add_output(output),
            DbOp::Resubmitted { old, new } => self.record(old).resubmitted = Some(new),
            DbOp::Submit(record) => self.record(record.msg_id.clone()).add_request(*record),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    fn record(&mut self, msg_id: MsgId) -> &mut TaskRecord {
        let next = self.records.len();
        let index = *self.by_id.entry(msg_id.clone()).or_insert(next);
        if index == next {
            self.records.push(TaskRecord::empty(msg_id));
        }
        &mut self.records[index]
    }
}

impl Rows {
    pub(super) fn new(table: &str) -> Self {
        Self {
            upsert: UPSERT.replace("{t}", table),
            assign: ASSIGN.replace("{t}", table),
            outputs: OUTPUTS.replace("{t}", table),
            clear_result_buffers: format!(
                r#"DELETE FROM "{table}-buffers" WHERE task = ?1 AND side = {REPLY}"#
            ),
            add_buffer: format!(
                r#"INSERT OR IGNORE INTO "{table}-buffers" VALUES (?1, ?2, ?3, ?4)"#
            ),
            buffers: format!(
                r#"SELECT side, position, data FROM "{table}-buffers" WHERE task = ?1
                   AND (side = {REQUEST} AND ?2 OR side = {REPLY} AND ?3) ORDER BY side, position"#
            ),
        }
    }

    /// Writes all changes. `last_id` is the highest row id so far.
    pub(super) fn write(
        &self,
        db: &Connection,
        changes: &Changes,
        last_id: &mut i64,
    ) -> rusqlite::Result<Written> {
        let mut written = Written::default();
        for record in &changes.records {
            match self.write_record(db, record, last_id, &mut written) {
                Err(error) if is_too_big(&error) => written.refused += 1,
                result => result?,
            }
        }
        Ok(written)
    }

    fn write_record(
        &self,
        db: &Connection,
        record: &TaskRecord,
        last_id: &mut i64,
        written: &mut Written,
    ) -> rusqlite::Result<()> {
        if record.request.is_none() && record.reply.is_none() && record.outputs.is_none() {
            let engine = record.engine_uuid.as_ref().map(|id| id.as_str());
            let resubmitted = record.resubmitted.as_ref().map(|id| id.as_str());
            let msg_id = record.msg_id.as_str();
            let mut assign = db.prepare_cached(&self.assign)?;
            return assign
                .execute(params![msg_id, engine, resubmitted])
                .map(drop);
        }
        let fits = |parts: &&Parts| parts.buffers().all(|b| b.as_slice().len() <= BLOB_MAX);
        let (request, reply) = (record.request.as_ref(), record.reply.as_ref());
        let (request_fits, reply_fits) = (request.filter(fits), reply.filter(fits));
        let dropped =
            request_fits.is_none() && request.is_some() || reply_fits.is_none() && reply.is_some();
        written.buffers_dropped += u64::from(dropped);
        let outputs = match &record.outputs {
            None => None,
            Some(outputs) => Some(self.with_earlier(db, record, outputs)?),
        };
        let size = i64::try_from(ROW_OVERHEAD + record.size()).unwrap_or(i64::MAX);
        let id = self.upsert(db, record, outputs.as_ref(), size)?;
        written.bytes = written.bytes.saturating_add(size);
        if id > *last_id {
            *last_id = id;
            written.new_rows += 1;
        } else if reply.is_some() {
            db.prepare_cached(&self.clear_result_buffers)?
                .execute([id])?;
        }
        let mut add = db.prepare_cached(&self.add_buffer)?;
        for (side, parts) in [(REQUEST, request_fits), (REPLY, reply_fits)] {
            for (position, buffer) in (0_i64..).zip(parts.into_iter().flat_map(Parts::buffers)) {
                add.execute(params![id, side, position, buffer.as_slice()])?;
            }
        }
        Ok(())
    }

    fn upsert(
        &self,
        db: &Connection,
        record: &TaskRecord,
        outputs: Option<&Outputs>,
        size: i64,
    ) -> rusqlite::Result<i64> {
        let (request, reply) = (record.request.as_ref(), record.reply.as_ref());
        let label = record.label().map(|label| label.get());
        let label = label.and_then(|json| serde_json::from_str::<serde_json::Value>(json).ok());
        let as_text = |json: &Option<Box<[u8]>>| json.as_deref().map(lossy).map(Cow::into_owned);
        db.prepare_cached(&self.upsert)?.query_row(
            named_params! {
                ":msg_id": record.msg_id.as_str(),
                ":header": request.map(|parts| lossy(parts.header())),
                ":metadata": request.and_then(|parts| not_empty(parts.metadata())),
                ":content": request.and_then(|parts| not_empty(parts.content())),
                ":buffers_lost": request.map(lost_bytes),
                ":submitted": record.submitted,
                ":started": record.started(),
                ":completed": record.completed,
                ":received": record.received,
                ":client_uuid": record.client_uuid.as_deref(),
                ":engine_uuid": record.engine_uuid.as_ref().map(|id| id.as_str()),
                ":resubmitted": record.resubmitted.as_ref().map(|id| id.as_str()),
                ":queue": record.queue.map(Queue::name),
                ":label": label.map(|label| label.to_string()),
                ":result_header": reply.map(|parts| lossy(parts.header())),
                ":result_metadata": reply.map(|parts| lossy(parts.metadata())),
                ":result_content": reply.map(|parts| lossy(parts.content())),
                ":result_buffers_lost": reply.map(lost_bytes),
                ":execute_input": outputs.and_then(|o| o.execute_input.as_deref()),
                ":execute_result": outputs.and_then(|o| as_text(&o.execute_result)),
                ":error": outputs.and_then(|o| as_text(&o.error)),
                ":stdout": outputs.map(|o| o.stdout.as_str()),
                ":stderr": outputs.map(|o| o.stderr.as_str()),
                ":size": size,
            },
            |row| row.get(0),
        )
    }

    /// The output of earlier transactions and this one, within the same bounds as in memory.
    fn with_earlier(
        &self,
        db: &Connection,
        record: &TaskRecord,
        later: &Outputs,
    ) -> rusqlite::Result<Outputs> {
        let earlier = db
            .prepare_cached(&self.outputs)?
            .query_row([record.msg_id.as_str()], |row| {
                Ok(Outputs {
                    stdout: row.get(0)?,
                    stderr: row.get(1)?,
                    ..Outputs::default()
                })
            })
            .optional()?;
        let mut outputs = earlier.unwrap_or_default();
        outputs.append(later.clone());
        Ok(outputs)
    }

    /// The record of a row of [`COLUMNS`], with the buffers of the wanted sides.
    pub(super) fn record_of(
        &self,
        db: &Connection,
        row: &Row<'_>,
        sides: Sides,
    ) -> rusqlite::Result<TaskRecord> {
        let id: i64 = row.get("id")?;
        let (mut request_buffers, mut reply_buffers) = (Vec::new(), Vec::new());
        if sides.request || sides.reply {
            let mut buffers = db.prepare_cached(&self.buffers)?;
            let mut rows = buffers.query(params![id, sides.request, sides.reply])?;
            while let Some(row) = rows.next()? {
                let data = Bytes::from(row.get::<_, Vec<u8>>("data")?);
                if row.get::<_, i64>("side")? == REQUEST {
                    request_buffers.push(data);
                } else {
                    reply_buffers.push(data);
                }
            }
        }
        let msg_id = MsgId::new(row.get_ref("msg_id")?.as_str()?);
        let outputs = Outputs {
            stdout: row.get("stdout")?,
            stderr: row.get("stderr")?,
            execute_input: row.get("execute_input")?,
            execute_result: json(row, "execute_result")?,
            error: json(row, "error")?,
        };
        Ok(TaskRecord {
            request: parts(
                row,
                ["header", "metadata", "content"],
                "buffers_lost",
                &request_buffers,
            )?,
            reply: parts(
                row,
                ["result_header", "result_metadata", "result_content"],
                "result_buffers_lost",
                &reply_buffers,
            )?,
            submitted: row.get("submitted")?,
            completed: row.get("completed")?,
            received: row.get("received")?,
            client_uuid: row.get::<_, Option<Arc<str>>>("client_uuid")?,
            engine_uuid: text(row, "engine_uuid")?.map(|id| EngineUuid::new(&id)),
            queue: text(row, "queue")?.and_then(|name| Queue::from_name(&name)),
            resubmitted: text(row, "resubmitted")?.map(|id| MsgId::new(&id)),
            outputs: (outputs != Outputs::default()).then(|| Box::new(outputs)),
            ..TaskRecord::empty(msg_id)
        })
    }
}

fn parts(
    row: &Row<'_>,
    columns: [&str; 3],
    lost: &str,
    buffers: &[Bytes],
) -> rusqlite::Result<Option<Parts>> {
    let Some(header) = text(row, columns[0])? else {
        return Ok(None);
    };
    let part = |column| -> rusqlite::Result<Bytes> {
        Ok(text(row, column)?.map_or_else(Bytes::new, Bytes::from))
    };
    let parts = Parts::new(
        &header.into(),
        &part(columns[1])?,
        &part(columns[2])?,
        buffers,
    );
    let lost: Option<i64> = row.get(lost)?;
    Ok(Some(
        parts.with_buffer_bytes_lost(lost.unwrap_or(0).unsigned_abs()),
    ))
}

fn text(row: &Row<'_>, column: &str) -> rusqlite::Result<Option<String>> {
    row.get(column)
}

fn json(row: &Row<'_>, column: &str) -> rusqlite::Result<Option<Box<[u8]>>> {
    Ok(text(row, column)?.map(|json| json.into_bytes().into_boxed_slice()))
}

fn lost_bytes(parts: &Parts) -> i64 {
    let too_big = parts.buffers().any(|b| b.as_slice().len() > BLOB_MAX);
    let dropped = if too_big {
        parts.buffer_bytes() as u64
    } else {
        0
    };
    i64::try_from(parts.buffer_bytes_lost() + dropped).unwrap_or(i64::MAX)
}

fn lossy(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

fn not_empty(bytes: &[u8]) -> Option<Cow<'_, str>> {
    (!bytes.is_empty()).then(|| lossy(bytes))
}

fn is_too_big(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(rusqlite::ErrorCode::TooBig)
}

/// As in memory: of a request the first counts (one that a reply merely quoted gives way), of
/// everything else the last.
const UPSERT: &str = r#"
    INSERT INTO "{t}" (msg_id, header, metadata, content, buffers_lost, submitted, started, completed,
        received, client_uuid, engine_uuid, resubmitted, queue, label, result_header, result_metadata,
        result_content, result_buffers_lost, execute_input, execute_result, error, stdout, stderr, size)
    VALUES (:msg_id, :header, :metadata, :content, :buffers_lost, :submitted, :started, :completed,
        :received, :client_uuid, :engine_uuid, :resubmitted, :queue, :label, :result_header,
        :result_metadata, :result_content, :result_buffers_lost, :execute_input, :execute_result,
        :error, ifnull(:stdout, ''), ifnull(:stderr, ''), :size)
    ON CONFLICT (msg_id) DO UPDATE SET
        header = iif(content IS NULL, ifnull(excluded.header, header), header),
        metadata = ifnull(metadata, excluded.metadata),
        content = ifnull(content, excluded.content),
        buffers_lost = ifnull(buffers_lost, excluded.buffers_lost),
        submitted = ifnull(submitted, excluded.submitted),
        client_uuid = ifnull(client_uuid, excluded.client_uuid),
        queue = ifnull(queue, excluded.queue),
        label = ifnull(label, excluded.label),
        engine_uuid = ifnull(excluded.engine_uuid, engine_uuid),
        resubmitted = ifnull(excluded.resubmitted, resubmitted),
        started = ifnull(excluded.started, started),
        completed = ifnull(excluded.completed, completed),
        received = ifnull(excluded.received, received),
        result_header = ifnull(excluded.result_header, result_header),
        result_metadata = ifnull(excluded.result_metadata, result_metadata),
        result_content = ifnull(excluded.result_content, result_content),
        result_buffers_lost = ifnull(excluded.result_buffers_lost, result_buffers_lost),
        execute_input = ifnull(excluded.execute_input, execute_input),
        execute_result = ifnull(excluded.execute_result, execute_result),
        error = ifnull(excluded.error, error),
        stdout = ifnull(:stdout, stdout),
        stderr = ifnull(:stderr, stderr),
        size = size + excluded.size
    RETURNING id"#;

const ASSIGN: &str = r#"
    UPDATE "{t}" SET engine_uuid = ifnull(?2, engine_uuid), resubmitted = ifnull(?3, resubmitted)
    WHERE msg_id = ?1"#;

const OUTPUTS: &str = r#"SELECT stdout, stderr FROM "{t}" WHERE msg_id = ?1"#;
