//! The world of a piparallel pool: sockets, processes, files. What to do with them is decided in
//! `piparallel-core`.

/// The task database on disk.
pub mod store;
