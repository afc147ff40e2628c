//! The program itself as a server, seen from outside alone: by its log, its admin side and `/proc`.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::peer::{PATIENCE, until};

/// How long nothing is added to a log that has come to rest.
const LOG_REST: Duration = Duration::from_millis(250);

/// What `--engine` may be told; each test of [`on_both_engines`] is run with both.
pub(crate) type Engine = &'static str;

/// io_uring's engine, unless this machine has none, which is said aloud.
pub(crate) fn uring() -> Option<Engine> {
    // Made once: the end of a ring interrupts what other threads wait for.
    static MISSING: LazyLock<Option<String>> = LazyLock::new(|| {
        let made = bootstorm::engine::uring::UringEngine::new();
        made.err().map(|why| why.to_string())
    });
    match &*MISSING {
        None => Some("uring"),
        Some(why) => {
            super::skip(why);
            None
        }
    }
}

/// Every test once with each engine: each is a function of an [`Engine`].
#[allow(unused_macros)] // Not every test file has such tests.
macro_rules! on_both_engines {
    ($($test:ident)*) => {
        mod mio {
            $(#[test]
            fn $test() {
                super::$test("mio");
            })*
        }

        mod uring {
            $(#[test]
            fn $test() {
                if let Some(engine) = $crate::common::binary::uring() {
                    super::$test(engine);
                }
            })*
        }
    };
}
#[allow(unused_imports)] // Not every test file has such tests.
pub(crate) use on_both_engines;

/// A server that runs, with an admin side; killed when dropped.
#[derive(Debug)]
pub(crate) struct Binary {
    child: Child,
    /// Where it takes requests.
    pub(crate) address: SocketAddr,
    admin: SocketAddr,
    log: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Binary {
    /// Serves `root` by one worker, at a free port of the loopback unless the arguments say otherwise.
    pub(crate) fn start(engine: Engine, root: &Path, arguments: &[&str]) -> Self {
        Self::start_under(&[], engine, root, arguments)
    }

    /// The same, started by another program, which has to become it: `prlimit`, `ip netns exec` and the like.
    pub(crate) fn start_under(
        wrapper: &[&str],
        engine: Engine,
        root: &Path,
        arguments: &[&str],
    ) -> Self {
        let program = OsStr::new(env!("CARGO_BIN_EXE_bootstorm"));
        let mut words = wrapper.iter().map(OsStr::new).chain([program]);
        let mut command = Command::new(words.next().expect("the program at least"));
        command.args(words).arg("serve").arg(root);
        command.args(["--engine", engine, "--admin", "127.0.0.1:0"]);
        if !arguments.contains(&"--workers") {
            command.args(["--workers", "1"]);
        }
        if !arguments.contains(&"--listen") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        Self::launch(command.args(arguments))
    }

    // Waited for by `ended`, or when dropped.
    #[allow(clippy::zombie_processes)]
    fn launch(command: &mut Command) -> Self {
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("BOOTSTORM_") {
                command.env_remove(name);
            }
        }
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let log = Arc::new(Mutex::new(String::new()));
        let (mut address, mut admin) = (None, None);
        while address.is_none() || admin.is_none() {
            let Some(line) = lines.next() else {
                panic!("it ended: {}", lock(&log));
            };
            let line = line.expect("text");
            if let Some(said) = line.strip_prefix("listening on udp ") {
                address = said.parse().ok();
            } else if let Some(said) = line.strip_prefix("admin on http://") {
                admin = said.parse().ok();
            }
            *lock(&log) += &(line + "\n");
        }
        // Read on, for a full pipe would stop the server.
        let reader = thread::spawn({
            let log = Arc::clone(&log);
            move || lines.for_each(|line| *lock(&log) += &(line.unwrap_or_default() + "\n"))
        });
        Self {
            child,
            address: address.expect("said"),
            admin: admin.expect("said"),
            log,
            reader: Some(reader),
        }
    }

    /// What it has written to standard error. Lines that pour wait for each other for some milliseconds,
    /// so it is taken once it has come to rest.
    pub(crate) fn log(&self) -> String {
        let mut length = None;
        loop {
            let log = lock(&self.log).clone();
            if length.replace(log.len()) == Some(log.len()) {
                return log;
            }
            thread::sleep(LOG_REST);
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
    }

    /// Stops it, and waits until the kernel says that it stands still.
    pub(crate) fn stop(&self) {
        self.signal(Signal::STOP);
        until("it stands still", || self.state() == 'T');
    }

    /// Has it go on.
    pub(crate) fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    /// Whether it runs, that is, has not ended by itself.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }

    /// Waits for its end: how it ended, and all that it wrote.
    pub(crate) fn ended(mut self) -> (ExitStatus, String) {
        let status = self.child.wait().expect("a child");
        if let Some(reader) = self.reader.take() {
            reader.join().expect("read to the end");
        }
        (status, self.log())
    }

    /// The counters, as they stand.
    pub(crate) fn metrics(&self) -> Page {
        Page(self.get("/metrics"))
    }

    /// The running transfers that it lists.
    pub(crate) fn transfers(&self) -> Vec<serde_json::Value> {
        let answer = self.get("/transfers");
        let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
        serde_json::from_str(body).expect("a list in JSON")
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.admin).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("text");
        answer
    }

    /// Memory that it takes, in octets.
    pub(crate) fn resident(&self) -> u64 {
        let kibibytes = self.status("VmRSS:");
        let number = kibibytes.split_whitespace().next().expect("a number");
        number.parse::<u64>().expect("a number") << 10
    }

    pub(crate) fn descriptors(&self) -> usize {
        let open = fs::read_dir(format!("/proc/{}/fd", self.pid()));
        open.expect("it runs").count()
    }

    pub(crate) fn threads(&self) -> usize {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid()));
        tasks.expect("it runs").count()
    }

    fn state(&self) -> char {
        self.status("State:").chars().next().expect("a letter")
    }

    fn status(&self, key: &str) -> String {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()));
        let status = status.expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        line.expect("Linux tells").trim().to_owned()
    }
}

impl Drop for Binary {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What `/metrics` answered.
#[derive(Debug)]
pub(crate) struct Page(String);

impl Page {
    /// Whether it has counters, and does not say that they cannot be had now.
    pub(crate) fn is_answer(&self) -> bool {
        self.0.starts_with("HTTP/1.1 200 ")
    }

    /// The value of a series with these labels, 0 if there is none.
    pub(crate) fn value(&self, series: &str) -> u64 {
        let value = self.0.lines().find_map(|line| {
            let value = line.strip_prefix(series)?.strip_prefix(' ')?;
            value.parse().ok()
        });
        value.unwrap_or(0)
    }

    /// The sum over all series that begin so.
    pub(crate) fn sum(&self, family: &str) -> u64 {
        let values = self.0.lines().filter_map(|line| {
            let (_, value) = line.strip_prefix(family)?.rsplit_once(' ')?;
            value.parse::<u64>().ok()
        });
        values.sum()
    }

    /// Datagrams that arrived.
    pub(crate) fn received(&self) -> u64 {
        self.directed("tftp_packets_total{", "received")
    }

    /// Datagrams that left.
    pub(crate) fn sent(&self) -> u64 {
        self.directed("tftp_packets_total{", "sent")
    }

    fn directed(&self, family: &str, direction: &str) -> u64 {
        let wanted = format!("direction=\"{direction}\"");
        let values = self.0.lines().filter_map(|line| {
            let (labels, value) = line.strip_prefix(family)?.rsplit_once(' ')?;
            labels
                .contains(&wanted)
                .then(|| value.parse::<u64>().ok())?
        });
        values.sum()
    }

    /// Transfers that run.
    pub(crate) fn active(&self) -> u64 {
        self.sum("tftp_transfers_active{")
    }
}

/// A URL of a file at `server`.
pub(crate) fn url(server: SocketAddr, name: &str) -> String {
    format!("tftp://{server}/{name}")
}

/// An address of the loopback that few others have, by number.
pub(crate) fn loopback(number: u32) -> Ipv4Addr {
    // 127.1.0.0 and on: 2^20 of them at the most.
    Ipv4Addr::from_bits(0x7f01_0000 + number % (1 << 20))
}

fn lock(log: &Mutex<String>) -> std::sync::MutexGuard<'_, String> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}
