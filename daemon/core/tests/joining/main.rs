//! Nodes that join a pool over connections that break, with crashes of either side and an operator who changes his
//! mind.

#[path = "../seeds/mod.rs"]
mod seeds;
mod world;

use std::time::Duration;

use piparallel_core::join::keys::SharedKey;
use seeds::play;
use world::{Card, World};

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn all_with_the_key_get_in_at_once_and_nobody_else() {
    play(|seed| {
        let cards = [Card::RightKey, Card::RightKey, Card::WrongKey, Card::Blank];
        let mut world = World::new(seed, &cards, 0);
        world.run(secs(5));
        assert!(world.is_in(0) && world.is_in(1));
        assert!(!world.is_in(2) && !world.is_in(3));
        assert!(world.nodes[3].is_pending);
    });
}

#[test]
fn through_broken_connections_and_crashes_all_that_belong_come_back() {
    play(|seed| {
        let cards = [
            Card::RightKey,
            Card::RightKey,
            Card::RightKey,
            Card::WrongKey,
        ];
        let mut world = World::new(seed, &cards, 100);
        for _ in 0..8 {
            world.run(secs(2));
            match world.chance.below(4) {
                0 => world.crash_door(),
                1 if world.door.is_none() => world.start_door(),
                2 => world.set_up((seed % 4) as usize, false),
                _ => world.set_up((seed % 4) as usize, true),
            }
        }
        world.calm();
        for node in 0..3 {
            assert!(world.is_in(node), "node {node}");
        }
        assert!(!world.is_in(3));
    });
}

#[test]
fn what_an_operator_decides_holds_whatever_breaks() {
    play(|seed| {
        let cards = [Card::RightKey, Card::Blank, Card::RightKey, Card::Blank];
        let mut world = World::new(seed, &cards, 50);
        for _ in 0..12 {
            world.run(Duration::from_millis(1500));
            let node = world.chance.below(4) as usize;
            match world.chance.below(5) {
                0 | 1 => world.approve(node),
                2 => world.revoke(node),
                3 => world.crash_door(),
                _ => {}
            }
            if world.door.is_none() && world.chance.happens(60) {
                world.start_door();
            }
        }
        world.calm();
        for (node, card) in cards.into_iter().enumerate() {
            let id = world.id(node);
            let belongs = card == Card::RightKey || world.approved.contains(&id);
            assert_eq!(
                world.is_in(node),
                belongs && !world.revoked.contains(&id),
                "node {node}"
            );
        }
    });
}

#[test]
fn a_pairing_window_lets_in_no_more_than_it_says() {
    play(|seed| {
        let mut world = World::new(seed, &[Card::Blank; 5], 50);
        let count = (seed % 4) as u32 + 1;
        if seed % 2 == 0 {
            world.run(secs(5));
        }
        world.open_window(secs(30), count);
        world.run(secs(20));
        world.calm();
        let many = (0..5).filter(|node| world.is_in(*node)).count();
        assert_eq!(many, count as usize);
        assert_eq!(world.window_left, 0);
    });
}

#[test]
fn who_was_in_when_the_key_changed_stays_in_and_the_old_key_opens_nothing() {
    play(|seed| {
        let mut world = World::new(seed, &[Card::RightKey; 4], 20);
        world.set_up(3, false);
        world.run(secs(8));
        let new = SharedKey::new([seed as u8; 32]);
        world.rotate(new);
        world.set_up(3, true);
        world.run(secs(3));
        world.crash_door();
        world.start_door();
        world.calm();
        for node in 0..3 {
            assert!(world.is_in(node), "node {node}");
        }
        assert!(!world.is_in(3), "its key is the old one");
    });
}
