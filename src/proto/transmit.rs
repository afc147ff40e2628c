//! What a transfer has to send: described, not laid out, for the octets of a body are not the protocol's concern.

use super::block::BlockIndex;

/// What opens a transfer, sent again until something answers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// The client's RRQ or WRQ.
    Request,
    /// The server's OACK.
    Oack,
}

/// What to send. It is described, not laid out: the octets of a body are not the protocol's concern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transmit {
    /// The packet that opens the transfer.
    Opening(Opening),
    /// DATA packets, `count` of them from block `first` on.
    Blocks {
        /// The first of them.
        first: BlockIndex,
        /// How many; never 0.
        count: u64,
    },
    /// An ACK of everything up to this block.
    Ack(BlockIndex),
}
