//! Python engines on this machine: one warm parent, forked engines, and what keeps them running.
//!
//! The decisions are those of `piparallel_core::engines`; here are processes, sockets and clocks. What runs
//! on behalf of clients has a user of its own if one is given, nothing of this process's environment,
//! and gets the pool's address and keys over a socket, so that no file and no command line holds them.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use piparallel_core::engines::message::{Connection, Order, Report, Slot, Warming};
use piparallel_core::engines::{Command, Event, SlotState, Status, Supervisor};
use serde_json::{Map, Value};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{Instant as TokioInstant, MissedTickBehavior, interval, sleep_until};

/// A control group for each engine.
mod cgroup;
/// Processes that engines leave behind.
mod orphans;
/// What engines print.
mod output;
/// The process of the warm parent.
mod parent;
/// Memory of processes.
mod process;
/// Whom engines run as.
mod user;

use cgroup::Cgroups;
use output::{Outputs, Source};
use parent::Parent;
pub use parent::die_with_parent;
pub use user::EngineUser;

/// How engines are run.
#[derive(Clone, Debug)]
pub struct EngineSettings {
    pub count: u32,
    /// With ipyparallel installed; see `python::find`.
    pub python: PathBuf,
    /// Modules to import before engines are forked.
    pub imports: Vec<String>,
    /// Where they start. With a user, it is made for that user, who must be able to get there.
    pub dir: PathBuf,
    /// Their IPython profile.
    pub profile: PathBuf,
    /// `None`: as this process.
    pub user: Option<EngineUser>,
    /// Resident bytes that one engine may have.
    pub memory_limit: Option<u64>,
    /// Beyond that of this process.
    pub nice: i32,
    /// Engines that a client shut down are started again.
    pub revive: bool,
}

/// The engines of this machine.
pub struct Engines {
    wishes: mpsc::UnboundedSender<Wish>,
    status: watch::Receiver<Status>,
    keeper: JoinHandle<()>,
}

enum Wish {
    Connect(Connection),
    Disconnect(Duration),
    Restart,
    Stop(Duration),
}

/// Between asking an engine to end and killing it, when nobody said how long its task may take. A stock engine ends
/// within 0.3 s unless user code keeps it busy.
pub const GRACE: Duration = Duration::from_secs(3);
/// How often memory is looked at: a runaway list grows by some hundred megabytes meanwhile.
const LOOK: Duration = Duration::from_millis(250);
/// When the system runs out of memory, engines end first.
const OOM_SCORE_ADJ: i32 = 500;

impl Engines {
    /// Starts the warm parent; engines follow once there is a pool to work for. Must be called on a
    /// `LocalRuntime`. Processes that engines leave behind become children of this one.
    ///
    /// # Errors
    /// The directory of the engines cannot be made.
    pub fn start(settings: EngineSettings) -> anyhow::Result<Self> {
        make_dir(&settings)?;
        orphans::adopt();
        let (wishes, inbox) = mpsc::unbounded_channel();
        let machine = Supervisor::new(
            Duration::ZERO,
            piparallel_core::engines::Settings {
                count: settings.count,
                warming: Warming {
                    imports: settings.imports.clone(),
                    profile: settings.profile.display().to_string(),
                    nice: settings.nice,
                    oom_score_adj: OOM_SCORE_ADJ,
                },
                memory_limit: settings.memory_limit,
                revive: settings.revive,
            },
        );
        let (sender, status) = watch::channel(machine.status());
        let keeper = Keeper {
            started: Instant::now(),
            cgroups: Cgroups::find(settings.memory_limit),
            settings,
            machine,
            parent: None,
            outputs: Outputs::default(),
            status: sender,
        };
        Ok(Self {
            wishes,
            status,
            keeper: spawn_local(keeper.run(inbox)),
        })
    }

    /// The engines work for the pool of this connection file from now on. Those of another pool end first;
    /// for the same file, none does, but those that wait to be started again need not wait longer.
    pub fn connect(&self, file: Map<String, Value>) {
        self.wish(Wish::Connect(Connection::new(file)));
    }

    /// There is no pool: engines finish the task that they are at, within `grace`, and end.
    pub fn disconnect(&self, grace: Duration) {
        self.wish(Wish::Disconnect(grace));
    }

    /// Python and its engines are started anew.
    pub fn restart(&self) {
        self.wish(Wish::Restart);
    }

    /// How they are, and every change.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Ends everything, tasks under way within `grace`, at once when `hurry` is over.
    pub async fn stop(self, grace: Duration, hurry: impl Future<Output = ()>) {
        self.wish(Wish::Stop(grace));
        let mut ended = self.keeper;
        tokio::select! {
            _ = &mut ended => return,
            () = hurry => {}
        }
        let _ = self.wishes.send(Wish::Stop(Duration::ZERO));
        // It cannot fail but by a panic, which has been told.
        let _ = ended.await;
    }

    fn wish(&self, wish: Wish) {
        // The keeper ends with this handle only.
        let _ = self.wishes.send(wish);
    }
}

/// The task behind the handle.
struct Keeper {
    started: Instant,
    settings: EngineSettings,
    machine: Supervisor,
    parent: Option<Parent>,
    cgroups: Option<Cgroups>,
    outputs: Outputs,
    status: watch::Sender<Status>,
}

impl Keeper {
    async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Wish>) {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.carry_out();
            self.publish();
            if self.machine.is_over() {
                break;
            }
            let timeout = self.machine.next_timeout();
            let timer = async {
                match timeout {
                    Some(at) => sleep_until(TokioInstant::from_std(self.started + at)).await,
                    None => std::future::pending().await,
                }
            };
            let said = async {
                match &mut self.parent {
                    Some(parent) => parent.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                wish = inbox.recv() => self.grant(wish),
                event = said => self.handle_parent(event),
                () = timer => self.machine.handle_timeout(self.started.elapsed()),
                _ = look.tick() => self.look(),
            }
        }
        if let Some(cgroups) = &self.cgroups {
            (0..self.settings.count).for_each(|n| cgroups.end(Slot(n)));
        }
        orphans::end_all().await;
        if let Some(cgroups) = &self.cgroups {
            cgroups.remove(self.settings.count);
        }
    }

    fn grant(&mut self, wish: Option<Wish>) {
        let now = self.started.elapsed();
        match wish {
            Some(Wish::Connect(connection)) => self.machine.connect(now, connection, GRACE),
            Some(Wish::Disconnect(grace)) => self.machine.disconnect(now, grace),
            Some(Wish::Restart) => self.machine.restart(now, GRACE),
            Some(Wish::Stop(grace)) => self.machine.stop(now, grace),
            None => self.machine.stop(now, Duration::ZERO),
        }
    }

    fn handle_parent(&mut self, event: Option<Event>) {
        let mut event = event.unwrap_or_else(|| Event::ParentEnded {
            why: "was lost".to_owned(),
        });
        if let Event::ParentEnded { why } = &mut event {
            self.parent = None;
            if let Some(words) = self.outputs.last_words(Source::Parent) {
                *why = format!("{why} ({words})");
            }
            self.outputs.forget(Source::Parent);
        }
        if let Event::Report(Report::Registered { slot, id, .. }) = &event
            && slot.0 < self.settings.count
        {
            self.outputs.name(*slot, *id);
        }
        self.group(&event);
        self.machine.handle_event(self.started.elapsed(), event);
    }

    /// An engine that has started gets a control group; what one that has ended left in it ends.
    fn group(&mut self, event: &Event) {
        let (Some(cgroups), Event::Report(report)) = (&mut self.cgroups, event) else {
            return;
        };
        match report {
            Report::Started { slot, pid } if slot.0 < self.settings.count => {
                let parent = self.parent.as_ref().and_then(|parent| parent.pid);
                cgroups.enter(*slot, *pid, parent);
            }
            Report::Ended { slot, .. } if slot.0 < self.settings.count => {
                cgroups.end(*slot);
                if cgroups.ran_out(*slot) {
                    let event = Event::OutOfMemory { slot: *slot };
                    self.machine.handle_event(self.started.elapsed(), event);
                }
            }
            _ => {}
        }
    }

    fn look(&mut self) {
        let now = self.started.elapsed();
        for slot in self.machine.status().slots {
            if let Some(pid) = slot.pid
                && let Some(bytes) = process::resident(pid)
            {
                let event = Event::Memory { pid, bytes };
                self.machine.handle_event(now, event);
            }
        }
        match &self.parent {
            Some(parent) => orphans::reap(parent.pid),
            None => {
                orphans::end();
            }
        }
    }

    fn carry_out(&mut self) {
        while let Some(command) = self.machine.poll_command() {
            match command {
                Command::SpawnParent => self.spawn(),
                Command::Tell(order) => self.tell(order),
                Command::ReleaseParent => {
                    if let Some(parent) = &mut self.parent {
                        parent.release();
                    }
                }
                Command::KillParent => {
                    if let Some(parent) = &mut self.parent {
                        parent.kill();
                    }
                }
            }
        }
    }

    fn spawn(&mut self) {
        match Parent::spawn(&self.settings, &mut self.outputs) {
            Ok(parent) => self.parent = Some(parent),
            Err(cause) => {
                let why = format!("cannot be started: {cause:#}");
                let now = self.started.elapsed();
                self.machine.handle_event(now, Event::ParentEnded { why });
            }
        }
    }

    fn tell(&mut self, order: Order) {
        let Some(parent) = &self.parent else {
            return;
        };
        let Order::Start { slot, .. } = order else {
            return parent.tell(order, None);
        };
        self.outputs.forget(Source::Engine(slot));
        match self.outputs.pipe(Source::Engine(slot)) {
            Ok(output) => parent.tell(order, Some(output)),
            Err(e) => {
                let report = Report::NotStarted {
                    slot,
                    cause: format!("cannot be started: {e}"),
                };
                let now = self.started.elapsed();
                self.machine.handle_event(now, Event::Report(report));
            }
        }
    }

    fn publish(&self) {
        let mut status = self.machine.status();
        for slot in &mut status.slots {
            if slot.state == SlotState::Waiting
                && let Some(reason) = &mut slot.reason
                && let Some(words) = self.outputs.last_words(Source::Engine(slot.slot))
            {
                *reason = format!("{reason} ({words})");
            }
        }
        self.status.send_if_modified(|published| {
            let is_news = *published != status;
            if is_news {
                *published = status;
            }
            is_news
        });
    }
}

fn make_dir(settings: &EngineSettings) -> anyhow::Result<()> {
    let dir = &settings.dir;
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let owner = std::fs::metadata(dir).map(|metadata| metadata.uid()).ok();
    if let Some(user) = &settings.user
        && owner != Some(user.uid.as_raw())
    {
        std::os::unix::fs::chown(dir, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
            .with_context(|| format!("cannot give {} to {}", dir.display(), user.name))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
