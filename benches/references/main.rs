//! The server held against a bare loop that sends what was laid out before, on the same work.
//!
//! The server has core 0 and the load generator core 1. Each round runs the bare loop, mio and uring one
//! after the other on each row, so that what the machine does meanwhile falls on all alike; a ratio is that of two
//! runs of one round. A first transfer, which reads and frames the file, is not counted.
//!
//! ```sh
//! cargo bench --bench references                                # three rounds, some six minutes on an idle machine
//! cargo bench --bench references -- --quick                     # one shorter round, two minutes
//! cargo bench --bench references -- --rounds 9 --row 1428/64    # one row, as exactly as it gets
//! ```

#[path = "../common/mod.rs"]
mod common;

mod bare;
mod child;
mod rows;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bootstorm::control;
use bootstorm::load::{self, Live};
use clap::Parser;

use child::{KINDS, Kind, Server};
use common::Spread;
use rows::{CROWDS, ROWS, Row, Unit};

/// By what a quick run divides the transfers of each row; every client still has one.
const QUICK_SHARE: u64 = 4;
/// From this part of all blocks on, repeats are told: they cost time that the bare loop did not spend.
const REPEATS_TOLD: f64 = 0.001;

#[derive(Debug, Parser)]
struct Arguments {
    /// How often every server does every row.
    #[arg(long, default_value = "3", value_parser = clap::value_parser!(u16).range(1..=1_000))]
    rounds: u16,
    /// Do only rows whose name begins so; repeatable.
    #[arg(long = "row", value_name = "NAME")]
    rows: Vec<String>,
    /// One round, of shorter runs.
    #[arg(long)]
    quick: bool,
    /// One more option of `bootstorm serve`, as in --serve=--log-filter=warn; repeatable.
    #[arg(long, value_name = "OPTION", allow_hyphen_values = true)]
    serve: Vec<OsString>,
    /// What cargo says to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    match child::run_if_child().and_then(|()| run(&Arguments::parse())) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs everything and prints it; says whether every transfer completed.
fn run(arguments: &Arguments) -> io::Result<bool> {
    let began = Instant::now();
    let interrupted = Interrupt::catch()?;
    common::pin(common::GENERATOR_CORE)?;
    let rows: Vec<&Row> = ROWS
        .iter()
        .filter(|row| {
            let wanted = &arguments.rows;
            wanted.is_empty() || wanted.iter().any(|name| row.name.starts_with(name))
        })
        .collect();
    if rows.is_empty() {
        let names: Vec<_> = ROWS.iter().map(|row| row.name).collect();
        let text = format!("there is no such row; there are {}", names.join(" "));
        return Err(io::Error::other(text));
    }
    let rounds = if arguments.quick { 1 } else { arguments.rounds };
    let folder = tempfile::tempdir()?;
    let mut results = Results::default();
    for round in 1..=rounds {
        for row in &rows {
            let file = image(folder.path(), row)?;
            for kind in KINDS {
                let one = measure(kind, row, &file, arguments, &interrupted)?;
                eprintln!(
                    "round {round} of {rounds}: {}, {}: {:.3} {}",
                    row.name,
                    kind.name(),
                    one.cost,
                    row.unit.name()
                );
                results.add(row, kind, one);
            }
        }
    }
    let complete = results.print(&rows);
    println!("\n{rounds} rounds, {} s.", began.elapsed().as_secs());
    Ok(complete)
}

/// One run of one server on one row.
#[derive(Debug)]
struct Measured {
    /// Processor time in the row's unit.
    cost: f64,
    megabytes_per_second: f64,
    memory_octets_max: u64,
    /// The part of all blocks that was sent or asked for again.
    repeats: f64,
    /// Whether the load generator had no time left.
    bottleneck: bool,
    failed: u64,
}

fn measure(
    kind: Kind,
    row: &Row,
    file: &Path,
    arguments: &Arguments,
    interrupted: &Interrupt,
) -> io::Result<Measured> {
    let server = Server::start(kind, file, row.terms, &arguments.serve)?;
    let name = file
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let reading =
        |clients, transfers| common::reading(server.address, name, row.terms, clients, transfers);
    interrupted.run(&reading(1, 1))?;

    let share = if arguments.quick { QUICK_SHARE } else { 1 };
    let transfers = (row.transfers / share).max(row.clients.into());
    let load = load::Load {
        server_pid: Some(server.pid()),
        ..reading(row.clients, transfers)
    };
    let before = server.processor_time()?;
    let report = interrupted.run(&load)?;
    let used = (server.processor_time()? - before).as_secs_f64();

    let tally = &report.tally;
    let (count, factor) = match row.unit {
        Unit::Gigabyte => (tally.octets as f64 / 1e9, 1.0),
        Unit::RoundTrip => (tally.blocks as f64, 1e6),
        Unit::Transfer => (tally.complete as f64, 1e6),
    };
    Ok(Measured {
        cost: used * factor / count,
        megabytes_per_second: tally.octets as f64 / 1e6 / report.elapsed.as_secs_f64(),
        memory_octets_max: report.server.map_or(0, |usage| usage.memory_max),
        repeats: (tally.duplicates + tally.retransmissions) as f64 / tally.blocks.max(1) as f64,
        bottleneck: report.is_bottleneck(),
        failed: tally.failed(),
    })
}

/// The row's file, written once.
fn image(folder: &Path, row: &Row) -> io::Result<PathBuf> {
    let path = folder.join(format!("{}.bin", row.octets));
    if !path.exists() {
        let mut octets = vec![0; row.octets];
        fastrand::Rng::with_seed(1).fill(&mut octets);
        std::fs::write(&path, octets)?;
    }
    Ok(path)
}

/// Ends the run that goes on when a signal comes, so that everything is left as it was found.
#[derive(Debug)]
struct Interrupt {
    came: Arc<AtomicBool>,
    live: Arc<std::sync::Mutex<Arc<Live>>>,
}

impl Interrupt {
    fn catch() -> io::Result<Self> {
        let own = Self {
            came: Arc::default(),
            live: Arc::default(),
        };
        let (came, live) = (own.came.clone(), own.live.clone());
        control::on_interrupt(move || {
            came.store(true, Ordering::SeqCst);
            if let Ok(live) = live.lock() {
                live.stop();
            }
        })?;
        Ok(own)
    }

    /// Puts load on a server; an error if a signal came.
    fn run(&self, load: &load::Load) -> io::Result<load::report::Report> {
        let live = Arc::new(Live::default());
        if let Ok(mut latest) = self.live.lock() {
            *latest = live.clone();
        }
        let report = if self.came.load(Ordering::SeqCst) {
            None
        } else {
            Some(load::run(load, &live)?)
        };
        report
            .filter(|_| !self.came.load(Ordering::SeqCst))
            .ok_or_else(|| io::Error::other("interrupted"))
    }
}

/// What was measured, by row and server, in the order of the rounds.
#[derive(Debug, Default)]
struct Results(BTreeMap<(&'static str, &'static str), Vec<Measured>>);

impl Results {
    fn add(&mut self, row: &Row, kind: Kind, one: Measured) {
        self.0.entry((row.name, kind.name())).or_default().push(one);
    }

    fn get(&self, row: &'static str, kind: Kind) -> &[Measured] {
        let key = (row, kind.name());
        self.0.get(&key).map_or(&[], Vec::as_slice)
    }

    fn spread(&self, row: &'static str, kind: Kind, figure: impl Fn(&Measured) -> f64) -> Spread {
        self.get(row, kind).iter().map(figure).collect()
    }

    /// The cost of one run as a multiple of another's of the same round.
    fn ratio(&self, row: (&'static str, Kind), base: (&'static str, Kind)) -> Spread {
        let (runs, bases) = (self.get(row.0, row.1), self.get(base.0, base.1));
        let pairs = runs.iter().zip(bases);
        pairs.map(|(run, base)| run.cost / base.cost).collect()
    }

    /// Prints all tables; says whether every transfer completed.
    fn print(&self, rows: &[&Row]) -> bool {
        self.print_costs(rows);
        let crowds: Vec<_> = CROWDS
            .into_iter()
            .filter(|name| !self.get(name, Kind::Bare).is_empty())
            .collect();
        if crowds.len() > 1 && crowds[0] == CROWDS[0] {
            self.print_crowds(&crowds);
        }
        self.print_remarks();
        self.0.values().flatten().all(|one| one.failed == 0)
    }

    fn print_costs(&self, rows: &[&Row]) {
        println!("\nThe server's processor time; medians, in brackets the least and the most.\n");
        println!(
            "| row | unit | bare | mio | of bare | uring | of bare | at most | MB/s: bare, mio, uring |"
        );
        println!("|---|---|---|---|---|---|---|---|---|");
        for row in rows {
            let cost = |kind| self.spread(row.name, kind, |one| one.cost);
            let [bare, mio, uring] = KINDS;
            let of_bare = |kind| self.ratio((row.name, kind), (row.name, bare));
            let speed = |kind| {
                let runs = self.get(row.name, kind);
                let star = if runs.iter().any(|one| one.bottleneck) {
                    "*"
                } else {
                    ""
                };
                let rate = self.spread(row.name, kind, |one| one.megabytes_per_second);
                format!("{:.0}{star}", rate.median())
            };
            println!(
                "| {} | {} | {:.3} | {:.3} | {:.2} | {:.3} | {:.2} | {:.2} | {}, {}, {} |",
                row.name,
                row.unit.name(),
                cost(bare),
                cost(mio),
                of_bare(mio),
                cost(uring),
                of_bare(uring),
                row.limit,
                speed(bare),
                speed(mio),
                speed(uring)
            );
        }
    }

    /// How the cost and the memory grow with the clients.
    fn print_crowds(&self, crowds: &[&'static str]) {
        println!(
            "\nGrowth: cost as a multiple of that of {}, and the most memory held.\n",
            CROWDS[0]
        );
        println!(
            "| row | bare | mio | uring | mio: MiB | a client more | uring: MiB | a client more |"
        );
        println!("|---|---|---|---|---|---|---|---|");
        for &name in crowds {
            let growth = |kind| self.ratio((name, kind), (CROWDS[0], kind));
            let memory = |row: &'static str, kind| {
                let spread = self.spread(row, kind, |one| one.memory_octets_max as f64);
                spread.median()
            };
            let each = |kind| {
                let clients = clients_of(name) - clients_of(CROWDS[0]);
                if clients == 0 {
                    return "–".to_owned();
                }
                let more = memory(name, kind) - memory(CROWDS[0], kind);
                format!("{:.0} B", more / f64::from(clients))
            };
            let [bare, mio, uring] = KINDS;
            println!(
                "| {name} | {:.2} | {:.2} | {:.2} | {:.1} | {} | {:.1} | {} |",
                growth(bare),
                growth(mio),
                growth(uring),
                memory(name, mio) / (1 << 20) as f64,
                each(mio),
                memory(name, uring) / (1 << 20) as f64,
                each(uring)
            );
        }
    }

    fn print_remarks(&self) {
        if self.0.values().flatten().any(|one| one.bottleneck) {
            println!(
                "\n\\* the load generator had no time left: the server may be faster than that."
            );
        }
        for ((row, kind), runs) in &self.0 {
            let repeats = runs.iter().map(|one| one.repeats).fold(0.0, f64::max);
            if repeats >= REPEATS_TOLD {
                println!(
                    "{row}, {kind}: up to {:.1} % of all blocks came or were asked for again.",
                    repeats * 100.0
                );
            }
            let failed: u64 = runs.iter().map(|one| one.failed).sum();
            if failed > 0 {
                println!("{row}, {kind}: {failed} TRANSFERS FAILED.");
            }
        }
    }
}

fn clients_of(name: &str) -> u32 {
    let row = ROWS.iter().find(|row| row.name == name);
    row.map_or(0, |row| row.clients)
}
