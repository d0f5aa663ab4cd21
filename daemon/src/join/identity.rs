//! Who this node is, and which controllers it trusts: two files in the state directory.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use piparallel_core::join::keys::{NodeKey, NodeSecret};

use crate::private::{self, write_private};
use crate::random;

const KEY_FILE: &str = "node.key";
const PINS_FILE: &str = "controllers";

/// Reads the node's key, or makes one at its first start.
///
/// # Errors
/// The file is damaged, or cannot be read or written.
pub fn node_secret(state_dir: &Path) -> anyhow::Result<NodeSecret> {
    let path = state_dir.join(KEY_FILE);
    let secret = match private::read(&path)?.map(<[u8; 32]>::try_from) {
        Some(Ok(secret)) => secret,
        Some(Err(_)) => bail!(
            "{} is damaged: remove it, and the node joins as a new one",
            path.display()
        ),
        None => {
            let secret = random::bytes()?;
            write_private(&path, &secret)?;
            secret
        }
    };
    Ok(NodeSecret::new(secret))
}

/// The keys of the controllers that this node belongs or belonged to.
#[derive(Debug)]
pub struct Pins {
    path: PathBuf,
    keys: BTreeSet<NodeKey>,
}

impl Pins {
    /// Reads them; a node that never joined has none.
    ///
    /// # Errors
    /// The file is damaged, or cannot be read.
    pub fn load(state_dir: &Path) -> anyhow::Result<Self> {
        let path = state_dir.join(PINS_FILE);
        let bytes = private::read(&path)?.unwrap_or_default();
        let (keys, rest) = bytes.as_chunks::<32>();
        if !rest.is_empty() {
            bail!(
                "{} is damaged: remove it, and the node accepts the next controller that knows the join key",
                path.display()
            );
        }
        let keys = keys.iter().map(|key| NodeKey(*key)).collect();
        Ok(Self { path, keys })
    }

    #[must_use]
    pub fn keys(&self) -> &BTreeSet<NodeKey> {
        &self.keys
    }

    /// Trusts one more.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn add(&mut self, key: NodeKey) -> anyhow::Result<()> {
        if self.keys.insert(key) {
            let bytes: Vec<u8> = self.keys.iter().flat_map(|key| key.0).collect();
            write_private(&self.path, &bytes)?;
        }
        Ok(())
    }

    /// Trusts nobody any more.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn forget(&mut self) -> anyhow::Result<()> {
        self.keys.clear();
        match fs::remove_file(&self.path) {
            Err(cause) if cause.kind() != ErrorKind::NotFound => {
                Err(cause).with_context(|| format!("cannot remove {}", self.path.display()))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_node_keeps_its_key_private_and_for_good() {
        let dir = tempfile::tempdir().unwrap();
        let key = node_secret(dir.path()).unwrap().public();
        assert_eq!(node_secret(dir.path()).unwrap().public(), key);
        let file = dir.path().join(KEY_FILE);
        assert_eq!(
            fs::metadata(&file).unwrap().permissions().mode() & 0o777,
            0o600
        );
        fs::write(&file, b"short").unwrap();
        let error = node_secret(dir.path()).err().unwrap();
        assert!(error.to_string().contains("damaged"), "{error}");
    }

    #[test]
    fn trust_survives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let key = NodeSecret::new([1; 32]).public();
        Pins::load(dir.path()).unwrap().add(key).unwrap();
        let mut pins = Pins::load(dir.path()).unwrap();
        assert_eq!(pins.keys(), &BTreeSet::from([key]));
        pins.forget().unwrap();
        assert!(Pins::load(dir.path()).unwrap().keys().is_empty());
    }
}
