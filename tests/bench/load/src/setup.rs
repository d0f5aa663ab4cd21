//! Connects the fake peers, in the order in which real ones do.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

use crate::conn::{Channel, Owner};
use crate::files::Addresses;
use crate::peers::{Client, Engine};
use crate::wire::{Sender, Signer};
use crate::world::World;
use crate::zmtp;

/// What an engine connects after its registration_reply. A lean one leaves out what no scenario needs.
const ENGINE_CHANNELS: [Channel; 7] = [
    Channel::Mux,
    Channel::Task,
    Channel::HbPong,
    Channel::HbPing,
    Channel::Broadcast,
    Channel::Control,
    Channel::Iopub,
];
const LEAN_CHANNELS: usize = 4;
const CLIENT_CHANNELS: [Channel; 5] = [
    Channel::Registration,
    Channel::Notification,
    Channel::Mux,
    Channel::Task,
    Channel::Iopub,
];

impl World {
    /// Waits for the connection files, connects the first client and asks for the engines. Returns when it
    /// has answered and every socket is open; a raw broker has only the mux channel and nobody to ask.
    pub(crate) fn attach(&mut self, directory: &Path, raw: bool, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        self.addresses = loop {
            match Addresses::read(directory) {
                Ok(addresses) => break addresses,
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        };
        self.signer = Signer::new(self.addresses.key());
        if raw {
            self.add_client(&[Channel::Mux])?;
            return Ok(());
        }
        self.add_client(&CLIENT_CHANNELS)?;
        let left = deadline.saturating_duration_since(Instant::now());
        let engines = self.connection_request(left)?;
        ensure!(
            engines == 0,
            "a fresh controller says that it has {engines} engines"
        );
        let tokens: Vec<usize> = self.clients[0].tokens().collect();
        let open = |world: &mut Self| tokens.iter().all(|&token| world.net.is_open(token));
        ensure!(
            self.turn_until(limit, open)?,
            "not every socket for clients accepts connections"
        );
        Ok(())
    }

    pub(crate) fn add_client(&mut self, channels: &[Channel]) -> Result<usize> {
        let index = self.clients.len();
        self.clients.push(Client::default());
        for &channel in channels {
            let owner = Owner::Client(index);
            let token = self.net.connect(
                owner,
                channel,
                self.addresses.address(owner, channel, 0)?,
                b"",
            )?;
            let client = &mut self.clients[index];
            let slot = match channel {
                Channel::Iopub => &mut client.iopub,
                Channel::Mux => &mut client.mux,
                Channel::Notification => &mut client.notification,
                Channel::Registration => &mut client.registration,
                Channel::Task => &mut client.task,
                Channel::Broadcast | Channel::Control | Channel::HbPing | Channel::HbPong => {
                    bail!("clients here have no {channel:?} connection")
                }
            };
            *slot = Some(token);
        }
        let session = self.other_session(index as u32);
        self.clients[index].query = Some(Sender::new(&session, "connection_request", &self.signer));
        Ok(index)
    }

    pub(crate) fn wait_open(&mut self, token: usize, limit: Duration) -> Result<()> {
        ensure!(
            self.turn_until(limit, |world| world.net.is_open(token))?,
            "a connection did not open"
        );
        Ok(())
    }

    /// Asks the hub how many engines it has.
    pub(crate) fn connection_request(&mut self, limit: Duration) -> Result<usize> {
        #[derive(Deserialize)]
        struct Reply {
            engines: serde_json::Map<String, serde_json::Value>,
        }
        let token = self.clients[0]
            .registration
            .context("the first client asks no hub")?;
        self.wait_open(token, limit)?;
        self.clients[0].answer = None;
        if let (Some(out), Some(query)) = (self.net.out(token), self.clients[0].query.as_mut()) {
            query.push(out, &[], b"{}");
        }
        self.flush()?;
        let answered = self.turn_until(limit, |world| world.clients[0].answer.is_some())?;
        ensure!(answered, "no connection_reply within {} s", limit.as_secs());
        let answer = self.clients[0].answer.take().unwrap_or_default();
        let reply: Reply =
            serde_json::from_slice(&answer).context("a connection_reply is not as expected")?;
        Ok(reply.engines.len())
    }

    /// Creates an engine and sends its registration request.
    pub(crate) fn add_engine(&mut self, lean: bool) -> Result<usize> {
        let index = self.engines.len();
        let uuid = self.engine_uuid(index);
        let owner = Owner::Engine(index);
        let address = self.addresses.address(owner, Channel::Registration, 0)?;
        let token = self
            .net
            .connect(owner, Channel::Registration, address, uuid.as_bytes())?;
        self.engines.push(Engine::new(uuid, &self.signer));
        self.engines[index].registration = Some(token);
        self.engines[index].lean = lean;
        Ok(index)
    }

    /// Creates an engine that knows nothing but the mux channel of a raw broker.
    pub(crate) fn add_raw_engine(&mut self) -> Result<usize> {
        let index = self.engines.len();
        self.engines
            .push(Engine::new(self.engine_uuid(index), &self.signer));
        self.connect_channel(index, Channel::Mux)?;
        Ok(index)
    }

    /// The connections of a registered engine.
    pub(crate) fn connect_engine(&mut self, index: usize) -> Result<()> {
        let mut channels = &ENGINE_CHANNELS[..];
        if self.engines[index].lean {
            channels = &channels[..LEAN_CHANNELS];
            if let Some(token) = self.engines[index].registration.take() {
                self.net.close(token);
            }
        }
        channels
            .iter()
            .try_for_each(|&channel| self.connect_channel(index, channel))
    }

    fn connect_channel(&mut self, index: usize, channel: Channel) -> Result<()> {
        let owner = Owner::Engine(index);
        let engine = &mut self.engines[index];
        let address = self
            .addresses
            .address(owner, channel, engine.id.unwrap_or(0))?;
        let token = self
            .net
            .connect(owner, channel, address, engine.uuid.as_bytes())?;
        engine.tokens.push(token);
        match channel {
            Channel::HbPong => engine.hb_pong = Some(token),
            Channel::Iopub => engine.iopub = Some(token),
            Channel::Broadcast
            | Channel::Control
            | Channel::HbPing
            | Channel::Mux
            | Channel::Notification
            | Channel::Registration
            | Channel::Task => {}
        }
        Ok(())
    }

    /// What the kernel does with an engine's connections when its process is killed.
    pub(crate) fn break_engine(&mut self, index: usize) {
        let engine = &mut self.engines[index];
        for token in engine.tokens.drain(..).chain(engine.registration.take()) {
            self.net.close(token);
        }
    }

    /// What an engine's nanny does when the engine's process has gone.
    pub(crate) fn send_nanny(&mut self, index: usize) -> Result<()> {
        let owner = Owner::Nanny(index);
        let address = self.addresses.address(owner, Channel::Registration, 0)?;
        self.net
            .connect(owner, Channel::Registration, address, b"")
            .map(|_| ())
    }

    /// A frozen host: its connections stay, and nothing is read or sent.
    pub(crate) fn freeze_engine(&mut self, index: usize) {
        for position in 0..self.engines[index].tokens.len() {
            self.net
                .set_paused(self.engines[index].tokens[position], true);
        }
    }

    pub(crate) fn need_payload(&mut self, len: usize) {
        if self.payload.len() < len {
            self.payload = Arc::from(zmtp::payload(len));
        }
    }
}
