//! Why a connection was not let in, and how often the log says so.

use std::collections::HashMap;
use std::fmt;
use std::mem::{Discriminant, discriminant};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use log::warn;
use piparallel_core::channel::Channel;
use piparallel_core::wire::zmtp;

/// One line per reason and channel in this time.
const QUIET: Duration = Duration::from_secs(10);

/// Why a connection was closed from our side, other than by command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// All places of the channel are taken.
    ChannelFull(usize),
    /// It made place for newer ones.
    HalfOpenFull(usize),
    /// It spoke, and left before the handshake was done: libzmq does so without a word when it does
    /// not like our mechanism.
    Left,
    /// What it sent was no ZMTP, or not ours.
    Protocol(zmtp::Error),
    /// Its handshake took too long.
    Silent(Duration),
    /// It asks for too many topics.
    Subscriptions(usize),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ChannelFull(max) => write!(f, "all {max} connections of this channel are taken"),
            Self::HalfOpenFull(max) => {
                write!(f, "{max} other connections have not shaken hands either")
            }
            Self::Left => f.write_str(
                "it left during the handshake: is one side encrypted (CURVE) and the other not?",
            ),
            Self::Protocol(error) => error.fmt(f),
            Self::Silent(limit) => {
                write!(f, "no ZMTP handshake within {} s", limit.as_secs())
            }
            Self::Subscriptions(max) => write!(f, "more than {max} subscriptions"),
        }
    }
}

type Kind = (Discriminant<Refusal>, Option<Discriminant<zmtp::Error>>);

/// The log of refusals: one line per reason and channel every ten seconds, with a count.
#[derive(Default)]
pub(super) struct RefusalLog {
    told: HashMap<(Channel, Kind), Told>,
}

struct Told {
    at: Instant,
    since: u64,
}

impl RefusalLog {
    pub(super) fn note(&mut self, channel: Channel, address: SocketAddr, refusal: &Refusal) {
        let cause = match refusal {
            Refusal::Protocol(error) => Some(discriminant(error)),
            Refusal::ChannelFull(_)
            | Refusal::HalfOpenFull(_)
            | Refusal::Left
            | Refusal::Silent(_)
            | Refusal::Subscriptions(_) => None,
        };
        let now = Instant::now();
        let more = match self
            .told
            .get_mut(&(channel, (discriminant(refusal), cause)))
        {
            Some(told) if now - told.at < QUIET => {
                told.since += 1;
                return;
            }
            Some(told) => {
                told.at = now;
                std::mem::take(&mut told.since)
            }
            None => {
                let told = Told { at: now, since: 0 };
                self.told
                    .insert((channel, (discriminant(refusal), cause)), told);
                0
            }
        };
        let channel = channel.name();
        if more == 0 {
            warn!("refused {address} on {channel}: {refusal}");
        } else {
            warn!("refused {address} on {channel}: {refusal} ({more} more like this before)");
        }
    }
}
