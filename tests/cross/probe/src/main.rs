//! Says how a machine's programs are built: the size of its time, and which dates survive the way to a file and back,
//! through the standard library and through the C library.

use std::fs::File;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::Context as _;
use nix::sys::stat::stat;

/// In 2096: more seconds than 32 bits can count.
const DATE: u64 = 4_000_000_000;

fn main() -> anyhow::Result<()> {
    let path = std::env::args_os().nth(1);
    let path = path.context("usage: piparallel-probe FILE, which is created")?;
    let file = File::create(&path)?;
    file.set_modified(UNIX_EPOCH + Duration::from_secs(DATE))?;
    let by_std = file.metadata()?.modified()?.duration_since(UNIX_EPOCH)?;
    let by_c = stat(path.as_os_str())?.st_mtime;
    println!("time_t={}", size_of_val(&by_c));
    println!("std={}", by_std.as_secs());
    println!("c={by_c}");
    Ok(())
}
