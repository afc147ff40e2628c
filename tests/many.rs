//! Large numbers: thousands of transfers in a handful of descriptors, many shards at one port, a file whose
//! length exceeds 32 bits.

// What a process holds is Linux's to tell.
#![cfg(target_os = "linux")]

mod common;

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use bootstorm::metrics::Metrics;
use bootstorm::server::Server;
use common::binary::{Binary, Engine, on_both_engines};
use common::peer::{self, DATA, ERROR, Peer, RRQ, number, oack, opcode, request, until};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};

on_both_engines! {
    shards_at_one_port_begin_together
    shards_at_one_port_end_together
    shards_at_one_port_are_cut_short_together
}

/// Transfers that are open at the same time.
const TRANSFERS: usize = 10_000;
/// Of them, how many act before any of them waits for its answer: their answers fit every queue.
const BATCH: usize = 100;
/// Most descriptors that a server with one shard and one address has: sockets, rings, wakers, signals, a file.
const SERVER_DESCRIPTORS_MAX: usize = 24;
/// Shards at one port, and their clients: there are shards with nothing to do, wherever the kernel puts the clients.
const SHARDS: &str = "16";
const CLIENTS: usize = 12;
/// Descriptors are counted for the whole process, so one test runs at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Goal: an open transfer costs no descriptor, and no client gets another's octets. Method: each client has
/// its own socket; all of them are in the middle of a file before the first may go on.
#[test]
fn ten_thousand_transfers_at_once() {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    if !descriptors_allowed(TRANSFERS + 200) {
        return;
    }
    let root = tempfile::tempdir().expect("a directory");
    let files: Vec<Vec<u8>> = (0..10).map(|seed| peer::octets(seed, 2_100)).collect();
    for (number, file) in files.iter().enumerate() {
        fs::write(root.path().join(number.to_string()), file).expect("a file");
    }
    let before = descriptors();
    let (server, address) = peer::serve(root.path());

    let mut clients: Vec<(Peer, Vec<u8>)> = (0..TRANSFERS)
        .map(|_| (Peer::new(address), Vec::new()))
        .collect();
    each(
        &mut clients,
        |number, (peer, _)| {
            let name = (number % files.len()).to_string();
            let options = [("blksize", "512"), ("tsize", "0")];
            peer.send(&request(RRQ, name.as_bytes(), &options));
        },
        |(peer, _)| assert_eq!(oack(&peer.receive()), ["blksize=512", "tsize=2100"]),
    );
    assert_eq!(metrics(&server).active(), TRANSFERS as u64);
    for block in 1..=5 {
        each(
            &mut clients,
            |_, (peer, _)| peer.ack(block - 1),
            |(peer, contents)| {
                let packet = next_data(peer, block);
                contents.extend_from_slice(&packet[4..]);
            },
        );
        assert_eq!(metrics(&server).active(), TRANSFERS as u64);
        let taken = descriptors() - before - TRANSFERS;
        assert!(taken <= SERVER_DESCRIPTORS_MAX, "{taken} descriptors");
    }
    for (number, (peer, contents)) in clients.iter().enumerate() {
        peer.ack(5);
        assert!(*contents == files[number % files.len()], "client {number}");
    }
    until("all have ended", || metrics(&server).active() == 0);
    assert_eq!(
        metrics(&server).ended.get("complete"),
        Some(&(TRANSFERS as u64))
    );
}

/// Goal: a server that starts during a storm loses no client if one port serves all. While its shards open
/// their sockets one after the other, the kernel redistributes datagrams with each, so no request may be
/// answered that came before the last was open. Method: clients that repeat their requests from before the
/// start until they are answered.
fn shards_at_one_port_begin_together(engine: Engine) {
    const ASKS_AGAIN: Duration = Duration::from_millis(1);
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let root = tempfile::tempdir().expect("a directory");
    let file = peer::octets(1, 5_000);
    fs::write(root.path().join("file"), &file).expect("a file");
    // The one socket that the clients know before there is a server.
    let taken = Peer::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let address = taken.socket.local_addr().expect("an address");
    drop(taken);
    let read = || {
        let mut peer = Peer::new(address);
        let first = loop {
            peer.send(&request(RRQ, b"file", &[]));
            if let Some(packet) = peer.receive_within(ASKS_AGAIN) {
                break packet;
            }
        };
        assert_eq!((opcode(&first), number(&first)), (DATA, 1), "{first:?}");
        peer.ack(1);
        let rest = peer.rest(512, 2).expect("the same shard goes on");
        [&first[4..], &rest].concat()
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..4 * CLIENTS).map(|_| scope.spawn(read)).collect();
        let listen = address.to_string();
        let server = Binary::start(
            engine,
            root.path(),
            &["--listen", &listen, "--single-port", "--workers", SHARDS],
        );
        for client in clients {
            assert!(client.join().expect("it reads all of it") == file);
        }
        // One that is answered by two shards has left one of them waiting.
        let accepted = "tftp_requests_total{op=\"read\",result=\"accepted\"}";
        assert_eq!(server.metrics().value(accepted), 4 * CLIENTS as u64);
    });
}

/// Goal: a drain keeps every transfer if one port serves all. The kernel distributes datagrams among the
/// sockets of a port by number, so a shard that closed its socket early would misdirect the others'
/// datagrams. Method: more shards than clients, which read on slowly while the server drains.
fn shards_at_one_port_end_together(engine: Engine) {
    const BLOCKS: u16 = 40;
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let root = tempfile::tempdir().expect("a directory");
    let file = peer::octets(1, usize::from(BLOCKS) * 512 - 1);
    fs::write(root.path().join("file"), &file).expect("a file");
    let server = Binary::start(engine, root.path(), &["--single-port", "--workers", SHARDS]);
    let mut clients = begun(&server, CLIENTS);
    server.signal(Signal::TERM);
    until("it drains", || server.log().contains("draining"));
    for block in 2..=BLOCKS {
        each(
            &mut clients,
            |_, (peer, _)| peer.ack(block - 1),
            |(peer, contents)| contents.extend_from_slice(&next_data(peer, block)[4..]),
        );
    }
    for (number, (peer, contents)) in clients.iter().enumerate() {
        assert!(*contents == file, "client {number}");
        peer.ack(BLOCKS);
    }
    // With the last transfer, shards end that have been idle all the while.
    let (status, said) = server.ended();
    assert!(status.success(), "{said}");
}

/// Goal: shards that wait for the others' transfers sleep meanwhile. Method: count how often they wait. Each
/// question wakes them, and one iteration of the loop may follow.
#[test]
fn shards_that_wait_for_others_sleep() {
    const QUESTIONS: u64 = 10;
    const WAITS_PER_QUESTION_MAX: u64 = 4;
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let root = tempfile::tempdir().expect("a directory");
    fs::write(root.path().join("file"), [b'x'; 600]).expect("a file");
    let mut options = peer::options(root.path());
    options.settings.single_port = true;
    options.workers = 4;
    let server = peer::start(&options);
    let mut peer = Peer::new(server.addresses()[0]);
    peer.send(&request(RRQ, b"file", &[]));
    peer.next_data(1);
    server.drain();
    let waits = || all_metrics(&server).engine.polls;
    let before = waits();
    for _ in 0..QUESTIONS {
        thread::sleep(Duration::from_millis(20));
        waits();
    }
    let more = waits() - before;
    let most = (QUESTIONS + 1) * options.workers as u64 * WAITS_PER_QUESTION_MAX;
    assert!(more <= most, "{more} waits");
    peer.ack(1);
    peer.next_data(2);
    peer.ack(2);
    server.join();
}

/// Goal: shards that wait for each other end when the drain timeout is over.
fn shards_at_one_port_are_cut_short_together(engine: Engine) {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let root = tempfile::tempdir().expect("a directory");
    fs::write(root.path().join("file"), [b'x'; 600]).expect("a file");
    let waits = ["--drain-timeout", "1", "--idle-timeout", "86400"];
    let arguments = [&waits[..], &["--single-port", "--workers", SHARDS]].concat();
    let server = Binary::start(engine, root.path(), &arguments);
    let clients = begun(&server, 1);
    server.signal(Signal::TERM);
    let (status, said) = server.ended();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("1 running transfer was cut short"), "{said}");
    drop(clients);
}

/// Goal: a length beyond 32 bits is reported exactly, and block numbers roll over to 0. Method: a sparse file
/// of 5 GiB whose blocks around the 65,536th identify themselves, read past them in windows.
#[test]
fn a_file_of_five_gibioctets() {
    const LEN: u64 = 5 << 30;
    const WINDOW: u64 = 64;
    const BLOCKS: u64 = 66_048;
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let root = tempfile::tempdir().expect("a directory");
    let file = File::create(root.path().join("large")).expect("a file");
    file.set_len(LEN).expect("a sparse file");
    let marked = |block: u64| block < 4 || (65_530..65_545).contains(&block);
    for block in (1..BLOCKS).filter(|&block| marked(block)) {
        let offset = (block - 1) * 512;
        file.write_all_at(&block.to_be_bytes(), offset)
            .expect("a mark");
    }
    let (_server, address) = peer::serve(root.path());
    let mut peer = Peer::new(address);
    let options = [("tsize", "0"), ("blksize", "512"), ("windowsize", "64")];
    peer.send(&request(RRQ, b"large", &options));
    let answer = peer.receive();
    assert_eq!(
        oack(&answer),
        ["tsize=5368709120", "blksize=512", "windowsize=64"]
    );
    peer.ack(0);
    let mut received = 0;
    while received < BLOCKS {
        let expected = received + 1;
        let packet = next_data(&mut peer, expected as u16);
        assert_eq!(packet.len(), 4 + 512);
        let mark = if marked(expected) { expected } else { 0 };
        assert_eq!(packet[4..12], mark.to_be_bytes(), "block {expected}");
        assert!(
            packet[12..].iter().all(|&octet| octet == 0),
            "block {expected}"
        );
        received = expected;
        if received.is_multiple_of(WINDOW) {
            peer.ack(received as u16);
        }
    }
    peer.send(&peer::error(0, b"enough"));
    let enough = peer::fetch(address, "missing");
    assert_eq!(enough.map_err(|(code, _)| code), Err(1));
}

/// Clients that have the first block of `file`, in lock-step, and what it holds.
fn begun(server: &Binary, count: usize) -> Vec<(Peer, Vec<u8>)> {
    let begin = |_| {
        let mut peer = Peer::new(server.address);
        peer.send(&request(RRQ, b"file", &[]));
        let first = peer.next_data(1);
        (peer, first)
    };
    (0..count).map(begin).collect()
}

/// Has every client act and then wait for the answer, a batch after the other.
fn each(
    clients: &mut [(Peer, Vec<u8>)],
    mut act: impl FnMut(usize, &mut (Peer, Vec<u8>)),
    mut wait: impl FnMut(&mut (Peer, Vec<u8>)),
) {
    let mut number = 0;
    for batch in clients.chunks_mut(BATCH) {
        for client in &mut *batch {
            act(number, client);
            number += 1;
        }
        batch.iter_mut().for_each(&mut wait);
    }
}

/// The DATA packet with this number; what the server repeated while the machine was busy is skipped.
fn next_data(peer: &mut Peer, block: u16) -> Vec<u8> {
    loop {
        let packet = peer
            .receive_within(peer::PATIENCE)
            .unwrap_or_else(|| panic!("no DATA {block}"));
        assert_ne!(opcode(&packet), ERROR, "{}", peer::text(&packet));
        if opcode(&packet) == DATA && number(&packet) == block {
            return packet;
        }
    }
}

/// Whether this process may have so many descriptors, once it has asked; if not, says so.
fn descriptors_allowed(wanted: usize) -> bool {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = Some(wanted as u64);
    let enough = |limit: Option<u64>| limit.is_none() || limit >= wanted;
    if enough(current) {
        return true;
    }
    let raised = Rlimit {
        current: wanted,
        maximum,
    };
    let allowed = enough(maximum) && setrlimit(Resource::Nofile, raised).is_ok();
    if !allowed {
        common::skip("this process may not have that many descriptors");
    }
    allowed
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").expect("proc").count()
}

fn metrics(server: &Server) -> Metrics {
    reports(server).recv().expect("the shard reports")
}

/// The counters of all shards together.
fn all_metrics(server: &Server) -> Metrics {
    let mut total = Metrics::default();
    reports(server)
        .iter()
        .for_each(|metrics| total.merge(&metrics));
    total
}

fn reports(server: &Server) -> mpsc::Receiver<Metrics> {
    let (sender, reports) = mpsc::channel();
    server.report(move |metrics| {
        // The test may have failed meanwhile.
        let _ = sender.send(metrics);
    });
    reports
}
