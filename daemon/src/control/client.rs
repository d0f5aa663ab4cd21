//! Asks the service of this node.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::{Command, LINE_MAX, Reply, Request, SOCKET, VERSION};

/// A service that takes longer than this is stuck; it gives up by itself sooner.
const PATIENCE: Duration = Duration::from_secs(15);

/// One question.
///
/// # Errors
/// No service runs, it may not be asked, or it cannot do what it was asked for. The message names the remedy.
pub fn ask(run_dir: &Path, command: Command) -> anyhow::Result<Value> {
    let path = run_dir.join(SOCKET);
    let stream = UnixStream::connect(&path).map_err(|cause| {
        let remedy = match cause.kind() {
            io::ErrorKind::PermissionDenied => "use sudo, or join the group piparallel",
            _ => "start it: systemctl start piparallel, or piparallel node",
        };
        anyhow::anyhow!("no node answers at {}: {cause} ({remedy})", path.display())
    })?;
    let exchange = exchange(stream, command);
    match exchange.with_context(|| format!("the node at {} does not answer", path.display()))? {
        Reply::Ok(value) => Ok(value),
        Reply::Error(text) => bail!(text),
    }
}

fn exchange(mut stream: UnixStream, command: Command) -> anyhow::Result<Reply> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let request = Request {
        version: VERSION,
        command,
    };
    let mut text = serde_json::to_vec(&request)?;
    text.push(b'\n');
    stream.write_all(&text)?;
    let mut line = Vec::new();
    BufReader::new(stream.take(LINE_MAX)).read_until(b'\n', &mut line)?;
    Ok(serde_json::from_slice(&line)?)
}
