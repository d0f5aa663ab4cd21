//! Tasks that may run as soon as an engine has room, oldest first.
//!
//! Tasks that may run at the same place, which is nearly always "anywhere", share a queue. To give
//! an engine its next task, only the heads of the queues that it may serve are compared: those of
//! short lists of engines are indexed by engine, all others are looked at from the oldest on.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::engines::{EngineKey, Engines};
use super::hash::Seeded;
use super::job::{JobKey, Seq};
use super::line::Line;

/// Where a task may run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Place {
    #[default]
    Anywhere,
    /// On all engines but these; in ascending order, not empty.
    AllBut(Arc<[EngineKey]>),
    /// On these engines; in ascending order.
    Only(Arc<[EngineKey]>),
}

impl Place {
    /// Everywhere but on these.
    pub(super) fn all_but(mut keys: Vec<EngineKey>) -> Self {
        keys.sort_unstable();
        keys.dedup();
        if keys.is_empty() {
            Self::Anywhere
        } else {
            Self::AllBut(keys.into())
        }
    }

    pub(super) fn admits(&self, key: EngineKey) -> bool {
        match self {
            Self::Anywhere => true,
            Self::AllBut(keys) => keys.binary_search(&key).is_err(),
            Self::Only(keys) => keys.binary_search(&key).is_ok(),
        }
    }

    fn is_narrow(&self) -> bool {
        matches!(self, Self::Only(keys) if keys.len() <= NARROW_MAX)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct QueueKey(u32);

struct Queue {
    place: Place,
    jobs: Line,
    /// Engines in the list of `place` that are in the pool.
    listed_alive: usize,
}

impl Queue {
    /// No engine of the pool may run these tasks, though others were once to be had.
    fn is_stranded(&self, pool: usize) -> bool {
        match self.place {
            Place::Anywhere => false,
            Place::AllBut(_) => pool > 0 && self.listed_alive == pool,
            Place::Only(_) => self.listed_alive == 0,
        }
    }
}

pub(super) struct Waiting {
    queues: Vec<Option<Queue>>,
    free: Vec<u32>,
    by_place: HashMap<Place, QueueKey, Seeded>,
    /// Head of each queue of few engines, under each of these engines.
    narrow: BTreeSet<(EngineKey, Seq, QueueKey)>,
    /// Heads of all other queues.
    wide: BTreeSet<(Seq, QueueKey)>,
    count: usize,
}

impl Waiting {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            queues: Vec::new(),
            free: Vec::new(),
            by_place: HashMap::with_hasher(Seeded::new(seed, PLACES_LANE)),
            narrow: BTreeSet::new(),
            wide: BTreeSet::new(),
            count: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Do others wait for this place already? Then there is no room there.
    pub(super) fn is_contended(&self, place: &Place) -> bool {
        self.by_place.contains_key(place)
    }

    pub(super) fn push(
        &mut self,
        seq: Seq,
        job: JobKey,
        place: Place,
        engines: &Engines,
    ) -> QueueKey {
        let key = match self.by_place.get(&place) {
            Some(key) => *key,
            None => self.open(place, engines),
        };
        self.count += 1;
        self.change(key, |jobs| jobs.insert(seq, job));
        key
    }

    pub(super) fn remove(&mut self, seq: Seq, job: JobKey, key: QueueKey) {
        self.count -= 1;
        let left = self.change(key, |jobs| jobs.remove(seq, job));
        if left == 0
            && let Some(queue) = self.queues[key.0 as usize].take()
        {
            self.by_place.remove(&queue.place);
            self.free.push(key.0);
        }
    }

    /// The oldest task that may run on this engine.
    pub(super) fn oldest_for(&self, engine: EngineKey) -> Option<(Seq, JobKey)> {
        let narrow = self
            .narrow
            .range((engine, Seq::FIRST, QueueKey(0))..)
            .next()
            .filter(|head| head.0 == engine)
            .map(|head| (head.1, head.2));
        let wide = self
            .wide
            .iter()
            .take_while(|head| narrow.is_none_or(|narrow| **head < narrow))
            .find(|head| {
                self.queue(head.1)
                    .is_some_and(|queue| queue.place.admits(engine))
            });
        let (_, key) = wide.copied().or(narrow)?;
        self.queue(key)?.jobs.first()
    }

    /// Notes that an engine left; returns the tasks, oldest first, that no engine may run any more.
    pub(super) fn engine_left(&mut self, engine: EngineKey, pool: usize) -> Vec<(Seq, JobKey)> {
        let mut stranded = Vec::new();
        for queue in self.queues.iter_mut().flatten() {
            let listed = match queue.place {
                Place::Anywhere => false,
                Place::AllBut(_) => !queue.place.admits(engine),
                Place::Only(_) => queue.place.admits(engine),
            };
            queue.listed_alive -= usize::from(listed);
            if queue.is_stranded(pool) {
                stranded.extend(queue.jobs.iter());
            }
        }
        stranded.sort_unstable();
        stranded
    }

    pub(super) fn place(&self, key: QueueKey) -> Option<&Place> {
        self.queue(key).map(|queue| &queue.place)
    }

    pub(super) fn check_invariants(&self, engines: &Engines) {
        let mut heads = (0, 0);
        let mut count = 0;
        for (index, queue) in self.queues.iter().enumerate() {
            let Some(queue) = queue else { continue };
            let key = QueueKey(index as u32);
            assert_eq!(self.by_place.get(&queue.place), Some(&key));
            count += queue.jobs.len();
            let head = queue.jobs.first().map(|job| job.0);
            let head = head.expect("a queue without tasks is closed");
            match &queue.place {
                Place::Only(keys) if keys.len() <= NARROW_MAX => {
                    heads.0 += keys.len();
                    assert!(keys.iter().all(|e| self.narrow.contains(&(*e, head, key))));
                }
                _ => {
                    heads.1 += 1;
                    assert!(self.wide.contains(&(head, key)));
                }
            }
            assert_eq!(queue.listed_alive, listed_alive(&queue.place, engines));
            for (engine, _) in engines.iter() {
                assert!(!queue.place.admits(engine) || !engines.is_available(engine));
            }
        }
        assert_eq!(heads, (self.narrow.len(), self.wide.len()));
        assert_eq!(count, self.count);
    }

    fn open(&mut self, place: Place, engines: &Engines) -> QueueKey {
        let index = self.free.pop().unwrap_or_else(|| {
            self.queues.push(None);
            self.queues.len() as u32 - 1
        });
        self.by_place.insert(place.clone(), QueueKey(index));
        self.queues[index as usize] = Some(Queue {
            listed_alive: listed_alive(&place, engines),
            place,
            jobs: Line::default(),
        });
        QueueKey(index)
    }

    /// Changes a queue and keeps the index of heads right; returns how many tasks are left in it.
    fn change(&mut self, key: QueueKey, change: impl FnOnce(&mut Line)) -> usize {
        let Some(queue) = self.queues.get_mut(key.0 as usize).and_then(Option::as_mut) else {
            return 0;
        };
        let before = queue.jobs.first().map(|job| job.0);
        change(&mut queue.jobs);
        let after = queue.jobs.first().map(|job| job.0);
        if before != after {
            match &queue.place {
                Place::Only(keys) if queue.place.is_narrow() => {
                    for engine in keys.iter() {
                        let head = |seq| (*engine, seq, key);
                        replace(&mut self.narrow, before.map(head), after.map(head));
                    }
                }
                _ => {
                    let head = |seq| (seq, key);
                    replace(&mut self.wide, before.map(head), after.map(head));
                }
            }
        }
        queue.jobs.len()
    }

    fn queue(&self, key: QueueKey) -> Option<&Queue> {
        self.queues.get(key.0 as usize)?.as_ref()
    }
}

fn listed_alive(place: &Place, engines: &Engines) -> usize {
    match place {
        Place::Anywhere => 0,
        Place::AllBut(keys) | Place::Only(keys) => {
            keys.iter().filter(|key| engines.contains(**key)).count()
        }
    }
}

/// New first: a tree that never gets empty in between keeps its memory.
fn replace<T: Ord>(heads: &mut BTreeSet<T>, before: Option<T>, after: Option<T>) {
    heads.extend(after);
    if let Some(before) = before {
        heads.remove(&before);
    }
}

/// See `Seeded::new`.
const PLACES_LANE: u64 = 3;

/// A queue of up to so many engines has its head indexed under each of them.
const NARROW_MAX: usize = 16;
