//! What must have happened: every request with its one outcome, told from nothing but the messages that
//! went in and out of the controller.
//!
//! | kind        | begins when          | ends with                                              |
//! |-------------|----------------------|--------------------------------------------------------|
//! | task        | it comes in          | the reply of the engine that has it, unless that leads |
//! |             |                      | to another try; or one error of the scheduler          |
//! | mux, copy   | it comes in          | the reply of its engine, a refusal, or the notification |
//! |             |                      | that its engine left                                   |
//! | gathering   | it comes in          | the end of all its copies                              |
//! | any         |                      | the end of the controller: it is lost                  |

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use piparallel_core::channel::Channel;
use piparallel_core::ids::PeerId;
use serde_json::Value;

use crate::message::Read;

#[derive(Clone, Debug)]
pub enum Kind {
    Copy {
        engine: String,
        gathering: Option<String>,
    },
    Gathering {
        copies: Vec<String>,
    },
    Mux {
        engine: String,
    },
    Task(Box<Task>),
}

/// What a task asks for, and how far it is.
#[derive(Clone, Debug, Default)]
pub struct Task {
    after: Dependency,
    follow: Dependency,
    targets: BTreeSet<String>,
    timeout: Option<Duration>,
    retries: u64,
    refused: BTreeSet<String>,
    was_refused: bool,
    /// The engine that has it.
    pub holder: Option<String>,
    /// Its engine left, and no retry was left.
    doomed: bool,
    is_resubmitted: bool,
    /// Since when it waits; a retry waits anew.
    since: Duration,
}

#[derive(Clone, Debug, Default)]
struct Dependency {
    ids: BTreeSet<String>,
    all: bool,
    success: bool,
    failure: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// An engine's reply.
    Replied { ok: bool, engine: String },
    /// An error of the controller's own.
    Failed,
    /// The engine left; clients learn that from the notification.
    Stranded,
    /// The controller ended before.
    Lost,
}

#[derive(Clone, Debug)]
pub struct Request {
    pub kind: Kind,
    /// The connection that it came on; none for a resubmitted one.
    client: Option<PeerId>,
    pub end: Option<End>,
    /// Times it was sent to an engine.
    sent: usize,
    answered: bool,
    /// It came to a controller that is no more.
    is_past: bool,
}

struct Query {
    msg_type: String,
    content: Value,
    /// Open at the time of the question.
    pending: BTreeSet<String>,
    recorded: BTreeMap<String, bool>,
}

#[derive(Default)]
pub struct Reference {
    pub now: Duration,
    pub requests: BTreeMap<String, Request>,
    order: Vec<String>,
    /// Engines that clients know, as notified.
    pub announced: BTreeMap<String, u64>,
    /// Engines that must come back under their number when all is well.
    pub expected: BTreeMap<String, u64>,
    /// Records of the task database: is it finished.
    pub recorded: BTreeMap<String, bool>,
    queries: BTreeMap<String, Query>,
    executions: BTreeMap<String, Vec<String>>,
    touched: BTreeSet<String>,
    pub checked_queries: usize,
}

impl Reference {
    pub fn latest_tasks(&self) -> Vec<String> {
        let tasks = self
            .order
            .iter()
            .rev()
            .filter(|id| matches!(self.requests[*id].kind, Kind::Task(_)));
        tasks.take(12).cloned().collect()
    }

    pub fn latest_requests(&self) -> Vec<String> {
        self.order.iter().rev().take(20).cloned().collect()
    }

    pub fn open(&self) -> impl Iterator<Item = (&String, &Request)> {
        self.requests
            .iter()
            .filter(|(_, request)| request.end.is_none())
    }

    /// The controller got a message from a peer that it listens to.
    pub fn received(&mut self, peer: PeerId, channel: Channel, identity: &str, read: &Read) {
        match channel {
            Channel::TaskClient => {
                let task = Task::read(&read.metadata, self.now);
                self.begin(&read.msg_id, Some(peer), Kind::Task(Box::new(task)));
                self.recorded.insert(read.msg_id.clone(), false);
            }
            Channel::MuxClient => {
                let engine = String::from_utf8_lossy(&read.message.routing()[0]).into_owned();
                self.begin(&read.msg_id, Some(peer), Kind::Mux { engine });
            }
            Channel::BroadcastClient => self.broadcast(peer, read),
            Channel::TaskEngine => self.task_reply(identity, read),
            Channel::MuxEngine | Channel::BroadcastEngine => self.direct_reply(identity, read),
            Channel::Registration => self.asked(read),
            _ => {}
        }
    }

    fn begin(&mut self, id: &str, client: Option<PeerId>, kind: Kind) {
        let request = Request {
            kind,
            client,
            end: None,
            sent: 0,
            answered: false,
            is_past: false,
        };
        assert!(
            self.requests.insert(id.into(), request).is_none(),
            "{id} came twice"
        );
        self.order.push(id.into());
        self.touched.insert(id.into());
    }

    fn broadcast(&mut self, peer: PeerId, read: &Read) {
        let coalescing = read.metadata["is_coalescing"] == true;
        let gathering = coalescing.then(|| read.msg_id.clone());
        let mut copies = Vec::new();
        for target in read.metadata["targets"].as_array().into_iter().flatten() {
            let engine = target[0].as_str().unwrap_or_default().to_owned();
            let id = format!("{}_{engine}", read.msg_id);
            let gathering = gathering.clone();
            self.begin(&id, Some(peer), Kind::Copy { engine, gathering });
            copies.push(id);
        }
        if coalescing {
            self.begin(&read.msg_id, Some(peer), Kind::Gathering { copies });
            self.recorded.insert(read.msg_id.clone(), false);
        }
    }

    /// A reply counts if it comes from the engine that has the task.
    fn task_reply(&mut self, engine: &str, read: &Read) {
        let now = self.now;
        let Some(Request {
            kind: Kind::Task(task),
            end: end @ None,
            ..
        }) = self.requests.get_mut(&read.parent)
        else {
            return;
        };
        if task.holder.as_deref() != Some(engine) {
            return;
        }
        task.holder = None;
        task.since = now;
        let ok = read.metadata["status"] == "ok";
        if read.metadata["dependencies_met"] == false {
            task.refused.insert(engine.into());
            task.was_refused = true;
        } else if !ok && task.retries > 0 {
            task.retries -= 1;
        } else {
            *end = Some(End::Replied {
                ok,
                engine: engine.into(),
            });
            self.recorded.insert(read.parent.clone(), true);
        }
        self.touched.insert(read.parent.clone());
    }

    fn direct_reply(&mut self, engine: &str, read: &Read) {
        let ok = read.metadata["status"] == "ok";
        if self
            .requests
            .get(&read.parent)
            .is_some_and(|r| r.end.is_none() && r.sent > 0)
        {
            self.end_direct(
                &read.parent,
                End::Replied {
                    ok,
                    engine: engine.into(),
                },
            );
        }
    }

    /// Ends a mux request or a copy, and with the last copy its gathering.
    fn end_direct(&mut self, id: &str, end: End) {
        let Some(request) = self.requests.get_mut(id) else {
            return;
        };
        request.end = Some(end);
        self.touched.insert(id.into());
        if let Some(finished) = self.recorded.get_mut(id) {
            *finished = true;
        }
        let Kind::Copy {
            gathering: Some(gathering),
            ..
        } = &request.kind
        else {
            return;
        };
        let gathering = gathering.clone();
        let Some(Request {
            kind: Kind::Gathering { copies },
            ..
        }) = self.requests.get(&gathering)
        else {
            return;
        };
        let ends: Vec<_> = copies
            .iter()
            .filter_map(|id| self.requests[id].end.clone())
            .collect();
        if ends.len() == copies.len() {
            let stranded = ends.contains(&End::Stranded);
            let end = if stranded { End::Stranded } else { End::Failed };
            self.touched.insert(gathering.clone());
            self.recorded.insert(gathering.clone(), true);
            if let Some(request) = self.requests.get_mut(&gathering) {
                request.end = Some(end);
            }
        }
    }

    /// The controller sent a request to an engine.
    pub fn sent_to_engine(&mut self, channel: Channel, engine: &str, congested: bool, read: &Read) {
        let id = &read.msg_id;
        assert!(
            self.announced.contains_key(engine),
            "{id} went to {engine}, which nobody knows"
        );
        assert!(!congested, "{id} went to {engine}, which is congested");
        if channel == Channel::TaskEngine {
            self.check_placement(id, engine);
        }
        let request = self
            .requests
            .get_mut(id)
            .unwrap_or_else(|| panic!("{id} is from nowhere"));
        assert_eq!(request.end, None, "{id} was sent after its end");
        request.sent += 1;
        match &mut request.kind {
            Kind::Task(task) => {
                assert_eq!(task.holder, None, "{id} was sent to two engines");
                task.holder = Some(engine.into());
            }
            Kind::Mux { engine: own } | Kind::Copy { engine: own, .. } => {
                assert_eq!((request.sent, own.as_str()), (1, engine), "{id}");
                if !matches!(
                    request.kind,
                    Kind::Copy {
                        gathering: Some(_),
                        ..
                    }
                ) {
                    self.recorded.insert(id.clone(), false);
                }
            }
            Kind::Gathering { .. } => panic!("{id} itself was sent to an engine"),
        }
    }

    fn check_placement(&self, id: &str, engine: &str) {
        let Some(Request {
            kind: Kind::Task(task),
            ..
        }) = self.requests.get(id)
        else {
            panic!("{id} is no task");
        };
        assert!(
            !task.refused.contains(engine),
            "{engine} refused {id} before"
        );
        assert!(
            task.targets.is_empty() || task.targets.contains(engine),
            "{id} is not for {engine}"
        );
        let outcome = |id: &String| match &self.requests.get(id)?.end {
            Some(End::Replied { ok, engine }) => Some((*ok, Some(engine.as_str()))),
            Some(End::Failed) => Some((false, None)),
            Some(End::Stranded | End::Lost) | None => None,
        };
        let after = |other: &String| outcome(other).is_some_and(|(ok, _)| task.after.counts(ok));
        assert!(
            task.after.is_met(after),
            "{id} came before what it is after"
        );
        let follow = |other: &String| {
            outcome(other).is_some_and(|(ok, at)| task.follow.counts(ok) && at == Some(engine))
        };
        assert!(
            task.follow.is_met(follow),
            "{id} does not follow to {engine}"
        );
    }

    /// The controller sent an answer to a request on one of the client channels.
    pub fn answered(&mut self, peer: PeerId, read: &Read) {
        let original = read.metadata["original_msg_id"].as_str();
        let gathered = original.filter(|_| read.metadata["is_coalescing"] == true);
        let id = gathered.unwrap_or(&read.parent).to_owned();
        let request = self
            .requests
            .get(&id)
            .unwrap_or_else(|| panic!("{id} was never asked"));
        assert_eq!(
            request.client,
            Some(peer),
            "the answer to {id} went to another client"
        );
        assert!(!request.answered, "{id} was answered twice");
        assert!(
            self.touched.contains(&id) || request.end.is_none(),
            "{id} was answered after its end"
        );
        if request.end.is_none() {
            assert!(!read.is_ok(), "{id} has a result from nowhere");
            match &request.kind {
                Kind::Task(task) => {
                    self.check_failure(&id, task, read.ename());
                    self.fail_task(&id);
                }
                Kind::Mux { .. } | Kind::Copy { .. } => {
                    assert_eq!(request.sent, 0, "{id} was refused, but the engine has it");
                    self.end_direct(&id, End::Failed);
                }
                Kind::Gathering { .. } => self.gathered_nothing(&id),
            }
        }
        if let Some(request) = self.requests.get_mut(&id) {
            request.answered = true;
        }
    }

    /// Copies of a gathering that could not be sent have failed; nobody says so one by one.
    fn gathered_nothing(&mut self, id: &str) {
        let Some(Request {
            kind: Kind::Gathering { copies },
            ..
        }) = self.requests.get(id)
        else {
            return;
        };
        for copy in copies.clone() {
            if self.requests[&copy].sent == 0 && self.requests[&copy].end.is_none() {
                self.end_direct(&copy, End::Failed);
            }
        }
        assert!(
            self.requests[id].end.is_some(),
            "{id} was answered before all engines did"
        );
    }

    fn check_failure(&self, id: &str, task: &Task, ename: &str) {
        assert_eq!(task.holder, None, "{id} failed ({ename}) while it ran");
        let ids = || task.after.ids.iter().chain(&task.follow.ids);
        let unknown =
            ids().any(|other| other == id || self.requests.get(other).is_none_or(|r| r.is_past));
        let fits = match ename {
            "EngineError" => task.doomed,
            "TaskTimeout" => task
                .timeout
                .is_some_and(|timeout| self.now >= task.since + timeout),
            "InvalidDependency" => unknown,
            "ImpossibleDependency" => ids().count() + task.targets.len() > 0 || task.was_refused,
            "ValueError" => task.is_resubmitted,
            _ => false,
        };
        assert!(fits, "{id} failed with {ename}: {task:?}");
    }

    fn fail_task(&mut self, id: &str) {
        if let Some(request) = self.requests.get_mut(id) {
            request.end = Some(End::Failed);
            self.touched.insert(id.into());
            self.recorded.insert(id.into(), true);
        }
    }

    /// A client that subscribes is told what was announced before, as far as it still holds.
    pub fn news_repeated(&self, read: &Read) {
        let uuid = read.content["uuid"].as_str().unwrap_or_default();
        let came = read.msg_type == "registration_notification";
        assert_eq!(
            self.announced.contains_key(uuid),
            came,
            "old news: {read:?}"
        );
    }

    pub fn notified(&mut self, read: &Read) {
        let uuid = read.content["uuid"].as_str().unwrap_or_default().to_owned();
        let id = read.content["id"].as_u64().unwrap_or_default();
        if read.msg_type == "registration_notification" {
            let taken = self.announced.values().any(|other| *other == id);
            assert!(!taken, "two engines have number {id}");
            assert!(self.announced.insert(uuid, id).is_none());
            return;
        }
        assert_eq!(self.announced.remove(&uuid), Some(id));
        let open: Vec<String> = self.open().map(|(id, _)| id.clone()).collect();
        for id in open {
            let now = self.now;
            let Some(request) = self.requests.get_mut(&id) else {
                continue;
            };
            if let Kind::Task(task) = &mut request.kind {
                // When it comes back, it is asked again.
                task.refused.remove(&uuid);
            }
            match &mut request.kind {
                Kind::Task(task) if task.holder.as_ref() == Some(&uuid) => {
                    task.holder = None;
                    task.since = now;
                    task.doomed = task.retries == 0;
                    task.retries = task.retries.saturating_sub(1);
                    self.touched.insert(id.clone());
                }
                Kind::Mux { engine } | Kind::Copy { engine, .. }
                    if *engine == uuid && request.sent > 0 =>
                {
                    self.end_direct(&id, End::Stranded);
                }
                _ => {}
            }
        }
    }

    /// The database on disk was told of a request; the only news of a resubmitted one.
    pub fn submitted(&mut self, id: &str, metadata: &Value) {
        if !self.requests.contains_key(id) {
            let mut task = Task::read(metadata, self.now);
            task.is_resubmitted = true;
            self.begin(id, None, Kind::Task(Box::new(task)));
            self.recorded.insert(id.into(), false);
        }
    }

    /// The database on disk was told of an end. For a client that left it is the only news of it.
    pub fn completed(&mut self, id: &str) {
        let Some(request) = self.requests.get(id) else {
            panic!("{id} ended, but never began");
        };
        if request.end.is_some() {
            return assert!(self.touched.contains(id), "{id} ended twice");
        }
        match &request.kind {
            Kind::Task(task) => {
                assert_eq!(task.holder, None, "{id} failed while it ran");
                self.fail_task(id);
            }
            Kind::Gathering { .. } => self.gathered_nothing(id),
            Kind::Mux { .. } | Kind::Copy { .. } => panic!("{id} ended without a cause"),
        }
    }

    pub fn executed(&mut self, channel: Channel, read: &Read, engine: &str) {
        let runs = self.executions.entry(read.msg_id.clone()).or_default();
        runs.push(engine.into());
        let sent = self.requests[&read.msg_id].sent;
        assert!(
            runs.len() <= sent,
            "{} ran {} times on {channel:?}",
            read.msg_id,
            runs.len()
        );
    }

    /// All that an event led to is known now.
    pub fn event_over(&mut self, is_connected: impl Fn(PeerId) -> bool) {
        for id in std::mem::take(&mut self.touched) {
            let request = &self.requests[&id];
            let is_gathered = matches!(
                request.kind,
                Kind::Copy {
                    gathering: Some(_),
                    ..
                }
            );
            match &request.end {
                None => {
                    assert!(!request.answered);
                    let doomed = matches!(&request.kind, Kind::Task(task) if task.doomed);
                    assert!(!doomed, "{id}: its engine is gone and nobody cares");
                    if let Kind::Mux { .. } | Kind::Copy { .. } = request.kind {
                        // A copy that could not be sent waits for the others of its gathering.
                        assert!(request.sent == 1 || is_gathered, "{id} went nowhere");
                        if request.sent == 0 {
                            self.end_direct(&id, End::Failed);
                        }
                    }
                }
                Some(End::Lost | End::Stranded) => assert!(!request.answered),
                Some(End::Replied { .. } | End::Failed) => {
                    let can = request.client.is_some_and(&is_connected) && !is_gathered;
                    assert!(!can || request.answered, "{id} has ended without an answer");
                }
            }
        }
        self.touched.clear();
    }

    /// Everything that was in the controller's memory is gone.
    pub fn crash(&mut self, saved: Option<&str>, keeps_records: bool) {
        for request in self.requests.values_mut() {
            request.end.get_or_insert(End::Lost);
            request.is_past = true;
        }
        self.announced.clear();
        self.queries.clear();
        self.touched.clear();
        if !keeps_records {
            self.recorded.clear();
        }
        let saved: Value = saved
            .and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default();
        let is_saved = |uuid: &String| {
            let registered = saved["engines"].as_object();
            registered.is_some_and(|all| all.values().any(|u| u == uuid.as_str()))
                || saved["absent"].get(uuid).is_some()
        };
        self.expected.retain(|uuid, _| is_saved(uuid));
    }

    fn asked(&mut self, read: &Read) {
        match &*read.msg_type {
            "registration_request" => return,
            "unregistration_request" => {
                self.expected
                    .retain(|_, id| read.content["id"].as_u64() != Some(*id));
                return;
            }
            "purge_request" => self.purge(&read.content),
            _ => {}
        }
        let query = Query {
            msg_type: read.msg_type.clone(),
            content: read.content.clone(),
            pending: self.open().map(|(id, _)| id.clone()).collect(),
            recorded: self.recorded.clone(),
        };
        self.queries.insert(read.msg_id.clone(), query);
    }

    fn purge(&mut self, content: &Value) {
        if content["msg_ids"] == "all" {
            self.recorded.retain(|_, finished| !*finished);
            return;
        }
        let ids: Vec<&str> = content["msg_ids"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let is_open = |id: &str| self.requests.get(id).is_some_and(|r| r.end.is_none());
        if !ids.iter().any(|id| is_open(id)) {
            self.recorded.retain(|id, _| !ids.contains(&id.as_str()));
        }
    }

    /// The hub answered: does it say what happened?
    pub fn hub_answered(&mut self, read: &Read) {
        let Some(query) = self.queries.remove(&read.parent) else {
            assert_eq!(read.msg_type, "registration_reply");
            if let (Some(id), Some(uuid)) =
                (read.content["id"].as_u64(), read.content["uuid"].as_str())
            {
                self.expected.insert(uuid.into(), id);
            }
            return;
        };
        self.checked_queries += 1;
        match &*query.msg_type {
            "connection_request" => {
                let engines: BTreeMap<String, u64> = read.content["engines"]
                    .as_object()
                    .into_iter()
                    .flatten()
                    .map(|(id, uuid)| {
                        (
                            uuid.as_str().unwrap_or_default().into(),
                            id.parse().unwrap_or(u64::MAX),
                        )
                    })
                    .collect();
                assert_eq!(engines, self.announced);
            }
            "queue_request" => self.check_queues(&query, read),
            "load_request" => {
                for (uuid, id) in &self.announced {
                    let load = self.queue_of(uuid).len() + self.tasks_of(Some(uuid)).len();
                    assert_eq!(read.content[id.to_string()], load, "load of {uuid}");
                }
            }
            "result_request" => check_results(&query, read),
            "history_request" => {
                let history: BTreeSet<&str> = texts(&read.content["history"]);
                let recorded: BTreeSet<&str> = query.recorded.keys().map(String::as_str).collect();
                assert_eq!(history, recorded, "history");
            }
            "db_request" => {
                let records = read.content["records"].as_array().into_iter().flatten();
                let found: BTreeSet<&str> = records.filter_map(|r| r["msg_id"].as_str()).collect();
                let finished = query.recorded.iter().filter(|(_, finished)| **finished);
                let finished: BTreeSet<&str> = finished.map(|(id, _)| id.as_str()).collect();
                assert_eq!(found, finished, "finished records");
            }
            "status_request" => {
                let waiting = self.tasks_of(None).len();
                assert_eq!(read.content["tasks"]["waiting"], waiting);
                let copy_without_engine = |request: &Request| {
                    matches!(request.kind, Kind::Copy { .. }) && request.sent == 0
                };
                let pending = self
                    .open()
                    .filter(|(_, request)| !copy_without_engine(request));
                assert_eq!(read.content["tasks"]["pending"], pending.count());
            }
            _ => {}
        }
    }

    fn check_queues(&self, query: &Query, read: &Read) {
        let count = |list: &Value, expected: BTreeSet<&str>, what: &str| {
            if query.content["verbose"] == true {
                assert_eq!(texts(list), expected, "{what}");
            } else {
                assert_eq!(list.as_u64(), Some(expected.len() as u64), "{what}");
            }
        };
        for (uuid, id) in &self.announced {
            // One that came after the question is not in the answer.
            let Some(queues) = read.content.get(id.to_string()) else {
                assert!(query.content["verbose"] == true, "{uuid} is not listed");
                continue;
            };
            count(&queues["queue"], self.queue_of(uuid), "queue");
            count(&queues["tasks"], self.tasks_of(Some(uuid)), "tasks");
        }
        count(
            &read.content["unassigned"],
            self.tasks_of(None),
            "unassigned",
        );
    }

    fn queue_of(&self, uuid: &str) -> BTreeSet<&str> {
        let own = self.open().filter(|(_, request)| match &request.kind {
            Kind::Mux { engine } | Kind::Copy { engine, .. } => engine == uuid && request.sent > 0,
            Kind::Task(_) | Kind::Gathering { .. } => false,
        });
        own.map(|(id, _)| id.as_str()).collect()
    }

    fn tasks_of(&self, uuid: Option<&str>) -> BTreeSet<&str> {
        let own = self.open().filter(
            |(_, request)| matches!(&request.kind, Kind::Task(task) if task.holder.as_deref() == uuid),
        );
        own.map(|(id, _)| id.as_str()).collect()
    }
}

fn check_results(query: &Query, read: &Read) {
    let asked = texts(&query.content["msg_ids"]);
    let pending: BTreeSet<&str> = asked
        .iter()
        .filter(|id| query.pending.contains(**id))
        .copied()
        .collect();
    let known = |id: &&&str| query.recorded.get(**id) == Some(&true);
    let finished: BTreeSet<&str> = asked.iter().filter(known).copied().collect();
    if asked
        .iter()
        .all(|id| pending.contains(id) || finished.contains(id))
    {
        assert_eq!(
            texts(&read.content["pending"]),
            pending,
            "pending: {read:?}"
        );
        let completed = finished.difference(&pending).copied().collect();
        assert_eq!(texts(&read.content["completed"]), completed, "completed");
    } else {
        assert_eq!(read.ename(), "KeyError", "{read:?}");
    }
}

fn texts(list: &Value) -> BTreeSet<&str> {
    list.as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

impl Task {
    fn read(metadata: &Value, now: Duration) -> Self {
        Self {
            after: Dependency::read(&metadata["after"]),
            follow: Dependency::read(&metadata["follow"]),
            targets: texts(&metadata["targets"])
                .into_iter()
                .map(str::to_owned)
                .collect(),
            timeout: metadata["timeout"].as_f64().map(Duration::from_secs_f64),
            retries: metadata["retries"].as_u64().unwrap_or(0),
            since: now,
            ..Self::default()
        }
    }
}

impl Dependency {
    fn read(value: &Value) -> Self {
        let flag = |key: &str, default| value[key].as_bool().unwrap_or(default);
        let ids = if value.is_array() {
            value
        } else {
            &value["dependencies"]
        };
        Self {
            ids: texts(ids).into_iter().map(str::to_owned).collect(),
            all: flag("all", true),
            success: flag("success", true),
            failure: flag("failure", false),
        }
    }

    fn counts(&self, ok: bool) -> bool {
        if ok { self.success } else { self.failure }
    }

    fn is_met(&self, is_relevant: impl Fn(&String) -> bool) -> bool {
        let mut ids = self.ids.iter();
        self.ids.is_empty()
            || if self.all {
                ids.all(is_relevant)
            } else {
                ids.any(is_relevant)
            }
    }
}
