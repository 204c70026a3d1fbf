//! A message that comes in parts, put together where its answer can stand.
//!
//! In front of the message is room for the header of a frame that carries it unmasked. A handler
//! that sends the very message it was handed, as an echo does, gives the whole buffer to the outbox:
//! large messages are not copied a second time. The contract: while the handler runs, the engine
//! only notes that it wants so ([`Lent`]), since the handler still reads the buffer.

use super::pool::Pool;
use crate::ws::{self, FrameHead, Kind, MAX_HEADER};

/// Bytes of a message that is not whole yet, or has just become so.
#[derive(Debug, Default)]
pub struct Assembly {
    /// The room, then the message.
    bytes: Vec<u8>,
    room: usize,
}

impl Assembly {
    /// The message as far as it has come.
    pub fn message(&self) -> &[u8] {
        self.bytes.get(self.room..).unwrap_or_default()
    }

    /// Bytes that its buffer takes.
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Appends a piece. With the first one belongs `whole_bytes`, the length of the message if it
    /// is known: the room is for the header of just that length.
    pub fn push(&mut self, pool: &mut Pool, piece: &[u8], whole_bytes: Option<u64>) {
        if self.bytes.is_empty() {
            self.begin(pool, piece.len(), whole_bytes);
        }
        pool.make_room(&mut self.bytes, piece.len());
        self.bytes.extend_from_slice(piece);
    }

    #[cold]
    fn begin(&mut self, pool: &mut Pool, piece_bytes: usize, whole_bytes: Option<u64>) {
        self.room = header_room(whole_bytes);
        // As it is not whole in one receive buffer, it is likely to grow. What the peer declares is
        // believed no further than twice what it has sent.
        let likely = usize::try_from(whole_bytes.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
        let wanted = self.room + likely.min(2 * piece_bytes);
        self.bytes = pool.take(wanted);
        self.bytes.resize(self.room, 0);
    }

    /// The message as the one frame of its kind, where its buffer lies. Only for a message that was
    /// [`Lent`] and promised.
    fn into_frame(mut self, kind: Kind) -> Vec<u8> {
        let mut header = [0; MAX_HEADER];
        let payload_bytes = self.bytes.len() - self.room;
        let len = ws::write_header(&mut header, FrameHead::whole(kind.opcode(), None), payload_bytes);
        debug_assert_eq!(len, self.room, "room for another header");
        self.bytes[..self.room].copy_from_slice(&header[..self.room]);
        self.bytes
    }

    /// Gives the buffer back.
    pub fn dismantle(self, pool: &mut Pool) {
        pool.give(self.bytes);
    }
}

/// Bytes of the header that will stand in front; the longest where the length is not known.
fn header_room(whole_bytes: Option<u64>) -> usize {
    let whole_bytes = whole_bytes.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(usize::MAX);
    ws::header_len(whole_bytes, false)
}

/// Tells that a handler sends the assembled message that it was handed, and not another.
#[derive(Debug)]
pub struct Lent {
    /// Where the message lies. While it is lent nothing else can lie there.
    address: usize,
    len: usize,
    promised: Option<Kind>,
}

impl Lent {
    /// Lends what is whole; `None` if its buffer could not become its frame.
    pub fn of(assembly: &Assembly) -> Option<Self> {
        let message = assembly.message();
        let fits = !message.is_empty() && ws::header_len(message.len(), false) == assembly.room;
        fits.then(|| Self { address: message.as_ptr().addr(), len: message.len(), promised: None })
    }

    /// Promises the buffer to the outbox, if `payload` is the message that lies there and it has not
    /// been promised before.
    pub fn promise(&mut self, kind: Kind, payload: &[u8]) -> bool {
        let hit =
            self.promised.is_none() && payload.len() == self.len && payload.as_ptr().addr() == self.address;
        if hit {
            self.promised = Some(kind);
        }
        hit
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

#[cfg(test)]
mod tests {
    use super::*;

    fn assembled(pieces: &[&[u8]], whole_bytes: Option<u64>) -> (Assembly, Pool) {
        let (mut assembly, mut pool) = (Assembly::default(), Pool::new(1 << 20));
        for piece in pieces {
            assembly.push(&mut pool, piece, whole_bytes);
        }
        (assembly, pool)
    }

    #[test]
    fn an_assembled_message_becomes_the_frame_that_carries_it() {
        for len in [126, 1_000, 0xffff, 0x1_0000, 200_000] {
            let message: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let (head, tail) = message.split_at(100);
            let (assembly, mut pool) = assembled(&[head, tail], Some(len as u64));
            let address = assembly.message().as_ptr();
            let mut lent = Lent::of(&assembly);
            assert!(lent.as_mut().unwrap().promise(Kind::Text, assembly.message()));
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
        let mut lent = Lent::of(&assembly).unwrap();
        assert!(!lent.promise(Kind::Binary, &assembly.message()[1..]));
        assert!(!lent.promise(Kind::Binary, &assembly.message()[..599]));
        let copy = assembly.message().to_vec();
        assert!(!lent.promise(Kind::Binary, &copy));
        assert!(lent.promise(Kind::Binary, assembly.message()));
        assert!(!lent.promise(Kind::Binary, assembly.message()));
        assert_eq!(Lent::settle(Some(lent), assembly, &mut pool).unwrap()[..4], [0x82, 126, 2, 88]);
    }

    #[test]
    fn a_length_that_was_not_known_leaves_the_longest_header() {
        let (short, _) = assembled(&[&[1; 600], &[1; 600]], None);
        assert!(Lent::of(&short).is_none());
        let (long, _) = assembled(&[&[1; 40_000], &[1; 40_000]], None);
        assert!(Lent::of(&long).is_some());
        assert!(Lent::of(&Assembly::default()).is_none());
    }

    #[test]
    fn a_declared_length_reserves_no_more_than_twice_what_came() {
        let (assembly, _) = assembled(&[&[1; 20_000]], Some(1 << 30));
        assert!(assembly.bytes.capacity() < 50_000);
    }

    #[test]
    fn what_nobody_sent_goes_back_to_the_pool() {
        let (assembly, mut pool) = assembled(&[&[1; 20_000]], None);
        let capacity = assembly.bytes.capacity();
        let lent = Lent::of(&assembly);
        assert!(Lent::settle(lent, assembly, &mut pool).is_none());
        assert_eq!(pool.free_bytes(), capacity);
    }
}
