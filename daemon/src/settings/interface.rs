//! From what `--ip` says to addresses that can be bound.
//!
//! Stock clients and engines connect over IPv4 only, so a name that has no IPv4 address is an error
//! here rather than a pool that nobody can join.

use std::net::{IpAddr, Ipv4Addr, ToSocketAddrs as _};

use anyhow::bail;

use crate::address::NetworkInterface;

/// The addresses that `text` stands for: IPv4 addresses, names of network interfaces or hosts, or `*`,
/// separated by commas.
///
/// # Errors
/// A part is none of these, or has no IPv4 address.
pub fn addresses(text: &str, interfaces: &[NetworkInterface]) -> anyhow::Result<Vec<Ipv4Addr>> {
    let mut all = Vec::new();
    for part in text.split(',').map(str::trim) {
        for address in part_addresses(part, interfaces)? {
            if !all.contains(&address) {
                all.push(address);
            }
        }
    }
    if all.contains(&Ipv4Addr::UNSPECIFIED) {
        all = vec![Ipv4Addr::UNSPECIFIED];
    }
    Ok(all)
}

fn part_addresses(part: &str, interfaces: &[NetworkInterface]) -> anyhow::Result<Vec<Ipv4Addr>> {
    if part == "*" {
        return Ok(vec![Ipv4Addr::UNSPECIFIED]);
    }
    match part.parse() {
        Ok(IpAddr::V4(address)) => return Ok(vec![address]),
        Ok(IpAddr::V6(_)) => {
            bail!(
                "stock clients and engines connect over IPv4 only, not {part} (give an IPv4 address)"
            )
        }
        Err(_) => {}
    }
    let of_interface: Vec<_> = interfaces
        .iter()
        .filter(|i| i.name == part)
        .map(|i| i.address)
        .collect();
    if !of_interface.is_empty() {
        return Ok(of_interface);
    }
    if part.is_empty() {
        bail!("an address to listen on is empty (give an IPv4 address, or * for all)");
    }
    let resolved = (part, 0).to_socket_addrs().map(Iterator::collect::<Vec<_>>);
    let first = resolved
        .unwrap_or_default()
        .into_iter()
        .find_map(|a| match a.ip() {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        });
    match first {
        Some(address) => {
            if address.is_loopback() && part != "localhost" {
                log::warn!(
                    "the name {part} means {address} here, which only this machine reaches \
                     (give an address, a network interface or *)"
                );
            }
            Ok(vec![address])
        }
        None => bail!(
            "{part} is no IPv4 address, network interface or known host (give an address, or * for all)"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eth0() -> Vec<NetworkInterface> {
        vec![NetworkInterface {
            name: "eth0".into(),
            address: Ipv4Addr::new(192, 0, 2, 7),
            is_up: true,
        }]
    }

    #[test]
    fn addresses_interfaces_and_names_are_understood() {
        let list = |text| addresses(text, &eth0());
        assert_eq!(list("*").unwrap(), [Ipv4Addr::UNSPECIFIED]);
        assert_eq!(list("127.0.0.1,*").unwrap(), [Ipv4Addr::UNSPECIFIED]);
        assert_eq!(
            list("127.0.0.1, eth0,192.0.2.7").unwrap(),
            [Ipv4Addr::LOCALHOST, Ipv4Addr::new(192, 0, 2, 7)]
        );
        assert_eq!(list("localhost").unwrap(), [Ipv4Addr::LOCALHOST]);
    }

    #[test]
    fn anything_else_is_an_error_with_a_remedy() {
        for text in ["", "::1", "127.0.0.1,", "no such host"] {
            let error = addresses(text, &eth0()).unwrap_err().to_string();
            assert!(error.contains("(give an"), "{text}: {error}");
        }
    }
}
