//! Monitors the server's process and its descendants during a run: once a child has ended without being
//! waited for, the system has no data on it.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use super::process::{
    Process, Status, Usage, children, control_group, descendants, group_time, lists_children,
    memory, processor_time, ran, stat, switches, time,
};
use crate::time::Duration;

/// How often the processes are sampled: a child that serves one file usually lives longer.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Sampling many processes costs CPU time; the pause until the next sample is at least this many times as
/// long.
const PAUSE_PER_LOOK: u32 = 9;
/// Memory is measured in one of this many samples: it changes slowly and is the most costly to read.
const LOOKS_PER_WEIGHING: u32 = 4;

/// A process monitored by a dedicated thread.
#[derive(Debug)]
pub(super) struct Watch {
    end: mpsc::Sender<()>,
    thread: JoinHandle<Option<Usage>>,
}

impl Watch {
    /// Takes the first sample, then samples periodically.
    ///
    /// # Errors
    /// If there is no process with this ID, or the system has no `/proc`.
    pub(super) fn begin(pid: u32) -> io::Result<Self> {
        let mut family = Family::new(pid)?;
        let (end, ended) = mpsc::channel();
        let watch = move || {
            let mut next = Instant::now() + LOOK_EVERY;
            let pause = |next: Instant| next.saturating_duration_since(Instant::now());
            while ended.recv_timeout(pause(next)) == Err(RecvTimeoutError::Timeout) {
                let before = processor_time();
                family.look();
                let least = (processor_time() - before) * PAUSE_PER_LOOK;
                next = (next + LOOK_EVERY).max(Instant::now() + least);
            }
            family.look();
            family.weigh();
            family.usage()
        };
        let thread = thread::Builder::new()
            .name("load-watch".to_owned())
            .spawn(watch)?;
        Ok(Self { end, thread })
    }

    /// Takes the last sample and returns the usage since the first; `None` if the process has ended.
    pub(super) fn end(self) -> Option<Usage> {
        drop(self.end);
        self.thread.join().ok().flatten()
    }
}

/// A process's ID and its start time: together they are unique.
type Identity = (u32, u64);

/// A process and its descendants, as last seen.
#[derive(Debug)]
struct Family {
    root: Identity,
    members: HashMap<Identity, Member>,
    /// The CPU time of ended processes whose parents are not among these.
    gone: Duration,
    /// Context switches of ended processes.
    gone_switches: u64,
    memory_max: u64,
    ignores_children: bool,
    looks: u32,
    /// CPU time and switches at the first sample.
    at_first: (Duration, u64),
    /// The control group that contains only these processes, and its CPU time at the first sample.
    group: Option<(PathBuf, Duration)>,
}

/// A running member.
#[derive(Debug)]
struct Member {
    process: Process,
    /// Its own CPU time.
    own: Duration,
    switches: u64,
    /// The CPU time of its children that ended before it was first seen,
    ended_before: Duration,
    /// and of those that were seen to end.
    seen_to_end: Duration,
}

impl Member {
    /// Its CPU time, including that of its ended children. If it has waited for them, the system's value
    /// is better; if not, only what was seen is known.
    fn used(&self) -> Duration {
        let seen = self.ended_before + self.seen_to_end;
        self.own + time(self.process.ended_children).max(seen)
    }
}

impl Family {
    fn new(pid: u32) -> io::Result<Self> {
        let root = identity(&stat(pid)?);
        let mut family = Self {
            root,
            members: HashMap::new(),
            gone: Duration::ZERO,
            gone_switches: 0,
            memory_max: 0,
            ignores_children: false,
            looks: 0,
            at_first: (Duration::ZERO, 0),
            group: None,
        };
        family.look();
        family.at_first = (family.used(), family.switches());
        family.group = family.own_group();
        Ok(family)
    }

    /// Records the running processes and those that have ended.
    fn look(&mut self) {
        let found = self.found();
        let gone: Vec<_> = self
            .members
            .keys()
            .filter(|member| !found.contains_key(member))
            .copied()
            .collect();
        for (&identity, process) in &found {
            let member = self.members.entry(identity).or_insert_with(|| Member {
                process: process.clone(),
                own: Duration::ZERO,
                switches: 0,
                ended_before: time(process.ended_children),
                seen_to_end: Duration::ZERO,
            });
            member.process = process.clone();
            member.own = member.own.max(time(process.own)).max(ran(process.number));
            // The counts of a thread are lost when it ends.
            member.switches = member.switches.max(switches(process.number));
        }
        self.part_with(gone);
        if self.looks.is_multiple_of(LOOKS_PER_WEIGHING) {
            self.weigh();
        }
        self.looks += 1;
    }

    /// The running processes: known ones, and their descendants.
    fn found(&self) -> HashMap<Identity, Process> {
        let mut found = HashMap::new();
        let known = self.members.keys().map(|&(pid, _)| pid);
        let mut left: Vec<u32> = known.chain([self.root.0]).collect();
        if !lists_children() {
            left.extend(descendants(self.root.0).iter().map(|below| below.number));
        }
        let mut seen = HashSet::new();
        while let Some(pid) = left.pop() {
            if !seen.insert(pid) {
                continue;
            }
            let Ok(process) = stat(pid) else { continue };
            let identity = identity(&process);
            let is_another = self.members.keys().any(|member| member.0 == pid)
                && !self.members.contains_key(&identity);
            if is_another || (pid == self.root.0 && identity != self.root) {
                // Another process has this ID now.
                continue;
            }
            left.extend(children(pid).unwrap_or_default());
            found.insert(identity, process);
        }
        found
    }

    /// Adds the CPU time of ended processes to that of their parents' children; the youngest first,
    /// because their parents may have ended too.
    fn part_with(&mut self, mut gone: Vec<Identity>) {
        gone.sort_unstable_by_key(|&(pid, began)| std::cmp::Reverse((began, pid)));
        for identity in gone {
            let Some(member) = self.members.remove(&identity) else {
                continue;
            };
            self.gone_switches += member.switches;
            let used = member.used();
            let parent = self
                .members
                .values_mut()
                .find(|parent| parent.process.number == member.process.parent);
            match parent {
                Some(parent) => parent.seen_to_end += used,
                None => self.gone += used,
            }
        }
    }

    /// Records the total memory of the processes.
    fn weigh(&mut self) {
        let mut together = 0;
        for &(pid, _) in self.members.keys() {
            let status = Status::of(pid);
            self.ignores_children |= status.ignores_children;
            self.memory_max = self.memory_max.max(status.memory_max);
            if self.members.len() > 1 {
                together += memory(pid);
            }
        }
        self.memory_max = self.memory_max.max(together);
    }

    fn used(&self) -> Duration {
        self.gone + self.members.values().map(Member::used).sum::<Duration>()
    }

    fn switches(&self) -> u64 {
        let running = self.members.values().map(|member| member.switches);
        self.gone_switches + running.sum::<u64>()
    }

    /// The control group that contains only these processes, if there is one.
    fn own_group(&self) -> Option<(PathBuf, Duration)> {
        let folder = control_group(&self.root.0.to_string()).ok()??;
        let mut members = Vec::new();
        collect_members(&folder, &mut members).ok()?;
        let is_ours = |pid: &u32| self.members.keys().any(|member| member.0 == *pid);
        if members.is_empty() || !members.iter().all(is_ours) {
            return None;
        }
        let used = group_time(&folder).ok()?;
        Some((folder, used))
    }

    /// The usage since the first sample; `None` if the process has ended.
    fn usage(&self) -> Option<Usage> {
        self.members.get(&self.root)?;
        let (used, switches) = self.at_first;
        let in_group = self.group.as_ref().and_then(|(folder, before)| {
            let after = group_time(folder).ok()?;
            Some(after.saturating_sub(*before))
        });
        Some(Usage {
            processor: in_group.unwrap_or_else(|| self.used().saturating_sub(used)),
            memory_max: self.memory_max,
            switches: self.switches().saturating_sub(switches),
            at_least: in_group.is_none() && self.ignores_children,
        })
    }
}

const fn identity(process: &Process) -> Identity {
    (process.number, process.began)
}

/// Collects the processes of a control group and of the groups below it.
fn collect_members(folder: &Path, members: &mut Vec<u32>) -> io::Result<()> {
    let listed = fs::read_to_string(folder.join("cgroup.procs"))?;
    members.extend(listed.lines().filter_map(|pid| pid.parse::<u32>().ok()));
    for entry in fs::read_dir(folder)?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect_members(&entry.path(), members)?;
        }
    }
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    use super::*;

    /// A server that runs children in sequence; each prints at its end how many seconds of CPU it used.
    const FORKING: &str = r#"
        $SIG{CHLD} = shift;
        $| = 1;
        <STDIN>;
        for (1 .. 3) {
            if (!fork) {
                my ($sum, $user, $system) = 0;
                do {
                    $sum += $_ for 1 .. 100_000;
                    ($user, $system) = times;
                } while ($user + $system < 0.3);
                print $user + $system, "\n";
                exit;
            }
            wait;
        }
        print "done\n";
        <STDIN>;
    "#;
    /// The fraction that the watcher may miss of each child: its usage since the last sample.
    const SEEN_PART: f64 = 0.2;

    /// Goal: the usage of children is reported, whether their parent waits for them or not, and is marked
    /// as a minimum only in the latter case. Method: the children measure it too.
    #[test]
    fn children_that_nobody_waits_for_are_counted() {
        for (manner, at_least) in [("IGNORE", true), ("DEFAULT", false)] {
            let Some((usage, told)) = watched(manner) else {
                eprintln!("SKIPPED: there is no perl");
                return;
            };
            let seen = usage.processor.as_secs_f64();
            assert!(seen > told * SEEN_PART, "{manner}: {seen} of {told} s");
            assert!(seen < told * 1.5 + 0.2, "{manner}: {seen} of {told} s");
            assert_eq!(usage.at_least, at_least);
            assert!(usage.switches > 0 && usage.memory_max > 0);
        }
    }

    /// The reported usage of a server that handles its children this way, and the children's own sum, in
    /// seconds.
    fn watched(manner: &str) -> Option<(Usage, f64)> {
        let mut server = Command::new("perl")
            .args(["-e", FORKING, manner])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        let mut output = BufReader::new(server.stdout.take()?).lines();
        let watch = Watch::begin(server.id()).expect("it runs");
        let mut input = server.stdin.take()?;
        io::Write::write_all(&mut input, b"go\n").expect("it reads");
        let mut told = 0.0;
        while let Some(Ok(line)) = output.next()
            && line != "done"
        {
            told += line.parse::<f64>().expect("seconds");
        }
        let usage = watch.end().expect("it runs");
        drop(input);
        server.wait().expect("it ends");
        Some((usage, told))
    }
}
