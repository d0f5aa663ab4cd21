//! Scenarios in which something goes wrong beside the measurement: a reader stops, an engine dies or freezes.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::conn::Channel;
use crate::flow::{Flow, Shape, Target};
use crate::ledger::State;
use crate::peers::Mode;
use crate::percentiles::Percentiles;
use crate::world::World;

const OPEN_LIMIT: Duration = Duration::from_secs(10);
const REPLY_LIMIT: Duration = Duration::from_secs(30);
/// Size of the replies that a stopped client has asked for.
const REPLY_BYTES: usize = 1 << 20;
/// Size of one piece of engine output.
const OUTPUT_BYTES: usize = 16 * 1024;
/// Below this pace of disturbance its own cost for the CPU does not show in the latency.
const BYTES_PER_SECOND: f64 = 40e6;

/// Round trips one at a time, `count` of them at most, or as many as fit in `limit`.
pub(crate) fn latency(
    world: &mut World,
    target: Target,
    count: u32,
    limit: Duration,
) -> Result<Percentiles> {
    round_trips(world, target, count, limit, |_, _| Ok(()))
}

fn round_trips(
    world: &mut World,
    target: Target,
    count: u32,
    limit: Duration,
    mut between: impl FnMut(&mut World, Duration) -> Result<()>,
) -> Result<Percentiles> {
    let mut flow = Flow::new(world, 0, Shape::small(target), count)?;
    world.ledger.latencies.clear();
    let start = Instant::now();
    let mut next = world.ledger.next();
    while start.elapsed() < limit {
        between(world, start.elapsed())?;
        let Some(number) = flow.send(world) else {
            break;
        };
        next = number + 1;
        world.ledger.sent_now(number);
        world.flush()?;
        let done = |world: &mut World| world.ledger.state(number) != State::Waiting;
        ensure!(
            world.turn_until(REPLY_LIMIT, done)?,
            "no reply within {} s",
            REPLY_LIMIT.as_secs()
        );
    }
    world.ledger.cancel_from(next);
    Ok(Percentiles::of(world.ledger.latencies.drain(..)))
}

/// A client asks for `megabytes` of replies and stops reading. The other client's round trips before and meanwhile.
pub(crate) fn stopped_client(
    world: &mut World,
    megabytes: usize,
    limit: Duration,
) -> Result<Value> {
    let before = latency(world, Target::Mux, 20_000, Duration::from_secs(2))?;
    let stopped = world.add_client(&[Channel::Mux])?;
    world.clients[stopped].may_be_dropped = true;
    let token = world.clients[stopped].mux.context("a client without mux")?;
    world.wait_open(token, OPEN_LIMIT)?;
    let count = megabytes as u32;
    let first = world.ledger.next();
    let shape = Shape {
        reply_bytes: REPLY_BYTES,
        ..Shape::small(Target::Mux)
    };
    let mut big = Flow::new(world, stopped, shape, count)?;
    world.net.set_paused(token, true);
    let pace = megabytes as f64 * REPLY_BYTES as f64 / BYTES_PER_SECOND;
    let during = Duration::from_secs_f64(pace) + Duration::from_secs(1);
    let mut asked = 0;
    let meanwhile = round_trips(
        world,
        Target::Mux,
        200_000,
        during.min(limit),
        |world, elapsed| {
            while asked < count
                && f64::from(asked) < elapsed.as_secs_f64() / pace * f64::from(count)
            {
                big.send(world);
                asked += 1;
            }
            Ok(())
        },
    )?;
    let produced = world.ledger.run_count(stopped, first);
    world.net.set_paused(token, false);
    world.read(token)?;
    // Either all comes in the end, or the controller had dropped the client: both are ways to be bounded.
    let all =
        |world: &mut World| world.clients[stopped].dropped || world.ledger.done(stopped) == asked;
    let settled = world.turn_until(limit, all)?;
    let (dropped, delivered) = (world.clients[stopped].dropped, world.ledger.done(stopped));
    world.net.close(token);
    Ok(json!({
        "before_s": before, "meanwhile_s": meanwhile, "asked_mb": asked, "produced_mb": produced,
        "delivered_mb": delivered, "dropped": dropped, "settled": settled,
    }))
}

/// Engines print `megabytes`; one subscriber reads, one does not. Round trips before and meanwhile.
pub(crate) fn stopped_subscriber(
    world: &mut World,
    megabytes: usize,
    limit: Duration,
) -> Result<Value> {
    let before = latency(world, Target::Mux, 20_000, Duration::from_secs(2))?;
    let stopped = world.add_client(&[Channel::Iopub])?;
    world.clients[stopped].may_be_dropped = true;
    let token = world.clients[stopped]
        .iopub
        .context("a client without iopub")?;
    world.wait_open(token, OPEN_LIMIT)?;
    // Its subscription is on the way behind the handshake; a moment later it is in force.
    world.turn_until(Duration::from_millis(200), |_| false)?;
    world.net.set_paused(token, true);
    let count = megabytes * (1 << 20) / OUTPUT_BYTES;
    let pace = (count * OUTPUT_BYTES) as f64 / BYTES_PER_SECOND;
    let during = Duration::from_secs_f64(pace) + Duration::from_secs(1);
    let outputs_before = world.clients[0].outputs;
    let content = format!(
        r#"{{"name":"stdout","text":"{}"}}"#,
        "o".repeat(OUTPUT_BYTES)
    );
    let mut printed = 0;
    let meanwhile = round_trips(
        world,
        Target::Mux,
        200_000,
        during.min(limit),
        |world, elapsed| {
            while printed < count && (printed as f64) < elapsed.as_secs_f64() / pace * count as f64
            {
                let engine = printed % world.engines.len();
                world.print(engine, content.as_bytes());
                printed += 1;
            }
            Ok(())
        },
    )?;
    let all = |world: &mut World| world.clients[0].outputs - outputs_before >= printed as u64;
    world.turn_until(Duration::from_secs(5).min(limit), all)?;
    let received = world.clients[0].outputs - outputs_before;
    let dropped = world.clients[stopped].dropped;
    world.net.close(token);
    Ok(json!({
        "before_s": before, "meanwhile_s": meanwhile, "printed": printed,
        "received_by_the_other": received, "dropped": dropped,
    }))
}

/// A task runs on an engine whose connections break. With `nanny`, its nanny tells the hub, as on a live machine.
pub(crate) fn kill(world: &mut World, nanny: bool, retries: u32, limit: Duration) -> Result<Value> {
    for engine in &mut world.engines {
        engine.mode = Mode::Hold;
    }
    let shape = Shape {
        retries,
        ..Shape::small(Target::Task)
    };
    let mut flow = Flow::new(world, 0, shape, 1)?;
    let number = flow.send(world).context("one task")?;
    world.flush()?;
    let runs = |world: &mut World| world.ledger.engine_of(number).is_some();
    ensure!(
        world.turn_until(OPEN_LIMIT, runs)?,
        "the task did not reach an engine"
    );
    let victim = world.ledger.engine_of(number).context("an engine has it")?;
    for engine in &mut world.engines {
        engine.mode = Mode::Answer;
    }
    let start = Instant::now();
    world.break_engine(victim);
    if nanny {
        world.send_nanny(victim)?;
    }
    let answered = |world: &mut World| world.ledger.state(number) != State::Waiting;
    let ended = world
        .turn_until(limit, answered)?
        .then(|| start.elapsed().as_secs_f64());
    let state = world.ledger.state(number);
    let errors = world.ledger.take_errors();
    let left = limit.saturating_sub(start.elapsed());
    world.turn_until(left, |world| world.engines[victim].unregistered.is_some())?;
    let unregistered = world.engines[victim]
        .unregistered
        .map(|time| (time - start).as_secs_f64());
    if let Some(fault) = world.ledger.take_faults() {
        anyhow::bail!(fault);
    }
    Ok(json!({
        "task_ended_s": ended, "answered": state == State::Answered,
        "error": errors.into_iter().next().map(|(_, error)| error), "unregistered_s": unregistered,
    }))
}

/// An engine's host freezes: its connections stay, its heart does not beat.
pub(crate) fn freeze(world: &mut World, limit: Duration) -> Result<Value> {
    let victim = world
        .engines
        .iter()
        .rposition(|engine| engine.is_in())
        .context("no engine is in")?;
    world.freeze_engine(victim);
    let start = Instant::now();
    world.turn_until(limit, |world| world.engines[victim].unregistered.is_some())?;
    let unregistered = world.engines[victim]
        .unregistered
        .map(|time| (time - start).as_secs_f64());
    let others = world
        .engines
        .iter()
        .filter(|engine| engine.unregistered.is_some_and(|time| time > start))
        .count();
    ensure!(
        others <= 1,
        "{} engines were dropped that had done nothing wrong",
        others - 1
    );
    world.break_engine(victim);
    Ok(json!({ "unregistered_s": unregistered }))
}
