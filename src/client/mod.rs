//! The client: one transfer that this end asks for, from its first request to a summary or a sentence
//! that says what went wrong.
//!
//! [`Transfer::turn`] is called in a loop. It tries the addresses of a server one after the other
//! until one answers, and asks again without options where a server cannot take any.

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

/// Blocks under way that are asked for: beyond 64 nothing is gained.
const WINDOWSIZE_MAX: u16 = 64;
/// Octets under way that are asked for: what the receive buffer of an ordinary user holds (208 KiB on
/// Linux, where each datagram is charged with more than it carries).
const WINDOW_OCTETS_MAX: u32 = 128 << 10;
/// How long an address may leave the request unanswered while others are left: it is sent after 0, 1 and 3 s.
const NEXT_ADDRESS_AFTER: Duration = Duration::from_secs(4);
/// Memory for DATA packets: enough to read ahead of one transfer.
const FRAME_CACHE_OCTETS: usize = 16 << 20;

/// What is to be transferred.
#[derive(Debug, Clone)]
pub struct Job {
    /// The server's addresses, in the order to be tried.
    pub servers: Vec<SocketAddr>,
    /// Which way the file goes.
    pub operation: Operation,
    /// The file's name at the server.
    pub remote: Vec<u8>,
    /// The file at this end.
    pub local: LocalFile,
    /// How it is written on the wire.
    pub mode: Mode,
    /// The options to ask for.
    pub offer: Offer,
}

/// The options to ask a server for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// None, for servers that cannot take any.
    Nothing,
    /// The file's length, a block size and a window; what is left open follows the way to the server.
    Options {
        /// Block size in octets.
        blksize: Option<u16>,
        /// Window size in blocks.
        windowsize: Option<u16>,
        /// Retransmission time in seconds.
        timeout: Option<u8>,
    },
}

/// All options, each as the way to the server has it.
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
    /// The options for a server there.
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
            // The smallest MTU of all may give less than the default; nobody gains from that.
            blksize_of_mtu(server.ip(), route_mtu(server)).max(BLKSIZE_DEFAULT)
        });
        let fitting = WINDOW_OCTETS_MAX / u32::from(blksize.max(1));
        let fitting = u16::try_from(fitting).unwrap_or(u16::MAX);
        Wanted {
            blksize: Some(blksize),
            windowsize: Some(windowsize.unwrap_or_else(|| fitting.clamp(1, WINDOWSIZE_MAX))),
            timeout,
            // A writer's own length takes this place.
            tsize: Some(0),
        }
    }
}

/// The addresses of `host`, in the order that the system prefers.
///
/// # Errors
/// If there is none.
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
    /// Has the transfer end as soon as may be.
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

/// A transfer under way. Dropped before it is done, it leaves no file.
#[derive(Debug)]
pub struct Transfer {
    job: Job,
    /// Which of the server's addresses is being tried.
    place: usize,
    stop: Arc<Stop>,
    store: Arc<Store>,
    trouble: Trouble,
    shard: Shard<MioEngine>,
    id: Option<SlotId>,
    /// How far this attempt has come.
    reached: Reached,
    /// When it came there, since its beginning.
    reached_after: Duration,
}

/// What an attempt goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Reached {
    /// The file at this end is open, and the server was asked.
    asked: bool,
    /// The server has answered.
    answered: bool,
    /// Octets that have arrived.
    octets: u64,
}

/// What a turn brought.
#[derive(Debug)]
pub enum Turn {
    /// The transfer goes on.
    Running(Progress),
    /// It goes on in another way, which its user may want to know.
    Note(Note),
    /// It is complete.
    Done(Summary),
}

/// How far a transfer has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Octets that have arrived.
    pub octets: u64,
    /// Octets that there will be, if that is known.
    pub total: Option<u64>,
}

/// Why a transfer began anew.
#[derive(Debug)]
pub enum Note {
    /// An address did not answer; the next one is tried.
    NextAddress {
        /// Why.
        failure: Failure,
        /// The address tried now.
        next: SocketAddr,
    },
    /// The server cannot take options; none are asked for now.
    WithoutOptions {
        /// What it said to them.
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

/// How a complete transfer went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// The address that served it.
    pub server: SocketAddr,
    /// Octets, as counted on the wire.
    pub octets: u64,
    /// Blocks.
    pub blocks: u64,
    /// Datagrams sent more than once by this end.
    pub retransmissions: u64,
    /// From the request to the end.
    pub elapsed: Duration,
    /// The terms.
    pub params: Params,
}

impl Transfer {
    /// Begins a transfer, which [`Stop::stop`] ends.
    ///
    /// # Errors
    /// If the system is out of something.
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
        })
    }

    /// Waits until something happens, and says what.
    ///
    /// # Errors
    /// Why the transfer failed; it is over then.
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

    /// Sees how far the transfer has come; the octets that there will be, if that is known.
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

    /// When the next address is tried, since the beginning of this attempt: not while the file at this end
    /// is being opened, nor once the server has answered, which may then take its time.
    fn gives_up_after(&self) -> Option<Duration> {
        let others = self.place + 1 < self.job.servers.len();
        let waits = self.reached.asked && !self.reached.answered;
        (others && waits).then(|| self.reached_after + NEXT_ADDRESS_AFTER)
    }

    /// How long this attempt has lasted.
    fn elapsed(&self, id: SlotId) -> Duration {
        let running = self.shard.running(id);
        running.map_or(Duration::ZERO, |running| running.elapsed)
    }

    /// Asks the server whose turn it is.
    fn begin(&mut self) -> Result<Turn, Failure> {
        let server = self.server();
        let plan = Plan {
            server,
            operation: self.job.operation,
            remote: self.job.remote.clone(),
            origin: Origin::Own,
            local: LocalSide::Stored(Vec::new()),
            mode: self.job.mode,
            wanted: self.job.offer.wanted(server),
            patience: Patience::DEFAULT,
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
            Outcome::Complete => Ok(Turn::Done(Summary {
                server,
                octets: ending.octets,
                blocks: ending.blocks,
                retransmissions: ending.retransmissions,
                elapsed: ending.elapsed,
                params: ending.params,
            })),
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

    /// Tries the next address; without one, the failure stands.
    fn next_address(&mut self, failure: Failure) -> Result<Turn, Failure> {
        let Some(&next) = self.job.servers.get(self.place + 1) else {
            return Err(failure);
        };
        self.place += 1;
        self.renew()?;
        Ok(Turn::Note(Note::NextAddress { failure, next }))
    }

    /// Asks the same server without options; where none were asked for, the failure stands.
    fn without_options(&mut self, failure: Failure) -> Result<Turn, Failure> {
        if self.job.offer == Offer::Nothing {
            return Err(failure);
        }
        self.job.offer = Offer::Nothing;
        self.renew()?;
        Ok(Turn::Note(Note::WithoutOptions { failure }))
    }

    /// Forgets the attempt that failed.
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
