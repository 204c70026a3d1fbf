//! Accepting: a few one-shot requests per listener, each with its own room for the peer's address.
//!
//! Not multishot, on purpose: a multishot accept brings no address, a direct descriptor has no
//! getpeername(2), and for a plain one that would be a system call per peer, where arming the next
//! one-shot is a submission that rides along with the turn's. It also bounds what one turn accepts,
//! and needs no care about multishot accept under DEFER_TASKRUN on Linux 6.6 to 6.8. The kernel
//! wakes one request per peer (they wait exclusively).

use std::io;
use std::os::fd::AsRawFd;

use super::direct::Directs;
use super::port::{Target, UringSocket};
use super::ring::Ring;
use super::{ACCEPT, ACCEPT_CANCEL};
use crate::driver::epoll::accept_is_exhausted;
use crate::driver::listen::Listener;
use crate::driver::tag::pack;
use crate::driver::{PeerAddr, Token, sys};

/// Requests per listener: peers accepted per turn.
const ACCEPTS: usize = 16;

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
    /// Places in the table of direct descriptors that armed accepts have.
    promised: u32,
}

impl Accepts {
    pub(super) fn new(ring: &mut Ring, listeners: Vec<Listener>) -> io::Result<Self> {
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
        Ok(Self { listeners, states, armed: 0, accepting: true, closed: false, promised: 0 })
    }

    /// Places in the table of direct descriptors that armed accepts have.
    pub(super) fn promised(&self) -> u32 {
        self.promised
    }

    /// Arms what is idle. Called once a turn.
    pub(super) fn arm(&mut self, ring: &mut Ring, directs: &mut Directs) {
        if self.closed && self.armed == 0 {
            self.listeners.clear();
        }
        if !self.accepting || self.armed == self.states.len() {
            return;
        }
        for (key, state) in self.states.iter_mut().enumerate() {
            if *state == State::Idle {
                let is_plain = self.listeners[key / ACCEPTS].is_plain();
                let direct = if is_plain { None } else { directs.take() };
                self.promised += u32::from(direct.is_some());
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
        directs: &mut Directs,
        key: u32,
        result: i32,
    ) -> io::Result<Option<(UringSocket, PeerAddr)>> {
        self.states[key as usize] = State::Idle;
        self.armed -= 1;
        let (direct, peer) = ring.accepted(key);
        self.promised -= u32::from(direct.is_some());
        if result >= 0 {
            let target = direct.map_or(Target::Plain(result), Target::Direct);
            return Ok(Some((directs.socket(target), peer)));
        }
        if let Some(index) = direct {
            directs.put(index);
        }
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

/// The place of the listener that a key's request accepts on.
pub(super) fn listener(key: u32) -> u32 {
    key / ACCEPTS as u32
}

fn token(key: usize) -> Token {
    Token { slot: key as u32, generation: 0 }
}
