//! Ten thousand transfers at once in one shard: each is served, and each costs less than 1 KiB.
//!
//! The allocator only counts, which needs `unsafe`, and this file is its only place in the tests. It contains
//! a single test, so that nothing else allocates meanwhile.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bootstorm::config::Settings;
use bootstorm::engine::Bind;
use bootstorm::engine::sim::{Network, Weather};
use bootstorm::shard::{Census, Shard};
use bootstorm::simulate::{CLIENT, SERVER};
use bootstorm::store::memory::{Contents, Memory};
use bootstorm::store::{Store, StoreOptions, Writes};
use bootstorm::time::Duration;
use bootstorm::wire::{self, Mode, Opcode, Packet};

/// Transfers open at once.
const TRANSFERS: usize = 10_000;
/// What one may cost, all that the shard keeps for it included.
const OCTETS_PER_TRANSFER_MAX: usize = 1_024;
/// Blocks of the file, the last one included.
const BLOCKS: u16 = 4;
/// How long each client thinks before it acknowledges a block.
const PAUSE: Duration = Duration::from_millis(500);

/// Counts what is allocated and not yet freed.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call goes to the system's allocator unchanged; the counter beside it touches no memory
// that is handed out.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps `GlobalAlloc`'s contract, which is that of `System`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: `pointer` came from `alloc` above, and so from `System`, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Goal: the shard serves clients that are slow to acknowledge, ten thousand at a time, within its memory.
/// Method: lock-step clients simulated by hand on one node, so that everything allocated besides the shard is
/// known: the network is drained before anything is measured.
#[test]
fn ten_thousand_transfers_cost_a_kibibyte_each() {
    let network = Network::new(1, Weather::FAIR);
    let files = Memory::new(Writes::Off);
    let len = 512 * (u64::from(BLOCKS) - 1) + 1;
    files.insert(b"image", Contents::Pattern { seed: 1, len });
    let options = StoreOptions {
        frame_cache_octets: 1 << 20,
        threads: 0,
    };
    let store = Store::new(files, options).expect("no thread is started");
    let engine = network.engine(network.add_node("S", SERVER.ip(), 1500));
    let settings = Arc::new(Settings::default());
    let mut shard = Shard::new(engine, store.clone(), settings, Census::default());
    let bind = Bind::to(SERVER);
    shard.listen(bind).expect("the address is free");

    let node = network.add_node("C", CLIENT, 1500);
    let mut buffer = [0; 64];
    let request = wire::write_request(&mut buffer, Opcode::Rrq, b"image", Mode::Octet)
        .expect("a short name fits")
        .len();
    let request = &buffer[..request];
    let addresses: HashMap<_, _> = (0..TRANSFERS).map(|_| network.bind(node, 0)).collect();
    let turn = |shard: &mut Shard<_>| {
        loop {
            shard.turn().expect("a simulated engine never fails");
            let worked = store.run_next();
            let flying = network.flying() > 0;
            if flying {
                let at = network.next_event().expect("something is under way");
                network.advance(at);
            }
            if !worked && !flying {
                break;
            }
        }
    };
    let mut blocks = Vec::with_capacity(TRANSFERS);
    let before = LIVE.load(Ordering::Relaxed);
    let mut held = 0;
    for (place, address) in addresses.values().enumerate() {
        network.inject(*address, SERVER, request);
        // A few at a time, as they would come: the store has room for so many questions.
        if place % 100 == 99 {
            turn(&mut shard);
            while let Some(arrived) = network.receive(node) {
                held += arrived.2.capacity();
                blocks.push(arrived);
            }
        }
    }
    assert_eq!(shard.len(), TRANSFERS);
    let after = LIVE.load(Ordering::Relaxed) - held;
    let each = (after - before) / TRANSFERS;
    println!("{each} octets for each transfer");

    let mut next: HashMap<_, u16> = addresses.keys().map(|&socket| (socket, 1)).collect();
    while !blocks.is_empty() {
        network.advance(network.now() + PAUSE);
        for (place, (socket, path, octets)) in blocks.drain(..).enumerate() {
            if let Ok(Packet::Data { block, .. }) = Packet::parse(&octets)
                && next[&socket] == block.0
            {
                *next.entry(socket).or_default() += 1;
                network.inject(addresses[&socket], path.peer, &wire::write_ack(block));
            }
            if place % 100 == 99 {
                turn(&mut shard);
            }
        }
        turn(&mut shard);
        while let Some(arrived) = network.receive(node) {
            blocks.push(arrived);
        }
    }
    assert!(
        next.values().all(|&block| block == BLOCKS + 1),
        "somebody was not served"
    );
    assert_eq!(
        shard.metrics().ended.get("complete"),
        Some(&(TRANSFERS as u64))
    );
    assert!(
        each < OCTETS_PER_TRANSFER_MAX,
        "{each} octets for each transfer"
    );
}
