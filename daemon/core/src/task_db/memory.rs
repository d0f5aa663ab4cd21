//! Records in memory, bounded in number and bytes.
//!
//! | state       | bound                                          | at the bound                       |
//! |-------------|------------------------------------------------|------------------------------------|
//! | finished    | `records`, `bytes`                             | the one finished longest ago is    |
//! |             |                                                | culled                             |
//! | pending     | `bytes`                                        | new ones without their buffers,    |
//! |             |                                                | no more output                     |
//! |             | twice `bytes`, `PENDING_RECORDS_MAX`         | new ones are recorded when they    |
//! |             |                                                | finish                             |
//! | output only | a quarter of `bytes`,                          | the oldest is culled               |
//! |             | `OUTPUT_ONLY_RECORDS_MAX`                    |                                    |
//!
//! A record that alone exceeds `bytes` keeps everything but the buffers of its reply or request,
//! whichever are larger, or both. Asking for what was dropped is answered with an error that says so.
//!
//! Every operation costs a hash look-up. Records are put in the order of their history when someone asks:
//! thousands are recorded for each that is asked for.

use std::collections::VecDeque;

use foldhash::{HashMap, HashMapExt as _};

use super::output::Output;
use super::parts::Parts;
use super::query::Find;
use super::record::{Reply, TaskRecord};
use super::render::{self, FindReply, ResultsReply};
use super::{DbError, DbOp, DbReply, DbRequest, DbStatus, Hint, Purge, Results, StoredRequest};
use crate::ids::MsgId;
use crate::limits::{MEMORY_BYTES, MEMORY_RECORDS, OUTPUT_ONLY_RECORDS_MAX, PENDING_RECORDS_MAX};

/// How much the memory database keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryLimits {
    /// Finished records.
    pub records: usize,
    /// Bytes of finished records, with all that it takes to hold them.
    pub bytes: usize,
}

/// The task database of a controller without a disk.
#[derive(Debug)]
pub struct MemoryDb {
    limits: MemoryLimits,
    slots: Vec<Option<Entry>>,
    free: Vec<Slot>,
    by_id: HashMap<MsgId, Slot>,
    next_seq: u64,
    finished: Shelf,
    output_only: Shelf,
    pending: Shelf,
    culled: u64,
    buffers_dropped: u64,
    outputs_dropped: u64,
    ops_dropped: u64,
}

/// Index into `slots`.
type Slot = usize;

/// Date of submission (those without one come last), then order of arrival.
type HistoryKey = (i64, u64);

#[derive(Debug)]
struct Entry {
    record: Box<TaskRecord>,
    seq: u64,
    size: usize,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Finished,
    OutputOnly,
    Pending,
}

/// All records in one state.
#[derive(Debug, Default)]
struct Shelf {
    count: usize,
    bytes: usize,
    /// In the order in which they came into this state. Records that left it stay in line until they
    /// are skipped; pending records, which are never culled, do not stand in line.
    line: VecDeque<(u64, Slot)>,
}

/// Bytes that the maps take for one record.
const ENTRY_OVERHEAD: usize = 160;

/// Records that left a line are removed from it when they outnumber those that did not by this many.
const LINE_SLACK: usize = 1024;

impl Default for MemoryLimits {
    fn default() -> Self {
        Self {
            records: MEMORY_RECORDS,
            bytes: MEMORY_BYTES,
        }
    }
}

impl MemoryDb {
    #[must_use]
    pub fn new(limits: MemoryLimits) -> Self {
        Self {
            limits,
            slots: Vec::new(),
            free: Vec::new(),
            by_id: HashMap::new(),
            next_seq: 0,
            finished: Shelf::default(),
            output_only: Shelf::default(),
            pending: Shelf::default(),
            culled: 0,
            buffers_dropped: 0,
            outputs_dropped: 0,
            ops_dropped: 0,
        }
    }

    /// Notes what happened to a task.
    pub fn apply(&mut self, op: DbOp) {
        match op {
            DbOp::Assign { msg_id, engine } => {
                if let Some(slot) = self.slot(&msg_id) {
                    self.update(slot, |record| record.engine_uuid = Some(engine));
                }
            }
            DbOp::Complete { msg_id, reply } => self.complete(&msg_id, reply),
            DbOp::Output { msg_id, output } => self.output(&msg_id, output),
            DbOp::Resubmitted { old, new } => {
                if let Some(slot) = self.slot(&old) {
                    self.update(slot, |record| record.resubmitted = Some(new));
                }
            }
            DbOp::Submit(record) => self.submit(record),
        }
        self.cull();
    }

    /// Answers a question, or forgets what is to be purged.
    pub fn answer(&mut self, request: DbRequest) -> DbReply {
        let reply = match request {
            DbRequest::Find(find) => self.find(&find),
            DbRequest::History => self.history(),
            DbRequest::Purge(purge) => Ok(self.purge(&purge)),
            DbRequest::Requests(msg_ids) => self.requests(&msg_ids),
            DbRequest::Results(results) => self.results(results),
        };
        reply.unwrap_or_else(DbReply::Failed)
    }

    /// The record of a task, if it is there.
    #[must_use]
    pub fn record(&self, msg_id: &MsgId) -> Option<&TaskRecord> {
        self.entry(msg_id).map(|entry| &*entry.record)
    }

    #[must_use]
    pub fn status(&self) -> DbStatus {
        let bytes = self.finished.bytes + self.pending.bytes + self.output_only.bytes;
        DbStatus {
            records: self.by_id.len() as u64,
            bytes: bytes as u64,
            culled: self.culled,
            buffers_dropped: self.buffers_dropped,
            outputs_dropped: self.outputs_dropped,
            ops_dropped: self.ops_dropped,
            off: None,
        }
    }

    /// Panics if the indexes, sums and bounds do not agree with the records. For tests.
    pub fn check_invariants(&self) {
        let entries: Vec<&Entry> = self.slots.iter().flatten().collect();
        assert_eq!(entries.len(), self.by_id.len());
        assert_eq!(entries.len() + self.free.len(), self.slots.len());
        for state in [State::Finished, State::OutputOnly, State::Pending] {
            let own = || entries.iter().filter(|entry| entry.state == state);
            let shelf = self.shelf(state);
            assert_eq!(own().count(), shelf.count, "{state:?}");
            assert_eq!(
                own().map(|e| e.size).sum::<usize>(),
                shelf.bytes,
                "{state:?}"
            );
            assert!(
                shelf.line.len() <= 2 * shelf.count + LINE_SLACK,
                "{state:?}"
            );
        }
        for entry in entries {
            let slot = self.by_id[entry.record.msg_id.as_str()];
            let stored = self.slots[slot].as_ref().map(|entry| entry.seq);
            assert_eq!(stored, Some(entry.seq));
            assert_eq!(entry.size, size_of_entry(&entry.record));
            assert_eq!(entry.state, State::of(&entry.record));
        }
        assert!(self.finished.count <= self.limits.records);
        assert!(self.finished.bytes <= self.limits.bytes);
        assert!(self.output_only.count <= OUTPUT_ONLY_RECORDS_MAX);
        assert!(self.output_only.bytes <= self.limits.bytes / 4);
    }

    fn submit(&mut self, mut record: Box<TaskRecord>) {
        if self.pending.bytes + record.size() > self.limits.bytes
            && let Some(request) = &mut record.request
            && request.buffer_count() > 0
        {
            request.drop_buffers();
            self.buffers_dropped += 1;
        }
        if self.pending.count >= PENDING_RECORDS_MAX
            || self.pending.bytes + record.size() > 2 * self.limits.bytes
        {
            self.ops_dropped += 1;
        } else if let Some(slot) = self.slot(&record.msg_id) {
            self.update(slot, |known| known.add_request(*record));
        } else {
            self.insert(record);
        }
    }

    fn complete(&mut self, msg_id: &MsgId, reply: Reply) {
        let slot = self.slot_or_new(msg_id);
        let bytes_max = self.limits.bytes;
        let mut dropped = 0;
        self.update(slot, |record| {
            record.add_reply(reply);
            dropped = slim(record, bytes_max);
        });
        self.buffers_dropped += dropped;
    }

    fn output(&mut self, msg_id: &MsgId, output: Output) {
        let slot = self.slot_or_new(msg_id);
        let entry = self.slots[slot].as_ref();
        let pending = entry.is_some_and(|entry| entry.state == State::Pending);
        if pending && self.pending.bytes > self.limits.bytes {
            self.outputs_dropped += 1;
        } else {
            self.update(slot, |record| record.add_output(output));
        }
    }

    fn slot(&self, msg_id: &MsgId) -> Option<Slot> {
        self.by_id.get(msg_id.as_str()).copied()
    }

    fn slot_or_new(&mut self, msg_id: &MsgId) -> Slot {
        match self.slot(msg_id) {
            Some(slot) => slot,
            None => self.insert(Box::new(TaskRecord::empty(msg_id.clone()))),
        }
    }

    fn insert(&mut self, record: Box<TaskRecord>) -> Slot {
        let slot = self.free.pop().unwrap_or(self.slots.len());
        if slot == self.slots.len() {
            self.slots.push(None);
        }
        let entry = Entry {
            seq: self.next_seq,
            size: size_of_entry(&record),
            state: State::of(&record),
            record,
        };
        self.next_seq += 1;
        self.by_id.insert(entry.record.msg_id.clone(), slot);
        self.shelf_mut(entry.state).add(&entry, slot);
        self.slots[slot] = Some(entry);
        slot
    }

    /// Changes a record, and everything that follows from it.
    fn update(&mut self, slot: Slot, change: impl FnOnce(&mut TaskRecord)) {
        let Some(mut entry) = self.slots[slot].take() else {
            return;
        };
        let state = entry.state;
        let shelf = self.shelf_mut(state);
        shelf.bytes -= entry.size;
        change(&mut entry.record);
        entry.size = size_of_entry(&entry.record);
        entry.state = State::of(&entry.record);
        if entry.state == state {
            self.shelf_mut(state).bytes += entry.size;
        } else {
            self.shelf_mut(state).count -= 1;
            self.shelf_mut(entry.state).add(&entry, slot);
        }
        self.slots[slot] = Some(entry);
        self.shorten_line(state);
    }

    fn remove(&mut self, slot: Slot) {
        let Some(entry) = self.slots[slot].take() else {
            return;
        };
        self.free.push(slot);
        self.by_id.remove(entry.record.msg_id.as_str());
        let shelf = self.shelf_mut(entry.state);
        shelf.count -= 1;
        shelf.bytes -= entry.size;
        self.shorten_line(entry.state);
    }

    fn cull(&mut self) {
        let MemoryLimits { records, bytes } = self.limits;
        self.cull_state(State::Finished, records, bytes);
        self.cull_state(State::OutputOnly, OUTPUT_ONLY_RECORDS_MAX, bytes / 4);
    }

    fn cull_state(&mut self, state: State, count_max: usize, bytes_max: usize) {
        while self.shelf(state).count > count_max || self.shelf(state).bytes > bytes_max {
            let Some(place) = self.shelf_mut(state).line.pop_front() else {
                return;
            };
            if self.stands_in_line(state, place) {
                self.remove(place.1);
                self.culled += 1;
            }
        }
    }

    fn stands_in_line(&self, state: State, (seq, slot): (u64, Slot)) -> bool {
        let entry = self.slots[slot].as_ref();
        entry.is_some_and(|entry| entry.seq == seq && entry.state == state)
    }

    /// Keeps a line from growing by records that left it; amortised over as many departures.
    fn shorten_line(&mut self, state: State) {
        let shelf = self.shelf_mut(state);
        if shelf.line.len() > 2 * shelf.count + LINE_SLACK {
            let mut line = std::mem::take(&mut shelf.line);
            line.retain(|place| self.stands_in_line(state, *place));
            self.shelf_mut(state).line = line;
        }
    }

    fn find(&self, find: &Find) -> Result<DbReply, DbError> {
        if let Some(msg_ids) = find.query.msg_ids() {
            let named = msg_ids.iter().filter_map(|id| self.by_id.get(id.as_str()));
            self.find_among(named.filter_map(|slot| self.slots[*slot].as_ref()), find)
        } else {
            self.find_among(self.slots.iter().flatten(), find)
        }
    }

    fn find_among<'a>(
        &self,
        entries: impl Iterator<Item = &'a Entry>,
        find: &Find,
    ) -> Result<DbReply, DbError> {
        let mut reply = FindReply::new(find);
        for record in in_order(entries.filter(|entry| find.query.matches(&entry.record))) {
            reply.push(record)?;
        }
        Ok(reply.finish())
    }

    fn history(&self) -> Result<DbReply, DbError> {
        let dated = self.slots.iter().flatten();
        let dated = in_order(dated.filter(|entry| entry.record.submitted.is_some()));
        let msg_ids: Vec<MsgId> = dated.map(|record| record.msg_id.clone()).collect();
        render::history(&msg_ids)
    }

    fn purge(&mut self, purge: &Purge) -> DbReply {
        let mut missing = Vec::new();
        for msg_id in &purge.msg_ids {
            match self.slot(msg_id) {
                Some(slot) => self.remove(slot),
                None => missing.push(msg_id.clone()),
            }
        }
        if purge.all_finished || !purge.engines.is_empty() {
            let goes = |entry: &Entry| {
                let engine = entry.record.engine_uuid.as_ref();
                entry.state == State::Finished
                    && (purge.all_finished || engine.is_some_and(|e| purge.engines.contains(e)))
            };
            for slot in 0..self.slots.len() {
                if self.slots[slot].as_ref().is_some_and(goes) {
                    self.remove(slot);
                }
            }
        }
        DbReply::Purged { missing }
    }

    fn requests(&self, msg_ids: &[MsgId]) -> Result<DbReply, DbError> {
        let missing = msg_ids.iter().filter(|id| self.record(id).is_none());
        let missing: Vec<MsgId> = missing.cloned().collect();
        if !missing.is_empty() {
            return Err(DbError::NoSuchMessages(missing));
        }
        let records = msg_ids.iter().filter_map(|id| self.record(id));
        let requests: Result<_, _> = records.map(StoredRequest::of).collect();
        Ok(DbReply::Requests(requests?))
    }

    fn results(&self, results: Results) -> Result<DbReply, DbError> {
        let msg_ids = results.sorted_ids();
        let mut reply = ResultsReply::new(results.pending);
        for msg_id in msg_ids {
            let Some(record) = self.record(&msg_id) else {
                let hint = match self.culled {
                    0 => Hint::None,
                    count => Hint::Culled(count),
                };
                return Err(DbError::NoSuchMessage { msg_id, hint });
            };
            reply.push(record, results.status_only)?;
        }
        Ok(reply.finish())
    }

    fn entry(&self, msg_id: &MsgId) -> Option<&Entry> {
        self.slots[self.slot(msg_id)?].as_ref()
    }

    fn shelf(&self, state: State) -> &Shelf {
        match state {
            State::Finished => &self.finished,
            State::OutputOnly => &self.output_only,
            State::Pending => &self.pending,
        }
    }

    fn shelf_mut(&mut self, state: State) -> &mut Shelf {
        match state {
            State::Finished => &mut self.finished,
            State::OutputOnly => &mut self.output_only,
            State::Pending => &mut self.pending,
        }
    }
}

/// Records as `history` lists them.
fn in_order<'a>(entries: impl Iterator<Item = &'a Entry>) -> impl Iterator<Item = &'a TaskRecord> {
    let mut entries: Vec<&Entry> = entries.collect();
    entries.sort_unstable_by_key(|entry| entry.history_key());
    entries.into_iter().map(|entry| &*entry.record)
}

impl Entry {
    fn history_key(&self) -> HistoryKey {
        (self.record.submitted.unwrap_or(i64::MAX), self.seq)
    }
}

impl State {
    fn of(record: &TaskRecord) -> Self {
        match (&record.request, &record.reply) {
            (_, Some(_)) => Self::Finished,
            (Some(_), None) => Self::Pending,
            (None, None) => Self::OutputOnly,
        }
    }
}

impl Shelf {
    fn add(&mut self, entry: &Entry, slot: Slot) {
        self.count += 1;
        self.bytes += entry.size;
        if entry.state != State::Pending {
            self.line.push_back((entry.seq, slot));
        }
    }
}

fn size_of_entry(record: &TaskRecord) -> usize {
    record.size() + size_of::<Option<Entry>>() + ENTRY_OVERHEAD
}

/// Drops the larger buffers of a record that alone exceeds the limit, then the others if need be.
/// Returns 1 if it dropped any.
fn slim(record: &mut TaskRecord, bytes_max: usize) -> u64 {
    let mut dropped = 0;
    for _ in 0..2 {
        if size_of_entry(record) <= bytes_max {
            break;
        }
        let largest = [&mut record.request, &mut record.reply]
            .into_iter()
            .flatten()
            .max_by_key(|parts| parts.buffer_bytes());
        if let Some(parts) = largest.filter(|parts| parts.buffer_count() > 0) {
            Parts::drop_buffers(parts);
            dropped = 1;
        }
    }
    dropped
}
