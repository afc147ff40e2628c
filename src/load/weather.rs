//! Impairments and slowness that the clients simulate themselves, so that any server can be tested
//! without touching the network: an engine that wraps another one.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::task::Waker;

use super::profile::{Flash, Profile};
use super::round_trips::RoundTrips;
use crate::engine::{Bind, Datagram, Engine, Inbox, Path, Payload, Sent, SocketId, Statistics};
use crate::proto::timing::earlier;
use crate::store::Burst;
use crate::time::{Duration, Instant};

/// The impairment of the clients' packets, in both directions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Weather {
    /// The probability that a DATA or ACK packet is lost.
    pub loss: f64,
    /// The probability that a DATA or ACK packet arrives twice.
    pub duplicate: f64,
    /// The probability that a DATA or ACK packet is held back for 2 ms, so that later ones overtake it.
    pub reorder: f64,
    /// The minimum and maximum delay of every packet, in addition to the network's.
    pub delay: (Duration, Duration),
}

impl Weather {
    /// No impairment.
    pub const FAIR: Self = Self {
        loss: 0.0,
        duplicate: 0.0,
        reorder: 0.0,
        delay: (Duration::ZERO, Duration::ZERO),
    };
}

/// How long a reordered packet is held back: by then, a burst on a fast network is over.
const REORDERED_FOR: Duration = Duration::from_millis(2);
/// How long a server may take to read the last ACK and stop retransmitting.
const SERVER_TAKES: Duration = Duration::from_millis(100);
/// The first octets of an ACK packet.
const ACK: [u8; 2] = [0, 4];
/// The first octets of a DATA packet.
const DATA: [u8; 2] = [0, 3];

/// Octets of a DATA packet before its block.
const DATA_HEADER_OCTETS: usize = 4;

/// What happens to the packets of a socket.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Conditions {
    weather: Weather,
    /// How long each ACK is delayed before it is sent.
    slow: Duration,
    /// The longer delay of some ACKs, as for writes to flash memory.
    flash: Option<Flash>,
}

impl Conditions {
    /// The conditions for clients of this profile.
    pub(super) const fn new(weather: Weather, profile: &Profile) -> Self {
        Self {
            weather,
            slow: profile.slow,
            flash: profile.flash,
        }
    }

    /// Whether no packet is affected.
    pub(super) fn are_fair(&self) -> bool {
        self.weather == Weather::FAIR && self.slow.is_zero() && self.flash.is_none()
    }

    /// How long after a client's last ACK packets of its transfer may still arrive, if the network itself
    /// loses and delays nothing. `None` if the ACK may be lost, so that the server retransmits.
    pub(super) fn aftermath(&self) -> Option<Duration> {
        if self.are_fair() {
            return Some(Duration::ZERO);
        }
        let flash = self.flash.map_or(Duration::ZERO, |flash| flash.pause);
        let way = self.weather.delay.1 + REORDERED_FOR;
        (self.weather.loss == 0.0).then(|| self.slow + flash + way * 2 + SERVER_TAKES)
    }

    /// How long the client delays a packet before it is sent.
    fn pause(&self, packet: &[u8]) -> Duration {
        let Some((&ACK, &[high, low, ..])) = packet.split_first_chunk() else {
            return Duration::ZERO;
        };
        let block = u16::from_be_bytes([high, low]);
        let flash = self.flash.filter(|flash| {
            // ACK 0 acknowledges an OACK, before there is anything to write.
            block > 0 && block.is_multiple_of(flash.blocks.max(1))
        });
        self.slow + flash.map_or(Duration::ZERO, |flash| flash.pause)
    }
}

/// How many packets were affected, by impairment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Disturbed {
    /// Lost.
    pub lost: u64,
    /// Sent or delivered twice.
    pub duplicated: u64,
    /// Held back so that later packets overtake them.
    pub reordered: u64,
    /// Delayed by the configured impairment.
    pub delayed: u64,
}

impl Disturbed {
    /// Adds another thread's counts to these.
    pub(super) const fn merge(&mut self, other: &Self) {
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.delayed += other.delayed;
    }
}

/// An engine that impairs the packets of its sockets and counts what passes.
#[derive(Debug)]
pub(super) struct Weathered<E> {
    engine: E,
    /// The conditions of the sockets whose packets are affected.
    conditions: HashMap<SocketId, Conditions>,
    random: fastrand::Rng,
    /// Held packets, the earliest due first.
    held: BinaryHeap<Reverse<Held>>,
    /// Counts held packets, so that packets due at the same time stay in order.
    number: u64,
    disturbed: Disturbed,
    passed: Passed,
    /// Round trips of the clients whose packets are held back.
    round_trips: RoundTrips,
}

/// Octets of blocks that passed so far, repeats included.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Passed {
    pub(super) received: u64,
    pub(super) sent: u64,
}

/// A held packet.
#[derive(Debug)]
struct Held {
    due: Instant,
    number: u64,
    /// Whether it was received and waits for delivery; otherwise it waits to be sent.
    came: bool,
    socket: SocketId,
    path: Path,
    octets: Box<[u8]>,
}

/// What is to happen to a packet: the delay of the packet, unless it is lost, and that of its second
/// copy.
#[derive(Debug, Clone, Copy)]
struct Fate {
    first: Option<Duration>,
    second: Option<Duration>,
    disturbed: Disturbed,
}

impl<E: Engine> Weathered<E> {
    pub(super) fn new(engine: E, random: fastrand::Rng) -> Self {
        Self {
            engine,
            conditions: HashMap::new(),
            random,
            held: BinaryHeap::new(),
            number: 0,
            disturbed: Disturbed::default(),
            passed: Passed::default(),
            round_trips: RoundTrips::default(),
        }
    }

    /// Sets what happens to the packets of a socket from now on.
    pub(super) fn set(&mut self, socket: SocketId, conditions: Conditions) {
        if conditions.are_fair() {
            self.conditions.remove(&socket);
        } else {
            self.conditions.insert(socket, conditions);
        }
    }

    /// Octets of blocks received and sent so far.
    pub(super) const fn passed(&self) -> Passed {
        self.passed
    }

    /// The packets affected so far.
    pub(super) const fn disturbed(&self) -> Disturbed {
        self.disturbed
    }

    /// The round trips of clients whose packets are held back.
    pub(super) const fn round_trips(&mut self) -> &mut RoundTrips {
        &mut self.round_trips
    }

    /// Whether packets are held.
    pub(super) fn holds_any(&self) -> bool {
        !self.held.is_empty()
    }

    /// The wrapped engine, for what only it can do.
    pub(super) const fn inner_mut(&mut self) -> &mut E {
        &mut self.engine
    }

    /// Decides what is to happen to a packet.
    fn fate(&mut self, weather: &Weather, packet: &[u8]) -> Fate {
        let random = &mut self.random;
        let mut disturbed = Disturbed::default();
        let may = packet.starts_with(&DATA) || packet.starts_with(&ACK);
        let mut happens = |probability: f64| may && probability > 0.0 && random.f64() < probability;
        if happens(weather.loss) {
            disturbed.lost = 1;
            return Fate {
                first: None,
                second: None,
                disturbed,
            };
        }
        let (twice, late) = (happens(weather.duplicate), happens(weather.reorder));
        let mut delay = || {
            let (least, most) = weather.delay;
            let span = most.saturating_sub(least);
            if span.is_zero() {
                least
            } else {
                least + span.mul_f64(random.f64())
            }
        };
        disturbed.delayed = u64::from(!weather.delay.1.is_zero());
        disturbed.duplicated = u64::from(twice);
        disturbed.reordered = u64::from(late);
        let held_back = if late { REORDERED_FOR } else { Duration::ZERO };
        Fate {
            first: Some(delay() + held_back),
            second: twice.then(delay),
            disturbed,
        }
    }

    /// Holds a packet back.
    fn hold(&mut self, after: Duration, came: bool, datagram: (SocketId, &Path, &[u8])) {
        self.number += 1;
        let (socket, path, octets) = datagram;
        self.held.push(Reverse(Held {
            due: self.engine.now() + after,
            number: self.number,
            came,
            socket,
            path: *path,
            octets: octets.into(),
        }));
    }

    /// Measures response times, before the impairments apply.
    fn time(&mut self, inbox: &Inbox) {
        let now = self.engine.now();
        let came = (0..inbox.len()).filter_map(|place| inbox.get(place));
        for datagram in came.filter(|datagram| self.conditions.contains_key(&datagram.socket)) {
            let Datagram { socket, octets, .. } = datagram;
            self.round_trips.came(socket, &datagram.path, octets, now);
        }
    }

    /// Applies impairments to received packets; removes those that are to be held back.
    fn disturb(&mut self, inbox: &mut Inbox) {
        inbox.retain(|datagram| {
            let &Datagram {
                socket,
                ref path,
                broadcast,
                octets,
            } = datagram;
            let conditions = self.conditions.get(&socket);
            let Some(weather) = conditions.map(|conditions| conditions.weather) else {
                return true;
            };
            if broadcast || weather == Weather::FAIR {
                return true;
            }
            let fate = self.fate(&weather, octets);
            self.disturbed.merge(&fate.disturbed);
            let waits = fate.first.filter(|after| !after.is_zero());
            for after in [waits, fate.second].into_iter().flatten() {
                self.hold(after, true, (socket, path, octets));
            }
            fate.first.is_some_and(|after| after.is_zero())
        });
    }

    /// Sends packets, and counts them.
    fn pass(&mut self, socket: SocketId, path: &Path, payload: Payload<'_>) -> Sent {
        let sent = self.engine.send(socket, path, payload);
        if let Sent::Datagrams(count) = sent {
            self.passed.sent += block_octets(&payload.burst().split_at(count).0);
        }
        sent
    }

    /// Releases packets that are due.
    fn release(&mut self, inbox: &mut Inbox) {
        let now = self.engine.now();
        while let Some(Reverse(held)) = self.held.peek()
            && held.due <= now
        {
            let Held {
                came,
                socket,
                path,
                octets,
                ..
            } = held;
            if *came {
                let Some(room) = inbox.room() else {
                    return;
                };
                room[..octets.len()].copy_from_slice(octets);
                inbox.push(*socket, *path, false, octets.len());
            } else {
                // A packet for which there is no room is lost, as on the network.
                if let Sent::Datagrams(_) = self.engine.send(*socket, path, Payload::Packet(octets))
                {
                    self.passed.sent += block_octets(&Burst::single(octets));
                    self.round_trips.left(*socket, path, octets, now);
                }
            }
            self.held.pop();
        }
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
        self.conditions.remove(&socket);
        self.held.retain(|Reverse(held)| held.socket != socket);
        self.engine.close(socket);
    }

    fn local_addr(&self, socket: SocketId) -> io::Result<SocketAddr> {
        self.engine.local_addr(socket)
    }

    fn mtu(&mut self, interface: u32) -> Option<u32> {
        self.engine.mtu(interface)
    }

    fn send(&mut self, socket: SocketId, path: &Path, payload: Payload<'_>) -> Sent {
        let Some(&conditions) = self.conditions.get(&socket) else {
            return self.pass(socket, path, payload);
        };
        let burst = payload.burst();
        let octets = burst.to_contiguous();
        let mut left = 0;
        for packet in octets.chunks(burst.segment().max(1)) {
            let fate = self.fate(&conditions.weather, packet);
            let pause = conditions.pause(packet);
            match fate.first.map(|after| after + pause) {
                Some(after) if after.is_zero() => {
                    match self.pass(socket, path, Payload::Packet(packet)) {
                        Sent::Datagrams(_) => {
                            let now = self.engine.now();
                            self.round_trips.left(socket, path, packet, now);
                        }
                        stopped if left == 0 => return stopped,
                        _ => break,
                    }
                }
                Some(after) => self.hold(after, false, (socket, path, packet)),
                None => {}
            }
            if let Some(after) = fate.second {
                self.hold(after + pause, false, (socket, path, packet));
            }
            self.disturbed.merge(&fate.disturbed);
            left += 1;
        }
        Sent::Datagrams(left)
    }

    fn holds_back(&self, socket: SocketId) -> bool {
        self.conditions.contains_key(&socket)
    }

    fn has_room(&self, socket: SocketId) -> bool {
        self.engine.has_room(socket)
    }

    fn waker(&self) -> Waker {
        self.engine.waker()
    }

    fn wait(&mut self, until: Option<Instant>, inbox: &mut Inbox) -> io::Result<()> {
        let release = self.held.peek().map(|Reverse(held)| held.due);
        self.engine.wait(earlier(until, release), inbox)?;
        if !self.conditions.is_empty() {
            self.time(inbox);
            self.disturb(inbox);
            self.release(inbox);
        }
        let came = (0..inbox.len()).filter_map(|place| inbox.get(place));
        self.passed.received += came
            .map(|datagram| block_octets(&Burst::single(datagram.octets)))
            .sum::<u64>();
        Ok(())
    }

    fn receive_drops(&self) -> u64 {
        self.engine.receive_drops()
    }

    fn gso(&self) -> bool {
        self.engine.gso()
    }

    fn statistics(&self) -> Statistics {
        self.engine.statistics()
    }

    fn receive_buffer(&self, socket: SocketId) -> io::Result<usize> {
        self.engine.receive_buffer(socket)
    }
}

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        (self.due, self.number) == (other.due, other.number)
    }
}

impl Eq for Held {}

impl PartialOrd for Held {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Held {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.number).cmp(&(other.due, other.number))
    }
}

/// The octets of blocks in DATA packets; other packets have none.
fn block_octets(burst: &Burst<'_>) -> u64 {
    // Only DATA packets are ever gathered.
    let octets = burst.as_contiguous();
    if octets.is_some_and(|octets| !octets.starts_with(&DATA)) {
        return 0;
    }
    let headers = burst.count() * DATA_HEADER_OCTETS;
    burst.total().saturating_sub(headers) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_blocks_count() {
        let data = [&DATA[..], &[0, 1], &[7; 10]].concat();
        let row = [&data[..], &data[..], &data[..9]].concat();
        let single = |octets| block_octets(&Burst::single(octets));
        assert_eq!(single(&data), 10);
        let row = Burst::contiguous(&row, data.len());
        assert_eq!(block_octets(&row), 10 + 10 + 5);
        assert_eq!(block_octets(&row.split_at(2).0), 10 + 10);
        assert_eq!(single(&[0, 3]), 0, "cut short");
        assert_eq!(single(&[0, 4, 0, 1]), 0, "an ACK");
        assert_eq!(single(&[]), 0);
    }
}
