//! What to do in each state.

use std::net::SocketAddr;
use std::time::Duration;

use super::{
    Command, HINTS, HOLD_BACK, LISTEN, LISTEN_FORMER, RoleMachine, SETTLE, Sighting, State, Wanted,
    outranks,
};
use crate::discovery::{Announcement, Part};
use crate::ids::NodeId;

impl RoleMachine {
    /// Does what the time and the state ask for.
    pub(super) fn act(&mut self, now: Duration) {
        self.looked = now;
        if !self.is_eligible() || now < self.refused_until {
            if let State::Candidate { .. } = self.state {
                self.state = State::Looking { since: now };
            }
        } else {
            self.stand(now);
        }
        self.announce();
        if self.wants_to_dial() && self.dial_at <= now {
            self.dialing = true;
            let addresses = self.whom_to_ask();
            self.commands.push_back(Command::Dial { addresses });
        }
    }

    /// What leads to becoming the controller.
    fn stand(&mut self, now: Duration) {
        match self.state {
            State::Waiting { since } => {
                let patience = self.config.takeover_after;
                if patience.is_some_and(|patience| since + patience <= now) {
                    self.state = State::Looking { since: now };
                    self.alone_since = now;
                }
            }
            State::Looking { since } if self.stands_at(since) <= now => {
                if self.memory.was_controller && !self.defers(now) {
                    self.become_controller();
                } else if !self.defers_to_a_controller(now) {
                    self.state = State::Candidate { settled: now };
                }
            }
            State::Candidate { settled } => {
                if self.defers_to_a_controller(now) {
                    self.state = State::Looking { since: now };
                } else if settled + SETTLE <= now && !self.defers(now) {
                    self.become_controller();
                }
            }
            State::Looking { .. } | State::Joined { .. } | State::Controlling { .. } => {}
        }
    }

    /// Whether it may become the controller by itself.
    pub(super) fn is_eligible(&self) -> bool {
        self.config.wanted == Wanted::Auto && !self.config.has_static && !self.pending
    }

    /// When one that looks has looked for long enough.
    pub(super) fn stands_at(&self, since: Duration) -> Duration {
        let listen = if self.memory.was_controller {
            LISTEN_FORMER
        } else {
            LISTEN
        };
        (since + listen).max(self.refused_until)
    }

    pub(super) fn become_controller(&mut self) {
        self.memory.epoch += 1;
        self.memory.was_controller = true;
        let epoch = self.memory.epoch;
        self.state = State::Controlling { epoch };
        if std::mem::take(&mut self.dialing) {
            self.commands.push_back(Command::HangUp);
        }
        self.commands.push_back(Command::BecomeController { epoch });
    }

    fn defers(&self, now: Duration) -> bool {
        self.defers_to_a_controller(now) || self.defers_to_a_candidate(now)
    }

    /// Somebody says that it is the controller, and has not said so for long without being found there.
    fn defers_to_a_controller(&self, now: Duration) -> bool {
        now < self.alone_since + HINTS
            && self.controllers().any(|seen| now < seen.since + HOLD_BACK)
    }

    /// Somebody who says that it would be the controller comes first, and has not said so for too long.
    fn defers_to_a_candidate(&self, now: Duration) -> bool {
        let own = self.claim();
        let mut others = self
            .sightings
            .values()
            .filter(|seen| seen.announcement.part == Part::Candidate);
        now < self.alone_since + HINTS
            && others.any(|seen| claim_of(&seen.announcement) < own && now < seen.since + HOLD_BACK)
    }

    /// Who was the controller comes first, the latest of them; then the lowest id.
    fn claim(&self) -> (std::cmp::Reverse<u64>, NodeId) {
        (std::cmp::Reverse(self.former_epoch()), self.config.own)
    }

    fn former_epoch(&self) -> u64 {
        if self.memory.was_controller {
            self.memory.epoch
        } else {
            0
        }
    }

    fn controllers(&self) -> impl Iterator<Item = &Sighting> {
        self.sightings
            .values()
            .filter(|seen| seen.announcement.part == Part::Controller)
    }

    /// Whether there is somebody to ask, and reason to.
    pub(super) fn wants_to_dial(&self) -> bool {
        if self.dialing {
            return false;
        }
        match self.state {
            State::Looking { .. } | State::Candidate { .. } | State::Waiting { .. } => {
                self.config.has_static
                    || self.memory.last.is_some()
                    || self.controllers().next().is_some()
            }
            State::Joined { .. } => false,
            State::Controlling { epoch } => {
                let own = (epoch, self.config.own);
                self.config.wanted == Wanted::Auto
                    && self
                        .controllers()
                        .any(|seen| outranks((seen.announcement.epoch, seen.announcement.id), own))
            }
        }
    }

    /// The controller that it knows first, then those that are seen, the ranking one before others.
    fn whom_to_ask(&self) -> Vec<SocketAddr> {
        let mut seen: Vec<&Sighting> = self.controllers().collect();
        seen.sort_by_key(|seen| (seen.announcement.epoch, seen.announcement.id));
        let last = self
            .memory
            .last
            .iter()
            .filter(|_| self.controlling().is_none());
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for address in last.chain(seen.iter().flat_map(|seen| &seen.addresses)) {
            if !addresses.contains(address) {
                addresses.push(*address);
            }
        }
        addresses
    }

    fn announce(&mut self) {
        let (part, epoch) = match self.state {
            State::Looking { .. } | State::Waiting { .. } => (Part::Looking, self.former_epoch()),
            State::Candidate { .. } => (Part::Candidate, self.former_epoch()),
            State::Joined { .. } => (Part::Engine, self.former_epoch()),
            State::Controlling { epoch } => (Part::Controller, epoch),
        };
        let announcement = Announcement {
            pool: self.config.pool.clone(),
            part,
            id: self.config.own,
            fingerprint: self.config.fingerprint.clone(),
            epoch,
        };
        if self.announced.as_ref() != Some(&announcement) {
            self.announced = Some(announcement.clone());
            self.commands.push_back(Command::Announce(announcement));
        }
    }
}

fn claim_of(announcement: &Announcement) -> (std::cmp::Reverse<u64>, NodeId) {
    (std::cmp::Reverse(announcement.epoch), announcement.id)
}
