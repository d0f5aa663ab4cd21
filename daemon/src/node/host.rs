//! The engines of this node: told which pool they work for, and watched.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Map, Value};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::spawn_local;
use tokio::time::{MissedTickBehavior, interval};

use crate::laptop::python_versions;
use crate::pool::engine::{EngineCommand, Engines, State};
use crate::private::write_private;
use crate::python;
use crate::settings::node::EngineSettings;
use crate::settings::sources::Environment;

/// How the engines are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostStatus {
    pub running: u32,
    pub wanted: u32,
    /// Of Python and packages.
    pub versions: BTreeMap<String, String>,
}

/// The way to the engines.
pub struct Host {
    orders: mpsc::UnboundedSender<Order>,
    status: watch::Receiver<HostStatus>,
}

enum Order {
    /// The engines' connection file, in place of the former.
    File(Map<String, Value>),
    /// There is no pool any more.
    NoPool,
    Restart,
    Stop(oneshot::Sender<()>),
}

/// How often the engines are counted.
const LOOK: Duration = Duration::from_millis(500);

impl Host {
    /// Starts to look after engines; there are none before a connection file comes. Must be called on a
    /// `LocalRuntime`.
    #[must_use]
    pub fn start(settings: EngineSettings, count: u32, dir: PathBuf) -> Self {
        let (orders, inbox) = mpsc::unbounded_channel();
        let (status, receiver) = watch::channel(HostStatus {
            wanted: count,
            ..HostStatus::default()
        });
        let keeper = Keeper {
            settings,
            count,
            dir,
            file: None,
            engines: None,
            status,
        };
        spawn_local(keeper.run(inbox));
        Self {
            orders,
            status: receiver,
        }
    }

    /// The engines work for the pool of this connection file from now on. One that is the same as before
    /// changes nothing.
    pub fn give(&self, file: Map<String, Value>) {
        self.order(Order::File(file));
    }

    /// The engines stop: they belong to no pool any more.
    pub fn take_away(&self) {
        self.order(Order::NoPool);
    }

    pub fn restart(&self) {
        self.order(Order::Restart);
    }

    #[must_use]
    pub fn status(&self) -> HostStatus {
        self.status.borrow().clone()
    }

    /// Ends all engines, and returns when they have ended.
    pub async fn stop(self) {
        let (done, ended) = oneshot::channel();
        self.order(Order::Stop(done));
        // An error means that it has ended already.
        let _ = ended.await;
    }

    fn order(&self, order: Order) {
        // The task ends with this handle only.
        let _ = self.orders.send(order);
    }
}

/// The task behind the handle.
struct Keeper {
    settings: EngineSettings,
    count: u32,
    dir: PathBuf,
    file: Option<Map<String, Value>>,
    engines: Option<Engines>,
    status: watch::Sender<HostStatus>,
}

impl Keeper {
    async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Order>) {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                order = inbox.recv() => match order {
                    Some(Order::File(file)) if self.file.as_ref() == Some(&file) => {}
                    Some(Order::File(file)) => {
                        self.file = Some(file);
                        self.start_anew().await;
                    }
                    Some(Order::NoPool) => {
                        self.file = None;
                        self.end().await;
                    }
                    Some(Order::Restart) => self.start_anew().await,
                    Some(Order::Stop(done)) => {
                        self.end().await;
                        // Whoever asked may have been in a hurry.
                        let _ = done.send(());
                        return;
                    }
                    None => return self.end().await,
                },
                _ = look.tick() => self.count(),
            }
        }
    }

    fn count(&self) {
        let states = self.engines.as_ref().map(Engines::states);
        let states = states.unwrap_or_default();
        let is_running = |s: &&State| matches!(s, State::Running { .. });
        let running = states.iter().filter(is_running).count();
        let running = u32::try_from(running).unwrap_or(u32::MAX);
        self.status.send_if_modified(|status| {
            let is_news = status.running != running;
            status.running = running;
            is_news
        });
    }

    async fn end(&mut self) {
        if let Some(engines) = self.engines.take() {
            engines.stop(std::future::pending()).await;
        }
        self.count();
    }

    async fn start_anew(&mut self) {
        self.end().await;
        let Some(file) = self.file.clone() else {
            return;
        };
        if self.count == 0 {
            return;
        }
        match self.command(&file).await {
            Ok(command) => self.engines = Some(Engines::start(&command, self.count)),
            Err(cause) => log::error!("no engines run: {cause:#}"),
        }
        self.count();
    }

    async fn command(&self, file: &Map<String, Value>) -> anyhow::Result<EngineCommand> {
        let environment = Environment::of_process()?;
        let python = python::find(self.settings.python.as_deref(), &environment).await?;
        self.note_versions(&python);
        let dir = &self.dir;
        std::fs::create_dir_all(dir.join("security"))
            .with_context(|| format!("cannot make {}", dir.display()))?;
        let connection_file = dir.join("security/ipcontroller-engine.json");
        write_private(&connection_file, &serde_json::to_vec_pretty(file)?)?;
        let text = |key: &str| file.get(key).and_then(Value::as_str).unwrap_or_default();
        Ok(EngineCommand {
            python: python.path,
            connection_file,
            profile: dir.clone(),
            log_dir: dir.clone(),
            env: vec![
                (
                    "IPP_CURVE_PUBLICKEY".to_owned(),
                    text("curve_publickey").to_owned(),
                ),
                (
                    "IPP_CURVE_SECRETKEY".to_owned(),
                    text("curve_secretkey").to_owned(),
                ),
            ],
        })
    }

    fn note_versions(&self, python: &python::Python) {
        let mut versions = BTreeMap::new();
        versions.insert("ipyparallel".to_owned(), python.version.clone());
        versions.extend(python_version(&python.path));
        self.status.send_modify(|status| status.versions = versions);
    }
}

fn python_version(python: &Path) -> Option<(String, String)> {
    Some(("python".to_owned(), python_versions::of(python)?))
}
