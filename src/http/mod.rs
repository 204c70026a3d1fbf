//! Request heads, borrowed from the receive buffer, and plain responses for what is no upgrade.
//!
//! HTTP/1.1 (RFC 9110, RFC 9112) as far as an endpoint needs it that serves health checks, metrics
//! and a page beside its WebSockets. Sans-IO: slices in, bytes out.

mod chunk;
mod event;
mod head;
mod proxy;
mod response;
mod router;
mod scan;

pub use event::Event;
pub use head::{Body, HEADER_SLOT, Head, HeaderSlot, MAX_HEADERS, parse_request};
pub use proxy::{InvalidProxyHeader, ProxyHeader, parse_proxy};
pub use response::{Headers, InvalidHeader, Response, reason_phrase};
pub use router::{Found, RouteError, Router, percent_decode};
pub use scan::HeadScanner;

pub(crate) use chunk::{CHUNK_OVERHEAD_BYTES, LAST_CHUNK, chunk_content, write_chunk};
pub(crate) use head::is_authority;
pub(crate) use response::encode_field;

use std::fmt;

/// Why a request head is not served. The peer's fault in every case; the connection is closed after
/// the answer, because where the next request begins is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HeadError {
    /// More bytes than the limit without an end of the head.
    TooLarge,
    /// More header fields than the limit.
    TooManyHeaders,
    /// A line ends without CR (RFC 9112 §2.2).
    BareLineFeed,
    /// The request line is not `method target version`.
    RequestLine,
    /// A header line is not `name: value`, or is folded.
    HeaderLine,
    /// Not HTTP/1.0 or HTTP/1.1.
    Version,
    /// HTTP/1.1 without `Host` (RFC 9112 §3.2).
    HostMissing,
    /// More than one `Host`.
    HostRepeated,
    /// `Host` is not `host[:port]`.
    HostInvalid,
    /// `Content-Length` is repeated or no number.
    ContentLengthInvalid,
    /// `Content-Length` and `Transfer-Encoding` together: request smuggling (RFC 9112 §6.1).
    LengthAndEncoding,
    /// `Transfer-Encoding` in HTTP/1.0, where it has no meaning.
    EncodingInHttp10,
    /// A `Transfer-Encoding`; bodies need a `Content-Length` here.
    EncodingUnsupported,
}

impl HeadError {
    /// The status to answer with.
    pub const fn status(self) -> u16 {
        match self {
            Self::TooLarge | Self::TooManyHeaders => 431,
            Self::Version => 505,
            Self::EncodingUnsupported => 501,
            Self::BareLineFeed
            | Self::RequestLine
            | Self::HeaderLine
            | Self::HostMissing
            | Self::HostRepeated
            | Self::HostInvalid
            | Self::ContentLengthInvalid
            | Self::LengthAndEncoding
            | Self::EncodingInHttp10 => 400,
        }
    }

    /// What is wrong and what to send instead.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TooLarge => "The request head is too large. Send fewer or shorter header fields.",
            Self::TooManyHeaders => "The request has too many header fields. Send fewer.",
            Self::BareLineFeed => "A line of the request head ends in LF alone. End lines with CR LF.",
            Self::RequestLine => "The request line is malformed. Send `METHOD /path HTTP/1.1`.",
            Self::HeaderLine => "A header line is malformed. Send `Name: value`, each on one line.",
            Self::Version => "This server speaks HTTP/1.1 and HTTP/1.0 only.",
            Self::HostMissing => "The Host header is missing. HTTP/1.1 requires one.",
            Self::HostRepeated => "The Host header is repeated. Send one.",
            Self::HostInvalid => "The Host header is malformed. Send `host` or `host:port`.",
            Self::ContentLengthInvalid => "Content-Length is malformed or repeated. Send one number.",
            Self::LengthAndEncoding => "Content-Length and Transfer-Encoding exclude each other.",
            Self::EncodingInHttp10 => "HTTP/1.0 has no Transfer-Encoding. Send Content-Length.",
            Self::EncodingUnsupported => "Transfer-Encoding is not supported. Send Content-Length.",
        }
    }
}

impl fmt::Display for HeadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::error::Error for HeadError {}

impl From<HeadError> for Response {
    fn from(error: HeadError) -> Self {
        Self::text(error.status(), error.as_str()).closing()
    }
}

/// Whether `byte` may stand in a token (RFC 9110 §5.6.2).
pub(crate) const fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

/// Whether `text` is a token.
pub(crate) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(is_token_byte)
}
