//! Sixteen bytes at a time in plain integers: for any CPU, and to compare the others with.

use super::{kernel, widen};

const BYTES: usize = 16;
type Vector = u128;

#[inline]
fn load(bytes: &[u8; BYTES]) -> Vector {
    Vector::from_le_bytes(*bytes)
}

#[inline]
fn store(bytes: &mut [u8; BYTES], vector: Vector) {
    *bytes = vector.to_le_bytes();
}

#[inline]
fn splat(key: u32) -> Vector {
    Vector::from(widen(key)) << 64 | Vector::from(widen(key))
}

#[inline]
fn xor(a: Vector, b: Vector) -> Vector {
    a ^ b
}

#[inline]
fn or(a: Vector, b: Vector) -> Vector {
    a | b
}

#[inline]
fn is_ascii(vector: Vector) -> bool {
    vector & splat(0x8080_8080) == 0
}

kernel::small_kernel!();
kernel::unmask_kernel!();

/// The dispatch of architectures without a kernel of their own.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(super) mod fallback {
    use crate::simd::level::Usable;

    pub(in crate::simd) use super::unmask_small;

    /// Unmasks with the only level there is.
    pub(in crate::simd) fn unmask(_: Usable, bytes: &mut [u8], key: u32) -> bool {
        super::unmask(bytes, key)
    }

    /// Whether `bytes` are whole characters.
    pub(in crate::simd) fn is_utf8(_: Usable, bytes: &[u8]) -> bool {
        simdutf8::basic::from_utf8(bytes).is_ok()
    }
}
