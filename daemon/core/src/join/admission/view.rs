//! What people are told of the nodes.

use std::net::IpAddr;
use std::time::Duration;

use super::{Admission, LinkId, NodeRow, Standing};
use crate::ids::NodeId;
use crate::join::message::Report;

/// As people see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// Waits for `piparallel approve`.
    Pending,
    /// Connected now.
    Joined,
    /// Known, and not connected.
    Away,
    Revoked,
}

/// One node.
pub struct NodeView<'a> {
    pub id: NodeId,
    pub row: &'a NodeRow,
    pub state: NodeState,
    pub since: Duration,
    pub source: Option<IpAddr>,
    pub report: &'a Report,
    /// It is this controller.
    pub controller: bool,
    /// It said that it will stop.
    pub stopping: bool,
    /// Where it can be told something.
    pub link: Option<LinkId>,
}

/// An open pairing window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PairingView {
    pub until: Duration,
    pub left: u32,
}

impl Admission {
    /// All nodes, by id.
    pub fn nodes(&self) -> impl Iterator<Item = NodeView<'_>> {
        self.nodes.iter().map(|(id, node)| {
            let controller = self.own == Some(*id);
            NodeView {
                id: *id,
                row: &node.row,
                state: match node.row.standing {
                    Standing::Pending => NodeState::Pending,
                    Standing::Revoked => NodeState::Revoked,
                    Standing::Admitted if node.link.is_some() || controller => NodeState::Joined,
                    Standing::Admitted => NodeState::Away,
                },
                since: node.since,
                source: node
                    .link
                    .and_then(|link| self.links.get(&link))
                    .map(|link| link.source),
                report: &node.report,
                controller,
                stopping: node.stopping,
                link: node.link,
            }
        })
    }

    /// Nodes that belong to the pool and are here, this one among them.
    #[must_use]
    pub fn joined_count(&self) -> u32 {
        let joined = self.nodes().filter(|node| node.state == NodeState::Joined);
        u32::try_from(joined.count()).unwrap_or(u32::MAX)
    }

    #[must_use]
    pub fn pairing(&self) -> Option<PairingView> {
        self.window.as_ref().map(|window| PairingView {
            until: window.until,
            left: window.left,
        })
    }

    /// Attempts that were refused so far.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// How this controller's own node is.
    pub fn report_self(&mut self, report: Report) {
        if let Some(node) = self.own.and_then(|id| self.nodes.get_mut(&id)) {
            node.report = report;
        }
    }
}
