//! The handler under test: an echo that can be told to do other things, and a log of all it saw.

use ringwire::http::{Event, Response};
use ringwire::{
    ClientRequest, CloseCode, CloseReason, Conn, ConnId, ConnectError, Dropped, Fragment, Handler, Message,
    Prepared, Presence, Publication, Remote, Reply, Request, SendResult, Shard, ShardInfo, Ticket, Transport,
    Upgrade,
};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// What the test asks of the handler's next turn.
#[derive(Debug)]
pub enum Ask {
    /// `Shard::connect`, with this tag.
    Connect { to: SocketAddr, request: ClientRequest, tag: String },
    /// `Shard::conn(id)` and then `Conn::close`.
    Close { id: ConnId, code: u16 },
    /// `Shard::conn(id)` and then `Conn::send_binary` of that many bytes.
    Send { id: ConnId, bytes: usize },
    /// `Shard::each_conn` and then, for each size, `Conn::send_prepared` of that many bytes and
    /// `Conn::send_text`.
    SendEach { sizes: Vec<usize> },
    /// `Shard::stop`.
    Stop,
}

#[derive(Debug, Default)]
pub struct Shared {
    /// Tag and event, in order.
    log: Vec<(String, String)>,
    pub ids: HashMap<String, ConnId>,
    /// Of requests that are answered later.
    pub tickets: HashMap<String, Ticket>,
    pub asks: VecDeque<Ask>,
}

/// What test and handlers share.
#[derive(Clone, Debug, Default)]
pub struct Notes(Arc<Mutex<Shared>>);

impl Notes {
    pub fn lock(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn write(&self, tag: &str, event: impl Into<String>) {
        self.lock().log.push((tag.to_owned(), event.into()));
    }

    /// The events of one tag.
    pub fn of(&self, tag: &str) -> Vec<String> {
        let shared = self.lock();
        shared.log.iter().filter(|(of, _)| of == tag).map(|(_, event)| event.clone()).collect()
    }

    /// Every `open` has had one `close`, and nothing came after it.
    pub fn assert_paired(&self) {
        let mut open: HashMap<&str, i64> = HashMap::new();
        let shared = self.lock();
        for (tag, event) in &shared.log {
            let count = open.entry(tag).or_default();
            match event.as_str() {
                "open" => *count += 1,
                close if close.starts_with("close ") => *count -= 1,
                _ => {}
            }
            assert!(*count >= 0, "{tag}: a close without an open: {:?}", shared.log);
        }
        let unpaired: Vec<_> = open.iter().filter(|(_, count)| **count != 0).collect();
        assert!(unpaired.is_empty(), "opened and not closed: {unpaired:?}");
    }
}

/// One connection's state.
#[derive(Debug)]
pub struct Visitor {
    pub tag: String,
    path: String,
}

#[derive(Debug)]
pub struct Service {
    notes: Notes,
    remote: Remote,
}

impl Service {
    pub fn new(info: &ShardInfo, notes: Notes) -> Self {
        Self { notes, remote: info.remote.clone() }
    }

    /// What a text of the form `!word …` asks for.
    fn obey(&mut self, conn: &mut Conn<'_, Visitor>, words: &[&str]) {
        let tag = conn.state().tag.clone();
        match *words {
            ["!close", code, ref reason @ ..] => {
                conn.close(CloseCode(code.parse().unwrap()), &reason.join(" "));
                let after = conn.send_text("after close");
                self.notes.write(&tag, format!("send after close {after:?}"));
            }
            ["!ping", payload] => drop(conn.ping(payload.as_bytes())),
            ["!close-other", other, code] => {
                let id = self.notes.lock().ids[other];
                self.remote.close(id, CloseCode(code.parse().unwrap()), "by another").unwrap();
            }
            // So many messages of so many bytes, numbered in their first bytes.
            ["!burst", messages, bytes] => {
                let mut counts: HashMap<SendResult2, usize> = HashMap::new();
                let mut payload = vec![b'.'; bytes.parse().unwrap()];
                for number in 0..messages.parse::<u32>().unwrap() {
                    payload[..4].copy_from_slice(&number.to_be_bytes());
                    *counts.entry(conn.send_binary(&payload).into()).or_default() += 1;
                }
                let count = |result| counts.get(&result).copied().unwrap_or(0);
                let (sent, queued) = (count(SendResult2::Sent), count(SendResult2::Queued));
                self.notes.write(&tag, format!("burst {sent} {queued} {}", count(SendResult2::Dropped)));
            }
            // A line in frames of at most so many bytes.
            ["!frames", bytes, ref line @ ..] => {
                let result = conn.send_in_frames(Message::Text(&line.join(" ")), bytes.parse().unwrap());
                assert!(matches!(result, SendResult::Sent | SendResult::Queued), "{result:?}");
            }
            // A line to all.
            ["!all", ref line @ ..] => self.remote.broadcast(&Prepared::text(line.join(" ")), 0).unwrap(),
            ["!sub" | "!unsub" | "!pub" | "!overflow" | "!user" | "!to" | "!run", ..] => {
                crate::orders::obey(&self.notes, conn, words);
            }
            ["!peer"] => drop(conn.send_text(&conn.peer_addr().to_string())),
            ["!backpressure"] => drop(conn.send_text(&conn.backpressure_bytes().to_string())),
            _ => panic!("no such command: {words:?}"),
        }
    }
}

/// [`SendResult`] with a hash.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum SendResult2 {
    Sent,
    Queued,
    Dropped,
    Closed,
}

impl From<SendResult> for SendResult2 {
    fn from(result: SendResult) -> Self {
        match result {
            SendResult::Sent => Self::Sent,
            SendResult::Queued => Self::Queued,
            SendResult::Dropped => Self::Dropped,
            SendResult::Closed => Self::Closed,
        }
    }
}

fn milliseconds(request: &Request<'_>) -> Duration {
    Duration::from_millis(parameter(request.query(), "ms").map_or(60_000, |ms| ms.parse().unwrap()))
}

fn parameter<'a>(query: Option<&'a str>, name: &str) -> Option<&'a str> {
    query?.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

impl Handler for Service {
    type State = Visitor;

    fn upgrade(&mut self, request: &Request<'_>) -> Upgrade<Visitor> {
        let tag = parameter(request.query(), "tag").unwrap_or("-").to_owned();
        self.notes.write(&tag, "upgrade");
        for name in ["x-note", "origin"] {
            if let Some(value) = request.header(name) {
                self.notes.write(&tag, format!("{name} {value}"));
            }
        }
        if let Some(cookie) = request.cookie("session") {
            self.notes.write(&tag, format!("cookie {cookie}"));
        }
        let visitor = Visitor { tag, path: request.path().to_owned() };
        match request.path() {
            "/chat" => match request.subprotocols().find(|offered| offered.starts_with("chat")) {
                Some(chosen) => Upgrade::accept(visitor).subprotocol(chosen),
                None => Upgrade::reject(Response::text(400, "speak chat\n")),
            },
            "/unoffered" => Upgrade::accept(visitor).subprotocol("unoffered"),
            "/members" => {
                Upgrade::reject(Response::text(401, "who are you?\n").header("WWW-Authenticate", "Basic"))
            }
            "/later" => {
                self.notes.lock().tickets.insert(visitor.tag.clone(), request.ticket());
                let within = milliseconds(request);
                let chosen = request.subprotocols().find(|offered| *offered == "chat");
                match chosen {
                    Some(chosen) => Upgrade::later(visitor, within).subprotocol(chosen),
                    None => Upgrade::later(visitor, within),
                }
            }
            "/stream" => Upgrade::accept(visitor).stream_fragments(),
            "/whence" => {
                self.notes.write(&visitor.tag, format!("from {}", request.peer_addr()));
                Upgrade::accept(visitor)
            }
            #[cfg(feature = "tls")]
            "/tls" => {
                let told = request.tls().map_or("no TLS".to_owned(), |tls| {
                    let alpn = tls.alpn().map(|alpn| String::from_utf8_lossy(alpn).into_owned());
                    let certificates = tls.peer_certificates().count();
                    format!(
                        "{:?} for {:?} by {:?}, resumed: {}, certificates: {certificates}",
                        tls.version(),
                        tls.server_name(),
                        alpn,
                        tls.is_resumed()
                    )
                });
                self.notes.write(&visitor.tag, told);
                Upgrade::accept(visitor)
            }
            "/set-cookie" => Upgrade::accept(visitor).try_header("Set-Cookie", "seen=1").unwrap(),
            _ => Upgrade::accept(visitor),
        }
    }

    fn open(&mut self, conn: &mut Conn<'_, Visitor>) {
        let Visitor { tag, path } = conn.state();
        self.notes.write(tag, "open");
        self.notes.lock().ids.insert(tag.clone(), conn.id());
        match path.as_str() {
            "/greet-from-afar" => self.remote.send_text(conn.id(), "from afar").unwrap(),
            "/in-room" => {
                conn.subscribe("room").unwrap();
                let came = Prepared::text(format!("{} comes", conn.state().tag));
                conn.publish_with(Publication::new("room", &came).except(conn.id())).unwrap();
            }
            "/greet" => drop(conn.send_text("welcome")),
            "/events" => {
                assert_eq!(conn.transport(), Transport::Events);
                conn.send_event(&Event::data("welcome").id("1").name("hello"));
            }
            "/little" => conn.set_max_outbox_bytes(50_000),
            "/body" => assert_eq!(conn.transport(), Transport::Body),
            "/close-at-open" => conn.close(CloseCode(4001), "not today"),
            _ => {}
        }
    }

    fn message(&mut self, conn: &mut Conn<'_, Visitor>, message: Message<'_>) {
        if let Message::Text(text) = message
            && text.starts_with('!')
        {
            return self.obey(conn, &text.split(' ').collect::<Vec<_>>());
        }
        match conn.state().path.as_str() {
            "/silent" => {}
            "/variations" => {
                let Message::Binary(bytes) = message else { panic!("only binary ones") };
                conn.send_text("before");
                conn.send(message);
                conn.send(message);
                conn.send_binary(&bytes[1..]);
                conn.send_text("after");
            }
            "/joined" => {
                let Message::Binary(bytes) = message else { panic!("only binary ones") };
                let Some((first, rest)) = bytes.split_first_chunk::<7>() else { panic!("only long ones") };
                // Alone, and behind another one.
                for _ in 0..2 {
                    assert_eq!(conn.send_binary_joined(first, rest), SendResult::Sent);
                }
            }
            "/twice" => {
                conn.send(message);
                conn.send_text("and more");
                assert!(matches!(conn.send(message), SendResult::Sent | SendResult::Queued));
            }
            "/echo-and-close" => {
                conn.send(message);
                conn.close(CloseCode(4003), "that was it");
            }
            "/log" => self.notes.write(&conn.state().tag, format!("{message:?}")),
            "/close-at-message" => conn.close(CloseCode::NORMAL, ""),
            _ => {
                let result = conn.send(message);
                if matches!(result, SendResult::Dropped | SendResult::Closed) {
                    self.notes.write(&conn.state().tag, format!("echo {result:?}"));
                }
            }
        }
    }

    fn fragment(&mut self, conn: &mut Conn<'_, Visitor>, fragment: Fragment<'_>) {
        let mut line = vec![b'0' + u8::from(fragment.first) * 2 + u8::from(fragment.last)];
        line.extend_from_slice(fragment.payload);
        conn.send_binary(&line);
    }

    /// A tag is the number of a room, and 0 is for all.
    fn broadcast(&mut self, conn: &mut Conn<'_, Visitor>, message: &Prepared, tag: u64) {
        if tag != 0 && conn.state().path != format!("/room{tag}") {
            return;
        }
        let result = conn.send_prepared(message);
        if matches!(result, SendResult::Dropped | SendResult::Closed) {
            self.notes.write(&conn.state().tag, format!("broadcast {result:?}"));
            if conn.state().path == "/strict" {
                conn.close(CloseCode::TRY_AGAIN_LATER, "too slow");
            }
        }
    }

    fn drain(&mut self, conn: &mut Conn<'_, Visitor>) {
        let Visitor { tag, path } = conn.state();
        self.notes.write(tag, "drain");
        match path.as_str() {
            "/close-at-drain" => conn.close(CloseCode(4002), "drained"),
            "/send-at-drain" => drop(conn.send_text("drained")),
            _ => {}
        }
    }

    fn dropped(&mut self, conn: &mut Conn<'_, Visitor>, dropped: Dropped) {
        let Visitor { tag, path } = conn.state();
        let Dropped { newest, oldest, conflated, .. } = dropped;
        self.notes.write(tag, format!("dropped {newest} {oldest} {conflated}"));
        if path == "/unsubscribe-at-drop" {
            conn.unsubscribe("feed");
        }
    }

    fn presence(&mut self, shard: &mut Shard<'_, Visitor>, change: &Presence) {
        let word = if change.online { "online" } else { "offline" };
        self.notes.write(&format!("user {}", change.user), format!("{word} {}", change.change));
        let news = Prepared::text(format!("{} is {word}", change.user));
        shard.publish("presence", &news).unwrap();
    }

    fn close(&mut self, id: ConnId, state: Visitor, reason: CloseReason<'_>) {
        if state.path == "/in-room" {
            let news = Prepared::text(format!("{} leaves", state.tag));
            let _ = self.remote.publish("room", &news);
        }
        self.notes.write(&state.tag, format!("close {reason:?}"));
        let mut shared = self.notes.lock();
        // Ids are kept under another name: tests use them when they are stale.
        let known = shared.ids.remove(&state.tag);
        let alone = state.tag != "-";
        assert!(known == Some(id) || !alone, "close tells the id that open told");
        shared.ids.insert(format!("{} (closed)", state.tag), id);
    }

    fn http(&mut self, request: &Request<'_>) -> Reply<Visitor> {
        let tag = parameter(request.query(), "tag").unwrap_or("-").to_owned();
        let visitor = Visitor { tag, path: request.path().to_owned() };
        let response = match (request.method(), request.path()) {
            (_, "/events") => return Reply::stream(Response::events(), visitor),
            (_, "/body") => {
                let begin = Response::text(200, "begin ").header("X-Kind", "body");
                return Reply::stream(begin, visitor);
            }
            (_, "/no-body") => return Reply::stream(Response::new(204), visitor),
            (_, "/later") => {
                self.notes.write(&visitor.tag, "later");
                self.notes.lock().tickets.insert(visitor.tag.clone(), request.ticket());
                return Reply::later(visitor, milliseconds(request));
            }
            ("GET" | "HEAD", "/hello") => Response::text(200, "hello\n"),
            ("GET" | "HEAD", "/bytes") => {
                let bytes = request.query().unwrap().parse().unwrap();
                Response::text(200, vec![b'x'; bytes])
            }
            ("POST", "/post") => Response::text(200, request.body().to_vec()),
            (_, "/hello" | "/bytes" | "/post") => Response::text(405, "").header("Allow", "GET, HEAD"),
            ("GET", "/bye") => Response::text(200, "bye\n").closing(),
            _ => Response::text(404, "not here\n"),
        };
        response.into()
    }

    fn expired(&mut self, ticket: Ticket, state: &mut Visitor) -> Response {
        assert_eq!(self.notes.lock().tickets[&state.tag], ticket);
        self.notes.write(&state.tag, "expired");
        Response::text(504, "too late\n")
    }

    fn abandoned(&mut self, ticket: Ticket, state: Visitor) {
        assert_eq!(self.notes.lock().tickets[&state.tag], ticket);
        self.notes.write(&state.tag, "abandoned");
    }

    fn connect_failed(&mut self, state: Visitor, error: ConnectError) {
        self.notes.write(&state.tag, format!("connect failed: {error:?}"));
    }

    fn turn(&mut self, shard: &mut Shard<'_, Visitor>) -> Option<Duration> {
        while let Some(ask) = { self.notes.lock().asks.pop_front() } {
            match ask {
                Ask::Connect { to, request, tag } => {
                    let path = request.path.clone();
                    shard.connect(to, request, Visitor { tag, path });
                }
                Ask::Close { id, code } => {
                    if let Some(mut conn) = shard.conn(id) {
                        conn.close(CloseCode(code), "from turn");
                    }
                }
                Ask::Send { id, bytes } => {
                    if let Some(mut conn) = shard.conn(id) {
                        conn.send_binary(&vec![b'.'; bytes]);
                    }
                }
                Ask::SendEach { sizes } => {
                    let shared = sizes.iter().zip(0..).map(|(size, n)| Prepared::binary(vec![n; *size]));
                    let shared: Vec<_> = shared.collect();
                    shard.each_conn(|conn| {
                        for (number, prepared) in shared.iter().enumerate() {
                            conn.send_prepared(prepared);
                            conn.send_text(&format!("after {number}"));
                        }
                    });
                }
                Ask::Stop => shard.stop(),
            }
        }
        None
    }
}
