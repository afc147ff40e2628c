//! Raises the load step by step until the server no longer keeps up, then bisects between the loads that
//! held and those that did not. The highest load that held is the server's capacity.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread;

use super::plan::{Bounds, Pace};
use super::report::Report;
use super::report::words::{counted, grouped};
use super::{Live, Load, Waits, Work};
use crate::time::Duration;

/// How close the highest load that held and the lowest that did not get, as a fraction. Runs of the same
/// load differ by nearly as much, so more steps would reveal no more.
pub const PRECISION: f64 = 0.1;
/// How often a pause between steps checks whether to stop.
const PAUSE_PART: Duration = Duration::from_millis(50);

/// How the load is raised, within which limits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ramp {
    /// The ratio of each step's load to that of the step before; above 1.
    pub factor: f64,
    /// How long new transfers start in each step.
    pub step: Duration,
    /// How long the server rests after a step that did not hold, so that the work it still does for
    /// clients that have given up does not count against the next step.
    pub rest: Duration,
    /// The maximum number of clients, or of new clients per second.
    pub most: f64,
    /// The bound on the 99th percentile: from the intended start to the first block of a read or to the
    /// end of a write.
    pub bound_p99: Duration,
    /// The maximum fraction of transfers that may fail.
    pub bound_failures: f64,
}

impl Ramp {
    /// The defaults: steps that are distinct on a logarithmic scale and long enough for some faults to
    /// show, and as the bound the one second after which most clients retry.
    pub const DEFAULT: Self = Self {
        factor: 1.5,
        step: Duration::from_secs(5),
        rest: Duration::from_secs(3),
        most: 1e6,
        bound_p99: Duration::from_secs(1),
        bound_failures: 0.01,
    };
}

/// The results of a ramp.
#[derive(Debug, Clone)]
pub struct Climb {
    /// The ramp's settings.
    pub ramp: Ramp,
    /// The steps, in the order in which they were tried.
    pub steps: Vec<Step>,
}

/// One step of a ramp.
#[derive(Debug, Clone)]
pub struct Step {
    /// The step's load.
    pub pace: Pace,
    /// The step's results.
    pub report: Report,
    /// Why the step did not hold.
    pub broken: Option<Broken>,
}

/// Why a step did not hold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Broken {
    /// Too many transfers failed: this fraction of them.
    Failures(f64),
    /// Too many transfers were slow: this is the 99th percentile.
    P99(Duration),
    /// Fewer than 99 of 100 transfers reached the event that the bound applies to: this fraction did not.
    InVain(f64),
    /// The generator could not keep up, so the step says nothing about the server.
    Bottleneck,
    /// The step was stopped early.
    Interrupted,
}

/// Raises the load, which has one group, until a step does not hold. Then tries loads between the highest
/// that held and the lowest that did not, until they are within [`PRECISION`] of each other.
///
/// # Errors
/// If the system runs out of a resource, or the process to monitor does not exist.
pub fn run(load: &Load, ramp: Ramp, live: &Arc<Live>) -> io::Result<Climb> {
    let mut load = load.clone();
    let mut steps: Vec<Step> = Vec::new();
    let mut known = Known::default();
    for group in &mut load.groups {
        group.bounds = Bounds {
            duration: Some(ramp.step),
            transfers: None,
        };
    }
    while let Some(pace) = load.groups.first().map(|group| group.pace) {
        let report = super::run(&load, live)?;
        let broken = ramp.broken(&report);
        match broken {
            None => known.held = level(pace),
            Some(_) => known.broken = level(pace),
        }
        steps.push(Step {
            pace,
            report,
            broken,
        });
        let Some(next) = ramp.next(pace, known) else {
            break;
        };
        if broken.is_some() && !has_rested(ramp.rest, live) {
            break;
        }
        for group in &mut load.groups {
            group.pace = next;
        }
    }
    Ok(Climb { ramp, steps })
}

/// Waits; returns whether the wait was not interrupted.
fn has_rested(rest: Duration, live: &Live) -> bool {
    let mut left = rest;
    while !left.is_zero() && !live.is_stopped() {
        let part = left.min(PAUSE_PART);
        thread::sleep(part);
        left -= part;
    }
    !live.is_stopped()
}

/// The highest load that held so far, and the lowest that did not.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    held: Option<f64>,
    broken: Option<f64>,
}

/// Rounds to three digits, which is finer than any two steps differ.
fn rounded(load: f64) -> f64 {
    format!("{load:.2e}").parse().unwrap_or(load)
}

impl Ramp {
    /// The load to try next, of the same kind as `pace`; `None` if the search is complete.
    fn next(&self, pace: Pace, known: Known) -> Option<Pace> {
        // A storm has no load level, and a server that fails the first step has no capacity to search
        // for.
        let held = known.held?;
        let whole = matches!(pace, Pace::Closed { .. });
        let most = if whole { self.most.floor() } else { self.most };
        let next = match known.broken {
            None if held >= most => return None,
            // A whole number of clients, and at least one more.
            None if whole => (held * self.factor).round().max(held + 1.0).min(most),
            None => rounded(held * self.factor).min(most),
            Some(broken) if broken <= held * (1.0 + PRECISION) => return None,
            Some(broken) if whole && broken - held <= 1.0 => return None,
            // The middle on a logarithmic scale, like the steps before.
            Some(broken) if whole => (held * broken)
                .sqrt()
                .round()
                .clamp(held + 1.0, broken - 1.0),
            Some(broken) => rounded((held * broken).sqrt()),
        };
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
        let waits = first_answers(report);
        let broken = match waits.exact_quantile(0.99) {
            _ if failed > self.bound_failures => Broken::Failures(failed),
            Some(p99) if p99 > self.bound_p99 => Broken::P99(p99),
            // Whatever fraction may fail, 99 of 100 must be in time.
            None if waits.all() > 0 => Broken::InVain(1.0 - waits.part_that_came()),
            _ => return None,
        };
        Some(if report.was_limited_by_this_end() {
            Broken::Bottleneck
        } else {
            broken
        })
    }
}

/// The number of clients, or of new clients per second; a storm has no level that could be raised.
#[must_use]
pub const fn level(pace: Pace) -> Option<f64> {
    match pace {
        Pace::Closed { clients, .. } => Some(clients as f64),
        Pace::Open { per_second, .. } => Some(per_second),
        Pace::Storm { .. } => None,
    }
}

/// The times that the bound applies to.
#[must_use]
pub fn first_answers(report: &Report) -> &Waits {
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
        let held = self.steps.iter().filter(|step| step.broken.is_none());
        held.max_by(by_level)
    }

    /// The lowest step that did not hold, of those that ran to their end.
    #[must_use]
    pub fn not_held(&self) -> Option<&Step> {
        let broken = |step: &&Step| !matches!(step.broken, None | Some(Broken::Interrupted));
        self.steps.iter().filter(broken).min_by(by_level)
    }

    /// Warnings about results that may mislead.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let mut warn = |holds: bool, why: &str| {
            if holds {
                warnings.push(why.to_owned());
            }
        };
        let last = self.steps.last();
        let interrupted = last.is_some_and(|step| step.report.interrupted);
        warn(
            interrupted,
            "it was ended before its time, so the server may bear more",
        );
        let top = self.held().is_some() && self.not_held().is_none() && !interrupted;
        warn(
            top,
            "that is the top of the ramp, so the server may bear more; see --ramp-to",
        );
        let no_time = self.not_held().and_then(|step| step.broken) == Some(Broken::Bottleneck);
        warn(
            no_time,
            "this end could not keep up beyond that, so the server may bear more; give it more --threads, or another machine",
        );
        let starved = self.steps.iter().filter(|step| step.report.is_starved());
        let starved = starved.count() as u64;
        warn(
            starved > 0,
            &format!(
                "in {} of {} this end waited for a processor that other programs had; the times hold that too",
                grouped(starved),
                counted(self.steps.len() as u64, "step")
            ),
        );
        warnings
    }
}

fn by_level(one: &&Step, other: &&Step) -> std::cmp::Ordering {
    let level = |step: &Step| level(step.pace).unwrap_or_default();
    level(one).total_cmp(&level(other))
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failures(part) => write!(f, "{:.2} % failed", part * 100.0),
            Self::P99(time) => write!(f, "p99 was {:.3} ms", time.as_secs_f64() * 1e3),
            Self::InVain(part) => write!(f, "{:.2} % waited in vain", part * 100.0),
            Self::Bottleneck => f.write_str("this end could not keep up"),
            Self::Interrupted => f.write_str("interrupted"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::super::{Failure, Group, Tally};
    use super::*;

    /// The loads tried on a server with this capacity, and the highest that held.
    fn tried(ramp: Ramp, mut pace: Pace, borne: f64) -> (Vec<f64>, Option<f64>) {
        let (mut known, mut levels) = (Known::default(), Vec::new());
        loop {
            let load = level(pace);
            levels.extend(load);
            match load {
                Some(load) if load > borne => known.broken = Some(load),
                _ => known.held = load,
            }
            match ramp.next(pace, known) {
                Some(next) => pace = next,
                None => return (levels, known.held),
            }
        }
    }

    /// The report of a step of a hundred clients: some failed, and each of the others took this long.
    fn report(failed: u64, took: Duration) -> Report {
        let mut tally = Tally {
            begun: 100,
            ..Tally::default()
        };
        for _ in 0..failed {
            tally.fail(Failure::TimedOut, Duration::ZERO, true);
        }
        for _ in failed..100 {
            tally.first_block.record(took);
        }
        let server = SocketAddr::from(([127, 0, 0, 1], 69));
        Report {
            load: Load::new(server, Vec::new()),
            interrupted: false,
            elapsed: Duration::from_secs(1),
            memory_max: 0,
            server: None,
            tally,
            groups: Vec::new(),
        }
    }

    #[test]
    fn those_that_fail_make_no_step_quicker() {
        let quick = Duration::from_millis(1);
        let ramp = Ramp::DEFAULT;
        assert_eq!(ramp.broken(&report(1, quick)), None);
        let failed = ramp.broken(&report(5, quick));
        assert_eq!(failed, Some(Broken::Failures(0.05)));
        let slow = ramp.broken(&report(0, Duration::from_secs(2)));
        assert!(matches!(slow, Some(Broken::P99(_))), "{slow:?}");
        // Nor is a server blamed if the generator was too busy, or started transfers late.
        let mut busy = report(5, quick);
        busy.tally.busiest = 0.99;
        assert_eq!(ramp.broken(&busy), Some(Broken::Bottleneck));
        let mut late = report(5, quick);
        let at_a_rate = Pace::Open {
            per_second: 100.0,
            even: true,
        };
        let group = Group {
            pace: at_a_rate,
            ..Group::new(Vec::new(), 1)
        };
        late.load.groups.push(group);
        assert_eq!(ramp.broken(&late), Some(Broken::Failures(0.05)));
        late.tally.lateness.record(Duration::from_millis(11));
        assert_eq!(ramp.broken(&late), Some(Broken::Bottleneck));
        let slow = Duration::from_secs(2);
        (0..5).for_each(|_| late.tally.first_block.record(slow));
        assert!(late.is_bottleneck());
        assert_eq!(ramp.broken(&late), Some(Broken::Failures(0.05)));
        late.tally.lateness.record(slow);
        assert_eq!(ramp.broken(&late), Some(Broken::Bottleneck));
        late.load.groups[0].pace = ONE_CLIENT;
        assert_eq!(ramp.broken(&late), Some(Broken::Failures(0.05)));
        let lenient = Ramp {
            bound_failures: 0.1,
            ..ramp
        };
        let in_vain = lenient.broken(&report(5, quick));
        let Some(Broken::InVain(part)) = in_vain else {
            panic!("{in_vain:?}");
        };
        assert!((0.0499..0.0501).contains(&part), "{part}");
    }

    const ONE_CLIENT: Pace = Pace::Closed {
        clients: 1,
        think: Duration::ZERO,
    };

    #[test]
    fn each_step_has_more_up_to_the_top() {
        let ramp = Ramp {
            most: 7.5,
            ..Ramp::DEFAULT
        };
        let (clients, held) = tried(ramp, ONE_CLIENT, 100.0);
        assert_eq!(clients, [1.0, 2.0, 3.0, 5.0, 7.0]);
        assert_eq!(held, Some(7.0));
        let storm = Pace::Storm {
            clients: 1,
            within: Duration::ZERO,
        };
        assert_eq!(ramp.next(storm, Known::default()), None);
    }

    #[test]
    fn whole_clients_are_told_to_the_last_one_where_they_are_few() {
        let ramp = Ramp {
            factor: 4.0,
            ..Ramp::DEFAULT
        };
        let (clients, held) = tried(ramp, ONE_CLIENT, 6.0);
        assert_eq!(clients, [1.0, 4.0, 16.0, 8.0, 6.0, 7.0]);
        assert_eq!(held, Some(6.0));
        assert_eq!(tried(ramp, ONE_CLIENT, 0.0), (vec![1.0], None));
    }

    /// Goal: the load found is within the server's capacity, and close to it. Method: servers of any
    /// capacity, each of which takes few steps.
    #[test]
    fn the_load_that_is_named_is_within_the_precision() {
        for borne in [10.0, 10.1, 14.9, 15.0, 123.4, 9_999.0, 700_000.0] {
            for factor in [1.05, 1.5, 10.0] {
                let ramp = Ramp {
                    factor,
                    ..Ramp::DEFAULT
                };
                let pace = Pace::Open {
                    per_second: 10.0,
                    even: true,
                };
                let (levels, held) = tried(ramp, pace, borne);
                let held = held.expect("the first step is borne");
                assert!(
                    held <= borne && held * (1.0 + PRECISION) >= borne,
                    "{borne} by {factor}: {levels:?}"
                );
                let raised = levels.iter().position(|&load| load > borne);
                let between = levels.len() - 1 - raised.expect("it does not bear the top");
                // This many bisections on a logarithmic scale narrow a bracket of a factor of ten.
                assert!(between <= 5, "{borne} by {factor}: {levels:?}");
            }
        }
    }
}
