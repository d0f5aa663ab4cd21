//! What the role machine keeps over a restart: which controller the node belonged to, and its epoch.

use std::path::{Path, PathBuf};

use piparallel_core::role::Memory;

use crate::private::{self, write_private};

const FILE: &str = "role.json";

/// The memory, and its file.
pub struct RoleMemory {
    path: PathBuf,
    saved: Memory,
}

impl RoleMemory {
    /// Reads it. A damaged file is as good as none: the pool is found again.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn load(state_dir: &Path) -> anyhow::Result<Self> {
        let path = state_dir.join(FILE);
        let saved = match private::read(&path)? {
            Some(text) => serde_json::from_slice(&text).unwrap_or_else(|cause| {
                log::warn!(
                    "{} is damaged ({cause}): this node looks for its pool anew",
                    path.display()
                );
                Memory::default()
            }),
            None => Memory::default(),
        };
        Ok(Self { path, saved })
    }

    #[must_use]
    pub fn get(&self) -> &Memory {
        &self.saved
    }

    /// Saves it, if it has changed.
    pub fn save(&mut self, memory: &Memory) {
        if *memory == self.saved {
            return;
        }
        let written = serde_json::to_vec(memory)
            .map_err(anyhow::Error::from)
            .and_then(|text| write_private(&self.path, &text));
        match written {
            Ok(()) => self.saved = memory.clone(),
            // The node does its work; after a restart it looks for its pool a little longer.
            Err(cause) => log::warn!("{cause:#}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_kept_and_a_damaged_file_is_no_obstacle() {
        let dir = tempfile::tempdir().unwrap();
        let memory = Memory {
            last: Some("10.0.0.1:7373".parse().unwrap()),
            was_controller: true,
            epoch: 3,
        };
        RoleMemory::load(dir.path()).unwrap().save(&memory);
        assert_eq!(*RoleMemory::load(dir.path()).unwrap().get(), memory);
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        assert_eq!(
            *RoleMemory::load(dir.path()).unwrap().get(),
            Memory::default()
        );
    }
}
