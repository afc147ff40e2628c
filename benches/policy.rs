//! The frame cache's decisions, compared with the alternatives.
//!
//! What stays: the share of all requests that needs no reading, compared with an LRU cache of the same size.
//! Only counts, from seeded randomness, so they are the same on every machine.
//!
//! How it is sent: processor time of reading a file once and sending it, as the server does for its first
//! client and for its second, and as headers and payload gathered by the kernel, from a mapping or from a
//! buffer.

// Mappings, which are what frames are compared with, and one socket option.
#![allow(unsafe_code)]
// Linux's mappings, control messages and GSO.
#![cfg_attr(not(target_os = "linux"), allow(dead_code, unused_imports))]

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::task::Waker;

use bootstorm::proto::block::{BlockIndex, Rollover};
use bootstorm::store::{
    Answer, Backend, Body, Done, EXTENT_OCTETS, Frames, FramesKey, Identity, Mailbox, OpenError,
    Opened, Patience, ReadFailure, Refusal, Sink, Source, Store, StoreOptions, Ticket,
};
use bootstorm::wire::{HEADER_OCTETS, Mode};

#[path = "common/mod.rs"]
mod common;

/// Octets of a mebibyte, by which everything here is measured.
const MEBIBYTE: u64 = 1 << 20;
/// Memory for frames.
const CACHE_OCTETS: u64 = 64 * MEBIBYTE;
/// Octets of the files that are asked for now and then.
const RARE_OCTETS: u64 = 8 * MEBIBYTE;
/// Octets in a block.
const BLKSIZE: u16 = 1428;

fn main() {
    println!(
        "| requests | asked for | read, LRU | read, bootstorm | no reading, LRU | no reading, bootstorm | at hand |"
    );
    println!("|---|---|---|---|---|---|---|");
    for (name, mix) in mixes() {
        let (lru, cache) = (under_lru(&mix), under_cache(&mix));
        let asks = mix.asks.len() as u64;
        let share = |reads: u64| 100.0 * (1.0 - reads as f64 / asks as f64);
        println!(
            "| {name} | {asks} | {lru} | {} | {:.1} % | {:.1} % | {:.1} % |",
            cache.reads,
            share(lru),
            share(cache.reads),
            share(cache.waits)
        );
    }
    #[cfg(target_os = "linux")]
    sends::measure();
}

/// A file by number; 0 is the image.
type File = u64;

/// What is asked for, one after the other.
struct Mix {
    image_octets: u64,
    asks: Vec<Ask>,
}

/// A client's question for the next extent of its file.
#[derive(Clone, Copy)]
struct Ask {
    client: usize,
    file: File,
    extent: u64,
    is_last: bool,
}

impl Mix {
    const fn len(&self, file: File) -> u64 {
        if file == 0 {
            self.image_octets
        } else {
            RARE_OCTETS
        }
    }

    fn last_extent(&self, file: File) -> u64 {
        Frames::extent_of(BlockIndex::last_of(self.len(file), BLKSIZE), BLKSIZE)
    }
}

/// Who asks: clients that read whole files, each beginning with the next when it is done.
struct Group<'a> {
    /// How many read at the same time.
    clients: usize,
    /// The files that are still to be read.
    files: &'a mut dyn Iterator<Item = File>,
    /// How often one of them asks, in proportion to the other groups.
    weight: usize,
}

/// Lets a client by chance ask next, until the first group has read all its files.
fn mix(image_octets: u64, groups: &mut [Group<'_>]) -> Mix {
    let mut random = fastrand::Rng::with_seed(7);
    let mut mix = Mix {
        image_octets,
        asks: Vec::new(),
    };
    let mut places: Vec<Vec<Option<(File, u64)>>> = groups
        .iter_mut()
        .map(|group| {
            (0..group.clients)
                .map(|_| group.files.next().map(|file| (file, 0)))
                .collect()
        })
        .collect();
    let turns: Vec<usize> = (0..groups.len())
        .flat_map(|group| std::iter::repeat_n(group, groups[group].weight))
        .collect();
    while places[0].iter().any(Option::is_some) {
        let group = turns[random.usize(..turns.len())];
        let number = random.usize(..places[group].len());
        let Some((file, extent)) = places[group][number] else {
            continue;
        };
        let is_last = extent == mix.last_extent(file);
        mix.asks.push(Ask {
            client: group * 10_000 + number,
            file,
            extent,
            is_last,
        });
        places[group][number] = if is_last {
            groups[group].files.next().map(|file| (file, 0))
        } else {
            Some((file, extent + 1))
        };
    }
    mix
}

/// The kinds of requests.
fn mixes() -> Vec<(&'static str, Mix)> {
    let half = CACHE_OCTETS / 2;
    let hot = |one_in: u64| {
        let mut random = fastrand::Rng::with_seed(one_in);
        let mut files = (0..3_000).map(|_| match random.u64(..one_in) {
            0 => 0,
            _ => random.u64(1..=500),
        });
        let files = &mut files;
        mix(
            half,
            &mut [Group {
                clients: 16,
                files,
                weight: 1,
            }],
        )
    };
    let scan = |rounds: u64, files: u64, booting: usize| {
        let mut scanned = (0..rounds).flat_map(|_| 1..=files);
        let mut booted = std::iter::repeat(0);
        let mut groups = vec![Group {
            clients: 1,
            files: &mut scanned,
            weight: 4,
        }];
        if booting > 0 {
            groups.push(Group {
                clients: booting,
                files: &mut booted,
                weight: 1,
            });
        }
        mix(half, &mut groups)
    };
    let crowd = |image_octets: u64, at_once: usize| {
        let mut files = std::iter::repeat_n(0, 1_000);
        let files = &mut files;
        mix(
            image_octets,
            &mut [Group {
                clients: at_once,
                files,
                weight: 1,
            }],
        )
    };
    let (smaller, larger) = (CACHE_OCTETS / 4 * 3, CACHE_OCTETS * 2);
    vec![
        (
            "an image of half the cache, every 2nd of 3,000 transfers, 500 others of 8 MiB",
            hot(2),
        ),
        ("the same, every 10th", hot(10)),
        ("the same, every 50th", hot(50)),
        (
            "a scan, 5 rounds through 12 files of 8 MiB (1.5 times the cache)",
            scan(5, 12, 0),
        ),
        (
            "a scan through 300 files of 8 MiB, beside it machines that boot one by one",
            scan(1, 300, 1),
        ),
        ("the same, four machines at a time", scan(1, 300, 4)),
        (
            "1,000 clients of one image at once, 3/4 of the cache",
            crowd(smaller, 1_000),
        ),
        (
            "1,000 clients of one image, 100 at a time, 3/4 of the cache",
            crowd(smaller, 100),
        ),
        (
            "1,000 clients of one image at once, twice the cache",
            crowd(larger, 1_000),
        ),
        (
            "1,000 clients of one image, 100 at a time, twice the cache",
            crowd(larger, 100),
        ),
        (
            "1,000 clients of one image, 10 at a time, twice the cache",
            crowd(larger, 10),
        ),
    ]
}

/// How often has to be read where simply goes what was used longest ago, and nothing is read ahead.
fn under_lru(mix: &Mix) -> u64 {
    let mut kept: HashMap<(File, u64), u64> = HashMap::new();
    let mut by_use: BTreeMap<u64, (File, u64)> = BTreeMap::new();
    let (mut octets, mut reads) = (0, 0);
    for (now, ask) in (0..).zip(&mix.asks) {
        let key = (ask.file, ask.extent);
        match kept.insert(key, now) {
            Some(used) => {
                by_use.remove(&used);
            }
            None => {
                reads += 1;
                octets += memory(mix.len(ask.file), ask.extent);
            }
        }
        by_use.insert(now, key);
        while octets > CACHE_OCTETS {
            let Some((_, oldest)) = by_use.pop_first() else {
                break;
            };
            kept.remove(&oldest);
            octets -= memory(mix.len(oldest.0), oldest.1);
        }
    }
    reads
}

/// What an extent takes in the cache: a cell, or what it needs of the heap.
fn memory(len: u64, extent: u64) -> u64 {
    let first = first_block(extent, BLKSIZE);
    let next = first_block(extent + 1, BLKSIZE).min(BlockIndex::last_of(len, BLKSIZE).plus(1));
    let octets = next.past(first) * (u64::from(BLKSIZE) + HEADER_OCTETS as u64);
    if octets >= EXTENT_OCTETS / 2 {
        EXTENT_OCTETS
    } else {
        octets + 256
    }
}

/// The first block of an extent.
fn first_block(extent: u64, blksize: u16) -> BlockIndex {
    let blocks = |octets: u64| (octets / (u64::from(blksize) + HEADER_OCTETS as u64)).max(1);
    let before = extent
        .checked_sub(1)
        .map_or(0, |full| blocks(64 * 1024) + full * blocks(EXTENT_OCTETS));
    BlockIndex::FIRST.plus(before)
}

/// What the cache had to do.
struct Work {
    /// Extents that were read, those read ahead included.
    reads: u64,
    /// How often somebody had to wait.
    waits: u64,
}

/// The same in the cache as it is, with a disk that is as fast as need be.
fn under_cache(mix: &Mix) -> Work {
    let reads = Arc::new(AtomicU64::new(0));
    let backend = Blank {
        image_octets: mix.image_octets,
        reads: Arc::clone(&reads),
    };
    let asker = Asker::new(backend, CACHE_OCTETS);
    let mut bodies: HashMap<usize, Arc<Body>> = HashMap::new();
    for ask in &mix.asks {
        let open = || asker.open(&ask.file.to_be_bytes());
        let body = Arc::clone(bodies.entry(ask.client).or_insert_with(open));
        // As a transfer does when it passes on, and when it is over.
        let asked = key(body, BLKSIZE, ask.extent);
        asker.store.passed(&asked);
        drop(asker.frames(&asked));
        if ask.is_last {
            asker.store.left(&key(asked.body, BLKSIZE, ask.extent + 1));
            bodies.remove(&ask.client);
        }
    }
    Work {
        reads: reads.load(Ordering::Relaxed),
        waits: asker.store.statistics().misses,
    }
}

/// One who asks a store and does its work.
struct Asker {
    store: Arc<Store>,
    mailbox: Mailbox,
    inbox: Receiver<Done>,
}

impl Asker {
    fn new(backend: impl Backend, octets: u64) -> Self {
        let options = StoreOptions {
            frame_cache_octets: octets as usize,
            threads: 0,
        };
        let store = Store::new(backend, options).expect("no thread is started");
        let (sender, inbox) = channel();
        let mailbox = Mailbox::new(sender, Waker::noop().clone());
        Self {
            store,
            mailbox,
            inbox,
        }
    }

    fn open(&self, name: &[u8]) -> Arc<Body> {
        let answer = self.store.open(Ticket(0), name, Mode::Octet, &self.mailbox);
        while self.store.run_next() {}
        match answer {
            Answer::Now(body) => body.expect("a file"),
            _ => match self.inbox.try_recv() {
                Ok(Done::Opened(_, body)) => body.expect("a file"),
                other => panic!("not opened: {other:?}"),
            },
        }
    }

    /// For a transfer that asks for the first time.
    fn frames(&self, key: &FramesKey) -> Arc<Frames> {
        self.made(self.store.frames(key, &self.mailbox))
    }

    /// For the only transfer there is.
    fn frames_alone(&self, key: &FramesKey) -> Arc<Frames> {
        self.store.passed(key);
        self.made(self.store.frames_again(key, &self.mailbox))
    }

    fn made(&self, answer: Answer<Result<Arc<Frames>, ReadFailure>>) -> Arc<Frames> {
        while self.store.run_next() {}
        match answer {
            Answer::Now(frames) => frames.expect("it reads"),
            _ => match self.inbox.try_recv() {
                Ok(Done::Framed(_, frames)) => frames.expect("it reads"),
                other => panic!("not framed: {other:?}"),
            },
        }
    }
}

/// A file's extent.
const fn key(body: Arc<Body>, blksize: u16, extent: u64) -> FramesKey {
    FramesKey {
        body,
        blksize,
        rollover: Rollover::ToZero,
        extent,
    }
}

/// Files of nothing in particular, which cost nothing to read: their names are their numbers.
struct Blank {
    image_octets: u64,
    reads: Arc<AtomicU64>,
}

impl Backend for Blank {
    fn open(&self, name: &[u8], _: Patience) -> Result<Opened, OpenError> {
        let name = name.try_into().map_err(|_| Refusal::NotFound)?;
        let inode = u64::from_be_bytes(name);
        let len = if inode == 0 {
            self.image_octets
        } else {
            RARE_OCTETS
        };
        let identity = Identity {
            device: 0,
            inode,
            len,
            modified: 0,
            changed: 0,
        };
        let source = Box::new(BlankSource(Arc::clone(&self.reads)));
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

struct BlankSource(Arc<AtomicU64>);

impl Source for BlankSource {
    fn read_at(&self, buffer: &mut [u8], _: u64) -> Result<usize, ReadFailure> {
        Ok(buffer.len())
    }

    /// Each extent is checked once, in however many parts it was read.
    fn check(&self) -> Result<(), ReadFailure> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

#[cfg(target_os = "linux")]
mod sends {
    //! A file that nobody asked for before, read and sent once, in several ways.

    use std::ffi::c_int;
    use std::fs::File;
    use std::io::{IoSlice, Write};
    use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
    use std::os::fd::AsRawFd;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::FileExt;
    use std::path::Path;
    use std::sync::Arc;
    use std::{ptr, slice};

    use bootstorm::proto::block::{BlockIndex, Rollover};
    use bootstorm::store::{Body, EXTENT_OCTETS, Frames, local::Local};
    use bootstorm::wire::{HEADER_OCTETS, write_data_header};
    use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
    use socket2::{MsgHdr, SockAddr, Socket};

    use super::common::{self, Spread};
    use super::{Asker, MEBIBYTE};

    /// Octets of the file: many times the memory for frames, so that none of it is ever at hand.
    const FILE_OCTETS: u64 = 64 * MEBIBYTE;
    /// Memory for frames, which is used again and again as in a server that runs.
    const FRAMES_OCTETS: u64 = 16 * MEBIBYTE;
    /// How often the file is sent in each measurement.
    const PASSES: u64 = 4;
    /// Interleaved rounds.
    const ROUNDS: usize = 7;
    /// Most datagrams that any kernel cuts one message into.
    const SEGMENTS_MAX: u64 = 64;
    /// Most octets of such a message.
    const BURST_OCTETS_MAX: u64 = 65_507;

    /// Sends a file once.
    type Send = fn(&Way<'_>);

    /// Ways to do so.
    const WAYS: [(&str, Send); 7] = [
        ("plain, as for a first client", |way| way.plain()),
        ("laid out, as for a second", |way| way.laid_out()),
        ("gathered from a mapping", |way| {
            way.mapping(MapFlags::SHARED)
        }),
        ("gathered from a mapping, populated first", |way| {
            way.mapping(MapFlags::SHARED | MapFlags::POPULATE)
        }),
        ("gathered from a buffer", |way| way.buffer()),
        ("laid out, at hand", |way| way.kept()),
        ("gathered, all at hand", |way| {
            way.gather(&way.octets, BlockIndex::FIRST);
        }),
    ];

    pub(super) fn measure() {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        let octets: Vec<u8> = (0..FILE_OCTETS).map(|place| (place >> 3) as u8).collect();
        file.write_all(&octets).expect("room for it");
        let names = WAYS.map(|(name, _)| name).join(" | ");
        println!("\n| blksize/windowsize, CPU s/GB | {names} |\n|---|---|---|---|---|---|---|---|");
        for (blksize, windowsize) in [(512, 64), (1428, 16), (1428, 64), (8192, 64), (65_464, 1)] {
            let way = Way::new(file.path(), blksize, windowsize);
            WAYS.iter().for_each(|(_, send)| send(&way));
            let gigabytes = (PASSES * FILE_OCTETS) as f64 / 1e9;
            let mut costs = WAYS.map(|_| Vec::new());
            for _ in 0..ROUNDS {
                for ((_, send), costs) in WAYS.iter().zip(&mut costs) {
                    let time = common::time_of(PASSES, || send(&way));
                    costs.push(time.as_secs_f64() / gigabytes);
                }
            }
            let spreads = costs.map(|costs| format!("{:.3}", Spread::from_iter(costs)));
            println!("| {blksize}/{windowsize} | {} |", spreads.join(" | "));
        }
    }

    /// One file on its way to one who never takes it, on given terms.
    struct Way<'a> {
        path: &'a Path,
        blksize: u16,
        /// Most blocks in one message.
        burst: u64,
        control: Vec<u8>,
        socket: Socket,
        peer: SockAddr,
        /// Its receive queue is always full: what comes is thrown away at the least cost.
        _sink: UdpSocket,
        /// Asks for one transfer only.
        plain: (Asker, Arc<Body>),
        /// Asks for many.
        laid_out: (Asker, Arc<Body>),
        /// All frames of the file, made before.
        kept: Vec<Arc<Frames>>,
        /// All octets of the file, which a mapping that is kept would hold.
        octets: Vec<u8>,
    }

    impl<'a> Way<'a> {
        fn new(path: &'a Path, blksize: u16, windowsize: u64) -> Self {
            let sink = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
            take_bursts(&sink);
            let peer: SocketAddr = sink.local_addr().expect("an address");
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
            let segment = u64::from(blksize) + HEADER_OCTETS as u64;
            let asker = |octets| {
                let asker = Asker::new(Local, octets);
                let body = asker.open(path.as_os_str().as_bytes());
                (asker, body)
            };
            let (for_kept, body) = asker(4 * FILE_OCTETS);
            let last = Frames::extent_of(BlockIndex::last_of(FILE_OCTETS, blksize), blksize);
            let laid_out = |extent| {
                let key = super::key(Arc::clone(&body), blksize, extent);
                let mut frames = for_kept.frames(&key);
                while !frames.are_laid_out() {
                    frames = for_kept.frames(&key);
                }
                frames
            };
            let kept = (0..=last).map(laid_out).collect();
            Self {
                path,
                blksize,
                burst: windowsize.min(SEGMENTS_MAX).min(BURST_OCTETS_MAX / segment),
                control: segment_control(segment as u16),
                socket: socket.into(),
                peer: peer.into(),
                _sink: sink,
                plain: asker(FRAMES_OCTETS),
                laid_out: asker(FRAMES_OCTETS),
                kept,
                octets: std::fs::read(path).expect("the file"),
            }
        }

        fn send(&self, octets: &[IoSlice<'_>]) {
            let message = MsgHdr::new()
                .with_addr(&self.peer)
                .with_buffers(octets)
                .with_control(&self.control);
            self.socket.sendmsg(&message, 0).expect("it leaves");
        }

        /// As the server does for a first client: each burst is gathered from memory that is reused.
        fn plain(&self) {
            let (asker, body) = &self.plain;
            for extent in 0..self.kept.len() as u64 {
                let key = super::key(Arc::clone(body), self.blksize, extent);
                self.extent(&asker.frames_alone(&key), extent);
            }
        }

        /// As it does for a second one: each burst is a slice of what is kept for others.
        fn laid_out(&self) {
            let (asker, body) = &self.laid_out;
            for extent in 0..self.kept.len() as u64 {
                let key = super::key(Arc::clone(body), self.blksize, extent);
                self.extent(&asker.frames(&key), extent);
            }
        }

        /// What every further client of the same file costs.
        fn kept(&self) {
            for (extent, frames) in (0..).zip(&self.kept) {
                self.extent(frames, extent);
            }
        }

        fn extent(&self, frames: &Frames, extent: u64) {
            let mut block = super::first_block(extent, self.blksize);
            loop {
                let burst = frames.burst(block, self.burst);
                if burst.count() == 0 {
                    break;
                }
                burst.with_parts(|parts| self.send(parts));
                block = block.plus(burst.count() as u64);
            }
        }

        /// Mapped as a whole, sent from there, and unmapped.
        fn mapping(&self, flags: MapFlags) {
            let file = File::open(self.path).expect("the file");
            let length = FILE_OCTETS as usize;
            // SAFETY: a new mapping, at an address of the kernel's choice, disturbs no other.
            let address =
                unsafe { mmap(ptr::null_mut(), length, ProtFlags::READ, flags, &file, 0) }
                    .expect("a mapping");
            // SAFETY: the mapping is as long, and nobody changes or cuts the file, which is this
            // program's own.
            let octets = unsafe { slice::from_raw_parts(address.cast::<u8>(), length) };
            self.gather(octets, BlockIndex::FIRST);
            // SAFETY: nothing refers to the mapping any more.
            unsafe { munmap(address, length) }.expect("it was mapped");
        }

        /// Read a mebibyte at a time, as for frames, but not laid out.
        fn buffer(&self) {
            let file = File::open(self.path).expect("the file");
            let blocks = EXTENT_OCTETS / u64::from(self.blksize);
            let mut buffer = vec![0; (blocks * u64::from(self.blksize)) as usize];
            let mut first = BlockIndex::FIRST;
            while first.offset(self.blksize) < FILE_OCTETS {
                let offset = first.offset(self.blksize);
                let length = buffer.len().min((FILE_OCTETS - offset) as usize);
                file.read_exact_at(&mut buffer[..length], offset)
                    .expect("it reads");
                self.gather(&buffer[..length], first);
                first = first.plus(blocks);
            }
        }

        /// Sends blocks that lie side by side, each with its header before it.
        fn gather(&self, octets: &[u8], first: BlockIndex) {
            let blksize = usize::from(self.blksize);
            let mut block = first;
            for burst in octets.chunks(blksize * self.burst as usize) {
                let blocks = burst.len().div_ceil(blksize) as u64;
                let header = |index| write_data_header(Rollover::ToZero.wire(block.plus(index)));
                let headers: Vec<_> = (0..blocks).map(header).collect();
                let pairs = headers.iter().zip(burst.chunks(blksize));
                let slices: Vec<_> = pairs
                    .flat_map(|(header, payload)| [IoSlice::new(header), IoSlice::new(payload)])
                    .collect();
                self.send(&slices);
                block = block.plus(blocks);
            }
        }
    }

    /// A control message that has the kernel cut what is sent into datagrams of so many octets.
    fn segment_control(segment: u16) -> Vec<u8> {
        let header = size_of::<libc::cmsghdr>();
        let mut control = (header + size_of::<u16>()).to_ne_bytes().to_vec();
        control.extend(libc::SOL_UDP.to_ne_bytes());
        control.extend(libc::UDP_SEGMENT.to_ne_bytes());
        control.extend(segment.to_ne_bytes());
        control.resize(header + size_of::<usize>(), 0);
        control
    }

    /// Takes bursts in one piece, as a network card does: loopback need not cut them.
    fn take_bursts(sink: &UdpSocket) {
        let one: c_int = 1;
        // SAFETY: the value is valid for reads of the length given, and the kernel keeps no reference to it.
        let answer = unsafe {
            libc::setsockopt(
                sink.as_raw_fd(),
                libc::SOL_UDP,
                libc::UDP_GRO,
                (&raw const one).cast(),
                size_of::<c_int>() as libc::socklen_t,
            )
        };
        assert_eq!(answer, 0, "no UDP GRO here");
    }
}
