//! An upload in progress: turns received blocks into octets to write.

use std::fmt;

use super::{Refusal, Sink};
use crate::proto::netascii::Decoder;
use crate::wire::Mode;

/// Takes the blocks of one upload. If dropped before it is published, it leaves no file.
pub struct Upload {
    sink: Box<dyn Sink>,
    /// Present in netascii mode.
    decoder: Option<Decoder>,
    /// Decoded octets on their way to the sink.
    text: Vec<u8>,
    len: u64,
    announced: Option<u64>,
}

impl Upload {
    pub(super) fn new(sink: Box<dyn Sink>, mode: Mode, announced: Option<u64>) -> Self {
        let decoder = (mode == Mode::Netascii).then(Decoder::default);
        Self {
            sink,
            decoder,
            text: Vec::new(),
            len: 0,
            announced,
        }
    }

    /// Limit of octets on the wire, if a length was announced. A client that reads from a pipe announces 0,
    /// as busybox and curl do, and sends what there is.
    pub(crate) fn octets_max(&self) -> Option<u64> {
        self.announced.filter(|&announced| announced > 0)
    }

    /// Octets received and written.
    #[must_use]
    #[allow(clippy::len_without_is_empty)] // Not a collection, any more than a body is.
    pub const fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn write(&mut self, wire: &[u8]) -> Result<(), Refusal> {
        let octets = self.len + wire.len() as u64;
        if self.octets_max().is_some_and(|most| octets > most) {
            return Err(Refusal::Long);
        }
        match &mut self.decoder {
            None => self.sink.write(wire)?,
            Some(decoder) => {
                self.text.clear();
                decoder.decode(wire, &mut self.text);
                self.sink.write(&self.text)?;
            }
        }
        self.len = octets;
        Ok(())
    }

    pub(super) fn publish(mut self) -> Result<(), Refusal> {
        // Clients can lose octets unnoticed: curl skips a block when the OACK arrives twice.
        if self.announced.is_some_and(|announced| self.len < announced) {
            return Err(Refusal::Short);
        }
        if let Some(decoder) = &mut self.decoder {
            self.text.clear();
            decoder.finish(&mut self.text);
            self.sink.write(&self.text)?;
        }
        self.sink.publish()
    }
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}
