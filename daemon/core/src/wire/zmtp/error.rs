//! Why a connection ends. Each message names what an operator can check.

use thiserror::Error;

use super::curve::PublicKey;

/// What is wrong with a peer, or with the bytes it sends. Always the end of its connection.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Error {
    /// The first bytes are no ZMTP greeting.
    #[error("this is not ZMTP{hint}: it starts with \"{start}\"")]
    NotZmtp { start: String, hint: &'static str },
    /// A peer of the ZMTP 1 or 2 times (libzmq before 4.0).
    #[error("the peer speaks ZMTP {0}, at least 3.0 is needed: update its libzmq to 4.0 or later")]
    Version(u8),
    /// One side encrypts, the other does not, or not in this way.
    #[error("the peer speaks {theirs}, this port speaks {ours}{hint}")]
    Mechanism {
        ours: &'static str,
        theirs: String,
        hint: &'static str,
    },
    /// Both ends want to be the server of the CURVE handshake.
    #[error("the peer is a CURVE server too: is it the wrong port?")]
    TwoServers,
    /// The first box of a CURVE handshake does not open.
    #[error(
        "wrong CURVE server key: the connection file is from another pool, or older than this \
         controller's key"
    )]
    ServerKey,
    /// The client's key is valid, but not among those that are let in.
    #[error("the CURVE key {0} is not allowed on this port: join the node to the pool first")]
    KeyRefused(PublicKey),
    /// A box of a CURVE handshake does not open, or a key is a weak one.
    #[error("the CURVE handshake does not verify: {0}")]
    Handshake(&'static str),
    /// A box of a CURVE message does not open.
    #[error("a CURVE message does not verify: it was changed on its way")]
    Forged,
    /// A CURVE nonce did not increase.
    #[error("a CURVE message came twice or out of order (nonce {got} after {last})")]
    Replayed { got: u64, last: u64 },
    /// The peer sent an ERROR command.
    #[error("the peer refused the connection: \"{0}\"")]
    PeerRefused(String),
    /// These two socket types do not talk to each other.
    #[error("a {theirs} socket cannot talk to this {ours} port: is it the wrong port?")]
    SocketTypes { ours: &'static str, theirs: String },
    /// A routing id longer than ZMTP allows.
    #[error("a routing id of {0} bytes, at most 255 are allowed")]
    Identity(usize),
    /// The flags of a frame make no sense.
    #[error("frame flags {0:#04x} do not exist: the stream is damaged, or not ZMTP")]
    Flags(u8),
    /// A command that cannot come here.
    #[error("\"{got}\" came where {expected} belongs")]
    Unexpected { expected: &'static str, got: String },
    /// A command that breaks off, or whose lengths do not add up.
    #[error("a damaged {0}")]
    Malformed(&'static str),
    /// A command longer than any command needs to be.
    #[error("a command of {claimed} bytes, at most {max} are allowed")]
    CommandTooLarge { claimed: u64, max: usize },
    /// A message (or the frame that begins here) above the limit.
    #[error("a message of at least {claimed} bytes, at most {max} are allowed")]
    MessageTooLarge { claimed: u64, max: usize },
    /// This machine has no memory for a frame that is within the limits.
    #[error("no memory left for a frame of {0} bytes")]
    OutOfMemory(usize),
    /// A message that does not end.
    #[error("a message of more than {0} frames")]
    TooManyFrames(usize),
}

/// The start of some bytes, printable and short.
pub(super) fn excerpt(bytes: &[u8]) -> String {
    bytes[..bytes.len().min(24)].escape_ascii().to_string()
}
