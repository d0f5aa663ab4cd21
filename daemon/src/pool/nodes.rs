//! The nodes of a pool on this machine: what a shelf of Pis does, as processes that find one another over
//! loopback, each with directories of its own.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getuid};
use piparallel_core::join::keys::SharedKey;
use sha2::{Digest as _, Sha256};
use tokio::process::{Child, Command};
use toml::{Table, Value};

use crate::engines::die_with_parent;
use crate::node::keys::random_key;
use crate::private::{make_private_dir, write_private};

/// What is to run.
pub struct Plan {
    /// Stands for this pool among those of this user: the client's connection file.
    pub place: PathBuf,
    pub log_dir: PathBuf,
    pub python: PathBuf,
    pub engines: u32,
    /// That run engines, besides the controller.
    pub nodes: u32,
    /// Further options of all nodes, `KEY=VALUE`.
    pub assignments: Vec<String>,
}

/// The processes. They end with this process, however that ends.
pub struct Nodes {
    pub pool: String,
    dir: PathBuf,
    controller: Node,
    others: Vec<Node>,
    port: u16,
    _lock: Flock<File>,
}

struct Node {
    name: String,
    run_dir: PathBuf,
    log: PathBuf,
    child: Child,
}

const CONTROLLER: &str = "controller";

/// Between SIGTERM and SIGKILL: engines end, and the controller writes what it knows.
const GRACE: Duration = Duration::from_secs(10);

impl Nodes {
    /// Starts all of them. Must be called on a runtime.
    ///
    /// # Errors
    /// A pool of this place runs already, or a process cannot be started.
    pub fn start(plan: &Plan) -> anyhow::Result<Self> {
        let mark = mark(&plan.place);
        let dir = runtime_dir().join(format!("piparallel-{}-{mark}", getuid()));
        let lock = claim(&dir, &plan.place)?;
        let pool = format!("up-{mark}");
        let port = free_port()?;
        let key = random_key()?;
        let base = base(&pool, port, &key, &plan.python);
        let start = |name: &str, role, count| {
            let mut options = base.clone();
            options.insert("name".to_owned(), Value::String(name.to_owned()));
            options.insert("role".to_owned(), Value::String(role));
            let engines = options.get_mut("engines").and_then(Value::as_table_mut);
            engines
                .context("engines are a table")?
                .insert("count".to_owned(), Value::Integer(i64::from(count)));
            start_node(&dir, name, options, plan)
        };
        let controller = start(CONTROLLER, "controller".to_owned(), 0)?;
        let others = shares(plan.engines, plan.nodes).enumerate();
        let others = others.map(|(number, share)| {
            start(&format!("node-{}", number + 1), "engine".to_owned(), share)
        });
        Ok(Self {
            others: others.collect::<anyhow::Result<_>>()?,
            controller,
            pool,
            dir,
            port,
            _lock: lock,
        })
    }

    /// Where laptops join.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// Where the controller's control socket is, or will be.
    #[must_use]
    pub fn control_dir(&self) -> &Path {
        &self.controller.run_dir
    }

    /// For keys of whoever joins from here.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// That all still run.
    ///
    /// # Errors
    /// One has ended: the message has its last words.
    pub fn check(&mut self) -> anyhow::Result<()> {
        for node in std::iter::once(&mut self.controller).chain(&mut self.others) {
            if let Ok(Some(status)) = node.child.try_wait() {
                bail!(node.last_words(status));
            }
        }
        Ok(())
    }

    /// Ends all. `hurry` cuts the grace period short: whoever is left is killed.
    pub async fn stop(self, hurry: impl Future<Output = ()>) {
        let ended = async {
            // Engines take their leave from a controller that is there.
            end(self.others).await;
            end(vec![self.controller]).await;
        };
        tokio::select! {
            () = ended => {}
            () = tokio::time::sleep(GRACE) => log::warn!("nodes that do not end are killed"),
            () = hurry => {}
        }
        if let Err(cause) = fs::remove_dir_all(&self.dir) {
            log::warn!("cannot remove {}: {cause}", self.dir.display());
        }
    }
}

impl Node {
    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            // It may be gone, which is what is wanted.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    fn last_words(&self, status: ExitStatus) -> String {
        let text = tail(&self.log).unwrap_or_default();
        let line = text.lines().rev().find(|line| !line.trim().is_empty());
        format!(
            "{} ended ({status}), its last words are: {} (see {})",
            self.name,
            line.unwrap_or("none").trim(),
            self.log.display()
        )
    }
}

async fn end(nodes: Vec<Node>) {
    for node in &nodes {
        node.signal(Signal::SIGTERM);
    }
    for mut node in nodes {
        // An error means that it is gone.
        let _ = node.child.wait().await;
    }
}

/// Options that all nodes have in common.
fn base(pool: &str, port: u16, key: &SharedKey, python: &Path) -> Table {
    let mut network = Table::new();
    network.insert(
        "interfaces".to_owned(),
        Value::Array(vec![Value::String("lo".to_owned())]),
    );
    network.insert("port".to_owned(), Value::Integer(i64::from(port)));
    let mut engines = Table::new();
    let mut put = |key: &str, value| engines.insert(key.to_owned(), value);
    put("python", Value::String(python.display().to_string()));
    put("on_controller", Value::Boolean(false));
    // Whoever stops a pool that runs in the foreground does not wait for long tasks.
    put("drain_timeout", Value::String("2s".to_owned()));
    // They run as we do.
    put("user", Value::String(String::new()));
    let mut base = Table::new();
    base.insert("pool".to_owned(), Value::String(pool.to_owned()));
    base.insert("join_key".to_owned(), Value::String(key.to_text()));
    base.insert("network".to_owned(), Value::Table(network));
    base.insert("engines".to_owned(), Value::Table(engines));
    base
}

fn start_node(dir: &Path, name: &str, mut options: Table, plan: &Plan) -> anyhow::Result<Node> {
    let home = dir.join(name);
    let run_dir = home.join("run");
    let state_dir = home.join("state").display().to_string();
    make_private_dir(&home)?;
    options.insert("state_dir".to_owned(), Value::String(state_dir));
    options.insert(
        "run_dir".to_owned(),
        Value::String(run_dir.display().to_string()),
    );
    let config = home.join("piparallel.toml");
    write_private(&config, options.to_string().as_bytes())?;
    let log = plan.log_dir.join(format!("piparallel-{name}.log"));
    let output = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&log)
        .with_context(|| format!("cannot write {}", log.display()))?;
    let program = std::env::current_exe().context("cannot find this program")?;
    let mut command = Command::new(program);
    command
        .arg("node")
        .arg("--config")
        .arg(&config)
        .args(plan.assignments.iter().map(|a| format!("--set={a}")))
        .stdin(Stdio::null())
        .stdout(output.try_clone().context("cannot share the log file")?)
        .stderr(output)
        // Ctrl-C of the terminal is for us.
        .process_group(0)
        .kill_on_drop(true);
    die_with_parent(&mut command);
    Ok(Node {
        name: name.to_owned(),
        run_dir,
        log,
        child: command.spawn().context("cannot start a node")?,
    })
}

/// How many engines each node runs.
fn shares(engines: u32, nodes: u32) -> impl Iterator<Item = u32> {
    let nodes = nodes.min(engines);
    (0..nodes).map(move |number| engines / nodes + u32::from(number < engines % nodes))
}

/// Takes the directory, which may be there from a process that was killed.
fn claim(dir: &Path, place: &Path) -> anyhow::Result<Flock<File>> {
    let lock = loop {
        if let Ok(found) = fs::symlink_metadata(dir)
            && (!found.is_dir() || found.uid() != getuid().as_raw())
        {
            bail!("{} belongs to somebody else (remove it)", dir.display());
        }
        make_private_dir(dir)?;
        let opened = File::open(dir).with_context(|| format!("cannot open {}", dir.display()))?;
        let lock = Flock::lock(opened, FlockArg::LockExclusiveNonblock).map_err(|_| {
            anyhow::anyhow!(
                "a pool for {} runs already (stop it, or give this one a --profile or --cluster-id of its own)",
                place.display()
            )
        })?;
        // The pool before may just have removed it.
        let inode = lock.metadata()?.ino();
        if fs::metadata(dir).is_ok_and(|found| found.ino() == inode) {
            break lock;
        }
    };
    // What a pool that was killed has left.
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let removed = match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path()),
            false => fs::remove_file(entry.path()),
        };
        removed.with_context(|| format!("cannot remove {}", entry.path().display()))?;
    }
    Ok(lock)
}

/// A short name for the place. Paths of sockets must not be long.
fn mark(place: &Path) -> String {
    let hash = Sha256::digest(place.as_os_str().as_encoded_bytes());
    hash.iter()
        .take(4)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn runtime_dir() -> PathBuf {
    let named = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    named
        .filter(|dir| dir.is_dir())
        .unwrap_or_else(|| PathBuf::from("/tmp"))
}

fn free_port() -> anyhow::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port is free")?;
    Ok(listener.local_addr()?.port())
}

fn tail(path: &Path) -> std::io::Result<String> {
    const TAIL: u64 = 4096;
    let mut file = File::open(path)?;
    let start = file.metadata()?.len().saturating_sub(TAIL);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_are_shared_out_evenly_and_no_node_has_none() {
        let all = |engines, nodes| shares(engines, nodes).collect::<Vec<_>>();
        assert_eq!(all(4, 2), [2, 2]);
        assert_eq!(all(5, 2), [3, 2]);
        assert_eq!(all(1, 2), [1]);
        assert!(all(0, 2).is_empty());
    }

    #[test]
    fn a_place_is_claimed_once_and_what_a_dead_one_left_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let pool = dir.path().join("pool");
        let place = Path::new("client.json");
        let lock = claim(&pool, place).unwrap();
        fs::write(pool.join("left"), "").unwrap();
        let error = claim(&pool, place).unwrap_err().to_string();
        assert!(error.contains("runs already"), "{error}");
        drop(lock);
        let _lock = claim(&pool, place).unwrap();
        assert!(!pool.join("left").exists());
    }
}
