//! The unmask kernels, written once in safe code over whatever vector an instruction set offers.
//!
//! A set of operations is a `Vector` of `BYTES` bytes with `load`, `store`, `splat`, `xor`, `or`
//! and `is_ascii`. Partial blocks are never done byte by byte: the first and the last block are
//! read before anything is written, and may overlap what lies between them.

use super::rotate;

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

/// Defines `unmask(bytes, key) -> bool` over the operations in scope, for payloads of at least
/// `BYTES` bytes; shorter ones go to the `unmask_small` in scope.
///
/// Blocks between the first and the last are aligned: a store that straddles two cache lines
/// costs two.
macro_rules! unmask_kernel {
    ($(#[$attribute:meta])*) => {
        /// See `simd::unmask`; `key` applies to the first byte.
        $(#[$attribute])*
        pub(in crate::simd) fn unmask(bytes: &mut [u8], key: u32) -> bool {
            let (len, address) = (bytes.len(), bytes.as_ptr().addr());
            let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) else {
                return unmask_small(bytes, key);
            };
            let first = xor(load(first), splat(key));
            let last = xor(load(last), splat(crate::simd::rotate(key, len)));
            let mut seen = or(first, last);

            let skip = BYTES - address % BYTES;
            if let Some(middle) = bytes.get_mut(skip..len - 1) {
                let key = splat(crate::simd::rotate(key, skip));
                let (quads, rest) = middle.as_chunks_mut::<{ 4 * BYTES }>();
                for quad in quads {
                    let (blocks, _) = quad.as_chunks_mut::<BYTES>();
                    let [a, b, c, d] = blocks else { continue };
                    let (va, vb) = (xor(load(a), key), xor(load(b), key));
                    let (vc, vd) = (xor(load(c), key), xor(load(d), key));
                    store(a, va);
                    store(b, vb);
                    store(c, vc);
                    store(d, vd);
                    seen = or(seen, or(or(va, vb), or(vc, vd)));
                }
                for block in rest.as_chunks_mut::<BYTES>().0 {
                    let block_now = xor(load(block), key);
                    store(block, block_now);
                    seen = or(seen, block_now);
                }
            }

            // Last, because the middle reads what these overlap.
            if let Some(block) = bytes.first_chunk_mut() {
                store(block, first);
            }
            if let Some(block) = bytes.last_chunk_mut() {
                store(block, last);
            }
            is_ascii(seen)
        }
    };
}
pub(super) use unmask_kernel;
