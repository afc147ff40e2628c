//! The options of a request or an OACK: name and value pairs, in the order sent (RFC 2347).

use std::fmt;

use super::parse::split_nul;

/// Options as encoded in a datagram, parsed only when iterated.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Options<'a>(&'a [u8]);

impl<'a> Options<'a> {
    /// Options encoded as on the wire: name, NUL, value, NUL, and so on.
    #[must_use]
    pub const fn new(octets: &'a [u8]) -> Self {
        Self(octets)
    }

    /// The encoded options.
    #[must_use]
    pub const fn octets(self) -> &'a [u8] {
        self.0
    }

    /// The pairs, in the order sent. A name without a complete value ends them; a pair with an empty name is
    /// skipped, and later pairs count.
    #[must_use]
    pub const fn pairs(self) -> OptionPairs<'a> {
        OptionPairs(self.0)
    }

    /// Whether there is no complete pair.
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
        loop {
            let (name, rest) = split_nul(self.0)?;
            let (value, rest) = split_nul(rest)?;
            self.0 = rest;
            if !name.is_empty() {
                return Some((name, value));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(octets: &[u8]) -> Vec<(&[u8], &[u8])> {
        Options::new(octets).pairs().collect()
    }

    #[test]
    fn octets_that_a_terminal_would_obey_are_shown_escaped() {
        let shown = format!("{:?}", Options::new(b"a\0\x1b[2J\0"));
        assert_eq!(shown, r"Options(a\x00\x1b[2J\x00)");
    }

    #[test]
    fn pairs_come_in_the_order_sent() {
        let expected: [(&[u8], &[u8]); 4] =
            [(b"z", b"1"), (b"a", b""), (b"z", b"2"), (b"M", b"x y")];
        assert_eq!(pairs(b"z\x001\0a\0\0z\x002\0M\0x y\0"), expected);
    }

    #[test]
    fn what_is_not_a_whole_pair_ends_them() {
        let one: [(&[u8], &[u8]); 1] = [(b"a", b"1")];
        assert_eq!(pairs(b"a\x001\0blksize"), one, "name without NUL");
        assert_eq!(pairs(b"a\x001\0blksize\0"), one, "option without value");
        assert_eq!(pairs(b"a\x001\0blksize\x00512"), one, "value without NUL");
        for nothing in [&b""[..], b"\0", b"\0\0", b"a", b"a\0", b"a\0b"] {
            assert!(Options::new(nothing).is_empty(), "{nothing:?}");
        }
        for something in [&b"a\0\0"[..], b"a\x001\0", b"a\x001\0b"] {
            assert!(!Options::new(something).is_empty(), "{something:?}");
        }
    }

    #[test]
    fn an_empty_name_is_passed_over_with_its_value() {
        let two: [(&[u8], &[u8]); 2] = [(b"a", b"1"), (b"b", b"2")];
        for between in [&b"\0\0"[..], b"\0x\0", b"\0\0\0y\0"] {
            let octets = [b"a\x001\0", between, b"b\x002\0"].concat();
            assert_eq!(pairs(&octets), two, "{between:?}");
        }
    }

    #[test]
    fn the_end_stays_the_end() {
        let mut pairs = Options::new(b"a\x001\0b").pairs();
        assert!(pairs.next().is_some());
        assert!(pairs.next().is_none());
        assert!(pairs.next().is_none());
    }

    /// CVE-2004-1636, CVE-2009-2958: options far longer than any buffer.
    #[test]
    fn thousands_of_octets_are_read_to_the_end() {
        let mut octets = b"blksize\x00512\0".repeat(250);
        octets.truncate(3000);
        assert_eq!(pairs(&octets).len(), 250);
        let long = [&[b'n'; 65_000][..], b"\0v\0"].concat();
        assert_eq!(pairs(&long).len(), 1);
    }
}
