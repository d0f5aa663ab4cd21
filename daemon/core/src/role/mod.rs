//! Which node is the controller: one machine on each node, fed with what it sees on the network and with what
//! its join channel proves.
//!
//! | state       | means                                               | leaves it by                                    |
//! |-------------|-----------------------------------------------------|-------------------------------------------------|
//! | looking     | listens for a controller, and asks those it sees    | joined; nobody there for a while → candidate    |
//! | candidate   | says that it would be the controller                | sees a controller → looking; the best candidate after a settled while → controlling |
//! | joined      | belongs to a controller                             | the connection ends → waiting                   |
//! | waiting     | dials its controller again, and any other           | joined; patience is over → looking              |
//! | controlling | is the controller                                   | another one that outranks it is proven → looking|
//!
//! What is seen is a hint. It decides whom to ask, and lets a candidate hold back for a while; only the join
//! channel makes a node belong to somebody, or a controller give way. So a forged announcement can at worst
//! delay an election, and not for ever: who claims to be there and does not answer is passed over.
//!
//! Of two controllers the one with the lower epoch stays, then the one with the lower id: the pool's first
//! controller is the one that laptops and engines know. Both sides compare the same two pairs, so they never
//! both give way.
//!
//! The simulation in `tests/roles` plays pools of these.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::discovery::{Announcement, Part};
use crate::ids::NodeId;
use crate::limits::SIGHTINGS_MAX;

/// What to do in each state.
mod steps;

/// The role that a node was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    Auto,
    Controller,
    Engine,
}

/// What is to be kept over restarts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Memory {
    /// Where the controller is that it belonged to last.
    pub last: Option<SocketAddr>,
    /// It was the controller itself.
    pub was_controller: bool,
    /// The highest epoch that was proven to it, or its own.
    pub epoch: u64,
}

/// What a machine runs with.
#[derive(Clone, Debug)]
pub struct Config {
    pub own: NodeId,
    pub pool: String,
    pub fingerprint: String,
    pub wanted: Wanted,
    /// A controller is named in the options, so there is one.
    pub has_static: bool,
    pub memory: Memory,
    /// How long a controller that is gone is waited for; `None`: for ever.
    pub takeover_after: Option<Duration>,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Nobody that was asked let it in; why, for people. `refused`: somebody is there and said no.
    DialFailed { why: String, refused: bool },
    /// An instance is not announced any more.
    Gone { instance: String },
    /// A controller let it in.
    Joined {
        controller: NodeId,
        epoch: u64,
        address: SocketAddr,
    },
    /// The connection to the controller ended.
    Lost,
    /// The network has changed.
    LinksChanged,
    /// A controller would let it in if somebody approved it.
    Pending,
    Sighted {
        instance: String,
        announcement: Announcement,
        addresses: Vec<SocketAddr>,
    },
}

/// What the caller must do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    Announce(Announcement),
    /// Serve the pool. The epoch is to be saved first.
    BecomeController {
        epoch: u64,
    },
    /// Ask these, and the controller that the options name, to be let in, until one does. While it is the
    /// controller itself: to learn whom it would give way to.
    Dial {
        addresses: Vec<SocketAddr>,
    },
    /// Give up a connection to a controller.
    HangUp,
    /// Another one is the controller: stop serving.
    StepDown {
        to: NodeId,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Looking { since: Duration },
    Candidate { settled: Duration },
    Joined { controller: NodeId },
    Waiting { since: Duration },
    Controlling { epoch: u64 },
}

struct Sighting {
    announcement: Announcement,
    addresses: Vec<SocketAddr>,
    /// When it was first seen to say this.
    since: Duration,
}

/// The machine. See the module.
pub struct RoleMachine {
    config: Config,
    state: State,
    sightings: BTreeMap<String, Sighting>,
    memory: Memory,
    /// Since when it has had no controller: hints hold it back only for so long.
    alone_since: Duration,
    /// Somebody said no: there is a controller, whoever else is not seen.
    refused_until: Duration,
    dialing: bool,
    /// The next attempt, if there is somebody to ask.
    dial_at: Duration,
    failures: u32,
    /// Why nobody let it in, for people.
    trouble: Option<String>,
    pending: bool,
    /// When it last did what the time asks for.
    looked: Duration,
    announced: Option<Announcement>,
    commands: VecDeque<Command>,
}

/// A controller that is up has announced itself by then: two announcements a second apart.
const LISTEN: Duration = Duration::from_millis(1500);
/// Candidates have seen each other when nothing has changed for this long.
const SETTLE: Duration = Duration::from_millis(1200);
/// Who was the controller is back when nobody else has taken its place.
const LISTEN_FORMER: Duration = Duration::from_millis(700);
/// Hints hold nobody back for longer than this, in whatever number they come.
const HINTS: Duration = Duration::from_secs(20);
/// Who was refused does not make a pool of its own for this long.
const REFUSED: Duration = Duration::from_secs(60);
/// A better candidate, or a controller that cannot be reached, is waited for this long.
const HOLD_BACK: Duration = Duration::from_secs(6);
/// Between two attempts, doubled up to `RETRY_MAX`.
const RETRY: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(4);

impl RoleMachine {
    #[must_use]
    pub fn new(now: Duration, config: Config) -> Self {
        let memory = config.memory.clone();
        let waits =
            config.wanted == Wanted::Auto && memory.last.is_some() && !memory.was_controller;
        let state = if waits {
            State::Waiting { since: now }
        } else {
            State::Looking { since: now }
        };
        let mut this = Self {
            state,
            sightings: BTreeMap::new(),
            memory,
            alone_since: now,
            refused_until: Duration::ZERO,
            dialing: false,
            dial_at: now,
            failures: 0,
            trouble: None,
            pending: false,
            looked: now,
            announced: None,
            commands: VecDeque::new(),
            config,
        };
        if this.config.wanted == Wanted::Controller {
            this.become_controller();
        }
        this.act(now);
        this
    }

    /// What the caller must now do, in this order.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    pub fn handle_event(&mut self, now: Duration, event: Event) {
        match event {
            Event::DialFailed { why, refused } => {
                self.dialing = false;
                self.trouble = Some(why);
                if refused {
                    self.refused_until = now + REFUSED;
                }
                self.retry_later(now);
            }
            Event::Gone { instance } => {
                self.sightings.remove(&instance);
            }
            Event::Joined {
                controller,
                epoch,
                address,
            } => {
                self.handle_joined(now, controller, epoch, address);
            }
            Event::LinksChanged => self.retry_now(now),
            Event::Lost => self.handle_lost(now),
            Event::Pending => self.pending = true,
            Event::Sighted {
                instance,
                announcement,
                addresses,
            } => {
                self.handle_sighted(now, instance, announcement, addresses);
            }
        }
        self.act(now);
    }

    /// When [`Self::handle_timeout`] wants to be called: the first moment after the last look that can
    /// change anything.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Duration> {
        let dial = self.wants_to_dial().then_some(self.dial_at);
        let patience = match self.state {
            State::Looking { since } => Some(self.stands_at(since)),
            State::Candidate { settled } => Some(settled + SETTLE),
            State::Waiting { since } => self.config.takeover_after.map(|patience| since + patience),
            State::Joined { .. } | State::Controlling { .. } => None,
        };
        let holds = self.sightings.values().map(|seen| seen.since + HOLD_BACK);
        let hints = holds.chain([self.alone_since + HINTS]);
        let standing = patience.filter(|_| self.is_eligible());
        let moments = standing
            .into_iter()
            .chain(hints.filter(|_| standing.is_some()));
        dial.into_iter()
            .chain(moments.filter(|moment| *moment > self.looked))
            .min()
    }

    /// What is to be saved: before a command that follows from it is carried out.
    #[must_use]
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    pub fn handle_timeout(&mut self, now: Duration) {
        self.act(now);
    }

    /// The epoch, if it is the controller.
    #[must_use]
    pub fn controlling(&self) -> Option<u64> {
        match self.state {
            State::Controlling { epoch } => Some(epoch),
            _ => None,
        }
    }

    /// The controller that it belongs to.
    #[must_use]
    pub fn joined(&self) -> Option<NodeId> {
        match self.state {
            State::Joined { controller } => Some(controller),
            _ => None,
        }
    }

    /// One line for people: what it is, or waits for.
    #[must_use]
    pub fn status(&self) -> String {
        let pool = &self.config.pool;
        let because = |text: String| match &self.trouble {
            Some(why) => format!("{text}: {why}"),
            None => text,
        };
        match &self.state {
            State::Controlling { .. } => format!("controller of {pool}"),
            State::Joined { .. } => format!("belongs to {pool}"),
            _ if self.pending => {
                let fingerprint = &self.config.fingerprint;
                format!(
                    "waits to be let into {pool}: `piparallel approve {fingerprint}` on the controller"
                )
            }
            State::Looking { .. } => because(format!("looks for the controller of {pool}")),
            State::Candidate { .. } => {
                because(format!("no controller of {pool} is seen: electing one"))
            }
            State::Waiting { .. } => {
                because(format!("waits for the controller of {pool} to come back"))
            }
        }
    }

    /// Panics if something that must hold does not. For tests.
    pub fn check_invariants(&self) {
        assert!(self.sightings.len() <= SIGHTINGS_MAX);
        if let State::Controlling { epoch } = self.state {
            assert!(self.config.wanted != Wanted::Engine);
            assert!(epoch <= self.memory.epoch);
        }
        if self.config.wanted == Wanted::Controller {
            assert!(self.controlling().is_some());
        }
    }

    fn handle_sighted(
        &mut self,
        now: Duration,
        instance: String,
        announcement: Announcement,
        addresses: Vec<SocketAddr>,
    ) {
        if announcement.id == self.config.own || announcement.pool != self.config.pool {
            return;
        }
        let known = self.sightings.get(&instance);
        let is_news = known
            .is_none_or(|known| known.announcement != announcement || known.addresses != addresses);
        if !is_news || (known.is_none() && self.sightings.len() >= SIGHTINGS_MAX) {
            return;
        }
        let part = announcement.part;
        self.sightings.insert(
            instance,
            Sighting {
                announcement,
                addresses,
                since: now,
            },
        );
        match (&mut self.state, part) {
            (_, Part::Controller) => self.retry_now(now),
            (State::Candidate { settled }, Part::Candidate) => *settled = now,
            _ => {}
        }
    }

    fn handle_joined(
        &mut self,
        now: Duration,
        controller: NodeId,
        epoch: u64,
        address: SocketAddr,
    ) {
        (self.dialing, self.pending, self.failures, self.trouble) = (false, false, 0, None);
        if let State::Controlling { epoch: own } = self.state {
            self.commands.push_back(Command::HangUp);
            let stays = outranks((own, self.config.own), (epoch, controller));
            if stays || self.config.wanted == Wanted::Controller {
                self.retry_later(now);
                return;
            }
            self.commands
                .push_back(Command::StepDown { to: controller });
            self.state = State::Looking { since: now };
            self.alone_since = now;
            self.retry_now(now);
        } else {
            self.state = State::Joined { controller };
        }
        self.memory = Memory {
            last: Some(address),
            was_controller: false,
            epoch: self.memory.epoch.max(epoch),
        };
    }

    fn handle_lost(&mut self, now: Duration) {
        self.dialing = false;
        self.pending = false;
        if matches!(self.state, State::Joined { .. }) {
            self.state = State::Waiting { since: now };
            self.alone_since = now;
        }
        self.failures = 0;
        self.dial_at = now + RETRY;
    }

    fn retry_now(&mut self, now: Duration) {
        self.failures = 0;
        self.dial_at = now;
    }

    fn retry_later(&mut self, now: Duration) {
        let wait = RETRY * 2_u32.saturating_pow(self.failures.min(8));
        self.failures += 1;
        self.dial_at = now + wait.min(RETRY_MAX);
    }
}

/// Whether the first of two controllers stays.
fn outranks(one: (u64, NodeId), other: (u64, NodeId)) -> bool {
    one < other
}
