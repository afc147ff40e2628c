//! The report as a table for the terminal.

use std::fmt;

use super::super::plan::Pace;
use super::super::{Tally, Work};
use super::{QUANTILES, Report};
use crate::metrics::Latency;
use crate::shard::Expected;

/// Columns of the names of rows.
const NAME_COLUMNS: usize = 26;
/// What the one latency is called that tells of this end alone.
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
    /// What is told in words: the name of each fact, and the fact.
    pub(super) fn rows(&self) -> Vec<(&'static str, String)> {
        let tally = &self.tally;
        let mut rows = vec![
            ("load", self.what()),
            ("transfers complete", self.transfers()),
        ];
        for (failure, count) in &tally.failures {
            let said = match failure {
                super::super::Failure::ErrorCode(code) => tally.words.get(code),
                _ => None,
            };
            let said = said
                .map(|said| format!(" (\"{said}\")"))
                .unwrap_or_default();
            rows.push(("FAILED", format!("{} {failure}{said}", grouped(*count))));
        }
        rows.push((
            "octets",
            format!(
                "{} in {:.3} s, {:.1} MB/s",
                grouped(tally.octets),
                self.elapsed.as_secs_f64(),
                self.rate(tally.octets) / 1e6
            ),
        ));
        rows.push(("terms", terms(tally)));
        rows.push(("contents", self.contents().to_owned()));
        rows.push((
            "repeated",
            format!(
                "{} datagrams by this end, {} blocks by the server",
                grouped(tally.retransmissions),
                grouped(tally.duplicates)
            ),
        ));
        if tally.lost > 0 {
            rows.push(("lost on purpose", grouped(tally.lost)));
        }
        if tally.probes > 0 {
            rows.push(("asked for lengths", grouped(tally.probes)));
        }
        rows.push((
            "datagrams",
            format!(
                "{} in, {} out, {} dropped by this end",
                grouped(tally.received.total()),
                grouped(tally.sent.total()),
                grouped(tally.receive_drops)
            ),
        ));
        rows.push(("this end", self.own_costs()));
        rows.extend(self.server_text().map(|text| ("the server", text)));
        rows
    }

    /// What took how long, each with its name; without what never happened.
    pub(super) fn latencies(&self) -> Vec<(&'static str, &Latency)> {
        let tally = &self.tally;
        let mut latencies = vec![
            (LATENESS, &tally.lateness),
            ("first block", &tally.first_block),
            ("round trip of a block", &tally.round_trip),
            ("a block on average", &tally.block),
            ("whole transfer", &tally.transfer),
        ];
        latencies.retain(|(_, latency)| latency.count() > 0);
        latencies
    }

    /// Why the numbers may mislead.
    pub(super) fn warnings(&self) -> Vec<String> {
        let tally = &self.tally;
        let mut warnings = Vec::new();
        if self.is_bottleneck() {
            warnings.push("this end had no time left, so the server may be faster than it looks; give it more --threads, or another machine".to_owned());
        }
        if self.is_starved() {
            warnings.push(format!(
                "this end waited {:.3} s for a processor that other programs had; the times above hold that too",
                tally.starved.as_secs_f64()
            ));
        }
        if tally.receive_drops > 0 {
            warnings.push("this end's kernel dropped datagrams, which the server had to send again; raise net.core.rmem_max".to_owned());
        }
        if tally.received.total() == 0 && tally.begun > 0 {
            warnings.push("nothing came from the server at all; see whether it runs, and listens on that port".to_owned());
        }
        warnings
    }

    fn what(&self) -> String {
        let verb = match self.load.work {
            Work::Read => "reads from",
            Work::Write(_) => "writes to",
        };
        let pace = match self.load.pace {
            Pace::Closed { clients, .. } => {
                format!("{} clients kept busy", grouped(clients.into()))
            }
            Pace::Open { per_second } => format!("{per_second} new clients a second"),
            Pace::Storm { clients, within } => format!(
                "a storm of {} clients within {:.3} s",
                grouped(clients.into()),
                within.as_secs_f64()
            ),
        };
        format!("{verb} {}, {pace}", self.load.server)
    }

    fn transfers(&self) -> String {
        let Tally {
            begun,
            complete,
            left,
            ..
        } = self.tally;
        let left = match left {
            0 => String::new(),
            left if self.interrupted => format!(", {} interrupted", grouped(left)),
            left => format!(", {} vanished", grouped(left)),
        };
        format!(
            "{} of {}{left}, {:.1}/s",
            grouped(complete),
            grouped(begun),
            self.rate(complete)
        )
    }

    fn contents(&self) -> &'static str {
        if matches!(self.load.work, Work::Write(_)) {
            return "from memory";
        }
        let every =
            |is: fn(&Expected) -> bool| self.load.files.iter().all(|file| is(&file.expected));
        if every(|expected| matches!(expected, Expected::Octets(_))) {
            "every octet compared"
        } else if every(|expected| matches!(expected, Expected::Anything)) {
            "not compared (--verify FILE does), but for their length where it was announced"
        } else {
            "compared in part"
        }
    }

    fn own_costs(&self) -> String {
        let tally = &self.tally;
        let datagrams = tally.received.total() + tally.sent.total();
        let micros = tally.processor.as_secs_f64() * 1e6 / datagrams.max(1) as f64;
        format!(
            "{:.3} CPU s, {:.0} % busy, {micros:.2} us a datagram, {} MiB at most, GRO {}",
            tally.processor.as_secs_f64(),
            tally.busiest * 100.0,
            self.memory_max >> 20,
            if self.load.gro { "on" } else { "off" }
        )
    }

    fn server_text(&self) -> Option<String> {
        let server = self.server?;
        let (per_gigabyte, per_transfer) = self.server_costs()?;
        Some(format!(
            "{:.2} CPU s, {per_gigabyte:.2} CPU s/GB, {:.0} us a transfer, {} MiB at most, {} context switches",
            server.processor.as_secs_f64(),
            per_transfer * 1e6,
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
        for (name, latency) in self.latencies() {
            write!(
                f,
                "  {name:<width$}{:>10}",
                latency.count(),
                width = NAME_COLUMNS - 2
            )?;
            for (_, part) in QUANTILES {
                write!(f, "{:>11.3}", latency.quantile(part).as_secs_f64() * 1e3)?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// What was agreed, the most frequent first.
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

/// A number with a comma before every three digits.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
