//! `piparallel up`: a whole pool on this machine, in the foreground: a controller and nodes with engines, each a
//! process as on a machine of its own, that find one another and join; and this machine connected to it.

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use piparallel_core::join::keys::SharedKey;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::task::spawn_blocking;

use super::connect;
use super::exit::Exit;
use super::options::PlaceOptions;
use super::screen::Screen;
use super::snapshot::Snapshot;
use crate::control;
use crate::control::nodes::Nodes as NodeList;
use crate::controller::connection_file;
use crate::engines::die_with_parent;
use crate::hub_client::HubClient;
use crate::laptop::joining::join;
use crate::laptop::placement::Placements;
use crate::laptop::pools::Found;
use crate::logging;
use crate::pool::nodes::{Nodes, Plan};
use crate::python::{self, Python};
use crate::settings::LogSettings;
use crate::settings::node;
use crate::settings::sources::Environment;
use crate::signals::Signals;

/// What `up` can be told.
#[derive(Args, Clone, Debug)]
pub struct UpOptions {
    /// Number of engines (default: one per core)
    #[arg(short = 'n', long, value_name = "N")]
    engines: Option<u32>,
    /// Number of nodes that run them, besides the controller
    #[arg(long, value_name = "N", default_value_t = 2)]
    nodes: u32,
    /// Python that runs the engines (default: the first with ipyparallel in $VIRTUAL_ENV, .venv and $PATH)
    #[arg(long, value_name = "FILE")]
    python: Option<PathBuf>,
    /// Run a short demonstration once the engines are in
    #[arg(long)]
    demo: bool,
    /// Set an option of all nodes, such as tasks.scheme=lru; `piparallel config --reference` lists them
    #[arg(long = "set", value_name = "KEY=VALUE")]
    assignments: Vec<String>,
    #[command(flatten)]
    place: PlaceOptions,
}

/// Engines on one machine; more of them is a typing error.
const ENGINES_MAX: u32 = 4096;
const STATUS_PERIOD: Duration = Duration::from_secs(1);
/// While engines start, a look more often.
const START_PERIOD: Duration = Duration::from_millis(200);
/// A node that starts is asked again.
const ASK_PERIOD: Duration = Duration::from_millis(50);

/// A Python session against the pool, as a user would write it.
const DEMO: &str = include_str!("demo.py");

/// # Errors
/// The pool cannot start, or ended with a failure.
pub fn run(options: &UpOptions) -> anyhow::Result<Exit> {
    logging::start(&LogSettings {
        level: log::LevelFilter::Warn,
        file: None,
    })?;
    let runtime = super::runtime()?;
    runtime.block_on(async {
        let mut signals = Signals::install(true)?;
        match stoppable(Pool::prepare(options), &mut signals).await {
            Some(pool) => pool?.run(&mut signals).await,
            None => Ok(()),
        }
    })?;
    Ok(Exit::Success)
}

/// The outcome of `work`, or `None` if a signal came first.
async fn stoppable<T>(work: impl Future<Output = T>, signals: &mut Signals) -> Option<T> {
    tokio::select! {
        outcome = work => Some(outcome),
        _ = signals.next() => None,
    }
}

/// What is known before anything is started.
struct Pool {
    plan: Plan,
    demo: bool,
    /// What makes a client of it, in Python.
    client_call: String,
    state_dir: PathBuf,
}

impl Pool {
    async fn prepare(options: &UpOptions) -> anyhow::Result<Self> {
        let engines = match options.engines {
            Some(count) => count,
            None => node::cores()?.min(ENGINES_MAX),
        };
        if engines > ENGINES_MAX {
            bail!("{engines} engines on one machine are too many (at most {ENGINES_MAX})");
        }
        if options.nodes == 0 && engines > 0 {
            bail!("engines need a node that runs them (--nodes 1)");
        }
        let environment = Environment::of_process()?;
        let Python { path, version } =
            python::find(options.python.as_deref(), &environment).await?;
        println!("Engines run {} with ipyparallel {version}", path.display());
        let (place, profile) = connect::place(&options.place, &environment)?;
        let log_dir = profile.log();
        std::fs::create_dir_all(&log_dir)
            .with_context(|| format!("cannot make the directory {}", log_dir.display()))?;
        Ok(Self {
            client_call: connect::client_call(&options.place, &profile, &place),
            plan: Plan {
                place,
                log_dir,
                python: path,
                engines,
                nodes: options.nodes,
                assignments: options.assignments.clone(),
            },
            demo: options.demo,
            state_dir: connect::state_dir(&environment),
        })
    }

    /// All nodes, until a signal, a failure, or a client's wish.
    async fn run(self, signals: &mut Signals) -> anyhow::Result<()> {
        let mut nodes = Nodes::start(&self.plan)?;
        let session = stoppable(self.session(&mut nodes), signals).await;
        println!("Stopping the nodes ...");
        let hurry = async {
            signals.next().await;
        };
        nodes.stop(hurry).await;
        let disconnected = self.disconnect();
        session.unwrap_or(Ok(())).and(disconnected)
    }

    async fn session(&self, nodes: &mut Nodes) -> anyhow::Result<()> {
        self.connect(nodes).await?;
        let mut hub = self.hub().await?;
        self.wait_for_engines(&mut hub, nodes).await?;
        if self.demo && self.plan.engines > 0 {
            self.demonstrate().await?;
        }
        println!("\n{}\n", self.how_to_connect(nodes));
        self.follow(hub, nodes).await
    }

    /// Joins as a laptop would, with the key for laptops.
    async fn connect(&self, nodes: &mut Nodes) -> anyhow::Result<()> {
        let key = loop {
            nodes.check()?;
            let renew = control::Command::ClientKey { renew: false };
            if let Ok(answer) = ask(nodes.control_dir(), renew).await {
                let key = answer.get("key").and_then(Value::as_str);
                break key
                    .context("the controller tells no key")?
                    .parse::<SharedKey>()?;
            }
            tokio::time::sleep(ASK_PERIOD).await;
        };
        let found = Found {
            pool: nodes.pool.clone(),
            addresses: vec![nodes.address()],
        };
        let joined = join(&found, Some(key), nodes.dir(), |_| {}).await?;
        Placements::load(&self.state_dir)?.place(&self.plan.place, &nodes.pool, joined.file)
    }

    fn disconnect(&self) -> anyhow::Result<()> {
        let mut placements = Placements::load(&self.state_dir)?;
        match placements.is_placed(&self.plan.place) {
            true => placements.remove(&self.plan.place).map(drop),
            false => Ok(()),
        }
    }

    async fn hub(&self) -> anyhow::Result<HubClient> {
        let file = connection_file::read(&self.plan.place)?
            .context("the connection file is gone (did somebody remove it?)")?;
        HubClient::connect(&file).await
    }

    async fn wait_for_engines(&self, hub: &mut HubClient, nodes: &mut Nodes) -> anyhow::Result<()> {
        let is_terminal = std::io::stdout().is_terminal();
        let mut last = None;
        loop {
            let snapshot: Snapshot = serde_json::from_value(hub.status().await?)?;
            let count = snapshot.engines.len();
            if last != Some(count) {
                let text = format!("{count} of {} engines are in", self.plan.engines);
                if is_terminal {
                    print!("\r{text}\x1b[K");
                } else {
                    println!("{text}");
                }
                let _ = std::io::stdout().flush();
                last = Some(count);
            }
            if count >= self.plan.engines as usize {
                if is_terminal {
                    println!();
                }
                return Ok(());
            }
            nodes.check()?;
            check_engines(nodes.control_dir()).await?;
            tokio::time::sleep(START_PERIOD).await;
        }
    }

    /// A failure is told and does not end the pool.
    async fn demonstrate(&self) -> anyhow::Result<()> {
        println!();
        let mut command = Command::new(&self.plan.python);
        command
            .arg("-")
            .arg(&self.plan.place)
            .stdin(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        die_with_parent(&mut command);
        let mut child = command.spawn().context("cannot start the demonstration")?;
        if let Some(mut stdin) = child.stdin.take() {
            // If Python ends early, its exit code tells.
            let _ = stdin.write_all(DEMO.as_bytes()).await;
        }
        let status = child.wait().await.context("the demonstration was lost")?;
        if !status.success() {
            println!("The demonstration failed ({status}); the pool goes on.");
        }
        Ok(())
    }

    fn how_to_connect(&self, nodes: &Nodes) -> String {
        format!(
            "The pool is ready. From another shell:\n\n    {python}\n    >>> import ipyparallel as ipp\n    \
             >>> client = {client_call}\n    >>> client[:].apply_sync(lambda: 6 * 7)\n\n\
             Its nodes: piparallel nodes --run-dir={control}\nTheir logs: {logs}/piparallel-*.log\n\
             Only this machine can connect. Ctrl-C stops the pool.",
            client_call = self.client_call,
            python = self.plan.python.display(),
            control = nodes.control_dir().display(),
            logs = self.plan.log_dir.display(),
        )
    }

    /// Shows the state until something else ends it.
    async fn follow(&self, mut hub: HubClient, nodes: &mut Nodes) -> anyhow::Result<()> {
        let mut screen = Screen::new();
        loop {
            nodes.check()?;
            match hub.status().await {
                Ok(status) => {
                    let snapshot: Snapshot = serde_json::from_value(status)?;
                    let line = format!(
                        "{} of {} engines, tasks: {}",
                        snapshot.engines.len(),
                        self.plan.engines,
                        snapshot.tasks.summary()
                    );
                    screen.show(&snapshot.render(super::ENGINES_ON_SCREEN), &line);
                }
                // A client may have asked the controller to end: the node starts it anew.
                Err(_) => {
                    tokio::time::sleep(STATUS_PERIOD).await;
                    hub = self.hub().await?;
                }
            }
            tokio::time::sleep(STATUS_PERIOD).await;
        }
    }
}

async fn ask(control_dir: &Path, command: control::Command) -> anyhow::Result<Value> {
    let dir = control_dir.to_owned();
    spawn_blocking(move || control::client::ask(&dir, command)).await?
}

/// That engines start somewhere.
async fn check_engines(control_dir: &Path) -> anyhow::Result<()> {
    let nodes: NodeList = serde_json::from_value(ask(control_dir, control::Command::Nodes).await?)?;
    let problem = nodes.nodes.iter().find_map(|node| {
        let none_runs = node.engines.is_some_and(|e| e.running == 0 && e.wanted > 0);
        node.problem.as_ref().filter(|_| none_runs)
    });
    match problem {
        Some(problem) => bail!("no engine starts: {problem}"),
        None => Ok(()),
    }
}
