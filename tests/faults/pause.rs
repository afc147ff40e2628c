//! A server that stands still, and clocks that do not do what is expected of them.

use std::fs;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::common::binary::{Binary, Engine, on_both_engines};
use crate::common::peer::{self, Peer, RRQ, WRQ, data, number, oack, request};
use crate::works;

on_both_engines! {
    a_pause_longer_than_every_timeout
    a_queue_that_overflows
    a_clock_far_from_zero
}

/// Clients that read, and as many that write.
const CLIENTS: usize = 8;
/// Blocks of each file.
const BLOCKS: u16 = 20;
/// How long the server stands still: longer than its clients' timeout, and than its own for them.
const PAUSE: Duration = Duration::from_millis(2_500);

/// Goal: SIGSTOP and SIGCONT, as of a machine that is suspended or a debugger, cost nobody a transfer.
/// Method: reads and writes are half done when the server stops; clients repeat their last packet, as
/// they would each second, and go on when it does.
fn a_pause_longer_than_every_timeout(engine: Engine) {
    let root = tempfile::tempdir().expect("a directory");
    let contents = peer::octets(1, 512 * usize::from(BLOCKS) - 1);
    fs::write(root.path().join("file"), &contents).expect("a file");
    let server = Binary::start(engine, root.path(), &["--write", "create"]);

    let mut readers: Vec<(Peer, Vec<u8>)> = Vec::new();
    let mut writers: Vec<Peer> = Vec::new();
    for client in 0..CLIENTS {
        let mut reader = Peer::new(server.address);
        reader.send(&request(RRQ, b"file", &[("timeout", "1")]));
        assert_eq!(oack(&reader.receive()), ["timeout=1"]);
        let mut arrived = Vec::new();
        for block in 0..BLOCKS / 2 {
            reader.ack(block);
            arrived.extend(reader.next_data(block + 1));
        }
        readers.push((reader, arrived));

        let mut writer = Peer::new(server.address);
        let name = format!("copy-{client}");
        writer.send(&request(WRQ, name.as_bytes(), &[("timeout", "1")]));
        assert_eq!(oack(&writer.receive()), ["timeout=1"]);
        for block in 1..=BLOCKS / 2 {
            put_block(&mut writer, &contents, block);
        }
        writers.push(writer);
    }

    server.stop();
    // Nobody answers, however often they ask.
    for _ in 0..2 {
        readers
            .iter()
            .for_each(|(reader, _)| reader.ack(BLOCKS / 2 - 1));
        for writer in &writers {
            writer.send(&data(BLOCKS / 2, &contents[block_of(BLOCKS / 2)]));
        }
        assert_eq!(readers[0].0.receive_within(PAUSE / 2), None);
    }
    server.go_on();

    for (mut reader, mut arrived) in readers {
        reader.ack(BLOCKS / 2);
        for block in BLOCKS / 2 + 1..=BLOCKS {
            arrived.extend(reader.next_data(block));
            reader.ack(block);
        }
        assert!(arrived == contents);
    }
    for (client, mut writer) in writers.into_iter().enumerate() {
        for block in BLOCKS / 2 + 1..=BLOCKS {
            put_block(&mut writer, &contents, block);
        }
        let copy = fs::read(root.path().join(format!("copy-{client}")));
        assert!(copy.expect("it is there") == contents);
    }
}

/// Where a block lies in the file.
fn block_of(block: u16) -> std::ops::Range<usize> {
    let start = 512 * (usize::from(block) - 1);
    start..(start + 512).min(512 * usize::from(BLOCKS) - 1)
}

/// Sends a block, and waits until it is acknowledged.
fn put_block(writer: &mut Peer, contents: &[u8], block: u16) {
    writer.send(&data(block, &contents[block_of(block)]));
    writer.next_ack(block);
}

/// Datagrams, and their size in octets: far more than any receive queue holds.
const FLOOD: usize = 1_000;
const FLOOD_OCTETS: usize = 60_000;

/// Goal: what the kernel drops because the server was too slow is counted where operators look, and
/// clients that were dropped get served when they ask again.
fn a_queue_that_overflows(engine: Engine) {
    let root = tempfile::tempdir().expect("a directory");
    fs::write(root.path().join("file"), "file").expect("a file");
    let server = Binary::start(engine, root.path(), &[]);
    server.stop();
    let noise = Peer::new(server.address);
    for _ in 0..FLOOD {
        noise.send(&[0; FLOOD_OCTETS]);
    }
    // This one finds the queue full.
    let mut client = Peer::new(server.address);
    client.send(&request(RRQ, b"file", &[]));
    server.go_on();
    let answer = loop {
        if let Some(answer) = client.receive_within(Duration::from_millis(100)) {
            break answer;
        }
        client.send(&request(RRQ, b"file", &[]));
    };
    assert_eq!(answer, b"\0\x03\0\x01file");
    client.ack(1);
    let metrics = server.metrics();
    let dropped = metrics.value("tftp_receive_drops_total");
    let arrived = metrics.received();
    assert!(dropped > 0, "none of {FLOOD} was dropped");
    assert!(dropped + arrived >= FLOOD as u64, "{dropped} and {arrived}");
}

/// Seconds that the monotonic clock is ahead: thirty years.
const AHEAD: &str = "1000000000";

/// Goal: deadlines mean the same wherever the monotonic clock stands. Method: a time namespace in which
/// the machine has been up for thirty years. (That the other clock, which can be stepped, is never asked,
/// `layering` sees to.)
fn a_clock_far_from_zero(engine: Engine) {
    let ahead = [
        "unshare",
        "--time",
        "--monotonic",
        AHEAD,
        "--boottime",
        AHEAD,
    ];
    let wrapper = [&ahead[..], &["--"]].concat();
    if !works(&[&wrapper[..], &["true"]].concat()) {
        return;
    }
    let root = tempfile::tempdir().expect("a directory");
    let contents = peer::octets(2, 100_000);
    fs::write(root.path().join("file"), &contents).expect("a file");
    let server = Binary::start_under(&wrapper, engine, root.path(), &["--idle-timeout", "2"]);
    // A deadline that comes, one that does not, and a transfer that is given up in time.
    let mut slow = Peer::new(server.address);
    slow.send(&request(RRQ, b"file", &[("timeout", "1")]));
    assert_eq!(oack(&slow.receive()), ["timeout=1"]);
    slow.ack(0);
    assert_eq!(number(&slow.receive()), 1);
    assert_eq!(number(&slow.receive()), 1, "repeated");
    assert!(peer::fetch(server.address, "file").as_ref() == Ok(&contents));
    peer::until("it is given up", || server.metrics().active() == 0);
}

/// Goal: SIGHUP, SIGPIPE and a terminal that goes away do not end a server.
#[test]
fn signals_that_end_nothing() {
    let root = tempfile::tempdir().expect("a directory");
    fs::write(root.path().join("file"), "file").expect("a file");
    let mut server = Binary::start("auto", root.path(), &[]);
    for signal in [
        Signal::HUP,
        Signal::PIPE,
        Signal::USR1,
        Signal::CHILD,
        Signal::WINCH,
    ] {
        server.signal(signal);
        thread::yield_now();
        assert_eq!(peer::fetch(server.address, "file"), Ok(b"file".to_vec()));
    }
    assert!(server.is_alive());
}
