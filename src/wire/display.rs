//! Showing: a packet as a line of tcpdump, whatever its octets, safe for a terminal and a log.

use std::fmt;

use super::{ErrorCode, Mode, Options, Packet, Request, WireBlock};

/// Octets from the network, shown so that no terminal or log can be harmed: printable ASCII as it
/// is, everything else escaped, and no more than [`Escaped::OCTETS_MAX`] of them.
#[derive(Debug, Clone, Copy)]
pub struct Escaped<'a>(pub &'a [u8]);

impl Escaped<'_> {
    /// How many octets are shown before an ellipsis.
    pub const OCTETS_MAX: usize = 255;
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (shown, more) = self.0.split_at_checked(Self::OCTETS_MAX).unwrap_or((self.0, &[]));
        write!(f, "{}", shown.escape_ascii())?;
        if more.is_empty() { Ok(()) } else { f.write_str("…") }
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
        write!(f, "\"{}\" {}{}", Escaped(self.filename), self.mode, self.options)
    }
}

/// Each pair with a blank before it: ` blksize=1428 tsize=0`.
impl fmt::Display for Options<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pairs().try_for_each(|(name, value)| write!(f, " {}={}", Escaped(name), Escaped(value)))
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
