//! Frames on the wire (RFC 6455 §5.2): opcodes, header layout, encoding.
//!
//! Touches only the buffers it is handed. The encoders append exactly one frame to `out`, header in
//! front of payload; masks are the caller's, fresh from a CSPRNG for each frame (§5.3).

use super::CloseCode;
use crate::simd;

/// Bytes of the longest frame header: 2, an 8-byte length, a 4-byte mask.
pub const MAX_HEADER: usize = 14;

/// Bytes that a control frame may carry (RFC 6455 §5.5).
pub const MAX_CONTROL_PAYLOAD: usize = 125;

pub(super) const FIN: u8 = 0x80;
pub(super) const RSV1: u8 = 0x40;
pub(super) const MASKED: u8 = 0x80;

/// Which end of a connection we are: it decides who masks (RFC 6455 §5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Receives masked frames, sends unmasked ones.
    Server,
    /// Receives unmasked frames, sends masked ones.
    Client,
}

/// What a message holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// UTF-8.
    Text,
    /// Any bytes.
    Binary,
}

impl Kind {
    /// The opcode of the message's first frame.
    #[inline]
    pub const fn opcode(self) -> Opcode {
        match self {
            Self::Text => Opcode::Text,
            Self::Binary => Opcode::Binary,
        }
    }
}

/// The opcodes of RFC 6455 §5.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Opcode {
    /// Goes on with a fragmented message.
    Continuation = 0,
    /// First frame of a text message.
    Text = 1,
    /// First frame of a binary message.
    Binary = 2,
    /// Ends the connection.
    Close = 8,
    /// Asks for a pong.
    Ping = 9,
    /// Answers a ping, or is a heartbeat of its own accord.
    Pong = 10,
}

/// The first two bytes of a frame but for the length, and its mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHead {
    /// Last frame of its message.
    pub fin: bool,
    /// Reserved bit 1; set on the first frame of a compressed message (RFC 7692 §6).
    pub rsv1: bool,
    /// What the frame is.
    pub opcode: Opcode,
    /// `Some` in the client role: unpredictable and never reused (RFC 6455 §5.3).
    pub mask: Option<[u8; 4]>,
}

impl FrameHead {
    /// A frame that is a whole message or a control frame.
    #[inline]
    pub const fn whole(opcode: Opcode, mask: Option<[u8; 4]>) -> Self {
        Self { fin: true, rsv1: false, opcode, mask }
    }

    #[inline]
    const fn first_byte(self) -> u8 {
        self.opcode as u8 | if self.fin { FIN } else { 0 } | if self.rsv1 { RSV1 } else { 0 }
    }
}

/// Bytes of the header of a frame with `payload_len` bytes, in the shortest form (RFC 6455 §5.2).
#[inline]
pub const fn header_len(payload_len: usize, masked: bool) -> usize {
    let length = match payload_len {
        0..=125 => 2,
        126..=0xffff => 4,
        _ => 10,
    };
    length + if masked { 4 } else { 0 }
}

/// Writes the header of a frame with `payload_len` bytes to the front of `out` and returns its
/// length. The bytes of `out` behind it are not changed.
///
/// ```
/// use ringwire::ws::{FrameHead, Opcode, write_header};
/// let mut header = [0; 14];
/// let len = write_header(&mut header, FrameHead::whole(Opcode::Binary, None), 300);
/// assert_eq!(header[..len], [0x82, 126, 0x01, 0x2c]);
/// ```
#[inline]
pub fn write_header(out: &mut [u8; MAX_HEADER], head: FrameHead, payload_len: usize) -> usize {
    out[0] = head.first_byte();
    let len = match payload_len {
        0..=125 => {
            out[1] = payload_len as u8;
            2
        }
        126..=0xffff => {
            out[1] = 126;
            out[2..4].copy_from_slice(&(payload_len as u16).to_be_bytes());
            4
        }
        _ => {
            out[1] = 127;
            out[2..10].copy_from_slice(&(payload_len as u64).to_be_bytes());
            10
        }
    };
    if let Some(mask) = head.mask {
        out[1] |= MASKED;
        out[len..len + 4].copy_from_slice(&mask);
        return len + 4;
    }
    len
}

/// Appends one frame to `out`. With a mask, the copy in `out` is masked; `payload` is not changed.
///
/// The rules about which frame may follow which, and that a control frame carries at most
/// [`MAX_CONTROL_PAYLOAD`] bytes, are the caller's.
#[inline]
pub fn encode_frame(out: &mut Vec<u8>, head: FrameHead, payload: &[u8]) {
    match head.mask {
        None => encode_unmasked(out, head, payload),
        Some(mask) => encode_masked(out, head, mask, payload),
    }
}

/// A message of up to so many bytes is brief: it is encoded without a call.
pub(crate) const MAX_BRIEF: usize = 64;

/// Room that is enough for every brief message's frame while it is being written.
pub(crate) const BRIEF_ROOM: usize = 2 + MAX_BRIEF;

/// A call of `memcpy` costs more than all the rest for a payload of 20 bytes, and a call of this half as much.
#[inline(always)]
fn encode_unmasked(out: &mut Vec<u8>, head: FrameHead, payload: &[u8]) {
    match payload.len() {
        ..=MAX_BRIEF => encode_brief_unmasked(out, head.first_byte(), payload),
        _ => encode_long(out, head, payload),
    }
}

#[inline(always)]
fn encode_brief_unmasked(out: &mut Vec<u8>, first_byte: u8, payload: &[u8]) {
    if let len @ 16.. = payload.len() {
        match len {
            ..=32 => encode_short::<16, 34>(out, first_byte, payload),
            _ => encode_short::<32, BRIEF_ROOM>(out, first_byte, payload),
        }
    } else if payload.len() >= 8 {
        encode_short::<8, 18>(out, first_byte, payload);
    } else if payload.len() >= 4 {
        encode_short::<4, 10>(out, first_byte, payload);
    } else {
        encode_tiny(out, first_byte, payload);
    }
}

#[inline]
fn encode_masked(out: &mut Vec<u8>, head: FrameHead, mask: [u8; 4], payload: &[u8]) {
    match payload.len() {
        8..16 => encode_short_masked::<8, 22>(out, head, mask, payload),
        16..=32 => encode_short_masked::<16, 38>(out, head, mask, payload),
        33..=64 => encode_short_masked::<32, 70>(out, head, mask, payload),
        _ => encode_long(out, head, payload),
    }
}

/// Appends a server's whole message: [`encode_message`] without a mask, wherever it stands.
#[inline(always)]
pub(crate) fn encode_plain(out: &mut Vec<u8>, kind: Kind, payload: &[u8]) {
    encode_unmasked(out, FrameHead::whole(kind.opcode(), None), payload);
}

/// As [`encode_plain`], of at most [`MAX_BRIEF`] bytes.
#[inline(always)]
pub(crate) fn encode_brief(out: &mut Vec<u8>, kind: Kind, payload: &[u8]) {
    encode_brief_unmasked(out, FIN | kind.opcode() as u8, payload);
}

fn encode_long(out: &mut Vec<u8>, head: FrameHead, payload: &[u8]) {
    let len = payload.len();
    out.reserve(MAX_HEADER + len);
    let first = head.first_byte();
    let masked = if head.mask.is_some() { MASKED } else { 0 };
    // Each form is a move of constant size out of registers.
    match len {
        0..=125 => out.extend_from_slice(&[first, masked | len as u8]),
        126..=0xffff => out.extend_from_slice(&[first, masked | 126, (len >> 8) as u8, len as u8]),
        _ => {
            out.extend_from_slice(&[first, masked | 127]);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    if let Some(mask) = head.mask {
        out.extend_from_slice(&mask);
    }
    let start = out.len();
    out.extend_from_slice(payload);
    if let Some(mask) = head.mask {
        simd::unmask(&mut out[start..], mask, 0);
    }
}

/// A frame of `BLOCK..=2 * BLOCK` bytes: its first and its last block, which overlap, are moves of
/// constant size. `ROOM` is `2 + 2 * BLOCK`.
#[inline(always)]
fn encode_short<const BLOCK: usize, const ROOM: usize>(out: &mut Vec<u8>, first_byte: u8, payload: &[u8]) {
    let (Some(first), Some(last)) = (payload.first_chunk::<BLOCK>(), payload.last_chunk::<BLOCK>()) else {
        unreachable!("the length has been looked at")
    };
    let end = out.len() + 2 + payload.len();
    let mut frame = [0; ROOM];
    frame[0] = first_byte;
    frame[1] = payload.len() as u8;
    frame[2..2 + BLOCK].copy_from_slice(first);
    out.extend_from_slice(&frame);
    out[end - BLOCK..end].copy_from_slice(last);
    out.truncate(end);
}

/// As [`encode_short`], masked on the way. `ROOM` is `6 + 2 * BLOCK`.
#[inline(always)]
fn encode_short_masked<const BLOCK: usize, const ROOM: usize>(
    out: &mut Vec<u8>,
    head: FrameHead,
    mask: [u8; 4],
    payload: &[u8],
) {
    let (Some(first), Some(last)) = (payload.first_chunk::<BLOCK>(), payload.last_chunk::<BLOCK>()) else {
        unreachable!("the length has been looked at")
    };
    let end = out.len() + 6 + payload.len();
    let phase = payload.len() - BLOCK;
    let mut frame = [0; ROOM];
    frame[0] = head.first_byte();
    frame[1] = MASKED | payload.len() as u8;
    frame[2..6].copy_from_slice(&mask);
    frame[6..6 + BLOCK].copy_from_slice(&masked(first, mask));
    out.extend_from_slice(&frame);
    out[end - BLOCK..end].copy_from_slice(&masked(last, turned(mask, phase)));
    out.truncate(end);
}

/// Appends a whole binary message of at most [`MAX_CONTROL_PAYLOAD`] bytes, `first` and then `rest`, masked on
/// the way. `first`, at most 16 bytes, is out of registers, and nothing is read that was just written.
#[inline(always)]
pub(crate) fn encode_joined_masked<const FIRST: usize>(
    out: &mut Vec<u8>,
    first: &[u8; FIRST],
    rest: &[u8],
    mask: [u8; 4],
) {
    const { assert!(FIRST <= 16) };
    let mut frame = [0; 22];
    frame[0] = FrameHead::whole(Opcode::Binary, None).first_byte();
    frame[1] = MASKED | (FIRST + rest.len()) as u8;
    frame[2..6].copy_from_slice(&mask);
    frame[6..6 + FIRST].copy_from_slice(&masked(first, mask));
    out.extend_from_slice(&frame[..6 + FIRST]);
    let mask = turned(mask, FIRST);
    match rest.len() {
        4..8 => append_masked::<4, 8>(out, rest, mask),
        8..16 => append_masked::<8, 16>(out, rest, mask),
        16..=32 => append_masked::<16, 32>(out, rest, mask),
        33..=64 => append_masked::<32, 64>(out, rest, mask),
        _ => {
            let start = out.len();
            out.extend_from_slice(rest);
            simd::unmask(&mut out[start..], mask, 0);
        }
    }
}

/// `BLOCK..=2 * BLOCK` bytes, as [`encode_short_masked`] appends them. `ROOM` is `2 * BLOCK`.
#[inline(always)]
fn append_masked<const BLOCK: usize, const ROOM: usize>(out: &mut Vec<u8>, bytes: &[u8], mask: [u8; 4]) {
    let (Some(first), Some(last)) = (bytes.first_chunk::<BLOCK>(), bytes.last_chunk::<BLOCK>()) else {
        unreachable!("the length has been looked at")
    };
    let end = out.len() + bytes.len();
    let mut both = [0; ROOM];
    both[..BLOCK].copy_from_slice(&masked(first, mask));
    out.extend_from_slice(&both);
    out[end - BLOCK..end].copy_from_slice(&masked(last, turned(mask, bytes.len() - BLOCK)));
    out.truncate(end);
}

/// The mask for what stands so many bytes behind its beginning.
#[inline(always)]
fn turned(mask: [u8; 4], bytes: usize) -> [u8; 4] {
    u32::from_le_bytes(mask).rotate_right((bytes as u32 & 3) * 8).to_le_bytes()
}

/// A block under a mask that begins with its first byte.
#[inline(always)]
fn masked<const BLOCK: usize>(block: &[u8; BLOCK], mask: [u8; 4]) -> [u8; BLOCK] {
    let mut masked = *block;
    // By words: compilers make a dozen instructions of each byte otherwise.
    let (words, rest) = masked.as_chunks_mut::<4>();
    for word in words {
        *word = (u32::from_ne_bytes(*word) ^ u32::from_ne_bytes(mask)).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask) {
        *byte ^= mask;
    }
    masked
}

#[inline]
fn encode_tiny(out: &mut Vec<u8>, first_byte: u8, payload: &[u8]) {
    let end = out.len() + 2 + payload.len();
    let byte = |i: usize| payload.get(i).copied().unwrap_or(0);
    out.extend_from_slice(&[first_byte, payload.len() as u8, byte(0), byte(1), byte(2)]);
    out.truncate(end);
}

/// Appends a whole message as one frame.
///
/// ```
/// use ringwire::ws::{Kind, encode_message};
/// let mut out = Vec::new();
/// encode_message(&mut out, Kind::Text, b"Hello", None);
/// assert_eq!(out, b"\x81\x05Hello"); // RFC 6455 §5.7
/// ```
#[inline]
pub fn encode_message(out: &mut Vec<u8>, kind: Kind, payload: &[u8], mask: Option<[u8; 4]>) {
    encode_frame(out, FrameHead::whole(kind.opcode(), mask), payload);
}

/// Appends a whole compressed message as one frame; `deflated` is what
/// [`Deflater::compress`](super::deflate::Deflater::compress) made of it (RFC 7692 §6.1).
#[inline]
pub fn encode_deflated(out: &mut Vec<u8>, kind: Kind, deflated: &[u8], mask: Option<[u8; 4]>) {
    let head = FrameHead { fin: true, rsv1: true, opcode: kind.opcode(), mask };
    encode_frame(out, head, deflated);
}

/// Appends one frame of a fragmented message: `Text` or `Binary` first, `Continuation` after, the
/// last one with `fin`.
#[inline]
pub fn encode_fragment(out: &mut Vec<u8>, opcode: Opcode, fin: bool, payload: &[u8], mask: Option<[u8; 4]>) {
    encode_frame(out, FrameHead { fin, rsv1: false, opcode, mask }, payload);
}

/// Appends a whole message as frames of at most `frame_bytes` bytes each, which must not be 0; a
/// compressed one has RSV1 in the first (RFC 7692 §6.1).
pub(crate) fn encode_in_frames(
    out: &mut Vec<u8>,
    kind: Kind,
    rsv1: bool,
    content: &[u8],
    frame_bytes: usize,
    mut next_mask: impl FnMut() -> Option<[u8; 4]>,
) {
    let last = content.len().div_ceil(frame_bytes).max(1) - 1;
    for number in 0..=last {
        let from = number * frame_bytes;
        let part = &content[from..content.len().min(from + frame_bytes)];
        let (opcode, rsv1) = match number {
            0 => (kind.opcode(), rsv1),
            _ => (Opcode::Continuation, false),
        };
        encode_frame(out, FrameHead { fin: number == last, rsv1, opcode, mask: next_mask() }, part);
    }
}

/// Appends a ping. Of `payload`, the first 125 bytes are sent: a control frame holds no more.
#[inline]
pub fn encode_ping(out: &mut Vec<u8>, payload: &[u8], mask: Option<[u8; 4]>) {
    encode_control(out, Opcode::Ping, payload, mask);
}

/// Appends a pong. Of `payload`, the first 125 bytes are sent; a ping carries no more to answer.
#[inline]
pub fn encode_pong(out: &mut Vec<u8>, payload: &[u8], mask: Option<[u8; 4]>) {
    encode_control(out, Opcode::Pong, payload, mask);
}

/// Appends a Close frame. Without a code, or with one that [may not be
/// sent](CloseCode::is_valid_on_wire), the body is empty. The reason is cut at a character
/// boundary to the 123 bytes there is room for.
///
/// ```
/// use ringwire::ws::{CloseCode, encode_close};
/// let mut out = Vec::new();
/// encode_close(&mut out, Some(CloseCode::NORMAL), "bye", None);
/// assert_eq!(out, b"\x88\x05\x03\xe8bye");
/// ```
pub fn encode_close(out: &mut Vec<u8>, code: Option<CloseCode>, reason: &str, mask: Option<[u8; 4]>) {
    let Some(code) = code.filter(|code| code.is_valid_on_wire()) else {
        return encode_control(out, Opcode::Close, &[], mask);
    };
    let mut end = reason.len().min(MAX_CONTROL_PAYLOAD - 2);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    let reason = &reason.as_bytes()[..end];
    let mut body = [0; MAX_CONTROL_PAYLOAD];
    body[..2].copy_from_slice(&code.0.to_be_bytes());
    body[2..2 + reason.len()].copy_from_slice(reason);
    encode_control(out, Opcode::Close, &body[..2 + reason.len()], mask);
}

fn encode_control(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8], mask: Option<[u8; 4]>) {
    let payload = &payload[..payload.len().min(MAX_CONTROL_PAYLOAD)];
    encode_frame(out, FrameHead::whole(opcode, mask), payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agrees<const FIRST: usize>() {
        let message: Vec<u8> = (0..125).map(|at| (at as u8).wrapping_mul(37)).collect();
        for len in FIRST..=MAX_CONTROL_PAYLOAD {
            let (mut joined, mut whole) = (vec![9; 5], vec![9; 5]);
            let (first, rest) = message[..len].split_first_chunk::<FIRST>().expect("it is long enough");
            encode_joined_masked(&mut joined, first, rest, [1, 2, 4, 8]);
            encode_long(&mut whole, FrameHead::whole(Opcode::Binary, Some([1, 2, 4, 8])), &message[..len]);
            assert_eq!(joined, whole, "{FIRST} of {len} bytes");
            whole.truncate(5);
            encode_message(&mut whole, Kind::Binary, &message[..len], Some([1, 2, 4, 8]));
            assert_eq!(joined, whole, "{len} bytes");
        }
    }

    #[test]
    fn all_ways_to_mask_agree() {
        agrees::<0>();
        agrees::<1>();
        agrees::<6>();
        agrees::<12>();
        agrees::<15>();
        agrees::<16>();
    }
}
