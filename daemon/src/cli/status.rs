//! `piparallel status`: what a running pool does, asked from its hub.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value};

use super::exit::Exit;
use super::options::PlaceOptions;
use super::screen::Screen;
use super::snapshot::Snapshot;
use crate::controller::{claim, connection_file};
use crate::hub_client::HubClient;
use crate::node::pool;
use crate::settings::config::Config;
use crate::settings::load::merge;
use crate::settings::node::{self, Sources};
use crate::settings::resolve::client_file;
use crate::settings::sources::Environment;

/// What `status` can be told.
#[derive(Args, Clone, Debug)]
pub struct StatusOptions {
    #[command(flatten)]
    place: PlaceOptions,
    /// Connection file of the pool, in place of a profile
    #[arg(long, value_name = "FILE", conflicts_with_all = ["profile", "profile_dir", "cluster_id"])]
    file: Option<PathBuf>,
    /// Print JSON: everything, for programs
    #[arg(long)]
    json: bool,
    /// Go on until Ctrl-C, with a look every second
    #[arg(long)]
    watch: bool,
}

const WATCH_PERIOD: Duration = Duration::from_secs(1);

/// # Errors
/// The controller does not answer.
pub fn run(options: &StatusOptions) -> anyhow::Result<Exit> {
    let path = path(options)?;
    let Some(file) = connection_file::read(&path)? else {
        eprintln!("piparallel: {}", missing(&path));
        return Ok(Exit::NoController);
    };
    if !claim::is_alive(&file) {
        eprintln!(
            "piparallel: the controller that wrote {} is gone (start one: piparallel up)",
            path.display()
        );
        return Ok(Exit::NoController);
    }
    super::runtime()?.block_on(show(&file, options))?;
    Ok(Exit::Success)
}

fn path(options: &StatusOptions) -> anyhow::Result<PathBuf> {
    let environment = Environment::of_process()?;
    if let Some(file) = &options.file {
        return Ok(environment.current_dir.join(file));
    }
    let mut config = Config::default();
    options.place.assign(&mut config);
    let merged = merge(config, &environment)?;
    let file = client_file(&merged.config, &merged.profile)?;
    let is_asked_for = options.place.is_given();
    Ok(
        match node_file().filter(|_| !is_asked_for && !file.exists()) {
            Some(file_of_node) => file_of_node,
            None => file,
        },
    )
}

/// That of the service on this machine, if it is the controller and whoever asks may read it.
fn node_file() -> Option<PathBuf> {
    let loaded = node::load(&Sources::default()).ok()?;
    let file = pool::client_file(&loaded.settings.state_dir);
    file.exists().then_some(file)
}

/// Names the other pools of the profile, one of which may be the one that is meant.
fn missing(path: &Path) -> String {
    let others = cluster_ids(path);
    let remedy = match others.as_slice() {
        [] => "start one: piparallel up, or use one: piparallel connect".to_owned(),
        ids => format!("others are there: --cluster-id {}", ids.join(", ")),
    };
    format!(
        "no controller, {} does not exist ({remedy})",
        path.display()
    )
}

fn cluster_ids(path: &Path) -> Vec<String> {
    let entries = path.parent().and_then(|dir| std::fs::read_dir(dir).ok());
    let mut ids: Vec<_> = entries
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| {
            let name = e.file_name();
            let rest = name.to_str()?.strip_prefix("ipcontroller-")?;
            Some(rest.strip_suffix("-client.json")?.to_owned())
        })
        .collect();
    ids.sort();
    ids
}

async fn show(file: &Map<String, Value>, options: &StatusOptions) -> anyhow::Result<()> {
    let mut hub = HubClient::connect(file).await?;
    let mut screen = Screen::new();
    loop {
        let status = hub.status().await?;
        let json = options.json.then(|| status.to_string());
        let snapshot: Snapshot = serde_json::from_value(status)?;
        match (json, options.watch) {
            (Some(json), _) => super::print(&(json + "\n")),
            (None, false) => super::print(&snapshot.render(usize::MAX)),
            (None, true) => {
                let block = snapshot.render(super::ENGINES_ON_SCREEN);
                screen.show(&block, block.trim_end());
            }
        }
        if !options.watch {
            return Ok(());
        }
        tokio::time::sleep(WATCH_PERIOD).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_pools_of_the_profile_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ipcontroller-client.json");
        assert!(missing(&path).contains("piparallel up"));
        std::fs::write(dir.path().join("ipcontroller-b-2-client.json"), "").unwrap();
        std::fs::write(dir.path().join("ipcontroller-b-2-engine.json"), "").unwrap();
        assert!(
            missing(&path).contains("--cluster-id b-2)"),
            "{}",
            missing(&path)
        );
    }
}
