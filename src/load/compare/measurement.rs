//! The measurement of one server on one workload in one round, in plain numbers.

use std::collections::BTreeMap;
use std::io;

use serde::Serialize;

use super::super::Usage;
use super::super::report::{Report, json};
use crate::time::Duration;

/// The results of one run.
#[derive(Debug, Clone, Serialize)]
pub struct Measurement {
    /// The time from the start to the end of the last transfer.
    pub seconds: f64,
    /// Transfers that completed.
    pub complete: u64,
    /// Transfers that should have completed; if the run is bounded by time, those that were started.
    pub wanted: u64,
    /// Whether the run was ended because it took too long.
    pub cut: bool,
    /// Whether the server was no longer running at the end.
    pub died: bool,
    /// Uploads that were complete and correct on the server afterwards.
    pub stored: Option<u64>,
    /// Octets received per second.
    pub octets_per_second: f64,
    /// Completed transfers per second.
    pub transfers_per_second: f64,
    /// The server's CPU time per gigabyte received.
    pub processor_seconds_per_gigabyte: Option<f64>,
    /// The server's CPU time per completed transfer.
    pub processor_seconds_per_transfer: Option<f64>,
    /// The highest peak memory of any of its processes, in octets.
    pub memory_octets_max: u64,
    /// The median time of the transfers that should have completed.
    pub transfer_seconds_p50: Option<f64>,
    /// The 99th percentile of their times; `None` if fewer completed.
    pub transfer_seconds_p99: Option<f64>,
    /// Blocks that arrived more than once, per block needed.
    pub repeated: f64,
    /// The negotiated block and window sizes, the most frequent first.
    pub terms: Vec<(u16, u16)>,
    /// The number of failed transfers, by reason.
    pub failures: BTreeMap<String, u64>,
    /// Whether the generator could not keep up, so that the server may be faster than it looks.
    pub was_bottleneck: bool,
    /// Whether other programs used the generator's CPUs for a significant part of the run.
    pub was_starved: bool,
    /// The load generator's full report.
    pub report: serde_json::Value,
}

impl Measurement {
    /// The measurement from `report` and the server's usage during the run, if that is known.
    pub(super) fn new(
        report: &Report,
        transfers: Option<u64>,
        used: Usage,
        known: bool,
    ) -> io::Result<Self> {
        let tally = &report.tally;
        // A run of zero length has no rate.
        let seconds = report.elapsed.as_secs_f64().max(1e-9);
        let processor = used.processor.as_secs_f64();
        let costs = |count: f64| (known && count > 0.0).then(|| processor / count);
        let mut terms: Vec<_> = tally.terms.iter().collect();
        terms.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
        let wanted = transfers.unwrap_or(tally.begun);
        let mut waits = tally.transfer.clone();
        // Transfers that were never started for lack of time did not complete either.
        waits.fail(wanted.saturating_sub(waits.all()));
        let percentile = |part| Some(waits.exact_quantile(part)?.as_secs_f64());
        Ok(Self {
            seconds,
            complete: tally.complete,
            wanted,
            cut: report.interrupted,
            died: false,
            stored: None,
            octets_per_second: tally.octets as f64 / seconds,
            transfers_per_second: tally.complete as f64 / seconds,
            processor_seconds_per_gigabyte: costs(tally.octets as f64 / 1e9),
            processor_seconds_per_transfer: costs(tally.complete as f64),
            memory_octets_max: used.memory_max,
            transfer_seconds_p50: percentile(0.5),
            transfer_seconds_p99: percentile(0.99),
            repeated: tally.duplicates as f64 / tally.blocks.max(1) as f64,
            terms: terms.into_iter().map(|(&terms, _)| terms).collect(),
            failures: tally
                .failures
                .iter()
                .map(|(failure, &count)| (failure.to_string(), count))
                .collect(),
            was_bottleneck: report.is_bottleneck(),
            was_starved: report.is_starved(),
            report: whole(report, used)?,
        })
    }

    /// Whether every transfer completed.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let lost = self.stored.is_some_and(|stored| stored < self.complete);
        !self.cut && !lost && self.complete == self.wanted
    }
}

/// The report, including the server's usage.
fn whole(report: &Report, used: Usage) -> io::Result<serde_json::Value> {
    let mut report = report.clone();
    report.server = (used.processor > Duration::ZERO || used.memory_max > 0).then_some(used);
    let mut octets = Vec::new();
    json::write(&report, &mut octets)?;
    Ok(serde_json::from_slice(&octets)?)
}
