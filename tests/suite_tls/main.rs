//! The engine's tests within TLS: the bodies of `tests/suite` once more, with peers that speak TLS, and
//! those that are about TLS itself. Not those that count buffers, descriptors or refusals of a plain port.

/// Peers speak TLS.
pub const TLS: bool = true;

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

#[path = "../suite/admission.rs"]
mod admission;
#[path = "../suite/attacks.rs"]
mod attacks;
#[path = "../suite/backpressure.rs"]
mod backpressure;
#[path = "../suite/broadcast.rs"]
mod broadcast;
#[path = "../suite/callbacks.rs"]
mod callbacks;
#[path = "../suite/client_tls.rs"]
mod client_tls;
#[path = "../suite/closing.rs"]
mod closing;
#[path = "../suite/deadlines.rs"]
mod deadlines;
#[path = "../suite/deferred.rs"]
mod deferred;
#[allow(dead_code, reason = "a part is for modules that are not here")]
#[path = "../suite/far_end.rs"]
mod far_end;
#[path = "../suite/handshake.rs"]
mod handshake;
#[path = "../suite/http.rs"]
mod http;
#[path = "../suite/large.rs"]
mod large;
#[path = "../suite/lifetime.rs"]
mod lifetime;
#[path = "../suite/messages.rs"]
mod messages;
#[path = "../suite/metrics.rs"]
mod metrics;
#[path = "../suite/orders.rs"]
mod orders;
#[path = "../suite/overflow.rs"]
mod overflow;
#[allow(dead_code, reason = "a part is for modules that are not here")]
#[path = "../suite/peer.rs"]
mod peer;
#[path = "../suite/rates.rs"]
mod rates;
#[path = "../suite/remote.rs"]
mod remote;
#[allow(dead_code, reason = "a part is for modules that are not here")]
#[path = "../suite/service.rs"]
mod service;
#[path = "../suite/shutdown.rs"]
mod shutdown;
#[allow(dead_code, reason = "a part is for modules that are not here")]
#[path = "../suite/stage.rs"]
mod stage;
#[path = "../suite/streams.rs"]
mod streams;
#[path = "../suite/topics.rs"]
mod topics;
#[path = "../suite/users.rs"]
mod users;

// About TLS itself.
mod bad_input;
mod certificates;
mod client_role;
mod helped;
mod kernel;
mod sessions;
