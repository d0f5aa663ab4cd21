//! CURVE keys as people and connection files write them: Z85 (ZeroMQ RFC 32), 40 characters for 32
//! bytes.

use std::fmt;

use anyhow::{Context as _, bail};

use super::secret::{Redacted, Secret};

/// A public key. Knowing the controller's is what lets a client or engine in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CurvePublicKey(pub [u8; 32]);

impl CurvePublicKey {
    /// # Errors
    /// The text is not Z85 of 32 bytes.
    pub fn from_z85(text: &str) -> anyhow::Result<Self> {
        decode(text).map(Self)
    }
}

impl fmt::Display for CurvePublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&encode(&self.0))
    }
}

impl fmt::Debug for CurvePublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CurvePublicKey({self})")
    }
}

/// A server's long-term keys.
#[derive(Clone, PartialEq, Eq)]
pub struct CurveKeyPair {
    pub public: CurvePublicKey,
    pub secret: Secret<[u8; 32]>,
}

impl CurveKeyPair {
    /// A new pair.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub fn generate() -> anyhow::Result<Self> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret)
            .map_err(|e| anyhow::anyhow!("the system gives no random bytes: {e}"))?;
        Ok(Self::from_secret(secret))
    }

    #[must_use]
    pub fn from_secret(secret: [u8; 32]) -> Self {
        let public = crypto_box::SecretKey::from_bytes(secret).public_key();
        Self {
            public: CurvePublicKey(public.to_bytes()),
            secret: Secret::new(secret),
        }
    }

    /// The pair of a secret key in Z85.
    ///
    /// # Errors
    /// The text is not Z85 of 32 bytes.
    pub fn from_secret_z85(text: &str) -> anyhow::Result<Self> {
        decode(text).map(Self::from_secret)
    }
}

impl fmt::Debug for CurveKeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CurveKeyPair")
            .field("public", &self.public)
            .field("secret", &Redacted)
            .finish()
    }
}

const ALPHABET: &[u8; 85] =
    b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#";

fn encode(key: &[u8; 32]) -> String {
    let mut text = String::with_capacity(40);
    for chunk in key.chunks_exact(4) {
        let word = chunk.iter().fold(0u32, |w, b| w << 8 | u32::from(*b));
        for power in [85u32.pow(4), 85u32.pow(3), 85u32.pow(2), 85, 1] {
            text.push(char::from(ALPHABET[(word / power % 85) as usize]));
        }
    }
    text
}

/// The message never repeats the text: it may be a secret key.
fn decode(text: &str) -> anyhow::Result<[u8; 32]> {
    if text.len() != 40 {
        bail!("a CURVE key has 40 characters (Z85), not {}", text.len());
    }
    let mut key = [0; 32];
    for (five, four) in text.as_bytes().chunks_exact(5).zip(key.chunks_exact_mut(4)) {
        let mut word = 0u64;
        for c in five {
            let digit = ALPHABET.iter().position(|a| a == c);
            let digit = digit.context("a CURVE key has a character that is not Z85")?;
            word = word * 85 + digit as u64;
        }
        let word = u32::try_from(word).context("a CURVE key has digits out of range")?;
        four.copy_from_slice(&word.to_be_bytes());
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_those_of_libzmq() {
        // From the manual page of zmq_curve_keypair.
        let pair =
            CurveKeyPair::from_secret_z85("JTKVSB%%)wK0E.X)V>+}o?pNmC{O&4W4b!Ni{Lh6").unwrap();
        assert_eq!(
            pair.public.to_string(),
            "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"
        );
        assert_eq!(
            CurvePublicKey::from_z85("rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7").unwrap(),
            pair.public
        );
    }

    #[test]
    fn what_is_no_key_is_refused_without_repeating_it() {
        for text in ["", "short", "~q:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"] {
            let error = CurvePublicKey::from_z85(text).unwrap_err().to_string();
            assert!(text.is_empty() || !error.contains(text), "{error}");
        }
        assert!(
            CurvePublicKey::from_z85(&"#".repeat(40)).is_err(),
            "above 2^32"
        );
    }

    #[test]
    fn debug_output_hides_the_secret() {
        let pair = CurveKeyPair::generate().unwrap();
        assert!(format!("{pair:?}").contains("<secret>"));
    }
}
