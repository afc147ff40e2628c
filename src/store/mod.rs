//! From names to bodies: the store answers a shard's requests without ever making it wait for a disk.
//!
//! A few threads do whatever may block; the shard gets the result at once if it is available
//! ([`Answer::Now`]), or later through its [`Mailbox`]. Work has three lanes, each with a bounded queue and
//! its own threads: opening and framing, which a booting machine waits for, is delayed neither by uploads
//! and their `fsync` nor by scans of long texts for their length. All readers of a file share one opening,
//! and the DATA packets made from it ([`Frames`]).

mod arena;
mod body;
mod burst;
mod cache;
pub mod directory;
mod file;
mod frames;
pub mod local;
pub mod memory;
mod pool;
mod resolve;
mod sample;
mod scans;
mod text;
mod upload;

use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Waker;

pub use self::arena::{Lasting, Stay};
pub use self::body::Body;
pub use self::burst::Burst;
pub use self::frames::{EXTENT_OCTETS, Frames, FramesKey};
pub(crate) use self::resolve::Resolver;
pub use self::upload::Upload;

use self::body::Bodies;
use self::cache::{Asked, Asker, FrameCache, Recipe, Why};
use self::frames::Layout;
use self::pool::Queue;
use self::scans::{Scans, Work};
use self::text::Scan;
use crate::config;
use crate::sync::mpsc::Sender;
use crate::sync::thread::{self, JoinHandle};
use crate::wire::{ErrorCode, Mode};

/// Threads that open and frame: enough to keep a disk busy, few enough to leave the cores to the shards.
pub const THREADS_DEFAULT: usize = 4;

/// Threads that scan long texts: more would only compete for one disk.
const SCAN_THREADS_MAX: usize = 1;

/// A text up to this length is scanned when it is opened: that takes no longer than framing an extent, and
/// its reader need not wait behind longer texts.
const SCANNED_AT_ONCE_OCTETS_MAX: u64 = EXTENT_OCTETS;

/// Limit of waiting jobs in the lanes of reads and uploads, beyond those that must not be refused: enough
/// for a whole rack at once, few enough for a slow disk to finish before the clients give up.
const JOBS_MAX: usize = 1024;

/// The configuration of a [`Store`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreOptions {
    /// Limit of frame memory beyond the frames that transfers wait for; 0 caches none.
    pub frame_cache_octets: usize,
    /// Number of threads that open and frame, and of those for uploads, which spend their time in `fsync`: a file
    /// system with a journal does that for several at the price of one. With 0, only [`Store::run_next`] does any
    /// work.
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

/// Resolves names: opens, reads and writes files, and never makes its caller wait for a disk.
///
/// Shared by all shards. Dropping it ends its threads; waiting jobs are then dropped and long ones
/// abandoned.
pub struct Store {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Store {
    /// A store over `backend`.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub fn new(backend: impl Backend, options: StoreOptions) -> io::Result<Arc<Self>> {
        let shared = Arc::new(Shared {
            backend: Box::new(backend),
            bodies: Bodies::new(),
            cache: Arc::new(FrameCache::new(options.frame_cache_octets)),
            queues: [Queue::new(JOBS_MAX), Queue::new(JOBS_MAX)],
            scans: Scans::new(),
        });
        // If a thread cannot be started, dropping this store ends the others.
        let mut store = Self {
            shared,
            threads: Vec::new(),
        };
        let lanes: [(Duty, &str, usize); 3] = [
            (|shared| shared.work(Lane::Reads), "store", options.threads),
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
                store.threads.push(
                    thread::Builder::new()
                        .name(format!("{name}-{index}"))
                        .spawn(work)?,
                );
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
        match self.shared.backend.open(name, Patience::Now) {
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
        let queue = self.shared.queue(Lane::Reads);
        let asked = self.shared.cache.ask(key, asker, mailbox, |key, why| {
            self.shared.offer_frames(key, why)
        });
        match asked {
            Asked::Ready(frames) => Answer::Now(Ok(frames)),
            Asked::Alone => match self.shared.read_now(key, mailbox) {
                Some(frames) => Answer::Now(Ok(frames)),
                None => {
                    queue.add(Job::Frame(key.clone()));
                    Answer::Later
                }
            },
            Asked::Waiting => Answer::Later,
            Asked::Busy => Answer::Busy,
        }
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
        if let Some(job) = shared.queue(Lane::Reads).next_now() {
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

/// The answer to a request whose work was queued, or was refused because the queue is full.
const fn answer<T>(taken: bool) -> Answer<T> {
    if taken { Answer::Later } else { Answer::Busy }
}

const fn is_short(text: &Opened) -> bool {
    text.len <= SCANNED_AT_ONCE_OCTETS_MAX
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

/// State shared by the threads and the shards.
struct Shared {
    backend: Box<dyn Backend>,
    bodies: Bodies,
    cache: Arc<FrameCache>,
    /// Indexed by [`Lane`].
    queues: [Queue<Job>; 2],
    scans: Scans,
}

/// A thread's main loop, which runs until the store closes.
type Duty = fn(&Shared);

/// Kinds of work that do not wait for each other, nor for long scans.
#[derive(Debug, Clone, Copy)]
enum Lane {
    Reads,
    Uploads,
}

/// Work that may block.
enum Job {
    Open {
        ticket: Ticket,
        name: Box<[u8]>,
        mode: Mode,
        mailbox: Mailbox,
    },
    Frame(FramesKey),
    /// A client has begun to read a file.
    Begin(Arc<Body>),
    Create {
        ticket: Ticket,
        name: Box<[u8]>,
        mode: Mode,
        announced: Option<u64>,
        mailbox: Mailbox,
    },
    Write {
        ticket: Ticket,
        upload: Upload,
        chunk: Vec<u8>,
        mailbox: Mailbox,
    },
    Publish {
        ticket: Ticket,
        upload: Upload,
        mailbox: Mailbox,
    },
    Discard(Upload),
}

impl Job {
    const fn lane(&self) -> Lane {
        match self {
            Self::Open { .. } | Self::Frame(_) | Self::Begin(_) => Lane::Reads,
            Self::Create { .. } | Self::Write { .. } | Self::Publish { .. } | Self::Discard(_) => {
                Lane::Uploads
            }
        }
    }
}

impl Shared {
    const fn queue(&self, lane: Lane) -> &Queue<Job> {
        &self.queues[lane as usize]
    }

    /// Queues a job unless too many of its kind are waiting; returns whether it did.
    fn offer(&self, job: Job) -> bool {
        self.queue(job.lane()).offer(job)
    }

    /// Queues a job of a kind that its owner limits.
    fn add(&self, job: Job) {
        self.queue(job.lane()).add(job);
    }

    /// Runs the jobs of a lane until the store closes.
    fn work(&self, lane: Lane) {
        while let Some(job) = self.queue(lane).next() {
            self.run(job);
        }
    }

    /// Queues a job that makes frames; returns whether there was room for it.
    fn offer_frames(&self, key: FramesKey, why: Why) -> bool {
        let queue = self.queue(Lane::Reads);
        match why {
            Why::Asked => queue.offer(Job::Frame(key)),
            // It may need no job.
            Why::AskedAlone => queue.len() < JOBS_MAX,
            Why::Ahead => self.offer_idly(Job::Frame(key)),
        }
    }

    /// Queues a job that nobody waits for, and that leaves most of the queue to others.
    fn offer_idly(&self, job: Job) -> bool {
        self.queue(job.lane()).len() < JOBS_MAX / 4 && self.offer(job)
    }

    /// Reads the extent that the owner of the mailbox alone asked for, on the caller's thread, if that takes no
    /// longer than to copy the octets. Otherwise, its job is still to be queued.
    fn read_now(&self, key: &FramesKey, mailbox: &Mailbox) -> Option<Arc<Frames>> {
        let room = self.cache.room_soon(key.octets(Layout::Plain))?;
        // If it panics, so does the job, which answers all who wait.
        let frames = caught((), || Frames::read_now(key, room).map_err(drop)).ok()?;
        let (frames, waiting) = self.cache.finish(key, frames, true);
        // Other shards may have asked meanwhile.
        for other in waiting.iter().filter(|other| !other.is(mailbox)) {
            other.deliver(Done::Framed(key.clone(), Ok(Arc::clone(&frames))));
        }
        if key.extent == 0 && key.body.is_to_begin() {
            // If the queue is full, the job for the next extent does most of it.
            self.offer_idly(Job::Begin(Arc::clone(&key.body)));
        }
        Some(frames)
    }

    fn run(&self, job: Job) {
        match job {
            Job::Open {
                ticket,
                name,
                mode,
                mailbox,
            } => {
                let answer = match caught(Refusal::Failed(PANICKED), || self.open(&name, mode)) {
                    Ok(Opening::Done(body)) => Ok(body),
                    Ok(Opening::Unscanned(opened)) => {
                        if self.scans.ask(opened, ticket, &mailbox) {
                            return;
                        }
                        Err(Refusal::Failed(BUSY))
                    }
                    Err(refusal) => Err(refusal),
                };
                mailbox.deliver(Done::Opened(ticket, answer));
            }
            Job::Frame(key) => {
                let Some(recipe) = self.cache.recipe(&key) else {
                    return;
                };
                let mut at_hand = false;
                let room = |layout| self.cache.room(key.octets(layout));
                let read = |layout, room| {
                    let offer = |key, why| self.offer_frames(key, why);
                    self.cache.read_ahead(&key, offer);
                    Frames::read(&key, layout, room)
                };
                let frames = caught(ReadFailure::Failed(PANICKED), || match recipe {
                    Recipe::Read(Layout::LaidOut) => read(Layout::LaidOut, room(Layout::LaidOut)),
                    Recipe::Read(Layout::Plain) => {
                        let frames = Frames::read_now(&key, room(Layout::Plain));
                        at_hand = frames.is_ok();
                        frames.or_else(|room| read(Layout::Plain, room))
                    }
                    Recipe::LayOut(plain) => Ok(plain.laid_out(room(Layout::LaidOut))),
                });
                let (result, waiting) = match frames {
                    Ok(frames) => {
                        let (frames, waiting) = self.cache.finish(&key, frames, at_hand);
                        (Ok(frames), waiting)
                    }
                    Err(failure) => (Err(failure), self.cache.fail(&key)),
                };
                for mailbox in waiting {
                    mailbox.deliver(Done::Framed(key.clone(), result.clone()));
                }
                // A client starts reading a file: a good time to release deleted ones.
                if key.extent == 0 {
                    self.bodies.release_nameless();
                }
            }
            Job::Begin(body) => {
                let _ = caught((), || {
                    body.begin();
                    Ok(())
                });
                self.bodies.release_nameless();
            }
            Job::Create {
                ticket,
                name,
                mode,
                announced,
                mailbox,
            } => {
                let created = caught(Refusal::Failed(PANICKED), || {
                    self.with_descriptors(|| self.backend.create(&name, announced))
                });
                mailbox.deliver(Done::Created(
                    ticket,
                    created.map(|sink| Upload::new(sink, mode, announced)),
                ));
            }
            Job::Write {
                ticket,
                mut upload,
                mut chunk,
                mailbox,
            } => {
                let written = caught(Refusal::Failed(PANICKED), || upload.write(&chunk));
                chunk.clear();
                mailbox.deliver(Done::Written(ticket, upload, chunk, written));
            }
            Job::Discard(upload) => drop(upload),
            Job::Publish {
                ticket,
                upload,
                mailbox,
            } => {
                let published = caught(Refusal::Failed(PANICKED), || upload.publish());
                mailbox.deliver(Done::Published(ticket, published));
            }
        }
    }

    fn open(&self, name: &[u8], mode: Mode) -> Result<Opening, Refusal> {
        let opened = self.with_descriptors(|| {
            let opened = self.backend.open(name, Patience::Long);
            opened.map_err(|error| match error {
                OpenError::Refused(refusal) => refusal,
                OpenError::WouldBlock => Refusal::Failed(WOULD_BLOCK),
            })
        })?;
        Ok(match mode {
            Mode::Octet => Opening::Done(self.share(opened, mode)),
            Mode::Netascii => match self.bodies.find(opened.identity, mode) {
                Some(body) => Opening::Done(body),
                None if is_short(&opened) => Opening::Done(self.scan_at_once(opened)?),
                None => Opening::Unscanned(opened),
            },
        })
    }

    fn scan_at_once(&self, opened: Opened) -> Result<Arc<Body>, Refusal> {
        let mut scan = Scan::new(opened.source, opened.len);
        while !scan.advance().map_err(scan_refusal)? {}
        self.scanned(scan, opened.identity)
    }

    /// Scans long texts until the store closes.
    fn scan_all(&self) {
        while let Some(work) = self.scans.next() {
            self.scan(work);
        }
    }

    /// Scans a slice of a long text. Its waiters are notified when the scan ends.
    fn scan(&self, work: Work) {
        let Work { id, identity, scan } = work;
        let result = match caught(Refusal::Failed(PANICKED), || self.scan_on(scan, identity)) {
            Ok(Scanning::Unfinished(scan)) => {
                return self.scans.put_back(Work { id, identity, scan });
            }
            Ok(Scanning::Done(body)) => Ok(body),
            Err(refusal) => Err(refusal),
        };
        for (ticket, mailbox) in self.scans.finish(id) {
            mailbox.deliver(Done::Opened(ticket, result.clone()));
        }
    }

    fn scan_on(&self, mut scan: Scan, identity: Identity) -> Result<Scanning, Refusal> {
        // Another scan may have finished between the lookup and the request.
        if scan.scanned() == 0
            && let Some(body) = self.bodies.find(identity, Mode::Netascii)
        {
            return Ok(Scanning::Done(body));
        }
        if scan.advance().map_err(scan_refusal)? {
            self.scanned(scan, identity).map(Scanning::Done)
        } else {
            Ok(Scanning::Unfinished(scan))
        }
    }

    fn scanned(&self, scan: Scan, identity: Identity) -> Result<Arc<Body>, Refusal> {
        let (text, len) = scan.finish().map_err(scan_refusal)?;
        let scanned = Opened {
            source: Box::new(text),
            len,
            identity,
        };
        Ok(self.share(scanned, Mode::Netascii))
    }

    /// Does `work`; if no descriptor was left, releases the files held for possible later readers and tries
    /// once more.
    fn with_descriptors<T>(&self, work: impl Fn() -> Result<T, Refusal>) -> Result<T, Refusal> {
        match work() {
            Err(refusal) if refusal.is_out_of_descriptors() => {
                self.bodies.release_held();
                work()
            }
            done => done,
        }
    }

    fn share(&self, opened: Opened, mode: Mode) -> Arc<Body> {
        self.bodies.share(opened, mode, &self.cache)
    }
}

/// The outcome of opening.
enum Opening {
    Done(Arc<Body>),
    /// The length of a text is unknown, and finding it takes long.
    Unscanned(Opened),
}

/// The outcome of scanning a slice.
enum Scanning {
    Done(Arc<Body>),
    Unfinished(Scan),
}

const fn scan_refusal(failure: ReadFailure) -> Refusal {
    match failure {
        // The file changes too fast to be read now; the client may ask again.
        ReadFailure::Changed => Refusal::Failed(WOULD_BLOCK),
        ReadFailure::Failed(errno) => Refusal::Failed(errno),
    }
}

/// The error number for work that panicked, which is a bug: EIO.
const PANICKED: i32 = libc::EIO;

/// The error number for what may succeed later: EAGAIN.
const WOULD_BLOCK: i32 = libc::EAGAIN;

/// The error number for [`Answer::Busy`] where that answer is no longer possible: EBUSY.
const BUSY: i32 = libc::EBUSY;

/// Does `work`; turns a panic into `failure`, so that the waiters are notified and the thread survives.
fn caught<T, E>(failure: E, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(failure))
}

/// The storage of files. Its methods may block unless they are told not to.
pub trait Backend: Send + Sync + 'static {
    /// Opens `name` for reading.
    ///
    /// # Errors
    /// Why it cannot be opened; with [`Patience::Now`] also that it would need a disk.
    fn open(&self, name: &[u8], patience: Patience) -> Result<Opened, OpenError>;

    /// Begins a file that will be called `name`, of length `announced` if given.
    ///
    /// # Errors
    /// Why it cannot be created.
    fn create(&self, name: &[u8], announced: Option<u64>) -> Result<Box<dyn Sink>, Refusal>;
}

/// How long [`Backend::open`] may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// Only as long as memory accesses take.
    Now,
    /// As long as the disk takes.
    Long,
}

/// Why [`Backend::open`] failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenError {
    /// It would take longer than [`Patience::Now`] allows.
    WouldBlock,
    /// It cannot be opened.
    Refused(Refusal),
}

impl From<Refusal> for OpenError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// An open file.
pub struct Opened {
    /// Its contents.
    pub source: Box<dyn Source>,
    /// Its length in octets.
    pub len: u64,
    /// Its identity.
    pub identity: Identity,
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened")
            .field("len", &self.len)
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

/// Openings with equal identities share a body: the same file in the same state. A modification time can be
/// set back; the time of the last status change cannot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The file system's device number.
    pub device: u64,
    /// The inode on that file system.
    pub inode: u64,
    /// Its length in octets.
    pub len: u64,
    /// Last modification in nanoseconds since 1970, or the value that was set.
    pub modified: i128,
    /// Last change of contents, names or permissions, in nanoseconds since 1970.
    pub changed: i128,
}

/// The contents of an open file.
pub trait Source: Send + Sync {
    /// Fills `buffer` with the octets from `offset` on; returns how many, fewer only at the end.
    ///
    /// # Errors
    /// Why they cannot be read.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, ReadFailure>;

    /// Checks that what was read is still what was opened.
    ///
    /// # Errors
    /// [`ReadFailure::Changed`] if it is not.
    fn check(&self) -> Result<(), ReadFailure>;

    /// Reads as [`Self::read_at`] does, and checks, if that takes no longer than to copy the octets. `false` if
    /// it may, if nobody can tell, or if anything is wrong: reading at leisure finds out what.
    fn read_now(&self, buffer: &mut [u8], offset: u64) -> bool {
        let _ = (buffer, offset);
        false
    }

    /// Called once the first octets were [read at once](Self::read_now): does whatever else the first
    /// [`Self::read_at`] calls do.
    fn begin(&self) {}

    /// Whether reading at any offset costs as much as reading on: then a long read may be done in parts.
    fn is_random_access(&self) -> bool {
        true
    }

    /// Whether the file has no name left, so that no new client can request it and only open descriptors
    /// keep it on the disk.
    fn is_nameless(&self) -> bool {
        false
    }
}

/// A file being written. If dropped before it is published, it leaves nothing.
pub trait Sink: Send {
    /// Appends `octets`.
    ///
    /// # Errors
    /// Why they cannot be written; the sink is then unusable.
    fn write(&mut self, octets: &[u8]) -> Result<(), Refusal>;

    /// Makes the file visible under its name, complete and on disk.
    ///
    /// # Errors
    /// Why that failed; nothing is left then.
    fn publish(self: Box<Self>) -> Result<(), Refusal>;
}

/// What clients may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Writes {
    /// Nothing.
    #[default]
    Off,
    /// New files.
    Create,
    /// New files, and new contents for existing ones.
    Overwrite,
}

/// Identifies a shard's request, so that the answer finds the transfer that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// The destination of a shard's answers: sends them into its channel and wakes it.
#[derive(Debug, Clone)]
pub struct Mailbox {
    address: Arc<Address>,
}

#[derive(Debug)]
struct Address {
    sender: Sender<Done>,
    waker: Waker,
}

impl Mailbox {
    /// A mailbox that sends to `sender` and then wakes `waker`.
    #[must_use]
    pub fn new(sender: Sender<Done>, waker: Waker) -> Self {
        Self {
            address: Arc::new(Address { sender, waker }),
        }
    }

    /// Delivers an answer; if the shard has ended, the answer is dropped.
    pub fn deliver(&self, done: Done) {
        if self.address.sender.send(done).is_ok() {
            self.address.waker.wake_by_ref();
        }
    }

    /// Whether both are clones of one mailbox.
    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.address, &other.address)
    }
}

/// An answer that is available, or one that will come through the mailbox.
#[derive(Debug)]
pub enum Answer<T> {
    /// The answer is available.
    Now(T),
    /// It will be delivered.
    Later,
    /// Too many requests are waiting; ask again later.
    Busy,
}

/// What comes through a [`Mailbox`].
#[derive(Debug)]
pub enum Done {
    /// The answer to [`Store::open`].
    Opened(Ticket, Result<Arc<Body>, Refusal>),
    /// The answer to [`Store::frames`]; it serves every transfer of the shard that waits for `key`.
    Framed(FramesKey, Result<Arc<Frames>, ReadFailure>),
    /// The answer to [`Store::create`].
    Created(Ticket, Result<Upload, Refusal>),
    /// The answer to [`Store::write`]: returns the upload and the emptied buffer.
    Written(Ticket, Upload, Vec<u8>, Result<(), Refusal>),
    /// The answer to [`Store::publish`].
    Published(Ticket, Result<(), Refusal>),
}

/// Why a name cannot be opened, or an upload cannot continue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// No such file.
    NotFound,
    /// It exists, but the client may not have it: not readable, not a regular file, outside the root.
    Denied,
    /// The file exists, and uploads may not replace it.
    Exists,
    /// No room: the disk, the quota, or the operator's limit on uploads.
    DiskFull,
    /// Fewer octets arrived than announced.
    Short,
    /// More octets arrived than announced.
    Long,
    /// Another system error: its number.
    Failed(i32),
}

impl Refusal {
    /// The refusal's name in the counters.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::Denied => "denied",
            Self::Exists => "exists",
            Self::DiskFull => "disk_full",
            Self::Short => "short",
            Self::Long => "long",
            Self::Failed(_) => "failed",
        }
    }

    /// The ERROR packet for it: exact codes (U-Boot restarts for ever on any but 1 and 2), and texts that
    /// never contain a path of the server.
    #[must_use]
    pub const fn error(self) -> (ErrorCode, &'static str) {
        match self {
            Self::NotFound => (ErrorCode::NOT_FOUND, "file not found"),
            Self::Denied => (ErrorCode::ACCESS, "access denied"),
            Self::Exists => (ErrorCode::EXISTS, "file already exists"),
            Self::DiskFull => (ErrorCode::DISK_FULL, "disk full or upload too large"),
            Self::Short => (ErrorCode::UNDEFINED, "upload shorter than announced"),
            Self::Long => (ErrorCode::UNDEFINED, "upload longer than announced"),
            Self::Failed(_) => (ErrorCode::UNDEFINED, "the server cannot do this now"),
        }
    }

    const fn is_out_of_descriptors(self) -> bool {
        matches!(self, Self::Failed(libc::EMFILE | libc::ENFILE))
    }
}

/// Why the octets of a body cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadFailure {
    /// The file was truncated, or overwritten in place, since it was opened.
    Changed,
    /// A system error: its number.
    Failed(i32),
}

#[cfg(test)]
mod tests;
