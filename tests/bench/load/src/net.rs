//! All connections of all fake peers, by token, and the list of those that have something to send. A connection that
//! breaks before it is open is tried again, as libzmq does; one that breaks later stays broken and is told of.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use mio::{Interest, Registry, Token};

use crate::conn::{Channel, Conn, Owner};

/// libzmq's default for ZMQ_RECONNECT_IVL.
const RETRY_AFTER: Duration = Duration::from_millis(100);

struct Slot {
    owner: Owner,
    channel: Channel,
    address: SocketAddr,
    identity: Vec<u8>,
    conn: Option<Conn>,
}

pub(crate) struct Net {
    registry: Registry,
    slots: Vec<Slot>,
    dirty: Vec<usize>,
    retries: Vec<(Instant, usize)>,
    /// Connections tried again because they broke before they were open.
    pub(crate) retried: u32,
}

impl Net {
    pub(crate) fn new(registry: Registry) -> Self {
        Self {
            registry,
            slots: Vec::new(),
            dirty: Vec::new(),
            retries: Vec::new(),
            retried: 0,
        }
    }

    pub(crate) fn connect(
        &mut self,
        owner: Owner,
        channel: Channel,
        address: SocketAddr,
        identity: &[u8],
    ) -> Result<usize> {
        let token = self.slots.len();
        self.slots.push(Slot {
            owner,
            channel,
            address,
            identity: identity.to_vec(),
            conn: None,
        });
        self.start(token)?;
        Ok(token)
    }

    fn start(&mut self, token: usize) -> Result<()> {
        let slot = &mut self.slots[token];
        let mut conn = Conn::connect(
            slot.address,
            slot.owner.socket_type(slot.channel),
            &slot.identity,
        )?;
        self.registry
            .register(
                &mut conn.stream,
                Token(token),
                Interest::READABLE | Interest::WRITABLE,
            )
            .context("cannot watch a socket")?;
        slot.conn = Some(conn);
        Ok(())
    }

    pub(crate) fn whose(&self, token: usize) -> (Owner, Channel) {
        (self.slots[token].owner, self.slots[token].channel)
    }

    pub(crate) fn conn(&mut self, token: usize) -> Option<&mut Conn> {
        self.slots.get_mut(token)?.conn.as_mut()
    }

    pub(crate) fn is_open(&self, token: usize) -> bool {
        self.slots[token]
            .conn
            .as_ref()
            .is_some_and(|conn| conn.open)
    }

    /// The queue of a connection, which is flushed at the end of the turn. None when the connection is gone.
    pub(crate) fn out(&mut self, token: usize) -> Option<&mut Vec<u8>> {
        self.mark_dirty(token);
        Some(self.conn(token)?.out_bytes())
    }

    pub(crate) fn push_shared(&mut self, token: usize, payload: &Arc<[u8]>, len: usize) {
        if let Some(conn) = self.conn(token) {
            conn.push_shared(payload, len);
        }
    }

    pub(crate) fn mark_dirty(&mut self, token: usize) {
        if let Some(conn) = self.slots[token].conn.as_mut()
            && !conn.dirty
        {
            conn.dirty = true;
            self.dirty.push(token);
        }
    }

    /// Stops or resumes reading. After resuming, the caller has to read once: no new edge may come.
    pub(crate) fn set_paused(&mut self, token: usize, paused: bool) {
        if let Some(conn) = self.conn(token) {
            conn.paused = paused;
        }
    }

    pub(crate) fn close(&mut self, token: usize) {
        if let Some(mut conn) = self.slots[token].conn.take() {
            // The descriptor goes away with the connection, and the watch with the descriptor.
            let _ = self.registry.deregister(&mut conn.stream);
        }
    }

    /// Takes a broken connection out. True if it had been open, false if it will be tried again.
    pub(crate) fn lost(&mut self, token: usize) -> bool {
        let was_open = self.is_open(token);
        self.close(token);
        if !was_open {
            self.retried += 1;
            self.retries.push((Instant::now() + RETRY_AFTER, token));
        }
        was_open
    }

    /// Starts the connections whose time to try again has come.
    pub(crate) fn retry_due(&mut self) -> Result<()> {
        let now = Instant::now();
        while let Some(&(due, token)) = self.retries.first() {
            if due > now {
                break;
            }
            self.retries.remove(0);
            self.start(token)?;
        }
        Ok(())
    }

    /// Writes what is queued. Returns the connections that broke.
    pub(crate) fn flush(&mut self) -> Vec<usize> {
        let mut broken = Vec::new();
        for token in std::mem::take(&mut self.dirty) {
            if let Some(conn) = self.slots[token].conn.as_mut() {
                conn.dirty = false;
                if conn.flush().is_err() {
                    broken.push(token);
                }
            }
        }
        broken
    }
}
