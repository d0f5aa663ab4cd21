//! Where a controller's task records are kept: in memory or on disk, each on a thread of its own, so that neither a change nor
//! a question keeps the router from its work.

use std::io;
use std::thread::JoinHandle;

use piparallel_core::task_db::{DbError, DbOp, DbRequest, DbStatus, Ticket};

/// In memory.
mod memory;
/// On disk.
mod sqlite;

pub use memory::MemoryStore;
pub use sqlite::{DEFAULT_FILENAME, DEFAULT_TABLE, SqliteConfig, SqliteStore};

/// A handle on the database; dropping it writes what waits, where that counts.
#[derive(Debug)]
pub enum Store {
    Memory(MemoryStore),
    Sqlite(SqliteStore),
}

impl Store {
    /// Notes what happened.
    pub fn record(&mut self, op: DbOp) {
        match self {
            Self::Memory(store) => store.record(op),
            Self::Sqlite(store) => store.record(op),
        }
    }

    /// Asks a question, which sees everything that was recorded before; the answer comes through the callback under `ticket`.
    ///
    /// # Errors
    /// Too many questions wait. There will be no other answer.
    pub fn ask(&mut self, ticket: Ticket, request: DbRequest) -> Result<(), DbError> {
        match self {
            Self::Memory(store) => {
                store.ask(ticket, request);
                Ok(())
            }
            Self::Sqlite(store) => store.ask(ticket, request),
        }
    }

    /// As it was a moment ago.
    #[must_use]
    pub fn status(&mut self) -> DbStatus {
        match self {
            Self::Memory(store) => store.status(),
            Self::Sqlite(store) => store.status(),
        }
    }
}

/// One thing to do, in the order in which the hub decided it.
#[derive(Debug)]
enum Item {
    Ask(Ticket, DbRequest),
    Op(DbOp),
}

/// The thread of a database. Dropping it waits for its end, which its owner has to bring about before.
#[derive(Debug)]
struct DbThread(Option<JoinHandle<()>>);

impl DbThread {
    fn spawn(run: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let named = std::thread::Builder::new().name("task-db".to_owned());
        Ok(Self(Some(named.spawn(run)?)))
    }
}

impl Drop for DbThread {
    fn drop(&mut self) {
        if let Some(thread) = self.0.take()
            && thread.join().is_err()
        {
            log::error!("the thread of the task database stopped by a bug");
        }
    }
}
