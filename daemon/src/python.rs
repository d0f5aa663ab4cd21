//! Which Python runs the engines, and which ipyparallel is installed where.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::bail;
use tokio::process::Command;

use crate::engines::die_with_parent;
use crate::settings::sources::Environment;

/// A Python that can import ipyparallel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Python {
    pub path: PathBuf,
    /// Of ipyparallel.
    pub version: String,
}

/// The ipyparallel whose protocol and options are spoken here.
pub const REFERENCE_VERSION: &str = "9.2.0";

/// A Pi with a slow card takes some seconds for a first import.
const IMPORT_TIMEOUT: Duration = Duration::from_secs(60);

/// Finds the Python for engines: the one that was asked for, or the first of the environment, the
/// working directory and `PATH` that has ipyparallel.
///
/// # Errors
/// None has it; the message says how to install it.
pub async fn find(wanted: Option<&Path>, environment: &Environment) -> anyhow::Result<Python> {
    if let Some(path) = wanted {
        return match import(path).await {
            Ok(python) => Ok(python),
            Err(cause) => bail!(
                "{0} cannot import ipyparallel: {cause} (install it: {0} -m pip install ipyparallel)",
                path.display()
            ),
        };
    }
    let candidates = candidates(environment);
    for path in &candidates {
        match import(path).await {
            Ok(python) => return Ok(python),
            Err(cause) => log::debug!("{} is not for engines: {cause}", path.display()),
        }
    }
    let tried: Vec<_> = candidates.iter().map(|p| p.display().to_string()).collect();
    bail!(
        "no Python with ipyparallel was found, tried {} (python3 -m venv .venv && .venv/bin/pip install \
         ipyparallel, or name one with --python)",
        if tried.is_empty() {
            "none".to_owned()
        } else {
            tried.join(", ")
        }
    )
}

async fn import(path: &Path) -> Result<Python, String> {
    // To see it among the installed packages is enough, and spares a start of Python, which takes seconds on a Pi.
    // If it cannot be imported after all, the engines say so.
    if path.is_file()
        && let Some(version) = version_beside(path)
    {
        return Ok(Python {
            path: path.to_owned(),
            version,
        });
    }
    const ASK: &str = "import ipyparallel; print(ipyparallel.__version__)";
    let mut command = Command::new(path);
    command
        .args(["-c", ASK])
        .stdin(Stdio::null())
        .kill_on_drop(true);
    die_with_parent(&mut command);
    let output = match tokio::time::timeout(IMPORT_TIMEOUT, command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(e)) => return Err(e.to_string()),
        Err(_) => return Err(format!("no answer within {IMPORT_TIMEOUT:?}")),
    };
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(errors.lines().last().unwrap_or("it failed").to_owned());
    }
    let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Ok(Python {
        path: path.to_owned(),
        version,
    })
}

fn candidates(environment: &Environment) -> Vec<PathBuf> {
    let mut all = Vec::new();
    if let Some(venv) = environment
        .variable("VIRTUAL_ENV")
        .filter(|v| !v.is_empty())
    {
        all.push(Path::new(venv).join("bin/python"));
    }
    let local = environment.current_dir.join(".venv");
    let mut versions: Vec<_> = std::fs::read_dir(&local)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().starts_with("ipp-"))
        .map(|e| e.path().join("bin/python"))
        .collect();
    versions.sort();
    all.extend(versions.into_iter().rev());
    all.push(local.join("bin/python"));
    for name in ["python3", "python"] {
        all.extend(on_path(name, environment));
    }
    all.retain(|p| p.exists());
    all.dedup();
    all
}

fn on_path(name: &str, environment: &Environment) -> Vec<PathBuf> {
    let path = environment.variable("PATH").unwrap_or_default();
    std::env::split_paths(path)
        .map(|dir| dir.join(name))
        .collect()
}

/// The version of ipyparallel that a program asking for ours has in mind: that of the Python which
/// started us, of the active environment, or of `PATH`; without any, that of our reference. No Python
/// is started to find out.
#[must_use]
pub fn installed_version(environment: &Environment) -> String {
    let parent = nix::unistd::getppid();
    let command = std::fs::read(format!("/proc/{parent}/cmdline")).unwrap_or_default();
    let command = String::from_utf8_lossy(&command).into_owned();
    let starter = command.split('\0').next().map(PathBuf::from);
    let active = environment
        .variable("VIRTUAL_ENV")
        .map(|v| Path::new(v).join("bin/python"));
    starter
        .filter(|p| p.is_absolute() && is_python(p))
        .into_iter()
        .chain(active)
        .chain(on_path("python3", environment))
        .chain(on_path("python", environment))
        .find_map(|python| version_beside(&python))
        .unwrap_or_else(|| REFERENCE_VERSION.to_owned())
}

fn is_python(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().starts_with("python")
}

/// `<prefix>/bin/python` has its packages in `<prefix>/lib/python3.*/{site,dist}-packages`; Debian's own
/// are in `<prefix>/lib/python3/dist-packages`.
fn version_beside(python: &Path) -> Option<String> {
    let lib = python.parent()?.parent()?.join("lib");
    std::fs::read_dir(lib)
        .ok()?
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().starts_with("python3"))
        .flat_map(|e| ["site-packages", "dist-packages"].map(|d| e.path().join(d)))
        .find_map(|packages| version_in(&packages))
}

/// Installed packages leave a directory `<name>-<version>.dist-info`.
fn version_in(packages: &Path) -> Option<String> {
    std::fs::read_dir(packages).ok()?.flatten().find_map(|e| {
        let name = e.file_name();
        let name = name.to_str()?;
        let rest = name.strip_prefix("ipyparallel-")?;
        let version = rest
            .strip_suffix(".dist-info")
            .or_else(|| rest.strip_suffix(".egg-info"))?;
        Some(version.split('-').next().unwrap_or(version).to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(dir: &Path, variables: &[(&str, &str)]) -> Environment {
        Environment {
            variables: variables
                .iter()
                .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
                .collect(),
            current_dir: dir.to_owned(),
        }
    }

    fn touch(path: &Path) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "").unwrap();
    }

    #[test]
    fn the_active_environment_comes_first_then_the_directory_then_the_path() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in [
            "active/bin/python",
            ".venv/ipp-8/bin/python",
            ".venv/ipp-9/bin/python",
            "p/python3",
        ] {
            touch(&at(name));
        }
        let active = at("active").display().to_string();
        let path = at("p").display().to_string();
        assert_eq!(
            candidates(&environment(
                dir.path(),
                &[("VIRTUAL_ENV", &active), ("PATH", &path)]
            )),
            [
                at("active/bin/python"),
                at(".venv/ipp-9/bin/python"),
                at(".venv/ipp-8/bin/python"),
                at("p/python3")
            ]
        );
    }

    #[test]
    fn the_version_is_read_from_what_is_installed() {
        let dir = tempfile::tempdir().unwrap();
        let venv = dir.path().join("v");
        let metadata = "lib/python3.11/site-packages/ipyparallel-8.8.0.dist-info/METADATA";
        touch(&venv.join(metadata));
        let text = venv.display().to_string();
        let version = installed_version(&environment(dir.path(), &[("VIRTUAL_ENV", &text)]));
        assert_eq!(version, "8.8.0");
        assert_eq!(
            installed_version(&environment(dir.path(), &[])),
            REFERENCE_VERSION
        );
    }
}
