//! Every bound of the core in one place, each with its reason.
//! What happens at a bound is decided, and documented, where the bound is used.

/// Frames in one message. A view sends one frame per large argument; a hundred thousand of them is
/// more than any client makes, and a peer that never ends its message stops here.
pub const FRAMES_PER_MESSAGE_MAX: usize = 131_072;

/// Bytes of one message, frames and what we need to keep them. Arrays of 2 GB pass on a 64-bit
/// machine; a 32-bit one could not hold them.
pub const MESSAGE_BYTES_MAX: usize = if usize::BITS >= 64 { 4 << 30 } else { 1 << 30 };

/// What a frame is taken to cost beyond its bytes, so that empty frames count too.
pub const FRAME_OVERHEAD: usize = 64;

/// Bytes of one ZMTP command: a handshake, a subscription. libzmq's own stay below 512; user-defined
/// properties may add some hundred.
pub const COMMAND_BYTES_MAX: usize = 4096;

/// Frames from this size on travel without being copied; below, a copy is cheaper than the
/// bookkeeping.
pub const LARGE_FRAME: usize = 16 << 10;

/// Bytes that may wait for a peer when it asks for a PONG; beyond, what waits is proof of life enough.
pub const PONG_BACKLOG_MAX: usize = 1 << 20;
