//! The parts of one stored message, packed: header, metadata, content and buffers as received.
//!
//! All small parts share one allocation; only parts of `SHARED_PART_MIN` bytes and more keep the
//! allocation in which they came from the network. Nothing here is parsed.

use bytes::Bytes;

use crate::limits::SHARED_PART_MIN;
use crate::wire::message::{Message, SignedPart};

/// What a message holds besides signature and parent header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// `count` entries of four bytes (little endian), then the small parts. An entry is the length of
    /// a small part, or `LARGE` and an index into `large`.
    packed: Box<[u8]>,
    large: Box<[Bytes]>,
    count: u32,
    buffer_bytes_lost: u64,
}

/// One part: a view of the packed ones, or a handle on a large one.
#[derive(Clone, Copy, Debug)]
pub enum Part<'a> {
    Small(&'a [u8]),
    Large(&'a Bytes),
}

/// Header, metadata and content come before the buffers.
const FIXED: usize = 3;
const ENTRY: usize = 4;
const LARGE: u32 = 1 << 31;

impl Parts {
    /// Packs the parts of a message.
    #[must_use]
    pub fn new(header: &Bytes, metadata: &Bytes, content: &Bytes, buffers: &[Bytes]) -> Self {
        let fixed = [header, metadata, content];
        let part = |n: usize| {
            fixed
                .get(n)
                .map_or_else(|| &buffers[n - FIXED], |part| *part)
        };
        Self::pack(FIXED + buffers.len(), |n| part(n), |n| part(n).clone())
    }

    #[must_use]
    pub fn from_message(message: &Message) -> Self {
        let fixed = [
            SignedPart::Header,
            SignedPart::Metadata,
            SignedPart::Content,
        ];
        Self::pack(
            FIXED + message.buffer_count(),
            |n| match fixed.get(n) {
                Some(part) => message.part(*part),
                None => message.buffer(n - FIXED),
            },
            |n| match fixed.get(n) {
                Some(part) => message.bytes(*part),
                None => message.buffer_bytes(n - FIXED),
            },
        )
    }

    /// Packs `count` parts: copies the small ones, and asks `share` for the others.
    fn pack<'a>(
        count: usize,
        part: impl Fn(usize) -> &'a [u8],
        share: impl Fn(usize) -> Bytes,
    ) -> Self {
        let is_small = |n: &usize| part(*n).len() < SHARED_PART_MIN;
        let small_bytes: usize = (0..count).filter(is_small).map(|n| part(n).len()).sum();
        let mut packed = Vec::with_capacity(count * ENTRY + small_bytes);
        let mut large = Vec::new();
        for n in 0..count {
            let entry = if is_small(&n) {
                part(n).len()
            } else {
                large.push(share(n));
                LARGE as usize | (large.len() - 1)
            };
            packed.extend_from_slice(&u32::try_from(entry).unwrap_or(LARGE).to_le_bytes());
        }
        for n in (0..count).filter(is_small) {
            packed.extend_from_slice(part(n));
        }
        Self {
            packed: packed.into_boxed_slice(),
            large: large.into_boxed_slice(),
            count: u32::try_from(count).unwrap_or(u32::MAX),
            buffer_bytes_lost: 0,
        }
    }

    /// A message of which only the header is known.
    #[must_use]
    pub fn header_only(header: &[u8]) -> Self {
        let nothing = Bytes::new();
        Self::new(&Bytes::copy_from_slice(header), &nothing, &nothing, &[])
    }

    /// An empty content is no JSON text: it is not known.
    #[must_use]
    pub fn is_header_only(&self) -> bool {
        self.content().is_empty()
    }

    /// JSON text, as received.
    #[must_use]
    pub fn header(&self) -> &[u8] {
        self.part(0)
    }

    /// JSON text, as received.
    #[must_use]
    pub fn metadata(&self) -> &[u8] {
        self.part(1)
    }

    /// JSON text, as received.
    #[must_use]
    pub fn content(&self) -> &[u8] {
        self.part(2)
    }

    pub fn buffers(&self) -> impl Iterator<Item = Part<'_>> {
        self.parts().skip(FIXED)
    }

    #[must_use]
    pub fn buffer_count(&self) -> usize {
        (self.count as usize).saturating_sub(FIXED)
    }

    #[must_use]
    pub fn buffer_bytes(&self) -> usize {
        self.buffers().map(|part| part.as_slice().len()).sum()
    }

    /// Bytes of buffers that were dropped because a bound was reached; 0 when all are here.
    #[must_use]
    pub fn buffer_bytes_lost(&self) -> u64 {
        self.buffer_bytes_lost
    }

    /// Forgets the buffers, and remembers that there were some.
    pub fn drop_buffers(&mut self) {
        let lost = self.buffer_bytes_lost + self.buffer_bytes() as u64;
        if self.buffer_count() > 0 {
            let fixed: Vec<Bytes> = self.parts().take(FIXED).map(Part::to_bytes).collect();
            *self = Self::new(&fixed[0], &fixed[1], &fixed[2], &[]);
        }
        self.buffer_bytes_lost = lost;
    }

    /// The same parts, known to lack buffers of so many bytes.
    #[must_use]
    pub fn with_buffer_bytes_lost(mut self, bytes: u64) -> Self {
        self.buffer_bytes_lost = bytes;
        self
    }

    /// Bytes on the heap.
    #[must_use]
    pub fn size(&self) -> usize {
        let large: usize = self.large.iter().map(Bytes::len).sum();
        self.packed.len() + large + self.large.len() * size_of::<Bytes>()
    }

    fn part(&self, index: usize) -> &[u8] {
        self.parts().nth(index).map_or(&[], Part::as_slice)
    }

    fn parts(&self) -> impl Iterator<Item = Part<'_>> {
        let (entries, mut small) = self.packed.split_at(self.count as usize * ENTRY);
        entries.as_chunks::<ENTRY>().0.iter().map(move |entry| {
            let entry = u32::from_le_bytes(*entry);
            if entry & LARGE == 0 {
                let (part, rest) = small.split_at(entry as usize);
                small = rest;
                Part::Small(part)
            } else {
                Part::Large(&self.large[(entry & !LARGE) as usize])
            }
        })
    }
}

impl<'a> Part<'a> {
    #[must_use]
    pub fn as_slice(self) -> &'a [u8] {
        match self {
            Self::Small(bytes) => bytes,
            Self::Large(bytes) => bytes,
        }
    }

    /// The part as a frame to send; only a small one is copied.
    #[must_use]
    pub fn to_bytes(self) -> Bytes {
        match self {
            Self::Small(bytes) => Bytes::copy_from_slice(bytes),
            Self::Large(bytes) => bytes.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frames(parts: &Parts) -> Vec<Bytes> {
        parts.buffers().map(Part::to_bytes).collect()
    }

    #[test]
    fn large_parts_are_shared_and_small_ones_copied() {
        let (small, large) = (
            Bytes::from_static(b"abc"),
            Bytes::from(vec![7; SHARED_PART_MIN]),
        );
        let parts = Parts::new(&"{}".into(), &"{1}".into(), &large, &[small, large.clone()]);
        assert_eq!(parts.metadata(), b"{1}");
        assert_eq!(parts.content().as_ptr(), large.as_ptr());
        let kept = frames(&parts);
        assert_eq!(kept[0], "abc");
        assert_eq!(kept[1].as_ptr(), large.as_ptr());
    }

    #[test]
    fn dropped_buffers_are_remembered_by_their_size() {
        let mut parts = Parts::new(
            &"h".into(),
            &"m".into(),
            &"c".into(),
            &["xy".into(), "z".into()],
        );
        parts.drop_buffers();
        assert_eq!((parts.buffer_count(), parts.buffer_bytes_lost()), (0, 3));
        assert_eq!(parts.header(), b"h");
        parts.drop_buffers();
        assert_eq!(parts.buffer_bytes_lost(), 3);
    }

    #[test]
    fn empty_parts_are_empty() {
        let parts = Parts::default();
        assert_eq!(
            (parts.header(), parts.buffer_count(), parts.size()),
            (&b""[..], 0, 0)
        );
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out(sizes in prop::collection::vec(prop_oneof![
            0usize..40, (SHARED_PART_MIN - 2)..(SHARED_PART_MIN + 2)], 3..8)) {
            let all: Vec<Bytes> = sizes.iter().enumerate()
                .map(|(i, n)| Bytes::from(vec![u8::try_from(i).unwrap(); *n])).collect();
            let parts = Parts::new(&all[0], &all[1], &all[2], &all[3..]);
            prop_assert_eq!(parts.header(), &all[0]);
            prop_assert_eq!(parts.metadata(), &all[1]);
            prop_assert_eq!(parts.content(), &all[2]);
            prop_assert_eq!(frames(&parts), all[3..].to_vec());
            prop_assert!(parts.size() >= sizes.iter().sum());
        }
    }
}
