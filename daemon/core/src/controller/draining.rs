//! Nodes whose engines take no more work: what runs is finished, then they leave.
//!
//! A node is known here by the CURVE key that all of its engines use. While it is drained, its engines get no
//! task and no direct request; each leaves as soon as it has answered what it had, and comes back by its next
//! heartbeat when the node is resumed. How long that may take is the node's affair: it ends its engines.

use std::collections::BTreeMap;

use super::engines::{Departure, Engine};
use super::{Command, Controller};
use crate::clock::Now;
use crate::ids::EngineId;
use crate::wire::zmtp::PublicKey;

/// The keys of drained nodes, and whether it was told that no engine is left.
#[derive(Debug, Default)]
pub(super) struct Draining(BTreeMap<PublicKey, bool>);

impl Draining {
    pub(super) fn contains(&self, engine: &Engine) -> bool {
        let key = engine.curve_key.as_ref();
        key.is_some_and(|key| self.0.contains_key(key))
    }

    pub(super) fn contains_key(&self, key: Option<PublicKey>) -> bool {
        key.is_some_and(|key| self.0.contains_key(&key))
    }
}

impl Controller {
    /// Begins or ends the draining of a node.
    pub(super) fn handle_drain(&mut self, now: Now, curve_key: PublicKey, is_drained: bool) {
        match is_drained {
            true => self.draining.0.insert(curve_key, false),
            false => self.draining.0.remove(&curve_key),
        };
        let touched: Vec<EngineId> = self
            .engines
            .iter()
            .filter(|engine| engine.curve_key == Some(curve_key))
            .map(|engine| engine.id)
            .collect();
        for id in touched {
            self.offer(now, id);
            self.complete_if_connected(now, id);
        }
    }

    /// Lets engines of drained nodes go that have nothing left to do.
    pub(super) fn dismiss_drained(&mut self, now: Now) {
        let waiting = self.draining.0.iter().filter(|(_, is_told)| !**is_told);
        let keys: Vec<PublicKey> = waiting.map(|(key, _)| *key).collect();
        for key in keys {
            let engines = self.engines.iter();
            let known = engines.filter(|e| e.curve_key == Some(key) && !e.is_pending());
            let known: Vec<(EngineId, bool)> = known
                .map(|e| (e.id, e.is_registered() && self.is_idle(e)))
                .collect();
            if known.is_empty() {
                self.draining.0.insert(key, true);
                self.commands.push_back(Command::Drained { curve_key: key });
            }
            for (id, _) in known.into_iter().filter(|(_, is_idle)| *is_idle) {
                self.engine_leaves(now, id, Departure::Drained);
            }
        }
    }

    fn is_idle(&self, engine: &Engine) -> bool {
        engine.queue.is_empty() && self.scheduler.running_on(&engine.uuid).next().is_none()
    }
}
