//! The source addresses of clients. On loopback each client has its own address, behind a few shared
//! sockets; elsewhere each has a socket, which it passes on to the next client.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

use super::plan::Share;
use super::weather::{Conditions, Weathered};
use crate::engine::{Bind, Engine, SocketId};
use crate::shard::{Origin, Shard};

/// Sockets per shard that clients with their own addresses share. One would do, were it not for its
/// receive queue.
const SOCKETS: u32 = 32;
/// Where profiles divide these sockets, each gets at least this many.
const SOCKETS_MIN: u32 = 4;
/// The first client address: 127.1.0.0, above those that servers listen on.
const ADDRESS_FIRST: u32 = 0x7f01_0000;
/// The number of addresses: up to 127.254.255.255.
const ADDRESSES: u32 = 254 << 16;

/// Allocates places for clients of one profile.
#[derive(Debug)]
pub(super) struct Places {
    any: IpAddr,
    /// The client ports that have not been tried yet.
    ports: Option<RangeInclusive<u16>>,
    conditions: Conditions,
    supply: Supply,
}

#[derive(Debug)]
enum Supply {
    /// Sockets in rotation, each time with the next address, so that a server sees the same address again
    /// only after millions of others.
    Addresses {
        sockets: Vec<SocketId>,
        next: u32,
        last: u32,
        first: u32,
    },
    /// Unused sockets, the one unused for longest first.
    Sockets(VecDeque<SocketId>),
}

impl Places {
    /// The places for one shard and one profile, to send requests to `server`.
    pub(super) fn new<E: Engine>(
        shard: &mut Shard<Weathered<E>>,
        server: SocketAddr,
        shards: Share,
        kinds: usize,
        (ports, conditions): (Option<(u16, u16)>, Conditions),
    ) -> io::Result<Self> {
        let any = match server {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let mut places = Self {
            any,
            ports: ports.map(|(first, last)| first..=last),
            conditions,
            supply: Supply::Sockets(VecDeque::new()),
        };
        let has_addresses = cfg!(target_os = "linux")
            && matches!(server.ip(), IpAddr::V4(address) if address.is_loopback());
        if has_addresses {
            let count = (SOCKETS / kinds as u32).max(SOCKETS_MIN);
            let each = ADDRESSES / shards.of as u32;
            let first = ADDRESS_FIRST + each * shards.number as u32;
            places.supply = Supply::Addresses {
                sockets: (0..count)
                    .map(|_| places.open(shard, true))
                    .collect::<io::Result<_>>()?,
                next: first,
                first,
                last: first + (each - 1),
            };
        }
        Ok(places)
    }

    /// Opens a socket on the next free port, if the clients have ports of their own. Once all of those
    /// are taken, uses any port, because machines with other addresses would not compete for ports.
    fn open<E: Engine>(
        &mut self,
        shard: &mut Shard<Weathered<E>>,
        by_address: bool,
    ) -> io::Result<SocketId> {
        loop {
            let port = self.ports.as_mut().and_then(Iterator::next);
            let bind = Bind {
                peers_only: !by_address,
                ..Bind::to((self.any, port.unwrap_or(0)).into())
            };
            match shard.open_shared(bind, by_address) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && port.is_some() => {}
                opened => {
                    let socket = opened?;
                    shard.engine_mut().set(socket, self.conditions);
                    return Ok(socket);
                }
            }
        }
    }

    /// Allocates a place for one more client.
    pub(super) fn take<E: Engine>(
        &mut self,
        shard: &mut Shard<Weathered<E>>,
    ) -> io::Result<Origin> {
        match &mut self.supply {
            Supply::Addresses {
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
                let socket = sockets[address as usize % sockets.len()];
                Ok(Origin::Shared(
                    socket,
                    Some(Ipv4Addr::from_bits(address).into()),
                ))
            }
            Supply::Sockets(free) => {
                let socket = match free.pop_front() {
                    Some(socket) => socket,
                    None => self.open(shard, false)?,
                };
                Ok(Origin::Shared(socket, None))
            }
        }
    }

    /// Releases a client's place.
    pub(super) fn give_back(&mut self, origin: Origin) {
        if let (Supply::Sockets(free), Origin::Shared(socket, None)) = (&mut self.supply, origin) {
            free.push_back(socket);
        }
    }
}
