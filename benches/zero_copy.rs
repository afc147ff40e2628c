//! The server's processor time for having the kernel send bursts of shared frames out of a device, with and
//! without a copy. Any device that discards everything works; `benches/interfaces` makes one.

// What the macros of others make is not documented here either.
#![allow(missing_docs)]

use std::env;

#[cfg(target_os = "linux")]
fn main() {
    let words: Vec<String> = env::args()
        .skip(1)
        .filter(|word| word != "--bench")
        .collect();
    // Without a device there is nothing to measure, as when all benchmarks are run.
    let Some((how, numbers)) = words.split_first() else {
        return eprintln!("SKIPPED: run benches/interfaces, which makes a device for this");
    };
    let numbers: Vec<u64> = numbers
        .iter()
        .filter_map(|word| word.parse().ok())
        .collect();
    let &[interface, blksize, windowsize, gigabytes] = numbers.as_slice() else {
        eprintln!(
            "usage: zero_copy single|copy|zero-copy INTERFACE-NUMBER BLKSIZE WINDOWSIZE GIGABYTES"
        );
        std::process::exit(2);
    };
    let octets = gigabytes * 1_000_000_000;
    linux::run(how, interface as u32, blksize as u16, windowsize, octets);
}

#[cfg(not(target_os = "linux"))]
fn main() {
    let _ = env::args();
    eprintln!("SKIPPED: only Linux sends bursts without a copy");
}

#[cfg(target_os = "linux")]
mod linux {
    use std::net::{IpAddr, Ipv4Addr, SocketAddr};
    use std::sync::Arc;
    use std::sync::mpsc::channel;
    use std::task::Waker;

    use bootstorm::engine::mio::MioEngine;
    use bootstorm::engine::uring::UringEngine;
    use bootstorm::engine::{
        Bind, Engine, Inbox, Local, Path, Payload, Sent, SocketId, Statistics,
    };
    use bootstorm::proto::block::{BlockIndex, Rollover};
    use bootstorm::store::memory::{Contents, Memory};
    use bootstorm::store::{
        Answer, Frames, FramesKey, Mailbox, Store, StoreOptions, Ticket, Writes,
    };
    use bootstorm::time::Instant;
    use bootstorm::wire::Mode;
    use rustix::time::{ClockId, clock_gettime};

    /// Octets of the file, many times a processor's cache.
    const FILE_OCTETS: u64 = 64 << 20;
    /// Clients that are served in turn.
    const CLIENTS: u8 = 64;
    /// Bursts between two looks at what has arrived, as in a loop that serves.
    const TURNS: usize = 64;
    /// Octets sent before counting begins: once through the file.
    const WARM_UP_OCTETS: u64 = FILE_OCTETS;
    /// The address of the device.
    const HERE: [u8; 4] = [10, 1, 0, 1];

    /// Sends as many octets of blocks through the interface and prints what that took, as one line:
    /// processor seconds a gigabyte of blocks, and how many bursts left without a copy, left from memory
    /// known in advance, and were copied after all.
    pub(super) fn run(how: &str, interface: u32, blksize: u16, windowsize: u64, octets: u64) {
        let frames = all_frames(blksize);
        let work = Work {
            frames: &frames,
            blksize,
            blocks: BlockIndex::last_of(FILE_OCTETS, blksize).0,
            interface,
            windowsize,
            octets,
        };
        let (seconds, statistics) = if how == "zero-copy" {
            let mut engine = UringEngine::new().expect("io_uring");
            (work.send(&mut engine), engine.statistics())
        } else {
            let mut engine = MioEngine::new().expect("an engine");
            if how == "single" {
                engine = engine.without_gso();
            }
            (work.send(&mut engine), engine.statistics())
        };
        let Statistics {
            zero_copy_sends,
            zero_copy_registered,
            zero_copy_copied,
            ..
        } = statistics;
        println!("{seconds:.4} {zero_copy_sends} {zero_copy_registered} {zero_copy_copied}");
    }

    struct Work<'a> {
        frames: &'a [Arc<Frames>],
        blksize: u16,
        blocks: u64,
        interface: u32,
        windowsize: u64,
        octets: u64,
    }

    impl Work<'_> {
        /// Sends windows to clients that are at different places of the file; processor seconds a gigabyte.
        fn send(&self, engine: &mut impl Engine) -> f64 {
            let bind = Bind::to(SocketAddr::from((HERE, 0)));
            let socket = engine.open(bind).expect("the device's address");
            let local = Local {
                address: Some(IpAddr::from(HERE)),
                interface: self.interface,
            };
            let mut inbox = Inbox::new();
            let clients = u64::from(CLIENTS);
            let mut places: Vec<u64> = (0..clients)
                .map(|client| client * self.blocks / clients)
                .collect();
            let (mut sent, mut turns, mut began) = (0, 0, None);
            loop {
                for (number, place) in (1..).zip(&mut places) {
                    let peer = SocketAddr::from((Ipv4Addr::new(10, 1, 1, number), 9));
                    sent += self.window(engine, socket, &Path { peer, local }, place, &mut inbox);
                    turns += 1;
                    if turns % TURNS == 0 {
                        engine
                            .wait(Some(Instant::ZERO), &mut inbox)
                            .expect("a working engine");
                    }
                }
                match began {
                    None if sent >= WARM_UP_OCTETS => began = Some((sent, processor_seconds())),
                    Some((from, seconds)) if sent - from >= self.octets => {
                        return (processor_seconds() - seconds) / ((sent - from) as f64 / 1e9);
                    }
                    _ => {}
                }
            }
        }

        /// Sends a window from a place of the file on; octets of blocks that left.
        fn window(
            &self,
            engine: &mut impl Engine,
            socket: SocketId,
            path: &Path,
            place: &mut u64,
            inbox: &mut Inbox,
        ) -> u64 {
            let (mut left, mut octets) = (self.windowsize, 0);
            while left > 0 {
                let first = BlockIndex::FIRST.plus(*place % self.blocks);
                let blksize = self.blksize;
                let frames = &self.frames[Frames::extent_of(first, blksize) as usize];
                let payload = Payload::Frames {
                    frames,
                    first,
                    count: left,
                };
                match engine.send(socket, path, payload) {
                    Sent::Datagrams(sent) => {
                        left -= sent as u64;
                        *place += sent as u64;
                        octets += sent as u64 * u64::from(blksize);
                    }
                    Sent::Full => engine.wait(None, inbox).expect("a working engine"),
                    Sent::Failed(errno) => panic!("error {errno}"),
                }
            }
            octets
        }
    }

    /// The file as frames, extent by extent.
    fn all_frames(blksize: u16) -> Vec<Arc<Frames>> {
        let memory = Memory::new(Writes::Off);
        let contents = Contents::Pattern {
            seed: 1,
            len: FILE_OCTETS,
        };
        memory.insert(b"image", contents);
        let options = StoreOptions {
            threads: 0,
            frame_cache_octets: 4 * FILE_OCTETS as usize,
        };
        let store = Store::new(memory, options).expect("no thread is started");
        let (sender, _done) = channel();
        let mailbox = Mailbox::new(sender, Waker::noop().clone());
        let Answer::Now(Ok(body)) = store.open(Ticket(1), b"image", Mode::Octet, &mailbox) else {
            panic!("a file in memory opens at once");
        };
        let last = Frames::extent_of(BlockIndex::last_of(FILE_OCTETS, blksize), blksize);
        let made = |extent| {
            let key = FramesKey {
                body: Arc::clone(&body),
                blksize,
                rollover: Rollover::ToZero,
                extent,
            };
            loop {
                match store.frames(&key, &mailbox) {
                    Answer::Now(Ok(frames)) if frames.are_laid_out() => return frames,
                    _ => store.run_next(),
                };
            }
        };
        (0..=last).map(made).collect()
    }

    fn processor_seconds() -> f64 {
        let time = clock_gettime(ClockId::ProcessCPUTime);
        time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
    }
}
