//! Many at once, and a lot of one: thousands of transfers in a handful of descriptors, a file beyond
//! what 32 bits count.

// What a process holds is Linux's to tell.
#![cfg(target_os = "linux")]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

use bootstorm::metrics::Metrics;
use bootstorm::server::Server;
use common::peer::{self, DATA, ERROR, Peer, RRQ, number, oack, opcode, request, until};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Transfers that are open at the same time.
const TRANSFERS: usize = 10_000;
/// Of them, how many act before any of them waits for its answer: their answers fit every queue.
const BATCH: usize = 100;
/// Most descriptors that a server with one shard and one address has: sockets, rings, wakers, signals, a file.
const SERVER_DESCRIPTORS_MAX: usize = 24;
/// Descriptors are counted for the whole process, so one test runs at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Goal: an open transfer costs no descriptor, and none gets another's octets. Method: each client has
/// a socket of its own; all of them are in the middle of a file before the first may go on.
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

/// Goal: a length beyond 32 bits is told exactly, and block numbers start over at 0. Method: a sparse
/// file of 5 GiB whose blocks around the 65,536th say which they are, read past them in windows.
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
    let (sender, reports) = std::sync::mpsc::channel();
    server.report(move |metrics| {
        // The test may have failed meanwhile.
        let _ = sender.send(metrics);
    });
    reports.recv().expect("the shard reports")
}
