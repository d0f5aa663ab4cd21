//! The TXT record of an announcement: keys and values as a responder sends them.

use piparallel_core::discovery::Announcement;

use super::Input;

/// A record has at most so many entries here.
const ENTRIES_MAX: usize = 16;
const KEYS: [&str; 8] = ["v", "pool", "role", "id", "fp", "epoch", "ROLE", "other"];

pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let mut txt = Vec::new();
    while !input.is_empty() && txt.len() < ENTRIES_MAX {
        let key = KEYS[input.below(KEYS.len())].to_owned();
        let length = usize::from(input.byte());
        txt.push((key, input.take(length).to_vec()));
    }
    let Ok(announcement) = Announcement::from_txt(&txt) else {
        return;
    };
    let said = announcement.to_txt().into_iter();
    let again: Vec<_> = said.map(|(key, value)| (key, value.into_bytes())).collect();
    // What a responder adds: a length for each entry, and the equals sign.
    let length: usize = again
        .iter()
        .map(|(key, value)| key.len() + value.len() + 2)
        .sum();
    assert!(length <= 400, "{length} bytes");
    assert_eq!(Announcement::from_txt(&again), Ok(announcement));
}
