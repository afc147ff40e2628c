//! The load generator's own cost per datagram, compared with a bare loop that moves the same datagrams
//! without any protocol: processor time of the client threads.

use std::fs;
use std::net::UdpSocket;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bootstorm::config::{Settings, frame_cache_octets_default};
use bootstorm::load::plan::Pace;
use bootstorm::load::{self, File, Group, Live, Load};
use bootstorm::server::{EngineChoice, Server, ServerOptions};
use bootstorm::shard::{Expected, PATTERN_SEED};
use bootstorm::store::directory::DirectoryOptions;
use bootstorm::store::memory::pattern_fill;
use rustix::time::{ClockId, clock_gettime};

/// Octets of the file: a loader's.
const FILE_OCTETS: usize = 1 << 20;
/// Clients that ask at the same time, and windows that the bare loop has under way.
const CLIENTS: u32 = 64;
/// Datagrams that come in each measurement, about.
const DATAGRAMS: u64 = 400_000;
/// Octets of a block: fits Ethernet.
const BLKSIZE: u16 = 1428;
/// Measurements, of which the cheapest counts: whatever disturbs one makes it dearer.
const ROUNDS: u32 = 3;

fn main() {
    println!(
        "microseconds of processor time a datagram, in or out, verified, one system call for each"
    );
    for windowsize in [1, 16] {
        let least = |measure: fn(u16) -> f64| {
            let costs = (0..ROUNDS).map(|_| measure(windowsize));
            costs.fold(f64::INFINITY, f64::min)
        };
        let (bare, generator) = (least(bare), least(generator));
        println!(
            "blksize {BLKSIZE} windowsize {windowsize:>2}: bare loop {bare:.3}, generator {generator:.3}, {:.2} times as much",
            generator / bare
        );
    }
}

/// What the generator costs against a server of this process.
fn generator(windowsize: u16) -> f64 {
    let root = tempfile::tempdir().expect("a directory");
    let mut contents = vec![0; FILE_OCTETS];
    pattern_fill(PATTERN_SEED, 0, &mut contents);
    fs::write(root.path().join("image"), &contents).expect("a file");
    let options = ServerOptions {
        gso: true,
        pin: false,
        listen: vec![([127, 0, 0, 1], 0).into()],
        workers: 1,
        settings: Settings::default(),
        root: root.path().to_path_buf(),
        directory: DirectoryOptions::default(),
        frame_cache_octets: frame_cache_octets_default(),
        engine: EngineChoice::Auto,
    };
    let server =
        Server::start(&options, |ended| drop(ended.expect("it serves"))).expect("it starts");
    let file = File {
        name: b"image".to_vec(),
        weight: 1,
        expected: Arc::new(Expected::Pattern),
    };
    let mut group = Group::new(vec![file], CLIENTS);
    let profile = &mut group.profiles[0].0;
    profile.wanted.blksize = Some(BLKSIZE);
    profile.wanted.windowsize = Some(windowsize).filter(|&blocks| blocks > 1);
    group.pace = Pace::Closed {
        clients: CLIENTS,
        think: Duration::ZERO,
    };
    let blocks = (FILE_OCTETS / usize::from(BLKSIZE)) as u64;
    group.bounds.transfers = Some(DATAGRAMS / blocks);
    let mut load = Load::new(server.addresses()[0], vec![group]);
    load.gro = false;
    let report = load::run(&load, &Arc::new(Live::default())).expect("a run");
    assert!(report.is_good(), "{report}");
    server.stop();
    report.own_cost().as_secs_f64() * 1e6
}

/// What a loop costs that sends an ACK for each window, to a peer that answers each with a window.
fn bare(windowsize: u16) -> f64 {
    let here = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let there = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    here.connect(there.local_addr().expect("bound"))
        .expect("connected");
    there
        .connect(here.local_addr().expect("bound"))
        .expect("connected");
    // What gets lost, on a machine whose queues are small, is not waited for.
    here.set_read_timeout(Some(Duration::from_millis(200)))
        .expect("a timeout");
    there
        .set_read_timeout(Some(Duration::from_millis(500)))
        .expect("a timeout");
    let peer = thread::spawn(move || {
        let data = [3; 4 + BLKSIZE as usize];
        while there.recv(&mut [0; 4]).is_ok() {
            for _ in 0..windowsize {
                let _ = there.send(&data);
            }
        }
    });
    let mut buffer = [0; 2 * BLKSIZE as usize];
    let ack = [0, 4, 0, 1];
    let mut moved = 0;
    let before = processor_time();
    // No more under way than the smallest receive queue holds.
    let windows = (CLIENTS / u32::from(windowsize)).max(1);
    for _ in 0..windows {
        here.send(&ack).expect("sends");
    }
    let mut came = 0;
    while came < DATAGRAMS {
        match here.recv(&mut buffer) {
            Ok(_) => came += 1,
            // All that is under way is lost; begin again.
            Err(_) => came = came.next_multiple_of(u64::from(windowsize)),
        }
        if came.is_multiple_of(u64::from(windowsize)) {
            here.send(&ack).expect("sends");
            moved += 1;
        }
    }
    let took = processor_time() - before;
    drop(here);
    peer.join().expect("it ends");
    took.as_secs_f64() * 1e6 / (moved + came) as f64
}

/// What the calling thread has used.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        time.tv_sec.try_into().unwrap_or(0),
        time.tv_nsec.try_into().unwrap_or(0),
    )
}
