//! Which engines exist, from the first request to register until long after they left.
//!
//! | state      | means                                             | leaves it by                      |
//! |------------|---------------------------------------------------|-----------------------------------|
//! | pending    | has a number; its heart has not beaten yet        | first pong → registered; deadline |
//! | registered | clients and schedulers know it                    | see `Departure`                   |
//! | leaving    | no new work; replies in flight are still routed   | grace over → departed             |
//! | departed   | remembered: may come back under its old number    | a pong, unless it left for good   |

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use foldhash::HashMap;

use crate::ids::{EngineId, EngineUuid, MsgId};
use crate::limits::{DEPARTED_ENGINES_MAX, PENDING_REGISTRATIONS_MAX, WANTED_ID_AHEAD_MAX};
use crate::wire::zmtp::PublicKey;

/// Why an engine left the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Departure {
    /// It said so, or its nanny saw it die.
    Unregistered,
    /// It was shut down by a client.
    Shutdown,
    /// A connection of its shell ended.
    Disconnected,
    /// Its node is drained, and it has finished.
    Drained,
    /// It did not answer heartbeats.
    Silent,
}

impl Departure {
    /// Whether a later sign of life brings it back.
    fn may_return(self) -> bool {
        matches!(self, Self::Disconnected | Self::Drained | Self::Silent)
    }

    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::Unregistered => "it unregistered, or its process ended",
            Self::Shutdown => "it was shut down by a client",
            Self::Disconnected => "its connections ended",
            Self::Drained => "its node is drained",
            Self::Silent => "it did not answer heartbeats: host down, frozen or out of reach",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Waits for its first heartbeat until the deadline.
    Pending {
        deadline: Duration,
        ponged: bool,
    },
    Registered,
    Leaving {
        deadline: Duration,
        departure: Departure,
    },
}

#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) id: EngineId,
    pub(crate) uuid: EngineUuid,
    pub(crate) state: State,
    pub(crate) curve_key: Option<PublicKey>,
    pub(crate) address: String,
    /// Requests sent through mux or broadcast that it has not answered, oldest first.
    pub(crate) queue: BTreeMap<u64, MsgId>,
    /// Replies that were ok, and that were not.
    pub(crate) completed: u64,
    pub(crate) failed: u64,
}

impl Engine {
    /// Whether it may be given work.
    pub(crate) fn is_registered(&self) -> bool {
        self.state == State::Registered
    }

    /// Whether clients do not know it yet.
    pub(crate) fn is_pending(&self) -> bool {
        matches!(self.state, State::Pending { .. })
    }

    /// Counts a reply.
    pub(crate) fn count(&mut self, ok: bool) {
        if ok {
            self.completed += 1
        } else {
            self.failed += 1
        }
    }
}

impl State {
    fn deadline(self) -> Option<Duration> {
        match self {
            Self::Pending { deadline, .. } | Self::Leaving { deadline, .. } => Some(deadline),
            Self::Registered => None,
        }
    }
}

/// What is remembered of an engine that may come back.
#[derive(Debug)]
struct Departed {
    id: EngineId,
    /// The key it had to have: another's is not let in under its uuid.
    curve_key: Option<PublicKey>,
    /// Place in the order of departures.
    order: u64,
}

impl Departed {
    fn admits(&self, curve_key: Option<PublicKey>) -> bool {
        self.curve_key.is_none() || self.curve_key == curve_key
    }
}

/// Why an engine may not register.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum RegistrationError {
    #[error("uuid {0} is that of an engine with another CURVE key")]
    AnotherKey(EngineUuid),
    #[error("an engine with uuid {0} is already registered: two engines must not share one")]
    Duplicate(EngineUuid),
    #[error("no engine number is left; restart the controller")]
    NoNumberLeft,
    #[error(
        "{PENDING_REGISTRATIONS_MAX} registrations already wait for their first heartbeat; try again later"
    )]
    TooManyPending,
}

#[derive(Debug, Default)]
pub(crate) struct Engines {
    by_id: BTreeMap<EngineId, Engine>,
    ids: HashMap<EngineUuid, EngineId>,
    /// Those that may come back.
    departed: BTreeMap<EngineUuid, Departed>,
    /// The same in the order in which they left.
    departures: BTreeMap<u64, EngineUuid>,
    departures_so_far: u64,
    /// Of the engines whose state has one.
    deadlines: BTreeSet<(Duration, EngineId)>,
    pending: usize,
    next_id: u32,
}

impl Engines {
    /// Gives a number to a new engine: the wanted one if it is free, else the next that was never used.
    pub(crate) fn register(
        &mut self,
        uuid: EngineUuid,
        wanted: Option<u32>,
        address: String,
        curve_key: Option<PublicKey>,
        deadline: Duration,
    ) -> Result<EngineId, RegistrationError> {
        if self.ids.contains_key(&uuid) {
            return Err(RegistrationError::Duplicate(uuid));
        }
        if self.pending >= PENDING_REGISTRATIONS_MAX {
            return Err(RegistrationError::TooManyPending);
        }
        let wanted =
            wanted.filter(|wanted| *wanted <= self.next_id.saturating_add(WANTED_ID_AHEAD_MAX));
        let departed = self.departed.get(uuid.as_str());
        if departed.is_some_and(|departed| !departed.admits(curve_key)) {
            return Err(RegistrationError::AnotherKey(uuid));
        }
        let id = departed
            .map(|departed| departed.id)
            .or(wanted.map(EngineId));
        let id = self.free_id(id).ok_or(RegistrationError::NoNumberLeft)?;
        self.forget_departed(&uuid);
        self.insert(
            id,
            uuid,
            State::Pending {
                deadline,
                ponged: false,
            },
            address,
            curve_key,
        );
        Ok(id)
    }

    /// Takes an engine up again that was known before, under its old number. It is pending until its
    /// heart beats.
    pub(crate) fn readmit(
        &mut self,
        uuid: &str,
        address: String,
        curve_key: Option<PublicKey>,
        deadline: Duration,
    ) -> Option<EngineId> {
        let (uuid, departed) = self.departed.get_key_value(uuid)?;
        if !departed.admits(curve_key) {
            return None;
        }
        let uuid = uuid.clone();
        let id = self.free_id(Some(departed.id))?;
        self.forget_departed(&uuid);
        self.insert(
            id,
            uuid,
            State::Pending {
                deadline,
                ponged: true,
            },
            address,
            curve_key,
        );
        Some(id)
    }

    /// Remembers an engine of an earlier run of the controller: it is taken up as soon as it answers.
    pub(crate) fn restore(&mut self, id: EngineId, uuid: EngineUuid) {
        self.next_id = self.next_id.max(id.0.saturating_add(1));
        self.remember(uuid, id, None);
    }

    /// This number if no one has it, else the next that was never used.
    fn free_id(&self, wanted: Option<EngineId>) -> Option<EngineId> {
        wanted
            .into_iter()
            .chain([EngineId(self.next_id)])
            .find(|id| !self.by_id.contains_key(id))
    }

    /// Numbers below this are never given out anew.
    pub(crate) fn reserve(&mut self, next_id: u32) {
        self.next_id = self.next_id.max(next_id);
    }

    pub(crate) fn next_id(&self) -> u32 {
        self.next_id
    }

    fn insert(
        &mut self,
        id: EngineId,
        uuid: EngineUuid,
        state: State,
        address: String,
        curve_key: Option<PublicKey>,
    ) {
        self.next_id = self.next_id.max(id.0.saturating_add(1));
        self.ids.insert(uuid.clone(), id);
        self.note_entered_state(id, state);
        let queue = BTreeMap::new();
        self.by_id.insert(
            id,
            Engine {
                id,
                uuid,
                state,
                curve_key,
                address,
                queue,
                completed: 0,
                failed: 0,
            },
        );
    }

    /// Moves an engine to another state. The state it had, if there is such an engine.
    pub(crate) fn set_state(&mut self, id: EngineId, state: State) -> Option<State> {
        let engine = self.by_id.get_mut(&id)?;
        let old = std::mem::replace(&mut engine.state, state);
        self.note_left_state(id, old);
        self.note_entered_state(id, state);
        Some(old)
    }

    fn note_entered_state(&mut self, id: EngineId, state: State) {
        self.pending += usize::from(matches!(state, State::Pending { .. }));
        if let Some(deadline) = state.deadline() {
            self.deadlines.insert((deadline, id));
        }
    }

    fn note_left_state(&mut self, id: EngineId, state: State) {
        self.pending -= usize::from(matches!(state, State::Pending { .. }));
        if let Some(deadline) = state.deadline() {
            self.deadlines.remove(&(deadline, id));
        }
    }

    /// An engine whose deadline has come.
    pub(crate) fn due(&self, now: Duration) -> Option<&Engine> {
        let (deadline, id) = self.deadlines.first()?;
        self.by_id.get(id).filter(|_| *deadline <= now)
    }

    pub(crate) fn next_timeout(&self) -> Option<Duration> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Forgets an engine, or only remembers that it may come back.
    pub(crate) fn remove(&mut self, id: EngineId, departure: Departure) -> Option<Engine> {
        let engine = self.by_id.remove(&id)?;
        self.ids.remove(&engine.uuid);
        self.note_left_state(id, engine.state);
        if departure.may_return() {
            self.remember(engine.uuid.clone(), id, engine.curve_key);
        }
        Some(engine)
    }

    fn remember(&mut self, uuid: EngineUuid, id: EngineId, curve_key: Option<PublicKey>) {
        self.forget_departed(&uuid);
        if self.departures.len() >= DEPARTED_ENGINES_MAX
            && let Some((_, oldest)) = self.departures.pop_first()
        {
            self.departed.remove(&oldest);
        }
        let order = self.departures_so_far;
        self.departures_so_far += 1;
        self.departures.insert(order, uuid.clone());
        let departed = Departed {
            id,
            curve_key,
            order,
        };
        self.departed.insert(uuid, departed);
    }

    fn forget_departed(&mut self, uuid: &EngineUuid) {
        if let Some(departed) = self.departed.remove(uuid) {
            self.departures.remove(&departed.order);
        }
    }

    /// News of one that was out of reach: it will not come back.
    pub(crate) fn forget_departed_id(&mut self, id: EngineId) {
        let mut departed = self.departed.iter();
        if let Some((uuid, _)) = departed.find(|(_, departed)| departed.id == id) {
            let uuid = uuid.clone();
            self.forget_departed(&uuid);
        }
    }

    /// Those that clients do not know at present, but will when they answer: pending and departed.
    pub(crate) fn absent(&self) -> impl Iterator<Item = (&EngineUuid, EngineId)> {
        let pending = self.by_id.values().filter(|engine| engine.is_pending());
        let pending = pending.map(|engine| (&engine.uuid, engine.id));
        pending.chain(
            self.departed
                .iter()
                .map(|(uuid, departed)| (uuid, departed.id)),
        )
    }

    pub(crate) fn has_departed(&self, uuid: &str) -> bool {
        self.departed.contains_key(uuid)
    }

    pub(crate) fn pending_count(&self) -> usize {
        self.pending
    }

    pub(crate) fn id_of(&self, uuid: &str) -> Option<EngineId> {
        self.ids.get(uuid).copied()
    }

    pub(crate) fn get(&self, id: EngineId) -> Option<&Engine> {
        self.by_id.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: EngineId) -> Option<&mut Engine> {
        self.by_id.get_mut(&id)
    }

    pub(crate) fn by_uuid(&self, uuid: &str) -> Option<&Engine> {
        self.by_id.get(self.ids.get(uuid)?)
    }

    pub(crate) fn by_uuid_mut(&mut self, uuid: &str) -> Option<&mut Engine> {
        self.by_id.get_mut(self.ids.get(uuid)?)
    }

    /// Every engine, by number.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Engine> {
        self.by_id.values()
    }

    /// Panics if the indexes do not agree. For tests.
    pub(crate) fn check_invariants(&self) {
        assert_eq!(self.by_id.len(), self.ids.len());
        for (id, engine) in &self.by_id {
            assert_eq!((self.ids.get(&engine.uuid), engine.id), (Some(id), *id));
            assert!(
                !self.departed.contains_key(&engine.uuid),
                "{id} is here and gone"
            );
            assert!(id.0 < self.next_id || self.next_id == u32::MAX);
            if let Some(deadline) = engine.state.deadline() {
                assert!(self.deadlines.contains(&(deadline, *id)));
            }
        }
        let with_deadline = self.iter().filter(|e| e.state.deadline().is_some());
        assert_eq!(with_deadline.count(), self.deadlines.len());
        assert_eq!(self.iter().filter(|e| e.is_pending()).count(), self.pending);
        assert!(self.pending <= PENDING_REGISTRATIONS_MAX);
        for (order, uuid) in &self.departures {
            assert_eq!(self.departed[uuid].order, *order);
        }
        assert_eq!(self.departed.len(), self.departures.len());
        assert!(self.departures.len() <= DEPARTED_ENGINES_MAX);
    }

    /// The engines that clients know, by number.
    pub(crate) fn registered(&self) -> impl Iterator<Item = &Engine> {
        self.by_id.values().filter(|engine| !engine.is_pending())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(30);

    fn register(
        engines: &mut Engines,
        uuid: &str,
        wanted: Option<u32>,
    ) -> Result<u32, RegistrationError> {
        engines
            .register(EngineUuid::new(uuid), wanted, String::new(), None, DEADLINE)
            .map(|id| id.0)
    }

    #[test]
    fn numbers_count_up_and_wanted_ones_are_given_once() {
        let mut engines = Engines::default();
        assert_eq!(register(&mut engines, "a", None), Ok(0));
        assert_eq!(register(&mut engines, "b", Some(5)), Ok(5));
        assert_eq!(register(&mut engines, "c", Some(5)), Ok(6));
        assert_eq!(register(&mut engines, "d", None), Ok(7));
        engines.remove(EngineId(7), Departure::Unregistered);
        assert_eq!(register(&mut engines, "e", None), Ok(8), "never reused");
    }

    #[test]
    fn a_uuid_registers_once() {
        let mut engines = Engines::default();
        assert_eq!(register(&mut engines, "a", None), Ok(0));
        assert_eq!(
            register(&mut engines, "a", None),
            Err(RegistrationError::Duplicate(EngineUuid::new("a")))
        );
    }

    #[test]
    fn one_that_was_out_of_reach_gets_its_number_back() {
        let mut engines = Engines::default();
        register(&mut engines, "a", None).unwrap();
        engines.set_state(EngineId(0), State::Registered);
        assert_eq!(engines.registered().count(), 1);
        engines.remove(EngineId(0), Departure::Silent);
        register(&mut engines, "b", None).unwrap();
        assert_eq!(
            engines.readmit("a", String::new(), None, DEADLINE),
            Some(EngineId(0))
        );
        assert_eq!(engines.readmit("a", String::new(), None, DEADLINE), None);
    }

    #[test]
    fn one_that_left_for_good_does_not_return() {
        let mut engines = Engines::default();
        register(&mut engines, "a", None).unwrap();
        engines.remove(EngineId(0), Departure::Unregistered);
        assert!(!engines.has_departed("a"));
    }

    #[test]
    fn deadlines_come_in_order_and_end_with_their_state() {
        let mut engines = Engines::default();
        register(&mut engines, "a", None).unwrap();
        register(&mut engines, "b", None).unwrap();
        engines.set_state(EngineId(0), State::Registered);
        assert_eq!(engines.next_timeout(), Some(DEADLINE));
        assert!(engines.due(Duration::ZERO).is_none());
        assert_eq!(
            engines.due(DEADLINE).map(|engine| engine.id),
            Some(EngineId(1))
        );
        engines.remove(EngineId(1), Departure::Silent);
        assert_eq!(engines.next_timeout(), None);
    }

    #[test]
    fn one_that_often_comes_and_goes_pushes_nobody_out() {
        let mut engines = Engines::default();
        engines.restore(EngineId(7), EngineUuid::new("out of reach"));
        register(&mut engines, "restless", None).unwrap();
        for _ in 0..=DEPARTED_ENGINES_MAX {
            engines.remove(EngineId(8), Departure::Disconnected);
            engines
                .readmit("restless", String::new(), None, DEADLINE)
                .unwrap();
        }
        engines.check_invariants();
        assert!(engines.has_departed("out of reach"));
    }

    #[test]
    fn the_uuid_of_one_out_of_reach_is_not_given_to_another_key() {
        let mut engines = Engines::default();
        let uuid = EngineUuid::new("a");
        let key = |n| Some(PublicKey([n; 32]));
        let (address, none) = (String::new, None);
        engines
            .register(uuid.clone(), none, address(), key(1), DEADLINE)
            .unwrap();
        engines.remove(EngineId(0), Departure::Silent);
        let other = engines.register(uuid.clone(), none, address(), key(2), DEADLINE);
        assert_eq!(other, Err(RegistrationError::AnotherKey(uuid.clone())));
        assert_eq!(engines.readmit("a", address(), None, DEADLINE), None);
        let own = engines.register(uuid, none, address(), key(1), DEADLINE);
        assert_eq!(own, Ok(EngineId(0)));
    }

    #[test]
    fn numbers_that_run_out_are_an_error() {
        let mut engines = Engines::default();
        engines.reserve(u32::MAX);
        assert_eq!(register(&mut engines, "a", None), Ok(u32::MAX));
        assert_eq!(
            register(&mut engines, "b", None),
            Err(RegistrationError::NoNumberLeft)
        );
    }

    #[test]
    fn the_departed_are_bounded() {
        let mut engines = Engines::default();
        for n in 0..=DEPARTED_ENGINES_MAX {
            engines.restore(EngineId(n as u32), EngineUuid::new(&n.to_string()));
        }
        assert!(!engines.has_departed("0"));
        assert!(engines.has_departed("1"));
        assert_eq!(
            register(&mut engines, "new", None),
            Ok(DEPARTED_ENGINES_MAX as u32 + 1)
        );
    }
}
