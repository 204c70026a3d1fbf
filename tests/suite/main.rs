//! The engine's tests: one body for each, run on io_uring, on epoll and in the simulation.
//!
//! A body is a transcript between a [`Peer`](peer::Peer) that speaks raw bytes and the
//! [`Service`](service::Service) on a [`Stage`](stage::Stage). Where io_uring is denied its tests fail,
//! unless `RINGWIRE_SKIP_URING=1` says that this is known.

/// Whether peers speak TLS. Not here: `tests/suite_tls` runs the same bodies within TLS.
pub const TLS: bool = false;

/// Makes of each body a test on every driver.
macro_rules! on_every_driver {
    ($($(#[doc = $doc:literal])* fn $name:ident($on:ident) $body:block)+) => {
        $($(#[doc = $doc])* fn $name($on: crate::stage::On) $body)+

        on_every_driver!(@on uring Uring $($name)+);
        on_every_driver!(@on epoll Epoll $($name)+);
        on_every_driver!(@on sim Sim $($name)+);
    };
    (@on $module:ident $on:ident $($name:ident)+) => {
        mod $module {
            $(#[test]
            fn $name() {
                crate::stage::run(crate::stage::On::$on, super::$name);
            })+
        }
    };
}

mod addresses;
mod admission;
mod answers;
mod attacks;
mod backpressure;
mod broadcast;
mod broadcast_soak;
mod busy_poll;
mod callbacks;
#[allow(dead_code, reason = "within TLS more of it is used")]
mod client_tls;
mod closing;
mod cores;
mod cores_model;
mod deadlines;
mod deferred;
mod exhaustion;
mod far_end;
mod handshake;
mod http;
mod http_soak;
mod large;
mod ledger;
mod lifetime;
mod listener;
mod messages;
mod metrics;
mod orders;
mod outbound;
mod overflow;
#[allow(dead_code, reason = "within TLS more of it is used")]
mod peer;
mod proxy;
mod rates;
mod remote;
mod retained_cores_soak;
mod service;
mod shutdown;
mod soak;
mod stage;
mod streams;
mod topics;
mod topics_cores_soak;
mod topics_soak;
mod users;
