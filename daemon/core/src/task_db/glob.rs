//! File name patterns, as Python's `fnmatch` reads them on Unix: `*`, `?`, `[abc]`, `[a-z]`, `[!abc]`.
//! A bracket that is not closed stands for itself.

use crate::limits::GLOB_PATTERN_MAX;

/// A pattern that a whole text must fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    tokens: Vec<Token>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// Any text, also none.
    Any,
    Char(char),
    /// One character in (or, when negated, in none of) these ranges.
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
    /// Any one character.
    One,
}

impl Glob {
    /// Reads a pattern.
    ///
    /// # Errors
    /// It is too long; the text says what is expected.
    pub fn parse(pattern: &str) -> Result<Self, &'static str> {
        let chars: Vec<char> = pattern.chars().take(GLOB_PATTERN_MAX + 1).collect();
        if chars.len() > GLOB_PATTERN_MAX {
            return Err("a pattern of at most 256 characters");
        }
        let mut tokens = Vec::new();
        let mut at = 0;
        while let Some(&c) = chars.get(at) {
            at += 1;
            let token = match c {
                '*' if tokens.last() == Some(&Token::Any) => continue,
                '*' => Token::Any,
                '?' => Token::One,
                '[' => match class(&chars[at..]) {
                    Some((token, length)) => {
                        at += length;
                        token
                    }
                    None => Token::Char('['),
                },
                c => Token::Char(c),
            };
            tokens.push(token);
        }
        Ok(Self { tokens })
    }

    /// The pattern in the syntax of SQLite's GLOB, or one that fits more texts where SQLite has no way
    /// to say the same.
    #[must_use]
    pub fn to_sqlite(&self) -> String {
        self.tokens.iter().map(Token::to_sqlite).collect()
    }

    /// Whether all of `text` fits. Costs at most pattern times text: only the last `*` is ever moved.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        let (mut token, mut rest) = (0, text);
        let mut retry: Option<(usize, &str)> = None;
        loop {
            let mut chars = rest.chars();
            match (self.tokens.get(token), chars.next()) {
                (None, None) => return true,
                (Some(Token::Any), _) => {
                    token += 1;
                    retry = Some((token, rest));
                }
                (Some(one), Some(c)) if one.takes(c) => {
                    token += 1;
                    rest = chars.as_str();
                }
                _ => {
                    let Some((after_any, from)) = retry else {
                        return false;
                    };
                    let mut chars = from.chars();
                    if chars.next().is_none() {
                        return false;
                    }
                    (token, rest) = (after_any, chars.as_str());
                    retry = Some((token, rest));
                }
            }
        }
    }
}

impl Token {
    fn takes(&self, c: char) -> bool {
        match self {
            Self::Any => false,
            Self::Char(own) => *own == c,
            Self::Class { negated, ranges } => {
                ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated
            }
            Self::One => true,
        }
    }

    fn to_sqlite(&self) -> String {
        match self {
            Self::Any => "*".to_owned(),
            // A text ends at its first NUL for GLOB.
            Self::Char('\0') => "*".to_owned(),
            Self::Char(c @ ('*' | '?' | '[')) => format!("[{c}]"),
            Self::Char(c) => c.to_string(),
            Self::Class { .. } | Self::One => "?".to_owned(),
        }
    }
}

/// Reads what follows `[`; the class and its length with the closing bracket.
fn class(chars: &[char]) -> Option<(Token, usize)> {
    let negated = chars.first() == Some(&'!');
    let start = usize::from(negated);
    // A bracket in the first place is a member.
    let end = (start + 1..chars.len()).find(|at| chars[*at] == ']')?;
    let mut members = &chars[start..end];
    let mut ranges = Vec::new();
    while let Some((&low, rest)) = members.split_first() {
        if let ['-', high, after @ ..] = rest {
            ranges.push((low, *high));
            members = after;
        } else {
            ranges.push((low, low));
            members = rest;
        }
    }
    Some((Token::Class { negated, ranges }, end + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fits(pattern: &str, text: &str) -> bool {
        Glob::parse(pattern).unwrap().matches(text)
    }

    #[test]
    fn patterns_of_the_stock_suite() {
        assert!(fits("group_a*", "group_a/subgroup_b"));
        assert!(fits("group_a/subgroup_?", "group_a/subgroup_a"));
        assert!(!fits("group_b", "group_b/subgroup_a"));
        assert!(fits("group_b/subgroup_[ab]", "group_b/subgroup_b"));
        assert!(!fits("group_b/subgroup_[ab]", "group_b/subgroup_c"));
        assert!(fits("*/subgroup_a", "group_a/subgroup_a"));
        assert!(fits("*[*]*", "label*task"));
        assert!(!fits("*[*]*", "label?task"));
        assert!(fits("*[?]*", "label?task"));
    }

    #[test]
    fn classes_as_in_fnmatch() {
        assert!(fits("[!a-c]", "d") && !fits("[!a-c]", "b"));
        assert!(fits("[]x]", "]") && fits("[!]]", "x"));
        assert!(fits("[^a]", "^") && !fits("[^a]", "b"));
        assert!(fits("[a-]", "-"));
        assert!(fits("[ab", "[ab") && fits("[", "["));
        assert!(!fits("[z-a]", "m"));
    }

    #[test]
    fn stars_are_moved_as_far_as_needed() {
        assert!(fits("*ab*ab", "abxabab"));
        assert!(!fits("*ab*ab", "abxaba"));
        assert!(fits("", "") && !fits("", "x") && fits("**", ""));
        assert!(!fits("?", "") && fits("?", "é"));
    }

    #[test]
    fn a_long_pattern_is_refused() {
        assert!(Glob::parse(&"?".repeat(GLOB_PATTERN_MAX)).is_ok());
        assert!(Glob::parse(&"?".repeat(GLOB_PATTERN_MAX + 1)).is_err());
    }

    /// The definition, by recursion.
    fn naive(pattern: &[u8], text: &[u8]) -> bool {
        match pattern {
            [] => text.is_empty(),
            [b'*', rest @ ..] => (0..=text.len()).any(|n| naive(rest, &text[n..])),
            [b'?', rest @ ..] => !text.is_empty() && naive(rest, &text[1..]),
            [c, rest @ ..] => text.first() == Some(c) && naive(rest, &text[1..]),
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(pattern in "[ab*?]{0,7}", text in "[ab]{0,9}") {
            prop_assert_eq!(fits(&pattern, &text), naive(pattern.as_bytes(), text.as_bytes()));
        }
    }
}
