//! The load generator's page in a real browser: every plot is there, nothing is fetched, and a hostile name
//! is shown as a name.

// Clients with addresses of their own are Linux's.
#![cfg(target_os = "linux")]

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bootstorm::load::plan::Pace;
use bootstorm::load::ramp::{self, Ramp};
use bootstorm::load::report::Report;
use bootstorm::load::report::html::{self, Head};
use bootstorm::load::{self, File, Group, Live, Load};
use bootstorm::shard::Expected;
use common::peer;

/// A name that would be a script, were it markup.
const HOSTILE: &[u8] = b"</td><script>console.error('it ran')</script><svg onload='alert(1)'>";
/// Plots on each page.
const PLOTS: [&str; 5] = [
    "throughput",
    "active",
    "failures",
    "percentiles",
    "distribution",
];

/// Goal: a browser shows all plots without errors. Method: a run with failures and a hostile name, opened in
/// Chromium; its console, and the resulting document.
#[test]
fn a_browser_shows_every_plot() {
    let Some(chromium) = common::require("chromium") else {
        return;
    };
    let folder = tempfile::tempdir().expect("a directory");
    let report = run(folder.path());
    assert!(report.tally.complete > 0 && report.tally.failed() > 0);
    let document = opened(&chromium, folder.path(), &page(&report));
    assert_eq!(
        shapes(&document, "throughput"),
        ["grid", "area c0", "line c0"]
    );
    assert_eq!(shapes(&document, "active"), ["grid", "area c2", "line c2"]);
    assert_eq!(shapes(&document, "failures"), ["grid", "bars c1"]);
    assert_eq!(
        shapes(&document, "percentiles"),
        [
            "grid", "line c4", "line c0", "line c1", "line c3", "line c2"
        ]
    );
    assert_eq!(
        shapes(&document, "distribution"),
        ["grid", "area c0", "line c0"]
    );
    assert_eq!(
        document.matches("<script").count(),
        0,
        "a name is no markup"
    );
    assert!(
        document.contains("&lt;script&gt;console.error"),
        "it is shown"
    );
    assert!(document.contains("file not found"));
}

/// Goal: a run in which nothing happened has a page too. Method: a run that is over before it begins.
#[test]
fn a_browser_shows_an_empty_run() {
    let Some(chromium) = common::require("chromium") else {
        return;
    };
    let folder = tempfile::tempdir().expect("a directory");
    let (_server, address) = peer::serve(folder.path());
    let live = Arc::new(Live::default());
    live.stop();
    let report = load::run(&reads(address, &[b"absent"]), &live).expect("a run");
    let document = opened(&chromium, folder.path(), &page(&report));
    for plot in PLOTS {
        assert_eq!(shapes(&document, plot).first(), Some(&"grid"), "{plot}");
    }
    for words in ["Nothing was measured", "No transfer completed", ">None<"] {
        assert!(document.contains(words), "{words}");
    }
    assert!(!document.contains("NaN") && !document.contains("inf"));
}

/// Goal: the page of a ramp shows each step, and which steps held. Method: a server with two concurrent
/// transfers, and clients that keep theirs for longer than others wait.
#[test]
fn a_browser_shows_a_ramp() {
    let Some(chromium) = common::require("chromium") else {
        return;
    };
    let folder = tempfile::tempdir().expect("a directory");
    fs::write(folder.path().join("image"), peer::octets(2, 6_000)).expect("a file");
    let mut options = peer::options(folder.path());
    options.settings.transfers_max = 2;
    let server = peer::start(&options);
    let mut load = reads(server.addresses()[0], &[b"image"]);
    load.groups[0].pace = Pace::Closed {
        clients: 1,
        think: Duration::ZERO,
    };
    let profile = &mut load.groups[0].profiles[0].0;
    profile.wanted.windowsize = None;
    // Five blocks make 2 s.
    profile.slow = Duration::from_millis(400);
    profile.patience.idle = Duration::from_millis(1_500);
    let ramp = Ramp {
        factor: 4.0,
        step: Duration::from_millis(100),
        rest: Duration::ZERO,
        bound_p99: Duration::from_secs(60),
        ..Ramp::DEFAULT
    };
    let climb = ramp::run(&load, ramp, &Arc::new(Live::default())).expect("a ramp");
    let mut page = Vec::new();
    html::write_climb(&climb, &head(), &mut page).expect("memory takes it");
    let page = String::from_utf8(page).expect("text");
    refers_to_nothing(&page);
    let document = opened(&chromium, folder.path(), &page);
    assert!(document.contains("Holds up to 2 clients"), "{climb}");
    for plot in ["p99", "failed"] {
        assert_eq!(shapes(&document, plot), ["grid", "line c0", "line c5"]);
    }
    assert_eq!(shapes(&document, "throughput"), ["grid", "line c0"]);
    // One, two, and those that were too many: four, and three.
    let figure = between(&document, "<figure id=\"failed\">", "</figure>");
    for (dot, count) in [("dot c2", 2), ("dot c1", 2)] {
        assert_eq!(figure.matches(dot).count(), count, "{dot}: {figure}");
    }
    let steps = between(&document, "<h2>Steps</h2>", "</table>");
    assert_eq!(steps.matches(" kept busy</th>").count(), 4, "{steps}");
}

/// Goal: opening the page contacts no other host. Method: check what the page refers to.
#[test]
fn the_page_refers_to_nothing() {
    let folder = tempfile::tempdir().expect("a directory");
    let page = page(&run(folder.path()));
    refers_to_nothing(&page);
    for plot in PLOTS {
        assert_eq!(page.matches(&format!("<figure id=\"{plot}\">")).count(), 1);
    }
}

fn refers_to_nothing(page: &str) {
    for way in [
        "http:", "https:", "//", "url(", "@import", " src=", "<link", "<script",
    ] {
        assert!(!page.contains(way), "{way}");
    }
}

/// Reads of a file that is there, and of others that are not, from a server over `folder`.
fn run(folder: &Path) -> Report {
    let contents = peer::octets(1, 50_000);
    fs::write(folder.join("image"), &contents).expect("a file");
    let (_server, address) = peer::serve(folder);
    let report = load::run(
        &reads(address, &[b"image", HOSTILE]),
        &Arc::new(Live::default()),
    );
    report.expect("a run")
}

fn reads(server: std::net::SocketAddr, names: &[&[u8]]) -> Load {
    let file = |name: &&[u8]| File {
        name: name.to_vec(),
        weight: 1,
        expected: Arc::new(Expected::Anything),
    };
    let group = Group {
        pace: Pace::Storm {
            clients: 100,
            within: Duration::from_millis(100),
        },
        ..Group::new(names.iter().map(file).collect(), 100)
    };
    Load::new(server, vec![group])
}

fn page(report: &Report) -> String {
    let mut page = Vec::new();
    html::write(report, &head(), &mut page).expect("memory takes it");
    String::from_utf8(page).expect("text")
}

fn head() -> Head {
    Head {
        command: format!("bootstorm load {}", String::from_utf8_lossy(HOSTILE)),
        ..Head::default()
    }
}

/// The document that the browser makes of a page, which gives it no reason to complain.
fn opened(chromium: &Path, folder: &Path, page: &str) -> String {
    let path = folder.join("page.html");
    fs::write(&path, page).expect("a file");
    let output = Command::new(chromium)
        .args(["--headless", "--no-sandbox", "--disable-gpu"])
        .args(["--enable-logging=stderr", "--virtual-time-budget=1000"])
        .arg(format!(
            "--user-data-dir={}",
            folder.join("profile").display()
        ))
        .arg("--dump-dom")
        .arg(format!("file://{}", path.display()))
        .output()
        .expect("the browser runs");
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}");
    assert!(!log.contains("CONSOLE"), "{log}");
    String::from_utf8(output.stdout).expect("text")
}

/// The classes of a plot's shapes, in the order in which they are drawn; none of them is empty.
fn shapes<'a>(document: &'a str, plot: &str) -> Vec<&'a str> {
    let figure = between(document, &format!("<figure id=\"{plot}\">"), "</figure>");
    let svg = between(figure, "preserveAspectRatio", "</svg>");
    let paths = svg.split("<path ").skip(1);
    paths
        .map(|path| {
            let drawn = between(path, " d=\"", "\"");
            assert!(drawn.starts_with('M') && drawn.len() > 5, "{plot}: {path}");
            assert!(!drawn.contains("NaN"), "{plot}: {path}");
            between(path, "class=\"", "\"")
        })
        .collect()
}

fn between<'a>(text: &'a str, begin: &str, end: &str) -> &'a str {
    let (_, rest) = text.split_once(begin).expect(begin);
    rest.split_once(end).expect(end).0
}
