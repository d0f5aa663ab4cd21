//! The engines of this node: told which pool they work for, and looked at.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context as _, bail};
use piparallel_core::engines::{SlotStatus, Status};
use serde_json::{Map, Value};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::spawn_local;
use tokio::time::sleep;

use crate::engines::{self, EngineUser, Engines, GRACE, may_become_another};
use crate::python;
use crate::settings::node::EngineSettings;
use crate::settings::sources::Environment;

/// How the engines are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostStatus {
    pub running: u32,
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
    /// Starts to look after engines; there are none before a connection file comes. Without a user of their own
    /// they live below `state_dir`. Must be called on a `LocalRuntime`.
    #[must_use]
    pub fn start(settings: EngineSettings, count: u32, state_dir: &Path) -> Self {
        let (orders, inbox) = mpsc::unbounded_channel();
        let (status, receiver) = watch::channel(HostStatus {
            wanted: count,
            ..HostStatus::default()
        });
        let keeper = Keeper {
            settings,
            count,
            state_dir: state_dir.to_owned(),
            inbox,
            file: None,
            status,
        };
        spawn_local(keeper.run());
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
    state_dir: PathBuf,
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
            if self.count > 0 {
                match self.try_begin().await {
                    Ok(engines) => return Some(engines),
                    Err(cause) => {
                        log::error!("no engines run: {cause:#}");
                        self.tell_problem(Some(&format!("{cause:#}")));
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
        let settings = &self.settings;
        let environment = Environment::of_process()?;
        let python = python::find(settings.python.as_deref(), &environment).await?;
        let user = settings.user.as_deref().filter(|_| may_become_another());
        let user = user.map(EngineUser::find).transpose()?;
        let dir = self.dir(user.as_ref())?;
        Engines::start(engines::EngineSettings {
            count: self.count,
            python: python.path,
            imports: settings.imports.clone(),
            profile: dir.join(PROFILE),
            dir,
            user,
            memory_limit: settings.memory_limit,
            nice: settings.nice,
            // A pool's engines belong to all of its users.
            revive: true,
        })
    }

    fn dir(&self, user: Option<&EngineUser>) -> anyhow::Result<PathBuf> {
        match (&self.settings.dir, user) {
            (Some(dir), _) => std::path::absolute(dir).context("engines.dir is no path"),
            (None, None) => Ok(self.state_dir.join("engines")),
            (None, Some(user)) if user.home.is_dir() => Ok(user.home.clone()),
            (None, Some(user)) => bail!(
                "{} has no home for engines (make {}, or set engines.dir)",
                user.name,
                user.home.display()
            ),
        }
    }

    fn publish(&self, status: &Status) {
        let problem = problem(status);
        self.status.send_modify(|published| {
            published.running = u32::try_from(status.running()).unwrap_or(u32::MAX);
            published.versions.clone_from(&status.versions);
        });
        self.tell_problem(problem.as_deref());
    }

    fn tell_problem(&self, problem: Option<&str>) {
        let problem = problem.map(|text| text.chars().take(PROBLEM_MAX).collect());
        self.status.send_modify(|status| status.problem = problem);
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
