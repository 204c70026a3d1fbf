//! Sends of the epoll driver: tried when they are asked for, and gone on with when the socket has room again.

use super::{CONNECTION, CONNECTION_EVENTS, Epoll, NONE, SHUTDOWN, WATCHES_OUT};
use crate::driver::sys::{self, RecordMessage};
use crate::driver::tag::pack;
use crate::driver::{Event, SendBuf, Token};
use std::io;
use std::os::fd::{AsRawFd, RawFd};

/// A send whose end has not been told.
pub(super) struct Sending {
    what: Sent,
    sent: usize,
}

pub(super) enum Sent {
    Buf(SendBuf),
    Record(Box<RecordMessage>),
}

impl Sending {
    /// Sends what is left; tells whether that was all.
    fn try_send(&mut self, fd: RawFd) -> io::Result<bool> {
        match &self.what {
            Sent::Buf(buf) => {
                let bytes = &buf.as_slice()[self.sent..];
                let taken = sys::send(fd, bytes)?;
                self.sent += taken;
                Ok(taken == bytes.len())
            }
            Sent::Record(message) => sys::send_record(fd, message).map(|()| true),
        }
    }

    pub(super) fn into_buf(self) -> SendBuf {
        match self.what {
            Sent::Buf(buf) => buf,
            Sent::Record(message) => SendBuf::Owned(message.into_content()),
        }
    }
}

impl Epoll {
    /// Sends what the socket takes of the pending send; queues its outcome when there is one.
    pub(super) fn write(&mut self, token: Token) {
        let epoll = self.epoll.as_raw_fd();
        let Some(port) = self.ports.get_mut(token.slot as usize) else { return };
        let sending = &mut self.sends[port.send as usize];
        let result = loop {
            let is_first = sending.sent == 0;
            match sending.try_send(port.fd) {
                Ok(true) => break Ok(()),
                // Short: the socket is full, and says so when it no longer is.
                Ok(false) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => break Err(error),
            }
            self.stats.short_writes += u64::from(is_first);
            if port.has(WATCHES_OUT) {
                return;
            }
            port.flags |= WATCHES_OUT;
            let events = CONNECTION_EVENTS | libc::EPOLLOUT as u32;
            match sys::epoll_ctl(epoll, libc::EPOLL_CTL_MOD, port.fd, events, pack(CONNECTION, token)) {
                Ok(()) => return,
                Err(error) => break Err(error),
            }
        };
        let sending = self.sends.remove(port.send as usize);
        port.send = NONE;
        if port.has(SHUTDOWN) {
            let _ = sys::shutdown(port.fd, libc::SHUT_WR);
        }
        self.outcomes.push_back(Event::Sent { token, buf: sending.into_buf(), result });
    }

    /// What the socket had no room for follows.
    #[cold]
    pub(super) fn send_rest(&mut self, token: Token, buf: SendBuf, sent: usize) {
        self.stats.short_writes += u64::from(sent > 0);
        let port = &mut self.ports[token.slot as usize];
        port.send = self.sends.insert(Sending { what: Sent::Buf(buf), sent }) as u32;
        self.write(token);
    }

    pub(super) fn start_send(&mut self, token: Token, what: Sent) {
        let port = &mut self.ports[token.slot as usize];
        debug_assert!(port.send == NONE, "a send is in flight");
        port.send = self.sends.insert(Sending { what, sent: 0 }) as u32;
        self.write(token);
    }

    pub(super) fn not_sent(&mut self, token: Token, buf: SendBuf, error: io::ErrorKind) {
        self.outcomes.push_back(Event::Sent { token, buf, result: Err(error.into()) });
    }

    pub(super) fn lease_sent(&mut self, token: Token, result: io::Result<()>) {
        self.outcomes.push_back(Event::Sent { token, buf: SendBuf::EMPTY, result });
    }
}
