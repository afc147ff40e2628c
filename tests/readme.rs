//! The README's promises: its commands and options work as printed, and its links lead somewhere.

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};

const README: &str = include_str!("../README.md");
/// What the README's commands begin with.
const CARGO_RUN: &str = "cargo run --release -- ";

/// Goal: `serve` and the `get` and `load` beside it fetch a file. Method: the lines as printed in the README,
/// with this build instead of `cargo run`, and port 0 instead of 6969.
#[test]
fn serve_get_and_load_work_as_printed() {
    let scratch = tempfile::tempdir().expect("a directory");
    let (served, fetched) = (
        scratch.path().join("served"),
        scratch.path().join("fetched"),
    );
    fs::create_dir(&served)
        .and_then(|()| fs::create_dir(&fetched))
        .expect("two directories");
    let octets: Vec<u8> = (0..100_001_u32).flat_map(u32::to_be_bytes).collect();
    fs::write(served.join("image.bin"), &octets).expect("a file to serve");

    let serve = printed("serve").replace("127.0.0.1:6969", "127.0.0.1:0");
    let server = Server::start(&serve, &served);
    for subcommand in ["get", "load"] {
        let client = printed(subcommand)
            .replace("127.0.0.1:6969", &server.address)
            .replace("NAME", "image.bin");
        let output = bootstorm(&client)
            .current_dir(&fetched)
            .output()
            .expect("the client runs");
        assert!(
            output.status.success(),
            "{client}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let got = fs::read(fetched.join("image.bin")).expect("the file that was fetched");
    assert!(
        got == octets,
        "{} octets arrived, not the {} that were sent",
        got.len(),
        octets.len()
    );
}

/// Goal: the README opens with what a newcomer types, and shows what they will see. Method: the command as
/// printed, with a small storm; its lines have the same names as those in the README.
#[test]
fn the_readme_opens_with_the_demo() {
    let printed = printed("demo");
    let first = README.lines().find_map(|line| line.strip_prefix(CARGO_RUN));
    assert_eq!((first, printed.as_str()), (Some("demo"), "demo"));
    let scratch = tempfile::tempdir().expect("a directory");
    let output = bootstorm("demo --clients 20 --size 10K --within 0 --quiet")
        .current_dir(scratch.path())
        .output()
        .expect("the demo runs");
    assert!(output.status.success(), "{output:?}");
    let table = String::from_utf8(output.stdout).expect("text");
    let excerpt = README
        .split("```text\n")
        .nth(1)
        .and_then(|rest| rest.split("\n```").next());
    let names = |table: &str| -> Vec<String> {
        table
            .lines()
            .skip(1)
            .map(|line| line[..20].trim_end().to_owned())
            .collect()
    };
    assert_eq!(names(excerpt.expect("an excerpt")), names(&table));
}

#[test]
fn the_tests_are_run_by_one_command() {
    assert!(README.lines().any(|line| line == "cargo test"));
}

#[test]
fn links_into_the_repository_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for text in [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "SECURITY.md",
        "BENCHMARKS.md",
        "FUZZING.md",
        "RELIABILITY.md",
    ] {
        let own = root.join(text);
        let text = fs::read_to_string(&own).expect(text);
        let targets = text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.contains("://")) {
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path = Some(path).filter(|path| !path.is_empty());
            let path = path.map_or_else(|| own.clone(), |path| root.join(path));
            assert!(path.exists(), "{target} is missing");
            if !anchor.is_empty() {
                let there = fs::read_to_string(&path).expect("a text");
                let mut anchors = there.lines().filter_map(anchor_of);
                assert!(anchors.any(|other| other == anchor), "{target} is missing");
            }
        }
    }
}

#[test]
fn every_file_of_tests_is_told_about() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("ARCHITECTURE.md")).expect("a text");
    for entry in fs::read_dir(root.join("tests")).expect("tests") {
        let name = entry.expect("an entry").file_name();
        let name = name.to_str().expect("a plain name");
        let told = text.contains(&format!("`tests/{name}`"));
        assert!(told || !name.ends_with(".rs"), "{name} is not told about");
    }
}

/// What links call a heading.
fn anchor_of(line: &str) -> Option<String> {
    let heading = line.trim_start_matches('#').strip_prefix(' ')?;
    let kept = |letter: &char| letter.is_alphanumeric() || [' ', '-'].contains(letter);
    let heading: String = heading.to_lowercase().chars().filter(kept).collect();
    line.starts_with('#').then(|| heading.replace(' ', "-"))
}

#[test]
fn the_table_of_options_is_that_of_the_help() {
    let help = bootstorm("serve --help").output().expect("it runs");
    let help = String::from_utf8(help.stdout).expect("text");
    let mut helped: Vec<&str> = help
        .lines()
        .map(|line| {
            line.trim_start()
                .trim_start_matches("-l, ")
                .trim_start_matches("-v, ")
        })
        .filter_map(|line| line.strip_prefix("--"))
        .map(long_name)
        .collect();
    let mut listed: Vec<&str> = options_of_serve()
        .map(|option| long_name(option.trim_start_matches("--")))
        .collect();
    helped.sort_unstable();
    listed.sort_unstable();
    assert!(listed.len() > 10);
    assert_eq!(listed, helped);
}

/// Goal: options are accepted as the README writes them. Method: commands that cannot do their work because a
/// file or directory is missing; code 1 says so, and code 2 would mean invalid arguments.
#[test]
fn options_are_accepted_as_written() {
    let commands = [
        "serve --listen 127.0.0.1:0 /nonexistent/root",
        "get tftp://127.0.0.1/x -o /nonexistent/x",
        "load tftp://127.0.0.1/x --verify /nonexistent/x",
    ];
    let examples = README
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|code| code.starts_with("--") && code.contains(' '));
    let mut tried = 0;
    for example in examples {
        let (option, values) = example.split_once(' ').expect("an option with a value");
        for value in values.split("\\|") {
            let option = format!("{option} {}", example_of(value));
            let accepted = commands.iter().any(|command| {
                let output = bootstorm(&format!("{command} {option}")).output();
                output.expect("it runs").status.code() == Some(1)
            });
            assert!(accepted, "no command takes {option}");
            tried += 1;
        }
    }
    assert!(tried > 20, "{tried} options were found");
}

/// Goal: a user who types another server's option is told what to write here. Method: every option in the
/// first column of the tables for users who migrate.
#[test]
fn options_of_other_servers_are_answered_with_advice() {
    let section = README.split("\n## Moving from ").nth(1);
    let section = section.and_then(|rest| rest.split("\n## ").next());
    let theirs = section.expect("a section").lines().filter_map(|line| {
        let cells = line.strip_prefix("| ")?;
        cells.split(" | ").next()
    });
    let options = theirs.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    let mut tried = 0;
    for option in options.filter(|option| !["-l"].contains(option)) {
        let typed = if option.starts_with('-') {
            option.to_owned()
        } else {
            format!("--{option}")
        };
        let output = bootstorm(&format!("serve /nonexistent/root {typed}")).output();
        let output = output.expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        let answered = ["tftpd-hpa", "atftpd", "dnsmasq"]
            .iter()
            .any(|server| said.contains(&format!("error: {typed} is {server}'s")));
        assert!(
            answered && output.status.code() == Some(2),
            "{typed}: {said}"
        );
        tried += 1;
    }
    assert!(tried > 40, "{tried} options were found");
}

/// Goal: systemd does not kill a draining server. Method: compare the unit's timeout with how long a drain
/// may take.
#[test]
fn the_unit_lets_a_server_drain() {
    let unit = include_str!("../contrib/bootstorm.service");
    let patience = unit
        .lines()
        .find_map(|line| line.strip_prefix("TimeoutStopSec="));
    let patience: u64 = patience.expect("a limit").parse().expect("seconds");
    assert!(patience > bootstorm::config::DRAIN_TIMEOUT_DEFAULT.as_secs());
}

/// A value in the place of what stands for one.
fn example_of(value: &str) -> &str {
    match value {
        "N" => "8",
        "SECONDS" | "MILLISECONDS" => "3",
        "SIZE" => "64MiB",
        "PID" => "1",
        "FILE" => "/nonexistent/x",
        "ADDR:PORT" => "127.0.0.1:0",
        "A:B" => "5000:5009",
        "FILTER" => "bootstorm::shard=debug",
        "CIDR:key=value,…" => "10.1.0.0/16:max-windowsize=16",
        literal => literal,
    }
}

/// The options in the README's table, as written there.
fn options_of_serve() -> impl Iterator<Item = &'static str> {
    let table = README.split("### Options of `serve`").nth(1);
    let rows = table
        .expect("a table")
        .lines()
        .skip_while(|line| !line.starts_with('|'));
    rows.take_while(|line| line.starts_with('|'))
        .filter_map(|row| row.split(" | ").next())
        .flat_map(|cell| cell.split('`'))
        .filter(|code| code.starts_with("--"))
}

/// A long option without its value.
fn long_name(option: &str) -> &str {
    let end = option.find(|letter: char| !letter.is_ascii_lowercase() && letter != '-');
    &option[..end.unwrap_or(option.len())]
}

/// Goal: the helper that skips tests does not skip an installed tool.
#[test]
fn what_is_installed_is_found() {
    assert!(common::require("sh").is_some());
    assert!(common::require_path("/", "base-files").is_some());
}

/// The arguments of a printed `cargo run --release -- SUBCOMMAND …`.
fn printed(subcommand: &str) -> String {
    let arguments = README
        .lines()
        .filter_map(|line| line.strip_prefix(CARGO_RUN));
    let mut of_subcommand = arguments.filter(|line| line.split(' ').next() == Some(subcommand));
    of_subcommand
        .next()
        .expect("the README prints the command")
        .to_owned()
}

fn bootstorm(arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bootstorm"));
    command.args(arguments.split(' ')).stdin(Stdio::null());
    command
}

/// A running server; dropped, it is ended.
struct Server {
    child: Child,
    address: String,
    /// Held open, so that the server can go on logging.
    stderr: BufReader<ChildStderr>,
}

impl Server {
    fn start(arguments: &str, root: &Path) -> Self {
        let mut command = bootstorm(
            arguments
                .strip_suffix(" DIR")
                .expect("the directory comes last"),
        );
        let mut child = command
            .arg(root)
            .stderr(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let stderr = BufReader::new(child.stderr.take().expect("it was piped"));
        let mut server = Self {
            child,
            address: String::new(),
            stderr,
        };
        server.address = server.listening_on();
        server
    }

    fn listening_on(&mut self) -> String {
        let mut said = String::new();
        loop {
            let before = said.len();
            let octets = self.stderr.read_line(&mut said).expect("lines of text");
            assert!(octets > 0, "the server ended before it listened:\n{said}");
            if let Some(address) = said[before..].trim_end().strip_prefix("listening on udp ") {
                return address.to_owned();
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
