//! MESSAGE: one box around every frame.
//!
//! ```text
//! "\x07MESSAGE" nonce[8] mac[16] flags[1] payload
//! ```

use bytes::Bytes;

use super::super::error::Error;
use super::super::frame::{self, put_header};
use super::super::intake::Body;
use super::super::outbox::Outbox;
use super::keys::Nonce;
use super::{MAC, Shared};
use crate::limits::LARGE_FRAME;

const NAME: &[u8; 8] = b"\x07MESSAGE";
const NONCE_END: usize = 16;
const FLAGS: usize = NONCE_END + MAC;
const PAYLOAD: usize = FLAGS + 1;

/// Bytes that encryption adds to a frame.
pub(in super::super) const OVERHEAD: usize = PAYLOAD;

const MORE: u8 = 1;
const COMMAND: u8 = 2;

/// The keys and counters of an established connection.
pub(in super::super) struct Session {
    shared: Shared,
    prefix_in: &'static [u8; 16],
    prefix_out: &'static [u8; 16],
    last_in: u64,
    next_out: u64,
}

/// A frame that came out of its box.
pub(in super::super) struct Opened {
    pub(in super::super) more: bool,
    pub(in super::super) command: bool,
    pub(in super::super) body: Bytes,
}

impl Session {
    pub(super) fn new(shared: Shared, as_server: bool, last_in: u64, next_out: u64) -> Self {
        let (client, server) = (b"CurveZMQMESSAGEC", b"CurveZMQMESSAGES");
        let (prefix_in, prefix_out) = if as_server {
            (client, server)
        } else {
            (server, client)
        };
        Self {
            shared,
            prefix_in,
            prefix_out,
            last_in,
            next_out,
        }
    }

    /// Opens one box in place.
    pub(in super::super) fn open(&mut self, mut body: Body) -> Result<Opened, Error> {
        let bytes = body.as_mut();
        let Some((head, sealed)) = bytes.split_first_chunk_mut::<NONCE_END>() else {
            return Err(Error::Malformed("CURVE message"));
        };
        if !head.starts_with(NAME) {
            return Err(Error::Unexpected {
                expected: "a CURVE message",
                got: super::super::error::excerpt(&head[..NAME.len()]),
            });
        }
        let counter = head.last_chunk().map_or(0, |b| u64::from_be_bytes(*b));
        if counter <= self.last_in {
            return Err(Error::Replayed {
                got: counter,
                last: self.last_in,
            });
        }
        let nonce = short_nonce(self.prefix_in, counter);
        let text = self.shared.open(&nonce, sealed).ok_or(Error::Forged)?;
        let flags = *text.first().ok_or(Error::Malformed("CURVE message"))?;
        if flags & !(MORE | COMMAND) != 0 || flags == MORE | COMMAND {
            return Err(Error::Flags(flags));
        }
        self.last_in = counter;
        Ok(Opened {
            more: flags & MORE != 0,
            command: flags & COMMAND != 0,
            body: body.freeze(PAYLOAD),
        })
    }

    /// Appends one frame in its box; `flags` as in a plain frame header.
    pub(in super::super) fn seal(&mut self, flags: u8, payload: &[&[u8]], out: &mut Outbox) {
        let mut inner = 0;
        if flags & frame::MORE != 0 {
            inner |= MORE;
        }
        if flags & frame::COMMAND != 0 {
            inner |= COMMAND;
        }
        let length = PAYLOAD + payload.iter().map(|p| p.len()).sum::<usize>();
        let nonce = short_nonce(self.prefix_out, self.next_out);
        self.next_out += 1;
        let write = |bytes: &mut Vec<u8>| {
            put_header(bytes, 0, length);
            bytes.extend_from_slice(NAME);
            bytes.extend_from_slice(&nonce[16..]);
            let sealed = bytes.len();
            bytes.extend_from_slice(&[0; MAC]);
            bytes.push(inner);
            for part in payload {
                bytes.extend_from_slice(part);
            }
            self.shared.seal(&nonce, &mut bytes[sealed..]);
        };
        let expected = frame::HEADER_MAX + length;
        if length < LARGE_FRAME {
            out.put(expected, write);
        } else {
            let mut bytes = Vec::with_capacity(expected);
            write(&mut bytes);
            out.push(Bytes::from(bytes));
        }
    }
}

pub(super) fn short_nonce(prefix: &[u8; 16], counter: u64) -> Nonce {
    let mut nonce = [0; 24];
    nonce[..16].copy_from_slice(prefix);
    nonce[16..].copy_from_slice(&counter.to_be_bytes());
    nonce
}

pub(super) fn long_nonce(prefix: &[u8; 8], chance: &[u8; 16]) -> Nonce {
    let mut nonce = [0; 24];
    nonce[..8].copy_from_slice(prefix);
    nonce[8..].copy_from_slice(chance);
    nonce
}
