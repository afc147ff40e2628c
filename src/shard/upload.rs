//! The path of received octets from DATA packets to the store: put in order, collected, and written in large
//! chunks, one at a time.

use std::collections::BTreeMap;

use crate::config::WINDOWSIZE_MAX_DEFAULT;
use crate::proto::block::BlockIndex;
use crate::proto::negotiate::BLKSIZE_MAX;
use crate::store::Upload;

/// Octets collected before they are given to the store to write.
const CHUNK_OCTETS: usize = 256 << 10;
/// Octets collected while an earlier chunk is being written, beyond which ACKs wait for the disk.
const BACKLOG_OCTETS_MAX: usize = 1 << 20;
/// Octets collected beyond which blocks are dropped, even if they belong to an acceptable window: enough for
/// the backlog and one whole window, unless the operator allows larger windows.
const CHUNK_OCTETS_MAX: usize =
    BACKLOG_OCTETS_MAX + WINDOWSIZE_MAX_DEFAULT as usize * BLKSIZE_MAX as usize;
/// Memory used by a kept block beyond its octets.
const KEPT_OVERHEAD_OCTETS: usize = 64;

/// Data that has arrived and is not yet written.
#[derive(Debug)]
pub(super) struct Inflow {
    /// The store's handle; `None` while the store writes.
    upload: Option<Upload>,
    /// Octets in order, to be written next.
    chunk: Vec<u8>,
    /// The buffer of a written chunk, for reuse.
    spare: Vec<u8>,
    /// Out-of-order blocks.
    kept: BTreeMap<BlockIndex, Vec<u8>>,
    /// Memory used by out-of-order blocks.
    kept_octets: usize,
    octets: u64,
    octets_max: Option<u64>,
    publishing: bool,
}

/// The next operation for the store.
#[derive(Debug)]
pub(super) enum Next {
    Write(Upload, Vec<u8>),
    Publish(Upload),
    Nothing,
}

impl Inflow {
    pub(super) fn new(upload: Upload) -> Self {
        Self {
            octets_max: upload.octets_max(),
            upload: Some(upload),
            chunk: Vec::new(),
            spare: Vec::new(),
            kept: BTreeMap::new(),
            kept_octets: 0,
            octets: 0,
            publishing: false,
        }
    }

    /// Octets that arrived, in order.
    pub(super) const fn octets(&self) -> u64 {
        self.octets
    }

    /// Whether more octets arrived than allowed.
    pub(super) fn is_too_long(&self) -> bool {
        self.octets_max.is_some_and(|most| self.octets > most)
    }

    /// Whether the disk is so far behind that ACKs must wait for it.
    pub(super) fn is_backlogged(&self) -> bool {
        self.chunk.len() >= BACKLOG_OCTETS_MAX
    }

    /// Memory used by out-of-order blocks.
    pub(super) const fn kept_octets(&self) -> usize {
        self.kept_octets
    }

    /// Makes sure that there is room for one more block and any kept blocks that may follow it; returns
    /// whether there is. A client's data must not crash the server when memory runs out.
    pub(super) fn has_room(&mut self, octets: usize) -> bool {
        let more = octets + self.kept_octets;
        self.chunk.len() < CHUNK_OCTETS_MAX && self.chunk.try_reserve(more).is_ok()
    }

    /// Keeps an out-of-order block in at most `room` octets of memory; returns whether it could.
    pub(super) fn keep(&mut self, block: BlockIndex, payload: &[u8], room: usize) -> bool {
        let octets = payload.len() + KEPT_OVERHEAD_OCTETS;
        let mut copy = Vec::new();
        if octets > room || copy.try_reserve_exact(payload.len()).is_err() {
            return false;
        }
        copy.extend_from_slice(payload);
        self.kept.insert(block, copy);
        self.kept_octets += octets;
        true
    }

    /// Appends the expected block, and the kept blocks after it up to `received`.
    pub(super) fn append(&mut self, block: BlockIndex, payload: &[u8], received: BlockIndex) {
        self.chunk.extend_from_slice(payload);
        self.octets += payload.len() as u64;
        for kept in (block.0 + 1..=received.0).map(BlockIndex) {
            // The receiver counts only blocks that were kept.
            let payload = self.kept.remove(&kept).unwrap_or_default();
            self.chunk.extend_from_slice(&payload);
            self.kept_octets -= payload.len() + KEPT_OVERHEAD_OCTETS;
            self.octets += payload.len() as u64;
        }
    }

    /// What the store should do now, given whether everything has arrived.
    pub(super) fn next(&mut self, whole: bool) -> Next {
        let due = self.chunk.len() >= CHUNK_OCTETS || (whole && !self.chunk.is_empty());
        if due {
            self.upload.take().map_or(Next::Nothing, |upload| {
                let chunk = std::mem::replace(&mut self.chunk, std::mem::take(&mut self.spare));
                Next::Write(upload, chunk)
            })
        } else if whole && !self.publishing {
            self.upload.take().map_or(Next::Nothing, |upload| {
                self.publishing = true;
                Next::Publish(upload)
            })
        } else {
            Next::Nothing
        }
    }

    /// The store has written the chunk and returns the upload and the buffer.
    pub(super) fn written(&mut self, upload: Upload, mut spare: Vec<u8>) {
        spare.clear();
        self.upload = Some(upload);
        self.spare = spare;
    }

    /// The store's handle, to be discarded; `None` if the store has it.
    pub(super) fn into_upload(self) -> Option<Upload> {
        self.upload
    }
}
