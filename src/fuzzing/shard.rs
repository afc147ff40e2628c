//! Fuzz target body that runs a whole shard in the simulated network, among peers controlled by the fuzzer.
//!
//! The server, its store and its clients are the real ones; the fuzzer controls a few hosts, the weather and
//! the clock. Half of what its peers send answers what they received; otherwise they would never get far.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::LazyLock;

use super::Input;
use crate::config::{LATE_COPY_MAX, LINGER, Settings};
use crate::engine::SocketId;
use crate::engine::sim::{NodeId, Weather};
use crate::proto::negotiate::{ORDER_DEFAULT, Wanted};
use crate::proto::outcome::Outcome;
use crate::proto::timing::Patience;
use crate::shard::{Holdings, LocalSide, Operation, Origin, Plan};
use crate::simulate::{CLIENT, Foreign, Host, SERVER, Style, World};
use crate::store::Writes;
use crate::store::memory::{Contents, Faults, Memory, pattern_octet};
use crate::time::{Duration, Instant};
use crate::wire::{self, ErrorCode, Mode, Opcode, Packet, WireBlock};

/// Maximum octets of an input that are played: some hundred events.
const INPUT_OCTETS_MAX: usize = 2_048;
/// The fuzzer's peers: each has one port, and therefore one transfer at a time.
const PEERS: usize = 6;
/// The last octet of the well-behaved reader's address.
const READER: u8 = 200;
/// Number of transfers for which no transfer has to be evicted.
const ROOM: usize = PEERS + 2;
/// Octets of the file that is read; a little more than one window.
const IMAGE_OCTETS: usize = 5_000;
/// Blocks of the file, including the last one.
const IMAGE_BLOCKS: u64 = IMAGE_OCTETS as u64 / 512 + 1;
/// The file's octets; no two blocks are alike.
static IMAGE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    (0..IMAGE_OCTETS as u64)
        .map(|offset| pattern_octet(7, offset))
        .collect()
});
/// The server's largest window.
const WINDOWSIZE_MAX: u16 = 8;
/// Longer than any healthy transfer stands still: after a sleep this long, a reader may find its transfer
/// given up.
const SHORT_SLEEP: Duration = Duration::from_millis(500);
/// Maximum datagrams that a received datagram may cause: a window for each timeout without an answer.
const DATAGRAMS_PER_DATAGRAM: u64 = 30 * WINDOWSIZE_MAX as u64;
/// Maximum datagrams that a well-behaved reader is sent per block, among bad peers and in bad weather.
const DATAGRAMS_PER_BLOCK: u64 = 40;
/// Maximum steps until everything ends after the last event of the input.
const STEPS_MAX: usize = 200_000;

/// With peers that send anything at all, in any weather, the shard's table stays bounded, no peer is sent
/// more than a bounded amount, and a well-behaved reader gets its file. In the end everything is empty and
/// the next client is served.
pub fn shard(octets: &[u8]) {
    let mut input = Input(&octets[..octets.len().min(INPUT_OCTETS_MAX)]);
    let mut play = Play::new(&mut input);
    while !input.0.is_empty() {
        play.event(&mut input);
        play.check();
    }
    play.end();
}

/// The world, and the fuzzer's state in it.
struct Play {
    world: World,
    server: Host,
    files: Memory,
    client: Host,
    transfers_max: usize,
    peers: Vec<Peer>,
    reader: Foreign,
    reader_node: NodeId,
    reader_received: u64,
    /// How much of the reader's file has arrived, as far as the server knows, and when that last changed.
    reader_at: (u64, Instant),
    /// Whether anything happened that excuses a reader that gives up.
    excused: bool,
}

/// One of the fuzzer's peers, and what it received.
struct Peer {
    node: NodeId,
    socket: SocketId,
    address: SocketAddr,
    /// The address that last answered the peer.
    server: SocketAddr,
    /// The last block that the peer received, as DATA or ACK.
    block: u16,
}

impl Play {
    fn new(input: &mut Input<'_>) -> Self {
        let flags = input.octet();
        // Either there is room for all, or for so few that transfers have to be evicted.
        let transfers_max = match input.octet() {
            tight if flags & 1 == 1 => usize::from(tight % 8) + 1,
            _ => ROOM,
        };
        let settings = Settings {
            transfers_max,
            single_port: flags & 2 == 2,
            windowsize_max: WINDOWSIZE_MAX,
            ..Settings::default()
        };
        let disk = Duration::from_micros(if flags & 4 == 4 { 50 } else { 0 });
        let writes = if flags & 8 == 8 {
            Writes::Create
        } else {
            Writes::Overwrite
        };
        let style = Style::ALL[usize::from(input.octet()) % Style::ALL.len()];
        let mut world = World::new(input.number().into(), Weather::FAIR, disk);
        let files = Memory::new(writes);
        files.insert(b"image", image());
        files.insert(b"empty", Contents::Octets([].into()));
        let server = world.add_host("S", SERVER.ip(), files.clone(), settings);
        world.listen(server, SERVER);
        let own_files = Memory::new(Writes::Create);
        own_files.insert(b"image", image());
        let client = world.add_host("C", CLIENT, own_files, Settings::default());
        let peers = (0..PEERS).map(|number| Peer::new(&world, number)).collect();
        let reader_node = world.network().add_node("R", address(READER), 1500);
        let reader = Foreign::request(
            &mut world,
            reader_node,
            style,
            SERVER,
            b"image",
            (512, WINDOWSIZE_MAX),
        );
        Self {
            world,
            server,
            files,
            client,
            transfers_max,
            peers,
            reader,
            reader_node,
            reader_received: 0,
            reader_at: (0, Instant::ZERO),
            excused: transfers_max < ROOM,
        }
    }

    /// Plays the fuzzer's next event.
    fn event(&mut self, input: &mut Input<'_>) {
        let kind = input.octet();
        let number = input.octet();
        let index = usize::from(number) % PEERS;
        match kind % 16 {
            0..=2 => self.request(index, kind % 16 == 2, input),
            3..=5 => {
                let ahead = u16::from(number >> 4).wrapping_sub(4);
                let peer = &self.peers[index];
                let block = WireBlock(peer.block.wrapping_add(ahead));
                self.say(index, peer.server, &wire::write_ack(block));
            }
            6 | 7 => {
                let peer = &self.peers[index];
                let block = WireBlock(peer.block.wrapping_add(u16::from(number >> 5)));
                let payload = vec![number; [512, 511, 0, 1_024][usize::from(input.octet() % 4)]];
                let data = [&wire::write_data_header(block)[..], &payload].concat();
                self.say(index, peer.server, &data);
            }
            8 => {
                let mut buffer = [0; 64];
                let code = ErrorCode(input.octet().into());
                let len = wire::write_error(&mut buffer, code, b"no").unwrap_or(0);
                self.say(index, self.peers[index].server, &buffer[..len]);
            }
            9 | 10 => {
                // Arbitrary octets, sent to where requests go or to where the transfer is.
                let len = usize::from(input.octet()).min(input.0.len());
                let (octets, rest) = input.0.split_at(len);
                input.0 = rest;
                let to = if kind % 16 == 9 {
                    SERVER
                } else {
                    self.peers[index].server
                };
                self.say(index, to, octets);
            }
            11 => {
                // From port 0, to which no answer can be sent.
                let (octets, _) = input.0.split_at(input.0.len().min(32));
                self.world
                    .network()
                    .inject(SocketAddr::new(address(1), 0), SERVER, octets);
            }
            12 => self.steps(usize::from(number)),
            13 => {
                let until = self.world.now() + Duration::from_millis(u64::from(number) * 100);
                self.world.alarm_at(until);
                while self.world.now() < until && self.step() {}
            }
            14 => {
                let time = Duration::from_millis(u64::from(number) * u64::from(number));
                self.excused |= time > SHORT_SLEEP;
                self.world.sleep(time);
            }
            _ if number & 1 == 0 => {
                self.world.network().set_weather(weather(number));
            }
            _ => self.files.set_faults(Faults {
                open_would_block: number & 2 == 2,
                read_would_block: number & 8 == 8,
                disk_octets: (number & 4 == 4).then_some(700),
                ..Faults::default()
            }),
        }
    }

    /// A request for a file that may exist, with options that may be valid.
    fn request(&self, index: usize, write: bool, input: &mut Input<'_>) {
        const NAMES: [&[u8]; 5] = [b"image", b"empty", b"nothing", b"new", b"image\0octet"];
        let name = NAMES[usize::from(input.octet()) % NAMES.len()];
        let choice = input.octet();
        let mode = if choice & 1 == 1 {
            Mode::Netascii
        } else {
            Mode::Octet
        };
        let opcode = if write { Opcode::Wrq } else { Opcode::Rrq };
        let mut buffer = [0; 256];
        let written =
            wire::write_request(&mut buffer, opcode, name, mode).and_then(|mut writer| {
                if choice & 2 == 2 {
                    writer.number(b"blksize", 512)?;
                }
                if choice & 4 == 4 {
                    writer.number(b"windowsize", u64::from(input.octet()))?;
                }
                if choice & 8 == 8 {
                    writer.number(b"timeout", u64::from(input.octet()))?;
                }
                if choice & 16 == 16 {
                    writer.number(b"tsize", u64::from(input.octet()) * 64)?;
                }
                Ok(writer.len())
            });
        self.say(index, SERVER, &buffer[..written.unwrap_or(0)]);
    }

    fn say(&self, index: usize, to: SocketAddr, octets: &[u8]) {
        self.world
            .network()
            .inject(self.peers[index].address, to, octets);
    }

    fn steps(&mut self, count: usize) {
        for _ in 0..count {
            if !self.step() {
                break;
            }
        }
    }

    /// Runs the next event; false if there will be no more.
    fn step(&mut self) -> bool {
        let more = self.world.step();
        for peer in &mut self.peers {
            peer.listen(&self.world);
        }
        while let Some((_, path, octets)) = self.world.network().receive(self.reader_node) {
            self.reader_received += 1;
            self.reader.handle(&mut self.world, path.peer, &octets);
        }
        self.reader.expire(&mut self.world);
        self.watch_the_reader();
        more
    }

    /// A reader whose every datagram is lost, for as long as the network may delay a copy of its request,
    /// looks as if it had restarted.
    fn watch_the_reader(&mut self) {
        let now = self.world.now();
        let running = self.world.shard_mut(self.server).all_running(usize::MAX);
        let reader = running
            .iter()
            .find(|running| running.peer.ip() == address(READER));
        match reader {
            Some(reader) if reader.octets == self.reader_at.0 => {
                self.excused |= now - self.reader_at.1 >= LATE_COPY_MAX;
            }
            reader => self.reader_at = (reader.map_or(0, |reader| reader.octets), now),
        }
    }

    /// Checks the invariants.
    fn check(&mut self) {
        let shard = self.world.shard_mut(self.server);
        let running = shard.all_running(usize::MAX).len();
        assert!(running <= self.transfers_max, "{running} transfers");
        let slots = shard.len();
        assert!(slots <= PEERS + 2, "{slots} slots for fewer peers");
    }

    /// Ends the input: fair weather, and everything finishes.
    fn end(mut self) {
        self.world.network().set_weather(Weather::FAIR);
        self.files.set_faults(Faults::default());
        self.run_out();
        let heard = self.world.metrics(self.server).received.total();
        let said = self.world.sent(self.server).datagrams;
        assert!(
            said <= heard * DATAGRAMS_PER_DATAGRAM,
            "{said} datagrams for {heard}"
        );
        assert!(!self.reader.is_waiting(), "neither served nor told");
        match self.reader.body() {
            Some(body) => assert!(is_image(body), "other octets than the file's"),
            None => assert!(self.excused, "a well-behaved reader starves"),
        }
        assert!(
            self.reader_received <= IMAGE_BLOCKS * DATAGRAMS_PER_BLOCK,
            "{} datagrams for {IMAGE_BLOCKS} blocks",
            self.reader_received
        );
        self.assert_empty();

        let before = self.world.sent(self.server);
        self.fetch_and_store();
        let sent = self.world.sent(self.server);
        assert_eq!(
            sent.data - before.data,
            IMAGE_BLOCKS,
            "in fair weather, once each"
        );
        self.assert_empty();
    }

    /// One more client, alone on the server, reads the file and writes one.
    fn fetch_and_store(&mut self) {
        for (operation, remote, local) in [
            (Operation::Read, &b"image"[..], &b"copy"[..]),
            (Operation::Write, b"the-last-one", b"image"),
        ] {
            let plan = Plan {
                server: SERVER,
                operation,
                remote: remote.to_vec(),
                origin: Origin::Own,
                local: LocalSide::Stored(local.to_vec()),
                mode: Mode::Octet,
                wanted: Wanted {
                    blksize: Some(512),
                    windowsize: Some(4),
                    timeout: None,
                    tsize: Some(0),
                },
                patience: Patience::DEFAULT,
                linger: LINGER,
                order: ORDER_DEFAULT,
            };
            let now = self.world.now();
            self.world.start_at(now, self.client, plan);
            self.run_out();
            let endings = self.world.take_endings(self.client);
            let outcomes: Vec<_> = endings.iter().map(|ending| ending.outcome).collect();
            assert_eq!(outcomes, [Outcome::Complete], "{operation}");
        }
        let uploads = self.files.uploads();
        assert!(
            uploads
                .get(&b"the-last-one"[..])
                .is_some_and(|body| is_image(body))
        );
    }

    fn run_out(&mut self) {
        let ended = (0..STEPS_MAX).any(|_| !self.step());
        assert!(ended, "it never ends");
    }

    fn assert_empty(&mut self) {
        let metrics = self.world.metrics(self.server);
        let held = self.world.shard_mut(self.server).holdings();
        assert_eq!(held, Holdings::default(), "something is held");
        assert_eq!(self.world.slots(), 0, "transfers are left");
        assert_eq!(metrics.unvalidated, 0, "nobody is left to be validated");
        assert_eq!((metrics.active_reads, metrics.active_writes), (0, 0));
        assert_eq!(self.world.network().flying(), 0);
        assert_eq!(self.world.finish_store_work(), 0, "the store has work left");
    }
}

impl Peer {
    fn new(world: &World, number: usize) -> Self {
        let node = world
            .network()
            .add_node("P", address(number as u8 + 1), 1500);
        let (socket, address) = world.network().bind(node, 0);
        Self {
            node,
            socket,
            address,
            server: SERVER,
            block: 0,
        }
    }

    /// Records what the peer receives.
    fn listen(&mut self, world: &World) {
        while let Some((socket, path, octets)) = world.network().receive(self.node) {
            debug_assert_eq!(socket, self.socket);
            self.server = path.peer;
            self.block = match Packet::parse(&octets) {
                Ok(Packet::Data { block, .. } | Packet::Ack { block }) => block.0,
                _ => 0,
            };
        }
    }
}

/// Hosts of the fuzzer's network.
const fn address(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 1, last))
}

/// Weather in which a client that keeps asking is served in the end.
fn weather(choice: u8) -> Weather {
    let often = |bits: u8| f64::from(bits & 3) / 10.0;
    Weather {
        jitter: Duration::from_millis(u64::from(choice >> 1 & 1) * 3),
        loss: often(choice >> 2),
        duplicate: often(choice >> 4),
        duplicate_delay: Duration::from_millis(5),
        reorder: often(choice >> 6),
        full: often(choice >> 1),
        ..Weather::FAIR
    }
}

fn image() -> Contents {
    Contents::Octets(IMAGE.as_slice().into())
}

fn is_image(body: &[u8]) -> bool {
    body == IMAGE.as_slice()
}
