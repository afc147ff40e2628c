//! How a transfer ended: an ordinary value, not an error.

use std::fmt;

use crate::wire::ErrorCode;

/// How a transfer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Every octet arrived, and both ends know.
    Complete,
    /// The peer sent ERROR.
    PeerError(ErrorCode),
    /// The peer gave up right after the OACK, as a client does that only asked for the size.
    Probed,
    /// The peer fell silent.
    TimedOut,
    /// The peer never proved that it exists.
    Unanswered,
    /// This end gave up and sent ERROR.
    Refused(ErrorCode),
    /// The peer started again: a rebooted client.
    Replaced,
    /// Evicted in favour of newer requests, before the peer was validated.
    Evicted,
    /// This end is shutting down.
    Stopped,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Complete => f.write_str("complete"),
            Self::PeerError(code) => write!(f, "peer error {code}"),
            Self::Probed => f.write_str("size probe"),
            Self::TimedOut => f.write_str("timed out"),
            Self::Unanswered => f.write_str("unanswered"),
            Self::Refused(code) => write!(f, "refused with error {code}"),
            Self::Replaced => f.write_str("replaced"),
            Self::Evicted => f.write_str("evicted"),
            Self::Stopped => f.write_str("stopped"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_words_of_its_own() {
        let shown = [
            (Outcome::Complete, "complete"),
            (Outcome::PeerError(ErrorCode::DISK_FULL), "peer error 3"),
            (Outcome::Probed, "size probe"),
            (Outcome::TimedOut, "timed out"),
            (Outcome::Unanswered, "unanswered"),
            (Outcome::Refused(ErrorCode::ILLEGAL), "refused with error 4"),
            (Outcome::Replaced, "replaced"),
            (Outcome::Evicted, "evicted"),
            (Outcome::Stopped, "stopped"),
        ];
        for (outcome, words) in shown {
            assert_eq!(outcome.to_string(), words);
        }
    }
}
