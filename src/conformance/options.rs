//! Options of read requests: RFC 2347, 2348 and 2349.

use super::Level::{Must, Should};
use super::dialogue::Answer;
use super::{Case, Examination, Fault, READ_OCTETS_MAX, unsupported, untried};
use crate::proto::netascii::encoded_len;
use crate::time::Duration;
use crate::wire::{ErrorCode, Mode, Opcode};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "nothing is in an OACK that was not asked for",
        rule: "RFC 2347",
        level: Must,
        examine: nothing_unasked,
    },
    Case {
        name: "a request with unknown options alone is answered by DATA",
        rule: "RFC 2347",
        level: Should,
        examine: unknown_alone,
    },
    Case {
        name: "names of options count in any case",
        rule: "RFC 2347",
        level: Must,
        examine: names_in_any_case,
    },
    Case {
        name: "an option that is asked for twice is answered once",
        rule: "RFC 2347",
        level: Should,
        examine: repeated_option,
    },
    Case {
        name: "DATA waits for ACK 0 of the OACK",
        rule: "RFC 2347",
        level: Must,
        examine: data_waits,
    },
    Case {
        name: "an OACK that is not acknowledged comes again",
        rule: "RFC 2347",
        level: Must,
        examine: oack_repeats,
    },
    Case {
        name: "ERROR 8 to the OACK ends the transfer (UEFI asks for lengths so)",
        rule: "RFC 2347",
        level: Must,
        examine: error_8_ends,
    },
    Case {
        name: "blocks are as large as agreed, and no larger than asked",
        rule: "RFC 2348",
        level: Must,
        examine: blksize_is_kept,
    },
    Case {
        name: "blksize 8, the least, is not made larger",
        rule: "RFC 2348",
        level: Must,
        examine: blksize_least,
    },
    Case {
        name: "blksize 65464, the most, is agreed to or made smaller",
        rule: "RFC 2348",
        level: Must,
        examine: blksize_most,
    },
    Case {
        name: "blksize 7 is not agreed to",
        rule: "RFC 2348",
        level: Should,
        examine: |examination| out_of_bounds(examination, "blksize", "7", 8..=65464),
    },
    Case {
        name: "blksize 65465 is made smaller or left out",
        rule: "RFC 2348",
        level: Should,
        examine: |examination| out_of_bounds(examination, "blksize", "65465", 8..=65464),
    },
    Case {
        name: "blksize -1 is no number",
        rule: "RFC 2348",
        level: Should,
        examine: |examination| out_of_bounds(examination, "blksize", "-1", 8..=65464),
    },
    Case {
        name: "a timeout is agreed to as it is, or not at all",
        rule: "RFC 2349",
        level: Must,
        examine: timeout_as_it_is,
    },
    Case {
        name: "timeout 0 is not agreed to",
        rule: "RFC 2349",
        level: Should,
        examine: |examination| out_of_bounds(examination, "timeout", "0", 1..=255),
    },
    Case {
        name: "timeout 256 is not agreed to",
        rule: "RFC 2349",
        level: Should,
        examine: |examination| out_of_bounds(examination, "timeout", "256", 1..=255),
    },
    Case {
        name: "tsize is the file's length",
        rule: "RFC 2349",
        level: Must,
        examine: tsize,
    },
    Case {
        name: "tsize in netascii is what will come, or left out",
        rule: "RFC 2349",
        level: Should,
        examine: tsize_in_netascii,
    },
    Case {
        name: "all options at once are answered in one OACK, and the file comes so",
        rule: "RFC 2347",
        level: Must,
        examine: all_at_once,
    },
];

/// An undefined option.
const UNKNOWN: (&str, &str) = ("bootstorm-check", "1");

fn nothing_unasked(examination: &Examination) -> Result<(), Fault> {
    let asked = [UNKNOWN, ("blksize", "512")];
    let (dialogue, answer, _) = examination.agree(&asked, "blksize")?;
    match answer {
        Answer::Oack(options) if options.len() == 1 => Ok(()),
        _ => Err(dialogue.differs("an OACK that holds blksize alone")),
    }
}

fn unknown_alone(examination: &Examination) -> Result<(), Fault> {
    let (dialogue, answer) = examination.read(&[UNKNOWN])?;
    match answer {
        Answer::Data(_) => Ok(()),
        _ => Err(dialogue.differs("DATA 1, as if nothing had been asked for")),
    }
}

fn names_in_any_case(examination: &Examination) -> Result<(), Fault> {
    if examination.facts.blksize.is_none() {
        return Err(unsupported("it does not know blksize"));
    }
    let (dialogue, answer) = examination.read(&[("bLkSiZe", "1024")])?;
    match answer.option("blksize") {
        Some(_) => Ok(()),
        None => Err(dialogue.differs("an OACK to \"bLkSiZe\" as to \"blksize\"")),
    }
}

fn repeated_option(examination: &Examination) -> Result<(), Fault> {
    let asked = [("blksize", "1024"), ("blksize", "600")];
    let (dialogue, answer) = examination.read(&asked)?;
    match answer {
        Answer::Oack(options) if options.len() > 1 => Err(dialogue.differs("blksize once")),
        Answer::Other(_) | Answer::Ack => Err(dialogue.differs("an OACK, DATA 1 or ERROR 8")),
        _ => Ok(()),
    }
}

fn data_waits(examination: &Examination) -> Result<(), Fault> {
    let (mut dialogue, _, _) = examination.agree(&[("blksize", "512")], "blksize")?;
    dialogue.quiet("nothing before ACK 0")?;
    dialogue.ack(0)?;
    dialogue.block(1).map(drop)
}

fn oack_repeats(examination: &Examination) -> Result<(), Fault> {
    let (soon, within) = examination.soon();
    let options = [soon, &[("blksize", "512")]].concat();
    let (mut dialogue, answer) = examination.read(&options)?;
    if !matches!(answer, Answer::Oack(_)) {
        return Err(unsupported(format!("no OACK: {answer}")));
    }
    let again = dialogue.receive(within)?;
    let again = again.as_ref().and_then(|datagram| datagram.packet());
    match again {
        Some(crate::wire::Packet::Oack(_)) => Ok(()),
        _ => Err(dialogue.differs(&format!("the OACK once more within {} s", within.as_secs()))),
    }
}

fn error_8_ends(examination: &Examination) -> Result<(), Fault> {
    let (soon, within) = examination.soon();
    let options = [soon, &[("tsize", "0")]].concat();
    let (mut dialogue, answer) = examination.read(&options)?;
    if !matches!(answer, Answer::Oack(_)) {
        return Err(unsupported(format!("no OACK: {answer}")));
    }
    dialogue.error(ErrorCode::OPTIONS, b"the length was all")?;
    dialogue.quiet_for(within.min(Duration::from_millis(2_500)), "nothing more")
}

fn blksize_is_kept(examination: &Examination) -> Result<(), Fault> {
    bounded(examination, "1000", 1000)
}

fn blksize_least(examination: &Examination) -> Result<(), Fault> {
    bounded(examination, "8", 8)
}

fn blksize_most(examination: &Examination) -> Result<(), Fault> {
    bounded(examination, "65464", 65464)
}

/// Requests this block size, and reads a part of the file with it.
fn bounded(examination: &Examination, asked: &str, most: usize) -> Result<(), Fault> {
    let (mut dialogue, _, terms) = examination.agree(&[("blksize", asked)], "blksize")?;
    if terms.blksize > most || terms.blksize < 8 {
        return Err(dialogue.differs(&format!("blksize from 8 to {most}")));
    }
    // A few blocks, however small they are.
    let octets_max = (terms.blksize * 32).min(READ_OCTETS_MAX * 2);
    let (octets, _) = dialogue.rest(terms.blksize, 1, octets_max)?;
    examination.same(&dialogue, &octets)
}

/// A value that no RFC allows: the server may omit it, refuse it with ERROR 8, or change it to a valid
/// one.
pub(super) fn out_of_bounds(
    examination: &Examination,
    name: &str,
    value: &str,
    bounds: std::ops::RangeInclusive<u64>,
) -> Result<(), Fault> {
    let (dialogue, answer) = examination.read(&[(name, value)])?;
    let good = match &answer {
        Answer::Oack(options) if options.is_empty() => false,
        // A timeout must be the one that was requested.
        Answer::Oack(_) if name == "timeout" => false,
        Answer::Oack(_) => answer
            .number(name)
            .is_some_and(|number| bounds.contains(&number)),
        Answer::Data(_) => true,
        Answer::Error(code, _) => *code == ErrorCode::OPTIONS.0,
        Answer::Ack | Answer::Other(_) => false,
    };
    if good {
        return Ok(());
    }
    let (least, most) = (bounds.start(), bounds.end());
    let made = if name == "timeout" {
        String::new()
    } else {
        format!(", an OACK with {name} from {least} to {most}")
    };
    Err(dialogue.differs(&format!("DATA 1{made} or ERROR 8 to {name}={value}")))
}

fn timeout_as_it_is(examination: &Examination) -> Result<(), Fault> {
    for asked in ["3", "255"] {
        let (dialogue, answer) = examination.read(&[("timeout", asked)])?;
        match answer.option("timeout") {
            None if asked == "3" => {
                return Err(unsupported(format!("timeout is answered by {answer}")));
            }
            Some(agreed) if agreed != asked.as_bytes() => {
                return Err(dialogue.differs(&format!("timeout={asked} or none")));
            }
            _ => {}
        }
    }
    Ok(())
}

fn tsize(examination: &Examination) -> Result<(), Fault> {
    let length = examination.length()?;
    if !examination.facts.tsize {
        return Err(unsupported("tsize is left out"));
    }
    let (dialogue, answer) = examination.read(&[("tsize", "0")])?;
    if answer.number("tsize") == Some(length as u64) {
        Ok(())
    } else {
        Err(dialogue.differs(&format!("tsize={length}, for so much came")))
    }
}

fn tsize_in_netascii(examination: &Examination) -> Result<(), Fault> {
    let length = encoded_len(&examination.facts.contents);
    let raw = examination.length()? as u64;
    if length == raw {
        return Err(untried("the file has no ends of lines"));
    }
    let mut dialogue = examination.dialogue()?;
    let name = &examination.target.file;
    dialogue.request(Opcode::Rrq, name, Mode::Netascii, &[("tsize", "0")])?;
    match dialogue.answer()? {
        // The server's own variant of netascii may have another length, but the file's is certainly wrong.
        answer if answer.option("tsize").is_some() && answer.number("tsize") != Some(length) => {
            Err(dialogue.differs(&format!(
                "tsize={length}, or none; the file has {raw} octets"
            )))
        }
        Answer::Other(_) | Answer::Ack => Err(dialogue.differs("DATA 1, an OACK or an ERROR")),
        _ => Ok(()),
    }
}

fn all_at_once(examination: &Examination) -> Result<(), Fault> {
    let asked = [
        ("tsize", "0"),
        ("windowsize", "4"),
        ("blksize", "1024"),
        ("timeout", "2"),
    ];
    let (mut dialogue, answer) = examination.read(&asked)?;
    let Answer::Oack(_) = answer else {
        return Err(unsupported(format!("no OACK: {answer}")));
    };
    let number = |name| answer.number(name);
    let blksize = number("blksize").and_then(|octets| usize::try_from(octets).ok());
    let windowsize = number("windowsize").and_then(|blocks| u16::try_from(blocks).ok());
    let (octets, _) = dialogue.rest(
        blksize.unwrap_or(super::BLKSIZE),
        windowsize.unwrap_or(1).max(1),
        READ_OCTETS_MAX,
    )?;
    examination.same(&dialogue, &octets)
}
