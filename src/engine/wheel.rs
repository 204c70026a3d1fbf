//! One timer wheel per core: four levels of 64 lists over integer ticks.
//!
//! The links live inside the connections' slots, so an armed timer costs no memory of its own. A
//! slot has one timer, its nearest deadline; arming, cancelling and firing are O(1), and finding
//! the next due tick is a look at four bitmaps. Traffic never touches the wheel: a timer that
//! fires too early is simply armed again (see `deadlines`).

/// Milliseconds per tick.
pub const TICK_MS: u32 = 8;

const LEVELS: usize = 4;
const BITS: u32 = 6;
const LISTS: usize = 1 << BITS;
/// The farthest a timer can be set, in ticks (36 hours); a later deadline fires here and is
/// re-armed. One list of the top level short of a round, so that no timer falls into the list that
/// is being emptied.
pub const MAX_TICKS: u32 = (1 << (BITS * LEVELS as u32)) - (1 << (BITS * (LEVELS as u32 - 1)));

const NIL: u32 = u32::MAX;
/// Set in `prev` of a list's first node: the rest is the list's number.
const HEAD: u32 = 1 << 31;

/// A slot's place in the wheel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Links {
    next: u32,
    prev: u32,
    /// The tick this timer fires at, modulo 2^32.
    deadline: u32,
}

impl Links {
    /// Not in the wheel.
    pub const IDLE: Self = Self { next: NIL, prev: NIL, deadline: 0 };

    /// Whether the timer is armed.
    pub fn is_armed(&self) -> bool {
        self.prev != NIL
    }

    /// The tick it fires at, while armed.
    pub fn deadline(&self) -> u32 {
        self.deadline
    }
}

/// Gives the wheel its nodes by slot index. Indices are below 2^31.
pub trait Nodes {
    /// The links of an occupied slot.
    fn links(&mut self, index: u32) -> &mut Links;
}

/// The wheel. `now` is the tick up to which everything due has fired.
#[derive(Debug)]
pub struct Wheel {
    now: u64,
    heads: [u32; LEVELS * LISTS],
    occupied: [u64; LEVELS],
    armed: usize,
    /// The list that is to be emptied first, and when: turns ask far more often than lists are filled or emptied.
    first: Option<(usize, u64)>,
}

impl Wheel {
    /// An empty wheel standing at tick `now`.
    pub fn new(now: u64) -> Self {
        Self { now, heads: [NIL; LEVELS * LISTS], occupied: [0; LEVELS], armed: 0, first: None }
    }

    /// Timers armed.
    pub fn armed(&self) -> usize {
        self.armed
    }

    /// Arms the slot's timer for `tick` (modulo 2^32), replacing an earlier arming. A tick that is
    /// due already fires with the next one.
    pub fn arm(&mut self, nodes: &mut impl Nodes, index: u32, tick: u32) {
        self.cancel(nodes, index);
        let ahead = (tick.wrapping_sub(self.now as u32) as i32).clamp(1, MAX_TICKS as i32) as u32;
        nodes.links(index).deadline = (self.now as u32).wrapping_add(ahead);
        self.insert(nodes, index, self.now + u64::from(ahead));
        self.first = self.find_first();
        self.armed += 1;
    }

    /// Disarms the slot's timer, if it is armed.
    pub fn cancel(&mut self, nodes: &mut impl Nodes, index: u32) {
        let links = *nodes.links(index);
        if !links.is_armed() {
            return;
        }
        if links.next != NIL {
            nodes.links(links.next).prev = links.prev;
        }
        if links.prev & HEAD != 0 {
            let list = (links.prev & !HEAD) as usize;
            self.heads[list] = links.next;
            if links.next == NIL {
                self.occupied[list / LISTS] &= !(1 << (list % LISTS));
                self.first = self.find_first();
            }
        } else {
            nodes.links(links.prev).next = links.next;
        }
        let links = nodes.links(index);
        (links.next, links.prev) = (NIL, NIL);
        self.armed -= 1;
    }

    /// A tick before which nothing fires; `None` when nothing is armed.
    #[inline]
    pub fn next_tick(&self) -> Option<u64> {
        self.first.map(|(_, tick)| tick)
    }

    /// Whether something fires or changes its list by `tick`, which is for [`advance`](Self::advance); moves on to it if not.
    #[inline]
    pub fn is_due(&mut self, tick: u64) -> bool {
        if self.first.is_some_and(|(_, start)| start <= tick) {
            return true;
        }
        self.now = self.now.max(tick);
        false
    }

    /// Moves on to `tick` and appends the slots whose timers fired, disarmed, to `due`.
    pub fn advance(&mut self, nodes: &mut impl Nodes, tick: u64, due: &mut Vec<u32>) {
        while let Some((list, start)) = self.first.filter(|(_, start)| *start <= tick) {
            self.now = start;
            let mut index = std::mem::replace(&mut self.heads[list], NIL);
            self.occupied[list / LISTS] &= !(1 << (list % LISTS));
            while index != NIL {
                let links = nodes.links(index);
                let next = links.next;
                let when = start.wrapping_add_signed(links.deadline.wrapping_sub(start as u32) as i32 as i64);
                (links.next, links.prev) = (NIL, NIL);
                if when <= start {
                    self.armed -= 1;
                    due.push(index);
                } else {
                    self.insert(nodes, index, when);
                }
                index = next;
            }
            self.first = self.find_first();
        }
        self.now = self.now.max(tick);
    }

    fn find_first(&self) -> Option<(usize, u64)> {
        (0..LEVELS).find_map(|level| self.next_list(level))
    }

    /// The first occupied list of a level and the tick at which it is to be emptied.
    fn next_list(&self, level: usize) -> Option<(usize, u64)> {
        if self.occupied[level] == 0 {
            return None;
        }
        let shift = BITS * level as u32;
        let current = ((self.now >> shift) % LISTS as u64) as u32;
        let ahead = self.occupied[level].rotate_right(current).trailing_zeros();
        let list = (current + ahead) as usize % LISTS;
        let round = LISTS as u64 * (1u64 << shift);
        let mut start = (self.now & !(round - 1)) + ((list as u64) << shift);
        if start < (self.now >> shift) << shift {
            start += round;
        }
        Some((level * LISTS + list, start))
    }

    fn insert(&mut self, nodes: &mut impl Nodes, index: u32, when: u64) {
        // The level of the highest bit in which `when` differs from now; its list is emptied, and
        // its nodes moved to lower levels, when that bit group comes round.
        let differing = (self.now ^ when) | (LISTS as u64 - 1);
        let level = ((63 - differing.leading_zeros()) / BITS).min(LEVELS as u32 - 1) as usize;
        let list = level * LISTS + ((when >> (BITS * level as u32)) % LISTS as u64) as usize;
        let first = std::mem::replace(&mut self.heads[list], index);
        if first != NIL {
            nodes.links(first).prev = index;
        }
        let links = nodes.links(index);
        links.next = first;
        links.prev = HEAD | list as u32;
        self.occupied[level] |= 1 << (list % LISTS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    impl Nodes for Vec<Links> {
        fn links(&mut self, index: u32) -> &mut Links {
            &mut self[index as usize]
        }
    }

    fn split_mix(state: &mut u64) -> u64 {
        *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z ^ (z >> 27)
    }

    #[test]
    fn fires_at_its_tick_and_not_before() {
        for start in [0, 63, 64, 4_095, u64::from(u32::MAX) - 3] {
            for ahead in [1, 2, 63, 64, 65, 4_095, 4_096, 4_097, 300_000, MAX_TICKS] {
                let mut nodes = vec![Links::IDLE; 1];
                let mut wheel = Wheel::new(start);
                let mut due = Vec::new();
                wheel.arm(&mut nodes, 0, (start as u32).wrapping_add(ahead));
                wheel.advance(&mut nodes, start + u64::from(ahead) - 1, &mut due);
                assert!(due.is_empty(), "start {start} ahead {ahead}");
                assert!(wheel.next_tick().unwrap() <= start + u64::from(ahead));
                wheel.advance(&mut nodes, start + u64::from(ahead), &mut due);
                assert_eq!(due, [0], "start {start} ahead {ahead}");
                assert_eq!((wheel.armed(), wheel.next_tick()), (0, None));
            }
        }
    }

    #[test]
    fn agrees_with_an_ordered_map() {
        let mut seed = 7;
        let mut nodes = vec![Links::IDLE; 200];
        let mut wheel = Wheel::new(u64::from(u32::MAX) - 5_000);
        let mut now = wheel.now;
        let mut oracle: BTreeMap<u32, u64> = BTreeMap::new();
        let mut due = Vec::new();
        for _ in 0..20_000 {
            let index = (split_mix(&mut seed) % 200) as u32;
            match split_mix(&mut seed) % 4 {
                0 | 1 => {
                    let spread = [4, 70, 5_000, 400_000][(split_mix(&mut seed) % 4) as usize];
                    let when = now + 1 + split_mix(&mut seed) % spread;
                    wheel.arm(&mut nodes, index, when as u32);
                    oracle.insert(index, when);
                }
                2 => {
                    wheel.cancel(&mut nodes, index);
                    oracle.remove(&index);
                }
                _ => {
                    now += split_mix(&mut seed) % 200;
                    due.clear();
                    wheel.advance(&mut nodes, now, &mut due);
                    due.sort_unstable();
                    let expected: Vec<u32> =
                        oracle.iter().filter(|(_, when)| **when <= now).map(|(index, _)| *index).collect();
                    assert_eq!(due, expected);
                    oracle.retain(|_, when| *when > now);
                }
            }
            assert_eq!(wheel.armed(), oracle.len());
            assert_eq!(wheel.first, wheel.find_first());
            if let Some(first) = oracle.values().min() {
                assert!(wheel.next_tick().unwrap() <= *first);
            }
        }
    }
}
