//! The machine of somebody who works with a pool: `piparallel connect`.

/// From a pool to its connection file.
pub mod joining;
/// The client's connection file, put where a plain `ipp.Client()` finds it, and taken away again.
pub mod placement;
/// Which pools there are.
pub mod pools;
/// Whether functions that are sent from here can be understood by the engines.
pub mod python_versions;
