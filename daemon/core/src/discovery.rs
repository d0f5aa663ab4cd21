//! What nodes say of themselves to everybody on the network (DNS-SD, `_piparallel._tcp.local.`).
//!
//! It is a hint: anybody can say anything. Nothing is decided by it but whom to ask; and no secret is in it.

use std::fmt;

use thiserror::Error;

use crate::ids::NodeId;
use crate::join::keys::Fingerprint;
use crate::join::opening::POOL_NAME_MAX;

/// What a node does in its pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// It would be the controller if there is none.
    Candidate,
    Controller,
    /// It belongs to a controller.
    Engine,
    /// It looks for a controller.
    Looking,
}

/// One node's announcement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    pub pool: String,
    pub part: Part,
    pub id: NodeId,
    /// For people to compare with what a console shows.
    pub fingerprint: String,
    /// Of a controller: how often the pool had changed hands when it began. Of others: of the last time
    /// that they were the controller, or 0.
    pub epoch: u64,
}

/// Why a TXT record is not an announcement.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TxtError {
    /// A value that cannot be one.
    #[error("its {0} is not one")]
    Invalid(&'static str),
    #[error("it does not tell its {0}")]
    Missing(&'static str),
    /// Another version of this record.
    #[error(
        "it announces itself in version {0} of the protocol, this program speaks version {VERSION}"
    )]
    Version(String),
}

/// Of the record. Grows when an older reader would misunderstand.
pub const VERSION: &str = "1";

const PARTS: [(Part, &str); 4] = [
    (Part::Candidate, "candidate"),
    (Part::Controller, "controller"),
    (Part::Engine, "engine"),
    (Part::Looking, "looking"),
];

impl Part {
    #[must_use]
    pub fn name(self) -> &'static str {
        PARTS
            .iter()
            .find(|(part, _)| *part == self)
            .map_or("", |(_, name)| name)
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Announcement {
    /// Keys and values of the TXT record: below 250 bytes.
    #[must_use]
    pub fn to_txt(&self) -> Vec<(String, String)> {
        let entries = [
            ("v", VERSION.to_owned()),
            ("pool", self.pool.clone()),
            ("role", self.part.name().to_owned()),
            ("id", self.id.to_string()),
            ("fp", self.fingerprint.clone()),
            ("epoch", self.epoch.to_string()),
        ];
        entries.map(|(key, value)| (key.to_owned(), value)).into()
    }

    /// Reads a TXT record. Keys that it does not know are passed over.
    ///
    /// # Errors
    /// Something is missing, or is not what it should be.
    pub fn from_txt(txt: &[(String, Vec<u8>)]) -> Result<Self, TxtError> {
        let value = |key: &'static str| {
            let entry = txt.iter().find(|(name, _)| name.eq_ignore_ascii_case(key));
            let (_, value) = entry.ok_or(TxtError::Missing(key))?;
            std::str::from_utf8(value).map_err(|_| TxtError::Invalid(key))
        };
        let version = value("v")?;
        if version != VERSION {
            let shown = version
                .chars()
                .filter(|c| c.is_ascii_alphanumeric())
                .take(8);
            return Err(TxtError::Version(shown.collect()));
        }
        let pool = value("pool")?;
        if pool.is_empty() || pool.len() > POOL_NAME_MAX || pool.chars().any(char::is_control) {
            return Err(TxtError::Invalid("pool"));
        }
        let role = value("role")?;
        let part = PARTS.iter().find(|(_, name)| *name == role);
        let fingerprint = value("fp")?;
        if !Fingerprint::is_like(fingerprint) {
            return Err(TxtError::Invalid("fp"));
        }
        Ok(Self {
            pool: pool.to_owned(),
            part: part.ok_or(TxtError::Invalid("role"))?.0,
            id: value("id")?.parse().map_err(|_| TxtError::Invalid("id"))?,
            fingerprint: fingerprint.to_owned(),
            epoch: value("epoch")?
                .parse()
                .map_err(|_| TxtError::Invalid("epoch"))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::join::keys::NodeSecret;
    use proptest::prelude::*;

    fn announcement() -> Announcement {
        let key = NodeSecret::new([1; 32]).public();
        Announcement {
            pool: "lab".into(),
            part: Part::Controller,
            id: key.id(),
            fingerprint: key.fingerprint().to_string(),
            epoch: 3,
        }
    }

    fn received(txt: Vec<(String, String)>) -> Vec<(String, Vec<u8>)> {
        txt.into_iter()
            .map(|(key, value)| (key, value.into_bytes()))
            .collect()
    }

    #[test]
    fn an_announcement_survives_the_way() {
        let sent = announcement().to_txt();
        let bytes: usize = sent
            .iter()
            .map(|(key, value)| key.len() + value.len() + 2)
            .sum();
        assert!(bytes < 250, "{bytes}");
        let mut txt = received(sent);
        txt.push(("later".into(), vec![0xff]));
        assert_eq!(Announcement::from_txt(&txt), Ok(announcement()));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let with = |key: &str, value: &[u8]| {
            let mut txt = received(announcement().to_txt());
            txt.iter_mut()
                .filter(|(name, _)| name == key)
                .for_each(|e| e.1 = value.to_vec());
            Announcement::from_txt(&txt)
        };
        assert_eq!(with("v", b"2"), Err(TxtError::Version("2".into())));
        for (key, value) in [
            ("pool", &b""[..]),
            ("pool", b"\x1b[2J"),
            ("role", b"king"),
            ("id", b"12"),
            ("epoch", b"-1"),
            ("fp", b"\x1b]0;"),
            ("id", b"\xff"),
        ] {
            assert!(
                matches!(with(key, value), Err(TxtError::Invalid(k)) if k == key),
                "{key}"
            );
        }
        assert_eq!(Announcement::from_txt(&[]), Err(TxtError::Missing("v")));
    }

    proptest! {
        #[test]
        fn no_record_is_a_panic(
            txt in prop::collection::vec(("[a-z]{0,5}", prop::collection::vec(any::<u8>(), 0..40)), 0..8),
            at in 0usize..6, byte: u8,
        ) {
            let _ = Announcement::from_txt(&txt);
            let mut txt = received(announcement().to_txt());
            if let Some(first) = txt[at].1.first_mut() {
                *first = byte;
            }
            let _ = Announcement::from_txt(&txt);
        }
    }
}
