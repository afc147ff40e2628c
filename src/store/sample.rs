//! Digests of sample pieces of a file, taken while it is read, to tell a file that has grown from one that
//! was rewritten.
//!
//! Length and times cannot tell the two apart: `cp` of a longer file over this one truncates and rewrites
//! it, and a later check finds it longer. Only its contents tell. Comparing all of them would mean keeping
//! them all, so digests are kept of pieces at even distances and of the last one. Most are taken as the
//! pieces are read; a few that lie ahead are read just for this, since two files may begin alike.

use std::num::NonZeroU64;
use std::sync::PoisonError;

use super::ReadFailure;
use crate::sync::{Mutex, MutexGuard};

/// Octets in a piece: a page, the least that a disk reads.
const PIECE_OCTETS: u64 = 4096;

/// Distance between pieces of a small file in octets: digesting a sixteenth of it costs next to nothing.
const SPACING_OCTETS_MIN: u64 = 64 * 1024;

/// Limit of pieces for any file: 2 KiB of memory, and one mebibyte to read for a comparison.
const PIECES_MAX: u64 = 256;

/// One piece in this many is read ahead: 16 in all for a long file, which a slow disk can bear once.
const AHEAD_EVERY: usize = 16;

/// The pieces of a file of a known length.
pub(super) struct Sample {
    /// Octets in a piece.
    piece: u64,
    /// Distance between the starts of adjacent pieces, except the last.
    spacing: u64,
    /// Offset of the last piece.
    last: u64,
    known: Mutex<Known>,
}

struct Known {
    /// The digest of each piece, once it was read.
    digests: Box<[Option<NonZeroU64>]>,
    /// Whether the pieces ahead were read.
    ahead: bool,
}

impl Sample {
    /// An empty sample for a file of `len` octets.
    pub(super) fn new(len: u64) -> Self {
        let piece = PIECE_OCTETS.min(len);
        let last = len - piece;
        let spacing = last.div_ceil(PIECES_MAX - 1).max(SPACING_OCTETS_MIN);
        // At most PIECES_MAX.
        let pieces = last.div_ceil(spacing) as usize + 1;
        Self {
            piece,
            spacing,
            last,
            known: Mutex::new(Known {
                digests: vec![None; pieces].into(),
                ahead: false,
            }),
        }
    }

    /// Records the pieces in `octets`, which were read from `offset` on; `false` if one of them has changed.
    pub(super) fn note(&self, octets: &[u8], offset: u64) -> bool {
        let mut known = self.lock();
        for index in offset.div_ceil(self.spacing) as usize..known.digests.len() {
            let skipped = self.place(index).checked_sub(offset);
            let piece = skipped.and_then(|skipped| {
                let rest = octets.get(usize::try_from(skipped).ok()?..)?;
                rest.get(..self.piece as usize)
            });
            let Some(piece) = piece else {
                break;
            };
            let digest = digest(piece);
            if *known.digests[index].get_or_insert(digest) != digest {
                return false;
            }
        }
        true
    }

    /// Reads and records a few pieces of the whole file, including the last; only the first call does so.
    pub(super) fn look_ahead(
        &self,
        read_at: impl Fn(&mut [u8], u64) -> Result<usize, ReadFailure>,
    ) {
        let mut known = self.lock();
        if std::mem::replace(&mut known.ahead, true) {
            return;
        }
        let pieces = known.digests.len();
        let missing: Vec<usize> = (0..pieces)
            .rev()
            .step_by(AHEAD_EVERY)
            .filter(|&index| known.digests[index].is_none())
            .collect();
        drop(known);
        let mut piece = vec![0; self.piece as usize];
        for index in missing {
            // A client that requests an unreadable piece gets the error then.
            if read_at(&mut piece, self.place(index)) == Ok(piece.len()) {
                let digest = digest(&piece);
                self.lock().digests[index].get_or_insert(digest);
            }
        }
    }

    /// Whether the pieces ahead were read, or are being read.
    pub(super) fn looks_ahead(&self) -> bool {
        self.lock().ahead
    }

    /// Whether all recorded pieces are unchanged.
    pub(super) fn holds(
        &self,
        read_at: impl Fn(&mut [u8], u64) -> Result<usize, ReadFailure>,
    ) -> Result<bool, ReadFailure> {
        let digests = self.lock().digests.clone();
        let mut piece = vec![0; self.piece as usize];
        for (index, known) in digests.iter().enumerate() {
            let Some(known) = *known else {
                continue;
            };
            if read_at(&mut piece, self.place(index))? < piece.len() || digest(&piece) != known {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The offset of a piece.
    fn place(&self, index: usize) -> u64 {
        (index as u64).saturating_mul(self.spacing).min(self.last)
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A digest that other contents share only by chance: each word is multiplied by an odd number, which is
/// invertible, so two pieces that differ in one word always differ in their digests.
fn digest(octets: &[u8]) -> NonZeroU64 {
    // 2^64 divided by the golden ratio.
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let (words, rest) = octets.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let digest = words.iter().chain([&last]).fold(0_u64, |digest, word| {
        (digest.rotate_left(29) ^ u64::from_le_bytes(*word)).wrapping_mul(FACTOR)
    });
    NonZeroU64::new(digest).unwrap_or(NonZeroU64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads from a file in memory.
    fn reader(file: &[u8]) -> impl Fn(&mut [u8], u64) -> Result<usize, ReadFailure> {
        |buffer, offset| {
            let rest = file.get(offset as usize..).unwrap_or(&[]);
            let count = rest.len().min(buffer.len());
            buffer[..count].copy_from_slice(&rest[..count]);
            Ok(count)
        }
    }

    fn octets(len: usize) -> Vec<u8> {
        let mut octets = vec![0; len];
        fastrand::Rng::with_seed(5).fill(&mut octets);
        octets
    }

    /// Goal: files of every length have pieces within them, the last at the end, in bounded memory.
    #[test]
    fn pieces_lie_within_the_file() {
        let lengths = [0, 1, 4095, 4096, 4097, 69_632, 69_633, 1 << 30, u64::MAX];
        for len in lengths {
            let sample = Sample::new(len);
            let pieces = sample.lock().digests.len();
            assert!(pieces as u64 <= PIECES_MAX);
            let places: Vec<u64> = (0..pieces).map(|index| sample.place(index)).collect();
            assert!(places.is_sorted_by(|one, next| one < next), "{len}");
            assert_eq!(places[0], 0);
            assert_eq!(places[pieces - 1] + sample.piece, len);
            assert!(len > 4096 || pieces == 1);
        }
    }

    /// Goal: a change of an octet already read is noticed, both on another read and on comparison. Method:
    /// change one octet of each piece in turn; read in ranges of several lengths.
    #[test]
    fn a_piece_that_was_read_is_told_from_another() {
        let file = octets(1_000_003);
        for stretch in [65_536, 300_000, file.len()] {
            let sample = Sample::new(file.len() as u64);
            for (number, octets) in file.chunks(stretch).enumerate() {
                assert!(sample.note(octets, (number * stretch) as u64));
            }
            let known = sample.lock().digests.clone();
            assert!(sample.holds(reader(&file)).expect("it reads"));
            for (index, _) in known
                .iter()
                .enumerate()
                .filter(|(_, known)| known.is_some())
            {
                let place = sample.place(index) as usize + index % 4096;
                let mut other = file.clone();
                other[place] ^= 1;
                assert!(!sample.holds(reader(&other)).expect("it reads"));
                let start = place - index % 4096;
                assert!(!sample.note(&other[start..start + 4096], start as u64));
            }
            let known = known.iter().flatten().count();
            assert!(known + file.len() / stretch >= sample.lock().digests.len());
            assert!(
                !sample
                    .holds(reader(&file[..file.len() - 1]))
                    .expect("it reads")
            );
        }
    }

    /// Goal: unread parts are sampled once, at even distances and at the end.
    #[test]
    fn a_few_pieces_are_read_ahead() {
        let file = octets(4 << 20);
        let sample = Sample::new(file.len() as u64);
        sample.look_ahead(reader(&file));
        let known = |sample: &Sample| sample.lock().digests.iter().flatten().count();
        assert_eq!(known(&sample), 5);
        assert!(sample.lock().digests.last().expect("some").is_some());
        sample.look_ahead(|_, _| panic!("once is enough"));
        let grown = [file.as_slice(), b"more"].concat();
        assert!(sample.holds(reader(&grown)).expect("it reads"));
        let mut other = grown;
        *other.iter_mut().nth_back(4).expect("the last of before") ^= 1;
        assert!(!sample.holds(reader(&other)).expect("it reads"));

        let unreadable = Sample::new(file.len() as u64);
        unreadable.look_ahead(|_, _| Err(ReadFailure::Failed(libc::EIO)));
        unreadable.look_ahead(reader(&file));
        assert_eq!(known(&unreadable), 0);
        assert!(unreadable.holds(reader(b"")).expect("nothing is known"));
    }

    /// Goal: every word, every octet and their order affect the digest.
    #[test]
    fn digests_differ() {
        let pieces: [&[u8]; 7] = [
            b"",
            b"\0\0\0\0\0\0\0\x01",
            b"\x01",
            b"12345678abcdefgh",
            b"abcdefgh12345678",
            b"abcdefgh1234567",
            b"abcdefgh1234567\x39",
        ];
        for (place, piece) in pieces.iter().enumerate() {
            for other in &pieces[..place] {
                assert_ne!(digest(piece), digest(other));
            }
        }
    }
}
