//! Loss and slowness that the clients make themselves, so that any server can be tried without a hand
//! on the network: an engine around another one.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::task::Waker;

use crate::engine::{Bind, Engine, Inbox, Path, Payload, Sent, SocketId};
use crate::proto::timing::earlier;
use crate::time::{Duration, Instant};

/// The first octets of ACK.
const ACK: [u8; 2] = [0, 4];
/// The first octets of DATA.
const DATA: [u8; 2] = [0, 3];

/// Octets of a DATA packet before its block.
const DATA_HEADER_OCTETS: usize = 4;

/// An engine that loses DATA and ACK packets on both ways, lets ACKs wait, and counts what passes.
#[derive(Debug)]
pub(super) struct Weathered<E> {
    engine: E,
    /// The probability that a packet is lost.
    loss: f64,
    /// How long an ACK waits before it leaves.
    slow: Duration,
    random: fastrand::Rng,
    /// ACKs that wait, and until when.
    held: VecDeque<(Instant, SocketId, Path, Box<[u8]>)>,
    lost: u64,
    passed: Passed,
}

/// Octets of blocks that passed so far, repeats included.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Passed {
    pub(super) received: u64,
    pub(super) sent: u64,
}

impl<E: Engine> Weathered<E> {
    pub(super) const fn new(engine: E, loss: f64, slow: Duration, random: fastrand::Rng) -> Self {
        Self {
            engine,
            loss,
            slow,
            random,
            held: VecDeque::new(),
            lost: 0,
            passed: Passed {
                received: 0,
                sent: 0,
            },
        }
    }

    /// Packets lost so far.
    pub(super) const fn lost(&self) -> u64 {
        self.lost
    }

    /// Octets of blocks that came and left so far.
    pub(super) const fn passed(&self) -> Passed {
        self.passed
    }

    /// Whether a packet that begins so is lost.
    fn loses(&mut self, octets: &[u8]) -> bool {
        let may = octets.starts_with(&DATA) || octets.starts_with(&ACK);
        let lost = self.loss > 0.0 && may && self.random.f64() < self.loss;
        self.lost += u64::from(lost);
        lost
    }

    /// Sends the packets of a burst that are not lost, one by one.
    fn send_singly(&mut self, socket: SocketId, path: &Path, payload: &Payload<'_>) -> Sent {
        let (octets, segment) = payload.segments();
        let mut left = 0;
        for packet in octets.chunks(segment.max(1)) {
            if !self.loses(packet) {
                match self.engine.send(socket, path, Payload::Packet(packet)) {
                    Sent::Datagrams(_) => {}
                    stopped if left == 0 => return stopped,
                    _ => break,
                }
            }
            left += 1;
        }
        Sent::Datagrams(left)
    }
}

impl<E: Engine> Engine for Weathered<E> {
    fn name(&self) -> &'static str {
        self.engine.name()
    }

    fn now(&self) -> Instant {
        self.engine.now()
    }

    fn open(&mut self, bind: Bind) -> io::Result<SocketId> {
        self.engine.open(bind)
    }

    fn close(&mut self, socket: SocketId) {
        self.held.retain(|held| held.1 != socket);
        self.engine.close(socket);
    }

    fn local_addr(&self, socket: SocketId) -> io::Result<SocketAddr> {
        self.engine.local_addr(socket)
    }

    fn mtu(&mut self, interface: u32) -> Option<u32> {
        self.engine.mtu(interface)
    }

    fn send(&mut self, socket: SocketId, path: &Path, payload: Payload<'_>) -> Sent {
        if let Payload::Packet(octets) = payload
            && !self.slow.is_zero()
            && octets.starts_with(&ACK)
        {
            let until = self.engine.now() + self.slow;
            self.held.push_back((until, socket, *path, octets.into()));
            return Sent::Datagrams(1);
        }
        let sent = if self.loss > 0.0 {
            self.send_singly(socket, path, &payload)
        } else {
            self.engine.send(socket, path, payload)
        };
        if let Sent::Datagrams(count) = sent {
            let (octets, segment) = payload.segments();
            let left = octets.len().min(count * segment);
            self.passed.sent += block_octets(&octets[..left], segment);
        }
        sent
    }

    fn waker(&self) -> Waker {
        self.engine.waker()
    }

    fn wait(&mut self, until: Option<Instant>, inbox: &mut Inbox) -> io::Result<()> {
        let release = self.held.front().map(|held| held.0);
        self.engine.wait(earlier(until, release), inbox)?;
        let now = self.engine.now();
        while let Some((_, socket, path, ack)) = self.held.pop_front_if(|held| held.0 <= now) {
            // What finds no room is lost, as it would be on the way.
            if !self.loses(&ack) {
                let _ = self.engine.send(socket, &path, Payload::Packet(&ack));
            }
        }
        if self.loss > 0.0 {
            inbox.retain(|datagram| !self.loses(datagram.octets));
        }
        let came = (0..inbox.len()).filter_map(|place| inbox.get(place));
        self.passed.received += came
            .map(|datagram| block_octets(datagram.octets, datagram.octets.len()))
            .sum::<u64>();
        Ok(())
    }

    fn receive_drops(&self) -> u64 {
        self.engine.receive_drops()
    }
}

/// How much of DATA packets, `segment` octets each but the last, is blocks; nothing of other packets is.
fn block_octets(octets: &[u8], segment: usize) -> u64 {
    if !octets.starts_with(&DATA) {
        return 0;
    }
    let headers = octets.len().div_ceil(segment) * DATA_HEADER_OCTETS;
    octets.len().saturating_sub(headers) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_blocks_count() {
        let data = [&DATA[..], &[0, 1], &[7; 10]].concat();
        let row = [&data[..], &data[..], &data[..9]].concat();
        assert_eq!(block_octets(&data, data.len()), 10);
        assert_eq!(block_octets(&row, data.len()), 10 + 10 + 5);
        assert_eq!(block_octets(&[0, 3], 2), 0, "cut short");
        assert_eq!(block_octets(&[0, 4, 0, 1], 4), 0, "an ACK");
        assert_eq!(block_octets(&[], 0), 0);
    }
}
