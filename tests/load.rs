//! The load generator against real servers: its counts are true, it notices errors, and a server that stalls
//! cannot hide.

// Clients with addresses of their own, and what the system tells of processes, are Linux's.
#![cfg(target_os = "linux")]

mod common;
#[path = "load/plans.rs"]
mod plans;

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use bootstorm::load::plan::Pace;
use bootstorm::load::profile::{self, Profile};
use bootstorm::load::report::{Report, hgrm, html, json};
use bootstorm::load::timeline::Point;
use bootstorm::load::{self, Failure, File, Group, Live, Load, Work, contents};
use bootstorm::metrics::Metrics;
use bootstorm::server::Server;
use bootstorm::shard::{Expected, Flaw};
use bootstorm::store::Writes;
use bootstorm::store::memory::Contents;
use common::peer;
use rustix::process::{Pid, Signal, kill_process};

/// Clients that ask at the same time.
const CROWD: u32 = 2_000;
/// Descriptors for all of them: 32 sockets, the poll and its waker, a probe, and those of the server
/// and the test.
const DESCRIPTORS_MAX: usize = 80;
/// Clients that one process is to bear, each with all that a client has.
const MANY: u64 = 10_000;
/// Octets of the file that each of them reads: small, so that this is over within seconds.
const MANY_SIZE: u64 = 64 << 10;
/// What that process may hold at most: some 3 KiB a client, beside the program and its histograms, and as much
/// again for builds that check more.
const MANY_MEMORY_MAX: u64 = 64 << 20;
/// How long either end of those waits for the other: the test has nothing to say about busy machines.
const PATIENT_SECONDS: &str = "600";
/// How long the server is stopped.
const STOPPED: Duration = Duration::from_secs(1);
/// What of that the tail has to show at least: a second less what the busy machine may take away.
const SEEN_SECONDS: f64 = 0.8;

/// Descriptors are counted for the whole process, so one test runs at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Goal: the generator's counts match the server's, to the octet. Method: a run without loss on either side,
/// then the server's own counters.
#[test]
fn both_ends_count_the_same() {
    let _turn = turn();
    let root = tempfile::tempdir().expect("a directory");
    let contents = peer::octets(1, 200_000);
    fs::write(root.path().join("image"), &contents).expect("a file");
    let (server, address) = peer::serve(root.path());
    let mut load = reads(address, 40, octets(&contents));
    load.groups[0].bounds.transfers = Some(300);
    let report = run(&load);
    assert!(report.is_good(), "{report}");
    let metrics = metrics_at_rest(&server);
    let tally = &report.tally;
    assert_eq!((tally.begun, tally.complete), (300, 300));
    assert_eq!(metrics.accepted(), tally.begun);
    assert_eq!(metrics.ended.get("complete"), Some(&tally.complete));
    assert_eq!(tally.octets, 300 * 200_000);
    assert_eq!(metrics.octets_sent, tally.octets);
    let points = tally.timeline.points();
    let sum = |of: fn(&Point) -> u64| points.iter().map(of).sum::<u64>();
    assert_eq!(sum(|point| point.begun), tally.begun);
    assert_eq!(sum(|point| point.complete), tally.complete);
    assert!(sum(|point| point.received) >= tally.octets);
    assert_eq!(points.last().map(|point| point.active), Some(0));
}

/// Goal: uploads are counted alike, and arrive. Method: each client writes a file with its own number.
#[test]
fn writes_arrive_and_are_counted() {
    let _turn = turn();
    let root = tempfile::tempdir().expect("a directory");
    let mut options = peer::options(root.path());
    options.directory.writes = Writes::Create;
    let server = peer::start(&options);
    let contents = peer::octets(2, 50_000);
    let mut load = reads(server.addresses()[0], 8, Expected::Anything);
    let group = &mut load.groups[0];
    group.work = Work::Write(Contents::Octets(contents.clone().into()));
    group.files[0].name = b"up-{number}".to_vec();
    group.bounds.transfers = Some(20);
    let report = run(&load);
    assert!(report.is_good(), "{report}");
    let alone = report.to_string();
    let nothing = "what the server stored is compared with nothing";
    assert!(alone.contains(nothing), "{alone}");
    let metrics = metrics_at_rest(&server);
    assert_eq!(metrics.octets_received, report.tally.octets);
    for number in 0..20 {
        let written = fs::read(root.path().join(format!("up-{number}"))).expect("a file");
        assert!(written == contents, "{number}");
    }

    let mut mixed = reads(server.addresses()[0], 2, octets(&contents));
    mixed.groups[0].files[0].name = b"up-1".to_vec();
    load.groups[0].files[0].name = b"more-{number}".to_vec();
    mixed.groups.push(load.groups.remove(0));
    let mixed = run(&mixed).to_string();
    let told = "of reads, every octet compared; of writes, nothing compared";
    assert!(mixed.contains(told), "{mixed}");
}

/// Goal: wrong contents fail each transfer, by their kind. Method: the expected contents differ from the file
/// in one octet in the middle, then in length.
#[test]
fn wrong_contents_are_seen() {
    let _turn = turn();
    let root = tempfile::tempdir().expect("a directory");
    let contents = peer::octets(3, 100_000);
    fs::write(root.path().join("image"), &contents).expect("a file");
    let (_server, address) = peer::serve(root.path());
    let mut corrupt = contents.clone();
    corrupt[70_000] ^= 1;
    let longer = [&contents[..], b"more"].concat();
    let shorter = &contents[..99_999];
    for (expected, flaw) in [
        (&corrupt[..], Flaw::Corrupt),
        (&longer, Flaw::Short),
        (shorter, Flaw::Long),
    ] {
        let report = run(&reads(address, 5, octets(expected)));
        let failures: Vec<_> = report.tally.failures.into_iter().collect();
        assert_eq!(failures, [(Failure::Flawed(flaw), 5)]);
    }
    let mut missing = reads(address, 5, Expected::Anything);
    missing.groups[0].files[0].name = b"nothing".to_vec();
    let report = run(&missing);
    assert_eq!(report.tally.failures.get(&Failure::ErrorCode(1)), Some(&5));
    let text = report.to_string();
    let told = "5 error 1 (\"file not found\"), the first of \"nothing\"";
    assert!(text.contains(told), "{text}");
    assert!(!report.is_good());
}

/// Goal: transfers survive loss caused by the clients, vanished clients leave nothing behind, and firmware
/// that asks for the length first is counted so. Method: one run each.
#[test]
fn clients_with_manners_of_their_own() {
    let _turn = turn();
    let root = tempfile::tempdir().expect("a directory");
    let contents = peer::octets(4, 60_000);
    fs::write(root.path().join("image"), &contents).expect("a file");
    let (server, address) = peer::serve(root.path());

    let mut lossy = reads(address, 10, octets(&contents));
    lossy.groups[0].weather.loss = 0.02;
    let report = run(&lossy);
    assert!(
        report.is_good() && report.tally.disturbed.lost > 0,
        "{report}"
    );

    let firmware = profile::find("edk2").expect("a profile");
    let report = run(&with(reads(address, 10, octets(&contents)), firmware));
    assert!(report.is_good(), "{report}");
    assert_eq!((report.tally.probes, report.tally.complete), (10, 10));
    // A client that asks twice waits for the first answer once.
    assert_eq!(report.tally.oack.came().count(), 10);
    assert_eq!(report.tally.terms.keys().next(), Some(&(1468, 4)));
    let metrics = metrics_at_rest(&server);
    assert_eq!(metrics.ended.get("probed"), Some(&10));

    let mut leaving = reads(address, 10, octets(&contents));
    leaving.groups[0].abandon = 1.0;
    let report = run(&leaving);
    assert_eq!((report.tally.left, report.tally.complete), (10, 0));
    server.stop();
}

/// Goal: a client that vanished before the run is interrupted does not count as interrupted. Method:
/// vanishing clients in a closed loop, beside some that lose everything they receive, until the run is
/// stopped.
#[test]
fn who_vanishes_is_not_interrupted() {
    let _turn = turn();
    let root = tempfile::tempdir().expect("a directory");
    fs::write(root.path().join("image"), peer::octets(14, 60_000)).expect("a file");
    let (_server, address) = peer::serve(root.path());
    let mut load = reads(address, 2, Expected::Anything);
    load.groups[0].abandon = 1.0;
    load.groups[0].bounds.transfers = Some(5);
    let mut waiting = reads(address, 3, Expected::Anything).groups;
    waiting[0].weather.loss = 1.0;
    load.groups.append(&mut waiting);
    let live = Arc::new(Live::default());
    live.watch();
    let running = {
        let (live, load) = (live.clone(), load.clone());
        thread::spawn(move || load::run(&load, &live).expect("a run"))
    };
    // Eight have begun, of which those that wait are left.
    while live.counts()[2] != 3 {
        thread::yield_now();
    }
    thread::sleep(STOPPED);
    live.stop();
    let report = running.join().expect("a run");
    assert_eq!((report.tally.left, report.tally.interrupted), (8, 3));
    let text = report.to_string();
    assert!(text.contains(", 5 vanished, 3 interrupted"), "{text}");
}

/// Goal: thousands of clients need few descriptors, and are kept apart. Method: descriptors are counted while
/// all wait for a server that never answers; then all read a file at once.
#[test]
fn a_crowd_needs_few_descriptors() {
    let _turn = turn();
    let silent = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let address = silent.local_addr().expect("bound");
    let live = Arc::new(Live::default());
    live.watch();
    let waiting = {
        let (live, load) = (live.clone(), reads(address, CROWD, Expected::Anything));
        thread::spawn(move || load::run(&load, &live).expect("a run"))
    };
    while live.counts()[2] < u64::from(CROWD) {
        thread::yield_now();
    }
    let descriptors = fs::read_dir("/proc/self/fd").expect("Linux").count();
    live.stop();
    let report = waiting.join().expect("a run");
    assert!(descriptors <= DESCRIPTORS_MAX, "{descriptors} descriptors");
    assert_eq!(report.tally.left, u64::from(CROWD));

    let root = tempfile::tempdir().expect("a directory");
    let contents = peer::octets(5, 5_000);
    fs::write(root.path().join("image"), &contents).expect("a file");
    let (_server, address) = peer::serve(root.path());
    let mut load = reads(address, CROWD, octets(&contents));
    load.groups[0].pace = Pace::Storm {
        clients: CROWD,
        within: Duration::ZERO,
    };
    let report = run(&load);
    assert!(report.is_good(), "{report}");
    assert_eq!(report.tally.octets, u64::from(CROWD) * 5_000);
}

/// Goal: if each client takes a descriptor, there are as many as the system allows; if that is too few, the
/// message says what to do. Method: the command with a low limit that it may raise, then with one that it may
/// not, against a server that never answers.
#[test]
fn clients_off_loopback_get_their_descriptors() {
    let _turn = turn();
    let Ok(silent) = UdpSocket::bind("[::1]:0") else {
        common::skip("this machine has no IPv6");
        return;
    };
    let url = format!("tftp://{}/image", silent.local_addr().expect("bound"));
    let load = |limit: &str| {
        let words = [env!("CARGO_BIN_EXE_bootstorm"), "load", &url];
        let line = format!("ulimit {limit} 64; exec \"$0\" \"$@\" -n 200 --patience 0.2");
        let output = Command::new("sh").args(["-c", &line]).args(words).output();
        String::from_utf8(output.expect("a shell").stdout).expect("text")
    };
    let raised = load("-Sn");
    assert!(raised.contains("200 unanswered"), "{raised}");
    let fixed = load("-n");
    assert!(fixed.contains("raise ulimit -n"), "{fixed}");
}

/// Goal: no coordinated omission. Method: an open loop of 4 s, during which the server is stopped for one
/// second; the tail of the latencies shows that second.
#[test]
fn a_server_that_stalls_cannot_hide() {
    let _turn = turn();
    let root = tempfile::tempdir().expect("a directory");
    fs::write(root.path().join("image"), peer::octets(6, 1_000)).expect("a file");
    let (mut server, address) = spawn_server(root.path());
    let pid = Pid::from_child(&server);
    let url = format!("tftp://{address}/image");
    let mut generator = Command::new(env!("CARGO_BIN_EXE_bootstorm"));
    generator.args(["load", &url, "--rate", "200", "--duration", "4"]);
    generator.args(["--json", "-", "--server-pid", &server.id().to_string()]);
    let generator = generator
        .stdout(Stdio::piped())
        .spawn()
        .expect("the generator starts");
    thread::sleep(STOPPED);
    kill_process(pid, Signal::STOP).expect("a server");
    thread::sleep(STOPPED);
    kill_process(pid, Signal::CONT).expect("a server");
    let output = generator.wait_with_output().expect("the generator ends");
    server.kill().expect("a server");
    server.wait().expect("a server");
    assert!(output.status.success());
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let transfer = &report["latencies_seconds"]["transfer"];
    for name in ["p99", "p99.9", "max"] {
        let seconds = transfer[name].as_f64().expect("a number");
        assert!(seconds >= SEEN_SECONDS, "{name}: {transfer}");
    }
    // A quarter of all came while it was stopped; those before and after were quick.
    assert!(
        transfer["p50"].as_f64().expect("a number") < SEEN_SECONDS,
        "{transfer}"
    );
    assert!(report["server_process"]["memory_octets_max"].as_u64() > Some(0));
}

/// Goal: one process plays ten thousand clients and verifies every octet of each, within a reported amount of
/// memory. Method: a storm against another process, with clients slow enough to run concurrently; neither end
/// gives up however busy the machine is. The report as JSON and as text.
#[test]
fn ten_thousand_verified_clients_in_little_memory() {
    let _turn = turn();
    let root = tempfile::tempdir().expect("a directory");
    let image = fs::File::create(root.path().join("image")).expect("a file");
    contents::write(MANY_SIZE, image).expect("a file");
    let (mut server, address) = spawn_patient_server(root.path());
    let json = root.path().join("report.json");
    let output = Command::new(env!("CARGO_BIN_EXE_bootstorm"))
        .args([
            "load",
            &format!("tftp://{address}/image"),
            "--verify",
            "pattern",
        ])
        .args(["--clients", &MANY.to_string(), "--within", "3"])
        .args(["--blksize", "1428", "--windowsize", "16", "--slow", "500"])
        .args(["--patience", PATIENT_SECONDS])
        .arg("--json")
        .arg(&json)
        .output()
        .expect("the generator runs");
    server.kill().expect("a server");
    server.wait().expect("a server");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("every octet compared"), "{text}");
    let report = fs::read(json).expect("a file");
    let report: serde_json::Value = serde_json::from_slice(&report).expect("JSON");
    assert_eq!(report["transfers_complete"], MANY, "{text}");
    assert_eq!(report["octets"], MANY * MANY_SIZE, "{text}");
    let terms = serde_json::json!([{ "blksize": 1428, "windowsize": 16, "transfers": MANY }]);
    assert_eq!(report["terms"], terms);
    let memory = report["own_memory_octets_max"].as_u64().expect("a number");
    assert!(
        (1..=MANY_MEMORY_MAX).contains(&memory),
        "{memory} octets of memory"
    );
    let told = format!(", {} MiB at most, ", memory >> 20);
    assert!(text.contains(&told), "{told}: {text}");
}

/// Goal: clients without their own addresses reuse each other's sockets, and threads share the work. Method:
/// IPv6's one loopback address, two threads, a pause between transfers.
#[test]
fn sockets_are_used_again_where_addresses_are_few() {
    let _turn = turn();
    if UdpSocket::bind("[::1]:0").is_err() {
        return common::skip("this machine has no IPv6");
    }
    let root = tempfile::tempdir().expect("a directory");
    let contents = peer::octets(8, 20_000);
    fs::write(root.path().join("image"), &contents).expect("a file");
    let mut options = peer::options(root.path());
    options.listen = vec!["[::1]:0".parse().expect("an address")];
    let server = peer::start(&options);
    let mut load = reads(server.addresses()[0], 7, octets(&contents));
    load.threads = 2;
    load.groups[0].pace = Pace::Closed {
        clients: 7,
        think: Duration::from_millis(1),
    };
    load.groups[0].bounds.transfers = Some(101);
    let report = run(&load);
    assert!(report.is_good(), "{report}");
    assert_eq!((report.tally.begun, report.tally.complete), (101, 101));
    let metrics = metrics_at_rest(&server);
    assert_eq!(metrics.octets_sent, report.tally.octets);
}

/// Goal: an interrupted run gives a summary and no failures, and an exit code that says that it is
/// incomplete. Method: SIGINT while a client waits for a server that never answers.
#[test]
fn an_interrupt_ends_with_a_summary() {
    let _turn = turn();
    let silent = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let address = silent.local_addr().expect("bound");
    let folder = tempfile::tempdir().expect("a directory");
    let percentiles = folder.path().join("percentiles.hgrm");
    let generator = Command::new(env!("CARGO_BIN_EXE_bootstorm"))
        .args([
            "load",
            &format!("tftp://{address}/image"),
            "-n",
            "3",
            "--hgrm",
        ])
        .arg(&percentiles)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the generator starts");
    silent.recv_from(&mut [0; 512]).expect("a request");
    kill_process(Pid::from_child(&generator), Signal::INT).expect("a generator");
    let output = generator.wait_with_output().expect("the generator ends");
    let text = String::from_utf8(output.stdout).expect("text");
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("0 of 3, 3 interrupted"), "{text}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("interrupted with 3 transfers under way"),
        "{said}"
    );
    let written = fs::read_to_string(percentiles).expect("a file");
    assert!(
        written.contains("Total count    =            0"),
        "{written}"
    );
}

/// Goal: events that never happened have no percentiles, which is not the same as 0. Method: clients without
/// options, and a server that does not have the requested file.
#[test]
fn percentiles_of_nothing_are_no_numbers() {
    let _turn = turn();
    let root = tempfile::tempdir().expect("a directory");
    fs::write(root.path().join("image"), peer::octets(9, 1_000)).expect("a file");
    let (_server, address) = peer::serve(root.path());
    let plain = profile::find("plain").expect("a profile");
    let mut load = with(reads(address, 3, Expected::Anything), plain);
    let text = run(&load).to_string();
    let row = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.trim().starts_with(name));
        let line = line.unwrap_or_else(|| panic!("no {name}: {text}"));
        let cells = line.trim()[name.len()..].split_ascii_whitespace();
        cells.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(row(&text, "OACK"), ["0", "–", "–", "–", "–", "–"]);
    assert_eq!(row(&text, "first block")[0], "3");

    load.groups[0].files[0].name = b"absent".to_vec();
    let report = run(&load);
    let text = report.to_string();
    assert_eq!(row(&text, "whole transfer"), row(&text, "OACK"));
    let json = as_json(&report);
    let transfer = &json["latencies_seconds"]["transfer"];
    assert_eq!(
        (&transfer["count"], &transfer["p99"]),
        (&0.into(), &().into())
    );
}

/// Goal: failed transfers do not make a server look quicker. Method: half of the files exist; failed
/// transfers count as the slowest in the reported percentiles.
#[test]
fn whoever_failed_counts_among_the_slowest() {
    let _turn = turn();
    let root = tempfile::tempdir().expect("a directory");
    fs::write(root.path().join("image"), peer::octets(10, 1_000)).expect("a file");
    let (_server, address) = peer::serve(root.path());
    let mut load = reads(address, 5, Expected::Anything);
    load.groups[0]
        .files
        .push(file("absent", Expected::Anything));
    load.groups[0].bounds.transfers = Some(200);
    let report = run(&load);
    let (complete, failed) = (report.tally.complete, report.tally.failed());
    assert!(
        complete > 2 && failed > 2 && complete + failed == 200,
        "{report}"
    );
    let json = as_json(&report);
    for name in ["transfer", "first_block"] {
        let latency = &json["latencies_seconds"][name];
        assert_eq!(
            (&latency["count"], &latency["failed"]),
            (&complete.into(), &failed.into())
        );
        for known in ["p90", "p99", "p99.9", "max"] {
            assert!(latency[known].is_null(), "{known}: {latency}");
        }
        assert_eq!(latency["p50"].is_null(), complete < 100, "{latency}");
    }
    let text = report.to_string();
    assert!(
        text.contains("percentiles are of all, those that failed"),
        "{text}"
    );
    let page = as_page(&report);
    assert!(!page.contains("99 of 100 transfers took"), "{page}");
    let mut percentiles = Vec::new();
    hgrm::write(&report, &mut percentiles).expect("memory takes it");
    let percentiles = String::from_utf8(percentiles).expect("text");
    assert!(!percentiles.contains(" 1.000000000000 "), "{percentiles}");
    let told = format!("of 200 transfers, of which {failed} did not complete");
    assert!(percentiles.contains(&told), "{percentiles}");
}

/// Goal: a stalled server's report shows how long clients waited, although none saw the end of it. Method: an
/// open loop against a server that never answers, interrupted.
#[test]
fn whoever_was_interrupted_has_waited() {
    let _turn = turn();
    let silent = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let mut load = reads(silent.local_addr().expect("bound"), 1, Expected::Anything);
    load.groups[0].pace = Pace::Open {
        per_second: 500.0,
        even: true,
    };
    load.groups[0].bounds.transfers = None;
    let live = Arc::new(Live::default());
    let waiting = {
        let live = live.clone();
        thread::spawn(move || load::run(&load, &live).expect("a run"))
    };
    for _ in 0..100 {
        silent.recv_from(&mut [0; 512]).expect("a request");
    }
    live.stop();
    let report = waiting.join().expect("a run");
    let json = as_json(&report);
    for name in ["oack", "first_block", "transfer"] {
        let latency = &json["latencies_seconds"][name];
        assert!(latency["p99"].is_null(), "{latency}");
        assert!(latency["cut_off"].as_u64() >= Some(100), "{latency}");
        // A hundred that come every 2 ms.
        let least = latency["at_least"]["p99"].as_f64().expect("a number");
        assert!(least > 0.15, "{latency}");
    }
    assert!(report.to_string().contains("≥"), "{report}");
    let page = as_page(&report);
    assert!(
        page.contains("is what 99 of 100 transfers took at least: "),
        "{page}"
    );
    assert!(page.contains("Interrupted when 0 of "), "{page}");
}

/// Goal: no cost is reported if nothing was transferred. Method: a watched server that does not have the
/// requested file; as text, as JSON and as a page.
#[test]
fn the_price_of_nothing_is_no_number() {
    let _turn = turn();
    let root = tempfile::tempdir().expect("a directory");
    let (_server, address) = peer::serve(root.path());
    let mut load = reads(address, 3, Expected::Anything);
    load.server_pid = Some(std::process::id());
    let report = run(&load);
    let text = report.to_string();
    assert!(
        text.contains(" CPU s, – CPU s/GB, – us a transfer, "),
        "{text}"
    );
    let json = as_json(&report);
    let server = &json["server_process"];
    assert!(server["processor_seconds"].is_number(), "{json}");
    for price in ["gigabyte", "transfer"] {
        let price = &server[format!("processor_seconds_per_{price}")];
        assert!(price.is_null(), "{json}");
    }
    let page = as_page(&report);
    assert!(!page.contains("for each gigabyte"), "{page}");
}

/// Goal: a figure known to be incomplete is not reported as complete. Method: a run whose server had children
/// that were not observed.
#[test]
fn what_is_at_least_so_much_is_told_so() {
    let _turn = turn();
    let root = tempfile::tempdir().expect("a directory");
    fs::write(root.path().join("image"), peer::octets(10, 1_000)).expect("a file");
    let (_server, address) = peer::serve(root.path());
    let mut load = reads(address, 1, Expected::Anything);
    load.server_pid = Some(std::process::id());
    let mut report = run(&load);
    let usage = report.server.as_mut().expect("this process");
    assert!(!usage.at_least);
    usage.at_least = true;
    let text = report.to_string();
    assert!(text.contains("at least 0."), "{text}");
    assert!(
        text.contains("WARNING: the server's process ignores its children"),
        "{text}"
    );
}

/// Goal: the table reads well. Method: a snapshot with each number as 0.
#[test]
fn the_table() {
    let _turn = turn();
    let root = tempfile::tempdir().expect("a directory");
    let contents = peer::octets(7, 100_000);
    fs::write(root.path().join("image"), &contents).expect("a file");
    let (_server, address) = peer::serve(root.path());
    let mut load = reads(address, 10, octets(&contents));
    load.server_pid = Some(std::process::id());
    let absent = File {
        name: b"absent".to_vec(),
        ..load.groups[0].files[0].clone()
    };
    load.groups[0].files.push(absent);
    load.groups[0].bounds.transfers = Some(40);
    let text = run(&load).to_string();
    let lines: Vec<String> = text.lines().map(without_numbers).collect();
    let told = lines.iter().filter(|line| !line.starts_with("WARNING"));
    insta::assert_snapshot!(told.cloned().collect::<Vec<_>>().join("\n"));
}

fn turn() -> std::sync::MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

fn octets(octets: &[u8]) -> Expected {
    Expected::Octets(octets.into())
}

/// So many clients, each of which reads `image` once.
fn reads(server: SocketAddr, clients: u32, expected: Expected) -> Load {
    let files = vec![file("image", expected)];
    let mut load = Load::new(server, vec![Group::new(files, clients)]);
    let profile = &mut load.groups[0].profiles[0].0;
    profile.patience = profile::find("plain").expect("a profile").patience;
    profile.wanted.windowsize = Some(8);
    load
}

fn file(name: &str, expected: Expected) -> File {
    File {
        name: name.as_bytes().to_vec(),
        weight: 1,
        expected: Arc::new(expected),
    }
}

fn with(mut load: Load, profile: &Profile) -> Load {
    load.groups[0].profiles = vec![(*profile, 1)];
    load
}

fn run(load: &Load) -> Report {
    load::run(load, &Arc::new(Live::default())).expect("a run")
}

fn as_json(report: &Report) -> serde_json::Value {
    let mut json = Vec::new();
    json::write(report, &mut json).expect("memory takes it");
    serde_json::from_slice(&json).expect("JSON")
}

fn as_page(report: &Report) -> String {
    let mut page = Vec::new();
    html::write(report, &html::Head::default(), &mut page).expect("memory takes it");
    String::from_utf8(page).expect("text")
}

/// The server's counters once no transfer runs: its last ACK may still be on the way.
fn metrics_at_rest(server: &Server) -> Metrics {
    loop {
        let (sender, metrics) = mpsc::channel();
        server.report(move |metrics| {
            let _ = sender.send(metrics);
        });
        let metrics = metrics.recv().expect("a shard");
        if metrics.active() == 0 {
            return metrics;
        }
    }
}

/// Starts the command as a server, and says where it listens.
fn spawn_server(root: &Path) -> (Child, SocketAddr) {
    spawn(serve_command(), root)
}

/// The same, of a server that gives nobody up.
fn spawn_patient_server(root: &Path) -> (Child, SocketAddr) {
    let mut server = serve_command();
    server.args(["--idle-timeout", PATIENT_SECONDS]);
    spawn(server, root)
}

fn serve_command() -> Command {
    let mut server = Command::new(env!("CARGO_BIN_EXE_bootstorm"));
    server.args(["serve", ".", "--listen", "127.0.0.1:0", "--workers", "1"]);
    server
}

fn spawn(mut server: Command, root: &Path) -> (Child, SocketAddr) {
    let mut server = server
        .args(["--log-filter", "warn"])
        .current_dir(root)
        .stderr(Stdio::piped())
        .spawn()
        .expect("the server starts");
    let lines = BufReader::new(server.stderr.take().expect("a pipe")).lines();
    let address = lines
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("listening on udp ")?.parse().ok());
    (server, address.expect("it listens"))
}

/// The line with a 0 for each number, and one space for several.
fn without_numbers(line: &str) -> String {
    let mut text = String::new();
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        let next = characters.peek().copied().unwrap_or(' ');
        let inside = matches!(character, ',' | '.') && next.is_ascii_digit();
        let number = character.is_ascii_digit() || inside && text.ends_with('0');
        match character {
            _ if number && text.ends_with('0') => {}
            ' ' if text.ends_with(' ') => {}
            _ if number => text.push('0'),
            other => text.push(other),
        }
    }
    text
}
