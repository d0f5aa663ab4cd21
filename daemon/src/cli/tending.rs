//! Looking after one node: `piparallel identify`, `drain`, `resume` and `restart-engines`.

use super::admission::tell;
use super::exit::Exit;
use super::options::OneNode;
use crate::control::Command;

/// # Errors
/// No service answers, or there is no such node.
pub fn identify(options: &OneNode) -> anyhow::Result<Exit> {
    let node = options.node.clone();
    let answer = options.service.ask(Command::Identify { node })?;
    tell(&options.service, &answer, |name| {
        format!("{name} blinks for a while.")
    })
}

/// # Errors
/// See [`identify`].
pub fn drain(options: &OneNode) -> anyhow::Result<Exit> {
    let node = options.node.clone();
    let answer = options.service.ask(Command::Drain { node })?;
    tell(&options.service, &answer, |name| {
        format!(
            "{name} finishes what it has and gets no more work until `piparallel resume {name}`."
        )
    })
}

/// # Errors
/// See [`identify`].
pub fn resume(options: &OneNode) -> anyhow::Result<Exit> {
    let node = options.node.clone();
    let answer = options.service.ask(Command::Resume { node })?;
    tell(&options.service, &answer, |name| {
        format!("{name} gets work again.")
    })
}

/// # Errors
/// See [`identify`].
pub fn restart_engines(options: &OneNode) -> anyhow::Result<Exit> {
    let node = options.node.clone();
    let answer = options.service.ask(Command::RestartEngines { node })?;
    tell(&options.service, &answer, |name| {
        format!("{name} restarts its engines.")
    })
}
