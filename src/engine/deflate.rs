//! Compression on one core: contexts lent to messages, and those that connections own.
//!
//! Without takeover, which is the default, a compressor is used within a call and a decompressor is
//! lent for one message: a connection between messages owns nothing. With it, a connection owns
//! both, out of a budget.

use crate::config::{Compression, DeflateConfig};
use crate::ws::Role;
use crate::ws::deflate::{DeflateOffer, DeflateParams, Deflater, InflateLimits, Inflater};
use std::collections::HashMap;

/// Bytes inflated at a time.
const INFLATE_STEP_BYTES: usize = 64 << 10;
/// Decompressors kept for the next messages; the rest is freed.
const MAX_IDLE_INFLATERS: usize = 8;
/// Capacity of the compressor's output kept from message to message.
const KEEP_DEFLATED_BYTES: usize = 64 << 10;

/// What one core compresses with.
#[derive(Debug, Default)]
pub struct Contexts {
    /// `None`: compression is off.
    config: Option<DeflateConfig>,
    idle: Vec<Inflater>,
    lent: u32,
    /// By the window's bits, from 8.
    deflaters: [Option<Deflater>; 8],
    /// What connections with takeover own, by slot.
    owned: HashMap<u32, Owned>,
    owned_bytes: usize,
    step: Vec<u8>,
    deflated: Vec<u8>,
}

/// Made when first used; the budget is charged from the handshake on.
#[derive(Debug)]
struct Owned {
    bytes: usize,
    inflater: Option<Inflater>,
    deflater: Option<Deflater>,
}

/// Bytes that a connection owns with these parameters.
fn cost_bytes(params: DeflateParams, role: Role) -> usize {
    let (ours, theirs) = (params.outgoing(role), params.incoming(role));
    let deflater = if ours.takeover { Deflater::memory_bytes(ours.bits) } else { 0 };
    deflater + if theirs.takeover { Inflater::MEMORY_BYTES } else { 0 }
}

impl Contexts {
    /// Contexts as they are needed.
    pub fn new(compression: Compression) -> Self {
        match compression {
            Compression::Off => Self::default(),
            Compression::Deflate(config) => Self { config: Some(config), ..Self::default() },
        }
    }

    /// The settings to negotiate with, and whether the budget has room for takeover.
    pub fn terms(&self) -> Option<(&DeflateConfig, bool)> {
        let config = self.config.as_ref()?;
        let most = Deflater::memory_bytes(config.max_window_bits) + Inflater::MEMORY_BYTES;
        Some((config, self.owned_bytes + most <= config.max_takeover_bytes as usize))
    }

    /// What a connection that this end opens offers.
    pub fn offer(&self) -> Option<DeflateOffer> {
        self.terms().map(|(config, takeover)| DeflateOffer::new(config, takeover))
    }

    /// Charges the budget with what the connection will own, if anything.
    pub fn own(&mut self, slot: u32, params: DeflateParams, role: Role) {
        let bytes = cost_bytes(params, role);
        if bytes > 0 {
            self.owned_bytes += bytes;
            let before = self.owned.insert(slot, Owned { bytes, inflater: None, deflater: None });
            debug_assert!(before.is_none(), "the slot's last user was disowned");
        }
    }

    /// Frees what the connection owned.
    pub fn disown(&mut self, slot: u32) {
        if let Some(owned) = self.owned.remove(&slot) {
            self.owned_bytes -= owned.bytes;
        }
    }

    /// Bytes owned by connections.
    pub fn owned_bytes(&self) -> usize {
        self.owned_bytes
    }

    /// Bytes owned by the connection of a slot.
    pub fn bytes_of(&self, slot: u32) -> usize {
        self.owned.get(&slot).map_or(0, |owned| owned.bytes)
    }

    /// Messages to come in part for which decompressors are lent.
    pub fn lent(&self) -> u32 {
        self.lent
    }

    /// Bounds on a message.
    pub fn inflate_limits(&self, max_message_bytes: u64) -> InflateLimits {
        let max_ratio = self.config.as_ref().map_or(0, |config| config.max_ratio);
        InflateLimits { max_message_bytes, max_ratio }
    }

    /// A decompressor for a message of the connection. `None`: too many are lent, and the message,
    /// as it is not `whole`, would keep this one.
    pub fn lend(&mut self, slot: u32, takeover: bool, whole: bool) -> Option<Inflater> {
        if takeover && let Some(owned) = self.owned.get_mut(&slot) {
            return Some(owned.inflater.take().unwrap_or_default());
        }
        if !whole && self.lent >= self.config.as_ref().map_or(0, |config| config.max_inflaters) {
            return None;
        }
        self.lent += 1;
        let mut inflater = self.idle.pop().unwrap_or_default();
        inflater.reset();
        Some(inflater)
    }

    /// Takes back what [`lend`](Self::lend) lent.
    pub fn take_back(&mut self, slot: u32, takeover: bool, inflater: Inflater) {
        if takeover {
            if let Some(owned) = self.owned.get_mut(&slot) {
                owned.inflater = Some(inflater);
            }
            return;
        }
        self.lent -= 1;
        if self.idle.len() < MAX_IDLE_INFLATERS {
            self.idle.push(inflater);
        }
    }

    /// The buffer to inflate into, to be given back with [`return_step`](Self::return_step).
    pub fn take_step(&mut self) -> Vec<u8> {
        let mut step = std::mem::take(&mut self.step);
        step.resize(INFLATE_STEP_BYTES, 0);
        step
    }

    /// Takes back the buffer.
    pub fn return_step(&mut self, step: Vec<u8>) {
        self.step = step;
    }

    /// The least size of messages that are compressed.
    #[inline]
    pub fn min_bytes(&self) -> usize {
        self.config.as_ref().map_or(usize::MAX, |config| config.min_bytes as usize)
    }

    /// The message compressed for a connection, unless that gains nothing.
    pub fn compress(
        &mut self,
        slot: u32,
        params: DeflateParams,
        role: Role,
        message: &[u8],
    ) -> Option<&[u8]> {
        let level = self.config.as_ref()?.level;
        let ours = params.outgoing(role);
        self.deflated.clear();
        self.deflated.shrink_to(KEEP_DEFLATED_BYTES);
        let deflater = match self.owned.get_mut(&slot).filter(|_| ours.takeover) {
            Some(owned) => &mut owned.deflater,
            None => &mut self.deflaters[usize::from(ours.bits - 8)],
        };
        let deflater = deflater.get_or_insert_with(|| Deflater::new(level, ours.bits));
        deflater.compress(message, ours.takeover, &mut self.deflated).then_some(&self.deflated)
    }
}
