//! Named limits under test: the real shard in simulated time, where a second is exact to the datagram.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bootstorm::config::{
    DRAIN_LINGER, DRAIN_UNVALIDATED, LATE_COPY_MAX, LINGER_READ, LINGERING_MAX,
    OVERTAKING_OCTETS_MAX, STRANGER_ERRORS_PER_SECOND, Settings, UNVALIDATED_AGE_MIN,
    UNVALIDATED_PER_PREFIX_MAX, UPLOADS_MAX,
};
use bootstorm::engine::Bind;
use bootstorm::engine::sim::{Network, NodeId, SimEngine, Weather};
use bootstorm::metrics::Suppressed;
use bootstorm::proto::timing::Patience;
use bootstorm::shard::{Census, Holdings, Operation, Shard};
use bootstorm::simulate::{CLIENT, SERVER};
use bootstorm::store::memory::{Contents, Faults, Memory};
use bootstorm::store::{Store, StoreOptions, Writes};
use bootstorm::time::{Duration, Instant};
use bootstorm::wire::{self, Mode, Opcode, WireBlock};

/// Datagrams that a shard takes in one round, and the simulated network holds for it.
const BATCH: usize = 400;
/// Octets of the file, which takes two blocks, of another, which takes one, and of one that takes years.
const LONG: u64 = 700;
const SHORT: u64 = 100;
const ENDLESS: u64 = u64::MAX / 8;
/// And of one whose every block is another.
const IMAGE: u64 = 1 << 20;

/// A server, and clients that are only addresses.
struct Lab {
    network: Network,
    server: NodeId,
    store: Arc<Store>,
    files: Memory,
    shard: Shard<SimEngine>,
    /// Where its answers come from.
    answers: SocketAddr,
}

impl Lab {
    fn new() -> Self {
        Self::with(Settings::default())
    }

    fn with(settings: Settings) -> Self {
        let network = Network::new(1, Weather::FAIR);
        let files = Memory::new(Writes::Create);
        let lengths = [
            (&b"long"[..], LONG),
            (b"short", SHORT),
            (b"text", ENDLESS),
            (b"image", IMAGE),
        ];
        for (name, len) in lengths {
            files.insert(name, Contents::Pattern { seed: 1, len });
        }
        files.set_faults(Faults {
            read_would_block: true,
            ..Faults::default()
        });
        let options = StoreOptions {
            frame_cache_octets: 1 << 20,
            threads: 0,
        };
        let store = Store::new(files.clone(), options).expect("no thread is started");
        let server = network.add_node("S", SERVER.ip(), 1500);
        let engine = network.engine(server);
        let mut shard = Shard::new(engine, store.clone(), Arc::new(settings), Census::default());
        let bind = Bind::to(SERVER);
        shard.listen(bind).expect("the address is free");
        let mut lab = Self {
            network,
            server,
            store,
            files,
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
        self.ask_in(Mode::Octet, client, opcode, name);
    }

    fn ask_in(&self, mode: Mode, client: SocketAddr, opcode: Opcode, name: &[u8]) {
        let mut buffer = [0; 64];
        let request = wire::write_request(&mut buffer, opcode, name, mode);
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

/// Goal: ERROR 5 is a courtesy, and cannot be used to make the server send: it is limited per second.
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

/// Goal: a limited number of finished transfers is remembered: the oldest is dropped for the newest.
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

/// Goal: a draining server waits a while for the client that did not receive its last ACK, and for no other
/// client that has finished.
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

/// Goal: a draining server does not wait for peers that may never have asked; a client that proves to exist
/// is served to the end. Method: two ask and are silent until the drain; then one of them goes on.
#[test]
fn a_draining_server_stays_only_a_while_for_the_unproven() {
    let mut lab = Lab::new();
    let moment = Duration::from_millis(10);
    lab.ask(client(2), Opcode::Rrq, b"long");
    lab.ask(client(3), Opcode::Wrq, b"new");
    lab.settle();
    lab.shard.drain();
    lab.pass(DRAIN_UNVALIDATED / 2);
    assert_eq!(lab.shard.holdings().unvalidated, 2);
    // Asking again proves nothing, nor does a second signal give more time.
    lab.ask(client(3), Opcode::Wrq, b"new");
    lab.ack(client(2), 1);
    lab.shard.drain();
    lab.pass(DRAIN_UNVALIDATED / 2 - moment);
    assert_eq!(lab.shard.holdings().unvalidated, 1);
    lab.pass(2 * moment);
    assert_eq!(lab.shard.holdings().unvalidated, 0);
    assert_eq!(lab.shard.len(), 1);
    assert!(!lab.shard.is_idle());
    lab.ack(client(2), 2);
    lab.settle();
    assert!(lab.shard.is_idle());
    let ended = lab.shard.metrics().ended;
    assert_eq!((ended["unanswered"], ended["complete"]), (1, 2));
    assert!(lab.files.uploads().is_empty());
}

/// Goal: a drain ends as soon as the last client has had its time, although only the shard itself can wake
/// it, and a finished transfer still has one timer. Method: uploads that end before the drain begins, or
/// after.
#[test]
fn a_drain_ends_soon_after_the_last_transfer() {
    const UPLOADS: usize = 100;
    let tick = Duration::from_millis(2);
    for drains_first in [true, false] {
        let mut lab = Lab::new();
        let before = lab.shard.holdings().timers;
        for number in 0..UPLOADS {
            let name = format!("new-{number}");
            lab.ask(client(number), Opcode::Wrq, name.as_bytes());
        }
        lab.settle();
        if drains_first {
            lab.shard.drain();
        }
        let last = [0, 3, 0, 1, b'x'];
        for number in 0..UPLOADS {
            lab.network.inject(client(number), lab.answers, &last);
        }
        lab.settle();
        let ended = lab.network.now();
        // Each transfer's own last deadline passes meanwhile.
        lab.pass(Patience::DEFAULT.lockstep_floor + Duration::from_millis(500));
        assert_eq!(lab.shard.len(), UPLOADS);
        assert_eq!(lab.shard.holdings().timers - before, UPLOADS);
        lab.shard.drain();
        while !lab.shard.is_idle() {
            let wake = lab.shard.next_wake().expect("it wakes by itself");
            lab.network.advance(wake.max(lab.network.now()));
            lab.turn();
            assert!(lab.network.now() <= ended + DRAIN_LINGER + tick);
        }
        assert!(lab.network.now() + tick >= ended + DRAIN_LINGER);
        let wake = lab.shard.next_wake().expect("finished transfers are there");
        assert!(wake > lab.network.now(), "an idle shard sleeps");
    }
}

/// Goal: the count of running transfers is right, whichever way a transfer begins and ends.
#[test]
fn running_transfers_are_counted() {
    let mut lab = Lab::new();
    let counted = |lab: &Lab, reads: u64, writes: u64| {
        let metrics = lab.shard.metrics();
        assert_eq!(
            (metrics.active_reads, metrics.active_writes),
            (reads, writes)
        );
        let listed = lab.shard.all_running(usize::MAX);
        let (listed_reads, listed_writes): (Vec<_>, Vec<_>) = listed
            .iter()
            .partition(|running| running.operation == Operation::Read);
        assert_eq!(listed_reads.len() as u64, reads);
        assert_eq!(listed_writes.len() as u64, writes);
        assert_eq!(lab.shard.is_idle(), reads + writes == 0);
    };
    for number in 1..=4 {
        lab.ask(client(number), Opcode::Rrq, b"short");
    }
    lab.ask(client(5), Opcode::Rrq, b"missing");
    lab.ask(client(6), Opcode::Wrq, b"new");
    lab.ask(client(7), Opcode::Wrq, b"short");
    lab.settle();
    counted(&lab, 4, 1);
    lab.ack(client(1), 1);
    lab.error(client(2), 0);
    // Begun anew with another request.
    lab.ask(client(3), Opcode::Rrq, b"long");
    lab.settle();
    counted(&lab, 2, 1);
    lab.network
        .inject(client(6), lab.answers, &[0, 3, 0, 1, b'x']);
    lab.settle();
    let metrics = lab.shard.metrics();
    assert_eq!((metrics.active_reads, metrics.active_writes), (2, 0));
    lab.pass(Patience::DEFAULT.idle * 2);
    assert!(lab.shard.is_empty());
    counted(&lab, 0, 0);
}

/// Goal: a datagram finds its transfer, whatever those before it in the same wait have done to the table. Method: a
/// client asks, gives up and asks again, another takes its place meanwhile, and others make the table grow.
#[test]
fn what_arrives_together_is_handled_in_order() {
    let mut lab = Lab::new();
    lab.ask(client(0), Opcode::Rrq, b"short");
    lab.error(client(0), 0);
    lab.ask(client(1), Opcode::Rrq, b"long");
    (2..30).for_each(|number| lab.ask(client(number), Opcode::Rrq, b"long"));
    lab.ask(client(0), Opcode::Rrq, b"long");
    lab.settle();
    assert_eq!(lab.shard.metrics().ended.get("peer_error"), Some(&1));
    assert_eq!(lab.shard.all_running(usize::MAX).len(), 30);
    // In one wait each, the answers to both blocks.
    for block in 1..=2 {
        (0..30).for_each(|number| lab.ack(client(number), block));
        lab.settle();
    }
    let complete = lab.shard.metrics().ended.get("complete").copied();
    assert_eq!(complete, Some(30 + 1));
    assert_eq!(lab.suppressed(Suppressed::Stranger), 0);
}

/// Goal: peers that send errors cannot determine how many series the counters have.
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

/// Goal: many clients that wait for the same blocks do not keep the shard from processing received datagrams.
/// Method: all become ready at once; some are served in one round, and the rest in the next.
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

/// Goal: while many datagrams arrive, timers wait for what may be among them, but not for ever.
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

/// Goal: of a client that repeats its request for ever, one request and one timer entry are kept. Method:
/// during a transfer, then while the disk publishes an upload, which delays the decision.
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

/// Goal: a text that takes years to read through occupies the disk only while a client waits for it, and
/// blocks no other client meanwhile. Method: its client says that it leaves, where it asked.
#[test]
fn a_text_whose_reader_has_left_is_left() {
    let mut lab = Lab::new();
    lab.ask_in(Mode::Netascii, client(1), Opcode::Rrq, b"text");
    lab.arrive();
    lab.turn();
    assert!(lab.store.run_next(), "it is read through");
    lab.ask_in(Mode::Netascii, client(2), Opcode::Rrq, b"short");
    lab.arrive();
    lab.turn();
    assert!(lab.store.run_next());
    lab.turn();
    assert_eq!(lab.shard.metrics().requests[&("read", "accepted")], 2);
    lab.network.inject(client(1), SERVER, &[0, 5, 0, 0, 0]);
    lab.network.inject(client(2), SERVER, &[0, 5, 0, 0, 0]);
    lab.arrive();
    lab.turn();
    assert_eq!(lab.shard.metrics().ended["peer_error"], 1);
    assert_eq!(
        lab.suppressed(Suppressed::NotARequest),
        1,
        "it was answered"
    );
    while lab.store.run_next() {}
}

/// Goal: a text is not read through for a client that left without a word, and is for one that still asks.
/// Method: two ask for it, and one of them again.
#[test]
fn a_text_is_read_through_for_those_who_still_ask() {
    let mut lab = Lab::new();
    let idle = Patience::DEFAULT.idle;
    for number in 1..=2 {
        lab.ask_in(Mode::Netascii, client(number), Opcode::Rrq, b"text");
    }
    // The disk is slow all the while.
    let pass = |lab: &mut Lab, time| {
        lab.network.advance(lab.network.now() + time);
        lab.turn();
        lab.store.run_next()
    };
    lab.arrive();
    lab.turn();
    assert!(pass(&mut lab, idle / 2));
    lab.ask_in(Mode::Netascii, client(2), Opcode::Rrq, b"text");
    lab.arrive();
    lab.turn();
    assert!(pass(&mut lab, idle * 3 / 4));
    assert_eq!(lab.shard.len(), 1);
    assert_eq!(lab.shard.metrics().ended["timed_out"], 1);
    assert!(!pass(&mut lab, idle / 2));
    assert!(lab.shard.is_empty());
}

/// Goal: a transfer that waits for room in the send queue ends at the idle deadline, however long there is
/// none. Method: the queue is full, and the first in it has another retransmission timeout than the others.
#[test]
fn transfers_that_wait_for_room_end_at_their_deadline() {
    let mut lab = Lab::new();
    let patient = b"\0\x01short\0octet\0timeout\x0015\0";
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
    assert!(lab.shard.is_empty());
}

/// Goal: one address, forged or not, cannot take all places for peers that are not yet validated; its oldest
/// are evicted for its latest, once they have had the time to be validated.
#[test]
fn one_address_has_its_share_of_the_unproven() {
    let mut lab = Lab::new();
    let most = UNVALIDATED_PER_PREFIX_MAX as usize;
    let greedy = |number: usize| SocketAddr::from(([10, 9, 9, 9], 2_000 + number as u16));
    let ask = |lab: &mut Lab, numbers: std::ops::Range<usize>| {
        for number in numbers {
            lab.ask(greedy(number), Opcode::Rrq, b"long");
        }
        lab.settle();
    };
    for first in (0..most).step_by(BATCH) {
        ask(&mut lab, first..most.min(first + BATCH));
    }
    ask(&mut lab, most..most + BATCH);
    assert_eq!(lab.suppressed(Suppressed::Full), BATCH as u64);
    assert_eq!(lab.shard.metrics().ended.get("evicted"), None);
    lab.pass(UNVALIDATED_AGE_MIN);
    ask(&mut lab, most..most + BATCH);
    assert_eq!(lab.suppressed(Suppressed::Full), BATCH as u64);
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

/// Goal: forged write requests do not lock real ones out: the oldest transfer that is not validated is
/// evicted, and no validated one.
#[test]
fn uploads_that_are_not_proven_make_room() {
    let mut lab = Lab::new();
    let write = |lab: &Lab, number: usize| {
        let name = format!("{number}");
        lab.ask(client(number), Opcode::Wrq, name.as_bytes());
    };
    (0..UPLOADS_MAX).for_each(|number| write(&lab, number));
    lab.settle();
    lab.pass(Duration::from_millis(500));
    let block = [&[0, 3, 0, 1], &[b'x'; 512][..]].concat();
    let acks = |lab: &Lab| lab.network.sent(lab.server).acks;
    for real in UPLOADS_MAX..2 * UPLOADS_MAX {
        let before = acks(&lab);
        write(&lab, real);
        lab.settle();
        lab.network.inject(client(real), lab.answers, &block);
        lab.settle();
        assert_eq!(acks(&lab) - before, 2, "{real} is served at once");
    }
    let evicted = lab.shard.metrics().ended.get("evicted").copied();
    assert_eq!(evicted, Some(UPLOADS_MAX as u64));
    assert_eq!(lab.suppressed(Suppressed::Full), 0);
    // All that are left have proved themselves; a reader is nobody's rival.
    write(&lab, 0);
    lab.ask(client(1), Opcode::Rrq, b"long");
    lab.settle();
    assert_eq!(lab.suppressed(Suppressed::Full), 1);
    assert_eq!(lab.shard.holdings().uploads, UPLOADS_MAX);
    assert_eq!(lab.shard.metrics().unvalidated, 1);
}

/// Requests in each millisecond of a crowd, which acknowledge their answer so many milliseconds later.
const CROWD: usize = 150;
const CROWD_ROUND_TRIP: usize = 10;
/// For how many milliseconds it comes, and how many of it find a place at a time.
const CROWD_TIME: usize = 200;
const CROWD_PLACES: usize = 200;

/// Goal: if there are too few places for many clients, they are served place by place, and none is evicted
/// before its ACK can arrive; forged requests cost the clients the places that they hold, and no more.
/// Method: each client asks once, and its place is freed after each RTT; with forgers, every fifth request is
/// real.
#[test]
fn a_crowd_without_places_is_served_in_turn() {
    for real_in in [1, 5] {
        let mut lab = Lab::with(Settings {
            transfers_max: CROWD_PLACES,
            ..Settings::default()
        });
        let is_real = |number: usize| number.is_multiple_of(real_in);
        let crowd = |moment: usize| moment * CROWD..(moment + 1) * CROWD;
        for moment in 0..CROWD_TIME {
            for number in crowd(moment) {
                lab.ask(client(number), Opcode::Rrq, b"short");
            }
            if let Some(earlier) = moment.checked_sub(CROWD_ROUND_TRIP) {
                for number in crowd(earlier).filter(|&number| is_real(number)) {
                    lab.ack(client(number), 1);
                }
            }
            lab.pass(Duration::from_millis(1));
        }
        let metrics = lab.shard.metrics();
        let ended = |how| metrics.ended.get(how).copied().unwrap_or(0);
        let (complete, evicted) = (ended("complete"), ended("evicted"));
        // Each place serves a client in a round trip, or a forger until it may be pushed out.
        let shortest = CROWD_ROUND_TRIP as u64;
        let held = if real_in == 1 { shortest } else { 60 };
        let expected = (CROWD_PLACES * CROWD_TIME) as u64 / held / real_in as u64 * 3 / 4;
        println!(
            "1 of {real_in} real: {complete} complete, {evicted} pushed out, {} passed over",
            lab.suppressed(Suppressed::Full)
        );
        assert!(complete >= expected, "{complete} of {expected}");
        assert!(real_in > 1 || evicted == 0, "{evicted} pushed out");
    }
}

/// Goal: uploads whose first block never comes make the server hold no more memory than there is for all of
/// them, and an upload served beside them loses nothing but time. Method: the largest windows.
#[test]
fn blocks_that_overtake_others_are_kept_up_to_a_bound() {
    const BLKSIZE: usize = 65_464;
    let mut lab = Lab::with(Settings {
        windowsize_max: u16::MAX,
        blksize_max: Some(BLKSIZE as u16),
        ..Settings::default()
    });
    let wrq = |name: usize| {
        format!("\0\x02{name}\0octet\0blksize\x0065464\0windowsize\x0065535\0").into_bytes()
    };
    let data = |block: u16, len: usize| {
        let [high, low] = block.to_be_bytes();
        [&[0, 3, high, low], &vec![block as u8; len][..]].concat()
    };
    let uploads = 8;
    for number in 0..uploads {
        lab.network.inject(client(number), SERVER, &wrq(number));
    }
    lab.settle();
    let blocks = OVERTAKING_OCTETS_MAX / BLKSIZE;
    for block in 0..blocks {
        let number = block % uploads;
        lab.network.inject(
            client(number),
            lab.answers,
            &data(2 + block as u16, BLKSIZE),
        );
        if block % 16 == 0 {
            lab.settle();
        }
    }
    lab.settle();
    let kept = lab.shard.holdings().kept_octets;
    assert!(kept <= OVERTAKING_OCTETS_MAX, "{kept}");
    assert!(kept > OVERTAKING_OCTETS_MAX - 2 * BLKSIZE, "{kept}");

    // The next is served although there is no room for what it sends too early.
    let late = client(uploads);
    lab.network.inject(late, SERVER, &wrq(uploads));
    lab.settle();
    let mut whole = Vec::new();
    for block in [2, 3, 1, 2, 3] {
        let len = if block == 3 { 5 } else { BLKSIZE };
        lab.network.inject(late, lab.answers, &data(block, len));
        lab.settle();
    }
    for block in 1..=2 {
        whole.extend(vec![block; BLKSIZE]);
    }
    whole.extend([3; 5]);
    let name = uploads.to_string().into_bytes();
    assert!(
        lab.files.uploads().get(&name) == Some(&whole),
        "it is published as it was sent"
    );

    lab.pass(Patience::DEFAULT.idle * 2);
    assert_eq!(
        lab.shard.holdings().kept_octets,
        0,
        "all of it is free again"
    );
}

/// Goal: if the disk is far behind, the server holds no more of a window than the largest that it grants by
/// default. The rest is dropped and retransmitted. Method: the disk does nothing until all is sent.
#[test]
fn blocks_wait_for_the_disk_up_to_a_bound() {
    const BLKSIZE: usize = 65_464;
    const BLOCKS: u16 = 200;
    // What is being written, the backlog, a window, and what came just before each of these was full.
    const OCTETS_MAX: usize = (256 << 10) + (1 << 20) + (64 + 2) * BLKSIZE;
    let mut lab = Lab::with(Settings {
        windowsize_max: u16::MAX,
        blksize_max: Some(BLKSIZE as u16),
        ..Settings::default()
    });
    let wrq = b"\0\x02new\0octet\0blksize\x0065464\0windowsize\x0065535\0";
    lab.network.inject(client(1), SERVER, wrq);
    lab.settle();
    let data = |block: u16| {
        let len = if block == BLOCKS { 7 } else { BLKSIZE };
        let [high, low] = block.to_be_bytes();
        [&[0, 3, high, low], &vec![block as u8; len][..]].concat()
    };
    for block in 1..=BLOCKS {
        lab.network.inject(client(1), lab.answers, &data(block));
        lab.arrive();
        lab.turn();
    }
    let taken = lab.shard.all_running(1)[0].octets as usize;
    assert!(taken <= OCTETS_MAX, "{taken}");
    assert!(taken > OCTETS_MAX - 4 * BLKSIZE, "{taken}");
    lab.settle();
    for block in (taken / BLKSIZE) as u16 + 1..=BLOCKS {
        lab.network.inject(client(1), lab.answers, &data(block));
        lab.settle();
    }
    let whole: Vec<u8> = (1..=BLOCKS)
        .flat_map(|block| data(block).split_off(4))
        .collect();
    assert!(lab.files.uploads().get(&b"new"[..]) == Some(&whole));
}

/// Goal: refused write requests leave nothing, not even in a count. Method: more of them than there may be
/// uploads, to a name that exists; then a valid one.
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

/// Goal: a client that waits for our disk is not taken for a restarted one, whatever copies of its request
/// the network delivers meanwhile.
/// Method: the disk stalls when the first blocks are to be read, and a copy comes so late that it counts.
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

/// Goal: an upload does not fill the memory when the disk stalls: ACKs wait for the disk.
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

/// Goal: a disk that stalls in the middle of a window costs the time that it stalls, and not a datagram. Method: the
/// client only waits, as one without a timer of its own does.
#[test]
fn a_stall_in_a_window_is_no_loss() {
    let mut lab = Lab::new();
    let request = b"\0\x01image\0octet\0blksize\x001428\0windowsize\x0016\0";
    lab.network.inject(client(1), SERVER, request);
    lab.settle();
    // 45 blocks are in the first extent: of the window from 33 on, three are in the next.
    for acked in [0, 16] {
        lab.ack(client(1), acked);
        lab.settle();
    }
    lab.ack(client(1), 32);
    lab.arrive();
    let before = lab.network.sent(lab.server).data;
    let sent = |lab: &Lab| lab.network.sent(lab.server).data - before;
    for _ in 0..400 {
        lab.turn();
        lab.network
            .advance(lab.network.now() + Duration::from_millis(10));
    }
    assert_eq!(sent(&lab), 13, "the disk stalls");
    lab.settle();
    assert_eq!(sent(&lab), 16, "the rest, and nothing again");
    assert_eq!(lab.shard.metrics().retransmissions, 0);
    lab.ack(client(1), 48);
    lab.settle();
    assert_eq!(sent(&lab), 32, "the next window");
}

/// Goal: what is in memory is read while the client receives the window before, not when it is needed; for one client,
/// and no earlier.
#[test]
fn the_next_extent_is_read_while_the_client_is_busy() {
    let mut lab = Lab::new();
    lab.files.set_faults(Faults::default());
    // 45 blocks are in the first extent, and the others in the second.
    let contents = Contents::Pattern {
        seed: 1,
        len: 140 * 1024,
    };
    lab.files.insert(b"two", contents);
    let request = b"\0\x01two\0octet\0blksize\x001428\0windowsize\x0016\0";
    lab.network.inject(client(1), SERVER, request);
    lab.settle();
    let before = lab.files.reads();
    for (acked, reads) in [(0, 1), (16, 2), (32, 2), (48, 2), (64, 2), (80, 2), (96, 2)] {
        lab.ack(client(1), acked);
        lab.settle();
        let read = lab.files.reads() - before;
        assert_eq!(read, reads, "{acked} blocks are acknowledged");
    }
    lab.ack(client(1), 101);
    lab.settle();
    assert_eq!(lab.shard.metrics().ended.get("complete"), Some(&2));
}

/// Goal: a datagram that the kernel refuses to send counts as lost for the protocol: it is retransmitted as
/// often as a lost one, and not tried over and over.
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
