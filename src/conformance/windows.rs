//! Windows of read requests: RFC 7440.

use super::Level::{Must, Should};
use super::dialogue::Dialogue;
use super::options::out_of_bounds;
use super::{Case, Examination, Fault, READ_OCTETS_MAX, untried};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "the window is no larger than asked",
        rule: "RFC 7440 §3",
        level: Must,
        examine: no_larger,
    },
    Case {
        name: "windowsize 0 is not agreed to",
        rule: "RFC 7440 §3",
        level: Should,
        examine: |examination| out_of_bounds(examination, "windowsize", "0", 1..=65535),
    },
    Case {
        name: "windowsize 65536 is not agreed to as such",
        rule: "RFC 7440 §3",
        level: Should,
        examine: |examination| out_of_bounds(examination, "windowsize", "65536", 1..=65535),
    },
    Case {
        name: "a window is sent, and then its ACK waited for",
        rule: "RFC 7440 §4",
        level: Must,
        examine: window_then_ack,
    },
    Case {
        name: "an ACK inside the window resumes behind it",
        rule: "RFC 7440 §4",
        level: Must,
        examine: partial_ack,
    },
    Case {
        name: "the duplicate of such an ACK causes no second window",
        rule: "RFC 1123 §4.2.3.1",
        level: Should,
        examine: duplicate_partial_ack,
    },
    Case {
        name: "an ACK of an older window causes no send",
        rule: "RFC 1123 §4.2.3.1",
        level: Should,
        examine: older_window,
    },
    Case {
        name: "a window that is not acknowledged comes again",
        rule: "RFC 7440 §4",
        level: Must,
        examine: window_repeats,
    },
    Case {
        name: "a file in windows is the file, and its last window may be short",
        rule: "RFC 7440 §4",
        level: Must,
        examine: whole_file,
    },
];

/// The requested window size, in blocks.
const WINDOW: u16 = 4;

/// Starts a read in windows of four blocks; the file must have more than `windows` of them.
fn windowed(examination: &Examination, windows: u16) -> Result<(Dialogue, usize), Fault> {
    let blksize = if examination.facts.contents.len() > usize::from(windows * WINDOW) * 512 {
        "512"
    } else {
        "8"
    };
    // Also requests a timeout: without one, some servers measure the round trip and repeat after a few
    // milliseconds.
    let mut options = vec![("windowsize", "4"), ("blksize", blksize)];
    options.extend(examination.soon().0);
    let (dialogue, _, terms) = examination.agree(&options, "windowsize")?;
    if terms.windowsize != WINDOW {
        return Err(untried(format!("windowsize 4 became {}", terms.windowsize)));
    }
    if examination.facts.contents.len() <= usize::from(windows * WINDOW) * terms.blksize {
        return Err(untried("the file is too short"));
    }
    Ok((dialogue, terms.blksize))
}

/// Takes this many blocks, starting with block `first`.
fn take(dialogue: &mut Dialogue, first: u16, count: u16) -> Result<(), Fault> {
    (first..first + count).try_for_each(|block| dialogue.block_of_window(block, WINDOW).map(drop))
}

fn no_larger(examination: &Examination) -> Result<(), Fault> {
    let (dialogue, _, terms) = examination.agree(&[("windowsize", "3")], "windowsize")?;
    if (1..=3).contains(&terms.windowsize) {
        Ok(())
    } else {
        Err(dialogue.differs("windowsize from 1 to 3"))
    }
}

fn window_then_ack(examination: &Examination) -> Result<(), Fault> {
    let (mut dialogue, _) = windowed(examination, 2)?;
    dialogue.ack(0)?;
    take(&mut dialogue, 1, WINDOW)?;
    dialogue.quiet("nothing before ACK 4")?;
    dialogue.ack(4)?;
    take(&mut dialogue, 5, WINDOW)
}

fn partial_ack(examination: &Examination) -> Result<(), Fault> {
    let (mut dialogue, _) = windowed(examination, 2)?;
    dialogue.ack(0)?;
    take(&mut dialogue, 1, WINDOW)?;
    dialogue.ack(2)?;
    // Not `take`, which would skip a repeat of block 2.
    let next = dialogue.receive(super::ANSWER_WITHIN)?;
    if next
        .and_then(|datagram| datagram.data(3).map(drop))
        .is_none()
    {
        return Err(dialogue.differs("DATA 3, 4, 5 and 6 after ACK 2"));
    }
    take(&mut dialogue, 4, 3)
}

fn duplicate_partial_ack(examination: &Examination) -> Result<(), Fault> {
    let (mut dialogue, _) = windowed(examination, 2)?;
    dialogue.ack(0)?;
    take(&mut dialogue, 1, WINDOW)?;
    dialogue.ack(2)?;
    take(&mut dialogue, 3, WINDOW)?;
    dialogue.ack(2)?;
    dialogue.quiet("nothing for the second ACK 2")
}

fn older_window(examination: &Examination) -> Result<(), Fault> {
    let (mut dialogue, _) = windowed(examination, 2)?;
    dialogue.ack(0)?;
    take(&mut dialogue, 1, WINDOW)?;
    dialogue.ack(4)?;
    take(&mut dialogue, 5, WINDOW)?;
    dialogue.ack(1)?;
    dialogue.quiet("nothing for an ACK 1 that comes after ACK 4")
}

fn window_repeats(examination: &Examination) -> Result<(), Fault> {
    let (mut dialogue, _) = windowed(examination, 1)?;
    dialogue.ack(0)?;
    take(&mut dialogue, 1, WINDOW)?;
    let within = examination.soon().1;
    let again = dialogue.receive(within)?;
    if again
        .and_then(|datagram| datagram.data(1).map(drop))
        .is_some()
    {
        return Ok(());
    }
    let seconds = within.as_secs();
    Err(dialogue.differs(&format!("DATA 1 to 4 once more within {seconds} s")))
}

fn whole_file(examination: &Examination) -> Result<(), Fault> {
    let asked = [("windowsize", "7"), ("blksize", "512")];
    let (mut dialogue, _, terms) = examination.agree(&asked, "windowsize")?;
    let (octets, _) = dialogue.rest(terms.blksize, terms.windowsize.max(1), READ_OCTETS_MAX)?;
    examination.same(&dialogue, &octets)
}
