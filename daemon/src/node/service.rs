//! The loop of a node: what happens goes to the role machine, and what that decides is carried out.

use std::path::Path;
use std::time::{Duration, Instant};

use piparallel_core::discovery::{Announcement, Part};
use piparallel_core::ids::NodeId;
use piparallel_core::join::admission::{NodeState as State, NodeView};
use piparallel_core::join::keys::NodeSecret;
use piparallel_core::join::message::{Hello, Kind, RefusalKind, Report, ToController, ToNode};
use piparallel_core::role::{self, RoleMachine};
use sd_notify::NotifyState;
use tokio::time::{Interval, MissedTickBehavior, interval, sleep_until, timeout};

use super::connection_files::locate;
use super::keys::{self, JoinKey};
use super::led;
use super::member::{Member, MemberEvent};
use super::memory::RoleMemory;
use super::report::report;
use super::serving::{self, Serving, ServingEvent};
use super::status::Teller;
use super::vitals;
use crate::control::server::{Asked, Server};
use crate::discovery::{Discovery, Event as Seen, Service as Instance};
use crate::host::{Host, HostStatus};
use crate::join::dialer::{Credentials, DialError, LinkEvent};
use crate::join::identity::{self, Pins};
use crate::private::make_private_dir;
use crate::settings::node::{NodeSettings, Role};

/// A node at work.
pub(super) struct Service {
    pub(super) settings: NodeSettings,
    pub(super) secret: NodeSecret,
    pub(super) own: NodeId,
    pub(super) role: RoleMachine,
    pub(super) join_key: JoinKey,
    pub(super) pins: Pins,
    pub(super) member: Member,
    pub(super) serving: Option<Serving>,
    pub(super) host: Host,
    memory: RoleMemory,
    control: Server,
    discovery: Option<Discovery>,
    part: Part,
    started: Instant,
    reports: Interval,
    teller: Teller,
}

/// What the loop wakes up for.
enum Input {
    Asked(Asked),
    Member(MemberEvent),
    Report,
    RoleTimeout,
    Seen(Seen),
    Serving(ServingEvent),
}

/// How often the controller hears how this node is.
const REPORT_EVERY: Duration = Duration::from_secs(2);

/// Letters of the fingerprint that make the name of this instance unique, on a network with several nodes of
/// one name.
const SHORT_FINGERPRINT: usize = 9;

/// Bytes of an instance's name (RFC 6763).
const INSTANCE_MAX: usize = 63;

impl Service {
    pub(super) fn start(settings: NodeSettings) -> anyhow::Result<Self> {
        make_private_dir(&settings.state_dir)?;
        let control = Server::listen(&settings.run_dir)?;
        let secret = identity::node_secret(&settings.state_dir)?;
        let memory = RoleMemory::load(&settings.state_dir)?;
        let network = &settings.network;
        let discovery = match network.multicast {
            true => Some(Discovery::start(network.interfaces.clone())?),
            false => None,
        };
        let is_controller = settings.role == Role::Controller;
        let count = match is_controller && !settings.engines.on_controller {
            true => 0,
            false => settings.engines.count,
        };
        let key = secret.public();
        let config = role::Config {
            own: key.id(),
            pool: settings.pool.clone(),
            fingerprint: key.fingerprint().to_string(),
            wanted: match settings.role {
                Role::Auto => role::Wanted::Auto,
                Role::Controller => role::Wanted::Controller,
                Role::Engine => role::Wanted::Engine,
            },
            has_static: settings.controller.is_some(),
            memory: memory.get().clone(),
            takeover_after: settings.takeover_after,
        };
        let mut reports = interval(REPORT_EVERY);
        reports.set_missed_tick_behavior(MissedTickBehavior::Delay);
        log::info!("this node is {} ({})", settings.name, key.fingerprint());
        Ok(Self {
            join_key: JoinKey::load(&settings.state_dir, settings.join_key.clone())?,
            pins: Pins::load(&settings.state_dir)?,
            host: Host::of_node(&settings, count)?,
            own: key.id(),
            role: RoleMachine::new(Duration::ZERO, config),
            secret,
            member: Member::default(),
            serving: None,
            memory,
            control,
            discovery,
            part: Part::Looking,
            started: Instant::now(),
            reports,
            teller: Teller::new(),
            settings,
        })
    }

    /// Goes on until something ends it.
    pub(super) async fn run(&mut self) -> anyhow::Result<()> {
        loop {
            self.obey().await?;
            let input = self.next_input().await;
            self.handle(input).await?;
        }
    }

    /// Ends: what runs here is finished, as far as the time allows, and everybody is told.
    pub(super) async fn stop(mut self, hurry: impl Future<Output = ()>) {
        let drain_timeout = self.settings.engines.drain_timeout;
        if !drain_timeout.is_zero() {
            let patience = timeout(drain_timeout, self.drain());
            tokio::select! {
                in_time = patience => if in_time.is_err() {
                    log::warn!("tasks still run after the drain timeout; they are lost or run elsewhere");
                },
                () = hurry => {}
            }
        }
        self.host.stop().await;
        self.member.leave().await;
        if let Some(serving) = self.serving {
            serving.stop("the controller stops").await;
        }
        if let Some(discovery) = self.discovery {
            discovery.stop().await;
        }
    }

    /// Returns when no engine of ours is left in the pool, or there is no controller that could say so.
    async fn drain(&mut self) {
        match &self.serving {
            Some(serving) => serving.drain_own(),
            None if self.member.link().is_some() => self.member.send(ToController::Stopping),
            None => return,
        }
        loop {
            match self.next_input().await {
                Input::Member(
                    MemberEvent::Link(LinkEvent::Message(ToNode::Drained) | LinkEvent::Closed(_))
                    | MemberEvent::Failed(_),
                )
                | Input::Serving(ServingEvent::OwnDrained | ServingEvent::Ended(_)) => return,
                Input::Report => self.live(),
                Input::Asked(Asked { command, reply }) => {
                    // Whoever asked may have gone away.
                    let _ = reply.send(self.answer(command));
                }
                // Nothing else counts any more.
                Input::Member(_) | Input::RoleTimeout | Input::Seen(_) | Input::Serving(_) => {}
            }
        }
    }

    /// Tells that this loop goes on.
    fn live(&self) {
        // Whoever waits for this loop waits in vain if it does not come here any more.
        super::tell_service_manager(&[NotifyState::Watchdog]);
        self.send_report();
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    async fn next_input(&mut self) -> Input {
        let timeout = self.role.next_timeout();
        let timeout = timeout.map(|at| tokio::time::Instant::from_std(self.started + at));
        let role_timeout = async {
            match timeout {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let seen = async {
            match &mut self.discovery {
                Some(discovery) => discovery.next_event().await,
                None => std::future::pending().await,
            }
        };
        let serving = async {
            match &mut self.serving {
                Some(serving) => serving.next_event().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            asked = self.control.next_request() => Input::Asked(asked),
            event = self.member.next_event() => Input::Member(event),
            _ = self.reports.tick() => Input::Report,
            () = self.host.changed() => Input::Report,
            () = role_timeout => Input::RoleTimeout,
            event = seen => Input::Seen(event),
            event = serving => Input::Serving(event),
        }
    }

    async fn handle(&mut self, input: Input) -> anyhow::Result<()> {
        match input {
            Input::Asked(Asked { command, reply }) => {
                // Whoever asked may have gone away.
                let _ = reply.send(self.answer(command));
            }
            Input::Member(event) => self.handle_member(event),
            Input::Report => self.live(),
            Input::RoleTimeout => self.role.handle_timeout(self.now()),
            Input::Seen(event) => self.handle_seen(event),
            Input::Serving(ServingEvent::Drained(name)) => {
                log::info!("the engines of {name} have finished and left the pool");
            }
            Input::Serving(ServingEvent::OwnDrained) => self.handle_message(ToNode::Drained),
            Input::Serving(ServingEvent::Ended(result)) => {
                result?;
                log::info!("a client asked the controller to end; it starts anew");
                self.serving = None;
                if let Some(epoch) = self.role.controlling() {
                    self.serve(epoch).await?;
                }
            }
        }
        Ok(())
    }

    fn handle_seen(&mut self, event: Seen) {
        let event = match event {
            Seen::Seen(sighting) => match Announcement::from_txt(&sighting.txt) {
                Ok(announcement) => role::Event::Sighted {
                    instance: sighting.instance,
                    announcement,
                    addresses: sighting.addresses,
                },
                Err(cause) => {
                    return log::debug!("{} is passed over: {cause}", sighting.instance);
                }
            },
            Seen::Gone(instance) => role::Event::Gone { instance },
            Seen::LinksChanged => role::Event::LinksChanged,
        };
        self.role.handle_event(self.now(), event);
    }

    fn handle_member(&mut self, event: MemberEvent) {
        let event = match event {
            MemberEvent::Failed(error) => {
                log::debug!("{error}");
                role::Event::DialFailed {
                    refused: matches!(error, DialError::Refused(_)),
                    why: error.to_string(),
                }
            }
            MemberEvent::Linked { pending: true, .. } => role::Event::Pending,
            MemberEvent::Linked { epoch, .. } => return self.joined(epoch),
            MemberEvent::Link(LinkEvent::Message(ToNode::Welcome { epoch, .. })) => {
                return self.joined(epoch);
            }
            MemberEvent::Link(LinkEvent::Message(message)) => return self.handle_message(message),
            MemberEvent::Link(LinkEvent::Closed(reason)) => {
                log::info!("the connection to the controller ended: {reason}");
                role::Event::Lost
            }
        };
        self.role.handle_event(self.now(), event);
    }

    /// A controller has let this node in.
    fn joined(&mut self, epoch: u64) {
        let Some(link) = self.member.link() else {
            return;
        };
        let (controller, address) = (link.controller, link.address);
        if let Err(cause) = self.pins.add(controller) {
            log::warn!("{cause:#}");
        }
        log::info!(
            "joined the pool of {} at {address}",
            controller.fingerprint()
        );
        let event = role::Event::Joined {
            controller: controller.id(),
            epoch,
            address,
        };
        self.role.handle_event(self.now(), event);
        self.send_report();
    }

    /// What the controller says, or an operator to this node when it is the controller.
    pub(super) fn handle_message(&mut self, message: ToNode) {
        match message {
            ToNode::EngineFile { json } => {
                let controller = self.member.link().map(|l| l.address.ip().to_canonical());
                match (serde_json::from_str(&json.0), controller) {
                    (Ok(serde_json::Value::Object(mut file)), Some(controller)) => {
                        match locate(&mut file, controller) {
                            Ok(()) => self.host.give(file),
                            // It sends another file when it has one.
                            Err(cause) => log::warn!("{cause}; the engines wait until it has one"),
                        }
                    }
                    _ => {
                        log::error!("the engine's connection file is none; no engines are started")
                    }
                }
            }
            ToNode::JoinKey { key } => {
                let replaced = key.0.parse().map_err(anyhow::Error::from);
                let replaced = replaced.and_then(|key| self.join_key.replace(key));
                if let Err(cause) = replaced {
                    log::warn!("the pool's join key is not kept: {cause:#}");
                }
            }
            ToNode::Identify { seconds } => led::identify(seconds),
            ToNode::RestartEngines => self.host.restart(),
            ToNode::Refused { kind, reason } => {
                log::error!("the controller refuses this node: {reason}");
                if kind == RefusalKind::Revoked {
                    self.host.take_away();
                }
            }
            ToNode::Closing { reason } => log::info!("the controller says: {reason}"),
            ToNode::Drain => log::info!("this node is drained: it gets no more work"),
            ToNode::Drained => log::info!("all engines of this node have left the pool"),
            ToNode::Resume => log::info!("this node gets work again"),
            ToNode::Alive
            | ToNode::ClientFile { .. }
            | ToNode::Pending { .. }
            | ToNode::Welcome { .. } => {}
        }
    }

    fn send_report(&self) {
        let report = self.report();
        match &self.serving {
            Some(serving) => serving.door.with(|a, _| a.report_self(report)),
            None => self.member.send(ToController::Report(report)),
        }
    }

    /// Carries out what the role machine decided.
    async fn obey(&mut self) -> anyhow::Result<()> {
        while let Some(command) = self.role.poll_command() {
            self.memory.save(self.role.memory());
            match command {
                role::Command::Announce(announcement) => self.announce(&announcement),
                role::Command::BecomeController { epoch } => self.serve(epoch).await?,
                role::Command::Dial { addresses } => {
                    let credentials = self.credentials()?;
                    let named = self.settings.controller.clone();
                    self.member.dial(addresses, named, credentials);
                }
                role::Command::HangUp => self.member.hang_up(),
                role::Command::StepDown { to } => {
                    log::warn!(
                        "{to} is the controller of {}: this one gives way",
                        self.settings.pool
                    );
                    self.host.take_away();
                    if let Some(serving) = self.serving.take() {
                        serving.stop("another node is the controller").await;
                    }
                }
            }
        }
        self.memory.save(self.role.memory());
        self.tell_status();
        Ok(())
    }

    async fn serve(&mut self, epoch: u64) -> anyhow::Result<()> {
        let shared = serving::Shared {
            secret: self.secret.clone(),
            join_key: self.join_key.current_or_new()?,
            client_key: keys::client_key(&self.settings.state_dir)?,
        };
        let serving = Serving::start(&self.settings, shared, epoch).await?;
        self.host.give(serving.own_engine_file.clone());
        self.serving = Some(serving);
        Ok(())
    }

    fn credentials(&self) -> anyhow::Result<Credentials> {
        Ok(Credentials {
            secret: self.secret.clone(),
            pool: self.settings.pool.clone(),
            key: self.join_key.current()?,
            pinned: self.pins.keys().clone(),
            hello: Hello {
                kind: Kind::Node,
                name: self.settings.name.clone(),
                model: vitals::model(Path::new("/")),
                program: env!("CARGO_PKG_VERSION").to_owned(),
            },
        })
    }

    fn announce(&mut self, announcement: &Announcement) {
        self.part = announcement.part;
        let Some(discovery) = &mut self.discovery else {
            return;
        };
        let short = &announcement.fingerprint[..SHORT_FINGERPRINT];
        let name = &self.settings.name;
        let name = &name[..name.floor_char_boundary(INSTANCE_MAX - SHORT_FINGERPRINT - 1)];
        discovery.announce(Instance {
            instance: format!("{name} {short}"),
            host: format!("piparallel-{}", short.to_lowercase()),
            port: self.settings.network.port,
            txt: announcement.to_txt(),
        });
    }

    pub(super) fn part(&self) -> Part {
        self.part
    }

    pub(super) fn report(&self) -> Report {
        report(Path::new("/"), &self.host.status())
    }

    /// How many there are of what it looks after.
    fn counts(&self) -> String {
        let HostStatus {
            running, wanted, ..
        } = self.host.status();
        let engines = format!("engines here: {running} of {wanted}");
        match &self.serving {
            Some(serving) => {
                let nodes = serving.door.with(|admission, _| {
                    let is_joined = |n: &NodeView<'_>| n.state == State::Joined;
                    let nodes = admission.nodes().filter(is_joined);
                    nodes.filter(|n| n.row.kind == Kind::Node).count()
                });
                format!("nodes: {nodes}, {engines}")
            }
            None => engines,
        }
    }

    fn tell_status(&mut self) {
        let role = self.role.status();
        match self.part {
            Part::Controller | Part::Engine => {
                self.teller.tell(role, Some(self.counts()));
                self.teller.ready();
            }
            Part::Candidate | Part::Looking => self.teller.tell(role, None),
        }
    }
}
