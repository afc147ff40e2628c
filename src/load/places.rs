//! Where clients ask from. On loopback each has an address of its own, behind a few sockets; elsewhere
//! each has a socket, which the next one takes over.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::engine::{Bind, Engine, SocketId};
use crate::shard::{Origin, Shard};

/// Sockets that clients with addresses of their own share, for each shard. One would do, but for its
/// receive queue.
const SOCKETS: u32 = 32;
/// The first address of a client: 127.1.0.0, above those that servers listen on.
const ADDRESS_FIRST: u32 = 0x7f01_0000;
/// How many addresses there are: up to 127.254.255.255.
const ADDRESSES: u32 = 254 << 16;

/// What gives clients their places.
#[derive(Debug)]
pub(super) enum Places {
    /// Sockets by turns, and each time the next address, so that a server sees the same one again only
    /// after millions of others.
    Addresses {
        sockets: Vec<SocketId>,
        next: u32,
        last: u32,
        first: u32,
    },
    /// Sockets that nobody uses now, the one longest unused first.
    Sockets {
        any: SocketAddr,
        free: VecDeque<SocketId>,
    },
}

impl Places {
    /// Places to ask `server` from, for shard `number` of `shards`.
    pub(super) fn new<E: Engine>(
        shard: &mut Shard<E>,
        server: SocketAddr,
        (number, shards): (usize, usize),
    ) -> io::Result<Self> {
        let any = match server {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let has_addresses = cfg!(target_os = "linux")
            && matches!(server.ip(), IpAddr::V4(address) if address.is_loopback());
        if !has_addresses {
            let free = VecDeque::new();
            return Ok(Self::Sockets { any, free });
        }
        let bind = Bind::to(any);
        let sockets = (0..SOCKETS)
            .map(|_| shard.open_shared(bind, true))
            .collect::<io::Result<_>>()?;
        let each = ADDRESSES / shards as u32;
        let first = ADDRESS_FIRST + each * number as u32;
        Ok(Self::Addresses {
            sockets,
            next: first,
            first,
            last: first + (each - 1),
        })
    }

    /// A place for one more client.
    pub(super) fn take<E: Engine>(&mut self, shard: &mut Shard<E>) -> io::Result<Origin> {
        match self {
            Self::Addresses {
                sockets,
                next,
                first,
                last,
            } => {
                let address = *next;
                *next = if address == *last {
                    *first
                } else {
                    address + 1
                };
                let socket = sockets[(address % SOCKETS) as usize];
                Ok(Origin::Shared(
                    socket,
                    Some(Ipv4Addr::from_bits(address).into()),
                ))
            }
            Self::Sockets { any, free } => {
                let socket = match free.pop_front() {
                    Some(socket) => socket,
                    None => shard.open_shared(
                        Bind {
                            peers_only: true,
                            ..Bind::to(*any)
                        },
                        false,
                    )?,
                };
                Ok(Origin::Shared(socket, None))
            }
        }
    }

    /// A client is done with its place.
    pub(super) fn give_back(&mut self, origin: Origin) {
        if let (Self::Sockets { free, .. }, Origin::Shared(socket, None)) = (self, origin) {
            free.push_back(socket);
        }
    }
}
