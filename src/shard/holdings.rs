//! The resources that a shard holds, for tests that check that it releases everything.

use super::Shard;
use super::slot::{Slot, Stage};
use crate::engine::Engine;
use crate::time::{Duration, Instant};

/// Resources that a shard holds. At the end, all are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Holdings {
    /// Slots in the table, lingering ones included.
    pub slots: usize,
    /// Transfers counted against the operator's limit, over all shards that share the census.
    pub census: usize,
    /// Unvalidated transfers.
    pub unvalidated: usize,
    /// Uploads requested by clients.
    pub uploads: usize,
    /// Memory used by out-of-order blocks of uploads, in octets.
    pub kept_octets: usize,
    /// Runs of frames that transfers are waiting for.
    pub waiting: usize,
    /// Transfers in the send queue.
    pub ready: usize,
    /// Timer entries.
    pub timers: usize,
}

impl<E: Engine> Shard<E> {
    /// The resources it holds now.
    #[must_use]
    pub fn holdings(&self) -> Holdings {
        Holdings {
            slots: self.table.len(),
            census: self.census.count(),
            unvalidated: self.unvalidated.count(),
            uploads: self.uploads,
            kept_octets: self.kept_octets,
            waiting: self.waiting.len(),
            ready: self.ready.len(),
            timers: self.timers.len(),
        }
    }

    /// By how much the longest-stalled transfer exceeds its idle timeout; zero if none does.
    #[must_use]
    pub fn overdue(&self) -> Duration {
        let now = self.engine.now();
        let overdue = self.table.slots().map(|slot| self.overdue_of(slot, now));
        overdue.max().unwrap_or_default()
    }

    fn overdue_of(&self, slot: &Slot, now: Instant) -> Duration {
        let patience = slot
            .errand
            .as_ref()
            .map_or(self.settings.patience, |errand| errand.patience);
        let (moved_at, asked) = match &slot.stage {
            Stage::Opening(_) => (slot.started, None),
            Stage::Running(transfer, _) => (transfer.moved_at(), transfer.params().timeout()),
            Stage::Lingering { .. } => return Duration::ZERO,
        };
        let idle = patience.idle.max(asked.unwrap_or_default() * 2);
        now - (moved_at + idle)
    }
}
