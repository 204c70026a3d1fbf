//! Letting go of what a burst needed and nothing has needed since.
//!
//! Hundreds of handshakes in one turn take a buffer and a work each, 640 bytes, and fill receive buffers, which a
//! million silent connections then carry on their account. The contract: while more than a handful is kept, half of
//! what was not used within a second is freed each second; what is in use is never touched. A busy shard takes
//! longer: what it needs once in a few seconds would be freed and allocated again and again.

use super::Core;
use super::common::Common;
use crate::driver::Driver;
use crate::handler::Handler;
use slab::Slab;
use std::time::Duration;

/// Time between two looks.
const PERIOD: Duration = Duration::from_secs(1);
/// A shard that makes more turns between two looks is busy.
const BUSY_TURNS: u64 = 64;
/// A busy shard lets go at one look in so many.
const BUSY_LOOKS: u32 = 16;
/// Places for works that are kept whether they are used or not.
const KEPT_WORKS: usize = 256;
/// A work has a buffer most of the time it lives: there are not many times more places than buffers.
const WORKS_PER_BUFFER: usize = 4;

impl<D: Driver, H: Handler> Core<D, H> {
    /// To be called at the end of every turn.
    #[inline]
    pub(super) fn tend_spare(&mut self) {
        match self.spare_due {
            None if self.has_spare() => self.spare_due = Some(self.common.now + PERIOD),
            Some(due) if due <= self.common.now => self.let_spare_go(),
            _ => {}
        }
    }

    #[inline]
    fn has_spare(&self) -> bool {
        self.common.pool.has_spare() || self.common.has_spare_works() || self.driver.has_spare()
    }

    #[cold]
    fn let_spare_go(&mut self) {
        let turns = self.common.stats.turns.get();
        let is_busy = turns - std::mem::replace(&mut self.spare_turns, turns) > BUSY_TURNS;
        self.spare_looks += 1;
        self.driver.rest_silent();
        if is_busy && self.spare_looks < BUSY_LOOKS {
            self.spare_due = Some(self.common.now + PERIOD);
            return;
        }
        self.spare_looks = 0;
        self.driver.shed();
        self.common.pool.shed();
        if self.common.has_spare_works() {
            self.common.works = Slab::new();
        }
        self.spare_due = self.has_spare().then(|| self.common.now + PERIOD);
    }
}

impl Common {
    #[inline]
    fn has_spare_works(&self) -> bool {
        let most = KEPT_WORKS.max(WORKS_PER_BUFFER * self.pool.buffers());
        self.works.is_empty() && self.works.capacity() > most
    }
}
