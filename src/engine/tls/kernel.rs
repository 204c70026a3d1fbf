//! TLS in the kernel: keys handed over between two sends, and the few records that still come up here.
//!
//! From then on the connection's bytes go the way of plain ones, messages answered out of their receive buffers
//! included. The contract: the sending half is handed over when all that was sealed here is in the
//! socket, the receiving half when nothing of the peer's records is kept here. Keys never change in the kernel:
//! where they would have to, the connection ends in good order.

use super::secures::Kernel;
use crate::driver::{Driver, Half, RecordCipher, RecordKeys, Token};
use crate::engine::Core;
use crate::engine::events::event;
use crate::engine::receive::Outcome;
use crate::engine::slot::{Entry, Flags, Phase};
use crate::handler::{CloseReason, Handler};
use crate::tls::{Connection, MAX_RECORD_BYTES, Opened, TlsFailure};
use rustls::ConnectionTrafficSecrets;
use std::io;

/// How often the kernel is asked to open records while some are half received: one flush each.
const RECEIVING_TRIES: u8 = 16;
/// Records under one sending key (RFC 8446 §5.5: 2^24.5 of AES-GCM).
const MAX_RECORDS: u32 = 1 << 24;

impl<D: Driver, H: Handler> Core<D, H> {
    /// Sends what is to be sent of a connection within TLS. False if what is queued can be sent as it
    /// is.
    pub(in crate::engine) fn flush_tls(&mut self, token: Token) -> bool {
        let is_amid = self.is_amid(token);
        let Some(side) = self.common.tls.side(token.slot) else { return false };
        match side.kernel {
            Kernel::Asked if !is_amid && side.connection.is_open() && !side.owes(false) => {
                self.hand_over_sending(token);
            }
            Kernel::Seals(1..) => self.hand_over_receiving(token),
            _ => {}
        }
        let Some((slot, _)) = self.table.get(token) else { return true };
        if !slot.entry.has(Entry::SEALED) {
            self.flush_sealed(token);
            return true;
        }
        self.count_records(token);
        self.flush_record(token)
    }

    /// Whether something is being sent, or a part of what is queued has been sealed here.
    fn is_amid(&mut self, token: Token) -> bool {
        let Some((slot, _)) = self.table.get(token) else { return true };
        self.common.existing_work(slot).is_some_and(|work| work.in_flight > 0 || work.queue.is_cut())
    }

    fn is_sending(&mut self, token: Token) -> bool {
        let Some((slot, _)) = self.table.get(token) else { return false };
        self.common.existing_work(slot).is_some_and(|work| work.in_flight > 0)
    }

    fn hand_over_sending(&mut self, token: Token) {
        if self.common.tls.kernel_has_none {
            return self.refuse(token, Kernel::Nothing);
        }
        match self.hand_over(token, Half::Sending) {
            Ok(()) => {
                let Some((slot, _)) = self.table.get(token) else { return };
                slot.entry.set(Entry::SEALED);
                self.common.stats.tls_kernel_sending.add(1);
                if let Some(side) = self.common.tls.side(token.slot) {
                    side.connection.leave_sealing();
                    side.kernel = Kernel::Seals(RECEIVING_TRIES);
                }
                self.hand_over_receiving(token);
            }
            Err(error) => {
                self.common.tls.kernel_has_none |=
                    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::Unsupported);
                self.refused(token, Kernel::Nothing, &error);
            }
        }
    }

    /// Or later, if the rest of a record is still to come.
    fn hand_over_receiving(&mut self, token: Token) {
        let Some(side) = self.common.tls.side(token.slot) else { return };
        let Kernel::Seals(tries) = side.kernel else { return };
        side.kernel = Kernel::Seals(tries - 1);
        let result = match side.kept.is_empty() {
            true => self.hand_over(token, Half::Receiving),
            false => Err(io::ErrorKind::WouldBlock.into()),
        };
        match result {
            Ok(()) => {
                let Some((slot, _)) = self.table.get(token) else { return };
                slot.entry.set(Entry::OPENED);
                self.common.stats.tls_kernel_receiving.add(1);
                if let Some(side) = self.common.tls.side(token.slot) {
                    side.kernel = Kernel::All;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && tries > 1 => {}
            Err(error) => self.refused(token, Kernel::Seals(0), &error),
        }
    }

    fn hand_over(&mut self, token: Token, half: Half) -> io::Result<()> {
        let Some(side) = self.common.tls.side(token.slot) else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let keys = side.connection.keys(half == Half::Sending);
        let Some(keys) =
            keys.and_then(|(is_tls13, sequence, secrets)| record_keys(is_tls13, sequence, secrets))
        else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        self.driver.hand_over(token, half, &keys)
    }

    #[cfg_attr(not(feature = "tracing"), expect(unused_variables, reason = "the error is for it alone"))]
    #[cold]
    fn refused(&mut self, token: Token, left: Kernel, error: &io::Error) {
        event!(warn, shard = self.common.shard, ?left, %error, "the kernel did not take TLS keys");
        self.refuse(token, left);
    }

    #[cold]
    fn refuse(&mut self, token: Token, left: Kernel) {
        self.common.stats.tls_kernel_refused.add(1);
        if let Some(side) = self.common.tls.side(token.slot) {
            side.kernel = left;
        }
    }

    /// Counts the records that the kernel makes of what is queued, generously. Too many end the connection.
    fn count_records(&mut self, token: Token) {
        let Some((slot, _)) = self.table.get(token) else { return };
        let (queued, phase) = (self.common.queued(slot), slot.phase);
        let Some(side) = self.common.tls.side(token.slot) else { return };
        let records = 1 + queued / MAX_RECORD_BYTES;
        side.kernel_records = side.kernel_records.saturating_add(records as u32);
        let is_over = matches!(phase, Phase::Finishing | Phase::Lingering | Phase::Closing);
        if side.kernel_records >= MAX_RECORDS && !is_over {
            let Some(mut party) = self.party(token) else { return };
            party.fail_tls(TlsFailure::KernelKeys);
        }
    }

    /// Sends a record that is not data, if one is owed.
    fn flush_record(&mut self, token: Token) -> bool {
        if self.is_sending(token) {
            return false;
        }
        let Some((slot, _)) = self.table.get(token) else { return true };
        let finishing = slot.phase == Phase::Finishing && self.common.queued(slot) == 0;
        let Some(side) = self.common.tls.side(token.slot) else { return true };
        if finishing && side.end() {
            side.connection.seal_end(side.failure.as_deref(), &mut Vec::new());
        }
        let Some((kind, content)) = side.connection.take_alert() else { return false };
        self.common.outbox_bytes += content.len();
        let tick = self.common.tick;
        let work = self.common.work(slot);
        (work.in_flight, work.write_since) = (content.len(), tick);
        self.sent.push(token);
        self.driver.send_record(token, kind, content.to_vec());
        true
    }

    /// A record came that is not data.
    pub(in crate::engine) fn on_record(&mut self, token: Token, kind: u8, content: &[u8]) {
        let Some(side) = self.common.tls.side(token.slot) else { return };
        let taken = side.connection.opened(kind, content);
        side.is_closed |= matches!(taken, Ok(Opened::Closed));
        let is_owing = side.connection.owes();
        let Some(mut party) = self.party(token) else { return };
        let is_over = matches!(party.slot.phase, Phase::Finishing | Phase::Lingering | Phase::Closing);
        let outcome = match taken {
            Ok(Opened::Closed) => Outcome::PeerClosed,
            Err(failure) if !is_over => party.fail_tls(failure),
            _ => Outcome::Continue,
        };
        if is_owing && let Some((slot, _)) = self.table.get(token) {
            self.common.mark_dirty(slot, token);
        }
        self.after_received(token, outcome);
    }

    /// The connection is broken, or what it received.
    pub(in crate::engine) fn on_failed(&mut self, token: Token, error: &io::Error) {
        let Some(mut party) = self.party(token) else { return };
        let is_over = matches!(party.slot.phase, Phase::Finishing | Phase::Lingering | Phase::Closing);
        if error.kind() != io::ErrorKind::InvalidData || !party.slot.flags.has(Flags::TLS) || is_over {
            return self.abort(token, CloseReason::Disconnected);
        }
        // Nothing follows of the peer; it is still told why.
        party.slot.flags.set(Flags::EOF);
        let outcome = party.fail_tls(Connection::bad_record());
        self.after_received(token, outcome);
    }
}

/// The keys as the driver takes them; `None` for a cipher that the kernel does not have.
fn record_keys(is_tls13: bool, sequence: u64, secrets: &ConnectionTrafficSecrets) -> Option<RecordKeys<'_>> {
    let (cipher, key, iv) = match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (RecordCipher::Aes128Gcm, key, iv),
        ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (RecordCipher::Aes256Gcm, key, iv),
        ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (RecordCipher::Chacha20Poly1305, key, iv),
        _ => return None,
    };
    let mut iv: [u8; 12] = iv.as_ref().try_into().ok()?;
    if !is_tls13
        && cipher != RecordCipher::Chacha20Poly1305
        && let Some(explicit) = iv.last_chunk_mut::<8>()
    {
        *explicit = unused_from(u64::from_be_bytes(*explicit), sequence).to_be_bytes();
    }
    Some(RecordKeys { is_tls13, cipher, key: key.as_ref(), iv, sequence })
}

/// The first of many nonces that no record has had. Those sealed here have had `base` xor their number,
/// for all numbers below `sequence`; the kernel counts up from the one it is given.
fn unused_from(base: u64, sequence: u64) -> u64 {
    let block = sequence.next_power_of_two() - 1;
    (base | block).wrapping_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonces_of_the_kernel_are_fresh() {
        for base in [0, 1, 6, 0xffff, u64::MAX, u64::MAX - 3, 0x1234_5678_9abc_def0] {
            for sequence in [0, 1, 2, 3, 4, 5, 100, 1_000] {
                let first = unused_from(base, sequence);
                let used: Vec<u64> = (0..sequence).map(|number| base ^ number).collect();
                for later in 0..2_000u64 {
                    assert!(!used.contains(&first.wrapping_add(later)), "{base:x} {sequence} {later}");
                }
            }
        }
    }
}
