//! Watches the network interfaces: which of them are used, and when that changes.
//!
//! The kernel tells of every change over a netlink socket. What it tells is only looked at for what a
//! later look at the interfaces would not show: a link that went down and up again, an address that was
//! taken away and given back.

use std::collections::BTreeSet;
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

/// The addresses of the interfaces in use, with the interface's index.
type Usable = BTreeSet<(u32, IpAddr)>;

/// What a change amounts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// An address came, or is gone.
    Addresses,
    /// One that was gone is back, or was away for a moment.
    Return,
}

pub(super) struct Links {
    socket: AsyncFd<OwnedFd>,
    filter: InterfaceFilter,
    usable: Usable,
    /// What was gone at some moment, since the last [`Change::Return`].
    lost: Usable,
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
            lost: Usable::new(),
            filter,
            changed_at: None,
        })
    }

    /// Waits for a change of an interface that is used, and until it has settled. Nothing is lost if the
    /// future is dropped.
    pub(super) async fn changed(&mut self) -> Change {
        loop {
            if let Some(at) = self.changed_at {
                sleep_until(at + SETTLE).await;
                self.look();
                self.changed_at = None;
                if self.usable.is_disjoint(&self.lost) {
                    return Change::Addresses;
                }
                self.lost.clear();
                return Change::Return;
            }
            match self.socket.readable().await {
                Ok(mut ready) => ready.clear_ready(),
                // The runtime ends.
                Err(_) => std::future::pending().await,
            }
            self.look();
        }
    }

    /// Reads what the kernel tells, and looks for itself.
    fn look(&mut self) {
        let mut interrupted = BTreeSet::new();
        let mut buffer = [0; 16 * 1024];
        loop {
            match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(length) => interrupted.extend(interruptions(&buffer[..length])),
                Err(Errno::EINTR) => {}
                // Messages were lost, and nobody knows which.
                Err(Errno::ENOBUFS) => interrupted.extend(self.usable.iter().map(|u| u.0)),
                Err(_) => break,
            }
        }
        let now = usable(&self.filter);
        let was_there = self.usable.iter().copied();
        let lost: Usable = was_there
            .filter(|u| interrupted.contains(&u.0) || !now.contains(u))
            .collect();
        if !lost.is_empty() || now != self.usable {
            self.changed_at.get_or_insert_with(Instant::now);
        }
        self.lost.extend(lost);
        self.usable = now;
    }
}

/// The indexes of interfaces that went down or lost an address.
fn interruptions(messages: &[u8]) -> Vec<u32> {
    let mut found = Vec::new();
    let mut rest = messages;
    // nlmsghdr: length, type, flags, sequence, port. Then ifinfomsg or ifaddrmsg: both have the index
    // at 4, and the first has the link's flags at 8.
    while let Some(length) = number(rest, 0).filter(|l| *l >= 16) {
        let kind = number(rest, 4).unwrap_or(0) as u16;
        let is_down = number(rest, 24).is_some_and(|f| f & UP_AND_RUNNING != UP_AND_RUNNING);
        let is_interrupted = match kind {
            RTM_NEWLINK => is_down,
            RTM_DELLINK | RTM_DELADDR => true,
            _ => false,
        };
        if is_interrupted {
            found.extend(number(rest, 20));
        }
        let next = (length as usize).next_multiple_of(4);
        rest = rest.get(next..).unwrap_or_default();
    }
    found
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

fn usable(filter: &InterfaceFilter) -> Usable {
    let Ok(all) = getifaddrs() else {
        return Usable::new();
    };
    all.filter_map(|interface| {
        let flags = interface.flags;
        let is_up = flags.contains(InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING);
        let is_loopback = flags.contains(InterfaceFlags::IFF_LOOPBACK);
        let name = interface.interface_name.as_str();
        if !is_up || !filter.allows(name, is_loopback) {
            return None;
        }
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        let v6 = || address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip()));
        Some((if_nametoindex(name).ok()?, v4.or_else(v6)?))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, index: u32, flags: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(32u32.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 14]);
        bytes.extend(index.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes
    }

    #[test]
    fn a_link_that_went_down_or_lost_an_address_is_noticed() {
        let one = |kind, flags| interruptions(&message(kind, 3, flags));
        assert_eq!(one(RTM_NEWLINK, 0x1), [3], "no carrier");
        assert_eq!(one(RTM_NEWLINK, 0x40), [3], "set down");
        assert!(one(RTM_NEWLINK, UP_AND_RUNNING).is_empty());
        const RTM_NEWADDR: u16 = 20;
        assert!(one(RTM_NEWADDR, 0).is_empty());
        let both = [message(RTM_DELADDR, 3, 0), message(RTM_DELLINK, 4, 0)];
        assert_eq!(interruptions(&both.concat()), [3, 4]);
    }

    #[test]
    fn damaged_messages_are_passed_over() {
        let whole = message(RTM_DELLINK, 3, 0);
        for length in 0..20 {
            assert!(interruptions(&whole[..length]).is_empty());
        }
        let mut endless = message(RTM_DELLINK, 3, 0);
        endless[..4].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert_eq!(interruptions(&endless), [3]);
    }
}
