//! How other threads reach a core: a bounded, lock-free queue and one wake-up per turn.
//!
//! The only room through which one core touches another.

use crate::config::Limits;
use crate::driver::Waker;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

#[derive(Debug)]
struct Gate {
    /// A wake-up is under way; further senders need not send another.
    notified: AtomicBool,
    /// Commands in the queue.
    queued: AtomicU32,
    limit: u32,
    /// Bytes of commands that count until they have been carried out.
    held_bytes: AtomicUsize,
    max_held_bytes: usize,
    /// The core has ended: what was left in the queue stays counted, and must not keep others from theirs.
    ended: AtomicBool,
    waker: Waker,
}

/// Why a command was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PostError {
    /// The mailbox holds its limit.
    Full,
    /// The core has stopped.
    Stopped,
}

/// The sending side: any number of threads.
#[derive(Debug)]
pub struct Mailbox<T> {
    queue: Sender<T>,
    gate: Arc<Gate>,
}

impl<T> Clone for Mailbox<T> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), gate: self.gate.clone() }
    }
}

/// The core's side.
#[derive(Debug)]
pub struct Inbox<T> {
    queue: Receiver<T>,
    gate: Arc<Gate>,
}

impl<T> Drop for Inbox<T> {
    fn drop(&mut self) {
        self.gate.ended.store(true, Ordering::Release);
    }
}

/// A bounded mailbox whose posts end the wait of `waker`'s driver.
pub fn mailbox<T>(limits: &Limits, waker: Waker) -> (Mailbox<T>, Inbox<T>) {
    let (sender, receiver) = channel();
    let gate = Arc::new(Gate {
        notified: AtomicBool::new(false),
        queued: AtomicU32::new(0),
        limit: limits.max_mailbox_commands,
        held_bytes: AtomicUsize::new(0),
        max_held_bytes: limits.max_broadcast_bytes as usize,
        ended: AtomicBool::new(false),
        waker,
    });
    (Mailbox { queue: sender, gate: gate.clone() }, Inbox { queue: receiver, gate })
}

impl<T> Mailbox<T> {
    /// Ends the core's current or next wait, with nothing posted.
    pub fn wake(&self) {
        self.gate.waker.wake();
    }

    /// Queues a command, up to the limit.
    pub fn post(&self, command: T) -> Result<(), PostError> {
        if self.gate.queued.fetch_add(1, Ordering::Relaxed) >= self.gate.limit {
            self.gate.queued.fetch_sub(1, Ordering::Relaxed);
            return Err(if self.has_ended() { PostError::Stopped } else { PostError::Full });
        }
        self.post_counted(command)
    }

    /// Queues a command whatever the limit: for the few that the server itself sends.
    pub fn post_unbounded(&self, command: T) -> Result<(), PostError> {
        self.gate.queued.fetch_add(1, Ordering::Relaxed);
        self.post_counted(command)
    }

    fn has_ended(&self) -> bool {
        self.gate.ended.load(Ordering::Acquire)
    }

    /// Makes room for a command that holds so many bytes until it has been carried out. One alone may
    /// hold more than the limit. What follows is [`post_reserved`](Self::post_reserved) or
    /// [`cancel`](Self::cancel). A core that has ended has room for anything, which it will not get.
    pub fn reserve(&self, bytes: usize) -> Result<(), PostError> {
        let held = self.gate.held_bytes.fetch_add(bytes, Ordering::Relaxed);
        let queued = self.gate.queued.fetch_add(1, Ordering::Relaxed);
        let is_full = queued >= self.gate.limit || (held > 0 && held + bytes > self.gate.max_held_bytes);
        if is_full && !self.has_ended() {
            self.cancel(bytes);
            return Err(PostError::Full);
        }
        Ok(())
    }

    /// Makes room for bytes that come with a command posted later, or not at all
    /// ([`let_go`](Self::let_go)). One message alone may hold more than the limit.
    pub fn reserve_bytes(&self, bytes: usize) -> Result<(), PostError> {
        let held = self.gate.held_bytes.fetch_add(bytes, Ordering::Relaxed);
        if held > 0 && held + bytes > self.gate.max_held_bytes && !self.has_ended() {
            self.let_go(bytes);
            return Err(PostError::Full);
        }
        Ok(())
    }

    /// Gives room for bytes back.
    pub fn let_go(&self, bytes: usize) {
        self.gate.held_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Gives the room back.
    pub fn cancel(&self, bytes: usize) {
        self.gate.held_bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.gate.queued.fetch_sub(1, Ordering::Relaxed);
    }

    /// Queues a command for which there is room.
    pub fn post_reserved(&self, command: T) -> Result<(), PostError> {
        self.post_counted(command)
    }

    fn post_counted(&self, command: T) -> Result<(), PostError> {
        if self.queue.send(command).is_err() {
            self.gate.queued.fetch_sub(1, Ordering::Relaxed);
            return Err(PostError::Stopped);
        }
        // Pairs with the swap in `begin`: either the core sees the command or we see `false`.
        if !self.gate.notified.swap(true, Ordering::AcqRel) {
            self.gate.waker.wake();
        }
        Ok(())
    }
}

impl<T> Inbox<T> {
    /// To be called before taking: a command posted from now on causes another wake-up. Tells
    /// whether any has been posted since the last call.
    pub fn begin(&self) -> bool {
        self.gate.notified.load(Ordering::Relaxed) && self.gate.notified.swap(false, Ordering::AcqRel)
    }

    /// Makes the next wait end at once: commands were left in the queue.
    pub fn rearm(&self) {
        if !self.gate.notified.swap(true, Ordering::AcqRel) {
            self.gate.waker.wake();
        }
    }

    /// Bytes of commands that have not been carried out.
    pub fn held_bytes(&self) -> usize {
        self.gate.held_bytes.load(Ordering::Relaxed)
    }

    /// Commands in the queue, and those for which room was made.
    pub fn queued(&self) -> u32 {
        self.gate.queued.load(Ordering::Relaxed)
    }

    /// A command that held so many bytes has been carried out.
    pub fn let_go(&self, bytes: usize) {
        self.gate.held_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// The next command.
    pub fn take(&self) -> Option<T> {
        let command = self.queue.try_recv().ok()?;
        self.gate.queued.fetch_sub(1, Ordering::Relaxed);
        Some(command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::sim::{Faults, Sim, SimNet};
    use crate::driver::{Driver, DriverConfig};

    fn small() -> (Mailbox<u32>, Inbox<u32>) {
        let config = DriverConfig {
            max_connections: 1,
            receive_buffers: 1,
            receive_buffer_bytes: 1,
            max_receive_bytes_per_turn: 1,
            shards_per_core: 1,
            busy_poll: false,
        };
        let waker = Sim::new(&SimNet::new(0, Faults::none()), &config).waker();
        mailbox(&Limits { max_mailbox_commands: 2, max_broadcast_bytes: 100, ..Limits::default() }, waker)
    }

    #[test]
    fn what_does_not_fit_is_refused_and_has_room_later() {
        let (mailbox, inbox) = small();
        mailbox.reserve(200).expect("one alone may be larger");
        assert_eq!(mailbox.reserve(1), Err(PostError::Full));
        mailbox.post_reserved(7).unwrap();
        assert_eq!((inbox.queued(), inbox.held_bytes()), (1, 200));
        mailbox.post(8).unwrap();
        assert_eq!(mailbox.post(9), Err(PostError::Full));
        assert_eq!((inbox.take(), inbox.take(), inbox.take()), (Some(7), Some(8), None));
        inbox.let_go(200);
        mailbox.reserve(1).unwrap();
        mailbox.cancel(1);
        assert_eq!((inbox.queued(), inbox.held_bytes()), (0, 0));
    }

    #[test]
    fn a_core_that_has_ended_keeps_nobody_from_posting_to_others() {
        let (mailbox, inbox) = small();
        mailbox.reserve(90).unwrap();
        mailbox.post_reserved(1).unwrap();
        mailbox.post(2).unwrap();
        assert_eq!(
            (mailbox.reserve(20), mailbox.reserve_bytes(20)),
            (Err(PostError::Full), Err(PostError::Full))
        );
        drop(inbox);
        for _ in 0..3 {
            mailbox.reserve(200).expect("publications to others go on");
            assert_eq!(mailbox.post_reserved(3), Err(PostError::Stopped));
            mailbox.reserve_bytes(200).unwrap();
            assert_eq!(mailbox.post(4), Err(PostError::Stopped));
        }
    }
}
