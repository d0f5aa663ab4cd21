//! The controller role: the pool's controller, and the door at which nodes and laptops join it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context as _;
use piparallel_core::join::admission::{Admission, Config, LinkId, NodeView, Standing};
use piparallel_core::join::keys::{NodeSecret, SharedKey};
use piparallel_core::join::message::{Kind, Private, ToNode};
use piparallel_core::wire::zmtp::{PublicKey, SecretKey};
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::timeout;

use super::connection_files::{for_engines, for_laptop, laptop_key, location, relocate};
use super::location::Location;
use super::pool;
use super::pool_keys::PoolKeys;
use super::report::common_versions;
use crate::controller::{Admissions, Admitted};
use crate::join::nodes_db::NodesDb;
use crate::join::server::{Door, DoorEvent};
use crate::random;
use crate::settings::node::{NetworkSettings, NodeSettings};

/// A pool that is served. Ends with [`Serving::stop`].
pub struct Serving {
    pub door: Door,
    /// The connection file of this node's own engines.
    pub own_engine_file: Map<String, Value>,
    engine_file: Map<String, Value>,
    client_file: Map<String, Value>,
    location: Location,
    client_key: SecretKey,
    /// Of this node's own engines.
    own_key: PublicKey,
    admitted: watch::Sender<Admitted>,
    drained: mpsc::UnboundedReceiver<PublicKey>,
    controller: JoinHandle<anyhow::Result<()>>,
    stop: Rc<Notify>,
}

/// What others have to do.
pub enum ServingEvent {
    /// No engine of the node of this name is in the pool any more.
    Drained(String),
    /// None of this node's own is.
    OwnDrained,
    /// The controller ended by itself.
    Ended(anyhow::Result<()>),
}

/// The keys of a controller that the rest of the node knows too.
pub struct Shared {
    pub secret: NodeSecret,
    pub join_key: SharedKey,
    pub client_key: SharedKey,
}

/// How long a controller that ends may take to write what it knows.
const STOP_TIME: Duration = Duration::from_secs(5);

impl Serving {
    /// Begins to serve. Must be called on a `LocalRuntime`.
    ///
    /// # Errors
    /// A port is in use, or the state directory cannot be written.
    pub async fn start(
        settings: &NodeSettings,
        shared: Shared,
        epoch: u64,
    ) -> anyhow::Result<Self> {
        let keys = PoolKeys::load_or_create(&settings.state_dir)?;
        let listener = listen(&settings.network).await?;
        let mut prepared = pool::prepare(settings, &keys)?;
        let engine_file = prepared.engine_file().clone();
        let client_file = prepared.client_file().clone();
        let (admitted, admitted_receiver) = watch::channel(Admitted::default());
        let (drained_sender, drained) = mpsc::unbounded_channel();
        prepared.limit_engines(Admissions {
            admitted: admitted_receiver,
            drained: drained_sender,
        });
        let stop = Rc::new(Notify::new());
        let stopped = Rc::clone(&stop);
        let controller = spawn_local(async move {
            let on_ready = || log::info!("the controller serves clients and engines");
            prepared.run(on_ready, stopped.notified()).await
        });
        let (db, rows) = NodesDb::open(&settings.state_dir.join("nodes.db"))?;
        let config = Config {
            pool: settings.pool.clone(),
            join_key: shared.join_key,
            client_key: shared.client_key,
            seed: random::bytes()?,
        };
        let key = shared.secret.public();
        let admission = Admission::new(config, epoch, rows);
        let door = Door::open(vec![listener], shared.secret, admission, db);
        let own_key = door.with(|admission, now| admission.add_self(now, key, &settings.name));
        let location = Location::new(&settings.network, location(&engine_file));
        let mut own_engine_file = for_engines(&engine_file, &own_key);
        relocate(&mut own_engine_file, Ipv4Addr::LOCALHOST);
        let this = Self {
            door,
            own_engine_file,
            engine_file,
            client_file,
            location,
            client_key: keys.client.secret.clone(),
            own_key: own_key.public(),
            admitted,
            drained,
            controller,
            stop,
        };
        this.refresh();
        Ok(this)
    }

    /// The next event that concerns others. Nothing is lost if the future is dropped.
    pub async fn next_event(&mut self) -> ServingEvent {
        loop {
            tokio::select! {
                event = self.door.next_event() => {
                    if let Some(event) = event {
                        self.handle(event);
                    }
                }
                address = self.location.changed() => self.move_to(address),
                Some(key) = self.drained.recv() => {
                    if key == self.own_key {
                        return ServingEvent::OwnDrained;
                    }
                    if let Some(name) = self.tell_drained(key) {
                        return ServingEvent::Drained(name);
                    }
                }
                ended = &mut self.controller => {
                    let ended = ended.context("the controller broke down");
                    return ServingEvent::Ended(ended.and_then(|result| result));
                }
            }
        }
    }

    /// This node's own engines get no more work. [`ServingEvent::OwnDrained`] follows when they have finished.
    pub fn drain_own(&self) {
        self.door.with(|admission, _| admission.stop_self());
        self.refresh();
    }

    /// Tells the controller who is admitted and who is drained, after anything that may have changed it.
    pub fn refresh(&self) {
        let mut new = Admitted::default();
        self.door.with(|admission, _| {
            for node in admission
                .nodes()
                .filter(|n| n.row.standing == Standing::Admitted)
            {
                self.add(&mut new, &node);
            }
        });
        self.admitted.send_if_modified(|old| {
            let is_news = *old != new;
            *old = new;
            is_news
        });
    }

    /// Ends: nodes are told why, the controller writes what it knows.
    pub async fn stop(self, reason: &str) {
        for link in self.links() {
            let reason = reason.to_owned();
            self.door.send(link, ToNode::Closing { reason });
        }
        self.stop.notify_one();
        match timeout(STOP_TIME, self.controller).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(cause))) => log::error!("{cause:#}"),
            Ok(Err(_)) | Err(_) => log::error!("the controller did not end in time"),
        }
        self.door.sync().await;
    }

    fn add(&self, admitted: &mut Admitted, node: &NodeView<'_>) {
        match (node.row.kind, &node.row.engine_key) {
            (Kind::Client, _) => {
                admitted
                    .client_keys
                    .push(laptop_key(&self.client_key, node.id));
            }
            (Kind::Node, Some(key)) => {
                let key = key.public();
                admitted.keys.insert(key);
                if node.row.drained || node.stopping {
                    admitted.drained.insert(key);
                }
            }
            (Kind::Node, None) => {}
        }
    }

    fn handle(&self, event: DoorEvent) {
        // First the controller: who gets a file may use it at once.
        self.refresh();
        match event {
            DoorEvent::AdmittedClient { link, node } => {
                let key = laptop_key(&self.client_key, node);
                let mut file = for_laptop(&self.client_file, &key);
                file.insert("engine_versions".to_owned(), json!(self.versions()));
                self.send_file(link, &file, |json| ToNode::ClientFile { json });
            }
            DoorEvent::AdmittedNode {
                link, engine_key, ..
            } => self.send_engine_file(link, &engine_key),
            DoorEvent::EngineKeys(_) | DoorEvent::Left { .. } | DoorEvent::Stopping { .. } => {}
        }
    }

    /// The machine has another address: whoever gets a file from now on learns it, and who has one for engines already.
    fn move_to(&mut self, address: Ipv4Addr) {
        log::info!("clients and engines reach the controller at {address}");
        relocate(&mut self.engine_file, address);
        relocate(&mut self.client_file, address);
        let joined: Vec<_> = self.door.with(|admission, _| {
            let nodes = admission.nodes();
            let admitted = nodes.filter(|n| n.row.standing == Standing::Admitted && !n.controller);
            let to_tell = admitted.filter_map(|n| Some((n.link?, n.row.engine_key.clone()?)));
            to_tell.collect()
        });
        for (link, key) in joined {
            self.send_engine_file(link, &key);
        }
    }

    fn send_engine_file(&self, link: LinkId, key: &SecretKey) {
        self.send_file(link, &for_engines(&self.engine_file, key), |json| {
            ToNode::EngineFile { json }
        });
    }

    /// Of Python and packages on the engines.
    fn versions(&self) -> BTreeMap<String, String> {
        self.door.with(|admission, _| {
            common_versions(admission.nodes().map(|node| &node.report.versions))
        })
    }

    fn send_file(&self, link: LinkId, file: &Map<String, Value>, message: fn(Private) -> ToNode) {
        match serde_json::to_string(file) {
            Ok(json) => self.door.send(link, message(Private(json))),
            Err(cause) => log::error!("a connection file cannot be sent: {cause}"),
        }
    }

    /// Passes it on to the node whose engines have this key; its name.
    fn tell_drained(&self, key: PublicKey) -> Option<String> {
        let found = self.door.with(|admission, _| {
            let mut nodes = admission.nodes();
            let node = nodes.find(|n| n.row.engine_key.as_ref().is_some_and(|k| k.public() == key));
            node.map(|node| (node.row.name.clone(), node.link))
        });
        let (name, link) = found?;
        if let Some(link) = link {
            self.door.send(link, ToNode::Drained);
        }
        Some(name)
    }

    fn links(&self) -> BTreeSet<LinkId> {
        self.door
            .with(|admission, _| admission.nodes().filter_map(|node| node.link).collect())
    }
}

/// On all addresses, IPv4 and IPv6 where the system has it.
async fn listen(network: &NetworkSettings) -> anyhow::Result<TcpListener> {
    let port = network.port;
    let listener = match network.interfaces.is_loopback_only() {
        true => TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await,
        false => match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
            Err(cause) if cause.kind() != std::io::ErrorKind::AddrInUse => {
                TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await
            }
            result => result,
        },
    };
    listener.with_context(|| {
        format!("nodes cannot join at port {port} (see `ss -ltnp`, or set network.port)")
    })
}
