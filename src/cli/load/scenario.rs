//! A scenario: several groups of clients in a TOML file whose keys are the options of the command line.
//!
//! Keys and values are converted to words of a command line and parsed as such, so that every option has
//! a key, with the same meaning and the same limits.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use clap::error::{ContextKind, ContextValue};
use clap::{Args, CommandFactory, Parser};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::super::Trouble;
use super::super::args::{LoadGroup, LoadRun};

/// A parsed scenario.
#[derive(Debug)]
pub(super) struct Scenario {
    pub(super) run: LoadRun,
    pub(super) groups: Vec<Part>,
}

/// A group of the scenario.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) name: String,
    pub(super) files: Vec<OsString>,
    pub(super) group: LoadGroup,
}

/// The key of the groups, and the keys of a group that are not options.
const GROUP: &str = "group";
const NAME: &str = "name";
const FILES: &str = "files";

/// Reads a scenario.
pub(super) fn read(path: &Path) -> Result<Scenario, Trouble> {
    let text = fs::read_to_string(path)
        .map_err(|error| Trouble::Work(format!("cannot read {}: {error}", path.display())))?;
    parse(&text).map_err(|Mistake { line, what }| {
        Trouble::Arguments(format!("{}:{line}: {what}", path.display()))
    })
}

/// An error, and its line.
#[derive(Debug)]
struct Mistake {
    line: usize,
    what: String,
}

/// The text of a file, with line lookup.
#[derive(Clone, Copy)]
struct Source<'a>(&'a str);

impl Source<'_> {
    fn mistake(self, offset: usize, what: impl Into<String>) -> Mistake {
        let before = self.0.as_bytes().get(..offset).unwrap_or_default();
        Mistake {
            line: 1 + before.iter().filter(|&&octet| octet == b'\n').count(),
            what: what.into(),
        }
    }
}

fn parse(text: &str) -> Result<Scenario, Mistake> {
    let source = Source(text);
    let table = DeTable::parse(text).map_err(|error| {
        let offset = error.span().map_or(0, |span| span.start);
        source.mistake(offset, error.message())
    })?;
    let table = table.get_ref();
    let run = Keys::<LoadRun>::read(source, 0, table, &[GROUP])?;
    let mut groups = Vec::new();
    let parts = table
        .get(GROUP)
        .and_then(|groups| groups.get_ref().as_array());
    for (number, part) in parts.into_iter().flatten().enumerate() {
        let place = part.span().start;
        let keys = part
            .get_ref()
            .as_table()
            .ok_or_else(|| source.mistake(place, "a group stands under [[group]]"))?;
        groups.push(Part {
            name: match keys.get(NAME) {
                Some(name) => string(source, name)?.to_owned(),
                None => format!("group {}", number + 1),
            },
            files: files(source, place, keys)?,
            group: Keys::read(source, place, keys, &[NAME, FILES])?,
        });
    }
    if groups.is_empty() {
        return Err(source.mistake(0, "there are no clients; add a [[group]]"));
    }
    Ok(Scenario { run, groups })
}

fn files(source: Source<'_>, place: usize, keys: &DeTable<'_>) -> Result<Vec<OsString>, Mistake> {
    let wanted = "files = [\"NAME\", …] is expected in each group";
    let files = keys
        .get(FILES)
        .ok_or_else(|| source.mistake(place, wanted))?;
    let list = files.get_ref().as_array();
    let names = list.ok_or_else(|| source.mistake(files.span().start, wanted))?;
    if names.is_empty() {
        return Err(source.mistake(files.span().start, wanted));
    }
    names
        .iter()
        .map(|name| string(source, name).map(OsString::from))
        .collect()
}

fn string<'a>(source: Source<'_>, value: &'a Spanned<DeValue<'_>>) -> Result<&'a str, Mistake> {
    let text = value.get_ref().as_str();
    text.ok_or_else(|| source.mistake(value.span().start, "a text in quotes is expected"))
}

/// A command line made of keys.
#[derive(Debug, Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
struct Keys<A: Args> {
    #[command(flatten)]
    arguments: A,
}

impl<A: Args> Keys<A> {
    /// Reads the options in `table`, which starts at `place`, except for the keys that are not options.
    fn read(
        source: Source<'_>,
        place: usize,
        table: &DeTable<'_>,
        others: &[&str],
    ) -> Result<A, Mistake> {
        let command = Self::command();
        let mut words = Vec::new();
        let mut places = Vec::new();
        for (key, value) in table {
            let (offset, key) = (key.span().start, key.get_ref());
            if others.contains(&key.as_ref()) {
                continue;
            }
            let known = |argument: &clap::Arg| argument.get_long() == Some(key.as_ref());
            if !command.get_arguments().any(known) {
                let what =
                    format!("there is no key \"{key}\" here; the long options of load are keys");
                return Err(source.mistake(offset, what));
            }
            words.extend(word(key, value.get_ref()));
            places.push((format!("--{key}"), offset));
        }
        match Self::try_parse_from(words) {
            Ok(keys) => Ok(keys.arguments),
            Err(error) => {
                let about = places.iter().find(|(key, _)| is_about(&error, key));
                let offset = about.map_or(place, |&(_, offset)| offset);
                let told = error.to_string();
                // clap's usage text is about a command line.
                let told = told.split("\n\n").next().unwrap_or_default();
                let told: Vec<_> = told.split_whitespace().collect();
                let told = told.join(" ");
                Err(source.mistake(offset, told.trim_start_matches("error: ")))
            }
        }
    }
}

/// An option as it would be typed; `None` if it is a switch that is off.
fn word(key: &str, value: &DeValue<'_>) -> Option<String> {
    let value = match value {
        DeValue::Boolean(on) => return on.then(|| format!("--{key}")),
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        // No option accepts this text, so clap reports an error.
        other => format!("({})", other.type_str()),
    };
    Some(format!("--{key}={value}"))
}

/// Whether clap's error is about this option.
fn is_about(error: &clap::Error, key: &str) -> bool {
    match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(argument)) => argument.strip_prefix(key).is_some_and(|rest| {
            !rest.starts_with(|next: char| next == '-' || next.is_alphanumeric())
        }),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with every key.
    const EVERYTHING: &str = r#"
seed = 7
threads = 2
no-gro = true
server-pid = 1
quiet = true
json = "report.json"
hgrm = "times.hgrm"

[[group]]
name = "firmware"
files = ["pxelinux.0=3", "ldlinux.c32"]
clients = 500
within = 2.5
profile = "ipxe=5,edk2=3"
patience = 20
verify = "pattern"
loss = "1%"
duplicate = 0.01
reorder = 0.02
delay = "2..10"
abandon = 0.1
slow = 1
flash = "45:500"

[[group]]
files = ["image"]
rate = 20
even = true
duration = 10
blksize = 1_468
windowsize = 8
timeout = 2
zipf = 1.0

[[group]]
files = ["up-{number}"]
clients = 3
transfers = 100
think = 0.5
no-options = true
write = "pattern"
size = "1MiB"
"#;

    fn mistake(text: &str) -> String {
        let Mistake { line, what } = parse(text).expect_err(text);
        format!("{line}: {what}")
    }

    #[test]
    fn every_option_is_a_key() {
        let scenario = parse(EVERYTHING).expect("good");
        assert_eq!(
            (scenario.run.seed, scenario.run.threads),
            (Some(7), Some(2))
        );
        assert!(scenario.run.no_gro && scenario.run.quiet);
        let [firmware, image, uploads] = &scenario.groups[..] else {
            panic!("three groups");
        };
        assert_eq!(
            (firmware.name.as_str(), image.name.as_str()),
            ("firmware", "group 2")
        );
        assert_eq!((firmware.group.clients, firmware.group.loss), (500, 0.01));
        assert_eq!(
            (image.group.rate, image.group.blksize),
            (Some(20.0), Some(1468))
        );
        assert!(image.group.even && uploads.group.no_options);
        let options = Keys::<LoadGroup>::command();
        let options = options.get_arguments().filter_map(clap::Arg::get_long);
        for option in options {
            assert!(EVERYTHING.contains(&format!("\n{option} = ")), "{option}");
        }
    }

    #[test]
    fn mistakes_are_told_with_their_line() {
        let group = "[[group]]\nfiles = [\"a\"]\n";
        let told = [
            mistake(""),
            mistake("seed = \n"),
            mistake("sed = 1\n"),
            mistake("group = 1"),
            mistake("[[group]]\nclients = 1\n"),
            mistake("[[group]]\nfiles = \"a\"\n"),
            mistake("[[group]]\nfiles = [1]\n"),
            mistake(&format!("{group}clints = 5\n")),
            mistake(&format!("{group}clients = 5\nloss = 2\n")),
            mistake(&format!("{group}clients = 5\nrate = 2\n")),
            mistake(&format!("{group}even = true\n")),
            mistake(&format!("{group}loss = [1]\n")),
            mistake(&format!("{group}clients = true\n")),
            mistake(&format!("{group}ramp = true\n")),
        ];
        insta::assert_snapshot!(told.join("\n"));
    }
}
