//! The controller role.

/// From settings to the parts of a controller.
mod assemble;
/// Binding of all sockets.
pub mod bind;
/// One controller for each profile.
pub mod claim;
/// The files that tell peers where the controller is.
pub mod connection_file;
/// `become_dask`.
mod dask;
/// The engines of a controller, for the next one.
pub mod engines_file;
/// Connections that a power cut left half open.
pub mod former_connections;
/// From settings to a clean end.
pub mod lifecycle;
/// The loop around the machine.
mod run;

pub use run::{Admissions, Admitted, run};
