//! Messages that the controller itself writes: replies of the hub and the schedulers, notifications.

use bytes::Bytes;
use serde::Serialize;

use crate::clock::Now;
use crate::wire::date;
use crate::wire::message::DELIMITER;
use crate::wire::sign::Signer;

/// Writes and signs messages under one session of the controller's own.
#[derive(Debug)]
pub(crate) struct Composer {
    signer: Signer,
    session: String,
    sent: u64,
}

/// An error as clients raise it: a `RemoteError` with this name and text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ErrorContent {
    status: &'static str,
    /// The name of the exception, one that users know from Python.
    pub ename: &'static str,
    /// What happened, and what to do about it.
    pub evalue: String,
    traceback: Vec<String>,
    engine_info: Empty,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Empty {}

impl ErrorContent {
    pub(crate) fn new(ename: &'static str, evalue: impl Into<String>) -> Self {
        let evalue = evalue.into();
        // Clients print the traceback, not the other two.
        let traceback = vec![format!("{ename}: {evalue}")];
        Self {
            status: "error",
            ename,
            evalue,
            traceback,
            engine_info: Empty {},
        }
    }

    /// An error with the lines that clients print for it.
    pub(crate) fn explained(ename: &'static str, evalue: String, traceback: Vec<String>) -> Self {
        Self {
            traceback,
            ..Self::new(ename, evalue)
        }
    }
}

#[derive(Serialize)]
struct Header<'a> {
    msg_id: &'a str,
    msg_type: &'a str,
    username: &'a str,
    session: &'a str,
    date: &'a str,
    version: &'a str,
}

impl Composer {
    pub(crate) fn new(signer: Signer, session: String) -> Self {
        Self {
            signer,
            session,
            sent: 0,
        }
    }

    pub(crate) fn signer(&self) -> &Signer {
        &self.signer
    }

    /// A message id that no one else uses.
    pub(crate) fn next_id(&mut self) -> String {
        self.sent += 1;
        format!("{}_{}", self.session, self.sent)
    }

    /// A message from its delimiter on.
    ///
    /// `parent` is the header of the request as it came, or empty for none.
    pub(crate) fn message(
        &mut self,
        now: Now,
        msg_type: &str,
        parent: Option<&Bytes>,
        metadata: impl Into<Bytes>,
        content: impl Into<Bytes>,
    ) -> Vec<Bytes> {
        let header = self.header(now, msg_type);
        let parent = parent.cloned().unwrap_or_else(empty_object);
        self.sealed([header, parent, metadata.into(), content.into()])
    }

    /// A header under the controller's session.
    pub(crate) fn header(&mut self, now: Now, msg_type: &str) -> Bytes {
        let msg_id = self.next_id();
        json(&Header {
            msg_id: &msg_id,
            msg_type,
            username: "piparallel",
            session: &self.session,
            date: &date::format(now.unix_micros),
            version: "5.4",
        })
    }

    /// Delimiter, signature and the four parts.
    pub(crate) fn sealed(&self, parts: [Bytes; 4]) -> Vec<Bytes> {
        let mut frames = Vec::with_capacity(8);
        frames.push(Bytes::from_static(DELIMITER));
        frames.push(self.signer.sign(&parts));
        frames.extend(parts);
        frames
    }
}

pub(crate) fn empty_object() -> Bytes {
    Bytes::from_static(b"{}")
}

/// JSON text of one of our own types, which all can be written.
pub(crate) fn json(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).map_or_else(
        |cause| {
            log::error!("a message could not be written as JSON: {cause}");
            empty_object()
        },
        Bytes::from,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::header::Header;
    use crate::wire::message::Message;
    use std::time::Duration;

    #[test]
    fn a_message_is_signed_and_answers_its_parent() {
        let mut composer = Composer::new(Signer::new(b"key"), "session".into());
        let now = Now::new(Duration::ZERO, 0);
        let parent = Bytes::from(r#"{"msg_id":"p"}"#);
        let error = json(&ErrorContent::new("KeyError", "no such thing"));
        let m =
            Message::parse(composer.message(now, "x_reply", Some(&parent), "{}", error)).unwrap();
        assert!(
            Signer::new(b"key")
                .verify(m.signature(), m.signed_parts())
                .is_ok()
        );
        assert_eq!(m.parent_header(), &parent);
        let header = Header::parse(m.header()).unwrap();
        assert_eq!(
            (&*header.msg_id, &*header.msg_type),
            ("session_1", "x_reply")
        );
        assert_eq!(
            m.content(),
            br#"{"status":"error","ename":"KeyError","evalue":"no such thing","traceback":["KeyError: no such thing"],"engine_info":{}}"#
        );
    }
}
