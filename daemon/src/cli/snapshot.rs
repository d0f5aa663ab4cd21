//! The state of a pool as a hub tells it, and as a table for people.

use std::fmt::Write as _;

use serde::Deserialize;

/// The content of a `status_reply`. What a hub does not tell is not shown, or zero.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Snapshot {
    pub version: String,
    pub uptime_s: f64,
    pub pid: Option<u32>,
    pub scheme: String,
    pub engines: Vec<Engine>,
    pub tasks: Tasks,
    pub clients: u64,
    pub database: Database,
    pub memory_bytes: Option<u64>,
    pub messages_per_s: Option<f64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Engine {
    pub id: u32,
    pub queue: u64,
    pub tasks: u64,
    pub completed: u64,
    pub failed: u64,
    /// Since the last heartbeat; none yet for an engine that was just restored.
    pub last_heartbeat_s: Option<f64>,
    pub address: String,
    pub state: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Tasks {
    pub pending: u64,
    pub waiting: u64,
    pub running: Option<u64>,
    pub done: u64,
    pub failed: u64,
    pub retried: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Database {
    pub kind: String,
    pub records: u64,
    pub bytes: u64,
    pub lost: u64,
}

impl Snapshot {
    /// A summary and a table of at most `engines_max` engines. No line is longer than 80 characters
    /// unless a name is.
    #[must_use]
    pub fn render(&self, engines_max: usize) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = self.summary(&mut text);
        let _ = self.table(&mut text, engines_max);
        text
    }

    fn summary(&self, text: &mut String) -> std::fmt::Result {
        let pid = self.pid.map(|pid| format!(", pid {pid}"));
        writeln!(
            text,
            "pool      {}, {}, up {} (controller {}{})",
            counted(self.engines.len() as u64, "engine"),
            counted(self.clients, "client"),
            duration(self.uptime_s),
            self.version,
            pid.unwrap_or_default()
        )?;
        writeln!(text, "tasks     {}", self.tasks.summary())?;
        let rate = self.messages_per_s.map(|n| format!("{n:.0} messages/s, "));
        let memory = self
            .memory_bytes
            .map(|n| format!("{} in memory, ", bytes(n)));
        writeln!(
            text,
            "load      {}{}scheme {}",
            rate.unwrap_or_default(),
            memory.unwrap_or_default(),
            self.scheme
        )?;
        let d = &self.database;
        match d.kind.as_str() {
            "none" | "" => write!(text, "records   none are kept")?,
            kind => write!(
                text,
                "records   {} in {kind}, {}",
                d.records,
                bytes(d.bytes)
            )?,
        }
        if d.lost > 0 {
            write!(text, ", {} lost", d.lost)?;
        }
        writeln!(text)
    }

    fn table(&self, text: &mut String, engines_max: usize) -> std::fmt::Result {
        if self.engines.is_empty() {
            return writeln!(text, "\nno engines");
        }
        let heading = [
            "engine",
            "state",
            "queue",
            "tasks",
            "done",
            "failed",
            "heartbeat",
            "address",
        ];
        let rows: Vec<[String; 8]> = self
            .engines
            .iter()
            .take(engines_max)
            .map(Engine::row)
            .collect();
        let mut widths = heading.map(str::len);
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        writeln!(text)?;
        write_row(text, &heading.map(str::to_owned), &widths)?;
        for row in &rows {
            write_row(text, row, &widths)?;
        }
        match self.engines.len() - rows.len() {
            0 => Ok(()),
            more => writeln!(text, "... and {more} more"),
        }
    }
}

impl Tasks {
    /// One line, for the table and for logs.
    #[must_use]
    pub fn summary(&self) -> String {
        let running = self.running.map(|n| format!("{n} running, "));
        let retried = (self.retried > 0).then(|| format!(", {} retried", self.retried));
        format!(
            "{}{} queued, {} waiting, {} done, {} failed{}",
            running.unwrap_or_default(),
            self.pending,
            self.waiting,
            self.done,
            self.failed,
            retried.unwrap_or_default()
        )
    }
}

impl Engine {
    fn row(&self) -> [String; 8] {
        let heartbeat = self.last_heartbeat_s;
        [
            self.id.to_string(),
            self.state.clone(),
            self.queue.to_string(),
            self.tasks.to_string(),
            self.completed.to_string(),
            self.failed.to_string(),
            heartbeat.map_or("none yet".to_owned(), |s| format!("{s:.1} s ago")),
            self.address.clone(),
        ]
    }
}

/// Numbers to the right, names (second and last column) to the left.
fn write_row(text: &mut String, row: &[String; 8], widths: &[usize; 8]) -> std::fmt::Result {
    let mut line = String::new();
    for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
        match column {
            1 | 7 => write!(line, "{cell:<width$}  ")?,
            _ => write!(line, "{cell:>width$}  ")?,
        }
    }
    writeln!(text, "{}", line.trim_end())
}

fn counted(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

fn duration(seconds: f64) -> String {
    // Negative and absurd values become the nearest sensible one.
    let s = seconds as u64;
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min {} s", s / 60, s % 60),
        3600..86_400 => format!("{} h {} min", s / 3600, s / 60 % 60),
        _ => format!("{} d {} h", s / 86_400, s / 3600 % 24),
    }
}

fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if count < 1000 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = usize::from(value < 9.95);
    format!("{value:.digits$} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_aligned() {
        let json = r#"{"status":"ok","version":"0.1.0","uptime_s":8040.5,"pid":71,"scheme":"leastload",
            "engines":[
            {"id":0,"uuid":"a","queue":0,"tasks":1,"completed":310,"failed":0,"last_heartbeat_s":0.42,
             "address":"10.0.0.7","state":"ok"},
            {"id":12,"uuid":"b","queue":3,"tasks":0,"completed":9,"failed":10,"last_heartbeat_s":7.5,
             "address":"10.0.0.8","state":"probation"},
            {"id":13,"state":"ok"}],
            "tasks":{"pending":2,"waiting":1,"running":1,"done":319,"failed":10,"retried":4},
            "clients":1,"database":{"kind":"memory","records":320,"bytes":12345,"lost":0},
            "memory_bytes":9400000,"messages_per_s":120.4}"#;
        let snapshot: Snapshot = serde_json::from_str(json).unwrap();
        let expected = "\
pool      3 engines, 1 client, up 2 h 14 min (controller 0.1.0, pid 71)
tasks     1 running, 2 queued, 1 waiting, 319 done, 10 failed, 4 retried
load      120 messages/s, 9.4 MB in memory, scheme leastload
records   320 in memory, 12 kB

engine  state      queue  tasks  done  failed  heartbeat  address
     0  ok             0      1   310       0  0.4 s ago  10.0.0.7
    12  probation      3      0     9      10  7.5 s ago  10.0.0.8
... and 1 more
";
        assert_eq!(snapshot.render(2), expected);
    }

    #[test]
    fn quantities_have_the_unit_that_suits_them() {
        assert_eq!(
            [0.2, 61.0, 3700.0, 200_000.0].map(duration),
            ["0 s", "1 min 1 s", "1 h 1 min", "2 d 7 h"]
        );
        assert_eq!(
            [999, 1000, 9_960_000, 999_600, 5_000_000_000].map(bytes),
            ["999 B", "1.0 kB", "10 MB", "1.0 MB", "5.0 GB"]
        );
    }

    #[test]
    fn an_empty_answer_is_an_empty_pool() {
        let snapshot: Snapshot = serde_json::from_str("{}").unwrap();
        let text = snapshot.render(10);
        assert!(text.ends_with("no engines\n"), "{text}");
        assert!(!text.contains("pid") && !text.contains("running"), "{text}");
    }
}
