//! Does a record match a query? Every back end asks here, so all of them agree.

use std::cmp::Ordering;

use serde_json::Value;

use super::field::{Field, FieldValue};
use super::query::{OneOf, Operand, Order, Query, Test};
use super::record::TaskRecord;

impl Query {
    /// Whether all conditions hold for `record`.
    #[must_use]
    pub fn matches(&self, record: &TaskRecord) -> bool {
        let mut last: Option<(Field, FieldValue<'_>)> = None;
        self.conditions.iter().all(|condition| {
            let known = last.take().filter(|(field, _)| *field == condition.field);
            let (field, value) =
                known.unwrap_or_else(|| (condition.field, condition.field.value(record)));
            let holds = condition.test.holds(&value);
            last = Some((field, value));
            holds
        })
    }
}

impl Test {
    fn holds(&self, value: &FieldValue<'_>) -> bool {
        match self {
            Self::All(operands) => operands.iter().all(|operand| is_in(value, operand)),
            Self::Exists(wanted) => (*value != FieldValue::Null) == *wanted,
            Self::Glob(glob) => text_of(value).is_some_and(|text| glob.matches(text)),
            Self::In(one_of) => one_of.contains(value),
            Self::NotIn(one_of) => !one_of.contains(value),
            Self::Order(order, operand) => compare(value, operand).is_some_and(|is| match order {
                Order::Greater => is.is_gt(),
                Order::GreaterOrEqual => is.is_ge(),
                Order::Less => is.is_lt(),
                Order::LessOrEqual => is.is_le(),
            }),
            Self::Mod { divisor, remainder } => match value {
                FieldValue::Json(Value::Number(number)) => number
                    .as_f64()
                    .is_some_and(|n| python_remainder(n, *divisor) == *remainder),
                FieldValue::Buffers
                | FieldValue::Date(_)
                | FieldValue::Json(_)
                | FieldValue::Null
                | FieldValue::Text(_) => false,
            },
        }
    }
}

impl OneOf {
    fn contains(&self, value: &FieldValue<'_>) -> bool {
        match value {
            FieldValue::Buffers => false,
            FieldValue::Date(date) => self.dates.contains(date),
            FieldValue::Json(Value::String(text)) => self.texts.contains(text),
            FieldValue::Json(value) => self.values.iter().any(|own| json_equal(own, value)),
            FieldValue::Null => self.null,
            FieldValue::Text(text) => self.texts.contains(&**text),
        }
    }
}

fn text_of<'a>(value: &'a FieldValue<'_>) -> Option<&'a str> {
    match value {
        FieldValue::Text(text) => Some(text),
        FieldValue::Json(value) => value.as_str(),
        FieldValue::Buffers | FieldValue::Date(_) | FieldValue::Null => None,
    }
}

/// Values of different types have no order.
fn compare(value: &FieldValue<'_>, operand: &Operand) -> Option<Ordering> {
    match (value, operand) {
        (FieldValue::Date(date), Operand::Date(operand)) => Some(date.cmp(operand)),
        (FieldValue::Json(value), Operand::Number(operand)) => value.as_f64()?.partial_cmp(operand),
        (value, Operand::Text(operand)) => Some(text_of(value)?.cmp(operand.as_str())),
        (_, Operand::Date(_) | Operand::Number(_)) => None,
    }
}

/// One operand of `$all`. Stock tests whether the record's value is in the operand (a list or a text);
/// where stock fails, a list in the record must contain the operand.
fn is_in(value: &FieldValue<'_>, operand: &Value) -> bool {
    match (value, operand) {
        (FieldValue::Json(value), Value::Array(list)) => list.iter().any(|v| json_equal(v, value)),
        (FieldValue::Json(Value::Array(list)), operand) => {
            list.iter().any(|v| json_equal(v, operand))
        }
        (value, Value::Array(list)) => {
            text_of(value).is_some_and(|text| list.iter().any(|v| v.as_str() == Some(text)))
        }
        (value, Value::String(operand)) => {
            text_of(value).is_some_and(|text| operand.contains(text))
        }
        (FieldValue::Json(value), operand) => json_equal(value, operand),
        (
            FieldValue::Buffers | FieldValue::Date(_) | FieldValue::Null | FieldValue::Text(_),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_),
        ) => false,
    }
}

/// Equality as in Python: 1 and 1.0 are the same, the order of an object's fields is no matter.
fn json_equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| json_equal(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            let same = |(name, a)| b.get(name).is_some_and(|b| json_equal(a, b));
            a.len() == b.len() && a.iter().all(same)
        }
        (a, b) => a == b,
    }
}

/// The remainder with the sign of the divisor.
fn python_remainder(n: f64, divisor: f64) -> f64 {
    let remainder = n % divisor;
    if remainder != 0.0 && (remainder < 0.0) != (divisor < 0.0) {
        remainder + divisor
    } else {
        remainder
    }
}
