//! What a connection holds beside its slot while it is subscribed or has a policy of its own.
//!
//! Found by the slot's number, in pages that exist only while one of their connections needs them: a
//! connection that does not subscribe pays nothing on a core where nobody near it does, and growing
//! copies nothing. A first subscription lies in the record itself; only further ones are allocated.

use super::overflow::Overflow;

/// Slots to a page: 4 KiB.
const PAGE: usize = 128;
/// No topic: the place of a subscription is free.
const NONE: u32 = u32::MAX;
/// The position of a subscription that another one of the same connection covers.
pub const COVERED: u32 = u32::MAX;

/// One subscription of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Sub {
    /// The number of its list.
    pub list: u32,
    /// Its place in the list, or [`COVERED`].
    pub position: u32,
    /// A policy of its own.
    pub overflow: Option<Overflow>,
}

/// One connection's record.
#[derive(Debug)]
pub struct Side {
    first: Sub,
    /// The policy of all messages whose subscription has none.
    pub overflow: Overflow,
    /// Subscriptions to wildcards.
    pub wildcards: u16,
    /// Bytes that may wait for this connection; 0 leaves it to the limit of all.
    pub max_outbox_bytes: u32,
    #[expect(clippy::box_collection, reason = "most records have none, and it makes them smaller")]
    more: Option<Box<Vec<Sub>>>,
}

const _: () = assert!(size_of::<Side>() == 32, "a subscription costs 32 bytes and its place in a list");

impl Default for Side {
    fn default() -> Self {
        let first = Sub { list: NONE, position: COVERED, overflow: None };
        Self { first, overflow: Overflow::DropNewest, wildcards: 0, max_outbox_bytes: 0, more: None }
    }
}

impl Side {
    /// Subscriptions.
    pub fn subs(&self) -> impl Iterator<Item = &Sub> {
        let first = (self.first.list != NONE).then_some(&self.first);
        first.into_iter().chain(self.more.iter().flat_map(|more| more.iter()))
    }

    /// Subscriptions.
    pub fn subs_mut(&mut self) -> impl Iterator<Item = &mut Sub> {
        let first = (self.first.list != NONE).then_some(&mut self.first);
        first.into_iter().chain(self.more.iter_mut().flat_map(|more| more.iter_mut()))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        usize::from(self.first.list != NONE) + self.more.as_ref().map_or(0, |more| more.len())
    }

    /// The subscription to a list.
    pub fn of(&self, list: u32) -> Option<&Sub> {
        self.subs().find(|sub| sub.list == list)
    }

    fn push(&mut self, sub: Sub) {
        if self.first.list == NONE {
            self.first = sub;
        } else {
            let more = self.more.get_or_insert_default();
            if more.is_empty() {
                // Two are as many as most have.
                more.reserve_exact(1);
            }
            more.push(sub);
        }
    }

    fn remove(&mut self, list: u32) -> Option<Sub> {
        if self.first.list == list && list != NONE {
            let next = self.more.as_mut().and_then(|more| more.pop());
            let next = next.unwrap_or(Sub { list: NONE, position: COVERED, overflow: None });
            return Some(std::mem::replace(&mut self.first, next));
        }
        let more = self.more.as_mut()?;
        let at = more.iter().position(|sub| sub.list == list)?;
        Some(more.swap_remove(at))
    }

    /// Of subscriptions beyond the first.
    fn more_bytes(&self) -> usize {
        self.more.as_ref().map_or(0, |more| size_of::<Vec<Sub>>() + more.capacity() * size_of::<Sub>())
    }

    fn is_blank(&self) -> bool {
        self.first.list == NONE
            && self.overflow == Overflow::DropNewest
            && self.max_outbox_bytes == 0
            && self.more.as_ref().is_none_or(|more| more.is_empty())
    }
}

#[derive(Debug)]
struct Page {
    sides: [Side; PAGE],
    used: u32,
}

/// The records of one core.
#[derive(Debug, Default)]
pub struct Sides {
    pages: Vec<Option<Box<Page>>>,
    /// Of pages, and of further subscriptions.
    bytes: usize,
}

impl Sides {
    /// The slot's record, if its page exists.
    #[inline]
    pub fn get(&self, slot: u32) -> Option<&Side> {
        let page = self.pages.get(slot as usize / PAGE)?.as_ref()?;
        Some(&page.sides[slot as usize % PAGE])
    }

    /// As [`get`](Self::get). Nothing may be added or taken away by it.
    pub fn get_mut(&mut self, slot: u32) -> Option<&mut Side> {
        let page = self.pages.get_mut(slot as usize / PAGE)?.as_mut()?;
        Some(&mut page.sides[slot as usize % PAGE])
    }

    /// Adds a subscription.
    pub fn subscribe(&mut self, slot: u32, sub: Sub, wildcard: bool) {
        self.change(slot, |side| {
            side.push(sub);
            side.wildcards += u16::from(wildcard);
        });
    }

    /// Takes a subscription away.
    pub fn unsubscribe(&mut self, slot: u32, list: u32, wildcard: bool) -> Option<Sub> {
        self.get(slot)?;
        self.change(slot, |side| {
            let sub = side.remove(list)?;
            side.wildcards -= u16::from(wildcard);
            Some(sub)
        })
    }

    /// Sets the connection's policy.
    pub fn set_overflow(&mut self, slot: u32, overflow: Overflow) {
        if self.get(slot).is_some() || overflow != Overflow::DropNewest {
            self.change(slot, |side| side.overflow = overflow);
        }
    }

    /// Sets a limit of the connection's own; 0 takes it away.
    pub fn set_max_outbox(&mut self, slot: u32, bytes: u32) {
        if self.get(slot).is_some() || bytes != 0 {
            self.change(slot, |side| side.max_outbox_bytes = bytes);
        }
    }

    /// Takes the whole record away.
    pub fn take(&mut self, slot: u32) -> Option<Side> {
        self.get(slot).filter(|side| !side.is_blank())?;
        Some(self.change(slot, std::mem::take))
    }

    /// Changes a record, and keeps count of those in use.
    fn change<T>(&mut self, slot: u32, change: impl FnOnce(&mut Side) -> T) -> T {
        let at = slot as usize / PAGE;
        if at >= self.pages.len() {
            self.pages.resize_with(at + 1, || None);
        }
        if self.pages[at].is_none() {
            self.bytes += size_of::<Page>();
        }
        let page = self.pages[at].get_or_insert_with(|| {
            Box::new(Page { sides: std::array::from_fn(|_| Side::default()), used: 0 })
        });
        let side = &mut page.sides[slot as usize % PAGE];
        let before = side.is_blank();
        self.bytes -= side.more_bytes();
        let result = change(side);
        self.bytes += side.more_bytes();
        match (before, side.is_blank()) {
            (true, false) => page.used += 1,
            (false, true) => page.used -= 1,
            _ => {}
        }
        if page.used == 0 {
            let left: usize = page.sides.iter().map(Side::more_bytes).sum();
            self.bytes -= size_of::<Page>() + left;
            self.pages[at] = None;
        }
        result
    }

    /// Bytes held.
    pub fn held_bytes(&self) -> usize {
        self.bytes + self.pages.capacity() * size_of::<Option<Box<Page>>>()
    }

    /// The same by a walk, for the part that is counted.
    pub(super) fn walked_bytes(&self) -> (usize, usize) {
        let of = |page: &Page| size_of::<Page>() + page.sides.iter().map(Side::more_bytes).sum::<usize>();
        (self.pages.iter().flatten().map(|page| of(page)).sum(), self.bytes)
    }

    /// Records in use.
    pub fn used(&self) -> usize {
        self.pages.iter().flatten().map(|page| page.used as usize).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sub(list: u32) -> Sub {
        Sub { list, position: list * 10, overflow: None }
    }

    #[test]
    fn records_come_and_go_with_what_is_in_them() {
        let mut sides = Sides::default();
        assert!(sides.unsubscribe(700, 1, false).is_none());
        for list in 1..=5 {
            sides.subscribe(700, sub(list), list == 2);
        }
        assert_eq!(sides.get(700).unwrap().count(), 5);
        assert_eq!(sides.get(700).unwrap().wildcards, 1);
        assert_eq!(sides.unsubscribe(700, 1, false).unwrap().position, 10);
        assert_eq!(sides.unsubscribe(700, 2, true).unwrap().position, 20);
        assert!(sides.unsubscribe(700, 2, true).is_none());
        let mut left: Vec<u32> = sides.get(700).unwrap().subs().map(|sub| sub.list).collect();
        left.sort_unstable();
        assert_eq!(left, [3, 4, 5]);
        assert_eq!(sides.used(), 1);
        assert_eq!(sides.take(700).unwrap().count(), 3);
        assert!(sides.take(700).is_none());
        assert_eq!((sides.used(), sides.get(700).is_none()), (0, true), "the page is freed");
    }

    #[test]
    fn a_policy_keeps_a_record() {
        let mut sides = Sides::default();
        sides.set_overflow(3, Overflow::DropNewest);
        assert_eq!(sides.pages.len(), 0);
        sides.set_overflow(3, Overflow::DropOldest);
        sides.subscribe(3, sub(1), false);
        sides.unsubscribe(3, 1, false);
        assert_eq!(sides.get(3).unwrap().overflow, Overflow::DropOldest);
        sides.set_overflow(3, Overflow::DropNewest);
        assert_eq!(sides.used(), 0);
        sides.set_max_outbox(3, 0);
        assert_eq!(sides.used(), 0);
        sides.set_max_outbox(3, 1_000);
        assert_eq!((sides.used(), sides.get(3).unwrap().max_outbox_bytes), (1, 1_000));
        sides.set_max_outbox(3, 0);
        assert_eq!(sides.used(), 0);
    }
}
