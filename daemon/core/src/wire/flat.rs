//! Members of a flat JSON object, read without a parser and without memory.
//!
//! Headers and most metadata of stock peers are objects of plain texts, `true`, `false`, `null` and
//! numbers. There are five of them in the way of a request and its reply, so this is worth having.
//! Whoever meets something else here asks `serde_json`.

use std::ops::ControlFlow;

/// A member's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    /// A text without escapes.
    Text(&'a str),
    /// `true`, `false`, `null`, or what may be a number.
    Literal(&'a str),
}

/// How the reading of an object ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flat {
    /// All of it was read.
    Whole,
    /// `member` asked to stop.
    Stopped,
    /// It is not such an object, or no JSON at all.
    Not,
}

/// Hands each member to `member`, in order, until it breaks.
pub(crate) fn members<'a>(
    json: &'a [u8],
    member: impl FnMut(&'a str, Value<'a>) -> ControlFlow<()>,
) -> Flat {
    match std::str::from_utf8(json) {
        Ok(json) if !has_escapes_or_lines(json) => {
            let mut reader = Reader { json, at: 0 };
            reader.object(member).unwrap_or(Flat::Not)
        }
        _ => Flat::Not,
    }
}

struct Reader<'a> {
    json: &'a str,
    /// What is before it was read.
    at: usize,
}

impl<'a> Reader<'a> {
    fn object(
        &mut self,
        mut member: impl FnMut(&'a str, Value<'a>) -> ControlFlow<()>,
    ) -> Option<Flat> {
        self.expect(b'{')?;
        if self.next() == Some(b'}') {
            self.at += 1;
            return self.end();
        }
        loop {
            let key = self.text()?;
            self.expect(b':')?;
            if member(key, self.value()?).is_break() {
                return Some(Flat::Stopped);
            }
            if self.expect(b',').is_none() {
                self.expect(b'}')?;
                return self.end();
            }
        }
    }

    fn end(&mut self) -> Option<Flat> {
        self.next().is_none().then_some(Flat::Whole)
    }

    /// What comes next but for spaces.
    fn next(&mut self) -> Option<u8> {
        let bytes = self.json.as_bytes();
        while let Some(b' ') = bytes.get(self.at) {
            self.at += 1;
        }
        bytes.get(self.at).copied()
    }

    fn expect(&mut self, wanted: u8) -> Option<()> {
        (self.next() == Some(wanted)).then(|| self.at += 1)
    }

    fn text(&mut self) -> Option<&'a str> {
        self.expect(b'"')?;
        let rest = self.json.get(self.at..)?;
        let text = rest.get(..find_quote(rest.as_bytes())?)?;
        self.at += text.len() + 1;
        Some(text)
    }

    fn value(&mut self) -> Option<Value<'a>> {
        if self.next() == Some(b'"') {
            return self.text().map(Value::Text);
        }
        let rest = self.json.get(self.at..)?;
        let end = rest
            .bytes()
            .position(|c| !matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'+' | b'-' | b'.' | b'E'))?;
        let literal = rest.get(..end)?;
        self.at += end;
        let known = matches!(literal, "true" | "false" | "null");
        let number = literal.starts_with(|c: char| c == '-' || c.is_ascii_digit());
        (known || number).then_some(Value::Literal(literal))
    }
}

/// Where the first quote is. Eight bytes at a time: in a word, the lowest byte that the test marks is one; only those
/// above may be marked wrongly.
fn find_quote(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const HIGHEST: u64 = u64::from_le_bytes([0x80; 8]);
    let (words, rest) = bytes.as_chunks::<8>();
    for (i, word) in words.iter().enumerate() {
        let zero_if_quote = u64::from_le_bytes(*word) ^ (ONES * u64::from(b'"'));
        let found = zero_if_quote.wrapping_sub(ONES) & !zero_if_quote & HIGHEST;
        if found != 0 {
            return Some(i * 8 + found.trailing_zeros() as usize / 8);
        }
    }
    let tail = rest.iter().position(|byte| *byte == b'"');
    tail.map(|at| words.len() * 8 + at)
}

/// Whether there is a backslash or a control character. Looks at all bytes, for compilers do that many at a time.
fn has_escapes_or_lines(json: &str) -> bool {
    json.bytes()
        .fold(false, |found, byte| found | (byte < b' ') | (byte == b'\\'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(json: &str) -> (Flat, Vec<(String, String)>) {
        let mut found = Vec::new();
        let end = members(json.as_bytes(), |key, value| {
            let (Value::Text(value) | Value::Literal(value)) = value;
            found.push((key.to_owned(), value.to_owned()));
            ControlFlow::Continue(())
        });
        (end, found)
    }

    #[test]
    fn members_come_in_order() {
        let (end, found) = all(r#" { "a":"x","b" : true ,"c":-1.5e3, "d": null}  "#);
        assert_eq!(end, Flat::Whole);
        let expected = [("a", "x"), ("b", "true"), ("c", "-1.5e3"), ("d", "null")];
        assert_eq!(found, expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
        assert_eq!(all("{ }"), (Flat::Whole, vec![]));
    }

    #[test]
    fn what_is_not_flat_is_left_to_others() {
        for json in [
            "",
            "[]",
            "{",
            r#"{"a":[]}"#,
            r#"{"a":{}}"#,
            r#"{"a":"\n"}"#,
            "{\"a\":\"\n\"}",
            r#"{"a":"x"}y"#,
            r#"{"a":tru}"#,
            r#"{"a" "x"}"#,
            r#"{"a":"x",}"#,
            r#"{"a":1"#,
        ] {
            assert_eq!(all(json).0, Flat::Not, "{json}");
        }
    }

    #[test]
    fn reading_stops_when_asked() {
        let end = members(br#"{"a":"x","b":["#, |_, _| ControlFlow::Break(()));
        assert_eq!(end, Flat::Stopped);
    }

    proptest! {
        #[test]
        fn the_first_quote_is_found(bytes in prop::collection::vec(prop_oneof![Just(b'"'), Just(b'#'), any::<u8>()], 0..40)) {
            prop_assert_eq!(find_quote(&bytes), bytes.iter().position(|byte| *byte == b'"'));
        }

        #[test]
        fn it_agrees_with_the_parser(texts in prop::collection::vec("[ -~]{0,20}", 0..5)) {
            let object: serde_json::Map<_, _> = texts.iter().enumerate()
                .map(|(i, text)| (i.to_string(), text.as_str().into())).collect();
            let json = serde_json::Value::from(object.clone()).to_string();
            let (end, found) = all(&json);
            if end == Flat::Whole {
                let read: serde_json::Map<_, _> =
                    found.into_iter().map(|(k, v)| (k, v.into())).collect();
                prop_assert_eq!(read, object);
            } else {
                prop_assert!(json.contains('\\'));
            }
        }
    }
}
