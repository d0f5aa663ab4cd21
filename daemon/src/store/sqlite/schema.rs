//! The file: opening it, its tables, and how older files become current ones.
//!
//! The version is in `user_version`. `piparallel_tables` lists the task tables of the file, so that
//! tables of other programs (stock ipyparallel uses the same file name) are neither read nor changed.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};
use thiserror::Error;

/// Why a file was not opened.
#[derive(Debug, Error)]
pub(super) enum OpenError {
    /// A table of that name belongs to another program.
    #[error(
        "{path} has a table '{table}' that piparallel did not make (stock ipyparallel?): choose \
         another SQLiteDB.table or SQLiteDB.filename"
    )]
    Foreign { path: PathBuf, table: String },
    /// A later version of this program wrote the file.
    #[error(
        "{path} was written by a newer piparallel (database version {version}, this one knows up to \
         {known}): upgrade, or choose another SQLiteDB.filename"
    )]
    Newer {
        path: PathBuf,
        version: i64,
        known: usize,
    },
    /// The table's name cannot be used.
    #[error(
        "SQLiteDB.table is '{0}': use 1 to 64 letters, digits, '-' or '_', not beginning with \
         'sqlite_' or 'piparallel_tables'"
    )]
    TableName(String),
    /// The disk or SQLite refuses; it may not tomorrow.
    #[error(transparent)]
    Unusable(#[from] rusqlite::Error),
}

/// Ordered; never edited, only appended to. `{t}` is the task table.
const MIGRATIONS: &[&str] = &[r#"
    CREATE TABLE "{t}" (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        msg_id TEXT NOT NULL UNIQUE,
        -- JSON as the client sent it; content is null when only the reply was seen.
        header TEXT, metadata TEXT, content TEXT,
        -- Microseconds since 1970, UTC.
        submitted INTEGER, started INTEGER, completed INTEGER, received INTEGER,
        client_uuid TEXT, engine_uuid TEXT, resubmitted TEXT, queue TEXT,
        -- JSON.
        label TEXT,
        result_header TEXT, result_metadata TEXT, result_content TEXT,
        execute_input TEXT, execute_result TEXT, error TEXT,
        stdout TEXT NOT NULL DEFAULT '', stderr TEXT NOT NULL DEFAULT '',
        -- Bytes of buffers that were not recorded.
        buffers_lost INTEGER, result_buffers_lost INTEGER,
        -- Bytes that were written for this task.
        size INTEGER NOT NULL
    );
    CREATE INDEX "{t}-submitted" ON "{t}" (submitted);
    CREATE INDEX "{t}-engine" ON "{t}" (engine_uuid);
    CREATE INDEX "{t}-completed" ON "{t}" (completed);
    -- One row per buffer; side 0 is the request's, side 1 the reply's.
    CREATE TABLE "{t}-buffers" (
        task INTEGER NOT NULL, side INTEGER NOT NULL, position INTEGER NOT NULL,
        data BLOB NOT NULL,
        PRIMARY KEY (task, side, position)
    ) WITHOUT ROWID;
    CREATE TRIGGER "{t}-forget" AFTER DELETE ON "{t}" BEGIN
        DELETE FROM "{t}-buffers" WHERE task = old.id;
    END;
"#];

/// How long to wait for another program that has the file locked.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// Checks the name of a task table, which becomes part of the SQL.
pub(super) fn check_table_name(table: &str) -> Result<(), OpenError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let reserved =
        table.to_ascii_lowercase().starts_with("sqlite_") || table == "piparallel_tables";
    if (1..=64).contains(&table.len()) && table.chars().all(allowed) && !reserved {
        Ok(())
    } else {
        Err(OpenError::TableName(table.to_owned()))
    }
}

/// Opens or makes the file, and brings it up to date. Proves that it can be written.
///
/// A committed transaction survives a killed controller. Write-ahead logging with
/// `synchronous = NORMAL` means that a power cut may take the transactions since the last checkpoint
/// with it, and leaves the file whole.
pub(super) fn open(path: &Path, table: &str) -> Result<Connection, OpenError> {
    make_private(path);
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.execute_batch(
        "PRAGMA auto_vacuum = INCREMENTAL;
         PRAGMA journal_mode = WAL;
         PRAGMA synchronous = NORMAL;
         PRAGMA journal_size_limit = 16777216;",
    )?;
    let change = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    migrate(&change, path, table, MIGRATIONS)?;
    change.commit()?;
    Ok(connection)
}

/// Records hold users' code and data. SQLite gives its other files the mode of this one.
fn make_private(path: &Path) {
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    if let Err(error) = made
        && error.kind() != io::ErrorKind::AlreadyExists
    {
        log::debug!("{}: {error}; SQLite will say the same", path.display());
    }
}

fn migrate(
    change: &Transaction<'_>,
    path: &Path,
    table: &str,
    migrations: &[&str],
) -> Result<(), OpenError> {
    let version: i64 = change.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let known = migrations.len();
    let Some(missing) = usize::try_from(version)
        .ok()
        .and_then(|v| migrations.get(v..))
    else {
        return Err(OpenError::Newer {
            path: path.to_owned(),
            version,
            known,
        });
    };
    change.execute_batch(
        "CREATE TABLE IF NOT EXISTS piparallel_tables (name TEXT PRIMARY KEY, opened INTEGER) \
         WITHOUT ROWID",
    )?;
    for name in task_tables(change)? {
        for migration in missing {
            change.execute_batch(&migration.replace("{t}", &name))?;
        }
    }
    if !task_tables(change)?.iter().any(|name| name == table) {
        let taken = change
            .query_row(
                "SELECT 1 FROM sqlite_master WHERE name IN (?1, ?1 || '-buffers') COLLATE NOCASE",
                [table],
                |_| Ok(()),
            )
            .optional()?;
        if taken.is_some() {
            return Err(OpenError::Foreign {
                path: path.to_owned(),
                table: table.to_owned(),
            });
        }
        for migration in migrations {
            change.execute_batch(&migration.replace("{t}", table))?;
        }
    }
    change.pragma_update(
        None,
        "user_version",
        i64::try_from(known).unwrap_or(i64::MAX),
    )?;
    change.execute(
        "INSERT INTO piparallel_tables VALUES (?1, 1) \
         ON CONFLICT (name) DO UPDATE SET opened = opened + 1",
        [table],
    )?;
    Ok(())
}

fn task_tables(change: &Transaction<'_>) -> rusqlite::Result<Vec<String>> {
    let mut tables = change.prepare("SELECT name FROM piparallel_tables ORDER BY name")?;
    tables.query_map([], |row| row.get(0))?.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(connection: &Connection) -> i64 {
        let row = |row: &rusqlite::Row<'_>| row.get(0);
        connection
            .query_row("PRAGMA user_version", [], row)
            .unwrap()
    }

    #[test]
    fn every_table_of_a_file_is_migrated_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tasks.db");
        drop(open(&path, "first").unwrap());
        drop(open(&path, "second").unwrap());
        let mut connection = Connection::open(&path).unwrap();
        let next = [MIGRATIONS, &[r#"ALTER TABLE "{t}" ADD COLUMN later TEXT"#]].concat();
        for _ in 0..2 {
            let change = connection.transaction().unwrap();
            migrate(&change, &path, "third", &next).unwrap();
            change.commit().unwrap();
        }
        assert_eq!(version(&connection), 2);
        for table in ["first", "second", "third"] {
            let sql = format!(r#"SELECT later FROM "{table}""#);
            assert!(connection.prepare(&sql).is_ok(), "{table}");
        }
    }

    #[test]
    fn a_newer_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tasks.db");
        let connection = open(&path, "tasks").unwrap();
        connection.pragma_update(None, "user_version", 99).unwrap();
        drop(connection);
        let error = open(&path, "tasks").unwrap_err();
        assert!(
            matches!(error, OpenError::Newer { version: 99, .. }),
            "{error}"
        );
        assert!(error.to_string().contains("newer piparallel"), "{error}");
    }

    #[test]
    fn a_table_of_stock_ipyparallel_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tasks.db");
        let stock = Connection::open(&path).unwrap();
        stock
            .execute_batch(r#"CREATE TABLE "ipython-tasks" (msg_id text PRIMARY KEY)"#)
            .unwrap();
        drop(stock);
        let error = open(&path, "ipython-tasks").unwrap_err();
        assert!(matches!(error, OpenError::Foreign { .. }), "{error}");
        assert!(open(&path, "piparallel-tasks").is_ok());
    }

    #[test]
    fn the_file_is_private() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tasks.db");
        let _connection = open(&path, "tasks").unwrap();
        for name in ["tasks.db", "tasks.db-wal"] {
            let mode = dir
                .path()
                .join(name)
                .metadata()
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }

    #[test]
    fn table_names_cannot_carry_sql() {
        for name in [
            "",
            "a\"b",
            "a b",
            "sqlite_x",
            "piparallel_tables",
            &"x".repeat(65),
        ] {
            assert!(check_table_name(name).is_err(), "{name}");
        }
        assert!(check_table_name("ipython-tasks_1").is_ok());
    }
}
