//! NEON, which every AArch64 target with a standard library has: pointers become vectors here.

#![allow(unsafe_code, reason = "vector loads and stores take pointers")]

use super::level::{Level, Usable};
use super::scalar;

/// Unmasks at most `INLINE_BYTES` bytes; see `simd::unmask`. `key` applies to the first byte.
#[inline]
pub(super) fn unmask_small(bytes: &mut [u8], key: u32) -> bool {
    // SAFETY: every AArch64 target with a standard library has NEON.
    unsafe { neon::unmask_small(bytes, key) }
}

/// Unmasks at `level`; see `simd::unmask`. `key` applies to the first byte.
#[inline(always)] // one jump from the level to its kernel
pub(super) fn unmask(level: Usable, bytes: &mut [u8], key: u32) -> bool {
    match level.get() {
        // SAFETY: as above.
        Level::Neon => unsafe { neon::unmask(bytes, key) },
        _ => scalar::unmask(bytes, key),
    }
}

/// Whether `bytes` are whole characters.
#[inline]
pub(super) fn is_utf8(_: Usable, bytes: &[u8]) -> bool {
    simdutf8::basic::from_utf8(bytes).is_ok()
}

/// The operations, and the kernel over them.
mod neon {
    use crate::simd::kernel;
    use core::arch::aarch64::*;

    const BYTES: usize = 16;
    type Vector = uint8x16_t;

    #[inline]
    #[target_feature(enable = "neon")]
    fn load(bytes: &[u8; BYTES]) -> Vector {
        // SAFETY: the reference covers the bytes read; the load needs no alignment.
        unsafe { vld1q_u8(bytes.as_ptr()) }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    fn store(bytes: &mut [u8; BYTES], vector: Vector) {
        // SAFETY: the reference covers the bytes written; the store needs no alignment.
        unsafe { vst1q_u8(bytes.as_mut_ptr(), vector) }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    fn splat(key: u32) -> Vector {
        vreinterpretq_u8_u32(vdupq_n_u32(key.to_le()))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    fn xor(a: Vector, b: Vector) -> Vector {
        veorq_u8(a, b)
    }

    #[inline]
    #[target_feature(enable = "neon")]
    fn or(a: Vector, b: Vector) -> Vector {
        vorrq_u8(a, b)
    }

    #[inline]
    #[target_feature(enable = "neon")]
    fn is_ascii(vector: Vector) -> bool {
        vmaxvq_u8(vector) < 0x80
    }

    kernel::small_kernel!(#[target_feature(enable = "neon")]);
    kernel::unmask_kernel!(#[target_feature(enable = "neon")]);
}
