//! The log backend: lines for people on standard error or in a file, or for the journal.
//!
//! | level | use |
//! |-------|-----|
//! | trace | each message and heartbeat |
//! | debug | a deviation that explains itself, and how files and options were found |
//! | info  | a significant change: an engine came, a file was written |
//! | warn  | something to look at, the pool goes on |
//! | error | something is broken for someone |

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use log::kv::{self, VisitSource};
use log::{Level, Log, Metadata, Record};
use piparallel_core::wire::date;

use crate::settings::LogSettings;

/// Starts logging; once per process.
///
/// # Errors
/// The log file cannot be opened, or logging was started before.
pub fn start(settings: &LogSettings) -> anyhow::Result<()> {
    let file = settings.file.as_ref().map(|path| {
        let file = OpenOptions::new().create(true).append(true).open(path);
        file.with_context(|| format!("cannot open the log file {}", path.display()))
    });
    let style = match (&file, std::env::var_os("JOURNAL_STREAM")) {
        (None, Some(_)) => Style::Journal,
        _ => Style::People,
    };
    let sink = file.transpose()?.map(Mutex::new);
    log::set_boxed_logger(Box::new(Logger { sink, style })).context("logging was started twice")?;
    log::set_max_level(settings.level);
    Ok(())
}

/// Removes the log files of earlier controllers, as `--clean-logs` asks. A file that cannot be removed
/// may be another controller's at this moment, and stays.
pub fn clean(dir: &std::path::Path) {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_ours = name.starts_with("ipcontroller-")
            && [".log", ".err", ".out"].iter().any(|e| name.ends_with(e));
        if is_ours {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    /// A priority in front of each line; the journal knows the time.
    Journal,
    People,
}

struct Logger {
    /// `None`: standard error.
    sink: Option<Mutex<File>>,
    style: Style,
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Libraries have their own idea of what is worth a line.
        metadata.target().starts_with("piparallel") || metadata.level() <= Level::Warn
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let micros = i64::try_from(now.as_micros()).unwrap_or(0);
        let line = line(self.style, micros, record);
        // There is nobody to tell that the log cannot be written.
        let _ = match &self.sink {
            None => std::io::stderr().lock().write_all(line.as_bytes()),
            Some(file) => match file.lock() {
                Ok(mut file) => file.write_all(line.as_bytes()),
                Err(poisoned) => poisoned.into_inner().write_all(line.as_bytes()),
            },
        };
    }

    fn flush(&self) {}
}

fn line(style: Style, unix_micros: i64, record: &Record<'_>) -> String {
    let mut line = match style {
        Style::Journal => format!("<{}>", priority(record.level())),
        Style::People => {
            let stamp = date::format(unix_micros);
            // 2026-01-02T03:04:05.678901Z, to the millisecond.
            format!("{} {} {:5} ", &stamp[..10], &stamp[11..23], record.level())
        }
    };
    let message = record.args().to_string();
    // A message that quotes a peer's text cannot pretend to be two.
    line.push_str(&message.replace('\n', "\\n"));
    let _ = record.key_values().visit(&mut Fields(&mut line));
    line.push('\n');
    line
}

/// syslog(3).
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

struct Fields<'a>(&'a mut String);

impl<'kvs> VisitSource<'kvs> for Fields<'_> {
    fn visit_pair(&mut self, key: kv::Key<'kvs>, value: kv::Value<'kvs>) -> Result<(), kv::Error> {
        let _ = write!(self.0, " {key}={}", value.to_string().replace('\n', "\\n"));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(style: Style, level: Level) -> String {
        let fields = [("engine", 3)];
        let record = Record::builder()
            .level(level)
            .args(format_args!("came\nback"))
            .key_values(&fields)
            .build();
        line(style, 1_709_210_096_000_007, &record)
    }

    #[test]
    fn people_get_a_time_and_the_journal_a_priority() {
        assert_eq!(
            written(Style::People, Level::Info),
            "2024-02-29 12:34:56.000 INFO  came\\nback engine=3\n"
        );
        assert_eq!(
            written(Style::Journal, Level::Warn),
            "<4>came\\nback engine=3\n"
        );
    }

    #[test]
    fn old_logs_of_controllers_go_and_others_stay() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["ipcontroller--7.log", "ipengine-1.log", "engines.json"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        clean(dir.path());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
