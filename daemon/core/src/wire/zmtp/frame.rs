//! Frame headers: one byte of flags, a length of one or eight bytes.

use super::error::Error;

pub(super) const MORE: u8 = 1;
const LONG: u8 = 2;
pub(super) const COMMAND: u8 = 4;

/// The longest header: flags and an eight-byte length.
pub(super) const HEADER_MAX: usize = 9;

/// What a frame header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) more: bool,
    pub(super) command: bool,
    /// Bytes of the body, as claimed.
    pub(super) body: u64,
    /// Bytes of the header itself.
    pub(super) size: usize,
}

impl Header {
    /// Reads a header; `None` while bytes are missing.
    pub(super) fn parse(input: &[u8]) -> Result<Option<Self>, Error> {
        let Some(&flags) = input.first() else {
            return Ok(None);
        };
        if flags > (MORE | LONG | COMMAND) || flags & (MORE | COMMAND) == MORE | COMMAND {
            return Err(Error::Flags(flags));
        }
        let (body, size) = if flags & LONG == 0 {
            match input.get(1) {
                Some(&length) => (u64::from(length), 2),
                None => return Ok(None),
            }
        } else {
            match input.get(1..HEADER_MAX).and_then(|b| b.try_into().ok()) {
                Some(length) => (u64::from_be_bytes(length), HEADER_MAX),
                None => return Ok(None),
            }
        };
        Ok(Some(Self {
            more: flags & MORE != 0,
            command: flags & COMMAND != 0,
            body,
            size,
        }))
    }
}

/// Bytes of the header that [`put_header`] writes for a body of this length.
pub(crate) fn header_size(body: usize) -> usize {
    if u8::try_from(body).is_ok() {
        2
    } else {
        HEADER_MAX
    }
}

/// Appends the header of a frame with these flags and this body length.
pub(super) fn put_header(out: &mut Vec<u8>, flags: u8, body: usize) {
    match u8::try_from(body) {
        Ok(length) => out.extend_from_slice(&[flags, length]),
        Err(_) => {
            out.push(flags | LONG);
            out.extend_from_slice(&(body as u64).to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_back_as_written() {
        for body in [0, 1, 255, 256, 65_536, 5_000_000_000] {
            for flags in [0, MORE, COMMAND] {
                let mut bytes = Vec::new();
                put_header(&mut bytes, flags, body);
                for cut in 0..bytes.len() {
                    assert_eq!(Header::parse(&bytes[..cut]), Ok(None));
                }
                let header = Header::parse(&bytes).unwrap().unwrap();
                assert_eq!(header.size, bytes.len());
                assert_eq!(header.body, body as u64);
                assert_eq!(header.more, flags == MORE);
                assert_eq!(header.command, flags == COMMAND);
            }
        }
    }

    #[test]
    fn flags_that_do_not_exist_are_refused_at_once() {
        for flags in [5, 7, 8, 0x80, 0xff] {
            assert_eq!(Header::parse(&[flags]), Err(Error::Flags(flags)));
        }
    }
}
