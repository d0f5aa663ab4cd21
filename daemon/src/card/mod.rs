//! The file on a card: `piparallel.toml` on the FAT partition, which any computer can write.
//!
//! At each boot it is read, checked and applied. Secrets are kept on the card's own file system from then on, and taken out of
//! the file. A part of it that has a mistake (the node's options, `[system]`, `[wifi]`) is passed over in favour of what was
//! accepted last, so that a mistake leaves no Pi unreachable; it is reported in a file beside it.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use nix::mount::{MsFlags, mount};
use nix::sys::statvfs::{FsFlags, statvfs};
use toml::{Table, Value};

use crate::settings::node;
use options::{System, Wifi};
use place::{Readers, place, remove};

/// What the file may say.
mod options;
/// Files of the system.
mod place;
/// Secrets leave the file.
mod secrets;

/// Where a card's partitions are.
#[derive(Clone, Debug)]
pub struct Card {
    /// Its FAT partition.
    pub boot: PathBuf,
    /// The system, `/` but for tests.
    pub root: PathBuf,
}

/// On the FAT partition.
const FILE: &str = "piparallel.toml";
const REPORT: &str = "piparallel-errors.txt";

/// In the system. The options of a node rank above those of /etc.
const NODE_OPTIONS: &str = "run/piparallel/piparallel.toml";
const JOIN_KEY: &str = "var/lib/piparallel/card.key";
const ACCEPTED: &str = "var/lib/piparallel-card/accepted.toml";
const PROBLEMS: &str = "run/piparallel/problems";
const NETWORKS: &str = "var/lib/iwd";
const RADIO: &str = "etc/iwd/main.conf";
const HOSTNAME: &str = "etc/hostname";
const LOCALTIME: &str = "etc/localtime";
const ZONES: &str = "usr/share/zoneinfo";
/// Of the one user who may log in.
const SSH_KEYS: &str = "etc/ssh/authorized_keys/pi";

/// The sections that are not the node's.
const SECTIONS: [&str; 2] = ["system", "wifi"];

/// What was wrong with the file at this boot, one line each; empty where nothing was, or where there is no card.
#[must_use]
pub fn problems() -> String {
    std::fs::read_to_string(Path::new("/").join(PROBLEMS)).unwrap_or_default()
}

impl Card {
    /// Reads, checks and applies the file. What is wrong with it, one line each, is returned, and written beside it.
    #[must_use]
    pub fn import(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let before = self.accepted();
        let (text, mut table) = match self.read() {
            Ok(read) => read,
            Err(cause) => {
                problems.push(format!("{cause:#}"));
                (String::new(), before.clone())
            }
        };
        if let Err(cause) = self.check_node(&text, &table) {
            problems.push(format!("{cause:#}"));
            replace(&mut table, &before, |key| !SECTIONS.contains(&key));
        }
        let system = System::parse(&section(&table, "system")).unwrap_or_else(|cause| {
            problems.push(format!("{cause:#}"));
            replace(&mut table, &before, |key| key == "system");
            System::parse(&section(&table, "system")).unwrap_or_default()
        });
        let wifi = Wifi::parse(&section(&table, "wifi")).unwrap_or_else(|cause| {
            problems.push(format!("{cause:#}"));
            replace(&mut table, &before, |key| key == "wifi");
            Wifi::parse(&section(&table, "wifi")).unwrap_or_default()
        });
        for step in [
            self.keep_secrets(&table, &wifi),
            self.apply_node(&table),
            self.apply_system(&system),
            self.apply_wifi(&wifi),
            self.accept(&table),
        ] {
            problems.extend(step.err().map(|cause| format!("{cause:#}")));
        }
        if let Err(cause) = self.report(&problems) {
            problems.push(format!("{cause:#}"));
        }
        problems
    }

    fn file(&self) -> PathBuf {
        self.boot.join(FILE)
    }

    fn read(&self) -> anyhow::Result<(String, Table)> {
        let file = self.file();
        let failed = || format!("cannot read {}", file.display());
        let text = std::fs::read_to_string(&file).with_context(failed)?;
        // Editors of other systems put a mark at the beginning.
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text).to_owned();
        let table = text.parse::<Table>().map_err(|e| {
            let line = e
                .span()
                .map_or(1, |span| text[..span.start].lines().count().max(1));
            anyhow::anyhow!("{}:{line}: {}", file.display(), e.message())
        })?;
        Ok((text, table))
    }

    fn check_node(&self, text: &str, table: &Table) -> anyhow::Result<()> {
        match text.is_empty() {
            true => Ok(()),
            false
                if SECTIONS
                    .iter()
                    .all(|s| table.get(*s).is_none_or(Value::is_table)) =>
            {
                node::check(&without_sections(text), &self.file())
            }
            false => anyhow::bail!("system and wifi are sections: [system], [wifi]"),
        }
    }

    /// What was right at the boots before.
    fn accepted(&self) -> Table {
        let text = std::fs::read_to_string(self.root.join(ACCEPTED)).unwrap_or_default();
        text.parse().unwrap_or_default()
    }

    /// Keeps secrets where only those who need them can read them, then takes them out of the file.
    fn keep_secrets(&self, table: &Table, wifi: &Wifi) -> anyhow::Result<()> {
        let mut kept = Vec::new();
        if let Some(key) = text_of(table, "join_key") {
            place(&self.root.join(JOIN_KEY), key, Readers::Node)?;
            kept.push("join_key");
        }
        if wifi.passphrase().is_some() {
            self.place_network(wifi, "psk")?;
            kept.push("wifi.passphrase");
        }
        if kept.is_empty() {
            return Ok(());
        }
        self.writable(|| secrets::blank(&self.file(), &kept).map(drop))
    }

    fn place_network(&self, wifi: &Wifi, security: &str) -> anyhow::Result<()> {
        let name = format!("{}.{security}", wifi.file_name());
        let path = self.root.join(NETWORKS).join(name);
        place(&path, wifi.file_content().expose(), Readers::Root)
    }

    fn apply_node(&self, table: &Table) -> anyhow::Result<()> {
        let mut options = table.clone();
        options.retain(|key, _| key != "join_key" && !SECTIONS.contains(&key));
        let key = Path::new("/").join(JOIN_KEY);
        if self.root.join(JOIN_KEY).exists() && !options.contains_key("join_key_file") {
            let key = key.to_string_lossy().into_owned();
            options.insert("join_key_file".to_owned(), Value::String(key));
        }
        let text = toml::to_string(&options)?;
        place(&self.root.join(NODE_OPTIONS), &text, Readers::Everybody)
    }

    fn apply_system(&self, system: &System) -> anyhow::Result<()> {
        if let Some(name) = &system.hostname {
            place(
                &self.root.join(HOSTNAME),
                &format!("{name}\n"),
                Readers::Everybody,
            )?;
            if self.root == Path::new("/") {
                nix::unistd::sethostname(name).context("cannot set the host's name")?;
            }
        }
        let keys = self.root.join(SSH_KEYS);
        match system.ssh_keys.as_slice() {
            [] => {
                remove(&keys).with_context(|| format!("cannot remove {}", keys.display()))?;
            }
            lines => place(&keys, &(lines.join("\n") + "\n"), Readers::Everybody)?,
        }
        match &system.time_zone {
            Some(zone) => self.set_time_zone(zone),
            None => Ok(()),
        }
    }

    fn set_time_zone(&self, zone: &str) -> anyhow::Result<()> {
        if !self.root.join(ZONES).join(zone).is_file() {
            anyhow::bail!(
                "system.time_zone = {zone:?} is not known here (expected a name such as \"Europe/Berlin\")"
            );
        }
        let link = self.root.join(LOCALTIME);
        let set = remove(&link)
            .and_then(|_| std::os::unix::fs::symlink(Path::new("/").join(ZONES).join(zone), &link));
        set.context("cannot set the time zone")
    }

    fn apply_wifi(&self, wifi: &Wifi) -> anyhow::Result<()> {
        let known = self
            .root
            .join(NETWORKS)
            .join(format!("{}.psk", wifi.file_name()));
        // Without a passphrase it is a network without one, or one whose passphrase was imported before.
        if !wifi.ssid.is_empty() && wifi.passphrase().is_none() && !known.exists() {
            self.place_network(wifi, "open")?;
        }
        let country = wifi.country.as_deref().map(|c| format!("Country={c}\n"));
        // Power save costs a Pi tens of milliseconds for each packet after a pause.
        let radio = format!(
            "[General]\n{}\n[DriverQuirks]\nPowerSaveDisable=*\n",
            country.unwrap_or_default()
        );
        place(&self.root.join(RADIO), &radio, Readers::Everybody)
    }

    fn accept(&self, table: &Table) -> anyhow::Result<()> {
        let mut table = table.clone();
        table.remove("join_key");
        if let Some(Value::Table(wifi)) = table.get_mut("wifi") {
            wifi.remove("passphrase");
        }
        let text = toml::to_string(&table)?;
        let path = self.root.join(ACCEPTED);
        match std::fs::read_to_string(&path).is_ok_and(|before| before == text) {
            true => Ok(()),
            false => place(&path, &text, Readers::Root),
        }
    }

    fn report(&self, problems: &[String]) -> anyhow::Result<()> {
        let report = self.boot.join(REPORT);
        let there = std::fs::read_to_string(&report).ok();
        let lines: String = problems
            .iter()
            .map(|problem| format!("{problem}\n"))
            .collect();
        let system = self.root.join(PROBLEMS);
        if problems.is_empty() {
            remove(&system)?;
            return match there {
                Some(_) => self.writable(|| Ok(remove(&report).map(drop)?)),
                None => Ok(()),
            };
        }
        place(&system, &lines, Readers::Everybody)?;
        let text = format!(
            "{FILE} on this card has mistakes. What was right at the last boot is used in their place.\n\n{lines}\n\
             Put it right and start the Pi again; this file goes away by itself.\n"
        );
        match there.is_some_and(|there| there == text) {
            true => Ok(()),
            false => self.writable(|| {
                std::fs::write(&report, &text)
                    .with_context(|| format!("cannot write {}", report.display()))
            }),
        }
    }

    /// Does something with the FAT partition, which is read-only at all other times: so it needs no repair.
    fn writable(&self, act: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
        let is_read_only = statvfs(&self.boot)?.flags().contains(FsFlags::ST_RDONLY);
        if is_read_only {
            self.remount(MsFlags::empty())?;
        }
        let result = act();
        if is_read_only {
            self.remount(MsFlags::MS_RDONLY)?;
        }
        result
    }

    fn remount(&self, flags: MsFlags) -> anyhow::Result<()> {
        let nothing = None::<&str>;
        mount(
            nothing,
            &self.boot,
            nothing,
            flags | MsFlags::MS_REMOUNT,
            nothing,
        )
        .with_context(|| format!("cannot remount {}", self.boot.display()))
    }
}

/// Takes the entries that `which` chooses from `before`.
fn replace(table: &mut Table, before: &Table, which: impl Fn(&str) -> bool) {
    table.retain(|key, _| !which(key));
    let kept = before.iter().filter(|(key, _)| which(key));
    table.extend(kept.map(|(key, value)| (key.clone(), value.clone())));
}

fn section(table: &Table, name: &str) -> Table {
    table
        .get(name)
        .and_then(Value::as_table)
        .cloned()
        .unwrap_or_default()
}

fn text_of<'a>(table: &'a Table, key: &str) -> Option<&'a str> {
    table.get(key)?.as_str().filter(|text| !text.is_empty())
}

/// The text with empty lines in place of the sections that are not the node's: the lines keep their numbers.
fn without_sections(text: &str) -> String {
    let mut is_left_out = false;
    let mut left = String::with_capacity(text.len());
    for line in text.lines() {
        if let Some(header) = line.trim_start().strip_prefix('[') {
            let name = header.split([']', '.']).next().unwrap_or_default();
            is_left_out = SECTIONS.contains(&name.trim());
        }
        if !is_left_out {
            left.push_str(line);
        }
        left.push('\n');
    }
    left
}

#[cfg(test)]
mod tests;
