//! Names to bodies: what a shard asks for, and gets without ever waiting for a disk.
//!
//! Whatever may block is done by a few threads; the shard gets the result at once when it is at hand
//! ([`Answer::Now`]), or later through its [`Mailbox`]. Work has three lanes, each with a bounded queue
//! and threads of its own: opening and framing, which a booting machine waits for, is held up neither
//! by uploads and their `fsync` nor by long texts that are read through for their length. One opening is
//! shared by all who read the same file, and so are the DATA packets made from it ([`Frames`]).

mod arena;
mod body;
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
pub use self::frames::{EXTENT_OCTETS, Frames, FramesKey};
pub(crate) use self::resolve::Resolver;
pub use self::upload::Upload;

use self::body::Bodies;
use self::frames::{Asked, FrameCache, Why};
use self::pool::Queue;
use self::scans::{Scans, Work};
use self::text::Scan;
use crate::config;
use crate::sync::mpsc::Sender;
use crate::sync::thread::{self, JoinHandle};
use crate::wire::{ErrorCode, Mode};

/// Threads that open and frame: enough to keep a disk busy, few enough to leave the cores to the shards.
pub const THREADS_DEFAULT: usize = 4;

/// Threads that scan long texts: these share a disk, and take turns anyway.
const SCAN_THREADS_MAX: usize = 1;

/// A text up to this length is scanned where it is opened: that takes no longer than to frame a stretch of
/// a file, and its reader need not wait behind longer ones.
const SCANNED_AT_ONCE_OCTETS_MAX: u64 = EXTENT_OCTETS;

/// Threads that do what uploads need: one goes on writing while the other waits for an `fsync`.
const UPLOAD_THREADS_MAX: usize = 2;

/// Most jobs that wait in the lanes of reads and uploads, beyond those that must not be refused: enough
/// for a whole rack that asks at once, few enough to be done by a slow disk before the clients give up.
const JOBS_MAX: usize = 1024;

/// How a [`Store`] is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreOptions {
    /// Most memory that frames take beyond those that transfers wait for; 0 keeps none.
    pub frame_cache_octets: usize,
    /// How many threads open and frame; other work has no more than that either, and no more than it
    /// needs. With 0, nobody works but [`Store::run_next`].
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

/// What names stand for: opens, reads, writes, and never makes its caller wait for a disk.
///
/// Shared by all shards. Its threads end when it is dropped; what still waits then is not done, and
/// what takes long is given up.
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
            (|shared| shared.work(Lane::Reads), "store", usize::MAX),
            (Shared::scan_all, "scan", SCAN_THREADS_MAX),
            (
                |shared| shared.work(Lane::Uploads),
                "upload",
                UPLOAD_THREADS_MAX,
            ),
        ];
        for (work, name, threads_max) in lanes {
            for index in 0..options.threads.min(threads_max) {
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

    /// Opens `name` for reading. At hand if that takes no disk, otherwise [`Done::Opened`] follows.
    pub fn open(
        &self,
        ticket: Ticket,
        name: &[u8],
        mode: Mode,
        mailbox: &Mailbox,
    ) -> Answer<Result<Arc<Body>, Refusal>> {
        match self.shared.backend.open(name, Patience::Now) {
            // To free descriptors is work for a thread.
            Err(OpenError::Refused(refusal)) if refusal.is_out_of_descriptors() => {}
            Err(OpenError::Refused(refusal)) => return Answer::Now(Err(refusal)),
            Err(OpenError::WouldBlock) => {}
            Ok(opened) => match mode {
                Mode::Octet => return Answer::Now(Ok(self.shared.share(opened, mode))),
                // A text has to be read through before its length is known: only one that somebody
                // reads already is at hand.
                Mode::Netascii => match self.shared.bodies.find(opened.identity, mode) {
                    Some(body) => return Answer::Now(Ok(body)),
                    // It is opened again when its turn comes: a descriptor for each that waits is too many.
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

    /// Nobody waits for the answer to [`Self::open`] any more. It may come nevertheless; but a long text
    /// that is being scanned for that alone is left.
    pub fn withdraw(&self, ticket: Ticket, mailbox: &Mailbox) {
        self.shared.scans.withdraw(ticket, mailbox);
    }

    /// The frames of `key`. If they are not at hand, [`Done::Framed`] follows: one for each mailbox
    /// that asked, however often it did.
    pub fn frames(
        &self,
        key: &FramesKey,
        mailbox: &Mailbox,
    ) -> Answer<Result<Arc<Frames>, ReadFailure>> {
        let queue = self.shared.queue(Lane::Reads);
        let asked = self.shared.cache.ask(key, mailbox, |key, why| {
            // Reading ahead is for idle times: it leaves most of the queue to those who wait.
            let room = why == Why::Asked || queue.len() < JOBS_MAX / 4;
            room && queue.offer(Job::Frame(key))
        });
        match asked {
            Asked::Ready(frames) => Answer::Now(Ok(frames)),
            Asked::Waiting => Answer::Later,
            Asked::Busy => Answer::Busy,
        }
    }

    /// Begins an upload to `name` of the length `announced`, if one was. [`Done::Created`] follows.
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

    /// Writes the next octets of an upload; it comes back with [`Done::Written`].
    pub fn write(&self, ticket: Ticket, upload: Upload, chunk: Vec<u8>, mailbox: &Mailbox) {
        self.shared.add(Job::Write {
            ticket,
            upload,
            chunk,
            mailbox: mailbox.clone(),
        });
    }

    /// Makes an upload visible under its name; [`Done::Published`] says whether it is.
    pub fn publish(&self, ticket: Ticket, upload: Upload, mailbox: &Mailbox) {
        self.shared.add(Job::Publish {
            ticket,
            upload,
            mailbox: mailbox.clone(),
        });
    }

    /// Gives an upload up. Dropping it does the same, but giving back a large file's disk can take a
    /// while, which is better spent by a thread of the store.
    pub fn discard(&self, upload: Upload) {
        self.shared.add(Job::Discard(upload));
    }

    /// The counters, as they stand.
    #[must_use]
    pub fn statistics(&self) -> StoreStatistics {
        self.shared.cache.statistics()
    }

    /// Does one piece of waiting work on the caller's thread, reads before scans before uploads;
    /// `false` if none waits.
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

/// The answer to who asked for work that was taken, or for which there is no room.
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
            // A thread cannot panic: whatever a job does is caught. If one did, nothing is left to do.
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

/// How the frame cache does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StoreStatistics {
    /// How often frames were at hand when they were asked for.
    pub hits: u64,
    /// How often the one who asked had to wait.
    pub misses: u64,
    /// Octets of frames made.
    pub framed_octets: u64,
    /// Extents that had to make room.
    pub evictions: u64,
    /// Octets of memory taken: of frames, kept or only sent from, and of what is ready for more.
    pub resident_octets: u64,
    /// Extents that are being made, or wait for that.
    pub pending: u64,
}

/// What the threads and the shards share.
struct Shared {
    backend: Box<dyn Backend>,
    bodies: Bodies,
    cache: Arc<FrameCache>,
    /// By [`Lane`].
    queues: [Queue<Job>; 2],
    scans: Scans,
}

/// What a thread does, until all is to end.
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
            Self::Open { .. } | Self::Frame(_) => Lane::Reads,
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

    /// Queues a job unless too many of its kind wait already; says whether it did.
    fn offer(&self, job: Job) -> bool {
        self.queue(job.lane()).offer(job)
    }

    /// Queues a job of a kind that its owner limits.
    fn add(&self, job: Job) {
        self.queue(job.lane()).add(job);
    }

    /// Does what waits in a lane, until all is to end.
    fn work(&self, lane: Lane) {
        while let Some(job) = self.queue(lane).next() {
            self.run(job);
        }
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
                let frames = caught(ReadFailure::Failed(PANICKED), || {
                    Frames::read(&key, self.cache.room(key.octets()))
                });
                let (result, waiting) = self.cache.finish(&key, frames);
                for mailbox in waiting {
                    mailbox.deliver(Done::Framed(key.clone(), result.clone()));
                }
                // Somebody begins to read a file: a good time to look after those that are no more.
                if key.extent == 0 {
                    self.bodies.release_nameless();
                }
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

    /// Scans long texts, until all is to end.
    fn scan_all(&self) {
        while let Some(work) = self.scans.next() {
            self.scan(work);
        }
    }

    /// Scans a slice of a long text. Those who wait for it hear of its end.
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
        // It may have been done between the look for it and the wish for it.
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

    /// Does `work`, and once more if no descriptor was left for it: those go first that are kept for
    /// readers who may never come.
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

/// How far opening came.
enum Opening {
    Done(Arc<Body>),
    /// The length of a text is not known yet, nor will it be soon.
    Unscanned(Opened),
}

/// How far a scan came.
enum Scanning {
    Done(Arc<Body>),
    Unfinished(Scan),
}

const fn scan_refusal(failure: ReadFailure) -> Refusal {
    match failure {
        // Too much in motion to be read now; the client may ask again.
        ReadFailure::Changed => Refusal::Failed(WOULD_BLOCK),
        ReadFailure::Failed(errno) => Refusal::Failed(errno),
    }
}

/// The error number of work that panicked, which is a bug: EIO.
const PANICKED: i32 = libc::EIO;

/// The error number of what could be done at another time: EAGAIN.
const WOULD_BLOCK: i32 = libc::EAGAIN;

/// The error number of what is [`Answer::Busy`] when that can no longer be said: EBUSY.
const BUSY: i32 = libc::EBUSY;

/// Does `work`; a panic becomes `failure`, so that whoever waits is told and the thread lives on.
fn caught<T, E>(failure: E, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(failure))
}

/// Where files are. Its methods may block, save where they are told not to.
pub trait Backend: Send + Sync + 'static {
    /// Opens `name` for reading.
    ///
    /// # Errors
    /// Why it cannot be opened; with [`Patience::Now`] also that it would take a disk.
    fn open(&self, name: &[u8], patience: Patience) -> Result<Opened, OpenError>;

    /// Begins a file that will be called `name`, of the length `announced`, if one was.
    ///
    /// # Errors
    /// Why it cannot be.
    fn create(&self, name: &[u8], announced: Option<u64>) -> Result<Box<dyn Sink>, Refusal>;
}

/// How long [`Backend::open`] may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// No longer than memory takes.
    Now,
    /// However long the disk takes.
    Long,
}

/// Why [`Backend::open`] did not open.
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
    /// Its octets.
    pub source: Box<dyn Source>,
    /// How many they are.
    pub len: u64,
    /// Which file it is.
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

/// What makes two openings one body: the same file, as it was at the same time. A time stamp can be set to
/// what it was; when anything about the file last changed cannot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The file system.
    pub device: u64,
    /// The file on it.
    pub inode: u64,
    /// Its length in octets.
    pub len: u64,
    /// When it was last written to, in nanoseconds since 1970, or what somebody set that to.
    pub modified: i128,
    /// When its contents, its names or its permissions last changed, in nanoseconds since 1970.
    pub changed: i128,
}

/// The octets of an open file.
pub trait Source: Send + Sync {
    /// Fills `buffer` with the octets from `offset` on; says how many, fewer only at the end.
    ///
    /// # Errors
    /// Why they cannot be read.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, ReadFailure>;

    /// Makes sure that what was read is still what was opened.
    ///
    /// # Errors
    /// [`ReadFailure::Changed`] if it is not.
    fn check(&self) -> Result<(), ReadFailure>;

    /// Whether the file has no name any more, so that nobody new can ask for it and only its openings
    /// keep it on the disk.
    fn is_nameless(&self) -> bool {
        false
    }
}

/// A file under way. Dropped before it is published, it leaves nothing.
pub trait Sink: Send {
    /// Adds `octets` at the end.
    ///
    /// # Errors
    /// Why they cannot be written; the sink is then of no further use.
    fn write(&mut self, octets: &[u8]) -> Result<(), Refusal>;

    /// Makes the file visible under its name, whole and on disk.
    ///
    /// # Errors
    /// Why it cannot be; nothing is left then.
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
    /// New files, and new contents for old ones.
    Overwrite,
}

/// Names a shard's question, so that the answer finds the transfer that asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Where a shard's answers go: into its channel, and it is woken.
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
    /// A mailbox that puts into `sender` and then wakes by `waker`.
    #[must_use]
    pub fn new(sender: Sender<Done>, waker: Waker) -> Self {
        Self {
            address: Arc::new(Address { sender, waker }),
        }
    }

    /// Delivers; a shard that has ended no longer cares.
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

/// An answer that is at hand, or one that will come through the mailbox.
#[derive(Debug)]
pub enum Answer<T> {
    /// Here it is.
    Now(T),
    /// It will be delivered.
    Later,
    /// Too much is waiting already; ask again in a while.
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
    /// The answer to [`Store::write`]: the upload and the emptied buffer come back.
    Written(Ticket, Upload, Vec<u8>, Result<(), Refusal>),
    /// The answer to [`Store::publish`].
    Published(Ticket, Result<(), Refusal>),
}

/// Why a name cannot be opened, or an upload cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Nothing there.
    NotFound,
    /// Something there, but not for the asker: not readable, not a regular file, outside the root.
    Denied,
    /// Something there already, and uploads may not replace.
    Exists,
    /// No room: the disk, the quota, or the operator's limit on uploads.
    DiskFull,
    /// Fewer octets came than were announced.
    Short,
    /// More octets came than were announced.
    Long,
    /// The system failed in another way: its error number.
    Failed(i32),
}

impl Refusal {
    /// The refusal as the counters name it.
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

    /// The ERROR packet that says so: exact codes (U-Boot restarts for ever on any but 1 and 2), and
    /// texts that never hold a path of the server.
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

/// Why the octets of a body cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadFailure {
    /// The file became shorter, or was written over in place, since it was opened.
    Changed,
    /// The system failed: its error number.
    Failed(i32),
}

#[cfg(test)]
mod tests;
