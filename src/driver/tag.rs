//! The 64 bits that travel through the kernel with every operation: kind, slot and generation.
//!
//! Never a pointer: a completion that comes late names a generation that is no longer there, and
//! misses.

use super::Token;

/// Slots are below this: 24 bits.
pub(super) const MAX_SLOTS: u32 = 1 << 24;

/// `kind` in the top 8 bits, then 24 of slot, then 32 of generation.
#[inline]
pub(super) fn pack(kind: u8, token: Token) -> u64 {
    debug_assert!(token.slot < MAX_SLOTS);
    u64::from(kind) << 56 | u64::from(token.slot) << 32 | u64::from(token.generation)
}

/// The inverse of [`pack`].
#[inline]
pub(super) fn unpack(tag: u64) -> (u8, Token) {
    let slot = (tag >> 32) as u32 & (MAX_SLOTS - 1);
    ((tag >> 56) as u8, Token { slot, generation: tag as u32 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_keeps_the_extremes_apart() {
        for kind in [0, 1, 255] {
            for slot in [0, 1, MAX_SLOTS - 1] {
                for generation in [0, 1, u32::MAX] {
                    let token = Token { slot, generation };
                    assert_eq!(unpack(pack(kind, token)), (kind, token));
                }
            }
        }
    }
}
