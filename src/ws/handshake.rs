//! The server's side of the opening handshake (RFC 6455 §4.2).
//!
//! [`evaluate`] judges a request head, cheapest doubt first, and before any handler of the user's
//! runs. What it lets through is an [`Offer`] to be answered by 101; the rest is a [`Refusal`].

use super::deflate::{DeflateAnswer, DeflateParams};
use super::extension::{self, Extension};
use super::origin;
use crate::config::{DeflateConfig, OriginPolicy};
use crate::http::{self, Body, Head, Headers, Response};
use base64::Engine as _;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use std::fmt;

/// Why an upgrade is refused. Answered through [`Response::from`]; the connection is closed after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The method is not GET.
    Method,
    /// HTTP/1.0.
    HttpVersion,
    /// No `Host`, or none that names a host.
    Host,
    /// `Upgrade` does not list `websocket`.
    NoUpgrade,
    /// `Connection` does not list `upgrade`.
    NoConnectionUpgrade,
    /// A body follows the head.
    Body,
    /// `Sec-WebSocket-Version` is missing or not 13.
    Version,
    /// `Sec-WebSocket-Version` stands more than once.
    VersionRepeated,
    /// `Sec-WebSocket-Key` is missing, repeated or not 16 bytes in base64.
    Key,
    /// `Sec-WebSocket-Protocol` is not a list of tokens.
    Protocols,
    /// `Sec-WebSocket-Extensions` does not follow its grammar (RFC 6455 §9.1).
    Extensions,
    /// The page's origin is not let in.
    OriginForeign,
    /// There is no `Origin`, and the policy requires one.
    OriginMissing,
    /// `Origin` stands more than once.
    OriginRepeated,
}

impl Refusal {
    /// The status to answer with.
    pub const fn status(self) -> u16 {
        match self {
            Self::Version => 426,
            Self::OriginForeign | Self::OriginMissing => 403,
            _ => 400,
        }
    }

    /// What is wrong and what to do about it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Method => "A WebSocket handshake is a GET request.",
            Self::HttpVersion => "A WebSocket handshake needs HTTP/1.1; a proxy may have spoken HTTP/1.0.",
            Self::Host => "The Host header is missing.",
            Self::NoUpgrade => "The Upgrade header does not list `websocket`; a proxy may have removed it.",
            Self::NoConnectionUpgrade => {
                "The Connection header does not list `Upgrade`; a proxy may have removed it."
            }
            Self::Body => "A WebSocket handshake has no body.",
            Self::Version => "This server speaks Sec-WebSocket-Version 13 only.",
            Self::VersionRepeated => "Sec-WebSocket-Version is repeated. Send one.",
            Self::Key => "Sec-WebSocket-Key must stand once and be 16 bytes in base64.",
            Self::Protocols => "Sec-WebSocket-Protocol is not a list of tokens.",
            Self::Extensions => "Sec-WebSocket-Extensions is malformed.",
            Self::OriginForeign => "Pages of this origin may not connect. The server's owner can allow it.",
            Self::OriginMissing => "The Origin header is missing and this server requires it.",
            Self::OriginRepeated => "The Origin header is repeated. Send one.",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::error::Error for Refusal {}

impl From<Refusal> for Response {
    fn from(refusal: Refusal) -> Self {
        let response = Response::text(refusal.status(), refusal.as_str()).closing();
        match refusal {
            Refusal::Version => {
                response.managed_header("Sec-WebSocket-Version", "13").managed_header("Upgrade", "websocket")
            }
            _ => response,
        }
    }
}

/// Whether a request asks for a WebSocket, well or badly: then [`evaluate`] says which. `Upgrade` in
/// HTTP/1.0 is to be ignored (RFC 9110 §7.8), such a request is a plain one.
pub fn is_upgrade(head: &Head<'_>) -> bool {
    head.minor_version() >= 1 && head.has_token("upgrade", "websocket")
}

/// Judges an upgrade request.
///
/// ```
/// use ringwire::OriginPolicy;
/// use ringwire::http::{HEADER_SLOT, Headers, parse_request};
/// use ringwire::ws::handshake::evaluate;
///
/// let request = b"GET /chat HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\n\
///     Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
///     Sec-WebSocket-Protocol: chat, superchat\r\nSec-WebSocket-Version: 13\r\n\r\n";
/// let mut slots = [HEADER_SLOT; 16];
/// let head = parse_request(request, &mut slots)?;
/// let offer = evaluate(&head, &OriginPolicy::SameOrigin)?;
/// assert_eq!(offer.accept_key(), *b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="); // RFC 6455 §1.3
/// assert_eq!(offer.protocols().next(), Some("chat"));
///
/// let mut out = Vec::new();
/// offer.write_response(&mut out, Some("chat"), &Headers::default())?;
/// assert!(out.starts_with(b"HTTP/1.1 101 Switching Protocols\r\n"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// The first [`Refusal`].
pub fn evaluate<'a>(head: &Head<'a>, origin_policy: &OriginPolicy) -> Result<Offer<'a>, Refusal> {
    let require = |holds: bool, refusal: Refusal| if holds { Ok(()) } else { Err(refusal) };
    require(head.method() == "GET", Refusal::Method)?;
    require(head.minor_version() >= 1, Refusal::HttpVersion)?;
    require(head.body() == Body::None, Refusal::Body)?;
    let host = head.authority().ok_or(Refusal::Host)?;
    require(head.has_token("upgrade", "websocket"), Refusal::NoUpgrade)?;
    require(head.has_token("connection", "upgrade"), Refusal::NoConnectionUpgrade)?;
    let version = head.single("sec-websocket-version").map_err(|_| Refusal::VersionRepeated)?;
    require(version == Some(b"13"), Refusal::Version)?;
    let origin = head.single("origin").map_err(|_| Refusal::OriginRepeated)?;
    origin::check(origin, host, origin_policy)?;
    let key = head.single("sec-websocket-key").ok().flatten().and_then(valid_key).ok_or(Refusal::Key)?;
    let offer = Offer { head: *head, key, deflate: None };
    let protocols = head.values("sec-websocket-protocol").flat_map(|value| value.split(|&byte| byte == b','));
    for protocol in protocols.map(<[u8]>::trim_ascii).filter(|element| !element.is_empty()) {
        require(protocol.iter().all(|&byte| http::is_token_byte(byte)), Refusal::Protocols)?;
    }
    for value in head.values("sec-websocket-extensions") {
        let value = std::str::from_utf8(value).map_err(|_| Refusal::Extensions)?;
        require(extension::parse(value).all(|extension| extension.is_ok()), Refusal::Extensions)?;
    }
    Ok(offer)
}

/// A valid upgrade request, waiting for its answer.
#[derive(Clone, Copy, Debug)]
pub struct Offer<'a> {
    head: Head<'a>,
    key: &'a [u8; KEY_CHARS],
    deflate: Option<DeflateAnswer>,
}

impl<'a> Offer<'a> {
    /// The request.
    pub fn head(&self) -> &Head<'a> {
        &self.head
    }

    /// The offered subprotocols, the client's favourite first (RFC 6455 §4.1).
    pub fn protocols(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let head = self.head;
        head.headers()
            .filter(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-protocol"))
            .filter_map(|(_, value)| std::str::from_utf8(value).ok())
            .flat_map(|value| value.split(','))
            .map(str::trim_ascii)
            .filter(|protocol| !protocol.is_empty())
    }

    /// The offered extensions, in order of preference.
    pub fn extensions(&self) -> impl Iterator<Item = Extension<'a>> + use<'a> {
        let head = self.head;
        head.headers()
            .filter(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-extensions"))
            .filter_map(|(_, value)| std::str::from_utf8(value).ok())
            .flat_map(|value| extension::parse(value).filter_map(Result::ok))
    }

    /// Agrees upon permessage-deflate, if the client offers it in a way that can be served: what the
    /// [session](super::Session::agree_deflate) is to be told, and the response will say. Without
    /// `takeover` neither end keeps its window, whatever the configuration says.
    pub fn agree_deflate(&mut self, config: &DeflateConfig, takeover: bool) -> Option<DeflateParams> {
        self.deflate = DeflateAnswer::choose(self.extensions(), config, takeover);
        self.deflate()
    }

    /// What [`agree_deflate`](Self::agree_deflate) agreed upon.
    pub fn deflate(&self) -> Option<DeflateParams> {
        self.deflate.map(DeflateAnswer::params)
    }

    /// The value of `Sec-WebSocket-Accept` (RFC 6455 §4.2.2).
    pub fn accept_key(&self) -> [u8; ACCEPT_CHARS] {
        accept_key(self.key)
    }

    /// Appends the 101 response to `out`. `subprotocol` is one of [`protocols`](Self::protocols) or
    /// none; `extra` are the user's header fields, as cookies.
    ///
    /// # Errors
    /// [`NotOffered`] if the client did not offer `subprotocol`; nothing is written then. The client
    /// would fail the connection (RFC 6455 §4.1).
    pub fn write_response(
        &self,
        out: &mut Vec<u8>,
        subprotocol: Option<&str>,
        extra: &Headers,
    ) -> Result<(), NotOffered> {
        if subprotocol.is_some_and(|chosen| !self.protocols().any(|offered| offered == chosen)) {
            return Err(NotOffered);
        }
        out.extend_from_slice(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
              Sec-WebSocket-Accept: ",
        );
        out.extend_from_slice(&self.accept_key());
        out.extend_from_slice(b"\r\n");
        if let Some(subprotocol) = subprotocol {
            http::encode_field(out, "Sec-WebSocket-Protocol", subprotocol);
        }
        if let Some(deflate) = self.deflate {
            http::encode_field(out, "Sec-WebSocket-Extensions", &deflate.to_string());
        }
        extra.encode(out);
        out.extend_from_slice(b"\r\n");
        Ok(())
    }
}

/// The handler chose a subprotocol that the client did not offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotOffered;

impl fmt::Display for NotOffered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the client did not offer this subprotocol: choose one of Offer::protocols, or none")
    }
}

impl std::error::Error for NotOffered {}

/// Characters of 16 bytes in base64.
pub(super) const KEY_CHARS: usize = 24;
/// Characters of a SHA-1 in base64.
pub(super) const ACCEPT_CHARS: usize = 28;

/// Some clients draw 22 random characters instead of encoding 16 random bytes: the bits that their
/// last one has too many do no harm.
const KEY_BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

fn valid_key(value: &[u8]) -> Option<&[u8; KEY_CHARS]> {
    let key = value.try_into().ok()?;
    let mut nonce = [0; 18];
    (KEY_BASE64.decode_slice(key, &mut nonce) == Ok(16)).then_some(key)
}

pub(super) fn accept_key(key: &[u8; KEY_CHARS]) -> [u8; ACCEPT_CHARS] {
    use sha1::Digest as _;
    const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"; // RFC 6455 §1.3
    let digest = sha1::Sha1::new().chain_update(key).chain_update(GUID).finalize();
    let mut accept = [0; ACCEPT_CHARS];
    let written = STANDARD.encode_slice(digest, &mut accept);
    debug_assert_eq!(written, Ok(ACCEPT_CHARS));
    accept
}
