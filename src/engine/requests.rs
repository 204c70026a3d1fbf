//! Before the frames: HTTP requests, upgrades, and the client role's answer.
//!
//! A request that came whole is parsed where it lies; only one that came in pieces is copied, into
//! the connection's carry buffer, which is bounded by the limits on heads and bodies.

use super::common::Common;
use super::receive::{Outcome, finishing, frames};
use super::slot::{Flags, Slot};
use super::tell_open;
use crate::driver::Token;
use crate::handler::{Accept, ConnectError, Decision, Handler, Request};
use crate::http::{self, Body, HEADER_SLOT, Head, HeadScanner, MAX_HEADERS, Response};
use crate::ws::deflate::DeflateParams;
use crate::ws::handshake::{self, Offer};

/// Where serving requests stopped.
enum Served {
    /// What is left is not a whole request, or has to wait for the outbox.
    Rest,
    /// An upgrade was accepted; what is left are frames.
    Open,
    /// The last answer is queued; what is left is discarded.
    Ended,
}

/// Takes bytes of a connection that is not a WebSocket yet. Empty input looks again at what was put
/// off.
pub(super) fn take<H: Handler>(
    handler: &mut H,
    token: Token,
    slot: &mut Slot,
    state: &mut Option<H::State>,
    common: &mut Common,
    input: &mut [u8],
) -> Outcome {
    let carry = common.existing_work(slot).map(|work| std::mem::take(&mut work.carry)).unwrap_or_default();
    if carry.is_empty() {
        common.pool.give(carry);
        let (used, served) = serve(handler, token, slot, state, common, input);
        return go_on(handler, token, slot, state, common, &mut input[used..], served);
    }
    let mut carry = carry;
    carry.extend_from_slice(input);
    let (used, served) = serve(handler, token, slot, state, common, &carry);
    let outcome = match served {
        Served::Rest => {
            carry.drain(..used);
            common.work(slot).carry = carry;
            return Outcome::Continue;
        }
        _ => go_on(handler, token, slot, state, common, &mut carry[used..], served),
    };
    common.pool.give(carry);
    outcome
}

fn go_on<H: Handler>(
    handler: &mut H,
    token: Token,
    slot: &mut Slot,
    state: &mut Option<H::State>,
    common: &mut Common,
    rest: &mut [u8],
    served: Served,
) -> Outcome {
    match served {
        Served::Open if rest.is_empty() => Outcome::Continue,
        Served::Open => frames(handler, token, slot, state, common, rest),
        Served::Ended => Outcome::Ended,
        Served::Rest => {
            if !rest.is_empty() {
                let mut carry = common.pool.take(rest.len());
                carry.extend_from_slice(rest);
                common.work(slot).carry = carry;
            }
            Outcome::Continue
        }
    }
}

/// Answers the whole requests at the front of `buf`; returns how many bytes they were.
fn serve<H: Handler>(
    handler: &mut H,
    token: Token,
    slot: &mut Slot,
    state: &mut Option<H::State>,
    common: &mut Common,
    buf: &[u8],
) -> (usize, Served) {
    let mut at = 0;
    loop {
        let rest = &buf[at..];
        let put_off = common.queued(slot) >= common.limits.pause_receive_bytes as usize;
        if rest.is_empty() || put_off {
            return (at, Served::Rest);
        }
        match request(handler, token, slot, state, common, rest) {
            Next::Wait => return (at, Served::Rest),
            Next::Request(bytes) => at += bytes,
            Next::Open(bytes) => return (at + bytes, Served::Open),
            Next::Ended => return (buf.len(), Served::Ended),
        }
    }
}

enum Next {
    Wait,
    Request(usize),
    Open(usize),
    Ended,
}

fn request<H: Handler>(
    handler: &mut H,
    token: Token,
    slot: &mut Slot,
    state: &mut Option<H::State>,
    common: &mut Common,
    buf: &[u8],
) -> Next {
    let (mut scanner, request_bytes) =
        common.existing_work(slot).map_or_else(Default::default, |work| (work.scanner, work.request_bytes));
    if buf.len() < request_bytes {
        return Next::Wait;
    }
    let head_bytes = match scanner.scan(buf, common.limits.max_head_bytes) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => {
            common.work(slot).scanner = scanner;
            return Next::Wait;
        }
        Err(error) => return refuse(common, slot, token, error.into()),
    };
    let mut slots = [HEADER_SLOT; MAX_HEADERS];
    let max_headers = usize::from(common.limits.max_headers).clamp(1, MAX_HEADERS);
    let head = match http::parse_request(&buf[..head_bytes], &mut slots[..max_headers]) {
        Ok(head) => head,
        Err(error) => return refuse(common, slot, token, error.into()),
    };
    if handshake::is_upgrade(&head) {
        return upgrade(handler, token, slot, state, common, &head, head_bytes);
    }
    let body_bytes = match head.body() {
        Body::None => 0,
        Body::Length(bytes) if bytes <= u64::from(common.limits.max_http_body_bytes) => bytes as usize,
        Body::Length(_) => {
            let response = Response::text(413, "The request's body is too large.\n").closing();
            return refuse(common, slot, token, response);
        }
    };
    let whole = head_bytes + body_bytes;
    if buf.len() < whole {
        // The end of the head is found again when the body is there: once, not per piece.
        let work = common.work(slot);
        let first = std::mem::replace(&mut work.request_bytes, whole) == 0;
        work.scanner = HeadScanner::default();
        if first && head.has_token("expect", "100-continue") {
            common.append(slot, token, 32, |out| out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n"));
        }
        return Next::Wait;
    }
    let peer = common.peers.get(slot);
    common.stats.http_requests.add(1);
    let response = handler.http(&Request { head: &head, body: &buf[head_bytes..whole], peer, offer: None });
    let keep_alive = head.keep_alive() && !response.is_closing() && !common.draining;
    let head_only = head.method() == "HEAD";
    let expected = 256 + response.content().len();
    common.append(slot, token, expected, |out| response.encode(out, head_only, keep_alive));
    let work = common.work(slot);
    (work.scanner, work.request_bytes) = Default::default();
    slot.since = common.tick;
    if keep_alive {
        return Next::Request(whole);
    }
    finishing(common, slot, token);
    Next::Ended
}

/// Answers with an error. Where the next request would begin is not known or not of interest: the
/// connection ends.
fn refuse(common: &mut Common, slot: &mut Slot, token: Token, response: Response) -> Next {
    common.stats.http_errors.add(1);
    let expected = 256 + response.content().len();
    common.append(slot, token, expected, |out| response.encode(out, false, false));
    finishing(common, slot, token);
    Next::Ended
}

fn upgrade<H: Handler>(
    handler: &mut H,
    token: Token,
    slot: &mut Slot,
    state: &mut Option<H::State>,
    common: &mut Common,
    head: &Head<'_>,
    head_bytes: usize,
) -> Next {
    let decision = match handshake::evaluate(head, &common.origin) {
        _ if common.draining => Err(Response::text(503, "The server is going away.\n")),
        Err(refusal) => Err(refusal.into()),
        Ok(mut offer) => {
            let peer = common.peers.get(slot);
            match handler.upgrade(&Request { head, body: &[], peer, offer: Some(&offer) }).0 {
                Decision::Reject(response) => Err(response),
                Decision::Accept(accept) => {
                    if let Some((config, takeover)) = common.deflate.terms().filter(|_| accept.compress) {
                        offer.agree_deflate(config, takeover);
                    }
                    Ok((offer, accept))
                }
            }
        }
    };
    let decision = decision.and_then(|(offer, accept)| answer(common, slot, token, &offer, accept));
    match decision {
        Ok((new_state, stream)) => {
            common.stats.upgrades.add(1);
            if stream {
                slot.flags.set(Flags::STREAM);
            }
            let work = common.work(slot);
            (work.scanner, work.request_bytes) = Default::default();
            tell_open(handler, common, token, slot, state.insert(new_state));
            Next::Open(head_bytes)
        }
        Err(response) => {
            common.stats.upgrades_refused.add(1);
            refuse(common, slot, token, response.closing())
        }
    }
}

/// Queues the 101 response.
fn answer<S>(
    common: &mut Common,
    slot: &mut Slot,
    token: Token,
    offer: &Offer<'_>,
    accept: Accept<S>,
) -> Result<(S, bool), Response> {
    let subprotocol = accept.subprotocol.as_deref();
    if subprotocol.is_some_and(|chosen| !offer.protocols().any(|offered| offered == chosen)) {
        return Err(Response::text(500, "The server chose a subprotocol that was not offered.\n"));
    }
    let mut written = Ok(());
    common.append(slot, token, 256, |out| {
        written = offer.write_response(out, subprotocol, &accept.headers);
    });
    debug_assert!(written.is_ok());
    agreed(common, slot, token, offer.deflate());
    Ok((accept.state, accept.stream))
}

/// Remembers what the handshake agreed upon.
fn agreed(common: &mut Common, slot: &mut Slot, token: Token, deflate: Option<DeflateParams>) {
    if let Some(params) = deflate {
        slot.session.agree_deflate(params);
        common.deflate.own(token.slot, params, slot.session.role());
    }
}

/// Takes the server's answer to our handshake (client role).
pub(super) fn take_answer<H: Handler>(
    handler: &mut H,
    token: Token,
    slot: &mut Slot,
    state: &mut Option<H::State>,
    common: &mut Common,
    input: &mut [u8],
) -> Outcome {
    let work = common.work(slot);
    let mut answer = std::mem::take(&mut work.carry);
    answer.extend_from_slice(input);
    let Some(mut handshake) = work.handshake.take() else { return Outcome::Abort };
    match handshake.check_response(&answer) {
        Ok(None) => {
            let work = common.work(slot);
            (work.carry, work.handshake) = (answer, Some(handshake));
            Outcome::Continue
        }
        Ok(Some(established)) => {
            let Some(opened) = state.as_mut() else { return Outcome::Abort };
            common.stats.upgrades.add(1);
            agreed(common, slot, token, established.deflate);
            tell_open(handler, common, token, slot, opened);
            let rest = &mut answer[established.consumed..];
            let outcome = match rest {
                [] => Outcome::Continue,
                rest => frames(handler, token, slot, state, common, rest),
            };
            common.pool.give(answer);
            outcome
        }
        Err(error) => {
            if let Some(state) = state.take() {
                handler.connect_failed(state, ConnectError::Handshake(error));
            }
            Outcome::Abort
        }
    }
}
