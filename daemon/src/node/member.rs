//! The connection to the controller that this node belongs to, or asks to be let in.

use std::net::SocketAddr;
use std::time::Duration;

use piparallel_core::join::keys::NodeKey;
use piparallel_core::join::message::ToController;
use tokio::net::lookup_host;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::timeout;

use crate::join::dialer::{Credentials, DialError, Link, LinkEvent, dial};
use crate::settings::node::HostPort;

/// Nothing, an attempt, or a connection.
#[derive(Default)]
pub struct Member(State);

#[derive(Default)]
enum State {
    #[default]
    Idle,
    Dialing(JoinHandle<Result<Link, DialError>>),
    Linked(Link),
}

/// What came of it.
pub enum MemberEvent {
    Failed(DialError),
    /// There is a connection now.
    Linked {
        controller: NodeKey,
        address: SocketAddr,
        epoch: u64,
        pending: bool,
    },
    Link(LinkEvent),
}

/// A name server that does not answer is no reason to wait.
const LOOKUP: Duration = Duration::from_secs(2);

impl Member {
    /// Asks to be let in: at these addresses, then at the controller that the options name.
    pub fn dial(
        &mut self,
        addresses: Vec<SocketAddr>,
        named: Option<HostPort>,
        credentials: Credentials,
    ) {
        self.hang_up();
        self.0 = State::Dialing(spawn_local(async move {
            let mut addresses = addresses;
            if let Some(named) = named {
                addresses.extend(resolve(&named).await);
            }
            dial(&addresses, &credentials).await
        }));
    }

    /// Gives up whatever there is.
    pub fn hang_up(&mut self) {
        if let State::Dialing(attempt) = std::mem::take(&mut self.0) {
            attempt.abort();
        }
    }

    /// Says something to the controller, if there is a connection.
    pub fn send(&self, message: ToController) {
        if let State::Linked(link) = &self.0 {
            link.send(message);
        }
    }

    /// Where the controller is.
    #[must_use]
    pub fn link(&self) -> Option<&Link> {
        match &self.0 {
            State::Linked(link) => Some(link),
            State::Idle | State::Dialing(_) => None,
        }
    }

    /// Takes leave of the controller.
    pub async fn leave(&mut self) {
        if let State::Linked(link) = std::mem::take(&mut self.0) {
            link.leave().await;
        }
    }

    /// The next event. Nothing is lost if the future is dropped.
    pub async fn next_event(&mut self) -> MemberEvent {
        match &mut self.0 {
            State::Idle => std::future::pending().await,
            State::Linked(link) => {
                let event = link.next_event().await;
                if let LinkEvent::Closed(_) = event {
                    self.0 = State::Idle;
                }
                MemberEvent::Link(event)
            }
            State::Dialing(attempt) => match attempt.await {
                Ok(Ok(link)) => {
                    let event = MemberEvent::Linked {
                        controller: link.controller,
                        address: link.address,
                        epoch: link.epoch,
                        pending: link.pending,
                    };
                    self.0 = State::Linked(link);
                    event
                }
                Ok(Err(error)) => {
                    self.0 = State::Idle;
                    MemberEvent::Failed(error)
                }
                Err(cause) => {
                    self.0 = State::Idle;
                    MemberEvent::Failed(DialError::Unreachable(cause.to_string()))
                }
            },
        }
    }
}

async fn resolve(named: &HostPort) -> Vec<SocketAddr> {
    let found = timeout(LOOKUP, lookup_host((named.host.as_str(), named.port))).await;
    match found {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(cause)) => {
            log::debug!("{named} cannot be found: {cause}");
            Vec::new()
        }
        Err(_) => Vec::new(),
    }
}
