//! The progress of a run while it lasts: a line redrawn on a terminal, or a new line at intervals.

use std::collections::VecDeque;
use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};

use std::time::Instant;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::errand::grouped;
use super::remark;
use crate::load::plan::Pace;
use crate::load::{Group, Live, Load};
use crate::time::Duration;

/// How often the line is redrawn.
const LINE_EVERY: Duration = Duration::from_millis(200);
/// How often a new line is printed where lines cannot be redrawn.
const NEXT_LINE_EVERY: Duration = Duration::from_secs(1);
/// The averaging period of a rate. Counts arrive about as often as the line is redrawn: there may be none
/// between two drawings, and the rate would seem to be zero.
const RATE_OVER: Duration = Duration::from_secs(1);

/// When a run will be over, as far as that is known in advance.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Goal {
    transfers: Option<u64>,
    duration: Option<Duration>,
}

impl Goal {
    /// The goal of all groups of a load together.
    pub(super) fn of(load: &Load) -> Self {
        let transfers = |group: &Group| match group.pace {
            Pace::Storm { clients, .. } => Some(clients.into()),
            _ => group.bounds.transfers,
        };
        let durations = load.groups.iter().map(|group| group.bounds.duration);
        let durations: Option<Vec<_>> = durations.collect();
        Self {
            transfers: load.groups.iter().map(transfers).sum(),
            duration: durations.and_then(|durations| durations.into_iter().max()),
        }
    }
}

/// Shows the progress of a run until it is dropped.
pub(super) struct View {
    bar: ProgressBar,
    /// Dropping it ends the thread.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl View {
    /// A line that is redrawn, if there is a terminal.
    pub(super) fn line(live: &Arc<Live>, goal: Goal) -> Option<Self> {
        let bar = ProgressBar::no_length();
        let moves = io::stderr().is_terminal();
        moves.then(|| Self::new(live, bar, goal, "{spinner} {elapsed} {msg}"))
    }

    /// A bar that is full when this many clients are served; without a terminal, lines.
    pub(super) fn bar(live: &Arc<Live>, clients: u64) -> Self {
        let template = "{bar:20} {pos:>5}/{len} served, {msg}";
        Self::new(live, ProgressBar::new(clients), Goal::default(), template)
    }

    fn new(live: &Arc<Live>, bar: ProgressBar, goal: Goal, template: &str) -> Self {
        live.watch();
        let moves = io::stderr().is_terminal();
        bar.set_draw_target(ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template(template);
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        let (stop, stopped) = mpsc::channel::<()>();
        let (drawn, live) = (bar.clone(), live.clone());
        let every = if moves { LINE_EVERY } else { NEXT_LINE_EVERY };
        let draw = move || {
            let began = Instant::now();
            let mut rate = Rate::default();
            while stopped.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                let passed = began.elapsed();
                let [complete, failed, running, octets] = live.counts();
                let rate = rate.note(passed, octets) / 1e6;
                let [served, failed, running] = [complete, failed, running].map(grouped);
                let under_way = format!("{failed} failed, {running} running, {rate:.1} MB/s");
                if !moves {
                    let seconds = passed.as_secs();
                    remark(format_args!("{seconds:>4} s: {served} served, {under_way}"));
                } else if drawn.length().is_some() {
                    drawn.set_message(under_way);
                    drawn.set_position(complete);
                } else {
                    drawn.set_message(goal.line(&served, &under_way, passed));
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

impl Goal {
    /// The progress after a given time, and what remains.
    fn line(&self, served: &str, under_way: &str, passed: Duration) -> String {
        let mut line = served.to_owned();
        if let Some(transfers) = self.transfers {
            line.push_str(&format!(" of {}", grouped(transfers)));
        }
        line.push_str(&format!(" done, {under_way}"));
        let left = self.duration.map(|all| all.saturating_sub(passed));
        match left.filter(|left| !left.is_zero()) {
            Some(left) => line + &format!(", {:.0} s left", left.as_secs_f64().ceil()),
            None => line,
        }
    }
}

/// Octets per second.
#[derive(Debug)]
struct Rate {
    /// The counts and their times, the oldest first.
    seen: VecDeque<(Duration, u64)>,
}

impl Rate {
    /// Records a count at a given time; returns the rate over the last second.
    fn note(&mut self, passed: Duration, octets: u64) -> f64 {
        self.seen.push_back((passed, octets));
        while let Some(&(second, _)) = self.seen.get(1)
            && second + RATE_OVER <= passed
        {
            self.seen.pop_front();
        }
        let (since, before) = self.seen[0];
        let seconds = (passed - since).as_secs_f64();
        octets.saturating_sub(before) as f64 / seconds.max(1e-9)
    }
}

impl Default for Rate {
    fn default() -> Self {
        Self {
            seen: VecDeque::from([(Duration::ZERO, 0)]),
        }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // The thread only draws; its result does not matter.
            let _ = thread.join();
        }
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: an even flow is shown as even. Method: counts that arrive every 200 ms, drawn every 190 ms.
    #[test]
    fn a_rate_does_not_fall_to_nothing_between_two_counts() {
        let mut rate = Rate::default();
        for drawing in 1..100 {
            let passed = Duration::from_millis(190 * drawing);
            let told = passed.as_millis() as u64 / 200 * 200;
            let rate = rate.note(passed, told * 1000);
            assert!(
                drawing < 6 || (8e5..=1.2e6).contains(&rate),
                "{passed:?}: {rate}"
            );
        }
    }

    #[test]
    fn the_line_says_how_far_it_is_to_the_end() {
        let line = |transfers, duration| {
            let goal = Goal {
                transfers,
                duration,
            };
            goal.line("1,200", "0 failed", Duration::from_millis(8_600))
        };
        assert_eq!(line(None, None), "1,200 done, 0 failed");
        assert_eq!(line(Some(5_000), None), "1,200 of 5,000 done, 0 failed");
        let left = line(None, Some(Duration::from_secs(30)));
        assert_eq!(left, "1,200 done, 0 failed, 22 s left");
        let over = line(None, Some(Duration::from_secs(8)));
        assert_eq!(over, "1,200 done, 0 failed");
    }
}
