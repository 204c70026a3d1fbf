//! UTF-8 (RFC 3629) across reads and fragments, failing at the first byte that no continuation
//! could make valid (RFC 6455 §8.1).
//!
//! Contract: bytes come in order; after an error the text is lost and the validator with it.

use super::{INLINE_BYTES, arch, key, level, unmask_large};
use std::fmt;

/// Bytes unmasked before they are validated: few enough to be still in the first-level cache.
/// A multiple of 4, so that every strip begins at the same mask byte.
const STRIP_BYTES: usize = 16 << 10;

/// The bytes are not UTF-8, and nothing that follows can make them so. A WebSocket peer gets
/// close code 1007 for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidUtf8;

impl fmt::Display for InvalidUtf8 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text is not valid UTF-8")
    }
}

impl std::error::Error for InvalidUtf8 {}

/// Where a text stands between two of its pieces: at a character boundary, or inside a character
/// whose next byte must lie in a certain range.
///
/// ```
/// use ringwire::simd::Utf8;
/// let mut text = Utf8::default();
/// assert!(text.validate(b"gr\xc3").is_ok());
/// assert!(text.finish().is_err()); // `text` is Copy: this only asks
/// assert!(text.validate(b"\xbc\xc3\x9fe").is_ok());
/// assert!(text.finish().is_ok());
/// assert!(Utf8::default().validate(b"\xf4\x90").is_err()); // beyond U+10FFFF, whatever follows
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Utf8 {
    /// Continuation bytes missing, 0 at a boundary.
    missing: u8,
    /// Least and greatest value of the next of them.
    least: u8,
    greatest: u8,
}

const _: () = assert!(size_of::<Utf8>() <= 4);

/// A text of up to so many bytes is short.
const SHORT_BYTES: usize = 32;

impl Utf8 {
    /// Takes the next piece of the text. An error means that one of these bytes can belong to no
    /// valid text that begins with those before it.
    pub fn validate(&mut self, bytes: &[u8]) -> Result<(), InvalidUtf8> {
        let mut rest = bytes;
        while self.missing != 0 {
            let Some((&byte, after)) = rest.split_first() else { return Ok(()) };
            self.step(byte)?;
            rest = after;
        }
        let (whole, open) = rest.split_at(rest.len() - open_len(rest));
        if !is_utf8(whole) {
            return Err(InvalidUtf8);
        }
        open.iter().try_for_each(|&byte| self.step(byte))
    }

    /// [`unmask`](super::unmask)s the next piece in place and takes it, strip by strip.
    ///
    /// On an error the bytes are left partly unmasked.
    #[inline]
    pub fn unmask_validate(
        &mut self,
        bytes: &mut [u8],
        mask: [u8; 4],
        phase: usize,
    ) -> Result<(), InvalidUtf8> {
        let key = key(mask, phase);
        if bytes.len() <= INLINE_BYTES {
            let is_ascii = arch::unmask_small(bytes, key);
            if is_ascii && self.missing == 0 { Ok(()) } else { self.validate(bytes) }
        } else {
            self.unmask_validate_strips(bytes, key)
        }
    }

    #[inline(never)]
    fn unmask_validate_strips(&mut self, bytes: &mut [u8], key: u32) -> Result<(), InvalidUtf8> {
        bytes.chunks_mut(STRIP_BYTES).try_for_each(|strip| {
            let is_ascii = unmask_large(strip, key);
            if is_ascii && self.missing == 0 { Ok(()) } else { self.validate(strip) }
        })
    }

    /// Whether the text may end here. `self` stays usable: it is `Copy`.
    #[inline]
    pub fn finish(self) -> Result<(), InvalidUtf8> {
        if self.missing == 0 { Ok(()) } else { Err(InvalidUtf8) }
    }

    /// One byte by the table of RFC 3629 §4.
    fn step(&mut self, byte: u8) -> Result<(), InvalidUtf8> {
        if self.missing != 0 {
            if !(self.least..=self.greatest).contains(&byte) {
                return Err(InvalidUtf8);
            }
            let missing = self.missing - 1;
            *self =
                if missing == 0 { Self::default() } else { Self { missing, least: 0x80, greatest: 0xBF } };
            return Ok(());
        }
        let (missing, least, greatest) = match byte {
            0x00..=0x7F => (0, 0, 0),
            0xC2..=0xDF => (1, 0x80, 0xBF),
            0xE0 => (2, 0xA0, 0xBF),
            0xED => (2, 0x80, 0x9F),
            0xE1..=0xEF => (2, 0x80, 0xBF),
            0xF0 => (3, 0x90, 0xBF),
            0xF1..=0xF3 => (3, 0x80, 0xBF),
            0xF4 => (3, 0x80, 0x8F),
            _ => return Err(InvalidUtf8),
        };
        *self = Self { missing, least, greatest };
        Ok(())
    }
}

/// [`Utf8::unmask_validate`] and [`Utf8::finish`] for a text that is all there. Returns whether it
/// is valid; if not, the bytes are left partly unmasked.
#[inline(always)] // the path of short ASCII is a few instructions; a call would double it
pub fn unmask_validate_whole(bytes: &mut [u8], mask: [u8; 4], phase: usize) -> bool {
    let key = key(mask, phase);
    if bytes.len() <= INLINE_BYTES {
        arch::unmask_small(bytes, key) || is_utf8_just_stored(bytes)
    } else if bytes.len() <= STRIP_BYTES {
        unmask_large(bytes, key) || is_utf8_just_stored(bytes)
    } else {
        unmask_validate_strips(bytes, key)
    }
}

#[inline(never)]
fn unmask_validate_strips(bytes: &mut [u8], key: u32) -> bool {
    let mut text = Utf8::default();
    text.unmask_validate_strips(bytes, key).is_ok() && text.finish().is_ok()
}

/// Whether `bytes` are whole characters and nothing else.
///
/// ```
/// assert!(ringwire::simd::is_utf8("héllo".as_bytes()));
/// assert!(!ringwire::simd::is_utf8(&"é".as_bytes()[..1]));
/// ```
#[inline(never)]
pub fn is_utf8(bytes: &[u8]) -> bool {
    is_ascii_block(bytes) || is_utf8_just_stored(bytes)
}

/// [`is_utf8`] for bytes that were stored just now. A vector that spans several stores can only be
/// loaded when they have reached the cache; a short text is through byte by byte by then.
#[inline(never)]
pub(crate) fn is_utf8_just_stored(bytes: &[u8]) -> bool {
    match bytes.len() {
        ..=SHORT_BYTES => core::str::from_utf8(bytes).is_ok(),
        _ => arch::is_utf8(level::usable(), bytes),
    }
}

/// Whether `bytes` are ASCII, for those that two words cover. False for others.
#[inline]
fn is_ascii_block(bytes: &[u8]) -> bool {
    const SIGNS: u128 = u128::from_ne_bytes([0x80; 16]);
    match (bytes.first_chunk::<16>(), bytes.last_chunk::<16>(), bytes.len()) {
        (Some(&first), Some(&last), ..=SHORT_BYTES) => {
            (u128::from_ne_bytes(first) | u128::from_ne_bytes(last)) & SIGNS == 0
        }
        _ => false,
    }
}

/// How many bytes at the end may begin a character that goes on beyond it: 0 to 3.
#[inline]
fn open_len(bytes: &[u8]) -> usize {
    for (behind, &byte) in bytes.iter().rev().take(3).enumerate() {
        let width = match byte {
            0x80..=0xBF => continue,
            0x00..=0x7F => 1,
            0xC0..=0xDF => 2,
            0xE0..=0xEF => 3,
            0xF0..=0xFF => 4,
        };
        return if width > behind + 1 { behind + 1 } else { 0 };
    }
    0
}
