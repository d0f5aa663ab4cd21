//! A laptop proves itself to a pool and gets the client's connection file.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use piparallel_core::join::keys::{Fingerprint, SharedKey};
use piparallel_core::join::message::{Hello, Kind, ToNode};
use serde_json::{Map, Value};
use tokio::time::timeout;

use super::pools::Found;
use crate::join::dialer::{Credentials, Link, LinkEvent, dial};
use crate::join::identity::{Pins, node_secret};
use crate::node::connection_files::locate;

/// What a laptop gets.
pub struct Joined {
    pub controller: SocketAddr,
    pub fingerprint: Fingerprint,
    pub file: Map<String, Value>,
}

/// The controller sends the file with its welcome.
const FILE_TIME: Duration = Duration::from_secs(10);

/// Asks the pool to be let in. If somebody has to approve it, `pending` is called with our fingerprint, and
/// this waits for so long as the caller does.
///
/// # Errors
/// Nobody answers, or the answer is no.
pub async fn join(
    found: &Found,
    key: Option<SharedKey>,
    state_dir: &Path,
    pending: impl FnOnce(Fingerprint),
) -> anyhow::Result<Joined> {
    let secret = node_secret(state_dir)?;
    let mut pins = Pins::load(state_dir)?;
    let own = secret.public().fingerprint();
    let credentials = Credentials {
        secret,
        pool: found.pool.clone(),
        key,
        pinned: pins.keys().clone(),
        hello: Hello {
            kind: Kind::Client,
            name: crate::address::host_name(),
            model: None,
            program: env!("CARGO_PKG_VERSION").to_owned(),
        },
    };
    let mut link = dial(&found.addresses, &credentials).await?;
    if link.pending {
        pending(own);
        while !matches!(next(&mut link).await?, ToNode::Welcome { .. }) {}
    }
    pins.add(link.controller)?;
    let file = timeout(FILE_TIME, file(&mut link)).await;
    let mut file = file.context("the controller sends no connection file")??;
    locate(&mut file, link.address.ip().to_canonical())?;
    let joined = Joined {
        controller: link.address,
        fingerprint: link.controller.fingerprint(),
        file,
    };
    link.leave().await;
    Ok(joined)
}

async fn file(link: &mut Link) -> anyhow::Result<Map<String, Value>> {
    loop {
        if let ToNode::ClientFile { json } = next(link).await? {
            return serde_json::from_str(&json.0)
                .context("the connection file that the controller sent is damaged");
        }
    }
}

async fn next(link: &mut Link) -> anyhow::Result<ToNode> {
    match link.next_event().await {
        LinkEvent::Message(ToNode::Refused { reason, .. } | ToNode::Closing { reason }) => {
            bail!("the controller says: {reason}")
        }
        LinkEvent::Message(message) => Ok(message),
        LinkEvent::Closed(reason) => bail!("the connection to the controller ended: {reason}"),
    }
}
