//! Receive buffers of the epoll driver: allocated when needed, the last one returned is used first.
//!
//! One read is handled at a time, so a server that answers at once lives in one hot buffer; more
//! exist only while leases are held.

/// Turns after which buffers that were not needed in the meantime give their memory back.
const WINDOW_TURNS: u32 = 1_024;

pub(super) struct Buffers {
    /// Empty where no memory is held.
    store: Vec<Vec<u8>>,
    free: Vec<u16>,
    bare: Vec<u16>,
    buffer_bytes: usize,
    max: usize,
    out: usize,
    peak_out: usize,
    /// The fewest that were ever left of `max`.
    low_water: usize,
    turns: u32,
}

impl Buffers {
    pub(super) fn new(max: u16, buffer_bytes: u32) -> Self {
        Self {
            store: Vec::new(),
            free: Vec::new(),
            bare: Vec::new(),
            buffer_bytes: buffer_bytes.max(1) as usize,
            max: usize::from(max.max(1)),
            out: 0,
            peak_out: 0,
            low_water: usize::from(max.max(1)),
            turns: 0,
        }
    }

    pub(super) fn buffer_bytes(&self) -> usize {
        self.buffer_bytes
    }

    /// A buffer's index, or `None` while all are on loan.
    pub(super) fn take(&mut self) -> Option<u16> {
        let index = match self.free.pop() {
            Some(index) => index,
            None => self.grow()?,
        };
        self.out += 1;
        self.peak_out = self.peak_out.max(self.out);
        self.low_water = self.low_water.min(self.max - self.out);
        Some(index)
    }

    fn grow(&mut self) -> Option<u16> {
        if let Some(index) = self.bare.pop() {
            self.store[usize::from(index)] = vec![0; self.buffer_bytes];
            return Some(index);
        }
        if self.store.len() == self.max {
            return None;
        }
        self.store.push(vec![0; self.buffer_bytes]);
        Some((self.store.len() - 1) as u16)
    }

    /// Takes a buffer back.
    pub(super) fn put(&mut self, index: u16) {
        debug_assert!(!self.free.contains(&index), "released twice");
        self.out -= 1;
        self.free.push(index);
    }

    pub(super) fn bytes(&mut self, index: u16) -> &mut [u8] {
        &mut self.store[usize::from(index)]
    }

    pub(super) fn any_free(&self) -> bool {
        self.out < self.max
    }

    pub(super) fn out(&self) -> usize {
        self.out
    }

    pub(super) fn low_water(&self) -> usize {
        self.low_water
    }

    /// Buffers that hold memory.
    pub(super) fn kept(&self) -> usize {
        self.store.len() - self.bare.len()
    }

    /// Counts a turn; once in a while frees what the last window did not need.
    pub(super) fn turn(&mut self) {
        self.turns += 1;
        if self.turns >= WINDOW_TURNS {
            self.end_window();
        }
    }

    /// Frees what was not needed since the last window ended.
    pub(super) fn end_window(&mut self) {
        let needed = self.peak_out.max(1);
        while self.kept() > needed {
            // The front has rested the longest.
            if self.free.is_empty() {
                break;
            }
            let index = self.free.remove(0);
            self.store[usize::from(index)] = Vec::new();
            self.bare.push(index);
        }
        self.turns = 0;
        self.peak_out = self.out;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_returned_is_used_first_and_idle_ones_are_freed() {
        let mut buffers = Buffers::new(4, 16);
        let taken: Vec<_> = (0..4).map(|_| buffers.take().unwrap()).collect();
        assert_eq!(buffers.take(), None);
        for index in taken {
            buffers.put(index);
        }
        assert_eq!(buffers.take(), Some(3));
        buffers.put(3);
        assert_eq!(buffers.kept(), 4);
        for _ in 0..2 * WINDOW_TURNS {
            buffers.turn();
            let index = buffers.take().unwrap();
            buffers.put(index);
        }
        assert_eq!(buffers.kept(), 1);
        // What was freed can be had again.
        let again: Vec<_> = (0..4).map(|_| buffers.take().unwrap()).collect();
        assert!(again.iter().all(|&i| buffers.bytes(i).len() == 16));
    }
}
