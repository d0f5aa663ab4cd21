//! A message comes in: it is read, its signature checked, and handed to whoever decides.

use std::sync::Arc;

use super::Controller;
use super::compose::{self, ErrorContent};
use super::request::RequestHeader;
use crate::channel::{Channel, Side, SocketType};
use crate::clock::Now;
use crate::ids::PeerId;
use crate::limits::ID_LENGTH_MAX;
use crate::wire::frames::Frames;
use crate::wire::message::{Message, SignedPart};
use crate::wire::sign::SignatureError;

impl Controller {
    pub(super) fn handle_message(&mut self, now: Now, from: PeerId, frames: Frames) {
        let Some(peer) = self.peers.get(from) else {
            return;
        };
        let channel = peer.channel;
        if !peer.admitted {
            return self
                .complaints
                .warn(now.monotonic, "message before admission", || {
                    format!(
                        "dropped a message on {} from a connection whose routing id is taken",
                        channel.name()
                    )
                });
        }
        self.messages += 1;
        if channel == Channel::HbPong {
            return self.handle_pong(now, from, &frames);
        }
        let Some(message) = self.accept(now, from, channel, frames) else {
            return;
        };
        match channel {
            Channel::Registration => self.handle_query(now, from, &message),
            Channel::MuxClient | Channel::ControlClient => {
                self.handle_direct_request(now, from, channel, message)
            }
            Channel::MuxEngine | Channel::ControlEngine => {
                self.handle_direct_reply(now, from, channel, message)
            }
            Channel::TaskClient => self.handle_task(now, from, message),
            Channel::TaskEngine => self.handle_task_reply(now, from, message),
            Channel::BroadcastClient => self.handle_broadcast(now, from, &message),
            Channel::BroadcastEngine => self.handle_broadcast_reply(now, from, message),
            Channel::IopubEngine => self.handle_output(now, from, message),
            // Peers of publishing sockets only subscribe, and pongs were taken above.
            Channel::Notification | Channel::IopubClient | Channel::HbPing | Channel::HbPong => {}
        }
    }

    /// Takes a message apart and checks its signature. What is refused is logged, and answered if it
    /// came from a client.
    fn accept(
        &mut self,
        now: Now,
        from: PeerId,
        channel: Channel,
        frames: Frames,
    ) -> Option<Message> {
        let message = match Message::parse(frames) {
            Ok(message) => message,
            Err(cause) => {
                let address = self.address_of(from);
                self.complaints.warn(now.monotonic, "unreadable message", || {
                    format!("a message from {address} on {} is not one of this protocol: {cause}; dropped", channel.name())
                });
                return None;
            }
        };
        match self.check_signature(&message) {
            Ok(()) => Some(message),
            Err(cause) => {
                self.refuse_signature(now, from, channel, &message, cause);
                None
            }
        }
    }

    fn check_signature(&mut self, message: &Message) -> Result<(), SignatureError> {
        match self
            .composer
            .signer()
            .verify(message.signature(), message.signed_parts())?
        {
            Some(digest) => self.replays.admit(&digest),
            None => Ok(()),
        }
    }

    fn refuse_signature(
        &mut self,
        now: Now,
        from: PeerId,
        channel: Channel,
        message: &Message,
        cause: SignatureError,
    ) {
        let address = self.address_of(from);
        self.complaints.warn(now.monotonic, "signature", || {
            format!(
                "a message from {address} on {} was refused: {cause}",
                channel.name()
            )
        });
        let Ok(request) = RequestHeader::parse(message.header(), &self.latest_session) else {
            return;
        };
        let error = ErrorContent::new(
            "ValueError",
            format!("the controller refused this message: {cause}"),
        );
        if channel == Channel::Registration {
            self.send_reply(
                now,
                from,
                "hub_error",
                Some(&message.bytes(SignedPart::Header)),
                compose::json(&error),
            );
        } else if channel.socket_type() == SocketType::Router && channel.side() == Side::Client {
            self.reply_error(now, from, message, &request, None, &error);
        }
    }

    pub(super) fn address_of(&self, peer: PeerId) -> String {
        self.peers
            .get(peer)
            .map_or_else(|| "a closed connection".into(), |peer| peer.address.clone())
    }

    /// Reads a request's header; what cannot be read is logged.
    pub(super) fn request_header(
        &mut self,
        now: Now,
        from: PeerId,
        message: &Message,
    ) -> Option<RequestHeader> {
        match RequestHeader::parse(message.header(), &self.latest_session) {
            Ok(header)
                if !header.msg_id.as_str().is_empty()
                    && header.msg_id.as_str().len() <= ID_LENGTH_MAX =>
            {
                self.latest_session = Arc::clone(&header.session);
                Some(header)
            }
            _ => {
                self.complain_unreadable(now, from, "header");
                None
            }
        }
    }

    pub(super) fn complain_unreadable(&mut self, now: Now, from: PeerId, part: &'static str) {
        let address = self.address_of(from);
        self.complaints.warn(now.monotonic, "unreadable part", || {
            format!("the {part} of a message from {address} is not what this protocol has there; dropped")
        });
    }
}
