//! Finds the environment variable that an invalid value came from, so that users need not look for a flag
//! that they did not type.

use std::env;
use std::ffi::{OsStr, OsString};

use clap::error::{ContextKind, ContextValue};
use clap::{Arg, Command, Error};

/// Names the environment variable in the error, next to the flag if that was not typed.
pub(super) fn named(mut error: Error, command: &Command, typed: &[OsString]) -> Error {
    let kind = ContextKind::InvalidArg;
    if let Some(ContextValue::String(shown)) = error.get(kind)
        && let Some(variable) = variable(command, shown, typed)
    {
        let told = format!("{shown} (from {variable})");
        error.insert(kind, ContextValue::String(told));
    }
    error
}

/// The variable that set the argument that clap displays this way, if one did.
fn variable(command: &Command, shown: &str, typed: &[OsString]) -> Option<String> {
    let below = command.get_subcommands();
    let all = below.flat_map(Command::get_arguments);
    let argument = all
        .chain(command.get_arguments())
        .find(|argument| argument.to_string() == shown && argument.get_env().is_some())?;
    let variable = argument.get_env()?;
    let is_set = env::var_os(variable).is_some();
    let is_typed = typed.iter().any(|word| names(word, argument));
    (is_set && !is_typed).then(|| variable.to_string_lossy().into_owned())
}

/// Whether a word of the command line names this argument, with or without a value.
fn names(word: &OsStr, argument: &Arg) -> bool {
    let word = word.to_string_lossy();
    let long = word.strip_prefix("--").map(|name| {
        let name = name.split_once('=').map_or(name, |(name, _)| name);
        argument.get_long() == Some(name)
    });
    let short = word.strip_prefix('-').map(|letters| {
        let mut letters = letters.chars();
        argument
            .get_short()
            .is_some_and(|own| letters.next() == Some(own))
    });
    long.or(short).unwrap_or(false)
}
