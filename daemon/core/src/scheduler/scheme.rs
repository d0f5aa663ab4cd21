//! How an engine is chosen among those that may take a task, at a cost that hardly depends on
//! their number.
//!
//! | scheme | picks | kept as |
//! | --- | --- | --- |
//! | least load | lowest load, the one used longest ago among equals | tree by (load, last use) |
//! | lru, pure | the one used longest ago | tree by last use |
//! | plain random | any | list |
//! | two bins | of any two the one used longer ago | list |
//! | weighted | of two, drawn with weight 1/(load + 1e-6), the less loaded | a list per load |

use std::collections::{BTreeMap, BTreeSet};

/// The policy of load balancing; `TaskScheduler.scheme_name` of the stock controller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// The engine with the fewest tasks; among equals the one used longest ago.
    #[default]
    LeastLoad,
    /// The engine used longest ago.
    Lru,
    /// Any engine, with equal chances.
    PlainRandom,
    /// Round robin over all engines, whatever they do and whatever the task asks for.
    Pure,
    /// Of two engines drawn with equal chances, the one used longer ago.
    TwoBin,
    /// Of two engines drawn with chances that fall with their load, the less loaded.
    Weighted,
}

impl Scheme {
    /// All of them, in the order in which help texts list them.
    pub const ALL: [Self; 6] = [
        Self::LeastLoad,
        Self::Lru,
        Self::PlainRandom,
        Self::Pure,
        Self::TwoBin,
        Self::Weighted,
    ];

    /// The name that options, connection files and clients use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::LeastLoad => "leastload",
            Self::Lru => "lru",
            Self::PlainRandom => "plainrandom",
            Self::Pure => "pure",
            Self::TwoBin => "twobin",
            Self::Weighted => "weighted",
        }
    }

    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scheme| scheme.name() == name)
    }
}

/// What the choice looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) load: u32,
    /// Order of use: negative and falling for engines never used, so that the newest comes first.
    pub(super) last_use: i64,
}

/// Engines, by slot, that can take a task now.
pub(super) struct Available {
    scheme: Scheme,
    prng: Prng,
    /// By slot: where it stands if it is available.
    standings: Vec<Option<Standing>>,
    count: usize,
    order: Order,
}

enum Order {
    Sorted(BTreeSet<(u32, i64, u32)>),
    /// Slots by load (all under 0 where the load does not matter), and each slot's position.
    Drawn {
        by_load: BTreeMap<u32, Vec<u32>>,
        positions: Vec<u32>,
    },
}

impl Available {
    pub(super) fn new(scheme: Scheme, seed: u64) -> Self {
        Self {
            scheme,
            prng: Prng(seed),
            standings: Vec::new(),
            count: 0,
            order: match scheme {
                Scheme::LeastLoad | Scheme::Lru | Scheme::Pure => Order::Sorted(BTreeSet::new()),
                Scheme::PlainRandom | Scheme::TwoBin | Scheme::Weighted => Order::Drawn {
                    by_load: BTreeMap::new(),
                    positions: Vec::new(),
                },
            },
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(super) fn contains(&self, slot: u32) -> bool {
        self.standing(slot).is_some()
    }

    pub(super) fn standing(&self, slot: u32) -> Option<Standing> {
        self.standings.get(slot as usize).copied().flatten()
    }

    /// Puts an engine where it stands now, or takes it out.
    pub(super) fn set(&mut self, slot: u32, standing: Option<Standing>) {
        let at = slot as usize;
        if at >= self.standings.len() {
            self.standings.resize(at + 1, None);
        }
        let before = std::mem::replace(&mut self.standings[at], standing);
        if before == standing {
            return;
        }
        if let Some(before) = before {
            self.count -= 1;
            self.take_out(slot, before);
        }
        if let Some(standing) = standing {
            self.count += 1;
            self.put_in(slot, standing);
        }
    }

    fn rank(&self, standing: Standing) -> u32 {
        match self.scheme {
            Scheme::LeastLoad | Scheme::Weighted => standing.load,
            Scheme::Lru | Scheme::PlainRandom | Scheme::Pure | Scheme::TwoBin => 0,
        }
    }

    fn put_in(&mut self, slot: u32, standing: Standing) {
        let rank = self.rank(standing);
        match &mut self.order {
            Order::Sorted(tree) => {
                tree.insert((rank, standing.last_use, slot));
            }
            Order::Drawn { by_load, positions } => {
                let list = by_load.entry(rank).or_default();
                if positions.len() <= slot as usize {
                    positions.resize(slot as usize + 1, 0);
                }
                positions[slot as usize] = list.len() as u32;
                list.push(slot);
            }
        }
    }

    fn take_out(&mut self, slot: u32, standing: Standing) {
        let rank = self.rank(standing);
        match &mut self.order {
            Order::Sorted(tree) => {
                tree.remove(&(rank, standing.last_use, slot));
            }
            Order::Drawn { by_load, positions } => {
                let Some(list) = by_load.get_mut(&rank) else {
                    return;
                };
                let position = positions[slot as usize];
                list.swap_remove(position as usize);
                if let Some(&moved) = list.get(position as usize) {
                    positions[moved as usize] = position;
                }
                // Many loads come and go without a limit on tasks per engine.
                if list.is_empty() && rank > 0 {
                    by_load.remove(&rank);
                }
            }
        }
    }

    /// Chooses among all available engines that `admits` lets pass.
    pub(super) fn pick(&mut self, admits: impl Fn(u32) -> bool) -> Option<u32> {
        if self.is_empty() {
            return None;
        }
        if let Order::Sorted(tree) = &self.order {
            return tree.iter().map(|entry| entry.2).find(|slot| admits(*slot));
        }
        // To draw again what is not admitted leaves the chances of the others as they are to each
        // other. If hardly any is admitted, looking at all of them is quicker.
        if let Some(first) = self.draw_admitted(&admits) {
            if self.scheme == Scheme::PlainRandom {
                return Some(first);
            }
            if let Some(second) = self.draw_admitted(&admits) {
                return Some(self.better(first, second));
            }
        }
        let slots = 0..self.standings.len() as u32;
        let admitted: Vec<u32> = slots.filter(|s| self.contains(*s) && admits(*s)).collect();
        self.pick_among(&admitted)
    }

    /// Chooses among these slots, leaving out those that are not available.
    pub(super) fn pick_among(&mut self, slots: &[u32]) -> Option<u32> {
        let standings: Vec<(u32, Standing)> = slots
            .iter()
            .filter_map(|slot| Some((*slot, self.standing(*slot)?)))
            .collect();
        if let Order::Sorted(_) = self.order {
            return standings
                .iter()
                .min_by_key(|(_, standing)| (self.rank(*standing), standing.last_use))
                .map(|(slot, _)| *slot);
        }
        let weights: Vec<f64> = standings
            .iter()
            .map(|(_, standing)| weight(self.rank(*standing)))
            .collect();
        let total: f64 = weights.iter().sum();
        let draw = |prng: &mut Prng| {
            let mut left = prng.unit() * total;
            let found = weights.iter().position(|weight| {
                left -= weight;
                left < 0.0
            });
            // Rounding can leave a rest beyond the last.
            let (slot, _) = found.map_or(standings.last(), |at| standings.get(at))?;
            Some(*slot)
        };
        let first = draw(&mut self.prng)?;
        if self.scheme == Scheme::PlainRandom {
            return Some(first);
        }
        let second = draw(&mut self.prng)?;
        Some(self.better(first, second))
    }

    fn better(&self, first: u32, second: u32) -> u32 {
        let key = |slot| {
            self.standing(slot).map(|s| match self.scheme {
                Scheme::Weighted => i64::from(s.load),
                _ => s.last_use,
            })
        };
        if key(second) < key(first) {
            second
        } else {
            first
        }
    }

    fn draw_admitted(&mut self, admits: impl Fn(u32) -> bool) -> Option<u32> {
        (0..DRAWS_MAX).find_map(|_| self.draw().filter(|slot| admits(*slot)))
    }

    /// One engine, with chances by weight.
    fn draw(&mut self) -> Option<u32> {
        let Order::Drawn { by_load, .. } = &self.order else {
            return None;
        };
        let total: f64 = by_load
            .iter()
            .map(|(load, list)| weight(*load) * list.len() as f64)
            .sum();
        let mut left = self.prng.unit() * total;
        let mut last = None;
        for (load, list) in by_load {
            let each = weight(*load);
            let share = each * list.len() as f64;
            if left < share {
                return list.get((left / each) as usize).copied();
            }
            left -= share;
            last = list.last().copied().or(last);
        }
        last
    }
}

/// As the stock controller weighs: an idle engine a million times more than one with a task.
fn weight(load: u32) -> f64 {
    1.0 / (f64::from(load) + 1e-6)
}

/// Draws before a look at every engine; at one engine in four admitted, one miss in a hundred.
const DRAWS_MAX: usize = 16;

/// SplitMix64: enough for balancing, and the same sequence for the same seed.
struct Prng(u64);

impl Prng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 up to, but not including, 1.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(scheme: Scheme, standings: &[(u32, i64)]) -> Available {
        let mut available = Available::new(scheme, 11);
        for (slot, (load, last_use)) in standings.iter().enumerate() {
            let (load, last_use) = (*load, *last_use);
            available.set(slot as u32, Some(Standing { load, last_use }));
        }
        available
    }

    fn counts(available: &mut Available, admits: impl Fn(u32) -> bool + Copy) -> Vec<u32> {
        let mut counts = vec![0; available.standings.len()];
        for _ in 0..10_000 {
            counts[available.pick(admits).unwrap() as usize] += 1;
        }
        counts
    }

    #[test]
    fn least_load_takes_the_oldest_among_equals_and_lru_the_oldest() {
        let standings = [(1, 5), (0, 9), (0, 7), (2, 1)];
        let mut least = with(Scheme::LeastLoad, &standings);
        assert_eq!(least.pick(|_| true), Some(2));
        assert_eq!(least.pick(|slot| slot != 2), Some(1));
        assert_eq!(least.pick_among(&[0, 3, 9]), Some(0));
        let mut lru = with(Scheme::Lru, &standings);
        assert_eq!(lru.pick(|_| true), Some(3));
        assert_eq!(lru.pick_among(&[0, 1]), Some(0));
        lru.set(3, None);
        assert_eq!(lru.pick(|_| true), Some(0));
        assert_eq!(lru.pick(|_| false), None);
        assert_eq!(lru.pick_among(&[3]), None);
    }

    #[test]
    fn plain_random_gives_equal_chances_and_two_bins_prefer_the_old() {
        let standings = [(0, 1), (5, 2), (0, 3), (7, 4)];
        for count in counts(&mut with(Scheme::PlainRandom, &standings), |_| true) {
            assert!((2300..2700).contains(&count), "{count}");
        }
        // The oldest of four is the older of two draws with 1 - (3/4)^2 = 7/16, and so on.
        let expected = [4375, 3125, 1875, 625];
        let counts = counts(&mut with(Scheme::TwoBin, &standings), |_| true);
        for (count, expected) in counts.iter().zip(expected) {
            assert!(count.abs_diff(expected) < 250, "{counts:?}");
        }
    }

    #[test]
    fn weighted_draws_by_load_and_takes_the_less_loaded() {
        let counts = counts(&mut with(Scheme::Weighted, &[(1, 0), (3, 1)]), |_| true);
        // Weights 1 and 1/3: the loaded one only if drawn twice, (1/4)^2.
        assert!(counts[1].abs_diff(625) < 100, "{counts:?}");
        let mut idle = with(Scheme::Weighted, &[(1, 0), (0, 1), (1, 2)]);
        assert_eq!(idle.pick(|_| true), Some(1));
    }

    #[test]
    fn what_is_not_admitted_is_never_drawn_and_a_rare_one_is_found() {
        let standings: Vec<_> = (0..500).map(|n| (n % 3, i64::from(n))).collect();
        for scheme in [Scheme::PlainRandom, Scheme::TwoBin, Scheme::Weighted] {
            let mut available = with(scheme, &standings);
            assert_eq!(available.pick(|slot| slot == 123), Some(123));
            assert_eq!(available.pick_among(&[77]), Some(77));
            assert_eq!(available.pick(|slot| slot > 1000), None);
            let thirds = counts(&mut available, |slot| slot < 3);
            assert_eq!(thirds.iter().sum::<u32>(), 10_000);
            assert!(scheme == Scheme::Weighted || thirds[..3].iter().all(|n| *n > 0));
        }
    }

    #[test]
    fn engines_move_and_leave() {
        for scheme in [Scheme::LeastLoad, Scheme::PlainRandom, Scheme::Weighted] {
            let mut available = with(scheme, &[(0, 0), (0, 1), (0, 2)]);
            for load in 1..50 {
                available.set(1, Some(Standing { load, last_use: 3 }));
            }
            available.set(0, None);
            available.set(2, None);
            assert!(available.contains(1) && !available.contains(0));
            assert_eq!(available.pick(|_| true), Some(1));
            available.set(1, None);
            assert!(available.is_empty());
            assert_eq!(available.pick(|_| true), None);
        }
    }
}
