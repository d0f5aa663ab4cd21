//! A controller from its settings to a clean end: lock, sockets, files, and back.

use std::future::Future;

use serde_json::{Map, Value};
use tokio::sync::Notify;

use super::bind::{Bound, bind, bind_again};
use super::claim::Claim;
use super::connection_file::{self, ConnectionFiles};
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
    _claim: Claim,
}

/// Does everything that can fail for reasons that a person can remove. The profile's directories exist.
///
/// # Errors
/// A port cannot be had, another controller runs here, or files to be reused are damaged.
pub fn prepare(mut settings: ControllerSettings) -> anyhow::Result<Prepared> {
    let claim = Claim::take(&settings)?;
    let existing = if settings.reuse {
        connection_file::read_existing(&settings)?
    } else {
        None
    };
    let bound = match &existing {
        None => bind(&settings)?,
        Some(existing) => {
            existing.apply(&mut settings)?;
            bind_again(&settings, &existing.ports, &existing.leaves)?
        }
    };
    Ok(Prepared {
        files: ConnectionFiles::new(&settings, &bound),
        settings,
        bound,
        is_continued: existing.is_some(),
        admissions: None,
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
        let mut published = Ok(());
        let given_up = Notify::new();
        let on_ready = || {
            if !self.is_continued {
                published = self.files.publish();
            }
            match published {
                Ok(()) => ready(),
                Err(_) => given_up.notify_one(),
            }
        };
        let shutdown = async {
            tokio::select! {
                () = shutdown => {}
                () = given_up.notified() => {}
            }
        };
        let keep = self.settings.reuse;
        let result = super::run(
            self.settings,
            self.bound,
            self.admissions,
            on_ready,
            shutdown,
        )
        .await;
        if !keep {
            self.files.remove();
        }
        published.and(result)
    }
}
