//! Buffers a core lends to busy connections and takes back.
//!
//! Two stacks, so that a one-line answer does not sit on a megabyte: the most recently used
//! buffer, still in the cache, goes out first. What is kept is bounded in bytes; the rest is freed,
//! and so is by and by what a burst needed and nothing since.

use crate::driver::SendBuf;
use std::collections::VecDeque;

/// Capacity from which a buffer counts as large.
const LARGE_BYTES: usize = 8 << 10;
/// Capacity of a new small buffer.
const SMALL_BYTES: usize = 512;
/// What comes in at once is likely to be answered at its length if the first answer is no smaller part of it.
const ANSWERED_IN: usize = 64;
/// Lists kept, and the longest of them.
const MAX_LISTS: usize = 256;
const MAX_LIST_LEN: usize = 16;
/// Free buffers of so many bytes are kept whether they are used or not.
const KEPT_BYTES: usize = 64 << 10;

/// Buffers of one sort, and how few there were since the last look.
#[derive(Debug, Default)]
struct Stack {
    buffers: Vec<Vec<u8>>,
    fewest: usize,
}

impl Stack {
    #[inline]
    fn pop(&mut self) -> Option<Vec<u8>> {
        let buffer = self.buffers.pop();
        self.fewest = self.fewest.min(self.buffers.len());
        buffer
    }

    /// Frees half of those that were not used since the last call, the longest unused first. Returns
    /// their bytes.
    fn shed(&mut self) -> usize {
        let bytes = self.buffers.drain(..self.fewest.div_ceil(2)).map(|buffer| buffer.capacity()).sum();
        self.fewest = self.buffers.len();
        bytes
    }
}

/// Free buffers of one core.
#[derive(Debug)]
pub struct Pool {
    small: Stack,
    large: Stack,
    lists: Vec<VecDeque<SendBuf>>,
    free_bytes: usize,
    max_bytes: usize,
    /// Bytes that came in and are being answered; 0 at other times.
    pub answering_bytes: usize,
}

impl Pool {
    /// An empty pool that keeps at most `max_bytes` of free buffers.
    pub fn new(max_bytes: u32) -> Self {
        let (small, large, lists) = Default::default();
        Self { small, large, lists, free_bytes: 0, max_bytes: max_bytes as usize, answering_bytes: 0 }
    }

    /// An empty buffer, likely to have room for `expected` bytes.
    pub fn take(&mut self, expected: usize) -> Vec<u8> {
        let stack = if expected < LARGE_BYTES { &mut self.small } else { &mut self.large };
        match stack.pop() {
            Some(buffer) => {
                self.free_bytes -= buffer.capacity();
                buffer
            }
            None if expected < LARGE_BYTES => Vec::with_capacity(SMALL_BYTES.max(expected)),
            None => Vec::with_capacity(LARGE_BYTES),
        }
    }

    /// An empty buffer for an answer of `expected` bytes and those that are likely to follow it: a buffer that
    /// becomes large on the way is copied.
    pub fn take_for_answers(&mut self, expected: usize) -> Vec<u8> {
        let likely = if expected >= self.answering_bytes / ANSWERED_IN { self.answering_bytes } else { 0 };
        self.take(expected.max(likely))
    }

    /// Makes room for `more` bytes in a buffer of this pool. One that becomes large is exchanged:
    /// if it grew, it would come back as a large one, and the small ones would have to be allocated
    /// again and again.
    #[inline]
    pub fn make_room(&mut self, buffer: &mut Vec<u8>, more: usize) {
        if buffer.capacity() - buffer.len() < more {
            self.exchange(buffer, more);
        }
    }

    #[cold]
    fn exchange(&mut self, buffer: &mut Vec<u8>, more: usize) {
        let wanted = (buffer.len() + more).max(2 * buffer.capacity());
        if wanted < LARGE_BYTES || buffer.capacity() >= LARGE_BYTES {
            return buffer.reserve(more);
        }
        let mut roomy = self.take(wanted);
        roomy.reserve(buffer.len() + more);
        roomy.extend_from_slice(buffer);
        self.give(std::mem::replace(buffer, roomy));
    }

    /// Takes a buffer back, or frees it when enough are kept.
    pub fn give(&mut self, mut buffer: Vec<u8>) {
        let capacity = buffer.capacity();
        if capacity == 0 || self.free_bytes + capacity > self.max_bytes {
            return;
        }
        buffer.clear();
        self.free_bytes += capacity;
        let stack = if capacity < LARGE_BYTES { &mut self.small } else { &mut self.large };
        stack.buffers.push(buffer);
    }

    /// An empty list for what waits to be sent.
    pub fn take_list(&mut self) -> VecDeque<SendBuf> {
        self.lists.pop().unwrap_or_default()
    }

    /// Takes a list back, and the buffers in it.
    pub fn give_list(&mut self, mut list: VecDeque<SendBuf>) {
        list.drain(..).for_each(|buf| self.give_back(buf));
        if (1..=MAX_LIST_LEN).contains(&list.capacity()) && self.lists.len() < MAX_LISTS {
            self.lists.push(list);
        }
    }

    /// Takes back what has been sent; a shared frame is let go.
    pub fn give_back(&mut self, buf: SendBuf) {
        if let SendBuf::Owned(buffer) = buf {
            self.give(buffer);
        }
    }

    /// Frees all that is kept.
    pub fn free_all(&mut self) {
        (self.small, self.large, self.lists) = Default::default();
        self.free_bytes = 0;
    }

    /// Whether more is kept than is worth keeping unused.
    #[inline]
    pub fn has_spare(&self) -> bool {
        self.free_bytes > KEPT_BYTES
    }

    /// Frees half of what was not used since the last call.
    pub fn shed(&mut self) {
        self.free_bytes -= self.small.shed() + self.large.shed();
    }

    /// How many buffers are kept.
    pub fn buffers(&self) -> usize {
        self.small.buffers.len() + self.large.buffers.len()
    }

    /// What [`free_bytes`](Self::free_bytes) should be, added up.
    pub fn capacity_kept(&self) -> usize {
        self.small.buffers.iter().chain(&self.large.buffers).map(Vec::capacity).sum()
    }

    /// Bytes kept.
    pub fn free_bytes(&self) -> usize {
        self.free_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_burst_left_is_let_go_and_what_is_used_is_not() {
        let mut pool = Pool::new(1 << 20);
        let burst: Vec<_> = (0..1_000).map(|_| pool.take(20)).collect();
        burst.into_iter().for_each(|buffer| pool.give(buffer));
        assert!(pool.has_spare());
        for _ in 0..12 {
            // As many are in use between two looks.
            let used: Vec<_> = (0..200).map(|_| pool.take(20)).collect();
            used.into_iter().for_each(|buffer| pool.give(buffer));
            pool.shed();
            assert_eq!(pool.free_bytes(), pool.capacity_kept());
        }
        assert_eq!(pool.buffers(), 200);
        for _ in 0..12 {
            pool.shed();
        }
        assert_eq!((pool.buffers(), pool.free_bytes()), (0, 0));
    }

    #[test]
    fn a_small_buffer_that_becomes_large_is_exchanged() {
        let mut pool = Pool::new(1 << 20);
        pool.give(Vec::with_capacity(16_000));
        let mut buffer = pool.take(20);
        let address = buffer.as_ptr();
        buffer.extend_from_slice(b"begun");
        pool.make_room(&mut buffer, 15_000);
        assert_eq!(buffer, b"begun");
        assert!(buffer.capacity() >= 15_005);
        let small = pool.take(20);
        assert_eq!(small.as_ptr(), address, "the small one is there for the next");
        pool.make_room(&mut buffer, 100);
        assert_eq!(pool.free_bytes(), 0);
    }

    #[test]
    fn a_buffer_for_answers_is_as_large_as_what_is_answered() {
        let mut pool = Pool::new(1 << 20);
        pool.give(Vec::with_capacity(16_000));
        pool.answering_bytes = 9_000;
        let acknowledgement = pool.take_for_answers(20);
        assert!(acknowledgement.capacity() < LARGE_BYTES, "short beside what came");
        assert!(pool.take_for_answers(500).capacity() >= 16_000);
        pool.answering_bytes = 600;
        assert!(pool.take_for_answers(500).capacity() < LARGE_BYTES);
    }

    #[test]
    fn gives_back_what_it_was_given_and_keeps_to_its_bound() {
        let mut pool = Pool::new(20_000);
        let small = pool.take(20);
        let address = small.as_ptr();
        pool.give(small);
        let again = pool.take(20);
        assert_eq!(again.as_ptr(), address);
        pool.give(Vec::with_capacity(16_000));
        assert!(pool.free_bytes() >= 16_000);
        pool.give(Vec::with_capacity(16_000));
        assert!(pool.free_bytes() < 20_000, "the second one was freed");
        assert!(pool.take(20).capacity() < LARGE_BYTES, "a small request leaves the large one alone");
        assert!(pool.take(9_000).capacity() >= 16_000);
        assert_eq!(pool.free_bytes(), 0);
    }
}
