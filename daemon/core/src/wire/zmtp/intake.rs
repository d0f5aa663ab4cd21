//! Where bytes from the network land.
//!
//! All connections of a thread share one chunk of memory to read into: an idle connection holds no
//! buffer. Small frames are slices of that chunk. A frame of `LARGE_FRAME` bytes or more that has
//! not arrived in full gets memory of its own, into which the caller then reads directly. That memory
//! grows with what really came: at most `GROWTH` times as much is reserved.

use std::mem;
use std::ops::Range;

use bytes::buf::Limit;
use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::bounded;
use super::error::Error;
use super::frame::{Header, header_size};
use crate::limits::{FRAME_OVERHEAD, LARGE_FRAME};

/// Size of the shared chunk: some hundred small messages, and below what allocators hand out as
/// mappings of their own.
const CHUNK: usize = 64 << 10;

/// Least room that a read is offered.
const ROOM_MIN: usize = 16 << 10;

/// Frames that are taken at once: those of a usual request and some more.
pub(super) const RUN: usize = 16;

/// First memory of a large frame.
const LARGE_FIRST: usize = 64 << 10;

/// How many times what came is reserved for a large frame. A higher factor copies less on the way (a
/// tenth of 10 MB, a sixth of 100 MB), a lower one trusts the claim less.
const GROWTH: usize = 16;

/// The chunk that the connections of one thread share.
#[derive(Debug, Default)]
pub struct ReadPool {
    chunk: BytesMut,
}

impl ReadPool {
    fn take(&mut self) -> BytesMut {
        let mut chunk = mem::take(&mut self.chunk);
        if chunk.capacity() < ROOM_MIN && !chunk.try_reclaim(CHUNK) {
            chunk = BytesMut::with_capacity(CHUNK);
        }
        chunk
    }
}

/// The body of one frame.
pub(super) enum Body {
    Slice(BytesMut),
    Owned(Vec<u8>),
}

impl Body {
    pub(super) fn as_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Slice(bytes) => bytes,
            Self::Owned(bytes) => bytes,
        }
    }

    /// The body without its first `skip` bytes.
    pub(super) fn freeze(self, skip: usize) -> Bytes {
        match self {
            // An empty slice would keep its chunk alive for nothing.
            Self::Slice(bytes) if bytes.len() <= skip => Bytes::new(),
            Self::Slice(mut bytes) => {
                bytes.advance(skip);
                bytes.freeze()
            }
            Self::Owned(bytes) => {
                let mut bytes = Bytes::from(bytes);
                bytes.advance(skip);
                bytes
            }
        }
    }
}

/// One frame, as it came.
pub(super) struct Frame {
    pub(super) header: Header,
    pub(super) body: Body,
}

/// Frames that were taken at once.
pub(super) struct Run {
    /// All of them as they came.
    pub(super) wire: Bytes,
    /// Where each is in that.
    pub(super) places: Vec<Range<usize>>,
    /// Whether the last of its message is among them.
    pub(super) is_last: bool,
    /// Whether they are small and have the headers that we would write.
    pub(super) is_plain: bool,
}

/// A large frame that is on its way.
struct Large {
    header: Header,
    bytes: Vec<u8>,
    length: usize,
}

/// What came and is not yet understood.
#[derive(Default)]
pub(super) struct Intake {
    input: BytesMut,
    /// Whether `input` is the shared chunk.
    lent: bool,
    large: Option<Large>,
}

impl Intake {
    /// Where the next bytes from the network go.
    pub(super) fn space(&mut self, pool: &mut ReadPool) -> Limit<&mut dyn BufMut> {
        if let Some(large) = &mut self.large {
            let room = large.room();
            return (&mut large.bytes as &mut dyn BufMut).limit(room);
        }
        if !self.lent || self.input.capacity() - self.input.len() < ROOM_MIN {
            let partial = mem::replace(&mut self.input, pool.take());
            if self.input.capacity() < partial.len() + ROOM_MIN {
                self.input = BytesMut::with_capacity(CHUNK.max(partial.len() + ROOM_MIN));
            }
            self.input.extend_from_slice(&partial);
            self.lent = true;
        }
        let room = self.input.capacity() - self.input.len();
        (&mut self.input as &mut dyn BufMut).limit(room)
    }

    /// Gives the shared chunk back.
    pub(super) fn park(&mut self, pool: &mut ReadPool) {
        if !mem::take(&mut self.lent) {
            return;
        }
        let rest = if self.input.is_empty() {
            BytesMut::new()
        } else {
            BytesMut::from(self.input.as_ref())
        };
        pool.chunk = mem::replace(&mut self.input, rest);
        pool.chunk.clear();
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.input
    }

    pub(super) fn skip(&mut self, count: usize) {
        self.input.advance(count);
    }

    /// Bytes of a large frame that have come, while the rest has not.
    pub(super) fn large_bytes(&self) -> usize {
        self.large.as_ref().map_or(0, |l| l.bytes.len())
    }

    /// Takes frames of one message that lie whole in what came, if there are any: up to `RUN` at once. They may cost `left` with their overhead. What is wrong, too much, a command or not all
    /// there is left to [`Self::next_frame`].
    pub(super) fn next_run(&mut self, mut left: usize) -> Option<Run> {
        if self.large.is_some() {
            return None;
        }
        let mut places = Vec::new();
        let (mut end, mut is_last, mut is_plain) = (0, false, true);
        while places.len() < RUN
            && !is_last
            && let Ok(Some(header)) = Header::parse(&self.input[end..])
            && !header.command
            && let Some(length) = bounded(header.body, left.saturating_sub(FRAME_OVERHEAD))
            && self.input.len() - end - header.size >= length
        {
            let start = end + header.size;
            end = start + length;
            // At the bound, a frame without a body still passes: the number of frames has a bound of its own.
            left = left.saturating_sub(length + FRAME_OVERHEAD);
            if places.is_empty() {
                places.reserve(RUN);
            }
            places.push(start..end);
            is_last = !header.more;
            is_plain &= length < LARGE_FRAME && header.size == header_size(length);
        }
        if places.is_empty() {
            return None;
        }
        Some(Run {
            wire: self.input.split_to(end).freeze(),
            places,
            is_last,
            is_plain,
        })
    }

    /// The next frame if all of it is there. `check` sees each header once or more, before any memory
    /// is spent on what it claims, and returns the length as a size in memory.
    pub(super) fn next_frame(
        &mut self,
        check: impl FnOnce(&Header) -> Result<usize, Error>,
    ) -> Result<Option<Frame>, Error> {
        if let Some(large) = self.large.take_if(|l| l.bytes.len() == l.length) {
            return Ok(Some(Frame {
                header: large.header,
                body: Body::Owned(large.bytes),
            }));
        }
        if let Some(large) = &mut self.large {
            return large.make_room().map(|()| None);
        }
        let Some(header) = Header::parse(&self.input)? else {
            return Ok(None);
        };
        let length = check(&header)?;
        if self.input.len() - header.size >= length {
            self.input.advance(header.size);
            let body = Body::Slice(self.input.split_to(length));
            return Ok(Some(Frame { header, body }));
        }
        if length >= LARGE_FRAME {
            self.input.advance(header.size);
            let mut bytes = Vec::with_capacity(length.min(LARGE_FIRST.max(self.input.len())));
            bytes.extend_from_slice(&self.input);
            self.input.clear();
            self.large = Some(Large {
                header,
                bytes,
                length,
            });
        }
        Ok(None)
    }
}

impl Large {
    /// Grows the memory if it is full. A machine that has no more loses this peer, not the controller.
    fn make_room(&mut self) -> Result<(), Error> {
        let have = self.bytes.len();
        if self.bytes.capacity() > have {
            return Ok(());
        }
        let more = self.length.min(have.saturating_mul(GROWTH)) - have;
        let reserved = self.bytes.try_reserve_exact(more);
        reserved
            .or_else(|_| self.bytes.try_reserve_exact(more.min(LARGE_FIRST)))
            .map_err(|_| Error::OutOfMemory(self.length))
    }

    fn room(&self) -> usize {
        self.bytes.capacity().min(self.length) - self.bytes.len()
    }
}

/// Copies small frames into memory of their own, so that they keep no chunk of other traffic alive.
/// For whoever holds a message longer than it takes to pass it on.
pub fn detach(frames: &mut [Bytes]) {
    let small = |f: &Bytes| !f.is_empty() && f.len() < LARGE_FRAME;
    let total = frames.iter().filter(|f| small(f)).map(Bytes::len).sum();
    let mut own = BytesMut::with_capacity(total);
    for frame in frames.iter_mut().filter(|f| small(f)) {
        own.extend_from_slice(frame);
        *frame = own.split().freeze();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept(header: &Header) -> Result<usize, Error> {
        Ok(header.body as usize)
    }

    fn put(intake: &mut Intake, pool: &mut ReadPool, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let mut space = intake.space(pool);
            let n = space.remaining_mut().min(bytes.len());
            assert!(n > 0);
            space.put_slice(&bytes[..n]);
            bytes = &bytes[n..];
            if !bytes.is_empty() {
                assert!(intake.next_frame(accept).unwrap().is_none());
            }
        }
    }

    #[test]
    fn an_idle_connection_holds_no_buffer() {
        let (mut pool, mut intake) = (ReadPool::default(), Intake::default());
        put(&mut intake, &mut pool, &[0, 2, 7, 7, 0, 3, 1]);
        let frame = intake.next_frame(accept).unwrap().unwrap();
        assert_eq!(frame.body.freeze(0), [7, 7].as_slice());
        assert!(intake.next_frame(accept).unwrap().is_none());
        intake.park(&mut pool);
        assert_eq!(intake.input.capacity(), 3);
        put(&mut intake, &mut pool, &[2, 3]);
        let frame = intake.next_frame(accept).unwrap().unwrap();
        assert_eq!(frame.body.freeze(0), [1, 2, 3].as_slice());
        intake.park(&mut pool);
        assert_eq!(intake.input.capacity(), 0);
    }

    #[test]
    fn a_claim_alone_reserves_next_to_nothing() {
        let (mut pool, mut intake) = (ReadPool::default(), Intake::default());
        let mut claim = vec![2];
        claim.extend_from_slice(&(3_u64 << 30).to_be_bytes());
        put(&mut intake, &mut pool, &claim);
        assert!(intake.next_frame(accept).unwrap().is_none());
        assert!(intake.large.as_ref().unwrap().bytes.capacity() <= LARGE_FIRST);
        put(&mut intake, &mut pool, &vec![1; 200_000]);
        assert!(intake.next_frame(accept).unwrap().is_none());
        assert_eq!(intake.large_bytes(), 200_000);
        assert!(intake.large.as_ref().unwrap().bytes.capacity() <= GROWTH * 200_000);
    }

    #[test]
    fn a_large_frame_ends_where_it_says() {
        let (mut pool, mut intake) = (ReadPool::default(), Intake::default());
        let length = 3_000_000;
        let mut bytes = vec![2];
        bytes.extend_from_slice(&(length as u64).to_be_bytes());
        bytes.extend((0..length).map(|i| i as u8));
        put(&mut intake, &mut pool, &bytes);
        let frame = intake.next_frame(accept).unwrap().unwrap();
        let body = frame.body.freeze(0);
        assert_eq!(body, bytes[9..]);
        assert_eq!(intake.large_bytes(), 0);
    }

    #[test]
    fn detached_frames_leave_the_chunk() {
        let mut pool = ReadPool::default();
        let mut chunk = pool.take();
        chunk.extend_from_slice(&[5; 100]);
        let mut frames = [chunk.split_to(40).freeze(), Bytes::new()];
        assert!(!chunk.try_reclaim(CHUNK));
        detach(&mut frames);
        assert_eq!(frames, [Bytes::from_static(&[5; 40]), Bytes::new()]);
        chunk.clear();
        assert!(chunk.try_reclaim(CHUNK));
    }
}
