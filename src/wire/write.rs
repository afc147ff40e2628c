//! Encoding: writes packets into a buffer that the caller owns; each function returns the octets used.

use std::fmt;

use super::{ErrorCode, HEADER_OCTETS, Mode, Opcode, Options, WireBlock};

/// The buffer is too small for the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BufferFull;

impl fmt::Display for BufferFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the packet does not fit its buffer")
    }
}

impl std::error::Error for BufferFull {}

/// The first four octets of a DATA packet; its payload follows them.
#[must_use]
pub const fn write_data_header(block: WireBlock) -> [u8; HEADER_OCTETS] {
    let [high, low] = block.0.to_be_bytes();
    [0, 3, high, low]
}

/// A complete ACK.
#[must_use]
pub const fn write_ack(block: WireBlock) -> [u8; HEADER_OCTETS] {
    let [high, low] = block.0.to_be_bytes();
    [0, 4, high, low]
}

/// An ERROR with its text; returns its length. A NUL in `message` ends it for the receiver.
///
/// # Errors
/// [`BufferFull`] if `buffer` cannot hold it.
pub fn write_error(
    buffer: &mut [u8],
    code: ErrorCode,
    message: &[u8],
) -> Result<usize, BufferFull> {
    let mut cursor = Cursor::new(buffer, Opcode::Error)?;
    cursor.put(&code.0.to_be_bytes())?;
    cursor.text(message)?;
    Ok(cursor.used)
}

/// An RRQ or a WRQ; the returned writer appends options. `filename` must not contain a NUL: what
/// follows one would be read as the mode.
///
/// # Errors
/// [`BufferFull`] if `buffer` cannot hold it.
pub fn write_request<'b>(
    buffer: &'b mut [u8],
    opcode: Opcode,
    filename: &[u8],
    mode: Mode,
) -> Result<OptionsWriter<'b>, BufferFull> {
    let mut cursor = Cursor::new(buffer, opcode)?;
    cursor.text(filename)?;
    cursor.text(match mode {
        Mode::Netascii => b"netascii",
        Mode::Octet => b"octet",
    })?;
    Ok(OptionsWriter(cursor))
}

/// An OACK; the returned writer appends options.
///
/// # Errors
/// [`BufferFull`] if `buffer` cannot hold even the opcode.
pub fn write_oack(buffer: &mut [u8]) -> Result<OptionsWriter<'_>, BufferFull> {
    Ok(OptionsWriter(Cursor::new(buffer, Opcode::Oack)?))
}

/// Appends options to a request or an OACK.
#[derive(Debug)]
pub struct OptionsWriter<'b>(Cursor<'b>);

impl OptionsWriter<'_> {
    /// Appends `name` with `value` in decimal.
    ///
    /// # Errors
    /// [`BufferFull`] if the pair does not fit.
    pub fn number(&mut self, name: &[u8], value: u64) -> Result<(), BufferFull> {
        let mut digits = [0; DECIMAL_DIGITS_MAX];
        self.text(name, decimal(value, &mut digits))
    }

    /// Appends `name` with `value` unchanged; neither may contain a NUL.
    ///
    /// # Errors
    /// [`BufferFull`] if the pair does not fit; nothing is appended then.
    pub fn text(&mut self, name: &[u8], value: &[u8]) -> Result<(), BufferFull> {
        let before = self.0.used;
        let appended = self.0.text(name).and_then(|()| self.0.text(value));
        if appended.is_err() {
            self.0.used = before;
        }
        appended
    }

    /// Appends options that are already encoded.
    ///
    /// # Errors
    /// [`BufferFull`] if they do not fit.
    pub fn options(&mut self, options: Options<'_>) -> Result<(), BufferFull> {
        self.0.put(options.octets())
    }

    /// The length of the whole packet so far, in octets.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.used
    }

    /// Never true: a packet has at least an opcode.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        false
    }
}

/// Digits of the largest `u64`.
const DECIMAL_DIGITS_MAX: usize = 20;

fn decimal(mut value: u64, digits: &mut [u8; DECIMAL_DIGITS_MAX]) -> &[u8] {
    let mut used: usize = 0;
    for slot in digits.iter_mut().rev() {
        let digit = u8::try_from(value % 10).unwrap_or(0);
        *slot = b'0'.saturating_add(digit);
        used = used.saturating_add(1);
        value /= 10;
        if value == 0 {
            break;
        }
    }
    digits
        .get(DECIMAL_DIGITS_MAX.saturating_sub(used)..)
        .unwrap_or(&[])
}

#[derive(Debug)]
struct Cursor<'b> {
    buffer: &'b mut [u8],
    used: usize,
}

impl<'b> Cursor<'b> {
    fn new(buffer: &'b mut [u8], opcode: Opcode) -> Result<Self, BufferFull> {
        let mut cursor = Self { buffer, used: 0 };
        let code: u8 = match opcode {
            Opcode::Rrq => 1,
            Opcode::Wrq => 2,
            Opcode::Data => 3,
            Opcode::Ack => 4,
            Opcode::Error => 5,
            Opcode::Oack => 6,
        };
        cursor.put(&[0, code])?;
        Ok(cursor)
    }

    fn put(&mut self, octets: &[u8]) -> Result<(), BufferFull> {
        let end = self.used.checked_add(octets.len()).ok_or(BufferFull)?;
        self.buffer
            .get_mut(self.used..end)
            .ok_or(BufferFull)?
            .copy_from_slice(octets);
        self.used = end;
        Ok(())
    }

    /// A text and its NUL.
    fn text(&mut self, text: &[u8]) -> Result<(), BufferFull> {
        self.put(text)?;
        self.put(&[0])
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)] // A test may fail loudly.
mod tests {
    use super::*;
    use crate::wire::{DATAGRAM_OCTETS_MAX, Packet, Request};

    #[test]
    fn every_kind_reads_back_as_it_was_written() {
        let mut buffer = [0; 128];

        let mut writer =
            write_request(&mut buffer, Opcode::Wrq, b"a\xffb", Mode::Netascii).unwrap();
        writer.number(b"tsize", u64::MAX).unwrap();
        writer.text(b"BLKSIZE", b" 512").unwrap();
        let used = writer.len();
        let options = Options::new(b"tsize\x0018446744073709551615\0BLKSIZE\0 512\0");
        let request = Request {
            filename: b"a\xffb",
            mode: Mode::Netascii,
            options,
        };
        assert_eq!(Packet::parse(&buffer[..used]), Ok(Packet::Wrq(request)));

        let mut writer = write_oack(&mut buffer).unwrap();
        assert!(!writer.is_empty(), "an opcode at least");
        writer.options(options).unwrap();
        let used = writer.len();
        assert_eq!(Packet::parse(&buffer[..used]), Ok(Packet::Oack(options)));

        let used = write_error(&mut buffer, ErrorCode::EXISTS, b"no").unwrap();
        assert_eq!(&buffer[..used], b"\0\x05\0\x06no\0");
        let error = Packet::Error {
            code: ErrorCode::EXISTS,
            message: b"no",
        };
        assert_eq!(Packet::parse(&buffer[..used]), Ok(error));

        let block = WireBlock(0xfedc);
        assert_eq!(Packet::parse(&write_ack(block)), Ok(Packet::Ack { block }));
        assert_eq!(
            Packet::parse(&write_data_header(block)),
            Ok(Packet::Data {
                block,
                payload: b""
            })
        );
    }

    #[test]
    fn numbers_are_plain_decimals() {
        for value in [
            0,
            1,
            9,
            10,
            99,
            100,
            65_464,
            u64::from(u32::MAX),
            u64::MAX - 1,
            u64::MAX,
        ] {
            let mut digits = [0; DECIMAL_DIGITS_MAX];
            assert_eq!(decimal(value, &mut digits), value.to_string().as_bytes());
        }
    }

    /// Goal: a buffer that is too small, by any length, is an error of the function that finds it, and a
    /// pair that does not fit leaves the packet unchanged.
    #[test]
    fn every_shortage_of_room_is_told() {
        let whole = b"\0\x01name\0octet\0tsize\x0010\0";
        for room in 0..=whole.len() {
            let mut buffer = vec![0xee; room];
            let request_len = 2 + 5 + 6;
            match write_request(&mut buffer, Opcode::Rrq, b"name", Mode::Octet) {
                Err(BufferFull) => assert!(room < request_len),
                Ok(mut writer) => {
                    let fits = writer.number(b"tsize", 10).is_ok();
                    assert_eq!(fits, room == whole.len());
                    assert_eq!(writer.len(), if fits { whole.len() } else { request_len });
                }
            }
        }
        for room in 0..6 {
            assert_eq!(
                write_error(&mut vec![0; room], ErrorCode::UNDEFINED, b"x"),
                Err(BufferFull)
            );
        }
        assert!(write_oack(&mut [0]).is_err());
        let words = "the packet does not fit its buffer";
        assert_eq!(BufferFull.to_string(), words);
    }

    #[test]
    fn the_longest_name_fills_a_datagram() {
        let mut buffer = vec![0; DATAGRAM_OCTETS_MAX];
        let name = vec![b'n'; DATAGRAM_OCTETS_MAX - 2 - 1 - 6];
        let used = write_request(&mut buffer, Opcode::Rrq, &name, Mode::Octet)
            .unwrap()
            .len();
        assert_eq!(used, DATAGRAM_OCTETS_MAX);
        let Ok(Packet::Rrq(request)) = Packet::parse(&buffer) else {
            panic!("not an RRQ")
        };
        assert_eq!(request.filename, name);
    }
}
