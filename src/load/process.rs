//! The system's data on the server's process: CPU time, memory, context switches.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::time::{ClockId, clock_gettime};

use crate::time::Duration;

/// The resource usage of a process so far, including its children.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// CPU time, including that of ended and running children.
    pub processor: Duration,
    /// The peak memory, in octets.
    pub memory_max: u64,
    /// Context switches of its threads.
    pub switches: u64,
    /// Whether children may have ended unseen, so that the actual usage may be higher.
    pub at_least: bool,
}

impl Usage {
    /// The usage since `earlier`; for memory, the overall peak.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            processor: self.processor.saturating_sub(earlier.processor),
            memory_max: self.memory_max,
            switches: self.switches.saturating_sub(earlier.switches),
            at_least: self.at_least,
        }
    }
}

/// The usage of these processes and of their ended children.
pub(super) fn usage_of(processes: &[Process]) -> Usage {
    let ticks: u64 = processes
        .iter()
        .map(|process| process.own + process.ended_children)
        .sum();
    let memories = processes
        .iter()
        .map(|process| Status::of(process.number).memory_max);
    Usage {
        processor: time(ticks),
        memory_max: memories.max().unwrap_or_default(),
        switches: processes
            .iter()
            .map(|process| switches(process.number))
            .sum(),
        at_least: false,
    }
}

/// Converts the kernel's ticks to a duration.
pub(super) fn time(ticks: u64) -> Duration {
    Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// The descendants of this process; for 0, all visible processes.
pub(super) fn descendants(ancestor: u32) -> Vec<Process> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut others: Vec<Process> = all
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter_map(|number| stat(number).ok())
        .collect();
    let mut found: Vec<Process> = Vec::new();
    let mut parents = vec![ancestor];
    while let Some(parent) = parents.pop() {
        for child in others.extract_if(.., |process| process.parent == parent) {
            parents.push(child.number);
            found.push(child);
        }
    }
    found
}

/// The run time of a process's live threads, to the nanosecond; its ticks lose up to two of ten
/// milliseconds for each process. Zero where the system does not provide it.
pub(super) fn ran(pid: u32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task"));
    let threads = threads.into_iter().flatten().flatten();
    threads
        .filter_map(|thread| fs::read_to_string(thread.path().join("schedstat")).ok())
        .map(|told| Duration::from_nanos(number(&told, 0)))
        .sum()
}

/// The CPU time of the calling thread.
pub(super) fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// How long the calling thread has waited for a CPU that others were using; zero where that is not
/// provided.
pub(super) fn starved() -> Duration {
    let told = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    // Nanoseconds on a CPU, nanoseconds waiting for one, time slices.
    Duration::from_nanos(number(&told, 1))
}

/// The number in this field of a line, 0 if there is none.
fn number(line: &str, place: usize) -> u64 {
    let word = line.split_ascii_whitespace().nth(place);
    word.and_then(|word| word.parse().ok()).unwrap_or_default()
}

/// A process, with CPU time in the kernel's ticks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) number: u32,
    /// The program's name, truncated as the kernel keeps it.
    pub(super) name: String,
    /// Whether it has ended and has not been reaped yet.
    pub(super) ended: bool,
    pub(super) parent: u32,
    pub(super) own: u64,
    /// The usage of ended children that the process has waited for.
    pub(super) ended_children: u64,
    /// The start time: together with the process ID, it identifies the process.
    pub(super) began: u64,
}

/// The data in a process's status file; none for a process that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Status {
    /// The peak memory, in octets.
    pub(super) memory_max: u64,
    /// The current memory.
    pub(super) memory: u64,
    /// Whether it ignores SIGCHLD. The system then reaps its children itself and does not add their usage
    /// to anything.
    pub(super) ignores_children: bool,
}

impl Status {
    pub(super) fn of(pid: u32) -> Self {
        let told = fs::read_to_string(format!("/proc/{pid}/status"));
        told.map_or_else(|_| Self::default(), |text| Self::parsed(&text))
    }

    /// Parses the file described in proc_pid_status(5).
    fn parsed(text: &str) -> Self {
        let octets = |name| field(text, name).unwrap_or_default() * 1024;
        let ignored = text.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        Self {
            memory_max: octets("VmHWM:"),
            memory: octets("VmRSS:"),
            ignores_children: ignored.unwrap_or_default() >> (libc::SIGCHLD - 1) & 1 == 1,
        }
    }
}

/// The memory of a process, in octets, with its proportional share of shared memory. Without permission
/// to read that, its whole resident memory.
pub(super) fn memory(pid: u32) -> u64 {
    let told = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"));
    let part = told.ok().and_then(|text| field(&text, "Pss:"));
    part.map_or_else(|| Status::of(pid).memory, |kibibytes| kibibytes * 1024)
}

/// Whether the system keeps lists of children.
pub(super) fn lists_children() -> bool {
    Path::new("/proc/thread-self/children").exists()
}

/// The children of a process, where the system lists them. Children that end meanwhile may hide others.
pub(super) fn children(pid: u32) -> Option<Vec<u32>> {
    let mut found = Vec::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
        let listed = fs::read_to_string(thread.path().join("children")).ok()?;
        found.extend(
            listed
                .split_ascii_whitespace()
                .filter_map(|pid| pid.parse::<u32>().ok()),
        );
    }
    Some(found)
}

/// The directory of the control group of a process, where version 2 groups exist; `self` is this process.
pub(super) fn control_group(process: &str) -> io::Result<Option<PathBuf>> {
    Ok(folder(
        &fs::read_to_string("/proc/self/mountinfo")?,
        &fs::read_to_string(format!("/proc/{process}/cgroup"))?,
    ))
}

/// The directory of a process's group, from the mounts and the groups as described in cgroups(7).
fn folder(mounts: &str, groups: &str) -> Option<PathBuf> {
    let mount = mounts.lines().find_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let place = place.split(' ').nth(4)?;
        kind.starts_with("cgroup2 ").then_some(place)
    })?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(Path::new(mount).join(own))
}

/// The CPU time of everything that ever ran in the group of this directory.
pub(super) fn group_time(folder: &Path) -> io::Result<Duration> {
    let told = fs::read_to_string(folder.join("cpu.stat"))?;
    let micros = told
        .lines()
        .find_map(|line| line.strip_prefix("usage_usec ")?.parse().ok());
    let micros = micros.ok_or(io::ErrorKind::InvalidData)?;
    Ok(Duration::from_micros(micros))
}

pub(super) fn stat(pid: u32) -> io::Result<Process> {
    parsed(&fs::read_to_string(format!("/proc/{pid}/stat"))?)
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Parses the line of proc_pid_stat(5). The name in parentheses may contain anything.
fn parsed(line: &str) -> Option<Process> {
    let (number, rest) = line.split_once(" (")?;
    let (name, rest) = rest.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // The field after the name is the third, the state.
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(Process {
        number: number.parse().ok()?,
        name: name.to_owned(),
        ended: matches!(*fields.first()?, "Z" | "X"),
        parent: u32::try_from(field(4)?).ok()?,
        own: field(14)? + field(15)?,
        ended_children: field(16)? + field(17)?,
        began: field(22)?,
    })
}

pub(super) fn switches(pid: u32) -> u64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task"));
    let threads = threads.into_iter().flatten().flatten();
    threads
        .filter_map(|thread| fs::read_to_string(thread.path().join("status")).ok())
        .map(|status| {
            let names = ["voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:"];
            names
                .iter()
                .filter_map(|name| field(&status, name))
                .sum::<u64>()
        })
        .sum()
}

fn field(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_misleads_nobody() {
        let line = "42 (a) b) (c) S 7 42 42 0 -1 0 0 0 0 0 100 20 3 4 20 0 1 0 0 0 0";
        let process = parsed(line).expect("a line");
        let expected = Process {
            number: 42,
            name: "a) b) (c".to_owned(),
            ended: false,
            parent: 7,
            own: 120,
            ended_children: 7,
            began: 0,
        };
        assert_eq!(process, expected);
        assert!(parsed("42 (x) S").is_none());
    }

    #[test]
    fn who_ignores_its_children_is_known() {
        let status = |ignored| Status::parsed(&format!("VmHWM:\t 8 kB\nSigIgn:\t{ignored}\n"));
        assert!(status("0000000000010000").ignores_children);
        assert!(!status("0000000000001000").ignores_children);
        assert_eq!(status("0").memory_max, 8 << 10);
    }

    #[test]
    fn the_group_of_a_process_is_found() {
        let mounts = "24 23 0:22 / /sys rw - sysfs sysfs rw\n\
                      31 24 0:27 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n";
        let found = folder(mounts, "1:cpu:/x\n0::/user.slice/a\n");
        let expected = Path::new("/sys/fs/cgroup/user.slice/a");
        assert_eq!(found.as_deref(), Some(expected));
        assert_eq!(
            folder("24 23 0:22 / /sys rw - sysfs sysfs rw", "0::/"),
            None
        );
        assert_eq!(folder(mounts, "1:cpu:/x\n"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_used_something() {
        let usage = usage_of(&[stat(std::process::id()).expect("it runs")]);
        assert!(usage.memory_max > 0 && usage.switches > 0);
    }
}
