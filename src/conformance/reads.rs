//! Read requests according to RFC 1350 and RFC 1123.

use std::time::Instant;

use super::Level::{Must, Should};
use super::dialogue::{Answer, Dialogue, request};
use super::{
    ANSWER_WITHIN, BLKSIZE, Case, Examination, Fault, QUIET, READ_OCTETS_MAX, first_difference,
    unsupported, untried,
};
use crate::proto::netascii::Encoder;
use crate::time::Duration;
use crate::wire::{ErrorCode, Mode, Opcode, WireBlock, write_ack, write_data_header, write_error};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "a block waits for the ACK of the one before",
        rule: "RFC 1350 §2",
        level: Must,
        examine: lockstep,
    },
    Case {
        name: "the blocks are the file, and a short one ends it",
        rule: "RFC 1350 §6",
        level: Must,
        examine: whole_file,
    },
    Case {
        name: "a file of whole blocks ends with an empty one",
        rule: "RFC 1350 §6",
        level: Must,
        examine: exact_multiple,
    },
    Case {
        name: "what is not acknowledged comes again",
        rule: "RFC 1350 §2",
        level: Must,
        examine: repeats,
    },
    Case {
        name: "a duplicate ACK causes no send (the Sorcerer's Apprentice)",
        rule: "RFC 1123 §4.2.3.1",
        level: Must,
        examine: duplicate_ack,
    },
    Case {
        name: "an older ACK causes no send",
        rule: "RFC 1123 §4.2.3.1",
        level: Must,
        examine: older_ack,
    },
    Case {
        name: "an ACK of what was not sent moves nothing",
        rule: "RFC 1350 §2",
        level: Should,
        examine: future_ack,
    },
    Case {
        name: "an ACK with octets behind it counts (Windows sends such)",
        rule: "practice",
        level: Should,
        examine: long_ack,
    },
    Case {
        name: "a client's ERROR ends the transfer, and is not answered",
        rule: "RFC 1350 §2",
        level: Must,
        examine: error_ends,
    },
    Case {
        name: "a stranger's packet does not disturb the transfer",
        rule: "RFC 1350 §4",
        level: Must,
        examine: stranger_disturbs_nobody,
    },
    Case {
        name: "a stranger is told ERROR 5",
        rule: "RFC 1350 §4",
        level: Should,
        examine: stranger_is_told,
    },
    Case {
        name: "a stranger's ERROR does not end the transfer",
        rule: "RFC 1350 §4",
        level: Must,
        examine: stranger_cannot_end,
    },
    Case {
        name: "a repeated request is one transfer",
        rule: "RFC 1123 §4.2.3.1",
        level: Should,
        examine: repeated_request,
    },
    Case {
        name: "a client that begins anew from the same port is served (U-Boot does)",
        rule: "practice",
        level: Should,
        examine: same_port_again,
    },
    Case {
        name: "the mode may be written in any case",
        rule: "RFC 1350 §5",
        level: Must,
        examine: mode_in_any_case,
    },
    Case {
        name: "netascii converts ends of lines",
        rule: "RFC 1350 §1",
        level: Must,
        examine: netascii,
    },
    Case {
        name: "an unknown mode is refused",
        rule: "RFC 1350 §5",
        level: Should,
        examine: unknown_mode,
    },
    Case {
        name: "a request without its last NUL is not served",
        rule: "RFC 1350 §5",
        level: Should,
        examine: unterminated,
    },
    Case {
        name: "a missing file is ERROR 1",
        rule: "RFC 1350 appendix",
        level: Must,
        examine: missing_file,
    },
    Case {
        name: "a missing file's ERROR tells no path of the server",
        rule: "practice",
        level: Should,
        examine: no_path_is_told,
    },
    Case {
        name: "nothing above the root is served",
        rule: "RFC 1123 §4.2.3.4",
        level: Must,
        examine: traversal,
    },
    Case {
        name: "a directory is refused",
        rule: "RFC 1350 appendix",
        level: Should,
        examine: directory,
    },
    Case {
        name: "an ERROR out of the blue is not answered",
        rule: "RFC 1350 §2",
        level: Must,
        examine: error_is_not_answered,
    },
    Case {
        name: "an unknown opcode draws ERROR 4 or nothing",
        rule: "RFC 1350 §5",
        level: Should,
        examine: unknown_opcode,
    },
    Case {
        name: "junk does not keep the server from answering",
        rule: "practice",
        level: Must,
        examine: junk,
    },
    Case {
        name: "block numbers go on after 65535",
        rule: "practice",
        level: Must,
        examine: roll_over,
    },
];

/// A name that no file has.
const MISSING: &[u8] = b"bootstorm-check-of-no-such-name";
/// Up from any root to the file system's root, and down to a file that every Unix has.
const ABOVE: &[u8] = b"../../../../../../../../../../../../etc/passwd";
/// The time limit for the roll-over of block numbers.
const ROLL_OVER_WITHIN: Duration = Duration::from_secs(12);
/// The number of blocks examined after the roll-over.
const ROLL_OVER_BLOCKS: usize = 4;
/// The maximum number of blocks in a transfer that consists of whole blocks.
const EXACT_BLOCKS_MAX: usize = 8_000;

/// Starts a read without options; returns the first block.
fn plain(examination: &Examination) -> Result<(Dialogue, Vec<u8>), Fault> {
    let (dialogue, answer) = examination.read(&[])?;
    match answer {
        Answer::Data(payload) => Ok((dialogue, payload)),
        _ => Err(dialogue.differs("DATA 1")),
    }
}

/// The same, if the file has a second block.
fn two_blocks(examination: &Examination) -> Result<Dialogue, Fault> {
    let (dialogue, payload) = plain(examination)?;
    if payload.len() < BLKSIZE {
        return Err(untried("the file has one block alone"));
    }
    Ok(dialogue)
}

fn lockstep(examination: &Examination) -> Result<(), Fault> {
    let mut dialogue = two_blocks(examination)?;
    dialogue.quiet("nothing before ACK 1")?;
    dialogue.ack(1)?;
    dialogue.block(2)?;
    dialogue.quiet("nothing before ACK 2")
}

fn whole_file(examination: &Examination) -> Result<(), Fault> {
    let (mut dialogue, _) = plain(examination)?;
    let (octets, _) = dialogue.rest(BLKSIZE, 1, READ_OCTETS_MAX)?;
    examination.same(&dialogue, &octets)
}

fn exact_multiple(examination: &Examination) -> Result<(), Fault> {
    let length = examination.length()?;
    let fits =
        |octets: &usize| length.is_multiple_of(*octets) && length / octets <= EXACT_BLOCKS_MAX;
    let blksize = if length.is_multiple_of(BLKSIZE) && fits(&BLKSIZE) {
        BLKSIZE
    } else {
        (8..=1428).rev().find(fits).ok_or_else(|| {
            untried(format!(
                "no block size makes whole blocks of {length} octets"
            ))
        })?
    };
    let text = blksize.to_string();
    let (mut dialogue, terms) = if blksize == BLKSIZE {
        (plain(examination)?.0, BLKSIZE)
    } else {
        let (dialogue, _, terms) = examination.agree(&[("blksize", &text)], "blksize")?;
        (dialogue, terms.blksize)
    };
    if terms != blksize {
        return Err(unsupported(format!("blksize {blksize} became {terms}")));
    }
    // This fails if the empty block does not come.
    let (octets, _) = dialogue.rest(blksize, 1, usize::MAX)?;
    examination.same(&dialogue, &octets)
}

fn repeats(examination: &Examination) -> Result<(), Fault> {
    let (options, within) = examination.soon();
    let (mut dialogue, answer) = examination.read(options)?;
    let block = match answer {
        Answer::Data(_) => 1,
        Answer::Oack(_) => {
            dialogue.ack(0)?;
            dialogue.block(1)?;
            1
        }
        _ => return Err(dialogue.differs("an OACK or DATA 1")),
    };
    let seconds = within.as_secs();
    let again = dialogue.receive(within)?;
    match again {
        Some(datagram) if datagram.data(block).is_some() => Ok(()),
        _ => Err(dialogue.differs(&format!("DATA {block} once more within {seconds} s"))),
    }
}

fn duplicate_ack(examination: &Examination) -> Result<(), Fault> {
    let mut dialogue = two_blocks(examination)?;
    dialogue.ack(1)?;
    dialogue.block(2)?;
    dialogue.ack(1)?;
    dialogue.ack(1)?;
    dialogue.quiet("no DATA 2 for the second and the third ACK 1")
}

fn older_ack(examination: &Examination) -> Result<(), Fault> {
    let (mut dialogue, terms) = small_blocks(examination, 3)?;
    for block in 1..=2 {
        dialogue.block(block)?;
        dialogue.ack(block)?;
    }
    if dialogue.block(3)?.len() < terms {
        return Err(untried("the file has two blocks alone"));
    }
    dialogue.ack(1)?;
    dialogue.quiet("nothing for an ACK 1 that comes after ACK 2")?;
    dialogue.ack(3)?;
    dialogue.block(4).map(drop)
}

/// Starts a read with a block size so small that there are more than `blocks` blocks.
fn small_blocks(examination: &Examination, blocks: usize) -> Result<(Dialogue, usize), Fault> {
    let length = examination.facts.contents.len();
    if length > blocks * BLKSIZE {
        // The first block in the dialogue waits for an ACK that would make it come again, so start over.
        let mut dialogue = examination.dialogue()?;
        dialogue.read(&examination.target.file, &[])?;
        return Ok((dialogue, BLKSIZE));
    }
    let (mut dialogue, _, terms) = examination.agree(&[("blksize", "8")], "blksize")?;
    if length <= blocks * terms.blksize {
        return Err(untried(format!(
            "the file has no more than {blocks} blocks"
        )));
    }
    dialogue.ack(0)?;
    Ok((dialogue, terms.blksize))
}

fn future_ack(examination: &Examination) -> Result<(), Fault> {
    let mut dialogue = two_blocks(examination)?;
    dialogue.ack(9)?;
    dialogue.quiet("nothing for an ACK 9 while DATA 1 is under way")?;
    dialogue.ack(1)?;
    dialogue.block(2).map(drop)
}

fn long_ack(examination: &Examination) -> Result<(), Fault> {
    let mut dialogue = two_blocks(examination)?;
    let ack = write_ack(WireBlock(1));
    dialogue.send(&[&ack[..], &[0]].concat())?;
    dialogue.block(2).map(drop)
}

fn error_ends(examination: &Examination) -> Result<(), Fault> {
    let (options, within) = examination.soon();
    let (mut dialogue, answer) = examination.read(options)?;
    if matches!(answer, Answer::Oack(_)) {
        dialogue.ack(0)?;
        dialogue.block(1)?;
    }
    dialogue.error(ErrorCode::UNDEFINED, b"enough")?;
    dialogue.quiet_for(within.min(Duration::from_millis(2_500)), "nothing more")
}

/// Sends a packet to a read's port from another port, and returns both dialogues.
fn stranger(examination: &Examination, octets: &[u8]) -> Result<(Dialogue, Dialogue), Fault> {
    if examination.facts.single_port {
        return Err(untried(
            "it answers from the port that was asked: nobody is a stranger there",
        ));
    }
    let dialogue = two_blocks(examination)?;
    let mut stranger = examination.dialogue()?;
    if let Some(peer) = dialogue.peer() {
        stranger.send_to(peer, octets)?;
    }
    Ok((dialogue, stranger))
}

fn stranger_disturbs_nobody(examination: &Examination) -> Result<(), Fault> {
    let (mut dialogue, _stranger) = stranger(examination, &write_ack(WireBlock(1)))?;
    dialogue.quiet("nothing for a stranger's ACK 1")?;
    dialogue.ack(1)?;
    dialogue.block(2).map(drop)
}

fn stranger_is_told(examination: &Examination) -> Result<(), Fault> {
    let (_dialogue, mut stranger) = stranger(examination, &write_ack(WireBlock(1)))?;
    match stranger.receive(ANSWER_WITHIN / 2)? {
        Some(answer) if answer.error() == Some(ErrorCode::UNKNOWN_TID.0) => Ok(()),
        _ => Err(stranger.differs("ERROR 5 to an ACK from another port")),
    }
}

fn stranger_cannot_end(examination: &Examination) -> Result<(), Fault> {
    let mut buffer = [0; 64];
    let len = write_error(&mut buffer, ErrorCode::UNDEFINED, b"not mine")
        .map_err(std::io::Error::other)?;
    let (mut dialogue, mut stranger) = stranger(examination, &buffer[..len])?;
    // Another case examines the answer, if there is one.
    stranger.receive(QUIET)?;
    dialogue.ack(1)?;
    dialogue.block(2).map(drop)
}

fn repeated_request(examination: &Examination) -> Result<(), Fault> {
    let mut dialogue = examination.dialogue()?;
    let octets = request(Opcode::Rrq, &examination.target.file, Mode::Octet, &[])?;
    dialogue.send_to(examination.target.server, &octets)?;
    dialogue.send_to(examination.target.server, &octets)?;
    let Some(first) = dialogue.receive(ANSWER_WITHIN)? else {
        return Err(dialogue.differs("DATA 1"));
    };
    while let Some(next) = dialogue.receive(QUIET)? {
        // This is another transfer, not a retransmission.
        if next.from != first.from {
            let expected = "DATA 1 from one port, and not a transfer for each repeat";
            return Err(dialogue.differs(expected));
        }
    }
    Ok(())
}

fn same_port_again(examination: &Examination) -> Result<(), Fault> {
    let mut dialogue = two_blocks(examination)?;
    dialogue.ack(1)?;
    dialogue.block(2)?;
    dialogue.again();
    let begun = examination.target.server;
    let octets = request(Opcode::Rrq, &examination.target.file, Mode::Octet, &[])?;
    dialogue.send_to(begun, &octets)?;
    let until = Instant::now() + ANSWER_WITHIN;
    // The first transfer may repeat its block meanwhile.
    while Instant::now() < until {
        let Some(datagram) = dialogue.receive(ANSWER_WITHIN)? else {
            break;
        };
        if datagram.data(1).is_some() {
            return Ok(());
        }
    }
    Err(dialogue.differs("DATA 1 to the request that begins anew"))
}

fn mode_in_any_case(examination: &Examination) -> Result<(), Fault> {
    let (dialogue, answer) = raw(examination, b"oCtEt\0")?;
    match answer {
        Answer::Data(_) => Ok(()),
        _ => Err(dialogue.differs("DATA 1 to mode \"oCtEt\"")),
    }
}

/// Requests the file with a request that ends in these octets.
fn raw(examination: &Examination, end: &[u8]) -> Result<(Dialogue, Answer), Fault> {
    let mut dialogue = examination.dialogue()?;
    let octets = [b"\0\x01", &examination.target.file[..], b"\0", end].concat();
    dialogue.send(&octets)?;
    let answer = dialogue.answer()?;
    Ok((dialogue, answer))
}

fn netascii(examination: &Examination) -> Result<(), Fault> {
    let mut wire = vec![0; READ_OCTETS_MAX];
    let contents = &examination.facts.contents;
    let (taken, written) = Encoder::default().encode(contents, &mut wire);
    if taken == written {
        return Err(untried("the file has no ends of lines near its beginning"));
    }
    wire.truncate(written);
    let mut dialogue = examination.dialogue()?;
    dialogue.request(Opcode::Rrq, &examination.target.file, Mode::Netascii, &[])?;
    match dialogue.answer()? {
        Answer::Data(_) => {}
        answer @ Answer::Error(..) => return Err(unsupported(answer.to_string())),
        _ => return Err(dialogue.differs("DATA 1 or an ERROR")),
    }
    let (octets, _) = dialogue.rest(BLKSIZE, 1, written)?;
    match first_difference(&wire, &octets) {
        None => Ok(()),
        Some(place) => Err(dialogue.differs(&format!(
            "LF as CR LF, and CR as CR NUL; octet number {place} is another one"
        ))),
    }
}

fn unknown_mode(examination: &Examination) -> Result<(), Fault> {
    refused_or_silent(raw(examination, b"morse\0"), "ERROR 4 to mode \"morse\"")
}

fn unterminated(examination: &Examination) -> Result<(), Fault> {
    let expected = "ERROR 4 or nothing to a mode without its NUL";
    refused_or_silent(raw(examination, b"octet"), expected)
}

/// Accepts anything but a transfer.
fn refused_or_silent(
    answered: Result<(Dialogue, Answer), Fault>,
    expected: &str,
) -> Result<(), Fault> {
    match answered {
        Ok((dialogue, Answer::Data(_) | Answer::Oack(_))) => Err(dialogue.differs(expected)),
        Err(fault @ Fault::System(_)) => Err(fault),
        _ => Ok(()),
    }
}

fn missing_file(examination: &Examination) -> Result<(), Fault> {
    let mut dialogue = examination.dialogue()?;
    dialogue.read(MISSING, &[])?;
    match dialogue.answer()? {
        Answer::Error(1, _) => Ok(()),
        _ => Err(dialogue.differs("ERROR 1: U-Boot begins anew for ever on any other")),
    }
}

fn no_path_is_told(examination: &Examination) -> Result<(), Fault> {
    let mut dialogue = examination.dialogue()?;
    dialogue.read(MISSING, &[])?;
    match dialogue.answer()? {
        Answer::Error(_, text) if text.contains('/') => {
            Err(dialogue.differs("a text without a path"))
        }
        _ => Ok(()),
    }
}

fn traversal(examination: &Examination) -> Result<(), Fault> {
    let mut dialogue = examination.dialogue()?;
    dialogue.read(ABOVE, &[])?;
    refused_or_silent(
        dialogue.answer().map(|answer| (dialogue, answer)),
        "an ERROR to a name that climbs out of the root",
    )
}

fn directory(examination: &Examination) -> Result<(), Fault> {
    let mut dialogue = examination.dialogue()?;
    dialogue.read(b".", &[])?;
    match dialogue.answer()? {
        Answer::Error(..) => Ok(()),
        _ => Err(dialogue.differs("an ERROR to the name of a directory")),
    }
}

fn error_is_not_answered(examination: &Examination) -> Result<(), Fault> {
    let mut dialogue = examination.dialogue()?;
    dialogue.error(ErrorCode::UNDEFINED, b"hello")?;
    dialogue.quiet("nothing: two servers that answer ERRORs never stop")
}

fn unknown_opcode(examination: &Examination) -> Result<(), Fault> {
    let mut dialogue = examination.dialogue()?;
    dialogue.send(b"\0\x09hello\0")?;
    match dialogue.receive(QUIET)? {
        None => Ok(()),
        Some(answer) if answer.error() == Some(ErrorCode::ILLEGAL.0) => Ok(()),
        Some(_) => Err(dialogue.differs("ERROR 4 or nothing to opcode 9")),
    }
}

fn junk(examination: &Examination) -> Result<(), Fault> {
    let mut dialogue = examination.dialogue()?;
    let data = write_data_header(WireBlock(1));
    let ack = write_ack(WireBlock(0));
    let oack = b"\0\x06blksize\0junk\0";
    for octets in [b"", &b"\0"[..], b"\0\x01", b"\0\x01\0\0", &data, &ack, oack] {
        dialogue.send_to(examination.target.server, octets)?;
    }
    // The answer to that does not matter.
    while dialogue.receive(QUIET)?.is_some() {}
    plain(examination).map(drop)
}

fn roll_over(examination: &Examination) -> Result<(), Fault> {
    let windowsize = examination.facts.windowsize.unwrap_or(1);
    let text = windowsize.to_string();
    let all = [("blksize", "8"), ("windowsize", text.as_str())];
    let options = if windowsize > 1 { &all[..] } else { &all[..1] };
    let (mut dialogue, answer) = examination.read(options)?;
    let blksize = match answer.number("blksize").map(usize::try_from) {
        Some(Ok(octets)) => octets,
        _ => BLKSIZE,
    };
    let windowsize = match answer.number("windowsize").map(u16::try_from) {
        Some(Ok(blocks)) => blocks,
        _ => 1,
    };
    let blocks = usize::from(u16::MAX) + ROLL_OVER_BLOCKS;
    let needed = blocks * blksize;
    if examination.facts.contents.len() < needed {
        let why =
            format!("a file of {needed} octets or more is needed, for blocks are of {blksize}");
        return Err(untried(why));
    }
    dialogue.extend(ROLL_OVER_WITHIN);
    let began = Instant::now();
    // Either block numbers after 65535 continue with 0, 1, and so on, or the transfer stalls.
    match dialogue.rest(blksize, windowsize, needed) {
        Ok((octets, _)) => examination.same(&dialogue, &octets),
        Err(_) if began.elapsed() >= ROLL_OVER_WITHIN => Err(untried(format!(
            "it takes longer than {} s",
            ROLL_OVER_WITHIN.as_secs()
        ))),
        Err(fault) => Err(fault),
    }
}
