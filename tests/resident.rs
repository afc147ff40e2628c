//! Ten thousand transfers in one shard keep less than 1 KiB of memory resident each: what the kernel counts,
//! with everything that an allocator sets aside, where `tests/scale.rs` counts what is asked of it.
//!
//! It contains a single test, so that nothing else takes memory meanwhile.

// Elsewhere a process does not learn so easily what memory it has.
#![cfg(target_os = "linux")]

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::task::Waker;

use bootstorm::config::Settings;
use bootstorm::engine::{Bind, Engine, Inbox, Local, Path, Payload, Sent, SocketId, Statistics};
use bootstorm::shard::{Census, Shard};
use bootstorm::store::memory::{Contents, Memory};
use bootstorm::store::{Store, StoreOptions, Writes};
use bootstorm::time::{Duration, Instant};
use bootstorm::wire::{WireBlock, write_ack};

/// Transfers open at once.
const TRANSFERS: u32 = 10_000;
/// Transfers before anything is measured: they take what a shard needs once, such as its inbox and the frames
/// of the file.
const FIRST_TRANSFERS: u32 = 500;
/// What one may keep resident, all that the shard keeps for it included.
const OCTETS_PER_TRANSFER_MAX: usize = 1_024;
/// Octets that are taken and given back at first, as by a server that has read a file: from then on, glibc takes
/// pieces up to this size from its heap, where what is freed stays resident, and no longer from the kernel.
const FREED_OCTETS: usize = 16 << 20;
/// Clients that a turn hears of, as when a shard is busy.
const CLIENTS_PER_TURN: u32 = 32;
/// Blocks that each acknowledges before the end is measured, while timers fire again and again.
const BLOCKS: u16 = 40;
/// How long a client takes to acknowledge a block.
const PAUSE: Duration = Duration::from_millis(500);
/// Octets of the file, which is not at its end then.
const FILE_OCTETS: u64 = 512 * (BLOCKS as u64 + 2);

/// Goal: a shard that fills up has no more resident than it needs. Method: a storm of
/// clients in lock-step comes to an engine that keeps nothing; the kernel's count before and after is compared.
#[test]
fn ten_thousand_transfers_keep_a_kibibyte_resident_each() {
    let memory = Memory::new(Writes::Off);
    let contents = Contents::Pattern {
        seed: 1,
        len: FILE_OCTETS,
    };
    memory.insert(b"image", contents);
    let options = StoreOptions {
        frame_cache_octets: 1 << 20,
        threads: 0,
    };
    let store = Store::new(memory, options).expect("no thread is started");
    let settings = Arc::new(Settings::default());
    let mut shard = Shard::new(
        Nowhere::default(),
        store.clone(),
        settings,
        Census::default(),
    );
    let bind = Bind::to((Ipv4Addr::LOCALHOST, 69).into());
    shard.listen(bind).expect("an address");

    let mut go_on = |clients: Range<u32>, saying: Saying| {
        for first in clients.clone().step_by(CLIENTS_PER_TURN as usize) {
            let clients = first..(first + CLIENTS_PER_TURN).min(clients.end);
            let arrivals = clients.map(|client| (client, saying));
            shard.engine_mut().arrivals.extend(arrivals);
            shard.turn().expect("nothing can fail");
            while store.run_next() {
                shard.turn().expect("nothing can fail");
            }
        }
        shard.engine_mut().now += PAUSE;
    };
    drop(std::hint::black_box(vec![1_u8; FREED_OCTETS]));
    go_on(0..FIRST_TRANSFERS, Saying::Request);
    let before = resident();
    go_on(FIRST_TRANSFERS..TRANSFERS, Saying::Request);
    for block in 1..=BLOCKS {
        go_on(0..TRANSFERS, Saying::Ack(block));
    }
    let after = resident();
    assert_eq!(shard.len(), TRANSFERS as usize);
    let blocks = u64::from(TRANSFERS) * (1 + u64::from(BLOCKS));
    assert_eq!(shard.engine().sent, blocks, "nothing is sent twice");
    let each = after.saturating_sub(before) / (TRANSFERS - FIRST_TRANSFERS) as usize;
    println!("{each} octets resident for each transfer");
    assert!(
        each < OCTETS_PER_TRANSFER_MAX,
        "{each} octets resident for each transfer"
    );
}

/// Octets that this process has resident.
fn resident() -> usize {
    let numbers = fs::read_to_string("/proc/self/statm").expect("the kernel tells");
    let pages = numbers.split(' ').nth(1).expect("pages, resident");
    let pages: usize = pages.parse().expect("a number");
    pages * rustix::param::page_size()
}

/// What a client sends.
#[derive(Debug, Clone, Copy)]
enum Saying {
    Request,
    Ack(u16),
}

/// An engine that sends into the void and keeps nothing.
#[derive(Debug, Default)]
struct Nowhere {
    now: Instant,
    sockets: u32,
    /// Datagrams sent.
    sent: u64,
    arrivals: Vec<(u32, Saying)>,
}

/// The first socket that a shard opens takes requests, the second the ACKs.
const REQUESTS: SocketId = SocketId(0);
const ANSWERS: SocketId = SocketId(1);

impl Engine for Nowhere {
    fn name(&self) -> &'static str {
        "nowhere"
    }

    fn now(&self) -> Instant {
        self.now
    }

    fn open(&mut self, _: Bind) -> io::Result<SocketId> {
        self.sockets += 1;
        Ok(SocketId(self.sockets - 1))
    }

    fn close(&mut self, _: SocketId) {}

    fn local_addr(&self, socket: SocketId) -> io::Result<SocketAddr> {
        Ok((Ipv4Addr::LOCALHOST, 69 + socket.0 as u16).into())
    }

    fn mtu(&mut self, _: u32) -> Option<u32> {
        None
    }

    fn send(&mut self, _: SocketId, _: &Path, payload: Payload<'_>) -> Sent {
        let datagrams = payload.burst().count();
        self.sent += datagrams as u64;
        Sent::Datagrams(datagrams)
    }

    fn has_room(&self, _: SocketId) -> bool {
        true
    }

    fn waker(&self) -> Waker {
        Waker::noop().clone()
    }

    fn wait(&mut self, _: Option<Instant>, inbox: &mut Inbox) -> io::Result<()> {
        self.now += Duration::from_micros(100);
        for (client, saying) in self.arrivals.drain(..) {
            let room = inbox.room().expect("room for a turn");
            let (socket, len) = match saying {
                Saying::Request => (REQUESTS, put(room, b"\0\x01image\0octet\0")),
                Saying::Ack(block) => (ANSWERS, put(room, &write_ack(WireBlock(block)))),
            };
            let peer = (Ipv4Addr::from_bits(0x7f01_0000 + client), 2_000).into();
            let local = Local::default();
            inbox.push(socket, Path { peer, local }, false, len);
        }
        Ok(())
    }

    fn receive_drops(&self) -> u64 {
        0
    }

    fn gso(&self) -> bool {
        false
    }

    fn statistics(&self) -> Statistics {
        Statistics::default()
    }

    fn receive_buffer(&self, _: SocketId) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

fn put(room: &mut [u8], octets: &[u8]) -> usize {
    room[..octets.len()].copy_from_slice(octets);
    octets.len()
}
