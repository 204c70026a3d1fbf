//! How far one turn goes with messages that go to many, and how many of those that wait go together.
//!
//! Plain arithmetic on a core's numbers, for messages to all and for topics alike. The contract: whoever
//! has to say something else to a core is heard after so much.

use super::common::Common;

/// Bytes queued in one turn, beyond the last connection's.
const BYTES_PER_TURN: usize = 4 << 20;
/// Messages offered in one turn, and slots looked at, beyond the last connection's.
const STEPS_PER_TURN: usize = 16_384;
/// Messages of one pass.
const PASS_MESSAGES: usize = 256;
/// Payload bytes of one pass, unless its first message has more: what idle connections are sent at
/// once, and so no reason for their outboxes to be full.
const PASS_BYTES: usize = 64 << 10;

/// How far a turn may go.
#[derive(Debug)]
pub struct Budget {
    max_dirty: usize,
    max_outbox_bytes: usize,
    steps: usize,
}

impl Budget {
    /// That of a turn, beside what it has queued already.
    pub fn of_turn(common: &Common) -> Self {
        let sends = common.limits.max_broadcast_sends_per_turn.max(1) as usize;
        Self {
            max_dirty: common.dirty.len() + sends,
            max_outbox_bytes: common.outbox_bytes + BYTES_PER_TURN,
            steps: STEPS_PER_TURN,
        }
    }

    /// Whether the rest is for the next turn.
    pub fn is_spent(&self, common: &Common) -> bool {
        common.dirty.len() >= self.max_dirty
            || common.outbox_bytes >= self.max_outbox_bytes
            || self.steps == 0
    }

    /// Counts messages offered or slots looked at.
    pub fn spend(&mut self, steps: usize) {
        self.steps = self.steps.saturating_sub(steps);
    }
}

/// How many of the messages that wait, told by the length of their payloads, make up a pass.
pub fn pass_len(payloads: impl Iterator<Item = usize>) -> usize {
    let mut bytes = 0;
    let fits = |&(at, payload): &(usize, usize)| {
        bytes += payload;
        at == 0 || bytes <= PASS_BYTES
    };
    payloads.take(PASS_MESSAGES).enumerate().take_while(fits).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_has_room_for_one_message_of_any_length() {
        assert_eq!(pass_len([].into_iter()), 0);
        assert_eq!(pass_len([10 * PASS_BYTES, 1].into_iter()), 1);
        assert_eq!(pass_len([PASS_BYTES - 1, 1, 0, 1].into_iter()), 3);
        assert_eq!(pass_len([0; 1_000].into_iter()), PASS_MESSAGES);
    }
}
