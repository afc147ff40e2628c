//! Every engine with every workload over loopback: mio and uring, with bursts split by the kernel (GSO) and
//! without, by block size and window size.
//!
//! A shard runs on core 0 and the load generator on core 1; the processor time is that of the shard's thread.
//! The engines take turns on each workload. Frames are built before anything is counted.
//!
//! ```sh
//! cargo bench --bench engines                       # one round, a minute or two
//! cargo bench --bench engines -- --rounds 5         # medians of five
//! cargo bench --bench engines -- --blksize 1428     # one block size
//! ```

mod common;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::task::Waker;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bootstorm::config::Settings;
use bootstorm::engine::mio::MioEngine;
use bootstorm::engine::uring::UringEngine;
use bootstorm::engine::{Bind, Engine};
use bootstorm::load::plan::Bounds;
use bootstorm::load::{self, Live};
use bootstorm::shard::{Census, Shard};
use bootstorm::store::memory::{Contents, Memory};
use bootstorm::store::{Store, StoreOptions, Writes};
use clap::Parser;

use common::Spread;

const BLKSIZES: [u16; 4] = [512, 1428, 8192, 65_464];
const WINDOWSIZES: [u16; 4] = [1, 4, 16, 64];
const CLIENTS: u32 = 64;
/// The file has so many blocks, or fewer if it would be longer than the next.
const BLOCKS: usize = 2_048;
/// The longest file in octets: what all clients still read when the time is over takes little longer.
const FILE_OCTETS_MAX: usize = 8 << 20;
/// Memory for frames in octets: the file, several times.
const FRAME_CACHE_OCTETS: usize = 64 << 20;
/// What the file is called.
const NAME: &str = "image";

#[derive(Debug, Parser)]
struct Arguments {
    /// How often every engine does all work.
    #[arg(long, default_value = "1", value_parser = clap::value_parser!(u16).range(1..=1_000))]
    rounds: u16,
    /// How long new transfers begin, for each engine and kind of work.
    #[arg(long, default_value = "0.5")]
    seconds: f64,
    /// Only this block size; repeatable.
    #[arg(long)]
    blksize: Vec<u16>,
    /// What cargo says to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

/// An engine, and whether the kernel cuts its bursts.
type Choice = (&'static str, bool);

const CHOICES: [Choice; 4] = [
    ("mio", true),
    ("mio", false),
    ("uring", true),
    ("uring", false),
];

fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    let seconds = Duration::try_from_secs_f64(arguments.seconds)
        .map_err(|error| io::Error::other(format!("--seconds: {error}")))?;
    common::pin(common::GENERATOR_CORE)?;
    if let Err(error) = UringEngine::new() {
        println!("SKIPPED: uring: {error}");
    }
    println!(
        "The shard's CPU-s/GB, and MB/s behind it; medians of {} rounds.\n",
        arguments.rounds
    );
    println!("| blksize/windowsize | mio | mio, no GSO | uring | uring, no GSO |");
    println!("|---|---|---|---|---|");
    for blksize in BLKSIZES {
        if !arguments.blksize.is_empty() && !arguments.blksize.contains(&blksize) {
            continue;
        }
        for windowsize in WINDOWSIZES {
            let mut runs: [Vec<Measured>; CHOICES.len()] = Default::default();
            for _ in 0..arguments.rounds {
                for (choice, runs) in CHOICES.into_iter().zip(&mut runs) {
                    runs.extend(measure(choice, (blksize, windowsize), seconds)?);
                }
            }
            let cells: Vec<String> = runs.iter().map(|runs| cell(runs)).collect();
            println!("| {blksize}/{windowsize} | {} |", cells.join(" | "));
        }
    }
    println!("\n\\* the load generator had no time left: the server may be faster than that.");
    Ok(())
}

struct Measured {
    processor_seconds_per_gigabyte: f64,
    megabytes_per_second: f64,
    bottleneck: bool,
}

fn cell(runs: &[Measured]) -> String {
    let cost: Spread = runs
        .iter()
        .map(|run| run.processor_seconds_per_gigabyte)
        .collect();
    let speed: Spread = runs.iter().map(|run| run.megabytes_per_second).collect();
    let star = if runs.iter().any(|run| run.bottleneck) {
        "*"
    } else {
        ""
    };
    format!("{cost:.3}, {:.0}{star}", speed.median())
}

/// `None` where the system has no such engine.
fn measure(
    (engine, gso): Choice,
    terms: (u16, u16),
    seconds: Duration,
) -> io::Result<Option<Measured>> {
    let octets = (usize::from(terms.0) * BLOCKS).min(FILE_OCTETS_MAX);
    let server = match (engine, gso) {
        ("mio", true) => Server::start(octets, MioEngine::new),
        ("mio", false) => Server::start(octets, || MioEngine::new().map(MioEngine::without_gso)),
        (_, _) if UringEngine::new().is_err() => return Ok(None),
        (_, true) => Server::start(octets, UringEngine::new),
        (_, false) => Server::start(octets, || UringEngine::new().map(UringEngine::without_gso)),
    }?;
    let once = common::reading(server.address, NAME, Some(terms), 1, 1);
    load::run(&once, &Arc::new(Live::default()))?;

    let mut crowd = common::reading(server.address, NAME, Some(terms), CLIENTS, 1);
    crowd.groups[0].bounds = Bounds {
        transfers: None,
        duration: Some(seconds),
    };
    let before = server.processor_time()?;
    let report = load::run(&crowd, &Arc::new(Live::default()))?;
    let used = server.processor_time()? - before;
    if !report.is_good() {
        return Err(io::Error::other(format!("transfers failed:\n{report}")));
    }
    let octets = report.tally.octets as f64;
    Ok(Some(Measured {
        processor_seconds_per_gigabyte: used.as_secs_f64() / (octets / 1e9),
        megabytes_per_second: octets / 1e6 / report.elapsed.as_secs_f64(),
        bottleneck: report.is_bottleneck(),
    }))
}

/// A shard on a thread of its own, which ends when this is dropped.
struct Server {
    address: SocketAddr,
    /// Who asks is told what the thread has used.
    questions: Option<Sender<Sender<Duration>>>,
    waker: Waker,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Server {
    /// Starts one that serves a file of so many octets.
    fn start<E: Engine>(
        octets: usize,
        engine: impl FnOnce() -> io::Result<E> + Send + 'static,
    ) -> io::Result<Self> {
        let memory = Memory::new(Writes::Off);
        memory.insert(NAME.as_bytes(), Contents::Octets(vec![0x55; octets].into()));
        let options = StoreOptions {
            frame_cache_octets: FRAME_CACHE_OCTETS,
            threads: 1,
        };
        let store = Store::new(memory, options)?;
        let (ready, began) = mpsc::channel();
        let (questions, asked) = mpsc::channel();
        let thread = thread::spawn(move || {
            common::pin(common::SERVER_CORE)?;
            let mut shard = Shard::new(
                engine()?,
                store,
                Arc::new(Settings::default()),
                Census::default(),
            );
            let address = shard.listen(Bind::to((Ipv4Addr::LOCALHOST, 0).into()))?;
            let _ = ready.send((address, shard.engine().waker()));
            serve(&mut shard, &asked)
        });
        match began.recv() {
            Ok((address, waker)) => Ok(Self {
                address,
                questions: Some(questions),
                waker,
                thread: Some(thread),
            }),
            Err(_) => Err(ended(thread)),
        }
    }

    fn processor_time(&self) -> io::Result<Duration> {
        let (sender, answer) = mpsc::channel();
        if let Some(questions) = &self.questions {
            let _ = questions.send(sender);
            self.waker.wake_by_ref();
        }
        answer
            .recv()
            .map_err(|_| io::Error::other("the shard has ended"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.questions = None;
        self.waker.wake_by_ref();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Turns until nobody can ask any more.
fn serve<E: Engine>(shard: &mut Shard<E>, asked: &Receiver<Sender<Duration>>) -> io::Result<()> {
    loop {
        shard.turn()?;
        match asked.try_recv() {
            Ok(answer) => drop(answer.send(common::thread_processor_time())),
            Err(mpsc::TryRecvError::Empty) => {}
            Err(mpsc::TryRecvError::Disconnected) => return Ok(()),
        }
    }
}

/// Why a shard's thread ended before it began.
fn ended(thread: JoinHandle<io::Result<()>>) -> io::Error {
    match thread.join() {
        Ok(Err(error)) => error,
        _ => io::Error::other("the shard ended before it began"),
    }
}
