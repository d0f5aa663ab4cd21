//! A hash for tables keyed by what peers choose: seeded, so that they can't choose collisions, and
//! the same in every run with the same seed.

use std::hash::{BuildHasher, Hasher};

/// Makes hashers of one seed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seeded(u64);

impl Seeded {
    /// `lane` tells hashes apart that are to be independent of each other.
    pub(super) fn new(seed: u64, lane: u64) -> Self {
        Self(fold(seed ^ SCATTER[0], lane ^ SCATTER[1]))
    }
}

impl BuildHasher for Seeded {
    type Hasher = SeededHasher;

    fn build_hasher(&self) -> SeededHasher {
        SeededHasher(self.0)
    }
}

/// Multiplies 16 bytes at a time into 128 bits, and folds these into 64.
pub(super) struct SeededHasher(u64);

impl Hasher for SeededHasher {
    fn write(&mut self, bytes: &[u8]) {
        let mut chunks = bytes.chunks_exact(16);
        for chunk in &mut chunks {
            self.mix(chunk);
        }
        let mut last = [0; 16];
        let rest = chunks.remainder();
        last[..rest.len()].copy_from_slice(rest);
        self.mix(&last);
        self.write_u64(bytes.len() as u64);
    }

    fn write_u8(&mut self, byte: u8) {
        self.write_u64(byte.into());
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(word.into());
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = fold(self.0 ^ word, SCATTER[0]);
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }

    fn finish(&self) -> u64 {
        fold(self.0, SCATTER[1])
    }
}

impl SeededHasher {
    fn mix(&mut self, chunk: &[u8]) {
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&chunk[at..at + 8]);
            u64::from_le_bytes(word)
        };
        self.0 = fold(word(0) ^ self.0, word(8) ^ SCATTER[1]).rotate_left(23) ^ self.0;
    }
}

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

/// Odd numbers with no pattern in their bits (of the golden ratio and of the root of 2).
const SCATTER: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0x6a09_e667_f3bc_c909];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn similar_ids_are_spread_and_another_seed_spreads_them_otherwise() {
        let hashes = |seed| -> Vec<u64> {
            let ids = (0..100_000).map(|n| format!("3f2a8c1d-9b7e4f60a1b2c3d4_4242_{n}"));
            ids.map(|id| Seeded::new(seed, 0).hash_one(id)).collect()
        };
        let (one, two) = (hashes(1), hashes(2));
        for shift in [0, 32] {
            // Of 2^32 values 100,000 draws are expected to repeat about one.
            let distinct: HashSet<u32> = one.iter().map(|h| (h >> shift) as u32).collect();
            assert!(distinct.len() > 99_980, "{}", distinct.len());
        }
        assert!(one.iter().zip(&two).all(|(a, b)| a != b));
        let low: HashSet<u64> = one.iter().map(|h| h & 0xffff).collect();
        assert!((50_000..55_000).contains(&low.len()), "{}", low.len());
    }

    #[test]
    fn length_and_every_byte_count() {
        let hash = |bytes: &[u8]| {
            let mut hasher = Seeded::new(3, 0).build_hasher();
            hasher.write(bytes);
            hasher.finish()
        };
        let zeros = [0; 40];
        let mut seen: HashSet<u64> = (0..40).map(|len| hash(&zeros[..len])).collect();
        for at in 0..40 {
            let mut bytes = zeros;
            bytes[at] = 1;
            assert!(seen.insert(hash(&bytes)), "byte {at}");
        }
        assert_eq!(seen.len(), 80);
    }
}
