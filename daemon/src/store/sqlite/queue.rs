//! What waits for the disk: a bounded queue that never blocks whoever fills it.
//!
//! | it is        | then                                                                      |
//! |--------------|---------------------------------------------------------------------------|
//! | half full    | output of tasks is not recorded                                           |
//! | 3/4 full     | requests and replies are recorded without their buffers, marked as such   |
//! | full         | nothing is recorded; a reply whose request is missing brings its header   |
//!
//! Each step is counted. Questions are never dropped silently: one too many is refused at once.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use piparallel_core::limits::DISK_QUEUE_REQUESTS;
use piparallel_core::task_db::parts::Parts;
use piparallel_core::task_db::{DbError, DbOp, DbRequest, DbStatus, Ticket};

use crate::store::Item;

/// What the thread takes at once.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) items: Vec<Item>,
    /// The queue was closed and is empty.
    pub(super) closed: bool,
    ops: usize,
    bytes: usize,
}

#[derive(Debug)]
pub(super) struct Queue {
    ops_max: usize,
    bytes_max: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    items: VecDeque<Item>,
    /// With what the thread took and did not write yet.
    ops: usize,
    bytes: usize,
    requests: usize,
    /// The thread is to look now: somebody waits for an answer, or room is getting short.
    urgent: bool,
    closed: bool,
    /// Since when the oldest item waits.
    since: Option<Instant>,
    status: DbStatus,
}

/// Operations in one transaction.
const BATCH_OPS: usize = 2000;

impl Queue {
    pub(super) fn new(ops_max: usize, bytes_max: usize) -> Self {
        Self {
            ops_max,
            bytes_max,
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    pub(super) fn push_op(&self, mut op: DbOp) {
        let mut state = self.lock();
        let fill = |part: usize| {
            state.ops * 4 >= self.ops_max * part || state.bytes * 4 >= self.bytes_max * part
        };
        let (half, three_quarters, full) = (fill(2), fill(3), fill(4));
        if full {
            state.status.ops_dropped += 1;
            return;
        }
        if half && matches!(op, DbOp::Output { .. }) {
            state.status.outputs_dropped += 1;
            return;
        }
        if three_quarters && drop_buffers(&mut op) {
            state.status.buffers_dropped += 1;
        }
        state.ops += 1;
        state.bytes += op.size();
        self.push(state, Item::Op(op), half);
    }

    pub(super) fn push_request(&self, ticket: Ticket, request: DbRequest) -> Result<(), DbError> {
        let mut state = self.lock();
        if state.requests >= DISK_QUEUE_REQUESTS {
            return Err(DbError::Busy);
        }
        state.requests += 1;
        self.push(state, Item::Ask(ticket, request), true);
        Ok(())
    }

    /// Takes what is there: at once when it is urgent, when the oldest item is `age_max` old, or when
    /// `patience` is over with nothing to take.
    pub(super) fn take(&self, age_max: Duration, patience: Option<Duration>) -> Batch {
        let give_up = patience.map(|patience| Instant::now() + patience);
        let mut state = self.lock();
        loop {
            let due = state.since.map(|since| since + age_max).or(give_up);
            let left = due.map(|due| due.saturating_duration_since(Instant::now()));
            if state.urgent || state.closed || left == Some(Duration::ZERO) {
                return Self::batch(&mut state);
            }
            state = match left {
                None => self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(left) => {
                    let waited = self.changed.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Gives back the room of a batch that is written, or given up.
    pub(super) fn done(&self, batch: &Batch) {
        let mut state = self.lock();
        state.ops -= batch.ops;
        state.bytes -= batch.bytes;
    }

    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
    }

    pub(super) fn status(&self) -> DbStatus {
        self.lock().status.clone()
    }

    pub(super) fn update_status(&self, change: impl FnOnce(&mut DbStatus)) {
        change(&mut self.lock().status);
    }

    fn push(&self, mut state: MutexGuard<'_, State>, item: Item, urgent: bool) {
        let wake = state.items.is_empty() || (urgent && !state.urgent);
        state.items.push_back(item);
        state.urgent |= urgent;
        state.since.get_or_insert_with(Instant::now);
        drop(state);
        if wake {
            self.changed.notify_one();
        }
    }

    fn batch(state: &mut State) -> Batch {
        let count = state.items.len().min(BATCH_OPS);
        let items: Vec<Item> = state.items.drain(..count).collect();
        let mut batch = Batch::default();
        for item in &items {
            match item {
                Item::Ask(..) => state.requests -= 1,
                Item::Op(op) => {
                    batch.ops += 1;
                    batch.bytes += op.size();
                }
            }
        }
        batch.items = items;
        if state.items.is_empty() {
            state.urgent = false;
            state.since = None;
        }
        batch.closed = state.closed && state.items.is_empty();
        batch
    }

    /// A poisoned lock still holds a sound state: nothing here stops halfway.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether there were any.
fn drop_buffers(op: &mut DbOp) -> bool {
    let parts = match op {
        DbOp::Complete { reply, .. } => Some(&mut reply.parts),
        DbOp::Submit(record) => record.request.as_mut(),
        DbOp::Assign { .. } | DbOp::Output { .. } | DbOp::Resubmitted { .. } => None,
    };
    let parts = parts.filter(|parts| parts.buffer_count() > 0);
    parts.map(Parts::drop_buffers).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use piparallel_core::ids::MsgId;
    use piparallel_core::task_db::output::Output;
    use piparallel_core::task_db::record::{Reply, TaskRecord};

    fn op(n: usize) -> DbOp {
        DbOp::Submit(Box::new(TaskRecord::empty(MsgId::new(&n.to_string()))))
    }

    fn complete(buffer: &Bytes) -> DbOp {
        let json = Bytes::from_static(b"{}");
        let mut reply = Reply::failure(&json, None, 0);
        reply.parts = Parts::new(&json, &json, &json, std::slice::from_ref(buffer));
        DbOp::Complete {
            msg_id: MsgId::new("c"),
            reply,
        }
    }

    fn output() -> DbOp {
        DbOp::Output {
            msg_id: MsgId::new("o"),
            output: Output::Stdout("x".into()),
        }
    }

    fn take(queue: &Queue) -> Batch {
        queue.take(Duration::ZERO, Some(Duration::ZERO))
    }

    #[test]
    fn what_is_dropped_depends_on_how_full_it_is() {
        let queue = Queue::new(8, usize::MAX / 4);
        (0..4).for_each(|n| queue.push_op(op(n)));
        queue.push_op(output());
        assert_eq!(queue.status().outputs_dropped, 1);
        (4..6).for_each(|n| queue.push_op(op(n)));
        queue.push_op(complete(&Bytes::from_static(b"result")));
        assert_eq!(queue.status().buffers_dropped, 1);
        (7..10).for_each(|n| queue.push_op(op(n)));
        assert_eq!(queue.status().ops_dropped, 2);

        let batch = take(&queue);
        assert_eq!(batch.items.len(), 8);
        let Item::Op(DbOp::Complete { reply, .. }) = &batch.items[6] else {
            panic!("not the reply: {:?}", batch.items[6]);
        };
        assert_eq!(reply.parts.buffer_bytes_lost(), 6);
        queue.push_op(op(0));
        assert_eq!(
            queue.status().ops_dropped,
            3,
            "room only once it is written"
        );
        queue.done(&batch);
        queue.push_op(op(0));
        assert_eq!(queue.status().ops_dropped, 3);
    }

    #[test]
    fn one_large_message_may_wait_and_the_next_loses_its_buffers() {
        let queue = Queue::new(100, 1000);
        queue.push_op(complete(&Bytes::from(vec![0; 100_000])));
        queue.push_op(op(1));
        let status = queue.status();
        assert_eq!((status.buffers_dropped, status.ops_dropped), (0, 1));
    }

    #[test]
    fn too_many_questions_are_refused() {
        let queue = Queue::new(8, 1000);
        for n in 0..DISK_QUEUE_REQUESTS {
            assert_eq!(
                queue.push_request(Ticket(n as u64), DbRequest::History),
                Ok(())
            );
        }
        let refused = queue.push_request(Ticket(0), DbRequest::History);
        assert_eq!(refused, Err(DbError::Busy));
        take(&queue);
        assert_eq!(queue.push_request(Ticket(0), DbRequest::History), Ok(()));
    }

    #[test]
    fn a_closed_queue_is_emptied_first() {
        let queue = Queue::new(10_000, usize::MAX / 4);
        (0..BATCH_OPS + 1).for_each(|n| queue.push_op(op(n)));
        queue.close();
        assert!(!take(&queue).closed);
        let last = take(&queue);
        assert_eq!((last.items.len(), last.closed), (1, true));
    }
}
