use std::time::{Duration, Instant};

use bytes::Bytes;
use piparallel::transport::{Event, Security, TransportLimits};
use piparallel_core::channel::Channel;
use piparallel_core::wire::zmtp::SecretKey;

use crate::lab::{Lab, Peer, resident_bytes, run};

const MB: usize = 1 << 20;

#[test]
fn a_message_of_100_mb_passes_and_its_memory_comes_back() {
    run(async {
        let mut lab = Lab::new(TransportLimits::default());
        let secret = SecretKey::new([1; 32]);
        let server = secret.public().to_z85();
        let null = lab.listen(Channel::MuxClient, Security::Null);
        let curve = lab.listen(
            Channel::TaskClient,
            Security::Curve {
                secrets: vec![secret],
            },
        );
        let before = resident_bytes();
        let (null, curve) = (null.port().to_string(), curve.port().to_string());
        for arguments in [
            ["large", &null, "104857600", "2"].as_slice(),
            ["large", &curve, "104857600", "1", &server].as_slice(),
        ] {
            let Some(mut peer) = Peer::start(arguments) else {
                return;
            };
            assert_eq!(lab.serve(peer.line()).await, "echoed");
        }
        let totals = lab.transport.totals();
        assert_eq!((totals.queued_bytes, totals.partial_bytes), (0, 0));
        let more = resident_bytes().saturating_sub(before);
        assert!(more < 40 * MB, "{} MB are kept", more / MB);
    });
}

#[test]
fn a_client_that_does_not_read_is_closed_and_others_do_not_notice() {
    run(async {
        let mut lab = Lab::new(TransportLimits::default());
        let port = lab.listen(Channel::TaskClient, Security::Null).port();
        let port = port.to_string();
        let Some(_silent) = Peer::start(&["silent", &port, "DEALER"]) else {
            return;
        };
        let silent = lab.connected().await;
        lab.echo = true;
        let reply = [Bytes::from(vec![1; MB])].into();
        let mut congested = false;
        while !congested {
            lab.transport.send(silent, &reply);
            lab.transport.flush();
            congested = lab.transport.queued_bytes(silent) > 64 * MB;
        }
        let began = Instant::now();
        let mut other = Peer::start(&["echo", &port, "DEALER", "other"]).unwrap();
        assert_eq!(lab.serve(other.line()).await, "echoed");
        let reason = lab
            .until("the end", |event| match event {
                Event::Disconnected { peer, reason, .. } if *peer == silent => Some(reason.clone()),
                _ => None,
            })
            .await;
        assert!(reason.starts_with("does not read its replies"), "{reason}");
        assert!(began.elapsed() < Duration::from_secs(5));
        assert_eq!(lab.transport.totals().queued_bytes, 0);
    });
}

#[test]
fn an_engine_that_does_not_read_is_reported_and_drains_later() {
    run(async {
        let mut lab = Lab::new(TransportLimits::default());
        lab.echo = false;
        let port = lab.listen(Channel::MuxEngine, Security::Null).port();
        let Some(mut engine) = Peer::start(&["silent", &port.to_string(), "DEALER"]) else {
            return;
        };
        let peer = lab.connected().await;
        assert_eq!(lab.serve(engine.line()).await, "silent");
        let request = [Bytes::from(vec![1; MB])].into();
        let mut sent = 0;
        while lab.transport.queued_bytes(peer) <= 64 * MB {
            lab.transport.send(peer, &request);
            lab.transport.flush();
            sent += 1;
        }
        lab.transport
            .send(peer, &[Bytes::from_static(b"end")].into());
        lab.until("congestion", |event| {
            (*event == Event::Congested { peer }).then_some(())
        })
        .await;
        engine.go_on().await;
        lab.until("relief", |event| {
            (*event == Event::Drained { peer }).then_some(())
        })
        .await;
        let got = lab.serve(engine.line()).await;
        assert_eq!(got, (sent + 1).to_string());
    });
}

#[test]
fn a_subscriber_that_does_not_read_loses_the_oldest_output() {
    run(async {
        let limits = TransportLimits {
            queue_max: 4 * MB,
            ..TransportLimits::default()
        };
        let mut lab = Lab::new(limits);
        let channel = Channel::IopubClient;
        let port = lab.listen(channel, Security::Null).port().to_string();
        let Some(mut silent) = Peer::start(&["silent", &port, "SUB"]) else {
            return;
        };
        lab.until("a subscription", |event| {
            matches!(event, Event::Subscribed { .. }).then_some(())
        })
        .await;
        let output = [Bytes::from(vec![1; 10_000])].into();
        let mut peak = 0;
        for _ in 0..20_000 {
            lab.transport.publish(channel, &output);
            lab.transport.flush();
            peak = peak.max(lab.transport.totals().queued_bytes);
        }
        lab.transport
            .publish(channel, &[Bytes::from_static(b"end")].into());
        assert!(peak <= 4 * MB, "{peak} bytes waited");
        assert_eq!(lab.serve(silent.line()).await, "silent");
        silent.go_on().await;
        let got: u64 = lab.serve(silent.line()).await.parse().unwrap();
        assert_eq!(got + lab.transport.totals().lost_messages, 20_001);
    });
}

#[test]
fn a_client_is_not_read_while_its_large_frames_wait() {
    run(async {
        let limits = TransportLimits {
            in_flight_max: 8 * MB,
            ..TransportLimits::default()
        };
        let mut lab = Lab::new(limits);
        lab.echo = false;
        let port = lab.listen(Channel::MuxClient, Security::Null).port();
        let arguments = ["flood", &port.to_string(), "4194304", "20"];
        let Some(mut peer) = Peer::start(&arguments) else {
            return;
        };
        let before = resident_bytes();
        lab.connected().await;
        let idle = tokio::time::sleep(Duration::from_secs(1));
        lab.serve(idle).await;
        let message = |e: &Event| matches!(e, Event::Message { .. });
        assert_eq!(lab.events.iter().filter(|e| message(e)).count(), 2);
        let more = resident_bytes().saturating_sub(before);
        assert!(more < 20 * MB, "{} MB are held", more / MB);
        let mut got = 0;
        while got < 20 {
            lab.events.retain(|e| {
                let gone = message(e);
                got += usize::from(gone);
                !gone
            });
            if got < 20 {
                lab.turn().await;
            }
        }
        assert_eq!(lab.serve(peer.line()).await, "sent");
    });
}

#[test]
fn unfinished_messages_wait_for_one_another() {
    run(async {
        let limits = TransportLimits {
            total_max: 8 * MB,
            ..TransportLimits::default()
        };
        let mut lab = Lab::new(limits);
        let port = lab
            .listen(Channel::MuxEngine, Security::Null)
            .port()
            .to_string();
        let arguments = ["large", port.as_str(), "33554432", "2"];
        let mut peers: Vec<Peer> = Vec::new();
        for _ in 0..4 {
            let Some(peer) = Peer::start(&arguments) else {
                return;
            };
            peers.push(peer);
        }
        for peer in &mut peers {
            assert_eq!(lab.serve(peer.line()).await, "echoed");
        }
        let totals = lab.transport.totals();
        assert_eq!((totals.queued_bytes, totals.partial_bytes), (0, 0));
    });
}
