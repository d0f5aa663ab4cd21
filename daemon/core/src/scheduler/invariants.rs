//! What must hold after every event.

use super::TaskScheduler;
use super::dependency::Role;
use super::job::State;

impl<T: Clone> TaskScheduler<T> {
    /// Checks the whole state; for tests and simulations, at a cost of tasks times engines.
    ///
    /// # Panics
    /// The scheduler has a bug.
    pub fn check_invariants(&self) {
        self.engines.check_invariants();
        self.waiting.check_invariants(&self.engines);
        assert!(self.ended.is_empty() && self.ready.is_empty());
        let (mut running, mut waiting, mut edges, mut deadlines) = (0, 0, 0, 0);
        for (key, job) in self.jobs.iter() {
            assert_eq!(self.jobs.key(job.msg_id.as_str()), Some(key));
            match job.state {
                State::Blocked => {
                    let demands = job.demands.as_ref().expect("something to wait for");
                    let waits = demands.waits_for.iter();
                    let open = waits.filter(|(other, role)| {
                        let other = self.jobs.get(*other);
                        other.is_some_and(|o| o.dependents.contains(&(job.seq, key, *role)))
                    });
                    assert!(open.count() > 0, "{} waits for nothing", job.msg_id);
                }
                State::Ready => panic!("{} was left over", job.msg_id),
                State::Waiting(queue) => {
                    waiting += 1;
                    assert!(self.waiting.place(queue).is_some());
                }
                State::Running { engine, position } => {
                    running += 1;
                    let engine = self.engines.get(engine).expect("its engine is in the pool");
                    assert_eq!(engine.running.get(position as usize), Some(&key));
                }
            }
            for (seq, dependent, role) in &job.dependents {
                let dependent = self.jobs.get(*dependent).expect("only live dependents");
                assert_eq!(dependent.seq, *seq);
                let demands = dependent.demands.as_ref().expect("it has dependencies");
                assert!(demands.waits_for.contains(&(key, *role)));
                assert!(*role == Role::After || demands.follow.progress.is_open());
            }
            let Some(demands) = &job.demands else {
                continue;
            };
            edges += demands.waits_for.len();
            let queued = !matches!(job.state, State::Running { .. });
            assert_eq!(
                demands.deadline.is_some(),
                queued && demands.timeout.is_some()
            );
            if let Some(deadline) = demands.deadline {
                deadlines += 1;
                assert!(self.deadlines.contains(&(deadline, job.seq, key)));
            }
        }
        let on_engines: usize = self.engines.iter().map(|(_, e)| e.running.len()).sum();
        assert_eq!((running, running), (self.running, on_engines));
        assert_eq!(waiting, self.waiting.len());
        assert_eq!((edges, deadlines), (self.edges, self.deadlines.len()));
        let totals = self.totals;
        assert_eq!(
            totals.submitted,
            totals.done + totals.failed + self.jobs.len() as u64
        );
    }
}
