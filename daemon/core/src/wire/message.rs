//! One multipart message, taken apart without copying.
//!
//! ```text
//! [routing ...] "<IDS|MSG>" signature header parent_header metadata content [buffer ...]
//! ```
//!
//! The four parts between signature and buffers are JSON texts that this module does not read.

use bytes::Bytes;
use thiserror::Error;

use super::frames::Frames;
use super::zmtp::detach;

/// The frame between routing ids and the signed message.
pub const DELIMITER: &[u8] = b"<IDS|MSG>";

/// Frames that every message has after its routing frames.
const FIXED_FRAMES: usize = 6;

/// A part that is signed: its place after the delimiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignedPart {
    Header = 2,
    ParentHeader,
    Metadata,
    Content,
}

impl SignedPart {
    const ALL: [Self; 4] = [
        Self::Header,
        Self::ParentHeader,
        Self::Metadata,
        Self::Content,
    ];
}

/// Why some frames are not a message.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum MessageError {
    #[error("no <IDS|MSG> delimiter among its {0} frames")]
    NoDelimiter(usize),
    #[error("{0} frames after the delimiter, at least 5 are needed")]
    Truncated(usize),
}

/// A message as it came, or as it will be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    frames: Frames,
    delimiter: usize,
}

impl Message {
    /// Takes a multipart message apart.
    ///
    /// # Errors
    /// The frames have no delimiter, or too few frames follow it.
    pub fn parse(frames: impl Into<Frames>) -> Result<Self, MessageError> {
        let frames = frames.into();
        let delimiter = frames
            .iter()
            .position(|frame| frame == DELIMITER)
            .ok_or(MessageError::NoDelimiter(frames.len()))?;
        let after = frames.len() - delimiter;
        if after < FIXED_FRAMES {
            return Err(MessageError::Truncated(after - 1));
        }
        Ok(Self { frames, delimiter })
    }

    /// The outermost routing frame.
    #[must_use]
    pub fn route(&self) -> Option<Bytes> {
        (self.delimiter > 0).then(|| self.frames.bytes(0))
    }

    /// The routing frames, outermost first.
    #[must_use]
    pub fn routing(&self) -> Vec<Bytes> {
        (0..self.delimiter).map(|n| self.frames.bytes(n)).collect()
    }

    #[must_use]
    pub fn signature(&self) -> &[u8] {
        &self.frames[self.delimiter + 1]
    }

    /// What is signed: header, parent header, metadata, content, as sent.
    pub fn signed_parts(&self) -> impl Iterator<Item = &[u8]> {
        SignedPart::ALL.into_iter().map(|part| self.part(part))
    }

    #[must_use]
    pub fn header(&self) -> &[u8] {
        self.part(SignedPart::Header)
    }

    #[must_use]
    pub fn parent_header(&self) -> &[u8] {
        self.part(SignedPart::ParentHeader)
    }

    #[must_use]
    pub fn metadata(&self) -> &[u8] {
        self.part(SignedPart::Metadata)
    }

    #[must_use]
    pub fn content(&self) -> &[u8] {
        self.part(SignedPart::Content)
    }

    #[must_use]
    pub fn part(&self, part: SignedPart) -> &[u8] {
        &self.frames[self.delimiter + part as usize]
    }

    /// A part without a copy, for whoever keeps it.
    #[must_use]
    pub fn bytes(&self, part: SignedPart) -> Bytes {
        self.frames.bytes(self.delimiter + part as usize)
    }

    #[must_use]
    pub fn buffer_count(&self) -> usize {
        self.frames.len() - self.delimiter - FIXED_FRAMES
    }

    #[must_use]
    pub fn buffer(&self, n: usize) -> &[u8] {
        &self.frames[self.delimiter + FIXED_FRAMES + n]
    }

    /// A buffer without a copy.
    #[must_use]
    pub fn buffer_bytes(&self, n: usize) -> Bytes {
        self.frames.bytes(self.delimiter + FIXED_FRAMES + n)
    }

    /// The buffers, without copies.
    pub fn buffers(&self) -> impl Iterator<Item = Bytes> {
        (0..self.buffer_count()).map(|n| self.buffer_bytes(n))
    }

    /// All frames, with `routing` in place of the routing frames that came; nothing signed changes.
    #[must_use]
    pub fn into_frames_via(mut self, routing: impl IntoIterator<Item = Bytes>) -> Frames {
        self.frames.replace_first(self.delimiter, routing);
        self.frames
    }

    /// All frames as they are.
    #[must_use]
    pub fn into_frames(self) -> Frames {
        self.frames
    }

    /// Gives small frames memory of their own, and no more than they need. For whoever keeps a message: the
    /// read buffer that they came in is shared with other traffic and would stay as long.
    pub fn detach(&mut self) {
        let frames = self.frames.list_mut();
        detach(frames);
        frames.shrink_to_fit();
    }

    /// Frames, routing frames and delimiter included.
    #[must_use]
    pub fn frame_count(&self) -> usize {
        self.frames.len()
    }

    /// Bytes in all frames.
    #[must_use]
    pub fn size(&self) -> usize {
        self.frames.iter().map(<[u8]>::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(parts: &[&'static str]) -> Vec<Bytes> {
        parts
            .iter()
            .map(|p| Bytes::from_static(p.as_bytes()))
            .collect()
    }

    #[test]
    fn parts_are_found_after_the_routing_frames() {
        let m = Message::parse(frames(&[
            "a",
            "b",
            "<IDS|MSG>",
            "s",
            "h",
            "p",
            "m",
            "c",
            "x",
        ]))
        .unwrap();
        assert_eq!(m.routing(), frames(&["a", "b"]));
        assert_eq!(m.route(), Some(Bytes::from("a")));
        assert_eq!(m.signature(), b"s");
        let signed: Vec<_> = m.signed_parts().collect();
        assert_eq!(signed, [b"h", b"p", b"m", b"c"]);
        assert_eq!((m.header(), m.parent_header()), (&b"h"[..], &b"p"[..]));
        assert_eq!((m.metadata(), m.content()), (&b"m"[..], &b"c"[..]));
        assert_eq!(m.bytes(SignedPart::Content), "c");
        assert_eq!(m.buffers().collect::<Vec<_>>(), frames(&["x"]));
        assert_eq!(m.size(), 17);
        assert_eq!(
            m.into_frames_via([Bytes::from("z")]),
            frames(&["z", "<IDS|MSG>", "s", "h", "p", "m", "c", "x"]).into()
        );
    }

    #[test]
    fn what_is_no_message_is_refused() {
        assert_eq!(
            Message::parse(frames(&["a"])),
            Err(MessageError::NoDelimiter(1))
        );
        assert_eq!(Message::parse(vec![]), Err(MessageError::NoDelimiter(0)));
        assert_eq!(
            Message::parse(frames(&["<IDS|MSG>", "s", "h", "p", "m"])),
            Err(MessageError::Truncated(4))
        );
    }
}
