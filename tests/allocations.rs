//! A shard that serves a hot image allocates nothing: allocations are counted on its thread, over real
//! sockets.

// An allocator that counts cannot be had without.
#![allow(unsafe_code)]
// Elsewhere sockets tell less.
#![cfg(target_os = "linux")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use bootstorm::config::Settings;
use bootstorm::engine::mio::MioEngine;
use bootstorm::engine::{Bind, Engine};
use bootstorm::proto::block::BlockIndex;
use bootstorm::shard::{Census, Shard};
use bootstorm::store::memory::{Contents, Memory};
use bootstorm::store::{Answer, Frames, Mailbox, Store, StoreOptions, Ticket, Writes};
use bootstorm::wire::Mode;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, and how often each thread asks it for memory.
struct Counting;

// SAFETY: every call goes to the system's allocator as it came; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as in `alloc`; the block came from the system's allocator.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as in `realloc`.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count() {
    // A thread that ends has nothing left to count with.
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
}

/// The block size that every client on Ethernet asks for.
const BLKSIZE: u16 = 1428;

/// Length of the image: several extents.
const IMAGE_OCTETS: u64 = 8 << 20;

/// Most allocations when a transfer comes to its next extent: what the cache's two indexes take when
/// an extent moves to the end of its group.
const ALLOCATIONS_PER_EXTENT_MAX: u64 = 4;

/// How long a client waits before it says again what it has.
const SILENCE: Duration = Duration::from_secs(1);

/// How often the same stretch is measured.
const SERVED: u32 = 4;

/// What happened in the rounds between one acknowledgment and another.
#[derive(Debug, Default)]
struct Counts {
    rounds: u64,
    allocations: u64,
}

#[test]
fn a_warm_shard_allocates_nothing() {
    let before = ALLOCATIONS.get();
    drop(std::hint::black_box(Box::new(1)));
    assert_eq!(ALLOCATIONS.get(), before + 1, "nothing is counted");
    for windowsize in [1, 64] {
        let memory = Memory::new(Writes::Off);
        let len = IMAGE_OCTETS;
        memory.insert(b"image", Contents::Pattern { seed: 1, len });
        let store = Store::new(memory, StoreOptions::default()).expect("threads start");
        let engine = MioEngine::new().expect("an engine");
        let settings = Arc::new(Settings::default());
        let mut shard = Shard::new(engine, Arc::clone(&store), settings, Census::default());
        let address = shard
            .listen(Bind::to(SocketAddr::from(([127, 0, 0, 1], 0))))
            .expect("a port");
        // The image stays hot as long as somebody holds it.
        let (sender, _inbox) = std::sync::mpsc::channel();
        let mailbox = Mailbox::new(sender, std::task::Waker::noop().clone());
        let Answer::Now(Ok(image)) = store.open(Ticket(0), b"image", Mode::Octet, &mailbox) else {
            panic!("memory is at hand")
        };
        let last = BlockIndex::last_of(image.len(), BLKSIZE).0;
        for _ in 0..2 {
            serve(&mut shard, address, windowsize, &(0..=0));
        }

        // All in one extent, the window beyond the last acknowledgment included.
        let first = (1..=last)
            .find(|&block| Frames::extent_of(BlockIndex(block), BLKSIZE) == 1)
            .expect("a second extent");
        let within = first..=first + 600;
        let end = BlockIndex(within.end() + u64::from(windowsize));
        assert_eq!(Frames::extent_of(end, BLKSIZE), 1);
        // A queue may have to grow, once; what every block or burst allocates shows each time.
        let least = (0..SERVED)
            .map(|_| serve(&mut shard, address, windowsize, &within))
            .filter(|counts| counts.rounds > 0)
            .map(|counts| counts.allocations)
            .min();
        assert_eq!(least, Some(0), "at window {windowsize}");

        let counts = serve(&mut shard, address, windowsize, &(first..=last - 100));
        let extents = Frames::extent_of(BlockIndex(last), BLKSIZE);
        assert!(
            counts.allocations <= extents * ALLOCATIONS_PER_EXTENT_MAX,
            "{counts:?} over {extents} extents at window {windowsize}"
        );
    }
}

/// Serves the image once; counts the rounds that begin and end while the last block acknowledged is one
/// of `measured`.
fn serve(
    shard: &mut Shard<MioEngine>,
    address: SocketAddr,
    windowsize: u16,
    measured: &std::ops::RangeInclusive<u64>,
) -> Counts {
    let acked = Arc::new(AtomicU64::new(0));
    let done = Arc::new(AtomicBool::new(false));
    let client = thread::spawn({
        let (acked, done) = (Arc::clone(&acked), Arc::clone(&done));
        let waker = shard.engine().waker();
        move || {
            fetch(address, windowsize, &acked);
            done.store(true, Ordering::Release);
            waker.wake();
        }
    });
    let mut counts = Counts::default();
    while !done.load(Ordering::Acquire) {
        let begun = acked.load(Ordering::Acquire);
        let before = ALLOCATIONS.get();
        shard.turn().expect("the engine works");
        let allocations = ALLOCATIONS.get() - before;
        if measured.contains(&begun) && measured.contains(&acked.load(Ordering::Acquire)) {
            counts.rounds += 1;
            counts.allocations += allocations;
        }
    }
    client.join().expect("the client got everything");
    counts
}

/// Reads the image as a client does, and tells which block it acknowledges.
fn fetch(server: SocketAddr, windowsize: u16, acked: &AtomicU64) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let request = format!("\0\u{1}image\0octet\0blksize\0{BLKSIZE}\0windowsize\0{windowsize}\0");
    socket.send_to(request.as_bytes(), server).expect("sent");
    let mut buffer = [0; 2048];
    let (_, peer) = socket.recv_from(&mut buffer).expect("an answer");
    assert_eq!(buffer[1], 6, "an OACK");
    socket.connect(peer).expect("connected");
    let ack = |block: u64| {
        let [.., high, low] = block.to_be_bytes();
        socket.send(&[0, 4, high, low]).expect("sent");
    };
    ack(0);
    // What a busy machine loses is asked for again, as clients do.
    socket.set_read_timeout(Some(SILENCE)).expect("set");
    let mut received = 0_u64;
    loop {
        let Ok(len) = socket.recv(&mut buffer) else {
            ack(received);
            continue;
        };
        let block = u16::from_be_bytes([buffer[2], buffer[3]]);
        if buffer[1] != 3 || block != (received + 1) as u16 {
            continue;
        }
        received += 1;
        let is_last = len < 4 + usize::from(BLKSIZE);
        if is_last || received.is_multiple_of(u64::from(windowsize)) {
            acked.store(received, Ordering::Release);
            ack(received);
        }
        if is_last {
            return;
        }
    }
}
