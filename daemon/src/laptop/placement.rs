//! Puts a client's connection file where `ipp.Client()` looks, and takes it away again. Only a file that we
//! put there, and that nobody has changed since, is replaced or removed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::controller::claim::is_alive;
use crate::controller::connection_file;
use crate::private::{self, make_private_dir, write_private};

/// The files that we have placed, remembered in a file of its own.
pub struct Placements {
    path: PathBuf,
    all: BTreeMap<PathBuf, Placement>,
}

#[derive(Clone, Deserialize, Serialize)]
struct Placement {
    pool: String,
    /// What we wrote, to see whether it is still the same. It holds no more than the file does.
    content: Map<String, Value>,
}

const FILE: &str = "placements.json";

impl Placements {
    /// # Errors
    /// What is remembered cannot be read.
    pub fn load(state_dir: &Path) -> anyhow::Result<Self> {
        let path = state_dir.join(FILE);
        let all = match private::read(&path)? {
            Some(text) => serde_json::from_slice(&text)
                .with_context(|| format!("{} is damaged (remove it)", path.display()))?,
            None => BTreeMap::new(),
        };
        Ok(Self { path, all })
    }

    /// Writes the connection file of a pool to `file`.
    ///
    /// # Errors
    /// Another controller's file is there and that controller answers, or the file cannot be written.
    pub fn place(
        &mut self,
        file: &Path,
        pool: &str,
        content: Map<String, Value>,
    ) -> anyhow::Result<()> {
        if let Some(there) = connection_file::read(file)?
            && !self.is_ours(file, &there)
            && is_alive(&there)
        {
            bail!(
                "{} is that of another controller, which answers (stop it, or choose a place with --profile or \
                 --cluster-id)",
                file.display()
            );
        }
        let dir = file
            .parent()
            .context("a connection file is in a directory")?;
        make_private_dir(dir)?;
        let pool = pool.to_owned();
        let placement = Placement {
            pool,
            content: content.clone(),
        };
        self.all.insert(file.to_owned(), placement);
        // First what we remember: a file that we do not know of would stay for ever.
        self.save()?;
        write_private(file, &serde_json::to_vec_pretty(&content)?)
    }

    /// Whether we placed something at `file`.
    #[must_use]
    pub fn is_placed(&self, file: &Path) -> bool {
        self.all.contains_key(file)
    }

    /// Removes what was placed at `file`; the pool that it was of.
    ///
    /// # Errors
    /// We placed nothing there, or it was changed since.
    pub fn remove(&mut self, file: &Path) -> anyhow::Result<String> {
        let Some(placement) = self.all.get(file).cloned() else {
            bail!(
                "this machine is not connected by {} (piparallel connect)",
                file.display()
            );
        };
        match connection_file::read(file)? {
            Some(there) if there != placement.content => bail!(
                "{} was changed by somebody else since and stays (remove it yourself)",
                file.display()
            ),
            Some(_) => fs::remove_file(file)
                .with_context(|| format!("cannot remove {}", file.display()))?,
            None => {}
        }
        self.all.remove(file);
        self.save()?;
        Ok(placement.pool)
    }

    fn is_ours(&self, file: &Path, there: &Map<String, Value>) -> bool {
        self.all.get(file).is_some_and(|p| p.content == *there)
    }

    fn save(&self) -> anyhow::Result<()> {
        let dir = self
            .path
            .parent()
            .context("the state directory has a path")?;
        make_private_dir(dir)?;
        write_private(&self.path, &serde_json::to_vec_pretty(&self.all)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::net::TcpListener;

    fn content(port: u16) -> Map<String, Value> {
        let json = serde_json::json!({"interface": "tcp://127.0.0.1", "registration": port});
        json.as_object().unwrap().clone()
    }

    #[test]
    fn a_file_is_placed_replaced_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir
            .path()
            .join("profile_default/security/ipcontroller-client.json");
        let load = || Placements::load(&dir.path().join("state")).unwrap();
        load().place(&file, "a", content(1)).unwrap();
        load().place(&file, "b", content(2)).unwrap();
        assert_eq!(connection_file::read(&file).unwrap(), Some(content(2)));
        assert_eq!(load().remove(&file).unwrap(), "b");
        assert!(!file.exists());
        let error = load().remove(&file).unwrap_err().to_string();
        assert!(error.contains("not connected"), "{error}");
    }

    #[test]
    fn a_file_that_somebody_changed_stays() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.json");
        let mut placements = Placements::load(dir.path()).unwrap();
        placements.place(&file, "a", content(1)).unwrap();
        fs::write(&file, "{}").unwrap();
        assert!(placements.remove(&file).is_err());
        assert!(file.exists());
    }

    #[test]
    fn the_file_of_a_living_controller_stays_and_that_of_a_dead_one_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.json");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        fs::write(&file, serde_json::to_string(&content(port)).unwrap()).unwrap();
        let greeter = std::thread::spawn(move || {
            listener.accept().unwrap().0.write_all(&[0xFF]).unwrap();
        });
        let mut placements = Placements::load(dir.path()).unwrap();
        let error = placements.place(&file, "a", content(1)).unwrap_err();
        assert!(error.to_string().contains("another controller"));
        greeter.join().unwrap();
        placements.place(&file, "a", content(1)).unwrap();
    }
}
