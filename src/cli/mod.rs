//! The command line: parses arguments, converts them to settings, and does the work; one file per
//! subcommand.

mod args;
mod check;
mod compare;
mod config_file;
mod demo;
mod errand;
mod foreign;
mod gather;
mod get;
mod live;
mod load;
mod log;
mod origin;
mod output;
mod page;
mod put;
mod serve;
mod simulate;
mod top;
pub(crate) mod url;
pub(crate) mod values;

use std::cell::RefCell;
use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::{self, ExitCode};

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches};

use args::{Arguments, Command, LoadCommand, Serve};

/// The exit code when the work failed.
const FAILED: u8 = 1;
/// The exit code for invalid arguments.
const BAD_ARGUMENTS: u8 = 2;

/// Runs the program with these arguments, the first being its name; returns 0 on success.
#[must_use]
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let (done, name) = {
        let _lines = log::written_at_last();
        match parse(arguments) {
            Ok(arguments) => {
                let name = name(&arguments.command);
                (act(arguments), name)
            }
            Err(trouble) => (Err(trouble), "serve"),
        }
    };
    let code = match done {
        Ok(()) => 0,
        // A request for help is not an error.
        Err(Trouble::Clap(message)) if !message.use_stderr() => print(&message),
        Err(Trouble::Clap(message)) => {
            print(&message);
            BAD_ARGUMENTS
        }
        Err(Trouble::Arguments(why)) => {
            print(&named(name).error(ErrorKind::ValueValidation, why));
            BAD_ARGUMENTS
        }
        Err(Trouble::Work(why)) => {
            remark(format_args!("bootstorm: {why}"));
            FAILED
        }
    };
    ExitCode::from(code)
}

/// Parses the arguments, with defaults from the configuration file that they name, if any.
fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Arguments, Trouble> {
    let typed: Vec<OsString> = arguments.into_iter().collect();
    let mut matches = Arguments::command()
        .try_get_matches_from(&typed)
        .map_err(|error| misunderstood(error, &typed))?;
    if let Some(("serve", serve)) = matches.subcommand()
        && let Some(file) = serve.get_one::<PathBuf>("config")
    {
        let command = config_file::as_defaults(Arguments::command(), file)?;
        matches = command
            .try_get_matches_from(&typed)
            // Everything typed has been parsed successfully above.
            .map_err(|error| {
                Trouble::Arguments(format!("{}: {}", file.display(), reason(&error)))
            })?;
    }
    let mut arguments = Arguments::from_arg_matches(&matches).map_err(Trouble::Clap)?;
    if let (Command::Serve(serve), Some((_, told))) = (&mut arguments.command, matches.subcommand())
    {
        choose_ports(serve, told);
    }
    Ok(arguments)
}

/// One port for all transfers and a range of ports exclude each other. What was typed takes precedence
/// over a variable, which takes precedence over the file.
fn choose_ports(serve: &mut Serve, told: &ArgMatches) {
    let weight = |argument| match told.value_source(argument) {
        Some(ValueSource::CommandLine) => 2,
        Some(ValueSource::EnvVariable) => 1,
        _ => 0,
    };
    let (single_port, port_range) = (weight("single_port"), weight("port_range"));
    if serve.single_port && single_port > port_range {
        serve.port_range = None;
    } else if port_range > single_port {
        serve.single_port = false;
    }
}

/// The error message for arguments that clap rejected.
fn misunderstood(error: clap::Error, typed: &[OsString]) -> Trouble {
    let mut command = Arguments::command();
    command.build();
    match foreign::advice(&error, &command, typed) {
        Some(advice) => Trouble::Arguments(advice),
        None => Trouble::Clap(origin::named(error, &command, typed)),
    }
}

/// clap's error message, without its advice on usage.
fn reason(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let text = text.split("\n\n").next().unwrap_or_default();
    text.trim_start_matches("error: ").to_owned()
}

/// A command's name on the command line; several words for a nested one.
const fn name(command: &Command) -> &'static str {
    match command {
        Command::Demo(_) => "demo",
        Command::DemoServer(_) => "demo-server",
        Command::CompareGuard(_) => "compare-guard",
        Command::Serve(_) => "serve",
        Command::Get(_) => "get",
        Command::Put(_) => "put",
        Command::Load(load) => match load.command {
            Some(LoadCommand::Compare(_)) => "load compare",
            Some(LoadCommand::Pattern(_)) => "load pattern",
            None => "load",
        },
        Command::Check(_) => "check",
        Command::Simulate(_) => "simulate",
        Command::Top(_) => "top",
    }
}

/// The command with this name, with its usage set up.
fn named(name: &str) -> clap::Command {
    let mut command = Arguments::command();
    command.build();
    for word in name.split_whitespace() {
        if let Some(below) = command.find_subcommand(word) {
            command = below.clone();
        }
    }
    command
}

fn act(arguments: Arguments) -> Result<(), Trouble> {
    log::set_up(&arguments)?;
    match arguments.command {
        Command::Demo(demo) => demo::run(&demo),
        Command::DemoServer(server) => demo::server::run(&server),
        Command::CompareGuard(guard) => compare::guard(&guard),
        Command::Serve(serve) => serve::run(&serve, arguments.log.log_format),
        Command::Get(get) => get::run(get),
        Command::Put(put) => put::run(put),
        Command::Load(load) => match &load.command {
            Some(LoadCommand::Compare(compare)) => compare::run(compare),
            Some(LoadCommand::Pattern(pattern)) => load::pattern(pattern),
            None if load.check => check::run(&load::examination(&load)?),
            None => load::run(&load),
        },
        Command::Check(check) => check::run(&check),
        Command::Simulate(simulate) => simulate::run(&simulate),
        Command::Top(top) => top::run(&top),
    }
}

/// Whether arguments, the first being the program's name, are well-formed; nothing is executed.
pub(crate) fn is_well_formed(arguments: impl IntoIterator<Item = OsString>) -> bool {
    thread_local! {
        // Built once: that takes a hundred times as long as parsing a line.
        static COMMAND: RefCell<clap::Command> = RefCell::new(Arguments::command());
    }
    COMMAND.with_borrow_mut(|command| {
        let matches = command.try_get_matches_from_mut(arguments);
        matches.is_ok_and(|mut matches| Arguments::from_arg_matches_mut(&mut matches).is_ok())
    })
}

/// Ends the process immediately, as failed: the user interrupted it twice.
fn end_at_once() -> ! {
    drop(log::written_at_last());
    process::exit(FAILED.into())
}

/// Prints clap's message; an error in writing it cannot be reported anywhere.
fn print(message: &clap::Error) -> u8 {
    u8::from(message.print().is_err())
}

/// Writes requested output to standard output.
///
/// # Errors
/// If that fails, unless the reader closed the pipe.
fn say(text: impl fmt::Display) -> Result<(), Trouble> {
    let mut output = io::stdout().lock();
    match write!(output, "{text}").and_then(|()| output.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        said => said.map_err(|error| Trouble::Work(format!("cannot print: {error}"))),
    }
}

/// Writes a remark to standard error; an error in writing it cannot be reported anywhere.
fn remark(line: impl fmt::Display) {
    let line = format!("{line}\n");
    let _ = match log::lines() {
        // Queued after the log's lines, and like them without waiting for a reader that has stopped.
        Some(mut lines) => {
            let taken = lines.write_all(line.as_bytes());
            lines.flush();
            taken
        }
        None => io::stderr().write_all(line.as_bytes()),
    };
}

/// Why a command failed.
#[derive(Debug)]
enum Trouble {
    /// An error found by clap, or a request for help.
    Clap(clap::Error),
    /// The combination of arguments is invalid.
    Arguments(String),
    /// The work failed.
    Work(String),
}

impl Trouble {
    fn arguments(why: impl Into<String>) -> Self {
        Self::Arguments(why.into())
    }

    fn work(why: impl fmt::Display) -> Self {
        Self::Work(why.to_string())
    }
}
