//! `piparallel engines`: runs the engines of this machine's node, apart from it.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

use super::exit::Exit;
use crate::host::service;
use crate::logging;
use crate::settings::LogSettings;
use crate::signals::Signals;

/// What `engines` can be told. It reads no options of the node, because the join key is among them.
#[derive(Args, Clone, Debug)]
pub struct EnginesCommand {
    /// Directory of the node's socket
    #[arg(
        long,
        value_name = "DIR",
        env = "PIPARALLEL_RUN_DIR",
        default_value = "/run/piparallel"
    )]
    run_dir: PathBuf,
    /// Where engines start and keep their files (default: the working directory)
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// How much is logged: error, warn, info, debug, trace
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log_level: log::LevelFilter,
}

/// # Errors
/// There is no directory for engines.
pub fn run(options: &EnginesCommand) -> anyhow::Result<Exit> {
    logging::start(&LogSettings {
        level: options.log_level,
        file: None,
    })?;
    let dir = match &options.dir {
        Some(dir) => dir.clone(),
        None => std::env::current_dir().context("the working directory is gone")?,
    };
    super::runtime()?.block_on(async {
        let mut signals = Signals::install(false)?;
        service::run(&options.run_dir, dir, &mut signals).await;
        anyhow::Ok(())
    })?;
    Ok(Exit::Success)
}
