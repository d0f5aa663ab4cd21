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
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::timeout;

use super::message::{Line, SOCKET, Wish};
use super::{HostStatus, Setup};
use crate::engines::GRACE;

/// Engines that another process runs.
pub struct Apart {
    wishes: mpsc::UnboundedSender<Wish>,
    status: watch::Receiver<HostStatus>,
    task: AbortHandle,
    socket: PathBuf,
}

/// What `piparallel nodes` says as long as there is no such process.
const NOBODY: &str = "nothing runs engines here (systemctl start piparallel-engines)";

impl Apart {
    /// Waits for the service at a socket in `run_dir`. Must be called on a `LocalRuntime`.
    ///
    /// # Errors
    /// The socket cannot be made, or there is no such user.
    pub fn listen(setup: Setup, run_dir: &Path) -> anyhow::Result<Self> {
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
        let (wishes, inbox) = mpsc::unbounded_channel();
        let (status, receiver) = watch::channel(HostStatus {
            wanted: setup.count,
            problem: (setup.count > 0).then(|| NOBODY.to_owned()),
            ..HostStatus::default()
        });
        let keeper = Keeper {
            allowed: allowed(setup.user.as_deref())?,
            setup,
            file: None,
            listener,
            inbox,
            status,
        };
        Ok(Self {
            wishes,
            status: receiver,
            task: spawn_local(keeper.run()).abort_handle(),
            socket,
        })
    }

    pub fn give(&self, file: Map<String, Value>) {
        self.wish(Wish::File(file));
    }

    pub fn take_away(&self) {
        self.wish(Wish::NoPool);
    }

    pub fn restart(&self) {
        self.wish(Wish::Restart);
    }

    #[must_use]
    pub fn status(&self) -> HostStatus {
        self.status.borrow().clone()
    }

    /// See [`super::Host::changed`].
    pub async fn changed(&mut self) {
        if self.status.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// Ends all engines; the service stays, for the next node.
    pub async fn stop(mut self) {
        self.take_away();
        let gone = self.status.wait_for(|status| status.running == 0);
        if timeout(GRACE + Duration::from_secs(1), gone).await.is_err() {
            log::warn!("the engines take long to end");
        }
    }

    fn wish(&self, wish: Wish) {
        // The task ends with this handle only.
        let _ = self.wishes.send(wish);
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        self.task.abort();
        // It may be that of the next node already, which then makes it anew.
        let _ = fs::remove_file(&self.socket);
    }
}

/// The task behind the handle.
struct Keeper {
    allowed: Vec<u32>,
    setup: Setup,
    file: Option<Map<String, Value>>,
    listener: UnixListener,
    inbox: mpsc::UnboundedReceiver<Wish>,
    status: watch::Sender<HostStatus>,
}

impl Keeper {
    async fn run(mut self) {
        let mut line: Option<Line> = None;
        loop {
            let said = async {
                match &mut line {
                    Some(line) => line.read::<HostStatus>().await,
                    None => std::future::pending().await,
                }
            };
            let failed = tokio::select! {
                wish = self.inbox.recv() => match wish {
                    Some(wish) => self.pass_on(&mut line, wish).await.err(),
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
                Ok((stream, _)) = self.listener.accept() => match self.greet(stream).await {
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
                self.status.send_modify(|status| {
                    status.running = 0;
                    status.problem = Some(NOBODY.to_owned());
                });
            }
        }
    }

    async fn greet(&self, stream: UnixStream) -> anyhow::Result<Line> {
        let uid = stream.peer_cred()?.uid();
        if !self.allowed.contains(&uid) {
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

    async fn pass_on(&mut self, line: &mut Option<Line>, wish: Wish) -> anyhow::Result<()> {
        match &wish {
            Wish::File(file) => self.file = Some(file.clone()),
            Wish::NoPool => self.file = None,
            Wish::Restart | Wish::Setup(_) => {}
        }
        match line {
            Some(line) => line.write(&wish).await,
            None => Ok(()),
        }
    }
}

/// Who may run engines: the user that the options name, and whoever runs this node.
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
