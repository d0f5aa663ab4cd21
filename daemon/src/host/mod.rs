//! The engines of this machine: told which pool they work for, and looked at.
//!
//! Either the node runs them itself, or the service `piparallel engines` does, as a user of its own and within
//! limits of its own: then the two speak over a Unix socket (`service`, `apart`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::unistd::geteuid;
use piparallel_core::engines::{SlotStatus, Status};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::spawn_local;
use tokio::time::sleep;

use crate::engines::{self, EngineUser, Engines, GRACE};
use crate::python;
use crate::settings::sources::Environment;

/// The node's end, when another process runs the engines.
mod apart;
/// What the two say to each other.
mod message;
/// That other process.
pub mod service;

/// How engines are run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Setup {
    pub count: u32,
    /// `None`: the first that is found.
    pub python: Option<PathBuf>,
    pub imports: Vec<String>,
    /// Bytes that one engine may use.
    pub memory_limit: Option<u64>,
    pub nice: i32,
    /// Engines that a client has shut down are started again.
    pub revive: bool,
    /// `None`: as this process.
    pub user: Option<String>,
    /// Where they start. `None`: the home of the user.
    pub dir: Option<PathBuf>,
}

/// How the engines are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct HostStatus {
    pub running: u32,
    /// Those whose processes have not ended, whatever they do.
    pub left: u32,
    pub wanted: u32,
    /// Why engines that shall run do not.
    pub problem: Option<String>,
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

/// After which time it is looked again whether engines can be run.
const RETRY: Duration = Duration::from_secs(15);

/// An engine that failed so often in a row has a problem that people should know of.
const FAILURES: u32 = 3;

/// Characters of a problem, at most.
const PROBLEM_MAX: usize = 240;

impl Host {
    /// Runs engines; there are none before a connection file comes. Must be called on a `LocalRuntime`.
    #[must_use]
    pub fn start(setup: Setup) -> Self {
        Self::with(setup.count, |inbox, status| {
            let keeper = Keeper {
                setup,
                inbox,
                file: None,
                status,
            };
            spawn_local(keeper.run());
        })
    }

    /// Lets the service `piparallel engines` run them, which finds this node by a socket in `run_dir`. Must be
    /// called on a `LocalRuntime`.
    ///
    /// # Errors
    /// The socket cannot be made, or there is no such user.
    pub fn start_apart(setup: Setup, run_dir: &Path) -> anyhow::Result<Self> {
        let door = apart::Door::open(&setup, run_dir)?;
        Ok(Self::with(setup.count, |inbox, status| {
            spawn_local(apart::Keeper::new(setup, door, inbox, status).run());
        }))
    }

    fn with(
        count: u32,
        spawn: impl FnOnce(mpsc::UnboundedReceiver<Order>, watch::Sender<HostStatus>),
    ) -> Self {
        let (orders, inbox) = mpsc::unbounded_channel();
        let (status, receiver) = watch::channel(HostStatus {
            wanted: count,
            ..HostStatus::default()
        });
        spawn(inbox, status);
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

    /// Returns when the status is another than the last time. Nothing is lost if the future is dropped.
    pub async fn changed(&mut self) {
        if self.status.changed().await.is_err() {
            // The task has ended, and its status with it.
            std::future::pending().await
        }
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
    setup: Setup,
    inbox: mpsc::UnboundedReceiver<Order>,
    file: Option<Map<String, Value>>,
    status: watch::Sender<HostStatus>,
}

impl Keeper {
    async fn run(mut self) {
        let Some(engines) = self.begin().await else {
            return;
        };
        if let Some(file) = self.file.take() {
            engines.connect(file);
        }
        let mut status = engines.status();
        loop {
            tokio::select! {
                order = self.inbox.recv() => match order {
                    Some(Order::File(file)) => engines.connect(file),
                    Some(Order::NoPool) => engines.disconnect(GRACE),
                    Some(Order::Restart) => engines.restart(),
                    Some(Order::Stop(done)) => {
                        engines.stop(GRACE, std::future::pending()).await;
                        // Whoever asked may have been in a hurry.
                        let _ = done.send(());
                        return;
                    }
                    None => return engines.stop(Duration::ZERO, std::future::pending()).await,
                },
                Ok(()) = status.changed() => {
                    let status = status.borrow_and_update();
                    self.publish(&status);
                }
            }
        }
    }

    /// Waits until engines can be run on this machine; `None` if it is to stop first.
    async fn begin(&mut self) -> Option<Engines> {
        loop {
            let mut pause = Duration::MAX;
            if self.setup.count > 0 {
                match self.try_begin().await {
                    Ok(engines) => return Some(engines),
                    Err(cause) => {
                        log::error!("no engines run: {cause:#}");
                        self.change(|status| status.problem = Some(format!("{cause:#}")));
                        pause = RETRY;
                    }
                }
            }
            let mut retry = pin!(sleep(pause));
            loop {
                tokio::select! {
                    () = &mut retry => break,
                    order = self.inbox.recv() => match order {
                        Some(Order::File(file)) => self.file = Some(file),
                        Some(Order::NoPool) => self.file = None,
                        Some(Order::Restart) => break,
                        Some(Order::Stop(done)) => {
                            let _ = done.send(());
                            return None;
                        }
                        None => return None,
                    },
                }
            }
        }
    }

    async fn try_begin(&self) -> anyhow::Result<Engines> {
        let setup = &self.setup;
        let environment = Environment::of_process()?;
        let python = python::find(setup.python.as_deref(), &environment).await?;
        let user = setup.user.as_deref().filter(|_| geteuid().is_root());
        let user = user.map(EngineUser::find).transpose()?;
        let dir = self.dir(user.as_ref())?;
        Engines::start(engines::EngineSettings {
            count: setup.count,
            python: python.path,
            imports: setup.imports.clone(),
            profile: dir.join(PROFILE),
            dir,
            user,
            memory_limit: setup.memory_limit,
            nice: setup.nice,
            revive: setup.revive,
        })
    }

    fn dir(&self, user: Option<&EngineUser>) -> anyhow::Result<PathBuf> {
        match (&self.setup.dir, user) {
            (Some(dir), _) => std::path::absolute(dir).context("engines.dir is no path"),
            (None, None) => std::env::current_dir().context("engines have no directory"),
            (None, Some(user)) if user.home.is_dir() => Ok(user.home.clone()),
            (None, Some(user)) => bail!(
                "{} has no home for engines (make {}, or set engines.dir)",
                user.name,
                user.home.display()
            ),
        }
    }

    fn publish(&self, status: &Status) {
        self.change(|published| {
            let number = |count| u32::try_from(count).unwrap_or(u32::MAX);
            published.running = number(status.running());
            published.left = number(status.left());
            published.versions.clone_from(&status.versions);
            published.problem = problem(status);
        });
    }

    fn change(&self, change: impl FnOnce(&mut HostStatus)) {
        self.status.send_if_modified(|status| {
            let before = status.clone();
            change(status);
            if let Some(problem) = &mut status.problem {
                *problem = problem.chars().take(PROBLEM_MAX).collect();
            }
            *status != before
        });
    }
}

/// Of the engines, as `$HOME/.ipython/profile_default` is for people.
const PROFILE: &str = ".ipython/profile_engines";

fn problem(status: &Status) -> Option<String> {
    if let Some(trouble) = &status.trouble {
        return Some(trouble.clone());
    }
    let fails = |slot: &&SlotStatus| slot.failures >= FAILURES && slot.reason.is_some();
    let slot = status.slots.iter().find(fails)?;
    let reason = slot.reason.as_deref().unwrap_or_default();
    Some(format!("engine {} {reason}", slot.slot))
}
