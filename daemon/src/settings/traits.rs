//! The options of stock `ipcontroller`, by the names that its files and command line use, and ours.
//!
//! One table serves the parser, the warnings about unknown names, `--help-all` and the file that
//! `--init` writes.

/// What an option does here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    Full,
    /// Understood, and without effect for the reason given; setting it is logged.
    Nothing(&'static str),
}

/// One option.
#[derive(Clone, Copy, Debug)]
pub struct Trait {
    pub class: &'static str,
    pub name: &'static str,
    /// Short name on the command line, without dashes.
    pub alias: Option<&'static str>,
    /// As Python writes it.
    pub default: &'static str,
    pub help: &'static str,
    pub effect: Effect,
}

/// A short name that sets options without taking a value.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    pub name: &'static str,
    /// Class, trait and value, as on the command line.
    pub sets: &'static [(&'static str, &'static str, &'static str)],
    pub help: &'static str,
}

/// Where each option is filed, whichever of its older or inherited names was used.
#[must_use]
pub fn canonical_class(class: &str) -> &str {
    match class {
        "HubFactory"
        | "IPControllerApp"
        | "BaseParallelApplication"
        | "BaseIPythonApplication"
        | "Application" => "IPController",
        other => other,
    }
}

/// The option, or `None` for a name that is not known.
#[must_use]
pub fn find(class: &str, name: &str) -> Option<&'static Trait> {
    TRAITS.iter().find(|t| t.class == class && t.name == name)
}

#[must_use]
pub fn find_alias(alias: &str) -> Option<&'static Trait> {
    TRAITS.iter().find(|t| t.alias == Some(alias))
}

#[must_use]
pub fn find_flag(name: &str) -> Option<&'static Flag> {
    FLAGS.iter().find(|f| f.name == name)
}

/// Whether options of this class concern a controller at all. Files are shared by programs.
#[must_use]
pub fn is_class(class: &str) -> bool {
    TRAITS.iter().any(|t| t.class == class)
}

/// The known name nearest to a mistyped one, if any is near.
#[must_use]
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|k| (distance(name, k), k))
        .filter(|(d, k)| *d <= 1 + k.len() / 4)
        .min()
        .map(|(_, k)| k)
}

/// Edits between two words (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

const fn full(
    class: &'static str,
    name: &'static str,
    alias: &'static str,
    default: &'static str,
    help: &'static str,
) -> Trait {
    Trait {
        class,
        name,
        alias: if alias.is_empty() { None } else { Some(alias) },
        default,
        help,
        effect: Effect::Full,
    }
}

const fn idle(
    class: &'static str,
    name: &'static str,
    alias: &'static str,
    default: &'static str,
    reason: &'static str,
) -> Trait {
    Trait {
        class,
        name,
        alias: if alias.is_empty() { None } else { Some(alias) },
        default,
        help: reason,
        effect: Effect::Nothing(reason),
    }
}

/// Every option.
#[rustfmt::skip]
pub const TRAITS: &[Trait] = &[
    full("IPController", "ip", "ip", "'127.0.0.1'", "Address to listen on: an IPv4 address, several separated by commas, a network interface's name, a host name, or * for all."),
    full("IPController", "client_ip", "", "ip", "The same for clients only."),
    full("IPController", "engine_ip", "", "ip", "The same for engines only."),
    full("IPController", "location", "location", "found out", "The address under which other machines reach this one."),
    full("IPController", "transport", "transport", "'tcp'", "tcp is the only transport."),
    full("IPController", "client_transport", "", "'tcp'", "tcp is the only transport."),
    full("IPController", "engine_transport", "", "'tcp'", "tcp is the only transport."),
    full("IPController", "ports", "ports", "[]", "Ports to use, such as 10101-10120; 14 are needed. In a range, ports in use are passed over."),
    full("IPController", "client_ports", "", "[]", "Ports for the sockets of clients; then those of `ports`."),
    full("IPController", "engine_ports", "", "[]", "Ports for the sockets of engines; then those of `ports`."),
    full("IPController", "regport", "port", "0", "Port of registration alone (stock calls it deprecated: use `ports`)."),
    full("IPController", "notifier_port", "", "0", "Port of notifications alone (deprecated: use `ports`)."),
    full("IPController", "hb", "", "(0, 0)", "Ports of heartbeats, ping and pong (deprecated: use `ports`)."),
    full("IPController", "mux", "", "(0, 0)", "Ports of mux, client and engine side (deprecated: use `ports`)."),
    full("IPController", "task", "", "(0, 0)", "Ports of tasks, client and engine side (deprecated: use `ports`)."),
    full("IPController", "control", "", "(0, 0)", "Ports of control, client and engine side (deprecated: use `ports`)."),
    full("IPController", "iopub", "", "(0, 0)", "Ports of output, client and engine side (deprecated: use `ports`)."),
    full("IPController", "ssh_server", "ssh", "''", "[user@]server[:port] through which clients tunnel."),
    full("IPController", "engine_ssh_server", "enginessh", "''", "[user@]server[:port] through which engines tunnel."),
    full("IPController", "reuse_files", "", "False", "Take ports and key from the connection files that are there, and leave them at exit."),
    full("IPController", "restore_engines", "", "False", "Take back the engines of the previous controller; use with reuse_files."),
    full("IPController", "client_json_file", "", "'ipcontroller-client.json'", "Name of the clients' connection file."),
    full("IPController", "engine_json_file", "", "'ipcontroller-engine.json'", "Name of the engines' connection file."),
    full("IPController", "enable_curve", "", "False", "Encrypt and authenticate every connection (CURVE)."),
    full("IPController", "curve_secretkey", "", "generated", "The controller's secret CURVE key (Z85)."),
    full("IPController", "curve_publickey", "", "generated", "The controller's public CURVE key (Z85); must fit the secret one."),
    full("IPController", "db_class", "", "'DictDB'", "Where task records go: DictDB (memory), SQLiteDB or NoDB."),
    full("IPController", "registration_timeout", "", "max(30, 10 heartbeats)", "Seconds that an engine may take from registration to its first heartbeat."),
    full("IPController", "broadcast_scheduler_depth", "", "1", "Accepted from 0 to 16; one scheduler serves every engine at any depth."),
    full("IPController", "cluster_id", "cluster-id", "''", "Part of the file names, so that several controllers can share a profile."),
    full("IPController", "profile", "profile", "'default'", "The IPython profile."),
    full("IPController", "ipython_dir", "ipython-dir", "~/.ipython", "Where profiles are ($IPYTHONDIR)."),
    full("IPController", "auto_create", "", "True", "Create the profile if it is missing."),
    full("IPController", "copy_config_files", "", "False", "Write a configuration file with every option, commented out, into the profile."),
    full("IPController", "overwrite", "", "False", "Let copy_config_files replace a file that is there."),
    full("IPController", "extra_config_file", "config", "''", "A further configuration file."),
    full("IPController", "work_dir", "work-dir", "the current one", "Working directory."),
    full("IPController", "log_level", "log-level", "20", "0, 10, 20, 30, 40, 50, or DEBUG, INFO, WARN, ERROR, CRITICAL."),
    full("IPController", "log_to_file", "log-to-file", "False", "Log to a file in the profile's log directory."),
    full("IPController", "clean_logs", "clean-logs", "False", "Remove old log files first."),
    full("ProfileDir", "location", "profile-dir", "''", "The profile's directory itself, in place of `profile`."),
    full("HeartMonitor", "period", "ping", "450", "Milliseconds between heartbeats."),
    full("HeartMonitor", "max_heartmonitor_misses", "", "4", "Consecutive heartbeats that an engine may miss (10 if the period is set)."),
    full("TaskScheduler", "scheme_name", "scheme", "'leastload'", "How an engine is chosen: leastload, lru, plainrandom, pure, twobin, weighted."),
    full("TaskScheduler", "hwm", "hwm", "1", "Tasks that an engine may have at once; 0 for no limit."),
    full("DictDB", "record_limit", "", "10000", "Task records kept in memory."),
    full("DictDB", "size_limit", "", "16777216", "Bytes of task records kept in memory."),
    idle("DictDB", "cull_fraction", "", "0.1", "at the limit the oldest records go one at a time"),
    full("SQLiteDB", "filename", "", "'tasks.db'", "Name of the database file."),
    full("SQLiteDB", "location", "", "the profile's directory", "Directory of the database file."),
    full("SQLiteDB", "table", "", "'ipython-tasks'", "Name of the table."),
    full("Session", "key", "", "generated", "HMAC key with which messages are signed; empty for no signatures."),
    full("Session", "keyfile", "keyfile", "''", "File that holds the key."),
    full("Session", "packer", "", "'json'", "json is the only packer."),
    full("Session", "unpacker", "", "'json'", "json is the only unpacker."),
    full("Session", "signature_scheme", "", "'hmac-sha256'", "hmac-sha256 is the only scheme."),
    full("Piparallel", "engine_curve_secretkey", "", "curve_secretkey", "A secret CURVE key of its own for the sockets of engines (Z85)."),
    full("Piparallel", "engine_curve_allowed", "", "everyone", "List of the engines' public CURVE keys (Z85) that are let in."),
    idle("IPController", "use_threads", "", "False", "the controller is one thread at any setting"),
    idle("IPController", "monitor_ip", "", "ip", "there is no monitor socket"),
    idle("IPController", "monitor_transport", "", "'tcp'", "there is no monitor socket"),
    idle("IPController", "mon_port", "", "0", "there is no monitor socket"),
    idle("IPController", "log_url", "log-url", "''", "logs are not sent over the network: use --log-to-file or the journal"),
    idle("IPController", "log_datefmt", "", "", "the log format is fixed"),
    idle("IPController", "log_format", "", "", "the log format is fixed"),
    idle("IPController", "verbose_crash", "", "False", "there are no crash reports"),
    idle("IPController", "add_ipython_dir_to_sys_path", "", "False", "the controller runs no Python"),
    idle("HeartMonitor", "debug", "", "False", "use --log-level=0 to see every heartbeat"),
    idle("Session", "session", "ident", "generated", "the hub has no session name that a peer sees"),
    idle("Session", "username", "user", "$USER", "the hub signs its messages as itself"),
    idle("Session", "debug", "", "False", "use --log-level=0"),
];

/// Every flag.
#[rustfmt::skip]
pub const FLAGS: &[Flag] = &[
    Flag { name: "debug", sets: &[("IPController", "log_level", "10")], help: "log more" },
    Flag { name: "quiet", sets: &[("IPController", "log_level", "50")], help: "log nothing but what ends the program" },
    Flag { name: "init", sets: &[("IPController", "copy_config_files", "True"), ("IPController", "auto_create", "True")], help: "write a configuration file with every option, commented out, into the profile" },
    Flag { name: "log-to-file", sets: &[("IPController", "log_to_file", "True")], help: "log to a file in the profile's log directory" },
    Flag { name: "usethreads", sets: &[("IPController", "use_threads", "True")], help: "accepted; the controller is one thread at any setting" },
    Flag { name: "sqlitedb", sets: &[("IPController", "db_class", "SQLiteDB")], help: "keep task records in SQLite" },
    Flag { name: "mongodb", sets: &[("IPController", "db_class", "MongoDB")], help: "not supported: use --sqlitedb" },
    Flag { name: "dictdb", sets: &[("IPController", "db_class", "DictDB")], help: "keep task records in memory (default)" },
    Flag { name: "nodb", sets: &[("IPController", "db_class", "NoDB")], help: "keep no task records" },
    Flag { name: "reuse", sets: &[("IPController", "reuse_files", "True")], help: "reuse the connection files that are there" },
    Flag { name: "restore", sets: &[("IPController", "restore_engines", "True"), ("IPController", "reuse_files", "True")], help: "as --reuse, and take back the engines of the previous controller" },
    Flag { name: "secure", sets: &[("Session", "key", NEW_KEY), ("Session", "keyfile", "")], help: "sign messages with a new key (default)" },
    Flag { name: "no-secure", sets: &[("Session", "key", ""), ("Session", "keyfile", "")], help: "do not sign messages" },
];

/// The value of `Session.key` that asks for a new key; no key can contain a NUL.
pub const NEW_KEY: &str = "\0new";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_flags_set_what_exists() {
        for (i, t) in TRAITS.iter().enumerate() {
            let same = |u: &&Trait| {
                (u.class, u.name) == (t.class, t.name) || (t.alias.is_some() && u.alias == t.alias)
            };
            assert!(
                TRAITS[i + 1..].iter().find(same).is_none(),
                "{}.{}",
                t.class,
                t.name
            );
        }
        for flag in FLAGS {
            for (class, name, _) in flag.sets {
                assert!(find(class, name).is_some(), "--{}", flag.name);
            }
        }
    }

    #[test]
    fn a_near_name_is_found_and_a_far_one_is_not() {
        let aliases = || TRAITS.iter().filter_map(|t| t.alias);
        assert_eq!(nearest("pin", aliases()), Some("ping"));
        assert_eq!(nearest("locatoin", aliases()), Some("location"));
        assert_eq!(nearest("wholly-else", aliases()), None);
    }
}
