//! The common part of `get` and `put`: the file's location, a progress bar, and a final line.

use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::Arc;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::args::Terms;
use super::url::{self, Server, Url};
use super::{Trouble, end_at_once, remark};
use crate::client::{Job, LocalFile, Offer, Progress, Stop, Summary, Transfer, Turn, resolve};
use crate::control;
pub(super) use crate::load::report::words::{counted, grouped};
use crate::shard::Operation;
use crate::time::Duration;
use crate::wire::Mode;

/// How often the bar is redrawn while there is no progress.
const BAR_TICK: Duration = Duration::from_millis(200);

/// The remote location of a file.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) server: Server,
    /// The name on the server; empty if none was typed.
    pub(super) name: Vec<u8>,
    mode: Option<Mode>,
}

/// Reads `URL`, or `HOST` and `NAME`.
pub(super) fn place(server: &OsStr, name: Option<OsString>) -> Result<Place, Trouble> {
    match (url::url(server.as_bytes()), name) {
        (Some(_), Some(_)) => Err(Trouble::arguments(
            "the URL names the file already; give a URL, or HOST and NAME",
        )),
        (Some(url), None) => {
            let Url { server, name, mode } = url.map_err(Trouble::Arguments)?;
            Ok(Place { server, name, mode })
        }
        (None, name) => Ok(Place {
            server: url::server(server.as_bytes()).map_err(Trouble::Arguments)?,
            name: name.map(OsString::into_vec).unwrap_or_default(),
            mode: None,
        }),
    }
}

/// Transfers the file; the last line shows the result.
pub(super) fn run(
    operation: Operation,
    place: Place,
    local: LocalFile,
    terms: &Terms,
) -> Result<(), Trouble> {
    let Place { server, name, mode } = place;
    if terms.netascii && mode == Some(Mode::Octet) {
        return Err(Trouble::arguments(
            "the URL says mode=octet, and --netascii the opposite",
        ));
    }
    let mode = match mode {
        _ if terms.netascii => Mode::Netascii,
        mode => mode.unwrap_or(Mode::Octet),
    };
    let servers = resolve(&server.host, server.port).map_err(Trouble::work)?;
    let stop = stop_on_interrupt()?;
    let job = Job {
        servers,
        operation,
        remote: name,
        local,
        mode,
        offer: offer(terms),
    };
    let bar = Bar::new(terms.quiet);
    let (summary, transfer) =
        transfer(job, stop, &bar, terms.quiet).inspect_err(|_| bar.clear())?;
    bar.clear();
    if !terms.quiet {
        remark(line(operation, &summary));
    }
    transfer.linger();
    Ok(())
}

/// Stops the transfer at the first signal, and ends the process at the second: the transfer may be
/// blocked by a stalled disk or reader.
fn stop_on_interrupt() -> Result<Arc<Stop>, Trouble> {
    let stop = Arc::new(Stop::default());
    let stopped = stop.clone();
    let mut again = false;
    let action = move || {
        if std::mem::replace(&mut again, true) {
            end_at_once();
        }
        stopped.stop();
    };
    control::on_interrupt(action)
        .map_err(|error| Trouble::Work(format!("cannot catch signals: {error}")))?;
    Ok(stop)
}

fn transfer(
    job: Job,
    stop: Arc<Stop>,
    bar: &Bar,
    quiet: bool,
) -> Result<(Summary, Transfer), Trouble> {
    let mut transfer = Transfer::start(job, stop).map_err(Trouble::work)?;
    loop {
        match transfer.turn().map_err(Trouble::work)? {
            Turn::Running(progress) => bar.show(progress),
            Turn::Note(note) if !quiet => bar.above(&format!("bootstorm: {note}")),
            Turn::Note(_) => {}
            Turn::Done(summary) => return Ok((summary, transfer)),
        }
    }
}

const fn offer(terms: &Terms) -> Offer {
    if terms.no_options {
        return Offer::Nothing;
    }
    Offer::Options {
        blksize: terms.blksize,
        windowsize: terms.windowsize,
        timeout: terms.timeout,
    }
}

/// A progress bar, if the output is visible.
struct Bar(Option<ProgressBar>);

impl Bar {
    fn new(quiet: bool) -> Self {
        if quiet || !io::stderr().is_terminal() {
            return Self(None);
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()).with_style(
            style("{spinner} {decimal_bytes} {decimal_bytes_per_sec} {elapsed}"),
        );
        bar.enable_steady_tick(BAR_TICK);
        Self(Some(bar))
    }

    fn show(&self, progress: Progress) {
        let Some(bar) = &self.0 else { return };
        if let (Some(total), None) = (progress.total, bar.length()) {
            bar.set_length(total);
            bar.set_style(style(
                "{wide_bar} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec}, {eta} left",
            ));
        }
        bar.set_position(progress.octets);
    }

    /// Prints a permanent line above the bar.
    fn above(&self, line: &str) {
        match &self.0 {
            Some(bar) => bar.suspend(|| remark(line)),
            None => remark(line),
        }
    }

    fn clear(&self) {
        self.0.iter().for_each(ProgressBar::finish_and_clear);
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// Describes a complete transfer in one line.
fn line(operation: Operation, summary: &Summary) -> String {
    let verb = match operation {
        Operation::Read => "got",
        Operation::Write => "put",
    };
    let seconds = summary.elapsed.as_secs_f64();
    // A transfer of zero length has no rate.
    let rate = summary.octets as f64 / seconds.max(1e-9) / 1e6;
    format!(
        "{verb} {} in {seconds:.3} s, {rate:.1} MB/s ({} of {}, window {}, {})",
        counted(summary.octets, "octet"),
        counted(summary.blocks, "block"),
        summary.params.blksize(),
        summary.params.windowsize(),
        counted(summary.retransmissions, "retransmission"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::negotiate::Params;

    #[test]
    fn the_line_of_a_complete_transfer() {
        let summary = Summary {
            server: "192.0.2.1:69".parse().unwrap(),
            octets: 12_345_678,
            blocks: 24_113,
            retransmissions: 0,
            elapsed: Duration::from_millis(1234),
            params: Params::RFC1350,
        };
        assert_eq!(
            line(Operation::Read, &summary),
            "got 12,345,678 octets in 1.234 s, 10.0 MB/s (24,113 blocks of 512, window 1, 0 retransmissions)"
        );
        let single = Summary {
            octets: 1,
            blocks: 1,
            retransmissions: 1,
            elapsed: Duration::from_secs(1),
            ..summary
        };
        assert_eq!(
            line(Operation::Write, &single),
            "put 1 octet in 1.000 s, 0.0 MB/s (1 block of 512, window 1, 1 retransmission)"
        );
    }

    #[test]
    fn a_url_or_a_host_and_a_name() {
        let parts = |server: &str, name: Option<&str>| {
            place(OsStr::new(server), name.map(OsString::from))
                .map(|place| (place.server.host, place.server.port, place.name))
        };
        let expected = ("h".to_owned(), 7, b"a/b".to_vec());
        assert_eq!(parts("tftp://h:7/a/b", None).ok(), Some(expected.clone()));
        assert_eq!(parts("h:7", Some("a/b")).ok(), Some(expected));
        assert!(parts("tftp://h/a", Some("b")).is_err());
        assert!(parts("http://h/a", None).is_err());
    }
}
