//! How long something took, and who waited for it in vain: percentiles are of all of them.

use crate::metrics::Latency;
use crate::time::Duration;

/// How long something took those to whom it came, and to whom it did not come.
///
/// Percentiles are of all of them. Were they of those alone to whom it came, then a server that lets the slow
/// ones fail would look quicker than one that serves everybody, and one that has come to a halt would show
/// nothing at all. Whoever failed counts as slower than anybody. Whoever was cut off would have waited for a
/// time that nobody knows, but for no less than it had: so it counts among the slowest too, and where the
/// others do not reach, there is a least time.
#[derive(Debug, Clone, Default)]
pub struct Waits {
    came: Latency,
    failed: u64,
    /// How long each had waited that was cut off, of the few that were under way together.
    cut: Vec<Duration>,
}

/// What a part of a whole number may be more than it is, for parts are told in binary: 0.56 of 100 are 56.
const ROUNDING: f64 = 1e-6;

/// What a part of all took at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantile {
    /// This.
    Exactly(Duration),
    /// This or more: some of them were cut off.
    AtLeast(Duration),
}

impl Quantile {
    /// The time, if it is known.
    #[must_use]
    pub const fn exactly(self) -> Option<Duration> {
        match self {
            Self::Exactly(time) => Some(time),
            Self::AtLeast(_) => None,
        }
    }
}

impl Waits {
    /// How long it took those to whom it came.
    #[must_use]
    pub const fn came(&self) -> &Latency {
        &self.came
    }

    /// How many failed before.
    #[must_use]
    pub const fn failed(&self) -> u64 {
        self.failed
    }

    /// How many were cut off before.
    #[must_use]
    pub const fn cut(&self) -> u64 {
        self.cut.len() as u64
    }

    /// How many waited for it, in vain or not.
    #[must_use]
    pub fn all(&self) -> u64 {
        self.came.count() + self.failed + self.cut()
    }

    /// The part of all to whom it came.
    #[must_use]
    pub fn part_that_came(&self) -> f64 {
        self.came.count() as f64 / self.all().max(1) as f64
    }

    /// What this part of all, from 0 to 1, took at most; `None` if that is not known, or there were none.
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

    /// What this part of all took at most, if that is known.
    #[must_use]
    pub fn exact_quantile(&self, part: f64) -> Option<Duration> {
        self.quantile(part)?.exactly()
    }

    /// It came after so long.
    pub(super) fn record(&mut self, took: Duration) {
        self.came.record(took);
    }

    /// It came to these.
    pub(super) fn all_came(came: Latency) -> Self {
        Self {
            came,
            ..Self::default()
        }
    }

    /// So many failed before.
    pub(super) const fn fail(&mut self, count: u64) {
        self.failed += count;
    }

    /// One that had waited so long was cut off.
    pub(super) fn cut_off(&mut self, waited: Duration) {
        self.cut.push(waited);
    }

    /// Adds what another counted.
    pub(super) fn merge(&mut self, other: &Self) {
        self.came.merge(&other.came);
        self.failed += other.failed;
        self.cut.extend_from_slice(&other.cut);
    }
}

/// The time of the one of this rank, from 1 on.
fn at_rank(latency: &Latency, rank: u64) -> Duration {
    // Amid the part that it has, for what is computed may lie on either side of the border.
    latency.quantile((rank as f64 - 0.5) / latency.count() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It came to some after 1 ms, 2 ms and so on.
    fn waits(came: u64, failed: u64, cut: &[u64]) -> Waits {
        let mut waits = Waits::default();
        (1..=came).for_each(|millis| waits.record(Duration::from_millis(millis)));
        waits.fail(failed);
        let cut = cut.iter().map(|&millis| Duration::from_millis(millis));
        cut.for_each(|waited| waits.cut_off(waited));
        waits
    }

    /// In milliseconds, with a sign before what is a least time.
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
        // Those that had hardly begun make nothing quicker.
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
