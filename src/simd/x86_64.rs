//! SSE2, AVX2 and AVX-512: pointers become vectors here, and a level becomes a call.
//!
//! Functions with `#[target_feature]` are safe among themselves; entering them is what needs the
//! proof that a [`Usable`] carries.

#![allow(unsafe_code, reason = "vector loads and stores take pointers; calls need a feature check")]

use super::level::{Level, Usable};
use super::scalar;

mod utf8;

/// Unmasks at most `INLINE_BYTES` bytes; see `simd::unmask`. `key` applies to the first byte.
#[inline]
pub(super) fn unmask_small(bytes: &mut [u8], key: u32) -> bool {
    // SAFETY: every x86-64 CPU has SSE2.
    unsafe { sse2::unmask_small(bytes, key) }
}

/// Unmasks at `level`; see `simd::unmask`. `key` applies to the first byte.
#[inline(always)] // one jump from the level to its kernel
pub(super) fn unmask(level: Usable, bytes: &mut [u8], key: u32) -> bool {
    match level.get() {
        // SAFETY: a `Usable` exists only for a level this CPU has.
        Level::Avx512 => unsafe { avx512::unmask(bytes, key) },
        // SAFETY: as above.
        Level::Avx2 => unsafe { avx2::unmask(bytes, key) },
        // SAFETY: as above.
        Level::Sse2 => unsafe { sse2::unmask(bytes, key) },
        Level::Scalar | Level::Neon => scalar::unmask(bytes, key),
    }
}

/// Whether `bytes` are whole characters. simdutf8 detects AVX2 and SSE4.2 by itself, and has no
/// AVX-512.
#[inline]
pub(super) fn is_utf8(level: Usable, bytes: &[u8]) -> bool {
    match level.get() {
        // SAFETY: a `Usable` exists only for a level this CPU has.
        Level::Avx512 => unsafe { utf8::is_utf8(bytes) },
        Level::Avx2 | Level::Sse2 => simdutf8::basic::from_utf8(bytes).is_ok(),
        Level::Scalar | Level::Neon => core::str::from_utf8(bytes).is_ok(),
    }
}

/// Operations of one instruction set, and the kernel over them.
macro_rules! instruction_set {
    ($name:ident, $feature:literal, $bytes:literal, $vector:ident,
     $load:ident, $store:ident, $splat:ident, $xor:ident, $or:ident, $signs:ident,
     $small:item) => {
        mod $name {
            use crate::simd::kernel;
            use core::arch::x86_64::*;

            const BYTES: usize = $bytes;
            type Vector = $vector;

            #[inline]
            #[target_feature(enable = $feature)]
            fn load(bytes: &[u8; BYTES]) -> Vector {
                // SAFETY: the reference covers the bytes read; the load needs no alignment.
                unsafe { $load(bytes.as_ptr().cast()) }
            }

            #[inline]
            #[target_feature(enable = $feature)]
            fn store(bytes: &mut [u8; BYTES], vector: Vector) {
                // SAFETY: the reference covers the bytes written; the store needs no alignment.
                unsafe { $store(bytes.as_mut_ptr().cast(), vector) }
            }

            #[inline]
            #[target_feature(enable = $feature)]
            fn splat(key: u32) -> Vector {
                $splat(key.cast_signed())
            }

            #[inline]
            #[target_feature(enable = $feature)]
            fn xor(a: Vector, b: Vector) -> Vector {
                $xor(a, b)
            }

            #[inline]
            #[target_feature(enable = $feature)]
            fn or(a: Vector, b: Vector) -> Vector {
                $or(a, b)
            }

            #[inline]
            #[target_feature(enable = $feature)]
            fn is_ascii(vector: Vector) -> bool {
                $signs(vector) == 0
            }

            $small
            kernel::unmask_kernel!(#[target_feature(enable = $feature)]);
        }
    };
}

#[rustfmt::skip]
instruction_set!(
    sse2, "sse2", 16, __m128i,
    _mm_loadu_si128, _mm_storeu_si128, _mm_set1_epi32, _mm_xor_si128, _mm_or_si128, _mm_movemask_epi8,
    kernel::small_kernel!(#[target_feature(enable = "sse2")]);
);
#[rustfmt::skip]
instruction_set!(
    avx2, "avx2", 32, __m256i,
    _mm256_loadu_si256, _mm256_storeu_si256, _mm256_set1_epi32, _mm256_xor_si256, _mm256_or_si256,
    _mm256_movemask_epi8,
    use super::sse2::unmask_small;
);
#[rustfmt::skip]
instruction_set!(
    avx512, "avx512f,avx512bw,avx512vbmi", 64, __m512i,
    _mm512_loadu_si512, _mm512_storeu_si512, _mm512_set1_epi32, _mm512_xor_si512, _mm512_or_si512,
    _mm512_movepi8_mask,
    use super::sse2::unmask_small;
);
