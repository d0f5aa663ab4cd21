//! The frames of one message, and how they came.

use std::ops::Deref;

use bytes::{Buf, Bytes};

use super::zmtp::header_size;

/// Frames in order.
///
/// Those that came side by side on a connection without encryption can leave as they came: a message that is passed
/// on keeps all but its routing frames, so its *tail* is copied at once, with the headers between the frames.
#[derive(Clone, Debug, Default)]
pub struct Frames {
    list: Vec<Bytes>,
    tail: Option<Tail>,
}

/// The last frames of a message as they are on the wire.
#[derive(Clone, Debug)]
struct Tail {
    /// Index of the first of them.
    first: usize,
    bytes: Bytes,
}

impl Frames {
    /// Frames of which those from `first` on came as `wire`, with the shortest headers that they can have.
    pub(super) fn received(list: Vec<Bytes>, first: usize, wire: Bytes) -> Self {
        let tail = Some(Tail { first, bytes: wire });
        Self { list, tail }
    }

    /// Frames that leave one by one, and what the others are on the wire.
    #[must_use]
    pub fn split_tail(&self) -> (&[Bytes], Option<&Bytes>) {
        match &self.tail {
            Some(tail) => (&self.list[..tail.first], Some(&tail.bytes)),
            None => (&self.list, None),
        }
    }

    /// Puts others in the place of the first `count` frames.
    pub fn replace_first(&mut self, count: usize, others: impl IntoIterator<Item = Bytes>) {
        let after = self.list.len() - count;
        if let Some(tail) = &mut self.tail {
            if let Some(gone) = self.list.get(tail.first..count) {
                let gone = gone
                    .iter()
                    .map(|frame| header_size(frame.len()) + frame.len());
                tail.bytes.advance(gone.sum());
            } else {
                self.tail = None;
            }
        }
        self.list.splice(..count, others);
        if let Some(tail) = &mut self.tail {
            tail.first = self.list.len() - after;
        }
    }

    /// The frames, to put others of the same content in their place.
    pub fn list_mut(&mut self) -> &mut Vec<Bytes> {
        self.tail = None;
        &mut self.list
    }
}

impl From<Vec<Bytes>> for Frames {
    fn from(list: Vec<Bytes>) -> Self {
        Self { list, tail: None }
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
    fn from(frames: Frames) -> Self {
        frames.list
    }
}

impl Deref for Frames {
    type Target = [Bytes];

    fn deref(&self) -> &[Bytes] {
        &self.list
    }
}

impl PartialEq for Frames {
    fn eq(&self, other: &Self) -> bool {
        self.list == other.list
    }
}

impl Eq for Frames {}
