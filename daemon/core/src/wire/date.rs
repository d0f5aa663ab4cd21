//! Dates as Python's `datetime.isoformat` writes them and `jupyter_client` reads them.

/// Microseconds since 1970 (UTC) → `2026-01-02T03:04:05.678901Z`.
#[must_use]
pub fn format(unix_micros: i64) -> String {
    let (days, micros) = (
        unix_micros.div_euclid(MICROS_PER_DAY),
        unix_micros.rem_euclid(MICROS_PER_DAY),
    );
    let (year, month, day) = civil_from_days(days);
    let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{fraction:06}Z")
}

/// Reads `YYYY-MM-DDTHH:MM:SS[.ffffff][Z|±HH[:]MM]` as microseconds since 1970 (UTC). A date without
/// a zone is taken as UTC. `None` for anything else.
#[must_use]
pub fn parse(text: &str) -> Option<i64> {
    let b = text.as_bytes();
    if b.len() < 19
        || b[4] != b'-'
        || b[7] != b'-'
        || !matches!(b[10], b'T' | b' ')
        || b[13] != b':'
        || b[16] != b':'
    {
        return None;
    }
    let (year, month, day) = (digits(&b[0..4])?, digits(&b[5..7])?, digits(&b[8..10])?);
    let (hour, minute, second) = (
        digits(&b[11..13])?,
        digits(&b[14..16])?,
        digits(&b[17..19])?,
    );
    if !(1..=12).contains(&month)
        || !(1..=31).contains(&day)
        || hour > 23
        || minute > 59
        || second > 60
    {
        return None;
    }
    let (fraction, zone) = split_fraction(&b[19..])?;
    let seconds = (hour * 60 + minute) * 60 + second - zone_seconds(zone)?;
    Some(days_from_civil(year, month, day) * MICROS_PER_DAY + seconds * 1_000_000 + fraction)
}

const MICROS_PER_DAY: i64 = 86_400_000_000;

fn digits(b: &[u8]) -> Option<i64> {
    b.iter().try_fold(0, |n, c| {
        c.is_ascii_digit().then(|| n * 10 + i64::from(c - b'0'))
    })
}

/// `.123456` → microseconds, and what follows.
fn split_fraction(rest: &[u8]) -> Option<(i64, &[u8])> {
    let Some(b'.' | b',') = rest.first() else {
        return Some((0, rest));
    };
    let end = rest[1..]
        .iter()
        .position(|c| !c.is_ascii_digit())
        .map_or(rest.len(), |n| n + 1);
    let fraction = &rest[1..end];
    if fraction.is_empty() || fraction.len() > 9 {
        return None;
    }
    let micros = (0..6).fold(0, |n, i| {
        n * 10 + fraction.get(i).map_or(0, |c| i64::from(c - b'0'))
    });
    Some((micros, &rest[end..]))
}

fn zone_seconds(zone: &[u8]) -> Option<i64> {
    let (sign, rest) = match zone {
        [] | [b'Z'] => return Some(0),
        [b'+', rest @ ..] => (1, rest),
        [b'-', rest @ ..] => (-1, rest),
        _ => return None,
    };
    let (hours, minutes) = match rest {
        [_, _] => (digits(rest)?, 0),
        [_, _, _, _] => (digits(&rest[..2])?, digits(&rest[2..])?),
        [_, _, b':', _, _] => (digits(&rest[..2])?, digits(&rest[3..])?),
        _ => return None,
    };
    Some(sign * (hours * 60 + minutes) * 60)
}

/// Days since 1970 of a date in the proleptic Gregorian calendar. The year is counted from March, so
/// that the leap day comes last.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day_of_year - (153 * shifted + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_dates() {
        assert_eq!(format(0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(format(1_709_210_096_000_007), "2024-02-29T12:34:56.000007Z");
        assert_eq!(
            parse("2024-02-29T12:34:56.000007Z"),
            Some(1_709_210_096_000_007)
        );
        assert_eq!(parse("2024-02-29T12:34:56"), Some(1_709_210_096_000_000));
        assert_eq!(
            parse("2024-02-29 14:34:56.5+02:00"),
            Some(1_709_210_096_500_000)
        );
        assert_eq!(
            parse("2024-02-29T07:04:56-0530"),
            Some(1_709_210_096_000_000)
        );
    }

    #[test]
    fn other_texts_are_no_dates() {
        for text in [
            "",
            "2024",
            "2024-13-01T00:00:00Z",
            "2024-01-01T00:00:00.Z",
            "2024-01-01T00:00:00X",
            "a_b_c",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(micros in -10_000_000_000_000_000i64..100_000_000_000_000_000) {
            prop_assert_eq!(parse(&format(micros)), Some(micros));
        }

        #[test]
        fn any_text_is_survived(text in "\\PC*") {
            let _ = parse(&text);
        }
    }
}
