//! Message signatures: HMAC over header, parent header, metadata and content as sent, in lower-case
//! hex, and a memory of signatures seen, so that a recorded message cannot be sent again.

use std::fmt;

use bytes::Bytes;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use thiserror::Error;

/// Why a message was not accepted.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum SignatureError {
    #[error("it is not signed")]
    Missing,
    #[error("its signature does not fit the key: the sender uses another pool's connection file?")]
    Wrong,
    #[error("it was already received once (replay)")]
    Replayed,
}

/// The pool's HMAC key, ready to sign. An empty key means that nothing is signed or checked.
#[derive(Clone)]
pub struct Signer {
    /// The keyed state: cloning it saves hashing the key for each message.
    keyed: Option<Hmac<Sha256>>,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.keyed.is_some() {
            "Signer(key)"
        } else {
            "Signer(no key)"
        })
    }
}

impl Signer {
    #[must_use]
    pub fn new(key: &[u8]) -> Self {
        let keyed = (!key.is_empty()).then(|| {
            Hmac::new_from_slice(key)
                .unwrap_or_else(|_| unreachable!("HMAC takes keys of any length"))
        });
        Self { keyed }
    }

    #[must_use]
    pub fn is_keyed(&self) -> bool {
        self.keyed.is_some()
    }

    /// The signature of four parts: 64 hex digits, or nothing without a key.
    #[must_use]
    pub fn sign(&self, parts: impl IntoIterator<Item: AsRef<[u8]>>) -> Bytes {
        match self.digest(parts) {
            None => Bytes::new(),
            Some(digest) => Bytes::copy_from_slice(&to_hex(&digest)),
        }
    }

    /// Checks a signature in constant time.
    ///
    /// # Errors
    /// The signature is absent or wrong.
    pub fn verify(
        &self,
        signature: &[u8],
        parts: impl IntoIterator<Item: AsRef<[u8]>>,
    ) -> Result<Option<Digest>, SignatureError> {
        let Some(digest) = self.digest(parts) else {
            return Ok(None);
        };
        if signature.is_empty() {
            return Err(SignatureError::Missing);
        }
        let signature: &[u8; 64] = signature.try_into().map_err(|_| SignatureError::Wrong)?;
        let differ = signature
            .iter()
            .zip(&to_hex(&digest))
            .fold(0, |differ, (a, b)| differ | (a ^ b));
        match differ {
            0 => Ok(Some(digest)),
            _ => Err(SignatureError::Wrong),
        }
    }

    fn digest(&self, parts: impl IntoIterator<Item: AsRef<[u8]>>) -> Option<Digest> {
        let mut mac = self.keyed.clone()?;
        for part in parts {
            mac.update(part.as_ref());
        }
        Some(mac.finalize().into_bytes().into())
    }
}

type Digest = [u8; 32];

/// Lower-case hex. Reckoned rather than looked up: compilers do that for many digits at a time.
fn to_hex(digest: &Digest) -> [u8; 64] {
    let digit = |n: u8| n + if n < 10 { b'0' } else { b'a' - 10 };
    let mut hex = [0; 64];
    for (pair, byte) in hex.as_chunks_mut::<2>().0.iter_mut().zip(digest) {
        *pair = [digit(byte >> 4), digit(byte & 15)];
    }
    hex
}

/// The signatures seen lately: eight bytes of each digest, in one of many short queues that the
/// digest itself chooses. A look-up touches two cache lines, and nothing is ever moved or allocated.
///
/// A signature is forgotten when `PER_BUCKET` later ones have fallen into its bucket: after as many
/// others as a quarter of all places that is the fate of five in a million, after half of them of eight
/// in a thousand.
#[derive(Debug)]
pub struct ReplayGuard {
    /// Buckets one after another, each with its newest signature first. 0 is a free place.
    seen: Vec<u64>,
}

/// Signatures in a bucket: two cache lines.
const PER_BUCKET: usize = 16;

impl ReplayGuard {
    /// A guard with this many places, rounded up to whole buckets.
    #[must_use]
    pub fn new(places: usize) -> Self {
        Self {
            seen: vec![0; places.next_multiple_of(PER_BUCKET).max(PER_BUCKET)],
        }
    }

    /// Notes a signature that was verified.
    ///
    /// # Errors
    /// It was seen before.
    pub fn admit(&mut self, digest: &Digest) -> Result<(), SignatureError> {
        let (words, _) = digest.as_chunks::<8>();
        let (choice, mark) = (u64::from_le_bytes(words[0]), u64::from_le_bytes(words[1]));
        let mark = mark.max(1);
        let buckets = self.seen.len() / PER_BUCKET;
        let start = (choice % buckets as u64) as usize * PER_BUCKET;
        let bucket = &mut self.seen[start..start + PER_BUCKET];
        if bucket.contains(&mark) {
            return Err(SignatureError::Replayed);
        }
        bucket.copy_within(..PER_BUCKET - 1, 1);
        bucket[0] = mark;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts() -> Vec<Bytes> {
        ["{}", "{}", "{}", "{}"].map(Bytes::from).to_vec()
    }

    #[test]
    fn signature_is_that_of_jupyter_client() {
        // python: hmac.new(b"abc", b"{}{}{}{}", "sha256").hexdigest()
        let expected = "54a236e324af779ef6ce43d28c10103857496f5ecb68ab1b8c6446eb1d314645";
        let signer = Signer::new(b"abc");
        assert_eq!(signer.sign(parts()), expected);
        assert!(signer.verify(expected.as_bytes(), parts()).is_ok());
    }

    #[test]
    fn wrong_and_missing_signatures_differ() {
        let signer = Signer::new(b"abc");
        let other = Signer::new(b"abd").sign(parts());
        assert_eq!(signer.verify(&other, parts()), Err(SignatureError::Wrong));
        assert_eq!(signer.verify(b"short", parts()), Err(SignatureError::Wrong));
        assert_eq!(signer.verify(b"", parts()), Err(SignatureError::Missing));
    }

    #[test]
    fn without_a_key_nothing_is_signed_or_refused() {
        let signer = Signer::new(b"");
        assert_eq!(signer.sign(parts()), "");
        assert_eq!(signer.verify(b"anything", parts()), Ok(None));
    }

    #[test]
    fn a_replay_is_refused_until_it_is_forgotten() {
        let mut guard = ReplayGuard::new(1);
        let digest = |n: u8| [n; 32];
        for n in 0..16 {
            assert_eq!(guard.admit(&digest(n)), Ok(()));
        }
        for n in 0..16 {
            assert_eq!(guard.admit(&digest(n)), Err(SignatureError::Replayed));
        }
        assert_eq!(guard.admit(&digest(16)), Ok(()));
        assert_eq!(guard.admit(&digest(0)), Ok(()), "its place was needed");
        assert_eq!(guard.admit(&digest(2)), Err(SignatureError::Replayed));
    }

    #[test]
    fn signatures_are_remembered_for_long() {
        let mut guard = ReplayGuard::new(1 << 12);
        let signer = Signer::new(b"key");
        let digest = |n: usize| {
            let part = Bytes::from(n.to_string());
            signer.digest(&[part]).unwrap()
        };
        for n in 0..1 << 10 {
            assert_eq!(guard.admit(&digest(n)), Ok(()));
        }
        for n in 0..1 << 10 {
            assert_eq!(guard.admit(&digest(n)), Err(SignatureError::Replayed));
        }
    }
}
