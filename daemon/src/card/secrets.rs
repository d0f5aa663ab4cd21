//! Takes a secret out of the file on the card, once it is kept elsewhere.
//!
//! The boot partition is FAT: no rights, no journal, and whoever finds the card can read it. So the bytes of the secret are
//! overwritten where they are, and nothing else of the file changes: no comment is lost, and there is no moment without a file.

use std::fs::OpenOptions;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;

use anyhow::Context as _;
use toml::de::{DeTable, DeValue};

/// Overwrites the values of these keys (`join_key`, `wifi.passphrase`) with an empty text and blanks. True if there was
/// anything to overwrite.
///
/// # Errors
/// The file cannot be written, or is no TOML.
pub(super) fn blank(file: &Path, keys: &[&str]) -> anyhow::Result<bool> {
    let failed = || format!("cannot take secrets out of {}", file.display());
    let text = std::fs::read_to_string(file).with_context(failed)?;
    let table = DeTable::parse(&text).with_context(failed)?;
    let mut found = false;
    let mut written = OpenOptions::new()
        .write(true)
        .open(file)
        .with_context(failed)?;
    for key in keys {
        let Some(span) = span_of(table.get_ref(), key) else {
            continue;
        };
        let mut blanks = vec![b' '; span.len()];
        blanks[..2].copy_from_slice(b"\"\"");
        written
            .seek(SeekFrom::Start(span.start as u64))
            .with_context(failed)?;
        written.write_all(&blanks).with_context(failed)?;
        found = true;
    }
    if found {
        written.sync_all().with_context(failed)?;
    }
    Ok(found)
}

/// Where the text of a key is, quotes included. `None` for one that is not there, or is empty.
fn span_of(table: &DeTable<'_>, key: &str) -> Option<std::ops::Range<usize>> {
    let value = match key.split_once('.') {
        None => table.get(key)?,
        Some((section, key)) => table.get(section)?.get_ref().as_table()?.get(key)?,
    };
    match value.get_ref() {
        DeValue::String(text) if !text.is_empty() => Some(value.span()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_goes_and_nothing_else_changes() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("piparallel.toml");
        let text = "# mine\npool = \"p\"\r\njoin_key = \"SECRET\" # the key\n[wifi]\npassphrase = 'hush hush'\nssid = \"x\"\n";
        std::fs::write(&file, text).unwrap();
        let keys = ["join_key", "wifi.passphrase", "system.none"];
        assert!(blank(&file, &keys).unwrap());
        let left = std::fs::read_to_string(&file).unwrap();
        assert_eq!(
            left,
            "# mine\npool = \"p\"\r\njoin_key = \"\"       # the key\n[wifi]\npassphrase = \"\"         \nssid = \"x\"\n"
        );
        assert_eq!(left.len(), text.len());
        assert!(!blank(&file, &keys).unwrap(), "nothing is left to do");
    }
}
