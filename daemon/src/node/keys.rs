//! The keys that many share: the join key of the pool, and on a controller the key for laptops.
//!
//! The join key of `piparallel.toml` counts until the pool has replaced it: then the file may keep the old one,
//! and the node still knows the new one. Another key in the file than the one that was replaced is news.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use piparallel_core::join::keys::SharedKey;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::private::{self, write_private};
use crate::random;

const JOIN_FILE: &str = "join-key.json";
const CLIENT_FILE: &str = "client-key";

/// The join key as this node knows it.
pub struct JoinKey {
    path: PathBuf,
    configured: Option<SharedKey>,
    saved: Option<Saved>,
}

#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    key: String,
    /// The hash of the configured key that this one has replaced.
    replaces: Option<String>,
}

impl JoinKey {
    /// # Errors
    /// What was saved is damaged or cannot be read.
    pub fn load(state_dir: &Path, configured: Option<SharedKey>) -> anyhow::Result<Self> {
        let path = state_dir.join(JOIN_FILE);
        let saved = private::read(&path)?.map(|text| serde_json::from_slice(&text));
        let saved = saved.transpose().with_context(|| damaged(&path))?;
        Ok(Self {
            path,
            configured,
            saved,
        })
    }

    /// The key that counts; `None` for a node that has none.
    ///
    /// # Errors
    /// What was saved is no key.
    pub fn current(&self) -> anyhow::Result<Option<SharedKey>> {
        let configured = self.configured.clone();
        match (&self.saved, configured) {
            (None, configured) => Ok(configured),
            (Some(saved), Some(key)) if saved.replaces != Some(hash(&key)) => Ok(Some(key)),
            (Some(saved), _) => {
                let key = saved.key.parse();
                Ok(Some(key.with_context(|| damaged(&self.path))?))
            }
        }
    }

    /// The key, made now if there is none: that of a pool's first controller.
    ///
    /// # Errors
    /// It cannot be saved.
    pub fn current_or_new(&mut self) -> anyhow::Result<SharedKey> {
        match self.current()? {
            Some(key) => Ok(key),
            None => self.replace(random_key()?),
        }
    }

    /// Notes the pool's new key.
    ///
    /// # Errors
    /// It cannot be saved.
    pub fn replace(&mut self, key: SharedKey) -> anyhow::Result<SharedKey> {
        if self.current()?.as_ref() != Some(&key) {
            let saved = Saved {
                key: key.to_text(),
                replaces: self.configured.as_ref().map(hash),
            };
            write_private(&self.path, &serde_json::to_vec(&saved)?)?;
            self.saved = Some(saved);
        }
        Ok(key)
    }
}

/// The key for laptops, made when it is first asked for.
///
/// # Errors
/// It is damaged, or cannot be saved.
pub fn client_key(state_dir: &Path) -> anyhow::Result<SharedKey> {
    let path = state_dir.join(CLIENT_FILE);
    match private::read(&path)? {
        Some(text) => String::from_utf8_lossy(&text)
            .parse()
            .with_context(|| damaged(&path)),
        None => new_client_key(state_dir),
    }
}

/// Replaces the key for laptops.
///
/// # Errors
/// It cannot be saved.
pub fn new_client_key(state_dir: &Path) -> anyhow::Result<SharedKey> {
    let key = random_key()?;
    write_private(&state_dir.join(CLIENT_FILE), key.to_text().as_bytes())?;
    Ok(key)
}

/// # Errors
/// The system gives no random bytes.
pub fn random_key() -> anyhow::Result<SharedKey> {
    Ok(SharedKey::new(random::bytes()?))
}

fn hash(key: &SharedKey) -> String {
    let hash = Sha256::digest(key.to_text());
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn damaged(path: &Path) -> String {
    format!("{} is damaged (remove it)", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> SharedKey {
        SharedKey::new([byte; 32])
    }

    fn current(dir: &Path, configured: Option<u8>) -> Option<SharedKey> {
        let keys = JoinKey::load(dir, configured.map(key)).unwrap();
        keys.current().unwrap()
    }

    #[test]
    fn the_configured_key_counts_until_the_pool_has_another() {
        let dir = tempfile::tempdir().unwrap();
        assert!(current(dir.path(), None).is_none());
        assert!(current(dir.path(), Some(1)) == Some(key(1)));
        let mut keys = JoinKey::load(dir.path(), Some(key(1))).unwrap();
        keys.replace(key(2)).unwrap();
        assert!(keys.current().unwrap() == Some(key(2)));
        assert!(
            current(dir.path(), Some(1)) == Some(key(2)),
            "the file is old"
        );
        assert!(current(dir.path(), None) == Some(key(2)));
        assert!(
            current(dir.path(), Some(3)) == Some(key(3)),
            "the file is new"
        );
    }

    #[test]
    fn a_controller_without_a_key_makes_one_and_keeps_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut keys = JoinKey::load(dir.path(), None).unwrap();
        let made = keys.current_or_new().unwrap();
        assert!(current(dir.path(), None) == Some(made));
        let client = client_key(dir.path()).unwrap();
        assert!(client_key(dir.path()).unwrap() == client);
        assert!(new_client_key(dir.path()).unwrap() != client);
    }
}
