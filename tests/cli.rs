//! The command, from outside: each test has its own directory, servers choose their port and report it, and
//! the test itself plays misbehaving peers.

mod common;

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// How long a test waits for a datagram before it fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server under test, ended with this.
struct Server {
    child: Child,
    stderr: BufReader<ChildStderr>,
    /// What it wrote to standard error until it listened.
    said: String,
    address: SocketAddr,
}

impl Server {
    fn start(root: &Path, arguments: &[&str]) -> Self {
        Self::start_at("127.0.0.1:0", root, arguments)
    }

    fn start_at(listen: &str, root: &Path, arguments: &[&str]) -> Self {
        let mut command = bootstorm(root);
        command.args(["serve", ".", "--listen", listen, "--workers", "1"]);
        Self::wait(command.args(arguments))
    }

    /// Waits until it says where it listens.
    // It is waited for by `end`, or killed by dropping it.
    #[allow(clippy::zombie_processes)]
    fn wait(command: &mut Command) -> Self {
        let mut child = command
            .stderr(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let stderr = BufReader::new(child.stderr.take().expect("a pipe"));
        let mut server = Self {
            child,
            stderr,
            said: String::new(),
            address: SocketAddr::from(([0; 4], 0)),
        };
        loop {
            let start = server.said.len();
            let read = server.stderr.read_line(&mut server.said);
            assert!(
                read.expect("lines of text") > 0,
                "the server ended: {}",
                server.said
            );
            if let Some(address) = server.said[start..].strip_prefix("listening on udp ") {
                server.address = address.trim_end().parse().expect("an address");
                return server;
            }
        }
    }

    /// The URL of a file there.
    fn url(&self, name: &str) -> String {
        format!("tftp://{}/{name}", self.address)
    }

    /// Has it end as somebody at a terminal does who cannot wait; how it ended, and all that it wrote.
    fn interrupt_twice(mut self) -> (ExitStatus, String) {
        let mut said = std::mem::take(&mut self.said);
        signal(&self.child, Signal::INT);
        // Two signals at once are one.
        while !said.contains("draining") {
            assert!(self.stderr.read_line(&mut said).expect("text") > 0);
        }
        signal(&self.child, Signal::INT);
        self.stderr.read_to_string(&mut said).expect("text");
        (self.child.wait().expect("ended"), said)
    }

    /// Has it end as a service manager does; how it ended, and all that it wrote.
    fn end(mut self) -> (ExitStatus, String) {
        signal(&self.child, Signal::TERM);
        let mut said = std::mem::take(&mut self.said);
        self.stderr.read_to_string(&mut said).expect("text");
        (self.child.wait().expect("ended"), said)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).expect("signalled");
}

/// The command, in a directory, without settings from outside.
fn bootstorm(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bootstorm"));
    command.current_dir(directory).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("BOOTSTORM_") {
            command.env_remove(name);
        }
    }
    command
}

fn run<S: AsRef<OsStr>>(directory: &Path, arguments: impl IntoIterator<Item = S>) -> Output {
    bootstorm(directory)
        .args(arguments)
        .output()
        .expect("the command runs")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs the command, which has to succeed; what it wrote to standard error.
fn succeed<S: AsRef<OsStr>>(directory: &Path, arguments: impl IntoIterator<Item = S>) -> String {
    let output = run(directory, arguments);
    assert!(output.status.success(), "{}", stderr(&output));
    stderr(&output)
}

/// Runs the command, which has to end with `code`; what it wrote to standard error.
fn fail<S: AsRef<OsStr>>(
    directory: &Path,
    code: i32,
    arguments: impl IntoIterator<Item = S>,
) -> String {
    let output = run(directory, arguments);
    assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
    stderr(&output)
}

fn scratch() -> TempDir {
    tempfile::tempdir().expect("a scratch directory")
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .expect("listed")
        .map(|entry| {
            let name = entry.expect("an entry").file_name();
            name.to_string_lossy().into_owned()
        })
        .collect();
    names.sort();
    names
}

fn random(len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(len as u64);
    let mut octets = vec![0; len];
    random.fill(&mut octets);
    octets
}

/// Puts `contents`, gets it back, and compares what is at the server and what came back.
fn round_trip(server: &Server, root: &Path, contents: &[u8], terms: &[&str]) {
    let here = scratch();
    fs::write(here.path().join("file"), contents).expect("written");
    let url = server.url("copy");
    let put = succeed(
        here.path(),
        ["put", "file", url.as_str()].iter().chain(terms),
    );
    let got = succeed(here.path(), ["get", url.as_str()].iter().chain(terms));
    let at_server = fs::read(root.join("copy")).expect("at the server");
    let back = fs::read(here.path().join("copy")).expect("back");
    assert!(
        at_server == contents,
        "{} octets, {terms:?}",
        contents.len()
    );
    assert!(back == contents, "{} octets, {terms:?}", contents.len());
    assert!(
        put.starts_with("put ") && got.starts_with("got "),
        "{put}{got}"
    );
    assert_eq!(names(here.path()), ["copy", "file"]);
    fs::remove_file(root.join("copy")).expect("removed");
}

#[test]
fn files_go_there_and_back() {
    let root = scratch();
    let server = Server::start(root.path(), &["--write", "create"]);
    for len in [0, 1, 511, 512, 513, 1024, 100_000] {
        for windowsize in ["1", "7"] {
            let terms = ["--blksize", "512", "--windowsize", windowsize];
            round_trip(&server, root.path(), &random(len), &terms);
        }
    }
    let large = random(3_000_000);
    round_trip(&server, root.path(), &large, &[]);
    round_trip(&server, root.path(), &large, &["--blksize", "1428"]);
    round_trip(&server, root.path(), &large[..70_000], &["--no-options"]);
    round_trip(&server, root.path(), &large[..70_000], &["--timeout", "3"]);
    assert_eq!(names(root.path()), Vec::<String>::new());
}

#[test]
fn text_survives_netascii_whatever_lies_at_the_edges_of_blocks() {
    let root = scratch();
    let server = Server::start(root.path(), &["--write", "create"]);
    for shift in 0..9 {
        let mut text = vec![b'x'; shift];
        for piece in [
            &b"\n"[..],
            b"\r",
            b"\r\n",
            b"\r\0",
            b"line\n",
            b"\n\n\n\n\n",
            b"\r\r",
        ] {
            text.extend_from_slice(piece);
        }
        let terms = ["--netascii", "--blksize", "8", "--windowsize", "3"];
        round_trip(&server, root.path(), &text, &terms);
    }
    // On the wire it is another file: what is put as netascii and got as octets has longer lines.
    let here = scratch();
    fs::write(root.path().join("text"), "a\nb\n").expect("written");
    let url = server.url("text;mode=netascii");
    let said = succeed(here.path(), ["get", &url]);
    assert!(said.starts_with("got 6 octets"), "{said}");
    assert_eq!(fs::read(here.path().join("text")).expect("got"), b"a\nb\n");
}

#[test]
fn hosts_and_names_do_as_well_as_urls() {
    let root = scratch();
    let server = Server::start(root.path(), &["--write", "create"]);
    let here = scratch();
    fs::write(here.path().join("a b%"), "octets").expect("written");
    let host = server.address.to_string();
    succeed(here.path(), ["put", "a b%", &host]);
    succeed(here.path(), ["put", "a b%", &host, "other"]);
    succeed(here.path(), ["put", "a b%", &server.url("third")]);
    assert_eq!(names(root.path()), ["a b%", "other", "third"]);
    succeed(here.path(), ["get", &host, "other", "-o", "back"]);
    succeed(here.path(), ["get", &server.url("a%20b%25"), "-o", "again"]);
    for name in ["back", "again"] {
        assert_eq!(fs::read(here.path().join(name)).expect("got"), b"octets");
    }
}

#[test]
fn standard_output_gets_the_octets_and_nothing_else() {
    let root = scratch();
    let contents = random(200_000);
    fs::write(root.path().join("file"), &contents).expect("written");
    let server = Server::start(root.path(), &[]);
    let here = scratch();
    let output = run(here.path(), ["get", &server.url("file"), "-o", "-"]);
    assert!(output.status.success() && output.stdout == contents);
    let output = run(
        here.path(),
        ["get", &server.url("file"), "-o", "-", "--quiet"],
    );
    assert!(output.stdout == contents && output.stderr.is_empty());
    assert_eq!(names(here.path()), Vec::<String>::new());
}

#[test]
fn ipv6_works_as_ipv4_does() {
    if UdpSocket::bind("[::1]:0").is_err() {
        return common::skip("this host has no IPv6");
    }
    let root = scratch();
    let server = Server::start_at("[::1]:0", root.path(), &["--write", "create"]);
    round_trip(&server, root.path(), &random(100_000), &[]);
    let both = Server::start_at(":0", root.path(), &["--write", "create"]);
    let port = both.address.port();
    for host in ["127.0.0.1", "[::1]", "localhost"] {
        let here = scratch();
        fs::write(here.path().join("file"), host).expect("written");
        succeed(
            here.path(),
            ["put", "file", &format!("tftp://{host}:{port}/{port}")],
        );
        let contents = fs::read_to_string(root.path().join(port.to_string())).expect("there");
        assert_eq!(contents, host);
        fs::remove_file(root.path().join(port.to_string())).expect("removed");
    }
}

#[test]
fn one_port_serves_as_well() {
    let root = scratch();
    let server = Server::start(root.path(), &["--write", "create", "--single-port"]);
    round_trip(&server, root.path(), &random(100_000), &[]);
}

#[test]
fn refusals_say_what_to_do_and_leave_nothing() {
    let root = scratch();
    fs::write(root.path().join("old"), "old").expect("written");
    let here = scratch();
    fs::write(here.path().join("old"), "mine").expect("written");

    let server = Server::start(root.path(), &[]);
    let missing = fail(here.path(), 1, ["get", &server.url("none")]);
    assert!(missing.contains("has no file \"none\""), "{missing}");
    let (_, said) = server.end();
    let told = said.lines().find(|line| line.contains("refused"));
    assert!(told.is_some_and(|line| !line.contains("unsaid")), "{said}");

    let server = Server::start(root.path(), &[]);
    let read_only = fail(here.path(), 1, ["put", "old", &server.url("new")]);
    assert!(read_only.contains("must allow uploads"), "{read_only}");

    let server = Server::start(root.path(), &["--write", "create", "--max-upload", "3"]);
    let exists = fail(here.path(), 1, ["put", "old", &server.url("old")]);
    assert!(exists.contains("already has \"old\""), "{exists}");
    let large = fail(here.path(), 1, ["put", "old", &server.url("new")]);
    assert!(large.contains("no room"), "{large}");

    let own = fail(here.path(), 1, ["put", "nothing", &server.url("new")]);
    assert!(
        own.contains("cannot read nothing (No such file or directory)"),
        "{own}"
    );
    fs::create_dir(here.path().join("directory")).expect("made");
    let directory = fail(
        here.path(),
        1,
        ["get", &server.url("old"), "-o", "directory"],
    );
    assert!(directory.contains("it is a directory"), "{directory}");
    let nowhere = fail(here.path(), 1, ["get", &server.url("old"), "-o", "no/such"]);
    assert!(nowhere.contains("create its directory"), "{nowhere}");
    let unknown = fail(here.path(), 1, ["get", "tftp://host.invalid/x"]);
    assert!(unknown.contains("no address is known"), "{unknown}");

    assert_eq!(names(root.path()), ["old"]);
    assert_eq!(names(here.path()), ["directory", "old"]);
    assert_eq!(fs::read(here.path().join("old")).expect("there"), b"mine");
}

#[test]
fn arguments_that_make_no_sense_are_code_2() {
    let here = scratch();
    for (arguments, hint) in [
        ("", "Usage"),
        ("fly", "unrecognized"),
        ("get", "required"),
        ("get host", "name is missing"),
        ("get tftp://host", "name is missing"),
        ("get tftp://host/ -o x", "name is missing"),
        ("get tftp://host/dir/", "-o"),
        ("get tftp://host/x y", "names the file already"),
        ("get http://host/x", "tftp://HOST/NAME is expected"),
        ("get tftp://host:0/x", "port"),
        ("get tftp://host/%zz", "%25"),
        ("get tftp://host/x --blksize 7", "8 to 65464"),
        (
            "get tftp://host/x --blksize 512 --no-options",
            "cannot be used",
        ),
        ("get tftp://host/x;mode=octet --netascii", "opposite"),
        ("put file", "required"),
        ("put .. tftp://host/", "how it is to be called"),
        ("serve --listen 6969", "write :6969"),
        ("serve -l /srv/tftp", "tftpd-hpa's -l, which has no value"),
        (
            "serve -l -s /srv/tftp",
            "-s is tftpd-hpa's --secure: bootstorm always confines names to ROOT; leave it out",
        ),
        (
            "--log-format json serve -vc .",
            "-c is tftpd-hpa's --create: write --write create",
        ),
        (
            "serve --secure .",
            "--secure is tftpd-hpa's: bootstorm always confines",
        ),
        ("serve -B1468 .", "write --max-blksize"),
        (
            "serve --maxthread=5 .",
            "--maxthread is atftpd's: write --max-transfers",
        ),
        (
            "serve --tftp-root=/x",
            "--tftp-root is dnsmasq's: write the directory alone",
        ),
        ("serve --no-such", "unexpected argument '--no-such'"),
        // Other commands have nothing to do with those servers.
        ("get -s host name", "unexpected argument '-s'"),
        ("serve --write maybe", "overwrite"),
        ("serve --port-range 5:1", "1:5"),
        (
            "serve --single-port --port-range 5:9",
            "cannot be used with",
        ),
        ("serve --workers +2", "1 to 1024"),
        ("serve --max-transfers +100", "1 to 4294967295"),
        ("serve --idle-timeout +100", "above zero"),
        ("serve --drain-timeout +100", "as in 30"),
        ("serve --retransmit-floor +100", "as in 250"),
        ("serve --subnet 10.0.0.0/8", "max-blksize"),
        ("serve --max-upload many", "64MiB"),
        ("serve --frame-cache 1", "at least 1MiB"),
        ("serve --frame-cache 999T", "more than the"),
        ("serve --workers 0", "a number from 1 to 1024 is expected"),
        ("simulate --seed x", "0 or above"),
        (
            "serve --subnet 10.0.0.1/8:max-blksize=512",
            "write 10.0.0.0/8:max-blksize=512",
        ),
        ("serve --listen :7 --listen :7", "twice"),
        ("serve --log-filter ][", "--log-filter"),
        ("simulate --loss 2", "0 to 1"),
        ("load tftp://host/x --patience 0", "above zero"),
        ("load tftp://host/x --transfers 0", "above zero"),
        ("load tftp://host/x --transfers -1", "above zero"),
        ("load tftp://host/x --clients -1", "1 to 1000000"),
        ("load tftp://host/x --duration -1", "number of seconds"),
        ("load tftp://host/x --seed -1", "0 or above"),
        ("load tftp://host/x --check --clients 2", "cannot be used"),
        ("load tftp://host/x y z --check", "one file"),
    ] {
        let said = fail(here.path(), 2, arguments.split_whitespace());
        assert!(said.contains(hint), "{arguments}: {said}");
    }
    assert_eq!(names(here.path()), Vec::<String>::new());
}

#[test]
fn help_and_version_are_no_mistakes() {
    let here = scratch();
    let output = run(here.path(), ["--version"]);
    let version = concat!("bootstorm ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(String::from_utf8_lossy(&output.stdout), version);
    for subcommand in ["serve", "get", "put", "simulate"] {
        let output = run(here.path(), [subcommand, "--help"]);
        assert!(output.status.success() && output.stderr.is_empty());
    }
}

#[test]
fn a_server_that_cannot_start_says_why() {
    let here = scratch();
    let no_root = fail(here.path(), 1, ["serve", "nowhere", "-l", "127.0.0.1:0"]);
    assert!(no_root.contains("nowhere"), "{no_root}");
    let taken = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let address = taken.local_addr().expect("bound").to_string();
    let in_use = fail(here.path(), 1, ["serve", ".", "-l", &address]);
    assert!(
        in_use.contains(&format!("cannot listen on udp {address}")),
        "{in_use}"
    );
    for hint in ["runs already", "ss -lunp", "--listen"] {
        assert!(in_use.contains(hint), "{in_use}");
    }
    let taken = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let address = taken.local_addr().expect("bound").to_string();
    let words = ["serve", ".", "-l", "127.0.0.1:0", "--admin", &address];
    let in_use = fail(here.path(), 1, words);
    for hint in [&*address, "ss -ltnp", "--admin"] {
        assert!(in_use.contains(hint), "{in_use}");
    }
    // An address for documentation, which no host has.
    for words in [
        ["serve", ".", "-l", "192.0.2.1:6969", "--workers", "1"],
        [
            "serve",
            ".",
            "-l",
            "127.0.0.1:0",
            "--admin",
            "192.0.2.1:6969",
        ],
    ] {
        let elsewhere = fail(here.path(), 1, words);
        let hint = "this host does not have that address";
        assert!(elsewhere.contains(hint), "{elsewhere}");
    }
}

/// Goal: a range without a free port is reported as such, and the user is not sent to look for another
/// program at the listening port.
#[test]
fn a_range_without_a_free_port_is_no_port_in_use() {
    let here = scratch();
    let taken = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let port = taken.local_addr().expect("bound").port();
    let range = format!("{port}:{port}");
    for engine in ["mio", "auto"] {
        let words = ["serve", ".", "-l", "127.0.0.1:0", "--workers", "1"];
        let range = ["--engine", engine, "--port-range", &range];
        let told = fail(here.path(), 1, [&words[..], &range].concat());
        assert!(told.contains("give --port-range at least one"), "{told}");
        assert!(!told.contains("another program"), "{told}");
    }
}

#[test]
fn settings_come_from_a_file_and_the_environment_wins() {
    let root = tempfile::tempdir().expect("a directory");
    fs::write(root.path().join("file"), b"octets").expect("a file");
    let settings = "root = \".\"\nlisten = \"127.0.0.1:0\"\nwrite = \"create\"\nworkers = 1\n";
    fs::write(root.path().join("bootstorm.toml"), settings).expect("a file");
    let server = Server::wait(
        bootstorm(root.path())
            .arg("serve")
            .env("BOOTSTORM_CONFIG", "bootstorm.toml")
            .env("BOOTSTORM_WRITE", "overwrite"),
    );
    let put = bootstorm(root.path())
        .args(["put", "bootstorm.toml", &server.url("file")])
        .output()
        .expect("it runs");
    assert!(put.status.success(), "{put:?}");
    let stored = fs::read_to_string(root.path().join("file")).expect("a file");
    assert_eq!(stored, settings, "the variable allows to overwrite");

    let output = bootstorm(root.path())
        .args(["serve", "--config", "nowhere.toml"])
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("cannot read nowhere.toml: "), "{told}");
}

#[test]
fn settings_come_from_the_environment_too() {
    let root = scratch();
    let mut command = bootstorm(root.path());
    command
        .arg("serve")
        .env("BOOTSTORM_ROOT", root.path())
        .env("BOOTSTORM_LISTEN", "127.0.0.1:0")
        .env("BOOTSTORM_WRITE", "overwrite")
        .env("BOOTSTORM_SINGLE_PORT", "true")
        .env("BOOTSTORM_WORKERS", "1");
    let server = Server::wait(&mut command);
    round_trip(&server, root.path(), b"octets", &[]);
    let (_, said) = server.end();
    assert!(said.contains("writes=\"overwrite\""), "{said}");
}

/// Goal: the error for an invalid value says where the value came from.
#[test]
fn a_bad_value_of_the_environment_is_not_blamed_on_a_flag() {
    let here = scratch();
    for (variable, value, blamed) in [
        (
            "BOOTSTORM_MAX_BLKSIZE",
            "huge",
            "--max-blksize <N|mtu> (from BOOTSTORM_MAX_BLKSIZE)",
        ),
        ("BOOTSTORM_LISTEN", ":69 6969", "(from BOOTSTORM_LISTEN)"),
        ("BOOTSTORM_PIN", "maybe", "--pin (from BOOTSTORM_PIN)"),
        ("BOOTSTORM_WRITE", "of", "(from BOOTSTORM_WRITE)"),
        ("BOOTSTORM_LOG_FILTER", "][", "(from BOOTSTORM_LOG_FILTER)"),
    ] {
        let mut command = bootstorm(here.path());
        let command = command.arg("serve");
        let output = command.env(variable, value).output().expect("it runs");
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(blamed), "{said}");
    }
    // What was typed is one's own, and wins.
    for typed in [["--workers", "0"], ["--workers=0", "."]] {
        let mut command = bootstorm(here.path());
        let command = command
            .arg("serve")
            .args(typed)
            .env("BOOTSTORM_WORKERS", "1");
        let said = stderr(&command.output().expect("it runs"));
        assert!(
            said.contains("from 1 to 1024") && !said.contains("BOOTSTORM_"),
            "{said}"
        );
    }
}

/// Goal: a variable that says no, or is empty, switches nothing on.
#[test]
fn a_switch_of_the_environment_may_be_off() {
    let root = scratch();
    for value in ["0", "off", "no", "FALSE", ""] {
        let mut command = bootstorm(root.path());
        let arguments = [
            "serve",
            ".",
            "-l",
            "127.0.0.1:0",
            "--port-range",
            "20000:60000",
        ];
        let command = command.args(arguments).env("BOOTSTORM_SINGLE_PORT", value);
        // With a single port there is no range, and this would be refused.
        Server::wait(command);
    }
}

/// Goal: of two settings that exclude each other, the one on the command line counts. Method: the root does
/// not exist, which is found out once the arguments are valid.
#[test]
fn what_was_typed_counts_more_than_the_environment() {
    let here = scratch();
    let code = |typed: &[&str], environment: &[(&str, &str)]| {
        let mut command = bootstorm(here.path());
        command.args(["serve", "nowhere", "-l", "127.0.0.1:0"]);
        let output = command
            .args(typed)
            .envs(environment.iter().copied())
            .output()
            .expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), said)
    };
    let single_port = ("BOOTSTORM_SINGLE_PORT", "true");
    let port_range = ("BOOTSTORM_PORT_RANGE", "40000:40100");
    let typed_range = ["--port-range", "40000:40100"];
    for (typed, environment) in [
        (&["--single-port"][..], port_range),
        (&typed_range, single_port),
        (&typed_range, ("BOOTSTORM_SINGLE_PORT", "false")),
    ] {
        let (code, said) = code(typed, &[environment]);
        assert_eq!(code, Some(1), "{typed:?} {environment:?}: {said}");
    }
    let (code, said) = code(&[], &[single_port, port_range]);
    assert_eq!(code, Some(2), "{said}");
}

#[test]
fn the_log_has_a_line_for_each_transfer() {
    let root = scratch();
    let name = "a\u{1b}[2J";
    fs::write(root.path().join(name), random(1000)).expect("written");
    let here = scratch();
    let server = Server::start(root.path(), &["--log-format", "json"]);
    let terms = ["-o", "file", "--blksize", "512", "--windowsize", "4"];
    succeed(
        here.path(),
        ["get", &server.url("a%1b[2J")].iter().copied().chain(terms),
    );
    let (status, said) = server.end();
    assert_eq!(status.code(), Some(0));
    let line: serde_json::Value = said
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .find(|line: &serde_json::Value| line["message"] == "transfer")
        .expect("a line for the transfer");
    assert_eq!(line["file"], "a\\x1b[2J");
    assert_eq!(line["operation"], "read");
    assert_eq!(
        (line["octets"].as_u64(), line["blocks"].as_u64()),
        (Some(1000), Some(2))
    );
    assert_eq!(
        (line["blksize"].as_u64(), line["windowsize"].as_u64()),
        (Some(512), Some(4))
    );
    assert_eq!(line["outcome"], "complete");
    let took = |what: &str| -> serde_json::Value {
        said.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .find(|line: &serde_json::Value| line["what"] == what)
            .unwrap_or_else(|| panic!("no {what} in {said}"))
    };
    let transfer = took("whole transfer");
    assert_eq!(transfer["message"], "latency");
    assert_eq!(transfer["count"].as_u64(), Some(1));
    assert!(transfer["p99_9_seconds"].is_f64() && transfer["max_seconds"].is_f64());
    took("round trip");
    // What a program waits for is plain, and all else is JSON.
    let plain = said.lines().filter(|line| !line.starts_with('{'));
    assert!(
        plain
            .clone()
            .all(|line| line.starts_with("listening on udp ")),
        "{said}"
    );
    assert_eq!(plain.count(), 1);
}

/// A socket of the test's own, which does not wait for ever.
fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket
}

/// A server played by the test, and a client that has its first block and waits for the next one.
fn amid_a_transfer(here: &Path) -> (Child, UdpSocket, SocketAddr) {
    let socket = socket();
    let address = socket.local_addr().expect("bound");
    let client = bootstorm(here)
        .args(["get", &format!("tftp://{address}/file"), "--blksize", "8"])
        .stderr(Stdio::piped())
        .spawn()
        .expect("the client starts");
    let mut buffer = [0; 512];
    let (len, peer) = socket.recv_from(&mut buffer).expect("a request");
    assert_eq!(buffer[..len][..11], *b"\0\x01file\0octe");
    // It knows the length, and then has the first of two blocks.
    let oack = b"\0\x06tsize\x0012\0blksize\x008\0";
    for (packet, ack) in [(&oack[..], 0), (b"\0\x03\0\x01octets..", 1)] {
        socket.send_to(packet, peer).expect("sent");
        loop {
            let (len, _) = socket.recv_from(&mut buffer).expect("an acknowledgement");
            // Repeats of what came before may overtake it.
            if buffer[..len] == [0, 4, 0, ack] {
                break;
            }
        }
    }
    (client, socket, peer)
}

#[test]
fn a_server_that_ends_amid_a_transfer_leaves_no_partial_file() {
    let here = scratch();
    let (client, socket, peer) = amid_a_transfer(here.path());
    assert!(!names(here.path()).contains(&"file".to_owned()));
    let error = b"\0\x05\0\0the other end is shutting down\0";
    socket.send_to(error, peer).expect("sent");
    let output = client.wait_with_output().expect("ended");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("the other end is shutting down"));
    assert_eq!(names(here.path()), Vec::<String>::new());
}

#[cfg(target_os = "linux")]
#[test]
fn a_server_that_is_killed_amid_a_transfer_is_missed_and_leaves_no_partial_file() {
    let here = scratch();
    let (client, socket, peer) = amid_a_transfer(here.path());
    // The client acknowledges the repeat to a port that nobody has any more.
    socket.send_to(b"\0\x03\0\x01octets..", peer).expect("sent");
    drop(socket);
    let output = client.wait_with_output().expect("ended");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("went away after 8 octets"),
        "{}",
        stderr(&output)
    );
    assert_eq!(names(here.path()), Vec::<String>::new());
}

#[test]
fn an_interrupt_amid_a_transfer_tells_the_server_and_leaves_no_partial_file() {
    for sent in [Signal::INT, Signal::TERM] {
        let here = scratch();
        let (client, socket, _) = amid_a_transfer(here.path());
        signal(&client, sent);
        let mut buffer = [0; 512];
        loop {
            let (len, _) = socket.recv_from(&mut buffer).expect("a last word");
            if buffer[..len].starts_with(b"\0\x05\0\0") {
                break;
            }
        }
        let output = client.wait_with_output().expect("ended");
        assert_eq!(output.status.code(), Some(1));
        assert!(
            stderr(&output).contains("interrupted"),
            "{}",
            stderr(&output)
        );
        assert_eq!(names(here.path()), Vec::<String>::new());
    }
}

#[test]
fn an_interrupted_upload_leaves_nothing_at_the_server() {
    let root = scratch();
    let server = Server::start(root.path(), &["--write", "create", "--log-format", "json"]);
    let socket = socket();
    let mut buffer = [0; 512];
    socket
        .send_to(b"\0\x02file\0octet\0", server.address)
        .expect("sent");
    let (len, transfer) = socket.recv_from(&mut buffer).expect("an answer");
    assert_eq!(buffer[..len], *b"\0\x04\0\0");
    socket
        .send_to(&[&b"\0\x03\0\x01"[..], &[7; 512]].concat(), transfer)
        .expect("sent");
    let (len, _) = socket.recv_from(&mut buffer).expect("an answer");
    assert_eq!(buffer[..len], *b"\0\x04\0\x01");
    socket
        .send_to(b"\0\x05\0\0enough\0", transfer)
        .expect("sent");
    // No transfer runs any more, so the server ends at once.
    let (status, said) = server.end();
    assert_eq!(status.code(), Some(0));
    assert!(
        said.contains("\"outcome\":\"peer_error\",\"code\":0"),
        "{said}"
    );
    assert_eq!(names(root.path()), Vec::<String>::new());
}

/// A client that has the first block of a file and never acknowledges it.
fn stuck_client(server: &Server) -> UdpSocket {
    let socket = socket();
    let mut buffer = [0; 1024];
    let request = b"\0\x01file\0octet\0";
    socket.send_to(request, server.address).expect("sent");
    let (len, _) = socket.recv_from(&mut buffer).expect("a block");
    assert_eq!((len, &buffer[..4]), (516, &b"\0\x03\0\x01"[..]));
    socket
}

/// Waits for ERROR 0, which repeats of the block may precede.
fn is_told(client: &UdpSocket) {
    let mut buffer = [0; 1024];
    loop {
        let (len, _) = client.recv_from(&mut buffer).expect("a last word");
        if buffer[..len].starts_with(b"\0\x05\0\0") {
            return;
        }
    }
}

#[test]
fn a_second_interrupt_ends_a_server_at_once_and_tells_its_clients() {
    for engine in ["mio", "auto"] {
        let root = scratch();
        fs::write(root.path().join("file"), random(2000)).expect("written");
        // It would drain for ever.
        let waits = ["--drain-timeout", "86400", "--idle-timeout", "86400"];
        let arguments = [&waits[..], &["--engine", engine]].concat();
        let server = Server::start(root.path(), &arguments);
        let client = stuck_client(&server);
        let (status, said) = server.interrupt_twice();
        is_told(&client);
        assert_eq!(status.code(), Some(1));
        assert!(said.contains("1 running transfer was cut short"), "{said}");
    }
}

/// Goal: a second SIGTERM changes nothing, and does not log the start of draining again; a SIGINT still ends
/// the server at once.
#[test]
fn a_second_sigterm_is_no_second_beginning() {
    let root = scratch();
    fs::write(root.path().join("file"), random(2000)).expect("written");
    let waits = ["--drain-timeout", "86400", "--idle-timeout", "86400"];
    let mut server = Server::start(root.path(), &waits);
    let client = stuck_client(&server);
    for line in ["draining: no new requests", "draining already"] {
        signal(&server.child, Signal::TERM);
        while !server.said.contains(line) {
            assert!(server.stderr.read_line(&mut server.said).expect("text") > 0);
        }
    }
    signal(&server.child, Signal::INT);
    is_told(&client);
    let mut said = std::mem::take(&mut server.said);
    server.stderr.read_to_string(&mut said).expect("text");
    assert_eq!(server.child.wait().expect("ended").code(), Some(1));
    assert_eq!(said.matches("no new requests").count(), 1, "{said}");
}

#[test]
fn a_server_ends_by_itself_once_the_time_to_drain_is_over() {
    let root = scratch();
    fs::write(root.path().join("file"), random(2000)).expect("written");
    let waits = ["--drain-timeout", "1", "--idle-timeout", "86400"];
    let server = Server::start(root.path(), &waits);
    let client = stuck_client(&server);
    let (status, said) = server.end();
    is_told(&client);
    assert_eq!(status.code(), Some(1));
    assert!(said.contains("cut short"), "{said}");
}

#[test]
fn a_second_interrupt_is_no_failure_where_it_cuts_nothing() {
    let root = scratch();
    let server = Server::start(root.path(), &["--write", "create"]);
    // The server would stay a while, should the client ask for the last acknowledgement again.
    round_trip(&server, root.path(), b"octets", &[]);
    let (status, said) = server.interrupt_twice();
    assert_eq!(status.code(), Some(0), "{said}");
}

#[test]
fn an_interrupt_ends_an_idle_server_well() {
    let root = scratch();
    let mut server = Server::start(root.path(), &[]);
    signal(&server.child, Signal::INT);
    assert_eq!(server.child.wait().expect("ended").code(), Some(0));
}

/// The processors that a thread of the process with these files under `/proc` may run on.
#[cfg(target_os = "linux")]
fn processors(task: &Path) -> Vec<usize> {
    let status = fs::read_to_string(task.join("status")).expect("a thread that runs");
    let list = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
        .expect("a list");
    let number = |text: &str| text.parse::<usize>().expect("a number");
    list.trim()
        .split(',')
        .flat_map(|part| match part.split_once('-') {
            Some((first, last)) => number(first)..=number(last),
            None => number(part)..=number(part),
        })
        .collect()
}

/// Goal: each worker stays on its own processor, one of those that are allowed, and no other thread is
/// pinned. Method: ask the kernel about every thread of the server.
#[cfg(target_os = "linux")]
#[test]
fn pinned_workers_stay_on_a_processor_each() {
    let allowed = processors(Path::new("/proc/thread-self"));
    let workers = allowed.len().min(2);
    let root = scratch();
    let mut command = bootstorm(root.path());
    command.args([
        "serve",
        ".",
        "--listen",
        "127.0.0.1:0",
        "--pin",
        "--workers",
    ]);
    let server = Server::wait(command.arg(workers.to_string()));
    let tasks = Path::new("/proc")
        .join(server.child.id().to_string())
        .join("task");
    let mut pinned = Vec::new();
    for task in names(&tasks) {
        let task = tasks.join(task);
        let name = fs::read_to_string(task.join("comm")).expect("a name");
        if name.starts_with("shard-") {
            pinned.push(processors(&task));
        } else {
            assert_eq!(processors(&task), allowed, "{name}");
        }
    }
    pinned.sort();
    let expected: Vec<_> = allowed[..workers].iter().map(|&one| vec![one]).collect();
    assert_eq!(pinned, expected);
    let (status, said) = server.end();
    assert!(status.success(), "{said}");
    assert_eq!(said.matches("workers are pinned").count(), 1, "{said}");

    let told = fail(
        root.path(),
        1,
        [
            "serve",
            ".",
            "--listen",
            "127.0.0.1:0",
            "--pin",
            "--workers",
            "1024",
        ],
    );
    assert!(
        told.contains("cannot pin 1024 workers") && told.contains("or fewer"),
        "{told}"
    );
}

/// The count and the numbers behind it in the row of this name, of the last table in `said`.
fn latencies(said: &str, name: &str) -> Vec<f64> {
    let row = said
        .lines()
        .rev()
        .find_map(|line| line.trim_start().strip_prefix(name));
    row.unwrap_or_else(|| panic!("no row {name:?} in {said}"))
        .split_whitespace()
        .map(|number| number.parse().expect("a number"))
        .collect()
}

/// Goal: durations are shown on request and at the end, in aligned columns, and not if nothing was served or
/// they are switched off.
#[test]
fn a_server_says_how_long_things_took() {
    let here = scratch();
    fs::write(here.path().join("image"), random(30_000)).expect("written");
    let get = |server: &Server| {
        let into = scratch();
        let url = server.url("image");
        succeed(
            into.path(),
            ["get", &url, "--blksize", "1000", "--windowsize", "4"],
        );
    };

    let mut server = Server::start(here.path(), &[]);
    get(&server);
    signal(&server.child, Signal::USR1);
    while !server.said.contains("whole transfer") {
        assert!(server.stderr.read_line(&mut server.said).expect("text") > 0);
    }
    assert_eq!(latencies(&server.said, "whole transfer")[0], 1.0);
    server.said.clear();
    get(&server);
    let (status, said) = server.end();
    assert!(status.success(), "{said}");
    // The OACK, seven full windows and the rest: as many ACKs, and the last one lets nothing go.
    for (name, count_min) in [
        ("request to first datagram", 2.0),
        ("ACK to next burst", 2.0),
        ("round trip", 2.0),
        ("whole transfer", 2.0),
    ] {
        let row = latencies(&said, name);
        assert_eq!(
            row.len(),
            6,
            "count, four percentiles and the longest: {said}"
        );
        assert!(row[0] >= count_min, "{name}: {said}");
        assert!(row[1..].is_sorted(), "{name}: {said}");
    }
    assert_eq!(latencies(&said, "request to first datagram")[0], 2.0);
    assert_eq!(latencies(&said, "whole transfer")[0], 2.0);
    let widths: Vec<_> = said
        .lines()
        .skip_while(|line| !line.contains("p99.9"))
        .take(5)
        .map(str::len)
        .collect();
    assert_eq!(widths, [widths[0]; 5], "{said}");

    // Where lines are objects, nobody has to read a table.
    let mut objects = Server::start(here.path(), &["--log-format", "json"]);
    get(&objects);
    signal(&objects.child, Signal::USR1);
    while !objects.said.contains("whole transfer") {
        assert!(objects.stderr.read_line(&mut objects.said).expect("text") > 0);
    }
    let shown = std::mem::take(&mut objects.said);
    let (_, said) = objects.end();
    let lines: Vec<serde_json::Value> = [shown, said]
        .concat()
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let octets = |line: &&serde_json::Value| line["counter"] == "octets sent";
    let octets = lines.iter().find(octets).expect("a counter");
    assert_eq!(octets["count"], 30_000);
    let whole = lines.iter().filter(|line| line["what"] == "whole transfer");
    let p99: Vec<_> = whole.map(|line| line["p99_seconds"].is_number()).collect();
    assert_eq!(p99, [true, true], "when asked for, and at the end");
    let tables = lines.iter().filter(|line| line.to_string().contains("\\n"));
    assert_eq!(tables.count(), 0);

    let idle = Server::start(here.path(), &[]);
    let (_, said) = idle.end();
    assert!(!said.contains("p99"), "{said}");
    let quiet = Server::start(here.path(), &["--log-filter", "warn"]);
    get(&quiet);
    let (_, said) = quiet.end();
    assert!(!said.contains("p99"), "{said}");
}

#[test]
fn simulations_repeat_themselves() {
    let here = scratch();
    let arguments =
        "simulate --seed 7 --loss 5% --reorder 0.05 --jitter 1 --size 50KB --clients 3 --trace";
    let once = run(here.path(), arguments.split_whitespace());
    assert!(once.status.success(), "{}", stderr(&once));
    let text = String::from_utf8_lossy(&once.stdout).into_owned();
    assert!(text.contains("3 of 3") && text.contains("equal"), "{text}");
    let twice = run(here.path(), arguments.split_whitespace());
    assert!(once.stdout == twice.stdout);
    let put = run(
        here.path(),
        ["simulate", "--write", "--windowsize", "1", "--size", "9"],
    );
    assert!(put.status.success(), "{}", stderr(&put));
}

/// Goal: the command as normally run survives noise, and then serves. Method: random octets, half of them
/// after a valid opcode, and a good request between the bursts, so that nothing is dropped unread.
#[test]
fn a_hundred_thousand_random_datagrams_change_nothing() {
    let (root, here) = (scratch(), scratch());
    let contents: Vec<u8> = (0..100_000u32).map(|octet| octet as u8).collect();
    fs::write(root.path().join("file"), &contents).expect("written");
    let server = Server::start(root.path(), &["--write", "create"]);
    let noise = socket();
    let mut random = fastrand::Rng::with_seed(69);
    for count in 0..100_000 {
        let mut octets = vec![0; random.usize(..200)];
        random.fill(&mut octets);
        if let [first, second, ..] = &mut octets[..]
            && random.bool()
        {
            (*first, *second) = (0, random.u8(1..=6));
        }
        noise.send_to(&octets, server.address).expect("sent");
        if count % 10_000 == 9_999 {
            let copy = format!("copy-{count}");
            let output = bootstorm(here.path())
                .args(["get", &server.url("file"), "-o", &copy])
                .output()
                .expect("run");
            assert!(output.status.success(), "{}", stderr(&output));
            assert_eq!(fs::read(here.path().join(copy)).expect("there"), contents);
        }
    }
    assert_eq!(server.end().0.code(), Some(0));
}

/// Goal: `load --check` is `check`. Method: both examine a port with no server.
#[test]
fn load_examines_too() {
    let here = scratch();
    let nobody = common::refusing("127.0.0.1:0").expect("a socket");
    let url = format!("tftp://{}/x", nobody.local_addr().expect("bound"));
    let told = [&["check", &url][..], &["load", "--check", &url]]
        .map(|arguments| fail(here.path(), 1, arguments.iter().copied()));
    assert!(told[0].contains("cannot be examined"), "{}", told[0]);
    assert_eq!(told[0], told[1]);
}

/// Goal: a command whose output pipe is closed neither panics nor fails in another way. Method: both of its
/// pipes are closed before it writes anything.
#[test]
fn a_command_that_nobody_listens_to_does_not_panic() {
    let here = scratch();
    let nowhere = here.path().join("nowhere");
    let arguments: [&[&str]; 3] = [
        &["serve", nowhere.to_str().expect("text")],
        &["load", "tftp://127.0.0.1:9/x", "--patience", "0.1"],
        &["check", "tftp://localhost.invalid/x"],
    ];
    for arguments in arguments {
        let mut child = bootstorm(here.path())
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        drop((child.stdout.take(), child.stderr.take()));
        let status = child.wait().expect("ended");
        assert_eq!(status.code(), Some(1), "{arguments:?}");
    }
}

/// Goal: a root that the server's user may not enter is reported at startup, not by refusing every request.
/// The superuser may enter everything, so the server runs as another user then.
#[test]
fn a_root_that_may_not_be_entered_is_told() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;

    let here = scratch();
    let program = here.path().join("bootstorm");
    fs::copy(env!("CARGO_BIN_EXE_bootstorm"), &program).expect("copied");
    fs::create_dir(here.path().join("closed")).expect("made");
    let closed = |mode| {
        let mode = fs::Permissions::from_mode(mode);
        fs::set_permissions(here.path().join("closed"), mode).expect("set");
    };
    fs::set_permissions(here.path(), fs::Permissions::from_mode(0o755)).expect("set");
    let mut command = Command::new(program);
    if rustix::process::geteuid().is_root() {
        command.uid(65_534).gid(65_534);
    }
    closed(0o600);
    let output = command
        .current_dir(here.path())
        .args(["serve", "closed", "-l", "127.0.0.1:0"])
        .output()
        .expect("the command runs");
    // Else whoever is not root could not remove it.
    closed(0o700);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot serve closed"), "{said}");
    assert!(said.contains("chmod"), "{said}");
}

/// Goal: a server that runs as root explains once, at startup, what that means; other servers do not.
#[test]
fn a_server_that_runs_as_root_says_what_that_means() {
    let root = scratch();
    let (_, said) = Server::start(root.path(), &[]).end();
    let told = usize::from(rustix::process::geteuid().is_root());
    assert_eq!(said.matches("running as root").count(), told, "{said}");
    if told == 1 {
        use std::os::unix::fs::PermissionsExt;
        use std::os::unix::process::CommandExt;

        let program = root.path().join("bootstorm");
        fs::copy(env!("CARGO_BIN_EXE_bootstorm"), &program).expect("copied");
        let all = fs::Permissions::from_mode(0o755);
        fs::set_permissions(root.path(), all).expect("set");
        let mut command = Command::new(program);
        let arguments = ["serve", ".", "--listen", "127.0.0.1:0"];
        command.uid(65_534).gid(65_534).current_dir(root.path());
        let (_, said) = Server::wait(command.args(arguments)).end();
        assert!(!said.contains("running as root"), "{said}");
    }
}

/// Goal: an unread log delays neither clients nor the shutdown. Method: nothing reads the log's pipe, which
/// takes 64 KiB, while far more is logged.
#[test]
fn a_log_that_nobody_reads_holds_nobody_up() {
    let root = scratch();
    let mut server = Server::start(root.path(), &["-vv"]);
    let client = socket();
    for _ in 0..1_000 {
        client
            .send_to(b"\0\x01none\0octet\0", server.address)
            .expect("sent");
        let mut answer = [0; 100];
        client.recv_from(&mut answer).expect("an answer");
        assert_eq!(answer[..4], [0, 5, 0, 1]);
    }
    signal(&server.child, Signal::TERM);
    assert!(server.child.wait().expect("it ends").success());
}
