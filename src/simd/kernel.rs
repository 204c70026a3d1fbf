//! The unmask kernels, written once in safe code over whatever vector an instruction set offers.
//!
//! A set of operations is a `Vector` of `BYTES` bytes with `load`, `store`, `splat`, `xor`, `or`
//! and `is_ascii`. Partial blocks are never done byte by byte: the first and the last block are
//! read before anything is written, and may overlap what lies between them.

use super::rotate;

/// Defines `unmask(bytes, key) -> bool` over the operations in scope; payloads shorter than a block
/// go to the `unmask_small` in scope.
///
/// Blocks between the first and the last are aligned: a store that straddles two cache lines
/// costs two (16 KiB by AVX-512 on Zen 5: 68 ns aligned, 91 ns not).
macro_rules! unmask_kernel {
    ($(#[$attribute:meta])*) => {
        /// See `simd::unmask`; `key` applies to the first byte.
        $(#[$attribute])*
        pub(in crate::simd) fn unmask(bytes: &mut [u8], key: u32) -> bool {
            use crate::simd::kernel::{get, get_mut};
            use crate::simd::rotate;

            let len = bytes.len();
            if len < BYTES {
                return unmask_small(bytes, key);
            }
            let first = xor(load(get(bytes, 0)), splat(key));
            let last = xor(load(get(bytes, len - BYTES)), splat(rotate(key, len)));
            let mut seen = or(first, last);
            if len > 2 * BYTES {
                let skip = BYTES - bytes.as_ptr().addr() % BYTES;
                // A block that ends where `last` ends is left to it.
                seen = or(seen, unmask_blocks(&mut bytes[skip..len - 1], rotate(key, skip)));
            }
            // Only now, because the middle reads what these overlap.
            store(get_mut(bytes, 0), first);
            store(get_mut(bytes, len - BYTES), last);
            is_ascii(seen)
        }

        /// Unmasks the whole blocks of `middle`, which begins aligned, and returns the OR of them.
        /// Four at a time, so that the loop costs less than the stores that bound it.
        #[inline]
        $(#[$attribute])*
        fn unmask_blocks(middle: &mut [u8], key: u32) -> Vector {
            let key = splat(key);
            let mut seen = splat(0);
            let (quads, rest) = middle.as_chunks_mut::<{ 4 * BYTES }>();
            for quad in quads {
                let (ab, cd) = quad.split_at_mut(2 * BYTES);
                seen = or(seen, or(unmask_pair(ab, key), unmask_pair(cd, key)));
            }
            let (pair, rest) = rest.split_at_mut(if rest.len() >= 2 * BYTES { 2 * BYTES } else { 0 });
            if !pair.is_empty() {
                seen = or(seen, unmask_pair(pair, key));
            }
            if let Some(block) = rest.first_chunk_mut() {
                let plain = xor(load(block), key);
                store(block, plain);
                seen = or(seen, plain);
            }
            seen
        }

        /// Unmasks the first two blocks and returns the OR of them.
        #[inline]
        $(#[$attribute])*
        fn unmask_pair(pair: &mut [u8], key: Vector) -> Vector {
            use crate::simd::kernel::{get, get_mut};

            let (a, b) = (xor(load(get(pair, 0)), key), xor(load(get(pair, BYTES)), key));
            store(get_mut(pair, 0), a);
            store(get_mut(pair, BYTES), b);
            or(a, b)
        }
    };
}
pub(super) use unmask_kernel;

/// Defines `unmask_small(bytes, key) -> bool` over 16-byte operations in scope, for payloads of at
/// most `INLINE_BYTES`: two overlapping blocks of 4, 8 or 16 bytes, or four of 16.
macro_rules! small_kernel {
    ($(#[$attribute:meta])*) => {
        /// See `simd::unmask`; `key` applies to the first byte.
        #[inline]
        $(#[$attribute])*
        pub(in crate::simd) fn unmask_small(bytes: &mut [u8], key: u32) -> bool {
            use crate::simd::kernel::{get, get_mut, unmask_tiny};
            use crate::simd::{rotate, widen};

            let len = bytes.len();
            if len > 32 {
                let (front, back) = (splat(key), splat(rotate(key, len)));
                let a = xor(load(get(bytes, 0)), front);
                let b = xor(load(get(bytes, 16)), front);
                let c = xor(load(get(bytes, len - 32)), back);
                let d = xor(load(get(bytes, len - 16)), back);
                store(get_mut(bytes, 0), a);
                store(get_mut(bytes, 16), b);
                store(get_mut(bytes, len - 32), c);
                store(get_mut(bytes, len - 16), d);
                is_ascii(or(or(a, b), or(c, d)))
            } else if len >= 16 {
                let a = xor(load(get(bytes, 0)), splat(key));
                let b = xor(load(get(bytes, len - 16)), splat(rotate(key, len)));
                store(get_mut(bytes, 0), a);
                store(get_mut(bytes, len - 16), b);
                is_ascii(or(a, b))
            } else if len >= 8 {
                let a = u64::from_le_bytes(*get(bytes, 0)) ^ widen(key);
                let b = u64::from_le_bytes(*get(bytes, len - 8)) ^ widen(rotate(key, len));
                *get_mut(bytes, 0) = a.to_le_bytes();
                *get_mut(bytes, len - 8) = b.to_le_bytes();
                (a | b) & 0x8080_8080_8080_8080 == 0
            } else if len >= 4 {
                let a = u32::from_le_bytes(*get(bytes, 0)) ^ key;
                let b = u32::from_le_bytes(*get(bytes, len - 4)) ^ rotate(key, len);
                *get_mut(bytes, 0) = a.to_le_bytes();
                *get_mut(bytes, len - 4) = b.to_le_bytes();
                (a | b) & 0x8080_8080 == 0
            } else {
                unmask_tiny(bytes, key)
            }
        }
    };
}
pub(super) use small_kernel;

/// At most three bytes: the first, the middle and the last are all there are.
#[inline]
pub(super) fn unmask_tiny(bytes: &mut [u8], key: u32) -> bool {
    let len = bytes.len();
    if len == 0 {
        return true;
    }
    let (middle, last) = (len / 2, len - 1);
    let a = bytes[0] ^ key as u8;
    let b = bytes[middle] ^ rotate(key, middle) as u8;
    let c = bytes[last] ^ rotate(key, last) as u8;
    (bytes[0], bytes[middle], bytes[last]) = (a, b, c);
    (a | b | c) < 0x80
}

/// The block at `at`. Callers have compared with the length, so that the checks vanish.
#[inline]
pub(super) fn get<const N: usize>(bytes: &[u8], at: usize) -> &[u8; N] {
    bytes[at..].first_chunk().expect("the block lies within the payload")
}

/// [`get`], to be written.
#[inline]
pub(super) fn get_mut<const N: usize>(bytes: &mut [u8], at: usize) -> &mut [u8; N] {
    bytes[at..].first_chunk_mut().expect("the block lies within the payload")
}
