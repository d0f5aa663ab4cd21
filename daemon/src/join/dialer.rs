//! A node's way to a controller: tries addresses and ways in, and keeps the connection that results.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use piparallel_core::join::keys::{NodeKey, NodeSecret, SharedKey};
use piparallel_core::join::message::{Hello, Kind, RefusalKind, ToController, ToNode};
use piparallel_core::join::opening::{Mode, Opening};
use piparallel_core::join::session::{Event, Session, SessionError};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout, timeout_at};

use super::{ALIVE_EVERY, read_in, write_out};
use crate::random;

/// What a node knocks with.
#[derive(Clone)]
pub struct Credentials {
    pub secret: NodeSecret,
    pub pool: String,
    /// The join key of a node, or the client key of a laptop.
    pub key: Option<SharedKey>,
    /// Controllers that it trusts.
    pub pinned: BTreeSet<NodeKey>,
    pub hello: Hello,
}

/// Why nobody let it in.
#[derive(Debug, Error)]
pub enum DialError {
    /// Somebody is there and said no.
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Unreachable(String),
}

/// What comes from the controller.
#[derive(Debug, PartialEq, Eq)]
pub enum LinkEvent {
    Closed(String),
    Message(ToNode),
}

/// A connection to a controller that has proven its key. Ends when it is dropped.
pub struct Link {
    pub controller: NodeKey,
    pub address: SocketAddr,
    /// Whether it still waits to be let in; then `Welcome` comes as a message.
    pub pending: bool,
    /// Of the controller; 0 while it is pending.
    pub epoch: u64,
    events: mpsc::UnboundedReceiver<LinkEvent>,
    messages: mpsc::UnboundedSender<ToController>,
    task: AbortHandle,
}

const CONNECT_TIME: Duration = Duration::from_secs(2);
/// From the connection to the answer to the introduction.
const ANSWER_TIME: Duration = Duration::from_secs(6);
/// The controller says every second that it lives.
const SILENCE: Duration = Duration::from_secs(3);

/// Asks one address after the other to be let in. Must be called on a `LocalRuntime`.
///
/// # Errors
/// Nobody does; the error tells of the last one, of a refusal rather than of silence.
pub async fn dial(addresses: &[SocketAddr], credentials: &Credentials) -> Result<Link, DialError> {
    let mut last = DialError::Unreachable("no controller is known".to_owned());
    for address in addresses {
        match dial_one(*address, credentials).await {
            Ok(link) => return Ok(link),
            Err(error) if matches!(last, DialError::Refused(_)) => log::debug!("{error}"),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// One way after the other.
async fn dial_one(address: SocketAddr, credentials: &Credentials) -> Result<Link, DialError> {
    let mut last = None;
    for mode in credentials.ways() {
        match Attempt::begin(address, credentials, mode).await {
            Ok(Answer::In(link)) => return Ok(*link),
            Ok(Answer::Refused { reason, final_word }) => {
                last = Some(DialError::Refused(format!(
                    "the controller at {address} says: {reason}"
                )));
                if final_word {
                    break;
                }
            }
            Err(cause) => {
                let why = format!("{address}: {cause:#}");
                last.get_or_insert(DialError::Unreachable(why));
                break;
            }
        }
    }
    Err(last.unwrap_or_else(|| DialError::Unreachable(format!("{address} cannot be asked"))))
}

impl Credentials {
    /// The ways in, the surest first.
    fn ways(&self) -> Vec<Mode> {
        let shared = match self.hello.kind {
            Kind::Client => Mode::ClientKey,
            Kind::Node => Mode::JoinKey,
        };
        let known = (!self.pinned.is_empty()).then_some(Mode::Known);
        let other = match (&self.key, known) {
            (Some(_), _) => Some(shared),
            (None, None) => Some(Mode::Pair),
            // Who belongs to a pool does not turn to a stranger.
            (None, Some(_)) => None,
        };
        known.into_iter().chain(other).collect()
    }
}

enum Answer {
    In(Box<Link>),
    /// `final_word`: another way would not help.
    Refused {
        reason: String,
        final_word: bool,
    },
}

/// One connection on its way to a link.
struct Attempt {
    stream: TcpStream,
    session: Session,
    deadline: Instant,
}

impl Attempt {
    async fn begin(
        address: SocketAddr,
        credentials: &Credentials,
        mode: Mode,
    ) -> anyhow::Result<Answer> {
        let stream = timeout(CONNECT_TIME, TcpStream::connect(address)).await;
        let stream = stream.context("it does not answer")??;
        // Small messages that somebody waits for.
        let _ = stream.set_nodelay(true);
        let opening = Opening {
            mode,
            pool: credentials.pool.clone(),
        };
        let key = credentials.key.as_ref();
        let session = Session::connect(&credentials.secret, &opening, key, random::bytes()?);
        let deadline = Instant::now() + ANSWER_TIME;
        Self {
            stream,
            session,
            deadline,
        }
        .converse(address, credentials, mode)
        .await
    }

    async fn converse(
        mut self,
        address: SocketAddr,
        credentials: &Credentials,
        mode: Mode,
    ) -> anyhow::Result<Answer> {
        let controller = match self.next().await {
            Ok(Event::Established(key)) => key,
            Ok(_) => bail!("it does not keep to the protocol"),
            Err(cause) => return refusal(cause),
        };
        if mode == Mode::Known && !credentials.pinned.contains(&controller) {
            return Ok(Answer::Refused {
                reason: key_changed(controller, credentials),
                final_word: false,
            });
        }
        let hello = ToController::Hello(credentials.hello.clone());
        self.session.send(&hello.to_json());
        loop {
            let message = match self.next().await {
                Ok(Event::Message(json)) => ToNode::parse(&json),
                Ok(_) => bail!("it does not keep to the protocol"),
                Err(cause) => return refusal(cause),
            };
            let (pending, epoch) = match message {
                Some(ToNode::Welcome { epoch, .. }) => (false, epoch),
                Some(ToNode::Pending { .. }) => (true, 0),
                Some(ToNode::Refused { kind, reason }) => {
                    let final_word = kind != RefusalKind::NotKnown;
                    return Ok(Answer::Refused { reason, final_word });
                }
                // It says nothing of importance before.
                _ => continue,
            };
            let link = self.into_link(address, controller, pending, epoch);
            return Ok(Answer::In(Box::new(link)));
        }
    }

    async fn next(&mut self) -> anyhow::Result<Event> {
        loop {
            if let Some(event) = self.session.poll_event()? {
                write_out(&mut self.stream, &mut self.session).await?;
                return Ok(event);
            }
            write_out(&mut self.stream, &mut self.session).await?;
            let read =
                timeout_at(self.deadline, read_in(&mut self.stream, &mut self.session)).await;
            read.context("it does not answer")??;
        }
    }

    fn into_link(
        self,
        address: SocketAddr,
        controller: NodeKey,
        pending: bool,
        epoch: u64,
    ) -> Link {
        let (event_sender, events) = mpsc::unbounded_channel();
        let (messages, message_inbox) = mpsc::unbounded_channel();
        let task =
            tokio::task::spawn_local(keep(self.stream, self.session, event_sender, message_inbox));
        let task = task.abort_handle();
        Link {
            controller,
            address,
            pending,
            epoch,
            events,
            messages,
            task,
        }
    }
}

/// A refusal is an answer; anything else that goes wrong is not.
fn refusal(cause: anyhow::Error) -> anyhow::Result<Answer> {
    match cause.downcast_ref::<SessionError>() {
        Some(SessionError::Refused(reason)) => Ok(Answer::Refused {
            reason: reason.clone(),
            final_word: false,
        }),
        _ => Err(cause),
    }
}

fn key_changed(controller: NodeKey, credentials: &Credentials) -> String {
    let known: Vec<String> = credentials
        .pinned
        .iter()
        .map(|key| key.fingerprint().to_string())
        .collect();
    format!(
        "its key is {}, this node knows {}: another machine has taken that address, or the controller was set up \
         anew; if so, `piparallel forget-controller` makes this node accept it",
        controller.fingerprint(),
        known.join(" and ")
    )
}

impl Link {
    /// What comes next; after `Closed` nothing does. Nothing is lost if the future is dropped.
    pub async fn next_event(&mut self) -> LinkEvent {
        let event = self.events.recv().await;
        event.unwrap_or_else(|| LinkEvent::Closed("the connection has ended".to_owned()))
    }

    /// Says something. Does nothing when the connection has ended.
    pub fn send(&self, message: ToController) {
        let _ = self.messages.send(message);
    }

    /// Says goodbye, and ends when the controller has heard it, or a moment later.
    pub async fn leave(mut self) {
        self.send(ToController::Leaving);
        let closed = async { while !matches!(self.next_event().await, LinkEvent::Closed(_)) {} };
        // One that does not answer is left alone.
        let _ = timeout(Duration::from_millis(500), closed).await;
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Runs a link until it ends.
async fn keep(
    mut stream: TcpStream,
    mut session: Session,
    events: mpsc::UnboundedSender<LinkEvent>,
    mut messages: mpsc::UnboundedReceiver<ToController>,
) {
    let end = exchange(&mut stream, &mut session, &events, &mut messages).await;
    let reason = end
        .err()
        .map_or_else(String::new, |cause| format!("{cause:#}"));
    // Nobody listens any more when the node ends.
    let _ = events.send(LinkEvent::Closed(reason));
}

async fn exchange(
    stream: &mut TcpStream,
    session: &mut Session,
    events: &mpsc::UnboundedSender<LinkEvent>,
    messages: &mut mpsc::UnboundedReceiver<ToController>,
) -> anyhow::Result<()> {
    let mut alive = interval(ALIVE_EVERY);
    alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut heard = Instant::now();
    loop {
        while let Some(event) = session.poll_event()? {
            heard = Instant::now();
            if let Event::Message(json) = event
                && let Some(message) = ToNode::parse(&json)
                && message != ToNode::Alive
            {
                events.send(LinkEvent::Message(message))?;
            }
        }
        write_out(stream, session).await?;
        tokio::select! {
            message = messages.recv() => {
                let message = message.context("the node has no more to say")?;
                session.send(&message.to_json());
            }
            read = timeout_at(heard + SILENCE, read_in(stream, session)) => {
                read.context("the controller has not been heard of for three seconds")??;
            }
            _ = alive.tick() => {
                session.send(&ToController::Alive.to_json());
            }
        }
    }
}
