//! The frames of one message, and how they came.

use std::ops::{Index, Range};

use bytes::Bytes;

use super::zmtp::header_size;

/// Frames in order.
///
/// Those that came side by side on a connection without encryption stay in one piece of memory: counting references
/// to each takes a quarter of the time of a small message. And they can leave as they came, for a message that is
/// passed on keeps all but its routing frames: its *tail* is copied at once, with the headers between the frames.
#[derive(Clone, Debug, Default)]
pub struct Frames {
    list: Vec<Bytes>,
    tail: Tail,
}

/// The last frames of a message, as they are on the wire with the shortest headers that they can have.
#[derive(Clone, Debug, Default)]
struct Tail {
    wire: Bytes,
    places: Vec<Range<usize>>,
}

impl Tail {
    fn get(&self, n: usize) -> Option<&[u8]> {
        let place = self.places.get(n)?;
        self.wire.get(place.clone())
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.places.len()).filter_map(|n| self.get(n))
    }

    fn bytes(&self, n: usize) -> Bytes {
        self.get(n)
            .map_or_else(Bytes::new, |frame| self.wire.slice_ref(frame))
    }
}

impl Frames {
    /// Frames of which the last came side by side: at these places of `wire`, small, with the shortest headers that
    /// they can have.
    pub(super) fn received(list: Vec<Bytes>, wire: Bytes, places: Vec<Range<usize>>) -> Self {
        let tail = Tail { wire, places };
        Self { list, tail }
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.list.len() + self.tail.places.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One of them, where it is.
    #[must_use]
    pub fn get(&self, n: usize) -> Option<&[u8]> {
        match n.checked_sub(self.list.len()) {
            None => self.list.get(n).map(Bytes::as_ref),
            Some(n) => self.tail.get(n),
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.list.iter().map(Bytes::as_ref).chain(self.tail.iter())
    }

    /// A frame without a copy; empty if there is none of that number.
    #[must_use]
    pub fn bytes(&self, n: usize) -> Bytes {
        match n.checked_sub(self.list.len()) {
            None => self.list[n].clone(),
            Some(n) => self.tail.bytes(n),
        }
    }

    /// Frames that leave one by one, and what the others are on the wire.
    #[must_use]
    pub fn split_tail(&self) -> (&[Bytes], &[u8]) {
        let wire = match self.tail.places.first() {
            Some(first) => &self.tail.wire[first.start - header_size(first.len())..],
            None => &[],
        };
        (&self.list, wire)
    }

    /// Puts others in the place of the first `count` frames.
    pub fn replace_first(&mut self, count: usize, others: impl IntoIterator<Item = Bytes>) {
        let listed = count.min(self.list.len());
        self.list.splice(..listed, others);
        self.tail.places.drain(..count - listed);
    }

    /// The frames, to put others of the same content in their place.
    pub fn list_mut(&mut self) -> &mut Vec<Bytes> {
        let tail = std::mem::take(&mut self.tail);
        self.list
            .extend((0..tail.places.len()).map(|n| tail.bytes(n)));
        &mut self.list
    }
}

impl Index<usize> for Frames {
    type Output = [u8];

    fn index(&self, n: usize) -> &[u8] {
        self.get(n).unwrap_or_default()
    }
}

impl From<Vec<Bytes>> for Frames {
    fn from(list: Vec<Bytes>) -> Self {
        let tail = Tail::default();
        Self { list, tail }
    }
}

impl<const N: usize> From<[Bytes; N]> for Frames {
    fn from(frames: [Bytes; N]) -> Self {
        Self::from(Vec::from(frames))
    }
}

impl FromIterator<Bytes> for Frames {
    fn from_iter<I: IntoIterator<Item = Bytes>>(frames: I) -> Self {
        Self::from(Vec::from_iter(frames))
    }
}

impl From<Frames> for Vec<Bytes> {
    fn from(mut frames: Frames) -> Self {
        std::mem::take(frames.list_mut())
    }
}

impl PartialEq for Frames {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Frames {}
