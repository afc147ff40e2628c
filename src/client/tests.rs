//! The client against scripted servers over loopback.

use std::net::UdpSocket;
use std::path::Path;
use std::thread;

use super::*;

/// How long a server waits for a datagram before its test fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server that answers each datagram with the next entry of the script, from the port that received it.
fn server(script: Vec<&'static [u8]>) -> (SocketAddr, thread::JoinHandle<Vec<Vec<u8>>>) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let address = socket.local_addr().expect("bound");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let serve = move || {
        let mut heard = Vec::new();
        let mut buffer = [0; 2048];
        for answer in script {
            let (len, peer) = socket.recv_from(&mut buffer).expect("a datagram");
            heard.push(buffer[..len].to_vec());
            socket.send_to(answer, peer).expect("sent");
        }
        heard
    };
    (address, thread::spawn(serve))
}

fn job(servers: Vec<SocketAddr>, operation: Operation, local: &Path) -> Job {
    Job {
        servers,
        operation,
        remote: b"name".to_vec(),
        local: LocalFile::Path(local.to_path_buf()),
        mode: Mode::Octet,
        offer: Offer::Options {
            blksize: Some(512),
            windowsize: Some(1),
            timeout: None,
        },
    }
}

/// Runs a transfer to its end; returns its notes and its result.
fn run(job: Job) -> (Vec<String>, Result<Summary, String>) {
    let mut notes = Vec::new();
    let mut transfer = Transfer::start(job, Arc::default()).expect("started");
    loop {
        match transfer.turn() {
            Ok(Turn::Running(_)) => {}
            Ok(Turn::Note(note)) => notes.push(note.to_string()),
            Ok(Turn::Done(summary)) => return (notes, Ok(summary)),
            Err(failure) => return (notes, Err(failure.to_string())),
        }
    }
}

#[test]
fn without_options_where_the_server_cannot_take_any() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    for refusal in [&b"\0\x05\0\x08no options\0"[..], b"\0\x05\0\x04what?\0"] {
        let (address, server) = server(vec![refusal, b"\0\x03\0\x01octets"]);
        let path = scratch.path().join("file");
        let (notes, result) = run(job(vec![address], Operation::Read, &path));
        assert_eq!(result.expect("complete").octets, 6);
        assert_eq!(std::fs::read(path).expect("written"), b"octets");
        assert_eq!(notes.len(), 1);
        assert!(notes[0].contains("without options"), "{notes:?}");
        let heard = server.join().expect("served");
        assert!(heard[0].len() > heard[1].len());
        assert_eq!(heard[1], b"\0\x01name\0octet\0");
    }
}

#[test]
fn an_answer_that_breaks_the_rules_leads_to_no_options_either() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    // The block size exceeds the requested one: the client sends ERROR 8 and asks again.
    let script: Vec<&[u8]> = vec![b"\0\x06blksize\x009999\0", b"", b"\0\x03\0\x01"];
    let (address, server) = server(script);
    let path = scratch.path().join("file");
    let (notes, result) = run(job(vec![address], Operation::Read, &path));
    assert_eq!(result.expect("complete").octets, 0);
    assert_eq!(notes.len(), 1);
    let heard = server.join().expect("served");
    assert_eq!(heard[1][..4], *b"\0\x05\0\x08");
    assert_eq!(heard[2], b"\0\x01name\0octet\0");
}

#[test]
fn the_next_address_is_tried_where_one_cannot_be_reached() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let (address, server) = server(vec![b"\0\x03\0\x01octets"]);
    // A socket without SO_BROADCAST cannot send to a broadcast address.
    let unreachable = "255.255.255.255:69".parse().expect("an address");
    let path = scratch.path().join("file");
    let (notes, result) = run(job(vec![unreachable, address], Operation::Read, &path));
    assert_eq!(result.expect("complete").server, address);
    assert!(notes[0].contains(&format!("trying {address}")), "{notes:?}");
    server.join().expect("served");
}

#[test]
fn the_next_address_is_tried_where_one_does_not_answer() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let silent = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let silent = (silent.local_addr().expect("bound"), silent);
    let (address, server) = server(vec![b"\0\x03\0\x01octets"]);
    let path = scratch.path().join("file");
    let (notes, result) = run(job(vec![silent.0, address], Operation::Read, &path));
    assert_eq!(result.expect("complete").server, address);
    let expected = format!("no answer from {} in 4 s; trying {address}", silent.0);
    assert_eq!(notes, [expected]);
    server.join().expect("served");
}

/// Goal: a server that has answered may pause for longer than the wait for the next address. Method: the
/// client repeats its ACK every second; the server continues after enough of them.
#[test]
fn the_next_address_is_forgotten_once_one_has_answered() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let paused = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    paused.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let address = paused.local_addr().expect("bound");
    let server = thread::spawn(move || {
        let mut buffer = [0; 512];
        let (_, peer) = paused.recv_from(&mut buffer).expect("a request");
        let oack = b"\0\x06blksize\x00512\0timeout\x001\0";
        paused.send_to(oack, peer).expect("sent");
        for _ in 0..=NEXT_ADDRESS_AFTER.as_secs() + 1 {
            let (len, _) = paused.recv_from(&mut buffer).expect("an acknowledgement");
            assert_eq!(buffer[..len], *b"\0\x04\0\0");
        }
        paused.send_to(b"\0\x03\0\x01octets", peer).expect("sent");
    });
    let nobody = "255.255.255.255:69".parse().expect("an address");
    let path = scratch.path().join("file");
    let mut job = job(vec![address, nobody], Operation::Read, &path);
    job.offer = Offer::Options {
        blksize: Some(512),
        windowsize: None,
        timeout: Some(1),
    };
    let (notes, result) = run(job);
    assert_eq!(result.expect("complete").octets, 6);
    assert!(notes.is_empty(), "{notes:?}");
    server.join().expect("served");
}

#[cfg(target_os = "linux")]
#[test]
fn where_nobody_listens_is_said_at_once() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let path = scratch.path().join("file");
    let mut hosts = vec!["127.0.0.1:0"];
    if UdpSocket::bind("[::1]:0").is_ok() {
        hosts.push("[::1]:0");
    }
    for host in hosts {
        // A port that was free a moment ago.
        let closed = UdpSocket::bind(host).and_then(|socket| socket.local_addr());
        let closed = closed.expect("an address");
        let (_, result) = run(job(vec![closed], Operation::Read, &path));
        let said = result.expect_err("refused");
        assert!(said.contains("no server listens on that port"), "{said}");
        let (address, server) = server(vec![b"\0\x03\0\x01octets"]);
        let (notes, result) = run(job(vec![closed, address], Operation::Read, &path));
        assert_eq!(result.expect("complete").server, address);
        assert!(notes[0].contains("Connection refused"), "{notes:?}");
        server.join().expect("served");
    }
}

#[test]
fn a_refusal_leaves_no_file_and_keeps_the_old_one() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let path = scratch.path().join("file");
    std::fs::write(&path, "old").expect("written");
    let (address, server) = server(vec![b"\0\x05\0\x01gone\0"]);
    let (notes, result) = run(job(vec![address], Operation::Read, &path));
    assert!(notes.is_empty());
    assert!(
        result
            .expect_err("refused")
            .contains("has no file \"name\" (error 1, \"gone\")")
    );
    assert_eq!(std::fs::read(&path).expect("there"), b"old");
    let left = std::fs::read_dir(scratch.path()).expect("listed").count();
    assert_eq!(left, 1);
    server.join().expect("served");
}

#[test]
fn a_length_that_is_not_the_one_announced_is_no_file() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let script: Vec<&[u8]> = vec![b"\0\x06tsize\x007\0", b"\0\x03\0\x01octets"];
    let (address, server) = server(script);
    let path = scratch.path().join("file");
    let (_, result) = run(job(vec![address], Operation::Read, &path));
    assert!(result.expect_err("too short").contains("announced"));
    assert!(!path.exists());
    server.join().expect("served");
}

#[test]
fn what_fails_at_this_end_is_said_before_the_server_is_asked() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let nobody: SocketAddr = "127.0.0.1:9".parse().expect("an address");
    let told = |operation, path: &Path| run(job(vec![nobody], operation, path)).1.expect_err("no");
    let directory = told(Operation::Read, scratch.path());
    assert!(
        directory.contains("it is a directory; name a file in it"),
        "{directory}"
    );
    let nowhere = told(Operation::Read, &scratch.path().join("no/such"));
    assert!(nowhere.contains("create its directory first"), "{nowhere}");
    let missing = told(Operation::Write, &scratch.path().join("none"));
    assert!(missing.contains("No such file or directory"), "{missing}");
    let irregular = told(Operation::Write, Path::new("/dev/null"));
    assert!(irregular.contains("only regular files"), "{irregular}");
}

#[test]
fn a_stopped_transfer_ends_and_leaves_nothing() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let silent = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let address = silent.local_addr().expect("bound");
    let stop = Arc::new(Stop::default());
    let path = scratch.path().join("file");
    let job = job(vec![address], Operation::Read, &path);
    let mut transfer = Transfer::start(job, stop.clone()).expect("started");
    let stopper = thread::spawn(move || {
        // Only once the request was sent.
        silent.recv_from(&mut [0; 512]).expect("a request");
        stop.stop();
    });
    let failure = loop {
        if let Err(failure) = transfer.turn() {
            break failure;
        }
    };
    assert!(matches!(failure, Failure::Interrupted));
    stopper.join().expect("stopped");
    drop(transfer);
    assert_eq!(
        std::fs::read_dir(scratch.path()).expect("listed").count(),
        0
    );
}

/// Goal: the last ACK is repeated to a server that missed it. Method: the server repeats its block; the
/// client checks once that has been sent.
#[test]
fn a_lost_last_ack_is_said_again() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let address = socket.local_addr().expect("bound");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let (repeated, is_repeated) = std::sync::mpsc::channel();
    let server = thread::spawn(move || {
        let mut buffer = [0; 512];
        let (_, peer) = socket.recv_from(&mut buffer).expect("a request");
        let oack = b"\0\x06blksize\x00512\0windowsize\x004\0";
        socket.send_to(oack, peer).expect("sent");
        let mut heard = |expected: &[u8]| {
            let (len, _) = socket.recv_from(&mut buffer).expect("an ACK");
            assert_eq!(buffer[..len], *expected);
        };
        heard(b"\0\x04\0\0");
        for _ in 0..2 {
            socket.send_to(b"\0\x03\0\x01octets", peer).expect("sent");
            repeated.send(()).expect("the client is there");
            heard(b"\0\x04\0\x01");
        }
    });
    let path = scratch.path().join("file");
    let mut job = job(vec![address], Operation::Read, &path);
    job.offer = Offer::Options {
        blksize: Some(512),
        windowsize: Some(4),
        timeout: None,
    };
    let mut transfer = Transfer::start(job, Arc::default()).expect("started");
    loop {
        match transfer.turn().expect("no failure") {
            Turn::Done(summary) => break assert_eq!(summary.octets, 6),
            Turn::Running(_) => {}
            Turn::Note(note) => panic!("{note}"),
        }
    }
    assert_eq!(std::fs::read(&path).expect("there already"), b"octets");
    assert_eq!(is_repeated.iter().take(2).count(), 2);
    transfer.linger();
    server.join().expect("served");
}

/// Goal: only reads whose last block may be repeated soon, or that saw a loss, linger, and none for long.
#[test]
fn how_long_a_complete_transfer_stays() {
    use crate::proto::negotiate::accept;
    use crate::wire::Options;

    let millis = Duration::from_millis;
    let ending = |operation, oack, retransmissions, round_trip| {
        let wanted = Wanted {
            windowsize: Some(4),
            timeout: Some(5),
            ..Wanted::default()
        };
        stay(&Ending {
            operation,
            peer: "192.0.2.1:69".parse().expect("an address"),
            filename: Box::default(),
            mode: Mode::Octet,
            params: accept(Options::new(oack), &wanted).expect("agreed").params,
            octets: 0,
            blocks: 1,
            retransmissions,
            round_trip: Some(millis(round_trip)),
            elapsed: Duration::ZERO,
            outcome: Outcome::Complete,
            text: Vec::new(),
            flaw: None,
            oack: None,
            first_block: None,
            duplicates: 0,
        })
    };
    let (lockstep, windows, timed) = (&b""[..], &b"windowsize\x004\0"[..], &b"timeout\x005\0"[..]);
    let read = |oack, retransmissions, round_trip| {
        ending(Operation::Read, oack, retransmissions, round_trip)
    };
    assert_eq!(read(windows, 0, 0), STAY_MIN);
    assert_eq!(read(windows, 0, 30), millis(120));
    assert_eq!(read(windows, 0, 300), STAY_MAX);
    assert_eq!(read(windows, 1, 0), millis(1_250));
    assert_eq!(read(lockstep, 0, 30), Duration::ZERO);
    assert_eq!(read(lockstep, 1, 30), millis(1_250));
    assert_eq!(read(timed, 0, 30), Duration::ZERO);
    assert_eq!(read(timed, 1, 30), millis(5_250));
    assert_eq!(ending(Operation::Write, windows, 1, 30), Duration::ZERO);
}

#[test]
fn the_window_fits_an_ordinary_receive_buffer() {
    let open = Offer::Options {
        blksize: None,
        windowsize: None,
        timeout: None,
    };
    let loopback: SocketAddr = "127.0.0.1:69".parse().expect("an address");
    let wanted = open.wanted(loopback);
    let (blksize, windowsize) = (
        wanted.blksize.expect("asked"),
        wanted.windowsize.expect("asked"),
    );
    assert!(blksize >= BLKSIZE_DEFAULT);
    assert!(windowsize >= 1 && u32::from(blksize) * u32::from(windowsize) <= WINDOW_OCTETS_MAX);
    let ethernet = Offer::Options {
        blksize: Some(1468),
        windowsize: None,
        timeout: None,
    };
    assert_eq!(ethernet.wanted(loopback).windowsize, Some(WINDOWSIZE_MAX));
    assert_eq!(Offer::Nothing.wanted(loopback), Wanted::default());
}
