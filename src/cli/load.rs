//! `load`: converts the arguments to a load, shows its progress, and prints the report.

mod meaning;
mod scenario;

use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::args::{Check, Load as Arguments, LoadRun, Pattern};
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
    // The number of steps of a ramp is not known in advance.
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

/// The output files, in addition to the table.
struct Outputs {
    json: Option<Output>,
    hgrm: Option<Output>,
    html: Option<Output>,
    /// Whether to omit the table, because the numbers go to standard output.
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

    /// Prints the table; this comes first, so that a file that cannot be written does not suppress it.
    fn print(&self, table: &impl Display) -> Result<(), Trouble> {
        if self.no_table {
            return Ok(());
        }
        say(table)
    }
}

/// Runs a load once, and reports it.
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

/// Whether the run succeeded: nothing failed, and it was not cut short.
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

/// Runs a ramp, and reports it.
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

/// `load --check`: the target of the test.
pub(super) fn examination(arguments: &Arguments) -> Result<Check, Trouble> {
    let (server, name) = match arguments.targets.as_slice() {
        [server] => (server, None),
        [server, name] => (server, Some(name)),
        _ => {
            return Err(Trouble::arguments(
                "--check examines a server by one file; give tftp://HOST/NAME alone",
            ));
        }
    };
    Ok(Check {
        server: server.clone(),
        name: name.cloned(),
        write: None,
        quiet: arguments.run.quiet,
    })
}

/// `load pattern`: writes a file that `--verify pattern` accepts.
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

/// Stops the run at the first signal, and ends the process at the second.
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
