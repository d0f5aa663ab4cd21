//! The content of a `db_request`, run over records in all states.

use bytes::Bytes;
use piparallel_core::ids::{EngineUuid, MsgId};
use piparallel_core::task_db::memory::{MemoryDb, MemoryLimits};
use piparallel_core::task_db::query::Find;
use piparallel_core::task_db::record::{Queue, Reply, TaskRecord};
use piparallel_core::task_db::{DbOp, DbReply, DbRequest};
use piparallel_core::wire::date;
use piparallel_core::wire::message::{DELIMITER, Message};

pub fn run(data: &[u8]) {
    let Ok(find) = Find::parse(data) else {
        return;
    };
    let mut db = MemoryDb::new(MemoryLimits::default());
    for n in 0..4 {
        add(&mut db, n);
    }
    match db.answer(DbRequest::Find(find)) {
        DbReply::Content { content, .. } => {
            let content: serde_json::Value = serde_json::from_slice(&content).expect("JSON");
            assert_eq!(content["status"], "ok");
        }
        DbReply::Failed(error) => assert!(!error.to_string().is_empty()),
        reply => panic!("{reply:?}"),
    }
    db.check_invariants();
}

fn add(db: &mut MemoryDb, n: u8) {
    let date = format!("2026-01-01T00:00:0{n}.000001Z");
    let header =
        format!(r#"{{"msg_id":"m-{n}","msg_type":"apply_request","session":"s","date":"{date}"}}"#);
    let reply =
        format!(r#"{{"msg_id":"r-{n}","msg_type":"apply_reply","session":"u","date":"{date}"}}"#);
    let request = message([&header, "{}", r#"{"label":"a"}"#, "{}"]);
    let submitted = date::parse(&date).expect("a date");
    let msg_id = MsgId::new(&format!("m-{n}"));
    let record = TaskRecord::submitted(msg_id.clone(), &request, submitted, "s".into(), Queue::Mux);
    db.apply(DbOp::Submit(Box::new(record)));
    if n > 0 {
        let engine = EngineUuid::new(&format!("u-{}", n % 2));
        let message = message([&reply, &header, r#"{"started":null}"#, r#"{"status":"ok"}"#]);
        let reply = Reply::new(&message, Some(engine), submitted, i64::from(n));
        db.apply(DbOp::Complete { msg_id, reply });
    }
}

fn message(parts: [&str; 4]) -> Message {
    let mut frames = vec![Bytes::from_static(DELIMITER), Bytes::new()];
    frames.extend(parts.map(|part| Bytes::copy_from_slice(part.as_bytes())));
    frames.push(Bytes::from_static(b"buffer"));
    Message::parse(frames).expect("a message")
}
