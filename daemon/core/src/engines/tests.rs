use super::*;

const GRACE: Duration = Duration::from_secs(3);

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn connection(port: u16) -> Connection {
    let mut map = serde_json::Map::new();
    map.insert("registration".to_owned(), port.into());
    Connection::new(map)
}

fn supervisor(count: u32, revive: bool) -> Supervisor {
    let warming = Warming {
        imports: vec!["numpy".to_owned()],
        profile: "/p".to_owned(),
        nice: 0,
        oom_score_adj: 0,
    };
    let settings = Settings {
        count,
        warming,
        memory_limit: Some(100 << 20),
        revive,
    };
    Supervisor::new(Duration::ZERO, settings)
}

fn commands(supervisor: &mut Supervisor) -> Vec<String> {
    supervisor.check_invariants();
    let all = std::iter::from_fn(|| supervisor.poll_command());
    all.map(|command| match command {
        Command::SpawnParent => "spawn".to_owned(),
        Command::ReleaseParent => "release".to_owned(),
        Command::KillParent => "kill".to_owned(),
        Command::Tell(Order::Warm(_)) => "warm".to_owned(),
        Command::Tell(Order::Start { slot, connection }) => {
            format!("start {slot} at {}", connection["registration"])
        }
        Command::Tell(Order::Signal { pid, signal }) => format!("signal {pid} {signal}"),
    })
    .collect()
}

fn tell(supervisor: &mut Supervisor, now: Duration, report: Report) {
    supervisor.handle_event(now, Event::Report(report));
}

fn warm(supervisor: &mut Supervisor, now: Duration) {
    let report = Report::Warm {
        versions: BTreeMap::new(),
        failed_imports: BTreeMap::new(),
    };
    tell(supervisor, now, report);
}

fn started(supervisor: &mut Supervisor, now: Duration, slot: u32, pid: u32) {
    let (slot, pid) = (Slot(slot), ProcessId(pid));
    tell(supervisor, now, Report::Started { slot, pid });
    let report = Report::Registered {
        slot,
        pid,
        id: EngineId(pid.0),
        uuid: format!("uuid {pid}"),
    };
    tell(supervisor, now, report);
}

fn ended(supervisor: &mut Supervisor, now: Duration, slot: u32, pid: u32, code: i32) {
    let report = Report::Ended {
        slot: Slot(slot),
        pid: ProcessId(pid),
        code: Some(code),
        signal: None,
        asked: None,
    };
    tell(supervisor, now, report);
}

/// Two engines, 10 and 11, in the pool at port 1.
fn running() -> Supervisor {
    let mut supervisor = supervisor(2, false);
    warm(&mut supervisor, secs(1));
    supervisor.connect(secs(1), connection(1), GRACE);
    started(&mut supervisor, secs(2), 0, 10);
    started(&mut supervisor, secs(2), 1, 11);
    commands(&mut supervisor);
    assert_eq!(supervisor.status().running(), 2);
    supervisor
}

#[test]
fn imports_begin_before_there_is_a_pool() {
    let mut supervisor = supervisor(2, false);
    assert_eq!(commands(&mut supervisor), ["spawn", "warm"]);
    warm(&mut supervisor, secs(1));
    assert_eq!(commands(&mut supervisor), [""; 0]);
    supervisor.connect(secs(2), connection(1), GRACE);
    assert_eq!(commands(&mut supervisor), ["start 0 at 1", "start 1 at 1"]);
}

#[test]
fn no_engines_no_python() {
    let mut supervisor = supervisor(0, false);
    supervisor.connect(secs(1), connection(1), GRACE);
    assert_eq!(commands(&mut supervisor), [""; 0]);
    supervisor.stop(secs(2), GRACE);
    assert!(supervisor.is_over());
}

#[test]
fn one_engine_that_fails_starts_again_after_a_pause_that_doubles() {
    let mut supervisor = running();
    let mut now = secs(3);
    for (n, pause) in [500, 1000, 2000, 4000].into_iter().enumerate() {
        let pid = if n == 0 { 10 } else { 19 + n as u32 };
        ended(&mut supervisor, now, 0, pid, 1);
        assert_eq!(commands(&mut supervisor), [""; 0]);
        let next = now + Duration::from_millis(pause);
        assert_eq!(supervisor.next_timeout(), Some(next));
        supervisor.handle_timeout(next);
        assert_eq!(commands(&mut supervisor), ["start 0 at 1"]);
        started(&mut supervisor, next, 0, 20 + n as u32);
        now = next;
    }
    let slots = supervisor.status().slots;
    assert_eq!((slots[0].restarts, slots[1].restarts), (4, 0));
    // After a stable minute it starts from the shortest pause again.
    now += STABLE_AFTER + secs(1);
    ended(&mut supervisor, now, 0, 23, 1);
    assert_eq!(supervisor.next_timeout(), Some(now + PAUSE_MIN));
}

#[test]
fn contact_with_the_pool_ends_all_pauses() {
    let mut supervisor = running();
    for (slot, pid) in [(0, 10), (1, 11)] {
        ended(&mut supervisor, secs(3), slot, pid, 255);
    }
    supervisor.connect(secs(3), connection(1), GRACE);
    assert_eq!(commands(&mut supervisor), ["start 0 at 1", "start 1 at 1"]);
}

#[test]
fn an_engine_that_a_client_shut_down_stays_ended_or_comes_back() {
    let mut supervisor = running();
    ended(&mut supervisor, secs(3), 0, 10, 0);
    assert_eq!(supervisor.status().slots[0].state, SlotState::Ended);
    let report = Report::Ended {
        slot: Slot(1),
        pid: ProcessId(11),
        code: Some(1),
        signal: None,
        asked: Some(Asked::Restart),
    };
    tell(&mut supervisor, secs(3), report);
    assert_eq!(supervisor.status().slots[1].state, SlotState::Waiting);
    let mut reviving = supervisor_that_revives();
    ended(&mut reviving, secs(3), 0, 10, 0);
    assert_eq!(reviving.status().slots[0].state, SlotState::Waiting);
}

fn supervisor_that_revives() -> Supervisor {
    let mut supervisor = supervisor(1, true);
    warm(&mut supervisor, secs(1));
    supervisor.connect(secs(1), connection(1), GRACE);
    started(&mut supervisor, secs(1), 0, 10);
    supervisor
}

#[test]
fn too_much_memory_ends_one_engine_and_says_why() {
    let mut supervisor = running();
    let memory = |bytes| Event::Memory {
        pid: ProcessId(10),
        bytes,
    };
    supervisor.handle_event(secs(3), memory(99 << 20));
    assert_eq!(commands(&mut supervisor), [""; 0]);
    supervisor.handle_event(secs(3), memory(200 << 20));
    supervisor.handle_event(secs(3), memory(201 << 20));
    assert_eq!(commands(&mut supervisor), ["signal 10 9"]);
    ended(&mut supervisor, secs(4), 0, 10, -9);
    let slots = supervisor.status().slots;
    let reason = slots[0].reason.as_deref();
    assert_eq!(reason, Some("used 200 MB of memory, its limit is 100 MB"));
    assert_eq!(slots[1].state, SlotState::Running);
}

#[test]
fn another_pool_takes_over_when_the_engines_have_ended() {
    let mut supervisor = running();
    supervisor.connect(secs(3), connection(2), GRACE);
    assert_eq!(commands(&mut supervisor), ["signal 10 15", "signal 11 15"]);
    ended(&mut supervisor, secs(4), 0, 10, 0);
    assert_eq!(commands(&mut supervisor), ["start 0 at 2"]);
    supervisor.handle_timeout(secs(6));
    assert_eq!(commands(&mut supervisor), ["signal 11 9"]);
    ended(&mut supervisor, secs(6), 1, 11, 0);
    assert_eq!(commands(&mut supervisor), ["start 1 at 2"]);
}

#[test]
fn without_a_pool_engines_end_and_the_warm_parent_stays() {
    let mut supervisor = running();
    supervisor.disconnect(secs(3), secs(300));
    assert_eq!(commands(&mut supervisor), ["signal 10 15", "signal 11 15"]);
    ended(&mut supervisor, secs(4), 0, 10, 0);
    ended(&mut supervisor, secs(200), 1, 11, 0);
    assert_eq!(commands(&mut supervisor), [""; 0]);
    supervisor.connect(secs(201), connection(1), GRACE);
    assert_eq!(commands(&mut supervisor), ["start 0 at 1", "start 1 at 1"]);
}

#[test]
fn a_restart_renews_the_warm_parent_too() {
    let mut supervisor = running();
    supervisor.restart(secs(3), GRACE);
    commands(&mut supervisor);
    ended(&mut supervisor, secs(4), 0, 10, 0);
    ended(&mut supervisor, secs(4), 1, 11, 0);
    assert_eq!(commands(&mut supervisor), ["release"]);
    let gone = Event::ParentEnded {
        why: "ended".to_owned(),
    };
    supervisor.handle_event(secs(5), gone);
    assert_eq!(commands(&mut supervisor), ["spawn", "warm"]);
    warm(&mut supervisor, secs(6));
    assert_eq!(commands(&mut supervisor), ["start 0 at 1", "start 1 at 1"]);
}

#[test]
fn a_warm_parent_that_dies_is_replaced_and_its_engines_too() {
    let mut supervisor = running();
    let gone = Event::ParentEnded {
        why: "was killed".to_owned(),
    };
    supervisor.handle_event(secs(3), gone);
    assert_eq!(commands(&mut supervisor), [""; 0]);
    assert_eq!(supervisor.status().trouble.as_deref(), Some("was killed"));
    supervisor.handle_timeout(secs(3) + PAUSE_MIN);
    assert_eq!(commands(&mut supervisor), ["spawn", "warm"]);
    warm(&mut supervisor, secs(5));
    assert_eq!(commands(&mut supervisor), ["start 0 at 1", "start 1 at 1"]);
    assert_eq!(supervisor.status().trouble, None);
}

#[test]
fn stopping_has_an_end_however_stubborn_they_are() {
    let mut supervisor = running();
    supervisor.stop(secs(3), GRACE);
    assert_eq!(commands(&mut supervisor), ["signal 10 15", "signal 11 15"]);
    // Somebody is in a hurry.
    supervisor.stop(secs(4), Duration::ZERO);
    supervisor.handle_timeout(secs(4));
    assert_eq!(commands(&mut supervisor), ["signal 10 9", "signal 11 9"]);
    ended(&mut supervisor, secs(4), 0, 10, -9);
    ended(&mut supervisor, secs(4), 1, 11, -9);
    assert_eq!(commands(&mut supervisor), ["release"]);
    supervisor.handle_timeout(secs(4) + RELEASE_MAX);
    assert_eq!(commands(&mut supervisor), ["kill"]);
    assert!(!supervisor.is_over());
    let gone = Event::ParentEnded {
        why: "was killed".to_owned(),
    };
    supervisor.handle_event(secs(11), gone);
    assert!(supervisor.is_over());
}

#[test]
fn reports_about_other_processes_change_nothing() {
    let mut supervisor = running();
    let before = supervisor.status();
    ended(&mut supervisor, secs(3), 0, 11, 1);
    ended(&mut supervisor, secs(3), 7, 10, 1);
    let other = Event::Memory {
        pid: ProcessId(1),
        bytes: u64::MAX,
    };
    supervisor.handle_event(secs(3), other);
    started(&mut supervisor, secs(3), 0, 12);
    assert_eq!(commands(&mut supervisor), [""; 0]);
    assert_eq!(supervisor.status(), before);
}

#[test]
fn messages_have_the_shape_that_python_reads_and_writes() {
    let order = Order::Start {
        slot: Slot(2),
        connection: connection(1),
    };
    let text = serde_json::to_string(&order).unwrap();
    let start = r#"{"order":"start","slot":2,"connection":{"registration":1}}"#;
    assert_eq!(text, start);
    let text = r#"{"event":"ended","slot":0,"pid":9,"code":null,"signal":9,"asked":"end"}"#;
    let report: Report = serde_json::from_str(text).unwrap();
    let expected = Report::Ended {
        slot: Slot(0),
        pid: ProcessId(9),
        code: None,
        signal: Some(9),
        asked: Some(Asked::End),
    };
    assert_eq!(report, expected);
}
