//! A pool on one machine.

/// Nodes as processes of this machine.
pub mod nodes;
