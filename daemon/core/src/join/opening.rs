//! The first bytes of a connection, in the clear: what protocol this is, which pool is wanted, and by which
//! way. They are part of the handshake's prologue, so nobody can change them on the way.

use thiserror::Error;

/// The way in. See the table in [`crate::join`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mode {
    ClientKey,
    JoinKey,
    Known,
    Pair,
}

/// What the side that connects begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    pub mode: Mode,
    pub pool: String,
}

/// Why the first bytes are not an opening.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum OpeningError {
    /// Somebody else's protocol.
    #[error("it does not speak this protocol")]
    Magic,
    /// A mode that this version does not have.
    #[error("it wants to join in a way that this version does not know")]
    Mode,
    /// No name of a pool.
    #[error("the name of the pool it wants is not one")]
    Pool,
    /// Another version.
    #[error(
        "it speaks version {0} of the protocol, this program version {VERSION}: update the older one"
    )]
    Version(u8),
}

/// Of the protocol. Grows when an older peer would misunderstand.
pub const VERSION: u8 = 1;

const MAGIC: &[u8; 10] = b"piparallel";
/// Magic, version, mode, length of the name.
const FIXED: usize = MAGIC.len() + 3;
/// Bytes of a pool's name: one DNS label.
pub const POOL_NAME_MAX: usize = 63;

const MODES: [(u8, Mode); 4] = [
    (b'C', Mode::ClientKey),
    (b'J', Mode::JoinKey),
    (b'K', Mode::Known),
    (b'P', Mode::Pair),
];

impl Mode {
    /// Whether a shared key is part of the handshake.
    #[must_use]
    pub fn needs_key(self) -> bool {
        matches!(self, Self::ClientKey | Self::JoinKey)
    }

    /// What a shared key is used for in this mode.
    pub(super) fn purpose(self) -> &'static [u8] {
        match self {
            Self::ClientKey => b"piparallel client key",
            Self::JoinKey => b"piparallel join key",
            Self::Known | Self::Pair => b"",
        }
    }
}

impl Opening {
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mode = MODES.iter().find(|(_, mode)| *mode == self.mode);
        let pool = &self.pool.as_bytes()[..self.pool.len().min(POOL_NAME_MAX)];
        let mut bytes = MAGIC.to_vec();
        bytes.extend([
            VERSION,
            mode.map_or(0, |(letter, _)| *letter),
            pool.len() as u8,
        ]);
        bytes.extend_from_slice(pool);
        bytes
    }

    /// Reads an opening, and says how long it is. `None` while bytes are missing.
    ///
    /// # Errors
    /// The bytes are not the beginning of one.
    pub fn parse(input: &[u8]) -> Result<Option<(Self, usize)>, OpeningError> {
        let seen = input.len().min(MAGIC.len());
        if input[..seen] != MAGIC[..seen] {
            return Err(OpeningError::Magic);
        }
        let Some(&[version, mode, length]) = input.get(MAGIC.len()..FIXED) else {
            return Ok(None);
        };
        if version != VERSION {
            return Err(OpeningError::Version(version));
        }
        let mode = MODES.iter().find(|(letter, _)| *letter == mode);
        let mode = mode.ok_or(OpeningError::Mode)?.1;
        let end = FIXED + usize::from(length);
        if usize::from(length) > POOL_NAME_MAX {
            return Err(OpeningError::Pool);
        }
        let Some(pool) = input.get(FIXED..end) else {
            return Ok(None);
        };
        let pool = std::str::from_utf8(pool).map_err(|_| OpeningError::Pool)?;
        if pool.is_empty() || pool.chars().any(char::is_control) {
            return Err(OpeningError::Pool);
        }
        let pool = pool.to_owned();
        Ok(Some((Self { mode, pool }, end)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_opening_is_read_as_soon_as_it_is_whole() {
        for (_, mode) in MODES {
            let opening = Opening {
                mode,
                pool: "lab".into(),
            };
            let bytes = opening.encode();
            for cut in 0..bytes.len() {
                assert_eq!(Opening::parse(&bytes[..cut]), Ok(None));
            }
            let longer = [&bytes[..], b"more"].concat();
            assert_eq!(Opening::parse(&longer), Ok(Some((opening, bytes.len()))));
        }
    }

    #[test]
    fn other_bytes_are_refused_at_once() {
        assert_eq!(Opening::parse(b"GET /"), Err(OpeningError::Magic));
        assert_eq!(
            Opening::parse(b"piparallel\x02KK"),
            Err(OpeningError::Version(2))
        );
        assert_eq!(
            Opening::parse(b"piparallel\x01X\x01"),
            Err(OpeningError::Mode)
        );
        assert_eq!(
            Opening::parse(b"piparallel\x01K\xff"),
            Err(OpeningError::Pool)
        );
        assert_eq!(
            Opening::parse(b"piparallel\x01K\x00"),
            Err(OpeningError::Pool)
        );
        assert_eq!(
            Opening::parse(b"piparallel\x01K\x01\x07"),
            Err(OpeningError::Pool)
        );
    }
}
