//! The service of a node: `piparallel node`.

use std::future::Future;
use std::pin::pin;

use anyhow::Context as _;

use crate::discovery::{Discovery, Service};
use crate::settings::node::NodeSettings;

/// Connection files for nodes and laptops.
pub mod connection_files;
/// The light that tells which machine it is.
pub mod led;
/// The controller of a node.
pub mod pool;
/// The secrets of a controller.
pub mod pool_keys;
/// What the machine says of itself.
pub mod vitals;

/// Runs a node until `shutdown`. Must run on a `LocalRuntime`.
///
/// # Errors
/// The node cannot start.
pub async fn run(settings: NodeSettings, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    let mut random = [0; 4];
    getrandom::fill(&mut random).context("the system gives no random bytes")?;
    let id: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut discovery = Discovery::start(settings.network.interfaces.clone())?;
    discovery.announce(Service {
        instance: format!("{} {id}", settings.name),
        host: format!("piparallel-{id}"),
        port: settings.network.port,
        txt: vec![
            ("v".to_owned(), "1".to_owned()),
            ("pool".to_owned(), settings.pool),
            ("role".to_owned(), "looking".to_owned()),
        ],
    });
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            event = discovery.next_event() => log::debug!("{event:?}"),
        }
    }
    discovery.stop().await;
    Ok(())
}
