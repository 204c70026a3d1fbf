//! Compressing messages (RFC 7692 §7.2.1).

use super::TAIL;
use std::fmt;
use zlib_rs::{Deflate, DeflateFlush, Status};

/// Compresses one message at a time.
///
/// ```
/// use ringwire::ws::deflate::Deflater;
/// let mut out = Vec::new();
/// assert!(!Deflater::new(1, 15).compress(b"Hello", false, &mut out), "nothing is gained");
/// assert_eq!(out, [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]); // RFC 7692 §7.2.3.1
/// ```
pub struct Deflater {
    stream: Deflate,
}

impl Deflater {
    /// A compressor of this level (1 to 9) and window (8 to 15 bits).
    pub fn new(level: u8, window_bits: u8) -> Self {
        // zlib makes no window of 2^8. In one of 2^9 it never looks back further than 250 bytes, so
        // what it writes suits a peer with 2^8.
        let window_bits = window_bits.clamp(9, 15);
        Self { stream: Deflate::new(i32::from(level.clamp(1, 9)), false, window_bits) }
    }

    /// Compresses a message into `out`, whose content is replaced. With `takeover` it may refer to
    /// messages before it.
    ///
    /// Returns whether it is to be sent so: with `takeover` always, as messages after it may refer to
    /// it; otherwise if it has become smaller.
    ///
    /// # Panics
    /// If memory runs out.
    pub fn compress(&mut self, message: &[u8], takeover: bool, out: &mut Vec<u8>) -> bool {
        if !takeover {
            self.stream.reset();
        }
        // A flush with nothing to flush would write nothing (§7.2.3.6).
        if message.is_empty() {
            out.clear();
            out.push(0);
            return takeover;
        }
        // Enough for nearly all: fixed codes take at most 9 bits for a byte.
        out.resize(message.len() + message.len() / 8 + 64, 0);
        let (mut read, mut written) = (0, 0);
        loop {
            let (before_in, before_out) = (self.stream.total_in(), self.stream.total_out());
            let status = self.stream.compress(&message[read..], &mut out[written..], DeflateFlush::SyncFlush);
            assert!(
                matches!(status, Ok(Status::Ok | Status::BufError)),
                "a compressor takes any bytes: {status:?}"
            );
            read += (self.stream.total_in() - before_in) as usize;
            written += (self.stream.total_out() - before_out) as usize;
            if read == message.len() && written < out.len() {
                break;
            }
            out.resize(out.len() + out.len() / 2, 0);
        }
        debug_assert!(out[..written].ends_with(&TAIL));
        out.truncate(written - TAIL.len());
        takeover || out.len() < message.len()
    }

    /// Bytes that a compressor of this window holds.
    pub const fn memory_bytes(window_bits: u8) -> usize {
        // Window and chain of twice its size each, hash heads, literals and output, the state.
        (4 << if window_bits < 9 { 9 } else { window_bits }) + (128 << 10) + (64 << 10) + (16 << 10)
    }
}

impl fmt::Debug for Deflater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deflater").finish_non_exhaustive()
    }
}
