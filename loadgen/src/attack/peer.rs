//! The attacking end of one connection: raw bytes out, and what comes back told apart.
//!
//! Touches one socket, which never blocks: no call waits longer than it is told to. What comes is
//! kept until it is asked for, up to [`MAX_KEPT_BYTES`].

use crate::target::{Target, advice};
use ringwire::DeflateConfig;
use ringwire::ws::deflate::{DeflateParams, Window};
use ringwire::ws::{Codec, Event, Kind, Message, Violation, encode_message};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt;
use std::collections::VecDeque;
use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

/// The mask of all frames: what is attacked is the server, not a proxy in between.
pub const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
/// The key of RFC 6455 §1.3, and its answer.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// Answers and their overhead never come near it; a server that sends more than that is broken.
const MAX_KEPT_BYTES: u32 = 128 << 20;
/// Bytes of a response to what is not an upgrade.
const MAX_HTTP_BYTES: usize = 4 << 20;
/// A client's frame whose first byte is `b0`.
pub fn frame(b0: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode_message(&mut out, Kind::Binary, payload, Some(MASK));
    out[0] = b0;
    out
}

/// A frame as only servers send them.
pub fn bare(b0: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode_message(&mut out, Kind::Binary, payload, None);
    out[0] = b0;
    out
}

/// A whole text message.
pub fn text(text: &str) -> Vec<u8> {
    frame(0x81, text.as_bytes())
}

/// A Close frame.
pub fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    frame(0x88, &[&code.to_be_bytes()[..], reason].concat())
}

/// The upgrade request of a client that does as it should, with further lines that each end in CR LF.
pub fn upgrade_request(target: &Target, more: &str) -> String {
    format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n{more}\r\n",
        target.path, target.host
    )
}

/// How a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The server has closed its side.
    Fin,
    /// Cut.
    Reset,
    /// What the server sent is not what it may send.
    Broken(String),
}

/// What the server sent, pongs apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Came {
    /// A whole message.
    Message(Kind, Vec<u8>),
    /// A ping; it has been answered unless the peer is mute.
    Ping,
    /// A Close frame; it has been answered unless the peer is mute.
    Close(Option<u16>),
}

/// What the server did next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reaction {
    /// A message came.
    Message(Kind, Vec<u8>),
    /// A Close frame came.
    Close(Option<u16>),
    /// The connection ended without one.
    Dropped,
    /// Nothing came for that long.
    Silence(Duration),
    /// See [`End::Broken`].
    Broken(String),
}

impl fmt::Display for Reaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Message(_, bytes) if bytes.len() > 40 => write!(f, "sent {} bytes back", bytes.len()),
            Self::Message(_, bytes) => write!(f, "sent \"{}\" back", bytes.escape_ascii()),
            Self::Close(Some(code)) => write!(f, "close {code}"),
            Self::Close(None) => f.write_str("close without a code"),
            Self::Dropped => f.write_str("dropped"),
            Self::Silence(time) => write!(f, "nothing for {:.1} s", time.as_secs_f64()),
            Self::Broken(why) => f.write_str(why),
        }
    }
}

/// The head of an HTTP response.
#[derive(Clone, Debug)]
pub struct Answer {
    /// As 101.
    pub status: u16,
    head: String,
}

impl Answer {
    /// The values of a header, in order.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.head.lines().skip(1).filter_map(move |line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// Whether this is what opens a WebSocket (RFC 6455 §4.2.2).
    pub fn opens(&self) -> bool {
        self.status == 101 && self.values("sec-websocket-accept").eq([ACCEPT])
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Peer {
    stream: TcpStream,
    codec: Option<Codec>,
    http: Vec<u8>,
    came: VecDeque<Came>,
    kept_bytes: usize,
    /// Pongs that came.
    pub pongs: u64,
    /// The payload of the last of them.
    pub last_pong: Vec<u8>,
    /// Pings that came.
    pub pings: u64,
    /// Neither answers pings nor Close frames.
    pub mute: bool,
    owed: Vec<u8>,
    end: Option<End>,
}

impl Peer {
    /// Connects.
    pub fn connect(target: &Target, patience: Duration) -> Result<Self, String> {
        let failed = |error| format!("cannot connect: {error}{}", advice(&error));
        let stream = TcpStream::connect_timeout(&target.addr, patience).map_err(failed)?;
        stream.set_nodelay(true).and_then(|()| stream.set_nonblocking(true)).map_err(failed)?;
        Ok(Self {
            stream,
            codec: None,
            http: Vec::new(),
            came: VecDeque::new(),
            kept_bytes: 0,
            pongs: 0,
            last_pong: Vec::new(),
            pings: 0,
            mute: false,
            owed: Vec::new(),
            end: None,
        })
    }

    /// Connects and opens a WebSocket.
    pub fn open(target: &Target, more: &str, patience: Duration) -> Result<Self, String> {
        let mut peer = Self::connect(target, patience)?;
        peer.send(upgrade_request(target, more).as_bytes(), patience);
        let answer = peer.answer(patience).map_err(|reaction| format!("does not upgrade: {reaction}"))?;
        if !answer.opens() {
            return Err(format!("does not upgrade: answered {}", answer.status));
        }
        Ok(peer)
    }

    /// Sends, and takes meanwhile what comes. Returns the bytes sent: fewer if the connection ends
    /// or the server takes no more for all the time given.
    pub fn send(&mut self, bytes: &[u8], patience: Duration) -> usize {
        self.pump(bytes, true, patience, |_| true)
    }

    /// Sends without reading.
    pub fn send_deaf(&mut self, bytes: &[u8], patience: Duration) -> usize {
        self.pump(bytes, false, patience, |_| true)
    }

    /// The head of an HTTP response comes next; 101 makes this a WebSocket.
    pub fn answer(&mut self, patience: Duration) -> Result<Answer, Reaction> {
        let whole = |peer: &Self| head_end(&peer.http).is_some();
        self.pump(&[], true, patience, whole);
        let Some(end) = head_end(&self.http) else { return Err(self.no_reaction(patience)) };
        let rest = self.http.split_off(end);
        let head = String::from_utf8_lossy(&std::mem::replace(&mut self.http, rest)).into_owned();
        let status = head.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)?.parse().ok());
        let Some(status) = status else {
            return Err(Reaction::Broken(format!("sent no HTTP: {:?}", head.lines().next())));
        };
        let answer = Answer { status, head };
        if answer.opens() {
            let deflates = answer.values("sec-websocket-extensions").next().is_some();
            let codec = Codec::client(MAX_KEPT_BYTES, || MASK);
            // The widest of windows reads what was written with a narrow one, or with a fresh one.
            let params = DeflateParams { server: Window::FULL, client: Window::FULL };
            self.codec = Some(match deflates {
                true => codec.with_deflate(params, &DeflateConfig::default()),
                false => codec,
            });
            let mut rest = std::mem::take(&mut self.http);
            self.take(&mut rest);
        }
        Ok(answer)
    }

    /// What of HTTP came and was not looked at.
    pub fn unread_http(&self) -> &[u8] {
        &self.http
    }

    /// Waits for the end of the connection. False if it does not come.
    pub fn ends(&mut self, patience: Duration) -> bool {
        self.pump(&[], true, patience, |_| false);
        self.end.is_some()
    }

    /// Whether the connection has ended, as far as is known without asking the socket again.
    pub fn ended(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// What comes next but for pings.
    pub fn reaction(&mut self, patience: Duration) -> Reaction {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            self.pump(&[], true, left, |peer| !peer.came.is_empty());
            match self.came.pop_front() {
                Some(Came::Ping) => {}
                Some(Came::Close(code)) => return Reaction::Close(code),
                Some(Came::Message(kind, bytes)) => {
                    self.kept_bytes -= bytes.len();
                    return Reaction::Message(kind, bytes);
                }
                None => return self.no_reaction(patience),
            }
        }
    }

    /// Waits for a pong beyond the first `pongs`. False if none comes.
    pub fn pong_beyond(&mut self, pongs: u64, patience: Duration) -> bool {
        self.pump(&[], true, patience, |peer| peer.pongs > pongs);
        self.pongs > pongs
    }

    /// Sends text and expects it back.
    pub fn echo(&mut self, message: &str, patience: Duration) -> Result<(), String> {
        self.send(&text(message), patience);
        match self.reaction(patience) {
            Reaction::Message(Kind::Text, bytes) if bytes == message.as_bytes() => Ok(()),
            other => Err(format!("no echo of \"{message}\": {other}")),
        }
    }

    /// Ends this side only.
    pub fn half_close(&self) {
        // Fails where the connection is over already.
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Cuts the connection.
    pub fn reset(self) {
        let _ = sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO));
    }

    fn no_reaction(&self, patience: Duration) -> Reaction {
        match &self.end {
            None => Reaction::Silence(patience),
            Some(End::Fin | End::Reset) => Reaction::Dropped,
            Some(End::Broken(why)) => Reaction::Broken(why.clone()),
        }
    }

    /// Moves bytes both ways until all of `out` is sent and `enough` holds, the connection ends, or
    /// time is up.
    fn pump(
        &mut self,
        mut out: &[u8],
        reads: bool,
        patience: Duration,
        enough: impl Fn(&Self) -> bool,
    ) -> usize {
        let (all, deadline) = (out.len(), Instant::now() + patience);
        while self.end.is_none() && !(out.is_empty() && self.owed.is_empty() && enough(self)) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let (mut may_read, mut may_write) = (false, false);
            let sends = !out.is_empty() || !self.owed.is_empty();
            let wanted = [(PollFlags::IN, reads), (PollFlags::OUT, sends)];
            let wanted = wanted.iter().filter(|(_, wants)| *wants).map(|(flag, _)| *flag).collect();
            let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            let mut fds = [PollFd::new(&self.stream, wanted)];
            if poll(&mut fds, Some(&timeout)).is_ok() {
                let over = fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR);
                may_read = fds[0].revents().contains(PollFlags::IN) || over;
                may_write = fds[0].revents().contains(PollFlags::OUT) || over;
            }
            if may_read && (reads || !sends) {
                self.read();
            }
            if may_write && sends && self.end.is_none() {
                // An answer never goes between the halves of what is being sent.
                let owed = if out.is_empty() { std::mem::take(&mut self.owed) } else { Vec::new() };
                let sent = self.write(if out.is_empty() { &owed } else { out }, reads);
                match out.is_empty() {
                    true => self.owed.splice(..0, owed[sent..].iter().copied()).for_each(drop),
                    false => out = &out[sent..],
                }
            }
        }
        all - out.len()
    }

    fn write(&mut self, bytes: &[u8], reads: bool) -> usize {
        match self.stream.write(bytes) {
            Ok(sent) => sent,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => 0,
            Err(_) => {
                // The server's last words may lie here still.
                while reads && self.end.is_none() && self.read() {}
                self.end.get_or_insert(End::Reset);
                0
            }
        }
    }

    /// False if there was nothing.
    fn read(&mut self) -> bool {
        let mut buffer = [0; 32 << 10];
        match self.stream.read(&mut buffer) {
            Ok(0) => self.end = Some(End::Fin),
            Ok(bytes) => self.take(&mut buffer[..bytes]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return false;
            }
            Err(_) => self.end = Some(End::Reset),
        }
        true
    }

    fn take(&mut self, bytes: &mut [u8]) {
        let Self { codec, came, kept_bytes, pongs, last_pong, pings, .. } = self;
        let Some(codec) = codec else {
            self.http.extend_from_slice(bytes);
            if self.http.len() > MAX_HTTP_BYTES {
                self.end = Some(End::Broken(format!("sent over {MAX_HTTP_BYTES} bytes of HTTP")));
            }
            return;
        };
        let fed = codec.feed(bytes, |event, _| match event {
            Event::Message(message) => {
                let (kind, bytes) = match message {
                    Message::Text(text) => (Kind::Text, text.as_bytes()),
                    Message::Binary(bytes) => (Kind::Binary, bytes),
                };
                *kept_bytes += bytes.len();
                came.push_back(Came::Message(kind, bytes.to_vec()));
            }
            Event::Ping(_) => {
                *pings += 1;
                came.push_back(Came::Ping);
            }
            Event::Pong(payload) => {
                *pongs += 1;
                last_pong.clear();
                last_pong.extend_from_slice(payload);
            }
            Event::Close { code, .. } => came.push_back(Came::Close(code.map(|code| code.0))),
        });
        let answers = std::mem::take(codec.output());
        let kept = self.kept_bytes + self.came.len() * size_of::<Came>();
        if kept > MAX_KEPT_BYTES as usize || fed == Err(Violation::MessageTooBig) {
            self.end = Some(End::Broken(format!("sent over {} MB", MAX_KEPT_BYTES / 1_000_000)));
        } else if let Err(violation) = fed {
            self.end = Some(End::Broken(format!("broke the protocol itself: {violation}")));
        } else if !self.mute {
            self.owed.extend_from_slice(&answers);
        }
    }
}

fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}
