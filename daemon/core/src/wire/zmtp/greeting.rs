//! The 64 bytes with which both ends begin.

use super::error::{Error, excerpt};

pub(super) const GREETING: usize = 64;

/// The version that we speak: 3.1 has PING, and subscriptions as commands.
const VERSION: [u8; 2] = [3, 1];
const MECHANISM: std::ops::Range<usize> = 12..32;
const AS_SERVER: usize = 32;

/// What the peer's greeting says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Greeting {
    /// The second digit of its ZMTP 3 version.
    pub(super) minor: u8,
    pub(super) mechanism: String,
    pub(super) as_server: bool,
}

/// Our greeting.
pub(super) fn greeting(mechanism: &str, as_server: bool) -> [u8; GREETING] {
    let mut bytes = [0; GREETING];
    bytes[0] = 0xff;
    bytes[9] = 0x7f;
    bytes[10..12].copy_from_slice(&VERSION);
    bytes[MECHANISM][..mechanism.len()].copy_from_slice(mechanism.as_bytes());
    bytes[AS_SERVER] = u8::from(as_server);
    bytes
}

impl Greeting {
    /// Reads a greeting; `None` while bytes are missing. What cannot become one is refused with the
    /// first byte that shows it.
    pub(super) fn parse(input: &[u8]) -> Result<Option<Self>, Error> {
        if input.first().is_some_and(|b| *b != 0xff) {
            return Err(not_zmtp(input));
        }
        // The length of the first frame of a ZMTP 1 peer stands where later versions have zeros.
        if input.get(9).is_some_and(|b| *b != 0x7f) {
            let long_identity = input[1..9].starts_with(&[0; 6]);
            return Err(if long_identity {
                Error::Version(1)
            } else {
                not_zmtp(input)
            });
        }
        if let Some(&major) = input.get(10)
            && major < 3
        {
            return Err(Error::Version(major.max(1)));
        }
        let Some(bytes) = input.get(..GREETING) else {
            return Ok(None);
        };
        let name = &bytes[MECHANISM];
        let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
        Ok(Some(Self {
            minor: if bytes[10] == 3 { bytes[11] } else { 1 },
            mechanism: excerpt(&name[..end]),
            as_server: bytes[AS_SERVER] == 1,
        }))
    }
}

fn not_zmtp(input: &[u8]) -> Error {
    const REQUESTS: [&[u8]; 6] = [b"GET", b"POS", b"HEA", b"PUT", b"OPT", b"CON"];
    let hint = if REQUESTS.iter().any(|r| input.starts_with(r)) {
        " (an HTTP request?)"
    } else if input.starts_with(&[0x16, 3]) {
        " (a TLS handshake?)"
    } else if input.starts_with(b"SSH") {
        " (an SSH client?)"
    } else {
        ""
    };
    Error::NotZmtp {
        start: excerpt(input),
        hint,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greeting_is_read_when_complete() {
        let bytes = greeting("CURVE", true);
        for cut in 0..GREETING {
            assert_eq!(Greeting::parse(&bytes[..cut]), Ok(None));
        }
        let expected = Greeting {
            minor: 1,
            mechanism: "CURVE".into(),
            as_server: true,
        };
        assert_eq!(Greeting::parse(&bytes), Ok(Some(expected)));
    }

    #[test]
    fn other_protocols_are_named() {
        let http = Greeting::parse(b"GET / HTTP/1.1\r\n\r\n").unwrap_err();
        assert!(http.to_string().contains("an HTTP request?"), "{http}");
        let tls = Greeting::parse(&[0x16, 3, 1, 2]).unwrap_err();
        assert!(tls.to_string().contains("a TLS handshake?"), "{tls}");
        let old = [0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 1, 3];
        assert_eq!(Greeting::parse(&old), Err(Error::Version(1)));
        let zmtp_1 = [0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0];
        assert_eq!(Greeting::parse(&zmtp_1), Err(Error::Version(1)));
        let noise = [0xff, 9, 9, 9, 0, 0, 0, 0, 1, 0];
        assert!(matches!(
            Greeting::parse(&noise),
            Err(Error::NotZmtp { .. })
        ));
    }
}
