//! Hostile input for the program on each engine: attacks that broke other TFTP servers, and plain noise.
//!
//! Each case ends with the same checks: a good request is answered, nothing from outside the root was
//! disclosed, no answer reveals where the root is, and the server holds as many resources as before.

// What a process holds is Linux's to tell.
#![cfg(target_os = "linux")]

mod common;

use std::ffi::OsStr;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use common::binary::{Binary, Engine, on_both_engines};
use common::peer::{
    self, ACK, DATA, ERROR, OACK, Peer, RRQ, WRQ, ack, data, error, number, oack, opcode, request,
    text, until,
};
use rustix::fs::{CWD, FileType, Mode, RenameFlags, mknodat, renameat_with};
use tempfile::TempDir;

on_both_engines! {
    datagrams_too_short
    requests_that_break_off
    only_requests_are_answered
    names_too_long
    the_longest_datagrams
    modes_of_all_kinds
    names_that_are_more_than_names
    errors_to_a_live_transfer
    nonsense_to_a_live_transfer
    options_beyond_measure
    numbers_that_are_none
    the_longest_oack_holds_only_what_was_asked
    ways_out_of_the_root
    what_is_no_file
    a_directory_swapped_for_a_link
    noise
}

/// What no answer may hold.
const SECRET: &[u8] = b"not for everybody";
/// Random datagrams sent to a server that has to survive them.
const NOISE_DATAGRAMS: usize = 100_000;
/// Of them, how many are sent between two good requests.
const NOISE_BURST: usize = 100;
/// Requests while a directory is swapped for a link and back.
const SWAP_REQUESTS: usize = 500;
/// How long a transfer may stand still in these tests, in seconds, so that what noise began is over soon.
const IDLE: &str = "1";
/// Memory that may have grown, in octets: tables that were once full stay large, and the allocator keeps some.
const MEMORY_HELD: u64 = 32 << 20;

/// A server with secrets around its root.
struct Target {
    server: Binary,
    address: SocketAddr,
    scratch: TempDir,
    good: Vec<u8>,
    descriptors: usize,
    threads: usize,
    memory: u64,
}

impl Target {
    fn new(engine: Engine) -> Self {
        let scratch = tempfile::tempdir().expect("a directory");
        let at = |name: &str| scratch.path().join(name);
        let good = peer::octets(7, 5_000);
        for folder in ["srv", "srv/sub", "srv-not"] {
            fs::create_dir(at(folder)).expect("a directory");
        }
        for file in ["secret", "srv-not/secret"] {
            fs::write(at(file), SECRET).expect("a file");
        }
        for file in ["srv/good", "srv/sub/good"] {
            fs::write(at(file), &good).expect("a file");
        }
        for (link, to) in [
            ("srv/out", PathBuf::from("../secret")),
            ("srv/out-absolute", at("secret")),
            ("srv/up", PathBuf::from("..")),
            ("srv/sub/up", PathBuf::from("../..")),
            ("srv/loop", PathBuf::from("loop")),
            ("srv/proc", PathBuf::from("/proc/self/root")),
        ] {
            symlink(to, at(link)).expect("a link");
        }
        let arguments = ["--write", "create", "--idle-timeout", IDLE];
        let server = Binary::start(engine, &at("srv"), &arguments);
        let mut target = Self {
            address: server.address,
            server,
            scratch,
            good,
            descriptors: 0,
            threads: 0,
            memory: 0,
        };
        // Once before counting: what is made at first use is there from then on.
        target.answers_well();
        target.server.metrics();
        target.descriptors = target.server.descriptors();
        target.threads = target.server.threads();
        target.memory = target.server.resident();
        target
    }

    /// A file in the root.
    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.scratch.path().join("srv").join(name)
    }

    fn peer(&self) -> Peer {
        Peer::new(self.address)
    }

    fn answers_well(&self) {
        assert!(peer::fetch(self.address, "good").as_ref() == Ok(&self.good));
    }

    /// A transfer that is under way: DATA 1 has come, and was not yet acknowledged.
    fn transfer(&self) -> (Peer, Vec<u8>) {
        let mut peer = self.peer();
        peer.send(&request(RRQ, b"good", &[]));
        let first = peer.receive();
        assert_eq!((opcode(&first), number(&first)), (DATA, 1));
        (peer, first[4..].to_vec())
    }

    /// Sends `octets` and says what came back at first, if anything.
    ///
    /// There is one shard, so whatever it has to say without a file, it has said once a request
    /// behind it has been answered.
    fn provoke(&self, octets: &[u8]) -> Option<Vec<u8>> {
        let mut peer = self.peer();
        peer.send(octets);
        self.answers_well();
        let answer = peer.receive_within(Duration::from_millis(1));
        if let Some(answer) = &answer {
            self.inspect(answer);
        }
        answer
    }

    fn expect_silence(&self, octets: &[u8]) {
        let answer = self.provoke(octets);
        assert_eq!(answer, None, "to {}", shown(octets));
    }

    /// An ERROR of one of these codes.
    fn expect_error(&self, octets: &[u8], codes: &[u16]) {
        let answer = self.ask(octets);
        assert!(
            opcode(&answer) == ERROR && codes.contains(&number(&answer)),
            "{} to {}",
            shown(&answer),
            shown(octets)
        );
    }

    /// Sends a request that has to be answered.
    fn ask(&self, octets: &[u8]) -> Vec<u8> {
        let mut peer = self.peer();
        peer.send(octets);
        let answer = peer
            .receive_within(peer::PATIENCE)
            .unwrap_or_else(|| panic!("no answer to {}", shown(octets)));
        self.inspect(&answer);
        // Whatever it began is over.
        peer.send(&error(0, b"enough"));
        self.answers_well();
        answer
    }

    /// What no answer may hold, whatever was asked.
    fn inspect(&self, answer: &[u8]) {
        assert!(!contains(answer, SECRET), "a secret is out");
        let path = self.scratch.path().to_str().expect("a plain path");
        assert!(!contains(answer, path.as_bytes()), "{}", shown(answer));
        if opcode(answer) == ERROR {
            assert!(answer.len() < 128, "{}", shown(answer));
            assert_eq!(answer.last(), Some(&0), "{}", shown(answer));
        }
    }
}

/// The server holds the last files open for whoever comes next: those that these tests know, in each mode.
const FILES_HELD: usize = 8;

/// The end of each test: the server stands as it stood, and its log is harmless to look at.
impl Drop for Target {
    fn drop(&mut self) {
        if thread::panicking() {
            return;
        }
        self.answers_well();
        until("every transfer has ended", || {
            let now = self.server.metrics();
            now.active() + now.value("tftp_unvalidated_transfers") == 0
        });
        until("no descriptor is held but those of files read last", || {
            self.server.descriptors() <= self.descriptors + FILES_HELD
        });
        assert_eq!(self.server.threads(), self.threads);
        let log = self.server.log();
        let raw = |line: &&str| !line.chars().all(|c| c == '…' || (' '..='~').contains(&c));
        assert_eq!(log.split('\n').find(raw), None);
        let grown = self.server.resident().saturating_sub(self.memory);
        assert!(grown < MEMORY_HELD, "{grown} octets more than before");
    }
}

fn datagrams_too_short(engine: Engine) {
    let target = Target::new(engine);
    target.expect_silence(b"");
    for octet in 0..=255 {
        target.expect_silence(&[octet]);
    }
    for opcode in 3..=10 {
        target.expect_silence(&[0, opcode]);
        target.expect_silence(&[0, opcode, 0]);
    }
    for opcode in [1, 2] {
        target.expect_error(&[0, opcode], &[4]);
        target.expect_error(&[0, opcode, 0], &[4]);
        target.expect_error(&[0, opcode, b'x'], &[4]);
    }
}

fn requests_that_break_off(engine: Engine) {
    let target = Target::new(engine);
    for opcode in [1, 2] {
        for rest in [
            &b"good"[..],
            b"good\0",
            b"good\0octet",
            b"\0octet\0",
            b"\0\0",
            b"good\0\0",
            b"\xff\xff\xff",
        ] {
            target.expect_error(&[&[0, opcode], rest].concat(), &[4]);
        }
    }
}

/// Goal: no two servers can be made to answer each other for ever. Method: everything but a request, sent to
/// the listening port.
fn only_requests_are_answered(engine: Engine) {
    let target = Target::new(engine);
    for opcode in (3..=10).chain([0, 255, 256, 257, 512, 0x6f63, u16::MAX]) {
        for body in [&b""[..], b"\0\0", b"\0\x01", b"\0\x05text\0", &[0xff; 600]] {
            target.expect_silence(&[&opcode.to_be_bytes(), body].concat());
        }
    }
    for len in [4, 5, 516, 5_000, 60_000] {
        for fill in [0, b'x'] {
            target.expect_silence(&errors_of(len, fill));
        }
    }
}

fn names_too_long(engine: Engine) {
    let target = Target::new(engine);
    for len in [100, 255, 256, 505, 511, 512, 4_096, 8_000, 9_000, 60_000] {
        let name = vec![b'n'; len];
        target.expect_error(&request(RRQ, &name, &[]), &[1]);
        let parts = b"n/".repeat(len / 2);
        target.expect_error(&request(RRQ, &parts, &[]), &[1]);
        if len > 255 {
            target.expect_error(&request(WRQ, &name, &[]), &[1]);
        }
    }
}

fn the_longest_datagrams(engine: Engine) {
    const LONGEST: usize = 65_507;
    let target = Target::new(engine);
    for first in [0, 1, 2, 3, 4, 5, 6, 0xff] {
        for fill in [0, b'x', 0xff] {
            let mut octets = vec![fill; LONGEST];
            octets[..2].copy_from_slice(&[0, first]);
            match first {
                1 | 2 => target.expect_error(&octets, &[4]),
                _ => target.expect_silence(&octets),
            }
        }
    }
}

fn modes_of_all_kinds(engine: Engine) {
    let target = Target::new(engine);
    let with_mode = |mode: &[u8]| [b"\0\x01good\0", mode, b"\0"].concat();
    for bad in [&b""[..], b"mail", b"octe", b"octets", b"%s", &[b'o'; 2_000]] {
        target.expect_error(&with_mode(bad), &[4]);
    }
    for good in [b"octet", b"OCTET", b"OcTeT"] {
        assert_eq!(opcode(&target.ask(&with_mode(good))), DATA);
    }
}

fn names_that_are_more_than_names(engine: Engine) {
    let target = Target::new(engine);
    for name in [
        &b"%n%s%x%n%s%x"[..],
        b"%99999999s",
        b"\r\n\x1b[2J",
        b"\xff\xfe\x80",
        b"`id`;$(id)|id",
        b"\x7f\x01",
    ] {
        let answer = target.ask(&request(RRQ, name, &[]));
        assert_eq!((opcode(&answer), number(&answer)), (ERROR, 1));
        assert!(!contains(&answer, name), "{}", text(&answer));
    }
    // What is shown of it is escaped, in the log and in the list of transfers.
    let name = b"\x1b[2J\xff\r\n\"<b>";
    fs::write(target.path(OsStr::from_bytes(name)), [b'x'; 600]).expect("a file");
    let mut peer = target.peer();
    peer.send(&request(RRQ, name, &[]));
    assert_eq!(opcode(&peer.receive()), DATA);
    let shown = target.server.transfers().remove(0);
    assert_eq!(shown["file"], "\\x1b[2J\\xff\\r\\n\\\"<b>");
    peer.send(&error(0, b"\x1b[2J%n\xff"));
    let option = ("\u{1b}[2J%n\r\n", "%n%s");
    let answer = target.ask(&request(RRQ, b"good", &[option, ("blksize", "%n")]));
    assert_eq!(opcode(&answer), DATA, "what means nothing is left out");
}

fn errors_to_a_live_transfer(engine: Engine) {
    let target = Target::new(engine);
    let ended = || {
        let metrics = target.server.metrics();
        metrics.value("tftp_transfers_ended_total{outcome=\"peer_error\"}")
    };
    for len in [4, 5, 516, 5_000, 60_000] {
        for fill in [0, b'x'] {
            let before = ended();
            let (mut peer, _) = target.transfer();
            peer.send(&errors_of(len, fill));
            peer.ack(1);
            until("it has ended", || ended() == before + 1);
            // The ACK may have been on its way when the transfer ended: it draws nothing.
            peer.server = target.address;
            peer.send(&request(RRQ, b"missing", &[]));
            let answer = peer.receive();
            assert_eq!((opcode(&answer), number(&answer)), (ERROR, 1));
        }
    }
}

/// Goal: a transfer ignores unrelated packets. Method: packets that mean nothing to it, from its own client
/// and from others, in the middle of the transfer; the file arrives whole.
fn nonsense_to_a_live_transfer(engine: Engine) {
    let target = Target::new(engine);
    let (mut peer, mut contents) = target.transfer();
    let nonsense = [
        &b""[..],
        b"\0",
        b"\0\x04",
        b"\0\x04\0",
        b"\0\x04\0\x09",
        b"\0\x04\xff\xff",
        b"\0\x04\x80\0",
        b"\0\x03\0\x01stolen",
        b"\0\x06",
        b"\0\x06blksize\08\0",
        b"\0\x07\0\x01",
        b"\xff\xff\xff\xff",
        b"\0\x01good\0octet\0",
        b"\0\x02good\0octet\0",
    ];
    let mut stranger = Peer::new(peer.server);
    for octets in nonsense {
        peer.send(octets);
        stranger.send(octets);
        let answerable = octets.len() >= 2 && matches!(octets[1], 3 | 4 | 6) && octets[0] == 0;
        let complete = octets.len() >= 4 || octets == b"\0\x06";
        if answerable && complete {
            let answer = stranger.receive();
            assert_eq!((opcode(&answer), number(&answer)), (ERROR, 5));
        }
    }
    target.answers_well();
    assert_eq!(stranger.receive_within(Duration::from_millis(1)), None);
    peer.ack(1);
    contents.extend(peer.rest(512, 2).expect("the rest"));
    assert!(contents == target.good);
}

fn options_beyond_measure(engine: Engine) {
    let target = Target::new(engine);
    let long = "o".repeat(1_500);
    let many: Vec<(String, String)> = (0..200).map(|n| (format!("o{n}"), n.to_string())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let head = request(RRQ, b"good", &[]);
    for octets in [
        request(RRQ, b"good", &[(&long, &long)]),
        request(RRQ, b"good", &many),
        [&head[..], b"blksize"].concat(),
        [&head[..], b"blksize\0"].concat(),
        [&head[..], b"blksize\x00512"].concat(),
        [&head[..], b"\0\0\0\0\0\0"].concat(),
        [&head[..], &vec![0; 3_000]].concat(),
    ] {
        let answer = target.ask(&octets);
        assert_eq!(opcode(&answer), DATA, "to {}", shown(&octets));
    }
}

fn numbers_that_are_none(engine: Engine) {
    let target = Target::new(engine);
    let digits = "9".repeat(30);
    for value in [
        &digits,
        "-1",
        "2147483648",
        "4294967296",
        "9223372036854775808",
        "18446744073709551616",
        "abc",
        " 512",
        "512 ",
        "0x200",
        "+5",
        "5e2",
        "٥",
        "",
    ] {
        for name in [
            "blksize",
            "windowsize",
            "timeout",
            "utimeout",
            "blksize2",
            "tsize",
        ] {
            let answer = target.ask(&request(RRQ, b"good", &[(name, value)]));
            match opcode(&answer) {
                DATA => assert!(answer.len() == 4 + 512, "{name}={value}"),
                OACK => {
                    for option in oack(&answer) {
                        let (echoed, number) = option.split_once('=').expect("a pair");
                        assert_eq!(echoed, name);
                        let number: u64 = number.parse().expect("a number");
                        assert!(number <= 65_464, "{name}={value} became {number}");
                    }
                }
                _ => panic!("{} to {name}={value}", shown(&answer)),
            }
            if !value.is_empty() {
                let answer = target.ask(&request(WRQ, b"new", &[(name, value)]));
                assert!(
                    matches!(opcode(&answer), ACK | OACK | ERROR),
                    "{name}={value}"
                );
            }
        }
    }
    let repeated = [("blksize", "1024"), ("BLKSIZE", "2048"), ("blksize", "8")];
    let answer = target.ask(&request(RRQ, b"good", &repeated));
    assert_eq!(oack(&answer), ["blksize=1024"]);
}

fn the_longest_oack_holds_only_what_was_asked(engine: Engine) {
    let target = Target::new(engine);
    let asked = [
        ("BlkSize", "65464"),
        ("unheard-of", "18446744073709551615"),
        ("TSIZE", "0"),
        ("timeout", "255"),
        ("windowSize", "65535"),
        ("rollover", "0"),
        ("blksize2", "65464"),
        ("utimeout", "255000000"),
    ];
    let answer = target.ask(&request(RRQ, b"good", &asked));
    for option in oack(&answer) {
        let (name, value) = option.split_once('=').expect("a pair");
        assert!(name != "unheard-of" && asked.iter().any(|&(asked, _)| asked == name));
        value.parse::<u32>().expect("a number");
    }
}

/// Goal: nothing outside the root is read or written. Method: names that escaped other servers, links inside
/// the root that point out, and a neighbour whose name begins like the root's.
fn ways_out_of_the_root(engine: Engine) {
    let target = Target::new(engine);
    let outside = target.scratch.path().to_str().expect("a plain path");
    let mut names: Vec<String> = [
        "secret",
        "srv-not/secret",
        "etc/passwd",
        "srv/../secret",
        "srv-not",
    ]
    .iter()
    .flat_map(|name| {
        let windows = name.replace('/', "\\");
        [
            format!("../{name}"),
            format!("/../{name}"),
            format!("..\\{windows}"),
            format!("sub/../../{name}"),
            format!("sub\\..\\..\\{windows}"),
            format!("..../{name}"),
            format!("....//{name}"),
            format!("..;/{name}"),
            format!("..%2f{name}"),
            format!("%2e%2e/{name}"),
            format!("..\u{2215}{name}"),
            format!("{}{name}", "../".repeat(40)),
            format!("./.././{name}"),
            format!("/{name}"),
            format!("//{name}"),
            format!("C:\\{windows}"),
            format!("C:/../{name}"),
            format!("\\\\host\\share\\{windows}"),
            format!("{outside}/{name}"),
            format!("/{outside}/{name}"),
            format!("{outside}/srv/../{name}"),
            format!("{outside}/srv/../../{name}"),
            format!("{outside}/srv-not/../{name}"),
            format!("up/{name}"),
            format!("sub/up/{name}"),
            format!("proc/{outside}/{name}"),
            format!("up/up/../{name}"),
        ]
    })
    .collect();
    names.extend(
        [
            "out",
            "out-absolute",
            "up",
            "loop",
            "proc",
            ".",
            "..",
            "/",
            "",
            "sub",
            "sub/..",
            "good/..",
        ]
        .map(String::from),
    );
    for name in &names {
        let answer = target.ask(&request(RRQ, name.as_bytes(), &[]));
        assert_eq!(opcode(&answer), ERROR, "{name}");
    }
    let before = tree(&target);
    for name in &names {
        let answer = target.ask(&request(WRQ, name.as_bytes(), &[]));
        if opcode(&answer) == ACK {
            // A plain name after all: it appears in the root.
            assert_eq!(peer::store(target.address, name, SECRET), Ok(()), "{name}");
        }
    }
    let root = target.scratch.path().join("srv");
    for (path, contents) in tree(&target) {
        let known = before.contains(&(path.clone(), contents));
        assert!(known || path.starts_with(&root), "{}", path.display());
    }
    // Some of them were written, in the root, as was allowed.
    for entry in fs::read_dir(&root).expect("the root") {
        let path = entry.expect("an entry").path();
        if fs::read(&path).is_ok_and(|contents| contents == SECRET)
            && fs::symlink_metadata(&path).expect("it is there").is_file()
        {
            fs::remove_file(path).expect("it goes");
        }
    }
}

/// Goal: anything but a regular file is refused at once, to readers and writers, and the server keeps
/// answering.
fn what_is_no_file(engine: Engine) {
    let target = Target::new(engine);
    let mode = Mode::from_raw_mode(0o666);
    mknodat(CWD, target.path("fifo"), FileType::Fifo, mode, 0).expect("a FIFO");
    let _listener = UnixListener::bind(target.path("socket")).expect("a socket");
    for name in [&b"fifo"[..], b"socket", b"sub", b"/", b"sub/"] {
        for opcode in [RRQ, WRQ] {
            target.expect_error(&request(opcode, name, &[]), &[2]);
        }
    }
}

/// Goal: a link never leads outside, not even for a moment. Method: a directory and a link to one outside
/// keep swapping names while a file below that name is requested, by readers and writers.
fn a_directory_swapped_for_a_link(engine: Engine) {
    let target = Target::new(engine);
    let (here, there) = (target.path("here"), target.path("there"));
    fs::create_dir(&here).expect("a directory");
    fs::write(here.join("secret"), b"inside").expect("a file");
    symlink(target.scratch.path().join("srv-not"), &there).expect("a link");
    let before = fs::read_dir(target.scratch.path().join("srv-not")).expect("a directory");
    let before = before.count();

    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let swapping = scope.spawn(|| {
            let mut swaps = 0_u64;
            while !done.load(Ordering::Relaxed) {
                renameat_with(CWD, &here, CWD, &there, RenameFlags::EXCHANGE).expect("swaps");
                swaps += 1;
            }
            swaps
        });
        let mut inside = 0;
        for number in 0..SWAP_REQUESTS {
            match peer::fetch(target.address, "here/secret") {
                Ok(contents) => {
                    assert_eq!(contents, b"inside");
                    inside += 1;
                }
                Err((code, _)) => assert!(matches!(code, 0..=2), "ERROR {code}"),
            }
            // It goes where the name leads at that moment, but never out.
            let _ = peer::store(target.address, &format!("here/new-{number}"), b"new");
        }
        done.store(true, Ordering::Relaxed);
        let swaps = swapping.join().expect("swapped");
        assert!(inside > 0 && swaps > 0, "{inside} arrived, {swaps} swaps");
    });
    let after = fs::read_dir(target.scratch.path().join("srv-not")).expect("a directory");
    assert_eq!(after.count(), before, "something was written outside");
}

/// Goal: the server survives noise. Method: random octets, random packets and valid packets with random
/// changes, to both of its ports; the seed is fixed. They are sent as fast as possible, in bursts that fit
/// the server's queue, so that it has to process every one.
fn noise(engine: Engine) {
    let target = Target::new(engine);
    let (transfer, _) = target.transfer();
    let ports = [target.address, transfer.server];
    let peers: Vec<Peer> = (0..16).map(|_| target.peer()).collect();
    let valid = [
        request(
            RRQ,
            b"good",
            &[("blksize", "1024"), ("tsize", "0"), ("windowsize", "4")],
        ),
        request(RRQ, b"sub/good", &[]),
        request(WRQ, b"new", &[("blksize", "1024"), ("tsize", "2048")]),
        request(WRQ, b"newer", &[("windowsize", "8")]),
        data(1, &[b'x'; 512]),
        data(2, b"the end"),
        ack(0).to_vec(),
        ack(1).to_vec(),
        error(0, b"over"),
        b"\0\x06blksize\x001024\0".to_vec(),
    ];
    let mut random = fastrand::Rng::with_seed(4);
    for count in 1..=NOISE_DATAGRAMS {
        let octets = match random.u8(..4) {
            0 => {
                let mut octets = vec![0; random.usize(..600)];
                random.fill(&mut octets);
                octets
            }
            1 => {
                let mut octets = vec![0; random.usize(2..80)];
                random.fill(&mut octets);
                octets[..2].copy_from_slice(&[0, random.u8(..9)]);
                octets
            }
            2 => valid[random.usize(..valid.len())].clone(),
            _ => mutated(valid[random.usize(..valid.len())].clone(), &mut random),
        };
        let peer = &peers[random.usize(..peers.len())];
        let to = ports[random.usize(..ports.len())];
        peer.socket.send_to(&octets, to).expect("sends");
        if count % NOISE_BURST == 0 {
            target.answers_well();
        }
    }
    let heard = target.server.metrics().received();
    assert!(heard > NOISE_DATAGRAMS as u64, "it looked at {heard} only");
    // What it had to say to the noise is nobody's to read.
    drop(peers);
    drop(transfer);
    target.answers_well();
}

fn mutated(mut octets: Vec<u8>, random: &mut fastrand::Rng) -> Vec<u8> {
    for _ in 0..random.usize(1..4) {
        let place = random.usize(..octets.len());
        match random.u8(..4) {
            0 => octets[place] = random.u8(..),
            1 => octets.insert(place, random.u8(..)),
            2 if octets.len() > 1 => {
                octets.remove(place);
            }
            _ => octets.truncate(place.max(1)),
        }
    }
    octets
}

/// An ERROR of so many octets in all; its text ends without a NUL unless that is what fills it.
fn errors_of(len: usize, fill: u8) -> Vec<u8> {
    let mut octets = vec![fill; len];
    octets[..4].copy_from_slice(&[0, 5, 0, 0]);
    octets
}

/// Every file in and around the root, with its contents; links are not followed.
fn tree(target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    let mut folders = vec![target.scratch.path().to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a directory") {
            let entry = entry.expect("an entry");
            let kind = entry.file_type().expect("a kind");
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                files.push((entry.path(), fs::read(entry.path()).expect("a file")));
            }
        }
    }
    files
}

fn contains(octets: &[u8], part: &[u8]) -> bool {
    octets.windows(part.len()).any(|window| window == part)
}

fn shown(octets: &[u8]) -> String {
    let shown = &octets[..octets.len().min(64)];
    format!("{} octets \"{}\"", octets.len(), shown.escape_ascii())
}
