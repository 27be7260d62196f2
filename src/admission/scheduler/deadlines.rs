//! The deadlines of those who wait: a heap that knows where everybody stands in it, so that whoever
//! leaves early is taken out without a search.

use crate::time::Timestamp;

/// Children of a node. Four of them share a cache line, and the heap is half as high as with two.
const FAN: usize = 4;

/// The place of a slot that is not in the heap.
const NOWHERE: usize = usize::MAX;

#[derive(Debug, Default)]
pub(super) struct Deadlines {
    heap: Vec<(Timestamp, usize)>,
    /// By slot: its place in the heap.
    places: Vec<usize>,
}

impl Deadlines {
    pub(super) fn len(&self) -> usize {
        self.heap.len()
    }

    /// The earliest deadline and its slot.
    pub(super) fn first(&self) -> Option<(Timestamp, usize)> {
        self.heap.first().copied()
    }

    /// Adds a slot that has none.
    pub(super) fn insert(&mut self, deadline: Timestamp, slot: usize) {
        if self.places.len() <= slot {
            self.places.resize(slot + 1, NOWHERE);
        }
        self.heap.push((deadline, slot));
        self.rise(self.heap.len() - 1);
    }

    /// Takes a slot's deadline out, if it has one.
    pub(super) fn remove(&mut self, slot: usize) {
        let place = self.places.get(slot).copied().unwrap_or(NOWHERE);
        if place == NOWHERE {
            return;
        }
        self.places[slot] = NOWHERE;
        self.heap.swap_remove(place);
        if place < self.heap.len() {
            // What came from the end may belong above or below.
            let settled = self.rise(place);
            self.sink(settled);
        }
    }

    /// Moves the element at `at` up to where it belongs; returns that.
    fn rise(&mut self, mut at: usize) -> usize {
        let moving = self.heap[at];
        while at > 0 && moving < self.heap[(at - 1) / FAN] {
            let parent = (at - 1) / FAN;
            self.put(at, self.heap[parent]);
            at = parent;
        }
        self.put(at, moving);
        at
    }

    fn sink(&mut self, mut at: usize) {
        let moving = self.heap[at];
        loop {
            let children = at * FAN + 1..(at * FAN + 1 + FAN).min(self.heap.len());
            let Some(least) = children.min_by_key(|child| self.heap[*child]) else { break };
            if self.heap[least] >= moving {
                break;
            }
            self.put(at, self.heap[least]);
            at = least;
        }
        self.put(at, moving);
    }

    fn put(&mut self, at: usize, element: (Timestamp, usize)) {
        self.heap[at] = element;
        self.places[element.1] = at;
    }
}
