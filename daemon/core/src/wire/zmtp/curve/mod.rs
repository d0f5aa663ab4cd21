//! The CURVE mechanism: an encrypted connection to a server whose public key the client knows.
//!
//! Every box is X25519, XSalsa20 and Poly1305, as in NaCl. Boxes are opened and closed in place, with
//! shared keys that are computed once per connection.

/// The exchange of keys, both ends.
mod handshake;
/// Keys, and their text form.
mod keys;
/// Boxes around the frames of an established connection.
mod session;

pub(super) use self::handshake::{Client, Server};
pub use self::keys::{PublicKey, SecretKey};
pub(super) use self::session::{OVERHEAD, Session};

use dryoc::classic::crypto_box;

use self::keys::Nonce;

/// Bytes that a box adds.
const MAC: usize = 16;

/// Bytes of chance that a connection needs, from the caller.
pub(super) const ENTROPY: usize = 96;

/// A key that both ends computed, ready for use.
struct Shared([u8; 32]);

impl Shared {
    /// `None` if `theirs` is one of the few points that give every secret away.
    fn agree(theirs: &PublicKey, ours: &SecretKey) -> Option<Self> {
        crypto_box::crypto_box_beforenm(&theirs.0, &ours.0)
            .ok()
            .map(Self)
    }

    /// Encrypts what follows the first 16 bytes of `data`, and writes the check sum there.
    fn seal(&self, nonce: &Nonce, data: &mut [u8]) {
        let Some((mac, text)) = data.split_first_chunk_mut::<MAC>() else {
            return;
        };
        crypto_box::crypto_box_detached_afternm_inplace(text, mac, nonce, &self.0);
    }

    /// Checks and decrypts what follows the check sum in place, and returns it.
    fn open<'a>(&self, nonce: &Nonce, data: &'a mut [u8]) -> Option<&'a mut [u8]> {
        let (mac, text) = data.split_first_chunk_mut::<MAC>()?;
        crypto_box::crypto_box_open_detached_afternm_inplace(text, mac, nonce, &self.0).ok()?;
        Some(text)
    }
}
