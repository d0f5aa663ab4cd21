//! The controller role.

/// The address that connection files name.
pub mod address;
/// Binding of all sockets.
pub mod bind;
