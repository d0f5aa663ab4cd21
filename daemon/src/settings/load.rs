//! All sources together: from a parsed command line to settings.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use super::config::Config;
use super::resolve::{Surroundings, flag_option, path_option, resolve};
use super::sources::{self, Environment};
use super::{ControllerSettings, ProfileDir, starter_file};
use crate::address;

/// Settings, and what the user should be told about them.
pub struct Loaded {
    pub settings: ControllerSettings,
    pub warnings: Vec<String>,
    /// Old log files go before the new one is opened.
    pub clean_logs: bool,
}

/// Everything that was assigned, and where the profile is.
pub struct Merged {
    pub config: Config,
    pub profile: ProfileDir,
}

/// Adds environment and files to what the command line assigned.
///
/// # Errors
/// A file cannot be understood, or says where the profile is in a way that cannot be.
pub fn merge(mut config: Config, environment: &Environment) -> anyhow::Result<Merged> {
    sources::read_environment(environment, &mut config);
    let profile = sources::profile_dir(environment, &config)?;
    for dir in sources::config_dirs(environment, &profile) {
        sources::read_dir(&dir, &mut config)?;
    }
    if let Some(path) = path_option(&config, environment, "extra_config_file")? {
        match existing_config_file(&path) {
            Some(path) => sources::read_file(&path, true, &mut config)?,
            None => config.warnings.push(format!(
                "the configuration file {} does not exist and was skipped (--config)",
                path.display()
            )),
        }
    }
    Ok(Merged { config, profile })
}

/// Stock takes the name with or without its ending.
fn existing_config_file(path: &Path) -> Option<PathBuf> {
    [
        path.to_owned(),
        path.with_extension("json"),
        path.with_extension("py"),
    ]
    .into_iter()
    .find(|p| p.is_file())
}

/// Validates what was merged, and does what some options ask for before a start: a starter file, another
/// working directory.
///
/// # Errors
/// An option has a value that it cannot have.
pub fn load(merged: Merged, environment: &Environment) -> anyhow::Result<Loaded> {
    let Merged { config, profile } = merged;
    if !profile.path.is_dir() && !flag_option(&config, "auto_create", true)? {
        bail!(
            "the profile {} does not exist (make it, or allow IPController.auto_create)",
            profile.path.display()
        );
    }
    let interfaces = address::interfaces();
    let around = Surroundings {
        environment,
        profile,
        interfaces: &interfaces,
        pid: std::process::id(),
    };
    let settings = resolve(&config, &around)?;
    if flag_option(&config, "copy_config_files", false)? {
        let replace = flag_option(&config, "overwrite", false)?;
        starter_file::write(&settings.profile.path, replace)?;
    }
    if let Some(dir) = path_option(&config, environment, "work_dir")? {
        std::env::set_current_dir(&dir)
            .with_context(|| format!("cannot work in {} (--work-dir)", dir.display()))?;
    }
    Ok(Loaded {
        settings,
        clean_logs: flag_option(&config, "clean_logs", false)?,
        warnings: config.warnings,
    })
}

#[cfg(test)]
mod tests {
    use super::super::command_line;
    use super::*;

    fn environment(home: &Path) -> Environment {
        Environment {
            variables: vec![("HOME".to_owned(), home.display().to_string())],
            current_dir: home.to_owned(),
        }
    }

    fn merged(args: &[&str], home: &Path) -> anyhow::Result<Merged> {
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        let mut config = Config::default();
        command_line::parse(&args, &mut config).map_err(anyhow::Error::msg)?;
        merge(config, &environment(home))
    }

    #[test]
    fn the_profile_file_the_extra_file_and_the_command_line_outrank_one_another() {
        let home = tempfile::tempdir().unwrap();
        let profile = home.path().join("p");
        std::fs::create_dir(&profile).unwrap();
        let file =
            r#"{"HeartMonitor":{"period":100},"TaskScheduler":{"hwm":2,"scheme_name":"lru"}}"#;
        std::fs::write(profile.join("ipcontroller_config.json"), file).unwrap();
        let extra = "c.HeartMonitor.period = 200\nc.TaskScheduler.hwm = 3\n";
        std::fs::write(home.path().join("extra.py"), extra).unwrap();
        let args = ["--profile-dir=p", "--config=extra", "--ping=300"];
        let loaded = load(
            merged(&args, home.path()).unwrap(),
            &environment(home.path()),
        )
        .unwrap();
        assert_eq!(loaded.warnings, Vec::<String>::new());
        assert_eq!(loaded.settings.heartbeat.period.as_millis(), 300);
        assert_eq!(loaded.settings.hwm, Some(3));
        assert_eq!(loaded.settings.scheme.name(), "lru");
    }

    #[test]
    fn a_missing_extra_file_is_a_warning_and_a_missing_profile_can_be_an_error() {
        let home = tempfile::tempdir().unwrap();
        let args = ["--config=none.py", "--IPController.auto_create=False"];
        let merged = merged(&args, home.path()).unwrap();
        assert!(merged.config.warnings[0].contains("none.py"));
        assert!(load(merged, &environment(home.path())).is_err());
    }

    #[test]
    fn init_writes_a_file_that_is_read_without_complaint() {
        let home = tempfile::tempdir().unwrap();
        let load = || {
            let merged = merged(&["--profile-dir=p", "--init"], home.path()).unwrap();
            load(merged, &environment(home.path())).unwrap()
        };
        load();
        assert!(home.path().join("p/ipcontroller_config.py").is_file());
        assert_eq!(load().warnings, Vec::<String>::new());
    }
}
