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
        match Self::scan(json) {
            Some(header) => Ok(header),
            None => serde_json::from_slice(json),
        }
    }

    /// Reads what stock peers write: an object of plain texts without escapes. There are five headers
    /// in the way of a request and its reply, so this is worth having. `None`: it is something else.
    fn scan(json: &'a [u8]) -> Option<Self> {
        let mut header = Self::default();
        let mut rest = after(json, b'{')?;
        loop {
            let (key, tail) = text(rest)?;
            let (value, tail) = text(after(tail, b':')?)?;
            let field = match key {
                b"msg_id" => Some(&mut header.msg_id),
                b"msg_type" => Some(&mut header.msg_type),
                b"session" => Some(&mut header.session),
                b"date" => Some(&mut header.date),
                _ => None,
            };
            if let Some(field) = field {
                *field = Cow::Borrowed(std::str::from_utf8(value).ok()?);
            }
            match after(tail, b',') {
                Some(tail) => rest = tail,
                None => return after(tail, b'}')?.trim_ascii().is_empty().then_some(header),
            }
        }
    }
}

/// What follows `wanted`, which may have white space before it.
fn after(json: &[u8], wanted: u8) -> Option<&[u8]> {
    match json.trim_ascii_start() {
        [first, rest @ ..] if *first == wanted => Some(rest),
        _ => None,
    }
}

/// A text without escapes, and what follows it.
fn text(json: &[u8]) -> Option<(&[u8], &[u8])> {
    let start = after(json, b'"')?;
    let end = start
        .iter()
        .position(|c| matches!(c, b'"' | b'\\' | ..0x20))?;
    (start[end] == b'"').then(|| (&start[..end], &start[end + 1..]))
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
    fn an_empty_object_has_empty_fields() {
        assert_eq!(Header::parse(b"{}").unwrap().msg_id, "");
        assert!(
            Header::parse(b"[]").is_ok_and(|h| h.msg_id.is_empty())
                || Header::parse(b"[]").is_err()
        );
        assert!(Header::parse(b"{\"msg_id\":3}").is_err());
    }
}
