#![allow(
    unsafe_code,
    reason = "text that the decoder has validated is handed out as str without a second pass"
)]
//! From validated bytes to `str`. The one contract: the bytes are all of a text message whose last
//! part [`Session::decode`](super::Session::decode) or
//! [`Inflating::step`](super::deflate::Inflating::step) has handed out.

/// `bytes` as text, without looking at them again.
#[inline]
pub(crate) fn validated(bytes: &[u8]) -> &str {
    debug_assert!(std::str::from_utf8(bytes).is_ok());
    // SAFETY: the callers pass the payload of an `Item::Message` of kind text, or the joined pieces
    // of one up to `last`, or all steps of an `Inflating` of kind text; `Session::decode` and
    // `Inflating::step` validate every byte of them, and that the last character is complete.
    unsafe { std::str::from_utf8_unchecked(bytes) }
}
