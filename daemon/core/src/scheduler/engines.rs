//! The engines of the pool as the scheduler sees them: what each runs, and whether it can take more.

use std::num::NonZeroU32;

use foldhash::{HashMap, HashMapExt as _};

use super::job::JobKey;
use super::scheme::{Available, Scheme, Standing};
use super::waiting::Place;
use crate::ids::EngineUuid;

/// One stay of an engine in the pool; never used again after it has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct EngineKey {
    slot: u32,
    serial: NonZeroU32,
}

pub(super) struct Engine {
    pub(super) uuid: EngineUuid,
    pub(super) running: Vec<JobKey>,
    serial: NonZeroU32,
    last_use: i64,
    congested: bool,
}

pub(super) struct Engines {
    /// Tasks that one engine may hold at a time; 0: no limit.
    hwm: u32,
    slots: Vec<Option<Engine>>,
    free: Vec<u32>,
    by_uuid: HashMap<EngineUuid, EngineKey>,
    available: Available,
    next_serial: NonZeroU32,
    uses: i64,
}

impl Engines {
    pub(super) fn new(scheme: Scheme, hwm: u32, seed: u64) -> Self {
        Self {
            hwm,
            slots: Vec::new(),
            free: Vec::new(),
            by_uuid: HashMap::new(),
            available: Available::new(scheme, seed),
            next_serial: NonZeroU32::MIN,
            uses: 0,
        }
    }

    /// `None` if it is in the pool already.
    pub(super) fn add(&mut self, uuid: EngineUuid) -> Option<EngineKey> {
        if self.by_uuid.contains_key(&uuid) {
            return None;
        }
        let serial = self.next_serial;
        self.next_serial = serial.checked_add(1).unwrap_or(NonZeroU32::MIN);
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() as u32 - 1
        });
        let key = EngineKey { slot, serial };
        self.by_uuid.insert(uuid.clone(), key);
        self.slots[slot as usize] = Some(Engine {
            uuid,
            running: Vec::new(),
            serial,
            last_use: -i64::from(serial.get()),
            congested: false,
        });
        self.refresh(key);
        Some(key)
    }

    /// Takes an engine out of the pool, with what it was running.
    pub(super) fn remove(&mut self, uuid: &EngineUuid) -> Option<(EngineKey, Vec<JobKey>)> {
        let key = self.by_uuid.remove(uuid)?;
        self.available.set(key.slot, None);
        let engine = self.slots[key.slot as usize].take()?;
        self.free.push(key.slot);
        Some((key, engine.running))
    }

    pub(super) fn set_congested(&mut self, key: EngineKey, congested: bool) {
        if let Some(engine) = self.get_mut(key) {
            engine.congested = congested;
        }
        self.refresh(key);
    }

    /// Notes that the engine got a task; returns the task's position among those it runs.
    pub(super) fn start(&mut self, key: EngineKey, job: JobKey) -> u32 {
        self.uses += 1;
        let uses = self.uses;
        let Some(engine) = self.get_mut(key) else {
            return 0;
        };
        engine.last_use = uses;
        engine.running.push(job);
        let position = engine.running.len() as u32 - 1;
        self.refresh(key);
        position
    }

    /// Notes that the task at this position ended; returns the task that is there instead.
    pub(super) fn finish(&mut self, key: EngineKey, position: u32) -> Option<JobKey> {
        let engine = self.get_mut(key)?;
        engine.running.swap_remove(position as usize);
        let moved = engine.running.get(position as usize).copied();
        self.refresh(key);
        moved
    }

    /// The engine that the scheme chooses for a task that may run there.
    pub(super) fn choose(&mut self, place: &Place) -> Option<EngineKey> {
        let Self {
            slots, available, ..
        } = self;
        let key = |slot: u32| {
            let serial = slots[slot as usize].as_ref()?.serial;
            Some(EngineKey { slot, serial })
        };
        let slot = match place {
            Place::Anywhere => available.pick(|_| true),
            Place::Only(keys) if keys.len() <= SCAN_MAX => {
                let slots: Vec<u32> = keys
                    .iter()
                    .filter(|k| key(k.slot) == Some(**k))
                    .map(|k| k.slot)
                    .collect();
                available.pick_among(&slots)
            }
            Place::Only(_) | Place::AllBut(_) => {
                available.pick(|slot| key(slot).is_some_and(|key| place.admits(key)))
            }
        };
        key(slot?)
    }

    pub(super) fn key(&self, uuid: &str) -> Option<EngineKey> {
        self.by_uuid.get(uuid).copied()
    }

    pub(super) fn get(&self, key: EngineKey) -> Option<&Engine> {
        self.slots
            .get(key.slot as usize)?
            .as_ref()
            .filter(|engine| engine.serial == key.serial)
    }

    pub(super) fn contains(&self, key: EngineKey) -> bool {
        self.get(key).is_some()
    }

    pub(super) fn is_available(&self, key: EngineKey) -> bool {
        self.contains(key) && self.available.contains(key.slot)
    }

    pub(super) fn len(&self) -> usize {
        self.by_uuid.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (EngineKey, &Engine)> {
        self.slots.iter().enumerate().filter_map(|(slot, engine)| {
            let engine = engine.as_ref()?;
            let (slot, serial) = (slot as u32, engine.serial);
            Some((EngineKey { slot, serial }, engine))
        })
    }

    pub(super) fn check_invariants(&self) {
        assert_eq!(self.iter().count(), self.by_uuid.len());
        for (key, engine) in self.iter() {
            assert_eq!(self.by_uuid.get(&engine.uuid), Some(&key));
            assert!(self.hwm == 0 || engine.running.len() <= self.hwm as usize);
            assert_eq!(
                self.available.standing(key.slot),
                self.standing(engine),
                "{}",
                engine.uuid
            );
        }
    }

    fn get_mut(&mut self, key: EngineKey) -> Option<&mut Engine> {
        self.slots
            .get_mut(key.slot as usize)?
            .as_mut()
            .filter(|engine| engine.serial == key.serial)
    }

    fn refresh(&mut self, key: EngineKey) {
        if let Some(engine) = self.get(key) {
            let standing = self.standing(engine);
            self.available.set(key.slot, standing);
        }
    }

    fn standing(&self, engine: &Engine) -> Option<Standing> {
        let load = engine.running.len() as u32;
        let room = self.hwm == 0 || load < self.hwm;
        (room && !engine.congested).then_some(Standing {
            load,
            last_use: engine.last_use,
        })
    }
}

/// Up to so many allowed engines are looked at one by one; of more, the first that is allowed is
/// sought in the order of the scheme, which is then soon found.
const SCAN_MAX: usize = 16;
