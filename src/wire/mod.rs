//! Octets ↔ packets: a codec that borrows, never allocates and never panics.
//!
//! [`Packet::parse`] looks at a datagram once; what it returns borrows from it. The `write_*`
//! functions lay a packet out in a buffer that the caller owns. A packet's `Display` reads like a
//! line of tcpdump, with hostile names escaped.
//!
//! ```
//! use bootstorm::wire::{Mode, Packet};
//!
//! let packet = Packet::parse(b"\0\x01pxelinux.0\0octet\0tsize\x000\0").unwrap();
//! assert_eq!(packet.to_string(), r#"RRQ "pxelinux.0" octet tsize=0"#);
//! let Packet::Rrq(request) = packet else { unreachable!() };
//! assert_eq!(request.mode, Mode::Octet);
//! ```
#![forbid(unsafe_code)]
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects,
    clippy::disallowed_methods
)]

mod display;
mod options;
mod parse;
mod write;

pub use display::Escaped;
pub use options::{OptionPairs, Options};
pub use parse::{ParseError, is_request};
pub use write::{
    BufferFull, OptionsWriter, write_ack, write_data_header, write_error, write_oack, write_request,
};

/// Octets before the payload of a DATA packet, and the length of an ACK (RFC 1350 §5).
pub const HEADER_OCTETS: usize = 4;

/// The largest datagram that UDP over IPv4 can carry: 65,535 less 20 octets of IP and 8 of UDP.
pub const DATAGRAM_OCTETS_MAX: usize = 65_507;

/// The opcodes of RFC 1350 §5 and RFC 2347.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Opcode {
    /// Read request.
    Rrq = 1,
    /// Write request.
    Wrq = 2,
    /// A block of the file.
    Data = 3,
    /// Acknowledgement of a block.
    Ack = 4,
    /// Ends a failed transfer.
    Error = 5,
    /// Option acknowledgement (RFC 2347).
    Oack = 6,
}

/// A packet, borrowed from its datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packet<'a> {
    /// "Send me this file."
    Rrq(Request<'a>),
    /// "Take this file."
    Wrq(Request<'a>),
    /// One block of a file; the last is shorter than the block size.
    Data {
        /// The block number on the wire.
        block: WireBlock,
        /// The octets of the block.
        payload: &'a [u8],
    },
    /// "I have everything up to this block."
    Ack {
        /// The block number on the wire.
        block: WireBlock,
    },
    /// Ends a failed transfer.
    Error {
        /// The reason.
        code: ErrorCode,
        /// A text for people, as sent: arbitrary octets.
        message: &'a [u8],
    },
    /// The options that the server accepts.
    Oack(Options<'a>),
}

/// The content of an RRQ or a WRQ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// The file name: octets in no particular encoding.
    pub filename: &'a [u8],
    /// How the file is encoded on the wire.
    pub mode: Mode,
    /// The requested options, in the order sent.
    pub options: Options<'a>,
}

/// The transfer modes of RFC 1350 §1, except `mail`, which is obsolete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Lines end in CR LF on the wire; a lone CR is followed by NUL.
    Netascii,
    /// Octets unchanged.
    Octet,
}

/// A block number on the wire: sixteen bits that wrap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WireBlock(pub u16);

/// An error code (RFC 1350 appendix, RFC 2347 §5 for 8). Any number can arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ErrorCode(pub u16);

impl ErrorCode {
    /// The counter label of the code: a peer may send any code, but must not be able to create labels.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self.0 {
            0 => "0",
            1 => "1",
            2 => "2",
            3 => "3",
            4 => "4",
            5 => "5",
            6 => "6",
            7 => "7",
            8 => "8",
            _ => "other",
        }
    }

    /// Not defined; see the text.
    pub const UNDEFINED: Self = Self(0);
    /// File not found.
    pub const NOT_FOUND: Self = Self(1);
    /// Access violation.
    pub const ACCESS: Self = Self(2);
    /// Disk full or allocation exceeded.
    pub const DISK_FULL: Self = Self(3);
    /// Illegal TFTP operation.
    pub const ILLEGAL: Self = Self(4);
    /// Unknown transfer ID.
    pub const UNKNOWN_TID: Self = Self(5);
    /// File already exists.
    pub const EXISTS: Self = Self(6);
    /// No such user.
    pub const NO_USER: Self = Self(7);
    /// The transfer ends because option negotiation failed.
    pub const OPTIONS: Self = Self(8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_counted_by_their_numbers_and_the_unknown_together() {
        for code in 0..=8 {
            assert_eq!(ErrorCode(code).label(), code.to_string());
        }
        for code in [9, 10, 256, u16::MAX] {
            assert_eq!(ErrorCode(code).label(), "other");
        }
    }
}
