//! What the connections of a transport share: the queue of events, the peers, the sums.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::mem;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use piparallel_core::channel::Channel;
use piparallel_core::ids::PeerId;
use piparallel_core::limits::LARGE_FRAME;
use piparallel_core::wire::frames::Frames;
use piparallel_core::wire::zmtp::{PublicKey, ReadPool, SecretKey};
use tokio::task::AbortHandle;

use super::limits::{EVENT_BYTES_MAX, EVENTS_MAX, TransportLimits};
use super::peer::Peer;
use super::refusal::{Refusal, RefusalLog};
use super::{Event, Totals};

/// A half-open connection that is older than this may make place for a newer one.
const HALF_OPEN_GRACE: Duration = Duration::from_secs(1);

pub(super) struct Shared {
    pub(super) limits: TransportLimits,
    pub(super) pool: RefCell<ReadPool>,
    events: RefCell<Events>,
    peers: RefCell<HashMap<PeerId, Rc<Peer>, BuildHasherDefault<IdHasher>>>,
    subscribers: RefCell<BTreeMap<Channel, BTreeMap<PeerId, Rc<Peer>>>>,
    /// Peers with something to write since the last flush.
    dirty: RefCell<Vec<Rc<Peer>>>,
    half_open: RefCell<BTreeMap<PeerId, (Instant, Rc<Peer>)>>,
    places: RefCell<BTreeMap<Channel, usize>>,
    /// By the server key that these clients know.
    allowed: RefCell<BTreeMap<PublicKey, BTreeSet<PublicKey>>>,
    /// Ours, for one client each, on the channels of clients.
    client_keys: RefCell<BTreeMap<PublicKey, SecretKey>>,
    refusals: RefCell<RefusalLog>,
    listeners: RefCell<Vec<AbortHandle>>,
    last_id: Cell<u64>,
    total: Total,
    large_received: Cell<u64>,
    lost: Cell<u64>,
    refused: Cell<u64>,
}

#[derive(Default)]
struct Events {
    queue: Vec<Event>,
    bytes: usize,
    router: Option<Waker>,
    /// Connections that wait for the router.
    readers: Vec<Waker>,
}

/// The sums under `total_max`.
#[derive(Default)]
struct Total {
    queued: Cell<usize>,
    partial: Cell<usize>,
    /// Connections in the middle of a message that wait, and the one that may go on first.
    waiting: RefCell<VecDeque<Waker>>,
    first: Cell<Option<PeerId>>,
}

/// Peer ids are counted by us, nobody can choose colliding ones.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(self.0 << 8 | u64::from(*byte));
        }
    }

    fn write_u64(&mut self, id: u64) {
        self.0 = id.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }
}

impl Shared {
    pub(super) fn new(limits: TransportLimits) -> Self {
        Self {
            limits,
            pool: RefCell::default(),
            events: RefCell::default(),
            peers: RefCell::default(),
            subscribers: RefCell::default(),
            dirty: RefCell::default(),
            half_open: RefCell::default(),
            places: RefCell::default(),
            allowed: RefCell::default(),
            client_keys: RefCell::default(),
            refusals: RefCell::default(),
            listeners: RefCell::default(),
            last_id: Cell::new(0),
            total: Total::default(),
            large_received: Cell::new(0),
            lost: Cell::new(0),
            refused: Cell::new(0),
        }
    }

    pub(super) fn next_id(&self) -> PeerId {
        self.last_id.set(self.last_id.get() + 1);
        PeerId(self.last_id.get())
    }

    // The queue of events.

    pub(super) fn push_event(&self, event: Event) {
        let mut events = self.events.borrow_mut();
        if let Event::Message { frames, .. } = &event {
            events.bytes += frames.iter().map(<[u8]>::len).sum::<usize>();
            let large = frames.iter().filter(|frame| frame.len() >= LARGE_FRAME);
            let large: usize = large.map(<[u8]>::len).sum();
            self.large_received.update(|sum| sum + large as u64);
        }
        events.queue.push(event);
        if let Some(router) = events.router.take() {
            router.wake();
        }
    }

    pub(super) fn poll_events(&self, cx: &Context<'_>, into: &mut Vec<Event>) -> Poll<()> {
        let mut events = self.events.borrow_mut();
        if events.queue.is_empty() {
            events.router = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if into.is_empty() {
            mem::swap(&mut events.queue, into);
        } else {
            into.append(&mut events.queue);
        }
        events.bytes = 0;
        events.readers.drain(..).for_each(Waker::wake);
        Poll::Ready(())
    }

    /// Whether the router keeps up; if not, `reader` is woken when it does.
    pub(super) fn router_keeps_up(&self, reader: &Waker) -> bool {
        let mut events = self.events.borrow_mut();
        let room = events.queue.len() < EVENTS_MAX && events.bytes < EVENT_BYTES_MAX;
        if !room {
            events.readers.push(reader.clone());
        }
        room
    }

    // The sum of all queues.

    pub(super) fn count_queued(&self, before: usize, after: usize) {
        self.count(&self.total.queued, before, after);
    }

    pub(super) fn count_partial(&self, before: usize, after: usize) {
        self.count(&self.total.partial, before, after);
    }

    fn count(&self, sum: &Cell<usize>, before: usize, after: usize) {
        sum.set(sum.get() + after - before);
        if after < before && !self.total.waiting.borrow().is_empty() && self.total_has_room() {
            self.total.waiting.take().into_iter().for_each(Waker::wake);
        }
    }

    fn total_has_room(&self) -> bool {
        let (queued, partial) = (self.total.queued.get(), self.total.partial.get());
        queued + partial < self.limits.total_max || queued < self.limits.total_max / 2
    }

    /// Whether a connection in the middle of a large message may read on; if not, `reader` is woken
    /// when it may. The connection that asked first may while little waits to be written, because
    /// nothing else would bring the sum down when it consists of unfinished messages.
    pub(super) fn may_continue(&self, id: PeerId, reader: &Waker) -> bool {
        let (queued, partial) = (self.total.queued.get(), self.total.partial.get());
        if queued + partial < self.limits.total_max {
            return true;
        }
        let first = self.total.first.get().unwrap_or(id);
        self.total.first.set(Some(first));
        if first == id && queued < self.limits.total_max / 2 {
            return true;
        }
        self.total.waiting.borrow_mut().push_back(reader.clone());
        false
    }

    /// The message of a connection is complete, or the connection gone.
    pub(super) fn message_done(&self, id: PeerId) {
        if self.total.first.get() == Some(id) {
            self.total.first.set(None);
            self.total.waiting.take().into_iter().for_each(Waker::wake);
        }
    }

    // Who is here.

    /// Takes a place for a new connection.
    pub(super) fn enter(&self, peer: &Rc<Peer>) -> Result<(), Refusal> {
        let mut places = self.places.borrow_mut();
        let taken = places.entry(peer.channel).or_default();
        if *taken >= self.limits.connections_max {
            return Err(Refusal::ChannelFull(self.limits.connections_max));
        }
        *taken += 1;
        let entry = (Instant::now(), Rc::clone(peer));
        self.half_open.borrow_mut().insert(peer.id, entry);
        Ok(())
    }

    /// Whether another half-open connection may be accepted. If all places are taken, the oldest is
    /// asked to leave, unless it only came.
    pub(super) fn half_open_has_room(&self) -> bool {
        let half_open = self.half_open.borrow();
        if half_open.len() < self.limits.half_open_max {
            return true;
        }
        if let Some((since, peer)) = half_open.values().next()
            && since.elapsed() > HALF_OPEN_GRACE
        {
            peer.refuse(Refusal::HalfOpenFull(self.limits.half_open_max));
        }
        false
    }

    /// The handshake of a connection is done.
    pub(super) fn connected(&self, peer: &Rc<Peer>) {
        self.half_open.borrow_mut().remove(&peer.id);
        self.peers.borrow_mut().insert(peer.id, Rc::clone(peer));
        if peer.is_subscriber() {
            let mut subscribers = self.subscribers.borrow_mut();
            let channel = subscribers.entry(peer.channel).or_default();
            channel.insert(peer.id, Rc::clone(peer));
        }
    }

    /// A connection is gone. Returns whether its handshake was done.
    pub(super) fn leave(&self, peer: &Peer) -> bool {
        if let Some(taken) = self.places.borrow_mut().get_mut(&peer.channel) {
            *taken -= 1;
        }
        self.half_open.borrow_mut().remove(&peer.id);
        if let Some(channel) = self.subscribers.borrow_mut().get_mut(&peer.channel) {
            channel.remove(&peer.id);
        }
        self.message_done(peer.id);
        self.peers.borrow_mut().remove(&peer.id).is_some()
    }

    pub(super) fn peer(&self, id: PeerId) -> Option<Rc<Peer>> {
        self.peers.borrow().get(&id).cloned()
    }

    pub(super) fn peers(&self) -> Vec<Rc<Peer>> {
        self.peers.borrow().values().cloned().collect()
    }

    pub(super) fn is_allowed(&self, server: &PublicKey, client: &PublicKey) -> bool {
        let allowed = self.allowed.borrow();
        allowed.get(server).is_none_or(|keys| keys.contains(client))
    }

    pub(super) fn set_allowed_keys(&self, server: PublicKey, keys: Option<BTreeSet<PublicKey>>) {
        if let Some(keys) = &keys {
            for peer in self.peers.borrow().values() {
                if peer.server_key() == Some(server)
                    && peer.curve_key().is_some_and(|k| !keys.contains(&k))
                {
                    peer.close("its CURVE key is no longer allowed".to_owned());
                }
            }
        }
        match keys {
            Some(keys) => self.allowed.borrow_mut().insert(server, keys),
            None => self.allowed.borrow_mut().remove(&server),
        };
    }

    pub(super) fn set_client_keys(&self, secrets: Vec<SecretKey>) {
        let new: BTreeMap<_, _> = secrets.into_iter().map(|s| (s.public(), s)).collect();
        let old = self.client_keys.replace(new.clone());
        for added in new.keys() {
            self.set_allowed_keys(*added, None);
        }
        // A handshake that is under way must not end well either.
        for removed in old.keys().filter(|key| !new.contains_key(key)) {
            self.set_allowed_keys(*removed, Some(BTreeSet::new()));
        }
    }

    pub(super) fn client_keys(&self) -> Vec<SecretKey> {
        self.client_keys.borrow().values().cloned().collect()
    }

    pub(super) fn refused(&self, channel: Channel, address: SocketAddr, refusal: &Refusal) {
        self.refused.set(self.refused.get() + 1);
        let mut log = self.refusals.borrow_mut();
        log.note(channel, address, refusal);
    }

    // What goes out.

    pub(super) fn publish(&self, channel: Channel, frames: &Frames) {
        let Some(topic) = frames.get(0) else {
            return;
        };
        if let Some(peers) = self.subscribers.borrow().get(&channel) {
            for peer in peers.values().filter(|p| p.wants(topic)) {
                peer.send(self, frames);
            }
        }
    }

    pub(super) fn mark_dirty(&self, peer: Rc<Peer>) {
        self.dirty.borrow_mut().push(peer);
    }

    pub(super) fn flush(&self) {
        let mut dirty = self.dirty.take();
        for peer in dirty.drain(..) {
            peer.flush(self);
        }
        // Its memory serves the next round.
        self.dirty.replace(dirty);
    }

    pub(super) fn count_lost(&self, messages: usize) {
        self.lost.set(self.lost.get() + messages as u64);
    }

    pub(super) fn totals(&self) -> Totals {
        Totals {
            connected: self.peers.borrow().len(),
            half_open: self.half_open.borrow().len(),
            queued_bytes: self.total.queued.get(),
            partial_bytes: self.total.partial.get(),
            large_received: self.large_received.get(),
            lost_messages: self.lost.get(),
            refused: self.refused.get(),
        }
    }

    pub(super) fn add_listener(&self, task: AbortHandle) {
        self.listeners.borrow_mut().push(task);
    }

    /// Ends all listeners and connections.
    pub(super) fn close_all(&self) {
        for task in self.listeners.take() {
            task.abort();
        }
        let half_open = self.half_open.borrow();
        let peers = self.peers.borrow();
        for peer in peers.values().chain(half_open.values().map(|(_, p)| p)) {
            peer.close("the controller stops".to_owned());
        }
    }
}
