//! Which pools there are on the network, for somebody who wants to connect to one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use piparallel_core::discovery::{Announcement, Part};
use tokio::net::lookup_host;
use tokio::time::{Instant, timeout_at};

use crate::discovery::{Discovery, Event, Sighting};
use crate::settings::node::{HostPort, InterfaceFilter};

/// A pool, and where its controller may be.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    pub pool: String,
    pub addresses: Vec<SocketAddr>,
}

/// Controllers answer within a second and a half; all that are there have then been heard.
const LISTEN: Duration = Duration::from_secs(3);
/// As long as nobody was heard. Wi-Fi loses multicast: by then the question was asked four times.
const LISTEN_ON: Duration = Duration::from_secs(8);
/// After the wanted pool was found: further controllers and addresses of it.
const MORE: Duration = Duration::from_millis(200);

/// Finds a pool: the wanted one, or the only one that is there.
///
/// # Errors
/// It is not there, or it is not clear which one is meant.
pub async fn find(wanted: Option<&str>, filter: InterfaceFilter) -> anyhow::Result<Found> {
    let mut discovery = Discovery::start(filter)?;
    let mut seen = BTreeMap::new();
    let began = Instant::now();
    let mut end = began + LISTEN_ON;
    while let Ok(event) = timeout_at(end, discovery.next_event()).await {
        match event {
            Event::Seen(sighting) => {
                let announcement = Announcement::from_txt(&sighting.txt).ok();
                let Some(controller) = announcement.filter(|a| a.part == Part::Controller) else {
                    continue;
                };
                let soon = Instant::now() + MORE;
                end = end.min(match wanted {
                    Some(pool) if pool == controller.pool => soon,
                    _ => soon.max(began + LISTEN),
                });
                seen.insert(sighting.instance.clone(), (controller, sighting));
            }
            Event::Gone(instance) => {
                seen.remove(&instance);
            }
            Event::LinksChanged => {}
        }
    }
    discovery.stop().await;
    choose(wanted, seen.into_values())
}

/// The controller that somebody named.
///
/// # Errors
/// It has no address.
pub async fn resolve(pool: &str, controller: &HostPort) -> anyhow::Result<Found> {
    let addresses = lookup_host((controller.host.as_str(), controller.port)).await;
    let addresses = addresses.with_context(|| format!("{controller} cannot be found"))?;
    Ok(Found {
        pool: pool.to_owned(),
        addresses: addresses.collect(),
    })
}

/// Of several controllers of one pool, the one with the lowest epoch comes first: the others give way to it.
fn choose(
    wanted: Option<&str>,
    seen: impl Iterator<Item = (Announcement, Sighting)>,
) -> anyhow::Result<Found> {
    let mut seen: Vec<_> = seen.collect();
    seen.sort_by_key(|(controller, _)| (controller.epoch, controller.id));
    let pools: BTreeSet<&str> = seen.iter().map(|(c, _)| c.pool.as_str()).collect();
    let names = pools.iter().copied().collect::<Vec<_>>().join(", ");
    let pool = match (wanted, pools.len()) {
        (Some(wanted), _) if pools.contains(wanted) => wanted.to_owned(),
        (Some(wanted), 0) => bail!("nobody announces the pool {wanted} here ({REMEDY})"),
        (Some(wanted), _) => bail!("nobody announces the pool {wanted} here, but {names}"),
        (None, 0) => bail!("nobody announces a pool here ({REMEDY})"),
        (None, 1) => names,
        (None, _) => bail!("there are several pools, name one: piparallel connect POOL ({names})"),
    };
    let of_pool = seen.into_iter().filter(|(c, _)| c.pool == pool);
    Ok(Found {
        addresses: of_pool
            .flat_map(|(_, sighting)| sighting.addresses)
            .collect(),
        pool,
    })
}

const REMEDY: &str =
    "is this machine on the network of the pool? Where multicast does not pass: --controller HOST";

#[cfg(test)]
mod tests {
    use super::*;
    use piparallel_core::join::keys::NodeSecret;

    fn controller(pool: &str, number: u8, epoch: u64) -> (Announcement, Sighting) {
        let key = NodeSecret::new([number; 32]).public();
        let announcement = Announcement {
            pool: pool.to_owned(),
            part: Part::Controller,
            id: key.id(),
            fingerprint: key.fingerprint().to_string(),
            epoch,
        };
        let sighting = Sighting {
            instance: format!("pi-{number}"),
            addresses: vec![SocketAddr::from(([10, 0, 0, number], 7373))],
            txt: Vec::new(),
        };
        (announcement, sighting)
    }

    fn error(wanted: Option<&str>, seen: Vec<(Announcement, Sighting)>) -> String {
        choose(wanted, seen.into_iter()).unwrap_err().to_string()
    }

    #[test]
    fn the_only_pool_or_the_wanted_one_is_chosen() {
        let only = choose(None, [controller("a", 1, 1)].into_iter()).unwrap();
        assert_eq!(only.pool, "a");
        let both = || vec![controller("a", 1, 1), controller("b", 2, 1)];
        assert_eq!(choose(Some("b"), both().into_iter()).unwrap().pool, "b");
        assert!(error(None, both()).contains("(a, b)"));
        assert!(error(Some("c"), both()).contains("but a, b"));
        assert!(error(None, vec![]).contains("--controller"));
    }

    #[test]
    fn of_two_controllers_the_one_that_stays_comes_first() {
        let seen = [controller("a", 1, 7), controller("a", 2, 3)];
        let found = choose(None, seen.into_iter()).unwrap();
        assert_eq!(found.addresses[0].to_string(), "10.0.0.2:7373");
    }
}
