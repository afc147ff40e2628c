//! The image that everybody boots from: octets that look like nothing, and the same ones every time, so
//! that both ends can make it.

use std::io;

/// Its name at the server.
pub(super) const NAME: &str = "image";
/// Octets that are made at a time.
const CHUNK_OCTETS: usize = 1 << 16;
/// What it is made from.
const SEED: u64 = 1350;

/// The image, in memory.
pub(super) fn octets(len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(SEED);
    let mut octets = vec![0; len];
    octets
        .chunks_mut(CHUNK_OCTETS)
        .for_each(|chunk| random.fill(chunk));
    octets
}

/// Writes the same image piece by piece, for those whose memory is watched.
pub(super) fn write(len: usize, mut output: impl io::Write) -> io::Result<()> {
    let mut random = fastrand::Rng::with_seed(SEED);
    let mut chunk = vec![0; CHUNK_OCTETS.min(len)];
    let mut left = len;
    while left > 0 {
        chunk.truncate(left);
        random.fill(&mut chunk);
        output.write_all(&chunk)?;
        left -= chunk.len();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_make_the_same_image() {
        for len in [0, 1, CHUNK_OCTETS, CHUNK_OCTETS * 2 + 77] {
            let mut written = Vec::new();
            write(len, &mut written).expect("memory takes it");
            assert!(written == octets(len) && written.len() == len, "{len}");
        }
    }
}
