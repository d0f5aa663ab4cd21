//! Who else is on the network: multicast DNS (`_piparallel._tcp.local.`).
//!
//! What is found is a hint: addresses to try, and what somebody says of itself. Nothing is believed
//! because of it. This module carries the TXT record and does not read it.
//!
//! The mDNS library does not recover when an interface goes down and comes back with the same address
//! (its issue 370), or when the network is configured anew (416). So its daemon is replaced when an address
//! that was gone is back. It shares port 5353 with avahi or systemd-resolved.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::{Instant, sleep_until};

use crate::settings::node::InterfaceFilter;

/// Changes of network interfaces.
mod links;
/// One life of the mDNS library's daemon.
mod mdns;

use links::{Change, Links};
use mdns::Daemon;

/// What a node tells everybody about itself. No secret is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Unique on the network: at most 63 bytes.
    pub instance: String,
    /// The label of the host's addresses, unique too.
    pub host: String,
    pub port: u16,
    pub txt: Vec<(String, String)>,
}

/// What somebody else tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    pub instance: String,
    /// Those that answer best come first: IPv4, then IPv6, link-local addresses last.
    pub addresses: Vec<SocketAddr>,
    pub txt: Vec<(String, Vec<u8>)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Somebody is there, or says something new.
    Seen(Sighting),
    /// An instance took its leave, or was not heard of for long.
    Gone(String),
    /// Addresses of this machine have changed: who was out of reach may not be any more.
    LinksChanged,
}

/// The daemon is replaced at most this often: a flapping link must not keep everybody busy.
const REPLACE_INTERVAL: Duration = Duration::from_secs(2);

/// When it cannot be started: the next attempt.
const RETRY: Duration = Duration::from_secs(5);

/// Announces one service and looks for others of its kind.
pub struct Discovery {
    filter: InterfaceFilter,
    links: Links,
    service: Option<Service>,
    daemon: Option<Daemon>,
    /// When the daemon was or could not be started.
    tried: Instant,
    /// When it is replaced.
    replace_at: Option<Instant>,
}

impl Discovery {
    /// Starts to look. Nothing is announced yet.
    ///
    /// # Errors
    /// The system does not tell of its interfaces.
    pub fn start(filter: InterfaceFilter) -> anyhow::Result<Self> {
        let links = Links::watch(filter.clone()).context("cannot watch the network interfaces")?;
        let mut this = Self {
            filter,
            links,
            service: None,
            daemon: None,
            tried: Instant::now(),
            replace_at: None,
        };
        this.start_daemon();
        Ok(this)
    }

    /// Announces this, in place of what was announced before.
    pub fn announce(&mut self, service: Service) {
        if self.service.as_ref() == Some(&service) {
            return;
        }
        if let Some(daemon) = &mut self.daemon {
            daemon.announce(&service);
        }
        self.service = Some(service);
    }

    /// The next event. Nothing is lost if the future is dropped.
    pub async fn next_event(&mut self) -> Event {
        loop {
            let replace = async {
                match self.replace_at {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let news = async {
                match &mut self.daemon {
                    Some(daemon) => daemon.next_event().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                event = news => match event {
                    Some(event) if !self.is_ours(&event) => return event,
                    Some(_) => {}
                    None => {
                        self.replace_soon();
                        if let Some(daemon) = self.daemon.take() {
                            daemon.stop().await;
                        }
                    }
                },
                change = self.links.changed() => {
                    if change == Change::Return {
                        self.replace_soon();
                    }
                    return Event::LinksChanged;
                }
                () = replace => {
                    if let Some(daemon) = self.daemon.take() {
                        daemon.stop().await;
                    }
                    self.start_daemon();
                }
            }
        }
    }

    /// Says goodbye.
    pub async fn stop(self) {
        if let Some(daemon) = self.daemon {
            daemon.stop().await;
        }
    }

    fn is_ours(&self, event: &Event) -> bool {
        let own = self.service.as_ref().map(|s| s.instance.as_str());
        match event {
            Event::Seen(sighting) => Some(sighting.instance.as_str()) == own,
            Event::Gone(instance) => Some(instance.as_str()) == own,
            Event::LinksChanged => false,
        }
    }

    fn replace_soon(&mut self) {
        let at = (self.tried + REPLACE_INTERVAL).max(Instant::now());
        self.replace_at.get_or_insert(at);
    }

    fn start_daemon(&mut self) {
        self.tried = Instant::now();
        self.replace_at = None;
        match Daemon::start(self.filter.clone()) {
            Ok(mut daemon) => {
                if let Some(service) = &self.service {
                    daemon.announce(service);
                }
                self.daemon = Some(daemon);
            }
            Err(cause) => {
                log::warn!(
                    "nodes cannot be found by multicast ({cause}); set controller = \"host\" where this does not \
                     pass"
                );
                self.replace_at = Some(self.tried + RETRY);
            }
        }
    }
}
