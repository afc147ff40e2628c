//! Signals as events.

use std::io;

use tokio::signal::unix::{self, SignalKind, signal};

/// What a process is told by a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
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
    interrupt: unix::Signal,
    report: unix::Signal,
    terminate: unix::Signal,
}

impl Signals {
    /// Catches SIGINT, SIGTERM and SIGUSR1; called within a tokio runtime.
    ///
    /// # Errors
    /// If the system refuses a handler.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            report: signal(SignalKind::user_defined1())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// The next signal.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::Interrupt,
            _ = self.report.recv() => Signal::Report,
            _ = self.terminate.recv() => Signal::Terminate,
        }
    }
}
