//! The secrets of a controller: made at its first start and kept in the state directory. All are different:
//! none of them, nor what is derived for a node, opens more than it is for.

use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::private::{self, write_private};
use crate::random;
use crate::settings::{CurveKeyPair, Secret};

/// Of one pool.
pub struct PoolKeys {
    /// Signs messages (HMAC); in both connection files.
    pub session: Secret<String>,
    /// Ours, for the sockets of clients. Its public half is in the client's connection file only, and whoever
    /// does not know it cannot begin a conversation.
    pub client: CurveKeyPair,
    /// Ours, for the sockets of engines.
    pub engine: CurveKeyPair,
}

/// The file: keys in Z85, as ZeroMQ writes them.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    session: String,
    client: String,
    engine: String,
}

const FILE: &str = "pool-keys.json";

impl PoolKeys {
    /// Reads the keys, or makes them.
    ///
    /// # Errors
    /// The file is damaged, or cannot be written.
    pub fn load_or_create(state_dir: &Path) -> anyhow::Result<Self> {
        let path = state_dir.join(FILE);
        match private::read(&path)? {
            Some(text) => Self::parse(&text).with_context(|| {
                format!(
                    "{} is damaged (remove it: clients then need a new connection file)",
                    path.display()
                )
            }),
            None => {
                let keys = Self::generate()?;
                write_private(&path, &keys.text()?)?;
                Ok(keys)
            }
        }
    }

    fn generate() -> anyhow::Result<Self> {
        let random: [u8; 32] = random::bytes()?;
        Ok(Self {
            session: Secret::new(random.iter().map(|byte| format!("{byte:02x}")).collect()),
            client: CurveKeyPair::generate()?,
            engine: CurveKeyPair::generate()?,
        })
    }

    fn parse(text: &[u8]) -> anyhow::Result<Self> {
        let Saved {
            session,
            client,
            engine,
        } = serde_json::from_slice(text)?;
        anyhow::ensure!(!session.is_empty(), "its session key is empty");
        Ok(Self {
            session: Secret::new(session),
            client: CurveKeyPair::from_secret_z85(&client)?,
            engine: CurveKeyPair::from_secret_z85(&engine)?,
        })
    }

    fn text(&self) -> anyhow::Result<Vec<u8>> {
        Ok(serde_json::to_vec_pretty(&Saved {
            session: self.session.expose().clone(),
            client: self.client.secret.to_z85(),
            engine: self.engine.secret.to_z85(),
        })?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn keys_are_made_once_and_kept_private() {
        let dir = tempfile::tempdir().unwrap();
        let first = PoolKeys::load_or_create(dir.path()).unwrap();
        let again = PoolKeys::load_or_create(dir.path()).unwrap();
        assert!(first.session == again.session && first.client == again.client);
        assert!(first.engine == again.engine && first.engine != first.client);
        let mode = std::fs::metadata(dir.path().join(FILE))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_file_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        let error = PoolKeys::load_or_create(dir.path()).err().unwrap();
        assert!(format!("{error:#}").contains(FILE));
    }
}
