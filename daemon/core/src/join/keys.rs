//! Keys: of a node, and those that many share. In text they are base32 in groups of four letters, which people
//! can read out and type.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE32_NOPAD;
use dryoc::classic::crypto_core::crypto_scalarmult_base;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::ids::NodeId;

/// Why a text is not a key.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum KeyError {
    /// A character that base32 does not have.
    #[error(
        "a key consists of the letters a to z and the digits 2 to 7; dashes and spaces may separate them"
    )]
    Alphabet,
    /// Too short or too long.
    #[error("a key has 52 letters and digits, this text has {0}")]
    Length(usize),
}

/// The secret half of a node's key (X25519). It has no `Debug`, so that no log shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct NodeSecret([u8; KEY]);

/// The public half: who a node is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeKey(pub [u8; KEY]);

/// A key that opens a door to whoever has it. It has no `Debug` either.
#[derive(Clone, PartialEq, Eq)]
pub struct SharedKey([u8; KEY]);

/// The beginning of a node key's hash, for people to compare.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint([u8; FINGERPRINT]);

const KEY: usize = 32;
/// 80 bits: 16 letters. Who wants to be taken for another needs 2^80 tries, not half as many bits, because
/// the other's key is given.
const FINGERPRINT: usize = 10;
const GROUP: usize = 4;

impl NodeSecret {
    /// 32 bytes of chance are a key.
    #[must_use]
    pub fn new(bytes: [u8; KEY]) -> Self {
        Self(bytes)
    }

    #[must_use]
    pub fn public(&self) -> NodeKey {
        let mut public = [0; KEY];
        crypto_scalarmult_base(&mut public, &self.0);
        NodeKey(public)
    }

    /// For whoever stores it.
    #[must_use]
    pub fn expose(&self) -> &[u8; KEY] {
        &self.0
    }
}

impl NodeKey {
    /// The name of the node that has this key.
    #[must_use]
    pub fn id(&self) -> NodeId {
        let mut id = [0; 16];
        id.copy_from_slice(&Sha256::digest(self.0)[..16]);
        NodeId(id)
    }

    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        let mut bytes = [0; FINGERPRINT];
        bytes.copy_from_slice(&Sha256::digest(self.0)[..FINGERPRINT]);
        Fingerprint(bytes)
    }
}

impl SharedKey {
    /// 32 bytes of chance are a key.
    #[must_use]
    pub fn new(bytes: [u8; KEY]) -> Self {
        Self(bytes)
    }

    /// What goes into a handshake: a value of its own for each use, so that a key never serves two.
    pub(super) fn for_use(&self, purpose: &[u8]) -> [u8; KEY] {
        let mut hash = Sha256::new();
        hash.update(purpose);
        hash.update(self.0);
        hash.finalize().into()
    }

    /// The key as people write it.
    #[must_use]
    pub fn to_text(&self) -> String {
        grouped(&self.0)
    }
}

impl FromStr for SharedKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let letters: String = text
            .chars()
            .filter(|c| !matches!(c, '-' | ' ' | '\t' | '\r' | '\n'))
            .map(|c| c.to_ascii_uppercase())
            .collect();
        if letters.len() != BASE32_NOPAD.encode_len(KEY) {
            return Err(KeyError::Length(letters.chars().count()));
        }
        let bytes = BASE32_NOPAD.decode(letters.as_bytes());
        let bytes = bytes.map_err(|_| KeyError::Alphabet)?;
        bytes.try_into().map(Self).map_err(|_| KeyError::Alphabet)
    }
}

impl Fingerprint {
    /// Whether a text could be one.
    #[must_use]
    pub fn is_like(text: &str) -> bool {
        let letters: Vec<char> = text.chars().filter(|c| *c != '-').collect();
        letters.len() == BASE32_NOPAD.encode_len(FINGERPRINT)
            && letters.iter().all(|c| matches!(c, 'A'..='Z' | '2'..='7'))
    }

    /// Whether `text` is the beginning of it, dashes and case apart.
    #[must_use]
    pub fn starts_with(&self, text: &str) -> bool {
        let wanted: Vec<char> = text.chars().filter(|c| *c != '-').collect();
        let own = BASE32_NOPAD.encode(&self.0);
        own.len() >= wanted.len()
            && own
                .chars()
                .zip(wanted)
                .all(|(a, b)| a.eq_ignore_ascii_case(&b))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&grouped(&self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeKey({})", self.fingerprint())
    }
}

fn grouped(bytes: &[u8]) -> String {
    let text = BASE32_NOPAD.encode(bytes);
    let mut out = String::with_capacity(text.len() * 5 / GROUP);
    for (i, letter) in text.chars().enumerate() {
        if i > 0 && i % GROUP == 0 {
            out.push('-');
        }
        out.push(letter);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_key_survives_being_typed() {
        let key = SharedKey::new([7; 32]);
        let text = key.to_text();
        assert_eq!(text.len(), 52 + 12);
        for typed in [text.clone(), text.to_lowercase(), text.replace('-', " ")] {
            assert!(
                typed.parse::<SharedKey>().is_ok_and(|read| read == key),
                "{typed}"
            );
        }
        assert_eq!("abc".parse::<SharedKey>().err(), Some(KeyError::Length(3)));
        let wrong = text.replacen(|c| c != '-', "1", 1);
        assert_eq!(wrong.parse::<SharedKey>().err(), Some(KeyError::Alphabet));
        assert_eq!(
            "ä".repeat(26).parse::<SharedKey>().err(),
            Some(KeyError::Alphabet)
        );
    }

    #[test]
    fn a_node_is_known_by_its_key() {
        let (a, b) = (
            NodeSecret::new([1; 32]).public(),
            NodeSecret::new([2; 32]).public(),
        );
        assert_ne!(a.id(), b.id());
        let fingerprint = a.fingerprint();
        let text = fingerprint.to_string();
        assert_eq!(text.len(), 16 + 3);
        assert!(
            fingerprint.starts_with(&text) && fingerprint.starts_with(&text[..6].to_lowercase())
        );
        assert!(!b.fingerprint().starts_with(&text));
        assert!(!fingerprint.starts_with(&format!("{text}A")));
    }

    #[test]
    fn uses_of_a_key_have_nothing_in_common() {
        let key = SharedKey::new([7; 32]);
        assert_ne!(key.for_use(b"join"), key.for_use(b"client"));
    }
}
