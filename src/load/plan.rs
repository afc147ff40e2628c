//! When transfers begin: each client as soon as it has done with the last (closed loop), at a rate
//! whatever the server does (open loop), or all at once (storm).
//!
//! A transfer's start is *intended* at a time. In an open loop and in a storm that time does not depend
//! on the server, and latencies count from it: a server that stalls cannot hide behind clients that
//! wait for it before they ask again.

use std::collections::VecDeque;

use crate::time::{Duration, Instant};

/// How transfers follow each other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// So many clients, each of which begins anew when it is done.
    Closed {
        /// How many.
        clients: u32,
        /// How long each pauses in between.
        think: Duration,
    },
    /// So many new clients a second.
    Open {
        /// How many.
        per_second: f64,
        /// Whether each comes the same time after the one before. Else they come at random times (a
        /// Poisson process), like machines that know nothing of each other.
        even: bool,
    },
    /// So many clients, each once, spread evenly over a time.
    Storm {
        /// How many.
        clients: u32,
        /// How long.
        within: Duration,
    },
}

/// When no more transfers begin; those that run go on to their end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// After so many.
    pub transfers: Option<u64>,
    /// After this time.
    pub duration: Option<Duration>,
}

impl Pace {
    /// The share of thread `number` of `threads`.
    pub(super) fn share(self, number: usize, threads: usize) -> Self {
        let part = |count: u32| share(u64::from(count), number, threads) as u32;
        match self {
            Self::Closed { clients, think } => Self::Closed {
                clients: part(clients),
                think,
            },
            Self::Open { per_second, even } => Self::Open {
                per_second: per_second / threads as f64,
                even,
            },
            Self::Storm { clients, within } => Self::Storm {
                clients: part(clients),
                within,
            },
        }
    }
}

impl Bounds {
    /// The share of thread `number` of `threads`.
    pub(super) fn share(self, number: usize, threads: usize) -> Self {
        Self {
            transfers: self.transfers.map(|count| share(count, number, threads)),
            ..self
        }
    }
}

/// What the thread `number` has of `count` things that `threads` threads divide.
fn share(count: u64, number: usize, threads: usize) -> u64 {
    let (number, threads) = (number as u64, threads.max(1) as u64);
    count / threads + u64::from(number < count % threads)
}

/// The intended starts of one run, in order.
#[derive(Debug)]
pub(super) struct Schedule {
    source: Source,
    /// How many may begin yet.
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
        /// Where the times between come from; `None` has them all the same.
        random: Option<fastrand::Rng>,
    },
    Storm {
        begin: Instant,
        clients: u32,
        within: Duration,
        begun: u32,
    },
}

impl Schedule {
    pub(super) fn new(pace: Pace, bounds: Bounds, seed: u64, begin: Instant) -> Self {
        let mut left = bounds.transfers.unwrap_or(u64::MAX);
        let source = match pace {
            Pace::Closed { clients, think } => Source::Closed {
                due: (0..clients).map(|_| begin).collect(),
                think,
            },
            Pace::Open { per_second, even } => {
                let mut random = (!even).then(|| fastrand::Rng::with_seed(seed));
                let next = begin + pause(random.as_mut(), per_second);
                Source::Open {
                    next,
                    per_second,
                    random,
                }
            }
            Pace::Storm { clients, within } => {
                left = left.min(u64::from(clients));
                Source::Storm {
                    begin,
                    clients,
                    within,
                    begun: 0,
                }
            }
        };
        Self {
            source,
            left,
            until: bounds.duration.map(|duration| begin + duration),
        }
    }

    /// When the next transfer is to begin, as far as that is known.
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
                begun,
            } => *begin + within.mul_f64(f64::from(*begun) / f64::from(*clients)),
        };
        (self.until.is_none_or(|until| next < until)).then_some(next)
    }

    /// Takes the next start, if its time has come; says which time that was.
    pub(super) fn take(&mut self, now: Instant) -> Option<Instant> {
        let next = self.next().filter(|&next| next <= now)?;
        // However late the loop is, nothing begins after the end.
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
            Source::Storm { begun, .. } => *begun += 1,
        }
        Some(next)
    }

    /// A transfer is over: in a closed loop, its client begins anew.
    pub(super) fn ended(&mut self, now: Instant) {
        if let Source::Closed { due, think } = &mut self.source {
            due.push_back(now + *think);
        }
    }

    /// Begins nothing more.
    pub(super) const fn stop(&mut self) {
        self.left = 0;
    }

    const fn is_closed(&self) -> bool {
        matches!(self.source, Source::Closed { .. })
    }
}

/// The time to the next of events that come at a rate: evenly, or knowing nothing of each other.
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
        let mut schedule = Schedule::new(pace, bounds, 1, at(0));
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
        let mut schedule = Schedule::new(pace, NO_BOUNDS, 7, at(0));
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
        let mut schedule = Schedule::new(pace, NO_BOUNDS, 7, at(0));
        let starts: Vec<_> = std::iter::from_fn(|| schedule.take(at(100))).collect();
        assert_eq!(starts, (1..=25).map(|n| at(4 * n)).collect::<Vec<_>>());
    }

    #[test]
    fn a_storm_is_over_in_its_time() {
        let pace = Pace::Storm {
            clients: 10,
            within: Duration::from_millis(100),
        };
        let mut schedule = Schedule::new(pace, NO_BOUNDS, 7, at(0));
        let starts: Vec<_> = std::iter::from_fn(|| schedule.take(at(1000))).collect();
        assert_eq!(starts, (0..10).map(|n| at(10 * n)).collect::<Vec<_>>());
    }

    #[test]
    fn shares_add_up() {
        let shares: Vec<_> = (0..3).map(|number| share(11, number, 3)).collect();
        assert_eq!(shares, [4, 4, 3]);
        let pace = Pace::Closed {
            clients: 2,
            think: Duration::ZERO,
        };
        let Pace::Closed { clients, .. } = pace.share(2, 3) else {
            panic!("the same kind")
        };
        assert_eq!(clients, 0);
    }
}
