//! A queue ordered by submission, made for tasks that mostly come in that order and leave from the
//! front: those cost next to nothing. Latecomers with an older place go into a tree beside it, and
//! those that leave from the middle leave a gap that is closed later.

use std::collections::{BTreeSet, VecDeque};

use super::job::{JobKey, Seq};

#[derive(Default)]
pub(super) struct Line {
    /// In ascending order, with gaps (`None`), but never a gap in front.
    inner: VecDeque<(Seq, Option<JobKey>)>,
    gaps: usize,
    /// Those that came when a younger one was in `inner` already.
    latecomers: BTreeSet<(Seq, JobKey)>,
}

impl Line {
    pub(super) fn len(&self) -> usize {
        self.inner.len() - self.gaps + self.latecomers.len()
    }

    pub(super) fn first(&self) -> Option<(Seq, JobKey)> {
        let front = self.inner.front();
        let front = front.and_then(|(seq, job)| Some((*seq, (*job)?)));
        let late = self.latecomers.first().copied();
        front.into_iter().chain(late).min()
    }

    pub(super) fn insert(&mut self, seq: Seq, job: JobKey) {
        if self.inner.back().is_none_or(|back| back.0 < seq) {
            self.inner.push_back((seq, Some(job)));
        } else {
            self.latecomers.insert((seq, job));
        }
    }

    pub(super) fn remove(&mut self, seq: Seq, job: JobKey) {
        if self.inner.front() == Some(&(seq, Some(job))) {
            self.inner.pop_front();
        } else if !self.latecomers.remove(&(seq, job)) {
            let Ok(at) = self.inner.binary_search_by_key(&seq, |entry| entry.0) else {
                return;
            };
            if self.inner[at].1.take().is_some() {
                self.gaps += 1;
            }
        }
        while let Some((_, None)) = self.inner.front() {
            self.inner.pop_front();
            self.gaps -= 1;
        }
        if self.gaps > self.inner.len() / 2 {
            self.inner.retain(|entry| entry.1.is_some());
            self.gaps = 0;
        }
    }

    /// All of them, not in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Seq, JobKey)> {
        let inner = self.inner.iter();
        let inner = inner.filter_map(|(seq, job)| Some((*seq, (*job)?)));
        inner.chain(self.latecomers.iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::scheduler::job::Jobs;

    proptest! {
        #[test]
        fn a_line_is_a_sorted_set(steps in prop::collection::vec((0..60_u64, 0..3_u8), 1..200)) {
            let mut jobs = Jobs::new(0);
            let job = jobs.insert(crate::ids::MsgId::new("x"), (), 0, None);
            let (mut line, mut model) = (Line::default(), BTreeSet::new());
            for (seq, step) in steps {
                let entry = (Seq(seq), job);
                match step {
                    0 => if let Some((seq, job)) = model.pop_first() {
                        line.remove(seq, job);
                    },
                    1 => if model.remove(&entry) {
                        line.remove(entry.0, entry.1);
                    },
                    _ => if model.insert(entry) {
                        line.insert(entry.0, entry.1);
                    },
                }
                prop_assert_eq!(line.first(), model.first().copied());
                prop_assert_eq!(line.len(), model.len());
                prop_assert_eq!(line.iter().collect::<BTreeSet<_>>(), model.clone());
            }
        }
    }
}
