//! A server under comparison, as processes: it is started, polled until it answers, monitored, and ended
//! with everything that it left behind.

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use super::super::process::{Process, Usage, descendants, usage_of};
use super::control_group::ControlGroup;
use super::{Contender, FOLDER, Stop};
use crate::time::Duration;
use crate::wire::{Mode, Opcode, write_request};

/// The file requested to test whether a server answers; no file has this name.
const NOTHING: &[u8] = b"bootstorm-nothing-of-this-name";
/// How long each such request waits.
const ANSWER_WITHIN: Duration = Duration::from_millis(100);
/// How often processes are killed before they count as unkillable: they may fork meanwhile.
const ENDINGS_MAX: u32 = 500;
/// The pause between two such attempts.
const ENDING_PAUSE: Duration = Duration::from_millis(10);
/// How many consecutive scans must find nothing: a process whose parent ends during a scan is missing
/// from it.
const LOOKS: u32 = 3;
/// The environment variable that marks servers and everything that they start; it holds the ID of the
/// process that compares them.
const MARK: &str = "BOOTSTORM_COMPARISON";
/// The length to which the kernel truncates a process's name, in octets.
const NAME_OCTETS_MAX: usize = 15;
/// The maximum number of characters shown of a server's last output.
const LAST_WORDS_MAX: usize = 200;

impl Contender {
    /// Why the server is unavailable, if it is: its program does not exist.
    pub(super) fn missing(&self) -> Option<String> {
        let program = self.command.first().map(String::as_str).unwrap_or_default();
        let is_there = if program.contains('/') {
            Path::new(program).is_file()
        } else {
            let path = std::env::var_os("PATH").unwrap_or_default();
            std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
        };
        (!is_there).then(|| format!("{program} is not there"))
    }
}

/// A running server; ended on drop.
#[derive(Debug)]
pub(super) struct Running<'a> {
    contender: &'a Contender,
    child: Child,
    log: PathBuf,
    /// The address where it takes requests.
    pub(super) listens: SocketAddr,
}

impl<'a> Running<'a> {
    /// Starts the server; returns the reason if that fails.
    pub(super) fn start(contender: &'a Contender, root: &Path, log: &Path) -> Result<Self, String> {
        let port = match contender.port {
            Some(port) => port,
            None => free_port(contender.address)
                .map_err(|error| format!("no port of {} is free: {error}", contender.address))?,
        };
        let filled = |word: &String| {
            word.replace("{root}", &root.display().to_string())
                .replace("{address}", &contender.address.to_string())
                .replace("{port}", &port.to_string())
        };
        let words: Vec<String> = contender.command.iter().map(filled).collect();
        let (program, arguments) = words.split_first().ok_or("the command is empty")?;
        let output = File::create(log).and_then(|file| Ok((file.try_clone()?, file)));
        let (stdout, stderr) =
            output.map_err(|error| format!("cannot write {}: {error}", log.display()))?;
        let child = Command::new(program)
            .args(arguments)
            .envs(
                contender
                    .environment
                    .iter()
                    .map(|(name, value)| (name, value)),
            )
            .env(MARK, process::id().to_string())
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            // A signal from the terminal reaches only this process, which ends the server itself.
            .process_group(0)
            .spawn()
            .map_err(|error| format!("cannot start {program}: {error}"))?;
        Ok(Self {
            contender,
            child,
            log: log.to_path_buf(),
            listens: SocketAddr::new(contender.address, port),
        })
    }

    /// Waits until the server answers a request; returns the reason if it does not.
    pub(super) fn wait_until_ready(&mut self, stop: &Stop) -> Result<(), String> {
        let began = Instant::now();
        while began.elapsed() < self.contender.ready_within && !stop.is_stopped() {
            if self.ended() {
                let status = self.child.try_wait().ok().flatten();
                let status = status.map(|status| status.to_string());
                let status = status.unwrap_or_else(|| "nobody knows how".to_owned());
                return Err(format!("it ended at once ({status}){}", self.last_words()));
            }
            if answers(self.listens) {
                return Ok(());
            }
        }
        let seconds = self.contender.ready_within.as_secs_f64();
        let last_words = self.last_words();
        Err(format!("no answer within {seconds} s{last_words}"))
    }

    /// Whether none of its processes is running.
    pub(super) fn ended(&self) -> bool {
        (0..LOOKS).all(|look| {
            if look > 0 {
                std::thread::sleep(ENDING_PAUSE);
            }
            marked(process::id(), descendants(process::id())).is_empty()
        })
    }

    /// The usage so far of the processes that count: of its control group, if there is one.
    pub(super) fn usage(&self, group: Option<&ControlGroup>) -> io::Result<Usage> {
        let names = &self.contender.count;
        let counts = |process: &Process| {
            let kept = |name: &String| name.get(..NAME_OCTETS_MAX).unwrap_or(name) == process.name;
            names.is_empty() || names.iter().any(kept)
        };
        let mut processes = marked(process::id(), descendants(process::id()));
        processes.retain(counts);
        let mut usage = usage_of(&processes);
        if let Some(group) = group {
            usage.processor = group.processor()?;
        }
        Ok(usage)
    }

    /// Ends the server and everything that it started.
    pub(super) fn end(self) -> io::Result<()> {
        end_all()
    }

    /// Its last output, as a suffix for a sentence.
    fn last_words(&self) -> String {
        let said = fs::read(&self.log).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        let last = said.lines().rfind(|line| !line.trim().is_empty());
        last.map_or_else(String::new, |line| {
            let line: String = line
                .chars()
                .filter(|character| !character.is_control())
                .take(LAST_WORDS_MAX)
                .collect();
            format!(": {line}")
        })
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        // Callers that need the result call `end`.
        let _ = end_all();
    }
}

/// Ends every server that this process has started, with everything that it started, and nothing else.
///
/// # Errors
/// If one does not end.
pub fn end_all() -> io::Result<()> {
    end_marked(process::id(), || {
        let below = descendants(process::id());
        let orphans = below.iter().filter(|process| process.ended);
        for orphan in orphans.filter(|process| process.parent == process::id()) {
            if let Some(pid) = pid(orphan) {
                // No other code here waits for this process.
                let _ = waitpid(Some(pid), WaitOptions::NOHANG);
            }
        }
        below
    })
}

/// Ends what a process left behind that was killed during a comparison, and removes its files. The
/// process that monitors it calls this.
///
/// # Errors
/// If a server does not end, or something cannot be removed.
pub fn clean_up_after(comparer: u32) -> io::Result<()> {
    // An orphan is not below any known process.
    end_marked(comparer, || descendants(0))?;
    // The group may not exist.
    let _ = ControlGroup::remove_of(comparer);
    let prefix = format!("{FOLDER}-{comparer}-");
    let mut removed = Ok(());
    for entry in fs::read_dir(std::env::temp_dir())?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            let one = fs::remove_dir_all(entry.path());
            removed = removed.and(one);
        }
    }
    removed
}

/// Ends those of `candidates` that have this process's mark, until none is left.
fn end_marked(comparer: u32, candidates: impl Fn() -> Vec<Process>) -> io::Result<()> {
    let mut left = Vec::new();
    let mut nothing_seen = 0;
    for _ in 0..ENDINGS_MAX {
        left = marked(comparer, candidates());
        nothing_seen = if left.is_empty() { nothing_seen + 1 } else { 0 };
        if nothing_seen == LOOKS {
            return Ok(());
        }
        for pid in left.iter().filter_map(pid) {
            // It may have ended by itself meanwhile.
            let _ = kill_process(pid, Signal::KILL);
        }
        std::thread::sleep(ENDING_PAUSE);
    }
    let left: Vec<_> = left
        .iter()
        .map(|process| format!("{} ({})", process.name, process.number))
        .collect();
    let left = left.join(", ");
    Err(io::Error::other(format!("these do not end: {left}")))
}

fn pid(process: &Process) -> Option<Pid> {
    Pid::from_raw(i32::try_from(process.number).ok()?)
}

/// The running processes among `processes` that have this process's mark. A mark is inherited regardless
/// of changes to parents, groups and sessions, and of a drop of root's rights. The system's own
/// mechanism, PR_SET_PDEATHSIG, is reset when a process drops them.
fn marked(comparer: u32, mut processes: Vec<Process>) -> Vec<Process> {
    let mark = format!("{MARK}={comparer}");
    processes.retain(|process| {
        let environment = fs::read(format!("/proc/{}/environ", process.number));
        let environment = environment.unwrap_or_default();
        let mut variables = environment.split(|&octet| octet == 0);
        !process.ended && variables.any(|variable| variable == mark.as_bytes())
    });
    processes
}

/// A currently unused port.
fn free_port(address: IpAddr) -> io::Result<u16> {
    Ok(UdpSocket::bind((address, 0))?.local_addr()?.port())
}

/// Whether the server answers a request for a file that does not exist.
fn answers(server: SocketAddr) -> bool {
    let ask = || {
        let mut request = [0; 64];
        let len = write_request(&mut request, Opcode::Rrq, NOTHING, Mode::Octet)
            .map_err(io::Error::other)?
            .len();
        // The socket is not connected, because the answer comes from another port.
        let socket = UdpSocket::bind((server.ip(), 0))?;
        socket.set_read_timeout(Some(ANSWER_WITHIN))?;
        socket.send_to(&request[..len], server)?;
        socket.recv_from(&mut [0; 512])
    };
    ask().is_ok_and(|(_, from)| from.ip() == server.ip())
}
