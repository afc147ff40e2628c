//! Log lines on their way out: each at once while they are few, many by one write when they pour.
//!
//! A server that ends ten thousand transfers a second would else make as many system calls for its log.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::MakeWriter;

/// How long a line may wait for others if the last write was no longer ago than that.
const PAUSE: Duration = Duration::from_millis(5);
/// Octets that are written without waiting for more: what a pipe takes at once.
const GATHERED_MAX: usize = 64 << 10;

/// Gathers lines for `out`. Clones share what is gathered.
#[derive(Debug)]
pub(super) struct Gather<W> {
    shared: Arc<Shared<W>>,
}

#[derive(Debug)]
struct Shared<W> {
    state: Mutex<State<W>>,
    /// Rung when lines begin to wait, and when the last handle is gone.
    waiting: Condvar,
}

#[derive(Debug)]
struct State<W> {
    out: W,
    lines: Vec<u8>,
    written_at: Option<Instant>,
    closed: bool,
}

impl<W: Write + Send + 'static> Gather<W> {
    /// Gathers for `out`, and has a thread see to it that nothing waits for longer than a blink.
    ///
    /// # Errors
    /// If no thread can be started.
    pub(super) fn new(out: W) -> io::Result<Self> {
        let state = State {
            out,
            lines: Vec::new(),
            written_at: None,
            closed: false,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            waiting: Condvar::new(),
        });
        let writer = shared.clone();
        thread::Builder::new()
            .name("log".into())
            .spawn(move || writer.write_what_waits())?;
        Ok(Self { shared })
    }
}

impl<W: Write> Gather<W> {
    /// Writes what waits.
    pub(super) fn flush(&self) {
        self.shared.lock().write_out();
    }
}

impl<W: Write> Shared<W> {
    fn lock(&self) -> MutexGuard<'_, State<W>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_what_waits(&self) {
        let mut state = self.lock();
        while !state.closed {
            state = if state.lines.is_empty() {
                self.waiting
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner)
            } else {
                drop(state);
                thread::sleep(PAUSE);
                let mut state = self.lock();
                state.write_out();
                state
            };
        }
        state.write_out();
    }
}

impl<W: Write> State<W> {
    fn write_out(&mut self) {
        if !self.lines.is_empty() {
            // A log that nobody takes is no reason to stop.
            let _ = self.out.write_all(&self.lines);
            self.lines.clear();
            self.written_at = Some(Instant::now());
        }
    }
}

impl<W: Write> Write for &Gather<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut state = self.shared.lock();
        let first = state.lines.is_empty();
        state.lines.extend_from_slice(line);
        let quiet = first && state.written_at.is_none_or(|at| at.elapsed() >= PAUSE);
        if quiet || state.lines.len() >= GATHERED_MAX {
            state.write_out();
        } else if first {
            self.shared.waiting.notify_one();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Gather::flush(self);
        Ok(())
    }
}

impl<'a, W: Write + 'a> MakeWriter<'a> for Gather<W> {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

impl<W> Clone for Gather<W> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}

impl<W> Drop for Gather<W> {
    fn drop(&mut self) {
        // The thread has the other one.
        if Arc::strong_count(&self.shared) <= 2 {
            let mut state = self
                .shared
                .state
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            state.closed = true;
            self.shared.waiting.notify_one();
        }
    }
}

/// Writes what waits when it goes, if there is a log by then.
#[derive(Debug)]
pub(super) struct WrittenAtLast<'a, W: Write>(pub(super) &'a OnceLock<Gather<W>>);

impl<W: Write> Drop for WrittenAtLast<'_, W> {
    fn drop(&mut self) {
        if let Some(lines) = self.0.get() {
            lines.flush();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
    use std::sync::mpsc::{self, Sender};

    use super::*;

    /// Tells each write.
    struct Told(Sender<Vec<u8>>);

    impl Write for Told {
        fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
            self.0.send(octets.to_vec()).map_err(io::Error::other)?;
            Ok(octets.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn line(number: u32) -> String {
        format!("line {number}\n")
    }

    #[test]
    fn a_flood_of_lines_arrives_whole_and_in_order_by_few_writes() {
        let (sender, writes) = mpsc::channel();
        let gather = Gather::new(Told(sender)).expect("a thread");
        let expected: String = (0..20_000).map(line).collect();
        for number in 0..20_000 {
            (&gather).write_all(line(number).as_bytes()).expect("taken");
        }
        gather.flush();
        let writes: Vec<Vec<u8>> = writes.try_iter().collect();
        assert!(writes.len() < 2_000, "{} writes", writes.len());
        assert_eq!(writes[0], b"line 0\n", "the first does not wait");
        assert!(writes.concat() == expected.as_bytes());
    }

    #[test]
    fn what_waits_is_written_although_nothing_follows() {
        let (sender, writes) = mpsc::channel();
        let gather = Gather::new(Told(sender)).expect("a thread");
        (&gather).write_all(b"one\n").expect("taken");
        (&gather).write_all(b"two\n").expect("taken");
        assert_eq!(writes.recv().expect("a write"), b"one\n");
        assert_eq!(writes.recv().expect("a write"), b"two\n");
        // The thread ends with the last handle, and lets go of what it wrote to.
        drop(gather);
        assert!(writes.recv().is_err());
    }

    /// Goal: the last lines are written although the last handle goes before the thread has seen them.
    /// Method: lines that follow each other so closely that the second always waits.
    #[test]
    fn what_waits_is_written_when_the_last_handle_goes() {
        for _ in 0..100 {
            let (sender, writes) = mpsc::channel();
            let gather = Gather::new(Told(sender)).expect("a thread");
            (&gather).write_all(b"one\n").expect("taken");
            (&gather).write_all(b"two\n").expect("taken");
            drop(gather);
            let written: Vec<Vec<u8>> = writes.iter().collect();
            assert_eq!(written.concat(), b"one\ntwo\n");
        }
    }
    /// Goal: the last lines are written although the work panics. Method: so often that the thread cannot
    /// have written the second line each time.
    #[test]
    fn what_waits_is_written_although_the_work_panics() {
        for _ in 0..100 {
            let (sender, writes) = mpsc::channel();
            let log = OnceLock::new();
            let panicked = catch_unwind(AssertUnwindSafe(|| {
                let _lines = WrittenAtLast(&log);
                let mut gather = log.get_or_init(|| Gather::new(Told(sender)).expect("a thread"));
                gather.write_all(b"one\n").expect("taken");
                gather.write_all(b"two\n").expect("taken");
                resume_unwind(Box::new("nobody need be told"));
            }));
            assert!(panicked.is_err());
            let written: Vec<Vec<u8>> = writes.try_iter().collect();
            assert_eq!(written.concat(), b"one\ntwo\n");
        }
    }
}
