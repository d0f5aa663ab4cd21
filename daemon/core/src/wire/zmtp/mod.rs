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
/// Bytes that come.
mod intake;
/// What peers say of themselves.
mod metadata;
/// Bytes that go.
mod outbox;

use std::mem;

use bytes::buf::Limit;
use bytes::{Buf, BufMut, Bytes};

pub use self::curve::{PublicKey, SecretKey};
pub use self::error::Error;
pub use self::intake::{ReadPool, detach};
pub use self::outbox::{Loss, Outbox};

use self::command::{Command, expect, put_command};
use self::curve::{Client, ENTROPY, Server, Session};
use self::frame::{COMMAND, Header, MORE, put_header};
use self::greeting::{GREETING, Greeting, greeting};
use self::intake::Intake;
use self::metadata::{Metadata, put_metadata};
use crate::channel::SocketType;
use crate::limits::{
    COMMAND_BYTES_MAX, FRAME_OVERHEAD, FRAMES_PER_MESSAGE_MAX, LARGE_FRAME, PONG_BACKLOG_MAX,
};

/// Frames of a usual request: route, delimiter, signature, four parts, three or four buffers.
const FRAMES_USUAL: usize = 12;

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
    Message(Vec<Bytes>),
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

/// What is needed until the mechanism starts.
struct Opening {
    mechanism: Mechanism,
    metadata: Vec<u8>,
    entropy: Entropy,
}

/// A CURVE client that waits for our decision.
struct Deciding {
    server: Server,
    metadata: Vec<u8>,
    key: PublicKey,
    peer: Metadata,
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

    /// Lets the client of an [`Event::Authorize`] in, or not.
    ///
    /// # Errors
    /// It was not let in: [`Error::KeyRefused`]; `out` tells it so.
    pub fn authorize(&mut self, allowed: bool, out: &mut Outbox) -> Result<Option<Event>, Error> {
        let deciding = match mem::replace(&mut self.state, State::Over) {
            State::Deciding(deciding) => *deciding,
            other => {
                self.state = other;
                return Ok(None);
            }
        };
        if !allowed {
            // The status of the ZAP protocol, which libzmq reports as a failed authentication.
            out.put(16, |tail| put_command(tail, "ERROR", b"\x03400"));
            out.end_message();
            return Err(Error::KeyRefused(deciding.key));
        }
        self.state = State::Curve(deciding.server.ready(&deciding.metadata, out)?);
        Ok(Some(ready(deciding.peer, Some(deciding.key))))
    }

    /// Appends a message. Does nothing before [`Event::Ready`].
    pub fn encode(&mut self, frames: &[Bytes], out: &mut Outbox) {
        let last = frames.len().saturating_sub(1);
        for (i, body) in frames.iter().enumerate() {
            let flags = if i < last { MORE } else { 0 };
            self.put_frame(flags, body, out);
        }
        out.end_message();
    }

    /// Asks for messages that begin with `prefix`.
    pub fn subscribe(&mut self, prefix: &[u8], out: &mut Outbox) {
        if self.minor >= 1 {
            self.put_traffic_command("SUBSCRIBE", prefix, out);
        } else {
            let message = [&[1], prefix].concat();
            self.encode(&[Bytes::from(message)], out);
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

    fn handle_greeting(&mut self, theirs: &Greeting, out: &mut Outbox) -> Result<(), Error> {
        let State::Greeting(opening) = mem::replace(&mut self.state, State::Over) else {
            return Ok(());
        };
        self.minor = theirs.minor;
        let Opening {
            mechanism,
            metadata,
            entropy,
        } = *opening;
        check_mechanism(&mechanism, theirs)?;
        self.state = match mechanism {
            Mechanism::Null => {
                out.put(metadata.len() + 16, |tail| {
                    put_command(tail, "READY", &metadata);
                });
                out.end_message();
                State::Ready
            }
            Mechanism::CurveServer { secrets } => {
                State::Server(Box::new(Server::new(secrets, &entropy)), metadata)
            }
            Mechanism::CurveClient { secret, server } => {
                let client = Client::new(secret, server, &entropy, out)?;
                State::Client(Box::new(client), metadata)
            }
        };
        Ok(())
    }

    fn handle_handshake(&mut self, body: &[u8], out: &mut Outbox) -> Result<Option<Event>, Error> {
        match mem::replace(&mut self.state, State::Over) {
            State::Ready => {
                let peer = Metadata::parse(expect(body, "READY")?, self.socket_type)?;
                self.state = State::Clear;
                Ok(Some(ready(peer, None)))
            }
            State::Server(mut server, metadata) => {
                let Some(initiated) = server.handle_command(body, out)? else {
                    self.state = State::Server(server, metadata);
                    return Ok(None);
                };
                let (key, server_key) = (initiated.key, initiated.server);
                self.state = State::Deciding(Box::new(Deciding {
                    server: *server,
                    metadata,
                    key,
                    peer: Metadata::parse(&initiated.metadata, self.socket_type)?,
                }));
                Ok(Some(Event::Authorize {
                    client: key,
                    server: server_key,
                }))
            }
            State::Client(mut client, metadata) => {
                let Some((theirs, session)) = client.handle_command(body, &metadata, out)? else {
                    self.state = State::Client(client, metadata);
                    return Ok(None);
                };
                let peer = Metadata::parse(&theirs, self.socket_type)?;
                self.state = State::Curve(session);
                Ok(Some(ready(peer, None)))
            }
            State::Greeting(_)
            | State::Deciding(_)
            | State::Clear
            | State::Curve(_)
            | State::Over => Ok(None),
        }
    }

    fn next_traffic(&mut self, out: &mut Outbox) -> Result<Option<Event>, Error> {
        loop {
            let max = self.message_bytes_max;
            let left = max.saturating_sub(self.message_bytes + FRAME_OVERHEAD);
            let encrypted = matches!(self.state, State::Curve(_));
            let check = |header: &Header| check_traffic(header, left, max, encrypted);
            let Some(frame) = self.intake.next_frame(check)? else {
                return Ok(None);
            };
            let (more, command, body) = match &mut self.state {
                State::Curve(session) => {
                    let opened = session.open(frame.body)?;
                    (opened.more, opened.command, opened.body)
                }
                _ => {
                    let header = frame.header;
                    (header.more, header.command, frame.body.freeze(0))
                }
            };
            let event = if command {
                self.handle_command(body, out)?
            } else {
                self.handle_frame(more, body)?
            };
            if event.is_some() {
                return Ok(event);
            }
        }
    }

    fn handle_frame(&mut self, more: bool, body: Bytes) -> Result<Option<Event>, Error> {
        self.message_bytes += body.len() + FRAME_OVERHEAD;
        if self.frames.is_empty() {
            self.frames.reserve(FRAMES_USUAL);
        }
        self.frames.push(body);
        if more {
            if self.frames.len() >= FRAMES_PER_MESSAGE_MAX {
                return Err(Error::TooManyFrames(FRAMES_PER_MESSAGE_MAX));
            }
            return Ok(None);
        }
        self.message_bytes = 0;
        self.detached = 0;
        let frames = mem::take(&mut self.frames);
        Ok(match self.socket_type {
            SocketType::Pub | SocketType::XPub => subscription(&frames),
            SocketType::Dealer | SocketType::Router | SocketType::Sub | SocketType::XSub => {
                Some(Event::Message(frames))
            }
        })
    }

    fn handle_command(&mut self, body: Bytes, out: &mut Outbox) -> Result<Option<Event>, Error> {
        Ok(match Command::parse(body)? {
            Some(Command::Subscribe(prefix)) => Some(Event::Subscribe(prefix)),
            Some(Command::Cancel(prefix)) => Some(Event::Unsubscribe(prefix)),
            Some(Command::Ping { context }) => {
                if out.len() < PONG_BACKLOG_MAX {
                    self.put_traffic_command("PONG", &context, out);
                }
                None
            }
            Some(Command::Pong) => Some(Event::Pong),
            None => None,
        })
    }

    fn put_frame(&mut self, flags: u8, body: &Bytes, out: &mut Outbox) {
        match &mut self.state {
            State::Curve(session) => session.seal(flags, &[body], out),
            State::Clear if body.len() < LARGE_FRAME => {
                out.put(frame::HEADER_MAX + body.len(), |tail| {
                    put_header(tail, flags, body.len());
                    tail.extend_from_slice(body);
                });
            }
            State::Clear => {
                out.put(frame::HEADER_MAX, |tail| {
                    put_header(tail, flags, body.len());
                });
                out.push(body.clone());
            }
            _ => {}
        }
    }

    fn put_traffic_command(&mut self, name: &str, rest: &[u8], out: &mut Outbox) {
        match &mut self.state {
            State::Curve(session) => {
                let parts = [&[name.len() as u8], name.as_bytes(), rest];
                session.seal(COMMAND, &parts, out);
            }
            State::Clear => out.put(16 + rest.len(), |tail| put_command(tail, name, rest)),
            _ => {}
        }
        out.end_message();
    }
}

fn ready(peer: Metadata, curve_key: Option<PublicKey>) -> Event {
    Event::Ready {
        socket_type: peer.socket_type,
        identity: peer.identity,
        curve_key,
    }
}

/// Subscriptions of ZMTP 3.0 are messages: 1 or 0, then the prefix. Other messages to a PUB socket
/// have no meaning.
fn subscription(frames: &[Bytes]) -> Option<Event> {
    let [frame] = frames else {
        return None;
    };
    let mut prefix = frame.clone();
    match prefix.first() {
        Some(1) => {
            prefix.advance(1);
            Some(Event::Subscribe(prefix))
        }
        Some(0) => {
            prefix.advance(1);
            Some(Event::Unsubscribe(prefix))
        }
        _ => None,
    }
}

fn check_mechanism(ours: &Mechanism, theirs: &Greeting) -> Result<(), Error> {
    if ours.name() != theirs.mechanism {
        let hint = match (ours, theirs.mechanism.as_str()) {
            (Mechanism::CurveServer { .. }, "NULL") => {
                ": its connection file is from an unencrypted pool, or lacks curve_serverkey"
            }
            (Mechanism::Null, "CURVE") => {
                ": its connection file is from an encrypted pool, this one is not encrypted"
            }
            _ => "",
        };
        return Err(Error::Mechanism {
            ours: ours.name(),
            theirs: theirs.mechanism.clone(),
            hint,
        });
    }
    // libzmq leaves the byte at zero, on servers too: only what it says is worth something.
    if matches!(ours, Mechanism::CurveServer { .. }) && theirs.as_server {
        return Err(Error::TwoServers);
    }
    Ok(())
}

fn check_handshake(header: &Header) -> Result<usize, Error> {
    if !header.command {
        return Err(Error::Unexpected {
            expected: "a handshake command",
            got: "a message".to_owned(),
        });
    }
    bounded(header.body, COMMAND_BYTES_MAX).ok_or(Error::CommandTooLarge {
        claimed: header.body,
        max: COMMAND_BYTES_MAX,
    })
}

fn check_traffic(
    header: &Header,
    left: usize,
    max: usize,
    encrypted: bool,
) -> Result<usize, Error> {
    if header.command && !encrypted {
        return bounded(header.body, COMMAND_BYTES_MAX).ok_or(Error::CommandTooLarge {
            claimed: header.body,
            max: COMMAND_BYTES_MAX,
        });
    }
    let overhead = if encrypted { curve::OVERHEAD } else { 0 };
    bounded(header.body, left.saturating_add(overhead)).ok_or(Error::MessageTooLarge {
        claimed: header.body,
        max,
    })
}

fn bounded(claimed: u64, max: usize) -> Option<usize> {
    usize::try_from(claimed)
        .ok()
        .filter(|length| *length <= max)
}

#[cfg(test)]
mod tests;
