//! What clients ask the hub.
//!
//! A question about tasks goes to the task database, whose answer may come later: it waits under a
//! `Ticket` with the connection that asked.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::json;
use serde_json::value::RawValue;

use super::compose::{self, ErrorContent};
use super::{Command, Controller, DaskAddress};
use crate::channel::{Channel, Side};
use crate::clock::Now;
use crate::ids::{EngineUuid, PeerId};
use crate::limits::{SHUTDOWN_PAUSE, WAITING_QUERIES_MAX};
use crate::task_db::{DbRequest, Ticket};
use crate::wire::message::{Message, SignedPart};

mod content;
mod resubmit;
mod tasks;
mod waiting;

use content::{DaskRequest, read};
pub(super) use waiting::Waiting;

/// Who asked, and the header of the question.
#[derive(Clone, Debug)]
pub(super) struct Asker {
    peer: PeerId,
    parent: Bytes,
}

impl Controller {
    /// A message on `registration`: from a client or an engine.
    pub(super) fn handle_query(&mut self, now: Now, from: PeerId, message: &Message) {
        let Some(header) = self.request_header(now, from, message) else {
            return;
        };
        let asker = Asker {
            peer: from,
            parent: message.bytes(SignedPart::Header),
        };
        let side = self.peers.get(from).map_or(Side::Both, |peer| peer.side);
        if !may_ask(side, &header.msg_type) {
            return self.refuse_side(now, &asker, &header.msg_type);
        }
        let content = message.content();
        let answer = match &*header.msg_type {
            "registration_request" => return self.handle_registration(now, from, message),
            "unregistration_request" => return self.handle_unregistration(now, from, message),
            "connection_request" => self.connection_reply(now, &asker),
            "queue_request" => self.queue_request(now, &asker, content),
            "load_request" => self.load_request(now, &asker, content),
            "result_request" => self.result_request(now, &asker, content),
            "history_request" => self.ask(
                now,
                DbRequest::History,
                Waiting::pass(&asker, "history_reply"),
            ),
            "db_request" => self.db_request(now, &asker, content),
            "purge_request" => self.purge_request(now, &asker, content),
            "resubmit_request" => self.resubmit_request(now, &asker, content),
            "shutdown_request" => self.shutdown_request(now, &asker),
            "become_dask_request" => self.dask_request(&asker, content),
            "stop_distributed_request" => {
                self.commands.push_back(Command::StopDask);
                self.answer(
                    now,
                    &asker,
                    "stop_distributed_reply",
                    &json!({ "status": "ok" }),
                );
                Ok(())
            }
            "status_request" => {
                let status = self.status(now);
                self.answer(now, &asker, "status_reply", &status);
                Ok(())
            }
            other => Err(ErrorContent::new(
                "KeyError",
                format!("the hub knows no request {other:?}"),
            )),
        };
        if let Err(error) = answer {
            self.answer(now, &asker, "hub_error", &error);
        }
    }

    fn refuse_side(&mut self, now: Now, asker: &Asker, msg_type: &str) {
        let address = self.address_of(asker.peer);
        self.complaints.warn(now.monotonic, "side", || {
            format!(
                "{address} sent {msg_type:?} with the connection file of the other side; refused"
            )
        });
        let error = ErrorContent::new(
            "PermissionError",
            format!("{msg_type:?} is not for holders of this connection file"),
        );
        self.answer(now, asker, "hub_error", &error);
    }

    fn answer(
        &mut self,
        now: Now,
        asker: &Asker,
        reply_type: &str,
        content: &impl serde::Serialize,
    ) {
        self.send_reply(
            now,
            asker.peer,
            reply_type,
            Some(&asker.parent),
            compose::json(content),
        );
    }

    fn connection_reply(&mut self, now: Now, asker: &Asker) -> Result<(), ErrorContent> {
        let engines: BTreeMap<String, &EngineUuid> = self
            .engines
            .registered()
            .map(|engine| (engine.id.to_string(), &engine.uuid))
            .collect();
        let content = json!({ "status": "ok", "engines": engines });
        self.answer(now, asker, "connection_reply", &content);
        Ok(())
    }

    fn shutdown_request(&mut self, now: Now, asker: &Asker) -> Result<(), ErrorContent> {
        log::info!("a client asked the controller to shut down");
        let content = json!({ "status": "ok" });
        self.answer(now, asker, "shutdown_reply", &content);
        let parent = Some(&asker.parent);
        let frames = self.composer.message(
            now,
            "shutdown_notification",
            parent,
            "{}",
            compose::json(&content),
        );
        self.commands.push_back(Command::Publish {
            channel: Channel::Notification,
            frames: frames.into(),
        });
        self.shutdown_at
            .get_or_insert(now.monotonic + SHUTDOWN_PAUSE);
        Ok(())
    }

    fn dask_request(&mut self, asker: &Asker, content: &[u8]) -> Result<(), ErrorContent> {
        let request: DaskRequest = read(content)?;
        if self.dask.len() >= WAITING_QUERIES_MAX {
            return Err(ErrorContent::new(
                "RuntimeError",
                "too many requests wait for the Dask scheduler",
            ));
        }
        let ticket = self.new_ticket();
        let arguments = match request.scheduler_args {
            Some(arguments) => arguments,
            None => RawValue::from_string("{}".into())
                .map_err(|cause| ErrorContent::new("RuntimeError", cause.to_string()))?,
        };
        self.dask.insert(ticket, asker.clone());
        self.commands
            .push_back(Command::StartDask { ticket, arguments });
        Ok(())
    }

    pub(super) fn handle_dask(
        &mut self,
        now: Now,
        ticket: Ticket,
        result: Result<DaskAddress, String>,
    ) {
        let Some(asker) = self.dask.remove(&ticket) else {
            return;
        };
        match result {
            Ok(at) => {
                let content =
                    json!({ "status": "ok", "ip": at.ip, "address": at.address, "port": at.port });
                self.answer(now, &asker, "become_dask_reply", &content);
            }
            Err(cause) => {
                self.answer(
                    now,
                    &asker,
                    "become_dask_reply",
                    &ErrorContent::new("RuntimeError", cause),
                );
            }
        }
    }
}

/// What each side says on the socket that both share.
fn may_ask(side: Side, msg_type: &str) -> bool {
    match side {
        Side::Both => true,
        Side::Engine => matches!(msg_type, "registration_request" | "unregistration_request"),
        Side::Client => !matches!(msg_type, "registration_request" | "unregistration_request"),
    }
}
