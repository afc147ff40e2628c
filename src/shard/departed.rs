//! Clients whose transfer an ERROR has just ended: their packets still in flight do not come from strangers.

use crate::config;
use crate::time::Instant;

/// The most recent of them, each at the index given by its hash; a new entry overwrites an old one.
#[derive(Debug)]
pub(super) struct Departed(Box<[Option<(u64, Instant)>]>);

impl Departed {
    pub(super) fn new() -> Self {
        Self(vec![None; config::DEPARTED_MAX].into_boxed_slice())
    }

    /// An ERROR was sent to or received from the client with this hash.
    pub(super) fn enter(&mut self, client: u64, now: Instant) {
        *self.place(client) = Some((client, now));
    }

    /// Whether that was so recent that more of its packets may be in flight.
    pub(super) fn holds(&mut self, client: u64, now: Instant) -> bool {
        self.place(client)
            .is_some_and(|(departed, at)| departed == client && now - at < config::LINGER_READ)
    }

    fn place(&mut self, client: u64) -> &mut Option<(u64, Instant)> {
        &mut self.0[client as usize % config::DEPARTED_MAX]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Duration;

    #[test]
    fn the_latest_are_known_for_a_while() {
        let at = |millis| Instant::ZERO + Duration::from_millis(millis);
        let mut departed = Departed::new();
        let other = 1 + config::DEPARTED_MAX as u64;
        departed.enter(1, at(0));
        assert!(departed.holds(1, at(999)));
        assert!(!departed.holds(1, at(1_000)));
        assert!(!departed.holds(2, at(0)));
        assert!(!departed.holds(other, at(0)));
        departed.enter(other, at(5));
        assert!(departed.holds(other, at(5)));
        assert!(!departed.holds(1, at(5)), "its place was needed");
    }
}
