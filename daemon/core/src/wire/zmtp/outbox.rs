//! What waits to be written to one peer.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::mem;

use bytes::{Buf, Bytes};

/// Size from which the tail is closed and another begun, so that growing it copies little.
const TAIL: usize = 64 << 10;

/// First size of a tail: a few small messages.
const TAIL_FIRST: usize = 2 << 10;

/// A queue of bytes: large frames as they are, what is small gathered in a growing tail.
///
/// A *lossy* outbox also remembers where its messages end, so that the oldest ones can be dropped.
#[derive(Debug, Default)]
pub struct Outbox {
    chunks: VecDeque<Bytes>,
    tail: Vec<u8>,
    /// Bytes of the first chunk (of the tail if there is no chunk) that are written.
    written: usize,
    /// Bytes that wait.
    len: usize,
    /// Size of the latest tail: the next one is likely to be as long.
    usual: usize,
    units: Option<Units>,
}

/// Lengths of the messages in a lossy outbox, oldest first.
#[derive(Debug, Default)]
struct Units {
    lengths: VecDeque<usize>,
    /// Bytes of the first message that are written.
    written: usize,
    /// Bytes of all whole messages in the queue, with the written part of the first.
    closed: usize,
}

/// What an outbox lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    pub messages: usize,
    pub bytes: usize,
}

impl Outbox {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An outbox of which [`Self::drop_oldest`] can drop messages.
    #[must_use]
    pub fn lossy() -> Self {
        Self {
            units: Some(Units::default()),
            ..Self::default()
        }
    }

    /// Bytes that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Points `slices` at what is to be written next; returns how many are used.
    pub fn fill_slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let parts = self.chunks.iter().map(Bytes::as_ref);
        let parts = parts.chain((!self.tail.is_empty()).then_some(self.tail.as_slice()));
        let mut used = 0;
        for (i, (slot, part)) in slices.iter_mut().zip(parts).enumerate() {
            *slot = IoSlice::new(if i == 0 { &part[self.written..] } else { part });
            used += 1;
        }
        used
    }

    /// Forgets the first `count` bytes: they are written.
    pub fn advance(&mut self, count: usize) {
        debug_assert!(count <= self.len);
        self.len -= count;
        if let Some(units) = &mut self.units {
            units.advance(count);
        }
        self.written += count;
        while let Some(first) = self.chunks.front()
            && self.written >= first.len()
        {
            self.written -= first.len();
            self.chunks.pop_front();
        }
        if self.len == 0 {
            // Thousands of peers are idle most of the time: they keep no memory.
            self.chunks = VecDeque::new();
            self.usual = self.tail.len();
            self.tail = Vec::new();
            self.written = 0;
        }
    }

    /// Drops whole messages, oldest first, until at most `keep` bytes wait. A message that is partly
    /// written stays, and so does the newest. Does nothing to an outbox that is not lossy.
    pub fn drop_oldest(&mut self, keep: usize) -> Loss {
        let Some(units) = &mut self.units else {
            return Loss::default();
        };
        let begun = if units.written > 0 {
            units.lengths.pop_front()
        } else {
            None
        };
        let mut loss = Loss::default();
        while self.len - loss.bytes > keep && units.lengths.len() > 1 {
            loss.bytes += units.lengths.pop_front().unwrap_or_default();
            loss.messages += 1;
        }
        units.lengths.extend(begun);
        if begun.is_some() {
            units.lengths.rotate_right(1);
        }
        units.closed -= loss.bytes;
        let begun_rest = begun.map_or(0, |length| length - units.written);
        self.cut(begun_rest, loss.bytes);
        loss
    }

    /// Removes `count` bytes after the first `keep`.
    fn cut(&mut self, mut keep: usize, mut count: usize) {
        if count == 0 {
            return;
        }
        self.len -= count;
        self.seal();
        if let Some(first) = self.chunks.front_mut() {
            first.advance(mem::take(&mut self.written));
        }
        let mut kept = VecDeque::new();
        while count > 0
            && let Some(mut chunk) = self.chunks.pop_front()
        {
            if keep > 0 {
                let head = chunk.split_to(keep.min(chunk.len()));
                keep -= head.len();
                kept.push_back(head);
            }
            if keep == 0 {
                let gone = count.min(chunk.len());
                chunk.advance(gone);
                count -= gone;
            }
            if !chunk.is_empty() {
                self.chunks.push_front(chunk);
            }
        }
        kept.append(&mut self.chunks);
        self.chunks = kept;
    }

    /// Appends small bytes, up to about `expected` of them.
    pub(super) fn put(&mut self, expected: usize, write: impl FnOnce(&mut Vec<u8>)) {
        if self.tail.len() + expected > TAIL {
            self.seal();
        }
        if self.tail.capacity() == 0 {
            self.tail.reserve(expected.max(TAIL_FIRST).max(self.usual));
        }
        let before = self.tail.len();
        write(&mut self.tail);
        self.len += self.tail.len() - before;
    }

    /// Appends bytes as they are.
    pub(super) fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.seal();
            self.len += bytes.len();
            self.chunks.push_back(bytes);
        }
    }

    /// A message ends here.
    pub(super) fn end_message(&mut self) {
        if let Some(units) = &mut self.units {
            let length = self.len + units.written - units.closed;
            units.closed += length;
            units.lengths.push_back(length);
        }
    }

    /// Makes the tail a chunk.
    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.usual = self.tail.len();
            self.chunks
                .push_back(Bytes::from(mem::take(&mut self.tail)));
        }
    }
}

impl Units {
    fn advance(&mut self, count: usize) {
        self.written += count;
        while let Some(&first) = self.lengths.front()
            && self.written >= first
        {
            self.written -= first;
            self.closed -= first;
            self.lengths.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn contents(outbox: &Outbox) -> Vec<u8> {
        let mut slices = [IoSlice::new(&[]); 64];
        let used = outbox.fill_slices(&mut slices);
        slices[..used].iter().flat_map(|s| s.to_vec()).collect()
    }

    fn message(outbox: &mut Outbox, text: &[u8], own: bool) {
        if own {
            outbox.push(Bytes::copy_from_slice(text));
        } else {
            outbox.put(text.len(), |tail| tail.extend_from_slice(text));
        }
        outbox.end_message();
    }

    #[test]
    fn bytes_leave_in_order_and_memory_goes_with_them() {
        let mut outbox = Outbox::new();
        message(&mut outbox, b"abc", false);
        message(&mut outbox, b"defg", true);
        message(&mut outbox, b"hi", false);
        assert_eq!(outbox.len(), 9);
        outbox.advance(4);
        assert_eq!(contents(&outbox), b"efghi");
        outbox.advance(5);
        assert!(outbox.is_empty());
        assert_eq!((outbox.tail.capacity(), outbox.chunks.capacity()), (0, 0));
    }

    #[test]
    fn the_oldest_messages_go_but_never_one_that_is_begun() {
        let mut outbox = Outbox::lossy();
        for text in [b"aaaa", b"bbbb", b"cccc", b"dddd"] {
            message(&mut outbox, text, false);
        }
        outbox.advance(1);
        let loss = outbox.drop_oldest(8);
        assert_eq!((loss.messages, loss.bytes), (2, 8));
        assert_eq!(contents(&outbox), b"aaadddd");
        assert_eq!(outbox.drop_oldest(0), Loss::default());
        outbox.advance(7);
        assert!(outbox.is_empty());
    }

    proptest! {
        #[test]
        fn a_lossy_queue_is_a_queue_with_gaps(
            steps in prop::collection::vec((0..3_u8, 0..200_usize, any::<bool>()), 1..60)
        ) {
            let mut outbox = Outbox::lossy();
            // The model: messages as lists of bytes, the first perhaps begun.
            let mut model: VecDeque<Vec<u8>> = VecDeque::new();
            let mut begun = false;
            for (n, (step, amount, own)) in steps.into_iter().enumerate() {
                match step {
                    0 => {
                        let text = vec![n as u8; amount + 1];
                        message(&mut outbox, &text, own);
                        model.push_back(text);
                    }
                    1 => {
                        let count = amount.min(outbox.len());
                        outbox.advance(count);
                        let mut left = count;
                        while left > 0 {
                            let first = &mut model[0];
                            let taken = left.min(first.len());
                            first.drain(..taken);
                            left -= taken;
                            begun = !first.is_empty();
                            if first.is_empty() {
                                model.pop_front();
                            }
                        }
                    }
                    _ => {
                        outbox.drop_oldest(amount);
                        let fixed = usize::from(begun);
                        while model.iter().map(Vec::len).sum::<usize>() > amount
                            && model.len() > fixed + 1
                        {
                            model.remove(fixed);
                        }
                    }
                }
                let expected: Vec<u8> = model.iter().flatten().copied().collect();
                prop_assert_eq!(outbox.len(), expected.len());
                let all = contents(&outbox);
                prop_assert_eq!(&expected[..all.len()], &all[..]);
            }
        }
    }
}
