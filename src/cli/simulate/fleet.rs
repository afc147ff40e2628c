//! `simulate --fleet`: many worlds, their progress, a table of the results, and for each broken promise
//! the command that reproduces its world.

use std::fmt;
use std::io::{self, Write};
use std::thread;
use std::time::Instant;

use super::super::Trouble;
use super::super::args::Simulate;
use super::super::errand::grouped;
use crate::simulate::fleet::{self, KindSummary, Report, Summary};
use crate::time::Duration;

/// The interval of progress messages.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// The maximum number of broken promises listed per world.
const BROKEN_SHOWN: usize = 5;

pub(super) fn run(arguments: &Simulate, clients: u32) -> Result<(), Trouble> {
    let seeds = arguments
        .seeds
        .clone()
        .unwrap_or_else(|| arguments.seed..arguments.seed.saturating_add(1));
    let jobs = arguments.jobs.map_or_else(
        || thread::available_parallelism().map_or(1, usize::from),
        usize::from,
    );
    let worlds = seeds.end - seeds.start;
    let begin = Instant::now();
    let mut told_at = begin;
    let mut summary = Summary::default();
    let mut broken = 0;
    let mut failed = None;
    fleet::run_all(seeds, clients, jobs, |report| {
        summary.add(&report);
        let mut tell = || -> io::Result<()> {
            let mut output = io::stdout().lock();
            if !report.broken.is_empty() {
                broken += 1;
                write!(output, "{}", Breach(&report))?;
            }
            if told_at.elapsed() >= TELL_EVERY {
                told_at = Instant::now();
                let total = summary.total();
                let (done, complete) = (grouped(total.worlds), grouped(total.complete));
                writeln!(output, "{done} of {worlds} worlds, {complete} transfers")?;
            }
            output.flush()
        };
        failed = tell().err();
        failed.is_none()
    });
    let table = failed.map_or_else(
        || write!(io::stdout().lock(), "{}", Table(&summary, begin.elapsed())),
        Err,
    );
    match table {
        // The reader closed the pipe.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        printed => printed.map_err(|error| Trouble::Work(format!("cannot print: {error}")))?,
    }
    if broken == 0 {
        Ok(())
    } else {
        Err(Trouble::Work(format!(
            "{broken} of {worlds} worlds broke a promise; the commands above play them again"
        )))
    }
}

/// A world that broke promises.
struct Breach<'a>(&'a Report);

impl fmt::Display for Breach<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report {
            fleet,
            kind,
            mishap,
            broken,
            ..
        } = self.0;
        writeln!(
            f,
            "BROKEN: bootstorm simulate --fleet {} --seed {}   ({}, {})",
            fleet.clients,
            fleet.seed,
            kind.name(),
            mishap.name()
        )?;
        for one in broken.iter().take(BROKEN_SHOWN) {
            writeln!(f, "  {}: {}", one.promise, one.what)?;
        }
        match broken.len().saturating_sub(BROKEN_SHOWN) {
            0 => Ok(()),
            more => writeln!(f, "  and {more} more"),
        }
    }
}

/// The summary, and the elapsed time.
struct Table<'a>(&'a Summary, Duration);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(summary, took) = self;
        writeln!(
            f,
            "{:<12}{:>8}{:>12}{:>15}{:>18}{:>14}{:>15}",
            "weather",
            "worlds",
            "transfers",
            "simulated",
            "sent again",
            "server/due",
            "clients/due"
        )?;
        for (kind, of) in &summary.kinds {
            row(f, kind.name(), of)?;
        }
        row(f, "all", &summary.total())?;
        writeln!(
            f,
            "…/due: datagrams sent for each that was due, in worlds without a mishap; – where none was"
        )?;
        writeln!(f)?;
        for (mishap, worlds) in &summary.mishaps {
            writeln!(f, "{:<26}{}", mishap.name(), grouped(*worlds))?;
        }
        let datagrams = grouped(summary.datagrams);
        let rate = summary.datagrams as f64 / took.as_secs_f64().max(f64::MIN_POSITIVE);
        writeln!(f, "{:<26}{datagrams}", "datagrams")?;
        writeln!(f, "{:<26}{}", "lost", grouped(summary.lost))?;
        writeln!(f, "{:<26}{}", "attempts in vain", grouped(summary.failed))?;
        writeln!(
            f,
            "{:<26}{:.1} s, {} datagrams a second",
            "real time",
            took.as_secs_f64(),
            grouped(rate as u64)
        )?;
        writeln!(f, "\n{:>6} of a bound, by seed", "most")?;
        for (bound, (part, seed)) in &summary.uses {
            writeln!(f, "{:>5.0} %  {bound} ({seed})", part * 100.0)?;
        }
        Ok(())
    }
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, of: &KindSummary) -> fmt::Result {
    let (server, clients) = of.economy();
    let shown =
        |economy: Option<f64>| economy.map_or_else(|| "–".to_owned(), |part| format!("{part:.4}"));
    writeln!(
        f,
        "{name:<12}{:>8}{:>12}{:>13.0} s{:>18}{:>14}{:>15}",
        grouped(of.worlds),
        grouped(of.complete),
        of.simulated.as_secs_f64(),
        grouped(of.retransmissions),
        shown(server),
        shown(clients)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: where no datagram was needed, the table shows no ratio.
    #[test]
    fn what_was_never_due_has_no_ratio() {
        let table = Table(&Summary::default(), Duration::from_secs(1)).to_string();
        let all = table.lines().find(|line| line.starts_with("all"));
        let words: Vec<_> = all.expect("a row").split_whitespace().collect();
        assert_eq!(words, ["all", "0", "0", "0", "s", "0", "–", "–"]);
    }
}
