//! The connections that a controller had when its machine lost power.
//!
//! Nothing told the peers. One that sends something learns it at once, but one that only listens (an engine
//! without work, a client's subscription) would wait for ever. So the addresses of all connections are kept on
//! disk, and the next controller knocks at each of them from the port that the connection had: the peer's
//! kernel takes that for a stray packet of the old connection, asks, hears that there is none, and ends it
//! (RFC 9293, 3.5.1, half-open connections). The peer then connects anew, as after any other restart.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt,
};
use tokio::time::{Instant, sleep};

use crate::private::SavedFile;
use crate::settings::ControllerSettings;

/// Our address and the peer's.
pub type Ends = (SocketAddrV4, SocketAddrV4);

/// More are not knocked at: as many as 1024 engines have.
const CONNECTIONS_MAX: usize = 8192;

/// After a power cut the network may come up later than we do.
const NETWORK_WAIT: Duration = Duration::from_secs(60);
const TRY_EVERY: Duration = Duration::from_millis(250);

/// Time for the answer, and for a second knock by the kernel if the first one is lost.
const ANSWER_WAIT: Duration = Duration::from_millis(1500);

/// Cards wear out.
const WRITE_EVERY: Duration = Duration::from_secs(1);

/// Where the addresses are kept.
#[must_use]
pub fn path(settings: &ControllerSettings) -> PathBuf {
    let name = format!("connections{}.json", settings.cluster_id);
    settings.profile.log().join(name)
}

/// The connections that outlive a power cut at one end: those to other machines.
#[must_use]
pub fn ends(local: SocketAddr, peer: SocketAddr) -> Option<Ends> {
    let v4 = |address: SocketAddr| match address.ip().to_canonical() {
        IpAddr::V4(ip) if !ip.is_loopback() => Some(SocketAddrV4::new(ip, address.port())),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    };
    v4(local).zip(v4(peer))
}

/// The file of the connections that there are now.
pub struct ConnectionsFile {
    file: SavedFile,
    saved: BTreeSet<Ends>,
    is_outdated: bool,
    last: Instant,
}

impl ConnectionsFile {
    /// Must be called on a `LocalRuntime`.
    #[must_use]
    pub fn new(settings: &ControllerSettings) -> Self {
        let remark = "after a power cut, peers without work come back late";
        Self {
            file: SavedFile::new(path(settings), remark),
            saved: BTreeSet::new(),
            is_outdated: true,
            last: Instant::now(),
        }
    }

    /// A connection has come or gone.
    pub fn outdate(&mut self) {
        self.is_outdated = true;
    }

    /// Writes the file if it is outdated, and not too often.
    pub fn refresh(&mut self, connections: impl FnOnce() -> BTreeSet<Ends>) {
        if !self.is_outdated || self.last.elapsed() < WRITE_EVERY {
            return;
        }
        self.is_outdated = false;
        self.last = Instant::now();
        let connections = connections();
        if connections == self.saved {
            return;
        }
        match serde_json::to_vec(&connections) {
            Ok(text) => self.file.save(text),
            Err(cause) => log::error!("the connections cannot be saved: {cause}"),
        }
        self.saved = connections;
    }
}

/// What an earlier controller wrote. Nothing if that cannot be read: then idle peers are found by their own
/// means, later.
fn read(path: &Path) -> BTreeSet<Ends> {
    let read = std::fs::read(path).map(|bytes| serde_json::from_slice(&bytes));
    match read {
        Ok(Ok(connections)) => connections,
        Ok(Err(cause)) => {
            log::warn!("{} is damaged: {cause}", path.display());
            BTreeSet::new()
        }
        Err(cause) if cause.kind() == ErrorKind::NotFound => BTreeSet::new(),
        Err(cause) => {
            log::warn!("cannot read {}: {cause}", path.display());
            BTreeSet::new()
        }
    }
}

/// Sockets at the ports of former connections.
#[derive(Default)]
pub struct FormerConnections(Vec<(OwnedFd, SocketAddrV4)>);

impl FormerConnections {
    /// Takes the ports, which has to be done before anything listens there.
    #[must_use]
    pub fn take(path: &Path) -> Self {
        let connections = read(path).into_iter().take(CONNECTIONS_MAX);
        let sockets = connections.filter_map(|(local, peer)| match bound(local) {
            Ok(fd) => Some((fd, peer)),
            Err(cause) => {
                log::debug!("the former connection of {local} with {peer} is left alone: {cause}");
                None
            }
        });
        Self(sockets.collect())
    }

    /// Ends all of them that their peers believe in.
    pub async fn end(self) {
        let mut waiting = self.0;
        let mut knocked = Vec::with_capacity(waiting.len());
        let last_try = Instant::now() + NETWORK_WAIT;
        while !waiting.is_empty() && Instant::now() < last_try {
            for (fd, peer) in std::mem::take(&mut waiting) {
                match connect(fd.as_raw_fd(), &SockaddrIn::from(peer)) {
                    Err(Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EADDRNOTAVAIL) => {
                        waiting.push((fd, peer));
                    }
                    // Nobody is to answer: it is in progress, or it failed, and both are the end.
                    Ok(()) | Err(_) => knocked.push(fd),
                }
            }
            if !waiting.is_empty() {
                sleep(TRY_EVERY).await;
            }
        }
        if !knocked.is_empty() {
            log::info!(
                "{} connections of an earlier controller are ended",
                knocked.len()
            );
            sleep(ANSWER_WAIT).await;
        }
    }
}

/// The address need not be ours yet.
fn bound(local: SocketAddrV4) -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    setsockopt(&fd, sockopt::IpFreebind, &true)?;
    bind(fd.as_raw_fd(), &SockaddrIn::from(local))?;
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn connections_to_other_machines_are_kept_and_a_damaged_file_is_no_obstacle() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("connections.json");
        assert!(read(&file).is_empty());
        let local = "10.0.0.1:7390".parse().unwrap();
        assert_eq!(ends(local, "127.0.0.1:5".parse().unwrap()), None);
        let one = ends(local, "[::ffff:10.0.0.2]:5".parse().unwrap()).unwrap();
        let connections = BTreeSet::from([one]);
        std::fs::write(&file, serde_json::to_vec(&connections).unwrap()).unwrap();
        assert_eq!(read(&file), connections);
        std::fs::write(&file, "[1").unwrap();
        assert!(read(&file).is_empty());
    }

    #[test]
    fn the_ports_can_be_listened_on_meanwhile() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("connections.json");
        let free = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let local = format!("127.0.0.1:{}", free.port());
        let peers = ["127.0.0.2:1", "127.0.0.2:2"].map(|peer| (&local, peer));
        std::fs::write(&file, serde_json::to_vec(&peers).unwrap()).unwrap();
        let taken = FormerConnections::take(&file);
        assert_eq!(taken.0.len(), 2);
        TcpListener::bind(free).unwrap();
    }
}
