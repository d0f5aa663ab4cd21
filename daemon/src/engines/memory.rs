//! Memory of processes, as the system counts it.

use piparallel_core::engines::message::ProcessId;

/// Resident bytes, or `None` if the process is gone.
pub(super) fn resident(pid: ProcessId) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    resident_in(&status)
}

fn resident_in(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_memory_until_it_has_ended() {
        assert!(resident(ProcessId(std::process::id())) > Some(1 << 20));
        assert_eq!(resident_in("Name:\tx\nState:\tZ (zombie)\n"), None);
        assert_eq!(resident_in("Name:\tx\nVmRSS:\t  12 kB\n"), Some(12 * 1024));
    }
}
