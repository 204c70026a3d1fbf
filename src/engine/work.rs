//! What a connection holds only while it is busy.
//!
//! Most are busy for the length of a turn, in which they are answered: a [`Work`] is what that takes, two cache
//! lines. What has come and is not whole is larger and rarer, and has a place of its own behind it ([`Received`]).

use super::assembly::Assembly;
use super::backlog::Backlog;
use super::inflate::Job;
use super::ledger;
use super::pool::Pool;
use super::queue::Queue;
use crate::http::HeadScanner;
use crate::ws::client::ClientHandshake;

/// Bytes to send, or something half received.
#[derive(Debug, Default)]
#[repr(C, align(64))] // what each message needs comes first
pub struct Work {
    /// What is to be sent next.
    pub queue: Queue,
    /// Bytes the driver has; one send at a time.
    pub in_flight: usize,
    /// Whole messages behind the queue, and their bytes.
    pub backlog: Option<Box<Backlog>>,
    /// Bytes in the backlog.
    pub backlog_bytes: usize,
    /// What has come and is not whole.
    pub received: Option<Box<Received>>,
    /// Tick at which the send in flight began.
    pub write_since: u32,
    /// Pongs queued since the last flush.
    pub pongs: u8,
    /// What is in flight was sent out of the buffer in which it came, in this turn.
    pub answered: bool,
}

/// `slab` keeps the free list inside free entries; this mirrors its entry.
#[expect(dead_code, reason = "only its size matters")]
enum SlabEntry {
    Vacant(usize),
    Occupied(Work),
}

const _: () =
    assert!(size_of::<SlabEntry>() == 128, "a work is two cache lines, with a niche for slab's free list");

/// What has come from the peer and cannot be done with yet.
#[derive(Debug, Default)]
pub struct Received {
    /// A frame header, control frame or request head that is not whole yet.
    pub carry: Vec<u8>,
    /// What came of a peer that has to wait for its rate.
    pub held: Vec<u8>,
    /// Where the search for the end of the head in `carry` stands.
    pub scanner: HeadScanner,
    /// Bytes of head and body that the request in `carry` needs; 0 while the head is not whole.
    pub request_bytes: usize,
    /// A message that is not whole yet.
    pub assembly: Assembly,
    /// Tick at which the message being assembled began.
    pub assembly_since: u32,
    /// A compressed message that is not whole yet.
    pub inflating: Option<Box<Job>>,
    /// The 101 response to a handshake on which the decision is out.
    pub acceptance: Vec<u8>,
    /// The client role's handshake under way.
    pub handshake: Option<Box<ClientHandshake>>,
    /// What of it is in the core's books.
    pub entry: ledger::Entry,
}

impl Work {
    /// Bytes not yet taken by the kernel.
    #[inline]
    pub fn queued(&self) -> usize {
        self.queue.bytes() + self.in_flight + self.backlog_bytes
    }

    /// The place for what is not whole.
    #[inline]
    pub fn receive(&mut self, places: &mut Places) -> &mut Received {
        self.received.get_or_insert_with(|| places.take())
    }
}

/// Places that are kept for what comes next: now and then a message lies across two receive buffers, and nothing is
/// allocated for it.
#[derive(Debug, Default)]
pub struct Places {
    #[expect(clippy::vec_box, reason = "it is the boxes that are kept")]
    free: Vec<Box<Received>>,
}

/// How many are kept.
const MAX_PLACES: usize = 32;

impl Places {
    fn take(&mut self) -> Box<Received> {
        self.free.pop().unwrap_or_default()
    }

    /// Takes one back, whose content is of no use any more.
    pub fn give(&mut self, mut place: Box<Received>) {
        if self.free.len() < MAX_PLACES {
            *place = Received::default();
            self.free.push(place);
        }
    }

    /// Bytes of those kept.
    pub fn held_bytes(&self) -> usize {
        self.free.len() * size_of::<Received>()
    }
}

impl Received {
    /// Bytes received that it keeps.
    pub fn bytes(&self) -> usize {
        self.carry.capacity()
            + self.held.capacity()
            + self.acceptance.capacity()
            + self.assembly.capacity()
            + self.inflating.as_ref().map_or(0, |job| job.held_bytes())
    }

    /// Whether it keeps nothing. A message of which only the header has come is known to the session alone.
    pub fn is_empty(&self) -> bool {
        self.bytes() == 0 && self.inflating.is_none() && self.handshake.is_none()
    }

    /// Whether what it keeps is of no use any more. A connection that has `ended` takes nothing, and of one that
    /// is not `heard` no message will be.
    pub fn is_idle(&self, ended: bool, heard: bool) -> bool {
        (ended || (self.carry.is_empty() && self.held.is_empty()))
            && self.handshake.is_none()
            && self.acceptance.is_empty()
            && (!heard || self.inflating.is_none())
    }

    /// Gives back its buffers.
    pub fn give_buffers(&mut self, pool: &mut Pool) {
        let buffers = [&mut self.carry, &mut self.held, &mut self.acceptance];
        buffers.into_iter().for_each(|buffer| pool.give(std::mem::take(buffer)));
        std::mem::take(&mut self.assembly).dismantle(pool);
    }
}
