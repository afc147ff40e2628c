//! Ends an engine's wait from any thread; many calls before the wait ends cost one system call.

use std::io;
use std::sync::Arc;
use std::task::Wake;

use crate::sync::atomic::{AtomicBool, Ordering};

/// Ends the wait of the engine that it belongs to.
pub(super) trait Bell: Send + Sync + 'static {
    fn ring(&self) -> io::Result<()>;
}

/// A bell that is not rung again until it was heard.
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

    /// What is rung.
    #[cfg(target_os = "linux")]
    pub(super) const fn bell(&self) -> &B {
        &self.bell
    }

    /// Takes the alarm. Who rang before has written before, and who rings later rings anew.
    pub(super) fn reset(&self) {
        self.rung.swap(false, Ordering::AcqRel);
    }
}

impl<B: Bell> Wake for Alarm<B> {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // If ringing fails, the next one shall try again.
        if !self.rung.swap(true, Ordering::AcqRel) && self.bell.ring().is_err() {
            self.reset();
        }
    }
}
