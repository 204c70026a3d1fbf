//! What the simulated driver keeps for one slot.
//!
//! Plain state. The contract is law 4: a port is free again only when its `Closed` has been taken.

use super::wire::WireId;
use crate::driver::{Lease, SendBuf, Token};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PortState {
    Free,
    Open,
    /// `close` was called, `Closed` was not taken yet.
    Closing,
}

/// A send the driver works on.
#[derive(Debug)]
pub(super) struct Sending {
    pub(super) buf: SendBuf,
    /// Held until the first try, and by then only read from.
    pub(super) lease: Option<Lease>,
    pub(super) written: usize,
    pub(super) pieces: u32,
    /// When the outcome comes, once all bytes are taken.
    pub(super) done_at_ns: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Port {
    pub(super) state: PortState,
    /// Of the tenant, or of the last one; none before the first.
    pub(super) generation: Option<u32>,
    pub(super) wire: WireId,
    /// Not paused.
    pub(super) receiving: bool,
    /// `Eof` or `Failed` was told: no `Received` follows.
    pub(super) received_all: bool,
    /// `Failed` was told.
    pub(super) failed: bool,
    /// Waits for a lease to come back.
    pub(super) starved: bool,
    /// The last look kept back what it could have handed over.
    pub(super) held_back: bool,
    pub(super) sending: Option<Sending>,
    /// The `Sent` was not taken yet.
    pub(super) send_in_flight: bool,
    /// `shutdown` was called and the FIN is not out.
    pub(super) fin_wanted: bool,
    /// No send may follow.
    pub(super) shut_down: bool,
}

impl Port {
    pub(super) fn free() -> Self {
        Self {
            state: PortState::Free,
            generation: None,
            wire: 0,
            receiving: false,
            received_all: false,
            failed: false,
            starved: false,
            held_back: false,
            sending: None,
            send_in_flight: false,
            fin_wanted: false,
            shut_down: false,
        }
    }

    pub(super) fn open(token: Token, wire: WireId) -> Self {
        Self {
            state: PortState::Open,
            generation: Some(token.generation),
            wire,
            receiving: true,
            ..Self::free()
        }
    }

    /// The token of the tenant, given the port's slot.
    pub(super) fn token(&self, slot: u32) -> Token {
        Token { slot, generation: self.generation.unwrap_or_default() }
    }
}
