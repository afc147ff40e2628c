//! The admin side from outside: what a scraper, an orchestrator and an operator see.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Length of the file `large`: many times the memory that one transfer of it needs.
const LARGE_OCTETS: usize = 40 << 20;

/// A server with an admin side, killed when dropped.
struct Server {
    child: Child,
    udp: SocketAddr,
    admin: SocketAddr,
    _root: tempfile::TempDir,
}

impl Server {
    // Waited for when dropped.
    #[allow(clippy::zombie_processes)]
    fn start() -> Self {
        let root = tempfile::tempdir().expect("a directory");
        std::fs::write(root.path().join("image"), vec![b'x'; 3000]).expect("room");
        std::fs::write(root.path().join("large"), vec![b'x'; LARGE_OCTETS]).expect("room");
        let mut child = Command::new(env!("CARGO_BIN_EXE_bootstorm"))
            .args([
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--admin",
                "127.0.0.1:0",
                "--workers",
                "2",
            ])
            .arg(root.path())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let stderr = BufReader::new(child.stderr.take().expect("a pipe"));
        let (mut udp, mut admin) = (None, None);
        let mut lines = stderr.lines().map(|line| line.expect("text"));
        while udp.is_none() || admin.is_none() {
            let line = lines.next().expect("the server says where it listens");
            if let Some(address) = line.strip_prefix("listening on udp ") {
                udp = address.parse().ok();
            } else if let Some(address) = line.strip_prefix("admin on http://") {
                admin = address.parse().ok();
            }
        }
        // Whatever else it says must not fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        let (udp, admin) = (udp.expect("an address"), admin.expect("an address"));
        Self {
            child,
            udp,
            admin,
            _root: root,
        }
    }

    /// Status line, headers and body of the answer to one request.
    fn ask(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.admin).expect("it listens");
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .expect("a timeout");
        stream.write_all(request.as_bytes()).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("text");
        answer
    }

    fn get(&self, path: &str) -> String {
        self.ask(&format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        ))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn value(page: &str, series: &str) -> Option<f64> {
    page.lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

#[test]
fn counters_add_up_and_transfers_are_listed() {
    let server = Server::start();
    let peer = UdpSocket::bind("127.0.0.1:0").expect("a port");
    peer.set_read_timeout(Some(Duration::from_secs(30)))
        .expect("a timeout");
    peer.send_to(b"\0\x01image\0octet\0blksize\x001000\0", server.udp)
        .expect("sent");
    let mut buffer = [0; 2000];
    let (len, transfer) = peer.recv_from(&mut buffer).expect("an answer");
    assert_eq!(&buffer[..len], b"\0\x06blksize\x001000\0");
    peer.send_to(&[0, 4, 0, 0], transfer).expect("sent");
    let (len, _) = peer.recv_from(&mut buffer).expect("a block");
    assert_eq!(len, 1004);

    let listed = server.get("/transfers");
    let body = listed.split("\r\n\r\n").nth(1).expect("a body");
    let rows: serde_json::Value = serde_json::from_str(body).expect("JSON");
    assert_eq!(rows.as_array().map(Vec::len), Some(1), "{listed}");
    assert_eq!(rows[0]["file"], "image");
    assert_eq!(rows[0]["operation"], "read");
    assert_eq!(rows[0]["blksize"], 1000);
    assert_eq!(rows[0]["total"], 3000);
    assert_eq!(
        rows[0]["peer"],
        peer.local_addr().expect("bound").to_string()
    );
    assert_eq!(
        value(
            &server.get("/metrics"),
            "tftp_transfers_active{op=\"read\"}"
        ),
        Some(1.0)
    );

    // Three whole blocks and an empty one.
    for block in 1..=4 {
        peer.send_to(&[0, 4, 0, block], transfer).expect("sent");
        if block < 4 {
            peer.recv_from(&mut buffer).expect("a block");
        }
    }
    peer.send_to(b"\0\x01nowhere\0octet\0", server.udp)
        .expect("sent");
    let (len, _) = peer.recv_from(&mut buffer).expect("an answer");
    assert_eq!(&buffer[..4], [0, 5, 0, 1], "{len} octets");

    let page = server.get("/metrics");
    assert!(
        page.contains("content-type: application/openmetrics-text; version=1.0.0"),
        "{page}"
    );
    assert!(page.ends_with("# EOF\n"));
    for (series, expected) in [
        ("tftp_requests_total{op=\"read\",result=\"accepted\"}", 1.0),
        ("tftp_requests_total{op=\"read\",result=\"not_found\"}", 1.0),
        ("tftp_transfers_active{op=\"read\"}", 0.0),
        ("tftp_transfers_ended_total{outcome=\"complete\"}", 1.0),
        ("tftp_transfer_bytes_total{direction=\"sent\"}", 3000.0),
        ("tftp_packets_total{type=\"data\",direction=\"sent\"}", 4.0),
        ("tftp_packets_total{type=\"oack\",direction=\"sent\"}", 1.0),
        (
            "tftp_packets_total{type=\"rrq\",direction=\"received\"}",
            2.0,
        ),
        (
            "tftp_packets_total{type=\"ack\",direction=\"received\"}",
            5.0,
        ),
        ("tftp_errors_total{code=\"1\",direction=\"sent\"}", 1.0),
        ("tftp_transfer_duration_seconds_count", 1.0),
        ("tftp_first_byte_seconds_count", 1.0),
        // Each of the first four ACKs let a block go, the empty one included.
        ("tftp_ack_burst_seconds_count", 4.0),
        ("tftp_ack_rtt_seconds_count", 5.0),
        ("tftp_frame_cache_misses_total", 1.0),
    ] {
        assert_eq!(value(&page, series), Some(expected), "{series} in\n{page}");
    }
    assert!(
        !page.contains("image")
            && !page.contains(&peer.local_addr().expect("bound").port().to_string())
    );
}

/// Goal: the series that dashboards rely on exist from the start, with their names, types and labels.
#[test]
fn every_series_has_its_name() {
    let server = Server::start();
    let peer = UdpSocket::bind("127.0.0.1:0").expect("a port");
    peer.set_read_timeout(Some(Duration::from_secs(30)))
        .expect("a timeout");
    // An error, so that there is one of each; what is no request is passed over before that.
    peer.send_to(b"\0\x04\0\0", server.udp).expect("sent");
    peer.send_to(b"\0\x01nowhere\0octet\0", server.udp)
        .expect("sent");
    peer.recv_from(&mut [0; 100]).expect("an answer");

    let page = server.get("/metrics");
    for (name, kind) in [
        ("tftp_requests", "counter"),
        ("tftp_transfers_active", "gauge"),
        ("tftp_transfer_duration_seconds", "histogram"),
        ("tftp_first_byte_seconds", "histogram"),
        ("tftp_ack_burst_seconds", "histogram"),
        ("tftp_ack_rtt_seconds", "histogram"),
        ("tftp_transfer_bytes", "counter"),
        ("tftp_packets", "counter"),
        ("tftp_retransmits", "counter"),
        ("tftp_errors", "counter"),
        ("tftp_unvalidated_transfers", "gauge"),
        ("tftp_suppressed", "counter"),
        ("tftp_send_errors", "counter"),
        ("tftp_receive_drops", "counter"),
        ("tftp_gso_sends", "counter"),
        ("tftp_gso_fallbacks", "counter"),
        ("tftp_zero_copy_sends", "counter"),
        ("tftp_zero_copy_copied", "counter"),
        ("tftp_frame_cache_hits", "counter"),
        ("tftp_frame_cache_misses", "counter"),
        ("tftp_frame_cache_framed_bytes", "counter"),
        ("tftp_frame_cache_plain_bytes", "counter"),
        ("tftp_frame_cache_evictions", "counter"),
        ("tftp_frame_cache_bytes", "gauge"),
        ("tftp_engine", "info"),
    ] {
        let announced = format!("# TYPE {name} {kind}\n");
        assert!(page.contains(&announced), "{announced} in\n{page}");
    }
    for series in [
        "tftp_requests_total{op=\"read\",result=\"not_found\"}",
        "tftp_transfers_active{op=\"read\"}",
        "tftp_transfers_active{op=\"write\"}",
        "tftp_transfer_duration_seconds_bucket{le=\"+Inf\"}",
        "tftp_first_byte_seconds_sum",
        "tftp_ack_burst_seconds_count",
        "tftp_ack_rtt_seconds_count",
        "tftp_transfer_bytes_total{direction=\"sent\"}",
        "tftp_transfer_bytes_total{direction=\"received\"}",
        "tftp_packets_total{type=\"data\",direction=\"sent\"}",
        "tftp_packets_total{type=\"rrq\",direction=\"received\"}",
        "tftp_retransmits_total",
        "tftp_errors_total{code=\"1\",direction=\"sent\"}",
        "tftp_unvalidated_transfers",
        "tftp_suppressed_total{reason=\"not_a_request\"}",
        "tftp_receive_drops_total",
        "tftp_gso_sends_total",
        "tftp_gso_fallbacks_total",
        "tftp_zero_copy_sends_total",
        "tftp_zero_copy_copied_total",
        "tftp_frame_cache_hits_total",
        "tftp_frame_cache_misses_total",
        "tftp_frame_cache_bytes",
    ] {
        assert!(value(&page, series).is_some(), "{series} in\n{page}");
    }
    let info = page
        .lines()
        .find(|line| line.starts_with("tftp_engine_info{engine=\""))
        .expect("the engine is told");
    assert!(
        info.contains("\",gso=\"") && info.contains("\",zero_copy=\"") && info.ends_with("\"} 1"),
        "{info}"
    );
}

/// Goal: an image that one client reads takes a few extents of memory; once a second client has read it, it is
/// kept for all others. Method: clients one after the other.
#[test]
fn what_one_client_reads_is_not_kept() {
    let server = Server::start();
    let read = || {
        let status = Command::new(env!("CARGO_BIN_EXE_bootstorm"))
            .args(["load", "--clients", "1", "--transfers", "1"])
            .args(["--blksize", "1428", "--windowsize", "32"])
            .arg(format!("tftp://{}/large", server.udp))
            .output()
            .expect("it runs")
            .status;
        assert!(status.success());
        let page = server.get("/metrics");
        let number = |name| value(&page, name).expect("a number") as usize;
        (
            number("tftp_frame_cache_framed_bytes_total"),
            number("tftp_frame_cache_bytes"),
        )
    };
    let (laid_out, resident) = read();
    assert_eq!(laid_out, 0);
    assert!(resident <= 8 << 20, "{resident}");
    for _ in 0..2 {
        let (laid_out, resident) = read();
        let about = LARGE_OCTETS..LARGE_OCTETS * 11 / 10;
        assert!(about.contains(&laid_out), "{laid_out}");
        assert!(resident >= LARGE_OCTETS, "{resident}");
    }
}

/// Goal: memory that a client's blocks were read into serves others once it has aborted. Method: clients that
/// abort within a large image one after the other, each with a block size of its own, so that none reads for
/// another.
#[test]
fn what_an_aborted_client_read_is_not_kept() {
    const CLIENTS: usize = 16;
    const WINDOWSIZE: usize = 4;
    const READ_OCTETS: usize = 5 << 19;
    let server = Server::start();
    for client in 0..CLIENTS {
        let peer = UdpSocket::bind("127.0.0.1:0").expect("a port");
        peer.set_read_timeout(Some(Duration::from_secs(30)))
            .expect("a timeout");
        let blksize = 8000 + client;
        let request = format!("\0\x01large\0octet\0blksize\0{blksize}\0windowsize\0{WINDOWSIZE}\0");
        peer.send_to(request.as_bytes(), server.udp).expect("sent");
        let mut buffer = [0; 10_000];
        let (_, transfer) = peer.recv_from(&mut buffer).expect("an answer");
        let mut acknowledged = 0_u16;
        while usize::from(acknowledged) * blksize < READ_OCTETS {
            let [high, low] = acknowledged.to_be_bytes();
            peer.send_to(&[0, 4, high, low], transfer).expect("sent");
            for _ in 0..WINDOWSIZE {
                let (len, _) = peer.recv_from(&mut buffer).expect("a block");
                assert_eq!(len, 4 + blksize);
                acknowledged = u16::from_be_bytes([buffer[2], buffer[3]]);
            }
        }
        peer.send_to(b"\0\x05\0\0enough\0", transfer).expect("sent");
    }
    let number = |name| value(&server.get("/metrics"), name).expect("a number") as usize;
    while number("tftp_transfers_active{op=\"read\"}") > 0 {
        std::thread::yield_now();
    }
    assert!(number("tftp_frame_cache_plain_bytes_total") >= CLIENTS * READ_OCTETS);
    let resident = number("tftp_frame_cache_bytes");
    assert!(resident <= 8 << 20, "{resident}");
}

#[test]
fn health_and_nonsense() {
    let server = Server::start();
    assert!(server.get("/healthz").starts_with("HTTP/1.1 200"));
    assert!(server.get("/readyz").contains("\r\n\r\nready\n"));
    assert!(server.get("/nonsense").starts_with("HTTP/1.1 404"));
    let refused = server.ask("POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
    assert!(refused.starts_with("HTTP/1.1 405"));
    assert!(refused.contains("\r\nallow: GET, HEAD\r\n"), "{refused}");
    assert!(
        server
            .ask("\0\x01image\0octet\0\r\n\r\n")
            .starts_with("HTTP/1.1 400")
    );
    // Names never reach a file system: there is nothing to climb out of.
    assert!(server.get("/../../etc/passwd").starts_with("HTTP/1.1 404"));
    assert!(
        server.get("/readyz").starts_with("HTTP/1.1 200"),
        "it lives on"
    );
}

#[test]
fn a_draining_server_is_not_ready() {
    let server = Server::start();
    let peer = UdpSocket::bind("127.0.0.1:0").expect("a port");
    peer.set_read_timeout(Some(Duration::from_secs(30)))
        .expect("a timeout");
    peer.send_to(b"\0\x01image\0octet\0", server.udp)
        .expect("sent");
    let mut buffer = [0; 600];
    peer.recv_from(&mut buffer).expect("a block");
    let pid = rustix::process::Pid::from_child(&server.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
    // The transfer that runs keeps it alive, so the answer comes sooner or later.
    while !server.get("/readyz").starts_with("HTTP/1.1 503") {
        std::thread::yield_now();
    }
    assert!(server.get("/healthz").starts_with("HTTP/1.1 200"));
}

/// Goal: silent connections do not lock others out. Method: more of them than there are places, and then one
/// that asks; it is answered while the youngest of them are still open, so it waited for none.
#[test]
fn silent_connections_make_room() {
    const PLACES: usize = 32;
    let server = Server::start();
    let mut silent: Vec<TcpStream> = (0..3 * PLACES)
        .map(|_| TcpStream::connect(server.admin).expect("it listens"))
        .collect();
    assert!(server.get("/healthz").contains("alive"));
    let mut buffer = [0; 1];
    for connection in &mut silent[2 * PLACES + 1..] {
        connection.set_nonblocking(true).expect("set");
        let error = connection.read(&mut buffer).expect_err("open and silent");
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    }
    // Closed, by whatever name the system has for it.
    assert!(matches!(silent[0].read(&mut buffer), Ok(0) | Err(_)));
}

#[test]
fn top_shows_who_is_being_served() {
    let server = Server::start();
    let client = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    client
        .send_to(b"\0\x01image\0octet\0", server.udp)
        .expect("sent");
    client.recv_from(&mut [0; 600]).expect("the first block");
    let top = |address: &str| {
        Command::new(env!("CARGO_BIN_EXE_bootstorm"))
            .args(["top", address, "--once", "--interval", "0.1"])
            .output()
            .expect("it runs")
    };
    let output = top(&server.admin.to_string());
    let (text, told) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{told}");
    let peer = client.local_addr().expect("bound").to_string();
    let row = text.lines().find(|line| line.starts_with(&peer));
    assert!(row.is_some_and(|row| row.ends_with("  image")), "{text}");
    assert!(
        text.contains("1 reads, 0 writes, 1 of them unvalidated"),
        "{text}"
    );

    let nobody = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let nowhere = nobody.local_addr().expect("bound").to_string();
    let output = top(&nowhere);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(
        told.contains(&nowhere) && told.contains("--admin"),
        "{told}"
    );
}
