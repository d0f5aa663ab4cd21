//! What travels: ZMTP below, the Jupyter message format above.

/// ISO 8601 dates as Python writes them.
pub mod date;
/// Flat JSON objects, read in passing.
pub(crate) mod flat;
/// The frames of a message.
pub mod frames;
/// The parts of a header that a controller reads.
pub mod header;
/// One multipart message: routing frames, delimiter, signature, four JSON parts, buffers.
pub mod message;
/// HMAC signatures and protection against replay.
pub mod sign;
/// The protocol of one connection between two ZeroMQ sockets.
pub mod zmtp;
