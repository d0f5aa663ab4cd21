//! What became of the tasks that ended, as far as later tasks may ask: the last so many of them.
//!
//! A ring of small fixed-size entries in order of their end, and an open-addressed table of
//! positions in it, keyed by a hash of the message id. 96 bits of hash stand for the id: among a
//! quarter of a million, two ids that agree in all of them do not occur. Full, it takes 8 MB.

use std::hash::BuildHasher;

use super::engines::EngineKey;
use super::hash::Seeded;

/// How a task ended, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) success: bool,
    /// `None`: the scheduler ended it, no engine's reply did.
    pub(super) engine: Option<EngineKey>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    hash: IdHash,
    ended: Ended,
}

/// 96 bits, in words of 32 to keep an entry small.
type IdHash = [u32; 3];

pub(super) struct Finished {
    hashers: [Seeded; 2],
    capacity: usize,
    ring: Vec<Entry>,
    /// Where the next entry goes once the ring is full: over the oldest.
    oldest: usize,
    /// Position in the ring + 1, or 0; a power of two in length, at most half full.
    table: Vec<u32>,
}

impl Finished {
    pub(super) fn new(capacity: usize, seed: u64) -> Self {
        Self {
            hashers: [1, 2].map(|lane| Seeded::new(seed, lane)),
            capacity,
            ring: Vec::new(),
            oldest: 0,
            table: vec![0; 16],
        }
    }

    /// Notes the end of a task; a task of the same id that ended earlier is overwritten.
    pub(super) fn insert(&mut self, id: &str, ended: Ended) {
        let hash = self.hash(id);
        if let Some(cell) = self.find(hash) {
            let position = self.table[cell] as usize - 1;
            self.ring[position].ended = ended;
            return;
        }
        let entry = Entry { hash, ended };
        if self.ring.len() < self.capacity {
            self.ring.push(entry);
            if self.ring.len() * 2 > self.table.len() {
                self.grow();
            } else {
                self.link(self.ring.len() - 1);
            }
        } else {
            self.unlink(self.ring[self.oldest].hash);
            self.ring[self.oldest] = entry;
            self.link(self.oldest);
            self.oldest = (self.oldest + 1) % self.capacity;
        }
    }

    pub(super) fn get(&self, id: &str) -> Option<Ended> {
        let cell = self.find(self.hash(id))?;
        Some(self.ring[self.table[cell] as usize - 1].ended)
    }

    /// Has anything been forgotten yet, or will the next end do so.
    pub(super) fn is_full(&self) -> bool {
        self.ring.len() == self.capacity
    }

    fn hash(&self, id: &str) -> IdHash {
        let [a, b] = self.hashers.map(|hasher| hasher.hash_one(id));
        [a as u32, (a >> 32) as u32, b as u32]
    }

    fn home(&self, hash: IdHash) -> usize {
        hash[0] as usize & (self.table.len() - 1)
    }

    fn next(&self, cell: usize) -> usize {
        (cell + 1) & (self.table.len() - 1)
    }

    fn find(&self, hash: IdHash) -> Option<usize> {
        let mut cell = self.home(hash);
        while self.table[cell] != 0 {
            if self.ring[self.table[cell] as usize - 1].hash == hash {
                return Some(cell);
            }
            cell = self.next(cell);
        }
        None
    }

    fn link(&mut self, position: usize) {
        let mut cell = self.home(self.ring[position].hash);
        while self.table[cell] != 0 {
            cell = self.next(cell);
        }
        self.table[cell] = position as u32 + 1;
    }

    /// Removes one entry and moves up those behind it that would no longer be found.
    fn unlink(&mut self, hash: IdHash) {
        let Some(mut hole) = self.find(hash) else {
            return;
        };
        let mask = self.table.len() - 1;
        let mut cell = self.next(hole);
        while self.table[cell] != 0 {
            let home = self.home(self.ring[self.table[cell] as usize - 1].hash);
            // The entry may move into the hole if that lies between its home and where it is.
            if (cell.wrapping_sub(home) & mask) >= (cell.wrapping_sub(hole) & mask) {
                self.table[hole] = self.table[cell];
                hole = cell;
            }
            cell = self.next(cell);
        }
        self.table[hole] = 0;
    }

    fn grow(&mut self) {
        self.table = vec![0; self.table.len() * 2];
        for position in 0..self.ring.len() {
            self.link(position);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, VecDeque};

    use super::*;

    #[test]
    fn the_last_so_many_are_known_and_older_ones_are_not() {
        let mut finished = Finished::new(100, 7);
        let mut model: HashMap<String, bool> = HashMap::new();
        let mut order = VecDeque::new();
        for n in 0..5000_u32 {
            // Some ids end twice; they keep their place in the ring.
            let id = format!("task-{}", n.wrapping_mul(2_654_435_761) % 400);
            let ended = Ended {
                success: n % 3 == 0,
                engine: None,
            };
            finished.insert(&id, ended);
            if model.insert(id.clone(), ended.success).is_none() {
                order.push_back(id);
                if order.len() > 100 {
                    model.remove(&order.pop_front().unwrap());
                }
            }
            assert_eq!(finished.is_full(), order.len() == 100);
        }
        for n in 0..400 {
            let id = format!("task-{n}");
            assert_eq!(
                finished.get(&id).map(|e| e.success),
                model.get(&id).copied(),
                "{id}"
            );
        }
    }

    #[test]
    fn an_entry_stays_small() {
        assert!(size_of::<Entry>() <= 24);
    }
}
