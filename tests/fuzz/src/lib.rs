//! What the fuzz targets do with an input, one module per target.
//!
//! Each `run` takes arbitrary bytes and panics where a promise of the crate is broken. The contract:
//! an input is a history. No module reads a clock, a file or chance of its own (but for the time
//! guard of [`extension_header`]), so that an artifact fails again.

#![forbid(unsafe_code)]

pub mod client_answer;
pub mod deflate;
pub mod engine_sim;
pub mod extension_header;
pub mod frame_decode;
mod input;
mod model;
pub mod proxy_header;
pub mod request_head;
pub mod seeds;
pub mod session_ops;

#[path = "../../ws_support/mod.rs"]
mod ws_support;

/// A target's name and what it does with an input.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 8] = [
    ("client_answer", client_answer::run),
    ("deflate", deflate::run),
    ("engine_sim", engine_sim::run),
    ("extension_header", extension_header::run),
    ("frame_decode", frame_decode::run),
    ("proxy_header", proxy_header::run),
    ("request_head", request_head::run),
    ("session_ops", session_ops::run),
];
