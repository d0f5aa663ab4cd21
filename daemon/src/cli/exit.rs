//! How the program ends: every exit code, and the one line that goes with a failure.

use std::process::ExitCode;

/// The exit codes. Those of stock `ipcontroller` are the first three.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    Success = 0,
    /// Something could not be done; standard error says what.
    Failure = 1,
    /// The command line cannot be understood.
    Usage = 2,
    /// There is no controller to talk to.
    NoController = 3,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Prints a failure as one line: `piparallel: cause (remedy)`.
pub fn report(error: &anyhow::Error) {
    let line = format!("{error:#}").replace('\n', " ");
    eprintln!("piparallel: {line}");
}
