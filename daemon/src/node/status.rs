//! What the node says of itself: to the log, and to the service manager for `systemctl status`.

use sd_notify::NotifyState;

use crate::card;

/// What was said last, so that nothing is said twice.
pub(super) struct Teller {
    role: String,
    status: String,
    /// The first one of the card's file.
    mistake: Option<String>,
    /// It was in its pool, and the service manager knows.
    is_ready: bool,
}

impl Teller {
    pub(super) fn new() -> Self {
        Self {
            role: String::new(),
            status: String::new(),
            mistake: card::problems().lines().next().map(str::to_owned),
            is_ready: false,
        }
    }

    /// The log hears what the node is whenever that changes, the service manager also how many it looks after.
    pub(super) fn tell(&mut self, mut role: String, counts: Option<String>) {
        if let Some(mistake) = &self.mistake {
            role += &format!("; this card's options have a mistake: {mistake}");
        }
        let status = match counts {
            Some(counts) => format!("{role}; {counts}"),
            None => role.clone(),
        };
        if role != self.role {
            log::info!("{role}");
            self.role = role;
        }
        if status != self.status {
            super::tell_service_manager(&[NotifyState::Status(&status)]);
            self.status = status;
        }
    }

    /// The node is in its pool: the service has started.
    pub(super) fn ready(&mut self) {
        if !self.is_ready {
            super::tell_service_manager(&[NotifyState::Ready]);
            self.is_ready = true;
        }
    }
}
