//! What decoding leaves over of a frame, and how much completes it.

use super::frame::{MASKED, MAX_CONTROL_PAYLOAD};

/// The most bytes that [`Session::decode`](super::Session::decode) leaves unconsumed: an unfinished control frame, or an
/// unfinished header of a data frame, which is shorter.
pub const MAX_CARRY: usize = 6 + MAX_CONTROL_PAYLOAD;

/// Bytes of the header whose second byte is `b1`.
pub(super) const fn header_len(b1: u8) -> usize {
    let length = match b1 & 0x7f {
        126 => 4,
        127 => 10,
        _ => 2,
    };
    length + if b1 & MASKED != 0 { 4 } else { 0 }
}

/// How many more bytes complete what [`Session::decode`](super::Session::decode) left over: the header of a data frame, or
/// all of a control frame. 0: `carry` is complete.
///
/// With fewer than two bytes the answer is what the length takes, so ask again after each addition.
/// Append exactly that many: then `carry` ends where the header or the control frame ends, and
/// decoding goes on in the receive buffer.
///
/// ```
/// use ringwire::ws::wanted;
/// assert_eq!(wanted(&[]), 2);
/// assert_eq!(wanted(&[0x81, 0x85]), 4); // a text frame: its mask, not its payload
/// assert_eq!(wanted(&[0x89, 0x85]), 9); // a ping: mask and payload
/// ```
pub fn wanted(carry: &[u8]) -> usize {
    let Some(&[b0, b1]) = carry.first_chunk() else { return 2 - carry.len() };
    let is_control = b0 & 0x08 != 0;
    let payload_len = if is_control { usize::from(b1 & 0x7f).min(MAX_CONTROL_PAYLOAD) } else { 0 };
    (header_len(b1) + payload_len).saturating_sub(carry.len())
}
