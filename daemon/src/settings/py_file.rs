//! Reads the assignments of a Python configuration file without running it.
//!
//! `c.Class.trait = literal` is understood, where a literal is a number, a text, `True`, `False`,
//! `None`, or a list or tuple of those. Every other statement is reported by its line and skipped:
//! the controller runs no Python, and half of a program is worse than none of it.

use super::value::Value;

/// One assignment: class, trait, value, line.
pub type Assignment = (String, String, Value, usize);

/// What a file holds: its assignments, and the lines that were not understood.
#[derive(Debug, Default, PartialEq)]
pub struct PyFile {
    pub assignments: Vec<Assignment>,
    pub skipped: Vec<usize>,
}

#[must_use]
pub fn read(text: &str) -> PyFile {
    let mut file = PyFile::default();
    let mut block_skipped = false;
    for statement in statements(text) {
        let code = statement.text.as_str();
        if code.starts_with([' ', '\t']) {
            // The body of a statement that was reported already.
            if !block_skipped {
                file.skipped.push(statement.line);
            }
            block_skipped = true;
            continue;
        }
        block_skipped = false;
        if is_harmless(code.trim()) {
            continue;
        }
        match assignment(code) {
            Some((class, name, value)) => {
                file.assignments.push((class, name, value, statement.line));
            }
            None => {
                file.skipped.push(statement.line);
                block_skipped = true;
            }
        }
    }
    file
}

struct Statement {
    text: String,
    /// Counted from 1.
    line: usize,
}

/// Splits into logical lines: comments go, brackets and triple quotes span lines.
fn statements(text: &str) -> Vec<Statement> {
    let mut all = Vec::new();
    let mut current = String::new();
    let (mut line, mut start, mut depth) = (1, 1, 0usize);
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let mut taken = c.len_utf8();
        match c {
            '#' => taken = rest.find('\n').unwrap_or(rest.len()),
            '"' | '\'' => {
                taken = quoted_len(rest);
                current.push_str(&rest[..taken]);
            }
            '\\' if rest[1..].starts_with('\n') => taken = 2,
            '\n' if depth == 0 => {
                all.push((std::mem::take(&mut current), start));
                start = line + 1;
            }
            _ => {
                match c {
                    '(' | '[' | '{' => depth += 1,
                    ')' | ']' | '}' => depth = depth.saturating_sub(1),
                    _ => {}
                }
                current.push(c);
            }
        }
        line += rest[..taken].matches('\n').count();
        rest = &rest[taken..];
    }
    all.push((current, start));
    all.into_iter()
        .filter(|(text, _)| !text.trim().is_empty())
        .map(|(text, line)| Statement { text, line })
        .collect()
}

/// Bytes of the text literal at the start, its quotes included.
fn quoted_len(text: &str) -> usize {
    let quote = &text[..1];
    let triple = quote.repeat(3);
    let (open, close) = if text.starts_with(&triple) {
        (3, triple.as_str())
    } else {
        (1, quote)
    };
    let mut at = open;
    while at < text.len() {
        if text[at..].starts_with(close) {
            return at + close.len();
        }
        if open == 1 && text[at..].starts_with('\n') {
            return at;
        }
        let escaped = text[at..].starts_with('\\');
        at += text[at..]
            .chars()
            .take(1 + usize::from(escaped))
            .map(char::len_utf8)
            .sum::<usize>();
    }
    text.len()
}

/// Statements that change nothing for us: `c = get_config()`, `pass`, a bare text, an import.
fn is_harmless(code: &str) -> bool {
    let quoted = code.starts_with(['"', '\'']) && quoted_len(code) == code.len();
    let squeezed: String = code.chars().filter(|c| !c.is_whitespace()).collect();
    quoted
        || squeezed == "c=get_config()"
        || code == "pass"
        || code.starts_with("import ")
        || code.starts_with("from ")
}

fn assignment(code: &str) -> Option<(String, String, Value)> {
    let (target, literal) = code.split_once('=')?;
    let mut path = target.trim().split('.');
    let (Some("c"), Some(class), Some(name), None) =
        (path.next(), path.next(), path.next(), path.next())
    else {
        return None;
    };
    let is_name = |t: &str| {
        !t.is_empty()
            && !t.starts_with(|c: char| c.is_ascii_digit())
            && t.chars().all(|c| c.is_alphanumeric() || c == '_')
    };
    if !is_name(class) || !is_name(name) {
        return None;
    }
    let mut rest = literal.trim();
    let value = literal_value(&mut rest, 0)?;
    rest.trim()
        .is_empty()
        .then(|| (class.to_owned(), name.to_owned(), value))
}

/// Deeper than any option needs; keeps a hostile file from the end of the stack.
const NESTING_MAX: usize = 8;

fn literal_value(rest: &mut &str, depth: usize) -> Option<Value> {
    *rest = rest.trim_start();
    match rest.chars().next()? {
        '[' => sequence(rest, ']', depth),
        '(' => sequence(rest, ')', depth),
        '"' | '\'' => text_value(rest, false),
        'b' | 'u' if rest[1..].starts_with(['"', '\'']) => {
            *rest = &rest[1..];
            text_value(rest, false)
        }
        'r' if rest[1..].starts_with(['"', '\'']) => {
            *rest = &rest[1..];
            text_value(rest, true)
        }
        _ => word_value(rest),
    }
}

fn sequence(rest: &mut &str, close: char, depth: usize) -> Option<Value> {
    if depth == NESTING_MAX {
        return None;
    }
    *rest = &rest[1..];
    let mut items = Vec::new();
    loop {
        *rest = rest.trim_start();
        if let Some(after) = rest.strip_prefix(close) {
            *rest = after;
            return Some(Value::List(items));
        }
        items.push(literal_value(rest, depth + 1)?);
        *rest = rest.trim_start();
        match rest.strip_prefix(',') {
            Some(after) => *rest = after,
            // `(3)` is a number in brackets, not a list of one.
            None if close == ')' && items.len() == 1 => {
                *rest = rest.strip_prefix(close)?;
                return items.pop();
            }
            None if rest.starts_with(close) => {}
            None => return None,
        }
    }
}

fn text_value(rest: &mut &str, raw: bool) -> Option<Value> {
    let len = quoted_len(rest);
    let (literal, after) = rest.split_at(len);
    let quote = literal.chars().next()?;
    let quotes = if literal.starts_with(&quote.to_string().repeat(3)) && len >= 6 {
        3
    } else {
        1
    };
    if len < 2 * quotes || !literal.ends_with(&quote.to_string().repeat(quotes)) {
        return None;
    }
    let inner = &literal[quotes..len - quotes];
    *rest = after;
    if raw {
        return Some(Value::Text(inner.to_owned()));
    }
    unescape(inner).map(Value::Text)
}

/// Resolves the escapes that paths and names use; `None` for any other.
fn unescape(inner: &str) -> Option<String> {
    let mut text = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        text.push(match c {
            '\\' => match chars.next()? {
                'n' => '\n',
                't' => '\t',
                c @ ('\\' | '\'' | '"') => c,
                _ => return None,
            },
            c => c,
        });
    }
    Some(text)
}

fn word_value(rest: &mut &str) -> Option<Value> {
    let end = rest
        .find(|c: char| c.is_whitespace() || matches!(c, ',' | ')' | ']'))
        .unwrap_or(rest.len());
    let (word, after) = rest.split_at(end);
    let value = match word {
        "True" => Value::Bool(true),
        "False" => Value::Bool(false),
        "None" => Value::Null,
        _ => number(word)?,
    };
    *rest = after;
    Some(value)
}

fn number(word: &str) -> Option<Value> {
    if !word.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
        return None;
    }
    let word = word.replace('_', "");
    let radix = |prefix: &str, base| {
        word.strip_prefix(prefix)
            .and_then(|digits| i64::from_str_radix(digits, base).ok())
    };
    radix("0x", 16)
        .or_else(|| radix("0o", 8))
        .or_else(|| word.parse().ok())
        .map(Value::Int)
        .or_else(|| {
            word.parse()
                .ok()
                .filter(|x: &f64| x.is_finite())
                .map(Value::Float)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(text: &str) -> Value {
        let file = read(text);
        assert_eq!(file.skipped, Vec::<usize>::new(), "{text}");
        file.assignments.into_iter().next().unwrap().2
    }

    #[test]
    fn literals_of_every_kind() {
        assert_eq!(only("c.HeartMonitor.period = 200"), Value::Int(200));
        assert_eq!(only("c.A.b = -1_000  # comment"), Value::Int(-1000));
        assert_eq!(only("c.A.b=0.5"), Value::Float(0.5));
        assert_eq!(only("c.A.b = True"), Value::Bool(true));
        assert_eq!(only("c.A.b = None"), Value::Null);
        assert_eq!(
            only("c.A.b = 'it\\'s # here'"),
            Value::Text("it's # here".into())
        );
        assert_eq!(only("c.A.b = b\"k=y\""), Value::Text("k=y".into()));
        assert_eq!(only("c.A.b = r'\\d'"), Value::Text("\\d".into()));
        assert_eq!(only("c.A.b = '''x\ny'''"), Value::Text("x\ny".into()));

        let list = Value::List(vec![Value::Int(1), Value::Text("2-3".into())]);
        assert_eq!(only("c.A.b = [\n  1,  # one\n  '2-3',\n]"), list);
        assert_eq!(only("c.A.b = (1, '2-3')"), list);
        assert_eq!(only("c.A.b = (7)"), Value::Int(7));
    }

    #[test]
    fn the_usual_frame_of_a_file_is_no_trouble() {
        let text =
            "'''Doc\nstring'''\nimport os\nc = get_config()  # noqa\n\n# c.A.b = 1\nc.A.b = 2\n";
        let file = read(text);
        assert_eq!(file.skipped, Vec::<usize>::new());
        assert_eq!(
            file.assignments,
            [("A".to_owned(), "b".to_owned(), Value::Int(2), 7)]
        );
    }

    #[test]
    fn other_statements_are_reported_once_each_by_line() {
        let text = "x = 1\nc.A.b = os.environ['X']\nif x:\n    c.A.b = 1\n    c.A.d = 2\n\
                    c.A.b.append(1)\nc.A.b == 1\nc.A.b = 1 + 1\nc.A.ok = 1\nc.A.b = 'open\n";
        let file = read(text);
        assert_eq!(file.skipped, [1, 2, 3, 6, 7, 8, 10]);
        assert_eq!(file.assignments.len(), 1);
    }

    #[test]
    fn any_text_is_survived() {
        let deep = "c.A.b = ".to_owned() + &"[".repeat(100_000);
        for text in [
            deep.as_str(),
            "\\",
            "'",
            "\"\"\"",
            "c.A.b = '\\",
            "c.A.b = b",
            "ü = 'ü",
            "c..b=1",
        ] {
            assert_eq!(
                read(text).assignments,
                Vec::<Assignment>::new(),
                "{text:.20}"
            );
        }
    }
}
