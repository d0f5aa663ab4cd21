//! CURVE keys. In text they are Z85, the alphabet of ZeroMQ: 40 characters.

use std::fmt;

use dryoc::classic::crypto_core;

pub(super) type Nonce = [u8; 24];

const ALPHABET: &[u8; 85] =
    b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#";

const TEXT: usize = 40;

/// The public half of a key pair: who somebody is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey(pub [u8; 32]);

/// The secret half. It has no `Debug`, so that no log shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretKey(pub(super) [u8; 32]);

impl SecretKey {
    /// 32 bytes of chance are a key.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Reads 40 characters of Z85.
    #[must_use]
    pub fn from_z85(text: &str) -> Option<Self> {
        decode(text).map(Self)
    }

    #[must_use]
    pub fn to_z85(&self) -> String {
        encode(&self.0)
    }

    #[must_use]
    pub fn public(&self) -> PublicKey {
        let mut public = [0; 32];
        crypto_core::crypto_scalarmult_base(&mut public, &self.0);
        PublicKey(public)
    }
}

impl PublicKey {
    /// Reads 40 characters of Z85.
    #[must_use]
    pub fn from_z85(text: &str) -> Option<Self> {
        decode(text).map(Self)
    }

    #[must_use]
    pub fn to_z85(&self) -> String {
        encode(&self.0)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_z85())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

fn encode(key: &[u8; 32]) -> String {
    let mut text = String::with_capacity(TEXT);
    for word in key.chunks_exact(4) {
        let value = word.iter().fold(0, |v, b| v << 8 | u32::from(*b));
        for place in [85 * 85 * 85 * 85, 85 * 85 * 85, 85 * 85, 85, 1] {
            text.push(char::from(ALPHABET[(value / place % 85) as usize]));
        }
    }
    text
}

fn decode(text: &str) -> Option<[u8; 32]> {
    if text.len() != TEXT {
        return None;
    }
    let mut key = [0; 32];
    for (word, digits) in key.chunks_exact_mut(4).zip(text.as_bytes().chunks_exact(5)) {
        let mut value = 0_u64;
        for digit in digits {
            value = value * 85 + ALPHABET.iter().position(|a| a == digit)? as u64;
        }
        word.copy_from_slice(&u32::try_from(value).ok()?.to_be_bytes());
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_the_text_that_libzmq_gives_them() {
        // The pair in the manual page of zmq_curve.
        let public = PublicKey::from_z85("Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID").unwrap();
        let secret = SecretKey::from_z85("D:)Q[IlAW!ahhC2ac:9*A}h:p?([4%wOTJ%JR%cs").unwrap();
        assert_eq!(secret.public(), public);
        assert_eq!(
            public.to_string(),
            "Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID"
        );
    }

    #[test]
    fn other_texts_are_no_keys() {
        assert_eq!(PublicKey::from_z85(""), None);
        assert_eq!(PublicKey::from_z85(&"#".repeat(40)), None);
        assert_eq!(PublicKey::from_z85(&"\"".repeat(40)), None);
    }
}
