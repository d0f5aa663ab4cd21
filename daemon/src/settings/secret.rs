//! Values that must not reach a log, an error or a debugger's output by accident.

use std::fmt;

/// A secret value. It has no `Debug` and no `Display`; [`Secret::expose`] is the one way in, and easy
/// to search for.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret<T>(T);

impl<T> Secret<T> {
    #[must_use]
    pub fn new(value: T) -> Self {
        Self(value)
    }

    #[must_use]
    pub fn expose(&self) -> &T {
        &self.0
    }
}

/// Stands in for a secret where settings are shown.
#[derive(Clone, Copy)]
pub struct Redacted;

impl fmt::Debug for Redacted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}
