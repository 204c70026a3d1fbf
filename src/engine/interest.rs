//! Which cores have a subscriber that a topic may be for, told to publishers on other cores: a core that
//! has none is neither sent the message nor woken.
//!
//! Approximate on the safe side: names share bits, so a core may be asked for nothing, but never left
//! out. A core sets its bits before whoever subscribed can hear of it, so what is published because of
//! that finds them set.

use super::names::prefixes;
use std::collections::BTreeSet;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, RandomState};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Bits of a core: 2 KiB. With a thousand topics there, one in sixteen of others is sent in vain.
const BITS: usize = 1 << 14;
/// Counts to a page: 1 KiB.
const PAGE: usize = 256;

/// One core's bits, set by it and read by all.
#[derive(Debug)]
pub struct Interest {
    words: [AtomicU64; BITS / 64],
    /// Wildcards: without any, a topic's prefixes are of no interest.
    wildcards: AtomicU32,
    /// Subscriptions on their way from other threads, which may be to anything.
    coming: AtomicU32,
}

impl Default for Interest {
    fn default() -> Self {
        Self {
            words: std::array::from_fn(|_| AtomicU64::new(0)),
            wildcards: AtomicU32::new(0),
            coming: AtomicU32::new(0),
        }
    }
}

impl Interest {
    /// A subscription is sent to the core: from now on everything is of interest there.
    pub fn expect_one(&self) {
        self.coming.fetch_add(1, Ordering::AcqRel);
    }

    /// It has come, or will not.
    pub fn has_come(&self) {
        self.coming.fetch_sub(1, Ordering::AcqRel);
    }

    /// How many are on their way.
    pub fn coming(&self) -> u32 {
        self.coming.load(Ordering::Acquire)
    }

    fn has(&self, bit: usize) -> bool {
        self.words[bit / 64].load(Ordering::Acquire) & (1 << (bit % 64)) != 0
    }
}

/// A topic as publishers look for it.
#[derive(Debug)]
pub struct Wanted<'a> {
    bits: &'a Bits,
    topic: &'a str,
    bit: usize,
}

/// Chooses the bits, in the same way on all cores.
#[derive(Debug)]
pub enum Bits {
    /// Unknown to peers.
    Secret(RandomState),
    /// The same in every run: for simulations.
    Known,
}

impl Default for Bits {
    fn default() -> Self {
        Self::Secret(RandomState::new())
    }
}

impl Bits {
    /// A topic to look for.
    pub fn wanted<'a>(&'a self, topic: &'a str) -> Wanted<'a> {
        Wanted { bits: self, topic, bit: self.bit(topic, false) }
    }

    fn bit(&self, name: &str, below: bool) -> usize {
        let hash = match self {
            Self::Secret(keys) => keys.hash_one((name, below)),
            Self::Known => BuildHasherDefault::<DefaultHasher>::default().hash_one((name, below)),
        };
        hash as usize % BITS
    }
}

impl Wanted<'_> {
    /// Whether the core may have a subscriber for it.
    pub fn is_wanted_by(&self, core: &Interest) -> bool {
        core.coming() > 0
            || core.has(self.bit)
            || (core.wildcards.load(Ordering::Acquire) > 0
                && prefixes(self.topic).any(|prefix| core.has(self.bits.bit(prefix, true))))
    }
}

/// How many lists stand behind each of a core's own bits. In pages, which exist once one of their bits
/// has been set: most cores have few topics.
#[derive(Debug, Default)]
pub struct Counts(Vec<Option<Box<[u32; PAGE]>>>);

impl Counts {
    /// A first subscriber to a topic, or to what is below a prefix.
    pub fn add(&mut self, bits: &Bits, core: &Interest, name: &str, below: bool) {
        if self.0.is_empty() {
            self.0.resize_with(BITS / PAGE, || None);
        }
        let bit = bits.bit(name, below);
        let count = &mut self.0[bit / PAGE].get_or_insert_with(|| Box::new([0; PAGE]))[bit % PAGE];
        *count += 1;
        if *count == 1 {
            core.words[bit / 64].fetch_or(1 << (bit % 64), Ordering::AcqRel);
        }
        core.wildcards.fetch_add(u32::from(below), Ordering::AcqRel);
    }

    /// The last one is gone.
    pub fn remove(&mut self, bits: &Bits, core: &Interest, name: &str, below: bool) {
        let bit = bits.bit(name, below);
        let page = self.0[bit / PAGE].as_mut().expect("what was added is counted in a page");
        page[bit % PAGE] -= 1;
        if page[bit % PAGE] == 0 {
            core.words[bit / 64].fetch_and(!(1 << (bit % 64)), Ordering::AcqRel);
        }
        core.wildcards.fetch_sub(u32::from(below), Ordering::AcqRel);
    }

    /// Whether just these lists stand behind the core's bits.
    pub fn agree<'a>(
        &self,
        bits: &Bits,
        core: &Interest,
        lists: impl Iterator<Item = (&'a str, bool)>,
    ) -> bool {
        let (mut distinct, mut all, mut wildcards) = (BTreeSet::new(), 0, 0);
        for (name, below) in lists {
            distinct.insert(bits.bit(name, below));
            (all, wildcards) = (all + 1, wildcards + u32::from(below));
        }
        let set: u32 = core.words.iter().map(|word| word.load(Ordering::Acquire).count_ones()).sum();
        set as usize == distinct.len()
            && distinct.iter().all(|bit| core.has(*bit))
            && all == self.0.iter().flatten().flat_map(|page| page.iter()).sum::<u32>()
            && wildcards == core.wildcards.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_wants_what_it_has_subscribers_for() {
        let (bits, core, mut counts) = (Bits::default(), Interest::default(), Counts::default());
        let wants = |topic: &str| bits.wanted(topic).is_wanted_by(&core);
        assert!(!wants("a/1"));
        counts.add(&bits, &core, "a/1", false);
        counts.add(&bits, &core, "a/", true);
        assert!(wants("a/1") && wants("a/2"));
        counts.remove(&bits, &core, "a/", true);
        assert!(wants("a/1"));
        // Names share bits: not all, but nearly all of the others are told apart.
        assert!((0..100).filter(|n| wants(&format!("b/{n}"))).count() < 5);
        counts.add(&bits, &core, "", true);
        assert!(wants("anything"));
        counts.remove(&bits, &core, "", true);
        counts.remove(&bits, &core, "a/1", false);
        assert!(!wants("a/1") && counts.0.iter().flatten().flat_map(|page| **page).all(|count| count == 0));
        core.expect_one();
        assert!(wants("anything"));
        core.has_come();
        assert!(!wants("anything"));
    }
}
