//! The results of a run, for people and for programs.

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

/// The results of a run.
#[derive(Debug, Clone)]
pub struct Report {
    /// The load that was run.
    pub load: Load,
    /// Whether the run was stopped early.
    pub interrupted: bool,
    /// The time from the start to the end of the last transfer.
    pub elapsed: Duration,
    /// This process's peak memory, in octets.
    pub memory_max: u64,
    /// The resource usage of the server's process during the run.
    pub server: Option<Usage>,
    /// The counters.
    pub tally: Tally,
    /// The counters of each group: its transfers and latencies.
    pub groups: Vec<Tally>,
}

/// From this utilization on, a thread is saturated: what looks like a slow server may be a slow
/// generator.
const BUSY: f64 = 0.95;

/// Transfers that start this late miss the requested rate: no server takes that long if it has the first
/// block at hand.
const LATE: Duration = Duration::from_millis(10);

/// From this fraction of the time to the first block on, lateness is significant,
const LATE_PART: f64 = 0.25;

/// unless it is no more than any thread's wake-up latency.
const LATE_MIN: Duration = Duration::from_millis(1);

/// If threads wait this fraction of the run for a CPU that other programs use, the numbers are
/// unreliable.
const STARVED: f64 = 0.1;

/// In a very short run, any thread may wait this long for its turn.
const STARVED_MIN: Duration = Duration::from_millis(10);

/// The reported percentiles: their names and fractions.
const QUANTILES: [(&str, f64); 5] = [
    ("p50", 0.5),
    ("p90", 0.9),
    ("p99", 0.99),
    ("p99.9", 0.999),
    ("max", 1.0),
];

/// The meaning of the signs in place of percentiles.
const SIGNS: &str = "percentiles are of all, those that failed or were interrupted as the slowest: – stands for one that failed, ≥ for one that had waited so long";

/// The placeholder for a missing number: a percentile of nothing is not 0.
pub const NOTHING: &str = "–";

/// A percentile as text, with each time formatted by `words`.
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

    /// Whether the generator could not keep up, so that the server may be faster than it seems.
    #[must_use]
    pub fn is_bottleneck(&self) -> bool {
        self.had_no_time() || self.is_late()
    }

    /// Whether one of the threads was saturated.
    fn had_no_time(&self) -> bool {
        self.tally.busiest >= BUSY
    }

    /// Whether transfers started late, so that latencies include the generator's own delay.
    fn is_late(&self) -> bool {
        // In a closed loop there is no schedule, so nothing is late.
        let mut paces = self.load.groups.iter().map(|group| group.pace);
        let is_closed = paces.all(|pace| matches!(pace, Pace::Closed { .. }));
        !is_closed && (self.lateness() > Some(LATE) || self.lateness_is_much())
    }

    /// Whether lateness is a significant part of the time to the first answer.
    fn lateness_is_much(&self) -> bool {
        let answers = first_answers(self).came();
        let much = answers.quantile(0.99).mul_f64(LATE_PART).max(LATE_MIN);
        answers.count() > 0 && self.lateness() > Some(much)
    }

    /// Whether the generator was the bottleneck of the run. A moment's lateness is worth a warning, but
    /// does not excuse a server that takes a hundred times as long.
    pub(super) fn was_limited_by_this_end(&self) -> bool {
        self.had_no_time() || self.is_late() && self.lateness_is_much()
    }

    /// The 99th percentile of lateness.
    fn lateness(&self) -> Option<Duration> {
        self.tally.lateness.exact_quantile(0.99)
    }

    /// Whether other programs used the generator's CPUs for a significant part of the run.
    #[must_use]
    pub fn is_starved(&self) -> bool {
        let whole = self.elapsed.as_secs_f64() * self.load.threads as f64;
        let starved = self.tally.starved;
        starved > STARVED_MIN && starved.as_secs_f64() > whole * STARVED
    }

    /// The rate per second.
    fn rate(&self, count: u64) -> f64 {
        // A run of zero length has no rate.
        count as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// The generator's CPU time per datagram, in or out.
    #[must_use]
    pub fn own_cost(&self) -> Duration {
        let datagrams = self.tally.received.total() + self.tally.sent.total();
        self.tally.processor.div_f64(datagrams.max(1) as f64)
    }

    /// Whether there were waits in vain, so that the report must say what percentiles include.
    fn has_gaps(&self) -> bool {
        let mut waits = self.latencies().into_iter();
        waits.any(|(_, waits)| waits.all() > waits.came().count())
    }

    /// The groups with their names, if there are several.
    fn named_groups(&self) -> impl Iterator<Item = (&str, &Tally)> {
        let several = self.groups.len() > 1;
        let names = self.load.groups.iter().map(|group| group.name.as_str());
        names.zip(&self.groups).filter(move |_| several)
    }

    /// The server's CPU seconds per gigabyte transferred; `None` if unknown, or nothing was transferred.
    #[must_use]
    pub fn server_seconds_per_gigabyte(&self) -> Option<f64> {
        self.server_cost(self.tally.octets as f64 / 1e9)
    }

    /// The server's CPU seconds per completed transfer; `None` if unknown, or none completed.
    #[must_use]
    pub fn server_seconds_per_transfer(&self) -> Option<f64> {
        self.server_cost(self.tally.complete as f64)
    }

    fn server_cost(&self, count: f64) -> Option<f64> {
        let seconds = self.server?.processor.as_secs_f64();
        (count > 0.0).then(|| seconds / count)
    }
}
