//! One request head, parsed in place.
//!
//! [`Head`] borrows everything from the bytes it was parsed from. What a later reader would have to
//! trust is judged here once: `Host`, and whether and how a body follows.

use super::HeadError;

/// Room for one header field; [`HEADER_SLOT`] is an empty one.
pub type HeaderSlot<'b> = httparse::Header<'b>;

/// Fills an array of [`HeaderSlot`]s.
pub const HEADER_SLOT: HeaderSlot<'static> = httparse::EMPTY_HEADER;

/// Header fields that [`parse_request`] is ever given room for.
pub const MAX_HEADERS: usize = 128;

/// What follows the head (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// Nothing: the next byte begins the next request.
    None,
    /// This many bytes, at least one.
    Length(u64),
}

/// A request head. All text is borrowed from the receive buffer.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    method: &'a str,
    target: &'a str,
    minor: u8,
    headers: &'a [HeaderSlot<'a>],
    body: Body,
}

/// Parses `buf`, which must be exactly one head as [`HeadScanner`](super::HeadScanner) delimits it.
/// `slots` is room for the header fields; its length is their limit.
///
/// ```
/// use ringwire::http::{HEADER_SLOT, MAX_HEADERS, parse_request};
/// let mut slots = [HEADER_SLOT; MAX_HEADERS];
/// let head = parse_request(b"GET /chat?room=7 HTTP/1.1\r\nHost: example.org\r\n\r\n", &mut slots)?;
/// assert_eq!((head.method(), head.path(), head.query()), ("GET", "/chat", Some("room=7")));
/// assert_eq!(head.header("host"), Some("example.org"));
/// # Ok::<(), ringwire::http::HeadError>(())
/// ```
///
/// # Errors
/// See [`HeadError`]; each is answered with its status and the connection is closed.
pub fn parse_request<'h, 'b: 'h>(
    buf: &'b [u8],
    slots: &'h mut [HeaderSlot<'b>],
) -> Result<Head<'h>, HeadError> {
    let mut request = httparse::Request::new(slots);
    let status = request.parse(buf).map_err(|error| match error {
        httparse::Error::TooManyHeaders => HeadError::TooManyHeaders,
        httparse::Error::HeaderName | httparse::Error::HeaderValue => HeadError::HeaderLine,
        httparse::Error::Version => HeadError::Version,
        _ => HeadError::RequestLine,
    })?;
    // A head that ends elsewhere than the scanner found is two readings of one text.
    if status != httparse::Status::Complete(buf.len()) {
        return Err(HeadError::HeaderLine);
    }
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version) else {
        return Err(HeadError::RequestLine);
    };
    let mut head = Head { method, target, minor, headers: request.headers, body: Body::None };
    head.check_target()?;
    head.check_host()?;
    head.body = head.framing()?;
    Ok(head)
}

impl<'a> Head<'a> {
    /// The method, as sent: methods are case-sensitive (RFC 9110 §9.1).
    pub fn method(&self) -> &'a str {
        self.method
    }

    /// The request target, as sent.
    pub fn target(&self) -> &'a str {
        self.target
    }

    /// The target's path, not decoded: `/chat` of `/chat?room=7` and of `http://host/chat?room=7`.
    pub fn path(&self) -> &'a str {
        self.path_and_query().0
    }

    /// The target's query without its `?`, not decoded.
    pub fn query(&self) -> Option<&'a str> {
        self.path_and_query().1
    }

    /// The `x` of HTTP/1.x: 0 or 1.
    pub fn minor_version(&self) -> u8 {
        self.minor
    }

    /// `host[:port]` that was asked for: of an absolute target, else of `Host` (RFC 9112 §3.2.2).
    pub fn authority(&self) -> Option<&'a str> {
        match self.absolute() {
            Some((authority, _)) => Some(authority),
            None => self.header("host"),
        }
    }

    /// The first field of this name, compared without case. `None` if there is none or its value is
    /// not UTF-8; [`header_bytes`](Self::header_bytes) tells the two apart.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        std::str::from_utf8(self.header_bytes(name)?).ok()
    }

    /// The first field of this name, compared without case.
    pub fn header_bytes(&self, name: &str) -> Option<&'a [u8]> {
        self.values(name).next()
    }

    /// All values of the fields of this name, in order.
    pub fn values<'n>(&self, name: &'n str) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n> {
        self.headers().filter(move |(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// All fields, in order, names as sent.
    pub fn headers(&self) -> impl ExactSizeIterator<Item = (&'a str, &'a [u8])> + use<'a> {
        self.headers.iter().map(|header| (header.name, header.value))
    }

    /// The first cookie of this name (RFC 6265 §4.2), without quotes. Names are case-sensitive.
    pub fn cookie(&self, name: &str) -> Option<&'a str> {
        self.values("cookie")
            .filter_map(|value| std::str::from_utf8(value).ok())
            .flat_map(|value| value.split(';'))
            .filter_map(|pair| pair.split_once('='))
            .find(|(other, _)| other.trim() == name)
            .map(|(_, value)| value.trim())
            .map(|value| value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value))
    }

    /// Whether the comma-separated fields of this name list `token`, compared without case.
    pub fn has_token(&self, name: &str, token: &str) -> bool {
        self.values(name)
            .flat_map(|value| value.split(|&byte| byte == b','))
            .any(|element| element.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
    }

    /// Whether the peer expects the connection to stay for another request (RFC 9112 §9.3).
    pub fn keep_alive(&self) -> bool {
        let close = self.has_token("connection", "close");
        !close && (self.minor >= 1 || self.has_token("connection", "keep-alive"))
    }

    /// What follows the head.
    pub fn body(&self) -> Body {
        self.body
    }

    /// Bytes of the body that follows; 0 if none.
    pub fn content_length(&self) -> u64 {
        match self.body {
            Body::None => 0,
            Body::Length(bytes) => bytes,
        }
    }

    /// The one field of this name. `Err` if there are several.
    pub(crate) fn single(&self, name: &str) -> Result<Option<&'a [u8]>, Repeated> {
        let mut values = self.values(name);
        let first = values.next();
        if values.next().is_some() { Err(Repeated) } else { Ok(first) }
    }

    fn path_and_query(&self) -> (&'a str, Option<&'a str>) {
        let target = match self.absolute() {
            Some((_, "")) => return ("/", None),
            Some((_, rest)) => rest,
            None => self.target,
        };
        match target.split_once('?') {
            Some(("", query)) => ("/", Some(query)),
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        }
    }

    /// Authority and the rest of an absolute target.
    fn absolute(&self) -> Option<(&'a str, &'a str)> {
        let (scheme, rest) = self.target.split_once("://")?;
        let is_scheme = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
        if !scheme.starts_with(|c: char| c.is_ascii_alphabetic()) || !scheme.bytes().all(is_scheme) {
            return None;
        }
        Some(rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len())))
    }

    /// Origin, absolute, authority or asterisk form (RFC 9112 §3.2), each where it may stand.
    fn check_target(&self) -> Result<(), HeadError> {
        let fits = match self.target {
            "*" => self.method == "OPTIONS",
            target if target.starts_with('/') => !target.contains('#'),
            target if self.method == "CONNECT" => is_authority(target.as_bytes()),
            target => {
                !target.contains('#')
                    && self.absolute().is_some_and(|(authority, _)| is_authority(authority.as_bytes()))
            }
        };
        if fits { Ok(()) } else { Err(HeadError::RequestLine) }
    }

    fn check_host(&self) -> Result<(), HeadError> {
        match self.single("host") {
            Err(Repeated) => Err(HeadError::HostRepeated),
            Ok(Some(host)) if is_authority(host) => Ok(()),
            Ok(Some(_)) => Err(HeadError::HostInvalid),
            Ok(None) if self.minor >= 1 => Err(HeadError::HostMissing),
            Ok(None) => Ok(()),
        }
    }

    fn framing(&self) -> Result<Body, HeadError> {
        let length = self.single("content-length").map_err(|Repeated| HeadError::ContentLengthInvalid)?;
        let length = length.map(parse_length).transpose()?;
        let encoded = self.values("transfer-encoding").next().is_some();
        match (encoded, length) {
            (true, Some(_)) => Err(HeadError::LengthAndEncoding),
            (true, None) if self.minor == 0 => Err(HeadError::EncodingInHttp10),
            (true, None) => Err(HeadError::EncodingUnsupported),
            (false, None | Some(0)) => Ok(Body::None),
            (false, Some(bytes)) => Ok(Body::Length(bytes)),
        }
    }
}

/// A field that may stand once stands twice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Repeated;

/// Digits and nothing else: no sign, no list (RFC 9110 §8.6).
fn parse_length(value: &[u8]) -> Result<u64, HeadError> {
    let text = std::str::from_utf8(value).map_err(|_| HeadError::ContentLengthInvalid)?;
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(HeadError::ContentLengthInvalid);
    }
    text.parse().map_err(|_| HeadError::ContentLengthInvalid)
}

/// `host[:port]`, where the host is a name, an IPv4 address or an IPv6 one in brackets. User
/// information is not part of it: nobody types a password to a `Host` header.
pub(crate) fn is_authority(value: &[u8]) -> bool {
    let (host, port) = match value {
        [b'[', rest @ ..] => {
            let Some(end) = memchr::memchr(b']', rest) else { return false };
            if !rest[..end].iter().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.')) {
                return false;
            }
            (&rest[..end], &rest[end + 1..])
        }
        _ => {
            let end = memchr::memchr(b':', value).unwrap_or(value.len());
            let host = &value[..end];
            let is_name =
                |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'%');
            if !host.iter().all(is_name) {
                return false;
            }
            (host, &value[end..])
        }
    };
    let port_fits = match port {
        [] => true,
        [b':', digits @ ..] => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    !host.is_empty() && port_fits
}
