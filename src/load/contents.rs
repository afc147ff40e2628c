//! Reproducible file contents: the pattern that `--verify pattern` compares with, at any length, in
//! memory, written to an output, or checked against an input.

use std::io;

use crate::shard::PATTERN_SEED;
use crate::store::memory::{pattern_fill, pattern_holds};

/// Octets generated or compared at a time, so that a file of any length takes little memory.
const STRETCH_OCTETS: usize = 1 << 16;

/// A file of this many octets.
#[must_use]
pub fn octets(len: usize) -> Vec<u8> {
    let mut octets = vec![0; len];
    pattern_fill(PATTERN_SEED, 0, &mut octets);
    octets
}

/// Writes a file of this many octets.
///
/// # Errors
/// If `output` fails.
pub fn write(len: u64, mut output: impl io::Write) -> io::Result<()> {
    let mut stretch = vec![0; STRETCH_OCTETS];
    let mut offset = 0;
    while offset < len {
        let rest = usize::try_from(len - offset).unwrap_or(usize::MAX);
        let stretch = &mut stretch[..rest.min(STRETCH_OCTETS)];
        pattern_fill(PATTERN_SEED, offset, stretch);
        output.write_all(stretch)?;
        offset += stretch.len() as u64;
    }
    output.flush()
}

/// Whether the input is this file, of this many octets.
///
/// # Errors
/// If it cannot be read.
pub fn holds(len: u64, mut input: impl io::Read) -> io::Result<bool> {
    let mut stretch = vec![0; STRETCH_OCTETS];
    let mut offset = 0;
    loop {
        match input.read(&mut stretch) {
            Ok(0) => return Ok(offset == len),
            Ok(count) if !pattern_holds(PATTERN_SEED, offset, &stretch[..count]) => {
                return Ok(false);
            }
            Ok(count) => offset += count as u64,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_ways_to_have_a_file_give_the_same() {
        for len in [0, 1, STRETCH_OCTETS, STRETCH_OCTETS * 2 + 77] {
            let mut written = Vec::new();
            write(len as u64, &mut written).expect("memory takes it");
            assert!(written == octets(len) && written.len() == len, "{len}");
            assert!(holds(len as u64, &written[..]).expect("memory"), "{len}");
        }
    }

    #[test]
    fn other_files_are_told_from_it() {
        let mut other = octets(100_000);
        for len in [99_999, 100_001] {
            assert!(!holds(len, &other[..]).expect("memory"), "{len}");
        }
        other[70_000] ^= 1;
        assert!(!holds(100_000, &other[..]).expect("memory"));
    }
}
