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
            .position(|f| f.as_ref() == DELIMITER)
            .ok_or(MessageError::NoDelimiter(frames.len()))?;
        let after = frames.len() - delimiter;
        if after < FIXED_FRAMES {
            return Err(MessageError::Truncated(after - 1));
        }
        Ok(Self { frames, delimiter })
    }

    /// The routing frames, outermost first.
    #[must_use]
    pub fn routing(&self) -> &[Bytes] {
        &self.frames[..self.delimiter]
    }

    #[must_use]
    pub fn signature(&self) -> &Bytes {
        &self.frames[self.delimiter + 1]
    }

    /// What is signed: header, parent header, metadata, content, as sent.
    #[must_use]
    pub fn signed_parts(&self) -> &[Bytes] {
        &self.frames[self.delimiter + 2..self.delimiter + FIXED_FRAMES]
    }

    #[must_use]
    pub fn header(&self) -> &Bytes {
        &self.frames[self.delimiter + 2]
    }

    #[must_use]
    pub fn parent_header(&self) -> &Bytes {
        &self.frames[self.delimiter + 3]
    }

    #[must_use]
    pub fn metadata(&self) -> &Bytes {
        &self.frames[self.delimiter + 4]
    }

    #[must_use]
    pub fn content(&self) -> &Bytes {
        &self.frames[self.delimiter + 5]
    }

    #[must_use]
    pub fn buffers(&self) -> &[Bytes] {
        &self.frames[self.delimiter + FIXED_FRAMES..]
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
        self.frames.iter().map(Bytes::len).sum()
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
        assert_eq!(m.signature(), "s");
        assert_eq!(m.signed_parts(), frames(&["h", "p", "m", "c"]));
        assert_eq!(
            (m.header(), m.parent_header()),
            (&Bytes::from("h"), &Bytes::from("p"))
        );
        assert_eq!(
            (m.metadata(), m.content()),
            (&Bytes::from("m"), &Bytes::from("c"))
        );
        assert_eq!(m.buffers(), frames(&["x"]));
        assert_eq!(m.size(), 17);
        assert_eq!(
            *m.into_frames_via([Bytes::from("z")]),
            *frames(&["z", "<IDS|MSG>", "s", "h", "p", "m", "c", "x"])
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
