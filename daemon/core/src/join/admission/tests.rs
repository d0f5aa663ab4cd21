use std::net::Ipv4Addr;

use super::*;
use crate::join::keys::NodeSecret;
use crate::join::message::{Private, RefusalKind};

/// An admission and a clock.
struct Door {
    admission: Admission,
    now: Duration,
    links: u64,
    sent: Vec<(LinkId, ToNode)>,
    closed: Vec<LinkId>,
    engine_keys: BTreeSet<PublicKey>,
    rows: BTreeMap<NodeId, NodeRow>,
    left: Vec<NodeId>,
    files: Vec<(LinkId, NodeId)>,
}

fn shared(byte: u8) -> SharedKey {
    SharedKey::new([byte; 32])
}

fn node(byte: u8) -> NodeKey {
    NodeSecret::new([byte; 32]).public()
}

fn config() -> Config {
    Config {
        pool: "lab".into(),
        join_key: shared(1),
        client_key: shared(2),
        seed: [3; 32],
    }
}

fn hello(name: &str, kind: Kind) -> Hello {
    Hello {
        name: name.into(),
        kind,
        ..Hello::default()
    }
}

impl Door {
    fn new() -> Self {
        Self::with(Vec::new())
    }

    fn with(rows: Vec<NodeRow>) -> Self {
        let mut door = Self {
            admission: Admission::new(config(), 7, rows),
            now: Duration::from_secs(100),
            links: 0,
            sent: Vec::new(),
            closed: Vec::new(),
            engine_keys: BTreeSet::new(),
            rows: BTreeMap::new(),
            left: Vec::new(),
            files: Vec::new(),
        };
        door.obey();
        door
    }

    fn now(&self) -> Now {
        Now::new(self.now, 0)
    }

    fn obey(&mut self) {
        while let Some(command) = self.admission.poll_command() {
            match command {
                Command::AdmittedClient { link, node }
                | Command::AdmittedNode { link, node, .. } => {
                    self.files.push((link, node));
                }
                Command::Close { link, .. } => self.closed.push(link),
                Command::EngineKeys(keys) => self.engine_keys = keys,
                Command::Forget(id) => drop(self.rows.remove(&id)),
                Command::Left { node } | Command::Stopping { node } => self.left.push(node),
                Command::Save(row) => drop(self.rows.insert(row.key.id(), row)),
                Command::Send { link, message } => self.sent.push((link, message)),
            }
        }
        self.admission.check_invariants();
    }

    /// Somebody comes by a way, and introduces itself.
    fn come(&mut self, mode: Mode, key: NodeKey, hello: Hello) -> LinkId {
        let link = self.connect(key_source(key)).expect("it may knock");
        let opening = Opening {
            mode,
            pool: "lab".into(),
        };
        let now = self.now();
        self.admission
            .handle_opening(now, link, &opening)
            .expect("the pool is right");
        self.admission.handle_established(link, key);
        self.admission
            .handle_message(now, link, ToController::Hello(hello));
        self.obey();
        link
    }

    fn connect(&mut self, source: IpAddr) -> Result<LinkId, &'static str> {
        self.links += 1;
        let link = LinkId(self.links);
        self.admission
            .handle_connection(self.now(), link, source)
            .map(|()| link)
    }

    fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.admission.handle_timeout(self.now());
        self.obey();
    }

    fn alive(&mut self, link: LinkId) {
        self.admission
            .handle_message(self.now(), link, ToController::Alive);
    }

    fn state(&self, key: NodeKey) -> Option<NodeState> {
        let view = self.admission.nodes().find(|node| node.id == key.id());
        view.map(|node| node.state)
    }

    fn said(&mut self, link: LinkId) -> Vec<ToNode> {
        let (own, others) = self.sent.drain(..).partition(|(to, _)| *to == link);
        self.sent = others;
        own.into_iter()
            .map(|(_, message): (LinkId, ToNode)| message)
            .collect()
    }
}

fn key_source(key: NodeKey) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, key.0[0], key.0[1]))
}

#[test]
fn whoever_has_the_join_key_joins() {
    let mut door = Door::new();
    let link = door.come(Mode::JoinKey, node(1), hello("pi-1", Kind::Node));
    let said = door.said(link);
    assert_eq!(said[0], ToNode::Welcome { epoch: 7, nodes: 1 });
    assert!(matches!(said[1], ToNode::JoinKey { .. }));
    assert_eq!(door.files, [(link, node(1).id())]);
    assert_eq!(door.engine_keys.len(), 1);
    assert_eq!(door.state(node(1)), Some(NodeState::Joined));
}

#[test]
fn a_known_node_comes_back_with_its_own_key_and_keeps_its_engine_key() {
    let mut door = Door::new();
    door.come(Mode::JoinKey, node(1), hello("pi-1", Kind::Node));
    let (keys, rows) = (door.engine_keys.clone(), door.rows.clone());
    let mut later = Door::with(rows.into_values().collect());
    assert_eq!(later.engine_keys, keys);
    assert_eq!(later.state(node(1)), Some(NodeState::Away));
    let link = later.come(Mode::Known, node(1), hello("pi-1", Kind::Node));
    assert!(matches!(later.said(link)[0], ToNode::Welcome { .. }));
    let stranger = later.come(Mode::Known, node(2), hello("pi-2", Kind::Node));
    assert!(matches!(
        later.said(stranger)[..],
        [ToNode::Refused {
            kind: RefusalKind::NotKnown,
            ..
        }]
    ));
    assert_eq!(later.closed, [stranger]);
}

#[test]
fn a_blank_card_waits_until_it_is_approved() {
    let mut door = Door::new();
    let link = door.come(Mode::Pair, node(1), hello("pi-1", Kind::Node));
    let fingerprint = node(1).fingerprint().to_string();
    assert_eq!(
        door.said(link),
        [ToNode::Pending {
            fingerprint: fingerprint.clone()
        }]
    );
    assert!(door.engine_keys.is_empty());
    let id = door.admission.select(&fingerprint[..6]).unwrap();
    door.admission.approve(door.now(), id).unwrap();
    door.obey();
    assert!(matches!(door.said(link)[0], ToNode::Welcome { .. }));
    assert_eq!(door.files.len(), 1);
    let again = door.admission.approve(door.now(), id);
    assert_eq!(again, Err(OperatorError::AlreadyAdmitted("pi-1".into())));
}

#[test]
fn a_window_lets_in_so_many_for_so_long() {
    let mut door = Door::new();
    let waiting = door.come(Mode::Pair, node(1), hello("pi-1", Kind::Node));
    door.admission
        .open_window(door.now(), Duration::from_secs(60), 3);
    door.obey();
    assert_eq!(door.state(node(1)), Some(NodeState::Joined));
    door.come(Mode::Pair, node(2), hello("laptop", Kind::Client));
    assert_eq!(door.admission.pairing().map(|p| p.left), Some(1));
    door.alive(waiting);
    door.pass(61);
    assert_eq!(door.admission.pairing(), None);
    door.come(Mode::Pair, node(3), hello("late", Kind::Node));
    assert_eq!(door.state(node(3)), Some(NodeState::Pending));
    door.admission
        .open_window(door.now(), Duration::from_secs(60), 1);
    door.obey();
    door.come(Mode::Pair, node(4), hello("one too many", Kind::Node));
    assert_eq!(door.state(node(4)), Some(NodeState::Pending));
}

#[test]
fn a_shared_key_opens_only_its_own_door() {
    let mut door = Door::new();
    let laptop = door.come(Mode::JoinKey, node(1), hello("laptop", Kind::Client));
    let pi = door.come(Mode::ClientKey, node(2), hello("pi", Kind::Node));
    for link in [laptop, pi] {
        assert!(matches!(door.said(link)[..], [ToNode::Refused { .. }]));
    }
    assert!(door.files.is_empty());
    let link = door.come(Mode::ClientKey, node(1), hello("laptop", Kind::Client));
    assert_eq!(door.files, [(link, node(1).id())]);
    assert!(door.engine_keys.is_empty(), "a laptop runs no engines");
}

#[test]
fn a_revoked_node_is_cut_off_and_stays_out() {
    let mut door = Door::new();
    let link = door.come(Mode::JoinKey, node(1), hello("pi-1", Kind::Node));
    let id = node(1).id();
    door.said(link);
    door.admission.revoke(door.now(), id).unwrap();
    assert!(matches!(
        door.admission.set_drained(id, true),
        Err(OperatorError::NotAdmitted(_))
    ));
    door.obey();
    assert!(matches!(
        door.said(link)[..],
        [ToNode::Refused {
            kind: RefusalKind::Revoked,
            ..
        }]
    ));
    assert_eq!((&door.closed[..], &door.left[..]), (&[link][..], &[id][..]));
    assert!(door.engine_keys.is_empty());
    for mode in [Mode::JoinKey, Mode::Known, Mode::Pair] {
        let link = door.come(mode, node(1), hello("pi-1", Kind::Node));
        assert!(
            matches!(door.said(link)[..], [ToNode::Refused { .. }]),
            "{mode:?}"
        );
    }
    assert_eq!(door.files.len(), 1);
    door.admission.approve(door.now(), id).unwrap();
    door.obey();
    door.come(Mode::Known, node(1), hello("pi-1", Kind::Node));
    assert_eq!(door.state(node(1)), Some(NodeState::Joined));
}

#[test]
fn the_newest_connection_of_a_node_counts() {
    let mut door = Door::new();
    let first = door.come(Mode::JoinKey, node(1), hello("pi-1", Kind::Node));
    let second = door.come(Mode::Known, node(1), hello("pi-1", Kind::Node));
    assert_eq!(door.closed, [first]);
    door.admission.handle_closed(door.now(), first);
    assert_eq!(door.state(node(1)), Some(NodeState::Joined));
    door.admission.handle_closed(door.now(), second);
    assert_eq!(door.state(node(1)), Some(NodeState::Away));
}

#[test]
fn silence_and_unfinished_handshakes_end() {
    let mut door = Door::new();
    let link = door.come(Mode::JoinKey, node(1), hello("pi-1", Kind::Node));
    let half_open = door.connect(key_source(node(2))).unwrap();
    for _ in 0..4 {
        door.alive(link);
        door.pass(2);
    }
    assert_eq!(door.closed, [half_open]);
    assert_eq!(door.state(node(1)), Some(NodeState::Joined));
    door.pass(3);
    assert_eq!(door.state(node(1)), Some(NodeState::Away));
}

#[test]
fn wrong_keys_are_counted_and_become_slow() {
    let mut door = Door::new();
    let source = key_source(node(9));
    let mut told = BTreeSet::new();
    for _ in 0..100 {
        match door.connect(source) {
            Err(why) => {
                told.insert(why);
            }
            Ok(link) => {
                let opening = Opening {
                    mode: Mode::JoinKey,
                    pool: "lab".into(),
                };
                let now = door.now();
                door.admission.handle_opening(now, link, &opening).unwrap();
                told.insert(
                    door.admission
                        .handle_failure(now, link, &SessionError::WrongKey),
                );
                door.admission.handle_closed(now, link);
            }
        }
    }
    assert_eq!(told, BTreeSet::from([WRONG_JOIN_KEY, TOO_OFTEN]));
    assert_eq!(door.admission.refused(), 100);
    let other = door.come(Mode::JoinKey, node(1), hello("pi-1", Kind::Node));
    assert!(
        matches!(door.said(other)[0], ToNode::Welcome { .. }),
        "others are not held up"
    );
}

#[test]
fn a_flood_of_strangers_is_bounded() {
    let mut door = Door::new();
    for n in 0..500_u16 {
        door.pass(1);
        let [high, low] = n.to_be_bytes();
        let mut secret = [9; 32];
        (secret[1], secret[2]) = (high, low);
        let key = NodeSecret::new(secret).public();
        let link = door.come(Mode::Pair, key, hello("stranger", Kind::Node));
        door.admission.handle_closed(door.now(), link);
    }
    assert!(door.rows.len() <= crate::limits::PENDING_NODES_MAX);
    let several = door.admission.select("stranger");
    assert!(matches!(several, Err(OperatorError::Several { .. })));
}

#[test]
fn a_new_join_key_is_told_to_those_who_are_here() {
    let mut door = Door::new();
    let link = door.come(Mode::JoinKey, node(1), hello("pi-1", Kind::Node));
    door.said(link);
    door.admission.rotate_join_key(shared(5));
    door.obey();
    let key = Private(shared(5).to_text());
    assert_eq!(door.said(link), [ToNode::JoinKey { key }]);
    let half = door.connect(key_source(node(2))).unwrap();
    let opening = Opening {
        mode: Mode::JoinKey,
        pool: "lab".into(),
    };
    let now = door.now();
    let wanted = door.admission.handle_opening(now, half, &opening).unwrap();
    assert!(wanted.is_some_and(|key| *key == shared(5)));
}

#[test]
fn the_controller_is_a_node_of_its_own_and_cannot_be_revoked() {
    let mut door = Door::new();
    let now = door.now();
    let key = door.admission.add_self(now, node(1), "pi-0");
    door.obey();
    assert_eq!(door.engine_keys, BTreeSet::from([key.public()]));
    assert_eq!(door.state(node(1)), Some(NodeState::Joined));
    let refused = door.admission.revoke(now, node(1).id());
    assert_eq!(refused, Err(OperatorError::Controller("pi-0".into())));
    let rows = door.rows.clone().into_values().collect();
    let again = Door::with(rows).admission.add_self(now, node(1), "pi-0");
    assert_eq!(again.to_z85(), key.to_z85(), "its engines find it again");
}

#[test]
fn names_of_strangers_are_fit_for_a_terminal() {
    assert_eq!(shown_name("\u{1b}[31mpi\n"), "[31mpi");
    assert_eq!(shown_name(" \u{7} "), "unnamed");
    assert!(shown_name(&"ä".repeat(100)).len() <= crate::limits::NODE_NAME_MAX);
}
