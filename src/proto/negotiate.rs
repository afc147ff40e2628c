//! Options: what was asked, what is allowed, and the terms that follow (RFC 2347, 2348, 2349, 7440).
//!
//! A server calls [`answer`], a client [`ask`] and then [`accept`]. Nobody else can make [`Params`].

use std::fmt;

use super::block::Rollover;
use crate::time::Duration;
use crate::wire::{BufferFull, Mode, Options, OptionsWriter, Request, write_oack};

/// Block size without a word about it (RFC 1350 §2).
pub const BLKSIZE_DEFAULT: u16 = 512;
/// Smallest block size that may be asked for (RFC 2348).
pub const BLKSIZE_MIN: u16 = 8;
/// Largest block size that may be asked for (RFC 2348): what a datagram holds, less all headers.
pub const BLKSIZE_MAX: u16 = 65_464;
/// The `utimeout` values that tftp-hpa defines, in microseconds.
const UTIMEOUT_MICROS: std::ops::RangeInclusive<u64> = 10_000..=255_000_000;

/// The terms of a transfer, once agreed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Params {
    blksize: u16,
    windowsize: u16,
    rollover: Rollover,
    timeout: Option<Duration>,
}

impl Params {
    /// The terms of RFC 1350, which hold when nothing was agreed.
    pub const RFC1350: Self =
        Self { blksize: BLKSIZE_DEFAULT, windowsize: 1, rollover: Rollover::ToZero, timeout: None };

    /// Octets in every block but the last.
    #[must_use]
    pub const fn blksize(&self) -> u16 {
        self.blksize
    }

    /// Blocks that may be under way without an ACK.
    #[must_use]
    pub const fn windowsize(&self) -> u16 {
        self.windowsize
    }

    /// What follows block 65,535.
    #[must_use]
    pub const fn rollover(&self) -> Rollover {
        self.rollover
    }

    /// The retransmission time that the client set, if it did.
    #[must_use]
    pub const fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// Whether each block waits for the ACK of the one before.
    #[must_use]
    pub const fn is_lockstep(&self) -> bool {
        self.windowsize == 1
    }
}

/// What the operator allows a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest block size, in octets.
    pub blksize_max: u16,
    /// Most blocks under way.
    pub windowsize_max: u16,
}

/// What the transfer is about, as far as `tsize` is concerned (RFC 2349).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// A read of a body that is this many octets long on the wire.
    Read(u64),
    /// A write.
    Write,
}

/// The server's answer to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// The terms.
    pub params: Params,
    /// The length that a writer announced.
    pub announced: Option<u64>,
    /// Octets of the OACK in the buffer; 0 when there is nothing to acknowledge.
    pub oack: usize,
}

/// Answers the options of `request`, laying out the OACK in `buffer`.
///
/// Options come back in the order and spelling asked; what is unknown, repeated or junk is left out
/// (RFC 2347: "the server … simply omits it").
///
/// # Errors
/// [`BufferFull`] if the OACK does not fit, which a buffer as long as the request plus 64 octets precludes.
pub fn answer(request: &Request<'_>, limits: &Limits, asked: Asked, buffer: &mut [u8]) -> Result<Answer, BufferFull> {
    let mut params = Params::RFC1350;
    let mut announced = None;
    let mut seen = Seen::default();
    let mut oack = write_oack(buffer)?;
    let opcode_only = oack.len();
    for (name, value) in request.options.pairs() {
        let Some(option) = Name::of(name) else { continue };
        if !seen.first(option) {
            continue;
        }
        let Some(value) = decimal(value) else { continue };
        let agreed = match option {
            Name::Blksize => blksize(value, limits).inspect(|&size| params.blksize = size).map(u64::from),
            Name::Blksize2 => {
                blksize(value, limits).map(power_of_two).inspect(|&size| params.blksize = size).map(u64::from)
            }
            // RFC 7440 §3: 1 to 65,535; the server may answer with less.
            Name::Windowsize => value
                .exact()
                .and_then(|blocks| u16::try_from(blocks).ok())
                .filter(|&blocks| blocks > 0)
                .map(|blocks| blocks.min(limits.windowsize_max.max(1)))
                .inspect(|&blocks| params.windowsize = blocks)
                .map(u64::from),
            // RFC 2349: 1 to 255 seconds, to be echoed as it is or left out.
            Name::Timeout => value
                .exact()
                .filter(|seconds| (1..=255).contains(seconds))
                .inspect(|&seconds| params.timeout = Some(Duration::from_secs(seconds))),
            Name::Utimeout => value
                .exact()
                .filter(|micros| UTIMEOUT_MICROS.contains(micros))
                .inspect(|&micros| params.timeout = Some(Duration::from_micros(micros))),
            Name::Rollover => value.exact().filter(|&to| to <= 1).inspect(|&to| {
                params.rollover = if to == 1 { Rollover::ToOne } else { Rollover::ToZero };
            }),
            Name::Tsize => value.exact().and_then(|size| match asked {
                // curl gives up on `tsize=0` in an OACK, and nobody needs it.
                Asked::Read(len) => (len > 0).then_some(len),
                // Octets as counted on the wire say little about a text file's size on disk.
                Asked::Write if request.mode == Mode::Netascii => None,
                Asked::Write => {
                    announced = Some(size);
                    Some(size)
                }
            }),
        };
        if let Some(agreed) = agreed {
            oack.number(name, agreed)?;
        }
    }
    // An OACK with nothing in it makes four of seven common clients fail: none is sent then.
    let oack = if oack.len() == opcode_only { 0 } else { oack.len() };
    Ok(Answer { params, announced, oack })
}

/// What a client would like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wanted {
    /// Block size in octets.
    pub blksize: Option<u16>,
    /// Window size in blocks.
    pub windowsize: Option<u16>,
    /// Retransmission time in seconds.
    pub timeout: Option<u8>,
    /// The length: 0 to be told it (a read), the length itself (a write).
    pub tsize: Option<u64>,
}

/// Appends the wanted options to a request.
///
/// # Errors
/// [`BufferFull`] if they do not fit.
pub fn ask(wanted: &Wanted, request: &mut OptionsWriter<'_>) -> Result<(), BufferFull> {
    let pairs = [
        (&b"tsize"[..], wanted.tsize),
        (b"blksize", wanted.blksize.map(u64::from)),
        (b"timeout", wanted.timeout.map(u64::from)),
        (b"windowsize", wanted.windowsize.map(u64::from)),
    ];
    pairs.iter().try_for_each(|&(name, value)| value.map_or(Ok(()), |value| request.number(name, value)))
}

/// Why a server's OACK cannot be accepted: grounds for ERROR 8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadOack {
    /// It holds an option that was not asked for (RFC 2347: "must not").
    Unasked,
    /// It holds a value that is more than was asked for, or is none.
    BadValue,
}

impl fmt::Display for BadOack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unasked => "the server acknowledged an option that was not asked for",
            Self::BadValue => "the server acknowledged a value that was not offered",
        })
    }
}

/// What a client learns from an OACK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// The terms.
    pub params: Params,
    /// The length that the server announced.
    pub tsize: Option<u64>,
}

/// Holds a server's OACK against what was wanted.
///
/// # Errors
/// [`BadOack`] says what is wrong with it.
pub fn accept(oack: Options<'_>, wanted: &Wanted) -> Result<Accepted, BadOack> {
    let mut accepted = Accepted { params: Params::RFC1350, tsize: None };
    let mut seen = Seen::default();
    for (name, value) in oack.pairs() {
        let option = Name::of(name).ok_or(BadOack::Unasked)?;
        if !seen.first(option) {
            continue;
        }
        let value = decimal(value).and_then(Decimal::exact);
        let within = |least: u64, most: Option<u64>| -> Result<u64, BadOack> {
            let most = most.ok_or(BadOack::Unasked)?;
            value.filter(|value| (least..=most).contains(value)).ok_or(BadOack::BadValue)
        };
        match option {
            Name::Blksize => {
                let size = within(u64::from(BLKSIZE_MIN), wanted.blksize.map(u64::from))?;
                accepted.params.blksize = u16::try_from(size).map_err(|_| BadOack::BadValue)?;
            }
            Name::Windowsize => {
                let blocks = within(1, wanted.windowsize.map(u64::from))?;
                accepted.params.windowsize = u16::try_from(blocks).map_err(|_| BadOack::BadValue)?;
            }
            // RFC 2349: the server must echo the value asked for.
            Name::Timeout => {
                let seconds = wanted.timeout.map(u64::from).ok_or(BadOack::Unasked)?;
                let seconds = within(seconds, Some(seconds))?;
                accepted.params.timeout = Some(Duration::from_secs(seconds));
            }
            Name::Tsize => accepted.tsize = Some(within(0, wanted.tsize.map(|_| u64::MAX))?),
            Name::Blksize2 | Name::Utimeout | Name::Rollover => return Err(BadOack::Unasked),
        }
    }
    Ok(accepted)
}

/// The options that bootstorm knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    Blksize,
    Blksize2,
    Rollover,
    Timeout,
    Tsize,
    Utimeout,
    Windowsize,
}

impl Name {
    /// RFC 2347: names are "case-insensitive".
    fn of(name: &[u8]) -> Option<Self> {
        const NAMES: [(&[u8], Name); 7] = [
            (b"blksize", Name::Blksize),
            (b"blksize2", Name::Blksize2),
            (b"rollover", Name::Rollover),
            (b"timeout", Name::Timeout),
            (b"tsize", Name::Tsize),
            (b"utimeout", Name::Utimeout),
            (b"windowsize", Name::Windowsize),
        ];
        NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|&(_, option)| option)
    }
}

/// Which settings were spoken of already: the first word on each counts.
#[derive(Default)]
struct Seen(u8);

impl Seen {
    fn first(&mut self, option: Name) -> bool {
        // Two spellings of one setting are one setting.
        let bit = match option {
            Name::Blksize | Name::Blksize2 => 1,
            Name::Rollover => 2,
            Name::Timeout | Name::Utimeout => 4,
            Name::Tsize => 8,
            Name::Windowsize => 16,
        };
        let first = self.0 & bit == 0;
        self.0 |= bit;
        first
    }
}

/// A number as it stood in an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decimal {
    Exact(u64),
    /// All digits, but more than 64 bits hold.
    TooLarge,
}

impl Decimal {
    const fn exact(self) -> Option<u64> {
        match self {
            Self::Exact(value) => Some(value),
            Self::TooLarge => None,
        }
    }
}

/// A strict decimal: digits alone, blanks around them tolerated.
fn decimal(text: &[u8]) -> Option<Decimal> {
    let digits = text.trim_ascii();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = digits.iter().try_fold(0u64, |value, digit| {
        value.checked_mul(10)?.checked_add(u64::from(digit.wrapping_sub(b'0')))
    });
    Some(value.map_or(Decimal::TooLarge, Decimal::Exact))
}

/// RFC 2348: 8 to 65,464; a larger wish is cut to what is allowed, a smaller one left out.
fn blksize(value: Decimal, limits: &Limits) -> Option<u16> {
    let cap = limits.blksize_max.clamp(BLKSIZE_MIN, BLKSIZE_MAX);
    match value {
        Decimal::Exact(size) if size < u64::from(BLKSIZE_MIN) => None,
        Decimal::Exact(size) => Some(u16::try_from(size).map_or(cap, |size| size.min(cap))),
        Decimal::TooLarge => Some(cap),
    }
}

/// The largest power of two that is not more than `size`, as tftp-hpa's `blksize2` wants it.
const fn power_of_two(size: u16) -> u16 {
    1 << size.ilog2()
}
