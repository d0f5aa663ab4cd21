//! Commands: a name, then what belongs to it.

use bytes::{Buf, Bytes};

use super::error::{Error, excerpt};
use super::frame::{COMMAND, put_header};

/// Bytes of context that a PING may ask back.
const CONTEXT_MAX: usize = 16;

/// A command between two established peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Subscribe(Bytes),
    Cancel(Bytes),
    Ping { context: Bytes },
    Pong,
}

/// Splits a command into its name and the rest.
pub(super) fn split(body: &[u8]) -> Result<(&[u8], &[u8]), Error> {
    body.split_first()
        .and_then(|(&length, rest)| rest.split_at_checked(length.into()))
        .ok_or(Error::Malformed("command"))
}

/// Takes the rest of a handshake command if it has the expected name; an ERROR is the peer's refusal.
pub(super) fn expect<'a>(body: &'a [u8], expected: &'static str) -> Result<&'a [u8], Error> {
    let (name, rest) = split(body)?;
    if name == expected.as_bytes() {
        Ok(rest)
    } else if name == b"ERROR" {
        Err(refusal(rest))
    } else {
        Err(Error::Unexpected {
            expected,
            got: excerpt(name),
        })
    }
}

impl Command {
    /// Reads a command; `None` for one that we do not know, which the standard lets pass.
    pub(super) fn parse(mut body: Bytes) -> Result<Option<Self>, Error> {
        let (name, rest) = split(&body)?;
        let skip = 1 + name.len();
        Ok(match name {
            b"SUBSCRIBE" => {
                body.advance(skip);
                Some(Self::Subscribe(body))
            }
            b"CANCEL" => {
                body.advance(skip);
                Some(Self::Cancel(body))
            }
            b"PING" => {
                if rest.len() < 2 || rest.len() > 2 + CONTEXT_MAX {
                    return Err(Error::Malformed("PING"));
                }
                body.advance(skip + 2);
                Some(Self::Ping { context: body })
            }
            b"PONG" => Some(Self::Pong),
            b"ERROR" => return Err(refusal(rest)),
            b"READY" | b"HELLO" | b"WELCOME" | b"INITIATE" => {
                return Err(Error::Unexpected {
                    expected: "a message",
                    got: excerpt(name),
                });
            }
            _ => None,
        })
    }
}

/// Appends a command frame, in clear.
pub(super) fn put_command(out: &mut Vec<u8>, name: &str, rest: &[u8]) {
    put_header(out, COMMAND, 1 + name.len() + rest.len());
    out.push(name.len() as u8);
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(rest);
}

fn refusal(rest: &[u8]) -> Error {
    let reason = rest
        .split_first()
        .and_then(|(&length, text)| text.get(..length.into()))
        .unwrap_or_default();
    Error::PeerRefused(match reason {
        b"400" => "400: this key or user is not allowed".to_owned(),
        other => String::from_utf8_lossy(other).escape_debug().to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: &'static [u8]) -> Result<Option<Command>, Error> {
        Command::parse(Bytes::from_static(body))
    }

    #[test]
    fn commands_are_told_apart() {
        let all = Bytes::new();
        assert_eq!(parse(b"\x09SUBSCRIBE"), Ok(Some(Command::Subscribe(all))));
        let topic = Bytes::from_static(b"a.b");
        assert_eq!(parse(b"\x06CANCELa.b"), Ok(Some(Command::Cancel(topic))));
        let context = Bytes::from_static(b"ctx");
        assert_eq!(
            parse(b"\x04PING\0\x01ctx"),
            Ok(Some(Command::Ping { context }))
        );
        assert_eq!(parse(b"\x04PONGctx"), Ok(Some(Command::Pong)));
        assert_eq!(parse(b"\x03NEW"), Ok(None));
    }

    #[test]
    fn damaged_commands_are_refused() {
        assert_eq!(parse(b""), Err(Error::Malformed("command")));
        assert_eq!(parse(b"\x09PING"), Err(Error::Malformed("command")));
        assert_eq!(parse(b"\x04PING\0"), Err(Error::Malformed("PING")));
        assert!(matches!(parse(b"\x05READY"), Err(Error::Unexpected { .. })));
    }

    #[test]
    fn an_error_tells_its_reason() {
        let refused = parse(b"\x05ERROR\x04gone").unwrap_err();
        assert_eq!(refused, Error::PeerRefused("gone".into()));
        let cut = expect(b"\x05ERROR\x09go", "READY").unwrap_err();
        assert_eq!(cut, Error::PeerRefused(String::new()));
    }
}
