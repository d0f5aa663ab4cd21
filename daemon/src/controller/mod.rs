//! The controller role.

use std::future::Future;

use crate::settings::ControllerSettings;
use bind::Bound;

/// The address that connection files name.
pub mod address;
/// Binding of all sockets.
pub mod bind;
/// One controller for each profile.
pub mod claim;
/// The files that tell peers where the controller is.
pub mod connection_file;
/// The engines of a controller, for the next one.
pub mod engines_file;
/// From settings to a clean end.
pub mod lifecycle;

/// Runs a controller on the sockets that are bound, until `shutdown`.
///
/// # Errors
/// The controller cannot go on.
pub async fn run(
    settings: ControllerSettings,
    bound: Bound,
    ready: impl FnOnce(),
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    ready();
    shutdown.await;
    drop((settings, bound));
    Ok(())
}
