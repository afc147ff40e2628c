//! Where clients ask from. On loopback each has an address of its own, behind a few sockets; elsewhere
//! each has a socket, which the next one takes over.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

use super::plan::Share;
use super::weather::{Conditions, Weathered};
use crate::engine::{Bind, Engine, SocketId};
use crate::shard::{Origin, Shard};

/// Sockets that clients with addresses of their own share, for each shard. One would do, but for its
/// receive queue.
const SOCKETS: u32 = 32;
/// Where clients of many kinds divide them, each kind has so many at least.
const SOCKETS_MIN: u32 = 4;
/// The first address of a client: 127.1.0.0, above those that servers listen on.
const ADDRESS_FIRST: u32 = 0x7f01_0000;
/// How many addresses there are: up to 127.254.255.255.
const ADDRESSES: u32 = 254 << 16;

/// What gives clients of one kind their places.
#[derive(Debug)]
pub(super) struct Places {
    any: IpAddr,
    /// The ports that they ask from, but for those that were tried.
    ports: Option<RangeInclusive<u16>>,
    conditions: Conditions,
    supply: Supply,
}

#[derive(Debug)]
enum Supply {
    /// Sockets by turns, and each time the next address, so that a server sees the same one again only
    /// after millions of others.
    Addresses {
        sockets: Vec<SocketId>,
        next: u32,
        last: u32,
        first: u32,
    },
    /// Sockets that nobody uses now, the one longest unused first.
    Sockets(VecDeque<SocketId>),
}

impl Places {
    /// Places to ask `server` from, for one of the shards and one of the kinds of clients.
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

    /// Opens a socket: on the next port that is free, if the clients have ports of their own; on any once
    /// all of those are taken, as machines with other addresses take none from each other.
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

    /// A place for one more client.
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

    /// A client is done with its place.
    pub(super) fn give_back(&mut self, origin: Origin) {
        if let (Supply::Sockets(free), Origin::Shared(socket, None)) = (&mut self.supply, origin) {
            free.push_back(socket);
        }
    }
}
