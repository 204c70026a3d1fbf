//! The core's connections: slots, and beside them the handler's state.
//!
//! A token finds its connection only while its generation is the slot's: a late event or a stale
//! id reaches nobody.

use super::slot::Slot;
use super::wheel::{Links, Nodes};
use crate::driver::Token;
use slab::Slab;

/// The most slots one core may have: an index has 24 bits in a [`ConnId`](crate::ConnId).
pub const MAX_SLOTS: u32 = 1 << 24;

/// All connections of one core. `S` is the handler's state.
#[derive(Debug)]
pub struct Table<S> {
    slots: Slab<Slot>,
    states: Vec<Option<S>>,
    last_generation: u32,
}

impl<S> Default for Table<S> {
    fn default() -> Self {
        Self::with_capacity(0)
    }
}

impl<S> Table<S> {
    /// A table that does not move its slots before it holds more than `capacity`: growing would copy
    /// megabytes within a turn, and leave the old copy resident. What is reserved costs address
    /// space only, until it is used.
    pub fn with_capacity(capacity: u32) -> Self {
        let mut states = Vec::new();
        // The state may be large: where there is no room, it grows as vectors do.
        let _ = states.try_reserve_exact(capacity as usize);
        Self { slots: Slab::with_capacity(capacity as usize), states, last_generation: 0 }
    }

    /// Connections, closing ones included.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// All slots are below it.
    pub fn bound(&self) -> u32 {
        self.states.len() as u32
    }

    /// Takes a free slot; `make` is given the new generation.
    pub fn insert(&mut self, make: impl FnOnce(u32) -> Slot) -> Token {
        // 0 is never used, so that a token of zeros is nobody's.
        self.last_generation = self.last_generation.checked_add(1).unwrap_or(1);
        let generation = self.last_generation;
        let index = self.slots.insert(make(generation));
        if index == self.states.len() {
            self.states.push(None);
        }
        Token { slot: index as u32, generation }
    }

    /// The token's slot and state.
    #[inline]
    pub fn get(&mut self, token: Token) -> Option<(&mut Slot, &mut Option<S>)> {
        let slot = self.slots.get_mut(token.slot as usize)?;
        (slot.generation == token.generation).then(|| (slot, &mut self.states[token.slot as usize]))
    }

    /// Frees the token's slot.
    pub fn remove(&mut self, token: Token) -> Option<Slot> {
        let slot = self.slots.get(token.slot as usize)?;
        if slot.generation != token.generation {
            return None;
        }
        self.states[token.slot as usize] = None;
        Some(self.slots.remove(token.slot as usize))
    }

    /// The token of an occupied slot.
    pub fn token(&self, index: u32) -> Option<Token> {
        self.slots.get(index as usize).map(|slot| Token { slot: index, generation: slot.generation })
    }

    /// All connections, with their states.
    pub fn iter(&self) -> impl Iterator<Item = (Token, &Slot, &Option<S>)> {
        self.slots.iter().map(|(index, slot)| {
            let token = Token { slot: index as u32, generation: slot.generation };
            (token, slot, &self.states[index])
        })
    }

    /// Appends the tokens of all connections to `out`.
    pub fn tokens(&self, out: &mut Vec<Token>) {
        out.extend(
            self.slots.iter().map(|(index, slot)| Token { slot: index as u32, generation: slot.generation }),
        );
    }
}

impl<S> Nodes for Table<S> {
    fn links(&mut self, index: u32) -> &mut Links {
        &mut self.slots[index as usize].links
    }
}
