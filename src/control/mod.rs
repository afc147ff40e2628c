//! The control side of a server: signals, draining and statistics, on one thread beside the data path.

mod admin;
mod openmetrics;
mod signals;
mod tell;

use std::cell::{Cell, RefCell};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::rc::Rc;

use rustix::process::geteuid;
use tokio::net::TcpListener;
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::metrics::Metrics;
use crate::server::{Server, ServerOptions};
use crate::shard::Running;
use crate::store::Writes;
use crate::time::Duration;

pub use signals::{Signal, Signals, on_interrupt};

/// How long shards may take to answer a query. A round of their loop takes milliseconds; a stuck shard must
/// not delay signals.
const ANSWER_PATIENCE: Duration = Duration::from_secs(3);
/// How long threads may take to end. Telling all clients takes milliseconds; a hung disk must not keep the
/// process alive.
const END_PATIENCE: Duration = Duration::from_secs(1);

/// How a server is controlled.
#[derive(Debug, Clone)]
pub struct ControlOptions {
    /// How long running transfers may continue after the server is told to end.
    pub drain_timeout: Duration,
    /// The address of the admin interface over HTTP, if enabled.
    pub admin: Option<SocketAddr>,
    /// Whether log lines are JSON objects, in which counters are not printed as tables.
    pub objects: bool,
}

/// Serves until told to end: SIGTERM or SIGINT lets running transfers finish within the drain timeout; a
/// SIGINT after either ends them at once; SIGUSR1 logs the counters.
///
/// When this returns, threads blocked by a disk may still exist: they end with the process.
///
/// # Errors
/// If the server cannot start, a shard fails, or transfers had to be cut short.
pub fn serve(options: &ServerOptions, control: &ControlOptions) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()?;
    runtime.block_on(run(options, control))
}

async fn run(options: &ServerOptions, control: &ControlOptions) -> io::Result<()> {
    // Signals are caught before the server is announced as running.
    let signals = Signals::new()?;
    let admin = match control.admin {
        Some(address) => Some(listen(address).await?),
        None => None,
    };
    let (sender, mut ended) = mpsc::unbounded_channel();
    let server = Server::start(options, move |result| {
        // The receiver may be gone.
        let _ = sender.send(result);
    })?;
    tracing::info!(
        engine = server.engine().name,
        gso = server.engine().gso,
        zero_copy = server.engine().zero_copy,
        workers = server.workers(),
        root = %options.root.display(),
        writes = word(options.directory.writes),
        "serving"
    );
    if geteuid().is_root() {
        tracing::warn!(
            "running as root, whom no mode keeps out: every file under the root directory is served; \
             a user of its own needs no more than CAP_NET_BIND_SERVICE"
        );
    }
    // If standard error cannot be written to, the server serves all the same.
    for address in server.addresses() {
        let _ = writeln!(io::stderr(), "listening on udp {address}");
    }
    if let Some(admin) = &admin {
        let _ = writeln!(io::stderr(), "admin on http://{}", admin.local_addr()?);
    }

    let house = Rc::new(House {
        server,
        draining: Cell::new(false),
        gone: RefCell::default(),
    });
    let tended = tend(&house, admin, signals, &mut ended, control).await;
    // This is the last reference: the admin task has ended with its connections.
    let all_ended = Rc::into_inner(house).is_none_or(|House { server, gone, .. }| {
        let all_ended = server.end(END_PATIENCE);
        let mut total = gone.into_inner();
        while let Ok(Ok(metrics)) = ended.try_recv() {
            total.merge(&metrics);
        }
        tell::latencies(&total.latencies, control.objects);
        all_ended
    });
    tended?;
    if !all_ended {
        return Err(io::Error::other(
            "threads were left behind that did not end in time; a disk may have come to a halt",
        ));
    }
    tracing::info!("ended");
    Ok(())
}

/// Controls the server until its shards have ended, or must end at once.
async fn tend(
    house: &Rc<House>,
    admin: Option<TcpListener>,
    mut signals: Signals,
    ended: &mut UnboundedReceiver<io::Result<Metrics>>,
    control: &ControlOptions,
) -> io::Result<()> {
    let answering = async {
        match admin {
            Some(listener) => admin::answer(listener, house.clone()).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(answering);
    let mut running = house.server.workers();
    let mut deadline: Option<Instant> = None;
    while running > 0 {
        tokio::select! {
            result = ended.recv() => {
                running -= 1;
                // If no sender is left, all threads are gone.
                let result = result.unwrap_or_else(|| Err(io::Error::other("it ended without a word")));
                match result {
                    Ok(metrics) => house.gone.borrow_mut().merge(&metrics),
                    Err(error) => return Err(io::Error::new(error.kind(), format!("a shard failed: {error}"))),
                }
            }
            signal = signals.next() => match signal {
                Signal::Hangup => tracing::info!("hung up: there is no configuration file to read anew, and the log goes to stderr"),
                Signal::Report => tell::counters(&house.report().await.0, control.objects),
                Signal::Interrupt if house.is_draining() => {
                    tracing::warn!("interrupted again: ending at once");
                    return house.cut().await;
                }
                Signal::Terminate if house.is_draining() => {
                    tracing::info!("draining already; SIGINT ends at once");
                }
                Signal::Interrupt | Signal::Terminate => {
                    let seconds = control.drain_timeout.as_secs();
                    tracing::info!(seconds, "draining: no new requests, running transfers may finish");
                    house.draining.set(true);
                    house.server.drain();
                    deadline = Some(Instant::now() + control.drain_timeout);
                }
            },
            () = until(deadline) => {
                tracing::warn!("transfers still ran when the time to drain was over: ending them");
                return house.cut().await;
            }
            () = &mut answering => {}
        }
    }
    Ok(())
}

/// What may be written, as an argument of `--write`.
const fn word(writes: Writes) -> &'static str {
    match writes {
        Writes::Off => "off",
        Writes::Create => "create",
        Writes::Overwrite => "overwrite",
    }
}

async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let named = |error: io::Error| {
        io::Error::new(
            error.kind(),
            format!("cannot listen on tcp {address}: {error}"),
        )
    };
    TcpListener::bind(address).await.map_err(named)
}

/// The server as the control side sees it.
#[derive(Debug)]
struct House {
    server: Server,
    draining: Cell<bool>,
    /// Counters of shards that have ended.
    gone: RefCell<Metrics>,
}

impl House {
    /// Whether it was told to end.
    const fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// The merged counters of all shards that answered in time; and whether all did.
    async fn report(&self) -> (Metrics, bool) {
        let (all, whole) = answers(self.ask()).await;
        let mut total = total(&all);
        total.merge(&self.gone.borrow());
        (total, whole)
    }

    /// Ends every transfer and tells the clients; the error says how many there were, if any.
    async fn cut(&self) -> io::Result<()> {
        // Ask each shard for its counters before stopping it, so that they include the transfers cut short.
        let replies = self.ask();
        self.server.stop();
        let total = total(&answers(replies).await.0);
        match total.active_reads + total.active_writes {
            0 => Ok(()),
            1 => Err(io::Error::other("1 running transfer was cut short")),
            count => Err(io::Error::other(format!(
                "{count} running transfers were cut short"
            ))),
        }
    }

    /// Asks every shard for its counters.
    fn ask(&self) -> UnboundedReceiver<Metrics> {
        let (sender, replies) = mpsc::unbounded_channel();
        self.server.report(move |metrics| {
            // The caller may have stopped waiting.
            let _ = sender.send(metrics);
        });
        replies
    }

    /// The running transfers of all shards that answer in time, at most `max` of each.
    async fn running(&self, max: usize) -> Vec<Running> {
        let (sender, replies) = mpsc::unbounded_channel();
        self.server.list(max, move |some| {
            let _ = sender.send(some);
        });
        let (all, _) = answers(replies).await;
        all.into_iter().flatten().collect()
    }
}

/// The answers that arrive in time, and whether all did. The channel closes once all running shards answered.
async fn answers<Answer>(mut replies: UnboundedReceiver<Answer>) -> (Vec<Answer>, bool) {
    let latest = Instant::now() + ANSWER_PATIENCE;
    let mut all = Vec::new();
    loop {
        match timeout_at(latest, replies.recv()).await {
            Ok(Some(answer)) => all.push(answer),
            Ok(None) => return (all, true),
            Err(_) => return (all, false),
        }
    }
}

fn total(all: &[Metrics]) -> Metrics {
    let mut total = Metrics::default();
    all.iter().for_each(|metrics| total.merge(metrics));
    total
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a shard that never answers delays nothing, and the answers of the others are not lost.
    #[test]
    fn a_stuck_shard_is_not_waited_for() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime");
        let (sender, replies) = mpsc::unbounded_channel();
        let stuck = sender.clone();
        sender.send(7).expect("somebody listens");
        drop(sender);
        assert_eq!(runtime.block_on(answers(replies)), (vec![7], false));
        drop(stuck);
    }
}
