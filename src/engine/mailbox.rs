//! How other threads reach a core: a bounded, lock-free queue and one wake-up per turn.
//!
//! The only room through which one core touches another.

use crate::driver::Waker;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

#[derive(Debug)]
struct Gate {
    /// A wake-up is under way; further senders need not send another.
    notified: AtomicBool,
    /// Commands in the queue.
    queued: AtomicU32,
    limit: u32,
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

/// A mailbox of at most `limit` commands whose posts end the wait of `waker`'s driver.
pub fn mailbox<T>(limit: u32, waker: Waker) -> (Mailbox<T>, Inbox<T>) {
    let (sender, receiver) = channel();
    let gate = Arc::new(Gate { notified: AtomicBool::new(false), queued: AtomicU32::new(0), limit, waker });
    (Mailbox { queue: sender, gate: gate.clone() }, Inbox { queue: receiver, gate })
}

impl<T> Mailbox<T> {
    /// Queues a command, up to the limit.
    pub fn post(&self, command: T) -> Result<(), PostError> {
        if self.gate.queued.fetch_add(1, Ordering::Relaxed) >= self.gate.limit {
            self.gate.queued.fetch_sub(1, Ordering::Relaxed);
            return Err(PostError::Full);
        }
        self.post_counted(command)
    }

    /// Queues a command whatever the limit: for the few that the server itself sends.
    pub fn post_unbounded(&self, command: T) -> Result<(), PostError> {
        self.gate.queued.fetch_add(1, Ordering::Relaxed);
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

    /// The next command.
    pub fn take(&self) -> Option<T> {
        let command = self.queue.try_recv().ok()?;
        self.gate.queued.fetch_sub(1, Ordering::Relaxed);
        Some(command)
    }
}
