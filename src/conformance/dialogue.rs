//! A dialogue with a server: the packets sent and received, and a log line for each.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Instant;

use super::{ANSWER_WITHIN, Fault, QUIET, Verdict};
use crate::time::Duration;
use crate::wire::{
    DATAGRAM_OCTETS_MAX, ErrorCode, Escaped, Mode, Opcode, Packet, WireBlock, write_ack,
    write_data_header, write_error, write_request,
};

/// Room for any request made here.
const REQUEST_OCTETS_MAX: usize = 1024;
/// Log lines kept from the start of a dialogue, and from its end.
const LINES_MAX: [usize; 2] = [6, 12];

/// A dialogue. When dropped, it tells the server that the client has left.
#[derive(Debug)]
pub(super) struct Dialogue {
    socket: UdpSocket,
    /// The server's port for requests.
    server: SocketAddr,
    /// The source of the first answer.
    peer: Option<SocketAddr>,
    /// Whether the server has ended the dialogue, or has been told that it is over.
    over: bool,
    /// Whether the last receive timed out.
    silent: bool,
    began: Instant,
    deadline: Instant,
    lines: Vec<String>,
    /// The number of lines left out.
    left_out: usize,
    /// The octets that `rest` has taken so far.
    taken: Vec<u8>,
    /// The first DATA payload, from which `rest` starts.
    first: Option<Vec<u8>>,
}

/// The server's first answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// The payload of DATA 1.
    Data(Vec<u8>),
    /// The options, in order.
    Oack(Vec<(Vec<u8>, Vec<u8>)>),
    /// ACK 0.
    Ack,
    /// The error code and message.
    Error(u16, String),
    /// Something else.
    Other(String),
}

/// A received datagram.
#[derive(Debug, Clone)]
pub(super) struct Datagram {
    pub(super) octets: Vec<u8>,
    pub(super) from: SocketAddr,
}

impl Datagram {
    pub(super) fn packet(&self) -> Option<Packet<'_>> {
        Packet::parse(&self.octets).ok()
    }

    /// The payload, if it is DATA with this block number.
    pub(super) fn data(&self, wanted: u16) -> Option<&[u8]> {
        match self.packet()? {
            Packet::Data { block, payload } if block.0 == wanted => Some(payload),
            _ => None,
        }
    }

    /// The code, if it is an ERROR.
    pub(super) fn error(&self) -> Option<u16> {
        match self.packet()? {
            Packet::Error { code, .. } => Some(code.0),
            _ => None,
        }
    }

    /// The block number, if it is an ACK.
    pub(super) fn ack(&self) -> Option<u16> {
        match self.packet()? {
            Packet::Ack { block } => Some(block.0),
            _ => None,
        }
    }
}

impl Dialogue {
    pub(super) fn new(server: SocketAddr, within: Duration) -> Result<Self, Fault> {
        let began = Instant::now();
        Ok(Self {
            socket: UdpSocket::bind((own_address(server.ip()), 0))?,
            server,
            peer: None,
            over: true,
            silent: false,
            began,
            deadline: began + within,
            lines: Vec::new(),
            left_out: 0,
            taken: Vec::new(),
            first: None,
        })
    }

    /// Extends the time limit.
    pub(super) fn extend(&mut self, within: Duration) {
        self.deadline = self.began + within;
    }

    /// Where packets go after the request.
    pub(super) const fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// Forgets the peer: the next request starts a new dialogue from the same port.
    pub(super) fn again(&mut self) {
        self.peer = None;
        self.first = None;
        self.taken.clear();
    }

    /// Requests a file.
    pub(super) fn read(&mut self, name: &[u8], options: &[(&str, &str)]) -> Result<(), Fault> {
        self.request(Opcode::Rrq, name, Mode::Octet, options)
    }

    /// Sends a request.
    pub(super) fn request(
        &mut self,
        opcode: Opcode,
        name: &[u8],
        mode: Mode,
        options: &[(&str, &str)],
    ) -> Result<(), Fault> {
        let octets = request(opcode, name, mode, options)?;
        self.send_to(self.server, &octets)
    }

    pub(super) fn ack(&mut self, block: u16) -> Result<(), Fault> {
        self.send(&write_ack(WireBlock(block)))
    }

    pub(super) fn data(&mut self, block: u16, payload: &[u8]) -> Result<(), Fault> {
        let header = write_data_header(WireBlock(block));
        self.send(&[&header[..], payload].concat())
    }

    pub(super) fn error(&mut self, code: ErrorCode, text: &[u8]) -> Result<(), Fault> {
        let mut buffer = [0; 128];
        let len = write_error(&mut buffer, code, text).map_err(io::Error::other)?;
        self.send(&buffer[..len])?;
        self.over = true;
        Ok(())
    }

    /// Sends octets to the peer, or to the request port if nothing has answered yet.
    pub(super) fn send(&mut self, octets: &[u8]) -> Result<(), Fault> {
        self.send_to(self.peer.unwrap_or(self.server), octets)
    }

    /// Sends octets to this address.
    pub(super) fn send_to(&mut self, to: SocketAddr, octets: &[u8]) -> Result<(), Fault> {
        self.note('>', octets, "");
        self.socket.send_to(octets, to)?;
        Ok(())
    }

    /// Receives the first answer to a request. An ERROR ends the dialogue.
    pub(super) fn answer(&mut self) -> Result<Answer, Fault> {
        let Some(datagram) = self.receive(ANSWER_WITHIN)? else {
            let seconds = ANSWER_WITHIN.as_secs();
            return Err(self.differs(&format!("an answer within {seconds} s")));
        };
        Ok(match datagram.packet() {
            Some(Packet::Data { block, payload }) if block.0 == 1 => {
                self.first = Some(datagram.octets.clone());
                Answer::Data(payload.to_vec())
            }
            Some(Packet::Oack(options)) => Answer::Oack(
                options
                    .pairs()
                    .map(|(name, value)| (name.to_vec(), value.to_vec()))
                    .collect(),
            ),
            Some(Packet::Ack { block }) if block.0 == 0 => Answer::Ack,
            Some(Packet::Error { code, message }) => {
                Answer::Error(code.0, Escaped(message).to_string())
            }
            _ => Answer::Other(shown(&datagram.octets)),
        })
    }

    /// Receives the next datagram, if one arrives within this time.
    pub(super) fn receive(&mut self, within: Duration) -> Result<Option<Datagram>, Fault> {
        let until = self.deadline.min(Instant::now() + within);
        let mut buffer = vec![0; DATAGRAM_OCTETS_MAX];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.silent = true;
                return Ok(None);
            }
            self.socket.set_read_timeout(Some(left))?;
            let (len, from) = match self.socket.recv_from(&mut buffer) {
                Ok(received) => received,
                // The loop checks the time limit above.
                Err(error) if is_silence(&error) => continue,
                Err(error) => return Err(error.into()),
            };
            // Meant for another program that used this port before.
            if from.ip().to_canonical() != self.server.ip().to_canonical() {
                continue;
            }
            let peer = *self.peer.get_or_insert(from);
            buffer.truncate(len);
            let strange = if peer == from {
                String::new()
            } else {
                format!(" from port {}", from.port())
            };
            self.note('<', &buffer, &strange);
            let datagram = Datagram {
                octets: buffer,
                from,
            };
            self.over = datagram.error().is_some();
            return Ok(Some(datagram));
        }
    }

    /// The payload of this block, which must come next; repeats of the one before are skipped.
    pub(super) fn block(&mut self, block: u16) -> Result<Vec<u8>, Fault> {
        self.block_of_window(block, 1)
    }

    /// The payload of this block, which must come next. Repeats of previous windows are skipped, because
    /// a server may send one again just before the ACK reaches it.
    pub(super) fn block_of_window(
        &mut self,
        block: u16,
        windowsize: u16,
    ) -> Result<Vec<u8>, Fault> {
        let repeats = match windowsize {
            0 | 1 => 1,
            blocks => blocks.saturating_mul(2).min(u16::MAX / 2),
        };
        loop {
            let Some(datagram) = self.receive(ANSWER_WITHIN)? else {
                return Err(self.differs(&format!("DATA {block}, and nothing came")));
            };
            match datagram.packet() {
                Some(Packet::Data {
                    block: WireBlock(number),
                    payload,
                }) => match block.wrapping_sub(number) {
                    0 => return Ok(payload.to_vec()),
                    behind if behind <= repeats => {}
                    _ => return Err(self.differs(&format!("DATA {block}"))),
                },
                _ => return Err(self.differs(&format!("DATA {block}"))),
            }
        }
    }

    /// Expects this ACK next; repeats of the one before are skipped.
    pub(super) fn acknowledged(&mut self, block: u16) -> Result<(), Fault> {
        loop {
            let Some(datagram) = self.receive(ANSWER_WITHIN)? else {
                return Err(self.differs(&format!("ACK {block}, and nothing came")));
            };
            match datagram.ack() {
                Some(number) if number == block => return Ok(()),
                Some(number) if number == block.wrapping_sub(1) => {}
                _ => return Err(self.differs(&format!("ACK {block}"))),
            }
        }
    }

    /// Expects silence for a while.
    pub(super) fn quiet(&mut self, expected: &str) -> Result<(), Fault> {
        self.quiet_for(QUIET, expected)
    }

    /// Expects silence for this time.
    pub(super) fn quiet_for(&mut self, within: Duration, expected: &str) -> Result<(), Fault> {
        match self.receive(within)? {
            None => Ok(()),
            Some(_) => Err(self.differs(expected)),
        }
    }

    /// Takes the rest of a file, up to this many octets, and returns whether that is all of it.
    /// Acknowledges an OACK that is still unacknowledged.
    pub(super) fn rest(
        &mut self,
        blksize: usize,
        windowsize: u16,
        octets_max: usize,
    ) -> Result<(Vec<u8>, bool), Fault> {
        let mut first = self.first.take();
        if first.is_none() {
            self.ack(0)?;
        }
        let mut block: u16 = 1;
        let mut of_window = 0;
        loop {
            let payload = match first.take() {
                Some(octets) => octets.get(4..).unwrap_or_default().to_vec(),
                None => self.block_of_window(block, windowsize)?,
            };
            self.taken.extend_from_slice(&payload);
            of_window += 1;
            let last = payload.len() < blksize;
            if payload.len() > blksize {
                return Err(self.differs(&format!("no block larger than {blksize} octets")));
            }
            if last || of_window == windowsize {
                self.ack(block)?;
                of_window = 0;
            }
            if last || self.taken.len() >= octets_max {
                self.over |= last;
                return Ok((std::mem::take(&mut self.taken), last));
            }
            block = block.wrapping_add(1);
        }
    }

    /// Marks the dialogue as over: the server need not be told.
    pub(super) const fn finish(&mut self) {
        self.over = true;
    }

    /// The octets that `rest` had when it failed.
    pub(super) fn taken(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.taken)
    }

    /// The verdict that the server differs from what was expected.
    pub(super) fn differs(&self, expected: &str) -> Fault {
        let mut seen = self.lines.clone();
        if self.left_out > 0 {
            let told = format!("… {} packets more …", self.left_out);
            seen.insert(LINES_MAX[0], told);
        }
        if self.silent {
            let seconds = self.began.elapsed().as_secs_f64();
            seen.push(format!("+{seconds:.3} nothing"));
        }
        Fault::Verdict(Verdict::Differs {
            expected: expected.to_owned(),
            seen,
        })
    }

    /// Logs a packet, as long as there are few lines.
    fn note(&mut self, direction: char, octets: &[u8], strange: &str) {
        self.silent = false;
        let seconds = self.began.elapsed().as_secs_f64();
        let line = format!("+{seconds:.3} {direction} {}{strange}", shown(octets));
        self.lines.push(line);
        if self.lines.len() > LINES_MAX[0] + LINES_MAX[1] {
            self.lines.remove(LINES_MAX[0]);
            self.left_out += 1;
        }
    }
}

impl Drop for Dialogue {
    fn drop(&mut self) {
        if !self.over && self.peer.is_some() {
            // A courtesy (RFC 1350 §7): the server need not wait for its timer.
            let _ = self.error(ErrorCode::UNDEFINED, b"seen enough");
        }
    }
}

impl Answer {
    /// The value of an option in the answer; the case of its name does not matter.
    pub(super) fn option(&self, wanted: &str) -> Option<&[u8]> {
        let Self::Oack(options) = self else {
            return None;
        };
        let mut options = options.iter();
        let found = options.find(|(name, _)| name.eq_ignore_ascii_case(wanted.as_bytes()));
        found.map(|(_, value)| value.as_slice())
    }

    /// The value as a number.
    pub(super) fn number(&self, wanted: &str) -> Option<u64> {
        str::from_utf8(self.option(wanted)?).ok()?.parse().ok()
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Data(payload) => write!(f, "DATA 1 [{}]", payload.len()),
            Self::Oack(options) => {
                f.write_str("OACK")?;
                options.iter().try_for_each(|(name, value)| {
                    write!(f, " {}={}", Escaped(name), Escaped(value))
                })
            }
            Self::Ack => f.write_str("ACK 0"),
            Self::Error(code, text) => write!(f, "ERROR {code} \"{text}\""),
            Self::Other(shown) => f.write_str(shown),
        }
    }
}

/// Encodes a request.
pub(super) fn request(
    opcode: Opcode,
    name: &[u8],
    mode: Mode,
    options: &[(&str, &str)],
) -> io::Result<Vec<u8>> {
    let mut buffer = [0; REQUEST_OCTETS_MAX];
    let mut writer = write_request(&mut buffer, opcode, name, mode).map_err(io::Error::other)?;
    for (name, value) in options {
        writer
            .text(name.as_bytes(), value.as_bytes())
            .map_err(io::Error::other)?;
    }
    let len = writer.len();
    Ok(buffer[..len].to_vec())
}

/// The address to send requests to `server` from. On loopback it is one that no other program uses: ports
/// are reused quickly there, and packets for the previous user of a port would arrive too.
fn own_address(server: IpAddr) -> IpAddr {
    match server {
        IpAddr::V4(address) if address.is_loopback() && cfg!(target_os = "linux") => {
            let [.., third, fourth] = fastrand::u32(..).to_be_bytes();
            // Avoids a network's own address and its broadcast address.
            Ipv4Addr::new(127, 255, third, fourth.clamp(1, 254)).into()
        }
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// A packet as a log line; anything else as octets.
fn shown(octets: &[u8]) -> String {
    match Packet::parse(octets) {
        Ok(packet) => packet.to_string(),
        Err(error) => format!("\"{}\" ({error})", Escaped(octets)),
    }
}

fn is_silence(error: &io::Error) -> bool {
    // Stopping and continuing the process interrupts the call.
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_time_ends_is_silence() {
        for kind in [
            ErrorKind::WouldBlock,
            ErrorKind::TimedOut,
            ErrorKind::Interrupted,
        ] {
            assert!(is_silence(&kind.into()), "{kind}");
        }
        assert!(!is_silence(&ErrorKind::NetworkUnreachable.into()));
    }
}
