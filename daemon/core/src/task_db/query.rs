//! The query language of `db_request`: JSON to conditions, all of which must hold.
//!
//! A query is an object of fields. A plain value asks for equality, an object holds operators:
//!
//! ```text
//! {"engine_uuid": "a1...", "submitted": {"$gte": "2026-01-02T00:00:00Z"}, "completed": null}
//! ```
//!
//! | operator                  | holds if the field's value                                         |
//! |---------------------------|--------------------------------------------------------------------|
//! | `$eq` `$ne`               | is (is not) the operand; null is a value like any other            |
//! | `$lt` `$lte` `$gt` `$gte` | is of the operand's type, and below (...) it                       |
//! | `$in` `$nin`              | is one (none) of a list                                            |
//! | `$all`                    | is in each list of a list, is a part of each text, or, for a list  |
//! |                           | in the record, contains each other operand                         |
//! | `$mod`                    | is a number with this remainder: `[divisor, remainder]`            |
//! | `$exists`                 | is not null (is null)                                              |
//! | `$glob`                   | is a text that fits the pattern (`*`, `?`, `[abc]`, `[!abc]`)      |
//!
//! Operands for date fields are ISO 8601 texts, compared to the microsecond.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use thiserror::Error;

use super::field::{Field, Kind};
use super::glob::Glob;
use crate::limits::{QUERY_BYTES_MAX, QUERY_TESTS_MAX, QUERY_VALUES_MAX};
use crate::wire::date;

/// A `db_request`: which records, and what of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Find {
    pub query: Query,
    /// The fields to return, `msg_id` first, each once.
    pub fields: Vec<Field>,
}

/// Conditions that must all hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Query {
    pub conditions: Vec<Condition>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    pub field: Field,
    pub test: Test,
}

/// One operator with its operand.
#[derive(Clone, Debug, PartialEq)]
pub enum Test {
    All(Vec<Value>),
    Exists(bool),
    Glob(Glob),
    In(OneOf),
    /// `$lt` and its kind.
    Order(Order, Operand),
    Mod {
        divisor: f64,
        remainder: f64,
    },
    NotIn(OneOf),
}

/// A set of operands; `$eq` has one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OneOf {
    pub null: bool,
    pub texts: BTreeSet<String>,
    pub dates: BTreeSet<i64>,
    pub values: Vec<Value>,
}

/// A value that has an order.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    /// Microseconds since 1970 (UTC).
    Date(i64),
    Number(f64),
    Text(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

/// Why a query was not understood.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum QueryError {
    /// The request is no object, or too long to read.
    #[error("a database query is an object like {{\"completed\": null}}: {0}")]
    Malformed(String),
    #[error("{operator} of '{field}' needs {expected}")]
    Operand {
        field: &'static str,
        operator: String,
        expected: &'static str,
    },
    #[error("more than {QUERY_TESTS_MAX} operators in one query")]
    TooManyTests,
    #[error("no field '{name}' in a task record; there are {}", field_names())]
    UnknownField { name: String },
    #[error("no operator '{operator}' (field '{field}'); there are {}", OPERATORS.join(" "))]
    UnknownOperator {
        field: &'static str,
        operator: String,
    },
}

#[derive(Deserialize)]
struct FindContent<'a> {
    #[serde(borrow)]
    query: Option<&'a RawValue>,
    keys: Option<Value>,
}

const OPERATORS: [&str; 12] = [
    "$eq", "$ne", "$lt", "$lte", "$gt", "$gte", "$in", "$nin", "$all", "$mod", "$exists", "$glob",
];

impl QueryError {
    /// The name of the Python exception that stock clients are shown.
    #[must_use]
    pub fn ename(&self) -> &'static str {
        match self {
            Self::Malformed(_) | Self::TooManyTests => "ValueError",
            Self::Operand { .. } => "TypeError",
            Self::UnknownField { .. } | Self::UnknownOperator { .. } => "KeyError",
        }
    }
}

impl Find {
    /// Reads the content of a `db_request`: `query`, and `keys` (a list of fields, or null for all but
    /// the buffers).
    ///
    /// # Errors
    /// It is no JSON object of this form; the error says what is wrong and what there is.
    pub fn parse(content: &[u8]) -> Result<Self, QueryError> {
        let content: FindContent<'_> =
            serde_json::from_slice(content).map_err(|e| QueryError::Malformed(e.to_string()))?;
        let query = content.query.map_or("{}", RawValue::get);
        Ok(Self {
            query: Query::parse(query.as_bytes())?,
            fields: fields(content.keys)?,
        })
    }

    #[must_use]
    pub fn wants(&self, field: Field) -> bool {
        self.fields.contains(&field)
    }
}

/// No keys, or an empty list of them, means all but the buffers, as in stock.
fn fields(keys: Option<Value>) -> Result<Vec<Field>, QueryError> {
    let names = match keys {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(names)) => names,
        Some(name) => vec![name],
    };
    if names.is_empty() {
        let all = Field::ALL.into_iter();
        return Ok(all.filter(|field| field.kind() != Kind::Buffers).collect());
    }
    let mut fields = vec![Field::MsgId];
    for name in names {
        let field = name.as_str().and_then(Field::from_name);
        let field = field.ok_or_else(|| QueryError::UnknownField { name: shown(&name) })?;
        if !fields.contains(&field) {
            fields.push(field);
        }
    }
    Ok(fields)
}

impl Query {
    /// Reads a query object.
    ///
    /// # Errors
    /// It is no query; the error names the field and operator, and what there is instead.
    pub fn parse(json: &[u8]) -> Result<Self, QueryError> {
        if json.len() > QUERY_BYTES_MAX {
            let reason = format!("it has more than {} MiB", QUERY_BYTES_MAX >> 20);
            return Err(QueryError::Malformed(reason));
        }
        let value: Value =
            serde_json::from_slice(json).map_err(|e| QueryError::Malformed(e.to_string()))?;
        let fields = match value {
            Value::Null => return Ok(Self::default()),
            Value::Object(fields) => fields,
            other => return Err(QueryError::Malformed(format!("got {}", shown(&other)))),
        };
        let mut conditions = Vec::new();
        for (name, value) in fields {
            let field = Field::from_name(&name).ok_or(QueryError::UnknownField { name })?;
            match value {
                Value::Object(tests) => {
                    for (operator, operand) in tests {
                        let test = Test::parse(field, &operator, operand)?;
                        conditions.push(Condition { field, test });
                    }
                }
                plain => {
                    let test = Test::parse(field, "$eq", plain)?;
                    conditions.push(Condition { field, test });
                }
            }
        }
        if conditions.len() > QUERY_TESTS_MAX {
            return Err(QueryError::TooManyTests);
        }
        Ok(Self { conditions })
    }

    /// The only ids that can match, where the query names them: these records are looked up, the
    /// others never seen.
    #[must_use]
    pub fn msg_ids(&self) -> Option<&BTreeSet<String>> {
        self.conditions
            .iter()
            .find_map(|condition| match &condition.test {
                Test::In(ids) if condition.field == Field::MsgId => Some(&ids.texts),
                Test::All(_)
                | Test::Exists(_)
                | Test::Glob(_)
                | Test::In(_)
                | Test::Order(..)
                | Test::Mod { .. }
                | Test::NotIn(_) => None,
            })
    }
}

impl Test {
    fn parse(field: Field, operator: &str, operand: Value) -> Result<Self, QueryError> {
        let expected = |expected| QueryError::Operand {
            field: field.name(),
            operator: operator.to_owned(),
            expected,
        };
        let order = |order, operand| -> Result<Self, QueryError> {
            Ok(Self::Order(
                order,
                Operand::parse(field, operand).map_err(expected)?,
            ))
        };
        let list = |operand| match operand {
            Value::Array(list) => Ok(list),
            _ => Err(expected("a list")),
        };
        match operator {
            "$eq" => Ok(Self::In(
                OneOf::parse(field, vec![operand]).map_err(expected)?,
            )),
            "$ne" => Ok(Self::NotIn(
                OneOf::parse(field, vec![operand]).map_err(expected)?,
            )),
            "$in" => Ok(Self::In(
                OneOf::parse(field, list(operand)?).map_err(expected)?,
            )),
            "$nin" => Ok(Self::NotIn(
                OneOf::parse(field, list(operand)?).map_err(expected)?,
            )),
            "$lt" => order(Order::Less, operand),
            "$lte" => order(Order::LessOrEqual, operand),
            "$gt" => order(Order::Greater, operand),
            "$gte" => order(Order::GreaterOrEqual, operand),
            "$all" if matches!(field.kind(), Kind::Date | Kind::Buffers) => {
                Err(expected("a field with text or a list"))
            }
            "$all" => match list(operand)? {
                values if values.len() <= QUERY_VALUES_MAX => Ok(Self::All(values)),
                _ => Err(expected("at most 1000 values")),
            },
            "$exists" => Ok(Self::Exists(truth(&operand))),
            "$glob" => match (field.kind(), operand) {
                (Kind::Text | Kind::Json, Value::String(pattern)) => {
                    Ok(Self::Glob(Glob::parse(&pattern).map_err(expected)?))
                }
                _ => Err(expected(
                    "a field with text, and a pattern like \"group_*\"",
                )),
            },
            "$mod" => match (field.kind(), operand.as_array().map(Vec::as_slice)) {
                (Kind::Json, Some([divisor, remainder])) => {
                    match (divisor.as_f64(), remainder.as_f64()) {
                        (Some(divisor), Some(remainder)) if divisor != 0.0 => {
                            Ok(Self::Mod { divisor, remainder })
                        }
                        _ => Err(expected("[divisor, remainder], and no divisor 0")),
                    }
                }
                _ => Err(expected("a field with numbers, and [divisor, remainder]")),
            },
            _ => Err(QueryError::UnknownOperator {
                field: field.name(),
                operator: operator.to_owned(),
            }),
        }
    }
}

impl OneOf {
    fn parse(field: Field, operands: Vec<Value>) -> Result<Self, &'static str> {
        let mut one_of = Self::default();
        for operand in operands {
            match (field.kind(), operand) {
                (_, Value::Null) => one_of.null = true,
                (Kind::Text | Kind::Json, Value::String(text)) => {
                    one_of.texts.insert(text);
                }
                (Kind::Date, Value::String(text)) => {
                    one_of
                        .dates
                        .insert(date::parse(&text).ok_or(DATE_EXPECTED)?);
                }
                (Kind::Json, _) if one_of.values.len() == QUERY_VALUES_MAX => {
                    return Err("at most 1000 values that are not text");
                }
                (Kind::Json, value) => one_of.values.push(value),
                (Kind::Text, _) => return Err("text or null"),
                (Kind::Date, _) => return Err(DATE_EXPECTED),
                (Kind::Buffers, _) => return Err("null: buffers can only be tested for presence"),
            }
        }
        Ok(one_of)
    }
}

impl Operand {
    fn parse(field: Field, operand: Value) -> Result<Self, &'static str> {
        match (field.kind(), operand) {
            (Kind::Text | Kind::Json, Value::String(text)) => Ok(Self::Text(text)),
            (Kind::Date, Value::String(text)) => {
                date::parse(&text).map(Self::Date).ok_or(DATE_EXPECTED)
            }
            (Kind::Json, Value::Number(number)) => number
                .as_f64()
                .map(Operand::Number)
                .ok_or("a smaller number"),
            (Kind::Text, _) => Err("text"),
            (Kind::Json, _) => Err("text or a number"),
            (Kind::Date, _) => Err(DATE_EXPECTED),
            (Kind::Buffers, _) => Err("a field that has an order"),
        }
    }
}

/// Whether Python takes a value as true.
fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

/// A value in an error message, not longer than a line.
fn shown(value: &Value) -> String {
    let text = value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned);
    text.chars().take(60).collect()
}

fn field_names() -> String {
    Field::ALL.map(Field::name).join(" ")
}

const DATE_EXPECTED: &str = "a date like \"2026-01-02T03:04:05.678901Z\"";
