//! The client: one transfer requested by this end, from its first request to a summary or a sentence that
//! says what went wrong.
//!
//! [`Transfer::turn`] is called in a loop. It tries a server's addresses in turn until one answers, and
//! repeats the request without options if a server does not support any.

mod failure;
mod files;

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;

use crate::config::{LINGER, Settings, blksize_of_mtu};
use crate::engine::mio::MioEngine;
use crate::engine::{Engine, route_mtu};
use crate::proto::negotiate::{BLKSIZE_DEFAULT, ORDER_DEFAULT, Params, Wanted};
use crate::proto::outcome::Outcome;
use crate::proto::timing::Patience;
use crate::shard::{Census, Ending, LocalSide, Operation, Origin, Plan, Shard, SlotId};
use crate::store::{Store, StoreOptions};
use crate::time::Duration;
use crate::wire::{ErrorCode, Mode};

pub use failure::Failure;
pub use files::LocalFile;

use files::{Files, Trouble};

/// Window size to request, in blocks: beyond 64 nothing is gained.
const WINDOWSIZE_MAX: u16 = 64;
/// Octets in flight to request: what an ordinary user's receive buffer holds (208 KiB on Linux, where each
/// datagram is charged more than its payload).
const WINDOW_OCTETS_MAX: u32 = 128 << 10;
/// How long to wait for one address while others remain: the request is sent after 0, 1 and 3 s.
const NEXT_ADDRESS_AFTER: Duration = Duration::from_secs(4);
/// A lock-step server retransmits a block after at least this time; `timeout` may set another.
const LOCKSTEP_INTERVAL: Duration = Duration::from_secs(1);
/// Minimum linger time of a complete read if a window was negotiated: when RTTs are close to zero, longer
/// than a server that measures RTTs waits before it retransmits a window.
const STAY_MIN: Duration = Duration::from_millis(50);
/// Maximum linger time, because many reads may follow each other.
const STAY_MAX: Duration = Duration::from_millis(250);
/// Memory for DATA packets: enough to read ahead for one transfer.
const FRAME_CACHE_OCTETS: usize = 16 << 20;

/// A transfer to perform.
#[derive(Debug, Clone)]
pub struct Job {
    /// The server's addresses, in the order in which to try them.
    pub servers: Vec<SocketAddr>,
    /// The direction of the file.
    pub operation: Operation,
    /// The file's name on the server.
    pub remote: Vec<u8>,
    /// The local file.
    pub local: LocalFile,
    /// The transfer mode.
    pub mode: Mode,
    /// The options to request.
    pub offer: Offer,
}

/// The options to request from a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// None, for servers that do not support any.
    Nothing,
    /// The file's length, a block size and a window size; unset values follow from the route to the server.
    Options {
        /// Block size in octets.
        blksize: Option<u16>,
        /// Window size in blocks.
        windowsize: Option<u16>,
        /// Retransmission timeout in seconds, which this end observes whether the server does or not.
        timeout: Option<u8>,
    },
}

/// All options, each derived from the route to the server.
impl Default for Offer {
    fn default() -> Self {
        Self::Options {
            blksize: None,
            windowsize: None,
            timeout: None,
        }
    }
}

impl Offer {
    /// The options to request from this server.
    fn wanted(self, server: SocketAddr) -> Wanted {
        let Self::Options {
            blksize,
            windowsize,
            timeout,
        } = self
        else {
            return Wanted::default();
        };
        let blksize = blksize.unwrap_or_else(|| {
            // The smallest possible MTU would give less than the default, which gains nothing.
            blksize_of_mtu(server.ip(), route_mtu(server)).max(BLKSIZE_DEFAULT)
        });
        let fitting = WINDOW_OCTETS_MAX / u32::from(blksize.max(1));
        let fitting = u16::try_from(fitting).unwrap_or(u16::MAX);
        Wanted {
            blksize: Some(blksize),
            windowsize: Some(windowsize.unwrap_or_else(|| fitting.clamp(1, WINDOWSIZE_MAX))),
            timeout,
            // For a write, the file's length replaces this.
            tsize: Some(0),
        }
    }
}

/// The addresses of `host`, in the order that the system prefers.
///
/// # Errors
/// If there are none.
pub fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, Failure> {
    let failure = |why: String| Failure::UnknownHost {
        host: host.to_owned(),
        why,
    };
    let mut addresses: Vec<SocketAddr> = (host, port)
        .to_socket_addrs()
        .map_err(|error| failure(error.to_string()))?
        .collect();
    addresses.dedup();
    if addresses.is_empty() {
        return Err(failure("it has no address".to_owned()));
    }
    Ok(addresses)
}

/// Ends a transfer from another thread.
#[derive(Debug, Default)]
pub struct Stop {
    wanted: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Stop {
    /// Ends the transfer as soon as possible.
    pub fn stop(&self) {
        self.wanted.store(true, Ordering::SeqCst);
        let waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner);
        waker.iter().for_each(Waker::wake_by_ref);
    }

    fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::SeqCst)
    }

    fn set_waker(&self, waker: Waker) {
        *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(waker);
    }
}

/// A transfer in progress. If it is dropped before it is complete, it leaves no file.
#[derive(Debug)]
pub struct Transfer {
    job: Job,
    /// Index of the server address being tried.
    place: usize,
    stop: Arc<Stop>,
    store: Arc<Store>,
    trouble: Trouble,
    shard: Shard<MioEngine>,
    id: Option<SlotId>,
    /// How far this attempt has progressed.
    reached: Reached,
    /// When it got there, since the start of the attempt.
    reached_after: Duration,
    /// How long to linger once it is complete.
    stay: Duration,
}

/// Progress of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Reached {
    /// The local file is open, and the request was sent.
    asked: bool,
    /// The server has answered.
    answered: bool,
    /// Octets that have arrived.
    octets: u64,
}

/// The result of a turn.
#[derive(Debug)]
pub enum Turn {
    /// The transfer continues.
    Running(Progress),
    /// It continues differently, which the user may want to know.
    Note(Note),
    /// It is complete.
    Done(Summary),
}

/// Progress of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Octets that have arrived.
    pub octets: u64,
    /// Octets in total, if known.
    pub total: Option<u64>,
}

/// Why a transfer was restarted.
#[derive(Debug)]
pub enum Note {
    /// An address did not answer; the next one is being tried.
    NextAddress {
        /// Why.
        failure: Failure,
        /// The address being tried now.
        next: SocketAddr,
    },
    /// The server does not support options; none are requested now.
    WithoutOptions {
        /// Its answer to the options.
        failure: Failure,
    },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NextAddress { failure, next } => {
                write!(f, "{}; trying {next}", failure.brief())
            }
            Self::WithoutOptions { failure } => {
                write!(
                    f,
                    "{}; asking again without options (--no-options does so at once)",
                    failure.brief()
                )
            }
        }
    }
}

/// The result of a complete transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// The server's address.
    pub server: SocketAddr,
    /// Octets on the wire.
    pub octets: u64,
    /// Blocks.
    pub blocks: u64,
    /// Datagrams retransmitted by this end.
    pub retransmissions: u64,
    /// From the request to the end.
    pub elapsed: Duration,
    /// The negotiated parameters.
    pub params: Params,
}

impl Transfer {
    /// Starts a transfer, which [`Stop::stop`] can end.
    ///
    /// # Errors
    /// If the system is out of a resource.
    pub fn start(job: Job, stop: Arc<Stop>) -> Result<Self, Failure> {
        let trouble = Trouble::default();
        let files = Files::new(job.local.clone(), trouble.clone());
        let options = StoreOptions {
            frame_cache_octets: FRAME_CACHE_OCTETS,
            threads: 1,
        };
        let store = Store::new(files, options).map_err(Failure::System)?;
        let shard = shard(&store, &stop)?;
        Ok(Self {
            job,
            place: 0,
            stop,
            store,
            trouble,
            shard,
            id: None,
            reached: Reached::default(),
            reached_after: Duration::ZERO,
            stay: Duration::ZERO,
        })
    }

    /// Waits until something happens, and returns what.
    ///
    /// # Errors
    /// The reason why the transfer failed; it is then over.
    pub fn turn(&mut self) -> Result<Turn, Failure> {
        if self.stop.is_wanted() {
            self.shard.stop();
            return Err(Failure::Interrupted);
        }
        let Some(id) = self.id else {
            return self.begin();
        };
        let latest = self.gives_up_after().map(|after| {
            let left = after.saturating_sub(self.elapsed(id));
            self.shard.engine().now() + left
        });
        self.shard.turn_by(latest).map_err(Failure::System)?;
        if let Some((_, ending)) = self.shard.take_endings().pop() {
            return self.ended(&ending);
        }
        let total = self.look(id);
        let octets = self.reached.octets;
        let report = self.shard.engine_mut().take_report();
        if octets > 0 {
            if report == Some(libc::ECONNREFUSED) {
                let server = self.server();
                return Err(Failure::Gone { server, octets });
            }
        } else if let Some(errno) = report.or_else(|| self.shard.send_failure()) {
            self.shard.stop();
            return self.unreachable(io::Error::from_raw_os_error(errno));
        }
        let elapsed = self.elapsed(id);
        if self.gives_up_after().is_some_and(|after| elapsed >= after) {
            self.shard.stop();
            return self.unanswered(elapsed);
        }
        Ok(Turn::Running(Progress { octets, total }))
    }

    /// After completion, lingers to answer repeats of the last block, whose ACK may have been lost: otherwise
    /// the server would retry until its timeout and report a failure. The file is complete by then, so
    /// lingering is kept short. See `stay` for how long; each repeat extends it.
    pub fn linger(mut self) {
        let mut until = self.shard.engine().now() + self.stay;
        let mut received = self.shard.metrics().received;
        // The slot is removed once even the longest linger time is over.
        while self.shard.engine().now() < until && !self.shard.is_empty() && !self.stop.is_wanted()
        {
            // If the server received the last ACK and closed its port, its host reports that.
            if self.shard.turn_by(Some(until)).is_err()
                || self.shard.engine_mut().take_report().is_some()
            {
                return;
            }
            let now = self.shard.metrics().received;
            if now != received {
                received = now;
                until = self.shard.engine().now() + self.stay;
            }
        }
    }

    /// Updates the progress of the transfer; returns the total octets, if known.
    fn look(&mut self, id: SlotId) -> Option<u64> {
        let running = self.shard.running(id)?;
        let reached = Reached {
            asked: running.params.is_some(),
            answered: self.shard.is_answered(id),
            octets: running.octets,
        };
        if reached != self.reached {
            self.reached = reached;
            self.reached_after = running.elapsed;
        }
        running.total
    }

    /// When to try the next address, since the start of this attempt: not while the local file is being
    /// opened, nor once the server has answered, since it may then take its time.
    fn gives_up_after(&self) -> Option<Duration> {
        let others = self.place + 1 < self.job.servers.len();
        let waits = self.reached.asked && !self.reached.answered;
        let timeout = match self.job.offer {
            Offer::Options { timeout, .. } => timeout.unwrap_or_default(),
            Offer::Nothing => 0,
        };
        // Each address is sent the request at least twice.
        let twice = Duration::from_secs(timeout.into()) * 2;
        (others && waits).then(|| self.reached_after + NEXT_ADDRESS_AFTER.max(twice))
    }

    /// Time since the start of this attempt.
    fn elapsed(&self, id: SlotId) -> Duration {
        let running = self.shard.running(id);
        running.map_or(Duration::ZERO, |running| running.elapsed)
    }

    /// Sends the request to the current server address.
    fn begin(&mut self) -> Result<Turn, Failure> {
        let server = self.server();
        let wanted = self.job.offer.wanted(server);
        let plan = Plan {
            server,
            operation: self.job.operation,
            remote: self.job.remote.clone(),
            origin: Origin::Own,
            local: LocalSide::Stored(Vec::new()),
            mode: self.job.mode,
            wanted,
            patience: Patience::DEFAULT.with_own_timeout(wanted.timeout),
            linger: LINGER,
            order: ORDER_DEFAULT,
        };
        match self.shard.start(plan) {
            Ok(id) => {
                self.id = Some(id);
                Ok(Turn::Running(Progress::default()))
            }
            Err(error) => self.unreachable(error),
        }
    }

    fn ended(&mut self, ending: &Ending) -> Result<Turn, Failure> {
        if let Some(error) = self.trouble.take() {
            return Err(Failure::Local {
                operation: self.job.operation,
                file: self.job.local.clone(),
                error,
            });
        }
        let server = self.server();
        let asked = |code| Failure::Refused {
            server,
            operation: self.job.operation,
            name: self.job.remote.clone(),
            code,
            text: ending.text.clone(),
        };
        match ending.outcome {
            Outcome::Complete => {
                self.stay = stay(ending);
                Ok(Turn::Done(Summary {
                    server,
                    octets: ending.octets,
                    blocks: ending.blocks,
                    retransmissions: ending.retransmissions,
                    elapsed: ending.elapsed,
                    params: ending.params,
                }))
            }
            Outcome::PeerError(code) => {
                let failure = asked(code);
                let about_options = [ErrorCode::OPTIONS, ErrorCode::ILLEGAL].contains(&code);
                if about_options && ending.octets == 0 {
                    return self.without_options(failure);
                }
                Err(failure)
            }
            Outcome::Refused(code) => {
                let failure = Failure::GivenUp {
                    server,
                    text: ending.text.clone(),
                };
                if code == ErrorCode::OPTIONS {
                    return self.without_options(failure);
                }
                Err(failure)
            }
            Outcome::TimedOut => Err(Failure::Silent {
                server,
                octets: ending.octets,
                silence: ending.elapsed.saturating_sub(self.reached_after),
            }),
            Outcome::Stopped => Err(Failure::Interrupted),
            Outcome::Unanswered | Outcome::Probed | Outcome::Replaced | Outcome::Evicted => {
                self.unanswered(ending.elapsed)
            }
        }
    }

    fn unanswered(&mut self, elapsed: Duration) -> Result<Turn, Failure> {
        self.next_address(Failure::Unanswered {
            server: self.server(),
            elapsed,
            options: self.job.offer != Offer::Nothing,
        })
    }

    fn unreachable(&mut self, error: io::Error) -> Result<Turn, Failure> {
        let server = self.server();
        self.next_address(Failure::Unreachable { server, error })
    }

    /// Tries the next address; if there is none, returns the failure.
    fn next_address(&mut self, failure: Failure) -> Result<Turn, Failure> {
        let Some(&next) = self.job.servers.get(self.place + 1) else {
            return Err(failure);
        };
        self.place += 1;
        self.renew()?;
        Ok(Turn::Note(Note::NextAddress { failure, next }))
    }

    /// Asks the same server without options; if none were requested, returns the failure.
    fn without_options(&mut self, failure: Failure) -> Result<Turn, Failure> {
        if self.job.offer == Offer::Nothing {
            return Err(failure);
        }
        self.job.offer = Offer::Nothing;
        self.renew()?;
        Ok(Turn::Note(Note::WithoutOptions { failure }))
    }

    /// Discards the failed attempt.
    fn renew(&mut self) -> Result<(), Failure> {
        self.shard = shard(&self.store, &self.stop)?;
        self.id = None;
        self.reached = Reached::default();
        self.reached_after = Duration::ZERO;
        Ok(())
    }

    fn server(&self) -> SocketAddr {
        self.job.servers[self.place]
    }
}

/// How long to linger for repeats of the last block of a complete read.
///
/// If a window was negotiated, servers measure RTTs and retransmit after two or three, so lingering is brief.
/// In lock-step, or with a negotiated timeout, they retransmit after a second or more; lingering that long
/// would slow down every read for the few whose last ACK is lost. So the client lingers that long only if it
/// had to retransmit itself and therefore knows that this network loses packets.
fn stay(ending: &Ending) -> Duration {
    if ending.operation == Operation::Write {
        return Duration::ZERO;
    }
    let params = &ending.params;
    if ending.retransmissions > 0 {
        return (params.timeout().unwrap_or(LOCKSTEP_INTERVAL) + STAY_MAX).min(LINGER);
    }
    if params.is_lockstep() || params.timeout().is_some() {
        return Duration::ZERO;
    }
    let round_trips = ending.round_trip.unwrap_or_default() * 4;
    round_trips.clamp(STAY_MIN, STAY_MAX)
}

/// A shard for one attempt.
fn shard(store: &Arc<Store>, stop: &Stop) -> Result<Shard<MioEngine>, Failure> {
    let engine = MioEngine::new()
        .map_err(Failure::System)?
        .with_reports()
        .with_gro();
    stop.set_waker(engine.waker());
    let settings = Arc::new(Settings::default());
    Ok(Shard::new(
        engine,
        store.clone(),
        settings,
        Census::default(),
    ))
}

#[cfg(test)]
mod tests;
