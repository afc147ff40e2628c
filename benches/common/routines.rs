//! What the codec and the protocol do for each packet, one routine each: benchmarks time them, and
//! callgrind counts their instructions.

use std::hint::black_box;
use std::time::Duration;

use bootstorm::proto::block::Rollover;
use bootstorm::proto::negotiate::{
    Asked, Limits, ORDER_DEFAULT, Params, Wanted, accept, answer, ask,
};
use bootstorm::proto::netascii::{Decoder, Encoder};
use bootstorm::proto::receiver::Receiver;
use bootstorm::proto::sender::Sender;
use bootstorm::proto::timing::Patience;
use bootstorm::proto::transmit::Transmit;
use bootstorm::time::Instant;
use bootstorm::wire::{
    ErrorCode, Mode, Opcode, Options, Packet, WireBlock, write_ack, write_data_header, write_error,
    write_oack, write_request,
};

/// Something that is done over and over.
pub(crate) struct Routine {
    pub(crate) name: &'static str,
    /// Blocks that doing it once moves on; 1 where it is about a packet.
    #[allow(dead_code)] // Who counts instructions has no use for it.
    pub(crate) blocks: u64,
    /// Makes ready; what it returns does it once.
    pub(crate) make: fn() -> Operation,
}

pub(crate) type Operation = Box<dyn FnMut()>;

pub(crate) const ROUTINES: &[Routine] = &[
    one("parse_rrq", || parse(RRQ)),
    one("parse_wrq", || {
        parse(b"\0\x02crash/host-17.core\0octet\0tsize\x001048576\0blksize\x001428\0")
    }),
    one("parse_data", || parse(&DATA)),
    one("parse_ack", || parse(b"\0\x04\x12\x34")),
    one("parse_error", || parse(b"\0\x05\0\x01File not found\0")),
    one("parse_oack", || parse(OACK)),
    one("write_rrq", write_rrq),
    one("write_data_header", || {
        each_block(|block| black_box(write_data_header(block)))
    }),
    one("write_ack", || {
        each_block(|block| black_box(write_ack(block)))
    }),
    one("write_error", write_an_error),
    one("write_oack", write_an_oack),
    one("negotiate_answer", negotiate_answer),
    one("negotiate_accept", negotiate_accept),
    Routine {
        name: "sender_window_1",
        blocks: 1,
        make: || sender(1),
    },
    Routine {
        name: "sender_window_16",
        blocks: 16,
        make: || sender(16),
    },
    Routine {
        name: "sender_window_64",
        blocks: 64,
        make: || sender(64),
    },
    Routine {
        name: "receiver_window_1",
        blocks: 1,
        make: || receiver(1),
    },
    Routine {
        name: "receiver_window_16",
        blocks: 16,
        make: || receiver(16),
    },
    Routine {
        name: "receiver_window_64",
        blocks: 64,
        make: || receiver(64),
    },
    one("netascii_encode_block", netascii_encode),
    one("netascii_decode_block", netascii_decode),
];

/// What iPXE and its like ask for.
const RRQ: &[u8] =
    b"\0\x01boot/vmlinuz\0octet\0tsize\x000\0blksize\x001428\0windowsize\x0016\0timeout\x005\0";
const OACK: &[u8] = b"\0\x06tsize\x0033554432\0blksize\x001428\0windowsize\x0016\0timeout\x005\0";
/// A DATA packet at the block size of most clients.
const DATA: [u8; 4 + BLKSIZE as usize] = {
    let mut packet = [0x55; 4 + BLKSIZE as usize];
    (packet[0], packet[1], packet[2], packet[3]) = (0, 3, 0x12, 0x34);
    packet
};
const BLKSIZE: u16 = 1428;
/// Length of a body that no run comes to the end of: numbers roll over many times before.
const ENDLESS: u64 = 1 << 50;
/// Time that passes from one window to the next.
const ROUND_TRIP: Duration = Duration::from_micros(200);

const fn one(name: &'static str, make: fn() -> Operation) -> Routine {
    let blocks = 1;
    Routine { name, blocks, make }
}

fn parse(packet: &'static [u8]) -> Operation {
    Box::new(move || {
        let _ = black_box(Packet::parse(black_box(packet)));
    })
}

fn write_rrq() -> Operation {
    let mut buffer = [0; 512];
    Box::new(move || {
        let mut request = write_request(&mut buffer, Opcode::Rrq, b"boot/vmlinuz", Mode::Octet)
            .expect("room for a name");
        ask(black_box(&WANTED), ORDER_DEFAULT, &mut request).expect("room for options");
        black_box(request.len());
    })
}

fn each_block<T: 'static>(write: fn(WireBlock) -> T) -> Operation {
    let mut block = 0_u16;
    Box::new(move || {
        block = block.wrapping_add(1);
        write(black_box(WireBlock(block)));
    })
}

fn write_an_error() -> Operation {
    let mut buffer = [0; 512];
    Box::new(move || {
        let written = write_error(
            &mut buffer,
            ErrorCode::NOT_FOUND,
            black_box(b"File not found"),
        );
        let _ = black_box(written);
    })
}

fn write_an_oack() -> Operation {
    let mut buffer = [0; 512];
    Box::new(move || {
        let mut oack = write_oack(&mut buffer).expect("room for an opcode");
        for (name, value) in [
            (&b"tsize"[..], 33_554_432),
            (b"blksize", 1428),
            (b"windowsize", 16),
        ] {
            oack.number(name, black_box(value))
                .expect("room for options");
        }
        black_box(oack.len());
    })
}

const WANTED: Wanted = Wanted {
    blksize: Some(BLKSIZE),
    windowsize: Some(16),
    timeout: Some(5),
    tsize: Some(0),
};

const LIMITS: Limits = Limits {
    blksize_max: 65_464,
    windowsize_max: 64,
    timeout_max: bootstorm::proto::negotiate::TIMEOUT_MAX,
};

fn negotiate_answer() -> Operation {
    let Ok(Packet::Rrq(request)) = Packet::parse(RRQ) else {
        unreachable!("it is an RRQ")
    };
    let mut buffer = [0; 512];
    Box::new(move || {
        let asked = Asked::Read(33_554_432);
        let _ = black_box(answer(black_box(&request), &LIMITS, asked, &mut buffer));
    })
}

fn negotiate_accept() -> Operation {
    let Ok(Packet::Oack(options)) = Packet::parse(OACK) else {
        unreachable!("it is an OACK")
    };
    Box::new(move || {
        let _ = black_box(accept(black_box(options), &WANTED));
    })
}

/// An ACK of the whole window arrives, and the next window leaves.
fn sender(windowsize: u16) -> Operation {
    let mut now = Instant::ZERO;
    let mut sender = Sender::answer(params(windowsize), ENDLESS, false, Patience::DEFAULT, now);
    let burst = move |sender: &mut Sender, now| {
        let Some(Transmit::Blocks { first, count }) = sender.poll_transmit(u64::from(windowsize))
        else {
            unreachable!("a whole window is due")
        };
        sender.transmitted(black_box(count), now);
        Rollover::ToZero.wire(first.plus(count - 1))
    };
    let mut last = burst(&mut sender, now);
    Box::new(move || {
        now += ROUND_TRIP;
        black_box(sender.handle_ack(last, now));
        last = burst(&mut sender, now);
        black_box(sender.poll_timeout());
    })
}

/// The blocks of a window arrive, and an ACK of them leaves.
fn receiver(windowsize: u16) -> Operation {
    let mut now = Instant::ZERO;
    let mut receiver = Receiver::answer(params(windowsize), false, Patience::DEFAULT, now);
    receiver.transmitted(1, now);
    let mut block = 0_u16;
    Box::new(move || {
        now += ROUND_TRIP;
        for _ in 0..windowsize {
            block = block.wrapping_add(1);
            black_box(receiver.handle_data(WireBlock(block), BLKSIZE.into(), now));
        }
        let Some(Transmit::Ack(index)) = receiver.poll_transmit() else {
            unreachable!("an ACK is due")
        };
        black_box(write_ack(Rollover::ToZero.wire(index)));
        receiver.transmitted(1, now);
        black_box(receiver.poll_timeout());
    })
}

fn params(windowsize: u16) -> Params {
    let text = format!("blksize\0{BLKSIZE}\0windowsize\0{windowsize}\0");
    let wanted = Wanted {
        windowsize: Some(windowsize),
        ..WANTED
    };
    accept(Options::new(text.as_bytes()), &wanted)
        .expect("good terms")
        .params
}

/// A block's worth of text with lines of fifty characters.
fn text() -> Vec<u8> {
    let line = |place: usize| if place % 50 == 49 { b'\n' } else { b'a' };
    (0..usize::from(BLKSIZE)).map(line).collect()
}

fn netascii_encode() -> Operation {
    let text = text();
    let mut block = vec![0; usize::from(BLKSIZE)];
    Box::new(move || {
        black_box(Encoder::default().encode(black_box(&text), &mut block));
    })
}

fn netascii_decode() -> Operation {
    let mut block = vec![0; usize::from(BLKSIZE)];
    Encoder::default().encode(&text(), &mut block);
    let mut text = Vec::with_capacity(2 * block.len());
    Box::new(move || {
        text.clear();
        Decoder::default().decode(black_box(&block), &mut text);
        black_box(&text);
    })
}
