//! One simulated connection: two pipes and what each end knows.
//!
//! Plain state; [`World`](super::world::World) moves bytes along it. The contract: a pipe is first
//! in, first out, so no fault can reorder within a connection.

use crate::driver::PeerAddr;
use bytes::Bytes;
use std::collections::VecDeque;
use std::net::IpAddr;

/// Index into the world's connections.
pub(super) type WireId = u32;

/// Which way a pipe runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Way {
    ToDriver,
    ToPeer,
}

/// What travels.
#[derive(Debug)]
pub(super) enum Item {
    Bytes(Bytes),
    Fin,
    /// With the errno it is told as.
    Reset(i32),
}

impl Item {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Fin | Self::Reset(_) => 0,
        }
    }
}

/// One direction.
#[derive(Debug, Default)]
pub(super) struct Pipe {
    /// On the way, with the time of arrival, which never falls.
    pub(super) transit: VecDeque<(u64, Item)>,
    /// At the receiver's host, not taken yet.
    pub(super) arrived: VecDeque<Item>,
    /// In both of these.
    pub(super) bytes: usize,
    pub(super) last_due_ns: u64,
}

impl Pipe {
    pub(super) fn clear(&mut self) {
        self.clear_transit();
        self.clear_arrived();
    }

    pub(super) fn clear_transit(&mut self) {
        self.bytes -= self.transit.drain(..).map(|(_, item)| item.len()).sum::<usize>();
    }

    pub(super) fn clear_arrived(&mut self) {
        self.bytes -= self.arrived.drain(..).map(|item| item.len()).sum::<usize>();
    }

    /// The next item due by `now_ns`.
    pub(super) fn pop_due(&mut self, now_ns: u64) -> Option<Item> {
        match self.transit.front() {
            Some((due, _)) if *due <= now_ns => self.transit.pop_front().map(|(_, item)| item),
            _ => None,
        }
    }

    pub(super) fn has_arrived_bytes(&self) -> bool {
        self.arrived.iter().any(|item| item.len() > 0)
    }
}

/// The test's end.
#[derive(Debug)]
pub(super) struct PeerEnd {
    /// Arrived bytes are moved to `inbox`, which has no limit, as they come.
    pub(super) reading: bool,
    /// Neither answers nor acknowledges any more.
    pub(super) vanished: bool,
    /// The test let go of it.
    pub(super) gone: bool,
    /// Sends nothing more: FIN or reset was sent, or a reset came.
    pub(super) write_ended: bool,
    /// Sent a reset: what still arrives is thrown away.
    pub(super) has_reset: bool,
    pub(super) inbox: Vec<u8>,
    pub(super) saw_fin: bool,
    pub(super) saw_reset: bool,
}

/// The driver's end.
#[derive(Debug, Default)]
pub(super) struct DriverEnd {
    /// Driver and slot, once attached.
    pub(super) owner: Option<(u32, u32)>,
    /// In that driver's queue.
    pub(super) ready: bool,
    /// FIN was sent.
    pub(super) write_ended: bool,
    /// A reset arrived: sending fails.
    pub(super) broken: Option<i32>,
    pub(super) closed: bool,
}

#[derive(Debug)]
pub(super) struct Wire {
    pub(super) addr: PeerAddr,
    /// What the driver asked to connect from.
    pub(super) source: Option<IpAddr>,
    pub(super) to_driver: Pipe,
    pub(super) to_peer: Pipe,
    pub(super) driver: DriverEnd,
    pub(super) peer: PeerEnd,
}

impl Wire {
    pub(super) fn new(addr: PeerAddr) -> Self {
        Self {
            addr,
            source: None,
            to_driver: Pipe::default(),
            to_peer: Pipe::default(),
            driver: DriverEnd::default(),
            peer: PeerEnd {
                reading: true,
                vanished: false,
                gone: false,
                write_ended: false,
                has_reset: false,
                inbox: Vec::new(),
                saw_fin: false,
                saw_reset: false,
            },
        }
    }

    pub(super) fn pipe(&mut self, way: Way) -> &mut Pipe {
        match way {
            Way::ToDriver => &mut self.to_driver,
            Way::ToPeer => &mut self.to_peer,
        }
    }
}
