//! Formats a packet like a line of tcpdump, whatever its octets, safely for a terminal and a log.

use std::fmt;

use super::{ErrorCode, Mode, Options, Packet, Request, WireBlock};

/// Octets from the network, formatted so that they cannot harm a terminal or a log: printable ASCII
/// unchanged, everything else escaped, and at most [`Escaped::OCTETS_MAX`] of them.
#[derive(Debug, Clone, Copy)]
pub struct Escaped<'a>(pub &'a [u8]);

impl Escaped<'_> {
    /// How many octets are shown before an ellipsis.
    pub const OCTETS_MAX: usize = 255;
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (shown, more) = self
            .0
            .split_at_checked(Self::OCTETS_MAX)
            .unwrap_or((self.0, &[]));
        write!(f, "{}", shown.escape_ascii())?;
        if more.is_empty() {
            Ok(())
        } else {
            f.write_str("…")
        }
    }
}

impl fmt::Display for Packet<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rrq(request) => write!(f, "RRQ {request}"),
            Self::Wrq(request) => write!(f, "WRQ {request}"),
            Self::Data { block, payload } => write!(f, "DATA {block} [{}]", payload.len()),
            Self::Ack { block } => write!(f, "ACK {block}"),
            Self::Error { code, message } => write!(f, "ERROR {code} \"{}\"", Escaped(message)),
            Self::Oack(options) => write!(f, "OACK{options}"),
        }
    }
}

impl fmt::Display for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "\"{}\" {}{}",
            Escaped(self.filename),
            self.mode,
            self.options
        )
    }
}

/// How many options are shown before an ellipsis: twice as many as have been defined, so that one hostile
/// datagram cannot become a line of half a million characters.
const OPTIONS_SHOWN_MAX: usize = 16;

/// Each pair preceded by a space: ` blksize=1428 tsize=0`.
impl fmt::Display for Options<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut pairs = self.pairs();
        pairs
            .by_ref()
            .take(OPTIONS_SHOWN_MAX)
            .try_for_each(|(name, value)| write!(f, " {}={}", Escaped(name), Escaped(value)))?;
        if pairs.next().is_none() {
            Ok(())
        } else {
            f.write_str(" …")
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Netascii => "netascii",
            Self::Octet => "octet",
        })
    }
}

impl fmt::Display for WireBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // A test may fail loudly.
mod tests {
    use super::*;

    fn line(octets: &[u8]) -> String {
        Packet::parse(octets).unwrap().to_string()
    }

    #[test]
    fn each_kind_is_one_line() {
        insta::assert_snapshot!(line(b"\0\x01image\0OCTET\0blksize\x001428\0tsize\x000\0"), @r#"RRQ "image" octet blksize=1428 tsize=0"#);
        insta::assert_snapshot!(line(b"\0\x02notes.txt\0netascii\0"), @r#"WRQ "notes.txt" netascii"#);
        insta::assert_snapshot!(line(b"\0\x03\xff\xffabc"), @"DATA 65535 [3]");
        insta::assert_snapshot!(line(b"\0\x04\0\0"), @"ACK 0");
        insta::assert_snapshot!(line(b"\0\x05\0\x01File not found\0"), @r#"ERROR 1 "File not found""#);
        insta::assert_snapshot!(line(b"\0\x06windowsize\x008\0"), @"OACK windowsize=8");
        insta::assert_snapshot!(line(b"\0\x06"), @"OACK");
    }

    /// Names that would move a cursor, end a line or close a quotation (CVE-2006-0328, 2018-10388).
    #[test]
    fn hostile_octets_are_escaped_wherever_they_stand() {
        insta::assert_snapshot!(line(b"\0\x01%n%s\x1b[2J\r\n\"\xff'\\\0octet\0\x1bopt\0\x7fval\r\n\0"), @r#"RRQ "%n%s\x1b[2J\r\n\"\xff\'\\" octet \x1bopt=\x7fval\r\n"#);
        insta::assert_snapshot!(line(b"\0\x05\xff\xff\x1b]0;mine\x07\0"), @r#"ERROR 65535 "\x1b]0;mine\x07""#);
        for octet in 0..=u8::MAX {
            let shown = Escaped(&[octet]).to_string();
            assert!(
                shown.bytes().all(|shown| (b' '..=b'~').contains(&shown)),
                "{octet:#04x} is shown as {shown:?}"
            );
        }
    }

    #[test]
    fn what_is_shown_has_an_end() {
        assert_eq!(Escaped(&[b'a'; 255]).to_string(), "a".repeat(255));
        assert_eq!(Escaped(&[b'a'; 256]).to_string(), "a".repeat(255) + "…");
        assert_eq!(
            Options::new(&b"a\0b\0".repeat(16)).to_string(),
            " a=b".repeat(16)
        );
        assert_eq!(
            Options::new(&b"a\0b\0".repeat(5000)).to_string(),
            " a=b".repeat(16) + " …"
        );
    }
}
