//! The second stage: all files in one, each value with the place that it is from.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::Deserialize as _;
use toml::{Table, Value};

use super::fragment::{Fragment, OPTIONS, SECRETS};

/// Where a value is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    CommandLine,
    Default,
    File(PathBuf),
    /// Found out, such as the name of the host.
    Machine,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CommandLine => f.write_str("command line"),
            Self::Default => f.write_str("default"),
            Self::File(path) => path.display().fmt(f),
            Self::Machine => f.write_str("this machine"),
        }
    }
}

/// One option as it came out.
pub struct Input {
    value: Value,
    pub origin: Origin,
}

/// All options that have a value, by their full names.
#[derive(Default)]
pub struct Inputs(BTreeMap<&'static str, Input>);

/// How a secret is shown.
const HIDDEN: &str = "<secret>";

impl Inputs {
    /// Adds the text of one file, which outranks what was there.
    ///
    /// # Errors
    /// It is no TOML, has an option that does not exist, or a value of the wrong type. The message names
    /// file, line and option.
    pub fn add(&mut self, text: &str, origin: &Origin) -> anyhow::Result<()> {
        let failed = |e: toml::de::Error| anyhow::anyhow!(explain(&e, text, origin));
        let table: Table = text.parse().map_err(failed)?;
        // For its errors, which know the lines; the values go by name.
        toml::from_str::<Fragment>(text).map_err(failed)?;
        for name in OPTIONS {
            if let Some(value) = find(&table, name) {
                let input = Input {
                    value: value.clone(),
                    origin: origin.clone(),
                };
                self.0.insert(name, input);
            }
        }
        Ok(())
    }

    /// Adds an assignment of the command line: `engines.count=2`. A value that is no TOML is text.
    ///
    /// # Errors
    /// See [`Inputs::add`].
    pub fn assign(&mut self, assignment: &str) -> anyhow::Result<()> {
        let (name, value) = assignment
            .split_once('=')
            .with_context(|| format!("--set {assignment}: expects KEY=VALUE"))?;
        let name = name.trim();
        let is_toml = format!("value = {value}").parse::<Table>().is_ok();
        let text = match is_toml {
            true => format!("{name} = {value}"),
            false => format!("{name} = {}", Value::String(value.to_owned())),
        };
        self.add(&text, &Origin::CommandLine)
            .with_context(|| format!("--set {name}"))
    }

    /// Adds what only the machine knows.
    pub fn add_machine(&mut self, host_name: &str, cores: u32) {
        for (name, value) in [
            ("name", Value::String(host_name.to_owned())),
            ("engines.count", Value::Integer(cores.into())),
        ] {
            let origin = Origin::Machine;
            self.0.insert(name, Input { value, origin });
        }
    }

    /// Reads a file; false if there is none.
    ///
    /// # Errors
    /// It cannot be read, or see [`Inputs::add`].
    pub fn read(&mut self, path: &Path) -> anyhow::Result<bool> {
        match std::fs::read_to_string(path) {
            Ok(text) => {
                self.add(&text, &Origin::File(path.to_owned()))?;
                Ok(true)
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(e) => bail!("cannot read {}: {e}", path.display()),
        }
    }

    pub(super) fn fragment(&self) -> anyhow::Result<Fragment> {
        let mut table = Table::new();
        for (name, input) in &self.0 {
            match name.split_once('.') {
                None => table.insert((*name).to_owned(), input.value.clone()),
                Some((section, key)) => {
                    let section = table.entry(section).or_insert_with(|| Table::new().into());
                    let section = section.as_table_mut().context("sections are tables")?;
                    section.insert(key.to_owned(), input.value.clone())
                }
            };
        }
        Ok(Fragment::deserialize(table)?)
    }

    /// The error for a value that an option cannot have, with its place.
    #[must_use]
    pub fn reject(&self, name: &str, expected: &str) -> anyhow::Error {
        match self.0.get(name) {
            Some(input) => anyhow::anyhow!(
                "{name} = {} ({}): {expected}",
                shown(name, &input.value),
                input.origin
            ),
            None => anyhow::anyhow!("{name} has no value: {expected}"),
        }
    }

    #[must_use]
    pub fn origin(&self, name: &str) -> Option<&Origin> {
        self.0.get(name).map(|input| &input.origin)
    }

    /// Every option that has a value, in the order of the reference: its name, its value unless that is
    /// secret, and its origin.
    pub fn list(&self) -> impl Iterator<Item = (&'static str, Value, &Origin)> {
        OPTIONS.iter().filter_map(|name| {
            let input = self.0.get(name)?;
            Some((*name, shown(name, &input.value), &input.origin))
        })
    }
}

fn shown(name: &str, value: &Value) -> Value {
    match SECRETS.contains(&name) {
        true => Value::String(HIDDEN.to_owned()),
        false => value.clone(),
    }
}

fn find<'a>(table: &'a Table, name: &str) -> Option<&'a Value> {
    match name.split_once('.') {
        None => table.get(name),
        Some((section, key)) => table.get(section)?.get(key),
    }
}

/// `FILE:LINE: what is wrong`, on one line and without quoting the file: it may hold a key.
fn explain(error: &toml::de::Error, text: &str, origin: &Origin) -> String {
    let message = error.message().replace('\n', ", ");
    match (origin, error.span()) {
        (Origin::File(_), Some(Range { start, .. })) => {
            let line = 1 + text.bytes().take(start).filter(|b| *b == b'\n').count();
            format!("{origin}:{line}: {message}")
        }
        // Whoever typed it sees the option before this.
        (Origin::CommandLine, _) => message,
        _ => format!("{origin}: {message}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        let origin = Origin::File(PathBuf::from("/etc/p.toml"));
        let error = Inputs::default().add(text, &origin).unwrap_err();
        error.to_string()
    }

    #[test]
    fn an_unknown_option_is_an_error_that_names_file_line_and_option() {
        let text = error("pool = \"a\"\n[engines]\ncuont = 3\n");
        assert!(
            text.starts_with("/etc/p.toml:3: unknown field `cuont`"),
            "{text}"
        );
        assert!(text.contains("`count`"), "{text}");
        assert!(!text.contains('\n'), "{text}");
        assert!(error("[enginess]\n").contains("enginess"));
    }

    #[test]
    fn a_wrong_type_and_bad_syntax_name_the_line() {
        assert!(error("\n\nnetwork.port = 70000\n").starts_with("/etc/p.toml:3: "));
        assert!(error("pool = \n").starts_with("/etc/p.toml:1: "));
    }

    #[test]
    fn an_error_does_not_quote_a_secret() {
        let text = error("join_key = \"ABCDEF\npool = 3");
        assert!(!text.contains("ABCDEF"), "{text}");
    }

    #[test]
    fn an_assignment_takes_toml_or_plain_text() {
        let mut inputs = Inputs::default();
        inputs.assign("engines.count=2").unwrap();
        inputs.assign("pool=class a").unwrap();
        inputs.assign("engines.imports=[\"numpy\"]").unwrap();
        let fragment = inputs.fragment().unwrap();
        assert_eq!(fragment.engines.count, Some(2));
        assert_eq!(fragment.pool.as_deref(), Some("class a"));
        assert_eq!(fragment.engines.imports.unwrap(), ["numpy"]);
        let error = |text| format!("{:#}", Inputs::default().assign(text).unwrap_err());
        assert!(error("cuont=1").starts_with("--set cuont: unknown field `cuont`"));
        assert!(error("engines.count=x").starts_with("--set engines.count: invalid type"));
        assert!(error("pool").contains("KEY=VALUE"));
    }

    #[test]
    fn the_reference_has_every_option_and_no_other() {
        let reference = include_str!("defaults.toml");
        let mut section = String::new();
        let mut found: Vec<String> = Vec::new();
        for line in reference.lines() {
            if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
                section = format!("{name}.");
            }
            let line = line.strip_prefix("# ").unwrap_or(line);
            let is_name =
                |k: &&str| !k.is_empty() && k.bytes().all(|b| b == b'_' || b.is_ascii_lowercase());
            if let Some(key) = line.split_once(" = ").map(|(key, _)| key).filter(is_name) {
                found.push(format!("{section}{key}"));
            }
        }
        assert_eq!(found, OPTIONS);
    }
}
