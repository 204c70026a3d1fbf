//! Every level against an oracle of one line, and UTF-8 against the standard library.

use super::*;
use proptest::prelude::*;

const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];
const GUARD: u8 = 0xA5;

/// Unmasks one byte at a time.
fn oracle(bytes: &[u8], mask: [u8; 4], phase: usize) -> (Vec<u8>, bool) {
    let plain: Vec<u8> = bytes.iter().enumerate().map(|(i, byte)| byte ^ mask[(phase + i) & 3]).collect();
    let is_ascii = plain.iter().all(|&byte| byte < 0x80);
    (plain, is_ascii)
}

/// Masks `plain`, puts it `offset` bytes behind a cache line's beginning between guards, and has
/// `kernel` unmask it.
fn check(plain: &[u8], offset: usize, phase: usize, name: &str, kernel: impl Fn(&mut [u8]) -> bool) {
    let mut memory = vec![GUARD; plain.len() + 256];
    let start = memory.as_ptr().align_offset(64) + 64 + offset;
    let span = start..start + plain.len();
    let (masked, _) = oracle(plain, MASK, phase);
    memory[span.clone()].copy_from_slice(&masked);

    let is_ascii = kernel(&mut memory[span.clone()]);

    let case = format!("{name}: {} bytes at offset {offset}, phase {phase}", plain.len());
    assert!(memory[span.clone()] == *plain, "{case}: wrong bytes");
    assert_eq!(is_ascii, plain.is_ascii(), "{case}: wrong ASCII flag");
    assert!(memory[..span.start].iter().all(|&byte| byte == GUARD), "{case}: wrote before");
    assert!(memory[span.end..].iter().all(|&byte| byte == GUARD), "{case}: wrote behind");
}

/// ASCII, with one byte that is not at `odd_one` if that lies within `len`.
fn sample(len: usize, odd_one: usize) -> Vec<u8> {
    (0..len).map(|i| if i == odd_one { 0x80 } else { (i * 7 % 128) as u8 }).collect()
}

#[test]
fn every_level_unmasks_at_every_offset_length_and_phase() {
    for level in available() {
        for len in 0..=300 {
            for (offset, phase) in (0..64).flat_map(|offset| (0..4).map(move |phase| (offset, phase))) {
                // Every other sample is all ASCII.
                let plain = sample(len, (offset * 31 + phase * 97) % (2 * len + 1));
                check(&plain, offset, phase, level.name(), |bytes| unmask_with(level, bytes, MASK, phase));
            }
        }
    }
}

#[test]
fn every_level_sees_one_byte_that_is_not_ascii_wherever_it_stands() {
    for level in available() {
        for len in [1, 2, 3, 4, 7, 8, 15, 16, 31, 32, 33, 63, 64, 65, 127, 128, 129, 300, 1100] {
            for odd_one in 0..=len {
                let plain = sample(len, odd_one);
                check(&plain, 5, 1, level.name(), |bytes| unmask_with(level, bytes, MASK, 1));
            }
        }
    }
}

#[test]
fn the_chosen_level_unmasks_at_every_length() {
    for (len, phase) in (0..=300).flat_map(|len| (0..4).map(move |phase| (len, phase))) {
        check(&sample(len, len / 2), 3, phase, "chosen", |bytes| unmask(bytes, MASK, phase));
        check(&sample(len, len), 3, phase, "chosen", |bytes| unmask(bytes, MASK, phase));
    }
}

#[test]
fn a_phase_counts_modulo_four() {
    let mut bytes = *b"ring";
    unmask(&mut bytes, MASK, usize::MAX); // 3 modulo 4
    assert_eq!(bytes.to_vec(), oracle(b"ring", MASK, 3).0);
}

#[test]
fn an_unknown_or_foreign_level_is_an_error_that_says_what_there_is() {
    let error = "sse9".parse::<Level>().unwrap_err();
    assert_eq!(error, LevelError::Unknown("sse9".into()));
    assert!(error.to_string().starts_with("`sse9` is not a SIMD level: give one of scalar"));
    for level in available() {
        assert_eq!(level.name().parse(), Ok(level));
    }
}

/// What the standard library thinks of the beginning of a text: it may end here, it may go on, or
/// it is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Prefix {
    Whole,
    Open,
    Lost,
}

fn prefix(bytes: &[u8]) -> Prefix {
    match std::str::from_utf8(bytes) {
        Ok(_) => Prefix::Whole,
        Err(error) if error.error_len().is_none() => Prefix::Open,
        Err(_) => Prefix::Lost,
    }
}

/// Feeds `pieces`, once plain and once masked, and says where that leaves the text.
fn stream(pieces: &[&[u8]]) -> Prefix {
    let (mut plain, mut masked) = (Utf8::default(), Utf8::default());
    let mut phase = 0;
    for (i, piece) in pieces.iter().enumerate() {
        let mut bytes = oracle(piece, MASK, phase).0;
        let outcome = plain.validate(piece);
        assert_eq!(masked.unmask_validate(&mut bytes, MASK, phase), outcome, "piece {i} of {pieces:02x?}");
        if outcome.is_err() {
            return Prefix::Lost;
        }
        assert_eq!(&bytes, piece);
        phase += piece.len();
    }
    assert_eq!(plain, masked);
    if plain.finish().is_ok() { Prefix::Whole } else { Prefix::Open }
}

/// Checks a text byte by byte, in two pieces cut anywhere, and whole.
fn check_text(text: &[u8]) {
    for cut in 0..=text.len() {
        let (front, back) = text.split_at(cut);
        assert_eq!(stream(&[front, back]), prefix(text), "{text:02x?} cut at {cut}");
        assert_eq!(stream(&[front]), prefix(front), "{front:02x?}");
    }
    let bytes: Vec<&[u8]> = text.chunks(1).collect();
    assert_eq!(stream(&bytes), prefix(text), "{text:02x?} byte by byte");
    for level in available() {
        let is_valid = arch::is_utf8(level::Usable::new(level).unwrap(), text);
        assert_eq!(is_valid, prefix(text) == Prefix::Whole, "{text:02x?} by {level}");
    }
    let mut masked = oracle(text, MASK, 2).0;
    let is_valid = unmask_validate_whole(&mut masked, MASK, 2);
    assert_eq!(is_valid, prefix(text) == Prefix::Whole, "{text:02x?} whole");
    assert_eq!(is_utf8(text), prefix(text) == Prefix::Whole, "{text:02x?} unmasked");
}

#[test]
fn a_character_that_is_not_ascii_is_seen_at_every_place_of_a_short_text() {
    for len in 0..=70 {
        let mut text = vec![b'a'; len];
        assert!(is_utf8(&text));
        for at in 0..len {
            text[at] = 0xff;
            assert!(!is_utf8(&text), "{len} bytes, one wrong at {at}");
            text[at] = b'a';
        }
    }
}

const TEXTS: [&str; 5] = [
    "",
    "Hello",
    "κόσμε",
    "𐌼𐌰𐌲 glas ïtan 你好，世界 🙂🚀",
    "\u{7f}\u{80}\u{7ff}\u{800}\u{d7ff}\u{e000}\u{ffff}\u{10000}\u{10ffff}",
];

#[test]
fn valid_texts_stay_valid_under_every_cut() {
    for text in TEXTS {
        check_text(text.as_bytes());
        check_text(text.repeat(8).as_bytes());
    }
}

#[test]
fn a_text_is_lost_at_the_first_byte_that_cannot_become_valid() {
    let lost: [&[u8]; 14] = [
        b"\x80",
        b"\xbf",
        b"\xc0",
        b"\xc1",
        b"\xe0\x80",
        b"\xe0\x9f",
        b"\xed\xa0",
        b"\xf0\x8f",
        b"\xf4\x90",
        b"\xf5",
        b"\xff",
        b"\xe4\xbd\x41",
        b"\xf0\x9f\x99\xc0",
        b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xf4\x90",
    ];
    for text in lost {
        let (last, before) = text.split_last().unwrap();
        assert_ne!(stream(&[before]), Prefix::Lost, "{text:02x?} fails too early");
        assert_eq!(stream(&[before, &[*last]]), Prefix::Lost, "{text:02x?}");
        for padding in [0, 1, 50, 61, 62, 63, 64, 65, 127, 128, 200, 8190, 8191, 8192] {
            let padded = [vec![b'a'; padding], text.to_vec()].concat();
            assert_eq!(stream(&[&padded]), Prefix::Lost, "{text:02x?} behind {padding}");
            let followed = [padded, vec![b'a'; padding]].concat();
            assert_eq!(stream(&[&followed]), Prefix::Lost, "{text:02x?} within {padding}");
        }
    }
}

#[test]
fn all_sequences_of_three_bytes_agree_with_the_standard_library() {
    for (a, b) in (0x7F..=0xFFu8).flat_map(|a| (0..=0xFFu8).map(move |b| (a, b))) {
        for c in [0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC2, 0xE0, 0xED, 0xF0, 0xF4, 0xFF] {
            let text = [a, b, c];
            assert_eq!(stream(&[&text]), prefix(&text), "{text:02x?}");
            assert_eq!(stream(&[&text[..1], &text[1..]]), prefix(&text), "{text:02x?} cut");
        }
    }
}

/// Bytes that UTF-8 treats differently, so that sequences of them are often nearly valid.
const TELLING: [u8; 20] = [
    0x00, 0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1, 0xED, 0xEF, 0xF0,
    0xF1, 0xF4, 0xF5,
];

fn telling_byte() -> impl Strategy<Value = u8> {
    prop::sample::select(&TELLING[..])
}

#[test]
fn every_level_judges_characters_that_straddle_vectors() {
    let pairs = TELLING.into_iter().flat_map(|a| TELLING.map(|b| [a, b]));
    let triples = pairs.flat_map(|[a, b]| TELLING.map(|c| [a, b, c]));
    let usable: Vec<_> = available().map(|level| level::Usable::new(level).unwrap()).collect();
    let mut text = [b'a'; 130];
    for (i, triple) in triples.enumerate() {
        // Alone, and as the end of a character of four bytes; before the end of a vector or across it.
        for lead in [b'a', 0xF0, 0xF1, 0xF4, 0xF5, 0xFF] {
            let start = 59 + i % 7;
            text[start] = lead;
            text[start + 1..start + 4].copy_from_slice(&triple);
            for end in [start + 4, 64 + 3, 128, 130] {
                let expected = std::str::from_utf8(&text[..end]).is_ok();
                for level in &usable {
                    let is_valid = arch::is_utf8(*level, &text[..end]);
                    assert_eq!(is_valid, expected, "{}: {:02x?}", level.get(), &text[start..end]);
                }
            }
            text[start..start + 4].fill(b'a');
        }
    }
}

proptest! {
    #[test]
    fn random_texts_survive_random_cuts(
        text in ".{0,400}",
        cuts in prop::collection::vec(0usize..1600, 0..6),
    ) {
        let bytes = text.as_bytes();
        let mut ends: Vec<usize> = cuts.into_iter().map(|cut| cut % (bytes.len() + 1)).collect();
        ends.extend([0, bytes.len()]);
        ends.sort_unstable();
        let pieces: Vec<&[u8]> = ends.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
        prop_assert_eq!(stream(&pieces), Prefix::Whole);
    }

    #[test]
    fn one_wrong_byte_in_a_text_is_judged_as_the_standard_library_does(
        text in "[^\u{0}]{40,200}",
        at in any::<prop::sample::Index>(),
        wrong in telling_byte(),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = text.into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = wrong;
        let (front, back) = bytes.split_at(cut.index(bytes.len()));
        prop_assert_eq!(stream(&[front, back]), prefix(&bytes));
        prop_assert_eq!(stream(&[front]), prefix(front));
    }

    #[test]
    fn near_misses_are_judged_as_the_standard_library_does(
        bytes in prop::collection::vec(telling_byte(), 0..12),
    ) {
        check_text(&bytes);
    }

    #[test]
    fn pieces_unmask_as_the_whole_does(
        bytes in prop::collection::vec(any::<u8>(), 0..600),
        mask in any::<[u8; 4]>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let (plain, _) = oracle(&bytes, mask, 0);
        let mut pieces = bytes.clone();
        let cut = cut.index(bytes.len() + 1);
        unmask(&mut pieces[..cut], mask, 0);
        unmask(&mut pieces[cut..], mask, cut);
        prop_assert_eq!(pieces, plain);
    }
}
