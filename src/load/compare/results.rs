//! The results of a comparison: medians, spread, and ratios taken within a round.

use std::collections::BTreeSet;

use serde::Serialize;

use super::{Contender, Measurement, Plan};
use crate::shard::Operation;

/// The outcome of one run.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The run was measured.
    Measured(Box<Measurement>),
    /// The server never answered: the reason.
    Failed(String),
}

/// The results of a comparison so far.
#[derive(Debug, Clone, Serialize)]
pub struct Results {
    /// Completed rounds.
    pub rounds: u32,
    /// Planned rounds.
    pub rounds_wanted: u32,
    /// The servers' names.
    pub contenders: Vec<String>,
    /// Why some of them are unavailable.
    pub missing: Vec<Option<String>>,
    /// The index of the server that the others are compared with.
    pub baseline: usize,
    /// The workloads' names.
    pub workloads: Vec<String>,
    /// Why some servers are not tried at all: by workload, then by server.
    pub untried: Vec<Vec<Option<&'static str>>>,
    /// The block size and window size that each workload requests.
    pub asked: Vec<(u16, u16)>,
    /// The outcomes of the runs: by workload, then by server, then by round.
    pub outcomes: Vec<Vec<Vec<Outcome>>>,
}

impl Results {
    pub(super) fn new(plan: &Plan) -> Self {
        let names = plan.contenders.iter().map(|contender| &contender.name);
        let asked = |workload: &super::Workload| {
            let wanted = &workload.wanted;
            // RFC 1350 §2: blocks are of 512 octets, one at a time, unless something else is negotiated.
            let blksize = wanted.blksize.unwrap_or(512);
            (blksize, wanted.windowsize.unwrap_or(1))
        };
        let untried = |workload: &super::Workload| {
            let writes = workload.operation == Operation::Write;
            let cannot = |contender: &Contender| {
                (writes && !contender.uploads).then_some("it takes no uploads")
            };
            plan.contenders.iter().map(cannot).collect()
        };
        Self {
            rounds: 0,
            rounds_wanted: plan.rounds,
            contenders: names.cloned().collect(),
            missing: vec![None; plan.contenders.len()],
            baseline: plan.baseline,
            workloads: plan
                .workloads
                .iter()
                .map(|work| work.name.clone())
                .collect(),
            untried: plan.workloads.iter().map(untried).collect(),
            asked: plan.workloads.iter().map(asked).collect(),
            outcomes: vec![vec![Vec::new(); plan.contenders.len()]; plan.workloads.len()],
        }
    }

    /// The minimum and maximum number of runs over all servers and workloads that are tried.
    pub(super) fn runs(&self) -> (usize, usize) {
        let runs = self
            .tried()
            .map(|(work, server)| self.outcomes[work][server].len());
        let counts: Vec<_> = runs.collect();
        let least = counts.iter().min().copied().unwrap_or_default();
        (least, counts.iter().max().copied().unwrap_or_default())
    }

    /// The names of the servers that never completed a transfer of some workload, whenever it was tried.
    #[must_use]
    pub fn failed_every_time(&self) -> Vec<&str> {
        let completes =
            |outcome: &Outcome| outcome.measurement().is_some_and(|run| run.complete > 0);
        let failed = |&(work, server): &(usize, usize)| {
            let outcomes = &self.outcomes[work][server];
            !outcomes.is_empty() && !outcomes.iter().any(completes)
        };
        let failed: BTreeSet<usize> = self
            .tried()
            .filter(failed)
            .map(|(_, server)| server)
            .collect();
        let names = failed
            .into_iter()
            .map(|server| self.contenders[server].as_str());
        names.collect()
    }

    /// The pairs of workload and server that are tried.
    fn tried(&self) -> impl Iterator<Item = (usize, usize)> {
        let servers = 0..self.contenders.len();
        let all = (0..self.workloads.len())
            .flat_map(move |work| servers.clone().map(move |server| (work, server)));
        all.filter(|&(work, server)| {
            self.missing[server].is_none() && self.untried[work][server].is_none()
        })
    }

    /// The measured runs of this server on this workload.
    pub(super) fn measured(
        &self,
        workload: usize,
        contender: usize,
    ) -> impl Iterator<Item = &Measurement> {
        let outcomes = self.outcomes[workload][contender].iter();
        outcomes.filter_map(Outcome::measurement)
    }

    /// The minimum, median and maximum of a number over the rounds.
    pub(super) fn spread(
        &self,
        workload: usize,
        contender: usize,
        number: impl Fn(&Measurement) -> Option<f64>,
    ) -> Option<Spread> {
        Spread::of(
            self.measured(workload, contender)
                .filter_map(number)
                .collect(),
        )
    }

    /// The ratio of this server's number to the baseline's: the median of the ratios within each round,
    /// because machines drift between rounds.
    pub(super) fn ratio(
        &self,
        workload: usize,
        contender: usize,
        number: impl Fn(&Measurement) -> Option<f64>,
    ) -> Option<f64> {
        let [these, those] =
            [contender, self.baseline].map(|number| self.outcomes[workload][number].iter());
        let ratios = these.zip(those).filter_map(|(this, that)| {
            let (this, that) = (number(this.measurement()?)?, number(that.measurement()?)?);
            (that > 0.0).then_some(this / that)
        });
        Spread::of(ratios.collect()).map(|spread| spread.median)
    }
}

impl Outcome {
    /// The measurement, if there is one.
    #[must_use]
    pub fn measurement(&self) -> Option<&Measurement> {
        match self {
            Self::Measured(measurement) => Some(measurement),
            Self::Failed(_) => None,
        }
    }
}

/// The spread of a number over the rounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Spread {
    pub(super) least: f64,
    pub(super) median: f64,
    pub(super) most: f64,
}

impl Spread {
    fn of(mut numbers: Vec<f64>) -> Option<Self> {
        numbers.sort_by(f64::total_cmp);
        let (least, most) = (*numbers.first()?, *numbers.last()?);
        let middle = numbers.len() / 2;
        let median = if numbers.len().is_multiple_of(2) {
            f64::midpoint(numbers[middle - 1], numbers[middle])
        } else {
            numbers[middle]
        };
        Some(Self {
            least,
            median,
            most,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_the_two_in_it() {
        let spread = |numbers: &[f64]| Spread::of(numbers.to_vec());
        assert_eq!(spread(&[]), None);
        let median = |numbers: &[f64]| spread(numbers).map(|spread| spread.median);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0]), Some(2.5));
        assert_eq!(
            spread(&[3.0, 1.0, 2.0]),
            Some(Spread {
                least: 1.0,
                median: 2.0,
                most: 3.0
            })
        );
    }
}
