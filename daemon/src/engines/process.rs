//! What the system says of a process.

use piparallel_core::engines::message::ProcessId;

/// Resident bytes, or `None` if the process is gone.
pub(super) fn resident(pid: ProcessId) -> Option<u64> {
    resident_in(&status(pid)?)
}

/// The process that started it, or the one that inherited it; `None` if it is gone.
pub(super) fn parent(pid: ProcessId) -> Option<u32> {
    field(&status(pid)?, "PPid:")?.parse().ok()
}

fn status(pid: ProcessId) -> Option<String> {
    std::fs::read_to_string(format!("/proc/{pid}/status")).ok()
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = status.lines();
    lines
        .find_map(|line| line.strip_prefix(name))
        .map(str::trim)
}

fn resident_in(status: &str) -> Option<u64> {
    let kilobytes: u64 = field(status, "VmRSS:")?
        .strip_suffix("kB")?
        .trim()
        .parse()
        .ok()?;
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
