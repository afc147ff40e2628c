//! The demo's server: a separate process, so that its resource usage is measured apart from the clients'.
//!
//! It runs as long as its standard input is open. However its parent process ends, the system closes that
//! input; the server then ends and removes the directory that it created.

use std::env;
use std::fmt;
use std::fs::{self, DirBuilder, File};
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::super::args::DemoServer;
use super::super::errand::{counted, grouped};
use super::super::{Trouble, end_at_once, remark};
use super::IMAGE;
use crate::config::{Settings, frame_cache_octets_default};
use crate::control;
use crate::load::contents;
use crate::load::report::Report;
use crate::metrics::Metrics;
use crate::server::{EngineChoice, Server, ServerOptions};
use crate::store::directory::DirectoryOptions;

/// How long the last ACKs may take to arrive.
const REST_PATIENCE: Duration = Duration::from_secs(2);
/// How long the server's threads may take to end.
const END_PATIENCE: Duration = Duration::from_secs(1);

/// The server's message when it is ready.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Ready {
    pub(super) address: SocketAddr,
    engine: String,
    gso: bool,
    workers: usize,
}

/// The server's message at its end.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Counted {
    requests: u64,
    complete: u64,
    octets: u64,
}

impl fmt::Display for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            address,
            engine,
            workers,
            ..
        } = self;
        let workers = counted(*workers as u64, "thread");
        let gso = if self.gso { ", GSO" } else { "" };
        write!(f, "{address}, {engine}{gso}, {workers}")
    }
}

impl Counted {
    fn new(metrics: &Metrics) -> Self {
        Self {
            requests: metrics.accepted(),
            complete: metrics.ended.get("complete").copied().unwrap_or_default(),
            octets: metrics.octets_sent,
        }
    }

    /// Whether the clients' counts agree with these.
    pub(super) fn agrees(&self, report: &Report) -> bool {
        let tally = &report.tally;
        (self.requests, self.complete, self.octets) == (tally.begun, tally.complete, tally.octets)
    }
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, {} complete, {}",
            counted(self.requests, "request"),
            grouped(self.complete),
            counted(self.octets, "octet")
        )
    }
}

/// The server process, as seen by its parent.
pub(super) struct Other {
    child: Child,
    said: BufReader<ChildStdout>,
    ready: Ready,
}

impl Other {
    /// Starts this program again as the server.
    pub(super) fn start(size: usize, workers: usize) -> Result<Self, Trouble> {
        let cannot =
            |error: &dyn fmt::Display| Trouble::Work(format!("cannot start a server: {error}"));
        let program = env::current_exe().map_err(|error| cannot(&error))?;
        let mut child = Command::new(program)
            .arg("demo-server")
            .args([size, workers].map(|number| number.to_string()))
            // An interrupt at the terminal is for this process, which then ends the server.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| cannot(&error))?;
        let Some(stdout) = child.stdout.take() else {
            return Err(cannot(&"it says nothing"));
        };
        let mut said = BufReader::new(stdout);
        match heard(&mut said) {
            Ok(ready) => Ok(Self { child, said, ready }),
            Err(error) => {
                drop(child.stdin.take());
                let _ = child.wait();
                Err(cannot(&error))
            }
        }
    }

    pub(super) fn ready(&self) -> &Ready {
        &self.ready
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends the server and returns its counts.
    pub(super) fn end(mut self) -> Result<Counted, Trouble> {
        drop(self.child.stdin.take());
        heard(&mut self.said)
            .map_err(|error| Trouble::Work(format!("the server ended badly: {error}")))
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // The server removes its own directory, so wait for it.
        let _ = self.child.wait();
    }
}

/// Reads the next line from the server.
fn heard<What: for<'a> Deserialize<'a>>(said: &mut impl BufRead) -> io::Result<What> {
    let mut line = String::new();
    if said.read_line(&mut line)? == 0 {
        return Err(io::Error::other("it is gone"));
    }
    Ok(serde_json::from_str(&line)?)
}

/// Runs as the server, until its standard input is closed.
pub(in crate::cli) fn run(arguments: &DemoServer) -> Result<(), Trouble> {
    let made: Arc<OnceLock<PathBuf>> = Arc::default();
    let to_remove = made.clone();
    control::on_interrupt(move || {
        if let Some(path) = to_remove.get() {
            let _ = fs::remove_dir_all(path);
        }
        end_at_once();
    })
    .map_err(Trouble::work)?;
    let cannot_write = |error| Trouble::Work(format!("cannot write an image: {error}"));
    let path = make_folder().map_err(cannot_write)?;
    let path = made.get_or_init(|| path);
    let served = fill(path, arguments.size)
        .map_err(cannot_write)
        .and_then(|()| serve(path, arguments.workers).map_err(Trouble::work));
    let _ = fs::remove_dir_all(path);
    served
}

/// Creates a directory that only this user can read. An existing one belongs to another process.
fn make_folder() -> io::Result<PathBuf> {
    let name = format!("bootstorm-demo-{}", process::id());
    let path = env::temp_dir().join(name);
    DirBuilder::new().mode(0o700).create(&path)?;
    Ok(path)
}

fn fill(folder: &Path, size: usize) -> io::Result<()> {
    let file = File::create(folder.join(IMAGE))?;
    contents::write(size as u64, file)
}

fn serve(root: &Path, workers: usize) -> io::Result<()> {
    let options = ServerOptions {
        gso: true,
        pin: false,
        listen: vec![(Ipv4Addr::LOCALHOST, 0).into()],
        workers,
        settings: Settings::default(),
        root: root.to_path_buf(),
        directory: DirectoryOptions::default(),
        frame_cache_octets: frame_cache_octets_default(),
        engine: EngineChoice::Auto,
    };
    let server = Server::start(&options, |ended| {
        if let Err(error) = ended {
            remark(format_args!("bootstorm: a shard failed: {error}"));
        }
    })?;
    say(&Ready {
        address: server.addresses()[0],
        engine: server.engine().name.to_owned(),
        gso: server.engine().gso,
        workers: server.workers(),
    })?;
    io::copy(&mut io::stdin().lock(), &mut io::sink())?;
    say(&Counted::new(&metrics_at_rest(&server)))?;
    // Threads that do not end in time end with this process.
    let _ = server.end(END_PATIENCE);
    Ok(())
}

/// The counters once no transfer is running.
fn metrics_at_rest(server: &Server) -> Metrics {
    let latest = Instant::now() + REST_PATIENCE;
    loop {
        let (sender, answers) = mpsc::channel();
        server.report(move |metrics| {
            // The receiver may have given up.
            let _ = sender.send(metrics);
        });
        let mut total = Metrics::default();
        for _ in 0..server.workers() {
            match answers.recv_timeout(latest.saturating_duration_since(Instant::now())) {
                Ok(metrics) => total.merge(&metrics),
                Err(_) => return total,
            }
        }
        if total.active() == 0 || Instant::now() >= latest {
            return total;
        }
    }
}

fn say(what: &impl Serialize) -> io::Result<()> {
    let mut output = io::stdout().lock();
    serde_json::to_writer(&mut output, what)?;
    writeln!(output)?;
    output.flush()
}
