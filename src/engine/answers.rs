//! When answers leave before their turn ends, on drivers that send when they are asked to.
//!
//! A turn receives from many connections and then sends to all of them, which makes one send of what a connection is
//! told several times. What is merely answered is told once. In a calm turn each answer leaves at once, as the
//! last one to come would otherwise be waited for; in a busy one some leave together, as each that leaves alone
//! wakes its peer. The contract: only answers leave early, and only while nothing else waits.

/// Answers of a turn from which on the next one is busy, and how many leave together then.
///
/// Linux frees a received buffer on the core that sent it, and interrupts that core when half of
/// net.core.skb_defer_max (64) wait for it, unless it looks itself because something came.
const MANY: usize = 32;

/// See the module's documentation.
#[derive(Debug)]
pub struct Answers {
    /// Asked for since the last flush.
    waiting: usize,
    of_turn: usize,
    /// How many are to leave together.
    together: usize,
}

impl Default for Answers {
    fn default() -> Self {
        Self { waiting: 0, of_turn: 0, together: 1 }
    }
}

impl Answers {
    /// A turn begins.
    #[inline]
    pub fn turn(&mut self) {
        self.together = if self.of_turn >= MANY { MANY } else { 1 };
        self.of_turn = 0;
    }

    /// A connection from which bytes came is sent something, and no other because of them: it is one of `dirty`
    /// that wait to be flushed. Tells whether to flush now.
    #[inline]
    pub fn is_due(&mut self, dirty: usize) -> bool {
        self.waiting += 1;
        self.of_turn += 1;
        self.waiting >= self.together && self.waiting == dirty
    }

    /// All that waited leaves.
    #[inline]
    pub fn flushed(&mut self) {
        self.waiting = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A turn of so many answers: how many flushes there were before its end, and how many answers the end found.
    fn turn(answers: &mut Answers, of_turn: usize) -> (usize, usize) {
        answers.turn();
        let (mut flushes, mut dirty) = (0, 0);
        for _ in 0..of_turn {
            dirty += 1;
            if answers.is_due(dirty) {
                answers.flushed();
                (flushes, dirty) = (flushes + 1, 0);
            }
        }
        answers.flushed();
        (flushes, dirty)
    }

    #[test]
    fn in_calm_turns_each_leaves_at_once() {
        let mut answers = Answers::default();
        assert_eq!(turn(&mut answers, 5), (5, 0));
        assert_eq!(turn(&mut answers, MANY - 1), (MANY - 1, 0));
        assert_eq!(turn(&mut answers, 1), (1, 0));
    }

    #[test]
    fn in_busy_ones_some_leave_together() {
        let mut answers = Answers::default();
        assert_eq!(turn(&mut answers, 100), (100, 0), "it was not known to be one");
        assert_eq!(turn(&mut answers, 100), (3, 4));
        assert_eq!(turn(&mut answers, 1), (0, 1));
        assert_eq!(turn(&mut answers, 1), (1, 0));
    }

    #[test]
    fn what_else_waits_is_left_to_the_end_of_the_turn() {
        let mut answers = Answers::default();
        answers.turn();
        assert!(!answers.is_due(2), "another connection is to be sent something");
        assert!(!answers.is_due(3));
        answers.flushed();
        assert!(answers.is_due(1));
    }
}
