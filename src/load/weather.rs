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

/// An engine that loses DATA and ACK packets on both ways, and lets ACKs wait.
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
        }
    }

    /// Packets lost so far.
    pub(super) const fn lost(&self) -> u64 {
        self.lost
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
        if self.loss > 0.0 {
            return self.send_singly(socket, path, &payload);
        }
        self.engine.send(socket, path, payload)
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
        Ok(())
    }

    fn receive_drops(&self) -> u64 {
        self.engine.receive_drops()
    }
}
