//! Stock engines as child processes.
//!
//! | state | means | ends by |
//! |-------|-------|---------|
//! | running | the process lives | exit code 0: *ended*; anything else: *waiting* |
//! | waiting | it failed and is started again after a pause that doubles | the pause: *running* |
//! | ended | somebody asked this engine to stop | nothing |
//!
//! Stopping sends SIGTERM to the engine's process group and, after a grace period, SIGKILL.

use std::fs::OpenOptions;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, getppid};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How engines are started.
#[derive(Clone, Debug)]
pub struct EngineCommand {
    pub python: PathBuf,
    pub connection_file: PathBuf,
    pub profile: PathBuf,
    pub log_dir: PathBuf,
    /// Beyond what this process has.
    pub env: Vec<(String, String)>,
}

/// How urgently everything has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stop {
    No,
    Gracefully,
    AtOnce,
}

/// What one engine process does at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    Running { pid: u32 },
    Waiting { failures: u32, reason: String },
    Ended,
}

/// The engines of this machine.
pub struct Engines {
    stop: watch::Sender<Stop>,
    states: Vec<watch::Receiver<State>>,
    tasks: JoinSet<()>,
}

/// Between SIGTERM and SIGKILL. A stock engine ends within 0.3 s unless user code keeps it busy.
const GRACE: Duration = Duration::from_secs(3);
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// An engine that ran for so long has not failed to start.
const STABLE_AFTER: Duration = Duration::from_secs(60);

impl Engines {
    /// Starts `count` engines.
    #[must_use]
    pub fn start(command: &EngineCommand, count: u32) -> Self {
        let (stop, stopped) = watch::channel(Stop::No);
        let mut tasks = JoinSet::new();
        let states = (0..count)
            .map(|number| {
                let waiting = State::Waiting {
                    failures: 0,
                    reason: "not started yet".to_owned(),
                };
                let (state, receiver) = watch::channel(waiting);
                let engine = Engine {
                    command: command.clone(),
                    number,
                    state,
                    stop: stopped.clone(),
                };
                tasks.spawn(engine.keep_running());
                receiver
            })
            .collect();
        Self {
            stop,
            states,
            tasks,
        }
    }

    /// The state of each engine, by its number.
    #[must_use]
    pub fn states(&self) -> Vec<State> {
        self.states.iter().map(|s| s.borrow().clone()).collect()
    }

    /// Ends all engines. `hurry` cuts the grace period short.
    pub async fn stop(mut self, hurry: impl Future<Output = ()>) {
        self.stop.send_replace(Stop::Gracefully);
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        let mut ended = std::pin::pin!(ended);
        tokio::select! {
            () = &mut ended => return,
            () = hurry => {}
        }
        self.stop.send_replace(Stop::AtOnce);
        ended.await;
    }
}

struct Engine {
    command: EngineCommand,
    number: u32,
    state: watch::Sender<State>,
    stop: watch::Receiver<Stop>,
}

impl Engine {
    async fn keep_running(mut self) {
        let mut failures = 0;
        loop {
            let started = Instant::now();
            let reason = match self.run_once().await {
                Outcome::Ended => {
                    self.state.send_replace(State::Ended);
                    return;
                }
                Outcome::Failed(reason) => reason,
            };
            if started.elapsed() > STABLE_AFTER {
                failures = 0;
            }
            failures += 1;
            let pause = (PAUSE_MIN * 2u32.saturating_pow(failures - 1)).min(PAUSE_MAX);
            log::warn!(
                "engine process {} {reason}, starting it again in {pause:?} (see {})",
                self.number,
                log_path(&self.command.log_dir, self.number).display()
            );
            self.state.send_replace(State::Waiting { failures, reason });
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = wait_for(&mut self.stop, Stop::Gracefully) => return,
            }
        }
    }

    async fn run_once(&mut self) -> Outcome {
        let mut child = match spawn(&self.command, self.number) {
            Ok(child) => child,
            Err(e) => return Outcome::Failed(format!("cannot be started: {e:#}")),
        };
        let pid = child.id().unwrap_or_default();
        self.state.send_replace(State::Running { pid });
        tokio::select! {
            status = child.wait() => {
                // What shares the group, and the nanny if it is gone already.
                signal_group(pid, Signal::SIGKILL);
                outcome(status)
            }
            () = wait_for(&mut self.stop, Stop::Gracefully) => {
                terminate(&mut child, pid, &mut self.stop).await;
                Outcome::Ended
            }
        }
    }
}

enum Outcome {
    Ended,
    Failed(String),
}

fn outcome(status: std::io::Result<ExitStatus>) -> Outcome {
    match status {
        Ok(status) if status.success() => Outcome::Ended,
        Ok(status) => Outcome::Failed(format!("ended with {status}")),
        Err(e) => Outcome::Failed(format!("was lost: {e}")),
    }
}

/// Waits until everything has to end at least as urgently as `level`.
async fn wait_for(stop: &mut watch::Receiver<Stop>, level: Stop) {
    // An error means that the pool is gone, which is a reason to end as well.
    let _ = stop.wait_for(|s| *s >= level).await;
}

async fn terminate(child: &mut Child, pid: u32, stop: &mut watch::Receiver<Stop>) {
    signal_group(pid, Signal::SIGTERM);
    tokio::select! {
        _ = child.wait() => {}
        () = tokio::time::sleep(GRACE) => {}
        () = wait_for(stop, Stop::AtOnce) => {}
    }
    signal_group(pid, Signal::SIGKILL);
    let _ = child.wait().await;
}

fn signal_group(pid: u32, signal: Signal) {
    if let Ok(pid) = i32::try_from(pid)
        && pid > 1
    {
        // The group may be gone, which is what was wanted.
        let _ = killpg(Pid::from_raw(pid), signal);
    }
}

fn spawn(command: &EngineCommand, number: u32) -> anyhow::Result<Child> {
    let path = log_path(&command.log_dir, number);
    let log = OpenOptions::new().create(true).append(true).open(&path);
    let log = log.with_context(|| format!("cannot write {}", path.display()))?;
    let mut python = Command::new(&command.python);
    python
        .args(["-m", "ipyparallel.engine"])
        .arg(format!("--file={}", command.connection_file.display()))
        .arg(format!("--profile-dir={}", command.profile.display()))
        // These would send the engine elsewhere than its arguments do.
        .env_remove("IPP_CONNECTION_INFO")
        .env_remove("IPP_CLUSTER_ID")
        .envs(command.env.iter().map(|(k, v)| (k, v)))
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("cannot share the log file")?)
        .stderr(log)
        .process_group(0)
        .kill_on_drop(true);
    die_with_parent(&mut python);
    python
        .spawn()
        .with_context(|| command.python.display().to_string())
}

/// Lets the child die when this process is killed in a way that it cannot notice.
pub fn die_with_parent(command: &mut Command) {
    let parent = Pid::this();
    // SAFETY: between fork and exec, only system calls are made: no allocation, no lock.
    unsafe {
        command.pre_exec(move || {
            set_pdeathsig(Signal::SIGKILL)?;
            // The parent may have died before that call.
            if getppid() != parent {
                return Err(std::io::ErrorKind::NotFound.into());
            }
            Ok(())
        });
    }
}

fn log_path(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("engine-{number}.log"))
}

/// The last line of an engine's log, for a message about its failure.
#[must_use]
pub fn last_log_line(command: &EngineCommand, number: u32) -> String {
    const TAIL: u64 = 4096;
    let read = || -> std::io::Result<String> {
        let mut file = std::fs::File::open(log_path(&command.log_dir, number))?;
        let start = file.metadata()?.len().saturating_sub(TAIL);
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.take(TAIL).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let line = text.lines().rev().find(|l| !l.trim().is_empty());
    line.unwrap_or("its log is empty").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    /// An "engine" that is a shell script.
    fn command(dir: &Path, script: &str) -> EngineCommand {
        let python = dir.join("python");
        std::fs::write(&python, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&python, std::fs::Permissions::from_mode(0o755)).unwrap();
        EngineCommand {
            python,
            connection_file: dir.join("engine.json"),
            profile: dir.to_owned(),
            log_dir: dir.to_owned(),
            env: Vec::new(),
        }
    }

    async fn until(engines: &Engines, what: impl Fn(&State) -> bool) -> State {
        for _ in 0..500 {
            let state = engines.states().remove(0);
            if what(&state) {
                return state;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("still {:?}", engines.states());
    }

    fn is_alive(pid: u32) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        !stat.is_empty() && !stat.contains(") Z ")
    }

    #[tokio::test]
    async fn a_failed_engine_is_started_again_and_its_log_tells_why() {
        let dir = tempfile::tempdir().unwrap();
        let command = command(dir.path(), "echo broken >&2; exit 3");
        let engines = Engines::start(&command, 1);
        let failed_twice = |s: &State| matches!(s, State::Waiting { failures: 2, .. });
        let State::Waiting { reason, .. } = until(&engines, failed_twice).await else {
            panic!()
        };
        assert!(reason.contains("exit status: 3"), "{reason}");
        assert_eq!(last_log_line(&command, 0), "broken");
        engines.stop(std::future::pending()).await;
    }

    #[tokio::test]
    async fn an_engine_that_was_asked_to_end_stays_ended() {
        let dir = tempfile::tempdir().unwrap();
        let engines = Engines::start(&command(dir.path(), "exit 0"), 1);
        until(&engines, |s| *s == State::Ended).await;
        engines.stop(std::future::pending()).await;
    }

    #[tokio::test]
    async fn stopping_ends_the_engine_and_its_group_however_stubborn() {
        let dir = tempfile::tempdir().unwrap();
        let script = "trap '' TERM; sleep 1000 & echo $! > child; while :; do sleep 1; done";
        let mut command = command(
            dir.path(),
            &format!("cd {}; {script}", dir.path().display()),
        );
        command.log_dir = dir.path().to_owned();
        let engines = Engines::start(&command, 1);
        let running = until(&engines, |s| matches!(s, State::Running { .. })).await;
        let State::Running { pid } = running else {
            panic!()
        };
        let mut child = String::new();
        while child.trim().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
            child = std::fs::read_to_string(dir.path().join("child")).unwrap_or_default();
        }
        assert!(is_alive(pid));
        engines.stop(std::future::ready(())).await;
        assert!(!is_alive(pid));
        // The signal is sent; on a busy machine the process needs a moment to die of it.
        let child = child.trim().parse().unwrap();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        while is_alive(child) {
            assert!(tokio::time::Instant::now() < deadline, "still alive");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
