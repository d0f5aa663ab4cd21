//! The connection files, as far as these peers need them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use crate::conn::{Channel, Owner};

#[derive(Deserialize, Default)]
#[serde(default)]
struct File {
    interface: String,
    key: String,
    curve_serverkey: Option<String>,
    broadcast: Leaves,
    control: u16,
    hb_ping: u16,
    hb_pong: u16,
    iopub: u16,
    mux: u16,
    notification: u16,
    registration: u16,
    task: u16,
}

/// One port in the client file, a list in the engine file.
#[derive(Deserialize)]
#[serde(untagged)]
enum Leaves {
    Many(Vec<u16>),
    One(u16),
}

impl Default for Leaves {
    fn default() -> Self {
        Self::One(0)
    }
}

/// Where everything is. Ports that a raw broker does not have are zero.
#[derive(Default)]
pub(crate) struct Addresses {
    client: File,
    engine: File,
}

impl Addresses {
    /// Reads both files of a profile's security directory.
    pub(crate) fn read(directory: &Path) -> Result<Self> {
        let client = read(&directory.join("ipcontroller-client.json"))?;
        let engine = read(&directory.join("ipcontroller-engine.json"))?;
        Ok(Self { client, engine })
    }

    pub(crate) fn key(&self) -> &str {
        &self.client.key
    }

    /// The address of a channel for this peer. Engines use the leaf that their id selects.
    pub(crate) fn address(&self, owner: Owner, channel: Channel, id: u32) -> Result<SocketAddr> {
        let file = if matches!(owner, Owner::Client(_)) {
            &self.client
        } else {
            &self.engine
        };
        let port = match channel {
            Channel::Broadcast => match &file.broadcast {
                Leaves::One(port) => *port,
                Leaves::Many(ports) => ports
                    .get(id as usize % ports.len().max(1))
                    .copied()
                    .unwrap_or(0),
            },
            Channel::Control => file.control,
            Channel::HbPing => file.hb_ping,
            Channel::HbPong => file.hb_pong,
            Channel::Iopub => file.iopub,
            Channel::Mux => file.mux,
            Channel::Notification => file.notification,
            Channel::Registration => file.registration,
            Channel::Task => file.task,
        };
        ensure!(port != 0, "the connection file has no {channel:?} port");
        let host = file.interface.trim_start_matches("tcp://");
        let ip = host.parse().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        Ok(SocketAddr::new(
            if ip.is_unspecified() {
                Ipv4Addr::LOCALHOST.into()
            } else {
                ip
            },
            port,
        ))
    }
}

fn read(path: &Path) -> Result<File> {
    let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let file: File = serde_json::from_slice(&text)
        .with_context(|| format!("{} is not complete", path.display()))?;
    ensure!(
        file.curve_serverkey.is_none(),
        "this controller uses CURVE, which the load generator does not speak"
    );
    Ok(file)
}
