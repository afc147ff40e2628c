//! `simulate`: runs the real shard in a simulated network, and prints a small table of the results.

mod fleet;

use std::fmt;
use std::io::{self, Write};

use super::Trouble;
use super::args::Simulate;
use super::errand::grouped;
use crate::engine::sim::Weather;
use crate::shard::Operation;
use crate::simulate::{self, Report, Scenario};

pub(super) fn run(arguments: &Simulate) -> Result<(), Trouble> {
    if let Some(clients) = arguments.fleet {
        return fleet::run(arguments, clients);
    }
    let report = simulate::run(&scenario(arguments));
    match print(&report) {
        // The reader closed the pipe.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        printed => printed.map_err(|error| Trouble::Work(format!("cannot print: {error}")))?,
    }
    if is_good(&report) {
        Ok(())
    } else {
        Err(Trouble::Work(format!(
            "not every file arrived as it was; --seed {} makes the same run again",
            arguments.seed
        )))
    }
}

fn scenario(arguments: &Simulate) -> Scenario {
    Scenario {
        seed: arguments.seed,
        weather: Weather {
            loss: arguments.loss,
            reorder: arguments.reorder,
            duplicate: arguments.duplicate,
            jitter: arguments.jitter,
            ..Weather::FAIR
        },
        clients: arguments.clients,
        operation: if arguments.write {
            Operation::Write
        } else {
            Operation::Read
        },
        len: arguments.size,
        blksize: Some(arguments.blksize),
        windowsize: arguments.windowsize,
        trace: arguments.trace,
        ..Scenario::default()
    }
}

fn print(report: &Report) -> io::Result<()> {
    let mut output = io::stdout().lock();
    for line in &report.trace {
        writeln!(output, "{line}")?;
    }
    write!(output, "{}", Table(report))?;
    output.flush()
}

fn is_good(report: &Report) -> bool {
    report.corrupt == 0 && report.complete() == report.endings.len() && !report.endings.is_empty()
}

struct Table<'a>(&'a Report);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = self.0;
        let repeats: u64 = report
            .endings
            .iter()
            .map(|ending| ending.retransmissions)
            .sum();
        let rows = [
            (
                "transfers complete",
                format!("{} of {}", report.complete(), report.endings.len()),
            ),
            (
                "virtual time",
                format!("{:.6} s", report.elapsed.as_secs_f64()),
            ),
            ("datagrams of the server", grouped(report.server.datagrams)),
            ("datagrams of the clients", grouped(report.client.datagrams)),
            (
                "DATA sent for each block",
                format!("{:.3}", report.data_per_block()),
            ),
            (
                "retransmissions",
                format!(
                    "{} by the server, {} by the clients",
                    grouped(report.metrics.retransmissions),
                    grouped(repeats)
                ),
            ),
            (
                "contents",
                match report.corrupt {
                    0 if is_good(report) => "equal".to_owned(),
                    0 => "equal where complete".to_owned(),
                    corrupt => format!("{corrupt} DIFFER"),
                },
            ),
        ];
        rows.iter()
            .try_for_each(|(name, value)| writeln!(f, "{name:<26}{value}"))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::args::{Arguments, Command};
    use super::*;

    fn report(line: &str) -> Report {
        let words = ["bootstorm", "simulate"]
            .into_iter()
            .chain(line.split_whitespace());
        match Arguments::try_parse_from(words).expect(line).command {
            Command::Simulate(arguments) => simulate::run(&scenario(&arguments)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_table_of_a_fair_day() {
        insta::assert_snapshot!(Table(&report("--clients 2 --size 100KB")).to_string());
    }

    #[test]
    fn bad_weather_delays_and_spoils_nothing() {
        for line in [
            "--size 100KB --loss 5% --reorder 5%",
            "--size 100KB --write --loss 5%",
        ] {
            assert!(is_good(&report(line)), "{line}");
        }
    }
}
