//! `piparallel node`: the service of a node, in the foreground.

use clap::Args;

use super::exit::Exit;
use super::options::NodeOptions;
use crate::logging;
use crate::node;
use crate::settings::LogSettings;
use crate::settings::node::load;
use crate::signals::Signals;

/// What `node` can be told.
#[derive(Args, Clone, Debug)]
pub struct NodeCommand {
    #[command(flatten)]
    node: NodeOptions,
}

/// # Errors
/// The node cannot start, or ended with a failure.
pub fn run(options: &NodeCommand) -> anyhow::Result<Exit> {
    let loaded = load(&options.node.sources())?;
    logging::start(&LogSettings {
        level: loaded.settings.log_level,
        file: None,
    })?;
    for warning in &loaded.warnings {
        log::warn!("{warning}");
    }
    let runtime = super::runtime()?;
    runtime.block_on(async {
        let mut signals = Signals::install(false)?;
        node::run(loaded.settings, &mut signals).await
    })?;
    Ok(Exit::Success)
}
