//! ZMTP 3.0 and 3.1: one connection between two ZeroMQ sockets, without the connection.
//!
//! `Link` is one end, either of them. Bytes from the network go where `Link::space` says; then
//! `Link::poll_event` is called until it returns `None`. What is to be written gathers in an
//! `Outbox`. Nothing here knows sockets, time or chance.
//!
//! | state | what ends it | what follows |
//! |---|---|---|
//! | greeting | 64 bytes of the peer, same mechanism | NULL: ready; CURVE: server or client |
//! | ready (NULL) | READY of the peer | traffic |
//! | server (CURVE) | HELLO, then INITIATE | deciding |
//! | deciding (CURVE) | `Link::authorize` | traffic, or over |
//! | client (CURVE) | WELCOME, then READY | traffic |
//! | traffic | an error | over |
//!
//! Frames and messages are bounded by what is configured and by `crate::limits`; memory is spent on
//! bytes that came, never on bytes that a header claims.

/// Commands in their frames.
mod command;
/// The CURVE mechanism.
mod curve;
/// Why a connection ends.
mod error;
/// Frame headers.
mod frame;
/// The first 64 bytes.
mod greeting;
/// From the greeting to the first message.
mod handshake;
/// Bytes that come.
mod intake;
/// What peers say of themselves.
mod metadata;
/// Bytes that go.
mod outbox;
/// What follows the handshake.
mod traffic;

use bytes::buf::Limit;
use bytes::{BufMut, Bytes};

pub use self::curve::{PublicKey, SecretKey};
pub use self::error::Error;
pub(crate) use self::frame::header_size;
pub use self::intake::{ReadPool, detach};
pub use self::outbox::{Loss, Outbox};

use self::curve::{Client, ENTROPY, Server, Session};
use self::frame::MORE;
use self::greeting::{GREETING, Greeting, greeting};
use self::handshake::{Deciding, Opening, check_handshake};
use self::intake::Intake;
use self::metadata::put_metadata;
use super::frames::Frames;
use crate::channel::SocketType;
use crate::limits::{COMMAND_BYTES_MAX, FRAME_OVERHEAD};

/// Chance that a connection needs, drawn anew for each.
pub type Entropy = [u8; ENTROPY];

/// One end of a connection.
#[derive(Clone)]
pub struct Config {
    pub socket_type: SocketType,
    /// The routing id that we announce, at most 255 bytes; empty for none.
    pub identity: Bytes,
    pub mechanism: Mechanism,
    /// Bytes of a message, with [`FRAME_OVERHEAD`] for each of its frames.
    pub message_bytes_max: usize,
}

/// How the connection is protected.
#[derive(Clone)]
pub enum Mechanism {
    /// Not at all.
    Null,
    /// We have a key that clients know: one of these, if different clients know different ones.
    CurveServer { secrets: Vec<SecretKey> },
    /// We know the server's key.
    CurveClient {
        secret: SecretKey,
        server: PublicKey,
    },
}

impl Mechanism {
    fn name(&self) -> &'static str {
        match self {
            Self::Null => "NULL",
            Self::CurveServer { .. } | Self::CurveClient { .. } => "CURVE",
        }
    }
}

/// What happened on the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A CURVE client proved its key to the server that it knows by `server`; it waits for
    /// [`Link::authorize`].
    Authorize {
        client: PublicKey,
        server: PublicKey,
    },
    /// The handshake is done.
    Ready {
        socket_type: SocketType,
        /// The routing id of the peer, empty if it has none.
        identity: Bytes,
        /// The long-term key of a CURVE client.
        curve_key: Option<PublicKey>,
    },
    Message(Frames),
    /// The peer wants messages that begin with this.
    Subscribe(Bytes),
    Unsubscribe(Bytes),
    /// The peer answered [`Link::ping`].
    Pong,
}

/// One end of a connection. After an error it is over: the caller writes what is in the outbox, if
/// it can, and closes.
pub struct Link {
    socket_type: SocketType,
    message_bytes_max: usize,
    state: State,
    /// The peer's ZMTP version is 3 and this.
    minor: u8,
    intake: Intake,
    /// Frames of a message whose last one has not come.
    frames: Vec<Bytes>,
    /// Those of them that do not lie in the shared chunk.
    detached: usize,
    /// Cost of `frames`.
    message_bytes: usize,
}

enum State {
    Greeting(Box<Opening>),
    Ready,
    Server(Box<Server>, Vec<u8>),
    Deciding(Box<Deciding>),
    Client(Box<Client>, Vec<u8>),
    Clear,
    Curve(Session),
    Over,
}

impl Link {
    /// Begins a connection: the greeting goes to `out`.
    #[must_use]
    pub fn new(config: Config, entropy: &Entropy, out: &mut Outbox) -> Self {
        let as_server = matches!(config.mechanism, Mechanism::CurveServer { .. });
        let hello = greeting(config.mechanism.name(), as_server);
        out.put(GREETING, |tail| tail.extend_from_slice(&hello));
        out.end_message();
        let mut metadata = Vec::new();
        put_metadata(&mut metadata, config.socket_type, &config.identity);
        // Nobody talks to a PUB socket but to subscribe.
        let message_bytes_max = match config.socket_type {
            SocketType::Pub | SocketType::XPub => COMMAND_BYTES_MAX + FRAME_OVERHEAD,
            SocketType::Dealer | SocketType::Router | SocketType::Sub | SocketType::XSub => {
                config.message_bytes_max
            }
        };
        Self {
            socket_type: config.socket_type,
            message_bytes_max,
            state: State::Greeting(Box::new(Opening {
                mechanism: config.mechanism,
                metadata,
                entropy: *entropy,
            })),
            minor: 0,
            intake: Intake::default(),
            frames: Vec::new(),
            detached: 0,
            message_bytes: 0,
        }
    }

    /// Where the next bytes from the network go: memory of the frame that is on its way, or `pool`'s.
    pub fn space(&mut self, pool: &mut ReadPool) -> Limit<&mut dyn BufMut> {
        self.intake.space(pool)
    }

    /// Gives `pool` its memory back: to be called when the caller goes on to another connection.
    pub fn park(&mut self, pool: &mut ReadPool) {
        self.intake.park(pool);
        detach(&mut self.frames[self.detached..]);
        self.detached = self.frames.len();
    }

    /// The next event in what came.
    ///
    /// # Errors
    /// What the peer did wrong. The connection is over; `out` may hold a last word to the peer.
    pub fn poll_event(&mut self, out: &mut Outbox) -> Result<Option<Event>, Error> {
        let result = self.next_event(out);
        if result.is_err() {
            self.state = State::Over;
        }
        result
    }

    /// Appends a message. Does nothing before [`Event::Ready`].
    pub fn encode(&mut self, frames: &Frames, out: &mut Outbox) {
        let (single, tail) = frames.split_tail();
        let flags = |n| if n + 1 < frames.len() { MORE } else { 0 };
        for (n, frame) in single.iter().enumerate() {
            self.put_frame(flags(n), frame, out);
        }
        if matches!(self.state, State::Clear) {
            out.put(tail.len(), |bytes| bytes.extend_from_slice(tail));
        } else {
            for n in single.len()..frames.len() {
                self.put_frame(flags(n), &frames.bytes(n), out);
            }
        }
        out.end_message();
    }

    /// Asks for messages that begin with `prefix`.
    pub fn subscribe(&mut self, prefix: &[u8], out: &mut Outbox) {
        if self.minor >= 1 {
            self.put_traffic_command("SUBSCRIBE", prefix, out);
        } else {
            let message = [&[1], prefix].concat();
            self.encode(&[Bytes::from(message)].into(), out);
        }
    }

    /// Asks for a sign of life: [`Event::Pong`]. Returns false for a ZMTP 3.0 peer, which cannot.
    pub fn ping(&mut self, out: &mut Outbox) -> bool {
        if self.minor >= 1 {
            self.put_traffic_command("PING", &[0, 0], out);
        }
        self.minor >= 1
    }

    /// Bytes of messages that have not come in full.
    #[must_use]
    pub fn partial_bytes(&self) -> usize {
        self.message_bytes + self.intake.large_bytes()
    }

    fn next_event(&mut self, out: &mut Outbox) -> Result<Option<Event>, Error> {
        loop {
            match &mut self.state {
                State::Greeting(_) => {
                    let Some(theirs) = Greeting::parse(self.intake.bytes())? else {
                        return Ok(None);
                    };
                    self.intake.skip(GREETING);
                    self.handle_greeting(&theirs, out)?;
                }
                State::Ready | State::Server(..) | State::Client(..) => {
                    let Some(frame) = self.intake.next_frame(check_handshake)? else {
                        return Ok(None);
                    };
                    let event = self.handle_handshake(&frame.body.freeze(0), out)?;
                    if event.is_some() {
                        return Ok(event);
                    }
                }
                State::Clear | State::Curve(_) => return self.next_traffic(out),
                State::Deciding(_) | State::Over => return Ok(None),
            }
        }
    }
}

fn bounded(claimed: u64, max: usize) -> Option<usize> {
    usize::try_from(claimed)
        .ok()
        .filter(|length| *length <= max)
}

#[cfg(test)]
mod tests;
