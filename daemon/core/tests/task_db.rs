//! The task database by its public interface: what the hub tells it, what clients get to see.

#![expect(
    clippy::unwrap_used,
    reason = "in the functions that the tests share, too"
)]

use std::sync::Arc;

use bytes::Bytes;
use piparallel_core::ids::{EngineUuid, MsgId};
use piparallel_core::task_db::memory::{MemoryDb, MemoryLimits};
use piparallel_core::task_db::output::Output;
use piparallel_core::task_db::parts::Parts;
use piparallel_core::task_db::query::{Find, Query};
use piparallel_core::task_db::record::{Queue, Reply, TaskRecord};
use piparallel_core::task_db::{DbError, DbOp, DbReply, DbRequest, Purge, Results};
use piparallel_core::wire::date;
use proptest::prelude::*;
use serde_json::{Value, json};

const SECOND: i64 = 1_000_000;

fn id(text: &str) -> MsgId {
    MsgId::new(text)
}

fn engine(text: &str) -> EngineUuid {
    EngineUuid::new(text)
}

fn db() -> MemoryDb {
    MemoryDb::new(MemoryLimits::default())
}

fn request(msg_id: &str, submitted: i64, label: &Value, buffers: &[Bytes]) -> TaskRecord {
    let date = date::format(submitted);
    let header = json!({"msg_id": msg_id, "session": "client", "date": date}).to_string();
    let metadata = json!({ "label": label }).to_string();
    TaskRecord {
        request: Some(Parts::new(
            &header.into(),
            &metadata.into(),
            &"{}".into(),
            buffers,
        )),
        submitted: Some(submitted),
        client_uuid: Some(Arc::from("client")),
        queue: Some(Queue::Task),
        ..TaskRecord::empty(id(msg_id))
    }
}

fn submit(db: &mut MemoryDb, msg_id: &str, submitted: i64) {
    let record = request(msg_id, submitted, &Value::Null, &["code".into()]);
    db.apply(DbOp::Submit(Box::new(record)));
}

fn reply(by: Option<&str>, completed: i64, buffers: &[Bytes]) -> Reply {
    let header = json!({"msg_type": "apply_reply", "date": date::format(completed)}).to_string();
    let metadata = json!({"started": date::format(completed - SECOND), "engine": by}).to_string();
    let content = Bytes::from(r#"{"status":"ok"}"#);
    Reply {
        parts: Parts::new(&header.into(), &metadata.into(), &content, buffers),
        completed,
        received: completed,
        engine: by.map(engine),
        request_header: Bytes::new(),
    }
}

fn complete(db: &mut MemoryDb, msg_id: &str, completed: i64) {
    let reply = reply(Some("e1"), completed, &["result".into()]);
    db.apply(DbOp::Complete {
        msg_id: id(msg_id),
        reply,
    });
}

fn content(reply: DbReply) -> (Value, Vec<Bytes>) {
    match reply {
        DbReply::Content { content, buffers } => {
            (serde_json::from_slice(&content).unwrap(), buffers)
        }
        other => panic!("no content: {other:?}"),
    }
}

fn find(db: &mut MemoryDb, request: &Value) -> (Value, Vec<Bytes>) {
    let find = Find::parse(request.to_string().as_bytes()).unwrap();
    content(db.answer(DbRequest::Find(find)))
}

fn found(db: &mut MemoryDb, query: &Value) -> Vec<String> {
    let (content, _) = find(db, &json!({"query": query, "keys": ["msg_id"]}));
    let records = content["records"].as_array().unwrap().clone();
    records
        .iter()
        .map(|r| r["msg_id"].as_str().unwrap().to_owned())
        .collect()
}

fn results(db: &mut MemoryDb, msg_ids: &[&str]) -> DbReply {
    db.answer(DbRequest::Results(Results {
        msg_ids: msg_ids.iter().map(|text| id(text)).collect(),
        ..Results::default()
    }))
}

fn failure(reply: DbReply) -> DbError {
    match reply {
        DbReply::Failed(error) => error,
        other => panic!("no failure: {other:?}"),
    }
}

#[test]
fn a_record_has_the_fields_that_stock_clients_read() {
    let mut db = db();
    let record = request("a", 7, &json!("label"), &["x".into(), "yz".into()]);
    db.apply(DbOp::Submit(Box::new(record)));
    db.apply(DbOp::Assign {
        msg_id: id("a"),
        engine: engine("e1"),
    });
    db.apply(DbOp::Output {
        msg_id: id("a"),
        output: Output::Stdout("1\n".into()),
    });
    db.apply(DbOp::Output {
        msg_id: id("a"),
        output: Output::Stdout("2\n".into()),
    });
    let (pending, _) = find(&mut db, &json!({"query": {}, "keys": null}));
    assert_eq!(pending["records"][0]["completed"], Value::Null);
    complete(&mut db, "a", 3 * SECOND);
    db.apply(DbOp::Resubmitted {
        old: id("a"),
        new: id("b"),
    });

    let (content, buffers) = find(&mut db, &json!({"query": {"msg_id": "a"}}));
    assert_eq!(buffers.len(), 0);
    assert_eq!(content["buffer_lens"], Value::Null);
    assert_eq!(
        content["records"][0],
        json!({
            "msg_id": "a",
            "header": {"msg_id": "a", "session": "client", "date": "1970-01-01T00:00:00.000007Z"},
            "metadata": {"label": "label"}, "content": {}, "label": "label",
            "submitted": "1970-01-01T00:00:00.000007Z", "started": "1970-01-01T00:00:02.000000Z",
            "completed": "1970-01-01T00:00:03.000000Z", "received": "1970-01-01T00:00:03.000000Z",
            "client_uuid": "client", "engine_uuid": "e1", "resubmitted": "b", "queue": "task",
            "result_header": {"msg_type": "apply_reply", "date": "1970-01-01T00:00:03.000000Z"},
            "result_metadata": {"started": "1970-01-01T00:00:02.000000Z", "engine": "e1"},
            "result_content": {"status": "ok"}, "execute_input": null, "execute_result": null,
            "error": null, "stdout": "1\n2\n", "stderr": "",
        })
    );

    let keys = json!({"query": {}, "keys": ["result_buffers", "buffers"]});
    let (content, buffers) = find(&mut db, &keys);
    assert_eq!(content["records"], json!([{"msg_id": "a"}]));
    assert_eq!(
        (&content["buffer_lens"], &content["result_buffer_lens"]),
        (&json!([2]), &json!([1]))
    );
    assert_eq!(buffers, ["x", "yz", "result"]);
}

#[test]
fn greater_is_not_less_and_two_plain_fields_both_count() {
    let mut db = db();
    for (i, msg_id) in (0..).zip(["a", "b", "c"]) {
        submit(&mut db, msg_id, i * SECOND);
    }
    let tic = date::format(SECOND);
    assert_eq!(found(&mut db, &json!({"submitted": {"$gt": tic}})), ["c"]);
    assert_eq!(found(&mut db, &json!({"submitted": {"$lt": tic}})), ["a"]);
    assert_eq!(
        found(&mut db, &json!({"submitted": {"$gte": tic, "$lte": tic}})),
        ["b"]
    );
    assert_eq!(
        found(&mut db, &json!({"submitted": "1970-01-01T01:00:01+01:00"})),
        ["b"]
    );
    assert_eq!(
        found(&mut db, &json!({"queue": "task", "msg_id": "c"})),
        ["c"]
    );
    assert_eq!(
        found(&mut db, &json!({"msg_id": "c", "queue": "mux"})),
        [""; 0]
    );
    assert_eq!(found(&mut db, &json!({"msg_id": null})), [""; 0]);
    assert_eq!(
        found(&mut db, &json!({"msg_id": {"$in": ["c", "a", "x"]}})),
        ["a", "c"]
    );
}

#[test]
fn all_takes_lists_texts_and_lists_in_the_record() {
    let mut db = db();
    let labelled = [
        ("a", json!("red")),
        ("b", json!(["red", 1])),
        ("c", json!(null)),
    ];
    for (msg_id, label) in labelled {
        db.apply(DbOp::Submit(Box::new(request(msg_id, 0, &label, &[]))));
    }
    let all = |operands: Value| json!({"label": {"$all": operands}});
    assert_eq!(
        found(&mut db, &all(json!([["red"], ["blue", "red"]]))),
        ["a"]
    );
    assert_eq!(found(&mut db, &all(json!(["bored", "red"]))), ["a"]);
    assert_eq!(found(&mut db, &all(json!(["red", 1.0]))), ["b"]);
    assert_eq!(found(&mut db, &all(json!([]))), ["a", "b", "c"]);
    assert_eq!(found(&mut db, &json!({"label": {"$glob": "r?d"}})), ["a"]);
}

#[test]
fn remainders_have_the_sign_of_the_divisor() {
    let mut db = db();
    for (msg_id, label) in [("a", json!(-7)), ("b", json!(8)), ("c", json!("8"))] {
        db.apply(DbOp::Submit(Box::new(request(msg_id, 0, &label, &[]))));
    }
    assert_eq!(
        found(&mut db, &json!({"label": {"$mod": [3, 2]}})),
        ["a", "b"]
    );
    assert_eq!(
        found(&mut db, &json!({"label": {"$mod": [-3, -1]}})),
        ["a", "b"]
    );
}

#[test]
fn query_errors_name_the_place_and_what_there_is() {
    let error = |query: Value| Query::parse(query.to_string().as_bytes()).unwrap_err();
    let e = error(json!({"submited": null}));
    assert_eq!(e.ename(), "KeyError");
    assert!(
        e.to_string()
            .starts_with("no field 'submited' in a task record; there are msg_id")
    );
    let e = error(json!({"queue": {"$like": "m"}}));
    assert_eq!(e.ename(), "KeyError");
    assert!(
        e.to_string()
            .starts_with("no operator '$like' (field 'queue'); there are $eq")
    );
    for (query, expected) in [
        (
            json!({"completed": {"$lt": "soon"}}),
            "$lt of 'completed' needs a date like",
        ),
        (
            json!({"msg_id": {"$in": "a"}}),
            "$in of 'msg_id' needs a list",
        ),
        (
            json!({"engine_uuid": 0}),
            "$eq of 'engine_uuid' needs text or null",
        ),
        (
            json!({"buffers": ["x"]}),
            "$eq of 'buffers' needs null: buffers can only",
        ),
        (
            json!({"label": {"$mod": [0, 1]}}),
            "$mod of 'label' needs [divisor, remainder]",
        ),
        (
            json!({"submitted": {"$glob": "2026*"}}),
            "$glob of 'submitted' needs a field with text",
        ),
        (
            json!(["a"]),
            "a database query is an object like {\"completed\": null}",
        ),
    ] {
        let e = error(query).to_string();
        assert!(e.starts_with(expected), "{e}");
    }
    let bad_key = Find::parse(br#"{"query": {}, "keys": ["size"]}"#).unwrap_err();
    assert!(bad_key.to_string().starts_with("no field 'size'"));
    assert!(Find::parse(b"[").is_err());
}

#[test]
fn results_come_in_sorted_order_with_their_buffers() {
    let mut db = db();
    for msg_id in ["b", "a"] {
        submit(&mut db, msg_id, 0);
        let reply = reply(Some("e1"), SECOND, &[msg_id.to_uppercase().into()]);
        db.apply(DbOp::Complete {
            msg_id: id(msg_id),
            reply,
        });
    }
    let (content, buffers) = content(db.answer(DbRequest::Results(Results {
        pending: vec![id("z"), id("p")],
        msg_ids: vec![id("b"), id("a"), id("p")],
        status_only: false,
    })));
    assert_eq!(content["pending"], json!(["p", "z"]));
    assert_eq!(content["completed"], json!(["a", "b"]));
    assert_eq!(buffers, ["A", "B"]);
    assert_eq!(content["a"]["header"]["msg_id"], "a");
    assert_eq!(content["a"]["result_content"], json!({"status": "ok"}));
    assert_eq!(content["a"]["received"], "1970-01-01T00:00:01.000000Z");
    assert_eq!(
        content["a"]["io"],
        json!({"execute_input": null, "execute_result": null, "error": null, "stdout": "", "stderr": ""})
    );
}

#[test]
fn a_result_that_will_never_come_is_an_error() {
    let mut db = db();
    submit(&mut db, "lost", 0);
    let unknown = failure(results(&mut db, &["x"]));
    assert_eq!(
        (unknown.ename(), unknown.to_string().as_str()),
        ("KeyError", "No such message: 'x'")
    );
    let lost = failure(results(&mut db, &["lost"]));
    assert_eq!(lost, DbError::Unfinished(id("lost")));
}

#[test]
fn the_oldest_finished_records_are_culled_and_pending_ones_stay() {
    let mut db = MemoryDb::new(MemoryLimits {
        records: 3,
        bytes: 1 << 20,
    });
    submit(&mut db, "pending", 0);
    for i in 0..5 {
        submit(&mut db, &i.to_string(), 1 + i);
    }
    for i in (0..5).rev() {
        complete(&mut db, &i.to_string(), SECOND);
        db.check_invariants();
    }
    assert_eq!(
        found(&mut db, &json!({})),
        ["pending", "0", "1", "2"],
        "finished last"
    );
    assert_eq!(db.status().culled, 2);
    let culled = failure(results(&mut db, &["4"])).to_string();
    assert!(
        culled.contains("among the 2 oldest records, which were culled"),
        "{culled}"
    );
}

#[test]
fn a_result_larger_than_the_database_is_an_error_of_its_own() {
    let mut db = MemoryDb::new(MemoryLimits {
        records: 10,
        bytes: 100_000,
    });
    for msg_id in ["big", "small"] {
        submit(&mut db, msg_id, 0);
        complete(&mut db, msg_id, SECOND);
    }
    let huge = reply(Some("e1"), SECOND, &[Bytes::from(vec![0; 200_000])]);
    db.apply(DbOp::Complete {
        msg_id: id("big"),
        reply: huge,
    });
    db.check_invariants();
    let (content, buffers) = content(results(&mut db, &["big", "small"]));
    assert_eq!(content["big"]["result_content"]["ename"], "KeyError");
    let evalue = content["big"]["result_content"]["evalue"].as_str().unwrap();
    assert!(
        evalue.contains("'big' (200000 bytes) was larger than the task database"),
        "{evalue}"
    );
    assert_eq!(
        (
            content["small"]["result_content"]["status"].as_str(),
            buffers.len()
        ),
        (Some("ok"), 1)
    );
    let again = db.answer(DbRequest::Requests(vec![id("big")]));
    assert!(
        matches!(again, DbReply::Requests(_)),
        "its request was small: {again:?}"
    );
}

#[test]
fn requests_too_large_to_keep_cannot_be_sent_again() {
    let mut db = MemoryDb::new(MemoryLimits {
        records: 10,
        bytes: 100_000,
    });
    let large = request("a", 0, &Value::Null, &[Bytes::from(vec![0; 200_000])]);
    db.apply(DbOp::Submit(Box::new(large)));
    submit(&mut db, "b", 0);
    assert!(db.status().bytes < 10_000);
    let refused = failure(db.answer(DbRequest::Requests(vec![id("b"), id("a")])));
    assert_eq!(refused, DbError::NotKept(id("a")));
    let DbReply::Requests(requests) = db.answer(DbRequest::Requests(vec![id("b")])) else {
        panic!("not the requests");
    };
    assert_eq!(requests[0].buffers, ["code"]);
    let unknown = failure(db.answer(DbRequest::Requests(vec![id("b"), id("x"), id("y")])));
    assert_eq!(unknown.to_string(), "No such msg(s): ['x', 'y']");
}

#[test]
fn a_reply_brings_the_header_of_a_request_that_was_not_recorded() {
    let mut db = db();
    let mut late = reply(Some("e1"), SECOND, &[]);
    late.request_header =
        Bytes::from(r#"{"msg_id":"a","session":"s","date":"1970-01-01T00:00:00Z"}"#);
    db.apply(DbOp::Complete {
        msg_id: id("a"),
        reply: late,
    });
    let (content, _) = content(results(&mut db, &["a"]));
    assert_eq!(content["a"]["header"]["session"], "s");
    assert_eq!(
        found(&mut db, &json!({"client_uuid": "s", "content": null})),
        ["a"]
    );
    assert_eq!(
        failure(db.answer(DbRequest::Requests(vec![id("a")]))),
        DbError::NotKept(id("a"))
    );
    submit(&mut db, "a", 0);
    assert!(matches!(
        db.answer(DbRequest::Requests(vec![id("a")])),
        DbReply::Requests(_)
    ));
    db.check_invariants();
}

#[test]
fn what_a_peer_sent_cannot_spoil_the_answer() {
    let mut db = db();
    let mut record = request("a", 0, &Value::Null, &[]);
    let header = Bytes::from(r#"{"msg_id":"a"}"#);
    for bad in ["{\"x\":", "1,\"status\":\"no\"", "\"\u{1}\"", ""] {
        record.msg_id = id(bad);
        let bad = Bytes::from(bad);
        record.request = Some(Parts::new(&header, &bad, &bad, &[]));
        db.apply(DbOp::Submit(Box::new(record.clone())));
    }
    let (content, _) = find(&mut db, &json!({"query": {}}));
    assert_eq!(content["records"].as_array().unwrap().len(), 4);
    assert_eq!(content["records"][1]["content"], Value::Null);
}

#[test]
fn purging_takes_finished_records_only_unless_named() {
    let mut db = db();
    for msg_id in ["a", "b", "c", "pending"] {
        submit(&mut db, msg_id, 0);
    }
    for (msg_id, by) in [("a", "e1"), ("b", "e2"), ("c", "e2")] {
        db.apply(DbOp::Complete {
            msg_id: id(msg_id),
            reply: reply(Some(by), SECOND, &[]),
        });
    }
    let purge = Purge {
        msg_ids: vec![id("a"), id("x")],
        ..Purge::default()
    };
    let purged = db.answer(DbRequest::Purge(purge));
    assert_eq!(
        purged,
        DbReply::Purged {
            missing: vec![id("x")]
        }
    );
    let purge = Purge {
        engines: vec![engine("e2")],
        ..Purge::default()
    };
    db.answer(DbRequest::Purge(purge));
    assert_eq!(found(&mut db, &json!({})), ["pending"]);
    complete(&mut db, "pending", SECOND);
    db.answer(DbRequest::Purge(Purge {
        all_finished: true,
        ..Purge::default()
    }));
    assert_eq!(
        content(db.answer(DbRequest::History)).0,
        json!({"status": "ok", "history": []})
    );
    db.check_invariants();
}

#[test]
fn history_is_in_order_of_submission_and_output_alone_is_no_submission() {
    let mut db = db();
    db.apply(DbOp::Output {
        msg_id: id("c"),
        output: Output::Stderr("early".into()),
    });
    db.apply(DbOp::Output {
        msg_id: id("stray"),
        output: Output::Stderr("x".into()),
    });
    for (msg_id, submitted) in [("b", 2), ("c", 3), ("a", 1)] {
        submit(&mut db, msg_id, submitted);
    }
    let (history, _) = content(db.answer(DbRequest::History));
    assert_eq!(history["history"], json!(["a", "b", "c"]));
    assert_eq!(found(&mut db, &json!({"stderr": "early"})), ["c"]);
    db.check_invariants();
}

#[test]
fn without_a_database_questions_fail_by_name_and_purging_succeeds() {
    let DbReply::Failed(error) = DbRequest::History.without_database() else {
        panic!("no failure");
    };
    assert_eq!(error.ename(), "NoData");
    assert!(matches!(
        DbRequest::Purge(Purge::default()).without_database(),
        DbReply::Purged { .. }
    ));
}

/// Few values, so that random queries hit.
fn any_op() -> impl Strategy<Value = DbOp> {
    let name = || (0..12u8).prop_map(|n| id(&format!("task-{n}")));
    let engines = || (0..3u8).prop_map(|n| engine(&format!("e{n}")));
    let label = prop_oneof![
        Just(json!(null)),
        Just(json!("x")),
        Just(json!("y")),
        (0..4i64).prop_map(|n| json!(n)),
        Just(json!(2.5)),
        Just(json!(["x", 2])),
    ];
    let buffer = || prop_oneof![4 => 0..100usize, 1 => 10_000..40_000usize];
    let bytes = |size: usize| Bytes::from(vec![1; size]);
    prop_oneof![
        4 => (name(), 0..6i64, label, buffer()).prop_map(move |(msg_id, at, label, size)| {
            let record = request(msg_id.as_str(), at * SECOND, &label, &[bytes(size)]);
            DbOp::Submit(Box::new(record))
        }),
        4 => (name(), 0..6i64, engines(), buffer()).prop_map(move |(msg_id, at, by, size)| {
            let reply = reply(Some(by.as_str()), at * SECOND, &[bytes(size)]);
            DbOp::Complete { msg_id, reply }
        }),
        1 => (name(), engines()).prop_map(|(msg_id, engine)| DbOp::Assign { msg_id, engine }),
        1 => (name(), name()).prop_map(|(old, new)| DbOp::Resubmitted { old, new }),
        1 => (name(), 0..3000usize).prop_map(|(msg_id, n)| {
            DbOp::Output { msg_id, output: Output::Stdout("o".repeat(n)) }
        }),
    ]
}

fn any_test() -> impl Strategy<Value = (&'static str, Value)> {
    let dates = || (0..6i64).prop_map(|at| json!(date::format(at * SECOND)));
    let order = || prop::sample::select(vec!["$lt", "$lte", "$gt", "$gte"]);
    let labels = || {
        prop_oneof![
            Just(json!("x")),
            Just(json!("y")),
            (0..4i64).prop_map(|n| json!(n)),
            Just(json!(2.5)),
        ]
    };
    let texts = || {
        prop_oneof![
            (0..12u8).prop_map(|n| json!(format!("task-{n}"))),
            (0..3u8).prop_map(|n| json!(format!("e{n}"))),
            Just(json!(null)),
        ]
    };
    let date_field = || prop::sample::select(vec!["submitted", "completed", "started"]);
    let text_field = || prop::sample::select(vec!["msg_id", "engine_uuid", "resubmitted"]);
    let list_op = || prop::sample::select(vec!["$in", "$nin"]);
    prop_oneof![
        (date_field(), dates()),
        (date_field(), order(), dates()).prop_map(|(f, op, v)| (f, json!({ op: v }))),
        (text_field(), texts()),
        (
            text_field(),
            list_op(),
            prop::collection::vec(texts(), 0..5)
        )
            .prop_map(|(f, op, v)| (f, json!({ op: v }))),
        (text_field(), texts()).prop_map(|(f, v)| (f, json!({ "$ne": v }))),
        (order(), labels()).prop_map(|(op, v)| ("label", json!({ op: v }))),
        (list_op(), prop::collection::vec(labels(), 0..3))
            .prop_map(|(op, v)| ("label", json!({ op: v }))),
        (1..4i64, 0..3i64).prop_map(|(d, r)| ("label", json!({ "$mod": [d, r] }))),
        (
            prop::sample::select(vec!["label", "completed", "result_content", "buffers"]),
            any::<bool>()
        )
            .prop_map(|(f, is)| (f, json!({ "$exists": is }))),
    ]
}

/// The query language over a rendered record. All dates have the same form, so text order is theirs.
fn model_matches(record: &Value, query: &Value) -> bool {
    query
        .as_object()
        .unwrap()
        .iter()
        .all(|(field, test)| match test {
            Value::Object(tests) => tests
                .iter()
                .all(|(op, operand)| model_holds(op, &record[field], operand)),
            plain => record[field] == *plain,
        })
}

fn model_holds(op: &str, value: &Value, operand: &Value) -> bool {
    let order = match (value, operand) {
        (Value::String(a), Value::String(b)) => a.partial_cmp(b),
        (Value::Number(a), Value::Number(b)) => a.as_f64().partial_cmp(&b.as_f64()),
        _ => None,
    };
    match op {
        "$ne" => value != operand,
        "$lt" => order.is_some_and(|o| o.is_lt()),
        "$lte" => order.is_some_and(|o| o.is_le()),
        "$gt" => order.is_some_and(|o| o.is_gt()),
        "$gte" => order.is_some_and(|o| o.is_ge()),
        "$in" => operand.as_array().unwrap().contains(value),
        "$nin" => !operand.as_array().unwrap().contains(value),
        "$exists" => value.is_null() != operand.as_bool().unwrap(),
        "$mod" => value.as_f64().is_some_and(|n| {
            n.rem_euclid(operand[0].as_f64().unwrap()) == operand[1].as_f64().unwrap()
        }),
        _ => panic!("the model has no {op}"),
    }
}

proptest! {
    #[test]
    fn the_evaluator_agrees_with_a_model_over_json(
        ops in prop::collection::vec(any_op(), 1..40),
        tests in prop::collection::vec(any_test(), 0..3),
    ) {
        let mut db = db();
        ops.into_iter().for_each(|op| db.apply(op));
        let (all, _) = find(&mut db, &json!({"query": {}}));
        let query = Value::Object(tests.into_iter().map(|(f, t)| (f.to_owned(), t)).collect());
        let expected: Vec<String> = all["records"].as_array().unwrap().iter()
            .map(|record| {
                let mut record = record.clone();
                record["buffers"] = if record["header"].is_null() { Value::Null } else { json!([]) };
                record
            })
            .filter(|record| model_matches(record, &query))
            .map(|record| record["msg_id"].as_str().unwrap().to_owned()).collect();
        prop_assert_eq!(found(&mut db, &query), expected, "{}", query);
    }

    #[test]
    fn the_bounds_hold_whatever_happens(
        ops in prop::collection::vec(any_op(), 1..120),
        records in 1..8usize, bytes in 2_000..60_000usize, purge_every in 5..40usize,
    ) {
        let mut db = MemoryDb::new(MemoryLimits { records, bytes });
        for (i, op) in ops.into_iter().enumerate() {
            db.apply(op);
            if i % purge_every == 0 {
                let purge = Purge { engines: vec![engine("e0")], ..Purge::default() };
                db.answer(DbRequest::Purge(purge));
            }
            db.check_invariants();
            prop_assert!(db.status().bytes as usize <= 3 * bytes + bytes / 4 + 10_000);
        }
    }

    #[test]
    fn no_query_is_a_panic(text in "\\PC*", field in "[a-z_]{1,8}", op in "\\$[a-z]{1,6}") {
        let _ = Query::parse(text.as_bytes());
        let _ = Find::parse(text.as_bytes());
        let query = json!({ field: { op: text } });
        let _ = Query::parse(query.to_string().as_bytes());
    }
}
