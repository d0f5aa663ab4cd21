//! Machines of engines under crashes, failing starts, greedy and stubborn engines, and changing wishes.

#[path = "../seeds/mod.rs"]
mod seeds;
mod world;

use std::time::Duration;

use seeds::play;
use world::{Trouble, World};

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn whatever_happened_all_engines_run_when_it_is_over() {
    play(|seed| {
        let mut world = World::new(seed, 1 + (seed % 6) as u32);
        world.connect(1);
        world.run(secs(300), Trouble::Every(secs(2)));
        // Pauses of half a minute of the warm parent, and of an engine that could not be forked, once or twice.
        world.connect(1);
        world.run(secs(150), Trouble::None);
        world.assert_all_run_for(1);
        let starts = world.starts;
        world.run(secs(600), Trouble::None);
        assert_eq!(world.starts, starts, "no restart without a cause");
    });
}

#[test]
fn engines_work_for_the_last_pool_that_was_named() {
    play(|seed| {
        let mut world = World::new(seed, 1 + (seed % 6) as u32);
        for pool in 1..6 {
            world.wish(pool);
            let pause = world.chance.ms(0, 8000);
            world.run(pause, Trouble::Every(secs(3)));
        }
        world.connect(9);
        world.run(secs(120), Trouble::None);
        world.assert_all_run_for(9);
    });
}

#[test]
fn an_engine_that_cannot_start_is_not_tried_without_end() {
    play(|seed| {
        let mut world = World::new(seed, 4);
        world.connect(1);
        world.run(secs(600), Trouble::NoneStarts);
        // The pauses double to half a minute: about 26 attempts in ten minutes.
        assert!(world.starts <= 4 * 27, "{} starts", world.starts);
        assert!(world.starts >= 4 * 10, "{} starts", world.starts);
    });
}

#[test]
fn stopping_ends_everything_in_time_at_whatever_moment() {
    play(|seed| {
        let mut world = World::new(seed, 1 + (seed % 6) as u32);
        world.connect(1);
        let before = world.chance.ms(0, 20_000);
        world.run(before, Trouble::Every(secs(2)));
        world.stop(secs(3));
        // The grace period, one more kill, and the end of the warm parent.
        world.run(secs(3 + 2 + 7), Trouble::Every(secs(2)));
        world.assert_over();
    });
}
