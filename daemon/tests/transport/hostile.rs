use std::net::SocketAddr;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use piparallel::transport::{Event, Security, TransportLimits};
use piparallel_core::channel::Channel;
use piparallel_core::wire::zmtp::SecretKey;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::lab::{Lab, resident_bytes, run};

/// A NULL greeting and the READY of a DEALER.
fn handshake() -> Vec<u8> {
    let mut bytes = vec![0; 64];
    bytes[0] = 0xff;
    bytes[9] = 0x7f;
    bytes[10..12].copy_from_slice(&[3, 1]);
    bytes[12..16].copy_from_slice(b"NULL");
    bytes.extend_from_slice(b"\x04\x1c\x05READY\x0bSocket-Type\0\0\0\x06DEALER");
    bytes
}

async fn connect(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream
}

/// Whether the other end closes, whatever it says before.
async fn is_closed(stream: &mut TcpStream) {
    let mut answer = [0; 1024];
    while stream.read(&mut answer).await.is_ok_and(|n| n > 0) {}
}

#[test]
fn whoever_sends_nonsense_is_closed() {
    run(async {
        let mut lab = Lab::new(TransportLimits::default());
        let null = lab.listen(Channel::MuxClient, Security::Null);
        let secret = SecretKey::new([1; 32]);
        let curve = lab.listen(
            Channel::MuxEngine,
            Security::Curve {
                secrets: vec![secret],
            },
        );
        let mut claim = handshake();
        claim.push(2);
        claim.extend_from_slice(&(1_u64 << 40).to_be_bytes());
        let before = resident_bytes();
        let cases: [(SocketAddr, &[u8]); 5] = [
            (null, b"GET / HTTP/1.1\r\n\r\n"),
            (null, &[0xff; 64]),
            (null, &claim),
            (curve, &handshake()),
            (curve, &[0x16, 3, 1]),
        ];
        for (address, bytes) in cases {
            let mut stream = connect(address, bytes).await;
            lab.serve(is_closed(&mut stream)).await;
        }
        assert_eq!(lab.transport.totals().refused, 5);
        assert!(resident_bytes() < before + (8 << 20));
    });
}

#[test]
fn half_open_connections_are_closed_in_time_and_harm_nobody() {
    run(async {
        let limits = TransportLimits {
            handshake: Duration::from_millis(1500),
            ..TransportLimits::default()
        };
        // Both ends of each connection are in this process.
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, most.min(4096), most).unwrap();
        let mut lab = Lab::new(limits);
        let address = lab.listen(Channel::MuxClient, Security::Null);
        let before = resident_bytes();
        let mut silent = Vec::new();
        for _ in 0..1000 {
            silent.push(lab.serve(connect(address, b"\xff")).await);
        }
        let mut good = lab.serve(connect(address, &handshake())).await;
        lab.connected().await;
        assert!(resident_bytes() < before + (8 << 20));
        for stream in &mut silent {
            lab.serve(is_closed(stream)).await;
        }
        let totals = lab.transport.totals();
        assert_eq!((totals.half_open, totals.connected), (0, 1));
        good.write_all(b"\0\x02hi").await.unwrap();
        let echoed = async {
            let mut answer = Vec::new();
            while !answer.ends_with(b"\0\x02hi") {
                answer.push(good.read_u8().await.unwrap());
            }
        };
        lab.serve(echoed).await;
    });
}

#[test]
fn the_oldest_half_open_connection_makes_place() {
    run(async {
        let limits = TransportLimits {
            half_open_max: 20,
            ..TransportLimits::default()
        };
        let mut lab = Lab::new(limits);
        let address = lab.listen(Channel::MuxClient, Security::Null);
        let mut silent = Vec::new();
        for _ in 0..20 {
            silent.push(connect(address, b"").await);
        }
        let _good = connect(address, &handshake()).await;
        lab.connected().await;
        assert!(lab.transport.totals().refused >= 1);
        lab.serve(is_closed(&mut silent[0])).await;
    });
}

#[test]
fn a_full_channel_takes_no_more() {
    run(async {
        let limits = TransportLimits {
            connections_max: 1,
            ..TransportLimits::default()
        };
        let mut lab = Lab::new(limits);
        let address = lab.listen(Channel::MuxClient, Security::Null);
        let other = lab.listen(Channel::MuxEngine, Security::Null);
        let _first = connect(address, &handshake()).await;
        lab.connected().await;
        let mut second = connect(address, &handshake()).await;
        lab.serve(is_closed(&mut second)).await;
        lab.events.clear();
        let _elsewhere = connect(other, &handshake()).await;
        lab.connected().await;
    });
}

#[test]
fn a_message_without_end_is_cut_off() {
    run(async {
        let mut lab = Lab::new(TransportLimits::default());
        let address = lab.listen(Channel::MuxClient, Security::Null);
        let before = resident_bytes();
        let mut stream = connect(address, &handshake()).await;
        let (mut reader, mut writer) = stream.split();
        let flood = async {
            let frames = [1, 0].repeat(50_000);
            while writer.write_all(&frames).await.is_ok() {}
        };
        let mut answers = Vec::new();
        lab.serve(async {
            tokio::join!(flood, reader.read_to_end(&mut answers)).1.ok();
        })
        .await;
        let reason = lab
            .until("the end", |event| match event {
                Event::Disconnected { reason, .. } => Some(reason.clone()),
                _ => None,
            })
            .await;
        assert!(reason.contains("frames"), "{reason}");
        assert!(resident_bytes() < before + (40 << 20));
    });
}
