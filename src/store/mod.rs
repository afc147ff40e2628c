//! From names to bodies: the store answers a shard's requests without ever making it wait for a disk or network.
//!
//! A few threads do whatever may block; the shard gets the result at once if it is available
//! ([`Answer::Now`]), or later through its [`Mailbox`]. Work has four lanes, each with a bounded queue and
//! its own threads: opening and framing, which a booting machine waits for, is delayed neither by uploads
//! and their `fsync`, nor by scans of long texts for their length, nor by network file systems that do not
//! answer. All readers of a file share one opening, and the DATA packets made from it ([`Frames`]).

mod arena;
mod backend;
mod body;
mod burst;
mod cache;
mod closer;
pub mod directory;
mod file;
mod frames;
mod jobs;
pub mod local;
mod mailbox;
pub mod memory;
mod pool;
mod remote;
mod resolve;
mod sample;
mod scans;
mod text;
mod upload;
mod writeback;

use std::fmt;
use std::io;
use std::sync::Arc;

pub use self::arena::{Lasting, Stay};
pub use self::backend::{
    Backend, Identity, OpenError, Opened, Patience, ReadFailure, Refusal, Sink, Source, Writes,
};
pub use self::body::Body;
pub use self::burst::Burst;
pub use self::frames::{EXTENT_OCTETS, Frames, FramesKey};
pub use self::mailbox::{Answer, Done, Mailbox, Ticket};
pub(crate) use self::resolve::Resolver;
pub use self::upload::Upload;

use self::body::Bodies;
use self::cache::{Asked, Asker, FrameCache};
use self::closer::Closer;
use self::jobs::{Duty, JOBS_MAX, Job, Lane, Shared, is_short};
use self::pool::Queue;
use self::scans::Scans;
use crate::config;
use crate::sync::thread::{self, JoinHandle};
use crate::wire::Mode;

/// Threads that open and frame: enough to keep a disk busy, few enough to leave the cores to the shards.
pub const THREADS_DEFAULT: usize = 4;

/// Threads that scan long texts: more would only compete for one disk.
const SCAN_THREADS_MAX: usize = 1;

/// The name of threads for reads that may take long.
const SLOW: &str = "slow";

/// The configuration of a [`Store`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreOptions {
    /// Limit of frame memory beyond the frames that transfers wait for; 0 caches none.
    pub frame_cache_octets: usize,
    /// Number of threads that open and frame, of those that do so where it may take long, and of those for uploads,
    /// which spend their time in `fsync`: a file system with a journal does that for several at the price of one.
    /// With 0, only [`Store::run_next`] does any work.
    pub threads: usize,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            frame_cache_octets: config::frame_cache_octets_default(),
            threads: THREADS_DEFAULT,
        }
    }
}

/// Resolves names: opens, reads and writes files, and never makes its caller wait for a disk or a network.
///
/// Shared by all shards. Dropping it ends its threads; waiting jobs are then dropped and long ones
/// abandoned. Threads for slow reads, and the one that closes remote files, end when their file systems answer; nobody
/// waits for those.
pub struct Store {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Store {
    /// A store over `backend`.
    ///
    /// # Errors
    /// If a thread cannot be started; the text says so.
    pub fn new(backend: impl Backend, options: StoreOptions) -> io::Result<Arc<Self>> {
        let shared = Arc::new(Shared {
            backend: Box::new(backend),
            bodies: Bodies::new(),
            cache: Arc::new(FrameCache::new(options.frame_cache_octets)),
            queues: std::array::from_fn(|_| Queue::new(JOBS_MAX)),
            scans: Scans::new(),
            closer: if options.threads > 0 {
                Some(Closer::start().map_err(|error| not_started(&error))?)
            } else {
                None
            },
        });
        // If a thread cannot be started, dropping this store ends the others.
        let mut store = Self {
            shared,
            threads: Vec::new(),
        };
        let lanes: [(Duty, &str, usize); 4] = [
            (|shared| shared.work(Lane::Reads), "store", options.threads),
            (|shared| shared.work(Lane::SlowReads), SLOW, options.threads),
            (
                Shared::scan_all,
                "scan",
                options.threads.min(SCAN_THREADS_MAX),
            ),
            (
                |shared| shared.work(Lane::Uploads),
                "upload",
                options.threads,
            ),
        ];
        for (work, name, threads) in lanes {
            for index in 0..threads {
                let shared = Arc::clone(&store.shared);
                let work = move || work(&shared);
                let started = thread::Builder::new()
                    .name(format!("{name}-{index}"))
                    .spawn(work)
                    .map_err(|error| not_started(&error))?;
                // Nobody waits for those that may wait for ever.
                if name != SLOW {
                    store.threads.push(started);
                }
            }
        }
        Ok(Arc::new(store))
    }

    /// Opens `name` for reading. Answers at once if that needs no disk; otherwise [`Done::Opened`] follows.
    pub fn open(
        &self,
        ticket: Ticket,
        name: &[u8],
        mode: Mode,
        mailbox: &Mailbox,
    ) -> Answer<Result<Arc<Body>, Refusal>> {
        match self.shared.open_file(name, Patience::Now) {
            // Freeing descriptors is work for a thread.
            Err(OpenError::Refused(refusal)) if refusal.is_out_of_descriptors() => {}
            Err(OpenError::Refused(refusal)) => return Answer::Now(Err(refusal)),
            Err(OpenError::WouldBlock) => {}
            Ok(opened) => match mode {
                Mode::Octet => return Answer::Now(Ok(self.shared.share(opened, mode))),
                // A text must be scanned before its length is known: only one that already has a reader is
                // available at once.
                Mode::Netascii => match self.shared.bodies.find(opened.identity, mode) {
                    Some(body) => return Answer::Now(Ok(body)),
                    // It is opened again when its turn comes: a descriptor per waiting job is too many.
                    None if is_short(&opened) => {}
                    None => return answer(self.shared.scans.ask(opened, ticket, mailbox)),
                },
            },
        }
        self.offer(Job::Open {
            ticket,
            name: name.into(),
            mode,
            mailbox: mailbox.clone(),
            patience: Patience::Disk,
        })
    }

    /// Withdraws a request to [`Self::open`]. The answer may still come, but the scan of a long text without
    /// other waiters is abandoned.
    pub fn withdraw(&self, ticket: Ticket, mailbox: &Mailbox) {
        self.shared.scans.withdraw(ticket, mailbox);
    }

    /// The frames of `key`, for a transfer that asks for them for the first time. If they are not available,
    /// [`Done::Framed`] follows: one per mailbox, however often it asked.
    pub fn frames(
        &self,
        key: &FramesKey,
        mailbox: &Mailbox,
    ) -> Answer<Result<Arc<Frames>, ReadFailure>> {
        self.ask(key, Asker::Another, mailbox)
    }

    /// The same for a transfer that has asked for them before, so that it does not count as another one.
    pub fn frames_again(
        &self,
        key: &FramesKey,
        mailbox: &Mailbox,
    ) -> Answer<Result<Arc<Frames>, ReadFailure>> {
        self.ask(key, Asker::Same, mailbox)
    }

    fn ask(
        &self,
        key: &FramesKey,
        asker: Asker,
        mailbox: &Mailbox,
    ) -> Answer<Result<Arc<Frames>, ReadFailure>> {
        let asked = self.shared.cache.ask(key, asker, mailbox, |key, why| {
            self.shared.offer_frames(key, why)
        });
        match asked {
            Asked::Ready(frames) => Answer::Now(Ok(frames)),
            Asked::Alone => match self.shared.read_now(key, mailbox) {
                Some(frames) => Answer::Now(Ok(frames)),
                None => {
                    self.shared.add(Job::Frame(key.clone()));
                    Answer::Later
                }
            },
            Asked::Waiting => Answer::Later,
            Asked::Busy => Answer::Busy,
        }
    }

    /// A transfer will soon ask for `key`, and has nothing to send until then. Returns whether its octets were copied
    /// meanwhile; if that may take longer, a thread does it.
    pub fn expect(&self, key: &FramesKey, mailbox: &Mailbox) -> bool {
        let shared = &self.shared;
        let job = Job::Frame(key.clone());
        if !shared.cache.expect(key, || shared.has_room_for_idle(&job)) {
            return false;
        }
        let read = shared.read_now(key, mailbox).is_some();
        if !read {
            shared.add(job);
        }
        read
    }

    /// A transfer needs none of the extents before that of `key` any more.
    pub fn passed(&self, key: &FramesKey) {
        self.shared.cache.passed(key);
    }

    /// A transfer is over that would have asked for `key` next: what was read for it alone is released.
    pub fn left(&self, key: &FramesKey) {
        self.shared.cache.left(key);
    }

    /// Begins an upload to `name`, of length `announced` if given. [`Done::Created`] follows.
    pub fn create(
        &self,
        ticket: Ticket,
        name: &[u8],
        mode: Mode,
        announced: Option<u64>,
        mailbox: &Mailbox,
    ) -> Answer<Result<Upload, Refusal>> {
        self.offer(Job::Create {
            ticket,
            name: name.into(),
            mode,
            announced,
            mailbox: mailbox.clone(),
        })
    }

    /// Writes the next octets of an upload; [`Done::Written`] returns it.
    pub fn write(&self, ticket: Ticket, upload: Upload, chunk: Vec<u8>, mailbox: &Mailbox) {
        self.shared.add(Job::Write {
            ticket,
            upload,
            chunk,
            mailbox: mailbox.clone(),
        });
    }

    /// Makes an upload visible under its name; [`Done::Published`] reports the result.
    pub fn publish(&self, ticket: Ticket, upload: Upload, mailbox: &Mailbox) {
        self.shared.add(Job::Publish {
            ticket,
            upload,
            mailbox: mailbox.clone(),
        });
    }

    /// Abandons an upload. Dropping it does the same, but freeing a large file's disk space can take a
    /// while, so a thread of the store does it.
    pub fn discard(&self, upload: Upload) {
        self.shared.add(Job::Discard(upload));
    }

    /// The current counters.
    #[must_use]
    pub fn statistics(&self) -> StoreStatistics {
        self.shared.cache.statistics()
    }

    /// Runs one waiting job on the caller's thread, reads before scans before uploads; `false` if there is
    /// none.
    pub fn run_next(&self) -> bool {
        let shared = &self.shared;
        let next_read = || {
            let mut lanes = [Lane::Reads, Lane::SlowReads].into_iter();
            lanes.find_map(|lane| shared.queue(lane).next_now())
        };
        if let Some(job) = next_read() {
            shared.run(job);
        } else if let Some(work) = shared.scans.next_now() {
            shared.scan(work);
        } else if let Some(job) = shared.queue(Lane::Uploads).next_now() {
            shared.run(job);
        } else {
            return false;
        }
        true
    }

    fn offer<T>(&self, job: Job) -> Answer<T> {
        answer(self.shared.offer(job))
    }
}

fn not_started(error: &io::Error) -> io::Error {
    let text =
        format!("a thread of the store cannot be started, for want of memory or threads: {error}");
    io::Error::new(error.kind(), text)
}

/// The answer to a request whose work was queued, or was refused because the queue is full.
const fn answer<T>(taken: bool) -> Answer<T> {
    if taken { Answer::Later } else { Answer::Busy }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.shared.queues.iter().for_each(Queue::close);
        self.shared.scans.close();
        for thread in self.threads.drain(..) {
            // A thread cannot panic: panics of jobs are caught. If one did, there is nothing left to do.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("threads", &self.threads.len())
            .finish_non_exhaustive()
    }
}

/// Counters of the frame cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StoreStatistics {
    /// Requests for frames that were in the cache.
    pub hits: u64,
    /// Requests for frames that were not.
    pub misses: u64,
    /// Octets of packets laid out with their headers, to be kept for several transfers.
    pub framed_octets: u64,
    /// Octets of packets read plainly, for one transfer.
    pub plain_octets: u64,
    /// Extents evicted to make room.
    pub evictions: u64,
    /// Octets of memory in use: frames, cached or only being sent, and free memory kept for reuse.
    pub resident_octets: u64,
    /// Extents being read or about to be.
    pub pending: u64,
}

#[cfg(test)]
mod tests;
