//! The cost of a shard by itself, without a kernel underneath: ACKs of many transfers and what they look up,
//! and the timers. All in processor time of one thread.

// What the macros make has no documentation.
#![allow(missing_docs)]

mod common;

use std::hint::black_box;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use bootstorm::config::Settings;
use bootstorm::engine::{Bind, Engine, Inbox, Local, Path, Payload, Sent, SocketId, Statistics};
use bootstorm::shard::{Census, Shard, Wheel};
use bootstorm::store::memory::{Contents, Memory};
use bootstorm::store::{Store, StoreOptions, Writes};
use bootstorm::time::Instant;
use bootstorm::wire::{WireBlock, write_ack};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// ACKs in one turn, as they arrive when a shard is busy.
const ACKS_PER_TURN: usize = 32;
/// Time that a turn takes.
const TURN: Duration = Duration::from_micros(100);
const BLKSIZE: u64 = 512;
/// Blocks of the file: an ACK names each only once.
const BLOCKS: u16 = 65_000;
/// Memory for frames in octets: the whole file, twice.
const FRAME_CACHE_OCTETS: usize = 64 << 20;
/// How long timers run.
const TIMEOUT: Duration = Duration::from_secs(1);

fn acks(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("shard");
    group.throughput(Throughput::Elements(ACKS_PER_TURN as u64));
    for transfers in [64, 1_000, 10_000] {
        let mut world = World::new(transfers);
        group.bench_function(format!("ack_and_next_block/{transfers}"), |bencher| {
            bencher.iter_custom(|turns| common::time_of(turns, || world.go_on()));
        });
        world.check();
        // Nothing follows but the look-up in the table. Time stands still, or silence would end the transfers.
        world.shard.engine_mut().turn = Duration::ZERO;
        group.bench_function(format!("ack_without_news/{transfers}"), |bencher| {
            bencher.iter_custom(|turns| common::time_of(turns, || world.turn(Client::again)));
        });
        world.check();
    }
    group.finish();
}

fn timers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("timers");
    for armed in [100, 10_000, 100_000] {
        let mut now = Instant::ZERO;
        let mut wheel = Wheel::new();
        let pause = TIMEOUT / armed;
        for number in 0..armed {
            wheel.insert(now + pause * number, number);
        }
        // One fires at a time, as a rule, and is armed again.
        group.bench_function(format!("expire_and_insert/{armed}"), |bencher| {
            let mut fired = Vec::new();
            let mut turn = || {
                now += pause;
                wheel.expire(now, |number| fired.push(number));
                for number in fired.drain(..) {
                    wheel.insert(now + TIMEOUT, number);
                }
                black_box(wheel.next());
            };
            bencher.iter_custom(|turns| common::time_of(turns, &mut turn));
        });
    }
    group.finish();
}

/// A shard with transfers under way.
struct World {
    shard: Shard<Nowhere>,
    store: Arc<Store>,
    clients: Vec<Client>,
    /// Whose turn it is.
    place: usize,
    /// Packets that asked for a block, or were the last.
    asked: u64,
}

impl World {
    fn new(transfers: u32) -> Self {
        let memory = Memory::new(Writes::Off);
        let len = (u64::from(BLOCKS) - 1) * BLKSIZE + 1;
        memory.insert(b"image", Contents::Pattern { seed: 1, len });
        let options = StoreOptions {
            frame_cache_octets: FRAME_CACHE_OCTETS,
            threads: 0,
        };
        let store = Store::new(memory, options).expect("no thread is started");
        let settings = Arc::new(Settings::default());
        let engine = Nowhere {
            turn: TURN,
            ..Nowhere::default()
        };
        let mut shard = Shard::new(engine, store.clone(), settings, Census::default());
        let bind = Bind::to((Ipv4Addr::LOCALHOST, 69).into());
        shard.listen(bind).expect("an address");
        let clients = (0..transfers).map(Client::new).collect();
        let mut world = Self {
            shard,
            store,
            clients,
            place: 0,
            asked: 0,
        };
        // Requests, the ACKs of the first blocks, and nothing to be framed any more for the next.
        for _ in 0..3 * (transfers as usize).div_ceil(ACKS_PER_TURN) {
            world.go_on();
        }
        world.check();
        world
    }

    /// Everything is measured in vain if the shard has lost its clients, or they wait for their blocks: no
    /// more than one each is on its way, and an ACK of the last asks for none.
    fn check(&self) {
        let (shard, clients) = (&self.shard, self.clients.len() as u64);
        assert!(shard.len() >= self.clients.len(), "all are served");
        let lasts = self.asked / u64::from(BLOCKS) + clients;
        let missing = self.asked.saturating_sub(shard.engine().sent);
        assert!(
            missing <= clients + lasts,
            "ACKs bring blocks, {missing} did not"
        );
    }

    /// A turn that moves the next transfers on by a block.
    fn go_on(&mut self) {
        self.turn(Client::next);
        self.asked += ACKS_PER_TURN as u64;
    }

    /// A turn in which the next clients say what `say` makes of them.
    fn turn(&mut self, say: fn(&mut Client) -> Saying) {
        let arrivals = &mut self.shard.engine_mut().arrivals;
        for _ in 0..ACKS_PER_TURN {
            let client = &mut self.clients[self.place];
            arrivals.push((client.address, say(client)));
            self.place = (self.place + 1) % self.clients.len();
        }
        self.shard.turn().expect("nothing can fail");
        while self.store.run_next() {}
    }
}

struct Client {
    address: SocketAddr,
    /// The last block that it acknowledged, once it has asked for the file.
    acked: Option<u16>,
}

/// What a client sends.
#[derive(Debug)]
enum Saying {
    Request,
    Ack(u16),
}

impl Client {
    fn new(number: u32) -> Self {
        Self {
            address: (Ipv4Addr::from_bits(0x7f01_0000 + number), 2_000).into(),
            acked: None,
        }
    }

    /// What moves the transfer on; a new one begins behind its end.
    fn next(&mut self) -> Saying {
        let acked = match self.acked {
            None => {
                self.acked = Some(0);
                return Saying::Request;
            }
            Some(acked) => acked + 1,
        };
        self.acked = (acked < BLOCKS).then_some(acked);
        Saying::Ack(acked)
    }

    /// An ACK that comes late.
    fn again(&mut self) -> Saying {
        Saying::Ack(self.acked.unwrap_or(BLOCKS).saturating_sub(2))
    }
}

/// An engine that sends into the void, and whose time passes by turns.
#[derive(Debug, Default)]
struct Nowhere {
    now: Instant,
    /// Time that passes by a turn.
    turn: Duration,
    sockets: u32,
    /// Datagrams sent.
    sent: u64,
    arrivals: Vec<(SocketAddr, Saying)>,
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
        let datagrams = black_box(payload.burst()).count();
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
        self.now += self.turn;
        for (peer, saying) in self.arrivals.drain(..) {
            let room = inbox.room().expect("room for a turn");
            let (socket, len) = match saying {
                Saying::Request => (REQUESTS, put(room, b"\0\x01image\0octet\0")),
                Saying::Ack(block) => (ANSWERS, put(room, &write_ack(WireBlock(block)))),
            };
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

criterion_group!(benches, acks, timers);
criterion_main!(benches);
