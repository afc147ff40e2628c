//! Engines against the kernel: what one socket sends, another receives, whole, in order, and from the address
//! that received the request.

// Elsewhere sockets tell less, and the loopback has one address.
#![cfg(target_os = "linux")]

mod common;

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::sync::{Arc, mpsc};
use std::task::Waker;
use std::thread;

use bootstorm::engine::mio::MioEngine;
use bootstorm::engine::uring::UringEngine;
use bootstorm::engine::{Bind, Engine, Inbox, Local, Path, Payload, Sent, SocketId, Statistics};
use bootstorm::proto::block::{BlockIndex, Rollover};
use bootstorm::store::memory::{Contents, Memory};
use bootstorm::store::{Answer, Frames, FramesKey, Mailbox, Store, StoreOptions, Ticket, Writes};
use bootstorm::time::{Duration, Instant};
use bootstorm::wire::Mode;

/// Longer than any of these tests takes. None waits for it to pass.
const PATIENCE: Duration = Duration::from_secs(60);

/// Receive buffer that the largest of the bursts here need, in octets.
const STORM_OCTETS: usize = 4 << 20;

/// A datagram with its memory.
#[derive(Debug)]
struct Arrived {
    path: Path,
    broadcast: bool,
    octets: Vec<u8>,
}

/// What the engines on the kernel's sockets offer beside what every engine does.
trait Tested: Engine + Sized {
    const NAME: &str;

    /// Why there is none on this machine.
    fn missing() -> Option<String>;
    fn create() -> Self;
    fn without_gso(self) -> Self;
}

macro_rules! tested {
    ($engine:ident, $name:literal) => {
        impl Tested for $engine {
            const NAME: &str = $name;

            fn missing() -> Option<String> {
                Self::new().err().map(|error| error.to_string())
            }

            fn create() -> Self {
                Self::new().expect("an engine")
            }

            fn without_gso(self) -> Self {
                Self::without_gso(self)
            }
        }
    };
}

tested!(MioEngine, "mio");
tested!(UringEngine, "uring");

/// Every test once with each engine.
macro_rules! on_both_engines {
    ($($test:ident)*) => {
        mod mio {
            $(#[test]
            fn $test() {
                super::$test::<super::MioEngine>();
            })*
        }

        mod uring {
            use super::Tested;

            $(#[test]
            fn $test() {
                match super::UringEngine::missing() {
                    None => super::$test::<super::UringEngine>(),
                    Some(why) => super::common::skip(&why),
                }
            })*
        }
    };
}

on_both_engines! {
    an_answer_leaves_from_the_address_that_was_asked
    a_dual_stack_socket_shows_ipv4_peers_as_such_and_answers_them
    a_broadcast_is_told_from_a_question_to_the_host_alone
    segments_arrive_as_datagrams
    frames_arrive_as_datagrams
    many_segments_take_few_system_calls
    the_longest_burst_takes_one_system_call
    the_largest_blocks_go_one_to_a_call
    segments_go_to_ipv4_peers_of_a_dual_stack_socket
    a_full_inbox_leaves_the_rest_for_the_next_wait
    a_busy_socket_does_not_keep_another_waiting
    an_overflowing_queue_is_counted
    link_local_peers_keep_their_interface
    a_wait_ends_by_the_waker_from_another_thread
    a_wait_ends_when_the_time_has_come_and_not_before
    a_closed_socket_is_an_error_and_its_number_is_not_used_again_soon
    what_cannot_be_sent_fails_and_says_why
    an_address_that_is_not_ours_fails_without_giving_up_bursts
    an_empty_datagram_arrives
    two_sockets_share_a_port_only_if_both_want_to
    the_mtu_of_an_interface_is_known_if_it_exists
}

/// An engine with one socket.
struct Host<E> {
    engine: E,
    socket: SocketId,
    inbox: Inbox,
}

impl<E: Tested> Host<E> {
    fn new(address: &str) -> Self {
        Self::with(E::create(), address)
    }

    fn with(mut engine: E, address: &str) -> Self {
        let socket = engine.open(bind(address)).expect("a socket");
        Self {
            engine,
            socket,
            inbox: Inbox::new(),
        }
    }

    fn address(&self) -> SocketAddr {
        self.engine.local_addr(self.socket).expect("an open socket")
    }

    /// Its port at an address of this machine.
    fn at(&self, ip: &str) -> SocketAddr {
        SocketAddr::new(ip.parse().expect("an address"), self.address().port())
    }

    fn send(&mut self, path: &Path, payload: Payload<'_>) -> Sent {
        self.engine.send(self.socket, path, payload)
    }

    /// Waits until `count` datagrams have arrived, and no more.
    fn receive(&mut self, count: usize) -> Vec<Arrived> {
        let mut arrived = Vec::new();
        while arrived.len() < count {
            arrived.extend(self.receive_some());
        }
        assert_eq!(arrived.len(), count);
        arrived
    }

    /// Waits once, for something to arrive.
    fn receive_some(&mut self) -> Vec<Arrived> {
        let until = self.engine.now() + PATIENCE;
        let arrived = self.receive_until(until);
        assert!(self.engine.now() < until, "nothing arrives any more");
        arrived
    }

    /// Waits once, until something arrives or the time has come.
    fn receive_until(&mut self, until: Instant) -> Vec<Arrived> {
        self.engine
            .wait(Some(until), &mut self.inbox)
            .expect("a working engine");
        let arrived = (0..self.inbox.len()).map(|place| {
            let datagram = self.inbox.get(place).expect("a datagram at each place");
            assert_eq!(datagram.socket, self.socket);
            Arrived {
                path: datagram.path,
                broadcast: datagram.broadcast,
                octets: datagram.octets.to_vec(),
            }
        });
        arrived.collect()
    }

    /// Whether the receive queue holds a storm. Without privileges the system may not grant that.
    fn takes_a_storm(&self) -> bool {
        let granted = self
            .engine
            .receive_buffer(self.socket)
            .expect("an open socket");
        let takes = granted >= STORM_OCTETS;
        if !takes {
            common::skip(&format!(
                "a receive buffer of only {granted} octets (net.core.rmem_max)"
            ));
        }
        takes
    }

    fn statistics(&self) -> Statistics {
        self.engine.statistics()
    }
}

fn bind(address: &str) -> Bind {
    Bind::to(SocketAddr::new(address.parse().expect("an address"), 0))
}

fn to(peer: SocketAddr) -> Path {
    Path {
        peer,
        local: Local::default(),
    }
}

fn ip(address: &str) -> IpAddr {
    address.parse().expect("an address")
}

/// Octets that differ from place to place, so that a datagram out of order shows.
fn pattern(len: usize) -> Vec<u8> {
    (0..len)
        .map(|place| (place / 7 + place % 251) as u8)
        .collect()
}

/// A question from `client` to `asked` and the answer to it.
fn round_trip<E: Tested>(server: &str, client: &str, asked: &str) {
    let mut server = Host::<E>::new(server);
    let mut client = Host::<E>::new(client);
    let question = to(server.at(asked));
    assert_eq!(
        client.send(&question, Payload::Packet(b"question")),
        Sent::Datagrams(1)
    );

    let arrived = server.receive(1).remove(0);
    assert_eq!(arrived.octets, b"question");
    assert_eq!(arrived.path.local.address, Some(ip(asked)));
    assert_ne!(arrived.path.local.interface, 0);
    assert!(!arrived.broadcast);
    assert_eq!(arrived.path.peer.port(), client.address().port());
    assert_eq!(arrived.path.peer.is_ipv4(), ip(asked).is_ipv4());
    assert_eq!(
        server.send(&arrived.path, Payload::Packet(b"answer")),
        Sent::Datagrams(1)
    );

    let arrived = client.receive(1).remove(0);
    assert_eq!(arrived.octets, b"answer");
    assert_eq!(arrived.path.peer, server.at(asked));
}

fn an_answer_leaves_from_the_address_that_was_asked<E: Tested>() {
    round_trip::<E>("127.0.0.1", "127.0.0.1", "127.0.0.1");
    round_trip::<E>("0.0.0.0", "127.0.0.1", "127.0.0.5");
    round_trip::<E>("0.0.0.0", "0.0.0.0", "127.0.0.5");
    round_trip::<E>("::1", "::1", "::1");
    round_trip::<E>("::", "::1", "::1");
    round_trip::<E>("::", "::", "::1");
}

fn a_dual_stack_socket_shows_ipv4_peers_as_such_and_answers_them<E: Tested>() {
    round_trip::<E>("::", "127.0.0.1", "127.0.0.1");
    round_trip::<E>("::", "127.0.0.1", "127.0.0.5");
    round_trip::<E>("::", "::", "127.0.0.5");
}

fn a_broadcast_is_told_from_a_question_to_the_host_alone<E: Tested>() {
    for server in ["0.0.0.0", "::"] {
        let mut server = Host::<E>::new(server);
        let client = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        client.set_broadcast(true).expect("may broadcast");
        client
            .send_to(b"anyone?", server.at("127.255.255.255"))
            .expect("sent");
        let arrived = server.receive(1).remove(0);
        assert!(arrived.broadcast);
        assert_eq!(arrived.path.peer, client.local_addr().expect("bound"));
        assert_eq!(arrived.path.local.address, Some(ip("127.0.0.1")));
    }
}

/// Sends `len` octets in segments of `segment` along the loopback and checks what arrives. Returns
/// what the sender has counted.
fn segments<E: Tested>(
    mut sender: Host<E>,
    address: &str,
    len: usize,
    segment: usize,
) -> Statistics {
    let mut receiver = Host::<E>::new(address);
    let octets = pattern(len);
    let payload = Payload::Segments {
        octets: &octets,
        segment,
    };
    let count = len.div_ceil(segment);
    let path = to(receiver.address());
    assert_eq!(sender.send(&path, payload), Sent::Datagrams(count));
    let arrived = receiver.receive(count);
    for (datagram, expected) in arrived.iter().zip(octets.chunks(segment)) {
        assert_eq!(datagram.octets, expected);
        assert_eq!(datagram.path.peer, sender.address());
    }
    sender.statistics()
}

fn segments_arrive_as_datagrams<E: Tested>() {
    for address in ["127.0.0.1", "::1"] {
        for last in [0, 4, 5, 515] {
            let len = 20 * 516 + last;
            let sent = segments(Host::<E>::new(address), address, len, 516);
            assert_eq!(sent.gso_fallbacks, 0);
            let single = E::create().without_gso();
            let sent = segments(Host::<E>::with(single, address), address, len, 516);
            assert_eq!(sent.sends, len.div_ceil(516) as u64);
            assert_eq!(sent.gso_sends, 0);
        }
        segments(Host::<E>::new(address), address, 4, 516);
        segments(Host::<E>::new(address), address, 516, 516);
        segments(Host::<E>::new(address), address, 517, 516);
        segments(Host::<E>::new(address), address, 100, 1);
    }
}

/// The frames of a file of `len` octets, extent by extent.
fn framed(len: u64, blksize: u16, laid_out: bool) -> Vec<Arc<Frames>> {
    let memory = Memory::new(Writes::Off);
    memory.insert(b"image", Contents::Pattern { seed: 1, len });
    let options = StoreOptions {
        threads: 0,
        frame_cache_octets: 4 * len as usize,
    };
    let store = Store::new(memory, options).expect("no thread is started");
    let (sender, _done) = mpsc::channel();
    let mailbox = Mailbox::new(sender, Waker::noop().clone());
    let Answer::Now(Ok(body)) = store.open(Ticket(1), b"image", Mode::Octet, &mailbox) else {
        panic!("a file in memory opens at once");
    };
    let last = Frames::extent_of(BlockIndex::last_of(len, blksize), blksize);
    let extents = (0..=last).map(|extent| {
        let key = FramesKey {
            body: body.clone(),
            blksize,
            rollover: Rollover::ToZero,
            extent,
        };
        // Asked for by one transfer, frames are plain; asked for by another as well, they are laid out.
        loop {
            match store.frames(&key, &mailbox) {
                Answer::Now(Ok(frames)) if frames.are_laid_out() == laid_out => break frames,
                _ => store.run_next(),
            };
        }
    });
    extents.collect()
}

/// Goal: frames arrive whole and in order, however they lie in memory, and few or more than the kernel segments
/// at once.
fn frames_arrive_as_datagrams<E: Tested>() {
    for (everywhere, here) in [("0.0.0.0", "127.0.0.1"), ("::", "::1")] {
        let mut sender = Host::<E>::new(everywhere);
        let mut receiver = Host::<E>::new(everywhere);
        // Along the path of an answer, interface and all.
        receiver.send(&to(sender.at(here)), Payload::Packet(b"question"));
        let path = sender.receive(1).remove(0).path;
        for (blksize, last) in [(1428, 40), (256, 200)] {
            for laid_out in [false, true] {
                let len = (last - 1) * u64::from(blksize) + 5;
                let frames = framed(len, blksize, laid_out).remove(0);
                let burst = frames.burst(BlockIndex::FIRST, u64::MAX);
                assert_eq!(burst.count() as u64, last);
                let octets = burst.to_contiguous();
                let expected: Vec<&[u8]> = octets.chunks(burst.segment()).collect();
                for (first, count) in [(1, last), (last - 2, 100), (1, 1), (last, 1), (last + 1, 1)]
                {
                    let burst = Payload::Frames {
                        frames: &frames,
                        first: BlockIndex(first),
                        count,
                    };
                    let left = count.min(last + 1 - first) as usize;
                    assert_eq!(sender.send(&path, burst), Sent::Datagrams(left));
                    let arrived = receiver.receive(left);
                    for (datagram, expected) in arrived.iter().zip(&expected[first as usize - 1..])
                    {
                        assert_eq!(datagram.octets, *expected);
                    }
                }
            }
        }
        assert_eq!(sender.statistics().zero_copy_sends, 0);
    }
}

fn many_segments_take_few_system_calls<E: Tested>() {
    let host = Host::<E>::new("127.0.0.1");
    if !host.engine.gso() {
        return common::skip("this kernel does not cut bursts");
    }
    // 65,507 octets to a call, 126 segments, and the short one with the last of them; 64 segments to a call
    // before Linux 6.9.
    let sent = segments(host, "127.0.0.1", 199 * 516 + 4, 516);
    assert!(matches!(sent.sends, 2 | 4), "{} calls", sent.sends);
    assert_eq!(sent.gso_sends, sent.sends);
    // 65,507 octets to a call: 45 segments.
    let sent = segments(Host::<E>::new("127.0.0.1"), "127.0.0.1", 90 * 1432, 1432);
    assert_eq!((sent.sends, sent.gso_sends), (2, 2));
}

/// Goal: the longest burst that the kernel segments leaves with one call, and arrives whole and in order.
fn the_longest_burst_takes_one_system_call<E: Tested>() {
    for address in ["127.0.0.1", "::1"] {
        let host = Host::<E>::new(address);
        if !host.engine.gso() {
            return common::skip("this kernel does not cut bursts");
        }
        let sent = segments(host, address, 128 * 504, 504);
        assert_eq!((sent.sends, sent.gso_fallbacks), (sent.gso_sends, 0));
        match sent.sends {
            1 => {}
            2 => common::skip("this kernel cuts a burst into 64 datagrams at most"),
            sends => panic!("{sends} calls"),
        }
    }
}

fn the_largest_blocks_go_one_to_a_call<E: Tested>() {
    let sent = segments(
        Host::<E>::new("127.0.0.1"),
        "127.0.0.1",
        2 * 65_468 + 4,
        65_468,
    );
    assert_eq!((sent.sends, sent.gso_sends), (3, 0));
    let sent = segments(Host::<E>::new("::1"), "::1", 2 * 65_468 + 4, 65_468);
    assert_eq!((sent.sends, sent.gso_sends, sent.gso_fallbacks), (3, 0, 0));
}

fn segments_go_to_ipv4_peers_of_a_dual_stack_socket<E: Tested>() {
    let mut server = Host::<E>::new("::");
    let mut client = Host::<E>::new("127.0.0.1");
    client.send(&to(server.at("127.0.0.5")), Payload::Packet(b"question"));
    let path = server.receive(1).remove(0).path;
    let octets = pattern(10 * 516 + 4);
    let payload = Payload::Segments {
        octets: &octets,
        segment: 516,
    };
    assert_eq!(server.send(&path, payload), Sent::Datagrams(11));
    for (datagram, expected) in client.receive(11).iter().zip(octets.chunks(516)) {
        assert_eq!(datagram.octets, expected);
        assert_eq!(datagram.path.peer, server.at("127.0.0.5"));
    }
    assert_eq!(
        server.statistics().sends,
        if server.engine.gso() { 1 } else { 11 }
    );
}

fn a_full_inbox_leaves_the_rest_for_the_next_wait<E: Tested>() {
    let mut sender = Host::<E>::new("127.0.0.1");
    let mut receiver = Host::<E>::new("127.0.0.1");
    if !receiver.takes_a_storm() {
        return;
    }
    let path = to(receiver.address());
    // Full by number: as many calls as datagrams, and one for each time the queue was found empty.
    for number in 0..2000_u32 {
        assert_eq!(
            sender.send(&path, Payload::Packet(&number.to_be_bytes())),
            Sent::Datagrams(1)
        );
    }
    for (number, datagram) in receiver.receive(2000).iter().enumerate() {
        assert_eq!(datagram.octets, (number as u32).to_be_bytes());
    }
    let Statistics {
        receives, polls, ..
    } = receiver.statistics();
    assert!((4..100).contains(&polls), "{polls} polls");
    assert!(receives <= 2000 + polls, "{receives} calls to receive");

    // Full by size.
    let large = pattern(65_000);
    for _ in 0..40 {
        assert_eq!(
            sender.send(&path, Payload::Packet(&large)),
            Sent::Datagrams(1)
        );
    }
    assert!(
        receiver
            .receive(40)
            .iter()
            .all(|datagram| datagram.octets == large)
    );
    assert_eq!(receiver.engine.receive_drops(), 0);
}

fn a_busy_socket_does_not_keep_another_waiting<E: Tested>() {
    let mut sender = Host::<E>::new("127.0.0.1");
    let mut engine = E::create();
    let busy = engine.open(bind("127.0.0.1")).expect("a socket");
    let quiet = engine.open(bind("127.0.0.1")).expect("a socket");
    for (socket, count) in [(busy, 2 * Inbox::DATAGRAMS_MAX), (quiet, 1)] {
        let path = to(engine.local_addr(socket).expect("an open socket"));
        for _ in 0..count {
            assert_eq!(
                sender.send(&path, Payload::Packet(b"x")),
                Sent::Datagrams(1)
            );
        }
    }
    let mut inbox = Inbox::new();
    engine.wait(None, &mut inbox).expect("a working engine");
    let datagrams = || (0..inbox.len()).filter_map(|place| inbox.get(place));
    assert!(datagrams().any(|datagram| datagram.socket == busy));
    assert!(datagrams().any(|datagram| datagram.socket == quiet));
}

fn an_overflowing_queue_is_counted<E: Tested>() {
    let mut sender = Host::<E>::new("127.0.0.1");
    let mut receiver = Host::<E>::new("127.0.0.1");
    let path = to(receiver.address());
    let large = pattern(60_000);
    for _ in 0..1000 {
        assert_eq!(
            sender.send(&path, Payload::Packet(&large)),
            Sent::Datagrams(1)
        );
    }
    // The queue is emptied, for the kernel counts the room in it by large parts only.
    let mut received = receiver.receive_until(Instant::ZERO);
    loop {
        let more = receiver.receive_until(Instant::ZERO);
        if more.is_empty() {
            break;
        }
        received.extend(more);
    }
    let lost = 1000 - received.len() as u64;
    assert_ne!(lost, 0);
    assert_eq!(receiver.engine.receive_drops(), lost);
}

fn link_local_peers_keep_their_interface<E: Tested>() {
    // Address and interface's index, both in hexadecimal, and more.
    let addresses = std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    let link_local = addresses.lines().find_map(|line| {
        let (address, rest) = line.split_at_checked(32)?;
        let address = u128::from_str_radix(address, 16).ok().map(Ipv6Addr::from)?;
        let interface = u32::from_str_radix(rest.split_whitespace().next()?, 16).ok()?;
        address
            .is_unicast_link_local()
            .then_some((address, interface))
    });
    let Some((address, interface)) = link_local else {
        return common::skip("no interface has a link-local address");
    };
    let mut server = Host::<E>::new("::");
    let mut client = Host::<E>::new("::");
    let asked = SocketAddrV6::new(address, server.address().port(), 0, interface);
    assert_eq!(
        client.send(&to(asked.into()), Payload::Packet(b"question")),
        Sent::Datagrams(1)
    );
    let path = server.receive(1).remove(0).path;
    let port = client.address().port();
    assert_eq!(
        path.peer,
        SocketAddrV6::new(address, port, 0, interface).into()
    );
    assert_eq!(
        path.local,
        Local {
            address: Some(address.into()),
            interface
        }
    );
    assert_eq!(
        server.send(&path, Payload::Packet(b"answer")),
        Sent::Datagrams(1)
    );
    assert_eq!(client.receive(1).remove(0).path.peer, asked.into());
}

fn a_wait_ends_by_the_waker_from_another_thread<E: Tested>() {
    let mut engine = E::create();
    let mut inbox = Inbox::new();
    for _ in 0..100 {
        let waker = engine.waker();
        let other = thread::spawn(move || {
            waker.wake_by_ref();
            waker.wake();
        });
        engine.wait(None, &mut inbox).expect("a working engine");
        assert!(inbox.is_empty());
        other.join().expect("the other thread ends");
    }
}

fn a_wait_ends_when_the_time_has_come_and_not_before<E: Tested>() {
    let mut engine = E::create();
    let mut inbox = Inbox::new();
    for micros in [0, 1, 100, 1500, 10_000] {
        let until = engine.now() + Duration::from_micros(micros);
        engine
            .wait(Some(until), &mut inbox)
            .expect("a working engine");
        assert!(engine.now() >= until);
        assert!(inbox.is_empty());
    }
    assert_eq!(engine.statistics().polls, 5);
    // A time long gone is not waited for either.
    let gone = Instant::ZERO;
    engine
        .wait(Some(gone), &mut inbox)
        .expect("a working engine");
}

fn a_closed_socket_is_an_error_and_its_number_is_not_used_again_soon<E: Tested>() {
    let mut host = Host::<E>::new("127.0.0.1");
    let path = to(host.address());
    let closed = host.socket;
    host.send(&path, Payload::Packet(b"to myself"));
    host.engine.close(closed);
    host.engine.close(closed);
    host.socket = host.engine.open(bind("127.0.0.1")).expect("a socket");
    assert_ne!(host.socket, closed);
    for socket in [closed, SocketId(u32::MAX)] {
        assert!(host.engine.local_addr(socket).is_err());
        let octets = &[0; 10];
        for payload in [
            Payload::Packet(octets),
            Payload::Segments { octets, segment: 4 },
        ] {
            assert_eq!(
                host.engine.send(socket, &path, payload),
                Sent::Failed(libc::EBADF)
            );
        }
    }
    let path = to(host.address());
    host.send(&path, Payload::Packet(b"to myself"));
    assert_eq!(host.receive(1).len(), 1);
}

fn what_cannot_be_sent_fails_and_says_why<E: Tested>() {
    let mut host = Host::<E>::new("127.0.0.1");
    let path = to(host.address());
    let octets = vec![0; 70_000];
    let failed = Sent::Failed(libc::EMSGSIZE);
    assert_eq!(host.send(&path, Payload::Packet(&octets[..65_508])), failed);
    assert_eq!(host.send(&path, Payload::Packet(&octets)), failed);
    for segment in [65_508, 70_000, usize::MAX] {
        let payload = Payload::Segments {
            octets: &octets,
            segment,
        };
        assert_eq!(host.send(&path, payload), failed);
    }
    let payload = Payload::Segments {
        octets: &octets,
        segment: 0,
    };
    assert_eq!(host.send(&path, payload), Sent::Failed(libc::EINVAL));
    let payload = Payload::Segments {
        octets: &[],
        segment: 512,
    };
    assert_eq!(host.send(&path, payload), Sent::Datagrams(0));
    // An IPv4 socket reaches no IPv6 peer, nor sends from an IPv6 address.
    let mut host = Host::<E>::new("0.0.0.0");
    let peer = "[::1]:9".parse().expect("an address");
    assert!(matches!(
        host.send(&to(peer), Payload::Packet(b"x")),
        Sent::Failed(_)
    ));
    let local = Local {
        address: Some(ip("::1")),
        interface: 0,
    };
    let path = Path { local, ..path };
    assert_eq!(
        host.send(&path, Payload::Packet(b"x")),
        Sent::Failed(libc::EAFNOSUPPORT)
    );
    assert_eq!(host.statistics().gso_fallbacks, 0);
}

fn an_address_that_is_not_ours_fails_without_giving_up_bursts<E: Tested>() {
    let mut host = Host::<E>::new("0.0.0.0");
    let peer = host.at("127.0.0.1");
    let local = Local {
        address: Some(ip("192.0.2.77")),
        interface: 0,
    };
    let payload = Payload::Segments {
        octets: &[0; 100],
        segment: 10,
    };
    assert!(matches!(
        host.send(&Path { peer, local }, payload),
        Sent::Failed(_)
    ));
    assert_eq!(host.statistics().gso_fallbacks, 0);
}

fn an_empty_datagram_arrives<E: Tested>() {
    let mut host = Host::<E>::new("127.0.0.1");
    let path = to(host.address());
    assert_eq!(host.send(&path, Payload::Packet(&[])), Sent::Datagrams(1));
    assert_eq!(host.receive(1).remove(0).octets, b"");
}

fn two_sockets_share_a_port_only_if_both_want_to<E: Tested>() {
    let mut engine = E::create();
    let alone = engine.open(bind("127.0.0.1")).expect("a socket");
    let address = engine.local_addr(alone).expect("an open socket");
    for shared in [false, true] {
        let again = engine.open(Bind {
            shared,
            ..Bind::to(address)
        });
        assert_eq!(
            again.map_err(|error| error.kind()),
            Err(io::ErrorKind::AddrInUse)
        );
    }
    let first = engine
        .open(Bind {
            shared: true,
            ..bind("127.0.0.1")
        })
        .expect("a socket");
    let address = engine.local_addr(first).expect("an open socket");
    engine
        .open(Bind {
            shared: true,
            ..Bind::to(address)
        })
        .expect("a second socket");
}

fn the_mtu_of_an_interface_is_known_if_it_exists<E: Tested>() {
    let mut host = Host::<E>::new("127.0.0.1");
    let path = to(host.address());
    host.send(&path, Payload::Packet(b"x"));
    let loopback = host.receive(1).remove(0).path.local.interface;
    let known = std::fs::read_to_string("/sys/class/net/lo/mtu").expect("the loopback");
    let known = known.trim().parse().expect("a number");
    for _ in 0..2 {
        assert_eq!(host.engine.mtu(loopback), Some(known));
        assert_eq!(host.engine.mtu(0), None);
        assert_eq!(host.engine.mtu(u32::MAX), None);
        assert_eq!(host.engine.mtu(999_999), None);
    }
    assert_eq!(host.engine.name(), E::NAME);
    assert!(host.engine.receive_buffer(host.socket).is_ok());
    assert!(host.engine.receive_buffer(SocketId(u32::MAX)).is_err());
}
