//! Memory for frames: a bounded region of equal, reusable cells, and the heap for small chunks.
//!
//! The first touch of a page costs more than framing its contents, so a freed cell keeps its memory and is
//! reused next. Cells are adjacent in one mapping, for which the kernel is asked to use huge pages;
//! everything works without them too. A chunk smaller than half a cell (small files and the ends of large
//! ones) comes from the heap instead, which is cleared first: that costs little for small sizes, and no
//! chunk wastes more than it holds.
//!
//! A caller that registers cell memory with the kernel, to send from it without a copy, uses a token to
//! check whether a cell still has the same memory: a [`Stay`] ends when the memory is returned to the
//! system.
//!
//! All memory counts against one bound, free cells included. When the bound is reached, allocation within it
//! fails; a caller that cannot wait for room may exceed it.

#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};

use crate::sync::{Mutex, MutexGuard};

/// Octets in a cell, the size of most extents of a large file.
pub(super) const CELL_OCTETS: usize = 1024 * 1024;

/// Approximate overhead of a heap chunk, including the cache's bookkeeping: without it, very many tiny files
/// would take far more memory than the bound allows.
const CHUNK_OCTETS: usize = 256;

/// Octets whose first touch takes no longer than a burst does: less than the heap asks the system for at a time.
const SOON_OCTETS_MAX: usize = 96 * 1024;

/// Allocates chunks and takes them back.
pub(super) struct Arena {
    octets_max: usize,
    region: Option<region::Region>,
    state: Mutex<State>,
}

struct State {
    /// Free cells that keep their memory, the most recently freed at the end.
    warm: VecDeque<Warm>,
    /// Free cells without memory, the next to be used at the end.
    cold: Vec<usize>,
    /// Octets of all chunks and warm cells.
    resident: usize,
}

/// A free cell that keeps its memory.
struct Warm {
    cell: usize,
    stay: Arc<Stay>,
}

/// Lives as long as a cell keeps the same memory, whichever chunk uses it.
#[derive(Debug, Default)]
pub struct Stay(());

/// Memory that outlives the frames in it.
#[derive(Debug, Clone, Copy)]
pub struct Lasting<'a> {
    /// The whole range: the frames and the unused room behind them.
    pub octets: &'a [u8],
    /// Its lifetime: once this is gone, other memory may lie at the same address.
    pub stay: &'a Arc<Stay>,
}

impl Arena {
    /// An arena bounded by `octets_max`; nothing is allocated yet.
    pub(super) fn new(octets_max: usize) -> Arc<Self> {
        let cells = octets_max / CELL_OCTETS;
        let region = region::Region::new(cells);
        let cells = region.as_ref().map_or(0, |_| cells);
        Arc::new(Self {
            octets_max,
            region,
            state: Mutex::new(State {
                warm: VecDeque::with_capacity(cells),
                cold: (0..cells).rev().collect(),
                resident: 0,
            }),
        })
    }

    /// Whether a chunk of `octets` can ever fit within the bound.
    pub(super) fn fits(&self, octets: usize) -> bool {
        self.cost(octets) <= self.octets_max
    }

    /// A chunk of `octets` with unspecified contents; `None` if the bound leaves no room now.
    pub(super) fn take(self: &Arc<Self>, octets: usize) -> Option<Chunk> {
        let cost = self.cost(octets);
        let mut state = self.lock();
        if let Some(region) = self.region.as_ref().filter(|_| wants_cell(octets)) {
            let Warm { cell, stay } = if let Some(warm) = state.warm.pop_back() {
                warm
            } else if state.resident + cost <= self.octets_max {
                let cell = state.cold.pop()?;
                state.resident += cost;
                let stay = Arc::new(Stay::default());
                Warm { cell, stay }
            } else {
                return None;
            };
            drop(state);
            let memory = Memory::Cell {
                cell: region.cell(cell),
                octets,
                stay,
            };
            return Some(self.chunk(memory, cost, false));
        }
        while state.resident + cost > self.octets_max {
            let warm = state.warm.pop_front()?;
            self.cool(&mut state, warm);
        }
        state.resident += cost;
        drop(state);
        let memory = Memory::Heap(vec![0; octets].into());
        Some(self.chunk(memory, cost, false))
    }

    /// The same without a call to the system that would take long: in a free cell that keeps its memory, or
    /// little enough from the heap. `None` if there is neither.
    pub(super) fn take_soon(self: &Arc<Self>, octets: usize) -> Option<Chunk> {
        let mut state = self.lock();
        if wants_cell(octets) {
            let region = self.region.as_ref()?;
            let Warm { cell, stay } = state.warm.pop_back()?;
            drop(state);
            let memory = Memory::Cell {
                cell: region.cell(cell),
                octets,
                stay,
            };
            return Some(self.chunk(memory, CELL_OCTETS, false));
        }
        let cost = self.cost(octets);
        if octets > SOON_OCTETS_MAX || state.resident + cost > self.octets_max {
            return None;
        }
        state.resident += cost;
        drop(state);
        let memory = Memory::Heap(vec![0; octets].into());
        Some(self.chunk(memory, cost, false))
    }

    /// A chunk of `octets` in excess of the bound.
    pub(super) fn exceed(self: &Arc<Self>, octets: usize) -> Chunk {
        let cost = octets + CHUNK_OCTETS;
        self.lock().resident += cost;
        self.chunk(Memory::Heap(vec![0; octets].into()), cost, true)
    }

    /// Octets of memory in use, including free cells that keep theirs.
    pub(super) fn resident(&self) -> usize {
        self.lock().resident
    }

    fn chunk(self: &Arc<Self>, memory: Memory, cost: usize, excess: bool) -> Chunk {
        Chunk {
            memory,
            cost,
            excess,
            arena: Arc::clone(self),
        }
    }

    fn cost(&self, octets: usize) -> usize {
        if self.region.is_some() && wants_cell(octets) {
            CELL_OCTETS
        } else {
            octets + CHUNK_OCTETS
        }
    }

    /// Returns the memory of a free cell to the system.
    fn cool(&self, state: &mut State, Warm { cell, stay }: Warm) {
        drop(stay);
        if let Some(region) = &self.region {
            region.release(cell);
        }
        state.cold.push(cell);
        state.resident -= CELL_OCTETS;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wants_cell(octets: usize) -> bool {
    (CELL_OCTETS / 2..=CELL_OCTETS).contains(&octets)
}

/// A piece of memory, returned to the arena when dropped.
pub(super) struct Chunk {
    memory: Memory,
    cost: usize,
    excess: bool,
    arena: Arc<Arena>,
}

enum Memory {
    Cell {
        cell: region::Cell,
        /// The requested size.
        octets: usize,
        stay: Arc<Stay>,
    },
    Heap(Box<[u8]>),
}

impl Chunk {
    /// Its cost against the bound.
    pub(super) const fn cost(&self) -> usize {
        self.cost
    }

    /// Whether it exceeds the bound, so that it should not be cached.
    pub(super) const fn is_excess(&self) -> bool {
        self.excess
    }

    pub(super) fn octets(&self) -> &[u8] {
        match &self.memory {
            Memory::Cell { cell, octets, .. } => &cell.octets()[..*octets],
            Memory::Heap(octets) => octets,
        }
    }

    /// The memory, if it outlives the chunk.
    pub(super) fn lasting(&self) -> Option<Lasting<'_>> {
        match &self.memory {
            Memory::Cell { cell, stay, .. } => Some(Lasting {
                octets: cell.octets(),
                stay,
            }),
            Memory::Heap(_) => None,
        }
    }

    pub(super) fn octets_mut(&mut self) -> &mut [u8] {
        match &mut self.memory {
            Memory::Cell { cell, octets, .. } => &mut cell.octets_mut()[..*octets],
            Memory::Heap(octets) => octets,
        }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        let mut state = self.arena.lock();
        match &self.memory {
            Memory::Heap(_) => state.resident -= self.cost,
            Memory::Cell { cell, stay, .. } => {
                let warm = Warm {
                    cell: cell.index(),
                    stay: Arc::clone(stay),
                };
                if state.resident > self.arena.octets_max {
                    self.arena.cool(&mut state, warm);
                } else {
                    state.warm.push_back(warm);
                }
            }
        }
    }
}

#[cfg(target_os = "linux")]
mod region {
    //! The mapping that cells are cut from.

    use std::ptr::{self, NonNull};
    use std::slice;

    use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

    use super::CELL_OCTETS;

    /// Length and alignment of a huge page, on the machines that have them.
    const HUGE_OCTETS: usize = 2 * 1024 * 1024;

    /// Address space; pages are allocated when touched.
    pub(super) struct Region {
        mapping: NonNull<u8>,
        mapped: usize,
        /// Start of the first cell, on a huge page boundary.
        cells: NonNull<u8>,
    }

    // SAFETY: the region only holds addresses; each part of the memory is read and written only through the
    // one cell that represents it.
    unsafe impl Send for Region {}
    // SAFETY: as above; no method reads or writes the memory.
    unsafe impl Sync for Region {}

    impl Region {
        /// Room for `cells` cells; `None` if that is zero or the system provides none.
        pub(super) fn new(cells: usize) -> Option<Self> {
            if cells == 0 {
                return None;
            }
            let length = cells.checked_mul(CELL_OCTETS)?;
            let mapped = length.checked_add(HUGE_OCTETS)?;
            let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
            let protection = ProtFlags::READ | ProtFlags::WRITE;
            // SAFETY: a new mapping, at an address that the kernel chooses, affects no other mapping.
            let address =
                unsafe { mmap_anonymous(ptr::null_mut(), mapped, protection, flags) }.ok()?;
            let mapping = NonNull::new(address.cast::<u8>())?;
            let skipped = mapping.align_offset(HUGE_OCTETS);
            // SAFETY: the mapping exceeds the length of its cells by the most that alignment can skip.
            let cells = unsafe { mapping.add(skipped) };
            // SAFETY: the advice changes no contents, and the range lies within the mapping. A kernel
            // without huge pages rejects it, which is harmless.
            let _ = unsafe { madvise(cells.as_ptr().cast(), length, Advice::LinuxHugepage) };
            Some(Self {
                mapping,
                mapped,
                cells,
            })
        }

        /// The cell with this index, which must be below the number of cells and not be in use.
        pub(super) fn cell(&self, index: usize) -> Cell {
            // SAFETY: the index is that of a cell, and so the address is within the mapping.
            let address = unsafe { self.cells.add(index * CELL_OCTETS) };
            Cell { address, index }
        }

        /// Returns the memory of an unused cell to the system.
        pub(super) fn release(&self, index: usize) {
            let address = self.cell(index).address.as_ptr().cast();
            // SAFETY: the cell lies within the mapping and nothing refers to it. Its contents are lost and
            // read as zeros from now on. If the kernel refuses, it merely keeps the memory.
            let _ = unsafe { madvise(address, CELL_OCTETS, Advice::LinuxDontNeed) };
        }
    }

    impl Drop for Region {
        fn drop(&mut self) {
            // SAFETY: the mapping is owned by this region, and no cell outlives the arena that holds the
            // region, since every chunk holds the arena.
            let _ = unsafe { munmap(self.mapping.as_ptr().cast(), self.mapped) };
        }
    }

    /// A part of a region, owned by the one chunk that it was allocated for.
    pub(super) struct Cell {
        address: NonNull<u8>,
        index: usize,
    }

    // SAFETY: a cell owns its memory as a box does.
    unsafe impl Send for Cell {}
    // SAFETY: as above; shared, it is only read.
    unsafe impl Sync for Cell {}

    impl Cell {
        pub(super) const fn index(&self) -> usize {
            self.index
        }

        pub(super) const fn octets(&self) -> &[u8] {
            // SAFETY: the memory stays mapped while the chunk that owns the cell holds the arena; no other
            // cell covers it; and it is initialised, by the kernel with zeros or by an earlier writer.
            unsafe { slice::from_raw_parts(self.address.as_ptr(), CELL_OCTETS) }
        }

        pub(super) const fn octets_mut(&mut self) -> &mut [u8] {
            // SAFETY: as in `octets`, and the cell is borrowed for writing.
            unsafe { slice::from_raw_parts_mut(self.address.as_ptr(), CELL_OCTETS) }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod region {
    //! No mapping: everything comes from the heap.

    use std::convert::Infallible;

    pub(super) struct Region(Infallible);

    impl Region {
        pub(super) const fn new(_: usize) -> Option<Self> {
            None
        }

        pub(super) const fn cell(&self, _: usize) -> Cell {
            match self.0 {}
        }

        pub(super) const fn release(&self, _: usize) {
            match self.0 {}
        }
    }

    pub(super) struct Cell(Infallible);

    impl Cell {
        pub(super) const fn index(&self) -> usize {
            match self.0 {}
        }

        pub(super) const fn octets(&self) -> &[u8] {
            match self.0 {}
        }

        pub(super) const fn octets_mut(&mut self) -> &mut [u8] {
            match self.0 {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The address of a chunk's octets, which tells whether memory was reused.
    fn address(chunk: &Chunk) -> usize {
        chunk.octets().as_ptr().addr()
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn cells_are_used_again_and_apart_from_each_other() {
        let arena = Arena::new(4 * CELL_OCTETS);
        let mut chunks: Vec<_> = (0..4)
            .map(|_| arena.take(CELL_OCTETS).expect("room"))
            .collect();
        assert!(arena.take(CELL_OCTETS).is_none());
        for (mark, chunk) in (1..).zip(&mut chunks) {
            chunk.octets_mut().fill(mark);
        }
        for (mark, chunk) in (1..).zip(&chunks) {
            assert!(chunk.octets().iter().all(|&octet| octet == mark));
        }
        let given = address(&chunks[2]);
        drop(chunks.swap_remove(2));
        assert_eq!(arena.resident(), 4 * CELL_OCTETS, "it keeps its memory");
        let again = arena.take(CELL_OCTETS - 7).expect("room again");
        assert_eq!(address(&again), given);
        assert_eq!(again.octets().len(), CELL_OCTETS - 7);
        assert_eq!(again.lasting().expect("a cell").octets.len(), CELL_OCTETS);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn cells_at_rest_make_room_for_small_chunks() {
        let arena = Arena::new(2 * CELL_OCTETS);
        let mut cells = [(); 2].map(|()| arena.take(CELL_OCTETS).expect("room"));
        assert!(arena.take(1).is_none());
        cells[0].octets_mut().fill(7);
        let stays =
            [0, 1].map(|place| Arc::downgrade(cells[place].lasting().expect("a cell").stay));
        drop(cells);
        assert!(
            stays.iter().all(|stay| stay.upgrade().is_some()),
            "both are warm"
        );
        let small = arena.take(1).expect("room");
        assert_eq!(arena.resident(), CELL_OCTETS + 1 + CHUNK_OCTETS);
        assert!(small.lasting().is_none());
        let warm = stays.iter().filter(|stay| stay.upgrade().is_some());
        assert_eq!(warm.count(), 1, "the other gave its memory back");
        let other = arena
            .take(CELL_OCTETS)
            .expect("the cell that is still warm");
        assert!(
            arena.take(CELL_OCTETS).is_none(),
            "the small one is in the way"
        );
        drop(small);
        let cooled = arena.take(CELL_OCTETS).expect("room again");
        assert_ne!(address(&cooled), address(&other));
        assert!(
            cooled.octets().iter().all(|&octet| octet == 0),
            "its memory had gone"
        );
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_exceeds_the_bound_presses_on_cells_at_rest() {
        let arena = Arena::new(CELL_OCTETS);
        let cell = arena.take(CELL_OCTETS).expect("room");
        let excess = arena.exceed(100);
        assert!(excess.is_excess() && !cell.is_excess());
        assert_eq!(arena.resident(), CELL_OCTETS + 100 + CHUNK_OCTETS);
        drop(cell);
        assert_eq!(arena.resident(), 100 + CHUNK_OCTETS);
        drop(excess);
        assert_eq!(arena.resident(), 0);
    }

    #[test]
    fn an_arena_without_room_gives_nothing_but_beyond_it() {
        let arena = Arena::new(0);
        assert!(!arena.fits(0));
        assert!(arena.take(0).is_none());
        assert_eq!(arena.exceed(3).octets(), [0; 3]);
        assert_eq!(arena.resident(), 0);
    }

    #[test]
    fn a_chunk_outlives_whoever_made_the_arena() {
        let arena = Arena::new(CELL_OCTETS);
        let mut chunk = arena.take(CELL_OCTETS).expect("room");
        drop(arena);
        chunk.octets_mut().fill(1);
        assert_eq!(chunk.octets().last(), Some(&1));
    }
}
