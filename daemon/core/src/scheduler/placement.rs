//! Where a task may run now: what it asks for, less the engines it is not to meet again.

use super::dependency::Homes;
use super::engines::{EngineKey, Engines};
use super::failure::Impossible;
use super::job::Demands;
use super::waiting::Place;
use crate::ids::MsgId;

/// What to do with a task that is not running.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Keep it until tasks that it depends on have ended.
    Blocked,
    /// It can never run.
    Impossible(Impossible),
    /// It may run here.
    Ready(Place),
}

impl Demands {
    /// Judges the task anew. `cause` is the task whose end made it necessary, if that was it.
    pub(super) fn judge(&mut self, engines: &Engines, cause: Option<&MsgId>) -> Verdict {
        if self.after.is_unreachable() || self.follow.progress.is_unreachable() {
            return Verdict::Impossible(Impossible::EndedOtherwise(cause.cloned()));
        }
        let homes = match self.follow.homes(engines) {
            Homes::Any => None,
            Homes::On(keys) => Some(keys),
            Homes::Nowhere { scattered: true } => {
                return Verdict::Impossible(Impossible::FollowedScattered);
            }
            Homes::Nowhere { scattered: false } => {
                return Verdict::Impossible(Impossible::FollowedGone);
            }
        };
        if self.targets.as_ref().is_some_and(|keys| keys.is_empty()) {
            return Verdict::Impossible(Impossible::NoTarget);
        }
        if !self.after.is_met() || !self.follow.progress.is_met() {
            return Verdict::Blocked;
        }
        self.refused.retain(|key| engines.contains(*key));
        self.failed.retain(|key| engines.contains(*key));
        let Some(targets) = &self.targets else {
            return match homes {
                Some(homes) => self.among(homes),
                None => Verdict::Ready(self.anywhere(engines.len())),
            };
        };
        let alive: Vec<EngineKey> = targets
            .iter()
            .copied()
            .filter(|key| engines.contains(*key))
            .collect();
        match homes {
            _ if alive.is_empty() => Verdict::Impossible(Impossible::NoTarget),
            Some(homes) => {
                let both = homes.into_iter().filter(|k| targets.contains(k));
                self.among(both.collect())
            }
            // The list itself, shared instead of copied: what a view sends with every task.
            None if alive.len() == targets.len() && self.avoids_nothing() => {
                Verdict::Ready(Place::Only(targets.clone()))
            }
            None => self.among(alive),
        }
    }

    /// In a pool of so many engines, any of which will do.
    fn anywhere(&mut self, pool: usize) -> Place {
        if self.avoids_nothing() {
            return Place::Anywhere;
        }
        let willing = pool - self.refused.len();
        // Who set a timeout has said how long to wait for an engine that has not failed yet.
        if self.timeout.is_none() && willing > 0 && self.avoided().len() == pool {
            self.forgive(willing);
        }
        Place::all_but(self.avoided())
    }

    /// On one of these engines, in ascending order; no other will do.
    fn among(&mut self, allowed: Vec<EngineKey>) -> Verdict {
        // With `all=False`, tasks to follow that have not ended may yet bring in more engines.
        let hopeless = |why| match self.follow.progress.is_open() {
            true => Verdict::Blocked,
            false => Verdict::Impossible(why),
        };
        if allowed.is_empty() {
            return hopeless(Impossible::FollowedElsewhere);
        }
        let mut willing = allowed;
        willing.retain(|key| !self.refused.contains(key));
        if willing.is_empty() {
            return hopeless(Impossible::Refused);
        }
        if willing.iter().all(|key| self.failed.contains(key)) {
            self.forgive(willing.len());
        }
        willing.retain(|key| !self.failed.contains(key));
        Verdict::Ready(Place::Only(willing.into()))
    }

    /// Every engine has failed the task: begins a new round, with the one that failed it last left
    /// out unless it is the only one.
    fn forgive(&mut self, willing: usize) {
        let last = self.failed.pop();
        self.failed.clear();
        self.failed.extend(last.filter(|_| willing > 1));
    }

    fn avoids_nothing(&self) -> bool {
        self.refused.is_empty() && self.failed.is_empty()
    }

    fn avoided(&self) -> Vec<EngineKey> {
        let mut keys = [&self.refused[..], &self.failed].concat();
        keys.sort_unstable();
        keys.dedup();
        keys
    }
}
