//! The mDNS library's daemon, from its start to its goodbye.

use std::net::{SocketAddr, SocketAddrV6};
use std::time::Duration;

use mdns_sd::{
    DaemonEvent, IfKind, IfPredicate, Receiver, ResolvedService, ScopedIp, ServiceDaemon,
    ServiceEvent, ServiceInfo,
};
use tokio::time::timeout;

use super::{Event, Service, Sighting};
use crate::settings::node::InterfaceFilter;

const SERVICE_TYPE: &str = "_piparallel._tcp.local.";

/// How long the goodbye may take: it is a few packets.
const GOODBYE: Duration = Duration::from_millis(500);

/// Addresses that come are announced within this time.
const IP_CHECK_SECONDS: u32 = 1;

pub(super) struct Daemon {
    daemon: ServiceDaemon,
    found: Receiver<ServiceEvent>,
    news: Receiver<DaemonEvent>,
    /// The full name of what is announced.
    announced: Option<String>,
}

impl Daemon {
    pub(super) fn start(filter: InterfaceFilter) -> mdns_sd::Result<Self> {
        let daemon = ServiceDaemon::new()?;
        let chosen = IfPredicate::new(move |i| filter.allows(&i.name, i.is_loopback()));
        // The last selection that applies to an interface counts.
        daemon.disable_interface(IfKind::All)?;
        daemon.enable_interface(IfKind::Predicate(chosen))?;
        daemon.set_ip_check_interval(IP_CHECK_SECONDS)?;
        Ok(Self {
            news: daemon.monitor()?,
            found: daemon.browse(SERVICE_TYPE)?,
            daemon,
            announced: None,
        })
    }

    pub(super) fn announce(&mut self, service: &Service) {
        if let Err(cause) = self.try_announce(service) {
            log::warn!("this node cannot be announced: {cause}");
        }
    }

    fn try_announce(&mut self, service: &Service) -> mdns_sd::Result<()> {
        let host = format!("{}.local.", service.host);
        let info = ServiceInfo::new(
            SERVICE_TYPE,
            &service.instance,
            &host,
            (),
            service.port,
            service.txt.as_slice(),
        )?
        .enable_addr_auto();
        let name = info.get_fullname().to_owned();
        if let Some(before) = self.announced.replace(name.clone())
            && before != name
        {
            self.daemon.unregister(&before)?;
        }
        self.daemon.register(info)
    }

    /// The next event; `None`: this daemon is of no use any more.
    pub(super) async fn next_event(&mut self) -> Option<Event> {
        loop {
            tokio::select! {
                found = self.found.recv_async() => match found.ok()? {
                    ServiceEvent::ServiceResolved(service) => {
                        return Some(Event::Seen(sighting(&service)));
                    }
                    ServiceEvent::ServiceRemoved(_, name) => {
                        return Some(Event::Gone(instance(&name)));
                    }
                    _ => {}
                },
                news = self.news.recv_async() => match news.ok()? {
                    DaemonEvent::Error(cause) => log::warn!("multicast DNS: {cause}"),
                    DaemonEvent::NameChange(change) => log::warn!(
                        "another node has the name {}: this one is announced as {}",
                        change.original,
                        change.new_name
                    ),
                    event => log::debug!("multicast DNS: {event:?}"),
                },
            }
        }
    }

    pub(super) async fn stop(self) {
        if let Ok(stopped) = self.daemon.shutdown() {
            // Whoever misses the goodbye forgets us when the record expires.
            let _ = timeout(GOODBYE, stopped.recv_async()).await;
        }
    }
}

fn sighting(service: &ResolvedService) -> Sighting {
    let mut addresses: Vec<_> = service
        .get_addresses()
        .iter()
        .map(|ip| socket_address(ip, service.get_port()))
        .collect();
    addresses.sort_unstable_by_key(|a| (is_link_local(a), a.is_ipv6(), *a));
    let txt = service.get_properties().iter();
    Sighting {
        instance: instance(service.get_fullname()),
        addresses,
        txt: txt
            .map(|p| (p.key().to_owned(), p.val().unwrap_or_default().to_vec()))
            .collect(),
    }
}

fn socket_address(ip: &ScopedIp, port: u16) -> SocketAddr {
    match ip {
        // Without its scope a link-local address leads nowhere.
        ScopedIp::V6(v6) => SocketAddrV6::new(*v6.addr(), port, 0, v6.scope_id().index).into(),
        other => SocketAddr::new(other.to_ip_addr(), port),
    }
}

fn is_link_local(address: &SocketAddr) -> bool {
    match address {
        SocketAddr::V4(v4) => v4.ip().is_link_local(),
        SocketAddr::V6(v6) => v6.ip().is_unicast_link_local(),
    }
}

fn instance(full_name: &str) -> String {
    let name = full_name.strip_suffix(SERVICE_TYPE).unwrap_or(full_name);
    unescape(name.strip_suffix('.').unwrap_or(name))
}

/// Dots and backslashes of an instance's name are escaped in its full name.
fn unescape(name: &str) -> String {
    let mut plain = String::with_capacity(name.len());
    let mut chars = name.chars();
    while let Some(c) = chars.next() {
        plain.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_instance_is_what_was_announced() {
        let service =
            |name: &str| ServiceInfo::new(SERVICE_TYPE, name, "h.local.", (), 1, None).unwrap();
        for name in ["pi-3 K7QM", "a.b\\c", "größe (2)"] {
            assert_eq!(instance(service(name).get_fullname()), name);
        }
    }
}
