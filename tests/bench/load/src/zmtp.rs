//! The connecting side of ZMTP 3.1 with the NULL mechanism: greeting, READY, frames. It knows nothing of sockets: bytes
//! come in as slices and go out to a vector. Frames of [`BIG`] bytes and more are checked while they pass and never
//! kept, so that a payload of 100 MB costs the generator one read of it.

use anyhow::{Result, bail, ensure};

/// Frames at least this long are payloads, counted and checked instead of delivered. A connection_reply that lists 4096
/// engines is shorter.
pub(crate) const BIG: usize = 512 * 1024;
/// No message of the protocol that these fake peers are sent has more frames.
const FRAMES_MAX: usize = 24;
const GREETING_LEN: usize = 64;

const MORE: u8 = 1;
const LONG: u8 = 2;
const COMMAND: u8 = 4;

/// The socket types that real engines and clients connect with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SocketType {
    Dealer,
    Pub,
    Router,
    Sub,
}

impl SocketType {
    fn name(self) -> &'static [u8] {
        match self {
            Self::Dealer => b"DEALER",
            Self::Pub => b"PUB",
            Self::Router => b"ROUTER",
            Self::Sub => b"SUB",
        }
    }
}

/// One multipart message: its frames, the big ones left empty, and the number of bytes that were in those.
#[derive(Debug)]
pub(crate) struct Message<'a> {
    pub(crate) frames: &'a [&'a [u8]],
    pub(crate) big_bytes: u64,
}

/// What a connection has to tell its owner.
#[derive(Debug)]
pub(crate) enum Incoming<'a> {
    /// The peer's READY, with the routing id it announces (often empty).
    Open {
        identity: &'a [u8],
    },
    Message(Message<'a>),
    /// A PING, to be answered with [`push_pong`] and this context.
    Ping {
        context: &'a [u8],
    },
    /// SUBSCRIBE or an unknown command: nothing to do.
    Command,
}

pub(crate) fn push_greeting(out: &mut Vec<u8>) {
    let mut greeting = [0; GREETING_LEN];
    greeting[0] = 0xff;
    greeting[9] = 0x7f;
    greeting[10] = 3;
    greeting[11] = 1;
    greeting[12..16].copy_from_slice(b"NULL");
    out.extend_from_slice(&greeting);
}

pub(crate) fn push_ready(out: &mut Vec<u8>, socket: SocketType, identity: &[u8]) {
    let mut body = vec![5];
    body.extend_from_slice(b"READY");
    push_property(&mut body, b"Socket-Type", socket.name());
    if matches!(socket, SocketType::Dealer | SocketType::Router) {
        push_property(&mut body, b"Identity", identity);
    }
    push_command(out, &body);
}

pub(crate) fn push_subscribe_all(out: &mut Vec<u8>) {
    push_command(out, b"\x09SUBSCRIBE");
}

pub(crate) fn push_pong(out: &mut Vec<u8>, context: &[u8]) {
    let mut body = b"\x04PONG".to_vec();
    body.extend_from_slice(context);
    push_command(out, &body);
}

pub(crate) fn push_frame(out: &mut Vec<u8>, data: &[u8], more: bool) {
    push_frame_head(out, data.len(), more);
    out.extend_from_slice(data);
}

/// The head alone, for a frame whose body is sent from elsewhere.
pub(crate) fn push_frame_head(out: &mut Vec<u8>, len: usize, more: bool) {
    let more = if more { MORE } else { 0 };
    match u8::try_from(len) {
        Ok(short) => out.extend_from_slice(&[more, short]),
        Err(_) => {
            out.push(more | LONG);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
}

fn push_command(out: &mut Vec<u8>, body: &[u8]) {
    // Every command these peers send is shorter than 256 bytes.
    out.extend_from_slice(&[COMMAND, body.len() as u8]);
    out.extend_from_slice(body);
}

fn push_property(body: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    body.push(name.len() as u8);
    body.extend_from_slice(name);
    body.extend_from_slice(&(value.len() as u32).to_be_bytes());
    body.extend_from_slice(value);
}

/// A payload with a word at the start of every page that tells its place, so that a lost, doubled or swapped piece shows.
pub(crate) fn payload(len: usize) -> Vec<u8> {
    let mut bytes = vec![b'x'; len];
    for (page, chunk) in bytes.chunks_mut(PAGE).enumerate() {
        if let Some(word) = chunk.first_chunk_mut() {
            *word = page_word(page);
        }
    }
    bytes
}

const PAGE: usize = 4096;

fn page_word(page: usize) -> [u8; 8] {
    (page as u64 ^ 0x7069_7061_7261_6c6c).to_le_bytes()
}

/// A frame that is passing through.
struct Big {
    len: usize,
    seen: usize,
    more: bool,
}

impl Big {
    /// Takes what belongs to this frame from the front of `data`, returns how much that was.
    fn take(&mut self, data: &[u8]) -> Result<usize> {
        let take = data.len().min(self.len - self.seen);
        let mut page = self.seen.div_ceil(PAGE);
        while page * PAGE + 8 <= self.seen + take {
            let at = page * PAGE - self.seen;
            ensure!(
                data[at..at + 8] == page_word(page),
                "a payload of {} bytes is damaged at byte {}",
                self.len,
                page * PAGE
            );
            page += 1;
        }
        self.seen += take;
        Ok(take)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Greeting,
    Handshake,
    Open,
}

/// Reads one connection's byte stream. Bytes of an unfinished message are kept here between calls.
pub(crate) struct Decoder {
    phase: Phase,
    rest: Vec<u8>,
    /// Frames of the current message, once it has had a big one.
    held: Vec<Vec<u8>>,
    big: Option<Big>,
    big_bytes: u64,
}

impl Decoder {
    pub(crate) fn new() -> Self {
        Self {
            phase: Phase::Greeting,
            rest: Vec::new(),
            held: Vec::new(),
            big: None,
            big_bytes: 0,
        }
    }

    /// Decodes `data`, the next bytes of the stream, and calls `deliver` for everything that is complete.
    pub(crate) fn feed(
        &mut self,
        data: &[u8],
        mut deliver: impl FnMut(Incoming<'_>) -> Result<()>,
    ) -> Result<()> {
        if self.rest.is_empty() {
            let used = self.decode(data, &mut deliver)?;
            self.rest.extend_from_slice(&data[used..]);
            return Ok(());
        }
        let mut joined = std::mem::take(&mut self.rest);
        joined.extend_from_slice(data);
        let used = self.decode(&joined, &mut deliver)?;
        joined.drain(..used);
        self.rest = joined;
        Ok(())
    }

    fn decode(
        &mut self,
        data: &[u8],
        deliver: &mut impl FnMut(Incoming<'_>) -> Result<()>,
    ) -> Result<usize> {
        let mut at = 0;
        if self.phase == Phase::Greeting {
            let Some(greeting) = data.first_chunk::<GREETING_LEN>() else {
                return Ok(0);
            };
            ensure!(
                greeting[0] == 0xff && greeting[10] >= 3,
                "the peer does not speak ZMTP 3"
            );
            ensure!(
                greeting[12..32].starts_with(b"NULL\0"),
                "the peer wants a security mechanism other than NULL"
            );
            self.phase = Phase::Handshake;
            at = GREETING_LEN;
        }
        while at < data.len() {
            let used = self.step(&data[at..], deliver)?;
            if used == 0 {
                break;
            }
            at += used;
        }
        Ok(at)
    }

    /// One step forward: a whole message, a command, or a piece of a big message. Zero means that more bytes are needed.
    fn step(
        &mut self,
        data: &[u8],
        deliver: &mut impl FnMut(Incoming<'_>) -> Result<()>,
    ) -> Result<usize> {
        if let Some(big) = &mut self.big {
            let used = big.take(data)?;
            if big.seen == big.len {
                let more = big.more;
                self.big = None;
                self.hold(&[], more, deliver)?;
            }
            return Ok(used);
        }
        if self.held.is_empty() {
            self.whole_message(data, deliver)
        } else {
            self.next_held(data, deliver)
        }
    }

    fn whole_message(
        &mut self,
        data: &[u8],
        deliver: &mut impl FnMut(Incoming<'_>) -> Result<()>,
    ) -> Result<usize> {
        let mut frames: [&[u8]; FRAMES_MAX] = [&[]; FRAMES_MAX];
        let (mut count, mut at) = (0, 0);
        loop {
            let Some(head) = Head::parse(&data[at..])? else {
                return Ok(0);
            };
            if head.flags & COMMAND == 0 && head.len >= BIG {
                self.held = frames[..count].iter().map(|frame| frame.to_vec()).collect();
                return Ok(at + self.start_big(head));
            }
            at += head.size;
            let Some(body) = data[at..].get(..head.len) else {
                return Ok(0);
            };
            at += head.len;
            if head.flags & COMMAND != 0 {
                ensure!(count == 0, "a command in the middle of a message");
                self.command(body, deliver)?;
                return Ok(at);
            }
            ensure!(self.phase == Phase::Open, "a message before READY");
            ensure!(
                count < FRAMES_MAX,
                "a message of more than {FRAMES_MAX} frames"
            );
            frames[count] = body;
            count += 1;
            if head.flags & MORE == 0 {
                deliver(Incoming::Message(Message {
                    frames: &frames[..count],
                    big_bytes: 0,
                }))?;
                return Ok(at);
            }
        }
    }

    fn next_held(
        &mut self,
        data: &[u8],
        deliver: &mut impl FnMut(Incoming<'_>) -> Result<()>,
    ) -> Result<usize> {
        let Some(head) = Head::parse(data)? else {
            return Ok(0);
        };
        if head.len >= BIG {
            return Ok(self.start_big(head));
        }
        let Some(body) = data[head.size..].get(..head.len) else {
            return Ok(0);
        };
        self.hold(body, head.flags & MORE != 0, deliver)?;
        Ok(head.size + head.len)
    }

    fn start_big(&mut self, head: Head) -> usize {
        self.big = Some(Big {
            len: head.len,
            seen: 0,
            more: head.flags & MORE != 0,
        });
        self.big_bytes += head.len as u64;
        head.size
    }

    fn hold(
        &mut self,
        body: &[u8],
        more: bool,
        deliver: &mut impl FnMut(Incoming<'_>) -> Result<()>,
    ) -> Result<()> {
        ensure!(
            self.held.len() < FRAMES_MAX,
            "a message of more than {FRAMES_MAX} frames"
        );
        self.held.push(body.to_vec());
        if more {
            return Ok(());
        }
        let held = std::mem::take(&mut self.held);
        let frames: Vec<&[u8]> = held.iter().map(Vec::as_slice).collect();
        let big_bytes = std::mem::take(&mut self.big_bytes);
        deliver(Incoming::Message(Message {
            frames: &frames,
            big_bytes,
        }))
    }

    fn command(
        &mut self,
        body: &[u8],
        deliver: &mut impl FnMut(Incoming<'_>) -> Result<()>,
    ) -> Result<()> {
        let Some((&len, rest)) = body.split_first() else {
            bail!("an empty command")
        };
        let Some((name, rest)) = rest.split_at_checked(len.into()) else {
            bail!("a command with a broken name")
        };
        match name {
            b"READY" => {
                ensure!(self.phase == Phase::Handshake, "a second READY");
                self.phase = Phase::Open;
                deliver(Incoming::Open {
                    identity: ready_identity(rest),
                })
            }
            b"ERROR" => bail!(
                "the peer refuses the handshake: {}",
                String::from_utf8_lossy(rest)
            ),
            b"PING" => deliver(Incoming::Ping {
                context: rest.get(2..).unwrap_or_default(),
            }),
            _ => deliver(Incoming::Command),
        }
    }
}

fn ready_identity(mut properties: &[u8]) -> &[u8] {
    while let Some((&len, rest)) = properties.split_first() {
        let Some((name, rest)) = rest.split_at_checked(len.into()) else {
            break;
        };
        let Some((size, rest)) = rest.split_first_chunk::<4>() else {
            break;
        };
        let Some((value, rest)) = rest.split_at_checked(u32::from_be_bytes(*size) as usize) else {
            break;
        };
        if name.eq_ignore_ascii_case(b"identity") {
            return value;
        }
        properties = rest;
    }
    &[]
}

#[derive(Clone, Copy)]
struct Head {
    flags: u8,
    size: usize,
    len: usize,
}

impl Head {
    fn parse(data: &[u8]) -> Result<Option<Self>> {
        let Some((&flags, rest)) = data.split_first() else {
            return Ok(None);
        };
        ensure!(
            flags & !(MORE | LONG | COMMAND) == 0,
            "a frame with reserved flags ({flags:#04x})"
        );
        if flags & LONG == 0 {
            return Ok(rest.first().map(|&len| Self {
                flags,
                size: 2,
                len: len.into(),
            }));
        }
        Ok(rest.first_chunk().map(|len| Self {
            flags,
            size: 9,
            len: u64::from_be_bytes(*len) as usize,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `stream` in pieces of `step` bytes and writes down what is delivered.
    fn decode(stream: &[u8], step: usize) -> Result<Vec<String>> {
        let mut decoder = Decoder::new();
        let mut seen = Vec::new();
        for piece in stream.chunks(step) {
            decoder.feed(piece, |incoming| {
                seen.push(match incoming {
                    Incoming::Message(Message { frames, big_bytes }) => {
                        let frames: Vec<_> = frames
                            .iter()
                            .map(|frame| String::from_utf8_lossy(frame))
                            .collect();
                        format!("{} +{big_bytes}", frames.join(","))
                    }
                    Incoming::Open { identity } => {
                        format!("open {}", String::from_utf8_lossy(identity))
                    }
                    Incoming::Ping { context } => {
                        format!("ping {}", String::from_utf8_lossy(context))
                    }
                    Incoming::Command => "command".to_owned(),
                });
                Ok(())
            })?;
        }
        Ok(seen)
    }

    fn opened() -> Vec<u8> {
        let mut stream = Vec::new();
        push_greeting(&mut stream);
        push_ready(&mut stream, SocketType::Router, b"mux_out");
        stream
    }

    #[test]
    fn a_stream_decodes_alike_in_pieces_of_any_size() -> Result<()> {
        let mut stream = opened();
        push_frame(&mut stream, b"a", true);
        push_frame(&mut stream, &[b'b'; 300], false);
        push_command(&mut stream, b"\x04PING\0\0abc");
        push_subscribe_all(&mut stream);
        push_frame(&mut stream, b"c", true);
        push_frame(&mut stream, &payload(BIG + 5), true);
        push_frame(&mut stream, b"d", false);
        push_frame(&mut stream, b"", false);
        let b = "b".repeat(300);
        let expected = [
            "open mux_out".to_owned(),
            format!("a,{b} +0"),
            "ping abc".into(),
            "command".into(),
            "c,,d +524293".into(),
            " +0".into(),
        ];
        for step in [1, 7, 4096, stream.len()] {
            assert_eq!(decode(&stream, step)?, expected, "in pieces of {step}");
        }
        Ok(())
    }

    #[test]
    fn a_damaged_payload_is_noticed() {
        let mut body = payload(BIG);
        body[8 * PAGE + 3] ^= 1;
        let mut stream = opened();
        push_frame(&mut stream, &body, false);
        assert!(decode(&stream, 1000).is_err());
    }

    #[test]
    fn another_mechanism_is_refused() {
        let mut stream = opened();
        stream[12..17].copy_from_slice(b"CURVE");
        assert!(decode(&stream, 64).is_err());
    }
}
