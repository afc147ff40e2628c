//! Closes files whose file system may make whoever closes them wait: shards drop the last reference to a file.
//!
//! Its thread shares nothing but a channel; a model checker need not follow it.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use super::{Opened, ReadFailure, Source};

/// Limit of waiting for the thread: descriptors close at once, unless their file system does not answer.
const CATCH_UP_MAX: Duration = Duration::from_millis(100);

/// A thread that drops the sources it is given.
pub(super) struct Closer {
    thread: Sender<Box<dyn Source>>,
}

impl Closer {
    /// Starts the thread. It ends once it has dropped what it was given, and nothing more can come.
    pub(super) fn start() -> io::Result<Arc<Self>> {
        let (thread, sources) = channel::<Box<dyn Source>>();
        let named = thread::Builder::new().name("close".to_owned());
        named.spawn(move || sources.iter().for_each(drop))?;
        Ok(Arc::new(Self { thread }))
    }

    /// Sees to it that the thread drops the source, whoever drops what this returns, if that may take long.
    pub(super) fn take_care_of(self: &Arc<Self>, opened: Opened) -> Opened {
        if !opened.source.is_remote() {
            return opened;
        }
        let source = Box::new(Remote {
            source: opened.source,
            closer: Arc::clone(self),
        });
        Opened { source, ..opened }
    }

    /// Waits until the thread has dropped what it was given before, but not for long.
    pub(super) fn catch_up(&self) {
        let (last, dropped) = channel();
        if self.thread.send(Box::new(Closed(Some(last)))).is_ok() {
            // Nothing ever comes: it ends when the other side is dropped.
            let _ = dropped.recv_timeout(CATCH_UP_MAX);
        }
    }
}

/// A source that the thread drops.
struct Remote {
    source: Box<dyn Source>,
    closer: Arc<Closer>,
}

impl Source for Remote {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, ReadFailure> {
        self.source.read_at(buffer, offset)
    }

    fn check(&self) -> Result<(), ReadFailure> {
        self.source.check()
    }

    fn begin(&self) {
        self.source.begin();
    }

    fn is_random_access(&self) -> bool {
        self.source.is_random_access()
    }

    fn is_remote(&self) -> bool {
        true
    }

    fn is_nameless(&self) -> bool {
        self.source.is_nameless()
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        let source = std::mem::replace(&mut self.source, Box::new(Closed(None)));
        // If the thread were gone, it would be dropped here.
        let _ = self.closer.thread.send(source);
    }
}

/// What is left of a source that the thread drops, and what is dropped after it.
struct Closed(#[allow(dead_code)] Option<Sender<()>>);

impl Source for Closed {
    fn read_at(&self, _: &mut [u8], _: u64) -> Result<usize, ReadFailure> {
        Err(ReadFailure::Changed)
    }

    fn check(&self) -> Result<(), ReadFailure> {
        Err(ReadFailure::Changed)
    }
}
