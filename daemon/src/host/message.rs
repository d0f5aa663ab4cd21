//! One JSON object a line, each way.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::Setup;

/// The socket's name in the node's run directory.
pub(super) const SOCKET: &str = "engines.sock";

/// Bytes of one line: a status with the versions of many packages fits.
const LINE_MAX: u64 = 1 << 20;

/// From the node.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum Wish {
    /// Comes first.
    Setup(Setup),
    /// The engines' connection file, in place of the former.
    File(Map<String, Value>),
    /// There is no pool any more.
    NoPool,
    Restart,
}

/// One end.
pub(super) struct Line {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    partial: Vec<u8>,
}

impl Line {
    pub(super) fn new(stream: UnixStream) -> Self {
        let (reader, writer) = stream.into_split();
        Self {
            reader: BufReader::new(reader),
            writer,
            partial: Vec::new(),
        }
    }

    /// The next message; `None` at the end. Nothing is lost if the future is dropped.
    ///
    /// # Errors
    /// The other end does not keep to the protocol, or is gone.
    pub(super) async fn read<T: DeserializeOwned>(&mut self) -> anyhow::Result<Option<T>> {
        let left = LINE_MAX.saturating_sub(self.partial.len() as u64);
        let mut reader = (&mut self.reader).take(left);
        reader.read_until(b'\n', &mut self.partial).await?;
        if self.partial.is_empty() {
            return Ok(None);
        }
        anyhow::ensure!(self.partial.ends_with(b"\n"), "a line that does not end");
        let line = std::mem::take(&mut self.partial);
        Ok(Some(serde_json::from_slice(&line)?))
    }

    /// # Errors
    /// The other end is gone.
    pub(super) async fn write<T: Serialize>(&mut self, message: &T) -> anyhow::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        Ok(self.writer.write_all(&line).await?)
    }
}
