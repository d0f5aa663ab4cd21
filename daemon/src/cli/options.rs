//! Options that several subcommands share. They are other spellings of stock options and go the same
//! way from here: files, environment, command line.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, ValueEnum};

use crate::control;
use crate::settings::config::{Config, Rank};
use crate::settings::node::{Sources, load};
use crate::settings::value::Value;

/// Which controller is meant.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Which pool")]
pub struct PlaceOptions {
    /// IPython profile whose directory has the connection files
    #[arg(long, value_name = "NAME")]
    pub profile: Option<String>,
    /// That directory itself
    #[arg(long, value_name = "DIR", conflicts_with = "profile")]
    pub profile_dir: Option<String>,
    /// Name of one of several controllers in a profile
    #[arg(long, value_name = "ID")]
    pub cluster_id: Option<String>,
}

impl PlaceOptions {
    /// Whether any of them is.
    #[must_use]
    pub fn is_given(&self) -> bool {
        self.profile.is_some() || self.profile_dir.is_some() || self.cluster_id.is_some()
    }
}

/// Where the options of a node are.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Options of the node")]
pub struct NodeOptions {
    /// Read piparallel.toml from here, and FILE.d/*.toml, instead of from the system's directories
    #[arg(long, value_name = "FILE", env = "PIPARALLEL_CONFIG")]
    pub config: Option<PathBuf>,
    /// Set an option, such as engines.count=2; `piparallel config --reference` lists them
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub assignments: Vec<String>,
}

impl NodeOptions {
    #[must_use]
    pub fn sources(&self) -> Sources {
        Sources {
            file: self.config.clone(),
            assignments: self.assignments.clone(),
        }
    }
}

/// How the service of this node is asked.
#[derive(Args, Clone, Debug, Default)]
pub struct ServiceOptions {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Directory of the service's control socket, in place of that in piparallel.toml
    #[arg(long, value_name = "DIR", env = "PIPARALLEL_RUN_DIR")]
    pub run_dir: Option<PathBuf>,
    #[command(flatten)]
    pub node: NodeOptions,
}

/// A node of the pool, and how the service is asked.
#[derive(Args, Clone, Debug)]
pub struct OneNode {
    /// Name or fingerprint of the node, or its beginning
    pub node: String,
    #[command(flatten)]
    pub service: ServiceOptions,
}

/// As in the reference of options.
const USUAL_RUN_DIR: &str = "/run/piparallel";

impl ServiceOptions {
    /// Asks the service of this node.
    ///
    /// # Errors
    /// There is none, or it cannot do that.
    pub fn ask(&self, command: control::Command) -> anyhow::Result<serde_json::Value> {
        control::client::ask(&self.run_dir()?, command)
    }

    fn run_dir(&self) -> anyhow::Result<PathBuf> {
        if let Some(dir) = &self.run_dir {
            return Ok(dir.clone());
        }
        let usual = Path::new(USUAL_RUN_DIR);
        match load(&self.node.sources()) {
            Ok(loaded) => Ok(loaded.settings.run_dir),
            // Not everybody may read the options, for the join key is among them.
            Err(_) if self.node.config.is_none() && usual.join(control::SOCKET).exists() => {
                Ok(usual.to_owned())
            }
            Err(cause) => Err(cause),
        }
    }
}

/// Where task records are kept.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Database {
    /// The latest 10,000 tasks, 16 MiB at most
    Memory,
    /// No records: no history, no results of other clients
    None,
    /// tasks.db in the profile: survives a restart
    Sqlite,
}

/// What a controller can be told.
#[derive(Args, Clone, Debug, Default)]
pub struct ControllerOptions {
    #[command(flatten)]
    pub place: PlaceOptions,
    /// Address to listen on: IPv4 address, network interface, host name, or * for all; several with commas
    #[arg(long, value_name = "ADDRESS", help_heading = "Network")]
    ip: Option<String>,
    /// Address by which other machines reach this one, if the one found is not right
    #[arg(long, value_name = "ADDRESS", help_heading = "Network")]
    location: Option<String>,
    /// Ports to use, such as 10101-10120 (14 are needed; default: any that are free)
    #[arg(long, value_name = "RANGE", help_heading = "Network")]
    ports: Option<String>,
    /// Encrypt and authenticate every connection (CURVE)
    #[arg(long, help_heading = "Network")]
    encrypt: bool,
    /// Where task records are kept
    #[arg(long, value_enum, value_name = "KIND", help_heading = "Tasks")]
    database: Option<Database>,
    /// How an engine is chosen: leastload, lru, plainrandom, pure, twobin, weighted
    #[arg(long, value_name = "NAME", help_heading = "Tasks")]
    scheme: Option<String>,
    /// Tasks that an engine may have at once; 0 for no limit
    #[arg(long, value_name = "N", help_heading = "Tasks")]
    hwm: Option<u32>,
    /// Milliseconds between heartbeats
    #[arg(long, value_name = "MS", help_heading = "Tasks")]
    heartbeat: Option<u32>,
    /// Continue with the connection files that are there, and leave them at exit
    #[arg(long, help_heading = "Restart")]
    reuse: bool,
    /// The same, and take back the engines of the previous controller
    #[arg(long, help_heading = "Restart")]
    restore: bool,
    /// debug, info, warn, error
    #[arg(long, value_name = "LEVEL", help_heading = "Other")]
    log_level: Option<String>,
    /// Log to a file in the profile's log directory
    #[arg(long, help_heading = "Other")]
    log_to_file: bool,
    /// A further configuration file (.json, or .py with plain assignments)
    #[arg(long, value_name = "FILE", help_heading = "Other")]
    config: Option<PathBuf>,
    /// Any other option of stock ipcontroller, as listed by `piparallel ipcontroller --help-all`
    #[arg(
        long = "set",
        value_name = "CLASS.OPTION=VALUE",
        help_heading = "Other"
    )]
    set: Vec<String>,
}

impl PlaceOptions {
    pub fn assign(&self, config: &mut Config) {
        let mut put = |class, name, value: &Option<String>, flag| {
            if let Some(value) = value {
                let value = Value::untyped(value);
                config.assign(class, name, value, Rank::CommandLine, flag);
            }
        };
        put("IPController", "profile", &self.profile, "--profile");
        put("ProfileDir", "location", &self.profile_dir, "--profile-dir");
        put(
            "IPController",
            "cluster_id",
            &self.cluster_id,
            "--cluster-id",
        );
    }
}

impl ControllerOptions {
    /// The options as assignments.
    ///
    /// # Errors
    /// `--set` is not of the form `Class.option=value`.
    pub fn assignments(&self) -> anyhow::Result<Config> {
        let mut config = Config::default();
        self.place.assign(&mut config);
        let path = self.config.as_ref().map(|p| p.display().to_string());
        let database = self.database.map(|d| match d {
            Database::Memory => "DictDB".to_owned(),
            Database::None => "NoDB".to_owned(),
            Database::Sqlite => "SQLiteDB".to_owned(),
        });
        let on = |flag: bool| flag.then(|| "True".to_owned());
        for (class, name, value, flag) in [
            ("IPController", "ip", self.ip.clone(), "--ip"),
            (
                "IPController",
                "location",
                self.location.clone(),
                "--location",
            ),
            ("IPController", "ports", self.ports.clone(), "--ports"),
            (
                "IPController",
                "enable_curve",
                on(self.encrypt),
                "--encrypt",
            ),
            ("IPController", "db_class", database, "--database"),
            (
                "TaskScheduler",
                "scheme_name",
                self.scheme.clone(),
                "--scheme",
            ),
            (
                "TaskScheduler",
                "hwm",
                self.hwm.map(|n| n.to_string()),
                "--hwm",
            ),
            (
                "HeartMonitor",
                "period",
                self.heartbeat.map(|n| n.to_string()),
                "--heartbeat",
            ),
            ("IPController", "reuse_files", on(self.reuse), "--reuse"),
            (
                "IPController",
                "restore_engines",
                on(self.restore),
                "--restore",
            ),
            (
                "IPController",
                "log_level",
                self.log_level.clone(),
                "--log-level",
            ),
            (
                "IPController",
                "log_to_file",
                on(self.log_to_file),
                "--log-to-file",
            ),
            ("IPController", "extra_config_file", path, "--config"),
        ] {
            if let Some(value) = value {
                let value = Value::untyped(value);
                config.assign(class, name, value, Rank::CommandLine, flag);
            }
        }
        for assignment in &self.set {
            let (path, value) = assignment.split_once('=').unwrap_or_default();
            let (class, name) = path
                .split_once('.')
                .with_context(|| format!("--set expects CLASS.OPTION=VALUE, not {assignment:?}"))?;
            config.assign(
                class,
                name,
                Value::untyped(value),
                Rank::CommandLine,
                "--set",
            );
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn native_options_are_stock_options_under_other_names() {
        let options = ControllerOptions {
            database: Some(Database::Sqlite),
            heartbeat: Some(200),
            encrypt: true,
            set: vec!["SQLiteDB.table=a=b".to_owned()],
            ..ControllerOptions::default()
        };
        let config = options.assignments().unwrap();
        assert_eq!(config.warnings, Vec::<String>::new());
        let text = |class, name| config.read(class, name, Value::as_text).unwrap().unwrap();
        assert_eq!(text("IPController", "db_class"), "SQLiteDB");
        assert_eq!(text("HeartMonitor", "period"), "200");
        assert_eq!(text("IPController", "enable_curve"), "True");
        assert_eq!(text("SQLiteDB", "table"), "a=b");
    }

    #[test]
    fn set_needs_class_option_and_value() {
        for bad in ["x", "x=1", "A.b"] {
            let options = ControllerOptions {
                set: vec![bad.to_owned()],
                ..ControllerOptions::default()
            };
            assert!(options.assignments().is_err(), "{bad}");
        }
    }
}
