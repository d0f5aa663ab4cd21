//! Processes that engines leave behind.
//!
//! A stock engine has a second process, its nanny, in a session of its own, and user code may start
//! more. As a subreaper this process becomes the parent of whatever outlives its own parent, so that all
//! of it can be found and ended.

use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

/// Asks the system for the orphans. Older kernels do not know this; then only the process groups of
/// engines are cleaned up.
pub fn adopt() {
    if let Err(e) = prctl::set_child_subreaper(true) {
        log::debug!("cannot adopt orphans: {e}");
    }
}

/// Reaps adopted processes that have ended. `own` are children that somebody else waits for.
pub fn reap(own: &[u32]) {
    for pid in children() {
        if !own.contains(&pid.as_raw().unsigned_abs()) {
            let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
        }
    }
}

/// Ends every process that is left, the engines' own being gone: first those that would end by
/// themselves get `patience`, as a nanny has something to tell the hub.
pub async fn end_all(patience: Duration) {
    let deadline = Instant::now() + patience;
    loop {
        reap(&[]);
        let left = children();
        if left.is_empty() {
            return;
        }
        if Instant::now() >= deadline {
            for pid in left {
                log::debug!("killing process {pid}, left by an engine");
                match kill(pid, Signal::SIGKILL) {
                    Ok(()) | Err(Errno::ESRCH) => {}
                    // Not ours to end, such as a set-uid program: waiting would not help.
                    Err(_) => return,
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn children() -> Vec<Pid> {
    let own = std::process::id().to_string();
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            (parent_in(&stat)? == own).then(|| Pid::from_raw(pid))
        })
        .collect()
}

/// `pid (name) state parent ...`, where the name may contain anything.
fn parent_in(stat: &str) -> Option<&str> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_is_found_behind_any_name() {
        assert_eq!(parent_in("12 (a) b) S) S 7 12 12 0"), Some("7"));
        assert_eq!(parent_in("nonsense"), None);
    }
}
