//! The shell of a piparallel pool: sockets, processes, files and clocks around the decisions of
//! `piparallel-core`.

/// Connections of clients and engines.
pub mod transport;
