//! Responses that go on: their messages, their heartbeat and their end.
//!
//! Such a connection is in [`Phase::Stream`] and has the outbox, the limits and the deadlines of any
//! other. The contract: what was begun as chunks ends with the last chunk (RFC 9112 §7.1) only where
//! the handler, a drain or its age ended it; a client that misses it has lost something.

use super::common::{Common, SendResult};
use super::party::Party;
use super::slot::{Flags, Phase, Slot};
use crate::driver::Token;
use crate::handler::{Handler, Transport};
use crate::http::{CHUNK_OVERHEAD_BYTES, Event, Head, LAST_CHUNK, Response, chunk_content, write_chunk};
use crate::ws::{Kind, Prepared};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

impl Slot {
    /// How messages reach the peer of an open connection.
    pub fn transport(&self) -> Transport {
        match (self.flags.has(Flags::HTTP), self.flags.has(Flags::EVENTS)) {
            (false, _) => Transport::WebSocket,
            (true, true) => Transport::Events,
            (true, false) => Transport::Body,
        }
    }
}

impl Common {
    /// Sends one message to whoever has no WebSocket open.
    #[cold]
    pub fn send_to_stream(
        &mut self,
        slot: &mut Slot,
        token: Token,
        kind: Kind,
        payload: &[u8],
    ) -> SendResult {
        if slot.phase != Phase::Stream {
            return SendResult::Closed;
        }
        if slot.transport() == Transport::Body {
            return self.send_piece(slot, token, payload.len(), payload.len(), |out| {
                out.extend_from_slice(payload);
            });
        }
        match (kind, std::str::from_utf8(payload)) {
            (Kind::Text, Ok(text)) => self.send_event(slot, token, &Event::data(text)),
            // An event is text.
            _ => self.send_event(slot, token, &Event::data(&STANDARD.encode(payload))),
        }
    }

    /// Sends one event; over a WebSocket its data, as text.
    pub fn send_event(&mut self, slot: &mut Slot, token: Token, event: &Event<'_>) -> SendResult {
        if slot.phase == Phase::Stream && slot.transport() == Transport::Events {
            let (payload, max) = (event.text().len(), event.max_bytes());
            return self.send_piece(slot, token, payload, max, |out| event.encode(out));
        }
        self.send(slot, token, Kind::Text, event.text().as_bytes())
    }

    /// Sends one message that may go to others as well: its event exists once.
    #[cold]
    pub fn send_prepared_to_stream(
        &mut self,
        slot: &mut Slot,
        token: Token,
        prepared: &Prepared,
    ) -> SendResult {
        let (kind, payload) = prepared.parts();
        let event = prepared.event().filter(|_| slot.flags.has(Flags::EVENTS) && slot.phase == Phase::Stream);
        let Some(chunk) = event else { return self.send_to_stream(slot, token, kind, payload) };
        if !self.has_room(slot, token, chunk.len()) {
            return SendResult::Dropped;
        }
        match slot.flags.has(Flags::CHUNKED) {
            true => self.share(slot, token, chunk),
            false => self.share(slot, token, &chunk.slice(chunk_content(chunk))),
        }
        self.count_sent(slot, payload.len())
    }

    /// Sends at most `max_bytes` of the body.
    fn send_piece(
        &mut self,
        slot: &mut Slot,
        token: Token,
        payload_bytes: usize,
        max_bytes: usize,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> SendResult {
        let max_chunk = max_bytes + CHUNK_OVERHEAD_BYTES;
        if !self.has_room(slot, token, max_chunk) {
            return SendResult::Dropped;
        }
        if max_bytes > 0 {
            let chunked = slot.flags.has(Flags::CHUNKED);
            self.append(slot, token, max_chunk, |out| match chunked {
                true => write_chunk(out, max_bytes, write),
                false => write(out),
            });
        }
        self.count_sent(slot, payload_bytes)
    }

    fn has_room(&mut self, slot: &mut Slot, token: Token, bytes: usize) -> bool {
        let queued = self.queued(slot);
        let fits = queued + bytes <= self.max_outbox(token.slot);
        if !fits {
            self.stats.messages_dropped.add(1);
            if queued > 0 {
                slot.flags.set(Flags::WANTS_DRAIN);
            }
        }
        fits
    }

    fn count_sent(&mut self, slot: &mut Slot, payload_bytes: usize) -> SendResult {
        // An event is text, whatever it stands for.
        let kind = if slot.flags.has(Flags::EVENTS) { Kind::Text } else { Kind::Binary };
        self.stats.count_sent(kind, payload_bytes);
        slot.last_seen = self.tick;
        if self.existing_work(slot).is_none_or(|work| work.in_flight == 0) {
            return SendResult::Sent;
        }
        slot.flags.set(Flags::WANTS_DRAIN);
        SendResult::Queued
    }

    /// Breaks the silence of an event stream; a body has nothing that could stand for it.
    pub fn comment(&mut self, slot: &mut Slot, token: Token) -> SendResult {
        if slot.phase != Phase::Stream || slot.transport() != Transport::Events {
            return SendResult::Closed;
        }
        slot.last_seen = self.tick;
        if self.queued(slot) > 0 {
            // Bytes that wait break it as well, and `write_ms` watches them.
            return SendResult::Queued;
        }
        let comment: &[u8] = match slot.flags.has(Flags::CHUNKED) {
            true => b"3\r\n:\n\n\r\n",
            false => b":\n\n",
        };
        self.append(slot, token, comment.len(), |out| out.extend_from_slice(comment));
        self.stats.comments_sent.add(1);
        SendResult::Sent
    }

    /// Ends the body; `close` is called when all has been sent.
    pub fn end_stream(&mut self, slot: &mut Slot, token: Token) {
        if slot.flags.has(Flags::CHUNKED) {
            self.append(slot, token, LAST_CHUNK.len(), |out| out.extend_from_slice(LAST_CHUNK));
        }
        self.enter(slot, Phase::Finishing);
        slot.since = self.tick;
        self.mark_dirty(slot, token);
    }
}

impl<H: Handler> Party<'_, H> {
    /// Begins a response that goes on, unless its head is all there is to say.
    pub fn begin_stream(&mut self, head: &Head<'_>, response: &Response, state: H::State) {
        let chunked = head.minor_version() >= 1;
        let over = self.slot.flags.has(Flags::EOF) || head.method() == "HEAD";
        self.append(256, |out| response.encode_stream_head(out, chunked));
        if over {
            return self.finishing();
        }
        self.common.enter(self.slot, Phase::Stream);
        self.slot.flags.set(Flags::HTTP);
        if chunked {
            self.slot.flags.set(Flags::CHUNKED);
        }
        if response.is_events() {
            self.slot.flags.set(Flags::EVENTS);
            // Clients of events come back by themselves, and say what they have.
            self.common.lifetimes.begin(self.token.slot, self.token.generation, self.common.tick);
        }
        let first = response.content();
        if !first.is_empty() {
            self.append(first.len() + CHUNK_OVERHEAD_BYTES, |out| match chunked {
                true => write_chunk(out, first.len(), |out| out.extend_from_slice(first)),
                false => out.extend_from_slice(first),
            });
        }
        self.slot.flags.set(Flags::HANDLER_OWED);
        self.slot.last_seen = self.common.tick;
        self.common.stats.streams_opened.add(1);
        self.common.stats.streams.add(1);
        *self.state = Some(state);
        if let Some((handler, mut conn)) = self.conn() {
            handler.open(&mut conn);
        }
    }
}
