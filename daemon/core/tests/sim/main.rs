//! A pool in a simulation: hub, schedulers, engines and clients under loss, delay, crash and restart, all
//! from one seed.
//!
//! ```text
//! cargo test -p piparallel-core --test sim                    # some hundred seeds
//! SIM_SEEDS=100000 cargo test -p piparallel-core --test sim   # many
//! SIM_SEED=17 cargo test -p piparallel-core --test sim -- --nocapture   # one, told
//! ```
//!
//! | file        | what it plays                                                            |
//! |-------------|--------------------------------------------------------------------------|
//! | `clock`     | virtual time                                                             |
//! | `chance`    | the only source of chance                                                |
//! | `net`       | connections: delay, silence, breaks, half-open ends, slow readers        |
//! | `engine`    | stock engines with their nannies                                         |
//! | `client`    | stock clients                                                            |
//! | `world`     | the controller in its shell, the disk, and the faults                    |
//! | `reference` | what must have happened, told from messages alone                        |
//!
//! After every event the controller's own invariants hold, and of what went in and out of it:
//!
//! * A request ends once: by the reply of the engine that has it, by one error, or, for requests to an
//!   engine that left, by the notification. A connected client gets that one answer, and nobody else.
//! * No engine gets a task that another has, that ended, that it refused, that is not meant for it, or
//!   whose dependencies are not met. A task runs again only after a failure, with a retry to spend.
//! * What the hub says (queues, results, history, records, load) is what happened.
//!
//! After the last fault everything ends: nothing is left in the controller, every engine that is alive
//! and was saved is back under its number, no dead one is listed.
//!
//! A controller that crashes loses its tasks: they are in memory, and clients are not told, as with
//! stock. What is promised across a restart is this: what the database on disk has is there, requests
//! without a result are answered with an error that says so, no late reply reaches anyone, and engines
//! that were saved come back. An engine that registered within the pause before the file is written
//! is not known to the next controller, and exits when its supervisor ends it.

#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    reason = "a test program: a panic is a failed test"
)]

mod chance;
mod client;
mod clock;
mod engine;
mod message;
mod net;
mod reference;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use world::World;

/// Seeds of an ordinary run.
const SEEDS: u64 = 300;
/// Lines printed of a failed run.
const LINES: usize = 60;

#[test]
fn a_pool_survives_what_goes_wrong() {
    if let Some(seed) = setting("SIM_SEED") {
        let (_, log, failure) = run(seed, true);
        println!("{}", log.join("\n"));
        assert!(failure.is_none(), "seed {seed} failed");
        return;
    }
    let (mut events, mut queries) = (0, 0);
    for seed in 0..setting("SIM_SEEDS").unwrap_or(SEEDS) {
        let (world, _, failure) = run(seed, false);
        if failure.is_some() {
            let (_, log, _) = run(seed, true);
            let last = log.len().saturating_sub(LINES);
            println!("{}", log[last..].join("\n"));
            panic!("seed {seed} failed: SIM_SEED={seed} tells it from the beginning");
        }
        events += world.events;
        queries += world.outside.reference.checked_queries;
    }
    println!("{events} events, {queries} answers of the hub checked");
}

#[test]
fn a_run_depends_on_its_seed_alone() {
    let (_, first, _) = run(5, true);
    let (_, second, _) = run(5, true);
    assert!(first.len() > 500 && first == second);
}

fn run(seed: u64, told: bool) -> (World, Vec<String>, Option<()>) {
    let mut world = World::new(seed, told);
    let failure = catch_unwind(AssertUnwindSafe(|| world.run()))
        .err()
        .map(|_| ());
    let log = world.take_log();
    (world, log, failure)
}

#[expect(clippy::disallowed_methods, reason = "settings of a test run")]
fn setting(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name} is a number, not {value:?}")),
    )
}
