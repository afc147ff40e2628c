//! Comparisons of servers, from outside: the contents of the tables and the JSON, what is skipped and what
//! fails, and that nothing is left running, however the comparison ends.

// Cores, orphans and what the system tells of processes are Linux's.
#![cfg(target_os = "linux")]

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use common::peer;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// Ours twice, once with smaller windows; one in the background, which its parent does not wait for; one
/// that fails at once, one that never answers, and one that is not installed. Each writes down who it is.
const PLAN: &str = r#"
rounds = 2
baseline = "ours"

[[server]]
name = "ours"
command = ["sh", "-c", "echo $$ >> {plan}/pids; exec {bootstorm} serve {root} --listen {address}:{port} --workers 1"]

[[server]]
name = "ours, small windows"
command = ["sh", "-c", "echo $$ >> {plan}/pids; exec {bootstorm} serve {root} --listen {address}:{port} --workers 1"]
environment = { BOOTSTORM_MAX_WINDOWSIZE = "4" }

[[server]]
name = "in the background"
command = ["sh", "-c", "setsid sh -c 'echo $$ >> {plan}/pids; exec {bootstorm} serve {root} --listen {address}:{port} --workers 1' & exit 0"]
count = ["bootstorm"]

[[server]]
name = "fails"
command = ["sh", "-c", "echo $$ >> {plan}/pids; echo no such luck >&2; exit 3"]

[[server]]
name = "mute"
command = ["sh", "-c", "echo $$ >> {plan}/pids; sleep 1000 & echo $! >> {plan}/pids; wait"]
ready-within = 0.3

[[server]]
name = "not installed"
command = ["/nowhere/tftpd"]

[[work]]
name = "small"
size = ["10KiB", "100KiB"]
clients = 4
transfers = 8
blksize = 1428
windowsize = 16

[[work]]
name = "without end"
size = "1KiB"
duration = 1000
limit = 0.2
"#;

/// Goal: every number that the tables need is there, every problem is reported, and nothing is left. Method:
/// one plan with all kinds of servers.
#[test]
fn servers_are_compared_and_nothing_is_left() {
    let folder = folder(PLAN);
    let output = compare(folder.path())
        .args(["--json", "results.json", "--markdown", "results.md"])
        .output()
        .expect("it runs");
    let [text, told] =
        [&output.stdout, &output.stderr].map(|octets| String::from_utf8_lossy(octets));
    // Who failed every time makes it no success; who is not installed was skipped.
    assert_eq!(output.status.code(), Some(1), "{text}\n{told}");
    assert!(told.ends_with("failed every time: fails, mute\n"), "{told}");

    assert!(
        told.contains("SKIPPED: not installed: /nowhere/tftpd is not there"),
        "{told}"
    );
    assert!(told.contains("round 1: small: ours: 8 of 8 in "), "{told}");
    assert_eq!(text.matches("Medians of 1 round,").count(), 1, "{text}");
    assert_eq!(text.matches("Medians of 2 rounds,").count(), 1, "{text}");
    let last = &text[text.find("Medians of 2 rounds").expect("a table")..];
    for told in [
        "fails: it ended at once (exit status: 3): no such luck (2 times)",
        "mute: no answer within 0.3 s (2 times)",
        "SKIPPED: not installed: /nowhere/tftpd is not there",
        "1428/4 (asked 1428/16)",
    ] {
        assert!(last.contains(told), "{told}: {last}");
    }
    let markdown = read(folder.path(), "results.md");
    assert!(markdown.contains("| ours, small windows | "), "{markdown}");

    let results: Value = serde_json::from_str(&read(folder.path(), "results.json")).expect("JSON");
    assert_eq!(results["rounds"], 2);
    for contender in 0..3 {
        let [small, endless] = [0, 1].map(|work| &results["outcomes"][work][contender]);
        assert_eq!(small.as_array().map(Vec::len), Some(2), "{small}");
        let run = &small[1]["measured"];
        assert_eq!((&run["complete"], &run["cut"]), (&8.into(), &false.into()));
        let octets = run["report"]["octets"].as_u64().expect("a number");
        assert!((8 * 10_240..=8 * 102_400).contains(&octets), "{octets}");
        assert!(run["memory_octets_max"].as_u64() > Some(0), "{run}");
        let run = &endless[0]["measured"];
        assert_eq!(run["cut"], true, "{run}");
        assert!(run["complete"].as_u64() > Some(0), "{run}");
    }
    assert_nothing_is_left(folder.path());
}

/// Servers of uploads: ours, one that is known to take none, and one whose files show all that it has
/// acknowledged but one, from the first moment on.
const UPLOADS: &str = r#"
rounds = 1

[[server]]
name = "ours"
command = ["sh", "-c", "echo $$ >> {plan}/pids; exec {bootstorm} serve {root} --listen {address}:{port} --workers 1 --write create"]

[[server]]
name = "reads alone"
command = ["/bin/sh", "-c", "echo $$ >> {plan}/pids; exec sleep 1000"]
uploads = false

[[server]]
name = "forgetful"
command = [
    "sh", "-c",
    """echo $$ >> {plan}/pids; mkdir {plan}/elsewhere
    for number in 0 1 2 4 5 6 7; do ln -s {plan}/elsewhere/upload-$number {root}/; done
    exec {bootstorm} serve {plan}/elsewhere --listen {address}:{port} --workers 1 --write create""",
]

[[work]]
name = "uploads"
op = "write"
size = "100KB"
clients = 4
transfers = 8
blksize = 1428
windowsize = 16
"#;

/// Goal: servers are compared by uploads too, acknowledged uploads are verified in the servers' files, and
/// servers that accept none are marked so. Method: one of each kind.
#[test]
fn uploads_are_compared_and_looked_for() {
    let folder = folder(UPLOADS);
    let output = compare(folder.path())
        .args(["--json", "results.json"])
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    let line = |name: &str| {
        let line = text.lines().find(|line| line.trim().starts_with(name));
        line.unwrap_or_else(|| panic!("no {name}: {text}"))
            .to_owned()
    };
    assert!(line("ours").contains("  all "), "{text}");
    assert!(
        line("reads alone").contains("it takes no uploads"),
        "{text}"
    );
    let told =
        "forgetful: of 8 uploads that it acknowledged, 7 could be read there as they were sent";
    assert!(text.contains(told), "{text}");
    let results: Value = serde_json::from_str(&read(folder.path(), "results.json")).expect("JSON");
    let outcomes = &results["outcomes"][0];
    let ours = &outcomes[0][0]["measured"];
    assert_eq!((&ours["complete"], &ours["stored"]), (&8.into(), &8.into()));
    assert_eq!(ours["report"]["octets"], 800_000);
    assert_eq!(outcomes[1].as_array().map(Vec::len), Some(0), "{results}");
    assert_nothing_is_left(folder.path());
}

/// Goal: failed transfers do not make a server look quicker. Method: a server with half of its files missing.
#[test]
fn percentiles_are_of_all_that_was_wanted() {
    let plan = r#"
        rounds = 1
        [[server]]
        name = "by halves"
        command = ["sh", "-c", "echo $$ >> {plan}/pids; rm {root}/octets-2048; exec {bootstorm} serve {root} --listen {address}:{port} --workers 1"]
        [[work]]
        name = "small"
        size = ["1KiB", "2KiB"]
        clients = 4
        transfers = 40
    "#;
    let folder = folder(plan);
    let output = compare(folder.path())
        .args(["--json", "results.json"])
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let results: Value = serde_json::from_str(&read(folder.path(), "results.json")).expect("JSON");
    let run = &results["outcomes"][0][0][0]["measured"];
    assert!((1..40).contains(&run["complete"].as_u64().expect("a number")));
    assert!(run["transfer_seconds_p99"].is_null(), "{run}");
    let line = text.lines().find(|line| line.contains("by halves  "));
    assert!(line.is_some_and(|line| line.contains("  –  ")), "{text}");
    assert_nothing_is_left(folder.path());
}

/// Goal: ratios are relative to the server that the plan names, and 1 for that server. Method: the line of
/// that server, and a part of the plan alone.
#[test]
fn ratios_are_to_the_baseline() {
    let folder = folder(PLAN);
    let output = compare(folder.path())
        .args([
            "--only", "ours", "--works", "small", "--rounds", "1", "--quiet",
        ])
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{text}"
    );
    let mut lines = text.lines().filter(|line| line.trim().starts_with("ours"));
    let cells: Vec<_> = lines
        .next()
        .expect("a line")
        .split_ascii_whitespace()
        .collect();
    assert_eq!((cells[0], cells[2]), ("ours", "1.00"), "{text}");
    assert!(
        lines.next().expect("a line").contains("small windows"),
        "{text}"
    );
    assert_nothing_is_left(folder.path());
}

/// Goal: an interrupted comparison leaves nothing behind, reports what there is and that it is incomplete,
/// and accuses no server whose turn never came. Method: SIGINT during a run that would last long.
#[test]
fn an_interrupt_leaves_nothing() {
    let plan = PLAN.replace("limit = 0.2", "limit = 1000");
    let folder = folder(&plan);
    let mut child = compare(folder.path())
        .args([
            "--only",
            "in the background",
            "--works",
            "small",
            "--works",
            "without end",
        ])
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    let told = BufReader::new(child.stderr.take().expect("a pipe"));
    let mut told = told.lines().map_while(Result::ok);
    // The next run is the one without end, whether it has begun or not.
    assert!(told.any(|line| line.starts_with("round 1: small: ")));
    kill_process(Pid::from_child(&child), Signal::INT).expect("it runs");
    let told: Vec<_> = told.collect();
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(1), "{told:?}");
    let said = "bootstorm: interrupted in round 1 of 2";
    assert!(told.iter().any(|line| line == said), "{told:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    let heading = "Medians of 0 to 1 rounds, for it was interrupted, with";
    assert!(text.contains(heading), "{text}");
    let (small, endless) = text.split_once("without end").expect("both works");
    assert!(small.contains("  all "), "{text}");
    assert!(endless.contains("  not measured"), "{text}");
    assert_nothing_is_left(folder.path());
}

/// Goal: even a killed comparison leaves no servers or files behind, wherever those have gone. Method:
/// SIGKILL during an endless run, of a server whose parent is gone.
#[test]
fn a_comparison_that_is_killed_leaves_nothing() {
    let plan = PLAN.replace("limit = 0.2", "limit = 1000");
    let folder = folder(&plan);
    let mut child = compare(folder.path())
        .args(["--only", "in the background", "--works", "without end"])
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("it runs");
    peer::until("a server is there", || {
        fs::read_to_string(folder.path().join("pids")).is_ok_and(|pids| !pids.is_empty())
    });
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    peer::until("nothing is left", || left(folder.path()).is_empty());
}

/// Goal: a comparison ends the processes that it started, and no others. Method: a shell that starts a job,
/// and then becomes the comparison.
#[test]
fn jobs_of_the_shell_live_on() {
    let folder = folder(PLAN);
    let mut shell = Command::new("sh");
    let script = "sleep 1000 > /dev/null 2>&1 & echo $! > \"$TMPDIR/job\"; \
                  exec \"$0\" load compare \"$TMPDIR/plan.toml\" --only ours --works small --rounds 1 --quiet";
    shell.args(["-c", script, env!("CARGO_BIN_EXE_bootstorm")]);
    shell
        .current_dir(folder.path())
        .env("TMPDIR", folder.path());
    let output = shell.output();
    let output = output.expect("it runs");
    let job = read(folder.path(), "job");
    let job = job.trim().parse().ok().and_then(Pid::from_raw);
    let lives = kill_process(job.expect("a job"), Signal::KILL);
    assert!(output.status.success(), "{output:?}");
    assert!(lives.is_ok(), "the job is gone");
    peer::until("nothing is left", || left(folder.path()).is_empty());
}

/// Goal: errors in a plan are reported with their names. Method: a few mistakes.
#[test]
fn mistakes_in_a_plan_are_said() {
    for (from, to, hint) in [
        ("rounds = 2", "rounds =", "plan.toml"),
        ("count =", "cuont =", "unknown field `cuont`"),
        ("{port}", "{prot}", "{prot} is unknown"),
    ] {
        let folder = folder(&PLAN.replace(from, to));
        let output = compare(folder.path()).output().expect("it runs");
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(told.contains(hint), "{told}");
    }
}

/// A folder of the test's own that holds the plan.
fn folder(plan: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("a directory");
    assert_eq!(
        folder.path().canonicalize().ok().as_deref(),
        Some(folder.path())
    );
    fs::write(folder.path().join("plan.toml"), plan).expect("a plan");
    folder
}

fn compare(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bootstorm"));
    let plan = folder.join("plan.toml");
    command.args(["load", "compare"]).arg(plan);
    command.current_dir(folder).env("TMPDIR", folder);
    command
}

/// No process that a server wrote down runs, nor any other that works in the folder, and no file that a
/// comparison made is there.
fn assert_nothing_is_left(folder: &Path) {
    let pids = read(folder, "pids");
    assert!(pids.lines().count() > 0, "no server was started");
    let left = left(folder);
    assert!(left.is_empty(), "{left:?} (told: {pids})");
}

/// Processes that work in the folder, and files there that a comparison made.
fn left(folder: &Path) -> Vec<String> {
    let mut left = Vec::new();
    let processes = fs::read_dir("/proc").expect("Linux").flatten();
    for process in processes {
        // Numbers do not tell: somebody else's process may have one of them by now.
        if fs::read_link(process.path().join("cwd")).is_ok_and(|works_in| works_in == folder) {
            left.push(process.file_name().display().to_string());
        }
    }
    let files = fs::read_dir(folder).expect("a directory").flatten();
    let names = files.map(|file| file.file_name().display().to_string());
    left.extend(names.filter(|name| name.starts_with("bootstorm-compare")));
    left
}

fn read(folder: &Path, name: &str) -> String {
    fs::read_to_string(folder.join(name)).expect("a file")
}
