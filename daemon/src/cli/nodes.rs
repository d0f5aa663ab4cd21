//! `piparallel nodes` and `piparallel pending`: who belongs to the pool, and who would like to.

use anyhow::Context as _;
use piparallel_core::join::message::{Kind, Power};

use super::exit::Exit;
use super::options::ServiceOptions;
use super::printable;
use crate::control::Command;
use crate::control::nodes::{NodeInfo, NodeState, Nodes};

/// # Errors
/// The service does not answer, or is not the controller.
pub fn run(service: &ServiceOptions) -> anyhow::Result<Exit> {
    show(service, |_| true, table)
}

/// # Errors
/// See [`run`].
pub fn run_pending(service: &ServiceOptions) -> anyhow::Result<Exit> {
    let is_pending = |node: &NodeInfo| node.state == NodeState::Pending;
    show(service, is_pending, pending_table)
}

fn show(
    service: &ServiceOptions,
    is_shown: fn(&NodeInfo) -> bool,
    text: fn(&Nodes) -> String,
) -> anyhow::Result<Exit> {
    let answer = service.ask(Command::Nodes)?;
    let mut nodes: Nodes =
        serde_json::from_value(answer).context("the answer of the service cannot be read")?;
    nodes.nodes.retain(is_shown);
    let text = match service.json {
        true => format!("{}\n", serde_json::to_string_pretty(&nodes)?),
        false => text(&nodes),
    };
    super::print(&text);
    Ok(Exit::Success)
}

fn table(nodes: &Nodes) -> String {
    let head = [
        "NAME", "STATE", "MODEL", "ADDRESS", "ENGINES", "LOAD", "TEMP", "REMARKS",
    ];
    let mut lines = vec![head.map(str::to_owned)];
    lines.extend(nodes.nodes.iter().map(line));
    let mut text = super::columns(&lines);
    if let Some(pairing) = nodes.pairing {
        text.push_str(&format!(
            "\nWhoever comes within {} s is let in, {} at most.\n",
            pairing.seconds_left, pairing.admissions_left
        ));
    }
    text
}

fn line(node: &NodeInfo) -> [String; 8] {
    let or_none = |text: Option<String>| text.map_or_else(|| "-".to_owned(), |t| printable(&t));
    let state = format!("{:?}", node.state).to_lowercase();
    [
        printable(&node.name),
        match (node.drained, node.kind) {
            (true, _) => format!("{state}, drained"),
            (false, Kind::Client) => format!("{state}, laptop"),
            (false, Kind::Node) => state,
        },
        or_none(node.model.clone()),
        or_none(node.address.clone()),
        or_none(
            node.engines
                .map(|e| format!("{} of {}", e.running, e.wanted)),
        ),
        or_none(node.load.map(|load| format!("{load:.2}"))),
        or_none(node.temperature.map(|celsius| format!("{celsius:.0} °C"))),
        printable(&remarks(node).join("; ")),
    ]
}

fn remarks(node: &NodeInfo) -> Vec<String> {
    let mut remarks = Vec::new();
    if node.controller {
        remarks.push("controller".to_owned());
    }
    if node.state == NodeState::Pending {
        remarks.push(format!("piparallel approve {}", node.fingerprint));
    }
    let power = power_words(node.power.unwrap_or_default());
    remarks.extend(power.into_iter().map(str::to_owned));
    remarks.extend(node.differences.iter().cloned());
    remarks.extend(node.problem.clone());
    remarks
}

fn power_words(power: Power) -> Vec<&'static str> {
    let voltage = match (power.under_voltage, power.had_under_voltage) {
        (true, _) => Some("under-voltage"),
        (false, true) => Some("had under-voltage"),
        (false, false) => None,
    };
    let clock = match (power.throttled, power.was_throttled) {
        (true, _) => Some("throttled"),
        (false, true) => Some("was throttled"),
        (false, false) => None,
    };
    voltage.into_iter().chain(clock).collect()
}

fn pending_table(nodes: &Nodes) -> String {
    if nodes.nodes.is_empty() {
        return "Nobody waits to be let in.\n".to_owned();
    }
    let mut lines = vec![["FINGERPRINT", "NAME", "WHAT", "ADDRESS", "FOR"].map(str::to_owned)];
    for node in &nodes.nodes {
        lines.push([
            node.fingerprint.clone(),
            printable(&node.name),
            match node.kind {
                Kind::Client => "laptop".to_owned(),
                Kind::Node => "node".to_owned(),
            },
            printable(node.address.as_deref().unwrap_or("-")),
            node.seconds.map_or("-".to_owned(), |s| format!("{s} s")),
        ]);
    }
    super::columns(&lines)
        + "\nCompare the fingerprint with the one that the node shows, then: piparallel approve FINGERPRINT\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::nodes::EngineCount;

    fn node() -> NodeInfo {
        NodeInfo {
            name: "pi-1".to_owned(),
            id: "00".repeat(16),
            fingerprint: "K7QM-2FXD".to_owned(),
            kind: Kind::Node,
            state: NodeState::Joined,
            drained: false,
            controller: false,
            seconds: Some(5),
            address: Some("10.0.0.7".to_owned()),
            model: Some("Raspberry Pi 4".to_owned()),
            engines: Some(EngineCount {
                running: 3,
                wanted: 4,
            }),
            problem: None,
            load: Some(1.5),
            temperature: Some(61.3),
            power: Some(Power {
                under_voltage: true,
                was_throttled: true,
                ..Power::default()
            }),
            versions: std::collections::BTreeMap::new(),
            differences: vec!["numpy 1.26, pool 2.1".to_owned()],
        }
    }

    fn nodes(nodes: Vec<NodeInfo>) -> Nodes {
        Nodes {
            pool: "p".to_owned(),
            pairing: None,
            nodes,
        }
    }

    #[test]
    fn a_line_tells_what_is_wrong_with_a_node() {
        let text = table(&nodes(vec![node()]));
        let line = text.lines().nth(1).unwrap();
        assert!(line.starts_with("pi-1  joined  Raspberry Pi 4  10.0.0.7  3 of 4   1.50  61 °C"));
        assert!(line.ends_with("under-voltage; was throttled; numpy 1.26, pool 2.1"));
    }

    #[test]
    fn a_pending_node_comes_with_the_command_that_lets_it_in() {
        let pending = NodeInfo {
            name: "evil\u{1b}[2J".to_owned(),
            state: NodeState::Pending,
            engines: None,
            ..node()
        };
        let text = table(&nodes(vec![pending.clone()]));
        assert!(text.contains("piparallel approve K7QM-2FXD") && !text.contains('\u{1b}'));
        assert!(pending_table(&nodes(vec![pending])).contains("K7QM-2FXD    evil?[2J"));
        assert!(pending_table(&nodes(vec![])).contains("Nobody"));
    }
}
