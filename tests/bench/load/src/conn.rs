//! One TCP connection of a fake peer: what is still to be sent, what has been read, and the ZMTP state between them.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use mio::net::TcpStream;

use crate::zmtp::{Decoder, SocketType, push_greeting, push_ready};

/// Something to send: bytes of our own, or the start of a payload that many messages share.
enum Segment {
    Bytes(Vec<u8>),
    Shared(Arc<[u8]>, usize),
}

impl Segment {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Shared(bytes, len) => &bytes[..*len],
        }
    }
}

/// What reading gave.
#[derive(PartialEq, Eq)]
pub(crate) enum ReadState {
    Data(usize),
    Empty,
    Closed,
}

pub(crate) struct Conn {
    pub(crate) stream: TcpStream,
    pub(crate) decoder: Decoder,
    pub(crate) open: bool,
    /// A stopped reader: what arrives stays in the kernel's buffers.
    pub(crate) paused: bool,
    /// Waits in the list of connections to flush.
    pub(crate) dirty: bool,
    out: VecDeque<Segment>,
    sent: usize,
}

impl Conn {
    /// Starts to connect. Greeting and READY go out at once; messages have to wait for the peer's READY.
    pub(crate) fn connect(
        address: SocketAddr,
        socket: SocketType,
        identity: &[u8],
    ) -> Result<Self> {
        let stream =
            TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
        // As libzmq does: otherwise small messages wait for the peer's delayed acknowledgement.
        stream.set_nodelay(true)?;
        let mut conn = Self {
            stream,
            decoder: Decoder::new(),
            open: false,
            paused: false,
            dirty: false,
            out: VecDeque::new(),
            sent: 0,
        };
        push_greeting(conn.out_bytes());
        push_ready(conn.out_bytes(), socket, identity);
        Ok(conn)
    }

    /// Where the next bytes to send go.
    pub(crate) fn out_bytes(&mut self) -> &mut Vec<u8> {
        if !matches!(self.out.back(), Some(Segment::Bytes(_))) {
            self.out.push_back(Segment::Bytes(Vec::new()));
        }
        match self.out.back_mut() {
            Some(Segment::Bytes(bytes)) => bytes,
            _ => unreachable!("a segment of bytes was just pushed"),
        }
    }

    /// Queues the first `len` bytes of a payload without copying them.
    pub(crate) fn push_shared(&mut self, payload: &Arc<[u8]>, len: usize) {
        self.out
            .push_back(Segment::Shared(Arc::clone(payload), len));
    }

    /// Writes until everything is out or the kernel takes no more.
    pub(crate) fn flush(&mut self) -> Result<()> {
        loop {
            let last = self.out.len() == 1;
            let Some(segment) = self.out.front_mut() else {
                return Ok(());
            };
            let left = &segment.bytes()[self.sent..];
            if !left.is_empty() {
                match self.stream.write(left) {
                    Ok(count) => self.sent += count,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                    // Before the connection stands, Linux says so instead.
                    Err(error) if error.kind() == io::ErrorKind::NotConnected => return Ok(()),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => bail!(error),
                }
            }
            if self.sent < segment.bytes().len() {
                continue;
            }
            self.sent = 0;
            match segment {
                // The last vector is kept for its allocation, unless a burst has made it huge.
                Segment::Bytes(bytes) if last && bytes.capacity() <= KEEP_MAX => {
                    bytes.clear();
                    return Ok(());
                }
                Segment::Bytes(_) | Segment::Shared(..) => drop(self.out.pop_front()),
            }
        }
    }

    pub(crate) fn read(&mut self, scratch: &mut [u8]) -> Result<ReadState> {
        loop {
            match self.stream.read(scratch) {
                Ok(0) => return Ok(ReadState::Closed),
                Ok(count) => return Ok(ReadState::Data(count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(ReadState::Empty);
                }
                Err(error) if error.kind() == io::ErrorKind::NotConnected => {
                    return Ok(ReadState::Empty);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => bail!(error),
            }
        }
    }
}

const KEEP_MAX: usize = 1 << 20;

/// Which of a peer's connections this is, and what it speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Channel {
    Broadcast,
    Control,
    HbPing,
    HbPong,
    Iopub,
    Mux,
    Notification,
    Registration,
    Task,
}

/// The peer that owns a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    Client(usize),
    Engine(usize),
    /// A connection that only delivers one message, as an engine's nanny does.
    Nanny(usize),
}

impl Owner {
    pub(crate) fn socket_type(self, channel: Channel) -> SocketType {
        match (self, channel) {
            (
                Self::Engine(_),
                Channel::Mux | Channel::Task | Channel::Broadcast | Channel::Control,
            ) => SocketType::Router,
            (Self::Engine(_), Channel::Iopub) => SocketType::Pub,
            (_, Channel::HbPing | Channel::Iopub | Channel::Notification) => SocketType::Sub,
            _ => SocketType::Dealer,
        }
    }
}
