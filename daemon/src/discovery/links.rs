//! Watches the network interfaces: which of them are used, and when that changes.
//!
//! The kernel tells of every change over a netlink socket. What it tells is only looked at for what a
//! later look at the interfaces would not show: a link that went down and up again, an address that was
//! taken away and given back.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::{InterfaceFlags, if_nametoindex};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep_until};

use crate::settings::node::InterfaceFilter;

/// rtnetlink(7): the groups for links, IPv4 addresses and IPv6 addresses.
const GROUPS: u32 = 0x1 | 0x10 | 0x100;
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_DELADDR: u16 = 21;
/// netdevice(7): the link is up, and there is a carrier.
const UP_AND_RUNNING: u32 = 0x1 | 0x40;

/// Changes come in bursts, a link with each of its addresses: one event for all of them.
const SETTLE: Duration = Duration::from_millis(300);

/// The interfaces in use, by index, with their addresses.
type Usable = BTreeMap<u32, BTreeSet<IpAddr>>;

pub(super) struct Links {
    socket: AsyncFd<OwnedFd>,
    filter: InterfaceFilter,
    usable: Usable,
    /// Since when there is a change that was not told yet.
    changed_at: Option<Instant>,
}

impl Links {
    pub(super) fn watch(filter: InterfaceFilter) -> io::Result<Self> {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, GROUPS))?;
        // SAFETY: an `OwnedFd` is open as long as it lives, and is always the same.
        let socket = unsafe { AsyncFd::register(fd) }?;
        Ok(Self {
            socket,
            usable: usable(&filter),
            filter,
            changed_at: None,
        })
    }

    /// Waits for a change of an interface that is used, and until it has settled. Nothing is lost if the
    /// future is dropped.
    pub(super) async fn changed(&mut self) {
        loop {
            if let Some(at) = self.changed_at {
                sleep_until(at + SETTLE).await;
                self.drain();
                self.usable = usable(&self.filter);
                self.changed_at = None;
                return;
            }
            match self.socket.readable().await {
                Ok(mut ready) => ready.clear_ready(),
                // The runtime ends.
                Err(_) => std::future::pending().await,
            }
            self.drain();
        }
    }

    fn drain(&mut self) {
        let mut buffer = [0; 16 * 1024];
        let mut has_changed = false;
        loop {
            match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(length) => has_changed |= interrupts(&buffer[..length], &self.usable),
                Err(Errno::EINTR) => {}
                // Messages were lost, and nobody knows which.
                Err(Errno::ENOBUFS) => has_changed = true,
                Err(_) => break,
            }
        }
        if has_changed || usable(&self.filter) != self.usable {
            self.changed_at.get_or_insert_with(Instant::now);
        }
    }
}

/// Whether messages tell that an interface in use was interrupted.
fn interrupts(messages: &[u8], usable: &Usable) -> bool {
    let mut rest = messages;
    // nlmsghdr: length, type, flags, sequence, port. Then ifinfomsg or ifaddrmsg: both have the index
    // at 4, and the first has the link's flags at 8.
    while let Some(length) = number(rest, 0).filter(|l| *l >= 16) {
        let length = length as usize;
        let kind = number(rest, 4).unwrap_or(0) as u16;
        let is_used = number(rest, 20).is_some_and(|index| usable.contains_key(&index));
        let is_down =
            number(rest, 24).is_some_and(|flags| flags & UP_AND_RUNNING != UP_AND_RUNNING);
        let is_interrupted = match kind {
            RTM_NEWLINK => is_down,
            RTM_DELLINK | RTM_DELADDR => true,
            _ => false,
        };
        if is_used && is_interrupted {
            return true;
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    false
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

fn usable(filter: &InterfaceFilter) -> Usable {
    let mut found = Usable::new();
    let Ok(all) = getifaddrs() else {
        return found;
    };
    for interface in all {
        let flags = interface.flags;
        let is_up = flags.contains(InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING);
        let is_loopback = flags.contains(InterfaceFlags::IFF_LOOPBACK);
        let name = interface.interface_name.as_str();
        if !is_up || !filter.allows(name, is_loopback) {
            continue;
        }
        let Ok(index) = if_nametoindex(name) else {
            continue;
        };
        let address = interface.address.and_then(|a| {
            let v4 = a.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
            v4.or_else(|| a.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
        });
        found.entry(index).or_default().extend(address);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, index: u32, flags: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(32u32.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend([0; 4]);
        bytes.extend(index.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes
    }

    #[test]
    fn a_link_that_went_down_or_lost_an_address_is_noticed() {
        let usable = Usable::from([(3, BTreeSet::new())]);
        let tells = |messages: &[Vec<u8>]| interrupts(&messages.concat(), &usable);
        assert!(tells(&[message(RTM_NEWLINK, 3, 0x1)]), "no carrier");
        assert!(tells(&[message(RTM_NEWLINK, 3, 0x40)]), "set down");
        assert!(!tells(&[message(RTM_NEWLINK, 3, UP_AND_RUNNING)]));
        assert!(tells(&[message(RTM_DELADDR, 3, 0)]));
        assert!(tells(&[message(20, 3, 0), message(RTM_DELLINK, 3, 0)]));
        assert!(!tells(&[message(RTM_DELLINK, 4, 0)]), "not in use");
    }

    #[test]
    fn damaged_messages_are_passed_over() {
        let usable = Usable::from([(3, BTreeSet::new())]);
        let whole = message(RTM_DELLINK, 3, 0);
        for length in 0..20 {
            assert!(!interrupts(&whole[..length], &usable));
        }
        let mut endless = message(20, 3, 0);
        endless[..4].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert!(!interrupts(&endless, &usable));
    }
}
