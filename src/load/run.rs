//! A run: each shard drives its share of the clients on a thread of its own, until all are done.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;
use std::thread;

use super::busy::Busy;
use super::mix::Mix;
use super::places::Places;
use super::plan::{Schedule, Share};
use super::process::{self, Status};
use super::profile::Profile;
use super::report::Report;
use super::tally::lacks_block;
use super::watch::Watch;
use super::weather::{Conditions, Passed, Weathered};
use super::{Failure, Group, Load, Tally, Waits, Work};
use crate::config::Settings;
use crate::descriptors;
use crate::engine::Engine;
use crate::engine::mio::MioEngine;
use crate::proto::negotiate::Wanted;
use crate::proto::outcome::Outcome;
use crate::shard::{Census, LocalSide, Manner, Operation, Origin, Plan, Shard, SlotId};
use crate::store::memory::Memory;
use crate::store::{Store, StoreOptions, Writes};
use crate::time::{Duration, Instant};
use crate::wire::Mode;

/// Memory for the DATA packets of writes, which all clients share.
const FRAME_CACHE_OCTETS: usize = 64 << 20;
/// How often progress is published to observers.
const LIVE_EVERY: Duration = Duration::from_millis(200);
/// How long a client waits before it retries, if it found no socket or the server's port was closed.
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// How long a finished client still answers repeats of the server's last packet, where ACKs may get lost.
/// On loopback ACKs are not lost, and millions of lingering clients would get in each other's way.
const LINGER: Duration = Duration::from_secs(3);
/// How many places are tried for a client: places last used by slow transfers may still be occupied.
const PLACES_TRIED_MAX: usize = 64;

/// The progress of a run, and a way to stop it from another thread.
#[derive(Debug, Default)]
pub struct Live {
    stopped: AtomicBool,
    watched: AtomicBool,
    wakers: Mutex<Vec<Waker>>,
    complete: AtomicU64,
    failed: AtomicU64,
    running: AtomicU64,
    octets: AtomicU64,
}

impl Live {
    /// Starts no more transfers, and ends the running ones.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.wakers().iter().for_each(Waker::wake_by_ref);
    }

    /// Asks the run to publish its progress.
    pub fn watch(&self) {
        self.watched.store(true, Ordering::Relaxed);
    }

    /// The numbers of completed, failed and running transfers, and the octets transferred.
    #[must_use]
    pub fn counts(&self) -> [u64; 4] {
        self.totals().map(|total| total.load(Ordering::Relaxed))
    }

    const fn totals(&self) -> [&AtomicU64; 4] {
        [&self.complete, &self.failed, &self.running, &self.octets]
    }

    /// Whether the run was told to stop.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    fn wakers(&self) -> std::sync::MutexGuard<'_, Vec<Waker>> {
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs `load` and reports the results. Raises this process's descriptor limit to its hard limit for
/// good: off loopback, each client takes one descriptor.
///
/// # Errors
/// If the system runs out of a resource, or the process to monitor does not exist.
pub fn run(load: &Load, live: &Arc<Live>) -> io::Result<Report> {
    descriptors::raise_limit();
    let watch = load.server_pid.map(Watch::begin).transpose()?;
    let threads = load.threads.max(1);
    let mut drivers = Vec::new();
    for number in 0..threads {
        let driver = Driver::new(load.clone(), number, live.clone())?;
        live.wakers().push(driver.shard.engine().waker());
        drivers.push(driver);
    }
    let run = |(number, driver): (usize, Driver)| {
        thread::Builder::new()
            .name(format!("load-{number}"))
            .spawn(move || driver.run())
    };
    let running = drivers
        .into_iter()
        .enumerate()
        .map(run)
        .collect::<io::Result<Vec<_>>>()?;

    let mut tally = Tally::default();
    let mut groups = vec![Tally::default(); load.groups.len()];
    let mut elapsed = Duration::ZERO;
    for thread in running {
        let ended = thread.join();
        let part = ended.map_err(|_| io::Error::other("a thread broke down"))??;
        tally.merge(&part.tally);
        for (group, part) in groups.iter_mut().zip(&part.groups) {
            group.merge(part);
        }
        elapsed = elapsed.max(part.elapsed);
    }
    // If the server has ended meanwhile, there is no usage to report.
    let server = watch.and_then(Watch::end);
    Ok(Report {
        load: load.clone(),
        interrupted: live.is_stopped(),
        elapsed,
        memory_max: Status::of(std::process::id()).memory_max,
        server,
        tally,
        groups,
    })
}

/// The results of one thread.
struct Part {
    tally: Tally,
    /// The counts of each group.
    groups: Vec<Tally>,
    /// The time from the start of the run to the end of the last transfer.
    elapsed: Duration,
}

/// One thread's share of the run.
struct Driver {
    load: Load,
    number: usize,
    live: Arc<Live>,
    shard: Shard<Weathered<MioEngine>>,
    crowds: Vec<Crowd>,
    running: HashMap<SlotId, Begun>,
    /// Transfers that were due to start.
    begun: u64,
    /// The counts of all crowds together.
    tally: Tally,
    begin: Instant,
    /// When the last transfer ended.
    end: Instant,
    /// The octets that the timeline already includes.
    passed: Passed,
    told_at: Instant,
    /// The progress published so far.
    told: [u64; 4],
}

/// One thread's share of a group.
struct Crowd {
    group: Group,
    /// The name in the store of the body of its writes.
    body: Vec<u8>,
    schedule: Schedule,
    files: Mix,
    profiles: Mix,
    /// The places, by profile.
    places: Vec<Places>,
    random: fastrand::Rng,
    linger: Duration,
    tally: Tally,
}

/// A running transfer.
#[derive(Debug, Clone, Copy)]
struct Begun {
    intended: Instant,
    late: Duration,
    origin: Origin,
    number: u64,
    /// The index of its crowd,
    crowd: usize,
    /// of its profile in the crowd,
    profile: usize,
    /// and of its file.
    file: usize,
    /// Whether it only asks for the length, and a second request fetches the file.
    probe: bool,
    /// Whether the server's host reported the port as closed.
    refused: bool,
}

impl Driver {
    fn new(load: Load, number: usize, live: Arc<Live>) -> io::Result<Self> {
        let mut engine = MioEngine::new()?.with_precise_waits().with_reports();
        if load.gro {
            engine = engine.with_gro();
        }
        let memory = Memory::new(Writes::Off);
        for (index, group) in load.groups.iter().enumerate() {
            if let Work::Write(contents) = &group.work {
                memory.insert(&body(index), contents.clone());
            }
        }
        let options = StoreOptions {
            frame_cache_octets: FRAME_CACHE_OCTETS,
            threads: 1,
        };
        let store = Store::new(memory, options)?;
        let settings = Arc::new(Settings::default());
        let mut random = fastrand::Rng::with_seed(!load.seed.wrapping_add(number as u64));
        let engine = Weathered::new(engine, random.fork());
        let mut shard = Shard::new(engine, store, settings, Census::default());
        let begin = shard.engine().now();
        let crowds = (0..load.groups.len())
            .map(|index| Crowd::new(&load, index, number, &mut shard, begin, random.fork()))
            .collect::<io::Result<_>>()?;
        Ok(Self {
            load,
            number,
            live,
            shard,
            crowds,
            running: HashMap::new(),
            begun: 0,
            tally: Tally::default(),
            begin,
            end: begin,
            passed: Passed::default(),
            told_at: begin,
            told: [0; 4],
        })
    }

    /// Drives clients until nothing is running and nothing is left to start.
    fn run(mut self) -> io::Result<Part> {
        let mut stopped = false;
        let mut busy = Busy::new(self.begin);
        loop {
            if !stopped && self.live.is_stopped() {
                stopped = true;
                self.stop();
            }
            let now = self.shard.engine().now();
            busy.note(now, process::processor_time);
            for crowd in 0..self.crowds.len() {
                while let Some(intended) = self.crowds[crowd].schedule.take(now) {
                    self.begin(crowd, intended);
                }
            }
            self.collect();
            self.note(now);
            self.tell(now);
            let schedules = self.crowds.iter().map(|crowd| &crowd.schedule);
            let next = schedules.filter_map(Schedule::next).min();
            let nothing_runs = next.is_none() && self.running.is_empty();
            if nothing_runs && self.shard.is_silent() && !self.shard.engine().holds_any() {
                break;
            }
            self.shard.turn_by(next)?;
            self.refused();
            self.collect();
        }
        // An observer of several runs in sequence sees that this one is over.
        self.tell_counts();
        let elapsed = self.end - self.begin;
        let metrics = self.shard.metrics();
        let mut round_trips = metrics.latencies.round_trip;
        round_trips.merge(self.shard.engine_mut().round_trips().took());
        self.tally.round_trip = Waits::all_came(round_trips);
        self.tally.received = metrics.received;
        self.tally.sent = metrics.sent;
        self.tally.receive_drops = metrics.receive_drops;
        self.tally.disturbed = self.shard.engine().disturbed();
        self.tally.processor = process::processor_time();
        self.tally.starved = process::starved();
        self.tally.busiest = busy.most(elapsed, self.tally.processor);
        let groups: Vec<_> = self.crowds.into_iter().map(|crowd| crowd.tally).collect();
        for group in &groups {
            self.tally.merge(group);
        }
        Ok(Part {
            tally: self.tally,
            groups,
            elapsed,
        })
    }

    /// Starts no more transfers, and ends the running ones.
    fn stop(&mut self) {
        // Transfers that ended before this do not count as interrupted.
        self.collect();
        for begun in self.running.values() {
            self.crowds[begun.crowd].tally.interrupted += 1;
        }
        let schedules = self.crowds.iter_mut().map(|crowd| &mut crowd.schedule);
        schedules.for_each(Schedule::stop);
        self.shard.stop();
    }

    /// Starts the transfer whose intended start is `intended`.
    fn begin(&mut self, crowd: usize, intended: Instant) {
        let number = self.begun * self.load.threads.max(1) as u64 + self.number as u64;
        self.begun += 1;
        let Crowd {
            group,
            files,
            profiles,
            random,
            tally,
            ..
        } = &mut self.crowds[crowd];
        tally.begun += 1;
        let now = self.shard.engine().now();
        tally.timeline.at(now - self.begin).begun += 1;
        let profile = profiles.draw(random);
        let begun = Begun {
            intended,
            late: Duration::ZERO,
            origin: Origin::Own,
            number,
            crowd,
            profile,
            file: files.draw(random),
            probe: group.profiles[profile].0.probes && matches!(group.work, Work::Read),
            refused: false,
        };
        self.ask(begun);
    }

    /// Sends the first or second request of a transfer.
    fn ask(&mut self, begun: Begun) {
        let (server, shard) = (self.load.server, &mut self.shard);
        let crowd = &mut self.crowds[begun.crowd];
        let mut tries = 0;
        let started = loop {
            tries += 1;
            let started = crowd.places[begun.profile].take(shard).and_then(|origin| {
                let plan = crowd.plan(server, &Begun { origin, ..begun });
                Ok((shard.start(plan)?, origin))
            });
            match started {
                Err(error)
                    if error.kind() == io::ErrorKind::AddrInUse && tries < PLACES_TRIED_MAX => {}
                started => break started,
            }
        };
        let now = shard.engine().now();
        let late = now - begun.intended;
        match started {
            Ok((id, origin)) => {
                if begun.is_first(&crowd.group) {
                    crowd.tally.lateness.record(late);
                }
                let begun = Begun {
                    late,
                    origin,
                    ..begun
                };
                self.running.insert(id, begun);
            }
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(libc::EADDRINUSE);
                let time = now - self.begin;
                let reads = matches!(crowd.group.work, Work::Read);
                crowd.tally.fail(Failure::NotBegun(errno), time, reads);
                crowd.schedule.ended(now + RETRY_AFTER);
            }
        }
    }

    /// Ends the transfers for whose packets the server's host reported a closed port.
    fn refused(&mut self) {
        for (socket, path) in self.shard.engine_mut().inner_mut().take_refusals() {
            if let Some(id) = self.shard.unreachable(socket, &path)
                && let Some(begun) = self.running.get_mut(&id)
            {
                begun.refused = true;
            }
        }
    }

    /// Counts the transfers that have ended.
    fn collect(&mut self) {
        for (id, ending) in self.shard.take_endings() {
            let Some(begun) = self.running.remove(&id) else {
                continue;
            };
            let now = self.shard.engine().now();
            self.end = now;
            let crowd = &mut self.crowds[begun.crowd];
            crowd.places[begun.profile].give_back(begun.origin);
            if let Origin::Shared(socket, address) = begun.origin {
                let engine = self.shard.engine_mut();
                engine.round_trips().forget(socket, address);
            }
            let was_cut = self.live.is_stopped();
            if begun.is_first(&crowd.group) && crowd.asks_options(begun.profile) {
                crowd.tally.agreed(&ending, begun.late, was_cut);
            }
            if begun.probe && ending.outcome == Outcome::Probed {
                crowd.tally.probes += 1;
                self.ask(Begun {
                    probe: false,
                    ..begun
                });
                continue;
            }
            let mut next = now;
            let time = now - self.begin;
            if begun.refused {
                let failure = Failure::Refused;
                crowd.tally.fail(failure, time, lacks_block(&ending));
                next += RETRY_AFTER;
            } else {
                crowd.tally.count(&ending, begun.late, time, was_cut);
            }
            crowd.schedule.ended(next);
        }
    }

    /// Records in the timeline what passed since the last call, and how many transfers are running.
    fn note(&mut self, now: Instant) {
        let passed = self.shard.engine().passed();
        let before = std::mem::replace(&mut self.passed, passed);
        let point = self.tally.timeline.at(now - self.begin);
        point.received += passed.received - before.received;
        point.sent += passed.sent - before.sent;
        point.active = self.running.len() as u64;
    }

    /// Publishes the progress to observers.
    fn tell(&mut self, now: Instant) {
        if !self.live.watched.load(Ordering::Relaxed) || now - self.told_at < LIVE_EVERY {
            return;
        }
        self.told_at = now;
        self.tell_counts();
    }

    fn tell_counts(&mut self) {
        let under_way = self.shard.all_running(usize::MAX);
        let octets: u64 = under_way.iter().map(|running| running.octets).sum();
        let sum = |count: fn(&Tally) -> u64| -> u64 {
            self.crowds.iter().map(|crowd| count(&crowd.tally)).sum()
        };
        let counts = [
            sum(|tally| tally.complete),
            sum(Tally::failed),
            self.running.len() as u64,
            octets + sum(|tally| tally.octets),
        ];
        let told = std::mem::replace(&mut self.told, counts);
        for ((total, now), before) in self.live.totals().into_iter().zip(counts).zip(told) {
            // The addition wraps, because the number of running transfers also decreases.
            total.fetch_add(now.wrapping_sub(before), Ordering::Relaxed);
        }
    }
}

impl Begun {
    /// Whether its request is the first one of the transfer.
    fn is_first(&self, group: &Group) -> bool {
        self.probe || !group.profiles[self.profile].0.probes || !matches!(group.work, Work::Read)
    }
}

impl Crowd {
    fn new(
        load: &Load,
        index: usize,
        thread: usize,
        shard: &mut Shard<Weathered<MioEngine>>,
        begin: Instant,
        random: fastrand::Rng,
    ) -> io::Result<Self> {
        let group = load.groups[index].clone();
        let threads = load.threads.max(1);
        let kinds: usize = load.groups.iter().map(|group| group.profiles.len()).sum();
        let part = Share {
            number: thread,
            of: threads,
        };
        let places = group
            .profiles
            .iter()
            .map(|(profile, _)| {
                let kind = (profile.ports, Conditions::new(group.weather, profile));
                Places::new(shard, load.server, part, kinds, kind)
            })
            .collect::<io::Result<_>>()?;
        let aftermath = |kind: &(Profile, u32)| Conditions::new(group.weather, &kind.0).aftermath();
        let linger = if load.server.ip().to_canonical().is_loopback() {
            let aftermaths = group.profiles.iter().map(aftermath);
            aftermaths.map(|time| time.unwrap_or(LINGER)).max()
        } else {
            None
        };
        // Crowds with random arrivals must not share the same random times.
        let seed = load.seed.wrapping_add((thread + index * threads) as u64);
        Ok(Self {
            body: body(index),
            schedule: Schedule::new(group.pace, group.bounds, part, seed, begin),
            files: Mix::new(group.files.iter().map(|file| file.weight)),
            profiles: Mix::new(group.profiles.iter().map(|&(_, weight)| weight)),
            places,
            random,
            linger: linger.unwrap_or(LINGER),
            tally: Tally::default(),
            group,
        })
    }

    /// Whether clients of this profile request options.
    fn asks_options(&self, profile: usize) -> bool {
        self.group.profiles[profile].0.wanted != Wanted::default()
    }

    /// The plan of a request, without the place to send it from.
    fn plan(&mut self, server: SocketAddr, begun: &Begun) -> Plan {
        let Group {
            files,
            profiles,
            work,
            abandon,
            ..
        } = &self.group;
        let (file, profile) = (&files[begun.file], &profiles[begun.profile].0);
        let manner = manner(&mut self.random, *abandon, begun.probe);
        let (operation, local) = match work {
            Work::Read => {
                let expected = file.expected.clone();
                (Operation::Read, LocalSide::Checked { expected, manner })
            }
            Work::Write(_) => {
                let name = self.body.clone();
                (Operation::Write, LocalSide::Offered { name, manner })
            }
        };
        let mut wanted = profile.wanted;
        if profile.probes && !begun.probe {
            wanted.tsize = None;
        }
        Plan {
            server,
            origin: begun.origin,
            operation,
            remote: numbered(&file.name, begun.number),
            local,
            mode: Mode::Octet,
            wanted,
            order: profile.order,
            patience: profile.patience,
            linger: self.linger,
        }
    }
}

/// The name in the store of the body of a group's writes.
fn body(group: usize) -> Vec<u8> {
    group.to_string().into_bytes()
}

/// How far a client goes: some vanish at a random point in the file.
fn manner(random: &mut fastrand::Rng, abandon: f64, probe: bool) -> Manner {
    if probe {
        Manner::Probe
    } else if abandon > 0.0 && random.f64() < abandon {
        Manner::Vanish(random.u32(..))
    } else {
        Manner::Whole
    }
}

/// The name, with `{number}` replaced by the transfer's number.
fn numbered(name: &[u8], number: u64) -> Vec<u8> {
    const MARK: &[u8] = b"{number}";
    match name.windows(MARK.len()).position(|window| window == MARK) {
        None => name.to_vec(),
        Some(place) => [
            &name[..place],
            number.to_string().as_bytes(),
            &name[place + MARK.len()..],
        ]
        .concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_hold_the_number() {
        assert_eq!(numbered(b"up/{number}.bin", 12), b"up/12.bin");
        assert_eq!(numbered(b"plain", 12), b"plain");
    }
}
