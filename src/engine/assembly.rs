//! A message that comes in parts, put together where its answer can stand.
//!
//! In front of the message is room for the header of a frame that carries it unmasked. A handler
//! that sends the very message it was handed, as an echo does, gives the whole buffer to the outbox
//! (see `lent`): large messages are not copied a second time.

use super::pool::Pool;
use crate::ws::{self, FrameHead, Kind, MAX_HEADER};

/// Bytes of a message that is not whole yet, or has just become so.
#[derive(Debug, Default)]
pub struct Assembly {
    /// The room, then the message.
    bytes: Vec<u8>,
    pub(super) room: usize,
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
        // As it is not whole in one receive buffer, it is likely to grow. Beyond what is there anyway, what the
        // peer declares is believed no further than twice what it has sent.
        let likely = usize::try_from(whole_bytes.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
        let whole = self.room.saturating_add(likely);
        let wanted = self.room + likely.min(2 * piece_bytes);
        self.bytes = pool.take_free(whole).unwrap_or_else(|| pool.take(wanted));
        self.bytes.resize(self.room, 0);
    }

    /// The message as the one frame of its kind, where its buffer lies. Only for a message that has been
    /// promised.
    pub(super) fn into_frame(mut self, kind: Kind) -> Vec<u8> {
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::engine) fn assembled(pieces: &[&[u8]], whole_bytes: Option<u64>) -> (Assembly, Pool) {
        let (mut assembly, mut pool) = (Assembly::default(), Pool::new(1 << 20));
        for piece in pieces {
            assembly.push(&mut pool, piece, whole_bytes);
        }
        (assembly, pool)
    }

    #[test]
    fn a_declared_length_reserves_no_more_than_twice_what_came() {
        let (assembly, _) = assembled(&[&[1; 20_000]], Some(1 << 30));
        assert!(assembly.bytes.capacity() < 50_000);
    }

    #[test]
    fn a_free_buffer_with_room_for_the_whole_is_not_grown_into() {
        let mut pool = Pool::new(4 << 20);
        let roomy = Vec::with_capacity(1_100_000);
        let address = roomy.as_ptr();
        pool.give(roomy);
        let mut assembly = Assembly::default();
        for _ in 0..16 {
            assembly.push(&mut pool, &[1; 1 << 16], Some(1 << 20));
        }
        assert_eq!((assembly.bytes.as_ptr(), assembly.message().len()), (address, 1 << 20));
    }
}
