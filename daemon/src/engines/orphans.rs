//! Processes that engines leave behind.
//!
//! The warm parent adopts what its engines leave, and ends it when it ends itself. If it is killed, this
//! process is next: as a subreaper it becomes the parent of whatever outlives its own parent. What is its child
//! and not of its session was left by engines, as the warm parent begins a session of its own.

use std::time::Duration;

use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, getsid};

/// A killed process is gone within moments.
const PATIENCE: Duration = Duration::from_secs(2);

/// Asks the system for the orphans.
pub(super) fn adopt() {
    if let Err(e) = prctl::set_child_subreaper(true) {
        log::debug!("cannot adopt orphans: {e}");
    }
}

/// Ends what is left, there being no warm parent any more.
pub(super) async fn end_all() {
    let ending = async {
        while end() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if tokio::time::timeout(PATIENCE, ending).await.is_err() {
        log::warn!("engines have left processes that cannot be ended");
    }
}

/// Ends what is left at this moment, and says how much that was.
pub(super) fn end() -> usize {
    let left = left(None);
    for pid in &left {
        // It may have ended meanwhile, or be a program of another user; the caller looks again.
        let _ = kill(*pid, Signal::SIGKILL);
        let _ = waitpid(*pid, Some(WaitPidFlag::WNOHANG));
    }
    left.len()
}

/// Forgets adopted processes that have ended by themselves. Somebody else waits for `parent`.
pub(super) fn reap(parent: Option<u32>) {
    for pid in left(parent) {
        let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
    }
}

fn left(parent: Option<u32>) -> Vec<Pid> {
    let own = getsid(None).ok();
    let mut left = children();
    left.retain(|pid| {
        let is_parent = Some(pid.as_raw().unsigned_abs()) == parent;
        !is_parent && getsid(Some(*pid)).is_ok_and(|session| Some(session) != own)
    });
    left
}

fn children() -> Vec<Pid> {
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else {
        return Vec::new();
    };
    let lists = threads
        .flatten()
        .filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    let parse = |list: String| -> Vec<_> {
        let pids = list.split_whitespace().filter_map(|pid| pid.parse().ok());
        pids.map(Pid::from_raw).collect()
    };
    lists.flat_map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_child_of_our_session_is_not_left_by_engines() {
        let mut child = Command::new("sleep").arg("100").spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        assert!(children().contains(&pid));
        assert!(!left(None).contains(&pid));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
