use std::collections::BTreeSet;

use bytes::Bytes;
use piparallel::transport::{Event, Security, TransportLimits};
use piparallel_core::channel::Channel;
use piparallel_core::wire::zmtp::SecretKey;

use crate::lab::{Lab, Peer, run};

fn lab() -> Lab {
    Lab::new(TransportLimits::default())
}

fn key() -> SecretKey {
    SecretKey::new([42; 32])
}

fn curve() -> Security {
    Security::Curve {
        secrets: vec![key()],
    }
}

async fn echoes(kind: &str, security: Security, server: Option<&str>) {
    let mut lab = lab();
    let port = lab.listen(Channel::MuxClient, security).port().to_string();
    let arguments = ["echo", &port, kind, "somebody"];
    let arguments: Vec<&str> = arguments.into_iter().chain(server).collect();
    let Some(mut peer) = Peer::start(&arguments) else {
        return;
    };
    assert_eq!(lab.serve(peer.line()).await, "echoed");
    let identities: Vec<&Bytes> = lab.identities.values().collect();
    assert_eq!(identities, [&Bytes::from_static(b"somebody")]);
}

#[test]
fn a_dealer_gets_back_what_it_sends() {
    run(echoes("DEALER", Security::Null, None));
}

#[test]
fn a_dealer_gets_back_what_it_sends_with_curve() {
    let server = key().public().to_z85();
    run(async move { echoes("DEALER", curve(), Some(&server)).await });
}

#[test]
fn a_router_knows_us_by_our_routing_id() {
    run(async {
        let mut lab = lab();
        let port = lab.listen(Channel::MuxClient, Security::Null).port();
        let arguments = ["echo", &port.to_string(), "ROUTER", "engine"];
        let Some(mut peer) = Peer::start(&arguments) else {
            return;
        };
        assert_eq!(lab.serve(peer.line()).await, "echoed");
    });
}

async fn subscribes(security: Security, server: Option<&str>) {
    let mut lab = lab();
    let channel = Channel::IopubClient;
    let port = lab.listen(channel, security).port().to_string();
    let arguments = ["subscribe", &port, "a", "2"];
    let arguments: Vec<&str> = arguments.into_iter().chain(server).collect();
    let Some(mut peer) = Peer::start(&arguments) else {
        return;
    };
    let topic = |expected: &'static str| {
        move |event: &Event| match event {
            Event::Subscribed { prefix, .. } if prefix == expected => Some(()),
            _ => None,
        }
    };
    lab.until("topic a", topic("a")).await;
    for text in ["abc", "xyz", "a"] {
        let frames = [Bytes::from(text), Bytes::from("1")].into();
        lab.transport.publish(channel, &frames);
    }
    lab.transport.flush();
    assert_eq!(lab.serve(peer.line()).await, "abc 1");
    assert_eq!(lab.serve(peer.line()).await, "a 1");
    lab.until("topic other", topic("other")).await;
    for text in ["a", "others"] {
        lab.transport.publish(channel, &[Bytes::from(text)].into());
    }
    lab.transport.flush();
    assert_eq!(lab.serve(peer.line()).await, "others");
}

#[test]
fn a_subscriber_gets_its_topics_only() {
    run(subscribes(Security::Null, None));
}

#[test]
fn a_subscriber_gets_its_topics_only_with_curve() {
    let server = key().public().to_z85();
    run(async move { subscribes(curve(), Some(&server)).await });
}

async fn publishes(kind: &str, security: Security, server: Option<&str>) {
    let mut lab = lab();
    lab.echo = false;
    let port = lab
        .listen(Channel::IopubEngine, security)
        .port()
        .to_string();
    let arguments = ["publish", &port, kind];
    let arguments: Vec<&str> = arguments.into_iter().chain(server).collect();
    let Some(mut peer) = Peer::start(&arguments) else {
        return;
    };
    if kind == "XPUB" {
        assert_eq!(lab.serve(peer.line()).await, "topic b'\\x01'");
    }
    let frames = lab
        .until("output", |event| match event {
            Event::Message { frames, .. } => Some(frames.clone()),
            _ => None,
        })
        .await;
    assert_eq!(Vec::from(frames), ["stream", "hello"]);
    peer.go_on().await;
    lab.serve(peer.line()).await;
}

#[test]
fn the_output_of_pub_and_xpub_engines_arrives() {
    run(async {
        let server = key().public().to_z85();
        for kind in ["PUB", "XPUB"] {
            publishes(kind, Security::Null, None).await;
            publishes(kind, curve(), Some(&server)).await;
        }
    });
}

async fn handshake(security: Security, server: Option<&str>, expected: &[&str]) {
    let mut lab = lab();
    let port = lab.listen(Channel::MuxClient, security).port().to_string();
    let arguments: Vec<&str> = ["handshake", &port].into_iter().chain(server).collect();
    let Some(mut peer) = Peer::start(&arguments) else {
        return;
    };
    let line = lab.serve(peer.line()).await;
    let name = line.split(' ').next().unwrap();
    assert!(expected.contains(&name), "libzmq says {line}");
    let succeeded = name == "HANDSHAKE_SUCCEEDED";
    // libzmq may know before we do.
    lab.until_totals("the outcome", |totals| {
        totals.connected > 0 || totals.refused > 0
    })
    .await;
    assert_eq!(lab.transport.totals().connected, usize::from(succeeded));
    assert_eq!(lab.transport.totals().refused == 0, succeeded);
}

#[test]
fn keys_and_mechanisms_must_agree() {
    run(async {
        let server = key().public().to_z85();
        let other = SecretKey::new([1; 32]).public().to_z85();
        let no = [
            "HANDSHAKE_FAILED_NO_DETAIL",
            "HANDSHAKE_FAILED_PROTOCOL",
            "DISCONNECTED",
        ];
        let yes = ["HANDSHAKE_SUCCEEDED"];
        handshake(curve(), Some(&server), &yes).await;
        handshake(Security::Null, None, &yes).await;
        handshake(curve(), Some(&other), &no).await;
        handshake(curve(), None, &no).await;
        handshake(Security::Null, Some(&server), &no).await;
    });
}

#[test]
fn only_allowed_keys_come_in_and_a_revoked_one_leaves() {
    run(async {
        let mut lab = lab();
        let channel = Channel::MuxEngine;
        let port = lab.listen(channel, curve()).port().to_string();
        let server = key().public().to_z85();
        let node = SecretKey::new([5; 32]);
        lab.transport
            .set_allowed_keys(key().public(), Some(BTreeSet::from([node.public()])));
        let Some(mut stranger) = Peer::start(&["handshake", &port, &server]) else {
            return;
        };
        let line = lab.serve(stranger.line()).await;
        assert_eq!(line, "HANDSHAKE_FAILED_AUTH 400");

        let arguments = ["silent", &port, "DEALER", &server];
        let environment = [("CLIENT_SECRET", node.to_z85())];
        let environment = environment.each_ref().map(|(k, v)| (*k, v.as_str()));
        let _engine = Peer::start_with(&arguments, &environment);
        let proven = lab
            .until("the node", |event| match event {
                Event::Connected { curve_key, .. } => *curve_key,
                _ => None,
            })
            .await;
        assert_eq!(proven, node.public());
        lab.transport
            .set_allowed_keys(key().public(), Some(BTreeSet::new()));
        let reason = lab
            .until("its end", |event| match event {
                Event::Disconnected { reason, .. } => Some(reason.clone()),
                _ => None,
            })
            .await;
        assert!(reason.contains("no longer allowed"), "{reason}");
    });
}

#[test]
fn a_client_with_a_key_of_its_own_is_cut_off_alone() {
    run(async {
        let mut lab = lab();
        let clients = lab.listen(Channel::MuxClient, curve()).port().to_string();
        let engines = lab.listen(Channel::MuxEngine, curve()).port().to_string();
        let own = SecretKey::new([6; 32]);
        lab.transport.set_client_keys(vec![own.clone()]);
        let (common, own) = (key().public().to_z85(), own.public().to_z85());
        let Some(mut intruder) = Peer::start(&["handshake", &engines, &own]) else {
            return;
        };
        let line = lab.serve(intruder.line()).await;
        assert_ne!(line, "HANDSHAKE_SUCCEEDED", "it is no engine");
        let _other = Peer::start(&["silent", &clients, "DEALER", &common]);
        lab.connected().await;
        let _client = Peer::start(&["silent", &clients, "DEALER", &own]);
        lab.until_totals("both clients", |totals| totals.connected == 2)
            .await;
        lab.transport.set_client_keys(Vec::new());
        lab.until_totals("one client", |totals| totals.connected == 1)
            .await;
        let Some(mut again) = Peer::start(&["handshake", &clients, &own]) else {
            return;
        };
        assert_ne!(lab.serve(again.line()).await, "HANDSHAKE_SUCCEEDED");
    });
}

#[test]
fn a_probe_is_answered() {
    run(async {
        let mut lab = lab();
        lab.echo = false;
        let port = lab.listen(Channel::MuxEngine, Security::Null).port();
        let Some(_peer) = Peer::start(&["silent", &port.to_string(), "DEALER"]) else {
            return;
        };
        let peer = lab.connected().await;
        assert!(lab.transport.probe(peer));
        lab.transport.flush();
        lab.until("an answer", |event| match event {
            Event::Alive { peer: alive } if *alive == peer => Some(()),
            _ => None,
        })
        .await;
    });
}

#[test]
fn a_peer_comes_and_goes() {
    run(async {
        let mut lab = lab();
        let port = lab.listen(Channel::MuxEngine, Security::Null).port();
        let Some(mut peer) = Peer::start(&["reconnect", &port.to_string(), "100"]) else {
            return;
        };
        assert_eq!(lab.serve(peer.line()).await, "done");
        let mut left = 0;
        lab.until("100 goodbyes", |event| {
            left += usize::from(matches!(event, Event::Disconnected { .. }));
            (left == 100).then_some(())
        })
        .await;
        let totals = lab.transport.totals();
        assert_eq!((totals.connected, totals.queued_bytes), (0, 0));
    });
}
