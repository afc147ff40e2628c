//! Writes: new files with unique names in a folder where writes are allowed.

use std::sync::atomic::{AtomicU32, Ordering};
use std::{process, thread};

use super::Level::{Must, Should};
use super::dialogue::{Answer, Dialogue};
use super::{BLKSIZE, Case, Examination, Fault, QUIET, unsupported, untried};
use crate::wire::{Mode, Opcode, WireBlock, write_data_header};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "what is written can be read",
        rule: "RFC 1350 §2",
        level: Must,
        examine: written_is_read,
    },
    Case {
        name: "a write of whole blocks ends with an empty one",
        rule: "RFC 1350 §6",
        level: Must,
        examine: exact_multiple,
    },
    Case {
        name: "an empty file can be written",
        rule: "RFC 1350 §6",
        level: Must,
        examine: empty_file,
    },
    Case {
        name: "a repeated block is not written twice",
        rule: "RFC 1350 §2",
        level: Must,
        examine: repeated_block,
    },
    Case {
        name: "the last block is acknowledged again when it comes again",
        rule: "RFC 1350 §6",
        level: Should,
        examine: last_block_again,
    },
    Case {
        name: "a stranger's block is not written",
        rule: "RFC 1350 §4",
        level: Must,
        examine: strangers_block,
    },
    Case {
        name: "a write in netascii is converted",
        rule: "RFC 1350 §1",
        level: Must,
        examine: netascii,
    },
    Case {
        name: "options of a write are agreed to by OACK and not by ACK 0",
        rule: "RFC 2347",
        level: Must,
        examine: options,
    },
    Case {
        name: "tsize of a write comes back as it was",
        rule: "RFC 2349",
        level: Must,
        examine: tsize,
    },
    Case {
        name: "a window of blocks is acknowledged by its last",
        rule: "RFC 7440 §4",
        level: Must,
        examine: window,
    },
    Case {
        name: "a gap in the window is reported by the block before it",
        rule: "RFC 7440 §4",
        level: Must,
        examine: gap,
    },
];

/// How often a file just written is read: the server may still be moving it into place.
const READS_MAX: u32 = 4;

/// An unused name in the folder where writes are allowed.
fn name(examination: &Examination) -> Result<Vec<u8>, Fault> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let folder = examination.target.folder.as_ref();
    let folder = folder.ok_or_else(|| untried("no folder to write to was given (--write)"))?;
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let random = fastrand::u32(..);
    let name = format!("bootstorm-check-{}-{random:08x}-{number}", process::id());
    Ok(match folder.strip_suffix(b"/").unwrap_or(folder) {
        b"" => name.into_bytes(),
        folder => [folder, b"/", name.as_bytes()].concat(),
    })
}

/// Starts a write.
fn write(
    examination: &Examination,
    mode: Mode,
    options: &[(&str, &str)],
) -> Result<(Dialogue, Vec<u8>, Answer), Fault> {
    let name = name(examination)?;
    let mut dialogue = examination.dialogue()?;
    dialogue.request(Opcode::Wrq, &name, mode, options)?;
    let answer = dialogue.answer()?;
    if let Answer::Error(..) = answer {
        return Err(unsupported(format!("a write is answered by {answer}")));
    }
    Ok((dialogue, name, answer))
}

/// Starts a write without options.
fn plain(examination: &Examination) -> Result<(Dialogue, Vec<u8>), Fault> {
    let (dialogue, name, answer) = write(examination, Mode::Octet, &[])?;
    if answer == Answer::Ack {
        Ok((dialogue, name))
    } else {
        Err(dialogue.differs("ACK 0"))
    }
}

/// Contents in which no two blocks are the same.
fn octets(len: usize) -> Vec<u8> {
    let mut octets = vec![0; len];
    fastrand::Rng::with_seed(len as u64).fill(&mut octets);
    octets
}

/// Sends all blocks, each after the ACK of the one before.
fn send(dialogue: &mut Dialogue, contents: &[u8]) -> Result<(), Fault> {
    for (block, payload) in (1..).zip(blocks(contents)) {
        dialogue.data(block, payload)?;
        dialogue.acknowledged(block)?;
    }
    dialogue.finish();
    Ok(())
}

/// The blocks of a file; the last one is short.
fn blocks(contents: &[u8]) -> impl Iterator<Item = &[u8]> {
    (0..=contents.len() / BLKSIZE).map(|number| {
        let rest = &contents[number * BLKSIZE..];
        &rest[..rest.len().min(BLKSIZE)]
    })
}

/// Checks that the file on the server has these contents.
fn holds(examination: &Examination, name: &[u8], contents: &[u8]) -> Result<(), Fault> {
    let mut read = 0;
    loop {
        read += 1;
        let mut dialogue = examination.dialogue()?;
        dialogue.read(name, &[])?;
        let answer = dialogue.answer()?;
        if let Answer::Data(_) = answer {
            let (octets, _) = dialogue.rest(BLKSIZE, 1, contents.len() + BLKSIZE)?;
            if octets == contents {
                return Ok(());
            }
        }
        if read == READS_MAX {
            let len = contents.len();
            return Err(dialogue.differs(&format!("the {len} octets that were written")));
        }
        thread::sleep(QUIET);
    }
}

fn round_trip(examination: &Examination, contents: &[u8]) -> Result<(), Fault> {
    let (mut dialogue, name) = plain(examination)?;
    send(&mut dialogue, contents)?;
    holds(examination, &name, contents)
}

fn written_is_read(examination: &Examination) -> Result<(), Fault> {
    round_trip(examination, &octets(3 * BLKSIZE + 100))
}

fn exact_multiple(examination: &Examination) -> Result<(), Fault> {
    round_trip(examination, &octets(2 * BLKSIZE))
}

fn empty_file(examination: &Examination) -> Result<(), Fault> {
    round_trip(examination, &[])
}

fn repeated_block(examination: &Examination) -> Result<(), Fault> {
    let contents = octets(2 * BLKSIZE + 7);
    let (mut dialogue, name) = plain(examination)?;
    for (block, payload) in (1..).zip(blocks(&contents)) {
        dialogue.data(block, payload)?;
        dialogue.acknowledged(block)?;
        if block == 1 {
            dialogue.data(block, payload)?;
            // The server may acknowledge it again or ignore it.
            dialogue.receive(QUIET)?;
        }
    }
    dialogue.finish();
    holds(examination, &name, &contents)
}

fn last_block_again(examination: &Examination) -> Result<(), Fault> {
    let contents = octets(100);
    let (mut dialogue, _) = plain(examination)?;
    send(&mut dialogue, &contents)?;
    dialogue.data(1, &contents)?;
    let again = dialogue.acknowledged(1);
    dialogue.finish();
    again
}

fn strangers_block(examination: &Examination) -> Result<(), Fault> {
    let contents = octets(BLKSIZE + 50);
    let (mut dialogue, name) = plain(examination)?;
    if examination.facts.single_port {
        return Err(untried(
            "it answers from the port that was asked: nobody is a stranger there",
        ));
    }
    let mut stranger = examination.dialogue()?;
    if let Some(peer) = dialogue.peer() {
        let header = write_data_header(WireBlock(1));
        stranger.send_to(peer, &[&header[..], &[0xff; BLKSIZE]].concat())?;
    }
    // The server may answer with ERROR 5.
    stranger.receive(QUIET)?;
    stranger.finish();
    send(&mut dialogue, &contents)?;
    holds(examination, &name, &contents)
}

fn netascii(examination: &Examination) -> Result<(), Fault> {
    let (mut dialogue, name, answer) = write(examination, Mode::Netascii, &[])?;
    if answer != Answer::Ack {
        return Err(dialogue.differs("ACK 0"));
    }
    send(&mut dialogue, b"one\r\ntwo\r\0three\r\n")?;
    holds(examination, &name, b"one\ntwo\rthree\n")
}

fn options(examination: &Examination) -> Result<(), Fault> {
    let asked = [("blksize", "1024")];
    let (mut dialogue, name, answer) = write(examination, Mode::Octet, &asked)?;
    let agreed = match answer.number("blksize") {
        Some(agreed) if (8..=1024).contains(&agreed) => agreed,
        Some(_) => return Err(dialogue.differs("blksize from 8 to 1024")),
        None => return Err(unsupported(format!("blksize is answered by {answer}"))),
    };
    if agreed != 1024 {
        return Err(untried(format!("blksize 1024 became {agreed}")));
    }
    let contents = octets(1024 + 10);
    dialogue.data(1, &contents[..1024])?;
    dialogue.acknowledged(1)?;
    dialogue.data(2, &contents[1024..])?;
    dialogue.acknowledged(2)?;
    dialogue.finish();
    holds(examination, &name, &contents)
}

fn tsize(examination: &Examination) -> Result<(), Fault> {
    let contents = octets(77);
    let (mut dialogue, name, answer) = write(examination, Mode::Octet, &[("tsize", "77")])?;
    match answer.option("tsize") {
        Some(b"77") => {}
        Some(_) => return Err(dialogue.differs("tsize=77")),
        None => return Err(unsupported(format!("tsize is answered by {answer}"))),
    }
    send(&mut dialogue, &contents)?;
    holds(examination, &name, &contents)
}

/// Starts a write in windows of four blocks.
fn windowed(examination: &Examination) -> Result<(Dialogue, Vec<u8>), Fault> {
    let (dialogue, name, answer) = write(examination, Mode::Octet, &[("windowsize", "4")])?;
    match answer.number("windowsize") {
        Some(4) => Ok((dialogue, name)),
        Some(1..=3) => Err(untried(format!("windowsize 4 is answered by {answer}"))),
        Some(_) => Err(dialogue.differs("windowsize from 1 to 4")),
        None => Err(unsupported(format!("windowsize is answered by {answer}"))),
    }
}

fn window(examination: &Examination) -> Result<(), Fault> {
    let contents = octets(5 * BLKSIZE + 1);
    let (mut dialogue, name) = windowed(examination)?;
    for (block, payload) in (1..).zip(blocks(&contents)) {
        dialogue.data(block, payload)?;
        if block == 4 || block == 6 {
            let Some(datagram) = dialogue.receive(super::ANSWER_WITHIN)? else {
                return Err(dialogue.differs(&format!("ACK {block}, and nothing came")));
            };
            if datagram.ack() != Some(block) {
                return Err(dialogue.differs(&format!("ACK {block} and no other")));
            }
        }
    }
    dialogue.finish();
    holds(examination, &name, &contents)
}

fn gap(examination: &Examination) -> Result<(), Fault> {
    let contents = octets(3 * BLKSIZE + 1);
    let (mut dialogue, name) = windowed(examination)?;
    let all: Vec<&[u8]> = blocks(&contents).collect();
    for block in [1, 2, 4] {
        dialogue.data(block, all[usize::from(block) - 1])?;
    }
    dialogue.acknowledged(2)?;
    for block in [3, 4] {
        dialogue.data(block, all[usize::from(block) - 1])?;
    }
    // The server may have reported the gap more than once.
    loop {
        match dialogue.receive(super::ANSWER_WITHIN)? {
            Some(datagram) if datagram.ack() == Some(4) => break,
            Some(datagram) if datagram.ack() == Some(2) => {}
            _ => return Err(dialogue.differs("ACK 4 after blocks 3 and 4")),
        }
    }
    dialogue.finish();
    holds(examination, &name, &contents)
}
