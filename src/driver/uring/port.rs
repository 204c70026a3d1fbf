//! The 16 bytes per connection, and the socket before it becomes one.
//!
//! Plain data: what follows which completion is decided in the parent.

use io_uring::squeue::Flags;
use io_uring::types::Fd;
use std::cell::RefCell;
use std::os::fd::RawFd;
use std::rc::Rc;

use super::NONE;
use crate::driver::sys;

/// A plain descriptor or an index into the ring's own table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Plain(RawFd),
    Direct(u32),
}

impl Target {
    /// In 32 bits: the top one means direct.
    pub(super) fn pack(self) -> u32 {
        match self {
            Self::Plain(fd) => fd as u32,
            Self::Direct(index) => index | 1 << 31,
        }
    }

    pub(super) fn unpack(bits: u32) -> Self {
        if bits >> 31 == 0 { Self::Plain(bits as RawFd) } else { Self::Direct(bits & !(1 << 31)) }
    }

    pub(super) fn number(self) -> Fd {
        Fd(match self {
            Self::Plain(fd) => fd,
            Self::Direct(index) => index as RawFd,
        })
    }

    pub(super) fn flags(self) -> Flags {
        match self {
            Self::Plain(_) => Flags::empty(),
            Self::Direct(_) => Flags::FIXED_FILE,
        }
    }
}

/// What the driver holds for a connection.
#[derive(Clone, Copy)]
pub(super) struct Port {
    pub(super) generation: u32,
    /// A packed [`Target`], with [`SEALED`], [`TALKS`] and [`HEARD`]; `NONE` where vacant, and once the close of
    /// a plain one is on its way.
    pub(super) target: u32,
    /// The key of the send in flight, or `NONE`.
    pub(super) send: u32,
    pub(super) flags: u8,
    /// Operations whose last completion has not been reaped.
    pub(super) in_flight: u8,
    /// Share of the turn `turn` that was used, of `SHARE_UNITS`.
    pub(super) share: u8,
    pub(super) turn: u8,
}

const _: () = assert!(size_of::<Port>() == 16);

pub(super) const SHARE_UNITS: u8 = 128;

/// A receive or a poll is armed.
pub(super) const RECEIVING: u8 = 1 << 0;
/// And being cancelled.
pub(super) const CANCELLING: u8 = 1 << 1;
pub(super) const PAUSED: u8 = 1 << 2;
/// `Eof` or `Failed` has come.
pub(super) const ENDED: u8 = 1 << 3;
pub(super) const STARVED: u8 = 1 << 4;
/// FIN has been sent or follows the send in flight.
pub(super) const SHUTDOWN: u8 = 1 << 5;
pub(super) const CLOSING: u8 = 1 << 6;
/// Something of it stands in `deferred`.
pub(super) const DEFERRED: u8 = 1 << 7;

/// In `target` of a plain descriptor: the kernel seals what is sent. No descriptor is so large, as
/// `fs.nr_open` is below it.
pub(super) const SEALED: u32 = 1 << 30;
/// Likewise, of either kind: its receive is multishot.
pub(super) const TALKS: u32 = 1 << 29;
/// Bytes have come since the last look.
pub(super) const HEARD: u32 = 1 << 28;
const MARKS: u32 = SEALED | TALKS | HEARD;

impl Port {
    pub(super) const VACANT: Self =
        Self { generation: 0, target: NONE, send: NONE, flags: 0, in_flight: 0, share: 0, turn: 0 };

    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    pub(super) fn target(&self) -> Target {
        Target::unpack(self.target & !MARKS)
    }

    pub(super) fn talks(&self) -> bool {
        self.target != NONE && self.target & TALKS != 0
    }

    pub(super) fn is_sealed(&self) -> bool {
        self.target != NONE && self.target & SEALED != 0
    }
}

/// Direct descriptors of sockets that were dropped: their places in the table.
pub(super) type Orphans = RefCell<Vec<u32>>;

/// A socket; dropping it closes it, if direct then in the driver's next turn.
#[derive(Debug)]
pub struct UringSocket {
    pub(super) target: Target,
    pub(super) orphans: Rc<Orphans>,
}

impl UringSocket {
    /// Takes the descriptor out: nothing is left for drop.
    pub(super) fn into_target(mut self) -> Target {
        std::mem::replace(&mut self.target, Target::Plain(-1))
    }
}

impl Drop for UringSocket {
    fn drop(&mut self) {
        match self.target {
            Target::Plain(-1) => {}
            Target::Plain(fd) => drop(sys::adopt(fd)),
            Target::Direct(index) => self.orphans.borrow_mut().push(index),
        }
    }
}
