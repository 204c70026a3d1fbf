//! What stands in for `tls.rs` where the feature `tls` is off: nobody has TLS.

use super::common::Common;
use super::mailbox::Mailbox;
use super::outbound::ConnectError;
use super::party::Party;
use super::pool::Pool;
use super::receive::Outcome;
use super::slot::Slot;
use super::{Command, Core};
use crate::config::Limits;
use crate::driver::{Driver, Token};
use crate::handler::{ClientRequest, CloseReason, Handler};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// No listener has TLS.
#[derive(Clone, Debug, Default)]
pub struct Listeners;

/// Nothing.
pub fn kernel_wish(_listeners: &Listeners, _index: usize) -> Option<bool> {
    None
}

/// Nobody helps.
#[derive(Debug, Default)]
pub struct Helpers;

/// No threads.
#[derive(Debug)]
pub struct Crew;

impl Crew {
    /// Nothing to start.
    pub fn start(_threads: usize, _cores: &[usize]) -> io::Result<Self> {
        Ok(Self)
    }

    /// Nobody.
    pub fn helpers(&self, _back: Mailbox<Command>) -> Helpers {
        Helpers
    }
}

impl Helpers {
    /// Nobody.
    pub fn simulated(_threads: usize) -> Self {
        Self
    }
}

/// No handshake is helped with.
#[derive(Debug)]
pub enum Step {}

/// Nothing is prepared.
pub(super) struct Prepared;

/// Nothing.
#[derive(Debug, Default)]
pub struct Secures;

impl Secures {
    /// Nothing.
    pub fn new(_listeners: Listeners, _helpers: Helpers, _limits: &Limits) -> Self {
        Self
    }

    pub(super) fn is_on(&self, _listener: u32) -> bool {
        false
    }

    pub(super) fn shaking(&self) -> u32 {
        0
    }

    pub(super) fn is_waiting(&self) -> bool {
        false
    }

    pub(super) fn has_steps(&self) -> bool {
        false
    }

    pub(super) fn next_due(&self) -> Option<Duration> {
        None
    }

    pub(super) fn away(&self) -> u32 {
        0
    }

    pub(super) fn held_bytes(&self) -> usize {
        0
    }

    pub(super) fn gauges(&self) -> (u32, usize) {
        (0, 0)
    }

    pub(super) fn opened(&mut self, _slot: u32) {}

    pub(super) fn accept(&mut self, _slot: u32, _listener: u32) {}

    pub(super) fn prepare(
        &mut self,
        _request: &ClientRequest,
        _to: SocketAddr,
    ) -> Result<Prepared, ConnectError> {
        Ok(Prepared)
    }

    pub(super) fn remove(&mut self, _slot: u32, _pool: &mut Pool) {}

    pub(super) fn owes(&self, _slot: &Slot, _token: Token) -> bool {
        false
    }

    pub(super) fn owes_last(&mut self, _slot: u32) -> bool {
        false
    }

    pub(super) fn audit<'a>(&self, _slots: impl Iterator<Item = (Token, &'a Slot)>) -> Result<(), String> {
        Ok(())
    }
}

impl Common {
    pub(super) fn secure(&mut self, _slot: &mut Slot, _token: Token, _prepared: Prepared) {}
}

impl<H: Handler> Party<'_, H> {
    pub fn take_sealed(&mut self, _input: &mut [u8]) -> Outcome {
        Outcome::Abort
    }
}

impl<D: Driver, H: Handler> Core<D, H> {
    pub(super) fn progress_handshakes(&mut self) {}

    pub(super) fn on_shaken(&mut self, step: Box<Step>) {
        match *step {}
    }

    pub(super) fn eof_waits(&mut self, _token: Token) -> bool {
        false
    }

    pub(super) fn count_truncation(&mut self, _token: Token) {}

    pub(super) fn flush_tls(&mut self, _token: Token) -> bool {
        false
    }

    pub(super) fn on_record(&mut self, _token: Token, _kind: u8, _content: &[u8]) {}

    pub(super) fn on_failed(&mut self, token: Token, _error: &io::Error) {
        self.abort(token, CloseReason::Disconnected);
    }
}
