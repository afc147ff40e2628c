//! Numbers by hash: open addressing with linear probing, in places of eight octets each.
//!
//! The index is told hashes and computes none, so it grows without a look at anything but itself: reading the
//! keys of fifty thousand transfers would stop every client for milliseconds. And it can say in advance which
//! memory a look-up will need, which a general hash table does not.

use super::prefetch::prefetch;

/// Fewest places of an index that is not empty.
const PLACES_MIN: usize = 16;
/// At most as many places are kept when the index becomes empty: 8 KiB.
const PLACES_KEPT: usize = 1_024;

/// The number in a place that is vacant.
const VACANT: u32 = u32::MAX;

/// Numbers below `u32::MAX`, each with a hash.
#[derive(Debug, Default)]
pub(super) struct HashIndex {
    /// A power of two of them, at most three quarters taken, or none at all.
    places: Box<[Place]>,
    len: usize,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    hash: u32,
    number: u32,
}

impl Place {
    const NONE: Self = Self {
        hash: 0,
        number: VACANT,
    };
}

impl HashIndex {
    /// Begins to load what a look-up of this hash needs.
    pub(super) fn prefetch(&self, hash: u32) {
        if let Some(place) = self.places.get(self.home(hash)) {
            prefetch(place);
        }
    }

    /// The first number with this hash for which `is_it` holds.
    pub(super) fn find(&self, hash: u32, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let (_, found) = self.search(hash, |place| place.hash == hash && is_it(place.number))?;
        Some(found.number)
    }

    /// Adds a number.
    pub(super) fn insert(&mut self, hash: u32, number: u32) {
        debug_assert_ne!(number, VACANT);
        if (self.len + 1) * 4 > self.places.len() * 3 {
            self.grow();
        }
        self.len += 1;
        self.put(Place { hash, number });
    }

    /// Removes a number.
    pub(super) fn remove(&mut self, hash: u32, number: u32) {
        let Some((mut hole, _)) = self.search(hash, |place| place.number == number) else {
            return;
        };
        self.len -= 1;
        if self.len == 0 && self.places.len() > PLACES_KEPT {
            self.places = Box::default();
            return;
        }
        // Close the gap, or a search would end at it: what follows moves up, unless that is before its home.
        let mut next = self.after(hole);
        while self.places[next].number != VACANT {
            let home = self.home(self.places[next].hash);
            if self.distance(home, next) >= self.distance(hole, next) {
                self.places[hole] = self.places[next];
                hole = next;
            }
            next = self.after(next);
        }
        self.places[hole] = Place::NONE;
    }

    /// The first place from the home of this hash on that is the one, if it comes before a vacant one.
    fn search(&self, hash: u32, is_it: impl Fn(Place) -> bool) -> Option<(usize, Place)> {
        let mut at = self.home(hash);
        loop {
            let place = *self.places.get(at)?;
            if place.number == VACANT {
                return None;
            }
            if is_it(place) {
                return Some((at, place));
            }
            at = self.after(at);
        }
    }

    fn put(&mut self, new: Place) {
        let mut place = self.home(new.hash);
        while self.places[place].number != VACANT {
            place = self.after(place);
        }
        self.places[place] = new;
    }

    fn grow(&mut self) {
        let places = (self.places.len() * 2).max(PLACES_MIN);
        let new = vec![Place::NONE; places].into_boxed_slice();
        for place in std::mem::replace(&mut self.places, new) {
            if place.number != VACANT {
                self.put(place);
            }
        }
    }

    /// Where a search for this hash begins.
    fn home(&self, hash: u32) -> usize {
        hash as usize & self.mask()
    }

    fn after(&self, place: usize) -> usize {
        (place + 1) & self.mask()
    }

    /// How many places `to` lies behind `from`.
    fn distance(&self, from: usize, to: usize) -> usize {
        to.wrapping_sub(from) & self.mask()
    }

    fn mask(&self) -> usize {
        self.places.len().saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Goal: the index holds what a map would. Method: random insertions and removals, more of either by turns, of
    /// hashes of which many are equal or neighbours, also across the end; after each, all that are held are found, and
    /// what was removed is not.
    #[test]
    fn holds_what_a_map_would() {
        for seed in 0..20 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut index = HashIndex::default();
            let mut model = BTreeMap::new();
            for step in 0..1_000_u32 {
                let grows = step / 250 % 2 == 0;
                let chosen = model.keys().nth(random.usize(0..=model.len())).copied();
                match chosen.filter(|_| random.u8(0..10) < if grows { 2 } else { 8 }) {
                    None => {
                        let hash = random.u32(0..40).wrapping_sub(20) << random.u32(0..4);
                        index.insert(hash, step);
                        model.insert(step, hash);
                    }
                    Some(number) => {
                        let hash = model.remove(&number).expect("it was chosen from there");
                        index.remove(hash, number);
                        // A number that it does not hold changes nothing.
                        index.remove(hash, number);
                        assert_eq!(index.find(hash, |other| other == number), None);
                    }
                }
                assert_eq!(index.len, model.len(), "seed {seed}");
                for (&number, &hash) in &model {
                    let found = index.find(hash, |other| other == number);
                    assert_eq!(found, Some(number), "seed {seed}");
                }
            }
            assert!(model.len() < 100, "it shrinks again");
        }
    }

    /// Goal: searches are short, also just before the index grows. Method: places looked at to find all of so many
    /// numbers, of which three quarters of 65,536 are the most that so many places hold.
    #[test]
    fn searches_are_short_however_many_there_are() {
        for (count, places, tenths) in [(49_152, 65_536, 27), (49_153, 131_072, 18)] {
            let mut random = fastrand::Rng::with_seed(1);
            let mut index = HashIndex::default();
            (0..count).for_each(|number| index.insert(random.u32(..), number));
            assert_eq!(index.places.len(), places);
            let all = index.places.iter().enumerate();
            let taken = all.filter(|(_, place)| place.number != VACANT);
            let looks = taken.map(|(at, place)| index.distance(index.home(place.hash), at) + 1);
            let looks: usize = looks.sum();
            assert!(looks * 10 < count as usize * tenths, "{looks} for {count}");
        }
    }

    #[test]
    fn an_empty_index_finds_nothing_and_keeps_little_memory() {
        let mut index = HashIndex::default();
        index.prefetch(7);
        index.remove(7, 7);
        assert_eq!(index.find(7, |_| true), None);
        for count in [PLACES_KEPT as u32 / 2, PLACES_KEPT as u32] {
            (0..count).for_each(|number| index.insert(number, number));
            for number in 0..count {
                index.remove(number, number);
                let next = Some(number + 1).filter(|&next| next < count);
                assert_eq!(index.find(number + 1, |_| true), next, "the others stay");
            }
            assert!(index.places.len() <= PLACES_KEPT);
            assert!(index.places.iter().all(|place| place.number == VACANT));
        }
        assert!(index.places.is_empty());
    }
}
