//! Which interfaces copy what was to leave without a copy: loopback and virtual links do, some devices do, and all do
//! for what is being captured. Copying at once is then cheaper, so they are avoided for a while.

use std::collections::HashMap;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use crate::engine::socket::linux::is_loopback;

/// Consecutive copied bursts after which an interface counts as copying. A few bursts are copied on any
/// interface: those to this host itself, and those that are being captured.
pub(super) const COPIED_IN_A_ROW: u8 = 8;

/// How long a copying interface is avoided at first; doubled each time that it still copies.
const REST_MIN: Duration = Duration::from_secs(1);

/// The longest that it is avoided: devices and their features change.
const REST_MAX: Duration = Duration::from_secs(600);

/// Limit of remembered interfaces; beyond it, all are forgotten and tried again.
const HABITS_MAX: usize = 256;

/// What is known of each interface, by its index.
#[derive(Debug, Default)]
pub(super) struct Habits(HashMap<u32, Habit>);

/// Whether the kernel copies what leaves by an interface.
#[derive(Debug, Default)]
struct Habit {
    /// Consecutive bursts that it copied, up to the limit.
    copied: u8,
    /// Until when the interface is avoided, and for how long in total.
    rests: Option<(Instant, Duration)>,
}

impl Habits {
    /// Whether bursts from this socket that leave by an interface are better copied.
    pub(super) fn avoid(&mut self, udp: &UdpSocket, interface: u32) -> bool {
        if let Some(habit) = self.0.get(&interface) {
            return habit.rests.is_some() && habit.copies(Instant::now());
        }
        // Loopback always copies; no need to try.
        let copies = is_loopback(udp, interface);
        if copies {
            self.give_up(interface);
        } else {
            self.of(interface);
        }
        copies
    }

    /// Records whether a burst was copied.
    pub(super) fn note(&mut self, interface: u32, copied: bool) {
        let habit = self.of(interface);
        // The usual case needs no clock.
        if !copied && habit.rests.is_none() {
            habit.copied = 0;
        } else {
            habit.note(copied, Instant::now());
        }
    }

    /// Avoids an interface for the longest time.
    pub(super) fn give_up(&mut self, interface: u32) {
        *self.of(interface) = Habit {
            copied: COPIED_IN_A_ROW,
            rests: Some((Instant::now() + REST_MAX, REST_MAX)),
        };
    }

    /// Marks an interface as not copying.
    #[cfg(test)]
    pub(super) fn believe_in(&mut self, interface: u32) {
        *self.of(interface) = Habit::default();
    }

    fn of(&mut self, interface: u32) -> &mut Habit {
        if self.0.len() >= HABITS_MAX && !self.0.contains_key(&interface) {
            self.0.clear();
        }
        self.0.entry(interface).or_default()
    }
}

impl Habit {
    fn note(&mut self, copied: bool, now: Instant) {
        // Bursts that were in flight when the interface was given up tell nothing new.
        if self.copies(now) {
            return;
        }
        if !copied {
            *self = Self::default();
            return;
        }
        self.copied = COPIED_IN_A_ROW.min(self.copied + 1);
        if self.copied == COPIED_IN_A_ROW {
            let rest = self
                .rests
                .map_or(REST_MIN, |(_, rest)| REST_MAX.min(rest * 2));
            self.rests = Some((now + rest, rest));
        }
    }

    /// Whether the interface is to be avoided for now.
    fn copies(&self, now: Instant) -> bool {
        self.rests.is_some_and(|(until, _)| now < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: an interface is avoided once it copies repeatedly, longer each time, and is used again when it
    /// does not copy. Method: bursts a millisecond apart.
    #[test]
    fn an_interface_that_copies_rests_for_longer_each_time() {
        let mut habit = Habit::default();
        let mut now = Instant::now();
        let mut rested = Vec::new();
        let mut bursts = 0;
        while rested.len() < 12 {
            bursts += 1;
            habit.note(true, now);
            now += Duration::from_millis(1);
            if let Some((until, _)) = habit.rests.filter(|_| habit.copies(now)) {
                rested.push((bursts, until.duration_since(now).as_secs() + 1));
                // Bursts in flight at that moment change nothing.
                habit.note(true, now);
                habit.note(false, now);
                assert_eq!(habit.rests.map(|(until, _)| until), Some(until));
                (now, bursts) = (until, 0);
            }
        }
        let expected = [
            (8, 1),
            (1, 2),
            (1, 4),
            (1, 8),
            (1, 16),
            (1, 32),
            (1, 64),
            (1, 128),
            (1, 256),
        ];
        assert_eq!(rested[..9], expected);
        assert_eq!(rested[9..], [(1, 512), (1, 600), (1, 600)]);

        habit.note(false, now);
        for _ in 1..COPIED_IN_A_ROW {
            habit.note(true, now);
            assert!(!habit.copies(now));
        }
        habit.note(true, now);
        assert!(habit.copies(now));
    }
}
