//! `top`: a live view of a running server, updated once a second from its admin side.

mod sample;
mod screen;

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustix::termios::tcgetwinsize;
use tokio::net::TcpStream;
use tokio::time::{sleep_until, timeout};

use super::Trouble;
use super::args::Top;
use sample::Sample;
use screen::{Size, harmless};

/// How long the server may take to answer; the admin side gives up on a busy worker sooner.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Octets of a page at most: more than the longest list of transfers, so that another program at that address
/// cannot fill the memory.
const PAGE_OCTETS_MAX: usize = 64 << 20;

/// The screen size if the output is not a terminal, or its size is unknown.
const SIZE_DEFAULT: Size = Size {
    rows: 24,
    columns: 100,
};

/// Moves the cursor to the first column of the first line, and clears everything after it.
const CLEAR: &str = "\x1b[H\x1b[J";

pub(super) fn run(arguments: &Top) -> Result<(), Trouble> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Trouble::work)?;
    runtime.block_on(async {
        let watched = watch(arguments);
        tokio::select! {
            done = watched => done,
            // Ctrl-C ends the view normally.
            _ = tokio::signal::ctrl_c() => Ok(()),
        }
    })
}

/// Draws the screen repeatedly; returns only on failure, or if one screen is enough.
async fn watch(arguments: &Top) -> Result<(), Trouble> {
    let server = arguments.server.as_str();
    let interval = arguments.interval;
    let live = io::stdout().is_terminal() && !arguments.once;
    let mut before = fetch(server).await.map_err(Trouble::Work)?;
    let mut due = Instant::now();
    loop {
        due += interval;
        sleep_until(due.into()).await;
        let now = fetch(server).await;
        let text = match &now {
            Ok(now) => screen::draw(server, &before, now, size()),
            // The server may be restarting, or too busy for a moment.
            Err(why) if live => format!("{why}\n"),
            Err(why) => return Err(Trouble::Work(why.clone())),
        };
        let frame = if live { format!("{CLEAR}{text}") } else { text };
        let mut output = io::stdout().lock();
        let written = output
            .write_all(frame.as_bytes())
            .and_then(|()| output.flush());
        match written {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            written => written.map_err(|error| Trouble::Work(format!("cannot print: {error}")))?,
        }
        if arguments.once {
            return Ok(());
        }
        if let Ok(now) = now {
            before = now;
        }
        due = due.max(Instant::now());
    }
}

fn size() -> Size {
    tcgetwinsize(io::stdout()).map_or(SIZE_DEFAULT, |size| Size {
        rows: size.ws_row.into(),
        columns: size.ws_col.into(),
    })
}

/// Fetches a sample from the server.
async fn fetch(server: &str) -> Result<Sample, String> {
    let pages = async {
        Ok((
            get(server, "/metrics").await?,
            get(server, "/transfers").await?,
        ))
    };
    let taken = Instant::now();
    let pages: Result<(String, String), String> = timeout(ANSWER_TIMEOUT, pages)
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {ANSWER_TIMEOUT:?}")));
    let (metrics, transfers) = pages
        .map_err(|why| format!("{server} (the address that serve --admin was given): {why}"))?;
    Sample::read(taken, &metrics, &transfers).map_err(|why| format!("{server}: {why}"))
}

/// Fetches one page over a new connection.
async fn get(server: &str, path: &str) -> Result<String, String> {
    let told = |error: hyper::Error| error.to_string();
    let stream = TcpStream::connect(server)
        .await
        .map_err(|error| error.to_string())?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(told)?;
    let request = Request::get(path)
        .header(HOST, server)
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let answer = async move {
        let response = sender.send_request(request).await.map_err(told)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), PAGE_OCTETS_MAX).collect();
        let body = body.await.map_err(|error| error.to_string())?.to_bytes();
        // Without a sender the connection ends.
        drop(sender);
        Ok::<_, String>((status, String::from_utf8_lossy(&body).into_owned()))
    };
    let (answer, _) = tokio::join!(answer, connection);
    match answer? {
        (StatusCode::OK, page) => Ok(page),
        (status, page) => {
            Err(harmless(&format!("{path}: {status}: {}", page.trim_end())).collect())
        }
    }
}
