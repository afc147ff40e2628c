//! UDP sockets that report the local address of a received datagram, and send from a given one.
//!
//! Linux passes these as control messages of recvmsg(2) and sendmsg(2), which no safe crate offers without
//! an allocation per call. The interface of this file is safe, knows nothing of readiness and keeps no
//! state. Other systems use plain calls: answers then leave from the address that the system picks.

use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::{Bind, Local, Path};
use crate::time::Duration;

#[cfg(target_os = "linux")]
use linux as platform;
#[cfg(not(target_os = "linux"))]
use plain as platform;

/// Requested receive buffer, in octets. The kernel doubles it and charges each datagram, however short, with
/// 768 to 1,280 octets, so that 10,000 simultaneous requests fit.
pub const RECEIVE_BUFFER_OCTETS: usize = 8 << 20;

/// Requested send buffer, in octets. The kernel doubles it and charges each packet with 2,304 octets, so
/// that at most some nine hundred packets, or thirty of the largest bursts, are on their way to the device.
/// A device queue usually holds a thousand (`txqueuelen`) and drops any excess without telling the sender; a
/// full send buffer is reported, so the sender waits.
const SEND_BUFFER_OCTETS: usize = 1 << 20;

/// What is known about a received datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Received {
    /// Its length in octets.
    pub(super) len: usize,
    /// The path it took.
    pub(super) path: Path,
    /// Whether it was sent to a broadcast or multicast address.
    pub(super) broadcast: bool,
    /// The length in octets of each datagram but the last, if several from the same peer were coalesced.
    pub(super) segment: Option<usize>,
}

/// Opens a non-blocking socket that, where the system can and the caller wants it, reports everything that
/// [`Received`] holds.
///
/// SO_REUSEADDR stays off: it would let two servers share a port silently.
pub(super) fn open(bind: &Bind) -> io::Result<UdpSocket> {
    let ipv6 = bind.address.is_ipv6();
    let socket = Socket::new(
        Domain::for_address(bind.address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    socket.set_nonblocking(true)?;
    if ipv6 && bind.address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    if bind.shared {
        socket.set_reuse_port(true)?;
    }
    // Smaller buffers than requested drop more in a storm but break nothing.
    if !platform::force_receive_buffer(&socket, RECEIVE_BUFFER_OCTETS) {
        let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER_OCTETS);
    }
    let _ = socket.set_send_buffer_size(SEND_BUFFER_OCTETS);
    platform::prepare(&socket, ipv6, bind.peers_only)?;
    socket.bind(&bind.address.into())?;
    Ok(socket.into())
}

/// Makes receiving report the ICMP errors of sent datagrams.
pub(super) fn report_errors(socket: &UdpSocket, ipv6: bool) -> io::Result<()> {
    platform::report_errors(socket, ipv6)
}

/// Takes one of the [reports](report_errors): an error number, and the path of the datagram it concerns.
pub(super) fn report(socket: &UdpSocket) -> Option<(i32, Path)> {
    platform::report(socket)
}

/// Makes the kernel coalesce consecutive datagrams from the same peer (generic receive offload, GRO);
/// [`Received::segment`] tells where to split. On kernels without GRO this does nothing.
pub(super) fn receive_rows(socket: &UdpSocket) {
    platform::receive_rows(socket);
}

/// Waits for `source` to become readable, or for `timeout` to pass, to within microseconds where
/// epoll_wait(2) counts in milliseconds; returns whether the system can do that.
pub(super) fn wait_precisely(source: &impl AsRawFd, timeout: Duration) -> bool {
    platform::wait_precisely(source, timeout)
}

/// Opens a socket that is used only for queries to the kernel.
pub(super) fn unbound() -> io::Result<UdpSocket> {
    let open = |domain| Socket::new(domain, Type::DGRAM, Some(Protocol::UDP));
    open(Domain::IPV4)
        .or_else(|_| open(Domain::IPV6))
        .map(UdpSocket::from)
}

/// Receives one datagram.
pub(super) fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<Received> {
    platform::receive(socket, buffer)
}

/// Receives one datagram, of which only the peer matters. Without a header and control messages to pass to
/// the kernel and back, a call costs an eighth less.
pub(super) fn receive_plainly(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<Received> {
    plain::receive(socket, buffer)
}

/// Sends what `parts` consist of along `path`, split into datagrams of `segment` octets if that is given.
/// `ipv6` is whether the socket is of that family.
pub(super) fn send(
    socket: &UdpSocket,
    ipv6: bool,
    path: &Path,
    parts: &[IoSlice<'_>],
    segment: Option<u16>,
) -> io::Result<()> {
    let peer = if ipv6 { mapped(path.peer) } else { path.peer };
    // The plain call is the cheapest one that suffices.
    if path.local.address.is_none() && segment.is_none() && parts.len() == 1 {
        return plain::send(socket, ipv6, peer, &path.local, parts, segment);
    }
    platform::send(socket, ipv6, peer, &path.local, parts, segment)
}

/// Octets that a socket may have on their way to the device, as the kernel counts them: not as they were requested.
pub(super) fn send_buffer(socket: &UdpSocket) -> io::Result<usize> {
    SockRef::from(socket).send_buffer_size()
}

/// How many datagrams the socket has dropped because its queue was full.
pub(super) fn drops(socket: &UdpSocket) -> u32 {
    platform::drops(socket)
}

/// The receive buffer that the system granted, in the units of the request.
pub(super) fn receive_buffer(socket: &UdpSocket) -> io::Result<usize> {
    let granted = SockRef::from(socket).recv_buffer_size()?;
    // Linux reports twice the number that was set.
    Ok(if cfg!(target_os = "linux") {
        granted / 2
    } else {
        granted
    })
}

/// How many datagrams the kernel cuts one burst into at most; `None` if it does not segment bursts. Any socket
/// will do for the query.
pub(super) fn segments_max(socket: &UdpSocket) -> Option<usize> {
    platform::segments_max(socket)
}

/// The largest IP packet that the interface sends unfragmented; any socket will do for the query.
pub(super) fn mtu(socket: &UdpSocket, interface: u32) -> Option<u32> {
    platform::mtu(socket, interface)
}

/// The largest IP packet that reaches `peer` unfragmented, as far as the kernel knows the route.
#[must_use]
pub fn route_mtu(peer: SocketAddr) -> Option<u32> {
    let any: IpAddr = match peer {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    // Sends nothing: it only makes the kernel look up a route.
    socket.connect(peer).ok()?;
    platform::route_mtu(&socket, peer.is_ipv6())
}

/// Makes the kernel use `octets` as the MTU of every path of an IPv6 socket, as a narrow link on the path
/// would.
#[cfg(all(test, target_os = "linux"))]
pub(super) fn narrow(socket: &UdpSocket, octets: u32) -> io::Result<()> {
    let octets = octets.try_into().unwrap_or(i32::MAX);
    linux::set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU, octets)
}

/// The address in the form that an IPv6 socket takes.
pub(super) fn mapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) => SocketAddrV6::new(ip.to_ipv6_mapped(), address.port(), 0, 0).into(),
        IpAddr::V6(_) => address,
    }
}

/// The address in its usual form: IPv4 even if an IPv6 socket received it.
fn unmapped(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::new(ip.into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

/// Uses control messages for everything.
#[cfg(target_os = "linux")]
pub(super) mod linux {
    use std::ffi::c_int;
    use std::iter;
    use std::mem;
    use std::os::fd::AsFd;
    use std::ptr;

    use socket2::SockAddr;

    use crate::store::Burst;

    use super::*;

    /// Room for a socket name: a sockaddr_in6, padded to keep the control messages aligned.
    pub(crate) const NAME_OCTETS: usize = 32;

    /// Room for the control messages of one call: 96 octets at most are received (IP_PKTINFO,
    /// IPV6_PKTINFO and UDP_GRO), and fewer are sent.
    pub(crate) const CONTROL_OCTETS: usize = 128;

    /// Datagrams that the kernel cuts one burst into at most: its UDP_MAX_SEGMENTS, since Linux 6.9.
    pub(super) const SEGMENTS_MAX: usize = 128;
    const _: () = assert!(SEGMENTS_MAX <= Burst::PARTED_MAX);

    /// The same from Linux 4.18 on, the first that cuts bursts.
    pub(super) const SEGMENTS_MAX_BEFORE: usize = 64;

    /// Number of values that SO_MEMINFO reports for a socket (linux/sock_diag.h).
    const MEMORY_NUMBERS: usize = 9;
    /// The index of the dropped datagrams among them.
    const DROPS: usize = 8;

    pub(in crate::engine) fn force_receive_buffer(socket: &Socket, octets: usize) -> bool {
        let octets = c_int::try_from(octets).unwrap_or(c_int::MAX);
        set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, octets).is_ok()
    }

    pub(super) fn prepare(socket: &Socket, ipv6: bool, peers_only: bool) -> io::Result<()> {
        let told = c_int::from(!peers_only);
        // An IPv6 socket needs the IPv4 options too, for its IPv4 peers: only IP_PKTINFO tells a broadcast
        // address from one of the host's own.
        set_option(socket, libc::IPPROTO_IP, libc::IP_PKTINFO, told)?;
        // Never set "don't fragment": a block above the MTU is sent in fragments. And an ICMP message, true
        // or forged, then shrinks no packet and makes no burst fail (Linux 3.15; older kernels offer only
        // IP_PMTUDISC_DONT).
        let discover = |how| set_option(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, how);
        discover(libc::IP_PMTUDISC_OMIT).or_else(|_| discover(libc::IP_PMTUDISC_DONT))?;
        if ipv6 {
            set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, told)?;
            // IPv6 routers do not fragment, so their reports about the path count.
            let never = libc::IPV6_PMTUDISC_DONT;
            set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, never)?;
        }
        Ok(())
    }

    pub(super) fn report_errors(socket: &UdpSocket, ipv6: bool) -> io::Result<()> {
        if ipv6 {
            set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1)
        } else {
            set_option(socket, libc::IPPROTO_IP, libc::IP_RECVERR, 1)
        }
    }

    pub(super) fn report(socket: &UdpSocket) -> Option<(i32, Path)> {
        // The datagram itself is not needed.
        receive_with(socket, &mut [], libc::MSG_ERRQUEUE, |name, control, _| {
            let mut path = Path {
                peer: unmapped(address(name).ok_or(io::ErrorKind::InvalidData)?),
                local: Local::default(),
            };
            let mut errno = 0;
            for (level, kind, data) in messages(control) {
                match (level, kind) {
                    // The ICMP message went to the address that the datagram had left from.
                    (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                        let info = read::<libc::in_pktinfo>(data);
                        let address = info.map(|info| info.ipi_addr.s_addr.to_ne_bytes());
                        path.local.address = address.map(|octets| Ipv4Addr::from(octets).into());
                    }
                    (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                        let info = read::<libc::in6_pktinfo>(data);
                        let address = info.map(|info| info.ipi6_addr.s6_addr);
                        path.local.address = address.map(|octets| Ipv6Addr::from(octets).into());
                    }
                    (libc::IPPROTO_IP, libc::IP_RECVERR)
                    | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR) => {
                        // The first member of a sock_extended_err.
                        let number = read::<u32>(data).and_then(|errno| errno.try_into().ok());
                        errno = number.unwrap_or(errno);
                    }
                    _ => {}
                }
            }
            Ok((errno, path))
        })
        .ok()
    }

    pub(super) fn wait_precisely(source: &impl AsRawFd, timeout: Duration) -> bool {
        let mut source = libc::pollfd {
            fd: source.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let timeout = libc::timespec {
            tv_sec: timeout.as_secs().try_into().unwrap_or(libc::time_t::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        // SAFETY: there is one pollfd, which outlives the call like the timeout; no mask is given.
        unsafe { libc::ppoll(&raw mut source, 1, &raw const timeout, ptr::null()) };
        // The caller finds out what ended the wait.
        true
    }

    pub(super) fn receive_rows(socket: &UdpSocket) {
        let _ = set_option(socket, libc::SOL_UDP, libc::UDP_GRO, 1);
    }

    pub(super) fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<Received> {
        receive_with(socket, buffer, 0, told)
    }

    /// Receives, and calls `tell` with the name, the control messages and the number of octets.
    fn receive_with<T>(
        socket: &UdpSocket,
        buffer: &mut [u8],
        flags: c_int,
        tell: impl FnOnce(&[u8], &[u8], usize) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut name = [0; NAME_OCTETS];
        let mut control = Control::new();
        let mut part = libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: buffer.len(),
        };
        // SAFETY: a msghdr of zeros is one without address, data and control messages.
        let mut header: libc::msghdr = unsafe { mem::zeroed() };
        header.msg_name = name.as_mut_ptr().cast();
        header.msg_namelen = NAME_OCTETS as libc::socklen_t;
        header.msg_iov = &raw mut part;
        header.msg_iovlen = 1;
        header.msg_control = control.octets.as_mut_ptr().cast();
        header.msg_controllen = CONTROL_OCTETS as _;
        // SAFETY: all that `header` points to is owned by this function or borrowed by it mutably, and has
        // the length that it gives.
        let len = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags) };
        let len = usize::try_from(len).map_err(|_| io::Error::last_os_error())?;
        let name = &name[..NAME_OCTETS.min(header.msg_namelen as usize)];
        let control = &control.octets[..CONTROL_OCTETS.min(header.msg_controllen as usize)];
        tell(name, control, len.min(buffer.len()))
    }

    /// What the kernel reports in name and control messages about a datagram of `len` octets.
    pub(crate) fn told(name: &[u8], control: &[u8], len: usize) -> io::Result<Received> {
        let peer = address(name).ok_or(io::ErrorKind::InvalidData)?;
        let mut received = Received {
            len,
            path: Path {
                peer: unmapped(peer),
                local: Local::default(),
            },
            broadcast: false,
            segment: None,
        };
        for (level, kind, data) in messages(control) {
            note(&mut received, level, kind, data);
        }
        Ok(received)
    }

    /// The address in a socket name.
    fn address(name: &[u8]) -> Option<SocketAddr> {
        let family: libc::sa_family_t = read(name)?;
        match c_int::from(family) {
            libc::AF_INET => {
                let name: libc::sockaddr_in = read(name)?;
                let ip = Ipv4Addr::from(name.sin_addr.s_addr.to_ne_bytes());
                Some(SocketAddr::new(ip.into(), u16::from_be(name.sin_port)))
            }
            libc::AF_INET6 => {
                let name: libc::sockaddr_in6 = read(name)?;
                let (port, ip) = (u16::from_be(name.sin6_port), name.sin6_addr.s6_addr.into());
                Some(SocketAddrV6::new(ip, port, 0, name.sin6_scope_id).into())
            }
            _ => None,
        }
    }

    /// Records what a control message reports.
    fn note(received: &mut Received, level: c_int, kind: c_int, data: &[u8]) {
        let local = &mut received.path.local;
        match (level, kind) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                let Some(info) = read::<libc::in_pktinfo>(data) else {
                    return;
                };
                let own = Ipv4Addr::from(info.ipi_spec_dst.s_addr.to_ne_bytes());
                let asked = Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes());
                local.address = (!own.is_unspecified()).then_some(own.into());
                local.interface = u32::try_from(info.ipi_ifindex).unwrap_or(0);
                // For a datagram to one of the host's own addresses, both fields are equal.
                received.broadcast = own != asked;
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                let Some(info) = read::<libc::in6_pktinfo>(data) else {
                    return;
                };
                let asked = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                // For an IPv4 datagram, IP_PKTINFO tells more.
                if asked.to_ipv4_mapped().is_none() {
                    received.broadcast = asked.is_multicast();
                    local.address = (!received.broadcast).then_some(asked.into());
                    local.interface = info.ipi6_ifindex as _;
                }
            }
            (libc::SOL_UDP, libc::UDP_GRO) => {
                let segment = read::<u32>(data).and_then(|octets| usize::try_from(octets).ok());
                received.segment = segment.filter(|&octets| octets > 0);
            }
            _ => {}
        }
    }

    /// The control messages in `octets`: level, type and data of each.
    fn messages(mut octets: &[u8]) -> impl Iterator<Item = (c_int, c_int, &[u8])> {
        // SAFETY: plain arithmetic.
        let header_octets = unsafe { libc::CMSG_LEN(0) } as usize;
        iter::from_fn(move || {
            let header: libc::cmsghdr = read(octets)?;
            let data = octets.get(header_octets..header.cmsg_len as _)?;
            // SAFETY: plain arithmetic.
            let space = unsafe { libc::CMSG_SPACE(data.len() as u32) } as usize;
            octets = octets.get(space..).unwrap_or_default();
            Some((header.cmsg_level, header.cmsg_type, data))
        })
    }

    /// Types that the kernel writes into names and control messages.
    ///
    /// # Safety
    /// Any octets must be a valid value: the type consists of numbers.
    unsafe trait Numbers: Copy {}
    // SAFETY: made of numbers.
    unsafe impl Numbers for libc::cmsghdr {}
    // SAFETY: made of numbers.
    unsafe impl Numbers for libc::in_pktinfo {}
    // SAFETY: made of numbers.
    unsafe impl Numbers for libc::in6_pktinfo {}
    // SAFETY: made of numbers.
    unsafe impl Numbers for libc::sockaddr_in {}
    // SAFETY: made of numbers.
    unsafe impl Numbers for libc::sockaddr_in6 {}
    // SAFETY: a number.
    unsafe impl Numbers for u16 {}
    // SAFETY: a number.
    unsafe impl Numbers for u32 {}

    /// The value that `octets` begin with, if they are long enough.
    fn read<T: Numbers>(octets: &[u8]) -> Option<T> {
        let octets = octets.get(..size_of::<T>())?;
        // SAFETY: there are as many octets as the value has, and any octets are a valid value.
        Some(unsafe { octets.as_ptr().cast::<T>().read_unaligned() })
    }

    pub(super) fn send(
        socket: &UdpSocket,
        ipv6: bool,
        peer: SocketAddr,
        local: &Local,
        parts: &[IoSlice<'_>],
        segment: Option<u16>,
    ) -> io::Result<()> {
        let message = Message::new(ipv6, peer, local, segment)?;
        // An IoSlice is laid out as an iovec.
        let header = message.header(parts.as_ptr().cast(), parts.len());
        // SAFETY: all that `header` points to lives during this call, has the length that it gives, and is only
        // read by the kernel.
        let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, 0) };
        if sent < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    /// The destination of a datagram or a burst, in the form that sendmsg(2) takes.
    pub(crate) struct Message {
        peer: SockAddr,
        control: Control,
    }

    impl Message {
        pub(crate) fn new(
            ipv6: bool,
            peer: SocketAddr,
            local: &Local,
            segment: Option<u16>,
        ) -> io::Result<Self> {
            let mut control = Control::new();
            match local.address {
                Some(address) if ipv6 => {
                    let address = match address {
                        IpAddr::V4(address) => address.to_ipv6_mapped(),
                        IpAddr::V6(address) => address,
                    };
                    // Only a link-local address needs its interface; otherwise leave the choice to routing.
                    let interface = if address.is_unicast_link_local() {
                        local.interface
                    } else {
                        0
                    };
                    let info = libc::in6_pktinfo {
                        ipi6_addr: libc::in6_addr {
                            s6_addr: address.octets(),
                        },
                        ipi6_ifindex: interface as _,
                    };
                    control.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
                }
                Some(IpAddr::V4(address)) => {
                    let info = libc::in_pktinfo {
                        ipi_ifindex: 0,
                        ipi_spec_dst: libc::in_addr {
                            s_addr: u32::from_ne_bytes(address.octets()),
                        },
                        ipi_addr: libc::in_addr { s_addr: 0 },
                    };
                    control.push(libc::IPPROTO_IP, libc::IP_PKTINFO, info);
                }
                Some(IpAddr::V6(_)) => {
                    return Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT));
                }
                None => {}
            }
            if let Some(segment) = segment {
                control.push(libc::SOL_UDP, libc::UDP_SEGMENT, segment);
            }
            let peer = SockAddr::from(peer);
            Ok(Self { peer, control })
        }

        /// A header for `count` parts. It points to them and into this message, all of which must stay in place
        /// for as long as the kernel may read it.
        pub(crate) fn header(&self, parts: *const libc::iovec, count: usize) -> libc::msghdr {
            // SAFETY: a msghdr of zeros is one without address, data and control messages.
            let mut header: libc::msghdr = unsafe { mem::zeroed() };
            header.msg_name = self.peer.as_ptr().cast_mut().cast();
            header.msg_namelen = self.peer.len();
            header.msg_iov = parts.cast_mut();
            header.msg_iovlen = count as _;
            if self.control.used > 0 {
                header.msg_control = self.control.octets.as_ptr().cast_mut().cast();
                header.msg_controllen = self.control.used as _;
            }
            header
        }
    }

    pub(super) fn segments_max(socket: &UdpSocket) -> Option<usize> {
        if !cuts_segments(socket) {
            return None;
        }
        // No option tells the limit, and an older kernel may have been given the higher one, so a burst is
        // tried. If it fails for another reason, such as a loopback that is down, the lower limit still holds.
        let loopbacks: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        let takes_all = |&address: &IpAddr| sends_itself(address, SEGMENTS_MAX).is_ok();
        Some(if loopbacks.iter().any(takes_all) {
            SEGMENTS_MAX
        } else {
            SEGMENTS_MAX_BEFORE
        })
    }

    /// Sends a burst of segments of one octet from a socket to itself. None of it leaves the loopback, nor
    /// would an ICMP message about the socket being closed before the burst arrives.
    pub(super) fn sends_itself(address: IpAddr, segments: usize) -> io::Result<()> {
        let socket = UdpSocket::bind((address, 0))?;
        socket.set_nonblocking(true)?;
        let (itself, octets) = (socket.local_addr()?, vec![0; segments]);
        send(
            &socket,
            address.is_ipv6(),
            itself,
            &Local::default(),
            &[IoSlice::new(&octets)],
            Some(1),
        )
    }

    fn cuts_segments(socket: &UdpSocket) -> bool {
        let mut segment: c_int = 0;
        let mut length = size_of::<c_int>() as libc::socklen_t;
        // SAFETY: value and length are valid and writable, and the length is the value's.
        let answer = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_UDP,
                libc::UDP_SEGMENT,
                (&raw mut segment).cast(),
                &raw mut length,
            )
        };
        answer == 0
    }

    pub(super) fn drops(socket: &UdpSocket) -> u32 {
        let mut numbers = [0_u32; MEMORY_NUMBERS];
        let mut length = size_of_val(&numbers) as libc::socklen_t;
        // SAFETY: numbers and length are valid and writable, and the length is the numbers'.
        let answer = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_MEMINFO,
                numbers.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        // A value that the kernel does not report stays 0.
        if answer == 0 { numbers[DROPS] } else { 0 }
    }

    pub(super) fn mtu(socket: &UdpSocket, interface: u32) -> Option<u32> {
        let answer = ask(socket, interface, libc::SIOCGIFMTU)?;
        // SAFETY: this is the member that the call writes.
        u32::try_from(unsafe { answer.ifr_ifru.ifru_mtu }).ok()
    }

    /// Whether the interface loops back what is sent to it.
    pub(crate) fn is_loopback(socket: &UdpSocket, interface: u32) -> bool {
        let Some(answer) = ask(socket, interface, libc::SIOCGIFFLAGS) else {
            return false;
        };
        // SAFETY: this is the member that the call writes.
        let flags = unsafe { answer.ifr_ifru.ifru_flags };
        c_int::from(flags) & libc::IFF_LOOPBACK != 0
    }

    /// Queries the kernel about an interface, with a call that takes an ifreq with a name.
    fn ask(socket: &UdpSocket, interface: u32, call: libc::c_ulong) -> Option<libc::ifreq> {
        let index = c_int::try_from(interface).ok().filter(|&index| index > 0)?;
        // SAFETY: an ifreq of zeros is one with an empty name.
        let mut request: libc::ifreq = unsafe { mem::zeroed() };
        request.ifr_ifru.ifru_ifindex = index;
        for call in [libc::SIOCGIFNAME, call] {
            // SAFETY: the first call reads the index and writes the name, the second reads the name and
            // writes its result; both stay within the ifreq.
            let answer = unsafe { libc::ioctl(socket.as_raw_fd(), call as _, &raw mut request) };
            if answer < 0 {
                return None;
            }
        }
        Some(request)
    }

    pub(super) fn route_mtu(socket: &UdpSocket, ipv6: bool) -> Option<u32> {
        let (level, name) = if ipv6 {
            (libc::IPPROTO_IPV6, libc::IPV6_MTU)
        } else {
            (libc::IPPROTO_IP, libc::IP_MTU)
        };
        let mut octets: c_int = 0;
        let mut length = size_of::<c_int>() as libc::socklen_t;
        // SAFETY: value and length are valid and writable, and the length is the value's.
        let answer = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                level,
                name,
                (&raw mut octets).cast(),
                &raw mut length,
            )
        };
        u32::try_from(octets)
            .ok()
            .filter(|&octets| answer == 0 && octets > 0)
    }

    pub(super) fn set_option(
        socket: &impl AsFd,
        level: c_int,
        name: c_int,
        value: c_int,
    ) -> io::Result<()> {
        // SAFETY: the value is valid for reads of the length given.
        let answer = unsafe {
            libc::setsockopt(
                socket.as_fd().as_raw_fd(),
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

    /// Control messages, aligned as their headers require.
    #[repr(C)]
    struct Control {
        alignment: [libc::cmsghdr; 0],
        octets: [u8; CONTROL_OCTETS],
        used: usize,
    }

    impl Control {
        const fn new() -> Self {
            Self {
                alignment: [],
                octets: [0; CONTROL_OCTETS],
                used: 0,
            }
        }

        /// Adds a message. There is room for all messages that are ever sent together.
        fn push<T: Copy>(&mut self, level: c_int, kind: c_int, value: T) {
            let len = size_of::<T>() as u32;
            // SAFETY: plain arithmetic.
            let (space, len) = unsafe { (libc::CMSG_SPACE(len) as usize, libc::CMSG_LEN(len)) };
            let place = &mut self.octets[self.used..self.used + space];
            let message: *mut libc::cmsghdr = place.as_mut_ptr().cast();
            // SAFETY: `place` holds `space` octets, enough for the header, the padding and the value.
            // It is aligned for the header, because the octets are and CMSG_SPACE keeps alignment.
            unsafe {
                (*message).cmsg_len = len as _;
                (*message).cmsg_level = level;
                (*message).cmsg_type = kind;
                ptr::write_unaligned(libc::CMSG_DATA(message).cast(), value);
            }
            self.used += space;
        }
    }
}

/// What every Unix can do. Where it suffices, it is the cheapest on Linux too; rustix makes these calls without
/// the detours that libc takes so that threads can be cancelled.
#[cfg_attr(target_os = "linux", allow(dead_code))]
mod plain {
    use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recvfrom, sendmsg_addr, sendto};

    use super::*;

    pub(super) const fn force_receive_buffer(_: &Socket, _: usize) -> bool {
        false
    }

    pub(super) const fn prepare(_: &Socket, _: bool, _: bool) -> io::Result<()> {
        Ok(())
    }

    pub(super) const fn report_errors(_: &UdpSocket, _: bool) -> io::Result<()> {
        Ok(())
    }

    pub(super) const fn report(_: &UdpSocket) -> Option<(i32, Path)> {
        None
    }

    pub(super) fn wait_precisely(_: &impl AsRawFd, _: Duration) -> bool {
        false
    }

    pub(super) const fn receive_rows(_: &UdpSocket) {}

    pub(super) fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<Received> {
        let (len, _, peer) = recvfrom(socket, buffer, RecvFlags::empty())?;
        let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
        let path = Path {
            peer: unmapped(peer.ok_or(io::ErrorKind::InvalidData)?),
            local: Local::default(),
        };
        Ok(Received {
            len,
            path,
            broadcast: false,
            segment: None,
        })
    }

    pub(super) fn send(
        socket: &UdpSocket,
        _ipv6: bool,
        peer: SocketAddr,
        _local: &Local,
        parts: &[IoSlice<'_>],
        segment: Option<u16>,
    ) -> io::Result<()> {
        if segment.is_some() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        match parts {
            [octets] => sendto(socket, octets, SendFlags::empty(), &peer)?,
            parts => {
                let mut control = SendAncillaryBuffer::default();
                sendmsg_addr(socket, &peer, parts, &mut control, SendFlags::empty())?
            }
        };
        Ok(())
    }

    pub(super) const fn segments_max(_: &UdpSocket) -> Option<usize> {
        None
    }

    pub(super) const fn drops(_: &UdpSocket) -> u32 {
        0
    }

    pub(super) const fn mtu(_: &UdpSocket, _: u32) -> Option<u32> {
        None
    }

    pub(super) const fn route_mtu(_: &UdpSocket, _: bool) -> Option<u32> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_os = "linux")]
    use crate::testing::skip;

    #[test]
    fn plain_calls_carry_a_datagram_there_and_back() {
        let bind = |address: &str| {
            let socket = UdpSocket::bind(address).expect("binds");
            let address = socket.local_addr().expect("bound");
            (socket, address)
        };
        let (here, here_address) = bind("127.0.0.1:0");
        let (there, there_address) = bind("127.0.0.1:0");
        let mut buffer = [0; 16];

        plain::send(
            &here,
            false,
            there_address,
            &Local::default(),
            &[IoSlice::new(b"quest"), IoSlice::new(b"ion")],
            None,
        )
        .expect("sent");
        let received = plain::receive(&there, &mut buffer).expect("received");
        assert_eq!(
            (&buffer[..received.len], received.path.peer),
            (&b"question"[..], here_address)
        );

        let segment = Some(4);
        let refused = plain::send(
            &there,
            false,
            here_address,
            &Local::default(),
            &[IoSlice::new(b"answer")],
            segment,
        );
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::Unsupported);

        let socket = Socket::from(there);
        assert!(!plain::force_receive_buffer(&socket, 1));
        assert!(plain::prepare(&socket, false, false).is_ok());
        assert_eq!(plain::drops(&here), 0);
        assert_eq!(plain::segments_max(&here), None);
        assert_eq!(plain::mtu(&here, 1), None);
        plain::receive_rows(&here);
        assert!(!plain::wait_precisely(&here, Duration::ZERO));
        assert!(plain::report_errors(&here, false).is_ok());
        assert!(plain::report(&here).is_none());
        assert_eq!(plain::route_mtu(&here, false), None);
    }

    /// Goal: the limit found is the kernel's own. Method: a burst of so many segments is taken, and one with
    /// one more is refused.
    #[cfg(target_os = "linux")]
    #[test]
    fn the_kernel_takes_as_many_segments_as_found_and_no_more() {
        let Some(most) = segments_max(&unbound().expect("a socket")) else {
            return skip("this kernel does not cut bursts");
        };
        let burst = |segments| linux::sends_itself(Ipv4Addr::LOCALHOST.into(), segments);
        burst(most).expect("a burst that the kernel takes");
        let refused = burst(most + 1).expect_err("a burst that the kernel refuses");
        assert_eq!(refused.raw_os_error(), Some(libc::EINVAL));
        if most != linux::SEGMENTS_MAX {
            assert_eq!(most, linux::SEGMENTS_MAX_BEFORE);
            skip("this kernel cuts bursts into fewer datagrams");
        }
    }

    #[test]
    fn ipv4_addresses_are_mapped_for_ipv6_sockets_and_back() {
        let plain: SocketAddr = "192.0.2.1:69".parse().expect("an address");
        let ipv6: SocketAddr = "[fe80::1%3]:69".parse().expect("an address");
        assert_eq!(
            mapped(plain),
            "[::ffff:192.0.2.1]:69".parse().expect("an address")
        );
        assert_eq!(unmapped(mapped(plain)), plain);
        assert_eq!(unmapped(mapped(ipv6)), ipv6);
    }
}
