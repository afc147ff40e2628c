//! Several servers on the same workloads, side by side, in interleaved rounds.
//!
//! Machines drift by a quarter within minutes, so measurements to be compared are taken close together in
//! time: each round runs every server on every workload, alternating servers and rotating which one is
//! first. A server is started for each run and ended after it, with all processes that it forked.

mod contender;
mod control_group;
mod machine;
mod measurement;
mod results;
mod table;

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Instant;

use super::plan::{Bounds, Pace};
use super::profile::Profile;
use super::{File, Group, Live, Load, Weather, Work, contents, run as run_load};
use crate::proto::negotiate::Wanted;
use crate::proto::timing::Patience;
use crate::shard::{Expected, Operation, PATTERN_SEED};
use crate::store::memory::Contents;
use crate::time::Duration;

pub use contender::{clean_up_after, end_all};
pub use measurement::Measurement;
pub use results::{Outcome, Results};
pub use table::Form;

use contender::Running;
use control_group::ControlGroup;

/// The plan of a comparison.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How often everything is measured.
    pub rounds: u32,
    /// The servers.
    pub contenders: Vec<Contender>,
    /// The index of the server that the others are compared with.
    pub baseline: usize,
    /// The workloads that each server gets.
    pub workloads: Vec<Workload>,
    /// The CPU cores that drive clients; empty for all.
    pub cores: Vec<usize>,
    /// Threads that drive clients; at least 1.
    pub threads: usize,
    /// Whether to receive consecutive datagrams with one call (GRO).
    pub gro: bool,
    /// How long each client waits, and how often.
    pub patience: Patience,
}

/// A server under comparison.
#[derive(Debug, Clone)]
pub struct Contender {
    /// The server's name in the table.
    pub name: String,
    /// The program and its arguments. `{root}`, `{address}` and `{port}` stand for the directory that the
    /// server is to serve and for where it is to listen.
    pub command: Vec<String>,
    /// Environment variables in addition to those of this process.
    pub environment: Vec<(String, String)>,
    /// The address where it listens.
    pub address: IpAddr,
    /// The port; if there is none, a free one is chosen.
    pub port: Option<u16>,
    /// The CPU cores that it may use; empty for all.
    pub cores: Vec<usize>,
    /// The maximum time until it answers.
    pub ready_within: Duration,
    /// The names of the processes whose resource usage counts; empty for all that it starts.
    pub count: Vec<String>,
    /// Whether it accepts uploads.
    pub uploads: bool,
}

/// A workload that each server gets.
#[derive(Debug, Clone)]
pub struct Workload {
    /// The workload's name in the table.
    pub name: String,
    /// The direction of the transfers.
    pub operation: Operation,
    /// The file sizes in octets, in equal shares; at least one, and exactly one for writes.
    pub sizes: Vec<u64>,
    /// When transfers start.
    pub pace: Pace,
    /// When no more transfers start.
    pub bounds: Bounds,
    /// The options to request.
    pub wanted: Wanted,
    /// The impairment of the clients' packets.
    pub weather: Weather,
    /// When the run is cut off, so that a server that fails costs a bounded time.
    pub limit: Duration,
}

impl Workload {
    /// The expected number of transfers, unless the run is bounded by time.
    fn transfers(&self) -> Option<u64> {
        match self.pace {
            Pace::Storm { clients, .. } => Some(clients.into()),
            _ => self.bounds.transfers,
        }
    }
}

/// A way to stop a comparison from another thread.
#[derive(Debug, Default)]
pub struct Stop {
    stopped: AtomicBool,
    live: Mutex<Option<Arc<Live>>>,
}

impl Stop {
    /// Starts nothing more, and ends what is running.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        if let Some(live) = &*self.live() {
            live.stop();
        }
    }

    /// Whether it was told to stop.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// Makes this the run that a stop ends.
    fn watch(&self, live: &Arc<Live>) {
        *self.live() = Some(live.clone());
        if self.is_stopped() {
            live.stop();
        }
    }

    fn live(&self) -> std::sync::MutexGuard<'_, Option<Arc<Live>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The events of a comparison.
#[derive(Debug)]
pub enum Event<'a> {
    /// The servers' CPU time will lack that of children that nobody waits for: the reason.
    Uncounted(&'a str),
    /// This server is unavailable: the reason.
    Missing(&'a str, &'a str),
    /// This server has been measured on this workload, or has failed.
    Measured {
        /// The round, counted from 1.
        round: u32,
        /// The workload's name.
        workload: &'a str,
        /// The server's name.
        contender: &'a str,
        /// The outcome.
        outcome: &'a Outcome,
    },
    /// A round is over: the results so far.
    Round(&'a Results),
}

/// Measures as `plan` says, until it is complete or stopped, and reports events.
///
/// Meanwhile, this process adopts orphans. A mark in the environment identifies servers and everything
/// that they start: these end with the server; other processes below this one do not. The calling thread
/// starts the servers. A killed process cannot end its servers: the process that monitors it must then
/// call [`clean_up_after`].
///
/// # Errors
/// If the system refuses something that every comparison needs.
pub fn run(plan: &Plan, stop: &Stop, tell: &mut dyn FnMut(Event<'_>)) -> io::Result<Results> {
    machine::adopt_orphans()?;
    let grounds = Grounds::new(plan)?;
    let group = ControlGroup::new().inspect_err(|why| tell(Event::Uncounted(&why.to_string())));
    let group = group.ok();
    let mut results = Results::new(plan);
    for (number, contender) in plan.contenders.iter().enumerate() {
        if let Some(why) = contender.missing() {
            tell(Event::Missing(&contender.name, &why));
            results.missing[number] = Some(why);
        }
    }
    for round in 0..plan.rounds {
        for (place, workload) in plan.workloads.iter().enumerate() {
            for number in turns(plan.contenders.len(), round as usize + place) {
                if stop.is_stopped() {
                    return Ok(results);
                }
                if results.missing[number].is_some() || results.untried[place][number].is_some() {
                    continue;
                }
                let contender = &plan.contenders[number];
                let outcome = measure(plan, workload, contender, &grounds, group.as_ref(), stop)?;
                // A run cut short by a signal says nothing about the server.
                if stop.is_stopped() {
                    return Ok(results);
                }
                tell(Event::Measured {
                    round: round + 1,
                    workload: &workload.name,
                    contender: &contender.name,
                    outcome: &outcome,
                });
                results.outcomes[place][number].push(outcome);
            }
        }
        results.rounds = round + 1;
        tell(Event::Round(&results));
    }
    Ok(results)
}

/// The order of `count` servers in turn `number`: each time a different one is first.
fn turns(count: usize, number: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |place| (place + number) % count)
}

/// Starts a server, runs the clients against it, and ends it.
fn measure(
    plan: &Plan,
    workload: &Workload,
    contender: &Contender,
    grounds: &Grounds,
    group: Option<&ControlGroup>,
    stop: &Stop,
) -> io::Result<Outcome> {
    // If only some processes count, each is measured individually.
    let group = group.filter(|_| contender.count.is_empty());
    let start = || Running::start(contender, &grounds.root, &grounds.log);
    let running = machine::pinned(&contender.cores, || match group {
        Some(group) => group.within(start),
        None => Ok(start()),
    })??;
    let mut running = match running {
        Ok(running) => running,
        Err(why) => return Ok(Outcome::Failed(why)),
    };
    if let Err(why) = running.wait_until_ready(stop) {
        running.end()?;
        return Ok(Outcome::Failed(why));
    }
    let load = load(plan, workload, running.listens, grounds);
    let before = running.usage(group)?;
    let report = machine::pinned(&plan.cores, || run_within(workload.limit, &load, stop))?;
    let after = running.usage(group)?;
    let died = running.ended();
    let report = report?;
    let stored = match workload.operation {
        Operation::Read => None,
        // Before the server ends: the last octets may still be on their way to the files.
        Operation::Write => Some(grounds.stored(workload.sizes[0], report.tally.complete)?),
    };
    running.end()?;
    grounds.clear()?;
    let used = after.since(&before);
    // The system has no data on processes that are gone.
    let known = group.is_some() || !died;
    let mut measurement = Measurement::new(&report, workload.transfers(), used, known)?;
    measurement.died = died;
    measurement.stored = stored;
    Ok(Outcome::Measured(Box::new(measurement)))
}

/// Runs `load`, but for no longer than `limit`.
fn run_within(limit: Duration, load: &Load, stop: &Stop) -> io::Result<super::report::Report> {
    let live = Arc::new(Live::default());
    stop.watch(&live);
    let (done, watched) = mpsc::channel::<()>();
    let late = live.clone();
    let watcher = thread::spawn(move || {
        // The other kind of error means that the run is over: nothing is ever sent.
        if watched.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
            late.stop();
        }
    });
    let report = run_load(load, &live);
    drop(done);
    let _ = watcher.join();
    report
}

fn load(plan: &Plan, workload: &Workload, server: SocketAddr, grounds: &Grounds) -> Load {
    let reads = workload.operation == Operation::Read;
    let files = workload.sizes.iter().map(|size| File {
        name: if reads {
            name(*size).into_bytes()
        } else {
            format!("{UPLOAD}{{number}}").into_bytes()
        },
        weight: 1,
        expected: grounds.expected(*size),
    });
    let profile = Profile {
        wanted: workload.wanted,
        patience: plan.patience,
        ..Profile::DEFAULT
    };
    let clients = Group {
        work: match workload.sizes.first() {
            Some(&len) if !reads => Work::Write(Contents::Pattern {
                seed: PATTERN_SEED,
                len,
            }),
            _ => Work::Read,
        },
        profiles: vec![(profile, 1)],
        pace: workload.pace,
        bounds: workload.bounds,
        weather: workload.weather,
        ..Group::new(files.collect(), 1)
    };
    // The server is monitored here, with everything that it starts, so the load needs no process ID.
    Load {
        threads: plan.threads,
        seed: SEED,
        gro: plan.gro,
        ..Load::new(server, vec![clients])
    }
}

/// The random seed: it makes runs identical for all servers.
const SEED: u64 = 1;
/// The prefix of the names of files that clients write.
const UPLOAD: &str = "upload-";
/// How long a server may take to write what it has acknowledged to its files.
const STORED_WITHIN: Duration = Duration::from_secs(2);
/// The pause between two checks of that.
const STORED_PAUSE: Duration = Duration::from_millis(50);
/// The prefix of the directories that comparisons create.
const FOLDER: &str = "bootstorm-compare";

/// The name of a file of this many octets.
fn name(size: u64) -> String {
    format!("octets-{size}")
}

/// The directory to serve, and the one for the servers' output; removed on drop.
#[derive(Debug)]
struct Grounds {
    folder: PathBuf,
    root: PathBuf,
    log: PathBuf,
    contents: Vec<(u64, Arc<Expected>)>,
}

impl Grounds {
    fn new(plan: &Plan) -> io::Result<Self> {
        let folder = fresh_folder(&std::env::temp_dir())?;
        let mut grounds = Self {
            root: folder.join("root"),
            log: folder.join("log"),
            folder,
            contents: Vec::new(),
        };
        fs::create_dir(&grounds.root)?;
        let is_read = |work: &&Workload| work.operation == Operation::Read;
        let all_are_read = plan.workloads.iter().all(|work| is_read(&work));
        // Servers that give up root's rights must be able to read it, and to write to it as any user.
        let modes = [0o755, if all_are_read { 0o755 } else { 0o777 }];
        for (folder, mode) in [&grounds.folder, &grounds.root].into_iter().zip(modes) {
            fs::set_permissions(folder, fs::Permissions::from_mode(mode))?;
        }
        let reads = plan.workloads.iter().filter(is_read);
        for &size in reads.flat_map(|workload| &workload.sizes) {
            if grounds.contents.iter().all(|(there, _)| *there != size) {
                let len = usize::try_from(size).map_err(|_| io::ErrorKind::OutOfMemory)?;
                let octets = contents::octets(len);
                let path = grounds.root.join(name(size));
                fs::write(&path, &octets)?;
                fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
                let expected = Arc::new(Expected::Octets(octets.into()));
                grounds.contents.push((size, expected));
            }
        }
        Ok(grounds)
    }

    fn expected(&self, size: u64) -> Arc<Expected> {
        let found = self.contents.iter().find(|(there, _)| *there == size);
        found.map_or_else(
            || Arc::new(Expected::Length(size)),
            |(_, expected)| expected.clone(),
        )
    }

    /// The number of uploads of this many octets that are complete and correct. Returns once there are as
    /// many as expected, or it is clear that there are fewer.
    fn stored(&self, size: u64, complete: u64) -> io::Result<u64> {
        let began = Instant::now();
        loop {
            let mut stored = 0;
            for path in self.uploads()? {
                let is_whole = || {
                    let file = fs::File::open(&path)?;
                    // A file that is still being written has another length, so it need not be read.
                    Ok::<_, io::Error>(
                        file.metadata()?.len() == size && contents::holds(size, file)?,
                    )
                };
                // A file that cannot be read does not count.
                stored += u64::from(is_whole().unwrap_or_default());
            }
            if stored >= complete || began.elapsed() >= STORED_WITHIN {
                return Ok(stored);
            }
            thread::sleep(STORED_PAUSE);
        }
    }

    /// Removes what clients wrote, so that the next server starts with the same files as the first.
    fn clear(&self) -> io::Result<()> {
        self.uploads()?.iter().try_for_each(fs::remove_file)
    }

    fn uploads(&self) -> io::Result<Vec<PathBuf>> {
        let mut uploads = Vec::new();
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(UPLOAD) {
                uploads.push(entry.path());
            }
        }
        Ok(uploads)
    }
}

impl Drop for Grounds {
    fn drop(&mut self) {
        // What cannot be removed is left to the cleanup of the temporary directory.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A new directory that only this process uses.
fn fresh_folder(above: &Path) -> io::Result<PathBuf> {
    let mut number = 0;
    loop {
        let folder = above.join(format!("{FOLDER}-{}-{number}", process::id()));
        match fs::create_dir(&folder) {
            Ok(()) => return Ok(folder),
            // Left behind by an earlier process with the same ID.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_turn_has_another_first() {
        let orders: Vec<Vec<_>> = (0..3).map(|number| turns(3, number).collect()).collect();
        assert_eq!(orders, [[0, 1, 2], [1, 2, 0], [2, 0, 1]]);
    }
}
