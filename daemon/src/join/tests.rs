//! Both sides over loopback, with real sockets and files.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use piparallel_core::join::admission::{Admission, Config, NodeState};
use piparallel_core::join::keys::{NodeKey, NodeSecret, SharedKey};
use piparallel_core::join::message::{Hello, Kind, Private, RefusalKind, ToNode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::LocalRuntime;
use tokio::time::timeout;

use super::dialer::{Credentials, DialError, Link, LinkEvent, dial};
use super::nodes_db::NodesDb;
use super::server::{Door, DoorEvent};

const PATIENCE: Duration = Duration::from_secs(10);

struct Lab {
    door: Door,
    address: SocketAddr,
    _dir: tempfile::TempDir,
}

fn run(test: impl AsyncFnOnce(Lab)) {
    let runtime = LocalRuntime::new().unwrap();
    runtime
        .block_on(async { timeout(PATIENCE, test(Lab::new().await)).await })
        .expect("in time");
}

fn shared(byte: u8) -> SharedKey {
    SharedKey::new([byte; 32])
}

fn controller() -> NodeSecret {
    NodeSecret::new([200; 32])
}

fn node(byte: u8, key: Option<SharedKey>) -> Credentials {
    Credentials {
        secret: NodeSecret::new([byte; 32]),
        pool: "lab".into(),
        key,
        pinned: BTreeSet::new(),
        hello: Hello {
            name: format!("pi-{byte}"),
            ..Hello::default()
        },
    }
}

impl Lab {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (db, rows) = NodesDb::open(&dir.path().join("nodes.db")).unwrap();
        let config = Config {
            pool: "lab".into(),
            join_key: shared(1),
            client_key: shared(2),
            seed: [3; 32],
        };
        let admission = Admission::new(config, 5, rows);
        let door = Door::open(vec![listener], controller(), admission, db);
        Self {
            door,
            address,
            _dir: dir,
        }
    }

    async fn dial(&self, credentials: &Credentials) -> Result<Link, DialError> {
        dial(&[self.address], credentials).await
    }

    fn state(&self, key: NodeKey) -> Option<NodeState> {
        self.door.with(|admission, _| {
            let mut nodes = admission.nodes();
            nodes
                .find(|node| node.id == key.id())
                .map(|node| node.state)
        })
    }

    async fn until(&self, key: NodeKey, state: NodeState) {
        while self.state(key) != Some(state) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

async fn next(link: &mut Link) -> ToNode {
    match link.next_event().await {
        LinkEvent::Message(message) => message,
        LinkEvent::Closed(why) => panic!("closed: {why}"),
    }
}

async fn closed(mut link: Link) -> String {
    loop {
        if let LinkEvent::Closed(why) = link.next_event().await {
            return why;
        }
    }
}

fn refused(result: Result<Link, DialError>) -> String {
    match result {
        Err(DialError::Refused(why)) => why,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it was let in"),
    }
}

#[test]
fn a_node_with_the_key_joins_and_is_told_what_it_needs() {
    run(async |mut lab| {
        let pi = node(1, Some(shared(1)));
        let mut link = lab.dial(&pi).await.unwrap();
        assert_eq!((link.controller, link.epoch), (controller().public(), 5));
        let key = Private(shared(1).to_text());
        assert_eq!(next(&mut link).await, ToNode::JoinKey { key });
        loop {
            match lab.door.next_event().await.unwrap() {
                DoorEvent::AdmittedNode { link, node, .. } => {
                    assert!(node == pi.secret.public().id());
                    let json = Private("{}".into());
                    break lab.door.send(link, ToNode::EngineFile { json });
                }
                DoorEvent::EngineKeys(_) => {}
                _ => panic!("something else happened"),
            }
        }
        assert!(matches!(next(&mut link).await, ToNode::EngineFile { .. }));
        link.leave().await;
        lab.until(pi.secret.public(), NodeState::Away).await;
    });
}

#[test]
fn a_known_node_and_its_controller_know_each_other_again() {
    run(async |lab| {
        let mut pi = node(1, Some(shared(1)));
        drop(lab.dial(&pi).await.unwrap());
        pi.key = None;
        pi.pinned = BTreeSet::from([controller().public()]);
        assert!(!lab.dial(&pi).await.unwrap().pending);
        pi.pinned = BTreeSet::from([NodeSecret::new([9; 32]).public()]);
        let why = refused(lab.dial(&pi).await);
        assert!(
            why.contains("another machine has taken that address"),
            "{why}"
        );
        pi.key = Some(shared(1));
        assert!(
            lab.dial(&pi).await.is_ok(),
            "the join key vouches for a controller that is new"
        );
    });
}

#[test]
fn a_wrong_key_is_refused_with_a_reason() {
    run(async |lab| {
        let why = refused(lab.dial(&node(1, Some(shared(9)))).await);
        assert!(why.contains("join_key in piparallel.toml"), "{why}");
        let mut other = node(1, Some(shared(1)));
        other.pool = "attic".into();
        let why = refused(lab.dial(&other).await);
        assert!(why.contains("another pool"), "{why}");
        assert_eq!(lab.door.with(|admission, _| admission.refused()), 2);
    });
}

#[test]
fn a_blank_card_waits_and_is_let_in() {
    run(async |lab| {
        let pi = node(1, None);
        let mut link = lab.dial(&pi).await.unwrap();
        assert!(link.pending);
        lab.door.with(|admission, now| {
            let id = admission.select("pi-1").unwrap();
            admission.approve(now, id).unwrap();
        });
        assert!(matches!(
            next(&mut link).await,
            ToNode::Welcome { epoch: 5, .. }
        ));
        lab.until(pi.secret.public(), NodeState::Joined).await;
    });
}

#[test]
fn a_window_lets_a_laptop_in_once() {
    run(async |lab| {
        lab.door
            .with(|admission, now| admission.open_window(now, Duration::from_secs(60), 1));
        let mut laptop = node(1, None);
        laptop.hello.kind = Kind::Client;
        assert!(!lab.dial(&laptop).await.unwrap().pending);
        assert!(
            lab.dial(&node(2, None)).await.unwrap().pending,
            "the window is used up"
        );
    });
}

#[test]
fn a_revoked_node_hears_it_and_cannot_come_back() {
    run(async |lab| {
        let pi = node(1, Some(shared(1)));
        let mut link = lab.dial(&pi).await.unwrap();
        lab.door.with(|admission, now| {
            let id = admission.select("pi-1").unwrap();
            admission.revoke(now, id).unwrap();
        });
        while !matches!(
            next(&mut link).await,
            ToNode::Refused {
                kind: RefusalKind::Revoked,
                ..
            }
        ) {}
        closed(link).await;
        let why = refused(lab.dial(&pi).await);
        assert!(why.contains("was revoked"), "{why}");
    });
}

#[test]
fn recorded_bytes_let_nobody_in() {
    run(async |lab| {
        let recorder = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let through = recorder.local_addr().unwrap();
        let (pi, target) = (node(1, Some(shared(1))), lab.address);
        let tap = tokio::task::spawn_local(async move {
            let (mut node, _) = recorder.accept().await.unwrap();
            let mut door = TcpStream::connect(target).await.unwrap();
            let (mut recorded, mut from_node, mut from_door) = (Vec::new(), [0; 4096], [0; 4096]);
            loop {
                tokio::select! {
                    n = node.read(&mut from_node) => match n {
                        Ok(n) if n > 0 => {
                            recorded.extend_from_slice(&from_node[..n]);
                            door.write_all(&from_node[..n]).await.unwrap();
                        }
                        _ => return recorded,
                    },
                    n = door.read(&mut from_door) => {
                        node.write_all(&from_door[..n.unwrap()]).await.unwrap();
                    }
                }
            }
        });
        drop(dial(&[through], &pi).await.unwrap());
        let recorded = tap.await.unwrap();
        lab.until(pi.secret.public(), NodeState::Away).await;
        let mut thief = TcpStream::connect(lab.address).await.unwrap();
        thief.write_all(&recorded).await.unwrap();
        let mut answer = Vec::new();
        thief.read_to_end(&mut answer).await.unwrap();
        assert_eq!(lab.state(pi.secret.public()), Some(NodeState::Away));
        assert!(lab.door.with(|admission, _| admission.refused()) > 0);
    });
}

#[test]
fn a_flood_of_strangers_keeps_nobody_out() {
    run(async |lab| {
        let mut strangers = Vec::new();
        for _ in 0..200 {
            strangers.push(TcpStream::connect(lab.address).await.unwrap());
        }
        for stranger in &mut strangers {
            let _ = stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").await;
        }
        // From another address of this machine: the strangers' own has used up its budget.
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket
            .bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)), 0))
            .unwrap();
        let mut answer = Vec::new();
        let mut other = socket.connect(lab.address).await.unwrap();
        other.write_all(b"piparallel\x01P\x03lab").await.unwrap();
        let read = timeout(Duration::from_millis(300), other.read_to_end(&mut answer)).await;
        assert!(
            read.is_err(),
            "it is not turned away: {}",
            String::from_utf8_lossy(&answer)
        );
    });
}

#[test]
fn a_node_whose_process_ends_is_away() {
    run(async |lab| {
        let pi = node(1, Some(shared(1)));
        let link = lab.dial(&pi).await.unwrap();
        lab.until(pi.secret.public(), NodeState::Joined).await;
        drop(link);
        lab.until(pi.secret.public(), NodeState::Away).await;
    });
}
