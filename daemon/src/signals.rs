//! The signals that end the program. They are taken over first of all, so that one that comes while
//! files are written is not lost.

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The end of the program, asked for from outside.
pub struct Signals {
    hangup: Option<Signal>,
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Takes over SIGINT and SIGTERM; with `hangup` also SIGHUP, for a program that belongs to a
    /// terminal.
    ///
    /// # Errors
    /// The system refuses.
    pub fn install(hangup: bool) -> anyhow::Result<Self> {
        let take = |kind| signal(kind).context("cannot handle signals");
        Ok(Self {
            hangup: hangup.then(|| take(SignalKind::hangup())).transpose()?,
            interrupt: take(SignalKind::interrupt())?,
            terminate: take(SignalKind::terminate())?,
        })
    }

    /// The next signal's name.
    pub async fn next(&mut self) -> &'static str {
        let hangup = async {
            match &mut self.hangup {
                Some(signal) => signal.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = hangup => "SIGHUP",
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}
