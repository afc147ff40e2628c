//! Fleets: thousands of clients of many types in one world. The seed chooses the weather and the mishaps;
//! the promises are checked while the world runs and at its end.

mod lot;
mod promises;
mod summary;

pub use lot::{Kind, Mishap, WINDOWSIZES};
pub use promises::{Broken, Use};
pub use summary::{KindSummary, Summary};

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use super::foreign::{Foreign, Style};
use super::world::{Host, World};
use super::{CLIENT, ELAPSED_MAX, MTU, SERVER};
use crate::config::{LINGER, Settings};
use crate::engine::SocketId;
use crate::engine::sim::{NodeId, Traffic};
use crate::proto::outcome::Outcome;
use crate::shard::{Ending, Expected, LocalSide, Manner, Operation, Origin, Plan, SlotId};
use crate::store::memory::{Contents, Faults, Memory, pattern_octet};
use crate::store::{ReadFailure, Writes};
use crate::time::{Duration, Instant};
use crate::wire::Mode;
use lot::{Asking, FOREIGN, Lot};
use promises::Promises;

/// The normal latency of a disk operation.
const DISK: Duration = Duration::from_micros(50);
/// The latency of a slow disk: longer than most clients wait before they repeat.
const DISK_SLOW: Duration = Duration::from_millis(700);
/// The minimum pause before a client retries; the maximum is twice as long.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// The maximum number of attempts per client; a real machine that boots retries forever.
const ATTEMPTS_MAX: u32 = 60;
/// How often running transfers are checked against their idle deadline.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A world, fully determined by its seed and the number of its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fleet {
    /// The random seed: the same seed reproduces the same world.
    pub seed: u64,
    /// The number of clients, not counting a few third-party receivers.
    pub clients: u32,
}

/// The outcome of a world.
#[derive(Debug, Clone)]
pub struct Report {
    /// The world's parameters.
    pub fleet: Fleet,
    /// Its weather.
    pub kind: Kind,
    /// What else went wrong.
    pub mishap: Mishap,
    /// Completed transfers, of this program's clients and of third-party receivers.
    pub complete: u64,
    /// Attempts that did not complete, including clients that were meant to vanish.
    pub failed: u64,
    /// The simulated time until the last event.
    pub settled: Duration,
    /// The traffic that the server sent.
    pub server: Traffic,
    /// The traffic that all clients sent.
    pub client: Traffic,
    /// The minimum number of datagrams needed, from the server and from this program's clients.
    pub due: (u64, u64),
    /// The datagrams actually sent to those clients, and by them.
    pub sent: (u64, u64),
    /// Datagrams that the server sent more than once.
    pub retransmissions: u64,
    /// The fraction used of each bound.
    pub uses: Vec<Use>,
    /// Broken promises.
    pub broken: Vec<Broken>,
}

/// Runs one world to its end.
#[must_use]
pub fn run(fleet: Fleet) -> Report {
    let mut storm = Storm::new(fleet);
    storm.blow();
    storm.report()
}

/// Runs a world for each seed on this many threads, and reports each when it ends, in any order. `told`
/// returns whether to continue.
pub fn run_all(seeds: Range<u64>, clients: u32, jobs: usize, mut told: impl FnMut(Report) -> bool) {
    let next = AtomicU64::new(seeds.start);
    let stopped = AtomicBool::new(false);
    let (sender, reports) = mpsc::sync_channel(jobs.max(1));
    thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            let sender = sender.clone();
            let (next, stopped, end) = (&next, &stopped, seeds.end);
            scope.spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end || sender.send(run(Fleet { seed, clients })).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        for report in &reports {
            if !told(report) {
                stopped.store(true, Ordering::Relaxed);
                break;
            }
        }
        // Threads that still have a report to send find the channel closed.
        drop(reports);
    });
}

/// A client and its progress.
struct Client {
    asking: Asking,
    /// Whether it is requesting only the length.
    probing: bool,
    attempts: u32,
    /// When it completed, or vanished as it was meant to.
    done_at: Option<Instant>,
    /// The duration of its last attempt.
    took: Duration,
}

/// The expected cost of the clients of one window size.
#[derive(Debug, Clone, Copy, Default)]
struct Cost {
    server: u64,
    client: u64,
    /// Attempts affected by something other than the weather.
    struck: u64,
}

struct Storm {
    fleet: Fleet,
    lot: Lot,
    world: World,
    files: Memory,
    server: Host,
    hosts: Vec<Host>,
    foreign_node: NodeId,
    foreigners: Vec<(usize, Foreign)>,
    by_socket: HashMap<SocketId, usize>,
    clients: Vec<Client>,
    expected: Vec<Arc<Expected>>,
    pending: BinaryHeap<Reverse<(Instant, usize)>>,
    running: Vec<HashMap<SlotId, usize>>,
    random: fastrand::Rng,
    costs: [Cost; WINDOWSIZES.len()],
    complete: u64,
    failed: u64,
    /// The end of the current mishap.
    mishap_until: Option<Instant>,
    mishap_over: bool,
    promises: Promises,
}

impl Storm {
    fn new(fleet: Fleet) -> Self {
        let mut lot = Lot::draw(&fleet);
        let mut world = World::new(fleet.seed, lot.kind.weather(), DISK);
        let files = Memory::new(Writes::Overwrite);
        files.set_faults(lot.faults());
        let sources = Memory::new(Writes::Off);
        let mut expected = Vec::new();
        for (number, &len) in lot.files.iter().enumerate() {
            let seed = fleet.seed.wrapping_mul(31).wrapping_add(number as u64);
            let octets: Vec<u8> = (0..len).map(|at| pattern_octet(seed, at)).collect();
            for memory in [&files, &sources] {
                let contents = Contents::Octets(octets.clone().into());
                memory.insert(&file_name(number), contents);
            }
            expected.push(Arc::new(Expected::Octets(octets.into())));
        }
        let server = world.add_host("S", SERVER.ip(), files.clone(), settings(&lot));
        world.set_pace(server, lot.pace);
        world.listen(server, SERVER);
        let hosts = (0..WINDOWSIZES.len() as u8)
            .map(|number| {
                let address = [10, 0, 1, number].into();
                world.add_host("C", address, sources.clone(), Settings::default())
            })
            .collect::<Vec<_>>();
        let foreign_node = world.network().add_node("F", CLIENT, MTU);
        let clients: Vec<Client> = std::mem::take(&mut lot.askings)
            .into_iter()
            .map(|asking| Client {
                probing: asking.profile.probes && asking.operation == Operation::Read,
                asking,
                attempts: 0,
                done_at: None,
                took: Duration::ZERO,
            })
            .collect();
        let pending = clients.iter().enumerate();
        let pending = pending
            .map(|(number, client)| Reverse((client.asking.at, number)))
            .collect();
        Self {
            running: vec![HashMap::new(); hosts.len()],
            random: fastrand::Rng::with_seed(!fleet.seed),
            fleet,
            lot,
            world,
            files,
            server,
            hosts,
            foreign_node,
            foreigners: Vec::new(),
            by_socket: HashMap::new(),
            clients,
            expected,
            pending,
            costs: Default::default(),
            complete: 0,
            failed: 0,
            mishap_until: None,
            mishap_over: false,
            promises: Promises::default(),
        }
    }

    /// Runs the world until no events are left.
    fn blow(&mut self) {
        for &Reverse((at, _)) in &self.pending {
            self.world.alarm_at(at);
        }
        self.world.alarm_at(self.lot.mishap_at);
        self.invite_foreigners();
        let mut look_at = Instant::ZERO + LOOK_EVERY;
        loop {
            self.begin_those_due();
            if !self.world.step() {
                break;
            }
            let now = self.world.now();
            if now - Instant::ZERO > ELAPSED_MAX {
                self.promises
                    .broken("liveness", "there was no end to it".to_owned());
                break;
            }
            self.mishap(now);
            for class in 0..self.hosts.len() {
                for (id, ending) in self.world.take_named_endings(self.hosts[class]) {
                    if let Some(number) = self.running[class].remove(&id) {
                        self.ended(number, &ending, now);
                    }
                }
            }
            self.turn_foreigners(now);
            // Only after everything due now has been done; the clock may have leapt.
            let now = self.world.now();
            if now >= look_at && self.world.next_event().is_none_or(|at| at > now) {
                look_at = now + LOOK_EVERY;
                self.promises.look_at_idle(self.world.overdue());
            }
        }
    }

    fn begin_those_due(&mut self) {
        let now = self.world.now();
        while let Some(&Reverse((at, number))) = self.pending.peek()
            && at <= now
        {
            self.pending.pop();
            let class = self.clients[number].asking.class;
            let plan = self.plan(number);
            if self.mishap_until.is_some() {
                self.costs[class].struck += 1;
            }
            match self.world.start(self.hosts[class], plan) {
                Ok(id) => {
                    self.running[class].insert(id, number);
                }
                Err(error) => self.promises.broken("liveness", error.to_string()),
            }
        }
    }

    fn plan(&self, number: usize) -> Plan {
        let Client {
            asking, probing, ..
        } = &self.clients[number];
        let mut wanted = asking.profile.wanted;
        if asking.profile.probes && !probing {
            wanted.tsize = None;
        }
        let (remote, local) = match asking.operation {
            Operation::Read => {
                let manner = if *probing {
                    Manner::Probe
                } else {
                    asking.manner
                };
                let expected = self.expected[asking.file].clone();
                (
                    file_name(asking.file),
                    LocalSide::Checked { expected, manner },
                )
            }
            Operation::Write => (
                upload_name(number),
                LocalSide::Stored(file_name(asking.file)),
            ),
        };
        Plan {
            server: SERVER,
            operation: asking.operation,
            remote,
            origin: Origin::Own,
            local,
            mode: Mode::Octet,
            wanted,
            order: asking.profile.order,
            patience: asking.profile.patience,
            linger: LINGER,
        }
    }

    fn ended(&mut self, number: usize, ending: &Ending, now: Instant) {
        let client = &mut self.clients[number];
        let class = client.asking.class;
        let cost = &mut self.costs[class];
        client.attempts += 1;
        client.took = ending.elapsed;
        if let Some(flaw) = ending.flaw {
            self.promises
                .broken("contents", format!("client {number}: {flaw}"));
        }
        let blocks = ending.blocks;
        let acks = blocks.div_ceil(u64::from(ending.params.windowsize().max(1)));
        let wanted = client.asking.profile.wanted;
        let options = u64::from(wanted != crate::proto::negotiate::Wanted::default());
        // The opening: request and OACK, which a reader acknowledges; without options, a writer's ACK 0.
        let (server, clients) = match client.asking.operation {
            Operation::Read => (options + blocks, 1 + options + acks),
            Operation::Write => (1 + acks, 1 + blocks),
        };
        match ending.outcome {
            Outcome::Probed => {
                cost.server += 1;
                cost.client += 2;
                client.probing = false;
                self.pending.push(Reverse((now, number)));
                return;
            }
            Outcome::Complete => {
                cost.server += server;
                cost.client += clients;
                self.complete += 1;
                client.done_at = Some(now);
                return;
            }
            _ => {}
        }
        cost.server += server;
        cost.client += clients;
        cost.struck += 1;
        self.failed += 1;
        if matches!(client.asking.manner, Manner::Vanish(_)) && ending.outcome == Outcome::Stopped {
            client.done_at = Some(now);
            return;
        }
        if self.lot.mishap == Mishap::None && self.lot.kind.spares_all() {
            self.promises
                .broken("no needless failure", format!("client {number}: {ending}"));
        }
        if client.attempts < ATTEMPTS_MAX {
            let after = TRY_AGAIN_AFTER.mul_f64(1.0 + self.random.f64());
            self.pending.push(Reverse((now + after, number)));
            self.world.alarm_at(now + after);
        }
    }

    /// Starts the mishap, and ends it.
    fn mishap(&mut self, now: Instant) {
        if let Some(until) = self.mishap_until {
            if until > now {
                return;
            }
            self.mishap_until = None;
            self.mishap_over = true;
            self.strike_all();
            self.files.set_faults(self.lot.faults());
            self.world.set_disk(DISK);
        }
        if self.mishap_over || self.lot.mishap == Mishap::None || now < self.lot.mishap_at {
            return;
        }
        let until = now + self.lot.mishap_for;
        self.mishap_until = Some(until);
        self.world.alarm_at(until);
        self.strike_all();
        match self.lot.mishap {
            Mishap::None | Mishap::ClientsVanish => {}
            Mishap::SlowDisk => self.world.set_disk(DISK_SLOW),
            Mishap::ReadsFail => self.files.set_faults(Faults {
                read: Some(ReadFailure::Failed(libc::EIO)),
                ..self.lot.faults()
            }),
            Mishap::ShortReads => self.files.set_faults(Faults {
                short_reads: true,
                ..self.lot.faults()
            }),
            Mishap::ClockLeaps => self.world.network().leap(self.lot.mishap_for),
            Mishap::ServerStalls => {
                let node = self.world.node(self.server);
                self.world.network().suspend(node, until);
            }
            Mishap::ServerRestarts => {
                let settings = settings(&self.lot);
                self.world
                    .restart(self.server, self.files.clone(), settings);
                self.world.listen(self.server, SERVER);
            }
        }
    }

    /// Everything that is running, or has just ended, may need to retransmit.
    fn strike_all(&mut self) {
        for (cost, &host) in self.costs.iter_mut().zip(&self.hosts) {
            cost.struck += self.world.holdings(host).slots as u64;
        }
    }

    fn invite_foreigners(&mut self) {
        for number in 0..FOREIGN {
            let style = Style::ALL[number % Style::ALL.len()];
            let file = self.random.usize(..self.expected.len());
            let windowsize = [4, 16][self.random.usize(..2)];
            let foreign = Foreign::request(
                &mut self.world,
                self.foreign_node,
                style,
                SERVER,
                &file_name(file),
                (512, windowsize),
            );
            let foreign = if number % 4 == 3 {
                foreign.with_pause(Duration::from_millis(2))
            } else {
                foreign
            };
            self.by_socket.insert(foreign.socket(), number);
            self.foreigners.push((file, foreign));
        }
    }

    fn turn_foreigners(&mut self, now: Instant) {
        while let Some((socket, path, octets)) = self.world.network().receive(self.foreign_node) {
            if let Some(&number) = self.by_socket.get(&socket) {
                let (_, foreign) = &mut self.foreigners[number];
                foreign.handle(&mut self.world, path.peer, &octets);
            }
        }
        for (_, foreign) in &mut self.foreigners {
            if foreign.due().is_some_and(|at| at <= now) {
                foreign.expire(&mut self.world);
            }
        }
    }
}

fn settings(lot: &Lot) -> Settings {
    Settings {
        single_port: lot.single_port,
        ..Settings::default()
    }
}

fn file_name(number: usize) -> Vec<u8> {
    format!("image-{number}").into_bytes()
}

fn upload_name(number: usize) -> Vec<u8> {
    format!("upload-{number}").into_bytes()
}
