//! From merged assignments to settings: defaults, limits and the rules between options.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use piparallel_core::channel::Channel;

use super::config::Config;
use super::curve::public_key;
use super::sources::Environment;
use super::value::Value;
use super::{
    ControllerSettings, CurveKeyPair, CurveSettings, DatabaseSettings, HeartbeatSettings,
    Interface, LogSettings, MemoryLimits, PortPlan, ProfileDir, Scheme, Secret, interface, traits,
};
use crate::address::NetworkInterface;
use crate::random;
use crate::store;

/// Everything that is validated against the world.
pub struct Surroundings<'a> {
    pub environment: &'a Environment,
    pub profile: ProfileDir,
    pub interfaces: &'a [NetworkInterface],
    pub pid: u32,
}

/// Turns assignments into settings.
///
/// # Errors
/// An option has a value that it cannot have; the message names option, value and origin.
pub fn resolve(config: &Config, around: &Surroundings<'_>) -> anyhow::Result<ControllerSettings> {
    check_fixed_options(config)?;
    let options = Options(config);
    let cluster_id = options
        .text("IPController", "cluster_id")?
        .unwrap_or_default();
    if cluster_id.contains('/') || cluster_id.contains('\0') {
        bail!(
            "a cluster id is part of a file name and has no slash, not {cluster_id:?} (--cluster-id)"
        );
    }
    let curve = curve(&options)?;
    let heartbeat = heartbeat(&options)?;
    options.number("IPController", "broadcast_scheduler_depth", 1u32, 0, 16)?;
    let restore = options.flag("IPController", "restore_engines")?;
    Ok(ControllerSettings {
        client: side(&options, around, Side::CLIENT, &cluster_id)?,
        engine: side(&options, around, Side::ENGINE, &cluster_id)?,
        location: options
            .text("IPController", "location")?
            .filter(|l| !l.is_empty()),
        ports: ports(&options)?,
        session_key: session_key(&options, around.environment, curve.is_some())?,
        curve,
        registration_timeout: registration_timeout(&options, heartbeat.period)?,
        heartbeat,
        scheme: scheme(&options)?,
        hwm: Some(options.number("TaskScheduler", "hwm", 1, 0, 1_000_000)?).filter(|n| *n > 0),
        database: database(&options, around)?,
        reuse: restore || options.flag("IPController", "reuse_files")?,
        restore,
        python: None,
        log: LogSettings {
            level: log_level(&options)?,
            file: options.flag("IPController", "log_to_file")?.then(|| {
                let name = format!("ipcontroller-{cluster_id}-{}.log", around.pid);
                around.profile.log().join(name)
            }),
        },
        profile: around.profile.clone(),
        cluster_id,
    })
}

/// Typed access to the merged assignments.
struct Options<'a>(&'a Config);

impl Options<'_> {
    fn text(&self, class: &str, name: &str) -> anyhow::Result<Option<String>> {
        self.0.read(class, name, Value::as_text)
    }

    fn flag(&self, class: &str, name: &str) -> anyhow::Result<bool> {
        Ok(self.0.read(class, name, Value::as_bool)?.unwrap_or(false))
    }

    fn number<T: TryFrom<i64>>(
        &self,
        class: &str,
        name: &str,
        default: T,
        min: i64,
        max: i64,
    ) -> anyhow::Result<T> {
        let number = self.0.read(class, name, |v| {
            T::try_from(v.as_int(min, max)?).map_err(|_| "expects a smaller number".to_owned())
        })?;
        Ok(number.unwrap_or(default))
    }

    /// A key is text, or none if it is empty.
    fn key(&self, class: &str, name: &str) -> anyhow::Result<Option<String>> {
        Ok(self.text(class, name)?.filter(|k| !k.is_empty()))
    }
}

/// Options that have one possible value here.
fn check_fixed_options(config: &Config) -> anyhow::Result<()> {
    for (class, name, only) in [
        ("IPController", "transport", "tcp"),
        ("IPController", "client_transport", "tcp"),
        ("IPController", "engine_transport", "tcp"),
        ("Session", "packer", "json"),
        ("Session", "unpacker", "json"),
        ("Session", "signature_scheme", "hmac-sha256"),
    ] {
        config.read(class, name, |v| match v.as_text()?.as_str() {
            text if text == only => Ok(()),
            _ => Err(format!("can only be {only}")),
        })?;
    }
    Ok(())
}

/// The names of one side's options.
struct Side {
    ip: &'static str,
    ssh: &'static str,
    file: &'static str,
    name: &'static str,
}

impl Side {
    const CLIENT: Self = Self {
        ip: "client_ip",
        ssh: "ssh_server",
        file: "client_json_file",
        name: "client",
    };
    const ENGINE: Self = Self {
        ip: "engine_ip",
        ssh: "engine_ssh_server",
        file: "engine_json_file",
        name: "engine",
    };
}

fn side(
    options: &Options<'_>,
    around: &Surroundings<'_>,
    side: Side,
    cluster_id: &str,
) -> anyhow::Result<Interface> {
    let own = options.text("IPController", side.ip)?;
    let ip = match own {
        Some(ip) => Some(ip),
        None => options.text("IPController", "ip")?,
    };
    let addresses = match ip {
        None => vec![Ipv4Addr::LOCALHOST],
        Some(text) => interface::addresses(&text, around.interfaces)?,
    };
    Ok(Interface {
        addresses,
        ssh: options.text("IPController", side.ssh)?.unwrap_or_default(),
        file: connection_file(options, &around.profile, &side, cluster_id)?,
    })
}

fn connection_file(
    options: &Options<'_>,
    profile: &ProfileDir,
    side: &Side,
    cluster_id: &str,
) -> anyhow::Result<PathBuf> {
    let file = options.text("IPController", side.file)?.unwrap_or_else(|| {
        let infix = if cluster_id.is_empty() { "" } else { "-" };
        format!("ipcontroller{infix}{cluster_id}-{}.json", side.name)
    });
    Ok(profile.security().join(file))
}

/// Where a client finds the connection file of the controller that these options mean.
///
/// # Errors
/// The options are not text.
pub fn client_file(config: &Config, profile: &ProfileDir) -> anyhow::Result<PathBuf> {
    let options = Options(config);
    let cluster_id = options
        .text("IPController", "cluster_id")?
        .unwrap_or_default();
    connection_file(&options, profile, &Side::CLIENT, &cluster_id)
}

fn ports(options: &Options<'_>) -> anyhow::Result<PortPlan> {
    let pool = |name| {
        let ports = options.0.read("IPController", name, Value::as_ports)?;
        anyhow::Ok(ports.unwrap_or_default())
    };
    let mut plan = PortPlan {
        common: pool("ports")?,
        client: pool("client_ports")?,
        engine: pool("engine_ports")?,
        fixed: Vec::new(),
    };
    for (name, channel) in [
        ("regport", Channel::Registration),
        ("notifier_port", Channel::Notification),
    ] {
        let port: u16 = options.number("IPController", name, 0, 0, 65535)?;
        if port > 0 {
            plan.fixed.push((channel, port));
        }
    }
    for (name, first, second) in [
        ("hb", Channel::HbPing, Channel::HbPong),
        ("mux", Channel::MuxClient, Channel::MuxEngine),
        ("task", Channel::TaskClient, Channel::TaskEngine),
        ("control", Channel::ControlClient, Channel::ControlEngine),
        ("iopub", Channel::IopubClient, Channel::IopubEngine),
    ] {
        let pair = options
            .0
            .read("IPController", name, |v| match v.as_ports()?.as_slice() {
                [a, b] if a.first == a.last && b.first == b.last => Ok([a.first, b.first]),
                _ => Err("expects two ports".to_owned()),
            })?;
        if let Some([a, b]) = pair {
            plan.fixed.extend([(first, a), (second, b)]);
        }
    }
    Ok(plan)
}

fn session_key(
    options: &Options<'_>,
    environment: &Environment,
    is_encrypted: bool,
) -> anyhow::Result<Secret<String>> {
    let key = match options.text("Session", "key")? {
        Some(key) if key == traits::NEW_KEY => new_session_key()?,
        Some(key) => key,
        None => match options.key("Session", "keyfile")? {
            Some(path) => {
                let path = environment.expand(&path);
                let text = std::fs::read_to_string(&path)
                    .with_context(|| format!("cannot read the key file {}", path.display()))?;
                text.trim().to_owned()
            }
            // CURVE authenticates and protects from replay by itself.
            None if is_encrypted => String::new(),
            None => new_session_key()?,
        },
    };
    if !key.is_ascii() {
        bail!("the session key has characters beyond ASCII (choose another)");
    }
    Ok(Secret::new(key))
}

/// 128 random bits, in the form that jupyter_client gives its keys.
fn new_session_key() -> anyhow::Result<String> {
    let bytes: [u8; 16] = random::bytes()?;
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    Ok(format!("{}-{}", &hex[..8], &hex[8..]))
}

fn curve(options: &Options<'_>) -> anyhow::Result<Option<CurveSettings>> {
    if !options.flag("IPController", "enable_curve")? {
        return Ok(None);
    }
    let public = options.key("IPController", "curve_publickey")?;
    let client = match options.key("IPController", "curve_secretkey")? {
        Some(secret) => CurveKeyPair::from_secret_z85(&secret)
            .context("IPController.curve_secretkey is not usable")?,
        None if public.is_some() => {
            bail!(
                "there is a public CURVE key and no secret one (set IPP_CURVE_SECRETKEY, or neither)"
            )
        }
        None => CurveKeyPair::generate()?,
    };
    if public.is_some_and(|public| public != client.public.to_string()) {
        bail!("the public CURVE key does not belong to the secret one (set the secret one alone)");
    }
    let allowed = options
        .0
        .read("Piparallel", "engine_curve_allowed", Value::as_texts)?;
    let engine = match options.key("Piparallel", "engine_curve_secretkey")? {
        Some(secret) => CurveKeyPair::from_secret_z85(&secret)
            .context("Piparallel.engine_curve_secretkey is not usable")?,
        // Who may come as an engine is told by the key that it knows, so clients need another.
        None if allowed.is_some() => CurveKeyPair::generate()?,
        None => client.clone(),
    };
    let engine_keys = allowed
        .map(|keys| keys.iter().map(|k| public_key(k)).collect())
        .transpose()
        .context("Piparallel.engine_curve_allowed is not usable")?;
    Ok(Some(CurveSettings {
        client,
        engine,
        engine_keys,
    }))
}

/// Whoever sets the period gets stock's number of misses with it. Otherwise both are ours: a frozen
/// host is noticed within three seconds.
fn heartbeat(options: &Options<'_>) -> anyhow::Result<HeartbeatSettings> {
    let period = options
        .0
        .read("HeartMonitor", "period", |v| v.as_int(10, 3_600_000))?;
    let misses_default = if period.is_some() { 10 } else { 4 };
    Ok(HeartbeatSettings {
        period: Duration::from_millis(period.unwrap_or(450).unsigned_abs()),
        misses_max: options.number(
            "HeartMonitor",
            "max_heartmonitor_misses",
            misses_default,
            0,
            1_000_000,
        )?,
    })
}

fn registration_timeout(options: &Options<'_>, period: Duration) -> anyhow::Result<Duration> {
    let seconds: u64 = options.number("IPController", "registration_timeout", 0, 0, 86_400)?;
    Ok(match seconds {
        0 => (period * 10).max(Duration::from_secs(30)),
        seconds => Duration::from_secs(seconds),
    })
}

fn scheme(options: &Options<'_>) -> anyhow::Result<Scheme> {
    let scheme = options.0.read("TaskScheduler", "scheme_name", |v| {
        Scheme::from_name(&v.as_text()?).ok_or_else(|| {
            let names: Vec<_> = Scheme::ALL.iter().map(|s| s.name()).collect();
            format!("expects one of {}", names.join(", "))
        })
    })?;
    Ok(scheme.unwrap_or(Scheme::LeastLoad))
}

fn database(options: &Options<'_>, around: &Surroundings<'_>) -> anyhow::Result<DatabaseSettings> {
    let class = options.text("IPController", "db_class")?;
    let class = class.as_deref().unwrap_or("DictDB");
    // Stock takes a dotted path as well.
    match class
        .rsplit('.')
        .next()
        .unwrap_or(class)
        .to_ascii_lowercase()
        .as_str()
    {
        "dictdb" => {
            let default = MemoryLimits::default();
            Ok(DatabaseSettings::Memory(MemoryLimits {
                records: options.number("DictDB", "record_limit", default.records, 0, i64::MAX)?,
                bytes: options.number("DictDB", "size_limit", default.bytes, 0, i64::MAX)?,
            }))
        }
        "nodb" => Ok(DatabaseSettings::None),
        "sqlitedb" => {
            let dir = match options.key("SQLiteDB", "location")? {
                Some(dir) => around.environment.expand(&dir),
                None => around.profile.path.clone(),
            };
            let name = options.key("SQLiteDB", "filename")?;
            let table = options.key("SQLiteDB", "table")?;
            Ok(DatabaseSettings::Sqlite {
                path: dir.join(name.unwrap_or_else(|| store::DEFAULT_FILENAME.to_owned())),
                table: table.unwrap_or_else(|| store::DEFAULT_TABLE.to_owned()),
            })
        }
        "mongodb" => bail!("MongoDB is not supported (--sqlitedb keeps task records on disk)"),
        _ => bail!("{class:?} is no database (--dictdb, --sqlitedb or --nodb)"),
    }
}

/// Python's levels, by number or name.
fn log_level(options: &Options<'_>) -> anyhow::Result<log::LevelFilter> {
    use log::LevelFilter;
    let level = options.0.read("IPController", "log_level", |v| {
        let text = v
            .as_text()
            .or_else(|_| v.as_int(0, 50).map(|n| n.to_string()))?;
        Ok(match text.to_ascii_uppercase().as_str() {
            "0" => LevelFilter::Trace,
            "10" | "DEBUG" => LevelFilter::Debug,
            "20" | "INFO" => LevelFilter::Info,
            "30" | "WARN" | "WARNING" => LevelFilter::Warn,
            "40" | "ERROR" => LevelFilter::Error,
            "50" | "CRITICAL" => LevelFilter::Off,
            _ => {
                return Err(
                    "expects 0, 10, 20, 30, 40, 50, DEBUG, INFO, WARN, ERROR or CRITICAL"
                        .to_owned(),
                );
            }
        })
    })?;
    Ok(level.unwrap_or(LevelFilter::Info))
}

/// The path of a text option that names a file or directory.
///
/// # Errors
/// The option is not text.
pub fn path_option(
    config: &Config,
    environment: &Environment,
    name: &str,
) -> anyhow::Result<Option<PathBuf>> {
    let text = Options(config).key("IPController", name)?;
    Ok(text.map(|t| environment.expand(&t)))
}

/// A yes-or-no option of the controller.
///
/// # Errors
/// The option is neither.
pub fn flag_option(config: &Config, name: &str, default: bool) -> anyhow::Result<bool> {
    let flag = config.read("IPController", name, Value::as_bool)?;
    Ok(flag.unwrap_or(default))
}

#[cfg(test)]
mod tests {
    use super::super::command_line;
    use super::*;

    fn settings(args: &[&str]) -> anyhow::Result<ControllerSettings> {
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        let mut config = Config::default();
        command_line::parse(&args, &mut config).map_err(anyhow::Error::msg)?;
        let environment = Environment {
            variables: Vec::new(),
            current_dir: PathBuf::from("/here"),
        };
        let profile = ProfileDir {
            path: PathBuf::from("/p"),
        };
        let around = Surroundings {
            environment: &environment,
            profile,
            interfaces: &[],
            pid: 7,
        };
        resolve(&config, &around)
    }

    fn error(args: &[&str]) -> String {
        match settings(args) {
            Ok(_) => panic!("{args:?} was accepted"),
            Err(e) => format!("{e:#}"),
        }
    }

    #[test]
    fn defaults_are_those_of_stock_but_for_the_heartbeat() {
        let s = settings(&[]).unwrap();
        assert_eq!(s.client.addresses, [Ipv4Addr::LOCALHOST]);
        assert_eq!(
            s.client.file,
            PathBuf::from("/p/security/ipcontroller-client.json")
        );
        assert_eq!(s.heartbeat.period, Duration::from_millis(450));
        assert_eq!(s.heartbeat.misses_max, 4);
        assert_eq!(s.registration_timeout, Duration::from_secs(30));
        assert_eq!((s.scheme, s.hwm), (Scheme::LeastLoad, Some(1)));
        assert_eq!(s.ports, PortPlan::default());
        assert_eq!(s.session_key.expose().len(), 33);
        assert!(s.session_key.expose() != settings(&[]).unwrap().session_key.expose());
        assert!(!s.reuse && !s.restore && s.curve.is_none());
        assert!(matches!(
            s.database,
            DatabaseSettings::Memory(limits) if limits == MemoryLimits::default()
        ));
    }

    #[test]
    fn options_reach_their_settings() {
        let s = settings(&[
            "--ip=*",
            "--IPController.engine_ip=127.0.0.1",
            "--cluster-id=x",
            "--ping=5000",
            "--hwm=0",
            "--scheme=lru",
            "--restore",
            "--no-secure",
            "--log-to-file",
            "--debug",
            "--sqlitedb",
            "--SQLiteDB.location=db",
            "--port=1234",
            "--ports=5000-5020",
            "--IPController.hb=7,8",
        ])
        .unwrap();
        assert_eq!(s.client.addresses, [Ipv4Addr::UNSPECIFIED]);
        assert_eq!(s.engine.addresses, [Ipv4Addr::LOCALHOST]);
        assert_eq!(
            s.engine.file,
            PathBuf::from("/p/security/ipcontroller-x-engine.json")
        );
        assert_eq!(s.registration_timeout, Duration::from_secs(50));
        assert_eq!((s.scheme, s.hwm), (Scheme::Lru, None));
        assert!(s.reuse && s.restore);
        assert_eq!(s.session_key.expose(), "");
        assert_eq!(
            s.log.file,
            Some(PathBuf::from("/p/log/ipcontroller-x-7.log"))
        );
        assert_eq!(s.log.level, log::LevelFilter::Debug);
        let path = PathBuf::from("/here/db/tasks.db");
        let table = store::DEFAULT_TABLE.to_owned();
        assert_eq!(s.database, DatabaseSettings::Sqlite { path, table });
        let fixed = [
            (Channel::Registration, 1234),
            (Channel::HbPing, 7),
            (Channel::HbPong, 8),
        ];
        assert_eq!(s.ports.fixed, fixed);
    }

    #[test]
    fn encryption_replaces_signatures_unless_both_are_wanted() {
        let s = settings(&["--IPController.enable_curve=True"]).unwrap();
        assert_eq!(s.session_key.expose(), "");
        let curve = s.curve.unwrap();
        assert_eq!(curve.client.public, curve.engine.public);
        let s = settings(&["--IPController.enable_curve=True", "--Session.key=k"]).unwrap();
        assert_eq!(s.session_key.expose(), "k");
    }

    #[test]
    fn the_engine_side_can_have_its_own_key_and_a_list_of_engines() {
        let other = CurveKeyPair::generate().unwrap().public.to_string();
        let s = settings(&[
            "--IPController.enable_curve=1",
            "--Piparallel.engine_curve_secretkey=JTKVSB%%)wK0E.X)V>+}o?pNmC{O&4W4b!Ni{Lh6",
            &format!("--Piparallel.engine_curve_allowed={other}"),
        ])
        .unwrap();
        let curve = s.curve.unwrap();
        assert_ne!(curve.client.public, curve.engine.public);
        assert_eq!(curve.engine_keys.unwrap()[0].to_string(), other);
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_origin_or_a_remedy() {
        assert!(error(&["--ping=abc"]).contains("(--ping)"));
        assert!(error(&["--scheme=bogus"]).contains("leastload"));
        assert!(error(&["--mongodb"]).contains("--sqlitedb"));
        assert!(error(&["--transport=ipc"]).contains("can only be tcp"));
        assert!(error(&["--cluster-id=a/b"]).contains("no slash"));
        assert!(
            error(&[
                "--IPController.enable_curve=1",
                "--IPController.curve_publickey=x"
            ])
            .contains("no secret one")
        );
        let secret = "~secret~";
        let curve = format!("--IPController.curve_secretkey={secret}");
        assert!(!error(&["--IPController.enable_curve=1", &curve]).contains(secret));
        assert!(error(&["--IPController.hb=7"]).contains("two ports"));
        assert!(error(&["--log-level=11"]).contains("expects 0, 10"));
    }
}
