//! Collects assignments: environment and command line first, because they say where the profile is;
//! then the configuration files of the profile and the system.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use super::ProfileDir;
use super::config::{Config, Rank};
use super::py_file;
use super::value::Value;

/// What the process is started in, taken once.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    pub variables: Vec<(String, String)>,
    pub current_dir: PathBuf,
}

impl Environment {
    /// The real one.
    ///
    /// # Errors
    /// There is no working directory (it was removed).
    pub fn of_process() -> anyhow::Result<Self> {
        Ok(Self {
            variables: std::env::vars_os().filter_map(as_texts).collect(),
            current_dir: std::env::current_dir()
                .context("the working directory is gone (change to one that exists)")?,
        })
    }

    /// A variable that is set, even if empty.
    #[must_use]
    pub fn variable(&self, name: &str) -> Option<&str> {
        let found = self.variables.iter().find(|(n, _)| n == name);
        found.map(|(_, value)| value.as_str())
    }

    /// `~` and relative paths, made absolute.
    #[must_use]
    pub fn expand(&self, path: &str) -> PathBuf {
        let home = self.variable("HOME").unwrap_or("/");
        match path.strip_prefix('~') {
            Some("") => PathBuf::from(home),
            Some(rest) if rest.starts_with('/') => Path::new(home).join(&rest[1..]),
            _ => self.current_dir.join(path),
        }
    }
}

/// A variable whose name or value is no text is none of ours.
fn as_texts((name, value): (OsString, OsString)) -> Option<(String, String)> {
    Some((name.into_string().ok()?, value.into_string().ok()?))
}

/// The variables that set options. `IPP_ENABLE_CURVE` counts only as `1`, as in stock.
const VARIABLES: [(&str, &str, &str); 6] = [
    ("IPP_SESSION_KEY", "Session", "key"),
    ("IPP_CLUSTER_ID", "IPController", "cluster_id"),
    ("IPP_PROFILE_DIR", "ProfileDir", "location"),
    ("IPP_CURVE_SECRETKEY", "IPController", "curve_secretkey"),
    ("IPP_CURVE_PUBLICKEY", "IPController", "curve_publickey"),
    ("IPYTHONDIR", "IPController", "ipython_dir"),
];

pub fn read_environment(environment: &Environment, config: &mut Config) {
    for (variable, class, name) in VARIABLES {
        if let Some(value) = environment.variable(variable)
            && (variable == "IPP_CLUSTER_ID" || !value.is_empty())
        {
            config.assign(
                class,
                name,
                Value::untyped(value),
                Rank::Environment,
                variable,
            );
        }
    }
    if environment.variable("IPP_ENABLE_CURVE") == Some("1") {
        let on = Value::Bool(true);
        config.assign(
            "IPController",
            "enable_curve",
            on,
            Rank::Environment,
            "IPP_ENABLE_CURVE",
        );
    }
}

/// Where the profile is, by what has been assigned so far.
///
/// # Errors
/// A name or path is not text.
pub fn profile_dir(environment: &Environment, config: &Config) -> anyhow::Result<ProfileDir> {
    if let Some(location) = config
        .read("ProfileDir", "location", Value::as_text)?
        .filter(|l| !l.is_empty())
    {
        return Ok(ProfileDir {
            path: environment.expand(&location),
        });
    }
    let ipython_dir = config
        .read("IPController", "ipython_dir", Value::as_text)?
        .unwrap_or_else(|| "~/.ipython".to_owned());
    let name = config
        .read("IPController", "profile", Value::as_text)?
        .unwrap_or_else(|| "default".to_owned());
    if name.is_empty() || name.contains('/') {
        bail!(
            "a profile's name has no slash and is not empty, not {name:?} (--profile-dir takes a path)"
        );
    }
    Ok(ProfileDir {
        path: environment
            .expand(&ipython_dir)
            .join(format!("profile_{name}")),
    })
}

/// The directories with configuration files, the weakest first.
#[must_use]
pub fn config_dirs(environment: &Environment, profile: &ProfileDir) -> Vec<PathBuf> {
    let mut dirs = vec![
        PathBuf::from("/etc/ipython"),
        PathBuf::from("/usr/local/etc/ipython"),
    ];
    if let Some(venv) = environment
        .variable("VIRTUAL_ENV")
        .filter(|v| !v.is_empty())
    {
        dirs.push(Path::new(venv).join("etc/ipython"));
    }
    dirs.push(profile.path.clone());
    dirs
}

/// Reads the files of one directory: what all of IPython shares, then what is the controller's, `.py`
/// before `.json`.
///
/// # Errors
/// A file is there and cannot be read or understood.
pub fn read_dir(dir: &Path, config: &mut Config) -> anyhow::Result<()> {
    for base in ["ipython_config", "ipcontroller_config"] {
        for ending in ["py", "json"] {
            let path = dir.join(format!("{base}.{ending}"));
            if path.is_file() {
                read_file(&path, base == "ipcontroller_config", config)?;
            }
        }
    }
    Ok(())
}

/// Reads one file, by its ending. `own`: its lines that are not understood matter to the user.
///
/// # Errors
/// The file cannot be read or understood.
pub fn read_file(path: &Path, own: bool, config: &mut Config) -> anyhow::Result<()> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
    if path.extension().is_some_and(|e| e == "json") {
        return config
            .assign_json(&text, &name)
            .map_err(|e| anyhow::anyhow!("{name}: {e} (correct it or move it away)"));
    }
    let file = py_file::read(&text);
    for line in file.skipped.iter().filter(|_| own) {
        config.warnings.push(format!(
            "{name}:{line}: this is more than `c.Class.option = literal` and was skipped: the controller \
             runs no Python; write it to {} as {{\"Class\": {{\"option\": value}}}}",
            path.with_extension("json").display()
        ));
    }
    for (class, option, value, line) in file.assignments {
        config.assign(
            &class,
            &option,
            value,
            Rank::File,
            &format!("{name}:{line}"),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        Environment {
            variables: variables
                .iter()
                .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
                .collect(),
            current_dir: PathBuf::from("/here"),
        }
    }

    #[test]
    fn the_profile_is_found_as_stock_finds_it() {
        let place = |variables: &[(&str, &str)], options: &[(&str, &str, &str)]| {
            let environment = environment(variables);
            let mut config = Config::default();
            read_environment(&environment, &mut config);
            for (class, name, value) in options {
                config.assign(
                    class,
                    name,
                    Value::untyped(*value),
                    Rank::CommandLine,
                    "--x",
                );
            }
            profile_dir(&environment, &config).map(|p| p.path)
        };
        let home = ("HOME", "/home/pi");
        assert_eq!(
            place(&[home], &[]).unwrap(),
            Path::new("/home/pi/.ipython/profile_default")
        );
        assert_eq!(
            place(
                &[home, ("IPYTHONDIR", "~/ipy")],
                &[("IPController", "profile", "a")]
            )
            .unwrap(),
            Path::new("/home/pi/ipy/profile_a")
        );
        assert_eq!(
            place(
                &[("IPP_PROFILE_DIR", "/p")],
                &[("IPController", "profile", "a")]
            )
            .unwrap(),
            Path::new("/p"),
            "the place of a profile is more than its name"
        );
        assert_eq!(
            place(
                &[("IPP_PROFILE_DIR", "/p")],
                &[("ProfileDir", "location", "q")]
            )
            .unwrap(),
            Path::new("/here/q")
        );
        assert!(place(&[home], &[("IPController", "profile", "../x")]).is_err());
    }

    #[test]
    fn files_rank_below_the_environment_and_json_above_py() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write(
            "ipcontroller_config.py",
            "c.HeartMonitor.period = 1\nc.IPController.ip = '*'\nif 1:\n  pass\n",
        );
        write(
            "ipcontroller_config.json",
            r#"{"HeartMonitor":{"period":2},"Session":{"key":"file"}}"#,
        );
        let mut config = Config::default();
        read_environment(&environment(&[("IPP_SESSION_KEY", "env")]), &mut config);
        read_dir(dir.path(), &mut config).unwrap();
        let text = |class, name| config.read(class, name, Value::as_text).unwrap();
        assert_eq!(
            config
                .read("HeartMonitor", "period", |v| v.as_int(0, 9))
                .unwrap(),
            Some(2)
        );
        assert_eq!(text("IPController", "ip").as_deref(), Some("*"));
        assert_eq!(text("Session", "key").as_deref(), Some("env"));
        let [warning] = config.warnings.as_slice() else {
            panic!("{:?}", config.warnings)
        };
        assert!(warning.contains("ipcontroller_config.py:3:"), "{warning}");
        assert!(warning.contains("ipcontroller_config.json"), "{warning}");
    }

    #[test]
    fn a_damaged_file_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ipcontroller_config.json"), "{").unwrap();
        let error = read_dir(dir.path(), &mut Config::default()).unwrap_err();
        assert!(
            error.to_string().contains("ipcontroller_config.json"),
            "{error}"
        );
    }
}
