//! How far the tasks are that another task depends on: counts instead of sets.
//!
//! Every task of a dependency ends once, either as the dependency wants (it is *met*) or the other
//! way (it is *opposed*). With both outcomes wanted nothing is opposed.

use std::collections::BTreeSet;

use super::engines::{EngineKey, Engines};
use super::finished::Ended;
use super::request::Dependency;

/// What a task waits with: its start, or its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    After,
    Follow,
}

#[derive(Debug, Default)]
pub(super) struct Progress {
    all: bool,
    success: bool,
    failure: bool,
    total: u32,
    met: u32,
    opposed: u32,
}

impl Progress {
    pub(super) fn new(dependency: &Dependency<'_>, total: usize) -> Self {
        Self {
            all: dependency.all,
            success: dependency.success,
            failure: dependency.failure,
            total: total as u32,
            met: 0,
            opposed: 0,
        }
    }

    /// Counts one task that ended; true if it counts towards the goal.
    pub(super) fn count(&mut self, success: bool) -> bool {
        let wanted = if success { self.success } else { self.failure };
        if wanted {
            self.met += 1;
        } else {
            self.opposed += 1;
        }
        wanted
    }

    pub(super) fn is_empty(&self) -> bool {
        self.total == 0
    }

    pub(super) fn wants_all(&self) -> bool {
        self.all
    }

    pub(super) fn is_met(&self) -> bool {
        self.met == self.total || (!self.all && self.met > 0)
    }

    pub(super) fn is_unreachable(&self) -> bool {
        self.opposed > 0 && (self.all || self.opposed == self.total)
    }

    /// Are there tasks that have not ended.
    pub(super) fn is_open(&self) -> bool {
        self.met + self.opposed < self.total
    }
}

/// Where the tasks to follow ran.
#[derive(Debug, Default)]
pub(super) struct Followed {
    pub(super) progress: Progress,
    /// Engines that ended a wanted task, also those that have left since.
    engines: BTreeSet<EngineKey>,
    /// A wanted task ended on no engine at all.
    nowhere: bool,
}

/// What `follow` says about the place of a task.
pub(super) enum Homes {
    /// Nothing: there is nothing to follow.
    Any,
    /// It is to run on one of these.
    On(Vec<EngineKey>),
    /// No engine can be the right one; true if they are several rather than gone.
    Nowhere { scattered: bool },
}

impl Followed {
    pub(super) fn new(progress: Progress) -> Self {
        Self {
            progress,
            ..Self::default()
        }
    }

    /// Counts one task that ended; true if the choice of engines changed.
    pub(super) fn count(&mut self, ended: Ended) -> bool {
        self.progress.count(ended.success)
            && match ended.engine {
                Some(engine) => self.engines.insert(engine),
                None => !std::mem::replace(&mut self.nowhere, true),
            }
    }

    pub(super) fn homes(&self, engines: &Engines) -> Homes {
        if self.progress.is_empty() {
            return Homes::Any;
        }
        if self.progress.wants_all() && self.engines.len() > 1 {
            return Homes::Nowhere { scattered: true };
        }
        let gone = self.progress.wants_all() && self.nowhere;
        let alive = self.engines.iter().filter(|key| engines.contains(**key));
        let alive: Vec<EngineKey> = alive.copied().collect();
        let hopeless = if self.progress.wants_all() {
            alive.len() < self.engines.len()
        } else {
            alive.is_empty() && !self.progress.is_open()
        };
        if gone || hopeless {
            Homes::Nowhere { scattered: false }
        } else {
            Homes::On(alive)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After three tasks ended well and two badly, of `total`.
    fn progress(all: bool, success: bool, failure: bool, total: usize) -> Progress {
        let dependency = Dependency {
            ids: Vec::new(),
            all,
            success,
            failure,
        };
        let mut progress = Progress::new(&dependency, total);
        for ended in [true, true, true, false, false] {
            progress.count(ended);
        }
        progress
    }

    fn state(progress: &Progress) -> (bool, bool) {
        (progress.is_met(), progress.is_unreachable())
    }

    #[test]
    fn all_of_them_and_one_of_them() {
        assert_eq!(state(&progress(true, true, false, 5)), (false, true));
        assert_eq!(state(&progress(false, true, false, 5)), (true, false));
        assert_eq!(state(&progress(true, false, true, 5)), (false, true));
        assert_eq!(state(&progress(false, false, true, 5)), (true, false));
        assert_eq!(state(&progress(true, true, true, 5)), (true, false));
        assert_eq!(state(&progress(true, true, true, 6)), (false, false));
        assert_eq!(state(&progress(false, true, true, 6)), (true, false));
    }

    #[test]
    fn nothing_is_met_and_only_wrong_ends_are_unreachable() {
        assert_eq!(state(&Progress::default()), (true, false));
        let dependency = Dependency {
            all: false,
            ..Dependency::default()
        };
        let mut any = Progress::new(&dependency, 2);
        any.count(false);
        assert_eq!((state(&any), any.is_open()), ((false, false), true));
        any.count(false);
        assert_eq!((state(&any), any.is_open()), ((false, true), false));
    }
}
