//! The parts of a header that a controller reads, without building a tree of the rest.

use std::borrow::Cow;
use std::ops::ControlFlow;

use serde::Deserialize;

use super::flat::{Flat, Value, members};

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
        match Self::scan(json) {
            Some(header) => Ok(header),
            None => serde_json::from_slice(json),
        }
    }

    /// Reads only the `msg_id`. What follows it is not looked at: of a parent header nothing else is
    /// wanted, and stock peers write it first.
    ///
    /// # Errors
    /// The bytes are not a JSON object with text in the fields of a header.
    pub fn msg_id_of(json: &'a [u8]) -> Result<Cow<'a, str>, serde_json::Error> {
        let mut msg_id = None;
        let _ = members(json, |key, value| match (key, value) {
            ("msg_id", Value::Text(text)) => {
                msg_id = Some(text);
                ControlFlow::Break(())
            }
            _ => ControlFlow::Continue(()),
        });
        match msg_id {
            Some(msg_id) => Ok(Cow::Borrowed(msg_id)),
            None => serde_json::from_slice(json).map(|header: Self| header.msg_id),
        }
    }

    /// Reads what stock peers write. `None`: it is something else.
    fn scan(json: &'a [u8]) -> Option<Self> {
        let mut header = Self::default();
        let mut plain = true;
        let end = members(json, |key, value| {
            let field = match key {
                "msg_id" => &mut header.msg_id,
                "msg_type" => &mut header.msg_type,
                "session" => &mut header.session,
                "date" => &mut header.date,
                _ => return ControlFlow::Continue(()),
            };
            match value {
                Value::Text(text) => *field = Cow::Borrowed(text),
                Value::Literal(_) => plain = false,
            }
            ControlFlow::Continue(())
        });
        (plain && end == Flat::Whole).then_some(header)
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
    fn what_is_not_plain_is_read_all_the_same() {
        for json in [
            r#"{"msg_id":"a","n":1}"#,
            r#" { "x" : null , "msg_id" : "a" } "#,
            r#"{"msg_id":"\u0061"}"#,
        ] {
            assert_eq!(
                Header::parse(json.as_bytes()).unwrap().msg_id,
                "a",
                "{json}"
            );
        }
        for json in [
            r#"{"msg_id":"a""#,
            r#"{"msg_id":"a"}x"#,
            "{\"msg_id\":\"a\n\"}",
            r#"{"msg_id" "a"}"#,
        ] {
            assert!(Header::parse(json.as_bytes()).is_err(), "{json}");
        }
    }

    #[test]
    fn a_parents_id_is_read_without_the_rest() {
        for json in [
            r#"{"msg_id":"a","date":"2026"}"#,
            r#"{"x":{"msg_id":"b"},"msg_id":"a"}"#,
            r#"{"msg_id":"\u0061"}"#,
        ] {
            assert_eq!(Header::msg_id_of(json.as_bytes()).unwrap(), "a", "{json}");
        }
        assert_eq!(Header::msg_id_of(b"{}").unwrap(), "");
        assert!(Header::msg_id_of(br#"{"msg_id":1}"#).is_err());
        assert!(Header::msg_id_of(br#"{"x":"y"#).is_err());
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
