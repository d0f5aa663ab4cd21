//! Questions about tasks: queues, loads, results, records.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Asker;
use super::content::{PurgeRequest, QueueRequest, ResultRequest, Targets, find, read};
use super::waiting::Waiting;
use crate::clock::Now;
use crate::controller::{Controller, ErrorContent, compose};
use crate::ids::{EngineId, EngineUuid, MsgId};
use crate::task_db::{DbReply, DbRequest, Purge, Results};

impl Controller {
    /// The registered engines that a question names.
    pub(super) fn validated(&self, targets: Targets) -> Result<Vec<EngineId>, ErrorContent> {
        let Targets::Some(targets) = targets else {
            return Ok(self.engines.registered().map(|engine| engine.id).collect());
        };
        if targets.is_empty() {
            return Err(ErrorContent::new("IndexError", "No Engines Registered"));
        }
        let find = |target: &Value| match target {
            Value::Number(id) => id
                .as_u64()
                .and_then(|id| u32::try_from(id).ok())
                .map(EngineId),
            Value::String(uuid) => self.engines.id_of(uuid),
            _ => None,
        };
        targets
            .iter()
            .map(|target| {
                find(target)
                    .filter(|id| {
                        self.engines
                            .get(*id)
                            .is_some_and(|engine| !engine.is_pending())
                    })
                    .ok_or_else(|| {
                        ErrorContent::new("IndexError", format!("No Such Engine: [{target}]"))
                    })
            })
            .collect()
    }

    pub(super) fn queue_request(
        &mut self,
        now: Now,
        asker: &Asker,
        content: &[u8],
    ) -> Result<(), ErrorContent> {
        let request: QueueRequest = read(content)?;
        let engines = self.validated(request.targets)?;
        if request.verbose {
            let uuids: Vec<&EngineUuid> = engines
                .iter()
                .filter_map(|id| self.engines.get(*id))
                .map(|engine| &engine.uuid)
                .collect();
            let finished = json!({
                "query": { "engine_uuid": { "$in": uuids }, "completed": { "$ne": null } },
                "keys": ["engine_uuid"],
            });
            let find = find(&compose::json(&finished))?;
            return self.ask(
                now,
                DbRequest::Find(find),
                Waiting::Queues {
                    asker: asker.clone(),
                    engines,
                },
            );
        }
        let mut reply = ok_reply();
        for engine in engines.iter().filter_map(|id| self.engines.get(*id)) {
            let numbers = json!({
                "queue": engine.queue.len(),
                "completed": engine.completed + engine.failed,
                "tasks": self.scheduler.load(&engine.uuid),
            });
            reply.insert(engine.id.to_string(), numbers);
        }
        reply.insert("unassigned".into(), self.scheduler.waiting_count().into());
        self.answer(now, asker, "queue_reply", &reply);
        Ok(())
    }

    /// Lists of message ids in place of numbers. Without a database what is finished is not known.
    pub(super) fn queues_reply(
        &mut self,
        now: Now,
        asker: &Asker,
        engines: &[EngineId],
        finished: &DbReply,
    ) {
        let finished = finished_by_engine(finished);
        let mut reply = ok_reply();
        for engine in engines.iter().filter_map(|id| self.engines.get(*id)) {
            let lists = json!({
                "queue": engine.queue.values().collect::<Vec<_>>(),
                "completed": finished.get(&engine.uuid).map_or(&[][..], Vec::as_slice),
                "tasks": self.scheduler.running_on(&engine.uuid).collect::<Vec<_>>(),
            });
            reply.insert(engine.id.to_string(), lists);
        }
        reply.insert("unassigned".into(), json!(self.tracker.unassigned()));
        self.answer(now, asker, "queue_reply", &reply);
    }

    /// How many requests each engine has. Stock answers this with keys that no client can read.
    pub(super) fn load_request(
        &mut self,
        now: Now,
        asker: &Asker,
        content: &[u8],
    ) -> Result<(), ErrorContent> {
        let request: QueueRequest = read(content)?;
        let mut reply = ok_reply();
        for engine in self
            .validated(request.targets)?
            .into_iter()
            .filter_map(|id| self.engines.get(id))
        {
            let load = engine.queue.len() + self.scheduler.load(&engine.uuid).unwrap_or(0);
            reply.insert(engine.id.to_string(), load.into());
        }
        self.answer(now, asker, "load_reply", &reply);
        Ok(())
    }

    pub(super) fn result_request(
        &mut self,
        now: Now,
        asker: &Asker,
        content: &[u8],
    ) -> Result<(), ErrorContent> {
        let request: ResultRequest = read(content)?;
        let (pending, msg_ids) = request
            .msg_ids
            .into_iter()
            .partition(|id| self.tracker.is_pending(id.as_str()));
        let results = Results {
            pending,
            msg_ids,
            status_only: request.status_only,
        };
        self.ask(
            now,
            DbRequest::Results(results),
            Waiting::pass(asker, "result_reply"),
        )
    }

    pub(super) fn db_request(
        &mut self,
        now: Now,
        asker: &Asker,
        content: &[u8],
    ) -> Result<(), ErrorContent> {
        let waiting = Waiting::pass(asker, "db_reply");
        match find(content) {
            Ok(find) => self.ask(now, DbRequest::Find(find), waiting),
            Err(error) => {
                self.answer(now, asker, "db_reply", &error);
                Ok(())
            }
        }
    }

    pub(super) fn purge_request(
        &mut self,
        now: Now,
        asker: &Asker,
        content: &[u8],
    ) -> Result<(), ErrorContent> {
        let purge = read(content).and_then(|request| self.checked_purge(request));
        match purge {
            Ok(purge) => self.ask(
                now,
                DbRequest::Purge(purge),
                Waiting::Purge {
                    asker: asker.clone(),
                },
            ),
            Err(error) => {
                self.answer(now, asker, "purge_reply", &error);
                Ok(())
            }
        }
    }

    fn checked_purge(&self, request: PurgeRequest) -> Result<Purge, ErrorContent> {
        let mut purge = Purge::default();
        match request.msg_ids {
            None | Some(Value::Null) => {}
            Some(Value::String(all)) if all == "all" => purge.all_finished = true,
            Some(ids) => {
                purge.msg_ids = serde_json::from_value(ids).map_err(|_| {
                    ErrorContent::new("ValueError", "msg_ids is \"all\" or a list of message ids")
                })?;
            }
        }
        if let Some(pending) = purge
            .msg_ids
            .iter()
            .find(|id| self.tracker.is_pending(id.as_str()))
        {
            return Err(ErrorContent::new(
                "IndexError",
                format!("msg pending: {pending}"),
            ));
        }
        if let Some(Targets::Some(ids)) = request.engine_ids
            && !ids.is_empty()
        {
            let engines = self.validated(Targets::Some(ids))?;
            purge.engines = engines
                .iter()
                .filter_map(|id| self.engines.get(*id))
                .map(|engine| engine.uuid.clone())
                .collect();
        }
        Ok(purge)
    }
}

fn ok_reply() -> Map<String, Value> {
    Map::from_iter([("status".into(), "ok".into())])
}

/// Message ids of a `db_reply`'s records, by engine.
fn finished_by_engine(reply: &DbReply) -> BTreeMap<EngineUuid, Vec<MsgId>> {
    #[derive(Deserialize)]
    struct Records {
        records: Vec<Record>,
    }
    #[derive(Deserialize)]
    struct Record {
        msg_id: MsgId,
        engine_uuid: EngineUuid,
    }
    let mut finished: BTreeMap<EngineUuid, Vec<MsgId>> = BTreeMap::new();
    if let DbReply::Content { content, .. } = reply
        && let Ok(Records { records }) = serde_json::from_slice(content)
    {
        for record in records {
            finished
                .entry(record.engine_uuid)
                .or_default()
                .push(record.msg_id);
        }
    }
    finished
}
