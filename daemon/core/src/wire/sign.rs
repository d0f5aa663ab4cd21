//! Message signatures: HMAC over header, parent header, metadata and content as sent, in lower-case
//! hex, and a memory of signatures seen, so that a recorded message cannot be sent again.

use std::collections::VecDeque;
use std::fmt;

use bytes::Bytes;
use foldhash::{HashSet, HashSetExt as _};
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
    pub fn sign(&self, parts: &[Bytes]) -> Bytes {
        match self.digest(parts) {
            None => Bytes::new(),
            Some(digest) => Bytes::from(to_hex(&digest)),
        }
    }

    /// Checks a signature in constant time.
    ///
    /// # Errors
    /// The signature is absent or wrong.
    pub fn verify(
        &self,
        signature: &[u8],
        parts: &[Bytes],
    ) -> Result<Option<Digest>, SignatureError> {
        let Some(digest) = self.digest(parts) else {
            return Ok(None);
        };
        if signature.is_empty() {
            return Err(SignatureError::Missing);
        }
        let expected = to_hex(&digest);
        if signature.len() != expected.len() {
            return Err(SignatureError::Wrong);
        }
        let difference = signature
            .iter()
            .zip(&expected)
            .fold(0, |d, (a, b)| d | (a ^ b));
        if difference == 0 {
            Ok(Some(digest))
        } else {
            Err(SignatureError::Wrong)
        }
    }

    fn digest(&self, parts: &[Bytes]) -> Option<Digest> {
        let mut mac = self.keyed.clone()?;
        for part in parts {
            mac.update(part);
        }
        Some(mac.finalize().into_bytes().into())
    }
}

type Digest = [u8; 32];

fn to_hex(digest: &Digest) -> Vec<u8> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    digest
        .iter()
        .flat_map(|b| [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]])
        .collect()
}

/// The signatures seen lately.
///
/// Stock peers remember 65536 signatures; so do we, the first half of each digest, in the order in
/// which they came.
#[derive(Debug)]
pub struct ReplayGuard {
    seen: HashSet<u128>,
    order: VecDeque<u128>,
    capacity: usize,
}

impl ReplayGuard {
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            seen: HashSet::new(),
            order: VecDeque::new(),
            capacity,
        }
    }

    /// Signatures that are remembered.
    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    /// Notes a signature that was verified.
    ///
    /// # Errors
    /// It was seen before.
    pub fn admit(&mut self, digest: &Digest) -> Result<(), SignatureError> {
        let mut half = [0; 16];
        half.copy_from_slice(&digest[..16]);
        let half = u128::from_le_bytes(half);
        if !self.seen.insert(half) {
            return Err(SignatureError::Replayed);
        }
        if self.order.len() == self.capacity
            && let Some(oldest) = self.order.pop_front()
        {
            self.seen.remove(&oldest);
        }
        self.order.push_back(half);
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
        assert_eq!(signer.sign(&parts()), expected);
        assert!(signer.verify(expected.as_bytes(), &parts()).is_ok());
    }

    #[test]
    fn wrong_and_missing_signatures_differ() {
        let signer = Signer::new(b"abc");
        let other = Signer::new(b"abd").sign(&parts());
        assert_eq!(signer.verify(&other, &parts()), Err(SignatureError::Wrong));
        assert_eq!(
            signer.verify(b"short", &parts()),
            Err(SignatureError::Wrong)
        );
        assert_eq!(signer.verify(b"", &parts()), Err(SignatureError::Missing));
    }

    #[test]
    fn without_a_key_nothing_is_signed_or_refused() {
        let signer = Signer::new(b"");
        assert_eq!(signer.sign(&parts()), "");
        assert_eq!(signer.verify(b"anything", &parts()), Ok(None));
    }

    #[test]
    fn a_replay_is_refused_until_it_is_forgotten() {
        let mut guard = ReplayGuard::new(2);
        let digest = |n: u8| [n; 32];
        assert_eq!(guard.admit(&digest(1)), Ok(()));
        assert_eq!(guard.admit(&digest(1)), Err(SignatureError::Replayed));
        assert_eq!(guard.admit(&digest(2)), Ok(()));
        assert_eq!(guard.admit(&digest(3)), Ok(()));
        assert_eq!(
            guard.admit(&digest(1)),
            Ok(()),
            "forgotten after two others"
        );
    }
}
