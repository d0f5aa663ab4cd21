//! Frames, as `Link` hands them out: the message format, headers, dates.

use bytes::Bytes;
use piparallel_core::wire::date;
use piparallel_core::wire::header::Header;
use piparallel_core::wire::message::Message;
use piparallel_core::wire::sign::Signer;

use super::Input;

pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let mut frames: Vec<Bytes> = Vec::new();
    while !input.is_empty() && frames.len() < 64 {
        frames.push(input.chunk());
    }
    for frame in &frames {
        read_date(frame);
    }
    let Ok(message) = Message::parse(frames.clone()) else {
        return;
    };
    let signer = Signer::new(b"key");
    let signature = signer.sign(message.signed_parts());
    assert!(signer.verify(&signature, message.signed_parts()).is_ok());
    let is_signed = signer
        .verify(message.signature(), message.signed_parts())
        .is_ok();
    assert_eq!(is_signed, message.signature() == signature);
    for part in message.signed_parts() {
        if let Ok(header) = Header::parse(part) {
            read_date(header.date.as_bytes());
        }
    }
    let size = message.size();
    assert_eq!(size, frames.iter().map(Bytes::len).sum::<usize>());
    let routing = message.routing();
    assert_eq!(
        message.clone().into_frames_via(routing),
        frames.clone().into()
    );
    assert_eq!(message.into_frames(), frames.into());
}

/// What is written for a date that was read is read as the same.
fn read_date(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Some(micros) = date::parse(text)
    {
        assert_eq!(date::parse(&date::format(micros)), Some(micros), "{text}");
    }
    if let Some(bytes) = bytes.first_chunk() {
        assert!(!date::format(i64::from_le_bytes(*bytes)).is_empty());
    }
}
