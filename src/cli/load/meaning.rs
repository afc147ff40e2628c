//! Converts the arguments of `load`: the clients, their work, and the impairments.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::Trouble;
use super::super::args::{Load as Arguments, LoadGroup, LoadRun};
use super::super::url::{self, Server};
use super::super::values::{self, Profiles};
use super::scenario;
use crate::load::plan::{Bounds, Pace};
use crate::load::profile::Profile;
use crate::load::ramp::{self, Ramp};
use crate::load::{File, Group, Load, Weather, Work};
use crate::proto::negotiate::Wanted;
use crate::shard::{Expected, PATTERN_SEED};
use crate::store::memory::Contents;
use crate::wire::Escaped;

/// The keyword for the pattern in place of a file.
const PATTERN: &str = "pattern";
/// The default length of the pattern when writing, in octets.
const PATTERN_OCTETS: u64 = 1 << 20;
/// The weight of the first file under Zipf's law: large, because the others get fractions of it.
const ZIPF_WEIGHT: f64 = 1e6;

/// The load, the ramp that raises it, and the other settings of the run.
pub(super) fn load(arguments: &Arguments) -> Result<(Load, Option<Ramp>, LoadRun), Trouble> {
    let (server, files) = targets(&arguments.targets)?;
    let mut run = arguments.run.clone();
    let factor = |file: &&OsString| {
        file.to_str()
            .is_some_and(|text| values::factor(text).is_ok())
    };
    if let (Some(_), Some(factor)) = (run.ramp, files.iter().skip(1).find(factor)) {
        let factor = factor.display();
        return Err(Trouble::Arguments(format!(
            "write --ramp={factor}, for a word of its own is a file's name; {factor}=1 is the file {factor}"
        )));
    }
    let groups = match &arguments.scenario {
        None if files.is_empty() => {
            return Err(Trouble::arguments(
                "the file's name is missing; give tftp://HOST/NAME",
            ));
        }
        None => vec![group(String::new(), &files, &arguments.group)?],
        Some(_) if !files.is_empty() => {
            return Err(Trouble::arguments(
                "the scenario names the files; give tftp://HOST alone",
            ));
        }
        Some(path) => {
            let scenario = scenario::read(path)?;
            run = run.or(scenario.run);
            let groups = scenario.groups.iter();
            groups
                .map(|part| group(part.name.clone(), &part.files, &part.group))
                .collect::<Result<_, _>>()?
        }
    };
    let ramp = run.ramp.map(|factor| ramp(factor, &run, &groups));
    let ramp = ramp.transpose()?;
    if ramp.is_none() && groups.iter().any(is_endless) {
        return Err(Trouble::arguments(
            "--rate alone never ends; say --transfers or --duration",
        ));
    }
    let servers = crate::client::resolve(&server.host, server.port).map_err(Trouble::work)?;
    let load = Load {
        threads: usize::from(run.threads.unwrap_or(1)),
        seed: run.seed.unwrap_or(1),
        gro: !run.no_gro,
        server_pid: run.server_pid,
        ..Load::new(nearest(&servers)?, groups)
    };
    Ok((load, ramp, run))
}

impl LoadRun {
    /// The values set here, with those of `other` for the rest.
    fn or(self, other: Self) -> Self {
        Self {
            ramp: self.ramp.or(other.ramp),
            bound_p99: self.bound_p99.or(other.bound_p99),
            bound_failures: self.bound_failures.or(other.bound_failures),
            ramp_to: self.ramp_to.or(other.ramp_to),
            threads: self.threads.or(other.threads),
            seed: self.seed.or(other.seed),
            no_gro: self.no_gro || other.no_gro,
            server_pid: self.server_pid.or(other.server_pid),
            json: self.json.or(other.json),
            hgrm: self.hgrm.or(other.hgrm),
            html: self.html.or(other.html),
            quiet: self.quiet || other.quiet,
        }
    }
}

/// A file's name on the server, and its weight if it has one.
type Weighted = (Vec<u8>, Option<u32>);

/// Splits the targets into the server and the files.
fn targets(typed: &[OsString]) -> Result<(Server, Vec<OsString>), Trouble> {
    let (first, others) = typed
        .split_first()
        .ok_or_else(|| Trouble::arguments("tftp://HOST/NAME is missing"))?;
    let url = url::url(first.as_bytes())
        .ok_or_else(|| Trouble::arguments("the first file has to be a URL, tftp://HOST/NAME"))?
        .map_err(Trouble::Arguments)?;
    let mut files = Vec::new();
    if !url.name.is_empty() {
        files.push(OsStr::from_bytes(&url.name).to_owned());
    }
    if let Some(other) = others
        .iter()
        .find(|other| url::url(other.as_bytes()).is_some())
    {
        return Err(Trouble::Arguments(format!(
            "there is one server in a run; after the first URL, give a file's name alone, without tftp://HOST/ ({})",
            other.display()
        )));
    }
    files.extend_from_slice(others);
    Ok((url.server, files))
}

/// The first address: the choice must not depend on which address answers.
fn nearest(servers: &[SocketAddr]) -> Result<SocketAddr, Trouble> {
    let first = servers.first().copied();
    first.ok_or_else(|| Trouble::arguments("the server has no address"))
}

/// Converts the arguments of a group of clients.
fn group(name: String, files: &[OsString], arguments: &LoadGroup) -> Result<Group, Trouble> {
    let work = match &arguments.write {
        Some(path) if path == Path::new(PATTERN) => Work::Write(Contents::Pattern {
            seed: PATTERN_SEED,
            len: arguments.size.unwrap_or(PATTERN_OCTETS),
        }),
        Some(_) if arguments.size.is_some() => {
            return Err(Trouble::arguments(
                "a file has the size that it has; --size belongs to --write pattern",
            ));
        }
        Some(path) => Work::Write(Contents::Octets(read(path)?.into())),
        None => Work::Read,
    };
    let &LoadGroup {
        loss,
        duplicate,
        reorder,
        delay,
        abandon,
        ..
    } = arguments;
    Ok(Group {
        name,
        work,
        files: weighted_files(files, arguments)?,
        profiles: profiles(arguments),
        pace: pace(arguments),
        bounds: bounds(arguments),
        weather: Weather {
            loss,
            duplicate,
            reorder,
            delay,
        },
        abandon,
    })
}

/// The files with their weights and expected contents.
fn weighted_files(typed: &[OsString], arguments: &LoadGroup) -> Result<Vec<File>, Trouble> {
    let mut verifier = Verifier::new(arguments.verify.as_deref())?;
    let names = typed.iter().map(|name| weighted(name.as_bytes()));
    let files = names.enumerate().map(|(rank, named)| {
        let (name, weight) = named?;
        let weight = match (weight, arguments.zipf) {
            (Some(_), Some(_)) => {
                return Err(Trouble::arguments(
                    "--zipf gives files their weights; leave NAME=WEIGHT away",
                ));
            }
            (None, Some(exponent)) => {
                let weight = ZIPF_WEIGHT / ((rank + 1) as f64).powf(exponent);
                (weight as u32).max(1)
            }
            (weight, None) => weight.unwrap_or(1),
        };
        Ok(File {
            expected: verifier.expected(&name)?,
            name,
            weight,
        })
    });
    let files: Vec<_> = files.collect::<Result<_, _>>()?;
    if files.iter().all(|file| file.weight == 0) {
        return Err(Trouble::arguments("one file at least needs a weight"));
    }
    Ok(files)
}

/// Reads `NAME` or `NAME=WEIGHT`.
fn weighted(typed: &[u8]) -> Result<Weighted, Trouble> {
    let Some(place) = typed.iter().rposition(|&octet| octet == b'=') else {
        return Ok((typed.to_vec(), None));
    };
    let digits = str::from_utf8(&typed[place + 1..]).ok();
    match digits.and_then(|digits| digits.parse().ok()) {
        Some(weight) => Ok((typed[..place].to_vec(), Some(weight))),
        None => {
            let typed = Escaped(typed);
            Err(Trouble::Arguments(format!(
                "in {typed}, a whole number is expected after the equals sign, the file's weight; for a name with such a sign in it, give one more, as in {typed}=1"
            )))
        }
    }
}

/// The source of the files' expected contents.
enum Verifier {
    /// All files have the same contents.
    All(Arc<Expected>),
    /// The file of the same name in this directory has the contents.
    Directory(PathBuf),
}

impl Verifier {
    fn new(typed: Option<&Path>) -> Result<Self, Trouble> {
        let expected = match typed {
            None => Expected::Anything,
            Some(path) if path == Path::new(PATTERN) => Expected::Pattern,
            Some(path) if path.is_dir() => return Ok(Self::Directory(path.to_owned())),
            Some(path) => Expected::Octets(read(path)?.into()),
        };
        Ok(Self::All(Arc::new(expected)))
    }

    fn expected(&mut self, name: &[u8]) -> Result<Arc<Expected>, Trouble> {
        match self {
            Self::All(expected) => Ok(expected.clone()),
            Self::Directory(directory) => {
                // A name on the server is relative to its root.
                let start = name.iter().position(|&octet| octet != b'/');
                let name = OsStr::from_bytes(&name[start.unwrap_or(name.len())..]);
                Ok(Arc::new(Expected::Octets(
                    read(&directory.join(name))?.into(),
                )))
            }
        }
    }
}

/// The client profiles, with the values typed as overrides.
fn profiles(arguments: &LoadGroup) -> Vec<(Profile, u32)> {
    let Profiles(mut profiles) = arguments
        .profile
        .clone()
        .unwrap_or_else(|| Profiles(vec![(Profile::DEFAULT, 1)]));
    for (profile, _) in &mut profiles {
        let wanted = &mut profile.wanted;
        if arguments.no_options {
            *wanted = Wanted::default();
        }
        wanted.blksize = arguments.blksize.or(wanted.blksize);
        wanted.windowsize = arguments
            .windowsize
            .or(wanted.windowsize)
            .filter(|&blocks| blocks > 1);
        wanted.timeout = arguments.timeout.or(wanted.timeout);
        profile.patience.idle = arguments.patience.unwrap_or(profile.patience.idle);
        profile.slow = arguments.slow.unwrap_or(profile.slow);
        profile.flash = arguments.flash.or(profile.flash);
    }
    profiles
}

const fn pace(arguments: &LoadGroup) -> Pace {
    let clients = arguments.clients;
    match (arguments.rate, arguments.within) {
        (Some(per_second), _) => Pace::Open {
            per_second,
            even: arguments.even,
        },
        (None, Some(within)) => Pace::Storm { clients, within },
        (None, None) => Pace::Closed {
            clients,
            think: arguments.think,
        },
    }
}

fn bounds(arguments: &LoadGroup) -> Bounds {
    let bounded = arguments.transfers.is_some() || arguments.duration.is_some();
    let once = !bounded && arguments.rate.is_none();
    Bounds {
        transfers: arguments
            .transfers
            .or_else(|| once.then_some(arguments.clients.into())),
        duration: arguments.duration,
    }
}

fn is_endless(group: &Group) -> bool {
    group.bounds.transfers.is_none() && group.bounds.duration.is_none()
}

/// The settings of the ramp.
fn ramp(factor: f64, run: &LoadRun, groups: &[Group]) -> Result<Ramp, Trouble> {
    let [group] = groups else {
        return Err(Trouble::arguments(
            "--ramp raises one load; give it one group of clients",
        ));
    };
    if ramp::level(group.pace).is_none() {
        return Err(Trouble::arguments(
            "--ramp raises --clients or --rate; leave --within away",
        ));
    }
    Ok(Ramp {
        factor,
        step: group.bounds.duration.unwrap_or(Ramp::DEFAULT.step),
        rest: Ramp::DEFAULT.rest,
        most: run.ramp_to.unwrap_or(Ramp::DEFAULT.most),
        bound_p99: run.bound_p99.unwrap_or(Ramp::DEFAULT.bound_p99),
        bound_failures: run.bound_failures.unwrap_or(Ramp::DEFAULT.bound_failures),
    })
}

fn read(path: &Path) -> Result<Vec<u8>, Trouble> {
    fs::read(path)
        .map_err(|error| Trouble::Work(format!("cannot read {}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::super::args::Command;
    use super::*;

    fn meant(line: &str) -> Result<(Load, Option<Ramp>, LoadRun), String> {
        let words = ["bootstorm", "load"].into_iter().chain(line.split(' '));
        let arguments = super::super::super::args::Arguments::try_parse_from(words);
        match arguments.map_err(|error| error.to_string())?.command {
            Command::Load(arguments) => load(&arguments).map_err(|error| format!("{error:?}")),
            other => Err(format!("{other:?}")),
        }
    }

    fn files(line: &str) -> Vec<(String, u32)> {
        let (load, ..) = meant(line).expect(line);
        let files = load.groups[0].files.iter();
        files
            .map(|file| {
                (
                    String::from_utf8_lossy(&file.name).into_owned(),
                    file.weight,
                )
            })
            .collect()
    }

    fn named(name: &str, weight: u32) -> (String, u32) {
        (name.to_owned(), weight)
    }

    #[test]
    fn files_may_have_weights() {
        assert_eq!(
            files("tftp://127.0.0.1:7/a=3 b c=x=1"),
            [named("a", 3), named("b", 1), named("c=x", 1)]
        );
        assert_eq!(
            files("tftp://127.0.0.1/a b c --zipf 1"),
            [
                named("a", 1_000_000),
                named("b", 500_000),
                named("c", 333_333)
            ]
        );
        for bad in [
            "127.0.0.1/a",
            "tftp://127.0.0.1",
            "tftp://127.0.0.1/a=0",
            "tftp://127.0.0.1/a=2 b --zipf 1",
        ] {
            assert!(meant(bad).is_err(), "{bad}");
        }
        for (bad, hint) in [
            ("tftp://127.0.0.1/a hello.txt=x", "hello.txt=x=1"),
            ("tftp://127.0.0.1/a=99999999999", "whole number"),
            ("tftp://127.0.0.1/a tftp://127.0.0.2/b", "one server"),
            ("tftp://127.0.0.1/a --ramp 2", "--ramp=2"),
        ] {
            let error = meant(bad).expect_err(bad);
            assert!(error.contains(hint), "{bad}: {error}");
        }
        assert_eq!(files("tftp://127.0.0.1/a 2=1 --ramp")[1].0, "2");
    }

    #[test]
    fn typed_options_change_every_profile() {
        let (load, ..) =
            meant("tftp://127.0.0.1/a --profile grub=2,edk2 --blksize 700 --slow 5").expect("good");
        for (profile, _) in &load.groups[0].profiles {
            assert_eq!(profile.wanted.blksize, Some(700));
            assert_eq!(profile.slow, crate::time::Duration::from_millis(5));
        }
        assert_eq!(load.groups[0].profiles[1].0.wanted.windowsize, Some(4));
    }

    #[test]
    fn what_never_ends_or_does_not_fit_together_is_refused() {
        for bad in [
            "--rate 5",
            "--even",
            "--ramp --within 2",
            "--bound-p99 5",
            "--write Cargo.toml --size 5",
            "--scenario x.toml --clients 3",
        ] {
            assert!(
                meant(&format!("tftp://127.0.0.1/a {bad}")).is_err(),
                "{bad}"
            );
        }
        let (load, ramp, _) = meant("tftp://127.0.0.1/a --rate 5 --ramp=2").expect("it ends");
        assert_eq!(ramp.map(|ramp| ramp.factor), Some(2.0));
        assert!(is_endless(&load.groups[0]));
    }
}
