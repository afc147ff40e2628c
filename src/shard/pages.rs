//! Values by number in pages that are never moved: a table that grows by a page at a time copies nothing.
//!
//! A single vector doubles as it grows. With ten thousand transfers in it, that copies megabytes while every
//! client waits, and leaves the memory of all the smaller vectors behind.

use std::ops::{Index, IndexMut};

use super::prefetch::prefetch;

/// Values in a page. The list of pages is itself a vector and is copied as it grows, but for 65,536 transfers it
/// takes no more than 24 KiB. A page of transfers takes 30 KiB, one of timers 1.5 KiB, which is all that a table
/// may have too much.
const PAGE: u32 = 64;

/// A table of values. A number is used again once its value is removed, the latest first, since that one is
/// most likely to be in the processor's cache.
#[derive(Debug)]
pub(super) struct Pages<T> {
    /// Each with memory for a whole page from the start. All but the last are full of places, taken or vacant.
    pages: Vec<Vec<Place<T>>>,
    /// The first of the vacant places, each of which names the next.
    vacant: Option<u32>,
    len: usize,
}

#[derive(Debug)]
enum Place<T> {
    Taken(T),
    Vacant { next: Option<u32> },
}

impl<T> Pages<T> {
    pub(super) const fn new() -> Self {
        Self {
            pages: Vec::new(),
            vacant: None,
            len: 0,
        }
    }

    /// The number of values.
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Adds a value; returns its number.
    pub(super) fn insert(&mut self, value: T) -> u32 {
        self.len += 1;
        if let Some(number) = self.vacant
            && let Some(place) = self.place_mut(number)
            && let Place::Vacant { next } = *place
        {
            *place = Place::Taken(value);
            self.vacant = next;
            return number;
        }
        if self
            .pages
            .last()
            .is_none_or(|page| page.len() == PAGE as usize)
        {
            self.pages.push(Vec::with_capacity(PAGE as usize));
        }
        let full = self.pages.len() - 1;
        let page = &mut self.pages[full];
        let number = full as u32 * PAGE + page.len() as u32;
        page.push(Place::Taken(value));
        number
    }

    pub(super) fn get(&self, number: u32) -> Option<&T> {
        let page = self.pages.get((number / PAGE) as usize)?;
        match page.get((number % PAGE) as usize)? {
            Place::Taken(value) => Some(value),
            Place::Vacant { .. } => None,
        }
    }

    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        match self.place_mut(number)? {
            Place::Taken(value) => Some(value),
            Place::Vacant { .. } => None,
        }
    }

    /// Begins to load the value with this number, if there is one, into the processor's cache.
    pub(super) fn prefetch(&self, number: u32) {
        let page = self.pages.get((number / PAGE) as usize);
        if let Some(place) = page.and_then(|page| page.get((number % PAGE) as usize)) {
            prefetch(place);
        }
    }

    pub(super) fn remove(&mut self, number: u32) -> Option<T> {
        let next = self.vacant;
        let place = self.place_mut(number)?;
        match std::mem::replace(place, Place::Vacant { next }) {
            Place::Taken(value) => {
                self.vacant = Some(number);
                self.len -= 1;
                Some(value)
            }
            vacant @ Place::Vacant { .. } => {
                *place = vacant;
                None
            }
        }
    }

    /// Gives back all pages but the first if there are no values. Nobody waits then, and a storm's memory is
    /// not kept until the next; while there are values, each page is likely to hold one of them.
    pub(super) fn give_back(&mut self) {
        if self.len == 0 && self.pages.len() > 1 {
            self.pages.truncate(1);
            self.pages[0].clear();
            self.vacant = None;
        }
    }

    /// All values with their numbers, in the order of those.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        let places = self.pages.iter().flatten();
        (0..).zip(places).filter_map(|(number, place)| match place {
            Place::Taken(value) => Some((number, value)),
            Place::Vacant { .. } => None,
        })
    }

    fn place_mut(&mut self, number: u32) -> Option<&mut Place<T>> {
        let page = self.pages.get_mut((number / PAGE) as usize)?;
        page.get_mut((number % PAGE) as usize)
    }
}

impl<T> Default for Pages<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Index<u32> for Pages<T> {
    type Output = T;

    fn index(&self, number: u32) -> &T {
        self.get(number).expect("the number of a value")
    }
}

impl<T> IndexMut<u32> for Pages<T> {
    fn index_mut(&mut self, number: u32) -> &mut T {
        self.get_mut(number).expect("the number of a value")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Goal: the table holds what a map would. Method: random insertions and removals, more of either by turns,
    /// over several pages, compared after each.
    #[test]
    fn holds_what_a_map_would() {
        for seed in 0..20 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut pages = Pages::new();
            let mut model = BTreeMap::new();
            for step in 0..4_000_u32 {
                let grows = step / 500 % 2 == 0;
                if random.u8(0..10) < if grows { 7 } else { 3 } {
                    let number = pages.insert(step);
                    assert_eq!(model.insert(number, step), None, "seed {seed}: in use");
                } else {
                    let number = random.u32(0..=model.keys().last().map_or(0, |last| last + 1));
                    assert_eq!(pages.remove(number), model.remove(&number), "seed {seed}");
                    pages.give_back();
                }
                let number = random.u32(0..4 * PAGE);
                assert_eq!(pages.get(number), model.get(&number), "seed {seed}");
                assert_eq!(pages.get_mut(number), model.get_mut(&number));
                assert_eq!(pages.len(), model.len());
            }
            let numbered = pages.iter().map(|(number, &value)| (number, value));
            assert!(numbered.eq(model), "seed {seed}");
        }
    }

    #[test]
    fn a_value_stays_where_it_is_as_the_table_grows() {
        let mut pages = Pages::new();
        let first = pages.insert(0);
        let place: *const u32 = &raw const pages[first];
        let numbers: Vec<_> = (1..10 * PAGE).map(|value| pages.insert(value)).collect();
        assert!(numbers.into_iter().eq(1..10 * PAGE), "numbers without gaps");
        assert_eq!(place, &raw const pages[first]);
        assert!(
            pages
                .pages
                .iter()
                .all(|page| page.capacity() == PAGE as usize)
        );
    }

    #[test]
    fn the_latest_vacant_number_is_used_first_and_then_new_ones() {
        let mut pages = Pages::new();
        let count = PAGE + 2;
        (0..count).for_each(|value| assert_eq!(pages.insert(value), value));
        for number in [PAGE, 3] {
            assert_eq!(pages.remove(number), Some(number));
            assert_eq!(pages.remove(number), None, "it is removed");
        }
        assert_eq!([(); 3].map(|()| pages.insert(7)), [3, PAGE, count]);
        assert_eq!(pages.get(count + 1), None);
        assert_eq!(pages.get(u32::MAX), None);
        // It asks for nothing that is not there.
        for number in [0, count, count + 1, u32::MAX] {
            pages.prefetch(number);
        }
        Pages::<u32>::new().prefetch(0);
    }

    #[test]
    fn only_an_empty_table_gives_pages_back_and_keeps_the_first() {
        let mut pages = Pages::new();
        pages.give_back();
        (0..3 * PAGE).for_each(|value| assert_eq!(pages.insert(value), value));
        for number in 1..3 * PAGE {
            pages.remove(number);
            pages.give_back();
        }
        assert_eq!(pages.pages.len(), 3, "one value is left");
        assert_eq!(pages.remove(0), Some(0));
        pages.give_back();
        assert_eq!((pages.pages.len(), pages.iter().count()), (1, 0));
        assert_eq!([(); 2].map(|()| pages.insert(1)), [0, 1]);
    }
}
