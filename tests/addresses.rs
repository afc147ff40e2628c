//! Where requests arrive and where answers leave: ports, families, several addresses, narrow links.

// Every address in 127.0.0.0/8 is this machine's on Linux alone.
#![cfg(target_os = "linux")]

mod common;

use std::collections::HashSet;
use std::env;
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use bootstorm::config::ANSWER_ADDRESSES_MAX;
use bootstorm::server::{Server, ServerOptions};
use common::peer::{self, DATA, ERROR, Peer, RRQ, ack, data, oack, opcode, request};
use tempfile::TempDir;

/// Set in the process that plays the client in a network namespace of its own.
const IN_NAMESPACE: &str = "BOOTSTORM_TEST_IN_NAMESPACE";
/// The MTU of the link between the two namespaces.
const MTU: usize = 1400;

fn root() -> TempDir {
    let root = tempfile::tempdir().expect("a directory");
    fs::write(root.path().join("file"), peer::octets(3, 100_000)).expect("a file");
    root
}

fn options(root: &Path, listen: &[&str]) -> ServerOptions {
    let parsed = listen
        .iter()
        .map(|address| address.parse().expect("an address"));
    ServerOptions {
        listen: parsed.collect(),
        ..peer::options(root)
    }
}

fn host_has_ipv6() -> bool {
    let has = UdpSocket::bind("[::1]:0").is_ok();
    if !has {
        common::skip("the host has no IPv6");
    }
    has
}

/// Goal: the second of two servers at one port reports an error, however many sockets each has there.
#[test]
fn a_port_is_not_shared_in_silence() {
    let root = root();
    let mut hosts = vec!["127.0.0.1", "0.0.0.0"];
    if host_has_ipv6() {
        hosts.extend(["[::1]", "[::]"]);
    }
    for host in hosts {
        for (first, second) in [(1, 1), (1, 2), (2, 1), (2, 2)] {
            let start = |workers: usize, port: u16| {
                let mut options = options(root.path(), &[&format!("{host}:{port}")]);
                options.workers = workers;
                Server::start(&options, |_| {})
            };
            let running = start(first, 0).expect("a server");
            let port = running.addresses()[0].port();
            let error = start(second, port).expect_err("the port is taken");
            assert_eq!(error.kind(), ErrorKind::AddrInUse, "{host}: {error}");
            let text = error.to_string();
            assert!(text.contains(&format!("{host}:{port}")), "{text}");

            drop(running);
            start(second, port).expect("the port is free again");
        }
    }
}

#[test]
fn a_port_that_is_picked_is_told_and_is_every_shards() {
    let root = root();
    let mut options = options(root.path(), &["127.0.0.1:0", "127.0.0.2:0"]);
    options.workers = 2;
    let server = peer::start(&options);
    assert_eq!(server.addresses().len(), 2);
    for (&address, host) in server.addresses().iter().zip([1, 2]) {
        assert_eq!(address.ip(), Ipv4Addr::new(127, 0, 0, host));
        assert_ne!(address.port(), 0);
        for _ in 0..20 {
            assert_eq!(
                peer::fetch(address, "file").map(|file| file.len()),
                Ok(100_000)
            );
        }
    }
}

/// Goal: an answer leaves from the address that received the request. Method: a listener on every address
/// gets requests at one that the kernel would not choose by itself, for DATA, OACK and ERROR.
#[test]
fn answers_leave_from_the_address_that_was_asked() {
    let root = root();
    let mut listeners = vec!["0.0.0.0:0"];
    if host_has_ipv6() {
        listeners.push("[::]:0");
    }
    for listen in listeners {
        for single_port in [false, true] {
            let mut options = options(root.path(), &[listen]);
            options.settings.single_port = single_port;
            let server = peer::start(&options);
            let port = server.addresses()[0].port();
            let mut asked: Vec<IpAddr> = [[127, 0, 0, 7], [127, 9, 9, 9], [127, 0, 0, 1]]
                .map(IpAddr::from)
                .to_vec();
            if listen.starts_with('[') {
                asked.push(Ipv6Addr::LOCALHOST.into());
            }
            for ip in asked {
                for (name, terms) in [
                    ("file", &[][..]),
                    ("file", &[("blksize", "1024")]),
                    ("missing", &[]),
                ] {
                    let mut peer = Peer::new((ip, port).into());
                    peer.send(&request(RRQ, name.as_bytes(), terms));
                    let answer = peer.receive();
                    assert_eq!(peer.server.ip(), ip, "{answer:?}");
                    let same_port = peer.server.port() == port;
                    assert_eq!(same_port, single_port, "{listen}");
                    peer.send(&peer::error(0, b"enough"));
                }
                let file = peer::fetch((ip, port).into(), "file");
                assert_eq!(file.map(|file| file.len()), Ok(100_000));
            }
        }
    }
}

/// Goal: the same octets to another of the server's addresses are another request, answered from there.
/// Method: a client asks at one address, is answered, may go on for a while, and then asks at the other: with
/// one listener for every address, and with two.
#[test]
fn the_same_request_to_another_address_is_another() {
    let root = root();
    for listen in [&["0.0.0.0:0"][..], &["127.0.0.7:0", "127.9.9.9:0"]] {
        for (single_port, acks) in [(false, 0), (false, 2), (true, 0), (true, 2)] {
            let mut options = options(root.path(), listen);
            options.settings.single_port = single_port;
            let server = peer::start(&options);
            let at = |ip: [u8; 4], listener: usize| {
                SocketAddr::from((ip, server.addresses()[listener].port()))
            };
            let (first, second) = (
                at([127, 0, 0, 7], 0),
                at([127, 9, 9, 9], server.addresses().len() - 1),
            );
            let mut peer = Peer::new(first);
            let asked = request(RRQ, b"file", &[]);
            peer.send(&asked);
            for block in 1..=acks {
                peer.next_data(block);
                peer.ack(block);
            }
            peer.next_data(acks + 1);
            assert_eq!(peer.server.ip(), first.ip());
            peer.server = second;
            peer.send(&asked);
            loop {
                let packet = peer.receive();
                // A repeat by the transfer that there was may be on its way.
                if peer.server.ip() == second.ip() {
                    assert_eq!((opcode(&packet), peer::number(&packet)), (DATA, 1));
                    break;
                }
            }
            // A repeat of that one belongs to it, however it began.
            peer.ack(1);
            peer.next_data(2);
            assert_eq!(peer.server.ip(), second.ip(), "{listen:?}");
            peer.send(&peer::error(0, b"enough"));
        }
    }
}

/// Goal: a client that asks at each address of a network in turn cannot have a socket opened for each.
/// Method: more addresses than have their own sockets, distinguished by the ports that answer.
#[test]
fn the_sockets_that_answer_are_bounded() {
    let root = root();
    let mut options = options(root.path(), &["0.0.0.0:0"]);
    options.workers = 1;
    let server = peer::start(&options);
    let port = server.addresses()[0].port();
    let asked = ANSWER_ADDRESSES_MAX as u8 + 20;
    let mut ports = HashSet::new();
    for last in 1..=asked {
        let ip = IpAddr::from([127, 0, 3, last]);
        let mut peer = Peer::new((ip, port).into());
        peer.send(&request(RRQ, b"file", &[]));
        assert_eq!(opcode(&peer.receive()), DATA);
        assert_eq!(peer.server.ip(), ip);
        ports.insert(peer.server.port());
        peer.send(&peer::error(0, b"enough"));
    }
    // All the others are answered from the one for every address.
    assert!(ports.len() <= ANSWER_ADDRESSES_MAX + 1, "{}", ports.len());
}

#[test]
fn answers_leave_from_the_range_that_was_given() {
    let root = root();
    let mut taken: Vec<UdpSocket> = Vec::new();
    // Twenty ports in a row, the first of them taken.
    let first = loop {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let port = socket.local_addr().expect("bound").port();
        taken.push(socket);
        if port < u16::MAX - 20 {
            break port;
        }
    };
    let mut options = options(root.path(), &["127.0.0.1:0"]);
    options.settings.port_range = Some((first, first + 20));
    let server = peer::start(&options);
    let mut peer = Peer::new(server.addresses()[0]);
    peer.send(&request(RRQ, b"file", &[]));
    assert_eq!(opcode(&peer.receive()), DATA);
    let port = peer.server.port();
    assert!((first + 1..=first + 20).contains(&port), "{port}");

    options.settings.port_range = Some((first, first));
    let error = Server::start(&options, |_| {}).expect_err("the only port is taken");
    assert!(error.to_string().contains(&first.to_string()), "{error}");
}

/// Goal: no junk on the wire makes two servers talk to each other. Method: each message that one server would
/// send is sent to another in its name; neither answers.
#[test]
fn two_servers_do_not_start_to_talk() {
    let root = root();
    let (_first, first) = peer::serve(root.path());
    let mut peer = Peer::new(first);
    for octets in [
        peer::error(4, b"illegal operation"),
        peer::error(5, b"unknown transfer"),
        ack(0).to_vec(),
        data(1, b"data"),
    ] {
        peer.send(&octets);
    }
    assert!(peer::fetch(first, "file").is_ok());
    let silence = std::time::Duration::from_millis(1);
    assert_eq!(peer.receive_within(silence), None);
}

/// Goal: blocks fit the link that the request came over, unless the operator sets otherwise. Method: the
/// server in one network namespace, the client in another, a narrow link between them. The client is this
/// test itself, started in its namespace; both namespaces end with their processes.
#[test]
fn blocks_fit_a_narrow_link() {
    if env::var_os(IN_NAMESPACE).is_some() {
        return ask_over_a_narrow_link();
    }
    let tools = ["ip", "nsenter", "unshare"];
    if !tools.iter().all(|tool| common::require(tool).is_some()) {
        return;
    }
    let allowed = Command::new("unshare").args(["--net", "true"]).output();
    if !allowed.is_ok_and(|output| output.status.success()) {
        return common::skip("network namespaces are not permitted");
    }
    let output = Command::new("unshare")
        .arg("--net")
        .arg(env::current_exe().expect("this program"))
        .args(["--exact", "blocks_fit_a_narrow_link", "--nocapture"])
        .env(IN_NAMESPACE, "1")
        .output()
        .expect("it runs");
    assert!(output.status.success(), "{output:#?}");
}

fn ask_over_a_narrow_link() {
    let root = root();
    let fits = Remote::start(root.path(), 1, &[]);
    for (host, expected) in [(fits.ipv4, "blksize=1368"), (fits.ipv6, "blksize=1348")] {
        for asked in ["65464", "1428", "1369"] {
            assert_eq!(read(host, asked), expected, "{asked} from {host}");
        }
        assert_eq!(read(host, "1024"), "blksize=1024");
    }
    let fragments = Remote::start(root.path(), 2, &["--max-blksize", "8192"]);
    for host in [fragments.ipv4, fragments.ipv6] {
        assert_eq!(read(host, "65464"), "blksize=8192", "{host}");
        // Bursts of them as well.
        let local = root.path().join("copy");
        let output = Command::new(env!("CARGO_BIN_EXE_bootstorm"))
            .args(["get", &format!("tftp://{host}/file"), "-o"])
            .arg(&local)
            .args(["--blksize", "8192", "--windowsize", "8"])
            .output()
            .expect("the client runs");
        assert!(output.status.success(), "{output:?}");
        assert!(fs::read(&local).expect("a copy") == peer::octets(3, 100_000));
    }
}

/// Reads the file in blocks of the size asked for; what was agreed.
fn read(host: SocketAddr, blksize: &str) -> String {
    let mut peer = Peer::new(host);
    // Addresses of a link that is new may take a moment: it is asked again until it answers.
    let answer = loop {
        let asked = request(RRQ, b"file", &[("blksize", blksize)]);
        if peer.socket.send_to(&asked, host).is_ok()
            && let Some(answer) = peer.receive_within(std::time::Duration::from_secs(1))
        {
            break answer;
        }
    };
    assert_ne!(opcode(&answer), ERROR, "{answer:?}");
    let agreed = oack(&answer).remove(0);
    let (_, size) = agreed.split_once('=').expect("a pair");
    peer.ack(0);
    let file = peer.rest(size.parse().expect("a number"), 1);
    assert!(file == Ok(peer::octets(3, 100_000)), "{agreed} from {host}");
    agreed
}

/// A server in a network namespace of its own, and a link to it.
struct Remote {
    child: Child,
    ipv4: SocketAddr,
    ipv6: SocketAddr,
}

impl Remote {
    fn start(root: &Path, number: u8, arguments: &[&str]) -> Self {
        // The program becomes the server, so the process is the server's.
        let mut child = Command::new("unshare")
            .args(["--net", env!("CARGO_BIN_EXE_bootstorm"), "serve"])
            .arg(root)
            .args(["--listen", "[::]:6969"])
            .args(arguments)
            .stderr(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let stderr = child.stderr.take().expect("a pipe");
        let mut lines = BufReader::new(stderr).lines().map_while(Result::ok);
        assert!(
            lines.any(|line| line == "listening on udp [::]:6969"),
            "the server ended"
        );
        // Nobody reads what else it says, and a full pipe would stop it.
        std::thread::spawn(move || lines.for_each(drop));

        let pid = child.id();
        let (here, there) = (format!("here{number}"), format!("there{number}"));
        let mtu = MTU;
        run(&format!(
            "ip link add {here} mtu {mtu} type veth peer name {there} mtu {mtu} netns {pid}"
        ));
        let inside = format!("nsenter --net=/proc/{pid}/ns/net ");
        for (end, interface, prefix) in [(1, here, ""), (2, there, inside.as_str())] {
            run(&format!(
                "{prefix}ip address add 192.0.2.{number}{end}/29 dev {interface}"
            ));
            run(&format!(
                "{prefix}ip address add 2001:db8:{number}::{end}/64 dev {interface} nodad"
            ));
            run(&format!("{prefix}ip link set {interface} up"));
        }
        let ipv6 = Ipv6Addr::new(0x2001, 0xdb8, number.into(), 0, 0, 0, 0, 2);
        Self {
            child,
            ipv4: (Ipv4Addr::new(192, 0, 2, number * 10 + 2), 6969).into(),
            ipv6: (ipv6, 6969).into(),
        }
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        // The link goes with the namespace, and the namespace with the process.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(words: &str) {
    let mut words = words.split(' ');
    let program = words.next().expect("a program");
    let output = Command::new(program).args(words).output().expect("runs");
    assert!(output.status.success(), "{output:?}");
}
