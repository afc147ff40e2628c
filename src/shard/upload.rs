//! The way of arriving octets from DATA packets to the store: put in order, gathered, written in large
//! pieces, one at a time.

use std::collections::BTreeMap;

use crate::config::WINDOWSIZE_MAX_DEFAULT;
use crate::proto::block::BlockIndex;
use crate::proto::negotiate::BLKSIZE_MAX;
use crate::store::Upload;

/// Octets gathered before they are given to the store to write.
const CHUNK_OCTETS: usize = 256 << 10;
/// Octets gathered while an earlier piece is being written, beyond which ACKs wait for the disk.
const BACKLOG_OCTETS_MAX: usize = 1 << 20;
/// Octets gathered beyond which blocks are as good as lost, though they belong to a window that may come: enough
/// for the backlog and for a whole one, unless the operator allows more blocks in it.
const CHUNK_OCTETS_MAX: usize =
    BACKLOG_OCTETS_MAX + WINDOWSIZE_MAX_DEFAULT as usize * BLKSIZE_MAX as usize;
/// What a kept block takes beyond its octets.
const KEPT_OVERHEAD_OCTETS: usize = 64;

/// What has arrived and is not yet written.
#[derive(Debug)]
pub(super) struct Inflow {
    /// The store's end; away while the store writes.
    upload: Option<Upload>,
    /// In order, to be written next.
    chunk: Vec<u8>,
    /// A written chunk's memory, to be used again.
    spare: Vec<u8>,
    /// Blocks that overtook others.
    kept: BTreeMap<BlockIndex, Vec<u8>>,
    /// Memory that they take.
    kept_octets: usize,
    octets: u64,
    octets_max: Option<u64>,
    publishing: bool,
}

/// What is to be done with an inflow next.
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

    /// Whether more arrived than was announced.
    pub(super) fn is_too_long(&self) -> bool {
        self.octets_max.is_some_and(|most| self.octets > most)
    }

    /// Whether the disk is so far behind that ACKs have to wait for it.
    pub(super) fn is_backlogged(&self) -> bool {
        self.chunk.len() >= BACKLOG_OCTETS_MAX
    }

    /// Memory that blocks take which overtook others.
    pub(super) const fn kept_octets(&self) -> usize {
        self.kept_octets
    }

    /// Sees to it that there is room for one more block and for those kept that may follow it; says whether
    /// there is. What a client sends must not end the server where memory does.
    pub(super) fn has_room(&mut self, octets: usize) -> bool {
        let more = octets + self.kept_octets;
        self.chunk.len() < CHUNK_OCTETS_MAX && self.chunk.try_reserve(more).is_ok()
    }

    /// Keeps a block that overtook others, in no more than `room` octets of memory; says whether it could.
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

    /// Appends the block that was waited for, and the kept ones behind it up to `received`.
    pub(super) fn append(&mut self, block: BlockIndex, payload: &[u8], received: BlockIndex) {
        self.chunk.extend_from_slice(payload);
        self.octets += payload.len() as u64;
        for kept in (block.0 + 1..=received.0).map(BlockIndex) {
            // The receiver counts no block that was not kept.
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

    /// The store has written; the upload and the memory are back.
    pub(super) fn written(&mut self, upload: Upload, mut spare: Vec<u8>) {
        spare.clear();
        self.upload = Some(upload);
        self.spare = spare;
    }

    /// The store's end, to be given up; `None` if the store has it.
    pub(super) fn into_upload(self) -> Option<Upload> {
        self.upload
    }
}
