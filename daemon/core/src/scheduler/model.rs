//! The scheduler once more, as plain lists that are gone through from the start after every event,
//! and a test that both decide alike on random sequences of events. Where a scheme draws lots, the
//! decision must be one that the model allows.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use proptest::prelude::*;

use super::*;

/// A dependency, on positions in `Model::tasks`.
#[derive(Clone, Debug, Default)]
struct Wish {
    tasks: BTreeSet<usize>,
    all: bool,
    success: bool,
    failure: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Where {
    Queued,
    /// On this stay of an engine.
    Running(usize),
    Ended {
        success: bool,
        stay: Option<usize>,
    },
}

struct Task {
    id: String,
    after: Wish,
    follow: Wish,
    targets: Option<BTreeSet<usize>>,
    timeout: Option<Duration>,
    deadline: Option<Duration>,
    retries: u32,
    tries_left: u32,
    refused: BTreeSet<usize>,
    failed: Vec<usize>,
    state: Where,
}

struct Engine {
    name: String,
    stay: usize,
    load: usize,
    congested: bool,
}

struct Model {
    config: Config,
    now: Duration,
    /// In order of submission.
    tasks: Vec<Task>,
    /// In order of use, the one used longest ago first.
    engines: Vec<Engine>,
    stays: usize,
    totals: Totals,
    /// What the machine did, to be accounted for.
    commands: VecDeque<Command<usize>>,
    ended: VecDeque<usize>,
}

/// What a task's wishes make of it.
#[derive(Debug, PartialEq)]
enum Fate {
    Blocked,
    Impossible,
    /// On one of these stays, or, if `None`, wherever it has not been refused or failed.
    Allowed(Option<BTreeSet<usize>>),
}

impl Model {
    fn new(config: Config) -> Self {
        Self {
            config,
            now: Duration::ZERO,
            tasks: Vec::new(),
            engines: Vec::new(),
            stays: 0,
            totals: Totals::default(),
            commands: VecDeque::new(),
            ended: VecDeque::new(),
        }
    }

    fn pure(&self) -> bool {
        self.config.scheme == Scheme::Pure
    }

    fn pool(&self) -> BTreeSet<usize> {
        self.engines.iter().map(|engine| engine.stay).collect()
    }

    /// Position of the latest task of this id.
    fn latest(&self, id: &str) -> Option<usize> {
        self.tasks.iter().rposition(|task| task.id == id)
    }

    fn is_live(&self, id: &str) -> bool {
        self.latest(id)
            .is_some_and(|task| !matches!(self.tasks[task].state, Where::Ended { .. }))
    }

    /// How a task ended, once its end is known to those that wait for it.
    fn known_end(&self, position: usize) -> Option<(bool, Option<usize>)> {
        match self.tasks[position].state {
            Where::Ended { success, stay } if !self.ended.contains(&position) => {
                Some((success, stay))
            }
            _ => None,
        }
    }

    /// Those of these tasks that succeeded, and those that failed.
    fn ends(&self, tasks: &BTreeSet<usize>) -> (BTreeSet<usize>, BTreeSet<usize>) {
        let ended = tasks.iter().filter(|task| self.known_end(**task).is_some());
        ended.partition(|task| self.known_end(**task).is_some_and(|end| end.0))
    }

    fn is_met(&self, wish: &Wish) -> bool {
        let (succeeded, failed) = self.ends(&wish.tasks);
        let mut relevant = BTreeSet::new();
        relevant.extend(succeeded.iter().filter(|_| wish.success));
        relevant.extend(failed.iter().filter(|_| wish.failure));
        wish.tasks.is_empty()
            || if wish.all {
                wish.tasks.is_subset(&relevant)
            } else {
                !wish.tasks.is_disjoint(&relevant)
            }
    }

    fn is_unreachable(&self, wish: &Wish) -> bool {
        let (succeeded, failed) = self.ends(&wish.tasks);
        let mut opposed = BTreeSet::new();
        opposed.extend(succeeded.iter().filter(|_| !wish.success));
        opposed.extend(failed.iter().filter(|_| !wish.failure));
        !wish.tasks.is_empty()
            && if wish.all {
                !wish.tasks.is_disjoint(&opposed)
            } else {
                wish.tasks.is_subset(&opposed)
            }
    }

    fn fate(&self, position: usize) -> Fate {
        let task = &self.tasks[position];
        if self.is_unreachable(&task.after) || self.is_unreachable(&task.follow) {
            return Fate::Impossible;
        }
        let pool = self.pool();
        let follow = &task.follow;
        let open = follow
            .tasks
            .iter()
            .any(|dep| self.known_end(*dep).is_none());
        let mut homes: Option<BTreeSet<usize>> = None;
        if !follow.tasks.is_empty() {
            // Where each wanted task ended: a stay, or nowhere.
            let ran: BTreeSet<Option<usize>> = follow
                .tasks
                .iter()
                .filter_map(|dep| self.known_end(*dep))
                .filter(|(success, _)| {
                    if *success {
                        follow.success
                    } else {
                        follow.failure
                    }
                })
                .map(|(_, stay)| stay)
                .collect();
            let alive: BTreeSet<usize> = ran
                .iter()
                .flatten()
                .copied()
                .filter(|stay| pool.contains(stay))
                .collect();
            if follow.all && (alive.len() < ran.len() || ran.len() > 1) {
                return Fate::Impossible;
            }
            if !follow.all && !open && alive.is_empty() {
                return Fate::Impossible;
            }
            homes = Some(alive);
        }
        if task.targets.as_ref().is_some_and(BTreeSet::is_empty) {
            return Fate::Impossible;
        }
        if !self.is_met(&task.after) || !self.is_met(follow) {
            return Fate::Blocked;
        }
        let hopeless = if open {
            Fate::Blocked
        } else {
            Fate::Impossible
        };
        let mut allowed = homes;
        if let Some(targets) = &task.targets {
            let alive: BTreeSet<usize> = targets & &pool;
            if alive.is_empty() {
                return Fate::Impossible;
            }
            allowed = Some(allowed.map_or(alive.clone(), |homes| &homes & &alive));
        }
        match allowed {
            Some(allowed) if (&allowed - &task.refused).is_empty() => hopeless,
            Some(allowed) => Fate::Allowed(Some(&allowed - &task.refused)),
            None => Fate::Allowed(None),
        }
    }

    /// Judges a queued task: it may fail, or be forgiven by engines that it failed on.
    fn judge(&mut self, position: usize) {
        let fate = if self.pure() {
            Fate::Allowed(None)
        } else {
            self.fate(position)
        };
        let pool = self.pool();
        let task = &mut self.tasks[position];
        let (willing, may_forgive) = match fate {
            Fate::Blocked => return,
            Fate::Impossible => return self.fail(position, "ImpossibleDependency"),
            Fate::Allowed(Some(willing)) => (willing, true),
            Fate::Allowed(None) => (&pool - &task.refused, task.timeout.is_none()),
        };
        task.failed.retain(|stay| pool.contains(stay));
        let untried = willing.iter().any(|stay| !task.failed.contains(stay));
        if may_forgive && !willing.is_empty() && !untried {
            let last = task.failed.last().copied();
            task.failed.clear();
            task.failed.extend(last.filter(|_| willing.len() > 1));
        }
    }

    /// The engines that may run a queued task now, in order of use.
    fn candidates(&self, position: usize) -> Vec<usize> {
        let fate = if self.pure() {
            Fate::Allowed(None)
        } else {
            self.fate(position)
        };
        let Fate::Allowed(allowed) = fate else {
            return Vec::new();
        };
        let task = &self.tasks[position];
        let hwm = self.config.hwm as usize;
        let fit = self.engines.iter().filter(|engine| {
            (hwm == 0 || self.pure() || engine.load < hwm)
                && !engine.congested
                && !task.refused.contains(&engine.stay)
                && !task.failed.contains(&engine.stay)
                && allowed
                    .as_ref()
                    .is_none_or(|set| set.contains(&engine.stay))
        });
        match self.config.scheme {
            Scheme::LeastLoad => fit.min_by_key(|engine| engine.load).into_iter().collect(),
            Scheme::Lru | Scheme::Pure => fit.take(1).collect::<Vec<_>>(),
            Scheme::PlainRandom | Scheme::TwoBin | Scheme::Weighted => fit.collect(),
        }
        .into_iter()
        .map(|engine| engine.stay)
        .collect()
    }

    fn fail(&mut self, position: usize, ename: &str) {
        self.totals.failed += 1;
        let task = &mut self.tasks[position];
        assert_eq!(task.state, Where::Queued);
        task.deadline = None;
        task.state = Where::Ended {
            success: false,
            stay: None,
        };
        self.ended.push_back(position);
        match self.commands.pop_front() {
            Some(Command::Fail {
                msg_id,
                payload,
                reason,
            }) => {
                assert_eq!((msg_id.as_str(), payload), (&*task.id, position));
                assert_eq!(reason.ename(), ename);
            }
            other => panic!("expected {} to fail with {ename}, not {other:?}", task.id),
        }
    }

    fn queue(&mut self, position: usize) {
        self.tasks[position].state = Where::Queued;
        self.judge(position);
    }

    fn settle(&mut self) {
        while let Some(ended) = self.ended.pop_front() {
            for position in 0..self.tasks.len() {
                let task = &self.tasks[position];
                let waits = task.after.tasks.contains(&ended) || task.follow.tasks.contains(&ended);
                if task.state == Where::Queued && waits {
                    self.judge(position);
                }
            }
        }
        for position in 0..self.tasks.len() {
            if self.tasks[position].state != Where::Queued {
                continue;
            }
            let candidates = self.candidates(position);
            if candidates.is_empty() {
                let (now, task) = (self.now, &mut self.tasks[position]);
                let timeout = task.timeout.filter(|_| self.config.scheme != Scheme::Pure);
                task.deadline = task.deadline.or(timeout.map(|timeout| now + timeout));
            } else {
                self.assign(position, &candidates);
            }
        }
        assert_eq!(self.commands, [], "the model expects nothing more");
    }

    fn assign(&mut self, position: usize, candidates: &[usize]) {
        let task = &mut self.tasks[position];
        let Some(Command::Assign {
            msg_id,
            engine,
            payload,
        }) = self.commands.pop_front()
        else {
            panic!("expected {} to be assigned", task.id)
        };
        assert_eq!((msg_id.as_str(), payload), (&*task.id, position));
        let mut engines = self.engines.iter();
        let at = engines.position(|e| e.name == engine.as_str()).unwrap();
        let mut engine = self.engines.remove(at);
        assert!(
            candidates.contains(&engine.stay),
            "{} may not run there",
            task.id
        );
        assert!(task.tries_left > 0, "{} runs too often", task.id);
        task.tries_left -= 1;
        task.deadline = None;
        task.state = Where::Running(engine.stay);
        engine.load += 1;
        self.engines.push(engine);
    }
}

/// One event, in numbers that are taken modulo what there is.
#[derive(Clone, Debug)]
enum Event {
    Submit {
        id: u8,
        after: Vec<u8>,
        follow: Vec<u8>,
        flags: u8,
        targets: Vec<u8>,
        retries: u32,
        timeout: Option<u64>,
    },
    Reply(u8, Outcome),
    Stray(u8, u8),
    Join(u8),
    Leave(u8),
    Congested(u8, bool),
    Wait(u64),
}

const NAMES: [&str; 6] = ["A", "B", "C", "D", "E", "F"];

struct Both {
    machine: TaskScheduler<usize>,
    model: Model,
}

impl Both {
    fn now(&self) -> Now {
        Now::new(self.model.now, 0)
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Submit {
                id,
                after,
                follow,
                flags,
                targets,
                retries,
                timeout,
            } => self.submit(id, [&after, &follow], flags, &targets, retries, timeout),
            Event::Reply(pick, outcome) => self.reply(pick, outcome),
            Event::Stray(engine, task) => self.stray(engine, task),
            Event::Join(name) => self.join(name),
            Event::Leave(name) => self.leave(name),
            Event::Congested(name, congested) => self.congested(name, congested),
            Event::Wait(millis) => self.wait(millis),
        }
        self.compare();
    }

    fn collect(&mut self) {
        self.machine.check_invariants();
        while let Some(command) = self.machine.poll_command() {
            self.model.commands.push_back(command);
        }
    }

    fn compare(&self) {
        let (machine, model) = (&self.machine, &self.model);
        let count = |state: fn(&Where) -> bool| {
            let tasks = model.tasks.iter();
            tasks.filter(|task| state(&task.state)).count()
        };
        assert_eq!(machine.waiting_count(), count(|s| *s == Where::Queued));
        assert_eq!(
            machine.running_count(),
            count(|s| matches!(s, Where::Running(_)))
        );
        assert_eq!(machine.totals(), model.totals);
        let deadlines = model.tasks.iter().filter_map(|task| task.deadline);
        assert_eq!(machine.next_timeout(), deadlines.min());
        for engine in &model.engines {
            let uuid = EngineUuid::new(&engine.name);
            assert_eq!(machine.load(&uuid), Some(engine.load));
        }
    }

    fn submit(
        &mut self,
        id: u8,
        depends: [&[u8]; 2],
        flags: u8,
        targets: &[u8],
        retries: u32,
        timeout: Option<u64>,
    ) {
        // Mostly new ids; small numbers use those of old tasks again.
        let count = self.model.tasks.len();
        let id = match id {
            0..8 if count > 0 => self.model.tasks[usize::from(id) % count].id.clone(),
            _ => format!("t{count}"),
        };
        // Mostly recent tasks; now and then one that does not exist, or the task itself.
        let name = |pick: &u8| match pick {
            0..2 => "unknown".to_owned(),
            2..4 => id.clone(),
            _ if count == 0 => "early".to_owned(),
            _ => {
                let back = usize::from(*pick) % count.min(12);
                self.model.tasks[count - 1 - back].id.clone()
            }
        };
        let ids = depends.map(|picks| picks.iter().map(name).collect::<Vec<_>>());
        let timeout = timeout.map(Duration::from_millis);
        let targets: Vec<&str> = targets.iter().map(|t| NAMES[usize::from(*t) % 6]).collect();
        let wish = |n: usize| {
            let bits = flags >> (4 * n);
            let failure = bits & 2 != 0;
            let success = bits & 4 != 0 || !failure;
            (bits & 1 != 0, success, failure)
        };
        let dependency = |n: usize| {
            let (all, success, failure) = wish(n);
            let ids = ids[n].iter().map(|id| Text::from(&**id)).collect();
            Dependency {
                ids,
                all,
                success,
                failure,
            }
        };
        let requirements = Requirements {
            after: dependency(0),
            follow: dependency(1),
            timeout,
            targets: targets.iter().map(|t| Text::from(*t)).collect(),
            retries,
        };
        let request = TaskRequest {
            msg_id: MsgId::new(&id),
            requirements,
            payload: count,
        };
        let result = self.machine.handle_task(self.now(), request);
        self.collect();
        let model = &mut self.model;
        if model.is_live(&id) {
            assert_eq!(result, Err(DuplicateTask(MsgId::new(&id))));
            return model.settle();
        }
        assert_eq!(result, Ok(()));
        let pure = model.pure();
        let wishes = [0, 1].map(|n| {
            let (all, success, failure) = wish(n);
            let known = ids[n].iter().filter(|dep| **dep != id);
            Wish {
                tasks: known.filter_map(|id| model.latest(id)).collect(),
                all,
                success,
                failure,
            }
        });
        let stays = model.engines.iter();
        let stays = stays.filter(|engine| targets.contains(&&*engine.name));
        let stays: BTreeSet<usize> = stays.map(|engine| engine.stay).collect();
        let invalid = [0, 1].map(|n| {
            let unknown = |dep: &String| *dep == id || model.latest(dep).is_none();
            ids[n].iter().any(unknown)
        });
        let [after, follow] = wishes;
        let early = model.is_unreachable(&after);
        model.totals.submitted += 1;
        model.tasks.push(Task {
            id,
            after,
            follow,
            targets: (!targets.is_empty()).then_some(stays),
            timeout,
            deadline: None,
            retries: if pure { 0 } else { retries },
            tries_left: if pure { 1 } else { 1 + retries },
            refused: BTreeSet::new(),
            failed: Vec::new(),
            state: Where::Queued,
        });
        if !pure && (invalid[0] || (invalid[1] && !early)) {
            model.fail(count, "InvalidDependency");
        } else {
            model.judge(count);
        }
        model.settle();
    }

    fn reply(&mut self, pick: u8, outcome: Outcome) {
        let running = self.model.tasks.iter().enumerate();
        let running: Vec<(usize, usize)> = running
            .filter_map(|(position, task)| match task.state {
                Where::Running(stay) => Some((position, stay)),
                _ => None,
            })
            .collect();
        if running.is_empty() {
            return;
        }
        let (position, stay) = running[usize::from(pick) % running.len()];
        let id = self.model.tasks[position].id.clone();
        let mut engines = self.model.engines.iter_mut();
        let engine = engines.find(|engine| engine.stay == stay).unwrap();
        engine.load -= 1;
        let uuid = EngineUuid::new(&engine.name);
        let reply = self.machine.handle_reply(self.now(), &uuid, &id, outcome);
        self.collect();
        let model = &mut self.model;
        let pure = model.pure();
        let task = &mut model.tasks[position];
        let unmet = outcome == Outcome::DependenciesUnmet && !pure;
        if unmet || (outcome != Outcome::Ok && task.retries > 0) {
            assert_eq!(reply, Reply::Retried);
            model.totals.retried += 1;
            if unmet {
                task.refused.insert(stay);
                task.tries_left += 1;
            } else {
                task.retries -= 1;
                task.failed.retain(|failed| *failed != stay);
                task.failed.push(stay);
            }
            model.queue(position);
        } else {
            assert_eq!(reply, Reply::Deliver(position));
            let success = outcome == Outcome::Ok;
            let stay = Some(stay);
            task.state = Where::Ended { success, stay };
            *(match success {
                true => &mut model.totals.done,
                false => &mut model.totals.failed,
            }) += 1;
            model.ended.push_back(position);
        }
        model.settle();
    }

    /// A reply that is not owed.
    fn stray(&mut self, engine: u8, task: u8) {
        let (model, name) = (&self.model, NAMES[usize::from(engine) % 6]);
        if model.tasks.is_empty() {
            return;
        }
        let task = usize::from(task) % model.tasks.len();
        let id = model.tasks[task].id.clone();
        let live = &model.tasks[model.latest(&id).unwrap()];
        let engine = model.engines.iter().find(|engine| engine.name == name);
        if engine.is_some_and(|engine| live.state == Where::Running(engine.stay)) {
            return;
        }
        let uuid = EngineUuid::new(name);
        let reply = self
            .machine
            .handle_reply(self.now(), &uuid, &id, Outcome::Ok);
        assert_eq!(reply, Reply::Unknown);
        self.collect();
        self.model.settle();
    }

    fn join(&mut self, name: u8) {
        let name = NAMES[usize::from(name) % 6];
        self.machine
            .handle_engine_added(self.now(), EngineUuid::new(name));
        self.collect();
        let model = &mut self.model;
        if model.engines.iter().all(|engine| engine.name != name) {
            model.stays += 1;
            let engine = Engine {
                name: name.to_owned(),
                stay: model.stays,
                load: 0,
                congested: false,
            };
            model.engines.insert(0, engine);
        }
        model.settle();
    }

    fn leave(&mut self, name: u8) {
        let name = NAMES[usize::from(name) % 6];
        self.machine
            .handle_engine_removed(self.now(), &EngineUuid::new(name));
        self.collect();
        let model = &mut self.model;
        let mut engines = model.engines.iter();
        if let Some(at) = engines.position(|engine| engine.name == name) {
            // Blocked tasks are judged when what they wait for ends.
            let waiting: Vec<usize> = (0..model.tasks.len())
                .filter(|position| model.tasks[*position].state == Where::Queued)
                .filter(|position| matches!(model.fate(*position), Fate::Allowed(_)))
                .collect();
            let stay = model.engines.remove(at).stay;
            for position in 0..model.tasks.len() {
                let task = &mut model.tasks[position];
                if task.state != Where::Running(stay) {
                    continue;
                }
                task.state = Where::Queued;
                if task.retries == 0 {
                    model.fail(position, "EngineError");
                } else {
                    task.retries -= 1;
                    model.totals.retried += 1;
                    model.queue(position);
                }
            }
            for position in waiting {
                model.judge(position);
            }
        }
        model.settle();
    }

    fn congested(&mut self, name: u8, congested: bool) {
        let name = NAMES[usize::from(name) % 6];
        let uuid = EngineUuid::new(name);
        self.machine
            .handle_engine_congested(self.now(), &uuid, congested);
        self.collect();
        let mut engines = self.model.engines.iter_mut();
        if let Some(engine) = engines.find(|engine| engine.name == name) {
            engine.congested = congested;
        }
        self.model.settle();
    }

    fn wait(&mut self, millis: u64) {
        self.model.now += Duration::from_millis(millis);
        self.machine.handle_timeout(self.now());
        self.collect();
        let model = &mut self.model;
        let mut expired: Vec<(Duration, usize)> = (0..model.tasks.len())
            .filter_map(|position| Some((model.tasks[position].deadline?, position)))
            .filter(|(deadline, _)| *deadline <= model.now)
            .collect();
        expired.sort_unstable();
        for (_, position) in expired {
            model.fail(position, "TaskTimeout");
        }
        model.settle();
    }
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        5 => Just(Outcome::Ok),
        3 => Just(Outcome::Error),
        1 => Just(Outcome::Aborted),
        1 => Just(Outcome::DependenciesUnmet),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let some = |chance: f64, most: usize| {
        let list = prop::collection::vec(any::<u8>(), 1..=most);
        prop::option::weighted(chance, list).prop_map(Option::unwrap_or_default)
    };
    let task = (
        any::<u8>(),
        some(0.3, 3),
        some(0.3, 3),
        any::<u8>(),
        some(0.25, 3),
        0..3_u32,
        prop::option::weighted(0.2, 0..50_u64),
    );
    let submit =
        task.prop_map(
            |(id, after, follow, flags, targets, retries, timeout)| Event::Submit {
                id,
                after,
                follow,
                flags,
                targets,
                retries,
                timeout,
            },
        );
    prop_oneof![
        10 => submit,
        12 => (any::<u8>(), outcome()).prop_map(|(pick, outcome)| Event::Reply(pick, outcome)),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(engine, task)| Event::Stray(engine, task)),
        3 => any::<u8>().prop_map(Event::Join),
        1 => any::<u8>().prop_map(Event::Leave),
        2 => (any::<u8>(), any::<bool>()).prop_map(|(name, yes)| Event::Congested(name, yes)),
        2 => (0..30_u64).prop_map(Event::Wait),
    ]
}

fn config() -> impl Strategy<Value = Config> {
    let schemes = prop::sample::select(vec![
        Scheme::LeastLoad,
        Scheme::LeastLoad,
        Scheme::Lru,
        Scheme::PlainRandom,
        Scheme::Pure,
        Scheme::TwoBin,
        Scheme::Weighted,
    ]);
    (schemes, 0..3_u32, any::<u64>()).prop_map(|(scheme, hwm, seed)| Config {
        scheme,
        hwm,
        seed,
        ..Config::default()
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: ProptestConfig::default().cases.max(1024),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn machine_and_model_decide_alike(
        config in config(),
        engines in 0..6_u8,
        events in prop::collection::vec(event(), 1..120),
    ) {
        let mut both = Both {
            machine: TaskScheduler::new(config.clone()),
            model: Model::new(config),
        };
        for name in 0..engines {
            both.apply(Event::Join(name));
        }
        for event in events {
            both.apply(event);
        }
        // Whatever runs now succeeds, until nothing runs any more.
        while both.machine.running_count() > 0 {
            both.apply(Event::Reply(0, Outcome::Ok));
        }
    }
}
