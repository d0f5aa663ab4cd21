//! What people tell the pool about its nodes.

use std::time::Duration;

use thiserror::Error;

use super::{Admission, Command, Standing, Window};
use crate::clock::Now;
use crate::ids::NodeId;
use crate::join::keys::SharedKey;
use crate::join::message::{Kind, Private, RefusalKind, ToNode};

/// Why an order cannot be carried out: the cause and the remedy.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum OperatorError {
    #[error("{0} belongs to the pool already")]
    AlreadyAdmitted(String),
    #[error("{0} is not connected; it can be told when it is back")]
    Away(String),
    #[error("{0} is this controller")]
    Controller(String),
    #[error(
        "no node is called {0}, nor does a fingerprint begin with it: `piparallel nodes` lists all"
    )]
    NotFound(String),
    #[error("{0} does not belong to the pool")]
    NotAdmitted(String),
    #[error("{0} runs no engines")]
    NoEngines(String),
    #[error("{name} is the name of {}: name one of these fingerprints", fingerprints.join(" and "))]
    Several {
        name: String,
        fingerprints: Vec<String>,
    },
}

impl Admission {
    /// The node that a text names: its name, or the beginning of its fingerprint or id.
    ///
    /// # Errors
    /// There is none, or there are several.
    pub fn select(&self, text: &str) -> Result<NodeId, OperatorError> {
        let named = self.nodes.iter().filter(|(_, node)| node.row.name == text);
        let mut found: Vec<NodeId> = named.map(|(id, _)| *id).collect();
        if found.is_empty() && !text.is_empty() {
            let begins = self.nodes.iter().filter(|(id, node)| {
                node.row.key.fingerprint().starts_with(text) || id.to_string().starts_with(text)
            });
            found = begins.map(|(id, _)| *id).collect();
        }
        match found[..] {
            [] => Err(OperatorError::NotFound(text.to_owned())),
            [one] => Ok(one),
            _ => {
                let fingerprints = found.iter().filter_map(|id| self.nodes.get(id));
                let fingerprints = fingerprints.map(|node| node.row.key.fingerprint().to_string());
                Err(OperatorError::Several {
                    name: text.to_owned(),
                    fingerprints: fingerprints.collect(),
                })
            }
        }
    }

    /// Lets a node in that waits for it, or that was revoked.
    ///
    /// # Errors
    /// It is not there, or in already.
    pub fn approve(&mut self, now: Now, id: NodeId) -> Result<(), OperatorError> {
        let (name, standing, link) = self.known(id)?;
        if standing == Standing::Admitted {
            return Err(OperatorError::AlreadyAdmitted(name));
        }
        self.admit(now, id);
        if let Some(link) = link {
            self.welcome(link, id);
        }
        Ok(())
    }

    /// Lets in whoever comes without a key, for a while: those that wait already, then so many more.
    pub fn open_window(&mut self, now: Now, time: Duration, admissions: u32) {
        let waiting = self
            .nodes
            .iter()
            .filter(|(_, node)| node.row.standing == Standing::Pending && node.link.is_some());
        let waiting: Vec<NodeId> = waiting
            .map(|(id, _)| *id)
            .take(admissions as usize)
            .collect();
        for id in &waiting {
            // It is pending, so it can be let in.
            let _ = self.approve(now, *id);
        }
        let left = admissions - u32::try_from(waiting.len()).unwrap_or(admissions);
        self.window = (left > 0).then_some(Window {
            until: now.monotonic + time,
            left,
        });
    }

    pub fn close_window(&mut self) {
        self.window = None;
    }

    /// Cuts a node off, and its engines.
    ///
    /// # Errors
    /// It is not there, or it is the controller.
    pub fn revoke(&mut self, now: Now, id: NodeId) -> Result<(), OperatorError> {
        let (name, _, link) = self.known(id)?;
        if self.own == Some(id) {
            return Err(OperatorError::Controller(name));
        }
        if let Some(node) = self.nodes.get_mut(&id) {
            node.row.standing = Standing::Revoked;
            node.row.engine_key = None;
            node.since = now.monotonic;
            self.commands.push_back(Command::Save(node.row.clone()));
        }
        self.tell_engine_keys();
        self.commands.push_back(Command::Left { node: id });
        if let Some(link) = link {
            let reason = "an operator revoked this node".to_owned();
            let message = ToNode::Refused {
                kind: RefusalKind::Revoked,
                reason,
            };
            self.commands.push_back(Command::Send { link, message });
            self.close(now, link, "revoked");
        }
        Ok(())
    }

    /// Replaces the join key, and tells it to every node that is here; others get it when they come back.
    pub fn rotate_join_key(&mut self, key: SharedKey) {
        self.config.join_key = key;
        let links = self
            .nodes
            .values()
            .filter(|node| node.row.standing == Standing::Admitted && node.row.kind == Kind::Node);
        for link in links.filter_map(|node| node.link) {
            let key = Private(self.config.join_key.to_text());
            self.commands.push_back(Command::Send {
                link,
                message: ToNode::JoinKey { key },
            });
        }
    }

    /// Replaces the client key. Laptops that have joined stay in.
    pub fn rotate_client_key(&mut self, key: SharedKey) {
        self.config.client_key = key;
    }

    /// Gives a node no more work, or work again.
    ///
    /// # Errors
    /// It is not there, does not belong to the pool, or has no engines.
    pub fn set_drained(&mut self, id: NodeId, drained: bool) -> Result<(), OperatorError> {
        let (name, standing, _) = self.known(id)?;
        if standing != Standing::Admitted {
            return Err(OperatorError::NotAdmitted(name));
        }
        let Some(node) = self
            .nodes
            .get_mut(&id)
            .filter(|node| node.row.kind == Kind::Node)
        else {
            return Err(OperatorError::NoEngines(name));
        };
        node.row.drained = drained;
        self.commands.push_back(Command::Save(node.row.clone()));
        if let Some(link) = node.link {
            let message = if drained {
                ToNode::Drain
            } else {
                ToNode::Resume
            };
            self.commands.push_back(Command::Send { link, message });
        }
        Ok(())
    }

    /// Tells a node something, now.
    ///
    /// # Errors
    /// It is not there, not connected, or it can't do that.
    pub fn tell(&mut self, id: NodeId, message: ToNode) -> Result<(), OperatorError> {
        let (name, standing, link) = self.known(id)?;
        let link = link
            .filter(|_| standing == Standing::Admitted)
            .ok_or(OperatorError::Away(name))?;
        self.ensure_applies(id, &message)?;
        self.commands.push_back(Command::Send { link, message });
        Ok(())
    }

    /// That a node can do as it is told, by what it has reported of itself.
    ///
    /// # Errors
    /// It is not there, or can't.
    pub fn ensure_applies(&self, id: NodeId, message: &ToNode) -> Result<(), OperatorError> {
        let (name, _, _) = self.known(id)?;
        let wanted = self.nodes.get(&id).map(|node| node.report.engines_wanted);
        match message {
            ToNode::RestartEngines if wanted == Some(0) => Err(OperatorError::NoEngines(name)),
            _ => Ok(()),
        }
    }

    fn known(
        &self,
        id: NodeId,
    ) -> Result<(String, Standing, Option<super::LinkId>), OperatorError> {
        let node = self
            .nodes
            .get(&id)
            .ok_or_else(|| OperatorError::NotFound(id.to_string()))?;
        Ok((node.row.name.clone(), node.row.standing, node.link))
    }
}
