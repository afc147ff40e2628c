//! What a load can be made of: weather, kinds of clients, a pattern, a ramp, a scenario.

use std::process::Output;

use bootstorm::load::plan::Bounds;
use bootstorm::load::profile::Flash;
use bootstorm::load::ramp::{self, Broken, Ramp, Step};
use bootstorm::load::report::html;
use bootstorm::load::{Tally, Weather};
use bootstorm::store::memory::pattern_fill;

use super::*;

/// Transfers that the server of the ramp takes at a time.
const TRANSFERS_MAX: usize = 6;

/// Goal: each kind of weather does what it says, on reads and writes, and spoils nothing. Method: one run
/// for each, whose contents are compared.
#[test]
fn weather_disturbs_and_spoils_nothing() {
    let _turn = turn();
    let root = tempfile::tempdir().expect("a directory");
    let contents = peer::octets(11, 60_000);
    fs::write(root.path().join("image"), &contents).expect("a file");
    let mut options = peer::options(root.path());
    options.directory.writes = Writes::Create;
    let server = peer::start(&options);
    let address = server.addresses()[0];
    let fair = Weather::FAIR;
    let delay = (Duration::from_millis(1), Duration::from_millis(3));
    let kinds = [
        Weather {
            duplicate: 0.1,
            ..fair
        },
        Weather {
            reorder: 0.1,
            ..fair
        },
        Weather { delay, ..fair },
    ];
    for (number, weather) in kinds.into_iter().enumerate() {
        let mut load = reads(address, 10, octets(&contents));
        load.groups[0].weather = weather;
        let report = run(&load);
        assert!(report.is_good(), "{report}");
        assert_eq!(happened(&report), [number], "{report}");

        load.groups[0].work = Work::Write(Contents::Octets(contents.clone().into()));
        load.groups[0].files[0].name = format!("{number}-{{number}}").into_bytes();
        let report = run(&load);
        assert!(report.is_good(), "{report}");
        assert_eq!(happened(&report), [number], "{report}");
        for transfer in 0..10 {
            let written = fs::read(root.path().join(format!("{number}-{transfer}")));
            assert!(written.expect("a file") == contents, "{transfer}");
        }
    }
}

/// What was done to packets: duplicated, reordered, delayed or lost, by number.
fn happened(report: &Report) -> Vec<usize> {
    let done = report.tally.disturbed;
    let counts = [done.duplicated, done.reordered, done.delayed, done.lost];
    (0..4).filter(|&kind| counts[kind] > 0).collect()
}

/// Goal: on the wire too, clients ask again as their models do. Method: a server that says nothing counts the
/// requests of one client each within a second; fewer than its model's may come of a busy machine, but not so
/// few as by doubling from a second on, nor more than the model's.
#[test]
fn clients_ask_a_silent_server_as_their_models_do() {
    let _turn = turn();
    for (name, least, most) in [
        ("grub", 2, 3),
        ("pxelinux", 3, 6),
        ("busybox", 3, 5),
        ("uboot", 1, 1),
    ] {
        let silent = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let address = silent.local_addr().expect("bound");
        let model = profile::find(name).expect("a profile");
        for write in [false, true] {
            let mut load = with(reads(address, 1, Expected::Anything), model);
            let group = &mut load.groups[0];
            group.profiles[0].0.patience.idle = Duration::from_secs(1);
            if write {
                group.work = Work::Write(Contents::Octets([7; 1_000].into()));
            }
            let report = run(&load);
            let sent = report.tally.sent.total();
            assert!((least..=most).contains(&sent), "{name}: {sent}");
            assert_eq!(report.tally.failures.get(&Failure::Unanswered), Some(&1));
        }
    }
}

/// Goal: who is to vanish does, whether it reads or writes, knows the length or not, and goes without a word.
/// Method: all are to vanish, of a file of many blocks and of one; then half of them. The server counts no
/// transfer that was complete, and hears no ERROR.
#[test]
fn who_is_to_vanish_does() {
    let _turn = turn();
    let root = tempfile::tempdir().expect("a directory");
    let contents = peer::octets(13, 100_000);
    fs::write(root.path().join("image"), &contents).expect("a file");
    fs::write(root.path().join("small"), &contents[..100]).expect("a file");
    let mut options = peer::options(root.path());
    options.directory.writes = Writes::Create;
    options.settings.patience.idle = Duration::from_secs(1);
    let server = peer::start(&options);
    let address = server.addresses()[0];
    let plain = profile::find("plain").expect("a profile");
    for (name, len) in [("image", 100_000), ("small", 100)] {
        let known = reads(address, 20, octets(&contents[..len]));
        let announced = reads(address, 20, Expected::Anything);
        let unknown = with(announced.clone(), plain);
        let mut write = announced.clone();
        write.groups[0].work = Work::Write(Contents::Octets(contents[..len].into()));
        for (kind, mut load) in [known, announced, unknown, write].into_iter().enumerate() {
            let file = if kind == 3 { "up-{number}" } else { name };
            load.groups[0].files[0].name = file.as_bytes().to_vec();
            load.groups[0].abandon = 1.0;
            let report = run(&load);
            let tally = &report.tally;
            assert_eq!(
                (tally.left, tally.complete),
                (20, 0),
                "{name} {kind}: {report}"
            );
            let errors = tally.sent.by_type().find(|(name, _)| *name == "error");
            assert_eq!(errors, Some(("error", 0)), "{name} {kind}: {report}");
        }
    }
    let metrics = metrics_at_rest(&server);
    assert_eq!(metrics.ended.get("complete"), None, "{:?}", metrics.ended);
    assert_eq!(fs::read_dir(root.path()).expect("a directory").count(), 2);

    let mut half = reads(address, 200, Expected::Anything);
    half.groups[0].abandon = 0.5;
    let report = run(&half);
    let Tally { left, octets, .. } = report.tally;
    assert!((60..140).contains(&left), "{report}");
    // They vanish anywhere, half way on the average.
    let some = (200 - left) * 100_000 + left * 25_000;
    let most = (200 - left) * 100_000 + left * 75_000;
    assert!((some..most).contains(&octets), "{report}");
}

/// Goal: a group's weather is its own, and so are its numbers. Method: one group loses everything, another
/// nothing.
#[test]
fn each_group_has_its_own_weather() {
    let _turn = turn();
    let root = tempfile::tempdir().expect("a directory");
    let contents = peer::octets(12, 60_000);
    fs::write(root.path().join("image"), &contents).expect("a file");
    let (_server, address) = peer::serve(root.path());
    let mut load = reads(address, 5, octets(&contents));
    let mut lost = load.groups[0].clone();
    lost.weather.loss = 1.0;
    lost.profiles[0].0.patience.idle = Duration::from_millis(300);
    load.groups.push(lost);
    let report = run(&load);
    let counts = report
        .groups
        .iter()
        .map(|tally| (tally.complete, tally.failed()));
    assert_eq!(counts.collect::<Vec<_>>(), [(5, 0), (0, 5)], "{report}");
    assert_eq!((report.tally.complete, report.tally.failed()), (5, 5));
}

/// Goal: nobody waits for a server that is not there. Method: clients of a port that nobody has, which ask
/// once each; and of a server that goes away after its first block.
#[test]
fn who_is_refused_does_not_wait() {
    let _turn = turn();
    for any in ["127.0.0.1:0", "[::1]:0"] {
        let Ok(nobody) = common::refusing(any) else {
            common::skip("this machine has no IPv6");
            continue;
        };
        let address = nobody.local_addr().expect("bound");
        let report = run(&reads(address, 50, Expected::Anything));
        let failures: Vec<_> = report.tally.failures.iter().collect();
        assert_eq!(failures, [(&Failure::Refused, &50)], "{report}");
        assert_eq!(report.tally.sent.total(), 50, "{report}");
    }

    let server = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let address = server.local_addr().expect("bound");
    let load = reads(address, 1, Expected::Anything);
    let client = thread::spawn(move || run(&load));
    let (_, from) = server.recv_from(&mut [0; 512]).expect("a request");
    let transfer = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let block = [&[0, 3, 0, 1][..], &[7; 512]].concat();
    transfer.send_to(&block, from).expect("sends");
    drop(transfer);
    let report = client.join().expect("a run");
    assert_eq!(
        report.tally.failures.get(&Failure::Refused),
        Some(&1),
        "{report}"
    );
}

/// Goal: clients that have ports of their own ask from them, and clients that write to flash stand still.
/// Method: a server that never answers is asked by GRUB; one that does, by a client with a slow flash.
#[test]
fn quirks_of_clients() {
    let _turn = turn();
    let silent = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let address = silent.local_addr().expect("bound");
    let grub = profile::find("grub").expect("a profile");
    let (first, last) = grub.ports.expect("ports of its own");
    let live = Arc::new(Live::default());
    let load = with(reads(address, 2, Expected::Anything), grub);
    let waiting = {
        let live = live.clone();
        thread::spawn(move || load::run(&load, &live).expect("a run"))
    };
    let mut buffer = [0; 512];
    let asked = [0; 2].map(|_| silent.recv_from(&mut buffer).expect("a request").1);
    live.stop();
    waiting.join().expect("a run");
    assert_ne!(asked[0].ip(), asked[1].ip());
    for address in asked {
        assert!((first..=last).contains(&address.port()), "{address}");
    }

    let root = tempfile::tempdir().expect("a directory");
    let contents = peer::octets(13, 20_000);
    fs::write(root.path().join("image"), &contents).expect("a file");
    let (_server, address) = peer::serve(root.path());
    let mut load = reads(address, 1, octets(&contents));
    let pause = Duration::from_millis(50);
    load.groups[0].profiles[0].0.flash = Some(Flash { blocks: 8, pause });
    let report = run(&load);
    assert!(report.is_good(), "{report}");
    // 15 blocks: one pause.
    let longest = report.tally.transfer.exact_quantile(1.0);
    assert!(longest >= Some(pause), "{report}");
}

/// Goal: how long a block takes is the server's and the network's time, not what this end makes its clients wait.
/// Method: clients that are slow, of a server that is not; reads and writes, each packet delayed.
#[test]
fn round_trips_are_without_what_this_end_adds() {
    let _turn = turn();
    let root = tempfile::tempdir().expect("a directory");
    let contents = peer::octets(19, 6_000);
    fs::write(root.path().join("image"), &contents).expect("a file");
    let mut options = peer::options(root.path());
    options.directory.writes = Writes::Create;
    let server = peer::start(&options);
    let waits = Duration::from_millis(500);
    let mut load = reads(server.addresses()[0], 3, octets(&contents));
    load.groups[0].profiles[0].0.wanted.windowsize = None;
    load.groups[0].profiles[0].0.slow = waits;
    let slow = run(&load);

    load.groups[0].profiles[0].0.slow = Duration::ZERO;
    load.groups[0].weather.delay = (waits, waits);
    let delayed = run(&load);

    load.groups[0].work = Work::Write(Contents::Octets(contents.into()));
    load.groups[0].files[0].name = b"up-{number}".to_vec();
    let written = run(&load);
    for report in [slow, delayed, written] {
        assert!(report.is_good(), "{report}");
        let round_trips = &report.tally.round_trip;
        assert!(round_trips.came().count() >= 9, "{report}");
        let most = round_trips.exact_quantile(0.75).expect("round trips");
        assert!(most < waits, "{report}");
    }
}

/// Goal: several kinds of clients come together. Method: the terms of both are agreed to.
#[test]
fn clients_of_several_kinds() {
    let _turn = turn();
    let root = tempfile::tempdir().expect("a directory");
    let contents = peer::octets(14, 30_000);
    fs::write(root.path().join("image"), &contents).expect("a file");
    let (_server, address) = peer::serve(root.path());
    let mut load = reads(address, 100, octets(&contents));
    let profile = |name| *profile::find(name).expect("a profile");
    load.groups[0].profiles = vec![(profile("ipxe"), 3), (profile("edk2"), 1)];
    let report = run(&load);
    assert!(report.is_good(), "{report}");
    let terms: Vec<_> = report.tally.terms.keys().copied().collect();
    assert_eq!(terms, [(1432, 1), (1468, 4)]);
    assert_eq!(report.tally.probes, report.tally.terms[&(1468, 4)]);
}

/// Goal: the pattern is verified at any length, read and written, and each file of a directory against its
/// own. Method: the command, as operators use it; then one octet is changed.
#[test]
fn contents_are_verified_without_a_copy_or_against_a_directory() {
    let _turn = turn();
    let root = tempfile::tempdir().expect("a directory");
    let image = root.path().join("image");
    let written = Command::new(env!("CARGO_BIN_EXE_bootstorm"))
        .args(["load", "pattern", "--size", "300001"])
        .arg(&image)
        .status();
    assert!(written.expect("it runs").success());
    fs::write(root.path().join("other"), peer::octets(15, 5_000)).expect("a file");
    let mut options = peer::options(root.path());
    options.directory.writes = Writes::Create;
    let server = peer::start(&options);
    let host = format!("tftp://{}", server.addresses()[0]);
    let url = format!("{host}/image");
    let directory = root.path().to_str().expect("text").to_owned();

    let good = load_command(&[&url, "--verify", "pattern", "-n", "5"]);
    assert!(good.status.success(), "{good:?}");
    let both = [&url, "other", "--verify", &directory, "--transfers", "20"];
    assert!(load_command(&both).status.success());
    let upload = format!("{host}/up");
    let write = [&upload, "--write", "pattern", "--size", "100000"];
    assert!(load_command(&write).status.success());
    let mut expected = vec![0; 100_000];
    pattern_fill(bootstorm::shard::PATTERN_SEED, 0, &mut expected);
    assert!(fs::read(root.path().join("up")).expect("a file") == expected);

    let copy = tempfile::tempdir().expect("a directory");
    fs::copy(&image, copy.path().join("image")).expect("a file");
    let mut contents = fs::read(&image).expect("a file");
    contents[299_000] ^= 1;
    fs::write(&image, &contents).expect("a file");
    for verify in ["pattern", copy.path().to_str().expect("text")] {
        let bad = load_command(&[&url, "--verify", verify]);
        assert_eq!(bad.status.code(), Some(1), "{bad:?}");
        let text = String::from_utf8_lossy(&bad.stdout).into_owned();
        assert!(
            text.contains("FAILED                    1 corrupt, of \"image\""),
            "{text}"
        );
    }
}

/// Goal: a ramp ends once the server no longer keeps up, and finds the highest load that it bears. Method: a
/// server that takes six transfers at a time is asked by four clients, then by eight, which keep their
/// transfers for longer than the others wait; then by those between.
#[test]
fn a_ramp_ends_and_names_the_load_that_held() {
    let _turn = turn();
    let root = tempfile::tempdir().expect("a directory");
    let contents = peer::octets(16, 14_000);
    fs::write(root.path().join("image"), &contents).expect("a file");
    let mut options = peer::options(root.path());
    options.settings.transfers_max = TRANSFERS_MAX;
    let server = peer::start(&options);
    let mut load = reads(server.addresses()[0], 4, octets(&contents));
    let profile = &mut load.groups[0].profiles[0].0;
    profile.wanted.windowsize = None;
    // Ten blocks make 2 s.
    profile.slow = Duration::from_millis(200);
    profile.patience.idle = Duration::from_millis(1_500);
    let ramp = Ramp {
        factor: 2.0,
        step: Duration::from_millis(500),
        rest: Duration::ZERO,
        bound_p99: Duration::from_secs(60),
        ..Ramp::DEFAULT
    };
    let climb = ramp::run(&load, ramp, &Arc::new(Live::default())).expect("a ramp");
    let levels: Vec<_> = climb
        .steps
        .iter()
        .map(|step| ramp::level(step.pace))
        .collect();
    assert_eq!(levels, [4.0, 8.0, 6.0, 7.0].map(Some), "{climb}");
    let level = |step: Option<&Step>| step.and_then(|step| ramp::level(step.pace));
    assert_eq!(level(climb.held()), Some(6.0), "{climb}");
    assert_eq!(level(climb.not_held()), Some(7.0), "{climb}");
    let broken = climb.not_held().and_then(|step| step.broken);
    assert!(matches!(broken, Some(Broken::Failures(_))), "{climb}");
    let text = climb.to_string();
    assert!(
        text.contains(
            "6 clients kept busy is the highest load that held; 7 clients kept busy did not ("
        ),
        "{text}"
    );
}

/// Goal: the ramp of the command tells each step, as text and as JSON, and that it came to its top. Method:
/// two small steps up to a top that any server bears.
#[test]
fn a_ramp_that_comes_to_its_top() {
    let _turn = turn();
    let root = tempfile::tempdir().expect("a directory");
    fs::write(root.path().join("image"), peer::octets(17, 1_000)).expect("a file");
    let (_server, address) = peer::serve(root.path());
    let url = format!("tftp://{address}/image");
    let json = root.path().join("report.json");
    let output = load_command(&[
        &url,
        "--ramp=2",
        "--ramp-to=20",
        "--rate=10",
        "--duration=0.3",
        "--bound-p99=60000",
        "--json",
        json.to_str().expect("text"),
    ]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}");
    assert!(
        text.contains("20 new clients a second is the highest load that held"),
        "{text}"
    );
    assert!(text.contains("--ramp-to"), "{text}");
    let json = fs::read(json).expect("a file");
    let json: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
    assert_eq!(json["held"].as_f64(), Some(20.0), "{json}");
    let steps = json["steps"].as_array().expect("steps");
    assert_eq!(steps.len(), 2);
    assert_eq!(steps[0]["load"].as_f64(), Some(10.0));
    assert!(steps[1]["report"]["latencies_seconds"]["first_block"]["p99"].is_number());
}

/// Goal: a ramp that is ended says so, and blames nobody. Method: one that is over before it begins, as text and
/// as a page.
#[test]
fn a_ramp_that_is_ended_blames_nobody() {
    let _turn = turn();
    let silent = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let load = reads(silent.local_addr().expect("bound"), 1, Expected::Anything);
    let live = Arc::new(Live::default());
    live.stop();
    let climb = ramp::run(&load, Ramp::DEFAULT, &live).expect("a ramp");
    assert_eq!(climb.steps.len(), 1);
    assert!(climb.held().is_none() && climb.not_held().is_none());
    let text = climb.to_string();
    assert!(text.contains("ended amid the first step"), "{text}");
    assert!(!text.contains("held\n"), "{text}");
    let mut page = Vec::new();
    html::write_climb(&climb, &html::Head::default(), &mut page).expect("memory takes it");
    let page = String::from_utf8(page).expect("text");
    assert!(page.contains("Ended amid the first step"), "{page}");
    assert!(!page.contains("NaN") && !page.contains("inf"), "{page}");
}

/// Goal: the scenario that comes with the program works as its own text says. Method: its files are made
/// as it says, and it is run.
#[test]
fn the_scenario_that_is_shipped() {
    let _turn = turn();
    let root = tempfile::tempdir().expect("a directory");
    let scenario = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/storm.toml");
    let text = fs::read_to_string(scenario).expect("a scenario");
    let recipes = text
        .lines()
        .filter_map(|line| line.strip_prefix("#     bootstorm "));
    let mut files = 0;
    for recipe in recipes.filter(|recipe| recipe.starts_with("load pattern")) {
        let made = Command::new(env!("CARGO_BIN_EXE_bootstorm"))
            .args(recipe.split(' '))
            .current_dir(root.path())
            .status();
        assert!(made.expect("it runs").success(), "{recipe}");
        files += 1;
    }
    assert!(files > 0);
    let mut options = peer::options(root.path());
    options.directory.writes = Writes::Overwrite;
    let server = peer::start(&options);
    let url = format!("tftp://{}", server.addresses()[0]);
    let output = load_command(&[&url, "--scenario", scenario, "--json", "-"]);
    assert!(output.status.success(), "{output:?}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let groups = report["groups"].as_array().expect("groups");
    assert_eq!(groups.len(), text.matches("[[group]]").count());
    for group in groups {
        assert_eq!(group["transfers_failed"], 0, "{group}");
        assert!(group["transfers_complete"].as_u64() > Some(0), "{group}");
    }
}

/// Goal: a mistake in a scenario is told with its file and line. Method: a key that there is not.
#[test]
fn a_scenario_with_a_mistake() {
    let folder = tempfile::tempdir().expect("a directory");
    let path = folder.path().join("storm.toml");
    fs::write(
        &path,
        "seed = 1\n\n[[group]]\nfiles = [\"a\"]\nclints = 3\n",
    )
    .expect("a file");
    let path = path.to_str().expect("text");
    let output = load_command(&["tftp://127.0.0.1", "--scenario", path]);
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        text.contains("storm.toml:5: there is no key \"clints\""),
        "{text}"
    );
}

/// Goal: each report may go to standard output, where it stands alone; two may not. Method: `-` for each, and for all;
/// no file is called so afterwards.
#[test]
fn reports_may_go_to_standard_output() {
    let folder = tempfile::tempdir().expect("a directory");
    let load = |options: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_bootstorm"))
            .args(["load", "tftp://127.0.0.1:9/x", "--duration", "0"])
            .args(options)
            .current_dir(folder.path())
            .output()
            .expect("it runs")
    };
    for (option, begin, end) in [
        ("--html", "<!DOCTYPE html>", "</html>"),
        ("--hgrm", "Value", "]"),
        ("--json", "{", "}"),
    ] {
        let output = load(&[option, "-"]);
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{option}: {told}");
        let told = told.trim();
        assert!(told.starts_with(begin) && told.ends_with(end), "{told}");
    }
    let output = load(&["--html", "-", "--json", "-"]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("standard output takes one report"), "{said}");
    let entries = fs::read_dir(folder.path()).expect("a directory");
    assert_eq!(entries.count(), 0);
}

/// Goal: nobody waits for a run whose report has no place to go. Method: a directory that is not there, for each
/// kind of report; the server is asked for nothing.
#[test]
fn a_report_that_has_no_place_to_go_is_told_first() {
    let server = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let url = format!("tftp://{}/x", server.local_addr().expect("bound"));
    for (option, more) in [
        ("--json", ""),
        ("--hgrm", "--quiet"),
        ("--html", ""),
        ("--html", "--ramp"),
    ] {
        let mut arguments = vec![url.as_str(), option, "/nonexistent/report"];
        arguments.extend(Some(more).filter(|more| !more.is_empty()));
        let output = load_command(&arguments);
        assert_eq!(output.status.code(), Some(1), "{option}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            said.contains("cannot write /nonexistent/report"),
            "{option}: {said}"
        );
        assert!(output.stdout.is_empty(), "{option}");
    }
    server.set_nonblocking(true).expect("a socket");
    assert!(server.recv_from(&mut [0; 512]).is_err(), "it was asked");
}

/// Goal: a generator that begins transfers late says so. Method: a rate that no machine keeps, against a server
/// that never answers.
#[test]
fn a_generator_that_cannot_keep_up_says_so() {
    let _turn = turn();
    let silent = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let mut load = reads(silent.local_addr().expect("bound"), 1, Expected::Anything);
    load.groups[0].pace = Pace::Open {
        per_second: 2e6,
        even: true,
    };
    load.groups[0].bounds = Bounds {
        transfers: Some(20_000),
        duration: None,
    };
    let patience = &mut load.groups[0].profiles[0].0.patience;
    patience.idle = Duration::from_millis(500);
    let report = run(&load);
    assert!(report.is_bottleneck(), "{report}");
    let warnings = report.warnings().join("\n");
    assert!(warnings.contains("began transfers late"), "{report}");
}

/// Goal: a run of no time at all has sound numbers. Method: one, as text.
#[test]
fn a_run_of_no_time_at_all() {
    let output = load_command(&["tftp://127.0.0.1:9/x", "--duration", "0"]);
    assert_eq!(output.status.code(), Some(0));
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(table.contains("CPU s, 0 % busy at most, "), "{table}");
}

/// Goal: what is wrong with arguments is said with the usage of the command that they are for. Method: one
/// mistake for each of two commands.
#[test]
fn mistakes_are_told_with_the_usage_of_their_command() {
    for (arguments, usage) in [
        (&["tftp://127.0.0.1"][..], "Usage: bootstorm load [OPTIONS]"),
        (
            &["tftp://127.0.0.1/a", "tftp://127.0.0.1/b"],
            "Usage: bootstorm load [OPTIONS]",
        ),
    ] {
        let output = load_command(arguments);
        assert_eq!(output.status.code(), Some(2));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(usage), "{said}");
    }
    let mut get = Command::new(env!("CARGO_BIN_EXE_bootstorm"));
    let output = get.args(["get", "tftp://127.0.0.1/a", "b"]).output();
    let said = output.expect("it runs").stderr;
    let said = String::from_utf8_lossy(&said);
    assert!(said.contains("Usage: bootstorm get [OPTIONS]"), "{said}");
}

/// Goal: a file that comes to nothing is told, though its first octets were taken. Method: a disk that is full.
#[test]
fn a_full_disk_is_told() {
    for option in ["--hgrm", "--html", "--json"] {
        let output = load_command(&[
            "tftp://127.0.0.1:9/x",
            "--duration",
            "0",
            option,
            "/dev/full",
        ]);
        assert_eq!(output.status.code(), Some(1), "{option}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("cannot write /dev/full"), "{option}: {said}");
    }
}

/// Goal: an even rate is even. Method: as many transfers as there are ticks in the time.
#[test]
fn an_even_rate() {
    let _turn = turn();
    let root = tempfile::tempdir().expect("a directory");
    fs::write(root.path().join("image"), peer::octets(18, 1_000)).expect("a file");
    let (_server, address) = peer::serve(root.path());
    let mut load = reads(address, 1, Expected::Anything);
    load.groups[0].pace = Pace::Open {
        per_second: 100.0,
        even: true,
    };
    load.groups[0].bounds = Bounds {
        transfers: None,
        duration: Some(Duration::from_millis(505)),
    };
    let report = run(&load);
    assert!(report.is_good(), "{report}");
    assert_eq!(report.tally.begun, 50);
}

fn load_command(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bootstorm"))
        .arg("load")
        .args(arguments)
        .output()
        .expect("it runs")
}
