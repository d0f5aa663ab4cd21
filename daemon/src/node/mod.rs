//! The service of a node: `piparallel node`.
//!
//! One loop (`service`) owns the role machine and everything it decides about: who is seen (`discovery`), the
//! connection to a controller (`member`), or the controller itself (`serving`), and the engines (`host`).

use sd_notify::NotifyState;

use crate::settings::node::NodeSettings;
use crate::signals::Signals;

/// Connection files for nodes and laptops.
pub mod connection_files;
/// The keys that many share.
pub mod keys;
/// The light that tells which machine it is.
pub mod led;
/// Where others reach the controller.
mod location;
/// The connection to a controller.
pub mod member;
/// What the role machine keeps.
pub mod memory;
/// What people ask for.
mod orders;
/// The controller of a node.
pub mod pool;
/// The secrets of a controller.
pub mod pool_keys;
/// How a node is.
pub mod report;
/// The loop.
mod service;
/// The controller role.
pub mod serving;
/// What the node says of itself.
mod status;
/// What the machine says of itself.
pub mod vitals;

/// Runs a node until a signal; a second one cuts the goodbye short. Must run on a `LocalRuntime`.
///
/// # Errors
/// The node cannot start, or cannot go on.
pub async fn run(settings: NodeSettings, signals: &mut Signals) -> anyhow::Result<()> {
    let mut service = service::Service::start(settings)?;
    let result = tokio::select! {
        result = service.run() => result,
        signal = signals.next() => {
            log::info!("received {signal}, stopping");
            Ok(())
        }
    };
    tell_service_manager(&[NotifyState::Stopping]);
    let hurry = async {
        signals.next().await;
    };
    service.stop(hurry).await;
    result
}

/// Without a service manager there is nobody to tell, and that is fine.
fn tell_service_manager(state: &[NotifyState<'_>]) {
    let _ = sd_notify::notify(state);
}
