//! Bounds of the transport. What happens at each is told in the module's documentation.

use std::time::Duration;

use piparallel_core::channel::Channel;
use piparallel_core::limits;

/// Events that may wait for the router before connections are read no further: some hundred reads.
pub(super) const EVENTS_MAX: usize = 16_384;

/// Bytes in such events.
pub(super) const EVENT_BYTES_MAX: usize = 32 << 20;

/// Bytes that one connection reads or writes before others have their turn.
pub(super) const TURN_BYTES: usize = 64 << 10;

/// Topics that one subscriber may ask for. Stock peers ask for one.
pub(super) const SUBSCRIPTIONS_MAX: usize = 1024;

/// The bounds that can be configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransportLimits {
    /// Time for a handshake.
    pub handshake: Duration,
    /// Connections whose handshake is not done, in sum. 4096 engines that start at once open 32,000
    /// connections, but each shakes hands within milliseconds.
    pub half_open_max: usize,
    /// Connections to one channel.
    pub connections_max: usize,
    /// Bytes of one message.
    pub message_bytes_max: usize,
    /// Bytes of large frames that came from one client and are not passed on yet.
    pub in_flight_max: usize,
    /// The same on the task channel, where they also stay while a task waits or runs.
    pub tasks_in_flight_max: usize,
    /// Bytes that wait for one peer.
    pub queue_max: usize,
    /// How long a congested client may take nothing at all.
    pub stall: Duration,
    /// Bytes that wait for all peers, with what came of unfinished messages.
    pub total_max: usize,
}

impl Default for TransportLimits {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            half_open_max: 8192,
            connections_max: 16_384,
            message_bytes_max: limits::MESSAGE_BYTES_MAX,
            in_flight_max: 64 << 20,
            tasks_in_flight_max: 192 << 20,
            queue_max: 64 << 20,
            stall: Duration::from_secs(1),
            total_max: 256 << 20,
        }
    }
}

impl TransportLimits {
    /// What one client may have in flight on a channel.
    pub(super) fn in_flight(&self, channel: Channel) -> usize {
        if channel == Channel::TaskClient {
            self.tasks_in_flight_max
        } else {
            self.in_flight_max
        }
    }
}
