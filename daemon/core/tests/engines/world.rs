//! A machine on one clock: a warm parent, its engines, and what can go wrong with them. Everything follows from
//! a seed.

use std::collections::BTreeMap;
use std::time::Duration;

use piparallel_core::engines::message::{Connection, Order, ProcessId, Report, Slot, Warming};
use piparallel_core::engines::{Command, Event, Settings, SlotState, Supervisor};
use piparallel_core::ids::EngineId;

use crate::seeds::Chance;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    None,
    /// About so often.
    Every(Duration),
    /// Each engine ends before it registers.
    NoneStarts,
}

/// What is about to happen in a life of the warm parent; of a later life, it does not.
enum Arrival {
    Report(Report),
    /// The engine ends, if it still lives.
    Death(ProcessId, i32),
    ParentEnds(&'static str),
}

struct Process {
    slot: Slot,
    pool: u64,
    stubborn: bool,
}

pub(crate) struct World {
    now: Duration,
    pub(crate) chance: Chance,
    machine: Supervisor,
    arrivals: BTreeMap<(Duration, u64), (u32, Arrival)>,
    arrived: u64,
    /// Counts warm parents; the current one lives if `parent_lives`.
    life: u32,
    parent_lives: bool,
    released: bool,
    processes: BTreeMap<ProcessId, Process>,
    next_pid: u32,
    none_starts: bool,
    pub(crate) starts: u32,
}

const LIMIT: u64 = 1 << 30;

impl World {
    pub(crate) fn new(seed: u64, count: u32) -> Self {
        let settings = Settings {
            count,
            warming: Warming {
                imports: Vec::new(),
                profile: String::new(),
                nice: 0,
                oom_score_adj: 0,
            },
            memory_limit: Some(LIMIT),
            revive: true,
        };
        let mut world = Self {
            now: Duration::ZERO,
            chance: Chance::new(seed),
            machine: Supervisor::new(Duration::ZERO, settings),
            arrivals: BTreeMap::new(),
            arrived: 0,
            life: 0,
            parent_lives: false,
            released: false,
            processes: BTreeMap::new(),
            next_pid: 100,
            none_starts: false,
            starts: 0,
        };
        world.carry_out();
        world
    }

    pub(crate) fn connect(&mut self, pool: u64) {
        let mut map = serde_json::Map::new();
        map.insert("registration".to_owned(), pool.into());
        let grace = Duration::from_secs(3);
        self.machine.connect(self.now, Connection::new(map), grace);
        self.carry_out();
    }

    /// Something that a node may ask for.
    pub(crate) fn wish(&mut self, pool: u64) {
        let grace = self.chance.ms(0, 5000);
        match self.chance.below(4) {
            0 => self.machine.disconnect(self.now, grace),
            1 => self.machine.restart(self.now, grace),
            _ => return self.connect(pool),
        }
        self.carry_out();
    }

    pub(crate) fn stop(&mut self, grace: Duration) {
        self.machine.stop(self.now, grace);
        self.carry_out();
    }

    pub(crate) fn run(&mut self, time: Duration, trouble: Trouble) {
        let end = self.now + time;
        self.none_starts = trouble == Trouble::NoneStarts;
        let mut next_trouble = self.after(trouble);
        loop {
            let arrival = self.arrivals.keys().next().copied();
            let timeout = self.machine.next_timeout().map(|t| t.max(self.now));
            let moments = arrival.map(|a| a.0).into_iter().chain(timeout);
            let moment = moments.chain(next_trouble).min();
            let Some(moment) = moment.filter(|m| *m <= end) else {
                self.now = end;
                return;
            };
            self.now = moment;
            if let Some(key) = arrival.filter(|a| a.0 == moment) {
                if let Some((life, arrival)) = self.arrivals.remove(&key)
                    && life == self.life
                {
                    self.arrive(arrival);
                }
            } else if timeout == Some(moment) {
                self.machine.handle_timeout(self.now);
            } else {
                self.make_trouble();
                next_trouble = self.after(trouble);
            }
            self.carry_out();
        }
    }

    pub(crate) fn assert_all_run_for(&self, pool: u64) {
        let status = self.machine.status();
        let all_run = status.slots.iter().all(|s| s.state == SlotState::Running);
        assert!(all_run, "{:?}: {status:#?}", self.now);
        assert_eq!(self.processes.len(), status.slots.len());
        assert!(self.processes.values().all(|p| p.pool == pool));
    }

    pub(crate) fn assert_over(&self) {
        assert!(self.machine.is_over(), "{:?}", self.machine.status());
        assert!(!self.parent_lives && self.processes.is_empty());
    }

    fn after(&mut self, trouble: Trouble) -> Option<Duration> {
        match trouble {
            Trouble::Every(time) => {
                let most = u64::try_from(time.as_millis()).unwrap_or(1) * 2;
                Some(self.now + self.chance.ms(1, most))
            }
            Trouble::None | Trouble::NoneStarts => None,
        }
    }

    fn make_trouble(&mut self) {
        let victims: Vec<_> = self.processes.keys().copied().collect();
        let which = self.chance.below(victims.len().max(1) as u64);
        let victim = usize::try_from(which).ok().and_then(|n| victims.get(n));
        match (self.chance.below(10), victim) {
            (0, _) if self.parent_lives => self.end_parent("was killed"),
            (1..=3, Some(pid)) => {
                let bytes = LIMIT + 1;
                self.machine
                    .handle_event(self.now, Event::Memory { pid: *pid, bytes });
            }
            // Not before its start is told.
            (4..=9, Some(pid)) => self.expect(Duration::from_millis(2), Arrival::Death(*pid, 1)),
            _ => {}
        }
    }

    fn expect(&mut self, delay: Duration, arrival: Arrival) {
        self.arrived += 1;
        let key = (self.now + delay, self.arrived);
        self.arrivals.insert(key, (self.life, arrival));
    }

    fn arrive(&mut self, arrival: Arrival) {
        if !self.parent_lives {
            return;
        }
        match arrival {
            // Who is dead does not register.
            Arrival::Report(Report::Registered { pid, .. })
                if !self.processes.contains_key(&pid) => {}
            Arrival::Report(report) => self.machine.handle_event(self.now, Event::Report(report)),
            Arrival::ParentEnds(why) => self.end_parent(why),
            Arrival::Death(pid, code) => {
                let Some(process) = self.processes.remove(&pid) else {
                    return;
                };
                let report = Report::Ended {
                    slot: process.slot,
                    pid,
                    code: Some(code),
                    signal: None,
                    asked: None,
                };
                self.machine.handle_event(self.now, Event::Report(report));
                if self.released && self.processes.is_empty() {
                    self.expect(Duration::from_millis(10), Arrival::ParentEnds("ended"));
                }
            }
        }
    }

    fn end_parent(&mut self, why: &str) {
        self.parent_lives = false;
        self.processes.clear();
        let why = why.to_owned();
        self.machine
            .handle_event(self.now, Event::ParentEnded { why });
    }

    fn carry_out(&mut self) {
        self.machine.check_invariants();
        while let Some(command) = self.machine.poll_command() {
            match command {
                Command::SpawnParent => {
                    assert!(!self.parent_lives, "two warm parents");
                    self.life += 1;
                    self.parent_lives = true;
                    self.released = false;
                }
                Command::Tell(order) => {
                    assert!(self.parent_lives && !self.released, "{order:?} to nobody");
                    self.obey(order);
                }
                Command::ReleaseParent => {
                    self.released = true;
                    let takes = self.chance.ms(1, 5000);
                    self.expect(takes, Arrival::ParentEnds("ended"));
                }
                Command::KillParent => {
                    self.expect(Duration::from_millis(1), Arrival::ParentEnds("was killed"));
                }
            }
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Warm(_) => {
                let takes = self.chance.ms(500, 10_000);
                let report = Report::Warm {
                    versions: BTreeMap::new(),
                    failed_imports: BTreeMap::new(),
                };
                self.expect(takes, Arrival::Report(report));
            }
            Order::Start { slot, connection } => {
                let pool = connection["registration"].as_u64().unwrap_or_default();
                self.start(slot, pool);
            }
            Order::Signal { pid, signal } => {
                let Some(process) = self.processes.get(&pid) else {
                    return;
                };
                if signal == 9 || !process.stubborn {
                    let takes = self.chance.ms(1, 300);
                    self.expect(takes, Arrival::Death(pid, 0));
                }
            }
        }
    }

    fn start(&mut self, slot: Slot, pool: u64) {
        self.starts += 1;
        let taken = self.processes.values().any(|p| p.slot == slot);
        assert!(!taken, "two engines in slot {slot}");
        if !self.none_starts && self.chance.happens(2) {
            let cause = "cannot fork".to_owned();
            let report = Report::NotStarted { slot, cause };
            return self.expect(Duration::from_millis(1), Arrival::Report(report));
        }
        let pid = ProcessId(self.next_pid);
        self.next_pid += 1;
        let stubborn = self.chance.happens(20);
        let process = Process {
            slot,
            pool,
            stubborn,
        };
        self.processes.insert(pid, process);
        let started = Report::Started { slot, pid };
        self.expect(Duration::from_millis(1), Arrival::Report(started));
        if self.none_starts {
            let takes = self.chance.ms(200, 2000);
            return self.expect(takes, Arrival::Death(pid, 255));
        }
        let takes = self.chance.ms(200, 5000);
        let registered = Report::Registered {
            slot,
            pid,
            id: EngineId(pid.0),
            uuid: pid.to_string(),
        };
        self.expect(takes, Arrival::Report(registered));
    }
}
