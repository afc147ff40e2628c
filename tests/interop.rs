//! Other people's clients against the server, with files that machines really boot from.

mod common;

use std::collections::HashSet;
use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use bootstorm::config::Settings;
use bootstorm::server::Server;
use bootstorm::store::Writes;
use common::peer;

/// Where Debian's package puts what the installer boots from.
const NETBOOT: &str = "/usr/lib/debian-installer/images/12/amd64";
const NETBOOT_PACKAGE: &str = "debian-installer-12-netboot-amd64";
/// Clients that run at once: the server has to have a core as well.
const CLIENTS_AT_ONCE: usize = 3;
/// What a client may take for one file, in seconds, before it is ended and the test fails.
const CLIENT_SECONDS: &str = "120";

/// A way of running somebody's client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Client {
    Atftp(&'static [&'static str]),
    Busybox(&'static [&'static str]),
    Curl(&'static [&'static str]),
    Hpa,
}

const CLIENTS: &[Client] = &[
    Client::Atftp(&[]),
    Client::Atftp(&["--option", "windowsize 8", "--option", "blksize 1428"]),
    Client::Busybox(&[]),
    Client::Busybox(&["-b", "1428"]),
    Client::Busybox(&["-b", "65464"]),
    Client::Curl(&[]),
    Client::Curl(&["--tftp-blksize", "1428"]),
    Client::Curl(&["--tftp-blksize", "65464"]),
    Client::Hpa,
];

impl Client {
    const fn program(self) -> &'static str {
        match self {
            Self::Atftp(_) => "atftp",
            Self::Busybox(_) => "busybox",
            Self::Curl(_) => "curl",
            Self::Hpa => "tftp",
        }
    }

    fn get(self, server: SocketAddr, remote: &str, local: &Path) -> Output {
        let local = local.to_str().expect("a plain path");
        let (host, port) = (server.ip().to_string(), server.port().to_string());
        let ends = [host.as_str(), port.as_str()];
        let url = format!("tftp://{server}/{remote}");
        self.run(match self {
            Self::Atftp(options) => [&["-g", "-r", remote, "-l", local], options, &ends].concat(),
            Self::Busybox(options) => {
                [&["tftp", "-g", "-r", remote, "-l", local], options, &ends].concat()
            }
            Self::Curl(options) => [&["-sS", "-o", local, &url], options].concat(),
            Self::Hpa => [&["-m", "binary"], &ends[..], &["-c", "get", remote, local]].concat(),
        })
    }

    fn put(self, server: SocketAddr, local: &Path, remote: &str) -> Output {
        let local = local.to_str().expect("a plain path");
        let (host, port) = (server.ip().to_string(), server.port().to_string());
        let ends = [host.as_str(), port.as_str()];
        let url = format!("tftp://{server}/{remote}");
        self.run(match self {
            Self::Atftp(options) => [&["-p", "-r", remote, "-l", local], options, &ends].concat(),
            Self::Busybox(options) => {
                [&["tftp", "-p", "-r", remote, "-l", local], options, &ends].concat()
            }
            Self::Curl(options) => [&["-sS", "-T", local, &url], options].concat(),
            Self::Hpa => [&["-m", "binary"], &ends[..], &["-c", "put", local, remote]].concat(),
        })
    }

    fn run(self, arguments: Vec<&str>) -> Output {
        Command::new("timeout")
            .args([CLIENT_SECONDS, self.program()])
            .args(arguments)
            .output()
            .expect("the client runs")
    }
}

/// Goal: what a machine boots from arrives as it is, whoever asks. Method: every file of Debian's
/// installer by every client; both trees hold many files twice, which are fetched from one.
#[test]
fn every_file_of_a_real_tree_by_every_client() {
    let (Some(tree), Some(clients)) = (netboot(), clients()) else {
        return;
    };
    let names = unique(&regular_files(tree), tree);
    let server = serve(tree, "127.0.0.1", |_| {});
    let address = server.addresses()[0];
    let mut jobs = Vec::new();
    for name in &names {
        for &client in &clients {
            jobs.push((client, name.as_str()));
        }
    }
    fetch_all(tree, address, &jobs);
}

fn netboot() -> Option<&'static Path> {
    common::require_path(NETBOOT, NETBOOT_PACKAGE)
}

/// The clients, if their programs are there.
fn clients() -> Option<Vec<Client>> {
    let there = |client: &Client| common::require(client.program()).is_some();
    CLIENTS.iter().all(there).then(|| CLIENTS.to_vec())
}

fn serve(root: &Path, host: &str, change: impl FnOnce(&mut Settings)) -> Server {
    let mut options = peer::options(root);
    let host: IpAddr = host.parse().expect("an address");
    options.listen = vec![SocketAddr::new(host, 0)];
    change(&mut options.settings);
    peer::start(&options)
}

/// Fetches each file by its client, several at a time, and compares.
fn fetch_all(root: &Path, server: SocketAddr, jobs: &[(Client, &str)]) {
    let scratch = tempfile::tempdir().expect("a directory");
    let queue = Mutex::new(jobs.iter());
    thread::scope(|scope| {
        for worker in 0..CLIENTS_AT_ONCE {
            let local = scratch.path().join(worker.to_string());
            let queue = &queue;
            scope.spawn(move || {
                loop {
                    let job = queue.lock().expect("no worker fails holding it").next();
                    let Some(&(client, name)) = job else { break };
                    // Some do not make a file that turns out to be empty.
                    fs::write(&local, "").expect("an empty file");
                    let started = Instant::now();
                    let output = client.get(server, name, &local);
                    let took = started.elapsed();
                    if took.as_secs() > 0 { eprintln!("{client:?} {name} {took:?}"); }
                    let what = || format!("{client:?} from {server}: {name}: {output:?}");
                    assert!(output.status.success(), "{}", what());
                    let original = fs::read(root.join(name)).expect("the original");
                    assert!(fs::read(&local).expect("a copy") == original, "{}", what());
                }
            });
        }
    });
}

/// The regular files under `root`, by their names below it.
fn regular_files(root: &Path) -> Vec<String> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a directory") {
            let entry = entry.expect("an entry");
            let kind = entry.file_type().expect("a kind");
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                let path = entry.path();
                let name = path.strip_prefix(root).expect("below the root");
                files.push(name.to_str().expect("a plain name").to_owned());
            }
        }
    }
    files.sort();
    files
}

/// Each content once.
fn unique(names: &[String], root: &Path) -> Vec<String> {
    let mut seen = HashSet::new();
    let new = |name: &&String| seen.insert(fs::read(root.join(name)).expect("a file"));
    names.iter().filter(new).cloned().collect()
}
