//! Which of a machine's addresses other machines should use.
//!
//! A reader of a connection file replaces `*` with the file's `location`, or with loopback if that is
//! its own address. Host names are no good there: Debian gives a host's own name 127.0.1.1, fresh Pis
//! are all called `raspberrypi`, and not every network resolves names. So `location` is an address.

use std::net::Ipv4Addr;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

/// One address of one interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkInterface {
    pub name: String,
    pub address: Ipv4Addr,
    pub is_up: bool,
}

/// The IPv4 addresses of this machine; none if the system does not say.
#[must_use]
pub fn interfaces() -> Vec<NetworkInterface> {
    let Ok(all) = getifaddrs() else {
        return Vec::new();
    };
    all.filter_map(|i| {
        let address = i.address?.as_sockaddr_in()?.ip();
        Some(NetworkInterface {
            name: i.interface_name,
            address,
            is_up: i.flags.contains(InterfaceFlags::IFF_UP),
        })
    })
    .collect()
}

/// The interface of the default route; none without one.
#[must_use]
pub fn default_route() -> Option<String> {
    default_route_in(&std::fs::read_to_string("/proc/net/route").ok()?)
}

/// Columns: Iface Destination Gateway Flags RefCnt Use Metric Mask ...
fn default_route_in(table: &str) -> Option<String> {
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let column: Vec<_> = line.split_whitespace().collect();
            let is_default =
                column.get(1) == Some(&"00000000") && column.get(7) == Some(&"00000000");
            let metric: u32 = column.get(6)?.parse().ok()?;
            is_default.then(|| (metric, column[0].to_owned()))
        })
        .min()
        .map(|(_, name)| name)
}

/// The address of a side that listens on `bound`: a concrete one if there is one, else the best of the
/// machine, else loopback. With `tunnelled` (an ssh server is set) even a side that listens on loopback
/// gets an address of the machine: stock clients use the tunnel only if `location` is not theirs.
///
/// `None`: only this machine can connect. Stock clients then compare `location` with the host's name.
#[must_use]
pub fn location(
    bound: &[Ipv4Addr],
    tunnelled: bool,
    interfaces: &[NetworkInterface],
    default_route: Option<&str>,
) -> Option<Ipv4Addr> {
    let concrete = bound
        .iter()
        .find(|a| !a.is_loopback() && !a.is_unspecified());
    if let Some(address) = concrete {
        return Some(*address);
    }
    if bound.iter().all(Ipv4Addr::is_loopback) && !tunnelled {
        return None;
    }
    routable(interfaces, default_route)
}

/// The address at which other machines reach this one now, if they do.
#[must_use]
pub fn own() -> Option<Ipv4Addr> {
    routable(&interfaces(), default_route().as_deref())
}

fn routable(interfaces: &[NetworkInterface], default_route: Option<&str>) -> Option<Ipv4Addr> {
    interfaces
        .iter()
        .filter(|i| i.is_up && !i.address.is_loopback() && !is_private_to_host(&i.name))
        .min_by_key(|i| {
            (
                i.address.is_link_local(),
                Some(i.name.as_str()) != default_route,
            )
        })
        .map(|i| i.address)
}

/// Interfaces of containers, virtual machines and tunnels: other machines do not reach the pool by
/// them. Whoever wants one names it with `--location`.
pub(crate) fn is_private_to_host(name: &str) -> bool {
    const PREFIXES: [&str; 21] = [
        "br-",
        "cali",
        "cilium",
        "cni",
        "docker",
        "dummy",
        "flannel",
        "gre",
        "ifb",
        "lxc",
        "lxdbr",
        "podman",
        "ppp",
        "tailscale",
        "tap",
        "tun",
        "veth",
        "virbr",
        "vmnet",
        "wg",
        "zt",
    ];
    PREFIXES.iter().any(|p| name.starts_with(p))
}

/// This machine's name; loopback if it has none.
#[must_use]
pub fn host_name() -> String {
    nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_else(|| Ipv4Addr::LOCALHOST.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Vec<NetworkInterface> {
        [
            ("lo", [127, 0, 0, 1], true),
            ("docker0", [172, 17, 0, 1], true),
            ("usb0", [169, 254, 3, 4], true),
            ("eth1", [10, 1, 0, 9], false),
            ("wlan0", [192, 168, 1, 20], true),
            ("eth0", [10, 0, 0, 7], true),
            ("wg0", [10, 9, 0, 1], true),
        ]
        .into_iter()
        .map(|(name, address, is_up)| NetworkInterface {
            name: name.to_owned(),
            address: Ipv4Addr::from(address),
            is_up,
        })
        .collect()
    }

    #[test]
    fn the_interface_of_the_default_route_is_preferred() {
        let all = [Ipv4Addr::UNSPECIFIED];
        let choose = |route| location(&all, false, &machine(), route);
        assert_eq!(choose(Some("eth0")), Some(Ipv4Addr::new(10, 0, 0, 7)));
        assert_eq!(choose(Some("wlan0")), Some(Ipv4Addr::new(192, 168, 1, 20)));
        assert_eq!(
            choose(Some("wg0")),
            Some(Ipv4Addr::new(192, 168, 1, 20)),
            "no tunnel"
        );
        assert_eq!(choose(None), Some(Ipv4Addr::new(192, 168, 1, 20)));
    }

    #[test]
    fn a_link_local_address_is_better_than_none() {
        let few = &machine()[..3];
        assert_eq!(
            location(&[Ipv4Addr::UNSPECIFIED], false, few, None),
            Some(Ipv4Addr::new(169, 254, 3, 4))
        );
        assert_eq!(
            location(&[Ipv4Addr::UNSPECIFIED], false, &few[..2], None),
            None
        );
    }

    #[test]
    fn what_is_bound_decides_first() {
        let concrete = Ipv4Addr::new(192, 168, 1, 20);
        let bound = [Ipv4Addr::LOCALHOST, concrete];
        assert_eq!(
            location(&bound, false, &machine(), Some("eth0")),
            Some(concrete)
        );
        let local = [Ipv4Addr::LOCALHOST];
        assert_eq!(location(&local, false, &machine(), Some("eth0")), None);
        assert_eq!(
            location(&local, true, &machine(), Some("eth0")),
            Some(Ipv4Addr::new(10, 0, 0, 7))
        );
    }

    #[test]
    fn the_default_route_is_the_one_with_the_lowest_metric() {
        let table = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
            wlan0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n\
            eth0\t00000000\t0100000A\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
            eth0\t0000000A\t00000000\t0001\t0\t0\t50\t00FFFFFF\t0\t0\t0\n";
        assert_eq!(default_route_in(table).as_deref(), Some("eth0"));
        assert_eq!(default_route_in(""), None);
    }
}
