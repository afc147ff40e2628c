//! Bodies of the fuzz targets: each accepts arbitrary octets and panics when a promise is broken.
//!
//! They are here and not in `fuzz/`, so that `tests/corpus.rs` can replay every seed under plain `cargo
//! test`. A new target is a function here, a line in [`TARGETS`], a one-line file in `fuzz/fuzz_targets/` and
//! a folder of seeds.

mod command_line;
mod path;
mod shard;
mod transfers;

use crate::proto::negotiate::{
    self, Asked, BLKSIZE_MAX, BLKSIZE_MIN, Limits, WINDOWSIZE_MAX, Wanted,
};
use crate::wire::{
    self, BufferFull, ErrorCode, Mode, Opcode, Options, OptionsWriter, Packet, Request, WireBlock,
};

pub use command_line::cli;
pub use path::path;
pub use shard::shard;
pub use transfers::{conversation, netascii, receiver_ops, sender_ops};

/// A fuzz target: its name and its body.
pub type Target = (&'static str, fn(&[u8]));

/// Every target except [`canary`].
pub const TARGETS: &[Target] = &[
    ("cli", cli),
    ("conversation", conversation),
    ("netascii", netascii),
    ("options_differential", options_differential),
    ("packet", packet),
    ("path", path),
    ("receiver_ops", receiver_ops),
    ("round_trip", round_trip),
    ("sender_ops", sender_ops),
    ("shard", shard),
];

/// Any datagram is parsed as a packet or rejected. A packet is displayed without harmful characters, and
/// reads the same after it is written out again.
pub fn packet(octets: &[u8]) {
    match Packet::parse(octets) {
        Err(error) => assert_harmless(&error.to_string()),
        Ok(packet) => {
            assert_harmless(&packet.to_string());
            assert_reads_back(packet);
        }
    }
}

/// Any packet that can be built reads back as it was written.
pub fn round_trip(octets: &[u8]) {
    let mut input = Input(octets);
    let kind = input.octet();
    let number = u16::from_be_bytes([input.octet(), input.octet()]);
    let mode = if input.octet() & 1 == 0 {
        Mode::Octet
    } else {
        Mode::Netascii
    };
    let text = input.text();
    match kind % 6 {
        0 | 1 if text.is_empty() => {}
        0 => assert_reads_back(Packet::Rrq(Request {
            filename: text,
            mode,
            options: input.options(),
        })),
        1 => assert_reads_back(Packet::Wrq(Request {
            filename: text,
            mode,
            options: input.options(),
        })),
        2 => assert_reads_back(Packet::Data {
            block: WireBlock(number),
            payload: input.0,
        }),
        3 => assert_reads_back(Packet::Ack {
            block: WireBlock(number),
        }),
        4 => assert_reads_back(Packet::Error {
            code: ErrorCode(number),
            message: text,
        }),
        _ => assert_reads_back(Packet::Oack(input.options())),
    }
}

/// A naive parser reads the same options; a server's answer and a client's acceptance keep their bounds.
///
/// The first seven octets set the limits, the kind of request and its mode; the rest are the options.
pub fn options_differential(octets: &[u8]) {
    let mut input = Input(octets);
    let (blksize_max, windowsize_max) = (input.number(), input.number());
    let flags = input.octet();
    let limits = Limits {
        blksize_max,
        windowsize_max,
        timeout_max: negotiate::TIMEOUT_MAX / (1 + u32::from(flags >> 2)),
    };
    let len = u64::from(input.number()) * u64::from(u32::MAX);
    let options = input.options();

    let naive = naive_pairs(options.octets());
    assert!(
        options.pairs().eq(naive.iter().copied()),
        "{options:?} is {naive:?} to a naive reader"
    );

    let mode = if flags & 1 == 0 {
        Mode::Octet
    } else {
        Mode::Netascii
    };
    let asked = if flags & 2 == 0 {
        Asked::Read(len)
    } else {
        Asked::Write
    };
    assert_answer_keeps_its_bounds(
        &Request {
            filename: b"name",
            mode,
            options,
        },
        &limits,
        asked,
    );
    assert_consent_keeps_its_bounds(options, &limits);
}

/// Fails on the planted input, which proves that a failure is reported.
///
/// # Panics
/// When `octets` begin with `tweet`.
pub fn canary(octets: &[u8]) {
    assert!(!octets.starts_with(b"tweet"), "the canary sings");
}

/// Checks that `shown` contains nothing that a terminal or a log would interpret.
fn assert_harmless(shown: &str) {
    assert!(
        !shown.chars().any(char::is_control),
        "a control character in {shown:?}"
    );
}

fn assert_reads_back(packet: Packet<'_>) {
    let written = written(packet).expect("the buffer is made long enough");
    assert_eq!(Packet::parse(&written), Ok(packet));
    // A buffer one octet shorter is too short and must be reported: nothing is written past its end.
    if let Packet::Rrq(request) | Packet::Wrq(request) = packet {
        let mut short = vec![0; written.len() - 1];
        assert_eq!(
            write_request(&mut short, Opcode::Rrq, request),
            Err(BufferFull)
        );
    }
}

fn written(packet: Packet<'_>) -> Result<Vec<u8>, BufferFull> {
    let variable = match packet {
        Packet::Rrq(request) | Packet::Wrq(request) => {
            request.filename.len() + request.options.octets().len()
        }
        Packet::Error { message, .. } => message.len(),
        Packet::Oack(options) => options.octets().len(),
        Packet::Data { .. } | Packet::Ack { .. } => 0,
    };
    // Opcode, mode and NULs take less than 16 octets.
    let mut buffer = vec![0; variable + 16];
    let used = match packet {
        Packet::Rrq(request) => write_request(&mut buffer, Opcode::Rrq, request)?,
        Packet::Wrq(request) => write_request(&mut buffer, Opcode::Wrq, request)?,
        Packet::Data { block, payload } => {
            return Ok([&wire::write_data_header(block)[..], payload].concat());
        }
        Packet::Ack { block } => return Ok(wire::write_ack(block).to_vec()),
        Packet::Error { code, message } => wire::write_error(&mut buffer, code, message)?,
        Packet::Oack(options) => with_options(wire::write_oack(&mut buffer)?, options)?,
    };
    buffer.truncate(used);
    Ok(buffer)
}

fn write_request(
    buffer: &mut [u8],
    opcode: Opcode,
    request: Request<'_>,
) -> Result<usize, BufferFull> {
    with_options(
        wire::write_request(buffer, opcode, request.filename, request.mode)?,
        request.options,
    )
}

fn with_options(mut writer: OptionsWriter<'_>, options: Options<'_>) -> Result<usize, BufferFull> {
    writer.options(options)?;
    Ok(writer.len())
}

/// Options as a parser without borrowing would read them.
fn naive_pairs(octets: &[u8]) -> Vec<(&[u8], &[u8])> {
    let mut texts: Vec<_> = octets.split(|&octet| octet == 0).collect();
    texts.pop(); // What follows the last NUL is not a text.
    let pairs = texts.chunks_exact(2).map(|pair| (pair[0], pair[1]));
    pairs.filter(|(name, _)| !name.is_empty()).collect()
}

fn assert_answer_keeps_its_bounds(request: &Request<'_>, limits: &Limits, asked: Asked) {
    let mut buffer = vec![0; request.options.octets().len() + 64];
    let answer = negotiate::answer(request, limits, asked, &mut buffer)
        .expect("the promised room is enough");

    let blksize_max = limits
        .blksize_max
        .clamp(BLKSIZE_MIN, BLKSIZE_MAX)
        .max(negotiate::BLKSIZE_DEFAULT);
    assert!((BLKSIZE_MIN..=blksize_max).contains(&answer.params.blksize()));
    let windowsize_max = limits.windowsize_max.clamp(1, WINDOWSIZE_MAX);
    assert!((1..=windowsize_max).contains(&answer.params.windowsize()));
    let timeout = answer.params.timeout();
    assert!(timeout.is_none_or(|timeout| timeout <= limits.timeout_max));
    assert!(answer.announced.is_none() || asked == Asked::Write);

    // RFC 2347: only requested options are acknowledged; here in the order and spelling asked.
    let mut names_asked = request.options.pairs().map(|(name, _)| name);
    if answer.oack == 0 {
        return;
    }
    let Ok(Packet::Oack(oack)) = Packet::parse(&buffer[..answer.oack]) else {
        panic!("what was laid out is no OACK");
    };
    let mut octets = 0;
    for (name, value) in oack.pairs() {
        assert!(
            names_asked.any(|asked| asked == name),
            "{oack:?} answers {:?}",
            request.options
        );
        assert!(value.iter().all(u8::is_ascii_digit) && !value.is_empty());
        octets += name.len() + value.len() + 2;
    }
    assert!(octets > 0, "an OACK with nothing in it");
    assert_eq!(
        octets,
        oack.octets().len(),
        "something follows the last NUL"
    );
}

/// `limits` are used as what the client wanted.
fn assert_consent_keeps_its_bounds(oack: Options<'_>, limits: &Limits) {
    let wanted = Wanted {
        blksize: Some(limits.blksize_max),
        windowsize: Some(limits.windowsize_max),
        timeout: Some(limits.blksize_max.to_be_bytes()[1]),
        tsize: None,
    };
    if let Ok(accepted) = negotiate::accept(oack, &wanted) {
        let params = accepted.params;
        assert!(params.blksize() >= BLKSIZE_MIN && params.windowsize() >= 1);
        assert!(params.blksize() <= limits.blksize_max.max(negotiate::BLKSIZE_DEFAULT));
        assert!(params.windowsize() <= limits.windowsize_max.clamp(1, WINDOWSIZE_MAX));
        assert_eq!(accepted.tsize, None, "nobody asked");
    }
}

/// Octets of the input; once they run out, zeros and empty texts follow.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn octet(&mut self) -> u8 {
        let Some((&octet, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        octet
    }

    fn number(&mut self) -> u16 {
        u16::from_be_bytes([self.octet(), self.octet()])
    }

    /// A text up to its NUL, or up to the end.
    fn text(&mut self) -> &'a [u8] {
        let end = self
            .0
            .iter()
            .position(|&octet| octet == 0)
            .unwrap_or(self.0.len());
        let (text, rest) = self.0.split_at(end);
        self.0 = rest.get(1..).unwrap_or(&[]);
        text
    }

    /// All remaining octets.
    const fn options(&self) -> Options<'a> {
        Options::new(self.0)
    }
}
