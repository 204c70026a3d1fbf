//! What is armed for a connection that may say something: a multishot receive while it talks, a poll while it is
//! silent.
//!
//! Both are operations of the kind `RECEIVE`, one at a time. An armed receive holds 823 bytes of the kernel's memory
//! (`io_kiocb`, `io_async_msghdr`, `async_poll`), a poll 256, an epoll item 213 (Linux 6.18). What ends a silence, be
//! it a pong every few minutes, is received by a receive for one time, and the connection is polled again. More
//! within a round of looks, and it talks, until a round finds it silent.

use super::port::*;
use super::ring::{Completion, Ring};
use super::{CANCEL, MAX_CANCELLABLE, NONE, RECEIVE, Uring, UringSocket, pack};
use crate::driver::{Driver, Event, Lease, Token};

/// Looks in one round: each sees a part of the connections.
pub(super) const LOOKS: u32 = 32;

impl Uring {
    /// Arms a receive, of one time or until it is cancelled. The caller has looked at the flags.
    fn arm(&mut self, token: Token, push: fn(&mut Ring, Target, u64)) {
        let port = &mut self.ports[token.slot as usize];
        debug_assert!(!port.has(RECEIVING | CLOSING | ENDED | PAUSED));
        port.flags |= RECEIVING;
        port.in_flight += 1;
        self.receiving += 1;
        push(&mut self.ring, port.target(), pack(RECEIVE, token));
    }

    /// Receives what comes first.
    pub(super) fn receive_once(&mut self, token: Token) {
        self.stats.receives_armed += 1;
        self.arm(token, Ring::push_receive_once);
    }

    pub(super) fn cancel_receive(&mut self, token: Token) {
        let port = &mut self.ports[token.slot as usize];
        port.flags |= CANCELLING;
        port.in_flight += 1;
        self.ring.push_cancel(pack(RECEIVE, token), pack(CANCEL, token));
    }

    pub(super) fn receive_completed(
        &mut self,
        token: Token,
        completion: Completion,
    ) -> Option<Event<UringSocket>> {
        let len = completion.result.max(0) as u32;
        let lease = completion.buffer().map(|(index, more)| Lease {
            buffer: index.into(),
            offset: self.ring.buffers().take(index, len, more),
            len,
        });
        let Some(port) = self.owner(token) else {
            self.release_any(lease);
            return None;
        };
        if completion.is_last() {
            port.in_flight -= 1;
            port.flags &= !RECEIVING;
            self.receiving -= 1;
        }
        let port = &self.ports[token.slot as usize];
        if port.has(CLOSING | ENDED) {
            self.release_any(lease);
            self.advance_close(token);
            return None;
        }
        let event = match (completion.result, lease) {
            (1.., Some(lease)) => {
                self.ports[token.slot as usize].target |= HEARD;
                Event::Received { token, lease }
            }
            (1.., None) => {
                self.silence_ended(token);
                return None;
            }
            (result, lease) => {
                self.release_any(lease);
                self.receive_ended(token, result)?
            }
        };
        self.rearm(token);
        self.share(token, event)
    }

    fn release_any(&mut self, lease: Option<Lease>) {
        if let Some(lease) = lease {
            self.release(lease);
        }
    }

    /// A receive that brought no bytes: what it means for the engine, if anything.
    fn receive_ended(&mut self, token: Token, result: i32) -> Option<Event<UringSocket>> {
        let port = &mut self.ports[token.slot as usize];
        match -result {
            0 => {
                port.flags |= ENDED;
                Some(Event::Eof(token))
            }
            libc::ENOBUFS => {
                self.stats.buffer_starvations += 1;
                if !port.has(PAUSED) {
                    self.starve(token);
                }
                None
            }
            libc::ECANCELED | libc::EINTR | libc::EAGAIN => {
                self.rearm(token);
                None
            }
            errno => Some(self.receive_failed(token, errno)),
        }
    }

    /// Receives again if nothing speaks against it. A connection that had more than its share
    /// waits with the starved: armed at once, it would take the next buffers before the others.
    pub(super) fn rearm(&mut self, token: Token) {
        let flags = self.ports[token.slot as usize].flags;
        if flags & (RECEIVING | PAUSED | ENDED | STARVED | CLOSING) != 0 {
            return;
        }
        if flags & DEFERRED != 0 {
            self.starve(token);
        } else if self.ports[token.slot as usize].talks() {
            self.stats.receives_armed += 1;
            self.arm(token, Ring::push_receive);
        } else {
            self.arm(token, Ring::push_poll);
        }
    }

    /// The poll says that there is something to receive.
    fn silence_ended(&mut self, token: Token) {
        let port = &self.ports[token.slot as usize];
        if port.has(PAUSED) {
            return;
        }
        if port.target & HEARD != 0 {
            self.talk(token);
            self.rearm(token);
        } else {
            self.receive_once(token);
        }
    }

    fn talk(&mut self, token: Token) {
        let port = &mut self.ports[token.slot as usize];
        self.talking += u32::from(!port.talks());
        port.target |= TALKS | HEARD;
    }

    /// Does not count it among those that talk any more.
    pub(super) fn hush(&mut self, token: Token) {
        let port = &mut self.ports[token.slot as usize];
        self.talking -= u32::from(port.talks());
        port.target &= !TALKS;
    }

    /// Whether there are connections that talk and can be found silent.
    pub(super) fn has_talking(&self) -> bool {
        self.talking > 0 && self.receiving <= MAX_CANCELLABLE
    }

    /// One look of a round.
    pub(super) fn look_for_silent(&mut self) {
        self.looks = (self.looks + 1) % LOOKS;
        let of_all = |looks: u32| self.ports.len() * looks as usize / LOOKS as usize;
        for slot in of_all(self.looks)..of_all(self.looks + 1) {
            let port = &mut self.ports[slot];
            if port.target == NONE {
                continue;
            }
            let heard = port.target & HEARD != 0;
            port.target &= !HEARD;
            if heard || !port.talks() {
                continue;
            }
            let token = Token { slot: slot as u32, generation: port.generation };
            if port.flags & (RECEIVING | CANCELLING | PAUSED) == RECEIVING {
                if self.receiving > MAX_CANCELLABLE {
                    continue;
                }
                self.cancel_receive(token);
            }
            self.hush(token);
        }
    }

    fn starve(&mut self, token: Token) {
        // It has something to say, and must not be asked once more whether it has.
        self.talk(token);
        let port = &mut self.ports[token.slot as usize];
        if !port.has(STARVED) {
            port.flags |= STARVED;
            self.starved.push_back(token);
        }
    }

    pub(super) fn cancel_completed(&mut self, token: Token, result: i32) {
        let Some(port) = self.owner(token) else { return };
        port.in_flight -= 1;
        port.flags &= !CANCELLING;
        // Missed it in a moment when it was running: once more, unless plans have changed. One that was to rest is
        // found by a later round.
        if result < 0 && port.has(RECEIVING) {
            match port.flags & (PAUSED | CLOSING) {
                0 => self.talk(token),
                PAUSED => self.cancel_receive(token),
                _ => self.push_shutdown(token, libc::SHUT_RDWR),
            }
        }
        self.advance_close(token);
    }

    /// As many of the starved receive again as there are buffers, and more buffers are published
    /// when these are fewer. True if some are left although there were buffers.
    pub(super) fn feed_starved(&mut self) -> bool {
        if self.starved.is_empty() {
            return false;
        }
        if usize::from(self.ring.buffers().in_ring()) < self.starved.len() {
            self.ring.buffers().grow();
        }
        // Who is armed first takes what it can: those who had nothing in the last turn go first.
        let (last, ports) = (self.turn.wrapping_sub(1), &self.ports);
        self.starved.make_contiguous().sort_by_key(|token| {
            let port = &ports[token.slot as usize];
            if port.turn == last { port.share } else { 0 }
        });
        let mut buffers = self.ring.buffers().in_ring();
        for _ in 0..self.starved.len() {
            if buffers == 0 {
                break;
            }
            let Some(token) = self.starved.pop_front() else { break };
            let Some(port) = self.live(token).filter(|port| port.has(STARVED)) else { continue };
            if port.has(DEFERRED) {
                self.starved.push_back(token);
                continue;
            }
            port.flags &= !STARVED;
            self.rearm(token);
            buffers -= 1;
        }
        buffers == 0 && self.ring.buffers().in_ring() > 0 && !self.starved.is_empty()
    }
}
