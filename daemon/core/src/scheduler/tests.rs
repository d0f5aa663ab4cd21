//! One test per rule, each a short script.

use std::time::Duration;

use super::*;

/// A scheduler, its clock, and tasks whose payload is their submission number.
pub(super) struct Pool {
    pub(super) scheduler: TaskScheduler<u32>,
    now: Duration,
    submitted: u32,
}

impl Pool {
    pub(super) fn new(config: Config, engines: &[&str]) -> Self {
        let mut pool = Self {
            scheduler: TaskScheduler::new(config),
            now: Duration::ZERO,
            submitted: 0,
        };
        for engine in engines.iter().rev() {
            assert_eq!(pool.join(engine), "");
        }
        pool
    }

    fn leastload(engines: &[&str]) -> Self {
        Self::new(Config::default(), engines)
    }

    pub(super) fn now(&self) -> Now {
        Now::new(self.now, 0)
    }

    /// Submits with these metadata.
    pub(super) fn submit(&mut self, msg_id: &str, metadata: &str) -> String {
        self.submitted += 1;
        let (msg_id, payload) = (MsgId::new(msg_id), self.submitted);
        let result = match Requirements::parse(metadata.as_bytes()) {
            Ok(requirements) => self.scheduler.handle_task(
                self.now(),
                TaskRequest {
                    msg_id,
                    requirements,
                    payload,
                },
            ),
            Err(error) => self
                .scheduler
                .handle_unreadable_task(msg_id, payload, error),
        };
        match result {
            Ok(()) => self.commands(),
            Err(DuplicateTask(id)) => format!("duplicate {id}"),
        }
    }

    pub(super) fn reply(&mut self, engine: &str, msg_id: &str, outcome: Outcome) -> String {
        let uuid = EngineUuid::new(engine);
        let reply = self
            .scheduler
            .handle_reply(self.now(), &uuid, msg_id, outcome);
        let text = match reply {
            Reply::Deliver(_) => "deliver",
            Reply::Retried => "retried",
            Reply::Unknown => "unknown",
        };
        let commands = self.commands();
        [text, &commands].join(" ").trim_end().to_owned()
    }

    fn ok(&mut self, engine: &str, msg_id: &str) -> String {
        self.reply(engine, msg_id, Outcome::Ok)
    }

    fn error(&mut self, engine: &str, msg_id: &str) -> String {
        self.reply(engine, msg_id, Outcome::Error)
    }

    pub(super) fn join(&mut self, engine: &str) -> String {
        self.scheduler
            .handle_engine_added(self.now(), EngineUuid::new(engine));
        self.commands()
    }

    pub(super) fn leave(&mut self, engine: &str) -> String {
        self.scheduler
            .handle_engine_removed(self.now(), &EngineUuid::new(engine));
        self.commands()
    }

    pub(super) fn congested(&mut self, engine: &str, congested: bool) -> String {
        let uuid = EngineUuid::new(engine);
        self.scheduler
            .handle_engine_congested(self.now(), &uuid, congested);
        self.commands()
    }

    pub(super) fn wait(&mut self, millis: u64) -> String {
        self.now += Duration::from_millis(millis);
        if self.scheduler.next_timeout().is_some_and(|t| t <= self.now) {
            self.scheduler.handle_timeout(self.now());
        }
        self.commands()
    }

    /// `task>engine` for an assignment, `task!Error` for a failure.
    fn commands(&mut self) -> String {
        self.scheduler.check_invariants();
        let mut texts = Vec::new();
        while let Some(command) = self.scheduler.poll_command() {
            texts.push(match command {
                Command::Assign { msg_id, engine, .. } => format!("{msg_id}>{engine}"),
                Command::Fail { msg_id, reason, .. } => format!("{msg_id}!{}", reason.ename()),
            });
        }
        texts.join(" ")
    }
}

#[test]
fn tasks_go_to_the_least_loaded_and_wait_in_order_for_room() {
    let mut pool = Pool::leastload(&["A", "B"]);
    assert_eq!(pool.submit("1", "{}"), "1>A");
    assert_eq!(pool.submit("2", "{}"), "2>B");
    assert_eq!(pool.submit("3", "{}"), "");
    assert_eq!(pool.submit("4", "{}"), "");
    assert_eq!(pool.scheduler.waiting_count(), 2);
    assert_eq!(pool.ok("B", "2"), "deliver 3>B");
    assert_eq!(pool.ok("A", "1"), "deliver 4>A");
    assert_eq!(pool.ok("A", "4"), "deliver");
    assert_eq!(pool.ok("B", "3"), "deliver");
    assert_eq!(pool.submit("5", "{}"), "5>B", "A was used later");
    let uuid = EngineUuid::new("B");
    assert_eq!(pool.scheduler.load(&uuid), Some(1));
    let running: Vec<_> = pool.scheduler.running_on(&uuid).collect();
    assert_eq!(running, [&MsgId::new("5")]);
    let totals = pool.scheduler.totals();
    assert_eq!((totals.submitted, totals.done, totals.failed), (5, 4, 0));
}

#[test]
fn without_a_limit_tasks_spread_by_load() {
    let config = Config {
        hwm: 0,
        ..Config::default()
    };
    let mut pool = Pool::new(config, &["A", "B"]);
    for (task, to) in [("1", "1>A"), ("2", "2>B"), ("3", "3>A"), ("4", "4>B")] {
        assert_eq!(pool.submit(task, "{}"), to);
    }
    assert_eq!(pool.ok("B", "2"), "deliver");
    assert_eq!(pool.submit("5", "{}"), "5>B");
    assert_eq!(pool.leave("B"), "4!EngineError 5!EngineError");
}

#[test]
fn a_new_engine_is_first_in_line_and_takes_what_waits() {
    let mut pool = Pool::leastload(&[]);
    assert_eq!(pool.submit("1", "{}"), "");
    assert_eq!(pool.submit("2", "{}"), "");
    assert_eq!(pool.join("A"), "1>A");
    assert_eq!(pool.join("A"), "", "it is in already");
    assert_eq!(pool.join("B"), "2>B");
    assert_eq!(pool.ok("A", "1"), "deliver");
    assert_eq!(pool.ok("B", "2"), "deliver");
    assert_eq!(pool.join("C"), "");
    assert_eq!(pool.submit("3", "{}"), "3>C");
}

#[test]
fn replies_that_no_engine_owes_are_unknown() {
    let mut pool = Pool::leastload(&["A", "B"]);
    pool.submit("1", "{}");
    assert_eq!(pool.ok("B", "1"), "unknown");
    assert_eq!(pool.ok("X", "1"), "unknown");
    assert_eq!(pool.ok("A", "2"), "unknown");
    assert_eq!(pool.ok("A", "1"), "deliver");
    assert_eq!(pool.ok("A", "1"), "unknown");
}

#[test]
fn a_second_request_of_one_id_is_dropped_until_the_first_ended() {
    let mut pool = Pool::leastload(&["A"]);
    pool.submit("1", "{}");
    assert_eq!(pool.submit("1", "{}"), "duplicate 1");
    assert_eq!(pool.submit("1", "[1]"), "duplicate 1");
    assert_eq!(pool.ok("A", "1"), "deliver");
    assert_eq!(pool.submit("1", "{}"), "1>A");
}

#[test]
fn after_waits_for_success() {
    let mut pool = Pool::leastload(&["A", "B", "C"]);
    pool.submit("1", "{}");
    pool.submit("2", "{}");
    assert_eq!(pool.submit("3", r#"{"after":["1","2"]}"#), "");
    assert_eq!(pool.submit("4", r#"{"after":["3"]}"#), "");
    assert_eq!(pool.ok("A", "1"), "deliver");
    assert_eq!(pool.ok("B", "2"), "deliver 3>C");
    assert_eq!(pool.ok("C", "3"), "deliver 4>A");
    assert_eq!(pool.submit("5", r#"{"after":["1","3"]}"#), "5>B");
}

#[test]
fn a_failure_reaches_all_that_depended_on_success() {
    let mut pool = Pool::leastload(&["A"]);
    pool.submit("1", "{}");
    pool.submit("2", r#"{"after":["1"]}"#);
    pool.submit("3", r#"{"follow":["2"]}"#);
    let on_failure = r#"{"after":{"dependencies":["3"],"success":false,"failure":true}}"#;
    pool.submit("4", on_failure);
    let expected = "deliver 2!ImpossibleDependency 3!ImpossibleDependency 4>A";
    assert_eq!(pool.error("A", "1"), expected);
    assert_eq!(
        pool.submit("5", r#"{"after":["2"]}"#),
        "5!ImpossibleDependency"
    );
}

#[test]
fn any_of_several_suffices_and_all_failing_is_impossible() {
    let mut pool = Pool::leastload(&["A", "B", "C"]);
    for task in ["1", "2"] {
        pool.submit(task, "{}");
    }
    let any = r#"{"after":{"dependencies":["1","2"],"all":false}}"#;
    pool.submit("3", any);
    assert_eq!(pool.error("A", "1"), "deliver");
    assert_eq!(pool.submit("4", any), "");
    assert_eq!(
        pool.error("B", "2"),
        "deliver 3!ImpossibleDependency 4!ImpossibleDependency"
    );
}

#[test]
fn unknown_and_own_ids_are_invalid() {
    let mut pool = Pool::leastload(&["A"]);
    assert_eq!(
        pool.submit("1", r#"{"after":"12345"}"#),
        "1!InvalidDependency"
    );
    assert_eq!(
        pool.submit("2", r#"{"follow":["2"]}"#),
        "2!InvalidDependency"
    );
    assert_eq!(pool.submit("3", r#"{"after":[3]}"#), "3!ValueError");
    // All of them count as failed for tasks that come later.
    assert_eq!(
        pool.submit("4", r#"{"after":["3"]}"#),
        "4!ImpossibleDependency"
    );
}

#[test]
fn ended_tasks_are_forgotten_in_the_end_and_the_failure_says_so() {
    let config = Config {
        finished_max: 2,
        ..Config::default()
    };
    let mut pool = Pool::new(config, &["A"]);
    for task in ["1", "2", "3"] {
        pool.submit(task, "{}");
        pool.ok("A", task);
    }
    assert_eq!(pool.submit("4", r#"{"after":["2","3"]}"#), "4>A");
    pool.ok("A", "4");
    let metadata = br#"{"after":["1"]}"#;
    let request = TaskRequest {
        msg_id: MsgId::new("5"),
        requirements: Requirements::parse(metadata).unwrap(),
        payload: 0,
    };
    pool.scheduler.handle_task(pool.now(), request).unwrap();
    let Some(Command::Fail { reason, .. }) = pool.scheduler.poll_command() else {
        panic!("it can't run")
    };
    let id = MsgId::new("1");
    let forgotten = true;
    assert_eq!(
        reason,
        Failure::InvalidDependency(Invalid::Unknown { id, forgotten })
    );
}

#[test]
fn follow_leads_to_the_engine_and_several_engines_are_impossible() {
    let mut pool = Pool::leastload(&["A", "B"]);
    pool.submit("1", "{}");
    pool.submit("2", "{}");
    assert_eq!(pool.submit("3", r#"{"follow":["1"]}"#), "");
    assert_eq!(pool.ok("B", "2"), "deliver");
    assert_eq!(pool.submit("4", r#"{"follow":["1"]}"#), "");
    assert_eq!(pool.submit("5", r#"{"follow":["2"]}"#), "5>B");
    assert_eq!(pool.ok("A", "1"), "deliver 3>A");
    assert_eq!(pool.ok("A", "3"), "deliver 4>A");
    let both = r#"{"follow":["1","2"]}"#;
    assert_eq!(pool.submit("6", both), "6!ImpossibleDependency");
    let either = r#"{"follow":{"dependencies":["1","2"],"all":false}}"#;
    assert_eq!(pool.submit("7", either), "");
    assert_eq!(pool.ok("B", "5"), "deliver 7>B");
}

#[test]
fn to_follow_an_engine_that_is_gone_is_impossible() {
    let mut pool = Pool::leastload(&["A", "B"]);
    pool.submit("1", "{}");
    pool.ok("A", "1");
    assert_eq!(pool.submit("x", r#"{"targets":["A"]}"#), "x>A");
    assert_eq!(pool.submit("2", r#"{"follow":["1"]}"#), "");
    assert_eq!(pool.leave("A"), "x!EngineError 2!ImpossibleDependency");
    assert_eq!(
        pool.submit("3", r#"{"follow":["1"]}"#),
        "3!ImpossibleDependency"
    );
    assert_eq!(pool.submit("4", r#"{"after":["1"]}"#), "4>B");
}

#[test]
fn targets_are_kept_and_must_be_registered() {
    let mut pool = Pool::leastload(&["A", "B", "C"]);
    let targets = r#"{"targets":["C","B"]}"#;
    assert_eq!(pool.submit("1", targets), "1>B");
    assert_eq!(pool.submit("2", targets), "2>C");
    assert_eq!(pool.submit("3", targets), "");
    assert_eq!(pool.submit("4", "{}"), "4>A", "3 holds nobody up");
    assert_eq!(pool.ok("A", "4"), "deliver");
    assert_eq!(pool.ok("C", "2"), "deliver 3>C");
    assert_eq!(
        pool.submit("5", r#"{"targets":["X"]}"#),
        "5!ImpossibleDependency"
    );
    assert_eq!(pool.submit("6", r#"{"targets":["B"]}"#), "");
    assert_eq!(pool.submit("7", r#"{"targets":["B","X","A"]}"#), "7>A");
    assert_eq!(pool.leave("B"), "1!EngineError 6!ImpossibleDependency");
}

#[test]
fn the_oldest_that_may_run_gets_the_room() {
    let mut pool = Pool::leastload(&["A", "B"]);
    pool.submit("1", "{}");
    pool.submit("2", "{}");
    pool.submit("3", r#"{"targets":["B"]}"#);
    pool.submit("4", "{}");
    pool.submit("5", r#"{"targets":["A"]}"#);
    pool.submit("6", "{}");
    assert_eq!(pool.ok("A", "1"), "deliver 4>A");
    assert_eq!(pool.ok("A", "4"), "deliver 5>A");
    assert_eq!(pool.ok("A", "5"), "deliver 6>A");
    assert_eq!(pool.ok("B", "2"), "deliver 3>B");
}

#[test]
fn a_retry_goes_elsewhere_and_is_first_in_line() {
    let mut pool = Pool::leastload(&["A", "B"]);
    assert_eq!(pool.submit("1", r#"{"retries":2}"#), "1>A");
    pool.submit("2", "{}");
    pool.submit("3", "{}");
    assert_eq!(pool.error("A", "1"), "retried 3>A");
    assert_eq!(pool.ok("A", "3"), "deliver", "A is not asked again");
    pool.submit("4", r#"{"targets":["A"]}"#);
    assert_eq!(pool.ok("B", "2"), "deliver 1>B");
    assert_eq!(pool.ok("A", "4"), "deliver");
    assert_eq!(
        pool.reply("B", "1", Outcome::Aborted),
        "retried 1>A",
        "a new round"
    );
    assert_eq!(pool.error("A", "1"), "deliver");
    assert_eq!(pool.scheduler.totals().retried, 2);
}

#[test]
fn with_a_timeout_a_task_that_failed_everywhere_waits_for_a_new_engine() {
    let mut pool = Pool::leastload(&["A", "B"]);
    let metadata = r#"{"retries":2,"timeout":0.1}"#;
    pool.submit("1", metadata);
    assert_eq!(pool.error("A", "1"), "retried 1>B");
    assert_eq!(pool.error("B", "1"), "retried");
    assert_eq!(pool.wait(99), "");
    assert_eq!(pool.wait(1), "1!TaskTimeout");
    pool.submit("2", metadata);
    pool.error("A", "2");
    assert_eq!(pool.error("B", "2"), "retried");
    assert_eq!(pool.wait(50), "");
    assert_eq!(pool.join("C"), "2>C");
    assert_eq!(pool.wait(500), "", "a running task does not time out");
    assert_eq!(pool.error("C", "2"), "deliver");
}

#[test]
fn a_single_engine_is_tried_again() {
    let mut pool = Pool::leastload(&["A"]);
    pool.submit("1", r#"{"retries":1}"#);
    assert_eq!(pool.error("A", "1"), "retried 1>A");
    assert_eq!(pool.error("A", "1"), "deliver");
    pool.join("B");
    pool.submit("2", r#"{"retries":1,"targets":["B"],"timeout":1}"#);
    assert_eq!(pool.error("B", "2"), "retried 2>B");
}

#[test]
fn when_the_last_engine_that_has_not_failed_it_leaves_a_new_round_begins() {
    let mut pool = Pool::leastload(&["A", "B"]);
    pool.submit("1", r#"{"retries":1}"#);
    pool.submit("2", "{}");
    assert_eq!(pool.error("A", "1"), "retried");
    assert_eq!(pool.leave("B"), "2!EngineError 1>A");
}

#[test]
fn an_engine_that_refuses_is_not_asked_again() {
    let mut pool = Pool::leastload(&["A", "B"]);
    pool.submit("1", "{}");
    let unmet = Outcome::DependenciesUnmet;
    assert_eq!(pool.reply("A", "1", unmet), "retried 1>B");
    assert_eq!(pool.reply("B", "1", unmet), "retried");
    assert_eq!(pool.join("C"), "1>C");
    assert_eq!(pool.ok("C", "1"), "deliver");
    pool.submit("2", r#"{"targets":["A","B"],"retries":5}"#);
    assert_eq!(pool.reply("A", "2", unmet), "retried 2>B");
    assert_eq!(
        pool.reply("B", "2", unmet),
        "retried 2!ImpossibleDependency"
    );
}

#[test]
fn an_engine_that_leaves_hands_its_tasks_on_at_once() {
    let mut pool = Pool::leastload(&["A", "B"]);
    pool.submit("1", r#"{"retries":1}"#);
    assert_eq!(pool.leave("A"), "1>B");
    assert_eq!(pool.ok("A", "1"), "unknown", "too late");
    assert_eq!(pool.leave("B"), "1!EngineError");
    assert_eq!(pool.leave("B"), "");
    assert_eq!(pool.submit("2", "{}"), "");
    assert_eq!(pool.join("A"), "2>A");
}

#[test]
fn waiting_tasks_time_out_and_the_clock_starts_anew_when_queued_again() {
    let mut pool = Pool::leastload(&["A", "B"]);
    pool.submit("1", r#"{"timeout":0.1,"retries":1}"#);
    pool.submit("2", "{}");
    pool.submit("3", r#"{"timeout":0.05}"#);
    pool.submit("4", r#"{"after":["2"],"timeout":0.3}"#);
    assert_eq!(pool.wait(60), "3!TaskTimeout");
    assert_eq!(pool.wait(140), "");
    assert_eq!(pool.error("A", "1"), "retried");
    assert_eq!(pool.wait(99), "");
    assert_eq!(pool.wait(1), "1!TaskTimeout 4!TaskTimeout");
    assert_eq!(pool.scheduler.next_timeout(), None);
}

#[test]
fn a_congested_engine_gets_nothing_new() {
    let mut pool = Pool::leastload(&["A", "B"]);
    assert_eq!(pool.congested("A", true), "");
    assert_eq!(pool.submit("1", "{}"), "1>B");
    assert_eq!(pool.submit("2", "{}"), "");
    assert_eq!(pool.congested("A", false), "2>A");
    assert_eq!(pool.congested("A", true), "");
    assert_eq!(pool.ok("A", "2"), "deliver");
    assert_eq!(
        pool.submit("3", r#"{"targets":["A"]}"#),
        "",
        "it may recover"
    );
}

#[test]
fn pure_goes_round_and_honours_nothing() {
    let config = Config {
        scheme: Scheme::Pure,
        ..Config::default()
    };
    let mut pool = Pool::new(config, &["A", "B"]);
    let metadata = r#"{"after":["nope"],"targets":["B"],"retries":9,"timeout":1}"#;
    for (task, to) in [("1", "1>A"), ("2", "2>B"), ("3", "3>A")] {
        assert_eq!(pool.submit(task, metadata), to);
    }
    assert_eq!(pool.reply("B", "2", Outcome::DependenciesUnmet), "deliver");
    assert_eq!(pool.error("A", "1"), "deliver");
    assert_eq!(pool.leave("A"), "3!EngineError");
}

#[test]
fn a_long_chain_of_failures_is_no_deep_recursion() {
    let mut pool = TaskScheduler::new(Config::default());
    let now = Now::new(Duration::ZERO, 0);
    pool.handle_engine_added(now, EngineUuid::new("A"));
    for n in 0..50_000_u32 {
        let before = n.saturating_sub(1).to_string();
        let mut requirements = Requirements::default();
        if n > 0 {
            requirements.after.ids.push(before.as_str().into());
        }
        let msg_id = MsgId::new(&n.to_string());
        let request = TaskRequest {
            msg_id,
            requirements,
            payload: n,
        };
        pool.handle_task(now, request).unwrap();
    }
    let reply = pool.handle_reply(now, &EngineUuid::new("A"), "0", Outcome::Error);
    assert_eq!(reply, Reply::Deliver(0));
    let commands = std::iter::from_fn(|| pool.poll_command()).count();
    assert_eq!((commands, pool.waiting_count()), (50_000, 0));
}
