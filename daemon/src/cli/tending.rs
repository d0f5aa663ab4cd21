//! Looking after one node: `piparallel identify`, `drain`, `resume`, `restart-engines`; and after this one:
//! `state`, `forget-controller`.

use serde_json::Value;

use super::admission::tell;
use super::exit::Exit;
use super::options::{OneNode, ServiceOptions};
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

/// # Errors
/// No service answers.
pub fn state(service: &ServiceOptions) -> anyhow::Result<Exit> {
    let answer = service.ask(Command::State)?;
    let text = |key: &str| {
        answer
            .get(key)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    tell(service, &answer, |name| {
        let (state, fingerprint) = (text("state"), text("fingerprint"));
        let at = match answer
            .pointer("/controller/address")
            .and_then(Value::as_str)
        {
            Some(address) => format!(", controller at {address}"),
            None => String::new(),
        };
        format!("{name} ({fingerprint}): {state}{at}")
    })
}

/// # Errors
/// No service answers.
pub fn forget_controller(service: &ServiceOptions) -> anyhow::Result<Exit> {
    let answer = service.ask(Command::ForgetController)?;
    tell(service, &answer, |_| {
        "This node accepts the next controller that knows the join key.".to_owned()
    })
}
