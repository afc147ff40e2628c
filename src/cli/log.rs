//! Log lines go to standard error, as text or JSON.

use std::io::{self, IsTerminal};
use std::sync::OnceLock;

use tracing_subscriber::EnvFilter;

use super::Trouble;
use super::args::{Arguments, Command, LogFormat};
use super::gather::{Gather, WrittenAtLast};

/// The buffer for log lines to standard error.
static LINES: OnceLock<Gather> = OnceLock::new();

/// Sets up logging according to the arguments.
pub(super) fn set_up(arguments: &Arguments) -> Result<(), Trouble> {
    let log = &arguments.log;
    let level = match (log.verbose, &arguments.command) {
        (0, Command::Serve(_)) => "info",
        // In a simulation, failures are intended.
        (0, Command::Simulate(_)) => "off",
        // A client reports its results itself.
        (0, _) => "warn",
        (1, _) => "debug",
        _ => "trace",
    };
    // The filter was checked before; with our own level it cannot be invalid.
    let filter =
        EnvFilter::try_new(log.log_filter.as_deref().unwrap_or(level)).map_err(Trouble::work)?;
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let lines = Gather::new(io::stderr()).map_err(Trouble::work)?;
    let lines = LINES.get_or_init(|| lines);
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(lines.clone())
        .with_ansi(colours)
        .with_target(false);
    let set = match log.log_format {
        LogFormat::Text => subscriber.try_init(),
        LogFormat::Json => subscriber.json().flatten_event(true).try_init(),
    };
    // A program that calls this as a library may have set up a log already.
    drop(set);
    Ok(())
}

/// The buffer of the log, once it is set up.
pub(super) fn lines() -> Option<&'static Gather> {
    LINES.get()
}

/// Writes the buffered lines when the result is dropped: at the end of the work, even after a panic.
pub(super) fn written_at_last() -> WrittenAtLast<'static> {
    WrittenAtLast(&LINES)
}
