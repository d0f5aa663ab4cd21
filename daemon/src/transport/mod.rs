//! Connections of clients and engines: the listening side of the controller.
//!
//! All of it lives on one thread, in a `tokio::task::LocalSet`. A connection is one task, which reads
//! and decodes whole messages into a queue that all connections share. The router takes that queue
//! with `Transport::next_batch`, calls `Transport::send` and `Transport::publish` as often as it
//! needs, and `Transport::flush` once: that is one write per peer. What the socket does not take is
//! written by the peer's own task.
//!
//! # What is bounded, and what happens there
//!
//! Bounds are those of `TransportLimits`.
//!
//! | policy | bound | what happens |
//! |---|---|---|
//! | handshake | `handshake` | the connection is closed |
//! | half-open | `half_open_max` | the oldest makes place if it had a second, else no more are accepted |
//! | places | `connections_max` | a further connection to that channel is closed |
//! | in flight | `in_flight_max`, `tasks_in_flight_max` | a client is not read until its large frames have been passed on; one message of any size always passes |
//! | congestion | `queue_max` | `Event::Congested`: the router sends this peer no more until `Event::Drained`, at half of it; a message on an empty queue may have any size |
//! | oldest first | `queue_max` | a subscriber loses the oldest output, whole messages, and the log says how many |
//! | stall | `stall` | a congested client that takes nothing for this long is closed |
//! | total | `total_max` | connections in the middle of a large message are not read, except one, and that only while less than half of the bound waits to be written |
//! | events | 16,384 or 32 MiB | nobody is read until the router has taken them |
//!
//! Frames of received messages are slices of memory that connections share, or own it if they are
//! large. Whoever keeps a message calls `zmtp::detach` on it, or a few bytes hold 64 KiB. A kept large
//! frame of a client also counts as in flight.

/// The task of one connection.
mod connection;
/// What a client's frames in memory amount to.
mod credit;
/// Bounds.
mod limits;
/// Sockets that listen.
mod listener;
/// One connection as the router sees it.
mod peer;
/// Why connections are refused.
mod refusal;
/// What all connections share.
mod shared;

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use bytes::Bytes;
use piparallel_core::channel::Channel;
use piparallel_core::ids::PeerId;
use piparallel_core::wire::frames::Frames;
use piparallel_core::wire::zmtp::{PublicKey, SecretKey};

pub use self::limits::TransportLimits;
pub use self::listener::bind;

use self::shared::Shared;

/// How the connections of a listener are protected.
#[derive(Clone)]
pub enum Security {
    /// Not at all.
    Null,
    /// CURVE, with the key pair that connection files name, or several if clients and engines know
    /// different ones. See also [`Transport::set_allowed_keys`].
    Curve { secrets: Vec<SecretKey> },
}

/// What happened on the connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A peer has shaken hands.
    Connected {
        peer: PeerId,
        channel: Channel,
        /// Its routing id, empty if it has none.
        identity: Bytes,
        /// The key it proved to have, on a CURVE listener.
        curve_key: Option<PublicKey>,
        /// The key of ours that it knew.
        server_key: Option<PublicKey>,
        address: SocketAddr,
    },
    /// At least one frame.
    Message {
        peer: PeerId,
        channel: Channel,
        frames: Frames,
    },
    /// A subscriber asked for a topic.
    Subscribed {
        peer: PeerId,
        channel: Channel,
        prefix: Bytes,
    },
    /// A connected peer is gone, and what waited for it with it.
    Disconnected {
        peer: PeerId,
        channel: Channel,
        reason: String,
    },
    /// More than `queue_max` waits for this peer.
    Congested { peer: PeerId },
    /// Less than half of `queue_max` waits for a peer that was congested.
    Drained { peer: PeerId },
    /// A peer answered [`Transport::probe`].
    Alive { peer: PeerId },
}

/// Sums for the status page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Peers that have shaken hands.
    pub connected: usize,
    /// Connections that have not.
    pub half_open: usize,
    /// Bytes that wait to be written.
    pub queued_bytes: usize,
    /// Bytes of messages that have not come in full.
    pub partial_bytes: usize,
    /// Bytes of large frames that came so far.
    pub large_received: u64,
    /// Messages that slow subscribers lost.
    pub lost_messages: u64,
    /// Connections that were refused.
    pub refused: u64,
}

/// All listeners and connections.
pub struct Transport {
    shared: Rc<Shared>,
}

impl Transport {
    #[must_use]
    pub fn new(limits: TransportLimits) -> Self {
        Self {
            shared: Rc::new(Shared::new(limits)),
        }
    }

    /// Accepts connections to a channel. May be called again for further addresses. Must be called
    /// inside of a `LocalSet`; the listener must not block.
    ///
    /// # Errors
    /// The listener cannot be watched.
    pub fn listen(
        &self,
        channel: Channel,
        listener: std::net::TcpListener,
        security: Security,
    ) -> io::Result<()> {
        listener::spawn(&self.shared, channel, listener, security)
    }

    /// Limits those that know one of our keys, on any channel, to these keys of theirs, or lets all in.
    /// Connections with other keys are closed.
    pub fn set_allowed_keys(&self, server: PublicKey, keys: Option<BTreeSet<PublicKey>>) {
        self.shared.set_allowed_keys(server, keys);
    }

    /// Replaces our further keys for the channels of clients: one for each client, so that one can be cut off
    /// without the others. Who knows a key that is not in the list any more is.
    pub fn set_client_keys(&self, secrets: Vec<SecretKey>) {
        self.shared.set_client_keys(secrets);
    }

    /// Waits until something happened, and appends all that did. Nothing is lost if the future is
    /// dropped.
    pub async fn next_batch(&mut self, events: &mut Vec<Event>) {
        poll_fn(|cx| self.shared.poll_events(cx, events)).await;
    }

    /// Queues a message for a peer. Nothing happens if the peer is gone, which an event tells.
    pub fn send(&mut self, peer: PeerId, frames: &Frames) {
        if let Some(peer) = self.shared.peer(peer) {
            peer.send(&self.shared, frames);
        }
    }

    /// Queues a message for all subscribers of a channel whose topic its first frame begins with.
    pub fn publish(&mut self, channel: Channel, frames: &Frames) {
        self.shared.publish(channel, frames);
    }

    /// Writes what was queued, as far as sockets take it at once.
    pub fn flush(&mut self) {
        self.shared.flush();
    }

    /// Asks a peer for a sign of life, [`Event::Alive`]. Returns false if it is gone or speaks ZMTP
    /// 3.0, which has none.
    pub fn probe(&mut self, peer: PeerId) -> bool {
        self.shared
            .peer(peer)
            .is_some_and(|peer| peer.probe(&self.shared))
    }

    /// Closes a connection, after one attempt to write what waits.
    pub fn close(&mut self, peer: PeerId, reason: &str) {
        if let Some(peer) = self.shared.peer(peer) {
            peer.close(reason.to_owned());
        }
    }

    /// Bytes that wait for a peer.
    #[must_use]
    pub fn queued_bytes(&self, peer: PeerId) -> usize {
        self.shared.peer(peer).map_or(0, |peer| peer.queued_bytes())
    }

    /// Our address and the peer's, of all connections.
    pub fn ends(&self) -> impl Iterator<Item = (SocketAddr, SocketAddr)> {
        let peers = self.shared.peers();
        peers
            .into_iter()
            .filter_map(|peer| Some((peer.local()?, peer.address)))
    }

    #[must_use]
    pub fn totals(&self) -> Totals {
        self.shared.totals()
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        self.shared.close_all();
    }
}
