//! Every bound of the core in one place, each with its reason.
//! What happens at a bound is decided, and documented, where the bound is used.

/// Frames in one message. A view sends one frame per large argument; a hundred thousand of them is
/// more than any client makes, and a peer that never ends its message stops here.
pub const FRAMES_PER_MESSAGE_MAX: usize = 131_072;
