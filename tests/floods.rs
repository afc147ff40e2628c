//! Floods from hostile peers: half-open requests, forged requests, log lines, stalled transfers. What they
//! cost the server is bounded, on either engine, and the figures are printed: `cargo test --test floods --
//! --nocapture`.

// Every address in 127.0.0.0/8 is this machine's on Linux alone.
#![cfg(target_os = "linux")]

mod common;

use std::fs;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use bootstorm::config::{
    FAILURE_LINES_PER_SECOND, REFUSAL_LINES_PER_SECOND, UNVALIDATED_MAX, UPLOADS_MAX,
};
use common::binary::{Binary, Engine, loopback, on_both_engines};
use common::peer::{
    self, ACK, DATA, Peer, RRQ, WRQ, data, error, number, oack, opcode, request, until,
};

on_both_engines! {
    half_open_requests
    forged_requests
    lines_for_the_log
    transfers_that_stand_still
    readers_that_are_slow
    uploads_that_never_end
    uploads_with_few_descriptors
    requests_to_everybody
}

/// What one test's server repeats is nothing for another's clients to hear, so one test runs at a time.
fn turn() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A client with an address of its own, whose port nobody gets after it.
fn stranger(number: u32, server: &Binary) -> Peer {
    Peer {
        socket: UdpSocket::bind((loopback(number), 0)).expect("a socket"),
        server: server.address,
    }
}

/// Requests that are never followed by anything, each from an address of its own.
const HALF_OPEN: u32 = 100_000;
/// Of them, how many come in a row: as many as every receive queue holds.
const HALF_OPEN_BURST: u32 = 1_000;
/// Most memory that the server may take for them, in octets.
const HALF_OPEN_MEMORY_MAX: u64 = 128 << 20;
/// Reads by real clients before the flood, to compare with.
const FETCHES: u32 = 200;

/// Goal: requests from nonexistent addresses cost a bounded amount, and real clients are served meanwhile.
/// Method: the flood comes as fast as the server can process it, while a client reads a file over and over;
/// how much slower that gets is printed.
fn half_open_requests(engine: Engine) {
    let _turn = turn();
    let root = tempfile::tempdir().expect("a directory");
    let contents = peer::octets(1, 10_000);
    fs::write(root.path().join("good"), &contents).expect("a file");
    let server = Binary::start(engine, root.path(), &["--idle-timeout", "5"]);
    let fetch = || assert!(peer::fetch(server.address, "good").as_ref() == Ok(&contents));
    let began = Instant::now();
    (0..FETCHES).for_each(|_| fetch());
    let calm = began.elapsed() / FETCHES;
    let before = server.resident();

    let over = AtomicBool::new(false);
    let mut most_waiting = 0;
    let (stormy, fetched) = thread::scope(|scope| {
        let real = scope.spawn(|| {
            let (began, mut fetched) = (Instant::now(), 0);
            while !over.load(Ordering::Relaxed) {
                fetch();
                fetched += 1;
            }
            (began.elapsed() / fetched.max(1), fetched)
        });
        let forged = request(RRQ, b"good", &[("blksize", "1428"), ("tsize", "0")]);
        for number in 0..HALF_OPEN {
            stranger(number, &server).send(&forged);
            if number % HALF_OPEN_BURST == 0 {
                fetch();
                let waiting = server.metrics().value("tftp_unvalidated_transfers");
                assert!(waiting <= UNVALIDATED_MAX as u64, "{waiting}");
                most_waiting = waiting.max(most_waiting);
            }
        }
        over.store(true, Ordering::Relaxed);
        real.join().expect("all were served")
    });
    assert!(fetched > 0);
    assert!(
        most_waiting > 0,
        "nobody is counted who has yet to prove itself"
    );
    let metrics = server.metrics();
    let accepted = metrics.value("tftp_requests_total{op=\"read\",result=\"accepted\"}");
    let grown = server.resident().saturating_sub(before);
    println!(
        "{engine}: {HALF_OPEN} half-open requests; a real client takes {calm:.1?} before and {stormy:.1?} meanwhile, {:.1} times as long ({fetched} \
         reads); {} KiB of memory more",
        stormy.as_secs_f64() / calm.as_secs_f64(),
        grown >> 10,
    );
    assert!(accepted >= u64::from(HALF_OPEN), "{accepted}");
    assert!(grown <= HALF_OPEN_MEMORY_MAX, "{grown} octets");
    fetch();
    until("all of them are given up", || {
        server.metrics().value("tftp_unvalidated_transfers") == 0
    });
}

/// Datagrams that a forged request may draw, and with `--strict`.
const FORGED_DATAGRAMS_MAX: usize = 4;
const FORGED_DATAGRAMS_MAX_STRICT: usize = 2;
/// Octets of the longest of them: a block and its header.
const FORGED_OCTETS_MAX: usize = 516;
/// How often each is sent.
const FORGED_REPEATS: usize = 50;

/// Goal: what a forged request draws is bounded in datagrams and octets, however often it is repeated.
/// Method: the victim receives it all and sends nothing; the figures are printed for each kind of request.
fn forged_requests(engine: Engine) {
    let _turn = turn();
    let root = tempfile::tempdir().expect("a directory");
    fs::write(root.path().join("f"), [b'x'; 100_000]).expect("a file");
    for strict in [false, true] {
        let mut arguments = vec!["--write", "create", "--retransmit-floor", "50"];
        arguments.extend(strict.then_some("--strict"));
        let server = Binary::start(engine, root.path(), &arguments);
        let large = [("blksize", "65464"), ("windowsize", "65535")];
        let soon = [("utimeout", "10000")];
        let every = [
            ("blksize", "1428"),
            ("tsize", "0"),
            ("timeout", "1"),
            ("windowsize", "64"),
        ];
        let kinds = [
            ("read", request(RRQ, b"f", &[])),
            ("read, large", request(RRQ, b"f", &large)),
            ("read, soon", request(RRQ, b"f", &soon)),
            ("read, every option", request(RRQ, b"f", &every)),
            ("read of nothing", request(RRQ, b"n", &[])),
            ("write", request(WRQ, b"w", &[])),
            ("write, every option", request(WRQ, b"v", &every)),
            ("malformed", b"\0\x01f".to_vec()),
        ];
        let victims: Vec<Peer> = kinds.iter().map(|_| Peer::new(server.address)).collect();
        for (victim, (_, forged)) in victims.iter().zip(&kinds) {
            victim.send(forged);
        }
        // A request that is refused at once is answered each time: one small datagram for one.
        for _ in 1..FORGED_REPEATS {
            for (victim, (name, forged)) in victims.iter().zip(&kinds) {
                if !matches!(*name, "read of nothing" | "malformed") {
                    victim.send(forged);
                }
            }
        }
        until("every transfer is given up", || {
            server.metrics().active() == 0
        });
        for (mut victim, (name, forged)) in victims.into_iter().zip(kinds) {
            let mut drawn = Vec::new();
            while let Some(datagram) = victim.receive_within(Duration::from_millis(1)) {
                drawn.push(datagram.len());
            }
            let octets: usize = drawn.iter().sum();
            println!(
                "{engine}{}: {name}: a request of {} octets draws {} datagrams, {octets} octets: {:.1} times as many",
                if strict { " --strict" } else { "" },
                forged.len(),
                drawn.len(),
                octets as f64 / forged.len() as f64
            );
            let most = if strict {
                FORGED_DATAGRAMS_MAX_STRICT
            } else {
                FORGED_DATAGRAMS_MAX
            };
            assert!((1..=most).contains(&drawn.len()), "{name}: {drawn:?}");
            assert!(
                drawn.iter().all(|&len| len <= FORGED_OCTETS_MAX),
                "{name}: {drawn:?}"
            );
            // Only a block without options is longer than what drew it.
            let options = name.contains(',');
            assert!(
                !options || drawn.iter().all(|&len| len <= forged.len()),
                "{name}: {drawn:?}"
            );
        }
    }
}

/// Requests that are refused, and as many that are malformed.
const REFUSED: usize = 3_000;
/// Transfers that their clients end by an error.
const FAILED: usize = 1_000;

/// Goal: log lines cannot fill the disk; omitted lines are counted. Method: as many lines as can be provoked,
/// compared with the limit for the seconds that it took.
fn lines_for_the_log(engine: Engine) {
    let _turn = turn();
    let root = tempfile::tempdir().expect("a directory");
    fs::write(root.path().join("file"), [b'x'; 2_000]).expect("a file");
    let server = Binary::start(engine, root.path(), &[]);
    let began = Instant::now();
    for _ in 0..FAILED {
        let mut client = Peer::new(server.address);
        client.send(&request(RRQ, b"file", &[]));
        client.next_data(1);
        client.ack(1);
        client.next_data(2);
        client.send(&error(0, b"enough"));
    }
    until("all have ended", || server.metrics().active() == 0);
    let mut client = Peer::new(server.address);
    let mut refused = 0;
    let mut provoke = || {
        for provocation in [request(RRQ, b"missing", &[]), b"\0\x01never ends".to_vec()] {
            client.send(&provocation);
            assert_eq!(opcode(&client.receive()), peer::ERROR);
            client.server = server.address;
            refused += 1;
        }
        refused
    };
    for _ in 0..REFUSED {
        provoke();
    }
    // Nothing is left out in silence: a line says how many before it were.
    let said = || {
        let log = server.log();
        let of_refusals =
            |line: &&str| line.contains(" refused peer") || line.contains(" malformed ");
        let unsaid = |line: &str| line.rsplit_once("unsaid=")?.1.trim().parse::<usize>().ok();
        let lines = log.lines().filter(of_refusals);
        lines.fold((0, 0), |(said, in_all), line| {
            (said + 1, in_all + 1 + unsaid(line).unwrap_or(0))
        })
    };
    until("every refusal is accounted for", || provoke() == said().1);
    // A budget is filled up once a second.
    let seconds = began.elapsed().as_secs() as usize + 2;
    let (said, in_all) = said();
    let failed = server.log().matches("outcome=\"peer_error\"").count();
    println!(
        "{engine}: {in_all} requests refused leave {said} lines, {FAILED} transfers failed leave {failed}, in {seconds} s"
    );
    assert!((1..=seconds * REFUSAL_LINES_PER_SECOND as usize).contains(&said));
    assert!((1..=seconds * FAILURE_LINES_PER_SECOND as usize).contains(&failed));
}

/// Transfers that their clients leave in the middle.
const STANDING: usize = 10_000;
/// Memory that each may take, and what may be left of it all, in octets.
const STANDING_MEMORY_MAX: u64 = 2 << 10;
const STANDING_MEMORY_LEFT: u64 = STANDING as u64 * STANDING_MEMORY_MAX;

/// Goal: transfers with silent clients are gone after `--idle-timeout`, and hold little until then.
fn transfers_that_stand_still(engine: Engine) {
    let _turn = turn();
    let root = tempfile::tempdir().expect("a directory");
    fs::write(root.path().join("file"), peer::octets(1, 10_000)).expect("a file");
    let server = Binary::start(engine, root.path(), &["--idle-timeout", "10"]);
    assert!(peer::fetch(server.address, "file").is_ok());
    server.metrics();
    let (before, descriptors) = (server.resident(), server.descriptors());
    for number in 0..STANDING {
        let mut client = stranger(number as u32, &server);
        client.send(&request(
            RRQ,
            b"file",
            &[("blksize", "1428"), ("windowsize", "4")],
        ));
        assert_eq!(opcode(&client.receive()), peer::OACK);
        client.ack(0);
        assert_eq!(opcode(&client.receive()), DATA);
    }
    let (peak, running) = (server.resident(), server.metrics().active());
    assert!(
        server.descriptors() <= descriptors + 2,
        "a transfer has no descriptor"
    );
    until("all are given up", || server.metrics().active() == 0);
    let metrics = server.metrics();
    let timed_out = metrics.value("tftp_transfers_ended_total{outcome=\"timed_out\"}");
    // A port that its client has closed may be somebody else's by now, who wants nothing of it and says so.
    let disowned = metrics.value("tftp_transfers_ended_total{outcome=\"peer_error\"}");
    assert_eq!(timed_out + disowned, STANDING as u64);
    assert!(disowned < STANDING as u64 / 100, "{disowned}");
    assert!(server.transfers().is_empty());
    let after = server.resident();
    println!(
        "{engine}: {running} transfers stand still; {} KiB before, {} KiB with them, {} KiB after",
        before >> 10,
        peak >> 10,
        after >> 10
    );
    assert!(
        peak - before.min(peak) <= STANDING_MEMORY_LEFT,
        "{before} to {peak}"
    );
    assert!(
        after - before.min(after) <= STANDING_MEMORY_LEFT,
        "{before} to {after}"
    );
    assert!(peer::fetch(server.address, "file").is_ok());
}

/// Readers, each at another place of a file so much longer than the frame cache.
const READERS: u16 = 12;
const CACHE: u64 = 4 << 20;
/// A stretch of the file that is kept as one, and its blocks.
const EXTENT: u64 = bootstorm::store::EXTENT_OCTETS;
const BLKSIZE: u16 = 8_192;

/// Goal: slow readers, each at another position, make the server hold no more frames than the cache allows.
fn readers_that_are_slow(engine: Engine) {
    let _turn = turn();
    let root = tempfile::tempdir().expect("a directory");
    let contents = peer::octets(1, (EXTENT * u64::from(READERS)) as usize);
    fs::write(root.path().join("file"), &contents).expect("a file");
    let cache = CACHE.to_string();
    let server = Binary::start(
        engine,
        root.path(),
        &["--frame-cache", &cache, "--max-blksize", "8192"],
    );
    let blocks = (EXTENT / u64::from(BLKSIZE)) as u16;
    let mut readers = Vec::new();
    for reader in 0..READERS {
        let mut peer = Peer::new(server.address);
        let blksize = BLKSIZE.to_string();
        peer.send(&request(RRQ, b"file", &[("blksize", &blksize)]));
        assert_eq!(oack(&peer.receive()), [format!("blksize={BLKSIZE}")]);
        let stop = reader * blocks + blocks / 2;
        for block in 0..stop {
            peer.ack(block);
            peer.next_data(block + 1);
        }
        readers.push((peer, stop));
    }
    let frames = server.metrics().value("tftp_frame_cache_bytes");
    println!(
        "{engine}: {READERS} slow readers, {} KiB of frames",
        frames >> 10
    );
    assert!(frames <= CACHE, "{frames} octets of frames");
    // Slow, but served.
    for (peer, at) in &mut readers {
        peer.ack(*at);
        let payload = peer.next_data(*at + 1);
        let start = usize::from(*at) * usize::from(BLKSIZE);
        assert!(payload == contents[start..start + usize::from(BLKSIZE)]);
    }
}

/// Goal: uploads, which have their own buffers and descriptors, are limited; a client that comes when there
/// are too many is let in once there are fewer.
fn uploads_that_never_end(engine: Engine) {
    let _turn = turn();
    let root = tempfile::tempdir().expect("a directory");
    let server = Binary::start(engine, root.path(), &["--write", "create"]);
    let begin = |number: usize| {
        let peer = Peer::new(server.address);
        peer.send(&request(WRQ, format!("upload-{number}").as_bytes(), &[]));
        peer
    };
    let mut running: Vec<Peer> = (0..UPLOADS_MAX).map(begin).collect();
    for peer in &mut running {
        peer.next_ack(0);
        assert_ne!(peer.server.port(), server.address.port());
        // Who has proved to be there has all the time of `--idle-timeout`.
        peer.send(&data(1, &[0; 512]));
        peer.next_ack(1);
    }
    let mut late = begin(UPLOADS_MAX);
    let full = || {
        server
            .metrics()
            .value("tftp_suppressed_total{reason=\"full\"}")
    };
    until("it is passed over", || full() == 1);
    until("the log names the limit", || {
        server.log().contains("limit=\"uploads_max\"")
    });
    assert_eq!(
        server
            .metrics()
            .value("tftp_transfers_active{op=\"write\"}"),
        UPLOADS_MAX as u64
    );
    // A reader is nobody's rival.
    assert_eq!(
        peer::fetch(server.address, "none").map_err(|(code, _)| code),
        Err(1)
    );
    running[0].send(&error(0, b"never mind"));
    late.send(&request(WRQ, b"late", &[]));
    let answer = loop {
        if let Some(answer) = late.receive_within(Duration::from_millis(100)) {
            break answer;
        }
        late.send(&request(WRQ, b"late", &[]));
    };
    assert_eq!((opcode(&answer), number(&answer)), (ACK, 0));
}

/// Goal: uploads leave descriptors for those who read. Method: more of them than the process may have descriptors are
/// begun and left alone, and none of many files has been opened before.
fn uploads_with_few_descriptors(engine: Engine) {
    const DESCRIPTORS: usize = 256;
    if common::require("prlimit").is_none() {
        return;
    }
    let _turn = turn();
    let root = tempfile::tempdir().expect("a directory");
    let limited = ["prlimit", &format!("--nofile={DESCRIPTORS}")];
    let arguments = ["--write", "create", "--workers", "2"];
    let server = Binary::start_under(&limited, engine, root.path(), &arguments);
    let idle = server.descriptors();
    let begun: Vec<Peer> = (0..2 * DESCRIPTORS)
        .map(|number| {
            let peer = Peer::new(server.address);
            peer.send(&request(WRQ, format!("upload-{number}").as_bytes(), &[]));
            peer
        })
        .collect();
    until("half of the descriptors are taken by uploads", || {
        let metrics = server.metrics();
        metrics.value("tftp_transfers_active{op=\"write\"}") >= DESCRIPTORS as u64 / 5
    });
    for number in 0..40 {
        let name = format!("file-{number}");
        fs::write(root.path().join(&name), &name).expect("a file");
        let fetched = peer::fetch(server.address, &name);
        assert_eq!(fetched.ok().as_deref(), Some(name.as_bytes()));
    }
    // Those files are held for the next who asks.
    assert!(server.descriptors() <= idle + DESCRIPTORS / 2 + 40 + 8);
    drop(begun);
}

/// Goal: a broadcast request is not answered (RFC 1123 §4.2.3.4); otherwise many servers would answer one
/// request, even a forged one.
fn requests_to_everybody(engine: Engine) {
    let _turn = turn();
    let root = tempfile::tempdir().expect("a directory");
    fs::write(root.path().join("file"), "file").expect("a file");
    let server = Binary::start(engine, root.path(), &["--listen", "0.0.0.0:0"]);
    let at = |ip: [u8; 4]| (ip, server.address.port()).into();
    let mut caller = Peer::new(at([127, 0, 0, 1]));
    caller.socket.set_broadcast(true).expect("may broadcast");
    for name in [&b"file"[..], b"none"] {
        caller
            .socket
            .send_to(&request(RRQ, name, &[]), at([127, 255, 255, 255]))
            .expect("sent");
    }
    let passed_over = || {
        server
            .metrics()
            .value("tftp_suppressed_total{reason=\"broadcast\"}")
    };
    until("it arrives", || passed_over() == 2);
    assert_eq!(caller.receive_within(Duration::from_millis(1)), None);
    assert_eq!(server.metrics().sent(), 0);
    // To the server alone, it is answered.
    caller.send(&request(RRQ, b"file", &[]));
    assert_eq!(caller.receive(), b"\0\x03\0\x01file");
}
