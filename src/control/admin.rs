//! The admin interface over HTTP, for operators and monitoring: counters, health, running transfers.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::rc::Rc;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::task::{AbortHandle, LocalSet};
use tokio::time::timeout;

use super::{House, openmetrics};
use crate::shard::Running;
use crate::time::Duration;
use crate::wire::Escaped;

/// Maximum simultaneous connections; the page is for a scraper and a few people. Beyond that, a new
/// connection replaces the oldest, so that idle connections cannot lock others out.
const CONNECTIONS_MAX: usize = 32;
/// Maximum lifetime of a connection.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum transfers listed per shard.
const TRANSFERS_LISTED_MAX: usize = 1_000;

/// Answers admin requests while it is polled.
pub(super) async fn answer(listener: TcpListener, house: Rc<House>) {
    let connections = LocalSet::new();
    let accept = async {
        let mut open: VecDeque<AbortHandle> = VecDeque::new();
        loop {
            let (stream, house) = match listener.accept().await {
                Ok((stream, _)) => (stream, house.clone()),
                Err(error) => {
                    // Most likely out of descriptors: other connections may end meanwhile.
                    tracing::warn!(%error, "admin connection not accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            open.retain(|connection| !connection.is_finished());
            if open.len() == CONNECTIONS_MAX
                && let Some(oldest) = open.pop_front()
            {
                oldest.abort();
            }
            let connection = tokio::task::spawn_local(async move {
                let service = service_fn(move |request| respond(request, house.clone()));
                let connection = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(CONNECTION_TIMEOUT)
                    .keep_alive(false)
                    .serve_connection(TokioIo::new(stream), service);
                // Errors on a connection concern only its other end.
                let _ = timeout(CONNECTION_TIMEOUT, connection).await;
            });
            open.push_back(connection.abort_handle());
        }
    };
    connections.run_until(accept).await;
}

async fn respond(
    request: Request<Incoming>,
    house: Rc<House>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, kind, page) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => {
            let (metrics, whole) = house.report().await;
            if whole {
                let cache = house.server.frame_cache();
                let page = openmetrics::render(&metrics, house.server.engine(), cache);
                (StatusCode::OK, openmetrics::CONTENT_TYPE, page)
            } else {
                // Decreasing counters would look like a restart.
                let why = "a worker is too busy to answer in time: ask again\n";
                (StatusCode::SERVICE_UNAVAILABLE, TEXT, why.to_owned())
            }
        }
        (&Method::GET | &Method::HEAD, "/healthz") => (StatusCode::OK, TEXT, "alive\n".to_owned()),
        (&Method::GET | &Method::HEAD, "/readyz") => {
            if house.is_draining() {
                (
                    StatusCode::SERVICE_UNAVAILABLE,
                    TEXT,
                    "draining\n".to_owned(),
                )
            } else {
                (StatusCode::OK, TEXT, "ready\n".to_owned())
            }
        }
        (&Method::GET | &Method::HEAD, "/transfers") => {
            let running = house.running(TRANSFERS_LISTED_MAX).await;
            let rows: Vec<Row> = running.iter().map(Row::of).collect();
            match serde_json::to_string(&rows) {
                Ok(page) => (StatusCode::OK, "application/json", page),
                Err(error) => (
                    StatusCode::INTERNAL_SERVER_ERROR,
                    TEXT,
                    format!("{error}\n"),
                ),
            }
        }
        (&Method::GET | &Method::HEAD, _) => (
            StatusCode::NOT_FOUND,
            TEXT,
            "try /metrics, /healthz, /readyz or /transfers\n".to_owned(),
        ),
        _ => (
            StatusCode::METHOD_NOT_ALLOWED,
            TEXT,
            "GET is all there is\n".to_owned(),
        ),
    };
    let mut response = Response::new(Full::new(Bytes::from(page)));
    *response.status_mut() = status;
    // RFC 9110 §15.5.6: a 405 lists the methods that are allowed.
    if status == StatusCode::METHOD_NOT_ALLOWED {
        let all = HeaderValue::from_static("GET, HEAD");
        response.headers_mut().insert(ALLOW, all);
    }
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    Ok(response)
}

const TEXT: &str = "text/plain; charset=utf-8";

/// A running transfer in JSON.
#[derive(Debug, Serialize)]
struct Row {
    peer: String,
    operation: &'static str,
    /// With everything but printable ASCII escaped.
    file: String,
    blksize: Option<u16>,
    windowsize: Option<u16>,
    bytes: u64,
    total: Option<u64>,
    seconds: f64,
    retransmissions: u64,
}

impl Row {
    fn of(running: &Running) -> Self {
        Self {
            peer: running.peer.to_string(),
            operation: running.operation.name(),
            file: Escaped(&running.filename).to_string(),
            blksize: running.params.map(|params| params.blksize()),
            windowsize: running.params.map(|params| params.windowsize()),
            bytes: running.octets,
            total: running.total,
            seconds: running.elapsed.as_secs_f64(),
            retransmissions: running.retransmissions,
        }
    }
}
