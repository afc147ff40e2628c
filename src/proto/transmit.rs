//! What a transfer has to send, as a description: the octets of a body are not the protocol's concern.

use super::block::BlockIndex;

/// What opens a transfer, retransmitted until something answers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// The client's RRQ or WRQ.
    Request,
    /// The server's OACK.
    Oack,
}

/// What to send, as a description: the octets of a body are not the protocol's concern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transmit {
    /// The packet that opens the transfer.
    Opening(Opening),
    /// `count` DATA packets, starting with block `first`.
    Blocks {
        /// The first block.
        first: BlockIndex,
        /// The number of blocks; never 0.
        count: u64,
    },
    /// An ACK of everything up to this block.
    Ack(BlockIndex),
}
