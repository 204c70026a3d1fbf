//! Waiting for the server's deadlines, on several connections at once.

use super::arena::Arena;
use super::peer::Peer;
use std::thread;
use std::time::{Duration, Instant};

/// A connection that the server should end by itself.
#[derive(Debug)]
pub struct Waiter {
    /// Of the probe.
    pub name: &'static str,
    /// The connection, if there is one.
    pub peer: Result<Peer, String>,
    /// When the server first pinged.
    pub pinged: Option<Duration>,
    /// When the connection ended.
    pub ended: Option<Duration>,
    drip: Vec<u8>,
}

impl Waiter {
    /// Sends `drip` each second, if it is not empty.
    pub fn new(name: &'static str, peer: Result<Peer, String>, drip: &[u8]) -> Self {
        Self { name, peer, pinged: None, ended: None, drip: drip.to_vec() }
    }

    fn look(&mut self, now: Duration, drips: bool) {
        let Ok(peer) = &mut self.peer else { return };
        if self.ended.is_none() && drips && !self.drip.is_empty() {
            peer.send(&self.drip, Duration::from_millis(10));
        }
        if self.ended.is_none() && peer.ends(Duration::from_millis(1)) {
            self.ended = Some(now);
        }
        if peer.pings > 0 {
            self.pinged.get_or_insert(now);
        }
    }

    /// Whether there is nothing to wait for any more. A ping begins another deadline.
    fn is_over(&self, now: Duration, timeout: Duration) -> bool {
        self.peer.is_err() || self.ended.is_some() || now > self.pinged.unwrap_or_default() + timeout
    }
}

/// Waits until all have ended, or the timeout has passed for each. The bystander looks on.
///
/// # Errors
/// In words, if the bystander is not served.
pub fn wait(arena: &mut Arena<'_>, waiters: &mut [Waiter]) -> Result<(), String> {
    let (begin, mut second) = (Instant::now(), 0);
    while waiters.iter().any(|waiter| !waiter.is_over(begin.elapsed(), arena.options.timeout)) {
        let next = begin.elapsed().as_secs() > second;
        second = begin.elapsed().as_secs();
        waiters.iter_mut().for_each(|waiter| waiter.look(begin.elapsed(), next));
        if next {
            arena.glance()?;
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
