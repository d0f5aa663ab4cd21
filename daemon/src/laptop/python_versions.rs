//! Functions travel as byte code, which changes with every minor version of Python: a laptop with another one
//! gets errors that do not say so.

use std::path::Path;
use std::process::{Command, Stdio};

/// The version of a Python, as `3.11.7`; `None` if it does not tell.
#[must_use]
pub fn of(python: &Path) -> Option<String> {
    const ASK: &str = "import platform; print(platform.python_version())";
    let output = Command::new(python)
        .args(["-c", ASK])
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.trim().to_owned()).filter(|version| !version.is_empty())
}

/// What a person should be told of the difference, if it matters.
#[must_use]
pub fn warning(here: &str, engines: &str) -> Option<String> {
    let minor = |version: &str| {
        let mut parts = version.split('.').map(str::to_owned);
        Some((parts.next()?, parts.next()?))
    };
    let (ours, theirs) = (minor(here)?, minor(engines)?);
    (ours != theirs).then(|| {
        let wanted = format!("{}.{}", theirs.0, theirs.1);
        format!(
            "Python is {here} here and {engines} on the engines: functions sent there may fail in strange ways. \
             Work with Python {wanted} (uv venv --python {wanted}, or conda create -n pool python={wanted}), or in \
             a notebook on the controller."
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_minor_version_matters_and_a_patch_does_not() {
        assert_eq!(warning("3.11.2", "3.11.9"), None);
        let text = warning("3.12.1", "3.11.2").unwrap();
        assert!(text.contains("3.12.1 here") && text.contains("--python 3.11,"));
        assert_eq!(warning("", "3.11.2"), None, "nobody knows");
    }
}
