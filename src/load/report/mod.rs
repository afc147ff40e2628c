//! How a run went, for people and for programs.

pub mod hgrm;
pub mod html;
pub mod json;
mod plot;
pub mod text;
pub mod words;

use super::plan::Pace;
use super::process::Usage;
use super::ramp::first_answers;
use super::{Load, Quantile, Tally};
use crate::time::Duration;

/// How a run went.
#[derive(Debug, Clone)]
pub struct Report {
    /// What was to be done.
    pub load: Load,
    /// Whether it was ended before its time.
    pub interrupted: bool,
    /// From the beginning to the end of the last transfer.
    pub elapsed: Duration,
    /// The most memory that this process held, in octets.
    pub memory_max: u64,
    /// What the server's process used meanwhile.
    pub server: Option<Usage>,
    /// What was counted.
    pub tally: Tally,
    /// What of it was counted of each group: transfers, and how long they took.
    pub groups: Vec<Tally>,
}

/// From here on, a thread had no time left: what looks like the server's slowness may be its own.
const BUSY: f64 = 0.95;

/// Whoever begins that late is not at the rate that was asked for: longer than any server takes that has the
/// first block at hand.
const LATE: Duration = Duration::from_millis(10);

/// From this part of the time to the first block on, lateness is a good part of it,
const LATE_PART: f64 = 0.25;

/// unless it is what any thread takes to wake up.
const LATE_MIN: Duration = Duration::from_millis(1);

/// From this part of the run on, waiting for a processor that others have spoils the numbers.
const STARVED: f64 = 0.1;

/// Less is what any thread waits for its turn, in a run that is over at once.
const STARVED_MIN: Duration = Duration::from_millis(10);

/// The parts of all that the percentiles stand for, with their names.
const QUANTILES: [(&str, f64); 5] = [
    ("p50", 0.5),
    ("p90", 0.9),
    ("p99", 0.99),
    ("p99.9", 0.999),
    ("max", 1.0),
];

/// What the signs in the place of percentiles mean.
const SIGNS: &str = "percentiles are of all, those that failed or were interrupted as the slowest: – stands for one that failed, ≥ for one that had waited so long";

/// What stands where there is no number: a percentile of nothing is not 0.
pub const NOTHING: &str = "–";

/// A percentile in words, with each time as `words` has it.
pub fn told(quantile: Option<Quantile>, words: impl Fn(Duration) -> String) -> String {
    match quantile {
        None => NOTHING.to_owned(),
        Some(Quantile::Exactly(time)) => words(time),
        Some(Quantile::AtLeast(time)) => format!("≥{}", words(time)),
    }
}

impl Report {
    /// Whether no transfer failed.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.tally.failures.is_empty()
    }

    /// Whether this end could not keep up, so that the server may be faster than it seems.
    #[must_use]
    pub fn is_bottleneck(&self) -> bool {
        self.had_no_time() || self.is_late()
    }

    /// Whether one of the threads had no time left.
    fn had_no_time(&self) -> bool {
        self.tally.busiest >= BUSY
    }

    /// Whether transfers began late, so that what is told of the server is told of this end too.
    fn is_late(&self) -> bool {
        // In a closed loop clients come when they can, and nothing is late.
        let mut paces = self.load.groups.iter().map(|group| group.pace);
        let is_closed = paces.all(|pace| matches!(pace, Pace::Closed { .. }));
        !is_closed && (self.lateness() > Some(LATE) || self.lateness_is_much())
    }

    /// Whether lateness is a good part of what clients waited for their first answer.
    fn lateness_is_much(&self) -> bool {
        let answers = first_answers(self).came();
        let much = answers.quantile(0.99).mul_f64(LATE_PART).max(LATE_MIN);
        answers.count() > 0 && self.lateness() > Some(much)
    }

    /// Whether it was this end that made the run what it was: a moment's lateness is worth a warning, but no
    /// excuse for a server that takes a hundred times as long.
    pub(super) fn was_limited_by_this_end(&self) -> bool {
        self.had_no_time() || self.is_late() && self.lateness_is_much()
    }

    /// How late 99 of 100 transfers began at most.
    fn lateness(&self) -> Option<Duration> {
        self.tally.lateness.exact_quantile(0.99)
    }

    /// Whether other programs took this end's processors away for a good part of the run.
    #[must_use]
    pub fn is_starved(&self) -> bool {
        let whole = self.elapsed.as_secs_f64() * self.load.threads as f64;
        let starved = self.tally.starved;
        starved > STARVED_MIN && starved.as_secs_f64() > whole * STARVED
    }

    /// How many a second.
    fn rate(&self, count: u64) -> f64 {
        // A run that took no time at all has no rate.
        count as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// This end's processor time for each datagram, in or out.
    #[must_use]
    pub fn own_cost(&self) -> Duration {
        let datagrams = self.tally.received.total() + self.tally.sent.total();
        self.tally.processor.div_f64(datagrams.max(1) as f64)
    }

    /// Whether there are those who waited in vain, so that percentiles need a word about whose they are.
    fn has_gaps(&self) -> bool {
        let mut waits = self.latencies().into_iter();
        waits.any(|(_, waits)| waits.all() > waits.came().count())
    }

    /// The groups with their names, where there are several.
    fn named_groups(&self) -> impl Iterator<Item = (&str, &Tally)> {
        let several = self.groups.len() > 1;
        let names = self.load.groups.iter().map(|group| group.name.as_str());
        names.zip(&self.groups).filter(move |_| several)
    }

    /// The server's processor seconds for each gigabyte transferred; `None` if it is not known, or nothing was.
    #[must_use]
    pub fn server_seconds_per_gigabyte(&self) -> Option<f64> {
        self.server_cost(self.tally.octets as f64 / 1e9)
    }

    /// The server's processor seconds for each transfer that completed; `None` if it is not known, or none did.
    #[must_use]
    pub fn server_seconds_per_transfer(&self) -> Option<f64> {
        self.server_cost(self.tally.complete as f64)
    }

    fn server_cost(&self, count: f64) -> Option<f64> {
        let seconds = self.server?.processor.as_secs_f64();
        (count > 0.0).then(|| seconds / count)
    }
}
