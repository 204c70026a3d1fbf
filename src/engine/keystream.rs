//! ChaCha (RFC 8439): unpredictable bytes out of a seed, without a system call for each kilobyte.
//!
//! The kernel's generator computes one block at a time and took 8 ns for the mask of a frame; four
//! blocks side by side, which compilers turn into vectors, take 3.

/// Bytes of a key.
pub const SEED_BYTES: usize = 32;
/// Blocks computed side by side.
const LANES: usize = 4;
const BLOCK_BYTES: usize = 64;
/// Bytes that are computed at once.
pub const STRETCH_BYTES: usize = LANES * BLOCK_BYTES;

/// One word of each block.
type Word = [u32; LANES];

/// Fills `out` with the stream of `seed`, whose nonce is 0, in `ROUNDS` rounds. A seed is used once.
pub fn fill<const ROUNDS: u32>(seed: &[u8; SEED_BYTES], out: &mut [[u8; STRETCH_BYTES]]) {
    let mut block = 0;
    for stretch in out {
        let words = mixed::<ROUNDS>(&state(seed, block));
        let (places, _) = stretch.as_chunks_mut::<4>();
        for (at, word) in words.iter().enumerate() {
            for lane in 0..LANES {
                places[lane * (BLOCK_BYTES / 4) + at] = word[lane].to_le_bytes();
            }
        }
        block += LANES as u32;
    }
}

fn state(seed: &[u8; SEED_BYTES], block: u32) -> [Word; 16] {
    let (key, _) = seed.as_chunks::<4>();
    let constants = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574]; // "expand 32-byte k"
    std::array::from_fn(|at| match at {
        0..4 => [constants[at]; LANES],
        4..12 => [u32::from_le_bytes(key[at - 4]); LANES],
        12 => std::array::from_fn(|lane| block + lane as u32),
        _ => [0; LANES],
    })
}

/// Apart from where the words go, without which compilers find vectors in it.
#[inline(never)]
fn mixed<const ROUNDS: u32>(start: &[Word; 16]) -> [Word; 16] {
    let mut words = *start;
    for _ in 0..ROUNDS / 2 {
        double_round(&mut words);
    }
    std::array::from_fn(|at| add(words[at], start[at]))
}

#[inline(always)]
fn double_round(words: &mut [Word; 16]) {
    // Spelled out: compilers find no vectors in a loop over the columns.
    quarter_round(words, 0, 4, 8, 12);
    quarter_round(words, 1, 5, 9, 13);
    quarter_round(words, 2, 6, 10, 14);
    quarter_round(words, 3, 7, 11, 15);
    quarter_round(words, 0, 5, 10, 15);
    quarter_round(words, 1, 6, 11, 12);
    quarter_round(words, 2, 7, 8, 13);
    quarter_round(words, 3, 4, 9, 14);
}

#[inline(always)]
fn quarter_round(words: &mut [Word; 16], a: usize, b: usize, c: usize, d: usize) {
    let (mut va, mut vb, mut vc, mut vd) = (words[a], words[b], words[c], words[d]);
    va = add(va, vb);
    vd = turned::<16>(vd, va);
    vc = add(vc, vd);
    vb = turned::<12>(vb, vc);
    va = add(va, vb);
    vd = turned::<8>(vd, va);
    vc = add(vc, vd);
    vb = turned::<7>(vb, vc);
    words[a] = va;
    words[b] = vb;
    words[c] = vc;
    words[d] = vd;
}

#[inline(always)]
fn add(one: Word, other: Word) -> Word {
    std::array::from_fn(|lane| one[lane].wrapping_add(other[lane]))
}

#[inline(always)]
fn turned<const BITS: u32>(one: Word, other: Word) -> Word {
    std::array::from_fn(|lane| (one[lane] ^ other[lane]).rotate_left(BITS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_chacha20_by_its_test_vectors() {
        // RFC 8439, appendix A.1: key and nonce of zeros, blocks 0 and 1.
        let mut out = [[0; STRETCH_BYTES]; 2];
        fill::<20>(&[0; SEED_BYTES], &mut out);
        let begins = |at: usize| out.as_flattened()[at..at + 8].to_vec();
        assert_eq!(begins(0), [0x76, 0xb8, 0xe0, 0xad, 0xa0, 0xf1, 0x3d, 0x90]);
        assert_eq!(begins(64), [0x9f, 0x07, 0xe7, 0xbe, 0x55, 0x51, 0x38, 0x7a]);
        // Block 1 under a key that ends with 1.
        let mut seed = [0; SEED_BYTES];
        seed[SEED_BYTES - 1] = 1;
        fill::<20>(&seed, &mut out);
        assert_eq!(out.as_flattened()[64..72], [0x3a, 0xeb, 0x52, 0x24, 0xec, 0xf8, 0x49, 0x92]);
    }

    #[test]
    fn blocks_go_on_across_stretches() {
        let (mut long, mut other) = ([[0; STRETCH_BYTES]; 3], [[0; STRETCH_BYTES]; 1]);
        fill::<8>(&[7; SEED_BYTES], &mut long);
        fill::<8>(&[7; SEED_BYTES], &mut other);
        assert_eq!(long[0], other[0]);
        let (blocks, _) = long.as_flattened().as_chunks::<BLOCK_BYTES>();
        let different: std::collections::HashSet<_> = blocks.iter().collect();
        assert_eq!(different.len(), 12);
    }
}
