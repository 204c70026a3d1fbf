//! Buffers a core lends to busy connections and takes back.
//!
//! Three stacks by capacity, so that a one-line answer does not sit on a megabyte: the most recently used
//! buffer that has room, still in the cache, goes out first. What is kept is bounded in bytes; the rest is freed,
//! and so is by and by what a burst needed and nothing since.

use crate::driver::SendBuf;
use std::collections::VecDeque;

/// Capacity from which a buffer counts as large.
const LARGE_BYTES: usize = 8 << 10;
/// Capacity from which it counts as long.
const LONG_BYTES: usize = 128 << 10;
/// Capacity of a new small buffer.
const SMALL_BYTES: usize = 512;
/// What comes in at once is likely to be answered at its length if the first answer is no smaller part of it.
const ANSWERED_IN: usize = 64;
/// Lists kept, and the longest of them.
const MAX_LISTS: usize = 256;
const MAX_LIST_LEN: usize = 16;
/// Free buffers of so many bytes are kept whether they are used or not.
const KEPT_BYTES: usize = 64 << 10;

/// What waits behind the first buffer of a queue. In a box, as it is part of every work and used by few.
pub type List = Box<VecDeque<SendBuf>>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Small,
    Large,
    Long,
}

impl Class {
    #[inline]
    fn of(capacity: usize) -> Self {
        match capacity {
            0..LARGE_BYTES => Self::Small,
            LARGE_BYTES..LONG_BYTES => Self::Large,
            _ => Self::Long,
        }
    }
}

/// Buffers of one class, and how few there were since the last look.
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

    /// The last one that has room for `wanted` bytes. If one without it were enlarged while others wait that
    /// have it, that would go on until all are large.
    fn pop_roomy(&mut self, wanted: usize) -> Option<Vec<u8>> {
        let at = self.buffers.iter().rposition(|buffer| buffer.capacity() >= wanted)?;
        let buffer = self.buffers.remove(at);
        self.fewest = self.fewest.min(self.buffers.len());
        Some(buffer)
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
    long: Stack,
    lists: Vec<List>,
    free_bytes: usize,
    max_bytes: usize,
    /// Bytes that came in and are being answered; 0 at other times.
    pub answering_bytes: usize,
}

impl Pool {
    /// An empty pool that keeps at most `max_bytes` of free buffers.
    pub fn new(max_bytes: u32) -> Self {
        let (small, large, long, lists) = Default::default();
        Self { small, large, long, lists, free_bytes: 0, max_bytes: max_bytes as usize, answering_bytes: 0 }
    }

    /// An empty buffer, likely to have room for `expected` bytes.
    #[inline]
    pub fn take(&mut self, expected: usize) -> Vec<u8> {
        let class = Class::of(expected);
        if class != Class::Small {
            return self.take_larger(class, expected);
        }
        match self.small.pop() {
            Some(buffer) => {
                self.free_bytes -= buffer.capacity();
                buffer
            }
            None => Vec::with_capacity(SMALL_BYTES.max(expected)),
        }
    }

    #[inline(never)]
    fn take_larger(&mut self, class: Class, expected: usize) -> Vec<u8> {
        if let Some(buffer) = self.take_free(expected) {
            return buffer;
        }
        if let Some(buffer) = self.stack(class).pop() {
            self.free_bytes -= buffer.capacity();
            return buffer;
        }
        Vec::with_capacity(if class == Class::Large { LARGE_BYTES } else { expected })
    }

    /// An empty buffer that has room for `wanted` bytes, if they are many and there is one: nothing is allocated.
    pub fn take_free(&mut self, wanted: usize) -> Option<Vec<u8>> {
        let class = Class::of(wanted);
        if class == Class::Small {
            return None;
        }
        let buffer = self.stack(class).pop_roomy(wanted)?;
        self.free_bytes -= buffer.capacity();
        Some(buffer)
    }

    fn stack(&mut self, class: Class) -> &mut Stack {
        match class {
            Class::Small => &mut self.small,
            Class::Large => &mut self.large,
            Class::Long => &mut self.long,
        }
    }

    fn stacks(&self) -> [&Stack; 3] {
        [&self.small, &self.large, &self.long]
    }

    /// An empty buffer for an answer of `expected` bytes and those that are likely to follow it: a buffer that
    /// becomes large on the way is copied.
    #[inline]
    pub fn take_for_answers(&mut self, expected: usize) -> Vec<u8> {
        let likely = if expected >= self.answering_bytes / ANSWERED_IN { self.answering_bytes } else { 0 };
        self.take(expected.max(likely))
    }

    /// Makes room for `more` bytes in a buffer of this pool. One that comes into another class is exchanged: if
    /// it grew, it would come back there, and the smaller ones would have to be allocated again and again.
    /// Within its class it is as long as there are roomier ones, but for small ones.
    #[inline]
    pub fn make_room(&mut self, buffer: &mut Vec<u8>, more: usize) {
        if buffer.capacity() - buffer.len() < more {
            self.exchange(buffer, more);
        }
    }

    #[cold]
    fn exchange(&mut self, buffer: &mut Vec<u8>, more: usize) {
        let needed = buffer.len() + more;
        let wanted = needed.max(2 * buffer.capacity());
        let mut roomy = match self.take_free(needed) {
            Some(roomy) => roomy,
            None if Class::of(wanted) == Class::of(buffer.capacity()) => return buffer.reserve(more),
            None => self.take(wanted),
        };
        roomy.reserve(needed);
        roomy.extend_from_slice(buffer);
        self.give(std::mem::replace(buffer, roomy));
    }

    /// Takes a buffer back, or frees it when enough are kept.
    #[inline]
    pub fn give(&mut self, mut buffer: Vec<u8>) {
        let capacity = buffer.capacity();
        if capacity == 0 || self.free_bytes + capacity > self.max_bytes {
            return;
        }
        buffer.clear();
        self.free_bytes += capacity;
        self.stack(Class::of(capacity)).buffers.push(buffer);
    }

    /// An empty list for what waits to be sent.
    pub fn take_list(&mut self) -> List {
        self.lists.pop().unwrap_or_default()
    }

    /// Takes a list back, and the buffers in it.
    pub fn give_list(&mut self, mut list: List) {
        list.drain(..).for_each(|buf| self.give_back(buf));
        if (1..=MAX_LIST_LEN).contains(&list.capacity()) && self.lists.len() < MAX_LISTS {
            self.lists.push(list);
        }
    }

    /// Takes back what has been sent; a shared frame is let go.
    #[inline]
    pub fn give_back(&mut self, buf: SendBuf) {
        if let SendBuf::Owned(buffer) = buf {
            self.give(buffer);
        }
    }

    /// Frees all that is kept.
    pub fn free_all(&mut self) {
        (self.small, self.large, self.long, self.lists) = Default::default();
        self.free_bytes = 0;
    }

    /// Whether more is kept than is worth keeping unused.
    #[inline]
    pub fn has_spare(&self) -> bool {
        self.free_bytes > KEPT_BYTES
    }

    /// Frees half of what was not used since the last call.
    pub fn shed(&mut self) {
        self.free_bytes -= self.small.shed() + self.large.shed() + self.long.shed();
    }

    /// How many buffers are kept.
    pub fn buffers(&self) -> usize {
        self.stacks().iter().map(|stack| stack.buffers.len()).sum()
    }

    /// What [`free_bytes`](Self::free_bytes) should be, added up.
    pub fn capacity_kept(&self) -> usize {
        self.stacks().iter().flat_map(|stack| &stack.buffers).map(Vec::capacity).sum()
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
    fn one_is_enlarged_only_where_no_other_has_room() {
        let mut pool = Pool::new(4 << 20);
        let capacities = [100_000, 300_000, 20_000];
        capacities.iter().for_each(|&capacity| pool.give(Vec::with_capacity(capacity)));
        for _ in 0..3 {
            let mut buffer = pool.take(16_000);
            assert!(buffer.capacity() < LONG_BYTES, "the long one is left to who needs it");
            buffer.extend_from_slice(b"begun");
            for wanted in [100_000, 300_000] {
                pool.make_room(&mut buffer, wanted - 5);
                assert_eq!((buffer.as_slice(), buffer.capacity()), (&b"begun"[..], wanted));
                assert_eq!((pool.buffers(), pool.free_bytes()), (2, pool.capacity_kept()));
            }
            pool.give(buffer);
        }
        let roomy = pool.take_free(90_000).unwrap();
        assert!(pool.take_free(90_000).is_none(), "the long one is for others");
        let mut other = pool.take(90_000);
        pool.make_room(&mut other, 90_000);
        assert!(roomy.capacity() == 100_000 && other.capacity() >= 90_000);
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
