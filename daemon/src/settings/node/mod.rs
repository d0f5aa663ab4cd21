//! The options of a node: `piparallel.toml`, its drop-ins, and the command line.
//!
//! Values come in three stages: *fragments* (one file each, everything optional), *inputs* (all of them
//! merged, with the origin of each value), and *settings* (validated types, what the rest of the program
//! sees). `defaults.toml` is the first fragment and the reference at the same time.

use std::fmt;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use piparallel_core::join::keys::SharedKey;

use super::{PortRange, Scheme};

/// One file.
mod fragment;
/// All files, merged.
pub mod inputs;
/// Which network interfaces are used.
pub mod interfaces;
/// From inputs to settings.
mod resolve;

pub use inputs::{Inputs, Origin};
pub use interfaces::InterfaceFilter;

/// What a node runs with.
pub struct NodeSettings {
    pub pool: String,
    pub role: Role,
    pub name: String,
    /// A controller that is known, as a host with its port.
    pub controller: Option<HostPort>,
    pub join_key: Option<SharedKey>,
    /// How long a controller that is gone is waited for; `None`: for ever.
    pub takeover_after: Option<Duration>,
    pub log_level: log::LevelFilter,
    pub state_dir: PathBuf,
    pub run_dir: PathBuf,
    pub network: NetworkSettings,
    pub engines: EngineSettings,
    pub tasks: TaskSettings,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Auto,
    Controller,
    Engine,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// A name or an address; an IPv6 address without brackets.
    pub host: String,
    pub port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkSettings {
    /// Where nodes join.
    pub port: u16,
    /// For clients and engines.
    pub ports: Vec<PortRange>,
    pub location: Option<Ipv4Addr>,
    pub interfaces: InterfaceFilter,
    pub multicast: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineSettings {
    pub count: u32,
    pub on_controller: bool,
    /// `None`: the first that is found.
    pub python: Option<PathBuf>,
    pub imports: Vec<String>,
    /// Bytes that one engine may use.
    pub memory_limit: Option<u64>,
    pub nice: i32,
    /// `None`: as this process.
    pub user: Option<String>,
    /// `None`: the home of that user.
    pub dir: Option<PathBuf>,
    /// Another service runs them.
    pub apart: bool,
    /// Those that a client has shut down are started again.
    pub revive: bool,
    pub drain_timeout: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskSettings {
    pub database: Database,
    pub scheme: Scheme,
    /// Tasks that an engine may have at once; `None`: no limit.
    pub hwm: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Database {
    Memory,
    None,
    Sqlite,
}

/// What the program was told about its options.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// One file in place of those of the system.
    pub file: Option<PathBuf>,
    /// `KEY=VALUE`, in order.
    pub assignments: Vec<String>,
}

/// Settings, and how they came about.
pub struct Loaded {
    pub settings: NodeSettings,
    pub inputs: Inputs,
    pub warnings: Vec<String>,
}

/// The directories of options, later ones outrank earlier ones: of the distribution, of the
/// administrator, of this boot.
const DIRS: [&str; 3] = ["usr/lib/piparallel", "etc/piparallel", "run/piparallel"];

const FILE: &str = "piparallel.toml";

/// Every option, what it means, and its default.
pub const REFERENCE: &str = include_str!("defaults.toml");

/// Reads and validates all options.
///
/// # Errors
/// A file cannot be read or understood, or an option has a value that it cannot have.
pub fn load(sources: &Sources) -> anyhow::Result<Loaded> {
    load_below(Path::new("/"), sources)
}

/// Whether the text of one file is right, by itself.
///
/// # Errors
/// It is not understood, or an option has a value that it cannot have.
pub fn check(text: &str, path: &Path) -> anyhow::Result<()> {
    let mut inputs = Inputs::default();
    inputs.add(REFERENCE, &Origin::Default)?;
    inputs.add_machine(&crate::address::host_name(), cores()?);
    inputs.add(text, &Origin::File(path.to_owned()))?;
    resolve::resolve(&inputs).map(drop)
}

fn load_below(root: &Path, sources: &Sources) -> anyhow::Result<Loaded> {
    let mut inputs = Inputs::default();
    inputs.add(REFERENCE, &Origin::Default)?;
    inputs.add_machine(&crate::address::host_name(), cores()?);
    match &sources.file {
        Some(file) => {
            if !read_with_drop_ins(&mut inputs, file)? {
                bail!("{} does not exist (--config)", file.display());
            }
        }
        None => {
            for dir in DIRS {
                read_with_drop_ins(&mut inputs, &root.join(dir).join(FILE))?;
            }
        }
    }
    for assignment in &sources.assignments {
        inputs.assign(assignment)?;
    }
    let settings = resolve::resolve(&inputs)?;
    Ok(Loaded {
        warnings: exposed_key(&inputs).into_iter().collect(),
        settings,
        inputs,
    })
}

/// Reads `FILE`, then `FILE.d/*.toml` by name. False if there is no `FILE`.
fn read_with_drop_ins(inputs: &mut Inputs, file: &Path) -> anyhow::Result<bool> {
    let is_there = inputs.read(file)?;
    let mut dir = file.as_os_str().to_owned();
    dir.push(".d");
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(is_there),
        Err(e) => bail!("cannot read {}: {e}", Path::new(&dir).display()),
    };
    let paths = entries.map(|entry| entry.map(|e| e.path()));
    let paths: Result<Vec<_>, _> = paths.collect();
    let mut paths = paths.with_context(|| format!("cannot read {}", Path::new(&dir).display()))?;
    paths.retain(|path| path.extension().is_some_and(|e| e == "toml"));
    paths.sort_unstable();
    for path in paths {
        inputs.read(&path)?;
    }
    Ok(is_there)
}

/// A key that everybody on this machine can read is a key of whoever runs code here.
fn exposed_key(inputs: &Inputs) -> Option<String> {
    use std::os::unix::fs::PermissionsExt as _;
    let Some(Origin::File(path)) = inputs.origin("join_key") else {
        return None;
    };
    let mode = std::fs::metadata(path).ok()?.permissions().mode();
    (mode & 0o077 != 0).then(|| {
        format!(
            "{0} holds the join key and others can read it (chmod 600 {0})",
            path.display()
        )
    })
}

/// Cores that this process may use.
///
/// # Errors
/// The system does not tell.
pub fn cores() -> anyhow::Result<u32> {
    let cores = std::thread::available_parallelism();
    let cores = cores.context("cannot count the cores (say how many engines are wanted)")?;
    Ok(u32::try_from(cores.get()).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address;

    fn put(root: &Path, file: &str, text: &str) {
        let path = root.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn origin(loaded: &Loaded, name: &str) -> String {
        loaded.inputs.origin(name).unwrap().to_string()
    }

    #[test]
    fn without_any_file_the_defaults_hold() {
        let root = tempfile::tempdir().unwrap();
        let loaded = load_below(root.path(), &Sources::default()).unwrap();
        assert_eq!(loaded.settings.pool, "piparallel");
        assert_eq!(loaded.settings.role, Role::Auto);
        assert_eq!(loaded.settings.engines.count, cores().unwrap());
        assert_eq!(origin(&loaded, "pool"), "default");
        assert_eq!(origin(&loaded, "name"), "this machine");
        for pattern in &loaded.settings.network.interfaces.leave_out {
            let name = pattern.trim_end_matches('*');
            // Nodes and `ipcontroller` leave out the same.
            assert!(address::is_private_to_host(name), "{name}");
        }
    }

    #[test]
    fn run_outranks_etc_and_etc_outranks_usr_and_drop_ins_outrank_their_file() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        put(root, "run/piparallel/piparallel.toml", "pool = \"run\"");
        put(
            root,
            "usr/lib/piparallel/piparallel.toml.d/90-x.toml",
            "pool = \"usr\"\nname = \"usr\"",
        );
        put(
            root,
            "etc/piparallel/piparallel.toml",
            "pool = \"etc\"\nname = \"etc\"\nlog_level = \"error\"",
        );
        put(
            root,
            "etc/piparallel/piparallel.toml.d/20-b.toml",
            "log_level = \"debug\"",
        );
        put(
            root,
            "etc/piparallel/piparallel.toml.d/10-a.toml",
            "log_level = \"warn\"",
        );
        put(
            root,
            "etc/piparallel/piparallel.toml.d/30-c.toml~",
            "log_level = \"trace\"",
        );
        let mut sources = Sources::default();
        let loaded = load_below(root, &sources).unwrap();
        assert_eq!(loaded.settings.pool, "run");
        assert_eq!(loaded.settings.name, "etc");
        assert_eq!(loaded.settings.log_level, log::LevelFilter::Debug);
        assert!(
            origin(&loaded, "log_level").ends_with("etc/piparallel/piparallel.toml.d/20-b.toml")
        );
        sources.assignments.push("pool=line".to_owned());
        assert_eq!(load_below(root, &sources).unwrap().settings.pool, "line");
    }

    #[test]
    fn a_given_file_takes_the_place_of_the_others_and_must_be_there() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        put(root, "etc/piparallel/piparallel.toml", "pool = \"etc\"");
        put(root, "mine.toml", "name = \"mine\"");
        put(root, "mine.toml.d/1.toml", "role = \"engine\"");
        let mut sources = Sources {
            file: Some(root.join("mine.toml")),
            assignments: Vec::new(),
        };
        let loaded = load_below(root, &sources).unwrap();
        assert_eq!(loaded.settings.pool, "piparallel");
        assert_eq!(loaded.settings.name, "mine");
        assert_eq!(loaded.settings.role, Role::Engine);
        sources.file = Some(root.join("none.toml"));
        let error = load_below(root, &sources).err().unwrap().to_string();
        assert!(error.contains("none.toml does not exist"), "{error}");
    }

    #[test]
    fn a_key_that_others_can_read_is_a_warning() {
        use std::os::unix::fs::PermissionsExt as _;
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("p.toml");
        let key = "A".repeat(52);
        std::fs::write(&file, format!("join_key = \"{key}\"")).unwrap();
        let sources = Sources {
            file: Some(file.clone()),
            assignments: Vec::new(),
        };
        let mode =
            |mode| std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        mode(0o644);
        let warnings = load(&sources).unwrap().warnings;
        assert!(warnings[0].contains("chmod 600"), "{warnings:?}");
        mode(0o600);
        assert_eq!(load(&sources).unwrap().warnings, Vec::<String>::new());
    }
}
