//! What tasks ask of the scheduler: the metadata of some tasks, and what engines do to them.

use std::time::Duration;

use piparallel_core::clock::Now;
use piparallel_core::ids::{EngineUuid, MsgId};
use piparallel_core::scheduler::{
    Command, Config, Outcome, Reply, Requirements, Scheme, TaskRequest, TaskScheduler,
};

use super::Input;

const OUTCOMES: [Outcome; 4] = [
    Outcome::Ok,
    Outcome::Error,
    Outcome::Aborted,
    Outcome::DependenciesUnmet,
];
const SCHEMES: [Scheme; 6] = [
    Scheme::LeastLoad,
    Scheme::Lru,
    Scheme::PlainRandom,
    Scheme::Pure,
    Scheme::TwoBin,
    Scheme::Weighted,
];

pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let config = Config {
        scheme: SCHEMES[input.below(SCHEMES.len())],
        hwm: u32::from(input.byte() % 3),
        seed: 1,
        finished_max: 4,
    };
    let mut scheduler = TaskScheduler::new(config);
    let mut now = Now::new(Duration::ZERO, 0);
    let mut open = 0;
    let mut running: Vec<(EngineUuid, MsgId)> = Vec::new();
    for step in 0..64 {
        if input.is_empty() {
            break;
        }
        let engine = EngineUuid::new(&format!("u-{}", input.below(3)));
        match input.below(6) {
            0 => scheduler.handle_engine_added(now, engine),
            1 => {
                running.retain(|(at, _)| *at != engine);
                scheduler.handle_engine_removed(now, &engine);
            }
            2 => scheduler.handle_engine_congested(now, &engine, step % 2 == 0),
            3 => {
                if !running.is_empty() {
                    let (engine, id) = running.swap_remove(input.below(running.len()));
                    let outcome = OUTCOMES[input.below(OUTCOMES.len())];
                    let reply = scheduler.handle_reply(now, &engine, id.as_str(), outcome);
                    assert_ne!(reply, Reply::Unknown, "{engine} has {id}");
                    open -= usize::from(matches!(reply, Reply::Deliver(())));
                }
            }
            4 => {
                now.monotonic += Duration::from_millis(u64::from(input.byte()) * 50);
                scheduler.handle_timeout(now);
                assert!(scheduler.next_timeout().is_none_or(|at| at > now.monotonic));
            }
            _ => {
                let msg_id = MsgId::new(&format!("m-{}", input.below(8)));
                let metadata = input.chunk();
                let taken = match Requirements::parse(&metadata) {
                    Ok(requirements) => {
                        let task = TaskRequest {
                            msg_id,
                            requirements,
                            payload: (),
                        };
                        scheduler.handle_task(now, task)
                    }
                    Err(error) => scheduler.handle_unreadable_task(msg_id, (), error),
                };
                open += usize::from(taken.is_ok());
            }
        }
        while let Some(command) = scheduler.poll_command() {
            match command {
                Command::Assign { msg_id, engine, .. } => running.push((engine, msg_id)),
                Command::Fail { msg_id, reason, .. } => {
                    assert!(running.iter().all(|(_, id)| *id != msg_id), "{msg_id} runs");
                    assert!(!reason.traceback(&msg_id).is_empty());
                    open -= 1;
                }
            }
        }
        assert_eq!(open, scheduler.waiting_count() + scheduler.running_count());
        scheduler.check_invariants();
    }
}
