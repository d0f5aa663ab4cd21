//! `piparallel controller`: a controller alone, in the foreground.

use sd_notify::NotifyState;

use super::exit::Exit;
use super::options::ControllerOptions;
use crate::controller::{connection_file, lifecycle};
use crate::logging;
use crate::settings::ControllerSettings;
use crate::settings::config::Config;
use crate::settings::load::{Loaded, load, merge};
use crate::settings::sources::Environment;
use crate::signals::Signals;

/// # Errors
/// The controller cannot start, or ended with a failure.
pub fn run(options: &ControllerOptions) -> anyhow::Result<Exit> {
    serve(options.assignments()?)
}

/// Runs a controller by what the command line assigned, until a signal or a client ends it.
///
/// # Errors
/// See [`run`].
pub fn serve(config: Config) -> anyhow::Result<Exit> {
    let runtime = super::runtime()?;
    runtime.block_on(async {
        let mut signals = Signals::install(false)?;
        let environment = Environment::of_process()?;
        let loaded = load(merge(config, &environment)?, &environment)?;
        if let Some(file) = &loaded.settings.log.file {
            eprintln!("Sending logs to {}", file.display());
        }
        let prepared = lifecycle::prepare(open_profile(loaded)?)?;
        let shutdown = async {
            log::info!("received {}, stopping", signals.next().await);
            tell_service_manager(&[NotifyState::Stopping]);
        };
        prepared
            .run(|| tell_service_manager(&[NotifyState::Ready]), shutdown)
            .await
    })?;
    Ok(Exit::Success)
}

/// Makes the profile's directories and starts logging, with what was noted until now.
///
/// # Errors
/// A directory or the log file cannot be made.
pub fn open_profile(loaded: Loaded) -> anyhow::Result<ControllerSettings> {
    let settings = loaded.settings;
    connection_file::create_profile(&settings)?;
    if loaded.clean_logs {
        logging::clean(&settings.profile.log());
    }
    logging::start(&settings.log)?;
    for warning in loaded.warnings {
        log::warn!("{warning}");
    }
    Ok(settings)
}

/// Without a service manager there is nobody to tell, and that is fine.
fn tell_service_manager(state: &[NotifyState<'_>]) {
    let _ = sd_notify::notify(state);
}
