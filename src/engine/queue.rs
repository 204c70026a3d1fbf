//! What waits to be sent on one connection, in order: bytes of its own, and frames it shares with
//! others.
//!
//! Neither is a frame copied that comes as a whole buffer of its own ([`Queue::promise`]).
//!
//! A frame shared with others is not copied where nothing waits before it. Where something does, a
//! small one is: a further send costs more than the copy. A large one waits as it is, so that
//! those who do not keep up hold one copy of it together.

use super::pool::{List, Pool};
use crate::driver::SendBuf;
use bytes::Bytes;

/// A shared frame below it is joined with what stands beside it. Copying so much takes 0.6 µs where a
/// send takes 4 (loopback, Linux 6.18); from here on the memory of those who do not keep up counts.
const JOIN_BELOW_BYTES: usize = 16 << 10;

/// A buffer of that many bytes is not enlarged, which might copy it: a further one follows it.
const CHAIN_FROM_BYTES: usize = 256 << 10;

/// See the module's documentation.
#[derive(Debug)]
pub struct Queue {
    /// What goes first; without bytes where nothing waits.
    first: SendBuf,
    /// What follows, where a large shared frame is among it.
    behind: Option<List>,
    bytes: usize,
    /// Bytes of `first` that are done with, where it is taken in parts.
    taken: usize,
}

impl Default for Queue {
    fn default() -> Self {
        Self { first: SendBuf::Owned(Vec::new()), behind: None, bytes: 0, taken: 0 }
    }
}

impl Queue {
    /// Begins with what `write` writes, about `expected` bytes.
    #[inline]
    pub fn begin(pool: &mut Pool, expected: usize, write: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut own = pool.take_for_answers(expected);
        write(&mut own);
        Self { bytes: own.len(), first: SendBuf::Owned(own), behind: None, taken: 0 }
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Buffers that hold them, one at least.
    pub fn buffers(&self) -> usize {
        1 + self.behind.as_ref().map_or(0, |behind| behind.len())
    }

    /// Appends what `write` writes, about `expected` bytes; tells how many it were.
    #[inline]
    pub fn append(&mut self, pool: &mut Pool, expected: usize, write: impl FnOnce(&mut Vec<u8>)) -> usize {
        let own = match &mut self.first {
            SendBuf::Owned(own) if is_empty(&self.behind) => own,
            _ => self.own_end(pool, expected),
        };
        let own = if own.capacity() == 0 {
            *own = pool.take_for_answers(expected);
            own
        } else if own.len() >= CHAIN_FROM_BYTES && own.capacity() - own.len() < expected {
            self.chain(pool, expected)
        } else {
            pool.make_room(own, expected);
            own
        };
        let before = own.len();
        write(own);
        let written = own.len() - before;
        self.bytes += written;
        written
    }

    /// Appends a frame of at most `most` bytes to bytes that wait already; how many bytes it is. `None` if nothing
    /// waits, for want of room in the buffer or in a queue of `max_bytes`, or if `write` writes nothing.
    #[inline]
    pub fn append_behind(
        &mut self,
        max_bytes: usize,
        most: usize,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Option<usize> {
        let SendBuf::Owned(own) = &mut self.first else { return None };
        let before = own.len();
        let fits = own.capacity() - before >= most && self.bytes + most <= max_bytes;
        if before == 0 || !fits || !is_empty(&self.behind) {
            return None;
        }
        write(own);
        let written = own.len() - before;
        self.bytes += written;
        (written > 0).then_some(written)
    }

    /// Appends a frame that goes to others as well.
    #[inline]
    pub fn share(&mut self, pool: &mut Pool, frame: &Bytes) {
        if self.bytes > 0 && frame.len() < JOIN_BELOW_BYTES {
            self.append(pool, frame.len(), |own| own.extend_from_slice(frame));
            return;
        }
        let shared = SendBuf::Shared(frame.clone());
        if self.bytes == 0 {
            pool.give_back(std::mem::replace(&mut self.first, shared));
        } else {
            self.push_behind(pool, shared);
        }
        self.bytes += frame.len();
    }

    /// Keeps a place for a frame of `bytes` bytes, which [`fulfil`](Self::fulfil) brings before
    /// anything is taken. There is at most one such place.
    pub fn promise(&mut self, pool: &mut Pool, bytes: usize) {
        let place = SendBuf::Shared(Bytes::new());
        if self.bytes == 0 {
            pool.give_back(std::mem::replace(&mut self.first, place));
        } else {
            self.push_behind(pool, place);
        }
        self.bytes += bytes;
    }

    /// Brings the frame that was promised.
    pub fn fulfil(&mut self, frame: Vec<u8>) {
        let behind = self.behind.iter_mut().flat_map(|behind| behind.iter_mut());
        let mut bufs = std::iter::once(&mut self.first).chain(behind);
        let place = bufs.find(|buf| matches!(buf, SendBuf::Shared(shared) if shared.is_empty()));
        debug_assert!(place.is_some(), "a frame that was not promised");
        if let Some(place) = place {
            *place = SendBuf::Owned(frame);
        }
    }

    /// Takes what is to be sent next.
    #[inline]
    pub fn take(&mut self) -> Option<SendBuf> {
        if self.bytes == 0 {
            return None;
        }
        if !is_empty(&self.behind) {
            return self.take_of_several();
        }
        self.bytes = 0;
        Some(std::mem::replace(&mut self.first, SendBuf::EMPTY))
    }

    #[inline(never)]
    fn take_of_several(&mut self) -> Option<SendBuf> {
        let following = self.following();
        let next = std::mem::replace(&mut self.first, following);
        self.bytes -= next.as_slice().len();
        // Perhaps nothing was written to it after all.
        if next.as_slice().is_empty() { self.take() } else { Some(next) }
    }

    /// What goes next, where it is taken in parts ([`advance`](Self::advance)).
    pub fn front(&mut self, pool: &mut Pool) -> Option<&[u8]> {
        if self.bytes == 0 {
            return None;
        }
        while self.first.as_slice().len() == self.taken {
            self.advance(pool, 0);
        }
        Some(&self.first.as_slice()[self.taken..])
    }

    /// Takes so many bytes of what [`front`](Self::front) shows. [`take`](Self::take) may follow when
    /// it [`is_cut`](Self::is_cut) no more.
    pub fn advance(&mut self, pool: &mut Pool, bytes: usize) {
        self.taken += bytes;
        self.bytes -= bytes;
        if self.first.as_slice().len() == self.taken {
            let following = self.following();
            pool.give_back(std::mem::replace(&mut self.first, following));
            self.taken = 0;
        }
    }

    /// Whether some of the front has been taken and some has not: then it cannot be taken whole.
    pub fn is_cut(&self) -> bool {
        self.taken > 0
    }

    /// Empties it.
    pub fn dismantle(self, pool: &mut Pool) {
        pool.give_back(self.first);
        if let Some(behind) = self.behind {
            pool.give_list(behind);
        }
    }

    /// Takes what follows the first.
    #[inline]
    fn following(&mut self) -> SendBuf {
        self.behind.as_mut().and_then(|behind| behind.pop_front()).unwrap_or(SendBuf::EMPTY)
    }

    fn push_behind(&mut self, pool: &mut Pool, buf: SendBuf) {
        self.behind.get_or_insert_with(|| pool.take_list()).push_back(buf);
    }

    fn last(&mut self) -> &mut SendBuf {
        self.behind.as_mut().and_then(|behind| behind.back_mut()).unwrap_or(&mut self.first)
    }

    #[cold]
    fn chain(&mut self, pool: &mut Pool, expected: usize) -> &mut Vec<u8> {
        let own = SendBuf::Owned(pool.take(expected));
        self.push_behind(pool, own);
        match self.last() {
            SendBuf::Owned(own) => own,
            SendBuf::Shared(_) => unreachable!("it has just been put there"),
        }
    }

    /// The end of the queue, made one to which bytes can be appended.
    fn own_end(&mut self, pool: &mut Pool, expected: usize) -> &mut Vec<u8> {
        match self.last() {
            SendBuf::Owned(_) => {}
            // Without bytes it is the place of a frame that was promised.
            SendBuf::Shared(frame) if frame.is_empty() || frame.len() >= JOIN_BELOW_BYTES => {
                self.push_behind(pool, SendBuf::Owned(Vec::new()));
            }
            end => {
                let mut own = pool.take(end.as_slice().len() + expected);
                own.extend_from_slice(end.as_slice());
                *end = SendBuf::Owned(own);
            }
        }
        match self.last() {
            SendBuf::Owned(own) => own,
            SendBuf::Shared(_) => unreachable!("it has just been made its own"),
        }
    }
}

#[inline]
fn is_empty(list: &Option<List>) -> bool {
    list.as_ref().is_none_or(|list| list.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(parts: &[&SendBuf]) -> (Queue, Pool) {
        let (mut queue, mut pool) = (Queue::default(), Pool::new(1 << 20));
        for part in parts {
            match part {
                SendBuf::Owned(own) => {
                    queue.append(&mut pool, own.len(), |out| out.extend_from_slice(own));
                }
                SendBuf::Shared(frame) => queue.share(&mut pool, frame),
            }
        }
        (queue, pool)
    }

    /// How each send begins, whether it is shared, and its length.
    fn sends(mut queue: Queue) -> Vec<(u8, bool, usize)> {
        let mut sends = Vec::new();
        while let Some(buf) = queue.take() {
            let shared = matches!(buf, SendBuf::Shared(_));
            sends.push((buf.as_slice()[0], shared, buf.as_slice().len()));
        }
        assert_eq!(queue.bytes(), 0);
        sends
    }

    fn own(byte: u8, len: usize) -> SendBuf {
        SendBuf::Owned(vec![byte; len])
    }

    fn shared(byte: u8, len: usize) -> SendBuf {
        SendBuf::Shared(vec![byte; len].into())
    }

    const LARGE: usize = JOIN_BELOW_BYTES;

    #[test]
    fn a_shared_frame_alone_is_not_copied() {
        let frame = Bytes::from(vec![7; 20]);
        let (mut queue, mut pool) = queue(&[]);
        queue.share(&mut pool, &frame);
        let Some(SendBuf::Shared(sent)) = queue.take() else { panic!("copied") };
        assert_eq!(sent.as_ptr(), frame.as_ptr());
        assert!(queue.take().is_none());
    }

    #[test]
    fn small_ones_become_one_send() {
        let parts = [&shared(1, 20), &own(2, 5), &shared(3, 100), &shared(4, LARGE - 1)];
        assert_eq!(sends(queue(&parts).0), [(1, false, 125 + LARGE - 1)]);
    }

    #[test]
    fn large_ones_keep_their_place() {
        let parts = [
            &own(1, 5),
            &shared(2, LARGE),
            &shared(3, LARGE + 1),
            &own(4, 6),
            &shared(5, 7),
            &shared(6, LARGE),
            &shared(7, 20),
        ];
        let expected = [
            (1, false, 5),
            (2, true, LARGE),
            (3, true, LARGE + 1),
            (4, false, 13),
            (6, true, LARGE),
            (7, false, 20),
        ];
        assert_eq!(sends(queue(&parts).0), expected);
        let first = [&shared(1, LARGE), &own(2, 5), &shared(3, LARGE)];
        assert_eq!(sends(queue(&first).0), [(1, true, LARGE), (2, false, 5), (3, true, LARGE)]);
    }

    #[test]
    fn goes_on_where_sends_are_taken_in_between() {
        let (mut queue, mut pool) = queue(&[&own(1, 5), &shared(2, LARGE), &shared(3, LARGE)]);
        assert_eq!(queue.take().unwrap().as_slice(), [1; 5]);
        queue.append(&mut pool, 3, |out| out.extend_from_slice(&[4; 3]));
        assert_eq!(queue.bytes(), 2 * LARGE + 3);
        assert_eq!(sends(queue), [(2, true, LARGE), (3, true, LARGE), (4, false, 3)]);
    }

    #[test]
    fn can_be_taken_in_parts() {
        let (mut queue, mut pool) = queue(&[&own(1, 5), &shared(2, LARGE)]);
        queue.advance(&mut pool, 2);
        queue.share(&mut pool, &vec![3; LARGE].into());
        let mut parts = Vec::new();
        while let Some(front) = queue.front(&mut pool) {
            let bytes = front.len().min(LARGE / 2);
            parts.push((front[0], bytes));
            queue.advance(&mut pool, bytes);
            if parts.len() == 2 {
                queue.append(&mut pool, 3, |out| out.extend_from_slice(&[4; 3]));
            }
        }
        assert_eq!(parts, [(1, 3), (2, LARGE / 2), (2, LARGE / 2), (3, LARGE / 2), (3, LARGE / 2), (4, 3)]);
        queue.append(&mut pool, 3, |out| out.extend_from_slice(&[5; 3]));
        assert_eq!(queue.front(&mut pool), Some(&[5; 3][..]));
    }

    #[test]
    fn what_wrote_nothing_is_not_sent() {
        let (mut queue, mut pool) = queue(&[&shared(1, LARGE)]);
        queue.append(&mut pool, 10, |_| {});
        queue.share(&mut pool, &vec![2; LARGE].into());
        assert_eq!(sends(queue), [(1, true, LARGE), (2, true, LARGE)]);
    }

    #[test]
    fn buffers_go_back_to_the_pool() {
        let (queue, mut pool) = queue(&[&own(1, 5), &shared(2, LARGE), &own(3, 5)]);
        assert_eq!(pool.free_bytes(), 0);
        queue.dismantle(&mut pool);
        assert_eq!(pool.free_bytes(), 2 * 512);
    }
}
