//! Random requests that are answered at once, later or on and on, in a simulated network that misbehaves:
//! every one that waits ends once, and every answer is its own request's.
//!
//! Takes the variables that `soak` takes.

use ringwire::http::Response;
use ringwire::sim::{Faults, SimPeer, SimRng, Simulation};
use ringwire::{
    CloseCode, CloseReason, Conn, ConnId, Handler, Message, Reply, Request, Ticket, Transport, Upgrade,
};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// How a request that waited ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Answered,
    Expired,
    Abandoned,
}

#[derive(Debug, Default)]
struct Books {
    /// Requests that wait, by the number that the client gave them.
    waiting: BTreeMap<u64, Ticket>,
    ended: BTreeMap<u64, End>,
    /// Open streams.
    streams: BTreeMap<ConnId, u64>,
    closed: usize,
    opened: usize,
}

struct Service(Rc<RefCell<Books>>);

/// The number behind the last slash.
fn number(path: &str) -> u64 {
    path.rsplit('/').next().unwrap().parse().unwrap()
}

impl Handler for Service {
    type State = u64;

    fn upgrade(&mut self, request: &Request<'_>) -> Upgrade<u64> {
        let number = number(request.path());
        self.0.borrow_mut().waiting.insert(number, request.ticket());
        Upgrade::later(number, Duration::from_millis(number % 7 * 100))
    }

    fn open(&mut self, conn: &mut Conn<'_, u64>) {
        let mut books = self.0.borrow_mut();
        books.opened += 1;
        if conn.transport() == Transport::WebSocket {
            assert_eq!(books.ended.insert(*conn.state(), End::Answered), None);
        }
        books.streams.insert(conn.id(), *conn.state());
        conn.send_text(&format!("begin {}", conn.state()));
    }

    fn message(&mut self, conn: &mut Conn<'_, u64>, message: Message<'_>) {
        conn.send(message);
    }

    fn close(&mut self, id: ConnId, state: u64, _reason: CloseReason<'_>) {
        let mut books = self.0.borrow_mut();
        assert_eq!(books.streams.remove(&id), Some(state), "a close without an open");
        books.closed += 1;
    }

    fn http(&mut self, request: &Request<'_>) -> Reply<u64> {
        let number = number(request.path());
        match request.path().split('/').nth(1).unwrap() {
            "later" => {
                self.0.borrow_mut().waiting.insert(number, request.ticket());
                Reply::later(number, Duration::from_millis(number % 7 * 100))
            }
            "events" => Reply::stream(Response::events(), number),
            "body" => Reply::stream(Response::text(200, format!("first {number}")), number),
            _ => Response::text(200, format!("now {number}")).into(),
        }
    }

    fn expired(&mut self, ticket: Ticket, state: &mut u64) -> Response {
        let mut books = self.0.borrow_mut();
        assert_eq!(books.waiting[state], ticket);
        assert_eq!(books.ended.insert(*state, End::Expired), None, "{state} ended twice");
        Response::text(200, format!("expired {state}"))
    }

    fn abandoned(&mut self, ticket: Ticket, state: u64) {
        let mut books = self.0.borrow_mut();
        assert_eq!(books.waiting[&state], ticket);
        assert_eq!(books.ended.insert(state, End::Abandoned), None, "{state} ended twice");
    }
}

/// One peer and what it asked, in order.
struct Client {
    peer: SimPeer,
    asked: Vec<(&'static str, u64)>,
    heard: Vec<u8>,
    /// It has asked for what never ends, or for an upgrade.
    last: bool,
    gone: bool,
}

impl Client {
    fn ask(&mut self, kind: &'static str, number: u64, minor: u8) {
        let request = match kind {
            "upgrade" => crate::peer::upgrade_request(&format!("/upgrade/{number}"), ""),
            kind => format!("GET /{kind}/{number} HTTP/1.{minor}\r\nHost: a\r\n\r\n"),
        };
        self.peer.write(request.as_bytes());
        self.asked.push((kind, number));
        self.last = minor == 0 || matches!(kind, "events" | "body" | "upgrade");
    }

    /// Answers come in the order of requests, each once and to its own; an answer may be missing at the
    /// end only where the connection is over.
    fn check(&self, seed: u64) {
        let text = String::from_utf8_lossy(&self.heard).into_owned();
        let mut rest = text.as_str();
        for (kind, number) in &self.asked {
            let Some(at) = rest.find("HTTP/1.1 ") else { return };
            rest = &rest[at + 9..];
            let answer = &rest[..rest.find("HTTP/1.1 ").unwrap_or(rest.len())];
            let Some((head, body)) = answer.split_once("\r\n\r\n") else { return };
            let length = head.split("Content-Length: ").nth(1).and_then(|rest| rest.lines().next());
            // Behind it may be the begin of another, which the end of the connection has cut.
            let body = &body[..length.map_or(body.len(), |bytes| bytes.parse().unwrap()).min(body.len())];
            let own = |words: &[&str]| words.iter().any(|word| format!("{word} {number}").starts_with(body));
            let fits = match (&answer[..3], *kind) {
                // The responder was dropped, a plain request accepted, the server is going away, or half of a
                // request was stuck in the network.
                ("500" | "503", "later" | "upgrade") | ("503" | "408", _) | ("101", "upgrade") => true,
                ("200", "now") => own(&["now"]),
                ("200", "later" | "upgrade") => own(&["answered", "expired"]),
                // In chunks, whose sizes are not looked at here.
                ("200", "events") => body.len() < 30 || body.contains(&format!("data: begin {number}\n")),
                ("200", "body") => body.len() < 20 || body.contains(&format!("first {number}")),
                _ => false,
            };
            assert!(fits, "seed {seed}: {kind} {number} was answered {answer:?}");
        }
        assert!(!rest.contains("HTTP/1.1 "), "seed {seed}: more answers than requests: {rest:?}");
    }
}

fn soak(seed: u64) {
    let mut rng = SimRng::new(seed);
    let books = Rc::new(RefCell::new(Books::default()));
    let faults = if rng.permille(500) { Faults::rough() } else { Faults::calm() };
    let mut simulation = Simulation::builder(seed).faults(faults).build(|_| Service(books.clone()));
    let remote = simulation.remote();
    let mut clients: Vec<Client> = Vec::new();
    let mut next = 0;
    for _ in 0..rng.between(20, 119) {
        match rng.below(10) {
            0 | 1 if clients.len() < 12 => {
                let peer = simulation.connect();
                clients.push(Client { peer, asked: Vec::new(), heard: Vec::new(), last: false, gone: false });
            }
            0..=5 => {
                let kinds = ["now", "now", "later", "later", "later", "events", "body", "upgrade"];
                let open: Vec<usize> =
                    (0..clients.len()).filter(|at| !clients[*at].last && !clients[*at].gone).collect();
                if !open.is_empty() {
                    let client = &mut clients[open[rng.below(open.len() as u64) as usize]];
                    for _ in 0..rng.between(1, 3) {
                        if !client.last {
                            let minor = u8::from(!rng.permille(100));
                            next += 1;
                            client.ask(kinds[rng.below(8) as usize], next, minor);
                        }
                    }
                }
            }
            6 => answer_one(&mut rng, &books, &remote),
            7 => {
                let streams: Vec<ConnId> = books.borrow().streams.keys().copied().collect();
                for id in streams {
                    let _ = if rng.permille(200) {
                        remote.close(id, CloseCode::NORMAL, "")
                    } else {
                        remote.send_text(id, "more")
                    };
                }
            }
            8 if !clients.is_empty() => {
                let at = rng.below(clients.len() as u64) as usize;
                let client = &mut clients[at];
                client.gone = true;
                if rng.permille(500) { client.peer.reset() } else { client.peer.shutdown_write() }
            }
            _ => simulation.advance(Duration::from_millis(rng.below(400))),
        }
        simulation.run();
        clients.iter_mut().for_each(|client| client.heard.extend(client.peer.read()));
    }
    if rng.permille(500) {
        simulation.shutdown();
    }
    simulation.advance(Duration::from_secs(2));
    clients.iter_mut().for_each(|client| client.heard.extend(client.peer.read()));
    for client in &clients {
        client.check(seed);
    }
    simulation.stop();
    simulation.run();
    let books = books.borrow();
    let left: Vec<_> = books.waiting.keys().filter(|number| !books.ended.contains_key(number)).collect();
    // What was answered from outside is known by the answer alone, and by that nothing waits.
    let mut metrics = String::new();
    remote.write_metrics(&mut metrics);
    assert!(metrics.contains("ringwire_requests_deferred{shard=\"0\"} 0\n"), "seed {seed}: {left:?} wait");
    assert_eq!((books.opened, books.streams.len()), (books.closed, 0), "seed {seed}");
}

/// Answers one of those that wait, or one that does not any more.
fn answer_one(rng: &mut SimRng, books: &Rc<RefCell<Books>>, remote: &ringwire::Remote) {
    let all: Vec<(u64, Ticket)> = books.borrow().waiting.iter().map(|(n, ticket)| (*n, *ticket)).collect();
    if all.is_empty() {
        return;
    }
    let (number, ticket) = all[rng.below(all.len() as u64) as usize];
    let _ = match rng.below(4) {
        0 => remote.accept(ticket),
        1 => {
            drop(remote.responder(ticket));
            Ok(())
        }
        _ => remote.respond(ticket, Response::text(200, format!("answered {number}"))),
    };
}

#[test]
fn every_request_that_waits_ends_once() {
    crate::soak::on_each_seed(crate::soak::number("RINGWIRE_SOAK_SEEDS").unwrap_or(300), soak);
}
