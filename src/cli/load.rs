//! `load`: the arguments as a load, a line that moves while it runs, and the report.

mod meaning;
mod scenario;

use std::fmt::Display;
use std::fs::File as Output;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;

use super::args::{Load as Arguments, LoadRun, Pattern};
use super::errand::grouped;
use super::live::View;
use super::page;
use super::{Trouble, end_at_once, say};
use crate::control;
use crate::load::ramp::{self, Ramp};
use crate::load::report::{Report, hgrm, json};
use crate::load::{self, Live, Load};
use crate::shard::PATTERN_SEED;
use crate::store::memory::pattern_fill;

/// Octets of a pattern that are written at a time.
const PATTERN_STRETCH: usize = 1 << 16;

pub(super) fn run(arguments: &Arguments) -> Result<(), Trouble> {
    let (load, ramp, run) = meaning::load(arguments)?;
    let live = Arc::new(Live::default());
    stop_on_interrupt(&live)?;
    let view = if run.quiet { None } else { View::line(&live) };
    match ramp {
        None => once(&load, &live, &run, view),
        Some(ramp) => climb(&load, ramp, &live, &run, view),
    }
}

/// One run, and its report.
fn once(load: &Load, live: &Arc<Live>, run: &LoadRun, view: Option<View>) -> Result<(), Trouble> {
    let report = load::run(load, live).map_err(|error| failed(&error, load));
    drop(view);
    let report = report?;
    // First of all, so that a file that cannot be written takes nothing away.
    print(&report, run)?;
    if let Some(path) = &run.json {
        write_json(path, |output| json::write(&report, output))?;
    }
    if let Some(path) = &run.hgrm {
        let written =
            Output::create(path).and_then(|file| hgrm::write(&report, io::BufWriter::new(file)));
        written.map_err(|error| cannot_write(path, &error))?;
    }
    if let Some(path) = &run.html {
        page::write(&report, Vec::new(), path)?;
    }
    good(&report)
}

fn good(report: &Report) -> Result<(), Trouble> {
    if report.is_good() {
        Ok(())
    } else {
        Err(Trouble::Work(format!(
            "{} of {} transfers failed",
            grouped(report.tally.failed()),
            grouped(report.tally.begun)
        )))
    }
}

/// More and more load, and what came of it.
fn climb(
    load: &Load,
    ramp: Ramp,
    live: &Arc<Live>,
    run: &LoadRun,
    view: Option<View>,
) -> Result<(), Trouble> {
    let climb = ramp::run(load, ramp, live).map_err(|error| failed(&error, load));
    drop(view);
    let climb = climb?;
    print(&climb, run)?;
    if let Some(path) = &run.json {
        write_json(path, |output| json::write_climb(&climb, output))?;
    }
    if climb.held().is_some() {
        Ok(())
    } else {
        Err(Trouble::work("the first step did not hold already"))
    }
}

/// Prints the table; with the numbers on standard output, it would only be in the way.
fn print(table: &impl Display, run: &LoadRun) -> Result<(), Trouble> {
    if run.json.as_deref() == Some(Path::new("-")) {
        return Ok(());
    }
    say(table)
}

/// `load pattern`: writes a file that `--verify pattern` knows.
pub(super) fn pattern(arguments: &Pattern) -> Result<(), Trouble> {
    let Pattern { size, ref file } = *arguments;
    let write = || -> io::Result<()> {
        let mut output = Output::create(file)?;
        let mut stretch = vec![0; PATTERN_STRETCH];
        let mut offset = 0;
        while offset < size {
            let rest = usize::try_from(size - offset).unwrap_or(usize::MAX);
            let stretch = &mut stretch[..rest.min(PATTERN_STRETCH)];
            pattern_fill(PATTERN_SEED, offset, stretch);
            output.write_all(stretch)?;
            offset += stretch.len() as u64;
        }
        Ok(())
    };
    write().map_err(|error| cannot_write(file, &error))
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

fn write_json(
    path: &Path,
    write: impl FnOnce(&mut dyn io::Write) -> io::Result<()>,
) -> Result<(), Trouble> {
    let written = if path == Path::new("-") {
        let mut output = io::stdout().lock();
        write(&mut output).and_then(|()| writeln!(output))
    } else {
        Output::create(path).and_then(|file| {
            let mut output = io::BufWriter::new(file);
            write(&mut output)?;
            output.flush()
        })
    };
    written.map_err(|error| cannot_write(path, &error))
}

pub(super) fn cannot_write(path: &Path, error: &io::Error) -> Trouble {
    Trouble::Work(format!("cannot write {}: {error}", path.display()))
}
