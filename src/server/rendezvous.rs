//! A barrier at which the shards of a server wait for each other before they end.
//!
//! The kernel distributes datagrams among the sockets of an address by their count. If one closed, clients of
//! other shards would reach the wrong shard in mid-transfer; so no shard ends before all may.

use std::sync::{Arc, PoisonError};
use std::task::Waker;

use crate::sync::{Mutex, MutexGuard};

/// State shared by the shards of a server so that they end together.
#[derive(Debug, Clone, Default)]
pub(super) struct Rendezvous(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// Shards that still have work, or have yet to be told to end.
    busy: usize,
    /// The waker of each shard.
    wakers: Vec<Waker>,
}

impl Rendezvous {
    /// Adds a shard, woken by `waker`. All must be added before the first of them is done.
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
        // No operation under the lock can leave the state inconsistent.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of the shards that end together. It counts as done when dropped, so that no shard waits for one that
/// has failed.
#[derive(Debug)]
pub(super) struct Member {
    rendezvous: Rendezvous,
    busy: bool,
}

impl Member {
    /// Marks this shard as permanently done. Returns whether all shards are; if not, the shard is woken once
    /// they are.
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
