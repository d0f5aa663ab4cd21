//! One end of one connection: bytes in, events and bytes out.
//!
//! | state     | what ends it                                   | what follows |
//! |-----------|------------------------------------------------|--------------|
//! | listening | the peer's opening (`Event::Asked`)            | asked        |
//! | asked     | `Session::admit`                               | handshake    |
//! | handshake | the last handshake message                     | open         |
//! | open      | an error                                       | over         |
//!
//! After the opening everything is in frames: a kind, a length of two bytes, and so many bytes. Before it
//! closes a connection, the side that accepted it may say why, in the clear: nobody has proven anything yet,
//! so the words are only for a person to read.

use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, HandshakeState, TransportState};
use thiserror::Error;

use super::keys::{NodeKey, NodeSecret, SharedKey};
use super::opening::{Mode, Opening, OpeningError};
use crate::limits::{JOIN_HANDSHAKE_FRAME_MAX, JOIN_MESSAGE_MAX, JOIN_REFUSAL_MAX};

/// Chance for one handshake, used only once.
pub type Entropy = [u8; 32];

/// What came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Somebody wants in: the caller answers with [`Session::admit`] or [`Session::refuse`].
    Asked(Opening),
    /// Both sides have proven their keys; this is the peer's.
    Established(NodeKey),
    Message(Vec<u8>),
}

/// Why a connection ends.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SessionError {
    /// A message that nobody with the right keys wrote.
    #[error("what it sent does not fit the keys of this connection")]
    Forged,
    /// A frame larger than any that belongs here.
    #[error("it sent a frame of {0} bytes, which is more than any should have")]
    FrameTooLarge(usize),
    #[error(transparent)]
    Opening(#[from] OpeningError),
    /// The peer closes, and says why.
    #[error("{0}")]
    Refused(String),
    /// A frame of a kind that does not belong here.
    #[error("it does not keep to the protocol")]
    Unexpected,
    /// The first message does not fit the shared key.
    #[error("its key is not that of the pool")]
    WrongKey,
}

/// One end of a connection. After an error it is over: the caller writes what is left of the output, if it
/// can, and closes.
pub struct Session {
    state: State,
    input: Vec<u8>,
    output: Vec<u8>,
}

enum State {
    Listening(Box<(NodeSecret, Entropy)>),
    Asked(Box<Asked>),
    Handshake {
        noise: Box<HandshakeState>,
        is_first: bool,
        mode: Mode,
    },
    Open(Box<TransportState>),
    Over,
}

struct Asked {
    secret: NodeSecret,
    entropy: Entropy,
    opening: Opening,
}

/// Kinds of frames.
const NOISE: u8 = 0;
const REFUSAL: u8 = 1;

const FRAME_HEADER: usize = 3;
/// What encryption adds.
const TAG: usize = 16;

impl Session {
    /// The side that connects. `key` is the shared key, in the modes that have one.
    #[must_use]
    pub fn connect(
        secret: &NodeSecret,
        opening: &Opening,
        key: Option<&SharedKey>,
        entropy: Entropy,
    ) -> Self {
        let mut this = Self::new(State::Over);
        this.output = opening.encode();
        if let Ok(mut noise) = handshake(secret, opening, key, entropy, true)
            && this.write_handshake(&mut noise).is_ok()
        {
            this.state = State::Handshake {
                noise: Box::new(noise),
                is_first: true,
                mode: opening.mode,
            };
        }
        this
    }

    /// The side that is connected to.
    #[must_use]
    pub fn accept(secret: NodeSecret, entropy: Entropy) -> Self {
        Self::new(State::Listening(Box::new((secret, entropy))))
    }

    fn new(state: State) -> Self {
        Self {
            state,
            input: Vec::new(),
            output: Vec::new(),
        }
    }

    /// Takes what came from the network. [`Self::poll_event`] is to be called until it returns `None`
    /// before more is read.
    pub fn handle_bytes(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
    }

    /// What is to be written.
    #[must_use]
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// Lets the handshake of an [`Event::Asked`] go on. `key` is the shared key that the peer must have.
    pub fn admit(&mut self, key: Option<&SharedKey>) {
        self.state = match std::mem::replace(&mut self.state, State::Over) {
            State::Asked(asked) => {
                let mode = asked.opening.mode;
                match handshake(&asked.secret, &asked.opening, key, asked.entropy, false) {
                    Ok(noise) => State::Handshake {
                        noise: Box::new(noise),
                        is_first: true,
                        mode,
                    },
                    Err(_) => State::Over,
                }
            }
            other => other,
        };
    }

    /// Ends it, and tells the peer why. Does nothing to a connection that is established: there, a message
    /// says it.
    pub fn refuse(&mut self, why: &str) {
        if !matches!(self.state, State::Open(_)) {
            let end = why.floor_char_boundary(JOIN_REFUSAL_MAX);
            self.put_frame(REFUSAL, &why.as_bytes()[..end]);
            self.state = State::Over;
        }
    }

    /// Sends a message. One that is too long, or too early, is not sent: `false`.
    pub fn send(&mut self, message: &[u8]) -> bool {
        let State::Open(noise) = &mut self.state else {
            return false;
        };
        if message.len() > JOIN_MESSAGE_MAX {
            return false;
        }
        let mut sealed = vec![0; message.len() + TAG];
        let Ok(length) = noise.write_message(message, &mut sealed) else {
            return false;
        };
        self.put_frame(NOISE, &sealed[..length]);
        true
    }

    /// The next event in what came.
    ///
    /// # Errors
    /// What the peer did wrong, or why it refuses us. The connection is over.
    pub fn poll_event(&mut self) -> Result<Option<Event>, SessionError> {
        let result = self.next_event();
        if result.is_err() {
            self.state = State::Over;
        }
        result
    }

    fn next_event(&mut self) -> Result<Option<Event>, SessionError> {
        loop {
            if matches!(self.state, State::Asked(_) | State::Over) {
                return Ok(None);
            }
            if let State::Listening(_) = self.state {
                return self.read_opening();
            }
            let Some((kind, body)) = self.next_frame()? else {
                return Ok(None);
            };
            let event = match (kind, &mut self.state) {
                (NOISE, State::Open(noise)) => Some(Event::Message(open(noise, &body)?)),
                (NOISE, State::Handshake { .. }) => self.handle_handshake(&body)?,
                (REFUSAL, State::Handshake { noise, .. }) if noise.is_initiator() => {
                    return Err(SessionError::Refused(readable(&body)));
                }
                _ => return Err(SessionError::Unexpected),
            };
            if event.is_some() {
                return Ok(event);
            }
        }
    }

    fn read_opening(&mut self) -> Result<Option<Event>, SessionError> {
        let Some((opening, length)) = Opening::parse(&self.input)? else {
            return Ok(None);
        };
        self.input.drain(..length);
        if let State::Listening(own) = std::mem::replace(&mut self.state, State::Over) {
            let (secret, entropy) = *own;
            let opening = opening.clone();
            self.state = State::Asked(Box::new(Asked {
                secret,
                entropy,
                opening,
            }));
        }
        Ok(Some(Event::Asked(opening)))
    }

    fn handle_handshake(&mut self, body: &[u8]) -> Result<Option<Event>, SessionError> {
        let State::Handshake {
            mut noise,
            is_first,
            mode,
        } = std::mem::replace(&mut self.state, State::Over)
        else {
            return Err(SessionError::Unexpected);
        };
        let mut payload = [0; JOIN_HANDSHAKE_FRAME_MAX];
        noise
            .read_message(body, &mut payload)
            .map_err(|_| match mode.needs_key() && is_first {
                true => SessionError::WrongKey,
                false => SessionError::Forged,
            })?;
        if noise.is_my_turn() && !noise.is_handshake_finished() {
            self.write_handshake(&mut noise)?;
        }
        if !noise.is_handshake_finished() {
            self.state = State::Handshake {
                noise,
                is_first: false,
                mode,
            };
            return Ok(None);
        }
        let peer = noise
            .get_remote_static()
            .and_then(|key| key.try_into().ok());
        let peer = NodeKey(peer.ok_or(SessionError::Forged)?);
        let transport = noise
            .into_transport_mode()
            .map_err(|_| SessionError::Forged)?;
        self.state = State::Open(Box::new(transport));
        Ok(Some(Event::Established(peer)))
    }

    fn write_handshake(&mut self, noise: &mut HandshakeState) -> Result<(), SessionError> {
        let mut message = [0; JOIN_HANDSHAKE_FRAME_MAX];
        let length = noise
            .write_message(&[], &mut message)
            .map_err(|_| SessionError::Forged)?;
        self.put_frame(NOISE, &message[..length]);
        Ok(())
    }

    fn put_frame(&mut self, kind: u8, body: &[u8]) {
        let length = u16::try_from(body.len()).unwrap_or(u16::MAX).to_be_bytes();
        self.output.extend([kind, length[0], length[1]]);
        self.output.extend_from_slice(body);
    }

    fn next_frame(&mut self) -> Result<Option<(u8, Vec<u8>)>, SessionError> {
        let Some(&[kind, high, low]) = self.input.first_chunk::<FRAME_HEADER>() else {
            return Ok(None);
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        let max = match self.state {
            State::Open(_) => JOIN_MESSAGE_MAX + TAG,
            _ => JOIN_HANDSHAKE_FRAME_MAX,
        };
        if length > max {
            return Err(SessionError::FrameTooLarge(length));
        }
        let end = FRAME_HEADER + length;
        let Some(body) = self.input.get(FRAME_HEADER..end) else {
            return Ok(None);
        };
        let body = body.to_vec();
        self.input.drain(..end);
        Ok(Some((kind, body)))
    }
}

fn open(noise: &mut TransportState, body: &[u8]) -> Result<Vec<u8>, SessionError> {
    let mut message = vec![0; body.len()];
    let length = noise
        .read_message(body, &mut message)
        .map_err(|_| SessionError::Forged)?;
    message.truncate(length);
    Ok(message)
}

/// Words of a stranger, fit for a terminal.
fn readable(words: &[u8]) -> String {
    let words = &words[..words.len().min(JOIN_REFUSAL_MAX)];
    let words = String::from_utf8_lossy(words);
    words.chars().filter(|c| !c.is_control()).collect()
}

/// The beginning of a handshake, as either side.
fn handshake(
    secret: &NodeSecret,
    opening: &Opening,
    key: Option<&SharedKey>,
    entropy: Entropy,
    connects: bool,
) -> Result<HandshakeState, snow::Error> {
    let pattern = match opening.mode.needs_key() {
        true => "Noise_XXpsk0_25519_ChaChaPoly_BLAKE2s",
        false => "Noise_XX_25519_ChaChaPoly_BLAKE2s",
    };
    let prologue = opening.encode();
    // A mode that needs a key and has none gets one that nobody has.
    let psk = key.map_or(entropy, |key| key.for_use(opening.mode.purpose()));
    let mut builder = Builder::with_resolver(pattern.parse()?, Box::new(GivenChance(entropy)))
        .local_private_key(secret.expose())?
        .prologue(&prologue)?;
    if opening.mode.needs_key() {
        builder = builder.psk(0, &psk)?;
    }
    match connects {
        true => builder.build_initiator(),
        false => builder.build_responder(),
    }
}

/// The library's own primitives, with chance that the caller gives: enough for the one key that a side makes
/// in a handshake.
struct GivenChance(Entropy);

impl CryptoResolver for GivenChance {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Once(Some(self.0))))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        DefaultResolver.resolve_dh(choice)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

struct Once(Option<Entropy>);

impl Random for Once {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), snow::Error> {
        match self.0.take() {
            Some(entropy) if dest.len() == entropy.len() => {
                dest.copy_from_slice(&entropy);
                Ok(())
            }
            _ => Err(snow::Error::Rng),
        }
    }
}

#[cfg(test)]
mod tests;
