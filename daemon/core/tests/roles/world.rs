//! A network of nodes on one clock: announcements that are lost, late or doubled, a join channel, partitions,
//! crashes. Everything follows from a seed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::seeds::Chance;
use piparallel_core::discovery::{Announcement, Part};
use piparallel_core::ids::NodeId;
use piparallel_core::role::{Command, Config, Event, Memory, RoleMachine, Wanted};

/// What is on its way.
enum Arrival {
    /// To a node in that life of it.
    Event {
        node: usize,
        life: u32,
        event: Event,
    },
    Timer {
        node: usize,
        life: u32,
    },
    /// The end of an attempt to join, at this node if somebody was there.
    Answer {
        node: usize,
        attempt: u64,
        from: Option<usize>,
    },
    /// Everybody says again what it said, as mDNS does when asked.
    Refresh,
}

#[derive(Default)]
struct Node {
    machine: Option<RoleMachine>,
    life: u32,
    memory: Memory,
    announced: Option<Announcement>,
    serving: Option<u64>,
    /// The node that it is connected to.
    link: Option<usize>,
    /// The attempt to join that counts; 0: none.
    attempt: u64,
    group: u32,
}

pub(crate) struct World {
    pub(crate) now: Duration,
    pub(crate) chance: Chance,
    nodes: Vec<Node>,
    arrivals: BTreeMap<(Duration, u64), Arrival>,
    sequence: u64,
    loss: u64,
    takeover: Duration,
    /// Every time that a node became the controller.
    pub(crate) changes: Vec<(Duration, usize)>,
}

impl World {
    pub(crate) fn new(seed: u64, nodes: usize, loss: u64, takeover: Duration) -> Self {
        let mut world = Self {
            now: Duration::from_secs(1),
            chance: Chance::new(seed),
            nodes: (0..nodes).map(|_| Node::default()).collect(),
            arrivals: BTreeMap::new(),
            sequence: 0,
            loss,
            takeover,
            changes: Vec::new(),
        };
        world.arrive(Duration::from_secs(1), Arrival::Refresh);
        world
    }

    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn is_up(&self, node: usize) -> bool {
        self.nodes[node].machine.is_some()
    }

    pub(crate) fn start(&mut self, node: usize) {
        let key = id(node);
        let config = Config {
            own: key,
            pool: "lab".into(),
            fingerprint: "AAAA".into(),
            wanted: Wanted::Auto,
            has_static: false,
            memory: self.nodes[node].memory.clone(),
            takeover_after: Some(self.takeover),
        };
        self.nodes[node].life += 1;
        self.nodes[node].machine = Some(RoleMachine::new(self.now, config));
        self.obey(node);
    }

    /// The node stops at once; the others notice after a while.
    pub(crate) fn crash(&mut self, node: usize) {
        let former = std::mem::take(&mut self.nodes[node]);
        let Node {
            life,
            memory,
            group,
            ..
        } = former;
        self.nodes[node] = Node {
            life,
            memory,
            group,
            ..Node::default()
        };
        self.lose_links_to(node, 3000);
    }

    /// From now on only those of one group reach each other.
    pub(crate) fn divide(&mut self, group_of: impl Fn(usize) -> u32) {
        for node in 0..self.len() {
            self.nodes[node].group = group_of(node);
        }
        for node in 0..self.len() {
            if self.nodes[node]
                .link
                .is_some_and(|to| !self.reach(node, to))
            {
                self.lose(node, 3000);
            }
        }
    }

    pub(crate) fn controllers(&self) -> Vec<usize> {
        (0..self.len())
            .filter(|node| self.nodes[*node].serving.is_some())
            .collect()
    }

    /// Whom each node that is up belongs to, itself if it is the controller.
    pub(crate) fn belongs_to(&self, node: usize) -> Option<NodeId> {
        let machine = self.nodes[node].machine.as_ref()?;
        machine.controlling().map(|_| id(node)).or(machine.joined())
    }

    /// Somebody who belongs to no pool announces what it likes.
    pub(crate) fn forge(&mut self, instance: &str, part: Part, epoch: u64) {
        let announcement = Announcement {
            pool: "lab".into(),
            part,
            id: NodeId([0; 16]),
            fingerprint: "AAAA".into(),
            epoch,
        };
        for node in 0..self.len() {
            let event = Event::Sighted {
                instance: instance.to_owned(),
                announcement: announcement.clone(),
                addresses: vec![address(usize::from(u8::MAX))],
            };
            self.send(node, event, 10, 50);
        }
    }

    /// Lets time pass. `check` is called after everything that happens.
    pub(crate) fn run(&mut self, time: Duration, mut check: impl FnMut(&Self)) {
        let end = self.now + time;
        while let Some((&(at, _), _)) = self.arrivals.first_key_value()
            && at <= end
        {
            let Some((_, arrival)) = self.arrivals.pop_first() else {
                break;
            };
            self.now = at;
            self.deliver(arrival);
            check(self);
        }
        self.now = end;
    }

    fn deliver(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::Event { node, life, event } if self.nodes[node].life == life => {
                let now = self.now;
                if let Some(machine) = &mut self.nodes[node].machine {
                    machine.handle_event(now, event);
                    machine.check_invariants();
                    self.obey(node);
                }
            }
            Arrival::Timer { node, life } if self.nodes[node].life == life => {
                let now = self.now;
                if let Some(machine) = &mut self.nodes[node].machine
                    && machine.next_timeout().is_some_and(|at| at <= now)
                {
                    machine.handle_timeout(now);
                    self.obey(node);
                }
            }
            Arrival::Answer {
                node,
                attempt,
                from,
            } if self.nodes[node].attempt == attempt => {
                self.answer(node, from);
            }
            Arrival::Answer { .. } | Arrival::Event { .. } | Arrival::Timer { .. } => {}
            Arrival::Refresh => {
                for node in 0..self.len() {
                    self.spread(node);
                }
                self.arrive(Duration::from_secs(2), Arrival::Refresh);
            }
        }
    }

    fn obey(&mut self, node: usize) {
        while let Some(machine) = &mut self.nodes[node].machine
            && let Some(command) = machine.poll_command()
        {
            self.nodes[node].memory = machine.memory().clone();
            match command {
                Command::Announce(announcement) => {
                    self.nodes[node].announced = Some(announcement);
                    self.spread(node);
                }
                Command::BecomeController { epoch } => {
                    self.nodes[node].serving = Some(epoch);
                    self.changes.push((self.now, node));
                }
                Command::Dial { addresses } => self.dial(node, &addresses),
                Command::HangUp => (self.nodes[node].link, self.nodes[node].attempt) = (None, 0),
                Command::StepDown { .. } => {
                    self.nodes[node].serving = None;
                    self.lose_links_to(node, 20);
                }
            }
        }
        let Node {
            machine: Some(machine),
            memory,
            life,
            ..
        } = &mut self.nodes[node]
        else {
            return;
        };
        memory.clone_from(machine.memory());
        if let Some(at) = machine.next_timeout() {
            let life = *life;
            self.arrive(at.saturating_sub(self.now), Arrival::Timer { node, life });
        }
    }

    /// Asks one after the other, as the shell does.
    fn dial(&mut self, node: usize, addresses: &[SocketAddr]) {
        let mut took = Duration::from_millis(1);
        let mut from = None;
        for address in addresses {
            let to = (0..self.len()).find(|other| self::address(*other) == *address);
            let reached = to.filter(|to| self.is_up(*to) && self.reach(node, *to));
            let Some(to) = reached else {
                took += Duration::from_secs(1);
                continue;
            };
            took += self.chance.ms(2, 60);
            if self.chance.happens(self.loss) {
                took += self.chance.ms(200, 1000);
            }
            if self.nodes[to].serving.is_some() {
                from = Some(to);
                break;
            }
        }
        self.sequence += 1;
        let attempt = self.sequence;
        self.nodes[node].attempt = attempt;
        self.arrive(
            took,
            Arrival::Answer {
                node,
                attempt,
                from,
            },
        );
    }

    fn answer(&mut self, node: usize, from: Option<usize>) {
        self.nodes[node].attempt = 0;
        let there = from.filter(|from| self.reach(node, *from));
        let event = match there.and_then(|from| Some((from, self.nodes[from].serving?))) {
            Some((from, epoch)) => {
                self.nodes[node].link = Some(from);
                Event::Joined {
                    controller: id(from),
                    epoch,
                    address: address(from),
                }
            }
            None => Event::DialFailed {
                why: "nobody answers".to_owned(),
                refused: false,
            },
        };
        self.tell(node, event, Duration::ZERO);
    }

    fn lose_links_to(&mut self, node: usize, ms: u64) {
        for other in 0..self.len() {
            if self.nodes[other].link == Some(node) {
                self.lose(other, ms);
            }
        }
    }

    fn lose(&mut self, node: usize, ms: u64) {
        self.nodes[node].link = None;
        self.tell(node, Event::Lost, Duration::from_millis(ms));
    }

    /// A node's announcement goes to everybody whom it reaches, or not.
    fn spread(&mut self, node: usize) {
        let Some(announcement) = self.nodes[node].announced.clone() else {
            return;
        };
        for to in 0..self.len() {
            if to == node || !self.reach(node, to) {
                continue;
            }
            let copies =
                u64::from(!self.chance.happens(self.loss)) + u64::from(self.chance.happens(5));
            for _ in 0..copies {
                let event = Event::Sighted {
                    instance: format!("node {node}"),
                    announcement: announcement.clone(),
                    addresses: vec![address(node)],
                };
                self.send(to, event, 5, 250);
            }
        }
    }

    fn send(&mut self, node: usize, event: Event, from: u64, to: u64) {
        let delay = self.chance.ms(from, to);
        self.tell(node, event, delay);
    }

    fn tell(&mut self, node: usize, event: Event, delay: Duration) {
        let life = self.nodes[node].life;
        self.arrive(delay, Arrival::Event { node, life, event });
    }

    fn arrive(&mut self, delay: Duration, arrival: Arrival) {
        self.sequence += 1;
        self.arrivals
            .insert((self.now + delay, self.sequence), arrival);
    }

    fn reach(&self, one: usize, other: usize) -> bool {
        self.nodes[one].group == self.nodes[other].group
    }

    /// Everybody belongs to one and the same controller.
    pub(crate) fn is_one_pool(&self) -> bool {
        let up = (0..self.len()).filter(|node| self.is_up(*node));
        let pools: BTreeSet<Option<NodeId>> = up.map(|node| self.belongs_to(node)).collect();
        self.controllers().len() == 1 && pools.len() == 1 && !pools.contains(&None)
    }

    pub(crate) fn describe(&self) -> String {
        let nodes = (0..self.len()).map(|node| match &self.nodes[node].machine {
            Some(machine) => format!(
                "{node}: {} {:?}",
                machine.status(),
                self.nodes[node].serving
            ),
            None => format!("{node}: down"),
        });
        format!(
            "at {:?}: {}",
            self.now,
            nodes.collect::<Vec<_>>().join("; ")
        )
    }
}

fn id(node: usize) -> NodeId {
    // Ids in another order than the numbers.
    NodeId([(node as u8).wrapping_mul(97).wrapping_add(13); 16])
}

fn address(node: usize) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, node as u8)), 7373)
}
