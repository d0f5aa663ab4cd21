//! The controller role.

/// Binding of all sockets.
pub mod bind;
