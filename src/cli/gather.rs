//! Buffers log lines on their way out: single lines are written immediately, bursts in one write.
//!
//! Otherwise a server that ends ten thousand transfers per second would make as many system calls for its
//! log. A reader of the log may also stop: a full pipe then blocks only the thread that writes.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::MakeWriter;

/// How long a line may wait for others if the last write was no longer ago than that.
const PAUSE: Duration = Duration::from_millis(5);
/// Octets written at once: as much as a pipe accepts.
const GATHERED_MAX: usize = 64 << 10;
/// Octets buffered while the log is not read, beyond which lines are lost: some ten thousand lines.
const WAITING_MAX: usize = 4 << 20;
/// How long the program waits at its end for a reader that does not accept its last lines.
const READER_PATIENCE: Duration = Duration::from_secs(1);

/// Buffers lines for an output that may be slow. Clones share the buffer.
#[derive(Debug)]
pub(super) struct Gather {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Notified when the first lines are buffered, and when the last handle is dropped.
    waiting: Condvar,
    /// Notified when something was written.
    written: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<u8>,
    /// Lines lost for lack of room.
    lost: u64,
    /// Whether the thread is writing lines.
    writing: bool,
    closed: bool,
}

impl Gather {
    /// Buffers lines for `out`, to which a thread writes.
    ///
    /// # Errors
    /// If no thread can be started.
    pub(super) fn new<W: Write + Send + 'static>(out: W) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let writer = shared.clone();
        thread::Builder::new()
            .name("log".into())
            .spawn(move || writer.write_what_waits(out))?;
        Ok(Self { shared })
    }

    /// Waits until everything is written, or the reader accepts nothing more.
    pub(super) fn flush(&self) {
        let mut state = self.shared.lock();
        while state.writing || !state.lines.is_empty() {
            let (next, waited) = self
                .shared
                .written
                .wait_timeout(state, READER_PATIENCE)
                .unwrap_or_else(PoisonError::into_inner);
            if waited.timed_out() {
                return;
            }
            state = next;
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_what_waits(&self, mut out: impl Write) {
        let mut written_at: Option<Instant> = None;
        while self.wait_for_lines() {
            if let Some(at) = written_at {
                thread::sleep(PAUSE.saturating_sub(at.elapsed()));
            }
            let mut state = self.lock();
            let lines = std::mem::take(&mut state.lines);
            let lost = std::mem::take(&mut state.lost);
            state.writing = true;
            drop(state);
            for part in lines.chunks(GATHERED_MAX) {
                // A log that cannot be written is no reason to stop.
                let _ = out.write_all(part);
                self.written.notify_all();
            }
            if lost > 0 {
                tracing::warn!(lines = lost, "nobody read the log, and lines were lost");
            }
            self.lock().writing = false;
            self.written.notify_all();
            written_at = Some(Instant::now());
        }
    }

    /// Returns whether there are lines; false once the last handle is dropped.
    fn wait_for_lines(&self) -> bool {
        let state = self
            .waiting
            .wait_while(self.lock(), |state| state.lines.is_empty() && !state.closed)
            .unwrap_or_else(PoisonError::into_inner);
        !state.lines.is_empty()
    }
}

impl Write for &Gather {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut state = self.shared.lock();
        let first = state.lines.is_empty();
        if state.lines.len() + line.len() > WAITING_MAX {
            state.lost += 1;
        } else {
            state.lines.extend_from_slice(line);
        }
        drop(state);
        if first {
            self.shared.waiting.notify_one();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Gather::flush(self);
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Gather {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

impl Clone for Gather {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}

impl Drop for Gather {
    fn drop(&mut self) {
        // The thread has the other reference.
        if Arc::strong_count(&self.shared) <= 2 {
            self.shared.lock().closed = true;
            self.shared.waiting.notify_one();
        }
    }
}

/// On drop, writes the buffered lines, if the log exists by then.
#[derive(Debug)]
pub(super) struct WrittenAtLast<'a>(pub(super) &'a OnceLock<Gather>);

impl Drop for WrittenAtLast<'_> {
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

    /// Reports each write.
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
        (&gather).write_all(b"first\n").expect("taken");
        let first = writes.recv().expect("it does not wait for others");
        assert_eq!(first, b"first\n");
        let expected: String = (0..20_000).map(line).collect();
        for number in 0..20_000 {
            (&gather).write_all(line(number).as_bytes()).expect("taken");
        }
        gather.flush();
        let writes: Vec<Vec<u8>> = writes.try_iter().collect();
        assert!(writes.len() < 2_000, "{} writes", writes.len());
        assert!(writes.concat() == expected.as_bytes());
    }

    /// Goal: a log that is not read blocks no caller, takes bounded memory, and loses whole lines only.
    /// Method: an output that accepts a write only when told to, and more lines than fit in the buffer.
    #[test]
    fn a_reader_who_stops_holds_nobody_up() {
        struct Stopped(mpsc::Receiver<()>, Told);

        impl Write for Stopped {
            fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
                // If the other end is gone, the write may proceed.
                let _ = self.0.recv();
                self.1.write(octets)
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }

        let (go_on, stopped) = mpsc::channel();
        let (sender, writes) = mpsc::channel();
        let gather = Gather::new(Stopped(stopped, Told(sender))).expect("a thread");
        let long = [&[b'x'; 999][..], b"\n"].concat();
        let lines = 3 * WAITING_MAX / long.len();
        for _ in 0..lines {
            (&gather).write_all(&long).expect("taken");
        }
        assert!(gather.shared.lock().lines.len() <= WAITING_MAX);
        drop(go_on);
        drop(gather);
        let written = writes.iter().collect::<Vec<_>>().concat();
        assert!(written.chunks(long.len()).all(|line| line == long));
        let taken = written.len() / long.len();
        assert!((1..lines).contains(&taken), "{taken} of {lines}");
    }

    #[test]
    fn what_waits_is_written_although_nothing_follows() {
        let (sender, writes) = mpsc::channel();
        let gather = Gather::new(Told(sender)).expect("a thread");
        (&gather).write_all(b"one\n").expect("taken");
        (&gather).write_all(b"two\n").expect("taken");
        let written = writes.recv().expect("a write");
        let rest = || writes.recv().expect("another");
        match written.as_slice() {
            b"one\n" => assert_eq!(rest(), b"two\n"),
            both => assert_eq!(both, b"one\ntwo\n"),
        }
        // The thread ends with the last handle, and drops its output.
        drop(gather);
        assert!(writes.recv().is_err());
    }

    /// Goal: the last lines are written even if the last handle is dropped before the thread has seen
    /// them. Method: lines in such quick succession that the second is always buffered.
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

    /// Goal: the last lines are written even if the work panics. Method: so many repetitions that the
    /// thread cannot have written the second line each time.
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
