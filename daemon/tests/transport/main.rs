//! The transport against real libzmq peers (pyzmq), and against peers that misbehave.
//!
//! Needs a Python with pyzmq: `PIPARALLEL_TEST_PYTHON`, or `python3` if it has it. Without one, the
//! tests that need it say so and pass.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

/// Peers that are no ZeroMQ sockets.
mod hostile;
/// A loop around the transport, and Python peers.
mod lab;
/// Real libzmq peers.
mod libzmq;
/// Peers that do not read, and large messages.
mod pressure;
