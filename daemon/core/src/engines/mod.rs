//! The engines of one machine: a supervisor that is told what happens to processes and says what to do.
//!
//! All engines are forked from one **warm parent**, a Python that has imported everything.
//!
//! | warm parent | means                                  | leaves it by                                     |
//! |-------------|----------------------------------------|--------------------------------------------------|
//! | absent      | nothing runs                           | at once → warming                                |
//! | warming     | imports                                | says so → warm; ends or takes too long → waiting |
//! | warm        | forks engines                          | ends → waiting; a restart or stop → released     |
//! | released    | was told to end with all that it started | ends → absent                                  |
//! | waiting     | failed; a pause that doubles           | the pause → warming                              |
//!
//! | slot     | means                                       | leaves it by                                       |
//! |----------|---------------------------------------------|----------------------------------------------------|
//! | idle     | no process                                  | connection and warm parent are there → starting    |
//! | starting | ordered, or forked and not registered yet   | registers → running; ends → waiting                |
//! | running  | in the pool                                 | ends → waiting, or ended                           |
//! | stopping | was asked to end, and is killed in the end  | ends → idle                                        |
//! | waiting  | failed; a pause that doubles                | the pause → idle; contact with the pool → idle     |
//! | ended    | a client shut it down                       | a new connection or a restart → idle               |
//!
//! A warm parent takes all its engines with it, so its end makes every slot idle. The simulation in
//! `tests/engines` plays machines of these.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::ids::EngineId;
use message::{Asked, Connection, Order, ProcessId, Report, Slot, Warming};

/// What goes over the socket to the warm parent.
pub mod message;
/// What becomes of one engine.
mod slot;
/// What people are told.
mod status;

use slot::{Place, State};
pub use status::{SlotState, SlotStatus, Status};

/// What a supervisor runs with.
#[derive(Clone, Debug)]
pub struct Settings {
    pub count: u32,
    pub warming: Warming,
    /// Resident bytes that one engine may have.
    pub memory_limit: Option<u64>,
    /// Engines that a client shut down are started again.
    pub revive: bool,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The warm parent said something.
    Report(Report),
    /// The warm parent is gone, or could not be started; why, for people.
    ParentEnded { why: String },
    /// An engine's resident bytes.
    Memory { pid: ProcessId, bytes: u64 },
}

/// What the caller must do.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    SpawnParent,
    Tell(Order),
    /// Close the socket to the warm parent, which then ends everything that it started, and itself.
    ReleaseParent,
    KillParent,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Parent {
    Absent,
    Warming { deadline: Duration },
    Warm { since: Duration },
    Released { deadline: Duration },
    Waiting { until: Duration },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Aim {
    Run,
    /// All engines, and then the warm parent, are to end; afterwards others take their place.
    Renew,
    Stop,
}

/// The machine. See the module.
pub struct Supervisor {
    settings: Settings,
    aim: Aim,
    connection: Option<Connection>,
    parent: Parent,
    parent_failures: u32,
    /// Why the last warm parent failed.
    trouble: Option<String>,
    /// Why it was killed by us.
    verdict: Option<String>,
    versions: BTreeMap<String, String>,
    places: Vec<Place>,
    commands: VecDeque<Command>,
}

/// Imports on a slow card, with a package such as PyTorch among them.
const WARMING_MAX: Duration = Duration::from_secs(300);
/// The warm parent waits up to 2.5 s for its nanny to tell the hub of the last engines.
const RELEASE_MAX: Duration = Duration::from_secs(6);
pub(crate) const PAUSE_MIN: Duration = Duration::from_millis(500);
pub(crate) const PAUSE_MAX: Duration = Duration::from_secs(30);
/// What ran for so long has not failed to start.
pub(crate) const STABLE_AFTER: Duration = Duration::from_secs(60);
pub(crate) const SIGKILL: i32 = 9;
pub(crate) const SIGTERM: i32 = 15;

impl Supervisor {
    #[must_use]
    pub fn new(now: Duration, settings: Settings) -> Self {
        let places = (0..settings.count).map(|n| Place::new(now, Slot(n)));
        let mut this = Self {
            places: places.collect(),
            settings,
            aim: Aim::Run,
            connection: None,
            parent: Parent::Absent,
            parent_failures: 0,
            trouble: None,
            verdict: None,
            versions: BTreeMap::new(),
            commands: VecDeque::new(),
        };
        this.act(now);
        this
    }

    /// What the caller must now do, in this order.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// Engines work for this pool from now on. Those of another one end first, within `grace`; the same one
    /// again is a sign that the pool is there, so that nobody waits for a pause to end.
    pub fn connect(&mut self, now: Duration, connection: Connection, grace: Duration) {
        if self.connection.as_ref() == Some(&connection) {
            self.places.iter_mut().for_each(|place| place.hasten(now));
        } else {
            self.connection = Some(connection);
            self.end_engines(now, grace);
        }
        self.act(now);
    }

    /// There is no pool: engines end within `grace`, running tasks first.
    pub fn disconnect(&mut self, now: Duration, grace: Duration) {
        self.connection = None;
        self.end_engines(now, grace);
        self.act(now);
    }

    /// Everything is started anew, so that Python sees what was installed meanwhile.
    pub fn restart(&mut self, now: Duration, grace: Duration) {
        if self.aim == Aim::Run {
            self.aim = Aim::Renew;
            self.parent_failures = 0;
            self.end_engines(now, grace);
        }
        self.act(now);
    }

    /// Everything ends, engines within `grace`. A second call can only shorten it.
    pub fn stop(&mut self, now: Duration, grace: Duration) {
        self.aim = Aim::Stop;
        self.end_engines(now, grace);
        self.act(now);
    }

    /// After [`Self::stop`]: nothing runs any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.aim == Aim::Stop && self.parent == Parent::Absent
    }

    pub fn handle_event(&mut self, now: Duration, event: Event) {
        match event {
            Event::Report(report) => self.handle_report(now, report),
            Event::ParentEnded { why } => self.handle_parent_ended(now, why),
            Event::Memory { pid, bytes } => self.handle_memory(pid, bytes),
        }
        self.act(now);
    }

    /// When [`Self::handle_timeout`] wants to be called.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Duration> {
        let parent = match self.parent {
            Parent::Warming { deadline } | Parent::Released { deadline } => Some(deadline),
            Parent::Waiting { until } => Some(until),
            Parent::Absent | Parent::Warm { .. } => None,
        };
        let places = self.places.iter().filter_map(Place::next_timeout);
        places.chain(parent).min()
    }

    pub fn handle_timeout(&mut self, now: Duration) {
        match self.parent {
            Parent::Warming { deadline } if deadline <= now => {
                self.verdict = Some(format!("took more than {WARMING_MAX:?} to import"));
                self.commands.push_back(Command::KillParent);
                self.parent = Parent::Warming {
                    deadline: now + RELEASE_MAX,
                };
            }
            Parent::Released { deadline } if deadline <= now => self.kill_parent(now),
            Parent::Waiting { until } if until <= now => self.parent = Parent::Absent,
            _ => {}
        }
        for place in &mut self.places {
            let order = place.handle_timeout(now);
            self.commands.extend(order.map(Command::Tell));
        }
        self.act(now);
    }

    /// How everything is.
    #[must_use]
    pub fn status(&self) -> Status {
        Status {
            slots: self.places.iter().map(Place::status).collect(),
            trouble: self.trouble.clone(),
            failures: self.parent_failures,
            versions: self.versions.clone(),
        }
    }

    fn handle_report(&mut self, now: Duration, report: Report) {
        match report {
            Report::Warm {
                versions,
                failed_imports,
            } => {
                for (name, cause) in failed_imports {
                    log::warn!("engines cannot import {name} in advance: {cause}");
                }
                self.versions = versions;
                if let Parent::Warming { .. } = self.parent {
                    self.parent = Parent::Warm { since: now };
                    self.trouble = None;
                }
            }
            Report::Started { slot, pid } => {
                let order = self.place(slot).and_then(|p| p.handle_started(pid));
                self.commands.extend(order.map(Command::Tell));
            }
            Report::NotStarted { slot, cause } => {
                if let Some(place) = self.place(slot) {
                    place.handle_not_started(now, cause);
                }
            }
            Report::Registered {
                slot,
                pid,
                id,
                uuid,
            } => self.handle_registered(now, slot, pid, id, uuid),
            Report::Ended {
                slot,
                pid,
                code,
                signal,
                asked,
            } => {
                let asked = match asked {
                    // An engine that was told so by a signal.
                    None if code == Some(0) => Some(Asked::End),
                    asked => asked,
                };
                let asked = match asked {
                    Some(Asked::End) if self.settings.revive => Some(Asked::Restart),
                    asked => asked,
                };
                if let Some(place) = self.place(slot) {
                    place.handle_ended(now, pid, ending(code, signal), asked);
                }
            }
        }
    }

    fn handle_registered(
        &mut self,
        now: Duration,
        slot: Slot,
        pid: ProcessId,
        id: EngineId,
        uuid: String,
    ) {
        if let Some(place) = self.place(slot) {
            place.handle_registered(now, pid, id, uuid);
        }
    }

    fn handle_parent_ended(&mut self, now: Duration, why: String) {
        let why = self.verdict.take().unwrap_or(why);
        let was = std::mem::replace(&mut self.parent, Parent::Absent);
        for place in &mut self.places {
            place.handle_parent_ended(now);
        }
        match was {
            Parent::Released { .. } => {
                if self.aim == Aim::Renew {
                    self.aim = Aim::Run;
                }
                return;
            }
            Parent::Warm { since } if now.saturating_sub(since) > STABLE_AFTER => {
                self.parent_failures = 0;
            }
            _ => {}
        }
        match self.aim {
            Aim::Run => {}
            // What was to end has ended.
            Aim::Renew => return self.aim = Aim::Run,
            Aim::Stop => return,
        }
        self.parent_failures += 1;
        let pause = pause(self.parent_failures);
        log::error!("the parent of the engines {why}; another one starts in {pause:?}");
        self.trouble = Some(why);
        self.parent = Parent::Waiting { until: now + pause };
    }

    fn handle_memory(&mut self, pid: ProcessId, bytes: u64) {
        let limit = self.settings.memory_limit;
        let place = self.places.iter_mut().find(|p| p.pid() == Some(pid));
        let order = place.and_then(|p| p.handle_memory(bytes, limit));
        self.commands.extend(order.map(Command::Tell));
    }

    fn end_engines(&mut self, now: Duration, grace: Duration) {
        for place in &mut self.places {
            let order = place.end(now, grace);
            self.commands.extend(order.map(Command::Tell));
        }
    }

    /// Its end is reported; it cannot refuse.
    fn kill_parent(&mut self, now: Duration) {
        self.commands.push_back(Command::KillParent);
        self.parent = Parent::Released {
            deadline: now + RELEASE_MAX,
        };
    }

    /// What the state asks for.
    fn act(&mut self, now: Duration) {
        match (self.aim, &self.parent) {
            (Aim::Run, Parent::Absent) if self.settings.count > 0 => {
                self.commands.push_back(Command::SpawnParent);
                let warming = Order::Warm(self.settings.warming.clone());
                self.commands.push_back(Command::Tell(warming));
                self.parent = Parent::Warming {
                    deadline: now + WARMING_MAX,
                };
            }
            (Aim::Run, Parent::Warm { .. }) => {
                let Some(connection) = &self.connection else {
                    return;
                };
                for place in self.places.iter_mut().filter(|p| p.state == State::Idle) {
                    let order = place.start(now, connection);
                    self.commands.push_back(Command::Tell(order));
                }
            }
            // Nothing is lost with it.
            (Aim::Renew | Aim::Stop, Parent::Warming { .. }) => self.kill_parent(now),
            (Aim::Renew | Aim::Stop, Parent::Warm { .. }) => {
                if self.places.iter().all(|p| !p.has_process()) {
                    self.commands.push_back(Command::ReleaseParent);
                    self.parent = Parent::Released {
                        deadline: now + RELEASE_MAX,
                    };
                }
            }
            (Aim::Renew, Parent::Absent | Parent::Waiting { .. }) => {
                self.aim = Aim::Run;
                self.parent = Parent::Absent;
                self.act(now);
            }
            (Aim::Stop, Parent::Waiting { .. }) => self.parent = Parent::Absent,
            (Aim::Run | Aim::Stop, _) | (Aim::Renew, Parent::Released { .. }) => {}
        }
    }

    fn place(&mut self, slot: Slot) -> Option<&mut Place> {
        self.places.get_mut(usize::try_from(slot.0).ok()?)
    }

    /// For tests: what must hold after every event.
    ///
    /// # Panics
    /// It does not hold.
    pub fn check_invariants(&self) {
        let is_up = matches!(self.parent, Parent::Warm { .. } | Parent::Warming { .. });
        for place in &self.places {
            assert!(is_up || !place.has_process(), "{place:?} without a parent");
            assert!(
                place.state != State::Idle
                    || self.aim != Aim::Run
                    || self.connection.is_none()
                    || !matches!(self.parent, Parent::Warm { .. }),
                "{place:?} is forgotten"
            );
        }
    }
}

fn ending(code: Option<i32>, signal: Option<i32>) -> String {
    match (code, signal) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

/// How long to wait after so many failures in a row.
pub(crate) fn pause(failures: u32) -> Duration {
    let doubled = 2u32.saturating_pow(failures.saturating_sub(1));
    PAUSE_MIN.saturating_mul(doubled).min(PAUSE_MAX)
}

#[cfg(test)]
mod tests;
