//! The control side of a server: signals, draining, statistics; on one thread, beside the data path.

mod admin;
mod openmetrics;
mod signals;

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::metrics::Metrics;
use crate::server::{Server, ServerOptions};
use crate::shard::Running;
use crate::time::Duration;

pub use signals::{Signal, Signals, on_interrupt};

/// How a server is looked after.
#[derive(Debug, Clone)]
pub struct ControlOptions {
    /// How long running transfers may go on after the server was told to end.
    pub drain_timeout: Duration,
    /// Where the admin side answers over HTTP, if it does.
    pub admin: Option<SocketAddr>,
}

/// Serves until told to end: SIGTERM or SIGINT lets running transfers finish, for as long as the
/// options say; a second SIGINT ends at once; SIGUSR1 logs the counters.
///
/// # Errors
/// If the server cannot start, or a shard fails.
pub fn serve(options: &ServerOptions, control: &ControlOptions) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()?;
    runtime.block_on(run(options, control))
}

async fn run(options: &ServerOptions, control: &ControlOptions) -> io::Result<()> {
    // Signals are caught before anybody is told that the server runs.
    let mut signals = Signals::new()?;
    let admin = match control.admin {
        Some(address) => Some(listen(address).await?),
        None => None,
    };
    let (sender, mut ended) = mpsc::unbounded_channel();
    let server = Server::start(options, move |result| {
        // Whoever waited for it may have given up.
        let _ = sender.send(result);
    })?;
    tracing::info!(
        engine = %server.engine(),
        workers = server.workers(),
        root = %options.root.display(),
        writes = ?options.directory.writes,
        "serving"
    );
    for address in server.addresses() {
        eprintln!("listening on udp {address}");
    }
    if let Some(admin) = &admin {
        eprintln!("admin on http://{}", admin.local_addr()?);
    }

    let house = Rc::new(House {
        server,
        draining: Cell::new(false),
    });
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
                if let Some(Err(error)) = result {
                    house.server.stop();
                    return Err(io::Error::new(error.kind(), format!("a shard failed: {error}")));
                }
            }
            signal = signals.next() => match signal {
                Signal::Report => tracing::info!("{}", house.report().await),
                Signal::Interrupt if house.is_draining() => {
                    tracing::warn!("interrupted again: ending at once");
                    house.server.stop();
                }
                Signal::Interrupt | Signal::Terminate => {
                    let seconds = control.drain_timeout.as_secs();
                    tracing::info!(seconds, "draining: no new requests, running transfers may finish");
                    house.draining.set(true);
                    house.server.drain();
                    deadline.get_or_insert_with(|| Instant::now() + control.drain_timeout);
                }
            },
            () = until(deadline) => {
                tracing::warn!("transfers still ran when the time to drain was over: ending them");
                house.server.stop();
                deadline = None;
            }
            () = &mut answering => {}
        }
    }
    tracing::info!("ended");
    Ok(())
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

/// The server, as the control side sees it.
#[derive(Debug)]
struct House {
    server: Server,
    draining: Cell<bool>,
}

impl House {
    /// Whether it has been told to end.
    const fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// The counters of all shards together.
    async fn report(&self) -> Metrics {
        let (sender, mut replies) = mpsc::unbounded_channel();
        self.server.report(move |metrics| {
            // Whoever asked may have given up.
            let _ = sender.send(metrics);
        });
        let mut total = Metrics::default();
        // The channel ends once all shards that still run have answered.
        while let Some(metrics) = replies.recv().await {
            total.merge(&metrics);
        }
        total
    }

    /// The transfers of all shards, at most `max` of each.
    async fn running(&self, max: usize) -> Vec<Running> {
        let (sender, mut replies) = mpsc::unbounded_channel();
        self.server.list(max, move |some| {
            let _ = sender.send(some);
        });
        let mut all = Vec::new();
        while let Some(some) = replies.recv().await {
            all.extend(some);
        }
        all
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
