//! The fake peers' own state: engines with the connections and templates of real ones, and clients.

use std::time::Instant;

use crate::wire::{Replies, Sender, Signer};

/// How an engine behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Replies at once.
    Answer,
    /// Keeps requests for ever, but its heart beats.
    Hold,
}

pub(crate) struct Engine {
    pub(crate) uuid: String,
    pub(crate) mode: Mode,
    /// Has only the connections without which it cannot work: the limit on open files may allow no more.
    pub(crate) lean: bool,
    pub(crate) registration: Option<usize>,
    /// Every connection but that for registration.
    pub(crate) tokens: Vec<usize>,
    pub(crate) hb_pong: Option<usize>,
    pub(crate) iopub: Option<usize>,
    /// The last ping, while it waits for `hb_pong` to open.
    pub(crate) unanswered: Option<Vec<u8>>,
    pub(crate) id: Option<u32>,
    /// Routing ids that the engine-facing sockets of the controller announced.
    pub(crate) routers: Vec<Vec<u8>>,
    pub(crate) requested: Option<Instant>,
    pub(crate) replied: Option<Instant>,
    pub(crate) notified: Option<Instant>,
    pub(crate) unregistered: Option<Instant>,
    pub(crate) replies: Replies,
    pub(crate) requests: Sender,
    pub(crate) output: Sender,
}

impl Engine {
    pub(crate) fn new(uuid: String, signer: &Signer) -> Self {
        Self {
            mode: Mode::Answer,
            lean: false,
            registration: None,
            tokens: Vec::new(),
            hb_pong: None,
            iopub: None,
            unanswered: None,
            id: None,
            routers: Vec::new(),
            requested: None,
            replied: None,
            notified: None,
            unregistered: None,
            replies: Replies::new(&uuid, signer),
            requests: Sender::new(&uuid, "registration_request", signer),
            output: Sender::new(&uuid, "stream", signer),
            uuid,
        }
    }

    /// Registered and not gone since.
    pub(crate) fn is_in(&self) -> bool {
        self.notified.is_some() && self.unregistered.is_none()
    }
}

#[derive(Default)]
pub(crate) struct Client {
    pub(crate) mux: Option<usize>,
    pub(crate) task: Option<usize>,
    pub(crate) iopub: Option<usize>,
    pub(crate) notification: Option<usize>,
    pub(crate) registration: Option<usize>,
    pub(crate) query: Option<Sender>,
    /// The content of the last reply to a query.
    pub(crate) answer: Option<Vec<u8>>,
    pub(crate) outputs: u64,
    /// The controller closed one of this client's connections, and that is no fault.
    pub(crate) dropped: bool,
    pub(crate) may_be_dropped: bool,
}

impl Client {
    pub(crate) fn tokens(&self) -> impl Iterator<Item = usize> {
        [
            self.mux,
            self.task,
            self.iopub,
            self.notification,
            self.registration,
        ]
        .into_iter()
        .flatten()
    }
}
