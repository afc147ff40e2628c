//! Admission: limits on transfers, above all on unvalidated ones, whose peer has not yet proved its presence.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use super::table::SlotId;
use crate::config;
use crate::time::{Duration, Instant};

/// A limit that a new transfer may reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limit {
    /// The operator's limit on transfers over all shards.
    Transfers,
    /// On unvalidated transfers.
    Unvalidated,
    /// On unvalidated transfers from one address, or one IPv6 /64.
    UnvalidatedPerPrefix,
    /// On uploads.
    Uploads,
}

impl Limit {
    /// The limit's name in the log.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Transfers => "transfers_max",
            Self::Unvalidated => "unvalidated_max",
            Self::UnvalidatedPerPrefix => "unvalidated_per_prefix_max",
            Self::Uploads => "uploads_max",
        }
    }
}

/// Unvalidated transfers, oldest first, counted by address.
#[derive(Debug)]
pub(super) struct Unvalidated {
    max: usize,
    per_prefix_max: u32,
    /// In order of arrival; those that have left are skipped when they reach the front.
    queue: VecDeque<SlotId>,
    /// The uploads in it, which have a lower limit.
    uploads: VecDeque<SlotId>,
    per_prefix: HashMap<IpAddr, Prefix>,
    count: usize,
}

#[derive(Debug, Default)]
struct Prefix {
    count: u32,
    /// Only needed once the prefix reaches its limit; kept for every prefix, it tells which transfer is
    /// evicted first.
    queue: VecDeque<SlotId>,
}

impl Unvalidated {
    pub(super) fn new(max: usize, per_prefix_max: u32) -> Self {
        Self {
            max,
            per_prefix_max,
            queue: VecDeque::new(),
            uploads: VecDeque::new(),
            per_prefix: HashMap::new(),
            count: 0,
        }
    }

    pub(super) const fn count(&self) -> usize {
        self.count
    }

    /// The limit that another transfer from `peer` would exceed, if any.
    pub(super) fn limit_reached(&self, peer: IpAddr) -> Option<Limit> {
        let prefix = self.per_prefix.get(&prefix_of(peer));
        if prefix.is_some_and(|prefix| prefix.count >= self.per_prefix_max) {
            Some(Limit::UnvalidatedPerPrefix)
        } else {
            (self.count >= self.max).then_some(Limit::Unvalidated)
        }
    }

    /// The oldest transfer whose eviction would make room under `limit` for another from `peer`, if one has
    /// had time to be validated. `waiting_since` returns when a transfer was requested, if it still exists
    /// and is still unvalidated.
    pub(super) fn oldest(
        &mut self,
        limit: Limit,
        peer: IpAddr,
        waiting_since: impl Fn(SlotId) -> Option<Instant>,
        now: Instant,
    ) -> Option<SlotId> {
        let queue = match limit {
            Limit::Transfers | Limit::Unvalidated => &mut self.queue,
            Limit::UnvalidatedPerPrefix => &mut self.per_prefix.get_mut(&prefix_of(peer))?.queue,
            Limit::Uploads => &mut self.uploads,
        };
        while let Some(&id) = queue.front() {
            let since = waiting_since(id);
            // All transfers behind it are younger.
            if since.is_some_and(|since| now - since < config::UNVALIDATED_AGE_MIN) {
                return None;
            }
            queue.pop_front();
            if since.is_some() {
                return Some(id);
            }
        }
        None
    }

    pub(super) fn enter(
        &mut self,
        id: SlotId,
        peer: IpAddr,
        is_upload: bool,
        is_waiting: impl Fn(SlotId) -> bool,
    ) {
        self.count += 1;
        let prefix = self.per_prefix.entry(prefix_of(peer)).or_default();
        prefix.count += 1;
        prefix.queue.push_back(id);
        self.queue.push_back(id);
        // Transfers that have left stay in the queues: sweep when they are the majority.
        if prefix.queue.len() > 2 * prefix.count as usize + 16 {
            prefix.queue.retain(|&id| is_waiting(id));
        }
        if self.queue.len() > 2 * self.count + 64 {
            self.queue.retain(|&id| is_waiting(id));
        }
        if is_upload {
            self.uploads.push_back(id);
            if self.uploads.len() > 2 * config::UPLOADS_MAX {
                self.uploads.retain(|&id| is_waiting(id));
            }
        }
    }

    /// A transfer from `peer` was validated or has ended.
    pub(super) fn leave(&mut self, peer: IpAddr) {
        self.count = self.count.saturating_sub(1);
        let key = prefix_of(peer);
        if let Some(prefix) = self.per_prefix.get_mut(&key) {
            prefix.count = prefix.count.saturating_sub(1);
            if prefix.count == 0 {
                self.per_prefix.remove(&key);
            }
        }
    }
}

/// The prefix that one client may control: an IPv4 address, or an IPv6 /64.
fn prefix_of(peer: IpAddr) -> IpAddr {
    match peer {
        IpAddr::V4(_) => peer,
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() >> 64 << 64).into()),
    }
}

/// A rate limit per second, with a burst of at most one second's worth.
#[derive(Debug)]
pub(super) struct Budget {
    per_second: u32,
    left: u32,
    since: Instant,
    /// How often the budget was exhausted since [`Budget::take_denied`].
    denied: u64,
}

impl Budget {
    pub(super) const fn new(per_second: u32) -> Self {
        Self {
            per_second,
            left: per_second,
            since: Instant::ZERO,
            denied: 0,
        }
    }

    /// Spends one unit, if any is left.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        if now - self.since >= Duration::from_secs(1) {
            self.since = now;
            self.left = self.per_second;
        }
        if self.left == 0 {
            self.denied += 1;
            return false;
        }
        self.left -= 1;
        true
    }

    /// How often the budget was exhausted since the last call.
    pub(super) const fn take_denied(&mut self) -> u64 {
        std::mem::replace(&mut self.denied, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: who comes and goes leaves nothing in the queues, even while another of its address stays.
    #[test]
    fn queues_are_swept() {
        let mut unvalidated = Unvalidated::new(1_000, 1_000);
        let stays = SlotId::of_ticket(crate::store::Ticket(0));
        let leaves = SlotId::of_ticket(crate::store::Ticket(1));
        let (peer, other): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        unvalidated.enter(stays, peer, false, |id| id == stays);
        unvalidated.enter(stays, other, false, |id| id == stays);
        for _ in 0..100_000 {
            unvalidated.enter(leaves, peer, false, |id| id == stays);
            unvalidated.leave(peer);
        }
        let prefix = &unvalidated.per_prefix[&peer];
        assert_eq!((prefix.count, unvalidated.count()), (1, 2));
        assert!(prefix.queue.len() <= 32, "{}", prefix.queue.len());
        assert!(
            unvalidated.queue.len() <= 128,
            "{}",
            unvalidated.queue.len()
        );
        unvalidated.leave(peer);
        unvalidated.leave(other);
        assert!(unvalidated.per_prefix.is_empty());
    }
}
