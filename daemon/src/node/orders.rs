//! What people ask a node to do, by the control socket.

use std::time::Duration;

use piparallel_core::clock::Now;
use piparallel_core::ids::NodeId;
use piparallel_core::join::admission::{
    Admission, NodeState as State, NodeView, OperatorError, PairingView,
};
use piparallel_core::join::message::{Report, ToNode};
use serde_json::{Value, json};

use super::keys;
use super::report::{common_versions, differences};
use super::service::Service;
use super::serving::Serving;
use crate::control::nodes::{EngineCount, NodeInfo, NodeState, Nodes, Pairing};
use crate::control::{Command, Reply};

/// How long a light blinks.
const BLINK_SECONDS: u32 = 15;

impl Service {
    pub(super) fn answer(&mut self, command: Command) -> Reply {
        match self.carry_out(command) {
            Ok(value) => Reply::Ok(value),
            Err(cause) => Reply::Error(format!("{cause:#}")),
        }
    }

    fn carry_out(&mut self, command: Command) -> anyhow::Result<Value> {
        match command {
            Command::State => Ok(self.state()),
            Command::ForgetController => {
                self.pins.forget()?;
                Ok(json!({}))
            }
            Command::Nodes => Ok(serde_json::to_value(self.nodes()?)?),
            Command::Approve { node } => self.tell(&node, |a, now, id| a.approve(now, id)),
            Command::Revoke { node } => self.tell(&node, |a, now, id| a.revoke(now, id)),
            Command::Drain { node } => self.tell(&node, |a, _, id| a.set_drained(id, true)),
            Command::Resume { node } => self.tell(&node, |a, _, id| a.set_drained(id, false)),
            Command::Pair { minutes, count } => {
                let time = Duration::from_secs(u64::from(minutes) * 60);
                self.serving()?.door.with(|admission, now| match minutes {
                    0 => admission.close_window(),
                    _ => admission.open_window(now, time, count),
                });
                self.serving()?.refresh();
                Ok(json!({}))
            }
            Command::RotateKey => {
                self.serving()?;
                let key = self.join_key.replace(keys::random_key()?)?;
                let text = key.to_text();
                self.serving()?.door.with(|a, _| a.rotate_join_key(key));
                Ok(json!({ "key": text }))
            }
            Command::ClientKey { renew } => {
                let serving = self.serving()?;
                let dir = &self.settings.state_dir;
                let key = match renew {
                    true => keys::new_client_key(dir)?,
                    false => keys::client_key(dir)?,
                };
                let text = key.to_text();
                serving.door.with(|a, _| a.rotate_client_key(key));
                Ok(json!({ "key": text }))
            }
            Command::Identify { node } => {
                let seconds = BLINK_SECONDS;
                self.tell_one(&node, ToNode::Identify { seconds })
            }
            Command::RestartEngines { node } => self.tell_one(&node, ToNode::RestartEngines),
        }
    }

    /// Tells the admission something about a node that a person has named.
    fn tell(
        &self,
        node: &str,
        act: impl FnOnce(&mut Admission, Now, NodeId) -> Result<(), OperatorError>,
    ) -> anyhow::Result<Value> {
        let serving = self.serving()?;
        let name = serving.door.with(|admission, now| {
            let id = admission.select(node)?;
            act(admission, now, id)?;
            Ok::<_, OperatorError>(name_of(admission, id))
        })?;
        serving.refresh();
        Ok(json!({ "name": name }))
    }

    /// Tells a node something, or this one.
    fn tell_one(&mut self, node: &str, message: ToNode) -> anyhow::Result<Value> {
        let own = self.own;
        let (id, name) = self.serving()?.door.with(|admission, _| {
            let id = admission.select(node)?;
            match id == own {
                true => admission.ensure_applies(id, &message)?,
                false => admission.tell(id, message.clone())?,
            }
            Ok::<_, OperatorError>((id, name_of(admission, id)))
        })?;
        if id == own {
            self.handle_message(message);
        }
        Ok(json!({ "name": name }))
    }

    fn serving(&self) -> anyhow::Result<&Serving> {
        self.serving.as_ref().ok_or_else(|| {
            let remedy = match self.member.link() {
                Some(link) => format!("run this at {}", link.address.ip().to_canonical()),
                None => "`piparallel discover` shows who is there".to_owned(),
            };
            anyhow::anyhow!(
                "this node is not the controller, it {} ({remedy})",
                self.role.status()
            )
        })
    }

    fn state(&self) -> Value {
        let key = self.secret.public();
        let link = self.member.link().filter(|link| !link.pending);
        json!({
            "pool": self.settings.pool,
            "name": self.settings.name,
            "id": self.own.to_string(),
            "fingerprint": key.fingerprint().to_string(),
            "role": self.part().name(),
            "state": self.role.status(),
            "controller": link.map(|link| json!({
                "address": link.address.to_string(),
                "fingerprint": link.controller.fingerprint().to_string(),
            })),
            "engines": { "running": self.host.status().running, "wanted": self.host.status().wanted },
        })
    }

    fn nodes(&self) -> anyhow::Result<Nodes> {
        self.serving()?.door.with(|admission, now| {
            let reports = admission.nodes().map(|node| &node.report.versions);
            let common = common_versions(reports);
            let mut nodes: Vec<_> = admission
                .nodes()
                .map(|node| info(&node, now, differences(&node.report.versions, &common)))
                .collect();
            nodes.sort_by(|a, b| (!a.controller, &a.name).cmp(&(!b.controller, &b.name)));
            Ok(Nodes {
                pool: self.settings.pool.clone(),
                pairing: admission.pairing().map(|window| pairing(window, now)),
                nodes,
            })
        })
    }
}

fn name_of(admission: &Admission, id: NodeId) -> String {
    let mut nodes = admission.nodes();
    let node = nodes.find(|node| node.id == id);
    node.map_or_else(|| id.to_string(), |node| node.row.name.clone())
}

fn pairing(window: PairingView, now: Now) -> Pairing {
    Pairing {
        seconds_left: window.until.saturating_sub(now.monotonic).as_secs(),
        admissions_left: window.left,
    }
}

fn info(node: &NodeView<'_>, now: Now, differences: Vec<String>) -> NodeInfo {
    // What was told before it went is over.
    let gone = Report::default();
    let report = match node.state {
        State::Joined => node.report,
        State::Pending | State::Away | State::Revoked => &gone,
    };
    NodeInfo {
        name: node.row.name.clone(),
        id: node.id.to_string(),
        fingerprint: node.row.key.fingerprint().to_string(),
        kind: node.row.kind,
        state: match node.state {
            State::Pending => NodeState::Pending,
            State::Joined => NodeState::Joined,
            State::Away => NodeState::Away,
            State::Revoked => NodeState::Revoked,
        },
        drained: node.row.drained || node.stopping,
        controller: node.controller,
        seconds: Some(now.monotonic.saturating_sub(node.since).as_secs()),
        address: node.source.map(|source| source.to_canonical().to_string()),
        model: node.row.model.clone(),
        engines: (report.engines_wanted > 0).then_some(EngineCount {
            running: report.engines_running,
            wanted: report.engines_wanted,
        }),
        problem: report.problem.clone(),
        load: report.load,
        temperature: report.temperature,
        power: report.power,
        versions: report.versions.clone(),
        differences,
    }
}
