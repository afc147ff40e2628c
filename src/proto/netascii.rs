//! netascii, the text form of RFC 764 that TFTP's `netascii` mode puts on the wire: lines end in CR LF, and a
//! CR that ends no line is followed by NUL.
//!
//! Both directions accept input split at any point.

/// Carriage return.
const CR: u8 = b'\r';
/// Line feed.
const LF: u8 = b'\n';
/// What follows a CR that stands for itself.
const NUL: u8 = 0;

/// The second octet of the pair that encodes `octet` on the wire; `None` if it stays as it is.
const fn second(octet: u8) -> Option<u8> {
    match octet {
        LF => Some(LF),
        CR => Some(NUL),
        _ => None,
    }
}

/// The encoded length of `text` in octets.
#[must_use]
pub fn encoded_len(text: &[u8]) -> u64 {
    // Sums of single octets, which cannot overflow within a chunk this short: a processor computes many of
    // them at a time.
    let pairs = text.chunks(u8::MAX.into()).map(|octets| {
        octets
            .iter()
            .map(|&octet| u8::from(second(octet).is_some()))
            .sum::<u8>()
    });
    text.len() as u64 + pairs.map(u64::from).sum::<u64>()
}

/// From a file to the wire.
#[derive(Debug, Clone, Copy, Default)]
pub struct Encoder {
    /// The second octet of a pair whose first filled the output.
    pending: Option<u8>,
}

impl Encoder {
    /// Encodes as much of `text` as fits into `wire`; returns how many octets of each were used.
    pub fn encode(&mut self, text: &[u8], wire: &mut [u8]) -> (usize, usize) {
        let mut taken = 0;
        let mut written = 0;
        while let Some(place) = wire.get_mut(written) {
            if let Some(octet) = self.pending.take() {
                *place = octet;
            } else if let Some(&octet) = text.get(taken) {
                self.pending = second(octet);
                *place = if self.pending.is_some() { CR } else { octet };
                taken += 1;
            } else {
                break;
            }
            written += 1;
        }
        (taken, written)
    }

    /// Whether an octet is still waiting for room although all text was taken.
    #[must_use]
    pub const fn is_pending(&self) -> bool {
        self.pending.is_some()
    }
}

/// From the wire to a file.
#[derive(Debug, Clone, Copy, Default)]
pub struct Decoder {
    /// The last octet was a CR, whose meaning depends on the next octet.
    after_cr: bool,
}

impl Decoder {
    /// Decodes all of `wire`, appending to `text`.
    ///
    /// A CR followed by anything but LF and NUL breaks the rules, and is kept as it is: octets are never
    /// lost.
    pub fn decode(&mut self, wire: &[u8], text: &mut Vec<u8>) {
        text.reserve(wire.len() + 1);
        for &octet in wire {
            if self.after_cr {
                self.after_cr = false;
                match octet {
                    LF => {
                        text.push(LF);
                        continue;
                    }
                    NUL => {
                        text.push(CR);
                        continue;
                    }
                    _ => text.push(CR),
                }
            }
            if octet == CR {
                self.after_cr = true;
            } else {
                text.push(octet);
            }
        }
    }

    /// Ends the input: a pending CR stands for itself.
    pub fn finish(&mut self, text: &mut Vec<u8>) {
        if std::mem::take(&mut self.after_cr) {
            text.push(CR);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Text with many line ends, lone CRs and NULs.
    fn rough_text(random: &mut fastrand::Rng) -> Vec<u8> {
        (0..random.usize(0..200))
            .map(|_| *random.choice(b"\r\n\0\r\nab").unwrap_or(&b'x'))
            .collect()
    }

    fn model_encode(text: &[u8]) -> Vec<u8> {
        text.iter()
            .flat_map(|&octet| match octet {
                b'\n' => b"\r\n".to_vec(),
                b'\r' => b"\r\0".to_vec(),
                other => vec![other],
            })
            .collect()
    }

    fn model_decode(wire: &[u8]) -> Vec<u8> {
        let mut text = Vec::new();
        let mut at = 0;
        while at < wire.len() {
            match &wire[at..] {
                [b'\r', b'\n', ..] => {
                    text.push(b'\n');
                    at += 2;
                }
                [b'\r', 0, ..] => {
                    text.push(b'\r');
                    at += 2;
                }
                [octet, ..] => {
                    text.push(*octet);
                    at += 1;
                }
                [] => unreachable!("`at` is within"),
            }
        }
        text
    }

    fn decode_in_pieces(wire: &[u8], random: &mut fastrand::Rng) -> Vec<u8> {
        let mut decoder = Decoder::default();
        let mut text = Vec::new();
        let mut rest = wire;
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(random.usize(0..=rest.len()));
            decoder.decode(piece, &mut text);
            rest = after;
        }
        decoder.finish(&mut text);
        text
    }

    fn encode_in_pieces(text: &[u8], random: &mut fastrand::Rng) -> Vec<u8> {
        let mut encoder = Encoder::default();
        let mut wire = Vec::new();
        let mut rest = text;
        while !rest.is_empty() || encoder.is_pending() {
            let piece = &rest[..random.usize(0..=rest.len())];
            let mut room = vec![0; random.usize(0..7)];
            let (taken, written) = encoder.encode(piece, &mut room);
            wire.extend_from_slice(&room[..written]);
            rest = &rest[taken..];
        }
        wire
    }

    /// Goal: the result does not depend on where the input is split. Method: random splits of input and
    /// output, compared with a model that sees everything at once, for text and for invalid wire octets.
    #[test]
    fn any_cut_gives_the_same() {
        let mut random = fastrand::Rng::with_seed(764);
        for _ in 0..2_000 {
            let text = rough_text(&mut random);
            let wire = encode_in_pieces(&text, &mut random);
            assert_eq!(wire, model_encode(&text));
            assert_eq!(encoded_len(&text), wire.len() as u64);
            assert_eq!(decode_in_pieces(&wire, &mut random), text);
            assert_eq!(decode_in_pieces(&text, &mut random), model_decode(&text));
        }
    }

    #[test]
    fn lone_carriage_returns_are_kept() {
        let mut random = fastrand::Rng::with_seed(1);
        for (wire, text) in [
            (&b"a\r"[..], &b"a\r"[..]),
            (b"\rx", b"\rx"),
            (b"\r\r\n", b"\r\n"),
            (b"\r\r\0", b"\r\r"),
            (b"\n\0", b"\n\0"),
        ] {
            assert_eq!(decode_in_pieces(wire, &mut random), text);
        }
    }
}
