//! Before the frames: HTTP requests, upgrades, and the client role's answer.
//!
//! A request that came whole is parsed where it lies; only one that came in pieces is copied, into
//! the connection's carry buffer, which is bounded by the limits on heads and bodies.

use super::deferred::Exchange;
use super::events::event;
use super::party::Party;
use super::receive::Outcome;
use super::slot::{Entry, Flags};
use crate::handler::{Accept, ConnectError, Decision, Handler, ReplyKind, Request};
use crate::http::{self, Body, HEADER_SLOT, Head, HeadScanner, MAX_HEADERS, Response};
use crate::ws::deflate::DeflateParams;
use crate::ws::handshake::{self, Offer};

/// How a TLS connection begins, and no request: a record's type (RFC 8446 §5.1).
const HANDSHAKE_RECORD: u8 = 22;
/// A fatal alert, before any key: protocol_version.
const NO_TLS: [u8; 7] = [21, 3, 1, 0, 2, 2, 70];

/// Where serving requests stopped.
pub(super) enum Served {
    /// What is left is not a whole request, or has to wait: for the outbox, or for an earlier answer.
    Rest,
    /// An upgrade was accepted; what is left are frames.
    Open,
    /// The last answer is queued; what is left is discarded.
    Ended,
    /// There is nothing to say to the peer.
    Broken,
}

/// What became of the request at the front.
pub(super) enum Next {
    /// It is not whole.
    Wait,
    /// It was answered and was this many bytes long.
    Request(usize),
    /// Its answer was put off; it was this many bytes long.
    Deferred(usize),
    /// It was an upgrade, this many bytes long.
    Open(usize),
    /// It was the last.
    Ended,
}

impl<H: Handler> Party<'_, H> {
    /// Takes bytes of a connection that is not a WebSocket yet. Empty input looks again at what was
    /// put off.
    #[inline(never)]
    pub fn take_requests(&mut self, input: &mut [u8]) -> Outcome {
        let mut carry = self.common.take_carry(self.slot);
        if carry.is_empty() {
            self.common.pool.give(carry);
            let (used, served) = self.serve(input);
            return self.go_on(&mut input[used..], served);
        }
        carry.extend_from_slice(input);
        let (used, served) = self.serve(&carry);
        if let Served::Rest = served {
            carry.drain(..used);
            self.common.receive(self.slot).carry = carry;
            return Outcome::Continue;
        }
        let outcome = self.go_on(&mut carry[used..], served);
        self.common.pool.give(carry);
        outcome
    }

    pub(super) fn go_on(&mut self, rest: &mut [u8], served: Served) -> Outcome {
        match served {
            Served::Open if rest.is_empty() => Outcome::Continue,
            Served::Open => self.take_frames(rest, false),
            Served::Ended => Outcome::Ended,
            Served::Broken => Outcome::Abort,
            Served::Rest => {
                if !rest.is_empty() {
                    let mut carry = self.common.pool.take(rest.len());
                    carry.extend_from_slice(rest);
                    self.common.receive(self.slot).carry = carry;
                }
                Outcome::Continue
            }
        }
    }

    /// Answers the whole requests at the front of `buf`; returns how many bytes they were.
    fn serve(&mut self, buf: &[u8]) -> (usize, Served) {
        let mut at = match self.take_proxy_header(buf) {
            Ok(bytes) => bytes,
            Err(served) => return (0, served),
        };
        loop {
            let rest = &buf[at..];
            let put_off = self.common.queued(self.slot) >= self.common.limits.pause_receive_bytes as usize;
            if rest.is_empty() || put_off {
                return (at, Served::Rest);
            }
            match self.request(rest) {
                Next::Wait => return (at, Served::Rest),
                Next::Request(bytes) => at += bytes,
                Next::Deferred(bytes) => return (at + bytes, Served::Rest),
                Next::Open(bytes) => return (at + bytes, Served::Open),
                Next::Ended => return (buf.len(), Served::Ended),
            }
        }
    }

    /// Takes the header that a trusted proxy begins with; tells how many bytes it was.
    pub(super) fn take_proxy_header(&mut self, buf: &[u8]) -> Result<usize, Served> {
        if !self.slot.entry.has(Entry::PROXY_DUE) {
            return Ok(0);
        }
        match http::parse_proxy(buf) {
            Ok(None) => Err(Served::Rest),
            Ok(Some(header)) => {
                self.slot.entry.take(Entry::PROXY_DUE);
                if header.source.is_some_and(|source| !self.common.enter_behind_proxy(self.slot, source)) {
                    if self.slot.flags.has(Flags::TLS) {
                        return Err(Served::Broken);
                    }
                    self.refuse(self.common.refusal());
                    return Err(Served::Ended);
                }
                Ok(header.bytes)
            }
            Err(_) => {
                event!(warn, shard = self.common.shard, slot = self.token.slot, "no valid PROXY header");
                self.common.stats.proxy_headers_invalid.add(1);
                Err(Served::Broken)
            }
        }
    }

    fn request(&mut self, buf: &[u8]) -> Next {
        if let [HANDSHAKE_RECORD, 3, ..] = buf
            && !self.slot.flags.has(Flags::TLS)
        {
            return self.refuse_tls();
        }
        let received = self.common.received(self.slot);
        let (mut scanner, request_bytes) =
            received.map_or_else(Default::default, |received| (received.scanner, received.request_bytes));
        if buf.len() < request_bytes {
            return Next::Wait;
        }
        let head_bytes = match scanner.scan(buf, self.common.limits.max_head_bytes) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => {
                self.common.receive(self.slot).scanner = scanner;
                return Next::Wait;
            }
            Err(error) => return self.refuse(error.into()),
        };
        let mut slots = [HEADER_SLOT; MAX_HEADERS];
        let max_headers = usize::from(self.common.limits.max_headers).clamp(1, MAX_HEADERS);
        let head = match http::parse_request(&buf[..head_bytes], &mut slots[..max_headers]) {
            Ok(head) => head,
            Err(error) => return self.refuse(error.into()),
        };
        if handshake::is_upgrade(&head) {
            self.common.end_handshake(self.slot);
            return self.upgrade(&head, head_bytes);
        }
        let body_bytes = match head.body() {
            Body::None => 0,
            Body::Length(bytes) if bytes <= u64::from(self.common.limits.max_http_body_bytes) => {
                bytes as usize
            }
            Body::Length(_) => {
                return self.refuse(Response::text(413, "The request's body is too large.\n"));
            }
        };
        let whole = head_bytes + body_bytes;
        if buf.len() < whole {
            self.await_body(&head, whole);
            return Next::Wait;
        }
        self.answer_request(&head, &buf[head_bytes..whole], whole)
    }

    /// The end of the head is found again when the body is there: once, not per piece.
    fn await_body(&mut self, head: &Head<'_>, whole: usize) {
        let received = self.common.receive(self.slot);
        let first = std::mem::replace(&mut received.request_bytes, whole) == 0;
        received.scanner = HeadScanner::default();
        if first && head.has_token("expect", "100-continue") {
            self.append(32, |out| out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n"));
        }
    }

    fn answer_request(&mut self, head: &Head<'_>, body: &[u8], whole: usize) -> Next {
        let peer = self.common.peers.get(self.slot);
        self.common.end_handshake(self.slot);
        self.common.stats.http_requests.add(1);
        self.common.last_request = self.common.last_request.wrapping_add(1);
        let ticket = self.ticket();
        let reply = self.handler.http(&Request {
            head,
            body,
            peer,
            offer: None,
            ticket,
            #[cfg(feature = "tls")]
            tls: self.common.tls.info(self.token.slot),
        });
        self.forget_request();
        let exchange = Exchange { keep_alive: head.keep_alive(), head_only: head.method() == "HEAD" };
        let response = match reply.0 {
            ReplyKind::Stream { response, state } if response.may_have_body() && !self.common.draining => {
                self.begin_stream(head, &response, state);
                return Next::Ended;
            }
            ReplyKind::Later { state, within } if !self.common.draining => {
                return if self.defer(state, within, exchange) { Next::Deferred(whole) } else { Next::Ended };
            }
            ReplyKind::Later { state, .. } => {
                self.handler.abandoned(ticket, state);
                going_away()
            }
            ReplyKind::Stream { response, .. } if response.may_have_body() => going_away(),
            ReplyKind::Stream { response, .. } | ReplyKind::Now(response) => response,
        };
        if self.queue_response(&response, exchange) { Next::Request(whole) } else { Next::Ended }
    }

    /// Queues the answer to a request; tells whether the connection stays for another.
    pub(super) fn queue_response(&mut self, response: &Response, exchange: Exchange) -> bool {
        let keep_alive = exchange.keep_alive && !response.is_closing() && !self.common.draining;
        self.append_response(response, exchange.head_only, keep_alive);
        self.slot.since = self.common.tick;
        if !keep_alive {
            self.finishing();
        }
        keep_alive
    }

    fn forget_request(&mut self) {
        if let Some(received) = self.common.received(self.slot) {
            (received.scanner, received.request_bytes) = Default::default();
        }
    }

    /// Answers with an error. Where the next request would begin is not known or not of interest:
    /// the connection ends.
    pub(super) fn refuse(&mut self, response: Response) -> Next {
        self.common.stats.http_errors.add(1);
        self.append_response(&response, false, false);
        self.finishing();
        Next::Ended
    }

    /// Who begins TLS on a plain port is told so by an alert.
    fn refuse_tls(&mut self) -> Next {
        self.common.stats.tls_on_plain_port.add(1);
        self.append(NO_TLS.len(), |out| out.extend_from_slice(&NO_TLS));
        self.finishing();
        Next::Ended
    }

    fn upgrade(&mut self, head: &Head<'_>, head_bytes: usize) -> Next {
        match self.decide(head) {
            Ok(accept) => {
                self.forget_request();
                self.slot.flags.assign(Flags::STREAM, accept.stream);
                self.common.set_overflow(self.slot, self.token, accept.overflow);
                let Some(within) = accept.later else {
                    self.tell_open(accept.state);
                    return Next::Open(head_bytes);
                };
                // What was queued as an answer is one only when it is accepted.
                let exchange = Exchange { keep_alive: false, head_only: false };
                if self.defer(accept.state, within, exchange) {
                    Next::Deferred(head_bytes)
                } else {
                    Next::Ended
                }
            }
            Err(response) => {
                self.common.stats.upgrades_refused.add(1);
                self.refuse(response)
            }
        }
    }

    /// Asks the handler. If it accepts, the 101 response is queued; if it decides later, it is kept.
    fn decide(&mut self, head: &Head<'_>) -> Result<Accept<H::State>, Response> {
        if self.common.draining {
            return Err(going_away());
        }
        let mut offer = handshake::evaluate(head, &self.common.origin)?;
        let peer = self.common.peers.get(self.slot);
        self.common.last_request = self.common.last_request.wrapping_add(1);
        let request = Request {
            head,
            body: &[],
            peer,
            offer: Some(&offer),
            ticket: self.ticket(),
            #[cfg(feature = "tls")]
            tls: self.common.tls.info(self.token.slot),
        };
        let accept = match self.handler.upgrade(&request).0 {
            Decision::Reject(response) => return Err(response),
            Decision::Accept(accept) => accept,
        };
        if let Some((config, takeover)) = self.common.deflate.terms().filter(|_| accept.compress) {
            offer.agree_deflate(config, takeover);
        }
        self.write_accept(&offer, &accept)?;
        self.agreed(offer.deflate());
        Ok(accept)
    }

    fn write_accept(&mut self, offer: &Offer<'_>, accept: &Accept<H::State>) -> Result<(), Response> {
        let subprotocol = accept.subprotocol.as_deref();
        if subprotocol.is_some_and(|chosen| !offer.protocols().any(|offered| offered == chosen)) {
            return Err(Response::text(500, "The server chose a subprotocol that was not offered.\n"));
        }
        let mut written = Ok(());
        let mut write = |out: &mut Vec<u8>| written = offer.write_response(out, subprotocol, &accept.headers);
        if accept.later.is_none() {
            self.append(256, write);
        } else {
            write(&mut self.common.receive(self.slot).acceptance);
        }
        debug_assert!(written.is_ok());
        Ok(())
    }

    /// Remembers what the handshake agreed upon, or will have if it is accepted.
    fn agreed(&mut self, deflate: Option<DeflateParams>) {
        if let Some(params) = deflate {
            self.slot.session.agree_deflate(params);
            self.common.deflate.own(self.token.slot, params, self.slot.session.role());
        }
    }

    /// Takes the server's answer to our handshake (client role).
    #[inline(never)]
    pub fn take_answer(&mut self, input: &mut [u8]) -> Outcome {
        let received = self.common.receive(self.slot);
        let mut answer = std::mem::take(&mut received.carry);
        answer.extend_from_slice(input);
        let Some(mut handshake) = received.handshake.take() else { return Outcome::Abort };
        match handshake.check_response(&answer) {
            Ok(None) => {
                let received = self.common.receive(self.slot);
                (received.carry, received.handshake) = (answer, Some(handshake));
                Outcome::Continue
            }
            Ok(Some(established)) => {
                let Some(state) = self.state.take() else { return Outcome::Abort };
                self.agreed(established.deflate);
                self.tell_open(state);
                let outcome = self.go_on(&mut answer[established.consumed..], Served::Open);
                self.common.pool.give(answer);
                outcome
            }
            Err(error) => {
                if let Some(state) = self.state.take() {
                    self.handler.connect_failed(state, ConnectError::Handshake(error));
                }
                Outcome::Abort
            }
        }
    }
}

fn going_away() -> Response {
    Response::text(503, "The server is going away.\n")
}
