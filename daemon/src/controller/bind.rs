//! Binds every socket of a controller before anything is told about it.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};

use anyhow::bail;
use nix::sys::socket::{Backlog, listen};
use piparallel_core::channel::{Channel, Side};

use crate::settings::{ControllerSettings, PortPlan, PortRange};

/// All sockets, bound and listening, in the order of [`Channel::ALL`]. A channel appears once for
/// each address of its side, `registration` once for each address of both, and `BroadcastEngine` also
/// once for each of [`Bound::leaves`].
#[derive(Debug)]
pub struct Bound {
    pub listeners: Vec<(Channel, TcpListener)>,
    pub ports: BTreeMap<Channel, u16>,
    /// All ports of `BroadcastEngine`. One is enough; engines of a controller that had more expect as
    /// many again when it is restored.
    pub leaves: Vec<u16>,
}

/// Connections that may wait to be accepted: a shelf of engines that starts at once must not run into
/// SYN retries. The system's `net.core.somaxconn` (4096) is a further bound.
const BACKLOG: Backlog = Backlog::MAXALLOWABLE;

/// A free port is looked for this often when a side has several addresses.
const FREE_PORT_TRIES: u32 = 32;

/// Binds everything, by the plan in `settings`.
///
/// # Errors
/// A port is in use, a pool of ports is used up, an address is not this machine's.
pub fn bind(settings: &ControllerSettings) -> anyhow::Result<Bound> {
    let mut pools = Pools::new(&settings.ports);
    let mut bound = Bound {
        listeners: Vec::new(),
        ports: BTreeMap::new(),
        leaves: Vec::new(),
    };
    for channel in Channel::ALL {
        let addresses = addresses(settings, channel);
        let port = pools.bind(&mut bound.listeners, channel, &addresses)?;
        bound.ports.insert(channel, port);
        if channel == Channel::BroadcastEngine {
            bound.leaves.push(port);
        }
    }
    Ok(bound)
}

/// Binds the ports that connection files name, so that peers of an earlier controller find this one.
///
/// # Errors
/// A port is in use, an address is not this machine's.
pub fn bind_again(
    settings: &ControllerSettings,
    ports: &BTreeMap<Channel, u16>,
    leaves: &[u16],
) -> anyhow::Result<Bound> {
    let mut listeners = Vec::new();
    for (channel, port) in ports {
        let own = [*port];
        let all = match channel {
            Channel::BroadcastEngine => leaves,
            _ => &own,
        };
        for port in all {
            bind_fixed(
                &mut listeners,
                *channel,
                &addresses(settings, *channel),
                *port,
            )?;
        }
    }
    listeners.sort_by_key(|(channel, _)| Channel::ALL.iter().position(|c| c == channel));
    Ok(Bound {
        listeners,
        ports: ports.clone(),
        leaves: leaves.to_vec(),
    })
}

fn addresses(settings: &ControllerSettings, channel: Channel) -> Vec<Ipv4Addr> {
    let mut addresses = match channel.side() {
        Side::Client | Side::Both => settings.client.addresses.clone(),
        Side::Engine => settings.engine.addresses.clone(),
    };
    if channel.side() == Side::Both {
        addresses.extend(&settings.engine.addresses);
        addresses.sort_unstable();
        addresses.dedup();
    }
    if addresses.contains(&Ipv4Addr::UNSPECIFIED) {
        addresses = vec![Ipv4Addr::UNSPECIFIED];
    }
    addresses
}

type Listeners = Vec<(Channel, TcpListener)>;

/// What is left of the plan.
struct Pools<'a> {
    plan: &'a PortPlan,
    client: Pool,
    engine: Pool,
    common: Pool,
}

impl<'a> Pools<'a> {
    fn new(plan: &'a PortPlan) -> Self {
        Self {
            plan,
            client: Pool::new(&plan.client),
            engine: Pool::new(&plan.engine),
            common: Pool::new(&plan.common),
        }
    }

    fn bind(
        &mut self,
        listeners: &mut Listeners,
        channel: Channel,
        addresses: &[Ipv4Addr],
    ) -> anyhow::Result<u16> {
        let fixed = self.plan.fixed.iter().find(|(c, _)| *c == channel);
        if let Some((_, port)) = fixed {
            bind_fixed(listeners, channel, addresses, *port)?;
            return Ok(*port);
        }
        let (own, name) = match channel.side() {
            Side::Client => (&mut self.client, "client_ports"),
            Side::Engine | Side::Both => (&mut self.engine, "engine_ports"),
        };
        if !own.is_configured && !self.common.is_configured {
            return bind_free(listeners, channel, addresses);
        }
        while let Some(candidate) = own.next().or_else(|| self.common.next()) {
            match bind_port(listeners, channel, addresses, candidate.port) {
                Ok(_) => return Ok(candidate.port),
                Err(e) if candidate.is_replaceable && e.kind() == ErrorKind::AddrInUse => {
                    log::info!("port {} is in use, taking the next one", candidate.port);
                }
                Err(e) => return Err(cannot_bind(e, channel, candidate.port)),
            }
        }
        let pool = if own.is_configured { name } else { "ports" };
        bail!(
            "no port is left in {pool} for {} ({} are needed: --ports=10101-10120)",
            channel.name(),
            Channel::ALL.len()
        )
    }
}

/// One configured list of ports, in order.
struct Pool {
    is_configured: bool,
    candidates: std::vec::IntoIter<Candidate>,
}

struct Candidate {
    port: u16,
    /// It is one of a range, so another will do.
    is_replaceable: bool,
}

impl Pool {
    fn new(ranges: &[PortRange]) -> Self {
        let candidates: Vec<_> = ranges
            .iter()
            .flat_map(|range| {
                (range.first..=range.last).map(|port| Candidate {
                    port,
                    is_replaceable: range.first < range.last,
                })
            })
            .collect();
        Self {
            is_configured: !ranges.is_empty(),
            candidates: candidates.into_iter(),
        }
    }

    fn next(&mut self) -> Option<Candidate> {
        self.candidates.next()
    }
}

fn bind_free(
    listeners: &mut Listeners,
    channel: Channel,
    addresses: &[Ipv4Addr],
) -> anyhow::Result<u16> {
    let mut tries = 0;
    loop {
        tries += 1;
        match bind_port(listeners, channel, addresses, 0) {
            Ok(port) => return Ok(port),
            // The port was free on the first address and is not on another.
            Err(e) if e.kind() == ErrorKind::AddrInUse && tries < FREE_PORT_TRIES => {}
            Err(e) => return Err(cannot_bind(e, channel, 0)),
        }
    }
}

fn bind_fixed(
    listeners: &mut Listeners,
    channel: Channel,
    addresses: &[Ipv4Addr],
    port: u16,
) -> anyhow::Result<u16> {
    bind_port(listeners, channel, addresses, port).map_err(|e| cannot_bind(e, channel, port))
}

/// Binds one port on all addresses, or on none. Port 0 takes any that is free.
fn bind_port(
    listeners: &mut Listeners,
    channel: Channel,
    addresses: &[Ipv4Addr],
    port: u16,
) -> io::Result<u16> {
    let before = listeners.len();
    let mut port = port;
    for address in addresses {
        match listener(*address, port) {
            Ok((listener, actual)) => {
                port = actual;
                listeners.push((channel, listener));
            }
            Err(e) => {
                listeners.truncate(before);
                return Err(e);
            }
        }
    }
    Ok(port)
}

fn listener(address: Ipv4Addr, port: u16) -> io::Result<(TcpListener, u16)> {
    // The standard library sets SO_REUSEADDR, so that connections of a dead controller that still
    // linger do not hold its ports.
    let listener = TcpListener::bind(SocketAddrV4::new(address, port))?;
    listen(&listener, BACKLOG)?;
    listener.set_nonblocking(true)?;
    let port = listener.local_addr()?.port();
    Ok((listener, port))
}

fn cannot_bind(error: io::Error, channel: Channel, port: u16) -> anyhow::Error {
    let name = channel.name();
    match error.kind() {
        ErrorKind::AddrInUse => anyhow::anyhow!(
            "port {port} for {name} is in use (end the program that has it, see `ss -ltnp`, or give other --ports)"
        ),
        ErrorKind::AddrNotAvailable => anyhow::anyhow!(
            "cannot listen for {name} on an address that this machine does not have (see `ip addr`; --ip=* listens on all)"
        ),
        ErrorKind::PermissionDenied => anyhow::anyhow!(
            "port {port} for {name} is reserved for the system (give ports above 1023)"
        ),
        _ => anyhow::Error::new(error).context(format!("cannot listen on port {port} for {name}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::tests::settings_for_test;

    fn range(first: u16, last: u16) -> PortRange {
        PortRange { first, last }
    }

    #[test]
    fn every_channel_gets_a_listening_port_of_its_own() {
        let bound = bind(&settings_for_test()).unwrap();
        assert_eq!(bound.listeners.len(), Channel::ALL.len());
        let mut ports: Vec<_> = bound.ports.values().collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), Channel::ALL.len());
        for (channel, listener) in &bound.listeners {
            let address = listener.local_addr().unwrap();
            assert_eq!(address.port(), bound.ports[channel]);
            std::net::TcpStream::connect(address).unwrap();
        }
    }

    #[test]
    fn registration_is_bound_once_for_each_address_of_both_sides() {
        let mut settings = settings_for_test();
        settings.engine.addresses = vec![Ipv4Addr::new(127, 0, 0, 2)];
        let bound = bind(&settings).unwrap();
        let count = |c| bound.listeners.iter().filter(|(b, _)| *b == c).count();
        assert_eq!(count(Channel::Registration), 2);
        assert_eq!(count(Channel::MuxEngine), 1);
        settings.client.addresses = vec![Ipv4Addr::UNSPECIFIED];
        let bound = bind(&settings).unwrap();
        let registration = bound
            .listeners
            .iter()
            .find(|(c, _)| *c == Channel::Registration);
        let address = registration.unwrap().1.local_addr().unwrap();
        assert!(address.ip().is_unspecified(), "* covers all others");
    }

    #[test]
    fn a_single_port_in_use_is_an_error_that_names_it() {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = held.local_addr().unwrap().port();
        let mut settings = settings_for_test();
        settings.ports.fixed = vec![(Channel::HbPing, port)];
        let error = bind(&settings).unwrap_err().to_string();
        assert!(
            error.contains(&format!("port {port} for hb_ping is in use")),
            "{error}"
        );
        settings.ports.fixed.clear();
        settings.ports.engine = vec![range(port, port)];
        assert!(
            bind(&settings)
                .unwrap_err()
                .to_string()
                .contains("is in use")
        );
    }

    #[test]
    fn a_range_passes_over_ports_in_use_and_says_when_it_is_used_up() {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = held.local_addr().unwrap().port();
        let mut settings = settings_for_test();
        settings.ports.client = vec![range(port, port + 1), range(port, port + 1)];
        let error = bind(&settings).unwrap_err().to_string();
        assert!(error.contains("no port is left in client_ports"), "{error}");
    }

    #[test]
    fn pools_are_used_up_in_order_the_own_one_first() {
        let plan = PortPlan {
            common: vec![range(5, 6)],
            engine: vec![range(1, 1)],
            ..PortPlan::default()
        };
        let mut pools = Pools::new(&plan);
        let mut next = || {
            pools
                .engine
                .next()
                .or_else(|| pools.common.next())
                .map(|c| c.port)
        };
        assert_eq!(
            [next(), next(), next(), next()],
            [Some(1), Some(5), Some(6), None]
        );
    }

    #[test]
    fn an_address_of_another_machine_is_refused() {
        let mut settings = settings_for_test();
        settings.client.addresses = vec![Ipv4Addr::new(203, 0, 113, 1)];
        let error = bind(&settings).unwrap_err().to_string();
        assert!(error.contains("does not have"), "{error}");
    }

    #[test]
    fn the_same_ports_can_be_bound_again() {
        let settings = settings_for_test();
        let first = bind(&settings).unwrap();
        let leaves = [first.leaves[0], first.ports[&Channel::HbPong]];
        let mut ports = first.ports.clone();
        drop(first.listeners);
        ports.remove(&Channel::HbPong);
        let again = bind_again(&settings, &ports, &leaves).unwrap();
        assert_eq!(again.listeners.len(), Channel::ALL.len());
        assert_eq!(again.leaves, leaves);
        assert!(
            bind_again(&settings, &ports, &leaves).is_err(),
            "in use now"
        );
    }
}
