//! Signals as events.

use std::io;
use std::thread;

use tokio::signal::unix::{self, SignalKind, signal};

/// What a process is told by a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGHUP: somebody wants it to read its settings anew.
    Hangup,
    /// SIGINT: somebody at the terminal wants it to end.
    Interrupt,
    /// SIGUSR1: print the counters.
    Report,
    /// SIGTERM: the service manager wants it to end.
    Terminate,
}

/// Catches signals from its making on.
#[derive(Debug)]
pub struct Signals {
    hangup: unix::Signal,
    interrupt: unix::Signal,
    report: unix::Signal,
    terminate: unix::Signal,
}

impl Signals {
    /// Catches SIGHUP, SIGINT, SIGTERM and SIGUSR1, and SIGXFSZ for good; called within a tokio runtime.
    ///
    /// # Errors
    /// If the system refuses a handler.
    pub fn new() -> io::Result<Self> {
        // Uncaught, it kills whoever writes beyond the limit of lengths (`ulimit -f`). Nobody waits for
        // it: the write fails as well, and its transfer says so.
        drop(signal(SignalKind::from_raw(libc::SIGXFSZ))?);
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            report: signal(SignalKind::user_defined1())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// The next signal.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.hangup.recv() => Signal::Hangup,
            _ = self.interrupt.recv() => Signal::Interrupt,
            _ = self.report.recv() => Signal::Report,
            _ = self.terminate.recv() => Signal::Terminate,
        }
    }
}

/// Calls `action`, on a thread of its own, whenever SIGINT or SIGTERM comes.
///
/// # Errors
/// If the system refuses a handler or a thread.
pub fn on_interrupt(mut action: impl FnMut() + Send + 'static) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    // Caught before this returns.
    let mut signals = {
        let _within = runtime.enter();
        Signals::new()?
    };
    let wait = move || {
        runtime.block_on(async {
            loop {
                if !matches!(signals.next().await, Signal::Hangup | Signal::Report) {
                    action();
                }
            }
        });
    };
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(wait)
        .map(drop)
}
