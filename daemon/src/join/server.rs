//! The controller's door: listens, and runs one task for each connection. All of them share one
//! `Admission`, which decides; what concerns others comes out of `Door::next_event`.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use piparallel_core::clock::Now;
use piparallel_core::ids::NodeId;
use piparallel_core::join::admission::{Admission, Command, LinkId};
use piparallel_core::join::keys::NodeSecret;
use piparallel_core::join::message::{ToController, ToNode};
use piparallel_core::join::session::{Event, Session};
use piparallel_core::wire::zmtp::{PublicKey, SecretKey};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;
use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until};

use super::nodes_db::NodesDb;
use super::{ALIVE_EVERY, read_in, write_out};
use crate::random;

/// What the admission decided that concerns others than nodes.
#[derive(PartialEq, Eq)]
pub enum DoorEvent {
    /// A laptop belongs to the pool: it is to be sent the client's connection file.
    AdmittedClient { link: LinkId, node: NodeId },
    /// A node belongs to the pool: it is to be sent an engine's connection file with this key.
    AdmittedNode {
        link: LinkId,
        node: NodeId,
        engine_key: SecretKey,
    },
    /// The keys that engines may have, all of them.
    EngineKeys(BTreeSet<PublicKey>),
    /// A node said that it stops, or was revoked.
    Left { node: NodeId },
    /// A node will stop: its engines are to get no more work.
    Stopping { node: NodeId },
}

/// The door. Ends when it is dropped.
pub struct Door {
    shared: Rc<Shared>,
    events: mpsc::UnboundedReceiver<DoorEvent>,
    tasks: Vec<AbortHandle>,
}

struct Shared {
    admission: RefCell<Admission>,
    secret: NodeSecret,
    db: NodesDb,
    started: Instant,
    links: RefCell<BTreeMap<LinkId, mpsc::UnboundedSender<Outgoing>>>,
    last_link: RefCell<u64>,
    events: mpsc::UnboundedSender<DoorEvent>,
    /// The next deadline may have changed.
    changed: Notify,
}

enum Outgoing {
    Close(String),
    Message(ToNode),
}

/// Pause after a failed accept: out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

impl Door {
    /// Opens a door on listeners. Must be called on a `LocalRuntime`.
    #[must_use]
    pub fn open(
        listeners: Vec<TcpListener>,
        secret: NodeSecret,
        admission: Admission,
        db: NodesDb,
    ) -> Self {
        let (sender, events) = mpsc::unbounded_channel();
        let shared = Rc::new(Shared {
            admission: RefCell::new(admission),
            secret,
            db,
            started: Instant::now(),
            links: RefCell::default(),
            last_link: RefCell::default(),
            events: sender,
            changed: Notify::new(),
        });
        shared.obey();
        let mut tasks = vec![spawn(watch_time(Rc::clone(&shared)))];
        for listener in listeners {
            tasks.push(spawn(accept(Rc::clone(&shared), listener)));
        }
        Self {
            shared,
            events,
            tasks,
        }
    }

    /// The next event. Nothing is lost if the future is dropped.
    pub async fn next_event(&mut self) -> Option<DoorEvent> {
        self.events.recv().await
    }

    /// Looks at the admission, or tells it what an operator wants, and carries out what follows.
    pub fn with<R>(&self, act: impl FnOnce(&mut Admission, Now) -> R) -> R {
        let result = act(&mut self.shared.admission.borrow_mut(), self.shared.now());
        self.shared.obey();
        result
    }

    /// Sends a message on one connection.
    pub fn send(&self, link: LinkId, message: ToNode) {
        self.shared.send(link, Outgoing::Message(message));
    }

    /// Returns when what was decided is on the disk.
    pub async fn sync(&self) {
        self.shared.db.sync().await;
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
        for link in self.shared.links.take().into_values() {
            // A connection that has ended needs no end.
            let _ = link.send(Outgoing::Close("the controller stops".to_owned()));
        }
    }
}

fn spawn(task: impl Future<Output = ()> + 'static) -> AbortHandle {
    tokio::task::spawn_local(task).abort_handle()
}

async fn accept(shared: Rc<Shared>, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, source)) => {
                tokio::task::spawn_local(serve(Rc::clone(&shared), stream, source));
            }
            Err(cause) => {
                log::warn!("a connection of a node could not be accepted: {cause}");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn watch_time(shared: Rc<Shared>) {
    loop {
        let next = shared.admission.borrow().next_timeout();
        let at = next.map(|at| tokio::time::Instant::from_std(shared.started + at));
        tokio::select! {
            () = shared.changed.notified() => {}
            () = async { match at {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            } } => {
                let now = shared.now();
                shared.admission.borrow_mut().handle_timeout(now);
                shared.obey();
            }
        }
    }
}

/// One connection from its beginning to its end.
async fn serve(shared: Rc<Shared>, mut stream: TcpStream, source: SocketAddr) {
    let link = shared.next_link();
    let Ok(entropy) = random::bytes() else { return };
    // Small messages that somebody waits for.
    let _ = stream.set_nodelay(true);
    let mut session = Session::accept(shared.secret.clone(), entropy);
    let now = shared.now();
    let knocked = shared
        .admission
        .borrow_mut()
        .handle_connection(now, link, source.ip());
    if let Err(why) = knocked {
        session.refuse(why);
        let _ = write_out(&mut stream, &mut session).await;
        return;
    }
    let (sender, outgoing) = mpsc::unbounded_channel();
    shared.links.borrow_mut().insert(link, sender);
    let end = converse(&shared, link, &mut stream, &mut session, outgoing).await;
    shared.links.borrow_mut().remove(&link);
    if let Err(cause) = end {
        log::debug!("the connection of {source} ended: {cause:#}");
    }
    // The last words, if the peer still listens.
    let _ = write_out(&mut stream, &mut session).await;
    let now = shared.now();
    shared.admission.borrow_mut().handle_closed(now, link);
    shared.obey();
}

async fn converse(
    shared: &Shared,
    link: LinkId,
    stream: &mut TcpStream,
    session: &mut Session,
    mut outgoing: mpsc::UnboundedReceiver<Outgoing>,
) -> anyhow::Result<()> {
    let mut alive = interval(ALIVE_EVERY);
    alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        shared.changed.notify_one();
        write_out(stream, session).await?;
        tokio::select! {
            message = outgoing.recv() => match message {
                Some(Outgoing::Message(message)) => {
                    session.send(&message.to_json());
                }
                Some(Outgoing::Close(reason)) => {
                    session.refuse(&reason);
                    anyhow::bail!(reason);
                }
                None => anyhow::bail!("the controller stops"),
            },
            read = read_in(stream, session) => {
                read?;
                take_events(shared, link, session)?;
            }
            _ = alive.tick() => {
                session.send(&ToNode::Alive.to_json());
            }
        }
    }
}

/// Hands everything that came to the admission.
fn take_events(shared: &Shared, link: LinkId, session: &mut Session) -> anyhow::Result<()> {
    loop {
        let now = shared.now();
        let mut admission = shared.admission.borrow_mut();
        match session.poll_event() {
            Ok(None) => break,
            Ok(Some(Event::Asked(opening))) => {
                match admission.handle_opening(now, link, &opening) {
                    Ok(key) => session.admit(key),
                    Err(why) => {
                        session.refuse(why);
                        anyhow::bail!(why);
                    }
                }
            }
            Ok(Some(Event::Established(key))) => admission.handle_established(link, key),
            Ok(Some(Event::Message(json))) => {
                if let Some(message) = ToController::parse(&json) {
                    admission.handle_message(now, link, message);
                }
            }
            Err(error) => {
                let words = admission.handle_failure(now, link, &error);
                session.refuse(words);
                return Err(error.into());
            }
        }
        drop(admission);
        shared.obey();
    }
    Ok(())
}

impl Shared {
    fn now(&self) -> Now {
        Now::new(self.started.elapsed(), 0)
    }

    fn next_link(&self) -> LinkId {
        let mut last = self.last_link.borrow_mut();
        *last += 1;
        LinkId(*last)
    }

    fn send(&self, link: LinkId, outgoing: Outgoing) {
        if let Some(sender) = self.links.borrow().get(&link) {
            // One that has just ended needs nothing.
            let _ = sender.send(outgoing);
        }
    }

    /// Carries out what the admission decided.
    fn obey(&self) {
        loop {
            let command = self.admission.borrow_mut().poll_command();
            let event = match command {
                None => break,
                Some(Command::Save(row)) => {
                    self.db.save(row);
                    continue;
                }
                Some(Command::Forget(id)) => {
                    self.db.forget(id);
                    continue;
                }
                Some(Command::Send { link, message }) => {
                    self.send(link, Outgoing::Message(message));
                    continue;
                }
                Some(Command::Close { link, reason }) => {
                    self.send(link, Outgoing::Close(reason));
                    continue;
                }
                Some(Command::AdmittedClient { link, node }) => {
                    DoorEvent::AdmittedClient { link, node }
                }
                Some(Command::AdmittedNode {
                    link,
                    node,
                    engine_key,
                }) => DoorEvent::AdmittedNode {
                    link,
                    node,
                    engine_key,
                },
                Some(Command::EngineKeys(keys)) => DoorEvent::EngineKeys(keys),
                Some(Command::Left { node }) => DoorEvent::Left { node },
                Some(Command::Stopping { node }) => DoorEvent::Stopping { node },
            };
            // Nobody listens any more when the controller ends.
            let _ = self.events.send(event);
        }
    }
}
