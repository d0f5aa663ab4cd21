//! Bytes of a join connection. The first byte chooses what they are: what a stranger sends, what happens to the
//! traffic between two honest ends, or what comes to the door of a controller.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use piparallel_core::clock::Now;
use piparallel_core::ids::NodeId;
use piparallel_core::join::admission::{Admission, Command, Config, LinkId};
use piparallel_core::join::keys::{NodeSecret, SharedKey};
use piparallel_core::join::message::ToController;
use piparallel_core::join::opening::{Mode, Opening};
use piparallel_core::join::session::{Event, Session, SessionError};

use super::Input;

const MODES: [Mode; 4] = [Mode::ClientKey, Mode::JoinKey, Mode::Known, Mode::Pair];

pub fn run(data: &[u8]) {
    let mut input = Input(data);
    match input.below(4) {
        0 => stranger(accepting(), &mut input),
        1 => {
            let mode = MODES[input.below(MODES.len())];
            stranger(connecting(mode), &mut input);
        }
        2 => between(&mut input),
        _ => door(&mut input),
    }
}

fn key() -> SharedKey {
    SharedKey::new([9; 32])
}

fn accepting() -> Session {
    Session::accept(NodeSecret::new([1; 32]), [3; 32])
}

fn connecting(mode: Mode) -> Session {
    let pool = "lab".to_owned();
    let secret = NodeSecret::new([2; 32]);
    let key = mode.needs_key().then(key);
    Session::connect(&secret, &Opening { mode, pool }, key.as_ref(), [4; 32])
}

/// One end, and what it went through.
struct End {
    session: Session,
    is_established: bool,
    messages: Vec<Vec<u8>>,
}

impl End {
    fn new(session: Session) -> Self {
        Self {
            session,
            is_established: false,
            messages: Vec::new(),
        }
    }

    fn feed(&mut self, bytes: &[u8]) -> Result<(), SessionError> {
        self.session.handle_bytes(bytes);
        while let Some(event) = self.session.poll_event()? {
            match event {
                Event::Asked(opening) => {
                    let key = opening.mode.needs_key().then(key);
                    self.session.admit(key.as_ref());
                }
                Event::Established(_) => {
                    assert!(!self.is_established, "established twice");
                    self.is_established = true;
                }
                Event::Message(message) => {
                    assert!(self.is_established, "a message before the keys are proven");
                    self.messages.push(message);
                }
            }
        }
        Ok(())
    }
}

/// Without the other's keys nobody gets through a handshake, whatever he sends in whatever pieces.
fn stranger(session: Session, input: &mut Input<'_>) {
    let mut end = End::new(session);
    let piece = 1 + usize::from(input.byte());
    while !input.is_empty() {
        let outcome = end.feed(input.take(piece));
        assert!(!end.is_established);
        if outcome.is_err() {
            assert_eq!(end.feed(b"more"), Ok(()), "it is over, and stays so");
            return;
        }
        let _ = end.session.take_output();
    }
}

/// Two ends; the input says what they send and which bits flip on the way. What arrives is what was sent, in
/// order; without a flip all of it arrives.
fn between(input: &mut Input<'_>) {
    let mode = MODES[input.below(MODES.len())];
    let mut ends = [End::new(connecting(mode)), End::new(accepting())];
    let mut sent = [Vec::new(), Vec::new()];
    let mut is_damaged = false;
    for turn in 0..64 {
        let from = turn % 2;
        if ends[from].is_established && !input.is_empty() {
            let length = usize::from(input.byte());
            let message = input.take(length).to_vec();
            assert!(ends[from].session.send(&message));
            sent[from].push(message);
        }
        let mut bytes = ends[from].session.take_output();
        if !bytes.is_empty() && input.below(8) == 1 {
            let at = input.below(bytes.len());
            bytes[at] ^= 1 << input.below(8);
            is_damaged = true;
        }
        let outcome = ends[1 - from].feed(&bytes);
        assert!(is_damaged || outcome.is_ok(), "{outcome:?}");
        if outcome.is_err() {
            break;
        }
    }
    for (end, sent) in [(&ends[0], &sent[1]), (&ends[1], &sent[0])] {
        assert!(sent.starts_with(&end.messages), "only what was sent");
        assert!(is_damaged || sent.len() == end.messages.len());
    }
}

/// Anybody does anything at a controller's door, in any order.
fn door(input: &mut Input<'_>) {
    let config = Config {
        pool: "lab".to_owned(),
        join_key: key(),
        client_key: SharedKey::new([8; 32]),
        seed: [5; 32],
    };
    let mut admission = Admission::new(config, 1, Vec::new());
    let mut now = Now::new(Duration::from_secs(1), 0);
    let _ = admission.add_self(now, NodeSecret::new([1; 32]).public(), "self");
    let mut ids: Vec<NodeId> = Vec::new();
    let mut links = 0;
    while !input.is_empty() {
        let link = LinkId(input.below(8).min(links) as u64);
        match input.below(11) {
            0 => {
                let source = IpAddr::V4(Ipv4Addr::new(10, 0, 0, input.byte()));
                links += 1;
                let _ = admission.handle_connection(now, LinkId(links as u64), source);
            }
            1 => {
                let opening = Opening {
                    mode: MODES[input.below(MODES.len())],
                    pool: if input.below(8) == 7 { "other" } else { "lab" }.to_owned(),
                };
                let _ = admission.handle_opening(now, link, &opening);
            }
            2 => {
                let key = NodeSecret::new([input.byte(); 32]).public();
                ids.push(key.id());
                admission.handle_established(link, key);
            }
            3 => {
                let bytes = input.chunk();
                if let Ok(message) = serde_json::from_slice::<ToController>(&bytes) {
                    admission.handle_message(now, link, message);
                }
            }
            4 => drop(admission.handle_failure(now, link, &SessionError::WrongKey)),
            5 => admission.handle_closed(now, link),
            6 => {
                now = Now::new(
                    now.monotonic + Duration::from_millis(u64::from(input.byte()) * 50),
                    0,
                );
                admission.handle_timeout(now);
            }
            7 => drop(input.pick(&ids).map(|id| admission.approve(now, id))),
            8 => drop(input.pick(&ids).map(|id| admission.revoke(now, id))),
            9 => {
                let time = Duration::from_secs(u64::from(input.byte()));
                admission.open_window(now, time, u32::from(input.byte()));
            }
            _ => drop(input.pick(&ids).map(|id| admission.set_drained(id, true))),
        }
        obey(&mut admission);
    }
}

fn obey(admission: &mut Admission) {
    while let Some(command) = admission.poll_command() {
        if let Command::Send { message, .. } = &command {
            let text = serde_json::to_vec(message);
            assert!(text.is_ok_and(|text| text.len() <= piparallel_core::limits::JOIN_MESSAGE_MAX));
        }
    }
    admission.check_invariants();
}
