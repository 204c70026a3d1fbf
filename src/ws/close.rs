//! Why connections end: close codes, and the rules a peer can break.
//!
//! The one place that maps a [`Violation`] to its close code.

use std::fmt;

/// A status code of a Close frame (RFC 6455 §7.4).
///
/// ```
/// use ringwire::ws::CloseCode;
/// assert!(CloseCode::NORMAL.is_valid_on_wire());
/// assert!(CloseCode(4321).is_valid_on_wire());
/// assert!(!CloseCode(1006).is_valid_on_wire());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CloseCode(pub u16);

impl CloseCode {
    /// The purpose of the connection is fulfilled.
    pub const NORMAL: Self = Self(1000);
    /// The server is going down, or the browser left the page.
    pub const GOING_AWAY: Self = Self(1001);
    /// The peer broke the protocol.
    pub const PROTOCOL_ERROR: Self = Self(1002);
    /// A kind of data that the endpoint does not take (text where only binary is understood).
    pub const UNSUPPORTED_DATA: Self = Self(1003);
    /// Data that does not fit its kind: text that is not UTF-8.
    pub const INVALID_PAYLOAD: Self = Self(1007);
    /// The message breaks a policy of the endpoint.
    pub const POLICY_VIOLATION: Self = Self(1008);
    /// The message is larger than the endpoint takes.
    pub const MESSAGE_TOO_BIG: Self = Self(1009);
    /// The client needs an extension that the server did not agree to.
    pub const MANDATORY_EXTENSION: Self = Self(1010);
    /// Something unexpected happened at the endpoint.
    pub const INTERNAL_ERROR: Self = Self(1011);
    /// The service restarts; reconnect after a random delay.
    pub const SERVICE_RESTART: Self = Self(1012);
    /// The service is overloaded; reconnect later.
    pub const TRY_AGAIN_LATER: Self = Self(1013);

    /// Whether a Close frame may carry this code: 1000–1003, 1007–1014 (as registered at IANA) and
    /// 3000–4999. 1004, 1005, 1006 and 1015 are never sent (RFC 6455 §7.4.1).
    pub const fn is_valid_on_wire(self) -> bool {
        matches!(self.0, 1000..=1003 | 1007..=1014 | 3000..=4999)
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A rule of RFC 6455 that the peer broke. The connection is to be failed with
/// [`close_code`](Self::close_code); its text fits a Close frame's reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Violation {
    /// RSV1–3 set without an extension that defines them there (§5.2; RFC 7692 §6).
    ReservedBits,
    /// Opcode 3–7 or 11–15 (§5.2).
    UnknownOpcode,
    /// A client's frame without a mask (§5.1).
    Unmasked,
    /// A server's frame with a mask (§5.1).
    Masked,
    /// A control frame without FIN (§5.5).
    FragmentedControl,
    /// A control frame of more than 125 bytes (§5.5).
    ControlTooLong,
    /// A length in a longer form than it needs (§5.2).
    LengthNotMinimal,
    /// A 64-bit length with its most significant bit set (§5.2).
    LengthOutOfRange,
    /// A continuation frame outside of a fragmented message (§5.4).
    UnexpectedContinuation,
    /// A new text or binary frame inside a fragmented message (§5.4).
    MessageInsideMessage,
    /// Text that is not UTF-8 (§8.1).
    InvalidUtf8,
    /// A message beyond [`DecodeLimits::max_message_bytes`](crate::ws::DecodeLimits).
    MessageTooBig,
    /// A compressed message that is no DEFLATE stream, or not all of one (RFC 7692 §7.2.2).
    CorruptDeflate,
    /// A message that inflates beyond [`DeflateConfig::max_ratio`](crate::DeflateConfig::max_ratio).
    DeflateRatio,
    /// A Close frame with a body of one byte (§5.5.1).
    CloseBodyTruncated,
    /// A Close frame with a code that may not be sent (§7.4).
    CloseCodeInvalid,
    /// A Close frame whose reason is not UTF-8 (§5.5.1).
    CloseReasonNotUtf8,
}

impl Violation {
    /// All of them, in order.
    pub const ALL: [Self; 17] = [
        Self::ReservedBits,
        Self::UnknownOpcode,
        Self::Unmasked,
        Self::Masked,
        Self::FragmentedControl,
        Self::ControlTooLong,
        Self::LengthNotMinimal,
        Self::LengthOutOfRange,
        Self::UnexpectedContinuation,
        Self::MessageInsideMessage,
        Self::InvalidUtf8,
        Self::MessageTooBig,
        Self::CorruptDeflate,
        Self::DeflateRatio,
        Self::CloseBodyTruncated,
        Self::CloseCodeInvalid,
        Self::CloseReasonNotUtf8,
    ];

    /// The code to fail the connection with (RFC 6455 §7.4.1).
    pub const fn close_code(self) -> CloseCode {
        match self {
            Self::InvalidUtf8 | Self::CloseReasonNotUtf8 | Self::CorruptDeflate => CloseCode::INVALID_PAYLOAD,
            Self::MessageTooBig | Self::DeflateRatio => CloseCode::MESSAGE_TOO_BIG,
            Self::ReservedBits
            | Self::UnknownOpcode
            | Self::Unmasked
            | Self::Masked
            | Self::FragmentedControl
            | Self::ControlTooLong
            | Self::LengthNotMinimal
            | Self::LengthOutOfRange
            | Self::UnexpectedContinuation
            | Self::MessageInsideMessage
            | Self::CloseBodyTruncated
            | Self::CloseCodeInvalid => CloseCode::PROTOCOL_ERROR,
        }
    }

    /// What the peer did wrong, short enough for a Close frame's reason.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ReservedBits => "reserved bits set without an extension",
            Self::UnknownOpcode => "unknown opcode",
            Self::Unmasked => "client frame is not masked",
            Self::Masked => "server frame is masked",
            Self::FragmentedControl => "control frame is fragmented",
            Self::ControlTooLong => "control frame is longer than 125 bytes",
            Self::LengthNotMinimal => "frame length is not in its shortest form",
            Self::LengthOutOfRange => "frame length has its top bit set",
            Self::UnexpectedContinuation => "continuation without a message to continue",
            Self::MessageInsideMessage => "new message inside a fragmented message",
            Self::InvalidUtf8 => "text is not UTF-8",
            Self::MessageTooBig => "message is too big",
            Self::CorruptDeflate => "compressed message is corrupt",
            Self::DeflateRatio => "message inflates too much",
            Self::CloseBodyTruncated => "close body of one byte",
            Self::CloseCodeInvalid => "close code may not be sent",
            Self::CloseReasonNotUtf8 => "close reason is not UTF-8",
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::error::Error for Violation {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_on_the_wire() {
        let valid: Vec<u16> = (0..=u16::MAX).filter(|&code| CloseCode(code).is_valid_on_wire()).collect();
        let expected: Vec<u16> = (1000..=1003).chain(1007..=1014).chain(3000..=4999).collect();
        assert_eq!(valid, expected);
    }
}
