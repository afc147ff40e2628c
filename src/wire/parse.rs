//! Parsing: from the octets of a datagram to a [`Packet`] that borrows from them.

use std::fmt;

use super::{ErrorCode, Mode, Options, Packet, Request, WireBlock};

/// Why a datagram is not a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParseError {
    /// Shorter than the minimum for its kind of packet.
    Truncated,
    /// An opcode that no RFC defines.
    UnknownOpcode(u16),
    /// A request whose file name or mode is not terminated by NUL.
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
    /// Parses the datagram `octets`.
    ///
    /// Harmless deviations are accepted: an ACK longer than four octets (Windows clients append
    /// one), an ERROR whose text has no NUL, and junk after a complete request.
    ///
    /// # Errors
    /// What is wrong with a datagram that is not a packet. Only a malformed request ([`is_request`])
    /// deserves an answer.
    pub fn parse(octets: &'a [u8]) -> Result<Self, ParseError> {
        let (opcode, body) = split_u16(octets)?;
        match opcode {
            1 => Ok(Self::Rrq(request(body)?)),
            2 => Ok(Self::Wrq(request(body)?)),
            3 => split_u16(body).map(|(block, payload)| Self::Data {
                block: WireBlock(block),
                payload,
            }),
            4 => split_u16(body).map(|(block, _)| Self::Ack {
                block: WireBlock(block),
            }),
            5 => split_u16(body).map(|(code, text)| Self::Error {
                code: ErrorCode(code),
                message: split_nul(text).map_or(text, |(message, _)| message),
            }),
            6 => Ok(Self::Oack(Options::new(body))),
            other => Err(ParseError::UnknownOpcode(other)),
        }
    }
}

/// Whether the datagram's opcode is RRQ or WRQ, whatever follows.
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
    Ok(Request {
        filename,
        mode,
        options: Options::new(options),
    })
}

fn split_u16(octets: &[u8]) -> Result<(u16, &[u8]), ParseError> {
    match octets {
        [high, low, rest @ ..] => Ok((u16::from_be_bytes([*high, *low]), rest)),
        _ => Err(ParseError::Truncated),
    }
}

/// The octets before the first NUL, and those after it.
pub(super) fn split_nul(octets: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = octets.iter().position(|&octet| octet == 0)?;
    let (text, rest) = octets.split_at_checked(end)?;
    Some((text, rest.get(1..)?))
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::panic)] // A test may fail loudly.
mod tests {
    use super::*;

    const REQUEST: &[u8] = b"\0\x01name\0octet\0blksize\x00512\0tsize\x000\0";

    fn rrq<'a>(filename: &'a [u8], mode: Mode, options: &'a [u8]) -> Packet<'a> {
        Packet::Rrq(Request {
            filename,
            mode,
            options: Options::new(options),
        })
    }

    #[test]
    fn each_kind_is_read() {
        assert_eq!(
            Packet::parse(REQUEST),
            Ok(rrq(b"name", Mode::Octet, b"blksize\x00512\0tsize\x000\0"))
        );
        let wrq = Request {
            filename: b"\xff",
            mode: Mode::Netascii,
            options: Options::default(),
        };
        assert_eq!(
            Packet::parse(b"\0\x02\xff\0NetASCII\0"),
            Ok(Packet::Wrq(wrq))
        );
        let block = WireBlock(0x0102);
        assert_eq!(
            Packet::parse(b"\0\x03\x01\x02abc"),
            Ok(Packet::Data {
                block,
                payload: b"abc"
            })
        );
        assert_eq!(
            Packet::parse(b"\0\x03\x01\x02"),
            Ok(Packet::Data {
                block,
                payload: b""
            })
        );
        assert_eq!(Packet::parse(b"\0\x04\x01\x02"), Ok(Packet::Ack { block }));
        let oack = Packet::Oack(Options::new(b"tsize\x009\0"));
        assert_eq!(Packet::parse(b"\0\x06tsize\x009\0"), Ok(oack));
    }

    #[test]
    fn what_can_be_told_apart_is_accepted() {
        let block = WireBlock(1);
        assert_eq!(
            Packet::parse(b"\0\x04\0\x01\0"),
            Ok(Packet::Ack { block }),
            "a longer ACK"
        );
        assert_eq!(
            Packet::parse(&[b"\0\x04\0\x01", &[7; 500][..]].concat()),
            Ok(Packet::Ack { block })
        );
        let error = |message| {
            Ok(Packet::Error {
                code: ErrorCode::ACCESS,
                message,
            })
        };
        assert_eq!(Packet::parse(b"\0\x05\0\x02no NUL"), error(b"no NUL"));
        assert_eq!(Packet::parse(b"\0\x05\0\x02"), error(b""));
        assert_eq!(Packet::parse(b"\0\x05\0\x02text\0junk"), error(b"text"));
        assert_eq!(
            Packet::parse(b"\0\x01n\0octet\0junk"),
            Ok(rrq(b"n", Mode::Octet, b"junk"))
        );
        assert_eq!(
            Packet::parse(b"\0\x01n\0OcTeT\0"),
            Ok(rrq(b"n", Mode::Octet, b""))
        );
    }

    #[test]
    fn what_is_no_packet_is_refused_by_its_reason() {
        use ParseError::{EmptyName, Truncated, UnknownMode, UnknownOpcode, Unterminated};
        let long_mode = [b"\0\x01n\0", &[b'o'; 2000][..], b"\0"].concat();
        let cases: [(&[u8], ParseError); 17] = [
            (b"", Truncated),
            (b"\0", Truncated),
            (b"\0\x03\0", Truncated),
            (b"\0\x04", Truncated),
            (b"\0\x05\0", Truncated),
            (b"\0\0", UnknownOpcode(0)),
            (b"\0\x07\0\0", UnknownOpcode(7)),
            (b"\x01\0n\0octet\0", UnknownOpcode(256)),
            (b"\xff\xff", UnknownOpcode(0xffff)),
            (b"\0\x01", Unterminated),
            (b"\0\x02name", Unterminated),
            (b"\0\x02name\0octet", Unterminated),
            (b"\0\x01n\0mail\0", UnknownMode),
            (b"\0\x01n\0\0", UnknownMode),
            (b"\0\x01n\0octets\0", UnknownMode),
            (&long_mode, UnknownMode),
            (b"\0\x01\0octet\0", EmptyName),
        ];
        for (octets, reason) in cases {
            assert_eq!(Packet::parse(octets), Err(reason), "{octets:?}");
            assert!(!reason.to_string().is_empty());
        }
    }

    #[test]
    fn only_requests_are_requests() {
        assert!(is_request(b"\0\x01") && is_request(b"\0\x02junk"));
        for other in [
            &b""[..],
            b"\0",
            b"\0\0",
            b"\0\x03",
            b"\0\x06",
            b"\x01\x01",
            b"\x01\x02",
        ] {
            assert!(!is_request(other), "{other:?}");
        }
    }

    /// Goal: a valid packet, truncated anywhere, is never parsed as something that it does not say.
    #[test]
    fn a_request_cut_anywhere_loses_only_what_is_behind_the_cut() {
        let mode_end = b"\0\x01name\0octet\0".len();
        for len in 0..REQUEST.len() {
            let parsed = Packet::parse(&REQUEST[..len]);
            match len {
                0 | 1 => assert_eq!(parsed, Err(ParseError::Truncated)),
                _ if len < mode_end => assert_eq!(parsed, Err(ParseError::Unterminated)),
                _ => {
                    assert_eq!(
                        parsed,
                        Ok(rrq(b"name", Mode::Octet, &REQUEST[mode_end..len]))
                    );
                    let Ok(Packet::Rrq(request)) = parsed else {
                        panic!("not an RRQ")
                    };
                    let whole_pairs = usize::from(len >= mode_end + 12);
                    assert_eq!(request.options.pairs().count(), whole_pairs, "cut at {len}");
                }
            }
        }
        for packet in [&b"\0\x03\0\x01"[..], b"\0\x04\0\x01", b"\0\x05\0\x01"] {
            for len in 0..4 {
                assert_eq!(Packet::parse(&packet[..len]), Err(ParseError::Truncated));
            }
        }
    }
}
