//! A controller from its settings to a clean end: lock, sockets, files, and back.

use std::future::Future;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::{Map, Value};
use tokio::task::spawn_local;

use super::bind::{Bound, bind, bind_again};
use super::claim::Claim;
use super::connection_file::{self, ConnectionFiles};
use super::former_connections::{self, FormerConnections};
use super::run::Admissions;
use crate::settings::ControllerSettings;

/// A controller whose sockets are bound and that nobody knows of yet.
pub struct Prepared {
    settings: ControllerSettings,
    bound: Bound,
    files: ConnectionFiles,
    /// The files of an earlier controller are there and stay as they are.
    is_continued: bool,
    admissions: Option<Admissions>,
    former: FormerConnections,
    _claim: Claim,
}

/// Does everything that can fail for reasons that a person can remove. The profile's directories exist.
///
/// # Errors
/// A port cannot be had, another controller runs here, or files to be reused are damaged.
pub fn prepare(mut settings: ControllerSettings) -> anyhow::Result<Prepared> {
    let claim = Claim::take(&settings)?;
    raise_open_files();
    let existing = if settings.reuse {
        connection_file::read_existing(&settings)?
    } else {
        None
    };
    let (former, bound) = match &existing {
        None => (FormerConnections::default(), bind(&settings)?),
        Some(existing) => {
            existing.apply(&mut settings)?;
            let former = FormerConnections::take(&former_connections::path(&settings));
            let bound = bind_again(&settings, &existing.ports, &existing.leaves)?;
            (former, bound)
        }
    };
    Ok(Prepared {
        files: ConnectionFiles::new(&settings, &bound),
        settings,
        bound,
        is_continued: existing.is_some(),
        admissions: None,
        former,
        _claim: claim,
    })
}

impl Prepared {
    #[must_use]
    pub fn settings(&self) -> &ControllerSettings {
        &self.settings
    }

    /// The content of the engines' connection file.
    #[must_use]
    pub fn engine_file(&self) -> &Map<String, Value> {
        self.files.engine()
    }

    /// The content of the clients' connection file.
    #[must_use]
    pub fn client_file(&self) -> &Map<String, Value> {
        self.files.client()
    }

    /// Lets in only engines of admitted nodes, whatever the settings say.
    pub fn limit_engines(&mut self, admissions: Admissions) {
        self.admissions = Some(admissions);
    }

    /// Runs until `shutdown`, or until a client asks for the end. The connection files exist as long as
    /// the controller answers; `ready` is called once they do.
    ///
    /// # Errors
    /// The files cannot be written, or the controller cannot go on.
    pub async fn run(
        self,
        ready: impl FnOnce(),
        shutdown: impl Future<Output = ()>,
    ) -> anyhow::Result<()> {
        spawn_local(self.former.end());
        if !self.is_continued {
            self.files.publish().await?;
        }
        let keep = self.settings.reuse;
        let result = super::run(self.settings, self.bound, self.admissions, ready, shutdown).await;
        if !keep {
            self.files.remove();
        }
        result
    }
}

/// An engine has eight connections, so the usual soft limit of 1024 files ends at 120 engines.
fn raise_open_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(cause) = raised {
        log::warn!("the limit on open files stays as it is ({cause}): large pools may not fit");
    }
}
