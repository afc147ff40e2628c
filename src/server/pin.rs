//! Pins each worker to its own processor: caches stay warm, and no two workers share a processor.

use std::fmt;
use std::io;

use crate::processors;

/// The processors to pin workers to, in the order of the workers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Processors(Vec<usize>);

impl Processors {
    /// Chooses one processor for each of `workers`, among those that this process may run on. Two workers on
    /// one processor would only compete for it, so that is refused.
    ///
    /// # Errors
    /// If there are too few, or the system does not report them; the text says what to do.
    pub(super) fn of(workers: usize) -> io::Result<Self> {
        let allowed = processors::allowed().map_err(cannot)?;
        Self::among(allowed, workers)
    }

    fn among(mut allowed: Vec<usize>, workers: usize) -> io::Result<Self> {
        let count = allowed.len();
        if workers > count {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "cannot pin {workers} workers: this process may run on {count} processors; take that many workers or fewer, or do not pin them"
                ),
            ));
        }
        allowed.truncate(workers);
        Ok(Self(allowed))
    }

    /// The processor of this worker, counted from 0.
    pub(super) fn get(&self, worker: usize) -> Option<usize> {
        self.0.get(worker).copied()
    }
}

/// The processor numbers, as in `0,1`.
impl fmt::Display for Processors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().enumerate().try_for_each(|(place, number)| {
            let comma = if place == 0 { "" } else { "," };
            write!(f, "{comma}{number}")
        })
    }
}

/// Pins the calling thread to a processor.
///
/// # Errors
/// If the system refuses, for example because the processor has been taken away meanwhile.
pub(super) fn stay_on(processor: usize) -> io::Result<()> {
    processors::stay_on(&[processor]).map_err(|error| {
        let text = format!("cannot pin a worker to processor {processor}: {error}");
        io::Error::new(error.kind(), text)
    })
}

fn cannot(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot pin workers: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_worker_has_a_processor_of_its_own() {
        let processors = Processors::among(vec![2, 3, 7], 2).expect("enough");
        assert_eq!((processors.get(0), processors.get(1)), (Some(2), Some(3)));
        assert_eq!(processors.get(2), None);
        assert_eq!(processors.to_string(), "2,3");
    }

    #[test]
    fn too_few_processors_are_refused_with_advice() {
        let error = Processors::among(vec![4], 2).expect_err("one for two");
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        let text = error.to_string();
        assert!(
            text.contains("2 workers") && text.contains("or fewer"),
            "{text}"
        );
    }
}
