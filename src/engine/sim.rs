//! The engine of the simulator: virtual time, and a network with seeded impairments ("weather").
//!
//! All engines of a [`Network`] share it. No call blocks: [`Engine::wait`] returns what has arrived, and the
//! simulation's driver moves the clock from one event to the next.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::task::Waker;

use super::{Bind, Engine, Inbox, Local, Path, Payload, Sent, SocketId, Statistics};
use crate::time::{Duration, Instant};
use crate::wire::Packet;

/// What a network does to datagrams. Probabilities are per datagram, from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Weather {
    /// Minimum one-way delay.
    pub delay: Duration,
    /// Random extra delay per datagram, up to this much; large values make datagrams overtake each other.
    pub jitter: Duration,
    /// Probability of loss.
    pub loss: f64,
    /// Probability that a loss burst begins: everything is lost until it ends.
    pub burst: f64,
    /// Probability that a loss burst ends.
    pub burst_end: f64,
    /// Probability of duplication; each copy has its own delay.
    pub duplicate: f64,
    /// Additional delay of the second copy.
    pub duplicate_delay: Duration,
    /// Probability of being delayed by [`Weather::reorder_delay`], so that later datagrams overtake it.
    pub reorder: f64,
    /// Length of that delay.
    pub reorder_delay: Duration,
    /// Probability of corruption: the checksum fails, and the receiver's kernel drops it.
    pub corrupt: f64,
    /// Datagrams with a larger payload than this are lost.
    pub datagram_octets_max: usize,
    /// Probability that a send finds the queue full; there is room again shortly after.
    pub full: f64,
    /// Every send fails, as where a firewall forbids it.
    pub forbidden: bool,
}

impl Weather {
    /// A network that delivers everything, in order, after 0.1 ms.
    pub const FAIR: Self = Self {
        delay: Duration::from_micros(100),
        jitter: Duration::ZERO,
        loss: 0.0,
        burst: 0.0,
        burst_end: 0.3,
        duplicate: 0.0,
        duplicate_delay: Duration::ZERO,
        reorder: 0.0,
        reorder_delay: Duration::from_millis(2),
        corrupt: 0.0,
        datagram_octets_max: usize::MAX,
        full: 0.0,
        forbidden: false,
    };
}

/// A node's processing time per datagram. While it is busy, arriving datagrams queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// To receive a datagram.
    pub receive: Duration,
    /// To send a datagram.
    pub send: Duration,
    /// Limit of queued datagrams; further arrivals are dropped.
    pub queue_max: usize,
}

impl Pace {
    /// A processor that takes no time.
    pub const AT_ONCE: Self = Self {
        receive: Duration::ZERO,
        send: Duration::ZERO,
        queue_max: usize::MAX,
    };
}

/// How long a full queue stays full.
const FULL_FOR: Duration = Duration::from_micros(200);
/// First port for sockets that ask for port 0.
const EPHEMERAL_FIRST: u16 = 32_768;

/// A network in virtual time. Clones are handles to the same network.
#[derive(Debug, Clone)]
pub struct Network(Rc<RefCell<State>>);

#[derive(Debug)]
struct State {
    now: Instant,
    random: fastrand::Rng,
    weather: Weather,
    in_burst: bool,
    nodes: Vec<Node>,
    sockets: HashMap<SocketAddr, (NodeId, SocketId), BuildHasherDefault<Mix>>,
    /// Datagrams in flight: arrival time, departure order, and index in `flights`.
    flying: BinaryHeap<Reverse<(Instant, u64, u32)>>,
    flights: Vec<Flight>,
    /// Free indices of `flights`.
    free: Vec<u32>,
    departures: u64,
    /// Buffers of delivered datagrams, for reuse.
    spare: Vec<Vec<u8>>,
    trace: Option<Vec<String>>,
}

/// A datagram in flight.
#[derive(Debug)]
struct Flight {
    from: SocketAddr,
    to: SocketAddr,
    octets: Vec<u8>,
}

/// Hashes the few words of an address. A simulated network has no adversary that picks colliding addresses.
#[derive(Debug, Default)]
struct Mix(u64);

impl Hasher for Mix {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.write_u64(value.into());
    }

    fn write_u16(&mut self, value: u16) {
        self.write_u64(value.into());
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(value.into());
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(23) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }

    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 29
    }
}

#[derive(Debug)]
struct Node {
    name: String,
    address: IpAddr,
    mtu: u32,
    port_next: u16,
    socket_next: u32,
    bound: HashMap<SocketId, SocketAddr>,
    arrived: VecDeque<(SocketId, Path, Vec<u8>)>,
    full_until: Option<Instant>,
    /// Whether the node is disconnected: it neither sends nor receives.
    cut_off: bool,
    pace: Pace,
    /// Processor time spent since the clock last moved.
    spent: Duration,
    /// When the processor becomes idle.
    busy_until: Instant,
    overflowed: u64,
    sent: Traffic,
    addressed: Traffic,
}

/// Identifies a node of one network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NodeId(usize);

/// What a node has sent, delivered or not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Datagrams of any kind.
    pub datagrams: u64,
    /// DATA packets among the datagrams.
    pub data: u64,
    /// ACK packets among the datagrams.
    pub acks: u64,
    /// Octets of TFTP packets, without lower-layer headers.
    pub octets: u64,
    /// Datagrams lost to the weather.
    pub lost: u64,
    /// Datagrams that the weather delayed or duplicated.
    pub disturbed: u64,
}

impl Network {
    /// A network without nodes, at time zero.
    #[must_use]
    pub fn new(seed: u64, weather: Weather) -> Self {
        Self(Rc::new(RefCell::new(State {
            now: Instant::ZERO,
            random: fastrand::Rng::with_seed(seed),
            weather,
            in_burst: false,
            nodes: Vec::new(),
            sockets: HashMap::default(),
            flying: BinaryHeap::new(),
            flights: Vec::new(),
            free: Vec::new(),
            departures: 0,
            spare: Vec::new(),
            trace: None,
        })))
    }

    /// Adds a node; traces show it as `name`.
    #[must_use]
    pub fn add_node(&self, name: &str, address: IpAddr, mtu: u32) -> NodeId {
        let mut state = self.0.borrow_mut();
        state.nodes.push(Node {
            name: name.to_owned(),
            address,
            mtu,
            port_next: EPHEMERAL_FIRST,
            socket_next: 0,
            bound: HashMap::new(),
            arrived: VecDeque::new(),
            full_until: None,
            cut_off: false,
            pace: Pace::AT_ONCE,
            spent: Duration::ZERO,
            busy_until: Instant::ZERO,
            overflowed: 0,
            sent: Traffic::default(),
            addressed: Traffic::default(),
        });
        NodeId(state.nodes.len() - 1)
    }

    /// An engine for a node.
    #[must_use]
    pub fn engine(&self, node: NodeId) -> SimEngine {
        SimEngine {
            network: self.clone(),
            node,
        }
    }

    /// The current virtual time.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.0.borrow().now
    }

    /// When the next datagram arrives or a full queue has room again.
    #[must_use]
    pub fn next_event(&self) -> Option<Instant> {
        let state = self.0.borrow();
        let arrival = state.flying.peek().map(|Reverse((arrives, ..))| *arrives);
        let room = state.nodes.iter().filter_map(|node| node.full_until).min();
        match (arrival, room) {
            (Some(arrival), Some(room)) => Some(arrival.min(room)),
            (arrival, room) => arrival.or(room),
        }
    }

    /// Moves the clock to `now` and delivers what arrives until then. Returns the nodes that have work to
    /// do.
    pub fn advance(&self, now: Instant) -> Vec<NodeId> {
        let state = &mut *self.0.borrow_mut();
        state.now = state.now.max(now);
        let mut woken = Vec::new();
        while let Some(&Reverse((arrives, _, place))) = state.flying.peek()
            && arrives <= now
        {
            state.flying.pop();
            state.free.push(place);
            let flight = &mut state.flights[place as usize];
            let octets = std::mem::take(&mut flight.octets);
            // No socket is bound there: drop the datagram.
            let Some(&(id, socket)) = state.sockets.get(&flight.to) else {
                state.spare.push(octets);
                continue;
            };
            let path = Path {
                peer: flight.from,
                local: Local {
                    address: Some(flight.to.ip()),
                    interface: 1,
                },
            };
            let node = &mut state.nodes[id.0];
            if node.arrived.len() >= node.pace.queue_max {
                node.overflowed += 1;
                state.spare.push(octets);
                continue;
            }
            node.arrived.push_back((socket, path, octets));
            if woken.last() != Some(&id) {
                woken.push(id);
            }
        }
        for (index, node) in state.nodes.iter_mut().enumerate() {
            if node.full_until.is_some_and(|at| at <= now) {
                node.full_until = None;
                woken.push(NodeId(index));
            }
        }
        woken.sort_unstable_by_key(|node| node.0);
        woken.dedup();
        woken
    }

    /// Sets a node's processing time from now on.
    pub fn set_pace(&self, node: NodeId, pace: Pace) {
        self.0.borrow_mut().nodes[node.0].pace = pace;
    }

    /// Suspends a node until the given time, like a suspended machine: arriving datagrams queue as far as
    /// there is room.
    pub fn suspend(&self, node: NodeId, until: Instant) {
        let node = &mut self.0.borrow_mut().nodes[node.0];
        node.busy_until = node.busy_until.max(until);
    }

    /// Ends a round of a node's work: the time it took keeps its processor busy from now on.
    pub fn work_done(&self, node: NodeId) {
        let state = &mut *self.0.borrow_mut();
        let node = &mut state.nodes[node.0];
        if !node.spent.is_zero() {
            node.busy_until = state.now + std::mem::take(&mut node.spent);
        }
    }

    /// When a node's processor becomes idle.
    #[must_use]
    pub fn busy_until(&self, node: NodeId) -> Instant {
        self.0.borrow().nodes[node.0].busy_until
    }

    /// Datagrams dropped because a node's queue was full.
    #[must_use]
    pub fn overflowed(&self, node: NodeId) -> u64 {
        self.0.borrow().nodes[node.0].overflowed
    }

    /// Removes all sockets of a node and the datagrams queued for them, as if its process had exited.
    pub fn restart(&self, node: NodeId) {
        let state = &mut *self.0.borrow_mut();
        let own = &mut state.nodes[node.0];
        for (_, address) in own.bound.drain() {
            state.sockets.remove(&address);
        }
        own.arrived.clear();
        own.full_until = None;
    }

    /// Makes the clock jump forward: datagrams in flight arrive when due, or at once if that is past.
    pub fn leap(&self, by: Duration) {
        let mut state = self.0.borrow_mut();
        state.now += by;
    }

    /// Changes the weather from now on.
    pub fn set_weather(&self, weather: Weather) {
        let mut state = self.0.borrow_mut();
        state.weather = weather;
        state.in_burst = false;
    }

    /// Disconnects a node: from now on, what it sends and what is sent to it is lost.
    pub fn cut_off(&self, node: NodeId) {
        self.0.borrow_mut().nodes[node.0].cut_off = true;
    }

    /// Whether a node has datagrams that it has not received yet.
    #[must_use]
    pub fn has_arrived(&self, node: NodeId) -> bool {
        !self.0.borrow().nodes[node.0].arrived.is_empty()
    }

    /// What a node has sent so far.
    #[must_use]
    pub fn sent(&self, node: NodeId) -> Traffic {
        self.0.borrow().nodes[node.0].sent
    }

    /// What was sent to a node so far, delivered or not.
    #[must_use]
    pub fn addressed(&self, node: NodeId) -> Traffic {
        self.0.borrow().nodes[node.0].addressed
    }

    /// Number of datagrams in flight.
    #[must_use]
    pub fn flying(&self) -> usize {
        self.0.borrow().flying.len()
    }

    /// From now on, records a line for every datagram sent.
    pub fn trace(&self) {
        self.0.borrow_mut().trace = Some(Vec::new());
    }

    /// The lines so far: time, sender, receiver, content, and, if it was not delivered, its fate.
    #[must_use]
    pub fn take_trace(&self) -> Vec<String> {
        self.0
            .borrow_mut()
            .trace
            .replace(Vec::new())
            .unwrap_or_default()
    }

    /// Sends a datagram from any address, like a host that runs no shard.
    pub fn inject(&self, from: SocketAddr, to: SocketAddr, octets: &[u8]) {
        let mut state = self.0.borrow_mut();
        let sender = state.node_at(from);
        state.fly(sender, from, to, octets);
    }

    /// Binds a socket on a node that runs no shard.
    ///
    /// # Panics
    /// If the port is taken, which is an error in the simulation.
    pub fn bind(&self, node: NodeId, port: u16) -> (SocketId, SocketAddr) {
        let mut state = self.0.borrow_mut();
        let address = SocketAddr::new(state.nodes[node.0].address, port);
        let socket = state.bind(node, address).expect("the port is free");
        (socket, state.nodes[node.0].bound[&socket])
    }

    /// Closes a socket of a node that runs no shard.
    pub fn unbind(&self, node: NodeId, socket: SocketId) {
        self.0.borrow_mut().unbind(node, socket);
    }

    /// Receives the next datagram at a node that runs no shard.
    #[must_use]
    pub fn receive(&self, node: NodeId) -> Option<(SocketId, Path, Vec<u8>)> {
        self.0.borrow_mut().nodes[node.0].arrived.pop_front()
    }
}

impl State {
    fn bind(&mut self, node: NodeId, mut address: SocketAddr) -> io::Result<SocketId> {
        let own = &mut self.nodes[node.0];
        address.set_ip(own.address);
        if address.port() == 0 {
            while self
                .sockets
                .contains_key(&SocketAddr::new(own.address, own.port_next))
            {
                own.port_next = own.port_next.checked_add(1).unwrap_or(EPHEMERAL_FIRST);
            }
            address.set_port(own.port_next);
            // Do not reuse a freed port at once: peers may still send to it.
            own.port_next = own.port_next.checked_add(1).unwrap_or(EPHEMERAL_FIRST);
        } else if self.sockets.contains_key(&address) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let socket = SocketId(own.socket_next);
        own.socket_next += 1;
        own.bound.insert(socket, address);
        self.sockets.insert(address, (node, socket));
        Ok(socket)
    }

    fn unbind(&mut self, node: NodeId, socket: SocketId) {
        if let Some(address) = self.nodes[node.0].bound.remove(&socket) {
            self.sockets.remove(&address);
        }
    }

    fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.random.f64() < probability
    }

    /// Sends a datagram through the network's impairments.
    fn fly(&mut self, sender: Option<NodeId>, from: SocketAddr, to: SocketAddr, octets: &[u8]) {
        let weather = self.weather;
        self.in_burst = if self.in_burst {
            !self.chance(weather.burst_end)
        } else {
            self.chance(weather.burst)
        };
        let receiver = self.node_at(to);
        let cut_off = |node: Option<NodeId>| node.is_some_and(|node| self.nodes[node.0].cut_off);
        let fate = if cut_off(sender) || cut_off(receiver) {
            "cut off"
        } else if octets.len() > weather.datagram_octets_max {
            "too long"
        } else if self.in_burst || self.chance(weather.loss) {
            "lost"
        } else if self.chance(weather.corrupt) {
            "garbled"
        } else if self.chance(weather.duplicate) {
            "twice"
        } else {
            ""
        };
        if self.trace.is_some() {
            self.note(from, to, octets, fate);
        }
        let copies = match fate {
            "" => 1,
            "twice" => 2,
            _ => 0,
        };
        let departs = self.now + sender.map_or(Duration::ZERO, |node| self.nodes[node.0].spent);
        let mut disturbed = copies == 2;
        for copy in 0..copies {
            let jitter = weather.jitter.as_nanos() as u64;
            let mut delay = weather.delay + Duration::from_nanos(self.random.u64(0..=jitter));
            delay += weather.duplicate_delay * copy;
            if self.chance(weather.reorder) {
                delay += weather.reorder_delay;
                disturbed = true;
            }
            self.depart(departs + delay, from, to, octets);
        }
        for traffic in [
            sender.map(|node| (node, true)),
            receiver.map(|node| (node, false)),
        ] {
            let Some((node, is_sender)) = traffic else {
                continue;
            };
            let node = &mut self.nodes[node.0];
            let traffic = if is_sender {
                &mut node.sent
            } else {
                &mut node.addressed
            };
            traffic.datagrams += 1;
            traffic.octets += octets.len() as u64;
            match octets {
                [0, 3, ..] => traffic.data += 1,
                [0, 4, ..] => traffic.acks += 1,
                _ => {}
            }
            traffic.lost += u64::from(copies == 0);
            traffic.disturbed += u64::from(disturbed);
        }
    }

    fn depart(&mut self, arrives: Instant, from: SocketAddr, to: SocketAddr, octets: &[u8]) {
        let mut copy = self.spare.pop().unwrap_or_default();
        copy.clear();
        copy.extend_from_slice(octets);
        let flight = Flight {
            from,
            to,
            octets: copy,
        };
        let place = match self.free.pop() {
            Some(place) => {
                self.flights[place as usize] = flight;
                place
            }
            None => {
                self.flights.push(flight);
                (self.flights.len() - 1) as u32
            }
        };
        self.departures += 1;
        self.flying.push(Reverse((arrives, self.departures, place)));
    }

    fn node_at(&self, address: SocketAddr) -> Option<NodeId> {
        self.sockets.get(&address).map(|&(node, _)| node)
    }

    fn note(&mut self, from: SocketAddr, to: SocketAddr, octets: &[u8], fate: &str) {
        let Some(trace) = &mut self.trace else { return };
        let name = |address: SocketAddr| {
            let node = self.nodes.iter().find(|node| node.address == address.ip());
            node.map_or_else(
                || address.to_string(),
                |node| format!("{}:{}", node.name, address.port()),
            )
        };
        let packet = Packet::parse(octets)
            .map_or_else(|error| error.to_string(), |packet| packet.to_string());
        let millis = self.now.as_nanos() as f64 / 1e6;
        let fate = if fate.is_empty() {
            String::new()
        } else {
            format!("  ({fate})")
        };
        trace.push(format!(
            "{millis:>10.3} {} > {} {packet}{fate}",
            name(from),
            name(to)
        ));
    }
}

/// The engine of one node.
#[derive(Debug)]
pub struct SimEngine {
    network: Network,
    node: NodeId,
}

impl SimEngine {
    fn send_one(&self, socket: SocketId, path: &Path, octets: &[u8]) -> Sent {
        let mut state = self.network.0.borrow_mut();
        if state.weather.forbidden {
            return Sent::Failed(libc::EPERM);
        }
        let full = state.weather.full;
        if state.nodes[self.node.0].full_until.is_some() || state.chance(full) {
            let until = state.now + FULL_FOR;
            state.nodes[self.node.0].full_until.get_or_insert(until);
            return Sent::Full;
        }
        let node = &mut state.nodes[self.node.0];
        let Some(&from) = node.bound.get(&socket) else {
            return Sent::Failed(libc::EBADF);
        };
        if octets.len() > crate::wire::DATAGRAM_OCTETS_MAX {
            return Sent::Failed(libc::EMSGSIZE);
        }
        node.spent += node.pace.send;
        state.fly(Some(self.node), from, path.peer, octets);
        Sent::Datagrams(1)
    }
}

impl Engine for SimEngine {
    fn name(&self) -> &'static str {
        "sim"
    }

    fn now(&self) -> Instant {
        let state = self.network.0.borrow();
        state.now + state.nodes[self.node.0].spent
    }

    fn open(&mut self, bind: Bind) -> io::Result<SocketId> {
        self.network.0.borrow_mut().bind(self.node, bind.address)
    }

    fn close(&mut self, socket: SocketId) {
        self.network.0.borrow_mut().unbind(self.node, socket);
    }

    fn local_addr(&self, socket: SocketId) -> io::Result<SocketAddr> {
        let state = self.network.0.borrow();
        state.nodes[self.node.0]
            .bound
            .get(&socket)
            .copied()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn mtu(&mut self, _interface: u32) -> Option<u32> {
        Some(self.network.0.borrow().nodes[self.node.0].mtu)
    }

    fn send(&mut self, socket: SocketId, path: &Path, payload: Payload<'_>) -> Sent {
        match payload {
            Payload::Packet(octets) => self.send_one(socket, path, octets),
            payload => {
                let burst = payload.burst();
                let octets = burst.to_contiguous();
                let mut left = 0;
                for datagram in octets.chunks(burst.segment().max(1)) {
                    match self.send_one(socket, path, datagram) {
                        Sent::Datagrams(_) => left += 1,
                        failed if left == 0 => return failed,
                        _ => break,
                    }
                }
                Sent::Datagrams(left)
            }
        }
    }

    fn has_room(&self, _socket: SocketId) -> bool {
        self.network.0.borrow().nodes[self.node.0]
            .full_until
            .is_none()
    }

    fn waker(&self) -> Waker {
        // No engine ever sleeps.
        Waker::noop().clone()
    }

    fn wait(&mut self, _until: Option<Instant>, inbox: &mut Inbox) -> io::Result<()> {
        let state = &mut *self.network.0.borrow_mut();
        let node = &mut state.nodes[self.node.0];
        while !node.arrived.is_empty() {
            let Some(room) = inbox.room() else { break };
            let Some((socket, path, octets)) = node.arrived.pop_front() else {
                break;
            };
            room[..octets.len()].copy_from_slice(&octets);
            inbox.push(socket, path, false, octets.len());
            state.spare.push(octets);
            node.spent += node.pace.receive;
        }
        Ok(())
    }

    fn receive_drops(&self) -> u64 {
        self.network.overflowed(self.node)
    }

    fn gso(&self) -> bool {
        false
    }

    fn statistics(&self) -> Statistics {
        Statistics::default()
    }

    fn receive_buffer(&self, _socket: SocketId) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
