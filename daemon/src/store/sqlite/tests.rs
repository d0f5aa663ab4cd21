//! The store as the controller uses it, on real files.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use bytes::Bytes;
use piparallel_core::ids::{EngineUuid, MsgId};
use piparallel_core::task_db::memory::{MemoryDb, MemoryLimits};
use piparallel_core::task_db::output::Output;
use piparallel_core::task_db::parts::Parts;
use piparallel_core::task_db::query::Find;
use piparallel_core::task_db::record::{Queue as Route, Reply, TaskRecord};
use piparallel_core::task_db::{Purge, Results};
use piparallel_core::wire::date;
use rusqlite::Connection;
use serde_json::{Value, json};

use super::*;

/// Longer than anything here takes; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(30);

struct Fixture {
    dir: tempfile::TempDir,
    store: Option<SqliteStore>,
    replies: Receiver<(Ticket, DbReply)>,
}

impl Fixture {
    fn new() -> Self {
        Self::at(tempfile::tempdir().unwrap(), |_| {})
    }

    fn at(dir: tempfile::TempDir, change: impl Fn(&mut SqliteConfig)) -> Self {
        let mut config = config(dir.path());
        change(&mut config);
        let (sender, replies) = mpsc::channel();
        let store = SqliteStore::start(config, move |ticket, reply| {
            sender.send((ticket, reply)).unwrap();
        });
        Self {
            dir,
            store: Some(store.unwrap()),
            replies,
        }
    }

    fn reopen(mut self, change: impl Fn(&mut SqliteConfig)) -> Self {
        // What waits is written.
        self.store = None;
        Self::at(self.dir, change)
    }

    fn store(&self) -> &SqliteStore {
        self.store.as_ref().unwrap()
    }

    fn ask(&self, request: DbRequest) -> DbReply {
        self.store().ask(Ticket(7), request).unwrap();
        let (ticket, reply) = self.replies.recv_timeout(PATIENCE).unwrap();
        assert_eq!(ticket, Ticket(7));
        reply
    }

    fn content(&self, request: DbRequest) -> (Value, Vec<Bytes>) {
        match self.ask(request) {
            DbReply::Content { content, buffers } => {
                (serde_json::from_slice(&content).unwrap(), buffers)
            }
            other => panic!("no content: {other:?}"),
        }
    }

    fn history(&self) -> Vec<String> {
        let (content, _) = self.content(DbRequest::History);
        serde_json::from_value(content["history"].clone()).unwrap()
    }

    fn run(&self, msg_id: &str, at: i64) {
        self.store()
            .record(submit(msg_id, at, &json!(null), b"code"));
        self.store().record(complete(msg_id, at + 1, b"result"));
    }
}

fn config(dir: &Path) -> SqliteConfig {
    SqliteConfig::new(&dir.join(DEFAULT_FILENAME), DEFAULT_TABLE)
}

fn submit(msg_id: &str, at: i64, label: &Value, buffer: &'static [u8]) -> DbOp {
    let header = json!({"msg_id": msg_id, "date": date::format(at)}).to_string();
    let metadata = json!({ "label": label }).to_string();
    let buffers = [Bytes::from_static(buffer)];
    DbOp::Submit(Box::new(TaskRecord {
        request: Some(Parts::new(
            &header.into(),
            &metadata.into(),
            &"{}".into(),
            &buffers,
        )),
        submitted: Some(at),
        client_uuid: Some(Arc::from("client")),
        queue: Some(Route::Task),
        ..TaskRecord::empty(MsgId::new(msg_id))
    }))
}

fn complete(msg_id: &str, at: i64, buffer: &'static [u8]) -> DbOp {
    let engine = EngineUuid::new(if at % 2 == 0 { "even" } else { "odd" });
    let metadata = json!({"started": date::format(at - 1)}).to_string();
    let buffers = [Bytes::from_static(buffer)];
    let reply = Reply {
        parts: Parts::new(
            &"{}".into(),
            &metadata.into(),
            &r#"{"status":"ok"}"#.into(),
            &buffers,
        ),
        ..Reply::failure(&Bytes::new(), Some(engine), at)
    };
    let msg_id = MsgId::new(msg_id);
    DbOp::Complete { msg_id, reply }
}

fn stdout(msg_id: &str, text: &str) -> DbOp {
    let (msg_id, output) = (MsgId::new(msg_id), Output::Stdout(text.to_owned()));
    DbOp::Output { msg_id, output }
}

fn results(msg_ids: &[&str]) -> DbRequest {
    DbRequest::Results(Results {
        msg_ids: msg_ids.iter().map(|id| MsgId::new(id)).collect(),
        ..Results::default()
    })
}

fn find(query: &Value) -> DbRequest {
    let content = json!({"query": query, "keys": ["msg_id", "stdout", "label", "buffers"]});
    DbRequest::Find(Find::parse(content.to_string().as_bytes()).unwrap())
}

#[test]
fn what_is_recorded_is_found_and_survives_a_restart() {
    let fixture = Fixture::new();
    fixture.run("b", 20);
    fixture.run("a", 10);
    assert_eq!(fixture.history(), ["a", "b"]);
    fixture
        .store()
        .record(stdout("a", "after the first transaction\n"));
    let fixture = fixture.reopen(|_| {});
    fixture.store().record(stdout("a", "after the restart\n"));
    let (content, buffers) = fixture.content(results(&["b", "a"]));
    assert_eq!(content["completed"], json!(["a", "b"]));
    assert_eq!(
        content["a"]["io"]["stdout"],
        "after the first transaction\nafter the restart\n"
    );
    assert_eq!(content["a"]["received"], "1970-01-01T00:00:00.000011Z");
    assert_eq!(buffers, ["result", "result"]);
    assert_eq!(fixture.store().status().records, 2);
}

#[test]
fn each_transaction_adds_to_the_record_of_the_one_before() {
    let fixture = Fixture::new();
    fixture
        .store()
        .record(submit("a", 1, &json!("label"), b"code"));
    assert_eq!(fixture.history(), ["a"]);
    let engine = EngineUuid::new("e1");
    fixture.store().record(DbOp::Assign {
        msg_id: MsgId::new("a"),
        engine,
    });
    fixture.history();
    let new = MsgId::new("b");
    fixture.store().record(DbOp::Resubmitted {
        old: MsgId::new("a"),
        new,
    });
    fixture.history();
    fixture.store().record(complete("a", 5, b"first"));
    fixture.history();
    fixture.store().record(complete("a", 6, b"second"));
    let (content, _) = fixture.content(find(&json!({
        "label": "label", "resubmitted": "b", "engine_uuid": "even", "started": {"$exists": true}
    })));
    assert_eq!(content["records"][0]["label"], "label");
    let (content, buffers) = fixture.content(results(&["a"]));
    assert_eq!(
        (content["completed"].clone(), buffers),
        (json!(["a"]), vec!["second".into()])
    );
    let DbReply::Requests(requests) = fixture.ask(DbRequest::Requests(vec![MsgId::new("a")]))
    else {
        panic!("not the request");
    };
    assert_eq!(requests[0].buffers, ["code"]);
}

#[test]
fn changes_are_on_disk_soon_and_an_unclean_stop_keeps_them() {
    let fixture = Fixture::new();
    fixture.run("a", 1);
    let path = fixture.dir.path().join(DEFAULT_FILENAME);
    let reader = Connection::open(&path).unwrap();
    let deadline = std::time::Instant::now() + PATIENCE;
    let count = || -> i64 {
        let sql = r#"SELECT count(*) FROM "piparallel-tasks""#;
        reader.query_row(sql, [], |row| row.get(0)).unwrap()
    };
    while count() == 0 {
        assert!(std::time::Instant::now() < deadline, "nothing was written");
        std::thread::sleep(Duration::from_millis(5));
    }
    // A process that is killed leaves just these files, with no farewell to SQLite.
    let crashed = tempfile::tempdir().unwrap();
    for name in ["tasks.db", "tasks.db-wal"] {
        std::fs::copy(fixture.dir.path().join(name), crashed.path().join(name)).unwrap();
    }
    let fixture = Fixture::at(crashed, |_| {});
    assert_eq!(fixture.history(), ["a"]);
    assert_eq!(fixture.content(results(&["a"])).1, ["result"]);
}

#[test]
fn an_unknown_id_and_an_unfinished_task_are_errors() {
    let fixture = Fixture::new();
    let DbReply::Failed(unknown) = fixture.ask(results(&["x"])) else {
        panic!("found x");
    };
    assert_eq!(unknown.to_string(), "No such message: 'x'");
    fixture.store().record(submit("a", 1, &json!(null), b""));
    let fixture = fixture.reopen(|_| {});
    let unfinished = DbReply::Failed(DbError::Unfinished(MsgId::new("a")));
    assert_eq!(fixture.ask(results(&["a"])), unfinished);
}

#[test]
fn the_oldest_finished_records_make_room() {
    let fixture = Fixture::at(tempfile::tempdir().unwrap(), |config| {
        config.records_max = 10
    });
    fixture
        .store()
        .record(submit("pending", 0, &json!(null), b""));
    for n in 0..30 {
        fixture.run(&format!("{n:02}"), n);
        fixture.history();
    }
    let history = fixture.history();
    assert_eq!(history.len(), 10);
    assert_eq!(
        (history[0].as_str(), history[1].as_str()),
        ("pending", "21")
    );
    assert_eq!(fixture.store().status().culled, 21);
    let path = fixture.dir.path().join(DEFAULT_FILENAME);
    let sql = r#"SELECT count(*) FROM "piparallel-tasks-buffers""#;
    let buffers: i64 = Connection::open(path)
        .unwrap()
        .query_row(sql, [], |row| row.get(0))
        .unwrap();
    assert_eq!(buffers, 19, "buffers go with their records");
}

#[test]
fn purging_forgets_and_reports_what_was_not_there() {
    let fixture = Fixture::new();
    for (n, msg_id) in (0..).zip(["a", "b", "c"]) {
        fixture.run(msg_id, n);
    }
    fixture
        .store()
        .record(submit("pending", 9, &json!(null), b""));
    let msg_ids = vec![MsgId::new("a"), MsgId::new("x")];
    let reply = fixture.ask(DbRequest::Purge(Purge {
        msg_ids,
        ..Purge::default()
    }));
    assert_eq!(
        reply,
        DbReply::Purged {
            missing: vec![MsgId::new("x")]
        }
    );
    let engines = vec![EngineUuid::new("even")];
    fixture.ask(DbRequest::Purge(Purge {
        engines,
        ..Purge::default()
    }));
    assert_eq!(fixture.history(), ["c", "pending"]);
    fixture.ask(DbRequest::Purge(Purge {
        all_finished: true,
        ..Purge::default()
    }));
    assert_eq!(fixture.history(), ["pending"]);
    assert_eq!(fixture.store().status().records, 1);
}

#[test]
fn a_newer_file_or_a_strange_table_is_refused_at_the_start() {
    let fixture = Fixture::new();
    let path = fixture.dir.path().join(DEFAULT_FILENAME);
    let dir = fixture.dir;
    drop(fixture.store);
    Connection::open(&path)
        .unwrap()
        .pragma_update(None, "user_version", 99)
        .unwrap();
    let error = SqliteStore::start(config(dir.path()), |_, _| {}).unwrap_err();
    assert!(
        error.to_string().contains("written by a newer piparallel"),
        "{error}"
    );
    let strange = SqliteConfig {
        table: "a\"b".to_owned(),
        ..config(dir.path())
    };
    assert!(SqliteStore::start(strange, |_, _| {}).is_err());
}

#[test]
fn a_damaged_file_turns_recording_off_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join(DEFAULT_FILENAME),
        "no database at all ".repeat(100),
    )
    .unwrap();
    let fixture = Fixture::at(dir, |_| {});
    fixture.run("a", 1);
    let DbReply::Failed(error) = fixture.ask(DbRequest::History) else {
        panic!("an answer from a damaged file");
    };
    assert!(
        error
            .to_string()
            .contains("is damaged, or no SQLite file: move it away"),
        "{error}"
    );
    let status = fixture.store().status();
    assert!(status.off.is_some());
    assert_eq!(status.ops_dropped, 1, "one task");
}

#[test]
fn a_missing_directory_turns_recording_off_and_it_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::at(dir, |config| {
        config.path = config.path.parent().unwrap().join("later/tasks.db");
    });
    let off = fixture.store().status().off.unwrap();
    assert!(off.contains("check that its directory exists"), "{off}");
    std::fs::create_dir(fixture.dir.path().join("later")).unwrap();
    let deadline = std::time::Instant::now() + PATIENCE;
    while fixture.store().status().off.is_some() {
        assert!(std::time::Instant::now() < deadline, "it did not come back");
        std::thread::sleep(Duration::from_millis(50));
    }
    fixture.run("a", 1);
    assert_eq!(fixture.history(), ["a"]);
}

#[test]
fn a_disk_that_fails_later_turns_recording_off() {
    let fixture = Fixture::new();
    fixture.run("a", 1);
    fixture.history();
    let path = fixture.dir.path().join(DEFAULT_FILENAME);
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    fixture.run("b", 2);
    let DbReply::Failed(error) = fixture.ask(DbRequest::History) else {
        panic!("an answer while another program has the lock");
    };
    assert!(
        error.to_string().contains("is locked by another program"),
        "{error}"
    );
    assert!(fixture.store().status().off.is_some());
}

#[test]
fn a_profile_that_cannot_be_written_is_said_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("closed");
    std::fs::create_dir(&path).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o500)).unwrap();
    let unprivileged = std::fs::write(path.join("probe"), "").is_err();
    let fixture = Fixture::at(dir, |config| config.path = path.join("tasks.db"));
    let off = fixture.store().status().off;
    assert_eq!(
        off.is_some(),
        unprivileged,
        "root may write anywhere: {off:?}"
    );
    assert!(!off.unwrap_or_default().contains('\n'));
}

#[test]
fn a_full_queue_neither_blocks_nor_hides_what_it_drops() {
    let fixture = Fixture::at(tempfile::tempdir().unwrap(), |config| {
        config.queue_ops_max = 40
    });
    let path = fixture.dir.path().join(DEFAULT_FILENAME);
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let before = std::time::Instant::now();
    for n in 0..100 {
        fixture.run(&n.to_string(), n);
        fixture.store().record(stdout("0", "x"));
    }
    assert!(
        before.elapsed() < Duration::from_secs(1),
        "recording waited for the disk"
    );
    let status = fixture.store().status();
    assert!(
        status.outputs_dropped > 0 && status.buffers_dropped > 0,
        "{status:?}"
    );
    assert!(status.ops_dropped >= 100, "{status:?}");
    other.execute_batch("COMMIT").unwrap();
    let history = fixture.history();
    assert!(
        !history.is_empty() && history.len() < 60,
        "{}",
        history.len()
    );
}

/// A small generator of our own: what matters is many combinations, the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    fn pick<T: Clone, const N: usize>(&mut self, list: [T; N]) -> T {
        let index = self.roll(N as u64);
        list[usize::try_from(index).unwrap()].clone()
    }

    fn op(&mut self) -> DbOp {
        let msg_id = format!("task-{}", self.roll(20));
        let at = i64::try_from(self.roll(8)).unwrap();
        let labels = [
            json!(null),
            json!("x"),
            json!("é\"*"),
            json!(3),
            json!(2.5),
            json!(["x"]),
        ];
        match self.roll(10) {
            0..4 => submit(
                &msg_id,
                at,
                &self.pick(labels),
                self.pick([&b"a"[..], b"bc", b""]),
            ),
            4..8 => complete(&msg_id, at, self.pick([&b"r"[..], b"longer result"])),
            8 => stdout(&msg_id, self.pick(["a", "b\n", "[x]", ""])),
            _ => DbOp::Resubmitted {
                old: MsgId::new(&msg_id),
                new: MsgId::new("task-new"),
            },
        }
    }

    fn query(&mut self) -> Value {
        let mut query = serde_json::Map::new();
        for _ in 0..self.roll(4) {
            let (field, test) = self.test();
            query.insert(field.to_owned(), test);
        }
        Value::Object(query)
    }

    fn test(&mut self) -> (&'static str, Value) {
        let text = self.pick(["task-1", "task-7", "even", "task-new", "a", "", "task", "x"]);
        let text_field = self.pick(["msg_id", "engine_uuid", "resubmitted", "stdout", "queue"]);
        let date = date::format(i64::try_from(self.roll(8)).unwrap());
        let date_field = self.pick(["submitted", "completed", "started", "received"]);
        let order = self.pick(["$lt", "$lte", "$gt", "$gte", "$eq", "$ne"]);
        let list = self.pick(["$in", "$nin"]);
        match self.roll(12) {
            0 => (text_field, json!(text)),
            1 => (text_field, json!({ order: text })),
            2 => (text_field, json!({ list: [text, "task-3", "odd", null] })),
            3 => (text_field, json!({ list: [text, "task-4", "task-5"] })),
            4 => (
                text_field,
                json!({ "$glob": self.pick(["task-?", "*e*", "[!o]*", "*[[]x]*", "a*"]) }),
            ),
            5 => (date_field, json!({ order: date })),
            6 => (date_field, json!({ list: [date, date::format(3)] })),
            7 => (date_field, json!({ "$exists": self.roll(2) == 0 })),
            8 => (text_field, json!(null)),
            9 => ("label", json!({ list: ["x", "é\"*"] })),
            10 => (
                "label",
                self.pick([json!(3), json!({"$gt": 2}), json!({"$mod": [2, 1]})]),
            ),
            _ => ("result_content", json!({ "$eq": {"status": "ok"} })),
        }
    }
}

#[test]
fn disk_and_memory_agree_on_random_tasks_and_queries() {
    for seed in 0..8 {
        let mut dice = Dice(seed);
        let fixture = Fixture::new();
        let mut memory = MemoryDb::new(MemoryLimits::default());
        for _ in 0..60 {
            let op = dice.op();
            memory.apply(op.clone());
            fixture.store().record(op);
            let query = dice.query();
            let on_disk = fixture.ask(find(&query));
            assert_eq!(
                on_disk,
                memory.answer(find(&query)),
                "seed {seed}, query {query}"
            );
        }
        let all = || {
            let find = Find::parse(b"{\"query\": {}}").unwrap();
            DbRequest::Find(find)
        };
        assert_eq!(
            fixture.content(all()).0,
            match memory.answer(all()) {
                DbReply::Content { content, .. } =>
                    serde_json::from_slice::<Value>(&content).unwrap(),
                other => panic!("no content: {other:?}"),
            }
        );
        assert_eq!(
            fixture.ask(DbRequest::History),
            memory.answer(DbRequest::History)
        );
    }
}
