//! A file encoded as netascii, readable at any offset in bounded memory.

use super::{ReadFailure, Source};
use crate::proto::netascii::{Encoder, encoded_len};

/// Octets of the file processed at a time.
const CHUNK_OCTETS: usize = 64 * 1024;

/// Limit of checkpoints, eight octets each: 32 KiB of memory for a file of any size.
const CHECKPOINTS_MAX: usize = 4096;

/// A source that encodes another one as it is read.
pub(super) struct Text {
    file: Box<dyn Source>,
    len: u64,
    index: Index,
}

/// A single pass over a file that finds its encoded length and the checkpoints to read it from.
pub(super) struct Scan {
    file: Box<dyn Source>,
    len: u64,
    index: Index,
    scanned: u64,
    wire: u64,
}

/// Maps file offsets to wire offsets, at regular distances.
struct Index {
    /// Octets of the file between checkpoints.
    spacing: u64,
    /// Checkpoint `i` is the wire offset of the file's octet `i * spacing`.
    wire: Vec<u64>,
}

impl Scan {
    /// Octets that [`Self::advance`] scans: enough to amortise a disk's seeks between files.
    pub(super) const SLICE_OCTETS: u64 = 64 * CHUNK_OCTETS as u64;

    /// A scan of the first `len` octets of `file`.
    pub(super) const fn new(file: Box<dyn Source>, len: u64) -> Self {
        Self {
            file,
            len,
            index: Index {
                spacing: CHUNK_OCTETS as u64,
                wire: Vec::new(),
            },
            scanned: 0,
            wire: 0,
        }
    }

    /// Octets of the file scanned so far.
    pub(super) const fn scanned(&self) -> u64 {
        self.scanned
    }

    /// Scans the next slice; returns whether that was the last.
    pub(super) fn advance(&mut self) -> Result<bool, ReadFailure> {
        let end = self.len.min(self.scanned + Self::SLICE_OCTETS);
        let mut buffer = vec![0; CHUNK_OCTETS];
        while self.scanned < end {
            self.index.note(self.scanned, self.wire);
            let chunk = read_chunk(&*self.file, &mut buffer, self.scanned, self.len)?;
            self.wire += encoded_len(chunk);
            self.scanned += chunk.len() as u64;
        }
        Ok(self.scanned == self.len)
    }

    /// The text and its length on the wire, once the scan is complete.
    pub(super) fn finish(self) -> Result<(Text, u64), ReadFailure> {
        self.file.check()?;
        let text = Text {
            file: self.file,
            len: self.len,
            index: self.index,
        };
        Ok((text, self.wire))
    }
}

impl Source for Text {
    /// The text between a checkpoint and the offset has to be passed over.
    fn is_random_access(&self) -> bool {
        false
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, ReadFailure> {
        let (mut place, wire) = self.index.before(offset);
        let mut skip = offset - wire;
        let mut text = vec![0; CHUNK_OCTETS];
        let mut encoder = Encoder::default();
        let mut written = 0;
        while place < self.len && written < buffer.len() {
            let mut chunk = read_chunk(&*self.file, &mut text, place, self.len)?;
            place += chunk.len() as u64;
            // No encoder state is pending before the offset: skipped octets are only counted, not encoded,
            // up to the chunk that contains the offset.
            if skip > 0 {
                let len = encoded_len(chunk);
                if len <= skip {
                    skip -= len;
                    continue;
                }
                let mut skipped = [0; 512];
                while skip > 0 {
                    let room = skipped
                        .len()
                        .min(usize::try_from(skip).unwrap_or(usize::MAX));
                    let (taken, encoded) = encoder.encode(chunk, &mut skipped[..room]);
                    chunk = &chunk[taken..];
                    skip -= encoded as u64;
                }
            }
            let (_, encoded) = encoder.encode(chunk, &mut buffer[written..]);
            written += encoded;
        }
        if written < buffer.len() && encoder.is_pending() {
            written += encoder.encode(&[], &mut buffer[written..]).1;
        }
        Ok(written)
    }

    fn check(&self) -> Result<(), ReadFailure> {
        self.file.check()
    }

    fn is_remote(&self) -> bool {
        self.file.is_remote()
    }

    fn is_nameless(&self) -> bool {
        self.file.is_nameless()
    }
}

impl Index {
    /// Records that the file's octet `offset`, a multiple of [`CHUNK_OCTETS`], is at `wire`.
    fn note(&mut self, offset: u64, wire: u64) {
        if self.wire.len() == CHECKPOINTS_MAX {
            let mut index = 0;
            self.wire.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            self.spacing *= 2;
        }
        if offset.is_multiple_of(self.spacing) {
            self.wire.push(wire);
        }
    }

    /// The last checkpoint not past `wire`: its file offset and its wire offset.
    fn before(&self, wire: u64) -> (u64, u64) {
        let after = self.wire.partition_point(|&checkpoint| checkpoint <= wire);
        let index = after.saturating_sub(1);
        (
            index as u64 * self.spacing,
            self.wire.get(index).copied().unwrap_or(0),
        )
    }
}

/// The file's octets from `offset` on, limited by the buffer's size and by `len`.
fn read_chunk<'a>(
    file: &dyn Source,
    buffer: &'a mut [u8],
    offset: u64,
    len: u64,
) -> Result<&'a [u8], ReadFailure> {
    let wanted = usize::try_from(len - offset).map_or(buffer.len(), |rest| rest.min(buffer.len()));
    let chunk = &mut buffer[..wanted];
    if file.read_at(chunk, offset)? < wanted {
        return Err(ReadFailure::Changed);
    }
    Ok(chunk)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the index of a file of any size stays within its bound and gives the right offsets. Method:
    /// chunks of known encoded lengths, many times more than there are checkpoints.
    #[test]
    fn the_index_is_bounded_and_right() {
        let chunk = CHUNK_OCTETS as u64;
        let mut index = Index {
            spacing: chunk,
            wire: Vec::new(),
        };
        let wire_at = |number: u64| number * chunk + number * number % chunk;
        for number in 0..100_000 {
            index.note(number * chunk, wire_at(number));
            assert!(index.wire.len() <= CHECKPOINTS_MAX);
        }
        assert!(index.wire.len() > CHECKPOINTS_MAX / 4);
        for number in (0..100_000).step_by(777) {
            let (file, wire) = index.before(wire_at(number));
            assert_eq!(wire, wire_at(file / chunk));
            assert!(wire <= wire_at(number) && number * chunk < file + 2 * index.spacing);
        }
    }
}
