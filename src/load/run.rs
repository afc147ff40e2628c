//! A run: shards on threads of their own, each driving its share of the clients until all are done.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;
use std::thread;

use rustix::time::{ClockId, clock_gettime};

use super::places::Places;
use super::plan::Schedule;
use super::process;
use super::report::Report;
use super::weather::{Passed, Weathered};
use super::{Failure, File, Load, Mishaps, Tally, Work};
use crate::config::Settings;
use crate::engine::Engine;
use crate::engine::mio::MioEngine;
use crate::proto::outcome::Outcome;
use crate::shard::{Census, LocalSide, Manner, Operation, Origin, Plan, Shard, SlotId};
use crate::store::memory::{Contents, Memory};
use crate::store::{Store, StoreOptions, Writes};
use crate::time::{Duration, Instant};
use crate::wire::Mode;

/// Memory for the DATA packets of what is written: they are the same for all clients.
const FRAME_CACHE_OCTETS: usize = 64 << 20;
/// What the body of all writes is called in the store.
const BODY: &[u8] = b"body";
/// How often those who watch are told how far it has come.
const LIVE_EVERY: Duration = Duration::from_millis(200);
/// How long a client waits that found no socket.
const SOCKET_RETRY: Duration = Duration::from_millis(100);
/// What is taken for a file's length where it is not known, to choose where a client vanishes.
const LENGTH_UNKNOWN: u64 = 1 << 20;
/// How long a client that is done answers repeats of the server's last packet where ACKs may get lost.
/// On loopback they do not, and millions of clients that linger would be in each other's way.
const LINGER: Duration = Duration::from_secs(3);
/// How many places are tried for a client: those behind slow transfers may still be taken.
const PLACES_TRIED_MAX: usize = 64;

/// How far a run has come, and the way to end it, from another thread.
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
    /// Begins nothing more, and ends what runs.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.wakers().iter().for_each(Waker::wake_by_ref);
    }

    /// Has the run say how far it has come.
    pub fn watch(&self) {
        self.watched.store(true, Ordering::Relaxed);
    }

    /// Transfers that completed, that failed and that run, and the octets that were transferred.
    #[must_use]
    pub fn counts(&self) -> [u64; 4] {
        self.totals().map(|total| total.load(Ordering::Relaxed))
    }

    const fn totals(&self) -> [&AtomicU64; 4] {
        [&self.complete, &self.failed, &self.running, &self.octets]
    }

    /// Whether the run was told to end.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    fn wakers(&self) -> std::sync::MutexGuard<'_, Vec<Waker>> {
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Does what `load` says, and reports.
///
/// # Errors
/// If the system is out of something, or there is no process to be watched.
pub fn run(load: &Load, live: &Arc<Live>) -> io::Result<Report> {
    let before = load.server_pid.map(process::usage).transpose()?;
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
    let mut elapsed = Duration::ZERO;
    for thread in running {
        let ended = thread.join();
        let (part, took) = ended.map_err(|_| io::Error::other("a thread broke down"))??;
        tally.merge(&part);
        elapsed = elapsed.max(took);
    }
    // A server that has ended meanwhile tells nothing more.
    let after = load.server_pid.and_then(|pid| process::usage(pid).ok());
    let server = before
        .zip(after)
        .map(|(before, after)| after.since(&before));
    Ok(Report {
        load: load.clone(),
        interrupted: live.is_stopped(),
        elapsed,
        memory_max: process::usage(std::process::id()).map_or(0, |usage| usage.memory_max),
        server,
        tally,
    })
}

/// One thread's share.
struct Driver {
    load: Load,
    number: usize,
    live: Arc<Live>,
    shard: Shard<Weathered<MioEngine>>,
    schedule: Schedule,
    places: Places,
    random: fastrand::Rng,
    linger: Duration,
    running: HashMap<SlotId, Begun>,
    tally: Tally,
    begin: Instant,
    /// When the last transfer ended.
    end: Instant,
    /// What the timeline has of octets.
    passed: Passed,
    told_at: Instant,
    /// What was told so far.
    told: [u64; 4],
}

/// A transfer that runs.
struct Begun {
    intended: Instant,
    late: Duration,
    origin: Origin,
    number: u64,
    /// Which of the files.
    file: usize,
    /// Whether it only asks for the length, and the file comes with another request.
    probe: bool,
}

impl Driver {
    fn new(load: Load, number: usize, live: Arc<Live>) -> io::Result<Self> {
        let threads = load.threads.max(1);
        let mut engine = MioEngine::new()?.with_precise_waits();
        if load.gro {
            engine = engine.with_gro();
        }
        let memory = Memory::new(Writes::Off);
        if let Work::Write(octets) = &load.work {
            memory.insert(BODY, Contents::Octets(octets.clone()));
        }
        let options = StoreOptions {
            frame_cache_octets: FRAME_CACHE_OCTETS,
            threads: 1,
        };
        let store = Store::new(memory, options)?;
        let settings = Arc::new(Settings::default());
        let seed = load.seed.wrapping_add(number as u64);
        let mut random = fastrand::Rng::with_seed(!seed);
        let Mishaps { loss, slow, .. } = load.mishaps;
        let safe = loss == 0.0 && load.server.ip().to_canonical().is_loopback();
        let engine = Weathered::new(engine, loss, slow, random.fork());
        let mut shard = Shard::new(engine, store, settings, Census::default());
        let places = Places::new(&mut shard, load.server, (number, threads))?;
        let begin = shard.engine().now();
        Ok(Self {
            schedule: Schedule::new(
                load.pace.share(number, threads),
                load.bounds.share(number, threads),
                seed,
                begin,
            ),
            load,
            number,
            live,
            shard,
            places,
            random,
            linger: if safe { Duration::ZERO } else { LINGER },
            running: HashMap::new(),
            tally: Tally::default(),
            begin,
            end: begin,
            passed: Passed::default(),
            told_at: begin,
            told: [0; 4],
        })
    }

    /// Drives until nothing runs and nothing is to begin; says how long that took.
    fn run(mut self) -> io::Result<(Tally, Duration)> {
        let mut stopped = false;
        loop {
            if !stopped && self.live.is_stopped() {
                stopped = true;
                self.schedule.stop();
                self.shard.stop();
            }
            let now = self.shard.engine().now();
            while let Some(intended) = self.schedule.take(now) {
                self.begin(intended);
            }
            self.collect();
            self.note(now);
            self.tell(now);
            let next = self.schedule.next();
            if next.is_none() && self.running.is_empty() && self.shard.is_empty() {
                break;
            }
            self.shard.turn_by(next)?;
            self.collect();
        }
        let elapsed = self.end - self.begin;
        let metrics = self.shard.metrics();
        self.tally.round_trip = metrics.latencies.round_trip;
        self.tally.received = metrics.received;
        self.tally.sent = metrics.sent;
        self.tally.receive_drops = metrics.receive_drops;
        self.tally.lost = self.shard.engine().lost();
        self.tally.processor = processor_time();
        self.tally.starved = process::starved();
        self.tally.busiest =
            self.tally.processor.as_secs_f64() / elapsed.as_secs_f64().max(f64::MIN_POSITIVE);
        Ok((self.tally, elapsed))
    }

    /// Begins a transfer that was meant to begin at `intended`.
    fn begin(&mut self, intended: Instant) {
        let number = self.tally.begun * self.load.threads as u64 + self.number as u64;
        self.tally.begun += 1;
        let now = self.shard.engine().now();
        self.tally.timeline.at(now - self.begin).begun += 1;
        let file = chosen(&self.load.files, &mut self.random);
        self.ask(Begun {
            intended,
            late: Duration::ZERO,
            origin: Origin::Own,
            number,
            file,
            probe: self.load.probes && matches!(self.load.work, Work::Read),
        });
    }

    /// Sends the request of a transfer, the first or the second one.
    fn ask(&mut self, begun: Begun) {
        let file = &self.load.files[begun.file];
        let (operation, local) = match &self.load.work {
            Work::Read => (
                Operation::Read,
                LocalSide::Checked {
                    expected: file.expected.clone(),
                    manner: manner(&mut self.random, &self.load, file, begun.probe),
                },
            ),
            Work::Write(_) => (Operation::Write, LocalSide::Stored(BODY.to_vec())),
        };
        let mut wanted = self.load.wanted;
        if self.load.probes && !begun.probe {
            wanted.tsize = None;
        }
        let plan = |origin| Plan {
            server: self.load.server,
            origin,
            operation,
            remote: numbered(&file.name, begun.number),
            local: local.clone(),
            mode: Mode::Octet,
            wanted,
            order: self.load.order,
            patience: self.load.patience,
            linger: self.linger,
        };
        let mut tries = 0;
        let started = loop {
            tries += 1;
            let started = self.places.take(&mut self.shard).and_then(|origin| {
                let id = self.shard.start(plan(origin))?;
                Ok((id, origin))
            });
            match started {
                Err(error)
                    if error.kind() == io::ErrorKind::AddrInUse && tries < PLACES_TRIED_MAX => {}
                started => break started,
            }
        };
        let now = self.shard.engine().now();
        let late = now - begun.intended;
        match started {
            Ok((id, origin)) => {
                if begun.probe || !self.load.probes {
                    self.tally.lateness.record(late);
                }
                let begun = Begun {
                    late,
                    origin,
                    ..begun
                };
                self.running.insert(id, begun);
            }
            Err(error) => {
                let failure = Failure::NotBegun(error.raw_os_error().unwrap_or(libc::EADDRINUSE));
                let point = self.tally.timeline.at(now - self.begin);
                *point.failures.entry(failure.clone()).or_default() += 1;
                *self.tally.failures.entry(failure).or_default() += 1;
                self.schedule.ended(now + SOCKET_RETRY);
            }
        }
    }

    /// Counts what has ended.
    fn collect(&mut self) {
        for (id, ending) in self.shard.take_endings() {
            let Some(begun) = self.running.remove(&id) else {
                continue;
            };
            let now = self.shard.engine().now();
            self.end = now;
            self.places.give_back(begun.origin);
            if begun.probe && ending.outcome == Outcome::Probed {
                self.tally.probes += 1;
                self.ask(Begun {
                    probe: false,
                    ..begun
                });
                continue;
            }
            self.tally.count(&ending, begun.late, now - self.begin);
            self.schedule.ended(now);
        }
    }

    /// Puts down what has passed since the last time, and how many run.
    fn note(&mut self, now: Instant) {
        let passed = self.shard.engine().passed();
        let before = std::mem::replace(&mut self.passed, passed);
        let point = self.tally.timeline.at(now - self.begin);
        point.received += passed.received - before.received;
        point.sent += passed.sent - before.sent;
        point.active = self.running.len() as u64;
    }

    /// Tells those who watch.
    fn tell(&mut self, now: Instant) {
        if !self.live.watched.load(Ordering::Relaxed) || now - self.told_at < LIVE_EVERY {
            return;
        }
        self.told_at = now;
        let under_way = self.shard.all_running(usize::MAX);
        let octets: u64 = under_way.iter().map(|running| running.octets).sum();
        let counts = [
            self.tally.complete,
            self.tally.failed(),
            self.running.len() as u64,
            octets + self.tally.octets,
        ];
        let told = std::mem::replace(&mut self.told, counts);
        for ((total, now), before) in self.live.totals().into_iter().zip(counts).zip(told) {
            // Wrapping, for those that run become fewer too.
            total.fetch_add(now.wrapping_sub(before), Ordering::Relaxed);
        }
    }
}

/// One of the files, by their weights.
fn chosen(files: &[File], random: &mut fastrand::Rng) -> usize {
    let total: u64 = files.iter().map(|file| u64::from(file.weight)).sum();
    let mut place = random.u64(0..total.max(1));
    for (number, file) in files.iter().enumerate() {
        match place.checked_sub(u64::from(file.weight)) {
            Some(rest) => place = rest,
            None => return number,
        }
    }
    0
}

/// How far a client goes: some vanish, somewhere amid the file.
fn manner(random: &mut fastrand::Rng, load: &Load, file: &File, probe: bool) -> Manner {
    if probe {
        Manner::Probe
    } else if load.mishaps.abandon > 0.0 && random.f64() < load.mishaps.abandon {
        let len = file.expected.len().unwrap_or(LENGTH_UNKNOWN).max(1);
        Manner::Vanish(random.u64(0..len))
    } else {
        Manner::Whole
    }
}

/// The name, with the transfer's number in the place of `{number}`.
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

/// What the calling thread has used.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::Expected;

    #[test]
    fn files_come_by_their_weights() {
        let file = |weight| File {
            name: vec![weight as u8],
            weight,
            expected: Arc::new(Expected::Anything),
        };
        let files = [file(1), file(0), file(3)];
        let mut random = fastrand::Rng::with_seed(1);
        let mut counts = [0; 4];
        for _ in 0..4000 {
            counts[files[chosen(&files, &mut random)].weight as usize] += 1;
        }
        assert_eq!(counts[0], 0);
        assert!((900..1100).contains(&counts[1]), "{counts:?}");
    }

    #[test]
    fn names_may_hold_the_number() {
        assert_eq!(numbered(b"up/{number}.bin", 12), b"up/12.bin");
        assert_eq!(numbered(b"plain", 12), b"plain");
    }
}
