//! The server: shards, each on its own thread, that accept requests at shared addresses.

mod pin;
mod rendezvous;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;
use std::task::Waker;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::config::{Settings, frame_cache_octets_default};
use crate::descriptors;
use crate::engine::mio::MioEngine;
#[cfg(target_os = "linux")]
use crate::engine::uring::UringEngine;
use crate::engine::{Bind, Engine, RECEIVE_BUFFER_OCTETS};
use crate::metrics::Metrics;
use crate::shard::{Census, Running, Shard};
use crate::store::directory::{Directory, DirectoryOptions};
use crate::store::{Store, StoreOptions, StoreStatistics, THREADS_DEFAULT};
use pin::Processors;
use rendezvous::{Member, Rendezvous};

/// How long to wait for a port in use to become free. After a process is killed, the kernel takes some time
/// to tear its io_uring down, and its pending requests keep the port until then: usually milliseconds.
const PORT_PATIENCE: Duration = Duration::from_secs(1);

/// How often such a port is retried.
const PORT_RETRY: Duration = Duration::from_millis(10);

/// A server's configuration. The defaults are those of `bootstorm serve`, except for the address (a free
/// loopback port) and the root (none); an embedding program sets these two.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Addresses that accept requests; port 0 lets the system choose one.
    pub listen: Vec<SocketAddr>,
    /// The number of shards, each with its own thread; at least 1.
    pub workers: usize,
    /// Whether each thread is pinned to one processor; there must be enough processors.
    pub pin: bool,
    /// Settings for transfers.
    pub settings: Settings,
    /// The directory whose files are served.
    pub root: PathBuf,
    /// How names are resolved in it, and what may be written.
    pub directory: DirectoryOptions,
    /// Memory for the DATA packets shared by transfers, in octets.
    pub frame_cache_octets: usize,
    /// The I/O engine.
    pub engine: EngineChoice,
    /// Whether bursts may be given to the kernel to segment into datagrams.
    pub gso: bool,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            listen: vec![(Ipv4Addr::LOCALHOST, 0).into()],
            workers: thread::available_parallelism().map_or(1, usize::from),
            pin: false,
            settings: Settings::default(),
            root: PathBuf::new(),
            directory: DirectoryOptions::default(),
            frame_cache_octets: frame_cache_octets_default(),
            engine: EngineChoice::default(),
            gso: true,
        }
    }
}

/// The available I/O engines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EngineChoice {
    /// io_uring where the system has it and permits it, otherwise mio. Where all data is copied, the two
    /// perform equally; only io_uring can send bursts without a copy, where the device supports it.
    #[default]
    Auto,
    /// Readiness polling and plain system calls, on every Unix.
    Mio,
    /// Linux's io_uring.
    Uring,
}

/// A server that runs until it is told to end or is dropped.
#[derive(Debug)]
pub struct Server {
    addresses: Vec<SocketAddr>,
    engine: EngineInfo,
    store: Arc<Store>,
    shards: Vec<Handle>,
}

/// The engine in use and its capabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EngineInfo {
    /// Its name.
    pub name: &'static str,
    /// Whether the kernel segments bursts into datagrams.
    pub gso: bool,
    /// Whether bursts may be sent without a copy; whether they are depends on the device and on their length,
    /// and is counted.
    pub zero_copy: bool,
}

/// A shard's thread and the channel to it.
#[derive(Debug)]
struct Handle {
    commands: mpsc::Sender<Command>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

/// Commands to a shard.
enum Command {
    /// All shards listen: start serving. The sender is dropped once the shard does.
    Serve(mpsc::Sender<()>),
    Drain,
    Stop,
    Report(Box<dyn FnOnce(Metrics) + Send>),
    List(usize, Box<dyn FnOnce(Vec<Running>) + Send>),
}

/// What a shard's thread needs besides the shard.
struct Assignment {
    binds: Vec<Bind>,
    together: Rendezvous,
    /// Whether the shard answers from the request socket itself, one of several at its port.
    is_redealt: bool,
    /// Receives the result of listening.
    ready: mpsc::Sender<io::Result<Ready>>,
}

/// What a shard reports once it listens.
struct Ready {
    addresses: Vec<SocketAddr>,
    engine: EngineInfo,
    receive_buffer: Option<usize>,
    commands: mpsc::Sender<Command>,
    waker: Waker,
}

impl Server {
    /// Starts a server over a directory. When this returns, requests are answered, and this process's
    /// descriptor limit is raised to the hard limit.
    ///
    /// # Errors
    /// If the root is no directory, an address is not available, or the system is out of a resource; the text
    /// says which.
    pub fn start(
        options: &ServerOptions,
        ended: impl Fn(io::Result<Metrics>) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        descriptors::raise_limit();
        let mut options = options.clone();
        if let Some(descriptors) = descriptors::limit() {
            let before = options.settings.uploads_max;
            options.settings = options.settings.within(descriptors, options.workers);
            let uploads = options.settings.uploads_max;
            if uploads < before {
                tracing::info!(
                    descriptors,
                    uploads,
                    "the limit of descriptors (ulimit -n) limits the uploads of a worker"
                );
            }
        }
        let directory = Directory::new(&options.root, options.directory)?;
        let frame_cache_octets = options.frame_cache_octets;
        let store = Store::new(
            directory,
            StoreOptions {
                frame_cache_octets,
                threads: THREADS_DEFAULT,
            },
        )?;
        Self::with_store(store, &options, ended)
    }

    /// Starts a server over any store; options that concern a store are ignored. Each shard's thread calls
    /// `ended` as its last act, with its counters or the reason it failed; a panic is an error.
    ///
    /// # Errors
    /// If an address is not available, there are fewer processors than workers to pin, or the system is out
    /// of a resource.
    pub fn with_store(
        store: Arc<Store>,
        options: &ServerOptions,
        ended: impl Fn(io::Result<Metrics>) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let (workers, engine, gso) = (options.workers.max(1), options.engine, options.gso);
        let settings = Arc::new(options.settings.clone());
        let (ended, census) = (Arc::new(ended), Census::default());
        let together = Rendezvous::default();
        let listen = &options.listen;
        let shared = workers > 1;
        let processors = options.pin.then(|| Processors::of(workers)).transpose()?;
        if let Some(processors) = &processors {
            tracing::info!(%processors, "workers are pinned");
        }
        listen
            .iter()
            .try_for_each(|&address| refuse_taken(address))?;
        let mut server = Self {
            addresses: listen.clone(),
            engine: EngineInfo::default(),
            store: store.clone(),
            shards: Vec::new(),
        };
        for number in 0..workers {
            let (sender, ready) = mpsc::channel();
            let (store, settings, census, ended) = (
                store.clone(),
                settings.clone(),
                census.clone(),
                ended.clone(),
            );
            // A port chosen by the first shard is used by the others too.
            let bind = |&address| Bind {
                shared,
                ..Bind::to(address)
            };
            let assignment = Assignment {
                binds: server.addresses.iter().map(bind).collect(),
                together: together.clone(),
                is_redealt: shared && settings.single_port,
                ready: sender,
            };
            let processor = processors.as_ref().and_then(|all| all.get(number));
            // Pin first: the memory that a worker allocates afterwards is then near its processor.
            let begin = move || {
                processor.map_or(Ok(()), pin::stay_on)?;
                take_engine(engine, gso, number == 0)
            };
            let work = move || match begin() {
                Ok(Taken::Mio(engine)) => {
                    let info = EngineInfo {
                        name: engine.name(),
                        gso: engine.gso(),
                        zero_copy: false,
                    };
                    let shard = Shard::new(*engine, store, settings, census);
                    run_shard(shard, info, &assignment)
                }
                #[cfg(target_os = "linux")]
                Ok(Taken::Uring(engine)) => {
                    let info = EngineInfo {
                        name: engine.name(),
                        gso: engine.gso(),
                        zero_copy: engine.can_zero_copy(),
                    };
                    let shard = Shard::new(*engine, store, settings, census);
                    run_shard(shard, info, &assignment)
                }
                Err(error) => {
                    let _ = assignment.ready.send(Err(error));
                    Ok(Metrics::default())
                }
            };
            let thread = thread::Builder::new()
                .name(format!("shard-{number}"))
                .spawn(move || ended(caught(work)))?;
            match ready.recv() {
                Ok(Ok(ready)) => {
                    if number == 0 {
                        ready
                            .receive_buffer
                            .into_iter()
                            .for_each(warn_of_small_queue);
                    }
                    server.addresses = ready.addresses;
                    server.engine = ready.engine;
                    let (commands, waker) = (ready.commands, ready.waker);
                    server.shards.push(Handle {
                        commands,
                        waker,
                        thread: Some(thread),
                    });
                }
                Ok(Err(error)) => return Err(error),
                Err(_) => return Err(io::Error::other("a shard ended before it began")),
            }
        }
        server.serve();
        Ok(server)
    }

    /// Tells the shards to serve, now that all of them listen; returns once they do.
    fn serve(&self) {
        let (begun, all_begun) = mpsc::channel();
        self.tell(|| Command::Serve(begun.clone()));
        drop(begun);
        // No message is ever sent: this ends when the last shard has dropped its sender.
        let _ = all_begun.recv();
    }

    /// The addresses that accept requests, with the ports chosen.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The I/O engine in use.
    #[must_use]
    pub const fn engine(&self) -> EngineInfo {
        self.engine
    }

    /// The frame cache's statistics so far.
    #[must_use]
    pub fn frame_cache(&self) -> StoreStatistics {
        self.store.statistics()
    }

    /// The number of shards.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.shards.len()
    }

    /// Stops accepting requests; the shards end together, once all their transfers have ended.
    pub fn drain(&self) {
        self.tell(|| Command::Drain);
    }

    /// Ends every transfer and tells the clients; then each shard ends.
    pub fn stop(&self) {
        self.tell(|| Command::Stop);
    }

    /// Asks every shard for its counters; each shard calls `reply` once, on its own thread.
    pub fn report(&self, reply: impl Fn(Metrics) + Send + Clone + 'static) {
        self.tell(|| Command::Report(Box::new(reply.clone())));
    }

    /// Asks every shard for its running transfers, at most `max` each; each shard calls `reply` once, on its
    /// own thread.
    pub fn list(&self, max: usize, reply: impl Fn(Vec<Running>) + Send + Clone + 'static) {
        self.tell(|| Command::List(max, Box::new(reply.clone())));
    }

    /// Waits for all shards to end.
    pub fn join(mut self) {
        self.join_all();
    }

    /// Ends every transfer, tells the clients, and waits for all threads to end, but no longer than
    /// `patience`: a hung disk may block one forever. Returns whether all have ended; threads that have not
    /// are left behind.
    #[must_use]
    pub fn end(self, patience: Duration) -> bool {
        let (sender, ended) = mpsc::channel();
        let ending = move || {
            drop(self);
            // The caller may have stopped waiting.
            let _ = sender.send(());
        };
        match thread::Builder::new()
            .name("ending".to_owned())
            .spawn(ending)
        {
            Ok(_) => ended.recv_timeout(patience).is_ok(),
            // If no thread could be started to wait, the server was dropped synchronously.
            Err(_) => true,
        }
    }

    fn tell(&self, command: impl Fn() -> Command) {
        for shard in &self.shards {
            // A shard that has ended needs no command.
            if shard.commands.send(command()).is_ok() {
                shard.waker.wake_by_ref();
            }
        }
    }

    fn join_all(&mut self) {
        for shard in &mut self.shards {
            if let Some(thread) = shard.thread.take() {
                // Panics in its work are caught and reported; there is nothing left to do here.
                let _ = thread.join();
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
        self.join_all();
    }
}

/// Does the work of a shard's thread. Otherwise, only its clients would notice that a shard has panicked.
fn caught<Value>(work: impl FnOnce() -> io::Result<Value>) -> io::Result<Value> {
    // All state that the work may leave inconsistent is owned by it and dropped with it, or protected by
    // locks that tolerate this.
    panic::catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(io::Error::other("its thread panicked")))
}

/// The engine of a shard's thread.
enum Taken {
    Mio(Box<MioEngine>),
    #[cfg(target_os = "linux")]
    Uring(Box<UringEngine>),
}

/// Creates the chosen engine. With `aloud`, the reason for the choice is logged if there was one.
fn take_engine(choice: EngineChoice, gso: bool, aloud: bool) -> io::Result<Taken> {
    let why = match choice {
        EngineChoice::Mio => return mio(gso),
        EngineChoice::Uring => return uring(gso),
        EngineChoice::Auto => match uring(gso) {
            Ok(taken) => return Ok(taken),
            Err(error) => error,
        },
    };
    if aloud {
        tracing::info!(engine = "mio", %why, "engine taken");
    }
    mio(gso)
}

fn mio(gso: bool) -> io::Result<Taken> {
    let mut engine = MioEngine::new()?.with_busy_polling();
    if !gso {
        engine = engine.without_gso();
    }
    Ok(Taken::Mio(Box::new(engine)))
}

#[cfg(target_os = "linux")]
fn uring(gso: bool) -> io::Result<Taken> {
    let mut engine = UringEngine::new()?.with_busy_polling();
    if !gso {
        engine = engine.without_gso();
    }
    Ok(Taken::Uring(Box::new(engine)))
}

#[cfg(not(target_os = "linux"))]
fn uring(_gso: bool) -> io::Result<Taken> {
    let text = "io_uring is a part of Linux, and this is another system";
    Err(io::Error::new(io::ErrorKind::Unsupported, text))
}

/// Runs a shard's thread: everything the shard owns is created on it and stays there, except its counters.
fn run_shard<E: Engine>(
    mut shard: Shard<E>,
    engine: EngineInfo,
    assignment: &Assignment,
) -> io::Result<Metrics> {
    let (orders, mut member) = match listen(&mut shard, engine, assignment) {
        Ok((ready, orders, member)) => {
            // If the receiver is gone, the start was abandoned and there is nothing to serve.
            let _ = assignment.ready.send(Ok(ready));
            (orders, member)
        }
        Err(error) => {
            let _ = assignment.ready.send(Err(error));
            return Ok(Metrics::default());
        }
    };
    // The client's ACK of an earlier answer could reach a shard that does not listen yet.
    let Ok(Command::Serve(begun)) = orders.recv() else {
        // One of the shards cannot listen, so none serves.
        return Ok(shard.metrics());
    };
    if assignment.is_redealt {
        shard.pass_over()?;
    }
    drop(begun);
    let mut draining = false;
    // An idle shard stays until the others are done, and ignores whatever arrives.
    while !(draining && shard.is_idle() && member.is_done()) {
        shard.turn()?;
        for order in orders.try_iter() {
            match order {
                Command::Drain => {
                    shard.drain();
                    draining = true;
                }
                // It does not wait for repeats from clients of finished transfers.
                Command::Stop => {
                    shard.stop();
                    return Ok(shard.metrics());
                }
                // It already serves.
                Command::Serve(_) => {}
                Command::Report(reply) => reply(shard.metrics()),
                Command::List(max, reply) => reply(shard.all_running(max)),
            }
        }
    }
    Ok(shard.metrics())
}

/// Makes a shard listen; returns its report, its command channel and its membership in the rendezvous.
fn listen<E: Engine>(
    shard: &mut Shard<E>,
    engine: EngineInfo,
    assignment: &Assignment,
) -> io::Result<(Ready, mpsc::Receiver<Command>, Member)> {
    let waker = shard.engine().waker();
    let mut addresses = Vec::new();
    for bind in &assignment.binds {
        let named = |error: io::Error| {
            io::Error::new(
                error.kind(),
                format!("cannot listen on udp {}: {error}", bind.address),
            )
        };
        addresses.push(shard.listen(*bind).map_err(named)?);
    }
    let (commands, orders) = mpsc::channel();
    let member = assignment.together.join(waker.clone());
    let ready = Ready {
        addresses,
        engine,
        receive_buffer: shard.receive_buffer(),
        commands,
        waker,
    };
    Ok((ready, orders, member))
}

/// Warns, with advice, if the receive buffer is at most half the size requested: request storms queue there,
/// and datagrams that do not fit are lost.
fn warn_of_small_queue(granted: usize) {
    if granted > RECEIVE_BUFFER_OCTETS / 2 {
        return;
    }
    let advice = if cfg!(target_os = "linux") {
        format!(
            "have `sysctl net.core.rmem_max={RECEIVE_BUFFER_OCTETS}`, or give the program the capability CAP_NET_ADMIN"
        )
    } else {
        "raise the system's limit for the buffers of sockets".to_owned()
    };
    tracing::warn!(
        granted,
        wanted = RECEIVE_BUFFER_OCTETS,
        "the queue for requests is short, and what a storm has beyond it is dropped: {advice}"
    );
}

/// Shards share an address by SO_REUSEPORT, which would also let another process of the same user bind it and
/// receive part of the requests. Binding a socket without that option detects this, and waits for a server
/// that was just killed to disappear.
fn refuse_taken(address: SocketAddr) -> io::Result<()> {
    let began = Instant::now();
    loop {
        match UdpSocket::bind(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                if began.elapsed() >= PORT_PATIENCE {
                    let text = format!("cannot listen on udp {address}: {error}");
                    return Err(io::Error::new(error.kind(), text));
                }
                thread::sleep(PORT_RETRY);
            }
            _ => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::store::{Backend, OpenError, Opened, Patience, Refusal, Sink};

    /// A hung disk: opening a file reports it and blocks until the disk continues.
    struct Halted {
        asked: mpsc::Sender<()>,
        goes_on: Mutex<mpsc::Receiver<()>>,
    }

    impl Backend for Halted {
        fn open(&self, _: &[u8], patience: Patience) -> Result<Opened, OpenError> {
            if patience == Patience::Now {
                return Err(OpenError::WouldBlock);
            }
            let _ = self.asked.send(());
            let _ = self.goes_on.lock().map(|waiting| waiting.recv());
            Err(Refusal::NotFound.into())
        }

        fn create(&self, _: &[u8], _: Option<u64>) -> Result<Box<dyn Sink>, Refusal> {
            Err(Refusal::Denied)
        }
    }

    /// Goal: a hung disk does not keep the server alive. Method: a disk that continues only after `end` has
    /// given up.
    #[test]
    fn an_end_does_not_wait_for_a_disk() {
        let (asked, was_asked) = mpsc::channel();
        let (go_on, goes_on) = mpsc::channel();
        let goes_on = Mutex::new(goes_on);
        let options = ServerOptions {
            listen: vec!["127.0.0.1:0".parse().expect("an address")],
            workers: 1,
            pin: false,
            settings: Settings::default(),
            root: PathBuf::new(),
            directory: DirectoryOptions::default(),
            frame_cache_octets: 1 << 20,
            engine: EngineChoice::Mio,
            gso: true,
        };
        let store_options = StoreOptions {
            frame_cache_octets: options.frame_cache_octets,
            threads: 1,
        };
        let store = Store::new(Halted { asked, goes_on }, store_options).expect("a store");
        let (sender, ended) = mpsc::channel();
        let server = Server::with_store(store, &options, move |result| {
            let _ = sender.send(result);
        })
        .expect("a server");
        let client = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        client
            .send_to(b"\0\x01file\0octet\0", server.addresses()[0])
            .expect("sent");
        was_asked.recv().expect("the file was asked for");
        assert!(!server.end(Duration::from_millis(1)));
        // The shard does not wait for the disk; a thread of the store does.
        ended.recv().expect("it ended").expect("well");
        drop(go_on);
    }

    #[test]
    fn a_panic_in_a_shard_is_an_error() {
        let told = caught::<()>(|| panic!("as on a defect")).expect_err("an error");
        assert_eq!(told.to_string(), "its thread panicked");
        assert!(caught(|| Ok(())).is_ok());
        assert_eq!(
            caught::<()>(|| Err(io::ErrorKind::OutOfMemory.into())).map_err(|error| error.kind()),
            Err(io::ErrorKind::OutOfMemory)
        );
    }
}
