//! Questions that wait for the task database, and what becomes of its answers.

use serde_json::json;

use super::Asker;
use crate::clock::Now;
use crate::controller::{Command, Controller, ErrorContent};
use crate::ids::EngineId;
use crate::limits::WAITING_QUERIES_MAX;
use crate::task_db::{DbReply, DbRequest, Ticket};

/// A question that waits for the database, and what to do with the answer.
#[derive(Debug)]
pub(in crate::controller) enum Waiting {
    /// Pass the answer's content on under this type.
    Pass {
        asker: Asker,
        reply_type: &'static str,
    },
    Purge {
        asker: Asker,
    },
    /// Which tasks these engines finished: for a verbose `queue_request`.
    Queues {
        asker: Asker,
        engines: Vec<EngineId>,
    },
    Resubmit {
        asker: Asker,
    },
}

impl Controller {
    /// Asks the database; its answer is handled when it comes.
    pub(super) fn ask(
        &mut self,
        now: Now,
        request: DbRequest,
        waiting: Waiting,
    ) -> Result<(), ErrorContent> {
        if self.records_nothing() {
            self.finish(now, waiting, request.without_database());
            return Ok(());
        }
        if self.questions.waiting.len() >= WAITING_QUERIES_MAX {
            return Err(ErrorContent::new(
                "RuntimeError",
                "too many questions wait for the task database",
            ));
        }
        let ticket = self.new_ticket();
        self.questions.waiting.insert(ticket, waiting);
        self.commands.push_back(Command::Query { ticket, request });
        Ok(())
    }

    pub(in crate::controller) fn handle_db_reply(
        &mut self,
        now: Now,
        ticket: Ticket,
        reply: DbReply,
    ) {
        if let Some(waiting) = self.questions.waiting.remove(&ticket) {
            self.finish(now, waiting, reply);
        }
    }

    fn finish(&mut self, now: Now, waiting: Waiting, reply: DbReply) {
        match (waiting, reply) {
            (Waiting::Queues { asker, engines }, reply) => {
                self.queues_reply(now, &asker, &engines, &reply)
            }
            (Waiting::Pass { asker, reply_type }, DbReply::Content { content, buffers }) => {
                let mut frames =
                    self.composer
                        .message(now, reply_type, Some(&asker.parent), "{}", content);
                frames.extend(buffers);
                self.commands.push_back(Command::Send {
                    peer: asker.peer,
                    frames: frames.into(),
                });
            }
            // What is not there need not be purged: after a culling, clients name ids that are gone.
            (Waiting::Purge { asker }, DbReply::Purged { .. }) => {
                self.answer(now, &asker, "purge_reply", &json!({ "status": "ok" }));
            }
            (Waiting::Resubmit { asker }, DbReply::Requests(requests)) => {
                match self.resubmit(now, requests) {
                    Ok(content) => self.answer(now, &asker, "resubmit_reply", &content),
                    Err(error) => self.answer(now, &asker, "resubmit_reply", &error),
                }
            }
            (waiting, DbReply::Failed(cause)) => {
                let (asker, reply_type) = waiting.reply_to();
                self.answer(
                    now,
                    &asker,
                    reply_type,
                    &ErrorContent::new(cause.ename(), cause.to_string()),
                );
            }
            (waiting, reply) => {
                log::error!("the task database answered {waiting:?} with {reply:?}");
                let (asker, reply_type) = waiting.reply_to();
                let error = ErrorContent::new(
                    "RuntimeError",
                    "the task database gave an unexpected answer",
                );
                self.answer(now, &asker, reply_type, &error);
            }
        }
    }

    pub(super) fn new_ticket(&mut self) -> Ticket {
        self.questions.tickets += 1;
        Ticket(self.questions.tickets)
    }
}

impl Waiting {
    pub(super) fn pass(asker: &Asker, reply_type: &'static str) -> Self {
        Self::Pass {
            asker: asker.clone(),
            reply_type,
        }
    }

    fn reply_to(self) -> (Asker, &'static str) {
        match self {
            Self::Pass { asker, reply_type } => (asker, reply_type),
            Self::Purge { asker } => (asker, "purge_reply"),
            Self::Queues { asker, .. } => (asker, "queue_reply"),
            Self::Resubmit { asker } => (asker, "resubmit_reply"),
        }
    }
}
