//! Timers for many transfers: a hierarchical timer wheel. An entry is inserted once and never updated.
//!
//! A transfer's deadline moves with every datagram, nearly always to a later time. The wheel is therefore not
//! updated: when an entry fires, its owner checks the actual deadline and inserts a new entry.
//!
//! The entries of a place are linked. Stored in a vector per place, they would need far more memory: the timers
//! of a storm fire together, each time at another place, and every vector would keep room for all of them.

use super::pages::Pages;
use crate::time::Instant;

/// A tick is 2^20 ns, about a millisecond: the same resolution as the kernel's waits.
const TICK_SHIFT: u32 = 20;
/// Each level has 2^6 places, each spanning the whole level below.
const PLACE_BITS: u32 = 6;
const PLACES: usize = 1 << PLACE_BITS;
/// Five levels of 64 places reach 2^30 ticks, about 13 days; later deadlines are placed again then.
const LEVELS: usize = 5;

/// Entries by firing time; `T` identifies the owner.
#[derive(Debug)]
pub struct Wheel<T> {
    /// Everything before this tick has fired.
    tick: u64,
    levels: Box<[Level; LEVELS]>,
    entries: Pages<Entry<T>>,
}

#[derive(Debug, Clone, Copy)]
struct Level {
    /// Bit n: place n is not empty.
    occupied: u64,
    /// The numbers of the first and last entry of each place, in the order in which they came there; without
    /// meaning if the place is empty.
    places: [(u32, u32); PLACES],
}

#[derive(Debug, Clone, Copy)]
struct Entry<T> {
    tick: u64,
    owner: T,
    /// The number of the next entry in the same place.
    next: Option<u32>,
}

impl<T: Copy> Wheel<T> {
    /// Creates a wheel without entries, at time zero.
    #[must_use]
    pub fn new() -> Self {
        let level = Level {
            occupied: 0,
            places: [(0, 0); PLACES],
        };
        Self {
            tick: 0,
            levels: Box::new([level; LEVELS]),
            entries: Pages::new(),
        }
    }

    /// The number of entries.
    pub(crate) const fn len(&self) -> usize {
        self.entries.len()
    }

    /// Inserts an entry; it fires at the first [`Wheel::expire`] at or after `at`, never before.
    pub fn insert(&mut self, at: Instant, owner: T) {
        let tick = at.as_nanos().div_ceil(1 << TICK_SHIFT).max(self.tick);
        let next = None;
        let entry = self.entries.insert(Entry { tick, owner, next });
        self.place(tick, entry);
    }

    /// When the wheel next needs to be checked: never later than the first entry fires.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        self.next_tick()
            .map(|(tick, _)| Instant::from_nanos(tick << TICK_SHIFT))
    }

    /// Removes all entries due by `now`.
    pub fn expire(&mut self, now: Instant, mut fired: impl FnMut(T)) {
        // Owners insert new entries right after the call, so a wheel still empty now is one that nobody uses.
        self.entries.give_back();
        let until = now.as_nanos() >> TICK_SHIFT;
        while let Some((tick, level)) = self.next_tick() {
            if tick > until {
                break;
            }
            self.tick = tick;
            let place = place_of(tick, level);
            let (first, _) = self.levels[level].places[place];
            self.levels[level].occupied &= !(1 << place);
            let mut next = Some(first);
            while let Some(number) = next {
                let entry = &mut self.entries[number];
                next = entry.next.take();
                let (at, owner) = (entry.tick, entry.owner);
                if at <= until {
                    self.entries.remove(number);
                    fired(owner);
                } else {
                    self.place(at, number);
                }
            }
        }
        self.tick = self.tick.max(until);
    }

    /// Puts an entry, which is in no place, behind the others of its place.
    fn place(&mut self, tick: u64, entry: u32) {
        // The highest digit in which the tick differs from the current one selects the level.
        let differs = tick ^ self.tick;
        let level = ((u64::BITS - differs.leading_zeros()).saturating_sub(1) / PLACE_BITS) as usize;
        let (level, place) = if level < LEVELS {
            (level, place_of(tick, level))
        } else {
            // Too far away: placed again after one turn of the top level.
            let top = LEVELS - 1;
            (top, (place_of(self.tick, top) + PLACES - 1) % PLACES)
        };
        let level = &mut self.levels[level];
        let (first, last) = &mut level.places[place];
        if level.occupied & 1 << place == 0 {
            *first = entry;
        } else {
            self.entries[*last].next = Some(entry);
        }
        *last = entry;
        level.occupied |= 1 << place;
    }

    /// The next tick at which a place is due, and that place's level.
    fn next_tick(&self) -> Option<(u64, usize)> {
        let mut next: Option<(u64, usize)> = None;
        for (number, level) in self.levels.iter().enumerate() {
            if level.occupied == 0 {
                continue;
            }
            let shift = PLACE_BITS * number as u32;
            let present = place_of(self.tick, number) as u32;
            let ahead = u64::from(level.occupied.rotate_right(present).trailing_zeros());
            let round = self.tick >> shift;
            let at = if ahead == 0 {
                self.tick
            } else {
                (round + ahead) << shift
            };
            if next.is_none_or(|(tick, _)| at < tick) {
                next = Some((at, number));
            }
        }
        next
    }
}

impl<T: Copy> Default for Wheel<T> {
    fn default() -> Self {
        Self::new()
    }
}

const fn place_of(tick: u64, level: usize) -> usize {
    (tick >> (PLACE_BITS * level as u32)) as usize % PLACES
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Goal: the wheel fires the same entries at the same checks as a sorted map. Method: random insertions
    /// and checks, seconds to weeks apart, compared after each.
    #[test]
    fn fires_what_a_sorted_map_would() {
        for seed in 0..50 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut wheel = Wheel::new();
            let mut model: BTreeMap<(u64, u32), ()> = BTreeMap::new();
            let mut now = 0u64;
            for owner in 0..2_000u32 {
                let reach = 1u64 << random.u32(0..52);
                let at = now + random.u64(0..reach);
                wheel.insert(Instant::from_nanos(at), owner);
                model.insert((at.div_ceil(1 << TICK_SHIFT), owner), ());
                if random.bool() {
                    let pause = 1 << random.u32(1..46);
                    now += random.u64(0..pause);
                    let next = wheel.next().map(Instant::as_nanos);
                    let first = model.keys().next().map(|&(tick, _)| tick << TICK_SHIFT);
                    assert!(next <= first, "seed {seed}: would sleep past an entry");
                    let mut fired = Vec::new();
                    wheel.expire(Instant::from_nanos(now), |owner| fired.push(owner));
                    let late = model.split_off(&((now >> TICK_SHIFT) + 1, 0));
                    let mut expected: Vec<u32> = model.keys().map(|&(_, owner)| owner).collect();
                    model = late;
                    fired.sort_unstable();
                    expected.sort_unstable();
                    assert_eq!(fired, expected, "seed {seed} at {now}");
                    assert_eq!(wheel.len(), model.len());
                }
            }
        }
    }

    #[test]
    fn an_empty_wheel_wants_nothing() {
        let wheel = Wheel::<u32>::new();
        assert_eq!(wheel.next(), None);
    }
}
