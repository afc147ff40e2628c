//! The state that threads share, under a model checker: every interleaving is tried, up to a bounded number
//! of preemptions.
//!
//! The files are the server's own, compiled once more with the checker's locks, channels, counters and
//! threads in place of the standard library's: that is what `crate::sync` is for. A thread that waits for
//! ever, a lock taken twice, or an assertion that fails in any interleaving ends the test, which then reports
//! that interleaving.
//!
//! ```sh
//! cargo test --test loom            # all models
//! cargo test --test loom alarm      # models with `alarm` in their names
//! ```

// Models use a part of what they are made of, and unit tests stand idle.
#![allow(dead_code, unused_imports, missing_docs, unreachable_pub)]
#![allow(clippy::duplicate_mod)] // The store's own parts are private to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize as Plain, Ordering::Relaxed};
use std::task::Waker;
use std::{env, io};

use bootstorm::{config, proto, wire};
use loom::sync::atomic::{AtomicBool, AtomicUsize};
use loom::sync::mpsc::{Receiver, channel};
use loom::sync::{Condvar, Mutex};
use loom::thread;

use alarm::{Alarm, Bell};
use arena::{Arena, CELL_OCTETS};
use census::Census;
use pool::Queue;
use proto::block::{BlockIndex, Rollover};
use rendezvous::Rendezvous;
use store::{
    Answer, Backend, Body, Done, FramesKey, Identity, Mailbox, OpenError, Opened, Patience,
    ReadFailure, Refusal, Sink, Source, Store, StoreOptions, Ticket,
};
use wire::Mode;

#[path = "../src/engine/alarm.rs"]
mod alarm;
#[path = "../src/store/arena.rs"]
mod arena;
#[path = "../src/shard/census.rs"]
mod census;
#[path = "../src/store/pool.rs"]
mod pool;
#[path = "../src/server/rendezvous.rs"]
mod rendezvous;
#[path = "../src/store/mod.rs"]
mod store;
#[path = "../src/testing.rs"]
mod testing;

/// What `crate::sync` is in this program.
mod sync {
    pub(crate) use loom::sync::{Condvar, Mutex, MutexGuard, atomic, mpsc};
    pub(crate) use loom::thread;
}

/// How often threads may be preempted in one run; where one waits is not counted. Almost every fault of this kind
/// shows with two, and each more multiplies the orders.
const PREEMPTIONS_MAX: usize = 3;

/// A model: its name and its body.
type Model = (&'static str, fn());

macro_rules! models {
    ($($model:ident)*) => {
        &[$((stringify!($model), $model)),*]
    };
}

const MODELS: &[Model] = models! {
    alarm_loses_no_message
    mailbox_wakes_its_shard
    queue_gives_each_job_once
    queue_that_closes_ends_its_threads
    census_keeps_the_limit
    shards_end_together
    shards_do_not_wait_for_one_that_failed
    cells_have_one_owner
    frames_are_made_once_for_all
    frames_read_at_once_are_for_all
    bodies_end_with_their_readers
    store_that_ends_joins_its_threads
};

fn main() {
    let wanted = env::args().skip(1).find(|word| !word.starts_with('-'));
    let is_wanted = |name: &str| wanted.as_ref().is_none_or(|part| name.contains(part));
    for &(name, body) in MODELS.iter().filter(|(name, _)| is_wanted(name)) {
        print!("model {name} ... ");
        let orders = Arc::new(Plain::new(0));
        let counted = Arc::clone(&orders);
        let mut checker = loom::model::Builder::new();
        checker.preemption_bound = Some(PREEMPTIONS_MAX);
        checker.check(move || {
            counted.fetch_add(1, Relaxed);
            body();
        });
        println!("ok, {} orders", orders.load(Relaxed));
    }
}

/// Goal: a wait sees a message whose writer wrote first and then woke it, although only the first of many
/// wake-ups rings. The message has no memory ordering of its own; the alarm's must suffice.
fn alarm_loses_no_message() {
    let alarm = Arc::new(Alarm::new(Doorbell::default()));
    let messages = Arc::new([AtomicBool::new(false), AtomicBool::new(false)]);
    let writers = [0, 1].map(|place| {
        let waker = Waker::from(Arc::clone(&alarm));
        let messages = Arc::clone(&messages);
        thread::spawn(move || {
            messages[place].store(true, Relaxed);
            waker.wake_by_ref();
        })
    });
    while !messages.iter().all(|message| message.load(Relaxed)) {
        alarm.bell().wait();
        alarm.reset();
    }
    for writer in writers {
        writer.join().expect("it ends");
    }
}

/// Goal: a shard that takes all its mail whenever it is woken gets all of it. The admin side's questions take
/// the same path.
fn mailbox_wakes_its_shard() {
    let shard = Shard::new();
    let threads = [1, 2].map(|number| {
        let mailbox = shard.mailbox.clone();
        thread::spawn(move || mailbox.deliver(Done::Published(Ticket(number), Ok(()))))
    });
    let mut tickets: Vec<_> = (0..2).map(|_| shard.next()).collect();
    tickets.sort_by_key(|done| match done {
        Done::Published(ticket, Ok(())) => *ticket,
        other => panic!("{other:?}"),
    });
    assert!(shard.is_empty());
    for thread in threads {
        thread.join().expect("it ends");
    }
}

/// Goal: every accepted job is done once, and no worker sleeps while one waits.
fn queue_gives_each_job_once() {
    let queue = Arc::new(Queue::new(1));
    let done = Arc::new(AtomicUsize::new(0));
    let worker = thread::spawn({
        let (queue, done) = (Arc::clone(&queue), Arc::clone(&done));
        move || {
            while let Some(job) = queue.next() {
                done.fetch_add(job, Relaxed);
                if job == 100 {
                    break;
                }
            }
        }
    });
    let other = thread::spawn({
        let queue = Arc::clone(&queue);
        move || if queue.offer(10) { 10 } else { 0 }
    });
    let mine = if queue.offer(1) { 1 } else { 0 };
    let other = other.join().expect("it ends");
    assert!(mine + other > 0, "both were refused, and nothing waited");
    // The last one is not refused, and comes last.
    queue.add(100);
    worker.join().expect("it ends");
    assert_eq!(done.load(Relaxed), mine + other + 100);
}

/// Goal: closing ends threads that sleep and threads that are about to, and jobs that still wait are dropped.
fn queue_that_closes_ends_its_threads() {
    let queue = Arc::new(Queue::new(4));
    let job = Arc::new(());
    assert!(queue.offer(Arc::clone(&job)));
    let workers = [(); 2].map(|()| {
        let queue = Arc::clone(&queue);
        thread::spawn(move || while queue.next().is_some() {})
    });
    queue.close();
    for worker in workers {
        worker.join().expect("it ends");
    }
    assert!(!queue.offer(Arc::clone(&job)));
    queue.add(Arc::clone(&job));
    assert_eq!(Arc::strong_count(&job), 1, "a job is kept by nobody");
}

/// Goal: the shards together never exceed the operator's limit on transfers, and free room is found.
fn census_keeps_the_limit() {
    let census = Census::default();
    let shards = [(); 2].map(|()| {
        let census = census.clone();
        thread::spawn(move || {
            let entered = census.enter(1);
            if entered {
                assert_eq!(census.count(), 1);
                census.leave();
            }
            entered
        })
    });
    let entered = shards.map(|shard| shard.join().expect("it ends"));
    assert!(
        entered.contains(&true),
        "both were turned away from an empty house"
    );
    assert_eq!(census.count(), 0);
    assert!(census.enter(1) && !census.enter(1));
}

/// Goal: no shard ends before all are done, and no sleeping shard misses the end.
fn shards_end_together() {
    let rendezvous = Rendezvous::default();
    let done = Arc::new(AtomicUsize::new(0));
    // Both are added before the first is done.
    let members = [(); 2].map(|()| {
        let alarm = Arc::new(Alarm::new(Doorbell::default()));
        let member = rendezvous.join(Waker::from(Arc::clone(&alarm)));
        (alarm, member)
    });
    let shards = members.map(|(alarm, mut member)| {
        let done = Arc::clone(&done);
        thread::spawn(move || {
            done.fetch_add(1, Relaxed);
            while !member.is_done() {
                alarm.bell().wait();
                alarm.reset();
            }
            assert_eq!(done.load(Relaxed), 2);
        })
    });
    for shard in shards {
        shard.join().expect("it ends");
    }
}

/// Goal: a shard whose thread ended early delays no other.
fn shards_do_not_wait_for_one_that_failed() {
    let rendezvous = Rendezvous::default();
    let alarm = Arc::new(Alarm::new(Doorbell::default()));
    let mut member = rendezvous.join(Waker::from(Arc::clone(&alarm)));
    let failed = rendezvous.join(Waker::noop().clone());
    let failing = thread::spawn(move || drop(failed));
    while !member.is_done() {
        alarm.bell().wait();
        alarm.reset();
    }
    failing.join().expect("it ends");
}

/// Goal: a cell has one owner at a time, memory keeps its bound, and an observation that a cell's memory
/// stays is right.
fn cells_have_one_owner() {
    let arena = Arena::new(CELL_OCTETS);
    let owners = [1, 2].map(|mark| {
        let arena = Arc::clone(&arena);
        thread::spawn(move || {
            let mut chunk = arena.take(CELL_OCTETS)?;
            chunk.octets_mut()[0] = mark;
            // The others go first.
            assert!(arena.resident() <= CELL_OCTETS);
            assert_eq!(chunk.octets()[0], mark);
            let stay = chunk.lasting().map(|lasting| Arc::downgrade(lasting.stay));
            drop(chunk);
            stay
        })
    });
    // What is small takes the room of a cell at rest, and gives it back.
    let small = arena.take(1);
    assert!(arena.resident() <= CELL_OCTETS);
    drop(small);
    let stays = owners.map(|owner| owner.join().expect("it ends"));
    let stays = stays
        .iter()
        .flatten()
        .filter(|stay| stay.upgrade().is_some());
    let warm = stays.count() > 0;
    assert_eq!(arena.resident(), if warm { CELL_OCTETS } else { 0 });
}

/// Goal: two shards that want the same frames each get them once, and the file is read once. In the end
/// nothing of them is left.
fn frames_are_made_once_for_all() {
    read_by_two(Files::default());
}

/// Goal: the same if the shard that asks first reads them itself.
fn frames_read_at_once_are_for_all() {
    let files = Files::default();
    files.in_memory.store(true, Relaxed);
    let answered_at_once = read_by_two(files);
    assert_ne!(answered_at_once, [false; 2]);
}

/// Two shards read a file; whether each got it at once.
fn read_by_two(files: Files) -> [bool; 2] {
    let reads = Arc::clone(&files.reads);
    let store = store(files, 0);
    let shard = Shard::new();
    let body = shard.open(&store);
    let shards = [(); 2].map(|()| {
        let (store, body) = (Arc::clone(&store), Arc::clone(&body));
        thread::spawn(move || Shard::new().read(&store, &body))
    });
    let at_once = shards.map(|shard| shard.join().expect("it ends"));
    assert_eq!(reads.load(Relaxed), 1);
    shard.assert_forgets(&store, body);
    at_once
}

/// Goal: whether a file is opened again before, while or after its last reader leaves, its readers get frames
/// and nothing of it is left in the end.
fn bodies_end_with_their_readers() {
    let files = Files::default();
    files.nameless.store(true, Relaxed);
    let store = store(files, 0);
    let readers = [(); 2].map(|()| {
        let store = Arc::clone(&store);
        thread::spawn(move || {
            let shard = Shard::new();
            let body = shard.open(&store);
            shard.read(&store, &body);
        })
    });
    for reader in readers {
        reader.join().expect("it ends");
    }
    let shard = Shard::new();
    let body = shard.open(&store);
    shard.assert_forgets(&store, body);
}

/// Goal: a store that is dropped during its work ends its threads, and no waiting reader is left with half an
/// answer.
fn store_that_ends_joins_its_threads() {
    let store = store(Files::default(), 1);
    let shard = Shard::new();
    let body = shard.open(&store);
    assert!(matches!(
        store.frames(&key(&body), &shard.mailbox),
        Answer::Later
    ));
    drop(store);
    if let Ok(done) = shard.mail.try_recv() {
        assert!(matches!(done, Done::Framed(_, Ok(_))), "{done:?}");
    }
}

/// A bell that can be waited for, like an engine's.
#[derive(Default)]
struct Doorbell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Doorbell {
    fn wait(&self) {
        let mut rung = self.rung.lock().expect("nobody panics with it");
        while !std::mem::take(&mut *rung) {
            rung = self.changed.wait(rung).expect("nobody panics with it");
        }
    }
}

impl Bell for Doorbell {
    fn ring(&self) -> io::Result<()> {
        *self.rung.lock().expect("nobody panics with it") = true;
        self.changed.notify_one();
        Ok(())
    }
}

/// A shard's way of waiting: woken, it takes the alarm and then all that has come.
struct Shard {
    alarm: Arc<Alarm<Doorbell>>,
    mailbox: Mailbox,
    mail: Receiver<Done>,
}

impl Shard {
    fn new() -> Self {
        let alarm = Arc::new(Alarm::new(Doorbell::default()));
        let (sender, mail) = channel();
        let mailbox = Mailbox::new(sender, Waker::from(Arc::clone(&alarm)));
        Self {
            alarm,
            mailbox,
            mail,
        }
    }

    /// What comes next, if the shard has to be woken for it.
    fn next(&self) -> Done {
        loop {
            if let Ok(done) = self.mail.try_recv() {
                return done;
            }
            self.alarm.bell().wait();
            self.alarm.reset();
        }
    }

    fn is_empty(&self) -> bool {
        self.mail.try_recv().is_err()
    }

    fn open(&self, store: &Store) -> Arc<Body> {
        match store.open(Ticket(0), b"file", Mode::Octet, &self.mailbox) {
            Answer::Now(Ok(body)) => body,
            other => panic!("{other:?}"),
        }
    }

    /// Reads all of a file, which is one block, and does the store's work for it; returns whether it got that at
    /// once.
    fn read(&self, store: &Store, body: &Arc<Body>) -> bool {
        let (frames, at_once) = match store.frames(&key(body), &self.mailbox) {
            Answer::Now(frames) => (frames, true),
            Answer::Later => {
                while store.run_next() {}
                match self.next() {
                    Done::Framed(_, frames) => (frames, false),
                    other => panic!("{other:?}"),
                }
            }
            Answer::Busy => panic!("there is room"),
        };
        let frames = frames.expect("it can be read");
        let packet = frames.burst(BlockIndex::FIRST, 1).to_contiguous();
        assert_eq!(*packet, *b"\0\x03\0\x01octets");
        assert!(self.is_empty(), "it is told once");
        at_once
    }

    /// This reader is the last; once it has left, the store holds neither memory nor a descriptor for the file.
    fn assert_forgets(&self, store: &Store, body: Arc<Body>) {
        // Its frames may still be laid out for readers that do not come.
        while store.run_next() {}
        let last = Arc::downgrade(&body);
        drop(body);
        let freed = store.open(Ticket(0), NO_DESCRIPTOR, Mode::Octet, &self.mailbox);
        assert!(matches!(freed, Answer::Later) && store.run_next());
        assert!(last.upgrade().is_none());
        let statistics = store.statistics();
        assert_eq!((statistics.resident_octets, statistics.pending), (0, 0));
    }
}

/// The name that takes a descriptor when there is none.
const NO_DESCRIPTOR: &[u8] = b"no descriptor";

/// A directory in which every other name is one file, whose octets are `octets`.
#[derive(Default)]
struct Files {
    reads: Arc<Plain>,
    /// Whether the file has lost its name.
    nameless: Arc<std::sync::atomic::AtomicBool>,
    /// Whether it can be read without waiting.
    in_memory: Arc<std::sync::atomic::AtomicBool>,
}

impl Backend for Files {
    fn open(&self, name: &[u8], _: Patience) -> Result<Opened, OpenError> {
        if name == NO_DESCRIPTOR {
            return Err(Refusal::Failed(libc::EMFILE).into());
        }
        let source = Octets {
            reads: Arc::clone(&self.reads),
            nameless: self.nameless.load(Relaxed),
            in_memory: self.in_memory.load(Relaxed),
        };
        let identity = Identity {
            device: 1,
            inode: 1,
            len: 6,
            modified: 1,
            changed: 1,
        };
        Ok(Opened {
            source: Box::new(source),
            len: 6,
            identity,
        })
    }

    fn create(&self, _: &[u8], _: Option<u64>) -> Result<Box<dyn Sink>, Refusal> {
        Err(Refusal::Denied)
    }
}

struct Octets {
    reads: Arc<Plain>,
    nameless: bool,
    in_memory: bool,
}

impl Source for Octets {
    fn read_at(&self, buffer: &mut [u8], _: u64) -> Result<usize, ReadFailure> {
        self.reads.fetch_add(1, Relaxed);
        buffer.copy_from_slice(b"octets");
        Ok(buffer.len())
    }

    fn check(&self) -> Result<(), ReadFailure> {
        Ok(())
    }

    fn read_now(&self, buffer: &mut [u8], offset: u64) -> bool {
        self.in_memory && self.read_at(buffer, offset).is_ok()
    }

    fn is_nameless(&self) -> bool {
        self.nameless
    }
}

fn store(files: Files, threads: usize) -> Arc<Store> {
    let options = StoreOptions {
        frame_cache_octets: 4096,
        threads,
    };
    Store::new(files, options).expect("threads start")
}

fn key(body: &Arc<Body>) -> FramesKey {
    FramesKey {
        body: Arc::clone(body),
        blksize: 512,
        rollover: Rollover::ToZero,
        extent: 0,
    }
}
