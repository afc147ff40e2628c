//! What the system tells of the server's process: processor time, memory, context switches.

use std::fs;
use std::io;

use crate::time::Duration;

/// A process's use of the machine so far, with that of its children.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Processor time, of the children that ended and of those that run too.
    pub processor: Duration,
    /// The most memory that it held, in octets.
    pub memory_max: u64,
    /// Context switches of its threads.
    pub switches: u64,
}

impl Usage {
    /// What was used since `earlier`; of memory, the most ever.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            processor: self.processor.saturating_sub(earlier.processor),
            memory_max: self.memory_max,
            switches: self.switches.saturating_sub(earlier.switches),
        }
    }
}

/// Asks the system about a process, and all that descend from it.
///
/// # Errors
/// If there is none of this number, or the system has no `/proc`.
pub(super) fn usage(pid: u32) -> io::Result<Usage> {
    let mut processes = vec![stat(pid)?];
    processes.extend(descendants(pid));
    Ok(usage_of(&processes))
}

/// What these processes use, and what their children that ended did.
pub(super) fn usage_of(processes: &[Process]) -> Usage {
    let ticks: u64 = processes
        .iter()
        .map(|process| process.own + process.ended_children)
        .sum();
    let memory = |process: &Process| {
        let status = fs::read_to_string(format!("/proc/{}/status", process.number)).ok()?;
        field(&status, "VmHWM:")
    };
    let memory_max = processes.iter().filter_map(memory).max();
    let seconds = ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
    Usage {
        processor: Duration::from_secs_f64(seconds),
        memory_max: memory_max.unwrap_or_default() * 1024,
        switches: processes
            .iter()
            .map(|process| switches(process.number))
            .sum(),
    }
}

/// The processes that descend from this one; from 0, all that are in sight.
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

/// How long the calling thread has waited for a processor that others had; zero where that is not told.
pub(super) fn starved() -> Duration {
    let told = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    // Nanoseconds on a processor, nanoseconds waiting for one, turns.
    let waited = told.split_ascii_whitespace().nth(1);
    Duration::from_nanos(waited.and_then(|nanos| nanos.parse().ok()).unwrap_or(0))
}

/// A process, with processor time in the kernel's ticks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) number: u32,
    /// Its program's name, cut to what the kernel keeps.
    pub(super) name: String,
    /// Whether it has ended, and nobody has asked yet how.
    pub(super) ended: bool,
    pub(super) parent: u32,
    own: u64,
    ended_children: u64,
}

fn stat(pid: u32) -> io::Result<Process> {
    parsed(&fs::read_to_string(format!("/proc/{pid}/stat"))?)
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The line of proc_pid_stat(5). The name in parentheses may hold anything.
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
    })
}

fn switches(pid: u32) -> u64 {
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
        };
        assert_eq!(process, expected);
        assert!(parsed("42 (x) S").is_none());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_used_something() {
        let usage = usage(std::process::id()).expect("it runs");
        assert!(usage.memory_max > 0 && usage.switches > 0);
    }
}
