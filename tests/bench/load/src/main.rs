//! Loads a controller with fake engines and clients, all in this one process and thread, so that the controller is the
//! bottleneck. It reads commands, one JSON object a line, and answers each with one line; in between its engines' hearts
//! go on beating. It shares no code with the product, so that it cannot share a mistake with it.
//!
//! A session by hand: `{"do":"attach","dir":"<profile>/security"}`, `{"do":"engines","count":64}`,
//! `{"do":"tasks","window":64}`.

mod conn;
mod disturbance;
mod files;
mod flow;
mod ledger;
mod net;
mod peers;
mod percentiles;
mod setup;
mod throughput;
mod wire;
mod world;
mod zmtp;

use std::io::{BufRead as _, Write as _};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::flow::{Shape, Target};
use crate::throughput::Times;
use crate::world::World;

/// Connections of one engine, and some for everything else.
const DESCRIPTORS_PER_ENGINE: u64 = 8;
const DESCRIPTORS_PER_LEAN_ENGINE: u64 = 4;
const DESCRIPTORS_ELSE: u64 = 100;
/// Requests are built before the clock starts; this many take about 100 MB.
const COUNT_MAX: u32 = 150_000;

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Aim {
    Mux,
    Task,
}

#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
enum Command {
    /// Connects a client to the controller whose files are, or will be, in this directory.
    Attach {
        dir: PathBuf,
        #[serde(default)]
        raw: bool,
    },
    /// Registers more engines.
    Engines {
        count: usize,
        in_flight: Option<usize>,
        #[serde(default)]
        lean: bool,
    },
    Tasks {
        window: Option<u32>,
        count: Option<u32>,
        seconds: Option<f64>,
    },
    Mux {
        window: u32,
        count: Option<u32>,
        seconds: Option<f64>,
        #[serde(default)]
        request_bytes: usize,
        #[serde(default)]
        reply_bytes: usize,
    },
    Latency {
        channel: Aim,
        count: Option<u32>,
        seconds: Option<f64>,
    },
    StoppedClient {
        megabytes: usize,
    },
    StoppedSubscriber {
        megabytes: usize,
    },
    Kill {
        #[serde(default)]
        nanny: bool,
        #[serde(default)]
        retries: u32,
    },
    Freeze,
}

/// A command with the time that it may take in all.
#[derive(Deserialize)]
struct Line {
    #[serde(flatten)]
    command: Command,
    limit: Option<f64>,
}

fn main() -> Result<()> {
    if std::env::args().len() > 1 {
        println!(
            "usage: piparallel-load  (commands on standard input, answers on standard output; see src/main.rs)"
        );
        return Ok(());
    }
    let mut world = World::new()?;
    let lines = read_lines(&world)?;
    let mut raw = false;
    loop {
        let line = match lines.try_recv() {
            Ok(line) => line,
            Err(TryRecvError::Disconnected) => return Ok(()),
            Err(TryRecvError::Empty) => {
                world.turn(Duration::from_secs(1))?;
                continue;
            }
        };
        let answer = match perform(&mut world, &line, &mut raw) {
            Ok(Value::Object(mut fields)) => {
                fields.insert("ok".into(), true.into());
                Value::Object(fields)
            }
            Ok(other) => json!({ "ok": true, "value": other }),
            Err(error) => json!({ "ok": false, "error": format!("{error:#}") }),
        };
        let mut out = std::io::stdout().lock();
        writeln!(out, "{answer}")
            .and_then(|()| out.flush())
            .context("nobody reads the answers")?;
    }
}

/// Standard input, line by line, from a thread that wakes the event loop.
fn read_lines(world: &World) -> Result<Receiver<String>> {
    let (sender, receiver) = channel();
    let waker = world.waker()?;
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            if sender.send(line).is_err() || waker.wake().is_err() {
                break;
            }
        }
        drop(sender);
        // Without this wake the loop would notice the end a second later.
        let _ = waker.wake();
    });
    Ok(receiver)
}

fn perform(world: &mut World, line: &str, raw: &mut bool) -> Result<Value> {
    let Line { command, limit } = serde_json::from_str(line).context("not a command")?;
    let limit = Duration::from_secs_f64(limit.unwrap_or(60.0));
    let seconds = |seconds: Option<f64>| Duration::from_secs_f64(seconds.unwrap_or(3.0));
    let count = |count: Option<u32>| count.unwrap_or(COUNT_MAX).min(COUNT_MAX);
    if !matches!(command, Command::Attach { .. }) {
        ensure!(!world.clients.is_empty(), "attach comes first");
    }
    let answer = match command {
        Command::Attach { dir, raw: is_raw } => {
            ensure!(world.clients.is_empty(), "attached already");
            *raw = is_raw;
            world.attach(&dir, is_raw, limit)?;
            json!({})
        }
        Command::Engines {
            count,
            in_flight,
            lean,
        } => {
            raise_descriptor_limit((world.engines.len() + count) as u64, lean)?;
            match raw {
                true => throughput::raw_engines(world, count, limit)?,
                false => {
                    throughput::engines(world, count, in_flight.unwrap_or(usize::MAX), lean, limit)?
                }
            }
        }
        Command::Tasks {
            window,
            count: wanted,
            seconds: time,
        } => {
            let times = Times {
                sending: seconds(time),
                limit,
            };
            throughput::tasks(world, window, count(wanted), &times)?
        }
        Command::Mux {
            window,
            count: wanted,
            seconds: time,
            request_bytes,
            reply_bytes,
        } => {
            let times = Times {
                sending: seconds(time),
                limit,
            };
            let shape = Shape {
                request_bytes,
                reply_bytes,
                ..Shape::small(Target::Mux)
            };
            throughput::mux(world, window, count(wanted), &times, shape)?
        }
        Command::Latency {
            channel,
            count: wanted,
            seconds: time,
        } => {
            let target = match channel {
                Aim::Mux => Target::Mux,
                Aim::Task => Target::Task,
            };
            serde_json::to_value(disturbance::latency(
                world,
                target,
                count(wanted),
                seconds(time),
            )?)?
        }
        Command::StoppedClient { megabytes } => {
            disturbance::stopped_client(world, megabytes, limit)?
        }
        Command::StoppedSubscriber { megabytes } => {
            disturbance::stopped_subscriber(world, megabytes, limit)?
        }
        Command::Kill { nanny, retries } => disturbance::kill(world, nanny, retries, limit)?,
        Command::Freeze => disturbance::freeze(world, limit)?,
    };
    match world.ledger.take_faults() {
        Some(faults) => bail!(faults),
        None => Ok(answer),
    }
}

/// Every connection is a descriptor; raising the hard limit takes privileges, or `ulimit -Hn` beforehand.
fn raise_descriptor_limit(engines: u64, lean: bool) -> Result<()> {
    let each = if lean {
        DESCRIPTORS_PER_LEAN_ENGINE
    } else {
        DESCRIPTORS_PER_ENGINE
    };
    let wanted = engines * each + DESCRIPTORS_ELSE;
    let (soft, hard) =
        getrlimit(Resource::RLIMIT_NOFILE).context("cannot read the limit on open files")?;
    if soft >= wanted {
        return Ok(());
    }
    setrlimit(Resource::RLIMIT_NOFILE, wanted, hard.max(wanted)).with_context(|| {
        format!("{engines} engines take {wanted} open files, and the limit is {hard}: raise it with `ulimit -Hn {wanted}`")
    })
}
