//! The report as a table for the terminal.

use std::fmt;

use super::super::plan::Pace;
use super::super::ramp::{self, Broken, Climb};
use super::super::{Disturbed, FirstFailure, Group, Tally, Waits, Work};
use super::words::{counted, grouped};
use super::{NOTHING, QUANTILES, Report, SIGNS, told};
use crate::shard::Expected;

/// The width of the names of rows.
const NAME_COLUMNS: usize = 26;
/// The name of the only latency that concerns the generator alone.
pub(super) const LATENESS: &str = "begun late by";

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in self.rows() {
            writeln!(f, "{name:<NAME_COLUMNS$}{value}")?;
        }
        self.table_of_latencies(f)?;
        for warning in self.warnings() {
            writeln!(f, "WARNING: {warning}")?;
        }
        Ok(())
    }
}

impl Report {
    /// The report as text: the name and value of each fact.
    pub(super) fn rows(&self) -> Vec<(String, String)> {
        let tally = &self.tally;
        let mut rows = vec![("load".to_owned(), self.what())];
        for (group, (name, tally)) in self.load.groups.iter().zip(self.named_groups()) {
            rows.push((format!("  {name}"), in_group(group, tally)));
        }
        let mut row = |name: &str, value: String| rows.push((name.to_owned(), value));
        row("transfers complete", self.transfers());
        for (failure, count) in &tally.failures {
            let mut what = format!("{} {failure}", grouped(*count));
            if let Some(FirstFailure { file, said }) = tally.first_failures.get(failure) {
                if let Some(said) = said {
                    what.push_str(&format!(" (\"{said}\")"));
                }
                let first = if *count == 1 { "" } else { "the first " };
                what.push_str(&format!(", {first}of \"{file}\""));
            }
            row("FAILED", what);
        }
        row(
            "octets",
            format!(
                "{} in {:.3} s, {:.1} MB/s",
                grouped(tally.octets),
                self.elapsed.as_secs_f64(),
                self.rate(tally.octets) / 1e6
            ),
        );
        row("terms", terms(tally));
        row("contents", self.contents());
        row(
            "repeated",
            format!(
                "{} datagrams by this end, {} blocks by the server",
                grouped(tally.retransmissions),
                grouped(tally.duplicates)
            ),
        );
        if tally.disturbed != Disturbed::default() {
            row("on purpose", on_purpose(&tally.disturbed));
        }
        if tally.probes > 0 {
            row("asked for lengths", grouped(tally.probes));
        }
        row(
            "datagrams",
            format!(
                "{} in, {} out, {} dropped by this end",
                grouped(tally.received.total()),
                grouped(tally.sent.total()),
                grouped(tally.receive_drops)
            ),
        );
        row("this end", self.own_costs());
        if let Some(text) = self.server_text() {
            row("the server", text);
        }
        rows
    }

    /// All latencies with their names, from the intended start or per block.
    pub(super) const fn latencies(&self) -> [(&'static str, &Waits); 6] {
        let tally = &self.tally;
        [
            (LATENESS, &tally.lateness),
            ("OACK", &tally.oack),
            ("first block", &tally.first_block),
            ("round trip of a block", &tally.round_trip),
            ("a block on average", &tally.block),
            ("whole transfer", &tally.transfer),
        ]
    }

    /// Warnings about results that may mislead.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let tally = &self.tally;
        let mut warnings = Vec::new();
        if self.had_no_time() {
            warnings.push("this end had no time left, so the server may be faster than it looks; give it more --threads, or another machine".to_owned());
        }
        if let Some(late) = self.lateness().filter(|_| self.is_late()) {
            warnings.push(format!(
                "this end began transfers late, one in a hundred by {:.3} ms and more, which all times hold but those of blocks",
                late.as_secs_f64() * 1e3
            ));
        }
        if self.is_starved() {
            warnings.push(format!(
                "this end waited {:.3} s for a processor that other programs had; the times hold that too",
                tally.starved.as_secs_f64()
            ));
        }
        if tally.receive_drops > 0 {
            warnings.push("this end's kernel dropped datagrams, which the server had to send again; raise net.core.rmem_max".to_owned());
        }
        if self.server.is_some_and(|server| server.at_least) {
            warnings.push("the server's process ignores its children, so that of those that end the system tells nothing: what they used since they were last looked at is missing; in a control group of its own (systemd-run --scope) all of it is counted".to_owned());
        }
        if tally.received.total() == 0 && tally.begun > 0 {
            warnings.push("nothing came from the server at all; see whether it runs, and listens on that port".to_owned());
        }
        warnings
    }

    fn what(&self) -> String {
        match self.load.groups.as_slice() {
            [group] => format!("{} {}, {}", verb(&group.work), self.load.server, group.pace),
            groups => format!("{} groups of clients of {}", groups.len(), self.load.server),
        }
    }

    fn transfers(&self) -> String {
        let Tally {
            begun,
            complete,
            left,
            interrupted,
            ..
        } = self.tally;
        let left = [
            (left - interrupted, "vanished"),
            (interrupted, "interrupted"),
        ]
        .into_iter()
        .filter(|&(count, _)| count > 0)
        .map(|(count, how)| format!(", {} {how}", grouped(count)))
        .collect::<String>();
        format!(
            "{} of {}{left}, {:.1}/s",
            grouped(complete),
            grouped(begun),
            self.rate(complete)
        )
    }

    /// How received contents were verified. For writes, what the server stored is unknown.
    fn contents(&self) -> String {
        let (readers, writers): (Vec<&Group>, Vec<&Group>) = self
            .load
            .groups
            .iter()
            .partition(|group| matches!(group.work, Work::Read));
        if readers.is_empty() {
            return "what the server stored is compared with nothing".to_owned();
        }
        let read = compared(&readers);
        if writers.is_empty() {
            read.to_owned()
        } else {
            format!("of reads, {read}; of writes, nothing compared")
        }
    }

    fn own_costs(&self) -> String {
        let tally = &self.tally;
        let micros = self.own_cost().as_secs_f64() * 1e6;
        format!(
            "{:.3} CPU s, {:.0} % busy at most, {micros:.2} us a datagram, {} MiB at most, GRO {}",
            tally.processor.as_secs_f64(),
            tally.busiest * 100.0,
            self.memory_max >> 20,
            if self.load.gro { "on" } else { "off" }
        )
    }

    fn server_text(&self) -> Option<String> {
        let server = self.server?;
        let told = |cost: Option<f64>, digits| {
            cost.map_or_else(|| NOTHING.to_owned(), |cost| format!("{cost:.digits$}"))
        };
        let micros = self.server_seconds_per_transfer().map(|cost| cost * 1e6);
        let at_least = if server.at_least { "at least " } else { "" };
        Some(format!(
            "{at_least}{:.2} CPU s, {} CPU s/GB, {} us a transfer, {} MiB at most, {} context switches",
            server.processor.as_secs_f64(),
            told(self.server_seconds_per_gigabyte(), 2),
            told(micros, 0),
            server.memory_max >> 20,
            grouped(server.switches),
        ))
    }

    fn table_of_latencies(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<NAME_COLUMNS$}{:>10}", "latencies in ms", "count")?;
        for (name, _) in QUANTILES {
            write!(f, "{name:>11}")?;
        }
        writeln!(f)?;
        for (name, waits) in self.latencies() {
            write!(
                f,
                "  {name:<width$}{:>10}",
                waits.came().count(),
                width = NAME_COLUMNS - 2
            )?;
            for (_, part) in QUANTILES {
                write!(f, "{:>11}", millis(waits, part))?;
            }
            writeln!(f)?;
        }
        if self.has_gaps() {
            writeln!(f, "  ({SIGNS})")?;
        }
        Ok(())
    }
}

/// How the contents read by these groups were verified.
fn compared(readers: &[&Group]) -> &'static str {
    let files = || readers.iter().flat_map(|group| &group.files);
    let every = |is: fn(&Expected) -> bool| files().all(|file| is(&file.expected));
    if every(|expected| matches!(expected, Expected::Octets(_) | Expected::Pattern)) {
        "every octet compared"
    } else if every(|expected| matches!(expected, Expected::Anything)) {
        "not compared (--verify FILE does), but for their length where it was announced"
    } else {
        "compared in part"
    }
}

const fn verb(work: &Work) -> &'static str {
    match work {
        Work::Read => "reads from",
        Work::Write(_) => "writes to",
    }
}

/// The results of one of several groups.
fn in_group(group: &Group, tally: &Tally) -> String {
    let [p50, p99] = [0.5, 0.99].map(|part| millis(&tally.transfer, part));
    format!(
        "{}: {} of {} complete, {} failed, p50 {p50} ms, p99 {p99} ms",
        group.pace,
        grouped(tally.complete),
        grouped(tally.begun),
        grouped(tally.failed()),
    )
}

/// The impairments that the clients applied to packets.
fn on_purpose(disturbed: &Disturbed) -> String {
    let counts = [
        (disturbed.lost, "lost"),
        (disturbed.duplicated, "duplicated"),
        (disturbed.reordered, "reordered"),
        (disturbed.delayed, "delayed"),
    ];
    let told = counts.iter().filter(|(count, _)| *count > 0);
    let told: Vec<_> = told
        .map(|(count, what)| format!("{} {what}", grouped(*count)))
        .collect();
    told.join(", ")
}

/// The negotiated terms, the most frequent first.
fn terms(tally: &Tally) -> String {
    let mut terms: Vec<_> = tally.terms.iter().collect();
    terms.sort_by_key(|&(terms, count)| (std::cmp::Reverse(*count), *terms));
    let terms: Vec<String> = terms
        .iter()
        .map(|((blksize, windowsize), _)| format!("blksize {blksize} windowsize {windowsize}"))
        .collect();
    if terms.is_empty() {
        "none agreed".to_owned()
    } else {
        terms.join(", or ")
    }
}

impl fmt::Display for Climb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heads = ["transfers", "failed", "MB/s", "p50 ms", "p99 ms"];
        write!(f, "{:<RAMP_COLUMNS$}", "step")?;
        for head in heads {
            write!(f, "{head:>12}")?;
        }
        writeln!(f)?;
        for step in &self.steps {
            let (report, times) = (&step.report, ramp::first_answers(&step.report));
            let cells = [
                grouped(report.tally.begun),
                grouped(report.tally.failed()),
                format!("{:.1}", report.rate(report.tally.octets) / 1e6),
                millis(times, 0.5),
                millis(times, 0.99),
            ];
            write!(f, "{:<RAMP_COLUMNS$}", step.pace.to_string())?;
            for cell in cells {
                write!(f, "{cell:>12}")?;
            }
            match step.broken {
                Some(broken) => writeln!(f, "  {broken}")?,
                None => writeln!(f, "  held")?,
            }
        }
        writeln!(f, "{}", self.verdict())?;
        for warning in self.warnings() {
            writeln!(f, "WARNING: {warning}")?;
        }
        Ok(())
    }
}

impl Climb {
    /// The server's capacity, in a sentence.
    pub(super) fn verdict(&self) -> String {
        let Some(held) = self.held() else {
            return match self.steps.first().and_then(|step| step.broken) {
                Some(Broken::Interrupted) => "ended amid the first step".to_owned(),
                _ => "not even the first step held".to_owned(),
            };
        };
        let held = format!("{} is the highest load that held", held.pace);
        let not_held = self.not_held();
        match not_held.and_then(|step| Some((step.pace, step.broken?))) {
            Some((pace, broken)) => format!("{held}; {pace} did not ({broken})"),
            None => held,
        }
    }
}

/// The width of a step's load.
const RAMP_COLUMNS: usize = 40;

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Closed { clients, .. } => {
                write!(f, "{} kept busy", counted(clients.into(), "client"))
            }
            Self::Open { per_second, even } => {
                let evenly = if even { ", evenly" } else { "" };
                let plural = if per_second == 1.0 { "" } else { "s" };
                write!(f, "{per_second} new client{plural} a second{evenly}")
            }
            Self::Storm { clients, within } => write!(
                f,
                "a storm of {} within {:.3} s",
                counted(clients.into(), "client"),
                within.as_secs_f64()
            ),
        }
    }
}

/// The quantile at this fraction of all, in milliseconds.
fn millis(waits: &Waits, part: f64) -> String {
    told(waits.quantile(part), |time| {
        format!("{:.3}", time.as_secs_f64() * 1e3)
    })
}
