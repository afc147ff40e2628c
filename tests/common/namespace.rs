//! Network namespaces: whoever is in one has a loopback, and ports, of their own.

use std::fs::File;
use std::os::fd::AsFd;
use std::panic::resume_unwind;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A network namespace whose loopback is up, gone when this is.
#[derive(Debug)]
pub(crate) struct Namespace {
    pub(crate) name: String,
}

impl Namespace {
    /// Makes one, which takes root; an error says what does not work here.
    pub(crate) fn new() -> Result<Self, String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("bootstorm-{}-{number}", std::process::id());
        run(&["ip", "netns", "add", &name])?;
        let namespace = Self { name };
        run(&["ip", "-n", &namespace.name, "link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// Does something on a thread that lives in it. Threads and processes that it starts do so too, and
    /// sockets stay in the one they were made in.
    pub(crate) fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let place = File::open(format!("/run/netns/{}", self.name)).expect("it is there");
        let within = || {
            let kind = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(place.as_fd(), kind).expect("root");
            work()
        };
        thread::scope(|scope| scope.spawn(within).join())
            .unwrap_or_else(|panic| resume_unwind(panic))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // It is in nobody's way if it stays.
        let _ = run(&["ip", "netns", "delete", &self.name]);
    }
}

/// Runs a command of preparation; an error says why it does not work here.
pub(crate) fn run(words: &[&str]) -> Result<(), String> {
    let output = Command::new(words[0])
        .args(&words[1..])
        .stdin(Stdio::null())
        .output();
    let why = match output {
        Ok(output) if output.status.success() => return Ok(()),
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    Err(format!("`{}` does not work here: {why}", words.join(" ")))
}
