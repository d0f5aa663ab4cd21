//! Who may join: `piparallel approve`, `pair`, `revoke`, `rotate-key` and `client-key`.

use clap::Args;
use serde_json::Value;

use super::exit::Exit;
use super::options::{OneNode, ServiceOptions};
use super::printable;
use crate::control::Command;

/// What `pair` can be told.
#[derive(Args, Clone, Debug)]
pub struct PairOptions {
    /// For how long; 0 ends it
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(0..=60))]
    minutes: u32,
    /// How many nodes at most
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1000))]
    count: u32,
    #[command(flatten)]
    service: ServiceOptions,
}

/// What `client-key` can be told.
#[derive(Args, Clone, Debug)]
pub struct ClientKeyOptions {
    /// Make a new one; the old one lets nobody in any more
    #[arg(long)]
    renew: bool,
    #[command(flatten)]
    service: ServiceOptions,
}

/// # Errors
/// No service answers, or no such node waits.
pub fn approve(options: &OneNode) -> anyhow::Result<Exit> {
    let node = options.node.clone();
    let answer = options.service.ask(Command::Approve { node })?;
    tell(&options.service, &answer, |name| {
        format!("{name} is let in.")
    })
}

/// # Errors
/// No service answers, or this is not the controller.
pub fn pair(options: &PairOptions) -> anyhow::Result<Exit> {
    let PairOptions { minutes, count, .. } = *options;
    let answer = options.service.ask(Command::Pair { minutes, count })?;
    tell(&options.service, &answer, |_| match minutes {
        0 => "Nobody is let in without approval any more.".to_owned(),
        _ => format!(
            "Whoever comes within {minutes} min is let in, {count} at most. `piparallel nodes` shows them."
        ),
    })
}

/// # Errors
/// No service answers, or there is no such node.
pub fn revoke(options: &OneNode) -> anyhow::Result<Exit> {
    let node = options.node.clone();
    let answer = options.service.ask(Command::Revoke { node })?;
    tell(&options.service, &answer, |name| {
        format!(
            "{name} is cut off. It knows the join key: `piparallel rotate-key`, or it can come back as another \
             node."
        )
    })
}

/// # Errors
/// No service answers, or this is not the controller.
pub fn rotate_key(service: &ServiceOptions) -> anyhow::Result<Exit> {
    let answer = service.ask(Command::RotateKey)?;
    let key = text(&answer, "key");
    tell(service, &answer, |_| {
        format!("The join key for new nodes, as join_key in their piparallel.toml:\n{key}")
    })
}

/// # Errors
/// No service answers, or this is not the controller.
pub fn client_key(options: &ClientKeyOptions) -> anyhow::Result<Exit> {
    let renew = options.renew;
    let answer = options.service.ask(Command::ClientKey { renew })?;
    let key = text(&answer, "key");
    tell(&options.service, &answer, |_| {
        format!(
            "A laptop connects with: piparallel connect --key-file FILE, FILE being this line:\n{key}"
        )
    })
}

/// Prints an answer: as it is, or as a sentence about the node it names.
pub(super) fn tell(
    service: &ServiceOptions,
    answer: &Value,
    sentence: impl FnOnce(&str) -> String,
) -> anyhow::Result<Exit> {
    let text = match service.json {
        true => format!("{answer:#}\n"),
        false => format!("{}\n", sentence(&printable(text(answer, "name")))),
    };
    super::print(&text);
    Ok(Exit::Success)
}

fn text<'a>(answer: &'a Value, key: &str) -> &'a str {
    answer.get(key).and_then(Value::as_str).unwrap_or_default()
}
