//! Pools of role machines under loss, delay, crashes, partitions and forged announcements.

#[path = "../seeds/mod.rs"]
mod seeds;
mod world;

use std::time::Duration;

use piparallel_core::discovery::Part;
use seeds::play;
use world::World;

const TAKEOVER: Duration = Duration::from_secs(12);

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn started(seed: u64, loss: u64) -> World {
    let mut world = World::new(seed, 1 + (seed % 8) as usize, loss, TAKEOVER);
    for node in 0..world.len() {
        world.start(node);
    }
    world
}

#[test]
fn nodes_that_start_at_once_have_one_controller_within_five_seconds() {
    play(|seed| {
        let mut world = started(seed, 0);
        world.run(secs(5), |_| {});
        assert!(world.is_one_pool(), "{}", world.describe());
        let changes = world.changes.clone();
        world.run(secs(120), |_| {});
        assert!(world.is_one_pool(), "{}", world.describe());
        assert_eq!(world.changes, changes, "no change without a cause");
        assert_eq!(changes.len(), 1);
    });
}

#[test]
fn loss_delays_the_choice_and_does_not_change_it() {
    play(|seed| {
        let mut world = started(seed, 25);
        // Two that did not hear each other may both have begun; the first that hears of the other settles it.
        world.run(secs(20), |_| {});
        assert!(world.is_one_pool(), "{}", world.describe());
        let changes = world.changes.clone();
        world.run(secs(120), |_| {});
        assert!(world.is_one_pool(), "{}", world.describe());
        assert_eq!(world.changes, changes, "no change without a cause");
    });
}

#[test]
fn nodes_that_come_one_by_one_join() {
    play(|seed| {
        let mut world = World::new(seed, 6, seed % 20, TAKEOVER);
        for node in 0..world.len() {
            world.start(node);
            let pause = world.chance.ms(0, 8000);
            world.run(pause, |_| {});
        }
        world.run(secs(15), |_| {});
        assert!(world.is_one_pool(), "{}", world.describe());
    });
}

#[test]
fn a_controller_that_restarts_is_the_controller_again() {
    play(|seed| {
        let mut world = started(seed, seed % 15);
        world.run(secs(15), |_| {});
        let controller = world.controllers()[0];
        world.crash(controller);
        let away = world.chance.ms(0, 8000);
        world.run(away, |_| {});
        world.start(controller);
        let restarted = world.now;
        world.run(secs(5), |_| {});
        assert_eq!(world.controllers(), [controller], "{}", world.describe());
        world.run(secs(10), |_| {});
        assert!(world.is_one_pool(), "{}", world.describe());
        let at = world.changes.last().map(|(at, _)| *at);
        assert!(
            at.is_some_and(|at| at < restarted + secs(2)),
            "back within two seconds"
        );
    });
}

#[test]
fn a_controller_that_stays_away_is_replaced_and_joins_when_it_returns() {
    play(|seed| {
        let mut world = World::new(seed, 3 + (seed % 5) as usize, seed % 15, TAKEOVER);
        for node in 0..world.len() {
            world.start(node);
        }
        world.run(secs(15), |_| {});
        let first = world.controllers()[0];
        world.crash(first);
        world.run(TAKEOVER + secs(30), |_| {});
        assert!(world.is_one_pool(), "{}", world.describe());
        world.start(first);
        world.run(secs(20), |_| {});
        assert!(world.is_one_pool(), "{}", world.describe());
    });
}

#[test]
fn a_whole_pool_without_power_comes_back_with_its_controller() {
    play(|seed| {
        let mut world = started(seed, 0);
        world.run(secs(10), |_| {});
        let controller = world.controllers()[0];
        for node in 0..world.len() {
            world.crash(node);
        }
        world.run(secs(10), |_| {});
        for node in 0..world.len() {
            world.start(node);
        }
        world.run(secs(5), |_| {});
        assert!(world.is_one_pool(), "{}", world.describe());
        assert_eq!(world.controllers(), [controller]);
    });
}

#[test]
fn a_partition_that_heals_leaves_the_first_controller() {
    play(|seed| {
        let mut world = World::new(seed, 2 + (seed % 6) as usize, seed % 15, TAKEOVER);
        for node in 0..world.len() {
            world.start(node);
        }
        world.run(secs(15), |_| {});
        let first = world.controllers()[0];
        let boundary = 1 + (world.chance.below(world.len() as u64 - 1)) as usize;
        world.divide(|node| u32::from(node < boundary));
        let time = world.chance.ms(500, 60_000);
        world.run(time, |_| {});
        world.divide(|_| 0);
        world.run(secs(25), |_| {});
        assert!(world.is_one_pool(), "{}", world.describe());
        assert_eq!(world.controllers(), [first], "{}", world.describe());
    });
}

#[test]
fn forged_announcements_dethrone_nobody_and_block_nothing_for_long() {
    play(|seed| {
        let mut world = started(seed, 0);
        for round in 0..40 {
            let part = if world.chance.happens(50) {
                Part::Controller
            } else {
                Part::Candidate
            };
            let instance = format!("attacker {}", world.chance.below(4));
            world.forge(&instance, part, round);
            world.run(secs(1), |_| {});
        }
        assert!(world.is_one_pool(), "{}", world.describe());
        let changes = world.changes.clone();
        for round in 0..60 {
            world.forge("attacker", Part::Controller, round % 2);
            world.run(secs(1), |_| {});
        }
        assert!(world.is_one_pool(), "{}", world.describe());
        assert_eq!(world.changes, changes);
    });
}

#[test]
fn whatever_happens_there_is_one_pool_in_the_end() {
    play(|seed| {
        let mut world = World::new(seed, 2 + (seed % 7) as usize, seed % 30, TAKEOVER);
        for _ in 0..30 {
            let node = world.chance.below(world.len() as u64) as usize;
            match world.chance.below(4) {
                0 if world.is_up(node) => world.crash(node),
                0 | 1 if !world.is_up(node) => world.start(node),
                2 => {
                    let salt = world.chance.next();
                    world.divide(|node| (salt >> (node * 3) & 1) as u32);
                }
                _ => world.divide(|_| 0),
            }
            let pause = world.chance.ms(0, 9000);
            world.run(pause, |_| {});
        }
        world.divide(|_| 0);
        for node in 0..world.len() {
            if !world.is_up(node) {
                world.start(node);
            }
        }
        world.run(TAKEOVER + secs(45), |_| {});
        assert!(world.is_one_pool(), "{}", world.describe());
    });
}
