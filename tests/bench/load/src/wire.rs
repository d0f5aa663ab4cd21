//! Jupyter messages as these peers send them: signed, unique, and built from templates so that a message costs a copy and
//! one hash. Requests are built before the clock starts; replies are signed when they are sent, because only then is it
//! known which engine answers.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::zmtp::{push_frame, push_frame_head};

pub(crate) const DELIMITER: &[u8] = b"<IDS|MSG>";
/// The content of every good reply, compared byte for byte when it arrives.
pub(crate) const OK: &[u8] = br#"{"status":"ok"}"#;

const DIGITS: usize = 10;
/// Where the session starts in every header of ours.
const SESSION_AT: usize = br#"{"msg_id":""#.len();
const SESSION_LEN: usize = 33;
const NUMBER_AT: usize = SESSION_AT + SESSION_LEN + 1;

/// The pool's key, ready to hash.
#[derive(Clone)]
pub(crate) struct Signer(Option<Hmac<Sha256>>);

impl Signer {
    /// An empty key means that messages are not signed.
    pub(crate) fn new(key: &str) -> Self {
        Self(
            (!key.is_empty())
                .then(|| Hmac::new_from_slice(key.as_bytes()).ok())
                .flatten(),
        )
    }

    /// The signature frame of a message.
    fn sign(&self, parts: [&[u8]; 4]) -> Signature {
        let Some(mac) = &self.0 else {
            return Signature {
                hex: [0; 64],
                len: 0,
            };
        };
        let mut mac = mac.clone();
        parts.iter().for_each(|part| mac.update(part));
        let mut hex = [0; 64];
        for (pair, byte) in hex.chunks_exact_mut(2).zip(mac.finalize().into_bytes()) {
            pair[0] = HEX[usize::from(byte >> 4)];
            pair[1] = HEX[usize::from(byte & 15)];
        }
        Signature { hex, len: 64 }
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

struct Signature {
    hex: [u8; 64],
    len: usize,
}

/// A header that becomes another message's by changing its number.
#[derive(Clone)]
pub(crate) struct Header {
    json: Vec<u8>,
    next: u32,
}

impl Header {
    pub(crate) fn new(session: &str, msg_type: &str) -> Self {
        debug_assert_eq!(session.len(), SESSION_LEN);
        let json = format!(
            r#"{{"msg_id":"{session}_{:010}","msg_type":"{msg_type}","username":"bench","session":"{session}","date":"{}","version":"5.4"}}"#,
            0,
            now_iso()
        );
        Self {
            json: json.into_bytes(),
            next: 0,
        }
    }

    fn with_number(&mut self, mut number: u32) -> &[u8] {
        for digit in self.json[NUMBER_AT..NUMBER_AT + DIGITS].iter_mut().rev() {
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
        }
        &self.json
    }

    fn next(&mut self) -> &[u8] {
        self.next += 1;
        self.with_number(self.next)
    }
}

/// The number in a header made by [`Header`] for `session`, also if someone has written its JSON anew.
pub(crate) fn number_of(header: &[u8], session: &str) -> Option<u32> {
    let quick = header
        .get(SESSION_AT..NUMBER_AT + DIGITS)
        .filter(|id| id.starts_with(session.as_bytes()));
    if let Some(id) = quick {
        return parse_digits(&id[SESSION_LEN + 1..]);
    }
    let header: serde_json::Value = serde_json::from_slice(header).ok()?;
    let id = header.get("msg_id")?.as_str()?;
    parse_digits(id.strip_prefix(session)?.strip_prefix('_')?.as_bytes())
}

fn parse_digits(digits: &[u8]) -> Option<u32> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Appends one signed message after its routing frames. `more` announces a payload frame that the caller sends.
pub(crate) fn push_message(
    out: &mut Vec<u8>,
    signer: &Signer,
    parts: [&[u8]; 4],
    buffers: &[&[u8]],
    payload_len: usize,
) {
    let signature = signer.sign(parts);
    push_frame(out, DELIMITER, true);
    push_frame(out, &signature.hex[..signature.len], true);
    for part in &parts[..3] {
        push_frame(out, part, true);
    }
    push_frame(out, parts[3], !buffers.is_empty() || payload_len > 0);
    for (index, buffer) in buffers.iter().enumerate() {
        push_frame(out, buffer, index + 1 < buffers.len() || payload_len > 0);
    }
    if payload_len > 0 {
        push_frame_head(out, payload_len, false);
    }
}

/// A peer that starts messages of its own: registration, queries, iopub output.
pub(crate) struct Sender {
    header: Header,
    signer: Signer,
}

impl Sender {
    pub(crate) fn new(session: &str, msg_type: &str, signer: &Signer) -> Self {
        Self {
            header: Header::new(session, msg_type),
            signer: signer.clone(),
        }
    }

    pub(crate) fn push(&mut self, out: &mut Vec<u8>, routing: &[&[u8]], content: &[u8]) {
        routing
            .iter()
            .for_each(|frame| push_frame(out, frame, true));
        push_message(
            out,
            &self.signer,
            [self.header.next(), b"{}", b"{}", content],
            &[],
            0,
        );
    }
}

/// What one engine answers with.
pub(crate) struct Replies {
    header: Header,
    metadata: Vec<u8>,
    signer: Signer,
}

impl Replies {
    pub(crate) fn new(uuid: &str, signer: &Signer) -> Self {
        let metadata = format!(
            r#"{{"started":"{}","dependencies_met":true,"engine":"{uuid}","status":"ok"}}"#,
            now_iso()
        );
        Self {
            header: Header::new(uuid, "apply_reply"),
            metadata: metadata.into_bytes(),
            signer: signer.clone(),
        }
    }

    /// Answers the request with this header. `routing` is echoed.
    pub(crate) fn push(
        &mut self,
        out: &mut Vec<u8>,
        routing: &[&[u8]],
        request_header: &[u8],
        payload_len: usize,
    ) {
        routing
            .iter()
            .for_each(|frame| push_frame(out, frame, true));
        let parts = [self.header.next(), request_header, &self.metadata, OK];
        push_message(out, &self.signer, parts, &[RESULT], payload_len);
    }
}

/// About as long as a pickled small result.
const RESULT: &[u8] = &[b'r'; 60];
/// About as long as a pickled function and its call information.
const FUNCTION: &[u8] = &[b'f'; 180];
const CALL: &[u8] = &[b'c'; 60];

/// Requests ready to be sent, numbered from `first` on.
pub(crate) struct Batch {
    pub(crate) first: u32,
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Batch {
    pub(crate) fn new(first: u32) -> Self {
        Self {
            first,
            bytes: Vec::new(),
            ends: Vec::new(),
        }
    }

    /// Appends a request. `engine` is the routing frame of a mux request, and absent for a task.
    pub(crate) fn add(
        &mut self,
        header: &mut Header,
        signer: &Signer,
        engine: Option<&[u8]>,
        retries: u32,
        payload_len: usize,
    ) {
        let number = self.first + self.len();
        if let Some(engine) = engine {
            push_frame(&mut self.bytes, engine, true);
        }
        let metadata = match engine {
            Some(_) => "{}".to_owned(),
            None => format!(
                r#"{{"after":[],"follow":[],"timeout":null,"targets":[],"retries":{retries},"label":null}}"#
            ),
        };
        let parts = [
            header.with_number(number),
            b"{}",
            metadata.as_bytes(),
            b"{}",
        ];
        push_message(
            &mut self.bytes,
            signer,
            parts,
            &[FUNCTION, CALL],
            payload_len,
        );
        self.ends.push(self.bytes.len());
    }

    pub(crate) fn len(&self) -> u32 {
        self.ends.len() as u32
    }

    /// The bytes of the request `index`, counted from zero.
    pub(crate) fn request(&self, index: u32) -> &[u8] {
        let index = index as usize;
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.bytes[start..self.ends[index]]
    }
}

/// A session as jupyter_client writes them: 8 and 24 hexadecimal digits.
pub(crate) fn session(nonce: u32, number: u32) -> String {
    format!("{nonce:08x}-{number:024x}")
}

/// Differs from run to run, so that a controller which outlives the generator never sees an id twice.
pub(crate) fn nonce() -> u32 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    now.subsec_nanos() ^ (now.as_secs() as u32).rotate_left(16) ^ std::process::id()
}

/// The date of a header: UTC with microseconds.
fn now_iso() -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let (days, seconds) = (now.as_secs() / 86_400, now.as_secs() % 86_400);
    let (year, month, day) = civil(days as i64);
    let mut date = String::new();
    // Writing to a string does not fail.
    let _ = write!(
        date,
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:06}Z",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        now.subsec_micros()
    );
    date
}

/// Days since 1970-01-01 as year, month, day of the Gregorian calendar, counting years from March.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day_of_year - (153 * shifted + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_hmac_sha256_in_hex() {
        // RFC 4231, test case 2.
        let signature = Signer::new("Jefe").sign([b"what do ya", b" want ", b"for ", b"nothing?"]);
        let expected = b"5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(&signature.hex, expected);
        assert_eq!(Signer::new("").sign([b"", b"", b"", b""]).len, 0);
    }

    #[test]
    fn a_number_is_found_in_our_json_and_in_that_of_others() {
        let session = session(0xabcd, 7);
        let mut header = Header::new(&session, "apply_request");
        assert_eq!(
            number_of(header.with_number(4_000_000_001), &session),
            Some(4_000_000_001)
        );
        let anew = format!(r#"{{ "username": "x", "msg_id": "{session}_0000000012" }}"#);
        assert_eq!(number_of(anew.as_bytes(), &session), Some(12));
        assert_eq!(
            number_of(header.with_number(1), &super::session(1, 1)),
            None
        );
    }

    #[test]
    fn dates_are_gregorian() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(19_782), (2024, 2, 29));
        assert_eq!(civil(20_454), (2026, 1, 1));
    }
}
