//! Puts files where the system looks for them.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::Path;

use anyhow::Context as _;
use nix::unistd::User;

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readers {
    Everybody,
    /// Root alone.
    Root,
    /// The user of the node's service. Root, where there is none.
    Node,
}

const NODE_USER: &str = "piparallel";

/// Puts `content` at `path` in one step and to the disk; directories above it are made. The directory may belong to somebody
/// who is not trusted: no link is followed in it.
///
/// # Errors
/// The disk is full or read-only.
pub(super) fn place(path: &Path, content: &str, readers: Readers) -> anyhow::Result<()> {
    let failed = || {
        format!(
            "cannot write {} (is the disk full or read-only?)",
            path.display()
        )
    };
    let dir = path.parent().with_context(failed)?;
    let name = path.file_name().with_context(failed)?.to_string_lossy();
    let temporary = dir.join(format!(".{name}.new"));
    make_dir(dir).with_context(failed)?;
    let written = remove(&temporary).and_then(|_| {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(content.as_bytes())?;
        let mode = match readers {
            Readers::Everybody => 0o644,
            Readers::Root | Readers::Node => 0o600,
        };
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        if readers == Readers::Node
            && let Some(user) = User::from_name(NODE_USER)?
        {
            fchown(&file, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
        }
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(dir)?.sync_all()
    });
    written.with_context(failed)
}

/// Removes a file. False if there is none.
pub(super) fn remove(path: &Path) -> std::io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

fn make_dir(dir: &Path) -> std::io::Result<()> {
    match dir.is_dir() {
        true => Ok(()),
        false => fs::create_dir_all(dir),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_in_the_way_is_replaced_and_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("target");
        fs::write(&target, "untouched").unwrap();
        for link in ["file", ".file.new"] {
            std::os::unix::fs::symlink(&target, dir.path().join(link)).unwrap();
        }
        let file = dir.path().join("file");
        place(&file, "new", Readers::Root).unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "untouched");
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        let mode = fs::symlink_metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
