//! HELLO, WELCOME, INITIATE, READY: both ends.
//!
//! ```text
//! HELLO     version[2] zeros[72] C'[32] nonce[8] Box[zeros[64]](C' -> S)
//! WELCOME   nonce[16] Box[S'[32] cookie[96]](S -> C')
//! INITIATE  cookie[96] nonce[8] Box[C[32] nonce[16] Box[C' S](C -> S') metadata](C' -> S')
//! READY     nonce[8] Box[metadata](S' -> C')
//! ```
//!
//! `C`, `S` are the long-term keys, `C'`, `S'` those of this connection. The cookie lets a server
//! forget a client between HELLO and INITIATE. Ours holds its state with the connection anyway, whose
//! number is bounded, so its cookie is chance that has to come back.

use super::super::command::{expect, put_command};
use super::super::error::Error;
use super::super::outbox::Outbox;
use super::keys::{Nonce, PublicKey, SecretKey};
use super::session::{Session, long_nonce, short_nonce};
use super::{ENTROPY, MAC, Shared};

const COOKIE: usize = 96;
const HELLO: usize = 194;
const VOUCH: usize = 16 + MAC + 64;

const WEAK_KEY: Error = Error::Handshake("a weak public key");

/// The server's end, until READY is sent.
pub(in super::super) struct Server {
    /// The client says by its HELLO which of them it knows.
    secrets: Vec<SecretKey>,
    /// The public half of that one.
    known_as: PublicKey,
    connection: SecretKey,
    connection_public: PublicKey,
    chance: [u8; 16],
    cookie: [u8; COOKIE],
    step: ServerStep,
}

enum ServerStep {
    Hello,
    Initiate {
        client_connection: PublicKey,
        counter: u64,
    },
    Ready {
        shared: Shared,
        counter: u64,
    },
}

/// What a server learns at the end.
pub(in super::super) struct Initiated {
    pub(in super::super) key: PublicKey,
    /// Which of our keys the client knows.
    pub(in super::super) server: PublicKey,
    pub(in super::super) metadata: Vec<u8>,
}

impl Server {
    pub(in super::super) fn new(secrets: Vec<SecretKey>, entropy: &[u8; ENTROPY]) -> Self {
        let (connection, chance, cookie_seed) = split_entropy(entropy);
        let mut cookie = [0; COOKIE];
        for part in cookie.chunks_mut(cookie_seed.len()) {
            part.copy_from_slice(&cookie_seed);
        }
        Self {
            secrets,
            known_as: PublicKey([0; 32]),
            connection_public: connection.public(),
            connection,
            chance,
            cookie,
            step: ServerStep::Hello,
        }
    }

    /// Takes the next command of the client. After INITIATE the caller decides about the key.
    pub(in super::super) fn handle_command(
        &mut self,
        body: &[u8],
        out: &mut Outbox,
    ) -> Result<Option<Initiated>, Error> {
        match self.step {
            ServerStep::Hello => self.handle_hello(body, out).map(|()| None),
            ServerStep::Initiate {
                client_connection,
                counter,
            } => self
                .handle_initiate(body, &client_connection, counter)
                .map(Some),
            ServerStep::Ready { .. } => Err(Error::Unexpected {
                expected: "nothing",
                got: "a command".to_owned(),
            }),
        }
    }

    /// Sends READY with our metadata.
    pub(in super::super) fn ready(
        self,
        metadata: &[u8],
        out: &mut Outbox,
    ) -> Result<Session, Error> {
        let ServerStep::Ready { shared, counter } = self.step else {
            return Err(Error::Handshake("READY before INITIATE"));
        };
        let nonce = short_nonce(b"CurveZMQREADY---", 1);
        let mut rest = nonce[16..].to_vec();
        put_box(&mut rest, &shared, &nonce, &[metadata]);
        send(out, "READY", &rest);
        Ok(Session::new(shared, true, counter, 2))
    }

    fn handle_hello(&mut self, body: &[u8], out: &mut Outbox) -> Result<(), Error> {
        let hello = expect(body, "HELLO")?;
        if hello.len() != HELLO || hello[0] != 1 {
            return Err(Error::Malformed("HELLO"));
        }
        let client_connection = PublicKey(array(&hello[74..106]));
        let counter = u64::from_be_bytes(array(&hello[106..114]));
        let nonce = short_nonce(b"CurveZMQHELLO---", counter);
        let shared = self.known_key(&client_connection, &nonce, &hello[114..])?;

        let nonce = long_nonce(b"WELCOME-", &self.chance);
        let mut rest = self.chance.to_vec();
        let parts = [self.connection_public.0.as_slice(), &self.cookie];
        put_box(&mut rest, &shared, &nonce, &parts);
        send(out, "WELCOME", &rest);
        self.step = ServerStep::Initiate {
            client_connection,
            counter,
        };
        Ok(())
    }

    /// Finds the key of ours with which the client sealed its HELLO.
    fn known_key(
        &mut self,
        client_connection: &PublicKey,
        nonce: &Nonce,
        sealed: &[u8],
    ) -> Result<Shared, Error> {
        for secret in &self.secrets {
            let shared = Shared::agree(client_connection, secret).ok_or(WEAK_KEY)?;
            if shared.open(nonce, &mut sealed.to_vec()).is_some() {
                self.known_as = secret.public();
                return Ok(shared);
            }
        }
        Err(Error::ServerKey)
    }

    fn handle_initiate(
        &mut self,
        body: &[u8],
        client_connection: &PublicKey,
        last: u64,
    ) -> Result<Initiated, Error> {
        const SHORT: Error = Error::Malformed("INITIATE");
        let rest = expect(body, "INITIATE")?;
        let (cookie, rest) = rest.split_first_chunk::<COOKIE>().ok_or(SHORT)?;
        let (counter, sealed) = rest.split_first_chunk().ok_or(SHORT)?;
        if *cookie != self.cookie {
            return Err(Error::Handshake("another connection's cookie"));
        }
        let got = u64::from_be_bytes(*counter);
        if got <= last {
            return Err(Error::Replayed { got, last });
        }
        let shared = Shared::agree(client_connection, &self.connection).ok_or(WEAK_KEY)?;
        let nonce = short_nonce(b"CurveZMQINITIATE", got);
        let mut sealed = sealed.to_vec();
        let text = shared
            .open(&nonce, &mut sealed)
            .ok_or(Error::Handshake("INITIATE does not open"))?;
        let (key, text) = text.split_first_chunk_mut::<32>().ok_or(SHORT)?;
        let key = PublicKey(*key);
        let (vouch, metadata) = text.split_first_chunk_mut::<VOUCH>().ok_or(SHORT)?;
        self.check_vouch(vouch, &key, client_connection)?;
        self.step = ServerStep::Ready {
            shared,
            counter: got,
        };
        Ok(Initiated {
            key,
            server: self.known_as,
            metadata: metadata.to_vec(),
        })
    }

    /// The client's long-term key vouches for its key of this connection, and for ours.
    fn check_vouch(
        &self,
        vouch: &mut [u8; VOUCH],
        key: &PublicKey,
        client_connection: &PublicKey,
    ) -> Result<(), Error> {
        let (chance, sealed) = vouch.split_at_mut(16);
        let shared = Shared::agree(key, &self.connection).ok_or(WEAK_KEY)?;
        let nonce = long_nonce(b"VOUCH---", &array(chance));
        let text = shared
            .open(&nonce, sealed)
            .ok_or(Error::Handshake("the client's key does not vouch for it"))?;
        if text[..32] != client_connection.0 || text[32..] != self.known_as.0 {
            return Err(Error::Handshake("the vouch is for another connection"));
        }
        Ok(())
    }
}

/// The client's end, until READY came.
pub(in super::super) struct Client {
    secret: SecretKey,
    server: PublicKey,
    connection: SecretKey,
    chance: [u8; 16],
    /// The key shared by both ends' keys of this connection, once WELCOME came.
    shared: Option<Shared>,
}

impl Client {
    /// Sends HELLO.
    pub(in super::super) fn new(
        secret: SecretKey,
        server: PublicKey,
        entropy: &[u8; ENTROPY],
        out: &mut Outbox,
    ) -> Result<Self, Error> {
        let (connection, chance, _) = split_entropy(entropy);
        let shared = Shared::agree(&server, &connection).ok_or(WEAK_KEY)?;
        let nonce = short_nonce(b"CurveZMQHELLO---", 1);
        let mut hello = vec![0; 74];
        hello[0] = 1;
        hello.extend_from_slice(&connection.public().0);
        hello.extend_from_slice(&nonce[16..]);
        put_box(&mut hello, &shared, &nonce, &[&[0; 64]]);
        send(out, "HELLO", &hello);
        Ok(Self {
            secret,
            server,
            connection,
            chance,
            shared: None,
        })
    }

    /// Takes the next command of the server. Returns its metadata and the session at the end.
    pub(in super::super) fn handle_command(
        &mut self,
        body: &[u8],
        metadata: &[u8],
        out: &mut Outbox,
    ) -> Result<Option<(Vec<u8>, Session)>, Error> {
        match self.shared.take() {
            None => {
                self.handle_welcome(body, metadata, out)?;
                Ok(None)
            }
            Some(shared) => {
                let rest = expect(body, "READY")?;
                let (counter, sealed) =
                    rest.split_first_chunk().ok_or(Error::Malformed("READY"))?;
                let counter = u64::from_be_bytes(*counter);
                let nonce = short_nonce(b"CurveZMQREADY---", counter);
                let mut sealed = sealed.to_vec();
                let theirs = shared
                    .open(&nonce, &mut sealed)
                    .ok_or(Error::Handshake("READY does not open"))?
                    .to_vec();
                Ok(Some((theirs, Session::new(shared, false, counter, 3))))
            }
        }
    }

    fn handle_welcome(
        &mut self,
        body: &[u8],
        metadata: &[u8],
        out: &mut Outbox,
    ) -> Result<(), Error> {
        let rest = expect(body, "WELCOME")?;
        if rest.len() != 16 + MAC + 32 + COOKIE {
            return Err(Error::Malformed("WELCOME"));
        }
        let shared = Shared::agree(&self.server, &self.connection).ok_or(WEAK_KEY)?;
        let nonce = long_nonce(b"WELCOME-", &array(&rest[..16]));
        let mut sealed = rest[16..].to_vec();
        let text = shared.open(&nonce, &mut sealed).ok_or(Error::ServerKey)?;
        let (server_connection, cookie) = text.split_at(32);
        let server_connection = PublicKey(array(server_connection));

        let vouch_key = Shared::agree(&server_connection, &self.secret).ok_or(WEAK_KEY)?;
        let vouch_nonce = long_nonce(b"VOUCH---", &self.chance);
        let mut vouch = self.chance.to_vec();
        let parts = [self.connection.public().0, self.server.0];
        put_box(
            &mut vouch,
            &vouch_key,
            &vouch_nonce,
            &[parts.as_flattened()],
        );

        let shared = Shared::agree(&server_connection, &self.connection).ok_or(WEAK_KEY)?;
        let nonce = short_nonce(b"CurveZMQINITIATE", 2);
        let mut initiate = cookie.to_vec();
        initiate.extend_from_slice(&nonce[16..]);
        let key = self.secret.public();
        let parts = [key.0.as_slice(), &vouch, metadata];
        put_box(&mut initiate, &shared, &nonce, &parts);
        send(out, "INITIATE", &initiate);
        self.shared = Some(shared);
        Ok(())
    }
}

/// A key pair, a long nonce, and the seed of a cookie.
fn split_entropy(entropy: &[u8; ENTROPY]) -> (SecretKey, [u8; 16], [u8; 48]) {
    (
        SecretKey::new(array(&entropy[..32])),
        array(&entropy[32..48]),
        array(&entropy[48..]),
    )
}

/// Appends a box around `parts`.
fn put_box(out: &mut Vec<u8>, shared: &Shared, nonce: &[u8; 24], parts: &[&[u8]]) {
    let start = out.len();
    out.extend_from_slice(&[0; MAC]);
    for part in parts {
        out.extend_from_slice(part);
    }
    shared.seal(nonce, &mut out[start..]);
}

fn send(out: &mut Outbox, name: &str, rest: &[u8]) {
    out.put(rest.len() + 32, |tail| put_command(tail, name, rest));
    out.end_message();
}

/// The first bytes of a slice as an array; zeros where the slice is too short.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.first_chunk().copied().unwrap_or([0; N])
}
