//! Where a controller's task records are kept: in memory or on disk, each on a thread of its own, so that neither a change nor
//! a question keeps the router from its work.

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
            Self::Memory(store) => store.ask(ticket, request),
            Self::Sqlite(store) => return store.ask(ticket, request),
        }
        Ok(())
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
