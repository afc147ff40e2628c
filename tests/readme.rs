//! The README's promises: its two commands work as printed, and its links lead somewhere.

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};

const README: &str = include_str!("../README.md");

/// Goal: `serve` and the `get` beside it fetch a file. Method: the lines as they stand in the README,
/// with this build in the place of `cargo run`, and port 0 in the place of 6969.
#[test]
fn serve_and_get_work_as_printed() {
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
    let get = printed("get")
        .replace("127.0.0.1:6969", &server.address)
        .replace("NAME", "image.bin");
    let output = bootstorm(&get)
        .current_dir(&fetched)
        .output()
        .expect("the client runs");

    assert!(
        output.status.success(),
        "{get}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let got = fs::read(fetched.join("image.bin")).expect("the file that was fetched");
    assert!(
        got == octets,
        "{} octets arrived, not the {} that were sent",
        got.len(),
        octets.len()
    );
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
    ] {
        let text = fs::read_to_string(root.join(text)).expect(text);
        let targets = text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.contains("://")) {
            assert!(root.join(target).exists(), "{target} is missing");
        }
    }
}

/// Goal: the helper by which tests skip does not skip what is there.
#[test]
fn what_is_installed_is_found() {
    assert!(common::require("sh").is_some());
    assert!(common::require_path("/", "base-files").is_some());
}

/// The arguments of a printed `cargo run --release -- SUBCOMMAND …`.
fn printed(subcommand: &str) -> String {
    let prefix = "cargo run --release -- ";
    let arguments = README.lines().filter_map(|line| line.strip_prefix(prefix));
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
