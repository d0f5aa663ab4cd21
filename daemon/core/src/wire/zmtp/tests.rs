use std::mem;

use proptest::prelude::*;

use super::command::put_command;
use super::*;
use crate::limits::{FRAMES_PER_MESSAGE_MAX, LARGE_FRAME, PONG_BACKLOG_MAX};

const MAX: usize = 64 << 20;

/// A link, what it wants to write, and what happened to it.
struct End {
    link: Link,
    out: Outbox,
    pool: ReadPool,
    events: Vec<Event>,
    allowed: bool,
}

impl End {
    fn new(
        socket_type: SocketType,
        identity: &'static str,
        mechanism: Mechanism,
        seed: u8,
    ) -> Self {
        let mut out = Outbox::new();
        let config = Config {
            socket_type,
            identity: Bytes::from_static(identity.as_bytes()),
            mechanism,
            message_bytes_max: MAX,
        };
        Self {
            link: Link::new(config, &[seed; ENTROPY], &mut out),
            out,
            pool: ReadPool::default(),
            events: Vec::new(),
            allowed: true,
        }
    }

    fn null(socket_type: SocketType, identity: &'static str) -> Self {
        Self::new(socket_type, identity, Mechanism::Null, 0)
    }

    /// Takes bytes as a socket would hand them out, and every event in them.
    fn feed(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            let mut space = self.link.space(&mut self.pool);
            let n = space.remaining_mut().min(bytes.len());
            space.put_slice(&bytes[..n]);
            bytes = &bytes[n..];
            while let Some(event) = self.link.poll_event(&mut self.out)? {
                if let Event::Authorize { .. } = event {
                    let next = self.link.authorize(self.allowed, &mut self.out)?;
                    self.events.push(event);
                    self.events.extend(next);
                } else {
                    self.events.push(event);
                }
            }
        }
        self.link.park(&mut self.pool);
        Ok(())
    }

    fn written(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while !self.out.is_empty() {
            let mut slices = [std::io::IoSlice::new(&[]); 8];
            let used = self.out.fill_slices(&mut slices);
            let part = slices[..used]
                .iter()
                .flat_map(|s| s.to_vec())
                .collect::<Vec<_>>();
            self.out.advance(part.len());
            bytes.extend(part);
        }
        bytes
    }

    fn send(&mut self, frames: &[&[u8]]) {
        let frames: Frames = frames.iter().map(|f| Bytes::copy_from_slice(f)).collect();
        self.link.encode(&frames, &mut self.out);
    }

    fn messages(&mut self) -> Vec<Vec<Bytes>> {
        let events = mem::take(&mut self.events).into_iter();
        let messages = events.filter_map(|event| match event {
            Event::Message(frames) => Some(frames.into()),
            _ => None,
        });
        messages.collect()
    }
}

/// Carries bytes both ways, in pieces of `piece` bytes, until both ends are silent.
fn talk(a: &mut End, b: &mut End, piece: usize) -> Result<(), Error> {
    loop {
        let (to_b, to_a) = (a.written(), b.written());
        if to_a.is_empty() && to_b.is_empty() {
            return Ok(());
        }
        to_b.chunks(piece).try_for_each(|bytes| b.feed(bytes))?;
        to_a.chunks(piece).try_for_each(|bytes| a.feed(bytes))?;
    }
}

fn null_pair() -> (End, End) {
    let mut a = End::null(SocketType::Dealer, "me");
    let mut b = End::null(SocketType::Router, "hub");
    talk(&mut a, &mut b, usize::MAX).unwrap();
    (a, b)
}

fn server_key() -> SecretKey {
    SecretKey::new([7; 32])
}

fn curve_ends() -> (End, End) {
    let client = Mechanism::CurveClient {
        secret: SecretKey::new([9; 32]),
        server: server_key().public(),
    };
    let server = Mechanism::CurveServer {
        secrets: vec![SecretKey::new([8; 32]), server_key()],
    };
    (
        End::new(SocketType::Dealer, "me", client, 1),
        End::new(SocketType::Router, "hub", server, 2),
    )
}

fn curve_pair() -> (End, End) {
    let (mut a, mut b) = curve_ends();
    talk(&mut a, &mut b, usize::MAX).unwrap();
    (a, b)
}

#[test]
fn null_ends_learn_who_the_other_is() {
    let (a, b) = null_pair();
    let hub = Event::Ready {
        socket_type: SocketType::Router,
        identity: Bytes::from("hub"),
        curve_key: None,
    };
    assert_eq!(a.events, [hub]);
    let me = Event::Ready {
        socket_type: SocketType::Dealer,
        identity: Bytes::from("me"),
        curve_key: None,
    };
    assert_eq!(b.events, [me]);
}

#[test]
fn a_curve_server_learns_the_key_before_it_lets_the_client_in() {
    let (_, b) = curve_pair();
    let key = SecretKey::new([9; 32]).public();
    let me = Event::Ready {
        socket_type: SocketType::Dealer,
        identity: Bytes::from("me"),
        curve_key: Some(key),
    };
    assert_eq!(
        b.events,
        [
            Event::Authorize {
                client: key,
                server: server_key().public()
            },
            me
        ]
    );
}

#[test]
fn a_key_that_is_not_allowed_is_refused_with_a_reason() {
    let (mut a, mut b) = curve_ends();
    b.allowed = false;
    let refused = talk(&mut a, &mut b, usize::MAX).unwrap_err();
    assert_eq!(refused, Error::KeyRefused(SecretKey::new([9; 32]).public()));
    let told = talk(&mut a, &mut b, usize::MAX).unwrap_err();
    assert!(matches!(told, Error::PeerRefused(reason) if reason.starts_with("400")));
}

#[test]
fn a_client_with_an_old_server_key_is_told_apart() {
    let (_, mut b) = curve_ends();
    let client = Mechanism::CurveClient {
        secret: SecretKey::new([9; 32]),
        server: SecretKey::new([6; 32]).public(),
    };
    let mut a = End::new(SocketType::Dealer, "", client, 1);
    assert_eq!(talk(&mut a, &mut b, usize::MAX), Err(Error::ServerKey));
}

#[test]
fn mechanisms_must_agree() {
    let (_, mut server) = curve_ends();
    let plain = talk(&mut End::null(SocketType::Dealer, ""), &mut server, 64).unwrap_err();
    assert!(plain.to_string().contains("unencrypted pool"), "{plain}");
    let (mut client, _) = curve_ends();
    let mut open = End::null(SocketType::Router, "");
    let curve = talk(&mut client, &mut open, 64).unwrap_err();
    assert!(curve.to_string().contains("encrypted pool"), "{curve}");
    let (_, mut one) = curve_ends();
    let (_, mut other) = curve_ends();
    assert_eq!(talk(&mut one, &mut other, 64), Err(Error::TwoServers));
}

#[test]
fn frames_of_every_size_arrive_as_sent() {
    for (mut a, mut b) in [null_pair(), curve_pair()] {
        let large: Vec<u8> = (0..1_000_000_u32).map(|i| (i >> 3) as u8).collect();
        let sizes = [0, 1, 255, 256, 16_383, 16_384, 70_000, 1_000_000];
        let frames: Vec<&[u8]> = sizes.iter().map(|n| &large[..*n]).collect();
        a.send(&frames);
        b.send(&[b"x"]);
        a.send(&[b""]);
        talk(&mut a, &mut b, 100_000).unwrap();
        assert_eq!(b.messages(), [frames, vec![b"".as_slice()]]);
        assert_eq!(a.messages(), [[b"x".as_slice()]]);
        assert_eq!(b.link.partial_bytes(), 0);
    }
}

#[test]
fn a_large_frame_is_not_copied_on_its_way_out() {
    let (mut a, _) = null_pair();
    let frame = Bytes::from(vec![1; LARGE_FRAME]);
    a.link.encode(&[frame.clone()].into(), &mut a.out);
    let mut slices = [std::io::IoSlice::new(&[]); 4];
    assert_eq!(a.out.fill_slices(&mut slices), 2);
    assert_eq!(slices[1].as_ptr(), frame.as_ptr());
}

#[test]
fn subscriptions_come_as_commands_and_as_messages() {
    let mut hub = End::null(SocketType::Pub, "");
    let mut client = End::null(SocketType::Sub, "");
    talk(&mut client, &mut hub, 64).unwrap();
    client.link.subscribe(b"a", &mut client.out);
    client.send(&[b"\x01b"]);
    client.send(&[b"\0b"]);
    client.send(&[b"nonsense"]);
    client.send(&[b"\x01two", b"frames"]);
    talk(&mut client, &mut hub, 64).unwrap();
    assert_eq!(
        hub.events[1..],
        [
            Event::Subscribe(Bytes::from("a")),
            Event::Subscribe(Bytes::from("b")),
            Event::Unsubscribe(Bytes::from("b")),
        ]
    );
}

#[test]
fn subscriptions_to_a_3_0_peer_are_messages() {
    let mut hub = End::null(SocketType::Sub, "");
    let mut engine = End::null(SocketType::XPub, "");
    let mut bytes = engine.written();
    bytes[11] = 0;
    hub.feed(&bytes).unwrap();
    engine.feed(&hub.written()).unwrap();
    hub.feed(&engine.written()).unwrap();
    assert!(!hub.link.ping(&mut hub.out));
    hub.link.subscribe(b"", &mut hub.out);
    assert_eq!(hub.written(), [0, 1, 1]);
}

#[test]
fn a_ping_is_answered_unless_too_much_waits() {
    for (mut a, mut b) in [null_pair(), curve_pair()] {
        assert!(a.link.ping(&mut a.out));
        talk(&mut a, &mut b, 64).unwrap();
        assert_eq!(a.events.last(), Some(&Event::Pong));
        a.link.ping(&mut a.out);
        let ping = a.written();
        b.send(&[&vec![0; PONG_BACKLOG_MAX]]);
        let waiting = b.out.len();
        b.feed(&ping).unwrap();
        assert_eq!(b.out.len(), waiting);
    }
}

#[test]
fn claims_are_refused_before_memory_is_spent() {
    for claim in [1_u64 << 40, u64::MAX, MAX as u64 + 1] {
        let (_, mut b) = null_pair();
        let mut bytes = vec![2];
        bytes.extend_from_slice(&claim.to_be_bytes());
        let refused = b.feed(&bytes).unwrap_err();
        assert_eq!(
            refused,
            Error::MessageTooLarge {
                claimed: claim,
                max: MAX
            }
        );
        bytes[0] = 6;
        let (_, mut b) = null_pair();
        assert!(matches!(b.feed(&bytes), Err(Error::CommandTooLarge { .. })));
    }
}

#[test]
fn nothing_large_passes_before_the_handshake_is_done() {
    let mut hub = End::null(SocketType::Router, "");
    let peer = End::null(SocketType::Dealer, "").written();
    hub.feed(&peer).unwrap();
    let mut claim = vec![6];
    claim.extend_from_slice(&5000_u64.to_be_bytes());
    assert!(matches!(
        hub.feed(&claim),
        Err(Error::CommandTooLarge { .. })
    ));
    assert_eq!(hub.feed(&[0; 100]), Ok(()), "what is over stays over");
}

#[test]
fn a_message_that_does_not_end_is_cut_off() {
    let (_, mut b) = null_pair();
    let empty_frames = [MORE, 0].repeat(10_000);
    let mut refused = Ok(());
    for _ in 0..14 {
        refused = b.feed(&empty_frames);
    }
    assert_eq!(refused, Err(Error::TooManyFrames(FRAMES_PER_MESSAGE_MAX)));
    let (_, mut b) = null_pair();
    let mut frame = vec![MORE | 2];
    frame.extend_from_slice(&1_000_000_u64.to_be_bytes());
    frame.resize(1_000_009, 0);
    let mut frames = 0;
    while b.feed(&frame).is_ok() {
        frames += 1;
        assert!(b.link.partial_bytes() <= MAX);
        assert!(frames < 100);
    }
}

#[test]
fn frames_without_a_body_do_not_lift_the_bound() {
    // Its bound is the smallest there is: one command.
    let (mut a, mut b) = (
        End::null(SocketType::Sub, ""),
        End::null(SocketType::Pub, ""),
    );
    talk(&mut a, &mut b, 1000).unwrap();
    let mut bytes = Vec::new();
    for size in [COMMAND_BYTES_MAX, 0, 0] {
        frame::put_header(&mut bytes, MORE, size);
        bytes.resize(bytes.len() + size, 0);
    }
    b.feed(&bytes).unwrap();
    assert!(matches!(
        b.feed(&[MORE, 1, 0]),
        Err(Error::MessageTooLarge { claimed: 1, .. })
    ));
}

#[test]
fn waiting_frames_do_not_hold_the_shared_chunk() {
    let (_, mut b) = null_pair();
    b.feed(&[MORE, 3, 1, 2, 3, MORE, 1, 4]).unwrap();
    assert_eq!((b.link.frames.len(), b.link.detached), (2, 2));
    b.feed(&[0, 0]).unwrap();
    assert_eq!((b.link.frames.len(), b.link.detached), (0, 0));
    let expected: [&[u8]; 3] = [&[1, 2, 3], &[4], &[]];
    assert_eq!(b.messages(), [expected]);
}

#[test]
fn a_replayed_box_is_refused() {
    let (mut a, mut b) = curve_pair();
    a.send(&[b"once"]);
    let sealed = a.written();
    b.feed(&sealed).unwrap();
    let replayed = b.feed(&sealed).unwrap_err();
    assert_eq!(replayed, Error::Replayed { got: 3, last: 3 });
}

#[test]
fn a_changed_box_is_refused() {
    let (mut a, mut b) = curve_pair();
    a.send(&[b"pay 1"]);
    let mut sealed = a.written();
    *sealed.last_mut().unwrap() ^= 1;
    assert_eq!(b.feed(&sealed), Err(Error::Forged));
    let (_, mut b) = curve_pair();
    assert!(matches!(
        b.feed(b"\0\x11in clear, in clear"),
        Err(Error::Unexpected { .. })
    ));
}

#[test]
fn a_recorded_handshake_does_not_open_another_connection() {
    let (mut a, mut b) = curve_ends();
    let mut recorded = Vec::new();
    loop {
        let to_b = a.written();
        b.feed(&to_b).unwrap();
        recorded.push(to_b);
        let to_a = b.written();
        if to_a.is_empty() {
            break;
        }
        a.feed(&to_a).unwrap();
    }
    let server = Mechanism::CurveServer {
        secrets: vec![server_key()],
    };
    let mut again = End::new(SocketType::Router, "hub", server, 3);
    let refused = recorded.iter().try_for_each(|bytes| again.feed(bytes));
    assert_eq!(
        refused,
        Err(Error::Handshake("another connection's cookie"))
    );
}

#[test]
fn commands_in_the_wrong_order_are_refused() {
    let (mut a, mut b) = null_pair();
    let ready = {
        let mut bytes = Vec::new();
        put_command(&mut bytes, "READY", b"");
        bytes
    };
    assert!(matches!(b.feed(&ready), Err(Error::Unexpected { .. })));
    assert!(matches!(
        a.feed(b"\x04\x0b\x05ERROR\x05later"),
        Err(Error::PeerRefused(_))
    ));
    let (mut client, mut server) = curve_ends();
    client.written();
    let hello = server.written();
    client.feed(&hello).unwrap();
    server.feed(&greeting("CURVE", false)).unwrap();
    assert!(matches!(server.feed(&ready), Err(Error::Unexpected { .. })));
    assert!(matches!(client.feed(&ready), Err(Error::Unexpected { .. })));
}

fn any_messages() -> impl Strategy<Value = Vec<Vec<Vec<u8>>>> {
    let size = prop_oneof![8 => 0..300_usize, 1 => 16_000..80_000_usize];
    let frame = (any::<u8>(), size).prop_map(|(byte, size)| vec![byte; size]);
    prop::collection::vec(prop::collection::vec(frame, 1..6), 0..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_sent_arrives_however_it_is_cut(
        messages in any_messages(),
        piece in prop_oneof![1..20_usize, 20..70_000_usize],
        encrypted in any::<bool>(),
    ) {
        let (mut a, mut b) = if encrypted {
            curve_ends()
        } else {
            (End::null(SocketType::Dealer, "me"), End::null(SocketType::Router, "hub"))
        };
        talk(&mut a, &mut b, piece).unwrap();
        for message in &messages {
            let frames: Vec<&[u8]> = message.iter().map(Vec::as_slice).collect();
            a.send(&frames);
        }
        talk(&mut a, &mut b, piece).unwrap();
        prop_assert_eq!(b.messages(), messages);
    }

    #[test]
    fn what_is_passed_on_keeps_all_but_its_first_frames(
        messages in any_messages(),
        piece in prop_oneof![1..20_usize, 20..70_000_usize],
        long_headers in any::<bool>(),
        gone in 0..4_usize,
        others in prop::collection::vec("[a-z]{0,9}", 0..3),
    ) {
        let (mut a, mut b) = null_pair();
        let (mut c, mut d) = null_pair();
        for message in &messages {
            let frames: Vec<&[u8]> = message.iter().map(Vec::as_slice).collect();
            if long_headers {
                // Nobody writes them for short frames, but anybody may.
                let bytes: Vec<u8> = frames.iter().enumerate().flat_map(|(i, frame)| {
                    let flags = 2 | if i + 1 < frames.len() { MORE } else { 0 };
                    [&[flags], &(frame.len() as u64).to_be_bytes()[..], frame].concat()
                }).collect();
                for bytes in bytes.chunks(piece) {
                    b.feed(bytes).unwrap();
                }
            } else {
                a.send(&frames);
            }
        }
        talk(&mut a, &mut b, piece).unwrap();
        let mut expected = Vec::new();
        for event in mem::take(&mut b.events) {
            let Event::Message(mut frames) = event else { continue };
            let mut list = Vec::from(frames.clone());
            let gone = gone.min(list.len() - 1);
            let others: Vec<Bytes> = others.iter().cloned().map(Bytes::from).collect();
            list.splice(..gone, others.clone());
            frames.replace_first(gone, others);
            prop_assert_eq!(&frames, &Frames::from(list.clone()));
            for (n, frame) in list.iter().enumerate() {
                prop_assert_eq!((frames.get(n), frames.bytes(n)), (Some(&frame[..]), frame.clone()));
            }
            prop_assert_eq!((frames.len(), frames.get(list.len())), (list.len(), None));
            c.link.encode(&frames, &mut c.out);
            expected.push(list);
        }
        talk(&mut c, &mut d, piece).unwrap();
        prop_assert_eq!(d.messages(), expected);
    }

    #[test]
    fn no_bytes_make_it_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..2000),
        stage in 0..4_usize,
        piece in 1..500_usize,
    ) {
        let (mut client, mut server) = curve_ends();
        let (_, mut open) = null_pair();
        let mut fresh = End::null(SocketType::Pub, "");
        client.feed(&server.written()).unwrap();
        server.feed(&client.written()).unwrap();
        let end = [&mut fresh, &mut open, &mut client, &mut server].into_iter().nth(stage).unwrap();
        let _ = bytes.chunks(piece).try_for_each(|part| end.feed(part));
        prop_assert!(end.link.partial_bytes() <= MAX);
    }

    #[test]
    fn a_damaged_stream_gives_no_other_messages(at in 0..400_usize, flip in 1..=255_u8) {
        let (mut a, mut b) = curve_pair();
        a.send(&[b"first", &[1; 100]]);
        a.send(&[b"second", &[2; 100]]);
        let mut bytes = a.written();
        let at = at % bytes.len();
        bytes[at] ^= flip;
        let _ = b.feed(&bytes);
        let whole = [[b"first".to_vec(), vec![1; 100]], [b"second".to_vec(), vec![2; 100]]];
        let got = b.messages();
        prop_assert!(got.iter().zip(&whole).all(|(got, sent)| got == sent));
        prop_assert!(got.len() <= whole.len());
    }
}
