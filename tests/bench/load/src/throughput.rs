//! Scenarios that count what passes in a time: registrations, tasks, mux messages.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};

use crate::flow::{Flow, Shape, Target};
use crate::percentiles::Percentiles;
use crate::world::World;

/// A stock engine that has no registration_reply after this time gives up.
const ENGINE_TIMEOUT: Duration = Duration::from_secs(5);
/// libzmq drops messages to engines that it does not know yet, so a raw broker's engines are called until they answer.
const RAW_CALL_EVERY: Duration = Duration::from_millis(100);

/// Registers `count` engines, at most `in_flight` of them without a reply at any time, and waits for their notifications.
pub(crate) fn engines(
    world: &mut World,
    count: usize,
    in_flight: usize,
    lean: bool,
    limit: Duration,
) -> Result<Value> {
    let first = world.engines.len();
    let start = Instant::now();
    let (mut started, mut retried) = (first, world.net.retried);
    let all_in = world.turn_until(limit, |world| {
        let replied = world.engines[first..]
            .iter()
            .filter(|engine| engine.replied.is_some())
            .count();
        while started < first + count && started - first - replied < in_flight {
            // An engine that cannot be started is missed below.
            if world.add_engine(lean).is_err() {
                break;
            }
            started += 1;
        }
        started == first + count
            && world.engines[first..]
                .iter()
                .all(|engine| engine.notified.is_some())
    })?;
    retried = world.net.retried - retried;
    let news = &world.engines[first..];
    let since = |time: Option<Instant>| time.map(|time| time - start);
    let reply = Percentiles::of(news.iter().filter_map(|engine| since(engine.replied)));
    let notified = Percentiles::of(news.iter().filter_map(|engine| since(engine.notified)));
    let own = Percentiles::of(
        news.iter()
            .filter_map(|engine| Some(engine.notified? - engine.requested?)),
    );
    let given_up = news
        .iter()
        .filter(|engine| match (engine.requested, engine.replied) {
            (Some(requested), Some(replied)) => replied - requested > ENGINE_TIMEOUT,
            _ => true,
        })
        .count();
    if !all_in {
        let (replied, present) = (reply.count, notified.count);
        bail!(
            "of {count} engines, {replied} have a registration_reply and {present} are in after {} s",
            limit.as_secs()
        );
    }
    let listed = world.connection_request(limit)?;
    let present = world.engines.iter().filter(|engine| engine.is_in()).count();
    ensure!(
        listed == present,
        "connection_reply lists {listed} engines, {present} were announced"
    );
    // Every connection of every engine: a task may come on any of them.
    let open = |world: &mut World| {
        let engines = &world.engines[first..];
        engines
            .iter()
            .flat_map(|engine| &engine.tokens)
            .all(|&token| world.net.is_open(token))
    };
    ensure!(
        world.turn_until(limit, open)?,
        "not every socket for engines accepts connections"
    );
    Ok(json!({
        "count": count, "reply_s": reply, "notified_s": notified, "request_to_notified_s": own,
        "replies_later_than_5_s": given_up, "connects_retried": retried,
    }))
}

/// Engines of a raw broker: connected, and called until each has answered.
pub(crate) fn raw_engines(world: &mut World, count: usize, limit: Duration) -> Result<Value> {
    for _ in 0..count {
        world.add_raw_engine()?;
    }
    let open = |world: &mut World| {
        world
            .engines
            .iter()
            .all(|engine| world.net.is_open(engine.tokens[0]))
    };
    ensure!(
        world.turn_until(limit, open)?,
        "the broker does not accept every engine"
    );
    let deadline = Instant::now() + limit;
    loop {
        let first = world.ledger.next();
        let mut calls = Flow::new(world, 0, Shape::small(Target::Mux), count as u32)?;
        while calls.send(world).is_some() {}
        world.flush()?;
        let all = |world: &mut World| world.ledger.run_count(0, first) == count;
        let answered = world.turn_until(RAW_CALL_EVERY, all)?;
        world.turn_until(RAW_CALL_EVERY, |_| false)?;
        if answered {
            return Ok(json!({ "count": count }));
        }
        ensure!(
            Instant::now() < deadline,
            "the broker does not reach every engine"
        );
    }
}

/// How long a throughput scenario sends, and how long it may take in all.
pub(crate) struct Times {
    pub(crate) sending: Duration,
    pub(crate) limit: Duration,
}

/// Load-balanced tasks with `window` of them under way, or all submitted at once.
pub(crate) fn tasks(
    world: &mut World,
    window: Option<u32>,
    count: u32,
    times: &Times,
) -> Result<Value> {
    let first = world.ledger.next();
    let flow = Flow::new(world, 0, Shape::small(Target::Task), count)?;
    // All at once is not stopped half way.
    let sending = if window.is_some() {
        times.sending
    } else {
        times.limit
    };
    let outcome = flow.run(world, window.unwrap_or(u32::MAX), sending, times.limit)?;
    let (least, most) = world.ledger.spread(first, world.engines.len());
    Ok(json!({ "outcome": outcome, "least_per_engine": least, "most_per_engine": most }))
}

/// Requests to one engine after the other and back. Payloads make it a measurement of bandwidth.
pub(crate) fn mux(
    world: &mut World,
    window: u32,
    count: u32,
    times: &Times,
    shape: Shape,
) -> Result<Value> {
    let flow = Flow::new(world, 0, shape, count)?;
    let bytes_before = world.ledger.big_bytes;
    let outcome = flow.run(world, window, times.sending, times.limit)?;
    let bytes = world.ledger.big_bytes - bytes_before;
    let expected = u64::from(outcome.done) * (shape.request_bytes + shape.reply_bytes) as u64;
    ensure!(
        bytes == expected || outcome.unfinished > 0,
        "{bytes} bytes of payload arrived, {expected} were sent"
    );
    Ok(json!({ "outcome": outcome, "payload_bytes": bytes }))
}
