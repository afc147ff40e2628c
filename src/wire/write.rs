//! Writing: packets laid out in a buffer that the caller owns; each function says how many octets it used.

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

/// A whole ACK.
#[must_use]
pub const fn write_ack(block: WireBlock) -> [u8; HEADER_OCTETS] {
    let [high, low] = block.0.to_be_bytes();
    [0, 4, high, low]
}

/// An ERROR with its text; returns its length.
///
/// # Errors
/// [`BufferFull`] if `buffer` cannot hold it.
pub fn write_error(buffer: &mut [u8], code: ErrorCode, message: &[u8]) -> Result<usize, BufferFull> {
    let mut cursor = Cursor::new(buffer, Opcode::Error)?;
    cursor.put(&code.0.to_be_bytes())?;
    cursor.text(message)?;
    Ok(cursor.used)
}

/// An RRQ or a WRQ; options follow through the writer that is returned.
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

/// An OACK; options follow through the writer that is returned.
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

    /// Appends `name` with `value` as it is.
    ///
    /// # Errors
    /// [`BufferFull`] if the pair does not fit.
    pub fn text(&mut self, name: &[u8], value: &[u8]) -> Result<(), BufferFull> {
        self.0.text(name)?;
        self.0.text(value)
    }

    /// Appends options that are laid out already.
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

    /// Never true: a packet has an opcode at least.
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
    digits.get(DECIMAL_DIGITS_MAX.saturating_sub(used)..).unwrap_or(&[])
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
        self.buffer.get_mut(self.used..end).ok_or(BufferFull)?.copy_from_slice(octets);
        self.used = end;
        Ok(())
    }

    /// A text and its NUL.
    fn text(&mut self, text: &[u8]) -> Result<(), BufferFull> {
        self.put(text)?;
        self.put(&[0])
    }
}
