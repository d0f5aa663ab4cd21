//! What follows from an introduction.

use super::{Admission, Command, LinkId, Node, NodeRow, Stage, Standing, shown};
use crate::clock::Now;
use crate::ids::NodeId;
use crate::join::keys::NodeKey;
use crate::join::message::{Hello, Kind, Private, RefusalKind, ToNode};
use crate::join::opening::Mode;
use crate::limits::{NODES_MAX, PENDING_NODES_MAX};

const REVOKED: &str =
    "this node was revoked; `piparallel approve` on the controller lets it in again";
const NOT_KNOWN: &str = "this controller does not know the node";
const ONLY_NODES: &str = "the join key is for nodes: a laptop needs the client key, or pairs";
const ONLY_CLIENTS: &str = "the client key is for laptops: a node needs the join key, or pairs";
const TOO_MANY: &str =
    "too many wait to be let in: `piparallel pending` on the controller lists them";
const POOL_IS_FULL: &str = "the pool has as many nodes as it can keep: revoke and forget some";

impl Admission {
    /// Somebody whose key is proven says who it is.
    pub(super) fn decide(
        &mut self,
        now: Now,
        link: LinkId,
        mode: Mode,
        key: NodeKey,
        hello: Hello,
    ) {
        let id = key.id();
        let standing = self.nodes.get(&id).map(|node| node.row.standing);
        let kind = hello.kind;
        if standing == Some(Standing::Revoked) {
            return self.refuse(now, link, RefusalKind::Revoked, REVOKED);
        }
        if standing == Some(Standing::Admitted) {
            return self.join(now, link, id, &hello);
        }
        match (mode, kind) {
            (Mode::JoinKey, Kind::Client) => {
                self.refuse(now, link, RefusalKind::NotKnown, ONLY_NODES)
            }
            (Mode::ClientKey, Kind::Node) => {
                self.refuse(now, link, RefusalKind::NotKnown, ONLY_CLIENTS)
            }
            (Mode::Known, _) => self.refuse(now, link, RefusalKind::NotKnown, NOT_KNOWN),
            (Mode::JoinKey, Kind::Node) | (Mode::ClientKey, Kind::Client) => {
                self.admit_new(now, link, key, &hello);
            }
            (Mode::Pair, _) if self.window_admits(now) => self.admit_new(now, link, key, &hello),
            (Mode::Pair, _) => self.keep_pending(now, link, key, &hello),
        }
    }

    /// Uses up one admission of an open window.
    fn window_admits(&mut self, now: Now) -> bool {
        let Some(window) = &mut self.window else {
            return false;
        };
        let admits = window.until > now.monotonic && window.left > 0;
        window.left = window.left.saturating_sub(u32::from(admits));
        if window.left == 0 {
            self.window = None;
        }
        admits
    }

    fn admit_new(&mut self, now: Now, link: LinkId, key: NodeKey, hello: &Hello) {
        let id = key.id();
        if !self.nodes.contains_key(&id) && self.nodes.len() >= NODES_MAX {
            return self.refuse(now, link, RefusalKind::Full, POOL_IS_FULL);
        }
        self.warn_of_namesake(now, id, hello);
        self.note_row(now, key, hello, Standing::Pending);
        self.admit(now, id);
        self.join(now, link, id, hello);
    }

    /// A node of that name with another key is a card that was flashed anew, or somebody who wants to look
    /// like it.
    fn warn_of_namesake(&mut self, now: Now, id: NodeId, hello: &Hello) {
        let (name, _) = shown(hello);
        let mut others = self.nodes.values().filter(|node| node.row.name == name);
        if let Some(other) =
            others.find(|node| node.row.key.id() != id && node.row.standing == Standing::Admitted)
        {
            let former = other.row.key.fingerprint();
            self.complaints.warn(now.monotonic, "namesake", || {
                format!(
                    "a node that calls itself {name} joined with another key than the {name} that is known: if its \
                     card was flashed anew, `piparallel revoke {former}` removes the former"
                )
            });
        }
    }

    fn keep_pending(&mut self, now: Now, link: LinkId, key: NodeKey, hello: &Hello) {
        let id = key.id();
        if !self.nodes.contains_key(&id) && !self.make_room_for_pending() {
            return self.refuse(now, link, RefusalKind::Full, TOO_MANY);
        }
        self.note_row(now, key, hello, Standing::Pending);
        self.attach(now, link, id);
        let fingerprint = key.fingerprint().to_string();
        let name = &self.nodes[&id].row.name;
        log::info!(
            "{name} ({fingerprint}) wants to join: `piparallel approve {fingerprint}` lets it in"
        );
        self.commands.push_back(Command::Send {
            link,
            message: ToNode::Pending { fingerprint },
        });
    }

    /// Forgets a pending node that is not connected, if there are too many.
    fn make_room_for_pending(&mut self) -> bool {
        let pending = || {
            self.nodes
                .iter()
                .filter(|(_, node)| node.row.standing == Standing::Pending)
        };
        if pending().count() < PENDING_NODES_MAX {
            return true;
        }
        let away = pending().filter(|(_, node)| node.link.is_none());
        let Some(oldest) = away.min_by_key(|(_, node)| node.since).map(|(id, _)| *id) else {
            return false;
        };
        self.nodes.remove(&oldest);
        self.commands.push_back(Command::Forget(oldest));
        true
    }

    fn note_row(&mut self, now: Now, key: NodeKey, hello: &Hello, standing: Standing) {
        let (name, model) = shown(hello);
        let row = NodeRow {
            key,
            kind: hello.kind,
            name,
            model,
            standing,
            drained: false,
            engine_key: None,
        };
        let node = self
            .nodes
            .entry(key.id())
            .or_insert_with(|| Node::new(row.clone(), now.monotonic));
        node.row = row;
        self.commands.push_back(Command::Save(node.row.clone()));
    }

    /// From now on it belongs to the pool.
    pub(super) fn admit(&mut self, now: Now, id: NodeId) {
        let key = self.make_key();
        let Some(node) = self.nodes.get_mut(&id) else {
            return;
        };
        node.row.standing = Standing::Admitted;
        node.since = now.monotonic;
        if node.row.kind == Kind::Node {
            node.row.engine_key = Some(key);
        }
        self.commands.push_back(Command::Save(node.row.clone()));
        self.tell_engine_keys();
    }

    /// A node that belongs to the pool is connected.
    fn join(&mut self, now: Now, link: LinkId, id: NodeId, hello: &Hello) {
        self.attach(now, link, id);
        if let Some(node) = self.nodes.get_mut(&id) {
            let (name, model) = shown(hello);
            if (&node.row.name, &node.row.model) != (&name, &model) {
                (node.row.name, node.row.model) = (name, model);
                self.commands.push_back(Command::Save(node.row.clone()));
            }
        }
        self.welcome(link, id);
    }

    /// What a node gets when it belongs to the pool.
    pub(super) fn welcome(&mut self, link: LinkId, id: NodeId) {
        let nodes = self.joined_count();
        let Some(node) = self.nodes.get(&id) else {
            return;
        };
        log::info!("{} joined", node.row.name);
        let message = ToNode::Welcome {
            epoch: self.epoch,
            nodes,
        };
        self.commands.push_back(Command::Send { link, message });
        match (node.row.kind, node.row.engine_key.clone()) {
            (Kind::Client, _) => self
                .commands
                .push_back(Command::AdmittedClient { link, node: id }),
            (Kind::Node, Some(engine_key)) => {
                let key = Private(self.config.join_key.to_text());
                self.commands.push_back(Command::Send {
                    link,
                    message: ToNode::JoinKey { key },
                });
                self.commands.push_back(Command::AdmittedNode {
                    link,
                    node: id,
                    engine_key,
                });
                if node.row.drained {
                    self.commands.push_back(Command::Send {
                        link,
                        message: ToNode::Drain,
                    });
                }
            }
            (Kind::Node, None) => {}
        }
    }

    /// Ties a connection to its node. The newest one counts: the former is that of a process that is gone.
    fn attach(&mut self, now: Now, link: LinkId, id: NodeId) {
        let former = self.nodes.get(&id).and_then(|node| node.link);
        if let Some(former) = former.filter(|former| *former != link) {
            self.close(now, former, "the node has connected anew");
        }
        if let Some(entry) = self.links.get_mut(&link) {
            entry.stage = Stage::Known(id);
            entry.heard = now.monotonic;
        }
        if let Some(node) = self.nodes.get_mut(&id) {
            node.link = Some(link);
            node.since = now.monotonic;
        }
    }

    fn refuse(&mut self, now: Now, link: LinkId, kind: RefusalKind, why: &str) {
        let source = self.links.get(&link).map(|link| link.source);
        if let Some(source) = source {
            self.note_refusal(now, source, why);
        }
        let message = ToNode::Refused {
            kind,
            reason: why.to_owned(),
        };
        self.commands.push_back(Command::Send { link, message });
        self.close(now, link, why);
    }
}
