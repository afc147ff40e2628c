//! A transfer in either direction: the five methods by which a shard drives it.
//!
//! The contract: after each `handle_*`, call [`Transfer::poll_transmit`] until it returns `None`, reporting
//! to [`Transfer::transmitted`] what was sent; then set a timer for [`Transfer::poll_timeout`], and check
//! whether there is an [`Transfer::outcome`].

use super::negotiate::Params;
use super::outcome::Outcome;
use super::receiver::Receiver;
use super::sender::Sender;
use super::transmit::Transmit;
use crate::time::Instant;
use crate::wire::ErrorCode;

/// A transfer in either direction.
#[derive(Debug)]
// Nearly every transfer of a busy server is a read, so boxing those would only add an indirection.
#[allow(clippy::large_enum_variant)]
pub enum Transfer {
    /// This end sends the file.
    Send(Sender),
    /// This end receives the file. Boxed, because most transfers of a busy server are reads, and need not be
    /// as large as this.
    Receive(Box<Receiver>),
}

impl Transfer {
    /// Handles an ERROR.
    pub fn handle_error(&mut self, code: ErrorCode) {
        match self {
            Self::Send(sender) => sender.handle_error(code),
            Self::Receive(receiver) => receiver.handle_error(code),
        }
    }

    /// Handles the expiry of the time that [`Transfer::poll_timeout`] returned.
    pub fn handle_timeout(&mut self, now: Instant) {
        match self {
            Self::Send(sender) => sender.handle_timeout(now),
            Self::Receive(receiver) => receiver.handle_timeout(now),
        }
    }

    /// What to send next; at most `segments` blocks at once.
    #[must_use]
    pub fn poll_transmit(&self, segments: u64) -> Option<Transmit> {
        match self {
            Self::Send(sender) => sender.poll_transmit(segments),
            Self::Receive(receiver) => receiver.poll_transmit(),
        }
    }

    /// Records that `count` of the described datagrams were sent.
    pub fn transmitted(&mut self, count: u64, now: Instant) {
        match self {
            Self::Send(sender) => sender.transmitted(count, now),
            Self::Receive(receiver) => receiver.transmitted(count, now),
        }
    }

    /// When to call again, if nothing arrives first.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self {
            Self::Send(sender) => sender.poll_timeout(),
            Self::Receive(receiver) => receiver.poll_timeout(),
        }
    }

    /// How the transfer ended, once it has.
    #[must_use]
    pub const fn outcome(&self) -> Option<Outcome> {
        match self {
            Self::Send(sender) => sender.outcome(),
            Self::Receive(receiver) => receiver.outcome(),
        }
    }

    /// The terms.
    #[must_use]
    pub const fn params(&self) -> &Params {
        match self {
            Self::Send(sender) => sender.params(),
            Self::Receive(receiver) => receiver.params(),
        }
    }

    /// Whether the peer is validated: it has proved that it exists.
    #[must_use]
    pub const fn is_validated(&self) -> bool {
        match self {
            Self::Send(sender) => sender.is_validated(),
            Self::Receive(receiver) => receiver.is_validated(),
        }
    }

    /// When the peer last advanced the transfer; initially, when the transfer began.
    #[must_use]
    pub const fn moved_at(&self) -> Instant {
        match self {
            Self::Send(sender) => sender.moved_at(),
            Self::Receive(receiver) => receiver.moved_at(),
        }
    }

    /// Number of datagrams retransmitted.
    #[must_use]
    pub const fn retransmissions(&self) -> u64 {
        match self {
            Self::Send(sender) => sender.retransmissions(),
            Self::Receive(receiver) => receiver.retransmissions(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::timing::Patience;
    use crate::time::Duration;
    use crate::wire::WireBlock;

    /// Goal: a transfer returns the same as its sender or receiver. Method: each advances once, retransmits
    /// once and is then ended by its peer.
    #[test]
    fn both_ways_tell_the_same() {
        let at = |secs| Instant::ZERO + Duration::from_secs(secs);
        let patience = Patience::DEFAULT;
        let mut sender = Sender::answer(Params::RFC1350, 2000, false, patience, at(0));
        sender.transmitted(1, at(0));
        sender.handle_ack(WireBlock(1), at(1));
        let mut receiver = Receiver::answer(Params::RFC1350, false, patience, at(0));
        receiver.transmitted(1, at(0));
        receiver.handle_data(WireBlock(1), 512, at(1));
        for mut transfer in [
            Transfer::Send(sender),
            Transfer::Receive(Box::new(receiver)),
        ] {
            assert!(transfer.is_validated());
            assert_eq!(transfer.moved_at(), at(1));
            assert!(transfer.poll_transmit(1).is_some());
            transfer.transmitted(1, at(1));
            assert_eq!(transfer.poll_transmit(1), None);
            assert_eq!(transfer.retransmissions(), 0);
            let overdue = transfer.poll_timeout().expect("it waits");
            transfer.handle_timeout(overdue);
            assert!(transfer.poll_transmit(1).is_some());
            transfer.transmitted(1, overdue);
            assert_eq!(transfer.retransmissions(), 1);
            assert_eq!(transfer.outcome(), None);
            transfer.handle_error(ErrorCode::DISK_FULL);
            transfer.handle_error(ErrorCode::ILLEGAL);
            assert_eq!(
                transfer.outcome(),
                Some(Outcome::PeerError(ErrorCode::DISK_FULL)),
                "the first counts"
            );
            assert_eq!(transfer.poll_timeout(), None);
        }
    }
}
