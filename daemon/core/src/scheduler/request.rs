//! What a request asks of the scheduler: the routing part of its metadata.
//!
//! Everything is optional. A resubmitted task comes with `{}`; a view sends all of it, mostly empty.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// What a task asks for, read from `metadata`. The default asks for nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requirements<'a> {
    /// Tasks that must have ended before this one starts.
    pub after: Dependency<'a>,
    /// Tasks where this one must run: on the engine that ran them.
    pub follow: Dependency<'a>,
    /// How long the task may wait, counted anew whenever it is queued. `None`: for ever.
    pub timeout: Option<Duration>,
    /// Uuids of the only engines that may run the task; empty: any may.
    pub targets: Vec<Text<'a>>,
    /// How often the task may run again after a failure.
    pub retries: u32,
}

impl<'a> Requirements<'a> {
    /// Reads the metadata of a request. Unknown fields are skipped, `null` counts as absent.
    ///
    /// # Errors
    /// The metadata are no JSON object, or a field has the wrong type; the error names the place.
    pub fn parse(metadata: &'a [u8]) -> Result<Self, RequestError> {
        let fields: Fields<'a> = serde_json::from_slice(metadata)
            .map_err(|e| RequestError::Unreadable(e.to_string()))?;
        Ok(Self {
            after: fields.after.unwrap_or_default().checked("after")?,
            follow: fields.follow.unwrap_or_default().checked("follow")?,
            timeout: match fields.timeout.unwrap_or(0.0) {
                0.0 => None,
                // A negative time has passed; one beyond the range of `Duration` never does.
                seconds if seconds < 0.0 => Some(Duration::ZERO),
                seconds => Duration::try_from_secs_f64(seconds).ok(),
            },
            targets: fields.targets.unwrap_or_default(),
            retries: u32::try_from(fields.retries.unwrap_or(0).max(0)).unwrap_or(u32::MAX),
        })
    }

    /// True if any engine may run the task at once, and a failure is final or simply run again.
    pub(super) fn is_plain(&self) -> bool {
        self.after.ids.is_empty()
            && self.follow.ids.is_empty()
            && self.targets.is_empty()
            && self.timeout.is_none()
    }
}

/// A set of tasks and what must become of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dependency<'a> {
    /// `msg_id`s of load-balanced tasks. Empty: nothing is asked.
    pub ids: Vec<Text<'a>>,
    /// All of them, or is one enough.
    pub all: bool,
    /// Does a task that succeeded count.
    pub success: bool,
    /// Does a task that failed count.
    pub failure: bool,
}

impl Dependency<'_> {
    fn checked(self, field: &'static str) -> Result<Self, RequestError> {
        if self.success || self.failure {
            Ok(self)
        } else {
            Err(RequestError::NeitherOutcome(field))
        }
    }
}

impl Default for Dependency<'_> {
    fn default() -> Self {
        Self {
            ids: Vec::new(),
            all: true,
            success: true,
            failure: false,
        }
    }
}

/// Why the metadata of a request can't be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// A dependency counts neither successes nor failures, so nothing could ever meet it.
    #[error("{0:?} counts neither successes nor failures; set at least one of the two")]
    NeitherOutcome(&'static str),
    /// Not JSON, or a field of the wrong type.
    #[error(
        "the request's metadata are unreadable ({0}); after and follow are message ids, targets a \
         list of engine uuids, timeout a number of seconds, retries an integer"
    )]
    Unreadable(String),
}

/// A string of the request, borrowed unless it had escapes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Text<'a>(pub Cow<'a, str>);

impl<'a> From<&'a str> for Text<'a> {
    fn from(text: &'a str) -> Self {
        Self(Cow::Borrowed(text))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(TextVisitor)
    }
}

#[derive(Default, Deserialize)]
struct Fields<'a> {
    #[serde(borrow, default)]
    after: Option<Dependency<'a>>,
    #[serde(borrow, default)]
    follow: Option<Dependency<'a>>,
    #[serde(default)]
    timeout: Option<f64>,
    #[serde(borrow, default)]
    targets: Option<Vec<Text<'a>>>,
    #[serde(default)]
    retries: Option<i64>,
}

/// A message id, a list of them, or an object that says more.
impl<'de: 'a, 'a> Deserialize<'de> for Dependency<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DependencyVisitor)
    }
}

struct DependencyVisitor;

impl<'de> Visitor<'de> for DependencyVisitor {
    type Value = Dependency<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a message id, a list of message ids, or an object with \"dependencies\"")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(of_ids(vec![Text::from(text)]))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(of_ids(vec![Text(Cow::Owned(text.to_owned()))]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut ids = Vec::new();
        while let Some(id) = list.next_element()? {
            ids.push(id);
        }
        Ok(of_ids(ids))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut dependency = Dependency::default();
        while let Some(Text(key)) = map.next_key()? {
            match &*key {
                "dependencies" => {
                    dependency.ids = map.next_value::<Option<_>>()?.unwrap_or_default();
                }
                "all" => dependency.all = map.next_value()?,
                "success" => dependency.success = map.next_value()?,
                "failure" => dependency.failure = map.next_value()?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(dependency)
    }
}

fn of_ids(ids: Vec<Text<'_>>) -> Dependency<'_> {
    Dependency {
        ids,
        ..Dependency::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_view_sends_is_read_without_a_copy() {
        let metadata = br#"{"after":["a_1_2"],"follow":{"dependencies":["b","c"],"all":false,
            "success":false,"failure":true,"new":{"x":[1]}},"timeout":0.25,"targets":["e-1","e-2"],
            "retries":3,"label":{"deep":[null]}}"#;
        let read = Requirements::parse(metadata).unwrap();
        assert_eq!(read.after, of_ids(vec!["a_1_2".into()]));
        assert_eq!(read.follow.ids, ["b".into(), "c".into()]);
        assert!(!read.follow.all && !read.follow.success && read.follow.failure);
        assert_eq!(read.timeout, Some(Duration::from_millis(250)));
        assert_eq!(read.targets, ["e-1".into(), "e-2".into()]);
        assert_eq!(read.retries, 3);
        assert!(matches!(read.targets[0].0, Cow::Borrowed(_)));
    }

    #[test]
    fn nothing_and_null_ask_for_nothing() {
        for metadata in [
            "{}",
            r#"{"after":null,"follow":null,"timeout":null,"targets":null,"retries":null}"#,
            r#"{"after":[],"follow":{"dependencies":null},"timeout":0,"targets":[],"retries":0}"#,
            r#"{"timeout":0.0,"retries":-1}"#,
            r#"{"timeout":1e300}"#,
        ] {
            let read = Requirements::parse(metadata.as_bytes()).unwrap();
            assert_eq!(read, Requirements::default(), "{metadata}");
            assert!(read.is_plain());
        }
    }

    #[test]
    fn numbers_out_of_range_are_taken_as_far_as_they_go() {
        let read = Requirements::parse(br#"{"timeout":-2,"retries":99999999999}"#).unwrap();
        assert_eq!(
            (read.timeout, read.retries),
            (Some(Duration::ZERO), u32::MAX)
        );
    }

    #[test]
    fn one_message_id_alone_is_a_dependency() {
        let read = Requirements::parse(br#"{"after":"x","follow":"\u0079"}"#).unwrap();
        assert_eq!(read.after.ids, ["x".into()]);
        assert_eq!(read.follow.ids, ["y".into()]);
    }

    #[test]
    fn a_wrong_type_is_refused_and_the_error_says_where() {
        for metadata in [
            "",
            "[1]",
            r#"{"after":7}"#,
            r#"{"after":[7]}"#,
            r#"{"follow":{"all":1}}"#,
            r#"{"timeout":"soon"}"#,
            r#"{"timeout":NaN}"#,
            r#"{"targets":"e"}"#,
            r#"{"retries":1.5}"#,
        ] {
            let error = Requirements::parse(metadata.as_bytes()).unwrap_err();
            let RequestError::Unreadable(why) = &error else {
                panic!("{metadata}: {error}")
            };
            assert!(why.contains("line 1"), "{metadata}: {why}");
        }
        let neither = br#"{"follow":{"dependencies":["a"],"success":false}}"#;
        assert_eq!(
            Requirements::parse(neither),
            Err(RequestError::NeitherOutcome("follow"))
        );
    }
}
