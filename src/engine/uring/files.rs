//! Sockets registered with a ring (fixed files): the kernel need not look them up for each burst.
//!
//! A ring is taken down some milliseconds after its process has ended, and what is registered with it stays open until
//! then. A server that is started again may want the same port, so only sockets whose port the kernel chose are
//! registered, and they leave the table when they are closed.

use std::net::UdpSocket;
use std::os::fd::{AsRawFd, RawFd};

use io_uring::IoUring;

use crate::engine::SocketId;

/// Limit of registered sockets: a shard answers from one for each local address.
const FILES_MAX: usize = 64;

/// The operation that fills and empties places (IORING_REGISTER_FILES_UPDATE).
pub(super) const UPDATE: u8 = 6;

/// The descriptor that empties a place.
const NOTHING: RawFd = -1;

/// A ring's table of registered sockets.
#[derive(Debug)]
pub(super) struct Files {
    /// The places, by the kernel's index.
    places: Vec<Place>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Free,
    Taken(SocketId),
    /// The kernel did not empty it.
    Lost,
}

impl Files {
    /// An empty table for a ring that is not enabled yet. If the kernel provides none, no socket is registered.
    pub(super) fn new(ring: &IoUring) -> Self {
        let made = ring.submitter().register_files_sparse(FILES_MAX as u32);
        Self {
            places: made.map_or_else(|_| Vec::new(), |()| vec![Place::Free; FILES_MAX]),
        }
    }

    /// The place of a socket, registering it if needed; `None` if it is not registered.
    pub(super) fn place(&mut self, ring: &IoUring, id: SocketId, udp: &UdpSocket) -> Option<u32> {
        if let Some(place) = self.find(Place::Taken(id)) {
            return Some(place as u32);
        }
        let place = self.find(Place::Free)?;
        update(ring, place, udp.as_raw_fd()).then(|| {
            self.places[place] = Place::Taken(id);
            place as u32
        })
    }

    /// Makes the ring let go of a socket that is about to be closed.
    pub(super) fn remove(&mut self, ring: &IoUring, id: SocketId) {
        if let Some(place) = self.find(Place::Taken(id)) {
            self.empty(ring, place);
        }
    }

    /// Makes the ring let go of all sockets.
    pub(super) fn clear(&mut self, ring: &IoUring) {
        for place in 0..self.places.len() {
            if matches!(self.places[place], Place::Taken(_)) {
                self.empty(ring, place);
            }
        }
    }

    fn empty(&mut self, ring: &IoUring, place: usize) {
        self.places[place] = if update(ring, place, NOTHING) {
            Place::Free
        } else {
            Place::Lost
        };
    }

    fn find(&self, content: Place) -> Option<usize> {
        self.places.iter().position(|&place| place == content)
    }
}

/// Fills or empties a place; returns whether that worked.
fn update(ring: &IoUring, place: usize, fd: RawFd) -> bool {
    let updated = ring.submitter().register_files_update(place as u32, &[fd]);
    updated.is_ok()
}
