//! The way of arriving octets from DATA packets to the store: put in order, gathered, written in large
//! pieces, one at a time.

use crate::proto::block::BlockIndex;
use crate::store::Upload;

/// Octets gathered before they are given to the store to write.
const CHUNK_OCTETS: usize = 256 << 10;
/// Octets gathered while an earlier piece is being written, beyond which ACKs wait for the disk.
const BACKLOG_OCTETS_MAX: usize = 1 << 20;

/// What has arrived and is not yet written.
#[derive(Debug)]
pub(super) struct Inflow {
    blksize: usize,
    windowsize: u64,
    /// The store's end; away while the store writes.
    upload: Option<Upload>,
    /// In order, to be written next.
    chunk: Vec<u8>,
    /// A written chunk's memory, to be used again.
    spare: Vec<u8>,
    /// Blocks that overtook others, each at the place that its number has in the window. Without
    /// memory as long as none does.
    kept: Vec<u8>,
    /// The length of the last block, if it is one of those kept.
    kept_last: Option<(BlockIndex, usize)>,
    octets: u64,
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
    pub(super) fn new(upload: Upload, blksize: u16, windowsize: u16) -> Self {
        Self {
            blksize: usize::from(blksize),
            windowsize: u64::from(windowsize),
            upload: Some(upload),
            chunk: Vec::new(),
            spare: Vec::new(),
            kept: Vec::new(),
            kept_last: None,
            octets: 0,
            publishing: false,
        }
    }

    /// Takes the terms of the server's answer; nothing has arrived before it.
    pub(super) fn agree(&mut self, blksize: u16, windowsize: u16) {
        self.blksize = usize::from(blksize);
        self.windowsize = u64::from(windowsize);
    }

    /// Octets that arrived, in order.
    pub(super) const fn octets(&self) -> u64 {
        self.octets
    }

    /// Whether the disk is so far behind that ACKs have to wait for it.
    pub(super) fn is_backlogged(&self) -> bool {
        self.chunk.len() >= BACKLOG_OCTETS_MAX
    }

    /// Keeps a block that overtook others.
    pub(super) fn keep(&mut self, block: BlockIndex, payload: &[u8]) {
        if self.kept.is_empty() {
            self.kept = vec![0; self.blksize * self.windowsize as usize];
        }
        let start = self.place(block);
        self.kept[start..start + payload.len()].copy_from_slice(payload);
        if payload.len() < self.blksize {
            self.kept_last = Some((block, payload.len()));
        }
    }

    /// Appends the block that was waited for, and the kept ones behind it up to `received`.
    pub(super) fn append(&mut self, block: BlockIndex, payload: &[u8], received: BlockIndex) {
        self.chunk.extend_from_slice(payload);
        self.octets += payload.len() as u64;
        for kept in (block.0 + 1..=received.0).map(BlockIndex) {
            let start = self.place(kept);
            let len = self
                .kept_last
                .filter(|&(last, _)| last == kept)
                .map_or(self.blksize, |(_, len)| len);
            self.chunk.extend_from_slice(&self.kept[start..start + len]);
            self.octets += len as u64;
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

    fn place(&self, block: BlockIndex) -> usize {
        (block.before().0 % self.windowsize) as usize * self.blksize
    }
}
