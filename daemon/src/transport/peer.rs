//! One connection as the router sees it: a queue, its bounds, and the flags that tie it to its task.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;

use bytes::Bytes;
use log::warn;
use piparallel_core::channel::{Channel, Side, SocketType};
use piparallel_core::ids::PeerId;
use piparallel_core::wire::frames::Frames;
use piparallel_core::wire::zmtp::{Link, Outbox, PublicKey};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;

use super::Event;
use super::credit::Credit;
use super::refusal::Refusal;
use super::shared::Shared;

/// Pieces that one write takes. More do not make it faster: large frames are written alone.
const SLICES: usize = 32;

/// So much is written before the turn ends, so that the peer works while we do.
const EARLY_BYTES: usize = 32 << 10;

/// Why a connection ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It went by itself, or by command.
    Closed(String),
    Refused(Refusal),
}

pub(super) struct Peer {
    pub(super) id: PeerId,
    pub(super) channel: Channel,
    pub(super) address: SocketAddr,
    /// Large frames of a client that are still in memory.
    pub(super) credit: Option<Arc<Credit>>,
    stream: OwnedWriteHalf,
    io: RefCell<(Link, Outbox)>,
    topics: RefCell<Vec<Bytes>>,
    curve_key: Cell<Option<PublicKey>>,
    /// The key of ours that it knows.
    server_key: Cell<Option<PublicKey>>,
    /// Whether the next flush writes for it.
    dirty: Cell<bool>,
    /// Whether its task writes, because the socket was full.
    blocked: Cell<bool>,
    congested: Cell<bool>,
    /// Messages lost since the queue was last empty.
    lost: Cell<usize>,
    end: RefCell<Option<End>>,
    task: RefCell<Option<Waker>>,
}

impl Peer {
    pub(super) fn new(
        id: PeerId,
        channel: Channel,
        address: SocketAddr,
        stream: OwnedWriteHalf,
        link: Link,
        outbox: Outbox,
    ) -> Self {
        let counts = channel.side() == Side::Client;
        Self {
            id,
            channel,
            address,
            credit: counts.then(Arc::default),
            stream,
            io: RefCell::new((link, outbox)),
            topics: RefCell::default(),
            curve_key: Cell::new(None),
            server_key: Cell::new(None),
            dirty: Cell::new(false),
            blocked: Cell::new(false),
            congested: Cell::new(false),
            lost: Cell::new(0),
            end: RefCell::new(None),
            task: RefCell::new(None),
        }
    }

    /// Our end; `None` once it is closed.
    pub(super) fn local(&self) -> Option<SocketAddr> {
        self.stream.local_addr().ok()
    }

    /// Whether the channel is one that is subscribed to: its peers lose what they do not read.
    pub(super) fn is_subscriber(&self) -> bool {
        self.channel.socket_type() == SocketType::Pub
    }

    /// Whether it is closed when it does not read: an engine is left to the heartbeat.
    pub(super) fn may_stall(&self) -> bool {
        !self.is_subscriber() && self.channel.side() != Side::Engine
    }

    /// The one way to the protocol state and the queue, which keeps the sums right.
    pub(super) fn turn<R>(
        &self,
        shared: &Shared,
        act: impl FnOnce(&mut Link, &mut Outbox) -> R,
    ) -> R {
        let mut io = self.io.borrow_mut();
        let (link, outbox) = &mut *io;
        let before = outbox.len();
        let result = act(link, outbox);
        let after = outbox.len();
        drop(io);
        if before != after {
            shared.count_queued(before, after);
            self.settle(shared, after);
        }
        result
    }

    pub(super) fn queued_bytes(&self) -> usize {
        self.io.borrow().1.len()
    }

    /// Whether more waits than should.
    pub(super) fn is_congested(&self) -> bool {
        self.congested.get()
    }

    pub(super) fn send(self: &Rc<Self>, shared: &Shared, frames: &Frames) {
        let loss = self.turn(shared, |link, outbox| {
            link.encode(frames, outbox);
            let max = shared.limits.queue_max;
            if self.is_subscriber() && outbox.len() > max {
                // A quarter at once, so that this is not done for every message.
                return outbox.drop_oldest(max / 4 * 3).messages;
            }
            0
        });
        if loss > 0 {
            self.note_loss(shared, loss);
        }
        self.mark_dirty(shared);
        if self.queued_bytes() >= EARLY_BYTES {
            self.flush(shared);
        }
    }

    pub(super) fn probe(self: &Rc<Self>, shared: &Shared) -> bool {
        let asked = self.turn(shared, Link::ping);
        if asked {
            self.mark_dirty(shared);
        }
        asked
    }

    pub(super) fn close(&self, reason: String) {
        self.end(End::Closed(reason));
    }

    pub(super) fn refuse(&self, refusal: Refusal) {
        self.end(End::Refused(refusal));
    }

    pub(super) fn take_end(&self) -> Option<End> {
        self.end.borrow_mut().take()
    }

    /// Remembers whom to wake when the router wants something of the connection.
    pub(super) fn set_task(&self, waker: &Waker) {
        let mut task = self.task.borrow_mut();
        if task.as_ref().is_none_or(|t| !t.will_wake(waker)) {
            *task = Some(waker.clone());
        }
    }

    pub(super) fn set_curve_key(&self, key: Option<PublicKey>) {
        self.curve_key.set(key);
    }

    pub(super) fn set_server_key(&self, key: PublicKey) {
        self.server_key.set(Some(key));
    }

    pub(super) fn server_key(&self) -> Option<PublicKey> {
        self.server_key.get()
    }

    pub(super) fn curve_key(&self) -> Option<PublicKey> {
        self.curve_key.get()
    }

    /// Notes a topic. False if there are too many.
    pub(super) fn subscribe(&self, prefix: Bytes, max: usize) -> bool {
        let mut topics = self.topics.borrow_mut();
        let room = topics.len() < max;
        if room {
            // Its own memory: a slice would hold a chunk for as long as the peer stays.
            topics.push(Bytes::copy_from_slice(&prefix));
        }
        room
    }

    pub(super) fn unsubscribe(&self, prefix: &Bytes) {
        let mut topics = self.topics.borrow_mut();
        if let Some(at) = topics.iter().position(|t| t == prefix) {
            topics.swap_remove(at);
        }
    }

    pub(super) fn wants(&self, topic: &[u8]) -> bool {
        let topics = self.topics.borrow();
        topics.iter().any(|t| topic.starts_with(t))
    }

    /// Writes what the socket takes at once; the task does the rest.
    pub(super) fn flush(&self, shared: &Shared) {
        self.dirty.set(false);
        if self.blocked.get() {
            return;
        }
        match self.write_once(shared) {
            Ok(_) if self.queued_bytes() == 0 => {}
            Ok(_) => self.block(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.block(),
            Err(error) => self.close(lost_connection(&error)),
        }
    }

    /// Whether the task has to write, rather than the next flush.
    pub(super) fn task_writes(&self) -> bool {
        self.blocked.get() || (!self.dirty.get() && self.queued_bytes() > 0)
    }

    pub(super) fn set_blocked(&self, blocked: bool) {
        self.blocked.set(blocked);
    }

    pub(super) fn stream(&self) -> &TcpStream {
        self.stream.as_ref()
    }

    /// One write. Returns how much the socket took.
    pub(super) fn write_once(&self, shared: &Shared) -> io::Result<usize> {
        self.turn(shared, |_, outbox| {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let used = outbox.fill_slices(&mut slices);
            if used == 0 {
                return Ok(0);
            }
            let written = self.stream.try_write_vectored(&slices[..used])?;
            outbox.advance(written);
            Ok(written)
        })
    }

    fn end(&self, end: End) {
        self.end.borrow_mut().get_or_insert(end);
        self.wake();
    }

    fn block(&self) {
        self.blocked.set(true);
        self.wake();
    }

    fn wake(&self) {
        if let Some(task) = self.task.borrow().as_ref() {
            task.wake_by_ref();
        }
    }

    fn mark_dirty(self: &Rc<Self>, shared: &Shared) {
        if !self.dirty.replace(true) {
            shared.mark_dirty(Rc::clone(self));
        }
    }

    /// Tells the router when the queue has become too long, or short again.
    fn settle(&self, shared: &Shared, queued: usize) {
        let max = shared.limits.queue_max;
        if queued == 0 && self.lost.get() > 0 {
            warn!(
                "{} on {} has lost {} messages that it did not read in time",
                self.address,
                self.channel.name(),
                self.lost.take()
            );
        }
        if self.is_subscriber() {
            return;
        }
        let peer = self.id;
        if queued > max && !self.congested.replace(true) {
            shared.push_event(Event::Congested { peer });
            // Its task begins to watch whether it takes anything.
            self.wake();
        } else if queued < max / 2 && self.congested.replace(false) {
            shared.push_event(Event::Drained { peer });
        }
    }

    fn note_loss(&self, shared: &Shared, messages: usize) {
        shared.count_lost(messages);
        if self.lost.replace(self.lost.get() + messages) == 0 {
            warn!(
                "{} on {} does not read: {} MB wait, its oldest messages are dropped",
                self.address,
                self.channel.name(),
                shared.limits.queue_max >> 20
            );
        }
    }
}

/// A broken connection, in words.
pub(super) fn lost_connection(error: &io::Error) -> String {
    format!("connection lost: {error}")
}
