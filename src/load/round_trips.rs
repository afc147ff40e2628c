//! Round trips of blocks when the clients hold packets back themselves: from the time a packet was
//! actually sent to the time its answer actually arrived, so that they measure the server and the network
//! only.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::engine::{Path, SocketId};
use crate::metrics::Latency;
use crate::time::Instant;

/// The clients' outstanding packets, and the response times.
#[derive(Debug, Default)]
pub(super) struct RoundTrips {
    waiting: HashMap<Client, Waiting>,
    took: Latency,
}

/// The source of a client's packets, which no other client uses meanwhile.
type Client = (SocketId, Option<IpAddr>);

/// A client whose request has been sent.
#[derive(Debug, Clone, Copy, Default)]
struct Waiting {
    /// The newest of its blocks, or of its ACKs.
    newest: Option<u16>,
    /// When that was sent. `None` if it was answered, or sent again: an answer could then belong to
    /// either.
    left: Option<Instant>,
}

impl RoundTrips {
    /// The response times.
    pub(super) const fn took(&self) -> &Latency {
        &self.took
    }

    /// Records a sent packet.
    pub(super) fn left(&mut self, socket: SocketId, path: &Path, packet: &[u8], now: Instant) {
        let client = (socket, path.local.address);
        let sent = match packet {
            [0, 1 | 2, ..] => {
                self.waiting.insert(client, Waiting::default());
                return;
            }
            [0, 3 | 4, high, low, ..] => u16::from_be_bytes([*high, *low]),
            _ => return,
        };
        // Repeats from a finished client are ignored.
        let Some(waiting) = self.waiting.get_mut(&client) else {
            return;
        };
        // Numbers wrap: one that is behind by less than half of the range is older.
        let ahead = |newest: u16| (1..0x8000).contains(&sent.wrapping_sub(newest));
        if waiting.newest.is_none_or(ahead) {
            *waiting = Waiting {
                newest: Some(sent),
                left: Some(now),
            };
        } else {
            waiting.left = None;
        }
    }

    /// Records a received packet.
    pub(super) fn came(&mut self, socket: SocketId, path: &Path, packet: &[u8], now: Instant) {
        let answers = match packet {
            // A block answers the ACK of the block before it.
            [0, 3, high, low, ..] => u16::from_be_bytes([*high, *low]).wrapping_sub(1),
            [0, 4, high, low, ..] => u16::from_be_bytes([*high, *low]),
            _ => return,
        };
        if let Some(waiting) = self.waiting.get_mut(&(socket, path.local.address))
            && waiting.newest == Some(answers)
            && let Some(left) = waiting.left.take()
        {
            self.took.record(now - left);
        }
    }

    /// Forgets a finished client.
    pub(super) fn forget(&mut self, socket: SocketId, address: Option<IpAddr>) {
        self.waiting.remove(&(socket, address));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Local;
    use crate::time::Duration;

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    /// The measurements of a dialogue: when each packet passed, whether it was received, its opcode and
    /// number.
    fn measured(dialogue: &[(u64, bool, u8, u16)]) -> Vec<u64> {
        let socket = SocketId(0);
        let path = Path {
            peer: ([127, 0, 0, 1], 69).into(),
            local: Local {
                address: None,
                interface: 0,
            },
        };
        let mut round_trips = RoundTrips::default();
        for &(time, came, opcode, number) in dialogue {
            let [high, low] = number.to_be_bytes();
            let packet = [0, opcode, high, low];
            if came {
                round_trips.came(socket, &path, &packet, at(time));
            } else {
                round_trips.left(socket, &path, &packet, at(time));
            }
        }
        let took = round_trips.took().percentiles(1);
        let mut millis: Vec<_> = took.map(|(time, ..)| time.as_millis() as u64).collect();
        millis.dedup();
        millis
    }

    #[test]
    fn a_read_is_timed_from_ack_to_block() {
        let read = [
            (0, false, 1, 0),
            (5, true, 3, 1),
            (100, false, 4, 1),
            (107, true, 3, 2),
            (108, true, 3, 2),
        ];
        assert_eq!(measured(&read), [7]);
        // A client whose request was not seen is ignored.
        assert_eq!(measured(&read[1..]), [0; 0]);
    }

    #[test]
    fn a_write_is_timed_from_the_last_block_of_a_window() {
        let write = [
            (0, false, 2, 0),
            (1, true, 4, 0),
            (10, false, 3, 1),
            (20, false, 3, 2),
            (21, true, 4, 1),
            (29, true, 4, 2),
        ];
        assert_eq!(measured(&write), [9]);
    }

    #[test]
    fn what_left_twice_measures_nothing() {
        let repeated = [
            (0, false, 1, 0),
            (10, false, 4, 0xffff),
            (20, false, 4, 0xffff),
            (30, true, 3, 0),
            (40, false, 4, 0),
            (43, true, 3, 1),
        ];
        assert_eq!(measured(&repeated), [3], "and numbers wrap");
    }
}
