use proptest::prelude::*;

use super::*;

const NODE: [u8; 32] = [1; 32];
const CONTROLLER: [u8; 32] = [2; 32];

fn opening(mode: Mode) -> Opening {
    Opening {
        mode,
        pool: "lab".into(),
    }
}

fn key(byte: u8) -> SharedKey {
    SharedKey::new([byte; 32])
}

/// The two ends, and what passes between them.
struct Pair {
    node: Session,
    controller: Session,
}

impl Pair {
    fn new(mode: Mode, key: Option<&SharedKey>) -> Self {
        Self {
            node: Session::connect(&NodeSecret::new(NODE), &opening(mode), key, [3; 32]),
            controller: Session::accept(NodeSecret::new(CONTROLLER), [4; 32]),
        }
    }

    fn pass_to_controller(&mut self) -> Result<Option<Event>, SessionError> {
        let bytes = self.node.take_output();
        self.controller.handle_bytes(&bytes);
        self.controller.poll_event()
    }

    fn pass_to_node(&mut self) -> Result<Option<Event>, SessionError> {
        let bytes = self.controller.take_output();
        self.node.handle_bytes(&bytes);
        self.node.poll_event()
    }

    fn established(mode: Mode, shared: Option<&SharedKey>) -> Self {
        let mut pair = Self::new(mode, shared);
        assert_eq!(
            pair.pass_to_controller(),
            Ok(Some(Event::Asked(opening(mode))))
        );
        pair.controller.admit(shared);
        assert_eq!(pair.controller.poll_event(), Ok(None));
        let controller = NodeSecret::new(CONTROLLER).public();
        assert_eq!(
            pair.pass_to_node(),
            Ok(Some(Event::Established(controller)))
        );
        let node = NodeSecret::new(NODE).public();
        assert_eq!(
            pair.pass_to_controller(),
            Ok(Some(Event::Established(node)))
        );
        pair
    }
}

#[test]
fn both_learn_the_others_key_and_talk() {
    for (mode, shared) in [
        (Mode::Known, None),
        (Mode::Pair, None),
        (Mode::JoinKey, Some(key(7))),
        (Mode::ClientKey, Some(key(7))),
    ] {
        let mut pair = Pair::established(mode, shared.as_ref());
        assert!(pair.node.send(b"hello"));
        assert!(pair.node.send(b""));
        assert_eq!(
            pair.pass_to_controller(),
            Ok(Some(Event::Message(b"hello".to_vec())))
        );
        assert_eq!(
            pair.controller.poll_event(),
            Ok(Some(Event::Message(Vec::new())))
        );
        assert!(pair.controller.send(&[5; JOIN_MESSAGE_MAX]));
        assert_eq!(
            pair.pass_to_node(),
            Ok(Some(Event::Message(vec![5; JOIN_MESSAGE_MAX])))
        );
        assert!(!pair.node.send(&[5; JOIN_MESSAGE_MAX + 1]));
    }
}

#[test]
fn a_wrong_key_is_known_at_the_first_message() {
    let mut pair = Pair::new(Mode::JoinKey, Some(&key(7)));
    pair.pass_to_controller().unwrap();
    pair.controller.admit(Some(&key(8)));
    assert_eq!(pair.controller.poll_event(), Err(SessionError::WrongKey));
    pair.controller
        .refuse("the join key is not that of this pool\u{7}");
    let words = "the join key is not that of this pool".to_owned();
    assert_eq!(pair.pass_to_node(), Err(SessionError::Refused(words)));
    assert!(!pair.node.send(b"hello"));
}

#[test]
fn a_key_for_one_use_does_not_serve_another() {
    let mut pair = Pair::new(Mode::ClientKey, Some(&key(7)));
    // An attacker who changes the mode on the way.
    let mut bytes = pair.node.take_output();
    let mode = bytes.iter().position(|b| *b == b'C').unwrap();
    bytes[mode] = b'J';
    pair.controller.handle_bytes(&bytes);
    assert_eq!(
        pair.controller.poll_event(),
        Ok(Some(Event::Asked(opening(Mode::JoinKey))))
    );
    pair.controller.admit(Some(&key(7)));
    assert_eq!(pair.controller.poll_event(), Err(SessionError::WrongKey));
}

#[test]
fn a_recorded_conversation_is_worth_nothing() {
    let mut pair = Pair::new(Mode::Known, None);
    let first = pair.node.take_output();
    pair.controller.handle_bytes(&first);
    pair.controller.poll_event().unwrap();
    pair.controller.admit(None);
    pair.controller.poll_event().unwrap();
    pair.pass_to_node().unwrap();
    assert!(pair.node.send(b"hello"));
    let rest = pair.node.take_output();
    let mut again = Session::accept(NodeSecret::new(CONTROLLER), [5; 32]);
    again.handle_bytes(&first);
    again.poll_event().unwrap();
    again.admit(None);
    again.handle_bytes(&rest);
    assert_eq!(again.poll_event(), Err(SessionError::Forged));
}

#[test]
fn frames_are_bounded_before_they_come() {
    let mut controller = Session::accept(NodeSecret::new(CONTROLLER), [4; 32]);
    controller.handle_bytes(&opening(Mode::Pair).encode());
    controller.poll_event().unwrap();
    controller.admit(None);
    controller.handle_bytes(&[NOISE, 0xff, 0xff]);
    assert_eq!(
        controller.poll_event(),
        Err(SessionError::FrameTooLarge(0xffff))
    );
    controller.handle_bytes(&[0; 100]);
    assert_eq!(controller.poll_event(), Ok(None), "it is over");
}

proptest! {
    #[test]
    fn no_bytes_are_a_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        flip in 0usize..400,
    ) {
        let mut pair = Pair::new(Mode::Pair, None);
        let mut first = pair.node.take_output();
        if let Some(byte) = first.get_mut(flip) {
            *byte ^= 1;
        }
        pair.controller.handle_bytes(&first);
        let _ = pair.controller.poll_event();
        pair.controller.admit(None);
        pair.controller.handle_bytes(&bytes);
        while let Ok(Some(_)) = pair.controller.poll_event() {}
        let mut node = Session::connect(&NodeSecret::new(NODE), &opening(Mode::Known), None, [9; 32]);
        node.handle_bytes(&bytes);
        while let Ok(Some(_)) = node.poll_event() {}
    }

    #[test]
    fn a_changed_message_is_refused(flip in 0usize..30, bit in 0u8..8) {
        let mut pair = Pair::established(Mode::Known, None);
        pair.node.send(b"hello, controller");
        let mut bytes = pair.node.take_output();
        let at = FRAME_HEADER + flip % (bytes.len() - FRAME_HEADER);
        bytes[at] ^= 1 << bit;
        pair.controller.handle_bytes(&bytes);
        prop_assert_eq!(pair.controller.poll_event(), Err(SessionError::Forged));
    }
}
