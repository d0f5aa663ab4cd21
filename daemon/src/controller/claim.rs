//! One controller for each profile and cluster id.
//!
//! A controller holds a lock on `pid/ipcontroller[-<cluster id>].pid` as long as it lives; the lock goes
//! with the process, however it ends, so files without a lock are those of a dead controller. A stock
//! controller takes no lock: whether one is there is found out by the greeting on its port.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::fcntl::{Flock, FlockArg};
use serde_json::{Map, Value};

use super::connection_file;
use crate::address;
use crate::settings::ControllerSettings;

/// The right to be this profile's controller; given back when dropped.
pub struct Claim {
    path: PathBuf,
    _lock: Flock<File>,
}

/// How long a controller may take to greet. It is asked only for files that look alive.
const GREETING_TIMEOUT: Duration = Duration::from_millis(500);

impl Claim {
    /// Takes the lock, and makes sure that no stock controller is there.
    ///
    /// # Errors
    /// Another controller runs in this profile with this cluster id.
    pub fn take(settings: &ControllerSettings) -> anyhow::Result<Self> {
        let infix = if settings.cluster_id.is_empty() {
            ""
        } else {
            "-"
        };
        let name = format!("ipcontroller{infix}{}.pid", settings.cluster_id);
        let path = settings.profile.path.join("pid").join(name);
        let remedy = "stop it, or give this one a --cluster-id of its own";
        let Some(lock) = lock(&path)? else {
            let pid = fs::read_to_string(&path).unwrap_or_default();
            bail!(
                "a controller (pid {}) already runs in {} ({remedy})",
                pid.trim(),
                settings.profile.path.display()
            );
        };
        let claim = Self { path, _lock: lock };
        if !settings.reuse && fs::exists(&settings.client.file).unwrap_or(false) {
            match connection_file::read(&settings.client.file).ok().flatten() {
                Some(file) if is_alive(&file) => bail!(
                    "another controller answers at the address in {} ({remedy})",
                    settings.client.file.display()
                ),
                _ => log::info!(
                    "replacing {}, left by a controller that is gone",
                    settings.client.file.display()
                ),
            }
        }
        Ok(claim)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Gone before the lock is: a process that opened the old file notices (see `lock`).
        let _ = fs::remove_file(&self.path);
    }
}

/// Locks the file and writes our process id to it; `None` if another process has the lock.
fn lock(path: &Path) -> anyhow::Result<Option<Flock<File>>> {
    let failed = || format!("cannot lock {}", path.display());
    loop {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .with_context(failed)?;
        let mut lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => return Ok(None),
            Err((_, e)) => return Err(e).with_context(failed),
        };
        let ours = lock.metadata().with_context(failed)?.ino();
        if fs::metadata(path).is_ok_and(|m| m.ino() == ours) {
            lock.set_len(0).with_context(failed)?;
            writeln!(lock, "{}", std::process::id()).with_context(failed)?;
            return Ok(Some(lock));
        }
        // The file that we locked was removed by its owner in between.
    }
}

/// Whether something greets as ZeroMQ at the registration port of a connection file.
#[must_use]
pub fn is_alive(file: &Map<String, Value>) -> bool {
    registration_address(file).is_some_and(|address| greets(address).unwrap_or(false))
}

/// Where a reader on this machine connects to register or to ask.
#[must_use]
pub fn registration_address(file: &Map<String, Value>) -> Option<SocketAddr> {
    let port = u16::try_from(file.get("registration")?.as_u64()?).ok()?;
    let host = file.get("interface")?.as_str()?.strip_prefix("tcp://")?;
    let location = file.get("location").and_then(Value::as_str);
    let host = match (host, location) {
        ("*" | "0.0.0.0", Some(location)) if !is_this_machine(location) => location,
        ("*" | "0.0.0.0", _) => "127.0.0.1",
        (host, _) => host,
    };
    (host, port)
        .to_socket_addrs()
        .ok()?
        .find(SocketAddr::is_ipv4)
}

fn is_this_machine(location: &str) -> bool {
    let own_name = nix::unistd::gethostname().ok();
    if own_name.is_some_and(|name| name.to_str() == Some(location)) || location.is_empty() {
        return true;
    }
    match (location, 0)
        .to_socket_addrs()
        .ok()
        .and_then(|mut a| a.next())
    {
        Some(resolved) => match resolved.ip() {
            IpAddr::V4(ip) => {
                ip.is_loopback() || address::interfaces().iter().any(|i| i.address == ip)
            }
            IpAddr::V6(ip) => ip.is_loopback(),
        },
        None => false,
    }
}

/// The first byte of a ZMTP greeting is 0xFF, sent as soon as a connection is accepted.
fn greets(address: SocketAddr) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect_timeout(&address, GREETING_TIMEOUT)?;
    stream.set_read_timeout(Some(GREETING_TIMEOUT))?;
    let mut first = [0];
    stream.read_exact(&mut first)?;
    Ok(first == [0xFF])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::tests::settings_for_test;
    use serde_json::json;
    use std::net::TcpListener;

    fn settings_in(dir: &Path) -> ControllerSettings {
        let mut settings = settings_for_test();
        settings.profile.path = dir.to_owned();
        settings.client.file = settings.profile.security().join("ipcontroller-client.json");
        connection_file::create_profile(&settings).unwrap();
        settings
    }

    fn error(settings: &ControllerSettings) -> String {
        match Claim::take(settings) {
            Ok(_) => panic!("claimed"),
            Err(e) => e.to_string(),
        }
    }

    fn file(port: u16) -> Map<String, Value> {
        let json = json!({"interface": "tcp://127.0.0.1", "registration": port, "location": "x"});
        json.as_object().unwrap().clone()
    }

    #[test]
    fn there_is_one_controller_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings_in(dir.path());
        let claim = Claim::take(&settings).unwrap();
        let pid = format!("pid {}", std::process::id());
        assert!(error(&settings).contains(&pid), "{}", error(&settings));
        let mut other = settings_in(dir.path());
        other.cluster_id = "b".to_owned();
        assert!(Claim::take(&other).is_ok(), "another cluster id");
        drop(claim);
        assert!(Claim::take(&settings).is_ok());
        assert_eq!(fs::read_dir(dir.path().join("pid")).unwrap().count(), 0);
    }

    #[test]
    fn a_stock_controller_is_noticed_by_its_greeting_and_a_dead_one_by_silence() {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = settings_in(dir.path());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        fs::write(
            &settings.client.file,
            serde_json::to_string(&file(port)).unwrap(),
        )
        .unwrap();
        let greeter = std::thread::spawn(move || {
            listener.accept().unwrap().0.write_all(&[0xFF, 0]).unwrap();
        });
        assert!(error(&settings).contains("another controller answers"));
        greeter.join().unwrap();
        assert!(Claim::take(&settings).is_ok(), "nobody listens any more");
        settings.reuse = true;
        assert!(Claim::take(&settings).is_ok());
    }

    #[test]
    fn the_address_is_the_one_that_a_reader_here_uses() {
        let address = |interface: &str, location: &str| {
            let json = json!({"interface": interface, "registration": 5, "location": location});
            registration_address(json.as_object().unwrap()).map(|a| a.to_string())
        };
        assert_eq!(
            address("tcp://10.0.0.1", "x").as_deref(),
            Some("10.0.0.1:5")
        );
        assert_eq!(
            address("tcp://*", "127.0.0.1").as_deref(),
            Some("127.0.0.1:5")
        );
        assert_eq!(
            address("tcp://*", "203.0.113.9").as_deref(),
            Some("203.0.113.9:5")
        );
        assert_eq!(address("ipc://x", "y"), None);
    }
}
