//! A pool on one machine: engines as child processes of the controller, and what leaves none behind.

/// Engine processes: start, restart, stop.
pub mod engine;
/// Processes that engines leave behind.
pub mod orphans;

/// Nodes on this machine.
pub mod nodes;

pub use engine::die_with_parent;

/// A Python session against the pool, as a user would write it.
pub const DEMO: &str = include_str!("demo.py");
