//! Queries as SQL. Conditions that SQL can say narrow the rows down, always with parameters; the
//! evaluator of the core then decides each, so that disk and memory cannot disagree.

use std::collections::BTreeSet;

use piparallel_core::task_db::field::{Field, Kind};
use piparallel_core::task_db::query::{Condition, OneOf, Operand, Order, Query, Test};
use rusqlite::types::Value;

/// A condition on the columns, and its parameters.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Where {
    pub(super) sql: String,
    pub(super) params: Vec<Value>,
}

/// A condition that holds for every row that can match, and for no more than it must.
pub(super) fn where_clause(query: &Query) -> Where {
    let mut clause = Where {
        sql: "1".to_owned(),
        params: Vec::new(),
    };
    for condition in &query.conditions {
        if let Some(sql) = narrow(condition, &mut clause.params) {
            clause.sql.push_str(" AND ");
            clause.sql.push_str(&sql);
        }
    }
    clause
}

/// `None` if SQL has no way to say it. JSON fields are compared by value, which text is not; of these
/// only a label that is one of some texts is looked for.
fn narrow(condition: &Condition, params: &mut Vec<Value>) -> Option<String> {
    let column = condition.field.name();
    let comparable = matches!(condition.field.kind(), Kind::Date | Kind::Text);
    match &condition.test {
        Test::Exists(wanted) if comparable => Some(format!(
            "{column} IS {}NULL",
            if *wanted { "NOT " } else { "" }
        )),
        Test::Glob(glob) if comparable => {
            params.push(Value::Text(glob.to_sqlite()));
            // GLOB sees a text only up to its first NUL.
            Some(format!("({column} GLOB ? OR instr({column}, char(0)))"))
        }
        Test::In(one_of) if comparable || condition.field == Field::Label => {
            let label = !comparable;
            if label && (one_of.null || !one_of.values.is_empty()) {
                return None;
            }
            let is_in = is_in(column, one_of, label, params)?;
            let or_null = if one_of.null { " OR {c} IS NULL" } else { "" };
            Some(format!("({is_in}{})", or_null.replace("{c}", column)))
        }
        Test::NotIn(one_of) if comparable => {
            let is_in = is_in(column, one_of, false, params)?;
            Some(if one_of.null {
                format!("{column} IS NOT NULL AND NOT {is_in}")
            } else {
                format!("({column} IS NULL OR NOT {is_in})")
            })
        }
        Test::Order(order, operand) => {
            params.push(match operand {
                Operand::Date(micros) => Value::Integer(*micros),
                Operand::Text(text) if comparable => Value::Text(text.clone()),
                Operand::Number(_) | Operand::Text(_) => return None,
            });
            let operator = match order {
                Order::Greater => ">",
                Order::GreaterOrEqual => ">=",
                Order::Less => "<",
                Order::LessOrEqual => "<=",
            };
            Some(format!("{column} {operator} ?"))
        }
        Test::All(_)
        | Test::Exists(_)
        | Test::Glob(_)
        | Test::In(_)
        | Test::Mod { .. }
        | Test::NotIn(_) => None,
    }
}

/// One value is compared directly; more come as a JSON list, which has no bound on its length.
fn is_in(column: &str, one_of: &OneOf, as_json: bool, params: &mut Vec<Value>) -> Option<String> {
    let texts: BTreeSet<String> = if as_json {
        let quoted = one_of
            .texts
            .iter()
            .map(|text| serde_json::json!(text).to_string());
        quoted.collect()
    } else {
        one_of.texts.clone()
    };
    match (
        texts.len() + one_of.dates.len(),
        texts.first(),
        one_of.dates.first(),
    ) {
        (0, ..) => Some("0".to_owned()),
        (1, Some(text), _) => {
            params.push(Value::Text(text.clone()));
            Some(format!("{column} = ?"))
        }
        (1, None, Some(date)) => {
            params.push(Value::Integer(*date));
            Some(format!("{column} = ?"))
        }
        // SQLite's JSON functions end a text at a NUL.
        _ if texts.iter().any(|text| text.contains('\0')) => None,
        _ => {
            let list = if texts.is_empty() {
                serde_json::json!(one_of.dates)
            } else {
                serde_json::json!(texts)
            };
            params.push(Value::Text(list.to_string()));
            Some(format!("{column} IN (SELECT value FROM json_each(?))"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clause(json: &str) -> Where {
        where_clause(&Query::parse(json.as_bytes()).unwrap())
    }

    fn text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    #[test]
    fn operands_are_parameters() {
        let hostile =
            r#"{"msg_id": "x'; DROP TABLE t; --", "submitted": {"$lt": "1970-01-01T00:00:01Z"}}"#;
        let clause = clause(hostile);
        assert_eq!(clause.sql, "1 AND (msg_id = ?) AND submitted < ?");
        assert_eq!(
            clause.params,
            [text("x'; DROP TABLE t; --"), Value::Integer(1_000_000)]
        );
    }

    #[test]
    fn lists_are_one_parameter_and_null_is_a_value() {
        let c = clause(r#"{"engine_uuid": {"$in": ["a", "b", null]}}"#);
        let sql = "1 AND (engine_uuid IN (SELECT value FROM json_each(?)) OR engine_uuid IS NULL)";
        assert_eq!(
            (c.sql.as_str(), c.params),
            (sql, vec![text(r#"["a","b"]"#)])
        );
        let c = clause(r#"{"completed": {"$ne": null}}"#);
        assert_eq!(c.sql, "1 AND completed IS NOT NULL AND NOT 0");
        let c = clause(r#"{"queue": {"$nin": ["mux"]}}"#);
        assert_eq!(c.sql, "1 AND (queue IS NULL OR NOT queue = ?)");
    }

    #[test]
    fn what_sql_cannot_say_is_left_to_the_evaluator() {
        for json in [
            r#"{"content": {"$eq": {"a": 1}}}"#,
            r#"{"label": {"$mod": [2, 0]}}"#,
            r#"{"label": {"$nin": [""]}}"#,
            r#"{"stdout": {"$all": ["a"]}}"#,
        ] {
            assert_eq!(clause(json).sql, "1", "{json}");
        }
    }
}
