//! Receive buffers that the kernel picks from: a provided-buffer ring (io_uring_register_buf_ring(3)).
//!
//! A leaf that owns two mappings, the ring and the buffers; the registration must end before they
//! do. The memory is reserved whole and untouched, which costs nothing. How many buffers are
//! *published* follows the traffic: the ring is first in, first out, so whatever is published is
//! cycled through, and a few kilobytes of traffic would make all of it resident and the cache cold.
//! For the same reason shared buffers are published at a part of their size while all that comes is short.
#![allow(unsafe_code, reason = "memory shared with the kernel")]

use io_uring::types::BufRingEntry;
use std::io;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU16, Ordering};

/// Published at first and at least, in the mode where each message takes a whole buffer.
const MIN_WHOLE: u16 = 32;
/// The same where messages share a buffer.
const MIN_SHARED: u16 = 4;
/// What is published of a shared buffer while all that comes is short.
const NARROW_BYTES: u32 = 16 << 10;
/// A receive of so much is not short: narrow buffers would cut what comes behind it more often.
const WIDE_FROM: u32 = 1_024;
/// No architecture has smaller pages.
const PAGE_BYTES: usize = 4_096;
/// Turns that bring no need for half of what is published, before it is halved.
const WINDOW_TURNS: u32 = 1_024;
/// Buffers begin at different cache sets, or the heads of all messages would compete for a few.
const STAGGER_BYTES: usize = 5 * 64;

/// `IOU_PBUF_RING_INC`, Linux 6.12: what one receive leaves of a buffer serves the next.
pub(super) const INCREMENTAL: u16 = 2;

/// An anonymous private mapping.
struct Mapping {
    at: NonNull<u8>,
    len: usize,
}

impl Mapping {
    fn new(len: usize) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a fresh anonymous mapping touches no memory of ours.
        let at = unsafe { libc::mmap(ptr::null_mut(), len, protection, flags, -1, 0) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let at = NonNull::new(at.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { at, len })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and whoever drops it has ended all use (see `Ring::drop`).
        unsafe { libc::munmap(self.at.as_ptr().cast(), self.len) };
    }
}

#[derive(Clone, Copy, Default)]
struct Buffer {
    /// Bytes the kernel has filled since it was published.
    filled: u32,
    /// Leases into it.
    leases: u32,
    /// The kernel will not fill it further.
    done: bool,
    /// Has been written to since its pages were last given back.
    touched: bool,
    /// Has been written to since the last look for pages to give back.
    used: bool,
}

pub(super) struct Buffers {
    ring: Mapping,
    memory: Mapping,
    mask: u16,
    tail: u16,
    buffer_bytes: u32,
    stride: usize,
    state: Vec<Buffer>,
    /// Neither published nor on loan.
    withheld: Vec<u16>,
    /// As many as should be in circulation: published or on loan.
    target: u16,
    /// Never published so far: `virgin..max`.
    virgin: u16,
    /// Those that are `touched`.
    resident: u16,
    min: u16,
    max: u16,
    in_ring: u16,
    leases: u32,
    peak_busy: u16,
    /// The fewest that were ever left of `max`.
    low_water: u16,
    turns: u32,
    /// Receives share buffers.
    shared: bool,
    /// Buffers are published whole.
    wide: bool,
    /// Something long came in this window.
    long: bool,
}

impl Buffers {
    /// Reserves memory; publishes nothing before [`Self::start`]. At most 32,768 buffers.
    pub(super) fn new(max: u16, buffer_bytes: u32) -> io::Result<Self> {
        let max = max.clamp(1, 1 << 15);
        let buffer_bytes = buffer_bytes.max(64);
        let entries = max.next_power_of_two();
        let stride = (buffer_bytes as usize).next_multiple_of(64) + STAGGER_BYTES;
        Ok(Self {
            ring: Mapping::new(usize::from(entries) * size_of::<BufRingEntry>())?,
            memory: Mapping::new(stride * usize::from(max))?,
            mask: entries - 1,
            tail: 0,
            buffer_bytes,
            stride,
            state: Vec::new(),
            withheld: Vec::new(),
            target: 0,
            virgin: 0,
            resident: 0,
            min: 0,
            max,
            in_ring: 0,
            leases: 0,
            peak_busy: 0,
            low_water: max,
            turns: 0,
            shared: false,
            wide: true,
            long: false,
        })
    }

    /// Address and entries, as io_uring_register_buf_ring(3) wants them.
    pub(super) fn registration(&self) -> (u64, u16) {
        (self.ring.at.as_ptr() as u64, self.mask + 1)
    }

    /// Publishes the first buffers, once the ring is registered.
    pub(super) fn start(&mut self, shared: bool) {
        self.min = if shared { MIN_SHARED } else { MIN_WHOLE }.min(self.max);
        self.target = self.min;
        (self.shared, self.wide) = (shared, !shared);
        self.fill_up();
        self.commit();
    }

    /// Makes what was published visible to the kernel.
    pub(super) fn commit(&mut self) {
        let entry = self.ring.at.as_ptr().cast::<BufRingEntry>();
        // SAFETY: the tail lies in the first entry of the ring, aligned to 2; only this thread
        // writes it, the kernel reads it.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(entry).cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }

    fn publish(&mut self, index: u16) {
        let address = self.address(index) as u64;
        let entry = self.ring.at.as_ptr().cast::<BufRingEntry>();
        // SAFETY: the index is masked to the ring, which is ours; the kernel reads the entry only
        // after `commit` moves the tail past it, and has consumed the one before, as no more
        // buffers exist than entries.
        let entry = unsafe { &mut *entry.add(usize::from(self.tail & self.mask)) };
        entry.set_addr(address);
        entry.set_len(if self.wide { self.buffer_bytes } else { self.buffer_bytes.min(NARROW_BYTES) });
        entry.set_bid(index);
        self.tail = self.tail.wrapping_add(1);
        self.in_ring += 1;
        let buffer = &mut self.state[usize::from(index)];
        (buffer.filled, buffer.done) = (0, false);
    }

    fn address(&self, index: u16) -> *mut u8 {
        assert!(usize::from(index) < self.state.len(), "not a buffer");
        // SAFETY: index is below max, so the offset is inside the mapping.
        unsafe { self.memory.at.as_ptr().add(usize::from(index) * self.stride) }
    }

    /// Published or on loan.
    pub(super) fn circulating(&self) -> u16 {
        self.virgin - self.withheld.len() as u16
    }

    fn fill_up(&mut self) {
        while self.circulating() < self.target {
            let index = self.withheld.pop().unwrap_or_else(|| {
                self.virgin += 1;
                self.state.push(Buffer::default());
                self.virgin - 1
            });
            self.publish(index);
        }
    }

    /// Doubles what is in circulation; false if that is all there is.
    pub(super) fn grow(&mut self) -> bool {
        if self.target == self.max {
            self.wide = true;
            return false;
        }
        self.target = self.target.saturating_mul(2).min(self.max);
        self.wide |= self.target > 4 * self.min;
        self.peak_busy = self.target;
        self.turns = 0;
        self.fill_up();
        true
    }

    /// A completion used `len` bytes of a buffer, and `more` may follow into the same.
    /// Returns where they begin. To be balanced by [`Self::put`].
    pub(super) fn take(&mut self, index: u16, len: u32, more: bool) -> u32 {
        let Some(buffer) = self.state.get_mut(usize::from(index)) else { return 0 };
        let offset = buffer.filled;
        buffer.filled = offset.saturating_add(len).min(self.buffer_bytes);
        buffer.leases += 1;
        self.leases += 1;
        buffer.used = true;
        self.resident += u16::from(!std::mem::replace(&mut buffer.touched, true));
        if len >= WIDE_FROM {
            (self.wide, self.long) = (true, true);
        }
        if !more {
            buffer.done = true;
            self.in_ring -= 1;
            let busy = self.circulating() - self.in_ring;
            self.peak_busy = self.peak_busy.max(busy);
            self.low_water = self.low_water.min(self.max - busy);
        }
        offset
    }

    /// A lease came back; with its last one the buffer is published again, or withheld.
    pub(super) fn put(&mut self, index: u16) {
        let buffer = &mut self.state[usize::from(index)];
        buffer.leases -= 1;
        self.leases -= 1;
        if buffer.leases > 0 || !buffer.done {
            return;
        }
        if self.circulating() > self.target {
            self.withhold(index);
        } else {
            self.publish(index);
        }
    }

    fn withhold(&mut self, index: u16) {
        self.withheld.push(index);
        self.forget(index, index + 1);
    }

    /// Gives back the pages of buffers from `first` to before `end`. They hold nothing of value, and the kernel does
    /// not write to them meanwhile.
    fn forget(&mut self, first: u16, end: u16) {
        let from = (self.address(first) as usize).next_multiple_of(PAGE_BYTES);
        // Only whole pages: the edges belong to neighbours as well.
        let to = (self.address(end - 1) as usize + self.buffer_bytes as usize) & !(PAGE_BYTES - 1);
        let mut touched = 0;
        for buffer in &mut self.state[usize::from(first)..usize::from(end)] {
            touched += u16::from(std::mem::take(&mut buffer.touched));
        }
        self.resident -= touched;
        if touched > 0 && from < to {
            // SAFETY: the range lies inside these buffers, which neither the kernel nor a lease uses.
            unsafe { libc::madvise(from as *mut libc::c_void, to - from, libc::MADV_DONTNEED) };
        }
    }

    /// Whether more than the buffer that is being filled holds memory, or more is in circulation than need be.
    pub(super) fn has_spare(&self) -> bool {
        self.resident > 1 || self.target > self.min || (self.shared && self.wide)
    }

    /// Gives back the pages of buffers that have not been written to since the last call, and whose bytes have all
    /// been taken. Those that are published stay so: they are empty, and the kernel finds fresh pages there.
    ///
    /// The kernel must not write to buffers meanwhile, and no completion may wait to be taken.
    pub(super) fn forget_unused(&mut self) {
        let mut first = 0;
        for index in 0..=self.virgin {
            let in_use = self.state.get_mut(usize::from(index)).is_none_or(|buffer| {
                let used = std::mem::take(&mut buffer.used);
                used || buffer.leases > 0
            });
            if in_use {
                if first < index {
                    self.forget(first, index);
                }
                first = index + 1;
            }
        }
    }

    /// Counts a turn; after a window that needed little, fewer are kept in circulation.
    pub(super) fn turn(&mut self) {
        self.turns += 1;
        if self.turns >= WINDOW_TURNS {
            self.end_window();
        }
    }

    /// Halves what is in circulation if it was not needed since the last window ended.
    pub(super) fn end_window(&mut self) {
        if self.peak_busy < self.target / 4 && self.target > self.min {
            self.target = (self.target / 2).max(self.min);
        } else if self.shared && self.target == self.min && !self.long {
            self.wide = false;
        }
        self.long = false;
        self.turns = 0;
        self.peak_busy = self.circulating() - self.in_ring;
    }

    /// Bytes on loan.
    pub(super) fn bytes(&mut self, index: u16, offset: u32, len: u32) -> &mut [u8] {
        assert!(u64::from(offset) + u64::from(len) <= u64::from(self.buffer_bytes), "outside the buffer");
        let at = self.address(index);
        // SAFETY: inside the buffer. The kernel has written these bytes and does not touch them
        // again before the buffer is published anew, which needs the lease back. Other leases into
        // this buffer do not overlap, and `&mut self` lets only one be looked at at a time.
        unsafe { std::slice::from_raw_parts_mut(at.add(offset as usize), len as usize) }
    }

    /// Buffers the kernel can still pick.
    pub(super) fn in_ring(&self) -> u16 {
        self.in_ring
    }

    /// Buffers that hold memory.
    pub(super) fn resident(&self) -> u16 {
        self.resident
    }

    pub(super) fn leases(&self) -> u32 {
        self.leases
    }

    /// The fewest buffers that were ever neither filled nor on loan.
    pub(super) fn low_water(&self) -> u16 {
        self.low_water
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started(max: u16, shared: bool) -> Buffers {
        let mut buffers = Buffers::new(max, 4_096).unwrap();
        buffers.start(shared);
        buffers
    }

    #[test]
    fn circulation_doubles_on_demand_and_shrinks_after_a_quiet_time() {
        let mut buffers = started(100, false);
        assert_eq!((buffers.circulating(), buffers.in_ring()), (32, 32));
        assert!(buffers.grow());
        assert!(buffers.grow());
        assert_eq!(buffers.circulating(), 100);
        assert!(!buffers.grow(), "beyond the maximum");
        // A little traffic over several windows.
        let mut next = (0..100).cycle();
        for _ in 0..4 * WINDOW_TURNS {
            buffers.turn();
            let index = next.find(|&i| !buffers.withheld.contains(&i)).unwrap();
            buffers.take(index, 10, false);
            buffers.put(index);
        }
        assert_eq!(buffers.circulating(), 32);
        // What was withheld comes back.
        assert!(buffers.grow());
        assert_eq!((buffers.circulating(), buffers.in_ring()), (64, 64));
    }

    #[test]
    fn busy_buffers_do_not_shrink() {
        let mut buffers = started(128, false);
        assert!(buffers.grow());
        for _ in 0..4 * WINDOW_TURNS {
            buffers.turn();
            for index in 0..40 {
                buffers.take(index, 10, false);
            }
            for index in 0..40 {
                buffers.put(index);
            }
        }
        assert_eq!(buffers.circulating(), 64);
    }

    #[test]
    fn a_shared_buffer_returns_with_its_last_lease() {
        let mut buffers = started(8, true);
        assert_eq!(buffers.in_ring(), 4);
        assert_eq!(buffers.take(0, 1_000, true), 0);
        assert_eq!(buffers.take(0, 3_000, true), 1_000);
        buffers.put(0);
        assert_eq!(buffers.take(0, 96, false), 4_000);
        assert_eq!((buffers.in_ring(), buffers.leases()), (3, 2));
        buffers.put(0);
        assert_eq!(buffers.in_ring(), 3);
        buffers.put(0);
        assert_eq!((buffers.in_ring(), buffers.leases()), (4, 0));
        // Filled from the front again.
        assert_eq!(buffers.take(0, 5, true), 0);
    }

    #[test]
    fn shared_buffers_are_published_in_part_while_all_is_short() {
        let mut buffers = Buffers::new(64, 64 << 10).unwrap();
        buffers.start(true);
        let published = |buffers: &Buffers| {
            let last = buffers.tail.wrapping_sub(1) & buffers.mask;
            // SAFETY: the entry lies in the ring, which no kernel knows.
            unsafe { (*buffers.ring.at.as_ptr().cast::<BufRingEntry>().add(usize::from(last))).len() }
        };
        let cycle = |buffers: &mut Buffers, len| {
            buffers.take(0, len, false);
            buffers.put(0);
            published(buffers)
        };
        assert_eq!(cycle(&mut buffers, WIDE_FROM - 1), NARROW_BYTES);
        assert_eq!(cycle(&mut buffers, WIDE_FROM), 64 << 10);
        for _ in 0..WINDOW_TURNS {
            buffers.turn();
        }
        assert_eq!(cycle(&mut buffers, 10), 64 << 10, "something long came in this window");
        for _ in 0..WINDOW_TURNS {
            buffers.turn();
        }
        assert_eq!(cycle(&mut buffers, 10), NARROW_BYTES);
        for _ in 0..3 {
            assert!(buffers.grow());
        }
        assert_eq!((buffers.circulating(), published(&buffers)), (32, 64 << 10));
    }

    #[test]
    fn what_a_burst_wrote_to_is_given_back() {
        let mut buffers = Buffers::new(64, 16 << 10).unwrap();
        buffers.start(true);
        buffers.grow();
        buffers.grow();
        let used = 16;
        for index in 0..used {
            buffers.take(index, 16 << 10, true);
            buffers.bytes(index, 0, 16 << 10).fill(1);
            buffers.put(index);
        }
        // One has more to come, and one is on loan.
        buffers.take(3, 0, true);
        assert_eq!((buffers.resident(), buffers.circulating()), (used, used));
        buffers.forget_unused();
        assert_eq!(buffers.resident(), used, "used since the last look, as far as is known");
        buffers.take(7, 0, true);
        buffers.put(7);
        buffers.end_window();
        buffers.forget_unused();
        assert_eq!(buffers.resident(), 2);
        let kept: Vec<u16> = (0..used).filter(|&index| buffers.bytes(index, 8 << 10, 1) == [1]).collect();
        assert_eq!(kept, [3, 7]);
        // Between two that were given back the edge is, too.
        assert_eq!(buffers.bytes(5, (16 << 10) - 1, 1), [0]);
        assert!(buffers.has_spare());
        buffers.put(3);
        for _ in 0..3 {
            buffers.end_window();
            buffers.forget_unused();
        }
        assert_eq!(buffers.resident(), 0);
        assert!(!buffers.has_spare());
    }

    #[test]
    fn withheld_memory_is_given_back() {
        let mut buffers = Buffers::new(64, 64 << 10).unwrap();
        buffers.start(false);
        assert!(buffers.grow());
        for index in 0..64 {
            buffers.take(index, 64 << 10, false);
            buffers.bytes(index, 0, 64 << 10).fill(1);
        }
        buffers.target = 32;
        for index in 0..64 {
            buffers.put(index);
        }
        assert_eq!(buffers.withheld.len(), 32);
        // A page given back reads as zeroes; the edges are shared with neighbours and stay.
        for &index in &buffers.withheld.clone() {
            assert_eq!(buffers.bytes(index, 32 << 10, 1), [0]);
        }
    }
}
