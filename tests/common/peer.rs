//! A server over a directory, in this process, and a client that sends whatever it is told to.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use bootstorm::server::{Server, ServerOptions};

/// How long an answer may take before the test gives up: long, for machines are busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Opcodes (RFC 1350 §5, RFC 2347).
pub(crate) const RRQ: u16 = 1;
pub(crate) const WRQ: u16 = 2;
pub(crate) const DATA: u16 = 3;
pub(crate) const ACK: u16 = 4;
pub(crate) const ERROR: u16 = 5;
pub(crate) const OACK: u16 = 6;

/// What a server is like unless a test says otherwise: one shard, IPv4 loopback, a port that is free.
pub(crate) fn options(root: &Path) -> ServerOptions {
    ServerOptions {
        workers: 1,
        root: root.to_path_buf(),
        ..ServerOptions::default()
    }
}

/// Starts a server that must not end by an error.
pub(crate) fn start(options: &ServerOptions) -> Server {
    let ended = |result: io::Result<_>| drop(result.expect("the shard works"));
    Server::start(options, ended).expect("the server starts")
}

/// Starts a server over `root`, and says where it listens.
pub(crate) fn serve(root: &Path) -> (Server, SocketAddr) {
    let server = start(&options(root));
    let address = server.addresses()[0];
    (server, address)
}

/// One end of a conversation.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) socket: UdpSocket,
    /// Where to send: the listening address at first, then wherever the answer came from.
    pub(crate) server: SocketAddr,
}

impl Peer {
    pub(crate) fn new(server: SocketAddr) -> Self {
        // Not any address: ports that others have on this machine are theirs.
        let own: IpAddr = match server {
            SocketAddr::V4(server) if server.ip().is_loopback() => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(server) if server.ip().is_loopback() => Ipv6Addr::LOCALHOST.into(),
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((own, 0)).expect("a socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Self { socket, server }
    }

    pub(crate) fn send(&self, octets: &[u8]) {
        self.socket.send_to(octets, self.server).expect("sends");
    }

    pub(crate) fn ack(&self, block: u16) {
        self.send(&ack(block));
    }

    /// The next packet; from now on, packets go to where it came from.
    pub(crate) fn receive(&mut self) -> Vec<u8> {
        self.receive_within(PATIENCE).expect("an answer in time")
    }

    pub(crate) fn receive_within(&mut self, patience: Duration) -> Option<Vec<u8>> {
        self.socket
            .set_read_timeout(Some(patience))
            .expect("a timeout");
        let mut buffer = vec![0; 65_536];
        loop {
            match self.socket.recv_from(&mut buffer) {
                Ok((len, from)) => {
                    self.server = from;
                    buffer.truncate(len);
                    return Some(buffer);
                }
                Err(error) if is_silence(&error) => return None,
                // By a ring that another test has dropped.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Waits for the DATA packet with this number, past what a busy machine had repeated; what it holds.
    pub(crate) fn next_data(&mut self, block: u16) -> Vec<u8> {
        loop {
            let mut packet = self.receive();
            assert_eq!(opcode(&packet), DATA, "{packet:?}");
            if number(&packet) == block {
                return packet.split_off(4);
            }
        }
    }

    /// Waits for the ACK with this number, past repeats of earlier ones.
    pub(crate) fn next_ack(&mut self, block: u16) {
        loop {
            let packet = self.receive();
            assert_eq!(opcode(&packet), ACK, "{packet:?}");
            if number(&packet) == block {
                return;
            }
        }
    }

    /// Takes DATA from `block` on, ACKs each, to the end; what the blocks hold.
    pub(crate) fn rest(&mut self, blksize: usize, mut block: u16) -> Result<Vec<u8>, Failure> {
        let mut contents = Vec::new();
        loop {
            let packet = self.receive();
            match (opcode(&packet), number(&packet)) {
                (DATA, number) if number == block => {
                    contents.extend_from_slice(&packet[4..]);
                    self.ack(block);
                    block = block.wrapping_add(1);
                    if packet.len() - 4 < blksize {
                        return Ok(contents);
                    }
                }
                (ERROR, code) => return Err((code, text(&packet))),
                // A repeat.
                (DATA, number) if number == block.wrapping_sub(1) => self.ack(number),
                (opcode, number) => panic!("opcode {opcode}, {number} while waiting for {block}"),
            }
        }
    }
}

/// An ERROR that came: its code and text.
pub(crate) type Failure = (u16, String);

/// Reads a whole file in lock-step without options.
pub(crate) fn fetch(server: SocketAddr, name: &str) -> Result<Vec<u8>, Failure> {
    let mut peer = Peer::new(server);
    peer.send(&request(RRQ, name.as_bytes(), &[]));
    peer.rest(512, 1)
}

/// Writes a whole file in lock-step without options.
pub(crate) fn store(server: SocketAddr, name: &str, contents: &[u8]) -> Result<(), Failure> {
    let mut peer = Peer::new(server);
    peer.send(&request(WRQ, name.as_bytes(), &[]));
    let blocks = contents.len() / 512 + 1;
    let mut acked = peer.receive();
    for block in 1..=blocks {
        if opcode(&acked) == ERROR {
            break;
        }
        assert_eq!(
            (opcode(&acked), usize::from(number(&acked))),
            (ACK, (block - 1) % 65_536)
        );
        let end = contents.len().min(block * 512);
        peer.send(&data(block as u16, &contents[(block - 1) * 512..end]));
        acked = peer.receive();
    }
    match opcode(&acked) {
        ERROR => Err((number(&acked), text(&acked))),
        _ => Ok(()),
    }
}

/// An RRQ or WRQ in mode octet.
pub(crate) fn request(opcode: u16, name: &[u8], options: &[(&str, &str)]) -> Vec<u8> {
    let mut packet = opcode.to_be_bytes().to_vec();
    packet.extend_from_slice(name);
    packet.extend_from_slice(b"\0octet\0");
    for (name, value) in options {
        packet.extend_from_slice(format!("{name}\0{value}\0").as_bytes());
    }
    packet
}

pub(crate) fn ack(block: u16) -> [u8; 4] {
    let [high, low] = block.to_be_bytes();
    [0, ACK as u8, high, low]
}

pub(crate) fn data(block: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = DATA.to_be_bytes().to_vec();
    packet.extend_from_slice(&block.to_be_bytes());
    packet.extend_from_slice(payload);
    packet
}

pub(crate) fn error(code: u16, text: &[u8]) -> Vec<u8> {
    let mut packet = ERROR.to_be_bytes().to_vec();
    packet.extend_from_slice(&code.to_be_bytes());
    packet.extend_from_slice(text);
    packet.push(0);
    packet
}

pub(crate) fn opcode(packet: &[u8]) -> u16 {
    u16::from_be_bytes([packet[0], packet[1]])
}

/// A packet's block number or error code.
pub(crate) fn number(packet: &[u8]) -> u16 {
    u16::from_be_bytes([packet[2], packet[3]])
}

/// An ERROR's text.
pub(crate) fn text(packet: &[u8]) -> String {
    let text = &packet[4..];
    let text = text.strip_suffix(b"\0").unwrap_or(text);
    String::from_utf8_lossy(text).into_owned()
}

/// An OACK's options, `name=value` each.
pub(crate) fn oack(packet: &[u8]) -> Vec<String> {
    assert_eq!(opcode(packet), OACK, "{packet:?}");
    let body = packet[2..].strip_suffix(b"\0").expect("a NUL at the end");
    let words: Vec<_> = body
        .split(|&octet| octet == 0)
        .map(String::from_utf8_lossy)
        .collect();
    words.chunks(2).map(|pair| pair.join("=")).collect()
}

/// Waits until `holds`, which must come true in time.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Octets that look the same on every run, and like nothing in particular.
pub(crate) fn octets(seed: u64, len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut octets = vec![0; len];
    random.fill(&mut octets);
    octets
}

fn is_silence(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
