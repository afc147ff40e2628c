//! More and more load, step by step, until the server no longer keeps up: the highest load that held is
//! what it is good for.

use std::fmt;
use std::io;
use std::sync::Arc;

use super::plan::{Bounds, Pace};
use super::report::Report;
use super::{Live, Load, Work};
use crate::metrics::Latency;
use crate::time::Duration;

/// How the load is raised, and what it may cost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ramp {
    /// How many times the load of the step before each step has; above 1.
    pub factor: f64,
    /// How long new transfers begin in each step.
    pub step: Duration,
    /// Most clients, or new ones a second.
    pub most: f64,
    /// What 99 of 100 transfers may take, from their intended start, to the first block of a read or to
    /// the end of a write.
    pub bound_p99: Duration,
    /// The part of the transfers that may fail.
    pub bound_failures: f64,
}

impl Ramp {
    /// What holds unless something else is said: steps that are seen on a scale of powers, long enough for
    /// some of what may go wrong, and the second after which most clients ask again.
    pub const DEFAULT: Self = Self {
        factor: 1.5,
        step: Duration::from_secs(5),
        most: 1e6,
        bound_p99: Duration::from_secs(1),
        bound_failures: 0.01,
    };
}

/// How a ramp went.
#[derive(Debug, Clone)]
pub struct Climb {
    /// What was to be done.
    pub ramp: Ramp,
    /// Its steps; all of them held, but perhaps for the last one.
    pub steps: Vec<Step>,
}

/// One step of a ramp.
#[derive(Debug, Clone)]
pub struct Step {
    /// Its load.
    pub pace: Pace,
    /// How it went.
    pub report: Report,
    /// Why it did not hold.
    pub broken: Option<Broken>,
}

/// Why a step did not hold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Broken {
    /// Too many transfers failed: this part of them.
    Failures(f64),
    /// Too many took too long: 99 of 100 took up to this.
    P99(Duration),
    /// This end had no time left, so nothing is known of the server.
    Bottleneck,
    /// It was ended before its time.
    Interrupted,
}

/// Raises the load, which has one group, until a step does not hold.
///
/// # Errors
/// If the system is out of something, or there is no process to be watched.
pub fn run(load: &Load, ramp: Ramp, live: &Arc<Live>) -> io::Result<Climb> {
    let mut load = load.clone();
    let mut steps: Vec<Step> = Vec::new();
    loop {
        for group in &mut load.groups {
            group.bounds = Bounds {
                duration: Some(ramp.step),
                transfers: None,
            };
        }
        let report = super::run(&load, live)?;
        let broken = ramp.broken(&report);
        let Some(pace) = load.groups.first().map(|group| group.pace) else {
            break;
        };
        steps.push(Step {
            pace,
            report,
            broken,
        });
        let next = ramp.raised(pace);
        if broken.is_some() || next.is_none() {
            break;
        }
        for (group, next) in load.groups.iter_mut().zip(next) {
            group.pace = next;
        }
    }
    Ok(Climb { ramp, steps })
}

impl Ramp {
    /// The load of the next step; `None` beyond the top.
    fn raised(&self, pace: Pace) -> Option<Pace> {
        let load = level(pace)?;
        let next = match pace {
            // Whole clients, and at least one more.
            Pace::Closed { .. } => (load * self.factor).round().max(load + 1.0),
            _ => load * self.factor,
        };
        if load >= self.most {
            return None;
        }
        let next = next.min(self.most);
        Some(match pace {
            Pace::Closed { think, .. } => Pace::Closed {
                clients: next as u32,
                think,
            },
            Pace::Open { even, .. } => Pace::Open {
                per_second: next,
                even,
            },
            storm @ Pace::Storm { .. } => storm,
        })
    }

    /// Why a step did not hold, if it did not.
    fn broken(&self, report: &Report) -> Option<Broken> {
        let tally = &report.tally;
        if report.interrupted {
            return Some(Broken::Interrupted);
        }
        let failed = tally.failed() as f64 / tally.begun.max(1) as f64;
        let p99 = first_answers(report).quantile(0.99);
        let broken = if failed > self.bound_failures {
            Broken::Failures(failed)
        } else if p99 > self.bound_p99 {
            Broken::P99(p99)
        } else {
            return None;
        };
        Some(if report.is_bottleneck() {
            Broken::Bottleneck
        } else {
            broken
        })
    }
}

/// How many clients, or new ones a second; a storm has no level that could be raised.
#[must_use]
pub const fn level(pace: Pace) -> Option<f64> {
    match pace {
        Pace::Closed { clients, .. } => Some(clients as f64),
        Pace::Open { per_second, .. } => Some(per_second),
        Pace::Storm { .. } => None,
    }
}

/// The times that are held against the bound.
#[must_use]
pub fn first_answers(report: &Report) -> &Latency {
    let mut groups = report.load.groups.iter();
    if groups.any(|group| matches!(group.work, Work::Write(_))) {
        &report.tally.transfer
    } else {
        &report.tally.first_block
    }
}

impl Climb {
    /// The highest step that held.
    #[must_use]
    pub fn held(&self) -> Option<&Step> {
        self.steps.iter().rfind(|step| step.broken.is_none())
    }

    /// Why the ramp ended, unless it came to its top.
    #[must_use]
    pub fn broken(&self) -> Option<Broken> {
        self.steps.last()?.broken
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failures(part) => write!(f, "{:.2} % failed", part * 100.0),
            Self::P99(time) => write!(f, "p99 was {:.3} ms", time.as_secs_f64() * 1e3),
            Self::Bottleneck => f.write_str("this end had no time left"),
            Self::Interrupted => f.write_str("interrupted"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_has_more_up_to_the_top() {
        let ramp = Ramp {
            most: 7.0,
            ..Ramp::DEFAULT
        };
        let think = Duration::ZERO;
        let mut pace = Some(Pace::Closed { clients: 1, think });
        let mut clients = Vec::new();
        while let Some(now) = pace {
            clients.extend(level(now));
            pace = ramp.raised(now);
        }
        assert_eq!(clients, [1.0, 2.0, 3.0, 5.0, 7.0]);
        let open = Pace::Open {
            per_second: 4.0,
            even: true,
        };
        assert_eq!(ramp.raised(open).and_then(level), Some(6.0));
        let storm = Pace::Storm {
            clients: 1,
            within: think,
        };
        assert_eq!(ramp.raised(storm), None);
    }
}
