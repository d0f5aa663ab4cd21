//! Properties of READY and INITIATE: names, and values with a four-byte length.

use bytes::Bytes;

use super::error::{Error, excerpt};
use crate::channel::SocketType;

const SOCKET_TYPE: &str = "Socket-Type";
const IDENTITY: &str = "Identity";

/// Longest routing id that ZMTP allows.
const IDENTITY_MAX: usize = 255;

/// What a peer says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Metadata {
    pub(super) socket_type: SocketType,
    pub(super) identity: Bytes,
}

/// Our properties.
pub(super) fn put_metadata(out: &mut Vec<u8>, socket_type: SocketType, identity: &[u8]) {
    put_property(out, SOCKET_TYPE, name(socket_type).as_bytes());
    if matches!(socket_type, SocketType::Dealer | SocketType::Router) {
        put_property(out, IDENTITY, identity);
    }
}

impl Metadata {
    /// Reads the peer's properties and checks that it may talk to a socket of our type. Unknown
    /// properties are passed over; names are compared without regard to case, as the standard asks.
    pub(super) fn parse(mut input: &[u8], ours: SocketType) -> Result<Self, Error> {
        const DAMAGED: Error = Error::Malformed("list of properties");
        let mut socket_type = None;
        let mut identity = Bytes::new();
        while let Some((&length, rest)) = input.split_first() {
            let (property, rest) = rest.split_at_checked(length.into()).ok_or(DAMAGED)?;
            let (length, rest) = rest.split_first_chunk().ok_or(DAMAGED)?;
            let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| DAMAGED)?;
            let (value, rest) = rest.split_at_checked(length).ok_or(DAMAGED)?;
            if property.eq_ignore_ascii_case(SOCKET_TYPE.as_bytes()) {
                socket_type = Some(partner(ours, value)?);
            } else if property.eq_ignore_ascii_case(IDENTITY.as_bytes()) {
                if value.len() > IDENTITY_MAX {
                    return Err(Error::Identity(value.len()));
                }
                identity = Bytes::copy_from_slice(value);
            }
            input = rest;
        }
        let socket_type = socket_type.ok_or(Error::Malformed("READY: no Socket-Type"))?;
        Ok(Self {
            socket_type,
            identity,
        })
    }
}

fn put_property(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.push(name.len() as u8);
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(&(value.len() as u32).to_be_bytes());
    out.extend_from_slice(value);
}

/// The peer's type, if it may talk to ours.
fn partner(ours: SocketType, theirs: &[u8]) -> Result<SocketType, Error> {
    use SocketType::{Dealer, Pub, Router, Sub, XPub, XSub};
    let partners = match ours {
        Dealer | Router => [Dealer, Router],
        Pub | XPub => [Sub, XSub],
        Sub | XSub => [Pub, XPub],
    };
    partners
        .into_iter()
        .find(|p| name(*p).as_bytes() == theirs)
        .ok_or_else(|| Error::SocketTypes {
            ours: name(ours),
            theirs: excerpt(theirs),
        })
}

/// The name of a socket type on the wire.
fn name(socket_type: SocketType) -> &'static str {
    match socket_type {
        SocketType::Dealer => "DEALER",
        SocketType::Pub => "PUB",
        SocketType::Router => "ROUTER",
        SocketType::Sub => "SUB",
        SocketType::XPub => "XPUB",
        SocketType::XSub => "XSUB",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(socket_type: SocketType, identity: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        put_metadata(&mut bytes, socket_type, identity);
        bytes
    }

    #[test]
    fn type_and_identity_arrive() {
        let bytes = sent(SocketType::Dealer, b"\0abc");
        let peer = Metadata::parse(&bytes, SocketType::Router).unwrap();
        assert_eq!(peer.socket_type, SocketType::Dealer);
        assert_eq!(peer.identity, b"\0abc".as_slice());
    }

    #[test]
    fn names_are_compared_without_case_and_unknown_ones_are_passed_over() {
        let mut bytes = Vec::new();
        put_property(&mut bytes, "X-Colour", b"red");
        put_property(&mut bytes, "socket-type", b"XPUB");
        let peer = Metadata::parse(&bytes, SocketType::Sub).unwrap();
        assert_eq!(peer.socket_type, SocketType::XPub);
    }

    #[test]
    fn only_partners_are_accepted() {
        let refused = Metadata::parse(&sent(SocketType::Sub, b""), SocketType::Router);
        let text = refused.unwrap_err().to_string();
        assert_eq!(
            text,
            "a SUB socket cannot talk to this ROUTER port: is it the wrong port?"
        );
    }

    #[test]
    fn damaged_lists_are_refused() {
        let bytes = sent(SocketType::Router, b"id");
        for cut in 0..bytes.len() {
            let whole_property = cut == 22;
            let read = Metadata::parse(&bytes[..cut], SocketType::Router);
            assert_eq!(read.is_ok(), whole_property, "cut at {cut}");
        }
        let mut long = Vec::new();
        put_property(&mut long, IDENTITY, &[1; 256]);
        let read = Metadata::parse(&long, SocketType::Router);
        assert_eq!(read, Err(Error::Identity(256)));
    }
}
