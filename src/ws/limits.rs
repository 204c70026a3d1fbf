//! How much one message may be. What to do about one that is more, the [`Session`](super::Session) knows.

use super::frame::MAX_CONTROL_PAYLOAD;

/// Bounds on what [`Session::decode`](super::Session::decode) takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeLimits {
    /// Bytes of one message, all its fragments together. A frame header that declares more is
    /// [`MessageTooBig`](super::Violation::MessageTooBig).
    pub max_message_bytes: u32,
    /// The pieces go to a user who takes messages as streams: their size is not limited.
    pub stream: bool,
}

impl Default for DecodeLimits {
    /// 1 MiB, not streaming.
    fn default() -> Self {
        Self { max_message_bytes: 1 << 20, stream: false }
    }
}

impl DecodeLimits {
    /// Up to so many bytes a message with the short length form may have.
    #[inline]
    pub(super) fn short_bytes(&self) -> usize {
        if self.stream {
            MAX_CONTROL_PAYLOAD
        } else {
            MAX_CONTROL_PAYLOAD.min(self.max_message_bytes as usize)
        }
    }

    #[inline]
    pub(super) const fn admit(&self, bytes: u64) -> bool {
        bytes <= self.max_message_bytes as u64 || self.stream
    }

    /// What counts is a message's inflated size; compressed it may be larger by up to an eighth.
    pub(super) const fn admit_deflated(&self, bytes: u64) -> bool {
        let max = self.max_message_bytes as u64;
        self.admit(bytes.saturating_sub(max / 8 + 64))
    }
}
