//! `piparallel up`: a whole pool on this machine, in the foreground: a controller in this process and
//! stock engines as its children.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::{Map, Value};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::sync::{Notify, oneshot};

use super::controller::open_profile;
use super::exit::Exit;
use super::options::ControllerOptions;
use super::screen::Screen;
use super::snapshot::Snapshot;
use crate::controller::{connection_file, lifecycle};
use crate::hub_client::HubClient;
use crate::pool::engine::{self, EngineCommand, Engines, State};
use crate::pool::{DEMO, orphans};
use crate::python;
use crate::settings::ControllerSettings;
use crate::settings::load::{load, merge};
use crate::settings::sources::Environment;
use crate::signals::Signals;

/// What `up` can be told.
#[derive(Args, Clone, Debug)]
pub struct UpOptions {
    /// Number of engines (default: one per core)
    #[arg(short = 'n', long, value_name = "N")]
    engines: Option<u32>,
    /// Python that runs the engines (default: the first with ipyparallel in $VIRTUAL_ENV, .venv and $PATH)
    #[arg(long, value_name = "FILE")]
    python: Option<PathBuf>,
    /// Run a short demonstration once the engines are in
    #[arg(long)]
    demo: bool,
    #[command(flatten)]
    controller: ControllerOptions,
}

/// Engines on one machine; more of them is a typing error.
const ENGINES_MAX: u32 = 4096;
const STATUS_PERIOD: Duration = Duration::from_secs(1);
/// While engines start, a look more often.
const START_PERIOD: Duration = Duration::from_millis(200);
/// All engines failed so often: it will not get better by itself.
const FAILURES_MAX: u32 = 3;
/// How long a nanny may take to tell the hub that its engine is gone.
const NANNY_PATIENCE: Duration = Duration::from_secs(2);

/// # Errors
/// The pool cannot start, or ended with a failure.
pub fn run(options: &UpOptions) -> anyhow::Result<Exit> {
    let runtime = super::runtime()?;
    runtime.block_on(async {
        let mut signals = Signals::install(true)?;
        let Some(pool) = stoppable(Pool::prepare(options), &mut signals).await else {
            return Ok(());
        };
        let (pool, prepared) = pool?;
        pool.run(prepared, &mut signals).await
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
    settings: ControllerSettings,
    command: EngineCommand,
    count: u32,
    demo: bool,
}

impl Pool {
    async fn prepare(options: &UpOptions) -> anyhow::Result<(Self, lifecycle::Prepared)> {
        let count = match options.engines {
            Some(count) => count,
            None => cores()?,
        };
        if count > ENGINES_MAX {
            bail!("{count} engines on one machine are too many (at most {ENGINES_MAX})");
        }
        let environment = Environment::of_process()?;
        let config = options.controller.assignments()?;
        let mut loaded = load(merge(config, &environment)?, &environment)?;
        // The terminal is for the status.
        let log = loaded.settings.profile.log().join(format!(
            "ipcontroller-{}-{}.log",
            loaded.settings.cluster_id,
            std::process::id()
        ));
        loaded.settings.log.file.get_or_insert(log);
        let mut settings = open_profile(loaded)?;
        let python = python::find(options.python.as_deref(), &environment).await?;
        settings.python = Some(python.path.clone());
        let prepared = lifecycle::prepare(settings)?;
        let settings = prepared.settings().clone();
        println!(
            "Engines run {} with ipyparallel {}",
            python.path.display(),
            python.version
        );
        let command = EngineCommand {
            python: python.path,
            connection_file: settings.engine.file.clone(),
            profile: settings.profile.path.clone(),
            log_dir: settings.profile.log(),
            env: Vec::new(),
        };
        let pool = Self {
            settings,
            command,
            count,
            demo: options.demo,
        };
        Ok((pool, prepared))
    }

    /// Controller and engines, until a signal, a failure, or a client's wish.
    async fn run(self, prepared: lifecycle::Prepared, signals: &mut Signals) -> anyhow::Result<()> {
        orphans::adopt();
        let (ready, is_ready) = oneshot::channel();
        let stop = Notify::new();
        let on_ready = || {
            // Nobody waits any more if a signal came first.
            let _ = ready.send(());
        };
        let controller = prepared.run(on_ready, stop.notified());
        let mut controller = std::pin::pin!(controller);
        tokio::select! {
            result = &mut controller => return result,
            _ = is_ready => {}
        }
        let engines = Engines::start(&self.command, self.count);
        let mut controller_result = None;
        let session_result = tokio::select! {
            result = &mut controller => {
                controller_result = Some(result);
                println!("The controller was asked to stop.");
                Ok(())
            }
            result = stoppable(self.session(&engines), signals) => result.unwrap_or(Ok(())),
        };
        let hurry = async {
            signals.next().await;
        };
        let ending = async {
            println!("Stopping the engines ...");
            engines.stop(hurry).await;
            orphans::end_all(NANNY_PATIENCE).await;
            stop.notify_one();
        };
        match controller_result {
            Some(result) => {
                ending.await;
                session_result.and(result)
            }
            // Engines take their leave from a hub that is there.
            None => {
                let (result, ()) = tokio::join!(controller, ending);
                session_result.and(result)
            }
        }
    }

    async fn session(&self, engines: &Engines) -> anyhow::Result<()> {
        let file = connection_file::read(&self.settings.client.file)?
            .context("the connection file is gone (did somebody remove it?)")?;
        let mut hub = HubClient::connect(&file).await?;
        self.wait_for_engines(&mut hub, engines).await?;
        if self.demo && self.count > 0 {
            self.demonstrate().await?;
        }
        println!("\n{}\n", self.how_to_connect(&file));
        self.follow(&mut hub, engines).await
    }

    async fn wait_for_engines(&self, hub: &mut HubClient, engines: &Engines) -> anyhow::Result<()> {
        let is_terminal = std::io::stdout().is_terminal();
        let mut last = None;
        loop {
            let snapshot: Snapshot = serde_json::from_value(hub.status().await?)?;
            let count = snapshot.engines.len();
            if last != Some(count) {
                let text = format!("{count} of {} engines are in", self.count);
                if is_terminal {
                    print!("\r{text}\x1b[K");
                } else {
                    println!("{text}");
                }
                let _ = std::io::stdout().flush();
                last = Some(count);
            }
            if count >= self.count as usize {
                if is_terminal {
                    println!();
                }
                return Ok(());
            }
            self.check_failures(engines)?;
            tokio::time::sleep(START_PERIOD).await;
        }
    }

    fn check_failures(&self, engines: &Engines) -> anyhow::Result<()> {
        let states = engines.states();
        let failed = |s: &State| match s {
            State::Waiting { failures, .. } => *failures >= FAILURES_MAX,
            State::Running { .. } => false,
            State::Ended => true,
        };
        if !states.iter().all(failed) {
            return Ok(());
        }
        bail!(
            "no engine starts, the last words of the first are: {} (see {})",
            engine::last_log_line(&self.command, 0),
            self.command.log_dir.display()
        )
    }

    /// A failure is told and does not end the pool.
    async fn demonstrate(&self) -> anyhow::Result<()> {
        println!();
        let mut command = Command::new(&self.command.python);
        command
            .arg("-")
            .arg(&self.settings.client.file)
            .stdin(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        engine::die_with_parent(&mut command);
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

    fn how_to_connect(&self, file: &Map<String, Value>) -> String {
        let python = self.command.python.display();
        let arguments = self.client_arguments();
        let log = self.settings.log.file.as_ref();
        let log = log.map_or(String::new(), |f| {
            format!("\nLog of the controller: {}", f.display())
        });
        let remote = match file.get("interface").and_then(Value::as_str) {
            Some(interface) if interface.contains("127.0.0.1") => {
                "\nOnly this machine can connect; --ip='*' opens the pool to others.".to_owned()
            }
            _ => format!(
                "\nFrom another machine: copy {} there and give its path to ipp.Client().",
                self.settings.client.file.display()
            ),
        };
        format!(
            "The pool is ready. From another shell:\n\n    {python}\n    >>> import ipyparallel as ipp\n    \
             >>> client = ipp.Client({arguments})\n    >>> client[:].apply_sync(lambda: 6 * 7)\n{remote}{log}\n\
             Ctrl-C stops the pool."
        )
    }

    /// What `ipp.Client()` needs to find this pool: nothing for the default profile.
    fn client_arguments(&self) -> String {
        let profile = &self.settings.profile.path;
        let is_default =
            profile.ends_with(".ipython/profile_default") && self.settings.cluster_id.is_empty();
        if is_default {
            String::new()
        } else {
            format!("{:?}", self.settings.client.file)
        }
    }

    /// Shows the state until something else ends it.
    async fn follow(&self, hub: &mut HubClient, engines: &Engines) -> anyhow::Result<()> {
        let mut screen = Screen::new();
        loop {
            let snapshot: Snapshot = serde_json::from_value(hub.status().await?)?;
            let running = running(engines);
            orphans::reap(&running);
            let line = format!(
                "{} of {} engines, tasks: {}",
                snapshot.engines.len(),
                self.count,
                snapshot.tasks.summary()
            );
            screen.show(&snapshot.render(super::ENGINES_ON_SCREEN), &line);
            if engines.states().iter().all(|s| *s == State::Ended) && self.count > 0 {
                println!("All engines were asked to stop.");
                return Ok(());
            }
            tokio::time::sleep(STATUS_PERIOD).await;
        }
    }
}

fn running(engines: &Engines) -> Vec<u32> {
    let states = engines.states();
    states
        .iter()
        .filter_map(|s| match s {
            State::Running { pid } => Some(*pid),
            State::Waiting { .. } | State::Ended => None,
        })
        .collect()
}

fn cores() -> anyhow::Result<u32> {
    let cores = std::thread::available_parallelism();
    let cores = cores.context("cannot count the cores (give a number: -n 4)")?;
    Ok(u32::try_from(cores.get())
        .unwrap_or(ENGINES_MAX)
        .min(ENGINES_MAX))
}
