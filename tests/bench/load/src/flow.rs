//! A stream of requests from one client, built and signed before the clock starts, sent as fast as a window allows.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::resource::{UsageWho, getrusage};
use serde::Serialize;

use crate::wire::Batch;
use crate::world::World;

/// How long nothing may come back before the rest counts as lost.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// One engine after the other.
    Mux,
    Task,
}

/// What requests look like.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) target: Target,
    pub(crate) retries: u32,
    pub(crate) request_bytes: usize,
    pub(crate) reply_bytes: usize,
}

impl Shape {
    pub(crate) fn small(target: Target) -> Self {
        Self {
            target,
            retries: 0,
            request_bytes: 0,
            reply_bytes: 0,
        }
    }
}

#[derive(Serialize)]
pub(crate) struct Outcome {
    pub(crate) done: u32,
    /// Sent, and not answered when the time was up.
    pub(crate) unfinished: u32,
    pub(crate) seconds: f64,
    /// CPU seconds of the generator itself: near `seconds`, it was the bottleneck.
    pub(crate) load_cpu: f64,
}

pub(crate) struct Flow {
    client: usize,
    token: usize,
    shape: Shape,
    batch: Batch,
    sent: u32,
}

impl Flow {
    pub(crate) fn new(world: &mut World, client: usize, shape: Shape, count: u32) -> Result<Self> {
        world.need_payload(shape.request_bytes.max(shape.reply_bytes));
        let first = world.ledger.next();
        let mut batch = Batch::new(first);
        world
            .ledger
            .enter(client, count, shape.retries + 1, shape.reply_bytes);
        let present: Vec<usize> = (0..world.engines.len())
            .filter(|&index| world.engines[index].unregistered.is_none())
            .collect();
        for number in 0..count as usize {
            let engine = match shape.target {
                Target::Mux => Some(
                    world.engines[present[number % present.len()]]
                        .uuid
                        .as_bytes(),
                ),
                Target::Task => None,
            };
            batch.add(
                &mut world.header,
                &world.signer,
                engine,
                shape.retries,
                shape.request_bytes,
            );
        }
        let token = match shape.target {
            Target::Mux => world.clients[client].mux,
            Target::Task => world.clients[client].task,
        };
        Ok(Self {
            client,
            token: token.context("this client lacks the channel")?,
            shape,
            batch,
            sent: 0,
        })
    }

    /// Queues the next request. None when there are no more.
    pub(crate) fn send(&mut self, world: &mut World) -> Option<u32> {
        if self.sent == self.batch.len() {
            return None;
        }
        let number = self.batch.first + self.sent;
        if let Some(out) = world.net.out(self.token) {
            out.extend_from_slice(self.batch.request(self.sent));
        }
        if self.shape.request_bytes > 0 {
            world
                .net
                .push_shared(self.token, &world.payload.clone(), self.shape.request_bytes);
        }
        self.sent += 1;
        Some(number)
    }

    /// Keeps `window` requests under way until all are sent or `sending` has passed, then waits for the last reply, but
    /// not longer than `limit` in all.
    pub(crate) fn run(
        mut self,
        world: &mut World,
        window: u32,
        sending: Duration,
        limit: Duration,
    ) -> Result<Outcome> {
        let cpu_before = cpu_seconds()?;
        let done_before = world.ledger.done(self.client);
        let start = Instant::now();
        let (mut done, mut last_reply) = (0, start);
        loop {
            let more = self.sent < self.batch.len() && start.elapsed() < sending;
            if !more && done == self.sent || start.elapsed() > limit {
                break;
            }
            if more {
                while self.sent - done < window && self.send(world).is_some() {}
            }
            world.flush()?;
            world.turn(Duration::from_millis(50))?;
            let now_done = world.ledger.done(self.client) - done_before;
            if now_done > done {
                (done, last_reply) = (now_done, Instant::now());
            } else if last_reply.elapsed() > PATIENCE {
                let lost = self.sent - done;
                let faults = world.ledger.take_faults().unwrap_or_default();
                bail!(
                    "{lost} of {} requests have no reply after {} s of silence {faults}",
                    self.sent,
                    PATIENCE.as_secs()
                );
            }
        }
        let seconds = (last_reply - start).as_secs_f64();
        world.ledger.cancel_from(self.batch.first + self.sent);
        Ok(Outcome {
            done,
            unfinished: self.sent - done,
            seconds,
            load_cpu: cpu_seconds()? - cpu_before,
        })
    }
}

/// User and system time of this process.
pub(crate) fn cpu_seconds() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).context("cannot read this process's CPU time")?;
    let seconds =
        |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}
