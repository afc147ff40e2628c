//! The work of a store's threads, in lanes that do not wait for each other.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::body::Bodies;
use super::cache::{FrameCache, Recipe, Why};
use super::closer::Closer;
use super::frames::Layout;
use super::pool::Queue;
use super::scans::{Scans, Work};
use super::text::Scan;
use super::{
    Backend, Body, Done, EXTENT_OCTETS, Frames, FramesKey, Identity, Mailbox, OpenError, Opened,
    Patience, ReadFailure, Refusal, Ticket, Upload,
};
use crate::wire::Mode;

/// A text up to this length is scanned when it is opened: that takes no longer than framing an extent, and
/// its reader need not wait behind longer texts.
pub(super) const SCANNED_AT_ONCE_OCTETS_MAX: u64 = EXTENT_OCTETS;

/// Limit of waiting jobs in the lanes of reads and uploads, beyond those that must not be refused: enough
/// for a whole rack at once, few enough for a slow disk to finish before the clients give up.
pub(super) const JOBS_MAX: usize = 1024;

/// State shared by the threads and the shards.
pub(super) struct Shared {
    pub(super) backend: Box<dyn Backend>,
    pub(super) bodies: Bodies,
    pub(super) cache: Arc<FrameCache>,
    /// Indexed by [`Lane`].
    pub(super) queues: [Queue<Job>; 3],
    pub(super) scans: Scans,
    /// Drops what is remote; without threads, whoever has it does.
    pub(super) closer: Option<Arc<Closer>>,
}

/// A thread's main loop, which runs until the store closes.
pub(super) type Duty = fn(&Shared);

/// Kinds of work that do not wait for each other, nor for long scans.
#[derive(Debug, Clone, Copy)]
pub(super) enum Lane {
    /// Opening and reading what is on local disks.
    Reads,
    /// The same where that may take much longer, or for ever.
    SlowReads,
    Uploads,
}

/// Work that may block.
pub(super) enum Job {
    Open {
        ticket: Ticket,
        name: Box<[u8]>,
        mode: Mode,
        mailbox: Mailbox,
        patience: Patience,
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

impl Lane {
    const fn of_reads(may_be_slow: bool) -> Self {
        if may_be_slow {
            Self::SlowReads
        } else {
            Self::Reads
        }
    }
}

impl Job {
    fn lane(&self) -> Lane {
        match self {
            Self::Open { patience, .. } => Lane::of_reads(*patience == Patience::Long),
            Self::Frame(key) => Lane::of_reads(key.body.is_remote()),
            Self::Begin(body) => Lane::of_reads(body.is_remote()),
            Self::Create { .. } | Self::Write { .. } | Self::Publish { .. } | Self::Discard(_) => {
                Lane::Uploads
            }
        }
    }
}

impl Shared {
    pub(super) const fn queue(&self, lane: Lane) -> &Queue<Job> {
        &self.queues[lane as usize]
    }

    /// Queues a job unless too many of its kind are waiting; returns whether it did.
    pub(super) fn offer(&self, job: Job) -> bool {
        self.queue(job.lane()).offer(job)
    }

    /// Queues a job of a kind that its owner limits.
    pub(super) fn add(&self, job: Job) {
        self.queue(job.lane()).add(job);
    }

    /// Runs the jobs of a lane until the store closes.
    pub(super) fn work(&self, lane: Lane) {
        while let Some(job) = self.queue(lane).next() {
            self.run(job);
        }
    }

    /// Queues a job that makes frames; returns whether there was room for it.
    pub(super) fn offer_frames(&self, key: FramesKey, why: Why) -> bool {
        let job = Job::Frame(key);
        match why {
            Why::Asked => self.offer(job),
            // It may need no job.
            Why::AskedAlone => self.queue(job.lane()).len() < JOBS_MAX,
            Why::Ahead => self.offer_idly(job),
        }
    }

    /// Queues a job that nobody waits for.
    fn offer_idly(&self, job: Job) -> bool {
        self.has_room_for_idle(&job) && self.offer(job)
    }

    /// Whether there is room for a job that nobody waits for: most of the queue is for others.
    pub(super) fn has_room_for_idle(&self, job: &Job) -> bool {
        self.queue(job.lane()).len() < JOBS_MAX / 4
    }

    /// Reads the extent that the owner of the mailbox alone asked for, on the caller's thread, if that takes no
    /// longer than to copy the octets. Otherwise, its job is still to be queued.
    pub(super) fn read_now(&self, key: &FramesKey, mailbox: &Mailbox) -> Option<Arc<Frames>> {
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

    /// Does what is left to do once the first octets were read at once.
    fn begin(&self, body: &Body) {
        let _ = caught((), || {
            body.begin();
            Ok(())
        });
    }

    pub(super) fn run(&self, job: Job) {
        match job {
            Job::Open {
                ticket,
                name,
                mode,
                mailbox,
                patience,
            } => {
                let opening = || self.open(&name, mode, patience);
                let answer = match caught(Refusal::Failed(PANICKED), opening) {
                    Ok(Opening::Done(body)) => Ok(body),
                    Ok(Opening::Slow) => {
                        let slow = Job::Open {
                            ticket,
                            name,
                            mode,
                            mailbox: mailbox.clone(),
                            patience: Patience::Long,
                        };
                        if self.offer(slow) {
                            return;
                        }
                        Err(Refusal::Failed(BUSY))
                    }
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
                if key.extent == 0 {
                    if at_hand && key.body.is_to_begin() {
                        self.begin(&key.body);
                    }
                    // A client starts reading a file: a good time to release deleted ones.
                    self.bodies.release_nameless(key.body.is_remote());
                }
            }
            Job::Begin(body) => {
                self.begin(&body);
                self.bodies.release_nameless(body.is_remote());
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

    fn open(&self, name: &[u8], mode: Mode, patience: Patience) -> Result<Opening, Refusal> {
        let opened = self.with_descriptors(|| match self.open_file(name, patience) {
            Ok(opened) => Ok(Some(opened)),
            Err(OpenError::Refused(refusal)) => Err(refusal),
            Err(OpenError::WouldBlock) if patience == Patience::Long => {
                Err(Refusal::Failed(WOULD_BLOCK))
            }
            Err(OpenError::WouldBlock) => Ok(None),
        })?;
        let Some(opened) = opened else {
            return Ok(Opening::Slow);
        };
        Ok(match mode {
            Mode::Octet => Opening::Done(self.share(opened, mode)),
            Mode::Netascii => match self.bodies.find(opened.identity, mode) {
                Some(body) => Opening::Done(body),
                None if is_short(&opened) => Opening::Done(self.scan_at_once(opened)?),
                None => Opening::Unscanned(opened),
            },
        })
    }

    /// Opens what `name` means, so that whoever drops it does not wait.
    pub(super) fn open_file(&self, name: &[u8], patience: Patience) -> Result<Opened, OpenError> {
        let opened = self.backend.open(name, patience)?;
        Ok(match &self.closer {
            Some(closer) => closer.take_care_of(opened),
            None => opened,
        })
    }

    fn scan_at_once(&self, opened: Opened) -> Result<Arc<Body>, Refusal> {
        let mut scan = Scan::new(opened.source, opened.len);
        while !scan.advance().map_err(scan_refusal)? {}
        self.scanned(scan, opened.identity)
    }

    /// Scans long texts until the store closes.
    pub(super) fn scan_all(&self) {
        while let Some(work) = self.scans.next() {
            self.scan(work);
        }
    }

    /// Scans a slice of a long text. Its waiters are notified when the scan ends.
    pub(super) fn scan(&self, work: Work) {
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
                let are_remote = self.bodies.release_held();
                if let Some(closer) = self.closer.as_ref().filter(|_| are_remote) {
                    closer.catch_up();
                }
                work()
            }
            done => done,
        }
    }

    pub(super) fn share(&self, opened: Opened, mode: Mode) -> Arc<Body> {
        self.bodies.share(opened, mode, &self.cache)
    }
}

/// The outcome of opening.
enum Opening {
    Done(Arc<Body>),
    /// It may take longer than this lane allows.
    Slow,
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

/// The error number for [`Answer::Busy`](super::Answer::Busy) where that answer is no longer possible: EBUSY.
const BUSY: i32 = libc::EBUSY;

/// Does `work`; turns a panic into `failure`, so that the waiters are notified and the thread survives.
fn caught<T, E>(failure: E, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(failure))
}

pub(super) const fn is_short(text: &Opened) -> bool {
    text.len <= SCANNED_AT_ONCE_OCTETS_MAX
}
