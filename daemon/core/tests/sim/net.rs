//! The network: ordered connections between the sockets of peers and the controller, on hosts whose
//! network may be silent, broken, slow or gone.
//!
//! | fault     | what it does                                                                     |
//! |-----------|----------------------------------------------------------------------------------|
//! | silence   | nothing gets through either way; all of it is delivered when it heals            |
//! | break     | what is in flight is lost; the socket connects anew, under the same routing id,  |
//! |           | and sends what it was given in between; the controller may learn of it late      |
//! | off       | as a break from which nobody comes back                                          |
//! | slow      | what is sent to the host piles up: `Congested`, later `Drained`                  |

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use piparallel_core::channel::{Channel, SocketType};
use piparallel_core::ids::PeerId;

use crate::chance::Chance;

/// A socket of a peer, for as long as its process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkId(pub u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostId(pub u32);

/// Whose socket it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    Client(u32),
    Engine(u32),
    Nanny,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    ToController,
    ToPeer,
}

#[derive(Clone, Debug)]
pub enum Packet {
    Bye,
    Hello,
    Message(Vec<Bytes>),
    Subscribe,
}

/// What the network wants done later.
#[derive(Clone, Copy, Debug)]
pub enum NetStep {
    Arrive(PeerId, Way),
    Connect(LinkId),
    /// The controller's kernel notices that a connection is gone.
    Gone(PeerId),
}

#[derive(Debug)]
pub struct Link {
    pub owner: Owner,
    pub host: HostId,
    pub channel: Channel,
    pub identity: Bytes,
    current: Option<PeerId>,
    /// Sent while there was no connection.
    backlog: VecDeque<Vec<Bytes>>,
}

#[derive(Debug)]
pub struct Connection {
    pub link: LinkId,
    pub channel: Channel,
    pub identity: Bytes,
    host: HostId,
    queues: [VecDeque<Packet>; 2],
    /// Arrivals that silence held up.
    stuck: [usize; 2],
    /// The controller was told of it.
    pub known: bool,
    /// It holds its routing id: what it says is heard.
    pub admitted: bool,
    pub subscribed: bool,
    /// Broken, and the controller does not know.
    lost: bool,
    congested: bool,
    /// The controller was told so.
    pub is_told: bool,
}

impl Connection {
    /// Both want one routing id.
    fn claims(&self, other: &Self) -> bool {
        self.channel.socket_type() == SocketType::Router
            && !self.identity.is_empty()
            && (self.channel, &self.identity) == (other.channel, &other.identity)
    }
}

#[derive(Debug, Default)]
pub struct Host {
    pub silent: bool,
    /// Its processes stand still as well.
    pub frozen: bool,
    pub off: bool,
    pub slow: bool,
}

/// What may wait for a peer before the controller is told, and until it is told again.
const CONGESTED_FROM: usize = 6;
const DRAINED_AT: usize = 2;
/// What may wait for a peer at all: beyond it the shell closes the connection, or drops if it publishes.
const QUEUE_MAX: usize = 400;
const RECONNECT: Duration = Duration::from_millis(100);
/// Now and then the first attempt to connect is lost.
const LATE: Duration = Duration::from_millis(3100);

#[derive(Default)]
pub struct Net {
    pub links: BTreeMap<LinkId, Link>,
    pub connections: BTreeMap<PeerId, Connection>,
    pub hosts: BTreeMap<HostId, Host>,
    pub controller_up: bool,
    steps: Vec<(Duration, NetStep)>,
    next_link: u32,
    next_peer: u64,
}

impl Net {
    pub fn host(&mut self) -> HostId {
        let id = HostId(self.hosts.len() as u32);
        self.hosts.insert(id, Host::default());
        id
    }

    /// What happened since the last call, to be planned.
    pub fn take_steps(&mut self) -> Vec<(Duration, NetStep)> {
        std::mem::take(&mut self.steps)
    }

    pub fn open(&mut self, owner: Owner, host: HostId, channel: Channel, identity: &str) -> LinkId {
        self.next_link += 1;
        let id = LinkId(self.next_link);
        self.links.insert(
            id,
            Link {
                owner,
                host,
                channel,
                identity: Bytes::copy_from_slice(identity.as_bytes()),
                current: None,
                backlog: VecDeque::new(),
            },
        );
        self.steps.push((Duration::ZERO, NetStep::Connect(id)));
        id
    }

    /// The process at this end is gone; its kernel says so, if it can.
    pub fn close(&mut self, chance: &mut Chance, id: LinkId) {
        if let Some(link) = self.links.remove(&id)
            && let Some(peer) = link.current
        {
            if self.hosts[&link.host].off {
                self.lose(chance, peer, true);
            } else {
                self.push(chance, peer, Way::ToController, Packet::Bye);
            }
        }
    }

    pub fn connect(&mut self, chance: &mut Chance, id: LinkId) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        if link.current.is_some() {
            return;
        }
        let host = &self.hosts[&link.host];
        if !self.controller_up || host.silent || host.frozen || host.off {
            self.steps.push((RECONNECT, NetStep::Connect(id)));
            return;
        }
        if chance.percent(2) {
            self.steps.push((LATE, NetStep::Connect(id)));
            return;
        }
        self.next_peer += 1;
        let peer = PeerId(self.next_peer);
        link.current = Some(peer);
        let (channel, identity, host) = (link.channel, link.identity.clone(), link.host);
        let backlog = std::mem::take(&mut link.backlog);
        self.connections.insert(
            peer,
            Connection {
                link: id,
                channel,
                identity,
                host,
                queues: Default::default(),
                stuck: [0; 2],
                known: false,
                admitted: false,
                subscribed: false,
                lost: false,
                congested: false,
                is_told: false,
            },
        );
        self.push(chance, peer, Way::ToController, Packet::Hello);
        if channel.socket_type() == SocketType::Pub {
            self.push(chance, peer, Way::ToController, Packet::Subscribe);
        }
        for frames in backlog {
            self.push(chance, peer, Way::ToController, Packet::Message(frames));
        }
    }

    /// A peer sends. Without a connection a publisher drops, everyone else keeps.
    pub fn send(&mut self, chance: &mut Chance, id: LinkId, frames: Vec<Bytes>) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        match link.current {
            Some(peer) => self.push(chance, peer, Way::ToController, Packet::Message(frames)),
            None if link.channel == Channel::IopubEngine => {}
            None => link.backlog.push_back(frames),
        }
    }

    /// The controller sends. Returns whether the peer counts as congested from now on.
    pub fn send_to_peer(&mut self, chance: &mut Chance, peer: PeerId, frames: Vec<Bytes>) -> bool {
        let Some(connection) = self.connections.get_mut(&peer) else {
            return false;
        };
        let waiting = connection.queues[Way::ToPeer as usize].len();
        if waiting >= QUEUE_MAX {
            if connection.channel.socket_type() != SocketType::Pub {
                self.lose(chance, peer, false);
            }
            return false;
        }
        let congested = !connection.congested && waiting >= CONGESTED_FROM;
        connection.congested |= congested;
        self.push(chance, peer, Way::ToPeer, Packet::Message(frames));
        congested
    }

    fn push(&mut self, chance: &mut Chance, peer: PeerId, way: Way, packet: Packet) {
        let Some(connection) = self.connections.get_mut(&peer) else {
            return;
        };
        connection.queues[way as usize].push_back(packet);
        let slow = self.hosts[&connection.host].slow && way == Way::ToPeer;
        let delay = match chance.below(20) {
            _ if slow => chance.millis(200, 900),
            0 => chance.millis(5, 60),
            _ => chance.micros(50, 3000),
        };
        self.steps.push((delay, NetStep::Arrive(peer, way)));
    }

    /// Takes the next packet of a connection, if it gets through. The flag: a peer is drained.
    pub fn arrive(&mut self, peer: PeerId, way: Way) -> Option<(Packet, bool)> {
        let connection = self.connections.get_mut(&peer)?;
        let host = &self.hosts[&connection.host];
        if host.silent || host.frozen {
            connection.stuck[way as usize] += 1;
            return None;
        }
        if connection.lost {
            return None;
        }
        let packet = connection.queues[way as usize].pop_front()?;
        let left = connection.queues[Way::ToPeer as usize].len();
        let drained = way == Way::ToPeer && connection.congested && left <= DRAINED_AT;
        connection.congested &= !drained;
        Some((packet, drained))
    }

    /// The link that a packet to a peer reaches, unless its process is gone or connected anew.
    pub fn receiver(&self, peer: PeerId) -> Option<&Link> {
        let link = self.links.get(&self.connections.get(&peer)?.link)?;
        (link.current == Some(peer)).then_some(link)
    }

    pub fn is_up(&self, id: LinkId) -> bool {
        self.links
            .get(&id)
            .is_some_and(|link| link.current.is_some())
    }

    /// A connection breaks; the controller may not notice for a while.
    pub fn lose(&mut self, chance: &mut Chance, peer: PeerId, unnoticed: bool) {
        let Some(connection) = self.connections.get_mut(&peer) else {
            return;
        };
        connection.lost = true;
        let noticed = if unnoticed {
            chance.millis(4000, 20_000)
        } else {
            chance.millis(1, 300)
        };
        self.steps.push((noticed, NetStep::Gone(peer)));
        self.reconnect_later(peer);
    }

    fn reconnect_later(&mut self, peer: PeerId) {
        let id = self.connections[&peer].link;
        if let Some(link) = self.links.get_mut(&id)
            && link.current == Some(peer)
        {
            link.current = None;
            self.steps.push((RECONNECT, NetStep::Connect(id)));
        }
    }

    pub fn break_host(&mut self, chance: &mut Chance, host: HostId, unnoticed: bool) {
        let own = self
            .connections
            .iter()
            .filter(|(_, c)| c.host == host && !c.lost);
        let peers: Vec<PeerId> = own.map(|(peer, _)| *peer).collect();
        for peer in peers {
            self.lose(chance, peer, unnoticed);
        }
    }

    /// Connections that break on their own; those of clients are left alone.
    pub fn break_one(&mut self, chance: &mut Chance) {
        let own = self.connections.iter().filter(|(_, connection)| {
            let owner = self.links.get(&connection.link).map(|link| link.owner);
            !connection.lost && matches!(owner, Some(Owner::Engine(_)))
        });
        let peers: Vec<PeerId> = own.map(|(peer, _)| *peer).collect();
        if let Some(peer) = chance.pick(&peers).copied() {
            let unnoticed = chance.percent(30);
            self.lose(chance, peer, unnoticed);
        }
    }

    /// Ends silence: everything that was held up arrives.
    pub fn heal(&mut self, chance: &mut Chance, host: HostId) {
        if let Some(host) = self.hosts.get_mut(&host) {
            host.silent = false;
            host.frozen = false;
            host.slow = false;
        }
        for (peer, connection) in self.connections.iter_mut().filter(|(_, c)| c.host == host) {
            for way in [Way::ToController, Way::ToPeer] {
                for _ in 0..std::mem::take(&mut connection.stuck[way as usize]) {
                    let delay = chance.micros(50, 2000);
                    self.steps.push((delay, NetStep::Arrive(*peer, way)));
                }
            }
        }
    }

    /// The connection has ended for the controller. Returns whether the controller knew it.
    pub fn forget(&mut self, peer: PeerId) -> bool {
        if !self.connections.contains_key(&peer) {
            return false;
        }
        self.reconnect_later(peer);
        let Some(gone) = self.connections.remove(&peer) else {
            return false;
        };
        if gone.admitted
            && let Some(heir) = self
                .connections
                .values_mut()
                .find(|c| c.known && c.claims(&gone))
        {
            heir.admitted = true;
        }
        gone.known
    }

    /// The controller is told of a connection.
    pub fn introduce(&mut self, peer: PeerId) {
        let Some(connection) = self.connections.get(&peer) else {
            return;
        };
        let taken = self
            .connections
            .values()
            .any(|c| c.admitted && c.claims(connection));
        if let Some(connection) = self.connections.get_mut(&peer) {
            connection.known = true;
            connection.admitted = !taken;
        }
    }

    /// The controller is gone, and with it all connections.
    pub fn controller_crashed(&mut self) {
        self.controller_up = false;
        let peers: Vec<PeerId> = self.connections.keys().copied().collect();
        for peer in peers {
            self.forget(peer);
        }
    }

    /// What becomes of a probe: an answer, or nothing for now.
    pub fn probe(&self, peer: PeerId) -> Option<bool> {
        let connection = self.connections.get(&peer)?;
        let host = &self.hosts[&connection.host];
        Some(!connection.lost && !host.silent && !host.frozen && !host.off)
    }
}
