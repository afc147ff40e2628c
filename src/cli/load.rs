//! `load`: the arguments as a load, a line that moves while it runs, and the report.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File as Output};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process;
use std::sync::Arc;

use super::args::Load as Arguments;
use super::errand::grouped;
use super::live::View;
use super::page;
use super::url::{self, Server};
use super::{FAILED, Trouble};
use crate::control;
use crate::load::plan::{Bounds, Pace};
use crate::load::profile::Profile;
use crate::load::report::{Report, hgrm, json};
use crate::load::{self, File, Live, Load, Mishaps, Work};
use crate::proto::negotiate::{ORDER_DEFAULT, Wanted};
use crate::proto::timing::Patience;
use crate::shard::Expected;
use crate::time::Duration;

/// Octets in a block unless something else is said: what fits Ethernet with room for a tunnel.
const BLKSIZE: u16 = 1428;
/// Blocks under way unless something else is said: what small receive rings hold.
const WINDOWSIZE: u16 = 16;
/// How long a client waits at least before it repeats, like most: a crowd that repeats at once would
/// make a busy server's work more.
const REPEAT_AFTER_MILLIS: u16 = 1_000;
/// How long a transfer may stand still.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn run(arguments: &Arguments) -> Result<(), Trouble> {
    let load = load(arguments)?;
    let live = Arc::new(Live::default());
    stop_on_interrupt(&live)?;
    let view = if arguments.quiet {
        None
    } else {
        View::line(&live)
    };
    let report = load::run(&load, &live).map_err(|error| failed(&error, &load));
    drop(view);
    let report = report?;
    if let Some(path) = &arguments.json {
        write_json(&report, path)?;
    }
    if let Some(path) = &arguments.hgrm {
        let written =
            Output::create(path).and_then(|file| hgrm::write(&report, io::BufWriter::new(file)));
        written.map_err(|error| cannot_write(path, &error))?;
    }
    if let Some(path) = &arguments.html {
        page::write(&report, Vec::new(), path)?;
    }
    // With the numbers on standard output, the table would only be in the way.
    if arguments.json.as_deref() != Some(Path::new("-")) {
        print!("{report}");
    }
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
            process::exit(i32::from(FAILED));
        }
        live.stop();
    };
    control::on_interrupt(action)
        .map_err(|error| Trouble::Work(format!("cannot catch signals: {error}")))
}

fn write_json(report: &Report, path: &Path) -> Result<(), Trouble> {
    let written = if path == Path::new("-") {
        json::write(report, io::stdout().lock()).and_then(|()| writeln!(io::stdout()))
    } else {
        Output::create(path).and_then(|file| json::write(report, io::BufWriter::new(file)))
    };
    written.map_err(|error| cannot_write(path, &error))
}

pub(super) fn cannot_write(path: &Path, error: &io::Error) -> Trouble {
    Trouble::Work(format!("cannot write {}: {error}", path.display()))
}

/// What the arguments mean.
fn load(arguments: &Arguments) -> Result<Load, Trouble> {
    if arguments.rate.is_some() && arguments.transfers.is_none() && arguments.duration.is_none() {
        return Err(Trouble::arguments(
            "--rate alone never ends; say --transfers or --duration",
        ));
    }
    let (server, names) = targets(&arguments.targets)?;
    let servers = crate::client::resolve(&server.host, server.port).map_err(Trouble::work)?;
    let expected = Arc::new(match &arguments.verify {
        Some(path) => Expected::Octets(read(path)?.into()),
        None => Expected::Anything,
    });
    let work = match &arguments.write {
        Some(path) => Work::Write(read(path)?.into()),
        None => Work::Read,
    };
    let files = names.into_iter().map(|(name, weight)| File {
        name,
        weight,
        expected: expected.clone(),
    });
    let profile = profile(arguments);
    Ok(Load {
        server: nearest(&servers)?,
        work,
        files: files.collect(),
        pace: pace(arguments),
        bounds: bounds(arguments),
        wanted: profile.wanted,
        order: profile.order,
        probes: profile.probes,
        patience: profile.patience,
        mishaps: Mishaps {
            loss: arguments.loss,
            slow: arguments.slow,
            abandon: arguments.abandon,
        },
        threads: usize::from(arguments.threads),
        seed: arguments.seed,
        gro: !arguments.no_gro,
        server_pid: arguments.server_pid,
    })
}

/// How clients ask and wait: as a profile says, but for what was typed.
fn profile(arguments: &Arguments) -> Profile {
    let mut profile = arguments.profile.copied().unwrap_or(Profile {
        name: "",
        wanted: Wanted {
            blksize: Some(BLKSIZE),
            windowsize: Some(WINDOWSIZE),
            timeout: None,
            tsize: Some(0),
        },
        order: ORDER_DEFAULT,
        probes: false,
        patience: Patience {
            receiver_floor_millis: REPEAT_AFTER_MILLIS,
            idle: PATIENCE,
            ..Patience::DEFAULT
        },
    });
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
    profile
}

/// The first address: which one is tried must not depend on which one answers.
fn nearest(servers: &[SocketAddr]) -> Result<SocketAddr, Trouble> {
    let first = servers.first().copied();
    first.ok_or_else(|| Trouble::arguments("the server has no address"))
}

const fn pace(arguments: &Arguments) -> Pace {
    let clients = arguments.clients;
    match (arguments.rate, arguments.within) {
        (Some(per_second), _) => Pace::Open { per_second },
        (None, Some(within)) => Pace::Storm { clients, within },
        (None, None) => Pace::Closed {
            clients,
            think: arguments.think,
        },
    }
}

fn bounds(arguments: &Arguments) -> Bounds {
    let once = arguments.transfers.is_none() && arguments.duration.is_none();
    Bounds {
        transfers: arguments
            .transfers
            .or_else(|| once.then_some(arguments.clients.into())),
        duration: arguments.duration,
    }
}

/// A file's name, and how often it is asked for.
type Weighted = (Vec<u8>, u32);

/// The server, and the files with their weights.
fn targets(typed: &[OsString]) -> Result<(Server, Vec<Weighted>), Trouble> {
    let (first, others) = typed
        .split_first()
        .ok_or_else(|| Trouble::arguments("tftp://HOST/NAME is missing"))?;
    let url = url::url(first.as_bytes())
        .ok_or_else(|| Trouble::arguments("the first file has to be a URL, tftp://HOST/NAME"))?
        .map_err(Trouble::Arguments)?;
    if url.name.is_empty() {
        return Err(Trouble::arguments(
            "the file's name is missing; give tftp://HOST/NAME",
        ));
    }
    let mut files = vec![weighted(&url.name)];
    files.extend(others.iter().map(|name| weighted(OsStr::as_bytes(name))));
    if files.iter().all(|&(_, weight)| weight == 0) {
        return Err(Trouble::arguments("one file at least needs a weight"));
    }
    Ok((url.server, files))
}

/// Reads `NAME` or `NAME=WEIGHT`.
fn weighted(typed: &[u8]) -> Weighted {
    let split = typed.iter().rposition(|&octet| octet == b'=');
    let weight = split.and_then(|place| {
        let digits = str::from_utf8(&typed[place + 1..]).ok()?;
        Some((&typed[..place], digits.parse().ok()?))
    });
    match weight {
        Some((name, weight)) => (name.to_vec(), weight),
        None => (typed.to_vec(), 1),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Trouble> {
    fs::read(path)
        .map_err(|error| Trouble::Work(format!("cannot read {}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_may_have_weights() {
        let typed = ["tftp://h:7/a=3", "b", "c=x"].map(OsString::from);
        let (server, files) = targets(&typed).expect("a URL");
        assert_eq!((server.host.as_str(), server.port), ("h", 7));
        let files: Vec<_> = files
            .iter()
            .map(|(name, weight)| (name.as_slice(), *weight))
            .collect();
        assert_eq!(files, [(&b"a"[..], 3), (b"b", 1), (b"c=x", 1)]);
        for bad in ["h/a", "tftp://h", "tftp://h/a=0"] {
            assert!(targets(&[OsString::from(bad)]).is_err(), "{bad}");
        }
    }
}
