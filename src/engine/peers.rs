//! What the cores of a server share: how to reach each other, who wants what, and who is online.

use super::Command;
use super::interest::{Bits, Interest};
use super::mailbox::Mailbox;
use super::users::Users;
use crate::config::Limits;
use std::sync::OnceLock;

/// See the module's documentation.
#[derive(Debug)]
pub struct Peers {
    /// Of every core, by its number; filled when all have started.
    pub mailboxes: OnceLock<Vec<Mailbox<Command>>>,
    /// What every core has subscribers for.
    pub interests: Vec<Interest>,
    /// How that is looked up.
    pub bits: Bits,
    /// Who is bound to which connections.
    pub users: Users,
    /// As in [`Limits`].
    pub max_topic_bytes: u32,
}

impl Peers {
    /// With no mailboxes yet.
    pub fn new(cores: usize, limits: &Limits) -> Self {
        Self {
            mailboxes: OnceLock::new(),
            interests: (0..cores).map(|_| Interest::default()).collect(),
            bits: Bits::default(),
            users: Users::new(limits.max_user_bytes, limits.max_user_connections),
            max_topic_bytes: limits.max_topic_bytes,
        }
    }

    /// The same, but nothing in it differs from run to run.
    pub fn simulated(cores: usize, limits: &Limits) -> Self {
        Self { bits: Bits::Known, ..Self::new(cores, limits) }
    }

    /// The mailboxes, if the server runs.
    pub fn mailboxes(&self) -> Option<&[Mailbox<Command>]> {
        self.mailboxes.get().map(Vec::as_slice)
    }
}

/// Some of the cores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cores([u64; 4]);

impl Cores {
    /// Adds one.
    pub fn add(&mut self, core: usize) {
        self.0[core / 64] |= 1 << (core % 64);
    }

    /// Whether it is among them.
    pub fn has(self, core: usize) -> bool {
        self.0[core / 64] & (1 << (core % 64)) != 0
    }

    /// Their mailboxes, with their numbers.
    pub fn of(
        self,
        mailboxes: &[Mailbox<Command>],
    ) -> impl DoubleEndedIterator<Item = (usize, &Mailbox<Command>)> + Clone {
        mailboxes.iter().enumerate().filter(move |(core, _)| self.has(*core))
    }
}

impl Peers {
    /// The cores that a publication has to go to: those that may have a subscriber, and all if each is
    /// to retain it.
    pub fn cores_for(&self, topic: &str, retain: bool) -> Cores {
        let (wanted, mut cores) = (self.bits.wanted(topic), Cores::default());
        for (core, interest) in self.interests.iter().enumerate() {
            if retain || wanted.is_wanted_by(interest) {
                cores.add(core);
            }
        }
        cores
    }
}

/// Makes room in all mailboxes, or in none: `reserve` in each, and `cancel` where that was in vain.
pub fn reserve_all<'a, E>(
    mailboxes: impl Iterator<Item = (usize, &'a Mailbox<Command>)> + Clone,
    reserve: impl Fn(&Mailbox<Command>) -> Result<(), E>,
    cancel: impl Fn(&Mailbox<Command>),
) -> Result<(), E> {
    for (at, (_, mailbox)) in mailboxes.clone().enumerate() {
        if let Err(full) = reserve(mailbox) {
            mailboxes.take(at).for_each(|(_, mailbox)| cancel(mailbox));
            return Err(full);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publications_go_where_they_are_wanted() {
        let peers = Peers::new(200, &Limits::default());
        assert_eq!(peers.cores_for("a/1", false), Cores::default());
        let mut counts = super::super::interest::Counts::default();
        counts.add(&peers.bits, &peers.interests[130], "a/", true);
        let mut expected = Cores::default();
        expected.add(130);
        assert_eq!(peers.cores_for("a/1", false), expected);
        assert!(expected.has(130) && !expected.has(2) && !expected.has(131));
        assert!((0..200).all(|core| peers.cores_for("b", true).has(core)));
    }
}
