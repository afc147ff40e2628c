//! The floor: a TFTP server that does nothing but take datagrams and send what was laid out before.
//!
//! It knows file, block size and window size beforehand. A request gets the OACK, and an ACK of block n the
//! blocks from n + 1 on, out of one buffer, by as few calls as the kernel allows: whole windows are cut into
//! datagrams by the kernel (UDP GSO), single blocks are a plain recvfrom(2) and sendto(2). There is no table,
//! no timer and no check, so nothing that serves files over sockets costs less, and no real server should be
//! built so: what is lost stays lost until the client asks again.

// Two socket options that no crate here sets safely.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::Path;

use crate::common::Terms;

/// Block size without a word about it (RFC 1350).
const BLKSIZE_DEFAULT: u16 = 512;
/// Octets of a DATA packet before its block.
const HEADER_OCTETS: usize = 4;
/// Octets of the longest datagram over IPv4, and of the longest burst too: 65,535 less the headers.
const BURST_OCTETS_MAX: usize = 65_535 - 20 - 8;
/// Receive buffer in octets: as large as the server's, so that neither loses what the other keeps.
const RECEIVE_BUFFER_OCTETS: c_int = 8 << 20;
/// Longest datagram that a client sends here, in octets.
const REQUEST_OCTETS_MAX: usize = 1_500;

/// Serves one file on these terms until the process ends; says at which port once it does.
pub(super) fn serve(file: &Path, terms: Terms) -> io::Result<()> {
    let responder = Responder::new(&std::fs::read(file)?, terms);
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    set_option(
        &socket,
        libc::SOL_SOCKET,
        libc::SO_RCVBUFFORCE,
        RECEIVE_BUFFER_OCTETS,
    )?;
    if responder.windowsize > 1 {
        // From now on the kernel cuts whatever is longer.
        let segment = responder.segment as c_int;
        set_option(&socket, libc::SOL_UDP, libc::UDP_SEGMENT, segment)?;
    }
    eprintln!("listening on udp {}", socket.local_addr()?);
    let mut datagram = [0; REQUEST_OCTETS_MAX];
    loop {
        let (len, peer) = socket.recv_from(&mut datagram)?;
        for burst in responder.answer(&datagram[..len]) {
            socket.send_to(burst, peer)?;
        }
    }
}

/// All that is ever sent.
struct Responder {
    /// The OACK, unless there is nothing to agree on.
    oack: Vec<u8>,
    /// The file as DATA packets, one behind the other.
    frames: Vec<u8>,
    /// Octets of each but the last.
    segment: usize,
    windowsize: usize,
    octets_per_call: usize,
}

impl Responder {
    fn new(contents: &[u8], terms: Terms) -> Self {
        let (blksize, windowsize) = terms.unwrap_or((BLKSIZE_DEFAULT, 1));
        let segment = usize::from(blksize) + HEADER_OCTETS;
        let blocks = contents.len() / usize::from(blksize) + 1;
        assert!(
            blocks <= usize::from(u16::MAX),
            "an ACK names its block only once"
        );
        let mut frames = Vec::with_capacity(contents.len() + blocks * HEADER_OCTETS);
        for number in 1..=blocks {
            let start = (number - 1) * usize::from(blksize);
            let end = contents.len().min(start + usize::from(blksize));
            let [high, low] = (number as u16).to_be_bytes();
            frames.extend_from_slice(&[0, 3, high, low]);
            frames.extend_from_slice(&contents[start..end]);
        }
        let oack = terms.map_or_else(Vec::new, |_| {
            let mut oack = format!("\0\x06tsize\0{}\0blksize\0{blksize}\0", contents.len());
            if windowsize > 1 {
                oack += &format!("windowsize\0{windowsize}\0");
            }
            oack.into_bytes()
        });
        Self {
            oack,
            frames,
            segment,
            windowsize: windowsize.into(),
            octets_per_call: BURST_OCTETS_MAX / segment * segment,
        }
    }

    /// What a datagram is answered with, call by call.
    fn answer(&self, datagram: &[u8]) -> std::slice::Chunks<'_, u8> {
        let answer = match datagram {
            [0, 1, ..] if self.oack.is_empty() => self.window(0),
            [0, 1, ..] => &self.oack,
            [0, 4, high, low, ..] => self.window(u16::from_be_bytes([*high, *low])),
            _ => &[],
        };
        answer.chunks(self.octets_per_call)
    }

    /// The blocks behind an ACK; none behind that of the last one.
    fn window(&self, acked: u16) -> &[u8] {
        let start = (usize::from(acked) * self.segment).min(self.frames.len());
        let end = self
            .frames
            .len()
            .min(start + self.windowsize * self.segment);
        &self.frames[start..end]
    }
}

fn set_option(socket: &UdpSocket, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    // SAFETY: the value is valid for reads of the length given, and the kernel keeps no reference to it.
    let answer = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<c_int>() as libc::socklen_t,
        )
    };
    if answer == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
