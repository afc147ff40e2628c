//! `demo`: a boot storm without preparation. It runs a server in a separate process and clients in this
//! one, and shows the results in a table and on a page.

pub(super) mod server;

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use super::args::Demo;
use super::errand::{counted, grouped};
use super::live::View;
use super::load::{failed, stop_on_interrupt};
use super::output::Output;
use super::{Trouble, page, remark, say};
use crate::load::plan::Pace;
use crate::load::profile::Profile;
use crate::load::report::{NOTHING, Report, told};
use crate::load::{self, File, Group, Live, Load, Waits, contents};
use crate::shard::Expected;
use crate::time::Duration;
use server::{Counted, Other};

/// How long a transfer may stall: long enough for the demo to finish on any machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// The name on the server of the image that all clients boot from.
const IMAGE: &str = "image";
/// The default name of the page.
const PAGE: &str = "bootstorm-demo.html";
/// The width of the names of rows.
const NAME_COLUMNS: usize = 20;

pub(super) fn run(arguments: &Demo) -> Result<(), Trouble> {
    let (page, path) = opened(arguments.html.as_deref())?;
    let live = Arc::new(Live::default());
    stop_on_interrupt(&live)?;
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let workers = (cores / 2).max(1);
    let other = Other::start(arguments.size, workers)?;
    say(format_args!(
        "{} {} within {:.1} s, each from an image of {}: {}\n",
        counted(arguments.clients.into(), "client"),
        if arguments.clients == 1 {
            "boots"
        } else {
            "boot"
        },
        arguments.within.as_secs_f64(),
        counted(arguments.size as u64, "octet"),
        other.ready()
    ))?;
    let load = storm(arguments, &other, (cores - workers).max(1));
    let view = (!arguments.quiet).then(|| View::bar(&live, arguments.clients.into()));
    let report = load::run(&load, &live).map_err(|error| failed(&error, &load));
    drop(view);
    let report = report?;
    let ready = other.ready().to_string();
    let counted = other.end()?;
    let outcome = Outcome {
        clients: arguments.clients,
        report: &report,
        counted: &counted,
    };
    say(&outcome)?;
    let facts = vec![
        ("server", ready),
        ("the server counted", counted.to_string()),
    ];
    page::write(&report, facts, &page)?;
    let path = path.canonicalize().unwrap_or(path);
    let path = path.display();
    say(format_args!("{:<NAME_COLUMNS$}{path}\n", "look at"))?;
    for warning in report.warnings() {
        remark(format_args!("WARNING: {warning}"));
    }
    outcome.verdict()
}

/// The clients.
fn storm(arguments: &Demo, other: &Other, threads: usize) -> Load {
    let expected = Expected::Octets(contents::octets(arguments.size).into());
    let file = File {
        name: IMAGE.into(),
        weight: 1,
        expected: Arc::new(expected),
    };
    let mut profile = Profile::DEFAULT;
    profile.patience.idle = PATIENCE;
    let group = Group {
        profiles: vec![(profile, 1)],
        pace: Pace::Storm {
            clients: arguments.clients,
            within: arguments.within,
        },
        ..Group::new(vec![file], arguments.clients)
    };
    Load {
        threads,
        server_pid: Some(other.pid()),
        ..Load::new(other.ready().address, vec![group])
    }
}

/// Opens the page at the requested path; by default here, or in the temporary directory if this directory
/// is not writable. Also returns the path.
fn opened(asked: Option<&Path>) -> Result<(Output, PathBuf), Trouble> {
    let open = |path: PathBuf| Output::open(&path).map(|output| (output, path));
    match asked {
        Some(path) => open(path.to_path_buf()),
        None => open(PAGE.into()).or_else(|_| open(env::temp_dir().join(PAGE))),
    }
}

/// The results.
struct Outcome<'a> {
    clients: u32,
    report: &'a Report,
    counted: &'a Counted,
}

impl Outcome<'_> {
    /// Checks that every client got the image.
    fn verdict(&self) -> Result<(), Trouble> {
        let tally = &self.report.tally;
        let clients = self.clients;
        if tally.failed() > 0 {
            Err(Trouble::Work(format!(
                "{} of {} {} not served",
                grouped(tally.failed()),
                counted(clients.into(), "client"),
                if tally.failed() == 1 { "was" } else { "were" }
            )))
        } else if tally.complete < u64::from(clients) {
            Err(Trouble::Work(format!(
                "interrupted when {} of {} {} served",
                grouped(tally.complete),
                counted(clients.into(), "client"),
                if tally.complete == 1 { "was" } else { "were" }
            )))
        } else {
            Ok(())
        }
    }
}

impl Outcome<'_> {
    /// How many clients got the image.
    fn served(&self) -> String {
        let tally = &self.report.tally;
        let all = counted(self.clients.into(), "client");
        let mut served = format!("{} of {all}", grouped(tally.complete));
        if tally.complete > 0 {
            served.push_str(", every octet compared");
        }
        if self.report.interrupted {
            let begun = grouped(tally.begun);
            served.push_str(&format!("; {begun} had come when it was interrupted"));
        }
        served
    }
}

/// The table.
impl fmt::Display for Outcome<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report {
            tally,
            elapsed,
            server,
            ..
        } = self.report;
        let seconds = elapsed.as_secs_f64().max(1e-9);
        let mut row = |name: &str, value: String| writeln!(f, "{name:<NAME_COLUMNS$}{value}");
        row("served", self.served())?;
        for (failure, count) in &tally.failures {
            row("FAILED", format!("{} {failure}", grouped(*count)))?;
        }
        row(
            "took",
            format!("{seconds:.3} s, from the first request to the last octet"),
        )?;
        row(
            "throughput",
            format!(
                "{:.1} MB/s, {:.1} copies of the image a second",
                tally.octets as f64 / seconds / 1e6,
                tally.complete as f64 / seconds
            ),
        )?;
        let times = |waits: &Waits| {
            let words = |time: Duration| format!("{:.3} s", time.as_secs_f64());
            let [half, most, all] = [0.5, 0.99, 1.0].map(|part| told(waits.quantile(part), words));
            format!("p50 {half}, p99 {most}, at most {all}")
        };
        if tally.complete > 0 {
            row("a boot", times(&tally.transfer))?;
            row("its first block", times(&tally.first_block))?;
        }
        if let Some(server) = server {
            row(
                "the server used",
                format!(
                    "{:.2} CPU s, {} CPU s/GB, {} MiB of memory",
                    server.processor.as_secs_f64(),
                    self.report
                        .server_seconds_per_gigabyte()
                        .map_or_else(|| NOTHING.to_owned(), |cost| format!("{cost:.2}")),
                    server.memory_max >> 20
                ),
            )?;
        }
        let verdict = if self.counted.agrees(self.report) {
            ", as the clients did"
        } else if self.report.interrupted {
            // For interrupted transfers, the two ends know different counts.
            ""
        } else {
            ", and the clients otherwise"
        };
        row("the server counted", format!("{}{verdict}", self.counted))?;
        row(
            "the clients used",
            format!(
                "{:.2} CPU s, {} MiB of memory",
                tally.processor.as_secs_f64(),
                self.report.memory_max >> 20
            ),
        )
    }
}
