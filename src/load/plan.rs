//! When transfers start: each client as soon as its last transfer is done (closed loop), at a rate
//! independent of the server (open loop), or all at once (storm).
//!
//! Each transfer has an *intended* start. In an open loop and in a storm it does not depend on the
//! server, and latencies count from it. This avoids coordinated omission: a stalled server cannot hide
//! behind clients that wait for it before they send the next request.

use std::collections::VecDeque;

use crate::time::{Duration, Instant};

/// The arrival process of transfers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// A fixed number of clients, each of which starts its next transfer when the last is done.
    Closed {
        /// The number of clients.
        clients: u32,
        /// How long each client pauses between transfers.
        think: Duration,
    },
    /// A fixed rate of new clients.
    Open {
        /// New clients per second.
        per_second: f64,
        /// Whether clients arrive at equal intervals. If not, they arrive at random times (a Poisson
        /// process), like machines that are independent of each other.
        even: bool,
    },
    /// A fixed number of clients, each with one transfer, spread evenly over a period.
    Storm {
        /// The number of clients.
        clients: u32,
        /// The length of the period.
        within: Duration,
    },
}

/// When no more transfers start; running transfers continue to their end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// The maximum number of transfers.
    pub transfers: Option<u64>,
    /// The time after which none start.
    pub duration: Option<Duration>,
}

/// One share of what all clients of a run divide: its index, and the number of shares.
#[derive(Debug, Clone, Copy)]
pub(super) struct Share {
    pub(super) number: usize,
    pub(super) of: usize,
}

impl Share {
    /// How many of `count` things this share gets if they are dealt in turn.
    fn count(self, count: u64) -> u64 {
        let (number, of) = (self.number as u64, self.of.max(1) as u64);
        count / of + u64::from(number < count % of)
    }
}

/// The intended starts of one thread's share of a run, in order.
#[derive(Debug)]
pub(super) struct Schedule {
    source: Source,
    /// How many more transfers may start.
    left: u64,
    until: Option<Instant>,
}

#[derive(Debug)]
enum Source {
    /// Clients that wait for their turn.
    Closed {
        due: VecDeque<Instant>,
        think: Duration,
    },
    Open {
        next: Instant,
        per_second: f64,
        /// The source of random intervals; `None` makes all intervals equal.
        random: Option<fastrand::Rng>,
    },
    Storm {
        begin: Instant,
        /// The number of clients of all threads.
        clients: u32,
        within: Duration,
        /// The index of the next client of this thread,
        next: u64,
        /// and the distance between the indices of two of its clients.
        of: u64,
    },
}

impl Schedule {
    /// The share of one thread. Threads take turns, so that even arrivals in each are even overall.
    pub(super) fn new(pace: Pace, bounds: Bounds, share: Share, seed: u64, begin: Instant) -> Self {
        let mut left = bounds.transfers.map_or(u64::MAX, |most| share.count(most));
        let source = match pace {
            Pace::Closed { clients, think } => Source::Closed {
                due: (0..share.count(clients.into())).map(|_| begin).collect(),
                think,
            },
            Pace::Open { per_second, even } => {
                let of = share.of.max(1) as f64;
                let mut random = (!even).then(|| fastrand::Rng::with_seed(seed));
                let first = match &mut random {
                    None => pause(None, per_second / (share.number + 1) as f64),
                    random => pause(random.as_mut(), per_second / of),
                };
                Source::Open {
                    next: begin + first,
                    per_second: per_second / of,
                    random,
                }
            }
            Pace::Storm { clients, within } => {
                left = left.min(share.count(clients.into()));
                Source::Storm {
                    begin,
                    clients,
                    within,
                    next: share.number as u64,
                    of: share.of.max(1) as u64,
                }
            }
        };
        Self {
            source,
            left,
            until: bounds.duration.map(|duration| begin + duration),
        }
    }

    /// When the next transfer is to start, if that is known yet.
    pub(super) fn next(&self) -> Option<Instant> {
        if self.left == 0 {
            return None;
        }
        let next = match &self.source {
            Source::Closed { due, .. } => *due.front()?,
            Source::Open { next, .. } => *next,
            Source::Storm {
                begin,
                clients,
                within,
                next,
                ..
            } => *begin + within.mul_f64(*next as f64 / f64::from(*clients)),
        };
        (self.until.is_none_or(|until| next < until)).then_some(next)
    }

    /// Takes the next start if it is due, and returns its intended time.
    pub(super) fn take(&mut self, now: Instant) -> Option<Instant> {
        let next = self.next().filter(|&next| next <= now)?;
        // However late the loop is, nothing starts after the end.
        if self.until.is_some_and(|until| now >= until) && self.is_closed() {
            self.stop();
            return None;
        }
        self.left -= 1;
        match &mut self.source {
            Source::Closed { due, .. } => {
                due.pop_front();
            }
            Source::Open {
                next,
                per_second,
                random,
            } => *next += pause(random.as_mut(), *per_second),
            Source::Storm { next, of, .. } => *next += *of,
        }
        Some(next)
    }

    /// Records the end of a transfer: in a closed loop, its client becomes free for the next one.
    pub(super) fn ended(&mut self, now: Instant) {
        if let Source::Closed { due, think } = &mut self.source {
            due.push_back(now + *think);
        }
    }

    /// Starts no more transfers.
    pub(super) const fn stop(&mut self) {
        self.left = 0;
    }

    const fn is_closed(&self) -> bool {
        matches!(self.source, Source::Closed { .. })
    }
}

/// The time until the next event of a given rate: a fixed interval, or a random one (Poisson).
fn pause(random: Option<&mut fastrand::Rng>, per_second: f64) -> Duration {
    let part = random.map_or(1.0, |random| -(1.0 - random.f64()).ln());
    Duration::try_from_secs_f64(part / per_second).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_BOUNDS: Bounds = Bounds {
        transfers: None,
        duration: None,
    };

    const WHOLE: Share = Share { number: 0, of: 1 };

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    #[test]
    fn a_closed_loop_keeps_its_clients_busy_and_stops_at_its_bounds() {
        let pace = Pace::Closed {
            clients: 2,
            think: Duration::from_millis(5),
        };
        let bounds = Bounds {
            transfers: Some(3),
            duration: Some(Duration::from_millis(50)),
        };
        let mut schedule = Schedule::new(pace, bounds, WHOLE, 1, at(0));
        assert_eq!(schedule.take(at(0)), Some(at(0)));
        assert_eq!(schedule.take(at(1)), Some(at(0)));
        assert_eq!((schedule.take(at(1)), schedule.next()), (None, None));
        schedule.ended(at(10));
        assert_eq!(schedule.next(), Some(at(15)));
        assert_eq!(schedule.take(at(16)), Some(at(15)));
        schedule.ended(at(20));
        assert_eq!(schedule.next(), None, "three have begun");

        let mut schedule = Schedule::new(
            pace,
            Bounds {
                transfers: None,
                ..bounds
            },
            WHOLE,
            1,
            at(0),
        );
        schedule.take(at(0));
        schedule.ended(at(48));
        assert_eq!(schedule.take(at(49)), Some(at(0)));
        assert_eq!(schedule.next(), None, "53 ms are beyond the end");
    }

    #[test]
    fn an_open_loop_comes_at_its_rate_whatever_happens() {
        let pace = Pace::Open {
            per_second: 1000.0,
            even: false,
        };
        let mut schedule = Schedule::new(pace, NO_BOUNDS, WHOLE, 7, at(0));
        let mut count = 0;
        let mut last = at(0);
        while let Some(next) = schedule.take(at(10_000)) {
            assert!(next >= last);
            last = next;
            count += 1;
        }
        assert!((9_500..10_500).contains(&count), "{count}");
    }

    #[test]
    fn an_even_open_loop_is_a_clock() {
        let pace = Pace::Open {
            per_second: 250.0,
            even: true,
        };
        let mut schedule = Schedule::new(pace, NO_BOUNDS, WHOLE, 7, at(0));
        let starts: Vec<_> = std::iter::from_fn(|| schedule.take(at(100))).collect();
        assert_eq!(starts, (1..=25).map(|n| at(4 * n)).collect::<Vec<_>>());
    }

    #[test]
    fn a_storm_is_over_in_its_time() {
        let pace = Pace::Storm {
            clients: 10,
            within: Duration::from_millis(100),
        };
        let mut schedule = Schedule::new(pace, NO_BOUNDS, WHOLE, 7, at(0));
        let starts: Vec<_> = std::iter::from_fn(|| schedule.take(at(1000))).collect();
        assert_eq!(starts, (0..10).map(|n| at(10 * n)).collect::<Vec<_>>());
    }

    /// Goal: several threads start the same transfers at the same times as one would. Method: an open
    /// loop and a storm, shared out.
    #[test]
    fn threads_take_turns() {
        let clock = Pace::Open {
            per_second: 500.0,
            even: true,
        };
        let storm = Pace::Storm {
            clients: 50,
            within: Duration::from_millis(100),
        };
        for pace in [clock, storm] {
            let starts = |of| {
                let mut starts = Vec::new();
                for number in 0..of {
                    let share = Share { number, of };
                    let mut schedule = Schedule::new(pace, NO_BOUNDS, share, 7, at(0));
                    starts.extend(std::iter::from_fn(|| schedule.take(at(100))));
                }
                starts.sort_unstable();
                starts
            };
            let alone = starts(1);
            assert_eq!(alone.len(), 50);
            for of in [2, 3, 5] {
                let together = starts(of);
                assert_eq!(together.len(), 50, "{of}");
                for (start, expected) in together.iter().zip(&alone) {
                    let distance = start.max(expected).as_nanos() - start.min(expected).as_nanos();
                    assert!(distance < 1_000, "{of}: {start:?}, not {expected:?}");
                }
            }
        }
    }

    #[test]
    fn shares_add_up() {
        let shares = |count| [0, 1, 2].map(|number| Share { number, of: 3 }.count(count));
        assert_eq!(shares(11), [4, 4, 3]);
        assert_eq!(shares(2), [1, 1, 0]);
    }
}
