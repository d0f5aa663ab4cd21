//! `piparallel ipcontroller`: the command line of stock `ipcontroller`, also under that name.

use std::fmt::Write as _;

use super::controller::serve;
use super::exit::Exit;
use crate::python::installed_version;
use crate::settings::command_line::{self, Request};
use crate::settings::config::{Config, is_secret};
use crate::settings::load::merge;
use crate::settings::sources::Environment;
use crate::settings::traits::{Effect, FLAGS, TRAITS, Trait};

/// # Errors
/// The controller cannot start, or ended with a failure.
pub fn run(args: &[String]) -> anyhow::Result<Exit> {
    let mut config = Config::default();
    let request = match command_line::parse(args, &mut config) {
        Ok(request) => request,
        Err(message) => {
            eprintln!("ipcontroller: error: {message} (ipcontroller --help lists the options)");
            return Ok(Exit::Usage);
        }
    };
    let environment = Environment::of_process()?;
    match request {
        Request::Help => super::print(&help()),
        Request::HelpAll => super::print(&(help() + &help_all())),
        Request::Run => return serve(config),
        Request::ShowConfig => super::print(&shown(&merge(config, &environment)?.config)),
        Request::ShowConfigJson => {
            let config = merge(config, &environment)?.config;
            super::print(&(serde_json::to_string_pretty(&as_json(&config))? + "\n"));
        }
        Request::Version => super::print(&(installed_version(&environment) + "\n")),
    }
    Ok(Exit::Success)
}

const INTRODUCTION: &str = "\
Start the controller of an IPython Parallel pool: stock ipcontroller's options,
environment and files, by piparallel.

Clients and engines find the controller by the connection files that it writes
to the profile's security directory.

Options
=======
";

const EXAMPLES: &str = "\
Examples
========

    ipcontroller --ip=192.168.0.1 --ports=10101-10120
    ipcontroller --ip='*' --sqlitedb

To see all options, use `--help-all`.
";

fn help() -> String {
    let mut text = INTRODUCTION.to_owned();
    for flag in FLAGS {
        let sets: Vec<_> = flag
            .sets
            .iter()
            .map(|(class, name, value)| {
                format!("--{class}.{name}={}", value.trim_start_matches('\0'))
            })
            .collect();
        option(
            &mut text,
            &format!("--{}", flag.name),
            flag.help,
            &sets.join(" "),
        );
    }
    for (name, help) in [
        (
            "--show-config",
            "show the options that are set, and where, and exit",
        ),
        ("--show-config-json", "the same as JSON"),
        ("--version", "show the version of ipyparallel and exit"),
        ("--help, --help-all", "show this, or every option, and exit"),
    ] {
        option(&mut text, name, help, "");
    }
    for known in TRAITS {
        if let Some(alias) = known.alias {
            let full = format!("--{}.{}", known.class, known.name);
            option(
                &mut text,
                &format!("--{alias}=<value>"),
                &described(known),
                &full,
            );
        }
    }
    text + "\n" + EXAMPLES
}

fn help_all() -> String {
    let mut text = "\nClass options\n=============\n".to_owned();
    for known in TRAITS {
        let full = format!("--{}.{}=<value>", known.class, known.name);
        option(&mut text, &full, &described(known), "");
    }
    text
}

fn described(known: &Trait) -> String {
    match known.effect {
        Effect::Full => format!("{} Default: {}", known.help, known.default),
        Effect::Nothing(reason) => format!("No effect: {reason}."),
    }
}

/// Writing to a String does not fail.
fn option(text: &mut String, name: &str, help: &str, equivalent: &str) {
    let _ = writeln!(text, "{name}");
    for line in wrapped(help, 72) {
        let _ = writeln!(text, "    {line}");
    }
    if !equivalent.is_empty() {
        let _ = writeln!(text, "    Equivalent to: [{equivalent}]");
    }
}

fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// As stock shows it, with the origin of each value.
fn shown(config: &Config) -> String {
    let mut text = String::new();
    let mut last = "";
    for (class, name, assigned) in config.iter() {
        if class != last {
            let _ = writeln!(text, "{class}");
            last = class;
        }
        let value = if is_secret(class, name) {
            "<secret>".to_owned()
        } else {
            assigned.value.to_string()
        };
        let _ = writeln!(text, "  .{name} = {value}  # {}", assigned.origin);
    }
    text
}

fn as_json(config: &Config) -> serde_json::Value {
    let mut classes = serde_json::Map::new();
    for (class, name, assigned) in config.iter() {
        let value = if is_secret(class, name) {
            serde_json::Value::from("<secret>")
        } else {
            serde_json::Value::from(&assigned.value)
        };
        let class = classes
            .entry(class)
            .or_insert_with(|| serde_json::Value::Object(serde_json::Map::new()));
        if let Some(class) = class.as_object_mut() {
            class.insert(name.to_owned(), value);
        }
    }
    serde_json::Value::Object(classes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_names_every_option_and_every_line_fits() {
        let text = help() + &help_all();
        for known in TRAITS {
            assert!(text.contains(&format!("--{}.{}", known.class, known.name)));
        }
        for flag in FLAGS {
            assert!(text.contains(&format!("\n--{}\n", flag.name)));
        }
        assert!(!text.contains('\0'));
    }

    #[test]
    fn what_is_set_is_shown_with_its_origin_and_without_secrets() {
        let mut config = Config::default();
        let args = ["--ping=200".to_owned(), "--Session.key=abc".to_owned()];
        command_line::parse(&args, &mut config).unwrap();
        let text = shown(&config);
        assert_eq!(
            text,
            "HeartMonitor\n  .period = '200'  # --ping\nSession\n  .key = <secret>  # --Session.key\n"
        );
        assert_eq!(as_json(&config)["HeartMonitor"]["period"], "200");
        assert_eq!(as_json(&config)["Session"]["key"], "<secret>");
    }
}
