//! The page of a run: adds facts about this machine and this command to the report.

use std::env;
use std::fs;
use std::thread;
use std::time::SystemTime;

use super::Trouble;
use super::output::Output;
use crate::load::ramp::Climb;
use crate::load::report::Report;
use crate::load::report::html::{self, Head};

/// Writes the page of a report, with other facts about the server.
pub(super) fn write(
    report: &Report,
    facts: Vec<(&'static str, String)>,
    output: &Output,
) -> Result<(), Trouble> {
    output.write(|output| html::write(report, &head(facts), output))
}

/// Writes the page of a ramp.
pub(super) fn write_climb(climb: &Climb, output: &Output) -> Result<(), Trouble> {
    output.write(|output| html::write_climb(climb, &head(Vec::new()), output))
}

fn head(mut facts: Vec<(&'static str, String)>) -> Head {
    facts.push(("this machine", machine()));
    Head {
        command: command(env::args_os().map(|word| word.to_string_lossy().into_owned())),
        made: Some(SystemTime::now()),
        facts,
    }
}

/// The system's description of the machine.
fn machine() -> String {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{} {}, {cores} cores", env::consts::OS, kernel.trim())
}

/// The command in shell syntax; the program is shortened to the last component of its path.
fn command(words: impl Iterator<Item = String>) -> String {
    let words = words.enumerate().map(|(number, word)| {
        let last = word.rsplit('/').next().unwrap_or_default().to_owned();
        quoted(if number == 0 { last } else { word })
    });
    words.collect::<Vec<_>>().join(" ")
}

/// A word, quoted if the shell would interpret it.
fn quoted(word: String) -> String {
    let plain = |letter: char| letter.is_alphanumeric() || "-_=./:@%+,".contains(letter);
    if !word.is_empty() && word.chars().all(plain) {
        word
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_can_be_typed_again() {
        let words = ["/a/b/bootstorm", "load", "tftp://h/it's;rm", "-n", "3", ""];
        assert_eq!(
            command(words.map(str::to_owned).into_iter()),
            r"bootstorm load 'tftp://h/it'\''s;rm' -n 3 ''"
        );
    }
}
