//! The Unix socket by which the command line asks and tells the service of this node.
//!
//! One JSON object a line, each way: a `Request` and then its `Reply`, any number of times. Whoever may
//! open the socket may do everything: it belongs to root and, where there is one, the group `piparallel`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The command line's end.
pub mod client;
/// What is told of nodes.
pub mod nodes;
/// The service's end.
pub mod server;

/// Grows when a request or a reply changes its meaning. Both ends come from one package, so a difference is
/// a service that was not restarted after an update.
pub const VERSION: u32 = 1;

/// The socket's name in the run directory.
pub const SOCKET: &str = "control.sock";

/// Bytes of one line: the nodes of a large pool fit.
const LINE_MAX: u64 = 4 << 20;

#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Request {
    pub version: u32,
    pub command: Command,
}

/// What can be asked. A node is named by its name, its fingerprint, or the beginning of one.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Command {
    /// What this node is, and which controller it belongs to.
    State,
    /// All nodes of the pool.
    Nodes,
    /// Lets a pending node in.
    Approve {
        node: String,
    },
    /// Lets in whoever comes, for a while; 0 minutes: no more.
    Pair {
        minutes: u32,
        count: u32,
    },
    /// Cuts a node off for good.
    Revoke {
        node: String,
    },
    /// Makes a new join key.
    RotateKey,
    /// Blinks a node's light.
    Identify {
        node: String,
    },
    /// Gives a node no more work, or gives it work again.
    Drain {
        node: String,
    },
    Resume {
        node: String,
    },
    /// Ends a node's engines and starts them anew.
    RestartEngines {
        node: String,
    },
    /// Accepts the next controller that knows the join key, whatever its own key is.
    ForgetController,
    /// The key with which laptops fetch the client's connection file.
    ClientKey {
        renew: bool,
    },
}

/// The answer to a request.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    Ok(Value),
    /// One line for a person: the cause, and the remedy.
    Error(String),
}
