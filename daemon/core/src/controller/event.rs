//! What a controller is told, and what it wants done.

use bytes::Bytes;
use serde_json::value::RawValue;

use crate::channel::{Channel, Side};
use crate::ids::PeerId;
use crate::task_db::{DbOp, DbReply, DbRequest, Ticket};
use crate::wire::frames::Frames;
use crate::wire::zmtp::PublicKey;

/// Something that happened outside.
#[derive(Debug)]
pub enum Event {
    /// A peer finished its handshake.
    Connected {
        peer: PeerId,
        channel: Channel,
        /// The routing id that it announced; empty for none.
        identity: Bytes,
        /// Its CURVE public key, on an encrypted socket.
        curve_key: Option<PublicKey>,
        /// Whose connection file it has, by the key of ours that it knew; `Both` where they name the same.
        side: Side,
        /// Where it connected from, for people.
        address: String,
    },
    /// A connection ended, for whatever reason.
    Disconnected {
        peer: PeerId,
    },
    /// A whole multipart message arrived.
    Message {
        peer: PeerId,
        frames: Frames,
    },
    /// A peer of a publishing socket subscribed.
    Subscribed {
        peer: PeerId,
    },
    /// What waits for this peer exceeds its bound; `Drained` follows when it has fallen.
    Congested {
        peer: PeerId,
    },
    Drained {
        peer: PeerId,
    },
    /// A probed connection answered.
    Alive {
        peer: PeerId,
    },
    /// The engines with this key shall get no more work and leave when they are done, or may come back.
    Drain {
        curve_key: PublicKey,
        is_drained: bool,
    },
    /// The task database answered a question.
    DbReply {
        ticket: Ticket,
        reply: DbReply,
    },
    /// The Dask scheduler started, or did not: the text says why and what to do.
    Dask {
        ticket: Ticket,
        result: Result<DaskAddress, String>,
    },
}

/// Where a Dask scheduler listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DaskAddress {
    pub ip: String,
    /// `tcp://ip:port`
    pub address: String,
    pub port: u16,
}

/// Something that the shell must now do.
#[derive(Debug)]
pub enum Command {
    /// Queue a message for one peer.
    Send { peer: PeerId, frames: Frames },
    /// Queue a message for every subscriber of a publishing socket.
    Publish { channel: Channel, frames: Frames },
    /// End a connection; the reason is logged.
    Close { peer: PeerId, reason: &'static str },
    /// Find out whether a connection still has somebody at its end: `Alive` or `Disconnected` follows.
    Probe { peer: PeerId },
    /// Tell the database what happened. Nothing is answered.
    Record(DbOp),
    /// Ask the database; `Event::DbReply` follows with the same ticket.
    Query { ticket: Ticket, request: DbRequest },
    /// Save which engines are registered: the text of `engines.json`.
    SaveEngines(String),
    /// Start a Dask scheduler with these keyword arguments; `Event::Dask` follows.
    StartDask {
        ticket: Ticket,
        arguments: Box<RawValue>,
    },
    /// End the Dask scheduler, if one runs.
    StopDask,
    /// No engine with this key is left, so its node may end them. Told once.
    Drained { curve_key: PublicKey },
    /// A client asked the controller to end: flush what is queued, then end with exit code 0.
    Shutdown,
}
