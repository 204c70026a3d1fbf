//! What may go wrong in a simulated network, and how often.
//!
//! Plain data. The contract: every kind of fault has a counter in the world it strikes in, so that a
//! test can show that what it guards against did happen.

use std::ops::RangeInclusive;

/// How a [`SimNet`](super::SimNet) misbehaves. Rates are in tries per thousand (`_permille`).
///
/// ```
/// use ringwire::driver::sim::Faults;
/// let faults = Faults { split_permille: 1000, ..Faults::none() };
/// assert_eq!(faults.latency_ms, 0..=0);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults {
    /// Bytes are cut anywhere: a write arrives in segments, and what arrived is handed in pieces.
    /// Half of the cuts leave 8 bytes or fewer.
    pub split_permille: u16,
    /// Received bytes run over the end of one write into the next. Without it each
    /// [`SimPeer::write`](super::SimPeer::write) is received by itself.
    pub join_permille: u16,
    /// Each segment, FIN and reset is this long on its way. Order within a connection is kept.
    pub latency_ms: RangeInclusive<u32>,
    /// Bytes a connection may have on the way to the peer or unread there; beyond it sends wait.
    pub window_bytes: u32,
    /// A send is taken in pieces although there is room.
    pub short_write_permille: u16,
    /// A send completes [`lag_ms`](Self::lag_ms) after its last byte was taken.
    pub late_sent_permille: u16,
    /// A close completes `lag_ms` after it was asked for.
    pub late_closed_permille: u16,
    /// A FIN comes `lag_ms` later than it would.
    pub late_fin_permille: u16,
    /// How late the late ones are.
    pub lag_ms: RangeInclusive<u32>,
    /// Receive buffers there are, if fewer than the driver was configured with. 0 counts as 1.
    pub max_receive_buffers: u16,
    /// Accepting fails with `EMFILE`; the peer stays in the backlog.
    pub accept_failure_permille: u16,
    /// A connect to a listening address ends in `ETIMEDOUT`.
    pub connect_failure_permille: u16,
    /// A segment on its way, in either direction, is replaced by a reset of the connection.
    pub reset_permille: u16,
    /// A reset destroys what had arrived before it and was not yet taken; one that a driver causes
    /// by closing on unread bytes, what it had sent and was still on its way.
    pub reset_discards_permille: u16,
    /// A send fails with `EPIPE` and the connection is broken.
    pub send_error_permille: u16,
    /// A broken connection that is paused or at its end is reported at once, as epoll does, and
    /// not when receiving is resumed, as io_uring does.
    pub unarmed_failure_permille: u16,
    /// A wait ends early with nothing to show, or with a `Woken` nobody asked for.
    pub spurious_wake_permille: u16,
    /// Connections that are ready are served in a random order, and within one the outcome of a
    /// send may come before or after what was received.
    pub reorder_permille: u16,
    /// Bytes that could be handed over are kept for a later turn.
    pub hold_back_permille: u16,
    /// A core has its next turn `lag_ms` later than it could, as if its thread were not scheduled, while the
    /// others go on. Only in a [`Simulation`](crate::sim::Simulation) of several shards.
    pub late_core_permille: u16,
}

impl Faults {
    /// Nothing goes wrong: no latency, each write received by itself, a window of 1 MiB.
    pub fn none() -> Self {
        Self {
            split_permille: 0,
            join_permille: 0,
            latency_ms: 0..=0,
            window_bytes: 1 << 20,
            short_write_permille: 0,
            late_sent_permille: 0,
            late_closed_permille: 0,
            late_fin_permille: 0,
            lag_ms: 1..=5,
            max_receive_buffers: u16::MAX,
            accept_failure_permille: 0,
            connect_failure_permille: 0,
            reset_permille: 0,
            reset_discards_permille: 0,
            send_error_permille: 0,
            unarmed_failure_permille: 0,
            spurious_wake_permille: 0,
            reorder_permille: 0,
            hold_back_permille: 0,
            late_core_permille: 0,
        }
    }

    /// A good network on a good day: a little latency, some splits and joins, no failure.
    pub fn calm() -> Self {
        Self {
            split_permille: 50,
            join_permille: 500,
            latency_ms: 0..=2,
            window_bytes: 64 << 10,
            short_write_permille: 20,
            reorder_permille: 100,
            late_core_permille: 20,
            ..Self::none()
        }
    }

    /// Everything at once.
    pub fn rough() -> Self {
        Self {
            split_permille: 400,
            join_permille: 500,
            latency_ms: 0..=40,
            window_bytes: 4 << 10,
            short_write_permille: 300,
            late_sent_permille: 300,
            late_closed_permille: 300,
            late_fin_permille: 300,
            lag_ms: 0..=50,
            max_receive_buffers: 3,
            accept_failure_permille: 100,
            connect_failure_permille: 100,
            reset_permille: 10,
            reset_discards_permille: 500,
            send_error_permille: 10,
            unarmed_failure_permille: 500,
            spurious_wake_permille: 100,
            reorder_permille: 500,
            hold_back_permille: 200,
            late_core_permille: 100,
        }
    }

    /// The same without whatever breaks a connection, so that every byte must come through.
    pub fn without_errors(self) -> Self {
        Self { connect_failure_permille: 0, reset_permille: 0, send_error_permille: 0, ..self }
    }

    /// How often a kind of fault strikes.
    pub fn permille(&self, fault: Fault) -> u16 {
        match fault {
            Fault::Split => self.split_permille,
            Fault::Join => self.join_permille,
            Fault::ShortWrite => self.short_write_permille,
            Fault::LateSent => self.late_sent_permille,
            Fault::LateClosed => self.late_closed_permille,
            Fault::LateFin => self.late_fin_permille,
            Fault::AcceptFailure => self.accept_failure_permille,
            Fault::ConnectFailure => self.connect_failure_permille,
            Fault::Reset => self.reset_permille,
            Fault::ResetDiscards => self.reset_discards_permille,
            Fault::SendError => self.send_error_permille,
            Fault::UnarmedFailure => self.unarmed_failure_permille,
            Fault::SpuriousWake => self.spurious_wake_permille,
            Fault::Reorder => self.reorder_permille,
            Fault::HoldBack => self.hold_back_permille,
            Fault::LateCore => self.late_core_permille,
        }
    }
}

impl Default for Faults {
    fn default() -> Self {
        Self::none()
    }
}

/// A kind of fault that strikes by chance; each is described at its rate in [`Faults`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "described at the rates")]
pub enum Fault {
    Split,
    Join,
    ShortWrite,
    LateSent,
    LateClosed,
    LateFin,
    AcceptFailure,
    ConnectFailure,
    Reset,
    ResetDiscards,
    SendError,
    UnarmedFailure,
    SpuriousWake,
    Reorder,
    HoldBack,
    LateCore,
}

impl Fault {
    /// Every kind.
    pub const ALL: [Self; 16] = [
        Self::Split,
        Self::Join,
        Self::ShortWrite,
        Self::LateSent,
        Self::LateClosed,
        Self::LateFin,
        Self::AcceptFailure,
        Self::ConnectFailure,
        Self::Reset,
        Self::ResetDiscards,
        Self::SendError,
        Self::UnarmedFailure,
        Self::SpuriousWake,
        Self::Reorder,
        Self::HoldBack,
        Self::LateCore,
    ];

    /// As the trace names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Split => "fault: split",
            Self::Join => "fault: join",
            Self::ShortWrite => "fault: short write",
            Self::LateSent => "fault: late sent",
            Self::LateClosed => "fault: late closed",
            Self::LateFin => "fault: late fin",
            Self::AcceptFailure => "fault: accept failure",
            Self::ConnectFailure => "fault: connect failure",
            Self::Reset => "fault: reset",
            Self::ResetDiscards => "fault: reset discards",
            Self::SendError => "fault: send error",
            Self::UnarmedFailure => "fault: unarmed failure",
            Self::SpuriousWake => "fault: spurious wake",
            Self::Reorder => "fault: reorder",
            Self::HoldBack => "fault: hold back",
            Self::LateCore => "fault: late core",
        }
    }
}
