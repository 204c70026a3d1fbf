//! Mask keys for the client role: a fresh one per frame from a CSPRNG that the operating system seeds.
//!
//! RFC 6455 §10.3 asks for keys that a page cannot predict. They are computed a kilobyte at a time
//! by ChaCha8, of which the first bytes are the next kilobyte's key and are never handed out: what was
//! drawn before cannot be found from what is kept. The system seeds it anew every megabyte.

use super::keystream::{self, SEED_BYTES, STRETCH_BYTES};
use std::io;

const BATCH: usize = 4 * STRETCH_BYTES;
/// Batches of one seed.
const SEED_BATCHES: u32 = 1_024;

/// A supply of unpredictable bytes.
#[derive(Debug)]
pub struct Entropy {
    bytes: Box<[[u8; STRETCH_BYTES]; BATCH / STRETCH_BYTES]>,
    used: usize,
    /// Batches left before the system seeds it again.
    left: u32,
}

impl Default for Entropy {
    fn default() -> Self {
        Self { bytes: Box::new([[0; STRETCH_BYTES]; BATCH / STRETCH_BYTES]), used: BATCH, left: 0 }
    }
}

impl Entropy {
    /// Four fresh bytes.
    ///
    /// # Errors
    /// When the host has no randomness to give; nothing may be sent masked then.
    #[inline]
    pub fn mask(&mut self) -> io::Result<[u8; 4]> {
        if self.used == BATCH {
            self.refill()?;
        }
        let (keys, _) = self.bytes.as_flattened().as_chunks::<4>();
        let key = keys[self.used / 4];
        self.used += 4;
        Ok(key)
    }

    /// The masks of a message's frames, of which `first` is known to be had, if this end masks. It
    /// stands in if the host runs out of randomness half-way.
    pub fn masks_after(&mut self, first: Option<[u8; 4]>) -> impl FnMut() -> Option<[u8; 4]> {
        move || first.map(|first| self.mask().unwrap_or(first))
    }

    #[cold]
    #[inline(never)]
    fn refill(&mut self) -> io::Result<()> {
        let mut seed = [0; SEED_BYTES];
        if self.left == 0 {
            getrandom::fill(&mut seed).map_err(io::Error::other)?;
            self.left = SEED_BATCHES;
        } else {
            seed.copy_from_slice(&self.bytes[0][..SEED_BYTES]);
        }
        keystream::fill::<8>(&seed, &mut self.bytes[..]);
        self.left -= 1;
        self.used = SEED_BYTES;
        Ok(())
    }

    /// Sixteen fresh bytes, for a handshake key.
    ///
    /// # Errors
    /// As [`Entropy::mask`].
    pub fn key(&mut self) -> io::Result<[u8; 16]> {
        let mut key = [0; 16];
        for part in key.chunks_exact_mut(4) {
            part.copy_from_slice(&self.mask()?);
        }
        Ok(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn keys_do_not_repeat_across_batches() {
        let mut entropy = Entropy::default();
        // Beyond what one seed gives.
        let keys: HashSet<[u8; 16]> = (0..70_000).map(|_| entropy.key().unwrap()).collect();
        assert_eq!(keys.len(), 70_000);
    }
}
