//! The options of a request or an OACK: name and value pairs, in the order sent (RFC 2347).

use std::fmt;

use super::parse::split_nul;

/// Options as they stand in a datagram, unread until iterated.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Options<'a>(&'a [u8]);

impl<'a> Options<'a> {
    /// Options laid out as on the wire: name, NUL, value, NUL, and so on.
    #[must_use]
    pub const fn new(octets: &'a [u8]) -> Self {
        Self(octets)
    }

    /// The octets that the options stand in.
    #[must_use]
    pub const fn octets(self) -> &'a [u8] {
        self.0
    }

    /// The pairs, in the order sent. A name without a whole value ends them, as does an empty name.
    #[must_use]
    pub const fn pairs(self) -> OptionPairs<'a> {
        OptionPairs(self.0)
    }

    /// Whether there is not one whole pair.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.pairs().next().is_none()
    }
}

impl fmt::Debug for Options<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Options({})", super::Escaped(self.0))
    }
}

/// Iterates over the `(name, value)` pairs of [`Options`].
#[derive(Debug, Clone)]
pub struct OptionPairs<'a>(&'a [u8]);

impl<'a> Iterator for OptionPairs<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (name, rest) = split_nul(self.0)?;
        let (value, rest) = split_nul(rest)?;
        if name.is_empty() {
            return None;
        }
        self.0 = rest;
        Some((name, value))
    }
}
