//! TLS in the kernel, on plain descriptors: a direct one has no setsockopt(2) before Linux 6.7.
//!
//! The receive stays armed meanwhile. It brings completions only while the thread is in the kernel for
//! that (`DEFER_TASKRUN`), so what has not left the socket when the keys are handed over is opened by them.

use std::io;

use super::port::{ENDED, SEALED, Target};
use super::ring::Ring;
use super::sends::Source;
use super::{NONE, Uring, UringSocket};
use crate::driver::records;
use crate::driver::sys::RecordMessage;
use crate::driver::{Event, Half, RecordKeys, SendBuf, Token};

impl Uring {
    pub(super) fn hand_over_keys(
        &mut self,
        token: Token,
        half: Half,
        keys: &RecordKeys<'_>,
    ) -> io::Result<()> {
        let Some(port) = self.live(token) else { return Err(io::ErrorKind::NotConnected.into()) };
        let (target, sending) = (port.target(), port.send != NONE);
        let Target::Plain(fd) = target else { return Err(io::ErrorKind::InvalidInput.into()) };
        match half {
            Half::Sending if sending => return Err(io::ErrorKind::WouldBlock.into()),
            Half::Receiving if !self.ring.is_quiet() || self.defers(token) => {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            _ => {}
        }
        records::hand_over(fd, half, keys)?;
        self.ports[token.slot as usize].target |= SEALED;
        Ok(())
    }

    /// Whether something of the connection waits for the next turn.
    fn defers(&self, token: Token) -> bool {
        let of = |event: &Event<UringSocket>| matches!(event, Event::Received { token: other, .. } if *other == token);
        self.deferred.iter().any(of)
    }

    pub(super) fn start_record(&mut self, token: Token, kind: u8, content: Vec<u8>) {
        let error = match self.live(token) {
            None => io::ErrorKind::NotConnected,
            Some(port) if !port.is_sealed() => io::ErrorKind::InvalidInput,
            Some(_) => {
                let key = self.ring.insert_send(Source::Record(RecordMessage::new(kind, content)));
                return self.push_send(token, key, Ring::push_send);
            }
        };
        self.not_sent(token, SendBuf::Owned(content), error);
    }

    /// What a receive that failed with `errno` means.
    pub(super) fn receive_failed(&mut self, token: Token, errno: i32) -> Event<UringSocket> {
        let port = &mut self.ports[token.slot as usize];
        let error = io::Error::from_raw_os_error(errno);
        let record = match port.target() {
            Target::Plain(fd) if port.is_sealed() => records::instead_of(fd, error),
            _ => Err(error),
        };
        match record {
            Ok((kind, content)) => Event::Record { token, kind, content },
            Err(error) => {
                port.flags |= ENDED;
                Event::Failed { token, error }
            }
        }
    }
}
