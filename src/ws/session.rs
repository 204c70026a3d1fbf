//! The protocol state of one open connection, and the decoder that moves it.
//!
//! A [`Session`] is 24 bytes and holds no payload: frames are unmasked, validated and handed out
//! where they lie in the caller's receive buffer. The contract to know is what `None` of
//! [`Session::decode`] leaves behind, and how [`wanted`](super::wanted) completes it.

use super::carry::header_len;
use super::deflate::DeflateParams;
use super::frame::{FIN, MASKED, MAX_CONTROL_PAYLOAD, RSV1};
use super::{CloseCode, DecodeLimits, Kind, Role, Violation};
use crate::simd::{self, Utf8};
use std::ops::Range;

/// Where the closing handshake stands (RFC 6455 §7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Data flows both ways.
    Open,
    /// We sent a Close frame and wait for the peer's. Its messages still come.
    CloseSent,
    /// The peer sent a Close frame, or broke the protocol; nothing more is taken from it. Ours is due.
    CloseReceived,
    /// Both are done: the transport is to be closed, by the server first (§7.1.1).
    Closed,
}

/// What [`Session::decode`] found. Ranges index its `input`; what they cover is unmasked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A whole message. Text is valid UTF-8.
    Message {
        /// Text or binary.
        kind: Kind,
        /// All of it.
        payload: Range<usize>,
    },
    /// Part of a message that is not whole in this input. Text is valid so far, and may end
    /// inside a character.
    Piece {
        /// Text or binary.
        kind: Kind,
        /// Empty only if `last`.
        payload: Range<usize>,
        /// Nothing of this message came before.
        first: bool,
        /// The message is complete with this.
        last: bool,
    },
    /// All or part of a compressed message, to be [inflated](super::deflate::Inflating). Comes only
    /// after [`Session::agree_deflate`].
    Deflated {
        /// Text or binary, when inflated. Nothing is validated yet.
        kind: Kind,
        /// Empty only if `last`.
        payload: Range<usize>,
        /// Nothing of this message came before.
        first: bool,
        /// The message is complete with this.
        last: bool,
    },
    /// To be answered by a pong with the same payload (RFC 6455 §5.5.3).
    Ping {
        /// At most 125 bytes.
        payload: Range<usize>,
    },
    /// An answer to a ping, or a heartbeat.
    Pong {
        /// At most 125 bytes.
        payload: Range<usize>,
    },
    /// The peer closes; a Close frame with the same code is due, unless ours is sent already.
    Close {
        /// Valid on the wire. `None` if the frame had no body (1005 in the terms of §7.1.5).
        code: Option<CloseCode>,
        /// UTF-8, at most 123 bytes.
        reason: Range<usize>,
    },
}

/// The protocol state of one connection: small, `Copy`, and without payload.
///
/// ```
/// use ringwire::ws::{DecodeLimits, Item, Kind, Role, Session};
///
/// let mut session = Session::new(Role::Server);
/// let limits = DecodeLimits::default();
/// let mut input = *b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58"; // RFC 6455 §5.7
/// let mut at = 0;
/// let item = session.decode(&mut input, &mut at, &limits)?;
/// assert_eq!(item, Some(Item::Message { kind: Kind::Text, payload: 6..11 }));
/// assert_eq!(&input[6..11], b"Hello");
/// assert_eq!(session.decode(&mut input, &mut at, &limits)?, None);
/// assert_eq!(at, input.len());
/// # Ok::<(), ringwire::ws::Violation>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Session {
    /// Payload bytes of the current frame still to come.
    frame_remaining: u64,
    /// Declared payload bytes of the current message, up to and with the current frame.
    message_bytes: u32,
    /// The current frame's mask, rotated so that its lowest byte is for the next payload byte.
    mask: u32,
    utf8: Utf8,
    bits: u32,
}

const _: () = assert!(size_of::<Session>() <= 24, "a session lives in the connection's cache line");

/// Bytes of a client's header with the short length form: its payload is at most [`MAX_CONTROL_PAYLOAD`] bytes.
const SHORT_HEADER: usize = 6;

const CLIENT: u32 = 1 << 0;
const CLOSE_SENT: u32 = 1 << 1;
/// A Close frame or a violation: everything after is ignored (RFC 6455 §5.5.1, §7.1.7).
const INPUT_ENDED: u32 = 1 << 2;
/// A message has begun and has not ended; one of the two is set.
const TEXT: u32 = 1 << 3;
const BINARY: u32 = 1 << 4;
/// Something of the message has been handed out.
const DELIVERED: u32 = 1 << 5;
/// A data frame's header has been taken, its payload not yet all.
const IN_FRAME: u32 = 1 << 6;
/// That frame is its message's last.
const LAST_FRAME: u32 = 1 << 7;
/// The message is compressed.
const DEFLATED: u32 = 1 << 8;
/// The ends agreed upon permessage-deflate, with the parameters in eight bits from `PARAMS_SHIFT`.
const DEFLATE_AGREED: u32 = 1 << 9;
/// The input ended with a Close frame.
const CLOSE_TAKEN: u32 = 1 << 10;
const PARAMS_SHIFT: u32 = 16;
/// What was settled by the handshake and does not change.
const SETTLED: u32 = CLIENT | DEFLATE_AGREED | 0xff << PARAMS_SHIFT;

impl Session {
    /// A connection whose opening handshake is done.
    pub fn new(role: Role) -> Self {
        let bits = match role {
            Role::Server => 0,
            Role::Client => CLIENT,
        };
        Self { frame_remaining: 0, message_bytes: 0, mask: 0, utf8: Utf8::default(), bits }
    }

    /// To be told what the handshake agreed upon, before the first frame.
    pub const fn agree_deflate(&mut self, params: DeflateParams) {
        self.bits |= DEFLATE_AGREED | params.pack() << PARAMS_SHIFT;
    }

    /// What the ends agreed upon; `None` if messages are not compressed.
    #[inline]
    pub const fn deflate(&self) -> Option<DeflateParams> {
        match self.has(DEFLATE_AGREED) {
            true => Some(DeflateParams::unpack(self.bits >> PARAMS_SHIFT)),
            false => None,
        }
    }

    /// Whether compressed messages may refer to those before them: their decompressor is to be kept.
    pub const fn peer_keeps_window(&self) -> bool {
        match self.deflate() {
            Some(params) => params.incoming(self.role()).takeover,
            None => false,
        }
    }

    /// Which end this is.
    #[inline]
    pub const fn role(&self) -> Role {
        if self.has(CLIENT) { Role::Client } else { Role::Server }
    }

    /// Where the closing handshake stands.
    #[inline]
    pub const fn state(&self) -> State {
        match (self.has(CLOSE_SENT), self.has(INPUT_ENDED)) {
            (false, false) => State::Open,
            (true, false) => State::CloseSent,
            (false, true) => State::CloseReceived,
            (true, true) => State::Closed,
        }
    }

    /// Whether messages are sent as they are, unmasked: a server's, uncompressed, before any Close frame.
    #[inline]
    pub const fn sends_plainly(&self) -> bool {
        !self.has(CLIENT | CLOSE_SENT | INPUT_ENDED | DEFLATE_AGREED)
    }

    /// As [`sends_plainly`](Self::sends_plainly), but masked: a client's.
    #[inline]
    pub const fn sends_masked(&self) -> bool {
        self.bits & (CLIENT | CLOSE_SENT | INPUT_ENDED | DEFLATE_AGREED) == CLIENT
    }

    /// Whether both Close frames have passed: the peer has promised to send no more (§5.5.1), and
    /// waits for the server to end the transport (§7.1.1).
    #[inline]
    pub const fn is_closed_by_both(&self) -> bool {
        const BOTH: u32 = CLOSE_SENT | CLOSE_TAKEN;
        self.bits & BOTH == BOTH
    }

    /// Whether a message has begun and has not yet come to its end: an assembly deadline runs.
    #[inline]
    pub const fn is_inside_message(&self) -> bool {
        self.has(TEXT | BINARY)
    }

    /// How long the message is that has begun and not come to its end yet, where that is known: its
    /// last frame's header has come, and it is not compressed.
    #[inline]
    pub const fn declared_bytes(&self) -> Option<u64> {
        let known = self.bits & (IN_FRAME | LAST_FRAME | DEFLATED) == IN_FRAME | LAST_FRAME;
        // Saturated where the pieces go to a stream.
        if known && self.message_bytes != u32::MAX { Some(self.message_bytes as u64) } else { None }
    }

    /// To be told when a Close frame has been encoded: no data frame may follow it (§5.5.1).
    #[inline]
    pub const fn close_sent(&mut self) {
        self.bits |= CLOSE_SENT;
    }

    /// To be told when a message could not be inflated: everything after is ignored.
    pub const fn fail(&mut self) {
        self.bits |= INPUT_ENDED;
    }

    /// Decodes the next item of `input[*at..]` in place and moves `*at` behind it.
    ///
    /// `None`: there is none. What is left in `input[*at..]`, at most [`MAX_CARRY`](super::MAX_CARRY) bytes, must be
    /// presented again in front of more bytes; [`wanted`](super::wanted) says how many complete it. Payload of
    /// data frames is never left over.
    ///
    /// After a Close frame or a violation everything is consumed and ignored.
    ///
    /// # Errors
    /// The first rule that the peer broke. Items before it have been returned by earlier calls.
    /// [`state`](Self::state) is then `CloseReceived` (or `Closed`): a Close frame with
    /// [`Violation::close_code`] is due, and then the transport's end (RFC 6455 §7.1.7).
    ///
    /// # Panics
    /// If `*at` is beyond the end of `input`.
    #[inline(always)] // with the item in registers a short frame costs 2.5 ns, not 3.5 (Zen 5)
    pub fn decode(
        &mut self,
        input: &mut [u8],
        at: &mut usize,
        limits: &DecodeLimits,
    ) -> Result<Option<Item>, Violation> {
        if self.awaits_a_client_message() {
            let mut rest = &mut input[*at..];
            match self.split_short(&mut rest, limits) {
                Ok(None) => {}
                Ok(Some((kind, bytes))) => {
                    let start = *at + SHORT_HEADER;
                    *at = start + bytes.len();
                    return Ok(Some(Item::Message { kind, payload: start..*at }));
                }
                Err(violation) => {
                    *at = input.len();
                    return Err(violation);
                }
            }
        }
        self.decode_others(input, at, limits)
    }

    /// Takes a whole message from a client with the short length form off the front of `input`, where
    /// [one is awaited](Self::awaits_a_client_message): the traffic that is bound by time per frame. `None`: it is
    /// something else, or nothing, and for [`decode_others`](Self::decode_others).
    #[inline(always)]
    pub(crate) fn split_short<'i>(
        &mut self,
        input: &mut &'i mut [u8],
        limits: &DecodeLimits,
    ) -> Result<Option<(Kind, &'i mut [u8])>, Violation> {
        debug_assert!(self.awaits_a_client_message());
        let Some(&[b0 @ (0x81 | 0x82), b1, ref mask @ ..]) = input.first_chunk::<SHORT_HEADER>() else {
            return Ok(None);
        };
        let mask = *mask;
        let payload_len = usize::from(b1 ^ MASKED); // 128 and more if not masked
        let is_whole = payload_len <= input.len() - SHORT_HEADER;
        if !is_whole || payload_len > limits.short_bytes() {
            return Ok(None);
        }
        let (frame, rest) = std::mem::take(input).split_at_mut(SHORT_HEADER + payload_len);
        *input = rest;
        let payload = &mut frame[SHORT_HEADER..];
        let kind = if b0 == 0x81 { Kind::Text } else { Kind::Binary };
        // As `unmask_whole`, but the same for both kinds: it is inlined here, where that would be a call.
        let is_ascii = simd::unmask(payload, mask, 0);
        if kind == Kind::Binary || is_ascii || simd::is_utf8_just_stored(payload) {
            return Ok(Some((kind, payload)));
        }
        self.bits |= INPUT_ENDED;
        Err(Violation::InvalidUtf8)
    }

    /// As [`decode`](Self::decode), where most of what comes is from a server.
    #[inline(always)]
    pub(crate) fn decode_from_server(
        &mut self,
        input: &mut [u8],
        at: &mut usize,
        limits: &DecodeLimits,
    ) -> Result<Option<Item>, Violation> {
        match self.take_short_unmasked(input, at, limits) {
            Some(Ok(item)) => Ok(Some(item)),
            Some(Err(violation)) => Err(self.end_input(violation, input, at)),
            None => self.decode_others(input, at, limits),
        }
    }

    /// Only a copy of `at` is lent, so that the caller's stays in a register.
    #[inline(always)]
    pub(crate) fn decode_others(
        &mut self,
        input: &mut [u8],
        at: &mut usize,
        limits: &DecodeLimits,
    ) -> Result<Option<Item>, Violation> {
        if *at == input.len() {
            return Ok(None);
        }
        let mut moved = *at;
        let item = self.decode_any(input, &mut moved, limits);
        *at = moved;
        item
    }

    /// Every form of frame.
    #[inline(never)]
    fn decode_any(
        &mut self,
        input: &mut [u8],
        at: &mut usize,
        limits: &DecodeLimits,
    ) -> Result<Option<Item>, Violation> {
        let short = self.take_short_unmasked(input, at, limits);
        if let Some(item) = short.or_else(|| self.take_medium(input, at, limits)) {
            return item.map(Some).map_err(|violation| self.end_input(violation, input, at));
        }
        while !self.has(INPUT_ENDED) {
            if self.has(IN_FRAME) {
                match self.take_payload(input, at) {
                    Ok(None) if self.has(IN_FRAME) => return Ok(None),
                    Ok(None) => continue,
                    Ok(item) => return Ok(item),
                    Err(violation) => return Err(self.end_input(violation, input, at)),
                }
            }
            let header = match self.parse_header(&input[*at..]) {
                Ok(Some(header)) => header,
                Ok(None) => return Ok(None),
                Err(violation) => return Err(self.end_input(violation, input, at)),
            };
            if self.bits & !(CLOSE_SENT | SETTLED) == 0
                && header.fin
                && header.opcode <= 2
                && let Some(result) = self.take_whole(header, input, at, limits)
            {
                return result.map(Some).map_err(|violation| self.end_input(violation, input, at));
            }
            let result = match header.opcode {
                0..=2 => self.begin_data(header, at, limits),
                _ if header.payload_len > (input.len() - *at - header.len) as u64 => return Ok(None),
                _ => match self.take_control(header, input, at) {
                    Ok(item) => return Ok(Some(item)),
                    Err(violation) => Err(violation),
                },
            };
            if let Err(violation) = result {
                return Err(self.end_input(violation, input, at));
            }
        }
        *at = input.len();
        Ok(None)
    }

    /// A whole message from a server with the short length form, between messages: all of it is payload as it is.
    #[inline]
    fn take_short_unmasked(
        &self,
        input: &[u8],
        at: &mut usize,
        limits: &DecodeLimits,
    ) -> Option<Result<Item, Violation>> {
        let &[b0 @ (0x81 | 0x82), payload_len] = input.get(*at..)?.first_chunk()? else { return None };
        let payload = *at + 2..*at + 2 + usize::from(payload_len);
        let is_short = usize::from(payload_len) <= MAX_CONTROL_PAYLOAD && limits.admit(payload_len.into());
        if self.bits & !(CLOSE_SENT | SETTLED & !CLIENT) != CLIENT || !is_short {
            return None;
        }
        let bytes = input.get(payload.clone())?;
        let kind = if b0 == 0x81 { Kind::Text } else { Kind::Binary };
        if kind == Kind::Text && !simd::is_utf8(bytes) {
            return Some(Err(Violation::InvalidUtf8));
        }
        *at = payload.end;
        Some(Ok(Item::Message { kind, payload }))
    }

    /// Whether this is an open server's session between messages.
    #[inline(always)]
    pub(crate) const fn awaits_a_client_message(&self) -> bool {
        self.bits & !(SETTLED & !CLIENT) == 0
    }

    /// A whole message from a client with the 16-bit length form, between messages: what comes next to the short
    /// ones in being bound by time per frame.
    #[inline]
    fn take_medium(
        &self,
        input: &mut [u8],
        at: &mut usize,
        limits: &DecodeLimits,
    ) -> Option<Result<Item, Violation>> {
        const HEADER: usize = 8;
        let &[b0 @ (0x81 | 0x82), 0xfe, l0, l1, m0, m1, m2, m3] = input.get(*at..)?.first_chunk()? else {
            return None;
        };
        let payload_len = u16::from_be_bytes([l0, l1]);
        let is_minimal = usize::from(payload_len) > MAX_CONTROL_PAYLOAD;
        if !self.awaits_a_client_message() || !is_minimal || !limits.admit(payload_len.into()) {
            return None;
        }
        let payload = *at + HEADER..*at + HEADER + usize::from(payload_len);
        let bytes = input.get_mut(payload.clone())?;
        let kind = if b0 == 0x81 { Kind::Text } else { Kind::Binary };
        if !unmask_whole(bytes, kind, [m0, m1, m2, m3]) {
            return Some(Err(Violation::InvalidUtf8));
        }
        *at = payload.end;
        Some(Ok(Item::Message { kind, payload }))
    }

    /// The header at the start of `bytes`, or `None` if it is not whole. What the first two bytes
    /// tell is judged as soon as they are there.
    fn parse_header(&self, bytes: &[u8]) -> Result<Option<Header>, Violation> {
        let Some(&[b0, b1]) = bytes.first_chunk() else { return Ok(None) };
        let (fin, opcode) = (b0 & FIN != 0, b0 & 0x0f);
        // RSV1 marks the first frame of a compressed message and nothing else (RFC 7692 §6).
        let deflated = b0 & 0x70 == RSV1 && matches!(opcode, 1..=2) && self.has(DEFLATE_AGREED);
        if b0 & 0x70 != 0 && !deflated {
            return Err(Violation::ReservedBits);
        }
        match (opcode, self.is_inside_message()) {
            (3..=7 | 11.., _) => return Err(Violation::UnknownOpcode),
            (8..=10, _) if !fin => return Err(Violation::FragmentedControl),
            (8..=10, _) if b1 & 0x7f > MAX_CONTROL_PAYLOAD as u8 => return Err(Violation::ControlTooLong),
            (0, false) => return Err(Violation::UnexpectedContinuation),
            (1..=2, true) => return Err(Violation::MessageInsideMessage),
            _ => {}
        }
        match (b1 & MASKED != 0, self.role()) {
            (false, Role::Server) => return Err(Violation::Unmasked),
            (true, Role::Client) => return Err(Violation::Masked),
            _ => {}
        }
        let Some(rest) = bytes.get(2..header_len(b1)) else { return Ok(None) };
        let (payload_len, rest) = match b1 & 0x7f {
            126 => match rest.split_first_chunk() {
                Some((&len, rest)) => (u64::from(u16::from_be_bytes(len)), rest),
                None => return Ok(None),
            },
            127 => match rest.split_first_chunk() {
                Some((&len, rest)) => (u64::from_be_bytes(len), rest),
                None => return Ok(None),
            },
            len => (u64::from(len), rest),
        };
        match b1 & 0x7f {
            126 if payload_len < 126 => return Err(Violation::LengthNotMinimal),
            127 if payload_len <= 0xffff => return Err(Violation::LengthNotMinimal),
            127 if payload_len >> 63 != 0 => return Err(Violation::LengthOutOfRange),
            _ => {}
        }
        let mask = rest.first_chunk().map_or(0, |&mask| u32::from_le_bytes(mask));
        Ok(Some(Header { len: header_len(b1), fin, opcode, deflated, payload_len, mask }))
    }

    /// A message in one frame, if it lies whole in `input` and is admitted. It could be a last piece
    /// without a first one, but a kilobyte would spend a third of its time in that bookkeeping.
    fn take_whole(
        &self,
        header: Header,
        input: &mut [u8],
        at: &mut usize,
        limits: &DecodeLimits,
    ) -> Option<Result<Item, Violation>> {
        let start = *at + header.len;
        let payload = start..start.checked_add(usize::try_from(header.payload_len).ok()?)?;
        let admitted = match header.deflated {
            false => limits.admit(header.payload_len),
            true => limits.admit_deflated(header.payload_len),
        };
        if !admitted {
            return None;
        }
        let bytes = input.get_mut(payload.clone())?;
        let kind = if header.opcode == 1 { Kind::Text } else { Kind::Binary };
        if header.deflated {
            simd::unmask(bytes, header.mask.to_le_bytes(), 0);
            *at = payload.end;
            return Some(Ok(Item::Deflated { kind, payload, first: true, last: true }));
        }
        // What comes to a client has the mask 0.
        let as_is = kind == Kind::Binary && self.has(CLIENT);
        if !as_is && !unmask_whole(bytes, kind, header.mask.to_le_bytes()) {
            return Some(Err(Violation::InvalidUtf8));
        }
        *at = payload.end;
        Some(Ok(Item::Message { kind, payload }))
    }

    fn begin_data(&mut self, header: Header, at: &mut usize, limits: &DecodeLimits) -> Result<(), Violation> {
        let message_bytes = u64::from(self.message_bytes).saturating_add(header.payload_len);
        let deflated = header.deflated || self.has(DEFLATED);
        let admitted =
            if deflated { limits.admit_deflated(message_bytes) } else { limits.admit(message_bytes) };
        if !admitted {
            return Err(Violation::MessageTooBig);
        }
        *at += header.len;
        self.message_bytes = u32::try_from(message_bytes).unwrap_or(u32::MAX);
        self.frame_remaining = header.payload_len;
        self.mask = header.mask;
        self.bits |= IN_FRAME;
        self.bits |= match header.opcode {
            1 => TEXT,
            2 => BINARY,
            _ => 0,
        };
        if header.fin {
            self.bits |= LAST_FRAME;
        }
        if header.deflated {
            self.bits |= DEFLATED;
        }
        Ok(())
    }

    /// What has come of the current frame's payload. `None` if that is nothing worth telling.
    fn take_payload(&mut self, input: &mut [u8], at: &mut usize) -> Result<Option<Item>, Violation> {
        let available = input.len() - *at;
        let len =
            usize::try_from(self.frame_remaining).map_or(available, |remaining| remaining.min(available));
        self.frame_remaining -= len as u64;
        let ends_frame = self.frame_remaining == 0;
        let (first, last) = (!self.has(DELIVERED), ends_frame && self.has(LAST_FRAME));
        let kind = if self.has(TEXT) { Kind::Text } else { Kind::Binary };
        let deflated = self.has(DEFLATED);
        let payload = *at..*at + len;
        *at = payload.end;
        // Compressed text is validated as it is inflated.
        let content = if deflated { Kind::Binary } else { kind };
        self.unmask_validate(&mut input[payload.clone()], content, first && last)?;
        self.mask = self.mask.rotate_right(8 * (len as u32 & 3));
        if ends_frame {
            self.bits &= !IN_FRAME;
        }
        if last {
            if kind == Kind::Text && !first && self.utf8.finish().is_err() {
                return Err(Violation::InvalidUtf8);
            }
            self.bits &= SETTLED | CLOSE_SENT;
            self.message_bytes = 0;
            self.utf8 = Utf8::default();
            if first && !deflated {
                return Ok(Some(Item::Message { kind, payload }));
            }
        } else if len == 0 {
            return Ok(None);
        }
        if !last {
            self.bits |= DELIVERED;
        }
        Ok(Some(match deflated {
            true => Item::Deflated { kind, payload, first, last },
            false => Item::Piece { kind, payload, first, last },
        }))
    }

    fn unmask_validate(&mut self, bytes: &mut [u8], kind: Kind, whole: bool) -> Result<(), Violation> {
        let mask = self.mask.to_le_bytes();
        let valid = match (kind, self.role()) {
            (Kind::Text, Role::Server) if whole => simd::unmask_validate_whole(bytes, mask, 0),
            (Kind::Text, Role::Server) => self.utf8.unmask_validate(bytes, mask, 0).is_ok(),
            (Kind::Text, Role::Client) => {
                self.utf8.validate(bytes).is_ok() && (!whole || self.utf8.finish().is_ok())
            }
            (Kind::Binary, Role::Server) => {
                simd::unmask(bytes, mask, 0);
                true
            }
            (Kind::Binary, Role::Client) => true,
        };
        if valid { Ok(()) } else { Err(Violation::InvalidUtf8) }
    }

    /// A control frame that lies whole in `input`.
    fn take_control(&mut self, header: Header, input: &mut [u8], at: &mut usize) -> Result<Item, Violation> {
        let start = *at + header.len;
        let payload = start..start + header.payload_len as usize; // at most 125
        *at = payload.end;
        let bytes = &mut input[payload.clone()];
        if self.role() == Role::Server {
            simd::unmask(bytes, header.mask.to_le_bytes(), 0);
        }
        match header.opcode {
            9 => return Ok(Item::Ping { payload }),
            10 => return Ok(Item::Pong { payload }),
            _ => {}
        }
        let code = match *bytes {
            [] => None,
            [_] => return Err(Violation::CloseBodyTruncated),
            [high, low, ref reason @ ..] => {
                let code = CloseCode(u16::from_be_bytes([high, low]));
                if !code.is_valid_on_wire() {
                    return Err(Violation::CloseCodeInvalid);
                }
                let mut utf8 = Utf8::default();
                if utf8.validate(reason).is_err() || utf8.finish().is_err() {
                    return Err(Violation::CloseReasonNotUtf8);
                }
                Some(code)
            }
        };
        *at = input.len();
        self.bits |= INPUT_ENDED | CLOSE_TAKEN;
        let reason = if code.is_some() { payload.start + 2..payload.end } else { payload };
        Ok(Item::Close { code, reason })
    }

    #[inline(always)] // as `decode_others`
    fn end_input(&mut self, violation: Violation, input: &[u8], at: &mut usize) -> Violation {
        self.bits |= INPUT_ENDED;
        *at = input.len();
        violation
    }

    #[inline]
    const fn has(&self, bits: u32) -> bool {
        self.bits & bits != 0
    }
}

/// Unmasks a whole message in place. Whether it is what its kind demands.
#[inline]
fn unmask_whole(bytes: &mut [u8], kind: Kind, mask: [u8; 4]) -> bool {
    match kind {
        Kind::Text => simd::unmask_validate_whole(bytes, mask, 0),
        Kind::Binary => {
            simd::unmask(bytes, mask, 0);
            true
        }
    }
}

#[derive(Clone, Copy)]
struct Header {
    len: usize,
    fin: bool,
    opcode: u8,
    deflated: bool,
    payload_len: u64,
    /// 0 if there is none.
    mask: u32,
}
