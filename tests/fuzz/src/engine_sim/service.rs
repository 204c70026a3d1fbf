//! The handler under test and its ledger: what was asked of it, and what it was promised.

use crate::ws_support::Seen;
use ringwire::http::Response;
use ringwire::{
    ClientRequest, CloseCode, CloseReason, Conn, ConnId, ConnectError, Fragment, Handler, Message, PeerAddr,
    Reply, Request, SendResult, Shard, Upgrade,
};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// How a WebSocket ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With the code of [`CloseReason::code`] after a violation.
    Violation(CloseCode),
    Other,
}

/// One WebSocket, from `open` on.
#[derive(Debug)]
pub struct Life {
    pub addr: PeerAddr,
    pub streams: bool,
    /// Messages that came; with `streams`, as far as they came.
    pub received: Vec<Seen>,
    /// Messages whose sending was promised, in order.
    pub sent: Vec<Seen>,
    /// The handler closed it.
    pub closing: bool,
    pub ended: Option<Ending>,
    /// A `drain` is owed.
    pub wants_drain: bool,
    inside: bool,
    bytes_inside: Vec<u8>,
}

/// Echoes, with orders in the first byte of a message: `!` close, `?` ping, `*n` n copies, `@` connect.
#[derive(Debug, Default)]
pub struct Service {
    pub lives: BTreeMap<ConnId, Life>,
    /// Addresses to connect to in the next turn.
    pub to_connect: Vec<SocketAddr>,
    /// Connects that have led to nothing yet.
    pub connecting: usize,
    /// Upgrades accepted and not opened.
    accepted: usize,
}

/// The handler's own: an outbound connection or an accepted one. A life is told from another by it.
#[derive(Debug)]
pub struct State {
    outbound: bool,
    seen_open: bool,
}

impl Service {
    /// The life of a connection for which a call may come.
    fn life(&mut self, conn: &Conn<'_, State>) -> &mut Life {
        assert!(conn.state().seen_open, "a call before open");
        let life = self.lives.get_mut(&conn.id()).expect("a call for nobody");
        assert_eq!((life.ended, life.addr), (None, conn.peer_addr()), "a call for another");
        life
    }

    fn send(&mut self, conn: &mut Conn<'_, State>, message: Message<'_>) {
        let backpressure_bytes = conn.backpressure_bytes();
        let result = conn.send(message);
        let life = self.life(conn);
        match result {
            SendResult::Sent => {}
            SendResult::Queued => life.wants_drain = true,
            SendResult::Dropped => life.wants_drain |= backpressure_bytes > 0,
            SendResult::Closed => return,
        }
        assert!(!life.closing, "{result:?} after close");
        if result != SendResult::Dropped {
            life.sent.push(seen(message));
        }
    }
}

fn seen(message: Message<'_>) -> Seen {
    match message {
        Message::Text(text) => Seen::Text(text.to_owned()),
        Message::Binary(bytes) => Seen::Binary(bytes.to_owned()),
    }
}

impl Handler for Service {
    type State = State;

    fn upgrade(&mut self, request: &Request<'_>) -> Upgrade<State> {
        let accept = Upgrade::accept(State { outbound: false, seen_open: false });
        let accept = match request.path() {
            "/no" => return Upgrade::reject(Response::text(401, "no\n")),
            "/stream" => accept.stream_fragments(),
            "/chat" => match request.subprotocols().next() {
                Some(protocol) => accept.subprotocol(protocol),
                None => accept,
            },
            // Not offered: the handshake fails, `open` does not come.
            "/odd" => return accept.subprotocol("odd"),
            _ => accept,
        };
        self.accepted += 1;
        accept
    }

    fn open(&mut self, conn: &mut Conn<'_, State>) {
        assert!(!std::mem::replace(&mut conn.state_mut().seen_open, true), "a second open");
        match conn.state().outbound {
            true => self.connecting -= 1,
            false => self.accepted -= 1,
        }
        let life = Life {
            addr: conn.peer_addr(),
            streams: conn.streams_fragments(),
            received: Vec::new(),
            sent: Vec::new(),
            closing: false,
            ended: None,
            wants_drain: false,
            inside: false,
            bytes_inside: Vec::new(),
        };
        let earlier = self.lives.insert(conn.id(), life);
        assert!(earlier.is_none(), "an id is used again");
        self.send(conn, Message::Text("welcome"));
    }

    fn message(&mut self, conn: &mut Conn<'_, State>, message: Message<'_>) {
        let life = self.life(conn);
        assert!(!life.streams && !life.closing);
        life.received.push(seen(message));
        let bytes = match message {
            Message::Text(text) => text.as_bytes(),
            Message::Binary(bytes) => bytes,
        };
        match *bytes {
            [b'!', ref reason @ ..] => {
                life.closing = true;
                conn.close(CloseCode(4000), &String::from_utf8_lossy(reason));
                self.send(conn, message);
            }
            [b'?', ref payload @ ..] => drop(conn.ping(payload)),
            [b'*', times, ..] => (0..times).for_each(|_| self.send(conn, message)),
            [b'@', host, ..] if self.to_connect.len() < 4 => {
                self.to_connect.push(SocketAddr::from(([10, 9, 9, host % 4], 80)));
            }
            _ => self.send(conn, message),
        }
    }

    fn fragment(&mut self, conn: &mut Conn<'_, State>, fragment: Fragment<'_>) {
        let Fragment { kind, payload, first, last } = fragment;
        let life = self.life(conn);
        assert!(life.streams && !life.closing);
        assert_eq!(life.inside, !first);
        assert!(last || !payload.is_empty());
        life.inside = !last;
        life.bytes_inside.extend_from_slice(payload);
        if last {
            let bytes = std::mem::take(&mut life.bytes_inside);
            life.received.push(match kind {
                ringwire::ws::Kind::Text => Seen::Text(String::from_utf8(bytes).expect("whole text")),
                ringwire::ws::Kind::Binary => Seen::Binary(bytes),
            });
        }
        self.send(conn, Message::Binary(payload));
    }

    fn drain(&mut self, conn: &mut Conn<'_, State>) {
        // It may also come after backpressure that a `Remote` met.
        self.life(conn).wants_drain = false;
        assert_eq!(conn.backpressure_bytes(), 0);
    }

    fn close(&mut self, id: ConnId, state: State, reason: CloseReason<'_>) {
        assert!(state.seen_open);
        let ending = match reason {
            CloseReason::Violation(violation) => Ending::Violation(violation.close_code()),
            _ => Ending::Other,
        };
        let life = self.lives.get_mut(&id).expect("close without open");
        assert_eq!(life.ended.replace(ending), None, "a second close");
        if let CloseReason::Peer { code: Some(code), .. } = reason {
            assert!(code.is_valid_on_wire(), "{code}");
        }
    }

    fn http(&mut self, request: &Request<'_>) -> Reply<State> {
        let response = match request.path() {
            "/large" => Response::text(200, vec![b'l'; 3_000]),
            "/close" => Response::text(200, "closing\n").closing(),
            _ => Response::text(200, request.body().to_vec()),
        };
        response.into()
    }

    fn connect_failed(&mut self, state: State, _error: ConnectError) {
        assert!(state.outbound && !state.seen_open);
        self.connecting -= 1;
    }

    fn turn(&mut self, shard: &mut Shard<'_, State>) -> Option<Duration> {
        for to in std::mem::take(&mut self.to_connect) {
            self.connecting += 1;
            shard.connect(to, ClientRequest::default(), State { outbound: true, seen_open: false });
        }
        None
    }
}
