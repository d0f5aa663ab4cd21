//! What became of every request: each must run once and be answered once, with success. Everything else is a fault, and
//! a fault fails the scenario.

use std::time::{Duration, Instant};

/// Faults beyond this many are counted, not kept.
const FAULTS_KEPT: usize = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Waiting,
    Answered,
    Failed,
}

struct Entry {
    client: usize,
    state: State,
    runs: u32,
    runs_max: u32,
    reply_bytes: usize,
    engine: usize,
    sent: Option<Instant>,
}

#[derive(Default)]
pub(crate) struct Ledger {
    entries: Vec<Entry>,
    done: Vec<u32>,
    errors: Vec<(u32, String)>,
    faults: Vec<String>,
    faults_count: usize,
    /// Time from sending to the reply, for requests that were sent one by one.
    pub(crate) latencies: Vec<Duration>,
    /// Bytes that arrived in big frames, at engines and clients.
    pub(crate) big_bytes: u64,
}

impl Ledger {
    /// The number of the next request.
    pub(crate) fn next(&self) -> u32 {
        self.entries.len() as u32
    }

    /// Enters `count` requests of `client` that are about to be sent, each of which may run `runs_max` times.
    pub(crate) fn enter(&mut self, client: usize, count: u32, runs_max: u32, reply_bytes: usize) {
        for _ in 0..count {
            let (state, runs, engine, sent) = (State::Waiting, 0, usize::MAX, None);
            self.entries.push(Entry {
                client,
                state,
                runs,
                runs_max,
                reply_bytes,
                engine,
                sent,
            });
        }
        if self.done.len() <= client {
            self.done.resize(client + 1, 0);
        }
    }

    /// Takes back the entries from `first` on, which were never sent.
    pub(crate) fn cancel_from(&mut self, first: u32) {
        self.entries.truncate(first as usize);
    }

    pub(crate) fn sent_now(&mut self, number: u32) {
        self.entries[number as usize].sent = Some(Instant::now());
    }

    /// A request has arrived at an engine. Returns the size of the payload that it wants back.
    pub(crate) fn runs(&mut self, number: u32, engine: usize) -> Option<usize> {
        let Some(entry) = self.entries.get_mut(number as usize) else {
            self.fault(format!(
                "an engine got request {number}, which was never sent"
            ));
            return None;
        };
        entry.runs += 1;
        entry.engine = engine;
        let (runs, reply_bytes) = (entry.runs, entry.reply_bytes);
        if runs > entry.runs_max {
            self.fault(format!("request {number} ran {runs} times"));
        }
        Some(reply_bytes)
    }

    pub(crate) fn answered(&mut self, number: u32, client: usize, error: Option<String>) {
        let Some(entry) = self.entries.get_mut(number as usize) else {
            return self.fault(format!("a reply to request {number}, which was never sent"));
        };
        if entry.client != client {
            let asked = entry.client;
            return self.fault(format!(
                "client {client} got the reply to a request of client {asked}"
            ));
        }
        if entry.state != State::Waiting {
            return self.fault(format!("a second reply to request {number}"));
        }
        entry.state = if error.is_none() {
            State::Answered
        } else {
            State::Failed
        };
        let never_ran = entry.runs == 0;
        if let Some(sent) = entry.sent {
            self.latencies.push(sent.elapsed());
        }
        self.done[client] += 1;
        match error {
            Some(error) => self.errors.push((number, error)),
            None if never_ran => {
                self.fault(format!("request {number} has a good reply but never ran"))
            }
            None => {}
        }
    }

    pub(crate) fn fault(&mut self, fault: String) {
        self.faults_count += 1;
        if self.faults.len() < FAULTS_KEPT {
            self.faults.push(fault);
        }
    }

    /// Replies so far to requests of this client.
    pub(crate) fn done(&self, client: usize) -> u32 {
        self.done.get(client).copied().unwrap_or(0)
    }

    pub(crate) fn state(&self, number: u32) -> State {
        self.entries[number as usize].state
    }

    /// The engine that got the request last.
    pub(crate) fn engine_of(&self, number: u32) -> Option<usize> {
        Some(self.entries[number as usize].engine).filter(|&engine| engine != usize::MAX)
    }

    /// Requests of this client that reached an engine, from `first` on.
    pub(crate) fn run_count(&self, client: usize, first: u32) -> usize {
        self.entries[first as usize..]
            .iter()
            .filter(|entry| entry.client == client && entry.runs > 0)
            .count()
    }

    /// The smallest and the largest number of requests that one of `engines` engines ran, from request `first` on.
    pub(crate) fn spread(&self, first: u32, engines: usize) -> (u32, u32) {
        let mut counts = vec![0; engines];
        for entry in &self.entries[first as usize..] {
            if let Some(count) = counts.get_mut(entry.engine) {
                *count += 1;
            }
        }
        (
            counts.iter().copied().min().unwrap_or(0),
            counts.iter().copied().max().unwrap_or(0),
        )
    }

    /// Error replies since the last call.
    pub(crate) fn take_errors(&mut self) -> Vec<(u32, String)> {
        std::mem::take(&mut self.errors)
    }

    /// All that went wrong since the last call, in one line, error replies included.
    pub(crate) fn take_faults(&mut self) -> Option<String> {
        for (number, error) in self.take_errors() {
            self.fault(format!("request {number} failed: {error}"));
        }
        let count = std::mem::take(&mut self.faults_count);
        let kept = std::mem::take(&mut self.faults);
        (count > 0).then(|| format!("{count} faults: {}", kept.join("; ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger() -> Ledger {
        let mut ledger = Ledger::default();
        ledger.enter(0, 2, 1, 0);
        assert_eq!(ledger.runs(0, 5), Some(0));
        ledger.answered(0, 0, None);
        assert_eq!((ledger.done(0), ledger.take_faults()), (1, None));
        ledger
    }

    #[test]
    fn a_doubled_reply_is_a_fault() {
        let mut ledger = ledger();
        ledger.answered(0, 0, None);
        assert!(
            ledger
                .take_faults()
                .is_some_and(|faults| faults.contains("second reply"))
        );
        assert_eq!(ledger.done(0), 1);
    }

    #[test]
    fn a_second_run_a_wrong_client_and_an_error_are_faults() {
        let mut ledger = ledger();
        ledger.runs(0, 6);
        ledger.answered(1, 1, None);
        ledger.answered(1, 0, Some("ValueError".into()));
        let faults = ledger.take_faults().unwrap_or_default();
        assert!(
            faults.starts_with("3 faults: request 0 ran 2 times; client 1 got"),
            "{faults}"
        );
        assert!(faults.ends_with("request 1 failed: ValueError"), "{faults}");
    }
}
