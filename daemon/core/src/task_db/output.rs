//! What a task printed, showed and raised, from the messages on iopub.

use std::borrow::Cow;

use serde::Deserialize;

use crate::limits::{OUTPUT_TEXT_MAX, OUTPUT_VALUE_MAX};

/// One message of output, reduced to what is recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Content of an `error` message, JSON as received.
    Error(Box<[u8]>),
    /// The code that runs.
    ExecuteInput(String),
    /// Content of an `execute_result` message, JSON as received.
    ExecuteResult(Box<[u8]>),
    Stderr(String),
    Stdout(String),
}

/// All output of one task. Each piece is bounded; a text that was cut says so itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outputs {
    pub stdout: String,
    pub stderr: String,
    pub execute_input: Option<String>,
    /// JSON as received.
    pub execute_result: Option<Box<[u8]>>,
    /// JSON as received.
    pub error: Option<Box<[u8]>>,
}

#[derive(Deserialize)]
struct StreamContent<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    text: Cow<'a, str>,
}

#[derive(Deserialize)]
struct InputContent<'a> {
    #[serde(borrow)]
    code: Cow<'a, str>,
}

impl Output {
    /// Reads a message from iopub. `None` for those that are not recorded (`status`, `display_data`,
    /// ...: a record has no place for them) and for malformed ones.
    #[must_use]
    pub fn parse(msg_type: &str, content: &[u8]) -> Option<Self> {
        match msg_type {
            "stream" => {
                let stream: StreamContent<'_> = serde_json::from_slice(content).ok()?;
                match &*stream.name {
                    "stdout" => Some(Self::Stdout(stream.text.into_owned())),
                    "stderr" => Some(Self::Stderr(stream.text.into_owned())),
                    _ => None,
                }
            }
            "error" => Some(Self::Error(value(content, ERROR_TOO_LARGE))),
            "execute_input" => {
                let input: InputContent<'_> = serde_json::from_slice(content).ok()?;
                let mut code = String::new();
                append(&mut code, &input.code);
                Some(Self::ExecuteInput(code))
            }
            "execute_result" => Some(Self::ExecuteResult(value(content, RESULT_TOO_LARGE))),
            _ => None,
        }
    }

    /// Bytes on the heap.
    #[must_use]
    pub fn size(&self) -> usize {
        match self {
            Self::Error(json) | Self::ExecuteResult(json) => json.len(),
            Self::ExecuteInput(text) | Self::Stderr(text) | Self::Stdout(text) => text.len(),
        }
    }
}

impl Outputs {
    /// Texts grow, the rest is replaced.
    pub fn add(&mut self, output: Output) {
        match output {
            Output::Error(json) => self.error = Some(json),
            Output::ExecuteInput(code) => self.execute_input = Some(code),
            Output::ExecuteResult(json) => self.execute_result = Some(json),
            Output::Stderr(text) => append(&mut self.stderr, &text),
            Output::Stdout(text) => append(&mut self.stdout, &text),
        }
    }

    /// Adds what came later.
    pub fn append(&mut self, later: Self) {
        append(&mut self.stdout, &later.stdout);
        append(&mut self.stderr, &later.stderr);
        self.execute_input = later.execute_input.or(self.execute_input.take());
        self.execute_result = later.execute_result.or(self.execute_result.take());
        self.error = later.error.or(self.error.take());
    }

    /// Bytes on the heap.
    #[must_use]
    pub fn size(&self) -> usize {
        self.stdout.capacity()
            + self.stderr.capacity()
            + self.execute_input.as_ref().map_or(0, String::capacity)
            + self.execute_result.as_ref().map_or(0, |json| json.len())
            + self.error.as_ref().map_or(0, |json| json.len())
    }
}

/// Appends up to the cap, then one line that says that the rest is missing.
fn append(kept: &mut String, text: &str) {
    let room = OUTPUT_TEXT_MAX.saturating_sub(kept.len());
    if text.len() <= room {
        kept.push_str(text);
    } else if kept.len() <= OUTPUT_TEXT_MAX {
        let end = (0..=room).rev().find(|at| text.is_char_boundary(*at));
        kept.push_str(&text[..end.unwrap_or(0)]);
        kept.push_str(CUT);
    }
}

fn value(content: &[u8], instead: &str) -> Box<[u8]> {
    if content.len() <= OUTPUT_VALUE_MAX {
        Box::from(content)
    } else {
        Box::from(instead.as_bytes())
    }
}

/// Ends a text that was cut. It makes the text longer than the cap, which is how a cut is recognised.
const CUT: &str = "\n[the rest of this output was not recorded: it is more than 256 KiB]\n";
const RESULT_TOO_LARGE: &str = r#"{"data":{"text/plain":"[not recorded: it is more than 1 MiB]"},"metadata":{},"execution_count":null}"#;
const ERROR_TOO_LARGE: &str =
    r#"{"ename":"Error","evalue":"[not recorded: it is more than 1 MiB]","traceback":[]}"#;

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(msg_type: &str, content: &str) -> Option<Output> {
        Output::parse(msg_type, content.as_bytes())
    }

    #[test]
    fn messages_become_output() {
        assert_eq!(
            parse("stream", r#"{"name":"stdout","text":"a\n"}"#),
            Some(Output::Stdout("a\n".into()))
        );
        assert_eq!(
            parse("execute_input", r#"{"code":"1+1","execution_count":3}"#),
            Some(Output::ExecuteInput("1+1".into()))
        );
        assert_eq!(
            parse("error", "{}"),
            Some(Output::Error(Box::from(&b"{}"[..])))
        );
        assert_eq!(parse("stream", r#"{"name":"stdlog","text":""}"#), None);
        assert_eq!(parse("stream", "{"), None);
        assert_eq!(parse("status", "{}"), None);
    }

    #[test]
    fn texts_grow_up_to_the_cap_and_say_so() {
        let mut outputs = Outputs::default();
        for _ in 0..OUTPUT_TEXT_MAX {
            outputs.add(Output::Stdout("é".into()));
        }
        assert_eq!(outputs.stdout.len(), OUTPUT_TEXT_MAX + CUT.len());
        assert!(outputs.stdout.ends_with(CUT));
    }

    #[test]
    fn a_character_across_the_cap_is_left_out() {
        let mut text = "x".repeat(OUTPUT_TEXT_MAX - 1);
        append(&mut text, "é");
        assert_eq!(text.len(), OUTPUT_TEXT_MAX - 1 + CUT.len());
    }

    #[test]
    fn a_large_value_is_replaced_by_one_that_clients_can_show() {
        let big = format!("\"{}\"", "x".repeat(OUTPUT_VALUE_MAX));
        for kind in ["error", "execute_result"] {
            let output = parse(kind, &big).unwrap();
            assert!(output.size() < 200);
            let (Output::Error(json) | Output::ExecuteResult(json)) = output else {
                unreachable!()
            };
            assert!(serde_json::from_slice::<serde_json::Value>(&json).is_ok());
        }
    }
}
