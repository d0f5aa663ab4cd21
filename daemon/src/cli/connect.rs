//! `piparallel connect` and `disconnect`: this machine works with a pool, or no longer.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use piparallel_core::join::keys::SharedKey;
use serde_json::{Map, Value, json};
use tokio::time::timeout;

use super::exit::Exit;
use super::options::{NodeOptions, PlaceOptions};
use crate::laptop::joining::{Joined, join};
use crate::laptop::placement::Placements;
use crate::laptop::{pools, python_versions};
use crate::private::make_private_dir;
use crate::python;
use crate::settings::ProfileDir;
use crate::settings::config::Config;
use crate::settings::load::merge;
use crate::settings::node;
use crate::settings::resolve::client_file;
use crate::settings::sources::Environment;

/// What `connect` can be told.
#[derive(Args, Clone, Debug)]
pub struct ConnectOptions {
    /// Name of the pool (default: the only one that is found)
    pool: Option<String>,
    /// Where its controller is, HOST or HOST:PORT, for networks without multicast
    #[arg(long, value_name = "HOST")]
    controller: Option<String>,
    /// File with the key that `piparallel client-key` shows on the controller; without it, somebody has to
    /// approve this machine there
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// How long to wait for that
    #[arg(long, value_name = "MINUTES", default_value_t = 10)]
    wait: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: PlaceOptions,
    #[command(flatten)]
    node: NodeOptions,
}

/// What `disconnect` can be told.
#[derive(Args, Clone, Debug)]
pub struct DisconnectOptions {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: PlaceOptions,
}

/// # Errors
/// There is no such pool, or it does not let this machine in.
pub fn run(options: &ConnectOptions) -> anyhow::Result<Exit> {
    let environment = Environment::of_process()?;
    let state_dir = state_dir(&environment);
    let (file, profile) = place(&options.place, &environment)?;
    let key = options.key_file.as_deref().map(read_key).transpose()?;
    make_private_dir(&state_dir)?;
    let mut placements = Placements::load(&state_dir)?;
    let (pool, joined, here) = super::runtime()?.block_on(async {
        let found = find(options).await?;
        let waiting = |fingerprint| {
            eprintln!(
                "This machine waits to be let into {}. Its fingerprint is {fingerprint}; on the controller: \
                 piparallel approve {fingerprint}",
                found.pool
            );
        };
        let patience = Duration::from_secs(options.wait.saturating_mul(60));
        let joined = timeout(patience, join(&found, key, &state_dir, waiting)).await;
        let joined = joined.with_context(|| format!("nobody has let this machine in within {} min", options.wait))??;
        let here = python::find(None, &environment).await.ok();
        anyhow::Ok((found.pool, joined, here))
    })?;
    placements.place(&file, &pool, joined.file.clone())?;
    let here = here.and_then(|python| python_versions::of(&python.path));
    let warning = warning(here.as_deref(), &joined.file);
    if options.json {
        let answer = json!({
            "pool": pool,
            "file": file,
            "controller": {
                "address": joined.controller.to_string(),
                "fingerprint": joined.fingerprint.to_string(),
            },
            "warning": warning,
        });
        super::print(&format!("{answer:#}\n"));
    } else {
        super::print(&told(
            &pool,
            &joined,
            &client_call(&options.place, &profile, &file),
        ));
        if let Some(warning) = warning {
            super::print(&format!("\nWarning: {warning}\n"));
        }
    }
    Ok(Exit::Success)
}

/// # Errors
/// This machine is not connected, or its connection file was changed.
pub fn run_disconnect(options: &DisconnectOptions) -> anyhow::Result<Exit> {
    let environment = Environment::of_process()?;
    let (file, _) = place(&options.place, &environment)?;
    let pool = Placements::load(&state_dir(&environment))?.remove(&file)?;
    let text = match options.json {
        true => format!("{:#}\n", json!({ "pool": pool, "file": file })),
        false => format!("This machine is no longer connected to {pool}.\n"),
    };
    super::print(&text);
    Ok(Exit::Success)
}

async fn find(options: &ConnectOptions) -> anyhow::Result<pools::Found> {
    let mut sources = options.node.sources();
    if let Some(controller) = &options.controller {
        sources.assignments.push(format!("controller={controller}"));
    }
    let settings = node::load(&sources)?.settings;
    match (&options.controller, &settings.controller) {
        (Some(_), Some(controller)) => {
            let pool = options.pool.as_deref().unwrap_or(&settings.pool);
            pools::resolve(pool, controller).await
        }
        _ => pools::find(options.pool.as_deref(), settings.network.interfaces).await,
    }
}

fn read_key(path: &Path) -> anyhow::Result<SharedKey> {
    let text = std::fs::read_to_string(path);
    let text = text.with_context(|| format!("cannot read {}", path.display()))?;
    match text.trim().parse() {
        Ok(key) => Ok(key),
        Err(cause) => bail!("{} holds no key: {cause}", path.display()),
    }
}

/// Where the client looks, and in which profile that is.
pub(super) fn place(
    options: &PlaceOptions,
    environment: &Environment,
) -> anyhow::Result<(PathBuf, ProfileDir)> {
    let mut config = Config::default();
    options.assign(&mut config);
    let merged = merge(config, environment)?;
    let file = client_file(&merged.config, &merged.profile)?;
    Ok((file, merged.profile))
}

/// Keys and what was placed, of this user.
pub(super) fn state_dir(environment: &Environment) -> PathBuf {
    let named = environment
        .variable("XDG_STATE_HOME")
        .filter(|d| d.starts_with('/'));
    let base = named.map_or_else(|| environment.expand("~/.local/state"), PathBuf::from);
    base.join("piparallel")
}

fn warning(here: Option<&str>, file: &Map<String, Value>) -> Option<String> {
    let engines = file.get("engine_versions")?.get("python")?.as_str()?;
    match here {
        Some(here) => python_versions::warning(here, engines),
        None => Some(format!(
            "no Python with ipyparallel was found here (pip install ipyparallel, with Python {engines})"
        )),
    }
}

/// What a user types in Python to have a client of the controller whose file this is.
pub(super) fn client_call(options: &PlaceOptions, profile: &ProfileDir, file: &Path) -> String {
    let is_default =
        profile.path.ends_with(".ipython/profile_default") && options.cluster_id.is_none();
    match is_default {
        true => "ipp.Client()".to_owned(),
        false => format!("ipp.Client({file:?})"),
    }
}

fn told(pool: &str, joined: &Joined, client_call: &str) -> String {
    format!(
        "Connected to {pool}, controller {} ({}).\n\n    >>> import ipyparallel as ipp\n    \
         >>> client = {client_call}\n\n`piparallel status` shows what it does, `piparallel disconnect` \
         takes this machine off.\n",
        joined.controller, joined.fingerprint
    )
}
