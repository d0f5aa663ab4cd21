//! Sockets that listen, and what a fresh connection gets.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use log::{debug, warn};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind as bind_socket, listen,
    setsockopt, socket, sockopt,
};
use piparallel_core::channel::{Channel, Side, SocketType};
use piparallel_core::wire::zmtp::{Config, Link, Mechanism, Outbox};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;
use tokio::time::sleep;

use super::Security;
use super::connection::Connection;
use super::peer::Peer;
use super::shared::Shared;
use crate::random;

/// Connections that the kernel holds until we accept them: 4096 engines may start at once.
const BACKLOG: i32 = 4096;

/// Pause after a failed accept (no file descriptors left), and while too many are half-open.
const PAUSE: Duration = Duration::from_millis(50);

/// Idle time, in seconds, after which the kernel asks whether a peer still exists; then every
/// [`KEEPALIVE_EVERY`] seconds, three times. A machine without power says no goodbye.
const KEEPALIVE_IDLE: u32 = 30;
const KEEPALIVE_EVERY: u32 = 10;
const KEEPALIVE_COUNT: u32 = 3;

/// Binds a listener for [`super::Transport::listen`].
///
/// # Errors
/// The address is taken or not ours.
pub fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket(family, SockType::Stream, flags, None)?;
    // A restarted controller takes its port back while old connections are still timing out.
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    bind_socket(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
    listen(&fd, Backlog::new(BACKLOG)?)?;
    Ok(fd.into())
}

/// Starts to accept.
pub(super) fn spawn(
    shared: &Rc<Shared>,
    channel: Channel,
    listener: std::net::TcpListener,
    security: Security,
) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let task = spawn_local(accept(Rc::clone(shared), channel, listener, security));
    shared.add_listener(task.abort_handle());
    Ok(())
}

async fn accept(shared: Rc<Shared>, channel: Channel, listener: TcpListener, security: Security) {
    loop {
        while !shared.half_open_has_room() {
            sleep(PAUSE).await;
        }
        match listener.accept().await {
            Ok((stream, address)) => {
                if let Err(error) = admit(&shared, channel, &security, stream, address) {
                    debug!("{address} left {} at once: {error}", channel.name());
                }
            }
            Err(error) => {
                warn!("no connection accepted on {}: {error}", channel.name());
                sleep(PAUSE).await;
            }
        }
    }
}

/// Begins the handshake of one connection.
fn admit(
    shared: &Rc<Shared>,
    channel: Channel,
    security: &Security,
    stream: TcpStream,
    address: SocketAddr,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    setsockopt(&stream, sockopt::KeepAlive, &true)?;
    setsockopt(&stream, sockopt::TcpKeepIdle, &KEEPALIVE_IDLE)?;
    setsockopt(&stream, sockopt::TcpKeepInterval, &KEEPALIVE_EVERY)?;
    setsockopt(&stream, sockopt::TcpKeepCount, &KEEPALIVE_COUNT)?;

    let mut entropy = [0; _];
    let mechanism = match security {
        Security::Null => Mechanism::Null,
        Security::Curve { secrets } => {
            entropy = random::bytes().map_err(io::Error::other)?;
            let mut secrets = secrets.clone();
            if channel.side() != Side::Engine {
                secrets.extend(shared.client_keys());
            }
            Mechanism::CurveServer { secrets }
        }
    };
    let config = Config {
        socket_type: channel.socket_type(),
        identity: Bytes::from_static(channel.routing_id().as_bytes()),
        mechanism,
        message_bytes_max: shared.limits.message_bytes_max,
    };
    let mut outbox = match channel.socket_type() {
        SocketType::Pub | SocketType::XPub => Outbox::lossy(),
        SocketType::Dealer | SocketType::Router | SocketType::Sub | SocketType::XSub => {
            Outbox::new()
        }
    };
    let link = Link::new(config, &entropy, &mut outbox);
    shared.count_queued(0, outbox.len());
    let (read, write) = stream.into_split();
    let peer = Peer::new(shared.next_id(), channel, address, write, link, outbox);
    let peer = Rc::new(peer);
    match shared.enter(&peer) {
        Ok(()) => {
            spawn_local(Connection::new(Rc::clone(shared), peer, read).run());
        }
        Err(refusal) => {
            peer.turn(shared, |_, outbox| *outbox = Outbox::new());
            shared.refused(channel, address, &refusal);
        }
    }
    Ok(())
}
