//! Joining: how a node and the controller of its pool meet, prove who they are, and stay in touch.
//!
//! One TCP connection carries a Noise handshake (XX, 25519, ChaChaPoly, BLAKE2s) and then messages in
//! both directions. Each side learns the other's long-term key and pins it. Four ways lead in:
//!
//! | mode       | proves                                             | admitted                            |
//! |------------|----------------------------------------------------|-------------------------------------|
//! | known      | that both keys are the pinned ones                 | at once, unless revoked             |
//! | join key   | also that the node has the pool's join key         | at once                             |
//! | client key | the same with the client key, for a laptop         | at once, as a client                |
//! | pair       | only the node's own key                            | in a pairing window; else pending   |
//!
//! No clock is needed: freshness comes from a new key of both sides in every handshake. A key that is
//! shared by many (join, client) only ever opens a door; from then on a node is known by its own key, so
//! that it can be cut off alone.
//!
//! * `session` turns bytes into messages and back: one end of one connection.
//! * `admission` decides who gets in: the controller's side, over all connections.
//! * `message` is what is said.

/// Who gets in.
pub mod admission;
/// What opens doors, and who somebody is.
pub mod keys;
/// How often anybody may knock.
pub mod knocks;
/// What is said.
pub mod message;
/// The first bytes of a connection.
pub mod opening;
/// One end of a connection.
pub mod session;
