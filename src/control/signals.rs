//! Signals as events.

use std::io;
use std::thread;

use tokio::signal::unix::{self, SignalKind, signal};

/// Signals that the process handles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGHUP: a request to reload the settings.
    Hangup,
    /// SIGINT: the user at the terminal wants the process to end.
    Interrupt,
    /// SIGUSR1: print the counters.
    Report,
    /// SIGTERM: the service manager wants the process to end.
    Terminate,
}

/// Catches signals from its creation on.
#[derive(Debug)]
pub struct Signals {
    hangup: unix::Signal,
    interrupt: unix::Signal,
    report: unix::Signal,
    terminate: unix::Signal,
}

impl Signals {
    /// Catches SIGHUP, SIGINT, SIGTERM and SIGUSR1, and disarms SIGXFSZ; call it within a tokio runtime.
    ///
    /// # Errors
    /// If the system refuses a handler.
    pub fn new() -> io::Result<Self> {
        // Uncaught, SIGXFSZ kills a process that writes beyond the file size limit (`ulimit -f`). It is
        // ignored here: the write fails too, and its transfer reports that.
        drop(signal(SignalKind::from_raw(libc::SIGXFSZ))?);
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            report: signal(SignalKind::user_defined1())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for the next signal.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.hangup.recv() => Signal::Hangup,
            _ = self.interrupt.recv() => Signal::Interrupt,
            _ = self.report.recv() => Signal::Report,
            _ = self.terminate.recv() => Signal::Terminate,
        }
    }
}

/// Calls `action`, on its own thread, whenever SIGINT or SIGTERM arrives.
///
/// # Errors
/// If the system refuses a handler or a thread.
pub fn on_interrupt(mut action: impl FnMut() + Send + 'static) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    // Signals are caught before this returns.
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
