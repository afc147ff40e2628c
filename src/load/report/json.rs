//! The report as one JSON object, in plain units: seconds, octets, counts.

use std::collections::BTreeMap;
use std::io;

use serde::Serialize;

use super::super::ramp::{self, Climb};
use super::super::{FirstFailure, Quantile, Tally, Waits};
use super::{QUANTILES, Report};
use crate::metrics::Packets;

/// Writes the report.
///
/// # Errors
/// If `output` fails.
pub fn write(report: &Report, output: impl io::Write) -> io::Result<()> {
    write_object(&Object::new(report), output)
}

/// Writes the results of a ramp: each step with its report, and the highest load that held.
///
/// # Errors
/// If `output` fails.
pub fn write_climb(climb: &Climb, output: impl io::Write) -> io::Result<()> {
    let steps = climb.steps.iter();
    let steps = steps.map(|step| Step {
        load: ramp::level(step.pace),
        held: step.broken.is_none(),
        broken_by: step.broken.map(|broken| broken.to_string()),
        report: Object::new(&step.report),
    });
    let not_held = climb.not_held();
    let object = Ramp {
        factor: climb.ramp.factor,
        step_seconds: climb.ramp.step.as_secs_f64(),
        bound_p99_seconds: climb.ramp.bound_p99.as_secs_f64(),
        bound_failures: climb.ramp.bound_failures,
        precision: ramp::PRECISION,
        held: climb.held().and_then(|step| ramp::level(step.pace)),
        not_held: not_held.and_then(|step| ramp::level(step.pace)),
        broken_by: not_held.and_then(|step| Some(step.broken?.to_string())),
        steps: steps.collect(),
    };
    write_object(&object, output)
}

fn write_object(object: &impl Serialize, mut output: impl io::Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut output, object)?;
    writeln!(output)
}

#[derive(Serialize)]
struct Ramp {
    factor: f64,
    step_seconds: f64,
    bound_p99_seconds: f64,
    bound_failures: f64,
    precision: f64,
    held: Option<f64>,
    not_held: Option<f64>,
    broken_by: Option<String>,
    steps: Vec<Step>,
}

#[derive(Serialize)]
struct Step {
    load: Option<f64>,
    held: bool,
    broken_by: Option<String>,
    report: Object,
}

#[derive(Serialize)]
struct Object {
    server: String,
    interrupted: bool,
    elapsed_seconds: f64,
    transfers_begun: u64,
    transfers_complete: u64,
    transfers_left: u64,
    /// Those of them that were interrupted.
    transfers_interrupted: u64,
    transfers_failed: u64,
    probes: u64,
    lost_on_purpose: u64,
    duplicated_on_purpose: u64,
    reordered_on_purpose: u64,
    delayed_on_purpose: u64,
    failures: BTreeMap<String, u64>,
    first_failures: BTreeMap<String, First>,
    transfers_per_second: f64,
    octets: u64,
    octets_per_second: f64,
    blocks: u64,
    terms: Vec<Terms>,
    retransmissions: u64,
    duplicates: u64,
    datagrams_received: BTreeMap<&'static str, u64>,
    datagrams_sent: BTreeMap<&'static str, u64>,
    receive_drops: u64,
    gro: bool,
    own_processor_seconds: f64,
    own_processor_seconds_per_datagram: f64,
    own_busiest_thread: f64,
    own_starved_seconds: f64,
    own_memory_octets_max: u64,
    was_bottleneck: bool,
    server_process: Option<ServerProcess>,
    latencies_seconds: BTreeMap<&'static str, Percentiles>,
    groups: Vec<Group>,
}

/// The first transfer that failed for a reason.
#[derive(Serialize)]
struct First {
    file: String,
    said: Option<String>,
}

/// One of several groups.
#[derive(Serialize)]
struct Group {
    name: String,
    transfers_begun: u64,
    transfers_complete: u64,
    transfers_left: u64,
    transfers_failed: u64,
    failures: BTreeMap<String, u64>,
    octets: u64,
    latencies_seconds: BTreeMap<&'static str, Percentiles>,
}

#[derive(Serialize)]
struct Terms {
    blksize: u16,
    windowsize: u16,
    transfers: u64,
}

#[derive(Serialize)]
struct ServerProcess {
    processor_seconds: f64,
    processor_seconds_per_gigabyte: Option<f64>,
    processor_seconds_per_transfer: Option<f64>,
    memory_octets_max: u64,
    context_switches: u64,
    /// Whether the actual usage may be higher.
    at_least: bool,
}

/// Statistics of all waits, successful or not.
#[derive(Serialize)]
struct Percentiles {
    /// The number of successful waits.
    count: u64,
    failed: u64,
    cut_off: u64,
    /// A percentile has no number if the fraction of waits in vain exceeds what it leaves out.
    #[serde(flatten)]
    at: BTreeMap<&'static str, Option<f64>>,
    /// Lower bounds of the percentiles that fall among the waits that were cut off.
    at_least: BTreeMap<&'static str, f64>,
}

impl Object {
    fn new(report: &Report) -> Self {
        let tally = &report.tally;
        let terms = tally.terms.iter();
        Self {
            server: report.load.server.to_string(),
            interrupted: report.interrupted,
            elapsed_seconds: report.elapsed.as_secs_f64(),
            transfers_begun: tally.begun,
            transfers_complete: tally.complete,
            transfers_left: tally.left,
            transfers_interrupted: tally.interrupted,
            transfers_failed: tally.failed(),
            probes: tally.probes,
            lost_on_purpose: tally.disturbed.lost,
            duplicated_on_purpose: tally.disturbed.duplicated,
            reordered_on_purpose: tally.disturbed.reordered,
            delayed_on_purpose: tally.disturbed.delayed,
            failures: failures(tally),
            first_failures: first_failures(tally),
            transfers_per_second: report.rate(tally.complete),
            octets: tally.octets,
            octets_per_second: report.rate(tally.octets),
            blocks: tally.blocks,
            terms: terms
                .map(|(&(blksize, windowsize), &transfers)| Terms {
                    blksize,
                    windowsize,
                    transfers,
                })
                .collect(),
            retransmissions: tally.retransmissions,
            duplicates: tally.duplicates,
            datagrams_received: by_type(&tally.received),
            datagrams_sent: by_type(&tally.sent),
            receive_drops: tally.receive_drops,
            gro: report.load.gro,
            own_processor_seconds: tally.processor.as_secs_f64(),
            own_processor_seconds_per_datagram: report.own_cost().as_secs_f64(),
            own_busiest_thread: tally.busiest,
            own_starved_seconds: tally.starved.as_secs_f64(),
            own_memory_octets_max: report.memory_max,
            was_bottleneck: report.is_bottleneck(),
            server_process: report.server.map(|usage| ServerProcess {
                processor_seconds: usage.processor.as_secs_f64(),
                processor_seconds_per_gigabyte: report.server_seconds_per_gigabyte(),
                processor_seconds_per_transfer: report.server_seconds_per_transfer(),
                memory_octets_max: usage.memory_max,
                context_switches: usage.switches,
                at_least: usage.at_least,
            }),
            latencies_seconds: BTreeMap::from([
                ("begun_late", percentiles(&tally.lateness)),
                ("oack", percentiles(&tally.oack)),
                ("first_block", percentiles(&tally.first_block)),
                ("round_trip", percentiles(&tally.round_trip)),
                ("block", percentiles(&tally.block)),
                ("transfer", percentiles(&tally.transfer)),
            ]),
            groups: report.named_groups().map(Group::new).collect(),
        }
    }
}

impl Group {
    fn new((name, tally): (&str, &Tally)) -> Self {
        Self {
            name: name.to_owned(),
            transfers_begun: tally.begun,
            transfers_complete: tally.complete,
            transfers_left: tally.left,
            transfers_failed: tally.failed(),
            failures: failures(tally),
            octets: tally.octets,
            latencies_seconds: BTreeMap::from([
                ("begun_late", percentiles(&tally.lateness)),
                ("oack", percentiles(&tally.oack)),
                ("first_block", percentiles(&tally.first_block)),
                ("transfer", percentiles(&tally.transfer)),
            ]),
        }
    }
}

fn failures(tally: &Tally) -> BTreeMap<String, u64> {
    let failures = tally.failures.iter();
    failures
        .map(|(failure, &count)| (failure.to_string(), count))
        .collect()
}

fn first_failures(tally: &Tally) -> BTreeMap<String, First> {
    let first = |FirstFailure { file, said }: &FirstFailure| First {
        file: file.clone(),
        said: said.clone(),
    };
    let firsts = tally.first_failures.iter();
    firsts
        .map(|(failure, failed)| (failure.to_string(), first(failed)))
        .collect()
}

fn by_type(packets: &Packets) -> BTreeMap<&'static str, u64> {
    packets.by_type().filter(|&(_, count)| count > 0).collect()
}

fn percentiles(waits: &Waits) -> Percentiles {
    let mut percentiles = Percentiles {
        count: waits.came().count(),
        failed: waits.failed(),
        cut_off: waits.cut(),
        at: BTreeMap::new(),
        at_least: BTreeMap::new(),
    };
    for (name, part) in QUANTILES {
        let quantile = waits.quantile(part);
        let exactly = quantile.and_then(Quantile::exactly);
        let exactly = exactly.map(|time| time.as_secs_f64());
        percentiles.at.insert(name, exactly);
        if let Some(Quantile::AtLeast(time)) = quantile {
            percentiles.at_least.insert(name, time.as_secs_f64());
        }
    }
    percentiles
}
