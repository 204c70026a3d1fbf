//! Plain responses. Header fields are checked when they are added, so that what is encoded cannot
//! be split by a CR LF that came from elsewhere.

use bytes::Bytes;
use std::borrow::Cow;
use std::fmt;

/// A header field was not added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidHeader {
    /// The name is not a token (RFC 9110 §5.1).
    Name,
    /// The value has a control character, as CR or LF, or white space at an end.
    Value,
    /// `Connection`, `Content-Length`, `Transfer-Encoding`, `Upgrade` and `Sec-WebSocket-*` are
    /// written by this crate.
    Managed,
}

impl fmt::Display for InvalidHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Name => "header name is not a token: use letters, digits and `-`",
            Self::Value => "header value has control characters or white space at an end: clean it first",
            Self::Managed => "this header is written by the server: leave it out",
        })
    }
}

impl std::error::Error for InvalidHeader {}

/// Header fields that are safe to write.
///
/// ```
/// use ringwire::http::{Headers, InvalidHeader};
/// let mut headers = Headers::default();
/// headers.push("Set-Cookie", "seen=1")?;
/// assert_eq!(headers.push("X-Name", "a\r\nSet-Cookie: evil=1"), Err(InvalidHeader::Value));
/// # Ok::<(), InvalidHeader>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(Vec<(Cow<'static, str>, Cow<'static, str>)>);

impl Headers {
    /// Adds a field. Fields of one name are kept side by side.
    ///
    /// # Errors
    /// See [`InvalidHeader`]; nothing is added then.
    pub fn push(
        &mut self,
        name: impl Into<Cow<'static, str>>,
        value: impl Into<Cow<'static, str>>,
    ) -> Result<(), InvalidHeader> {
        let (name, value) = (name.into(), value.into());
        if name.is_empty() || !name.bytes().all(crate::http::is_token_byte) {
            return Err(InvalidHeader::Name);
        }
        let controls = value.bytes().any(|byte| (byte < b' ' && byte != b'\t') || byte == 0x7f);
        if controls || value.trim_ascii().len() != value.len() {
            return Err(InvalidHeader::Value);
        }
        if is_managed(&name) {
            return Err(InvalidHeader::Managed);
        }
        self.0.push((name, value));
        Ok(())
    }

    /// The fields, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    /// The first field of this name, compared without case.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    pub(crate) fn push_managed(&mut self, name: &'static str, value: &'static str) {
        self.0.push((name.into(), value.into()));
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        for (name, value) in self.iter() {
            encode_field(out, name, value);
        }
    }
}

pub(crate) fn encode_field(out: &mut Vec<u8>, name: &str, value: &str) {
    for part in [name, ": ", value, "\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
}

fn is_managed(name: &str) -> bool {
    const MANAGED: [&str; 4] = ["connection", "content-length", "transfer-encoding", "upgrade"];
    const PREFIX: &str = "sec-websocket-";
    MANAGED.iter().any(|managed| name.eq_ignore_ascii_case(managed))
        || name.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX))
}

/// The answer to a request that is not upgraded.
///
/// ```
/// use ringwire::http::Response;
/// let mut out = Vec::new();
/// Response::text(200, "ok\n").encode(&mut out, false, true);
/// let text = String::from_utf8(out).unwrap();
/// assert!(text.starts_with("HTTP/1.1 200 OK\r\n"));
/// assert!(text.ends_with("Content-Length: 3\r\n\r\nok\n"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    status: u16,
    headers: Headers,
    body: Bytes,
    close: bool,
    events: bool,
}

impl Response {
    /// A response without headers and body. `status` is 200–599; others become 500.
    pub fn new(status: u16) -> Self {
        let status = if (200..600).contains(&status) { status } else { 500 };
        Self { status, headers: Headers::default(), body: Bytes::new(), close: false, events: false }
    }

    /// A response with a text body, `Content-Type: text/plain; charset=utf-8`.
    pub fn text(status: u16, body: impl Into<Bytes>) -> Self {
        Self::new(status).body("text/plain; charset=utf-8", body)
    }

    /// A response with an HTML body.
    pub fn html(status: u16, body: impl Into<Bytes>) -> Self {
        Self::new(status).body("text/html; charset=utf-8", body)
    }

    /// 426 with `Upgrade: websocket` (RFC 9110 §15.5.22): the answer to a plain request for a path
    /// that serves WebSockets.
    pub fn upgrade_required() -> Self {
        Self::text(426, "This path speaks WebSocket: send an upgrade request.\n")
            .managed_header("Upgrade", "websocket")
    }

    /// 200 with a stream of server-sent events, for [`Reply::stream`](crate::Reply::stream). Caches and
    /// nginx are told to let each event through at once.
    pub fn events() -> Self {
        let response = Self::new(200).header("Content-Type", "text/event-stream");
        let response = response.header("Cache-Control", "no-store").header("X-Accel-Buffering", "no");
        Self { events: true, ..response }
    }

    /// Sets the body and adds its `Content-Type`. Takes `Vec<u8>`, `String`, `&'static str`,
    /// `&'static [u8]` or shared [`Bytes`].
    ///
    /// # Panics
    /// If `content_type`, a constant of the program, is no header value.
    pub fn body(mut self, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self.header("Content-Type", content_type)
    }

    /// Adds a header field of the program's own text.
    ///
    /// # Panics
    /// If the field is [invalid](InvalidHeader). Both are constants, so it panics always or never;
    /// for what is made at run time there is [`try_header`](Self::try_header).
    #[track_caller]
    pub fn header(mut self, name: &'static str, value: &'static str) -> Self {
        if let Err(error) = self.headers.push(name, value) {
            panic!("{name}: {error}");
        }
        self
    }

    /// Adds a header field made at run time.
    ///
    /// # Errors
    /// See [`InvalidHeader`].
    pub fn try_header(
        mut self,
        name: impl Into<Cow<'static, str>>,
        value: impl Into<Cow<'static, str>>,
    ) -> Result<Self, InvalidHeader> {
        self.headers.push(name, value)?;
        Ok(self)
    }

    /// The connection is closed after this response, whatever the peer asked.
    pub fn closing(mut self) -> Self {
        self.close = true;
        self
    }

    /// The status code.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The header fields added.
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// The body.
    pub fn content(&self) -> &[u8] {
        &self.body
    }

    /// Whether the connection is to be closed after this response.
    pub fn is_closing(&self) -> bool {
        self.close
    }

    /// Whether it is one of [`events`](Self::events).
    pub fn is_events(&self) -> bool {
        self.events
    }

    /// Whether a body may follow the head (RFC 9110 §6.4.1).
    pub(crate) fn may_have_body(&self) -> bool {
        !matches!(self.status, 204 | 304)
    }

    pub(crate) fn managed_header(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.push_managed(name, value);
        self
    }

    /// Appends the response to `out`: without the body if `head_only` (the request was HEAD), with
    /// `Connection: close` unless `keep_alive` and nothing [closes](Self::closing).
    pub fn encode(&self, out: &mut Vec<u8>, head_only: bool, keep_alive: bool) {
        self.encode_head(out, keep_alive);
        out.extend_from_slice(self.sent_body(head_only));
    }

    /// What follows the head.
    pub(crate) fn sent_body(&self, head_only: bool) -> &Bytes {
        static NONE: Bytes = Bytes::new();
        if !head_only && self.may_have_body() { &self.body } else { &NONE }
    }

    /// Appends all before the body.
    pub(crate) fn encode_head(&self, out: &mut Vec<u8>, keep_alive: bool) {
        let status = self.status;
        self.encode_start(out);
        let connection = match (keep_alive && !self.close, status) {
            // A sender of Upgrade lists it in Connection (RFC 9110 §7.8), and 426 has one.
            (true, 426) => "keep-alive, upgrade",
            (false, 426) => "close, upgrade",
            (true, _) => "keep-alive",
            (false, _) => "close",
        };
        encode_field(out, "Connection", connection);
        // 204 has no length and 304's would be another response's (RFC 9110 §8.6).
        if self.may_have_body() {
            encode_field(out, "Content-Length", &self.body.len().to_string());
        }
        out.extend_from_slice(b"\r\n");
    }

    /// Appends the head of a response whose body has no end yet. It comes in chunks, or ends with the
    /// connection.
    pub(crate) fn encode_stream_head(&self, out: &mut Vec<u8>, chunked: bool) {
        self.encode_start(out);
        if chunked {
            encode_field(out, "Transfer-Encoding", "chunked");
        }
        encode_field(out, "Connection", "close");
        out.extend_from_slice(b"\r\n");
    }

    /// The status line and the fields that were added.
    fn encode_start(&self, out: &mut Vec<u8>) {
        let status = self.status;
        let digits =
            [b'0' + (status / 100) as u8, b'0' + (status / 10 % 10) as u8, b'0' + (status % 10) as u8];
        out.extend_from_slice(b"HTTP/1.1 ");
        out.extend_from_slice(&digits);
        out.push(b' ');
        out.extend_from_slice(reason_phrase(status).as_bytes());
        out.extend_from_slice(b"\r\n");
        self.headers.encode(out);
    }
}

/// The reason phrase of a status code, as registered (RFC 9110 §15); empty if it is not known here.
pub const fn reason_phrase(status: u16) -> &'static str {
    match status {
        101 => "Switching Protocols",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        422 => "Unprocessable Content",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}
