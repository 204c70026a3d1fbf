//! Accepting: a few one-shot requests per listener, each with its own room for the peer's address.
//!
//! Not multishot, on purpose: a multishot accept brings no address, a direct descriptor has no
//! getpeername(2), and for a plain one that would be a system call per peer, where arming the next
//! one-shot is a submission that rides along with the turn's. It also bounds what one turn accepts,
//! and needs no care about multishot accept under DEFER_TASKRUN on Linux 6.6 to 6.8. The kernel
//! wakes one request per peer (they wait exclusively).

use std::io;
use std::os::fd::AsRawFd;

use super::ring::{Ring, Target};
use super::{ACCEPT, ACCEPT_CANCEL};
use crate::driver::epoll::accept_is_exhausted;
use crate::driver::listen::Listener;
use crate::driver::tag::pack;
use crate::driver::{PeerAddr, Token, sys};

/// Requests per listener: peers accepted per turn.
const ACCEPTS: usize = 16;
/// At most this many direct descriptors: the table costs kernel memory from the start.
const MAX_DIRECT: u32 = 32_768;

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    Armed,
    Cancelling,
}

pub(super) struct Accepts {
    listeners: Vec<Listener>,
    /// One per key of the ring's accepts.
    states: Vec<State>,
    armed: usize,
    accepting: bool,
    closed: bool,
    direct_max: u32,
    /// In use, or promised to an armed accept: the kernel closes a peer for which it finds no
    /// place in the table, so an accept is only armed as direct when there is one.
    direct_taken: u32,
    /// Promised to armed accepts.
    direct_promised: u32,
}

impl Accepts {
    pub(super) fn new(ring: &mut Ring, listeners: Vec<Listener>, max_connections: u32) -> io::Result<Self> {
        let mut states = Vec::new();
        for listener in &listeners {
            // With O_NONBLOCK the kernel would answer EAGAIN instead of waiting.
            sys::set_nonblocking(listener.as_fd(), false)?;
            for _ in 0..ACCEPTS {
                let key = ring.insert_accept(listener.as_fd().as_raw_fd());
                debug_assert_eq!(key as usize, states.len());
                states.push(State::Idle);
            }
        }
        let nofile = sys::rlimit(libc::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
        let wanted = u64::from(max_connections.min(MAX_DIRECT)).min(nofile) as u32;
        // Without a table (listeners are what fills it) everything is on plain descriptors.
        let wanted = if listeners.is_empty() { 0 } else { wanted };
        let direct_max = if wanted > 0 && ring.register_direct(wanted).is_ok() { wanted } else { 0 };
        Ok(Self {
            listeners,
            states,
            armed: 0,
            accepting: true,
            closed: false,
            direct_max,
            direct_taken: 0,
            direct_promised: 0,
        })
    }

    /// Direct descriptors that hold a connection.
    pub(super) fn direct_open(&self) -> u32 {
        self.direct_taken - self.direct_promised
    }

    /// A descriptor was closed.
    pub(super) fn direct_closed(&mut self, direct: bool) {
        self.direct_taken -= u32::from(direct);
    }

    /// Arms what is idle. Called once a turn.
    pub(super) fn arm(&mut self, ring: &mut Ring) {
        if self.closed && self.armed == 0 {
            self.listeners.clear();
        }
        if !self.accepting || self.armed == self.states.len() {
            return;
        }
        for (key, state) in self.states.iter_mut().enumerate() {
            if *state == State::Idle {
                let direct = self.direct_taken < self.direct_max;
                self.direct_taken += u32::from(direct);
                self.direct_promised += u32::from(direct);
                *state = State::Armed;
                self.armed += 1;
                ring.push_accept(key as u32, direct, pack(ACCEPT, token(key)));
            }
        }
    }

    /// An accept ended: with a peer, with trouble to tell (once), or with nothing.
    pub(super) fn completed(
        &mut self,
        ring: &mut Ring,
        key: u32,
        result: i32,
    ) -> io::Result<Option<(Target, PeerAddr)>> {
        self.states[key as usize] = State::Idle;
        self.armed -= 1;
        let direct = u32::from(ring.accepts_direct(key));
        self.direct_promised -= direct;
        if result >= 0 {
            return Ok(Some(ring.accepted(key, result)));
        }
        self.direct_taken -= direct;
        let error = io::Error::from_raw_os_error(-result);
        if self.accepting && accept_is_exhausted(&error) {
            self.pause(ring);
            return Err(error);
        }
        // The peer's trouble (accept(2): ECONNABORTED, EPROTO …) or our cancelling.
        Ok(None)
    }

    pub(super) fn pause(&mut self, ring: &mut Ring) {
        self.accepting = false;
        for (key, state) in self.states.iter_mut().enumerate() {
            if *state == State::Armed {
                *state = State::Cancelling;
                ring.push_cancel(pack(ACCEPT, token(key)), pack(ACCEPT_CANCEL, token(key)));
            }
        }
    }

    pub(super) fn resume(&mut self) {
        self.accepting = !self.closed;
    }

    pub(super) fn close(&mut self, ring: &mut Ring) {
        self.pause(ring);
        self.closed = true;
    }
}

fn token(key: usize) -> Token {
    Token { slot: key as u32, generation: 0 }
}
