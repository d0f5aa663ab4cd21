//! Files and directories that are for the user alone: keys, and what contains them.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::Context as _;

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
