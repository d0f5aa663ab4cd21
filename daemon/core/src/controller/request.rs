//! What the controller keeps of a request's header.

use std::borrow::Cow;
use std::sync::Arc;

use crate::ids::MsgId;
use crate::wire::date;
use crate::wire::header::Header;

/// The parts of a header that outlive the message.
#[derive(Debug)]
pub(super) struct RequestHeader {
    pub(super) msg_id: MsgId,
    pub(super) msg_type: Cow<'static, str>,
    /// Of the client; shared by requests that come one after the other.
    pub(super) session: Arc<str>,
    /// Microseconds since 1970 (UTC), if it says.
    pub(super) date: Option<i64>,
}

/// What nearly all requests are: their types need no memory.
const COMMON_TYPES: [&str; 2] = ["apply_request", "execute_request"];

impl RequestHeader {
    /// Reads a header. `latest` is a session that is likely to be this one.
    pub(super) fn parse(json: &[u8], latest: &Arc<str>) -> Result<Self, serde_json::Error> {
        let header = Header::parse(json)?;
        let common = COMMON_TYPES.into_iter().find(|t| *t == header.msg_type);
        Ok(Self {
            msg_id: MsgId::new(&header.msg_id),
            msg_type: common.map_or_else(|| header.msg_type.into_owned().into(), Cow::Borrowed),
            session: if **latest == *header.session {
                Arc::clone(latest)
            } else {
                Arc::from(&*header.session)
            },
            date: date::parse(&header.date),
        })
    }

    /// Whether a reply follows. A `comm_msg`, say, has none.
    pub(super) fn expects_reply(&self) -> bool {
        self.msg_type.ends_with("_request")
    }

    /// The reply type that a client expects from the schedulers; it knows only these two.
    pub(super) fn reply_type(&self) -> &'static str {
        if self.msg_type == "execute_request" {
            "execute_reply"
        } else {
            "apply_reply"
        }
    }
}
