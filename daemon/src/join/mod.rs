//! Joining, with sockets and files: the shell around `piparallel_core::join`.

/// A node's way to a controller.
pub mod dialer;
/// The key of this node, and the controllers that it trusts.
pub mod identity;
/// The nodes of the pool, on disk.
pub mod nodes_db;
/// The controller's door.
pub mod server;

#[cfg(test)]
mod tests;

use std::time::Duration;

use anyhow::Context as _;
use piparallel_core::join::session::Session;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Both sides say that they live.
const ALIVE_EVERY: Duration = Duration::from_secs(1);

/// A peer that takes nothing for so long is gone.
const WRITE_TIME: Duration = Duration::from_secs(3);

/// Bytes of one read.
const READ: usize = 8 << 10;

/// Writes what a session has to say.
async fn write_out(stream: &mut TcpStream, session: &mut Session) -> anyhow::Result<()> {
    let output = session.take_output();
    if !output.is_empty() {
        let written = timeout(WRITE_TIME, stream.write_all(&output)).await;
        written.context("it does not read what it is sent")??;
    }
    Ok(())
}

/// Reads some bytes into a session. An end is an error.
async fn read_in(stream: &mut TcpStream, session: &mut Session) -> anyhow::Result<()> {
    let mut bytes = [0; READ];
    let count = stream.read(&mut bytes).await?;
    anyhow::ensure!(count > 0, "the connection was closed");
    session.handle_bytes(&bytes[..count]);
    Ok(())
}
