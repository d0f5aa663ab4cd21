//! piparallel: an IPython Parallel pool in one static binary. This crate is the part that touches the
//! world; the decisions are in `piparallel-core`.

/// What this machine is called, and its addresses.
pub mod address;
/// The file on a card.
pub mod card;
/// The command line.
pub mod cli;
/// Questions to the service of this node.
pub mod control;
/// The controller role: sockets, files and loop around the machines of the core.
pub mod controller;
/// Other nodes on the network.
pub mod discovery;
/// Python engines on this machine.
pub mod engines;
/// The engines of this machine.
pub mod host;
/// Questions to a hub.
pub mod hub_client;
/// Entering the pool.
pub mod join;
/// The machine of a user.
pub mod laptop;
/// The log backend.
pub mod logging;
/// The allocator.
pub mod memory;
/// The service of a node.
pub mod node;
/// Engines on this machine.
pub mod pool;
/// Files that are for the user alone.
pub mod private;
/// Which Python runs engines and Dask.
pub mod python;
/// Chance.
pub mod random;
/// Options from files, environment and command line, merged and validated.
pub mod settings;
/// The signals that end the program.
pub mod signals;
/// The task database on disk.
pub mod store;
/// Connections of clients and engines.
pub mod transport;
