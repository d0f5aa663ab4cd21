//! Bytes of a connection. The first byte chooses what they are: what one peer sends, or what happens to
//! the traffic between two of our own ends.

use std::io::IoSlice;

use bytes::{BufMut, Bytes};
use piparallel_core::channel::SocketType;
use piparallel_core::wire::zmtp::{
    Config, Error, Event, Link, Mechanism, Outbox, ReadPool, SecretKey,
};

use super::Input;

const MESSAGE_BYTES_MAX: usize = 1 << 20;
const TYPES: [SocketType; 6] = [
    SocketType::Router,
    SocketType::Dealer,
    SocketType::Pub,
    SocketType::Sub,
    SocketType::XPub,
    SocketType::XSub,
];

pub fn run(data: &[u8]) {
    let mut input = Input(data);
    match input.below(4) {
        0 => alone(Mechanism::Null, &mut input),
        1 => alone(curve_server(), &mut input),
        2 => between(Mechanism::Null, Mechanism::Null, &mut input),
        _ => between(curve_client(), curve_server(), &mut input),
    }
}

fn curve_server() -> Mechanism {
    Mechanism::CurveServer {
        secrets: vec![SecretKey::new([6; 32]), SecretKey::new([7; 32])],
    }
}

fn curve_client() -> Mechanism {
    let server = SecretKey::new([7; 32]).public();
    Mechanism::CurveClient {
        secret: SecretKey::new([9; 32]),
        server,
    }
}

struct End {
    link: Link,
    out: Outbox,
    pool: ReadPool,
    is_ready: bool,
    messages: Vec<Vec<Bytes>>,
}

impl End {
    fn new(socket_type: SocketType, mechanism: Mechanism, entropy: u8) -> Self {
        let mut out = Outbox::new();
        let config = Config {
            socket_type,
            identity: Bytes::from_static(b"me"),
            mechanism,
            message_bytes_max: MESSAGE_BYTES_MAX,
        };
        let link = Link::new(
            config,
            &[entropy; size_of::<piparallel_core::wire::zmtp::Entropy>()],
            &mut out,
        );
        Self {
            link,
            out,
            pool: ReadPool::default(),
            is_ready: false,
            messages: Vec::new(),
        }
    }

    fn feed(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            let mut space = self.link.space(&mut self.pool);
            let n = space.remaining_mut().min(bytes.len());
            assert!(n > 0, "there is always room for a byte");
            space.put_slice(&bytes[..n]);
            bytes = &bytes[n..];
            while let Some(event) = self.link.poll_event(&mut self.out)? {
                self.note(event)?;
            }
            assert!(self.link.partial_bytes() <= MESSAGE_BYTES_MAX + (1 << 16));
        }
        self.link.park(&mut self.pool);
        Ok(())
    }

    fn note(&mut self, event: Event) -> Result<(), Error> {
        match event {
            Event::Authorize { .. } => {
                if let Some(event) = self.link.authorize(true, &mut self.out)? {
                    self.note(event)?;
                }
            }
            Event::Ready { .. } => {
                assert!(!self.is_ready, "ready twice");
                self.is_ready = true;
            }
            Event::Message(frames) => {
                assert!(self.is_ready && !frames.is_empty());
                assert!(frames.iter().map(<[u8]>::len).sum::<usize>() <= MESSAGE_BYTES_MAX);
                self.messages.push(frames.into());
            }
            Event::Subscribe(_) | Event::Unsubscribe(_) | Event::Pong => assert!(self.is_ready),
        }
        Ok(())
    }

    fn written(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while !self.out.is_empty() {
            let mut slices = [IoSlice::new(&[]); 8];
            let used = self.out.fill_slices(&mut slices);
            let start = bytes.len();
            slices[..used]
                .iter()
                .for_each(|slice| bytes.extend_from_slice(slice));
            self.out.advance(bytes.len() - start);
        }
        bytes
    }
}

/// One peer's bytes, in pieces.
fn alone(mechanism: Mechanism, input: &mut Input<'_>) {
    let mut end = End::new(TYPES[input.below(TYPES.len())], mechanism, 1);
    let piece = 1 + usize::from(input.byte());
    while !input.is_empty() {
        if end.feed(input.take(piece)).is_err() {
            return;
        }
        end.written();
    }
}

/// Two ends; the input says what they send and which bits flip on the way. What arrives encrypted is
/// what was sent, in order; without a flip all of it arrives.
fn between(client: Mechanism, server: Mechanism, input: &mut Input<'_>) {
    let is_encrypted = matches!(server, Mechanism::CurveServer { .. });
    let mut ends = [
        End::new(SocketType::Dealer, client, 1),
        End::new(SocketType::Router, server, 2),
    ];
    let mut sent = [Vec::new(), Vec::new()];
    let mut flipped = false;
    for _ in 0..32 {
        for from in [0, 1] {
            let mut bytes = ends[from].written();
            let op = input.byte();
            if op & 1 == 1 && !bytes.is_empty() {
                let at = usize::from(input.byte()) * 7 % bytes.len();
                bytes[at] ^= 1 << (op >> 5);
                flipped = true;
            }
            let result = ends[1 - from].feed(&bytes);
            let arrived = &ends[1 - from].messages;
            if is_encrypted || !flipped {
                assert!(
                    sent[from].starts_with(arrived),
                    "something else than was sent arrived"
                );
            }
            if result.is_err() {
                assert!(flipped, "{result:?} without a cause");
                return;
            }
            if op & 2 == 2 && ends[from].is_ready {
                let frames: Vec<Bytes> = (0..=op >> 6).map(|_| input.chunk()).collect();
                let message = frames.clone().into();
                ends[from].link.encode(&message, &mut ends[from].out);
                sent[from].push(frames);
            }
            if op & 4 == 4 && ends[from].is_ready {
                ends[from].link.ping(&mut ends[from].out);
            }
        }
    }
    if !flipped {
        assert!(ends.iter().all(|end| end.is_ready));
    }
}
