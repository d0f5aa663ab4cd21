//! The command line of stock `ipcontroller`, with the habits of traitlets: `--Class.trait=value`,
//! `--name=value`, `--name value` and flags. Unknown names are refused.

use super::config::{Config, Rank};
use super::traits;
use super::value::Value;

/// What the command line asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    Help,
    HelpAll,
    Run,
    ShowConfig,
    ShowConfigJson,
    Version,
}

/// Reads the arguments after the program's name into `config`.
///
/// # Errors
/// A name without its value, or a flag with one: the message for the user, exit code 2 in stock.
pub fn parse(args: &[String], config: &mut Config) -> Result<Request, String> {
    let end = args.iter().position(|a| a == "--").unwrap_or(args.len());
    let args = &args[..end];
    if let Some(request) = early_request(args) {
        return Ok(request);
    }
    let mut request = Request::Run;
    let mut collected: Vec<(String, Vec<String>)> = Vec::new();
    let mut flags = Vec::new();
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        let Some(option) = arg.strip_prefix("--").or_else(|| short_option(arg)) else {
            config.warnings.push(format!(
                "argument {arg} has no effect: options begin with --"
            ));
            continue;
        };
        let (name, given) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (option, None),
        };
        match name {
            "show-config" => request = Request::ShowConfig,
            "show-config-json" => request = Request::ShowConfigJson,
            _ if is_flag(name, given.is_some(), rest.as_slice()) => flags.push(name),
            _ if traits::find_flag(name).is_some() && traits::find_alias(name).is_none() => {
                return Err(format!("option --{name} takes no value"));
            }
            _ => {
                let value = given
                    .or_else(|| {
                        rest.as_slice()
                            .first()
                            .filter(|v| is_value(v))
                            .map(|_| rest.next().cloned().unwrap_or_default())
                    })
                    .ok_or_else(|| format!("option --{name} expects a value: --{name}=VALUE"))?;
                match collected.iter_mut().find(|(n, _)| n == name) {
                    Some((_, values)) => values.push(value),
                    None => collected.push((name.to_owned(), vec![value])),
                }
            }
        }
    }
    for (name, values) in collected {
        assign(config, &name, values)?;
    }
    for flag in flags.iter().filter_map(|name| traits::find_flag(name)) {
        for (class, name, value) in flag.sets {
            let origin = format!("--{}", flag.name);
            config.assign(
                class,
                name,
                Value::untyped(*value),
                Rank::CommandLine,
                &origin,
            );
        }
    }
    Ok(request)
}

fn early_request(args: &[String]) -> Option<Request> {
    let has = |names: &[&str]| args.iter().any(|a| names.contains(&a.as_str()));
    if has(&["--help-all"]) {
        Some(Request::HelpAll)
    } else if has(&["--help", "-h"]) {
        Some(Request::Help)
    } else if has(&["--version", "-V"]) {
        Some(Request::Version)
    } else {
        None
    }
}

/// traitlets takes `-name=value` as well, unless it is a number.
fn short_option(arg: &str) -> Option<&str> {
    arg.strip_prefix('-')
        .filter(|rest| rest.starts_with(|c: char| c.is_ascii_alphabetic()))
}

/// A flag is one without a value; `log-to-file` may have one.
fn is_flag(name: &str, has_value: bool, rest: &[String]) -> bool {
    let takes_value = traits::find_alias(name).is_some();
    let next_is_value = rest.first().is_some_and(|v| is_value(v));
    traits::find_flag(name).is_some() && !has_value && !(takes_value && next_is_value)
}

fn is_value(arg: &str) -> bool {
    !arg.starts_with('-') || arg == "-" || arg.parse::<f64>().is_ok()
}

/// An unknown `Class.trait` is only warned about, an unknown short name is a typing error: as in stock.
fn assign(config: &mut Config, name: &str, values: Vec<String>) -> Result<(), String> {
    let origin = format!("--{name}");
    if let Some((class, name)) = name.rsplit_once('.') {
        config.assign(
            class,
            name,
            Value::Untyped(values),
            Rank::CommandLine,
            &origin,
        );
    } else if let Some(known) = traits::find_alias(name) {
        let value = Value::Untyped(values);
        config.assign(known.class, known.name, value, Rank::CommandLine, &origin);
    } else {
        let names = traits::TRAITS
            .iter()
            .filter_map(|t| t.alias)
            .chain(traits::FLAGS.iter().map(|f| f.name));
        let hint = traits::nearest(name, names)
            .map_or(String::new(), |n| format!(", did you mean --{n}?"));
        return Err(format!("option --{name} is not known{hint}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(args: &[&str]) -> (Config, Result<Request, String>) {
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        let mut config = Config::default();
        let request = parse(&args, &mut config);
        (config, request)
    }

    fn text(config: &Config, class: &str, name: &str) -> Option<String> {
        config.read(class, name, Value::as_text).unwrap()
    }

    #[test]
    fn every_form_of_an_option() {
        for args in [
            &["--ping=200"][..],
            &["--ping", "200"],
            &["--HeartMonitor.period=200"],
            &["--HeartMonitor.period", "200"],
            &["-ping=200"],
        ] {
            let (config, request) = run(args);
            assert_eq!(request, Ok(Request::Run));
            assert_eq!(
                text(&config, "HeartMonitor", "period").as_deref(),
                Some("200"),
                "{args:?}"
            );
            assert_eq!(config.warnings, Vec::<String>::new());
        }
    }

    #[test]
    fn values_may_contain_an_equals_sign_or_be_negative() {
        let (config, _) = run(&["--Session.key=a=b", "--hwm", "-1", "--cluster-id="]);
        assert_eq!(text(&config, "Session", "key").as_deref(), Some("a=b"));
        assert_eq!(text(&config, "TaskScheduler", "hwm").as_deref(), Some("-1"));
        assert_eq!(
            text(&config, "IPController", "cluster_id").as_deref(),
            Some("")
        );
    }

    #[test]
    fn flags_set_their_options_and_repeated_options_add_up() {
        let (config, _) = run(&["--restore", "--ports=1-3", "--ports", "7", "--sqlitedb"]);
        let on = |name| config.read("IPController", name, Value::as_bool).unwrap();
        assert_eq!(
            (on("reuse_files"), on("restore_engines")),
            (Some(true), Some(true))
        );
        assert_eq!(
            text(&config, "IPController", "db_class").as_deref(),
            Some("SQLiteDB")
        );
        let ports = config
            .read("IPController", "ports", Value::as_ports)
            .unwrap();
        assert_eq!(ports.map(|p| p.len()), Some(2));
    }

    #[test]
    fn log_to_file_is_a_flag_that_may_have_a_value() {
        for (args, on) in [
            (&["--log-to-file"][..], true),
            (&["--log-to-file", "--debug"], true),
            (&["--log-to-file=False"], false),
            (&["--log-to-file", "True"], true),
        ] {
            let (config, _) = run(args);
            let read = config.read("IPController", "log_to_file", Value::as_bool);
            assert_eq!(read.unwrap(), Some(on), "{args:?}");
        }
    }

    #[test]
    fn a_missing_or_surplus_value_is_an_error() {
        for args in [
            &["--ping"][..],
            &["--ping", "--debug"],
            &["--bad"],
            &["--nodb=1"],
        ] {
            assert!(run(args).1.is_err(), "{args:?}");
        }
    }

    #[test]
    fn unknown_names_are_refused_with_the_nearest_known_one() {
        let refused = run(&["--pin=200"]).1.unwrap_err();
        assert!(refused.contains("did you mean --ping?"), "{refused}");
        let (config, request) = run(&["extra", "--", "--ping"]);
        assert_eq!(request, Ok(Request::Run));
        assert_eq!(config.warnings.len(), 1);
    }

    #[test]
    fn questions_come_before_everything_else() {
        assert_eq!(run(&["--ping", "--version"]).1, Ok(Request::Version));
        assert_eq!(
            run(&["--bad", "--help-all", "--help"]).1,
            Ok(Request::HelpAll)
        );
        assert_eq!(
            run(&["--ping=3", "--show-config"]).1,
            Ok(Request::ShowConfig)
        );
    }
}
