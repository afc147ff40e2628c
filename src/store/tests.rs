//! Tests of the store as its shards see it.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Waker;

use super::frames::{FIRST_EXTENT_OCTETS, Layout};
use super::jobs::SCANNED_AT_ONCE_OCTETS_MAX;
use super::memory::{Contents, Faults, Memory, pattern_octet};
use super::scans::{SCANS_MAX, WAITING_MAX};
use super::text::Scan;
use super::*;
use crate::proto::block::{BlockIndex, Rollover};
use crate::sync::Mutex;
use crate::sync::mpsc::{Receiver, Sender, channel};
use crate::wire::{HEADER_OCTETS, write_data_header};

/// A store without threads, and a mailbox.
fn store(
    backend: impl Backend,
    frame_cache_octets: usize,
) -> (Arc<Store>, Mailbox, Receiver<Done>) {
    let store = Store::new(
        backend,
        StoreOptions {
            frame_cache_octets,
            threads: 0,
        },
    )
    .expect("no thread is started");
    let (sender, receiver) = channel();
    (store, Mailbox::new(sender, Waker::noop().clone()), receiver)
}

fn run_all(store: &Store) {
    while store.run_next() {}
}

fn open(
    store: &Store,
    name: &[u8],
    mode: Mode,
    mailbox: &Mailbox,
    inbox: &Receiver<Done>,
) -> Result<Arc<Body>, Refusal> {
    match store.open(Ticket(1), name, mode, mailbox) {
        Answer::Now(result) => result,
        Answer::Later => {
            run_all(store);
            match inbox.try_recv() {
                Ok(Done::Opened(Ticket(1), result)) => result,
                other => panic!("not what was asked for: {other:?}"),
            }
        }
        Answer::Busy => panic!("busy"),
    }
}

fn frames(
    store: &Store,
    key: &FramesKey,
    mailbox: &Mailbox,
    inbox: &Receiver<Done>,
) -> Result<Arc<Frames>, ReadFailure> {
    match store.frames(key, mailbox) {
        Answer::Now(result) => result,
        Answer::Later => {
            run_all(store);
            match inbox.try_recv() {
                Ok(Done::Framed(done, result)) if done == *key => result,
                other => panic!("not what was asked for: {other:?}"),
            }
        }
        Answer::Busy => panic!("busy"),
    }
}

/// All packets of a transfer, made block by block without regard to speed.
fn naive_packets(octets: &[u8], blksize: u16, rollover: Rollover) -> Vec<Vec<u8>> {
    let last = BlockIndex::last_of(octets.len() as u64, blksize).0;
    (1..=last)
        .map(|index| {
            let start = (index as usize - 1) * usize::from(blksize);
            let end = (start + usize::from(blksize)).min(octets.len());
            let mut packet = write_data_header(rollover.wire(BlockIndex(index))).to_vec();
            packet.extend_from_slice(&octets[start..end]);
            packet
        })
        .collect()
}

/// All packets of a transfer, taken from frames in bursts of some size.
fn framed_packets(
    store: &Store,
    body: &Arc<Body>,
    blksize: u16,
    rollover: Rollover,
    burst: u64,
    mailbox: &Mailbox,
    inbox: &Receiver<Done>,
) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    let mut block = BlockIndex::FIRST;
    while block <= BlockIndex::last_of(body.len(), blksize) {
        let extent = Frames::extent_of(block, blksize);
        let key = FramesKey {
            body: Arc::clone(body),
            blksize,
            rollover,
            extent,
        };
        let made = frames(store, &key, mailbox, inbox).expect("the file is well");
        let burst = made.burst(block, burst);
        let octets = burst.to_contiguous();
        packets.extend(octets.chunks(burst.segment()).map(<[u8]>::to_vec));
        block = block.plus(burst.count() as u64);
    }
    packets
}

fn octets(len: usize, random: &mut fastrand::Rng) -> Vec<u8> {
    let mut octets = vec![0; len];
    random.fill(&mut octets);
    octets
}

/// Goal: frames equal what a simple loop would send. Method: random lengths, block sizes and bursts,
/// including exact multiples and the empty file, with caches of several sizes.
#[test]
fn frames_are_what_a_simple_loop_makes() {
    let mut random = fastrand::Rng::with_seed(3);
    let memory = Memory::new(Writes::Off);
    for round in 0..60 {
        let blksize = match round % 4 {
            0 => 512,
            1 => 1428,
            2 => random.u16(8..2000),
            _ => random.u16(2000..=65_464),
        };
        let len = match round % 5 {
            0 => usize::from(blksize) * random.usize(0..100),
            1 => random.usize(0..64),
            _ => random.usize(0..2_000_000),
        };
        let octets = octets(len, &mut random);
        memory.insert(b"file", Contents::Octets(octets.as_slice().into()));
        let (store, mailbox, inbox) = store(memory.clone(), [0, 100_000, 10_000_000][round % 3]);
        let body = open(&store, b"file", Mode::Octet, &mailbox, &inbox).expect("there");
        let burst = random.u64(1..200);
        let naive = naive_packets(&octets, blksize, Rollover::ToZero);
        // Plain for the first transfer, and for the next two as well, or laid out, as the cache allows.
        for transfer in 0..3 {
            let packets = framed_packets(
                &store,
                &body,
                blksize,
                Rollover::ToZero,
                burst,
                &mailbox,
                &inbox,
            );
            assert_eq!(packets, naive, "{transfer}: {len} octets at {blksize}");
            run_all(&store);
        }
    }
}

#[test]
fn numbers_roll_over_as_agreed() {
    let octets = octets(8 * 140_000 + 3, &mut fastrand::Rng::with_seed(4));
    let memory = Memory::new(Writes::Off);
    memory.insert(b"file", Contents::Octets(octets.as_slice().into()));
    for rollover in [Rollover::ToZero, Rollover::ToOne] {
        let (store, mailbox, inbox) = store(memory.clone(), 1 << 20);
        let body = open(&store, b"file", Mode::Octet, &mailbox, &inbox).expect("there");
        let packets = framed_packets(&store, &body, 8, rollover, 1000, &mailbox, &inbox);
        assert!(
            packets == naive_packets(&octets, 8, rollover),
            "{rollover:?}"
        );
    }
}

#[test]
fn an_extent_past_the_end_is_empty() {
    let memory = Memory::new(Writes::Off);
    memory.insert(b"file", Contents::Pattern { seed: 1, len: 1000 });
    let (store, mailbox, inbox) = store(memory, 1 << 20);
    let body = open(&store, b"file", Mode::Octet, &mailbox, &inbox).expect("there");
    for extent in [1, u64::MAX] {
        let key = FramesKey {
            body: Arc::clone(&body),
            blksize: 512,
            rollover: Rollover::ToZero,
            extent,
        };
        let made = frames(&store, &key, &mailbox, &inbox).expect("nothing to fail");
        assert_eq!(made.burst(BlockIndex::FIRST, 1).count(), 0);
    }
}

#[test]
fn an_extent_holds_no_block_but_its_own() {
    let memory = Memory::new(Writes::Off);
    let len = 3 << 20;
    memory.insert(b"file", Contents::Pattern { seed: 1, len });
    let (store, mailbox, inbox) = store(memory, 8 << 20);
    let body = open(&store, b"file", Mode::Octet, &mailbox, &inbox).expect("there");
    let made = [0, 1].map(|extent| {
        let key = FramesKey {
            body: Arc::clone(&body),
            blksize: 512,
            rollover: Rollover::ToZero,
            extent,
        };
        // The second transfer that asks makes it worth laying them out.
        frames(&store, &key, &mailbox, &inbox).expect("nothing to fail");
        frames(&store, &key, &mailbox, &inbox).expect("nothing to fail");
        run_all(&store);
        frames(&store, &key, &mailbox, &inbox).expect("nothing to fail")
    });
    let second = (1..)
        .map(BlockIndex)
        .find(|&block| Frames::extent_of(block, 512) == 1)
        .expect("a file of several extents");
    let held = |frames: &Frames, block| frames.burst(block, 1).count();
    assert_eq!(held(&made[0], second.before()), 1);
    assert_eq!(held(&made[0], second), 0);
    assert_eq!(held(&made[1], second.before()), 0);
    assert_eq!(held(&made[1], second), 1);
    assert!(made[0].lasting().is_none(), "a short one is on the heap");
    let lasting = made[1].lasting().expect("a long one has a cell");
    let burst = made[1].burst(second, 1);
    let octets = burst.as_contiguous().expect("laid out");
    assert_eq!(octets, &lasting.octets[..octets.len()]);
}

/// Goal: a waiter for frames never gets different ones, and is found among many.
#[test]
fn keys_differ_where_frames_do() {
    let memory = Memory::new(Writes::Off);
    for name in [b"a", b"b"] {
        memory.insert(name, Contents::Pattern { seed: 1, len: 9 });
    }
    let (store, mailbox, inbox) = store(memory, 1 << 20);
    let body = |name| open(&store, name, Mode::Octet, &mailbox, &inbox).expect("there");
    let key = FramesKey {
        body: body(b"a"),
        blksize: 512,
        rollover: Rollover::ToZero,
        extent: 0,
    };
    let others = [
        FramesKey {
            body: body(b"b"),
            ..key.clone()
        },
        FramesKey {
            blksize: 513,
            ..key.clone()
        },
        FramesKey {
            rollover: Rollover::ToOne,
            ..key.clone()
        },
        FramesKey {
            extent: 1,
            ..key.clone()
        },
    ];
    let hasher = std::hash::RandomState::new();
    assert_eq!(key, key.clone());
    for other in others {
        assert_ne!(key, other);
        assert_ne!(hasher.hash_one(&key), hasher.hash_one(&other));
    }
}

/// A file that counts how often it is read.
struct Counted {
    len: u64,
    reads: Arc<AtomicU64>,
}

impl Backend for Counted {
    fn open(&self, _: &[u8], _: Patience) -> Result<Opened, OpenError> {
        let source = Box::new(CountedSource(Arc::clone(&self.reads)));
        Ok(Opened {
            source,
            len: self.len,
            identity: Identity {
                device: 0,
                inode: 0,
                len: self.len,
                modified: 0,
                changed: 0,
            },
        })
    }

    fn create(&self, _: &[u8], _: Option<u64>) -> Result<Box<dyn Sink>, Refusal> {
        Err(Refusal::Denied)
    }
}

struct CountedSource(Arc<AtomicU64>);

impl Source for CountedSource {
    fn read_at(&self, buffer: &mut [u8], _: u64) -> Result<usize, ReadFailure> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(buffer.len())
    }

    fn check(&self) -> Result<(), ReadFailure> {
        Ok(())
    }
}

/// Goal: a cold extent is read once for all requests, and each mailbox is notified once. Method: many shards
/// ask twice each before any work is done; with and without a cache.
#[test]
fn asking_together_reads_once() {
    for cache in [0, 1 << 20] {
        let reads = Arc::new(AtomicU64::new(0));
        let (store, mailbox, inbox) = store(
            Counted {
                len: 50_000,
                reads: Arc::clone(&reads),
            },
            cache,
        );
        let body = open(&store, b"x", Mode::Octet, &mailbox, &inbox).expect("always");
        let key = FramesKey {
            body,
            blksize: 512,
            rollover: Rollover::ToZero,
            extent: 0,
        };
        let shards: Vec<_> = (0..1000)
            .map(|_| {
                let (sender, inbox) = channel();
                (Mailbox::new(sender, Waker::noop().clone()), inbox)
            })
            .collect();
        for _ in 0..2 {
            for (mailbox, _) in &shards {
                assert!(matches!(store.frames(&key, mailbox), Answer::Later));
            }
        }
        run_all(&store);
        for (_, inbox) in &shards {
            assert!(matches!(inbox.try_recv(), Ok(Done::Framed(done, Ok(_))) if done == key));
            assert!(inbox.try_recv().is_err(), "told twice");
        }
        assert_eq!(reads.load(Ordering::Relaxed), 1);
        let again = store.frames(&key, &mailbox);
        assert_eq!(matches!(again, Answer::Now(Ok(_))), cache > 0);
    }
}

/// The first block of an extent.
fn first_of(extent: u64, blksize: u16) -> BlockIndex {
    let within = |octets: u64| (octets / (u64::from(blksize) + 4)).max(1);
    extent.checked_sub(1).map_or(BlockIndex::FIRST, |full| {
        BlockIndex::FIRST.plus(within(FIRST_EXTENT_OCTETS) + full * within(EXTENT_OCTETS))
    })
}

#[test]
fn blocks_and_extents_agree() {
    for blksize in [8, 511, 512, 1428, 8192, 65_464] {
        for extent in 0..5 {
            let first = first_of(extent, blksize);
            assert_eq!(Frames::extent_of(first, blksize), extent);
            let last = BlockIndex(first_of(extent + 1, blksize).0 - 1);
            assert_eq!(Frames::extent_of(last, blksize), extent);
        }
    }
}

/// Every read has to wait for the disk.
const COLD: Faults = Faults {
    read: None,
    short_reads: false,
    disk_octets: None,
    open_would_block: false,
    read_would_block: true,
    create: None,
};

/// A client that reads a file from the first extent to the last; returns which extents it had to wait for.
/// After each, the disk does as many jobs as `disk` says.
fn waits_of_one_reader(
    store: &Store,
    body: &Arc<Body>,
    mailbox: &Mailbox,
    inbox: &Receiver<Done>,
    disk: impl Fn(u64) -> usize,
) -> Vec<u64> {
    const BLKSIZE: u16 = 1428;
    let last = Frames::extent_of(BlockIndex::last_of(body.len(), BLKSIZE), BLKSIZE);
    let mut waits = Vec::new();
    for extent in 0..=last {
        let key = FramesKey {
            body: Arc::clone(body),
            blksize: BLKSIZE,
            rollover: Rollover::ToZero,
            extent,
        };
        store.passed(&key);
        if matches!(store.frames(&key, mailbox), Answer::Later) {
            waits.push(extent);
            while inbox.try_recv().is_err() {
                assert!(store.run_next(), "somebody waits for nothing");
            }
        }
        for _ in 0..disk(extent) {
            store.run_next();
        }
    }
    waits
}

/// Files of blank contents, which cost nothing to read: one for each length, which is its name.
struct Blank;

impl Backend for Blank {
    fn open(&self, name: &[u8], _: Patience) -> Result<Opened, OpenError> {
        let len = std::str::from_utf8(name)
            .ok()
            .and_then(|name| name.parse().ok());
        let len = len.ok_or(Refusal::NotFound)?;
        let identity = Identity {
            device: 0,
            inode: len,
            len,
            modified: 0,
            changed: 0,
        };
        let source = Box::new(CountedSource(Arc::default()));
        Ok(Opened {
            source,
            len,
            identity,
        })
    }

    fn create(&self, _: &[u8], _: Option<u64>) -> Result<Box<dyn Sink>, Refusal> {
        Err(Refusal::Denied)
    }
}

fn blank(store: &Store, len: u64, mailbox: &Mailbox, inbox: &Receiver<Done>) -> Arc<Body> {
    let name = len.to_string();
    open(store, name.as_bytes(), Mode::Octet, mailbox, inbox).expect("there")
}

/// A store with a cache of `extents`, over a file of `file_extents`.
fn cold_file(extents: u64, file_extents: u64) -> (Arc<Store>, Mailbox, Receiver<Done>, Arc<Body>) {
    let (store, mailbox, inbox) = store(Blank, (extents * EXTENT_OCTETS) as usize);
    let body = blank(&store, file_extents * EXTENT_OCTETS, &mailbox, &inbox);
    (store, mailbox, inbox, body)
}

/// Goal: a transfer of cold data waits only at its beginning, if the disk is no slower than the client.
/// Method: the disk makes one extent while the client sends one; then a disk that stalls at every third and
/// catches up.
#[test]
fn a_reader_waits_for_the_first_extents_only() {
    let (store, mailbox, inbox, body) = cold_file(64, 32);
    let waits = waits_of_one_reader(&store, &body, &mailbox, &inbox, |_| 1);
    assert_eq!(waits, [0]);
    let (store, mailbox, inbox, body) = cold_file(64, 32);
    let stumbling = |extent| [2, 0, 2][extent as usize % 3];
    let waits = waits_of_one_reader(&store, &body, &mailbox, &inbox, stumbling);
    assert_eq!(waits, [0]);
}

/// Goal: reading ahead is bounded, and only requested frames are delivered.
#[test]
fn two_extents_are_read_ahead() {
    let memory = Memory::new(Writes::Off);
    let len = 10 * EXTENT_OCTETS;
    memory.insert(b"file", Contents::Pattern { seed: 1, len });
    memory.set_faults(COLD);
    let (store, mailbox, inbox) = store(memory.clone(), 1 << 26);
    let body = open(&store, b"file", Mode::Octet, &mailbox, &inbox).expect("there");
    let key = |extent| FramesKey {
        body: Arc::clone(&body),
        blksize: 1428,
        rollover: Rollover::ToZero,
        extent,
    };
    assert!(matches!(store.frames(&key(0), &mailbox), Answer::Later));
    run_all(&store);
    assert_eq!(memory.reads(), 3);
    for extent in 1..5 {
        let asked = store.frames(&key(extent), &mailbox);
        assert!(matches!(asked, Answer::Now(Ok(_))));
        let again = store.frames_again(&key(extent), &mailbox);
        assert!(matches!(again, Answer::Now(Ok(_))));
        run_all(&store);
        assert_eq!(memory.reads(), 3 + extent);
    }
    assert_eq!(inbox.try_iter().count(), 1);
}

/// Goal: read-ahead that was never requested returns its share when it is evicted. Method: files of two
/// extents, each begun once, in a cache that holds two unrequested second extents.
#[test]
fn reading_ahead_goes_on_when_nobody_came() {
    const FILES: u8 = 40;
    let memory = Memory::new(Writes::Off);
    for name in 0..FILES {
        let contents = Contents::Pattern {
            seed: 1,
            len: 2 * FIRST_EXTENT_OCTETS - 4096,
        };
        memory.insert(&[name], contents);
    }
    memory.set_faults(COLD);
    let (store, mailbox, inbox) = store(memory.clone(), 1 << 20);
    for name in 0..FILES {
        let key = FramesKey {
            body: open(&store, &[name], Mode::Octet, &mailbox, &inbox).expect("there"),
            blksize: 1428,
            rollover: Rollover::ToZero,
            extent: 0,
        };
        frames(&store, &key, &mailbox, &inbox).expect("the file is well");
    }
    let ahead = memory.reads() - u64::from(FILES);
    assert!(ahead > 4, "{ahead} extents were read ahead");
}

/// Goal: what the page cache holds is read on the caller's thread, without a job and without reading ahead, but
/// not into new memory; what it does not hold is read by a job, as are the next extents until they are there
/// again. Method: one transfer; a part of the file is cold.
// Without a region of cells, no memory is known to have been used before.
#[cfg(target_os = "linux")]
#[test]
fn what_is_in_memory_is_read_at_once() {
    const COLD_PART: std::ops::Range<u64> = 10..14;
    let memory = Memory::new(Writes::Off);
    let len = 30 * EXTENT_OCTETS;
    memory.insert(b"file", Contents::Pattern { seed: 1, len });
    let (store, mailbox, inbox) = store(memory.clone(), 1 << 26);
    let body = open(&store, b"file", Mode::Octet, &mailbox, &inbox).expect("there");
    let (mut at_once, mut read_before) = (Vec::new(), 0);
    for extent in 0..20 {
        memory.set_faults(Faults {
            read_would_block: COLD_PART.contains(&extent),
            ..Faults::default()
        });
        let key = FramesKey {
            body: Arc::clone(&body),
            blksize: 1428,
            rollover: Rollover::ToZero,
            extent,
        };
        store.passed(&key);
        let made = match store.frames(&key, &mailbox) {
            Answer::Now(made) => {
                at_once.push(extent);
                made
            }
            _ => {
                run_all(&store);
                match inbox.try_recv() {
                    Ok(Done::Framed(done, made)) if done == key => made,
                    other => panic!("not what was asked for: {other:?}"),
                }
            }
        };
        let first = first_of(extent, 1428);
        let made = made.expect("well");
        let burst = made.burst(first, 1).to_contiguous();
        let octets = |at: u64| pattern_octet(1, first.offset(1428) + at);
        assert!(burst[4..].iter().copied().eq((0..1428).map(octets)));
        drop(burst);
        drop(made);
        run_all(&store);
        if !COLD_PART.contains(&extent) && extent < 10 {
            read_before += 1;
            assert_eq!(
                memory.reads(),
                read_before,
                "nothing is read ahead at {extent}"
            );
        }
    }
    let cold_or_new = [1, 10];
    let expected = (0..20).filter(|extent| !cold_or_new.contains(extent));
    assert!(expected.eq(at_once.iter().copied()), "{at_once:?}");
    assert_eq!(memory.reads(), 20, "each extent was read once");
    assert_eq!(store.statistics().pending, 0);
}

/// Goal: what a transfer will ask for is read before it asks, once, and serves nobody else: it neither counts as
/// asked for, nor stays when the transfer ends. Method: one transfer, first through what is in memory and then through
/// what is not.
#[cfg(target_os = "linux")]
#[test]
fn what_is_expected_is_there_when_it_is_asked_for() {
    let memory = Memory::new(Writes::Off);
    let len = 30 * EXTENT_OCTETS;
    memory.insert(b"file", Contents::Pattern { seed: 1, len });
    let (store, mailbox, inbox) = store(memory.clone(), 1 << 26);
    let body = open(&store, b"file", Mode::Octet, &mailbox, &inbox).expect("there");
    let key = |extent| FramesKey {
        body: Arc::clone(&body),
        blksize: 1428,
        rollover: Rollover::ToZero,
        extent,
    };
    frames(&store, &key(0), &mailbox, &inbox).expect("well");
    for extent in 1..20 {
        if extent == 10 {
            memory.set_faults(COLD);
        }
        let copied = store.expect(&key(extent), &mailbox);
        // The first two find no memory that was used before.
        assert_eq!(copied, (3..10).contains(&extent), "{extent}");
        run_all(&store);
        assert!(!store.expect(&key(extent), &mailbox), "it is there");
        let read_more = memory.reads() - (extent + 1);
        assert!(read_more == 0 || extent >= 10, "{read_more} at {extent}");
        store.passed(&key(extent));
        let asked = store.frames(&key(extent), &mailbox);
        assert!(matches!(asked, Answer::Now(Ok(frames)) if !frames.are_laid_out()));
        run_all(&store);
        // A disk that was waited for is kept busy from then on.
        let more = if extent < 10 { 0 } else { 2 };
        assert_eq!(memory.reads(), extent + 1 + more);
    }
    assert_eq!(inbox.try_iter().count(), 0, "nobody waited");
    store.left(&key(20));
    assert_eq!(store.shared.cache.entries(), 0);
    // Also if it has led to more.
    store.expect(&key(25), &mailbox);
    run_all(&store);
    assert!(store.shared.cache.entries() > 1);
    store.left(&key(25));
    assert_eq!(store.shared.cache.entries(), 0);
    assert_eq!(store.statistics().framed_octets, 0);
    assert!(!store.expect(&key(30), &mailbox), "the file has an end");
}

/// Goal: what several ask for is laid out, by a job, and not expected by one of them.
#[test]
fn what_a_crowd_reads_is_not_expected() {
    let watched = Watched::new(64);
    watched.ask(0);
    assert!(!watched.store.expect(&watched.key(5), &watched.mailbox));
    assert_eq!(watched.store.statistics().pending, 1, "for one");
    run_all(&watched.store);
    assert!(watched.holds(5));
    for _ in 0..2 {
        watched.ask(10);
    }
    assert!(!watched.store.expect(&watched.key(13), &watched.mailbox));
    run_all(&watched.store);
    assert!(!watched.holds(13), "it follows a crowd");
}

/// Goal: a file that is rewritten is told from one that has grown, also if its beginning was read at once and is
/// the same in both. Method: a longer file is copied over it before its client goes on; the beginning is read by
/// the shard, and by a thread where the cache is full.
#[test]
fn what_is_read_at_once_is_not_mixed_with_what_replaced_it() {
    for frame_cache_octets in [8 << 20, 100_000] {
        let root = tempfile::tempdir().expect("a directory");
        let image = root.path().join("image");
        let mut octets = vec![7; 300_000];
        std::fs::write(&image, &octets).expect("room");
        std::fs::write(root.path().join("other"), &octets[..60_000]).expect("room");
        let directory = directory::Directory::new(root.path(), Default::default()).expect("there");
        let (store, mailbox, inbox) = store(directory, frame_cache_octets);
        let key = |name: &[u8], extent| FramesKey {
            body: open(&store, name, Mode::Octet, &mailbox, &inbox).expect("there"),
            blksize: 512,
            rollover: Rollover::ToZero,
            extent,
        };
        frames(&store, &key(b"other", 0), &mailbox, &inbox).expect("well");
        let [first, second] = [0, 1].map(|extent| key(b"image", extent));
        frames(&store, &first, &mailbox, &inbox).expect("well");
        run_all(&store);
        inbox.try_iter().count();
        octets[200_000..].fill(8);
        octets.push(8);
        std::fs::write(&image, &octets).expect("room");
        match frames(&store, &second, &mailbox, &inbox) {
            Err(failure) => assert_eq!(failure, ReadFailure::Changed),
            // Where the page cache cannot be asked, it was read ahead.
            Ok(made) => {
                let burst = made.burst(first_of(1, 512), u64::MAX);
                let packets = burst.to_contiguous();
                let mut payloads = packets.chunks(burst.segment());
                assert!(
                    payloads.all(|packet| packet[HEADER_OCTETS..].iter().all(|&octet| octet == 7))
                );
            }
        }
    }
}

/// Goal: another shard that asks while an extent is being read on the first one's thread gets it too, and the
/// first is not told what it knows. Method: a file whose reading asks for the other.
#[test]
fn who_asks_during_a_read_gets_it_too() {
    type Asking = Mutex<Option<Box<dyn Fn() + Send>>>;
    struct Curious(Arc<Asking>);
    impl Source for Curious {
        fn read_at(&self, _: &mut [u8], _: u64) -> Result<usize, ReadFailure> {
            panic!("all is in memory");
        }
        fn check(&self) -> Result<(), ReadFailure> {
            Ok(())
        }
        fn read_now(&self, _: &mut [u8], _: u64) -> bool {
            let ask = self.0.lock().expect("no panic").take();
            ask.expect("it is read once")();
            true
        }
    }
    let (store, mailbox, inbox) = store(Blank, 1 << 26);
    let (sender, other_inbox) = channel();
    let other = Mailbox::new(sender, Waker::noop().clone());
    let ask = Arc::default();
    let opened = Opened {
        source: Box::new(Curious(Arc::clone(&ask))),
        len: 1000,
        identity: Identity {
            device: 9,
            inode: 9,
            len: 1000,
            modified: 0,
            changed: 0,
        },
    };
    let key = FramesKey {
        body: store.shared.share(opened, Mode::Octet),
        blksize: 512,
        rollover: Rollover::ToZero,
        extent: 0,
    };
    let (asked_store, asked_key) = (Arc::clone(&store), key.clone());
    *ask.lock().expect("no panic") = Some(Box::new(move || {
        let asked = asked_store.frames(&asked_key, &other);
        assert!(matches!(asked, Answer::Later));
    }));
    assert!(matches!(store.frames(&key, &mailbox), Answer::Now(Ok(_))));
    let told: Vec<_> = other_inbox.try_iter().collect();
    assert!(
        matches!(&told[..], [Done::Framed(done, Ok(_))] if *done == key),
        "{told:?}"
    );
    run_all(&store);
    assert_eq!(inbox.try_iter().count(), 0);
    assert_eq!(store.statistics().pending, 0);
}

/// What a cache holds and does, as seen from outside, for one file at one block size.
struct Watched {
    store: Arc<Store>,
    mailbox: Mailbox,
    inbox: Receiver<Done>,
    body: Arc<Body>,
}

impl Watched {
    fn new(extents: u64) -> Self {
        let (store, mailbox, inbox, body) = cold_file(extents, 200);
        Self {
            store,
            mailbox,
            inbox,
            body,
        }
    }

    fn key(&self, extent: u64) -> FramesKey {
        FramesKey {
            body: Arc::clone(&self.body),
            blksize: 1428,
            rollover: Rollover::ToZero,
            extent,
        }
    }

    /// A transfer asks for an extent, for the first time; whether it got it laid out.
    fn ask(&self, extent: u64) -> bool {
        let key = self.key(extent);
        let made = frames(&self.store, &key, &self.mailbox, &self.inbox).expect("well");
        run_all(&self.store);
        made.are_laid_out()
    }

    /// Whether an extent is there.
    fn holds(&self, extent: u64) -> bool {
        let ready = self.store.shared.cache.ready();
        ready.iter().any(|&(held, _)| held == extent)
    }

    fn octets(&self) -> [u64; 3] {
        let statistics = self.store.statistics();
        let StoreStatistics {
            plain_octets,
            framed_octets,
            resident_octets,
            ..
        } = statistics;
        [plain_octets, framed_octets, resident_octets]
    }
}

/// Goal: what one transfer reads is neither laid out nor kept, whether it goes on, repeats or ends early.
/// Method: a transfer passes on through a file, then ends; its memory serves again.
#[test]
fn what_one_transfer_reads_passes() {
    let watched = Watched::new(64);
    for extent in 0..50 {
        watched.store.passed(&watched.key(extent));
        assert!(!watched.ask(extent));
        assert!(watched.holds(extent), "it may repeat blocks");
        assert!(
            extent == 0 || !watched.holds(extent - 1),
            "it has passed {extent}"
        );
        let [_, laid_out, resident] = watched.octets();
        assert_eq!(laid_out, 0);
        assert!(resident <= 5 * EXTENT_OCTETS, "{resident} at {extent}");
    }
    watched.store.left(&watched.key(50));
    for extent in 47..53 {
        assert!(!watched.holds(extent), "{extent} was for it alone");
    }
}

/// Goal: what a second transfer asks for is laid out and kept, at the latest for the third; it is known again
/// when the first has passed on. Method: transfers at once, shortly after each other, and one by one.
#[test]
fn what_a_second_transfer_reads_is_kept() {
    let watched = Watched::new(64);
    assert!(!watched.ask(0));
    assert!(!watched.ask(0), "it gets at once what is there");
    assert!(watched.ask(0));
    let [plain, laid_out, _] = watched.octets();
    // Three plain ones, two of them read ahead, and the first again.
    assert!(plain > laid_out && laid_out > 0);

    assert!(!watched.ask(20));
    watched.store.passed(&watched.key(21));
    assert!(!watched.holds(20));
    assert!(watched.ask(20), "it is read again, and laid out at once");
    assert!(!watched.ask(22), "this was read ahead for the first one");
    assert!(watched.ask(23), "and this for the second one");
    watched.store.passed(&watched.key(24));
    assert!(watched.holds(20) && watched.holds(23), "kept for others");

    // Before the first transfer has got it.
    let key = watched.key(40);
    let asked = [(); 2].map(|()| watched.store.frames(&key, &watched.mailbox));
    assert!(asked.iter().all(|asked| matches!(asked, Answer::Later)));
    run_all(&watched.store);
    watched.inbox.try_iter().count();
    assert!(watched.ask(40));
}

/// Goal: without room to lay an extent out, it stays plain for all, and nobody tries again each time. Method: a
/// cache with room for one extent and a half.
#[test]
fn what_does_not_fit_twice_stays_plain() {
    let (store, mailbox, inbox) = store(Blank, 3 * EXTENT_OCTETS as usize / 16);
    let body = blank(&store, EXTENT_OCTETS / 4 - 64 * 1024, &mailbox, &inbox);
    let key = FramesKey {
        body,
        blksize: 65_464,
        rollover: Rollover::ToZero,
        extent: 1,
    };
    for _ in 0..5 {
        let made = frames(&store, &key, &mailbox, &inbox).expect("well");
        assert!(!made.are_laid_out());
        run_all(&store);
    }
    let statistics = store.statistics();
    assert_eq!(
        statistics.framed_octets, statistics.plain_octets,
        "tried once"
    );
    assert!(statistics.resident_octets <= 3 * EXTENT_OCTETS / 16);
}

/// Goal: clients that each read a file of their own take up to a quarter of the cache from what is kept for
/// others that ask for it, and more of what nobody asks for. Method: extents of both kinds, each more than there
/// is room for.
#[test]
fn plain_extents_have_a_share() {
    let watched = Watched::new(16);
    let ready = || {
        let ready = watched.store.shared.cache.ready();
        let laid_out = ready.iter().filter(|(_, laid_out)| *laid_out).count();
        (laid_out, ready.len() - laid_out)
    };
    let extents = |range: std::ops::Range<u64>| range.map(|index| 4 * index + 1);
    for extent in extents(0..10) {
        while !watched.ask(extent) {}
    }
    assert_eq!(ready().0, 10);
    // Nobody passes on.
    for extent in extents(10..30) {
        assert!(!watched.ask(extent));
        // These are asked for all the time.
        extents(0..10).for_each(|extent| assert!(watched.ask(extent)));
    }
    assert_eq!(
        ready(),
        (10, 6),
        "beyond their share, they make room for each other"
    );
    for extent in extents(30..46) {
        assert!(!watched.ask(extent));
    }
    let (laid_out, plain) = ready();
    assert!(
        laid_out <= 2 && laid_out + plain == 16,
        "and what is older makes room for them"
    );
    for extent in extents(30..40) {
        while !watched.ask(extent) {}
    }
    let (laid_out, plain) = ready();
    assert!(laid_out >= 10 && plain >= 4, "{laid_out} {plain}");
}

/// Goal: those who send an extent keep it, although it was evicted meanwhile and one of them passes on. Method:
/// two transfers of an extent that then makes room for others.
#[test]
fn what_several_send_is_not_taken_by_the_first_that_passes() {
    let watched = Watched::new(4);
    while !watched.ask(1) {}
    (5..20)
        .step_by(4)
        .for_each(|extent| while !watched.ask(extent) {});
    assert!(!watched.holds(1));
    let again = watched
        .store
        .frames_again(&watched.key(1), &watched.mailbox);
    assert!(matches!(again, Answer::Later));
    run_all(&watched.store);
    watched.inbox.try_iter().count();
    watched.store.passed(&watched.key(2));
    assert!(watched.holds(1));
}

/// Goal: transfers that are aborted leave no room to read ahead occupied, whether what was read for them came
/// before or after that, and of whichever layout it is. Method: more of them than there is such room for.
#[test]
fn aborted_transfers_leave_the_room_to_read_ahead() {
    let watched = Watched::new(16);
    for laid_out in [false, true] {
        for extent in (0..12).map(|index| 4 * index) {
            // The first transfer is remembered, so that the second one's extents are laid out.
            assert_eq!(watched.ask(extent), laid_out);
            watched.store.left(&watched.key(extent + 1));
        }
    }
    for extent in (50..90).step_by(4) {
        let transfers = 1 + extent % 8 / 4;
        for _ in 0..transfers {
            let asked = watched.store.frames(&watched.key(extent), &watched.mailbox);
            assert!(matches!(asked, Answer::Later));
        }
        for _ in 0..transfers {
            watched.store.left(&watched.key(extent + 1));
        }
        run_all(&watched.store);
    }
    watched.inbox.try_iter().count();
    watched.ask(95);
    run_all(&watched.store);
    assert!(watched.holds(96) && watched.holds(97), "it was read ahead");
    assert_eq!(watched.store.statistics().pending, 0);
}

/// Goal: only extents whose eviction frees memory are evicted. Method: in a full cache, the least recently
/// used extents are still being sent; then all of them are.
#[test]
fn what_is_still_sent_from_does_not_make_room() {
    let (store, mailbox, inbox, body) = cold_file(4, 20);
    let ask = |extent| {
        let key = FramesKey {
            body: Arc::clone(&body),
            blksize: 1428,
            rollover: Rollover::ToZero,
            extent,
        };
        frames(&store, &key, &mailbox, &inbox).expect("the file is well")
    };
    let evictions = || store.statistics().evictions;
    let held: Vec<_> = [2, 4].map(ask).into();
    let more: Vec<_> = [6, 8].map(ask).into();
    drop(more);
    assert_eq!(evictions(), 0);
    drop(ask(10));
    assert_eq!(evictions(), 1, "one extent is room for one");
    let misses = store.statistics().misses;
    let held: Vec<_> = held.into_iter().chain([2, 4, 8, 10].map(ask)).collect();
    assert_eq!(store.statistics().misses, misses, "only one had to go");
    // Nothing can be evicted now: a request gets memory beyond the bound, which is not cached.
    drop(ask(12));
    assert_eq!(evictions(), 1);
    drop(held);
    drop(ask(14));
    assert_eq!(evictions(), 2);
    assert!(store.statistics().resident_octets <= 4 * EXTENT_OCTETS);
}

/// Goal: the image that clients boot stays cached, whatever else one of them reads once. Method: two clients
/// read an image, then one reads a file ten times the size of the cache, at every speed of the disk; then
/// the image is requested again.
#[test]
fn a_large_file_does_not_flush_the_image() {
    const CACHE_EXTENTS: u64 = 8;
    for disk_jobs in 1..3 {
        let (store, mailbox, inbox) = store(Blank, (CACHE_EXTENTS * EXTENT_OCTETS) as usize);
        let image = blank(&store, 4 * EXTENT_OCTETS, &mailbox, &inbox);
        let large = blank(&store, 10 * CACHE_EXTENTS * EXTENT_OCTETS, &mailbox, &inbox);
        for _ in 0..2 {
            waits_of_one_reader(&store, &image, &mailbox, &inbox, |_| disk_jobs);
            run_all(&store);
        }
        waits_of_one_reader(&store, &large, &mailbox, &inbox, |_| disk_jobs);
        run_all(&store);
        let read = store.statistics().plain_octets;
        assert!(
            read > 10 * CACHE_EXTENTS * EXTENT_OCTETS,
            "the large file came and went"
        );
        let waits = waits_of_one_reader(&store, &image, &mailbox, &inbox, |_| disk_jobs);
        assert_eq!(waits, [0u64; 0]);
    }
}

/// Goal: an image no longer in use makes room for the next, although a client is still reading it. Method:
/// images as large as half the cache, each read by two clients, one shortly behind the other.
#[test]
fn a_new_image_takes_the_place_of_the_old() {
    const BLKSIZE: u16 = 1428;
    let (store, mailbox, inbox) = store(Blank, 32 * EXTENT_OCTETS as usize);
    let mut bodies = Vec::new();
    for index in 0..4 {
        let body = blank(&store, 16 * EXTENT_OCTETS - index, &mailbox, &inbox);
        for extent in 0..=18 {
            for behind in [0, 2] {
                let Some(extent) = u64::checked_sub(extent, behind).filter(|&extent| extent <= 16)
                else {
                    continue;
                };
                let key = FramesKey {
                    body: Arc::clone(&body),
                    blksize: BLKSIZE,
                    rollover: Rollover::ToZero,
                    extent,
                };
                frames(&store, &key, &mailbox, &inbox).expect("well");
                run_all(&store);
            }
        }
        let waits = waits_of_one_reader(&store, &body, &mailbox, &inbox, |_| 1);
        assert_eq!(waits, [0u64; 0]);
        bodies.push(body);
    }
}

/// Goal: memory stays within its bound; the cache keeps recent entries and drops those of dead bodies.
#[test]
fn the_cache_is_bounded() {
    for bound in [0, 100_000, 1_200_000, 3_000_000, 16_000_000] {
        let (store, mailbox, inbox) = store(Blank, bound);
        let mut random = fastrand::Rng::with_seed(9);
        let mut bodies = vec![blank(&store, 40 * EXTENT_OCTETS, &mailbox, &inbox)];
        for index in 0..100 {
            bodies.push(blank(&store, index * 10_000, &mailbox, &inbox));
        }
        for _ in 0..1000 {
            let body = if random.bool() {
                &bodies[0]
            } else {
                random.choice(&bodies).expect("not empty")
            };
            let last = Frames::extent_of(BlockIndex::last_of(body.len(), 1428), 1428);
            let key = FramesKey {
                body: Arc::clone(body),
                blksize: 1428,
                rollover: Rollover::ToZero,
                extent: random.u64(0..=last),
            };
            drop(frames(&store, &key, &mailbox, &inbox).expect("well"));
            run_all(&store);
            let statistics = store.statistics();
            assert!(statistics.resident_octets <= bound as u64);
            assert_eq!(statistics.pending, 0);
            let kept = matches!(store.frames(&key, &mailbox), Answer::Now(Ok(_)));
            assert!(
                kept || 2 * key.octets(Layout::LaidOut) > bound,
                "what was used last stays"
            );
            run_all(&store);
            inbox.try_iter().count();
        }
        assert!(store.statistics().resident_octets >= bound as u64 / 2);
        drop(bodies);
        store.shared.bodies.release_held();
        assert_eq!(store.shared.cache.entries(), 0);
    }
}

#[test]
fn the_counters_add_up() {
    let (store, mailbox, inbox, body) = cold_file(32, 3);
    let none = store.statistics();
    assert_eq!(none, StoreStatistics::default());
    waits_of_one_reader(&store, &body, &mailbox, &inbox, |_| 1);
    let once = store.statistics();
    assert_eq!((once.hits, once.misses, once.evictions), (3, 1, 0));
    assert_eq!(once.framed_octets, 0);
    assert!(once.plain_octets > body.len());
    waits_of_one_reader(&store, &body, &mailbox, &inbox, |_| 1);
    run_all(&store);
    let twice = store.statistics();
    assert_eq!((twice.hits, twice.misses), (6, 2));
    assert!(twice.framed_octets > body.len() && twice.framed_octets <= twice.resident_octets);
}

#[test]
fn one_opening_serves_all_and_dead_ones_are_swept() {
    let memory = Memory::new(Writes::Off);
    memory.insert(b"file", Contents::Pattern { seed: 1, len: 100 });
    let (store, mailbox, inbox) = store(memory.clone(), 0);
    let first = open(&store, b"file", Mode::Octet, &mailbox, &inbox).expect("there");
    let second = open(&store, b"/file", Mode::Octet, &mailbox, &inbox).expect("there");
    let text = open(&store, b"file", Mode::Netascii, &mailbox, &inbox).expect("there");
    assert!(Arc::ptr_eq(&first, &second));
    assert!(!Arc::ptr_eq(&first, &text));
    assert!(matches!(
        store.open(Ticket(2), b"file", Mode::Netascii, &mailbox),
        Answer::Now(Ok(_))
    ));
    for index in 0..1000_u64 {
        memory.insert(
            b"other",
            Contents::Pattern {
                seed: index,
                len: 1,
            },
        );
        open(&store, b"other", Mode::Octet, &mailbox, &inbox).expect("there");
        assert!(store.shared.bodies.entries() <= 4 * Bodies::HELD_MAX);
    }
    memory.insert(b"file", Contents::Pattern { seed: 2, len: 100 });
    let replaced = open(&store, b"file", Mode::Octet, &mailbox, &inbox).expect("there");
    assert!(!Arc::ptr_eq(&first, &replaced));
}

/// Goal: a request after a file was overwritten gets the new octets, even with the old length and time
/// stamp, as after `cp -p` of padded images whose times are clamped.
#[test]
fn an_old_time_stamp_does_not_bring_old_octets_back() {
    use std::os::unix::fs::MetadataExt;

    let root = tempfile::tempdir().expect("a directory");
    let path = root.path().join("file");
    let stamp = std::time::UNIX_EPOCH;
    // The kernel's clock may tick slowly: write until the change time differs.
    let write = |octet: u8, last: Option<(i64, i64)>| {
        loop {
            std::fs::write(&path, [octet; 600]).expect("room");
            let file = std::fs::File::options()
                .write(true)
                .open(&path)
                .expect("it");
            file.set_modified(stamp).expect("a time stamp");
            let metadata = file.metadata().expect("there");
            let changed = (metadata.ctime(), metadata.ctime_nsec());
            if last != Some(changed) {
                return Some(changed);
            }
        }
    };
    let directory = directory::Directory::new(root.path(), Default::default()).expect("there");
    let (store, mailbox, inbox) = store(directory, 1 << 20);
    let mut last = None;
    for octet in 0..3 {
        last = write(octet, last);
        let key = FramesKey {
            body: open(&store, b"file", Mode::Octet, &mailbox, &inbox).expect("there"),
            blksize: 512,
            rollover: Rollover::ToZero,
            extent: 0,
        };
        let made = frames(&store, &key, &mailbox, &inbox).expect("the file is well");
        let packet = made.burst(BlockIndex::FIRST, 1).to_contiguous();
        assert_eq!(packet[4..], [octet; 512]);
    }
}

/// Goal: a client that boots after another finds the image warm; a deleted file does not keep its disk
/// space.
#[test]
fn an_image_stays_warm_between_readers_until_it_is_deleted() {
    let root = tempfile::tempdir().expect("a directory");
    let image = root.path().join("image");
    std::fs::write(&image, [7; 100_000]).expect("room");
    std::fs::write(root.path().join("other"), b"x").expect("room");
    let directory = directory::Directory::new(root.path(), Default::default()).expect("there");
    let store = Store::new(
        directory,
        StoreOptions {
            frame_cache_octets: 8 << 20,
            threads: 0,
        },
    )
    .expect("a store");
    let (sender, inbox) = channel();
    let mailbox = Mailbox::new(sender, Waker::noop().clone());
    for reader in 0..3 {
        let body = open(&store, b"image", Mode::Octet, &mailbox, &inbox).expect("there");
        let key = FramesKey {
            body,
            blksize: 512,
            rollover: Rollover::ToZero,
            extent: 0,
        };
        drop(frames(&store, &key, &mailbox, &inbox).expect("well"));
        run_all(&store);
        inbox.try_iter().count();
        assert_eq!(
            store.statistics().misses,
            1,
            "reader {reader} found it cold"
        );
    }
    let weak =
        Arc::downgrade(&open(&store, b"image", Mode::Octet, &mailbox, &inbox).expect("there"));
    assert!(weak.upgrade().is_some());
    std::fs::remove_file(&image).expect("there");
    let other = open(&store, b"other", Mode::Octet, &mailbox, &inbox).expect("there");
    let other = FramesKey {
        body: other,
        blksize: 512,
        rollover: Rollover::ToZero,
        extent: 0,
    };
    frames(&store, &other, &mailbox, &inbox).expect("well");
    run_all(&store);
    assert!(weak.upgrade().is_none(), "a deleted file is held");
}

/// Goal: descriptors held for later readers never keep a file from being opened; if all are in use, the
/// system's error is returned. Method: a backend with a few descriptors.
#[test]
fn held_files_make_room_when_descriptors_run_out() {
    const DESCRIPTORS_MAX: usize = 3;
    struct Scarce(Arc<()>, Refusal);
    struct Descriptor(#[allow(dead_code)] Arc<()>); // Only counted.
    impl Scarce {
        fn take(&self) -> Result<Box<Descriptor>, Refusal> {
            if Arc::strong_count(&self.0) > DESCRIPTORS_MAX {
                return Err(self.1);
            }
            Ok(Box::new(Descriptor(Arc::clone(&self.0))))
        }
    }
    impl Backend for Scarce {
        fn open(&self, name: &[u8], _: Patience) -> Result<Opened, OpenError> {
            let identity = Identity {
                device: 0,
                inode: u64::from(name[0]),
                len: 1,
                modified: 0,
                changed: 0,
            };
            Ok(Opened {
                source: self.take()?,
                len: 1,
                identity,
            })
        }
        fn create(&self, _: &[u8], _: Option<u64>) -> Result<Box<dyn Sink>, Refusal> {
            Ok(self.take()?)
        }
    }
    impl Source for Descriptor {
        fn read_at(&self, buffer: &mut [u8], _: u64) -> Result<usize, ReadFailure> {
            Ok(buffer.len())
        }
        fn check(&self) -> Result<(), ReadFailure> {
            Ok(())
        }
    }
    impl Sink for Descriptor {
        fn write(&mut self, _: &[u8]) -> Result<(), Refusal> {
            Ok(())
        }
        fn publish(self: Box<Self>) -> Result<(), Refusal> {
            Ok(())
        }
    }
    for errno in [libc::EMFILE, libc::ENFILE] {
        let out = Refusal::Failed(errno);
        let (store, mailbox, inbox) = store(Scarce(Arc::new(()), out), 0);
        for name in 0..10 {
            for mode in [Mode::Octet, Mode::Netascii] {
                open(&store, &[name], mode, &mailbox, &inbox).expect("only held");
            }
        }
        let bodies: Vec<_> = (10..)
            .map_while(|name| open(&store, &[name], Mode::Octet, &mailbox, &inbox).ok())
            .collect();
        assert_eq!(bodies.len(), DESCRIPTORS_MAX);
        assert_eq!(
            open(&store, &[0], Mode::Octet, &mailbox, &inbox).err(),
            Some(out)
        );
        assert_eq!(upload(&store, Mode::Octet, &[], &mailbox, &inbox), Err(out));
        drop(bodies);
        assert_eq!(upload(&store, Mode::Octet, &[], &mailbox, &inbox), Ok(()));
    }
}

/// Files of one octet, and what happens when it is asked whether they still have a name.
struct Named(Arc<dyn Fn() + Send + Sync>);

/// One of them; those with names from this on are remote.
struct NamedFile {
    ask: Arc<dyn Fn() + Send + Sync>,
    is_remote: bool,
}

const REMOTE_FROM: u8 = 200;

impl Backend for Named {
    fn open(&self, name: &[u8], _: Patience) -> Result<Opened, OpenError> {
        let identity = Identity {
            device: 0,
            inode: u64::from(name[0]),
            len: 1,
            modified: 0,
            changed: 0,
        };
        Ok(Opened {
            source: Box::new(NamedFile {
                ask: Arc::clone(&self.0),
                is_remote: name[0] >= REMOTE_FROM,
            }),
            len: 1,
            identity,
        })
    }

    fn create(&self, _: &[u8], _: Option<u64>) -> Result<Box<dyn Sink>, Refusal> {
        Err(Refusal::Denied)
    }
}

impl Source for NamedFile {
    fn read_at(&self, buffer: &mut [u8], _: u64) -> Result<usize, ReadFailure> {
        Ok(buffer.len())
    }

    fn check(&self) -> Result<(), ReadFailure> {
        Ok(())
    }

    fn is_remote(&self) -> bool {
        self.is_remote
    }

    fn is_nameless(&self) -> bool {
        (self.ask)();
        false
    }
}

/// Asks for the beginning of such a file, whose frames are then to be made.
fn begin_named(store: &Store, name: u8, mailbox: &Mailbox) {
    let Answer::Now(Ok(body)) = store.open(Ticket(1), &[name], Mode::Octet, mailbox) else {
        panic!("at hand")
    };
    let key = FramesKey {
        body,
        blksize: 512,
        rollover: Rollover::ToZero,
        extent: 0,
    };
    assert!(matches!(store.frames(&key, mailbox), Answer::Later));
}

/// Goal: a shard never asks the system whether files still have a name. Method: sources that count these
/// queries, and a store that works only on request.
#[test]
fn names_are_looked_after_by_those_who_may_wait() {
    let asked = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&asked);
    let count = move || {
        counted.fetch_add(1, Ordering::Relaxed);
    };
    let (store, mailbox, inbox) = store(Named(Arc::new(count)), 0);
    for name in 0..100 {
        begin_named(&store, name, &mailbox);
        assert_eq!(asked.load(Ordering::Relaxed), 0);
        run_all(&store);
        let held = (usize::from(name) + 1).min(Bodies::HELD_MAX);
        assert_eq!(asked.swap(0, Ordering::Relaxed), held as u64);
    }
    assert_eq!(inbox.try_iter().count(), 100);
}

/// Goal: a file system that does not answer occupies one thread, and later reads ask again. Method: the first query
/// lasts until it is released, and other reads begin meanwhile and afterwards.
#[test]
fn names_are_looked_after_by_one_at_a_time() {
    let asked = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&asked);
    let (reached, reaches) = channel();
    let (release, released) = channel();
    let released = Mutex::new(released);
    let ask = move || {
        if counted.fetch_add(1, Ordering::Relaxed) == 0 {
            reached.send(()).expect("the test waits");
            let released = released.lock().expect("nobody panics");
            released.recv().expect("the test releases it");
        }
    };
    let (store, mailbox, inbox) = store(Named(Arc::new(ask)), 0);
    let mut meanwhile = 0;
    thread::scope(|scope| {
        begin_named(&store, 1, &mailbox);
        scope.spawn(|| run_all(&store));
        reaches.recv().expect("a thread asks");
        begin_named(&store, 2, &mailbox);
        run_all(&store);
        meanwhile = asked.load(Ordering::Relaxed);
        release.send(()).expect("it waits");
    });
    assert_eq!(meanwhile, 1);
    assert_eq!(inbox.try_iter().count(), 2);
    begin_named(&store, 3, &mailbox);
    run_all(&store);
    assert_eq!(asked.load(Ordering::Relaxed), 1 + 3);
}

/// Goal: whether remote files have a name is asked by those who read remote files, and whether local ones have, by the
/// others.
#[test]
fn names_are_looked_after_by_those_who_read_such_files() {
    let asked = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&asked);
    let count = move || {
        counted.fetch_add(1, Ordering::Relaxed);
    };
    let (store, mailbox, _inbox) = store(Named(Arc::new(count)), 0);
    let names = [1, 2, 3, REMOTE_FROM, 4, REMOTE_FROM + 1];
    for (name, alike) in names.into_iter().zip([1, 2, 3, 1, 4, 2]) {
        begin_named(&store, name, &mailbox);
        run_all(&store);
        assert_eq!(asked.swap(0, Ordering::Relaxed), alike, "{name}");
    }
}

#[test]
fn opening_that_would_block_goes_through_the_queue() {
    let memory = Memory::new(Writes::Off);
    memory.insert(b"file", Contents::Pattern { seed: 1, len: 100 });
    memory.set_faults(Faults {
        open_would_block: true,
        ..Faults::default()
    });
    let (store, mailbox, inbox) = store(memory, 0);
    assert!(matches!(
        store.open(Ticket(5), b"file", Mode::Octet, &mailbox),
        Answer::Later
    ));
    assert!(matches!(
        store.open(Ticket(6), b"none", Mode::Octet, &mailbox),
        Answer::Later
    ));
    run_all(&store);
    assert!(matches!(
        inbox.try_recv(),
        Ok(Done::Opened(Ticket(5), Ok(_)))
    ));
    assert!(matches!(
        inbox.try_recv(),
        Ok(Done::Opened(Ticket(6), Err(Refusal::NotFound)))
    ));
}

/// Goal: names that may take long to open delay no others. Method: one thread of each kind, and names that take
/// until the others were answered.
#[test]
fn opening_that_takes_long_is_for_other_threads() {
    struct Distant(Mutex<Receiver<()>>);
    impl Backend for Distant {
        fn open(&self, name: &[u8], patience: Patience) -> Result<Opened, OpenError> {
            match (name, patience) {
                (_, Patience::Now) | (b"distant", Patience::Disk) => Err(OpenError::WouldBlock),
                (_, Patience::Disk) => Err(Refusal::NotFound.into()),
                (_, Patience::Long) => {
                    let released = self.0.lock().expect("nobody panics");
                    released.recv().expect("the test releases it");
                    Err(Refusal::Denied.into())
                }
            }
        }
        fn create(&self, _: &[u8], _: Option<u64>) -> Result<Box<dyn Sink>, Refusal> {
            Err(Refusal::Denied)
        }
    }
    let (release, released) = channel();
    let options = StoreOptions {
        frame_cache_octets: 0,
        threads: 1,
    };
    let store = Store::new(Distant(Mutex::new(released)), options).expect("threads start");
    let (sender, inbox) = channel();
    let mailbox = Mailbox::new(sender, Waker::noop().clone());
    let ask = |number, name: &[u8]| {
        let asked = store.open(Ticket(number), name, Mode::Octet, &mailbox);
        assert!(matches!(asked, Answer::Later));
    };
    let answered = || match inbox.recv() {
        Ok(Done::Opened(Ticket(number), Err(refusal))) => (number, refusal),
        other => panic!("not what was asked for: {other:?}"),
    };
    ask(1, b"distant");
    ask(2, b"distant");
    for number in 3..10 {
        ask(number, b"near");
        assert_eq!(answered(), (number, Refusal::NotFound));
    }
    for number in [1, 2] {
        release.send(()).expect("it waits");
        assert_eq!(answered(), (number, Refusal::Denied));
    }
}

/// Goal: whoever has the last reference to what is remote does not wait for it to close, and nothing of it is read at
/// once or by the threads for local files. Method: texts that are scanned, held, displaced and withdrawn; each tells by
/// which thread it was read and dropped.
#[test]
fn remote_files_are_closed_by_a_thread_of_their_own() {
    type Teller = Sender<(&'static str, Option<String>)>;
    type Gate = Arc<Mutex<Receiver<()>>>;
    /// Reading the fourth takes until the gate is opened.
    const GATED: u8 = 4;
    struct Far(Teller, Gate);
    struct FarText(Teller, Option<Gate>);
    fn here() -> Option<String> {
        thread::current().name().map(str::to_owned)
    }
    impl Backend for Far {
        fn open(&self, name: &[u8], patience: Patience) -> Result<Opened, OpenError> {
            if patience != Patience::Long {
                return Err(OpenError::WouldBlock);
            }
            let len = 3 * SCANNED_AT_ONCE_OCTETS_MAX;
            let identity = Identity {
                device: 0,
                inode: u64::from(name[0]),
                len,
                modified: 0,
                changed: 0,
            };
            let gate = (name[0] == GATED).then(|| Arc::clone(&self.1));
            let source = Box::new(FarText(self.0.clone(), gate));
            Ok(Opened {
                source,
                len,
                identity,
            })
        }
        fn create(&self, _: &[u8], _: Option<u64>) -> Result<Box<dyn Sink>, Refusal> {
            Err(Refusal::Denied)
        }
    }
    impl Source for FarText {
        fn read_at(&self, buffer: &mut [u8], _: u64) -> Result<usize, ReadFailure> {
            // Whoever listened may have heard enough.
            let _ = self.0.send(("read", here()));
            if let Some(gate) = &self.1 {
                // Once it is open, it stays so.
                let _ = gate.lock().expect("nobody panics").recv();
            }
            Ok(buffer.len())
        }
        fn check(&self) -> Result<(), ReadFailure> {
            Ok(())
        }
        fn is_remote(&self) -> bool {
            true
        }
    }
    impl Drop for FarText {
        fn drop(&mut self) {
            let _ = self.0.send(("dropped", here()));
        }
    }
    let (teller, told) = channel();
    let (open_gate, gate) = channel();
    let options = StoreOptions {
        frame_cache_octets: 1 << 26,
        threads: 1,
    };
    let store =
        Store::new(Far(teller, Arc::new(Mutex::new(gate))), options).expect("threads start");
    let (sender, inbox) = channel();
    let mailbox = Mailbox::new(sender, Waker::noop().clone());
    let ask = |number, mode| {
        let asked = store.open(Ticket(number), &[number as u8], mode, &mailbox);
        assert!(matches!(asked, Answer::Later));
    };
    let mut bodies = Vec::new();
    for (number, mode) in [(1, Mode::Octet), (2, Mode::Netascii), (3, Mode::Netascii)] {
        ask(number, mode);
        match inbox.recv() {
            Ok(Done::Opened(_, Ok(body))) => bodies.push(body),
            other => panic!("not what was asked for: {other:?}"),
        }
    }
    let key = FramesKey {
        body: bodies.remove(0),
        blksize: 512,
        rollover: Rollover::ToZero,
        extent: 0,
    };
    assert!(matches!(store.frames(&key, &mailbox), Answer::Later));
    assert!(matches!(inbox.recv(), Ok(Done::Framed(_, Ok(_)))));
    // One that is to be scanned while another is, and is withdrawn.
    ask(u64::from(GATED), Mode::Netascii);
    while told.recv() != Ok(("read", Some("scan-0".to_owned()))) {}
    let shared = &store.shared;
    let text = shared.open_file(&[5], Patience::Long).expect("there");
    assert!(shared.scans.ask(text, Ticket(5), &mailbox));
    store.withdraw(Ticket(5), &mailbox);
    drop(open_gate);
    assert!(matches!(inbox.recv(), Ok(Done::Opened(Ticket(4), Ok(_)))));
    shared.bodies.release_held();
    drop((key, bodies, inbox, store));
    let mut dropped = 0;
    for (what, thread) in told {
        let thread = thread.expect("all threads have names");
        match what {
            "read" => assert!(["slow-0", "scan-0"].contains(&&*thread), "read by {thread}"),
            _ => assert_eq!(thread, "close"),
        }
        dropped += u32::from(what == "dropped");
    }
    assert_eq!(dropped, 5);
}

#[test]
fn a_full_queue_says_busy_and_uploads_go_on() {
    let memory = Memory::new(Writes::Create);
    memory.insert(b"file", Contents::Pattern { seed: 1, len: 100 });
    let (store, mailbox, inbox) = store(memory.clone(), 1 << 20);
    let body = open(&store, b"file", Mode::Octet, &mailbox, &inbox).expect("there");
    assert!(matches!(
        store.create(Ticket(1), b"up", Mode::Octet, None, &mailbox),
        Answer::Later
    ));
    run_all(&store);
    let Ok(Done::Created(Ticket(1), Ok(upload))) = inbox.try_recv() else {
        panic!("not created")
    };
    memory.set_faults(Faults {
        open_would_block: true,
        ..Faults::default()
    });
    let mut waiting = 0;
    while matches!(
        store.open(Ticket(2), b"file", Mode::Octet, &mailbox),
        Answer::Later
    ) {
        waiting += 1;
    }
    assert_eq!(waiting, JOBS_MAX);
    let key = FramesKey {
        body,
        blksize: 512,
        rollover: Rollover::ToZero,
        extent: 0,
    };
    assert!(matches!(store.frames(&key, &mailbox), Answer::Busy));
    while matches!(
        store.create(Ticket(3), b"up2", Mode::Octet, None, &mailbox),
        Answer::Later
    ) {}
    store.write(Ticket(4), upload, b"octets".to_vec(), &mailbox);
    run_all(&store);
    let Some(Done::Written(Ticket(4), upload, chunk, Ok(()))) = inbox.try_iter().last() else {
        panic!("not written")
    };
    assert!(
        chunk.is_empty() && chunk.capacity() >= 6,
        "the buffer comes back"
    );
    assert_eq!(upload.len(), 6);
    assert!(
        frames(&store, &key, &mailbox, &inbox).is_ok(),
        "busy was for a while only"
    );
}

#[test]
fn failures_reach_all_who_wait_and_are_not_kept() {
    let memory = Memory::new(Writes::Off);
    memory.insert(b"file", Contents::Pattern { seed: 1, len: 100 });
    let (store, mailbox, inbox) = store(memory.clone(), 1 << 20);
    let body = open(&store, b"file", Mode::Octet, &mailbox, &inbox).expect("there");
    let key = FramesKey {
        body,
        blksize: 512,
        rollover: Rollover::ToZero,
        extent: 0,
    };
    for failure in [ReadFailure::Changed, ReadFailure::Failed(5)] {
        memory.set_faults(Faults {
            read: Some(failure),
            ..Faults::default()
        });
        assert_eq!(frames(&store, &key, &mailbox, &inbox).err(), Some(failure));
    }
    memory.set_faults(Faults::default());
    assert!(frames(&store, &key, &mailbox, &inbox).is_ok());
}

/// Uploads `chunks` and publishes.
fn upload(
    store: &Store,
    mode: Mode,
    chunks: &[&[u8]],
    mailbox: &Mailbox,
    inbox: &Receiver<Done>,
) -> Result<(), Refusal> {
    assert!(matches!(
        store.create(Ticket(1), b"up", mode, None, mailbox),
        Answer::Later
    ));
    run_all(store);
    let Ok(Done::Created(_, created)) = inbox.try_recv() else {
        panic!("no answer")
    };
    let mut upload = created?;
    for chunk in chunks {
        store.write(Ticket(1), upload, chunk.to_vec(), mailbox);
        run_all(store);
        let Ok(Done::Written(_, back, _, written)) = inbox.try_recv() else {
            panic!("no answer")
        };
        written?;
        upload = back;
    }
    store.publish(Ticket(1), upload, mailbox);
    run_all(store);
    let Ok(Done::Published(_, published)) = inbox.try_recv() else {
        panic!("no answer")
    };
    published
}

#[test]
fn uploads_are_decoded_and_refused() {
    let memory = Memory::new(Writes::Create);
    let (store, mailbox, inbox) = store(memory.clone(), 0);
    let full = Faults {
        disk_octets: Some(5),
        ..Faults::default()
    };
    memory.set_faults(full);
    assert_eq!(
        upload(&store, Mode::Octet, &[b"abc", b"def"], &mailbox, &inbox),
        Err(Refusal::DiskFull)
    );
    memory.set_faults(Faults::default());
    assert!(memory.uploads().is_empty());
    assert_eq!(
        upload(
            &store,
            Mode::Netascii,
            &[b"a\r", b"\nb\r", b"\0c\r"],
            &mailbox,
            &inbox
        ),
        Ok(())
    );
    assert_eq!(
        memory.uploads().get(&b"up"[..]).map(Vec::as_slice),
        Some(&b"a\nb\rc\r"[..])
    );
    assert_eq!(
        upload(&store, Mode::Octet, &[], &mailbox, &inbox),
        Err(Refusal::Exists)
    );
}

/// Goal: a text is the same wherever reading begins, and its length is exact. Method: texts longer than a
/// chunk, block sizes that split pairs, compared with an encoder that sees the whole text at once.
#[test]
fn texts_are_encoded_at_any_offset() {
    let mut random = fastrand::Rng::with_seed(5);
    let memory = Memory::new(Writes::Off);
    for len in [0, 1, 65_535, 65_536, 65_537, 1_500_000] {
        let text: Vec<u8> = (0..len)
            .map(|_| *random.choice(b"\r\nabc").expect("not empty"))
            .collect();
        let mut wire = Vec::new();
        for &octet in &text {
            match octet {
                b'\n' => wire.extend(b"\r\n"),
                b'\r' => wire.extend(b"\r\0"),
                other => wire.push(other),
            }
        }
        memory.insert(b"text", Contents::Octets(text.into()));
        let (store, mailbox, inbox) = store(memory.clone(), 1 << 24);
        let body = open(&store, b"text", Mode::Netascii, &mailbox, &inbox).expect("there");
        assert_eq!(body.len(), wire.len() as u64);
        for blksize in [511, 512, 1428, 65_464] {
            let packets = framed_packets(
                &store,
                &body,
                blksize,
                Rollover::ToZero,
                64,
                &mailbox,
                &inbox,
            );
            assert!(
                packets == naive_packets(&wire, blksize, Rollover::ToZero),
                "{len} at {blksize}"
            );
        }
    }
}

/// Goal: a long text is scanned once for all concurrent requests, and one text or one reader too many is
/// refused as busy. Method: the maximum and one more, with and without texts that open at once.
#[test]
fn scans_are_bounded_and_shared() {
    for open_would_block in [false, true] {
        let memory = Memory::new(Writes::Off);
        let len = SCANNED_AT_ONCE_OCTETS_MAX + 1;
        let text = |number: usize| number.to_string().into_bytes();
        for number in 0..=SCANS_MAX {
            memory.insert(&text(number), Contents::Pattern { seed: 1, len });
        }
        memory.set_faults(Faults {
            open_would_block,
            ..Faults::default()
        });
        let (store, mailbox, inbox) = store(memory.clone(), 0);
        let ask = |number| {
            let answer = store.open(Ticket(0), &text(number), Mode::Netascii, &mailbox);
            assert_eq!(memory.reads(), 0);
            // What does not open at once is opened by a job first.
            if open_would_block {
                assert!(matches!(answer, Answer::Later) && store.run_next());
            }
            let busy = inbox.try_iter().next().map(|done| match done {
                Done::Opened(_, Err(Refusal::Failed(libc::EBUSY))) => (),
                other => panic!("not what was asked for: {other:?}"),
            });
            busy.is_some() || matches!(answer, Answer::Busy)
        };
        for number in 0..SCANS_MAX {
            assert!(!ask(number));
        }
        assert!(ask(SCANS_MAX));
        for _ in SCANS_MAX..WAITING_MAX {
            assert!(!ask(0));
        }
        assert!(ask(0));
        run_all(&store);
        let reads = SCANS_MAX as u64 * len.div_ceil(65_536);
        assert_eq!(memory.reads(), reads, "each scanned once");
        let opened = |done| matches!(done, Done::Opened(_, Ok(body)) if body.len() > len);
        assert_eq!(
            inbox
                .try_iter()
                .filter_map(|done| opened(done).then_some(()))
                .count(),
            WAITING_MAX
        );
    }
}

/// Goal: a short text waits for no long one, and a longer one for at most its own length of each.
#[test]
fn shorter_texts_overtake_longer_ones() {
    let memory = Memory::new(Writes::Off);
    let ages = u64::MAX / 8;
    let slice = Scan::SLICE_OCTETS;
    let lengths = [
        ("ages", ages),
        ("long", 2 * slice),
        ("short", 1000),
        ("more", ages),
    ];
    for (name, len) in lengths {
        memory.insert(name.as_bytes(), Contents::Pattern { seed: 1, len });
    }
    let (store, mailbox, inbox) = store(memory, 0);
    let ask = |number, name: &str| {
        let answer = store.open(Ticket(number), name.as_bytes(), Mode::Netascii, &mailbox);
        assert!(matches!(answer, Answer::Later), "{name}");
    };
    ask(0, "ages");
    for _ in 0..5 {
        assert!(store.run_next());
    }
    ask(1, "more");
    ask(2, "long");
    ask(3, "short");
    let mut done = Vec::new();
    for _ in 0..1 + 2 * 2 {
        assert!(store.run_next());
        done.extend(inbox.try_iter().map(|done| match done {
            Done::Opened(Ticket(number), Ok(_)) => number,
            other => panic!("not what was asked for: {other:?}"),
        }));
    }
    assert_eq!(done, [3, 2]);
}

/// Goal: a long text is scanned as long as it has waiters, and no longer.
#[test]
fn a_text_that_nobody_waits_for_is_left() {
    let memory = Memory::new(Writes::Off);
    let len = u64::MAX / 8;
    memory.insert(b"ages", Contents::Pattern { seed: 1, len });
    let (store, mailbox, inbox) = store(memory.clone(), 0);
    let other = Mailbox::new(channel().0, Waker::noop().clone());
    for number in 0..2 {
        store.open(Ticket(number), b"ages", Mode::Netascii, &mailbox);
    }
    assert!(store.run_next());
    // Another shard's ticket, one that never asked, and one of two waiters.
    store.withdraw(Ticket(1), &other);
    store.withdraw(Ticket(7), &mailbox);
    store.withdraw(Ticket(0), &mailbox);
    assert!(store.run_next());
    // During a slice.
    let work = store.shared.scans.next_now().expect("one is under way");
    store.withdraw(Ticket(1), &mailbox);
    store.shared.scan(work);
    let reads = memory.reads();
    assert!(!store.run_next());
    assert_eq!(memory.reads(), reads);
    assert!(inbox.try_recv().is_err());
}

/// Goal: nothing delays what booting machines wait for, nor the end. Method: texts that take years to scan,
/// and stalled uploads, with one reading thread; then the store is dropped.
#[test]
fn neither_scans_nor_uploads_hold_up_reads() {
    /// A sink that blocks as long as the test holds the other end.
    struct Stuck(Receiver<()>);
    impl Sink for Stuck {
        fn write(&mut self, _: &[u8]) -> Result<(), Refusal> {
            let _ = self.0.recv();
            Ok(())
        }
        fn publish(self: Box<Self>) -> Result<(), Refusal> {
            Ok(())
        }
    }
    let reads = Arc::default();
    let len = u64::MAX / 8;
    let options = StoreOptions {
        frame_cache_octets: 0,
        threads: 1,
    };
    let store = Store::new(Counted { len, reads }, options).expect("threads start");
    let (sender, inbox) = channel();
    let mailbox = Mailbox::new(sender, Waker::noop().clone());
    for _ in 0..SCANS_MAX {
        let answer = store.open(Ticket(0), b"x", Mode::Netascii, &mailbox);
        assert!(matches!(answer, Answer::Later));
    }
    let (release, stuck) = channel();
    let upload = Upload::new(Box::new(Stuck(stuck)), Mode::Octet, None);
    store.write(Ticket(1), upload, vec![0], &mailbox);
    let Answer::Now(Ok(body)) = store.open(Ticket(2), b"x", Mode::Octet, &mailbox) else {
        panic!("at hand")
    };
    let key = FramesKey {
        body,
        blksize: 512,
        rollover: Rollover::ToZero,
        extent: 0,
    };
    assert!(matches!(store.frames(&key, &mailbox), Answer::Later));
    assert!(matches!(inbox.recv(), Ok(Done::Framed(_, Ok(_)))));
    drop(release);
    drop(store);
}

/// Goal: no request waits for ever, even if a backend is broken.
#[test]
fn a_panic_is_an_answer() {
    struct Broken;
    impl Backend for Broken {
        fn open(&self, _: &[u8], patience: Patience) -> Result<Opened, OpenError> {
            match patience {
                Patience::Now => Err(OpenError::WouldBlock),
                Patience::Disk | Patience::Long => panic!("broken on purpose"),
            }
        }
        fn create(&self, _: &[u8], _: Option<u64>) -> Result<Box<dyn Sink>, Refusal> {
            Err(Refusal::Denied)
        }
    }
    let store = Store::new(
        Broken,
        StoreOptions {
            frame_cache_octets: 0,
            threads: 1,
        },
    )
    .expect("threads start");
    let (sender, inbox) = channel();
    let mailbox = Mailbox::new(sender, Waker::noop().clone());
    for _ in 0..3 {
        assert!(matches!(
            store.open(Ticket(1), b"x", Mode::Octet, &mailbox),
            Answer::Later
        ));
        assert!(matches!(
            inbox.recv(),
            Ok(Done::Opened(_, Err(Refusal::Failed(_))))
        ));
    }
}

/// Goal: with real threads all answers are right, and dropping the store ends every thread.
#[test]
fn threads_work_and_end() {
    let memory = Memory::new(Writes::Off);
    memory.insert(
        b"file",
        Contents::Pattern {
            seed: 7,
            len: 8 * EXTENT_OCTETS,
        },
    );
    let store = Store::new(
        memory,
        StoreOptions {
            frame_cache_octets: 2_000_000,
            threads: 3,
        },
    )
    .expect("threads start");
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let (sender, inbox) = channel();
                let mailbox = Mailbox::new(sender, Waker::noop().clone());
                let Answer::Now(Ok(body)) = store.open(Ticket(0), b"file", Mode::Octet, &mailbox)
                else {
                    panic!("memory is at hand")
                };
                for extent in
                    (0..=Frames::extent_of(BlockIndex::last_of(body.len(), 1024), 1024)).chain(0..3)
                {
                    let key = FramesKey {
                        body: Arc::clone(&body),
                        blksize: 1024,
                        rollover: Rollover::ToZero,
                        extent,
                    };
                    let made = match store.frames(&key, &mailbox) {
                        Answer::Now(made) => made,
                        Answer::Later => match inbox.recv() {
                            Ok(Done::Framed(_, made)) => made,
                            other => panic!("not what was asked for: {other:?}"),
                        },
                        Answer::Busy => panic!("busy"),
                    };
                    let first = first_of(extent, 1024);
                    let made = made.expect("well");
                    let octets = made.burst(first, 1).to_contiguous();
                    assert_eq!(octets.get(4), Some(&pattern_octet(7, first.offset(1024))));
                }
            });
        }
    });
    let shared = Arc::downgrade(&store.shared);
    drop(store);
    assert!(
        shared.upgrade().is_none(),
        "a thread still holds what they share"
    );
}
