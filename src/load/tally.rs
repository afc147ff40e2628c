//! The counters of a run; those of several threads add up.

use std::collections::BTreeMap;
use std::fmt;

use super::Waits;
use super::timeline::Timeline;
use super::weather::Disturbed;
use crate::metrics::Packets;
use crate::proto::outcome::Outcome;
use crate::shard::{Ending, Flaw, Operation};
use crate::time::Duration;
use crate::wire::{ErrorCode, Escaped};

/// Why a transfer failed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// The server never answered.
    Unanswered,
    /// The server stopped responding.
    TimedOut,
    /// The server's host reported the port as closed.
    Refused,
    /// The server sent ERROR.
    ErrorCode(u16),
    /// The contents were wrong, too short or too long.
    Flawed(Flaw),
    /// The client could not accept the server's answer.
    BadAnswer,
    /// The system provided no socket: its error number.
    NotBegun(i32),
}

impl Failure {
    /// The failure that corresponds to an ending; `None` if the transfer succeeded or was ended on
    /// purpose.
    fn of(ending: &Ending) -> Option<Self> {
        if let Some(flaw) = ending.flaw {
            return Some(Self::Flawed(flaw));
        }
        match ending.outcome {
            Outcome::Complete | Outcome::Stopped => None,
            Outcome::PeerError(code) => Some(Self::ErrorCode(code.0)),
            Outcome::TimedOut => Some(Self::TimedOut),
            Outcome::Unanswered | Outcome::Evicted | Outcome::Replaced => Some(Self::Unanswered),
            Outcome::Refused(_) | Outcome::Probed => Some(Self::BadAnswer),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unanswered => f.write_str("unanswered"),
            Self::TimedOut => f.write_str("timed out"),
            Self::Refused => f.write_str("refused"),
            Self::ErrorCode(code) => write!(f, "error {}", ErrorCode(*code)),
            Self::Flawed(flaw) => write!(f, "{flaw}"),
            Self::BadAnswer => f.write_str("bad answer"),
            Self::NotBegun(errno) => {
                let error = std::io::Error::from_raw_os_error(*errno);
                write!(f, "not begun ({error}")?;
                if matches!(*errno, libc::EMFILE | libc::ENFILE) {
                    f.write_str("; each client takes one, so raise ulimit -n, or have fewer")?;
                }
                f.write_str(")")
            }
        }
    }
}

/// Details of a failed transfer, for diagnosis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirstFailure {
    /// The file's name.
    pub file: String,
    /// The message in the server's ERROR.
    pub said: Option<String>,
}

impl FirstFailure {
    fn of(ending: &Ending) -> Self {
        let erred = matches!(ending.outcome, Outcome::PeerError(_));
        Self {
            file: Escaped(&ending.filename).to_string(),
            said: erred.then(|| Escaped(&ending.text).to_string()),
        }
    }
}

/// The counters.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Transfers that were due to start.
    pub begun: u64,
    /// Transfers that completed.
    pub complete: u64,
    /// Transfers that the generator ended on purpose: their clients were to vanish, or the run was
    /// interrupted.
    pub left: u64,
    /// Those of them that were interrupted.
    pub interrupted: u64,
    /// Requests for the length alone, before transfers.
    pub probes: u64,
    /// Packets impaired on purpose by the clients.
    pub disturbed: Disturbed,
    /// Failed transfers, by reason.
    pub failures: BTreeMap<Failure, u64>,
    /// The first failed transfer for each reason, if it got far enough to have details.
    pub first_failures: BTreeMap<Failure, FirstFailure>,
    /// Octets of files transferred, in complete and incomplete transfers.
    pub octets: u64,
    /// Blocks transferred.
    pub blocks: u64,
    /// Datagrams that the clients sent again.
    pub retransmissions: u64,
    /// Blocks that arrived more than once.
    pub duplicates: u64,
    /// How often each pair of block size and window size was negotiated.
    pub terms: BTreeMap<(u16, u16), u64>,
    /// From the intended start to the first OACK. Servers need not acknowledge options, so a client that
    /// received a block without an OACK does not count as having waited in vain.
    pub oack: Waits,
    /// From the intended start to the first block of a read.
    pub first_block: Waits,
    /// From an ACK to the block that it asks for, or from a block to its ACK, for those that arrived.
    pub round_trip: Waits,
    /// The average time per block, one value for each transfer.
    pub block: Waits,
    /// From the intended start to the end.
    pub transfer: Waits,
    /// How much later than intended transfers started: the generator's own delay.
    pub lateness: Waits,
    /// Datagrams received.
    pub received: Packets,
    /// Datagrams sent.
    pub sent: Packets,
    /// Datagrams that the clients' kernel dropped because a receive queue was full.
    pub receive_drops: u64,
    /// CPU time of the threads that drive clients.
    pub processor: Duration,
    /// How long these threads waited for a CPU that others were using.
    pub starved: Duration,
    /// The highest CPU utilization of any of these threads in its busiest second, as a fraction.
    pub busiest: f64,
    /// The counts over time.
    pub timeline: Timeline,
}

impl Tally {
    /// Counts the OACK, or its absence, for a client's first request, which was sent `late` and asked for
    /// options.
    pub(super) fn agreed(&mut self, ending: &Ending, late: Duration, was_cut: bool) {
        if let Some(oack) = ending.oack {
            self.oack.record(late + oack);
        } else if ending.blocks > 0 || ending.outcome == Outcome::Complete {
            // The server does not support options.
        } else if ending.outcome != Outcome::Stopped {
            self.oack.fail(1);
        } else if was_cut {
            self.oack.cut_off(late + ending.elapsed);
        }
    }

    /// Counts a transfer that ended at `time` in the run and started `late`. If the generator ended it,
    /// it either `was_cut` or was meant to vanish.
    pub(super) fn count(&mut self, ending: &Ending, late: Duration, time: Duration, was_cut: bool) {
        self.octets += ending.octets;
        self.blocks += ending.blocks;
        self.retransmissions += ending.retransmissions;
        self.duplicates += ending.duplicates;
        if let Some(first_block) = ending.first_block {
            self.first_block.record(late + first_block);
        }
        if let Some(failure) = Failure::of(ending) {
            self.first_failures
                .entry(failure.clone())
                .or_insert_with(|| FirstFailure::of(ending));
            self.fail(failure, time, lacks_block(ending));
        } else if ending.outcome == Outcome::Complete {
            self.complete += 1;
            self.timeline.at(time).complete += 1;
            if let Ok(blocks) = u32::try_from(ending.blocks.max(1)) {
                self.block.record(ending.elapsed / blocks);
            }
            self.transfer.record(late + ending.elapsed);
            let terms = (ending.params.blksize(), ending.params.windowsize());
            *self.terms.entry(terms).or_default() += 1;
        } else {
            self.left += 1;
            if was_cut {
                self.cut_off(ending, late + ending.elapsed);
            }
        }
    }

    /// Counts a transfer that was cut off after it had waited this long.
    fn cut_off(&mut self, ending: &Ending, waited: Duration) {
        self.transfer.cut_off(waited);
        // The average time that its blocks would have taken is unknown.
        self.block.fail(1);
        if lacks_block(ending) {
            self.first_block.cut_off(waited);
        }
    }

    /// Counts a failure at `time` in the run; the transfer may have been a read whose first block never
    /// came.
    pub(super) fn fail(&mut self, failure: Failure, time: Duration, lacks_block: bool) {
        self.transfer.fail(1);
        self.block.fail(1);
        self.first_block.fail(u64::from(lacks_block));
        let failures = &mut self.timeline.at(time).failures;
        *failures.entry(failure.clone()).or_default() += 1;
        *self.failures.entry(failure).or_default() += 1;
    }

    /// Failed transfers.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    /// Adds another thread's counts to these.
    pub fn merge(&mut self, other: &Self) {
        self.begun += other.begun;
        self.complete += other.complete;
        self.left += other.left;
        self.interrupted += other.interrupted;
        self.probes += other.probes;
        self.disturbed.merge(&other.disturbed);
        self.octets += other.octets;
        self.blocks += other.blocks;
        self.retransmissions += other.retransmissions;
        self.duplicates += other.duplicates;
        self.receive_drops += other.receive_drops;
        self.processor += other.processor;
        self.starved += other.starved;
        self.busiest = self.busiest.max(other.busiest);
        for (failure, count) in &other.failures {
            *self.failures.entry(failure.clone()).or_default() += count;
        }
        for (failure, first) in &other.first_failures {
            self.first_failures
                .entry(failure.clone())
                .or_insert_with(|| first.clone());
        }
        for (&terms, count) in &other.terms {
            *self.terms.entry(terms).or_default() += count;
        }
        self.oack.merge(&other.oack);
        self.first_block.merge(&other.first_block);
        self.round_trip.merge(&other.round_trip);
        self.block.merge(&other.block);
        self.transfer.merge(&other.transfer);
        self.lateness.merge(&other.lateness);
        self.received.merge(&other.received);
        self.sent.merge(&other.sent);
        self.timeline.merge(&other.timeline);
    }
}

/// Whether it was a read that received no block.
pub(super) fn lacks_block(ending: &Ending) -> bool {
    ending.operation == Operation::Read && ending.first_block.is_none()
}
