//! What happened when: a row of intervals, each with what was counted in it. They are short at first, and
//! grow wide as a run grows long, so that a run of any length fits the same memory.

use std::collections::BTreeMap;

use super::Failure;
use crate::time::Duration;

/// The first width of intervals: short enough to show the course of a storm that is over in a second.
const INTERVAL_MIN: Duration = Duration::from_millis(10);
/// The most intervals; when they are used up, two become one.
const POINTS_MAX: usize = 1024;

/// What happened when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeline {
    interval: Duration,
    points: Vec<Point>,
}

/// What was counted in an interval.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Point {
    /// Octets of blocks that came, repeats included.
    pub received: u64,
    /// Octets of blocks that left, repeats included.
    pub sent: u64,
    /// Transfers that began.
    pub begun: u64,
    /// Transfers that completed.
    pub complete: u64,
    /// Transfers that failed, by why.
    pub failures: BTreeMap<Failure, u64>,
    /// Transfers that ran at the end of the interval.
    pub active: u64,
}

impl Timeline {
    /// The width of an interval.
    #[must_use]
    pub const fn interval(&self) -> Duration {
        self.interval
    }

    /// The intervals, from the beginning on; never none.
    #[must_use]
    pub fn points(&self) -> &[Point] {
        &self.points
    }

    /// The same in `max` intervals at the most.
    #[must_use]
    pub fn in_at_most(&self, max: usize) -> Self {
        let mut wider = self.clone();
        while wider.points.len() > max.max(1) {
            wider.widen();
        }
        wider
    }

    /// Goes on to a time, counted from the beginning of the run; what is counted from now on counts there.
    pub(super) fn at(&mut self, time: Duration) -> &mut Point {
        while self.index(time) >= POINTS_MAX {
            self.widen();
        }
        let last = self.points.len() - 1;
        // Time never goes back, but what comes from two clocks might.
        let index = self.index(time).max(last);
        // What ran at the end of an interval ran on in those that passed in silence.
        let silent = Point {
            active: self.points[last].active,
            ..Point::default()
        };
        self.points.resize(index + 1, silent);
        &mut self.points[index]
    }

    /// Adds what happened on another thread at the same time.
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

    /// Makes one interval of each two.
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
    /// Transfers that failed.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    /// Adds what was counted later.
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

    /// Goal: memory is bounded, and nothing is lost for it. Method: a day, with one start a second.
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
