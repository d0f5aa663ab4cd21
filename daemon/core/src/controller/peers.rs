//! Who is connected: connections by number, and by the routing id that messages name.
//!
//! A routing id belongs to one connection of a channel at a time. When a second connection claims it,
//! the first is probed: if it answers, the second is closed (someone uses another's uuid); if it does
//! not, or is gone, the second takes over (an engine came back after its network was away).

use std::collections::BTreeMap;
use std::mem;
use std::time::Duration;

use bytes::Bytes;
use foldhash::HashMap;

use crate::channel::{Channel, Side, SocketType};
use crate::ids::PeerId;
use crate::limits::CLAIM_PROBE;
use crate::wire::zmtp::PublicKey;

/// One connection.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) channel: Channel,
    /// What routing frames call it: its own routing id, or one given to it.
    pub(crate) identity: Bytes,
    pub(crate) curve_key: Option<PublicKey>,
    pub(crate) side: Side,
    pub(crate) address: String,
    /// It holds its routing id, so it may speak.
    pub(crate) admitted: bool,
    /// More waits for it than may.
    pub(crate) congested: bool,
    /// When it answered a heartbeat without being registered.
    pub(crate) last_pong: Option<Duration>,
    pub(crate) has_subscribed: bool,
}

/// What became of a new connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    Admitted,
    /// Another connection holds its routing id and has to be probed first.
    Probing {
        holder: PeerId,
    },
    /// Two claims on one id are enough.
    Refused,
}

/// A connection that waits for the id of another.
#[derive(Debug)]
struct Claim {
    claimant: PeerId,
    deadline: Duration,
}

#[derive(Debug, Default)]
pub(crate) struct Peers {
    peers: HashMap<PeerId, Peer>,
    /// By channel, so that a routing frame is looked up without a copy.
    routes: [HashMap<Bytes, PeerId>; Channel::ALL.len()],
    counts: [usize; Channel::ALL.len()],
    /// By the connection that holds the contested id.
    claims: BTreeMap<PeerId, Claim>,
    next_anonymous: u32,
}

impl Peers {
    /// `anonymous`: where routing ids that are given out begin. It differs from one run of a controller
    /// to the next, so that a late reply is not taken for another client's.
    pub(crate) fn new(anonymous: u32) -> Self {
        Self {
            next_anonymous: anonymous,
            ..Self::default()
        }
    }

    /// Takes a new connection in. One without a routing id gets one of libzmq's form: five bytes,
    /// the first of them zero.
    pub(crate) fn connect(&mut self, now: Duration, id: PeerId, mut peer: Peer) -> Admission {
        if peer.identity.is_empty() {
            self.next_anonymous = self.next_anonymous.wrapping_add(1);
            let mut identity = vec![0];
            identity.extend_from_slice(&self.next_anonymous.to_be_bytes());
            peer.identity = Bytes::from(identity);
        }
        let routes = &mut self.routes[peer.channel as usize];
        let admission = if peer.channel.socket_type() != SocketType::Router {
            Admission::Admitted
        } else if let Some(holder) = routes.get(&peer.identity) {
            if self.claims.contains_key(holder) {
                return Admission::Refused;
            }
            self.claims.insert(
                *holder,
                Claim {
                    claimant: id,
                    deadline: now + CLAIM_PROBE,
                },
            );
            Admission::Probing { holder: *holder }
        } else {
            routes.insert(peer.identity.clone(), id);
            Admission::Admitted
        };
        self.counts[peer.channel as usize] += 1;
        peer.admitted = admission == Admission::Admitted;
        self.peers.insert(id, peer);
        admission
    }

    /// Forgets a connection. Returns it, and who takes over its routing id.
    pub(crate) fn disconnect(&mut self, id: PeerId) -> Option<(Peer, Option<PeerId>)> {
        let peer = self.peers.remove(&id)?;
        self.counts[peer.channel as usize] -= 1;
        let routes = &mut self.routes[peer.channel as usize];
        if !peer.admitted {
            self.claims.retain(|_, claim| claim.claimant != id);
            return Some((peer, None));
        }
        if routes.get(&peer.identity) == Some(&id) {
            routes.remove(&peer.identity);
        }
        let heir = self.claims.remove(&id).map(|claim| claim.claimant);
        if let Some(heir) = heir
            && let Some(next) = self.peers.get_mut(&heir)
        {
            next.admitted = true;
            routes.insert(next.identity.clone(), heir);
        }
        Some((peer, heir))
    }

    /// A probed connection answered: returns the claimant, which has to go.
    pub(crate) fn alive(&mut self, holder: PeerId) -> Option<PeerId> {
        self.claims.remove(&holder).map(|claim| claim.claimant)
    }

    /// Holders that did not answer their probe in time: they have to go.
    pub(crate) fn overdue(&self, now: Duration) -> Vec<PeerId> {
        self.claims
            .iter()
            .filter(|(_, claim)| claim.deadline <= now)
            .map(|(holder, _)| *holder)
            .collect()
    }

    pub(crate) fn next_timeout(&self) -> Option<Duration> {
        self.claims.values().map(|claim| claim.deadline).min()
    }

    pub(crate) fn get(&self, id: PeerId) -> Option<&Peer> {
        self.peers.get(&id)
    }

    pub(crate) fn set_congested(&mut self, id: PeerId, congested: bool) -> Option<&Peer> {
        let peer = self.peers.get_mut(&id)?;
        peer.congested = congested;
        Some(peer)
    }

    pub(crate) fn note_pong(&mut self, id: PeerId, now: Duration) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.last_pong = Some(now);
        }
    }

    /// Whether a subscription is the first of its connection.
    pub(crate) fn subscribes_first(&mut self, id: PeerId) -> bool {
        let peer = self.peers.get_mut(&id);
        peer.is_some_and(|peer| !mem::replace(&mut peer.has_subscribed, true))
    }

    /// The connection that a routing id names.
    pub(crate) fn route(&self, channel: Channel, identity: &[u8]) -> Option<PeerId> {
        self.routes[channel as usize].get(identity).copied()
    }

    /// Panics if routes, claims and counts do not agree with the connections. For tests.
    pub(crate) fn check_invariants(&self) {
        #[expect(clippy::disallowed_methods, reason = "only looked at")]
        let peers: Vec<(&PeerId, &Peer)> = self.peers.iter().collect();
        for (id, peer) in &peers {
            let holder = self.route(peer.channel, &peer.identity);
            if peer.channel.socket_type() == SocketType::Router {
                assert_eq!(holder == Some(**id), peer.admitted, "{id}: {peer:?}");
            }
            let claims = self.claims.values().filter(|claim| claim.claimant == **id);
            assert_eq!(
                claims.count(),
                usize::from(!peer.admitted),
                "{id}: {peer:?}"
            );
        }
        for (holder, claim) in &self.claims {
            let (holder, claimant) = (&self.peers[holder], &self.peers[&claim.claimant]);
            assert!(holder.admitted && !claimant.admitted);
            assert_eq!(
                (holder.channel, &holder.identity),
                (claimant.channel, &claimant.identity)
            );
        }
        let routers = peers
            .iter()
            .filter(|(_, p)| p.channel.socket_type() == SocketType::Router);
        let routes: usize = self.routes.iter().map(HashMap::len).sum();
        assert_eq!(routes, routers.filter(|(_, peer)| peer.admitted).count());
        assert_eq!(self.counts.iter().sum::<usize>(), peers.len());
    }

    /// Connections on one channel.
    pub(crate) fn count(&self, channel: Channel) -> usize {
        self.counts[channel as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(1);

    fn peer(channel: Channel, identity: &'static str) -> Peer {
        Peer {
            channel,
            identity: Bytes::from(identity),
            curve_key: None,
            side: Side::Both,
            address: String::new(),
            admitted: false,
            congested: false,
            last_pong: None,
            has_subscribed: false,
        }
    }

    #[test]
    fn peers_without_a_routing_id_get_distinct_ones() {
        let mut peers = Peers::default();
        for n in 0..3 {
            assert_eq!(
                peers.connect(SOON, PeerId(n), peer(Channel::TaskClient, "")),
                Admission::Admitted
            );
        }
        let identity = peers.get(PeerId(2)).map(|p| p.identity.clone()).unwrap();
        assert_eq!(identity, Bytes::from_static(&[0, 0, 0, 0, 3]));
        assert_eq!(peers.route(Channel::TaskClient, &identity), Some(PeerId(2)));
        assert_eq!(peers.route(Channel::MuxClient, &identity), None);
    }

    #[test]
    fn the_holder_that_answers_keeps_its_id() {
        let mut peers = Peers::default();
        peers.connect(SOON, PeerId(1), peer(Channel::MuxEngine, "u"));
        let second = peers.connect(SOON, PeerId(2), peer(Channel::MuxEngine, "u"));
        assert_eq!(second, Admission::Probing { holder: PeerId(1) });
        assert_eq!(
            peers.connect(SOON, PeerId(3), peer(Channel::MuxEngine, "u")),
            Admission::Refused
        );
        assert!(!peers.get(PeerId(2)).unwrap().admitted);
        assert_eq!(peers.alive(PeerId(1)), Some(PeerId(2)));
        peers.disconnect(PeerId(2));
        assert_eq!(peers.route(Channel::MuxEngine, b"u"), Some(PeerId(1)));
        assert_eq!(peers.next_timeout(), None);
    }

    #[test]
    fn the_claimant_takes_over_from_one_that_is_gone() {
        let mut peers = Peers::default();
        peers.connect(SOON, PeerId(1), peer(Channel::MuxEngine, "u"));
        peers.connect(SOON, PeerId(2), peer(Channel::MuxEngine, "u"));
        assert!(peers.overdue(SOON).is_empty());
        assert_eq!(peers.overdue(SOON + CLAIM_PROBE), [PeerId(1)]);
        let (_, heir) = peers.disconnect(PeerId(1)).unwrap();
        assert_eq!(heir, Some(PeerId(2)));
        assert!(peers.get(PeerId(2)).unwrap().admitted);
        assert_eq!(peers.route(Channel::MuxEngine, b"u"), Some(PeerId(2)));
        assert_eq!(peers.count(Channel::MuxEngine), 1);
    }
}
