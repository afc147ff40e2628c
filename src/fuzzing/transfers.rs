//! Fuzz target bodies that drive the protocol: a sender or a receiver with arbitrary events, and both against
//! each other through a network controlled by the fuzzer.

use std::collections::VecDeque;

use super::Input;
use crate::proto::block::BlockIndex;
use crate::proto::negotiate::{self, Asked, Limits, Params};
use crate::proto::netascii::{Decoder, Encoder};
use crate::proto::outcome::Outcome;
use crate::proto::receiver::{Receiver, Verdict};
use crate::proto::sender::Sender;
use crate::proto::timing::Patience;
use crate::proto::transmit::Transmit;
use crate::time::{Duration, Instant};
use crate::wire::{ErrorCode, Mode, Options, Request, WireBlock};

/// netascii matches a reader that takes one octet at a time, however the input is split, in both directions.
pub fn netascii(octets: &[u8]) {
    let mut input = Input(octets);
    let cut = usize::from(input.octet()) + 1;
    let text = input.0;

    let expected: Vec<u8> = text
        .iter()
        .flat_map(|&octet| match octet {
            b'\n' => vec![b'\r', b'\n'],
            b'\r' => vec![b'\r', 0],
            other => vec![other],
        })
        .collect();
    let mut encoder = Encoder::default();
    let mut encoded = Vec::new();
    let mut room = vec![0; cut];
    let mut rest = text;
    while !rest.is_empty() || encoder.is_pending() {
        let (read, written) = encoder.encode(rest, &mut room);
        assert!(read + written > 0, "stands still");
        encoded.extend_from_slice(&room[..written]);
        rest = &rest[read..];
    }
    assert!(encoded == expected, "encoded otherwise");

    let mut decoder = Decoder::default();
    let mut decoded = Vec::new();
    for piece in encoded.chunks(cut) {
        decoder.decode(piece, &mut decoded);
    }
    decoder.finish(&mut decoded);
    assert!(decoded == text, "what was encoded reads otherwise");

    // Text that no encoder produced is decoded the same way, wherever it is split.
    let mut expected = Vec::new();
    let mut wire = text;
    while let [first, rest @ ..] = wire {
        (wire, _) = match wire {
            [b'\r', b'\n', rest @ ..] => (rest, expected.push(b'\n')),
            [b'\r', 0, rest @ ..] => (rest, expected.push(b'\r')),
            _ => (rest, expected.push(*first)),
        };
    }
    let decode = |cut: usize| {
        let (mut decoder, mut decoded) = (Decoder::default(), Vec::new());
        for piece in text.chunks(cut) {
            decoder.decode(piece, &mut decoded);
        }
        decoder.finish(&mut decoded);
        decoded
    };
    assert!(decode(cut) == expected, "read otherwise");
    assert!(
        decode(text.len().max(1)) == expected,
        "read otherwise uncut"
    );
}

/// A sender keeps to its window and its length, and sends nothing once it is over, whatever happens.
pub fn sender_ops(octets: &[u8]) {
    let mut input = Input(octets);
    let Terms {
        params,
        oack,
        start,
    } = Terms::of(&mut input);
    let blocks = start.0 + u64::from(input.number() % 300) + 1;
    let len = (blocks - 1) * u64::from(params.blksize()) + u64::from(input.octet() % 8);
    let mut now = Instant::from_nanos(1);
    let mut sender = Sender::answer(params, len, oack, Patience::DEFAULT, now);
    while sender.acked() < start {
        now += Duration::from_micros(100);
        drop(send_up_to(start, &mut sender, now));
        sender.handle_ack(params.rollover().wire(sender.sent()), now);
    }
    while !input.0.is_empty() {
        match input.octet() % 6 {
            0 => drop(sender.handle_ack(WireBlock(input.number()), now)),
            1 => {
                let near = sender.acked().plus(u64::from(input.octet() % 80));
                sender.handle_ack(params.rollover().wire(near), now);
            }
            2 => drop(sender.handle_ack(params.rollover().wire(sender.sent()), now)),
            3 => {
                now = sender.poll_timeout().unwrap_or(now).max(now);
                sender.handle_timeout(now);
            }
            4 => {
                now += Duration::from_micros(u64::from(input.number()));
                sender.handle_timeout(now);
            }
            _ => match u64::from(input.octet()) {
                0 => sender.handle_error(ErrorCode(input.number())),
                part => {
                    // An ACK of up to a window ago.
                    let before = sender.acked();
                    let back = (u64::from(params.windowsize()) * part / 255).min(before.0);
                    let old = params.rollover().wire(BlockIndex(before.0 - back));
                    sender.handle_ack(old, now);
                    assert_eq!(sender.acked(), before, "took an old ACK for a new one");
                }
            },
        }
        for _ in 0..=u64::from(params.windowsize()) + 2 {
            let Some(transmit) = sender.poll_transmit(64) else {
                break;
            };
            if let Transmit::Blocks { first, count } = transmit {
                let end = first.plus(count - 1);
                assert!(count > 0 && first > sender.acked(), "sent what has arrived");
                assert!(end <= sender.last(), "sent what there is not");
                let window = u64::from(params.windowsize());
                assert!(end.past(sender.acked()) <= window, "sent beyond the window");
            }
            assert!(sender.outcome().is_none(), "sent after the end");
            // Sometimes the queue is full, or accepts only a part.
            let left = match (input.octet() % 8, transmit) {
                (0, _) => 0,
                (1, Transmit::Blocks { count, .. }) => count.div_ceil(2),
                (_, Transmit::Blocks { count, .. }) => count,
                _ => 1,
            };
            sender.transmitted(left, now);
            if left == 0 {
                break;
            }
        }
        assert!(sender.acked() <= sender.sent() && sender.sent() <= sender.last());
        assert_eq!(sender.poll_timeout().is_none(), sender.outcome().is_some());
    }
}

/// A receiver counts no block twice, acknowledges no more than it has, and ends once.
pub fn receiver_ops(octets: &[u8]) {
    let mut input = Input(octets);
    let Terms {
        params,
        oack,
        start,
    } = Terms::of(&mut input);
    let blksize = usize::from(params.blksize());
    let window = u64::from(params.windowsize());
    let mut now = Instant::from_nanos(1);
    let mut receiver = Receiver::answer(params, oack, Patience::DEFAULT, now);
    while receiver.received() < start {
        now += Duration::from_micros(100);
        let next = params.rollover().wire(receiver.received().plus(1));
        receiver.handle_data(next, blksize, now);
        receiver.transmitted(receiver.poll_transmit().is_some().into(), now);
    }
    while !input.0.is_empty() {
        let before = receiver.received();
        let event = input.octet();
        match event % 6 {
            kind @ (0 | 1) => {
                let near = receiver.received().plus(u64::from(input.octet() % 80));
                let wire = if kind == 0 {
                    params.rollover().wire(near)
                } else {
                    WireBlock(input.number())
                };
                let len = if input.octet() % 16 == 0 {
                    blksize / 2
                } else {
                    blksize
                };
                match receiver.handle_data(wire, len, now) {
                    Verdict::Next(index) => {
                        assert_eq!(index, before.plus(1));
                        assert!(receiver.received() >= index);
                    }
                    Verdict::Ahead(index) => {
                        assert!(index > before.plus(1) && index.past(receiver.acked()) <= window);
                        assert_eq!(receiver.received(), before);
                    }
                    Verdict::Ignore => assert_eq!(receiver.received(), before),
                    Verdict::TooShort => {
                        let illegal = Outcome::Refused(ErrorCode::ILLEGAL);
                        assert_eq!(receiver.outcome(), Some(illegal));
                        assert!(len < blksize && receiver.received() == before);
                    }
                    Verdict::TooLong => panic!("it was not"),
                }
            }
            2 => {
                let ended = receiver.outcome().is_some();
                let verdict =
                    receiver.handle_data(params.rollover().wire(before.plus(1)), blksize + 1, now);
                assert!(
                    ended || verdict != Verdict::Next(before.plus(1)),
                    "took more than was agreed"
                );
            }
            3 => {
                now = receiver.poll_timeout().unwrap_or(now).max(now);
                receiver.handle_timeout(now);
            }
            4 => {
                now += Duration::from_micros(u64::from(input.number()));
                receiver.handle_timeout(now);
            }
            _ if event / 6 % 2 == 0 => receiver.publish(),
            _ => {
                // A block of the previous window.
                let back = window * u64::from(event / 12) / 21;
                let old = receiver.acked().0.saturating_sub(back);
                let verdict =
                    receiver.handle_data(params.rollover().wire(BlockIndex(old)), blksize, now);
                assert_eq!(
                    verdict,
                    Verdict::Ignore,
                    "took an old block for one to come"
                );
            }
        }
        if let Some(transmit) = receiver.poll_transmit() {
            if let Transmit::Ack(block) = transmit {
                assert_eq!(block, receiver.received(), "acknowledged what is not there");
            }
            receiver.transmitted(1, now);
            assert!(receiver.poll_transmit().is_none(), "said it twice");
        }
        assert!(receiver.acked() <= receiver.received());
        assert!(receiver.outcome().is_none() || receiver.poll_timeout().is_none());
        if receiver.outcome() == Some(Outcome::Complete) {
            assert!(receiver.is_whole());
        }
    }
}

/// Both ends through the fuzzer's network: they end, and if they end successfully, every block arrived once
/// and in order. The number of datagrams sent stays within a bound, however bad the network was.
pub fn conversation(octets: &[u8]) {
    let mut input = Input(octets);
    let Terms {
        params,
        oack,
        start,
    } = Terms::of(&mut input);
    // With wide windows, enough blocks for more than one of them.
    let scale = u64::from(params.windowsize()) / 512 * 4 + 1;
    let blocks = u64::from(input.number() % 200) * scale + 1;
    let len = (start.0 + blocks - 1) * u64::from(params.blksize());
    let mut now = Instant::from_nanos(1);
    let mut sender = Sender::answer(params, len, oack, Patience::DEFAULT, now);
    let mut receiver = Receiver::request(Patience::DEFAULT, now);
    // The request has arrived: otherwise there would be no sender.
    receiver.transmitted(1, now);
    while sender.acked() < start {
        now += Duration::from_micros(100);
        let blocks = send_up_to(start, &mut sender, now);
        if oack && receiver.received() == BlockIndex::ZERO {
            receiver.agree(params, now);
        }
        for block in blocks {
            let wire = params.rollover().wire(block);
            receiver.handle_data(wire, params.blksize().into(), now);
            receiver.transmitted(receiver.poll_transmit().is_some().into(), now);
        }
        sender.handle_ack(params.rollover().wire(receiver.received()), now);
    }
    let (mut to_receiver, mut to_sender) = (VecDeque::new(), VecDeque::new());
    let (mut sent, mut delivered) = (0_u64, 0_u64);
    let rollover = params.rollover();

    while sender.outcome().is_none() || !(receiver.outcome().is_some() || to_receiver.is_empty()) {
        while let Some(transmit) = sender.poll_transmit(64) {
            let count = match transmit {
                Transmit::Opening(_) => {
                    to_receiver.push_back(None);
                    1
                }
                Transmit::Blocks { first, count } => {
                    to_receiver.extend((0..count).map(|place| Some(first.plus(place))));
                    count
                }
                Transmit::Ack(_) => unreachable!("a sender has nothing to acknowledge"),
            };
            sent += count;
            sender.transmitted(count, now);
        }
        while let Some(transmit) = receiver.poll_transmit() {
            if let Transmit::Ack(block) = transmit {
                to_sender.push_back(rollover.wire(block));
            }
            receiver.transmitted(1, now);
        }
        // The fuzzer decides what the network does; after the end of its input, the weather is fair.
        match if input.0.is_empty() {
            0
        } else {
            input.octet() % 16
        } {
            1 => drop(to_receiver.pop_front()),
            2 => drop(to_sender.pop_front()),
            3 => to_receiver.extend(to_receiver.front().copied()),
            4 => to_sender.extend(to_sender.front().copied()),
            5 => to_receiver.rotate_left(usize::from(!to_receiver.is_empty())),
            6 => now += Duration::from_micros(u64::from(input.number())),
            _ => {}
        }
        now += Duration::from_micros(100);
        if let Some(arrived) = to_receiver.pop_front() {
            match arrived {
                None => receiver.agree(params, now),
                Some(block) => {
                    let size = if block == sender.last() {
                        0
                    } else {
                        usize::from(params.blksize())
                    };
                    match receiver.handle_data(rollover.wire(block), size, now) {
                        Verdict::Next(index) => {
                            assert_eq!(index, block, "took one block for another");
                            delivered = receiver.received().0;
                        }
                        Verdict::Ahead(index) => {
                            assert_eq!(index, block, "took one block for another")
                        }
                        Verdict::Ignore => {}
                        Verdict::TooLong | Verdict::TooShort => panic!("it was not"),
                    }
                }
            }
            receiver.publish();
        } else if let Some(wire) = to_sender.pop_front() {
            sender.handle_ack(wire, now);
        } else {
            // Nothing is in flight: the next timer fires.
            let wake = [sender.poll_timeout(), receiver.poll_timeout()]
                .into_iter()
                .flatten()
                .min();
            now = wake.unwrap_or(now).max(now);
        }
        sender.handle_timeout(now);
        receiver.handle_timeout(now);
    }
    if sender.outcome() == Some(Outcome::Complete) {
        assert_eq!(
            delivered,
            start.0 + blocks,
            "complete, and yet not all has come"
        );
        assert_eq!(receiver.outcome(), Some(Outcome::Complete));
    }
    // Each octet of the input affects the network once, which costs two windows at most.
    let window = u64::from(params.windowsize()).min(blocks) + 1;
    let most = 8 + blocks + (octets.len() as u64 + 16) * 2 * window;
    assert!(
        sent <= most,
        "{sent} datagrams for {blocks} blocks, at most {most} explained"
    );
}

/// The blocks sent at `now`, up to `limit`.
fn send_up_to(
    limit: BlockIndex,
    sender: &mut Sender,
    now: Instant,
) -> impl Iterator<Item = BlockIndex> + use<> {
    let (first, count) = match sender.poll_transmit(limit.past(sender.sent())) {
        Some(Transmit::Blocks { first, count }) => (first, count),
        _ => (BlockIndex::FIRST, 0),
    };
    sender.transmitted(count.max(1), now);
    (0..count).map(move |place| first.plus(place))
}

/// Close to the rollover of block numbers.
const FAR: BlockIndex = BlockIndex(65_530);

/// The initial conditions that the fuzzer chooses.
struct Terms {
    params: Params,
    /// Whether an OACK announces the terms.
    oack: bool,
    /// Number of blocks that were delivered before.
    start: BlockIndex,
}

impl Terms {
    fn of(input: &mut Input<'_>) -> Self {
        let kind = input.octet();
        let choice = usize::from(input.octet() % 6);
        let (is_far, is_wide) = match kind >> 3 {
            1 => (true, false),
            2 => (false, true),
            3 => (true, true),
            _ => (false, false),
        };
        let windowsize: u16 = if is_wide {
            [512, 4_096, 16_384, 32_766, 32_767, u16::MAX][choice]
        } else {
            [1, 2, 4, 16, 64, 300][choice]
        };
        let mut options = Vec::new();
        if kind & 1 == 1 {
            options.extend_from_slice(format!("blksize\08\0windowsize\0{windowsize}\0").as_bytes());
        }
        if kind & 2 == 2 {
            options.extend_from_slice(b"rollover\x001\0");
        }
        if kind & 4 == 4 {
            options.extend_from_slice(b"timeout\x002\0");
        }
        let request = Request {
            filename: b"x",
            mode: Mode::Octet,
            options: Options::new(&options),
        };
        let limits = Limits {
            blksize_max: 512,
            windowsize_max: u16::MAX,
            timeout_max: negotiate::TIMEOUT_MAX,
        };
        let mut buffer = [0; 128];
        let answer = negotiate::answer(&request, &limits, Asked::Read(1), &mut buffer)
            .expect("room for three options");
        Self {
            params: answer.params,
            oack: answer.oack > 0,
            start: if is_far { FAR } else { BlockIndex::ZERO },
        }
    }
}
