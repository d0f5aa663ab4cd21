//! The parts of a header that a controller reads, without building a tree of the rest.

use std::borrow::Cow;

use serde::Deserialize;

/// A request's or reply's header. Every field is optional on the wire; a controller that needs one
/// says so where it needs it.
#[derive(Debug, Default, Deserialize)]
pub struct Header<'a> {
    #[serde(borrow, default)]
    pub msg_id: Cow<'a, str>,
    #[serde(borrow, default)]
    pub msg_type: Cow<'a, str>,
    #[serde(borrow, default)]
    pub session: Cow<'a, str>,
    /// ISO 8601, as sent.
    #[serde(borrow, default)]
    pub date: Cow<'a, str>,
}

impl<'a> Header<'a> {
    /// Reads a header.
    ///
    /// # Errors
    /// The bytes are not a JSON object with text in these fields.
    pub fn parse(json: &'a [u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_and_unknown_ones_skipped() {
        let json = br#"{"msg_id":"a_1_2","msg_type":"apply_request","username":"u","session":"s",
            "date":"2026-01-02T03:04:05.678901Z","version":"5.4","extra":{"x":[1]}}"#;
        let h = Header::parse(json).unwrap();
        assert_eq!(
            (&*h.msg_id, &*h.msg_type, &*h.session),
            ("a_1_2", "apply_request", "s")
        );
        assert_eq!(h.date, "2026-01-02T03:04:05.678901Z");
        assert!(
            matches!(h.msg_id, Cow::Borrowed(_)),
            "no copy in the usual case"
        );
    }

    #[test]
    fn an_empty_object_has_empty_fields() {
        assert_eq!(Header::parse(b"{}").unwrap().msg_id, "");
        assert!(
            Header::parse(b"[]").is_ok_and(|h| h.msg_id.is_empty())
                || Header::parse(b"[]").is_err()
        );
        assert!(Header::parse(b"{\"msg_id\":3}").is_err());
    }
}
