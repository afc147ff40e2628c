//! Where the shards of a server wait for each other's end.
//!
//! The kernel shares datagrams out among the sockets of an address by their number. With one that is closed,
//! clients of the others would come to the wrong shard amid their transfers; so none ends before all may.

use std::sync::{Arc, PoisonError};
use std::task::Waker;

use crate::sync::{Mutex, MutexGuard};

/// What the shards of a server share to end together.
#[derive(Debug, Clone, Default)]
pub(super) struct Rendezvous(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// Shards that still have something to do, or have yet to be told to end.
    busy: usize,
    /// What wakes each shard.
    wakers: Vec<Waker>,
}

impl Rendezvous {
    /// Adds a shard, which `waker` wakes. Each must be added before the first of them is done.
    pub(super) fn join(&self, waker: Waker) -> Member {
        let mut state = self.lock();
        state.busy += 1;
        state.wakers.push(waker);
        drop(state);
        Member {
            rendezvous: self.clone(),
            busy: true,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing is done under the lock that could leave the state half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One shard among those that end together. It counts as done when it is dropped, so that nobody waits
/// for one that has failed.
#[derive(Debug)]
pub(super) struct Member {
    rendezvous: Rendezvous,
    busy: bool,
}

impl Member {
    /// This shard has nothing left to do, and never will again. Says whether that holds for all of them;
    /// if not, the shard is woken once it does.
    pub(super) fn is_done(&mut self) -> bool {
        let mut state = self.rendezvous.lock();
        if std::mem::take(&mut self.busy) {
            state.busy -= 1;
            if state.busy == 0 {
                state.wakers.iter().for_each(Waker::wake_by_ref);
            }
        }
        state.busy == 0
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.is_done();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_done_when_the_last_is_or_has_failed() {
        let rendezvous = Rendezvous::default();
        let [mut first, mut second, failed] =
            [(); 3].map(|()| rendezvous.join(Waker::noop().clone()));
        assert!(!first.is_done());
        drop(failed);
        assert!(!first.is_done(), "it counts once");
        assert!(second.is_done());
        assert!(first.is_done());
    }
}
