//! The sockets a controller binds. Names follow the keys of the connection files.

/// One bound socket: what it carries, and for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Channel {
    /// Hub queries of clients, registration of engines: one port for both.
    Registration,
    /// Engines came and went (clients subscribe).
    Notification,
    /// Requests with an explicit engine, from clients.
    MuxClient,
    MuxEngine,
    /// Load-balanced requests, from clients.
    TaskClient,
    TaskEngine,
    /// One request for many engines, from clients.
    BroadcastClient,
    BroadcastEngine,
    /// Urgent requests (abort, shutdown, signals), from clients.
    ControlClient,
    ControlEngine,
    /// Output of all engines, to clients (they subscribe).
    IopubClient,
    /// Output of one engine, from its PUB socket.
    IopubEngine,
    /// Heartbeats out (engines subscribe).
    HbPing,
    /// Heartbeats back.
    HbPong,
}

/// The ZeroMQ socket types that appear in a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SocketType {
    Dealer,
    Pub,
    Router,
    Sub,
    XPub,
    XSub,
}

/// Which side of the controller a socket faces. The sides may have different CURVE keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    Client,
    Engine,
    /// `registration`, which both sides use.
    Both,
}

impl Channel {
    /// Every channel, in the order in which stock `ipcontroller` consumes `--ports`.
    pub const ALL: [Self; 14] = [
        Self::Registration,
        Self::ControlEngine,
        Self::MuxEngine,
        Self::TaskEngine,
        Self::IopubEngine,
        Self::HbPing,
        Self::HbPong,
        Self::BroadcastEngine,
        Self::ControlClient,
        Self::MuxClient,
        Self::TaskClient,
        Self::IopubClient,
        Self::Notification,
        Self::BroadcastClient,
    ];

    /// The type of the bound socket.
    #[must_use]
    pub fn socket_type(self) -> SocketType {
        match self {
            Self::Notification | Self::IopubClient | Self::HbPing => SocketType::Pub,
            Self::IopubEngine => SocketType::Sub,
            Self::Registration
            | Self::MuxClient
            | Self::MuxEngine
            | Self::TaskClient
            | Self::TaskEngine
            | Self::BroadcastClient
            | Self::BroadcastEngine
            | Self::ControlClient
            | Self::ControlEngine
            | Self::HbPong => SocketType::Router,
        }
    }

    /// The routing id that the bound socket announces; empty for none.
    ///
    /// An engine answers mux, task and broadcast through one ROUTER of its own, so these must differ
    /// from one another (PROTOCOL, "Sockets").
    #[must_use]
    pub fn routing_id(self) -> &'static str {
        match self {
            Self::MuxClient => "mux_in",
            Self::MuxEngine => "mux_out",
            Self::TaskClient => "task_in",
            Self::TaskEngine => "task_out",
            Self::BroadcastClient => "sub_scheduler_0",
            Self::BroadcastEngine => "sub_scheduler_00",
            Self::ControlClient => "control_in",
            Self::ControlEngine => "control_out",
            Self::Registration
            | Self::Notification
            | Self::IopubClient
            | Self::IopubEngine
            | Self::HbPing
            | Self::HbPong => "",
        }
    }

    #[must_use]
    pub fn side(self) -> Side {
        match self {
            Self::Registration => Side::Both,
            Self::Notification
            | Self::MuxClient
            | Self::TaskClient
            | Self::BroadcastClient
            | Self::ControlClient
            | Self::IopubClient => Side::Client,
            Self::MuxEngine
            | Self::TaskEngine
            | Self::BroadcastEngine
            | Self::ControlEngine
            | Self::IopubEngine
            | Self::HbPing
            | Self::HbPong => Side::Engine,
        }
    }

    /// A short name for logs and errors.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Registration => "registration",
            Self::Notification => "notification",
            Self::MuxClient => "mux (client side)",
            Self::MuxEngine => "mux (engine side)",
            Self::TaskClient => "task (client side)",
            Self::TaskEngine => "task (engine side)",
            Self::BroadcastClient => "broadcast (client side)",
            Self::BroadcastEngine => "broadcast (engine side)",
            Self::ControlClient => "control (client side)",
            Self::ControlEngine => "control (engine side)",
            Self::IopubClient => "iopub (client side)",
            Self::IopubEngine => "iopub (engine side)",
            Self::HbPing => "hb_ping",
            Self::HbPong => "hb_pong",
        }
    }
}
