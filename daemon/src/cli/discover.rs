//! `piparallel discover`: the pools and nodes that announce themselves on this network.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use serde_json::json;
use tokio::time::{Instant, timeout_at};

use super::exit::Exit;
use super::options::NodeOptions;
use super::printable;
use crate::discovery::{Discovery, Event, Sighting};
use crate::settings::node;

/// What `discover` can be told.
#[derive(Args, Clone, Debug)]
pub struct DiscoverOptions {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// How long to listen
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0)]
    seconds: f64,
    #[command(flatten)]
    node: NodeOptions,
}

/// Longer than any answer takes.
const SECONDS_MAX: f64 = 3600.0;

/// One node, as it describes itself: nothing of it is proven.
#[derive(Serialize)]
struct Row {
    instance: String,
    addresses: Vec<String>,
    txt: BTreeMap<String, String>,
}

/// # Errors
/// The network interfaces cannot be watched, or an option cannot be what it is set to.
pub fn run(options: &DiscoverOptions) -> anyhow::Result<Exit> {
    let loaded = node::load(&options.node.sources())?;
    let patience = Duration::from_secs_f64(options.seconds.clamp(0.1, SECONDS_MAX));
    let runtime = super::runtime()?;
    let seen = runtime.block_on(look(loaded.settings.network.interfaces, patience))?;
    let rows: Vec<Row> = seen.into_values().map(row).collect();
    if options.json {
        super::print(&format!("{:#}\n", json!({ "nodes": rows })));
    } else {
        super::print(&table(&rows));
    }
    Ok(Exit::Success)
}

async fn look(
    filter: node::InterfaceFilter,
    patience: Duration,
) -> anyhow::Result<BTreeMap<String, Sighting>> {
    let mut discovery = Discovery::start(filter)?;
    let end = Instant::now() + patience;
    let mut seen = BTreeMap::new();
    while let Ok(event) = timeout_at(end, discovery.next_event()).await {
        match event {
            Event::Seen(sighting) => {
                seen.insert(sighting.instance.clone(), sighting);
            }
            Event::Gone(instance) => {
                seen.remove(&instance);
            }
            Event::LinksChanged => {}
        }
    }
    discovery.stop().await;
    Ok(seen)
}

fn row(sighting: Sighting) -> Row {
    let text = |value: Vec<u8>| String::from_utf8_lossy(&value).into_owned();
    Row {
        instance: sighting.instance,
        addresses: sighting.addresses.iter().map(ToString::to_string).collect(),
        txt: sighting
            .txt
            .into_iter()
            .map(|(key, value)| (key, text(value)))
            .collect(),
    }
}

fn table(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "Nobody announces a pool here. Is this machine on the same network, and does multicast pass? \
                (--set controller=HOST works without it)\n"
            .to_owned();
    }
    let mut cells = vec![["POOL", "NODE", "ROLE", "FINGERPRINT", "ADDRESS"].map(str::to_owned)];
    for row in rows {
        let txt = |key: &str| printable(row.txt.get(key).map_or("", String::as_str));
        let address = row.addresses.first().cloned().unwrap_or_default();
        cells.push([
            txt("pool"),
            printable(&row.instance),
            txt("role"),
            txt("fp"),
            address,
        ]);
    }
    super::columns(&cells)
}
