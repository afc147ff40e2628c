//! What the benchmarks share: which core does what, the load that is put on a server, and medians.

#![allow(dead_code)] // Each benchmark is a crate of its own and uses only a part.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bootstorm::load::profile::Profile;
use bootstorm::load::{File, Group, Load};
use bootstorm::proto::negotiate::Wanted;
use bootstorm::shard::Expected;
use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

/// The core that whoever answers has to itself.
pub(crate) const SERVER_CORE: usize = 0;
/// The core of those who ask.
pub(crate) const GENERATOR_CORE: usize = 1;

/// Keeps the calling thread, and those that it starts from now on, on one core.
pub(crate) fn pin(core: usize) -> io::Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core);
    sched_setaffinity(None, &cores)
        .map_err(|error| io::Error::other(format!("cannot use core {core} alone: {error}")))
}

/// What the calling thread has used.
pub(crate) fn thread_processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// What it takes the calling thread to do something so many times, whatever else the machine does.
pub(crate) fn time_of(times: u64, mut operation: impl FnMut()) -> Duration {
    let before = thread_processor_time();
    (0..times).for_each(|_| operation());
    thread_processor_time() - before
}

/// What clients agree on with a server: block size and window size, or no options at all.
pub(crate) type Terms = Option<(u16, u16)>;

/// Clients that read the file `name` so many times between them, each beginning anew when it is done.
pub(crate) fn reading(
    server: SocketAddr,
    name: &str,
    terms: Terms,
    clients: u32,
    transfers: u64,
) -> Load {
    let wanted = terms.map_or_else(Wanted::default, |(blksize, windowsize)| Wanted {
        blksize: Some(blksize),
        windowsize: Some(windowsize).filter(|&blocks| blocks > 1),
        timeout: None,
        tsize: Some(0),
    });
    let file = File {
        name: name.as_bytes().to_vec(),
        weight: 1,
        expected: Arc::new(Expected::Anything),
    };
    let mut group = Group::new(vec![file], clients);
    group.bounds.transfers = Some(transfers);
    group.profiles = vec![(
        Profile {
            wanted,
            ..Profile::DEFAULT
        },
        1,
    )];
    // Bursts are taken as by a network card with receive offload; without it, loopback has the server cut
    // what such a card would cut.
    Load::new(server, vec![group])
}

/// The same figure from several rounds: shown as the median and, in brackets, the least and the most.
#[derive(Debug, Clone, Default)]
pub(crate) struct Spread(Vec<f64>);

impl Spread {
    pub(crate) fn median(&self) -> f64 {
        let (values, middle) = (&self.0, self.0.len() / 2);
        match values.len() {
            0 => f64::NAN,
            odd if odd % 2 == 1 => values[middle],
            _ => f64::midpoint(values[middle - 1], values[middle]),
        }
    }
}

impl FromIterator<f64> for Spread {
    fn from_iter<T: IntoIterator<Item = f64>>(values: T) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        Self(values)
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(2);
        let text = match self.0.as_slice() {
            [] => "–".to_owned(),
            [only] => format!("{only:.digits$}"),
            [least, .., most] => {
                format!(
                    "{:.digits$} ({least:.digits$}–{most:.digits$})",
                    self.median()
                )
            }
        };
        f.pad_integral(true, "", &text)
    }
}
