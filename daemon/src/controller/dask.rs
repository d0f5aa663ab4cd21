//! `become_dask`: a Dask scheduler beside the controller, in a Python process of the pool's environment.
//!
//! The process ends when its standard input does, so it cannot outlive the controller, however that ends.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use piparallel_core::controller::DaskAddress;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};

/// Starts the scheduler and says where it listens.
const SCRIPT: &str = include_str!("dask_scheduler.py");

/// Importing Dask takes ten seconds and more on a Pi 3.
const START_TIMEOUT: Duration = Duration::from_secs(90);

/// A running Dask scheduler.
#[derive(Debug)]
pub(super) struct DaskScheduler {
    pub(super) address: DaskAddress,
    child: Child,
}

/// What the script prints: one line of JSON.
#[derive(Deserialize)]
struct Started {
    ip: Option<String>,
    address: Option<String>,
    port: Option<u16>,
    error: Option<String>,
}

impl DaskScheduler {
    /// Starts a scheduler with keyword arguments in JSON, and waits until it listens.
    ///
    /// # Errors
    /// One line for the client: what failed, and what to do.
    pub(super) async fn start(python: PathBuf, arguments: String) -> Result<Self, String> {
        let mut child = Command::new(&python)
            .args(["-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|cause| format!("cannot run {}: {cause}", python.display()))?;
        match tokio::time::timeout(START_TIMEOUT, hand_shake(&mut child, &python, arguments)).await
        {
            Ok(Ok(address)) => Ok(Self { address, child }),
            Ok(Err(cause)) => Err(cause),
            Err(_) => Err(format!(
                "the Dask scheduler did not start within {} s",
                START_TIMEOUT.as_secs()
            )),
        }
    }

    /// Whether the process still runs.
    pub(super) fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

async fn hand_shake(
    child: &mut Child,
    python: &Path,
    arguments: String,
) -> Result<DaskAddress, String> {
    let broken = |cause: std::io::Error| format!("the Dask scheduler ended at its start: {cause}");
    let stdin = child.stdin.as_mut().ok_or("no standard input")?;
    stdin
        .write_all(format!("{arguments}\n").as_bytes())
        .await
        .map_err(broken)?;
    let stdout = child.stdout.as_mut().ok_or("no standard output")?;
    let mut line = String::new();
    BufReader::new(stdout)
        .read_line(&mut line)
        .await
        .map_err(broken)?;
    let started: Started = serde_json::from_str(&line).map_err(|_| {
        format!(
            "the Dask scheduler ended at its start; see the controller's log for what {} printed",
            python.display()
        )
    })?;
    match started {
        Started {
            ip: Some(ip),
            address: Some(address),
            port: Some(port),
            error: None,
        } => Ok(DaskAddress { ip, address, port }),
        Started { error, .. } => Err(format!(
            "{} (in {}; `{} -m pip install distributed` installs Dask)",
            error
                .as_deref()
                .unwrap_or("the Dask scheduler gave no address"),
            python.display(),
            python.display()
        )),
    }
}
