//! The service of a node: `piparallel node`.

/// The light that tells which machine it is.
pub mod led;
/// What the machine says of itself.
pub mod vitals;
