//! The connection files that leave the controller: one for the engines of each node, one for each laptop.
//! Each has a key of its own, so that it can be taken back alone.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::Context as _;
use piparallel_core::ids::NodeId;
use piparallel_core::wire::zmtp::SecretKey;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

type File = Map<String, Value>;

/// The engines' file, with the key pair that all engines of one node use.
#[must_use]
pub fn for_engines(common: &File, key: &SecretKey) -> File {
    let mut file = common.clone();
    put(&mut file, "curve_publickey", key.public().to_z85());
    put(&mut file, "curve_secretkey", key.to_z85());
    file
}

/// The clients' file, by which one laptop knows the controller.
#[must_use]
pub fn for_laptop(common: &File, key: &SecretKey) -> File {
    let mut file = common.clone();
    put(&mut file, "curve_serverkey", key.public().to_z85());
    file
}

/// Our key for one laptop. It follows from our key for clients, which nobody else knows, so that it need not be
/// kept.
#[must_use]
pub fn laptop_key(client: &SecretKey, laptop: NodeId) -> SecretKey {
    let mut hash = Sha256::new();
    hash.update(b"piparallel laptop");
    hash.update(laptop.0);
    hash.update(client.to_z85());
    SecretKey::new(hash.finalize().into())
}

/// Names an address of the controller.
pub fn relocate(file: &mut File, controller: Ipv4Addr) {
    put(file, "location", controller.to_string());
}

/// Names the address at which the reader of the file has reached the controller: whatever that thinks of its
/// addresses, this one works. Stock clients and engines know IPv4 only, so of one that was reached over IPv6 the
/// address that it gives itself has to do.
///
/// # Errors
/// It has no such address.
pub fn locate(file: &mut File, controller: IpAddr) -> anyhow::Result<()> {
    if let IpAddr::V4(address) = controller {
        relocate(file, address);
    }
    location(file).context("the controller has no IPv4 address, which clients and engines need")?;
    Ok(())
}

/// The address of the controller, where the file has one rather than its name.
#[must_use]
pub fn location(file: &File) -> Option<Ipv4Addr> {
    file.get("location")?.as_str()?.parse().ok()
}

fn put(file: &mut File, key: &str, value: String) {
    file.insert(key.to_owned(), json!(value));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_has_keys_of_its_own() {
        let common = File::new();
        let (one, other) = (SecretKey::new([1; 32]), SecretKey::new([2; 32]));
        let file = for_engines(&common, &one);
        assert_eq!(file["curve_publickey"], one.public().to_z85());
        assert_ne!(
            file["curve_secretkey"],
            for_engines(&common, &other)["curve_secretkey"]
        );
        let (a, b) = (NodeId([1; 16]), NodeId([2; 16]));
        let key = laptop_key(&one, a);
        assert!(key == laptop_key(&one, a));
        assert!(key != laptop_key(&one, b) && key != laptop_key(&other, a));
        assert_eq!(
            for_laptop(&common, &key)["curve_serverkey"],
            key.public().to_z85()
        );
    }

    #[test]
    fn the_address_that_was_reached_is_named() {
        let mut file = File::from_iter([("location".to_owned(), json!("10.0.0.1"))]);
        locate(&mut file, "fe80::1".parse().unwrap()).unwrap();
        assert_eq!(file["location"], "10.0.0.1");
        locate(&mut file, "192.168.1.9".parse().unwrap()).unwrap();
        assert_eq!(file["location"], "192.168.1.9");
    }

    #[test]
    fn a_name_is_no_address() {
        let mut file = File::from_iter([("location".to_owned(), json!("pi-1"))]);
        assert!(locate(&mut file, "fe80::1".parse().unwrap()).is_err());
        relocate(&mut file, Ipv4Addr::new(10, 0, 0, 1));
        assert!(locate(&mut file, "fe80::1".parse().unwrap()).is_ok());
    }
}
