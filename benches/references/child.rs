//! A server as a child process on the server's core, and what it has used.
//!
//! The child is this program again: it takes its core, has the kernel end it when its parent ends, however
//! that comes about, and becomes the server.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Signal, set_parent_process_death_signal};

use super::bare;
use crate::common::{self, Terms};

/// The first argument of a child.
const ROLE: &str = "serve";
/// How long a server may take to say that it listens.
const START_MAX: Duration = Duration::from_secs(20);
/// How often it is asked.
const START_POLL: Duration = Duration::from_millis(5);

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The floor.
    Bare,
    /// bootstorm, with the engine of this name.
    Bootstorm(&'static str),
}

/// All that is measured, the floor first.
pub(super) const KINDS: [Kind; 3] = [Kind::Bare, Kind::Bootstorm("mio"), Kind::Bootstorm("uring")];

impl Kind {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Bootstorm(engine) => engine,
        }
    }
}

/// A server that runs, and is ended when this is dropped.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    pub(super) address: SocketAddr,
}

impl Server {
    /// Starts one that serves the file on these terms; `extra` are more options of `bootstorm serve`.
    pub(super) fn start(
        kind: Kind,
        file: &Path,
        terms: Terms,
        extra: &[OsString],
    ) -> io::Result<Self> {
        let log = file.with_extension("log");
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(ROLE);
        match kind {
            Kind::Bare => {
                command.arg(file);
                if let Some((blksize, windowsize)) = terms {
                    command.args([blksize.to_string(), windowsize.to_string()]);
                }
            }
            Kind::Bootstorm(engine) => {
                command.args([env!("CARGO_BIN_EXE_bootstorm"), "serve"]);
                command.arg(file.parent().unwrap_or(file));
                command.args([
                    "--listen",
                    "127.0.0.1:0",
                    "--workers",
                    "1",
                    "--engine",
                    engine,
                ]);
                command.args(extra);
            }
        }
        // The log goes to a file, as in earnest, and not through this process, which is busy.
        let child = command
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log)?)
            .spawn()?;
        // From here on, dropping it ends the child.
        let mut server = Self {
            child,
            address: SocketAddr::from(([0; 4], 0)),
        };
        let began = Instant::now();
        loop {
            let said = fs::read_to_string(&log)?;
            if let Some(address) = listening(&said) {
                server.address = address;
                return Ok(server);
            }
            if server.child.try_wait()?.is_some() || began.elapsed() > START_MAX {
                let text = format!("the server `{}` does not start: {said}", kind.name());
                return Err(io::Error::other(text));
            }
            thread::sleep(START_POLL);
        }
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Processor time of all its threads, to the nanosecond: of those that sleep, which they do when
    /// nobody asks anything.
    pub(super) fn processor_time(&self) -> io::Result<Duration> {
        let threads = fs::read_dir(format!("/proc/{}/task", self.pid()))?;
        let mut sum = Duration::ZERO;
        for thread in threads {
            let told = fs::read_to_string(thread?.path().join("schedstat"))?;
            let nanos = told.split_ascii_whitespace().next();
            let nanos = nanos.and_then(|nanos| nanos.parse().ok());
            sum += Duration::from_nanos(nanos.ok_or(io::ErrorKind::InvalidData)?);
        }
        Ok(sum)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // One that has ended already cannot be killed, and is waited for all the same.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Does a child's work if this process is one; returns if it is not.
pub(super) fn run_if_child() -> io::Result<()> {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    match arguments.as_slice() {
        [role, rest @ ..] if role == ROLE => run(rest),
        _ => Ok(()),
    }
}

fn run(arguments: &[OsString]) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    common::pin(common::SERVER_CORE)?;
    let number = |text: &OsString| text.to_str().and_then(|text| text.parse().ok());
    match arguments {
        [file] => bare::serve(&PathBuf::from(file), None),
        [file, blksize, windowsize] => {
            let terms = number(blksize).zip(number(windowsize));
            bare::serve(&PathBuf::from(file), terms)
        }
        [program, arguments @ ..] => Err(Command::new(program).args(arguments).exec()),
        [] => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// The address that a server says it listens at.
fn listening(said: &str) -> Option<SocketAddr> {
    let line = said
        .split_inclusive('\n')
        .filter_map(|line| line.strip_suffix('\n'))
        .find_map(|line| line.strip_prefix("listening on udp "))?;
    line.parse().ok()
}
