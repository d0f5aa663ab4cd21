//! `piparallel config`: the options of a node as they came out, and where each is from.

use clap::Args;
use serde_json::json;

use super::exit::Exit;
use super::options::NodeOptions;
use crate::settings::node;

/// What `config` can be told.
#[derive(Args, Clone, Debug)]
pub struct ConfigOptions {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print the reference: every option, what it means, and its default
    #[arg(long, conflicts_with = "json")]
    reference: bool,
    #[command(flatten)]
    node: NodeOptions,
}

/// # Errors
/// An option cannot be what it is set to.
pub fn run(options: &ConfigOptions) -> anyhow::Result<Exit> {
    if options.reference {
        super::print(node::REFERENCE);
        return Ok(Exit::Success);
    }
    let loaded = node::load(&options.node.sources())?;
    for warning in &loaded.warnings {
        eprintln!("piparallel: {warning}");
    }
    let all: Vec<_> = loaded.inputs.list().collect();
    if options.json {
        let all: Vec<_> = all
            .iter()
            .map(|(key, value, origin)| {
                json!({"key": key, "value": value, "origin": origin.to_string()})
            })
            .collect();
        super::print(&format!("{:#}\n", json!({"options": all})));
        return Ok(Exit::Success);
    }
    let lines: Vec<_> = all
        .iter()
        .map(|(key, value, origin)| (format!("{key} = {value}"), origin))
        .collect();
    let width = lines
        .iter()
        .map(|(l, _)| l.len())
        .filter(|l| *l <= WIDTH_MAX)
        .max();
    let width = width.unwrap_or(WIDTH_MAX);
    for (line, origin) in lines {
        super::print(&format!("{line:width$}  # {origin}\n"));
    }
    Ok(Exit::Success)
}

/// Longer values do not move the column of origins.
const WIDTH_MAX: usize = 60;
