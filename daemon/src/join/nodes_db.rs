//! The nodes of the pool, in SQLite: a thread of its own, because a card may take a second to write.
//!
//! Each change is one transaction, on the disk when it is done (`synchronous = FULL`): the power may fail
//! at any moment.

use std::path::Path;
use std::sync::mpsc;
use std::thread;

use anyhow::{Context as _, bail};
use piparallel_core::ids::NodeId;
use piparallel_core::join::admission::{NodeRow, Standing};
use piparallel_core::join::keys::NodeKey;
use piparallel_core::join::message::Kind;
use piparallel_core::wire::zmtp::SecretKey;
use rusqlite::{Connection, Row, params};
use tokio::sync::oneshot;

use crate::private::write_private;

/// Ordered; never edited, only appended to. The version is in `user_version`.
const MIGRATIONS: &[&str] = &["
    CREATE TABLE nodes (
        id TEXT PRIMARY KEY,
        key BLOB NOT NULL,
        kind TEXT NOT NULL,
        name TEXT NOT NULL,
        model TEXT,
        standing TEXT NOT NULL,
        drained INTEGER NOT NULL,
        -- Z85; secret.
        engine_key TEXT
    );
"];

const STANDINGS: [(Standing, &str); 3] = [
    (Standing::Admitted, "admitted"),
    (Standing::Pending, "pending"),
    (Standing::Revoked, "revoked"),
];

const KINDS: [(Kind, &str); 2] = [(Kind::Client, "client"), (Kind::Node, "node")];

enum Order {
    Forget(NodeId),
    Save(Box<NodeRow>),
    /// Everything before it is on the disk.
    Sync(oneshot::Sender<()>),
}

/// The way to the thread. It ends when this is dropped, after what was ordered.
pub struct NodesDb {
    orders: mpsc::Sender<Order>,
}

impl NodesDb {
    /// Opens the file, or makes it, and reads all nodes.
    ///
    /// # Errors
    /// The file cannot be used.
    pub fn open(path: &Path) -> anyhow::Result<(Self, Vec<NodeRow>)> {
        let connection = connect(path).with_context(|| format!("cannot use {}", path.display()))?;
        let rows = read_all(&connection)?;
        let (orders, inbox) = mpsc::channel();
        let thread = thread::Builder::new().name("nodes".to_owned());
        thread
            .spawn(move || serve(&connection, &inbox))
            .context("no thread is to be had")?;
        Ok((Self { orders }, rows))
    }

    pub fn save(&self, row: NodeRow) {
        // Without its thread the process is about to end.
        let _ = self.orders.send(Order::Save(Box::new(row)));
    }

    pub fn forget(&self, id: NodeId) {
        let _ = self.orders.send(Order::Forget(id));
    }

    /// Returns when everything that was ordered before is on the disk.
    pub async fn sync(&self) {
        let (done, wait) = oneshot::channel();
        if self.orders.send(Order::Sync(done)).is_ok() {
            let _ = wait.await;
        }
    }
}

fn connect(path: &Path) -> anyhow::Result<Connection> {
    if !path.exists() {
        // It holds keys: private from the first moment.
        write_private(path, b"")?;
    }
    let mut connection = Connection::open(path)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let version = usize::try_from(version).unwrap_or(usize::MAX);
    if version > MIGRATIONS.len() {
        bail!("it was written by a newer piparallel: upgrade this one");
    }
    for (number, migration) in MIGRATIONS.iter().enumerate().skip(version) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "user_version", number as i64 + 1)?;
        transaction.commit()?;
    }
    Ok(connection)
}

fn serve(connection: &Connection, inbox: &mpsc::Receiver<Order>) {
    while let Ok(order) = inbox.recv() {
        let done = match order {
            Order::Forget(id) => {
                connection.execute("DELETE FROM nodes WHERE id = ?1", params![id.to_string()])
            }
            Order::Save(row) => write(connection, &row),
            Order::Sync(done) => {
                let _ = done.send(());
                Ok(0)
            }
        };
        if let Err(cause) = done {
            log::error!(
                "the list of nodes cannot be saved ({cause}): a node that joined now has to join again after a restart"
            );
        }
    }
}

fn write(connection: &Connection, row: &NodeRow) -> rusqlite::Result<usize> {
    let standing = STANDINGS
        .iter()
        .find(|(standing, _)| *standing == row.standing);
    let kind = KINDS.iter().find(|(kind, _)| *kind == row.kind);
    connection.execute(
        "INSERT OR REPLACE INTO nodes (id, key, kind, name, model, standing, drained, engine_key)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![
            row.key.id().to_string(),
            row.key.0.as_slice(),
            kind.map(|(_, name)| *name),
            row.name,
            row.model,
            standing.map(|(_, name)| *name),
            row.drained,
            row.engine_key.as_ref().map(SecretKey::to_z85),
        ],
    )
}

fn read_all(connection: &Connection) -> anyhow::Result<Vec<NodeRow>> {
    let mut statement = connection.prepare(
        "SELECT key, kind, name, model, standing, drained, engine_key FROM nodes ORDER BY id",
    )?;
    let rows = statement.query_map((), |row| Ok(read(row)))?;
    let mut nodes = Vec::new();
    for row in rows {
        match row? {
            Ok(node) => nodes.push(node),
            Err(cause) => {
                log::error!("a damaged entry of the list of nodes is left out: {cause:#}")
            }
        }
    }
    Ok(nodes)
}

fn read(row: &Row<'_>) -> anyhow::Result<NodeRow> {
    let key: Vec<u8> = row.get(0)?;
    let (kind, standing): (String, String) = (row.get(1)?, row.get(4)?);
    let engine_key: Option<String> = row.get(6)?;
    Ok(NodeRow {
        key: NodeKey(key.try_into().ok().context("its key has not 32 bytes")?),
        kind: KINDS
            .iter()
            .find(|(_, name)| *name == kind)
            .context("its kind is unknown")?
            .0,
        name: row.get(2)?,
        model: row.get(3)?,
        standing: STANDINGS
            .iter()
            .find(|(_, name)| *name == standing)
            .context("its standing is unknown")?
            .0,
        drained: row.get(5)?,
        engine_key: match engine_key {
            Some(text) => Some(SecretKey::from_z85(&text).context("its engine key is no Z85")?),
            None => None,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use piparallel_core::join::keys::NodeSecret;
    use std::os::unix::fs::PermissionsExt as _;

    fn row(byte: u8, standing: Standing) -> NodeRow {
        NodeRow {
            key: NodeSecret::new([byte; 32]).public(),
            kind: Kind::Node,
            name: format!("pi-{byte}"),
            model: Some("Raspberry Pi 4".into()),
            standing,
            drained: byte == 2,
            engine_key: (standing == Standing::Admitted).then(|| SecretKey::new([byte; 32])),
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn nodes_survive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nodes.db");
        let (db, rows) = NodesDb::open(&path).unwrap();
        assert!(rows.is_empty());
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let mut expected = [
            row(1, Standing::Admitted),
            row(2, Standing::Pending),
            row(3, Standing::Revoked),
        ];
        expected.iter().for_each(|row| db.save(row.clone()));
        db.save(row(4, Standing::Pending));
        db.forget(row(4, Standing::Pending).key.id());
        db.sync().await;
        let (_, read) = NodesDb::open(&path).unwrap();
        expected.sort_by_key(|row| row.key.id());
        assert!(read == expected);
    }

    #[test]
    fn a_newer_file_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nodes.db");
        Connection::open(&path)
            .unwrap()
            .pragma_update(None, "user_version", 99)
            .unwrap();
        let error = NodesDb::open(&path).err().unwrap();
        assert!(format!("{error:#}").contains("newer"), "{error:#}");
    }
}
