//! CURVE keys as people give them, with errors for people.

use std::fmt;

use anyhow::Context as _;
use piparallel_core::wire::zmtp::{PublicKey, SecretKey};

use super::secret::Redacted;
use crate::random;

/// A server's long-term keys.
#[derive(Clone, PartialEq, Eq)]
pub struct CurveKeyPair {
    /// Knowing the controller's is what lets a client or engine in.
    pub public: PublicKey,
    pub secret: SecretKey,
}

impl CurveKeyPair {
    /// A new pair.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub fn generate() -> anyhow::Result<Self> {
        Ok(Self::from_secret(SecretKey::new(random::bytes()?)))
    }

    /// The pair of a secret key in Z85.
    ///
    /// # Errors
    /// The text is not Z85 of 32 bytes. The message never repeats it.
    pub fn from_secret_z85(text: &str) -> anyhow::Result<Self> {
        let secret = SecretKey::from_z85(text).with_context(|| not_a_key(text))?;
        Ok(Self::from_secret(secret))
    }

    fn from_secret(secret: SecretKey) -> Self {
        Self {
            public: secret.public(),
            secret,
        }
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

/// Reads a public key in Z85.
///
/// # Errors
/// The text is not Z85 of 32 bytes. The message does not repeat it: it may be a secret key.
pub fn public_key(text: &str) -> anyhow::Result<PublicKey> {
    PublicKey::from_z85(text).with_context(|| not_a_key(text))
}

fn not_a_key(text: &str) -> String {
    let length = text.chars().count();
    format!("a CURVE key is 40 characters of Z85; this text of {length} characters is none")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_key_is_refused_without_repeating_it() {
        for text in ["short", "~q:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"] {
            let error = public_key(text).unwrap_err().to_string();
            assert!(!error.contains(text), "{error}");
        }
    }

    #[test]
    fn debug_output_hides_the_secret() {
        let pair = CurveKeyPair::generate().unwrap();
        assert!(format!("{pair:?}").contains("<secret>"));
    }
}
