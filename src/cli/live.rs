//! How far a run has come, while it runs: a line that moves on a terminal, or a line now and then.

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::errand::grouped;
use super::remark;
use crate::load::Live;
use crate::time::Duration;

/// How often the line is drawn anew.
const LINE_EVERY: Duration = Duration::from_millis(200);
/// How often there is a new line where none can move.
const NEXT_LINE_EVERY: Duration = Duration::from_secs(1);

/// What shows how far a run has come, until it is dropped.
pub(super) struct View {
    bar: ProgressBar,
    /// Dropped, it ends the thread.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl View {
    /// A line that moves, if there is a terminal.
    pub(super) fn line(live: &Arc<Live>) -> Option<Self> {
        io::stderr()
            .is_terminal()
            .then(|| Self::new(live, ProgressBar::no_length(), "{spinner} {elapsed} {msg}"))
    }

    /// A bar that is full when so many are served; without a terminal, lines.
    pub(super) fn bar(live: &Arc<Live>, clients: u64) -> Self {
        let template = "{bar:20} {pos:>5}/{len} served, {msg}";
        Self::new(live, ProgressBar::new(clients), template)
    }

    fn new(live: &Arc<Live>, bar: ProgressBar, template: &str) -> Self {
        live.watch();
        let moves = io::stderr().is_terminal();
        bar.set_draw_target(ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template(template);
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        let (stop, stopped) = mpsc::channel::<()>();
        let (drawn, live) = (bar.clone(), live.clone());
        let every = if moves { LINE_EVERY } else { NEXT_LINE_EVERY };
        let draw = move || {
            let mut before = 0;
            let mut passed = Duration::ZERO;
            while stopped.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                passed += every;
                let [complete, failed, running, octets] = live.counts();
                let rate = octets.wrapping_sub(before) as f64 / every.as_secs_f64() / 1e6;
                before = octets;
                let [served, failed, running] = [complete, failed, running].map(grouped);
                let under_way = format!("{failed} failed, {running} running, {rate:.1} MB/s");
                if !moves {
                    let seconds = passed.as_secs();
                    remark(format_args!("{seconds:>4} s: {served} served, {under_way}"));
                } else if drawn.length().is_some() {
                    drawn.set_message(under_way);
                    drawn.set_position(complete);
                } else {
                    drawn.set_message(format!("{served} done, {under_way}"));
                    drawn.tick();
                }
            }
        };
        Self {
            bar,
            stop: Some(stop),
            thread: thread::Builder::new().spawn(draw).ok(),
        }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // It only draws; there is nothing to be told of its end.
            let _ = thread.join();
        }
        self.bar.finish_and_clear();
    }
}
