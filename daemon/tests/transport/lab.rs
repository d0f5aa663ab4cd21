use std::collections::BTreeMap;
use std::env;
use std::future::Future;
use std::net::SocketAddr;
use std::process::{Command as StdCommand, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use piparallel::transport::{Event, Security, Totals, Transport, TransportLimits, bind};
use piparallel_core::channel::Channel;
use piparallel_core::ids::PeerId;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::LocalSet;
use tokio::time::{sleep, timeout};

/// No test waits longer for one thing.
const PATIENCE: Duration = Duration::from_secs(30);

/// One test at a time: some measure the memory of the process.
static ALONE: Mutex<()> = Mutex::new(());

pub(crate) fn run(test: impl Future<Output = ()>) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, test);
}

/// A transport, and what it told so far.
pub(crate) struct Lab {
    pub(crate) transport: Transport,
    /// Everything but messages that were answered.
    pub(crate) events: Vec<Event>,
    pub(crate) identities: BTreeMap<PeerId, Bytes>,
    /// Whether messages go back to where they came from.
    pub(crate) echo: bool,
}

impl Lab {
    pub(crate) fn new(limits: TransportLimits) -> Self {
        Self {
            transport: Transport::new(limits),
            events: Vec::new(),
            identities: BTreeMap::new(),
            echo: true,
        }
    }

    pub(crate) fn listen(&self, channel: Channel, security: Security) -> SocketAddr {
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        self.transport.listen(channel, listener, security).unwrap();
        address
    }

    /// Routes one batch.
    pub(crate) async fn turn(&mut self) {
        let mut batch = Vec::new();
        self.transport.next_batch(&mut batch).await;
        for event in batch {
            match event {
                Event::Message { peer, frames, .. } if self.echo => {
                    self.transport.send(peer, &frames);
                }
                Event::Connected {
                    peer, ref identity, ..
                } => {
                    self.identities.insert(peer, identity.clone());
                    self.events.push(event);
                }
                other => self.events.push(other),
            }
        }
        self.transport.flush();
    }

    /// Routes until `done` finds what it looks for in the events.
    pub(crate) async fn until<T>(
        &mut self,
        what: &str,
        mut done: impl FnMut(&Event) -> Option<T>,
    ) -> T {
        let mut seen = 0;
        let wait = async {
            loop {
                while seen < self.events.len() {
                    if let Some(found) = done(&self.events[seen]) {
                        return found;
                    }
                    seen += 1;
                }
                self.turn().await;
            }
        };
        let found = timeout(PATIENCE, wait).await;
        found.unwrap_or_else(|_| panic!("waited for {what}, saw {:?}", self.events))
    }

    /// Routes until the sums are as expected.
    pub(crate) async fn until_totals(&mut self, what: &str, done: impl Fn(&Totals) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done(&self.transport.totals()) {
            let totals = self.transport.totals();
            assert!(Instant::now() < deadline, "waited for {what}: {totals:?}");
            self.serve(sleep(Duration::from_millis(10))).await;
        }
    }

    /// Routes while `work` goes on.
    pub(crate) async fn serve<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(timeout(2 * PATIENCE, work));
        loop {
            tokio::select! {
                done = &mut work => return done.expect("the peer did not finish in time"),
                () = self.turn() => {}
            }
        }
    }

    pub(crate) async fn connected(&mut self) -> PeerId {
        self.until("a connection", |event| match event {
            Event::Connected { peer, .. } => Some(*peer),
            _ => None,
        })
        .await
    }
}

/// The Python to run peers with, or a reason why there is none.
fn python() -> Result<String, String> {
    let name = env::var("PIPARALLEL_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let probe = StdCommand::new(&name)
        .args(["-c", "import zmq"])
        .stderr(Stdio::null())
        .status();
    match probe {
        Ok(status) if status.success() => Ok(name),
        Ok(_) => Err(format!("{name} has no pyzmq (set PIPARALLEL_TEST_PYTHON)")),
        Err(error) => Err(format!("{name}: {error} (set PIPARALLEL_TEST_PYTHON)")),
    }
}

/// A Python process that plays one behaviour of peers.py.
pub(crate) struct Peer {
    /// Ends the process when dropped.
    _child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Peer {
    /// `None`, with the reason printed, if this machine has no pyzmq.
    pub(crate) fn start(arguments: &[&str]) -> Option<Self> {
        Self::start_with(arguments, &[])
    }

    pub(crate) fn start_with(arguments: &[&str], environment: &[(&str, &str)]) -> Option<Self> {
        let python = match python() {
            Ok(python) => python,
            Err(reason) => {
                eprintln!("skipped: {reason}");
                return None;
            }
        };
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/transport/peers.py");
        let mut child = Command::new(python)
            .arg(script)
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Some(Self {
            stdin: child.stdin.take().unwrap(),
            lines: BufReader::new(child.stdout.take().unwrap()).lines(),
            _child: child,
        })
    }

    pub(crate) async fn line(&mut self) -> String {
        let line = self.lines.next_line().await.unwrap();
        line.expect("the peer ended early: its error is above")
    }

    pub(crate) async fn go_on(&mut self) {
        self.stdin.write_all(b"go\n").await.unwrap();
    }
}

/// Bytes of memory that this process holds.
pub(crate) fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = status.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}
