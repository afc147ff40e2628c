//! Limits with a name, met: the real shard in simulated time, where a second is a second to the datagram.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bootstorm::config::{
    DRAIN_LINGER, LATE_COPY_MAX, LINGER_READ, LINGERING_MAX, STRANGER_ERRORS_PER_SECOND, Settings,
    UNVALIDATED_PER_PREFIX_MAX, UPLOADS_MAX,
};
use bootstorm::engine::Bind;
use bootstorm::engine::sim::{Network, NodeId, SimEngine, Weather};
use bootstorm::metrics::Suppressed;
use bootstorm::proto::timing::Patience;
use bootstorm::shard::{Census, Holdings, Shard};
use bootstorm::simulate::{CLIENT, SERVER};
use bootstorm::store::memory::{Contents, Memory};
use bootstorm::store::{Store, StoreOptions, Writes};
use bootstorm::time::{Duration, Instant};
use bootstorm::wire::{self, Mode, Opcode, WireBlock};

/// Datagrams that a shard takes in one round, and the simulated network holds for it.
const BATCH: usize = 400;
/// Octets of the file, which takes two blocks, and of another, which takes one.
const LONG: u64 = 700;
const SHORT: u64 = 100;
/// And of one whose every block is another.
const IMAGE: u64 = 1 << 20;

/// A server, and clients that are only addresses.
struct Lab {
    network: Network,
    server: NodeId,
    store: Arc<Store>,
    shard: Shard<SimEngine>,
    /// Where its answers come from.
    answers: SocketAddr,
}

impl Lab {
    fn new() -> Self {
        let network = Network::new(1, Weather::FAIR);
        let files = Memory::new(Writes::Create);
        for (name, len) in [(&b"long"[..], LONG), (b"short", SHORT), (b"image", IMAGE)] {
            files.insert(name, Contents::Pattern { seed: 1, len });
        }
        let options = StoreOptions {
            frame_cache_octets: 1 << 20,
            threads: 0,
        };
        let store = Store::new(files, options).expect("no thread is started");
        let server = network.add_node("S", SERVER.ip(), 1500);
        let engine = network.engine(server);
        let settings = Arc::new(Settings::default());
        let mut shard = Shard::new(engine, store.clone(), settings, Census::default());
        let bind = Bind::to(SERVER);
        shard.listen(bind).expect("the address is free");
        let mut lab = Self {
            network,
            server,
            store,
            shard,
            answers: SERVER,
        };
        // Somebody asks once, so that it is known where answers come from.
        let node = lab.network.add_node("C", CLIENT, 1500);
        let (_, client) = lab.network.bind(node, 0);
        lab.ask(client, Opcode::Rrq, b"short");
        lab.settle();
        let (_, path, _) = lab.network.receive(node).expect("an answer");
        lab.answers = path.peer;
        lab.ack(client, 1);
        lab.settle();
        lab.pass(LINGER_READ * 2);
        assert!(lab.shard.is_empty());
        lab
    }

    fn ask(&self, client: SocketAddr, opcode: Opcode, name: &[u8]) {
        let mut buffer = [0; 64];
        let request = wire::write_request(&mut buffer, opcode, name, Mode::Octet);
        let len = request.expect("a short name fits").len();
        self.network.inject(client, SERVER, &buffer[..len]);
    }

    fn ack(&self, client: SocketAddr, block: u16) {
        let ack = wire::write_ack(WireBlock(block));
        self.network.inject(client, self.answers, &ack);
    }

    fn error(&self, client: SocketAddr, code: u16) {
        let [high, low] = code.to_be_bytes();
        self.network
            .inject(client, self.answers, &[0, 5, high, low, 0]);
    }

    /// Lets arrive what is under way, and all be done that follows at once.
    fn settle(&mut self) {
        loop {
            self.turn();
            let worked = self.store.run_next();
            let flying = self.network.flying() > 0;
            if flying {
                self.arrive();
            }
            if !worked && !flying && self.shard.next_wake() != Some(Instant::ZERO) {
                return;
            }
        }
    }

    /// Lets time pass, with all that happens meanwhile.
    fn pass(&mut self, time: Duration) {
        let until = self.network.now() + time;
        while self.network.now() < until {
            let wake = self.shard.next_wake().map_or(until, |wake| wake.min(until));
            let event = self
                .network
                .next_event()
                .map_or(wake, |event| event.min(wake));
            self.network.advance(event.max(self.network.now()));
            self.turn();
            self.store.run_next();
        }
    }

    fn turn(&mut self) {
        self.shard.turn().expect("a simulated engine never fails");
    }

    /// Has the next datagrams arrive.
    fn arrive(&self) {
        let at = self.network.next_event().expect("something is under way");
        self.network.advance(at);
    }

    fn suppressed(&self, why: Suppressed) -> u64 {
        let metrics = self.shard.metrics();
        metrics.suppressed.get(&why).copied().unwrap_or(0)
    }
}

/// A client by number.
fn client(number: usize) -> SocketAddr {
    let ip = Ipv4Addr::from_bits(0x0a00_0000 + number as u32);
    SocketAddr::from((ip, 2_000))
}

/// Goal: ERROR 5 is a courtesy, and no tool to make the server send: so many a second.
#[test]
fn strangers_are_told_so_often() {
    let mut lab = Lab::new();
    let allowed = u64::from(STRANGER_ERRORS_PER_SECOND);
    for second in 1..=3 {
        for number in 0..2 * STRANGER_ERRORS_PER_SECOND as usize {
            lab.ack(client(number), 7);
        }
        lab.settle();
        let told = lab.shard.metrics().errors_sent.get("5").copied();
        assert_eq!(told, Some(second * allowed));
        assert_eq!(lab.suppressed(Suppressed::Stranger), second * allowed);
        lab.pass(Duration::from_secs(1));
    }
}

/// Goal: finished transfers are remembered, but only so many: the oldest is forgotten for the newest.
#[test]
fn finished_transfers_are_remembered_up_to_a_bound() {
    let mut lab = Lab::new();
    let count = LINGERING_MAX + BATCH;
    for first in (0..count).step_by(BATCH) {
        let batch = first..count.min(first + BATCH);
        batch
            .clone()
            .for_each(|number| lab.ask(client(number), Opcode::Rrq, b"short"));
        lab.settle();
        batch.for_each(|number| lab.ack(client(number), 1));
        lab.settle();
    }
    let complete = lab.shard.metrics().ended.get("complete").copied();
    assert_eq!(complete, Some(count as u64 + 1));
    assert_eq!(lab.shard.len(), LINGERING_MAX);
    // A late copy of its last ACK: the first is a stranger by now, the last is not.
    lab.ack(client(0), 1);
    lab.ack(client(count - 1), 1);
    lab.settle();
    assert_eq!(lab.shard.metrics().errors_sent.get("5"), Some(&1));
    lab.pass(LINGER_READ * 2);
    assert!(lab.shard.is_empty());
}

/// Goal: a server that drains stays a while for the client that did not hear its last ACK, and for no
/// other that has finished.
#[test]
fn a_draining_server_stays_for_repeats_of_the_last_block() {
    let mut lab = Lab::new();
    lab.ask(client(1), Opcode::Rrq, b"short");
    lab.settle();
    lab.ack(client(1), 1);
    lab.settle();
    lab.shard.drain();
    assert!(lab.shard.is_idle(), "who has read a file has all of it");

    let mut lab = Lab::new();
    let last = [0, 3, 0, 1, b'x'];
    lab.ask(client(1), Opcode::Wrq, b"new");
    lab.settle();
    lab.network.inject(client(1), lab.answers, &last);
    lab.settle();
    lab.shard.drain();
    let acks = |lab: &Lab| lab.network.sent(lab.server).acks;
    assert_eq!(acks(&lab), 2);
    lab.pass(DRAIN_LINGER - Duration::from_millis(10));
    assert!(!lab.shard.is_idle());
    lab.network.inject(client(1), lab.answers, &last);
    lab.settle();
    assert_eq!(acks(&lab), 3, "acknowledged again");
    lab.pass(Duration::from_millis(20));
    assert!(lab.shard.is_idle());
}

/// Goal: who sends errors does not decide how many series the counters have.
#[test]
fn error_codes_beyond_the_standards_share_a_label() {
    let mut lab = Lab::new();
    let codes = (0..20).chain([255, 256, 32_768, u16::MAX]);
    for (number, code) in codes.enumerate() {
        lab.ask(client(number), Opcode::Rrq, b"long");
        lab.settle();
        lab.error(client(number), code);
        lab.settle();
    }
    let metrics = lab.shard.metrics();
    let labels: Vec<&str> = metrics.errors_received.keys().copied().collect();
    assert_eq!(
        labels,
        ["0", "1", "2", "3", "4", "5", "6", "7", "8", "other"]
    );
    assert_eq!(metrics.errors_received["other"], 11 + 4);
    assert_eq!(metrics.ended["peer_error"], 24);
}

/// Datagrams that one round sends at the most.
const ROUND_MAX: u64 = 512;

/// Goal: a crowd that waits for the same blocks does not keep the shard from looking what has arrived.
/// Method: they all become ready at once; in one round, some are served, and the rest in the next.
#[test]
fn a_crowd_is_served_in_rounds() {
    let mut lab = Lab::new();
    let crowd = 2 * ROUND_MAX as usize - 100;
    (0..crowd).for_each(|number| lab.ask(client(number), Opcode::Rrq, b"long"));
    // All are open and wait for the frames, which nobody has made yet.
    lab.arrive();
    lab.turn();
    lab.turn();
    assert_eq!(lab.shard.len(), crowd);
    let sent = |lab: &Lab| lab.network.sent(lab.server).data;
    let before = sent(&lab);
    while lab.store.run_next() {}
    lab.turn();
    assert_eq!(sent(&lab) - before, ROUND_MAX);
    assert_eq!(
        lab.shard.next_wake(),
        Some(Instant::ZERO),
        "there is more to do at once"
    );
    lab.turn();
    assert_eq!(sent(&lab) - before, crowd as u64);
}

/// Datagrams in a round that make it a busy one, and rounds in a row that may keep timers waiting.
const BUSY: usize = 40;
const BUSY_ROUNDS_MAX: usize = 32;

/// Goal: while much arrives, timers wait for what may be among it, but not for ever.
#[test]
fn timers_wait_for_a_crowd_but_not_for_long() {
    for busy in [false, true] {
        let mut lab = Lab::new();
        lab.ask(client(1), Opcode::Rrq, b"long");
        lab.settle();
        let repeated = |lab: &Lab| lab.shard.metrics().retransmissions;
        assert_eq!(repeated(&lab), 0);
        let mut rounds = 0;
        let due = lab.network.now() + Patience::DEFAULT.lockstep_floor * 2;
        lab.network.advance(due);
        while repeated(&lab) == 0 {
            if busy {
                // To the listening port, where it is passed over.
                for number in 0..BUSY {
                    lab.network.inject(client(number), SERVER, &[0, 9]);
                }
                lab.arrive();
            }
            lab.turn();
            rounds += 1;
            assert!(rounds <= BUSY_ROUNDS_MAX, "the timer was not looked at");
        }
        assert_eq!(rounds > 1, busy, "{rounds} rounds");
    }
}

/// Goal: who repeats its request for ever has one of them kept, and one entry among the timers for it.
/// Method: amid a transfer, then while the disk publishes an upload, which holds the judgement up.
#[test]
fn repeated_requests_are_kept_once() {
    const REPEATS: usize = 1_000;
    // The transfer's own deadline, as it was before it moved and as it is, and the request that is kept.
    const TIMERS_MAX: usize = 4;
    let mut lab = Lab::new();
    lab.ask(client(1), Opcode::Rrq, b"long");
    lab.settle();
    lab.ack(client(1), 1);
    lab.settle();
    for _ in 0..REPEATS {
        lab.ask(client(1), Opcode::Rrq, b"long");
        lab.arrive();
        lab.turn();
    }
    assert_eq!(
        lab.suppressed(Suppressed::RepeatedRequest),
        REPEATS as u64,
        "amid the transfer"
    );
    assert!(lab.shard.holdings().timers <= TIMERS_MAX);

    let mut lab = Lab::new();
    lab.ask(client(1), Opcode::Wrq, b"new");
    lab.settle();
    lab.network
        .inject(client(1), lab.answers, &[0, 3, 0, 1, b'x']);
    lab.arrive();
    lab.turn();
    for _ in 0..REPEATS {
        lab.ask(client(1), Opcode::Wrq, b"new");
        lab.arrive();
        lab.turn();
        // The disk does nothing all the while.
        let later = lab.network.now() + Duration::from_millis(10);
        lab.network.advance(later);
        lab.turn();
        assert!(lab.shard.holdings().timers <= TIMERS_MAX);
    }
    assert_eq!(lab.shard.len(), 1, "it is not replaced meanwhile");
    lab.settle();
    assert_eq!(lab.shard.metrics().ended.get("complete"), Some(&2));
}

/// Goal: who waits for room in the queue to send is given up at the idle deadline, however long there is none.
/// Method: the queue is full, and the first in it has the longest of times.
#[test]
fn transfers_that_wait_for_room_end_at_their_deadline() {
    let mut lab = Lab::new();
    let patient = b"\0\x01short\0octet\0timeout\x00255\0";
    lab.network.inject(client(0), SERVER, patient);
    lab.settle();
    lab.network.set_weather(Weather {
        full: 1.0,
        ..Weather::FAIR
    });
    lab.ack(client(0), 0);
    lab.settle();
    // Nothing but the queue is waited for: the file was read before.
    for number in 1..10 {
        lab.ask(client(number), Opcode::Rrq, b"short");
    }
    lab.settle();
    let idle = Patience::DEFAULT.idle;
    lab.pass(idle - Duration::from_secs(1));
    assert_eq!(lab.shard.len(), 10);
    lab.pass(Duration::from_secs(2));
    assert_eq!(lab.shard.len(), 1);
    lab.pass(Duration::from_secs(2 * 255));
    assert!(lab.shard.is_empty());
}

/// Goal: one address, forged or not, cannot have all the places of those who have yet to prove themselves.
#[test]
fn one_address_has_its_share_of_the_unproven() {
    let mut lab = Lab::new();
    let most = UNVALIDATED_PER_PREFIX_MAX as usize;
    let greedy = |number: usize| SocketAddr::from(([10, 9, 9, 9], 2_000 + number as u16));
    for first in (0..most + BATCH).step_by(BATCH) {
        for number in first..(most + BATCH).min(first + BATCH) {
            lab.ask(greedy(number), Opcode::Rrq, b"long");
        }
        lab.settle();
    }
    assert_eq!(lab.shard.metrics().unvalidated, most as u64);
    let evicted = lab.shard.metrics().ended.get("evicted").copied();
    assert_eq!(evicted, Some(BATCH as u64));
    // Another's request goes beside them.
    lab.ask(client(1), Opcode::Rrq, b"long");
    lab.settle();
    assert_eq!(lab.shard.metrics().unvalidated, most as u64 + 1);
    lab.pass(Patience::DEFAULT.idle + Duration::from_secs(1));
    assert!(lab.shard.is_empty());
}

/// Goal: requests to write that are refused leave nothing, not even in a count.
/// Method: more of them than there may be uploads, to a name that exists; then one that is well.
#[test]
fn refused_uploads_are_forgotten() {
    let mut lab = Lab::new();
    let count = UPLOADS_MAX + 44;
    for number in 0..count {
        lab.ask(client(number), Opcode::Wrq, b"long");
        lab.settle();
    }
    lab.pass(Patience::DEFAULT.idle);
    assert_eq!(lab.shard.holdings(), Holdings::default());
    let told = lab.shard.metrics().errors_sent.get("6").copied();
    assert_eq!(told, Some(count as u64));
    lab.ask(client(count), Opcode::Wrq, b"new");
    lab.settle();
    assert_eq!(lab.shard.holdings().uploads, 1);
}

/// Goal: who waits for our disk is not taken for a client that has begun anew, whatever copies of its request
/// the network brings meanwhile.
/// Method: the disk stands still when the first blocks are to be read, and a copy comes so late that it counts.
#[test]
fn a_slow_disk_is_no_new_beginning() {
    const REQUEST: &[u8] = b"\0\x01image\0octet\0windowsize\x004\0";
    let mut lab = Lab::new();
    lab.network.inject(client(1), SERVER, REQUEST);
    lab.settle();
    lab.ack(client(1), 0);
    lab.arrive();
    lab.turn();
    assert_eq!(lab.shard.holdings().waiting, 1, "the disk has been asked");
    let stand_still = |lab: &mut Lab, time: Duration| {
        let until = lab.network.now() + time;
        while lab.network.now() < until {
            lab.network
                .advance(lab.network.now() + Duration::from_millis(10));
            lab.turn();
        }
    };
    stand_still(&mut lab, LATE_COPY_MAX * 2);
    lab.network.inject(client(1), SERVER, REQUEST);
    stand_still(&mut lab, LATE_COPY_MAX * 2);
    assert_eq!(lab.shard.metrics().ended.get("replaced"), None);
    let before = lab.network.sent(lab.server);
    while lab.store.run_next() {}
    lab.turn();
    let after = lab.network.sent(lab.server);
    assert_eq!(after.data - before.data, 4, "the first window");
    lab.ack(client(1), 4);
    lab.settle();
    lab.pass(Duration::from_secs(1));
    assert_eq!(lab.shard.metrics().ended.get("replaced"), None);
}

/// Octets of an upload that may wait for the disk, besides a piece that it has been given to write.
const BACKLOG_OCTETS_MAX: u64 = 1 << 20;
const CHUNK_OCTETS: u64 = 256 << 10;

/// Goal: an upload does not fill the memory when the disk stands still: ACKs wait for it, and go on with it.
#[test]
fn acknowledgements_wait_for_the_disk() {
    const BLOCK: u64 = 1_024;
    let mut lab = Lab::new();
    let request = b"\0\x02new\0octet\0blksize\x001024\0";
    lab.network.inject(client(1), SERVER, request);
    lab.settle();
    let acks = |lab: &Lab| lab.network.sent(lab.server).acks;
    let before = acks(&lab);
    let most = (BACKLOG_OCTETS_MAX + CHUNK_OCTETS) / BLOCK;
    for block in 1..=most + 10 {
        let header = wire::write_data_header(WireBlock(block as u16));
        let data = [&header[..], &[7; BLOCK as usize]].concat();
        lab.network.inject(client(1), lab.answers, &data);
        lab.arrive();
        lab.turn();
        let acknowledged = acks(&lab) - before;
        // The block that fills the room has no ACK either.
        assert_eq!(acknowledged, block.min(most - 1), "block {block}");
    }
    lab.settle();
    assert_eq!(acks(&lab) - before, most, "the disk works again");
}

/// Goal: what the kernel refuses to send is lost on the way to the protocol: it is repeated as often as that, and
/// not tried over and over.
#[test]
fn a_send_that_fails_is_a_datagram_that_is_lost() {
    let mut lab = Lab::new();
    lab.network.set_weather(Weather {
        forbidden: true,
        ..Weather::FAIR
    });
    lab.ask(client(1), Opcode::Rrq, b"short");
    lab.settle();
    let failed = |lab: &Lab| lab.shard.metrics().send_errors.values().sum::<u64>();
    assert_eq!(failed(&lab), 1);
    lab.pass(Duration::from_millis(900));
    assert_eq!(failed(&lab), 1);
    lab.pass(Duration::from_millis(200));
    assert_eq!(failed(&lab), 2);
    lab.network.set_weather(Weather::FAIR);
    let before = lab.network.sent(lab.server).data;
    lab.pass(Duration::from_secs(2));
    assert_eq!(lab.network.sent(lab.server).data - before, 1);
    lab.ack(client(1), 1);
    lab.settle();
    assert_eq!(lab.shard.metrics().ended.get("complete"), Some(&2));
}
