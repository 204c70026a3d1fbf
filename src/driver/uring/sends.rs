//! What a send reads from, and how far it has come.
//!
//! Plain data, which the ring keeps for as long as the kernel reads what it leads to. A lease is sent
//! from once: what has to wait for its peer is a buffer, so that no peer keeps receive buffers (law 5).

use super::buffers::Buffers;
use crate::driver::sys::RecordMessage;
use crate::driver::{Lease, SendBuf};

/// Where the bytes are.
pub(super) enum Source {
    Buf(SendBuf),
    Lease(Lease),
    /// A TLS record of a kind of its own.
    Record(Box<RecordMessage>),
}

/// A send that has not been told of.
#[repr(align(64))]
pub(super) struct Sending {
    source: Source,
    sent: usize,
    pub(super) in_flight: bool,
    /// Its [`Unreported::place`], if it is one of these and has not failed.
    pub(super) unreported: u64,
}

/// A send of which the kernel reports only the failure.
pub(super) struct Unreported {
    /// How many submissions had been pushed with it; never 0.
    pub(super) place: u64,
    pub(super) key: u32,
    pub(super) tag: u64,
}

impl Sending {
    pub(super) fn new(source: Source) -> Self {
        Self { source, sent: 0, in_flight: false, unreported: 0 }
    }

    /// Bytes that are not sent.
    pub(super) fn left(&self) -> usize {
        let len = match &self.source {
            Source::Buf(buf) => buf.as_slice().len(),
            Source::Lease(lease) => lease.len(),
            Source::Record(record) => record.content().len(),
        };
        len - self.sent
    }

    /// Counts what was taken.
    pub(super) fn took(&mut self, bytes: usize) {
        self.sent += bytes;
    }

    /// The bytes that are not sent.
    pub(super) fn rest<'a>(&'a self, buffers: &'a mut Buffers) -> &'a [u8] {
        let all = match &self.source {
            Source::Buf(buf) => buf.as_slice(),
            Source::Lease(lease) => buffers.bytes(lease.buffer as u16, lease.offset, lease.len),
            Source::Record(record) => record.content(),
        };
        &all[self.sent..]
    }

    /// The record, if it is one.
    pub(super) fn record(&self) -> Option<&RecordMessage> {
        match &self.source {
            Source::Record(record) => Some(record),
            _ => None,
        }
    }

    pub(super) fn is_lease(&self) -> bool {
        matches!(self.source, Source::Lease(_))
    }

    /// Copies what is left of a lease, and gives it back.
    #[inline]
    pub(super) fn leave_lease(&mut self, buffers: &mut Buffers) {
        if let Source::Lease(_) = self.source {
            self.copy_rest(buffers);
        }
    }

    #[cold]
    fn copy_rest(&mut self, buffers: &mut Buffers) {
        assert!(!self.in_flight, "the kernel still reads it");
        let rest = self.rest(buffers).to_vec();
        self.sent = 0;
        if let Source::Lease(lease) = std::mem::replace(&mut self.source, Source::Buf(SendBuf::Owned(rest))) {
            buffers.put(lease.buffer as u16);
        }
    }

    /// The buffer, for its owner; a lease goes back.
    pub(super) fn end(self, buffers: &mut Buffers) -> SendBuf {
        assert!(!self.in_flight, "the kernel still reads it");
        match self.source {
            Source::Buf(buf) => buf,
            Source::Lease(lease) => {
                buffers.put(lease.buffer as u16);
                SendBuf::EMPTY
            }
            Source::Record(record) => SendBuf::Owned(record.into_content()),
        }
    }
}
