//! Files and directories that are for the user alone: keys, and what contains them.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking, spawn_local};

/// Puts `content` at `path` so that a reader sees all of it or the file before; readable for the user
/// alone. The data is on disk before the name is: a Pi that loses power keeps one of the two.
///
/// # Errors
/// The directory is missing or full, or not writable.
pub fn write_private(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let failed = || {
        format!(
            "cannot write {} (is the disk full or read-only?)",
            path.display()
        )
    };
    let name = path.file_name().with_context(failed)?.to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let result = (|| {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        // A file left by a dead process keeps its mode.
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    if result.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    result.with_context(failed)
}

/// What is in a file; `None` if there is no file.
///
/// # Errors
/// It cannot be read.
pub fn read(path: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(cause) if cause.kind() == ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(cause).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Makes a directory with all above it, or takes it from everybody else if it is there.
///
/// # Errors
/// It cannot be made, or belongs to somebody else.
pub fn make_private_dir(dir: &Path) -> anyhow::Result<()> {
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir);
    made.and_then(|()| fs::set_permissions(dir, fs::Permissions::from_mode(0o700)))
        .with_context(|| format!("cannot make the directory {}", dir.display()))
}

/// A file that is written again and again while nobody waits for the disk, which on a card may take seconds. Of
/// contents that come faster than they are written, the last one counts.
pub struct SavedFile {
    contents: watch::Sender<Vec<u8>>,
    task: JoinHandle<()>,
}

impl SavedFile {
    /// `remark` is added to the warning when it cannot be written. Must be called on a `LocalRuntime`.
    #[must_use]
    pub fn new(path: PathBuf, remark: &'static str) -> Self {
        let (contents, mut receiver) = watch::channel(Vec::new());
        let task = spawn_local(async move {
            while receiver.changed().await.is_ok() {
                let content = receiver.borrow_and_update().clone();
                let path = path.clone();
                let written = spawn_blocking(move || write_private(&path, &content)).await;
                if let Err(cause) = written.map_err(anyhow::Error::from).flatten() {
                    log::warn!("{cause:#}; {remark}");
                }
            }
        });
        Self { contents, task }
    }

    /// Replaces the content, soon.
    pub fn save(&self, content: Vec<u8>) {
        self.contents.send_replace(content);
    }

    /// Returns when all is written.
    pub async fn finish(self) {
        drop(self.contents);
        // A task that broke down has nothing more to write.
        let _ = self.task.await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_content_is_there_in_the_end() {
        let runtime = tokio::runtime::Builder::new_current_thread().build_local(Default::default());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        runtime.unwrap().block_on(async {
            let file = SavedFile::new(path.clone(), "");
            for n in 0..100 {
                file.save(format!("{n}").into_bytes());
            }
            file.finish().await;
        });
        assert_eq!(fs::read(&path).unwrap(), b"99");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
