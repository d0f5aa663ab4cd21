//! The controller as its peers see it: engines come and go, requests are routed, the hub answers.

mod pool;

use std::time::Duration;

use piparallel_core::channel::{Channel, Side};
use piparallel_core::controller::{Config, Event};
use piparallel_core::limits::{ENGINE_QUEUE_MAX, NEWS_KEPT};
use piparallel_core::wire::zmtp::{PublicKey, SecretKey};
use pool::{Pool, config};
use serde_json::json;

const GRACE: Duration = Duration::from_millis(100);

fn key(byte: u8) -> PublicKey {
    SecretKey::new([byte; 32]).public()
}

fn drain(pool: &mut Pool, curve_key: PublicKey, is_drained: bool) {
    pool.event(Event::Drain {
        curve_key,
        is_drained,
    });
}

#[test]
fn an_engine_is_announced_after_its_first_heartbeat() {
    let mut pool = Pool::new();
    let client = pool.client();
    let engine = pool.pending_engine("uuid-0");
    pool.nothing_for(client.notification);
    pool.beat(&engine);
    let note = pool.receive(client.notification);
    assert_eq!(note.msg_type(), "registration_notification");
    assert_eq!(note.content, json!({"id": 0, "uuid": "uuid-0"}));
    let reply = pool.ask(client.hub, "connection_request", json!({}));
    assert_eq!(
        reply.content,
        json!({"status": "ok", "engines": {"0": "uuid-0"}})
    );
    pool.pass(GRACE);
    assert_eq!(
        pool.saved_engines.as_deref(),
        Some(r#"{"engines":{"0":"uuid-0"},"absent":{},"next_id":1}"#)
    );
}

#[test]
fn an_engine_registers_only_itself() {
    let mut pool = Pool::new();
    let stranger = pool.connect(Channel::Registration, "someone");
    pool.request(
        stranger,
        &[],
        "registration_request",
        json!({}),
        json!({"uuid": "uuid-0"}),
    );
    let reply = pool.receive(stranger);
    assert_eq!(reply.content["status"], "error");
    assert_eq!(reply.ename(), "RuntimeError");
}

#[test]
fn on_the_shared_socket_each_side_says_only_what_is_its_own() {
    let mut pool = Pool::new();
    let engine = pool.connect_with(Channel::Registration, "uuid-0", None, Side::Engine);
    for question in ["connection_request", "db_request", "shutdown_request"] {
        let reply = pool.ask(engine, question, json!({}));
        assert_eq!(reply.msg_type(), "hub_error");
        assert_eq!(reply.ename(), "PermissionError", "{question}");
    }
    assert!(!pool.shut_down);
    let client = pool.connect_with(Channel::Registration, "", None, Side::Client);
    let reply = pool.ask(client, "registration_request", json!({"uuid": "uuid-1"}));
    assert_eq!(reply.ename(), "PermissionError");
    let reply = pool.ask(client, "connection_request", json!({}));
    assert_eq!(reply.content["status"], "ok");
    let reply = pool.ask_to_register(engine, "uuid-0");
    assert_eq!(reply.content["status"], "ok");
}

#[test]
fn where_keys_are_known_an_engine_is_touched_only_with_its_own() {
    let mut pool = Pool::with(Config {
        engine_keys_are_known: true,
        ..config()
    });
    let (own, other) = (Some(key(1)), Some(key(2)));
    let registration = pool.connect_with(Channel::Registration, "uuid-0", own, Side::Engine);
    pool.ask_to_register(registration, "uuid-0");
    let stranger = pool.connect_with(Channel::ControlEngine, "uuid-0", other, Side::Engine);
    assert!(pool.closed.contains(&stranger));
    let control = pool.connect_with(Channel::ControlEngine, "uuid-0", own, Side::Engine);
    assert!(!pool.closed.contains(&control));
    for (nanny, outcome) in [(other, "error"), (own, "ok")] {
        let nanny = pool.connect_with(Channel::Registration, "", nanny, Side::Engine);
        let content = json!({"id": 0});
        pool.request(nanny, &[], "unregistration_request", json!({}), content);
        let again = pool.ask_to_register(registration, "uuid-0");
        assert_eq!(
            again.content["status"], outcome,
            "an error: it is still registered"
        );
    }
}

#[test]
fn a_second_registration_of_a_uuid_is_refused() {
    let mut pool = Pool::new();
    let engine = pool.engine("uuid-0");
    pool.request(
        engine.registration,
        &[],
        "registration_request",
        json!({}),
        json!({"uuid": "uuid-0"}),
    );
    assert_eq!(pool.receive(engine.registration).ename(), "KeyError");
}

#[test]
fn mux_goes_to_the_engine_and_back_untouched() {
    let mut pool = Pool::new();
    let client = pool.client();
    let engine = pool.engine("uuid-0");
    let header = pool.header("apply_request");
    let frames = pool.frames(
        &["uuid-0"],
        [&header, &json!({}), &json!({}), &json!({})],
        &["a", "b"],
    );
    pool.event(Event::Message {
        peer: client.mux,
        frames: frames.clone().into(),
    });
    let request = pool.receive(engine.mux);
    assert_eq!(request.frames[1..], frames[1..], "signed parts and buffers");
    let queues = pool.ask(client.hub, "queue_request", json!({"targets": null}));
    assert_eq!(
        queues.content["0"],
        json!({"queue": 1, "completed": 0, "tasks": 0})
    );
    pool.reply_ok(engine.mux, &request, "uuid-0");
    let reply = pool.receive(client.mux);
    assert_eq!(reply.routing, ["uuid-0"]);
    assert_eq!(reply.parent, header);
    let queues = pool.ask(
        client.hub,
        "queue_request",
        json!({"targets": [0], "verbose": true}),
    );
    assert_eq!(
        queues.content["0"],
        json!({"queue": [], "completed": [header["msg_id"]], "tasks": []})
    );
}

#[test]
fn mux_to_an_unknown_engine_is_answered() {
    let mut pool = Pool::new();
    let client = pool.client();
    let msg_id = pool.request(
        client.mux,
        &["nobody"],
        "apply_request",
        json!({}),
        json!({}),
    );
    let reply = pool.receive(client.mux);
    assert_eq!(
        (reply.msg_type(), reply.ename()),
        ("apply_reply", "EngineError")
    );
    assert_eq!(reply.parent["msg_id"], msg_id.as_str());
}

#[test]
fn a_message_without_reply_leaves_no_queue() {
    let mut pool = Pool::new();
    let client = pool.client();
    let engine = pool.engine("uuid-0");
    pool.request(client.mux, &["uuid-0"], "comm_msg", json!({}), json!({}));
    assert_eq!(pool.receive(engine.mux).msg_type(), "comm_msg");
    let queues = pool.ask(client.hub, "queue_request", json!({"targets": null}));
    assert_eq!(queues.content["0"]["queue"], 0);
}

#[test]
fn wrong_and_replayed_signatures_are_answered() {
    let mut pool = Pool::new();
    let client = pool.client();
    let header = pool.header("connection_request");
    let mut frames = pool.frames(&[], [&header, &json!({}), &json!({}), &json!({})], &[]);
    pool.event(Event::Message {
        peer: client.hub,
        frames: frames.clone().into(),
    });
    assert_eq!(pool.receive(client.hub).msg_type(), "connection_reply");
    pool.event(Event::Message {
        peer: client.hub,
        frames: frames.clone().into(),
    });
    let reply = pool.receive(client.hub);
    assert_eq!(reply.msg_type(), "hub_error");
    assert!(
        reply.content["evalue"].as_str().unwrap().contains("replay"),
        "{reply:?}"
    );
    frames[1] = "0".repeat(64).into();
    pool.event(Event::Message {
        peer: client.hub,
        frames: frames.into(),
    });
    assert!(
        pool.receive(client.hub).content["evalue"]
            .as_str()
            .unwrap()
            .contains("signature")
    );
}

#[test]
fn a_task_goes_to_an_engine_and_its_reply_back() {
    let mut pool = Pool::new();
    let client = pool.client();
    let msg_id = pool.request(
        client.task,
        &[],
        "apply_request",
        json!({"retries": 0}),
        json!({}),
    );
    let queues = pool.ask(client.hub, "queue_request", json!({"targets": null}));
    assert_eq!(queues.content["unassigned"], 1);
    let engine = pool.engine("uuid-0");
    let request = pool.receive(engine.task);
    assert_eq!(request.msg_id(), msg_id);
    let results = pool.ask(client.hub, "result_request", json!({"msg_ids": [msg_id]}));
    assert_eq!(results.content["pending"], json!([msg_id]));
    pool.reply_ok(engine.task, &request, "uuid-0");
    assert_eq!(pool.receive(client.task).routing, ["uuid-0"]);
    let results = pool.ask(client.hub, "result_request", json!({"msg_ids": [msg_id]}));
    assert_eq!(results.content["completed"], json!([msg_id]));
    assert_eq!(results.buffers, ["result"]);
}

#[test]
fn engines_of_a_drained_node_finish_what_they_have_and_leave() {
    let mut pool = Pool::new();
    let client = pool.client();
    pool.curve_key = Some(key(1));
    let busy = pool.engine("uuid-0");
    let idle = pool.engine("uuid-1");
    pool.curve_key = Some(key(2));
    let other = pool.engine("uuid-2");
    for _ in 0..3 {
        pool.request(client.task, &[], "apply_request", json!({}), json!({}));
    }
    let on_busy = pool.receive(busy.task);
    let on_idle = pool.receive(idle.task);
    let on_other = pool.receive(other.task);
    pool.reply_ok(idle.task, &on_idle, "uuid-1");
    drain(&mut pool, key(1), true);
    let waiting = pool.request(client.task, &[], "apply_request", json!({}), json!({}));
    pool.live(GRACE, &[&busy, &idle, &other]);
    assert!(pool.drained.is_empty(), "one task still runs");
    let ids = pool.ask(client.hub, "connection_request", json!({}));
    assert_eq!(
        ids.content["engines"],
        json!({"0": "uuid-0", "2": "uuid-2"})
    );
    pool.request(
        client.mux,
        &["uuid-0"],
        "apply_request",
        json!({}),
        json!({}),
    );
    assert_eq!(pool.receive(client.mux).ename(), "EngineError");
    pool.reply_ok(busy.task, &on_busy, "uuid-0");
    pool.live(GRACE, &[&busy, &idle, &other]);
    assert_eq!(pool.drained, [key(1)]);
    pool.reply_ok(other.task, &on_other, "uuid-2");
    assert_eq!(pool.receive(other.task).msg_id(), waiting);
    let replies: Vec<_> = (0..3).map(|_| pool.receive(client.task)).collect();
    assert!(replies.iter().all(|reply| reply.content["status"] == "ok"));
}

#[test]
fn a_resumed_nodes_engines_come_back_under_their_numbers() {
    let mut pool = Pool::new();
    let client = pool.client();
    pool.curve_key = Some(key(1));
    let engine = pool.engine("uuid-0");
    drain(&mut pool, key(1), true);
    pool.live(Duration::from_secs(5), &[&engine]);
    let late = pool.pending_engine("uuid-1");
    pool.live(Duration::from_secs(5), &[&engine, &late]);
    let ids = |pool: &mut Pool| {
        let reply = pool.ask(client.hub, "connection_request", json!({}));
        reply.content["engines"].clone()
    };
    assert_eq!(ids(&mut pool), json!({}));
    drain(&mut pool, key(1), false);
    pool.live(Duration::from_secs(1), &[&engine, &late]);
    assert_eq!(ids(&mut pool), json!({"0": "uuid-0", "1": "uuid-1"}));
    assert_eq!(pool.drained, [key(1)], "told once");
    let task = pool.request(client.task, &[], "apply_request", json!({}), json!({}));
    let got = [engine.task, late.task].map(|peer| pool.poll_frames(peer).is_some());
    assert!(got[0] != got[1], "{task} is on one of them");
}

#[test]
fn a_drained_node_whose_engines_die_is_drained_too() {
    let mut pool = Pool::new();
    let client = pool.client();
    pool.curve_key = Some(key(1));
    let engine = pool.engine("uuid-0");
    pool.request(client.task, &[], "apply_request", json!({}), json!({}));
    drain(&mut pool, key(1), true);
    pool.kill(&engine);
    pool.pass(GRACE);
    assert_eq!(pool.drained, [key(1)]);
}

#[test]
fn a_killed_engines_task_fails_or_is_retried_at_once() {
    let mut pool = Pool::new();
    let client = pool.client();
    let first = pool.engine("uuid-0");
    let failing = pool.request(client.task, &[], "apply_request", json!({}), json!({}));
    let retried = pool.request(
        client.task,
        &[],
        "apply_request",
        json!({"retries": 1}),
        json!({}),
    );
    assert_eq!(pool.receive(first.task).msg_id(), failing);
    pool.reply_ok(first.task, &pool_request(&failing), "uuid-0");
    assert_eq!(pool.receive(client.task).parent["msg_id"], failing.as_str());
    assert_eq!(pool.receive(first.task).msg_id(), retried);
    let lost = pool.request(
        client.mux,
        &["uuid-0"],
        "apply_request",
        json!({}),
        json!({}),
    );
    pool.kill(&first);
    let second = pool.engine("uuid-1");
    pool.live(GRACE, &[&second]);
    assert_eq!(pool.receive(second.task).msg_id(), retried);
    let notes = [
        pool.receive(client.notification),
        pool.receive(client.notification),
        pool.receive(client.notification),
    ];
    assert_eq!(notes[2].msg_type(), "unregistration_notification");
    let results = pool.ask(client.hub, "result_request", json!({"msg_ids": [lost]}));
    assert_eq!(
        results.content[&lost]["result_content"]["ename"],
        "EngineError"
    );
}

#[test]
fn a_task_whose_engine_left_counts_as_unassigned_until_another_has_it() {
    let mut pool = Pool::new();
    let client = pool.client();
    let engine = pool.engine("uuid-0");
    let metadata = json!({"retries": 1});
    let msg_id = pool.request(client.task, &[], "apply_request", metadata, json!({}));
    pool.receive(engine.task);
    pool.kill(&engine);
    pool.pass(GRACE);
    let content = json!({"targets": null, "verbose": true});
    let queues = pool.ask(client.hub, "queue_request", content);
    assert_eq!(queues.content["unassigned"], json!([msg_id]));
    pool.controller.check_invariants();
}

fn pool_request(msg_id: &str) -> pool::Received {
    pool::Received {
        routing: vec!["\0\0\0\0\0".into()],
        header: json!({"msg_id": msg_id}),
        parent: json!({}),
        metadata: json!({}),
        content: json!({}),
        buffers: vec![],
        frames: vec![],
    }
}

#[test]
fn who_subscribes_late_misses_no_engine() {
    let mut pool = Pool::new();
    let engines: Vec<_> = ["uuid-0", "uuid-1"].map(|uuid| pool.engine(uuid)).into();
    let all: Vec<_> = engines.iter().collect();
    pool.live(NEWS_KEPT + GRACE, &all);
    pool.engine("uuid-2");
    pool.disconnect(engines[0].mux);
    pool.pass(GRACE);
    let client = pool.client();
    let news = [(); 2].map(|()| pool.receive(client.notification));
    let told = news.each_ref().map(|n| (n.msg_type(), n.content.clone()));
    assert_eq!(
        told,
        [
            (
                "registration_notification",
                json!({"id": 2, "uuid": "uuid-2"})
            ),
            (
                "unregistration_notification",
                json!({"id": 0, "uuid": "uuid-0"})
            ),
        ]
    );
    let peer = client.notification;
    pool.event(Event::Subscribed { peer });
    pool.nothing_for(peer);
}

#[test]
fn a_frozen_engine_is_noticed_within_three_seconds_and_comes_back() {
    let mut pool = Pool::new();
    let client = pool.client();
    let engine = pool.engine("uuid-0");
    assert_eq!(
        pool.receive(client.notification).msg_type(),
        "registration_notification"
    );
    pool.live(Duration::from_secs(600), &[&engine]);
    pool.nothing_for(client.notification);
    pool.pass(Duration::from_secs(3));
    assert_eq!(
        pool.receive(client.notification).msg_type(),
        "unregistration_notification"
    );
    pool.live(Duration::from_secs(1), &[&engine]);
    let note = pool.receive(client.notification);
    assert_eq!(note.msg_type(), "registration_notification");
    assert_eq!(note.content, json!({"id": 0, "uuid": "uuid-0"}));
    let msg_id = pool.request(client.task, &[], "apply_request", json!({}), json!({}));
    assert_eq!(pool.receive(engine.task).msg_id(), msg_id);
}

#[test]
fn an_engine_that_unregistered_does_not_come_back() {
    let mut pool = Pool::new();
    let client = pool.client();
    let engine = pool.engine("uuid-0");
    let nanny = pool.connect(Channel::Registration, "");
    pool.request(
        nanny,
        &[],
        "unregistration_request",
        json!({}),
        json!({"id": engine.id}),
    );
    pool.live(Duration::from_secs(5), &[&engine]);
    let reply = pool.ask(client.hub, "connection_request", json!({}));
    assert_eq!(reply.content["engines"], json!({}));
}

#[test]
fn engines_of_an_earlier_controller_are_taken_up_when_they_answer() {
    let restored = r#"{"engines": {"3": "uuid-3", "4": "dead"}, "next_id": 7}"#;
    let mut pool = Pool::with(Config {
        restored_engines: Some(restored.into()),
        ..config()
    });
    let client = pool.client();
    for channel in [
        Channel::MuxEngine,
        Channel::TaskEngine,
        Channel::BroadcastEngine,
    ] {
        pool.connect(channel, "uuid-3");
    }
    let ping = pool.connect(Channel::HbPing, "");
    let pong = pool.connect(Channel::HbPong, "uuid-3");
    let frames = pool.poll_frames(ping).unwrap();
    pool.event(Event::Message {
        peer: pong,
        frames: frames.into(),
    });
    let reply = pool.ask(client.hub, "connection_request", json!({}));
    assert_eq!(
        reply.content["engines"],
        json!({"3": "uuid-3"}),
        "and not the dead one"
    );
    assert_eq!(pool.engine("new").id, 7);
}

#[test]
fn another_connection_cannot_take_a_living_engines_uuid() {
    let mut pool = Pool::new();
    let client = pool.client();
    let engine = pool.engine("uuid-0");
    let thief = pool.connect(Channel::MuxEngine, "uuid-0");
    assert_eq!(pool.probed, [engine.mux]);
    pool.event(Event::Alive { peer: engine.mux });
    assert_eq!(pool.closed, [thief]);
    let msg_id = pool.request(
        client.mux,
        &["uuid-0"],
        "apply_request",
        json!({}),
        json!({}),
    );
    assert_eq!(pool.receive(engine.mux).msg_id(), msg_id);
}

#[test]
fn a_broadcast_reaches_all_and_its_replies_come_singly() {
    let mut pool = Pool::new();
    let client = pool.client();
    let engines = [pool.engine("a"), pool.engine("b")];
    let metadata =
        json!({"targets": [["b", 1], ["a", 0]], "is_broadcast": true, "is_coalescing": false});
    let msg_id = pool.request(client.broadcast, &[], "apply_request", metadata, json!({}));
    for engine in &engines {
        let request = pool.receive(engine.broadcast);
        assert_eq!(request.msg_id(), format!("{msg_id}_{}", engine.uuid));
        assert_eq!(request.metadata["original_msg_id"], msg_id.as_str());
        pool.reply_ok(engine.broadcast, &request, &engine.uuid);
        let reply = pool.receive(client.broadcast);
        assert_eq!(reply.parent["msg_id"], format!("{msg_id}_{}", engine.uuid));
    }
    let history = pool.ask(client.hub, "history_request", json!({}));
    assert_eq!(history.content["history"].as_array().unwrap().len(), 2);
}

#[test]
fn a_coalescing_broadcast_has_one_reply_in_the_order_of_its_targets() {
    let mut pool = Pool::new();
    let client = pool.client();
    let engines = [pool.engine("a"), pool.engine("b")];
    let metadata =
        json!({"targets": [["b", 1], ["a", 0]], "is_broadcast": true, "is_coalescing": true});
    let msg_id = pool.request(client.broadcast, &[], "apply_request", metadata, json!({}));
    for engine in &engines {
        pool.nothing_for(client.broadcast);
        let request = pool.receive(engine.broadcast);
        pool.reply_ok(engine.broadcast, &request, &engine.uuid);
    }
    let reply = pool.receive(client.broadcast);
    assert_eq!(reply.metadata["original_msg_id"], msg_id.as_str());
    assert_eq!(
        reply.metadata["broadcast_targets"],
        json!([["b", 1], ["a", 0]])
    );
    assert_eq!(reply.buffers, ["result", "result"]);
    let results = pool.ask(client.hub, "result_request", json!({"msg_ids": [msg_id]}));
    assert_eq!(results.content["completed"], json!([msg_id]));
}

#[test]
fn a_coalescing_broadcast_loses_no_failure() {
    let mut pool = Pool::new();
    let client = pool.client();
    let engines = [pool.engine("a"), pool.engine("b")];
    let metadata =
        json!({"targets": [["a", 0], ["b", 1]], "is_broadcast": true, "is_coalescing": true});
    pool.request(client.broadcast, &[], "apply_request", metadata, json!({}));
    let request = pool.receive(engines[0].broadcast);
    pool.reply_error(engines[0].broadcast, &request, "a");
    let request = pool.receive(engines[1].broadcast);
    pool.reply_ok(engines[1].broadcast, &request, "b");
    let reply = pool.receive(client.broadcast);
    assert_eq!(reply.content["ename"], "ZeroDivisionError");
    assert_eq!(reply.content["engine_info"]["engine_uuid"], "a");
}

#[test]
fn output_reaches_all_clients_and_the_record() {
    let mut pool = Pool::new();
    let clients = [pool.client(), pool.client()];
    let engine = pool.engine("uuid-0");
    let msg_id = pool.request(
        clients[0].mux,
        &["uuid-0"],
        "apply_request",
        json!({}),
        json!({}),
    );
    let request = pool.receive(engine.mux);
    let header = pool.header("stream");
    let content = json!({"name": "stdout", "text": "hello"});
    let frames = pool.frames(
        &["engine.0.stdout"],
        [&header, &request.header, &json!({}), &content],
        &[],
    );
    pool.event(Event::Message {
        peer: engine.iopub,
        frames: frames.clone().into(),
    });
    for client in &clients {
        assert_eq!(pool.receive(client.iopub).frames, frames);
    }
    let reply = pool.ask(
        clients[0].hub,
        "db_request",
        json!({"query": {"msg_id": msg_id}, "keys": ["stdout"]}),
    );
    assert_eq!(
        reply.content["records"],
        json!([{"msg_id": msg_id, "stdout": "hello"}])
    );
}

#[test]
fn a_task_is_resubmitted_with_its_metadata() {
    let mut pool = Pool::new();
    let client = pool.client();
    let engine = pool.engine("uuid-0");
    let old = pool.request(
        client.task,
        &[],
        "apply_request",
        json!({"label": "mine"}),
        json!({}),
    );
    let request = pool.receive(engine.task);
    pool.reply_ok(engine.task, &request, "uuid-0");
    let reply = pool.ask(client.hub, "resubmit_request", json!({"msg_ids": [old]}));
    let new = reply.content["resubmitted"][&old]
        .as_str()
        .unwrap()
        .to_owned();
    let again = pool.receive(engine.task);
    assert_eq!(
        (again.msg_id(), &again.metadata["label"]),
        (&*new, &json!("mine"))
    );
    assert_eq!(again.header["session"], "client");
    pool.reply_ok(engine.task, &again, "uuid-0");
    let results = pool.ask(client.hub, "result_request", json!({"msg_ids": [new]}));
    assert_eq!(results.content["completed"], json!([new]));
}

#[test]
fn pending_tasks_cannot_be_purged_and_unknown_questions_are_errors() {
    let mut pool = Pool::new();
    let client = pool.client();
    let pending = pool.request(client.task, &[], "apply_request", json!({}), json!({}));
    let ask =
        |pool: &mut Pool, ids| pool.ask(client.hub, "purge_request", json!({ "msg_ids": ids }));
    assert_eq!(ask(&mut pool, json!([pending])).ename(), "IndexError");
    assert_eq!(ask(&mut pool, json!(["nobody"])).content["status"], "ok");
    assert_eq!(ask(&mut pool, json!("all")).content["status"], "ok");
    let reply = pool.ask(client.hub, "result_request", json!({"msg_ids": ["nobody"]}));
    assert_eq!(
        (reply.msg_type(), reply.ename()),
        ("result_reply", "KeyError")
    );
    let reply = pool.ask(client.hub, "queue_request", json!({"targets": [5]}));
    assert_eq!(
        (reply.msg_type(), reply.ename()),
        ("hub_error", "IndexError")
    );
    let reply = pool.ask(client.hub, "nonsense", json!({}));
    assert_eq!((reply.msg_type(), reply.ename()), ("hub_error", "KeyError"));
}

#[test]
fn shutdown_is_answered_announced_and_carried_out() {
    let mut pool = Pool::new();
    let client = pool.client();
    assert_eq!(
        pool.ask(client.hub, "shutdown_request", json!({})).content["status"],
        "ok"
    );
    assert_eq!(
        pool.receive(client.notification).msg_type(),
        "shutdown_notification"
    );
    assert!(!pool.shut_down);
    pool.pass(Duration::from_millis(300));
    assert!(pool.shut_down);
}

#[test]
fn status_counts_what_happened() {
    let mut pool = Pool::new();
    let client = pool.client();
    let engine = pool.engine("uuid-0");
    pool.request(client.task, &[], "apply_request", json!({}), json!({}));
    let request = pool.receive(engine.task);
    pool.reply_error(engine.task, &request, "uuid-0");
    pool.request(client.task, &[], "apply_request", json!({}), json!({}));
    let status = pool.ask(client.hub, "status_request", json!({})).content;
    assert_eq!(
        status["tasks"],
        json!({"pending": 1, "waiting": 0, "done": 0, "failed": 1, "retried": 0})
    );
    assert_eq!(status["engines"][0]["tasks"], 1);
    assert_eq!(status["engines"][0]["state"], "ok");
    assert_eq!(
        (&status["clients"], &status["database"]["kind"]),
        (&json!(1), &json!("memory"))
    );
}

#[test]
fn a_late_mux_reply_reaches_nobody() {
    let mut pool = Pool::new();
    let client = pool.client();
    let engine = pool.engine("uuid-0");
    let msg_id = pool.request(
        client.mux,
        &["uuid-0"],
        "apply_request",
        json!({}),
        json!({}),
    );
    let request = pool.receive(engine.mux);
    // Silent for too long, then back: clients have failed the request on the notification.
    pool.pass(Duration::from_secs(4));
    pool.live(Duration::from_secs(1), &[&engine]);
    pool.reply_ok(engine.mux, &request, "uuid-0");
    pool.nothing_for(client.mux);
    let content = json!({"msg_ids": [msg_id]});
    let results = pool.ask(client.hub, "result_request", content);
    let result = &results.content[&msg_id]["result_content"];
    assert_eq!(result["ename"], "EngineError");
}

#[test]
fn a_message_id_under_way_is_refused_on_every_channel() {
    let mut pool = Pool::new();
    let client = pool.client();
    let engine = pool.engine("uuid-0");
    let send = |pool: &mut Pool, peer, routing: &[&str], msg_id: &str, coalescing: bool, n: u32| {
        let header = json!({"msg_id": msg_id, "msg_type": "apply_request", "session": "client"});
        let metadata = json!({"targets": [["uuid-0", 0]], "is_coalescing": coalescing});
        let metadata = if routing.is_empty() {
            metadata
        } else {
            json!({})
        };
        // Different content: the same bytes would be a replay.
        let frames = pool.frames(
            routing,
            [&header, &json!({}), &metadata, &json!({"n": n})],
            &[],
        );
        pool.event(Event::Message {
            peer,
            frames: frames.into(),
        });
        pool.controller.check_invariants();
    };
    send(&mut pool, client.mux, &["uuid-0"], "a", false, 0);
    send(&mut pool, client.mux, &["uuid-0"], "a", false, 1);
    assert_eq!(pool.receive(client.mux).ename(), "ValueError");
    send(&mut pool, client.task, &[], "a", false, 2);
    assert_eq!(pool.receive(client.task).ename(), "ValueError");
    send(&mut pool, client.broadcast, &[], "a", true, 3);
    assert_eq!(pool.receive(client.broadcast).ename(), "ValueError");
    send(&mut pool, client.broadcast, &[], "b", false, 4);
    send(&mut pool, client.broadcast, &[], "b", true, 5);
    assert_eq!(pool.receive(client.broadcast).ename(), "ValueError");
    send(&mut pool, client.mux, &["uuid-0"], "b_uuid-0", false, 6);
    assert_eq!(pool.receive(client.mux).ename(), "ValueError");
    let request = pool.receive(engine.mux);
    pool.reply_ok(engine.mux, &request, "uuid-0");
    assert_eq!(pool.receive(client.mux).content["status"], "ok");
    let queues = pool.ask(client.hub, "queue_request", json!({"targets": null}));
    assert_eq!(queues.content["0"]["queue"], 1);
}

#[test]
fn a_reply_on_another_channel_than_its_request_is_dropped() {
    let mut pool = Pool::new();
    let client = pool.client();
    let engine = pool.engine("uuid-0");
    let msg_id = pool.request(client.task, &[], "apply_request", json!({}), json!({}));
    let request = pool.receive(engine.task);
    for peer in [engine.mux, engine.broadcast] {
        pool.reply_ok(peer, &request, "uuid-0");
        pool.controller.check_invariants();
    }
    pool.nothing_for(client.task);
    pool.reply_ok(engine.task, &request, "uuid-0");
    assert_eq!(pool.receive(client.task).parent["msg_id"], msg_id.as_str());
    let metadata = json!({"targets": [["uuid-0", 0]], "is_coalescing": true});
    pool.request(client.broadcast, &[], "apply_request", metadata, json!({}));
    let copy = pool.receive(engine.broadcast);
    pool.reply_ok(engine.mux, &copy, "uuid-0");
    pool.controller.check_invariants();
    pool.reply_ok(engine.broadcast, &copy, "uuid-0");
    assert_eq!(pool.receive(client.broadcast).content["status"], "ok");
}

#[test]
fn a_broadcast_whose_header_is_no_object_leaves_nothing_behind() {
    let mut pool = Pool::new();
    let client = pool.client();
    pool.engine("uuid-0");
    let metadata = json!({"targets": [["uuid-0", 0]], "is_coalescing": true});
    let header = json!(["id", "apply_request", "client", "2026-01-01T00:00:00Z"]);
    let frames = pool.frames(&[], [&header, &json!({}), &metadata, &json!({})], &[]);
    pool.event(Event::Message {
        peer: client.broadcast,
        frames: frames.into(),
    });
    pool.controller.check_invariants();
    let status = pool.ask(client.hub, "status_request", json!({}));
    assert_eq!(status.content["tasks"]["pending"], 0);
}

#[test]
fn an_engine_without_its_task_connection_gets_tasks_once_it_has_it() {
    let mut pool = Pool::new();
    let client = pool.client();
    let mut engine = pool.pending_engine("uuid-0");
    pool.disconnect(engine.task);
    pool.beat(&engine);
    // It is announced with what it has, since its heart beats.
    pool.live(Duration::from_secs(3), &[&engine]);
    let note = pool.receive(client.notification);
    assert_eq!(note.msg_type(), "registration_notification");
    let msg_id = pool.request(client.task, &[], "apply_request", json!({}), json!({}));
    let queues = pool.ask(client.hub, "queue_request", json!({"targets": null}));
    assert_eq!(queues.content["unassigned"], 1);
    engine.task = pool.connect(Channel::TaskEngine, "uuid-0");
    assert_eq!(pool.receive(engine.task).msg_id(), msg_id);
    pool.controller.check_invariants();
}

#[test]
fn an_engine_that_comes_back_congested_gets_tasks_once_it_is_drained() {
    let mut pool = Pool::new();
    let client = pool.client();
    let engine = pool.engine("uuid-0");
    pool.pass(Duration::from_secs(3));
    pool.event(Event::Congested { peer: engine.task });
    pool.live(Duration::from_secs(1), &[&engine]);
    let metadata = json!({"targets": ["uuid-0"]});
    let msg_id = pool.request(client.task, &[], "apply_request", metadata, json!({}));
    pool.nothing_for(engine.task);
    pool.event(Event::Drained { peer: engine.task });
    assert_eq!(pool.receive(engine.task).msg_id(), msg_id);
}

#[test]
fn engines_out_of_reach_are_saved_too() {
    let mut pool = Pool::new();
    let away = pool.engine("uuid-0");
    pool.pass(Duration::from_secs(4));
    pool.pending_engine("uuid-1");
    pool.pass(GRACE);
    let saved = pool.saved_engines.clone();
    assert_eq!(
        saved.as_deref(),
        Some(r#"{"engines":{},"absent":{"uuid-0":0,"uuid-1":1},"next_id":2}"#)
    );
    // Two controllers later it is still known.
    for _ in 0..2 {
        pool = Pool::with(Config {
            restored_engines: pool.saved_engines.clone().or(saved.clone()),
            ..config()
        });
        let other = pool.pending_engine(&format!("uuid-{}", pool.now.as_secs() + 2));
        pool.pass(GRACE);
        pool.disconnect(other.registration);
    }
    for channel in [
        Channel::MuxEngine,
        Channel::TaskEngine,
        Channel::BroadcastEngine,
    ] {
        pool.connect(channel, &away.uuid);
    }
    let ping = pool.connect(Channel::HbPing, "");
    let peer = pool.connect(Channel::HbPong, &away.uuid);
    let frames = pool.poll_frames(ping).unwrap();
    pool.event(Event::Message {
        peer,
        frames: frames.into(),
    });
    let client = pool.client();
    let reply = pool.ask(client.hub, "connection_request", json!({}));
    assert_eq!(reply.content["engines"], json!({"0": "uuid-0"}));
}

#[test]
fn an_engine_unregisters_only_itself() {
    let mut pool = Pool::new();
    let client = pool.client();
    let (first, second) = (pool.engine("uuid-0"), pool.engine("uuid-1"));
    let unregister = |pool: &mut Pool, peer, id| {
        let content = json!({ "id": id });
        pool.request(peer, &[], "unregistration_request", json!({}), content);
        pool.live(GRACE, &[&first, &second]);
    };
    unregister(&mut pool, second.registration, Some(first.id));
    let reply = pool.ask(client.hub, "connection_request", json!({}));
    assert_eq!(
        reply.content["engines"],
        json!({"0": "uuid-0", "1": "uuid-1"})
    );
    // One that got no reply to its registration has no number to give.
    unregister(&mut pool, second.registration, None);
    let reply = pool.ask(client.hub, "connection_request", json!({}));
    assert_eq!(reply.content["engines"], json!({"0": "uuid-0"}));
}

#[test]
fn an_engine_out_of_reach_that_is_reported_dead_is_forgotten() {
    let mut pool = Pool::new();
    pool.engine("uuid-0");
    pool.pass(Duration::from_secs(4));
    assert!(pool.saved_engines.as_ref().unwrap().contains("uuid-0"));
    let nanny = pool.connect(Channel::Registration, "");
    let content = json!({"id": 0});
    pool.request(nanny, &[], "unregistration_request", json!({}), content);
    pool.pass(GRACE);
    assert!(!pool.saved_engines.as_ref().unwrap().contains("uuid-0"));
}

#[test]
fn another_run_gives_out_other_routing_ids() {
    let routing_id = |seed| {
        let mut config = config();
        config.scheduler.seed = seed;
        let mut pool = Pool::with(config);
        let engine = pool.engine("uuid-0");
        let client = pool.client();
        pool.request(
            client.mux,
            &["uuid-0"],
            "apply_request",
            json!({}),
            json!({}),
        );
        pool.receive(engine.mux).routing[0].clone()
    };
    assert_ne!(routing_id(1), routing_id(1_000_000));
}

#[test]
fn requests_to_an_engine_that_never_answers_are_bounded() {
    let mut pool = Pool::new();
    let client = pool.client();
    let (silent, other) = (pool.engine("silent"), pool.engine("other"));
    for n in 0..ENGINE_QUEUE_MAX {
        pool.request(
            client.mux,
            &["silent"],
            "apply_request",
            json!({}),
            json!({}),
        );
        pool.poll_frames(silent.mux)
            .unwrap_or_else(|| panic!("request {n}"));
    }
    pool.request(
        client.mux,
        &["silent"],
        "apply_request",
        json!({}),
        json!({}),
    );
    pool.nothing_for(silent.mux);
    let reply = pool.receive(client.mux);
    assert_eq!(reply.ename(), "EngineError");
    assert!(
        reply.content["evalue"]
            .as_str()
            .unwrap()
            .contains("wait for results")
    );
    pool.request(
        client.mux,
        &["other"],
        "apply_request",
        json!({}),
        json!({}),
    );
    pool.receive(other.mux);
    pool.controller.check_invariants();
}

#[test]
fn tasks_of_empty_frames_are_bounded_too() {
    let mut pool = Pool::new();
    let client = pool.client();
    for _ in 0..80 {
        let header = pool.header("apply_request");
        let mut frames = pool.frames(&[], [&header, &json!({}), &json!({}), &json!({})], &[]);
        frames.extend(std::iter::repeat_n(bytes::Bytes::new(), 130_000));
        pool.event(Event::Message {
            peer: client.task,
            frames: frames.into(),
        });
    }
    assert_eq!(pool.receive(client.task).ename(), "MemoryError");
    pool.controller.check_invariants();
}
