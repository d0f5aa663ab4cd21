//! The decisions of a piparallel pool, without the world.
//!
//! Everything here is a state machine or a pure function: events go in, commands come out, and the
//! shell (crate `piparallel`) carries them out. There is no socket, clock, file, thread or source of
//! chance in this crate, so that a whole pool can be simulated from one seed.
//!
//! # The grammar of the machines
//!
//! * getters take `&self`;
//! * `handle_*` takes one event from outside, with the time as an argument;
//! * `poll_command` hands out what the caller must now do, until it returns `None`;
//! * `next_timeout` says when `handle_timeout` wants to be called next.
//!
//! Bad input from a peer is a value, never a panic. Every queue has a bound, in `limits`.

#![forbid(unsafe_code)]

/// The sockets of a controller, by what they carry and who connects to them.
pub mod channel;
/// Time as the machines see it.
pub mod clock;
/// The controller of a pool: hub, schedulers and heart monitor as one machine.
pub mod controller;
/// What nodes say of themselves to everybody.
pub mod discovery;
/// The engines of one machine: started, watched, ended.
pub mod engines;
/// Names of engines, peers and messages.
pub mod ids;
/// How nodes enter the pool.
pub mod join;
/// Every bound, with its reason.
pub mod limits;
/// Which node is the controller.
pub mod role;
/// Load balancing: which task goes to which engine.
pub mod scheduler;
/// What is remembered of each task, and the queries over it.
pub mod task_db;
/// Bytes: ZMTP, the message format, signatures, dates.
pub mod wire;
