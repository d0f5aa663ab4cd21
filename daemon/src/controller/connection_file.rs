//! The two files that tell clients and engines where the controller is: complete, private to the user,
//! and never seen half written.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use piparallel_core::channel::Channel;
use piparallel_core::wire::zmtp::PublicKey;
use serde_json::{Map, Value, json};
use tokio::task::spawn_blocking;

use super::bind::Bound;
use crate::address;
use crate::private::{self, write_private};
use crate::settings::{ControllerSettings, Interface, Secret};

/// What a pair of existing files says, for a controller that continues with them.
pub struct Existing {
    pub key: Secret<String>,
    pub ports: BTreeMap<Channel, u16>,
    pub leaves: Vec<u16>,
    client: Map<String, Value>,
    engine: Map<String, Value>,
}

/// The keys of a file that name a port, and whose.
const CLIENT_PORTS: [(&str, Channel); 7] = [
    ("registration", Channel::Registration),
    ("control", Channel::ControlClient),
    ("mux", Channel::MuxClient),
    ("task", Channel::TaskClient),
    ("iopub", Channel::IopubClient),
    ("notification", Channel::Notification),
    ("broadcast", Channel::BroadcastClient),
];

const ENGINE_PORTS: [(&str, Channel); 7] = [
    ("registration", Channel::Registration),
    ("control", Channel::ControlEngine),
    ("mux", Channel::MuxEngine),
    ("task", Channel::TaskEngine),
    ("iopub", Channel::IopubEngine),
    ("hb_ping", Channel::HbPing),
    ("hb_pong", Channel::HbPong),
];

/// The engines' ports and interface: the core of their file, and of the registration reply.
#[must_use]
pub fn engine_info(settings: &ControllerSettings, bound: &Bound) -> Map<String, Value> {
    let mut info = ports_and_interface(&settings.engine, bound, &ENGINE_PORTS);
    info.insert("broadcast".to_owned(), json!(bound.leaves));
    info
}

fn client_info(settings: &ControllerSettings, bound: &Bound) -> Map<String, Value> {
    let mut info = ports_and_interface(&settings.client, bound, &CLIENT_PORTS);
    info.insert("task_scheme".to_owned(), json!(settings.scheme.name()));
    info
}

fn ports_and_interface(
    side: &Interface,
    bound: &Bound,
    ports: &[(&str, Channel)],
) -> Map<String, Value> {
    let mut info = Map::new();
    info.insert("interface".to_owned(), json!(interface(&side.addresses)));
    for (key, channel) in ports {
        info.insert((*key).to_owned(), json!(bound.ports[channel]));
    }
    info
}

/// What a reader replaces `*` with is loopback or `location`, so that is right for every reader when
/// both are among several addresses.
fn interface(addresses: &[Ipv4Addr]) -> String {
    let concrete: Vec<_> = addresses.iter().filter(|a| !a.is_loopback()).collect();
    match (addresses, concrete.as_slice()) {
        ([only], _) if !only.is_unspecified() => format!("tcp://{only}"),
        ([], _) | ([_], _) => "tcp://*".to_owned(),
        (several, [_]) if several.contains(&Ipv4Addr::LOCALHOST) => "tcp://*".to_owned(),
        (_, [first, ..]) => format!("tcp://{first}"),
        (several, []) => format!("tcp://{}", several[0]),
    }
}

/// Both files, ready to be written.
pub struct ConnectionFiles {
    contents: [(PathBuf, Map<String, Value>); 2],
}

impl ConnectionFiles {
    #[must_use]
    pub fn new(settings: &ControllerSettings, bound: &Bound) -> Self {
        let interfaces = address::interfaces();
        let route = address::default_route();
        let curve = settings.curve.as_ref();
        let content = |side: &Interface, info, serverkey| {
            let location = settings.location.clone().unwrap_or_else(|| {
                let tunnelled = !side.ssh.is_empty();
                let route = route.as_deref();
                address::location(&side.addresses, tunnelled, &interfaces, route)
                    .map_or_else(address::host_name, |address| address.to_string())
            });
            let mut content = Map::new();
            content.insert("ssh".to_owned(), json!(side.ssh));
            content.extend(info);
            content.extend(common(settings, serverkey, &location));
            (side.file.clone(), content)
        };
        let (client, engine) = (&settings.client, &settings.engine);
        let engine_key = curve.map(|c| c.engine.public);
        let client_key = curve.map(|c| c.client.public);
        Self {
            contents: [
                content(engine, engine_info(settings, bound), engine_key),
                content(client, client_info(settings, bound), client_key),
            ],
        }
    }

    #[must_use]
    pub fn engine(&self) -> &Map<String, Value> {
        &self.contents[0].1
    }

    #[must_use]
    pub fn client(&self) -> &Map<String, Value> {
        &self.contents[1].1
    }

    /// Writes both, the engines' first: a client that finds its file finds the other too. Without waiting for
    /// the disk, which may take its time. Must be called on a runtime.
    ///
    /// # Errors
    /// The directory or a file cannot be written. Then none of them is there.
    pub async fn publish(&self) -> anyhow::Result<()> {
        for (path, content) in self.contents.clone() {
            let written = spawn_blocking(move || write(&path, &content)).await;
            if let Err(cause) = written.map_err(anyhow::Error::from).flatten() {
                self.remove();
                return Err(cause);
            }
        }
        Ok(())
    }

    /// Removes both; one that is gone already is fine.
    pub fn remove(&self) {
        for (path, _) in &self.contents {
            match fs::remove_file(path) {
                Ok(()) => log::debug!("removed {}", path.display()),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => log::warn!("cannot remove {}: {e}", path.display()),
            }
        }
    }
}

fn common(
    settings: &ControllerSettings,
    serverkey: Option<PublicKey>,
    location: &str,
) -> Map<String, Value> {
    let mut map = Map::new();
    let mut put = |key: &str, value| map.insert(key.to_owned(), value);
    put("key", json!(settings.session_key.expose()));
    put("curve_serverkey", json!(serverkey.map(|k| k.to_string())));
    put("location", json!(location));
    put("pack", json!("json"));
    put("unpack", json!("json"));
    put("signature_scheme", json!("hmac-sha256"));
    map
}

fn write(path: &Path, content: &Map<String, Value>) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(content).context("a connection file is no JSON")?;
    write_private(path, text.as_bytes())?;
    log::info!("wrote {}", path.display());
    Ok(())
}

/// Makes the profile's directories, private where keys and process ids are.
///
/// # Errors
/// A directory cannot be made.
pub fn create_profile(settings: &ControllerSettings) -> anyhow::Result<()> {
    let profile = &settings.profile;
    for (name, mode) in [
        ("", 0o755),
        ("security", 0o700),
        ("pid", 0o700),
        ("log", 0o755),
        ("startup", 0o755),
        ("db", 0o755),
        ("static", 0o755),
    ] {
        let dir = profile.path.join(name);
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(mode)
            .create(&dir);
        let result = made.and_then(|()| match mode {
            0o700 => fs::set_permissions(&dir, fs::Permissions::from_mode(mode)),
            _ => Ok(()),
        });
        result.with_context(|| format!("cannot make the directory {}", dir.display()))?;
    }
    Ok(())
}

/// Reads the files of an earlier controller, if both are there and agree.
///
/// # Errors
/// A file is damaged.
pub fn read_existing(settings: &ControllerSettings) -> anyhow::Result<Option<Existing>> {
    let (Some(client), Some(engine)) = (read(&settings.client.file)?, read(&settings.engine.file)?)
    else {
        log::info!("there are no connection files to reuse, writing new ones");
        return Ok(None);
    };
    for key in ["key", "registration", "pack", "unpack", "signature_scheme"] {
        if client.get(key) != engine.get(key) {
            log::error!("the connection files do not agree on {key}, writing new ones");
            return Ok(None);
        }
    }
    let mut ports = BTreeMap::new();
    for (content, side, keys) in [
        (&client, &settings.client, &CLIENT_PORTS),
        (&engine, &settings.engine, &ENGINE_PORTS),
    ] {
        for (key, channel) in keys {
            ports.insert(
                *channel,
                port(content.get(*key)).with_context(|| damaged(&side.file, key))?,
            );
        }
    }
    let leaves = engine.get("broadcast").and_then(Value::as_array);
    let leaves: Option<Vec<u16>> = leaves.and_then(|l| l.iter().map(|p| port(Some(p))).collect());
    let leaves = leaves
        .filter(|l| !l.is_empty())
        .with_context(|| damaged(&settings.engine.file, "broadcast"))?;
    ports.insert(Channel::BroadcastEngine, leaves[0]);
    let key = client.get("key").and_then(Value::as_str);
    let key = key.with_context(|| damaged(&settings.client.file, "key"))?;
    Ok(Some(Existing {
        key: Secret::new(key.to_owned()),
        ports,
        leaves,
        client,
        engine,
    }))
}

fn port(value: Option<&Value>) -> Option<u16> {
    let port = u16::try_from(value?.as_u64()?).ok()?;
    (port > 0).then_some(port)
}

fn damaged(path: &Path, key: &str) -> String {
    format!(
        "{} has no usable {key:?} (remove both connection files)",
        path.display()
    )
}

/// One file as an object; `None` if it is not there.
///
/// # Errors
/// It cannot be read, or is no JSON object.
pub fn read(path: &Path) -> anyhow::Result<Option<Map<String, Value>>> {
    let Some(text) = private::read(path)? else {
        return Ok(None);
    };
    match serde_json::from_slice(&text) {
        Ok(Value::Object(map)) => Ok(Some(map)),
        _ => bail!(
            "{} is damaged (remove it and start the controller again)",
            path.display()
        ),
    }
}

impl Existing {
    /// Takes over what the files say: key, addresses, location, and ssh unless given anew.
    ///
    /// # Errors
    /// The files have an address or a CURVE key that this controller does not have.
    pub fn apply(&self, settings: &mut ControllerSettings) -> anyhow::Result<()> {
        settings.session_key = self.key.clone();
        let curve = settings.curve.as_ref();
        let sides = [
            (
                &self.client,
                &mut settings.client,
                curve.map(|c| c.client.public),
            ),
            (
                &self.engine,
                &mut settings.engine,
                curve.map(|c| c.engine.public),
            ),
        ];
        for (content, side, public) in sides {
            let text = |key| content.get(key).and_then(Value::as_str);
            if text("curve_serverkey").map(str::to_owned) != public.map(|p| p.to_string()) {
                bail!(
                    "{} was written for another CURVE key (set IPP_CURVE_SECRETKEY to that one, or remove \
                     both connection files)",
                    side.file.display()
                );
            }
            let interface = text("interface").and_then(|i| i.strip_prefix("tcp://"));
            let interface = interface.with_context(|| damaged(&side.file, "interface"))?;
            side.addresses =
                crate::settings::interface::addresses(interface, &address::interfaces())?;
            if side.ssh.is_empty() {
                text("ssh").unwrap_or_default().clone_into(&mut side.ssh);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::bind::bind;
    use super::*;
    use crate::settings::tests::settings_for_test;
    use crate::settings::{CurveKeyPair, CurveSettings};

    fn settings_in(dir: &Path) -> ControllerSettings {
        let mut settings = settings_for_test();
        settings.profile.path = dir.join("profile_x");
        let security = settings.profile.security();
        settings.client.file = security.join("ipcontroller-client.json");
        settings.engine.file = security.join("ipcontroller-engine.json");
        create_profile(&settings).unwrap();
        settings
    }

    fn publish(settings: &ControllerSettings) -> ConnectionFiles {
        publish_bound(settings, &bind(settings).unwrap())
    }

    fn publish_bound(settings: &ControllerSettings, bound: &Bound) -> ConnectionFiles {
        let files = ConnectionFiles::new(settings, bound);
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(files.publish()).unwrap();
        files
    }

    fn keys(path: &Path) -> Vec<String> {
        read(path).unwrap().unwrap().keys().cloned().collect()
    }

    #[test]
    fn both_files_have_every_key_in_the_order_of_stock() {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings_in(dir.path());
        publish(&settings);
        assert_eq!(
            keys(&settings.client.file),
            [
                "ssh",
                "interface",
                "registration",
                "control",
                "mux",
                "task",
                "iopub",
                "notification",
                "broadcast",
                "task_scheme",
                "key",
                "curve_serverkey",
                "location",
                "pack",
                "unpack",
                "signature_scheme"
            ]
        );
        assert_eq!(
            keys(&settings.engine.file),
            [
                "ssh",
                "interface",
                "registration",
                "control",
                "mux",
                "task",
                "iopub",
                "hb_ping",
                "hb_pong",
                "broadcast",
                "key",
                "curve_serverkey",
                "location",
                "pack",
                "unpack",
                "signature_scheme"
            ]
        );
        let engine = read(&settings.engine.file).unwrap().unwrap();
        assert!(engine["broadcast"].is_array());
        assert_eq!(engine["interface"], "tcp://127.0.0.1");
        assert_eq!(engine["location"], address::host_name());
        assert_eq!(engine["curve_serverkey"], Value::Null);
    }

    #[test]
    fn files_and_directory_are_private_and_nothing_else_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings_in(dir.path());
        fs::write(&settings.client.file, "old").unwrap();
        let files = publish(&settings);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&settings.client.file), 0o600);
        assert_eq!(mode(&settings.engine.file), 0o600);
        assert_eq!(mode(&settings.profile.security()), 0o700);
        assert_eq!(
            fs::read_dir(settings.profile.security()).unwrap().count(),
            2
        );
        files.remove();
        files.remove();
        assert_eq!(
            fs::read_dir(settings.profile.security()).unwrap().count(),
            0
        );
    }

    #[test]
    fn the_interface_suits_readers_here_and_elsewhere() {
        let a = Ipv4Addr::new(10, 0, 0, 1);
        let b = Ipv4Addr::new(10, 1, 0, 1);
        let local = Ipv4Addr::LOCALHOST;
        for (addresses, expected) in [
            (&[Ipv4Addr::UNSPECIFIED][..], "tcp://*"),
            (&[local], "tcp://127.0.0.1"),
            (&[a], "tcp://10.0.0.1"),
            (&[local, a], "tcp://*"),
            (&[a, b], "tcp://10.0.0.1"),
            (&[local, a, b], "tcp://10.0.0.1"),
        ] {
            assert_eq!(interface(addresses), expected, "{addresses:?}");
        }
    }

    #[test]
    fn a_controller_continues_with_the_files_of_another() {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = settings_in(dir.path());
        settings.client.ssh = "a@b".to_owned();
        let bound = bind(&settings).unwrap();
        publish_bound(&settings, &bound);
        let mut next = settings_in(dir.path());
        next.session_key = Secret::new("another".to_owned());
        let existing = read_existing(&next).unwrap().unwrap();
        existing.apply(&mut next).unwrap();
        assert_eq!(existing.ports, bound.ports);
        assert_eq!(existing.leaves, bound.leaves);
        assert!(next.session_key == settings.session_key);
        assert_eq!(next.client.ssh, "a@b");
    }

    #[test]
    fn files_that_disagree_or_are_damaged_are_not_continued_with() {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = settings_in(dir.path());
        assert!(
            read_existing(&settings).unwrap().is_none(),
            "there are none"
        );
        publish(&settings);
        let mut client = read(&settings.client.file).unwrap().unwrap();
        client["mux"] = json!(0);
        write(&settings.client.file, &client).unwrap();
        assert!(read_existing(&settings).is_err());
        client["key"] = json!("another");
        write(&settings.client.file, &client).unwrap();
        assert!(read_existing(&settings).unwrap().is_none());
        fs::write(&settings.client.file, "{").unwrap();
        assert!(read_existing(&settings).is_err());
        publish(&settings);
        let pair = CurveKeyPair::generate().unwrap();
        settings.curve = Some(CurveSettings {
            client: pair.clone(),
            engine: pair,
            engine_keys: None,
        });
        let existing = read_existing(&settings).unwrap().unwrap();
        let error = existing.apply(&mut settings).unwrap_err().to_string();
        assert!(error.contains("another CURVE key"), "{error}");
    }
}
