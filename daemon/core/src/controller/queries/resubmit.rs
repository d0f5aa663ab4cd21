//! Recorded tasks, sent again.

use serde_json::{Value, json};

use super::Asker;
use super::content::{ResubmitRequest, read};
use super::waiting::Waiting;
use crate::clock::Now;
use crate::controller::{Controller, ErrorContent, compose};
use crate::ids::MsgId;
use crate::task_db::{DbRequest, StoredRequest};
use crate::wire::date;
use crate::wire::message::Message;

impl Controller {
    pub(super) fn resubmit_request(
        &mut self,
        now: Now,
        asker: &Asker,
        content: &[u8],
    ) -> Result<(), ErrorContent> {
        let request: ResubmitRequest = read(content)?;
        self.ask(
            now,
            DbRequest::Requests(request.msg_ids),
            Waiting::Resubmit {
                asker: asker.clone(),
            },
        )
    }

    /// Sends recorded tasks again: a new message id and date, all else as it was.
    pub(super) fn resubmit(
        &mut self,
        now: Now,
        requests: Vec<StoredRequest>,
    ) -> Result<Value, ErrorContent> {
        let mut resubmitted = serde_json::Map::new();
        for request in requests {
            let (new, message) = self.renewed(now, &request)?;
            self.resubmit_task(now, message)?;
            resubmitted.insert(request.msg_id.to_string(), new.as_str().into());
            self.record_resubmitted(request.msg_id, new);
        }
        Ok(json!({ "status": "ok", "resubmitted": resubmitted }))
    }

    fn renewed(
        &mut self,
        now: Now,
        request: &StoredRequest,
    ) -> Result<(MsgId, Message), ErrorContent> {
        let unreadable =
            |cause: String| ErrorContent::new("ValueError", format!("{}: {cause}", request.msg_id));
        let mut header: serde_json::Map<String, Value> = serde_json::from_slice(&request.header)
            .map_err(|cause| unreadable(cause.to_string()))?;
        let new = self.composer.next_id();
        header.insert("msg_id".into(), new.as_str().into());
        header.insert("date".into(), date::format(now.unix_micros).into());
        let header = compose::json(&header);
        let parts = [
            header.clone(),
            header,
            request.metadata.clone(),
            request.content.clone(),
        ];
        let mut frames = self.composer.sealed(parts);
        frames.extend_from_slice(&request.buffers);
        let message = Message::parse(frames).map_err(|cause| unreadable(cause.to_string()))?;
        Ok((MsgId::new(&new), message))
    }
}
