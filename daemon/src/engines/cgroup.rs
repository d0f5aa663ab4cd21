//! A control group for each engine, where systemd lets this service have its own (`Delegate=yes` with
//! `DelegateSubgroup=`): the kernel holds the memory limit at every moment and for all that an engine starts,
//! and whatever an engine leaves behind ends with it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use piparallel_core::engines::message::{ProcessId, Slot};

use super::process;

/// The service's part of the tree.
#[derive(Debug)]
pub(super) struct Cgroups {
    service: PathBuf,
    memory_limit: Option<u64>,
    /// How often each was out of memory.
    kills: BTreeMap<Slot, u64>,
}

/// Where version 2 is mounted, alone or beside version 1.
const MOUNTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

impl Cgroups {
    /// `None` unless this process is in a group below that of its service, so that groups beside it may be
    /// made.
    pub(super) fn find(memory_limit: Option<u64>) -> Option<Self> {
        let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
        let mut mounts = MOUNTS.iter().map(Path::new);
        let mount = mounts.find(|m| m.join("cgroup.procs").exists())?;
        Self::find_in(mount, &own, memory_limit)
    }

    fn find_in(mount: &Path, own: &str, memory_limit: Option<u64>) -> Option<Self> {
        let own = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
        let service = Path::new(own).parent()?;
        if service.extension()? != "service" {
            return None;
        }
        let this = Self {
            service: mount.join(service),
            memory_limit,
            kills: BTreeMap::new(),
        };
        let control = this.service.join("cgroup.subtree_control");
        if let Err(e) = std::fs::write(control, "+memory") {
            log::debug!("engines have no memory controller: {e}");
        }
        this.keep_what_engines_share(&mount.join(own));
        log::info!("engines have control groups in {}", this.service.display());
        Some(this)
    }

    /// Engines are forked: their libraries are in memory on account of this process's group. A task that fills what all
    /// engines may have would push them out and crawl for long, with the engines beside it. So they stay, as far as the
    /// service's own `MemoryMin=` goes.
    fn keep_what_engines_share(&self, own: &Path) {
        let minimum = own.join("memory.min");
        if minimum.exists()
            && let Err(e) = std::fs::write(minimum, "max")
        {
            log::debug!("engines may lose their libraries when memory ends: {e}");
        }
    }

    /// Puts an engine into a group of its own. The warm parent said which process it is, so it must be its child.
    pub(super) fn enter(&self, slot: Slot, pid: ProcessId, parent: Option<u32>) {
        if parent.is_none() || process::parent(pid) != parent {
            return;
        }
        let group = self.group(slot);
        let entering = || -> std::io::Result<()> {
            if !group.exists() {
                std::fs::create_dir(&group)?;
            }
            if let Some(limit) = self.memory_limit
                && group.join("memory.max").exists()
            {
                std::fs::write(group.join("memory.max"), limit.to_string())?;
                // Compressed swap is memory too: beyond its limit an engine ends, and does not crawl.
                let swap = group.join("memory.swap.max");
                if swap.exists() {
                    std::fs::write(swap, "0")?;
                }
                // Half an engine is none.
                std::fs::write(group.join("memory.oom.group"), "1")?;
            }
            std::fs::write(group.join("cgroup.procs"), pid.to_string())
        };
        if let Err(e) = entering() {
            log::warn!("engine {slot} has no control group: {e}");
        }
    }

    /// Ends what is left in an engine's group.
    pub(super) fn end(&self, slot: Slot) {
        let group = self.group(slot);
        if group.exists() {
            // Kernels before 5.14 cannot; then the next engine finds these processes in its group.
            let _ = std::fs::write(group.join("cgroup.kill"), "1");
        }
    }

    /// Whether the kernel has ended an engine for its memory since the last question.
    pub(super) fn ran_out(&mut self, slot: Slot) -> bool {
        let events = std::fs::read_to_string(self.group(slot).join("memory.events"));
        let events = events.unwrap_or_default();
        let count = events.lines().find_map(|l| l.strip_prefix("oom_kill "));
        let count = count.and_then(|n| n.parse().ok()).unwrap_or(0);
        self.kills.insert(slot, count).unwrap_or(0) < count
    }

    /// Removes the groups of all engines; what has not ended yet keeps its own.
    pub(super) fn remove(&self, count: u32) {
        for slot in (0..count).map(Slot) {
            let _ = std::fs::remove_dir(self.group(slot));
        }
    }

    fn group(&self, slot: Slot) -> PathBuf {
        self.service.join(format!("engine-{slot}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn child() -> std::process::Child {
        let mut sleep = std::process::Command::new("sleep");
        sleep.arg("100").spawn().unwrap()
    }

    #[test]
    fn groups_are_made_only_below_a_service_that_leaves_room_for_them() {
        let dir = tempfile::tempdir().unwrap();
        let find = |own| Cgroups::find_in(dir.path(), own, None).is_some();
        assert!(find(
            "1:name=systemd:/\n0::/system.slice/piparallel.service/daemon\n"
        ));
        assert!(!find("0::/system.slice/piparallel.service\n"));
        assert!(!find("0::/user.slice/session-1.scope\n"));
        assert!(!find("0::/\n"));
        assert!(!find("4:memory:/a.service/b\n"));
    }

    #[test]
    fn a_child_of_the_warm_parent_gets_a_limit_and_nobody_else_is_moved() {
        let dir = tempfile::tempdir().unwrap();
        let group = dir.path().join("p.service/engine-1");
        std::fs::create_dir_all(&group).unwrap();
        for file in ["memory.max", "memory.swap.max"] {
            std::fs::write(group.join(file), "max").unwrap();
        }
        let own = "0::/p.service/daemon\n";
        let minimum = dir.path().join("p.service/daemon/memory.min");
        std::fs::create_dir_all(minimum.parent().unwrap()).unwrap();
        std::fs::write(&minimum, "0").unwrap();
        let mut groups = Cgroups::find_in(dir.path(), own, Some(64 << 20)).unwrap();
        assert_eq!(std::fs::read_to_string(minimum).unwrap(), "max");
        let mut child = child();
        let pid = ProcessId(child.id());
        groups.enter(Slot(1), pid, Some(1));
        assert!(!group.join("cgroup.procs").exists());
        groups.enter(Slot(1), pid, Some(std::process::id()));
        let read = |name: &str| std::fs::read_to_string(group.join(name)).unwrap();
        assert_eq!(read("cgroup.procs"), pid.to_string());
        assert_eq!(read("memory.max"), "67108864");
        assert_eq!(read("memory.swap.max"), "0");
        assert!(!groups.ran_out(Slot(1)));
        std::fs::write(group.join("memory.events"), "oom 3\noom_kill 1\n").unwrap();
        assert!(groups.ran_out(Slot(1)));
        assert!(!groups.ran_out(Slot(1)));
        groups.end(Slot(1));
        assert_eq!(read("cgroup.kill"), "1");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
