//! Pure kernels over byte slices: unmasking (RFC 6455 §5.3) and UTF-8 (RFC 3629).
//!
//! Imports nothing of the crate, touches only the slices it is given, keeps no state but the
//! [`Level`] chosen at first use. The one contract: every level gives the same answers, so which
//! one runs is a matter of speed alone.
//!
//! `kernel` holds the one generic kernel, the files named after an instruction set bind it to
//! that set's operations and are the only ones with `unsafe`, and [`level`] decides among them.
//! Payloads of at most [`INLINE_BYTES`] bytes never reach that decision: they are unmasked inline
//! with what every CPU of the architecture has.

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod kernel;
mod level;
mod scalar;
#[cfg(test)]
mod tests;
mod utf8;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "aarch64")]
use aarch64 as arch;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
use scalar::fallback as arch;
#[cfg(target_arch = "x86_64")]
use x86_64 as arch;

pub use level::{Level, LevelError, available, forced, level};
pub(crate) use utf8::is_utf8_just_stored;
pub use utf8::{InvalidUtf8, Utf8, is_utf8, unmask_validate_whole};

/// Payloads up to this many bytes are unmasked inline, without dispatch.
pub const INLINE_BYTES: usize = 64;

/// XORs `bytes` in place with `mask` (RFC 6455 §5.3), beginning at mask byte `phase & 3`: for a
/// payload that arrives in pieces, `phase` is the number of its bytes that came before. Masking
/// and unmasking are the same operation.
///
/// Returns whether all bytes are ASCII afterwards; `true` for no bytes.
///
/// ```
/// let mut payload = *b"\x7f\x9f\x4d\x51\x58"; // "Hello", RFC 6455 §5.7
/// let (first, rest) = payload.split_at_mut(3);
/// let mask = [0x37, 0xfa, 0x21, 0x3d];
/// assert!(ringwire::simd::unmask(first, mask, 0));
/// assert!(ringwire::simd::unmask(rest, mask, 3));
/// assert_eq!(&payload, b"Hello");
/// ```
#[inline(always)] // the path of a short payload is a few instructions; a call would double it
pub fn unmask(bytes: &mut [u8], mask: [u8; 4], phase: usize) -> bool {
    let key = key(mask, phase);
    if bytes.len() <= INLINE_BYTES { arch::unmask_small(bytes, key) } else { unmask_large(bytes, key) }
}

/// Any number of bytes; out of line, so that [`unmask`] is small where it is inlined.
#[inline(never)]
fn unmask_large(bytes: &mut [u8], key: u32) -> bool {
    arch::unmask(level::usable(), bytes, key)
}

/// [`unmask`] at a level of the caller's choice, for tests and benchmarks.
///
/// # Panics
/// If this CPU does not have `level`; see [`available`].
pub fn unmask_with(level: Level, bytes: &mut [u8], mask: [u8; 4], phase: usize) -> bool {
    let level = level::Usable::new(level).expect("the level is one that `available` lists");
    arch::unmask(level, bytes, key(mask, phase))
}

/// The mask as the little-endian word that applies to the first byte.
#[inline]
fn key(mask: [u8; 4], phase: usize) -> u32 {
    rotate(u32::from_le_bytes(mask), phase)
}

/// The key for a byte `distance` bytes further on.
#[inline]
fn rotate(key: u32, distance: usize) -> u32 {
    key.rotate_right((distance as u32 & 3) * 8)
}

/// `key` twice.
#[inline]
fn widen(key: u32) -> u64 {
    u64::from(key) << 32 | u64::from(key)
}
