//! The other end: raw bytes in and out, over a socket or in the simulation.

use crate::client_tls::ClientTls;
use crate::stage::{PATIENCE, STEP, SharedSim};
use ringwire::sim::SimPeer;
use ringwire::ws::{Kind, encode_message};
use socket2::{Domain, SockRef, Socket, Type};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

pub const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A client's frame whose first byte is `b0`.
pub fn frame(b0: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode_message(&mut out, Kind::Binary, payload, Some(MASK));
    out[0] = b0;
    out
}

pub fn text(text: &str) -> Vec<u8> {
    frame(0x81, text.as_bytes())
}

pub fn binary(bytes: &[u8]) -> Vec<u8> {
    frame(0x82, bytes)
}

pub fn close(code: u16, reason: &str) -> Vec<u8> {
    frame(0x88, &[&code.to_be_bytes()[..], reason.as_bytes()].concat())
}

/// A server's frame whose first byte is `b0`.
pub fn bare(b0: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode_message(&mut out, Kind::Binary, payload, None);
    out[0] = b0;
    out
}

/// The key of RFC 6455 §1.3.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// An upgrade request with further header lines, each ending in CR LF.
pub fn upgrade_request(target: &str, more: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: ringwire.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n{more}\r\n"
    )
}

enum Link {
    Sim(SharedSim, SimPeer),
    Tcp(TcpStream),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Fin,
    Reset,
}

pub struct Peer {
    link: Link,
    /// Within which this peer speaks.
    tls: Option<ClientTls>,
    inbox: Vec<u8>,
    end: Option<End>,
}

/// An HTTP response.
pub struct Answer {
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

impl Peer {
    fn new(link: Link) -> Self {
        Self { link, tls: None, inbox: Vec::new(), end: None }
    }

    /// Speaks TLS from here on, if the whole suite does.
    pub fn like_the_suite(self) -> Self {
        if crate::TLS { self.within(ClientTls::default()) } else { self }
    }

    /// Speaks TLS from here on. The handshake begins with the first bytes sent.
    pub fn within(mut self, tls: ClientTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Speaks past TLS from here on.
    pub fn bare(mut self) -> Self {
        self.tls = None;
        self
    }

    /// The TLS within which this peer speaks.
    #[track_caller]
    pub fn tls(&mut self) -> &mut ClientTls {
        self.tls.as_mut().expect("this peer speaks TLS")
    }

    pub fn simulated(simulation: &SharedSim) -> Self {
        let peer = simulation.borrow_mut().connect();
        Self::from_sim(simulation, peer)
    }

    pub fn from_sim(simulation: &SharedSim, peer: SimPeer) -> Self {
        Self::new(Link::Sim(simulation.clone(), peer))
    }

    pub fn tcp(addr: SocketAddr) -> Self {
        Self::from_tcp(TcpStream::connect(addr).unwrap())
    }

    pub fn narrow_tcp(addr: SocketAddr) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(4 << 10).unwrap();
        socket.connect(&addr.into()).unwrap();
        Self::from_tcp(socket.into())
    }

    pub fn from_tcp(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self::new(Link::Tcp(stream))
    }

    /// Sends. An end that has come already is seen when reading.
    #[track_caller]
    pub fn send(&mut self, bytes: &[u8]) {
        let sealed = self.sealed(bytes);
        self.send_raw(sealed.as_deref().unwrap_or(bytes));
    }

    /// What goes over the wire for these bytes, where that differs. Makes the handshake first.
    fn sealed(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        if self.tls.as_ref()?.is_fresh() {
            self.shake();
        }
        self.tls.as_mut().map(|tls| tls.seal(bytes))
    }

    /// Makes the TLS handshake, or sees the connection end.
    pub fn shake(&mut self) {
        while let Some(tls) = &mut self.tls {
            let (hello, done) = (tls.take_outgoing(), tls.is_done());
            self.send_raw(&hello);
            if done || self.end.is_some() || !self.pull(PATIENCE) {
                return;
            }
        }
    }

    /// Sends past the TLS, if there is any.
    #[track_caller]
    pub fn send_raw(&mut self, bytes: &[u8]) {
        match &mut self.link {
            Link::Sim(_, peer) => peer.write(bytes),
            Link::Tcp(stream) => match stream.write_all(bytes) {
                Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {}
                result => result.unwrap(),
            },
        }
    }

    /// Sends piece by piece, so that each is received by itself.
    pub fn send_pieces<'a>(&mut self, pieces: impl IntoIterator<Item = &'a [u8]>) {
        let wires: Vec<_> =
            pieces.into_iter().map(|piece| self.sealed(piece).unwrap_or_else(|| piece.to_vec())).collect();
        self.send_raw_pieces(wires.iter().map(Vec::as_slice));
    }

    /// As [`send_pieces`](Self::send_pieces), past TLS.
    pub fn send_raw_pieces<'a>(&mut self, pieces: impl IntoIterator<Item = &'a [u8]>) {
        for piece in pieces {
            self.send_raw(piece);
            match &self.link {
                Link::Sim(simulation, _) => simulation.borrow_mut().run(),
                Link::Tcp(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    /// Sends however long the service takes to receive it, and does not wait for that.
    pub fn send_in_background(&mut self, bytes: Vec<u8>) {
        let bytes = self.sealed(&bytes).unwrap_or(bytes);
        match &mut self.link {
            Link::Sim(_, peer) => peer.write(&bytes),
            Link::Tcp(stream) => {
                let mut stream = stream.try_clone().unwrap();
                // Ends with the connection.
                std::thread::spawn(move || stream.write_all(&bytes));
            }
        }
    }

    /// Takes what has come; whether that was anything.
    fn pull(&mut self, patience: Duration) -> bool {
        match &mut self.link {
            Link::Sim(simulation, peer) => {
                let mut waited = Duration::ZERO;
                simulation.borrow_mut().run();
                loop {
                    let bytes = peer.read();
                    match &mut self.tls {
                        None => self.inbox.extend_from_slice(&bytes),
                        Some(tls) => peer.write(&tls.open(&bytes, &mut self.inbox)),
                    }
                    self.end = match (peer.saw_reset(), peer.saw_fin()) {
                        (true, _) => Some(End::Reset),
                        (false, true) => Some(End::Fin),
                        (false, false) => None,
                    };
                    if !bytes.is_empty() || self.end.is_some() {
                        return true;
                    }
                    if waited >= patience {
                        return false;
                    }
                    simulation.borrow_mut().advance(STEP);
                    waited += STEP;
                }
            }
            Link::Tcp(stream) => {
                stream.set_read_timeout(Some(patience)).unwrap();
                let mut chunk = [0; 64 << 10];
                match stream.read(&mut chunk) {
                    Ok(0) => self.end = Some(End::Fin),
                    Ok(count) => match &mut self.tls {
                        None => self.inbox.extend_from_slice(&chunk[..count]),
                        // Cannot be sent where the far end has gone, which is seen by reading.
                        Some(tls) => drop(stream.write_all(&tls.open(&chunk[..count], &mut self.inbox))),
                    },
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                    Err(error) if error.kind() == ErrorKind::Interrupted => return self.pull(patience),
                    Err(error) if error.kind() == ErrorKind::ConnectionReset => self.end = Some(End::Reset),
                    Err(error) => panic!("{error}"),
                }
                true
            }
        }
    }

    /// Waits for that many bytes, or the end.
    fn fill(&mut self, bytes: usize) {
        while self.inbox.len() < bytes && self.end.is_none() && self.pull(PATIENCE) {}
    }

    /// Takes exactly that many bytes.
    #[track_caller]
    pub fn take(&mut self, bytes: usize) -> Vec<u8> {
        self.fill(bytes);
        let (have, end) = (self.inbox.len(), self.end);
        assert!(have >= bytes, "{have} of {bytes} bytes came ({end:?}): {:?}", printable(&self.inbox));
        let rest = self.inbox.split_off(bytes);
        std::mem::replace(&mut self.inbox, rest)
    }

    /// These bytes come next.
    #[track_caller]
    pub fn expect(&mut self, bytes: &[u8]) {
        let came = self.take(bytes.len());
        if came != bytes {
            let at = came.iter().zip(bytes).position(|(a, b)| a != b).unwrap();
            let near = at.saturating_sub(20)..(at + 20).min(bytes.len());
            panic!("byte {at}: {} instead of {}", printable(&came[near.clone()]), printable(&bytes[near]));
        }
    }

    #[track_caller]
    pub fn expect_text(&mut self, text: &str) {
        self.expect(&bare(0x81, text.as_bytes()));
    }

    #[track_caller]
    pub fn expect_binary(&mut self, bytes: &[u8]) {
        self.expect(&bare(0x82, bytes));
    }

    /// The next frame: first byte and payload.
    #[track_caller]
    pub fn next_frame(&mut self) -> (u8, Vec<u8>) {
        let head = self.take(2);
        let len = match head[1] {
            126 => u64::from(u16::from_be_bytes(self.take(2).try_into().unwrap())),
            127 => u64::from_be_bytes(self.take(8).try_into().unwrap()),
            len => u64::from(len),
        };
        assert!(head[1] < 128, "a server's frame is masked");
        (head[0], self.take(len as usize))
    }

    /// A ping of the engine's comes next; its payload.
    #[track_caller]
    pub fn expect_ping(&mut self) -> Vec<u8> {
        let (b0, payload) = self.next_frame();
        assert_eq!((b0, payload.len()), (0x89, 4), "no ping: {}", printable(&payload));
        payload
    }

    /// A Close frame of this code comes next; its reason.
    #[track_caller]
    pub fn expect_close(&mut self, code: u16) -> String {
        let (b0, payload) = self.next_frame();
        assert_eq!(b0, 0x88, "no Close frame: {}", printable(&payload));
        let (got, reason) = payload.split_first_chunk().expect("a Close frame has a code");
        assert_eq!(u16::from_be_bytes(*got), code, "{}", printable(reason));
        String::from_utf8(reason.to_vec()).unwrap()
    }

    /// Nothing more comes but the end.
    #[track_caller]
    pub fn expect_end(&mut self) -> End {
        self.fill(usize::MAX);
        assert_eq!(printable(&self.inbox), "", "before the end");
        self.end.expect("the connection does not end")
    }

    /// Nothing more comes but FIN.
    #[track_caller]
    pub fn expect_fin(&mut self) {
        assert_eq!(self.expect_end(), End::Fin);
    }

    /// Whether something has come.
    pub fn has_frame(&mut self) -> bool {
        !self.inbox.is_empty() || self.pull(Duration::from_millis(1))
    }

    /// The connection ends, whatever came before.
    #[track_caller]
    pub fn expect_any_end(&mut self) -> End {
        self.inbox.clear();
        self.read_to_end();
        self.end.expect("the connection does not end")
    }

    /// A Close frame of this code, FIN, and nothing after.
    #[track_caller]
    pub fn expect_failed(&mut self, code: u16) {
        self.expect_close(code);
        self.expect_fin();
    }

    /// All that comes until the end, whatever it is.
    pub fn read_to_end(&mut self) -> Vec<u8> {
        self.fill(usize::MAX);
        std::mem::take(&mut self.inbox)
    }

    /// Nothing comes for a time.
    #[track_caller]
    pub fn expect_silence(&mut self, time: Duration) {
        let begin = Instant::now();
        let mut came = self.pull(time);
        while came && self.tls.is_some() && self.inbox.is_empty() && self.end.is_none() {
            // A ticket, of which nobody hears.
            came = self.pull(time);
        }
        let after = begin.elapsed();
        assert!(!came && self.inbox.is_empty(), "{} {:?} after {after:?}", printable(&self.inbox), self.end);
    }

    /// An HTTP response comes next.
    #[track_caller]
    pub fn expect_http(&mut self, status: u16) -> Answer {
        self.answer(status, false)
    }

    /// One to a HEAD request.
    #[track_caller]
    pub fn expect_http_head(&mut self, status: u16) -> Answer {
        self.answer(status, true)
    }

    #[track_caller]
    fn answer(&mut self, status: u16, head_only: bool) -> Answer {
        let end = loop {
            if let Some(at) = self.inbox.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            let more = self.end.is_none() && self.pull(PATIENCE);
            assert!(more, "no head ({:?}): {}", self.end, printable(&self.inbox));
        };
        let head = String::from_utf8(self.take(end)).unwrap();
        let expected = format!("HTTP/1.1 {status} ");
        assert!(head.starts_with(&expected), "not {status}: {head}");
        let mut answer = Answer { head, body: Vec::new() };
        let bytes = answer.header("Content-Length").map_or(0, |value| value.parse().unwrap());
        if !head_only {
            answer.body = self.take(bytes);
        }
        answer
    }

    /// The content of the next chunk of a body; empty for the last.
    #[track_caller]
    pub fn next_chunk(&mut self) -> Vec<u8> {
        let mut size = Vec::new();
        while !size.ends_with(b"\r\n") {
            size.extend(self.take(1));
        }
        let digits = std::str::from_utf8(&size[..size.len() - 2]).unwrap();
        let content = self.take(usize::from_str_radix(digits, 16).unwrap());
        self.expect(b"\r\n");
        content
    }

    /// This chunk comes next.
    #[track_caller]
    pub fn expect_chunk(&mut self, content: &str) {
        assert_eq!(printable(&self.next_chunk()), printable(content.as_bytes()));
    }

    /// An HTTP error, then FIN.
    #[track_caller]
    pub fn expect_refused(&mut self, status: u16) -> Answer {
        let answer = self.expect_http(status);
        let connection = answer.header("Connection").unwrap_or_default();
        assert!(connection.split(", ").any(|token| token == "close"), "{}", answer.head);
        self.expect_fin();
        answer
    }

    /// Opens a WebSocket.
    #[track_caller]
    pub fn upgrade(&mut self, target: &str) -> Answer {
        self.send(upgrade_request(target, "").as_bytes());
        let answer = self.expect_http(101);
        assert_eq!(answer.header("Sec-WebSocket-Accept"), Some(ACCEPT));
        answer
    }

    /// Shows that this connection is served: a message comes back.
    #[track_caller]
    pub fn check_echo(&mut self, message: &str) {
        self.send(&text(message));
        self.expect_text(message);
    }

    /// Closes in good order from this end.
    #[track_caller]
    pub fn bye(mut self) {
        self.send(&close(1000, ""));
        self.expect_close(1000);
        self.expect_fin();
        assert!(self.tls.is_none_or(|mut tls| tls.is_ended()), "no close_notify");
    }

    pub fn half_close(&mut self) {
        if let Some(tls) = &mut self.tls {
            let last = tls.end();
            self.send_raw(&last);
        }
        match &mut self.link {
            Link::Sim(_, peer) => peer.shutdown_write(),
            // Fails only where the connection is over.
            Link::Tcp(stream) => drop(stream.shutdown(Shutdown::Write)),
        }
    }

    /// Cuts the connection with a reset.
    pub fn reset(mut self) {
        match &mut self.link {
            Link::Sim(simulation, peer) => {
                peer.reset();
                simulation.borrow_mut().run();
            }
            Link::Tcp(stream) => SockRef::from(&*stream).set_linger(Some(Duration::ZERO)).unwrap(),
        }
    }

    /// Is gone with its host, without a word. Only in the simulation.
    pub fn vanish(&mut self) {
        match &mut self.link {
            Link::Sim(_, peer) => peer.vanish(),
            Link::Tcp(_) => panic!("a socket cannot vanish"),
        }
    }

    /// From now on nothing is taken from the network. A socket does not take anything by itself.
    pub fn stop_reading(&mut self) {
        if self.tls.as_ref().is_some_and(ClientTls::is_fresh) {
            self.shake();
        }
        if let Link::Sim(_, peer) = &mut self.link {
            peer.stop_reading();
        }
    }

    pub fn start_reading(&mut self) {
        if let Link::Sim(_, peer) = &mut self.link {
            peer.start_reading();
        }
    }
}

pub fn printable(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(400)];
    shown.escape_ascii().to_string()
}
