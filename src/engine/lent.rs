//! A message that its handler sends as it was handed it: the buffer it lies in becomes the answer.
//!
//! An echo sends the very bytes it was handed. A message that was put together from pieces gives its
//! buffer to the outbox; one that ends a receive buffer is sent out of that, as a client's header is 4
//! bytes longer than ours and leaves room for it. The contract: while the handler runs, the engine
//! only notes that it wants so ([`Lent`]), since the handler still reads the buffer.

use super::Core;
use super::assembly::Assembly;
use super::common::Common;
use super::party::Party;
use super::pool::Pool;
use super::slot::Slot;
use crate::driver::{Driver, Lease, Token};
use crate::handler::Handler;
use crate::ws::{self, FrameHead, Kind, MAX_HEADER};
use std::ops::Range;

/// From this size on a message is sent out of its receive buffer.
pub const ANSWER_BYTES: usize = 4 << 10;

/// Where a message lies while its handler reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a buffer of its own.
    Assembly,
    /// At the end of the receive buffer's part that its connection was handed.
    Lease,
}

/// Tells that a handler sends the message that it was handed, and not another.
#[derive(Debug)]
pub struct Lent {
    token: Token,
    place: Place,
    /// Where the message lies. While it is lent nothing else can lie there.
    address: usize,
    len: usize,
    promised: Option<Kind>,
}

impl Lent {
    fn new(token: Token, place: Place, message: &[u8]) -> Self {
        Self { token, place, address: message.as_ptr().addr(), len: message.len(), promised: None }
    }

    /// Lends what is whole; `None` if its buffer could not become its frame.
    pub fn of(token: Token, assembly: &Assembly) -> Option<Self> {
        let message = assembly.message();
        let fits = !message.is_empty() && ws::header_len(message.len(), false) == assembly.room;
        fits.then(|| Self::new(token, Place::Assembly, message))
    }

    /// Promises the buffer to the outbox, if `payload` is the message that lies there and it has not
    /// been promised before. A receive buffer does not wait: it is only for a connection that is `idle`.
    pub fn promise(&mut self, token: Token, idle: bool, kind: Kind, payload: &[u8]) -> Option<Place> {
        let hit = self.promised.is_none()
            && payload.len() == self.len
            && payload.as_ptr().addr() == self.address
            && token == self.token
            && (idle || self.place == Place::Assembly);
        if !hit {
            return None;
        }
        self.promised = Some(kind);
        Some(self.place)
    }

    /// The frame, if it was promised; else the buffer goes back.
    pub fn settle(lent: Option<Self>, assembly: Assembly, pool: &mut Pool) -> Option<Vec<u8>> {
        match lent.and_then(|lent| lent.promised) {
            Some(kind) => Some(assembly.into_frame(kind)),
            None => {
                assembly.dismantle(pool);
                None
            }
        }
    }
}

impl Common {
    /// Sees to it that the message which its handler is reading becomes the answer, if it is that which
    /// the handler sends.
    pub(super) fn promise(&mut self, slot: &mut Slot, token: Token, kind: Kind, payload: &[u8]) -> bool {
        let idle = self.queued(slot) == 0;
        let place = self.lent.as_mut().and_then(|lent| lent.promise(token, idle, kind, payload));
        let Some(place) = place else { return false };
        let frame = ws::header_len(payload.len(), false) + payload.len();
        let tick = self.tick;
        let work = self.work(slot);
        match place {
            Place::Lease => (work.in_flight, work.answered, work.write_since) = (frame, true, tick),
            Place::Assembly => self.works[slot.work as usize].queue.promise(&mut self.pool, frame),
        }
        self.outbox_bytes += frame;
        self.mark_dirty(slot, token);
        true
    }
}

impl<H: Handler> Party<'_, H> {
    /// Lends the message that is to be handed over, if it is worth it and ends its lease.
    #[inline]
    pub fn lend(&mut self, lease: &[u8], message: &Range<usize>) {
        if message.len() >= ANSWER_BYTES
            && message.end == lease.len()
            && message.start >= ws::header_len(message.len(), false)
        {
            self.common.lent = Some(Lent::new(self.token, Place::Lease, &lease[message.clone()]));
        }
    }
}

impl<D: Driver, H: Handler> Core<D, H> {
    /// Returns a lease whose bytes have been taken, or sends the message that was promised out of it: whether it
    /// did.
    #[inline]
    pub(super) fn end_lease(&mut self, token: Token, lease: Lease) -> bool {
        match self.common.lent.take().and_then(|lent| Some((lent.promised?, lent.len))) {
            None => {
                self.driver.release(lease);
                false
            }
            Some((kind, len)) => {
                self.answer(token, lease, kind, len);
                true
            }
        }
    }

    fn answer(&mut self, token: Token, lease: Lease, kind: Kind, len: usize) {
        let mut header = [0; MAX_HEADER];
        let header_bytes = ws::write_header(&mut header, FrameHead::whole(kind.opcode(), None), len);
        let at = lease.len() - len - header_bytes;
        let bytes = self.driver.bytes(&lease);
        bytes[at..at + header_bytes].copy_from_slice(&header[..header_bytes]);
        self.common.stats.messages_answered.add(1);
        self.driver.send_lease(token, lease.without_front(at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use super::super::assembly::tests::assembled;

    const T: Token = Token { slot: 0, generation: 0 };

    #[test]
    fn an_assembled_message_becomes_the_frame_that_carries_it() {
        for len in [126, 1_000, 0xffff, 0x1_0000, 200_000] {
            let message: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let (head, tail) = message.split_at(100);
            let (assembly, mut pool) = assembled(&[head, tail], Some(len as u64));
            let address = assembly.message().as_ptr();
            let mut lent = Lent::of(T, &assembly);
            let promised = lent.as_mut().unwrap().promise(T, false, Kind::Text, assembly.message());
            assert_eq!(promised, Some(Place::Assembly));
            let frame = Lent::settle(lent, assembly, &mut pool).unwrap();
            let mut expected = Vec::new();
            ws::encode_message(&mut expected, Kind::Text, &message, None);
            assert_eq!(frame, expected);
            assert_eq!(frame[frame.len() - len..].as_ptr(), address, "it has not moved");
        }
    }

    #[test]
    fn only_the_very_message_is_promised_and_only_once() {
        let (assembly, mut pool) = assembled(&[&[7; 300], &[7; 300]], Some(600));
        let mut lent = Lent::of(T, &assembly).unwrap();
        assert_eq!(lent.promise(T, true, Kind::Binary, &assembly.message()[1..]), None);
        assert_eq!(lent.promise(T, true, Kind::Binary, &assembly.message()[..599]), None);
        let copy = assembly.message().to_vec();
        assert_eq!(lent.promise(T, true, Kind::Binary, &copy), None);
        assert!(lent.promise(T, true, Kind::Binary, assembly.message()).is_some());
        assert_eq!(lent.promise(T, true, Kind::Binary, assembly.message()), None);
        assert_eq!(Lent::settle(Some(lent), assembly, &mut pool).unwrap()[..4], [0x82, 126, 2, 88]);
    }

    #[test]
    fn a_length_that_was_not_known_leaves_the_longest_header() {
        let (short, _) = assembled(&[&[1; 600], &[1; 600]], None);
        assert!(Lent::of(T, &short).is_none());
        let (long, _) = assembled(&[&[1; 40_000], &[1; 40_000]], None);
        assert!(Lent::of(T, &long).is_some());
        assert!(Lent::of(T, &Assembly::default()).is_none());
    }

    #[test]
    fn what_nobody_sent_goes_back_to_the_pool() {
        let (assembly, mut pool) = assembled(&[&[1; 20_000]], None);
        let lent = Lent::of(T, &assembly);
        assert!(Lent::settle(lent, assembly, &mut pool).is_none());
        assert!(pool.free_bytes() >= 20_000);
    }
}
