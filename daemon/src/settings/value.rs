//! One option's value as it was written, and how it is read as what the option wants.
//!
//! A file gives typed values; the command line and the environment give text that takes the option's
//! type, as traitlets does it (`--ping=200`, `IPP_ENABLE_CURVE=1`).

use std::fmt;

use super::PortRange;

/// A literal, or text that waits for a type.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Bool(bool),
    Float(f64),
    Int(i64),
    List(Vec<Self>),
    Null,
    Text(String),
    /// From the command line or the environment: once per occurrence.
    Untyped(Vec<String>),
}

impl Value {
    #[must_use]
    pub fn untyped(text: impl Into<String>) -> Self {
        Self::Untyped(vec![text.into()])
    }

    /// # Errors
    /// What was expected, as the end of a sentence; the same holds for the other readers.
    pub fn as_bool(&self) -> Result<bool, String> {
        match (self, self.single()) {
            (Self::Bool(b), _) => Ok(*b),
            (Self::Int(n @ 0..=1), _) => Ok(*n == 1),
            (_, Some(text)) => match text.to_ascii_lowercase().as_str() {
                "true" | "1" | "yes" | "on" => Ok(true),
                "false" | "0" | "no" | "off" => Ok(false),
                _ => Err("expects True or False".to_owned()),
            },
            _ => Err("expects True or False".to_owned()),
        }
    }

    /// # Errors
    /// See [`Value::as_bool`].
    pub fn as_int(&self, min: i64, max: i64) -> Result<i64, String> {
        let expected = || format!("expects a whole number from {min} to {max}");
        let number = match (self, self.single()) {
            (Self::Int(n), _) => *n,
            (_, Some(text)) => text.trim().parse().map_err(|_| expected())?,
            _ => return Err(expected()),
        };
        (min..=max)
            .contains(&number)
            .then_some(number)
            .ok_or_else(expected)
    }

    /// # Errors
    /// See [`Value::as_bool`].
    pub fn as_float(&self, min: f64, max: f64) -> Result<f64, String> {
        let expected = || format!("expects a number from {min} to {max}");
        let number = match (self, self.single()) {
            (Self::Float(x), _) => *x,
            (Self::Int(n), _) => *n as f64,
            (_, Some(text)) => text.trim().parse().map_err(|_| expected())?,
            _ => return Err(expected()),
        };
        (min..=max)
            .contains(&number)
            .then_some(number)
            .ok_or_else(expected)
    }

    /// # Errors
    /// See [`Value::as_bool`].
    pub fn as_text(&self) -> Result<String, String> {
        match (self, self.single()) {
            (Self::Text(text), _) => Ok(text.clone()),
            (_, Some(text)) => Ok(text.to_owned()),
            _ => Err("expects text, once".to_owned()),
        }
    }

    /// A list of texts; on the command line, separated by commas.
    ///
    /// # Errors
    /// See [`Value::as_bool`].
    pub fn as_texts(&self) -> Result<Vec<String>, String> {
        match self {
            Self::List(items) => items.iter().map(Self::as_text).collect(),
            Self::Untyped(texts) => Ok(texts.iter().flat_map(|t| split(t)).collect()),
            Self::Text(text) => Ok(split(text).collect()),
            Self::Bool(_) | Self::Float(_) | Self::Int(_) | Self::Null => {
                Err("expects a list of texts".to_owned())
            }
        }
    }

    /// Ports: `[10101, 10102]`, `10101-10120`, `10101,10110-10120`.
    ///
    /// # Errors
    /// See [`Value::as_bool`].
    pub fn as_ports(&self) -> Result<Vec<PortRange>, String> {
        match self {
            Self::Int(_) => Ok(vec![self.as_port()?]),
            Self::List(items) => items.iter().map(Self::as_port).collect(),
            Self::Text(_) | Self::Untyped(_) => self
                .as_texts()?
                .iter()
                .map(|item| parse_ports(item))
                .collect(),
            Self::Bool(_) | Self::Float(_) | Self::Null => Err(PORTS_EXPECTED.to_owned()),
        }
    }

    fn as_port(&self) -> Result<PortRange, String> {
        match self {
            Self::Int(n) => u16::try_from(*n)
                .ok()
                .filter(|p| *p > 0)
                .map(|p| PortRange { first: p, last: p })
                .ok_or_else(|| PORTS_EXPECTED.to_owned()),
            Self::Text(text) => parse_ports(text),
            _ => Err(PORTS_EXPECTED.to_owned()),
        }
    }

    fn single(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Untyped(texts) => match texts.as_slice() {
                [text] => Some(text),
                _ => None,
            },
            Self::Bool(_) | Self::Float(_) | Self::Int(_) | Self::List(_) | Self::Null => None,
        }
    }
}

const PORTS_EXPECTED: &str = "expects ports from 1 to 65535, such as 10101-10120";

fn split(text: &str) -> impl Iterator<Item = String> {
    text.split(',')
        .map(|t| t.trim().to_owned())
        .filter(|t| !t.is_empty())
}

fn parse_ports(text: &str) -> Result<PortRange, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.trim().parse::<u16>(), last.trim().parse::<u16>()) {
        (Ok(first), Ok(last)) if first > 0 && first <= last => Ok(PortRange { first, last }),
        _ => Err(PORTS_EXPECTED.to_owned()),
    }
}

/// As Python would write it.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(true) => f.write_str("True"),
            Self::Bool(false) => f.write_str("False"),
            Self::Float(x) => write!(f, "{x:?}"),
            Self::Int(n) => write!(f, "{n}"),
            Self::Null => f.write_str("None"),
            Self::Text(text) => write!(f, "'{}'", text.replace('\\', "\\\\").replace('\'', "\\'")),
            Self::Untyped(texts) => match texts.as_slice() {
                [text] => Self::Text(text.clone()).fmt(f),
                texts => Self::List(texts.iter().cloned().map(Self::Text).collect()).fmt(f),
            },
            Self::List(items) => {
                f.write_str("[")?;
                for (i, item) in items.iter().enumerate() {
                    write!(f, "{}{item}", if i == 0 { "" } else { ", " })?;
                }
                f.write_str("]")
            }
        }
    }
}

impl From<&Value> for serde_json::Value {
    fn from(value: &Value) -> Self {
        match value {
            Value::Bool(b) => Self::Bool(*b),
            Value::Float(x) => Self::from(*x),
            Value::Int(n) => Self::from(*n),
            Value::List(items) => Self::Array(items.iter().map(Self::from).collect()),
            Value::Null => Self::Null,
            Value::Text(text) => Self::from(text.as_str()),
            Value::Untyped(texts) => match texts.as_slice() {
                [text] => Self::from(text.as_str()),
                texts => Self::from(texts.to_vec()),
            },
        }
    }
}

impl TryFrom<&serde_json::Value> for Value {
    type Error = String;

    /// Objects have no meaning for any option of a controller.
    fn try_from(json: &serde_json::Value) -> Result<Self, String> {
        Ok(match json {
            serde_json::Value::Null => Self::Null,
            serde_json::Value::Bool(b) => Self::Bool(*b),
            serde_json::Value::Number(n) => match (n.as_i64(), n.as_f64()) {
                (Some(n), _) => Self::Int(n),
                (None, Some(x)) => Self::Float(x),
                (None, None) => return Err("expects a smaller number".to_owned()),
            },
            serde_json::Value::String(text) => Self::Text(text.clone()),
            serde_json::Value::Array(items) => {
                Self::List(items.iter().map(Self::try_from).collect::<Result<_, _>>()?)
            }
            serde_json::Value::Object(_) => return Err("expects no object".to_owned()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_takes_the_type_that_the_option_wants() {
        assert_eq!(Value::untyped("200").as_int(1, 1000), Ok(200));
        assert_eq!(Value::Int(200).as_int(1, 1000), Ok(200));
        assert!(Value::untyped("abc").as_int(1, 1000).is_err());
        assert!(Value::Int(1001).as_int(1, 1000).is_err());
        assert_eq!(Value::untyped("true").as_bool(), Ok(true));
        assert!(Value::untyped("maybe").as_bool().is_err());
        assert_eq!(Value::Int(1).as_float(0.0, 1.0), Ok(1.0));
        assert!(Value::untyped("nan").as_float(0.0, 1.0).is_err());
    }

    #[test]
    fn ports_come_as_lists_numbers_and_ranges() {
        let range = |first, last| PortRange { first, last };
        assert_eq!(
            Value::untyped("10101,10110-10120").as_ports(),
            Ok(vec![range(10101, 10101), range(10110, 10120)])
        );
        let list = Value::List(vec![Value::Int(7), Value::Text("8-9".into())]);
        assert_eq!(list.as_ports(), Ok(vec![range(7, 7), range(8, 9)]));
        for bad in ["0", "9-8", "65536", "a-b", "-5", "1-2-3"] {
            assert!(Value::untyped(bad).as_ports().is_err(), "{bad}");
        }
    }

    #[test]
    fn values_are_shown_as_python_writes_them() {
        let list = Value::List(vec![
            Value::Bool(true),
            Value::Null,
            Value::Text("a'b".into()),
        ]);
        assert_eq!(list.to_string(), r"[True, None, 'a\'b']");
    }
}
