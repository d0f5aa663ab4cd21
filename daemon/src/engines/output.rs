//! What engines print: each line in the log with the engine's slot, a flood of them cut short, the last one
//! remembered for the message about a failure.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use piparallel_core::engines::message::Slot;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};
use tokio::net::unix::pipe;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Who prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    Parent,
    Engine(Slot),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Parent => f.write_str("engines"),
            Self::Engine(slot) => write!(f, "engine {slot}"),
        }
    }
}

/// Reads outputs until they end. Must be used on a `LocalRuntime`.
#[derive(Default)]
pub(super) struct Outputs {
    readers: JoinSet<()>,
    last_words: LastWords,
}

type LastWords = Rc<RefCell<BTreeMap<Source, String>>>;

/// Bytes of one line; what is longer is cut in pieces.
const LINE_MAX: u64 = 2048;
/// Lines of one engine in a second. Clients get what their code prints in another way; this is for the
/// journal, which lies on a card.
const LINES_PER_SECOND: u32 = 50;

impl Outputs {
    /// A pipe whose other end an engine is to have.
    pub(super) fn pipe(&mut self, source: Source) -> std::io::Result<OwnedFd> {
        let (receiver, sender) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        let flags = nix::fcntl::OFlag::O_NONBLOCK;
        nix::fcntl::fcntl(&receiver, nix::fcntl::FcntlArg::F_SETFL(flags))?;
        self.read(source, pipe::Receiver::from_owned_fd(receiver)?);
        Ok(sender)
    }

    pub(super) fn read(&mut self, source: Source, output: impl AsyncRead + Unpin + 'static) {
        while self.readers.try_join_next().is_some() {}
        let last_words = self.last_words.clone();
        self.readers.spawn_local(follow(source, output, last_words));
    }

    pub(super) fn forget(&mut self, source: Source) {
        self.last_words.borrow_mut().remove(&source);
    }

    /// The last line that somebody has printed.
    pub(super) fn last_words(&self, source: Source) -> Option<String> {
        self.last_words.borrow().get(&source).cloned()
    }
}

async fn follow(source: Source, output: impl AsyncRead + Unpin, last_words: LastWords) {
    let mut output = BufReader::new(output);
    let mut window = Instant::now();
    let (mut shown, mut left_out) = (0, 0);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut output)
            .take(LINE_MAX)
            .read_until(b'\n', &mut line)
            .await
        {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end();
        if text.is_empty() {
            continue;
        }
        last_words.borrow_mut().insert(source, text.to_owned());
        if window.elapsed() > Duration::from_secs(1) {
            tell_left_out(source, left_out);
            (window, shown, left_out) = (Instant::now(), 0, 0);
        }
        if shown < LINES_PER_SECOND {
            shown += 1;
            log::info!("{source}: {text}");
        } else {
            left_out += 1;
            // Whoever prints without end waits for us, not we for it.
            tokio::task::yield_now().await;
        }
    }
    tell_left_out(source, left_out);
}

fn tell_left_out(source: Source, lines: u64) {
    if lines > 0 {
        log::info!("{source}: {lines} more lines within a second are left out");
    }
}
