//! One connection and the handler it speaks to, borrowed apart for the length of a call.
//!
//! What a driver's buffer holds is lent at the same time, so nothing here may touch the driver.

use super::common::Common;
use super::events::event;
use super::slot::{Flags, Phase, Slot};
use crate::driver::Token;
use crate::handler::{CloseReason, Conn, ConnId, Handler};
use crate::http::Response;
use crate::ws::Role;

/// See the module's documentation.
pub(super) struct Party<'a, H: Handler> {
    pub handler: &'a mut H,
    pub token: Token,
    pub slot: &'a mut Slot,
    pub state: &'a mut Option<H::State>,
    pub common: &'a mut Common,
}

impl<H: Handler> Party<'_, H> {
    /// The handler, and the connection as it is handed to it; `None` if it is not open to it.
    #[inline]
    pub fn conn(&mut self) -> Option<(&mut H, Conn<'_, H::State>)> {
        let Self { handler, token, slot, state, common } = self;
        let state = state.as_mut()?;
        Some((handler, Conn { token: *token, slot, state, common }))
    }

    /// Queues bytes of which there are about `expected`.
    pub fn append(&mut self, expected: usize, write: impl FnOnce(&mut Vec<u8>)) {
        self.common.append(self.slot, self.token, expected, write);
    }

    /// Queues a response. A long body goes as it is, as a frame that others are sent as well.
    pub fn append_response(&mut self, response: &Response, head_only: bool, keep_alive: bool) {
        self.append(256, |out| response.encode_head(out, keep_alive));
        self.common.share(self.slot, self.token, response.sent_body(head_only));
    }

    /// Whether a last record of TLS is to be sent.
    pub fn owes_last_record(&mut self) -> bool {
        self.slot.flags.has(Flags::TLS) && self.common.tls.owes_last(self.token.slot)
    }

    /// Opens the handler's side.
    pub fn tell_open(&mut self, state: H::State) {
        self.common.enter(self.slot, Phase::Open);
        self.slot.flags.set(Flags::HANDLER_OWED);
        self.slot.last_seen = self.common.tick;
        if self.slot.session.role() == Role::Server {
            self.common.lifetimes.begin(self.token.slot, self.token.generation, self.common.tick);
        }
        event!(debug, shard = self.common.shard, id = ?ConnId::new(self.common.shard, self.token), "open");
        self.common.stats.upgrades.add(1);
        self.common.stats.websockets.add(1);
        if self.slot.flags.has(Flags::TLS) {
            self.common.tls.opened(self.token.slot);
        }
        *self.state = Some(state);
        if let Some((handler, mut conn)) = self.conn() {
            handler.open(&mut conn);
        }
    }

    /// Calls the handler's `close` if it is owed one.
    pub fn tell_close(&mut self, reason: CloseReason<'_>) {
        if !self.slot.flags.take(Flags::HANDLER_OWED) {
            return;
        }
        let Some(state) = self.state.take() else { return };
        event!(
            debug,
            shard = self.common.shard,
            id = ?ConnId::new(self.common.shard, self.token),
            code = reason.code().0,
            ?reason,
            "close"
        );
        self.common.forget(self.token);
        let stats = &self.common.stats;
        let is_stream = self.slot.flags.has(Flags::HTTP);
        if is_stream {
            stats.streams.sub(1);
        } else {
            stats.websockets.sub(1);
        }
        stats.count_close(&reason, !is_stream);
        self.handler.close(ConnId::new(self.common.shard, self.token), state, reason);
    }

    /// From here on input is discarded; FIN follows the last queued byte.
    pub fn finishing(&mut self) {
        self.common.enter(self.slot, Phase::Finishing);
        self.slot.since = self.common.tick;
        self.common.mark_dirty(self.slot, self.token);
    }
}
