//! Wakes an engine's wait from any thread; all calls before the wait ends share one system call.

use std::io;
use std::sync::Arc;
use std::task::Wake;

use crate::sync::atomic::{AtomicBool, Ordering};

/// Wakes the engine that it belongs to.
pub(super) trait Bell: Send + Sync + 'static {
    fn ring(&self) -> io::Result<()>;
}

/// A bell that is rung at most once until the engine resets it.
#[derive(Debug)]
pub(super) struct Alarm<B> {
    rung: AtomicBool,
    bell: B,
}

impl<B> Alarm<B> {
    pub(super) fn new(bell: B) -> Self {
        Self {
            rung: AtomicBool::new(false),
            bell,
        }
    }

    /// The bell.
    #[cfg(target_os = "linux")]
    pub(super) const fn bell(&self) -> &B {
        &self.bell
    }

    /// Resets the alarm. What was written before an earlier ring is visible now; a later one rings again.
    pub(super) fn reset(&self) {
        self.rung.swap(false, Ordering::AcqRel);
    }
}

impl<B: Bell> Wake for Alarm<B> {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // If ringing fails, let the next caller try again.
        if !self.rung.swap(true, Ordering::AcqRel) && self.bell.ring().is_err() {
            self.reset();
        }
    }
}
