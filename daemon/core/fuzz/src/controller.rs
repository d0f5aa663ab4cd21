//! A sequence of events for a controller: connections under any routing id, messages with anything in
//! any part, answers of the database that fit or do not, and time.

use std::time::Duration;

use bytes::Bytes;
use piparallel_core::channel::{Channel, Side};
use piparallel_core::clock::Now;
use piparallel_core::controller::{Command, Config, Controller, DatabaseKind, Event};
use piparallel_core::ids::{MsgId, PeerId};
use piparallel_core::scheduler;
use piparallel_core::task_db::memory::{MemoryDb, MemoryLimits};
use piparallel_core::task_db::{DbError, DbReply, Ticket};
use piparallel_core::wire::message::DELIMITER;
use piparallel_core::wire::sign::Signer;
use serde_json::json;

use super::Input;

const IDENTITIES: [&[u8]; 7] = [
    b"",
    b"u-0",
    b"u-1",
    b"u-2",
    b"\0\0\0\0\x01",
    b"\0\0\0\0\x02",
    b"\xff\xfe",
];
const IDS: [&str; 12] = [
    "m-0",
    "m-1",
    "m-2",
    "m-3",
    "m-4",
    "m-0_u-0",
    "m-0_u-1",
    "m-1_u-0",
    "session_1",
    "session_3",
    "",
    "\u{0}",
];
const TYPES: [&str; 24] = [
    "apply_request",
    "execute_request",
    "apply_reply",
    "execute_reply",
    "registration_request",
    "unregistration_request",
    "connection_request",
    "queue_request",
    "load_request",
    "result_request",
    "history_request",
    "db_request",
    "purge_request",
    "resubmit_request",
    "shutdown_request",
    "become_dask_request",
    "stop_distributed_request",
    "status_request",
    "stream",
    "error",
    "execute_input",
    "shutdown_reply",
    "comm_msg",
    "",
];
/// For metadata and content alike: each is read where it does not belong too.
const TEXTS: [&str; 34] = [
    "{}",
    r#"{"status":"ok","engine":"u-0","started":"2026-01-01T00:00:00.000001Z"}"#,
    r#"{"status":"error"}"#,
    r#"{"status":"aborted"}"#,
    r#"{"status":"error","dependencies_met":false}"#,
    r#"{"uuid":"u-0"}"#,
    r#"{"uuid":"u-1","id":5}"#,
    r#"{"uuid":"u-2","id":4294967295}"#,
    r#"{"id":0}"#,
    r#"{"id":null}"#,
    r#"{"targets":[["u-0",0],["u-1",1]],"is_broadcast":true,"is_coalescing":true}"#,
    r#"{"targets":[["u-0",0],["u-1",1]],"is_broadcast":true,"is_coalescing":false}"#,
    r#"{"targets":[["u-0",0],["u-0",0]],"is_coalescing":true}"#,
    r#"{"targets":[["nobody",7],["u-0",0]],"is_coalescing":true}"#,
    r#"{"targets":["u-0"],"retries":2}"#,
    r#"{"after":["m-0"],"follow":"m-1"}"#,
    r#"{"after":{"dependencies":["m-2"],"all":false,"failure":true},"timeout":1}"#,
    r#"{"retries":1,"timeout":0.5}"#,
    r#"{"timeout":1e308,"retries":-1}"#,
    r#"{"targets":null,"verbose":true}"#,
    r#"{"targets":[0,"u-1"]}"#,
    r#"{"msg_ids":["m-0","m-1"],"status_only":false}"#,
    r#"{"msg_ids":["m-0"]}"#,
    r#"{"msg_ids":"all","engine_ids":[0]}"#,
    r#"{"query":{"completed":{"$ne":null}},"keys":["msg_id","result_buffers"]}"#,
    r#"{"query":{"msg_id":{"$glob":"m-*"}}}"#,
    r#"{"scheduler_args":{"port":1}}"#,
    r#"{"name":"stdout","text":"x"}"#,
    r#"{"ename":"E","evalue":"v","traceback":[]}"#,
    r#"{"code":"1"}"#,
    "[]",
    "null",
    "\u{7f}",
    "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
];
const STEPS_MAX: usize = 200;

struct Pool {
    controller: Controller,
    now: Duration,
    peers: Vec<PeerId>,
    connected: u64,
    records: MemoryDb,
    questions: Vec<(Ticket, DbReply)>,
    dask: Vec<Ticket>,
    /// Routing frames and headers of what engines got, to be answered.
    requests: Vec<(Vec<Bytes>, Bytes)>,
    sent: u64,
}

pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let mut pool = Pool::new(match input.byte() % 8 {
        7 => DatabaseKind::None,
        _ => DatabaseKind::Memory,
    });
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        pool.step(&mut input);
        pool.carry_out();
        pool.controller.check_invariants();
    }
    // Whatever happened, time leads to an end: no timer stays due.
    for _ in 0..20 {
        pool.now = pool.now.max(pool.controller.next_timeout());
        pool.handle_timeout();
        pool.controller.check_invariants();
    }
}

impl Pool {
    fn new(database: DatabaseKind) -> Self {
        let config = Config {
            signer: Signer::new(b""),
            session: "session".into(),
            heartbeat_period: Duration::from_millis(500),
            heartbeat_misses_max: 3,
            heartbeat_told: Duration::from_secs(1),
            registration_timeout: Duration::from_secs(10),
            scheduler: scheduler::Config::default(),
            database,
            engine_connection_info: json!({}),
            engine_keys_are_known: false,
            restored_engines: Some(r#"{"engines":{"1":"u-1"},"next_id":2}"#.into()),
        };
        Self {
            controller: Controller::new(config).expect("a good file"),
            now: Duration::from_secs(1),
            peers: Vec::new(),
            connected: 0,
            records: MemoryDb::new(MemoryLimits {
                records: 20,
                bytes: 1 << 16,
            }),
            questions: Vec::new(),
            dask: Vec::new(),
            requests: Vec::new(),
            sent: 0,
        }
    }

    fn now(&self) -> Now {
        Now::new(self.now, self.now.as_micros() as i64)
    }

    fn tell(&mut self, event: Event) {
        self.controller.handle_event(self.now(), event);
    }

    fn handle_timeout(&mut self) {
        self.controller.handle_timeout(self.now());
        assert!(
            self.controller.next_timeout() > self.now,
            "a timer stays due"
        );
        self.carry_out();
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let op = input.below(16);
        let peer = match op {
            0..4 => PeerId(0),
            _ => input.pick(&self.peers).unwrap_or(PeerId(u64::MAX)),
        };
        match op {
            0 => {
                let channel = Channel::ALL[input.below(Channel::ALL.len())];
                let identity = IDENTITIES[input.below(IDENTITIES.len())];
                self.connect(channel, identity);
            }
            1 => {
                let identity = IDENTITIES[1 + input.below(3)];
                for channel in [
                    Channel::Registration,
                    Channel::MuxEngine,
                    Channel::TaskEngine,
                    Channel::BroadcastEngine,
                    Channel::ControlEngine,
                    Channel::IopubEngine,
                    Channel::HbPong,
                ] {
                    self.connect(channel, identity);
                    self.carry_out();
                }
            }
            2 => {
                let period = Duration::from_millis(u64::from(input.byte()) * 20);
                self.now += period;
                if self.controller.next_timeout() <= self.now {
                    self.handle_timeout();
                }
            }
            3 => self.answer_a_question(input),
            4 => {
                self.peers.retain(|other| *other != peer);
                self.tell(Event::Disconnected { peer });
            }
            5 => self.tell(Event::Congested { peer }),
            6 => self.tell(Event::Drained { peer }),
            7 => self.tell(Event::Alive { peer }),
            8 => self.tell(Event::Subscribed { peer }),
            9 => {
                let frames = vec![Bytes::from_static(b"0.5")];
                self.tell(Event::Message {
                    peer,
                    frames: frames.into(),
                });
            }
            10 => {
                let frames = (0..input.below(10)).map(|_| input.chunk()).collect();
                self.tell(Event::Message { peer, frames });
            }
            11 | 12 => self.reply(input, peer),
            _ => self.message(input, peer),
        }
    }

    fn connect(&mut self, channel: Channel, identity: &'static [u8]) {
        self.connected += 1;
        let peer = PeerId(self.connected);
        self.peers.push(peer);
        self.tell(Event::Connected {
            peer,
            channel,
            identity: Bytes::from_static(identity),
            curve_key: None,
            side: Side::Both,
            address: "here".into(),
        });
    }

    /// An engine answers something that it, or another, was sent.
    fn reply(&mut self, input: &mut Input<'_>, peer: PeerId) {
        let Some((mut frames, parent)) = input.pick(&self.requests) else {
            return;
        };
        self.sent += 1;
        let header = json!({ "msg_id": format!("r-{}", self.sent), "msg_type": "apply_reply" });
        let header = Bytes::from(header.to_string());
        let metadata = part(input);
        frames.extend([
            Bytes::from_static(DELIMITER),
            Bytes::new(),
            header,
            parent,
            metadata,
        ]);
        frames.push(part(input));
        frames.push(Bytes::from_static(b"result"));
        self.tell(Event::Message {
            peer,
            frames: frames.into(),
        });
    }

    fn message(&mut self, input: &mut Input<'_>, peer: PeerId) {
        let mut frames = Vec::new();
        for _ in 0..input.below(3) {
            frames.push(Bytes::from_static(
                IDENTITIES[input.below(IDENTITIES.len())],
            ));
        }
        let header = |input: &mut Input<'_>| {
            let id = IDS[input.below(IDS.len())];
            let msg_type = TYPES[input.below(TYPES.len())];
            let json = json!({ "msg_id": id, "msg_type": msg_type, "session": "u-0",
                "date": "2026-01-01T00:00:00.000001Z" });
            match input.byte() {
                255 => input.chunk(),
                254 => Bytes::from(json!([id, msg_type, "s", ""]).to_string()),
                _ => Bytes::from(json.to_string()),
            }
        };
        frames.extend([
            Bytes::from_static(DELIMITER),
            Bytes::new(),
            header(input),
            header(input),
        ]);
        frames.extend([part(input), part(input)]);
        for _ in 0..input.below(3) {
            frames.push(input.chunk());
        }
        self.tell(Event::Message {
            peer,
            frames: frames.into(),
        });
    }

    /// The database, or Dask, answers late, in any order, and now and then nonsense.
    fn answer_a_question(&mut self, input: &mut Input<'_>) {
        if let Some(ticket) = self.dask.pop() {
            let result = Err("not installed".to_owned());
            return self.tell(Event::Dask { ticket, result });
        }
        if self.questions.is_empty() {
            let (ticket, reply) = (Ticket(u64::from(input.byte())), nonsense(input));
            return self.tell(Event::DbReply { ticket, reply });
        }
        let (ticket, mut reply) = self
            .questions
            .swap_remove(input.below(self.questions.len()));
        if input.byte() == 255 {
            reply = nonsense(input);
        }
        self.tell(Event::DbReply { ticket, reply });
    }

    fn carry_out(&mut self) {
        while let Some(command) = self.controller.poll_command() {
            match command {
                Command::Send { frames, .. } => self.note_request(frames.into()),
                Command::Close { peer, .. } => self.peers.retain(|other| *other != peer),
                Command::Record(op) => self.records.apply(op),
                Command::Query { ticket, request } => {
                    self.questions.push((ticket, self.records.answer(request)));
                }
                Command::StartDask { ticket, .. } => self.dask.push(ticket),
                Command::Publish { .. }
                | Command::Probe { .. }
                | Command::SaveEngines(_)
                | Command::Drained { .. }
                | Command::StopDask
                | Command::Shutdown => {}
            }
        }
    }

    fn note_request(&mut self, frames: Vec<Bytes>) {
        let Some(at) = frames.iter().position(|frame| frame.as_ref() == DELIMITER) else {
            return;
        };
        if let Some(header) = frames.get(at + 2).cloned()
            && at > 0
            && self.requests.len() < 256
        {
            self.requests.push((frames[..at].to_vec(), header));
        }
    }
}

/// Metadata or content: one that is known, or anything.
fn part(input: &mut Input<'_>) -> Bytes {
    match input.byte() {
        255 => input.chunk(),
        n => Bytes::from_static(TEXTS[usize::from(n) % TEXTS.len()].as_bytes()),
    }
}

fn nonsense(input: &mut Input<'_>) -> DbReply {
    match input.below(4) {
        0 => DbReply::Failed(DbError::Busy),
        1 => DbReply::Purged {
            missing: vec![MsgId::new("m-0")],
        },
        2 => DbReply::Requests(Vec::new()),
        _ => DbReply::Content {
            content: input.chunk(),
            buffers: vec![input.chunk()],
        },
    }
}
