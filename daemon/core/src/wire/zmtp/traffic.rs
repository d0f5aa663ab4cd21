//! Messages, subscriptions and heartbeats, both ways.

use std::mem;

use bytes::{Buf, Bytes};

use super::command::{Command, put_command};
use super::frame::{self, COMMAND, Header, put_header};
use super::intake::RUN;
use super::{Error, Event, Link, Outbox, State, bounded, curve};
use crate::channel::SocketType;
use crate::limits::{
    COMMAND_BYTES_MAX, FRAME_OVERHEAD, FRAMES_PER_MESSAGE_MAX, LARGE_FRAME, PONG_BACKLOG_MAX,
};
use crate::wire::frames::Frames;

/// Frames of a usual request: route, delimiter, signature, four parts, three or four buffers.
const FRAMES_USUAL: usize = 12;

impl Link {
    pub(super) fn next_traffic(&mut self, out: &mut Outbox) -> Result<Option<Event>, Error> {
        loop {
            if matches!(self.state, State::Clear)
                && let Some(frames) = self.next_plain_message()
            {
                return Ok(self.message_event(frames));
            }
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

    /// Takes what came of a message in frames that are not encrypted, and returns it if it is complete.
    fn next_plain_message(&mut self) -> Option<Frames> {
        while self.frames.len() + RUN < FRAMES_PER_MESSAGE_MAX {
            let left = self.message_bytes_max.saturating_sub(self.message_bytes);
            let run = self.intake.next_run(left)?;
            if run.is_last && run.is_plain {
                return Some(Frames::received(self.end_message(), run.wire, run.places));
            }
            for place in run.places {
                self.message_bytes += place.len() + FRAME_OVERHEAD;
                self.frames.push(run.wire.slice(place));
            }
            if run.is_last {
                return Some(self.end_message().into());
            }
        }
        None
    }

    fn handle_frame(&mut self, more: bool, body: Bytes) -> Result<Option<Event>, Error> {
        self.message_bytes += body.len() + FRAME_OVERHEAD;
        if self.frames.is_empty() {
            self.frames.reserve(FRAMES_USUAL);
        }
        self.frames.push(body);
        if !more {
            let frames = self.end_message();
            return Ok(self.message_event(frames.into()));
        }
        if self.frames.len() >= FRAMES_PER_MESSAGE_MAX {
            return Err(Error::TooManyFrames(FRAMES_PER_MESSAGE_MAX));
        }
        Ok(None)
    }

    fn end_message(&mut self) -> Vec<Bytes> {
        self.message_bytes = 0;
        self.detached = 0;
        mem::take(&mut self.frames)
    }

    fn message_event(&self, frames: Frames) -> Option<Event> {
        match self.socket_type {
            SocketType::Pub | SocketType::XPub => subscription(&frames),
            SocketType::Dealer | SocketType::Router | SocketType::Sub | SocketType::XSub => {
                Some(Event::Message(frames))
            }
        }
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

    pub(super) fn put_frame(&mut self, flags: u8, body: &Bytes, out: &mut Outbox) {
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

    pub(super) fn put_traffic_command(&mut self, name: &str, rest: &[u8], out: &mut Outbox) {
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

/// Subscriptions of ZMTP 3.0 are messages: 1 or 0, then the prefix. Other messages to a PUB socket
/// have no meaning.
fn subscription(frames: &Frames) -> Option<Event> {
    if frames.len() != 1 {
        return None;
    }
    let mut prefix = frames.bytes(0);
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
