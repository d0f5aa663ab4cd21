//! The connection files that leave the controller: one for the engines of each node, one for each laptop.
//! Each has a key of its own, so that it can be taken back alone.

use std::net::IpAddr;

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

/// Names the address at which the reader of the file has reached the controller: whatever that thinks of its
/// addresses, this one works. Stock clients and engines know IPv4 only.
pub fn locate(file: &mut File, controller: IpAddr) {
    if let IpAddr::V4(address) = controller {
        put(file, "location", address.to_string());
    }
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
        locate(&mut file, "fe80::1".parse().unwrap());
        assert_eq!(file["location"], "10.0.0.1");
        locate(&mut file, "192.168.1.9".parse().unwrap());
        assert_eq!(file["location"], "192.168.1.9");
    }
}
