//! Endurance: the program at full load with everything that wears a server out, observed each second from
//! outside. Its resources must not grow, except the frame cache, which fills up to its limit and no further.
//!
//! ```sh
//! cargo test --test soak                                               # seconds: that the test itself works
//! SOAK_MINUTES=2 cargo test --release --test soak -- --nocapture       # what CI does
//! SOAK_MINUTES=30 SOAK_ENGINE=mio cargo test --release --test soak -- --nocapture
//! ```
//!
//! The samples and a plot of them are written to `target/tmp/soak-ENGINE.csv` and `.svg`. The server has one
//! core, everything else another.

#![cfg(target_os = "linux")]

mod common;
#[path = "soak/plot.rs"]
mod plot;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::binary::{Binary, loopback, uring, url};
use common::peer::{self, Peer, RRQ, WRQ, request, until};
use plot::{Series, plot};

/// How long it takes without `SOAK_MINUTES`, in seconds.
const SECONDS_DEFAULT: u64 = 12;
/// Samples are taken so often.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);
/// Files, and how long they are at the most: together more than the frame cache.
const FILES: u64 = 40;
const FILE_OCTETS_MAX: usize = 6 << 20;
const FRAME_CACHE: u64 = 64 << 20;
/// How often a file is replaced, forged and refused requests come, and an upload is begun and left.
const CHURN_EVERY: Duration = Duration::from_millis(20);
/// The clients that are known, beside those at full load; each kind has so many.
const PROFILES: [&str; 8] = [
    "ipxe", "edk2", "uboot", "grub", "pxelinux", "rpi", "curl", "plain",
];
const CLIENTS_EACH: &str = "4";
/// Memory beside frames by which the last quarter may exceed the second: this part of it, and so many octets more, for the
/// allocator's pieces never lie the same way twice.
const GROWTH_PART: f64 = 0.05;
const GROWTH_OCTETS: f64 = 4e6;
/// The same of descriptors: every transfer may be of another version of a file, and chance has its share.
const DESCRIPTORS_PART: f64 = 0.1;
const DESCRIPTORS_MORE: f64 = 16.0;
/// The server holds files that were read last, one descriptor each.
const FILES_HELD: usize = 64;

/// What was seen of the server at one time.
#[derive(Debug, Clone, Copy, Default)]
struct Sample {
    seconds: f64,
    memory: u64,
    descriptors: u64,
    threads: u64,
    active: u64,
    unvalidated: u64,
    frames: u64,
    sent: u64,
    received: u64,
    complete: u64,
    drops: u64,
}

impl Sample {
    /// Memory that is not for frames.
    fn beside_frames(&self) -> u64 {
        self.memory.saturating_sub(self.frames)
    }
}

/// Goal: a server that has run for long behaves like a fresh one. Method: the last quarter of the time is
/// compared with the second, because the first includes what is created once.
#[test]
fn the_server_does_not_wear_out() {
    let engine = match std::env::var("SOAK_ENGINE") {
        Ok(name) if name == "mio" => "mio",
        _ => uring().unwrap_or("mio"),
    };
    let minutes = std::env::var("SOAK_MINUTES");
    let seconds = minutes.map_or(SECONDS_DEFAULT, |minutes| {
        minutes.parse::<u64>().expect("SOAK_MINUTES is a number") * 60
    });
    let root = tempfile::tempdir().expect("a directory");
    for number in 0..FILES {
        replace(root.path(), number, 0);
    }
    let frame_cache = FRAME_CACHE.to_string();
    let arguments = [
        "--write",
        "overwrite",
        "--idle-timeout",
        "5",
        "--frame-cache",
        &frame_cache,
        // A line for each transfer would be kept by this test, and would be what grows.
        "--log-filter",
        "warn",
    ];
    let server = Binary::start_under(&on_core(0), engine, root.path(), &arguments);
    assert!(peer::fetch(server.address, "small").is_ok());
    server.metrics();
    let (descriptors, threads) = (server.descriptors(), server.threads());

    let over = AtomicBool::new(false);
    let churned = AtomicU64::new(0);
    let (samples, reports) = thread::scope(|scope| {
        scope.spawn(|| churn(&server, root.path(), &over, &churned));
        let _over = Over(&over);
        let clients = clients(&server, root.path(), seconds);
        let samples = watch(&server, seconds);
        let reports: Vec<_> = clients.into_iter().map(report).collect();
        (samples, reports)
    });
    let (csv, svg) = write(&samples, engine);
    let last = *samples.last().expect("samples");
    println!(
        "{engine}, {seconds} s: {} transfers complete, {:.1} GB sent, {:.1} GB received, {} times something churned, \
         {} datagrams dropped by the kernel\n{}\n{}",
        last.complete,
        last.sent as f64 / 1e9,
        last.received as f64 / 1e9,
        churned.load(Ordering::Relaxed),
        last.drops,
        csv.display(),
        svg.display()
    );

    let [_, second, _, fourth] = quarters(&samples);
    let (early, late) = (
        mean(second, Sample::beside_frames),
        mean(fourth, Sample::beside_frames),
    );
    println!(
        "memory beside frames: {:.1} MB in the second quarter, {:.1} MB in the last; frames: at most {:.1} MB; \
         descriptors: at most {} and {}; threads: {threads}",
        early / 1e6,
        late / 1e6,
        most(&samples, |sample| sample.frames) as f64 / 1e6,
        most(second, |sample| sample.descriptors),
        most(fourth, |sample| sample.descriptors),
    );
    for (name, report) in &reports {
        assert_eq!(
            report["failures"]["corrupt"],
            serde_json::Value::Null,
            "{name}"
        );
        assert!(
            report["transfers_complete"].as_u64() > Some(0),
            "{name}: {report}"
        );
    }
    // In seconds, a busy machine has hardly begun: what it holds has yet to come to rest.
    if seconds > SECONDS_DEFAULT {
        let (few, many) = (
            mean(second, |sample| sample.descriptors),
            mean(fourth, |sample| sample.descriptors),
        );
        assert!(
            late <= early * (1.0 + GROWTH_PART) + GROWTH_OCTETS,
            "{early} to {late} octets"
        );
        assert!(
            many <= few * (1.0 + DESCRIPTORS_PART) + DESCRIPTORS_MORE,
            "{few} to {many} descriptors"
        );
    }
    // Those that transfers wait for may be beyond it, for a moment.
    assert!(mean(fourth, |sample| sample.frames) <= FRAME_CACHE as f64);
    let steady = |sample: &Sample| sample.threads == threads as u64;
    assert!(samples.iter().all(steady));
    until("the table is empty again", || {
        let metrics = server.metrics();
        metrics.active() + metrics.value("tftp_unvalidated_transfers") == 0
    });
    until("descriptors are given back", || {
        server.descriptors() <= descriptors + FILES_HELD
    });
    assert!(peer::fetch(server.address, "small").is_ok());
}

/// What starts a program on one core; the second only where there is one.
fn on_core(number: usize) -> Vec<&'static str> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    if cores == 1 || common::require("taskset").is_none() {
        return Vec::new();
    }
    vec!["taskset", "--cpu-list", if number == 0 { "0" } else { "1" }]
}

/// Puts new contents in the place of a file, whole; its length changes too.
fn replace(root: &Path, number: u64, version: u64) {
    let seed = version * FILES + number;
    // Every other is small, and one is always the same.
    let most = if number.is_multiple_of(2) {
        50_000
    } else {
        FILE_OCTETS_MAX
    };
    let len = fastrand::Rng::with_seed(seed).usize(1..most);
    let (name, new) = match number {
        0 => (root.join("small"), root.join(".new-small")),
        _ => (
            root.join(format!("file-{number}")),
            root.join(format!(".new-{number}")),
        ),
    };
    fs::write(&new, peer::octets(seed, len)).expect("room");
    fs::rename(new, name).expect("renamed");
}

/// Says when it goes that the churn is over, also if that is for a failure: nobody would end it else.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Files come and go, are written over in place, and requests come that lead nowhere.
fn churn(server: &Binary, root: &Path, over: &AtomicBool, churned: &AtomicU64) {
    let mut random = fastrand::Rng::with_seed(1);
    let stranger = |number| Peer {
        socket: std::net::UdpSocket::bind((loopback(number), 0)).expect("a socket"),
        server: server.address,
    };
    let unsteady = root.join("unsteady");
    fs::write(&unsteady, [0; 200_000]).expect("room");
    for turn in 0.. {
        if over.load(Ordering::Relaxed) {
            return;
        }
        churned.store(turn, Ordering::Relaxed);
        let number = random.u32(..);
        match turn % 5 {
            0 => replace(root, random.u64(1..FILES), turn),
            1 => stranger(number).send(&request(RRQ, b"small", &[("tsize", "0")])),
            2 => stranger(number).send(&request(RRQ, &number.to_be_bytes(), &[])),
            3 => stranger(number).send(&request(WRQ, b"never-ends", &[("tsize", "9000")])),
            _ => {
                let file = File::options()
                    .write(true)
                    .open(&unsteady)
                    .expect("it is there");
                file.write_all_at(&[1], random.u64(..200_000))
                    .expect("room");
            }
        }
        thread::sleep(CHURN_EVERY);
    }
}

/// Starts everybody who asks for files, for so many seconds.
fn clients(server: &Binary, root: &Path, seconds: u64) -> Vec<(&'static str, Child)> {
    let duration = seconds.to_string();
    let files = || (1..FILES).map(|number| format!("file-{number}"));
    let start = |name: &'static str, files: Vec<String>, arguments: &[&str]| {
        let core = on_core(1);
        let program = env!("CARGO_BIN_EXE_bootstorm");
        let mut words = core.iter().copied().chain([program]);
        let mut command = Command::new(words.next().expect("the program at least"));
        command
            .args(words)
            .arg("load")
            // One URL says where; the others are names alone.
            .arg(url(server.address, &files[0]))
            .args(&files[1..])
            .args(arguments);
        command.args(["--duration", &duration, "--json", "-", "--quiet"]);
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        (name, command.spawn().expect("it starts"))
    };
    let upload = root.join(".to-upload");
    fs::write(&upload, peer::octets(3, 300_000)).expect("room");
    let upload = upload.to_str().expect("a plain path");
    let uploads = (0..20).map(|number| format!("upload-{number}"));
    let mut clients = vec![
        start(
            "full load",
            files().collect(),
            &["-n", "100", "--abandon", "0.02"],
        ),
        start(
            "large windows",
            files().collect(),
            &["-n", "10", "--windowsize", "64", "--blksize", "8192"],
        ),
        start(
            "lossy",
            files().collect(),
            &["-n", "20", "--loss", "0.01", "--abandon", "0.1"],
        ),
        start(
            "uploads",
            uploads.collect(),
            &["-n", "8", "--write", upload, "--abandon", "0.05"],
        ),
        start(
            "unsteady",
            vec!["unsteady".to_owned(), "small".to_owned()],
            &["-n", "4"],
        ),
    ];
    for profile in PROFILES {
        let arguments = ["-n", CLIENTS_EACH, "--profile", profile, "--think", "1"];
        clients.push(start(profile, vec!["small".to_owned()], &arguments));
    }
    clients
}

/// What the clients have counted. Some of their transfers fail, as they are meant to: their files change.
fn report((name, client): (&'static str, Child)) -> (&'static str, serde_json::Value) {
    let output = client.wait_with_output().expect("it ends");
    let report = serde_json::from_slice(&output.stdout).expect("a report in JSON");
    (name, report)
}

/// Samples the server for so many seconds.
fn watch(server: &Binary, seconds: u64) -> Vec<Sample> {
    let began = Instant::now();
    let mut samples = Vec::new();
    while began.elapsed() < Duration::from_secs(seconds) {
        thread::sleep(SAMPLE_EVERY);
        let metrics = server.metrics();
        // A machine that is too busy may keep a worker from answering in time.
        if !metrics.is_answer() {
            continue;
        }
        samples.push(Sample {
            seconds: began.elapsed().as_secs_f64(),
            memory: server.resident(),
            descriptors: server.descriptors() as u64,
            threads: server.threads() as u64,
            active: metrics.active(),
            unvalidated: metrics.value("tftp_unvalidated_transfers"),
            frames: metrics.value("tftp_frame_cache_bytes"),
            sent: metrics.value("tftp_transfer_bytes_total{direction=\"sent\"}"),
            received: metrics.value("tftp_transfer_bytes_total{direction=\"received\"}"),
            complete: metrics.value("tftp_transfers_ended_total{outcome=\"complete\"}"),
            drops: metrics.value("tftp_receive_drops_total"),
        });
    }
    samples
}

/// Writes the samples as a table and as a plot; says where.
fn write(samples: &[Sample], engine: &str) -> (PathBuf, PathBuf) {
    let at = |extension| {
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("soak-{engine}.{extension}"))
    };
    let (csv, svg) = (at("csv"), at("svg"));
    let mut file = File::create(&csv).expect("room");
    writeln!(
        file,
        "seconds,memory,descriptors,threads,active,unvalidated,frames,sent,received,complete,drops"
    )
    .expect("room");
    for sample in samples {
        let Sample {
            seconds,
            memory,
            descriptors,
            threads,
            active,
            unvalidated,
            frames,
            sent,
            received,
            complete,
            drops,
        } = sample;
        writeln!(
            file,
            "{seconds:.2},{memory},{descriptors},{threads},{active},{unvalidated},{frames},{sent},{received},{complete},{drops}"
        )
        .expect("room");
    }
    let series = |name, unit, value: fn(&Sample) -> f64| Series {
        name,
        unit,
        points: samples
            .iter()
            .map(|sample| (sample.seconds, value(sample)))
            .collect(),
    };
    let mut rate = series("sent", "MB/s", |sample| sample.sent as f64 / 1e6);
    // From a sum to what each second added.
    let mut before = (0.0, 0.0);
    for point in &mut rate.points {
        let sum = *point;
        point.1 = (sum.1 - before.1) / (sum.0 - before.0);
        before = sum;
    }
    let page = plot(&[
        series("memory", "MB", |sample| sample.memory as f64 / 1e6),
        series("frames among it", "MB", |sample| sample.frames as f64 / 1e6),
        series("descriptors", "", |sample| sample.descriptors as f64),
        series("threads", "", |sample| sample.threads as f64),
        series("transfers that run", "", |sample| sample.active as f64),
        rate,
    ]);
    fs::write(&svg, page).expect("room");
    (csv, svg)
}

fn quarters(samples: &[Sample]) -> [&[Sample]; 4] {
    let at = |quarter: usize| samples.len() * quarter / 4;
    [0, 1, 2, 3].map(|quarter| &samples[at(quarter)..at(quarter + 1)])
}

fn mean(samples: &[Sample], value: impl Fn(&Sample) -> u64) -> f64 {
    samples
        .iter()
        .map(|sample| value(sample) as f64)
        .sum::<f64>()
        / samples.len() as f64
}

fn most(samples: &[Sample], value: impl Fn(&Sample) -> u64) -> u64 {
    samples.iter().map(value).max().unwrap_or(0)
}
