//! Whole messages that wait for their connection's queue to empty, and may still be thrown away or
//! replaced.
//!
//! Only connections that ask for it have one, and only while their peer does not keep up: what is
//! in a [`Queue`](super::queue::Queue) may have been joined with its neighbours, what is here has not.
//! Nothing here has been handed to the driver, so no frame is ever cut.

use crate::driver::SendBuf;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// What the latest value replaces: the topic, and the key that the publisher chose.
pub type Key = (Arc<str>, u64);

/// Places of dropped messages below which they are left.
const MAX_EMPTY: usize = 32;

#[derive(Debug)]
struct Held {
    frame: SendBuf,
    key: Option<Key>,
    /// Whether it makes room for later ones.
    droppable: bool,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Backlog {
    /// Dropped ones leave their place.
    held: VecDeque<Option<Held>>,
    /// The number of the first place.
    first: u64,
    /// Before this number nothing is droppable.
    droppable_from: u64,
    /// Places of dropped ones.
    empty: usize,
    keys: HashMap<Key, u64>,
}

impl Backlog {
    /// Puts a message behind the others. `droppable` ones make room for later ones; one with a key is
    /// replaced by the next of the same.
    pub fn push(&mut self, frame: SendBuf, droppable: bool, key: Option<Key>) {
        if self.empty > MAX_EMPTY && self.empty > self.held.len() / 2 {
            self.close_ranks();
        }
        let number = self.first + self.held.len() as u64;
        if let Some(key) = &key {
            self.keys.insert(key.clone(), number);
        }
        self.held.push_back(Some(Held { frame, key, droppable }));
    }

    /// Bytes of the message that one with this key would replace.
    pub fn bytes_of(&self, key: &Key) -> Option<usize> {
        let number = self.keys.get(key)?;
        let held = self.held.get((number - self.first) as usize)?.as_ref()?;
        Some(held.frame.as_slice().len())
    }

    /// Puts a message in the place of that with the same key, and returns the old one.
    pub fn replace(&mut self, key: &Key, frame: SendBuf) -> Option<SendBuf> {
        let number = self.keys.get(key)?;
        let held = self.held.get_mut((number - self.first) as usize)?.as_mut()?;
        Some(std::mem::replace(&mut held.frame, frame))
    }

    /// A message with this key that is not to be replaced follows: later ones must not overtake it.
    pub fn settle(&mut self, key: &Key) {
        if let Some(number) = self.keys.remove(key)
            && let Some(Some(held)) = self.held.get_mut((number - self.first) as usize)
        {
            held.key = None;
        }
    }

    /// Takes out the oldest message that is droppable.
    pub fn drop_oldest(&mut self) -> Option<SendBuf> {
        let begin = self.droppable_from.max(self.first) - self.first;
        for at in begin as usize..self.held.len() {
            let place = &mut self.held[at];
            if let Some(held) = place.take_if(|held| held.droppable) {
                self.droppable_from = self.first + at as u64 + 1;
                self.empty += 1;
                self.forget_key(held.key);
                self.skip_empty();
                return Some(held.frame);
            }
        }
        self.droppable_from = self.first + self.held.len() as u64;
        None
    }

    /// Takes out the first message.
    pub fn pop(&mut self) -> Option<SendBuf> {
        self.skip_empty();
        let held = self.held.pop_front()??;
        self.first += 1;
        self.forget_key(held.key);
        Some(held.frame)
    }

    /// So that places at the front do not add up.
    fn skip_empty(&mut self) {
        while let Some(None) = self.held.front() {
            self.held.pop_front();
            self.first += 1;
            self.empty -= 1;
        }
    }

    /// Behind one that is not droppable, places of dropped ones would add up.
    #[cold]
    fn close_ranks(&mut self) {
        self.held.retain(Option::is_some);
        (self.empty, self.droppable_from) = (0, self.first);
        let places = self.held.iter().zip(self.first..);
        for (key, number) in places.filter_map(|(held, number)| Some((held.as_ref()?.key.as_ref()?, number)))
        {
            if let Some(known) = self.keys.get_mut(key) {
                *known = number;
            }
        }
    }

    fn forget_key(&mut self, key: Option<Key>) {
        if let Some(key) = key {
            self.keys.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(byte: u8, len: usize) -> SendBuf {
        SendBuf::Owned(vec![byte; len])
    }

    fn key(name: &str, key: u64) -> Option<Key> {
        Some((name.into(), key))
    }

    fn rest(mut backlog: Backlog) -> Vec<(u8, usize)> {
        let all = std::iter::from_fn(|| backlog.pop());
        let all = all.map(|buf| (buf.as_slice()[0], buf.as_slice().len())).collect();
        assert!(backlog.keys.is_empty() && backlog.held.is_empty());
        all
    }

    #[test]
    fn the_oldest_that_may_go_goes_first() {
        let mut backlog = Backlog::default();
        for (byte, droppable) in [(1, false), (2, true), (3, true), (4, false), (5, true)] {
            backlog.push(frame(byte, 1), droppable, None);
        }
        assert_eq!(backlog.drop_oldest().unwrap().as_slice(), [2]);
        assert_eq!(backlog.pop().unwrap().as_slice(), [1]);
        assert_eq!(backlog.drop_oldest().unwrap().as_slice(), [3]);
        backlog.push(frame(6, 1), true, None);
        assert_eq!(backlog.drop_oldest().unwrap().as_slice(), [5]);
        assert_eq!(backlog.drop_oldest().unwrap().as_slice(), [6]);
        assert!(backlog.drop_oldest().is_none());
        backlog.push(frame(7, 1), true, None);
        assert_eq!(backlog.drop_oldest().unwrap().as_slice(), [7]);
        assert_eq!(rest(backlog), [(4, 1)]);
    }

    #[test]
    fn places_of_dropped_ones_do_not_add_up() {
        let mut backlog = Backlog::default();
        backlog.push(frame(1, 1), false, None);
        backlog.push(frame(2, 1), false, key("kept", 0));
        for round in 0..1_000 {
            backlog.push(frame(3, 1), true, key("round", round));
            assert!(backlog.drop_oldest().is_some());
            assert!(backlog.held.len() <= 2 * MAX_EMPTY + 3 && backlog.keys.len() == 1);
        }
        assert_eq!(backlog.replace(&key("kept", 0).unwrap(), frame(4, 1)).unwrap().as_slice(), [2]);
        assert_eq!(rest(backlog), [(1, 1), (4, 1)]);
    }

    #[test]
    fn the_latest_value_takes_the_place_of_the_one_before() {
        let mut backlog = Backlog::default();
        backlog.push(frame(1, 4), true, key("a", 1));
        backlog.push(frame(2, 4), true, key("a", 2));
        backlog.push(frame(3, 4), true, key("b", 1));
        let (a1, a2) = (key("a", 1).unwrap(), key("a", 2).unwrap());
        assert_eq!(backlog.bytes_of(&a1), Some(4));
        assert_eq!(backlog.replace(&a1, frame(4, 7)).unwrap().as_slice(), [1; 4]);
        assert_eq!(backlog.bytes_of(&a1), Some(7));
        assert_eq!(backlog.pop().unwrap().as_slice(), [4; 7]);
        assert_eq!(backlog.bytes_of(&a1), None, "it is on its way");
        backlog.push(frame(5, 1), true, key("a", 1));
        assert_eq!(backlog.drop_oldest().unwrap().as_slice(), [2; 4]);
        assert!(backlog.replace(&a2, frame(6, 1)).is_none());
        backlog.settle(&a1);
        backlog.push(frame(7, 1), false, None);
        assert!(backlog.replace(&a1, frame(8, 1)).is_none(), "it would overtake");
        backlog.push(frame(8, 1), false, key("a", 1));
        assert_eq!(rest(backlog), [(3, 4), (5, 1), (7, 1), (8, 1)]);
    }
}
