//! `engines<cluster id>.json` in the profile's `log` directory: the engines that a controller has, for
//! the next one to take back. What is in it is the core's business; this module keeps it whole.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::private::SavedFile;
use crate::settings::ControllerSettings;

/// More than a pool of any size needs; a file beyond it is not what it should be.
const BYTES_MAX: u64 = 16 << 20;

/// Where the file is, by the name that stock gives it.
#[must_use]
pub fn path(settings: &ControllerSettings) -> PathBuf {
    let name = format!("engines{}.json", settings.cluster_id);
    settings.profile.log().join(name)
}

/// The content; `None` if there is no file.
///
/// # Errors
/// The file cannot be read, or is far too large.
pub fn read(path: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    let failed = || {
        format!(
            "cannot read {} (remove it to start without engines)",
            path.display()
        )
    };
    match std::fs::metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(failed),
        Ok(metadata) => {
            anyhow::ensure!(metadata.len() <= BYTES_MAX, failed());
            std::fs::read(path).map(Some).with_context(failed)
        }
    }
}

/// The file for the engines of this controller. Must be called on a `LocalRuntime`.
#[must_use]
pub fn saved(settings: &ControllerSettings) -> SavedFile {
    SavedFile::new(path(settings), "--restore would not find the engines")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::tests::settings_for_test;

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("engines.json");
        assert_eq!(read(&file).unwrap(), None);
        std::fs::write(&file, b"{}").unwrap();
        assert_eq!(read(&file).unwrap(), Some(b"{}".to_vec()));
    }

    #[test]
    fn the_cluster_id_follows_the_name_directly() {
        let mut settings = settings_for_test();
        settings.cluster_id = "x".to_owned();
        assert!(path(&settings).ends_with("log/enginesx.json"));
    }
}
