//! UTF-8 validation over 64-byte vectors, by three table lookups per byte.
//!
//! The method is Keiser and Lemire's ("Validating UTF-8 In Less Than One Instruction Per Byte",
//! 2021): whatever is wrong with a text shows in some pair of neighbouring bytes or in the number of
//! continuation bytes. Tables are indexed by six bits, which `vpermb` (AVX-512 VBMI) takes without
//! the masking that lookups by four bits need.

#![allow(unsafe_code, reason = "vector loads take pointers")]

use core::arch::x86_64::*;
use core::ops::RangeInclusive;

/// Two continuation bytes in a row: wrong by itself, right at the end of three or four bytes. The
/// highest bit, to be compared with what [`expected_continuations`] finds.
const TWO_CONTINUATIONS: u8 = 0x80;

/// Neighbours that no valid text has, each kind with its bit. Two kinds may share one if every first
/// byte of either is wrong before every second byte of the other, or if they share either side.
const WRONG_PAIRS: [(u8, RangeInclusive<u8>, RangeInclusive<u8>); 10] = [
    (TWO_CONTINUATIONS, 0x80..=0xBF, 0x80..=0xBF),
    (0x01, 0x00..=0x7F, 0x80..=0xBF), // a continuation of nothing
    (0x02, 0xC0..=0xFF, 0x00..=0x7F), // a character cut short
    (0x02, 0xC0..=0xFF, 0xC0..=0xFF),
    (0x04, 0xC0..=0xC1, 0x80..=0xBF), // an overlong form of two bytes,
    (0x08, 0xE0..=0xE0, 0x80..=0x9F), // of three,
    (0x10, 0xF0..=0xF0, 0x80..=0x8F), // of four
    (0x20, 0xED..=0xED, 0xA0..=0xBF), // a surrogate
    (0x40, 0xF4..=0xFF, 0x90..=0xBF), // beyond U+10FFFF
    (0x10, 0xF5..=0xFF, 0x80..=0x8F),
];

/// The kinds of [`WRONG_PAIRS`] that a byte may belong to.
struct Tables {
    /// As first byte, by its upper six bits.
    first_upper: [u8; 64],
    /// As first byte, by its lower six bits.
    first_lower: [u8; 64],
    /// As second byte, by its upper six bits, which tell all second bytes apart that matter.
    second_upper: [u8; 64],
}

static TABLES: Tables = tables();

const fn tables() -> Tables {
    let mut tables = Tables { first_upper: [0; 64], first_lower: [0; 64], second_upper: [0; 64] };
    let mut kind = 0;
    while kind < WRONG_PAIRS.len() {
        let (bit, first, second) = &WRONG_PAIRS[kind];
        let mut byte = 0;
        while byte < 256 {
            if *first.start() as usize <= byte && byte <= *first.end() as usize {
                tables.first_upper[byte >> 2] |= *bit;
                tables.first_lower[byte & 63] |= *bit;
            }
            if *second.start() as usize <= byte && byte <= *second.end() as usize {
                tables.second_upper[byte >> 2] |= *bit;
            }
            byte += 1;
        }
        kind += 1;
    }
    tables
}

/// Whether `bytes` are whole characters.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
pub(super) fn is_utf8(bytes: &[u8]) -> bool {
    let (blocks, rest) = bytes.as_chunks::<64>();
    let mut before = _mm512_setzero_si512();
    let mut wrong = _mm512_setzero_si512();
    for block in blocks {
        let block = load(block);
        wrong = add_wrong(wrong, block, before);
        before = block;
    }
    // Always, even if empty: the zeros behind the rest show a character that was cut short.
    wrong = add_wrong(wrong, load_rest(rest), before);
    _mm512_test_epi8_mask(wrong, wrong) == 0
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(bytes: &[u8; 64]) -> __m512i {
    // SAFETY: the reference covers the bytes read; the load needs no alignment.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

/// Less than 64 bytes, zeros behind them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn load_rest(bytes: &[u8]) -> __m512i {
    let lanes = !(u64::MAX << (bytes.len() & 63));
    // SAFETY: only lanes of the slice are read, and masked lanes do not fault.
    unsafe { _mm512_maskz_loadu_epi8(lanes, bytes.as_ptr().cast()) }
}

/// `wrong`, and not zero where a byte of `block` is wrong behind the three before it.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn add_wrong(wrong: __m512i, block: __m512i, before: __m512i) -> __m512i {
    // Every 16-byte lane's predecessor, as `vpalignr` shifts within lanes.
    let lanes_before = _mm512_alignr_epi32::<12>(block, before);
    let previous = _mm512_alignr_epi8::<15>(block, lanes_before);
    let second_previous = _mm512_alignr_epi8::<14>(block, lanes_before);
    let third_previous = _mm512_alignr_epi8::<13>(block, lanes_before);

    // The upper six bits of each byte; `vpermb` ignores the two that come from its neighbour.
    let first_upper = _mm512_permutexvar_epi8(_mm512_srli_epi16::<2>(previous), load(&TABLES.first_upper));
    let first_lower = _mm512_permutexvar_epi8(previous, load(&TABLES.first_lower));
    let second_upper = _mm512_permutexvar_epi8(_mm512_srli_epi16::<2>(block), load(&TABLES.second_upper));
    let pairs = _mm512_ternarylogic_epi64::<0x80>(first_upper, first_lower, second_upper); // a & b & c

    let expected = expected_continuations(second_previous, third_previous);
    _mm512_ternarylogic_epi64::<0xF6>(wrong, pairs, expected) // a | (b ^ c)
}

/// [`TWO_CONTINUATIONS`] where a character of three or four bytes wants its third or fourth.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn expected_continuations(second_previous: __m512i, third_previous: __m512i) -> __m512i {
    let highest_bit = _mm512_set1_epi8(TWO_CONTINUATIONS.cast_signed());
    // The highest bit stays where the byte is at least 0xE0, or at least 0xF0.
    let third = _mm512_subs_epu8(second_previous, _mm512_set1_epi8(0x60));
    let fourth = _mm512_subs_epu8(third_previous, _mm512_set1_epi8(0x70));
    _mm512_ternarylogic_epi64::<0xA8>(third, fourth, highest_bit) // (a | b) & c
}
