//! The node's end of the socket to `piparallel engines`: remembers what is wished, for a service that comes later or
//! starts anew.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::unistd::{User, geteuid};
use serde_json::{Map, Value};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::message::{Line, SOCKET, Wish};
use super::{HostStatus, Order, Setup};
use crate::engines::GRACE;

/// What `piparallel nodes` says as long as there is no such process.
const NOBODY: &str = "nothing runs engines here (systemctl start piparallel-engines)";

/// Where the service comes to.
pub(super) struct Door {
    listener: UnixListener,
    socket: PathBuf,
    /// Who may run engines: the user that the options name, and whoever runs this node.
    allowed: Vec<u32>,
}

impl Door {
    pub(super) fn open(setup: &Setup, run_dir: &Path) -> anyhow::Result<Self> {
        let allowed = allowed(setup.user.as_deref())?;
        let socket = run_dir.join(SOCKET);
        let failed = || format!("cannot listen at {}", socket.display());
        match fs::remove_file(&socket) {
            Err(cause) if cause.kind() != ErrorKind::NotFound => {
                return Err(cause).with_context(failed);
            }
            _ => {}
        }
        let listener = UnixListener::bind(&socket).with_context(failed)?;
        // Who may speak is decided by who it is.
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).with_context(failed)?;
        Ok(Self {
            listener,
            socket,
            allowed,
        })
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.socket);
    }
}

/// The task behind the handle.
pub(super) struct Keeper {
    setup: Setup,
    door: Door,
    inbox: mpsc::UnboundedReceiver<Order>,
    status: watch::Sender<HostStatus>,
    file: Option<Map<String, Value>>,
    /// Who waits until all engines have ended, and until when.
    ending: Option<(oneshot::Sender<()>, Instant)>,
}

/// How long engines may take to end.
const END_TIME: Duration = Duration::from_secs(GRACE.as_secs() + 1);

impl Keeper {
    pub(super) fn new(
        setup: Setup,
        door: Door,
        inbox: mpsc::UnboundedReceiver<Order>,
        status: watch::Sender<HostStatus>,
    ) -> Self {
        Self {
            setup,
            door,
            inbox,
            status,
            file: None,
            ending: None,
        }
    }

    pub(super) async fn run(mut self) {
        let mut line: Option<Line> = None;
        self.lose();
        loop {
            if self.ending.is_some() && self.status.borrow().left == 0 {
                break;
            }
            let late = async {
                match &self.ending {
                    Some((_, at)) => sleep_until(*at).await,
                    None => std::future::pending().await,
                }
            };
            let said = async {
                match &mut line {
                    Some(line) => line.read::<HostStatus>().await,
                    None => std::future::pending().await,
                }
            };
            let failed = tokio::select! {
                () = late => {
                    log::warn!("the engines take long to end");
                    break;
                }
                order = self.inbox.recv() => match order {
                    Some(order) => self.obey(&mut line, order).await.err(),
                    None => return,
                },
                status = said => match status {
                    Ok(Some(status)) => {
                        self.status.send_replace(status);
                        None
                    }
                    Ok(None) => Some(anyhow::anyhow!("it has ended")),
                    Err(cause) => Some(cause),
                },
                Ok((stream, _)) = self.door.listener.accept() => match self.greet(stream).await {
                    Ok(newcomer) => {
                        line = Some(newcomer);
                        None
                    }
                    Err(cause) => {
                        log::warn!("whoever came to run engines is sent away: {cause:#}");
                        None
                    }
                },
            };
            if let Some(cause) = failed {
                log::warn!("the service that runs engines is gone: {cause:#}");
                line = None;
                self.lose();
            }
        }
        if let Some((done, _)) = self.ending {
            // Whoever asked may have been in a hurry.
            let _ = done.send(());
        }
    }

    fn lose(&self) {
        let has_problem = self.setup.count > 0;
        self.status.send_modify(|status| {
            status.running = 0;
            status.left = 0;
            status.problem = has_problem.then(|| NOBODY.to_owned());
        });
    }

    async fn greet(&self, stream: UnixStream) -> anyhow::Result<Line> {
        let uid = stream.peer_cred()?.uid();
        if !self.door.allowed.contains(&uid) {
            bail!("it runs as user {uid}, and engines.user is another");
        }
        let mut line = Line::new(stream);
        line.write(&Wish::Setup(self.setup.clone())).await?;
        match &self.file {
            Some(file) => line.write(&Wish::File(file.clone())).await?,
            None => line.write(&Wish::NoPool).await?,
        }
        Ok(line)
    }

    async fn obey(&mut self, line: &mut Option<Line>, order: Order) -> anyhow::Result<()> {
        let wish = match order {
            Order::File(file) => {
                self.file = Some(file.clone());
                Wish::File(file)
            }
            Order::NoPool => self.no_pool(),
            Order::Restart => Wish::Restart,
            // The service stays, for the next node.
            Order::Stop(done) => {
                self.ending = Some((done, Instant::now() + END_TIME));
                self.no_pool()
            }
        };
        match line {
            Some(line) => line.write(&wish).await,
            None => Ok(()),
        }
    }

    fn no_pool(&mut self) -> Wish {
        self.file = None;
        Wish::NoPool
    }
}

fn allowed(user: Option<&str>) -> anyhow::Result<Vec<u32>> {
    let mut allowed = vec![geteuid().as_raw()];
    if let Some(name) = user {
        let found = User::from_name(name).with_context(|| format!("cannot look up user {name}"))?;
        let found = found.with_context(|| {
            format!("there is no user {name} to run engines (create it: useradd --system {name})")
        })?;
        allowed.push(found.uid.as_raw());
    }
    Ok(allowed)
}
