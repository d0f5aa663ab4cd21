//! The process of the warm parent, and the socket to it.

use std::collections::VecDeque;
use std::io::{ErrorKind, IoSlice};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::process::{ExitStatus, Stdio};
use std::rc::Rc;

use anyhow::Context as _;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::unistd::{Pid, getppid, setsid};
use piparallel_core::engines;
use piparallel_core::engines::message::{Order, Report};
use tokio::io::{AsyncWriteExt as _, Interest};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, spawn_local};

use super::EngineSettings;
use super::output::{Outputs, Source};

/// What the parent runs, each module with its name.
const MODULES: [(&str, &str); 3] = [
    ("piparallel_engine", include_str!("engine.py")),
    ("piparallel_nanny", include_str!("nanny.py")),
    ("piparallel_warm", include_str!("warm.py")),
];
/// A report is some hundred bytes, versions of packages a few thousand.
const REPORT_MAX: usize = 256 * 1024;
/// Events that wait for the loop; then the warm parent waits.
const EVENTS_MAX: usize = 64;

/// A warm parent that runs, or is about to say that it does not.
pub(super) struct Parent {
    pub(super) pid: Option<u32>,
    orders: Option<mpsc::UnboundedSender<(Order, Option<OwnedFd>)>>,
    kill: Option<oneshot::Sender<()>>,
    events: mpsc::Receiver<engines::Event>,
    keeper: JoinHandle<()>,
}

impl Parent {
    /// Starts one. Must be called on a `LocalRuntime`: the parent dies with the thread that started it.
    pub(super) fn spawn(settings: &EngineSettings, outputs: &mut Outputs) -> anyhow::Result<Self> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().context("no socket")?;
        ours.set_nonblocking(true).context("no socket")?;
        let stream = UnixStream::from_std(ours).context("no socket")?;
        let mut command = command(settings, theirs.into());
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot run {}", settings.python.display()))?;
        // Our copy of the parent's end goes with this; the parent's end of file depends on it.
        drop(command);
        let stdin = child.stdin.take();
        spawn_local(async move {
            if let Some(mut stdin) = stdin {
                // If Python ends early, its exit status tells.
                let _ = stdin.write_all(script().as_bytes()).await;
            }
        });
        if let Some(output) = child.stdout.take() {
            outputs.read(Source::Parent, output);
        }
        if let Some(output) = child.stderr.take() {
            outputs.read(Source::Parent, output);
        }
        let pid = child.id();
        let (orders, inbox) = mpsc::unbounded_channel();
        let (kill, killed) = oneshot::channel();
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let keeper = spawn_local(keep(child, stream, inbox, killed, sender));
        Ok(Self {
            pid,
            orders: Some(orders),
            kill: Some(kill),
            events,
            keeper,
        })
    }

    pub(super) fn tell(&self, order: Order, descriptor: Option<OwnedFd>) {
        if let Some(orders) = &self.orders {
            // If it has ended, the next event says so.
            let _ = orders.send((order, descriptor));
        }
    }

    /// Closes the socket once everything is written.
    pub(super) fn release(&mut self) {
        self.orders = None;
    }

    pub(super) fn kill(&mut self) {
        self.kill = None;
    }

    /// What it says; its end comes last.
    pub(super) async fn next(&mut self) -> Option<engines::Event> {
        self.events.recv().await
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        // The child is killed with the task.
        self.keeper.abort();
    }
}

fn script() -> String {
    // Lists of texts are written alike in JSON and in Python. What user code has left in the working directory, such
    // as a `random.py`, is not to be imported in place of what is meant.
    let modules = serde_json::json!(MODULES);
    format!(
        "import sys\nsys.path[:] = filter(None, sys.path)\nfrom types import ModuleType\nfor name, text in {modules}:\n    \
         module = sys.modules[name] = ModuleType(name)\n    exec(compile(text, name, \"exec\"), module.__dict__)\n\
         sys.modules[\"piparallel_warm\"].main()\n"
    )
}

fn command(settings: &EngineSettings, socket: OwnedFd) -> Command {
    let mut command = Command::new(&settings.python);
    command
        .args(["-u", "-"])
        .arg(socket.as_raw_fd().to_string())
        .current_dir(&settings.dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    if let Some(user) = &settings.user {
        user.set_environment(&mut command);
        command.env("IPYTHONDIR", settings.dir.join(".ipython"));
    }
    // These would send the engines elsewhere than they are told.
    command
        .env_remove("IPP_CONNECTION_INFO")
        .env_remove("IPP_CLUSTER_ID");
    let user = settings.user.clone();
    let parent = Pid::this();
    // SAFETY: between fork and exec, only system calls are made: no allocation, no lock.
    unsafe {
        command.pre_exec(move || {
            fcntl(&socket, FcntlArg::F_SETFD(FdFlag::empty()))?;
            setsid()?;
            if let Some(user) = &user {
                user.become_it()?;
            }
            // Last, as a change of the user forgets it.
            die_with(parent)
        });
    }
    command
}

/// Lets a child die when the process that started it is killed in a way that it cannot notice.
pub fn die_with_parent(command: &mut Command) {
    let parent = Pid::this();
    // SAFETY: between fork and exec, only system calls are made: no allocation, no lock.
    unsafe {
        command.pre_exec(move || die_with(parent));
    }
}

fn die_with(parent: Pid) -> std::io::Result<()> {
    set_pdeathsig(Signal::SIGKILL)?;
    // The parent may have died before that call.
    if getppid() != parent {
        return Err(ErrorKind::NotFound.into());
    }
    Ok(())
}

/// Carries orders and reports until the process ends.
async fn keep(
    mut child: Child,
    stream: UnixStream,
    inbox: mpsc::UnboundedReceiver<(Order, Option<OwnedFd>)>,
    mut killed: oneshot::Receiver<()>,
    events: mpsc::Sender<engines::Event>,
) {
    let stream = Rc::new(stream);
    let writer = spawn_local(write(stream.clone(), inbox));
    let wrong = tokio::select! {
        wrong = read(&stream, &events) => wrong,
        _ = &mut killed => Some("was killed".to_owned()),
    };
    if wrong.is_some() {
        // A process that has ended already is what was wanted.
        let _ = child.start_kill();
    }
    let status = tokio::select! {
        status = child.wait() => status,
        _ = &mut killed, if wrong.is_none() => child.kill().await.and(child.wait().await),
    };
    writer.abort();
    let why = wrong.unwrap_or_else(|| outcome(status));
    // Nobody listens if everything is over.
    let _ = events.send(engines::Event::ParentEnded { why }).await;
}

fn outcome(status: std::io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => format!("ended with {status}"),
        Err(e) => format!("was lost: {e}"),
    }
}

/// Reads reports until there are no more, or returns what is wrong with them.
async fn read(stream: &UnixStream, events: &mpsc::Sender<engines::Event>) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        stream.readable().await.ok()?;
        match stream.try_read_buf(&mut bytes) {
            Ok(0) => return None,
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => continue,
            Err(_) => return None,
        }
        let end = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |n| n + 1);
        for line in bytes[..end]
            .split(|b| *b == b'\n')
            .filter(|l| !l.is_empty())
        {
            match serde_json::from_slice::<Report>(line) {
                Ok(report) => events.send(engines::Event::Report(report)).await.ok()?,
                Err(e) => return Some(format!("said what nobody understands: {e}")),
            }
        }
        bytes.drain(..end);
        if bytes.len() > REPORT_MAX {
            return Some("said too much".to_owned());
        }
    }
}

async fn write(
    stream: Rc<UnixStream>,
    mut inbox: mpsc::UnboundedReceiver<(Order, Option<OwnedFd>)>,
) {
    while let Some((order, descriptor)) = inbox.recv().await {
        let Ok(mut line) = serde_json::to_vec(&order) else {
            continue;
        };
        line.push(b'\n');
        if send(&stream, line.into(), descriptor).await.is_err() {
            return;
        }
    }
    // Nothing follows: everything there is to end.
    let _ = nix::sys::socket::shutdown(stream.as_raw_fd(), nix::sys::socket::Shutdown::Write);
}

async fn send(
    stream: &UnixStream,
    mut line: VecDeque<u8>,
    descriptor: Option<OwnedFd>,
) -> std::io::Result<()> {
    let raw: Vec<_> = descriptor.iter().map(|d| d.as_raw_fd()).collect();
    let mut rights = (!raw.is_empty()).then_some(ControlMessage::ScmRights(&raw));
    while !line.is_empty() {
        let bytes = line.make_contiguous();
        let sent = stream
            .async_io(Interest::WRITABLE, || {
                let parts = [IoSlice::new(bytes)];
                let fd = stream.as_raw_fd();
                let rights = rights.as_slice();
                let sent = sendmsg::<()>(fd, &parts, rights, MsgFlags::MSG_NOSIGNAL, None)?;
                Ok(sent)
            })
            .await?;
        rights = None;
        line.drain(..sent);
    }
    Ok(())
}
