//! Files in memory, with switchable faults: for the simulator and for tests.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use super::{
    Backend, Identity, OpenError, Opened, Patience, ReadFailure, Refusal, Sink, Source, Writes,
};
use crate::sync::{Mutex, MutexGuard};

/// Files by name. Clones are handles to the same files.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<Vec<u8>, File>,
    uploads: BTreeMap<Vec<u8>, Vec<u8>>,
    writes: Writes,
    faults: Faults,
    files_made: u64,
    reads: u64,
}

#[derive(Debug, Clone)]
struct File {
    contents: Contents,
    inode: u64,
}

/// The contents of a file.
#[derive(Debug, Clone)]
pub enum Contents {
    /// These octets.
    Octets(Arc<[u8]>),
    /// The octets that [`pattern_octet`] gives: a file of any size takes no memory.
    Pattern {
        /// Selects the pattern.
        seed: u64,
        /// Length in octets.
        len: u64,
    },
}

/// Faults to simulate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Faults {
    /// Every read fails with this, also of files already open.
    pub read: Option<ReadFailure>,
    /// Every read returns less than requested, as from a truncated file.
    pub short_reads: bool,
    /// The disk is full once an upload is longer than this.
    pub disk_octets: Option<u64>,
    /// Nothing can be opened without blocking.
    pub open_would_block: bool,
    /// Nothing can be read without blocking.
    pub read_would_block: bool,
    /// Every new upload is refused with this.
    pub create: Option<Refusal>,
}

impl Memory {
    /// No files yet; `writes` says which uploads are allowed.
    #[must_use]
    pub fn new(writes: Writes) -> Self {
        let memory = Self::default();
        memory.lock().writes = writes;
        memory
    }

    /// Adds a file, replacing one of the same name; readers that have that open still see the old contents.
    pub fn insert(&self, name: &[u8], contents: Contents) {
        let mut state = self.lock();
        state.files_made += 1;
        let inode = state.files_made;
        state
            .files
            .insert(plain(name).to_vec(), File { contents, inode });
    }

    /// Removes a file.
    pub fn remove(&self, name: &[u8]) {
        self.lock().files.remove(plain(name));
    }

    /// Sets the faults from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.lock().faults = faults;
    }

    /// The published uploads.
    #[must_use]
    pub fn uploads(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        self.lock().uploads.clone()
    }

    /// The number of reads so far.
    #[must_use]
    pub fn reads(&self) -> u64 {
        self.lock().reads
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Contents {
    /// Octets in the file.
    #[must_use]
    #[allow(clippy::len_without_is_empty)] // Not a collection: a length is all that anybody asks for.
    pub fn len(&self) -> u64 {
        match self {
            Self::Octets(octets) => octets.len() as u64,
            Self::Pattern { len, .. } => *len,
        }
    }

    /// Fills `buffer` from `offset` on; returns how many octets there were.
    fn read(&self, buffer: &mut [u8], offset: u64) -> usize {
        let rest = self.len().saturating_sub(offset);
        let count = usize::try_from(rest).map_or(buffer.len(), |rest| rest.min(buffer.len()));
        let buffer = &mut buffer[..count];
        match self {
            // An offset past the end leaves nothing to fill.
            Self::Octets(octets) => {
                buffer.copy_from_slice(&octets[(octets.len() as u64 - rest) as usize..][..count])
            }
            Self::Pattern { seed, .. } => pattern_fill(*seed, offset, buffer),
        }
        count
    }
}

/// The octet at `offset` of the pattern `seed`: any range can be checked without the rest.
#[must_use]
pub const fn pattern_octet(seed: u64, offset: u64) -> u8 {
    pattern_octets(seed, offset / 8)[(offset % 8) as usize]
}

/// Writes the pattern `seed` from `offset` on.
pub fn pattern_fill(seed: u64, offset: u64, buffer: &mut [u8]) {
    let mut place = offset;
    let mut rest = buffer;
    while !rest.is_empty() {
        let octets = pattern_octets(seed, place / 8);
        let octets = &octets[(place % 8) as usize..];
        let count = octets.len().min(rest.len());
        let (front, back) = rest.split_at_mut(count);
        front.copy_from_slice(&octets[..count]);
        (place, rest) = (place + count as u64, back);
    }
}

/// Whether `octets` equal the pattern `seed` from `offset` on.
#[must_use]
pub fn pattern_holds(seed: u64, offset: u64, octets: &[u8]) -> bool {
    // Octets up to the next whole word, then whole words, then the rest.
    let head = ((8 - offset % 8) % 8).min(octets.len() as u64) as usize;
    let (head, rest) = octets.split_at(head);
    let (words, tail) = rest.as_chunks::<8>();
    let first = (offset + head.len() as u64) / 8;
    let mut word = seed.wrapping_add(first.wrapping_mul(PATTERN_STEP));
    // No early exit: the data is nearly always right, and the loop is faster without one.
    let mut differences = 0;
    for octets in words {
        differences |= u64::from_ne_bytes(*octets) ^ u64::from_ne_bytes(pattern_word(word));
        word = word.wrapping_add(PATTERN_STEP);
    }
    let holds = |offset: u64, octets: &[u8]| {
        (offset..)
            .zip(octets)
            .all(|(offset, &octet)| octet == pattern_octet(seed, offset))
    };
    differences == 0
        && holds(offset, head)
        && holds(offset + (octets.len() - tail.len()) as u64, tail)
}

/// Eight octets of a pattern at once.
const fn pattern_octets(seed: u64, index: u64) -> [u8; 8] {
    pattern_word(seed.wrapping_add(index.wrapping_mul(PATTERN_STEP)))
}

/// Step between words of a pattern, before [`pattern_word`]: odd, so that each of 2^64 positions has a word
/// of its own, and not in a simple ratio to anything (2^64 divided by the golden ratio).
const PATTERN_STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// The octets of a word: only sums and shifts, of which processors do several at a time, because
/// verification should cost little.
const fn pattern_word(word: u64) -> [u8; 8] {
    (word ^ (word >> 32)).to_le_bytes()
}

impl Backend for Memory {
    fn open(&self, name: &[u8], patience: Patience) -> Result<Opened, OpenError> {
        let state = self.lock();
        if patience == Patience::Now && state.faults.open_would_block {
            return Err(OpenError::WouldBlock);
        }
        let File { contents, inode } = state
            .files
            .get(plain(name))
            .cloned()
            .ok_or(Refusal::NotFound)?;
        let len = contents.len();
        let source = Box::new(Reader {
            memory: self.clone(),
            contents,
        });
        Ok(Opened {
            source,
            len,
            identity: Identity {
                device: 0,
                inode,
                len,
                modified: 0,
                changed: 0,
            },
        })
    }

    fn create(&self, name: &[u8], announced: Option<u64>) -> Result<Box<dyn Sink>, Refusal> {
        let state = self.lock();
        if let Some(refusal) = state.faults.create {
            return Err(refusal);
        }
        let name = plain(name);
        let exists = state.files.contains_key(name) || state.uploads.contains_key(name);
        match state.writes {
            Writes::Off => return Err(Refusal::Denied),
            Writes::Create if exists => return Err(Refusal::Exists),
            Writes::Create | Writes::Overwrite => {}
        }
        if announced > state.faults.disk_octets.or(announced) {
            return Err(Refusal::DiskFull);
        }
        Ok(Box::new(Writer {
            memory: self.clone(),
            name: name.to_vec(),
            octets: Vec::new(),
        }))
    }
}

/// An open file.
struct Reader {
    memory: Memory,
    contents: Contents,
}

impl Source for Reader {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, ReadFailure> {
        let mut state = self.memory.lock();
        state.reads += 1;
        if let Some(failure) = state.faults.read {
            return Err(failure);
        }
        let short_reads = state.faults.short_reads;
        drop(state);
        let most = if short_reads {
            buffer.len() / 2
        } else {
            buffer.len()
        };
        Ok(self.contents.read(&mut buffer[..most], offset))
    }

    fn check(&self) -> Result<(), ReadFailure> {
        Ok(())
    }

    fn read_now(&self, buffer: &mut [u8], offset: u64) -> bool {
        let mut state = self.memory.lock();
        let Faults {
            read,
            short_reads,
            read_would_block,
            ..
        } = state.faults;
        if read.is_some() || short_reads || read_would_block {
            return false;
        }
        state.reads += 1;
        drop(state);
        self.contents.read(buffer, offset) == buffer.len()
    }
}

/// An upload in progress.
struct Writer {
    memory: Memory,
    name: Vec<u8>,
    octets: Vec<u8>,
}

impl Sink for Writer {
    fn write(&mut self, octets: &[u8]) -> Result<(), Refusal> {
        let len = (self.octets.len() + octets.len()) as u64;
        if self
            .memory
            .lock()
            .faults
            .disk_octets
            .is_some_and(|most| len > most)
        {
            return Err(Refusal::DiskFull);
        }
        self.octets.extend_from_slice(octets);
        Ok(())
    }

    fn publish(self: Box<Self>) -> Result<(), Refusal> {
        let Self {
            memory,
            name,
            octets,
        } = *self;
        let mut state = memory.lock();
        if state.writes == Writes::Create && state.uploads.contains_key(&name) {
            return Err(Refusal::Exists);
        }
        state.uploads.insert(name, octets);
        Ok(())
    }
}

/// `/x` and `x` are the same file.
fn plain(name: &[u8]) -> &[u8] {
    let slashes = name.iter().take_while(|&&octet| octet == b'/').count();
    &name[slashes..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_the_same_from_any_offset() {
        let contents = Contents::Pattern { seed: 3, len: 100 };
        for offset in 0..110 {
            let mut buffer = [0; 40];
            let count = contents.read(&mut buffer, offset);
            assert_eq!(count as u64, 100_u64.saturating_sub(offset).min(40));
            assert!(
                buffer
                    .iter()
                    .take(count)
                    .zip(offset..)
                    .all(|(&octet, at)| octet == pattern_octet(3, at))
            );
        }
    }
}
