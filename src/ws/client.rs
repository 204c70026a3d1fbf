//! The client's side of the opening handshake (RFC 6455 §4.1).
//!
//! Randomness is an input: the caller draws the 16 bytes of the key.

use super::deflate::{AnswerError, DeflateOffer, DeflateParams, PERMESSAGE_DEFLATE};
use super::extension::{self, Extension};
use super::handshake::{ACCEPT_CHARS, KEY_CHARS, accept_key};
use crate::http::{self, HEADER_SLOT, HeadError, HeadScanner, Headers, InvalidHeader, MAX_HEADERS};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::fmt;

/// Bytes of a response head that are waited for.
const MAX_RESPONSE_HEAD_BYTES: u32 = 16 << 10;

/// A handshake from the client's end: write the request, then check what comes back.
///
/// ```
/// use ringwire::ws::client::ClientHandshake;
///
/// let mut handshake = ClientHandshake::new("server.example.com", "/chat", *b"the sample nonce")?;
/// let mut request = Vec::new();
/// handshake.write_request(&mut request);
/// let response = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
///     Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
/// let established = handshake.check_response(response)?.expect("the head is whole");
/// assert_eq!(established.consumed, response.len());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct ClientHandshake {
    host: String,
    path: String,
    key: [u8; KEY_CHARS],
    protocols: Vec<String>,
    origin: Option<String>,
    deflate: Option<DeflateOffer>,
    headers: Headers,
    scanner: HeadScanner,
}

impl ClientHandshake {
    /// A handshake with `host[:port]` for `path`, which begins with `/` and may have a query. `key`
    /// is 16 random bytes, fresh for each connection.
    ///
    /// # Errors
    /// [`InvalidRequest`] if host or path cannot stand in a request.
    pub fn new(host: &str, path: &str, key: [u8; 16]) -> Result<Self, InvalidRequest> {
        if !http::is_authority(host.as_bytes()) {
            return Err(InvalidRequest::Host);
        }
        if !path.starts_with('/') || !path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
            return Err(InvalidRequest::Path);
        }
        let mut encoded = [0; KEY_CHARS];
        let written = STANDARD.encode_slice(key, &mut encoded);
        debug_assert_eq!(written, Ok(KEY_CHARS));
        Ok(Self {
            host: host.to_owned(),
            path: path.to_owned(),
            key: encoded,
            protocols: Vec::new(),
            origin: None,
            deflate: None,
            headers: Headers::default(),
            scanner: HeadScanner::default(),
        })
    }

    /// Offers a subprotocol, after those offered before.
    ///
    /// # Errors
    /// [`InvalidRequest::Protocol`] if it is not a token, or is offered already.
    pub fn protocol(mut self, protocol: &str) -> Result<Self, InvalidRequest> {
        if !http::is_token(protocol) || self.protocols.iter().any(|other| other == protocol) {
            return Err(InvalidRequest::Protocol);
        }
        self.protocols.push(protocol.to_owned());
        Ok(self)
    }

    /// Sends `Origin`, as a browser would.
    ///
    /// # Errors
    /// [`InvalidRequest::Origin`] if it is not printable ASCII without spaces.
    pub fn origin(mut self, origin: &str) -> Result<Self, InvalidRequest> {
        if origin.is_empty() || !origin.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(InvalidRequest::Origin);
        }
        self.origin = Some(origin.to_owned());
        Ok(self)
    }

    /// Offers permessage-deflate (RFC 7692).
    pub fn deflate(mut self, offer: DeflateOffer) -> Self {
        self.deflate = Some(offer);
        self
    }

    /// Sends a header field of the caller's, as `Cookie` or `Authorization`.
    ///
    /// # Errors
    /// [`InvalidRequest::Header`]; `Host` and `Origin` have their own place.
    pub fn header(mut self, name: String, value: String) -> Result<Self, InvalidRequest> {
        if name.eq_ignore_ascii_case("host") || name.eq_ignore_ascii_case("origin") {
            return Err(InvalidRequest::Header(InvalidHeader::Managed));
        }
        self.headers.push(name, value).map_err(InvalidRequest::Header)?;
        Ok(self)
    }

    /// Appends the request to `out`.
    pub fn write_request(&self, out: &mut Vec<u8>) {
        for part in ["GET ", &self.path, " HTTP/1.1\r\n"] {
            out.extend_from_slice(part.as_bytes());
        }
        http::encode_field(out, "Host", &self.host);
        out.extend_from_slice(b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: ");
        out.extend_from_slice(&self.key);
        out.extend_from_slice(b"\r\nSec-WebSocket-Version: 13\r\n");
        if !self.protocols.is_empty() {
            http::encode_field(out, "Sec-WebSocket-Protocol", &self.protocols.join(", "));
        }
        if let Some(origin) = &self.origin {
            http::encode_field(out, "Origin", origin);
        }
        if let Some(offer) = &self.deflate {
            http::encode_field(out, "Sec-WebSocket-Extensions", &offer.to_string());
        }
        self.headers.encode(out);
        out.extend_from_slice(b"\r\n");
    }

    /// Checks what has come of the response; `buf` begins with its first byte. `None` if more is
    /// needed: call again with the same bytes and more.
    ///
    /// # Errors
    /// [`ClientError`]: the connection is to be closed.
    pub fn check_response(&mut self, buf: &[u8]) -> Result<Option<Established>, ClientError> {
        let Some(consumed) =
            self.scanner.scan(buf, MAX_RESPONSE_HEAD_BYTES).map_err(ClientError::Malformed)?
        else {
            return Ok(None);
        };
        let mut slots = [HEADER_SLOT; MAX_HEADERS];
        let mut response = httparse::Response::new(&mut slots);
        match response.parse(&buf[..consumed]) {
            Ok(httparse::Status::Complete(len)) if len == consumed => {}
            Err(httparse::Error::TooManyHeaders) => {
                return Err(ClientError::Malformed(HeadError::TooManyHeaders));
            }
            _ => return Err(ClientError::Malformed(HeadError::HeaderLine)),
        }
        let (subprotocol, deflate) = self.judge(&response)?;
        Ok(Some(Established { consumed, subprotocol, deflate }))
    }

    fn judge(
        &self,
        response: &httparse::Response<'_, '_>,
    ) -> Result<(Option<String>, Option<DeflateParams>), ClientError> {
        let values = |name: &'static str| {
            let headers = response.headers.iter();
            headers.filter(move |header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
        };
        let single = |name: &'static str| {
            let mut values = values(name);
            values.next().filter(|_| values.next().is_none())
        };
        let has_token = |name: &'static str, token: &str| {
            values(name)
                .flat_map(|value| value.split(|&byte| byte == b','))
                .any(|element| element.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
        };
        match response.code {
            Some(101) => {}
            Some(status @ 300..=399) => {
                let location = single("location").and_then(|value| std::str::from_utf8(value).ok());
                return Err(ClientError::Redirect { status, location: location.map(str::to_owned) });
            }
            status => return Err(ClientError::Status(status.unwrap_or(0))),
        }
        if !has_token("upgrade", "websocket") || !has_token("connection", "upgrade") {
            return Err(ClientError::NotUpgraded);
        }
        let expected: [u8; ACCEPT_CHARS] = accept_key(&self.key);
        if single("sec-websocket-accept") != Some(&expected) {
            return Err(ClientError::Accept);
        }
        let mut deflate = None;
        for value in values("sec-websocket-extensions") {
            let text = std::str::from_utf8(value).map_err(|_| ClientError::Extension)?;
            for extension in extension::parse(text) {
                let extension = extension.map_err(|_| ClientError::Extension)?;
                if deflate.replace(self.settle(&extension)?).is_some() {
                    return Err(ClientError::Extension); // offered once
                }
            }
        }
        if values("sec-websocket-protocol").next().is_none() {
            return Ok((None, deflate));
        }
        let chosen = single("sec-websocket-protocol").ok_or(ClientError::Subprotocol)?;
        let offered = self.protocols.iter().find(|offered| offered.as_bytes() == chosen);
        Ok((Some(offered.ok_or(ClientError::Subprotocol)?.clone()), deflate))
    }

    fn settle(&self, extension: &Extension<'_>) -> Result<DeflateParams, ClientError> {
        let offer = self.deflate.filter(|_| extension.name.eq_ignore_ascii_case(PERMESSAGE_DEFLATE));
        offer.ok_or(ClientError::Extension)?.settle(extension).map_err(ClientError::Deflate)
    }
}

/// The connection is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Established {
    /// Bytes of the response head; what follows them are frames.
    pub consumed: usize,
    /// What the server chose of what was offered.
    pub subprotocol: Option<String>,
    /// What the [session](super::Session::agree_deflate) is to be told: `None` if the server does not
    /// compress.
    pub deflate: Option<DeflateParams>,
}

/// The caller's part of the request cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidRequest {
    /// Not `host` or `host:port`.
    Host,
    /// Does not begin with `/`, or has characters that must be percent-encoded.
    Path,
    /// Not a token, or offered twice.
    Protocol,
    /// Not a serialized origin.
    Origin,
    /// Not a header field.
    Header(InvalidHeader),
}

impl fmt::Display for InvalidRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("the host is malformed: give `host` or `host:port`"),
            Self::Path => f.write_str("the path is malformed: begin with `/` and percent-encode the rest"),
            Self::Protocol => f.write_str("the subprotocol is not a token, or is offered twice"),
            Self::Origin => f.write_str("the origin is malformed: give `scheme://host[:port]`"),
            Self::Header(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for InvalidRequest {}

/// The server did not open a WebSocket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientError {
    /// The response is not HTTP as it should be.
    Malformed(HeadError),
    /// The server sends elsewhere; whether to follow is the caller's to decide.
    Redirect {
        /// 300–399.
        status: u16,
        /// Where to.
        location: Option<String>,
    },
    /// The server refuses; its body may say why.
    Status(u16),
    /// 101 without `Upgrade: websocket` and `Connection: Upgrade`.
    NotUpgraded,
    /// `Sec-WebSocket-Accept` does not answer our key: no WebSocket server, or a stale cache.
    Accept,
    /// The server chose a subprotocol that was not offered.
    Subprotocol,
    /// The server uses an extension that was not offered, or repeats one.
    Extension,
    /// The server's answer to the offer of permessage-deflate does not follow from it.
    Deflate(AnswerError),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(_) => f.write_str("the server's response is malformed: is this an HTTP port?"),
            Self::Redirect { status, location: Some(location) } => {
                write!(f, "the server redirects ({status}): connect to {location} if you trust it")
            }
            Self::Redirect { status, location: None } => {
                write!(f, "the server redirects ({status}) to nowhere")
            }
            Self::Status(status) => {
                write!(f, "the server refused with {status} {}: check the path", http::reason_phrase(*status))
            }
            Self::NotUpgraded => {
                f.write_str("the server answered 101 without upgrading: a proxy is in between")
            }
            Self::Accept => f.write_str("Sec-WebSocket-Accept is wrong: this is no WebSocket server"),
            Self::Subprotocol => f.write_str("the server chose a subprotocol that was not offered"),
            Self::Extension => {
                f.write_str("the server uses an extension that was not offered, or repeats one")
            }
            Self::Deflate(error) => write!(f, "the server misunderstands permessage-deflate: {error}"),
        }
    }
}

impl std::error::Error for ClientError {}
