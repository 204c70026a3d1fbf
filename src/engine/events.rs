//! What happens to connections, told to whoever listens (`tracing`), where the feature of that name is
//! on. Without it nothing is left of an event.
//!
//! The contract: an event for a connection's opening and end, for what a limit did, and for the
//! server's own doings; none per message.

/// An event of a level of `tracing`: `event!(warn, shard, "what happened")`.
macro_rules! event {
    ($level:ident, $($rest:tt)+) => {
        #[cfg(feature = "tracing")]
        tracing::$level!(target: "ringwire", $($rest)+);
    };
}

pub(super) use event;
