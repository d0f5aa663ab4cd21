//! The controller's loop: sockets, database and clock on one side, the machine of
//! `piparallel_core::controller` on the other.
//!
//! One task owns the machine. Each turn takes all events that are there, lets the machine decide,
//! carries out its commands and writes to each peer once.

use std::collections::BTreeSet;
use std::future::Future;
use std::path::PathBuf;
use std::pin::pin;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use piparallel_core::channel::Side;
use piparallel_core::clock::Now;
use piparallel_core::controller::{Command, Config, Controller, DaskAddress, Event, ShellStatus};
use piparallel_core::task_db::{DbError, DbReply, Ticket};
use piparallel_core::wire::zmtp::{PublicKey, SecretKey};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant as TokioInstant, sleep, sleep_until};

use super::assemble::{engines_own_key, machine_config, start_store, start_transport};
use super::bind::Bound;
use super::dask::DaskScheduler;
use super::former_connections::ConnectionsFile;
use super::{engines_file, former_connections};
use crate::memory::Tide;
use crate::private::SavedFile;
use crate::python;
use crate::settings::ControllerSettings;
use crate::settings::sources::Environment;
use crate::store::Store;
use crate::transport::{self, Transport};

const FLUSH_PAUSE: Duration = Duration::from_millis(5);

/// How long the last messages may take to leave when the controller ends.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// What the machine acts on.
struct Outside {
    transport: Transport,
    store: Option<Store>,
    /// `engines.json`.
    engines_file: SavedFile,
    /// For the next controller, if it takes the same ports.
    connections_file: Option<ConnectionsFile>,
    /// The Python that `become_dask` runs in.
    python: Option<PathBuf>,
}

/// Something that happened, from whichever side.
enum Input {
    Batch,
    Store(Ticket, DbReply),
    Dask(Ticket, Result<DaskScheduler, String>),
    Admissions,
    Timeout,
    Stop,
}

/// The nodes whose engines are let in, each known by the key that all of its engines use.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Admitted {
    /// Whoever is not in it any more is cut off.
    pub keys: BTreeSet<PublicKey>,
    /// Engines with these keys get no more work.
    pub drained: BTreeSet<PublicKey>,
    /// Ours, one for each client that has a connection file of its own. Who has one that is not here any more
    /// is cut off.
    pub client_keys: Vec<SecretKey>,
}

/// How a controller learns which nodes are admitted, and tells that the engines of a drained one are gone.
pub struct Admissions {
    pub admitted: watch::Receiver<Admitted>,
    pub drained: mpsc::UnboundedSender<PublicKey>,
}

struct Loop {
    machine: Controller,
    outside: Outside,
    started: Instant,
    /// Our key for engines, if that for clients is another.
    engine_key: Option<PublicKey>,
    admissions: Option<Admissions>,
    /// What was carried out of them.
    drained: BTreeSet<PublicKey>,
    tide: Tide,
    dask: Option<DaskScheduler>,
    dask_results: mpsc::UnboundedSender<(Ticket, Result<DaskScheduler, String>)>,
    ended: bool,
}

/// Runs a controller on bound sockets until `shutdown`, or until a client asks for the end. `ready` is
/// called when peers are served. With `admissions`, only engines of admitted nodes are let in. Must run
/// on a `LocalRuntime`.
///
/// # Errors
/// The database cannot be opened, the saved engines cannot be read, or a socket cannot be served.
pub async fn run(
    settings: ControllerSettings,
    bound: Bound,
    admissions: Option<Admissions>,
    ready: impl FnOnce(),
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let (dask_results, mut dask_inputs) = mpsc::unbounded_channel();
    let (store_replies, mut store_inputs) = mpsc::unbounded_channel();
    let mut this = Loop {
        machine: Controller::new(Config {
            engine_keys_are_known: admissions.is_some(),
            ..machine_config(&settings, &bound)?
        })?,
        outside: Outside {
            store: start_store(&settings, store_replies)?,
            engines_file: engines_file::saved(&settings),
            connections_file: settings.reuse.then(|| ConnectionsFile::new(&settings)),
            python: settings.python.clone(),
            transport: start_transport(&settings, bound)?,
        },
        started: Instant::now(),
        engine_key: settings.curve.as_ref().and_then(engines_own_key),
        admissions,
        drained: BTreeSet::new(),
        tide: Tide::default(),
        dask: None,
        dask_results,
        ended: false,
    };
    this.machine.set_shell_status(this.outside.status());
    this.take_admissions(this.now());
    ready();
    let mut shutdown = pin!(shutdown);
    let mut batch = Vec::new();
    let mut timer = pin!(sleep_until(TokioInstant::now()));
    while !this.ended {
        let deadline = TokioInstant::from_std(this.started + this.machine.next_timeout());
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        let input = tokio::select! {
            biased;
            () = &mut shutdown => Input::Stop,
            () = &mut timer => Input::Timeout,
            () = changed(&mut this.admissions) => Input::Admissions,
            Some((ticket, reply)) = store_inputs.recv() => Input::Store(ticket, reply),
            Some((ticket, result)) = dask_inputs.recv() => Input::Dask(ticket, result),
            () = this.outside.transport.next_batch(&mut batch) => Input::Batch,
        };
        this.turn(input, &mut batch);
    }
    this.finish().await;
    Ok(())
}

impl Outside {
    fn status(&mut self) -> ShellStatus {
        let totals = self.transport.totals();
        ShellStatus {
            pid: std::process::id(),
            memory_bytes: resident_bytes(),
            lost_output: totals.lost_messages,
            refused_connections: totals.refused,
            database: self.store.as_mut().map(Store::status).unwrap_or_default(),
        }
    }

    fn notice_connections(&mut self, event: &transport::Event) {
        use transport::Event::{Connected, Disconnected};
        if let (Some(file), Connected { .. } | Disconnected { .. }) =
            (&mut self.connections_file, event)
        {
            file.outdate();
        }
    }

    fn save_connections(&mut self) {
        if let Some(file) = &mut self.connections_file {
            file.refresh(|| {
                let ends = self.transport.ends();
                ends.filter_map(|(local, peer)| former_connections::ends(local, peer))
                    .collect()
            });
        }
    }
}

/// Resident memory of this process, 0 where it cannot be read.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
    pages.unwrap_or(0)
        * page
            .ok()
            .flatten()
            .and_then(|size| u64::try_from(size).ok())
            .unwrap_or(4096)
}

impl Loop {
    fn now(&self) -> Now {
        let unix = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Now::new(
            self.started.elapsed(),
            i64::try_from(unix.as_micros()).unwrap_or(i64::MAX),
        )
    }

    fn turn(&mut self, input: Input, batch: &mut Vec<transport::Event>) {
        let now = self.now();
        match input {
            Input::Stop => self.ended = true,
            Input::Admissions => self.take_admissions(now),
            Input::Timeout => {
                let totals = self.outside.transport.totals();
                let waiting = totals.queued_bytes + totals.partial_bytes;
                self.tide.look(totals.large_received, waiting);
                self.machine.set_shell_status(self.outside.status());
                self.outside.save_connections();
                self.machine.handle_timeout(now);
            }
            Input::Store(ticket, reply) => self
                .machine
                .handle_event(now, Event::DbReply { ticket, reply }),
            Input::Dask(ticket, result) => self.dask_started(now, ticket, result),
            Input::Batch => {
                for event in batch.drain(..) {
                    self.outside.notice_connections(&event);
                    let event = self.core_event(event);
                    self.machine.handle_event(now, event);
                    self.execute_all();
                }
            }
        }
        self.execute_all();
        self.outside.transport.flush();
    }

    fn take_admissions(&mut self, now: Now) {
        let (Some(admissions), Some(server)) = (&mut self.admissions, self.engine_key) else {
            return;
        };
        let Admitted {
            keys,
            drained,
            client_keys,
        } = admissions.admitted.borrow_and_update().clone();
        self.outside.transport.set_allowed_keys(server, Some(keys));
        self.outside.transport.set_client_keys(client_keys);
        let changed: Vec<_> = drained
            .symmetric_difference(&self.drained)
            .copied()
            .collect();
        for curve_key in changed {
            let is_drained = drained.contains(&curve_key);
            let event = Event::Drain {
                curve_key,
                is_drained,
            };
            self.machine.handle_event(now, event);
        }
        self.drained = drained;
    }

    fn execute_all(&mut self) {
        while let Some(command) = self.machine.poll_command() {
            self.execute(command);
        }
    }

    fn execute(&mut self, command: Command) {
        let Outside {
            transport, store, ..
        } = &mut self.outside;
        match command {
            Command::Send { peer, frames } => transport.send(peer, &frames),
            Command::Publish { channel, frames } => transport.publish(channel, &frames),
            Command::Close { peer, reason } => transport.close(peer, reason),
            Command::Probe { peer } => {
                // One that cannot be asked does not answer, and then the claimant takes over.
                transport.probe(peer);
            }
            Command::Record(op) => {
                if let Some(store) = store {
                    store.record(op);
                }
            }
            Command::Query { ticket, request } => {
                let asked = store
                    .as_mut()
                    .map_or(Err(DbError::NoData), |store| store.ask(ticket, request));
                if let Err(cause) = asked {
                    let now = self.now();
                    let reply = DbReply::Failed(cause);
                    self.machine
                        .handle_event(now, Event::DbReply { ticket, reply });
                }
            }
            Command::SaveEngines(text) => self.outside.engines_file.save(text.into_bytes()),
            Command::StartDask { ticket, arguments } => {
                self.start_dask(ticket, arguments.get().to_owned())
            }
            Command::StopDask => self.dask = None,
            Command::Drained { curve_key } => {
                if let Some(admissions) = &self.admissions {
                    // The node's own loop has ended: nobody waits for it any more.
                    let _ = admissions.drained.send(curve_key);
                }
            }
            Command::Shutdown => self.ended = true,
        }
    }

    fn start_dask(&mut self, ticket: Ticket, arguments: String) {
        if let Some(dask) = &mut self.dask
            && dask.is_alive()
        {
            let event = Event::Dask {
                ticket,
                result: Ok(dask.address.clone()),
            };
            let now = self.now();
            return self.machine.handle_event(now, event);
        }
        let results = self.dask_results.clone();
        let python = self.outside.python.clone();
        tokio::task::spawn_local(async move {
            let result = match pool_python(python).await {
                Ok(python) => DaskScheduler::start(python, arguments).await,
                Err(cause) => Err(format!("{cause:#}")),
            };
            // The receiver is gone when the controller has ended, and then the scheduler goes with it.
            let _ = results.send((ticket, result));
        });
    }

    fn dask_started(&mut self, now: Now, ticket: Ticket, result: Result<DaskScheduler, String>) {
        let result: Result<DaskAddress, String> = result.map(|dask| {
            log::info!("a Dask scheduler listens on {}", dask.address.address);
            let address = dask.address.clone();
            self.dask = Some(dask);
            address
        });
        self.machine
            .handle_event(now, Event::Dask { ticket, result });
    }

    /// Lets the last messages leave, and the database write what it was told.
    async fn finish(mut self) {
        if let Some(text) = self.machine.unsaved_engines() {
            self.outside.engines_file.save(text.into_bytes());
        }
        let last_moment = TokioInstant::now() + FLUSH_TIMEOUT;
        while self.outside.transport.totals().queued_bytes > 0 && TokioInstant::now() < last_moment
        {
            sleep(FLUSH_PAUSE).await;
        }
        self.outside.engines_file.finish().await;
        // What waits for the disk is written.
        self.outside.store = None;
    }
}

async fn pool_python(known: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    match known {
        Some(python) => Ok(python),
        None => Ok(python::find(None, &Environment::of_process()?).await?.path),
    }
}

async fn changed(admissions: &mut Option<Admissions>) {
    if let Some(watched) = admissions
        && watched.admitted.changed().await.is_ok()
    {
        return;
    }
    // Nobody is left to change them: what was admitted last holds.
    std::future::pending().await
}

impl Loop {
    fn core_event(&self, event: transport::Event) -> Event {
        match event {
            transport::Event::Message { peer, frames, .. } => Event::Message { peer, frames },
            transport::Event::Connected {
                peer,
                channel,
                identity,
                curve_key,
                server_key,
                address,
            } => Event::Connected {
                peer,
                channel,
                identity,
                curve_key,
                side: match (self.engine_key, server_key) {
                    (Some(engine), Some(key)) if key == engine => Side::Engine,
                    (Some(_), Some(_)) => Side::Client,
                    _ => Side::Both,
                },
                address: address.to_string(),
            },
            transport::Event::Disconnected { peer, .. } => Event::Disconnected { peer },
            transport::Event::Subscribed { peer, .. } => Event::Subscribed { peer },
            transport::Event::Congested { peer } => Event::Congested { peer },
            transport::Event::Drained { peer } => Event::Drained { peer },
            transport::Event::Alive { peer } => Event::Alive { peer },
        }
    }
}
