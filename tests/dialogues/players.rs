//! Where dialogues are played: the real shard on each of its engines, with the peer beside it.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::task::Waker;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bootstorm::engine::sim::{NodeId, Weather};
use bootstorm::engine::{Bind, Engine, SocketId};
use bootstorm::shard::{Census, Ending, Plan, Shard};
use bootstorm::simulate::{CLIENT, Host, SERVER, World};
use bootstorm::store::memory::Memory;
use bootstorm::store::{Backend, OpenError, Opened, Patience, Refusal, Sink, Store, StoreOptions};
use mio::net::UdpSocket;
use mio::{Events, Interest, Poll, Token};

use crate::script::Setup;

/// A shard, and a peer whose every datagram the dialogue decides.
pub(crate) trait Player {
    /// Where the shard takes requests.
    fn listener(&self) -> SocketAddr;

    /// Opens a port of the peer.
    fn open(&mut self, place: Place) -> SocketAddr;

    /// Sends from a port of the peer.
    fn send(&mut self, from: SocketAddr, to: SocketAddr, octets: &[u8]);

    /// What arrives next at any port of the peer.
    fn receive(&mut self, within: Duration) -> Option<Arrived>;

    /// Tells the shard something.
    fn command(&mut self, command: Command);

    /// How the transfer that the shard had asked for ended.
    fn ending(&mut self, within: Duration) -> Option<Ending>;

    /// The time since some epoch, if it is virtual and therefore exact.
    fn virtual_time(&self) -> Option<Duration>;

    /// Files that the peer or the shard published.
    fn files(&self) -> &Memory;
}

/// Where a port of the peer lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// At the peer's own address.
    Peer,
    /// At another host's.
    Elsewhere,
    /// Port 0 of the peer, from which only forged datagrams come.
    PortZero,
}

/// A datagram that the peer got.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) at: SocketAddr,
    pub(crate) from: SocketAddr,
    pub(crate) octets: Vec<u8>,
}

/// What a shard is told.
#[derive(Debug)]
pub(crate) enum Command {
    Start(Box<Plan>),
    Drain,
    Stop,
}

/// The core in virtual time.
pub(crate) struct Virtual {
    world: World,
    host: Host,
    peer: NodeId,
    elsewhere: NodeId,
    ports: HashMap<(NodeId, SocketId), SocketAddr>,
    files: Memory,
}

/// How long the disk takes for anything, so that the shard has to wait for it.
const DISK: Duration = Duration::from_micros(50);
const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 3));
const MTU: u32 = 1500;

impl Virtual {
    pub(crate) fn start(setup: &Setup) -> Box<dyn Player> {
        let mut world = World::new(1, Weather::FAIR, DISK + setup.disk);
        let files = memory(setup);
        let host = world.add_host(
            "shard",
            SERVER.ip(),
            Files::new(setup, &files),
            setup.settings.clone(),
        );
        world.listen(host, SERVER);
        let peer = world.network().add_node("peer", CLIENT, MTU);
        let elsewhere = world.network().add_node("elsewhere", ELSEWHERE, MTU);
        Box::new(Self {
            world,
            host,
            peer,
            elsewhere,
            ports: HashMap::new(),
            files,
        })
    }

    /// Lets time pass until `found` finds something, at most so long.
    fn until<T>(
        &mut self,
        within: Duration,
        mut found: impl FnMut(&mut Self) -> Option<T>,
    ) -> Option<T> {
        let until = self.world.now() + within;
        loop {
            if let Some(found) = found(self) {
                return Some(found);
            }
            if self.world.next_event().is_none_or(|at| at > until) {
                self.world.network().advance(until);
                return None;
            }
            self.world.step();
        }
    }
}

impl Player for Virtual {
    fn listener(&self) -> SocketAddr {
        SERVER
    }

    fn open(&mut self, place: Place) -> SocketAddr {
        let node = match place {
            Place::Peer => self.peer,
            Place::Elsewhere => self.elsewhere,
            Place::PortZero => return SocketAddr::new(CLIENT, 0),
        };
        let (socket, address) = self.world.network().bind(node, 0);
        self.ports.insert((node, socket), address);
        address
    }

    fn send(&mut self, from: SocketAddr, to: SocketAddr, octets: &[u8]) {
        self.world.network().inject(from, to, octets);
    }

    fn receive(&mut self, within: Duration) -> Option<Arrived> {
        self.until(within, |this| {
            [this.peer, this.elsewhere].into_iter().find_map(|node| {
                let (socket, path, octets) = this.world.network().receive(node)?;
                Some(Arrived {
                    at: this.ports[&(node, socket)],
                    from: path.peer,
                    octets,
                })
            })
        })
    }

    fn command(&mut self, command: Command) {
        let now = self.world.now();
        match command {
            Command::Start(plan) => self.world.start_at(now, self.host, *plan),
            Command::Drain => self.world.shard_mut(self.host).drain(),
            Command::Stop => self.world.shard_mut(self.host).stop(),
        }
    }

    fn ending(&mut self, within: Duration) -> Option<Ending> {
        self.until(within, |this| this.world.take_endings(this.host).pop())
    }

    fn virtual_time(&self) -> Option<Duration> {
        Some(Duration::from_nanos(self.world.now().as_nanos()))
    }

    fn files(&self) -> &Memory {
        &self.files
    }
}

/// A shard on a thread of its own, over the loopback, in real time.
pub(crate) struct Loopback {
    number: u16,
    listener: SocketAddr,
    waker: Waker,
    commands: Option<Sender<Command>>,
    endings: Receiver<Ending>,
    thread: Option<JoinHandle<()>>,
    files: Memory,
    poll: Poll,
    events: Events,
    ports: Vec<(SocketAddr, UdpSocket)>,
    arrived: VecDeque<Arrived>,
}

const STORE_THREADS: usize = 2;
const FRAME_CACHE_OCTETS: usize = 4 << 20;
/// Counts the dialogues played: each has addresses of its own, so that a port that one gives back and
/// another gets brings it no late datagrams. Linux has all of 127.0.0.0/8 on its loopback.
static PLAYED: AtomicU16 = AtomicU16::new(0);
/// The second octet of the address of the shard, of the peer, and of whom is elsewhere.
const SHARD_NET: u8 = 1;
const PEER_NET: u8 = 2;
const ELSEWHERE_NET: u8 = 3;
const EVENTS_MAX: usize = 16;

impl Loopback {
    pub(crate) fn start<E: Engine + 'static>(
        setup: &Setup,
        engine: fn() -> io::Result<E>,
    ) -> Box<dyn Player> {
        let files = memory(setup);
        let backend = Files::new(setup, &files);
        let settings = Arc::new(setup.settings.clone());
        let number = PLAYED.fetch_add(1, Ordering::Relaxed);
        let (commands, orders) = mpsc::channel();
        let (finished, endings) = mpsc::channel();
        let (ready, started) = mpsc::channel();
        let thread = thread::spawn(move || {
            let options = StoreOptions {
                frame_cache_octets: FRAME_CACHE_OCTETS,
                threads: STORE_THREADS,
            };
            let store = Store::new(backend, options).expect("threads");
            let engine = engine().expect("an engine");
            let mut shard = Shard::new(engine, store, settings, Census::default());
            let bind = Bind::to(SocketAddr::new(loopback(SHARD_NET, number), 0));
            let address = shard.listen(bind).expect("a port");
            let told = ready.send((address, shard.engine().waker()));
            told.expect("the test waits for it");
            run(&mut shard, &orders, &finished);
        });
        let (listener, waker) = started.recv().expect("the shard's thread runs");
        Box::new(Self {
            number,
            listener,
            waker,
            commands: Some(commands),
            endings,
            thread: Some(thread),
            files,
            poll: Poll::new().expect("a descriptor"),
            events: Events::with_capacity(EVENTS_MAX),
            ports: Vec::new(),
            arrived: VecDeque::new(),
        })
    }

    fn read_all(&mut self) {
        let mut buffer = [0; 65_536];
        for (address, socket) in &self.ports {
            loop {
                match socket.recv_from(&mut buffer) {
                    Ok((len, from)) => self.arrived.push_back(Arrived {
                        at: *address,
                        from,
                        octets: buffer[..len].to_vec(),
                    }),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // The echo of an earlier send.
                    Err(_) => {}
                }
            }
        }
    }
}

/// The shard's thread: until nobody can command it any more.
fn run<E: Engine>(shard: &mut Shard<E>, orders: &Receiver<Command>, finished: &Sender<Ending>) {
    loop {
        match orders.try_recv() {
            Ok(Command::Start(plan)) => {
                shard.start(*plan).expect("a port");
            }
            Ok(Command::Drain) => shard.drain(),
            Ok(Command::Stop) => shard.stop(),
            Err(mpsc::TryRecvError::Disconnected) => return,
            Err(mpsc::TryRecvError::Empty) => shard.turn().expect("an engine that works"),
        }
        for (_, ending) in shard.take_endings() {
            // Whoever asked may have gone by now.
            let _ = finished.send(ending);
        }
    }
}

impl Player for Loopback {
    fn listener(&self) -> SocketAddr {
        self.listener
    }

    fn open(&mut self, place: Place) -> SocketAddr {
        let ip = match place {
            Place::Peer => loopback(PEER_NET, self.number),
            Place::Elsewhere => loopback(ELSEWHERE_NET, self.number),
            Place::PortZero => unreachable!("no kernel sends from port 0: `core only`"),
        };
        let mut socket = UdpSocket::bind(SocketAddr::new(ip, 0)).expect("a port");
        let address = socket.local_addr().expect("bound");
        let token = Token(self.ports.len());
        self.poll
            .registry()
            .register(&mut socket, token, Interest::READABLE)
            .expect("can be polled");
        self.ports.push((address, socket));
        address
    }

    fn send(&mut self, from: SocketAddr, to: SocketAddr, octets: &[u8]) {
        let port = self.ports.iter().find(|(address, _)| *address == from);
        let (_, socket) = port.expect("an open port");
        socket.send_to(octets, to).expect("the loopback takes it");
    }

    fn receive(&mut self, within: Duration) -> Option<Arrived> {
        let until = std::time::Instant::now() + within;
        loop {
            self.read_all();
            if let Some(arrived) = self.arrived.pop_front() {
                return Some(arrived);
            }
            let left = until.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() {
                return None;
            }
            match self.poll.poll(&mut self.events, Some(left)) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => panic!("{error}"),
                _ => {}
            }
        }
    }

    fn command(&mut self, command: Command) {
        if let Some(commands) = &self.commands {
            commands.send(command).expect("the shard's thread runs");
        }
        self.waker.wake_by_ref();
    }

    fn ending(&mut self, within: Duration) -> Option<Ending> {
        self.endings.recv_timeout(within).ok()
    }

    fn virtual_time(&self) -> Option<Duration> {
        None
    }

    fn files(&self) -> &Memory {
        &self.files
    }
}

impl Drop for Loopback {
    fn drop(&mut self) {
        self.commands = None;
        self.waker.wake_by_ref();
        let ended = self.thread.take().map(JoinHandle::join);
        // The dialogue that failed has been told of already.
        if !thread::panicking() {
            ended
                .expect("it was started")
                .expect("the shard's thread did not panic");
        }
    }
}

fn loopback(net: u8, number: u16) -> IpAddr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(127, net, high, low).into()
}

fn memory(setup: &Setup) -> Memory {
    let files = Memory::new(setup.writes);
    for (name, contents) in &setup.files {
        files.insert(name, contents.clone());
    }
    files.set_faults(setup.faults);
    files
}

/// Files in memory, some of which cannot be had.
struct Files {
    memory: Memory,
    refused: Vec<(Vec<u8>, Refusal)>,
}

impl Files {
    fn new(setup: &Setup, memory: &Memory) -> Self {
        Self {
            memory: memory.clone(),
            refused: setup.refused.clone(),
        }
    }

    fn refusal(&self, name: &[u8]) -> Result<(), Refusal> {
        let refused = self.refused.iter().find(|(refused, _)| refused == name);
        refused.map_or(Ok(()), |&(_, refusal)| Err(refusal))
    }
}

impl Backend for Files {
    fn open(&self, name: &[u8], patience: Patience) -> Result<Opened, OpenError> {
        self.refusal(name)?;
        self.memory.open(name, patience)
    }

    fn create(&self, name: &[u8], announced: Option<u64>) -> Result<Box<dyn Sink>, Refusal> {
        self.refusal(name)?;
        self.memory.create(name, announced)
    }
}
