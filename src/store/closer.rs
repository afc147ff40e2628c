//! Closes files whose file system may make whoever closes them wait: shards drop the last reference to a file.

use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::thread;

use super::Source;

/// A thread that drops what it is given, started when it is first needed.
#[derive(Default)]
pub(super) struct Closer {
    /// `None` if the thread could not be started.
    thread: OnceLock<Option<Sender<Box<dyn Source>>>>,
}

impl Closer {
    /// Sees to it that there is a thread. Whoever calls this may wait.
    pub(super) fn start(&self) {
        self.thread.get_or_init(|| {
            let (sender, receiver) = channel();
            let named = thread::Builder::new().name("close".to_owned());
            // It ends when nothing can be given to it any more.
            let started = named.spawn(move || receiver.iter().for_each(drop));
            started.is_ok().then_some(sender)
        });
    }

    /// Has `source` dropped by the thread; at once if there is none.
    pub(super) fn close(&self, source: Box<dyn Source>) {
        if let Some(Some(thread)) = self.thread.get() {
            // If it were gone, the source would be dropped here.
            let _ = thread.send(source);
        }
    }
}
