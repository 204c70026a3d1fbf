//! What is sent and what must come back: each message of a run differs from all others of it.
//!
//! A message is a stamp (connection and sequence number, in printable characters, so that text and
//! binary are alike) and a piece of a common pool that begins elsewhere for each message. Checking
//! an answer is one comparison, without building the message a second time.

use ringwire::ws::Kind;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Bytes of a stamp. Shorter messages carry its beginning, the low digits of the sequence number.
pub const STAMP_BYTES: usize = 12;
/// Pieces begin at one of so many places in the pool.
const SPREAD: usize = 4_096;
/// A character of CJK text takes so many bytes of UTF-8.
const CJK_BYTES: usize = 3;
/// What a message of CJK text ends with where it has no room for a whole character.
const FILLER: u8 = b'.';
/// Stamp digits are `0` and the 63 characters after it.
const DIGIT_ZERO: u64 = 0x3030_3030_3030_3030;

/// The largest message that can be sent.
pub const MAX_SIZE: usize = 1 << 30;

/// Bytes of the messages of a load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Sizes {
    /// All alike.
    Fixed(usize),
    /// From the first to the last, each as likely.
    Uniform(usize, usize),
    /// Sizes with the sums of the shares of them and of those before, out of 2^32.
    Weighted(Vec<(usize, u64)>, String),
}

impl Sizes {
    /// The size of message `seq` of connection `index`.
    #[inline]
    fn of(&self, index: u32, seq: u64) -> usize {
        match self {
            Self::Fixed(size) => *size,
            _ => self.drawn(mix(index, seq.wrapping_add(1 << 32)) as u32),
        }
    }

    fn drawn(&self, draw: u32) -> usize {
        match self {
            Self::Fixed(size) => *size,
            Self::Uniform(from, to) => from + ((u64::from(draw) * (to - from + 1) as u64) >> 32) as usize,
            Self::Weighted(sizes, _) => {
                let place = sizes.partition_point(|(_, sum)| *sum <= draw.into());
                sizes[place.min(sizes.len() - 1)].0
            }
        }
    }

    /// The largest.
    pub fn max(&self) -> usize {
        match self {
            Self::Fixed(size) | Self::Uniform(_, size) => *size,
            Self::Weighted(sizes, _) => sizes.iter().map(|(size, _)| *size).max().unwrap_or(0),
        }
    }

    /// Their mean.
    pub fn mean(&self) -> f64 {
        match self {
            Self::Fixed(size) => *size as f64,
            Self::Uniform(from, to) => (from + to) as f64 / 2.0,
            Self::Weighted(sizes, _) => {
                let mut before = 0;
                let share = |(size, sum): &(usize, u64)| {
                    let share = (sum - std::mem::replace(&mut before, *sum)) as f64 / (1_u64 << 32) as f64;
                    share * *size as f64
                };
                sizes.iter().map(share).sum()
            }
        }
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(size) => write!(f, "{size}"),
            Self::Uniform(from, to) => write!(f, "{from}..{to}"),
            Self::Weighted(_, given) => f.write_str(given),
        }
    }
}

impl From<Sizes> for String {
    fn from(sizes: Sizes) -> Self {
        sizes.to_string()
    }
}

impl TryFrom<String> for Sizes {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for Sizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const HELP: &str = "give bytes as 20, 16..1024 or 16:70,1024:30 (bytes:share), at most 1073741824";
        let size = |text: &str| match text.trim().parse() {
            Ok(size) if size <= MAX_SIZE => Ok(size),
            _ => Err(HELP.to_owned()),
        };
        if let Some((from, to)) = text.split_once("..") {
            let (from, to) = (size(from)?, size(to.trim_start_matches('='))?);
            return if from <= to { Ok(Self::Uniform(from, to)) } else { Err(HELP.to_owned()) };
        }
        if !text.contains(':') {
            return size(text).map(Self::Fixed);
        }
        let mut shares = Vec::new();
        for part in text.split(',') {
            let (bytes, share) = part.split_once(':').ok_or(HELP)?;
            let share: f64 = share.trim().parse().map_err(|_| HELP)?;
            if !(share > 0.0 && share.is_finite()) {
                return Err(HELP.to_owned());
            }
            shares.push((size(bytes)?, share));
        }
        let total: f64 = shares.iter().map(|(_, share)| share).sum();
        let mut sum = 0.0;
        let sizes = shares.into_iter().map(|(size, share)| {
            sum += share;
            (size, (sum / total * (1_u64 << 32) as f64).round() as u64)
        });
        Ok(Self::Weighted(sizes.collect(), text.to_owned()))
    }
}

/// Makes and checks the messages of one worker.
#[derive(Clone, Debug)]
pub struct Payload {
    pool: Vec<u8>,
    sizes: Sizes,
    /// Bytes of a character of the pool; where it is not 1, messages begin and end between characters.
    char_bytes: usize,
}

/// What is wrong with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The message with this sequence number, ahead of those expected before it.
    Ahead(u64),
    /// A message that was answered or given up before.
    Behind(u64),
    /// A whole message of another connection.
    Foreign(u32),
    /// Text for binary, or binary for text.
    Kind,
    /// Of so many bytes.
    Length(usize),
    /// The bytes differ.
    Content,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ahead(seq) => write!(f, "message {seq} came, those before it did not"),
            Self::Behind(seq) => write!(f, "message {seq} came late or twice"),
            Self::Foreign(index) => write!(f, "a message of connection {index} came"),
            Self::Kind => f.write_str("text came for binary, or binary for text"),
            Self::Length(bytes) => write!(f, "a message of {bytes} bytes came"),
            Self::Content => f.write_str("the content differs from what was sent"),
        }
    }
}

impl Payload {
    /// Messages that look like JSON records, as services send them.
    pub fn records(sizes: Sizes) -> Self {
        let size = sizes.max();
        let mut pool = String::new();
        for number in 0_u64.. {
            if pool.len() >= size + SPREAD {
                break;
            }
            let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
            let side = if mixed % 2 == 0 { "buy" } else { "sell" };
            let (symbol, price, amount) = (mixed % 97, mixed % 100_000, mixed % 7_919);
            pool += &format!(
                "{{\"id\":{number},\"symbol\":\"SYM{symbol}\",\"side\":\"{side}\",\"price\":{}.{:02},\
                 \"amount\":{amount},\"venue\":\"XNAS\",\"timestamp\":17{mixed:010}}},",
                price / 100,
                price % 100
            );
        }
        let mut pool = pool.into_bytes();
        pool.truncate(size + SPREAD);
        Self { pool, sizes, char_bytes: 1 }
    }

    /// Messages of Chinese characters, three bytes each in UTF-8; what a size leaves over is filled with dots.
    pub fn cjk(sizes: Sizes) -> Self {
        let size = sizes.max();
        let mut pool = String::new();
        for number in 0_u64.. {
            if pool.len() >= size + SPREAD {
                break;
            }
            let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
            // CJK Unified Ideographs, U+4E00 to U+9FA5.
            pool.extend(char::from_u32(0x4e00 + (mixed % 0x51a6) as u32));
        }
        Self { pool: pool.into_bytes(), sizes, char_bytes: CJK_BYTES }
    }

    /// Messages of arbitrary bytes, or of arbitrary printable characters.
    pub fn new(sizes: Sizes, kind: Kind) -> Self {
        let size = sizes.max();
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut byte = || {
            // xorshift64*: arbitrary, and the same in every run.
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 56) as u8
        };
        let pool = (0..size + SPREAD)
            .map(|_| match kind {
                Kind::Binary => byte(),
                Kind::Text => b' ' + byte() % 95,
            })
            .collect();
        Self { pool, sizes, char_bytes: 1 }
    }

    /// Where in the pool a message begins. Stamps have the bytes of whole characters.
    #[inline]
    fn offset(&self, index: u32, seq: u64) -> usize {
        let offset = offset(index, seq);
        if self.char_bytes == 1 { offset } else { offset - offset % self.char_bytes }
    }

    /// Bytes at the end of a message of `size` bytes that have no room for a character.
    #[inline]
    fn filler_bytes(&self, size: usize) -> usize {
        if self.char_bytes == 1 { 0 } else { size.saturating_sub(STAMP_BYTES) % self.char_bytes }
    }

    /// Whether `bytes` stand `from` bytes behind the beginning of a message of `size` bytes at `at` in the
    /// pool, all of it after the stamp.
    #[inline]
    fn body_matches(&self, at: usize, size: usize, from: usize, bytes: &[u8]) -> bool {
        let of_pool = (size - self.filler_bytes(size)).saturating_sub(from).min(bytes.len());
        let (body, filler) = bytes.split_at(of_pool);
        self.pool.get(at + from..at + from + of_pool).is_some_and(|pool| is_same(pool, body))
            && filler.iter().all(|&byte| byte == FILLER)
    }

    /// Lends message `seq` of connection `index` to `send`.
    #[inline]
    pub fn with<R>(&mut self, index: u32, seq: u64, send: impl FnOnce(&[u8]) -> R) -> R {
        let at = self.offset(index, seq);
        let size = self.sizes.of(index, seq);
        let filled = self.filler_bytes(size);
        let message = &mut self.pool[at..at + size];
        let stamp = stamp(index, seq);
        let Some(place) = message.first_chunk_mut() else { return send(&stamp[..size]) };
        // The pool is as it was once the message is on its way.
        let kept = std::mem::replace(place, stamp);
        let mut kept_end = [FILLER; CJK_BYTES];
        kept_end[..filled].swap_with_slice(&mut message[size - filled..]);
        let result = send(message);
        message[..STAMP_BYTES].copy_from_slice(&kept);
        message[size - filled..].copy_from_slice(&kept_end[..filled]);
        result
    }

    /// Message `seq` of connection `index` as its stamp and what follows, if it is made of nothing else.
    #[inline(always)]
    pub fn parts(&self, index: u32, seq: u64) -> Option<([u8; STAMP_BYTES], &[u8])> {
        let size = self.sizes.of(index, seq);
        let at = self.offset(index, seq);
        let body = self.pool.get(at + STAMP_BYTES..at + size).filter(|_| self.char_bytes == 1)?;
        Some((stamp(index, seq), body))
    }

    /// Whether `bytes` is message `seq` of connection `index`.
    #[inline(always)]
    pub fn matches(&self, index: u32, seq: u64, bytes: &[u8]) -> bool {
        let stamp = stamp(index, seq);
        let size = self.sizes.of(index, seq);
        let Some((head, rest)) = bytes.split_first_chunk::<STAMP_BYTES>() else {
            return bytes == &stamp[..size.min(STAMP_BYTES)];
        };
        let at = self.offset(index, seq);
        bytes.len() == size && *head == stamp && self.body_matches(at, size, STAMP_BYTES, rest)
    }

    /// Whether `bytes` stand in message `seq` of connection `index` from byte `from` on.
    #[inline]
    pub fn part_matches(&self, index: u32, seq: u64, from: usize, bytes: &[u8]) -> bool {
        let at = self.offset(index, seq);
        let size = self.sizes.of(index, seq);
        let stamped = size.min(STAMP_BYTES);
        let split = stamped.saturating_sub(from).min(bytes.len());
        let (head, rest) = bytes.split_at(split);
        let stamp_fits = split == 0 || stamp(index, seq)[from..from + split] == *head;
        stamp_fits && from + bytes.len() <= size && self.body_matches(at, size, from + split, rest)
    }

    /// Why `bytes` is not message `expected` of connection `index`, of which `sent` were sent.
    pub fn diagnose(&self, index: u32, expected: u64, sent: u64, bytes: &[u8]) -> Fault {
        let stamp = bytes.first_chunk::<STAMP_BYTES>();
        let (of, seq) = stamp.map_or((index, expected), read_stamp);
        match () {
            () if !self.matches(of, seq, bytes) && bytes.len() != self.sizes.of(index, expected) => {
                Fault::Length(bytes.len())
            }
            () if !self.matches(of, seq, bytes) => Fault::Content,
            () if of != index => Fault::Foreign(of),
            () if seq >= sent => Fault::Content,
            () if seq > expected => Fault::Ahead(seq),
            () => Fault::Behind(seq),
        }
    }
}

/// Whether both, which are of one length, are alike. For a short message a call of `memcmp` costs more than
/// all the rest of its check.
#[inline]
fn is_same(one: &[u8], other: &[u8]) -> bool {
    #[inline]
    fn ends<const BLOCK: usize>(bytes: &[u8]) -> Option<([u8; BLOCK], [u8; BLOCK])> {
        Some((*bytes.first_chunk()?, *bytes.last_chunk()?))
    }
    match one.len() {
        // Both blocks together are all of it.
        4..8 => one.len() == other.len() && ends::<4>(one) == ends::<4>(other),
        8..16 => one.len() == other.len() && ends::<8>(one) == ends::<8>(other),
        16..=32 => one.len() == other.len() && ends::<16>(one) == ends::<16>(other),
        _ => one == other,
    }
}

/// Where in the pool a message begins.
#[inline]
fn offset(index: u32, seq: u64) -> usize {
    (mix(index, seq) >> 52) as usize % SPREAD
}

#[inline]
fn mix(index: u32, seq: u64) -> u64 {
    let mixed = (seq ^ u64::from(index) << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ mixed >> 29
}

/// 48 bits of the sequence number and 24 of the connection's, six per character, low ones first.
#[inline]
fn stamp(index: u32, seq: u64) -> [u8; STAMP_BYTES] {
    let mut stamp = [0; STAMP_BYTES];
    stamp[..8].copy_from_slice(&(spread(seq) + DIGIT_ZERO).to_le_bytes());
    let low = (spread(index.into()) + DIGIT_ZERO) as u32;
    stamp[8..].copy_from_slice(&low.to_le_bytes());
    stamp
}

/// Eight groups of six bits, each to the bottom of a byte.
#[inline]
fn spread(bits: u64) -> u64 {
    let bits = bits & 0x00ff_ffff | (bits & 0xffff_ff00_0000) << 8;
    let bits = bits & 0x0000_0fff_0000_0fff | (bits & 0x00ff_f000_00ff_f000) << 4;
    bits & 0x003f_003f_003f_003f | (bits & 0x0fc0_0fc0_0fc0_0fc0) << 2
}

fn read_stamp(stamp: &[u8; STAMP_BYTES]) -> (u32, u64) {
    let number = |digits: &[u8]| {
        digits.iter().rev().fold(0, |sum, digit| sum << 6 | u64::from(digit.wrapping_sub(b'0') & 0x3f))
    };
    (number(&stamp[8..]) as u32, number(&stamp[..8]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(payload: &mut Payload, index: u32, seq: u64) -> Vec<u8> {
        payload.with(index, seq, <[u8]>::to_vec)
    }

    #[test]
    fn what_is_sent_is_what_is_expected_and_nothing_else() {
        for kind in [Kind::Text, Kind::Binary] {
            for size in [0, 1, 7, 12, 13, 20, 125, 16_384] {
                let mut payload = Payload::new(Sizes::Fixed(size), kind);
                let bytes = message(&mut payload, 3, 70_000);
                assert_eq!(bytes.len(), size);
                assert!(payload.matches(3, 70_000, &bytes));
                let joined = payload.parts(3, 70_000).map(|(stamp, body)| [&stamp[..], body].concat());
                assert_eq!(joined, (size >= STAMP_BYTES).then(|| bytes.clone()));
                assert_eq!(size == 0, payload.matches(3, 70_001, &bytes), "{size}");
                for at in 0..size.min(200) {
                    let mut broken = bytes.clone();
                    broken[at] ^= 1;
                    assert!(!payload.matches(3, 70_000, &broken), "byte {at} of {size}");
                }
                assert!(kind == Kind::Binary || std::str::from_utf8(&bytes).is_ok());
            }
        }
    }

    #[test]
    fn cjk_text_is_text_of_every_size_and_mostly_of_three_bytes() {
        for sizes in [Sizes::Fixed(125), Sizes::Fixed(12), Sizes::Fixed(13), Sizes::Uniform(0, 400)] {
            let mut payload = Payload::cjk(sizes.clone());
            let pool = payload.pool.clone();
            for seq in 0..2_000 {
                let bytes = message(&mut payload, 5, seq);
                assert_eq!(bytes.len(), sizes.of(5, seq));
                let text = std::str::from_utf8(&bytes).expect("characters are whole");
                let wide = text.chars().filter(|sign| sign.len_utf8() == 3).count();
                assert_eq!(wide, bytes.len().saturating_sub(STAMP_BYTES) / 3);
                assert!(payload.matches(5, seq, &bytes));
                for split in 0..=bytes.len() {
                    let (before, after) = bytes.split_at(split);
                    assert!(
                        payload.part_matches(5, seq, 0, before) && payload.part_matches(5, seq, split, after)
                    );
                }
                let mut broken = bytes;
                if let Some(last) = broken.last_mut() {
                    *last ^= 1;
                    assert!(!payload.matches(5, seq, &broken));
                    assert!(!payload.part_matches(5, seq, 0, &broken));
                }
            }
            assert_eq!(payload.pool, pool, "what was lent is as it was");
        }
    }

    #[test]
    fn parts_match_only_where_they_stand() {
        let mut payload = Payload::new(Sizes::Fixed(100), Kind::Binary);
        let bytes = message(&mut payload, 9, 5);
        for from in 0..100 {
            for to in from..=100 {
                assert!(payload.part_matches(9, 5, from, &bytes[from..to]), "{from}..{to}");
            }
        }
        assert!(!payload.part_matches(9, 5, 1, &bytes[0..50]));
        assert!(!payload.part_matches(9, 5, 60, &[&bytes[60..], b"x"].concat()));
    }

    #[test]
    fn says_what_is_wrong() {
        let mut payload = Payload::new(Sizes::Fixed(20), Kind::Binary);
        let bytes = message(&mut payload, 9, 5);
        assert_eq!(payload.diagnose(9, 4, 6, &bytes), Fault::Ahead(5));
        assert_eq!(payload.diagnose(9, 6, 7, &bytes), Fault::Behind(5));
        assert_eq!(payload.diagnose(9, 4, 5, &bytes), Fault::Content, "never sent");
        assert_eq!(payload.diagnose(8, 5, 6, &bytes), Fault::Foreign(9));
        assert_eq!(payload.diagnose(9, 5, 6, &bytes[..19]), Fault::Length(19));
        let mut broken = bytes.clone();
        broken[19] ^= 0x80;
        assert_eq!(payload.diagnose(9, 5, 6, &broken), Fault::Content);
    }

    #[test]
    fn sizes_are_read_and_drawn_as_they_are_given() {
        let uniform: Sizes = "16..1024".parse().unwrap();
        let weighted: Sizes = "16:70,1024:25,65536:5".parse().unwrap();
        assert_eq!((uniform.max(), weighted.max()), (1_024, 65_536));
        for (sizes, mean) in [(uniform, 520.0), (weighted, 0.7 * 16.0 + 0.25 * 1_024.0 + 0.05 * 65_536.0)] {
            assert!((sizes.mean() - mean).abs() < 0.01, "{sizes}: {}", sizes.mean());
            let drawn: f64 = (0..100_000).map(|seq| sizes.of(3, seq) as f64).sum::<f64>() / 100_000.0;
            assert!((drawn / mean - 1.0).abs() < 0.1, "{sizes}: {drawn}, not {mean}");
            assert_eq!(sizes.to_string().parse::<Sizes>().unwrap(), sizes);
            let mut payload = Payload::new(sizes, Kind::Text);
            for seq in 0..1_000 {
                let bytes = message(&mut payload, 3, seq);
                assert!(payload.matches(3, seq, &bytes));
                assert!(bytes.is_empty() || !payload.matches(3, seq, &bytes[1..]));
            }
        }
        for wrong in ["", "x", "9..1", "1:2,3", "1:0", "1:nan", "2000000000", "-1"] {
            assert!(wrong.parse::<Sizes>().unwrap_err().contains("give bytes"), "{wrong}");
        }
    }

    #[test]
    fn stamps_hold_their_numbers() {
        for (index, seq) in [(0, 0), (1, 63), (0xff_ffff, 0xffff_ffff_ffff), (77, 1 << 40 | 12_345)] {
            let stamp = stamp(index, seq);
            assert_eq!(read_stamp(&stamp), (index, seq));
            assert!(stamp.iter().all(u8::is_ascii_graphic));
        }
    }
}
