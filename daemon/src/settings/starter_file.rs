//! What `--init` writes: a configuration file with every option, commented out.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context as _;

use super::traits::{Effect, TRAITS};

/// Writes `ipcontroller_config.py` into the profile, unless there is one and `replace` is false.
///
/// # Errors
/// The file cannot be written.
pub fn write(profile: &Path, replace: bool) -> anyhow::Result<()> {
    let path = profile.join("ipcontroller_config.py");
    if path.exists() && !replace {
        return Ok(());
    }
    let failed = || format!("cannot write {}", path.display());
    std::fs::create_dir_all(profile).with_context(failed)?;
    std::fs::write(&path, text()).with_context(failed)
}

fn text() -> String {
    let mut text =
        "# Options of the controller. The controller runs no Python: it reads lines of the form\n\
                    # c.Class.option = literal, and ipcontroller_config.json beside this file.\n\
                    c = get_config()\n"
            .to_owned();
    for option in TRAITS.iter().filter(|t| t.effect == Effect::Full) {
        // Writing to a String does not fail.
        let _ = writeln!(
            text,
            "\n# {}\n# Default: {}\n# c.{}.{} = ",
            option.help, option.default, option.class, option.name
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_there_is_replaced_only_on_request() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ipcontroller_config.py");
        std::fs::write(&path, "mine").unwrap();
        write(dir.path(), false).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
        write(dir.path(), true).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("# c.HeartMonitor.period = "), "{text}");
    }
}
