//! The demo: it serves every client, its counts match its server's, it leaves nothing behind but a page, and
//! it ends when told to.

// What the system tells of processes is Linux's.
#![cfg(target_os = "linux")]

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Lines, Read};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Output, Stdio};

use common::peer;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tempfile::TempDir;

/// Where a demo runs: nothing else is there.
struct Place {
    /// Its working directory.
    here: TempDir,
    /// Where its temporary files go.
    scratch: TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = || tempfile::tempdir().expect("a directory");
        Self {
            here: folder(),
            scratch: folder(),
        }
    }

    fn demo(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bootstorm"));
        command
            .arg("demo")
            .args(arguments.split_whitespace())
            .current_dir(self.here.path())
            .env("TMPDIR", self.scratch.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Starts a demo that would take long, and waits until clients are served.
    fn demo_under_way(&self) -> (Child, Said) {
        let mut demo = self
            .demo("--clients 40000 --within 3600 --size 1K")
            .spawn()
            .expect("the demo starts");
        let stderr = demo.stderr.take().expect("a pipe");
        let mut said = BufReader::new(stderr).lines();
        let served = |line: &str| line.contains(" served, ") && !line.contains(": 0 served");
        let served = said.any(|line| served(&line.expect("text")));
        assert!(served, "clients are served");
        (demo, said)
    }
}

/// What a demo says of its course.
type Said = Lines<BufReader<ChildStderr>>;

/// Goal: every client is served, both ends count the same, and only the page stays. Method: a small storm
/// without a terminal; the counts in the table.
#[test]
fn everybody_is_served_and_only_the_page_stays() {
    let place = Place::new();
    let output = place
        .demo("--clients 60 --size 100KiB --within 0.2")
        .output()
        .expect("the demo runs");
    let table = succeeded(&output);
    let octets = "6,144,000 octets";
    for told in [
        "60 clients boot within 0.2 s",
        "served              60 of 60 clients, every octet compared",
        &format!("60 requests, 60 complete, {octets}, as the clients did"),
        "a boot              p50 ",
        " CPU s/GB, ",
    ] {
        assert!(table.contains(told), "{told}:\n{table}");
    }
    assert_eq!(names(place.here.path()), ["bootstorm-demo.html"]);
    assert_eq!(names(place.scratch.path()), [""; 0]);
    let path = place.here.path().join("bootstorm-demo.html");
    let page = fs::read_to_string(&path).expect("a page");
    for told in ["All 60 transfers completed", octets, "id=\"throughput\""] {
        assert!(page.contains(told), "{told}");
    }
    let path = path.canonicalize().expect("a page");
    let said = table.lines().last().unwrap_or_default();
    assert!(said.ends_with(&path.display().to_string()), "{said}");
}

/// Goal: the page is written where requested, or where possible. Method: an explicit name; then a working
/// directory that is gone, because root may write anywhere else.
#[test]
fn the_page_goes_where_it_can() {
    let place = Place::new();
    let small = "--clients 3 --size 1K --within 0 --quiet";
    let output = place
        .demo(&format!("{small} --html mine.html"))
        .output()
        .expect("the demo runs");
    succeeded(&output);
    // But for what a busy machine has it say.
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr.lines().all(|line| line.starts_with("WARNING: ")),
        "{stderr}"
    );
    assert_eq!(names(place.here.path()), ["mine.html"]);

    let gone = place.here.path().join("gone");
    let demo = format!("mkdir '{0}' && cd '{0}' && rmdir '{0}' && ", gone.display());
    let output = Command::new("sh")
        .arg("-c")
        .arg(demo + env!("CARGO_BIN_EXE_bootstorm") + " demo " + small)
        .env("TMPDIR", place.scratch.path())
        .output()
        .expect("the demo runs");
    succeeded(&output);
    assert_eq!(names(place.scratch.path()), ["bootstorm-demo.html"]);

    let output = place
        .demo(&format!("{small} --html /nonexistent/page.html"))
        .output()
        .expect("the demo runs");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("cannot write /nonexistent/page.html"),
        "{said}"
    );
}

/// Goal: no cost is reported per octet if there were no octets. Method: an empty image.
#[test]
fn an_empty_image_has_no_price() {
    let place = Place::new();
    let output = place
        .demo("--clients 3 --size 0 --within 0 --quiet")
        .output()
        .expect("the demo runs");
    let table = succeeded(&output);
    assert!(table.contains(" CPU s, – CPU s/GB, "), "{table}");
}

/// Goal: closing the demo's output spoils nothing. Method: its pipe is closed before the table.
#[test]
fn a_demo_that_nobody_listens_to_comes_to_its_end() {
    let place = Place::new();
    let mut demo = place
        .demo("--clients 3 --size 1K --within 0 --quiet")
        .spawn()
        .expect("the demo starts");
    drop(demo.stdout.take());
    let output = demo.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(names(place.here.path()), ["bootstorm-demo.html"]);
}

/// Goal: Ctrl-C ends the demo with a summary, and nothing stays behind. Method: SIGINT while clients arrive.
#[test]
fn an_interrupt_leaves_nothing_behind() {
    let place = Place::new();
    let (mut demo, _said) = place.demo_under_way();
    let server = child_of(demo.id());
    assert_eq!(names(place.scratch.path()).len(), 1, "the image");
    kill_process(Pid::from_child(&demo), Signal::INT).expect("a demo");
    let table = table_of(&mut demo);
    assert_eq!(demo.wait().expect("a demo").code(), Some(1), "{table}");
    assert!(
        table.contains(" of 40,000 clients, every octet compared; "),
        "{table}"
    );
    assert!(
        table.contains(" had come when it was interrupted"),
        "{table}"
    );
    assert!(!table.contains("and the clients otherwise"), "{table}");
    assert_eq!(names(place.scratch.path()), [""; 0]);
    assert!(test_kill_process(server).is_err(), "the server still runs");
    assert_eq!(names(place.here.path()), ["bootstorm-demo.html"]);
}

/// Goal: a demo interrupted before any client was served claims no results. Method: SIGINT during transfers
/// whose images are too large to finish in a moment; the output pipe tells when.
#[test]
fn an_interrupt_before_anybody_is_served_claims_nothing() {
    let place = Place::new();
    let mut demo = place
        .demo("--clients 3000 --within 0 --size 64MiB")
        .spawn()
        .expect("the demo starts");
    let mut stdout = BufReader::new(demo.stdout.take().expect("a pipe"));
    let mut first = String::new();
    stdout.read_line(&mut first).expect("text");
    kill_process(Pid::from_child(&demo), Signal::INT).expect("a demo");
    let mut table = String::new();
    stdout.read_to_string(&mut table).expect("text");
    assert_eq!(demo.wait().expect("a demo").code(), Some(1), "{table}");
    assert!(
        table.starts_with("served              0 of 3,000 clients; "),
        "{table}"
    );
    assert!(
        !table.contains("compared") && !table.contains("otherwise"),
        "{table}"
    );
}

/// Goal: wrong octets are noticed, and the exit code says so. Method: the image is replaced during the storm.
#[test]
fn wrong_octets_are_no_success() {
    let place = Place::new();
    let (mut demo, mut said) = place.demo_under_way();
    let folder = place.scratch.path().join(&names(place.scratch.path())[0]);
    fs::write(folder.join("other"), [7; 1000]).expect("a file");
    fs::rename(folder.join("other"), folder.join("image")).expect("replaced");
    let fails = |line: &str| !line.contains(" 0 failed");
    let failed = said.any(|line| fails(&line.expect("text")));
    assert!(failed, "clients fail");
    kill_process(Pid::from_child(&demo), Signal::INT).expect("a demo");
    let table = table_of(&mut demo);
    assert_eq!(demo.wait().expect("a demo").code(), Some(1), "{table}");
    assert!(table.contains("FAILED"), "{table}");
    let last = said.map_while(Result::ok).last().unwrap_or_default();
    assert!(
        last.ends_with(" of 40,000 clients were not served"),
        "{last}"
    );
}

/// Goal: even a killed demo leaves neither its server nor its image behind. Method: SIGKILL.
#[test]
fn a_demo_that_is_killed_leaves_nothing_behind() {
    let place = Place::new();
    let (mut demo, _said) = place.demo_under_way();
    let server = child_of(demo.id());
    demo.kill().expect("a demo");
    demo.wait().expect("a demo");
    peer::until("the image is gone", || {
        names(place.scratch.path()).is_empty()
    });
    peer::until("the server is gone", || has_ended(server));
}

/// What a demo prints, once it has ended.
fn table_of(demo: &mut Child) -> String {
    let mut table = String::new();
    let mut stdout = demo.stdout.take().expect("a pipe");
    stdout.read_to_string(&mut table).expect("text");
    table
}

fn succeeded(output: &Output) -> String {
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stdout}{stderr}");
    stdout
}

/// What is in a directory.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a directory");
    let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    entries
        .map(|entry| name(entry.expect("an entry")))
        .collect()
}

/// The one process that a process has started.
fn child_of(parent: u32) -> Pid {
    let processes = fs::read_dir("/proc").expect("Linux");
    let numbers =
        processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let mut children = numbers.filter(|number| {
        stat(*number).is_some_and(|fields| fields.split(' ').nth(1) == Some(&parent.to_string()))
    });
    let child = children.next().expect("a child");
    Pid::from_raw(child).expect("a process")
}

/// Whether a process is gone, or waits to be missed.
fn has_ended(process: Pid) -> bool {
    stat(process.as_raw_nonzero().get()).is_none_or(|fields| fields.starts_with('Z'))
}

/// What the system says of a process, from its state on.
fn stat(process: i32) -> Option<String> {
    let line = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    Some(line.rsplit_once(") ")?.1.to_owned())
}
