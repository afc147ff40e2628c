//! The CPU utilization of a thread in its busiest second.
//!
//! The average would mislead: a run lasts until its last client gives up. A generator that was saturated
//! while clients arrived has plenty of idle time while it waits for those.

use crate::time::{Duration, Instant};

/// The length of a measurement window: long enough that bursts of work do not look like saturation.
const WINDOW: Duration = Duration::from_secs(1);

/// The CPU utilization of a thread.
#[derive(Debug)]
pub(super) struct Busy {
    window_began: Instant,
    /// The thread's CPU time at the start of the window.
    used: Duration,
    /// The highest utilization of the completed windows.
    most: Option<f64>,
}

impl Busy {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            window_began: now,
            used: Duration::ZERO,
            most: None,
        }
    }

    /// Ends the window if it is over; `used` returns the thread's CPU time so far.
    pub(super) fn note(&mut self, now: Instant, used: impl FnOnce() -> Duration) {
        let passed = now - self.window_began;
        if passed >= WINDOW {
            let used = used();
            let part = part(used.saturating_sub(self.used), passed);
            self.most = Some(self.most.map_or(part, |most| most.max(part)));
            self.window_began = now;
            self.used = used;
        }
    }

    /// The thread's utilization in its busiest second; over the whole run if that was shorter than a
    /// second.
    pub(super) fn most(&self, elapsed: Duration, used: Duration) -> f64 {
        self.most.unwrap_or_else(|| part(used, elapsed))
    }
}

fn part(used: Duration, of: Duration) -> f64 {
    if of.is_zero() {
        // The run was empty.
        return 0.0;
    }
    used.as_secs_f64() / of.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    /// Goal: overload is detected however long the run waits afterwards. Method: two seconds without a
    /// pause, then ten with hardly any work.
    #[test]
    fn patience_hides_no_overload() {
        let mut busy = Busy::new(at(0));
        let mut used = Duration::ZERO;
        for tick in 1..=1200_u64 {
            let works = tick <= 200 || tick.is_multiple_of(50);
            used += Duration::from_millis(if works { 10 } else { 0 });
            busy.note(at(10 * tick), || used);
        }
        let most = busy.most(Duration::from_secs(12), used);
        assert!((0.99..=1.01).contains(&most), "{most}");
    }

    #[test]
    fn a_short_run_counts_as_a_whole() {
        let mut busy = Busy::new(at(0));
        busy.note(at(500), || panic!("not yet"));
        let used = Duration::from_millis(250);
        assert_eq!(busy.most(Duration::from_millis(500), used), 0.5);
        assert_eq!(busy.most(Duration::ZERO, used), 0.0);
    }
}
