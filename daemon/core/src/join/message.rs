//! What nodes and their controller say to each other, as JSON, once their keys are proven.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// A text that no log shows.
#[derive(Clone, Deserialize, Serialize, PartialEq, Eq)]
#[serde(transparent)]
pub struct Private(pub String);

impl fmt::Debug for Private {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Private")
    }
}

/// What somebody is.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A laptop: gets the client's connection file.
    Client,
    /// Runs engines.
    Node,
}

/// A node introduces itself.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(default)]
pub struct Hello {
    pub kind: Kind,
    /// The host's name; not unique.
    pub name: String,
    /// Of the board, as the device tree tells it.
    pub model: Option<String>,
    /// Version of this program.
    pub program: String,
}

impl Default for Hello {
    fn default() -> Self {
        Self {
            kind: Kind::Node,
            name: String::new(),
            model: None,
            program: String::new(),
        }
    }
}

/// How a node is, every few seconds.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(default)]
pub struct Report {
    /// Engines that run, and that shall.
    pub engines_running: u32,
    pub engines_wanted: u32,
    /// Why engines that shall run do not.
    pub problem: Option<String>,
    /// Over one minute.
    pub load: Option<f32>,
    /// °C.
    pub temperature: Option<f32>,
    pub power: Option<Power>,
    /// Of Python and packages, by name.
    pub versions: BTreeMap<String, String>,
}

/// What the board says of its supply.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(default)]
pub struct Power {
    pub under_voltage: bool,
    pub throttled: bool,
    pub had_under_voltage: bool,
    pub was_throttled: bool,
}

/// From a node or a laptop.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(tag = "say", rename_all = "kebab-case")]
pub enum ToController {
    /// The connection lives.
    Alive,
    Hello(Hello),
    /// It stops, and its engines with it.
    Leaving,
    Report(Report),
    /// It will stop: its engines are to get no more work.
    Stopping,
}

/// Why somebody is not let in, for the program on the other side.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalKind {
    /// Another way in may be open.
    NotKnown,
    /// There is no use in asking again.
    Revoked,
    /// Later, perhaps.
    Full,
}

/// From the controller.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(tag = "say", rename_all = "kebab-case")]
pub enum ToNode {
    /// The connection lives.
    Alive,
    /// The client's connection file.
    ClientFile {
        json: Private,
    },
    /// It stops, or hands over.
    Closing {
        reason: String,
    },
    /// Its engines get no more work.
    Drain,
    /// All of its engines have finished what they had and left the pool.
    Drained,
    /// The engine's connection file; replaces the former.
    EngineFile {
        json: Private,
    },
    /// Blink.
    Identify {
        seconds: u32,
    },
    /// The pool's join key, with which the node finds its way to another controller.
    JoinKey {
        key: Private,
    },
    /// Nobody has let it in yet.
    Pending {
        fingerprint: String,
    },
    Refused {
        kind: RefusalKind,
        reason: String,
    },
    RestartEngines,
    Resume,
    /// It belongs to the pool.
    Welcome {
        epoch: u64,
        nodes: u32,
    },
}

impl ToController {
    /// Reads a message; `None` for one that this version does not know, which is no reason to part.
    #[must_use]
    pub fn parse(json: &[u8]) -> Option<Self> {
        serde_json::from_slice(json).ok()
    }

    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

impl ToNode {
    /// Reads a message; `None` for one that this version does not know, which is no reason to part.
    #[must_use]
    pub fn parse(json: &[u8]) -> Option<Self> {
        serde_json::from_slice(json).ok()
    }

    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_way() {
        let hello = ToController::Hello(Hello {
            name: "pi-3".into(),
            ..Hello::default()
        });
        assert_eq!(ToController::parse(&hello.to_json()), Some(hello));
        let file = ToNode::EngineFile {
            json: Private("{}".into()),
        };
        assert_eq!(ToNode::parse(&file.to_json()), Some(file.clone()));
        assert_eq!(format!("{file:?}"), "EngineFile { json: Private }");
    }

    #[test]
    fn news_of_a_later_version_is_passed_over() {
        let later = br#"{"say":"hello","kind":"node","name":"a","colour":"red"}"#;
        assert!(
            matches!(ToController::parse(later), Some(ToController::Hello(h)) if h.name == "a")
        );
        assert_eq!(ToController::parse(br#"{"say":"sing"}"#), None);
        assert_eq!(ToNode::parse(b"\xff"), None);
    }
}
