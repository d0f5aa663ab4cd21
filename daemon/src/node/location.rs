//! Where others reach the controller of this node. Addresses come later than the controller (a slow DHCP server), and
//! change.

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::address;
use crate::settings::node::NetworkSettings;

/// How often it is looked whether the address has changed.
const LOOK_PERIOD: Duration = Duration::from_secs(1);

/// The machine's address for clients and engines, followed as it changes.
pub(super) struct Location {
    current: Option<Ipv4Addr>,
    /// None where the address is given by an option.
    look: Option<Interval>,
}

impl Location {
    /// `current` is what others are told so far, if that is an address.
    #[must_use]
    pub(super) fn new(network: &NetworkSettings, current: Option<Ipv4Addr>) -> Self {
        let is_given = network.location.is_some() || network.interfaces.is_loopback_only();
        let look = (!is_given).then(|| {
            let mut look = interval(LOOK_PERIOD);
            look.set_missed_tick_behavior(MissedTickBehavior::Delay);
            look
        });
        Self { current, look }
    }

    /// Waits until the machine has another address, and returns it. Nothing is lost if the future is dropped.
    pub(super) async fn changed(&mut self) -> Ipv4Addr {
        let Some(look) = &mut self.look else {
            return std::future::pending().await;
        };
        loop {
            look.tick().await;
            // Without any, others may still know the old one when it comes back.
            if let Some(address) = address::own()
                && self.current.replace(address) != Some(address)
            {
                return address;
            }
        }
    }
}
