//! Option negotiation: what was asked, what is allowed, and the resulting terms (RFC 2347, 2348, 2349, 7440).
//!
//! A server calls [`answer`], a client [`ask`] and then [`accept`]. No other code can create [`Params`].

use std::fmt;
use std::num::NonZeroU32;

use super::block::Rollover;
use crate::time::Duration;
use crate::wire::{BufferFull, Mode, Options, OptionsWriter, Request, write_oack};

/// Default block size (RFC 1350 §2).
pub const BLKSIZE_DEFAULT: u16 = 512;
/// Smallest block size that a client may ask for (RFC 2348).
pub const BLKSIZE_MIN: u16 = 8;
/// Largest block size that a client may ask for (RFC 2348): what a datagram holds, less all headers.
pub const BLKSIZE_MAX: u16 = 65_464;
/// Longest `timeout` that a client may ask for (RFC 2349).
pub const TIMEOUT_MAX: Duration = Duration::from_secs(255);
/// Largest window agreed on, where RFC 7440 allows 65,535: half of the block numbers. The other half
/// identifies old blocks. With a larger window, a duplicate of an old block would be taken for a new one, and
/// an old ACK for a new one, and the file would be corrupted silently.
pub const WINDOWSIZE_MAX: u16 = 32_767;
/// The `utimeout` values that tftp-hpa defines, in microseconds.
const UTIMEOUT_MICROS: std::ops::RangeInclusive<u64> = 10_000..=255_000_000;

/// The agreed terms of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Params {
    blksize: u16,
    windowsize: u16,
    rollover: Rollover,
    /// In microseconds, which take less space than a [`Duration`]: every transfer holds its terms.
    timeout_micros: Option<NonZeroU32>,
}

impl Params {
    /// The terms of RFC 1350, which apply if nothing was agreed.
    pub const RFC1350: Self = Self {
        blksize: BLKSIZE_DEFAULT,
        windowsize: 1,
        rollover: Rollover::ToZero,
        timeout_micros: None,
    };

    /// Octets in every block except the last.
    #[must_use]
    pub const fn blksize(&self) -> u16 {
        self.blksize
    }

    /// Blocks that may be in flight without an ACK.
    #[must_use]
    pub const fn windowsize(&self) -> u16 {
        self.windowsize
    }

    /// What follows block 65,535.
    #[must_use]
    pub const fn rollover(&self) -> Rollover {
        self.rollover
    }

    /// The retransmission timeout that the client set, if any.
    #[must_use]
    pub const fn timeout(&self) -> Option<Duration> {
        match self.timeout_micros {
            Some(micros) => Some(Duration::from_micros(micros.get() as u64)),
            None => None,
        }
    }

    /// Sets the retransmission timeout, which is at most [`TIMEOUT_MAX`].
    fn set_timeout(&mut self, timeout: Duration) {
        let micros = u32::try_from(timeout.as_micros()).unwrap_or(u32::MAX);
        self.timeout_micros = NonZeroU32::new(micros);
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
    /// Maximum block size, in octets.
    pub blksize_max: u16,
    /// Maximum window, in blocks.
    pub windowsize_max: u16,
    /// Longest retransmission timeout.
    pub timeout_max: Duration,
}

/// The kind of transfer, as far as `tsize` is concerned (RFC 2349).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// A read of a body with this length on the wire, in octets.
    Read(u64),
    /// A write.
    Write,
}

/// The server's answer to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// The terms.
    pub params: Params,
    /// The length that the writer announced.
    pub announced: Option<u64>,
    /// Octets of the OACK in the buffer; 0 if no OACK is sent.
    pub oack: usize,
}

/// Answers the options of `request`, and writes the OACK to `buffer`.
///
/// The OACK keeps the order and spelling of the request; unknown, repeated and invalid options are left out
/// (RFC 2347: "the server … simply omits it").
///
/// # Errors
/// [`BufferFull`] if the OACK does not fit; a buffer as long as the request plus 64 octets always suffices.
pub fn answer(
    request: &Request<'_>,
    limits: &Limits,
    asked: Asked,
    buffer: &mut [u8],
) -> Result<Answer, BufferFull> {
    let mut params = Params::RFC1350;
    let mut announced = None;
    let mut seen = Seen::default();
    let mut oack = write_oack(buffer)?;
    let opcode_only = oack.len();
    for (name, value) in request.options.pairs() {
        let Some(option) = Name::of(name) else {
            continue;
        };
        if !seen.first(option) || seen.is_settled(option) {
            continue;
        }
        let Some(value) = decimal(value) else {
            continue;
        };
        let agreed = match option {
            Name::Blksize => blksize(value, limits)
                .inspect(|&size| params.blksize = size)
                .map(u64::from),
            Name::Blksize2 => blksize(value, limits)
                .map(power_of_two)
                .inspect(|&size| params.blksize = size)
                .map(u64::from),
            // RFC 7440 §3: 1 to 65,535; the server may answer with a smaller value.
            Name::Windowsize => value
                .exact()
                .and_then(|blocks| u16::try_from(blocks).ok())
                .filter(|&blocks| blocks > 0)
                .map(|blocks| blocks.min(limits.windowsize_max.clamp(1, WINDOWSIZE_MAX)))
                .inspect(|&blocks| params.windowsize = blocks)
                .map(u64::from),
            // RFC 2349: 1 to 255 seconds; the server must echo the value or omit the option.
            Name::Timeout => value
                .exact()
                .filter(|seconds| (1..=TIMEOUT_MAX.as_secs()).contains(seconds))
                .filter(|&seconds| Duration::from_secs(seconds) <= limits.timeout_max)
                .inspect(|&seconds| params.set_timeout(Duration::from_secs(seconds))),
            Name::Utimeout => value
                .exact()
                .filter(|micros| UTIMEOUT_MICROS.contains(micros))
                .filter(|&micros| Duration::from_micros(micros) <= limits.timeout_max)
                .inspect(|&micros| params.set_timeout(Duration::from_micros(micros))),
            Name::Rollover => value.exact().filter(|&to| to <= 1).inspect(|&to| {
                params.rollover = if to == 1 {
                    Rollover::ToOne
                } else {
                    Rollover::ToZero
                };
            }),
            Name::Tsize => value.exact().and_then(|size| match asked {
                // curl gives up on `tsize=0` in an OACK, and no client needs it.
                Asked::Read(len) => (len > 0).then_some(len),
                // The number of octets on the wire says little about a text file's size on disk.
                Asked::Write if request.mode == Mode::Netascii => None,
                Asked::Write => {
                    announced = Some(size);
                    Some(size)
                }
            }),
        };
        if let Some(agreed) = agreed {
            seen.settle(option);
            oack.number(name, agreed)?;
        }
    }
    // An empty OACK makes four of seven common clients fail, so none is sent then.
    let oack = if oack.len() == opcode_only {
        0
    } else {
        oack.len()
    };
    Ok(Answer {
        params,
        announced,
        oack,
    })
}

/// What a client would like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wanted {
    /// Block size in octets.
    pub blksize: Option<u16>,
    /// Window size in blocks; a value above [`WINDOWSIZE_MAX`] is reduced to it.
    pub windowsize: Option<u16>,
    /// Retransmission timeout in seconds.
    pub timeout: Option<u8>,
    /// The length: 0 to ask for it (a read), the length itself (a write).
    pub tsize: Option<u64>,
}

impl Wanted {
    /// The window size to ask for: no more than the protocol can tell apart.
    fn asked_windowsize(&self) -> Option<u64> {
        self.windowsize
            .map(|blocks| blocks.min(WINDOWSIZE_MAX).into())
    }
}

/// An option that a client may want.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// [`Wanted::tsize`]
    Tsize,
    /// [`Wanted::blksize`]
    Blksize,
    /// [`Wanted::timeout`]
    Timeout,
    /// [`Wanted::windowsize`]
    Windowsize,
}

/// The order in which bootstorm's own client asks.
pub const ORDER_DEFAULT: [Wish; 4] = [Wish::Tsize, Wish::Blksize, Wish::Timeout, Wish::Windowsize];

/// Appends the wanted options to a request, in this order.
///
/// # Errors
/// [`BufferFull`] if they do not fit.
pub fn ask(
    wanted: &Wanted,
    order: [Wish; 4],
    request: &mut OptionsWriter<'_>,
) -> Result<(), BufferFull> {
    order.iter().try_for_each(|wish| {
        let (name, value) = match wish {
            Wish::Tsize => (&b"tsize"[..], wanted.tsize),
            Wish::Blksize => (&b"blksize"[..], wanted.blksize.map(u64::from)),
            Wish::Timeout => (&b"timeout"[..], wanted.timeout.map(u64::from)),
            Wish::Windowsize => (&b"windowsize"[..], wanted.asked_windowsize()),
        };
        value.map_or(Ok(()), |value| request.number(name, value))
    })
}

/// Why a server's OACK cannot be accepted: reasons for ERROR 8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadOack {
    /// It contains an option that was not asked for (RFC 2347: "must not").
    Unasked,
    /// It contains a value that is larger than asked for, or invalid.
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

impl std::error::Error for BadOack {}

/// What a client learns from an OACK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// The terms.
    pub params: Params,
    /// The length that the server announced.
    pub tsize: Option<u64>,
}

/// Checks a server's OACK against what was wanted.
///
/// # Errors
/// [`BadOack`] says what is wrong with it.
pub fn accept(oack: Options<'_>, wanted: &Wanted) -> Result<Accepted, BadOack> {
    let mut accepted = Accepted {
        params: Params::RFC1350,
        tsize: None,
    };
    let mut seen = Seen::default();
    for (name, value) in oack.pairs() {
        let option = Name::of(name).ok_or(BadOack::Unasked)?;
        if !seen.first(option) {
            continue;
        }
        let value = decimal(value).and_then(Decimal::exact);
        let within = |least: u64, most: Option<u64>| -> Result<u64, BadOack> {
            let most = most.ok_or(BadOack::Unasked)?;
            value
                .filter(|value| (least..=most).contains(value))
                .ok_or(BadOack::BadValue)
        };
        match option {
            Name::Blksize => {
                let size = within(u64::from(BLKSIZE_MIN), wanted.blksize.map(u64::from))?;
                accepted.params.blksize = u16::try_from(size).map_err(|_| BadOack::BadValue)?;
            }
            Name::Windowsize => {
                let blocks = within(1, wanted.asked_windowsize())?;
                accepted.params.windowsize =
                    u16::try_from(blocks).map_err(|_| BadOack::BadValue)?;
            }
            // RFC 2349: the server must echo the value asked for.
            Name::Timeout => {
                let seconds = wanted.timeout.map(u64::from).ok_or(BadOack::Unasked)?;
                let seconds = within(seconds, Some(seconds))?;
                accepted.params.set_timeout(Duration::from_secs(seconds));
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
        NAMES
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|&(_, option)| option)
    }
}

/// Which options have been handled: only the first of each counts. Two options can set the same parameter;
/// then the first valid one counts.
#[derive(Default)]
struct Seen {
    options: u8,
    settings: u8,
}

impl Seen {
    fn first(&mut self, option: Name) -> bool {
        let bit = 1 << option as u8;
        let first = self.options & bit == 0;
        self.options |= bit;
        first
    }

    const fn is_settled(&self, option: Name) -> bool {
        self.settings & Self::setting(option) != 0
    }

    const fn settle(&mut self, option: Name) {
        self.settings |= Self::setting(option);
    }

    const fn setting(option: Name) -> u8 {
        match option {
            Name::Blksize | Name::Blksize2 => 1,
            Name::Rollover => 2,
            Name::Timeout | Name::Utimeout => 4,
            Name::Tsize => 8,
            Name::Windowsize => 16,
        }
    }
}

/// A number in an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decimal {
    Exact(u64),
    /// All digits, but too large for 64 bits.
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

/// A strict decimal: only digits, with blanks around them tolerated.
fn decimal(text: &[u8]) -> Option<Decimal> {
    let digits = text.trim_ascii();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = digits.iter().try_fold(0u64, |value, digit| {
        value
            .checked_mul(10)?
            .checked_add(u64::from(digit.wrapping_sub(b'0')))
    });
    Some(value.map_or(Decimal::TooLarge, Decimal::Exact))
}

/// RFC 2348: 8 to 65,464; a larger value is reduced to the limit, a smaller one is left out.
fn blksize(value: Decimal, limits: &Limits) -> Option<u16> {
    let cap = limits.blksize_max.clamp(BLKSIZE_MIN, BLKSIZE_MAX);
    match value {
        Decimal::Exact(size) if size < u64::from(BLKSIZE_MIN) => None,
        Decimal::Exact(size) => Some(u16::try_from(size).map_or(cap, |size| size.min(cap))),
        Decimal::TooLarge => Some(cap),
    }
}

/// The largest power of two up to `size`, as tftp-hpa's `blksize2` requires.
const fn power_of_two(size: u16) -> u16 {
    1 << size.ilog2()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Packet, write_request};

    const LIMITS: Limits = Limits {
        blksize_max: BLKSIZE_MAX,
        windowsize_max: 64,
        timeout_max: TIMEOUT_MAX,
    };
    const LEN: u64 = 1_000_000;

    /// Answers an RRQ or WRQ with the options `text`, written `name=value name=value`, with `_` for a blank
    /// in a value; shows the OACK and the terms.
    fn answered(text: &str, limits: &Limits, mode: Mode, asked: Asked) -> String {
        let octets = laid_out(text);
        let request = Request {
            filename: b"name",
            mode,
            options: Options::new(&octets),
        };
        let mut buffer = vec![0; octets.len() + 64];
        let answer = answer(&request, limits, asked, &mut buffer).expect("room enough");
        let mut shown = if answer.oack == 0 {
            "no OACK".to_owned()
        } else {
            Packet::parse(&buffer[..answer.oack])
                .expect("an OACK")
                .to_string()
        };
        if answer.params.blksize() != BLKSIZE_DEFAULT {
            shown += &format!(", blocks of {}", answer.params.blksize());
        }
        if !answer.params.is_lockstep() {
            shown += &format!(", windows of {}", answer.params.windowsize());
        }
        if let Some(timeout) = answer.params.timeout() {
            shown += &format!(", timeout {timeout:?}");
        }
        if answer.params.rollover() != Rollover::ToZero {
            shown += ", wraps to 1";
        }
        if let Some(len) = answer.announced {
            shown += &format!(", announced {len}");
        }
        shown
    }

    fn laid_out(text: &str) -> Vec<u8> {
        text.split_ascii_whitespace()
            .map(|pair| pair.replacen('=', "\0", 1).replace('_', " ") + "\0")
            .collect::<String>()
            .into_bytes()
    }

    fn read(text: &str) -> String {
        answered(text, &LIMITS, Mode::Octet, Asked::Read(LEN))
    }

    fn write(text: &str) -> String {
        answered(text, &LIMITS, Mode::Octet, Asked::Write)
    }

    /// One line per option value: what was asked, then the answer.
    fn table(name: &str, values: &[&str]) -> String {
        values
            .iter()
            .map(|value| format!("{name}={value}: {}\n", read(&format!("{name}={value}"))))
            .collect()
    }

    /// Values that are not decimal, or that no option accepts.
    const JUNK: &[&str] = &[
        "",
        "-1",
        "+5",
        "0x200",
        "abc",
        "5.0",
        "1e3",
        "5_5",
        "\u{665}",
        "99999999999999999999",
    ];

    #[test]
    fn junk_is_left_out() {
        for name in ["windowsize", "timeout", "utimeout", "rollover", "tsize"] {
            for value in JUNK {
                assert_eq!(
                    read(&format!("{name}={value}")),
                    "no OACK",
                    "{name}={value}"
                );
            }
        }
        for name in ["blksize", "blksize2"] {
            for value in JUNK.iter().filter(|value| value.len() < 20) {
                assert_eq!(
                    read(&format!("{name}={value}")),
                    "no OACK",
                    "{name}={value}"
                );
            }
        }
    }

    #[test]
    fn blksize() {
        let thirty_digits = "9".repeat(30);
        insta::assert_snapshot!(table("blksize", &["0", "7", "8", "512", "1428", "65464", "65465", "65535", "65536", "2147483648", "4294967296", "9223372036854775808", "18446744073709551616", &thirty_digits, "_512", "512_", "_", "00512"]), @"
        blksize=0: no OACK
        blksize=7: no OACK
        blksize=8: OACK blksize=8, blocks of 8
        blksize=512: OACK blksize=512
        blksize=1428: OACK blksize=1428, blocks of 1428
        blksize=65464: OACK blksize=65464, blocks of 65464
        blksize=65465: OACK blksize=65464, blocks of 65464
        blksize=65535: OACK blksize=65464, blocks of 65464
        blksize=65536: OACK blksize=65464, blocks of 65464
        blksize=2147483648: OACK blksize=65464, blocks of 65464
        blksize=4294967296: OACK blksize=65464, blocks of 65464
        blksize=9223372036854775808: OACK blksize=65464, blocks of 65464
        blksize=18446744073709551616: OACK blksize=65464, blocks of 65464
        blksize=999999999999999999999999999999: OACK blksize=65464, blocks of 65464
        blksize=_512: OACK blksize=512
        blksize=512_: OACK blksize=512
        blksize=_: no OACK
        blksize=00512: OACK blksize=512
        ");
    }

    #[test]
    fn blksize_is_cut_to_the_limit() {
        let limits = Limits {
            blksize_max: 1468,
            ..LIMITS
        };
        let read = |text| answered(text, &limits, Mode::Octet, Asked::Read(LEN));
        insta::assert_snapshot!(read("blksize=65464"), @"OACK blksize=1468, blocks of 1468");
        insta::assert_snapshot!(read("blksize=1468"), @"OACK blksize=1468, blocks of 1468");
        insta::assert_snapshot!(read("blksize=1467"), @"OACK blksize=1467, blocks of 1467");
        insta::assert_snapshot!(read("blksize2=65464"), @"OACK blksize2=1024, blocks of 1024");
        // A limit that is invalid still results in a legal block size.
        for (blksize_max, expected) in [
            (0, "OACK blksize=8, blocks of 8"),
            (u16::MAX, "OACK blksize=65464, blocks of 65464"),
        ] {
            let limits = Limits {
                blksize_max,
                ..LIMITS
            };
            assert_eq!(
                answered("blksize=65465", &limits, Mode::Octet, Asked::Read(LEN)),
                expected
            );
        }
    }

    #[test]
    fn blksize2_is_a_power_of_two() {
        insta::assert_snapshot!(table("blksize2", &["7", "8", "15", "16", "1428", "65464", "65535"]), @"
        blksize2=7: no OACK
        blksize2=8: OACK blksize2=8, blocks of 8
        blksize2=15: OACK blksize2=8, blocks of 8
        blksize2=16: OACK blksize2=16, blocks of 16
        blksize2=1428: OACK blksize2=1024, blocks of 1024
        blksize2=65464: OACK blksize2=32768, blocks of 32768
        blksize2=65535: OACK blksize2=32768, blocks of 32768
        ");
    }

    #[test]
    fn windowsize() {
        insta::assert_snapshot!(table("windowsize", &["0", "1", "4", "64", "65", "65535", "65536", "_8"]), @"
        windowsize=0: no OACK
        windowsize=1: OACK windowsize=1
        windowsize=4: OACK windowsize=4, windows of 4
        windowsize=64: OACK windowsize=64, windows of 64
        windowsize=65: OACK windowsize=64, windows of 64
        windowsize=65535: OACK windowsize=64, windows of 64
        windowsize=65536: no OACK
        windowsize=_8: OACK windowsize=8, windows of 8
        ");
        let none = Limits {
            windowsize_max: 0,
            ..LIMITS
        };
        assert_eq!(
            answered("windowsize=8", &none, Mode::Octet, Asked::Read(LEN)),
            "OACK windowsize=1"
        );
        let all = Limits {
            windowsize_max: u16::MAX,
            ..LIMITS
        };
        let read = |text| answered(text, &all, Mode::Octet, Asked::Read(LEN));
        insta::assert_snapshot!(read("windowsize=32767"), @"OACK windowsize=32767, windows of 32767");
        insta::assert_snapshot!(read("windowsize=32768"), @"OACK windowsize=32767, windows of 32767");
        insta::assert_snapshot!(read("windowsize=65535"), @"OACK windowsize=32767, windows of 32767");
    }

    #[test]
    fn a_timeout_too_long_is_left_out() {
        let limits = Limits {
            timeout_max: Duration::from_millis(2_500),
            ..LIMITS
        };
        let read = |text| answered(text, &limits, Mode::Octet, Asked::Read(LEN));
        insta::assert_snapshot!(read("timeout=2"), @"OACK timeout=2, timeout 2s");
        insta::assert_snapshot!(read("timeout=3"), @"no OACK");
        insta::assert_snapshot!(read("utimeout=2500000"), @"OACK utimeout=2500000, timeout 2.5s");
        insta::assert_snapshot!(read("utimeout=2500001"), @"no OACK");
        insta::assert_snapshot!(read("timeout=3 utimeout=2500000"), @"OACK utimeout=2500000, timeout 2.5s");
    }

    #[test]
    fn timeout() {
        insta::assert_snapshot!(table("timeout", &["0", "1", "255", "256"]), @"
        timeout=0: no OACK
        timeout=1: OACK timeout=1, timeout 1s
        timeout=255: OACK timeout=255, timeout 255s
        timeout=256: no OACK
        ");
        insta::assert_snapshot!(table("utimeout", &["0", "9999", "10000", "255000000", "255000001"]), @"
        utimeout=0: no OACK
        utimeout=9999: no OACK
        utimeout=10000: OACK utimeout=10000, timeout 10ms
        utimeout=255000000: OACK utimeout=255000000, timeout 255s
        utimeout=255000001: no OACK
        ");
    }

    #[test]
    fn rollover() {
        insta::assert_snapshot!(table("rollover", &["0", "1", "2"]), @"
        rollover=0: OACK rollover=0
        rollover=1: OACK rollover=1, wraps to 1
        rollover=2: no OACK
        ");
    }

    #[test]
    fn tsize_of_a_read_is_the_length_on_the_wire() {
        insta::assert_snapshot!(table("tsize", &["0", "512", "_0"]), @"
        tsize=0: OACK tsize=1000000
        tsize=512: OACK tsize=1000000
        tsize=_0: OACK tsize=1000000
        ");
        let read = |mode, len| answered("tsize=0", &LIMITS, mode, Asked::Read(len));
        assert_eq!(read(Mode::Octet, 5 << 30), "OACK tsize=5368709120");
        assert_eq!(
            read(Mode::Octet, u64::MAX),
            "OACK tsize=18446744073709551615"
        );
        assert_eq!(read(Mode::Netascii, 77), "OACK tsize=77");
        assert_eq!(read(Mode::Octet, 0), "no OACK", "curl gives up on tsize=0");
        let both = answered("tsize=0 blksize=1024", &LIMITS, Mode::Octet, Asked::Read(0));
        assert_eq!(
            both, "OACK blksize=1024, blocks of 1024",
            "an empty file's other options stand"
        );
    }

    #[test]
    fn tsize_of_a_write_is_the_length_announced() {
        assert_eq!(write("tsize=0"), "OACK tsize=0, announced 0");
        assert_eq!(
            write("tsize=1000000000000000"),
            "OACK tsize=1000000000000000, announced 1000000000000000"
        );
        assert_eq!(write("tsize=-1"), "no OACK");
        let netascii = answered("tsize=9 blksize=600", &LIMITS, Mode::Netascii, Asked::Write);
        assert_eq!(netascii, "OACK blksize=600, blocks of 600");
    }

    #[test]
    fn options_come_back_in_the_order_and_spelling_asked() {
        insta::assert_snapshot!(read("windowsize=8 TSIZE=0 Timeout=2 BLKSIZE=1024"), @"OACK windowsize=8 TSIZE=1000000 Timeout=2 BLKSIZE=1024, blocks of 1024, windows of 8, timeout 2s");
        insta::assert_snapshot!(read("blksize=1024 Rollover=1 uTimeOut=500000 tsize=0 windowsize=16"), @"OACK blksize=1024 Rollover=1 uTimeOut=500000 tsize=1000000 windowsize=16, blocks of 1024, windows of 16, timeout 500ms, wraps to 1");
    }

    #[test]
    fn the_first_of_a_repeated_option_wins() {
        insta::assert_snapshot!(read("blksize=1024 BLKSIZE=2048 windowsize=4 windowsize=8"), @"OACK blksize=1024 windowsize=4, blocks of 1024, windows of 4");
        insta::assert_snapshot!(read("blksize2=2000 blksize=1428 timeout=3 utimeout=20000"), @"OACK blksize2=1024 timeout=3, blocks of 1024, timeout 3s");
        insta::assert_snapshot!(read("windowsize=junk windowsize=8"), @"no OACK");
        insta::assert_snapshot!(read("tsize=0 tsize=0"), @"OACK tsize=1000000");
    }

    #[test]
    fn what_is_unknown_is_passed_over_and_never_acknowledged() {
        assert_eq!(read(""), "no OACK");
        assert_eq!(read("multicast= x-secret=1"), "no OACK");
        insta::assert_snapshot!(read("multicast= blksize=1024 blksize3=9 x=%n%s"), @"OACK blksize=1024, blocks of 1024");
        let hundreds = "x=1 ".repeat(200) + "blksize=1024";
        assert_eq!(read(&hundreds), "OACK blksize=1024, blocks of 1024");
    }

    /// Goal: the buffer that [`answer`] asks for suffices for the longest possible OACK, and a smaller one is
    /// reported.
    #[test]
    fn the_longest_oack_fits_and_less_room_is_told() {
        let octets =
            laid_out("blksize2=65464 rollover=1 utimeout=255000000 tsize=0 windowsize=65535");
        let request = Request {
            filename: b"n",
            mode: Mode::Octet,
            options: Options::new(&octets),
        };
        let limits = Limits {
            windowsize_max: u16::MAX,
            ..LIMITS
        };
        let mut buffer = vec![0; 2 + 9 + 2 + 1 + octets.len() + 64];
        let whole = answer(&request, &limits, Asked::Read(u64::MAX), &mut buffer)
            .expect("room enough")
            .oack;
        for room in 0..whole {
            let told = answer(
                &request,
                &limits,
                Asked::Read(u64::MAX),
                &mut buffer[..room],
            );
            assert_eq!(told, Err(BufferFull), "{room} of {whole}");
        }
    }

    const WANTED: Wanted = Wanted {
        blksize: Some(1428),
        windowsize: Some(16),
        timeout: Some(3),
        tsize: Some(0),
    };

    fn accepted(text: &str, wanted: &Wanted) -> Result<Accepted, BadOack> {
        accept(Options::new(&laid_out(text)), wanted)
    }

    #[test]
    fn a_client_asks_for_what_is_wanted_alone() {
        let asked = |wanted: Wanted| {
            let mut buffer = [0; 128];
            let mut request =
                write_request(&mut buffer, crate::wire::Opcode::Rrq, b"n", Mode::Octet)
                    .expect("room");
            ask(&wanted, ORDER_DEFAULT, &mut request).expect("room");
            let used = request.len();
            Packet::parse(&buffer[..used]).expect("an RRQ").to_string()
        };
        insta::assert_snapshot!(asked(WANTED), @r#"RRQ "n" octet tsize=0 blksize=1428 timeout=3 windowsize=16"#);
        insta::assert_snapshot!(asked(Wanted::default()), @r#"RRQ "n" octet"#);
        insta::assert_snapshot!(asked(Wanted { windowsize: Some(u16::MAX), ..Wanted::default() }), @r#"RRQ "n" octet windowsize=32767"#);
        insta::assert_snapshot!(asked(Wanted { tsize: Some(u64::MAX), ..Wanted::default() }), @r#"RRQ "n" octet tsize=18446744073709551615"#);
    }

    #[test]
    fn a_client_takes_what_it_asked_for_or_less() {
        let Accepted { params, tsize } =
            accepted("TSIZE=77 blksize=1000 timeout=3 windowsize=1", &WANTED)
                .expect("within what was asked");
        assert_eq!(
            (params.blksize(), params.windowsize(), tsize),
            (1000, 1, Some(77))
        );
        assert_eq!(params.timeout(), Some(Duration::from_secs(3)));
        assert_eq!(params.rollover(), Rollover::ToZero);
        let nothing = accepted("", &WANTED).expect("an empty OACK agrees to nothing");
        assert_eq!(
            nothing,
            Accepted {
                params: Params::RFC1350,
                tsize: None
            }
        );
        let repeated = accepted("blksize=8 blksize=1428", &WANTED).expect("the first one counts");
        assert_eq!(repeated.params.blksize(), 8);
    }

    #[test]
    fn a_client_refuses_more_than_it_asked_for() {
        for text in [
            "blksize=1429",
            "blksize=7",
            "blksize=65464",
            "blksize=",
            "blksize=-1",
            "blksize=0x200",
            "windowsize=17",
            "windowsize=0",
            "windowsize=65536",
            "timeout=2",
            "timeout=4",
            "timeout=junk",
            "tsize=-1",
            "tsize=18446744073709551616",
        ] {
            assert_eq!(accepted(text, &WANTED), Err(BadOack::BadValue), "{text}");
        }
        let widest = Wanted {
            windowsize: Some(u16::MAX),
            ..WANTED
        };
        assert!(accepted("windowsize=32767", &widest).is_ok());
        assert_eq!(
            accepted("windowsize=32768", &widest),
            Err(BadOack::BadValue)
        );
        for text in [
            "multicast=",
            "blksize2=512",
            "utimeout=10000",
            "rollover=0",
            "x=1",
            "tsize=1 x=1",
        ] {
            assert_eq!(accepted(text, &WANTED), Err(BadOack::Unasked), "{text}");
        }
        for text in ["blksize=512", "windowsize=1", "timeout=3", "tsize=0"] {
            assert_eq!(
                accepted(text, &Wanted::default()),
                Err(BadOack::Unasked),
                "{text}"
            );
        }
    }

    /// Goal: the client's user is told which rule the server broke.
    #[test]
    fn a_bad_oack_is_told_in_words() {
        let told = |text| accepted(text, &WANTED).unwrap_err().to_string();
        assert!(told("x=1").contains("not asked for"));
        assert!(told("tsize=-1").contains("not offered"));
    }
}
