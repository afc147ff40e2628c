//! The control side of a server: signals, draining, statistics; on one thread, beside the data path.

mod signals;

use std::io;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::metrics::Metrics;
use crate::server::{Server, ServerOptions};
use crate::time::Duration;

pub use signals::{Signal, Signals, on_interrupt};

/// Serves until told to end: SIGTERM or SIGINT lets running transfers finish, for `drain_timeout` at
/// the most; a second SIGINT ends at once; SIGUSR1 prints the counters.
///
/// # Errors
/// If the server cannot start, or a shard fails.
pub fn serve(options: &ServerOptions, drain_timeout: Duration) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()?;
    runtime.block_on(run(options, drain_timeout))
}

async fn run(options: &ServerOptions, drain_timeout: Duration) -> io::Result<()> {
    // Signals are caught before anybody is told that the server runs.
    let mut signals = Signals::new()?;
    let (sender, mut ended) = mpsc::unbounded_channel();
    let server = Server::start(options, move |result| {
        // Whoever waited for it may have given up.
        let _ = sender.send(result);
    })?;
    tracing::info!(
        engine = server.engine(),
        workers = server.workers(),
        root = %options.root.display(),
        writes = ?options.directory.writes,
        "serving"
    );
    for address in server.addresses() {
        eprintln!("listening on udp {address}");
    }

    let mut running = server.workers();
    let mut deadline: Option<Instant> = None;
    while running > 0 {
        tokio::select! {
            result = ended.recv() => {
                running -= 1;
                if let Some(Err(error)) = result {
                    server.stop();
                    return Err(io::Error::new(error.kind(), format!("a shard failed: {error}")));
                }
            }
            signal = signals.next() => match signal {
                Signal::Report => {
                    tracing::info!("{}", report(&server).await);
                }
                Signal::Interrupt if deadline.is_some() => {
                    tracing::warn!("interrupted again: ending at once");
                    server.stop();
                }
                Signal::Interrupt | Signal::Terminate => {
                    let seconds = drain_timeout.as_secs();
                    tracing::info!(seconds, "draining: no new requests, running transfers may finish");
                    server.drain();
                    deadline.get_or_insert_with(|| Instant::now() + drain_timeout);
                }
            },
            () = until(deadline) => {
                tracing::warn!("transfers still ran when the time to drain was over: ending them");
                server.stop();
                deadline = None;
            }
        }
    }
    server.join();
    tracing::info!("ended");
    Ok(())
}

/// The counters of all shards together.
async fn report(server: &Server) -> Metrics {
    let (sender, mut replies) = mpsc::unbounded_channel();
    server.report(move |metrics| {
        let _ = sender.send(metrics);
    });
    let mut total = Metrics::default();
    while let Some(metrics) = replies.recv().await {
        total.merge(&metrics);
    }
    total
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
