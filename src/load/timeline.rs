//! Counts over time: a series of intervals. They are short at first and widen as a run gets longer, so
//! that a run of any length fits in the same memory.

use std::collections::BTreeMap;

use super::Failure;
use crate::time::Duration;

/// The initial width of intervals: short enough to resolve a storm that is over in a second.
const INTERVAL_MIN: Duration = Duration::from_millis(10);
/// The maximum number of intervals; when it is reached, pairs are merged.
const POINTS_MAX: usize = 1024;

/// The counts over time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeline {
    interval: Duration,
    points: Vec<Point>,
}

/// The counts of one interval.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Point {
    /// Octets of blocks received, repeats included.
    pub received: u64,
    /// Octets of blocks sent, repeats included.
    pub sent: u64,
    /// Transfers that started.
    pub begun: u64,
    /// Transfers that completed.
    pub complete: u64,
    /// Failed transfers, by reason.
    pub failures: BTreeMap<Failure, u64>,
    /// Transfers running at the end of the interval.
    pub active: u64,
}

impl Timeline {
    /// The width of an interval.
    #[must_use]
    pub const fn interval(&self) -> Duration {
        self.interval
    }

    /// The intervals, from the start of the run; at least one.
    #[must_use]
    pub fn points(&self) -> &[Point] {
        &self.points
    }

    /// The same, merged into at most `max` intervals.
    #[must_use]
    pub fn in_at_most(&self, max: usize) -> Self {
        let mut wider = self.clone();
        while wider.points.len() > max.max(1) {
            wider.widen();
        }
        wider
    }

    /// Advances to a time, relative to the start of the run; what is counted from now on counts there.
    pub(super) fn at(&mut self, time: Duration) -> &mut Point {
        while self.index(time) >= POINTS_MAX {
            self.widen();
        }
        let last = self.points.len() - 1;
        // Time never goes back, but readings of two clocks might.
        let index = self.index(time).max(last);
        // Transfers running at the end of an interval kept running through intervals without events.
        let silent = Point {
            active: self.points[last].active,
            ..Point::default()
        };
        self.points.resize(index + 1, silent);
        &mut self.points[index]
    }

    /// Adds the counts of another thread over the same period.
    pub(super) fn merge(&mut self, other: &Self) {
        let mut other = other.clone();
        while self.interval < other.interval {
            self.widen();
        }
        while other.interval < self.interval {
            other.widen();
        }
        let len = self.points.len().max(other.points.len());
        for timeline in [&mut *self, &mut other] {
            let active = timeline.points.last().map_or(0, |point| point.active);
            let silent = Point {
                active,
                ..Point::default()
            };
            timeline.points.resize(len, silent);
        }
        for (own, other) in self.points.iter_mut().zip(&other.points) {
            let active = own.active + other.active;
            own.add(other);
            own.active = active;
        }
    }

    fn index(&self, time: Duration) -> usize {
        let index = time.as_nanos() / self.interval.as_nanos();
        usize::try_from(index).unwrap_or(usize::MAX)
    }

    /// Merges each pair of intervals into one.
    fn widen(&mut self) {
        self.interval *= 2;
        for index in 0..self.points.len().div_ceil(2) {
            let mut point = std::mem::take(&mut self.points[2 * index]);
            if let Some(next) = self.points.get(2 * index + 1) {
                point.add(next);
            }
            self.points[index] = point;
        }
        self.points.truncate(self.points.len().div_ceil(2));
    }
}

impl Default for Timeline {
    fn default() -> Self {
        Self {
            interval: INTERVAL_MIN,
            points: vec![Point::default()],
        }
    }
}

impl Point {
    /// Failed transfers.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    /// Adds the counts of the following interval.
    fn add(&mut self, later: &Self) {
        self.received += later.received;
        self.sent += later.sent;
        self.begun += later.begun;
        self.complete += later.complete;
        for (failure, count) in &later.failures {
            *self.failures.entry(failure.clone()).or_default() += count;
        }
        self.active = later.active;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun(timeline: &Timeline) -> Vec<u64> {
        timeline.points().iter().map(|point| point.begun).collect()
    }

    #[test]
    fn each_interval_has_its_own() {
        let mut timeline = Timeline::default();
        timeline.at(Duration::ZERO).begun += 1;
        let point = timeline.at(INTERVAL_MIN.mul_f64(0.9));
        point.begun += 1;
        point.active = 2;
        timeline.at(INTERVAL_MIN * 3).begun += 5;
        assert_eq!(begun(&timeline), [2, 0, 0, 5]);
        let active: Vec<_> = timeline.points().iter().map(|point| point.active).collect();
        assert_eq!(active, [2, 2, 2, 2], "they run on in silence");
        timeline.at(INTERVAL_MIN).begun += 1;
        assert_eq!(begun(&timeline), [2, 0, 0, 6], "time does not go back");
    }

    /// Goal: memory is bounded, and no counts are lost. Method: a day, with one start per second.
    #[test]
    fn a_day_fits_the_same_memory() {
        let mut timeline = Timeline::default();
        let seconds = 86_400;
        for second in 0..seconds {
            timeline.at(Duration::from_secs(second)).begun += 1;
        }
        let points = timeline.points().len();
        assert!((POINTS_MAX / 2..=POINTS_MAX).contains(&points), "{points}");
        assert_eq!(begun(&timeline).iter().sum::<u64>(), seconds);
        assert!(timeline.interval() * POINTS_MAX as u32 >= Duration::from_secs(seconds));

        let few = timeline.in_at_most(100);
        assert!((51..=100).contains(&few.points().len()));
        assert_eq!(begun(&few).iter().sum::<u64>(), seconds);
    }

    #[test]
    fn threads_add_up_whatever_their_intervals() {
        let mut short = Timeline::default();
        short.at(Duration::ZERO).active = 3;
        *short
            .at(Duration::ZERO)
            .failures
            .entry(Failure::TimedOut)
            .or_default() += 1;
        let mut long = Timeline::default();
        let point = long.at(INTERVAL_MIN * POINTS_MAX as u32 * 3);
        point.begun = 7;
        point.active = 4;
        let wide = long.interval();
        for (mut one, other) in [(short.clone(), &long), (long.clone(), &short)] {
            one.merge(other);
            assert_eq!(one.interval(), wide);
            assert_eq!(one.points().len(), long.points().len());
            assert_eq!(begun(&one).iter().sum::<u64>(), 7);
            assert_eq!(one.points()[0].failed(), 1);
            let last = one.points().last().expect("a point");
            assert_eq!((last.begun, last.active), (7, 7));
        }
    }
}
