//! Several servers on the same work, side by side, in interleaved rounds.
//!
//! Machines drift by a quarter within minutes, so what is compared lies close together in time: each
//! round runs every server on every workload, the servers by turns and each round another one first.
//! A server is started for each run and ended after it, with all that it forked.

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
use super::{File, Group, Live, Load, Work, contents, run as run_load};
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

/// What is to be compared, and how.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How often everything is measured.
    pub rounds: u32,
    /// The servers.
    pub contenders: Vec<Contender>,
    /// Which of them the others are held against.
    pub baseline: usize,
    /// What is done to each.
    pub workloads: Vec<Workload>,
    /// The processor cores that drive clients; empty for all.
    pub cores: Vec<usize>,
    /// Threads that do; at least 1.
    pub threads: usize,
    /// Whether datagrams that arrive in a row are taken by one call.
    pub gro: bool,
    /// How long each client waits, and how often.
    pub patience: Patience,
}

/// A server that is compared.
#[derive(Debug, Clone)]
pub struct Contender {
    /// What it is called in the table.
    pub name: String,
    /// The program and its arguments. `{root}`, `{address}` and `{port}` stand for the directory that it
    /// is to serve and where it is to listen.
    pub command: Vec<String>,
    /// Environment variables besides those of this process.
    pub environment: Vec<(String, String)>,
    /// Where it listens.
    pub address: IpAddr,
    /// The port; a free one if there is none.
    pub port: Option<u16>,
    /// The processor cores that it may use; empty for all.
    pub cores: Vec<usize>,
    /// How long it may take until it answers.
    pub ready_within: Duration,
    /// The names of the processes whose use of the machine counts; empty for all that it starts.
    pub count: Vec<String>,
    /// Whether it takes uploads.
    pub uploads: bool,
}

/// What is done to each server.
#[derive(Debug, Clone)]
pub struct Workload {
    /// What it is called in the table.
    pub name: String,
    /// Which way the files go.
    pub operation: Operation,
    /// How many octets the files have, all as often; at least one, and one alone if they are written.
    pub sizes: Vec<u64>,
    /// When transfers begin.
    pub pace: Pace,
    /// When no more begin.
    pub bounds: Bounds,
    /// The options that are asked for.
    pub wanted: Wanted,
    /// When what runs is ended, so that a server that fails costs a bounded time.
    pub limit: Duration,
}

impl Workload {
    /// How many transfers there should be, if time does not say it.
    fn transfers(&self) -> Option<u64> {
        match self.pace {
            Pace::Storm { clients, .. } => Some(clients.into()),
            _ => self.bounds.transfers,
        }
    }
}

/// The way to end a comparison from another thread.
#[derive(Debug, Default)]
pub struct Stop {
    stopped: AtomicBool,
    live: Mutex<Option<Arc<Live>>>,
}

impl Stop {
    /// Begins nothing more, and ends what runs.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        if let Some(live) = &*self.live() {
            live.stop();
        }
    }

    /// Whether it was told to end.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// From now on, the run that is ended is this one.
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

/// What happens while a comparison lasts.
#[derive(Debug)]
pub enum Event<'a> {
    /// The servers' processor time will lack that of children for which nobody waits: why.
    Uncounted(&'a str),
    /// This server cannot be had: why.
    Missing(&'a str, &'a str),
    /// This server has been measured on this workload, or has failed.
    Measured {
        /// The round, from 1 on.
        round: u32,
        /// The workload's name.
        workload: &'a str,
        /// The server's name.
        contender: &'a str,
        /// What came of it.
        outcome: &'a Outcome,
    },
    /// A round is over: what there is so far.
    Round(&'a Results),
}

/// Measures as `plan` says, until it is done or stopped, and tells what happens.
///
/// While it lasts, this process adopts orphans. Servers are known by a mark in their environment, and so is
/// what they start: it ends with them, and what else runs below this process does not. The thread that calls
/// this starts them. A process that is killed ends nobody: whoever watches it then calls [`clean_up_after`].
///
/// # Errors
/// If the system refuses something that no comparison can do without.
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
                // What was cut short by a signal says nothing about the server.
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

/// The order of `count` servers in turn `number`: each time another one is the first.
fn turns(count: usize, number: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |place| (place + number) % count)
}

/// Starts a server, has clients ask it, and ends it.
fn measure(
    plan: &Plan,
    workload: &Workload,
    contender: &Contender,
    grounds: &Grounds,
    group: Option<&ControlGroup>,
    stop: &Stop,
) -> io::Result<Outcome> {
    // Where only some processes count, each is asked for itself.
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
        // Before its end: the last octets may still be on their way to the files.
        Operation::Write => Some(grounds.stored(workload.sizes[0], report.tally.complete)?),
    };
    running.end()?;
    grounds.clear()?;
    let used = after.since(&before);
    // Of processes that are gone the system tells nothing.
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
        // An error of the other kind says that the run is over: nothing is ever sent.
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
        ..Group::new(files.collect(), 1)
    };
    // It is watched here, with all that it starts, and not by its number.
    Load {
        threads: plan.threads,
        seed: SEED,
        gro: plan.gro,
        ..Load::new(server, vec![clients])
    }
}

/// What random choices come from: every run is the same for all.
const SEED: u64 = 1;
/// What the names of files begin with that clients write.
const UPLOAD: &str = "upload-";
/// How long a server may take until what it has acknowledged lies in its files.
const STORED_WITHIN: Duration = Duration::from_secs(2);
/// How long between two looks at that.
const STORED_PAUSE: Duration = Duration::from_millis(50);
/// What the names of directories begin with that comparisons make.
const FOLDER: &str = "bootstorm-compare";

/// What a file of so many octets is called.
fn name(size: u64) -> String {
    format!("octets-{size}")
}

/// The directory that is served, and where servers' output goes; gone with this.
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
        // Servers that give up root's rights read it too, and write to it as anybody.
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

    /// How many uploads of so many octets are whole and right, once as many are as there should be, or it
    /// is clear that there are fewer.
    fn stored(&self, size: u64, complete: u64) -> io::Result<u64> {
        let began = Instant::now();
        loop {
            let mut stored = 0;
            for path in self.uploads()? {
                let is_whole = || {
                    let file = fs::File::open(&path)?;
                    // One that is still written to has another length, which costs no reading.
                    Ok::<_, io::Error>(
                        file.metadata()?.len() == size && contents::holds(size, file)?,
                    )
                };
                // One that cannot be read counts as none.
                stored += u64::from(is_whole().unwrap_or_default());
            }
            if stored >= complete || began.elapsed() >= STORED_WITHIN {
                return Ok(stored);
            }
            thread::sleep(STORED_PAUSE);
        }
    }

    /// Removes what clients wrote: the next server finds what the first one found.
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
        // What cannot be removed is left to whoever cleans the temporary directory.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A new directory of this process's own.
fn fresh_folder(above: &Path) -> io::Result<PathBuf> {
    let mut number = 0;
    loop {
        let folder = above.join(format!("{FOLDER}-{}-{number}", process::id()));
        match fs::create_dir(&folder) {
            Ok(()) => return Ok(folder),
            // Left by another process that had this number.
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
