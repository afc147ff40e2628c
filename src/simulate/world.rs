//! A simulated world of hosts: each runs a real shard with its own store, driven event by event.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::MTU;
use crate::config::Settings;
use crate::engine::Bind;
use crate::engine::sim::{Network, NodeId, Pace, SimEngine, Traffic, Weather};
use crate::metrics::Metrics;
use crate::shard::{Census, Ending, Holdings, Plan, Shard, SlotId};
use crate::store::{Backend, Store, StoreOptions};
use crate::time::{Duration, Instant};

/// Memory for frames on each host.
const FRAME_CACHE_OCTETS: usize = 64 << 20;

/// Identifies a host within one world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Host(usize);

/// Hosts, the network between them, and the clock.
#[derive(Debug)]
pub struct World {
    network: Network,
    hosts: Vec<Running>,
    /// The latency of every disk operation.
    disk: Duration,
    agenda: BinaryHeap<Reverse<Entry>>,
    entries: u64,
}

#[derive(Debug)]
struct Running {
    node: NodeId,
    shard: Shard<SimEngine>,
    store: Arc<Store>,
    /// Whether the disk's next event is on the agenda.
    disk_due: bool,
    /// Whether something arrived while its processor was busy.
    turn_due: bool,
}

/// A scheduled event; ordered by time, then by the order of entry.
#[derive(Debug)]
struct Entry {
    at: Instant,
    number: u64,
    what: What,
}

#[derive(Debug)]
enum What {
    /// The host's disk has completed its work.
    Disk(Host),
    /// The host starts a transfer.
    Start(Host, Box<Plan>),
    /// Something other than a host asked to be woken.
    Alarm,
}

impl World {
    /// A world without hosts.
    #[must_use]
    pub fn new(seed: u64, weather: Weather, disk: Duration) -> Self {
        let network = Network::new(seed, weather);
        Self {
            network,
            hosts: Vec::new(),
            disk,
            agenda: BinaryHeap::new(),
            entries: 0,
        }
    }

    /// Adds a host with these files.
    ///
    /// # Panics
    /// Never: a store without threads cannot fail to start one.
    pub fn add_host(
        &mut self,
        name: &str,
        address: IpAddr,
        files: impl Backend,
        settings: Settings,
    ) -> Host {
        let node = self.network.add_node(name, address, MTU);
        let store = store(files);
        let engine = self.network.engine(node);
        let shard = Shard::new(engine, store.clone(), Arc::new(settings), Census::default());
        self.hosts.push(Running {
            node,
            shard,
            store,
            disk_due: false,
            turn_due: false,
        });
        Host(self.hosts.len() - 1)
    }

    /// Makes a host take requests.
    ///
    /// # Panics
    /// If the address is taken: a bug in the simulation.
    pub fn listen(&mut self, host: Host, address: SocketAddr) {
        self.hosts[host.0]
            .shard
            .listen(Bind::to(address))
            .expect("the address is free");
    }

    /// Makes a host start a transfer at a given time.
    pub fn start_at(&mut self, at: Instant, host: Host, plan: Plan) {
        self.enter(at, What::Start(host, Box::new(plan)));
    }

    /// Starts a transfer immediately.
    ///
    /// # Errors
    /// If the host has no port left.
    pub fn start(&mut self, host: Host, plan: Plan) -> io::Result<SlotId> {
        let id = self.hosts[host.0].shard.start(plan)?;
        self.turn(host);
        Ok(id)
    }

    /// Makes [`World::step`] stop at a given time, for callers that act from outside.
    pub fn alarm_at(&mut self, at: Instant) {
        self.enter(at, What::Alarm);
    }

    /// Disconnects a host: it keeps running, but none of its packets arrive, and none reach it.
    pub fn cut_off(&self, host: Host) {
        self.network.cut_off(self.hosts[host.0].node);
    }

    /// Ends a host's process without notice, and starts a new one with these files and settings.
    pub fn restart(&mut self, host: Host, files: impl Backend, settings: Settings) {
        let running = &mut self.hosts[host.0];
        self.network.restart(running.node);
        running.store = store(files);
        let engine = self.network.engine(running.node);
        let settings = Arc::new(settings);
        running.shard = Shard::new(engine, running.store.clone(), settings, Census::default());
        running.turn_due = false;
    }

    /// Sets the latency of every disk operation from now on.
    pub const fn set_disk(&mut self, disk: Duration) {
        self.disk = disk;
    }

    /// Completes the outstanding work of all hosts' stores; returns how much there was.
    pub fn finish_store_work(&self) -> usize {
        let stores = self.hosts.iter().map(|host| &host.store);
        stores
            .map(|store| {
                std::iter::repeat_with(|| store.run_next())
                    .take_while(|&ran| ran)
                    .count()
            })
            .sum()
    }

    /// Advances to the next event; false if there is none left.
    pub fn step(&mut self) -> bool {
        let Some(next) = self.next_event() else {
            return false;
        };
        let now = next.max(self.network.now());
        let woken = self.network.advance(now);
        while self
            .agenda
            .peek()
            .is_some_and(|Reverse(entry)| entry.at <= now)
        {
            let Some(Reverse(entry)) = self.agenda.pop() else {
                break;
            };
            match entry.what {
                What::Disk(host) => self.visit_disk(host),
                What::Alarm => {}
                What::Start(host, plan) => {
                    // The simulated network never runs out of ports.
                    let _ = self.start(host, *plan);
                }
            }
        }
        for index in 0..self.hosts.len() {
            let host = &self.hosts[index];
            let due = self.host_event(host).is_some_and(|at| at <= now);
            if due || woken.contains(&host.node) {
                self.turn(Host(index));
            }
        }
        true
    }

    /// Advances the clock unnoticed, as if the machines were suspended: what arrived meanwhile is read
    /// afterwards, and timers fire late.
    pub fn sleep(&mut self, time: Duration) {
        let woken = self.network.advance(self.network.now() + time);
        for index in 0..self.hosts.len() {
            if woken.contains(&self.hosts[index].node) {
                self.turn(Host(index));
            }
        }
    }

    /// The time of the next event, if there is one.
    #[must_use]
    pub fn next_event(&self) -> Option<Instant> {
        let agenda = self.agenda.peek().map(|Reverse(entry)| entry.at);
        let hosts = self
            .hosts
            .iter()
            .filter_map(|host| self.host_event(host))
            .min();
        [agenda, hosts, self.network.next_event()]
            .into_iter()
            .flatten()
            .min()
    }

    /// The time of a host's next event: packets that have arrived wait for its processor.
    fn host_event(&self, host: &Running) -> Option<Instant> {
        let wake = if host.turn_due || self.network.has_arrived(host.node) {
            Some(Instant::ZERO)
        } else {
            host.shard.next_wake()
        };
        wake.map(|at| at.max(self.network.busy_until(host.node)))
    }

    /// Runs one iteration of a host's loop, or, if that takes its processor no time, as many as it takes
    /// to read everything that has arrived.
    fn turn(&mut self, host: Host) {
        let running = &mut self.hosts[host.0];
        running.turn_due = self.network.busy_until(running.node) > self.network.now();
        if running.turn_due {
            return;
        }
        loop {
            // A simulated engine never fails to wait.
            let _ = running.shard.turn();
            self.network.work_done(running.node);
            let is_busy = self.network.busy_until(running.node) > self.network.now();
            if is_busy || !self.network.has_arrived(running.node) {
                break;
            }
        }
        if self.disk.is_zero() {
            while running.store.run_next() {
                let _ = running.shard.turn();
            }
        } else if !running.disk_due {
            running.disk_due = true;
            let at = self.network.now() + self.disk;
            self.enter(at, What::Disk(host));
        }
    }

    fn visit_disk(&mut self, host: Host) {
        let running = &mut self.hosts[host.0];
        running.disk_due = false;
        let mut worked = false;
        while running.store.run_next() {
            worked = true;
        }
        if worked {
            self.turn(host);
        }
    }

    fn enter(&mut self, at: Instant, what: What) {
        self.entries += 1;
        self.agenda.push(Reverse(Entry {
            at,
            number: self.entries,
            what,
        }));
    }

    /// The current time.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.network.now()
    }

    /// The network between the hosts.
    #[must_use]
    pub const fn network(&self) -> &Network {
        &self.network
    }

    /// Sets the pace of a host's processor from now on.
    pub fn set_pace(&self, host: Host, pace: Pace) {
        self.network.set_pace(self.hosts[host.0].node, pace);
    }

    /// The traffic that a host has sent.
    #[must_use]
    pub fn sent(&self, host: Host) -> Traffic {
        self.network.sent(self.hosts[host.0].node)
    }

    /// The counters of a host's shard.
    #[must_use]
    pub fn metrics(&self, host: Host) -> Metrics {
        self.hosts[host.0].shard.metrics()
    }

    /// The transfers requested by a host that have ended since the last call.
    pub fn take_endings(&mut self, host: Host) -> Vec<Ending> {
        let endings = self.take_named_endings(host).into_iter();
        endings.map(|(_, ending)| ending).collect()
    }

    /// The same, each with the name that [`World::start`] returned.
    pub fn take_named_endings(&mut self, host: Host) -> Vec<(SlotId, Ending)> {
        self.hosts[host.0].shard.take_endings()
    }

    /// The contents of a host's shard.
    #[must_use]
    pub fn holdings(&self, host: Host) -> Holdings {
        self.hosts[host.0].shard.holdings()
    }

    /// The longest time that any transfer is past its idle deadline, on hosts whose processors are not
    /// busy.
    #[must_use]
    pub fn overdue(&self) -> Duration {
        let idle = self
            .hosts
            .iter()
            .filter(|host| self.network.busy_until(host.node) <= self.now());
        idle.map(|host| host.shard.overdue())
            .max()
            .unwrap_or_default()
    }

    /// The number of frames being made on all hosts.
    #[must_use]
    pub fn frames_pending(&self) -> u64 {
        let stores = self.hosts.iter().map(|host| &host.store);
        stores.map(|store| store.statistics().pending).sum()
    }

    /// The host's node in the network.
    #[must_use]
    pub fn node(&self, host: Host) -> NodeId {
        self.hosts[host.0].node
    }

    /// The number of slots in the tables of all hosts.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.hosts.iter().map(|host| host.shard.len()).sum()
    }

    /// The shard of a host.
    pub fn shard_mut(&mut self, host: Host) -> &mut Shard<SimEngine> {
        &mut self.hosts[host.0].shard
    }
}

/// # Panics
/// Never: a store without threads cannot fail to start one.
fn store(files: impl Backend) -> Arc<Store> {
    let options = StoreOptions {
        frame_cache_octets: FRAME_CACHE_OCTETS,
        threads: 0,
    };
    Store::new(files, options).expect("no thread is started")
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}
