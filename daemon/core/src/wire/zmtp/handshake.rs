//! From the greeting to the first message.

use std::mem;

use super::command::{expect, put_command};
use super::curve::{Client, PublicKey, Server};
use super::frame::Header;
use super::greeting::Greeting;
use super::metadata::Metadata;
use super::{Entropy, Error, Event, Link, Mechanism, Outbox, State, bounded};
use crate::limits::COMMAND_BYTES_MAX;

/// What is needed until the mechanism starts.
pub(super) struct Opening {
    pub(super) mechanism: Mechanism,
    pub(super) metadata: Vec<u8>,
    pub(super) entropy: Entropy,
}

/// A CURVE client that waits for our decision.
pub(super) struct Deciding {
    pub(super) server: Server,
    pub(super) metadata: Vec<u8>,
    pub(super) key: PublicKey,
    pub(super) peer: Metadata,
}

impl Link {
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

    pub(super) fn handle_greeting(
        &mut self,
        theirs: &Greeting,
        out: &mut Outbox,
    ) -> Result<(), Error> {
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

    pub(super) fn handle_handshake(
        &mut self,
        body: &[u8],
        out: &mut Outbox,
    ) -> Result<Option<Event>, Error> {
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
}

fn ready(peer: Metadata, curve_key: Option<PublicKey>) -> Event {
    Event::Ready {
        socket_type: peer.socket_type,
        identity: peer.identity,
        curve_key,
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

pub(super) fn check_handshake(header: &Header) -> Result<usize, Error> {
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
