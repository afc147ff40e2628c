//! Limits of the process: descriptors, memory, lengths of files, and a kernel that gives no ring.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use bootstorm::engine::mio::MioEngine;
use bootstorm::engine::{Bind, Engine as _, RECEIVE_BUFFER_OCTETS};

use crate::common::binary::{Binary, Engine, on_both_engines};
use crate::common::peer::{self, ACK, ERROR, Peer, RRQ, WRQ, data, number, oack, opcode, request};
use crate::common::{require, skip};
use crate::works;

on_both_engines! {
    a_short_queue_for_requests
    out_of_descriptors
    out_of_address_space
    an_upload_beyond_the_limit_of_lengths
}

/// Descriptors left to the server for files.
const DESCRIPTORS_LEFT: usize = 6;
/// Files read one after the other: far more than that.
const FILES: usize = 40;
/// Uploads at a time: more than that too.
const UPLOADS: usize = 12;
/// How long they wait for an answer before they ask again.
const ASKS_AGAIN: Duration = Duration::from_millis(20);

/// Goal: who may not have the queue that a storm takes is told so once, with what to do about it. Method: without
/// the capability the kernel grants what everybody may have.
fn a_short_queue_for_requests(engine: Engine) {
    let allowed = fs::read_to_string("/proc/sys/net/core/rmem_max").expect("a limit");
    if allowed.trim().parse::<usize>().expect("a number") > RECEIVE_BUFFER_OCTETS / 2 {
        return skip("everybody may have a long receive queue here");
    }
    let wrapper = [
        "setpriv",
        "--bounding-set=-net_admin",
        "--inh-caps=-net_admin",
    ];
    if !works(&[&wrapper[..], &["true"]].concat()) {
        return;
    }
    let root = tempfile::tempdir().expect("a directory");
    let arguments = ["--workers", "2"];
    let server = Binary::start_under(&wrapper, engine, root.path(), &arguments);
    let log = server.log();
    assert_eq!(
        log.matches("queue for requests is short").count(),
        1,
        "{log}"
    );
    assert!(
        log.contains("rmem_max=8388608") && log.contains("CAP_NET_ADMIN"),
        "{log}"
    );

    let may_have = MioEngine::new().and_then(|mut engine| {
        let bind = Bind::to(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let socket = engine.open(bind)?;
        engine.receive_buffer(socket)
    });
    if may_have.expect("a socket") < RECEIVE_BUFFER_OCTETS {
        return skip("this process lacks CAP_NET_ADMIN");
    }
    let log = Binary::start(engine, root.path(), &arguments).log();
    assert!(!log.contains("queue for requests is short"), "{log}");
}

/// Goal: EMFILE costs nobody a file. Method: so few descriptors that files which were read before must
/// be let go of, and not all uploads find one; those ask again, as clients do, until they do.
fn out_of_descriptors(engine: Engine) {
    if require("prlimit").is_none() {
        return;
    }
    let root = tempfile::tempdir().expect("a directory");
    let files: Vec<Vec<u8>> = (0..FILES as u64)
        .map(|seed| peer::octets(seed, 3_000))
        .collect();
    for (number, file) in files.iter().enumerate() {
        fs::write(root.path().join(number.to_string()), file).expect("a file");
    }
    let taken = Binary::start(engine, root.path(), &[]).descriptors();
    let limit = format!("--nofile={0}:{0}", taken + DESCRIPTORS_LEFT);
    let wrapper = ["prlimit", &limit];
    let server = Binary::start_under(&wrapper, engine, root.path(), &["--write", "create"]);
    for (number, file) in files.iter().enumerate() {
        let arrived = peer::fetch(server.address, &number.to_string());
        assert!(arrived.as_ref() == Ok(file), "{number}");
    }

    let mut waiting: Vec<(Peer, Vec<u8>)> = (0..UPLOADS)
        .map(|number| {
            let name = format!("upload-{number}");
            let peer = Peer::new(server.address);
            (peer, request(WRQ, name.as_bytes(), &[]))
        })
        .collect();
    waiting.iter().for_each(|(peer, wrq)| peer.send(wrq));
    let mut refused = 0;
    while !waiting.is_empty() {
        waiting.retain_mut(|(peer, wrq)| {
            let Some(answer) = peer.receive_within(ASKS_AGAIN) else {
                refused += 1;
                peer.send(wrq);
                return true;
            };
            assert_eq!((opcode(&answer), number(&answer)), (ACK, 0), "{answer:?}");
            true
        });
        // All that were let in now have a descriptor each; they finish, and others get it.
        waiting.retain_mut(|(peer, _)| {
            if peer.server == server.address {
                return true;
            }
            peer.send(&data(1, b"uploaded"));
            peer.next_ack(1);
            false
        });
    }
    assert_ne!(refused, 0, "there were descriptors for all");
    for number in 0..UPLOADS {
        let path = root.path().join(format!("upload-{number}"));
        assert_eq!(fs::read(path).expect("it is there"), b"uploaded");
    }
    assert!(server.log().contains("Too many open files"));
    assert!(peer::fetch(server.address, "0").as_ref() == Ok(&files[0]));
}

/// Address space that the server is given, in octets: enough for its threads and some of its files.
const ADDRESS_SPACE: u64 = 1 << 29;
/// Octets of files that do not fit in it, and the block size that they are read with.
const LONG: u64 = 3 << 28;
const BLKSIZE: usize = 65_464;

/// Goal: frames are kept within the memory that the process may have, and not only within the machine's.
/// Method: little address space, by ulimit, and more octets read than fit.
fn out_of_address_space(engine: Engine) {
    if require("prlimit").is_none() {
        return;
    }
    let root = tempfile::tempdir().expect("a directory");
    for name in ["long", "other"] {
        let file = File::create(root.path().join(name)).expect("a file");
        file.set_len(LONG / 2).expect("a sparse file");
    }
    let limit = format!("--as={ADDRESS_SPACE}");
    let arguments = ["--max-blksize", "65464"];
    let mut server = Binary::start_under(&["prlimit", &limit], engine, root.path(), &arguments);
    for name in ["long", "other"] {
        let mut peer = Peer::new(server.address);
        let blksize = BLKSIZE.to_string();
        let options = [("blksize", blksize.as_str()), ("windowsize", "1")];
        peer.send(&request(RRQ, name.as_bytes(), &options));
        assert_eq!(
            oack(&peer.receive()),
            [format!("blksize={blksize}"), "windowsize=1".to_owned()]
        );
        peer.ack(0);
        let arrived = peer.rest(BLKSIZE, 1).expect("the file");
        assert_eq!(arrived.len() as u64, LONG / 2);
    }
    assert!(server.is_alive());
}

/// Goal: RLIMIT_FSIZE, which a process is told of by a signal that kills it, ends an upload and not the server.
fn an_upload_beyond_the_limit_of_lengths(engine: Engine) {
    if require("prlimit").is_none() {
        return;
    }
    let root = tempfile::tempdir().expect("a directory");
    let wrapper = ["prlimit", "--fsize=65536"];
    let mut server = Binary::start_under(&wrapper, engine, root.path(), &["--write", "create"]);
    let refused = peer::store(server.address, "long", &[b'x'; 100_000]);
    assert_eq!(refused.map_err(|(code, _)| code), Err(3));
    assert_eq!(
        peer::store(server.address, "short", &[b'x'; 60_000]),
        Ok(())
    );
    assert!(server.is_alive());
    let names: Vec<_> = fs::read_dir(root.path()).expect("the root").collect();
    assert_eq!(names.len(), 1, "{names:?}");
}

/// Has the kernel answer one system call with EPERM, then becomes another program. Perl comes with every
/// Debian, and needs no `unsafe` here. Arguments: the numbers of prctl(2) and of the system call.
const DENY: &str = r"
    my ($prctl, $denied) = (shift, shift);
    # Load the number of the system call; if it is the one, EPERM; else all is allowed.
    my $filter = pack('SCCL' x 4,
        0x20, 0, 0, 0,  0x15, 0, 1, $denied,  0x06, 0, 0, 0x50001,  0x06, 0, 0, 0x7fff0000);
    my $program = pack('S x6 P', 4, $filter);
    # PR_SET_NO_NEW_PRIVS, then PR_SET_SECCOMP with SECCOMP_MODE_FILTER.
    syscall($prctl, 38, 1, 0, 0, 0) == 0 && syscall($prctl, 22, 2, $program) == 0 or die $!;
    exec @ARGV or die $!;";

/// Goal: where io_uring is refused, as in containers, the server takes the other engine and says so in
/// one line; who insists on io_uring is told why there is none.
#[test]
fn a_kernel_that_gives_no_ring() {
    if require("perl").is_none() {
        return;
    }
    let (prctl, setup) = (
        libc::SYS_prctl.to_string(),
        libc::SYS_io_uring_setup.to_string(),
    );
    let wrapper = ["perl", "-e", DENY, &prctl, &setup];
    let root = tempfile::tempdir().expect("a directory");
    fs::write(root.path().join("file"), "file").expect("a file");
    let server = Binary::start_under(&wrapper, "auto", root.path(), &["--workers", "4"]);
    assert_eq!(peer::fetch(server.address, "file"), Ok(b"file".to_vec()));
    let log = server.log();
    let said: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("io_uring"))
        .collect();
    assert_eq!(said.len(), 1, "{log}");
    assert!(
        said[0].contains("engine=\"mio\"") && said[0].contains("not permitted"),
        "{log}"
    );
    let info = server.metrics().sum("tftp_engine_info{engine=\"mio\"");
    assert_eq!(info, 1);

    let insisting = Command::new(wrapper[0])
        .args(&wrapper[1..])
        .arg(env!("CARGO_BIN_EXE_bootstorm"))
        .args(["serve", "--listen", "127.0.0.1:0", "--engine", "uring"])
        .arg(root.path())
        .output()
        .expect("it runs");
    assert_eq!(insisting.status.code(), Some(1));
    let said = String::from_utf8_lossy(&insisting.stderr);
    assert!(said.contains("io_uring is not permitted"), "{said}");
}

/// Goal: a server without a place left for another transfer, of few, says so once and in vain to none.
#[test]
fn a_table_that_is_full() {
    let root = tempfile::tempdir().expect("a directory");
    fs::write(root.path().join("file"), [b'x'; 600]).expect("a file");
    let server = Binary::start("auto", root.path(), &["--max-transfers", "1"]);
    let mut first = Peer::new(server.address);
    first.send(&request(RRQ, b"file", &[("blksize", "100")]));
    first.receive();
    first.ack(0);
    assert_ne!(opcode(&first.receive()), ERROR);
    let mut second = Peer::new(server.address);
    second.send(&request(RRQ, b"file", &[]));
    // Passed over, for the client asks again; the first goes on.
    first.ack(1);
    assert_eq!(number(&first.receive()), 2);
    assert_eq!(
        server
            .metrics()
            .value("tftp_suppressed_total{reason=\"full\"}"),
        1
    );
    assert!(server.log().contains("no room"));
    first.send(&peer::error(0, b"enough"));
    second.send(&request(RRQ, b"file", &[]));
    assert_eq!(number(&second.receive()), 1);
}
