//! The server: shards on threads of their own, which take requests at shared addresses.

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

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::{Settings, frame_cache_octets_default};
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

/// How long a port that is taken may take to become free. The kernel takes a ring apart some time
/// after its process was killed, and until then its requests keep the port: milliseconds, as a rule.
const PORT_PATIENCE: Duration = Duration::from_secs(1);

/// How often such a port is tried.
const PORT_RETRY: Duration = Duration::from_millis(10);

/// What a server is to be. The defaults are those of `bootstorm serve`, but for the address, which is a free
/// port of the loopback, and the root, which there is none; who embeds a server fills in these two.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Addresses that take requests; port 0 picks one.
    pub listen: Vec<SocketAddr>,
    /// How many shards, each with a thread of its own; at least 1.
    pub workers: usize,
    /// Whether each of these threads stays on one processor; there must be enough of them.
    pub pin: bool,
    /// What holds for transfers.
    pub settings: Settings,
    /// The directory whose files are served.
    pub root: PathBuf,
    /// How names are looked up in it, and what may be written.
    pub directory: DirectoryOptions,
    /// Memory for the DATA packets that transfers share, in octets.
    pub frame_cache_octets: usize,
    /// What moves the datagrams.
    pub engine: EngineChoice,
    /// Whether the kernel may be handed bursts to cut into datagrams.
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

/// What may move the datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EngineChoice {
    /// io_uring where the system has it and permits it, otherwise mio. Where everything is copied the two
    /// tie; where the device can take bursts without a copy, only io_uring has them.
    #[default]
    Auto,
    /// Readiness and plain system calls, on every Unix.
    Mio,
    /// Linux's io_uring.
    Uring,
}

/// A server that runs until it is told to end, or dropped.
#[derive(Debug)]
pub struct Server {
    addresses: Vec<SocketAddr>,
    engine: EngineInfo,
    store: Arc<Store>,
    shards: Vec<Handle>,
}

/// The engine that was taken, and what it can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EngineInfo {
    /// Its name.
    pub name: &'static str,
    /// Whether the kernel cuts bursts into datagrams.
    pub gso: bool,
    /// Whether bursts may leave without being copied; whether they do is for the device and for their length
    /// to say, and counted.
    pub zero_copy: bool,
}

/// A shard's thread, and how to reach it.
#[derive(Debug)]
struct Handle {
    commands: mpsc::Sender<Command>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

/// What a shard is told from outside.
enum Command {
    /// All shards listen: to serve from now on. What comes with this is dropped once that is so.
    Serve(mpsc::Sender<()>),
    Drain,
    Stop,
    Report(Box<dyn FnOnce(Metrics) + Send>),
    List(usize, Box<dyn FnOnce(Vec<Running>) + Send>),
}

/// What a shard is given beside itself.
struct Assignment {
    binds: Vec<Bind>,
    together: Rendezvous,
    /// Whether the shard goes on at the very socket where requests come, one of several at its port.
    is_redealt: bool,
    /// Hears whether it listens.
    ready: mpsc::Sender<io::Result<Ready>>,
}

/// What a shard says once it listens.
struct Ready {
    addresses: Vec<SocketAddr>,
    engine: EngineInfo,
    receive_buffer: Option<usize>,
    commands: mpsc::Sender<Command>,
    waker: Waker,
}

impl Server {
    /// Starts a server over a directory. When this returns, requests are answered, and this process may
    /// have as many descriptors as its hard limit allows.
    ///
    /// # Errors
    /// If the root is no directory, an address cannot be had, or the system is out of something; the
    /// text says which.
    pub fn start(
        options: &ServerOptions,
        ended: impl Fn(io::Result<Metrics>) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        raise_descriptor_limit();
        let directory = Directory::new(&options.root, options.directory)?;
        let frame_cache_octets = options.frame_cache_octets;
        let store = Store::new(
            directory,
            StoreOptions {
                frame_cache_octets,
                threads: THREADS_DEFAULT,
            },
        )?;
        Self::with_store(store, options, ended)
    }

    /// Starts a server over any store; what the options say about one does not count. `ended` is called by each shard's thread as its last act, with all
    /// that it counted, or why it failed; a panic is an error.
    ///
    /// # Errors
    /// If an address cannot be had, there are fewer processors than workers to pin, or the system is
    /// out of something.
    pub fn with_store(
        store: Arc<Store>,
        options: &ServerOptions,
        ended: impl Fn(io::Result<Metrics>) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let settings = Arc::new(options.settings.clone());
        let (ended, census) = (Arc::new(ended), Census::default());
        let together = Rendezvous::default();
        let (workers, engine, gso) = (options.workers.max(1), options.engine, options.gso);
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
            // A port that the first shard picked is the others' as well.
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
            // First of all: what a worker makes then lies near its processor.
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

    /// Has the shards serve, now that all of them listen; returns once they do.
    fn serve(&self) {
        let (begun, all_begun) = mpsc::channel();
        self.tell(|| Command::Serve(begun.clone()));
        drop(begun);
        // Nothing is ever said: it ends when the last shard has dropped its end.
        let _ = all_begun.recv();
    }

    /// The addresses that take requests, with the ports that were picked.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What moves the datagrams.
    #[must_use]
    pub const fn engine(&self) -> EngineInfo {
        self.engine
    }

    /// What the frame cache has done so far.
    #[must_use]
    pub fn frame_cache(&self) -> StoreStatistics {
        self.store.statistics()
    }

    /// How many shards there are.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.shards.len()
    }

    /// Takes no more requests; the shards end together, once all their transfers have.
    pub fn drain(&self) {
        self.tell(|| Command::Drain);
    }

    /// Ends every transfer, telling the clients; then each shard ends.
    pub fn stop(&self) {
        self.tell(|| Command::Stop);
    }

    /// Asks every shard for its counters; `reply` is called once by each, on its thread.
    pub fn report(&self, reply: impl Fn(Metrics) + Send + Clone + 'static) {
        self.tell(|| Command::Report(Box::new(reply.clone())));
    }

    /// Asks every shard for the transfers that run, at most `max` each; `reply` is called once by each,
    /// on its thread.
    pub fn list(&self, max: usize, reply: impl Fn(Vec<Running>) + Send + Clone + 'static) {
        self.tell(|| Command::List(max, Box::new(reply.clone())));
    }

    /// Waits for all shards to end.
    pub fn join(mut self) {
        self.join_all();
    }

    /// Ends every transfer, telling the clients, and waits for all threads to end, but no longer than
    /// `patience`: a disk that has come to a halt may hold one for ever. Says whether all have ended;
    /// those that have not are left behind.
    #[must_use]
    pub fn end(self, patience: Duration) -> bool {
        let (sender, ended) = mpsc::channel();
        let ending = move || {
            drop(self);
            // Whoever waited for it may have given up.
            let _ = sender.send(());
        };
        match thread::Builder::new()
            .name("ending".to_owned())
            .spawn(ending)
        {
            Ok(_) => ended.recv_timeout(patience).is_ok(),
            // Without a thread to wait on, the server was dropped here and now.
            Err(_) => true,
        }
    }

    fn tell(&self, command: impl Fn() -> Command) {
        for shard in &self.shards {
            // A shard that has ended needs no telling.
            if shard.commands.send(command()).is_ok() {
                shard.waker.wake_by_ref();
            }
        }
    }

    fn join_all(&mut self) {
        for shard in &mut self.shards {
            if let Some(thread) = shard.thread.take() {
                // What its work panics with is caught and told; there is nothing left to do here.
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

/// Lets this process have as many descriptors as it may: every file that is read and every upload takes
/// one or two, and the limit that programs start with is for those that might use `select`.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => tracing::debug!(
            from = limit.current,
            to = raised.current,
            "descriptor limit raised"
        ),
        // Some systems have a lower one that they do not tell; what there is has to do.
        Err(error) => tracing::debug!(%error, "descriptor limit not raised"),
    }
}

/// Does the work of a shard's thread. A shard that panics would otherwise be missed by nobody but its
/// clients.
fn caught<Value>(work: impl FnOnce() -> io::Result<Value>) -> io::Result<Value> {
    // Everything that the work may leave half changed is its own and dropped with it, or behind locks
    // that are made for it.
    panic::catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(io::Error::other("its thread panicked")))
}

/// The engine of a shard's thread.
enum Taken {
    Mio(Box<MioEngine>),
    #[cfg(target_os = "linux")]
    Uring(Box<UringEngine>),
}

/// Makes the engine that was chosen. `aloud` has the reason logged, if there was a choice to make.
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

/// A shard's thread: everything it owns is made on it, and never leaves but for what it counted.
fn run_shard<E: Engine>(
    mut shard: Shard<E>,
    engine: EngineInfo,
    assignment: &Assignment,
) -> io::Result<Metrics> {
    let (orders, mut member) = match listen(&mut shard, engine, assignment) {
        Ok((ready, orders, member)) => {
            // Nobody to hear it means nobody to serve.
            let _ = assignment.ready.send(Ok(ready));
            (orders, member)
        }
        Err(error) => {
            let _ = assignment.ready.send(Err(error));
            return Ok(Metrics::default());
        }
    };
    // The ACK of what is answered before may come to a shard that has yet to listen.
    let Ok(Command::Serve(begun)) = orders.recv() else {
        // One of them cannot listen, so that nobody serves.
        return Ok(shard.metrics());
    };
    if assignment.is_redealt {
        shard.pass_over()?;
    }
    drop(begun);
    let mut draining = false;
    // An idle shard stays for the others, and passes over what comes.
    while !(draining && shard.is_idle() && member.is_done()) {
        shard.turn()?;
        for order in orders.try_iter() {
            match order {
                Command::Drain => {
                    shard.drain();
                    draining = true;
                }
                // It does not stay for repeats of what has ended already.
                Command::Stop => {
                    shard.stop();
                    return Ok(shard.metrics());
                }
                // It serves already.
                Command::Serve(_) => {}
                Command::Report(reply) => reply(shard.metrics()),
                Command::List(max, reply) => reply(shard.all_running(max)),
            }
        }
    }
    Ok(shard.metrics())
}

/// Has a shard listen: what it says then, where it gets its orders, and its place among the others.
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

/// Says what to do about a receive queue of half as many octets as were asked for, or fewer: it is where a storm
/// waits, and what finds no room there is lost.
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

/// Shards share an address by SO_REUSEPORT, which would let another process of the same user in as
/// well, each getting a part of the requests. A socket without it finds out, and waits for a server
/// that was killed just now to be gone.
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

    /// A disk that has come to a halt: whoever opens a file says so, and waits until it goes on.
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

    /// Goal: a disk that has come to a halt does not keep the server alive. Method: one that goes on
    /// only after `end` has given up.
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
