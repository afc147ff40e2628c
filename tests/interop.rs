//! Third-party clients against the server, with files that machines really boot from.
//!
//! Each test has its own loopback if possible. On the machine's loopback, a client may be given the port that
//! another one just had, and first receive datagrams of that one's server, which few clients survive.

mod common;

use std::cmp::Reverse;
use std::collections::HashSet;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use bootstorm::server::{Server, ServerOptions};
use bootstorm::store::Writes;
use common::peer;
use tempfile::TempDir;

/// Where Debian's package puts what the installer boots from.
const NETBOOT: &str = "/usr/lib/debian-installer/images/12/amd64";
const NETBOOT_PACKAGE: &str = "debian-installer-12-netboot-amd64";
const SHORTER_IMAGE: &str = "text/debian-installer/amd64/initrd.gz";
const LOOPBACK: &str = "127.0.0.1:0";
/// Clients that run at once: the server has to have a core as well.
const CLIENTS_AT_ONCE: usize = 3;
/// What a client may take for one file, in seconds, before it is ended and the test fails.
const CLIENT_SECONDS: &str = "120";

/// Every test in a network namespace of its own; where none can be had, as without root, in the machine's.
macro_rules! apart {
    ($($test:ident)*) => {
        mod apart {
            $(#[test]
            fn $test() {
                #[cfg(target_os = "linux")]
                if let Ok(namespace) = crate::common::namespace::Namespace::new() {
                    return namespace.within(super::$test);
                }
                super::$test();
            })*
        }
    };
}

apart! {
    every_file_of_a_real_tree_by_every_client
    every_file_of_a_real_tree_over_ipv6_and_from_a_single_port
    files_of_every_kind_from_a_single_port
    files_of_every_kind_from_a_range_of_ports
    files_of_every_kind_over_ipv6
    files_of_more_than_65_536_blocks
    files_of_every_kind_from_two_shards_on_every_address
    uploads_by_every_client
    nothing_is_written_unless_allowed
    nothing_is_left_of_a_killed_client
    a_missing_file_makes_every_client_fail
}

/// A way of running somebody's client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Client {
    Atftp(&'static [&'static str]),
    Bootstorm(&'static [&'static str]),
    Busybox(&'static [&'static str]),
    Curl(&'static [&'static str]),
    Hpa,
}

const CLIENTS: &[Client] = &[
    Client::Atftp(&[]),
    Client::Atftp(&["--option", "windowsize 8", "--option", "blksize 1428"]),
    Client::Bootstorm(&[]),
    Client::Bootstorm(&["--blksize", "512", "--windowsize", "1"]),
    Client::Bootstorm(&["--blksize", "65464", "--windowsize", "16"]),
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
            Self::Bootstorm(_) => env!("CARGO_BIN_EXE_bootstorm"),
            Self::Busybox(_) => "busybox",
            Self::Curl(_) => "curl",
            Self::Hpa => "tftp",
        }
    }

    fn get(self, server: SocketAddr, remote: &str, local: &Path) -> Output {
        self.run_for(CLIENT_SECONDS, &self.get_arguments(server, remote, local))
    }

    fn get_arguments(self, server: SocketAddr, remote: &str, local: &Path) -> Vec<String> {
        let local = local.to_str().expect("a plain path");
        let (host, port) = (server.ip().to_string(), server.port().to_string());
        let ends = [host.as_str(), port.as_str()];
        let url = format!("tftp://{server}/{remote}");
        let arguments = match self {
            Self::Atftp(options) => [&["-g", "-r", remote, "-l", local], options, &ends].concat(),
            Self::Busybox(options) => {
                [&["tftp", "-g", "-r", remote, "-l", local], options, &ends].concat()
            }
            Self::Bootstorm(options) => [&["get", &url, "-o", local], options].concat(),
            Self::Curl(options) => [&["-sS", "-o", local, &url], options].concat(),
            Self::Hpa => [&["-m", "binary"], &ends[..], &["-c", "get", remote, local]].concat(),
        };
        arguments.into_iter().map(str::to_owned).collect()
    }

    fn put(self, server: SocketAddr, local: &Path, remote: &str) -> Output {
        self.run_for(CLIENT_SECONDS, &self.put_arguments(server, local, remote))
    }

    fn put_arguments(self, server: SocketAddr, local: &Path, remote: &str) -> Vec<String> {
        let local = local.to_str().expect("a plain path");
        let (host, port) = (server.ip().to_string(), server.port().to_string());
        let ends = [host.as_str(), port.as_str()];
        let url = format!("tftp://{server}/{remote}");
        let arguments = match self {
            Self::Atftp(options) => [&["-p", "-r", remote, "-l", local], options, &ends].concat(),
            Self::Busybox(options) => {
                [&["tftp", "-p", "-r", remote, "-l", local], options, &ends].concat()
            }
            Self::Bootstorm(options) => [&["put", local, &url], options].concat(),
            Self::Curl(options) => [&["-sS", "-T", local, &url], options].concat(),
            Self::Hpa => [&["-m", "binary"], &ends[..], &["-c", "put", local, remote]].concat(),
        };
        arguments.into_iter().map(str::to_owned).collect()
    }

    fn run_for(self, seconds: &str, arguments: &[String]) -> Output {
        Command::new("timeout")
            .args(["--signal=KILL", seconds, self.program()])
            .args(arguments)
            .output()
            .expect("the client runs")
    }

    /// tftp-hpa says what went wrong, and ends as if nothing had.
    fn failed(self, output: &Output) -> bool {
        let said = String::from_utf8_lossy(&output.stdout);
        !output.status.success() || self == Self::Hpa && said.contains("Error code")
    }

    /// Whether it takes 512 octets at a time.
    fn is_slow(self) -> bool {
        match self {
            Self::Bootstorm(options) => options.contains(&"512"),
            Self::Atftp(options) | Self::Busybox(options) | Self::Curl(options) => {
                options.is_empty()
            }
            Self::Hpa => true,
        }
    }
}

/// Goal: boot files arrive unchanged with every client. Method: every file of Debian's installer by every
/// client. Both trees hold many files twice, which are fetched from one; and of the two long images, the slow
/// clients fetch the longer, whose block numbers roll over twice.
fn every_file_of_a_real_tree_by_every_client() {
    let (Some(tree), true) = (netboot(), clients_are_there()) else {
        return;
    };
    let names = unique(&regular_files(tree), tree);
    let (_server, address) = serve(tree, LOOPBACK, |_| {});
    let mut jobs = jobs(&names);
    jobs.retain(|&(client, name)| !(client.is_slow() && name == SHORTER_IMAGE));
    fetch_all(tree, address, &jobs);

    // Symbolic links inside the tree, to files and on the way to them.
    for name in ["text/pxelinux.0", "text/pxelinux.cfg/default"] {
        for &client in CLIENTS {
            fetch_all(tree, address, &[(client, name)]);
        }
    }
}

/// The same tree in the other ways to serve it. The few images would take the clients that know nothing but
/// 512 octets and lock-step too long; how they fare with those over IPv6 and from a single port, the
/// test of 65,536 blocks shows.
fn every_file_of_a_real_tree_over_ipv6_and_from_a_single_port() {
    let (Some(tree), true) = (netboot(), clients_are_there()) else {
        return;
    };
    let names = unique(&regular_files(tree), tree);
    let is_image = |name: &str| {
        fs::metadata(tree.join(name)).is_ok_and(|metadata| metadata.len() > IMAGE_OCTETS_MIN)
    };
    let mut jobs = jobs(&names);
    jobs.retain(|&(client, name)| !(client.is_slow() && is_image(name)));
    let mut ways = vec![(LOOPBACK, true)];
    if host_has_ipv6() {
        ways.extend([("[::1]:0", false), ("[::1]:0", true)]);
    }
    for (listen, single_port) in ways {
        let (_server, address) = serve(tree, listen, |options| {
            options.settings.single_port = single_port;
        });
        fetch_all(tree, address, &jobs);
    }
}

fn files_of_every_kind_from_a_single_port() {
    every_kind(LOOPBACK, |options| options.settings.single_port = true);
}

fn files_of_every_kind_from_a_range_of_ports() {
    // A free port is found by asking for one; the range lets others take some meanwhile.
    let port = free_port();
    let last = port.saturating_add(20);
    every_kind(LOOPBACK, |options| {
        options.settings.port_range = Some((port, last));
    });
}

fn files_of_every_kind_over_ipv6() {
    if host_has_ipv6() {
        every_kind("[::1]:0", |_| {});
        every_kind("[::1]:0", |options| options.settings.single_port = true);
    }
}

/// Files longer than this are images of kernels and disks.
const IMAGE_OCTETS_MIN: u64 = 4 << 20;

/// Goal: block numbers roll over from a shared port and over IPv6 as well. Method: clients with blocks of 512
/// octets fetch more than 65,536 blocks; the others a real image.
fn files_of_more_than_65_536_blocks() {
    if !clients_are_there() {
        return;
    }
    let root = folder();
    let len = 65_536 * 512 + 1;
    fs::write(root.path().join("rollover"), peer::octets(1, len)).expect("a file");
    if let Some(tree) = netboot() {
        fs::copy(tree.join(SHORTER_IMAGE), root.path().join("image")).expect("a copy");
    }
    let is_meant = |&(client, name): &(Client, &str)| client.is_slow() == (name == "rollover");
    let names = regular_files(root.path());
    let jobs: Vec<_> = jobs(&names).into_iter().filter(is_meant).collect();

    let listen = if host_has_ipv6() { "[::1]:0" } else { LOOPBACK };
    let (_server, address) = serve(root.path(), listen, |options| {
        options.settings.single_port = true;
    });
    fetch_all(root.path(), address, &jobs);
}

fn files_of_every_kind_from_two_shards_on_every_address() {
    if host_has_ipv6() {
        every_kind("[::]:0", |options| options.workers = 2);
    }
}

fn uploads_by_every_client() {
    if !clients_are_there() {
        return;
    }
    let (sources, targets) = (files_of_every_kind(), folder());
    let names = regular_files(sources.path());
    let created = serve(targets.path(), LOOPBACK, |options| {
        options.directory.writes = Writes::Create;
    });
    let replaced = serve(targets.path(), LOOPBACK, |options| {
        options.directory.writes = Writes::Overwrite;
    });
    for name in &names {
        let local = sources.path().join(name);
        let whole = fs::read(&local).expect("a file");
        for (number, client) in CLIENTS.iter().enumerate() {
            let remote = format!("{number}-{name}");
            let there = || fs::read(targets.path().join(&remote)).expect("a file");

            let output = client.put(created.1, &local, &remote);
            assert!(output.status.success(), "{client:?} {remote}: {output:?}");
            assert!(there() == whole, "{client:?} {remote}");

            let again = client.put(created.1, &local, &remote);
            assert!(client.failed(&again), "{client:?} {remote}: {again:?}");
            assert!(there() == whole, "{client:?} {remote}");

            fs::write(targets.path().join(&remote), "old contents").expect("writes");
            let output = client.put(replaced.1, &local, &remote);
            assert!(output.status.success(), "{client:?} {remote}: {output:?}");
            assert!(there() == whole, "{client:?} {remote}");
        }
    }
    assert_eq!(
        entries(targets.path()),
        names.len() * CLIENTS.len(),
        "and nothing else, hidden or not"
    );
}

fn nothing_is_written_unless_allowed() {
    if !clients_are_there() {
        return;
    }
    let (sources, target) = (files_of_every_kind(), folder());
    let (_server, address) = serve(target.path(), LOOPBACK, |_| {});
    for client in CLIENTS {
        let output = client.put(address, &sources.path().join("one"), "one");
        assert!(client.failed(&output), "{client:?}: {output:?}");
    }
    assert_eq!(entries(target.path()), 0);
}

/// Goal: an upload whose client dies leaves nothing. Method: each client is killed in the middle of a file
/// that takes it seconds; the server gives up after one second without a datagram.
fn nothing_is_left_of_a_killed_client() {
    if !clients_are_there() {
        return;
    }
    let (source, target) = (folder(), folder());
    let local = source.path().join("long");
    fs::File::create(&local)
        .and_then(|file| file.set_len(2_000_000_000))
        .expect("a long file");
    let (_server, address) = serve(target.path(), LOOPBACK, |options| {
        options.directory.writes = Writes::Create;
        options.settings.patience.idle = Duration::from_secs(1);
    });
    for (number, client) in CLIENTS.iter().enumerate() {
        let remote = number.to_string();
        let output = client.run_for("0.3", &client.put_arguments(address, &local, &remote));
        assert!(!output.status.success(), "{client:?}: {output:?}");
    }
    peer::until("nothing is left", || entries(target.path()) == 0);
}

fn a_missing_file_makes_every_client_fail() {
    if !clients_are_there() {
        return;
    }
    let root = folder();
    let (_server, address) = serve(root.path(), LOOPBACK, |_| {});
    let scratch = folder();
    for client in CLIENTS {
        let output = client.get(address, "no/such/file", &scratch.path().join("local"));
        assert!(client.failed(&output), "{client:?}: {output:?}");
    }
}

/// The files at which servers and clients stumble, and a few real ones, by every client.
fn every_kind(listen: &str, change: impl FnOnce(&mut ServerOptions)) {
    if !clients_are_there() {
        return;
    }
    let root = files_of_every_kind();
    let (_server, mut address) = serve(root.path(), listen, change);
    if address.ip().is_unspecified() {
        // A listener on every address is asked by both families.
        address.set_ip(Ipv6Addr::LOCALHOST.into());
        let ipv4 = SocketAddr::from((Ipv4Addr::LOCALHOST, address.port()));
        fetch_all(root.path(), ipv4, &jobs(&regular_files(root.path())));
    }
    fetch_all(root.path(), address, &jobs(&regular_files(root.path())));
}

/// A directory of files whose lengths are borders of the protocol, and of real images if there are some.
fn files_of_every_kind() -> TempDir {
    let folder = folder();
    let write = |name: &str, len: usize| {
        let contents = peer::octets(len as u64, len);
        fs::write(folder.path().join(name), contents).expect("a file");
    };
    write("empty", 0);
    write("one", 1);
    write("blocks-of-512", 200 * 512);
    write("blocks-of-1428", 200 * 1428);
    write("blocks-of-65464", 3 * 65_464);
    if let Some(tree) = netboot() {
        for name in ["pxelinux.0", "grubx64.efi", "linux"] {
            let real = tree.join("text/debian-installer/amd64").join(name);
            fs::copy(real, folder.path().join(name)).expect("a copy");
        }
    }
    folder
}

fn netboot() -> Option<&'static Path> {
    common::require_path(NETBOOT, NETBOOT_PACKAGE)
}

fn clients_are_there() -> bool {
    let there = |client: &Client| {
        // This project's own is always there.
        matches!(client, Client::Bootstorm(_)) || common::require(client.program()).is_some()
    };
    CLIENTS.iter().all(there)
}

fn host_has_ipv6() -> bool {
    let has = UdpSocket::bind("[::1]:0").is_ok();
    if !has {
        common::skip("the host has no IPv6");
    }
    has
}

fn serve(
    root: &Path,
    listen: &str,
    change: impl FnOnce(&mut ServerOptions),
) -> (Server, SocketAddr) {
    let mut options = peer::options(root);
    options.listen = vec![listen.parse().expect("an address")];
    change(&mut options);
    let server = peer::start(&options);
    let address = server.addresses()[0];
    (server, address)
}

fn free_port() -> u16 {
    let socket = UdpSocket::bind(LOOPBACK).expect("a socket");
    socket.local_addr().expect("bound").port()
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a directory")
}

/// Every file by every client.
fn jobs(names: &[String]) -> Vec<(Client, &str)> {
    names
        .iter()
        .flat_map(|name| CLIENTS.iter().map(|&client| (client, name.as_str())))
        .collect()
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
                    let output = client.get(server, name, &local);
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

/// How many entries a directory has, hidden ones included.
fn entries(folder: &Path) -> usize {
    fs::read_dir(folder).expect("a directory").count()
}

/// Each content once, the longest first, so that no client is left alone with it at the end.
fn unique(names: &[String], root: &Path) -> Vec<String> {
    let mut seen = HashSet::new();
    let new = |name: &&String| seen.insert(fs::read(root.join(name)).expect("a file"));
    let mut names: Vec<String> = names.iter().filter(new).cloned().collect();
    names.sort_by_key(|name| Reverse(fs::metadata(root.join(name)).expect("a file").len()));
    names
}
