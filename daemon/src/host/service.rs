//! `piparallel engines`: runs engines for the node of this machine, as a user that can read none of its keys. When
//! the node starts anew, the engines go on.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::time::sleep;

use super::message::{Line, SOCKET, Wish};
use super::{Host, Setup};
use crate::signals::Signals;

/// Until the node is asked again whether it is there.
const RETRY: Duration = Duration::from_millis(500);

/// Runs until a signal. Engines start in `dir`. Must run on a `LocalRuntime`.
pub async fn run(run_dir: &Path, dir: PathBuf, signals: &mut Signals) {
    let socket = run_dir.join(SOCKET);
    let mut service = Service { dir, host: None };
    tokio::select! {
        () = service.serve(&socket) => {}
        signal = signals.next() => log::info!("received {signal}, stopping"),
    }
    if let Some((_, host)) = service.host {
        host.stop().await;
    }
}

struct Service {
    dir: PathBuf,
    host: Option<(Setup, Host)>,
}

impl Service {
    async fn serve(&mut self, socket: &Path) {
        let mut told = false;
        loop {
            match UnixStream::connect(socket).await {
                Ok(stream) => {
                    told = false;
                    log::info!("the node is there");
                    match self.obey(Line::new(stream)).await {
                        Ok(()) => log::info!("the node has ended; engines go on meanwhile"),
                        Err(cause) => {
                            log::warn!("the node is lost: {cause:#}; engines go on meanwhile")
                        }
                    }
                }
                Err(cause) if !told => {
                    told = true;
                    log::info!("waits for the node at {}: {cause}", socket.display());
                }
                Err(_) => {}
            }
            sleep(RETRY).await;
        }
    }

    /// Does what the node wishes, until it is gone.
    async fn obey(&mut self, mut line: Line) -> anyhow::Result<()> {
        loop {
            let news = async {
                match &mut self.host {
                    Some((_, host)) => host.changed().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                wish = line.read() => match wish? {
                    Some(wish) => self.grant(wish).await,
                    None => return Ok(()),
                },
                () = news => {}
            }
            if let Some((_, host)) = &self.host {
                line.write(&host.status()).await?;
            }
        }
    }

    async fn grant(&mut self, wish: Wish) {
        match (wish, &self.host) {
            (Wish::Setup(setup), Some((former, _))) if *former == setup => {}
            (Wish::Setup(setup), _) => {
                if let Some((_, host)) = self.host.take() {
                    host.stop().await;
                }
                let here = Setup {
                    // Whoever started this service has chosen both.
                    user: None,
                    dir: Some(self.dir.clone()),
                    ..setup.clone()
                };
                self.host = Some((setup, Host::start(here)));
            }
            (Wish::File(file), Some((_, host))) => host.give(file),
            (Wish::NoPool, Some((_, host))) => host.take_away(),
            (Wish::Restart, Some((_, host))) => host.restart(),
            // Without a setup there is nothing to do yet.
            (Wish::File(_) | Wish::NoPool | Wish::Restart, None) => {}
        }
    }
}
