//! Transfers whose socket is full: they wait there without holding up transfers on other sockets.
//!
//! A host with two networks answers from one socket per address, and one network may be a thousand times
//! slower than the other.

use std::collections::VecDeque;

use super::SlotId;
use crate::engine::SocketId;

/// One queue for each socket that was recently full; usually there is none.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    queues: Vec<Queue>,
    /// Index of the queue whose turn it is.
    turn: usize,
}

/// The transfers waiting for one socket, in the order of their turns.
#[derive(Debug)]
struct Queue {
    socket: SocketId,
    is_full: bool,
    waiting: VecDeque<SlotId>,
}

impl Queue {
    fn may_go_on(&self) -> bool {
        !self.is_full && !self.waiting.is_empty()
    }
}

impl Backlog {
    /// The socket is full before this transfer could send; it keeps its turn.
    pub(super) fn stopped(&mut self, socket: SocketId, id: SlotId) {
        let Some(place) = self.queues.iter().position(|queue| queue.socket == socket) else {
            return self.queues.push(Queue {
                socket,
                is_full: true,
                waiting: VecDeque::from([id]),
            });
        };
        let queue = &mut self.queues[place];
        queue.is_full = true;
        queue.waiting.push_front(id);
        self.turn = place;
    }

    /// Queues a transfer behind those waiting for the same socket; returns false if none are waiting.
    pub(super) fn join(&mut self, socket: SocketId, id: SlotId) -> bool {
        let mut queues = self.queues.iter_mut();
        let queue = queues.find(|queue| queue.socket == socket && !queue.waiting.is_empty());
        let joins = queue.is_some();
        if let Some(queue) = queue {
            queue.waiting.push_back(id);
        }
        joins
    }

    /// Lets transfers continue whose sockets have room again.
    pub(super) fn look_for_room(&mut self, has_room: impl Fn(SocketId) -> bool) {
        if self.queues.is_empty() {
            return;
        }
        // The queue whose turn it is moves to the front; emptied queues are dropped here.
        let turn = std::mem::take(&mut self.turn) % self.queues.len();
        self.queues.rotate_left(turn);
        self.queues.retain(|queue| !queue.waiting.is_empty());
        for queue in &mut self.queues {
            queue.is_full = queue.is_full && !has_room(queue.socket);
        }
    }

    /// The next transfer that may continue, taking turns by socket.
    pub(super) fn pop(&mut self) -> Option<SlotId> {
        let count = self.queues.len();
        let mut places = (0..count).map(|step| (self.turn + step) % count);
        let place = places.find(|&place| self.queues[place].may_go_on())?;
        self.turn = place + 1;
        self.queues[place].waiting.pop_front()
    }

    /// Whether any transfer may continue.
    pub(super) fn may_go_on(&self) -> bool {
        self.queues.iter().any(Queue::may_go_on)
    }

    /// All waiting transfers.
    pub(super) fn waiting(&self) -> impl Iterator<Item = SlotId> {
        self.queues.iter().flat_map(|queue| &queue.waiting).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Ticket;

    const SLOW: SocketId = SocketId(1);
    const QUICK: SocketId = SocketId(2);

    fn id(number: u64) -> SlotId {
        SlotId::of_ticket(Ticket(number))
    }

    #[test]
    fn who_was_stopped_goes_on_first_and_others_in_order() {
        let mut backlog = Backlog::default();
        assert!(!backlog.join(SLOW, id(1)), "nobody waits");
        backlog.stopped(SLOW, id(1));
        assert!(backlog.join(SLOW, id(2)));
        assert_eq!((backlog.pop(), backlog.may_go_on()), (None, false));
        backlog.look_for_room(|_| false);
        assert!(!backlog.may_go_on());

        backlog.look_for_room(|socket| socket == SLOW);
        assert!(backlog.may_go_on());
        assert_eq!(backlog.pop(), Some(id(1)));
        backlog.stopped(SLOW, id(1));
        assert_eq!(backlog.pop(), None);
        assert!(backlog.waiting().eq([id(1), id(2)]));

        backlog.look_for_room(|_| true);
        assert_eq!([backlog.pop(), backlog.pop()], [Some(id(1)), Some(id(2))]);
        assert!(!backlog.join(SLOW, id(3)), "nobody waits any more");
    }

    #[test]
    fn sockets_take_turns_and_a_full_one_is_passed_over() {
        let mut backlog = Backlog::default();
        for (socket, first) in [(SLOW, 10), (QUICK, 20)] {
            backlog.stopped(socket, id(first));
            backlog.join(socket, id(first + 1));
        }
        backlog.look_for_room(|socket| socket == QUICK);
        assert_eq!(backlog.pop(), Some(id(20)));
        backlog.look_for_room(|_| true);
        let rest: Vec<_> = std::iter::from_fn(|| backlog.pop()).collect();
        assert_eq!(rest, [id(10), id(21), id(11)]);
    }
}
