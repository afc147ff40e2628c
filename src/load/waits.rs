//! How long something took, and who waited for it in vain; percentiles include both.

use crate::metrics::Latency;
use crate::time::Duration;

/// The waiting times of those that got what they waited for, and the number of those that did not.
///
/// Percentiles include both. If they covered only successes, a server that lets the slow transfers fail
/// would look faster than one that serves all of them, and a stalled server would show no numbers at all.
/// A failed wait therefore counts as slower than any other. A wait that was cut off would have taken an
/// unknown time, but no less than it had taken so far: it also counts among the slowest, and percentiles
/// that fall among these have a lower bound only.
#[derive(Debug, Clone, Default)]
pub struct Waits {
    came: Latency,
    failed: u64,
    /// How long each wait that was cut off had lasted; only the few that were in progress together.
    cut: Vec<Duration>,
}

/// The tolerance for a fraction of an integer, as binary fractions are inexact: 0.56 of 100 is 56.
const ROUNDING: f64 = 1e-6;

/// The value of a percentile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantile {
    /// Exactly this.
    Exactly(Duration),
    /// At least this: some of the waits were cut off.
    AtLeast(Duration),
}

impl Quantile {
    /// The exact time, if it is known.
    #[must_use]
    pub const fn exactly(self) -> Option<Duration> {
        match self {
            Self::Exactly(time) => Some(time),
            Self::AtLeast(_) => None,
        }
    }
}

impl Waits {
    /// The distribution of the successful waits.
    #[must_use]
    pub const fn came(&self) -> &Latency {
        &self.came
    }

    /// How many waits ended in failure.
    #[must_use]
    pub const fn failed(&self) -> u64 {
        self.failed
    }

    /// How many were cut off.
    #[must_use]
    pub const fn cut(&self) -> u64 {
        self.cut.len() as u64
    }

    /// The number of all waits, successful or not.
    #[must_use]
    pub fn all(&self) -> u64 {
        self.came.count() + self.failed + self.cut()
    }

    /// The fraction of all waits that succeeded.
    #[must_use]
    pub fn part_that_came(&self) -> f64 {
        self.came.count() as f64 / self.all().max(1) as f64
    }

    /// The quantile at this fraction of all, from 0 to 1; `None` if it is unknown, or there were no
    /// waits.
    #[must_use]
    pub fn quantile(&self, part: f64) -> Option<Quantile> {
        let rank = ((part * self.all() as f64 - ROUNDING).ceil() as u64).max(1);
        if rank <= self.came.count() {
            return Some(Quantile::Exactly(at_rank(&self.came, rank)));
        }
        if rank > self.came.count() + self.cut() {
            return None;
        }
        let mut so_far = self.came.clone();
        self.cut.iter().for_each(|&waited| so_far.record(waited));
        Some(Quantile::AtLeast(at_rank(&so_far, rank)))
    }

    /// The quantile at this fraction of all, if it is known exactly.
    #[must_use]
    pub fn exact_quantile(&self, part: f64) -> Option<Duration> {
        self.quantile(part)?.exactly()
    }

    /// Records a success after this long.
    pub(super) fn record(&mut self, took: Duration) {
        self.came.record(took);
    }

    /// The waits if all succeeded, with this distribution.
    pub(super) fn all_came(came: Latency) -> Self {
        Self {
            came,
            ..Self::default()
        }
    }

    /// Records this many failures.
    pub(super) const fn fail(&mut self, count: u64) {
        self.failed += count;
    }

    /// Records a wait that was cut off after this long.
    pub(super) fn cut_off(&mut self, waited: Duration) {
        self.cut.push(waited);
    }

    /// Adds another thread's counts.
    pub(super) fn merge(&mut self, other: &Self) {
        self.came.merge(&other.came);
        self.failed += other.failed;
        self.cut.extend_from_slice(&other.cut);
    }
}

/// The time at this rank, counted from 1.
fn at_rank(latency: &Latency, rank: u64) -> Duration {
    // Aims at the middle of the rank's interval, because rounding may fall on either side of its border.
    latency.quantile((rank as f64 - 0.5) / latency.count() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waits that succeeded after 1 ms, 2 ms and so on.
    fn waits(came: u64, failed: u64, cut: &[u64]) -> Waits {
        let mut waits = Waits::default();
        (1..=came).for_each(|millis| waits.record(Duration::from_millis(millis)));
        waits.fail(failed);
        let cut = cut.iter().map(|&millis| Duration::from_millis(millis));
        cut.for_each(|waited| waits.cut_off(waited));
        waits
    }

    /// The quantile in milliseconds, with a sign before a lower bound.
    fn told(waits: &Waits, part: f64) -> String {
        let millis = |time: Duration| (time.as_secs_f64() * 1e3).round();
        match waits.quantile(part) {
            None => "none".to_owned(),
            Some(Quantile::Exactly(time)) => millis(time).to_string(),
            Some(Quantile::AtLeast(time)) => format!(">{}", millis(time)),
        }
    }

    #[test]
    fn whoever_failed_is_slower_than_anybody() {
        let all = waits(100, 0, &[]);
        let some = waits(56, 44, &[]);
        for (part, of_all, of_some) in [
            (0.0, "1", "1"),
            (0.5, "50", "50"),
            (0.56, "56", "56"),
            (0.57, "57", "none"),
            (0.99, "99", "none"),
            (1.0, "100", "none"),
        ] {
            assert_eq!(told(&all, part), of_all, "{part}");
            assert_eq!(told(&some, part), of_some, "{part}");
        }
        assert_eq!(told(&waits(0, 0, &[]), 0.5), "none");
        assert_eq!(told(&waits(0, 9, &[]), 0.5), "none");
    }

    #[test]
    fn whoever_was_cut_off_has_waited_that_long() {
        let halted = waits(2, 0, &[500, 600, 700, 800, 900, 1000, 1000, 1000]);
        assert_eq!(told(&halted, 0.2), "2");
        assert_eq!(told(&halted, 0.5), ">700");
        assert!(matches!(halted.quantile(1.0), Some(Quantile::AtLeast(_))));
        assert_eq!(halted.exact_quantile(0.5), None);
        // Waits cut off right after their start do not improve any percentile.
        let young = waits(10, 0, &[0, 0, 0, 0, 0]);
        assert_eq!(told(&young, 0.5), "8");
        let both = waits(1, 1, &[7]);
        let told_of = [0.3, 0.6, 0.9].map(|part| told(&both, part));
        assert_eq!(told_of, ["1", ">7", "none"]);
    }

    #[test]
    fn counts_add_up() {
        let mut sum = waits(3, 1, &[5]);
        sum.merge(&waits(2, 4, &[6, 7]));
        let counts = (sum.came().count(), sum.failed(), sum.cut(), sum.all());
        assert_eq!(counts, (5, 5, 3, 13));
    }
}
