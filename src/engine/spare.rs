//! Letting go of what a burst needed and nothing has needed since.
//!
//! Hundreds of handshakes in one turn take a buffer and a work each, some 800 bytes, which a million
//! silent connections then carry on their account. The contract: while more than a handful is kept, half of
//! what was not used within a second is freed each second; what is in use is never touched.

use super::common::Common;
use slab::Slab;
use std::time::Duration;

/// Time between two looks.
const PERIOD: Duration = Duration::from_secs(1);
/// Places for works that are kept whether they are used or not.
const KEPT_WORKS: usize = 256;
/// A work has a buffer most of the time it lives: there are not many times more places than buffers.
const WORKS_PER_BUFFER: usize = 4;

impl Common {
    /// To be called at the end of every turn.
    #[inline]
    pub(super) fn tend_spare(&mut self) {
        match self.spare_due {
            None if self.has_spare() => self.spare_due = Some(self.now + PERIOD),
            Some(due) if due <= self.now => self.let_spare_go(),
            _ => {}
        }
    }

    #[inline]
    fn has_spare(&self) -> bool {
        self.pool.has_spare() || self.has_spare_works()
    }

    #[inline]
    fn has_spare_works(&self) -> bool {
        let most = KEPT_WORKS.max(WORKS_PER_BUFFER * self.pool.buffers());
        self.works.is_empty() && self.works.capacity() > most
    }

    #[cold]
    fn let_spare_go(&mut self) {
        self.pool.shed();
        if self.has_spare_works() {
            self.works = Slab::new();
        }
        self.spare_due = self.has_spare().then(|| self.now + PERIOD);
    }
}
