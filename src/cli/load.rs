//! `load`: the arguments as a load, a line that moves while it runs, and the report.

mod meaning;
mod scenario;

use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::args::{Load as Arguments, LoadRun, Pattern};
use super::errand::{counted, grouped};
use super::live::{Goal, View};
use super::output::Output;
use super::page;
use super::{Trouble, end_at_once, say};
use crate::control;
use crate::load::ramp::{self, Broken, Ramp};
use crate::load::report::{Report, hgrm, json};
use crate::load::{self, Live, Load, contents};

pub(super) fn run(arguments: &Arguments) -> Result<(), Trouble> {
    let (load, ramp, run) = meaning::load(arguments)?;
    let outputs = Outputs::open(&run)?;
    let live = Arc::new(Live::default());
    stop_on_interrupt(&live)?;
    // Of a ramp nobody knows how many steps it will have.
    let goal = ramp.map_or_else(|| Goal::of(&load), |_| Goal::default());
    let view = if run.quiet {
        None
    } else {
        View::line(&live, goal)
    };
    match ramp {
        None => once(&load, &live, &outputs, view),
        Some(ramp) => climb(&load, ramp, &live, &outputs, view),
    }
}

/// Where reports go, besides the table.
struct Outputs {
    json: Option<Output>,
    hgrm: Option<Output>,
    html: Option<Output>,
    /// Whether the table would only be in the way of the numbers on standard output.
    no_table: bool,
}

impl Outputs {
    fn open(run: &LoadRun) -> Result<Self, Trouble> {
        let paths = [&run.json, &run.hgrm, &run.html];
        let to_standard = paths.into_iter().flatten();
        let to_standard = to_standard.filter(|path| **path == Path::new("-")).count();
        if to_standard > 1 {
            return Err(Trouble::arguments(
                "standard output takes one report; give the others a file",
            ));
        }
        let open = |path: &Option<PathBuf>| {
            let path = path.as_deref();
            path.map(Output::open_or_standard).transpose()
        };
        Ok(Self {
            json: open(&run.json)?,
            hgrm: open(&run.hgrm)?,
            html: open(&run.html)?,
            no_table: to_standard > 0,
        })
    }

    /// Prints the table; first of all, so that a file that cannot be written takes nothing away.
    fn print(&self, table: &impl Display) -> Result<(), Trouble> {
        if self.no_table {
            return Ok(());
        }
        say(table)
    }
}

/// One run, and its report.
fn once(
    load: &Load,
    live: &Arc<Live>,
    outputs: &Outputs,
    view: Option<View>,
) -> Result<(), Trouble> {
    let report = load::run(load, live).map_err(|error| failed(&error, load));
    drop(view);
    let report = report?;
    outputs.print(&report)?;
    if let Some(output) = &outputs.json {
        output.write(|output| json::write(&report, output))?;
    }
    if let Some(output) = &outputs.hgrm {
        output.write(|output| hgrm::write(&report, output))?;
    }
    if let Some(output) = &outputs.html {
        page::write(&report, Vec::new(), output)?;
    }
    good(&report)
}

/// Whether all went well: nothing failed, and it was not cut short.
fn good(report: &Report) -> Result<(), Trouble> {
    if !report.is_good() {
        Err(Trouble::Work(format!(
            "{} of {} failed",
            grouped(report.tally.failed()),
            counted(report.tally.begun, "transfer")
        )))
    } else if report.interrupted {
        Err(Trouble::Work(format!(
            "interrupted with {} under way",
            counted(report.tally.transfer.cut(), "transfer")
        )))
    } else {
        Ok(())
    }
}

/// More and more load, and what came of it.
fn climb(
    load: &Load,
    ramp: Ramp,
    live: &Arc<Live>,
    outputs: &Outputs,
    view: Option<View>,
) -> Result<(), Trouble> {
    let climb = ramp::run(load, ramp, live).map_err(|error| failed(&error, load));
    drop(view);
    let climb = climb?;
    outputs.print(&climb)?;
    if let Some(output) = &outputs.json {
        output.write(|output| json::write_climb(&climb, output))?;
    }
    if let Some(output) = &outputs.html {
        page::write_climb(&climb, output)?;
    }
    let last = climb.steps.last().and_then(|step| step.broken);
    match climb.steps.first().and_then(|step| step.broken) {
        _ if last == Some(Broken::Interrupted) => Err(Trouble::Work(format!(
            "interrupted amid step {}",
            climb.steps.len()
        ))),
        None => Ok(()),
        Some(why) => Err(Trouble::Work(format!(
            "not even the first step held ({why}); begin with less, by --clients or --rate"
        ))),
    }
}

/// `load pattern`: writes a file that `--verify pattern` knows.
pub(super) fn pattern(arguments: &Pattern) -> Result<(), Trouble> {
    let Pattern { size, ref file } = *arguments;
    let output = Output::open(file)?;
    output.write(|output| contents::write(size, output))
}

pub(super) fn failed(error: &io::Error, load: &Load) -> Trouble {
    match load.server_pid {
        Some(pid) if error.kind() == io::ErrorKind::NotFound => {
            Trouble::Work(format!("there is no process {pid} to watch"))
        }
        _ => Trouble::work(format_args!("the system refuses ({error})")),
    }
}

/// Ends the run at the first signal, and the process at the next.
pub(super) fn stop_on_interrupt(live: &Arc<Live>) -> Result<(), Trouble> {
    let live = live.clone();
    let action = move || {
        if live.is_stopped() {
            end_at_once();
        }
        live.stop();
    };
    control::on_interrupt(action)
        .map_err(|error| Trouble::Work(format!("cannot catch signals: {error}")))
}
