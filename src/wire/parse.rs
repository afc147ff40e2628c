//! Reading: from the octets of a datagram to a [`Packet`] that borrows from them.

use std::fmt;

use super::{ErrorCode, Mode, Options, Packet, Request, WireBlock};

/// Why a datagram is not a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParseError {
    /// Shorter than its kind of packet can be.
    Truncated,
    /// An opcode that no RFC defines.
    UnknownOpcode(u16),
    /// A request whose file name or mode has no NUL after it.
    Unterminated,
    /// A request whose mode is neither `octet` nor `netascii`.
    UnknownMode,
    /// A request for a file with an empty name.
    EmptyName,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("datagram too short"),
            Self::UnknownOpcode(opcode) => write!(f, "unknown opcode {opcode}"),
            Self::Unterminated => f.write_str("file name or mode without its NUL"),
            Self::UnknownMode => f.write_str("mode is neither octet nor netascii"),
            Self::EmptyName => f.write_str("empty file name"),
        }
    }
}

impl std::error::Error for ParseError {}

impl<'a> Packet<'a> {
    /// Reads the datagram `octets`.
    ///
    /// What can be told apart is accepted: an ACK longer than four octets (Windows clients append
    /// one), an ERROR whose text has no NUL, and junk behind a complete request.
    ///
    /// # Errors
    /// Says what is wrong with a datagram that is not a packet. Only a malformed request
    /// ([`is_request`]) deserves an answer.
    pub fn parse(octets: &'a [u8]) -> Result<Self, ParseError> {
        let (opcode, body) = split_u16(octets)?;
        match opcode {
            1 => Ok(Self::Rrq(request(body)?)),
            2 => Ok(Self::Wrq(request(body)?)),
            3 => split_u16(body).map(|(block, payload)| Self::Data { block: WireBlock(block), payload }),
            4 => split_u16(body).map(|(block, _)| Self::Ack { block: WireBlock(block) }),
            5 => split_u16(body).map(|(code, text)| Self::Error {
                code: ErrorCode(code),
                message: split_nul(text).map_or(text, |(message, _)| message),
            }),
            6 => Ok(Self::Oack(Options::new(body))),
            other => Err(ParseError::UnknownOpcode(other)),
        }
    }
}

/// Whether the datagram's opcode says RRQ or WRQ, whatever follows.
#[must_use]
pub fn is_request(octets: &[u8]) -> bool {
    matches!(octets, [0, 1 | 2, ..])
}

/// RFC 1350 §5: file name, NUL, mode, NUL; RFC 2347: then options, each name and value with a NUL.
fn request(body: &[u8]) -> Result<Request<'_>, ParseError> {
    let (filename, rest) = split_nul(body).ok_or(ParseError::Unterminated)?;
    let (mode, options) = split_nul(rest).ok_or(ParseError::Unterminated)?;
    // RFC 1350 §5: the mode is "in any combination of upper and lower case".
    let mode = if mode.eq_ignore_ascii_case(b"octet") {
        Mode::Octet
    } else if mode.eq_ignore_ascii_case(b"netascii") {
        Mode::Netascii
    } else {
        return Err(ParseError::UnknownMode);
    };
    if filename.is_empty() {
        return Err(ParseError::EmptyName);
    }
    Ok(Request { filename, mode, options: Options::new(options) })
}

fn split_u16(octets: &[u8]) -> Result<(u16, &[u8]), ParseError> {
    match octets {
        [high, low, rest @ ..] => Ok((u16::from_be_bytes([*high, *low]), rest)),
        _ => Err(ParseError::Truncated),
    }
}

/// The octets before the first NUL, and those behind it.
pub(super) fn split_nul(octets: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = octets.iter().position(|&octet| octet == 0)?;
    let (text, rest) = octets.split_at_checked(end)?;
    Some((text, rest.get(1..)?))
}
