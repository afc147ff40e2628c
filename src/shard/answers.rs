//! Which local addresses are answered from their own socket when requests are accepted at all of them.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::config;
use crate::engine::SocketId;
use crate::time::{Duration, Instant};

/// How long to wait before retrying a socket that could not be opened: ports and descriptors become free.
const RETRY_AFTER: Duration = Duration::from_secs(10);
/// An address unused for this long may be replaced by another.
const STALE_AFTER: Duration = Duration::from_secs(60);
/// Minimum time between two searches for such an address, because each examines every transfer.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The sockets by address, up to the configured maximum.
#[derive(Debug, Default)]
pub(super) struct Answers {
    places: HashMap<IpAddr, Place>,
    /// When an address to replace was last searched for.
    looked_at: Option<Instant>,
}

#[derive(Debug)]
struct Place {
    /// `None` if it could not be opened.
    socket: Option<SocketId>,
    /// When a request last used the address; if no socket could be opened, when that was.
    used_at: Instant,
}

/// What is known about an address.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    At(SocketId),
    /// Opening a socket failed a while ago.
    Nowhere,
    Unknown,
}

impl Answers {
    /// Looks up the socket for a request to this address.
    pub(super) fn find(&mut self, address: IpAddr, now: Instant) -> Found {
        let Some(place) = self.places.get_mut(&address) else {
            return Found::Unknown;
        };
        match place.socket {
            Some(socket) => {
                place.used_at = now;
                Found::At(socket)
            }
            None if now - place.used_at < RETRY_AFTER => Found::Nowhere,
            None => {
                self.places.remove(&address);
                Found::Unknown
            }
        }
    }

    /// Records the result of opening a socket.
    pub(super) fn keep(&mut self, address: IpAddr, socket: Option<SocketId>, now: Instant) {
        let used_at = now;
        self.places.insert(address, Place { socket, used_at });
    }

    /// Makes sure that there is a place for one more address; returns the socket to close for it, if any.
    /// `None` if all addresses were used recently, or the candidate is `in_use` by a transfer.
    pub(super) fn make_place(
        &mut self,
        in_use: impl Fn(SocketId) -> bool,
        now: Instant,
    ) -> Option<Option<SocketId>> {
        if self.places.len() < config::ANSWER_ADDRESSES_MAX {
            return Some(None);
        }
        if self.looked_at.is_some_and(|at| now - at < LOOK_EVERY) {
            return None;
        }
        self.looked_at = Some(now);
        let (&address, stalest) = self
            .places
            .iter_mut()
            .min_by_key(|(_, place)| place.used_at)?;
        if now - stalest.used_at < STALE_AFTER {
            return None;
        }
        if stalest.socket.is_some_and(in_use) {
            // A long transfer uses it: the next search examines another address.
            stalest.used_at = now;
            return None;
        }
        let place = self.places.remove(&address);
        place.map(|place| place.socket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: usize) -> IpAddr {
        IpAddr::from([127, 0, 0, last as u8])
    }

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    /// All places taken, one per second.
    fn taken() -> Answers {
        let mut answers = Answers::default();
        for number in 0..config::ANSWER_ADDRESSES_MAX {
            let now = at(number as u64);
            assert_eq!(answers.make_place(|_| false, now), Some(None));
            answers.keep(address(number), Some(SocketId(number as u32)), now);
        }
        answers
    }

    #[test]
    fn what_could_not_be_had_is_tried_again() {
        let mut answers = Answers::default();
        assert_eq!(answers.find(address(1), at(0)), Found::Unknown);
        answers.keep(address(1), None, at(0));
        assert_eq!(answers.find(address(1), at(9)), Found::Nowhere);
        assert_eq!(answers.find(address(1), at(10)), Found::Unknown);
        answers.keep(address(1), Some(SocketId(5)), at(10));
        assert_eq!(answers.find(address(1), at(11)), Found::At(SocketId(5)));
    }

    #[test]
    fn the_address_that_was_asked_at_the_longest_ago_makes_room() {
        let mut answers = taken();
        assert_eq!(answers.find(address(0), at(64)), Found::At(SocketId(0)));
        let all_of_use = at(1 + 59);
        assert_eq!(answers.make_place(|_| false, all_of_use), None);
        assert_eq!(
            answers.make_place(|_| false, at(64)),
            Some(Some(SocketId(1)))
        );
        assert_eq!(answers.find(address(1), at(64)), Found::Unknown);
        assert_eq!(
            answers.make_place(|_| false, at(64)),
            Some(None),
            "one place is free"
        );
    }

    #[test]
    fn a_socket_that_a_transfer_uses_stays() {
        let mut answers = taken();
        let in_use = |socket| socket == SocketId(0);
        assert_eq!(answers.make_place(in_use, at(100)), None);
        assert_eq!(
            answers.make_place(in_use, at(100)),
            None,
            "looked for just now"
        );
        assert_eq!(answers.make_place(in_use, at(101)), Some(Some(SocketId(1))));
        assert_eq!(answers.find(address(0), at(102)), Found::At(SocketId(0)));
    }
}
