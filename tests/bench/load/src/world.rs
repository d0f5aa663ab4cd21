//! The event loop: reads what has come, lets the peer that owns the connection react, then writes everything queued, once
//! per connection. Scenarios call [`World::turn`] and look at what has changed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use mio::{Events, Poll, Token, Waker};
use serde::Deserialize;

use crate::conn::{Channel, Owner, ReadState};
use crate::files::Addresses;
use crate::ledger::Ledger;
use crate::net::Net;
use crate::peers::{Client, Engine, Mode};
use crate::wire::{self, DELIMITER, Header, OK, Sender, Signer};
use crate::zmtp::{self, Decoder, Incoming, Message};

const WAKER: Token = Token(usize::MAX);
const SCRATCH_LEN: usize = 256 * 1024;
/// Sessions count engines from zero; clients and nannies are numbered from here.
const OTHERS: u32 = 1 << 31;
const NANNIES: u32 = 1 << 30;
/// Reads of one connection before the others have their turn.
const READS_PER_TURN: usize = 16;

pub(crate) struct World {
    poll: Poll,
    events: Events,
    pub(crate) net: Net,
    scratch: Vec<u8>,
    unread: Vec<usize>,
    pub(crate) addresses: Addresses,
    pub(crate) signer: Signer,
    nonce: u32,
    session: String,
    pub(crate) header: Header,
    pub(crate) engines: Vec<Engine>,
    pub(crate) clients: Vec<Client>,
    pub(crate) ledger: Ledger,
    /// What large messages are cut from.
    pub(crate) payload: Arc<[u8]>,
}

impl World {
    pub(crate) fn new() -> Result<Self> {
        let poll = Poll::new().context("cannot create an epoll instance")?;
        let nonce = wire::nonce();
        let session = wire::session(nonce, u32::MAX);
        Ok(Self {
            net: Net::new(poll.registry().try_clone()?),
            poll,
            events: Events::with_capacity(1024),
            scratch: vec![0; SCRATCH_LEN],
            unread: Vec::new(),
            addresses: Addresses::default(),
            signer: Signer::new(""),
            nonce,
            header: Header::new(&session, "apply_request"),
            session,
            engines: Vec::new(),
            clients: Vec::new(),
            ledger: Ledger::default(),
            payload: Arc::new([]),
        })
    }

    pub(crate) fn waker(&self) -> Result<Waker> {
        Waker::new(self.poll.registry(), WAKER).context("cannot create an event descriptor")
    }

    /// Waits up to `timeout` for something to happen, and handles all that has.
    pub(crate) fn turn(&mut self, timeout: Duration) -> Result<()> {
        let timeout = if self.unread.is_empty() {
            timeout
        } else {
            Duration::ZERO
        };
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() != std::io::ErrorKind::Interrupted => bail!(error),
            Ok(()) | Err(_) => {}
        }
        let mut readable = std::mem::take(&mut self.unread);
        for event in &self.events {
            if event.token() == WAKER {
                continue;
            }
            if event.is_readable() || event.is_read_closed() || event.is_error() {
                readable.push(event.token().0);
            }
            if event.is_writable() {
                self.net.mark_dirty(event.token().0);
            }
        }
        for token in readable {
            self.read(token)?;
        }
        self.flush()?;
        self.net.retry_due()
    }

    pub(crate) fn flush(&mut self) -> Result<()> {
        for token in self.net.flush() {
            self.lost(token, "write error")?;
        }
        Ok(())
    }

    /// Turns until `done` says so. False when the time is up before.
    pub(crate) fn turn_until(
        &mut self,
        limit: Duration,
        mut done: impl FnMut(&mut Self) -> bool,
    ) -> Result<bool> {
        let deadline = Instant::now() + limit;
        while !done(self) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            self.turn(left.min(Duration::from_millis(50)))?;
        }
        Ok(true)
    }

    pub(crate) fn read(&mut self, token: usize) -> Result<()> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let result = self.read_some(token, &mut scratch);
        self.scratch = scratch;
        result
    }

    fn read_some(&mut self, token: usize, scratch: &mut [u8]) -> Result<()> {
        for _ in 0..READS_PER_TURN {
            let Some(conn) = self.net.conn(token).filter(|conn| !conn.paused) else {
                return Ok(());
            };
            let count = match conn.read(scratch) {
                Ok(ReadState::Data(count)) => count,
                Ok(ReadState::Empty) => return Ok(()),
                Ok(ReadState::Closed) => return self.lost(token, "closed by the controller"),
                Err(error) => return self.lost(token, &error.to_string()),
            };
            // Out of its slot while it borrows: what it delivers may touch any connection.
            let mut decoder = std::mem::replace(&mut conn.decoder, Decoder::new());
            let (owner, channel) = self.net.whose(token);
            decoder
                .feed(&scratch[..count], |incoming| {
                    self.handle(token, owner, channel, incoming)
                })
                .with_context(|| format!("on the {channel:?} connection of {owner:?}"))?;
            if let Some(conn) = self.net.conn(token) {
                conn.decoder = decoder;
            }
            // A short read has emptied the socket, and a new edge will come.
            if count < scratch.len() {
                return Ok(());
            }
        }
        self.unread.push(token);
        Ok(())
    }

    fn lost(&mut self, token: usize, reason: &str) -> Result<()> {
        if !self.net.lost(token) {
            return Ok(());
        }
        let (owner, channel) = self.net.whose(token);
        match owner {
            Owner::Nanny(_) => {}
            // A real engine closes this one itself when it has its reply.
            Owner::Engine(_) if channel == Channel::Registration => {}
            Owner::Client(index) if self.clients[index].may_be_dropped => {
                self.clients[index].dropped = true
            }
            Owner::Engine(index) if self.engines[index].unregistered.is_some() => {}
            Owner::Client(_) | Owner::Engine(_) => {
                self.ledger.fault(format!(
                    "the {channel:?} connection of {owner:?} broke: {reason}"
                ));
            }
        }
        Ok(())
    }

    fn handle(
        &mut self,
        token: usize,
        owner: Owner,
        channel: Channel,
        incoming: Incoming<'_>,
    ) -> Result<()> {
        match incoming {
            Incoming::Open { identity } => self.opened(token, owner, channel, identity),
            Incoming::Message(message) => match owner {
                Owner::Client(index) => self.at_client(index, channel, &message),
                Owner::Engine(index) => self.at_engine(index, token, channel, &message),
                Owner::Nanny(_) => Ok(()),
            },
            Incoming::Ping { context } => {
                if let Some(out) = self.net.out(token) {
                    zmtp::push_pong(out, context);
                }
                Ok(())
            }
            Incoming::Command => Ok(()),
        }
    }

    fn opened(
        &mut self,
        token: usize,
        owner: Owner,
        channel: Channel,
        identity: &[u8],
    ) -> Result<()> {
        if let Some(conn) = self.net.conn(token) {
            conn.open = true;
        }
        let Some(out) = self.net.out(token) else {
            return Ok(());
        };
        match (owner, channel) {
            (Owner::Engine(index), Channel::Registration) => {
                let engine = &mut self.engines[index];
                let content = format!(r#"{{"uuid":"{}"}}"#, engine.uuid);
                engine.requests.push(out, &[], content.as_bytes());
                engine.requested = Some(Instant::now());
            }
            (Owner::Engine(index), Channel::Mux | Channel::Task | Channel::Broadcast) => {
                let routers = &mut self.engines[index].routers;
                // A ROUTER that learns one id twice cannot answer one of the two.
                ensure!(
                    !identity.is_empty() && !routers.iter().any(|known| known == identity),
                    "the controller's {channel:?} socket announces the routing id {:?}, not one of its own",
                    String::from_utf8_lossy(identity)
                );
                routers.push(identity.to_vec());
            }
            (Owner::Engine(index), Channel::HbPong) => self.pong(index),
            (Owner::Nanny(index), _) => {
                let id = self.engines[index].id;
                let mut sender = Sender::new(
                    &wire::session(self.nonce, OTHERS + NANNIES + index as u32),
                    "unregistration_request",
                    &self.signer,
                );
                let id = id.context("an engine without an id leaves")?;
                sender.push(out, &[], format!(r#"{{"id":{id}}}"#).as_bytes());
            }
            (_, Channel::HbPing | Channel::Notification) | (Owner::Client(_), Channel::Iopub) => {
                zmtp::push_subscribe_all(out);
            }
            (Owner::Client(_) | Owner::Engine(_), _) => {}
        }
        Ok(())
    }

    fn at_engine(
        &mut self,
        index: usize,
        token: usize,
        channel: Channel,
        message: &Message<'_>,
    ) -> Result<()> {
        match channel {
            Channel::HbPing => {
                self.engines[index].unanswered = message.frames.first().map(|ping| ping.to_vec());
                self.pong(index);
                Ok(())
            }
            Channel::Registration => self.registration_reply(index, message),
            Channel::Broadcast | Channel::Control | Channel::Mux | Channel::Task => {
                self.request(index, token, message)
            }
            Channel::HbPong | Channel::Iopub | Channel::Notification => Ok(()),
        }
    }

    /// Answers the last ping, as soon as the connection for it is open.
    fn pong(&mut self, index: usize) {
        let engine = &mut self.engines[index];
        if let Some(pong) = engine.hb_pong.filter(|&pong| self.net.is_open(pong))
            && let (Some(ping), Some(out)) = (engine.unanswered.take(), self.net.out(pong))
        {
            zmtp::push_frame(out, &ping, false);
        }
    }

    fn registration_reply(&mut self, index: usize, message: &Message<'_>) -> Result<()> {
        #[derive(Deserialize)]
        struct Reply {
            id: Option<u32>,
            evalue: Option<String>,
        }
        let (_, parts) = split(message)?;
        let reply: Reply =
            serde_json::from_slice(parts[4]).context("a registration_reply is not JSON")?;
        let Some(id) = reply.id else {
            self.ledger.fault(format!(
                "engine {index} is refused: {}",
                reply.evalue.unwrap_or_default()
            ));
            return Ok(());
        };
        self.engines[index].id = Some(id);
        self.engines[index].replied = Some(Instant::now());
        self.connect_engine(index)
    }

    fn request(&mut self, index: usize, token: usize, message: &Message<'_>) -> Result<()> {
        let (routing, parts) = split(message)?;
        self.ledger.big_bytes += message.big_bytes;
        let Some(number) = wire::number_of(parts[1], &self.session) else {
            bail!(
                "a request whose header is not one that was sent: {}",
                String::from_utf8_lossy(parts[1])
            );
        };
        let engine = &mut self.engines[index];
        let Some(payload_len) = self.ledger.runs(number, index) else {
            return Ok(());
        };
        if engine.mode == Mode::Hold {
            return Ok(());
        }
        if let Some(out) = self.net.out(token) {
            engine.replies.push(out, routing, parts[1], payload_len);
        }
        if payload_len > 0 {
            self.net.push_shared(token, &self.payload, payload_len);
        }
        Ok(())
    }

    fn at_client(&mut self, index: usize, channel: Channel, message: &Message<'_>) -> Result<()> {
        match channel {
            Channel::Iopub => self.clients[index].outputs += 1,
            Channel::Mux | Channel::Task => {
                let (_, parts) = split(message)?;
                self.ledger.big_bytes += message.big_bytes;
                let Some(number) = wire::number_of(parts[2], &self.session) else {
                    bail!(
                        "a reply to nothing that was sent: {}",
                        String::from_utf8_lossy(parts[2])
                    );
                };
                let error = (parts[4] != OK).then(|| error_of(parts[4]));
                self.ledger.answered(number, index, error);
            }
            Channel::Notification => self.notification(message)?,
            Channel::Registration => {
                self.clients[index].answer = Some(split(message)?.1[4].to_vec())
            }
            Channel::Broadcast | Channel::Control | Channel::HbPing | Channel::HbPong => {}
        }
        Ok(())
    }

    fn notification(&mut self, message: &Message<'_>) -> Result<()> {
        #[derive(Deserialize)]
        struct Head {
            msg_type: String,
        }
        #[derive(Deserialize)]
        struct News {
            uuid: String,
        }
        let (_, parts) = split(message)?;
        let head: Head = serde_json::from_slice(parts[1])?;
        if !head.msg_type.ends_with("registration_notification") {
            return Ok(());
        }
        let news: News = serde_json::from_slice(parts[4])?;
        // Real engines may work for the same controller.
        let Some(engine) = self.engine_index(&news.uuid) else {
            return Ok(());
        };
        let engine = &mut self.engines[engine];
        let time = match head.msg_type.as_str() {
            "registration_notification" => &mut engine.notified,
            _ => &mut engine.unregistered,
        };
        if time.replace(Instant::now()).is_some() {
            self.ledger
                .fault(format!("{} came twice for {}", head.msg_type, news.uuid));
        }
        Ok(())
    }

    /// An engine's output, which goes to every subscriber of iopub.
    pub(crate) fn print(&mut self, index: usize, content: &[u8]) {
        let engine = &mut self.engines[index];
        if let Some(out) = engine.iopub.and_then(|token| self.net.out(token)) {
            engine.output.push(out, &[b"stdout"], content);
        }
    }

    pub(crate) fn engine_uuid(&self, index: usize) -> String {
        wire::session(self.nonce, index as u32)
    }

    /// A session that is neither an engine's nor that of the requests.
    pub(crate) fn other_session(&self, number: u32) -> String {
        wire::session(self.nonce, OTHERS + number)
    }

    fn engine_index(&self, uuid: &str) -> Option<usize> {
        let number = uuid
            .get(9..)
            .and_then(|digits| usize::from_str_radix(digits, 16).ok())?;
        (number < self.engines.len() && self.engine_uuid(number) == uuid).then_some(number)
    }
}

type Frames<'a> = &'a [&'a [u8]];

/// Routing frames, and the frames from the signature on.
fn split<'a>(message: &Message<'a>) -> Result<(Frames<'a>, Frames<'a>)> {
    let delimiter = message.frames.iter().position(|frame| *frame == DELIMITER);
    let delimiter = delimiter.context("a message without a delimiter")?;
    let parts = &message.frames[delimiter + 1..];
    ensure!(
        parts.len() >= 5,
        "a message with {} frames after the delimiter",
        parts.len()
    );
    Ok((&message.frames[..delimiter], parts))
}

fn error_of(content: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Content {
        ename: Option<String>,
        evalue: Option<String>,
    }
    match serde_json::from_slice(content) {
        Ok(Content {
            ename: Some(ename),
            evalue,
        }) => format!("{ename}({})", evalue.unwrap_or_default()),
        Ok(Content { .. }) | Err(_) => format!("content {}", String::from_utf8_lossy(content)),
    }
}
