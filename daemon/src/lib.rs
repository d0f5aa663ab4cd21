//! piparallel: an IPython Parallel pool in one static binary. This crate is the part that touches the
//! world; the decisions are in `piparallel-core`.

/// The command line.
pub mod cli;
/// The controller role: sockets, files and loop around the machines of the core.
pub mod controller;
/// Python engines on this machine.
pub mod engines;
/// Questions to a hub.
pub mod hub_client;
/// Entering the pool.
pub mod join;
/// The log backend.
pub mod logging;
/// The allocator.
pub mod memory;
/// Which Python runs engines and Dask.
pub mod python;
/// Options from files, environment and command line, merged and validated.
pub mod settings;
/// The signals that end the program.
pub mod signals;
/// The task database on disk.
pub mod store;
/// Connections of clients and engines.
pub mod transport;
