//! From inputs to settings: types, limits, and the rules between options.

use std::path::{Path, PathBuf};
use std::time::Duration;

use piparallel_core::join::keys::SharedKey;
use piparallel_core::join::opening::POOL_NAME_MAX;

use super::fragment::{Engines, Fragment, Network, Tasks};
use super::inputs::Inputs;
use super::{
    Database, EngineSettings, HostPort, InterfaceFilter, NetworkSettings, NodeSettings, Role,
    TaskSettings,
};
use crate::settings::Scheme;
use crate::settings::value::Value;

/// Bytes of a pool's or node's name.
const NAME_MAX: usize = POOL_NAME_MAX;
/// Engines on one node; more of them is a typing error.
const ENGINES_MAX: u32 = 4096;
/// Python needs about this much to start at all.
const MEMORY_MIN: u64 = 32 << 20;
/// Longer is taken for a typing error.
const DURATION_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// # Errors
/// An option has a value that it cannot have; the message names option, value, origin and what is expected.
pub(super) fn resolve(inputs: &Inputs) -> anyhow::Result<NodeSettings> {
    let Fragment {
        pool,
        role,
        name,
        controller,
        join_key,
        join_key_file,
        takeover_after,
        log_level,
        state_dir,
        run_dir,
        network,
        engines,
        tasks,
    } = inputs.fragment()?;
    let options = Options(inputs);
    let network = resolve_network(&options, network)?;
    let takeover_after = options.duration("takeover_after", takeover_after)?;
    let parse = |name: &str, text: &str| {
        let key = text.parse::<SharedKey>();
        key.map_err(|cause| inputs.reject(name, &cause.to_string()))
    };
    let join_key = join_key.filter(|key| !key.is_empty());
    if join_key.is_some() && join_key_file.is_some() {
        return Err(inputs.reject("join_key_file", "join_key is set too; keep one of them"));
    }
    let join_key = match (join_key, join_key_file) {
        (Some(text), _) => Some(parse("join_key", &text)?),
        (None, Some(path)) => {
            let text = options.key_in("join_key_file", Path::new(&path))?;
            Some(parse("join_key_file", &text)?)
        }
        (None, None) => None,
    };
    Ok(NodeSettings {
        pool: options.name("pool", pool)?,
        role: options.choice(
            "role",
            role,
            &[
                ("auto", Role::Auto),
                ("controller", Role::Controller),
                ("engine", Role::Engine),
            ],
        )?,
        name: options.name("name", name)?,
        controller: match controller.filter(|text| !text.is_empty()) {
            Some(text) => Some(host_port(&text, network.port).ok_or_else(|| {
                inputs.reject(
                    "controller",
                    "expects a host or an address, with or without :PORT",
                )
            })?),
            None => None,
        },
        join_key,
        takeover_after: Some(takeover_after).filter(|after| !after.is_zero()),
        log_level: options.choice(
            "log_level",
            log_level,
            &[
                ("error", log::LevelFilter::Error),
                ("warn", log::LevelFilter::Warn),
                ("info", log::LevelFilter::Info),
                ("debug", log::LevelFilter::Debug),
                ("trace", log::LevelFilter::Trace),
            ],
        )?,
        state_dir: options.dir("state_dir", state_dir)?,
        run_dir: options.dir("run_dir", run_dir)?,
        network,
        engines: resolve_engines(&options, engines)?,
        tasks: resolve_tasks(&options, tasks)?,
    })
}

fn resolve_network(options: &Options<'_>, network: Network) -> anyhow::Result<NetworkSettings> {
    let port = network.port.unwrap_or_default();
    if port == 0 {
        return Err(options.reject("network.port", "expects a port, 1 to 65535"));
    }
    let ports = network.ports.unwrap_or_default();
    let ports = Value::Text(ports).as_ports();
    let ports = ports.map_err(|expected| options.reject("network.ports", &expected))?;
    let location = network.location.filter(|text| !text.is_empty());
    let location = location.map(|text| text.parse()).transpose();
    Ok(NetworkSettings {
        port,
        ports,
        location: location
            .map_err(|_| options.reject("network.location", "expects an IPv4 address"))?,
        interfaces: InterfaceFilter {
            only: network.interfaces.unwrap_or_default(),
            leave_out: network.leave_out.unwrap_or_default(),
        },
        multicast: options.given("network.multicast", network.multicast)?,
    })
}

fn resolve_engines(options: &Options<'_>, engines: Engines) -> anyhow::Result<EngineSettings> {
    let count = options.given("engines.count", engines.count)?;
    if count > ENGINES_MAX {
        return Err(options.reject("engines.count", &format!("at most {ENGINES_MAX}")));
    }
    let nice = options.given("engines.nice", engines.nice)?;
    if !(0..=19).contains(&nice) {
        return Err(options.reject("engines.nice", "expects 0 to 19"));
    }
    let imports = engines.imports.unwrap_or_default();
    if !imports.iter().all(|name| is_module(name)) {
        return Err(options.reject("engines.imports", "expects names of Python modules"));
    }
    let memory_limit = match engines.memory_limit.filter(|text| !text.is_empty()) {
        Some(text) => Some(bytes(&text).filter(|b| *b >= MEMORY_MIN).ok_or_else(|| {
            options.reject(
                "engines.memory_limit",
                "expects at least 32M, as \"512M\" or \"2G\"",
            )
        })?),
        None => None,
    };
    Ok(EngineSettings {
        count,
        on_controller: options.given("engines.on_controller", engines.on_controller)?,
        python: engines.python.filter(|p| !p.is_empty()).map(PathBuf::from),
        imports,
        memory_limit,
        nice,
        user: engines.user.filter(|user| !user.is_empty()),
        dir: engines.dir.filter(|dir| !dir.is_empty()).map(PathBuf::from),
        drain_timeout: options.duration("engines.drain_timeout", engines.drain_timeout)?,
    })
}

fn resolve_tasks(options: &Options<'_>, tasks: Tasks) -> anyhow::Result<TaskSettings> {
    Ok(TaskSettings {
        database: options.choice(
            "tasks.database",
            tasks.database,
            &[
                ("sqlite", Database::Sqlite),
                ("memory", Database::Memory),
                ("none", Database::None),
            ],
        )?,
        scheme: options.choice(
            "tasks.scheme",
            tasks.scheme,
            &Scheme::ALL.map(|scheme| (scheme.name(), scheme)),
        )?,
        hwm: Some(options.given("tasks.hwm", tasks.hwm)?).filter(|hwm| *hwm > 0),
    })
}

/// Types that TOML does not have.
struct Options<'a>(&'a Inputs);

impl Options<'_> {
    fn reject(&self, name: &str, expected: &str) -> anyhow::Error {
        self.0.reject(name, expected)
    }

    /// A value that the defaults have.
    fn given<T>(&self, name: &str, value: Option<T>) -> anyhow::Result<T> {
        value.ok_or_else(|| self.reject(name, "expects one"))
    }

    fn choice<T: Copy>(
        &self,
        name: &str,
        value: Option<String>,
        all: &[(&str, T)],
    ) -> anyhow::Result<T> {
        let value = self.given(name, value)?;
        let found = all.iter().find(|(text, _)| *text == value);
        found.map(|(_, choice)| *choice).ok_or_else(|| {
            let texts: Vec<_> = all.iter().map(|(text, _)| *text).collect();
            self.reject(name, &format!("expects one of {}", texts.join(", ")))
        })
    }

    fn name(&self, name: &str, value: Option<String>) -> anyhow::Result<String> {
        let value = self.given(name, value)?;
        let fits = (1..=NAME_MAX).contains(&value.len()) && !value.chars().any(char::is_control);
        match fits {
            true => Ok(value),
            false => Err(self.reject(name, "expects 1 to 63 bytes of text on one line")),
        }
    }

    fn dir(&self, name: &str, value: Option<String>) -> anyhow::Result<PathBuf> {
        let path = PathBuf::from(self.given(name, value)?);
        match path.is_absolute() {
            true => Ok(path),
            false => Err(self.reject(name, "expects a path from the root: /...")),
        }
    }

    fn duration(&self, name: &str, value: Option<String>) -> anyhow::Result<Duration> {
        let parsed = humantime::parse_duration(&self.given(name, value)?).ok();
        parsed.filter(|d| *d <= DURATION_MAX).ok_or_else(|| {
            self.reject(
                name,
                "expects a time of at most 7 days, as \"30s\" or \"5m\"",
            )
        })
    }

    fn key_in(&self, name: &str, path: &Path) -> anyhow::Result<String> {
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|e| self.reject(name, &format!("cannot be read: {e}")))?;
        match text.trim() {
            "" => Err(self.reject(name, "the file is empty")),
            key => Ok(key.to_owned()),
        }
    }
}

/// `host`, `host:port`, `1.2.3.4:port`, `::1`, `[::1]:port`.
fn host_port(text: &str, default_port: u16) -> Option<HostPort> {
    let parse = |port: &str| port.parse().ok().filter(|port| *port > 0);
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']')? {
            (host, "") => (host, default_port),
            (host, rest) => (host, parse(rest.strip_prefix(':')?)?),
        },
        None => match text.split_once(':') {
            None => (text, default_port),
            Some((_, rest)) if rest.contains(':') => (text, default_port),
            Some((host, port)) => (host, parse(port)?),
        },
    };
    let fits = !host.is_empty() && !host.contains(char::is_whitespace) && !host.contains('/');
    let host = host.to_owned();
    fits.then_some(HostPort { host, port })
}

/// `512M`: bytes, or K, M, G with powers of 1024, as systemd has them.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &text[digits.len()..] {
        "" | "B" => 0,
        "K" | "KiB" => 10,
        "M" | "MiB" => 20,
        "G" | "GiB" => 30,
        _ => return None,
    };
    digits.trim().parse::<u64>().ok()?.checked_mul(1 << shift)
}

fn is_module(name: &str) -> bool {
    let is_part = |part: &str| {
        !part.is_empty()
            && !part.starts_with(|c: char| c.is_ascii_digit())
            && part.chars().all(|c| c == '_' || c.is_alphanumeric())
    };
    name.split('.').all(is_part)
}

#[cfg(test)]
mod tests {
    use super::super::Origin;
    use super::*;

    fn inputs(assignments: &[&str]) -> Inputs {
        let mut inputs = Inputs::default();
        inputs
            .add(include_str!("defaults.toml"), &Origin::Default)
            .unwrap();
        inputs.add_machine("pi", 4);
        for assignment in assignments {
            inputs.assign(assignment).unwrap();
        }
        inputs
    }

    fn settings(assignments: &[&str]) -> NodeSettings {
        resolve(&inputs(assignments)).unwrap()
    }

    fn error(assignment: &str) -> String {
        let error = resolve(&inputs(&[assignment])).err().unwrap();
        error.to_string()
    }

    #[test]
    fn the_defaults_are_valid() {
        let s = settings(&[]);
        assert_eq!(
            (s.network.port, s.engines.count, s.tasks.hwm),
            (7373, 4, Some(1))
        );
        assert_eq!(s.takeover_after, Some(Duration::from_secs(300)));
        assert_eq!(s.tasks.database, Database::Sqlite);
        assert!(s.network.interfaces.allows("eth0", false));
        assert!(!s.network.interfaces.allows("tailscale0", false));
        assert!(s.join_key.is_none() && s.controller.is_none());
    }

    #[test]
    fn values_are_parsed_to_their_types() {
        let s = settings(&[
            "takeover_after=0s",
            "engines.memory_limit=512M",
            "tasks.hwm=0",
            "tasks.scheme=lru",
            "controller=[fe80::1]:99",
            "network.location=10.0.0.9",
        ]);
        assert_eq!(s.takeover_after, None);
        assert_eq!(s.engines.memory_limit, Some(512 << 20));
        assert_eq!((s.tasks.hwm, s.tasks.scheme), (None, Scheme::Lru));
        assert_eq!(s.controller.unwrap().to_string(), "[fe80::1]:99");
        assert_eq!(s.network.location.unwrap().octets(), [10, 0, 0, 9]);
    }

    #[test]
    fn a_value_that_cannot_be_is_refused_with_its_origin_and_what_is_expected() {
        let text = error("role=boss");
        assert_eq!(
            text,
            "role = \"boss\" (command line): expects one of auto, controller, engine"
        );
        for (assignment, part) in [
            ("network.port=0", "1 to 65535"),
            ("network.ports=9-1", "network.ports"),
            ("engines.count=5000", "at most 4096"),
            ("engines.nice=-3", "0 to 19"),
            ("engines.imports=[\"os; import x\"]", "Python modules"),
            ("engines.memory_limit=1M", "at least 32M"),
            ("engines.memory_limit=99999999999G", "at least 32M"),
            ("takeover_after=soon", "\"5m\""),
            ("state_dir=here", "from the root"),
            ("pool=", "63 bytes"),
            ("name=\"a\\nb\"", "one line"),
            ("controller=a b", "a host"),
            ("tasks.database=mongodb", "sqlite, memory, none"),
            ("network.location=pi", "IPv4"),
        ] {
            let text = error(assignment);
            assert!(text.contains(part), "{assignment}: {text}");
        }
    }

    #[test]
    fn hosts_have_ports_or_get_the_default() {
        let text = |text| host_port(text, 7373).map(|h| h.to_string());
        assert_eq!(text("pi.local").as_deref(), Some("pi.local:7373"));
        assert_eq!(text("10.0.0.1:5").as_deref(), Some("10.0.0.1:5"));
        assert_eq!(text("fe80::1").as_deref(), Some("[fe80::1]:7373"));
        assert_eq!(text("[fe80::1]").as_deref(), Some("[fe80::1]:7373"));
        for bad in ["", ":5", "a:0", "a:x", "[::1", "[::1]x", "http://pi"] {
            assert_eq!(text(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_join_key_comes_from_one_place() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        let key = SharedKey::new([7; 32]);
        std::fs::write(&file, format!(" {}\n", key.to_text())).unwrap();
        let from_file = format!("join_key_file={}", file.display());
        let s = settings(&[&from_file]);
        assert!(s.join_key == Some(key));
        assert!(error("join_key=SECRET").contains("52 letters"));
        assert!(!error("join_key=SECRET").contains("SECRET"));
        let both = resolve(&inputs(&[&from_file, "join_key=SECRET"]));
        let text = both.err().unwrap().to_string();
        assert!(
            text.contains("keep one") && !text.contains("SECRET"),
            "{text}"
        );
        assert!(error("join_key_file=/none").contains("cannot be read"));
    }
}
