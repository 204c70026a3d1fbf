//! What a connection holds beside its slot while it is subscribed or has a policy of its own.
//!
//! Found by the slot's number, in pages that exist only while one of their connections needs them: a
//! connection that does not subscribe pays nothing on a core where nobody near it does, and growing
//! copies nothing. A single subscription lies in the page itself; only what is beyond it is allocated.

use super::overflow::Overflow;

/// Slots to a page: 4 KiB.
const PAGE: usize = 256;
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

/// What one connection has.
#[derive(Debug, Default)]
pub enum Side {
    /// Nothing.
    #[default]
    Blank,
    /// A subscription, as most have.
    One {
        /// It is to a wildcard.
        wildcard: bool,
        /// Which.
        sub: Sub,
    },
    /// More than that.
    More(Box<Record>),
}

/// Several subscriptions, or a policy of the connection's own.
#[derive(Debug, Default)]
pub struct Record {
    subs: Vec<Sub>,
    overflow: Overflow,
    /// Subscriptions to wildcards.
    wildcards: u16,
    max_outbox_bytes: u32,
}

const _: () = assert!(size_of::<Side>() == 16, "a subscription costs 16 bytes and its place in a list");

impl Side {
    /// Subscriptions.
    pub fn subs(&self) -> std::slice::Iter<'_, Sub> {
        match self {
            Self::Blank => [].iter(),
            Self::One { sub, .. } => std::slice::from_ref(sub).iter(),
            Self::More(record) => record.subs.iter(),
        }
    }

    /// Subscriptions.
    pub fn subs_mut(&mut self) -> std::slice::IterMut<'_, Sub> {
        match self {
            Self::Blank => [].iter_mut(),
            Self::One { sub, .. } => std::slice::from_mut(sub).iter_mut(),
            Self::More(record) => record.subs.iter_mut(),
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.subs().len()
    }

    /// The subscription to a list.
    pub fn of(&self, list: u32) -> Option<&Sub> {
        self.subs().find(|sub| sub.list == list)
    }

    /// Subscriptions to wildcards.
    pub fn wildcards(&self) -> u16 {
        match self {
            Self::Blank => 0,
            Self::One { wildcard, .. } => u16::from(*wildcard),
            Self::More(record) => record.wildcards,
        }
    }

    /// The policy of all messages whose subscription has none.
    pub fn overflow(&self) -> Overflow {
        if let Self::More(record) = self { record.overflow } else { Overflow::DropNewest }
    }

    /// Bytes that may wait for this connection; 0 leaves it to the limit of all.
    pub fn max_outbox_bytes(&self) -> u32 {
        if let Self::More(record) = self { record.max_outbox_bytes } else { 0 }
    }

    /// Has a record made of it.
    fn record(&mut self) -> &mut Record {
        if !matches!(self, Self::More(_)) {
            let mut record = Box::<Record>::default();
            if let Self::One { wildcard, sub } = *self {
                // Two are as many as most have.
                record.subs.reserve_exact(2);
                record.subs.push(sub);
                record.wildcards = u16::from(wildcard);
            }
            *self = Self::More(record);
        }
        let Self::More(record) = self else { unreachable!("it was made one") };
        record
    }

    fn push(&mut self, sub: Sub, wildcard: bool) {
        if matches!(self, Self::Blank) {
            *self = Self::One { wildcard, sub };
        } else {
            let record = self.record();
            record.subs.push(sub);
            record.wildcards += u16::from(wildcard);
        }
    }

    fn remove(&mut self, list: u32, wildcard: bool) -> Option<Sub> {
        match self {
            Self::One { sub, .. } if sub.list == list => {
                let sub = *sub;
                *self = Self::Blank;
                Some(sub)
            }
            Self::More(record) => {
                let at = record.subs.iter().position(|sub| sub.list == list)?;
                record.wildcards -= u16::from(wildcard);
                Some(record.subs.swap_remove(at))
            }
            _ => None,
        }
    }

    /// What it holds beside its place in a page.
    fn more_bytes(&self) -> usize {
        let Self::More(record) = self else { return 0 };
        size_of::<Record>() + record.subs.capacity() * size_of::<Sub>()
    }

    /// Gives up a record for which there is no need any more.
    fn tidy(&mut self) {
        let Self::More(record) = self else { return };
        if record.overflow != Overflow::DropNewest || record.max_outbox_bytes != 0 {
            return;
        }
        match record.subs[..] {
            [] => *self = Self::Blank,
            [sub] => *self = Self::One { wildcard: record.wildcards > 0, sub },
            _ => {}
        }
    }

    fn is_blank(&self) -> bool {
        matches!(self, Self::Blank)
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
    /// Of pages, and of records.
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
        self.change(slot, |side| side.push(sub, wildcard));
    }

    /// Takes a subscription away.
    pub fn unsubscribe(&mut self, slot: u32, list: u32, wildcard: bool) -> Option<Sub> {
        self.get(slot)?;
        self.change(slot, |side| side.remove(list, wildcard))
    }

    /// Sets the connection's policy.
    pub fn set_overflow(&mut self, slot: u32, overflow: Overflow) {
        if self.get(slot).map_or(Overflow::DropNewest, Side::overflow) != overflow {
            self.change(slot, |side| side.record().overflow = overflow);
        }
    }

    /// Sets a limit of the connection's own; 0 takes it away.
    pub fn set_max_outbox(&mut self, slot: u32, bytes: u32) {
        if self.get(slot).map_or(0, Side::max_outbox_bytes) != bytes {
            self.change(slot, |side| side.record().max_outbox_bytes = bytes);
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
        side.tidy();
        self.bytes += side.more_bytes();
        match (before, side.is_blank()) {
            (true, false) => page.used += 1,
            (false, true) => page.used -= 1,
            _ => {}
        }
        if page.used == 0 {
            self.bytes -= size_of::<Page>();
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
        assert_eq!(sides.get(700).unwrap().wildcards(), 1);
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
        assert_eq!(sides.get(3).unwrap().overflow(), Overflow::DropOldest);
        sides.set_overflow(3, Overflow::DropNewest);
        assert_eq!(sides.used(), 0);
        sides.set_max_outbox(3, 0);
        assert_eq!(sides.used(), 0);
        sides.set_max_outbox(3, 1_000);
        assert_eq!((sides.used(), sides.get(3).unwrap().max_outbox_bytes()), (1, 1_000));
        sides.set_max_outbox(3, 0);
        assert_eq!(sides.used(), 0);
    }
}
