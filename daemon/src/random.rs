//! Chance, from the system.

use anyhow::Context as _;

/// Bytes that nobody can guess.
///
/// # Errors
/// The system gives none.
pub fn bytes<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).context("the system gives no random bytes")?;
    Ok(bytes)
}
