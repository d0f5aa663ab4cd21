//! Messages as peers write and read them.

use bytes::Bytes;
use piparallel_core::wire::date;
use piparallel_core::wire::message::{DELIMITER, Message};
use piparallel_core::wire::sign::Signer;
use serde_json::{Value, json};

/// Writes messages under one session.
pub struct Session {
    pub name: String,
    signer: Signer,
    sent: u64,
}

impl Session {
    pub fn new(name: String, signer: Signer) -> Self {
        Self {
            name,
            signer,
            sent: 0,
        }
    }

    /// A message id, and the frames from the delimiter on.
    pub fn message(
        &mut self,
        unix_micros: i64,
        msg_type: &str,
        parent: Option<&Bytes>,
        metadata: &Value,
        content: &Value,
    ) -> (String, Vec<Bytes>) {
        self.sent += 1;
        let msg_id = format!("{}_{}", self.name, self.sent);
        let header = json!({
            "msg_id": msg_id, "msg_type": msg_type, "username": "sim", "session": self.name,
            "date": date::format(unix_micros), "version": "5.4",
        });
        let parts = [
            Bytes::from(header.to_string()),
            parent.cloned().unwrap_or_else(|| Bytes::from_static(b"{}")),
            Bytes::from(metadata.to_string()),
            Bytes::from(content.to_string()),
        ];
        let mut frames = vec![Bytes::from_static(DELIMITER), self.signer.sign(&parts)];
        frames.extend(parts);
        (msg_id, frames)
    }
}

/// A message, read.
#[derive(Debug)]
pub struct Read {
    pub message: Message,
    pub msg_id: String,
    pub msg_type: String,
    pub parent: String,
    pub metadata: Value,
    pub content: Value,
}

impl Read {
    pub fn new(frames: &[Bytes]) -> Self {
        let message = Message::parse(frames.to_vec()).expect("peers get only messages");
        let read = |part: &[u8]| -> Value {
            serde_json::from_slice(part).expect("the parts of a message are JSON")
        };
        let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
        let header = read(message.header());
        Self {
            msg_id: text(&header, "msg_id"),
            msg_type: text(&header, "msg_type"),
            parent: text(&read(message.parent_header()), "msg_id"),
            metadata: read(message.metadata()),
            content: read(message.content()),
            message,
        }
    }

    pub fn is_ok(&self) -> bool {
        self.content["status"] == "ok"
    }

    pub fn ename(&self) -> &str {
        self.content["ename"].as_str().unwrap_or_default()
    }
}
