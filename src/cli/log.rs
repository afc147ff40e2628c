//! Log lines go to standard error, as text or JSON.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

use super::Trouble;
use super::args::{Arguments, Command, LogFormat};

/// Sends log lines where the arguments want them.
pub(super) fn set_up(arguments: &Arguments) -> Result<(), Trouble> {
    // A client says what happened by itself.
    let quiet = !matches!(arguments.command, Command::Serve(_));
    let log = &arguments.log;
    let level = match log.verbose {
        0 if quiet => "warn",
        0 => "info",
        1 => "debug",
        _ => "trace",
    };
    let filter = EnvFilter::try_new(log.log_filter.as_deref().unwrap_or(level))
        .map_err(|error| Trouble::arguments(format!("in --log-filter, {error}")))?;
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(colours)
        .with_target(false);
    let set = match log.log_format {
        LogFormat::Text => subscriber.try_init(),
        LogFormat::Json => subscriber.json().flatten_event(true).try_init(),
    };
    // Whoever runs the command inside a program of their own may have a log already.
    drop(set);
    Ok(())
}
